/* A writer that may do anything between any two calls of the reader: honest records,
 * forged ones that certify themselves, and bytes over ring and header. */
#include "fuzz_reader.h"
#include "vf_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vf_producer producer_made;
static struct vf_reader reader_made;
static struct vf_batch batch;

static void prepare(void) {
  test_begin();
  lane_open(&producer_made, &reader_made);
  CHECK_INT(unlink(lane_path), 0);
  test_end();
  CHECK_INT(vf_batch_init(&batch, 5, 4000), VF_OK);
}

/* The lane as it was made, but at a position where the ring may soon wrap. */
static void restart(struct vf_producer *producer, struct vf_reader *reader, uint64_t position) {
  struct vf_lane_header *header = producer_made.header;
  memset(producer_made.ring, 0, CAPACITY);
  memset(header->passed, 0, sizeof header->passed);
  vf_head_publish(&header->head, position);
  vf_tail_release(&header->tail, position);
  *producer = producer_made;
  producer->head = producer->tail = producer->start = position;
  *reader = reader_made;
  reader->cursor = reader->seen = reader->tail = position;
  reader->damaged_to = reader->scan_from = position;
  vf_batch_clear(&batch);
}

/* A record whose check value is right, wherever and whatever it is. */
static void forge(struct vf_producer *producer, struct source *source) {
  uint64_t position = producer->head;
  uint64_t left = CAPACITY - (position & (CAPACITY - 1));
  if (left < VF_RECORD_HEADER_SIZE) {
    return;
  }
  struct vf_record *record = vf_record_at(producer->ring, CAPACITY, position);
  const uint8_t *payload = (const uint8_t *)record + VF_RECORD_HEADER_SIZE;
  uint32_t size = (uint32_t)take(source, 2);
  record->size = size < left - VF_RECORD_HEADER_SIZE ? size : (uint32_t)take(source, 4);
  record->kind = (uint16_t)take(source, 2);
  record->seq = take(source, 2);
  record->route = take(source, 1) % 4 == 0 ? take(source, 8) : ROUTE;
  if (record->size <= left - VF_RECORD_HEADER_SIZE) {
    record->check =
        vf_record_check(LANE_ID, position, record->size, record->kind, record->seq, record->route,
                        record->kind == VF_KIND_PADDING ? NULL : payload);
  }
  producer->head = position + vf_record_span(record->size) % CAPACITY;
  vf_head_publish(&producer->header->head, producer->head);
}

static void scribble(struct vf_producer *producer, struct source *source) {
  uint8_t *ring = producer->ring;
  uint64_t at = (producer->head + 8 * take(source, 1) - 1024) % CAPACITY;
  uint64_t length = take(source, 1) % 64;
  while (length-- > 0) {
    ring[at++ % CAPACITY] = (uint8_t)take(source, 1);
  }
}

static void put(struct vf_producer *producer, struct source *source) {
  uint8_t *payload;
  uint32_t size = (uint32_t)take(source, 1);
  if (vf_lane_reserve(producer, size, &payload) == VF_OK) {
    for (uint32_t i = 0; i < size; i++) {
      payload[i] = (uint8_t)take(source, 1);
    }
    vf_lane_publish(producer, size, ROUTE, VF_KIND_EVENT, vf_lane_take_seq(producer));
  }
}

static void write_some(struct vf_producer *producer, unsigned choice, struct source *source) {
  struct vf_lane_header *header = producer->header;
  switch (choice % 8) {
  case 0:
  case 1:
  case 2:
    put(producer, source);
    break;
  case 3:
    forge(producer, source);
    break;
  case 4:
    scribble(producer, source);
    break;
  case 5:
    producer->head += 8 * take(source, 2);
    vf_head_publish(&header->head, producer->head);
    break;
  case 6:
    vf_head_publish(&header->head, take(source, 8));
    break;
  default:
    vf_tail_release(&header->tail, take(source, 8));
    vf_tail_release(&header->passed[choice / 8 % 4], take(source, 2));
    header->capacity = take(source, 4);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct source source = {data, data + size};

  if (producer_made.header == NULL) {
    prepare();
  }
  restart(&producer, &reader, take(&source, 2) * VF_RECORD_ALIGN);
  for (int steps = 0; source.at < source.end && steps < 200; steps++) {
    unsigned choice = (unsigned)take(&source, 1);
    if (choice % 2 == 0) {
      write_some(&producer, choice / 2, &source);
    } else {
      call_reader(&reader, &batch, choice / 2, &source);
    }
  }
  return 0;
}
