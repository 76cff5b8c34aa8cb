/*
 * floor.c - what the steps of one event's way cost in C, and what they could cost at best.
 *
 *   floor FOLDER PAYLOADS
 *
 * PAYLOADS holds msgpack events, each behind its size as a native uint32.  Prints one line per
 * step: its name and the nanoseconds per event of the best of many rounds.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif

#include "vf_batch.h"
#include "vf_check.h"
#include "vf_json.h"
#include "vf_lane.h"
#include "vf_lock.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 300
#define EVENTS_MAX 5000
#define CAPACITY (UINT64_C(1) << 23)

static uint8_t *events[EVENTS_MAX];
static uint32_t sizes[EVENTS_MAX];
static uint32_t count;
static uint8_t scratch[1 << 16];
static volatile uint64_t kept;

/* What an enqueue asks. */
#ifdef CLOCK_MONOTONIC_COARSE
#define CLOCK_ASKED CLOCK_MONOTONIC_COARSE
#else
#define CLOCK_ASKED CLOCK_MONOTONIC
#endif

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void load(const char *path) {
  FILE *file = fopen(path, "rb");
  uint32_t size;
  if (file == NULL) {
    exit(1);
  }
  while (count < EVENTS_MAX && fread(&size, sizeof size, 1, file) == 1) {
    events[count] = malloc(size);
    if (events[count] == NULL || fread(events[count], 1, size, file) != size) {
      exit(1);
    }
    sizes[count++] = size;
  }
  fclose(file);
}

#define STEP(name, code)                                                                           \
  do {                                                                                             \
    double best = 1e18;                                                                            \
    for (int round = 0; round < ROUNDS; round++) {                                                 \
      double begin = now();                                                                        \
      for (uint32_t i = 0; i < count; i++) {                                                       \
        code;                                                                                      \
      }                                                                                            \
      double took = (now() - begin) / count;                                                       \
      best = took < best ? took : best;                                                            \
    }                                                                                              \
    printf("%s\t%.1f\n", name, best);                                                              \
  } while (0)

static void small_steps(int lock) {
  struct timespec time;
  struct vf_batch batch;
  size_t json_size;
  STEP("copy", memcpy(scratch, events[i], sizes[i]); __asm__ volatile("" : : : "memory"));
  STEP("check value", kept ^= vf_check64(i, events[i], sizes[i]));
  STEP("clock", clock_gettime(CLOCK_ASKED, &time));
  STEP("system call (F_GETLK)", kept ^= vf_lock_held(lock));
  STEP("visitor", kept ^= vf_event_visitor(events[i], sizes[i]));
  STEP("msgpack to JSON", kept ^= (uint64_t)vf_json_write_to(scratch, sizeof scratch, events[i],
                                                             sizes[i], &json_size));
  if (vf_batch_init(&batch, EVENTS_MAX, VF_BATCH_BYTES_MAX) != VF_OK) {
    exit(1);
  }
  STEP("append to a batch", {
    if (i == 0) {
      vf_batch_clear(&batch);
    }
    kept ^= (uint64_t)vf_batch_append(&batch, events[i], sizes[i]);
  });
  vf_batch_free(&batch);
}

static void lane_steps(const char *path) {
  struct vf_lane_header ident;
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_fault fault;
  struct vf_view view;
  uint8_t *payload;
  double published = 1e18, peeked = 1e18;
  memset(&ident, 0, sizeof ident);
  ident.lane_id = 1;
  if (vf_lane_create(&producer, path, CAPACITY, &ident) != VF_OK ||
      vf_reader_attach(&reader, path, &fault) != VF_OK) {
    exit(1);
  }
  for (int round = 0; round < ROUNDS; round++) {
    double begin = now();
    for (uint32_t i = 0; i < count; i++) {
      if (vf_lane_reserve(&producer, sizes[i], &payload) != VF_OK) {
        exit(1);
      }
      memcpy(payload, events[i], sizes[i]);
      vf_lane_publish(&producer, sizes[i], 1, VF_KIND_EVENT, vf_lane_take_seq(&producer));
    }
    double middle = now();
    while (vf_reader_peek(&reader, &view) == VF_OK) {
      vf_reader_advance(&reader, &view);
    }
    double end = now();
    vf_reader_release(&reader, reader.cursor);
    published = (middle - begin) / count < published ? (middle - begin) / count : published;
    peeked = (end - middle) / count < peeked ? (end - middle) / count : peeked;
  }
  printf("reserve, copy, publish\t%.1f\nfind and check a record\t%.1f\n", published, peeked);
}

int main(int argc, char **argv) {
  char path[1024];
  if (argc != 3 || snprintf(path, sizeof path, "%s/lane", argv[1]) >= (int)sizeof path) {
    return 2;
  }
  load(argv[2]);
  int lock = open(path, O_RDWR | O_CREAT, 0600);
  if (lock < 0 || count == 0) {
    return 1;
  }
  small_steps(lock);
  (void)unlink(path);
  lane_steps(path);
  return 0;
}
