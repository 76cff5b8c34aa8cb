/*
 * vf_lock.h - does anybody hold a lock, asked on the way of an event.
 *
 * One system call of some hundred nanoseconds; asking from Python costs ten
 * times that, which is what the slowest calls of a producer would be.
 */
#ifndef VF_LOCK_H
#define VF_LOCK_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/*
 * Whether another process holds the lock on the first byte of an open file.
 * False also when that cannot be told, for an fd of -1 say: whoever asks then
 * looks more closely.  @caller any
 */
static inline bool vf_lock_held(int fd) {
  struct flock lock;
  memset(&lock, 0, sizeof lock);
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_len = 1;
  return fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

#endif /* VF_LOCK_H */
