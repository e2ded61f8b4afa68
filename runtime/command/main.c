/*
 * command/main -- the program luapool: a lua that runs on every core and that Ctrl-C can stop.
 *
 * Room: command (the only one that prints and exits).  Owns: the Lua state of the program.
 * Two protected calls: `prepare` opens the libraries; `run` does everything else inside a run scope, so that an interrupt
 * is an error from the first line of LUA_INIT to the last of the script. The end of it all is in `finish`.
 */
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "binding/lhelper.h"
#include "binding/lluapool.h"
#include "binding/lwire.h"
#include "command/call.h"
#include "command/launch.h"
#include "command/modules.h"
#include "command/options.h"
#include "command/parts.h"
#include "command/prompt.h"
#include "command/repl.h"
#include "command/ranks.h"
#include "command/state.h"
#include "command/words.h"
#include "job/delivery.h"
#include "luapool.h"
#include "process/interrupt.h"

#ifndef __linux__
enum { PATH_BYTES = 4096 };
#endif

/*
 * Per cent of the heap after which young garbage of one-liners is collected. Lines are dead at once, and their memory is better used again
 * while it is in the caches: a quarter less time than with Lua's default for `seq 1000000 | luapool map _`.
 */
enum { LINES_NURSERY = 2 };

struct program {
  int argc;
  char **argv;
  struct options options;
  enum rank_role role; /* in a job on many machines */
  int wire;    /* its socket */
  int is_done; /* ran to its end without an error */
  int status;  /* that the process ends with; EXIT_SUCCESS: unless is_done says otherwise */
};

/*
 * Words that can stand where a script's name stands. Each runs inside the run scope, under a protected call, with argv[0] the word; what it
 * returns is the status of the process. It may use what luapool_push_part gives.
 */
static const struct command_word {
  const char *name;
  int (*run)(lua_State *L, int argc, char **argv);
} command_words[] = {{"map", words_run}, {"filter", words_run}, {"reduce", words_run}, {NULL, NULL}};

/* NULL: the word is none of them (then it is a script: one of such a name is run as ./NAME). */
static const struct command_word *find_command_word(const char *name) {
  const struct command_word *word = command_words;
  while (word->name && strcmp(word->name, name) != 0) word++;
  return word->name ? word : NULL;
}

static int is_one_liner(const struct program *program) {
  return program->options.script < program->argc && find_command_word(program->argv[program->options.script]) != NULL;
}

static int is_stdin(char **argv) {
  return strcmp(argv[0], "-") == 0 && strcmp(argv[-1], "--") != 0;
}

/* Script at index 0, its arguments above, the rest of the command line below; without a script the program is at 0. */
static void set_arg(lua_State *L, const struct program *program) {
  int script = program->options.script == program->argc ? 0 : program->options.script;
  lua_createtable(L, program->argc - (script + 1), script + 1);
  for (int i = 0; i < program->argc; i++) {
    lua_pushstring(L, program->argv[i]);
    lua_rawseti(L, -2, i - script);
  }
  lua_setglobal(L, "arg");
}

/* A trace or a report is not what it should be: work goes on, but the exit status tells. */
static int has_problem;

static void note_problem(const char *text) {
  has_problem = 1;
  call_message(text);
}

/* Ours become defaults of pools and calls. What they say is checked before any work starts; those of the environment, too. */
static void set_defaults(lua_State *L, struct program *program) {
  int n = 0;
  for (int i = 0; i < program->options.n_given; i++) {
    const struct given *given = &program->options.given[i];
    if (!given->name) continue;
    luapool_set_option(L, given->name, given->value ? given->value : "");
    n++;
  }
  if (program->role == RANK_POOL) return; /* it is the script's business */
  if (n == 0 && (program->options.ignores_environment || !options_has_environment())) return;
  program->status = EXIT_USAGE;
  luapool_check_options(L);
  program->status = EXIT_SUCCESS;
}

/* Modules beside the script, also for -l. */
static void open_folder(lua_State *L, const struct program *program) {
  char **script = program->argv + program->options.script;
  if (program->options.script < program->argc && !is_one_liner(program) && !is_stdin(script)) modules_beside(L, *script);
}

/*
 * What is executed to start workers (start = "server", "spawn"): this very program, on Linux whatever became of its file. Where the system
 * does not tell (there is no /proc), it is what it was called by.
 */
static void set_helper(lua_State *L, const struct program *program) {
  const char *called = program->argc > 0 && program->argv[0][0] ? program->argv[0] : "luapool";
#ifdef __linux__
  luapool_set_helper(L, access("/proc/self/exe", X_OK) == 0 ? "/proc/self/exe" : called);
#else
  char path[PATH_BYTES];
  luapool_set_helper(L, os_own_program(path, sizeof path) > 0 ? path : called);
#endif
}

static int prepare(lua_State *L) {
  struct program *program = lua_touserdata(L, 1);
  luaL_checkversion(L);
  if (program->options.ignores_environment) {
    lua_pushboolean(L, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
  }
  delivery_open(L); /* first: its finalizer must be the last */
  luaL_openlibs(L);
  delivery_wrap_libraries(L, 1);
  luaL_requiref(L, "luapool", luaopen_luapool, 0);
  parts_open(L);
  lua_setglobal(L, "pool");
  luapool_on_problem(L, note_problem);
  luapool_set_command(L);
  set_helper(L, program);
  if (program->wire >= 0) lwire_attach(L, program->wire, program->role == RANK_POOL);
  set_arg(L, program);
  open_folder(L, program);
  set_defaults(L, program);
  lua_gc(L, LUA_GCGEN, is_one_liner(program) ? LINES_NURSERY : 0, 0);
  return 0;
}

static int run_init(lua_State *L) {
  const char *name = "=LUA_INIT" LUA_VERSUFFIX;
  const char *init = getenv(name + 1);
  if (!init) init = getenv((name = "=LUA_INIT") + 1);
  if (!init) return LUA_OK;
  if (init[0] == '@') return call_chunk(L, call_load_file(L, init + 1));
  return call_chunk(L, luaL_loadbuffer(L, init, strlen(init), name));
}

/* -l name, -l global=name */
static int require_library(lua_State *L, char *text) {
  char *name = strchr(text, '=');
  int status;
  if (name) *name++ = '\0';
  else name = text;
  lua_getglobal(L, "require");
  lua_pushstring(L, name);
  status = call_function(L, 1, 1);
  if (status == LUA_OK) lua_setglobal(L, text);
  return call_report(L, status);
}

/* -e, -l and -W, in their order. */
static int run_options(lua_State *L, const struct program *program) {
  int status = LUA_OK;
  for (int i = 0; status == LUA_OK && i < program->options.n_given; i++) {
    const struct given *given = &program->options.given[i];
    if (given->letter == 'e') status = call_chunk(L, luaL_loadbuffer(L, given->value, strlen(given->value), "=(command line)"));
    if (given->letter == 'l') status = require_library(L, given->value);
    if (given->letter == 'W') lua_warning(L, "@on", 0);
  }
  return status;
}

/* The script's arguments are those in `arg` by now. */
static int push_arguments(lua_State *L) {
  int n;
  if (lua_getglobal(L, "arg") != LUA_TTABLE) luaL_error(L, "'arg' is not a table");
  n = (int)luaL_len(L, -1);
  luaL_checkstack(L, n + 3, "too many arguments to script");
  for (int i = 1; i <= n; i++) lua_rawgeti(L, -i, i);
  lua_remove(L, -(n + 1));
  return n;
}

static int run_script(lua_State *L, char **argv) {
  int status = call_load_file(L, is_stdin(argv) ? NULL : argv[0]);
  if (status == LUA_OK) status = call_function(L, push_arguments(L), LUA_MULTRET);
  return call_report(L, status);
}

/* Where nobody types, the prompt is lua's own. */
static void run_prompt(lua_State *L) {
  if (isatty(STDIN_FILENO)) repl_run(L);
  else prompt_run(L);
}

static void run_without_script(lua_State *L, struct program *program) {
  const struct options *options = &program->options;
  if (options->is_interactive) {
    run_prompt(L);
  } else if (options->script < program->argc || options->has_code || options->shows_version) {
    return;
  } else if (isatty(STDIN_FILENO)) {
    options_print_version();
    run_prompt(L);
  } else {
    call_chunk(L, call_load_file(L, NULL)); /* lua's exit status does not tell how this ended */
  }
}

static int run_command_word(lua_State *L, struct program *program) {
  int at = program->options.script;
  const struct command_word *word = at < program->argc ? find_command_word(program->argv[at]) : NULL;
  if (word && program->role == RANK_SCRIPT) luaL_error(L, "luapool %s works on one machine: run it without --mpi", word->name);
  if (word) program->status = word->run(L, program->argc - at, program->argv + at);
  return word != NULL;
}

static int run(lua_State *L) {
  struct program *program = lua_touserdata(L, 1);
  const struct options *options = &program->options;
  lua_settop(L, 0);
  if (program->role != RANK_NONE && ranks_run(L, program->role) != LUA_OK) return 0;
  if (program->role == RANK_POOL) {
    program->is_done = 1;
    return 0;
  }
  if (!options->ignores_environment && run_init(L) != LUA_OK) return 0;
  if (run_options(L, program) != LUA_OK) return 0;
  if (run_command_word(L, program)) {
    program->is_done = 1;
    return 0;
  }
  if (options->script < program->argc && run_script(L, program->argv + options->script) != LUA_OK) return 0;
  run_without_script(L, program);
  program->is_done = 1;
  return 0;
}

static int call_with(lua_State *L, lua_CFunction function, struct program *program) {
  int status, is_repeated;
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, program);
  status = lua_pcall(L, 1, 0, 0);
  is_repeated = status != LUA_OK && call_interrupted_by() && delivery_is_interrupt(L, -1);
  return is_repeated ? status : call_report(L, status); /* one line, however often the key is pressed */
}

/* Pools end with the state. What ended the script, or came too late for it, ends the process. */
static int finish(lua_State *L, struct program *program) {
  int signo = call_interrupted_by(), is_orphan, status;
  const char *end = program->role == RANK_SCRIPT ? lwire_end(L) : NULL;
  is_orphan = end != NULL;
  if (is_orphan && signo) { /* the manager's end interrupted the script */
    call_message(end);
    program->is_done = signo = 0;
  }
  interrupt_ending(1);
  state_close(L);
  options_free(&program->options);
  if (!signo && (signo = interrupt_pending())) call_message("interrupted!");
  if (signo) interrupt_die(signo);
  status = program->is_done && !has_problem ? EXIT_SUCCESS : EXIT_FAILURE;
  if (program->status != EXIT_SUCCESS) status = program->status;
  return is_orphan ? ranks_tell(status) : status;
}

/*
 * Closed streams stay useless, but their numbers are taken: else print, also of tasks, would write to a file that the script has opened.
 * To programs that are executed they are closed.
 */
static void hold_streams(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    int nothing = open("/dev/null", (fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
    if (nothing > fd) close(nothing);
  }
}

int main(int argc, char **argv) {
  struct program program = {.argc = argc, .argv = argv};
  struct delivery_frame scope;
  lua_State *L;
  int status = luapool_worker_main(argc, argv, NULL); /* executed to start workers for another process? Before anything is opened */
  if (status >= 0) return status;
  hold_streams();
  if (argc > 0 && argv[0][0]) call_set_program(argv[0]);
  options_parse(&program.options, argc, argv, call_program());
  if (program.options.exit_status >= 0) {
    options_free(&program.options);
    return program.options.exit_status;
  }
  program.role = ranks_begin(&program.wire);
  if (program.role == RANK_NONE && launch_is_wanted(&program.options)) {
    status = launch_run(&program.options, argc, argv);
    options_free(&program.options);
    return status;
  }
  if (program.role != RANK_POOL) interrupt_catch(); /* without it the program is one that signals kill: no reason not to run */
  if (program.role == RANK_SCRIPT) ranks_catch_signals();
  if (program.options.shows_version) options_print_version();
  L = state_open();
  if (!L) {
    call_message("cannot create state: not enough memory");
    return EXIT_FAILURE;
  }
  if (call_with(L, prepare, &program) != LUA_OK) return finish(L, &program);
  delivery_enter(&scope, L);
  call_with(L, run, &program);
  delivery_leave(&scope);
  return finish(L, &program);
}
