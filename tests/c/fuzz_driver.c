/*
 * fuzz_driver.c - runs a libFuzzer entry point where libFuzzer is not at hand.
 *
 *   fuzz_x FILE...                       each file once (a corpus, a crash)
 *   fuzz_x [--seconds N] [--seed S]      inputs of its own making
 *
 * Its inputs are msgpack grown at random and then damaged, so that most get
 * past the first byte.  A failing input is left in a file named after its seed.
 */
#include "test.h"

#include <signal.h>
#include <time.h>

#define INPUT_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes input;

static uint64_t below(uint64_t *state, uint64_t limit) {
  return test_random(state) % limit;
}

static void grow_string(uint64_t *state) {
  static const char *const pieces[] = {
      "u",   "d",    "visId",        "\"",           "\\",
      "\n",  "\x7f", "\xc3\xa9",     "\xe2\x82\xac", "\xf0\x9f\x98\x80",
      "abc", "\x80", "\xed\xa0\x80", "plain text"};
  char text[128];
  size_t size = 0;
  for (uint64_t count = below(state, 8); count > 0; count--) {
    const char *piece = pieces[below(state, sizeof pieces / sizeof *pieces)];
    memcpy(text + size, piece, strlen(piece));
    size += strlen(piece);
  }
  pack_str(&input, text, size);
}

static void grow_scalar(uint64_t *state) {
  uint64_t bits = test_random(state) >> below(state, 64);
  switch (below(state, 8)) {
  case 0:
    pack_byte(&input, (unsigned)(0xc0 + below(state, 4)));
    break;
  case 1:
    pack_tagged(&input, 0xcb, test_random(state), 8);
    break;
  case 2:
    pack_double(&input, (double)(bits % 100000) / 100);
    break;
  case 3:
    pack_tagged(&input, (unsigned)(0xcc + below(state, 4)), bits, 1u << below(state, 4));
    break;
  case 4:
    pack_tagged(&input, 0xd3, bits, 8);
    break;
  case 5:
    pack_tagged(&input, 0xc7, 0x0201, 2);
    pack_number(&input, 0x3130 + below(state, 5), 2);
    break;
  default:
    grow_string(state);
  }
}

/* `due` values one after the other; a container adds its own to those due. */
static void grow(uint64_t *state) {
  uint64_t due = 1 + below(state, 6);
  while (due > 0 && input.size < INPUT_MAX) {
    due--;
    uint64_t kind = below(state, 4);
    if (kind > 1) {
      grow_scalar(state);
      continue;
    }
    uint64_t count = below(state, 5);
    pack_byte(&input, (unsigned)((kind == 0 ? 0x80 : 0x90) | count));
    due += count * (kind == 0 ? 2 : 1);
  }
}

static void damage(uint64_t *state) {
  for (uint64_t count = below(state, 4); count > 0 && input.size > 0; count--) {
    uint8_t *byte = input.data + below(state, input.size);
    switch (below(state, 3)) {
    case 0:
      *byte = (uint8_t)test_random(state);
      break;
    case 1:
      *byte = (uint8_t)(*byte ^ 1u << below(state, 8));
      break;
    default:
      input.size = (size_t)(byte - input.data);
    }
  }
}

/* The input lies in memory of exactly its size, so that a read beyond it is seen. */
static void run(const uint8_t *data, size_t size) {
  uint8_t *exact = malloc(size > 0 ? size : 1);
  CHECK(exact != NULL);
  if (size > 0) {
    memcpy(exact, data, size);
  }
  (void)LLVMFuzzerTestOneInput(exact, size);
  free(exact);
}

static uint64_t current_seed;

static void save_input(int signal_number) {
  char name[64];
  snprintf(name, sizeof name, "crash-%llu", (unsigned long long)current_seed);
  FILE *file = fopen(name, "wb");
  if (file != NULL) {
    (void)fwrite(input.data, 1, input.size, file);
    (void)fclose(file);
    fprintf(stderr, "the failing input is in %s\n", name);
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

static void run_file(const char *path) {
  FILE *file = fopen(path, "rb");
  CHECK(file != NULL);
  uint8_t part[4096];
  size_t size;
  input.size = 0;
  while ((size = fread(part, 1, sizeof part, file)) > 0) {
    bytes_add(&input, part, size);
  }
  CHECK_INT(ferror(file), 0);
  fclose(file);
  run(input.data, input.size);
}

int main(int argc, char **argv) {
  long seconds = 3;
  uint64_t seed = 1;
  bool files = false;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
      seconds = strtol(argv[++i], NULL, 10);
    } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      seed = strtoull(argv[++i], NULL, 10);
    } else {
      run_file(argv[i]);
      files = true;
    }
  }
  if (files) {
    return 0;
  }
  signal(SIGABRT, save_input);
  signal(SIGSEGV, save_input);
  time_t end = time(NULL) + seconds;
  uint64_t runs = 0;
  do {
    for (int i = 0; i < 1000; i++, runs++) {
      current_seed = seed + runs;
      uint64_t state = current_seed;
      input.size = 0;
      grow(&state);
      damage(&state);
      run(input.data, input.size);
    }
  } while (time(NULL) < end);
  printf("%llu inputs\n", (unsigned long long)runs);
  bytes_free(&input);
  return 0;
}
