/*
 * vf_msgpack.h - reading msgpack that may be hostile, one token at a time.
 *
 * The bytes may lie in shared memory, where their writer can change them while
 * we read.  Hence two rules: a byte is loaded once and only that copy is used,
 * and every length is compared with what is left before anything is done with
 * it.  A changing input can yield a wrong value, never an access out of bounds.
 */
#ifndef VF_MSGPACK_H
#define VF_MSGPACK_H

#include "vf_common.h"

#include <string.h>

enum {
  VF_TOKEN_NIL,
  VF_TOKEN_BOOL,
  VF_TOKEN_UINT,
  VF_TOKEN_INT, /* negative */
  VF_TOKEN_FLOAT,
  VF_TOKEN_STR,
  VF_TOKEN_BIN,
  VF_TOKEN_EXT,
  VF_TOKEN_ARRAY,
  VF_TOKEN_MAP
};

struct vf_msgpack_reader {
  const uint8_t *at;
  const uint8_t *end;
};

struct vf_token {
  int kind;
  int type;      /* EXT: the extension type, -128 .. 127 */
  uint32_t size; /* STR, BIN, EXT: bytes; ARRAY: elements; MAP: pairs */
  union {
    uint64_t u;          /* UINT, BOOL; INT: the magnitude */
    double f;            /* FLOAT */
    const uint8_t *data; /* STR, BIN, EXT: `size` bytes that lie inside the input */
  } v;
};

/*
 * Loads that happen exactly once.  The empty assembly makes the value opaque,
 * so that the compiler cannot load it a second time after it has been checked.
 */
static inline uint8_t vf_load8(const uint8_t *p) {
  uint8_t value = *p;
  __asm__("" : "+r"(value));
  return value;
}

/* Eight bytes with the first one least significant, whatever the host. */
static inline uint64_t vf_load64(const uint8_t *p) {
  uint64_t value;
  memcpy(&value, p, sizeof value);
  __asm__("" : "+r"(value));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  value = __builtin_bswap64(value);
#endif
  return value;
}

/* The rest of vf_msgpack_next, for tokens whose tag does not hold their size. */
int vf_msgpack_next_long(struct vf_msgpack_reader *reader, uint8_t tag, struct vf_token *token);

/* Reads one token; a container's elements follow as tokens of their own.
 * VF_OK, or VF_INVALID when the input ends or the tag means nothing.
 * @caller any */
static inline int vf_msgpack_next(struct vf_msgpack_reader *reader, struct vf_token *token) {
  if (reader->at == reader->end) {
    return VF_INVALID;
  }
  uint8_t tag = vf_load8(reader->at++);
  if (tag < 0x80) {
    token->kind = VF_TOKEN_UINT;
    token->v.u = tag;
  } else if (tag < 0x90) {
    token->kind = VF_TOKEN_MAP;
    token->size = tag & 0x0fu;
  } else if (tag < 0xa0) {
    token->kind = VF_TOKEN_ARRAY;
    token->size = tag & 0x0fu;
  } else if (tag < 0xc0) {
    uint32_t size = tag & 0x1fu;
    if ((size_t)(reader->end - reader->at) < size) {
      return VF_INVALID;
    }
    token->kind = VF_TOKEN_STR;
    token->size = size;
    token->v.data = reader->at;
    reader->at += size;
  } else {
    return vf_msgpack_next_long(reader, tag, token);
  }
  return VF_OK;
}

/* Moves past `values` whole values, nested ones included, in bounded stack.
 * VF_OK or VF_INVALID.  @caller any */
int vf_msgpack_skip(struct vf_msgpack_reader *reader, uint64_t values);

#endif /* VF_MSGPACK_H */
