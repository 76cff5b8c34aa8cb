/*
 * fuzz_reader.h - what a reader must keep to whatever lies in the lane, and a
 * program of calls that the bytes of an input choose.
 */
#ifndef VF_FUZZ_READER_H
#define VF_FUZZ_READER_H

#include "lane_test.h"
#include "vf_batch.h"

/* Bytes that are taken from the front of an input; zeros behind its end. */
struct source {
  const uint8_t *at;
  const uint8_t *end;
};

static inline uint64_t take(struct source *source, unsigned width) {
  uint64_t value = 0;
  for (; width > 0; width--) {
    value = value << 8 | (source->at < source->end ? *source->at++ : 0u);
  }
  return value;
}

static inline void check_reader(const struct vf_reader *reader) {
  CHECK(reader->capacity >= VF_LANE_CAPACITY_MIN && reader->capacity <= VF_LANE_CAPACITY_MAX);
  CHECK(reader->cursor - reader->tail <= reader->capacity);
  CHECK(reader->cursor % VF_RECORD_ALIGN == 0 && reader->tail % VF_RECORD_ALIGN == 0);
  CHECK(reader->scanned <= 17 * reader->capacity + VF_LANE_PAYLOAD_MAX(reader->capacity));
}

/* Touches every byte of a payload, which must lie in the ring. */
static inline void check_view(const struct vf_reader *reader, const struct vf_view *view) {
  uint8_t sum = 0;
  CHECK(view->payload >= reader->ring + VF_RECORD_HEADER_SIZE);
  CHECK(view->payload + view->size <= reader->ring + reader->capacity);
  CHECK(view->size <= VF_LANE_PAYLOAD_MAX(reader->capacity));
  CHECK_INT(view->end - view->start, vf_record_span(view->size));
  CHECK(view->seq != 0 && view->kind != VF_KIND_PADDING);
  for (uint32_t i = 0; i < view->size; i++) {
    sum ^= view->payload[i];
  }
  __asm__("" : : "r"(sum));
}

static inline void call_drain(struct vf_reader *reader, struct vf_batch *batch, uint64_t route,
                              uint64_t until) {
  struct vf_run run;
  uint32_t before = batch->count;
  int status = vf_reader_drain(reader, batch, route, until, &run);
  CHECK(status == VF_EMPTY || status == VF_FULL || status == VF_OTHER || status == VF_INVALID);
  CHECK_INT(batch->count, before + run.count);
  CHECK(batch->count <= batch->events_max && vf_batch_body_size(batch) <= batch->bytes_max);
  CHECK(run.end - run.start <= reader->capacity && run.start - reader->tail <= reader->capacity);
  if (status == VF_FULL) {
    vf_batch_clear(batch);
  }
}

static inline void call_peek(struct vf_reader *reader, bool advance) {
  struct vf_view view;
  int status = vf_reader_peek(reader, &view);
  CHECK(status == VF_OK || status == VF_EMPTY || status == VF_INVALID);
  if (status == VF_OK) {
    check_view(reader, &view);
    if (advance) {
      vf_reader_advance(reader, &view);
    }
  }
}

/* One call, chosen by `choice`; positions are near the reader's own or far from them. */
static inline void call_reader(struct vf_reader *reader, struct vf_batch *batch, unsigned choice,
                               struct source *source) {
  uint64_t near = reader->tail + take(source, 1) * VF_RECORD_ALIGN;
  uint64_t head = 0;
  switch (choice % 8) {
  case 0:
  case 1:
    call_peek(reader, choice % 8 == 1);
    break;
  case 2:
    call_drain(reader, batch, ROUTE, reader->cursor + take(source, 3));
    break;
  case 3:
    CHECK(vf_reader_mark(reader, near, near + take(source, 3), 1, UINT64_MAX) >= VF_INVALID);
    break;
  case 4:
    (void)vf_reader_release(reader, choice < 128 ? reader->cursor : near);
    break;
  case 5:
    (void)vf_reader_rewind(reader, near);
    break;
  case 6:
    vf_reader_note_passed(reader, reader->cursor, reader->passed);
    break;
  default:
    if (vf_reader_head(reader, &head) == VF_OK) {
      CHECK(head - reader->tail <= reader->capacity);
      CHECK(vf_reader_mark(reader, reader->tail, head, take(source, 1), UINT64_MAX) >= VF_INVALID);
    }
  }
  check_reader(reader);
}

#endif /* VF_FUZZ_READER_H */
