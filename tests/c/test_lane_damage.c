/*
 * test_lane_damage.c - what lies in the ring or the header is not what was written.
 */
#include "lane_test.h"

static uint8_t image[VF_LANE_HEADER_SIZE + CAPACITY];

static void fill(struct vf_producer *producer, uint32_t size) {
  while (lane_put(producer, size) == VF_OK) {
  }
}

static void test_any_flipped_bit_costs_one_record(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  const uint64_t records = 40;
  const uint32_t size = 100;
  uint64_t bits = vf_record_span(size) * 8;

  lane_open(&producer, &reader);
  for (uint64_t i = 0; i < records; i++) {
    CHECK_INT(lane_put(&producer, size), VF_OK);
  }
  for (uint64_t bit = 0; bit < bits; bit++) {
    uint64_t damaged = 1 + bit % (records - 2), got = 0, seq = 0;
    uint64_t at = (damaged * vf_record_span(size)) + bit / 8;
    struct vf_reader fresh = reader;

    /* Nothing certifies the reserved word, the state and what fills up the last eight bytes. */
    if ((bit / 8 >= 26 && bit / 8 < 32) || bit / 8 >= VF_RECORD_HEADER_SIZE + size) {
      continue;
    }
    producer.ring[at] ^= (uint8_t)(1u << bit % 8);
    while (lane_get(&fresh, &view)) {
      CHECK(view.seq > seq);
      CHECK(view.seq != damaged + 1);
      seq = view.seq;
      got++;
    }
    CHECK_INT(got, records - 1);
    CHECK_INT(fresh.damaged, 1);
    CHECK_INT(fresh.cursor, producer.head);
    producer.ring[at] ^= (uint8_t)(1u << bit % 8);
  }
  lane_close(&producer, &reader);
}

static void test_damage_is_counted_once_and_by_sequence(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint64_t got = 0;

  lane_open(&producer, &reader);
  for (int i = 0; i < 20; i++) {
    CHECK_INT(lane_put(&producer, 64), VF_OK);
  }
  memset(producer.ring + 5 * vf_record_span(64), 0xa5, 4 * vf_record_span(64));
  while (lane_get(&reader, &view)) {
    got++;
  }
  CHECK_INT(got, 16);
  CHECK_INT(reader.damaged, 4);
  CHECK_INT(vf_reader_rewind(&reader, 0), VF_OK);
  while (lane_get(&reader, &view)) {
  }
  CHECK_INT(reader.damaged, 4);
  CHECK_INT(vf_reader_mark(&reader, 0, producer.head, 1, UINT64_MAX), 16);
  memset(producer.ring + 19 * vf_record_span(64), 0xa5, 64);
  CHECK_INT(vf_reader_mark(&reader, 0, producer.head, 1, UINT64_MAX), 15);
  lane_close(&producer, &reader);
}

/* A quick look finds what lies at the cursor; where a search is needed it says so and changes
 * nothing. */
static void test_a_quick_look_does_not_search(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;

  lane_open(&producer, &reader);
  CHECK_INT(vf_reader_peek_quick(&reader, &view, NULL, 0), VF_EMPTY);
  for (int i = 0; i < 4; i++) {
    CHECK_INT(lane_put(&producer, 64), VF_OK);
  }
  memset(producer.ring + vf_record_span(64), 0xa5, 2 * vf_record_span(64));
  CHECK_INT(vf_reader_peek_quick(&reader, &view, NULL, 0), VF_OK);
  CHECK_INT(view.seq, 1);
  vf_reader_advance(&reader, &view);
  for (int i = 0; i < 2; i++) {
    CHECK_INT(vf_reader_peek_quick(&reader, &view, NULL, 0), VF_OTHER);
    CHECK_INT(reader.cursor, vf_record_span(64));
    CHECK_INT(reader.damaged, 0);
  }
  CHECK_INT(vf_reader_peek(&reader, &view), VF_OK);
  CHECK_INT(vf_reader_peek_quick(&reader, &view, NULL, 0), VF_OK);
  CHECK_INT(view.seq, 4);
  CHECK_INT(reader.damaged, 2);
  lane_close(&producer, &reader);
}

static void damage(struct vf_producer *producer, uint64_t index, uint64_t count) {
  uint64_t span = vf_record_span(64);
  memset(producer->ring + index * span, 0xa5, count * span);
}

static void read_to_end(struct vf_reader *reader) {
  struct vf_view view;

  while (lane_get(reader, &view)) {
  }
}

static void test_damage_that_head_cuts_off_is_completed(void) {
  struct vf_producer producer;
  struct vf_reader reader;

  lane_open(&producer, &reader);
  for (int i = 0; i < 5; i++) {
    CHECK_INT(lane_put(&producer, 64), VF_OK);
  }
  damage(&producer, 2, 3);
  read_to_end(&reader);
  CHECK_INT(reader.damaged, 1);
  CHECK_INT(lane_put(&producer, 64), VF_OK);
  damage(&producer, 5, 1);
  read_to_end(&reader);
  CHECK_INT(reader.damaged, 2);
  /* The sequence of the next one tells how many it were in all. */
  CHECK_INT(lane_put(&producer, 64), VF_OK);
  read_to_end(&reader);
  CHECK_INT(reader.damaged, 4);
  CHECK_INT(reader.passed, 7);
  lane_close(&producer, &reader);
}

/* Ends a reader, as a kill would, after it has noted what it counted, and attaches the next. */
static uint64_t follow(struct vf_reader *reader) {
  struct vf_fault fault = {""};
  uint64_t damaged = reader->damaged;

  if (damaged > 0) {
    vf_reader_note_damage(reader, reader->damaged_to,
                          reader->damaged_known ? reader->damaged_passed : UINT64_MAX);
  }
  vf_reader_close(reader);
  CHECK_INT(vf_reader_attach(reader, lane_path, &fault), VF_OK);
  return damaged;
}

static void test_a_later_reader_counts_no_damage_again(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint64_t random = 11, records = 60;

  for (int round = 0; round < 2000; round++) {
    uint64_t lost = 0, counted = 0, spoiled = 0;

    lane_open(&producer, &reader);
    for (uint64_t made = 0; made < records; made++) {
      CHECK_INT(lane_put(&producer, 64), VF_OK);
      /* Now and then a run of damage; the first record and the last are whole. */
      if (spoiled == 0 && test_random(&random) % 8 == 0) {
        spoiled = 1 + test_random(&random) % 4;
      }
      if (spoiled > 0 && made > 0 && made + 1 < records) {
        damage(&producer, made, 1);
        spoiled--;
        lost++;
      }
      if (test_random(&random) % 4 == 0) {
        for (uint64_t steps = test_random(&random) % 16; steps > 0 && lane_get(&reader, &view);
             steps--) {
        }
      }
      if (test_random(&random) % 8 == 0) {
        counted += follow(&reader);
      }
    }
    read_to_end(&reader);
    CHECK_INT(counted + reader.damaged, lost);
    CHECK_INT(reader.passed, records);
    CHECK(reader.passed_known);
    lane_close(&producer, &reader);
  }
}

static void test_a_note_of_damage_that_cannot_be_true_is_passed_over(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  const uint64_t positions[] = {4, 96 * 20, UINT64_MAX, UINT64_MAX - 7, CAPACITY};

  for (size_t i = 0; i < sizeof positions / sizeof *positions; i++) {
    lane_open(&producer, &reader);
    for (int k = 0; k < 10; k++) {
      CHECK_INT(lane_put(&producer, 64), VF_OK);
    }
    damage(&producer, 4, 2);
    vf_reader_note_damage(&reader, positions[i], 3);
    CHECK_INT(follow(&reader), 0);
    read_to_end(&reader);
    CHECK_INT(reader.damaged, 2);
    CHECK_INT(reader.passed, 10);
    lane_close(&producer, &reader);
  }
}

static void test_an_older_lap_and_a_forged_record_do_not_certify(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  uint64_t start;
  uint8_t *payload;

  lane_open(&producer, &reader);
  fill(&producer, 64);
  while (lane_get(&reader, &view)) {
  }
  CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
  CHECK_INT(lane_put(&producer, 64), VF_OK);
  CHECK(lane_get(&reader, &view));
  /* A record that was true one lap ago stands where the new one begins. */
  start = producer.head;
  memcpy(image, vf_record_at(producer.ring, CAPACITY, start), vf_record_span(64));
  CHECK_INT(lane_put(&producer, 64), VF_OK);
  CHECK_INT(lane_put(&producer, 64), VF_OK);
  memcpy(vf_record_at(producer.ring, CAPACITY, start), image, vf_record_span(64));
  CHECK(lane_get(&reader, &view));
  CHECK_INT(view.start, start + vf_record_span(64));
  /* A payload holds what would be a record of a lane whose id is not known. */
  start = producer.head;
  CHECK_INT(vf_lane_reserve(&producer, 200, &payload), VF_OK);
  struct vf_record forged = {.size = 8, .seq = producer.seq + 2, .kind = VF_KIND_EVENT};
  forged.check = vf_record_check(0, start + 64, 8, VF_KIND_EVENT, forged.seq, 0, payload + 64);
  memcpy(payload + 32, &forged, sizeof forged);
  vf_lane_publish(&producer, 200, ROUTE, VF_KIND_EVENT, vf_lane_take_seq(&producer));
  vf_record_at(producer.ring, CAPACITY, start)->size++;
  CHECK(!lane_get(&reader, &view));
  CHECK_INT(reader.damaged, 2);
  lane_close(&producer, &reader);
}

static void test_heads_that_cannot_be_true_are_refused(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;
  const uint64_t heads[] = {
      1, 40 + 4, CAPACITY + 8, UINT64_MAX, UINT64_MAX - 7, 32, CAPACITY + 40, 0, UINT64_C(1) << 63};
  uint64_t head;

  lane_open(&producer, &reader);
  CHECK_INT(lane_put(&producer, 8), VF_OK);
  CHECK(lane_get(&reader, &view));
  for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
    vf_head_publish(&producer.header->head, heads[i]);
    CHECK_INT(vf_reader_head(&reader, &head), VF_INVALID);
    CHECK_INT(vf_reader_peek(&reader, &view), VF_INVALID);
    CHECK_INT(vf_reader_mark(&reader, 0, 40, 1, 9), VF_INVALID);
  }
  vf_head_publish(&producer.header->head, CAPACITY);
  CHECK_INT(vf_reader_peek(&reader, &view), VF_EMPTY);
  CHECK_INT(reader.damaged, 1);
  lane_close(&producer, &reader);
}

static void test_a_tail_that_cannot_be_true_frees_nothing(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  const uint64_t tails[] = {1, CAPACITY + 8, UINT64_MAX, UINT64_MAX - 7, CAPACITY * 2};

  lane_open(&producer, &reader);
  fill(&producer, 100);
  for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
    vf_tail_release(&producer.header->tail, tails[i]);
    CHECK_INT(lane_put(&producer, 100), VF_FULL);
  }
  lane_close(&producer, &reader);
}

static void test_a_ring_made_of_large_records_is_given_up(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  struct vf_view view;

  lane_open(&producer, &reader);
  for (uint64_t at = 0; at + 32 <= CAPACITY; at += 8) {
    struct vf_record *record = vf_record_at(producer.ring, CAPACITY, at);
    record->size = at % 16 == 0 ? CAPACITY / 4 : VF_KIND_EVENT;
    record->check = VF_KIND_EVENT;
  }
  vf_head_publish(&producer.header->head, CAPACITY);
  CHECK_INT(vf_reader_peek(&reader, &view), VF_EMPTY);
  CHECK_INT(reader.cursor, CAPACITY);
  CHECK(reader.scanned <= 17 * CAPACITY);
  lane_close(&producer, &reader);
}

static void read_all(struct vf_reader *reader) {
  struct vf_view view;
  uint64_t head, looks = 0;
  uint8_t sum = 0;

  while (vf_reader_peek(reader, &view) == VF_OK) {
    CHECK(view.payload >= reader->ring);
    CHECK(view.payload + view.size <= reader->ring + reader->capacity);
    for (uint32_t i = 0; i < view.size; i++) {
      sum ^= view.payload[i];
    }
    vf_reader_advance(reader, &view);
    CHECK(++looks <= CAPACITY / VF_RECORD_HEADER_SIZE);
  }
  if (vf_reader_head(reader, &head) == VF_OK) {
    CHECK_INT(reader->cursor, head);
    CHECK(vf_reader_mark(reader, reader->tail, head, 1, UINT64_MAX) >= 0);
  }
  image[0] = sum;
}

/* Scribbles over a lane; what certifies itself afterwards may do so. */
static void scribble(struct vf_producer *producer, uint64_t *random, int rounds) {
  for (int i = 0; i < rounds; i++) {
    uint64_t at = test_random(random) % (CAPACITY / 8) * 8;
    uint64_t *word = (uint64_t *)(void *)(producer->ring + at);
    switch (test_random(random) % 4) {
    case 0:
      *word = test_random(random);
      break;
    case 1:
      *word = test_random(random) % CAPACITY;
      break;
    case 2:
      *word ^= UINT64_C(1) << test_random(random) % 64;
      break;
    default:
      memmove(producer->ring + at, producer->ring + test_random(random) % (CAPACITY - 512),
              at + 512 <= CAPACITY ? 512 : 8);
    }
  }
}

static void test_random_damage_never_leads_astray(void) {
  struct vf_producer producer;
  struct vf_reader reader;
  uint64_t random = 3;

  for (int round = 0; round < 300; round++) {
    lane_open(&producer, &reader);
    while (lane_put(&producer, (uint32_t)(test_random(&random) % 700)) == VF_OK) {
    }
    scribble(&producer, &random, 1 << (round % 10));
    read_all(&reader);
    lane_close(&producer, &reader);
  }
}

static void test_a_lane_put_aside_tells_what_was_read_of_it(void) {
  struct vf_producer producer;
  struct vf_reader reader, later;
  struct vf_view view;
  struct vf_fault fault = {""};

  lane_open(&producer, &reader);
  for (int i = 0; i < 10; i++) {
    CHECK_INT(lane_put(&producer, 64), VF_OK);
  }
  for (int i = 0; i < 6; i++) {
    CHECK(lane_get(&reader, &view));
    if (i == 2) {
      vf_reader_note_passed(&reader, reader.cursor, reader.passed);
      CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
    }
  }
  CHECK_INT(vf_reader_attach_aside(&later, lane_path, &fault), VF_OK);
  CHECK(later.passed_known);
  CHECK_INT(later.passed, 3);
  vf_reader_close(&later);
  vf_reader_abandon(&reader);
  /* Whatever else of the header is overwritten, and when its producer has claimed the rest. */
  memset(producer.header, 0xa5, offsetof(struct vf_lane_header, tail));
  CHECK_INT(vf_reader_attach(&later, lane_path, &fault), VF_INVALID);
  CHECK_INT(vf_reader_attach_aside(&later, lane_path, &fault), VF_OK);
  CHECK(later.passed_known);
  CHECK_INT(later.passed, 6);
  CHECK_INT(later.cursor, reader.cursor);
  vf_reader_close(&later);
  vf_number_store(&producer.header->abandoned, VF_ABANDONED_CLAIMED);
  CHECK_INT(vf_reader_attach_aside(&later, lane_path, &fault), VF_OK);
  CHECK(!later.passed_known);
  vf_reader_close(&later);
  /* What has not the size of a lane is none. */
  CHECK_INT(truncate(lane_path, VF_LANE_HEADER_SIZE + 12345), 0);
  CHECK_INT(vf_reader_attach_aside(&later, lane_path, &fault), VF_INVALID);
  lane_close(&producer, &reader);
}

int main(void) {
  test_begin();
  test_any_flipped_bit_costs_one_record();
  test_damage_is_counted_once_and_by_sequence();
  test_a_quick_look_does_not_search();
  test_damage_that_head_cuts_off_is_completed();
  test_a_later_reader_counts_no_damage_again();
  test_a_note_of_damage_that_cannot_be_true_is_passed_over();
  test_a_lane_put_aside_tells_what_was_read_of_it();
  test_an_older_lap_and_a_forged_record_do_not_certify();
  test_heads_that_cannot_be_true_are_refused();
  test_a_tail_that_cannot_be_true_frees_nothing();
  test_a_ring_made_of_large_records_is_given_up();
  test_random_damage_never_leads_astray();
  test_end();
  return 0;
}
