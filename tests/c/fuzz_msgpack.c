/* Any bytes as msgpack tokens: each lies inside the input, and skipping a value ends
 * where reading its tokens one by one does. */
#include "test.h"
#include "vf_msgpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Values that a token is still to be followed by. */
static uint64_t values_inside(const struct vf_token *token) {
  if (token->kind == VF_TOKEN_ARRAY) {
    return token->size;
  }
  return token->kind == VF_TOKEN_MAP ? 2 * (uint64_t)token->size : 0;
}

static void check_token(const struct vf_token *token, const uint8_t *begin, const uint8_t *at) {
  uint8_t sum = 0;
  switch (token->kind) {
  case VF_TOKEN_EXT:
    CHECK(token->type >= -128 && token->type <= 127);
    break;
  case VF_TOKEN_STR:
  case VF_TOKEN_BIN:
    break;
  case VF_TOKEN_BOOL:
    CHECK(token->v.u <= 1);
    return;
  default:
    CHECK(token->kind >= VF_TOKEN_NIL && token->kind <= VF_TOKEN_MAP);
    return;
  }
  CHECK(token->v.data >= begin && token->v.data + token->size <= at);
  for (uint32_t i = 0; i < token->size; i++) {
    sum ^= token->v.data[i];
  }
  __asm__("" : : "r"(sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct vf_msgpack_reader reader = {data, data + size}, skipper = reader;
  struct vf_token token;
  uint64_t due = 1;
  int status = VF_OK;

  while (due > 0 && status == VF_OK) {
    const uint8_t *before = reader.at;
    status = vf_msgpack_next(&reader, &token);
    CHECK(reader.at <= reader.end);
    if (status == VF_OK) {
      CHECK(reader.at > before);
      check_token(&token, data, reader.at);
      due += values_inside(&token) - 1;
    }
  }
  CHECK_INT(vf_msgpack_skip(&skipper, 1), status);
  CHECK(skipper.at <= skipper.end);
  CHECK(status != VF_OK || skipper.at == reader.at);
  return 0;
}
