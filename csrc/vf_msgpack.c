/*
 * vf_msgpack.c - the tokens that are rarer than short strings and small ints.
 */
#include "vf_msgpack.h"

/* A big-endian number of `width` bytes; false when fewer are left. */
static bool read_number(struct vf_msgpack_reader *reader, size_t width, uint64_t *number) {
  if ((size_t)(reader->end - reader->at) < width) {
    return false;
  }
  uint64_t value = 0;
  for (size_t i = 0; i < width; i++) {
    value = value << 8 | vf_load8(reader->at + i);
  }
  reader->at += width;
  *number = value;
  return true;
}

/* The bytes of a STR, BIN or EXT whose size has been read into `size`. */
static int take_bytes(struct vf_msgpack_reader *reader, int kind, uint64_t size,
                      struct vf_token *token) {
  if ((uint64_t)(reader->end - reader->at) < size) {
    return VF_INVALID;
  }
  token->kind = kind;
  token->size = (uint32_t)size;
  token->v.data = reader->at;
  reader->at += size;
  return VF_OK;
}

static int read_bytes(struct vf_msgpack_reader *reader, int kind, size_t width,
                      struct vf_token *token) {
  uint64_t size;
  if (!read_number(reader, width, &size)) {
    return VF_INVALID;
  }
  return take_bytes(reader, kind, size, token);
}

/* An EXT of `size` bytes, whose type byte comes next. */
static int read_ext(struct vf_msgpack_reader *reader, uint64_t size, struct vf_token *token) {
  uint64_t type;
  if (!read_number(reader, 1, &type)) {
    return VF_INVALID;
  }
  token->type = type < 0x80 ? (int)type : (int)type - 0x100;
  return take_bytes(reader, VF_TOKEN_EXT, size, token);
}

static int read_ext_sized(struct vf_msgpack_reader *reader, size_t width, struct vf_token *token) {
  uint64_t size;
  if (!read_number(reader, width, &size)) {
    return VF_INVALID;
  }
  return read_ext(reader, size, token);
}

static int read_container(struct vf_msgpack_reader *reader, int kind, size_t width,
                          struct vf_token *token) {
  uint64_t size;
  if (!read_number(reader, width, &size)) {
    return VF_INVALID;
  }
  token->kind = kind;
  token->size = (uint32_t)size;
  return VF_OK;
}

static int read_unsigned(struct vf_msgpack_reader *reader, size_t width, struct vf_token *token) {
  token->kind = VF_TOKEN_UINT;
  return read_number(reader, width, &token->v.u) ? VF_OK : VF_INVALID;
}

static int read_signed(struct vf_msgpack_reader *reader, size_t width, struct vf_token *token) {
  uint64_t bits;
  if (!read_number(reader, width, &bits)) {
    return VF_INVALID;
  }
  uint64_t sign = UINT64_C(1) << (width * 8 - 1);
  bool negative = (bits & sign) != 0;
  token->kind = negative ? VF_TOKEN_INT : VF_TOKEN_UINT;
  /* Two's complement: the magnitude of the lowest value is the sign bit. */
  token->v.u = negative ? ((~bits & (sign - 1)) + 1) : bits;
  return VF_OK;
}

static int read_float(struct vf_msgpack_reader *reader, size_t width, struct vf_token *token) {
  uint64_t bits;
  if (!read_number(reader, width, &bits)) {
    return VF_INVALID;
  }
  token->kind = VF_TOKEN_FLOAT;
  if (width == sizeof(double)) {
    memcpy(&token->v.f, &bits, sizeof(double));
    return VF_OK;
  }
  uint32_t low = (uint32_t)bits;
  float single;
  memcpy(&single, &low, sizeof single);
  token->v.f = (double)single;
  return VF_OK;
}

static int read_bool(bool value, struct vf_token *token) {
  token->kind = VF_TOKEN_BOOL;
  token->v.u = value;
  return VF_OK;
}

int vf_msgpack_next_long(struct vf_msgpack_reader *reader, uint8_t tag, struct vf_token *token) {
  if (tag >= 0xe0) {
    token->kind = VF_TOKEN_INT;
    token->v.u = 0x100u - tag;
    return VF_OK;
  }
  switch (tag) {
  case 0xc0:
    token->kind = VF_TOKEN_NIL;
    return VF_OK;
  case 0xc2:
  case 0xc3:
    return read_bool(tag == 0xc3, token);
  case 0xc4:
  case 0xc5:
  case 0xc6:
    return read_bytes(reader, VF_TOKEN_BIN, (size_t)1 << (tag - 0xc4), token);
  case 0xc7:
  case 0xc8:
  case 0xc9:
    return read_ext_sized(reader, (size_t)1 << (tag - 0xc7), token);
  case 0xca:
  case 0xcb:
    return read_float(reader, (size_t)4 << (tag - 0xca), token);
  case 0xcc:
  case 0xcd:
  case 0xce:
  case 0xcf:
    return read_unsigned(reader, (size_t)1 << (tag - 0xcc), token);
  case 0xd0:
  case 0xd1:
  case 0xd2:
  case 0xd3:
    return read_signed(reader, (size_t)1 << (tag - 0xd0), token);
  case 0xd4:
  case 0xd5:
  case 0xd6:
  case 0xd7:
  case 0xd8:
    return read_ext(reader, UINT64_C(1) << (tag - 0xd4), token);
  case 0xd9:
  case 0xda:
  case 0xdb:
    return read_bytes(reader, VF_TOKEN_STR, (size_t)1 << (tag - 0xd9), token);
  case 0xdc:
  case 0xdd:
    return read_container(reader, VF_TOKEN_ARRAY, (size_t)2 << (tag - 0xdc), token);
  case 0xde:
  case 0xdf:
    return read_container(reader, VF_TOKEN_MAP, (size_t)2 << (tag - 0xde), token);
  default: /* 0xc1 is never used */
    return VF_INVALID;
  }
}

int vf_msgpack_skip(struct vf_msgpack_reader *reader, uint64_t values) {
  /* Each container adds at most 2^33 and takes at least a byte, so the number
   * still due cannot overflow before the input ends. */
  while (values > 0) {
    struct vf_token token;
    int rc = vf_msgpack_next(reader, &token);
    if (rc != VF_OK) {
      return rc;
    }
    values--;
    if (token.kind == VF_TOKEN_ARRAY) {
      values += token.size;
    } else if (token.kind == VF_TOKEN_MAP) {
      values += 2 * (uint64_t)token.size;
    }
  }
  return VF_OK;
}
