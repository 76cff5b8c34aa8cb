/*
 * vf_batch.c - the open batch.
 *
 * The body grows at its end only.  An event is written behind what is there and
 * becomes part of the batch by the assignments to `count` and `size` at the very
 * end, so a failure anywhere before leaves nothing to undo.  The buffer may be
 * VF_JSON_STEP larger than the limit: the writer runs a little over before it
 * asks for room, and the exact size is compared when it is known.  There is
 * always room for the closing brackets.
 */
#include "vf_batch.h"

#include "vf_json.h"
#include "vf_msgpack.h"

#include <stdlib.h>
#include <string.h>

#define PREFIX "{\"ev\":["
#define PREFIX_SIZE (sizeof PREFIX - 1)
#define CLOSING "]}"
#define CLOSING_SIZE (sizeof CLOSING - 1)

#define ROOM_FIRST 65536u
/* A buffer is worth shrinking when this many batches in a row left much of it;
 * one small batch between large ones is not a reason. */
#define LOOSE_SEALS 8u

#define VISITORS_SIZE (VF_VISITOR_BITS / 8)

static uint8_t *plain_memory(uint8_t *body, size_t kept, size_t room) {
  (void)kept;
  if (room == 0) {
    free(body);
    return NULL;
  }
  return realloc(body, room);
}

static size_t room_at_first(const struct vf_batch *batch) {
  size_t most = (size_t)batch->bytes_max + VF_JSON_STEP;
  return most < ROOM_FIRST ? most : ROOM_FIRST;
}

int vf_batch_init(struct vf_batch *batch, uint32_t events_max, uint32_t bytes_max) {
  return vf_batch_init_in(batch, events_max, bytes_max, plain_memory);
}

int vf_batch_init_in(struct vf_batch *batch, uint32_t events_max, uint32_t bytes_max,
                     vf_body_memory *body_memory) {
  memset(batch, 0, sizeof *batch);
  if (events_max < 1 || events_max > VF_BATCH_EVENTS_MAX || bytes_max < VF_BATCH_BYTES_MIN ||
      bytes_max > VF_BATCH_BYTES_MAX) {
    return VF_INVALID;
  }
  batch->events_max = events_max;
  batch->bytes_max = bytes_max;
  batch->room = room_at_first(batch);
  batch->body_memory = body_memory;
  batch->body = body_memory(NULL, 0, batch->room);
  batch->offsets = malloc(((size_t)events_max + 1) * sizeof *batch->offsets);
  batch->visitors = calloc(VISITORS_SIZE, 1);
  batch->memory = calloc(1, sizeof *batch->memory);
  if (batch->body == NULL || batch->offsets == NULL || batch->visitors == NULL ||
      batch->memory == NULL) {
    vf_batch_free(batch);
    return VF_NOMEM;
  }
  vf_shapes_init(&batch->memory->shapes);
  memcpy(batch->body, PREFIX, PREFIX_SIZE);
  batch->size = PREFIX_SIZE;
  batch->offsets[0] = PREFIX_SIZE;
  return VF_OK;
}

void vf_batch_free(struct vf_batch *batch) {
  if (batch->body != NULL) {
    (void)batch->body_memory(batch->body, 0, 0);
  }
  free(batch->offsets);
  free(batch->visitors);
  free(batch->memory);
  memset(batch, 0, sizeof *batch);
}

static int set_room(struct vf_batch *batch, size_t kept, size_t room) {
  uint8_t *body = batch->body_memory(batch->body, kept, room);
  if (body == NULL) {
    return VF_NOMEM;
  }
  batch->body = body;
  batch->room = room;
  return VF_OK;
}

void vf_batch_clear(struct vf_batch *batch) {
  if (batch->count > 0) {
    memset(batch->visitors, 0, VISITORS_SIZE);
  }
  batch->size = PREFIX_SIZE;
  batch->count = 0;
}

/* After a body that left much of its room: the next of that size shall fill it. */
static void shrink(struct vf_batch *batch) {
  size_t first = room_at_first(batch);
  size_t room = batch->room - batch->room / 4;
  batch->loose_seals++;
  if (batch->loose_seals >= LOOSE_SEALS && batch->room > first) {
    batch->loose_seals = 0;
    /* A failure leaves the larger buffer, which serves as well. */
    (void)set_room(batch, batch->size, room > first ? room : first);
  }
}

int vf_batch_seal(struct vf_batch *batch, uint8_t **body) {
  size_t size = vf_batch_body_size(batch);
  bool is_full = size > batch->room - batch->room / 4;
  uint8_t *other = batch->body_memory(NULL, 0, is_full ? batch->room : size);
  if (other == NULL) {
    return VF_NOMEM;
  }
  memcpy(batch->body + batch->size, CLOSING, CLOSING_SIZE);
  memcpy(other, batch->body, is_full ? PREFIX_SIZE : size);
  *body = is_full ? batch->body : other;
  batch->body = is_full ? other : batch->body;
  vf_batch_clear(batch);
  if (is_full) {
    batch->loose_seals = 0;
  } else {
    shrink(batch);
  }
  return VF_OK;
}

/* Makes room for `more` bytes behind the first `size`, and the brackets, and for some that may
 * follow, up to the limit and a step. */
static int grow(struct vf_batch *batch, size_t size, size_t more) {
  size_t most = (size_t)batch->bytes_max + VF_JSON_STEP;
  size_t room = batch->room;
  while (room < size + more + CLOSING_SIZE) {
    room += room / 4 + VF_JSON_STEP;
  }
  return set_room(batch, size, room < most ? room : most);
}

/* Where an event that comes next begins: behind a comma, except the first. */
static size_t next_begin(const struct vf_batch *batch) {
  return batch->count == 0 ? batch->size : batch->size + 1;
}

/* Bytes that the body may have before its closing brackets. */
static size_t open_size_max(const struct vf_batch *batch) {
  return batch->bytes_max - CLOSING_SIZE;
}

/* Why an event that overran the batch did so.  It is measured from its own bytes
 * again; alone in the batch it is too large even if those have changed since. */
static int refusal(const struct vf_batch *batch, size_t json_size) {
  bool fits_alone = json_size <= open_size_max(batch) - PREFIX_SIZE;
  return fits_alone && batch->count > 0 ? VF_FULL : VF_TOO_LARGE;
}

static void commit(struct vf_batch *batch, size_t end, uint64_t visitor) {
  if (batch->count > 0) {
    batch->body[batch->size] = ',';
  }
  vf_visitors_add(batch->visitors, visitor);
  batch->count++;
  batch->size = end;
  /* As if a comma followed: event i always ends one before offsets[i + 1]. */
  batch->offsets[batch->count] = (uint32_t)end + 1;
}

struct writer {
  struct vf_json_out out; /* first: `more` gets its address */
  struct vf_batch *batch;
};

static void aim(struct writer *writer, size_t begin) {
  struct vf_batch *batch = writer->batch;
  writer->out.at = batch->body + begin;
  writer->out.soft_end = batch->body + (batch->room - VF_JSON_STEP - CLOSING_SIZE);
}

static int batch_more(struct vf_json_out *out) {
  struct writer *writer = (struct writer *)out;
  struct vf_batch *batch = writer->batch;
  size_t size = (size_t)(out->at - batch->body);
  if (size > open_size_max(batch)) {
    return VF_FULL;
  }
  int rc = grow(batch, size, VF_JSON_STEP);
  if (rc == VF_OK) {
    aim(writer, size);
  }
  return rc;
}

/* Writes an event in private memory, by the shape of earlier ones if it has one of these. */
static int write_copied(struct writer *writer, const uint8_t *event, size_t size,
                        uint64_t *visitor) {
  struct vf_shapes *shapes = &writer->batch->memory->shapes;
  int rc = vf_shapes_write(shapes, &writer->out, event, size, visitor);
  if (rc != VF_OTHER) {
    return rc;
  }
  aim(writer, next_begin(writer->batch));
  rc = vf_json_write(&writer->out, event, size);
  if (rc == VF_OK) {
    *visitor = vf_event_visitor(event, size);
    vf_shapes_learn(shapes, event, size);
  }
  return rc;
}

int vf_batch_append(struct vf_batch *batch, const uint8_t *payload, size_t size) {
  if (batch->count == batch->events_max) {
    return VF_FULL;
  }
  struct writer writer = {.out.more = batch_more, .batch = batch};
  uint64_t visitor = 0;
  int rc;
  aim(&writer, next_begin(batch));
  if (size <= VF_BATCH_COPY_MAX) {
    if (payload != vf_batch_place(batch) && size > 0) {
      memcpy(vf_batch_place(batch), payload, size);
    }
    payload = vf_batch_place(batch);
    rc = write_copied(&writer, payload, size, &visitor);
  } else {
    rc = vf_json_write(&writer.out, payload, size);
    visitor = rc == VF_OK ? vf_event_visitor(payload, size) : 0;
  }
  size_t end = (size_t)(writer.out.at - batch->body);
  if (rc == VF_FULL || (rc == VF_OK && end > open_size_max(batch))) {
    size_t json_size;
    rc = vf_json_size(payload, size, &json_size);
    return rc == VF_OK ? refusal(batch, json_size) : rc;
  }
  if (rc == VF_OK) {
    commit(batch, end, visitor);
  }
  return rc;
}

int vf_batch_append_json(struct vf_batch *batch, const uint8_t *json, size_t size,
                         uint64_t visitor) {
  if (batch->count == batch->events_max) {
    return VF_FULL;
  }
  size_t begin = next_begin(batch);
  if (begin > open_size_max(batch) || size > open_size_max(batch) - begin) {
    return refusal(batch, size);
  }
  if (begin + size + CLOSING_SIZE > batch->room) {
    int rc = grow(batch, begin, size);
    if (rc != VF_OK) {
      return rc;
    }
  }
  memcpy(batch->body + begin, json, size);
  commit(batch, begin + size, visitor);
  return VF_OK;
}
