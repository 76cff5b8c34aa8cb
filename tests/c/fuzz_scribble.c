/* A second thread that writes over ring and header while the reader reads: no check of
 * one thread, however quickly it is made, is what keeps the other inside the ring. */
#include "fuzz_reader.h"

#include <pthread.h>

#define WORDS_MAX 511u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vf_producer producer;
static struct vf_reader reader_made;
static struct vf_batch batch;
static _Atomic uint64_t words[WORDS_MAX];
static _Atomic uint32_t word_count;

/* Pairs of words say where and what; both change under this thread's feet as well. */
static void *scribble(void *unused) {
  _Atomic uint64_t *ring = (_Atomic uint64_t *)(void *)producer.ring;
  (void)unused;
  for (uint32_t i = 0;; i += 2) {
    uint32_t count = atomic_load_explicit(&word_count, memory_order_relaxed);
    uint64_t where = atomic_load_explicit(&words[i % (count | 1)], memory_order_relaxed);
    uint64_t what = atomic_load_explicit(&words[(i + 1) % (count | 1)], memory_order_relaxed);
    if (where % 16 == 0) {
      vf_head_publish(&producer.header->head, what % (2 * CAPACITY));
    } else {
      atomic_store_explicit(&ring[where / 16 % (CAPACITY / 8)], what, memory_order_relaxed);
    }
  }
  return NULL;
}

static void prepare(void) {
  pthread_t thread;
  test_begin();
  lane_open(&producer, &reader_made);
  CHECK_INT(unlink(lane_path), 0);
  test_end();
  CHECK_INT(vf_batch_init(&batch, 50, 4000), VF_OK);
  CHECK_INT(pthread_create(&thread, NULL, scribble, NULL), 0);
}

static void fill(struct source *source) {
  producer.head = producer.tail = 0;
  producer.seq = 0;
  for (int i = 0; i < 40; i++) {
    CHECK_INT(lane_put(&producer, (uint32_t)take(source, 1)), VF_OK);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct source source = {data, data + size};
  struct vf_reader reader;
  uint32_t count = (uint32_t)(size / 8);

  if (producer.header == NULL) {
    prepare();
  }
  atomic_store_explicit(&word_count, 0, memory_order_relaxed);
  fill(&source);
  for (uint32_t i = 0; i < count && i < WORDS_MAX; i++) {
    atomic_store_explicit(&words[i], take(&source, 8), memory_order_relaxed);
  }
  atomic_store_explicit(&word_count, count < WORDS_MAX ? count : WORDS_MAX, memory_order_relaxed);
  source.at = data;
  reader = reader_made;
  vf_batch_clear(&batch);
  for (int calls = 0; calls < 60; calls++) {
    call_reader(&reader, &batch, (unsigned)take(&source, 1), &source);
  }
  return 0;
}
