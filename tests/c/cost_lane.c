/* The same records through a lane and into a batch, for counting instructions under valgrind:
 *   cost_lane fullstack|fme LANE
 * Each event is one publish and one part of a drain; LANE is a file to make.  What only a new batch
 * does (learning a shape, growing) is done before. */
#include "lane_test.h"
#include "vf_batch.h"

#define EVENTS 1000
#define COST_CAPACITY (UINT64_C(1) << 20)

static void pack_uint(struct bytes *bytes, uint64_t value) {
  pack_tagged(bytes, 0xce, value, 4);
}

static void pack_pair(struct bytes *bytes, const char *key, const char *text) {
  pack_text(bytes, key);
  pack_text(bytes, text);
}

static const char agent[] =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/120.0.0.0 Safari/537.36";

static void fullstack(struct bytes *bytes, unsigned number) {
  char visitor[33];
  snprintf(visitor, sizeof visitor, "%032X", number);
  pack_byte(bytes, 0x87);
  pack_pair(bytes, "u", visitor);
  pack_text(bytes, "sId");
  pack_uint(bytes, 1700000000u + number);
  pack_pair(bytes, "visitor_ua", agent);
  pack_pair(bytes, "visitor_ip", "203.0.113.7");
  pack_text(bytes, "c");
  pack_byte(bytes, number % 4);
  pack_text(bytes, "e");
  pack_uint(bytes, 200 + number % 50);
  pack_text(bytes, "eT");
  pack_byte(bytes, 1);
}

static void fme(struct bytes *bytes, unsigned number) {
  char visitor[33];
  snprintf(visitor, sizeof visitor, "%032X", number);
  pack_byte(bytes, 0x81);
  pack_text(bytes, "d");
  pack_byte(bytes, 0x85);
  pack_pair(bytes, "visId", visitor);
  pack_pair(bytes, "visitor_ua", agent);
  pack_text(bytes, "sessionId");
  pack_uint(bytes, 1700000000u + number);
  pack_text(bytes, "event");
  pack_byte(bytes, 0x83);
  pack_text(bytes, "props");
  pack_byte(bytes, 0x83);
  pack_pair(bytes, "vwo_sdkName", "vwo-fme-python-sdk");
  pack_pair(bytes, "vwo_sdkVersion", "1.65.0");
  pack_text(bytes, "amount");
  pack_double(bytes, 20.01);
  pack_pair(bytes, "name", "vwo_variationShown");
  pack_text(bytes, "time");
  pack_tagged(bytes, 0xcf, UINT64_C(1700000000000) + number, 8);
  pack_pair(bytes, "msgId", visitor);
}

int main(int argc, char **argv) {
  struct vf_lane_header ident = lane_ident();
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_fault fault = {""};
  struct vf_batch batch;
  struct vf_run run;
  struct bytes bytes = {0};
  uint8_t *payload;

  CHECK(argc == 3);
  CHECK_INT(vf_lane_create(&producer, argv[2], COST_CAPACITY, &ident), VF_OK);
  CHECK_INT(vf_reader_attach(&reader, argv[2], &fault), VF_OK);
  CHECK_INT(vf_batch_init(&batch, EVENTS, VF_BATCH_BYTES_MAX), VF_OK);
  for (unsigned number = 0; number < 2 * EVENTS; number++) {
    bytes.size = 0;
    if (strcmp(argv[1], "fme") == 0) {
      fme(&bytes, number);
    } else {
      fullstack(&bytes, number);
    }
    if (number < EVENTS) {
      CHECK_INT(vf_batch_append(&batch, bytes.data, bytes.size), VF_OK);
      continue;
    }
    if (number == EVENTS) {
      vf_batch_clear(&batch);
    }
    CHECK(vf_lane_room(&producer, &payload) >= bytes.size);
    memcpy(payload, bytes.data, bytes.size);
    vf_lane_publish(&producer, (uint32_t)bytes.size, ROUTE, VF_KIND_EVENT,
                    vf_lane_take_seq(&producer));
  }
  CHECK_INT(vf_reader_drain(&reader, &batch, ROUTE, producer.head, &run), VF_EMPTY);
  CHECK_INT(run.count, EVENTS);
  vf_batch_free(&batch);
  bytes_free(&bytes);
  lane_close(&producer, &reader);
  return 0;
}
