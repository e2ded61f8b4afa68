/* Things found by their number: random keys against a plain array. */
#include "unit.h"

#include <string.h>

#include "pool/links.h"
#include "pool/table.h"

enum { KEYS = 5000 };

static void check_all(const struct table *t, struct table_node *nodes, const unsigned char *is_in, uint64_t base, uint64_t step) {
  size_t count = 0;
  uint64_t i;
  for (i = 0; i < KEYS; i++) {
    assert_ptr_equal(table_find(t, base + i * step), is_in[i] ? &nodes[i] : NULL);
    count += is_in[i];
  }
  assert_int_equal(t->count, count);
}

static void test_find_put_take(void **state) {
  static struct table_node nodes[KEYS];
  static unsigned char is_in[KEYS];
  static const uint64_t bases[] = {0, 1, (uint64_t)1 << 63, UINT64_MAX - 3}, steps[] = {1, 1024, (uint64_t)1 << 32, 0x9e3779b9};
  uint64_t seed = 3;
  size_t c, i;
  (void)state;
  for (c = 0; c < 4; c++) {
    struct table t;
    table_init(&t);
    memset(is_in, 0, sizeof is_in);
    for (i = 0; i < 4 * KEYS; i++) {
      uint64_t k = random_below(&seed, KEYS);
      nodes[k].key = bases[c] + k * steps[c];
      if (is_in[k]) table_take(&t, &nodes[k]); else table_put(&t, &nodes[k]);
      is_in[k] = !is_in[k];
      if (i % KEYS == 17) check_all(&t, nodes, is_in, bases[c], steps[c]);
    }
    check_all(&t, nodes, is_in, bases[c], steps[c]);
    assert_true(t.size >= t.count / 2);
    table_free(&t);
    assert_null(table_find(&t, bases[c]));
  }
}

struct thing {
  int number;
  struct links link;
};

static void test_lists(void **state) {
  struct thing things[5];
  struct links head, *l;
  int i, sum = 0;
  (void)state;
  links_init(&head);
  assert_true(links_are_empty(&head));
  for (i = 0; i < 5; i++) {
    things[i].number = i;
    links_init(&things[i].link);
    links_remove(&things[i].link); /* of no list: nothing */
    links_append(&head, &things[i].link);
  }
  links_remove(&things[0].link);
  links_remove(&things[3].link);
  links_remove(&things[4].link);
  links_append(&head, &things[0].link);
  for (l = head.next; l != &head; l = l->next) sum = sum * 10 + OWNER_OF(l, struct thing, link)->number;
  assert_int_equal(sum, 120);
  for (i = 0; i < 3; i++) links_remove(&things[i].link);
  assert_true(links_are_empty(&head));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_find_put_take), cmocka_unit_test(test_lists)};
  return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
