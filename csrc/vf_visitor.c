#include "vf_visitor.h"

/* Words that are compared before it is asked whether two of them met. */
#define WORDS_AT_ONCE 64u

static bool equals(const struct vf_token *token, const char *text, size_t size) {
  return token->kind == VF_TOKEN_STR && token->size == size &&
         memcmp(token->v.data, text, size) == 0;
}

/* The hash of the string under `name` in the map of `pairs` pairs whose head has
 * just been read; 0 when there is none. */
static uint64_t find_in_map(struct vf_msgpack_reader reader, uint32_t pairs, const char *name,
                            size_t name_size) {
  for (; pairs > 0; pairs--) {
    struct vf_token key;
    struct vf_token value;
    if (vf_msgpack_next(&reader, &key) != VF_OK) {
      return 0;
    }
    struct vf_msgpack_reader ahead = reader;
    if (equals(&key, name, name_size) && vf_msgpack_next(&ahead, &value) == VF_OK &&
        value.kind == VF_TOKEN_STR) {
      return vf_visitor_hash(value.v.data, value.size);
    }
    if (vf_msgpack_skip(&reader, 1) != VF_OK) {
      return 0;
    }
  }
  return 0;
}

uint64_t vf_event_visitor(const uint8_t *payload, size_t size) {
  struct vf_msgpack_reader reader = {payload, payload + size};
  struct vf_token token;
  if (vf_msgpack_next(&reader, &token) != VF_OK || token.kind != VF_TOKEN_MAP) {
    return 0;
  }
  uint64_t nested = 0;
  for (uint32_t left = token.size; left > 0; left--) {
    struct vf_token key;
    struct vf_token value;
    if (vf_msgpack_next(&reader, &key) != VF_OK) {
      return nested;
    }
    struct vf_msgpack_reader ahead = reader;
    if (vf_msgpack_next(&ahead, &value) != VF_OK) {
      return nested;
    }
    if (equals(&key, "u", 1) && value.kind == VF_TOKEN_STR) {
      return vf_visitor_hash(value.v.data, value.size);
    }
    if (equals(&key, "d", 1) && value.kind == VF_TOKEN_MAP) {
      nested = find_in_map(ahead, value.size, "visId", 5);
    }
    /* In FME's events "d" is all there is: the rest need not be passed over. */
    if (left == 1 || vf_msgpack_skip(&reader, 1) != VF_OK) {
      return nested;
    }
  }
  return nested;
}

void vf_visitors_add(uint8_t *visitors, uint64_t visitor) {
  if (visitor != 0) {
    uint64_t bit = visitor % VF_VISITOR_BITS;
    visitors[bit / 8] = (uint8_t)(visitors[bit / 8] | 1u << (bit % 8));
  }
}

bool vf_visitors_meet(const uint8_t *first, const uint8_t *second) {
  for (size_t at = 0; at < VF_VISITOR_BITS / 8; at += WORDS_AT_ONCE * sizeof(uint64_t)) {
    uint64_t a[WORDS_AT_ONCE], b[WORDS_AT_ONCE], common = 0;
    memcpy(a, first + at, sizeof a);
    memcpy(b, second + at, sizeof b);
    for (size_t i = 0; i < WORDS_AT_ONCE; i++) {
      common |= a[i] & b[i];
    }
    if (common != 0) {
      return true;
    }
  }
  return false;
}

void vf_visitors_join(uint8_t *visitors, const uint8_t *others) {
  for (size_t at = 0; at < VF_VISITOR_BITS / 8; at++) {
    visitors[at] |= others[at];
  }
}
