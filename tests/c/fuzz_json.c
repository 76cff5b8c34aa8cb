/* Any bytes as one msgpack value: size and text agree, and the text is plain ASCII. */
#include "test.h"
#include "vf_batch.h"
#include "vf_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t counted = 0;
  int rc = vf_json_size(data, size, &counted);
  CHECK(rc == VF_OK || rc == VF_INVALID || rc == VF_DEPTH);
  (void)vf_event_visitor(data, size);
  if (rc != VF_OK) {
    return 0;
  }
  size_t room = counted + VF_JSON_STEP;
  uint8_t *json = malloc(room);
  CHECK(json != NULL);
  size_t written = 0;
  CHECK_INT(vf_json_write_to(json, room, data, size, &written), VF_OK);
  CHECK_INT(written, counted);
  bool quoted = false;
  size_t depth = 0;
  for (size_t i = 0; i < written; i++) {
    CHECK(json[i] >= ' ' && json[i] <= '~');
    if (quoted && json[i] == '\\') {
      i++;
    } else if (json[i] == '"') {
      quoted = !quoted;
    } else if (!quoted && (json[i] == '{' || json[i] == '[')) {
      depth++;
    } else if (!quoted && (json[i] == '}' || json[i] == ']')) {
      CHECK(depth-- > 0);
    }
  }
  CHECK(!quoted && depth == 0);
  free(json);
  return 0;
}
