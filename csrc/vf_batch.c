/*
 * vf_batch.c - the open batch.
 *
 * The body grows at its end only.  An event is written behind what is there and
 * becomes part of the batch by the assignments to `count` and `size` at the very
 * end, so a failure anywhere before leaves nothing to undo.  The buffer may be
 * VF_JSON_STEP larger than the limit: the writer runs a little over before it
 * asks for room, and the exact size is compared when it is known.
 */
#include "vf_batch.h"

#include "vf_json.h"
#include "vf_msgpack.h"

#include <stdlib.h>
#include <string.h>

#define PREFIX "{\"ev\":["
#define PREFIX_SIZE (sizeof PREFIX - 1)
#define CLOSING_SIZE 2u

#define ROOM_FIRST 65536u
/* A buffer is worth shrinking when this many batches in a row used less than a
 * quarter of it; one small batch between large ones is not a reason. */
#define IDLE_CLEARS 8u

#define VISITORS_SIZE (VF_VISITOR_BITS / 8)

static size_t room_at_first(const struct vf_batch *batch) {
  size_t most = (size_t)batch->bytes_max + VF_JSON_STEP;
  return most < ROOM_FIRST ? most : ROOM_FIRST;
}

int vf_batch_init(struct vf_batch *batch, uint32_t events_max, uint32_t bytes_max) {
  memset(batch, 0, sizeof *batch);
  if (events_max < 1 || events_max > VF_BATCH_EVENTS_MAX || bytes_max < VF_BATCH_BYTES_MIN ||
      bytes_max > VF_BATCH_BYTES_MAX) {
    return VF_INVALID;
  }
  batch->events_max = events_max;
  batch->bytes_max = bytes_max;
  batch->room = room_at_first(batch);
  batch->body = malloc(batch->room);
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
  free(batch->body);
  free(batch->offsets);
  free(batch->visitors);
  free(batch->memory);
  memset(batch, 0, sizeof *batch);
}

static int set_room(struct vf_batch *batch, size_t room) {
  uint8_t *body = realloc(batch->body, room);
  if (body == NULL) {
    return VF_NOMEM;
  }
  batch->body = body;
  batch->room = room;
  return VF_OK;
}

void vf_batch_clear(struct vf_batch *batch) {
  batch->idle_clears = batch->size < batch->room / 4 ? batch->idle_clears + 1 : 0;
  if (batch->idle_clears >= IDLE_CLEARS) {
    batch->idle_clears = 0;
    size_t half = batch->room / 2;
    if (half >= room_at_first(batch)) {
      /* A failure leaves the larger buffer, which serves as well. */
      (void)set_room(batch, half);
    }
  }
  if (batch->count > 0) {
    memset(batch->visitors, 0, VISITORS_SIZE);
  }
  batch->size = PREFIX_SIZE;
  batch->count = 0;
}

/* Doubles the buffer until `needed` bytes fit, up to the limit and a step. */
static int grow(struct vf_batch *batch, size_t needed) {
  size_t most = (size_t)batch->bytes_max + VF_JSON_STEP;
  size_t room = batch->room;
  while (room < needed) {
    room *= 2;
  }
  return set_room(batch, room < most ? room : most);
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
  writer->out.soft_end = batch->body + (batch->room - VF_JSON_STEP);
}

static int batch_more(struct vf_json_out *out) {
  struct writer *writer = (struct writer *)out;
  struct vf_batch *batch = writer->batch;
  size_t size = (size_t)(out->at - batch->body);
  if (size > open_size_max(batch)) {
    return VF_FULL;
  }
  int rc = grow(batch, size + VF_JSON_STEP);
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
  if (begin + size > batch->room) {
    int rc = grow(batch, begin + size);
    if (rc != VF_OK) {
      return rc;
    }
  }
  memcpy(batch->body + begin, json, size);
  commit(batch, begin + size, visitor);
  return VF_OK;
}
