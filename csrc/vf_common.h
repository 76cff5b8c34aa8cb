/*
 * vf_common.h - status codes and limits that every unit shares.
 *
 * A function that can fail returns one of these; a count is never negative.
 */
#ifndef VF_COMMON_H
#define VF_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  VF_OK = 0,
  VF_FULL = -1,      /* no room now: a full lane, a batch at its limit     */
  VF_TOO_LARGE = -2, /* would not fit even into an empty one               */
  VF_EMPTY = -3,     /* nothing published beyond the cursor                */
  VF_OTHER = -4,     /* the next record is not of the kind or route asked  */
  VF_INVALID = -5,   /* bytes that are not what they should be             */
  VF_DEPTH = -6,     /* nested deeper than VF_DEPTH_MAX                    */
  VF_NOMEM = -7,
  VF_VERSION = -8, /* the file has another layout version                */
  VF_SYSTEM = -9   /* a system call failed; errno tells why              */
};

/* Containers inside containers, the outermost included. */
#define VF_DEPTH_MAX 128

/* msgpack extension type of an integer outside 64 bits: ASCII decimal digits
 * with an optional leading '-'. */
#define VF_EXT_BIGINT 1

/* What VWO accepts in one request, and so the hard limits of a batch. */
#define VF_BATCH_EVENTS_MAX 5000u
#define VF_BATCH_BYTES_MAX 10000000u

#endif /* VF_COMMON_H */
