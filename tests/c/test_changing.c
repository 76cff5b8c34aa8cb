/* A payload whose writer keeps changing it: the text may be anything, but it is
 * ASCII, whole and inside its buffer, and the batch keeps its rules. */
#include "test.h"
#include "vf_batch.h"
#include "vf_json.h"

#include <pthread.h>
#include <stdatomic.h>

#define PAYLOAD_SIZE 512

/* ThreadSanitizer would rightly report this race; it is the writer's, and meant. */
#if defined(__SANITIZE_THREAD__)
#define RACES_ARE_REPORTED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RACES_ARE_REPORTED 1
#endif
#endif

#ifndef RACES_ARE_REPORTED

static uint8_t payload[PAYLOAD_SIZE];
static atomic_bool finished;

/* Strings of all sizes in one array, then numbers: many lengths to lie about. */
static void fill(void) {
  struct bytes bytes = {0};
  pack_tagged(&bytes, 0xdc, 20, 2);
  char text[64];
  memset(text, 'a', sizeof text);
  for (size_t i = 0; i < 16; i++) {
    pack_str(&bytes, text, i * 2);
  }
  pack_double(&bytes, 0.1);
  pack_tagged(&bytes, 0xcf, UINT64_MAX, 8);
  pack_tagged(&bytes, 0xc7, 0x0201, 2);
  pack_number(&bytes, 0x3132, 2);
  size_t left = PAYLOAD_SIZE - bytes.size - 5;
  pack_tagged(&bytes, 0xdb, left, 4);
  while (bytes.size < PAYLOAD_SIZE) {
    pack_byte(&bytes, 'b');
  }
  memcpy(payload, bytes.data, PAYLOAD_SIZE);
  bytes_free(&bytes);
}

static void *change(void *unused) {
  (void)unused;
  static const uint8_t values[] = {'"', '\\', 0x00, 0x7f, 0xc3, 0xff, 0xdb, 0xdf, 'a', 0xa5};
  uint64_t state = 3;
  while (!atomic_load(&finished)) {
    uint64_t random = test_random(&state);
    uint8_t *byte = payload + random % PAYLOAD_SIZE;
    uint8_t before = *byte;
    *(_Atomic uint8_t *)byte = values[(random >> 32) % sizeof values];
    for (int i = 0; i < 50; i++) {
      atomic_signal_fence(memory_order_seq_cst);
    }
    *(_Atomic uint8_t *)byte = before;
  }
  return NULL;
}

static void check_text(const uint8_t *json, size_t size) {
  bool quoted = false;
  for (size_t i = 0; i < size; i++) {
    CHECK(json[i] >= ' ' && json[i] <= '~');
    if (quoted && json[i] == '\\') {
      i++;
    } else if (json[i] == '"') {
      quoted = !quoted;
    }
  }
  CHECK(!quoted);
}

/* What is too large to be copied first is written from where it lies. */
static int write_in_place(void) {
  static uint8_t json[8 * PAYLOAD_SIZE];
  size_t size;
  int rc = vf_json_write_to(json, sizeof json, payload, PAYLOAD_SIZE, &size);
  if (rc == VF_OK) {
    check_text(json, size);
  }
  return rc;
}

int main(void) {
  fill();
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 50, 20000), VF_OK);
  CHECK_INT(vf_batch_append(&batch, payload, PAYLOAD_SIZE), VF_OK);
  pthread_t thread;
  CHECK_INT(pthread_create(&thread, NULL, change, NULL), 0);
  int accepted = 0;
  int written = 0;
  for (int i = 0; i < 50000; i++) {
    size_t before = batch.size;
    int rc = vf_batch_append(&batch, payload, PAYLOAD_SIZE);
    CHECK(vf_batch_body_size(&batch) <= batch.bytes_max);
    if (rc == VF_OK) {
      check_text(batch.body + before, batch.size - before);
      accepted++;
    } else {
      CHECK_INT(batch.size, before);
    }
    if (rc == VF_FULL) {
      vf_batch_clear(&batch);
    }
    written += write_in_place() == VF_OK;
  }
  atomic_store(&finished, true);
  CHECK_INT(pthread_join(thread, NULL), 0);
  CHECK(accepted > 0 && written > 0);
  vf_batch_free(&batch);
  return 0;
}

#else

int main(void) {
  return 0;
}

#endif
