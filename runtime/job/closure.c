/* job/closure -- see closure.h. */
#include "job/closure.h"

#include <errno.h>
#include <string.h>

#include "base/hash.h"

/* The head of a dumped function in the stream: length and checksum, 8 bytes each. */
enum { HEAD_BYTES = 16 };

/* ---- dump and load ----------------------------------------------------------------------------------------- */

static int append(lua_State *L, const void *data, size_t length, void *out) {
  (void)L;
  return bytes_append(out, data, length);
}

int closure_dump(lua_State *L, struct bytes *out) {
  static const unsigned char no_head[HEAD_BYTES];
  size_t head = out->length;
  uint64_t length, sum;
  if (bytes_append(out, no_head, HEAD_BYTES) < 0 || lua_dump(L, append, out, 0) != 0) return -ENOMEM;
  length = out->length - head - HEAD_BYTES;
  sum = hash_bytes(0, out->data + head + HEAD_BYTES, (size_t)length);
  memcpy(out->data + head, &length, 8);
  memcpy(out->data + head + 8, &sum, 8);
  return 0;
}

struct load_source {
  const char *data;
  size_t length;
};

static const char *next_piece(lua_State *L, void *context, size_t *length) {
  struct load_source *source = context;
  const char *data = source->data;
  (void)L;
  *length = source->length;
  source->data = NULL;
  source->length = 0;
  return data;
}

int closure_load(lua_State *L, const unsigned char **at, const unsigned char *end) {
  uint64_t length, sum;
  struct load_source source;
  int status;
  if (end - *at < HEAD_BYTES) return -EBADMSG;
  memcpy(&length, *at, 8);
  memcpy(&sum, *at + 8, 8);
  if (length > (size_t)(end - *at) - HEAD_BYTES || hash_bytes(0, *at + HEAD_BYTES, (size_t)length) != sum) return -EBADMSG;
  source.data = (const char *)*at + HEAD_BYTES;
  source.length = (size_t)length;
  *at += HEAD_BYTES + length;
  status = lua_load(L, next_piece, &source, "=stream", "b");
  if (status == LUA_OK) return 0;
  if (status == LUA_ERRMEM) return lua_error(L);
  lua_pop(L, 1);
  return -EBADMSG;
}

/* ---- what the code says ------------------------------------------------------------------------------------ */

/* Lua 5.4's dump: ldump.c, lopcodes.h. Only what is needed to find out which names are looked up in the globals. */
enum {
  OP_LOADK = 3, OP_LOADKX = 4, OP_GETUPVAL = 9, OP_SETUPVAL = 10, OP_GETTABUP = 11, OP_GETTABLE = 12, OP_GETFIELD = 14, OP_SELF = 20,
  CONSTANT_INTEGER = 0x03, CONSTANT_SHORT_STRING = 0x04, CONSTANT_FLOAT = 0x13, CONSTANT_LONG_STRING = 0x14,
  HEADER_BYTES = 4 + 1 + 1 + 6 + 3 + sizeof(lua_Integer) + sizeof(lua_Number) + 1,
  GLOBALS = 1, /* the number of that environment */
  MAX_NESTING = 200 /* functions within functions: the limit of Lua's own compiler is lower */
};

struct scan {
  const unsigned char *at, *end;
  int is_damaged;
  void (*name)(void *context, int environment, const char *text, size_t length);
  void *context;
  struct closure_report *report;
};

/* One function of the dump: where its parts are. */
struct prototype {
  const unsigned char *code, *constants;
  uint64_t n_code, n_constants;
  unsigned char environment[256]; /* upvalues: the number of the environment that each is, or 0 */
  unsigned char holds_globals[256]; /* registers that the table of globals is copied to somewhere in the code */
};

static uint64_t scan_size(struct scan *s) {
  uint64_t value = 0;
  while (s->at < s->end && value < UINT64_MAX >> 8) {
    unsigned char byte = *s->at++;
    value = (value << 7) | (byte & 0x7f);
    if (byte & 0x80) return value;
  }
  s->is_damaged = 1;
  return 0;
}

static void scan_skip(struct scan *s, uint64_t n, size_t size) {
  if (s->is_damaged || n > (size_t)(s->end - s->at) / size) {
    s->is_damaged = 1;
    s->at = s->end;
    return;
  }
  s->at += n * size;
}

static unsigned scan_byte(struct scan *s) {
  const unsigned char *at = s->at;
  scan_skip(s, 1, 1);
  return s->is_damaged ? 0 : *at;
}

static const char *scan_string(struct scan *s, size_t *length) {
  uint64_t size = scan_size(s);
  const char *text;
  *length = size ? (size_t)size - 1 : 0;
  text = (const char *)s->at;
  scan_skip(s, *length, 1);
  return text;
}

static unsigned scan_constant(struct scan *s, const char **text, size_t *length) {
  unsigned kind = scan_byte(s);
  if (kind == CONSTANT_INTEGER) scan_skip(s, 1, sizeof(lua_Integer));
  else if (kind == CONSTANT_FLOAT) scan_skip(s, 1, sizeof(lua_Number));
  else if (kind == CONSTANT_SHORT_STRING || kind == CONSTANT_LONG_STRING) *text = scan_string(s, length);
  return kind;
}

/* report_constant -- constant `wanted` is a name that is looked up in the environment of that number. */
static void report_constant(struct scan *s, const struct prototype *p, int environment, uint64_t wanted) {
  struct scan constants = *s;
  const char *text = NULL;
  size_t length = 0;
  unsigned kind = 0;
  if (s->name == NULL || wanted >= p->n_constants) return;
  constants.at = p->constants;
  constants.is_damaged = 0;
  for (uint64_t i = 0; i <= wanted && !constants.is_damaged; i++) kind = scan_constant(&constants, &text, &length);
  if (!constants.is_damaged && (kind == CONSTANT_SHORT_STRING || kind == CONSTANT_LONG_STRING))
    s->name(s->context, environment, text, length);
}

static uint32_t instruction_at(const struct prototype *p, uint64_t i) {
  uint32_t instruction;
  memcpy(&instruction, p->code + 4 * i, 4);
  return instruction;
}

/* loads_constant -- does instruction i load a constant? Its number, + 1, else 0; *next is the instruction behind, *to the register. */
static uint64_t loads_constant(const struct prototype *p, uint64_t i, uint64_t *next, uint32_t *to) {
  uint32_t code = i < p->n_code ? instruction_at(p, i) : 0, op = code & 0x7f;
  *to = (code >> 7) & 0xff;
  *next = i + (op == OP_LOADKX ? 2 : 1);
  if (op == OP_LOADK) return (uint64_t)(code >> 15) + 1;
  if (op == OP_LOADKX && i + 1 < p->n_code) return (uint64_t)(instruction_at(p, i + 1) >> 7) + 1;
  return 0;
}

/*
 * fetch_environment -- instruction i copies an environment (not that of globals) to register a. Where a name does not fit into one
 * instruction, it is loaded next, and then the field takes the environment's place. Whatever else it is: the environment is used as a
 * value.
 */
static void fetch_environment(struct scan *s, const struct prototype *p, uint64_t i, uint32_t a, int environment) {
  uint64_t next, constant;
  uint32_t to, code;
  constant = loads_constant(p, i + 1, &next, &to);
  code = constant && next < p->n_code ? instruction_at(p, next) : 0;
  if (constant && (code & 0x7f) == OP_GETTABLE && ((code >> 7) & 0xff) == a && ((code >> 16) & 0xff) == a && code >> 24 == to)
    report_constant(s, p, environment, constant - 1);
  else
    s->report->is_value[environment] = 1;
}

/*
 * scan_code -- the instructions of one function. Globals are fields of an environment upvalue, or (when there are many constants) of
 * a register that it was fetched to.
 */
static void scan_code(struct scan *s, struct prototype *p) {
  uint64_t loaded[256]; /* constant that was last loaded into each register, + 1 */
  memset(loaded, 0, sizeof loaded);
  for (uint64_t i = 0; i < p->n_code; i++) {
    uint32_t code = instruction_at(p, i), op = code & 0x7f;
    uint32_t a = (code >> 7) & 0xff, is_k = (code >> 15) & 1, b = (code >> 16) & 0xff, c = code >> 24;
    int environment = p->environment[b]; /* (of upvalue b, where b is one) */
    if (op == OP_SETUPVAL) s->report->sets_upvalues = 1;
    if (op == OP_SETUPVAL) s->report->is_value[environment] = 1;
    else if (op == OP_GETTABUP && environment) report_constant(s, p, environment, c);
    else if (op == OP_GETUPVAL && environment == GLOBALS) p->holds_globals[a] = 1;
    else if (op == OP_GETUPVAL && environment) fetch_environment(s, p, i, a, environment);
    else if (op == OP_LOADK) loaded[a] = (uint64_t)(code >> 15) + 1;
    else if (op == OP_LOADKX && i + 1 < p->n_code) loaded[a] = (uint64_t)(instruction_at(p, i + 1) >> 7) + 1;
    else if (op == OP_GETFIELD && p->holds_globals[b]) report_constant(s, p, GLOBALS, c);
    else if (op == OP_SELF && p->holds_globals[b] && is_k) report_constant(s, p, GLOBALS, c);
    else if (op == OP_SELF && p->holds_globals[b] && loaded[c]) report_constant(s, p, GLOBALS, loaded[c] - 1);
    else if (op == OP_GETTABLE && p->holds_globals[b] && loaded[c]) report_constant(s, p, GLOBALS, loaded[c] - 1);
  }
}

/* scan_upvalues -- which upvalues of the function are environments, given those of the function around it. */
static void scan_upvalues(struct scan *s, struct prototype *p, const struct prototype *outer, const unsigned char environment[256]) {
  uint64_t n = scan_size(s);
  const unsigned char *at = s->at;
  scan_skip(s, n, 3);
  if (s->is_damaged || n > 256) {
    s->is_damaged = 1;
    return;
  }
  for (uint64_t i = 0; i < n; i++, at += 3) {
    if (outer == NULL) p->environment[i] = environment[i];
    else p->environment[i] = at[0] ? outer->holds_globals[at[1]] : outer->environment[at[1]];
  }
}

static void scan_debug(struct scan *s) {
  size_t length;
  uint64_t n;
  scan_skip(s, scan_size(s), 1);
  for (n = scan_size(s); n > 0 && !s->is_damaged; n--) {
    scan_size(s);
    scan_size(s);
  }
  for (n = scan_size(s); n > 0 && !s->is_damaged; n--) {
    scan_string(s, &length);
    scan_size(s);
    scan_size(s);
  }
  for (n = scan_size(s); n > 0 && !s->is_damaged; n--) scan_string(s, &length);
}

/* scan_prototype -- one function and, by recursion as deep as the source was nested, those inside it. */
static void scan_prototype(struct scan *s, const struct prototype *outer, const unsigned char environment[256], int depth) {
  struct prototype p = {0};
  const unsigned char *begin;
  const char *text;
  size_t length;
  if (depth > MAX_NESTING) s->is_damaged = 1;
  scan_string(s, &length);
  scan_size(s);
  scan_size(s);
  begin = s->at; /* before it: name and lines of the source, which are not what the code does */
  scan_skip(s, 3, 1);
  p.n_code = scan_size(s);
  p.code = s->at;
  scan_skip(s, p.n_code, 4);
  p.n_constants = scan_size(s);
  p.constants = s->at;
  for (uint64_t i = 0; i < p.n_constants && !s->is_damaged; i++) scan_constant(s, &text, &length);
  scan_upvalues(s, &p, outer, environment);
  if (s->is_damaged) return;
  s->report->digest = hash_bytes(s->report->digest, begin, (size_t)(s->at - begin));
  scan_code(s, &p);
  for (uint64_t n = scan_size(s); n > 0 && !s->is_damaged; n--) scan_prototype(s, &p, NULL, depth + 1);
  if (!s->is_damaged) scan_debug(s);
}

void closure_scan(const unsigned char *dump, size_t length, const unsigned char environment[256],
                  void (*name)(void *context, int environment, const char *text, size_t length), void *context,
                  struct closure_report *report) {
  struct scan s = {dump, dump + length, 0, name, context, report};
  memset(report, 0, sizeof *report);
  scan_skip(&s, HEAD_BYTES + HEADER_BYTES, 1);
  if (!s.is_damaged) scan_prototype(&s, NULL, environment, 0);
  report->is_understood = !s.is_damaged && s.at == s.end;
}
