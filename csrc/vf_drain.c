/*
 * vf_drain.c - the way from a lane into an open batch.
 *
 * It stands apart from vf_lane.c because a worker, which only writes, needs
 * nothing of it.
 */
#include "vf_batch.h"
#include "vf_lane.h"

#include <string.h>

/* A run can be named by its first sequence and its length only while nothing is missing in it. */
static bool continues(const struct vf_run *run, const struct vf_view *view) {
  uint64_t moved = (uint64_t)run->count + run->invalid;
  return moved == 0 || view->seq == run->first_seq + moved;
}

typedef int look(struct vf_reader *reader, struct vf_view *view, uint8_t *copy, size_t room);

static inline int drain(struct vf_reader *reader, struct vf_batch *batch, uint64_t route,
                        uint64_t until, struct vf_run *run, look *look_at_next) {
  struct vf_view view;
  int status;

  memset(run, 0, sizeof *run);
  run->start = run->end = reader->cursor;
  for (;;) {
    status = look_at_next(reader, &view, vf_batch_place(batch), VF_BATCH_COPY_MAX);
    if (status != VF_OK) {
      break;
    }
    if ((int64_t)(until - view.start) <= 0) {
      status = VF_EMPTY;
      break;
    }
    if (view.kind != VF_KIND_EVENT || view.route != route || !continues(run, &view)) {
      status = VF_OTHER;
      break;
    }
    status = vf_batch_append(batch, view.payload, view.size);
    if (status == VF_FULL || status == VF_NOMEM) {
      break;
    }
    if (run->count + run->invalid == 0) {
      run->start = view.start;
      run->first_seq = view.seq;
      run->passed = reader->passed;
    }
    if (status == VF_OK) {
      run->count++;
    } else {
      run->invalid++;
    }
    vf_reader_advance(reader, &view);
    run->end = view.end;
  }
  if (run->count + run->invalid == 0) {
    run->start = run->end = reader->cursor;
  }
  return status;
}

int vf_reader_drain(struct vf_reader *reader, struct vf_batch *batch, uint64_t route,
                    uint64_t until, struct vf_run *run) {
  return drain(reader, batch, route, until, run, vf_reader_peek_copy);
}

int vf_reader_drain_quick(struct vf_reader *reader, struct vf_batch *batch, uint64_t route,
                          uint64_t until, struct vf_run *run) {
  return drain(reader, batch, route, until, run, vf_reader_peek_quick);
}
