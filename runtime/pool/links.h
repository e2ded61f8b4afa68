/*
 * pool/links -- lists whose links lie in what is listed: put in, taken out and found first in constant time, without memory of their own.
 *
 * Room: pool.  Owns: nothing.  A list is a ring through its head; what is in no list is linked to itself.
 */
#ifndef LUAPOOL_POOL_LINKS_H
#define LUAPOOL_POOL_LINKS_H

#include <stddef.h>

struct links {
  struct links *next, *previous;
};

/* The structure of which *pointer is the member. */
#define OWNER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

static inline void links_init(struct links *l) {
  l->next = l->previous = l;
}

static inline int links_are_empty(const struct links *head) {
  return head->next == head;
}

/* links_append -- put `l`, which is in no list, at the end. */
static inline void links_append(struct links *head, struct links *l) {
  l->previous = head->previous;
  l->next = head;
  head->previous->next = l;
  head->previous = l;
}

/* links_remove -- take `l` out of its list, if it is in one. */
static inline void links_remove(struct links *l) {
  l->previous->next = l->next;
  l->next->previous = l->previous;
  links_init(l);
}

#endif
