/* Events by their shape: the same text, visitor and status as without one, for
 * events that fit, that nearly fit, and that end too early. */
#include "test.h"
#include "vf_batch.h"

#define EVENT_MAX 4096

/* What an event becomes without any shape. */
struct outcome {
  int rc;
  uint64_t visitor;
  size_t size;
  uint8_t json[16 * EVENT_MAX];
};

static void without_shape(struct outcome *outcome, const uint8_t *event, size_t size) {
  outcome->rc = vf_json_write_to(outcome->json, sizeof outcome->json, event, size, &outcome->size);
  outcome->visitor = vf_event_visitor(event, size);
}

/* Appends one event; its place in the batch, and what it leaves there, are as they must be. */
static void check_append(struct vf_batch *batch, const uint8_t *event, size_t size) {
  static struct outcome expected;
  static uint8_t visitors[VF_VISITOR_BITS / 8];
  without_shape(&expected, event, size);
  if (batch->count > 1000) {
    vf_batch_clear(batch);
  }
  memset(batch->visitors, 0, sizeof visitors);
  memset(visitors, 0, sizeof visitors);
  uint32_t count = batch->count;
  CHECK_INT(vf_batch_append(batch, event, size), expected.rc);
  if (expected.rc != VF_OK) {
    CHECK_INT(batch->count, count);
    return;
  }
  CHECK_INT(batch->offsets[count + 1] - batch->offsets[count] - 1, expected.size);
  CHECK(memcmp(batch->body + batch->offsets[count], expected.json, expected.size) == 0);
  vf_visitors_add(visitors, expected.visitor);
  CHECK(memcmp(batch->visitors, visitors, sizeof visitors) == 0);
}

static void open_batch(struct vf_batch *batch) {
  CHECK_INT(vf_batch_init(batch, 5000, VF_BATCH_BYTES_MAX), VF_OK);
}

static const char longest_short[] =
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
    "ef"
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
    "ef"
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde";

static const char *const strings[] = {
    longest_short,
    "",
    "a",
    "exactly 16 bytes",
    "exactly 17 bytes!",
    "one that is longer than thirty-two bytes",
    "a quote \" in it",
    "and at the end of more than sixteen bytes \\",
    "a line\n",
    "\x7f",
    "caf\xc3\xa9",
    "\xf0\x9f\x98\x80",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
    "ef"
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
    "ef"
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
    "ef",
};
#define STRINGS (sizeof strings / sizeof *strings)

/* The shortest head for a string, or a longer one. */
static void pack_string(struct bytes *bytes, const char *text, unsigned wider) {
  size_t size = strlen(text);
  unsigned width = (size < 32 ? 0u : size < 256 ? 1u : 2u) + wider;
  if (width == 0) {
    pack_byte(bytes, 0xa0u | (unsigned)size);
  } else {
    width = width > 3 ? 3 : width;
    pack_tagged(bytes, 0xd8u + width, size, 1u << (width - 1));
  }
  bytes_add(bytes, text, size);
}

/* Any value that holds no others, the wrong ones included. */
static void pack_scalar(struct bytes *bytes, uint64_t *state) {
  uint64_t random = test_random(state);
  unsigned choice = (unsigned)(random % 32);
  uint64_t number = test_random(state) >> (random >> 8) % 64;
  if (choice < 12) {
    pack_string(bytes, strings[(random >> 16) % STRINGS], random >> 60 == 0);
  } else if (choice < 16) {
    pack_byte(bytes, (unsigned)(random >> 16) % 0x80);
  } else if (choice < 24) {
    unsigned width = (unsigned)(random >> 16) % 4;
    pack_tagged(bytes, (choice < 22 ? 0xccu : 0xd0u) + width, number, 1u << width);
  } else if (choice < 26) {
    pack_double(bytes, (double)number / 100);
  } else if (choice < 30) {
    static const uint8_t tags[] = {0xc0, 0xc2, 0xc3, 0xff};
    pack_byte(bytes, tags[choice - 26]);
  } else if (random >> 60 != 0) {
    pack_byte(bytes, 7);
  } else if (choice == 30) {
    pack_string(bytes, "\xc3(", 0);
  } else {
    pack_byte(bytes, 0xc1);
  }
}

static const char *const keys[] = {
    "u",
    "d",
    "visId",
    "sId",
    "visitor_ua",
    "a key of more than thirty bytes, and so with a longer head",
    "eT",
    "quoted\"",
    "caf\xc3\xa9",
    "",
    "a key of exactly 45 bytes, which a node can take",
    "another of exactly 46 bytes, which it takes too..",
};
#define KEYS (sizeof keys / sizeof *keys)

/* A container whose keys and nesting follow from `shape`, its values from `state`. */
static void pack_map(struct bytes *bytes, uint64_t *shape, uint64_t *state, unsigned depth) {
  unsigned pairs = (unsigned)(test_random(shape) % 5) + (depth == 0 ? 2u : 0u);
  bool map = depth == 0 || test_random(shape) % 8 != 0;
  pack_byte(bytes, (map ? 0x80u : 0x90u) | pairs);
  for (; pairs > 0; pairs--) {
    uint64_t random = test_random(shape);
    if (map) {
      pack_string(bytes, keys[random % KEYS], random >> 58 == 0);
    }
    if (depth < 5 && (random >> 32) % 4 == 0) {
      pack_map(bytes, shape, state, depth + 1);
    } else {
      pack_scalar(bytes, state);
    }
  }
}

static struct bytes event_of(uint64_t shape, uint64_t *state) {
  struct bytes event = {0};
  shape *= 77;
  pack_map(&event, &shape, state, 0);
  CHECK(event.size <= EVENT_MAX);
  return event;
}

/* A few shapes in any order, then ever new ones among them: more than can be kept. */
static void test_mixed_shapes(void) {
  struct vf_batch batch;
  uint64_t state = 1;
  open_batch(&batch);
  for (unsigned i = 0; i < 200000; i++) {
    uint64_t random = test_random(&state);
    uint64_t shape = i / 1000 % 20 + random % 8;
    if (i % 20000 > 10000 && random >> 32 & 1) {
      shape = random >> 33;
    }
    struct bytes event = event_of(shape, &state);
    check_append(&batch, event.data, event.size);
    bytes_free(&event);
  }
  vf_batch_free(&batch);
}

static void pack_impression(struct bytes *event, const char *visitor) {
  pack_byte(event, 0x84);
  pack_text(event, "u");
  pack_string(event, visitor, 0);
  pack_text(event, "sId");
  pack_tagged(event, 0xce, 1700000000, 4);
  pack_text(event, "in");
  pack_byte(event, 0x82);
  pack_text(event, "visId");
  pack_text(event, "not this");
  pack_text(event, "none");
  pack_byte(event, 0x80);
  pack_text(event, "visitor_ip");
  pack_text(event, "203.0.113.7");
}

static void pack_fme(struct bytes *event, const char *visitor) {
  pack_byte(event, 0x81);
  pack_text(event, "d");
  pack_byte(event, 0x82);
  pack_text(event, "visId");
  pack_string(event, visitor, 0);
  pack_text(event, "event");
  pack_byte(event, 0x81);
  pack_text(event, "props");
  pack_byte(event, 0x92);
  pack_byte(event, 5);
  pack_text(event, "x");
}

/* Whether an event of this shape would be written by it. */
static bool is_known(struct vf_batch *batch, const struct bytes *event) {
  static uint8_t json[EVENT_MAX];
  static uint8_t payload[EVENT_MAX + VF_SHAPE_SLACK];
  uint64_t visitor;
  struct vf_json_out out = {json, json + sizeof json - VF_JSON_STEP, NULL};
  memcpy(payload, event->data, event->size);
  return vf_shapes_write(&batch->memory->shapes, &out, payload, event->size, &visitor) == VF_OK;
}

/* The second event of a shape is written by it, whatever its values, and so are two in turn. */
static void test_shapes_are_learned(void) {
  struct vf_batch batch;
  struct bytes event = {0};
  open_batch(&batch);
  pack_impression(&event, "first");
  CHECK(!is_known(&batch, &event));
  check_append(&batch, event.data, event.size);
  event.size = 0;
  pack_fme(&event, "first");
  CHECK(!is_known(&batch, &event));
  check_append(&batch, event.data, event.size);
  for (size_t i = 0; i < 2 * STRINGS; i++) {
    event.size = 0;
    (i % 2 != 0 ? pack_impression : pack_fme)(&event, strings[i / 2]);
    CHECK(is_known(&batch, &event));
    check_append(&batch, event.data, event.size);
  }
  vf_batch_clear(&batch);
  event.size = 0;
  pack_impression(&event, "after a clear");
  CHECK(is_known(&batch, &event));
  bytes_free(&event);
  vf_batch_free(&batch);
}

static struct bytes pair_of(const char *key, bool deeper) {
  struct bytes event = {0};
  pack_byte(&event, 0x81);
  pack_text(&event, key);
  if (deeper) {
    pack_byte(&event, 0x81);
    pack_text(&event, "deeper");
  }
  pack_byte(&event, 7);
  return event;
}

/* A shape whose bytes begin with all of another one's is found, whichever came first. */
static void test_a_shape_within_another(bool deeper_first) {
  struct vf_batch batch;
  open_batch(&batch);
  struct bytes first = pair_of("t", deeper_first);
  struct bytes second = pair_of("t", !deeper_first);
  check_append(&batch, first.data, first.size);
  check_append(&batch, second.data, second.size);
  CHECK(is_known(&batch, &first) && is_known(&batch, &second));
  bytes_free(&first);
  bytes_free(&second);
  vf_batch_free(&batch);
}

/* Events of ever new shapes leave room for one that stays. */
static void test_new_shapes_find_room(void) {
  struct vf_batch batch;
  uint64_t state = 5;
  open_batch(&batch);
  for (unsigned i = 0; i < 20000; i++) {
    char key[16];
    snprintf(key, sizeof key, "key-%u", i);
    struct bytes event = i % 2 != 0 ? pair_of(key, true) : event_of(i, &state);
    check_append(&batch, event.data, event.size);
    bytes_free(&event);
  }
  struct bytes event = pair_of("one that stays", false);
  for (unsigned i = 0; i < 1000; i++) {
    check_append(&batch, event.data, event.size);
  }
  CHECK(is_known(&batch, &event));
  CHECK_INT(batch.memory->shapes.misfits, 0);
  bytes_free(&event);
  vf_batch_free(&batch);
}

/* A shape of more nodes than there are is written all the same. */
static void test_many_keys(void) {
  for (unsigned keys_of_it = 60; keys_of_it < 400; keys_of_it += 7) {
    struct vf_batch batch;
    struct bytes event = {0};
    open_batch(&batch);
    pack_tagged(&event, 0xde, keys_of_it, 2);
    for (unsigned i = 0; i < keys_of_it; i++) {
      char key[16];
      snprintf(key, sizeof key, "key-%u", i);
      pack_text(&event, key);
      pack_byte(&event, i % 0x80);
    }
    for (int i = 0; i < 10; i++) {
      check_append(&batch, event.data, event.size);
    }
    bytes_free(&event);
    vf_batch_free(&batch);
  }
}

/* Cut anywhere, while the bytes that were cut off still lie behind it; with each byte another. */
static void test_nearly(void (*pack)(struct bytes *event, const char *visitor)) {
  struct vf_batch batch;
  struct bytes event = {0};
  open_batch(&batch);
  pack(&event, "0123456789ABCDEF0123456789ABCDEF");
  for (size_t size = 0; size < event.size; size++) {
    check_append(&batch, event.data, event.size);
    CHECK(is_known(&batch, &event));
    check_append(&batch, event.data, size);
  }
  for (size_t at = 0; at < event.size; at++) {
    uint8_t before = event.data[at];
    for (unsigned byte = 0; byte < 256; byte++) {
      event.data[at] = (uint8_t)byte;
      check_append(&batch, event.data, event.size);
    }
    event.data[at] = before;
    check_append(&batch, event.data, event.size);
  }
  pack_byte(&event, 0xc0);
  check_append(&batch, event.data, event.size);
  bytes_free(&event);
  vf_batch_free(&batch);
}

/* Which of two candidates is the visitor depends on what they are, so no shape may tell. */
static void test_ambiguous_visitors(void) {
  static const uint8_t cases[][24] = {
      {0x82, 0xa1, 'u', 0xa1, 'a', 0xa1, 'u', 0xa1, 'b'},
      {0x82, 0xa1, 'u', 5, 0xa1, 'u', 0xa1, 'b'},
      {0x82, 0xa1, 'u', 0x80, 0xa1, 'u', 0xa1, 'b'},
      {0x82, 0xa1, 'd', 0x81, 0xa5, 'v', 'i', 's', 'I', 'd', 0xa1, 'a', 0xa1, 'u', 0xa1, 'b'},
      {0x82, 0xa1, 'd', 0x81, 0xa5, 'v', 'i', 's', 'I', 'd', 0xa1, 'a', 0xa1, 'd', 0x80},
      {0x82, 0xa1, 'd', 0x81, 0xa5, 'v', 'i', 's', 'I', 'd', 0xa1, 'a', 0xa1, 'd', 0x90},
      {0x81, 0xa1, 'd', 0x92, 0xa5, 'v', 'i', 's', 'I', 'd', 0xa1, 'a'},
      {0x81, 0xa1, 'd', 0x91, 0x81, 0xa5, 'v', 'i', 's', 'I', 'd', 0xa1, 'a'},
      {0x81, 0xa1, 'd', 0x81, 0xa5, 'v', 'i', 's', 'I', 'd', 0x91, 0xa1, 'a'},
      {0x82, 0xa1, 'x', 0x81, 0xa5, 'v', 'i', 's', 'I', 'd', 5, 0xa1, 'd', 0x91, 0xa1, 'a'},
      {0x81, 0xd9, 1, 'u', 0xa1, 'a'},
      {0x82, 0xa1, 'd', 5, 0xa5, 'v', 'i', 's', 'I', 'd', 0xa1, 'a'},
  };
  static const uint8_t sizes[] = {9, 8, 8, 16, 15, 15, 12, 13, 13, 16, 6, 12};
  for (size_t i = 0; i < sizeof sizes; i++) {
    struct vf_batch batch;
    uint8_t event[sizeof cases[0]];
    memcpy(event, cases[i], sizeof event);
    open_batch(&batch);
    check_append(&batch, event, sizes[i]);
    check_append(&batch, event, sizes[i]);
    for (size_t at = 0; at < sizes[i]; at++) {
      uint8_t before = event[at];
      for (unsigned byte = 0; byte < 256; byte++) {
        event[at] = (uint8_t)byte;
        check_append(&batch, event, sizes[i]);
      }
      event[at] = before;
    }
    vf_batch_free(&batch);
  }
}

/* A batch that grows, and one that is full, in the middle of an event that has a shape. */
static void test_limits(const char *visitor, uint32_t step) {
  for (uint32_t bytes_max = 400; bytes_max < 70000; bytes_max += step) {
    struct vf_batch batch;
    struct bytes event = {0};
    size_t json_size;
    int rc;
    CHECK_INT(vf_batch_init(&batch, 5000, bytes_max), VF_OK);
    pack_impression(&event, visitor);
    CHECK_INT(vf_json_size(event.data, event.size, &json_size), VF_OK);
    do {
      rc = vf_batch_append(&batch, event.data, event.size);
    } while (rc == VF_OK);
    CHECK_INT(rc, VF_FULL);
    CHECK_INT(batch.count, (bytes_max - 9 + 1) / (json_size + 1));
    for (uint32_t i = 1; i < batch.count; i++) {
      CHECK(memcmp(batch.body + batch.offsets[i], batch.body + batch.offsets[0], json_size) == 0);
    }
    bytes_free(&event);
    vf_batch_free(&batch);
  }
}

int main(void) {
  test_shapes_are_learned();
  test_a_shape_within_another(false);
  test_a_shape_within_another(true);
  test_new_shapes_find_room();
  test_many_keys();
  test_nearly(pack_impression);
  test_nearly(pack_fme);
  test_ambiguous_visitors();
  test_limits("one that is longer than thirty-two bytes", 67);
  test_limits(longest_short, 3);
  test_mixed_shapes();
  return 0;
}
