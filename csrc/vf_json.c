/*
 * vf_json.c - msgpack to JSON in one pass.
 *
 * Nesting is a fixed array of frames, not recursion, so the depth of the input
 * cannot reach our stack.  A frame counts the tokens still due: an even number
 * in a map means that a key comes next.  Strings are looked at sixteen or eight
 * bytes at a time: all are stored, and `at` moves only over those that need no
 * escape.  That is why room is kept in steps and never counted per character.
 */
#include "vf_json.h"

#include "vf_msgpack.h"
#include "vf_number.h"

#include <math.h>
#include <string.h>

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* What one round of the string loop may write: 64 plain bytes, or 8 of 16 and two \uXXXX. */
#define ROUND_BYTES 64u
/* What may follow a string before room is asked for again. */
#define TAIL_BYTES (VF_DEPTH_MAX + 8u)
_Static_assert(ROUND_BYTES + TAIL_BYTES <= VF_JSON_STEP, "a round must fit into a step");
_Static_assert(2 + VF_NUMBER_ROOM + TAIL_BYTES <= VF_JSON_STEP, "a number must fit into a step");

/* The letter after the backslash for each ASCII character that needs one. */
static const uint8_t escapes[128] = {
    ['"'] = '"',  ['\\'] = '\\', ['\b'] = 'b', ['\f'] = 'f',
    ['\n'] = 'n', ['\r'] = 'r',  ['\t'] = 't',
};

/* A high bit for the first byte that cannot be copied as it is, and for no byte
 * before it; bits above the first are noise, since a borrow may reach them. */
static uint64_t find_special(uint64_t word) {
  uint64_t control = word - EACH(0x20);
  uint64_t quote = (word ^ EACH('"')) - EACH(1);
  uint64_t backslash = (word ^ EACH('\\')) - EACH(1);
  uint64_t delete_or_above = (word + EACH(1)) | word;
  return (control | quote | backslash | delete_or_above) & EACH(0x80);
}

/* Sixteen bytes in one register, as gcc and clang offer it on every machine. */
typedef int8_t wide __attribute__((vector_size(16)));
typedef uint64_t wide_words __attribute__((vector_size(16)));

/* What is looked at before it is asked whether all of it could be copied. */
#define LONG_BYTES (4 * sizeof(wide))

/* Which bytes need an escape. */
static inline wide special_of(const uint8_t *at) {
  wide bytes;
  memcpy(&bytes, at, sizeof bytes);
  /* Signed, so what is above ASCII is below a space. */
  return (bytes < ' ') | (bytes == '"') | (bytes == '\\') | (bytes == 0x7f);
}

static inline bool is_zero(wide bytes) {
  wide_words words = (wide_words)bytes;
  return (words[0] | words[1]) == 0;
}

/* Copies sixteen bytes and says whether none of them needs an escape.  It looks
 * at the copy, which nobody else can change: the empty assembly keeps the
 * compiler from looking at the input again. */
static inline bool copy_plain(uint8_t *at, const uint8_t *p) {
  memcpy(at, p, sizeof(wide));
  __asm__("" : : : "memory");
  return is_zero(special_of(at));
}

/* The same for LONG_BYTES. */
static inline bool copy_long(uint8_t *at, const uint8_t *p) {
  memcpy(at, p, LONG_BYTES);
  __asm__("" : : : "memory");
  wide special = special_of(at);
  for (size_t i = sizeof(wide); i < LONG_BYTES; i += sizeof(wide)) {
    special |= special_of(at + i);
  }
  return is_zero(special);
}

/* Copies LONG_BYTES, or sixteen of the `left` bytes, if none needs an escape; how many.  Where one
 * byte needs it, the next ones often do: so it depends on `plain_run`, the plain bytes behind the
 * last escape, how many are tried. */
static inline size_t copy_many(uint8_t *at, const uint8_t *p, size_t left, size_t *plain_run) {
  if (*plain_run >= LONG_BYTES && left >= LONG_BYTES) {
    if (copy_long(at, p)) {
      return LONG_BYTES;
    }
    *plain_run = sizeof(wide);
  }
  if (*plain_run > 0 && left >= sizeof(wide) && copy_plain(at, p)) {
    *plain_run += sizeof(wide);
    return sizeof(wide);
  }
  return 0;
}

static uint8_t *write_unit(uint8_t *at, uint32_t unit) {
  static const char hex[] = "0123456789abcdef";
  at[0] = '\\';
  at[1] = 'u';
  at[2] = (uint8_t)hex[unit >> 12 & 0xf];
  at[3] = (uint8_t)hex[unit >> 8 & 0xf];
  at[4] = (uint8_t)hex[unit >> 4 & 0xf];
  at[5] = (uint8_t)hex[unit & 0xf];
  return at + 6;
}

static uint8_t *write_ascii_escape(uint8_t *at, uint8_t byte) {
  if (escapes[byte] == 0) {
    return write_unit(at, byte);
  }
  at[0] = '\\';
  at[1] = escapes[byte];
  return at + 2;
}

/* Decodes the character at `p`, of which `left` bytes may be read, that begins
 * with `first` >= 0x80.  Returns its length, 0 when it is no UTF-8.  Surrogates
 * are let through: Python strings can hold them, and JSON can say them. */
static size_t decode_character(const uint8_t *p, size_t left, uint8_t first, uint32_t *character) {
  static const uint32_t lowest[5] = {0, 0, 0x80, 0x800, 0x10000};
  size_t length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (length == 0 || left < length) {
    return 0;
  }
  uint32_t value = first & (0x7fu >> length);
  for (size_t i = 1; i < length; i++) {
    uint8_t next = vf_load8(p + i);
    if ((next & 0xc0u) != 0x80) {
      return 0;
    }
    value = value << 6 | (next & 0x3fu);
  }
  if (value < lowest[length] || value > 0x10ffff) {
    return 0;
  }
  *character = value;
  return length;
}

static uint8_t *write_character(uint8_t *at, uint32_t character) {
  if (character < 0x10000) {
    return write_unit(at, character);
  }
  uint32_t offset = character - 0x10000;
  at = write_unit(at, 0xd800 + (offset >> 10));
  return write_unit(at, 0xdc00 + (offset & 0x3ff));
}

/* The 1 to 7 bytes at `p`, filled up with characters that need no escape. */
static uint64_t load_tail(const uint8_t *p, size_t count, const uint8_t *input_end) {
  uint64_t filler = EACH(' ') << (8 * count);
  if ((size_t)(input_end - p) >= sizeof(uint64_t)) {
    return (vf_load64(p) & ~(UINT64_MAX << (8 * count))) | filler;
  }
  uint64_t word = 0;
  for (size_t i = 0; i < count; i++) {
    word |= (uint64_t)vf_load8(p + i) << (8 * i);
  }
  return word | filler;
}

static void store64(uint8_t *at, uint64_t word) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  memcpy(at, &word, sizeof word);
}

/* A quoted string.  `input_end` is where the whole input ends: the last word of
 * a string may be loaded together with what follows it. */
static int write_string(struct vf_json_out *out, const uint8_t *p, size_t size,
                        const uint8_t *input_end) {
  const uint8_t *end = p + size;
  uint8_t *at = out->at;
  size_t plain_run = LONG_BYTES;
  *at++ = '"';
  while (p < end) {
    if (at > out->soft_end) {
      out->at = at;
      int rc = out->more(out);
      if (rc != VF_OK) {
        return rc;
      }
      at = out->at;
    }
    size_t left = (size_t)(end - p);
    size_t copied = copy_many(at, p, left, &plain_run);
    if (copied > 0) {
      p += copied;
      at += copied;
      continue;
    }
    size_t count = left < sizeof(uint64_t) ? left : sizeof(uint64_t);
    uint64_t word = count == sizeof(uint64_t) ? vf_load64(p) : load_tail(p, count, input_end);
    uint64_t special = find_special(word);
    store64(at, word);
    if (special == 0) {
      p += count;
      at += count;
      plain_run += count;
      continue;
    }
    plain_run = 0;
    unsigned plain = (unsigned)__builtin_ctzll(special) / 8;
    uint8_t byte = (uint8_t)(word >> (8 * plain));
    p += plain;
    at += plain;
    if (byte < 0x80) {
      at = write_ascii_escape(at, byte);
      p++;
      continue;
    }
    uint32_t character;
    size_t length = decode_character(p, (size_t)(end - p), byte, &character);
    if (length == 0) {
      return VF_INVALID;
    }
    at = write_character(at, character);
    p += length;
  }
  *at++ = '"';
  out->at = at;
  return VF_OK;
}

/* The digits of an integer too large for 64 bits: -?[1-9][0-9]*, or 0. */
static int write_bigint(struct vf_json_out *out, const uint8_t *p, size_t size) {
  uint8_t *at = out->at;
  size_t first = 0;
  for (size_t i = 0; i < size; i++) {
    uint8_t byte = vf_load8(p + i);
    if (i == 0 && byte == '-') {
      first = 1;
    } else if (byte < '0' || byte > '9' || (i == first && byte == '0' && size > 1)) {
      return VF_INVALID;
    }
    if (at > out->soft_end) {
      out->at = at;
      int rc = out->more(out);
      if (rc != VF_OK) {
        return rc;
      }
      at = out->at;
    }
    *at++ = byte;
  }
  out->at = at;
  return size > first ? VF_OK : VF_INVALID;
}

static void write_literal(struct vf_json_out *out, const char *text, size_t size) {
  memcpy(out->at, text, size);
  out->at += size;
}

/* A value that holds no others. */
static inline int write_scalar(struct vf_json_out *out, const struct vf_token *token,
                               const uint8_t *input_end) {
  switch (token->kind) {
  case VF_TOKEN_STR:
    return write_string(out, token->v.data, token->size, input_end);
  case VF_TOKEN_INT:
    *out->at++ = '-';
    out->at = vf_number_write_uint(out->at, token->v.u);
    return VF_OK;
  case VF_TOKEN_UINT:
    out->at = vf_number_write_uint(out->at, token->v.u);
    return VF_OK;
  case VF_TOKEN_FLOAT:
    if (!isfinite(token->v.f)) {
      return VF_INVALID;
    }
    out->at = vf_number_write_double(out->at, token->v.f);
    return VF_OK;
  case VF_TOKEN_BOOL:
    if (token->v.u != 0) {
      write_literal(out, "true", 4);
    } else {
      write_literal(out, "false", 5);
    }
    return VF_OK;
  case VF_TOKEN_NIL:
    write_literal(out, "null", 4);
    return VF_OK;
  case VF_TOKEN_EXT:
    if (token->type == VF_EXT_BIGINT) {
      return write_bigint(out, token->v.data, token->size);
    }
    return VF_INVALID;
  default:
    return VF_INVALID;
  }
}

int vf_json_write_value(struct vf_json_out *out, const struct vf_token *token,
                        const uint8_t *input_end) {
  return write_scalar(out, token, input_end);
}

struct frame {
  uint64_t due; /* tokens that still belong to this container */
  bool map;
};

struct nesting {
  struct frame frames[VF_DEPTH_MAX];
  size_t depth;
};

static int open_container(struct vf_json_out *out, struct nesting *nesting,
                          const struct vf_token *token) {
  if (nesting->depth == VF_DEPTH_MAX) {
    return VF_DEPTH;
  }
  bool map = token->kind == VF_TOKEN_MAP;
  uint64_t due = map ? 2 * (uint64_t)token->size : token->size;
  *out->at++ = map ? '{' : '[';
  nesting->frames[nesting->depth++] = (struct frame){due, map};
  return VF_OK;
}

/* Writes the brackets that close now and what stands before the next token. */
static void write_separators(struct vf_json_out *out, struct nesting *nesting) {
  while (nesting->depth > 0) {
    struct frame *frame = &nesting->frames[nesting->depth - 1];
    if (frame->due > 0) {
      *out->at++ = frame->map && frame->due % 2 != 0 ? ':' : ',';
      return;
    }
    *out->at++ = frame->map ? '}' : ']';
    nesting->depth--;
  }
}

int vf_json_write(struct vf_json_out *out, const uint8_t *payload, size_t size) {
  struct vf_msgpack_reader reader = {payload, payload + size};
  struct nesting nesting;
  nesting.depth = 0;
  do {
    if (out->at > out->soft_end) {
      int rc = out->more(out);
      if (rc != VF_OK) {
        return rc;
      }
    }
    struct vf_token token;
    int rc = vf_msgpack_next(&reader, &token);
    if (rc != VF_OK) {
      return rc;
    }
    if (nesting.depth > 0) {
      struct frame *frame = &nesting.frames[nesting.depth - 1];
      if (frame->map && frame->due % 2 == 0 && token.kind != VF_TOKEN_STR) {
        return VF_INVALID;
      }
      frame->due--;
    }
    if (token.kind == VF_TOKEN_MAP || token.kind == VF_TOKEN_ARRAY) {
      rc = open_container(out, &nesting, &token);
      if (rc == VF_OK && token.size > 0) {
        continue;
      }
    } else {
      rc = write_scalar(out, &token, reader.end);
    }
    if (rc != VF_OK) {
      return rc;
    }
    write_separators(out, &nesting);
  } while (nesting.depth > 0);
  return reader.at == reader.end ? VF_OK : VF_INVALID;
}

static int refuse_more(struct vf_json_out *out) {
  (void)out;
  return VF_FULL;
}

int vf_json_write_to(uint8_t *json, size_t room, const uint8_t *payload, size_t size,
                     size_t *json_size) {
  if (room < VF_JSON_STEP) {
    return VF_FULL;
  }
  struct vf_json_out out = {json, json + (room - VF_JSON_STEP), refuse_more};
  int rc = vf_json_write(&out, payload, size);
  if (rc == VF_OK) {
    *json_size = (size_t)(out.at - json);
  }
  return rc;
}

/* A buffer that is written over and over, to learn a size only. */
struct counter {
  struct vf_json_out out; /* first: `more` gets its address */
  size_t counted;
  uint8_t scratch[8 * VF_JSON_STEP];
};

static int count_more(struct vf_json_out *out) {
  struct counter *counter = (struct counter *)out;
  counter->counted += (size_t)(out->at - counter->scratch);
  out->at = counter->scratch;
  return VF_OK;
}

int vf_json_size(const uint8_t *payload, size_t size, size_t *json_size) {
  struct counter counter;
  counter.out.at = counter.scratch;
  counter.out.soft_end = counter.scratch + sizeof counter.scratch - VF_JSON_STEP;
  counter.out.more = count_more;
  counter.counted = 0;
  int rc = vf_json_write(&counter.out, payload, size);
  if (rc == VF_OK) {
    *json_size = counter.counted + (size_t)(counter.out.at - counter.scratch);
  }
  return rc;
}
