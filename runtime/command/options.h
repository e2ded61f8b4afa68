/*
 * command/options -- what the command line asks for, decided before any Lua runs.
 *
 * Room: command.  Owns: nothing; options point into argv.
 */
#ifndef LUAPOOL_COMMAND_OPTIONS_H
#define LUAPOOL_COMMAND_OPTIONS_H

#ifndef LUAPOOL_VERSION
#define LUAPOOL_VERSION "0.1.0"
#endif

enum { EXIT_USAGE = 2 }; /* mistakes in options that are ours; those of lua keep lua's status 1 */

struct options {
  int is_interactive; /* -i */
  int shows_version;  /* -v, -i */
  int has_code;       /* -e */
  int ignores_environment; /* -E */
  int workers;        /* -j; 0: not given */
  int script;         /* index in argv of the script; argc: there is none */
  int exit_status;    /* -1: go on; else leave with it, everything has been said */
};

/* options_parse -- read argv up to the script. Prints usage, help and version itself, on the stream where they belong. */
void options_parse(struct options *options, char **argv, const char *program);

/* options_next -- walk the options before the script again: the letter of the next one, its argument (or NULL) in *value; 0 at the end. */
int options_next(char **argv, int script, int *index, char **value);

/* options_print_version -- ours and Lua's line, on stdout. */
void options_print_version(void);

#endif
