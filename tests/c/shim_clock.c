/*
 * shim_clock.c - loaded before libc (LD_PRELOAD): the wall clock jumps.
 *
 * The file that VF_CLOCK_FILE names holds the jump in seconds, as a signed
 * 64-bit integer; it may change at any time.  Monotonic clocks stay as they are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static _Atomic int64_t *jump;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("VF_CLOCK_FILE");
  int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
  void *base;

  if (fd < 0) {
    return;
  }
  base = mmap(NULL, sizeof *jump, PROT_READ, MAP_SHARED, fd, 0);
  (void)close(fd);
  jump = base == MAP_FAILED ? NULL : base;
}

static int64_t jumped(void) {
  return jump == NULL ? 0 : atomic_load(jump);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  int status;

  if (real == NULL) {
    *(void **)(&real) = dlsym(RTLD_NEXT, "clock_gettime");
  }
  status = real(clock, now);
  if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    now->tv_sec += jumped();
  }
  return status;
}

time_t time(time_t *result) {
  struct timespec now;

  (void)clock_gettime(CLOCK_REALTIME, &now);
  if (result != NULL) {
    *result = now.tv_sec;
  }
  return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;

  (void)zone;
  (void)clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}
