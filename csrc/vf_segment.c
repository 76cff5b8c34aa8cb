#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "vf_segment.h"

#include "vf_atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE_OTHER_MAX ((size_t)1 << 20)

static_assert(VF_CONTROL_SIZE % 4096 == 0, "whole pages");

/* Leaves errno as the failed call set it. */
static void close_quietly(int fd) {
  int saved = errno;
  (void)close(fd);
  errno = saved;
}

/* Gives the file its size with all pages present. */
static int allocate(int fd, size_t size) {
#if defined(__APPLE__)
  fstore_t store = {F_ALLOCATECONTIG, F_PEOFPOSMODE, 0, (off_t)size, 0};
  if (fcntl(fd, F_PREALLOCATE, &store) != 0) {
    store.fst_flags = F_ALLOCATEALL;
    if (fcntl(fd, F_PREALLOCATE, &store) != 0) {
      return VF_SYSTEM;
    }
  }
  return ftruncate(fd, (off_t)size) == 0 ? VF_OK : VF_SYSTEM;
#else
  int error;
  /* tmpfs gives up when a signal arrives and undoes what it did. */
  do {
    error = posix_fallocate(fd, 0, (off_t)size);
  } while (error == EINTR);
  errno = error;
  return error == 0 ? VF_OK : VF_SYSTEM;
#endif
}

static int map(int fd, size_t size, void **base) {
  void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (address == MAP_FAILED) {
    return VF_SYSTEM;
  }
  *base = address;
  return VF_OK;
}

int vf_segment_create(const char *path, size_t size, void **base) {
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  int status;

  if (fd < 0) {
    return VF_SYSTEM;
  }
  status = allocate(fd, size);
  if (status == VF_OK) {
    status = map(fd, size, base);
  }
  close_quietly(fd);
  if (status != VF_OK) {
    int saved = errno;
    (void)unlink(path);
    errno = saved;
  }
  return status;
}

static int inspect(int fd, size_t size_min, size_t size_max, size_t *size, struct vf_fault *fault) {
  struct stat info;

  if (fstat(fd, &info) != 0) {
    return VF_SYSTEM;
  }
  if (!S_ISREG(info.st_mode)) {
    snprintf(fault->text, sizeof fault->text, "not a regular file");
    return VF_INVALID;
  }
  if (info.st_uid != geteuid()) {
    snprintf(fault->text, sizeof fault->text, "owned by user %ju, not by us (%ju)",
             (uintmax_t)info.st_uid, (uintmax_t)geteuid());
    return VF_INVALID;
  }
  if (info.st_size < (off_t)size_min || info.st_size > (off_t)size_max) {
    snprintf(fault->text, sizeof fault->text, "%jd bytes long, expected %zu to %zu",
             (intmax_t)info.st_size, size_min, size_max);
    return VF_INVALID;
  }
  *size = (size_t)info.st_size;
  return VF_OK;
}

/* Whether opening failed because of what lies there, and would fail again. */
static bool is_hostile(int error) {
  return error == ELOOP || error == EISDIR || error == ENXIO || error == ENODEV || error == EACCES;
}

int vf_segment_attach(const char *path, size_t size_min, size_t size_max, void **base, size_t *size,
                      struct vf_fault *fault) {
  /* Without O_NONBLOCK a pipe in our place would hold us for ever. */
  int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  int status;

  if (fd < 0 && is_hostile(errno)) {
    snprintf(fault->text, sizeof fault->text, "%s",
             errno == EACCES ? "not ours to open" : "not a regular file");
    return VF_INVALID;
  }
  if (fd < 0) {
    return VF_SYSTEM;
  }
  status = inspect(fd, size_min, size_max, size, fault);
  if (status == VF_OK) {
    status = map(fd, *size, base);
  }
  close_quietly(fd);
  return status;
}

void vf_segment_unmap(void *base, size_t size) {
  if (base != NULL) {
    (void)munmap(base, size);
  }
}

int vf_segment_identify(uint64_t magic, uint64_t magic_wanted, uint32_t version,
                        struct vf_fault *fault) {
  if (magic != magic_wanted) {
    snprintf(fault->text, sizeof fault->text, "magic %016" PRIx64 ", expected %016" PRIx64, magic,
             magic_wanted);
    return VF_INVALID;
  }
  if (version != VF_LAYOUT_VERSION) {
    snprintf(fault->text, sizeof fault->text,
             "layout version %" PRIu32 ", this vwo_fast reads version %u", version,
             VF_LAYOUT_VERSION);
    return VF_VERSION;
  }
  return VF_OK;
}

int vf_control_create(const char *path, uint64_t created_ns, struct vf_control **control) {
  void *base = NULL;
  int status = vf_segment_create(path, VF_CONTROL_SIZE, &base);

  if (status != VF_OK) {
    return status;
  }
  *control = base;
  (*control)->magic = VF_CONTROL_MAGIC;
  (*control)->version = VF_LAYOUT_VERSION;
  (*control)->size = VF_CONTROL_SIZE;
  (*control)->created_ns = created_ns;
  return VF_OK;
}

int vf_control_attach(const char *path, struct vf_control **control, struct vf_fault *fault) {
  struct vf_control *found;
  void *base = NULL;
  size_t size = 0;
  /* Another version may have another size, and its version is what has to be told. */
  int status = vf_segment_attach(path, VF_CONTROL_SIZE, SIZE_OTHER_MAX, &base, &size, fault);

  if (status != VF_OK) {
    return status;
  }
  found = base;
  status = vf_segment_identify(found->magic, VF_CONTROL_MAGIC, found->version, fault);
  if (status == VF_OK && (found->size != VF_CONTROL_SIZE || size != VF_CONTROL_SIZE)) {
    snprintf(fault->text, sizeof fault->text, "has %zu bytes and says %" PRIu32 ", expected %u",
             size, found->size, VF_CONTROL_SIZE);
    status = VF_INVALID;
  }
  if (status != VF_OK) {
    vf_segment_unmap(base, size);
    return status;
  }
  *control = found;
  return VF_OK;
}

bool vf_control_claim_launch(struct vf_control *control, uint64_t now_ns, uint64_t interval_ns) {
  uint64_t last = vf_number_load(&control->launch_ns);

  /* A time in the future is not from this boot of the host. */
  if (last != 0 && last <= now_ns && now_ns - last < interval_ns) {
    return false;
  }
  return vf_claim(&control->launch_ns, last, now_ns);
}
