/*
 * job/input -- stdin as a stream with functions of our own: the read waits for data and for an interrupt at once.
 *
 * Room: job (may include job/chain.h and job/delivery.h).  Owns: the replacement FILE. Everything but reading behaves as the
 * plain descriptor 0 does.
 */
#include "job/input.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "job/chain.h"
#include "job/delivery.h"
#include "process/interrupt.h"

static int has_feigned_end; /* the stream was told that the input ended, because of an interrupt */

#if defined(__GLIBC__) || defined(__APPLE__) || defined(__FreeBSD__)

/* A background job that reads the terminal must be stopped by the read, not wait beside it. */
static int is_background(void) {
  pid_t foreground = tcgetpgrp(STDIN_FILENO);
  return foreground >= 0 && foreground != getpgrp();
}

/*
 * Returns 1: read now; 0: stop, an interrupt will be raised as soon as the reading function returns. It is told that the input ended and
 * not that there was an error, because io.lines would raise that error in the interrupt's place.
 */
static int wait_for_input(void) {
  for (;;) {
    struct pollfd fds[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt_fd(), POLLIN, 0}};
    int can_raise = delivery_can_raise();
    if (can_raise && interrupt_pending()) {
      has_feigned_end = 1;
      delivery_arm();
      return 0;
    }
    /* An interrupt that cannot be raised here would make its descriptor readable for good: leave it out. */
    if (poll(fds, can_raise && fds[1].fd >= 0 ? 2 : 1, -1) < 0 && errno != EINTR) return 1;
    if (fds[0].revents) return 1;
  }
}

static ssize_t read_input(void *cookie, char *data, size_t size) {
  (void)cookie;
  if (!is_background() && !wait_for_input()) return 0;
  return read(STDIN_FILENO, data, size);
}

#endif

#if defined(__GLIBC__)

static int seek_input(void *cookie, off64_t *offset, int whence) {
  off64_t place = lseek64(STDIN_FILENO, *offset, whence);
  (void)cookie;
  if (place < 0) return -1;
  *offset = place;
  return 0;
}

static int close_input(void *cookie) {
  (void)cookie;
  return close(STDIN_FILENO);
}

static FILE *open_stream(void) {
  cookie_io_functions_t functions = {read_input, NULL, seek_input, close_input};
  FILE *f = fopencookie(NULL, "r", functions);
  if (f) f->_fileno = STDIN_FILENO; /* fileno(f) is asked by modules (isatty, lock); glibc declares the field */
  return f;
}

#elif defined(__APPLE__) || defined(__FreeBSD__)

static int read_input_int(void *cookie, char *data, int size) {
  return (int)read_input(cookie, data, (size_t)size);
}

static fpos_t seek_input(void *cookie, fpos_t offset, int whence) {
  (void)cookie;
  return lseek(STDIN_FILENO, offset, whence);
}

static int close_input(void *cookie) {
  (void)cookie;
  return close(STDIN_FILENO);
}

static FILE *open_stream(void) {
  return funopen(NULL, read_input_int, NULL, seek_input, close_input);
}

#endif

#if defined(__GLIBC__) || defined(__APPLE__) || defined(__FreeBSD__)

/*
 * The buffer that the C library would choose: programs started by the script read on where it ends, and a terminal's input being
 * line-buffered is what makes a read show the prompt that waits in stdout.
 */
static void set_buffer(FILE *f) {
  static char buffer[4096];
  struct stat status;
  size_t size = sizeof buffer;
  int is_terminal = isatty(STDIN_FILENO);
  if (is_terminal) size = 1024;
  else if (fstat(STDIN_FILENO, &status) == 0 && status.st_blksize > 0 && (size_t)status.st_blksize < size) size = (size_t)status.st_blksize;
  setvbuf(f, buffer, is_terminal ? _IOLBF : _IOFBF, size);
}

#endif

void input_make_interruptible(void) {
#if defined(__GLIBC__) || defined(__APPLE__) || defined(__FreeBSD__)
  static FILE *input;
  if (input) return;
  input = open_stream();
  if (!input) return;
  set_buffer(input);
  stdin = input;
#endif
}

void input_after_interrupt(void) {
  if (!has_feigned_end) return;
  has_feigned_end = 0;
  clearerr(stdin);
}

#if defined(__GLIBC__)

int input_would_wait(FILE *f) {
  struct pollfd fd = {fileno(f), POLLIN, 0};
  size_t ready = (size_t)(f->_IO_read_end - f->_IO_read_ptr); /* 0 while the stream is being written to */
  if (ready > 0 && memchr(f->_IO_read_ptr, '\n', ready) != NULL) return 0;
  return fd.fd >= 0 && poll(&fd, 1, 0) == 0;
}

#else

int input_would_wait(FILE *f) {
  (void)f;
  return 0;
}

#endif
