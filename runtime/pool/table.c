/* pool/table -- see table.h. */
#include "pool/table.h"

#include <stdlib.h>
#include <string.h>

/* Keys are mostly numbers in a row; Fibonacci's hashing spreads these, and others. */
static struct table_node **head_of(const struct table *t, uint64_t key) {
  return &t->heads[(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (t->size - 1)];
}

void table_init(struct table *t) {
  memset(t, 0, sizeof *t);
  t->heads = t->few;
  t->size = TABLE_FEW;
}

void table_free(struct table *t) {
  if (t->heads != t->few) free(t->heads);
  table_init(t);
}

struct table_node *table_find(const struct table *t, uint64_t key) {
  struct table_node *node = *head_of(t, key);
  while (node != NULL && node->key != key) node = node->chain;
  return node;
}

static void grow(struct table *t) {
  struct table old = *t;
  size_t i;
  struct table_node **heads = calloc(t->size * 2, sizeof *heads);
  if (heads == NULL) return;
  t->heads = heads;
  t->size *= 2;
  for (i = 0; i < old.size; i++) {
    struct table_node *node = old.heads[i];
    while (node != NULL) {
      struct table_node *next = node->chain, **head = head_of(t, node->key);
      node->chain = *head;
      *head = node;
      node = next;
    }
  }
  if (old.heads != t->few) free(old.heads);
}

void table_put(struct table *t, struct table_node *node) {
  struct table_node **head;
  if (t->count >= t->size) grow(t);
  head = head_of(t, node->key);
  node->chain = *head;
  *head = node;
  t->count++;
}

void table_take(struct table *t, struct table_node *node) {
  struct table_node **at = head_of(t, node->key);
  while (*at != node) at = &(*at)->chain;
  *at = node->chain;
  t->count--;
}
