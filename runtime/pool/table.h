/*
 * pool/table -- things found by their number.
 *
 * Room: pool.  Owns: its array; the nodes lie in what is found.  Putting in never fails: when there is no memory for a larger array,
 * finding merely takes longer.
 */
#ifndef LUAPOOL_POOL_TABLE_H
#define LUAPOOL_POOL_TABLE_H

#include <stddef.h>
#include <stdint.h>

enum { TABLE_FEW = 16 };

struct table_node {
  uint64_t key;
  struct table_node *chain;
};

struct table {
  struct table_node **heads; /* size of them, a power of two */
  size_t size, count;
  struct table_node *few[TABLE_FEW];
};

/* table_init -- an empty table; it must not be moved afterwards. table_free -- the array is given back, the nodes are their owners'. */
void table_init(struct table *t);
void table_free(struct table *t);

/* table_find -- the node with that key, or NULL. */
struct table_node *table_find(const struct table *t, uint64_t key);

/* table_put -- put the node in under node->key, which no other has. table_take -- take it out again. */
void table_put(struct table *t, struct table_node *node);
void table_take(struct table *t, struct table_node *node);

#endif
