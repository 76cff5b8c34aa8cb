/* A file of any content and size in the place of a lane or of the control file: it is
 * refused with a reason that is text, or what it holds can be read to its end. */
#include "fuzz_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fd = -1;
static size_t file_size;
static struct vf_batch batch;
static const uint8_t zeros[4096];

static void prepare(void) {
  test_begin();
  fd = open(lane_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  CHECK_INT(vf_batch_init(&batch, 100, 40000), VF_OK);
}

static void check_fault(int status, const struct vf_fault *fault) {
  CHECK(status == VF_INVALID || status == VF_VERSION);
  size_t length = strnlen(fault->text, sizeof fault->text);
  CHECK(length > 0 && length < sizeof fault->text);
  for (size_t i = 0; i < length; i++) {
    CHECK(fault->text[i] >= ' ' && fault->text[i] <= '~');
  }
}

static void write_at(off_t offset, const void *data, size_t size) {
  CHECK_INT(pwrite(fd, data, size, offset), size);
}

/* A file of this size; what the input before has written into its beginning is gone. */
static void resize(size_t size) {
  if (size != file_size) {
    CHECK_INT(ftruncate(fd, 0), 0);
    CHECK_INT(ftruncate(fd, (off_t)size), 0);
    file_size = size;
    return;
  }
  for (size_t at = 0; at < size && at < 3 * sizeof zeros; at += sizeof zeros) {
    size_t left = size - at;
    write_at((off_t)at, zeros, left < sizeof zeros ? left : sizeof zeros);
  }
}

static void write_content(off_t offset, struct source *source) {
  size_t size = (size_t)(source->end - source->at);
  size_t most = 2 * sizeof zeros - 256;
  write_at(offset, source->at, size < most ? size : most);
  if ((size_t)offset + size > file_size) {
    file_size = 0;
  }
}

/* A header that is true but for what the input changes in it. */
static void write_header(struct source *source) {
  struct vf_lane_header header = lane_ident();
  uint8_t *bytes = (uint8_t *)&header;
  header.magic = VF_LANE_MAGIC;
  header.version = VF_LAYOUT_VERSION;
  header.header_size = VF_LANE_HEADER_SIZE;
  header.capacity = CAPACITY;
  vf_head_publish(&header.head, 8 * take(source, 2) % (CAPACITY + 8));
  for (uint64_t changes = take(source, 1) % 4; changes > 0; changes--) {
    uint64_t at = take(source, 1) * 2;
    if (at + 8 <= sizeof header) {
      uint64_t value = take(source, 8);
      memcpy(bytes + at, &value, sizeof value);
    }
  }
  write_at(0, &header, sizeof header);
}

static void attach_lane(struct source *source) {
  struct vf_reader reader;
  struct vf_fault fault = {""};
  int status = vf_reader_attach(&reader, lane_path, &fault);

  if (status != VF_OK) {
    check_fault(status, &fault);
    return;
  }
  vf_batch_clear(&batch);
  check_reader(&reader);
  for (int calls = 0; calls < 20; calls++) {
    call_reader(&reader, &batch, (unsigned)take(source, 1), source);
  }
  vf_reader_close(&reader);
}

static void attach_control(void) {
  struct vf_control *control = NULL;
  struct vf_fault fault = {""};
  int status = vf_control_attach(lane_path, &control, &fault);

  if (status != VF_OK) {
    check_fault(status, &fault);
    return;
  }
  CHECK_INT(control->size, VF_CONTROL_SIZE);
  vf_segment_unmap(control, VF_CONTROL_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const uint64_t control_words[] = {VF_CONTROL_MAGIC,
                                           VF_LAYOUT_VERSION | (uint64_t)VF_CONTROL_SIZE << 32};
  struct source source = {data, data + size};
  unsigned choice = (unsigned)take(&source, 1);
  bool is_lane = choice % 16 != 14;
  size_t length = is_lane ? VF_LANE_HEADER_SIZE + CAPACITY : VF_CONTROL_SIZE;

  if (fd < 0) {
    prepare();
  }
  resize(choice % 16 == 15 ? (size_t)take(&source, 3) : length);
  if (!is_lane) {
    write_at(0, control_words, sizeof control_words);
    write_content((off_t)take(&source, 1), &source);
    attach_control();
    return 0;
  }
  write_header(&source);
  write_content(VF_LANE_HEADER_SIZE, &source);
  attach_lane(&source);
  return 0;
}
