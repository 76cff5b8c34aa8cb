/*
 * shim_fail.c - loaded before libc (LD_PRELOAD): the N-th system call of a process fails.
 *
 * A block in a file, named by VF_FAIL_BLOCK or given to vf_fail_map, is shared
 * with the test.  From the moment `armed` is set every call below is counted; those whose
 * number lies in [first, last] fail with `error`, or write only half when it is 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct fail_block {
  _Atomic uint64_t armed;
  _Atomic uint64_t count;
  uint64_t first;
  uint64_t last;
  int64_t error;
  _Atomic uint64_t failed;
  char name[32]; /* of the call that failed last */
};

static struct fail_block *block;

/* The file's page stays mapped for the life of the process. */
__attribute__((visibility("default"))) int vf_fail_map(const char *path);

int vf_fail_map(const char *path) {
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
  void *base;

  if (fd < 0) {
    return -1;
  }
  base = (void *)syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  (void)close(fd);
  block = base == MAP_FAILED ? NULL : base;
  return block == NULL ? -1 : 0;
}

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("VF_FAIL_BLOCK");
  if (path != NULL) {
    (void)vf_fail_map(path);
  }
}

/* Whether this call is one that fails; errno is set then. */
static bool fails(const char *name) {
  uint64_t number;

  if (block == NULL || atomic_load(&block->armed) == 0) {
    return false;
  }
  number = atomic_fetch_add(&block->count, 1) + 1;
  if (number < block->first || number > block->last) {
    return false;
  }
  atomic_fetch_add(&block->failed, 1);
  strncpy(block->name, name, sizeof block->name - 1);
  errno = (int)block->error;
  return true;
}

#define FAILING(type, name, failure, parameters, arguments)                                        \
  type name parameters;                                                                            \
  type name parameters {                                                                           \
    static type(*real) parameters;                                                                 \
    if (real == NULL) {                                                                            \
      *(void **)(&real) = dlsym(RTLD_NEXT, #name);                                                 \
    }                                                                                              \
    if (fails(#name) && errno != 0) {                                                              \
      return failure;                                                                              \
    }                                                                                              \
    return real arguments;                                                                         \
  }

/* An eventfd, say: writing to it cannot fail in these ways, and libraries rely on that. */
static bool is_anonymous(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 && (status.st_mode & S_IFMT) == 0;
}

/* With the error 0 these write half of what they were given. */
#define WRITING(name, parameters, arguments, half)                                                 \
  ssize_t name parameters;                                                                         \
  ssize_t name parameters {                                                                        \
    static ssize_t(*real) parameters;                                                              \
    if (real == NULL) {                                                                            \
      *(void **)(&real) = dlsym(RTLD_NEXT, #name);                                                 \
    }                                                                                              \
    if (!is_anonymous(fd) && fails(#name)) {                                                       \
      if (errno != 0) {                                                                            \
        return -1;                                                                                 \
      }                                                                                            \
      return size > 1 ? real half : real arguments;                                                \
    }                                                                                              \
    return real arguments;                                                                         \
  }

#define OPENING(name, parameters, arguments)                                                       \
  int name parameters;                                                                             \
  int name parameters {                                                                            \
    static int(*real) parameters;                                                                  \
    mode_t mode = 0;                                                                               \
    if ((flags & O_CREAT) != 0) {                                                                  \
      va_list list;                                                                                \
      va_start(list, flags);                                                                       \
      mode = va_arg(list, mode_t);                                                                 \
      va_end(list);                                                                                \
    }                                                                                              \
    if (real == NULL) {                                                                            \
      *(void **)(&real) = dlsym(RTLD_NEXT, #name);                                                 \
    }                                                                                              \
    return fails(#name) && errno != 0 ? -1 : real arguments;                                       \
  }

OPENING(open, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENING(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

WRITING(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
WRITING(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at),
        (fd, data, size / 2, at))
WRITING(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at),
        (fd, data, size / 2, at))

FAILING(int, fsync, -1, (int fd), (fd))
FAILING(int, fdatasync, -1, (int fd), (fd))
FAILING(int, ftruncate, -1, (int fd, off_t size), (fd, size))
FAILING(int, ftruncate64, -1, (int fd, off64_t size), (fd, size))
FAILING(int, posix_fallocate, errno, (int fd, off_t at, off_t size), (fd, at, size))
FAILING(int, posix_fallocate64, errno, (int fd, off64_t at, off64_t size), (fd, at, size))
FAILING(void *, mmap, MAP_FAILED,
        (void *at, size_t size, int protection, int flags, int fd, off_t offset),
        (at, size, protection, flags, fd, offset))
FAILING(void *, mmap64, MAP_FAILED,
        (void *at, size_t size, int protection, int flags, int fd, off64_t offset),
        (at, size, protection, flags, fd, offset))
FAILING(int, rename, -1, (const char *from, const char *to), (from, to))
FAILING(int, link, -1, (const char *from, const char *to), (from, to))
FAILING(int, unlink, -1, (const char *path), (path))
FAILING(int, mkdir, -1, (const char *path, mode_t mode), (path, mode))
FAILING(int, socket, -1, (int domain, int type, int protocol), (domain, type, protocol))
FAILING(int, connect, -1, (int fd, const struct sockaddr *address, socklen_t size),
        (fd, address, size))
FAILING(ssize_t, send, -1, (int fd, const void *data, size_t size, int flags),
        (fd, data, size, flags))
FAILING(ssize_t, sendto, -1,
        (int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
         socklen_t length),
        (fd, data, size, flags, address, length))
FAILING(ssize_t, sendmsg, -1, (int fd, const struct msghdr *message, int flags),
        (fd, message, flags))
