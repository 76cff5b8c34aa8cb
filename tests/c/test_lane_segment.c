/*
 * test_lane_segment.c - what is mapped and what is refused; the control file; fork.
 */
#include "lane_test.h"
#include "vf_fork.h"

#include <sys/wait.h>

static void expect_fault(const char *path, int status, const char *text) {
  struct vf_reader reader;
  struct vf_fault fault = {""};
  CHECK_INT(vf_reader_attach(&reader, path, &fault), status);
  if (strstr(fault.text, text) == NULL) {
    fprintf(stderr, "expected \"%s\" in \"%s\"\n", text, fault.text);
    abort();
  }
}

static void write_file(size_t size) {
  int fd = open(lane_path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(fd >= 0);
  CHECK_INT(ftruncate(fd, (off_t)size), 0);
  CHECK_INT(close(fd), 0);
}

static void test_a_new_file_is_private_and_complete(void) {
  struct vf_producer producer, second;
  struct vf_lane_header ident = lane_ident();
  struct stat info;

  CHECK_INT(vf_lane_create(&producer, lane_path, CAPACITY, &ident), VF_OK);
  CHECK_INT(stat(lane_path, &info), 0);
  CHECK_INT(info.st_mode & 0777, 0600);
  CHECK_INT(info.st_size, VF_LANE_HEADER_SIZE + CAPACITY);
  CHECK(info.st_blocks * 512 >= info.st_size);
  CHECK_INT(vf_lane_create(&second, lane_path, CAPACITY, &ident), VF_SYSTEM);
  CHECK_INT(errno, EEXIST);
  vf_lane_close(&producer);
  CHECK_INT(unlink(lane_path), 0);
  CHECK_INT(vf_lane_create(&producer, lane_path, CAPACITY + 1, &ident), VF_INVALID);
  CHECK_INT(vf_lane_create(&producer, lane_path, CAPACITY / 2, &ident), VF_INVALID);
  CHECK_INT(vf_lane_create(&producer, "/nonexistent/lane", CAPACITY, &ident), VF_SYSTEM);
  CHECK_INT(errno, ENOENT);
}

static void test_what_is_no_lane_is_refused(void) {
  struct vf_producer producer;
  struct vf_lane_header ident = lane_ident();
  char link_path[sizeof lane_path + 8];

  expect_fault("/nonexistent/lane", VF_SYSTEM, "");
  expect_fault(folder, VF_INVALID, "not a regular file");
  write_file(100);
  expect_fault(lane_path, VF_INVALID, "100 bytes long");
  write_file(VF_LANE_HEADER_SIZE + CAPACITY);
  expect_fault(lane_path, VF_INVALID, "magic");
  CHECK_INT(unlink(lane_path), 0);
  CHECK_INT(mkfifo(lane_path, 0600), 0);
  expect_fault(lane_path, VF_INVALID, "regular");
  CHECK_INT(unlink(lane_path), 0);

  CHECK_INT(vf_lane_create(&producer, lane_path, CAPACITY, &ident), VF_OK);
  snprintf(link_path, sizeof link_path, "%s.link", lane_path);
  CHECK_INT(symlink(lane_path, link_path), 0);
  expect_fault(link_path, VF_INVALID, "not a regular file");
  CHECK_INT(unlink(link_path), 0);
  producer.header->version = VF_LAYOUT_VERSION + 1;
  expect_fault(lane_path, VF_VERSION, "layout version 2, this vwo_fast reads version 1");
  producer.header->version = VF_LAYOUT_VERSION;
  producer.header->capacity = CAPACITY * 2;
  expect_fault(lane_path, VF_INVALID, "header says");
  producer.header->capacity = CAPACITY;
  producer.header->header_size = 8;
  expect_fault(lane_path, VF_INVALID, "header says");
  producer.header->header_size = VF_LANE_HEADER_SIZE;
  vf_tail_release(&producer.header->tail, 8);
  expect_fault(lane_path, VF_INVALID, "cannot be true");
  vf_tail_release(&producer.header->tail, 0);
  vf_head_publish(&producer.header->head, CAPACITY + 8);
  expect_fault(lane_path, VF_INVALID, "cannot be true");
  vf_lane_close(&producer);
  CHECK_INT(unlink(lane_path), 0);
}

static void test_another_users_file_is_refused(void) {
  if (geteuid() != 0) {
    printf("  another user's file: only root can make one, left out\n");
    return;
  }
  write_file(VF_LANE_HEADER_SIZE + CAPACITY);
  CHECK_INT(chown(lane_path, 12345, 12345), 0);
  expect_fault(lane_path, VF_INVALID, "owned by user 12345");
  CHECK_INT(unlink(lane_path), 0);
}

static void test_the_control_file(void) {
  struct vf_control *control = NULL, *second = NULL;
  struct vf_fault fault = {""};

  CHECK_INT(vf_control_create(lane_path, 9, &control), VF_OK);
  CHECK_INT(vf_control_attach(lane_path, &second, &fault), VF_OK);
  CHECK_INT(second->created_ns, 9);
  CHECK(!vf_sleeping_take(&control->sleeping));
  vf_sleeping_set(&second->sleeping);
  CHECK(vf_sleeping_take(&control->sleeping));
  CHECK(!vf_sleeping_take(&control->sleeping));
  vf_dozing_set(&second->sleeping);
  CHECK(!vf_sleeping_take(&control->sleeping) && !vf_sleeping_load(&control->sleeping));
  CHECK(vf_dozing_load(&control->sleeping));
  CHECK(vf_dozing_take(&control->sleeping));
  CHECK(!vf_dozing_take(&control->sleeping) && !vf_dozing_load(&second->sleeping));
  CHECK(vf_control_claim_launch(control, 1000, 100));
  CHECK(!vf_control_claim_launch(second, 1050, 100));
  CHECK(vf_control_claim_launch(second, 1100, 100));
  CHECK(vf_control_claim_launch(second, 10, 100));
  vf_segment_unmap(second, VF_CONTROL_SIZE);
  control->version = 9;
  CHECK_INT(vf_control_attach(lane_path, &second, &fault), VF_VERSION);
  CHECK(strstr(fault.text, "version 9, this vwo_fast reads version 1") != NULL);
  control->version = VF_LAYOUT_VERSION;
  control->size = 1;
  CHECK_INT(vf_control_attach(lane_path, &second, &fault), VF_INVALID);
  vf_segment_unmap(control, VF_CONTROL_SIZE);
  CHECK_INT(unlink(lane_path), 0);
}

/* Ends with the status of a child that runs `depth` more generations. */
static int generation(uint64_t parent, int depth) {
  pid_t pid = fork();
  int status;

  CHECK(pid >= 0);
  if (pid == 0) {
    uint64_t id = vf_fork_id();
    if (id == 0 || id == parent || id != vf_fork_id()) {
      _exit(1);
    }
    _exit(depth > 0 ? generation(id, depth - 1) : 0);
  }
  CHECK_INT(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}

static void test_every_generation_has_a_number_of_its_own(void) {
  uint64_t id;

  vf_fork_init();
  id = vf_fork_id();
  CHECK(id != 0);
  vf_fork_init();
  CHECK_INT(vf_fork_id(), id);
  CHECK_INT(generation(id, 3), 0);
  CHECK_INT(generation(id, 0), 0);
  CHECK_INT(vf_fork_id(), id);
}

int main(void) {
  test_begin();
  test_a_new_file_is_private_and_complete();
  test_what_is_no_lane_is_refused();
  test_another_users_file_is_refused();
  test_the_control_file();
  test_every_generation_has_a_number_of_its_own();
  test_end();
  return 0;
}
