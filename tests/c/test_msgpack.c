/* The msgpack reader: every tag, every truncation, and skipping. */
#include "test.h"
#include "vf_msgpack.h"

static struct vf_token read_one(const struct bytes *bytes) {
  struct vf_msgpack_reader reader = {bytes->data, bytes->data + bytes->size};
  struct vf_token token;
  memset(&token, 0, sizeof token);
  CHECK_INT(vf_msgpack_next(&reader, &token), VF_OK);
  CHECK(reader.at <= reader.end);
  return token;
}

/* A tag, a big-endian number of `width` bytes, then `content` bytes of filling. */
static struct bytes make(unsigned tag, uint64_t number, unsigned width, size_t content) {
  struct bytes bytes = {0};
  pack_tagged(&bytes, tag, number, width);
  for (size_t i = 0; i < content; i++) {
    pack_byte(&bytes, 'x');
  }
  return bytes;
}

/* One tag reads as `kind`, and as nothing when any of its bytes is missing. */
static void check_tag(struct bytes bytes, int kind, uint64_t value_or_size) {
  struct vf_token token = read_one(&bytes);
  CHECK_INT(token.kind, kind);
  bool sized = kind == VF_TOKEN_STR || kind == VF_TOKEN_BIN || kind == VF_TOKEN_EXT ||
               kind == VF_TOKEN_ARRAY || kind == VF_TOKEN_MAP;
  if (sized) {
    CHECK_INT(token.size, value_or_size);
  } else if (kind != VF_TOKEN_NIL && kind != VF_TOKEN_FLOAT) {
    CHECK(token.v.u == value_or_size);
  }
  for (size_t size = 0; size < bytes.size; size++) {
    /* A copy of exact size lets AddressSanitizer see a read beyond it. */
    uint8_t *exact = malloc(size + 1);
    CHECK(exact != NULL);
    memcpy(exact, bytes.data, size);
    exact = realloc(exact, size > 0 ? size : 1);
    CHECK(exact != NULL);
    struct vf_msgpack_reader reader = {exact, exact + size};
    CHECK_INT(vf_msgpack_next(&reader, &token), VF_INVALID);
    free(exact);
  }
  bytes_free(&bytes);
}

static void test_integers(void) {
  for (unsigned tag = 0; tag < 0x80; tag++) {
    check_tag(make(tag, 0, 0, 0), VF_TOKEN_UINT, tag);
  }
  for (unsigned tag = 0xe0; tag <= 0xff; tag++) {
    check_tag(make(tag, 0, 0, 0), VF_TOKEN_INT, 0x100 - tag);
  }
  for (unsigned i = 0; i < 4; i++) {
    unsigned width = 1u << i;
    uint64_t all = UINT64_MAX >> (64 - 8 * width);
    uint64_t sign = UINT64_C(1) << (8 * width - 1);
    check_tag(make(0xcc + i, all, width, 0), VF_TOKEN_UINT, all);
    check_tag(make(0xcc + i, 0, width, 0), VF_TOKEN_UINT, 0);
    check_tag(make(0xd0 + i, sign - 1, width, 0), VF_TOKEN_UINT, sign - 1);
    check_tag(make(0xd0 + i, all, width, 0), VF_TOKEN_INT, 1);
    check_tag(make(0xd0 + i, sign, width, 0), VF_TOKEN_INT, sign);
  }
}

static void test_simple_values(void) {
  check_tag(make(0xc0, 0, 0, 0), VF_TOKEN_NIL, 0);
  check_tag(make(0xc2, 0, 0, 0), VF_TOKEN_BOOL, 0);
  check_tag(make(0xc3, 0, 0, 0), VF_TOKEN_BOOL, 1);
  check_tag(make(0xca, 0x3fc00000u, 4, 0), VF_TOKEN_FLOAT, 0);
  check_tag(make(0xcb, UINT64_C(0x3ff8000000000000), 8, 0), VF_TOKEN_FLOAT, 0);
  struct bytes single = make(0xca, 0x3fc00000u, 4, 0);
  struct bytes twice = make(0xcb, UINT64_C(0x3ff8000000000000), 8, 0);
  CHECK(read_one(&single).v.f == 1.5);
  CHECK(read_one(&twice).v.f == 1.5);
  bytes_free(&single);
  bytes_free(&twice);
}

static void test_sized_values(void) {
  for (unsigned size = 0; size < 32; size++) {
    check_tag(make(0xa0 | size, 0, 0, size), VF_TOKEN_STR, size);
  }
  for (unsigned i = 0; i < 3; i++) {
    check_tag(make(0xd9 + i, 40, 1u << i, 40), VF_TOKEN_STR, 40);
    check_tag(make(0xc4 + i, 40, 1u << i, 40), VF_TOKEN_BIN, 40);
  }
  for (unsigned size = 0; size < 16; size++) {
    check_tag(make(0x80 | size, 0, 0, 0), VF_TOKEN_MAP, size);
    check_tag(make(0x90 | size, 0, 0, 0), VF_TOKEN_ARRAY, size);
  }
  check_tag(make(0xdc, 0xffff, 2, 0), VF_TOKEN_ARRAY, 0xffff);
  check_tag(make(0xdd, 0xffffffffu, 4, 0), VF_TOKEN_ARRAY, 0xffffffffu);
  check_tag(make(0xde, 0xffff, 2, 0), VF_TOKEN_MAP, 0xffff);
  check_tag(make(0xdf, 0xffffffffu, 4, 0), VF_TOKEN_MAP, 0xffffffffu);
}

static void test_extensions(void) {
  for (unsigned i = 0; i < 5; i++) {
    check_tag(make(0xd4 + i, VF_EXT_BIGINT, 1, (size_t)1 << i), VF_TOKEN_EXT, UINT64_C(1) << i);
  }
  for (unsigned i = 0; i < 3; i++) {
    unsigned width = 1u << i;
    check_tag(make(0xc7 + i, (uint64_t)5 << 8 | 0xff, width + 1, 5), VF_TOKEN_EXT, 5);
    struct bytes bytes = make(0xc7 + i, (uint64_t)5 << 8 | 0xff, width + 1, 5);
    CHECK_INT(read_one(&bytes).type, -1);
    bytes_free(&bytes);
  }
  struct bytes unused = make(0xc1, 0, 0, 8);
  struct vf_msgpack_reader reader = {unused.data, unused.data + unused.size};
  struct vf_token token;
  CHECK_INT(vf_msgpack_next(&reader, &token), VF_INVALID);
  bytes_free(&unused);
}

/* Skipping passes exactly one value, however it is nested, and stops at the end. */
static void test_skip(void) {
  struct bytes bytes = {0};
  pack_byte(&bytes, 0x82);
  pack_text(&bytes, "a");
  pack_byte(&bytes, 0x92);
  pack_byte(&bytes, 0x81);
  pack_text(&bytes, "b");
  pack_byte(&bytes, 0x90);
  pack_double(&bytes, 0.5);
  pack_text(&bytes, "c");
  pack_byte(&bytes, 0x80);
  size_t whole = bytes.size;
  pack_byte(&bytes, 0x07);
  struct vf_msgpack_reader reader = {bytes.data, bytes.data + bytes.size};
  CHECK_INT(vf_msgpack_skip(&reader, 1), VF_OK);
  CHECK_INT(reader.at - bytes.data, whole);
  CHECK_INT(vf_msgpack_skip(&reader, 0), VF_OK);
  CHECK_INT(vf_msgpack_skip(&reader, 1), VF_OK);
  CHECK_INT(vf_msgpack_skip(&reader, 1), VF_INVALID);
  for (size_t size = 0; size < whole; size++) {
    struct vf_msgpack_reader shorter = {bytes.data, bytes.data + size};
    CHECK_INT(vf_msgpack_skip(&shorter, 1), VF_INVALID);
  }
  bytes_free(&bytes);
}

/* A million opened containers cost no stack; promised elements that never come are refused. */
static void test_skip_deep(void) {
  struct bytes bytes = {0};
  for (int i = 0; i < 1000000; i++) {
    pack_byte(&bytes, 0x91);
  }
  struct vf_msgpack_reader reader = {bytes.data, bytes.data + bytes.size};
  CHECK_INT(vf_msgpack_skip(&reader, 1), VF_INVALID);
  pack_byte(&bytes, 0xc0);
  reader = (struct vf_msgpack_reader){bytes.data, bytes.data + bytes.size};
  CHECK_INT(vf_msgpack_skip(&reader, 1), VF_OK);
  bytes_free(&bytes);
  for (int i = 0; i < 10000; i++) {
    pack_tagged(&bytes, 0xdf, 0xffffffffu, 4);
  }
  reader = (struct vf_msgpack_reader){bytes.data, bytes.data + bytes.size};
  CHECK_INT(vf_msgpack_skip(&reader, 1), VF_INVALID);
  bytes_free(&bytes);
}

int main(void) {
  test_integers();
  test_simple_values();
  test_sized_values();
  test_extensions();
  test_skip();
  test_skip_deep();
  return 0;
}
