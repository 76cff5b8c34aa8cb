/*
 * test.h - what the C tests share: checks that tell where they failed, and a
 * msgpack writer that can also write what no packer would.
 */
#ifndef VF_TEST_H
#define VF_TEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s: failed: %s\n", __FILE__, __LINE__, __func__, #condition);        \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

#define CHECK_INT(actual, expected)                                                                \
  do {                                                                                             \
    long long actual_ = (long long)(actual);                                                       \
    long long expected_ = (long long)(expected);                                                   \
    if (actual_ != expected_) {                                                                    \
      fprintf(stderr, "%s:%d: %s: %s is %lld, not %lld\n", __FILE__, __LINE__, __func__, #actual,  \
              actual_, expected_);                                                                 \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

/* Bytes that grow; zero it before use. */
struct bytes {
  uint8_t *data;
  size_t size;
  size_t room;
};

static inline void bytes_add(struct bytes *bytes, const void *data, size_t size) {
  if (bytes->size + size > bytes->room) {
    bytes->room = 2 * (bytes->size + size) + 64;
    bytes->data = realloc(bytes->data, bytes->room);
    CHECK(bytes->data != NULL);
  }
  if (size > 0) {
    memcpy(bytes->data + bytes->size, data, size);
  }
  bytes->size += size;
}

static inline void bytes_free(struct bytes *bytes) {
  free(bytes->data);
  memset(bytes, 0, sizeof *bytes);
}

static inline void pack_byte(struct bytes *bytes, unsigned byte) {
  uint8_t value = (uint8_t)byte;
  bytes_add(bytes, &value, 1);
}

/* `width` bytes, the most significant first. */
static inline void pack_number(struct bytes *bytes, uint64_t value, unsigned width) {
  while (width-- > 0) {
    pack_byte(bytes, (unsigned)(value >> (8 * width) & 0xff));
  }
}

static inline void pack_tagged(struct bytes *bytes, unsigned tag, uint64_t value, unsigned width) {
  pack_byte(bytes, tag);
  pack_number(bytes, value, width);
}

static inline void pack_str(struct bytes *bytes, const char *text, size_t size) {
  if (size < 32) {
    pack_byte(bytes, 0xa0u | (unsigned)size);
  } else {
    pack_tagged(bytes, 0xdb, size, 4);
  }
  bytes_add(bytes, text, size);
}

static inline void pack_text(struct bytes *bytes, const char *text) {
  pack_str(bytes, text, strlen(text));
}

static inline void pack_double(struct bytes *bytes, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  pack_tagged(bytes, 0xcb, bits, 8);
}

/* Small random numbers that are the same everywhere. */
static inline uint64_t test_random(uint64_t *state) {
  uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
  x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
  return x ^ x >> 31;
}

#endif /* VF_TEST_H */
