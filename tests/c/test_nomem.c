/* The batch when memory runs out: each allocation fails once, and nothing is lost. */
#include "test.h"

/* The unit itself, with allocators that can be told to fail. */
static int allocations_left = -1;

static bool may_allocate(void) {
  if (allocations_left == 0) {
    return false;
  }
  allocations_left -= allocations_left > 0;
  return true;
}

static void *test_malloc(size_t size) {
  return may_allocate() ? malloc(size) : NULL;
}

static void *test_calloc(size_t count, size_t size) {
  return may_allocate() ? calloc(count, size) : NULL;
}

static void *test_realloc(void *block, size_t size) {
  return may_allocate() ? realloc(block, size) : NULL;
}

#define malloc test_malloc
#define calloc test_calloc
#define realloc test_realloc
#include "../../csrc/vf_batch.c"
#undef malloc
#undef calloc
#undef realloc

/* An init that fails leaves a batch that is safe to free. */
static void test_init(void) {
  for (int allowed = 0; allowed < 4; allowed++) {
    struct vf_batch batch;
    allocations_left = allowed;
    CHECK_INT(vf_batch_init(&batch, 10, 1000), VF_NOMEM);
    CHECK(batch.body == NULL && batch.offsets == NULL && batch.visitors == NULL);
    vf_batch_free(&batch);
  }
  allocations_left = -1;
}

static struct bytes large_event(void) {
  struct bytes event = {0};
  char *text = calloc(500000, 1);
  CHECK(text != NULL);
  memset(text, 'x', 500000);
  pack_str(&event, text, 500000);
  free(text);
  return event;
}

/* An append that cannot grow the body changes nothing, and succeeds when memory is back. */
static void test_append(void) {
  struct vf_batch batch;
  struct bytes event = large_event();
  CHECK_INT(vf_batch_init(&batch, 10, VF_BATCH_BYTES_MAX), VF_OK);
  CHECK_INT(vf_batch_append(&batch, (const uint8_t *)"\x01", 1), VF_OK);
  for (int allowed = 0; allowed < 2; allowed++) {
    allocations_left = allowed;
    CHECK_INT(vf_batch_append(&batch, event.data, event.size), VF_NOMEM);
    CHECK_INT(batch.count, 1);
    CHECK_INT(batch.size, batch.offsets[1] - 1);
    CHECK(memcmp(batch.body, "{\"ev\":[1", batch.size) == 0);
  }
  allocations_left = -1;
  CHECK_INT(vf_batch_append(&batch, event.data, event.size), VF_OK);
  bytes_free(&event);
  vf_batch_free(&batch);
}

static void test_append_json(void) {
  struct vf_batch batch;
  struct bytes event = large_event();
  CHECK_INT(vf_batch_init(&batch, 10, VF_BATCH_BYTES_MAX), VF_OK);
  allocations_left = 0;
  CHECK_INT(vf_batch_append_json(&batch, event.data, event.size, 1), VF_NOMEM);
  CHECK_INT(batch.count, 0);
  CHECK_INT(batch.visitors[0], 0);
  allocations_left = -1;
  CHECK_INT(vf_batch_append_json(&batch, event.data, event.size, 1), VF_OK);
  bytes_free(&event);
  vf_batch_free(&batch);
}

/* A buffer that cannot be shrunk stays as it is and goes on to serve. */
static void test_shrink(void) {
  struct vf_batch batch;
  struct bytes event = large_event();
  CHECK_INT(vf_batch_init(&batch, 10, VF_BATCH_BYTES_MAX), VF_OK);
  CHECK_INT(vf_batch_append(&batch, event.data, event.size), VF_OK);
  size_t room = batch.room;
  vf_batch_clear(&batch);
  for (int i = 0; i < 50; i++) {
    uint8_t *body;
    CHECK_INT(vf_batch_append(&batch, (const uint8_t *)"\x01", 1), VF_OK);
    allocations_left = 1;
    CHECK_INT(vf_batch_seal(&batch, &body), VF_OK);
    allocations_left = -1;
    free(body);
  }
  CHECK_INT(batch.room, room);
  CHECK_INT(vf_batch_append(&batch, event.data, event.size), VF_OK);
  bytes_free(&event);
  vf_batch_free(&batch);
}

/* A seal without memory changes nothing, whether it would copy the body or hand it over. */
static void test_seal(void) {
  struct vf_batch batch;
  struct bytes event = large_event();
  uint8_t *body = NULL;
  CHECK_INT(vf_batch_init(&batch, 10, VF_BATCH_BYTES_MAX), VF_OK);
  CHECK_INT(vf_batch_append(&batch, (const uint8_t *)"\x01", 1), VF_OK);
  for (int round = 0; round < 2; round++) {
    size_t size = batch.size;
    allocations_left = 0;
    CHECK_INT(vf_batch_seal(&batch, &body), VF_NOMEM);
    allocations_left = -1;
    CHECK(body == NULL && batch.count == 1u + (uint32_t)round && batch.size == size);
    CHECK_INT(vf_batch_append(&batch, event.data, event.size), VF_OK);
  }
  CHECK_INT(vf_batch_seal(&batch, &body), VF_OK);
  free(body);
  bytes_free(&event);
  vf_batch_free(&batch);
}

int main(void) {
  test_init();
  test_append();
  test_append_json();
  test_shrink();
  test_seal();
  return 0;
}
