/*
 * vf_shape.c - writing by shapes that were learned, and learning them.
 *
 * Why a node that matches may be followed: what JSON a place in an event gets
 * depends only on the msgpack before it, as heads of containers tell how much
 * they hold.  So the path from the root decides all of it, and a path that ends
 * exactly with the event has written what there is.
 *
 * Learning takes as long as writing some events, and trying in vain half as
 * long as writing one.  Events that are all different would pay for both: so
 * learning is paid from a credit, which grows with each event and faster with
 * those that fit, and after many misfits in a row only some events are tried.
 */
#include "vf_shape.h"

#include "vf_msgpack.h"
#include "vf_number.h"
#include "vf_visitor.h"

#include <math.h>
#include <string.h>

enum {
  NODE_PIECE, /* the literal goes on in the next node */
  NODE_VALUE, /* a value that holds no others follows */
  NODE_END
};

#define CREDIT_MAX 256u
#define CREDIT_FIT 2u
#define CREDIT_MISFIT 1u
#define CREDIT_LEARN 64u

/* After so many misfits in a row one event in so many is tried. */
#define MISFITS_MAX 16u
#define MISFITS_PER_TRY 8u

/* Nodes that may be tried in one place. */
#define OTHERS_MAX 8u

/* Containers inside containers in a shape; deeper events are written the other way. */
#define SHAPE_DEPTH_MAX 16u

/* What is copied at once, so what may be written or read too much. */
#define BLOCK 16u

_Static_assert(VF_SHAPE_LITERAL_MAX == 3 * BLOCK && VF_SHAPE_TEXT_MAX == 4 * BLOCK, "unrolled");
_Static_assert(VF_SHAPE_SLACK >= VF_SHAPE_LITERAL_MAX, "a literal is compared whole");
_Static_assert(VF_SHAPE_TEXT_MAX + 2 + VF_NUMBER_ROOM <= VF_JSON_STEP / 2, "a node fits");
_Static_assert(VF_SHAPE_NODES <= UINT8_MAX + 1, "nodes are named by a byte");

typedef int8_t block __attribute__((vector_size(BLOCK)));
typedef uint8_t block_unsigned __attribute__((vector_size(BLOCK)));
typedef uint64_t block_words __attribute__((vector_size(BLOCK)));

static inline block load_block(const uint8_t *p) {
  block bytes;
  memcpy(&bytes, p, sizeof bytes);
  return bytes;
}

static inline bool is_zero(block bytes) {
  block_words words = (block_words)bytes;
  return (words[0] | words[1]) == 0;
}

void vf_shapes_init(struct vf_shapes *shapes) {
  memset(shapes, 0, sizeof *shapes);
  shapes->count = 1;
  shapes->credit = CREDIT_MAX;
}

/* ---- writing ---- */

/* Reads beyond the literal's end: both sides are masked there. */
static inline bool fits(const struct vf_shape_node *node, const uint8_t *p, size_t left) {
  if (left < node->literal_size) {
    return false;
  }
  block differs = (load_block(p) ^ load_block(node->literal)) & load_block(node->mask);
  if (node->literal_size > BLOCK) {
    differs |= (load_block(p + BLOCK) ^ load_block(node->literal + BLOCK)) &
               load_block(node->mask + BLOCK);
    if (node->literal_size > 2 * BLOCK) {
      differs |= (load_block(p + 2 * BLOCK) ^ load_block(node->literal + 2 * BLOCK)) &
                 load_block(node->mask + 2 * BLOCK);
    }
  }
  return is_zero(differs);
}

static inline void write_text(struct vf_json_out *out, const struct vf_shape_node *node) {
  memcpy(out->at, node->text, BLOCK);
  if (node->text_size > BLOCK) {
    memcpy(out->at + BLOCK, node->text + BLOCK, BLOCK);
    if (node->text_size > 2 * BLOCK) {
      memcpy(out->at + 2 * BLOCK, node->text + 2 * BLOCK, 2 * BLOCK);
    }
  }
  out->at += node->text_size;
}

/* 0xff for each of the first `count` bytes of a block. */
static inline block first_bytes(size_t count) {
  static const uint8_t edge[2 * BLOCK] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                          0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  return load_block(edge + BLOCK - count);
}

/* Which bytes need an escape.  As signed numbers, what is above ASCII is below a space, and so is
 * 0x7f when all are moved by one. */
static inline block special(block bytes) {
  block moved = (block)((block_unsigned)bytes + 1);
  return (moved < ' ' + 1) | (bytes == '"') | (bytes == '\\');
}

/* A quoted string; false when a character of it needs an escape.  Looking is
 * done with the copy, and decided once for all of it. */
static inline bool write_plain(struct vf_json_out *out, const uint8_t *p, size_t size) {
  uint8_t *at = out->at;
  block found = {0};
  *at++ = '"';
  for (; size >= BLOCK; size -= BLOCK, p += BLOCK, at += BLOCK) {
    block bytes = load_block(p);
    memcpy(at, &bytes, BLOCK);
    found |= special(bytes);
  }
  block bytes = load_block(p);
  memcpy(at, &bytes, BLOCK);
  found |= special(bytes) & first_bytes(size);
  at += size;
  *at++ = '"';
  out->at = at;
  return is_zero(found);
}

/* A big-endian number of 1, 2, 4 or 8 bytes; eight are read. */
static inline uint64_t load_number(const uint8_t *p, size_t width) {
  uint64_t number;
  memcpy(&number, p, sizeof number);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  number = __builtin_bswap64(number);
#endif
  return number >> (64 - 8 * width);
}

/* A string at `p`: its bytes, and how many; false when it is none. */
static inline bool read_string(const uint8_t *p, const uint8_t *end, const uint8_t **text,
                               size_t *size) {
  uint8_t tag = p[0];
  if ((tag & 0xe0u) == 0xa0) {
    *size = tag & 0x1fu;
    *text = p + 1;
  } else if (tag == 0xd9) {
    *size = p[1];
    *text = p + 2;
  } else if (tag == 0xda || tag == 0xdb) {
    size_t width = (size_t)2 << (tag - 0xda);
    *size = load_number(p + 1, width);
    *text = p + 1 + width;
  } else {
    return false;
  }
  return *text <= end && *size <= (size_t)(end - *text);
}

/* Any value but a plain string or a usual number. */
static int write_rare(struct vf_json_out *out, const uint8_t **p, const uint8_t *end) {
  struct vf_msgpack_reader reader = {*p, end};
  struct vf_token token;
  int rc = vf_msgpack_next(&reader, &token);
  if (rc != VF_OK) {
    return rc;
  }
  *p = reader.at;
  if (token.kind == VF_TOKEN_MAP || token.kind == VF_TOKEN_ARRAY) {
    return VF_OTHER;
  }
  return vf_json_write_value(out, &token, end);
}

/* A usual number at *p, which is moved behind it; false when it is none. */
static inline bool write_number(struct vf_json_out *out, const uint8_t **p, const uint8_t *end) {
  const uint8_t *at = *p;
  size_t left = (size_t)(end - at);
  if (left > 0 && at[0] < 0x80) {
    out->at = vf_number_write_uint(out->at, at[0]);
    *p = at + 1;
    return true;
  }
  size_t width = (size_t)1 << (at[0] & 3u);
  if ((at[0] & 0xfcu) == 0xcc && left > width) {
    out->at = vf_number_write_uint(out->at, load_number(at + 1, width));
    *p = at + 1 + width;
    return true;
  }
  if (at[0] == 0xcb && left > sizeof(double)) {
    uint64_t bits = load_number(at + 1, sizeof bits);
    double number;
    memcpy(&number, &bits, sizeof number);
    if (isfinite(number)) {
      out->at = vf_number_write_double(out->at, number);
      *p = at + 1 + sizeof number;
      return true;
    }
  }
  return false;
}

/* The value at *p, which is moved behind it.  VF_OTHER: it is a container. */
static inline int write_value(struct vf_json_out *out, const uint8_t **p, const uint8_t *end) {
  const uint8_t *text;
  size_t size;
  if (read_string(*p, end, &text, &size)) {
    uint8_t *begin = out->at;
    if ((ptrdiff_t)size <= out->soft_end - begin && write_plain(out, text, size)) {
      *p = text + size;
      return VF_OK;
    }
    out->at = begin;
  } else if (write_number(out, p, end)) {
    return VF_OK;
  }
  return write_rare(out, p, end);
}

/* The value at *p, and whom it names. */
static int write_visitor(struct vf_json_out *out, const uint8_t **p, const uint8_t *end,
                         uint64_t *visitor) {
  const uint8_t *text;
  size_t size;
  if (!read_string(*p, end, &text, &size)) {
    return VF_OTHER;
  }
  *visitor = vf_visitor_hash(text, size);
  return write_value(out, p, end);
}

static int write_by(const struct vf_shapes *shapes, struct vf_json_out *out, const uint8_t *p,
                    const uint8_t *end, uint64_t *visitor) {
  uint8_t index = shapes->root;
  *visitor = 0;
  while (index != 0) {
    const struct vf_shape_node *node = &shapes->nodes[index];
    if (!fits(node, p, (size_t)(end - p))) {
      index = node->other;
      continue;
    }
    if (out->at > out->soft_end) {
      int rc = out->more(out);
      if (rc != VF_OK) {
        return rc;
      }
    }
    write_text(out, node);
    const uint8_t *value = p + node->literal_size;
    if (node->kind == NODE_VALUE) {
      int rc = node->is_visitor ? write_visitor(out, &value, end, visitor)
                                : write_value(out, &value, end);
      if (rc != VF_OK) {
        return rc;
      }
    } else if (node->kind == NODE_END) {
      return value == end ? VF_OK : VF_OTHER;
    }
    p = value;
    index = node->next;
  }
  return VF_OTHER;
}

static void earn(struct vf_shapes *shapes, uint32_t credit) {
  shapes->credit = shapes->credit < CREDIT_MAX - credit ? shapes->credit + credit : CREDIT_MAX;
}

int vf_shapes_write(struct vf_shapes *shapes, struct vf_json_out *out, const uint8_t *payload,
                    size_t size, uint64_t *visitor) {
  bool is_tried = shapes->misfits < MISFITS_MAX || shapes->misfits % MISFITS_PER_TRY == 0;
  int rc = is_tried ? write_by(shapes, out, payload, payload + size, visitor) : VF_OTHER;
  shapes->misfits = rc == VF_OTHER ? shapes->misfits + 1 : 0;
  earn(shapes, rc == VF_OTHER ? CREDIT_MISFIT : CREDIT_FIT);
  return rc;
}

/* ---- learning ---- */

struct learner {
  struct vf_shapes *shapes;
  uint8_t *link;            /* where the index of the next node belongs */
  struct vf_shape_node now; /* what will be the next node */
  bool is_full;
  bool has_visitor;
  bool has_d;      /* a map under "d" at the top */
  uint8_t top_key; /* 'u' or 'd' if the last key at the top is that */
  bool is_vis_id;  /* the last key one deeper is "visId" */
  size_t depth;
  struct {
    uint64_t due; /* tokens that still belong to this container */
    bool map;
  } frames[SHAPE_DEPTH_MAX];
};

static bool is_same(const struct vf_shape_node *a, const struct vf_shape_node *b) {
  return a->kind == b->kind && a->literal_size == b->literal_size &&
         memcmp(a->literal, b->literal, a->literal_size) == 0;
}

/* Ends the node that is being made and goes on behind it.  Longer literals come
 * first, so none hides behind its own beginning.  False: no room. */
static bool finish(struct learner *learner, uint8_t kind) {
  struct vf_shapes *shapes = learner->shapes;
  uint8_t *place = NULL;
  uint8_t *link = learner->link;
  unsigned others = 0;
  learner->now.kind = kind;
  for (; *link != 0; link = &shapes->nodes[*link].other) {
    struct vf_shape_node *node = &shapes->nodes[*link];
    if (is_same(node, &learner->now)) {
      break;
    }
    if (place == NULL && node->literal_size < learner->now.literal_size) {
      place = link;
    }
    others++;
  }
  if (*link == 0) {
    if (shapes->count == VF_SHAPE_NODES || others == OTHERS_MAX) {
      learner->is_full = true;
      return false;
    }
    place = place != NULL ? place : link;
    memset(learner->now.mask, 0xff, learner->now.literal_size);
    learner->now.other = *place;
    shapes->nodes[shapes->count] = learner->now;
    *place = (uint8_t)shapes->count++;
    link = place;
  }
  learner->link = &shapes->nodes[*link].next;
  memset(&learner->now, 0, sizeof learner->now);
  return true;
}

/* A token and its JSON; false when no node is large enough. */
static bool add(struct learner *learner, const uint8_t *literal, size_t literal_size,
                const uint8_t *text, size_t text_size) {
  if (literal_size > VF_SHAPE_LITERAL_MAX || text_size > VF_SHAPE_TEXT_MAX) {
    return false;
  }
  if ((learner->now.literal_size + literal_size > VF_SHAPE_LITERAL_MAX ||
       learner->now.text_size + text_size > VF_SHAPE_TEXT_MAX) &&
      !finish(learner, NODE_PIECE)) {
    return false;
  }
  struct vf_shape_node *now = &learner->now;
  memcpy(now->literal + now->literal_size, literal, literal_size);
  memcpy(now->text + now->text_size, text, text_size);
  now->literal_size = (uint8_t)(now->literal_size + literal_size);
  now->text_size = (uint8_t)(now->text_size + text_size);
  return true;
}

static bool add_text(struct learner *learner, char text) {
  uint8_t byte = (uint8_t)text;
  return add(learner, &byte, 0, &byte, 1);
}

static bool is_named(const struct vf_token *key, const char *name) {
  return key->size == strlen(name) && memcmp(key->v.data, name, key->size) == 0;
}

static bool add_key(struct learner *learner, const struct vf_token *key, const uint8_t *begin,
                    size_t size) {
  uint8_t text[VF_SHAPE_TEXT_MAX + VF_JSON_STEP];
  size_t text_size;
  if (learner->depth == 1) {
    learner->top_key = is_named(key, "u") ? 'u' : is_named(key, "d") ? 'd' : 0;
  } else if (learner->depth == 2) {
    learner->is_vis_id = is_named(key, "visId");
  }
  return vf_json_write_to(text, sizeof text, begin, size, &text_size) == VF_OK &&
         add(learner, begin, size, text, text_size);
}

static bool add_container(struct learner *learner, const struct vf_token *token,
                          const uint8_t *begin, size_t size) {
  bool map = token->kind == VF_TOKEN_MAP;
  if (learner->depth == SHAPE_DEPTH_MAX) {
    return false;
  }
  if (map && learner->depth == 1 && learner->top_key == 'd') {
    /* A second one would take the place of the first. */
    if (learner->has_d) {
      return false;
    }
    learner->has_d = true;
  }
  uint8_t bracket = map ? '{' : '[';
  learner->frames[learner->depth].due = map ? 2 * (uint64_t)token->size : token->size;
  learner->frames[learner->depth++].map = map;
  return add(learner, begin, size, &bracket, 1);
}

static bool add_value(struct learner *learner) {
  bool is_visitor = (learner->depth == 1 && learner->top_key == 'u') ||
                    (learner->depth == 2 && learner->top_key == 'd' && learner->frames[1].map &&
                     learner->is_vis_id);
  if (is_visitor) {
    /* Which of two counts depends on what they are. */
    if (learner->has_visitor) {
      return false;
    }
    learner->has_visitor = true;
  }
  learner->now.is_visitor = is_visitor;
  return finish(learner, NODE_VALUE);
}

static bool add_separators(struct learner *learner) {
  for (; learner->depth > 0; learner->depth--) {
    bool map = learner->frames[learner->depth - 1].map;
    uint64_t due = learner->frames[learner->depth - 1].due;
    if (due > 0) {
      return add_text(learner, map && due % 2 != 0 ? ':' : ',');
    }
    if (!add_text(learner, map ? '}' : ']')) {
      return false;
    }
  }
  return true;
}

static bool learn(struct learner *learner, const uint8_t *payload, size_t size) {
  struct vf_msgpack_reader reader = {payload, payload + size};
  do {
    const uint8_t *begin = reader.at;
    struct vf_token token;
    bool is_key = false;
    if (vf_msgpack_next(&reader, &token) != VF_OK) {
      return false;
    }
    if (learner->depth > 0) {
      is_key = learner->frames[learner->depth - 1].map &&
               learner->frames[learner->depth - 1].due % 2 == 0;
      learner->frames[learner->depth - 1].due--;
    } else if (token.kind != VF_TOKEN_MAP) {
      return false;
    }
    size_t token_size = (size_t)(reader.at - begin);
    bool is_added;
    if (is_key) {
      is_added = token.kind == VF_TOKEN_STR && add_key(learner, &token, begin, token_size);
    } else if (token.kind == VF_TOKEN_MAP || token.kind == VF_TOKEN_ARRAY) {
      is_added = add_container(learner, &token, begin, token_size);
      if (is_added && token.size > 0) {
        continue;
      }
    } else {
      is_added = add_value(learner);
    }
    if (!is_added || !add_separators(learner)) {
      return false;
    }
  } while (learner->depth > 0);
  return finish(learner, NODE_END);
}

void vf_shapes_learn(struct vf_shapes *shapes, const uint8_t *payload, size_t size) {
  if (shapes->credit < CREDIT_LEARN) {
    return;
  }
  shapes->credit -= CREDIT_LEARN;
  struct learner learner = {.shapes = shapes, .link = &shapes->root};
  if (!learn(&learner, payload, size) && learner.is_full) {
    /* All is forgotten; what is still needed is learned again. */
    shapes->root = 0;
    shapes->count = 1;
  }
}
