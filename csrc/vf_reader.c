/*
 * vf_reader.c - the consumer's side of a lane.
 */
#include "vf_lane.h"

#include "vf_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SCAN_LOOKS_MAX 16u

static int attach(struct vf_reader *reader, const char *path, struct vf_fault *fault) {
  void *base = NULL;
  size_t size = 0;
  int status =
      vf_segment_attach(path, VF_LANE_HEADER_SIZE,
                        VF_LANE_HEADER_SIZE + (size_t)VF_LANE_CAPACITY_MAX, &base, &size, fault);

  if (status == VF_OK) {
    memset(reader, 0, sizeof *reader);
    reader->header = base;
    reader->ring = (uint8_t *)base + VF_LANE_HEADER_SIZE;
    /* From the file's size, which was checked; the header may change at any time. */
    reader->capacity = size - VF_LANE_HEADER_SIZE;
  }
  return status;
}

static int reader_check(const struct vf_lane_header *header, size_t size, struct vf_fault *fault) {
  uint64_t capacity = vf_once_u64(&header->capacity);
  uint64_t head = vf_head_load(&header->head);
  uint64_t tail = vf_tail_load(&header->tail);
  int status = vf_segment_identify(header->magic, VF_LANE_MAGIC, header->version, fault);

  if (status != VF_OK) {
    return status;
  }
  if (!vf_capacity_valid(capacity) || header->header_size != VF_LANE_HEADER_SIZE ||
      size != VF_LANE_HEADER_SIZE + capacity) {
    snprintf(fault->text, sizeof fault->text,
             "%zu bytes long, but its header says %" PRIu32 " and a ring of %" PRIu64, size,
             header->header_size, capacity);
    return VF_INVALID;
  }
  if (head - tail > capacity || head % VF_RECORD_ALIGN != 0 || tail % VF_RECORD_ALIGN != 0) {
    snprintf(fault->text, sizeof fault->text,
             "head %" PRIu64 " and tail %" PRIu64 " cannot be true in a ring of %" PRIu64, head,
             tail, capacity);
    return VF_INVALID;
  }
  return VF_OK;
}

/* How many records lie before the tail, as the consumer noted; false: no note can be true. */
static bool passed_read(const struct vf_lane_header *header, uint64_t tail, uint64_t *passed) {
  for (size_t slot = 0; slot < 4; slot += 2) {
    uint64_t count = vf_number_load(&header->passed[slot + 1]);
    if (vf_tail_load(&header->passed[slot]) == tail && count <= tail / VF_RECORD_HEADER_SIZE) {
      *passed = count;
      return true;
    }
  }
  return false;
}

/* What a reader before this one has counted of the damage that still lies there. */
static void damage_read(struct vf_reader *reader) {
  uint64_t position = vf_tail_load(&reader->header->damage_noted[0]);
  uint64_t passed = vf_number_load(&reader->header->damage_noted[1]);
  uint64_t head = 0;

  reader->damaged_to = reader->tail;
  if (vf_reader_head(reader, &head) == VF_OK && position % VF_RECORD_ALIGN == 0 &&
      position - reader->tail <= head - reader->tail && position != reader->tail) {
    reader->damaged_to = position;
    reader->damaged_passed = passed;
    reader->damaged_known = passed <= position / VF_RECORD_HEADER_SIZE;
  }
}

int vf_reader_attach(struct vf_reader *reader, const char *path, struct vf_fault *fault) {
  struct vf_lane_header *header;
  int status = attach(reader, path, fault);

  if (status != VF_OK) {
    return status;
  }
  header = reader->header;
  status = reader_check(header, VF_LANE_HEADER_SIZE + (size_t)reader->capacity, fault);
  if (status != VF_OK) {
    vf_reader_close(reader);
    return status;
  }
  reader->lane_id = vf_once_u64(&header->lane_id);
  reader->owner = vf_once_u64(&header->owner);
  reader->pid = vf_once_u64(&header->pid);
  reader->predecessor = vf_once_u64(&header->predecessor);
  reader->tail = vf_tail_load(&header->tail) & ~(uint64_t)(VF_RECORD_ALIGN - 1);
  reader->cursor = reader->seen = reader->tail;
  reader->scan_from = reader->tail;
  reader->passed_known = passed_read(header, reader->tail, &reader->passed);
  damage_read(reader);
  return VF_OK;
}

int vf_reader_attach_aside(struct vf_reader *reader, const char *path, struct vf_fault *fault) {
  uint64_t abandoned;
  int status = attach(reader, path, fault);

  if (status != VF_OK) {
    return status;
  }
  if (!vf_capacity_valid(reader->capacity)) {
    vf_reader_close(reader);
    return VF_INVALID;
  }
  abandoned = vf_number_load(&reader->header->abandoned);
  reader->lane_id = vf_once_u64(&reader->header->lane_id);
  reader->tail = vf_tail_load(&reader->header->tail);
  reader->cursor = reader->seen = abandoned != 0 ? abandoned - 1 : reader->tail;
  reader->passed_known = passed_read(reader->header, reader->cursor, &reader->passed);
  return VF_OK;
}

void vf_reader_abandon(struct vf_reader *reader) {
  if (reader->passed_known && reader->cursor != reader->tail) {
    vf_reader_note_passed(reader, reader->cursor, reader->passed);
  }
  vf_number_store(&reader->header->abandoned, reader->cursor + 1);
}

void vf_reader_close(struct vf_reader *reader) {
  if (reader->header != NULL) {
    vf_segment_unmap(reader->header, VF_LANE_HEADER_SIZE + (size_t)reader->capacity);
  }
  memset(reader, 0, sizeof *reader);
}

int vf_reader_head(const struct vf_reader *reader, uint64_t *head) {
  uint64_t found = vf_head_load(&reader->header->head);

  if (found - reader->tail > reader->capacity || found % VF_RECORD_ALIGN != 0 ||
      found - reader->cursor > reader->capacity) {
    return VF_INVALID;
  }
  *head = found;
  return VF_OK;
}

static bool kind_known(uint16_t kind) {
  uint16_t base = kind & (uint16_t)~VF_KIND_EXTERNAL;
  return base <= VF_KIND_REQUEST && kind != VF_KIND_EXTERNAL;
}

/*
 * Reads the header at `position`, every field once, and says what it could be.
 * VF_OK: a record, if it certifies itself; VF_OTHER: the end of the ring, to be
 * skipped up to view->end; VF_INVALID: no record.
 */
static int header_read(const struct vf_reader *reader, uint64_t position, uint64_t head,
                       struct vf_view *view) {
  uint64_t left = reader->capacity - (position & (reader->capacity - 1));
  struct vf_record *record = vf_record_at(reader->ring, reader->capacity, position);

  if (left > head - position) {
    left = head - position;
  } else if (left < VF_RECORD_HEADER_SIZE) {
    view->end = position + left;
    return VF_OTHER;
  }
  if (left < VF_RECORD_HEADER_SIZE) {
    return VF_INVALID;
  }
  view->size = vf_once_u32(&record->size);
  view->kind = vf_once_u16(&record->kind);
  view->seq = vf_once_u64(&record->seq);
  view->route = vf_once_u64(&record->route);
  view->start = position;
  view->end = position + vf_record_span(view->size);
  view->payload = NULL;
  if (vf_record_span(view->size) > left || !kind_known(view->kind)) {
    return VF_INVALID;
  }
  if (view->kind == VF_KIND_PADDING) {
    return VF_OK;
  }
  view->payload = (const uint8_t *)record + VF_RECORD_HEADER_SIZE;
  return view->seq != 0 && view->size <= VF_LANE_PAYLOAD_MAX(reader->capacity) ? VF_OK : VF_INVALID;
}

static bool certifies(const struct vf_reader *reader, const struct vf_view *view) {
  const struct vf_record *record = vf_record_at(reader->ring, reader->capacity, view->start);
  return vf_once_u32(&record->check) == vf_record_check(reader->lane_id, view->start, view->size,
                                                        view->kind, view->seq, view->route,
                                                        view->payload);
}

/* A record whose payload fits into `room` bytes at `copy` is copied there first: then what is
 * checked and what is used are the same bytes, whatever its writer does meanwhile. */
static inline int record_read(const struct vf_reader *reader, uint64_t position, uint64_t head,
                              struct vf_view *view, uint8_t *copy, size_t room) {
  int status = header_read(reader, position, head, view);
  for (unsigned line = 0; line < VF_AHEAD_LINES; line++) {
    __builtin_prefetch(vf_ahead(reader->ring, reader->capacity, position, line), 0);
  }
  if (copy != NULL && status == VF_OK && view->payload != NULL && view->size <= room) {
    memcpy(copy, view->payload, view->size);
    view->payload = copy;
  }
  return status == VF_OK && !certifies(reader, view) ? VF_INVALID : status;
}

/*
 * The first position after `position` where a record certifies itself, or head.
 * A hostile writer can make every eighth byte look like a large record, so the
 * bytes looked at are bounded per lap of the ring; beyond that all that is
 * published is given up.  (Bytes of an honest writer cost four looks each.)
 */
static uint64_t scan(struct vf_reader *reader, uint64_t position, uint64_t head) {
  struct vf_view view;

  if (reader->cursor - reader->scan_from >= reader->capacity) {
    reader->scan_from = reader->cursor;
    reader->scanned = 0;
  }
  for (position += VF_RECORD_ALIGN;
       head != position && reader->scanned < SCAN_LOOKS_MAX * reader->capacity;
       position += VF_RECORD_ALIGN) {
    reader->scanned += VF_RECORD_HEADER_SIZE;
    if (header_read(reader, position, head, &view) != VF_OK) {
      continue;
    }
    if (view.payload != NULL) {
      reader->scanned += view.size;
    }
    if (certifies(reader, &view)) {
      return position;
    }
  }
  return head;
}

static bool lies_before(uint64_t position, uint64_t other) {
  return (int64_t)(position - other) < 0;
}

/* How many records a gap held: what the sequence tells, if it can be true, else 0. */
static uint64_t records_lost(const struct vf_reader *reader, uint64_t next_seq) {
  uint64_t lost = next_seq - reader->last_seq - 1;
  bool believable = reader->last_seq != 0 && next_seq > reader->last_seq &&
                    lost <= reader->gap / VF_RECORD_HEADER_SIZE;
  return believable ? lost : 0;
}

/*
 * Counts the records of the gap before the cursor, once.  Where head cuts a gap off, next_seq is
 * 0 and one is counted; what follows, or the sequence of the next whole record, completes that.
 * A reader that went before may have counted the gap, or its beginning: then what was noted tells
 * how many records that were.
 */
static void count_gap(struct vf_reader *reader, uint64_t next_seq) {
  uint64_t total = records_lost(reader, next_seq), counted = 0, lost = reader->gap_is_new;
  bool is_known = reader->passed_known && reader->damaged_known;

  if (lies_before(reader->cursor, reader->damaged_to)) {
    /* The number is made exact where the noted damage ends. */
    reader->passed = reader->gap_passed + (total > 0 ? total : 1);
    reader->gap = 0;
    return;
  }
  if (lies_before(reader->gap_from, reader->damaged_to)) {
    counted = reader->damaged_passed - reader->gap_passed;
    if (!is_known || counted > reader->gap / VF_RECORD_HEADER_SIZE) {
      total = 0;
    }
    if (is_known) {
      reader->passed = reader->damaged_passed;
    }
  }
  if (total > 0) {
    lost = total > counted ? total - counted : 0;
  }
  reader->damaged += lost;
  reader->passed += lost;
  reader->damaged_to = reader->cursor;
  reader->damaged_passed = reader->passed;
  reader->damaged_known = reader->passed_known;
  reader->gap_is_new = false;
  if (next_seq != 0) {
    reader->gap = 0;
  }
}

/* Past what does not certify itself. */
static void skip_damage(struct vf_reader *reader, uint64_t head) {
  uint64_t next = scan(reader, reader->cursor, head);

  if (reader->gap == 0) {
    reader->gap_from = reader->cursor;
    reader->gap_passed = reader->passed;
    reader->gap_is_new = false;
  }
  reader->gap += next - reader->cursor;
  reader->gap_is_new |= lies_before(reader->damaged_to, next);
  reader->cursor = next;
}

/* Whether something is published behind the cursor.  Its producer's line is looked at only when
 * all that was seen there has been read: each look takes it away from who writes. */
static int look_ahead(struct vf_reader *reader) {
  int status = VF_OK;

  if (reader->seen == reader->cursor) {
    status = vf_reader_head(reader, &reader->seen);
  }
  return status == VF_OK && reader->seen == reader->cursor ? VF_EMPTY : status;
}

/* Where `searches` is false, it is VF_OTHER that there is damage at the cursor. */
static int peek(struct vf_reader *reader, struct vf_view *view, uint8_t *copy, size_t room,
                bool searches) {
  int status;

  while ((status = look_ahead(reader)) == VF_OK) {
    status = record_read(reader, reader->cursor, reader->seen, view, copy, room);
    if (status == VF_INVALID && !searches) {
      return VF_OTHER;
    }
    if (status == VF_INVALID) {
      skip_damage(reader, reader->seen);
      continue;
    }
    if (status == VF_OTHER || view->kind == VF_KIND_PADDING) {
      reader->cursor = view->end;
      continue;
    }
    if (reader->gap > 0) {
      count_gap(reader, view->seq);
    }
    if (vf_flag_load(&vf_record_at(reader->ring, reader->capacity, view->start)->state) !=
        VF_STATE_DONE) {
      return VF_OK;
    }
    vf_reader_advance(reader, view);
  }
  if (status == VF_EMPTY && reader->gap_is_new) {
    count_gap(reader, 0);
  }
  return status;
}

int vf_reader_peek(struct vf_reader *reader, struct vf_view *view) {
  return peek(reader, view, NULL, 0, true);
}

int vf_reader_peek_copy(struct vf_reader *reader, struct vf_view *view, uint8_t *copy,
                        size_t room) {
  return peek(reader, view, copy, room, true);
}

int vf_reader_peek_quick(struct vf_reader *reader, struct vf_view *view, uint8_t *copy,
                         size_t room) {
  return peek(reader, view, copy, room, false);
}

int vf_reader_rewind(struct vf_reader *reader, uint64_t position) {
  if (position - reader->tail > reader->cursor - reader->tail || position % VF_RECORD_ALIGN != 0) {
    return VF_INVALID;
  }
  reader->cursor = position;
  reader->last_seq = 0;
  reader->passed_known = false;
  reader->gap = 0;
  reader->gap_is_new = false;
  return VF_OK;
}

int vf_reader_release(struct vf_reader *reader, uint64_t position) {
  if (position - reader->tail > reader->cursor - reader->tail || position % VF_RECORD_ALIGN != 0) {
    return VF_INVALID;
  }
  reader->tail = position;
  vf_tail_release(&reader->header->tail, position);
  return VF_OK;
}

void vf_reader_note_passed(struct vf_reader *reader, uint64_t position, uint64_t passed) {
  _Atomic uint64_t *notes = reader->header->passed;
  /* The note that names the present tail holds until the tail moves. */
  size_t slot = vf_tail_load(&notes[0]) == reader->tail ? 2 : 0;

  vf_number_store(&notes[slot + 1], passed);
  vf_tail_release(&notes[slot], position);
}

void vf_reader_note_damage(struct vf_reader *reader, uint64_t position, uint64_t passed) {
  _Atomic uint64_t *noted = reader->header->damage_noted;

  vf_number_store(&noted[1], passed);
  vf_tail_release(&noted[0], position);
}

int64_t vf_reader_mark(struct vf_reader *reader, uint64_t start, uint64_t end, uint64_t first_seq,
                       uint64_t last_seq) {
  uint64_t head, position = start;
  int64_t marked = 0;
  struct vf_view view;
  int status = vf_reader_head(reader, &head);

  if (status != VF_OK) {
    return status;
  }
  if (start - reader->tail > head - reader->tail || end - start > head - start ||
      start % VF_RECORD_ALIGN != 0) {
    return VF_INVALID;
  }
  while (end != position && end - position <= reader->capacity) {
    status = record_read(reader, position, head, &view, NULL, 0);
    if (status == VF_INVALID) {
      position = scan(reader, position, head);
      continue;
    }
    if (status == VF_OK && view.kind != VF_KIND_PADDING && view.seq >= first_seq &&
        view.seq <= last_seq) {
      vf_flag_store(&vf_record_at(reader->ring, reader->capacity, position)->state, VF_STATE_DONE);
      marked++;
    }
    position = view.end;
  }
  return marked;
}
