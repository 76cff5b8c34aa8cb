/*
 * lane_test.h - a lane in a folder of its own, and payloads that tell what they are.
 */
#ifndef VF_LANE_TEST_H
#define VF_LANE_TEST_H

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "test.h"
#include "vf_lane.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define LANE_ID UINT64_C(0x1234567890abcdef)
#define ROUTE UINT64_C(0xfeed)
#define CAPACITY VF_LANE_CAPACITY_MIN

static char folder[] = "/tmp/vf-lane-XXXXXX";
static char lane_path[sizeof folder + 16];

static inline void test_begin(void) {
  CHECK(mkdtemp(folder) != NULL);
  snprintf(lane_path, sizeof lane_path, "%s/lane", folder);
}

static inline void test_end(void) {
  (void)unlink(lane_path);
  CHECK_INT(rmdir(folder), 0);
}

static inline struct vf_lane_header lane_ident(void) {
  struct vf_lane_header ident;
  memset(&ident, 0, sizeof ident);
  ident.lane_id = LANE_ID;
  ident.owner = 5;
  ident.pid = 6;
  ident.created_ns = 7;
  return ident;
}

static inline void lane_open(struct vf_producer *producer, struct vf_reader *reader) {
  struct vf_lane_header ident = lane_ident();
  struct vf_fault fault = {""};
  (void)unlink(lane_path);
  CHECK_INT(vf_lane_create(producer, lane_path, CAPACITY, &ident), VF_OK);
  CHECK_INT(vf_reader_attach(reader, lane_path, &fault), VF_OK);
}

static inline void lane_close(struct vf_producer *producer, struct vf_reader *reader) {
  vf_lane_close(producer);
  vf_reader_close(reader);
}

/* The payload of a sequence number: every byte follows from it. */
static inline uint8_t payload_byte(uint64_t seq, size_t index) {
  return (uint8_t)(seq * 31 + index * 7 + 1);
}

static inline void payload_fill(uint8_t *payload, uint64_t seq, size_t size) {
  for (size_t i = 0; i < size; i++) {
    payload[i] = payload_byte(seq, i);
  }
}

static inline bool payload_whole(const struct vf_view *view) {
  for (size_t i = 0; i < view->size; i++) {
    if (view->payload[i] != payload_byte(view->seq, i)) {
      return false;
    }
  }
  return true;
}

/* VF_OK or why not. */
static inline int lane_put(struct vf_producer *producer, uint32_t size) {
  uint8_t *payload;
  int status = vf_lane_reserve(producer, size, &payload);
  if (status == VF_OK) {
    uint64_t seq = vf_lane_take_seq(producer);
    payload_fill(payload, seq, size);
    vf_lane_publish(producer, size, ROUTE, VF_KIND_EVENT, seq);
  }
  return status;
}

/* Reads one record, which must be whole; false: there is none. */
static inline bool lane_get(struct vf_reader *reader, struct vf_view *view) {
  int status = vf_reader_peek(reader, view);
  if (status == VF_EMPTY) {
    return false;
  }
  CHECK_INT(status, VF_OK);
  CHECK(payload_whole(view));
  vf_reader_advance(reader, view);
  return true;
}

#endif /* VF_LANE_TEST_H */
