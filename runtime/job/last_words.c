/* job/last_words -- see last_words.h. */
#include "job/last_words.h"

#include <string.h>

enum { MOST_LEVELS = 16 };

struct text {
  char *at, *end; /* what is there ends by a zero byte at `at`; `end` is that of the memory */
  char *kept;     /* the end of the last line that says something */
};

/* (No stdio: this runs in a handler.) */
static void add(struct text *t, const char *more) {
  while (*more != '\0' && t->at + 1 < t->end) {
    t->at[1] = '\0';
    *t->at++ = *more++;
  }
}

static void add_number(struct text *t, int number) {
  char digits[16];
  int n = sizeof digits;
  unsigned rest = number < 0 ? 0 : (unsigned)number;
  digits[--n] = '\0';
  do digits[--n] = (char)('0' + rest % 10);
  while ((rest /= 10) > 0);
  add(t, digits + n);
}

static void add_function(struct text *t, const lua_Debug *ar) {
  if (ar->namewhat != NULL && *ar->namewhat != '\0' && ar->name != NULL) {
    add(t, ar->namewhat);
    add(t, " '");
    add(t, ar->name);
    add(t, "'");
  } else if (ar->what != NULL && *ar->what == 'm') {
    add(t, "main chunk");
  } else if (ar->what != NULL && *ar->what != 'C') {
    add(t, "function <");
    add(t, ar->short_src);
    add(t, ":");
    add_number(t, ar->linedefined);
    add(t, ">");
  } else {
    add(t, "?");
    return; /* C code without a name says nothing: the last of these are ours */
  }
  t->kept = t->at;
}

void last_words_write(lua_State *L, char *text, size_t capacity) {
  struct text t = {text, text + capacity, text};
  lua_Debug ar;
  int level;
  *text = '\0';
  memset(&ar, 0, sizeof ar);
  for (level = 0; level < MOST_LEVELS && lua_getstack(L, level, &ar) && lua_getinfo(L, "Sln", &ar); level++) {
    add(&t, "\n\t");
    add(&t, ar.short_src);
    if (ar.currentline > 0) {
      add(&t, ":");
      add_number(&t, ar.currentline);
    }
    add(&t, ": in ");
    add_function(&t, &ar);
  }
  *t.kept = '\0';
}
