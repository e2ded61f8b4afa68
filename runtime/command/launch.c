/*
 * command/launch -- see launch.h.
 *
 * mpirun answers the terminal's Ctrl-C by killing its processes, and does not tell their status once it is to survive losses. So it
 * runs in a process group of its own; signals go to it as SIGUSR1 and SIGUSR2, which it passes on; and the status comes as a marked line on
 * its standard error (command/ranks).
 */
#include "command/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "base/bytes.h"
#include "base/os.h"
#include "command/call.h"
#include "command/ranks.h"
#include "command/scratch.h"

extern char **environ;

#define SECOND 1000000000LL

enum { TOKEN_BYTES = 8, MOST_WORDS = 64, MARK_BYTES = 128, END_SECONDS = 3, HARD_SIGNALS = 12 /* in a second */, PATH_BYTES = 4096 };

struct launch {
  const char *mpi, *hosts, *mpirun; /* the options' values */
  char token[2 * TOKEN_BYTES + 1];
  char **words;                     /* the command; n of room */
  size_t n, room;
  int is_srun, is_short;            /* is_short: memory ran out */
  pid_t pid;
  int errors, input;                /* pipes: its standard error; its standard input, where a terminal is read for it; -1 */
  char mark[MARK_BYTES];            /* the beginning of what may be the line of the status */
  size_t n_mark;
  int status;                       /* of the script; -1: not told yet */
  int64_t end_ns;                   /* when to be less patient, once the script is over; 0: it is not */
  int n_pushes;
};

/* ---- what is wanted ---- */

static const char *value_of(const struct options *options, const char *name) {
  const char *value = NULL;
  for (int i = 0; i < options->n_given; i++) {
    const struct given *given = &options->given[i];
    if (given->name && strcmp(given->name, name) == 0) value = given->value ? given->value : "";
  }
  return value;
}

int launch_is_wanted(const struct options *options) {
  return value_of(options, "mpi") || value_of(options, "hosts") || value_of(options, "mpirun");
}

static int is_number(const char *text) {
  return *text && strspn(text, "0123456789") == strlen(text) && atoi(text) > 0;
}

/* Does the program exist in PATH? */
static int is_in_path(const char *name) {
  const char *path = getenv("PATH"), *end;
  char full[PATH_BYTES];
  if (strchr(name, '/')) return access(name, X_OK) == 0;
  for (; path && *path; path = *end ? end + 1 : end) {
    end = path + strcspn(path, ":");
    snprintf(full, sizeof full, "%.*s/%s", (int)(end - path), path, name);
    if (access(full, X_OK) == 0) return 1;
  }
  return 0;
}

static int complain(const char *text) {
  call_message(text);
  return EXIT_FAILURE;
}

static int check(const struct launch *l) {
  const char *path;
  char text[PATH_BYTES + 200];
  if (l->mpi && *l->mpi && !is_number(l->mpi)) {
    call_message("--mpi: number of nodes to pretend expected");
    return EXIT_USAGE;
  }
  if (!ranks_engine(&path)) {
    snprintf(text, sizeof text, "--mpi: " RANKS_NO_ENGINE, path);
    return complain(text);
  }
  if (!is_in_path(l->words[0])) {
    snprintf(text, sizeof text, "--mpi: cannot find %s: install openmpi-bin, or say --mpirun COMMAND", l->words[0]);
    return complain(text);
  }
  if (!l->is_srun && !l->mpirun && geteuid() == 0 && !(getenv("OMPI_ALLOW_RUN_AS_ROOT") && getenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"))) {
    return complain("--mpi: mpirun does not run as root unless OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 are set");
  }
  return EXIT_SUCCESS;
}

/* ---- the command ---- */

static void add_part(struct launch *l, const char *text, size_t length) {
  char *word = l->n < l->room ? strndup(text, length) : NULL;
  if (word) l->words[l->n++] = word;
  else l->is_short = 1;
}

static void add(struct launch *l, const char *word) {
  add_part(l, word, strlen(word));
}

static void add_words(struct launch *l, const char *text) {
  for (;;) {
    size_t length;
    text += strspn(text, " \t");
    length = strcspn(text, " \t");
    if (length == 0) return;
    add_part(l, text, length);
    text += length;
  }
}

static void free_words(struct launch *l) {
  while (l->n > 0) free(l->words[--l->n]);
  free(l->words);
}

/* Our variables go along; mpirun takes only its own to other machines. */
static void add_variables(struct launch *l) {
  for (char **entry = environ; *entry; entry++) {
    size_t length = strcspn(*entry, "=");
    if (strncmp(*entry, "LUAPOOL_", 8) != 0 && strncmp(*entry, "LUA_", 4) != 0) continue;
    add(l, "-x");
    add_part(l, *entry, length);
  }
}

static void add_mpirun(struct launch *l) {
  add(l, "mpirun");
  add(l, "-q");
  add(l, "--enable-recovery");
  add(l, "--bind-to");
  add(l, "none");
  if (l->hosts) {
    add(l, "-H");
    add(l, l->hosts);
  }
  if (l->mpi && *l->mpi) {
    add(l, "--oversubscribe");
    add(l, "-np");
    add(l, l->mpi);
  } else {
    add(l, "--map-by");
    add(l, "ppr:1:node");
  }
  add_variables(l);
}

/* Inside a Slurm job: its own launcher, which knows the nodes. A lost node must not take the others with it. */
static void add_srun(struct launch *l) {
  static const char *const words[] = {"srun", "--mpi=pmix", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--input=0", "-Q"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) add(l, words[i]);
  l->is_srun = 1;
}

/* The program's own path is the same everywhere; the ranks know by their environment that they are no launchers. */
static int make_command(struct launch *l, int argc, char **argv) {
  static char self[PATH_BYTES];
  ssize_t length = os_own_program(self, sizeof self);
  size_t n_environment = 0;
  while (environ[n_environment]) n_environment++;
  l->room = (size_t)argc + 2 * n_environment + MOST_WORDS + (l->mpirun ? strlen(l->mpirun) : 0);
  l->words = calloc(l->room + 1, sizeof *l->words);
  if (!l->words) return -ENOMEM;
  if (l->mpirun && *l->mpirun) add_words(l, l->mpirun);
  else if (!l->hosts && !(l->mpi && *l->mpi) && getenv("SLURM_JOB_ID") && is_in_path("srun")) add_srun(l);
  else add_mpirun(l);
  add(l, length > 0 ? self : argv[0]);
  for (int i = 1; i < argc; i++) add(l, argv[i]);
  return l->is_short ? -ENOMEM : 0;
}

static void make_token(struct launch *l) {
  unsigned char bytes[TOKEN_BYTES];
  os_random(bytes, sizeof bytes);
  for (int i = 0; i < TOKEN_BYTES; i++) snprintf(l->token + 2 * i, 3, "%02x", bytes[i]);
  (void)setenv("LUAPOOL_LAUNCHER", l->token, 1);
}

/* ---- signals ---- */

static volatile sig_atomic_t n_interrupts, n_terminations, last_signal;
static int bell[2] = {-1, -1};

static void on_signal(int signo) {
  int before = errno;
  if (signo == SIGINT) n_interrupts++;
  else if (signo != SIGCHLD) n_terminations++;
  if (signo != SIGCHLD) last_signal = signo;
  (void)!write(bell[1], "", 1);
  errno = before;
}

static void catch_signals(void) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGCHLD};
  struct sigaction action = {0}, old;
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
    if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN && signals[i] != SIGCHLD) continue;
    (void)sigaction(signals[i], &action, NULL);
  }
  (void)signal(SIGPIPE, SIG_IGN);
}

static void send_signal(const struct launch *l, int signo) {
  if (l->pid > 0) (void)kill(l->pid, signo);
}

/*
 * The script itself knows what a second and a third Ctrl-C mean. Who goes on as fast as he can gets his way all the same: should no signal
 * reach the script any more, its launcher is to end everything.
 */
static void pass_signals_on(struct launch *l) {
  static int interrupts, terminations, in_a_row;
  static int64_t since_ns;
  for (; interrupts < n_interrupts; interrupts++) {
    int64_t now = os_now_ns();
    if (now - since_ns > SECOND) in_a_row = 0;
    if (in_a_row++ == 0) since_ns = now;
    send_signal(l, in_a_row > HARD_SIGNALS ? SIGTERM : SIGUSR1);
  }
  for (; terminations < n_terminations; terminations++) send_signal(l, terminations >= 1 ? SIGTERM : SIGUSR2);
}

/* ---- the process ---- */

static _Noreturn void become_launcher(const struct launch *l, int input, int errors, pid_t parent) {
  (void)setpgid(0, 0);
#ifdef __linux__
  (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
#endif
  if (getppid() != parent) _exit(EXIT_FAILURE);
  if (input >= 0) (void)dup2(input, STDIN_FILENO);
  (void)dup2(errors, STDERR_FILENO);
  (void)signal(SIGPIPE, SIG_DFL);
  execvp(l->words[0], l->words);
  fprintf(stderr, "%s: cannot run %s: %s\n", call_program(), l->words[0], strerror(errno));
  _exit(127);
}

/* A terminal is read by us, who are in its foreground; anything else the launcher reads itself. */
static int start(struct launch *l) {
  int errors[2], input[2] = {-1, -1};
  pid_t parent = getpid();
  if (os_pipe(errors) < 0 || os_pipe(bell) < 0) return -errno;
  (void)fcntl(bell[1], F_SETFL, O_NONBLOCK);
  if (os_is_terminal(STDIN_FILENO)) {
    if (os_pipe(input) < 0) return -errno;
    (void)fcntl(input[0], F_SETFL, 0);
  }
  catch_signals();
  l->pid = fork();
  if (l->pid < 0) return -errno;
  if (l->pid == 0) become_launcher(l, input[0], errors[1], parent);
  (void)setpgid(l->pid, l->pid);
  os_close(&errors[1]);
  os_close(&input[0]);
  l->errors = errors[0];
  l->input = input[1];
  return 0;
}

/* ---- what passes through ---- */

static void write_errors(const char *data, size_t length) {
  if (length) (void)os_write(STDERR_FILENO, data, length);
}

/* l->mark is a whole line: the status, or somebody's else. */
static void judge_mark(struct launch *l) {
  char wanted[sizeof l->token + 16];
  size_t length = (size_t)snprintf(wanted, sizeof wanted, "\036luapool %s ", l->token);
  if (l->n_mark > length && strncmp(l->mark, wanted, length) == 0) {
    l->status = atoi(l->mark + length);
    l->end_ns = os_now_ns() + END_SECONDS * SECOND;
  } else {
    write_errors(l->mark, l->n_mark);
  }
  l->n_mark = 0;
}

static void take_errors(struct launch *l, const char *data, size_t length) {
  size_t from = 0;
  for (size_t i = 0; i < length; i++) {
    if (l->n_mark == 0 && data[i] != '\036') continue;
    if (l->n_mark == 0) write_errors(data + from, i - from);
    l->mark[l->n_mark++] = data[i];
    from = i + 1;
    if (data[i] == '\n' || l->n_mark == MARK_BYTES - 1) {
      l->mark[l->n_mark] = '\0';
      judge_mark(l);
    }
  }
  if (l->n_mark == 0) write_errors(data + from, length - from);
}

static void relay_errors(struct launch *l) {
  char data[8192];
  ssize_t n = os_read(l->errors, data, sizeof data);
  if (n > 0) take_errors(l, data, (size_t)n);
  else if (n != -EAGAIN) os_close(&l->errors);
}

static void relay_input(struct launch *l) {
  char data[4096];
  ssize_t n = os_read(STDIN_FILENO, data, sizeof data);
  if (n <= 0 || os_write(l->input, data, (size_t)n) < 0) os_close(&l->input);
}

/* The script is over: the rest has its time to leave, then it is made to. */
static void push(struct launch *l) {
  if (l->end_ns == 0 || os_now_ns() < l->end_ns) return;
  l->n_pushes++;
  send_signal(l, l->n_pushes > 2 ? SIGKILL : SIGTERM);
  l->end_ns = os_now_ns() + SECOND;
}

/* 1: it has ended; *status as of waitpid. */
static int has_ended(struct launch *l, int *status) {
  pid_t pid = waitpid(l->pid, status, WNOHANG);
  if (pid == 0 || (pid < 0 && errno == EINTR)) return 0;
  if (pid < 0) *status = EXIT_FAILURE << 8;
  l->pid = 0;
  return 1;
}

static int attend(struct launch *l) {
  struct pollfd fds[3];
  int status = 0, is_over = 0;
  while (!is_over) {
    int64_t timeout = l->end_ns ? l->end_ns - os_now_ns() : -1;
    fds[0] = (struct pollfd){l->errors, POLLIN, 0};
    fds[1] = (struct pollfd){bell[0], POLLIN, 0};
    fds[2] = (struct pollfd){l->input >= 0 ? STDIN_FILENO : -1, POLLIN, 0};
    (void)os_poll(fds, 3, l->end_ns && timeout < 0 ? 0 : timeout);
    if (fds[1].revents) {
      char drained[64];
      (void)os_read(bell[0], drained, sizeof drained);
    }
    pass_signals_on(l);
    if (fds[0].revents && l->errors >= 0) relay_errors(l);
    if (fds[2].revents && l->input >= 0) relay_input(l);
    push(l);
    is_over = has_ended(l, &status);
  }
  while (l->errors >= 0 && os_poll(&(struct pollfd){l->errors, POLLIN, 0}, 1, 0) == 1) relay_errors(l);
  return status;
}

/* As a shell says it. */
static int status_of(const struct launch *l, int status) {
  if (l->status >= 0) return l->status;
  if (last_signal && WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2) return 128 + last_signal; /* not every launcher passes it on */
  if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
  if (WEXITSTATUS(status) != 0) {
    char text[160];
    snprintf(text, sizeof text, "%s ended with status %d before the script did%s", l->is_srun ? "srun" : "mpirun", WEXITSTATUS(status),
             l->hosts ? " (does 'ssh HOST true' work for every host?)" : "");
    call_message(text);
    return WEXITSTATUS(status);
  }
  return complain("the job ended without telling its status");
}

int launch_run(const struct options *options, int argc, char **argv) {
  struct launch launch = {.errors = -1, .input = -1, .status = -1}, *l = &launch;
  pid_t mpirun;
  int status;
  l->mpi = value_of(options, "mpi");
  l->hosts = value_of(options, "hosts");
  l->mpirun = value_of(options, "mpirun");
  make_token(l);
  status = make_command(l, argc, argv) < 0 ? complain("not enough memory") : check(l);
  if (status != EXIT_SUCCESS) {
    free_words(l);
    return status;
  }
  status = start(l);
  free_words(l);
  if (status < 0) return complain(strerror(-status));
  mpirun = l->pid;
  status = attend(l);
  scratch_remove_of(mpirun); /* it leaves something, unless all went well */
  status = status_of(l, status);
  if (last_signal && status == 128 + last_signal) { /* so that a shell sees what it would see of one process */
    (void)signal(last_signal, SIG_DFL);
    (void)raise(last_signal);
  }
  return status;
}
