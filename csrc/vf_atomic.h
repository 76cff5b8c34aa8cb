/*
 * vf_atomic.h - every memory order of vwo_fast, and nothing else.
 *
 * Each function says which edge it is an end of; the other end has the same
 * number.  An edge is broken if either end is weakened alone.
 *
 *   R0 -> A0  head: all bytes of a record are visible before its publication is.
 *   R1 -> A1  tail: the consumer has read all bytes before the producer reuses them.
 *   R2 -> A2  generation: the lane or route has its name before the number grows.
 *   F0 <-> F1 sleeping and head: the producer stores head, then loads sleeping;
 *             the aggregator stores sleeping, then loads head.  All four are
 *             sequentially consistent, so at least one of them sees the other's
 *             store: either the producer rings or the aggregator sees the record.
 *             (Four such accesses cost what a fence costs, and thread checkers
 *             understand them, which they do not for fences.)
 */
#ifndef VF_ATOMIC_H
#define VF_ATOMIC_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
              "shared words must not hide a lock: a process killed inside it would hold it");

/* R0, F0. @caller producer */
static inline void vf_head_publish(_Atomic uint64_t *head, uint64_t position) {
  atomic_store_explicit(head, position, memory_order_seq_cst);
}

/* A0, F1. @caller consumer */
static inline uint64_t vf_head_load(const _Atomic uint64_t *head) {
  return atomic_load_explicit(head, memory_order_seq_cst);
}

/* R1. @caller consumer */
static inline void vf_tail_release(_Atomic uint64_t *tail, uint64_t position) {
  atomic_store_explicit(tail, position, memory_order_release);
}

/* A1. @caller producer */
static inline uint64_t vf_tail_load(const _Atomic uint64_t *tail) {
  return atomic_load_explicit(tail, memory_order_acquire);
}

/* What `sleeping` says: who is to ring. */
enum {
  VF_AWAKE = 0,
  VF_ASLEEP = 1, /* whoever publishes */
  VF_DOZING = 2  /* who has published and finds his lane half full */
};

/* F1. @caller consumer */
static inline void vf_sleeping_set(_Atomic uint32_t *sleeping) {
  atomic_store_explicit(sleeping, VF_ASLEEP, memory_order_seq_cst);
}

/* A doze ends soon by itself: nothing depends on when it is seen. @caller consumer */
static inline void vf_dozing_set(_Atomic uint32_t *sleeping) {
  atomic_store_explicit(sleeping, VF_DOZING, memory_order_relaxed);
}

/* A producer that still sees 1 rings once too often, which costs one message. @caller consumer */
static inline void vf_sleeping_clear(_Atomic uint32_t *sleeping) {
  atomic_store_explicit(sleeping, VF_AWAKE, memory_order_relaxed);
}

/* F0: true for the one producer that has to ring. @caller producer */
static inline bool vf_sleeping_take(_Atomic uint32_t *sleeping) {
  uint32_t expected = VF_ASLEEP;
  if (atomic_load_explicit(sleeping, memory_order_seq_cst) != VF_ASLEEP) {
    return false;
  }
  return atomic_compare_exchange_strong_explicit(sleeping, &expected, VF_AWAKE,
                                                 memory_order_seq_cst, memory_order_relaxed);
}

/* @caller producer */
static inline bool vf_dozing_load(const _Atomic uint32_t *sleeping) {
  return atomic_load_explicit(sleeping, memory_order_relaxed) == VF_DOZING;
}

/* True for the one producer that has to end the doze. @caller producer */
static inline bool vf_dozing_take(_Atomic uint32_t *sleeping) {
  uint32_t expected = VF_DOZING;
  return atomic_compare_exchange_strong_explicit(sleeping, &expected, VF_AWAKE,
                                                 memory_order_relaxed, memory_order_relaxed);
}

/* Only shown to people. @caller any */
static inline bool vf_sleeping_load(const _Atomic uint32_t *sleeping) {
  return atomic_load_explicit(sleeping, memory_order_relaxed) == VF_ASLEEP;
}

/* R2. @caller any */
static inline void vf_generation_bump(_Atomic uint64_t *generation) {
  atomic_fetch_add_explicit(generation, 1, memory_order_release);
}

/* A2. @caller any */
static inline uint64_t vf_generation_load(const _Atomic uint64_t *generation) {
  return atomic_load_explicit(generation, memory_order_acquire);
}

/* Decides between callers that want to replace the same value; carries no other data. */
static inline bool vf_claim(_Atomic uint64_t *word, uint64_t seen, uint64_t wanted) {
  return atomic_compare_exchange_strong_explicit(word, &seen, wanted, memory_order_relaxed,
                                                 memory_order_relaxed);
}

/*
 * Numbers that stand alone: counters, flags, times.  A reader may see one of
 * them older than another; statistics allow for that.
 */
static inline uint64_t vf_number_load(const _Atomic uint64_t *number) {
  return atomic_load_explicit(number, memory_order_relaxed);
}

static inline void vf_number_store(_Atomic uint64_t *number, uint64_t value) {
  atomic_store_explicit(number, value, memory_order_relaxed);
}

/* For a number with several writers. */
static inline void vf_number_add(_Atomic uint64_t *number, uint64_t amount) {
  atomic_fetch_add_explicit(number, amount, memory_order_relaxed);
}

/* For a number with one writer: no locked instruction on the hot path. */
static inline void vf_number_add_own(_Atomic uint64_t *number, uint64_t amount) {
  vf_number_store(number, vf_number_load(number) + amount);
}

static inline uint32_t vf_flag_load(const _Atomic uint32_t *flag) {
  return atomic_load_explicit(flag, memory_order_relaxed);
}

static inline void vf_flag_store(_Atomic uint32_t *flag, uint32_t value) {
  atomic_store_explicit(flag, value, memory_order_relaxed);
}

/*
 * One read of a plain field that a hostile writer may change at any time: what
 * has been checked is then what is used.
 */
static inline uint16_t vf_once_u16(const uint16_t *field) {
  return atomic_load_explicit((const _Atomic uint16_t *)field, memory_order_relaxed);
}

static inline uint32_t vf_once_u32(const uint32_t *field) {
  return atomic_load_explicit((const _Atomic uint32_t *)field, memory_order_relaxed);
}

static inline uint64_t vf_once_u64(const uint64_t *field) {
  return atomic_load_explicit((const _Atomic uint64_t *)field, memory_order_relaxed);
}

#endif /* VF_ATOMIC_H */
