/*
 * job/codec_parts -- the alphabet of a stream and the codec object: what job/codec's own files share, and nobody else sees.
 *
 * Room: job (may include job/codec.h and job/names.h).  Owns: nothing; see the fields of struct codec.
 *
 * A value is a tag byte and what belongs to it; numbers are the machine's own bytes. Objects (tables, functions, userdata) are referred to
 * by the place of their tag in the stream: the writer marks the tag as "shared" in place when a second reference turns up, so that
 * the reader remembers only objects that it will be asked for.
 */
#ifndef LUAPOOL_JOB_CODEC_PARTS_H
#define LUAPOOL_JOB_CODEC_PARTS_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "job/codec.h"
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
  TAG_END,         /* after the last global of a function, and the last pair of TAG_MORE */
  TAG_MORE,        /* varint: place of an environment; pairs to be added to it (one with a nil key is none), TAG_END */
  TAG_TABLE = 0x20,    /* + flags; length of the sequence (4 bytes), number of pairs (4 bytes), sequence, pairs [, metatable] */
  TAG_RECORD = 0x28,   /* + flags; shape, one value for each key [, metatable] */
  TAG_FUNCTION = 0x30, /* + flags; number of upvalues (byte), code, upvalues, globals and TAG_MOREs, TAG_END */
  TAG_USERDATA = 0x34, /* + flags; length (byte) and name of the class, what its save function returned (native: TAG_STRING, its bytes) */
  TAG_ENVIRONMENT = 0x38, /* + flags; a table, empty as yet [, metatable | what its metatable's __index is] */
  TAG_SMALL = 0x40,    /* + integer 0 .. 63 */
  TAG_SHORT = 0x80     /* + length 0 .. 127, bytes */
};
enum tag_flags { HAS_METATABLE = 1, IS_SHARED = 2, DEFINES_SHAPE = 4, HAS_INDEX = 4 };

enum {
  MAX_RECORD_KEYS = 32,      /* tables with more string keys are dictionaries, not records */
  MAX_SHAPE_KEY_BYTES = 40,  /* Lua interns strings up to this length: equal keys have equal addresses */
  MAX_SHAPES = 4096,         /* in one stream; a job whose tables never look alike must not fill memory with shapes */
  MAX_NIL_RUN = 4096,        /* no bytes back a run of nils, so damage must not make it endless */
  MESSAGE_BYTES = 512
};

/* What the registry keeps for a codec, in a table. */
enum anchor {
  ANCHOR_NAME_KEYS = 1, ANCHOR_SHAPE_KEYS, ANCHOR_READ_KEYS, ANCHOR_READ_NAMES, ANCHOR_FUNCTION, ANCHOR_SENT, ANCHOR_SAVED,
  ANCHOR_GLOBALS, ANCHOR_NATIVES, ANCHOR_EARLY, ANCHOR_PAUSED, ANCHOR_PARTIAL
};

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
  uint32_t is_open;    /* IS_SAVING, IS_PARTIAL, or 0: it can be referred to */
};
enum seen_state {
  IS_SAVING = 1, /* userdata whose saved value is being written */
  IS_PARTIAL     /* an environment of which only named fields were sent (codec_write_environment.c) */
};

enum frame_kind { FRAME_TABLE, FRAME_RECORD, FRAME_FUNCTION, FRAME_USERDATA, FRAME_DEFINE, FRAME_ENVIRONMENT, FRAME_MORE };
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
  uint32_t place_flag;       /* userdata: shared; sequences that are read in slices: the kind of the open run */
  uint64_t place;            /* sequences that are read in slices: what is left of the open run */
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
  const void **shape_keys; /* addresses of the keys: short strings, each of which is there once */
  uint32_t n_shape_keys, shape_keys_capacity;
  uint32_t *shape_slots; /* 2 * MAX_SHAPES; shape number + 1 */
  struct seen *seen;
  size_t n_seen, seen_capacity;
  uint32_t generation;
  struct write_frame *frames;
  size_t n_frames, frames_capacity;
  struct mark mark;
  int has_sent, has_saved, sent_is_stale;
  int n_natives, has_natives; /* in ANCHOR_NATIVES: of this stream; whether there are any (of another stream: to be dropped) */
  struct names names;
  int has_early; /* ANCHOR_EARLY is what codec_know_early was given */
  /* reader */
  uint32_t read_stream;
  struct shape *read_shapes;
  uint32_t n_read_shapes, read_shapes_capacity, n_read_keys, n_read_names;
  struct read_frame *read_frames;
  size_t n_read_frames, read_frames_capacity;
  int is_missing; /* a name of the present value could not be resolved */
  /* the reader with a deadline: */
  int64_t until_ns;      /* 0: none */
  uintptr_t check_at;    /* where in the stream the clock is looked at next; UINTPTR_MAX: never; 0: not yet chosen */
  uint32_t check_bytes;  /* between two looks */
  int is_paused;         /* amid a value: the frames are its, and ANCHOR_PAUSED holds what stood on the stack */
  int paused_base, n_paused, paused_has_shared;
  const unsigned char *paused_at;
};

/* codec_push_anchor -- push one of the codec's tables (or the named function). */
void codec_push_anchor(struct codec *c, lua_State *L, int which);

/* codec_renew_anchor -- replace one of the codec's tables by an empty one and push it. May raise (memory). */
void codec_renew_anchor(struct codec *c, lua_State *L, int which);

/* codec_native_of -- the native class of the userdata at index, or NULL. */
const struct codec_native *codec_native_of(lua_State *L, int index);

/* codec_native_named -- the native class of a name, or NULL. */
const struct codec_native *codec_native_named(lua_State *L, const char *name, size_t length);

/* codec_grow -- room for one more element of `size` bytes in a C array. Returns 0 or -ENOMEM (the array is as before). */
int codec_grow(void **array, uint32_t n, uint32_t *capacity, size_t size);

/* codec_fail -- keep `text` as the codec's message and return `status`. */
int codec_fail(struct codec *c, int status, const char *text);

/* codec_out_of_memory -- codec_fail with -ENOMEM and the message for it. */
int codec_out_of_memory(struct codec *c);

/* get_count / set_count -- the 4 bytes of a count, at any address. */
static inline uint32_t get_count(const unsigned char *at) {
  uint32_t count;
  memcpy(&count, at, 4);
  return count;
}

static inline void set_count(unsigned char *at, uint32_t count) {
  memcpy(at, &count, 4);
}

#endif
