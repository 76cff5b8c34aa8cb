/* The batch: exact limits, nothing changed by a refusal, visitors. */
#include "test.h"
#include "vf_batch.h"

#include <limits.h>

#define ENVELOPE 9u /* {"ev":[]} */

/* An event whose JSON has exactly `size` bytes. */
static struct bytes event_of(size_t size) {
  struct bytes bytes = {0};
  CHECK(size >= 2);
  char *text = malloc(size);
  CHECK(text != NULL);
  memset(text, 'x', size);
  pack_str(&bytes, text, size - 2);
  free(text);
  return bytes;
}

static int append(struct vf_batch *batch, struct bytes event) {
  int rc = vf_batch_append(batch, event.data, event.size);
  bytes_free(&event);
  return rc;
}

/* What the header promises after every call. */
static void check_rules(const struct vf_batch *batch) {
  CHECK(batch->count <= batch->events_max);
  CHECK(vf_batch_body_size(batch) <= batch->bytes_max);
  CHECK(batch->size <= batch->room);
  CHECK(memcmp(batch->body, "{\"ev\":[", 7) == 0);
  CHECK_INT(batch->offsets[0], 7);
  if (batch->count > 0) {
    CHECK_INT(batch->offsets[batch->count], batch->size + 1);
  }
  for (uint32_t i = 1; i < batch->count; i++) {
    CHECK(batch->offsets[i - 1] < batch->offsets[i]);
    CHECK_INT(batch->body[batch->offsets[i] - 1], ',');
  }
}

static void test_limits_of_init(void) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 0, 1000), VF_INVALID);
  CHECK_INT(vf_batch_init(&batch, VF_BATCH_EVENTS_MAX + 1, 1000), VF_INVALID);
  CHECK_INT(vf_batch_init(&batch, 1, VF_BATCH_BYTES_MIN - 1), VF_INVALID);
  CHECK_INT(vf_batch_init(&batch, 1, VF_BATCH_BYTES_MAX + 1), VF_INVALID);
  vf_batch_free(&batch);
  vf_batch_free(&batch);
  CHECK_INT(vf_batch_init(&batch, 1, VF_BATCH_BYTES_MIN), VF_OK);
  CHECK_INT(vf_batch_body_size(&batch), ENVELOPE);
  CHECK_INT(append(&batch, event_of(VF_BATCH_BYTES_MIN - ENVELOPE)), VF_OK);
  vf_batch_free(&batch);
}

/* One event may fill the body to the last byte; one byte more is too large. */
static void test_bytes_alone(uint32_t bytes_max) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 10, bytes_max), VF_OK);
  CHECK_INT(append(&batch, event_of(bytes_max - ENVELOPE + 1)), VF_TOO_LARGE);
  check_rules(&batch);
  CHECK_INT(batch.count, 0);
  CHECK_INT(append(&batch, event_of(bytes_max - ENVELOPE)), VF_OK);
  check_rules(&batch);
  CHECK_INT(vf_batch_body_size(&batch), bytes_max);
  CHECK_INT(append(&batch, event_of(2)), VF_FULL);
  CHECK_INT(append(&batch, event_of(bytes_max - ENVELOPE)), VF_FULL);
  CHECK_INT(append(&batch, event_of(bytes_max - ENVELOPE + 1)), VF_TOO_LARGE);
  check_rules(&batch);
  CHECK_INT(vf_batch_body_size(&batch), bytes_max);
  vf_batch_free(&batch);
}

/* The comma counts: the last event may fill the body, and not a byte more. */
static void test_bytes_together(uint32_t bytes_max) {
  for (size_t first = 2; first < 40; first++) {
    struct vf_batch batch;
    CHECK_INT(vf_batch_init(&batch, 10, bytes_max), VF_OK);
    CHECK_INT(append(&batch, event_of(first)), VF_OK);
    size_t left = bytes_max - ENVELOPE - first - 1;
    CHECK_INT(append(&batch, event_of(left + 1)), VF_FULL);
    CHECK_INT(batch.count, 1);
    check_rules(&batch);
    CHECK_INT(append(&batch, event_of(left)), VF_OK);
    CHECK_INT(vf_batch_body_size(&batch), bytes_max);
    check_rules(&batch);
    vf_batch_free(&batch);
  }
}

static void test_events_max(void) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, VF_BATCH_EVENTS_MAX, VF_BATCH_BYTES_MAX), VF_OK);
  for (unsigned i = 0; i < VF_BATCH_EVENTS_MAX; i++) {
    CHECK_INT(append(&batch, event_of(2 + i % 50)), VF_OK);
  }
  check_rules(&batch);
  size_t size = batch.size;
  CHECK_INT(append(&batch, event_of(2)), VF_FULL);
  CHECK_INT(vf_batch_append_json(&batch, (const uint8_t *)"1", 1, 0), VF_FULL);
  CHECK_INT(batch.count, VF_BATCH_EVENTS_MAX);
  CHECK_INT(batch.size, size);
  vf_batch_clear(&batch);
  CHECK_INT(append(&batch, event_of(2)), VF_OK);
  check_rules(&batch);
  vf_batch_free(&batch);
}

/* An event that is no JSON, found out at its first byte or its last, leaves no trace. */
static void test_rollback(void) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 10, 100000), VF_OK);
  CHECK_INT(append(&batch, event_of(20)), VF_OK);
  struct bytes before = {0};
  bytes_add(&before, batch.body, batch.size);
  uint8_t visitors[VF_VISITOR_BITS / 8];
  memcpy(visitors, batch.visitors, sizeof visitors);

  struct bytes bad = {0};
  pack_byte(&bad, 0x83);
  pack_text(&bad, "u");
  pack_text(&bad, "somebody");
  pack_text(&bad, "large");
  struct bytes large = event_of(60000);
  bytes_add(&bad, large.data, large.size);
  bytes_free(&large);
  pack_text(&bad, "end");
  pack_byte(&bad, 0xc1);
  for (size_t size = 0; size <= bad.size; size += size < 40 || size > bad.size - 40 ? 1 : 997) {
    CHECK_INT(vf_batch_append(&batch, bad.data, size), VF_INVALID);
    CHECK_INT(batch.count, 1);
    CHECK_INT(batch.size, before.size);
    CHECK(memcmp(batch.body, before.data, before.size) == 0);
    CHECK(memcmp(batch.visitors, visitors, sizeof visitors) == 0);
    check_rules(&batch);
  }
  bytes_free(&bad);
  bytes_free(&before);

  struct bytes deep = {0};
  for (int i = 0; i < VF_DEPTH_MAX + 1; i++) {
    pack_byte(&deep, 0x91);
  }
  CHECK_INT(append(&batch, deep), VF_DEPTH);
  CHECK_INT(batch.count, 1);
  vf_batch_free(&batch);
}

/* What could never be sent is told as such even when the batch overflows first. */
static void test_invalid_beyond_limit(void) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 10, 2000), VF_OK);
  CHECK_INT(append(&batch, event_of(1000)), VF_OK);
  struct bytes bad = {0};
  pack_byte(&bad, 0x92);
  struct bytes large = event_of(5000);
  bytes_add(&bad, large.data, large.size);
  bytes_free(&large);
  pack_byte(&bad, 0xc1);
  CHECK_INT(append(&batch, bad), VF_INVALID);
  CHECK_INT(batch.count, 1);
  vf_batch_free(&batch);
}

static void test_append_json(uint32_t bytes_max) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 10, bytes_max), VF_OK);
  uint8_t *json = malloc(bytes_max);
  CHECK(json != NULL);
  memset(json, '1', bytes_max);
  CHECK_INT(vf_batch_append_json(&batch, json, bytes_max - ENVELOPE + 1, 0), VF_TOO_LARGE);
  CHECK_INT(vf_batch_append_json(&batch, json, 3, 5), VF_OK);
  size_t left = bytes_max - ENVELOPE - 3 - 1;
  CHECK_INT(vf_batch_append_json(&batch, json, left + 1, 0), VF_FULL);
  check_rules(&batch);
  CHECK_INT(vf_batch_append_json(&batch, json, left, 0), VF_OK);
  check_rules(&batch);
  CHECK_INT(vf_batch_body_size(&batch), bytes_max);
  CHECK_INT(vf_batch_append_json(&batch, json, 1, 0), VF_FULL);
  CHECK_INT(vf_batch_append_json(&batch, json, SIZE_MAX, 0), VF_TOO_LARGE);
  CHECK_INT(batch.visitors[0], 1u << 5);
  free(json);
  vf_batch_free(&batch);
}

/* Seals; gives back whether the body is what the batch had been writing into, not a copy. */
static bool seal(struct vf_batch *batch, const char *expected) {
  const uint8_t *written = batch->body;
  size_t size = vf_batch_body_size(batch);
  uint8_t *body = NULL;
  CHECK_INT(vf_batch_seal(batch, &body), VF_OK);
  CHECK(memcmp(body, "{\"ev\":[", 7) == 0 && memcmp(body + size - 2, "]}", 2) == 0);
  CHECK(expected == NULL || (size == strlen(expected) && memcmp(body, expected, size) == 0));
  CHECK_INT(batch->count, 0);
  CHECK_INT(batch->visitors[0], 0);
  CHECK_INT(vf_batch_body_size(batch), ENVELOPE);
  check_rules(batch);
  bool is_same = body == written;
  CHECK(body != batch->body);
  free(body);
  return is_same;
}

/* A body that fills its memory is handed over with it, a small one is copied. */
static void test_seal(void) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 3, 100000), VF_OK);
  CHECK(!seal(&batch, "{\"ev\":[]}"));
  CHECK_INT(vf_batch_append_json(&batch, (const uint8_t *)"1", 1, 64), VF_OK);
  CHECK_INT(vf_batch_append_json(&batch, (const uint8_t *)"{}", 2, 64), VF_OK);
  CHECK(!seal(&batch, "{\"ev\":[1,{}]}"));
  for (int i = 0; i < 3; i++) {
    CHECK_INT(append(&batch, event_of(80000)), VF_OK);
    CHECK(seal(&batch, NULL));
    CHECK_INT(append(&batch, event_of(100000 - ENVELOPE)), VF_OK);
    CHECK(seal(&batch, NULL));
    CHECK_INT(append(&batch, event_of(10)), VF_OK);
    CHECK(!seal(&batch, NULL));
  }
  vf_batch_free(&batch);
}

/* The closing brackets have room whatever the size of the body, event by event and in one. */
static void test_seal_room(void) {
  for (uint32_t size = 65536 - 600; size < 65536 + 300; size++) {
    struct vf_batch batch;
    CHECK_INT(vf_batch_init(&batch, 2, 100000), VF_OK);
    CHECK_INT(append(&batch, event_of(size - 40)), VF_OK);
    CHECK_INT(append(&batch, event_of(20)), VF_OK);
    CHECK(batch.size + 2 <= batch.room);
    CHECK(seal(&batch, NULL));
    uint8_t *json = malloc(size);
    CHECK(json != NULL);
    memset(json, '1', size);
    CHECK_INT(vf_batch_append_json(&batch, json, size, 0), VF_OK);
    CHECK(batch.size + 2 <= batch.room);
    CHECK(seal(&batch, NULL));
    free(json);
    vf_batch_free(&batch);
  }
}

/* A buffer grown by one large batch is given back after many small ones, not at once. */
static void test_shrink(void) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 10, VF_BATCH_BYTES_MAX), VF_OK);
  size_t small = batch.room;
  CHECK_INT(append(&batch, event_of(5000000)), VF_OK);
  size_t large = batch.room;
  CHECK(large > 5000000);
  CHECK(seal(&batch, NULL));
  CHECK_INT(batch.room, large);
  for (int i = 0; i < 200; i++) {
    CHECK_INT(append(&batch, event_of(100)), VF_OK);
    CHECK(!seal(&batch, NULL));
  }
  CHECK_INT(batch.room, small);
  CHECK_INT(append(&batch, event_of(VF_BATCH_BYTES_MAX - ENVELOPE)), VF_OK);
  check_rules(&batch);
  vf_batch_free(&batch);
}

static uint64_t visitor_of(struct bytes event) {
  uint64_t visitor = vf_event_visitor(event.data, event.size);
  for (size_t size = 0; size < event.size; size++) {
    uint8_t *exact = malloc(size > 0 ? size : 1);
    CHECK(exact != NULL);
    memcpy(exact, event.data, size);
    (void)vf_event_visitor(exact, size);
    free(exact);
  }
  bytes_free(&event);
  return visitor;
}

static struct bytes fullstack(const char *visitor) {
  struct bytes event = {0};
  pack_byte(&event, 0x82);
  pack_text(&event, "sId");
  pack_tagged(&event, 0xce, 1700000000, 4);
  pack_text(&event, "u");
  pack_text(&event, visitor);
  return event;
}

static struct bytes fme(const char *visitor) {
  struct bytes event = {0};
  pack_byte(&event, 0x81);
  pack_text(&event, "d");
  pack_byte(&event, 0x83);
  pack_text(&event, "event");
  pack_byte(&event, 0x81);
  pack_text(&event, "visId");
  pack_text(&event, "not this one");
  pack_text(&event, "visId");
  pack_text(&event, visitor);
  pack_text(&event, "after");
  pack_byte(&event, 0x90);
  return event;
}

static struct bytes one_pair(const char *key, unsigned value) {
  struct bytes event = {0};
  pack_byte(&event, 0x81);
  pack_text(&event, key);
  pack_byte(&event, value);
  return event;
}

/* The visitor is found in both shapes of event, alike, and is 0 where there is none. */
static void test_visitor(void) {
  static const char *const ids[] = {"",         "a",           "1234567",
                                    "12345678", "12345678\n9", "0123456789ABCDEF0123456789ABCDEF"};
  size_t count = sizeof ids / sizeof *ids;
  for (size_t i = 0; i < count; i++) {
    uint64_t visitor = visitor_of(fullstack(ids[i]));
    CHECK(visitor != 0);
    CHECK(visitor == visitor_of(fme(ids[i])));
    for (size_t other = 0; other < i; other++) {
      CHECK(visitor != visitor_of(fullstack(ids[other])));
    }
  }
  CHECK_INT(visitor_of((struct bytes){0}), 0);
  CHECK_INT(visitor_of(event_of(10)), 0);
  CHECK_INT(visitor_of(one_pair("u", 7)), 0);
  CHECK_INT(visitor_of(one_pair("d", 7)), 0);
  CHECK_INT(visitor_of(one_pair("d", 0x80)), 0);
  CHECK_INT(visitor_of(one_pair("v", 0xc0)), 0);

  struct bytes both = {0};
  pack_byte(&both, 0x82);
  pack_text(&both, "d");
  pack_byte(&both, 0x81);
  pack_text(&both, "visId");
  pack_text(&both, "second");
  pack_text(&both, "u");
  pack_text(&both, "first");
  CHECK(visitor_of(both) == visitor_of(fullstack("first")));
}

/* Each appended event leaves its one bit in the filter; clearing takes them away. */
static void test_visitor_filter(void) {
  struct vf_batch batch;
  CHECK_INT(vf_batch_init(&batch, 100, 100000), VF_OK);
  uint8_t *expected = calloc(VF_VISITOR_BITS / CHAR_BIT, 1);
  CHECK(expected != NULL);
  for (unsigned i = 0; i < 50; i++) {
    char id[16];
    snprintf(id, sizeof id, "visitor-%u", i);
    vf_visitors_add(expected, visitor_of(fullstack(id)));
    CHECK_INT(append(&batch, i % 2 != 0 ? fullstack(id) : fme(id)), VF_OK);
  }
  vf_visitors_add(expected, 0);
  CHECK(memcmp(batch.visitors, expected, VF_VISITOR_BITS / CHAR_BIT) == 0);
  vf_batch_clear(&batch);
  memset(expected, 0, VF_VISITOR_BITS / CHAR_BIT);
  CHECK(memcmp(batch.visitors, expected, VF_VISITOR_BITS / CHAR_BIT) == 0);
  free(expected);
  vf_batch_free(&batch);
}

int main(void) {
  test_limits_of_init();
  test_bytes_alone(17);
  test_bytes_alone(1000);
  test_bytes_alone(65536);
  test_bytes_alone(300000);
  test_bytes_alone(VF_BATCH_BYTES_MAX);
  test_bytes_together(100);
  test_bytes_together(70000);
  test_events_max();
  test_rollback();
  test_invalid_beyond_limit();
  test_append_json(100);
  test_append_json(200000);
  test_seal();
  test_seal_room();
  test_shrink();
  test_visitor();
  test_visitor_filter();
  return 0;
}
