/* Any bytes as a run of appends to one small batch: its two rules hold after each,
 * and a refused event changes nothing. */
#include "test.h"
#include "vf_batch.h"
#include "vf_json.h"
#include "vf_msgpack.h"

#define BODY_MAX (VF_BATCH_BYTES_MIN + 4u * UINT8_MAX)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The last event and its visitor are what they are without the events before it. */
static void check_text(const struct vf_batch *batch, const uint8_t *event, size_t size) {
  static uint8_t json[BODY_MAX + VF_JSON_STEP];
  uint32_t begin = batch->offsets[batch->count - 1];
  size_t json_size = 0;
  CHECK_INT(vf_json_write_to(json, sizeof json, event, size, &json_size), VF_OK);
  CHECK_INT(batch->size - begin, json_size);
  CHECK(memcmp(batch->body + begin, json, json_size) == 0);
  uint64_t visitor = vf_event_visitor(event, size);
  uint64_t bit = visitor % VF_VISITOR_BITS;
  CHECK(visitor == 0 || (batch->visitors[bit / 8] >> bit % 8 & 1) != 0);
}

static void check_append(struct vf_batch *batch, const uint8_t *event, size_t size, bool json) {
  uint32_t count = batch->count;
  size_t before = batch->size;
  int rc =
      json ? vf_batch_append_json(batch, event, size, size) : vf_batch_append(batch, event, size);
  CHECK(batch->count <= batch->events_max);
  CHECK(vf_batch_body_size(batch) <= batch->bytes_max);
  if (rc != VF_OK) {
    CHECK_INT(batch->count, count);
    CHECK_INT(batch->size, before);
    CHECK(rc != VF_FULL || count > 0);
    return;
  }
  CHECK_INT(batch->count, count + 1);
  size_t json_size = size;
  CHECK(json || vf_json_size(event, size, &json_size) == VF_OK);
  CHECK_INT(batch->size, before + (count > 0) + json_size);
  CHECK_INT(batch->offsets[count + 1], batch->size + 1);
  if (!json) {
    check_text(batch, event, size);
  }
}

/* The length of the first msgpack value, or all when there is none. */
static size_t first_value(const uint8_t *data, size_t size) {
  struct vf_msgpack_reader reader = {data, data + size};
  return vf_msgpack_skip(&reader, 1) == VF_OK ? (size_t)(reader.at - data) : size;
}

/* The values in the input are the events, each twice and once cut short; its last two bytes are
 * the limits. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct vf_batch batch;
  if (size < 2) {
    return 0;
  }
  size -= 2;
  uint32_t bytes_max = VF_BATCH_BYTES_MIN + 4u * data[size];
  CHECK_INT(vf_batch_init(&batch, 1 + data[size + 1] % 20u, bytes_max), VF_OK);
  while (size > 0) {
    size_t length = first_value(data, size);
    check_append(&batch, data, length, length % 7 == 0);
    /* Now its shape is known, and its bytes lie where a shorter one may come. */
    check_append(&batch, data, length, false);
    check_append(&batch, data, length - length / 4, false);
    if (length % 11 == 0) {
      vf_batch_clear(&batch);
    }
    data += length;
    size -= length;
  }
  vf_batch_free(&batch);
  return 0;
}
