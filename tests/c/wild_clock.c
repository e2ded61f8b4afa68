/*
 * wild_clock -- for LD_PRELOAD: the clock of the wall is set by hours, to and fro, each time that somebody reads it. The monotonic clocks
 * run as ever. A program that measures by the wall's ends too early, too late, or never.
 */
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now);
int gettimeofday(struct timeval *restrict now, void *restrict zone);
time_t time(time_t *now);

enum { HOURS = 3600 };

/* Forward by ten hours, back by twenty, forward by thirty ... */
static long leap(void) {
  static atomic_long readings;
  long n = atomic_fetch_add(&readings, 1) % 100 + 1;
  return (n % 2 ? n : -n) * 10 * HOURS;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int status = (int)syscall(SYS_clock_gettime, clock, now);
  if (status == 0 && clock == CLOCK_REALTIME) now->tv_sec += leap();
  return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise) < 0) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *now) {
  struct timespec precise = {0, 0};
  (void)clock_gettime(CLOCK_REALTIME, &precise);
  if (now) *now = precise.tv_sec;
  return precise.tv_sec;
}
