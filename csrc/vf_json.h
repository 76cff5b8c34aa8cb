/*
 * vf_json.h - one msgpack value in, the JSON that Python's json.dumps writes out.
 *
 * The text is byte for byte that of json.dumps(value, separators=(",", ":"),
 * allow_nan=False): ASCII only, insertion order, lone surrogates as \udXXX.
 * What JSON cannot say (NaN, infinity, bytes, a key that is no string, bytes that
 * are no UTF-8) is VF_INVALID; containers deeper than VF_DEPTH_MAX are VF_DEPTH.
 */
#ifndef VF_JSON_H
#define VF_JSON_H

#include "vf_common.h"
#include "vf_msgpack.h"

/* Room a writer wants before each token: the longest number or escape, and the
 * brackets that may close after it, fit with some to spare. */
#define VF_JSON_STEP 256u

/*
 * Where JSON goes.  `at` passes `soft_end` by less than VF_JSON_STEP bytes, all of
 * which belong to the buffer; beyond it `more` is called before the next token.
 * `more` makes room (by growing, or by taking the bytes away) or says why not.
 */
struct vf_json_out {
  uint8_t *at;
  uint8_t *soft_end;
  int (*more)(struct vf_json_out *out);
};

/*
 * Writes exactly one value and nothing after it.  VF_OK, VF_INVALID, VF_DEPTH, or
 * what `more` returned; except for VF_OK what was written so far is no JSON.
 * @caller any
 */
int vf_json_write(struct vf_json_out *out, const uint8_t *payload, size_t size);

/* The same for a value that holds no others and was read from an input that ends
 * at `input_end`; there is room for half a step.  VF_INVALID for a container.
 * @caller any */
int vf_json_write_value(struct vf_json_out *out, const struct vf_token *token,
                        const uint8_t *input_end);

/* The same into `room` bytes; VF_FULL when they are not enough.  A room of the
 * JSON's size + VF_JSON_STEP always is.  @caller any */
int vf_json_write_to(uint8_t *json, size_t room, const uint8_t *payload, size_t size,
                     size_t *json_size);

/* The exact size of that JSON, with the same checks, without keeping it.
 * @caller any */
int vf_json_size(const uint8_t *payload, size_t size, size_t *json_size);

#endif /* VF_JSON_H */
