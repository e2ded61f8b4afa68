/* base/watch -- see watch.h (may include base/os.h). */
#include "base/watch.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__) && !defined(LUAPOOL_NO_EPOLL)
#include <sys/epoll.h>
#include <sys/timerfd.h>
#define HAS_EPOLL 1
#endif

#include "base/os.h"

void watch_init(struct watch *w) {
  w->fd = w->timer = -1;
}

void watch_close(struct watch *w) {
  os_close(&w->timer);
  os_close(&w->fd);
}

#ifdef HAS_EPOLL

int watch_open(struct watch *w) {
  struct pollfd timer = {-1, POLLIN, 0};
  int status = 0;
  if (w->fd >= 0) return 0;
  w->fd = epoll_create1(EPOLL_CLOEXEC);
  if (w->fd < 0) return -errno;
  w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (w->timer < 0) status = -errno;
  timer.fd = w->timer;
  if (status == 0) status = watch_add(w, &timer, 1);
  if (status < 0) watch_close(w);
  return status;
}

int watch_add(struct watch *w, const struct pollfd *fds, size_t n) {
  for (size_t i = 0; i < n; i++) {
    struct epoll_event event;
    if (fds[i].fd < 0) continue;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.fd = fds[i].fd;
    if (epoll_ctl(w->fd, EPOLL_CTL_ADD, fds[i].fd, &event) < 0 && errno != EEXIST) return -errno;
  }
  return 0;
}

void watch_until(struct watch *w, int64_t at_ns) {
  struct itimerspec when;
  memset(&when, 0, sizeof when);
  if (at_ns >= 0) {
    if (at_ns == 0) at_ns = 1; /* 0 would be "never" */
    when.it_value.tv_sec = (time_t)(at_ns / 1000000000);
    when.it_value.tv_nsec = (long)(at_ns % 1000000000);
  }
  (void)timerfd_settime(w->timer, TFD_TIMER_ABSTIME, &when, NULL); /* (also forgets that the last time is over) */
}

#else

int watch_open(struct watch *w) {
  (void)w;
  return -ENOSYS;
}

int watch_add(struct watch *w, const struct pollfd *fds, size_t n) {
  (void)w, (void)fds, (void)n;
  return -ENOSYS;
}

void watch_until(struct watch *w, int64_t at_ns) {
  (void)w, (void)at_ns;
}

#endif
