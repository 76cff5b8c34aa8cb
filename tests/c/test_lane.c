/*
 * test_lane.c - one producer and one reader that both keep the rules.
 */
#include "lane_test.h"
#include "vf_check.h"

static void test_a_record_comes_out_as_it_went_in(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint8_t *payload;

  lane_open(&producer, &reader);
  CHECK(!lane_get(&reader, &view));
  CHECK_INT(vf_lane_room(&producer, &payload), CAPACITY / 4);
  payload_fill(payload, vf_lane_take_seq(&producer), 5);
  CHECK(!lane_get(&reader, &view));
  vf_lane_publish(&producer, 5, 77, VF_KIND_REQUEST | VF_KIND_EXTERNAL, 1);
  CHECK(lane_get(&reader, &view));
  CHECK_INT(view.seq, 1);
  CHECK_INT(view.route, 77);
  CHECK_INT(view.kind, VF_KIND_REQUEST | VF_KIND_EXTERNAL);
  CHECK_INT(view.size, 5);
  CHECK_INT(view.start, 0);
  CHECK_INT(view.end, 40);
  CHECK_INT(reader.owner, 5);
  CHECK_INT(reader.pid, 6);
  lane_close(&producer, &reader);
}

static void test_every_size_wraps(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint64_t random = 1, seq = 0;

  lane_open(&producer, &reader);
  for (uint32_t size = 0; size <= CAPACITY / 4; size += 1 + (uint32_t)(test_random(&random) % 61)) {
    for (int i = 0; i < 5; i++) {
      CHECK_INT(lane_put(&producer, size), VF_OK);
      CHECK(lane_get(&reader, &view));
      CHECK_INT(view.seq, ++seq);
      CHECK_INT(view.size, size);
      CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
    }
  }
  CHECK(reader.cursor > 10 * CAPACITY);
  CHECK_INT(reader.damaged, 0);
  CHECK_INT(lane_put(&producer, CAPACITY / 4 + 1), VF_TOO_LARGE);
  lane_close(&producer, &reader);
}

static void test_a_full_lane_gives_back_what_is_released(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint64_t put = 0, got = 0;

  lane_open(&producer, &reader);
  for (int lap = 0; lap < 5; lap++) {
    while (lane_put(&producer, 100) == VF_OK) {
      put++;
    }
    CHECK(producer.head - reader.tail <= CAPACITY);
    CHECK(producer.head - reader.tail + vf_record_span(100) > CAPACITY - vf_record_span(100));
    CHECK_INT(lane_put(&producer, 100), VF_FULL);
    /* One record's space is one record's room, except where the ring ends. */
    while (got < put) {
      CHECK(lane_get(&reader, &view));
      CHECK_INT(view.seq, ++got);
    }
    CHECK_INT(lane_put(&producer, 100), VF_FULL);
    CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
  }
  CHECK(put > 5 * 400);
  lane_close(&producer, &reader);
}

static void test_a_forgotten_reservation_leaves_nothing(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint8_t *payload;

  lane_open(&producer, &reader);
  for (int i = 0; i < 1000; i++) {
    CHECK_INT(vf_lane_reserve(&producer, 16000, &payload), VF_OK);
    memset(payload, 0xff, 16000);
    memset(payload, 0xee, vf_lane_room(&producer, &payload));
    CHECK_INT(lane_put(&producer, (uint32_t)i), VF_OK);
    CHECK(lane_get(&reader, &view));
    CHECK_INT(view.size, i);
    CHECK(!lane_get(&reader, &view));
    CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
  }
  lane_close(&producer, &reader);
}

static void test_room_is_what_a_publish_needs(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint64_t random = 2, published = 0;

  lane_open(&producer, &reader);
  for (int i = 0; i < 20000; i++) {
    uint8_t *payload;
    size_t room = vf_lane_room(&producer, &payload);
    if (room > 0 && test_random(&random) % 4 != 0) {
      /* All of it, to the last byte, now and then. */
      size_t size = test_random(&random) % 8 == 0 ? room : test_random(&random) % room;
      size = size > 2000 && test_random(&random) % 4 != 0 ? 2000 : size;
      payload_fill(payload, vf_lane_take_seq(&producer), size);
      vf_lane_publish(&producer, (uint32_t)size, ROUTE, VF_KIND_EVENT, producer.seq);
      published++;
    } else if (room == 0 && lane_put(&producer, 1) == VF_OK) {
      published++;
    }
    while (test_random(&random) % 2 == 0 && lane_get(&reader, &view)) {
      published--;
      CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
    }
  }
  while (lane_get(&reader, &view)) {
    published--;
  }
  CHECK_INT(published, 0);
  CHECK_INT(reader.damaged, 0);
  lane_close(&producer, &reader);
}

static void test_marks_survive_the_reader(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  struct vf_fault fault = {""};
  uint64_t starts[11];

  lane_open(&producer, &reader);
  for (int i = 0; i < 10; i++) {
    starts[i] = producer.head;
    CHECK_INT(lane_put(&producer, 33), VF_OK);
  }
  starts[10] = producer.head;
  while (lane_get(&reader, &view)) {
  }
  CHECK_INT(vf_reader_mark(&reader, starts[2], starts[4], 1, UINT64_MAX), 2);
  CHECK_INT(vf_reader_mark(&reader, starts[0], starts[10], 7, 8), 2);
  CHECK_INT(vf_reader_mark(&reader, starts[0], starts[10] + 8, 1, 8), VF_INVALID);
  CHECK_INT(vf_reader_mark(&reader, starts[0] + 1, starts[10], 1, 8), VF_INVALID);
  CHECK_INT(vf_reader_mark(&reader, starts[4], starts[2], 1, 8), VF_INVALID);
  CHECK_INT(vf_reader_release(&reader, starts[1]), VF_OK);
  CHECK_INT(vf_reader_mark(&reader, starts[0], starts[1], 1, 8), VF_INVALID);
  vf_reader_close(&reader);

  CHECK_INT(vf_reader_attach(&reader, lane_path, &fault), VF_OK);
  const uint64_t expected[] = {2, 5, 6, 9, 10};
  for (size_t i = 0; i < 5; i++) {
    CHECK(lane_get(&reader, &view));
    CHECK_INT(view.seq, expected[i]);
  }
  CHECK(!lane_get(&reader, &view));
  CHECK_INT(reader.damaged, 0);
  lane_close(&producer, &reader);
}

static void test_hands_never_pass_each_other(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;

  lane_open(&producer, &reader);
  for (int i = 0; i < 4; i++) {
    CHECK_INT(lane_put(&producer, 8), VF_OK);
  }
  CHECK_INT(vf_reader_release(&reader, 40), VF_INVALID);
  CHECK(lane_get(&reader, &view) && lane_get(&reader, &view));
  CHECK_INT(vf_reader_release(&reader, 120), VF_INVALID);
  CHECK_INT(vf_reader_release(&reader, 41), VF_INVALID);
  CHECK_INT(vf_reader_release(&reader, 40), VF_OK);
  CHECK_INT(vf_reader_release(&reader, 0), VF_INVALID);
  CHECK_INT(vf_reader_rewind(&reader, 0), VF_INVALID);
  CHECK_INT(vf_reader_rewind(&reader, 120), VF_INVALID);
  CHECK_INT(vf_reader_rewind(&reader, 40), VF_OK);
  CHECK(lane_get(&reader, &view));
  CHECK_INT(view.seq, 2);
  lane_close(&producer, &reader);
}

static void pack_event(struct bytes *bytes, int number) {
  bytes->size = 0;
  pack_byte(bytes, 0x81);
  pack_text(bytes, "n");
  pack_byte(bytes, (unsigned)number);
}

static void put_bytes(struct vf_producer *producer, const struct bytes *bytes, uint64_t route,
                      uint16_t kind) {
  uint8_t *payload;
  CHECK_INT(vf_lane_reserve(producer, (uint32_t)bytes->size, &payload), VF_OK);
  memcpy(payload, bytes->data, bytes->size);
  vf_lane_publish(producer, (uint32_t)bytes->size, route, kind, vf_lane_take_seq(producer));
}

static void expect_run(const struct vf_run *run, uint32_t count, uint32_t invalid, uint64_t first) {
  CHECK_INT(run->count, count);
  CHECK_INT(run->invalid, invalid);
  CHECK_INT(run->first_seq, first);
}

static void test_drain_stops_where_a_run_ends(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_batch batch;
  struct vf_run run;
  struct bytes event = {0};
  uint64_t middle;

  lane_open(&producer, &reader);
  CHECK_INT(vf_batch_init(&batch, 5, 1000), VF_OK);
  for (int i = 1; i <= 3; i++) {
    pack_event(&event, i);
    put_bytes(&producer, &event, 1, VF_KIND_EVENT);
  }
  middle = producer.head;
  put_bytes(&producer, &event, 2, VF_KIND_EVENT);
  event.data[0] = 0xc1;
  put_bytes(&producer, &event, 1, VF_KIND_EVENT);
  pack_event(&event, 6);
  for (int i = 0; i < 3; i++) {
    put_bytes(&producer, &event, 1, VF_KIND_EVENT);
  }
  put_bytes(&producer, &event, 1, VF_KIND_REQUEST);

  CHECK_INT(vf_reader_drain(&reader, &batch, 1, 40, &run), VF_EMPTY);
  expect_run(&run, 1, 0, 1);
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, UINT64_MAX / 2, &run), VF_OTHER);
  expect_run(&run, 2, 0, 2);
  CHECK_INT(run.end, middle);
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, producer.head, &run), VF_OTHER);
  expect_run(&run, 0, 0, 0);
  CHECK_INT(vf_reader_drain(&reader, &batch, 2, producer.head, &run), VF_OTHER);
  expect_run(&run, 1, 0, 4);
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, producer.head, &run), VF_FULL);
  expect_run(&run, 1, 1, 5);
  vf_batch_clear(&batch);
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, producer.head, &run), VF_OTHER);
  expect_run(&run, 2, 0, 7);
  vf_batch_free(&batch);
  bytes_free(&event);
  lane_close(&producer, &reader);
}

static void test_a_run_has_every_sequence(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_batch batch;
  struct vf_run run;
  struct bytes event = {0};

  lane_open(&producer, &reader);
  CHECK_INT(vf_batch_init(&batch, 100, 1000), VF_OK);
  pack_event(&event, 1);
  for (int i = 0; i < 6; i++) {
    if (i == 4) {
      (void)vf_lane_take_seq(&producer);
    }
    put_bytes(&producer, &event, 1, VF_KIND_EVENT);
  }
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, producer.head, &run), VF_OTHER);
  expect_run(&run, 4, 0, 1);
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, producer.head, &run), VF_EMPTY);
  expect_run(&run, 2, 0, 6);
  CHECK_INT(vf_reader_rewind(&reader, 0), VF_OK);
  CHECK_INT(vf_reader_mark(&reader, 0, producer.head, 2, 3), 2);
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, producer.head, &run), VF_OTHER);
  expect_run(&run, 1, 0, 1);
  CHECK_INT(vf_reader_drain(&reader, &batch, 1, producer.head, &run), VF_OTHER);
  expect_run(&run, 1, 0, 4);
  vf_batch_free(&batch);
  bytes_free(&event);
  lane_close(&producer, &reader);
}

/* The check value is part of the layout: processes of two versions share a lane. Sizes of every
 * rest, and no byte outside them counts. */
static void test_check_values_stay(void) {
  uint8_t data[200];
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof data; i++) {
    data[i] = (uint8_t)(i * 37 + 11);
  }
  for (size_t size = 0; size <= sizeof data; size++) {
    uint8_t *exact = malloc(size > 0 ? size : 1);
    CHECK(exact != NULL);
    memcpy(exact, data, size);
    uint64_t alone = vf_check64(value + size, exact, size);
    value = vf_check64(value + size, data, size);
    CHECK(alone == value);
    free(exact);
  }
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  CHECK(value == UINT64_C(0xf1582092c65abf81));
#endif
}

int main(void) {
  test_begin();
  test_check_values_stay();
  test_a_record_comes_out_as_it_went_in();
  test_every_size_wraps();
  test_a_full_lane_gives_back_what_is_released();
  test_a_forgotten_reservation_leaves_nothing();
  test_room_is_what_a_publish_needs();
  test_marks_survive_the_reader();
  test_hands_never_pass_each_other();
  test_drain_stops_where_a_run_ends();
  test_a_run_has_every_sequence();
  test_end();
  return 0;
}
