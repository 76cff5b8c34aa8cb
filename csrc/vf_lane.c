/*
 * vf_lane.c - the producer's side of a lane, and what certifies a record.
 */
#include "vf_lane.h"

#include "vf_check.h"

#include <string.h>

#ifdef VF_STOP_POINTS
/* Tests only: called at each named step of a publish. */
void vf_stop_point(const char *name);
#define STOP_POINT(name) vf_stop_point(name)
#else
#define STOP_POINT(name) ((void)0)
#endif

uint32_t vf_record_check(uint64_t lane_id, uint64_t position, uint32_t size, uint16_t kind,
                         uint64_t seq, uint64_t route, const uint8_t *payload) {
  uint64_t seed = vf_fold(lane_id ^ VF_CHECK_K0, position ^ VF_CHECK_K1);
  uint64_t value = vf_fold(seed ^ seq, route ^ VF_CHECK_K2);

  value ^= (uint64_t)size << 16 | kind;
  value = payload != NULL ? vf_check64(value, payload, size) : vf_fold(value, VF_CHECK_K3);
  return (uint32_t)(value ^ (value >> 32));
}

int vf_lane_create(struct vf_producer *producer, const char *path, uint64_t capacity,
                   const struct vf_lane_header *ident) {
  struct vf_lane_header *header;
  void *base = NULL;
  int status;

  if (!vf_capacity_valid(capacity)) {
    return VF_INVALID;
  }
  status = vf_segment_create(path, VF_LANE_HEADER_SIZE + (size_t)capacity, &base);
  if (status != VF_OK) {
    return status;
  }
  header = base;
  header->magic = VF_LANE_MAGIC;
  header->version = VF_LAYOUT_VERSION;
  header->header_size = VF_LANE_HEADER_SIZE;
  header->capacity = capacity;
  header->lane_id = ident->lane_id;
  header->owner = ident->owner;
  header->pid = ident->pid;
  header->created_ns = ident->created_ns;
  header->predecessor = ident->predecessor;
  vf_flag_store(&header->wants_reports, vf_flag_load(&ident->wants_reports));
  memset(producer, 0, sizeof *producer);
  producer->header = header;
  producer->ring = (uint8_t *)base + VF_LANE_HEADER_SIZE;
  producer->capacity = capacity;
  producer->lane_id = ident->lane_id;
  return VF_OK;
}

void vf_lane_close(struct vf_producer *producer) {
  if (producer->header != NULL) {
    vf_segment_unmap(producer->header, VF_LANE_HEADER_SIZE + (size_t)producer->capacity);
  }
  memset(producer, 0, sizeof *producer);
}

/* Free bytes of the ring, asking the consumer only when the last answer is not enough. */
static uint64_t free_bytes(struct vf_producer *producer, uint64_t wanted) {
  uint64_t available = producer->capacity - (producer->head - producer->tail);

  if (available < wanted) {
    uint64_t tail = vf_tail_load(&producer->header->tail);
    /* A tail that cannot be true frees nothing. */
    if (producer->head - tail <= producer->head - producer->tail && tail % VF_RECORD_ALIGN == 0) {
      producer->tail = tail;
    }
    available = producer->capacity - (producer->head - producer->tail);
  }
  return available;
}

size_t vf_lane_room(struct vf_producer *producer, uint8_t **payload) {
  uint64_t payload_max = VF_LANE_PAYLOAD_MAX(producer->capacity);
  uint64_t offset = producer->head & (producer->capacity - 1);
  uint64_t room = producer->capacity - offset;
  uint64_t available = free_bytes(producer, VF_RECORD_HEADER_SIZE + payload_max);

  if (room > available) {
    room = available;
  }
  if (room <= VF_RECORD_HEADER_SIZE) {
    return 0;
  }
  room -= VF_RECORD_HEADER_SIZE;
  producer->start = producer->head;
  *payload = producer->ring + offset + VF_RECORD_HEADER_SIZE;
  return (size_t)(room < payload_max ? room : payload_max);
}

static void write_header(struct vf_producer *producer, uint64_t position, uint32_t size,
                         uint64_t route, uint16_t kind, uint64_t seq, const uint8_t *payload) {
  struct vf_record *record = vf_record_at(producer->ring, producer->capacity, position);

  record->size = size;
  record->seq = seq;
  record->route = route;
  record->kind = kind;
  record->reserved = 0;
  vf_flag_store(&record->state, VF_STATE_NEW);
  STOP_POINT("header without check");
  record->check = vf_record_check(producer->lane_id, position, size, kind, seq, route, payload);
}

int vf_lane_reserve(struct vf_producer *producer, uint32_t size, uint8_t **payload) {
  uint64_t left = producer->capacity - (producer->head & (producer->capacity - 1));
  uint64_t span = vf_record_span(size);
  uint64_t skip = span > left ? left : 0;

  if (size > VF_LANE_PAYLOAD_MAX(producer->capacity)) {
    return VF_TOO_LARGE;
  }
  if (free_bytes(producer, skip + span) < skip + span) {
    return VF_FULL;
  }
  if (skip >= VF_RECORD_HEADER_SIZE) {
    write_header(producer, producer->head, (uint32_t)(skip - VF_RECORD_HEADER_SIZE), 0,
                 VF_KIND_PADDING, 0, NULL);
  }
  STOP_POINT("padding written");
  producer->start = producer->head + skip;
  *payload = producer->ring + (producer->start & (producer->capacity - 1)) + VF_RECORD_HEADER_SIZE;
  return VF_OK;
}

void vf_lane_publish(struct vf_producer *producer, uint32_t size, uint64_t route, uint16_t kind,
                     uint64_t seq) {
  uint64_t start = producer->start;
  const uint8_t *payload =
      producer->ring + (start & (producer->capacity - 1)) + VF_RECORD_HEADER_SIZE;

  assert(start - producer->head < producer->capacity);
  assert(size <= VF_LANE_PAYLOAD_MAX(producer->capacity));
  STOP_POINT("payload written");
  write_header(producer, start, size, route, kind, seq, payload);
  producer->head = start + vf_record_span(size);
  producer->start = producer->head;
  STOP_POINT("record complete");
  vf_head_publish(&producer->header->head, producer->head);
  STOP_POINT("published");
  for (unsigned line = 0; line < VF_AHEAD_LINES; line++) {
    __builtin_prefetch(vf_ahead(producer->ring, producer->capacity, producer->head, line), 1);
  }
}

bool vf_lane_must_ring(struct vf_producer *producer, _Atomic uint32_t *sleeping) {
  uint64_t half = producer->capacity / 2;

  if (vf_sleeping_take(sleeping)) {
    return true;
  }
  if (!vf_dozing_load(sleeping) || free_bytes(producer, half) >= half ||
      producer->head - producer->rung < producer->capacity / VF_LANE_RING_PART ||
      !vf_dozing_take(sleeping)) {
    return false;
  }
  producer->rung = producer->head;
  return true;
}

bool vf_lane_revisit(struct vf_producer *producer, struct vf_reader *reader) {
  struct vf_lane_header *header = producer->header;
  uint64_t abandoned = vf_number_load(&header->abandoned);
  uint64_t unread = producer->head - producer->tail;
  bool is_named = abandoned != 0 && producer->head - (abandoned - 1) <= unread;
  uint64_t start = is_named ? abandoned - 1 : vf_tail_load(&header->tail);

  if (producer->head - start > unread || start % VF_RECORD_ALIGN != 0) {
    /* Older than the truth at worst: nothing behind it has been overwritten. */
    start = producer->tail;
    is_named = false;
  }
  vf_head_publish(&header->head, producer->head);
  memset(reader, 0, sizeof *reader);
  reader->header = header;
  reader->ring = producer->ring;
  reader->capacity = producer->capacity;
  reader->lane_id = producer->lane_id;
  reader->tail = reader->cursor = reader->seen = start;
  reader->damaged_to = reader->scan_from = start;
  return is_named;
}
