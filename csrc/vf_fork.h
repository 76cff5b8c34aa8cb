/*
 * vf_fork.h - which process is this, without a system call.
 *
 * Idea: one page of memory that the kernel empties in every child
 * (MADV_WIPEONFORK), however it was forked and whether or not any library was
 * told.  It holds a number; 0 means that this is a child that has not asked yet.
 *
 * Key invariant: no two processes of one line of descent ever see the same
 * number, because a child counts on from its parent's.
 *
 * Hard case: where the kernel offers no such page, the pid is asked for at each
 * call.  A pid can come back after a grandparent has died, but the child of a
 * process never has that process's pid while comparing with it.
 */
#ifndef VF_FORK_H
#define VF_FORK_H

#include <stddef.h>
#include <stdint.h>

/* Once per process image, before vf_fork_id. @caller any */
void vf_fork_init(void);

/* The page, or NULL where there is none. */
extern const uint64_t *vf_fork_page;

/* A new number for a process that has none. @caller any */
uint64_t vf_fork_renew(void);

/* This process's number, never 0. @caller any */
static inline uint64_t vf_fork_id(void) {
  uint64_t id = vf_fork_page != NULL ? *vf_fork_page : 0;
  return id != 0 ? id : vf_fork_renew();
}

#endif /* VF_FORK_H */
