/*
 * vf_shape.h - what the events of one route have in common, and JSON by it.
 *
 * Events of one route come with the same keys in the same order.  All bytes of
 * an event between two of its values (keys, heads of containers) are compared
 * with those of earlier events at once, and the JSON that was made of those is
 * copied; only values are read and written.
 *
 * Idea: a tree.  A node holds the msgpack before one value, the JSON it becomes
 * and what comes next; where shapes part, nodes of one place are each other's
 * alternatives.  So a route may mix shapes, and one pass finds the right one.
 *
 * The text is byte for byte that of vf_json_write, and the visitor is that of
 * vf_event_visitor: a shape that could make a difference is not learned, and
 * whatever does not fit a shape is written the other way.
 *
 * The input is private memory, not a lane: it is read more than once, and up to
 * VF_SHAPE_SLACK bytes behind its end are read and mean nothing.
 */
#ifndef VF_SHAPE_H
#define VF_SHAPE_H

#include "vf_json.h"

#define VF_SHAPE_SLACK 48u

/* msgpack that one node compares, JSON that it copies. */
#define VF_SHAPE_LITERAL_MAX 48u
#define VF_SHAPE_TEXT_MAX 64u

/* About a dozen shapes of a dozen keys. */
#define VF_SHAPE_NODES 128u

struct vf_shape_node {
  uint8_t literal[VF_SHAPE_LITERAL_MAX]; /* zeros behind its end */
  uint8_t mask[VF_SHAPE_LITERAL_MAX];    /* 0xff for each byte of the literal */
  uint8_t text[VF_SHAPE_TEXT_MAX];
  uint8_t literal_size;
  uint8_t text_size;
  uint8_t kind;
  bool is_visitor; /* its value, if it is a string, names the visitor */
  uint8_t next;    /* after its value */
  uint8_t other;   /* to be tried in the same place; 0: there is none */
};

struct vf_shapes {
  struct vf_shape_node nodes[VF_SHAPE_NODES]; /* from 1; 0 stands for none */
  uint8_t root;
  uint8_t count;    /* nodes in use, the first included */
  uint32_t credit;  /* how much may be spent on learning: see vf_shape.c */
  uint32_t misfits; /* events in a row that fitted none */
};

/* @caller any */
void vf_shapes_init(struct vf_shapes *shapes);

/*
 * Writes one event.  VF_OK with its visitor (0: none); VF_OTHER: no shape fits;
 * else what vf_json_write would return.  Except for VF_OK what was written so
 * far is no JSON.  @caller any
 */
int vf_shapes_write(struct vf_shapes *shapes, struct vf_json_out *out, const uint8_t *payload,
                    size_t size, uint64_t *visitor);

/* Learns the shape of an event that vf_json_write has written, unless too many
 * are learned in vain.  @caller any */
void vf_shapes_learn(struct vf_shapes *shapes, const uint8_t *payload, size_t size);

#endif /* VF_SHAPE_H */
