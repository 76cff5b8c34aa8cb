/*
 * vf_lock.h - does anybody hold a lock, and is its file still there, asked on
 * the way of an event.
 *
 * One system call each of some hundred nanoseconds; asking from Python costs
 * ten times that, which is what the slowest calls of a producer would be.
 */
#ifndef VF_LOCK_H
#define VF_LOCK_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

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

/*
 * Whether an open file has lost its name, as when its folder is deleted; false
 * also when that cannot be told.  @caller any
 */
static inline bool vf_lock_unlinked(int fd) {
  struct stat found;
  return fstat(fd, &found) == 0 && found.st_nlink == 0;
}

#endif /* VF_LOCK_H */
