/*
 * command/options -- the options of lua, with lua's messages, and ours. See options.h.
 *
 * Room: command (may print).
 * getopt_long reads them, but lua knows neither bundles of letters nor values that look like options: what was meant as an option of lua's
 * is judged by the whole word, as lua judges it.
 */
#include "command/options.h"
#include "command/ranks.h"

#include <getopt.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char lua_lines[] =
  "  -e stat   execute string 'stat'\n"
  "  -i        enter interactive mode after executing 'script'\n"
  "  -l mod    require library 'mod' into global 'mod'\n"
  "  -l g=mod  require library 'mod' into global 'g'\n"
  "  -v        show version information\n"
  "  -E        ignore environment variables\n"
  "  -W        turn warnings on\n"
  "  --        stop handling options\n"
  "  -         stop handling options and execute stdin\n";

/* The long options. Those with a letter of ours have it in `val`, help and version the one that nothing else has. */
enum { FIRST_LONG = 256, HELP, VERSION };

static const struct option long_options[] = {
  {"workers", required_argument, NULL, 'j'},
  {"timeout", required_argument, NULL, 't'},
  {"memory", required_argument, NULL, 'm'},
  {"seed", required_argument, NULL, FIRST_LONG},
  {"chunk", required_argument, NULL, FIRST_LONG},
  {"buffer", required_argument, NULL, FIRST_LONG},
  {"retries", required_argument, NULL, FIRST_LONG},
  {"retry-delay", required_argument, NULL, FIRST_LONG},
  {"on-crash", required_argument, NULL, FIRST_LONG},
  {"grace", required_argument, NULL, FIRST_LONG},
  {"deadline", required_argument, NULL, FIRST_LONG},
  {"halt", required_argument, NULL, FIRST_LONG},
  {"max-tasks", required_argument, NULL, FIRST_LONG},
  {"max-growth", required_argument, NULL, FIRST_LONG},
  {"idle-timeout", required_argument, NULL, FIRST_LONG},
  {"load", required_argument, NULL, FIRST_LONG},
  {"memfree", required_argument, NULL, FIRST_LONG},
  {"nice", required_argument, NULL, FIRST_LONG},
  {"pin", optional_argument, NULL, FIRST_LONG},
  {"start", required_argument, NULL, FIRST_LONG},
  {"output", required_argument, NULL, FIRST_LONG},
  {"progress", optional_argument, NULL, FIRST_LONG},
  {"color", optional_argument, NULL, FIRST_LONG},
  {"quiet", no_argument, NULL, 'q'},
  {"log", required_argument, NULL, FIRST_LONG},
  {"resume", optional_argument, NULL, FIRST_LONG},
  {"trace", required_argument, NULL, FIRST_LONG},
  {"report", required_argument, NULL, FIRST_LONG},
  {"mpi", optional_argument, NULL, FIRST_LONG},
  {"hosts", required_argument, NULL, 'H'},
  {"mpirun", required_argument, NULL, FIRST_LONG},
  {"help", no_argument, NULL, HELP},
  {"version", no_argument, NULL, VERSION},
  {NULL, 0, NULL, 0}};

static const char letters[] = "+:e:l:ivEWj:t:m:qH:";

static const char our_lines[] =
  "\n"
  "Workers (what a call or a pool of the script says itself goes before an option, an option before its environment variable):\n"
  "  -j, --workers N|auto         how many workers; 0: none, everything runs in this process  [LUAPOOL_WORKERS]\n"
  "      --start METHOD           how they start: fork, server, spawn or auto                 [LUAPOOL_START]\n"
  "      --max-tasks N            replace a worker after N items                              [LUAPOOL_MAX_TASKS]\n"
  "      --max-growth SIZE        replace a worker that has grown by so much                  [LUAPOOL_MAX_GROWTH]\n"
  "      --idle-timeout SECONDS   let a worker go that has had nothing to do for so long      [LUAPOOL_IDLE_TIMEOUT]\n"
  "      --load N|N%              begin nothing while so many other processes run             [LUAPOOL_LOAD]\n"
  "      --memfree SIZE           begin nothing while less memory is left                     [LUAPOOL_MEMFREE]\n"
  "      --nice N|idle            lower the workers' priority by N, up to 19; idle: they run  [LUAPOOL_NICE]\n"
  "                               only where nobody else wants to\n"
  "      --pin                    bind each worker to one processor                           [LUAPOOL_PIN]\n"
  "      --seed N                 item i has the random numbers of (N, i), whoever runs it    [LUAPOOL_SEED]\n"
  "      --chunk N|auto           items that a worker takes at a time                         [LUAPOOL_CHUNK]\n"
  "      --buffer N|auto          items that imap may be ahead of its loop                    [LUAPOOL_BUFFER]\n"
  "\n"
  "Limits and failures:\n"
  "  -t, --timeout SECONDS        how long an item may take                                   [LUAPOOL_TIMEOUT]\n"
  "  -m, --memory SIZE            what a worker may allocate: 512M, 2G                        [LUAPOOL_MEMORY]\n"
  "      --grace SECONDS          how long an interrupted item may clean up, before the kill  [LUAPOOL_GRACE]\n"
  "      --deadline SECONDS       how long each call may take, all in all                     [LUAPOOL_DEADLINE]\n"
  "      --halt WHEN              end each call early: now,fail=3, soon,fail=10%, now,success=1  [LUAPOOL_HALT]\n"
  "      --retries N              try a failed item again, so many times                      [LUAPOOL_RETRIES]\n"
  "      --retry-delay SECONDS    wait before the first retry, twice as long before each more [LUAPOOL_RETRY_DELAY]\n"
  "      --on-crash WHAT          an item that a worker does not survive: raise, retry, skip  [LUAPOOL_ON_CRASH]\n"
  "\n"
  "What is seen:\n"
  "      --output MODE            what tasks print: line, tag, order or discard               [LUAPOOL_OUTPUT]\n"
  "      --progress[=WHEN]        show how far each call is: auto (on a terminal), always,    [LUAPOOL_PROGRESS]\n"
  "                               never (not even where the script wants it)\n"
  "      --color[=WHEN]           colours: auto, always, never; NO_COLOR is respected         [LUAPOOL_COLOR]\n"
  "  -q, --quiet                  no progress, no warnings of luapool, no word on reports     [LUAPOOL_QUIET]\n"
  "\n"
  "What is kept:\n"
  "      --log FILE               every finished item of map, each, starmap and imap; further [LUAPOOL_LOG]\n"
  "                               calls have logs of their own: run.jsonl, run.2.jsonl, ...\n"
  "      --resume[=failed]        go on from the log; failed: and try again what failed       [LUAPOOL_RESUME]\n"
  "      --trace FILE             a timeline for Perfetto or chrome://tracing                 [LUAPOOL_TRACE]\n"
  "      --report FILE            a page of HTML: where the time went                         [LUAPOOL_REPORT]\n"
  "\n"
  "Many machines (over MPI; see the README):\n"
  "      --mpi[=N]                run the script on all nodes of the Slurm job, or of -H, or on N pretended ones here\n"
  "  -H, --hosts HOST,...         the machines, over ssh\n"
  "      --mpirun COMMAND         how to start them, if not as 'mpirun' does by default\n"
  "\n"
  "      --help                   show this text\n"
  "      --version                show what this program is and can do\n"
  "\n"
  "Examples:\n"
  "  luapool                      a prompt\n"
  "  luapool job.lua a b          run a script; its arguments are in arg and ...\n"
  "  luapool -j 8 --progress --log run.jsonl job.lua\n"
  "  luapool -j 8 --progress --log run.jsonl --resume job.lua      go on after a crash\n"
  "  seq 1 1000000 | luapool map 'tonumber(_) ^ 2'\n"
  "  luapool -e 'print(#pool.map(function(x) return x * x end, 1000))'\n";

static void print_usage(FILE *out, const char *program) {
  fprintf(out, "usage: %s [options] [script [args]]\n", program);
}

static void print_help(const char *program) {
  print_usage(stdout, program);
  printf("       %s [options] map|filter|reduce EXPR [files]     one-liners over lines: %s map --help\n", program, program);
  printf("Options of lua:\n%s%s", lua_lines, our_lines);
  fflush(stdout);
}

void options_print_version(void) {
  printf("luapool " LUAPOOL_VERSION " (" LUA_RELEASE ")\n" LUA_COPYRIGHT "\n");
  fflush(stdout);
}

static void print_engine(void) {
  const char *path;
  if (ranks_engine(&path)) printf("engines found: mpi (%s)\n", path);
  else printf("engines not found: mpi (build it with 'make MPI=1')\n");
}

static void print_all_about_it(void) {
  options_print_version();
  printf("start methods: fork, server, spawn\nengines built in: local (processes on this machine)\n");
  print_engine();
  fflush(stdout);
}

/* ---- mistakes ---- */

/* As lua says it, with lua's list. */
static void reject_as_lua(struct options *options, const char *program, const char *format, const char *word) {
  fprintf(stderr, "%s: ", program);
  fprintf(stderr, format, word);
  fputc('\n', stderr);
  print_usage(stderr, program);
  fprintf(stderr, "Available options are:\n%s  --help    show all options, those of luapool too\n", lua_lines);
  options->exit_status = EXIT_FAILURE;
}

static void reject(struct options *options, const char *program, const char *format, const char *option) {
  fprintf(stderr, "%s: ", program);
  fprintf(stderr, format, option);
  fputc('\n', stderr);
  print_usage(stderr, program);
  fprintf(stderr, "(%s --help lists the options)\n", program);
  options->exit_status = EXIT_USAGE;
}

/* How many long options begin so, up to '='? */
static int count_matches(const char *text) {
  size_t length = strcspn(text, "=");
  int count = 0;
  for (const struct option *option = long_options; option->name; option++) count += strncmp(option->name, text, length) == 0;
  return count;
}

/* getopt said '?' or ':' about `word`. */
static void reject_word(struct options *options, const char *program, const char *word, int what) {
  if (word[1] != '-' || word[2] == '-' || word[2] == '\0') {
    if (what != ':') reject_as_lua(options, program, "unrecognized option '%s'", word);
    else if (strchr("el", optopt)) reject_as_lua(options, program, "'%s' needs argument", word);
    else reject(options, program, "'%s' needs argument", word);
  } else if (what == ':') {
    reject(options, program, "'%s' needs argument", word);
  } else if (optopt) {
    reject(options, program, "option '%s': no argument expected", word);
  } else {
    reject(options, program, count_matches(word + 2) > 1 ? "option '%s' is not clear: several begin so" : "unrecognized option '%s'", word);
  }
}

/* ---- reading ---- */

static void note(struct options *options, int letter, const char *name, char *value) {
  struct given *given = &options->given[options->n_given++];
  given->letter = (char)letter;
  given->name = name;
  given->value = value;
}

static const char *long_name_of(int letter) {
  const struct option *option = long_options;
  while (option->name && option->val != letter) option++;
  return option->name;
}

/* One of lua's; `word` is the argument that it stands in. Lua knows no bundles, and no value of -e and -l that looks like an option. */
static void take_luas(struct options *options, const char *program, const char *word, int letter) {
  int has_value = letter == 'e' || letter == 'l';
  if (has_value && word[2] == '\0' && optarg[0] == '-') {
    reject_as_lua(options, program, "'%s' needs argument", word);
  } else if (word[1] != letter || (!has_value && word[2] != '\0')) {
    reject_as_lua(options, program, "unrecognized option '%s'", word);
  } else {
    if (letter == 'e') options->has_code = 1;
    if (letter == 'E') options->ignores_environment = 1;
    if (letter == 'i') options->is_interactive = 1;
    if (letter == 'i' || letter == 'v') options->shows_version = 1;
    if (strchr("elW", letter)) note(options, letter, NULL, has_value ? optarg : NULL);
  }
}

static void take(struct options *options, const char *program, const char *word, int letter, int long_index) {
  if (letter == '?' || letter == ':') {
    reject_word(options, program, word, letter);
  } else if (letter == HELP) {
    print_help(program);
    options->exit_status = EXIT_SUCCESS;
  } else if (letter == VERSION) {
    print_all_about_it();
    options->exit_status = EXIT_SUCCESS;
  } else if (letter >= FIRST_LONG) {
    note(options, 0, long_options[long_index].name, optarg);
  } else if (!strchr("jtmqH", letter)) {
    take_luas(options, program, word, letter);
  } else if (word[1] == '-' || (word[1] == letter && (optarg || word[2] == '\0'))) {
    note(options, 0, long_name_of(letter), optarg);
  } else {
    reject_as_lua(options, program, "unrecognized option '%s'", word); /* a bundle */
  }
}

void options_parse(struct options *options, int argc, char **argv, const char *program) {
  memset(options, 0, sizeof *options);
  options->exit_status = -1;
  options->script = argc;
  if (argc < 2) return;
  options->given = calloc((size_t)argc, sizeof *options->given);
  if (!options->given) {
    fprintf(stderr, "%s: not enough memory\n", program);
    options->exit_status = EXIT_FAILURE;
    return;
  }
  opterr = 0;
  for (;;) {
    int long_index = 0, at = optind;
    int letter = getopt_long(argc, argv, letters, long_options, &long_index);
    if (letter < 0) break;
    take(options, program, argv[at], letter, long_index);
    if (options->exit_status >= 0) return;
  }
  options->script = optind;
}

void options_free(struct options *options) {
  free(options->given);
  options->given = NULL;
  options->n_given = 0;
}

int options_has_environment(void) {
  for (char **entry = environ; entry && *entry; entry++) {
    if (strncmp(*entry, "LUAPOOL_", 8) == 0) return 1;
  }
  return 0;
}
