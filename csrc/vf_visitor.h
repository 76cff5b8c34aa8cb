/*
 * vf_visitor.h - whose event it is, as a number, and which visitors a batch holds.
 */
#ifndef VF_VISITOR_H
#define VF_VISITOR_H

#include "vf_msgpack.h"

/* Bits of the visitor filter: 2^17, so that two batches of 100 visitors share a
 * bit by chance in about 7 of 100 cases. */
#define VF_VISITOR_BITS 131072u

static inline uint64_t vf_visitor_mix(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
  return hash ^ hash >> 29;
}

/* Never 0, which means "no visitor".  Collisions cost parallelism, not order.
 * @caller any */
static inline uint64_t vf_visitor_hash(const uint8_t *p, size_t size) {
  uint64_t hash = vf_visitor_mix(UINT64_C(0x2545f4914f6cdd1d), size);
  size_t at = 0;
  for (; size - at >= sizeof(uint64_t); at += sizeof(uint64_t)) {
    hash = vf_visitor_mix(hash, vf_load64(p + at));
  }
  uint64_t tail = 0;
  for (; at < size; at++) {
    tail = tail << 8 | vf_load8(p + at);
  }
  hash = vf_visitor_mix(hash, tail);
  hash ^= hash >> 32;
  return hash != 0 ? hash : 1;
}

/*
 * A 64-bit hash of the visitor an event belongs to: the string at key "u" of
 * the map, or else at "visId" of the map at key "d"; 0 when there is neither.
 * @caller any
 */
uint64_t vf_event_visitor(const uint8_t *payload, size_t size);

/* A filter is VF_VISITOR_BITS / 8 bytes. */

/* Sets the one bit of the filter that stands for this visitor (none for 0). */
void vf_visitors_add(uint8_t *visitors, uint64_t visitor);

/* Whether two filters have a bit in common. @caller any */
bool vf_visitors_meet(const uint8_t *first, const uint8_t *second);

/* Adds the bits of another filter. @caller any */
void vf_visitors_join(uint8_t *visitors, const uint8_t *others);

#endif /* VF_VISITOR_H */
