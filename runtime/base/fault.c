/* base/fault -- see fault.h. Nothing here exists without LUAPOOL_FAULTS. */
#ifdef LUAPOOL_FAULTS

#include "base/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RULES = 16, MAX_NAME = 32, EXIT_STATUS = 3 };

enum action_kind { SIGNAL_SELF, SIGNAL_PARENT, DIE_BY, LEAVE, SLEEP, BE_DEAF, FAIL };

struct action {
  const char *name;
  enum action_kind kind;
  int number; /* signal, or errno */
};

/* One wish of the environment. Written while loading only, but for the count. */
struct rule {
  char name[MAX_NAME];
  long nth;    /* 0: every passage */
  int worker;  /* -1: anywhere */
  long milliseconds;
  struct action action;
  atomic_long count;
};

struct rules {
  struct rule rule[MAX_RULES];
  int count;
};

static struct rules points, failures;
static atomic_int current_worker;

static const struct action ACTIONS[] = {
  {"stop", SIGNAL_SELF, SIGSTOP},       {"kill", SIGNAL_SELF, SIGKILL},         {"segv", DIE_BY, SIGSEGV},
  {"abort", DIE_BY, SIGABRT},           {"exit", LEAVE, EXIT_STATUS},           {"int", SIGNAL_SELF, SIGINT},
  {"term", SIGNAL_SELF, SIGTERM},       {"sleep", SLEEP, 0},                    {"host-int", SIGNAL_PARENT, SIGINT},
  {"host-term", SIGNAL_PARENT, SIGTERM}, {"host-kill", SIGNAL_PARENT, SIGKILL},
  {"deaf", BE_DEAF, 0},                 {NULL, FAIL, 0}};

#define ERRNO(name) {#name, FAIL, name}
static const struct action ERRNOS[] = {
  ERRNO(EACCES), ERRNO(EAGAIN), ERRNO(EBADF),  ERRNO(ECHILD), ERRNO(EINTR),  ERRNO(EINVAL), ERRNO(EIO),
  ERRNO(EMFILE), ERRNO(ENFILE), ERRNO(ENOENT), ERRNO(ENOMEM), ERRNO(ENOSPC), ERRNO(ENOSYS), ERRNO(EOPNOTSUPP),
  ERRNO(EPERM),  ERRNO(EPIPE),  ERRNO(ESRCH),  ERRNO(ETIMEDOUT), ERRNO(EROFS), ERRNO(EDQUOT), ERRNO(ENOLCK), {NULL, FAIL, 0}};

/* Copies the word at *text up to one of `ends` (or the end of the string) and steps over it. */
static void take_word(const char **text, const char *ends, char word[MAX_NAME]) {
  size_t length = strcspn(*text, ends);
  if (length == 0 || length >= MAX_NAME) abort();
  memcpy(word, *text, length);
  word[length] = '\0';
  *text += length;
}

static long take_number(const char **text) {
  char *end;
  long number = strtol(*text, &end, 10);
  if (end == *text || number < 0) abort();
  *text = end;
  return number;
}

static struct action find_action(const struct action *table, const char *name) {
  struct action found = {"", FAIL, 0};
  for (; table->name != NULL; table++)
    if (strcmp(table->name, name) == 0) return *table;
  found.number = atoi(name);
  if (found.number <= 0) abort();
  return found;
}

static void take_rule(const char **text, const struct action *table, struct rule *rule) {
  char action[MAX_NAME];
  rule->nth = 1;
  rule->worker = -1;
  rule->milliseconds = 0;
  atomic_store(&rule->count, 0);
  take_word(text, "#@:,", rule->name);
  if (**text == '#') *text += 1, rule->nth = take_number(text);
  if (**text == '@') *text += 1, rule->worker = (int)take_number(text);
  if (**text != ':') abort();
  *text += 1;
  take_word(text, "=,", action);
  rule->action = find_action(table, action);
  if (rule->action.kind == FAIL && table != ERRNOS) abort();
  if (rule->action.kind == SLEEP) {
    if (**text != '=') abort();
    *text += 1, rule->milliseconds = take_number(text);
  }
  if (**text == ',')
    *text += 1;
  else if (**text != '\0')
    abort();
}

static void load(const char *variable, const struct action *table, struct rules *rules) {
  const char *text = getenv(variable);
  rules->count = 0;
  while (text != NULL && *text != '\0') {
    if (rules->count == MAX_RULES) abort();
    take_rule(&text, table, &rules->rule[rules->count]);
    rules->count++;
  }
}

/* Before main, so that no thread and no signal handler can meet a half-read table. */
__attribute__((constructor)) void fault_reload(void) {
  load("LUAPOOL_FAULT", ACTIONS, &points);
  load("LUAPOOL_FAIL", ERRNOS, &failures);
}

/* A death that no handler of the program (or of a sanitizer) can turn into something else. */
static void die_by(int signal_number) {
  sigset_t one;
  signal(signal_number, SIG_DFL);
  sigemptyset(&one);
  sigaddset(&one, signal_number);
  sigprocmask(SIG_UNBLOCK, &one, NULL);
  raise(signal_number);
  _exit(EXIT_STATUS);
}

static void sleep_ms(long milliseconds) {
  struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (nanosleep(&left, &left) < 0 && errno == EINTR) continue;
}

/* As a library may do that a task calls: no signal comes through that can be kept out. */
static void be_deaf(void) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
}

static void act(const struct rule *rule) {
  int saved = errno;
  switch (rule->action.kind) {
    case SIGNAL_SELF: kill(getpid(), rule->action.number); break;
    case SIGNAL_PARENT: kill(getppid(), rule->action.number); break;
    case DIE_BY: die_by(rule->action.number); break;
    case LEAVE: exit(rule->action.number);
    case SLEEP: sleep_ms(rule->milliseconds); break;
    case BE_DEAF: be_deaf(); break;
    case FAIL: break;
  }
  errno = saved;
}

/* Is it this rule's turn? Counts the passage. */
static int is_due(struct rule *rule, const char *name) {
  long passage;
  if (strcmp(rule->name, name) != 0) return 0;
  if (rule->worker >= 0 && rule->worker != atomic_load(&current_worker)) return 0;
  passage = atomic_fetch_add(&rule->count, 1) + 1;
  return rule->nth == 0 || rule->nth == passage;
}

void fault_point(const char *point) {
  for (int i = 0; i < points.count; i++)
    if (is_due(&points.rule[i], point)) act(&points.rule[i]);
}

void fault_set_worker(int worker) {
  atomic_store(&current_worker, worker);
}

int fault_fails(const char *name) {
  int error = 0; /* every rule counts every call, also when an earlier one has decided */
  for (int i = 0; i < failures.count; i++)
    if (is_due(&failures.rule[i], name) && error == 0) error = failures.rule[i].action.number;
  return error;
}

#else
typedef int fault_is_compiled_out; /* ISO C wants one declaration in a file */
#endif
