/*
 * shim_disk.c - loaded before libc (LD_PRELOAD): a disk stops taking writes while it is in use.
 *
 * The file that VF_DISK_FILE names holds an error number as a signed 64-bit integer, which may
 * change at any time; 0: all is well.  While it is not, whatever would change a file whose path
 * has VF_DISK_PART in it fails with that error.  Reading goes on, as on a disk that was remounted
 * read-only or is full.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Atomic int64_t *fault;
static const char *part;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("VF_DISK_FILE");
  int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
  void *base;

  part = getenv("VF_DISK_PART");
  if (fd < 0 || part == NULL) {
    return;
  }
  base = mmap(NULL, sizeof *fault, PROT_READ, MAP_SHARED, fd, 0);
  (void)close(fd);
  fault = base == MAP_FAILED ? NULL : base;
}

static bool fails(int fd) {
  char link[32], path[4096];
  ssize_t size;

  if (fault == NULL || atomic_load(fault) == 0) {
    return false;
  }
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  size = readlink(link, path, sizeof path - 1);
  if (size < 0) {
    return false;
  }
  path[size] = '\0';
  if (strstr(path, part) == NULL) {
    return false;
  }
  errno = (int)atomic_load(fault);
  return true;
}

#define CHANGING(type, name, parameters, arguments)                                                \
  type name parameters;                                                                            \
  type name parameters {                                                                           \
    static type(*real) parameters;                                                                 \
    if (real == NULL) {                                                                            \
      *(void **)(&real) = dlsym(RTLD_NEXT, #name);                                                 \
    }                                                                                              \
    return fails(fd) ? (type) - 1 : real arguments;                                                \
  }

CHANGING(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
CHANGING(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
CHANGING(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at),
         (fd, data, size, at))
CHANGING(int, ftruncate, (int fd, off_t size), (fd, size))
CHANGING(int, ftruncate64, (int fd, off64_t size), (fd, size))
CHANGING(int, fsync, (int fd), (fd))
CHANGING(int, fdatasync, (int fd), (fd))
