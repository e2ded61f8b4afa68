/*
 * command/options -- what the command line asks for, decided before any Lua runs.
 *
 * Room: command.  Owns: the list of what was given; its texts point into argv.
 * What the values of our options may be is luapool/defaults' business, as for environment variables.
 */
#ifndef LUAPOOL_COMMAND_OPTIONS_H
#define LUAPOOL_COMMAND_OPTIONS_H

#ifndef LUAPOOL_VERSION
#define LUAPOOL_VERSION "0.1.0"
#endif

enum { EXIT_USAGE = 2 }; /* mistakes in options that are ours; those of lua keep lua's status 1 */

/* One option that was given: lua's -e, -l and -W by their letter, ours by their long name (letter 0). */
struct given {
  char letter;
  const char *name;
  char *value; /* NULL: it has none */
};

struct options {
  int is_interactive; /* -i */
  int shows_version;  /* -v, -i */
  int has_code;       /* -e */
  int ignores_environment; /* -E */
  int script;         /* index in argv of the script (or of a command word); argc: there is none */
  int exit_status;    /* -1: go on; else leave with it, everything has been said */
  struct given *given; /* n of them, in their order */
  int n_given;
};

/*
 * options_parse -- read argv up to the script. Prints usage, help and version itself, on the stream where they belong.
 * options_free -- afterwards, whatever came of it.
 */
void options_parse(struct options *options, int argc, char **argv, const char *program);
void options_free(struct options *options);

/* options_has_environment -- is there any variable LUAPOOL_...? */
int options_has_environment(void);

/* options_print_version -- ours and Lua's line, on stdout. */
void options_print_version(void);

#endif
