/*
 * command/line_editor -- see line_editor.h.
 *
 * Room: command (may print).
 * GNU readline is used through its callback interface: we wait, so that interrupts, Ctrl-Z and resized windows are noticed at once,
 * whatever the editor is at. libedit's version of that interface misbehaves; its blocking readline() is given a function of ours that waits
 * for a character. Neither installs signal handlers.
 */
#include "command/line_editor.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/os.h"
#include "binding/lidle.h"
#include "command/call.h"
#include "command/job_control.h"
#include "job/delivery.h"
#include "process/interrupt.h"

enum kind { PLAIN, READLINE, LIBEDIT };

enum { MOST_POOLS = 16, PAUSE_NS = 20 * 1000 * 1000 /* from one look at the pools to the next: each may draw the line again */ };

typedef char **completion_function(const char *, int, int);
typedef char *generator(const char *, int);

/* What is used of the libraries. Pointers to their variables are NULL where a library has none. */
static struct {
  char *(*readline)(const char *);
  void (*add_history)(const char *);
  void (*using_history)(void);
  int (*initialize)(void);
  void (*stifle_history)(int);
  void (*prep_terminal)(int);
  void (*deprep_terminal)(void);
  int (*forced_update_display)(void);
  void (*resize_terminal)(void);
  int (*redisplay)(void);
  char **(*completion_matches)(const char *, generator *);
  char *(*filename_completion)(const char *, int);
  void (*display_match_list)(char **, int, int);
  /* readline alone: */
  void (*callback_handler_install)(const char *, void (*)(char *));
  void (*callback_handler_remove)(void);
  void (*callback_read_char)(void);
  void (*callback_sigcleanup)(void);
  void (*free_line_state)(void);
  void (*reset_screen_size)(void);
  int (*variable_bind)(const char *, const char *);
  char *(*variable_value)(const char *);
  /* variables */
  int *eof_found, *catch_signals, *catch_sigwinch, *change_environment, *end, *point, *completion_over, *append_character, *query_items;
  const char **readline_name, **word_break_characters, **quote_characters;
  char **line_buffer;
  completion_function **attempted_completion;
  char *(**word_break_hook)(void);
  int (**getc)(FILE *);
  void (**display_matches_hook)(char **, int, int);
} rl;

static struct {
  enum kind kind;
  lua_State *L;     /* while a line is read */
  char *line;       /* that was read; malloc'ed by the library */
  int is_over;      /* the line has been read, or its end */
  int is_dropped;   /* libedit: the wait for a character was ended by an interrupt */
  int has_error;    /* an interrupt that came while a pool was served is on top of L's stack */
  int is_alone;     /* serving the pools has failed: not again for this line */
  int64_t next_ns;  /* when to serve them again */
  struct winsize size;
} editor;

static char completer_key; /* its place in the registry */

/* ---- the library ------------------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  void *place;
  int is_needed; /* by: 1 both, 2 readline; 0: it can be done without */
} symbols[] = {
  {"readline", &rl.readline, 1}, {"add_history", &rl.add_history, 1}, {"using_history", &rl.using_history, 1},
  {"rl_initialize", &rl.initialize, 1}, {"stifle_history", &rl.stifle_history, 1}, {"rl_prep_terminal", &rl.prep_terminal, 1},
  {"rl_deprep_terminal", &rl.deprep_terminal, 1},
  {"rl_forced_update_display", &rl.forced_update_display, 1}, {"rl_resize_terminal", &rl.resize_terminal, 1},
  {"rl_redisplay", &rl.redisplay, 1}, {"rl_completion_matches", &rl.completion_matches, 1},
  {"rl_filename_completion_function", &rl.filename_completion, 1}, {"rl_display_match_list", &rl.display_match_list, 1},
  {"rl_callback_handler_install", &rl.callback_handler_install, 2},
  {"rl_callback_handler_remove", &rl.callback_handler_remove, 2}, {"rl_callback_read_char", &rl.callback_read_char, 2},
  {"rl_callback_sigcleanup", &rl.callback_sigcleanup, 2}, {"rl_free_line_state", &rl.free_line_state, 2},
  {"rl_reset_screen_size", &rl.reset_screen_size, 2}, {"rl_variable_bind", &rl.variable_bind, 2},
  {"rl_variable_value", &rl.variable_value, 2},
  {"rl_eof_found", &rl.eof_found, 0}, {"rl_catch_signals", &rl.catch_signals, 1}, {"rl_catch_sigwinch", &rl.catch_sigwinch, 0},
  {"rl_change_environment", &rl.change_environment, 0}, {"rl_end", &rl.end, 1}, {"rl_point", &rl.point, 1},
  {"rl_attempted_completion_over", &rl.completion_over, 1}, {"rl_completion_append_character", &rl.append_character, 1},
  {"rl_completion_query_items", &rl.query_items, 0}, {"rl_readline_name", &rl.readline_name, 1},
  {"rl_completer_word_break_characters", &rl.word_break_characters, 1}, {"rl_completer_quote_characters", &rl.quote_characters, 0},
  {"rl_line_buffer", &rl.line_buffer, 1}, {"rl_attempted_completion_function", &rl.attempted_completion, 1},
  {"rl_completion_word_break_hook", &rl.word_break_hook, 0}, {"rl_getc_function", &rl.getc, 1},
  {"rl_completion_display_matches_hook", &rl.display_matches_hook, 0}};

/* Only GNU readline has what tells a callback about a signal. */
static enum kind look_up(void *library) {
  enum kind kind = dlsym(library, "rl_callback_sigcleanup") ? READLINE : LIBEDIT;
  for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
    void *symbol = dlsym(library, symbols[i].name);
    if (!symbol && symbols[i].is_needed && (symbols[i].is_needed == 1 || kind == READLINE)) return PLAIN;
    memcpy(symbols[i].place, &symbol, sizeof symbol); /* ISO C has no conversion to a function pointer */
  }
  return kind;
}

static enum kind open_library(const char *name) {
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  enum kind kind;
  if (!library) return PLAIN;
  kind = look_up(library);
  if (kind == PLAIN) dlclose(library);
  return kind;
}

static enum kind find_library(int asks_environment) {
  static const char *const names[] = {"libreadline.so.8", "libreadline.so.7", "libreadline.so", "libreadline.8.dylib",
                                      "libedit.so.2", "libedit.so.0", "libedit.so", "libedit.3.dylib"};
  const char *wanted = asks_environment ? getenv("LUAPOOL_READLINELIB") : NULL;
  enum kind kind = PLAIN;
  if (wanted) return wanted[0] ? open_library(wanted) : PLAIN;
  for (size_t i = 0; kind == PLAIN && i < sizeof names / sizeof *names; i++) kind = open_library(names[i]);
  return kind;
}

/* ---- completion -------------------------------------------------------------------------------------------- */

struct question {
  const char *function, *word;
};

static int ask(lua_State *L) {
  const struct question *question = lua_touserdata(L, 1);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &completer_key) != LUA_TTABLE) return luaL_error(L, "no completer");
  lua_getfield(L, -1, question->function);
  lua_pushlstring(L, *rl.line_buffer, (size_t)*rl.point);
  lua_pushstring(L, question->word);
  lua_call(L, 2, 2);
  return 2;
}

/* Call a function of the completer with the line up to the cursor, and `word`: 1, and its two results are on the stack; or 0. */
static int ask_completer(const char *function, const char *word) {
  struct question question = {function, word};
  lua_State *L = editor.L;
  int status;
  if (!L || !lua_checkstack(L, 4)) return 0;
  delivery_shield(1); /* no error may jump over the library's frames; what runs here is short */
  lua_pushcfunction(L, ask);
  lua_pushlightuserdata(L, &question);
  status = lua_pcall(L, 1, 2, 0);
  delivery_shield(-1);
  if (status != LUA_OK) lua_pop(L, 1);
  return status == LUA_OK;
}

static int is_file_name;

static char *word_breaks(void) {
  static char breaks[128];
  is_file_name = 0;
  if (!ask_completer("breaks", NULL)) return NULL;
  if (lua_type(editor.L, -2) == LUA_TSTRING) snprintf(breaks, sizeof breaks, "%s", lua_tostring(editor.L, -2));
  is_file_name = lua_toboolean(editor.L, -1);
  lua_pop(editor.L, 2);
  return breaks;
}

/* The next of the list at the top of the stack. */
static char *next_candidate(const char *word, int is_again) {
  static lua_Integer index;
  char *copy = NULL;
  (void)word;
  index = is_again ? index + 1 : 1;
  if (lua_rawgeti(editor.L, -1, index) == LUA_TSTRING) copy = strdup(lua_tostring(editor.L, -1));
  lua_pop(editor.L, 1);
  return copy;
}

static size_t file_prefix;

static char *next_file(const char *path, int is_again) {
  char *name = rl.filename_completion(path, is_again);
  if (name) memmove(name, name + file_prefix, strlen(name + file_prefix) + 1);
  return name;
}

/* libedit: the file name is what stands behind the quote (or the space of a command); the word is its end. */
static char **complete_file(const char *word) {
  static const char openers[] = "\"'[ ";
  int at = *rl.point;
  char *path;
  char **matches;
  while (at > 0 && !strchr(openers, (*rl.line_buffer)[at - 1])) at--;
  path = strndup(*rl.line_buffer + at, (size_t)(*rl.point - at));
  if (!path || strlen(path) < strlen(word)) {
    free(path);
    return NULL;
  }
  file_prefix = strlen(path) - strlen(word);
  matches = rl.completion_matches(path, next_file);
  free(path);
  return matches;
}

/* NULL with completion_over unset: the library completes file names. */
static char **complete(const char *word, int start, int end) {
  char **matches = NULL;
  (void)start;
  (void)end;
  if (editor.kind == LIBEDIT) word_breaks(); /* its hook is asked before it knows where the cursor is */
  *rl.completion_over = !is_file_name || editor.kind == LIBEDIT;
  *rl.append_character = '\0';
  if (is_file_name && editor.kind == LIBEDIT) return complete_file(word);
  if (is_file_name || !ask_completer("candidates", word)) return NULL;
  lua_pop(editor.L, 1);
  if (lua_istable(editor.L, -1)) matches = rl.completion_matches(word, next_candidate);
  lua_pop(editor.L, 1);
  return matches;
}

/* All that fits into most of the window; whoever sees that there is more types on. */
static void display_matches(char **matches, int n, int longest) {
  int columns = editor.size.ws_col > 0 ? editor.size.ws_col : 80, rows = editor.size.ws_row > 0 ? editor.size.ws_row : 24;
  int per_row = columns / (longest + 2) > 0 ? columns / (longest + 2) : 1;
  int room = per_row * (rows > 6 ? rows - 4 : 2);
  rl.display_match_list(matches, n < room ? n : room, longest);
  if (n > room) printf("... and %d more\n", n - room);
  fflush(stdout);
  rl.forced_update_display();
}

void line_editor_set_completer(lua_State *L) {
  lua_rawsetp(L, LUA_REGISTRYINDEX, &completer_key);
}

/* ---- opening ----------------------------------------------------------------------------------------------- */

/* The editors count columns by the locale's characters. Where nothing is said, UTF-8 is what terminals have. */
static void choose_locale(void) {
  const char *name = setlocale(LC_CTYPE, "");
  if (name && strcmp(name, "C") != 0 && strcmp(name, "POSIX") != 0) return;
  for (const char *const *variable = (const char *const[]){"LC_ALL", "LC_CTYPE", "LANG", NULL}; *variable; variable++) {
    const char *value = getenv(*variable);
    if (value && value[0]) return; /* C was asked for */
  }
  setlocale(LC_CTYPE, "C.UTF-8");
}

static int get_character(FILE *stream);
static int is_resized(void);

static void set_up(void) {
  *rl.readline_name = "luapool";
  *rl.catch_signals = 0;
  if (rl.catch_sigwinch) *rl.catch_sigwinch = 0;
  if (rl.change_environment) *rl.change_environment = 0; /* LINES and COLUMNS are not for the programs that we start */
  *rl.word_break_characters = " \t\n\"'`@$><=;:+-*/\\%^~#{}()[].,|&!?";
  if (rl.quote_characters && editor.kind == READLINE) *rl.quote_characters = "\"'"; /* a file name that is whole gets its quote */
  if (rl.word_break_hook) *rl.word_break_hook = word_breaks;
  *rl.attempted_completion = complete;
  if (rl.query_items) *rl.query_items = -1; /* a question would wait where nothing can interrupt it */
  if (editor.kind == READLINE && rl.display_matches_hook) *rl.display_matches_hook = display_matches;
  if (editor.kind == LIBEDIT) *rl.getc = get_character;
  rl.using_history();
  if (editor.kind == READLINE) rl.variable_bind("show-all-if-unmodified", "on"); /* one TAB is enough, unless they say otherwise */
  rl.initialize(); /* reads the user's ~/.inputrc */
  if (editor.kind == READLINE) rl.variable_bind("page-completions", "off");
  is_resized();
}

const char *line_editor_open(int asks_environment) {
  static const char *const names[] = {"plain", "readline", "libedit"};
  choose_locale();
  if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) editor.kind = find_library(asks_environment);
  if (editor.kind != PLAIN) set_up();
  return names[editor.kind];
}

void line_editor_add(const char *text, int limit) {
  if (editor.kind == PLAIN) return;
  rl.add_history(text);
  rl.stifle_history(limit);
}

/* ---- reading ----------------------------------------------------------------------------------------------- */

/* 1 if the window's size is another than it was. */
static int is_resized(void) {
  struct winsize size;
  int is_other;
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0) return 0;
  is_other = size.ws_col != editor.size.ws_col || size.ws_row != editor.size.ws_row;
  editor.size = size;
  return is_other;
}

static void clear_line(void) {
  fputs("\r\033[K", stdout);
  fflush(stdout);
}

/* What runs in the background has something for us: results, lines of output, callbacks. */
static void serve_pools(void) {
  int is_disturbed = 0, status = lidle_attend(editor.L, clear_line, &is_disturbed);
  editor.next_ns = os_now_ns() + PAUSE_NS;
  if (status != LUA_OK && delivery_is_interrupt(editor.L, -1)) {
    editor.has_error = 1;
  } else if (status != LUA_OK) {
    clear_line();
    call_report(editor.L, status);
    editor.is_alone = is_disturbed = 1;
  }
  fflush(stdout);
  if (is_disturbed) rl.forced_update_display();
}

/* Sleep until there is something to read, as job_control_wait; pools have their turns meanwhile. */
static int wait_beside_pools(void) {
  int fds[MOST_POOLS], flags, n = editor.is_alone ? 0 : lidle_fds(editor.L, fds, MOST_POOLS);
  int64_t pause_ns = n > 0 ? editor.next_ns - os_now_ns() : 0;
  flags = pause_ns > 0 ? job_control_wait(interrupt_fd(), NULL, 0, pause_ns) : job_control_wait(interrupt_fd(), fds, n, -1);
  if (flags & JOB_OTHERS && !(flags & (JOB_INPUT | JOB_STOPS))) serve_pools();
  return flags;
}

/* Sleep until there is input or an interrupt; what job control wants meanwhile is done. Returns 0 for an interrupt. */
static int wait_for_input(void) {
  while (!interrupt_pending() && !editor.has_error) {
    int flags = wait_beside_pools();
    if (flags & JOB_STOPS) {
      rl.deprep_terminal();
      job_control_stop();
      flags |= JOB_CONTINUED;
    }
    if (flags & JOB_CONTINUED) {
      rl.prep_terminal(1);
      rl.forced_update_display();
    }
    if (flags & (JOB_RESIZED | JOB_CONTINUED) && is_resized()) rl.resize_terminal();
    if (interrupt_pending() || editor.has_error) break;
    if (flags & JOB_INPUT) return 1;
  }
  return 0;
}

/* Bytes from `lead` on that make a character, beyond the first. */
static int continuation_bytes(unsigned char lead) {
  return lead >= 0xF0 && lead < 0xF8 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
}

/* libedit wants a whole character. An interrupt looks like the end of the input. */
static int get_character(FILE *stream) {
  unsigned char byte;
  int value, left;
  (void)stream;
  if (!wait_for_input()) {
    editor.is_dropped = 1;
    return -1;
  }
  if (read(STDIN_FILENO, &byte, 1) != 1) return -1;
  left = byte < 0x80 || MB_CUR_MAX == 1 ? 0 : continuation_bytes(byte);
  value = left ? byte & (0x3F >> left) : byte;
  for (; left > 0 && read(STDIN_FILENO, &byte, 1) == 1; left--) value = value << 6 | (byte & 0x3F);
  return value;
}

/* What is shown next begins on a line of its own. Readline sees to that where it has told the terminal to mark pasted text. */
static void end_line(void) {
  const char *marks = editor.kind == READLINE ? rl.variable_value("enable-bracketed-paste") : NULL;
  if (marks && strcmp(marks, "on") == 0) return;
  putchar('\n');
  fflush(stdout);
}

/* What a terminal is told when we die while it is edited: pasted text is not to be marked any more. */
static const char *farewell(void) {
  const char *marks = editor.kind == READLINE ? rl.variable_value("enable-bracketed-paste") : NULL;
  return marks && strcmp(marks, "on") == 0 ? "\033[?2004l\r\n" : "\r\n";
}

static void on_line(char *line) {
  editor.line = line;
  editor.is_over = 1;
  rl.callback_handler_remove(); /* here, or the prompt would be shown again */
}

static void print_mark(void) {
  fputs(interrupt_pending() == SIGINT || editor.has_error ? "^C\n" : "", stdout); /* (else the newline comes where it is raised) */
  fflush(stdout);
}

/*
 * The interrupt leaves what was typed on the screen, with a mark (first: the end of editing moves the cursor), and the terminal as it was.
 */
static void drop_readline(void) {
  *rl.point = *rl.end;
  rl.redisplay();
  print_mark();
  rl.free_line_state();
  rl.callback_sigcleanup();
  rl.callback_handler_remove();
}

static void read_readline(const char *prompt) {
  if (is_resized()) rl.reset_screen_size();
  if (rl.eof_found) *rl.eof_found = 0; /* an earlier Ctrl-D is not this line's */
  rl.callback_handler_install(prompt, on_line);
  while (!editor.is_over) {
    if (wait_for_input()) {
      rl.callback_read_char();
    } else {
      editor.is_dropped = editor.is_over = 1;
      drop_readline();
    }
  }
}

static void read_libedit(const char *prompt) {
  if (is_resized()) rl.resize_terminal();
  editor.line = rl.readline(prompt);
  if (editor.is_dropped) {
    free(editor.line);
    editor.line = NULL;
    print_mark();
    rl.deprep_terminal();
  }
}

static enum line read_plain(lua_State *L, const char *prompt) {
  enum line line = plain_line_read(L, prompt);
  if (line != LINE_READ) end_line();
  return line;
}

/* Raises what ends the program. */
static enum line dropped(lua_State *L) {
  if (editor.has_error && delivery_signal(L, -1) != SIGINT) lua_error(L);
  plain_line_take_interrupt(L);
  lua_pushliteral(L, "");
  return LINE_DROPPED;
}

enum line line_editor_read(lua_State *L, const char *prompt) {
  if (editor.kind == PLAIN) return read_plain(L, prompt);
  free(editor.line); /* of a call that memory ended */
  editor.line = NULL;
  editor.is_over = editor.is_dropped = editor.has_error = editor.is_alone = 0;
  editor.L = L;
  luaL_checkstack(L, 10, "line editor");
  fflush(stdout);
  job_control_begin(farewell());
  if (editor.kind == READLINE) read_readline(prompt);
  else read_libedit(prompt);
  job_control_end();
  editor.L = NULL;
  if (editor.is_dropped) return dropped(L);
  lua_pushstring(L, editor.line ? editor.line : "");
  if (!editor.line) end_line();
  if (!editor.line) return LINE_END;
  free(editor.line);
  editor.line = NULL;
  return LINE_READ;
}
