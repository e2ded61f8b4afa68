/*
 * pool/record -- the record of a pool, if one is kept: asks its recorder (may include pool/crew.h, pool/recorder.h and pool/trace.h).
 *
 * Room: pool.  Owns: nothing. Without a record (p->trace is NULL) nothing is done here.
 */
#include <errno.h>

#include "pool/crew.h"
#include "pool/recorder.h"
#include "pool/trace.h"

int pool_open_record(struct pool *p, struct trace *t) {
  return t->recorder ? t->recorder->open(p, t) : -EINVAL;
}

void pool_close_record(struct pool *p) {
  if (p->recorder) p->recorder->close(p);
}

void pool_end_record(struct pool *p) {
  if (p->trace) p->recorder->end(p);
}

void pool_collect(struct pool *p) {
  if (p->trace) p->recorder->collect(p);
}

void pool_collect_dead(struct pool *p, uint32_t number) {
  if (p->trace) p->recorder->collect_dead(p, number);
}

void pool_mark(struct pool *p, uint32_t number, int kind, int64_t what) {
  if (p->trace) p->recorder->mark(p, number, kind, what);
}

void pool_note(struct pool *p, enum event_kind kind, int64_t began_ns, int64_t ended_ns) {
  if (p->trace) p->recorder->note(p, kind, began_ns, ended_ns);
}
