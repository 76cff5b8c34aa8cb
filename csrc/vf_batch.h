/*
 * vf_batch.h - the open batch: msgpack events in, one JSON body out.
 *
 * The body is always {"ev":[e0,e1,...]} in compact JSON, ASCII only.  Two rules
 * hold after every call: count <= events_max, and the size of the body as it
 * would be sent, brackets included, <= bytes_max.  An append that cannot keep
 * both changes nothing.
 *
 * One thread at a time; no function here touches shared memory except to read
 * `payload`, which may change under the reader's feet: it is copied first, or, if
 * it is large, every length is read once and every access is bounded by `size`.
 */
#ifndef VF_BATCH_H
#define VF_BATCH_H

#include "vf_common.h"
#include "vf_shape.h"
#include "vf_visitor.h"

/* Events up to this size are copied before anything is read in them, and written by shape. */
#define VF_BATCH_COPY_MAX 4096u

/* The closed body of an empty batch is shorter; there must be room for an event. */
#define VF_BATCH_BYTES_MIN 16u

/* What outlives a clear: the shapes of its events so far, and a place for one event. */
struct vf_memory {
  struct vf_shapes shapes;
  uint8_t event[VF_BATCH_COPY_MAX + VF_SHAPE_SLACK];
};

/*
 * Memory for bodies: `room` bytes, the first `kept` of them those of `body` (NULL: there is none
 * yet), which goes; NULL: there is no memory, and `body` stays.  A room of 0 gives `body` back.
 */
typedef uint8_t *vf_body_memory(uint8_t *body, size_t kept, size_t room);

struct vf_batch {
  vf_body_memory *body_memory;
  uint8_t *body;     /* begins with {"ev":[ ; never NUL-terminated */
  size_t size;       /* bytes in use, without the closing ]} */
  size_t room;       /* bytes allocated */
  uint32_t *offsets; /* count + 1 in use: event i is body[offsets[i] .. offsets[i + 1] - 1) */
  uint32_t count;
  uint32_t events_max;  /* 1 .. VF_BATCH_EVENTS_MAX */
  uint32_t bytes_max;   /* VF_BATCH_BYTES_MIN .. VF_BATCH_BYTES_MAX */
  uint8_t *visitors;    /* VF_VISITOR_BITS / 8 bytes */
  uint32_t loose_seals; /* batches in a row that left much of the room */
  struct vf_memory *memory;
};

/* Allocates; VF_NOMEM, or VF_INVALID for limits out of range. @caller any */
int vf_batch_init(struct vf_batch *batch, uint32_t events_max, uint32_t bytes_max);
/* The same with bodies in memory of the caller's choice. @caller any */
int vf_batch_init_in(struct vf_batch *batch, uint32_t events_max, uint32_t bytes_max,
                     vf_body_memory *body_memory);
/* Safe on a zeroed struct. @caller any */
void vf_batch_free(struct vf_batch *batch);
/* Back to empty. */
void vf_batch_clear(struct vf_batch *batch);

/*
 * The body as it is to be sent, vf_batch_body_size bytes in memory that now belongs to the caller
 * (to be given back to body_memory), and at most a third more of that; the batch is empty then.
 * What fills most of its memory is not copied.  VF_OK, or VF_NOMEM: nothing has changed.
 */
int vf_batch_seal(struct vf_batch *batch, uint8_t **body);

/* Where an event of up to VF_BATCH_COPY_MAX bytes may lie, so that it need not be copied to be
 * appended. */
static inline uint8_t *vf_batch_place(const struct vf_batch *batch) {
  return batch->memory->event;
}

/*
 * Transcodes one event and appends it.
 * VF_OK; VF_FULL: seal first, then call again; VF_TOO_LARGE: it would not fit
 * into an empty batch either; VF_INVALID / VF_DEPTH: not exactly one msgpack
 * value that JSON can carry; VF_NOMEM.  Except for VF_OK nothing has changed.
 */
int vf_batch_append(struct vf_batch *batch, const uint8_t *payload, size_t size);

/* Appends an event that is JSON already (it comes from our own spool). */
int vf_batch_append_json(struct vf_batch *batch, const uint8_t *json, size_t size,
                         uint64_t visitor);

/* Size in bytes of the body as it would be sent now. */
static inline size_t vf_batch_body_size(const struct vf_batch *batch) {
  return batch->size + 2;
}

#endif /* VF_BATCH_H */
