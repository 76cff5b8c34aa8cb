/*
 * test_lane_stress.c - a producer and a consumer at full speed in the smallest
 * lane, each record checked to the last byte; and a producer that scribbles
 * over the lane while it is read.
 *
 * Both sides use one mapping, so that a thread checker sees them meet.
 */
#include "lane_test.h"

#include <pthread.h>
#include <sched.h>

#if defined(__SANITIZE_THREAD__)
#define RECORDS 20000u
#define SCRIBBLES 0
#else
#define RECORDS 200000u
#define SCRIBBLES 300
#endif

struct scene {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_control control;
  _Atomic uint32_t rings;
  _Atomic uint32_t stop;
};

/* A reader over the producer's own mapping. */
static void share_mapping(struct scene *scene) {
  struct vf_lane_header ident = lane_ident();

  memset(scene, 0, sizeof *scene);
  CHECK_INT(vf_lane_create(&scene->producer, lane_path, CAPACITY, &ident), VF_OK);
  scene->reader.header = scene->producer.header;
  scene->reader.ring = scene->producer.ring;
  scene->reader.capacity = CAPACITY;
  scene->reader.lane_id = LANE_ID;
}

static void *produce(void *argument) {
  struct scene *scene = argument;
  uint64_t random = 4;

  while (scene->producer.seq < RECORDS) {
    uint32_t size =
        (uint32_t)(test_random(&random) % (test_random(&random) % 50 == 0 ? 16000 : 300));
    if (lane_put(&scene->producer, size) != VF_OK) {
      sched_yield();
      continue;
    }
    if (vf_sleeping_take(&scene->control.sleeping)) {
      atomic_fetch_add(&scene->rings, 1);
    }
  }
  return NULL;
}

/* Sleeps as the aggregator does: announce, look once more, wait for the ring. */
static void sleep_until_rung(struct scene *scene) {
  struct vf_view view;
  uint32_t rings = atomic_load(&scene->rings);

  vf_sleeping_set(&scene->control.sleeping);
  if (vf_reader_peek(&scene->reader, &view) == VF_OK) {
    vf_sleeping_clear(&scene->control.sleeping);
    return;
  }
  while (atomic_load(&scene->rings) == rings) {
    sched_yield();
  }
}

static void test_nothing_is_lost_torn_or_slept_over(void) {
  static struct scene scene;
  struct vf_view view;
  pthread_t thread;
  uint64_t random = 5, seq = 0;

  share_mapping(&scene);
  CHECK_INT(pthread_create(&thread, NULL, produce, &scene), 0);
  while (seq < RECORDS) {
    if (!lane_get(&scene.reader, &view)) {
      sleep_until_rung(&scene);
      continue;
    }
    CHECK_INT(view.seq, ++seq);
    if (test_random(&random) % 8 == 0) {
      CHECK_INT(vf_reader_mark(&scene.reader, view.start, view.end, 1, UINT64_MAX), 1);
    }
    if (test_random(&random) % 4 != 0) {
      CHECK_INT(vf_reader_release(&scene.reader, scene.reader.cursor), VF_OK);
    }
  }
  CHECK_INT(pthread_join(thread, NULL), 0);
  CHECK_INT(scene.reader.damaged, 0);
  vf_lane_close(&scene.producer);
  CHECK_INT(unlink(lane_path), 0);
}

static void *scribble(void *argument) {
  struct scene *scene = argument;
  struct vf_producer *producer = &scene->producer;
  uint64_t random = 6;

  while (atomic_load(&scene->stop) == 0) {
    uint64_t at = test_random(&random) % (CAPACITY / 8) * 8;
    (void)lane_put(producer, (uint32_t)(test_random(&random) % 900));
    *(uint64_t *)(void *)(producer->ring + at) = test_random(&random) % (2 * CAPACITY);
    if (test_random(&random) % 64 == 0) {
      vf_head_publish(&producer->header->head, producer->head + test_random(&random) % CAPACITY);
    }
    if (test_random(&random) % 64 == 0) {
      vf_tail_release(&producer->header->tail, test_random(&random));
    }
  }
  return NULL;
}

/* Not under a thread checker: a hostile writer is a race by profession. */
static void test_a_scribbling_writer_never_leads_astray(void) {
  static struct scene scene;
  struct vf_batch batch;
  struct vf_run run;
  pthread_t thread;

  share_mapping(&scene);
  CHECK_INT(vf_batch_init(&batch, 100, 100000), VF_OK);
  CHECK_INT(pthread_create(&thread, NULL, scribble, &scene), 0);
  for (int i = 0; i < SCRIBBLES; i++) {
    uint64_t head = 0;
    int status = vf_reader_head(&scene.reader, &head);
    if (status == VF_OK) {
      status = vf_reader_drain(&scene.reader, &batch, ROUTE, head, &run);
    }
    CHECK(scene.reader.cursor - scene.reader.tail <= CAPACITY);
    (void)vf_reader_mark(&scene.reader, scene.reader.tail, head, 1, UINT64_MAX);
    CHECK_INT(vf_reader_release(&scene.reader, scene.reader.cursor), VF_OK);
    vf_batch_clear(&batch);
    sched_yield();
  }
  atomic_store(&scene.stop, 1);
  CHECK_INT(pthread_join(thread, NULL), 0);
  vf_batch_free(&batch);
  vf_lane_close(&scene.producer);
  CHECK_INT(unlink(lane_path), 0);
}

int main(void) {
  test_begin();
  test_nothing_is_lost_torn_or_slept_over();
  if (SCRIBBLES > 0) {
    test_a_scribbling_writer_never_leads_astray();
  }
  test_end();
  return 0;
}
