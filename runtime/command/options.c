/*
 * command/options -- the options of lua, with lua's messages, and ours.
 *
 * Room: command (may print).
 */
#include "command/options.h"

#include <errno.h>
#include <limits.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char option_lines[] =
  "Available options are:\n"
  "  -e stat   execute string 'stat'\n"
  "  -i        enter interactive mode after executing 'script'\n"
  "  -l mod    require library 'mod' into global 'mod'\n"
  "  -l g=mod  require library 'mod' into global 'g'\n"
  "  -v        show version information\n"
  "  -E        ignore environment variables\n"
  "  -W        turn warnings on\n"
  "  -j n      use n workers where the script does not say how many (--workers n)\n"
  "  --help    show this text\n"
  "  --version show version information and leave\n"
  "  --        stop handling options\n"
  "  -         stop handling options and execute stdin\n";

static void print_usage(FILE *out, const char *program) {
  fprintf(out, "usage: %s [options] [script [args]]\n%s", program, option_lines);
  fflush(out);
}

void options_print_version(void) {
  printf("luapool " LUAPOOL_VERSION " (" LUA_RELEASE ")\n" LUA_COPYRIGHT "\n");
  fflush(stdout);
}

static int reject(struct options *options, int status, const char *program, const char *format, const char *option) {
  fprintf(stderr, "%s: ", program);
  fprintf(stderr, format, option);
  fputc('\n', stderr);
  print_usage(stderr, program);
  options->exit_status = status;
  return 0;
}

static int unrecognized(struct options *options, const char *program, const char *option) {
  int is_long = option[0] == '-' && option[1] == '-' && option[2] != '-';
  return reject(options, is_long ? EXIT_USAGE : EXIT_FAILURE, program, "unrecognized option '%s'", option);
}

static int parse_workers(struct options *options, const char *program, const char *text) {
  char *end;
  long n;
  if (!text) return reject(options, EXIT_USAGE, program, "'%s' needs argument", "-j");
  errno = 0;
  n = strtol(text, &end, 10);
  if (end == text || *end != '\0' || errno || n < 1 || n > INT_MAX)
    return reject(options, EXIT_USAGE, program, "number of workers expected, got '%s'", text);
  options->workers = (int)n;
  return 1;
}

/* Ours: "--word", "--word value", "--word=value". Returns 1 to go on; *index moves over a value. */
static int parse_long(struct options *options, char **argv, int *index, const char *program) {
  const char *option = argv[*index];
  if (strcmp(option, "--help") == 0) {
    print_usage(stdout, program);
    options->exit_status = EXIT_SUCCESS;
    return 0;
  }
  if (strcmp(option, "--version") == 0) {
    options_print_version();
    options->exit_status = EXIT_SUCCESS;
    return 0;
  }
  if (strncmp(option, "--workers=", 10) == 0) return parse_workers(options, program, option + 10);
  if (strcmp(option, "--workers") == 0) {
    if (argv[*index + 1]) ++*index;
    return parse_workers(options, program, argv[*index] == option ? NULL : argv[*index]);
  }
  return unrecognized(options, program, option);
}

/* -e, -l and -j take what follows the letter, or the next argument (for lua's own not one that looks like an option). */
static int parse_with_value(struct options *options, char **argv, int *index, const char *program) {
  const char *option = argv[*index];
  const char *value = option[2] ? option + 2 : argv[*index + 1];
  if (!option[2] && value) ++*index;
  if (option[1] == 'j') return parse_workers(options, program, value);
  if (option[1] == 'e') options->has_code = 1;
  if (!option[2] && (!value || value[0] == '-'))
    return reject(options, EXIT_FAILURE, program, "'%s' needs argument", option);
  return 1;
}

static int parse_flag(struct options *options, const char *option, const char *program) {
  if (option[2] != '\0') return unrecognized(options, program, option);
  switch (option[1]) {
    case 'E': options->ignores_environment = 1; return 1;
    case 'W': return 1;
    case 'i': options->is_interactive = 1; options->shows_version = 1; return 1;
    case 'v': options->shows_version = 1; return 1;
    default: return unrecognized(options, program, option);
  }
}

void options_parse(struct options *options, char **argv, const char *program) {
  int i, goes_on = 1;
  memset(options, 0, sizeof *options);
  options->exit_status = -1;
  for (i = 1; goes_on && argv[i]; i++) {
    const char *option = argv[i];
    if (option[0] != '-' || option[1] == '\0') break; /* the script; "-" is stdin */
    if (strcmp(option, "--") == 0) {
      i++;
      break;
    }
    if (option[1] == '-') goes_on = parse_long(options, argv, &i, program);
    else if (strchr("elj", option[1])) goes_on = parse_with_value(options, argv, &i, program);
    else goes_on = parse_flag(options, option, program);
  }
  options->script = i;
}

int options_next(char **argv, int script, int *index, char **value) {
  const char *option;
  *value = NULL;
  if (*index >= script) return 0;
  option = argv[(*index)++];
  if (strcmp(option, "--workers") == 0) ++*index;
  if (option[1] && strchr("elj", option[1])) *value = option[2] ? argv[*index - 1] + 2 : argv[(*index)++];
  return option[1];
}
