/*
 * base/watch -- many descriptors and a clock as one descriptor, for somebody else's event loop.
 *
 * Room: base (may include base/os.h).  Owns: its two descriptors.  Linux (epoll, timerfd); elsewhere, and with LUAPOOL_NO_EPOLL, -ENOSYS.
 * Fork: a copy must only be closed.  Signals: not from a handler.
 */
#ifndef LUAPOOL_BASE_WATCH_H
#define LUAPOOL_BASE_WATCH_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

struct watch {
  int fd;    /* readable while one of those watched is, or the time is over; -1: not open */
  int timer;
};

void watch_init(struct watch *w);

/* watch_open -- 0 or -errno (-ENOSYS: not on this system). watch_close -- idempotent. */
int watch_open(struct watch *w);
void watch_close(struct watch *w);

/* watch_add -- watch those for reading, too (negative ones are none, known ones stay). Who is closed is forgotten. 0 or -errno. */
int watch_add(struct watch *w, const struct pollfd *fds, size_t n);

/* watch_until -- the time is over at at_ns (CLOCK_MONOTONIC); -1: never. */
void watch_until(struct watch *w, int64_t at_ns);

#endif
