#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "vf_fork.h"

#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

const uint64_t *vf_fork_page;

static uint64_t *page;
static uint64_t last_id;
static pid_t last_pid;

void vf_fork_init(void) {
  if (last_id != 0) {
    return;
  }
#if defined(MADV_WIPEONFORK)
  size_t size = (size_t)sysconf(_SC_PAGESIZE);
  void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address != MAP_FAILED) {
    if (madvise(address, size, MADV_WIPEONFORK) == 0) {
      vf_fork_page = page = address;
    } else {
      (void)munmap(address, size);
    }
  }
#endif
  (void)vf_fork_renew();
}

uint64_t vf_fork_renew(void) {
  if (page != NULL) {
    *page = ++last_id;
    return last_id;
  }
  if (getpid() != last_pid) {
    last_pid = getpid();
    ++last_id;
  }
  return last_id;
}
