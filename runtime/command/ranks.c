/*
 * command/ranks -- see ranks.h.
 *
 * Order matters: everything that will run Lua is forked before the engine is loaded, so that none of it has ever been a process of MPI.
 */
#include "command/ranks.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "base/os.h"
#include "binding/lluapool.h"
#include "cluster/relay.h"
#include "command/call.h"
#include "command/scratch.h"

extern char **environ;

static char launcher[64];  /* the token of ours; the environment of what the script runs has none */
static int own_share; /* how many processes of the job share this machine; known while the environment tells */

enum { LOST_SECONDS = 30, JOIN_SECONDS = 120 /* for all to start: see luapool/cluster */, LATER_SECONDS = 30, SOON_SECONDS = 2,
       STOP_SECONDS = 5, PATH_BYTES = 4096 };

/* ---- who are we? ---- */

static int number_of(const char *name) {
  const char *text = getenv(name);
  char *end;
  long n;
  if (text == NULL || *text == '\0') return -1;
  n = strtol(text, &end, 10);
  return *end || n < 0 || n > 65535 ? -1 : (int)n;
}

/* What launchers tell their processes: Open MPI, MPICH (and Intel MPI), Slurm with PMIx. */
static int find_rank(int *rank, int *size) {
  static const char *const names[][2] = {
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}, {"PMIX_RANK", "SLURM_STEP_NUM_TASKS"},
    {"PMIX_RANK", "SLURM_NTASKS"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    *rank = number_of(names[i][0]);
    *size = number_of(names[i][1]);
    if (*rank >= 0 && *size > *rank) return 1;
  }
  return 0;
}

/* Programs that the script or a task runs are no ranks. */
static void forget_launcher(void) {
  static const char *const prefixes[] = {"OMPI_", "PMIX_", "PMI_", "LUAPOOL_LAUNCHER="};
  char name[256];
  for (char **entry = environ; entry && *entry;) {
    size_t i, length = strcspn(*entry, "=");
    for (i = 0; i < sizeof prefixes / sizeof *prefixes && strncmp(*entry, prefixes[i], strlen(prefixes[i])) != 0; i++) continue;
    if (i == sizeof prefixes / sizeof *prefixes || length >= sizeof name) {
      entry++;
      continue;
    }
    memcpy(name, *entry, length);
    name[length] = '\0';
    if (strncmp(name, "OMPI_ALLOW_RUN", 14) == 0 || unsetenv(name) != 0) entry++;
  }
}

/* ---- the children ---- */

static void ignore_signals(void) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) (void)signal(signals[i], SIG_IGN);
}

static void read_nothing(void) {
  int fd = open("/dev/null", O_RDONLY);
  if (fd < 0) return;
  (void)dup2(fd, STDIN_FILENO);
  if (fd != STDIN_FILENO) (void)close(fd);
}

/* Returns the child's pid, or 0 in the child. `*fd`: this side's end. */
static pid_t fork_with_socket(int *fd, int death_signal) {
  int fds[2], status = os_socket_pair(fds);
  pid_t parent = getpid(), pid;
  if (status < 0) {
    fprintf(stderr, "%s: no socket: %s\n", call_program(), strerror(-status));
    _exit(EXIT_FAILURE);
  }
  pid = fork();
  if (pid < 0) {
    perror("luapool: fork");
    _exit(EXIT_FAILURE);
  }
  os_close(&fds[pid == 0 ? 0 : 1]);
  *fd = fds[pid == 0 ? 1 : 0];
  if (pid > 0) return pid;
#ifdef __linux__
  (void)prctl(PR_SET_PDEATHSIG, death_signal);
#else
  (void)death_signal;
#endif
  if (getppid() != parent) _exit(EXIT_FAILURE);
  forget_launcher();
  return 0;
}

/* Nothing but the signals themselves: kill is async-signal-safe, getpid too. */
static void on_relayed(int signo) {
  (void)kill(getpid(), signo == SIGUSR1 ? SIGINT : SIGTERM);
}

void ranks_catch_signals(void) {
  struct sigaction action = {0};
  action.sa_handler = on_relayed;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  (void)sigaction(SIGUSR1, &action, NULL);
  (void)sigaction(SIGUSR2, &action, NULL);
}

/* ---- the engine ---- */

/* The directory of the program, with its last slash. */
static int own_folder(char *path, size_t size) {
  char *slash;
  if (os_own_program(path, size) <= 0) return 0;
  slash = strrchr(path, '/');
  if (slash == NULL) return 0;
  slash[1] = '\0';
  return 1;
}

int ranks_engine(const char **path) {
  static char found[PATH_BYTES + 64];
  static const char *const places[] = {"luapool-mpi.so", "../lib/luapool/luapool-mpi.so"};
  char folder[PATH_BYTES];
  const char *wish = getenv("LUAPOOL_ENGINE");
  *path = found;
  snprintf(found, sizeof found, "luapool-mpi.so");
  if (wish && *wish) {
    snprintf(found, sizeof found, "%s", wish);
    return access(found, R_OK) == 0;
  }
  if (!own_folder(folder, sizeof folder)) return 0;
  for (size_t i = sizeof places / sizeof *places; i-- > 0;) {
    snprintf(found, sizeof found, "%s%s", folder, places[i]);
    if (access(found, R_OK) == 0) return 1;
  }
  return 0;
}

/* Why this rank cannot take part: one line for each machine. */
__attribute__((format(printf, 2, 3))) static void complain(int rank, const char *format, ...) {
  static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"};
  char host[256] = "?", text[2 * PATH_BYTES];
  va_list arguments;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (number_of(names[i]) > 0) return;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  (void)gethostname(host, sizeof host - 1);
  if (rank == 0) fprintf(stderr, "%s: %s\n", call_program(), text);
  else fprintf(stderr, "%s: node %d (%s): %s\n", call_program(), rank, host, text);
}

static const struct engine *load_engine(int rank) {
  const struct engine *engine;
  const char *path;
  void *library;
  int is_there = ranks_engine(&path);
  library = is_there ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL; /* GLOBAL: components of some MPIs want its symbols */
  engine = library ? dlsym(library, ENGINE_SYMBOL) : NULL;
  if (engine && engine->abi == ENGINE_ABI) return engine;
  if (!is_there) complain(rank, RANKS_NO_ENGINE, path);
  else if (!library) complain(rank, "cannot load %s: %s", path, dlerror());
  else complain(rank, "%s was built for another version of luapool", path);
  return NULL;
}

static double seconds_of(const char *name, double otherwise) {
  const char *text = getenv(name);
  double seconds = text ? strtod(text, NULL) : otherwise;
  return seconds >= 0.5 && seconds <= 86400 ? seconds : otherwise;
}

/* ---- the relay ---- */

static volatile sig_atomic_t exit_status;

static void on_stuck(int signo) {
  (void)signo;
  _exit((int)exit_status);
}

/* (A line on stderr: mpirun forgets the status when it is to survive losses.) */
int ranks_tell(int status) {
  char line[128];
  int n;
  if (!*launcher) return status;
  n = snprintf(line, sizeof line, "\036luapool %.32s %d\n", launcher, status);
  return os_write(STDERR_FILENO, line, (size_t)n) == 0 ? EXIT_SUCCESS : status;
}

/* ---- until all have started ---- */

static volatile pid_t awaited; /* the script, whose end ends the waiting */

/* 1: it has ended, *status as a shell says it. It can still be waited for. */
static int has_script_ended(int *status) {
  siginfo_t info = {0};
  if (awaited <= 0 || waitid(P_PID, (id_t)awaited, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) return 0;
  *status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
  return 1;
}

/* Whoever starts waits for all others, inside MPI, and some may never come: the script has given up, or our time is over. */
static void on_start_over(int signo) {
  int status = EXIT_FAILURE, is_over = has_script_ended(&status);
  if (signo == SIGALRM) _exit(is_over ? ranks_tell(status) : status);
  if (is_over) (void)alarm(SOON_SECONDS);
}

static void watch_start(pid_t script, int is_begin) {
  awaited = script;
  (void)signal(SIGCHLD, is_begin ? on_start_over : SIG_DFL);
  (void)signal(SIGALRM, is_begin ? on_start_over : SIG_DFL);
  (void)alarm(is_begin ? (unsigned)seconds_of("LUAPOOL_JOIN_WITHIN", JOIN_SECONDS) + LATER_SECONDS : 0);
  if (is_begin) on_start_over(SIGCHLD);
}

/* Open MPI ends the process, after a page about how it should have been built. */
static int has_wrong_srun(const struct engine *engine) {
  return strncmp(engine->name, "Open MPI", 8) == 0 && getenv("SLURM_STEP_ID") && getenv("PMI_RANK") && !getenv("PMIX_RANK");
}

/* Who launched us on this machine would have tidied up. */
static _Noreturn void leave(const struct relay_options *options) {
  if (getppid() != options->parent) scratch_remove();
  _exit((int)exit_status);
}

/*
 * Whoever was lost in this moment must not keep us, and what the library's own threads do while it is taken down is not our result: a
 * process that Open MPI 4 counts as a job of its own crashes there once in a while, as its daemon leaves after the code that watched it.
 */
static void stop_engine(const struct engine *engine, int is_clean) {
  static const int signals[] = {SIGALRM, SIGSEGV, SIGBUS, SIGABRT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) (void)signal(signals[i], on_stuck);
  (void)alarm(STOP_SECONDS);
  engine->stop(is_clean);
}

/* It was said why: a script that has not begun would only add that it was interrupted, and that we have ended. */
static _Noreturn void refuse(struct relay_options *options, const struct engine *started) {
  if (options->script > 0) (void)kill(options->script, SIGKILL);
  os_close(&options->pool_fd); /* the pool reads the end of its socket */
  os_close(&options->script_fd);
  exit_status = ranks_tell(EXIT_FAILURE);
  if (started) stop_engine(started, 1); /* each is alone */
  leave(options);
}

static void start_engine(struct relay_options *options, int rank, int size) {
  char text[256] = "";
  const struct engine *engine = load_engine(rank);
  if (engine == NULL) refuse(options, NULL);
  if (has_wrong_srun(engine)) {
    if (rank == 0) complain(rank, "srun --mpi=pmi2 does not start Open MPI: say srun --mpi=pmix");
    refuse(options, NULL);
  }
  watch_start(options->script, 1);
  if (engine->start(&options->rank, &options->size, text, sizeof text) < 0) {
    complain(rank, "%s: %s", engine->name, text);
    refuse(options, NULL);
  }
  watch_start(options->script, 0);
  options->engine = engine;
  if (options->size == size && options->rank == rank) return;
  if (rank == 0) {
    complain(rank, "the launcher started %d processes, but %s counts %d: the launcher is of another MPI than the one that "
             "luapool-mpi.so was built with", size, engine->name, options->size);
  }
  refuse(options, engine);
}

static _Noreturn void relay_process(struct relay_options *options, int rank, int size) {
  int status, is_clean;
  ignore_signals();
  (void)signal(SIGPIPE, SIG_IGN); /* MPI writes to connections whose other end may have died a moment ago: only that node is lost */
  read_nothing();
  scratch_note();
  options->parent = getppid();
  options->lost_after_ns = os_ns_of(seconds_of("LUAPOOL_LOST_AFTER", LOST_SECONDS));
  start_engine(options, rank, size);
  is_clean = relay_run(options, &status);
  exit_status = rank == 0 ? ranks_tell(status) : status;
  stop_engine(options->engine, is_clean);
  leave(options);
}

enum rank_role ranks_begin(int *fd) {
  struct relay_options options = {.script_fd = -1};
  int rank, size;
  *fd = -1;
  if (!find_rank(&rank, &size)) return RANK_NONE;
  own_share = number_of("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (own_share < 0) own_share = number_of("MPI_LOCALNRANKS");
  if (getenv("LUAPOOL_LAUNCHER")) snprintf(launcher, sizeof launcher, "%s", getenv("LUAPOOL_LAUNCHER"));
  options.pool = fork_with_socket(&options.pool_fd, SIGKILL);
  if (options.pool == 0) {
    *fd = options.pool_fd;
    ignore_signals();
    read_nothing();
    return RANK_POOL;
  }
  if (rank == 0) {
    options.script = fork_with_socket(&options.script_fd, SIGTERM);
    if (options.script == 0) {
      os_close(&options.pool_fd);
      *fd = options.script_fd;
      return RANK_SCRIPT;
    }
  }
  relay_process(&options, rank, size);
}

int ranks_run(lua_State *L, enum rank_role role) {
  luapool_push_part(L, role == RANK_POOL ? "node" : "cluster");
  lua_getfield(L, -1, role == RANK_POOL ? "serve" : "join");
  lua_remove(L, -2);
  lua_pushinteger(L, own_share > 0 ? own_share : 1);
  return call_report(L, role == RANK_POOL ? call_function(L, 1, 0) : lua_pcall(L, 1, 0, 0)); /* no traceback: nothing in it is the user's */
}
