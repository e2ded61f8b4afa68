/*
 * job/codec -- see codec.h. First the stream's alphabet and what both directions share, then the writer, then the reader.
 *
 * A value is a tag byte and what belongs to it; numbers are the machine's own bytes. Objects (tables, functions, userdata) are referred to
 * by the place of their tag in the stream: the writer marks the tag as "shared" in place when a second reference turns up, so that
 * the reader remembers only objects that it will be asked for.
 */
#include "job/codec.h"

#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "job/closure.h"
#include "job/names.h"

enum tag {
  TAG_NIL, TAG_FALSE, TAG_TRUE,
  TAG_INT32,       /* 4 bytes */
  TAG_INTEGER,     /* 8 bytes */
  TAG_FLOAT,       /* 8 bytes */
  TAG_STRING,      /* length (8 bytes), bytes */
  TAG_RUN_NIL,     /* count (4 bytes): only at the top level */
  TAG_RUN_INTEGER, /* count (4 bytes), count * 8 bytes: at the top level and in sequences */
  TAG_RUN_FLOAT,
  TAG_REFERENCE,   /* varint: place of a shared object's tag in the stream */
  TAG_NAME,        /* a name (job/names); it gets the next number */
  TAG_NAMED,       /* varint: number of a name that came before */
  TAG_DEFINE,      /* a name among the globals, then the value that is assigned to it */
  TAG_JOIN,        /* instead of an upvalue's value: varint place of a function, byte number of its upvalue that is the same variable */
  TAG_END,         /* after the last global of a function */
  TAG_TABLE = 0x20,    /* + flags; length of the sequence (4 bytes), number of pairs (4 bytes), sequence, pairs [, metatable] */
  TAG_RECORD = 0x28,   /* + flags; shape, one value for each key [, metatable] */
  TAG_FUNCTION = 0x30, /* + flags; number of upvalues (byte), code, upvalues, globals, TAG_END */
  TAG_USERDATA = 0x34, /* + flags; length (byte) and name of the class, what its save function returned */
  TAG_SMALL = 0x40,    /* + integer 0 .. 63 */
  TAG_SHORT = 0x80     /* + length 0 .. 127, bytes */
};
enum tag_flags { HAS_METATABLE = 1, IS_SHARED = 2, DEFINES_SHAPE = 4 };

enum {
  MAX_RECORD_KEYS = 32,      /* tables with more string keys are dictionaries, not records */
  MAX_SHAPE_KEY_BYTES = 40,  /* Lua interns strings up to this length: equal keys have equal addresses */
  MAX_SHAPES = 4096,         /* in one stream; a job whose tables never look alike must not fill memory with shapes */
  MAX_NIL_RUN = 4096,        /* no bytes back a run of nils, so damage must not make it endless */
  MESSAGE_BYTES = 512
};

/* What the registry keeps for a codec, in a table. */
enum anchor { ANCHOR_NAME_KEYS = 1, ANCHOR_SHAPE_KEYS, ANCHOR_READ_KEYS, ANCHOR_READ_NAMES, ANCHOR_FUNCTION, ANCHOR_SENT, ANCHOR_SAVED };

struct shape {
  uint32_t first_key; /* in codec.shape_keys (writer), in the table ANCHOR_READ_KEYS (reader) */
  uint32_t n_keys;
  uint32_t slot;      /* writer: its place in shape_slots */
};

/* An object or upvalue that was met in the present top-level value. */
struct seen {
  const void *pointer;
  uint64_t place;      /* of its tag (from the stream's start); of an upvalue: place of the function * 256 + number */
  uint32_t generation; /* entries of other generations are free */
  uint32_t is_open;    /* userdata whose saved value is being written: cannot be referred to yet */
};

enum frame_kind { FRAME_TABLE, FRAME_RECORD, FRAME_FUNCTION, FRAME_USERDATA, FRAME_DEFINE };
enum frame_phase { PHASE_NEXT, PHASE_KEY, PHASE_VALUE, PHASE_METATABLE, PHASE_GLOBALS, PHASE_GLOBAL };

/* An object that is being written; on the Lua stack from `at`: object, key (upvalue name, names of globals) [, value]. */
struct write_frame {
  unsigned char kind, phase, has_metatable, run_tag;
  int at;
  size_t tag_at; /* offsets in out */
  size_t run_at;
  uint32_t n_array, n_pairs; /* written so far; functions: upvalues, globals */
};

/* An object that is being read; on the Lua stack from `at`: object [, key]. */
struct read_frame {
  unsigned char kind, phase, has_metatable;
  int at;
  uint32_t n_array, n_pairs; /* still to come: sequence elements, pairs (record: keys; function: upvalues) */
  uint32_t index;            /* next element, key of the shape, or upvalue */
  uint32_t place_flag;       /* userdata: shared */
  uint64_t place;
  uint64_t owed;             /* bytes that the frames around this one need at least */
  const unsigned char *name; /* of FRAME_DEFINE and userdata */
};

struct mark {
  size_t length, run_at;
  int run_tag, is_stateful;
  uint32_t n_shapes, n_shape_keys, n_named;
};

struct codec {
  int is_busy;    /* inside a save or load function: no other use */
  int is_writing; /* inside codec_write: codec_rollback has something to undo */
  char message[MESSAGE_BYTES];
  /* writer */
  struct bytes *out;
  size_t start; /* of the stream in out */
  int flags;
  const char *root;
  int run_tag; /* the open top-level run */
  size_t run_at;
  int is_stateful;
  uint32_t stream, n_named;
  struct shape *shapes;
  uint32_t n_shapes, shapes_capacity, last_shape;
  const char **shape_keys;
  uint32_t n_shape_keys, shape_keys_capacity;
  uint32_t *shape_slots; /* 2 * MAX_SHAPES; shape number + 1 */
  struct seen *seen;
  size_t n_seen, seen_capacity;
  uint32_t generation;
  struct write_frame *frames;
  size_t n_frames, frames_capacity;
  struct mark mark;
  int has_sent, has_saved, sent_is_stale;
  struct names names;
  /* reader */
  uint32_t read_stream;
  struct shape *read_shapes;
  uint32_t n_read_shapes, read_shapes_capacity, n_read_keys, n_read_names;
  struct read_frame *read_frames;
  size_t n_read_frames, read_frames_capacity;
  int is_missing; /* a name of the present value could not be resolved */
};

/* ---- shared ------------------------------------------------------------------------------------------------ */

static int codec_gc(lua_State *L) {
  struct codec *c = lua_touserdata(L, 1);
  free(c->shapes);
  free(c->shape_keys);
  free(c->shape_slots);
  free(c->seen);
  free(c->frames);
  free(c->read_shapes);
  free(c->read_frames);
  names_free(&c->names);
  c->shapes = c->read_shapes = NULL;
  c->shape_keys = NULL;
  c->shape_slots = NULL;
  c->seen = NULL;
  c->frames = NULL;
  c->read_frames = NULL;
  c->n_shapes = c->shapes_capacity = c->shape_keys_capacity = c->read_shapes_capacity = c->n_read_shapes = 0;
  c->seen_capacity = c->frames_capacity = c->read_frames_capacity = 0;
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, c);
  return 0;
}

struct codec *codec_open(lua_State *L) {
  struct codec *c = lua_newuserdatauv(L, sizeof *c, 0);
  memset(c, 0, sizeof *c);
  names_init(&c->names);
  if (luaL_newmetatable(L, "luapool.codec")) {
    lua_pushcfunction(L, codec_gc);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  lua_createtable(L, ANCHOR_SAVED, 0);
  for (int i = ANCHOR_NAME_KEYS; i <= ANCHOR_SAVED; i++) {
    if (i == ANCHOR_FUNCTION) lua_pushboolean(L, 0);
    else lua_newtable(L);
    lua_rawseti(L, -2, i);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, c);
  c->generation = 1;
  return c;
}

const char *codec_message(const struct codec *c) {
  return c->message;
}

/* push_anchor -- push one of the codec's tables (or the named function). */
static void push_anchor(struct codec *c, lua_State *L, int which) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  lua_rawgeti(L, -1, which);
  lua_remove(L, -2);
}

/* renew_anchor -- replace one of the codec's tables by an empty one and push it. */
static void renew_anchor(struct codec *c, lua_State *L, int which) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawseti(L, -3, which);
  lua_remove(L, -2);
}

/* grow -- room for one more element of `size` bytes in a C array. Returns 0 or -ENOMEM (the array is as before). */
static int grow(void **array, uint32_t n, uint32_t *capacity, size_t size) {
  uint32_t wanted;
  void *memory;
  if (n < *capacity) return 0;
  wanted = *capacity ? *capacity + *capacity / 2 : 16;
  if (wanted < n + 1) wanted = n + 1;
  memory = realloc(*array, wanted * size);
  if (memory == NULL) return -ENOMEM;
  *array = memory;
  *capacity = wanted;
  return 0;
}

static int fail(struct codec *c, int status, const char *text) {
  snprintf(c->message, sizeof c->message, "%s", text);
  return status;
}

static int out_of_memory(struct codec *c) {
  return fail(c, -ENOMEM, "not enough memory");
}

void codec_name_function(struct codec *c, lua_State *L, int index) {
  if (index) index = lua_absindex(L, index);
  luaL_checkstack(L, 4, NULL);
  lua_rawgetp(L, LUA_REGISTRYINDEX, c);
  if (index) lua_pushvalue(L, index);
  else lua_pushboolean(L, 0);
  lua_rawgeti(L, -2, ANCHOR_FUNCTION);
  if (!lua_rawequal(L, -1, -2)) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, -4, ANCHOR_FUNCTION);
    names_free(&c->names); /* names of its upvalues are to be found without waiting for a miss */
  }
  lua_pop(L, 3);
}

void codec_register(lua_State *L, const char *name, int class_index, int save_index, int load_index) {
  class_index = lua_absindex(L, class_index);
  if (save_index) save_index = lua_absindex(L, save_index);
  if (load_index) load_index = lua_absindex(L, load_index);
  luaL_checkstack(L, 5, NULL);
  names_push_classes(L);
  lua_pushstring(L, name);
  lua_pushvalue(L, class_index);
  lua_rawset(L, -3);
  lua_pushvalue(L, class_index);
  lua_createtable(L, 3, 0);
  lua_pushstring(L, name);
  lua_rawseti(L, -2, 1);
  if (save_index) lua_pushvalue(L, save_index);
  else lua_pushboolean(L, 0);
  lua_rawseti(L, -2, 2);
  if (load_index) lua_pushvalue(L, load_index);
  else lua_pushboolean(L, 0);
  lua_rawseti(L, -2, 3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
}

/* ---- writer: bytes ----------------------------------------------------------------------------------------- */

static int put_varint(struct bytes *out, uint64_t value) {
  unsigned char text[10];
  size_t n = 0;
  while (value >= 0x80) {
    text[n++] = (unsigned char)(value | 0x80);
    value >>= 7;
  }
  text[n++] = (unsigned char)value;
  return bytes_append(out, text, n);
}

static int put_tag(struct bytes *out, int tag) {
  unsigned char byte = (unsigned char)tag;
  return bytes_append(out, &byte, 1);
}

static int put_string(struct bytes *out, const char *text, size_t length) {
  uint64_t wide = length;
  if (bytes_reserve(out, length < SIZE_MAX - 9 ? length + 9 : length) < 0) return -ENOMEM;
  if (length < 128) {
    out->data[out->length++] = (unsigned char)(TAG_SHORT + length);
  } else {
    out->data[out->length++] = TAG_STRING;
    memcpy(out->data + out->length, &wide, 8);
    out->length += 8;
  }
  if (length) memcpy(out->data + out->length, text, length);
  out->length += length;
  return 0;
}

static int put_integer(struct bytes *out, lua_Integer value) {
  if (bytes_reserve(out, 9) < 0) return -ENOMEM;
  if (value >= 0 && value < 64) {
    out->data[out->length++] = (unsigned char)(TAG_SMALL + value);
  } else if (value >= INT32_MIN && value <= INT32_MAX) {
    int32_t narrow = (int32_t)value;
    out->data[out->length++] = TAG_INT32;
    memcpy(out->data + out->length, &narrow, 4);
    out->length += 4;
  } else {
    out->data[out->length++] = TAG_INTEGER;
    memcpy(out->data + out->length, &value, 8);
    out->length += 8;
  }
  return 0;
}

static int put_float(struct bytes *out, lua_Number value) {
  if (bytes_reserve(out, 9) < 0) return -ENOMEM;
  out->data[out->length++] = TAG_FLOAT;
  memcpy(out->data + out->length, &value, 8);
  out->length += 8;
  return 0;
}

/* put_scalar -- append the nil, boolean, number or string at index. */
static int put_scalar(struct bytes *out, lua_State *L, int index, int type) {
  const char *text;
  size_t length;
  switch (type) {
  case LUA_TNIL: return put_tag(out, TAG_NIL);
  case LUA_TBOOLEAN: return put_tag(out, lua_toboolean(L, index) ? TAG_TRUE : TAG_FALSE);
  case LUA_TNUMBER:
    if (lua_isinteger(L, index)) return put_integer(out, lua_tointeger(L, index));
    return put_float(out, lua_tonumber(L, index));
  default:
    text = lua_tolstring(L, index, &length);
    return put_string(out, text, length);
  }
}

static int is_scalar(int type) {
  return type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TBOOLEAN || type == LUA_TNIL;
}

/* number_tag -- the kind of run for the number at index. */
static int number_tag(lua_State *L, int index) {
  return lua_isinteger(L, index) ? TAG_RUN_INTEGER : TAG_RUN_FLOAT;
}

/* put_number_bytes -- append the 8 bytes of a number; the caller reserved them. */
static inline void put_number_bytes(struct bytes *out, lua_State *L, int index, int tag) {
  if (tag == TAG_RUN_INTEGER) {
    lua_Integer integer = lua_tointeger(L, index);
    memcpy(out->data + out->length, &integer, 8);
  } else {
    lua_Number number = lua_tonumber(L, index);
    memcpy(out->data + out->length, &number, 8);
  }
  out->length += 8;
}

static inline uint32_t get_count(const unsigned char *at) {
  uint32_t count;
  memcpy(&count, at, 4);
  return count;
}

static inline void set_count(unsigned char *at, uint32_t count) {
  memcpy(at, &count, 4);
}

/* ---- writer: errors and their paths ------------------------------------------------------------------------ */

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
  static const char *const reserved[] = {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto",
                                         "if", "in", "local", "nil", "not", "or", "repeat", "return", "then", "true", "until", "while", NULL};
  if (length == 0 || (text[0] >= '0' && text[0] <= '9')) return 0;
  for (size_t i = 0; i < length; i++) {
    char ch = text[i];
    if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || ch == '_')) return 0;
  }
  for (int i = 0; reserved[i]; i++)
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
  const char *name = lua_tostring(L, f->at + 1);
  int n;
  lua_pushvalue(L, f->at);
  lua_getinfo(L, ">S", &about);
  n = snprintf(line, sizeof line, "%s '%.60s' of function <%s:%d>", f->phase == PHASE_NEXT ? "upvalue" : "global",
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

/* refuse -- the message "PATH: WHAT" for the value on top of the stack; detail may be NULL. */
static int refuse(struct codec *c, lua_State *L, int status, const char *what, const char *detail) {
  struct text t = {c->message, sizeof c->message};
  text_add_path(c, &t, L);
  text_add(&t, ": ", 2);
  text_add(&t, what, strlen(what));
  if (detail) text_add(&t, detail, strlen(detail));
  return status;
}

/* refuse_value -- "...: userdata (tcp{client}) cannot be sent". */
static int refuse_value(struct codec *c, lua_State *L) {
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
  return refuse(c, L, -EINVAL, what, NULL);
}

/* ---- writer: what was seen --------------------------------------------------------------------------------- */

static size_t hash_pointer(const void *pointer) {
  uint64_t bits = (uint64_t)(uintptr_t)pointer >> 4;
  bits *= UINT64_C(0x9E3779B97F4A7C15);
  return (size_t)(bits ^ (bits >> 29));
}

static int seen_grow(struct codec *c) {
  size_t capacity = c->seen_capacity ? c->seen_capacity * 2 : 64;
  struct seen *old = c->seen, *entries = calloc(capacity, sizeof *entries);
  if (entries == NULL) return -ENOMEM;
  for (size_t i = 0; i < c->seen_capacity; i++) {
    size_t slot;
    if (old[i].generation != c->generation) continue;
    slot = hash_pointer(old[i].pointer) & (capacity - 1);
    while (entries[slot].generation == c->generation) slot = (slot + 1) & (capacity - 1);
    entries[slot] = old[i];
  }
  free(old);
  c->seen = entries;
  c->seen_capacity = capacity;
  return 0;
}

/* seen_enter -- *entry is the entry of pointer; 1 if it was there, 0 if it is new (place is unset), -ENOMEM. Valid until the next call. */
static int seen_enter(struct codec *c, const void *pointer, struct seen **entry) {
  size_t slot;
  if (c->n_seen * 2 >= c->seen_capacity && seen_grow(c) < 0) return -ENOMEM;
  slot = hash_pointer(pointer) & (c->seen_capacity - 1);
  for (; c->seen[slot].generation == c->generation; slot = (slot + 1) & (c->seen_capacity - 1)) {
    if (c->seen[slot].pointer != pointer) continue;
    *entry = &c->seen[slot];
    return 1;
  }
  c->n_seen++;
  *entry = &c->seen[slot];
  (*entry)->pointer = pointer;
  (*entry)->generation = c->generation;
  (*entry)->is_open = 0;
  return 0;
}

static int seen_has(const struct codec *c, const void *pointer) {
  size_t slot;
  if (c->n_seen == 0) return 0;
  slot = hash_pointer(pointer) & (c->seen_capacity - 1);
  for (; c->seen[slot].generation == c->generation; slot = (slot + 1) & (c->seen_capacity - 1))
    if (c->seen[slot].pointer == pointer) return 1;
  return 0;
}

/* seen_clear -- forget all; keeps the memory unless one huge value made it huge. */
static void seen_clear(struct codec *c) {
  if (c->n_seen == 0) return;
  c->n_seen = 0;
  if (++c->generation == 0 || c->seen_capacity > ((size_t)1 << 20)) {
    free(c->seen);
    c->seen = NULL;
    c->seen_capacity = 0;
    c->generation = 1;
  }
}

static uint64_t place_of_end(const struct codec *c) {
  return c->out->length - c->start;
}

/*
 * write_reference -- if the object on top of the stack was met before, refer to it.
 * Returns 1: done; 0: it is new and stands at the present end of the stream; negative: failed.
 */
static int write_reference(struct codec *c, lua_State *L) {
  struct seen *entry;
  int is_known = seen_enter(c, lua_topointer(L, -1), &entry);
  if (is_known < 0) return out_of_memory(c);
  if (!is_known) {
    entry->place = place_of_end(c);
    return 0;
  }
  if (entry->is_open) return refuse(c, L, -EINVAL, "userdata that its own saved value contains cannot be sent", NULL);
  c->out->data[c->start + entry->place] |= IS_SHARED;
  if (put_tag(c->out, TAG_REFERENCE) < 0 || put_varint(c->out, entry->place) < 0) return out_of_memory(c);
  return 1;
}

/* push_frame -- begin the object on top of the stack, whose tag is at tag_at. Returns 1 (a frame was pushed) or a failure. */
static int push_frame(struct codec *c, lua_State *L, int kind, size_t tag_at) {
  struct write_frame *f;
  if (!lua_checkstack(L, 8)) return refuse(c, L, -EINVAL, "nested too deeply", NULL);
  if (c->n_frames == c->frames_capacity) {
    size_t capacity = c->frames_capacity ? c->frames_capacity * 2 : 32;
    f = realloc(c->frames, capacity * sizeof *f);
    if (f == NULL) return out_of_memory(c);
    c->frames = f;
    c->frames_capacity = capacity;
  }
  f = &c->frames[c->n_frames++];
  memset(f, 0, sizeof *f);
  f->kind = (unsigned char)kind;
  f->at = lua_gettop(L);
  f->tag_at = tag_at;
  return 1;
}

/* pop_frame -- the object is written: take it off the stack. */
static int pop_frame(struct codec *c, lua_State *L) {
  lua_settop(L, c->frames[--c->n_frames].at - 1);
  return 0;
}

/* ---- writer: names ----------------------------------------------------------------------------------------- */

/* find_name -- the verified name of the value on top of the stack; 0: it has none; negative: failed. */
static int64_t find_name(struct codec *c, lua_State *L) {
  int64_t found;
  if (!lua_checkstack(L, 16)) return refuse(c, L, -EINVAL, "nested too deeply", NULL);
  push_anchor(c, L, ANCHOR_NAME_KEYS);
  push_anchor(c, L, ANCHOR_FUNCTION);
  found = names_find(&c->names, L, lua_gettop(L) - 1, lua_gettop(L), lua_gettop(L) - 2);
  lua_pop(L, 2);
  return found < 0 ? out_of_memory(c) : found;
}

/* put_name -- a name where a value is expected: in full the first time, by number from then on. */
static int put_name(struct codec *c, lua_State *L, uint32_t number) {
  struct name *name = &c->names.list[number];
  int status;
  if (name->stream == c->stream) {
    if (put_tag(c->out, TAG_NAMED) < 0 || put_varint(c->out, name->id) < 0) return out_of_memory(c);
    return 0;
  }
  push_anchor(c, L, ANCHOR_NAME_KEYS);
  status = put_tag(c->out, TAG_NAME);
  if (status == 0) status = names_write(&c->names, L, lua_gettop(L), number, c->out);
  lua_pop(L, 1);
  if (status < 0) return out_of_memory(c);
  name->stream = c->stream;
  name->id = c->n_named++;
  return 0;
}

/*
 * goes_by_name -- is a table of this name sent by name also where it is a plain value, not a metatable? Modules and classes are,
 * data is not.
 */
static int goes_by_name(const struct codec *c, const struct name *name) {
  if (name->space == NAMES_CLASS) return 1;
  if (name->space == NAMES_LOADED && name->n_keys == 1) return 1;
  return name->is_class && !(name->space == NAMES_GLOBAL && (c->flags & CODEC_WITH_GLOBALS));
}

/* write_named_table -- 1: the table on top of the stack was sent by name; 0: it is to be sent by value; negative: failed. */
static int write_named_table(struct codec *c, lua_State *L) {
  int64_t found;
  uint32_t guess;
  if (c->names.n_slots == 0) { /* the first table ever: build the index */
    found = find_name(c, L);
    if (found < 0) return (int)found;
  }
  guess = names_peek(&c->names, lua_topointer(L, -1));
  if (guess == 0 || !goes_by_name(c, &c->names.list[guess])) return 0;
  found = find_name(c, L);
  if (found <= 0) return (int)found;
  if (!goes_by_name(c, &c->names.list[found])) return 0;
  found = put_name(c, L, (uint32_t)found);
  return found < 0 ? (int)found : 1;
}

/* push_sent -- push the table of what this stream has defined among the reader's globals: name -> value, table -> true. */
static void push_sent(struct codec *c, lua_State *L) {
  if (c->sent_is_stale) {
    renew_anchor(c, L, ANCHOR_SENT);
    c->sent_is_stale = 0;
  } else {
    push_anchor(c, L, ANCHOR_SENT);
  }
}

/* is_sent -- has this stream defined the table on top of the stack under a global name? If not, it has now. */
static int is_sent(struct codec *c, lua_State *L) {
  int known;
  push_sent(c, L);
  lua_pushvalue(L, -2);
  lua_rawget(L, -2);
  known = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (!known) {
    lua_pushvalue(L, -2);
    lua_pushboolean(L, 1);
    lua_rawset(L, -3);
    c->has_sent = 1;
  }
  lua_pop(L, 1);
  return known;
}

static int write_value(struct codec *c, lua_State *L);

/* write_metatable -- write the metatable on top of the stack. As write_value. */
static int write_metatable(struct codec *c, lua_State *L) {
  int64_t found = find_name(c, L);
  if (found < 0) return (int)found;
  if (found > 0) {
    const struct name *name = &c->names.list[found];
    int is_carried = name->space == NAMES_GLOBAL && (c->flags & CODEC_WITH_GLOBALS);
    /* If the table itself is on its way already, refer to it: over there the name means something else until it is whole. */
    if (is_carried && seen_has(c, lua_topointer(L, -1))) return write_value(c, L);
    if (!is_carried || is_sent(c, L)) {
      int status = put_name(c, L, (uint32_t)found);
      lua_pop(L, 1);
      return status;
    }
    /* The other side may have an older class of that name, or none: give it this one. */
    push_anchor(c, L, ANCHOR_NAME_KEYS);
    if (put_tag(c->out, TAG_DEFINE) < 0 || names_write(&c->names, L, lua_gettop(L), (uint32_t)found, c->out) < 0) return out_of_memory(c);
    lua_pop(L, 1);
  }
  return write_value(c, L);
}

/* ---- writer: shapes ---------------------------------------------------------------------------------------- */

static size_t hash_keys(const char *const *keys, uint32_t n) {
  uint64_t hash = n;
  for (uint32_t i = 0; i < n; i++) hash = (hash ^ (uint64_t)(uintptr_t)keys[i]) * UINT64_C(0x9E3779B97F4A7C15) + (hash >> 31);
  return (size_t)(hash ^ (hash >> 32));
}

static int is_shape(const struct codec *c, uint32_t number, const char *const *keys, uint32_t n) {
  const struct shape *s = &c->shapes[number];
  return s->n_keys == n && memcmp(c->shape_keys + s->first_key, keys, n * sizeof *keys) == 0;
}

/* find_shape -- the number of the shape with these keys, or -1; *slot is then where it belongs. */
static int64_t find_shape(struct codec *c, const char *const *keys, uint32_t n, uint32_t *slot) {
  if (c->last_shape < c->n_shapes && is_shape(c, c->last_shape, keys, n)) return c->last_shape;
  *slot = (uint32_t)(hash_keys(keys, n) & (2 * MAX_SHAPES - 1));
  for (; c->shape_slots && c->shape_slots[*slot]; *slot = (*slot + 1) & (2 * MAX_SHAPES - 1)) {
    uint32_t number = c->shape_slots[*slot] - 1;
    if (!is_shape(c, number, keys, n)) continue;
    c->last_shape = number;
    return number;
  }
  return -1;
}

static int reserve_shape(struct codec *c, uint32_t n) {
  if (c->shape_slots == NULL) c->shape_slots = calloc(2 * MAX_SHAPES, sizeof *c->shape_slots);
  if (c->shape_slots == NULL || grow((void **)&c->shapes, c->n_shapes, &c->shapes_capacity, sizeof *c->shapes) < 0) return -ENOMEM;
  return grow((void **)&c->shape_keys, c->n_shape_keys + n - 1, &c->shape_keys_capacity, sizeof *c->shape_keys);
}

/*
 * define_shape -- a new shape whose key strings are on the Lua stack at first, first + 2, ...
 * The strings are anchored: while the stream lasts no other string can come to their addresses.
 */
static int define_shape(struct codec *c, lua_State *L, const char *const *keys, uint32_t n, uint32_t slot, int first) {
  struct shape *s;
  if (reserve_shape(c, n) < 0) return out_of_memory(c);
  push_anchor(c, L, ANCHOR_SHAPE_KEYS);
  for (uint32_t i = 0; i < n; i++) {
    size_t length;
    const char *text;
    lua_pushvalue(L, first + 2 * (int)i);
    text = lua_tolstring(L, -1, &length);
    if (put_varint(c->out, length) < 0 || bytes_append(c->out, text, length) < 0) return out_of_memory(c);
    lua_rawseti(L, -2, (lua_Integer)c->n_shape_keys + i + 1);
    c->shape_keys[c->n_shape_keys + i] = keys[i];
  }
  lua_pop(L, 1);
  s = &c->shapes[c->n_shapes];
  s->first_key = c->n_shape_keys;
  s->n_keys = n;
  s->slot = slot;
  c->shape_slots[slot] = c->n_shapes + 1;
  c->last_shape = c->n_shapes++;
  c->n_shape_keys += n;
  return 0;
}

/* forget_shapes -- drop the latest shapes until n are left; in this order open addressing needs no tombstones. */
static void forget_shapes(struct codec *c, uint32_t n, uint32_t n_keys) {
  while (c->n_shapes > n) c->shape_slots[c->shapes[--c->n_shapes].slot] = 0;
  c->n_shape_keys = n_keys;
  c->last_shape = UINT32_MAX;
}

/* ---- writer: tables ---------------------------------------------------------------------------------------- */

/*
 * collect_record -- leave the pairs of the table at `at` on the stack, if it is a record: a few keys, all of them short strings.
 * Returns how many, or -1 (the stack is as before). *is_leaf: all values are scalars.
 */
static int collect_record(lua_State *L, int at, const char **keys, int *is_leaf) {
  int n = 0;
  *is_leaf = 1;
  lua_pushnil(L);
  while (lua_next(L, at)) {
    size_t length;
    if (n == MAX_RECORD_KEYS || lua_type(L, -2) != LUA_TSTRING) break;
    keys[n] = lua_tolstring(L, -2, &length);
    if (length > MAX_SHAPE_KEY_BYTES) break;
    if (!is_scalar(lua_type(L, -1))) *is_leaf = 0;
    n++;
    lua_pushvalue(L, -2);
  }
  if (n > 0 && lua_gettop(L) == at + 2 * n) return n;
  lua_settop(L, at);
  return -1;
}

/*
 * put_record_tag -- the tag and the shape of a record whose pairs are on the stack behind `at`. 0; 1: no more shapes in this stream;
 * negative.
 */
static int put_record_tag(struct codec *c, lua_State *L, int at, const char *const *keys, int n, int flags) {
  uint32_t slot = 0;
  int64_t shape = find_shape(c, keys, (uint32_t)n, &slot);
  if (shape < 0 && c->n_shapes == MAX_SHAPES) return 1;
  if (shape < 0) {
    if (put_tag(c->out, TAG_RECORD | DEFINES_SHAPE | flags) < 0 || put_varint(c->out, (uint64_t)n) < 0) return out_of_memory(c);
    return define_shape(c, L, keys, (uint32_t)n, slot, at + 1);
  }
  if (put_tag(c->out, TAG_RECORD | flags) < 0 || put_varint(c->out, (uint64_t)shape) < 0) return out_of_memory(c);
  return 0;
}

/* begin_record -- write the table on top of the stack as a record. As write_value; -1 (no failure): it is none. */
static int begin_record(struct codec *c, lua_State *L, int has_metatable, int *result) {
  const char *keys[MAX_RECORD_KEYS];
  int at = lua_gettop(L), is_leaf, n, status;
  size_t tag_at = c->out->length;
  if (!lua_checkstack(L, 2 * MAX_RECORD_KEYS + 8)) return -1;
  n = collect_record(L, at, keys, &is_leaf);
  if (n < 0) return -1;
  status = put_record_tag(c, L, at, keys, n, has_metatable);
  if (status == 1) {
    lua_settop(L, at);
    return -1;
  }
  *result = status;
  if (status < 0) return 0;
  if (is_leaf) {
    for (int i = 0; i < n; i++)
      if (put_scalar(c->out, L, at + 2 * i + 2, lua_type(L, at + 2 * i + 2)) < 0) *result = out_of_memory(c);
    if (*result < 0) return 0;
    lua_settop(L, at - (has_metatable ? 0 : 1));
    if (!has_metatable) return 0;
  }
  lua_settop(L, at);
  *result = push_frame(c, L, FRAME_RECORD, tag_at);
  if (*result < 0) return 0;
  lua_pushnil(L);
  c->frames[c->n_frames - 1].has_metatable = (unsigned char)has_metatable;
  if (is_leaf) c->frames[c->n_frames - 1].phase = PHASE_KEY; /* the pairs are written, the metatable is not */
  return 0;
}

/* begin_table -- as write_value, for the table on top of the stack. */
static int begin_table(struct codec *c, lua_State *L) {
  static const unsigned char no_counts[8];
  int status, has_metatable = lua_getmetatable(L, -1);
  size_t tag_at;
  if (has_metatable) lua_pop(L, 1);
  status = write_named_table(c, L);
  if (status == 0) status = write_reference(c, L);
  if (status < 0) return status;
  if (status == 1) {
    lua_pop(L, 1);
    return 0;
  }
  c->is_stateful = 1;
  if (begin_record(c, L, has_metatable, &status) == 0) return status;
  tag_at = c->out->length;
  if (put_tag(c->out, TAG_TABLE | has_metatable) < 0 || bytes_append(c->out, no_counts, 8) < 0) return out_of_memory(c);
  status = push_frame(c, L, FRAME_TABLE, tag_at);
  if (status < 0) return status;
  lua_pushnil(L);
  c->frames[c->n_frames - 1].has_metatable = (unsigned char)has_metatable;
  return 1;
}

/* finish_object -- all pairs are written (the key is off the stack): the metatable is next, or nothing. As step. */
static int finish_object(struct codec *c, lua_State *L, struct write_frame *f) {
  lua_settop(L, f->at);
  if (!f->has_metatable) return pop_frame(c, L);
  f->has_metatable = 0;
  f->phase = PHASE_METATABLE;
  lua_pushnil(L);
  if (!lua_getmetatable(L, f->at)) lua_newtable(L); /* a finalizer took it away meanwhile */
  return write_metatable(c, L);
}

/* close_run -- the run of numbers in a sequence is over; a single number is cheaper without a run. */
static int close_run(struct codec *c, struct write_frame *f) {
  struct bytes *out = c->out;
  int tag = f->run_tag, status;
  lua_Integer integer;
  lua_Number number;
  f->run_tag = 0;
  if (tag == 0 || get_count(out->data + f->run_at) != 1) return 0;
  memcpy(&integer, out->data + f->run_at + 4, 8);
  memcpy(&number, out->data + f->run_at + 4, 8);
  out->length = f->run_at - 1;
  status = tag == TAG_RUN_INTEGER ? put_integer(out, integer) : put_float(out, number);
  return status < 0 ? out_of_memory(c) : 0;
}

/*
 * write_numbers -- the number on top of the stack is the next element of a sequence: write it and those of its kind that follow.
 * Returns 1: another pair is on the stack; 0: that was the last (the stack ends with the table); negative: failed.
 */
static int write_numbers(struct codec *c, lua_State *L, struct write_frame *f) {
  struct bytes *out = c->out;
  int tag = number_tag(L, -1), more;
  uint32_t count = 0;
  if (f->run_tag != tag && close_run(c, f) < 0) return -ENOMEM;
  if (bytes_reserve(out, 13) < 0) return out_of_memory(c);
  if (f->run_tag != tag) {
    out->data[out->length] = (unsigned char)tag;
    f->run_at = out->length + 1;
    out->length += 5;
    f->run_tag = (unsigned char)tag;
  } else {
    count = get_count(out->data + f->run_at);
  }
  do {
    if (bytes_reserve(out, 8) < 0) return out_of_memory(c);
    put_number_bytes(out, L, -1, tag);
    count++;
    f->n_array++;
    lua_settop(L, f->at + 1);
    more = lua_next(L, f->at);
  } while (more && f->n_array < UINT32_MAX && lua_isinteger(L, -2) && lua_tointeger(L, -2) == (lua_Integer)f->n_array + 1 &&
           lua_type(L, -1) == LUA_TNUMBER && number_tag(L, -1) == tag);
  set_count(out->data + f->run_at, count);
  return more;
}

/* fill_holes -- write nils for the elements of a sequence that are missing before `next`. */
static int fill_holes(struct codec *c, struct write_frame *f, lua_Integer next) {
  if (close_run(c, f) < 0) return -ENOMEM;
  for (; (lua_Integer)f->n_array + 1 < next; f->n_array++)
    if (put_tag(c->out, TAG_NIL) < 0) return out_of_memory(c);
  return 0;
}

/* is_next_element -- does the key below the top continue the sequence (over a few holes perhaps)? Negative: failed. */
static int is_next_element(struct codec *c, lua_State *L, struct write_frame *f) {
  lua_Integer key;
  if (f->n_pairs || !lua_isinteger(L, -2)) return 0;
  key = lua_tointeger(L, -2);
  if (key == (lua_Integer)f->n_array + 1) return 1;
  if (key <= (lua_Integer)f->n_array || key >= UINT32_MAX || (lua_Unsigned)key > lua_rawlen(L, f->at)) return 0;
  return fill_holes(c, f, key) < 0 ? -ENOMEM : 1;
}

/* write_pair -- write the pair on the stack: element of the sequence, or key and value. 0; 1: a frame was pushed; negative: failed. */
static int write_pair(struct codec *c, lua_State *L, struct write_frame *f) {
  int status = is_next_element(c, L, f), type;
  if (status < 0) return status;
  if (close_run(c, f) < 0) return -ENOMEM;
  if (status == 1) {
    f->n_array++;
  } else {
    if (f->n_pairs++ == UINT32_MAX || f->n_array == UINT32_MAX) return refuse(c, L, -EMSGSIZE, "too many elements", NULL);
    type = lua_type(L, -2);
    if (!is_scalar(type)) { /* the value waits on the stack until the key is written */
      f->phase = PHASE_KEY;
      lua_pushvalue(L, -2);
      status = write_value(c, L);
      if (status != 0) return status;
      f->phase = PHASE_NEXT;
    } else if (put_scalar(c->out, L, -2, type) < 0) {
      return out_of_memory(c);
    }
  }
  return write_value(c, L);
}

/* step_table -- go on with a table until a child must be written first (1) or it is finished (0); negative: failed. */
static int step_table(struct codec *c, lua_State *L, struct write_frame *f) {
  int status = 0, more;
  if (f->phase == PHASE_METATABLE) return pop_frame(c, L);
  if (f->phase == PHASE_KEY) {
    f->phase = PHASE_NEXT;
    status = write_value(c, L);
    if (status != 0) return status;
  }
  more = lua_next(L, f->at);
  while (more) {
    if (lua_type(L, -1) == LUA_TNUMBER && f->n_pairs == 0 && lua_isinteger(L, -2) && lua_tointeger(L, -2) == (lua_Integer)f->n_array + 1) {
      more = write_numbers(c, L, f);
      if (more < 0) return more;
      continue;
    }
    status = write_pair(c, L, f);
    if (status != 0) return status;
    more = lua_next(L, f->at);
  }
  if (close_run(c, f) < 0) return -ENOMEM;
  set_count(c->out->data + f->tag_at + 1, f->n_array);
  set_count(c->out->data + f->tag_at + 5, f->n_pairs);
  return finish_object(c, L, f);
}

/* step_record -- as step_table, for a table whose keys are known by its shape. */
static int step_record(struct codec *c, lua_State *L, struct write_frame *f) {
  if (f->phase == PHASE_METATABLE) return pop_frame(c, L);
  if (f->phase != PHASE_KEY) {
    while (lua_next(L, f->at)) {
      int status = write_value(c, L);
      if (status != 0) return status;
    }
  }
  return finish_object(c, L, f);
}

/* ---- writer: functions and userdata ------------------------------------------------------------------------ */

struct scan_context {
  lua_State *L;
  int names; /* stack index of the set of names */
};

static void add_global_name(void *context, const char *text, size_t length) {
  struct scan_context *scan = context;
  lua_pushlstring(scan->L, text, length);
  lua_pushboolean(scan->L, 1);
  lua_rawset(scan->L, scan->names);
}

/*
 * scan_code -- what the function at `at`, whose dump begins at `dump` in out, does; with globals, their names go into the table on
 * top of the stack.
 */
static void scan_code(struct codec *c, lua_State *L, int at, size_t dump) {
  unsigned char is_environment[256] = {0};
  struct scan_context scan = {L, lua_gettop(L)};
  struct closure_report report;
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
  for (int i = 1; i < 256 && lua_getupvalue(L, at, i); i++) {
    is_environment[i - 1] = (unsigned char)lua_rawequal(L, -1, -2);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  closure_scan(c->out->data + dump, c->out->length - dump, is_environment,
               (c->flags & CODEC_WITH_GLOBALS) ? add_global_name : NULL, &scan, &report);
  if (report.sets_upvalues || !report.is_understood) c->is_stateful = 1;
}

static int begin_lua_function(struct codec *c, lua_State *L) {
  int at = lua_gettop(L), n = 0, status = write_reference(c, L);
  size_t tag_at = c->out->length;
  lua_Debug about;
  if (status < 0) return status;
  if (status == 1) {
    lua_pop(L, 1);
    return 0;
  }
  if (!lua_checkstack(L, 16)) return refuse(c, L, -EINVAL, "nested too deeply", NULL);
  lua_pushvalue(L, at);
  lua_getinfo(L, ">u", &about);
  n = about.nups;
  if (put_tag(c->out, TAG_FUNCTION) < 0 || put_tag(c->out, n) < 0 || closure_dump(L, c->out) < 0) return out_of_memory(c);
  status = push_frame(c, L, FRAME_FUNCTION, tag_at);
  if (status < 0) return status;
  lua_pushnil(L);
  lua_newtable(L);
  scan_code(c, L, at, tag_at + 2);
  return 1;
}

static int begin_function(struct codec *c, lua_State *L) {
  int64_t found = 0;
  /* Lua functions that were not known by name before are sent as code: building the index costs more. */
  if (lua_iscfunction(L, -1) || c->names.n_slots == 0 || names_peek(&c->names, lua_topointer(L, -1))) found = find_name(c, L);
  if (found < 0) return (int)found;
  if (found == 0 && lua_iscfunction(L, -1)) return refuse_value(c, L);
  if (found == 0) return begin_lua_function(c, L);
  found = put_name(c, L, (uint32_t)found);
  if (found == 0) lua_pop(L, 1);
  return (int)found;
}

/*
 * join_upvalue -- is upvalue n of the function at f->at a variable that was written before? Then refer to it (1); 0: no; negative:
 * failed.
 */
static int join_upvalue(struct codec *c, lua_State *L, struct write_frame *f, uint32_t n) {
  struct seen *entry;
  int is_known = seen_enter(c, lua_upvalueid(L, f->at, (int)n), &entry);
  uint64_t function;
  if (is_known < 0) return out_of_memory(c);
  if (!is_known) {
    entry->place = ((uint64_t)(f->tag_at - c->start) << 8) | n;
    return 0;
  }
  function = entry->place >> 8;
  c->out->data[c->start + function] |= IS_SHARED;
  if (put_tag(c->out, TAG_JOIN) < 0 || put_varint(c->out, function) < 0 || put_tag(c->out, (int)(entry->place & 255)) < 0)
    return out_of_memory(c);
  return 1;
}

/* is_wanted_global -- is the global (its name at f->at + 1, its value on top) to be sent, and not yet sent with this value? */
static int is_wanted_global(struct codec *c, lua_State *L, struct write_frame *f) {
  const char *name = lua_tostring(L, f->at + 1);
  int type = lua_type(L, -1), wanted;
  if (names_is_library(name)) {
    if (type == LUA_TNIL || lua_iscfunction(L, -1)) return 0;
    if (type == LUA_TTABLE && names_peek(&c->names, lua_topointer(L, -1)) && find_name(c, L) > 0) return 0;
  }
  push_sent(c, L);
  lua_pushvalue(L, f->at + 1);
  lua_rawget(L, -2);
  if (type == LUA_TNIL) wanted = lua_touserdata(L, -1) != c;
  else wanted = !lua_rawequal(L, -1, -3);
  lua_pop(L, 1);
  if (wanted) {
    lua_pushvalue(L, f->at + 1);
    if (type == LUA_TNIL) lua_pushlightuserdata(L, c); /* "nil was sent" */
    else lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    c->has_sent = 1;
  }
  lua_pop(L, 1);
  return wanted;
}

static int put_define(struct codec *c, lua_State *L, int name) {
  size_t length;
  const char *text = lua_tolstring(L, name, &length);
  unsigned char head[3] = {TAG_DEFINE, NAMES_GLOBAL, 1};
  if (bytes_append(c->out, head, 3) < 0 || put_varint(c->out, length) < 0 || bytes_append(c->out, text, length) < 0)
    return out_of_memory(c);
  return 0;
}

/* step_globals -- write the next globals that the function names. As step_table. */
static int step_globals(struct codec *c, lua_State *L, struct write_frame *f) {
  for (;;) {
    int status;
    lua_pushvalue(L, f->at + 1);
    if (!lua_next(L, f->at + 2)) break;
    lua_pop(L, 1);
    lua_replace(L, f->at + 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    lua_pushvalue(L, f->at + 1);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!is_wanted_global(c, L, f)) {
      lua_pop(L, 1);
      continue;
    }
    if (is_scalar(lua_type(L, -1))) c->is_stateful = 1;
    if (lua_type(L, -1) == LUA_TTABLE) is_sent(c, L);
    status = put_define(c, L, f->at + 1);
    if (status == 0) status = write_value(c, L);
    if (status != 0) return status;
  }
  if (put_tag(c->out, TAG_END) < 0) return out_of_memory(c);
  return pop_frame(c, L);
}

/* step_function -- upvalues, then globals. As step_table. */
static int step_function(struct codec *c, lua_State *L, struct write_frame *f) {
  const char *name;
  int status;
  while (f->phase == PHASE_NEXT && (name = lua_getupvalue(L, f->at, (int)f->n_array + 1)) != NULL) {
    lua_pushstring(L, name);
    lua_replace(L, f->at + 1);
    f->n_array++;
    status = join_upvalue(c, L, f, f->n_array);
    if (status == 1) {
      lua_pop(L, 1);
      continue;
    }
    if (status == 0) status = write_value(c, L);
    if (status != 0) return status;
  }
  if (f->phase == PHASE_NEXT) {
    f->phase = PHASE_GLOBALS;
    lua_pushnil(L);
    lua_replace(L, f->at + 1);
  }
  return step_globals(c, L, f);
}

/* push_class -- push the save function and the name of the class of the userdata at `at`. 1; 0: it has none, the stack is as before. */
static int push_class(lua_State *L, int at) {
  names_push_classes(L);
  if (lua_getmetatable(L, at) && lua_rawget(L, -2) == LUA_TTABLE && lua_rawgeti(L, -1, 2) == LUA_TFUNCTION) {
    lua_rawgeti(L, -2, 1);
    lua_replace(L, at + 1);
    lua_replace(L, at + 2);
    lua_settop(L, at + 2);
    lua_rotate(L, at + 1, 1);
    if (lua_rawlen(L, -1) <= 255) return 1;
  }
  lua_settop(L, at);
  return 0;
}

/* save -- call the save function below the class name on top of the stack; its result takes their place. 0 or a failure. */
static int save(struct codec *c, lua_State *L, int at) {
  lua_settop(L, at + 1);
  lua_pushvalue(L, at);
  if (!names_call(L, 1, &c->is_busy)) return refuse(c, L, -EINVAL, "the save function of its class failed: ", lua_tostring(L, -1));
  push_anchor(c, L, ANCHOR_SAVED); /* no other object may come to its address while this value is written */
  lua_pushvalue(L, -2);
  lua_rawseti(L, -2, ++c->has_saved);
  lua_pop(L, 1);
  return 0;
}

/* begin_userdata -- by name, or by the save function of its class: pushes what that returned. As write_value. */
static int begin_userdata(struct codec *c, lua_State *L) {
  int64_t found = find_name(c, L);
  const char *class_name;
  size_t length, tag_at;
  int status = 0, at = lua_gettop(L);
  struct seen *entry;
  if (found < 0) return (int)found;
  status = found > 0 ? put_name(c, L, (uint32_t)found) : write_reference(c, L);
  if (status < 0) return status;
  if (found > 0 || status == 1) {
    lua_pop(L, 1);
    return 0;
  }
  if (!lua_checkstack(L, 12)) return refuse(c, L, -EINVAL, "nested too deeply", NULL);
  if (!push_class(L, at)) return refuse_value(c, L);
  class_name = lua_tolstring(L, -1, &length);
  tag_at = c->out->length;
  if (put_tag(c->out, TAG_USERDATA) < 0 || put_tag(c->out, (int)length) < 0 || bytes_append(c->out, class_name, length) < 0)
    return out_of_memory(c);
  if (seen_enter(c, lua_topointer(L, at), &entry) == 1) entry->is_open = 1;
  status = save(c, L, at);
  if (status == 0) status = push_frame(c, L, FRAME_USERDATA, tag_at);
  if (status < 0) return status;
  c->frames[c->n_frames - 1].at = at;
  return 1;
}

/* step_userdata -- write what the save function returned. As step_table. */
static int step_userdata(struct codec *c, lua_State *L, struct write_frame *f) {
  struct seen *entry;
  if (f->phase == PHASE_NEXT) {
    int status;
    f->phase = PHASE_VALUE;
    status = write_value(c, L);
    if (status != 0) return status;
  }
  f = &c->frames[c->n_frames - 1];
  if (seen_enter(c, lua_topointer(L, f->at), &entry) == 1) entry->is_open = 0;
  return pop_frame(c, L);
}

/* ---- writer: the loop -------------------------------------------------------------------------------------- */

/*
 * write_value -- write the value on top of the stack, or begin to.
 * Returns 0: written and popped; 1: a frame was pushed for it, it stays on the stack until the frame is done; negative: failed.
 */
static int write_value(struct codec *c, lua_State *L) {
  int type = lua_type(L, -1);
  switch (type) {
  case LUA_TNIL:
  case LUA_TBOOLEAN:
  case LUA_TNUMBER:
  case LUA_TSTRING:
    if (put_scalar(c->out, L, -1, type) < 0) return out_of_memory(c);
    lua_pop(L, 1);
    return 0;
  case LUA_TTABLE: return begin_table(c, L);
  case LUA_TFUNCTION: return begin_function(c, L);
  case LUA_TUSERDATA: c->is_stateful = 1; return begin_userdata(c, L);
  default: return refuse_value(c, L);
  }
}

static int step(struct codec *c, lua_State *L) {
  struct write_frame *f = &c->frames[c->n_frames - 1];
  switch (f->kind) {
  case FRAME_TABLE: return step_table(c, L, f);
  case FRAME_RECORD: return step_record(c, L, f);
  case FRAME_FUNCTION: return step_function(c, L, f);
  default: return step_userdata(c, L, f);
  }
}

static void set_mark(struct codec *c) {
  c->mark.length = c->out->length;
  c->mark.run_at = c->run_at;
  c->mark.run_tag = c->run_tag;
  c->mark.is_stateful = c->is_stateful;
  c->mark.n_shapes = c->n_shapes;
  c->mark.n_shape_keys = c->n_shape_keys;
  c->mark.n_named = c->n_named;
  c->has_sent = 0;
  c->is_writing = 1;
}

/* write_object -- a top-level table, function or userdata. */
static int write_object(struct codec *c, lua_State *L, int index) {
  int status, top = lua_gettop(L);
  index = lua_absindex(L, index);
  if (!lua_checkstack(L, 20)) return fail(c, -EINVAL, "nested too deeply");
  c->n_frames = 0;
  seen_clear(c);
  names_expire(&c->names);
  if (c->has_saved) {
    renew_anchor(c, L, ANCHOR_SAVED);
    c->has_saved = 0;
    lua_settop(L, top);
  }
  lua_pushvalue(L, index);
  status = write_value(c, L);
  while (status >= 0 && c->n_frames > 0) status = step(c, L);
  lua_settop(L, top);
  return status < 0 ? status : 0;
}

/* write_object_anew -- what was refused may be part of a module that was loaded since the index of names was built: try with a new one. */
static int write_object_anew(struct codec *c, lua_State *L, int index) {
  codec_rollback(c);
  set_mark(c);
  names_free(&c->names);
  return write_object(c, L, index);
}

/* write_run -- a top-level number or nil: it joins the open run of its kind, or opens one. */
static int write_run(struct codec *c, lua_State *L, int index, int tag) {
  struct bytes *out = c->out;
  uint32_t count = 0;
  if (bytes_reserve(out, 13) < 0) return out_of_memory(c);
  if (c->run_tag == tag) count = get_count(out->data + c->run_at);
  if (c->run_tag != tag || count == (tag == TAG_RUN_NIL ? MAX_NIL_RUN : UINT32_MAX)) {
    out->data[out->length] = (unsigned char)tag;
    c->run_at = out->length + 1;
    out->length += 5;
    c->run_tag = tag;
    c->is_stateful = 1;
    count = 0;
  }
  if (tag != TAG_RUN_NIL) put_number_bytes(out, L, index, tag);
  set_count(out->data + c->run_at, count + 1);
  return 0;
}

void codec_begin(struct codec *c, struct bytes *out, int flags, const char *root) {
  if (c->is_busy) return; /* a save function that uses its own pool: codec_write will say so */
  c->out = out;
  c->start = out->length;
  c->flags = flags;
  c->root = root;
  c->run_tag = 0;
  c->is_stateful = 0;
  c->n_named = 0;
  c->stream++;
  c->sent_is_stale = 1;
  c->n_frames = 0;
  c->message[0] = '\0';
  if (c->n_shapes) forget_shapes(c, 0, 0);
  c->is_writing = 0;
}

/* join_run -- the number at index goes into the open run if there is room: 1; else 0 and nothing was done. */
static inline int join_run(struct codec *c, lua_State *L, int index, int tag) {
  struct bytes *out = c->out;
  uint32_t count = get_count(out->data + c->run_at);
  if (out->capacity - out->length < 8 || count == UINT32_MAX) return 0;
  put_number_bytes(out, L, index, tag);
  set_count(out->data + c->run_at, count + 1);
  return 1;
}

int codec_write(struct codec *c, lua_State *L, int index) {
  int status, type;
  if (c->run_tag == TAG_RUN_INTEGER && lua_isinteger(L, index) && join_run(c, L, index, TAG_RUN_INTEGER)) return 0;
  type = lua_type(L, index);
  if (c->run_tag == TAG_RUN_FLOAT && type == LUA_TNUMBER && !lua_isinteger(L, index) && join_run(c, L, index, TAG_RUN_FLOAT)) return 0;
  if (c->is_busy) return fail(c, -EINVAL, "a save or load function may not use the pool that called it");
  if (type == LUA_TNUMBER) return write_run(c, L, index, number_tag(L, index));
  if (type == LUA_TNIL) return write_run(c, L, index, TAG_RUN_NIL);
  set_mark(c);
  c->run_tag = 0;
  if (type != LUA_TFUNCTION) c->is_stateful = 1;
  if (is_scalar(type)) status = put_scalar(c->out, L, index, type) < 0 ? out_of_memory(c) : 0;
  else status = write_object(c, L, index);
  if (status == -EINVAL && !c->names.is_fresh) status = write_object_anew(c, L, index);
  if (status < 0) codec_rollback(c);
  c->is_writing = 0;
  return status;
}

void codec_rollback(struct codec *c) {
  if (!c->is_writing) return;
  c->is_writing = 0;
  c->n_frames = 0;
  c->out->length = c->mark.length;
  c->run_at = c->mark.run_at;
  c->run_tag = c->mark.run_tag;
  c->is_stateful = c->mark.is_stateful;
  if (c->n_shapes > c->mark.n_shapes) forget_shapes(c, c->mark.n_shapes, c->mark.n_shape_keys);
  if (c->n_named > c->mark.n_named) {
    for (uint32_t i = 1; i < c->names.n; i++)
      if (c->names.list[i].stream == c->stream && c->names.list[i].id >= c->mark.n_named) c->names.list[i].stream = 0;
    c->n_named = c->mark.n_named;
  }
  if (c->has_sent) c->sent_is_stale = 1;
}

int codec_is_stateless(const struct codec *c) {
  return !c->is_stateful;
}

/* ---- reader: bytes ----------------------------------------------------------------------------------------- */

/* What a reading function works on; tables on the Lua stack. */
struct reading {
  struct codec *c;
  lua_State *L;
  const unsigned char *at, *end, *start;
  int base;  /* stack: base + 1 keys of shapes, base + 2 resolved names, base + 3 shared objects of this value (or nil) */
};

enum { READ_KEYS = 1, READ_NAMES = 2, READ_SHARED = 3 };
enum { SMALL_SEQUENCE = 64 };

static int damaged(struct codec *c) {
  return fail(c, -EBADMSG, "damaged data");
}

static size_t left(const struct reading *r) {
  return (size_t)(r->end - r->at);
}

/* get_varint -- 0 or -EBADMSG. */
static int get_varint(struct reading *r, uint64_t *value) {
  *value = 0;
  for (int shift = 0; shift < 64 && r->at < r->end; shift += 7) {
    unsigned char byte = *r->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return 0;
  }
  return damaged(r->c);
}

static inline void push_number_bytes(lua_State *L, const unsigned char *at, int tag) {
  if (tag == TAG_RUN_INTEGER) {
    lua_Integer integer;
    memcpy(&integer, at, 8);
    lua_pushinteger(L, integer);
  } else {
    lua_Number number;
    memcpy(&number, at, 8);
    lua_pushnumber(L, number);
  }
}

/* read_wide -- push the scalar of a tag with a body of fixed or given length. 1: pushed; 0: not such a tag; -EBADMSG. */
static int read_wide(struct reading *r, int tag) {
  uint64_t length;
  if (tag == TAG_INT32) {
    int32_t narrow;
    if (left(r) < 4) return damaged(r->c);
    memcpy(&narrow, r->at, 4);
    r->at += 4;
    lua_pushinteger(r->L, narrow);
    return 1;
  }
  if (tag != TAG_INTEGER && tag != TAG_FLOAT && tag != TAG_STRING) return 0;
  if (left(r) < 8) return damaged(r->c);
  memcpy(&length, r->at, 8);
  if (tag != TAG_STRING) {
    push_number_bytes(r->L, r->at, tag == TAG_INTEGER ? TAG_RUN_INTEGER : TAG_RUN_FLOAT);
    r->at += 8;
    return 1;
  }
  r->at += 8;
  if (length > left(r)) return damaged(r->c);
  lua_pushlstring(r->L, (const char *)r->at, (size_t)length);
  r->at += length;
  return 1;
}

/* read_scalar -- push the next value if it is a scalar. 1: pushed; 0: it is not, nothing consumed; -EBADMSG. */
static inline int read_scalar(struct reading *r) {
  int tag, status;
  if (r->at == r->end) return damaged(r->c);
  tag = *r->at++;
  if (tag >= TAG_SHORT) {
    size_t length = (size_t)tag - TAG_SHORT;
    if (length > left(r)) return damaged(r->c);
    lua_pushlstring(r->L, (const char *)r->at, length);
    r->at += length;
    return 1;
  }
  if (tag >= TAG_SMALL) {
    lua_pushinteger(r->L, tag - TAG_SMALL);
    return 1;
  }
  if (tag <= TAG_TRUE) {
    if (tag == TAG_NIL) lua_pushnil(r->L);
    else lua_pushboolean(r->L, tag == TAG_TRUE);
    return 1;
  }
  status = read_wide(r, tag);
  if (status == 0) r->at--;
  return status;
}

/* ---- reader: objects --------------------------------------------------------------------------------------- */

/* remember -- the object on top of the stack, whose tag is at `place`, will be referred to. */
static void remember(struct reading *r, uint64_t place) {
  lua_State *L = r->L;
  if (lua_isnil(L, r->base + READ_SHARED)) {
    lua_newtable(L);
    lua_replace(L, r->base + READ_SHARED);
  }
  lua_pushvalue(L, -1);
  lua_rawseti(L, r->base + READ_SHARED, (lua_Integer)place);
}

/* push_remembered -- push the shared object at `place`, or nil. Returns its type. */
static int push_remembered(struct reading *r, uint64_t place) {
  if (lua_isnil(r->L, r->base + READ_SHARED)) {
    lua_pushnil(r->L);
    return LUA_TNIL;
  }
  return lua_rawgeti(r->L, r->base + READ_SHARED, (lua_Integer)place);
}

/* open_frame -- a frame for the object on top of the stack that needs at least `n` bytes more. 1 or negative. */
static int open_frame(struct reading *r, int kind, uint64_t n) {
  struct codec *c = r->c;
  struct read_frame *f, *outer = c->n_read_frames ? &c->read_frames[c->n_read_frames - 1] : NULL;
  uint64_t owed = outer ? outer->owed + outer->n_array + 2 * (uint64_t)outer->n_pairs : 0;
  if (n > left(r) || owed > left(r) - n) return damaged(c);
  if (!lua_checkstack(r->L, 12)) return fail(c, -EBADMSG, "nested too deeply");
  if (c->n_read_frames == c->read_frames_capacity) {
    uint32_t capacity = c->read_frames_capacity ? c->read_frames_capacity * 2 : 32;
    f = realloc(c->read_frames, capacity * sizeof *f);
    if (f == NULL) return luaL_error(r->L, "not enough memory");
    c->read_frames = f;
    c->read_frames_capacity = capacity;
  }
  f = &c->read_frames[c->n_read_frames++];
  memset(f, 0, sizeof *f);
  f->kind = (unsigned char)kind;
  f->at = lua_gettop(r->L) + 1; /* the object is pushed next */
  f->owed = owed;
  return 1;
}

static struct read_frame *top_frame(struct codec *c) {
  return &c->read_frames[c->n_read_frames - 1];
}

static int small_int(uint64_t n) {
  return n > INT_MAX / 64 ? INT_MAX / 64 : (int)n;
}

/* read_run -- a run of at most n numbers to table[index], ... Returns how many, or -EBADMSG. */
static int64_t read_run(struct reading *r, int table, uint32_t index, uint32_t n) {
  lua_State *L = r->L;
  int tag = *r->at++;
  uint32_t count;
  const unsigned char *at;
  if (left(r) < 4) return damaged(r->c);
  count = get_count(r->at);
  at = r->at + 4;
  if (count > n || count > (left(r) - 4) / 8) return damaged(r->c);
  for (uint32_t i = 0; i < count; i++, at += 8) {
    push_number_bytes(L, at, tag);
    lua_rawseti(L, table, (lua_Integer)index + i);
  }
  r->at = at;
  return count;
}

/* fill_sequence -- read runs and scalars to table[index], ... up to n. Returns how many there were before another object, or -EBADMSG. */
static int64_t fill_sequence(struct reading *r, int table, uint32_t index, uint32_t n) {
  uint32_t done = 0;
  while (done < n && r->at < r->end) {
    if (*r->at == TAG_RUN_INTEGER || *r->at == TAG_RUN_FLOAT) {
      int64_t count = read_run(r, table, index + done, n - done);
      if (count < 0) return count;
      done += (uint32_t)count;
    } else {
      int status = read_scalar(r);
      if (status < 0) return status;
      if (status == 0) break;
      lua_rawseti(r->L, table, (lua_Integer)index + done++);
    }
  }
  return done;
}

static int open_table(struct reading *r, int flags, uint64_t place) {
  uint32_t n_array, n_pairs;
  struct read_frame *f;
  int64_t done = 0;
  int status, is_small;
  if (left(r) < 8) return damaged(r->c);
  n_array = get_count(r->at);
  n_pairs = get_count(r->at + 4);
  r->at += 8;
  is_small = flags == 0 && n_pairs == 0 && n_array <= SMALL_SEQUENCE && n_array <= left(r);
  if (is_small) { /* mostly a few scalars: no frame */
    lua_createtable(r->L, (int)n_array, 0);
    done = fill_sequence(r, lua_gettop(r->L), 1, n_array);
    if (done < 0 || done == n_array) return done < 0 ? (int)done : 0;
  }
  status = open_frame(r, FRAME_TABLE, n_array - (uint64_t)done + 2 * (uint64_t)n_pairs);
  if (status < 0) return status;
  if (is_small) top_frame(r->c)->at--; /* the table is there already */
  else lua_createtable(r->L, small_int(n_array), small_int(n_pairs));
  if (flags & IS_SHARED) remember(r, place);
  f = top_frame(r->c);
  f->n_array = n_array - (uint32_t)done;
  f->n_pairs = n_pairs;
  f->index = 1 + (uint32_t)done;
  f->has_metatable = flags & HAS_METATABLE;
  return 1;
}

/* read_shape -- the keys of a new shape go into the reader's table of keys. 0 or negative. */
static int read_shape(struct reading *r) {
  struct codec *c = r->c;
  struct shape *s;
  uint64_t n, length;
  if (get_varint(r, &n) < 0 || n == 0 || n > MAX_RECORD_KEYS || c->n_read_shapes >= MAX_SHAPES) return damaged(c);
  if (grow((void **)&c->read_shapes, c->n_read_shapes, &c->read_shapes_capacity, sizeof *s) < 0)
    return luaL_error(r->L, "not enough memory");
  s = &c->read_shapes[c->n_read_shapes];
  s->first_key = c->n_read_keys + 1;
  s->n_keys = (uint32_t)n;
  for (uint32_t i = 0; i < n; i++) {
    if (get_varint(r, &length) < 0 || length > left(r)) return damaged(c);
    lua_pushlstring(r->L, (const char *)r->at, (size_t)length);
    lua_rawseti(r->L, r->base + READ_KEYS, (lua_Integer)s->first_key + i);
    r->at += length;
  }
  c->n_read_keys += (uint32_t)n;
  c->n_read_shapes++;
  return 0;
}

/* fill_record -- read scalars into the record on top of the stack from key i on. Returns how many keys are done, or -EBADMSG. */
static inline int64_t fill_record(struct reading *r, lua_Integer first_key, uint32_t i, uint32_t n) {
  lua_State *L = r->L;
  int table = lua_gettop(L);
  for (; i < n; i++) {
    int status;
    lua_rawgeti(L, r->base + READ_KEYS, first_key + i);
    status = read_scalar(r);
    if (status < 0) return status;
    if (status == 0) {
      lua_settop(L, table);
      break;
    }
    lua_rawset(L, table);
  }
  return i;
}

static int read_named(struct reading *r);

/* read_class -- the metatable of the table on top of the stack is one that was named before. 0 or negative. */
static int read_class(struct reading *r) {
  int status;
  r->at++;
  status = read_named(r);
  if (status < 0) return status;
  if (!lua_istable(r->L, -1) && !r->c->is_missing) return damaged(r->c);
  if (!lua_istable(r->L, -1)) lua_settop(r->L, -2), lua_pushnil(r->L);
  lua_setmetatable(r->L, -2);
  return 0;
}

/* open_record -- as read_item. */
static int open_record(struct reading *r, int flags, uint64_t place) {
  struct codec *c = r->c;
  struct read_frame *f;
  uint64_t number = c->n_read_shapes;
  const struct shape *s;
  int64_t done;
  int status = (flags & DEFINES_SHAPE) ? read_shape(r) : get_varint(r, &number);
  if (status < 0) return status;
  if (number >= c->n_read_shapes) return damaged(c);
  s = &c->read_shapes[number];
  if (s->n_keys > left(r)) return damaged(c);
  lua_createtable(r->L, 0, (int)s->n_keys);
  if (flags & IS_SHARED) remember(r, place);
  done = fill_record(r, s->first_key, 0, s->n_keys);
  if (done < 0) return (int)done;
  if (done == s->n_keys && !(flags & HAS_METATABLE)) return 0; /* most records hold scalars only and need no frame */
  if (done == s->n_keys && r->at < r->end && *r->at == TAG_NAMED) return read_class(r);
  status = open_frame(r, FRAME_RECORD, s->n_keys - (uint64_t)done);
  if (status < 0) return status;
  top_frame(c)->at--; /* the table is there already */
  f = top_frame(c);
  f->has_metatable = flags & HAS_METATABLE;
  f->index = (uint32_t)done;
  f->n_array = s->n_keys - (uint32_t)done;
  f->place = number;
  return 1;
}

static int open_function(struct reading *r, int flags, uint64_t place) {
  struct read_frame *f;
  uint32_t n;
  int status;
  if (left(r) < 1) return damaged(r->c);
  n = *r->at++;
  status = open_frame(r, FRAME_FUNCTION, n + (uint64_t)1);
  if (status < 0) return status;
  status = closure_load(r->L, &r->at, r->end);
  if (status < 0) return damaged(r->c);
  if (flags & IS_SHARED) remember(r, place);
  if (n > 0 && !lua_getupvalue(r->L, -1, (int)n)) return damaged(r->c);
  lua_settop(r->L, top_frame(r->c)->at);
  f = top_frame(r->c);
  f->n_array = n;
  f->index = 1;
  return 1;
}

static int open_userdata(struct reading *r, int flags, uint64_t place) {
  struct read_frame *f;
  int status;
  if (left(r) < 1 || left(r) - 1 < *r->at) return damaged(r->c);
  status = open_frame(r, FRAME_USERDATA, 1);
  if (status < 0) return status;
  f = top_frame(r->c);
  f->name = r->at;
  f->place_flag = flags & IS_SHARED;
  f->place = place;
  f->n_array = 1;
  r->at += *r->at + 1;
  lua_pushnil(r->L);
  return 1;
}

static int open_define(struct reading *r) {
  int status = open_frame(r, FRAME_DEFINE, 1);
  struct read_frame *f;
  if (status < 0) return status;
  f = top_frame(r->c);
  f->name = r->at;
  f->n_array = 1;
  lua_pushnil(r->L);
  return names_skip(&r->at, r->end) < 0 ? damaged(r->c) : 1;
}

/* read_name -- resolve a name that comes for the first time; what cannot be resolved is nil, and noted. As read_item. */
static int read_name(struct reading *r) {
  char missing[MESSAGE_BYTES];
  int status, function;
  if (!lua_checkstack(r->L, 12)) return fail(r->c, -EBADMSG, "nested too deeply");
  push_anchor(r->c, r->L, ANCHOR_FUNCTION);
  function = lua_gettop(r->L);
  status = names_resolve(r->L, &r->at, r->end, function, &r->c->is_busy, missing, sizeof missing);
  lua_remove(r->L, function);
  if (status == -EBADMSG) return damaged(r->c);
  if (status == -ENOENT && !r->c->is_missing) fail(r->c, 0, missing);
  if (status == -ENOENT) r->c->is_missing = 1;
  if (status == -ENOENT) lua_pushboolean(r->L, 0);
  else lua_pushvalue(r->L, -1);
  lua_rawseti(r->L, r->base + READ_NAMES, (lua_Integer)++r->c->n_read_names);
  return 0;
}

static int read_named(struct reading *r) {
  uint64_t number;
  if (get_varint(r, &number) < 0 || number >= r->c->n_read_names) return damaged(r->c);
  lua_rawgeti(r->L, r->base + READ_NAMES, (lua_Integer)number + 1);
  if (!lua_isboolean(r->L, -1)) return 0;
  if (!r->c->is_missing) fail(r->c, 0, "a name that this value needs is missing here (see the value before)");
  r->c->is_missing = 1;
  lua_pop(r->L, 1);
  lua_pushnil(r->L);
  return 0;
}

/* read_item -- push the next value, or open a frame for it (its object is pushed). 0: whole; 1: a frame was opened; negative. */
static int read_item(struct reading *r) {
  uint64_t place;
  int status = read_scalar(r), tag;
  if (status != 0) return status < 0 ? status : 0;
  place = (uint64_t)(r->at - r->start);
  tag = *r->at++;
  if (tag == TAG_REFERENCE) {
    if (get_varint(r, &place) < 0) return damaged(r->c);
    if (push_remembered(r, place) == LUA_TNIL && !r->c->is_missing) return damaged(r->c);
    return 0;
  }
  if (tag == TAG_NAME) return read_name(r);
  if (tag == TAG_NAMED) return read_named(r);
  if (tag == TAG_DEFINE) return open_define(r);
  if ((tag & ~3) == TAG_TABLE) return open_table(r, tag & 3, place);
  if ((tag & ~7) == TAG_RECORD) return open_record(r, tag & 7, place);
  if ((tag & ~2) == TAG_FUNCTION) return open_function(r, tag & 2, place);
  if ((tag & ~2) == TAG_USERDATA) return open_userdata(r, tag & 2, place);
  return damaged(r->c);
}

/* ---- reader: the loop -------------------------------------------------------------------------------------- */

/* set_pair -- table[key] = value for the two on top of the stack; nil and NaN cannot be keys (damage, or a missing name). */
static int set_pair(struct reading *r, int table) {
  lua_State *L = r->L;
  lua_Number key = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : 0;
  if (lua_isnil(L, -2) || key != key) {
    if (!r->c->is_missing) return damaged(r->c);
    lua_pop(L, 2);
    return 0;
  }
  lua_rawset(L, table);
  return 0;
}

/* close_object -- the metatable, if any, is next; else the object is whole. As step_read. */
static int close_object(struct reading *r, struct read_frame *f) {
  if (f->has_metatable) {
    f->has_metatable = 0;
    f->phase = PHASE_METATABLE;
    return read_item(r);
  }
  lua_settop(r->L, f->at);
  r->c->n_read_frames--;
  return 0;
}

static int read_table(struct reading *r, struct read_frame *f) {
  int64_t done;
  int status;
  while (f->n_array > 0) {
    if (r->at == r->end) return damaged(r->c);
    done = fill_sequence(r, f->at, f->index, f->n_array);
    if (done < 0) return (int)done;
    f->index += (uint32_t)done;
    f->n_array -= (uint32_t)done;
    if (f->n_array == 0) break;
    f->n_array--;
    status = read_item(r);
    if (status != 0) return status;
    lua_rawseti(r->L, f->at, f->index++);
  }
  while (f->n_pairs > 0 || f->phase == PHASE_KEY) {
    if (f->phase == PHASE_NEXT) {
      f->n_pairs--;
      f->phase = PHASE_KEY;
      status = read_item(r);
      if (status != 0) return status;
    }
    f->phase = PHASE_VALUE;
    status = read_item(r);
    if (status != 0) return status;
    f->phase = PHASE_NEXT;
    status = set_pair(r, f->at);
    if (status < 0) return status;
  }
  return close_object(r, f);
}

static int read_record(struct reading *r, struct read_frame *f) {
  uint32_t n = f->index + f->n_array, first_key = r->c->read_shapes[f->place].first_key;
  while (f->n_array > 0) {
    int64_t done = fill_record(r, first_key, f->index, n);
    int status;
    if (done < 0) return (int)done;
    f->index = (uint32_t)done;
    f->n_array = n - f->index;
    if (f->n_array == 0) break;
    f->n_array--;
    lua_rawgeti(r->L, r->base + READ_KEYS, (lua_Integer)first_key + f->index++);
    status = read_item(r);
    if (status != 0) return status;
    lua_rawset(r->L, f->at);
  }
  return close_object(r, f);
}

/* join -- upvalue f->index of the function being read is the same variable as one that was read before. 0 or negative. */
static int join(struct reading *r, struct read_frame *f) {
  lua_State *L = r->L;
  uint64_t place;
  int n;
  r->at++;
  if (get_varint(r, &place) < 0 || left(r) < 1) return damaged(r->c);
  n = *r->at++;
  if (push_remembered(r, place) != LUA_TFUNCTION || lua_iscfunction(L, -1) || n == 0) return damaged(r->c);
  if (!lua_getupvalue(L, -1, n)) return damaged(r->c);
  lua_pop(L, 1);
  lua_upvaluejoin(L, f->at, (int)f->index, -1, n);
  lua_pop(L, 1);
  return 0;
}

static int read_function(struct reading *r, struct read_frame *f) {
  int status;
  while (f->n_array > 0) {
    f->n_array--;
    if (r->at == r->end) return damaged(r->c);
    if (*r->at == TAG_JOIN) {
      status = join(r, f);
      if (status < 0) return status;
    } else {
      status = read_item(r);
      if (status != 0) return status;
      lua_setupvalue(r->L, f->at, (int)f->index);
    }
    f->index++;
  }
  f->phase = PHASE_GLOBALS;
  for (;;) {
    if (r->at == r->end) return damaged(r->c);
    if (*r->at == TAG_END) break;
    if (*r->at != TAG_DEFINE) return damaged(r->c);
    status = read_item(r);
    if (status != 0) return status;
    lua_pop(r->L, 1);
  }
  r->at++;
  return close_object(r, f);
}

/* close_userdata -- the saved value is on top of the stack: what the load function of the class makes of it is the object. */
static int close_userdata(struct reading *r, struct read_frame *f) {
  lua_State *L = r->L;
  struct codec *c = r->c;
  int at = f->at;
  names_push_classes(L);
  lua_pushlstring(L, (const char *)f->name + 1, *f->name);
  lua_rawget(L, -2);
  if (!lua_isnil(L, -1)) lua_rawget(L, -2);
  if (lua_istable(L, -1)) lua_rawgeti(L, -1, 3);
  if (!lua_isfunction(L, -1)) {
    if (!c->is_missing) snprintf(c->message, sizeof c->message, "class '%.*s' is not registered here", (int)*f->name,
                                  (const char *)f->name + 1);
    c->is_missing = 1;
    lua_settop(L, at);
    c->n_read_frames--;
    return 0;
  }
  lua_pushvalue(L, at + 1);
  if (!names_call(L, 1, &c->is_busy)) {
    snprintf(c->message, sizeof c->message, "the load function of class '%.*s' failed: %s", (int)*f->name, (const char *)f->name + 1,
             lua_tostring(L, -1));
    return -EBADMSG;
  }
  if (f->place_flag && !lua_isnil(L, -1)) remember(r, f->place);
  lua_replace(L, at);
  lua_settop(L, at);
  c->n_read_frames--;
  return 0;
}

static int read_userdata(struct reading *r, struct read_frame *f) {
  if (f->n_array > 0) {
    int status;
    f->n_array = 0;
    status = read_item(r);
    if (status != 0) return status;
  }
  return close_userdata(r, f);
}

/* read_define -- read the value, then assign it to its name among the globals. */
static int read_define(struct reading *r, struct read_frame *f) {
  const unsigned char *name = f->name;
  if (f->n_array > 0) {
    int status;
    f->n_array = 0;
    status = read_item(r);
    if (status != 0) return status;
  }
  lua_replace(r->L, f->at);
  lua_settop(r->L, f->at);
  if (names_define(r->L, &name, r->end) < 0) return damaged(r->c);
  r->c->n_read_frames--;
  return 0;
}

static int step_read(struct reading *r) {
  struct read_frame *f = top_frame(r->c);
  switch (f->kind) {
  case FRAME_TABLE: return read_table(r, f);
  case FRAME_RECORD: return read_record(r, f);
  case FRAME_FUNCTION: return read_function(r, f);
  case FRAME_USERDATA: return read_userdata(r, f);
  default: return read_define(r, f);
  }
}

/* take_child -- the object on top of the stack is whole: give it to the frame around it. 0 or negative. */
static int take_child(struct reading *r, struct read_frame *f) {
  lua_State *L = r->L;
  if (f->phase == PHASE_METATABLE) {
    if (!lua_istable(L, -1) && !(lua_isnil(L, -1) && r->c->is_missing)) return damaged(r->c);
    lua_setmetatable(L, f->at);
    return 0;
  }
  switch (f->kind) {
  case FRAME_TABLE:
    if (f->phase == PHASE_KEY) return 0; /* a composite key stays on the stack until its value has come */
    if (f->phase == PHASE_VALUE) {
      f->phase = PHASE_NEXT;
      return set_pair(r, f->at);
    }
    lua_rawseti(L, f->at, f->index++);
    return 0;
  case FRAME_RECORD: lua_rawset(L, f->at); return 0;
  case FRAME_FUNCTION:
    if (f->phase == PHASE_GLOBALS) lua_pop(L, 1);
    else lua_setupvalue(L, f->at, (int)f->index++);
    return 0;
  default: return 0; /* userdata, define: they look for it on the stack */
  }
}

/* read_object -- read one value to its end: it is on top of the stack. 0 or negative (the stack is the caller's to reset). */
static int read_object(struct reading *r) {
  struct codec *c = r->c;
  int status;
  c->n_read_frames = 0;
  c->is_missing = 0;
  status = read_item(r);
  while (status >= 0 && c->n_read_frames > 0) {
    status = step_read(r);
    /* 0: either the frame is gone and its object is for the frame around it, or the frame's metatable came as one item. */
    if (status == 0 && c->n_read_frames > 0) status = take_child(r, top_frame(c));
  }
  return status < 0 ? status : 0;
}

static void begin_reading(struct reading *r, struct codec *c, lua_State *L, struct codec_reader *place) {
  r->c = c;
  r->L = L;
  r->at = place->data;
  r->end = place->end;
  r->start = place->start;
  r->base = lua_gettop(L);
  luaL_checkstack(L, 20, "too many values");
  push_anchor(c, L, ANCHOR_READ_KEYS);
  push_anchor(c, L, ANCHOR_READ_NAMES);
  lua_pushnil(L);
}

void codec_read_begin(struct codec *c, struct codec_reader *r, const unsigned char *data, size_t length) {
  r->data = r->start = data;
  r->end = data + length;
  r->run_left = 0;
  r->run_tag = 0;
  r->stream = 0;
  if (c->is_busy) return; /* a load function that uses its own pool: codec_read will say so */
  r->stream = ++c->read_stream;
  c->n_read_shapes = c->n_read_keys = c->n_read_names = 0;
  c->message[0] = '\0';
}

/* check_reader -- may this reader go on? 0 or -EBADMSG. */
static int check_reader(struct codec *c, const struct codec_reader *r) {
  if (c->is_busy) return fail(c, -EBADMSG, "a save or load function may not use the pool that called it");
  if (r->stream != c->read_stream) return fail(c, -EBADMSG, "another stream was begun meanwhile");
  if (r->run_left == 0 && r->data == r->end) return fail(c, -EBADMSG, "end of data");
  return 0;
}

/* open_run -- if a top-level run begins here, enter it. 0 or -EBADMSG. */
static int open_run(struct codec *c, struct codec_reader *r) {
  uint32_t count;
  int tag = *r->data;
  if (tag < TAG_RUN_NIL || tag > TAG_RUN_FLOAT) return 0;
  if (r->end - r->data < 5) return damaged(c);
  count = get_count(r->data + 1);
  r->data += 5;
  if (count == 0 || count > (tag == TAG_RUN_NIL ? MAX_NIL_RUN : (size_t)(r->end - r->data) / 8)) return damaged(c);
  r->run_left = count;
  r->run_tag = tag;
  return 0;
}

static void push_of_run(lua_State *L, struct codec_reader *r) {
  r->run_left--;
  if (r->run_tag == TAG_RUN_NIL) {
    lua_pushnil(L);
    return;
  }
  push_number_bytes(L, r->data, r->run_tag);
  r->data += 8;
}

int codec_read(struct codec *c, lua_State *L, struct codec_reader *place) {
  struct reading r;
  int status = check_reader(c, place);
  if (status < 0) return status;
  if (place->run_left == 0) status = open_run(c, place);
  if (status < 0) return status;
  if (place->run_left > 0) {
    luaL_checkstack(L, 1, NULL);
    push_of_run(L, place);
    return 0;
  }
  begin_reading(&r, c, L, place);
  status = read_object(&r);
  if (status == 0 && c->is_missing) status = -ENOENT;
  if (status != -EBADMSG) place->data = r.at;
  if (status < 0) {
    lua_settop(L, r.base);
    return status;
  }
  lua_replace(L, r.base + 1);
  lua_settop(L, r.base + 1);
  return 0;
}

/* store_nil -- table[n] = nil without making a place for it. */
static void store_nil(lua_State *L, int table, lua_Integer n) {
  if (lua_rawgeti(L, table, n) != LUA_TNIL) {
    lua_pushnil(L);
    lua_rawseti(L, table, n);
  }
  lua_pop(L, 1);
}

/* store_run -- at most `count` values of the open run to table[first], ...; returns how many. */
static size_t store_run(lua_State *L, struct codec_reader *r, int table, lua_Integer first, size_t count) {
  const unsigned char *at = r->data;
  if (count > r->run_left) count = (size_t)r->run_left;
  if (r->run_tag == TAG_RUN_NIL) {
    for (size_t i = 0; i < count; i++) store_nil(L, table, first + (lua_Integer)i);
  } else if (r->run_tag == TAG_RUN_INTEGER) {
    for (size_t i = 0; i < count; i++, at += 8) {
      push_number_bytes(L, at, TAG_RUN_INTEGER);
      lua_rawseti(L, table, first + (lua_Integer)i);
    }
  } else {
    for (size_t i = 0; i < count; i++, at += 8) {
      push_number_bytes(L, at, TAG_RUN_FLOAT);
      lua_rawseti(L, table, first + (lua_Integer)i);
    }
  }
  r->data = at;
  r->run_left -= count;
  return count;
}

/* store_objects -- values that are in no run, until a run begins or `count` are stored. 0 or negative; *n is how many. */
static int store_objects(struct codec *c, lua_State *L, struct codec_reader *place, int table, lua_Integer first, size_t count, size_t *n) {
  struct reading r;
  int status = 0;
  begin_reading(&r, c, L, place);
  for (*n = 0; *n < count && r.at < r.end && (*r.at < TAG_RUN_NIL || *r.at > TAG_RUN_FLOAT); ++*n) {
    status = read_object(&r);
    if (status == 0 && c->is_missing) status = -ENOENT;
    if (status != -EBADMSG) place->data = r.at;
    if (status < 0) break;
    lua_rawseti(L, table, first + (lua_Integer)*n);
    if (!lua_isnil(L, r.base + READ_SHARED)) {
      lua_pushnil(L);
      lua_replace(L, r.base + READ_SHARED);
    }
  }
  lua_settop(L, r.base);
  return status;
}

int codec_read_array(struct codec *c, lua_State *L, struct codec_reader *r, int table_index, lua_Integer first, size_t count,
                     size_t *done) {
  size_t n = 0, part;
  int status = 0;
  table_index = lua_absindex(L, table_index);
  luaL_checkstack(L, 4, "too many values");
  if (done) *done = 0;
  while (n < count && status == 0) {
    status = check_reader(c, r);
    if (status == 0 && r->run_left == 0) status = open_run(c, r);
    if (status < 0) break;
    if (r->run_left > 0) part = store_run(L, r, table_index, first + (lua_Integer)n, count - n);
    else status = store_objects(c, L, r, table_index, first + (lua_Integer)n, count - n, &part);
    n += part;
    if (done) *done = n;
  }
  return status;
}
