/*
 * vf_check.h - the value by which bytes certify themselves.
 *
 * Words of 64 bits are multiplied and the halves of the product folded into
 * each other.  Four independent chains keep the multiplier busy: about 20 ns
 * for 300 bytes.  It finds damage; it is not cryptographic, and whoever can
 * write the bytes can make them certify.
 *
 * The seed keeps bytes from certifying in another place: a record is seeded
 * with the random id of its lane and with its position, so neither the remains
 * of an earlier lap nor bytes that a visitor sent can pass for a record.
 */
#ifndef VF_CHECK_H
#define VF_CHECK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define VF_CHECK_K0 UINT64_C(0x9e3779b97f4a7c15)
#define VF_CHECK_K1 UINT64_C(0xd1b54a32d192ed03)
#define VF_CHECK_K2 UINT64_C(0x8cb92ba72f3d8dd7)
#define VF_CHECK_K3 UINT64_C(0xaef17502108ef2d9)
#define VF_CHECK_K4 UINT64_C(0x2545f4914f6cdd1d)
#define VF_CHECK_K5 UINT64_C(0x589965cc75374cc3)

__extension__ typedef unsigned __int128 vf_u128;

static inline uint64_t vf_fold(uint64_t a, uint64_t b) {
  vf_u128 product = (vf_u128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t vf_word(const uint8_t *data) {
  uint64_t word;
  memcpy(&word, data, sizeof word);
  return word;
}

/* The `left` < 8 bytes at `data`, which are the end of `size` bytes, and zeros, as they would
 * lie in a word. */
static inline uint64_t vf_word_end(const uint8_t *data, size_t left, size_t size) {
  uint64_t word = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  if (size >= sizeof word) {
    /* The word that ends there, without what stands before: a copy of a length that the compiler
     * does not know is a call, and its result cannot be loaded at once. */
    return left > 0 ? vf_word(data + left - sizeof word) >> (8 * (sizeof word - left)) : 0;
  }
#endif
  memcpy(&word, data, left);
  return word;
}

static inline uint64_t vf_check64(uint64_t seed, const uint8_t *data, size_t size) {
  uint64_t a = seed ^ VF_CHECK_K0, b = seed ^ VF_CHECK_K1;
  uint64_t c = seed ^ VF_CHECK_K2, d = seed ^ VF_CHECK_K3;
  uint64_t last;
  size_t left = size;

  for (; left >= 64; left -= 64, data += 64) {
    a = vf_fold(a ^ vf_word(data), VF_CHECK_K1 ^ vf_word(data + 8));
    b = vf_fold(b ^ vf_word(data + 16), VF_CHECK_K2 ^ vf_word(data + 24));
    c = vf_fold(c ^ vf_word(data + 32), VF_CHECK_K3 ^ vf_word(data + 40));
    d = vf_fold(d ^ vf_word(data + 48), VF_CHECK_K0 ^ vf_word(data + 56));
  }
  if (left >= 32) {
    a = vf_fold(a ^ vf_word(data), VF_CHECK_K3 ^ vf_word(data + 8));
    b = vf_fold(b ^ vf_word(data + 16), VF_CHECK_K0 ^ vf_word(data + 24));
    left -= 32, data += 32;
  }
  if (left >= 16) {
    c = vf_fold(c ^ vf_word(data), VF_CHECK_K1 ^ vf_word(data + 8));
    left -= 16, data += 16;
  }
  if (left >= 8) {
    d = vf_fold(d ^ vf_word(data), VF_CHECK_K2);
    left -= 8, data += 8;
  }
  last = vf_word_end(data, left, size);
  a = vf_fold(a ^ last, VF_CHECK_K4 ^ b);
  c = vf_fold(c ^ (uint64_t)size, VF_CHECK_K5 ^ d);
  return vf_fold(a ^ VF_CHECK_K1, c ^ VF_CHECK_K0);
}

#endif /* VF_CHECK_H */
