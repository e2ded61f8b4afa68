/*
 * pool/account -- which items of an entry are done: a set of whole numbers as a short sorted list of intervals.
 *
 * Room: pool.  Owns: the list.  Workers finish runs of neighbours, so the list stays about as long as there are workers.
 */
#ifndef LUAPOOL_POOL_ACCOUNT_H
#define LUAPOOL_POOL_ACCOUNT_H

#include <stddef.h>
#include <stdint.h>

struct account_interval {
  uint64_t begin, end; /* [begin, end) */
};

struct account {
  struct account_interval *list;
  size_t length, capacity;
  uint64_t total; /* numbers in the set */
};

/* account_add -- put [begin, end) in. 0; -EEXIST: some of it is in already (nothing changed); -ENOMEM. */
int account_add(struct account *a, uint64_t begin, uint64_t end);

/* account_has -- 1 if `number` is in. */
int account_has(const struct account *a, uint64_t number);

/*
 * account_gap -- the first stretch of [begin, end) that is not in: 1 and *gap, or 0 if all of it is in.
 */
int account_gap(const struct account *a, uint64_t begin, uint64_t end, struct account_interval *gap);

/* account_clear -- empty, keeping the memory; account_free -- give the memory back too. */
void account_clear(struct account *a);
void account_free(struct account *a);

#endif
