/*
 * job/codec_write_error -- why a value cannot be sent, and the path to it: "result.conn.sock: userdata (tcp{client}) cannot be sent".
 *
 * Room: job (may include job/codec_write.h, where its functions are declared).  Owns: nothing.
 * The path is read from the writer's frames and the keys that they keep on the Lua stack; it is made only when it is needed.
 */
#include "job/codec_write.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>

struct text {
  char *at;
  size_t left;
};

static void text_add(struct text *t, const char *part, size_t length) {
  if (t->left == 0) return;
  if (length > t->left - 1) length = t->left - 1;
  memcpy(t->at, part, length);
  t->at += length;
  t->left -= length;
  *t->at = '\0';
}

static int is_identifier(const char *text, size_t length) {
  static const char reserved[][9] = {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local",
                                     "nil", "not", "or", "repeat", "return", "then", "true", "until", "while", ""};
  if (length == 0 || (text[0] >= '0' && text[0] <= '9')) return 0;
  for (size_t i = 0; i < length; i++) {
    char ch = text[i];
    if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || ch == '_')) return 0;
  }
  for (int i = 0; *reserved[i]; i++)
    if (strlen(reserved[i]) == length && memcmp(reserved[i], text, length) == 0) return 0;
  return 1;
}

static void text_add_quoted(struct text *t, const char *string, size_t length) {
  char escape[8];
  text_add(t, "[\"", 2);
  for (size_t i = 0; i < length && i < 60; i++) {
    unsigned char ch = (unsigned char)string[i];
    if (ch >= 32 && ch != 127 && ch != '"' && ch != '\\') {
      text_add(t, (const char *)&string[i], 1);
    } else {
      int n = ch == '"' || ch == '\\' ? snprintf(escape, sizeof escape, "\\%c", ch) : snprintf(escape, sizeof escape, "\\%03d", ch);
      text_add(t, escape, (size_t)n);
    }
  }
  if (length > 60) text_add(t, "...", 3);
  text_add(t, "\"]", 2);
}

/* text_add_key -- the key at index as Lua would write the access to it. */
static void text_add_key(struct text *t, lua_State *L, int index) {
  char number[64];
  int n;
  size_t length;
  const char *string;
  switch (lua_type(L, index)) {
  case LUA_TSTRING:
    string = lua_tolstring(L, index, &length);
    if (!is_identifier(string, length)) {
      text_add_quoted(t, string, length);
      return;
    }
    text_add(t, ".", 1);
    text_add(t, string, length);
    return;
  case LUA_TNUMBER:
    n = lua_isinteger(L, index) ? snprintf(number, sizeof number, "[" LUA_INTEGER_FMT "]", lua_tointeger(L, index))
                                : snprintf(number, sizeof number, "[%.14g]", (double)lua_tonumber(L, index));
    break;
  case LUA_TBOOLEAN: n = snprintf(number, sizeof number, "[%s]", lua_toboolean(L, index) ? "true" : "false"); break;
  default: n = snprintf(number, sizeof number, "[%s]", luaL_typename(L, index));
  }
  text_add(t, number, (size_t)n);
}

/* text_add_function -- "upvalue 'db' of function <job.lua:12>" for the place where frame f is. */
static void text_add_function(struct text *t, lua_State *L, const struct write_frame *f) {
  lua_Debug about;
  char line[LUA_IDSIZE + 64];
  int is_environment = lua_istable(L, f->at + 1), n; /* (fields of which are being written) */
  const char *name = is_environment ? "_ENV" : lua_tostring(L, f->at + 1);
  lua_pushvalue(L, f->at);
  lua_getinfo(L, ">S", &about);
  n = snprintf(line, sizeof line, "%s '%.60s' of function <%s:%d>", f->phase == PHASE_NEXT || is_environment ? "upvalue" : "global",
               name ? name : "?", about.short_src, about.linedefined);
  text_add(t, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

/* text_add_path -- where the writer is, from the innermost function on. */
static void text_add_path(struct codec *c, struct text *t, lua_State *L) {
  size_t first = c->n_frames;
  while (first > 0 && c->frames[first - 1].kind != FRAME_FUNCTION) first--;
  if (first == 0) text_add(t, c->root, strlen(c->root));
  else text_add_function(t, L, &c->frames[first - 1]);
  for (size_t i = first; i < c->n_frames; i++) {
    const struct write_frame *f = &c->frames[i];
    if (c->n_frames - first > 24 && i == first + 8) {
      text_add(t, " ... ", 5);
      i = c->n_frames - 8;
      f = &c->frames[i];
    }
    if (f->kind == FRAME_USERDATA) text_add(t, "<saved>", 7);
    else if (f->phase == PHASE_METATABLE) text_add(t, "<metatable>", 11);
    else if (f->phase == PHASE_KEY) text_add(t, "<key>", 5);
    else text_add_key(t, L, f->at + 1);
  }
}

int writer_refuse(struct codec *c, lua_State *L, int status, const char *what, const char *detail) {
  struct text t = {c->message, sizeof c->message};
  text_add_path(c, &t, L);
  text_add(&t, ": ", 2);
  text_add(&t, what, strlen(what));
  if (detail) text_add(&t, detail, strlen(detail));
  return status;
}

int writer_refuse_value(struct codec *c, lua_State *L) {
  char what[128];
  const char *kind = luaL_typename(L, -1), *name = NULL;
  if (lua_type(L, -1) == LUA_TUSERDATA && lua_getmetatable(L, -1)) {
    lua_pushstring(L, "__name");
    lua_rawget(L, -2);
    if (lua_type(L, -1) == LUA_TSTRING) name = lua_tostring(L, -1);
    lua_remove(L, -2);
  } else {
    lua_pushnil(L);
  }
  if (lua_type(L, -2) == LUA_TTHREAD) kind = "coroutine";
  else if (lua_type(L, -2) == LUA_TLIGHTUSERDATA) kind = "light userdata";
  else if (lua_iscfunction(L, -2)) kind = "C function without a name";
  if (name) snprintf(what, sizeof what, "%s (%.60s) cannot be sent", kind, name);
  else snprintf(what, sizeof what, "%s cannot be sent", kind);
  lua_pop(L, 1);
  return writer_refuse(c, L, -EINVAL, what, NULL);
}
