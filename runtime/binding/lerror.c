/* binding/lerror -- see lerror.h. */
#include "binding/lerror.h"

#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <string.h>

#include "process/interrupt.h"

#define NS_PER_S 1e9

void lerror_set_string(lua_State *L, const char *name, const char *value) {
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

void lerror_set_integer(lua_State *L, const char *name, lua_Integer value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, name);
}

const char *lerror_signal(int signo) {
  static const struct { int signo; char name[8]; } names[] = {
    {SIGKILL, "SIGKILL"}, {SIGSEGV, "SIGSEGV"}, {SIGABRT, "SIGABRT"}, {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"}, {SIGILL, "SIGILL"},
    {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}, {SIGPIPE, "SIGPIPE"}, {SIGQUIT, "SIGQUIT"}, {SIGXCPU, "SIGXCPU"},
    {SIGALRM, "SIGALRM"}, {SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"}, {SIGTRAP, "SIGTRAP"}, {SIGSYS, "SIGSYS"}, {SIGIO, "SIGIO"}};
  size_t i;
  for (i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].signo == signo) return names[i].name;
  return NULL;
}

void lerror_push(lua_State *L, const struct pool_event *event) {
  lua_createtable(L, 0, 10);
  luaL_setmetatable(L, "luapool.Error");
  if (event == NULL) return;
  if (event->worker) lerror_set_integer(L, "worker", event->worker);
  if (event->pid) lerror_set_integer(L, "pid", event->pid);
}

void lerror_push_new(lua_State *L, const struct pool_event *event, const char *kind, const char *message) {
  lerror_push(L, event);
  lerror_set_string(L, "kind", kind);
  lerror_set_string(L, "message", message);
}

static void set_end(lua_State *L, const struct process_end *end) {
  const char *name = lerror_signal(end->signal);
  if (end->is_known && end->signal) {
    if (name) {
      lerror_set_string(L, "signal", name);
    } else {
      lua_pushfstring(L, "signal %d", end->signal);
      lua_setfield(L, -2, "signal");
    }
  } else if (end->is_known) {
    lerror_set_integer(L, "exitcode", end->exit_code);
  }
  if (end->max_rss_bytes) lerror_set_integer(L, "max_rss", (lua_Integer)end->max_rss_bytes);
}

/* Describe in words how a worker ended; leaves the text on the stack. */
static void push_end_text(lua_State *L, const struct pool_event *event) {
  const struct process_end *end = &event->end;
  const char *name = lerror_signal(end->signal);
  if (event->reason == POOL_DAMAGED) {
    lua_pushliteral(L, "the worker sent damaged data and was ended");
  } else if (!end->is_known) {
    lua_pushliteral(L, "the worker ended (how is not known: somebody else reaped it)");
  } else if (end->signal) {
    if (name) {
      lua_pushfstring(L, "the worker was killed by %s%s", name, end->dumped_core ? " (core dumped)" : "");
    } else {
      lua_pushfstring(L, "the worker was killed by signal %d", end->signal);
    }
  } else {
    lua_pushfstring(L, "the worker left with exit status %d", end->exit_code);
  }
  if (end->max_rss_bytes) {
    lua_pushfstring(L, "; its peak memory was %d MiB", (int)(end->max_rss_bytes >> 20));
    lua_concat(L, 2);
  }
}

/* Read the next value of an error record into field `name` of the table at the top. 0, or -EBADMSG. */
static int read_field(struct codec *codec, lua_State *L, struct codec_reader *reader, const char *name) {
  int status = codec_read(codec, L, reader);
  if (status == 0) {
    lua_setfield(L, -2, name);
  } else if (status != -ENOENT) {
    return -EBADMSG;
  }
  return 0;
}

/* The value of the record on top is the interrupt that somebody's signal to the worker became: that is how it ends. */
static void set_outside_signal(lua_State *L) {
  const char *name = NULL;
  if (lua_getfield(L, -1, "value") == LUA_TTABLE) {
    lua_pushliteral(L, "signal");
    if (lua_rawget(L, -2) == LUA_TSTRING) name = lua_tostring(L, -1);
    lua_pop(L, 1);
  }
  lua_pushstring(L, name ? name : "SIGTERM");
  lua_replace(L, -2);
  lua_pushfstring(L, "the worker was told to end by %s", lua_tostring(L, -1));
  lua_setfield(L, -3, "message");
  lua_setfield(L, -2, "signal");
  lerror_set_string(L, "kind", "crash");
  lerror_set_string(L, "value", NULL);
}

/* The worker does not know the call's limit, and says only that there was one: put it into words. */
static void word_timeout(lua_State *L, int64_t timeout_ns) {
  if (!lerror_is_kind(L, "timeout")) return;
  lua_getfield(L, -1, "value");
  if (luaL_getmetafield(L, -1, "__name") != LUA_TNIL) {
    lua_pop(L, 1);
    lua_pushfstring(L, "the item took longer than %f s", (lua_Number)timeout_ns / NS_PER_S);
    lua_setfield(L, -3, "message");
  }
  lua_pop(L, 1);
}

int lerror_push_record(struct codec *codec, lua_State *L, const struct pool_event *event, int64_t timeout_ns) {
  static const char *const fields[] = {"kind", "message", "traceback", "item", "value", "seconds"};
  struct codec_reader reader;
  size_t i;
  lerror_push(L, event);
  codec_read_begin(codec, &reader, event->data, event->length);
  for (i = 0; i < sizeof fields / sizeof *fields; i++) {
    if (read_field(codec, L, &reader, fields[i]) == 0) continue;
    lua_pop(L, 1);
    return -EBADMSG;
  }
  if (lua_getfield(L, -1, "kind") != LUA_TSTRING) {
    lua_pop(L, 2);
    return -EBADMSG;
  }
  lua_pop(L, 1);
  if (lerror_is_kind(L, "interrupt")) set_outside_signal(L);
  if (lerror_is_kind(L, "serialize")) lerror_set_string(L, "value", NULL); /* the message is ours: nobody raised it */
  word_timeout(L, timeout_ns);
  return 0;
}

/* Where the worker was when it died, as it wrote down itself: a traceback. Its bytes are not believed to be a text. */
static void set_last_words(lua_State *L, const struct pool_event *event) {
  size_t length = event->words ? strnlen(event->words, BOARD_WORDS_BYTES) : 0, i;
  luaL_Buffer b;
  if (length == 0) return;
  luaL_buffinit(L, &b);
  luaL_addstring(&b, "stack traceback:");
  for (i = 0; i < length; i++) {
    unsigned char c = (unsigned char)event->words[i];
    luaL_addchar(&b, (c < ' ' && c != '\n' && c != '\t') || c == 127 ? '?' : (char)c);
  }
  luaL_pushresult(&b);
  lua_setfield(L, -2, "traceback");
}

void lerror_push_lost(lua_State *L, const struct pool_event *event, int64_t timeout_ns) {
  int is_timeout = event->reason == INTERRUPT_TIMEOUT;
  lerror_push(L, event);
  lerror_set_string(L, "kind", is_timeout ? "timeout" : "crash");
  set_end(L, &event->end);
  if (!is_timeout) set_last_words(L, event);
  if (is_timeout) {
    lua_pushfstring(L, "the item took longer than %f s and did not stop when asked", (lua_Number)timeout_ns / NS_PER_S);
  } else {
    push_end_text(L, event);
  }
  lua_setfield(L, -2, "message");
}

void lerror_push_unready(struct codec *codec, lua_State *L, const struct pool_event *event) {
  if (event->length == 0 || lerror_push_record(codec, L, event, 0) < 0) {
    lerror_push(L, event);
    lerror_set_string(L, "kind", "crash");
    set_end(L, &event->end);
    set_last_words(L, event);
    lua_pushliteral(L, "workers die before they are ready: ");
    push_end_text(L, event);
    lua_concat(L, 2);
  } else {
    lua_pushliteral(L, "on_start failed: ");
    lua_getfield(L, -2, "message");
    luaL_tolstring(L, -1, NULL);
    lua_remove(L, -2);
    lua_concat(L, 2);
  }
  lua_setfield(L, -2, "message");
}

int lerror_is_kind(lua_State *L, const char *kind) {
  int result;
  lua_getfield(L, -1, "kind");
  result = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), kind) == 0;
  lua_pop(L, 1);
  return result;
}

static char quiet_key; /* its address is the key in the registry */

void lerror_set_quiet(lua_State *L, int is_quiet) {
  lua_pushboolean(L, is_quiet);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &quiet_key);
}

static char log_key;

struct log {
  void (*say)(void *context, const char *text);
  void *context;
};

void lerror_set_log(lua_State *L, void (*say)(void *context, const char *text), void *context) {
  struct log *log = lua_newuserdatauv(L, sizeof *log, 0);
  log->say = say;
  log->context = context;
  lua_rawsetp(L, LUA_REGISTRYINDEX, &log_key);
}

/* 1: somebody wanted to be told. Without allocating: it may be the collector who has something to say. */
static int say_to_log(lua_State *L, const char *what, const char *detail) {
  const struct log *log;
  char text[512];
  lua_rawgetp(L, LUA_REGISTRYINDEX, &log_key);
  log = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (log == NULL) return 0;
  snprintf(text, sizeof text, "%s%s", what, detail ? detail : "");
  log->say(log->context, text);
  return 1;
}

void lerror_warn(lua_State *L, const char *what, const char *detail) {
  int is_quiet = lua_rawgetp(L, LUA_REGISTRYINDEX, &quiet_key) == LUA_TBOOLEAN && lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (is_quiet || say_to_log(L, what, detail)) return;
  lua_warning(L, "luapool: ", 1);
  lua_warning(L, what, 1);
  lua_warning(L, detail, 0);
}
