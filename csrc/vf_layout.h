/*
 * vf_layout.h - every byte that two processes share, drawn once.
 *
 * Nothing outside this file knows an offset.  A change here that moves or
 * re-interprets a byte must raise VF_LAYOUT_VERSION: a process that maps a
 * file of another version refuses it and says so.
 *
 * All integers are in the byte order of the host; the files never leave it.
 *
 * A lane file: one header page, then `capacity` bytes of ring.
 *
 *   0        64       128           256           512            4096
 *   +--------+--------+-------------+-------------+--------------+------ - -
 *   | ident  | flags  | producer's  | consumer's  | counters     | ring
 *   |        |        | line: head  | line: tail  | (producer)   | capacity
 *   +--------+--------+-------------+-------------+--------------+------ - -
 *
 * head and tail are free-running 64-bit positions (position & (capacity-1) is
 * the offset in the ring); head - tail is what is in use, at most capacity.
 *
 * A record, at a position that is a multiple of 8:
 *
 *   0        4        8                16               24       26    28      32
 *   +--------+--------+----------------+----------------+--------+-----+-------+---------
 *   | size   | check  | seq            | route          | kind   | res | state | payload
 *   +--------+--------+----------------+----------------+--------+-----+-------+---------
 *     u32      u32      u64              u64              u16      u16   u32     size bytes
 *
 * size counts payload bytes only; the next record begins at the next multiple
 * of 8.  check covers size, seq, route, kind, the payload (of padding: none), the
 * lane's id and the position, so a record certifies itself, and nothing else in
 * the ring can pass for one.  seq counts the records of a lane from 1, padding
 * not counted; an external record takes its number before its file is written,
 * so it may follow records with higher ones, and where that failed a number is
 * missing.  state alone is written by the consumer.  Where fewer than 32 bytes
 * are left before the end of the ring, they are skipped by both sides; where a
 * record does not fit before the end, a record of kind VF_KIND_PADDING fills
 * the rest (seq 0, route 0, size = all that is left after its header).
 */
#ifndef VF_LAYOUT_H
#define VF_LAYOUT_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define VF_LAYOUT_VERSION 1u

#define VF_LANE_MAGIC UINT64_C(0x31454e414c5f4656)    /* "VF_LANE1" */
#define VF_CONTROL_MAGIC UINT64_C(0x314c5254435f4656) /* "VF_CTRL1" */

#define VF_LANE_HEADER_SIZE 4096u
#define VF_RECORD_HEADER_SIZE 32u
#define VF_RECORD_ALIGN 8u
#define VF_LANE_CAPACITY_MIN (UINT64_C(1) << 16)
#define VF_LANE_CAPACITY_MAX (UINT64_C(1) << 30)

#define VF_LANE_COUNTERS 32
#define VF_CONTROL_COUNTERS 128
#define VF_CONTROL_SIZE 4096u

enum {
  VF_KIND_PADDING = 0,
  VF_KIND_EVENT = 1,        /* payload: msgpack map, goes into a batch          */
  VF_KIND_IMPRESSION = 2,   /* payload: msgpack map, FullStack real-time GET    */
  VF_KIND_REQUEST = 3,      /* payload: msgpack [method, path, query, headers, body] */
  VF_KIND_EXTERNAL = 0x8000 /* or-ed in: payload is u64 size, u64 check of the
                               file big-<lane id>-<seq> that holds the real one */
};

#define VF_ABANDONED_CLAIMED UINT64_MAX

enum { VF_STATE_NEW = 0, VF_STATE_DONE = 1 };

struct vf_record {
  uint32_t size;
  uint32_t check;
  uint64_t seq;
  uint64_t route;
  uint16_t kind;
  uint16_t reserved;
  _Atomic uint32_t state;
};
static_assert(sizeof(struct vf_record) == VF_RECORD_HEADER_SIZE, "record header");

struct vf_lane_header {
  /* ident: written once, before the file gets its name */
  uint64_t magic;
  uint32_t version;
  uint32_t header_size;
  uint64_t capacity;
  uint64_t lane_id;
  uint64_t owner; /* random id of the process-and-queue that made the lane */
  uint64_t pid;   /* for people; never used to decide whether it lives */
  uint64_t created_ns;
  uint64_t predecessor; /* lane that the same process outgrew and writes no more; 0: none */
  /* flags: written by the producer */
  _Atomic uint32_t wants_reports; /* 1: outcome of its events is to be reported */
  uint32_t reserved1[15];
  /* producer's line */
  _Atomic uint64_t head; /* R0 <-> A0: published */
  uint64_t reserved2[15];
  /* consumer's line */
  _Atomic uint64_t tail; /* R1 <-> A1: released */
  /* position and number of records before it, twice, written in turn: one of them names tail */
  _Atomic uint64_t passed[4];
  /* 0; the consumer reads this file no more: 1 + the position before which it had read all;
     VF_ABANDONED_CLAIMED: its producer has taken the rest along.  (Was always 0 before it had a
     meaning, and to a process that does not know it nothing changes: no new version.) */
  _Atomic uint64_t abandoned;
  /* position before which all damage has been counted, and number of records before it, or
     UINT64_MAX; 0: there was none.  (The same holds for these: no new version.) */
  _Atomic uint64_t damage_noted[2];
  uint64_t reserved3[24];
  /* counters of the producer, meaning of each index: vwo_fast/counters.py */
  _Atomic uint64_t counters[VF_LANE_COUNTERS];
};
static_assert(offsetof(struct vf_lane_header, wants_reports) == 64, "flags");
static_assert(offsetof(struct vf_lane_header, head) == 128, "producer's line");
static_assert(offsetof(struct vf_lane_header, tail) == 256, "consumer's line");
static_assert(offsetof(struct vf_lane_header, counters) == 512, "counters");
static_assert(sizeof(struct vf_lane_header) <= VF_LANE_HEADER_SIZE, "header page");

/*
 * The control file: one per queue, mapped by all its processes.
 *
 *   0        64        128         192         256        512          4096
 *   +--------+---------+-----------+-----------+----------+------------+
 *   | ident  | sleeping| generation| launch    | heart    | counters   |
 *   +--------+---------+-----------+-----------+----------+------------+
 *
 * sleeping is set by the aggregator and cleared by whoever wakes it (see
 * vf_atomic.h for what it says);
 * generation grows when a lane or a route gets its name; launch holds the
 * monotonic time of the last attempt to start an aggregator; the rest is
 * written by the aggregator alone.
 */
struct vf_control {
  uint64_t magic;
  uint32_t version;
  uint32_t size;
  uint64_t created_ns;
  uint64_t reserved0[5];
  _Atomic uint32_t sleeping; /* F0 <-> F1: see vf_segment.h */
  uint32_t reserved1[15];
  _Atomic uint64_t generation;
  uint64_t reserved2[7];
  _Atomic uint64_t launch_ns;
  uint64_t reserved3[7];
  _Atomic uint64_t aggregator_pid;
  _Atomic uint64_t heartbeat_ns;
  uint64_t reserved4[30];
  _Atomic uint64_t counters[VF_CONTROL_COUNTERS];
};
static_assert(offsetof(struct vf_control, sleeping) == 64, "sleeping");
static_assert(offsetof(struct vf_control, generation) == 128, "generation");
static_assert(offsetof(struct vf_control, launch_ns) == 192, "launch");
static_assert(offsetof(struct vf_control, aggregator_pid) == 256, "heart");
static_assert(offsetof(struct vf_control, counters) == 512, "counters");
static_assert(sizeof(struct vf_control) <= VF_CONTROL_SIZE, "control size");

#endif /* VF_LAYOUT_H */
