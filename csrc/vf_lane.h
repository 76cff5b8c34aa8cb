/*
 * vf_lane.h - a queue in a mapped file with one writer and one reader.
 *
 * Idea: think of clock hands on one dial.  head (published) runs ahead, cursor
 * (read so far, private to the reader) follows, tail (released) comes last.
 * The producer owns the arc from head to tail, the consumer the rest; each
 * moves only its own hands, and never past the next one.
 *
 * Key invariant: everything between tail and head is whole records.  A record
 * is written into the producer's arc, where nobody looks, and becomes visible
 * with one store of head.  There is nothing to undo: a producer that dies, or
 * that gives a reservation up, has changed nothing that anybody sees.
 *
 * Hard case: the other side may be broken or hostile and may write anything
 * into the mapping at any time, the header included.  So each side keeps
 * private copies of what it owns and of what never changes, reads a foreign
 * word once and checks that value, and never follows a size that it has not
 * compared with the room before the end of the ring and before head.  A record
 * must certify itself (vf_check.h); where one does not, the reader looks
 * forward for the next that does, with a bound on the bytes it looks at.  (What
 * no check can stop: a file that its owner truncates kills whoever maps it.)
 */
#ifndef VF_LANE_H
#define VF_LANE_H

#include "vf_atomic.h"
#include "vf_batch.h"
#include "vf_common.h"
#include "vf_layout.h"
#include "vf_segment.h"

/* A payload that is larger than this part of the lane travels outside it. */
#define VF_LANE_PAYLOAD_MAX(capacity) ((capacity) / 4)

struct vf_producer {
  struct vf_lane_header *header; /* NULL: no lane */
  uint8_t *ring;
  uint64_t capacity;
  uint64_t lane_id;
  uint64_t head;  /* the truth; the shared one is its echo */
  uint64_t tail;  /* as last seen: at worst the lane looks fuller than it is */
  uint64_t seq;   /* last one given out */
  uint64_t start; /* where the open reservation's record begins */
  uint64_t rung;  /* head when it last ended a doze */
};

struct vf_reader {
  struct vf_lane_header *header; /* NULL: closed */
  uint8_t *ring;
  uint64_t capacity;
  uint64_t lane_id;
  uint64_t owner;
  uint64_t pid;
  uint64_t predecessor; /* to be read to its end before this one; 0: none */
  uint64_t cursor;
  uint64_t seen;     /* head as last read: all before it is published */
  uint64_t tail;     /* the truth; the shared one is its echo */
  uint64_t last_seq; /* of the record before the cursor; 0: not known */
  uint64_t passed;   /* records before the cursor since the lane was made, lost ones included */
  bool passed_known; /* false: attached where no note names the tail, or rewound */
  uint64_t damaged;  /* records lost to damage, as counted by this reader */
  uint64_t
      damaged_to; /* damage before this position has been counted, perhaps by a reader before */
  uint64_t damaged_passed; /* records before damaged_to */
  bool damaged_known;      /* false: damaged_passed says nothing */
  uint64_t gap;            /* bytes of damage behind the last whole record; 0: none */
  uint64_t gap_from;       /* where they begin */
  uint64_t gap_passed;     /* records before that */
  bool gap_is_new;         /* not all of it has been counted */
  uint64_t scanned;        /* bytes looked at in search of records, since scan_from */
  uint64_t scan_from;
};

/* One record as it was checked. `payload` still lies in shared memory, unless it was copied. */
struct vf_view {
  uint64_t start;
  uint64_t end;
  uint64_t seq;
  uint64_t route;
  const uint8_t *payload;
  uint32_t size;
  uint16_t kind;
};

/* What one drain moved; the sequences are first_seq .. first_seq + count + invalid - 1. */
struct vf_run {
  uint64_t start;
  uint64_t end;
  uint64_t first_seq;
  uint64_t passed; /* records before the first of the run */
  uint32_t count;
  uint32_t invalid;
};

/*
 * The ring's lines were last in the cache of the other side's core.  They are called for while an
 * earlier record is worked on: as many as a usual record has, some records ahead.
 */
#define VF_AHEAD_BYTES 768u
#define VF_AHEAD_LINES 4u

static inline const uint8_t *vf_ahead(const uint8_t *ring, uint64_t capacity, uint64_t position,
                                      unsigned line) {
  return ring + ((position + VF_AHEAD_BYTES + line * 64u) & (capacity - 1));
}

static inline bool vf_capacity_valid(uint64_t capacity) {
  return capacity >= VF_LANE_CAPACITY_MIN && capacity <= VF_LANE_CAPACITY_MAX &&
         (capacity & (capacity - 1)) == 0;
}

static inline uint64_t vf_record_span(uint64_t size) {
  return (VF_RECORD_HEADER_SIZE + size + VF_RECORD_ALIGN - 1) & ~(uint64_t)(VF_RECORD_ALIGN - 1);
}

static inline struct vf_record *vf_record_at(uint8_t *ring, uint64_t capacity, uint64_t position) {
  return (struct vf_record *)(void *)(ring + (position & (capacity - 1)));
}

/* The check value of a record; of padding, payload is NULL. @caller any */
uint32_t vf_record_check(uint64_t lane_id, uint64_t position, uint32_t size, uint16_t kind,
                         uint64_t seq, uint64_t route, const uint8_t *payload);

/* Makes the lane's file under `path`.  capacity: a power of two in range. @caller producer */
int vf_lane_create(struct vf_producer *producer, const char *path, uint64_t capacity,
                   const struct vf_lane_header *ident);

/* Unmaps and writes nothing: a child may call it on its parent's. @caller producer */
void vf_lane_close(struct vf_producer *producer);

/*
 * The room for a payload at head that needs no padding: its size in bytes,
 * at most VF_LANE_PAYLOAD_MAX, and where it begins.  0: there is none here now.
 * A publish of what was written there may follow.  @caller producer
 */
size_t vf_lane_room(struct vf_producer *producer, uint8_t **payload);

/*
 * Room for exactly `size` bytes, padding written where needed; VF_OK, VF_FULL or
 * VF_TOO_LARGE.  Forgetting a reservation is how to abort it.  @caller producer
 */
int vf_lane_reserve(struct vf_producer *producer, uint32_t size, uint8_t **payload);

/* Completes the record of the last reservation and publishes it. @caller producer */
void vf_lane_publish(struct vf_producer *producer, uint32_t size, uint64_t route, uint16_t kind,
                     uint64_t seq);

/* The part of a lane that has to come between two rings that end a doze. */
#define VF_LANE_RING_PART 16u

/*
 * Whether the producer, who has just published, is the one that has to ring; `sleeping` is the
 * aggregator's word in the control file.  A lane that is half full because answers are slow would
 * ring with each event: so a doze is ended again only when some more has come.  @caller producer
 */
bool vf_lane_must_ring(struct vf_producer *producer, _Atomic uint32_t *sleeping);

/* The next sequence number. @caller producer */
static inline uint64_t vf_lane_take_seq(struct vf_producer *producer) {
  return ++producer->seq;
}

/*
 * A reader of the producer's own lane, of what nobody else has read or will read: from where the
 * consumer abandoned it, else from the tail.  The header may have been overwritten by anybody, so
 * what it says counts only if it can be true.  Gives back whether it named the place.
 * @caller producer, who writes into this lane no more
 */
bool vf_lane_revisit(struct vf_producer *producer, struct vf_reader *reader);

/* VF_OK; VF_SYSTEM with errno; VF_INVALID or VF_VERSION with a fault. @caller consumer */
int vf_reader_attach(struct vf_reader *reader, const char *path, struct vf_fault *fault);

/*
 * Maps a lane that was put aside and may be wrong in any word of its header: only the size of the
 * file is believed.  The cursor is where its reader abandoned it, else the tail, and what lies
 * before that is known only if it was noted.  VF_OK, VF_SYSTEM or VF_INVALID.  @caller consumer
 */
int vf_reader_attach_aside(struct vf_reader *reader, const char *path, struct vf_fault *fault);

/* Says that nothing behind the cursor will be read. @caller consumer */
void vf_reader_abandon(struct vf_reader *reader);

/* @caller consumer */
void vf_reader_close(struct vf_reader *reader);

/* The published position; VF_INVALID when it cannot be true. @caller consumer */
int vf_reader_head(const struct vf_reader *reader, uint64_t *head);

/*
 * Looks at the next record that is whole and not done, and puts the cursor on
 * it, past padding, done records and damage.  VF_OK, VF_EMPTY or VF_INVALID.
 * @caller consumer
 */
int vf_reader_peek(struct vf_reader *reader, struct vf_view *view);

/* The same; a payload of at most `room` bytes is copied before it is checked, and the view shows
 * the copy.  @caller consumer */
int vf_reader_peek_copy(struct vf_reader *reader, struct vf_view *view, uint8_t *copy, size_t room);

/* The same (`copy` may be NULL) without a search, which may be long: VF_OTHER where there is damage
 * first.  @caller consumer */
int vf_reader_peek_quick(struct vf_reader *reader, struct vf_view *view, uint8_t *copy,
                         size_t room);

/* Past the record that peek has shown. @caller consumer */
static inline void vf_reader_advance(struct vf_reader *reader, const struct vf_view *view) {
  reader->cursor = view->end;
  reader->last_seq = view->seq;
  reader->passed++;
}

/*
 * Moves consecutive VF_KIND_EVENT records of `route` that begin before `until`
 * into the batch.  VF_EMPTY: nothing more before `until`; VF_FULL: seal first;
 * VF_OTHER: the next record has another route or kind, or does not follow in
 * sequence; VF_NOMEM; VF_INVALID: head cannot be true.  The run is valid in
 * each case.  @caller consumer
 */
int vf_reader_drain(struct vf_reader *reader, struct vf_batch *batch, uint64_t route,
                    uint64_t until, struct vf_run *run);

/* The same without a search: VF_OTHER also where there is damage first.  @caller consumer */
int vf_reader_drain_quick(struct vf_reader *reader, struct vf_batch *batch, uint64_t route,
                          uint64_t until, struct vf_run *run);

/* Back to a position between tail and cursor; VF_INVALID when it is not. @caller consumer */
int vf_reader_rewind(struct vf_reader *reader, uint64_t position);

/* Gives space before `position` back; VF_INVALID unless between tail and cursor. @caller consumer
 */
int vf_reader_release(struct vf_reader *reader, uint64_t position);

/*
 * Says, before `position` is released, how many records lie before it: so a
 * reader that attaches later knows what its predecessors have passed, even if
 * one was killed between the two.  @caller consumer
 */
void vf_reader_note_passed(struct vf_reader *reader, uint64_t position, uint64_t passed);

/*
 * Writes down that damage before `position` has been counted, and how many records lie before it
 * (UINT64_MAX: not known), for a reader that attaches before that space is released.
 * @caller consumer
 */
void vf_reader_note_damage(struct vf_reader *reader, uint64_t position, uint64_t passed);

/*
 * Marks the records that begin in [start, end) and have a sequence in
 * [first_seq, last_seq] as done.  A count, or VF_INVALID.  @caller consumer
 */
int64_t vf_reader_mark(struct vf_reader *reader, uint64_t start, uint64_t end, uint64_t first_seq,
                       uint64_t last_seq);

#endif /* VF_LANE_H */
