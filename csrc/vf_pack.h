/*
 * vf_pack.h - msgpack and UTF-8, written into room that the caller has checked.
 *
 * Each function writes the shortest form and returns the position after it.
 * None writes more than VF_PACK_STEP bytes, strings' own bytes aside.
 */
#ifndef VF_PACK_H
#define VF_PACK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VF_PACK_STEP 9

static inline uint8_t *vf_put_u8(uint8_t *at, uint8_t tag, uint8_t value) {
  at[0] = tag;
  at[1] = value;
  return at + 2;
}

static inline uint8_t *vf_put_u16(uint8_t *at, uint8_t tag, uint16_t value) {
  at[0] = tag;
  at[1] = (uint8_t)(value >> 8);
  at[2] = (uint8_t)value;
  return at + 3;
}

static inline uint8_t *vf_put_u32(uint8_t *at, uint8_t tag, uint32_t value) {
  at[0] = tag;
  at[1] = (uint8_t)(value >> 24);
  at[2] = (uint8_t)(value >> 16);
  at[3] = (uint8_t)(value >> 8);
  at[4] = (uint8_t)value;
  return at + 5;
}

static inline uint8_t *vf_put_u64(uint8_t *at, uint8_t tag, uint64_t value) {
  at = vf_put_u32(at, tag, (uint32_t)(value >> 32));
  at[0] = (uint8_t)(value >> 24);
  at[1] = (uint8_t)(value >> 16);
  at[2] = (uint8_t)(value >> 8);
  at[3] = (uint8_t)value;
  return at + 4;
}

static inline uint8_t *vf_put_uint(uint8_t *at, uint64_t value) {
  if (value < 0x80) {
    *at = (uint8_t)value;
    return at + 1;
  }
  if (value <= UINT8_MAX) {
    return vf_put_u8(at, 0xcc, (uint8_t)value);
  }
  if (value <= UINT16_MAX) {
    return vf_put_u16(at, 0xcd, (uint16_t)value);
  }
  if (value <= UINT32_MAX) {
    return vf_put_u32(at, 0xce, (uint32_t)value);
  }
  return vf_put_u64(at, 0xcf, value);
}

static inline uint8_t *vf_put_int(uint8_t *at, int64_t value) {
  if (value >= 0) {
    return vf_put_uint(at, (uint64_t)value);
  }
  if (value >= -32) {
    *at = (uint8_t)value;
    return at + 1;
  }
  if (value >= INT8_MIN) {
    return vf_put_u8(at, 0xd0, (uint8_t)value);
  }
  if (value >= INT16_MIN) {
    return vf_put_u16(at, 0xd1, (uint16_t)value);
  }
  if (value >= INT32_MIN) {
    return vf_put_u32(at, 0xd2, (uint32_t)value);
  }
  return vf_put_u64(at, 0xd3, (uint64_t)value);
}

static inline uint8_t *vf_put_double(uint8_t *at, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return vf_put_u64(at, 0xcb, bits);
}

static inline uint8_t *vf_put_str_head(uint8_t *at, uint32_t size) {
  if (size < 32) {
    *at = (uint8_t)(0xa0 | size);
    return at + 1;
  }
  if (size <= UINT8_MAX) {
    return vf_put_u8(at, 0xd9, (uint8_t)size);
  }
  if (size <= UINT16_MAX) {
    return vf_put_u16(at, 0xda, (uint16_t)size);
  }
  return vf_put_u32(at, 0xdb, size);
}

static inline uint8_t *vf_put_map_head(uint8_t *at, uint32_t count) {
  if (count < 16) {
    *at = (uint8_t)(0x80 | count);
    return at + 1;
  }
  if (count <= UINT16_MAX) {
    return vf_put_u16(at, 0xde, (uint16_t)count);
  }
  return vf_put_u32(at, 0xdf, count);
}

static inline uint8_t *vf_put_array_head(uint8_t *at, uint32_t count) {
  if (count < 16) {
    *at = (uint8_t)(0x90 | count);
    return at + 1;
  }
  if (count <= UINT16_MAX) {
    return vf_put_u16(at, 0xdc, (uint16_t)count);
  }
  return vf_put_u32(at, 0xdd, count);
}

/* Six bytes at most, the type included. */
static inline uint8_t *vf_put_ext_head(uint8_t *at, int8_t type, uint32_t size) {
  if (size <= UINT8_MAX) {
    at = vf_put_u8(at, 0xc7, (uint8_t)size);
  } else if (size <= UINT16_MAX) {
    at = vf_put_u16(at, 0xc8, (uint16_t)size);
  } else {
    at = vf_put_u32(at, 0xc9, size);
  }
  *at = (uint8_t)type;
  return at + 1;
}

/* A lone surrogate passes as the three bytes it would have as a character. */
static inline uint8_t *vf_put_utf8(uint8_t *at, uint32_t code) {
  if (code < 0x80) {
    *at = (uint8_t)code;
    return at + 1;
  }
  if (code < 0x800) {
    return vf_put_u8(at, (uint8_t)(0xc0 | code >> 6), (uint8_t)(0x80 | (code & 0x3f)));
  }
  if (code < 0x10000) {
    at[0] = (uint8_t)(0xe0 | code >> 12);
    at[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    at[2] = (uint8_t)(0x80 | (code & 0x3f));
    return at + 3;
  }
  at[0] = (uint8_t)(0xf0 | code >> 18);
  at[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
  at[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
  at[3] = (uint8_t)(0x80 | (code & 0x3f));
  return at + 4;
}

static inline size_t vf_utf8_width(uint32_t code) {
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

/* One character of an array of characters that are `width` bytes wide (1, 2 or 4). */
static inline uint32_t vf_char_at(const void *text, int width, size_t index) {
  if (width == 1) {
    return ((const uint8_t *)text)[index];
  }
  if (width == 2) {
    return ((const uint16_t *)text)[index];
  }
  return ((const uint32_t *)text)[index];
}

static inline size_t vf_utf8_size(const void *text, int width, size_t length) {
  size_t size = 0;
  for (size_t i = 0; i < length; i++) {
    size += vf_utf8_width(vf_char_at(text, width, i));
  }
  return size;
}

static inline uint8_t *vf_put_text(uint8_t *at, const void *text, int width, size_t length) {
  for (size_t i = 0; i < length; i++) {
    at = vf_put_utf8(at, vf_char_at(text, width, i));
  }
  return at;
}

/* Decimal digits of an integer, 20 bytes at most; the form JSON gives to integer keys. */
static inline size_t vf_put_decimal(uint8_t *at, int64_t value) {
  uint8_t digits[20];
  uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  size_t count = 0, size = 0;

  do {
    digits[count++] = (uint8_t)('0' + rest % 10);
    rest /= 10;
  } while (rest != 0);
  if (value < 0) {
    at[size++] = '-';
  }
  while (count > 0) {
    at[size++] = digits[--count];
  }
  return size;
}

#endif /* VF_PACK_H */
