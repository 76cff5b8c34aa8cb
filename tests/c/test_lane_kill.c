/*
 * test_lane_kill.c - a producer dies in the middle of a publish.
 *
 * Four ways: at each named step of a publish (the lane is compiled into this
 * file with stop points); stopped after every single instruction, where what
 * the file holds is what a kill would leave; killed by SIGKILL at random
 * instructions; and stopped after every instruction while a new reader takes
 * over and releases all there is, after which the producer goes on.  In each, a
 * reader must see whole records only, all that was published, and at most the
 * one that was under way.
 */
#define VF_STOP_POINTS
#include "lane_test.h"

/* With the stop points above; the library's copy is then not linked. */
#include "vf_lane.c"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#ifdef __linux__
#include <sys/ptrace.h>
#endif

#define BEFORE 3u
#define KILL_POINTS_MIN 20000

static const char *stop_at;

void vf_stop_point(const char *name) {
  if (stop_at != NULL && strcmp(name, stop_at) == 0) {
    raise(SIGKILL);
  }
}

/* Puts head where `left` bytes remain before the end of the ring, and leaves that much free. */
static void bring_to(struct vf_producer *producer, uint64_t left, bool nearly_full) {
  struct vf_reader reader;
  struct vf_fault fault = {""};
  struct vf_view view;

  CHECK_INT(vf_reader_attach(&reader, lane_path, &fault), VF_OK);
  while (CAPACITY - (producer->head & (CAPACITY - 1)) != left) {
    CHECK_INT(lane_put(producer, 0), VF_OK);
    if (!nearly_full) {
      CHECK(lane_get(&reader, &view));
      CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
    }
  }
  vf_reader_close(&reader);
}

struct scene {
  struct vf_producer producer;
  struct vf_control *control;
  uint64_t seq;
  uint64_t rings; /* how often the doorbell has to be taken */
  uint32_t size;
};

static void scene_open(struct scene *scene, uint64_t left, bool nearly_full, uint32_t size,
                       bool sleeping) {
  struct vf_lane_header ident = lane_ident();

  (void)unlink(lane_path);
  CHECK_INT(vf_lane_create(&scene->producer, lane_path, CAPACITY, &ident), VF_OK);
  bring_to(&scene->producer, left, nearly_full);
  scene->seq = scene->producer.seq;
  scene->size = size;
  scene->rings = sleeping ? 1 : 0;
  vf_flag_store(&scene->control->sleeping, sleeping ? 1 : 0);
}

/* What the child does: publish, then look whether the aggregator sleeps. */
static void publish_some(struct scene *scene, int count) {
  for (int i = 0; i < count; i++) {
    if (lane_put(&scene->producer, scene->size) != VF_OK) {
      _exit(3);
    }
    if (vf_sleeping_take(&scene->control->sleeping)) {
      vf_number_add_own(&scene->producer.header->counters[17], 1);
    }
  }
}

/* How many records are there since the scene was opened, each of them whole. */
static uint64_t whole_records(const struct scene *scene) {
  struct vf_reader reader;
  struct vf_fault fault = {""};
  struct vf_view view;
  uint64_t seq = scene->seq;

  CHECK_INT(vf_reader_attach(&reader, lane_path, &fault), VF_OK);
  while (lane_get(&reader, &view)) {
    if (view.seq > scene->seq) {
      CHECK_INT(view.seq, ++seq);
      CHECK_INT(view.size, scene->size);
    }
  }
  CHECK_INT(reader.damaged, 0);
  vf_reader_close(&reader);
  return seq - scene->seq;
}

static void test_a_kill_at_each_named_step(void) {
  static const char *const steps[] = {"padding written", "payload written", "header without check",
                                      "record complete", "published"};
  struct scene scene;

  scene.control =
      mmap(NULL, VF_CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(scene.control != MAP_FAILED);
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
    for (uint64_t left = 32; left <= 128; left += 32) {
      int status;
      scene_open(&scene, left, false, 64, true);
      pid_t pid = fork();
      CHECK(pid >= 0);
      if (pid == 0) {
        publish_some(&scene, BEFORE);
        stop_at = steps[i];
        publish_some(&scene, 1);
        _exit(0);
      }
      CHECK_INT(waitpid(pid, &status, 0), pid);
      CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      CHECK_INT(whole_records(&scene), strcmp(steps[i], "published") == 0 ? BEFORE + 1 : BEFORE);
      vf_lane_close(&scene.producer);
    }
  }
  CHECK_INT(munmap(scene.control, VF_CONTROL_SIZE), 0);
}

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* A child that waits to be stepped through `count` publishes; 0: tracing is not allowed here. */
static pid_t start_traced(struct scene *scene, int count) {
  int status;
  pid_t pid = fork();

  CHECK(pid >= 0);
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
      _exit(4);
    }
    raise(SIGSTOP);
    publish_some(scene, count);
    _exit(0);
  }
  CHECK_INT(waitpid(pid, &status, 0), pid);
  return WIFSTOPPED(status) ? pid : 0;
}

/* One instruction; false when the child has ended. */
static bool step(pid_t pid) {
  int status;
  CHECK_INT(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
  CHECK_INT(waitpid(pid, &status, 0), pid);
  if (WIFEXITED(status)) {
    CHECK_INT(WEXITSTATUS(status), 0);
    return false;
  }
  CHECK(WIFSTOPPED(status));
  return true;
}

/* Steps through one publish and looks after each instruction. */
static long step_through(struct scene *scene) {
  long points = 0;
  uint64_t seen = 0;
  pid_t pid = start_traced(scene, 1);

  if (pid == 0) {
    return 0;
  }
  do {
    uint64_t now = whole_records(scene);
    CHECK(now == seen || now == seen + 1);
    CHECK(now <= 1);
    seen = now;
    points++;
  } while (step(pid));
  CHECK_INT(seen, 1);
  CHECK_INT(vf_number_load(&scene->producer.header->counters[17]), scene->rings);
  return points;
}

/* Steps to a random instruction of four publishes and kills there. */
static void kill_somewhere(struct scene *scene, uint64_t steps) {
  int status;
  pid_t pid = start_traced(scene, 4);

  for (uint64_t i = 0; i < steps; i++) {
    if (!step(pid)) {
      return;
    }
  }
  CHECK_INT(kill(pid, SIGKILL), 0);
  CHECK_INT(waitpid(pid, &status, 0), pid);
  CHECK(whole_records(scene) <= 4);
}

/* Bytes before the end of the ring: far from it, a gap below a header, padding, exact fit. */
static const uint64_t lefts[] = {32768, 32, 64, 4128};
static const uint32_t sizes[] = {1, 64, 4096};

#define LEFTS (sizeof lefts / sizeof *lefts)
#define SIZES (sizeof sizes / sizeof *sizes)
/* Whether the doorbell is needed changes nothing for the largest, whose steps take longest. */
#define SCENES (LEFTS * SIZES + LEFTS * (SIZES - 1))
#define SMALL_MAX 64u
#define LARGE_STRIDE 16

/*
 * Every size at every place, then the small ones with no doorbell needed; far
 * from the end of the ring the lane is nearly full, where that is asked for.
 */
static void scene_number(struct scene *scene, size_t number, bool may_be_full) {
  size_t place = number % LEFTS;
  scene_open(scene, lefts[place], may_be_full && place == 0, sizes[number / LEFTS % SIZES],
             number / (LEFTS * SIZES) == 0);
}

static void test_a_kill_at_every_instruction(void) {
  struct scene scene;
  long points = 0, kills = 0;
  uint64_t random = 7;

  scene.control =
      mmap(NULL, VF_CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(scene.control != MAP_FAILED);
  for (size_t i = 0; i < SCENES; i++) {
    scene_number(&scene, i, true);
    long found = step_through(&scene);
    vf_lane_close(&scene.producer);
    if (found == 0) {
      printf("  single steps: tracing is not allowed here, left out\n");
      break;
    }
    points += found;
    for (int k = 0; k < 4; k++) {
      scene_number(&scene, i, false);
      kill_somewhere(&scene, test_random(&random) % 3000);
      vf_lane_close(&scene.producer);
      kills++;
    }
  }
  CHECK(points == 0 || points >= KILL_POINTS_MIN);
  printf("  looked after each of %ld instructions; killed at %ld\n", points, kills);
  CHECK_INT(munmap(scene.control, VF_CONTROL_SIZE), 0);
}

/* A reader that takes over: reads on from the tail, releases all, and goes. */
static void recover(const struct scene *scene, uint64_t *seq) {
  struct vf_reader reader;
  struct vf_fault fault = {""};
  struct vf_view view;

  CHECK_INT(vf_reader_attach(&reader, lane_path, &fault), VF_OK);
  while (lane_get(&reader, &view)) {
    CHECK_INT(view.seq, *seq + 1);
    CHECK_INT(view.size, scene->size);
    *seq = view.seq;
  }
  CHECK_INT(reader.damaged, 0);
  CHECK_INT(vf_reader_release(&reader, reader.cursor), VF_OK);
  vf_reader_close(&reader);
}

static void test_a_recovery_while_the_producer_is_stopped(void) {
  struct scene scene;
  long points = 0;

  scene.control =
      mmap(NULL, VF_CONTROL_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(scene.control != MAP_FAILED);
  for (size_t i = 0; i < SCENES; i++) {
    scene_number(&scene, i, false);
    uint64_t seq = scene.seq;
    pid_t pid = start_traced(&scene, 2);
    if (pid == 0) {
      break;
    }
    long steps = 0;
    do {
      if (scene.size <= SMALL_MAX || steps % LARGE_STRIDE == 0) {
        recover(&scene, &seq);
        points++;
      }
      steps++;
    } while (step(pid));
    /* What was half written when its place was given up would show as a record that is not whole.
     */
    recover(&scene, &seq);
    CHECK_INT(seq, scene.seq + 2);
    vf_lane_close(&scene.producer);
  }
  printf("  recovered after %ld instructions of a producer that went on\n", points);
  CHECK_INT(munmap(scene.control, VF_CONTROL_SIZE), 0);
}

#else

static void test_a_kill_at_every_instruction(void) {
  printf("  single steps: only without sanitizers and on Linux, left out\n");
}

static void test_a_recovery_while_the_producer_is_stopped(void) {
}

#endif

int main(void) {
  test_begin();
  test_a_kill_at_each_named_step();
  test_a_kill_at_every_instruction();
  test_a_recovery_while_the_producer_is_stopped();
  test_end();
  return 0;
}
