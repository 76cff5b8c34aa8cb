/* JSON writing: every escape, number and limit; the same answer for size and text. */
#include "test.h"
#include "vf_json.h"

#include <math.h>

/* The text of one payload; size, writing and writing into exact room must agree. */
static int transcode(const struct bytes *payload, struct bytes *json) {
  size_t counted = 0;
  int rc = vf_json_size(payload->data, payload->size, &counted);
  size_t room = (rc == VF_OK ? counted : 6 * payload->size + 64) + VF_JSON_STEP;
  uint8_t *text = malloc(room);
  CHECK(text != NULL);
  size_t written = 0;
  CHECK_INT(vf_json_write_to(text, room, payload->data, payload->size, &written), rc);
  json->size = 0;
  if (rc == VF_OK) {
    CHECK_INT(written, counted);
    bytes_add(json, text, written);
  }
  free(text);
  return rc;
}

static void check_json(struct bytes payload, const char *expected) {
  struct bytes json = {0};
  CHECK_INT(transcode(&payload, &json), VF_OK);
  if (json.size != strlen(expected) || memcmp(json.data, expected, json.size) != 0) {
    fprintf(stderr, "got %.*s, not %s\n", (int)json.size, (char *)json.data, expected);
    abort();
  }
  bytes_free(&json);
  bytes_free(&payload);
}

static void check_refused(struct bytes payload, int status) {
  struct bytes json = {0};
  CHECK_INT(transcode(&payload, &json), status);
  bytes_free(&json);
  bytes_free(&payload);
}

static struct bytes str(const char *text, size_t size) {
  struct bytes bytes = {0};
  pack_str(&bytes, text, size);
  return bytes;
}

static struct bytes tagged(unsigned tag, uint64_t value, unsigned width) {
  struct bytes bytes = {0};
  pack_tagged(&bytes, tag, value, width);
  return bytes;
}

static struct bytes number(double value) {
  struct bytes bytes = {0};
  pack_double(&bytes, value);
  return bytes;
}

static struct bytes bigint(const char *digits) {
  struct bytes bytes = {0};
  pack_tagged(&bytes, 0xc8, strlen(digits), 2);
  pack_byte(&bytes, VF_EXT_BIGINT);
  bytes_add(&bytes, digits, strlen(digits));
  return bytes;
}

/* Each ASCII character at each place of a word, as itself or as its escape. */
static void test_ascii(void) {
  for (unsigned c = 0; c < 0x80; c++) {
    char escape[8];
    switch (c) {
    case '"':
      strcpy(escape, "\\\"");
      break;
    case '\\':
      strcpy(escape, "\\\\");
      break;
    case '\n':
      strcpy(escape, "\\n");
      break;
    case '\r':
      strcpy(escape, "\\r");
      break;
    case '\t':
      strcpy(escape, "\\t");
      break;
    case '\f':
      strcpy(escape, "\\f");
      break;
    case '\b':
      strcpy(escape, "\\b");
      break;
    default:
      snprintf(escape, sizeof escape, c < 0x20 || c == 0x7f ? "\\u%04x" : "%c", c);
    }
    for (unsigned place = 0; place < 20; place++) {
      for (unsigned after = 0; after < 10; after++) {
        char text[40];
        char expected[64];
        memset(text, 'a', place + 1 + after);
        text[place] = (char)c;
        int n = snprintf(expected, sizeof expected, "\"%.*s%s%.*s\"", (int)place,
                         "aaaaaaaaaaaaaaaaaaaaaaa", escape, (int)after, "aaaaaaaaaaaa");
        CHECK(n > 0 && n < (int)sizeof expected);
        check_json(str(text, place + 1 + after), expected);
      }
    }
  }
}

static void test_unicode(void) {
  check_json(str("\xc2\x80", 2), "\"\\u0080\"");
  check_json(str("\xdf\xbf", 2), "\"\\u07ff\"");
  check_json(str("\xe0\xa0\x80", 3), "\"\\u0800\"");
  check_json(str("\xef\xbf\xbf", 3), "\"\\uffff\"");
  check_json(str("\xf0\x90\x80\x80", 4), "\"\\ud800\\udc00\"");
  check_json(str("\xf0\x9f\x98\x80", 4), "\"\\ud83d\\ude00\"");
  check_json(str("\xf4\x8f\xbf\xbf", 4), "\"\\udbff\\udfff\"");
  check_json(str("\xed\xa0\x80", 3), "\"\\ud800\"");
  check_json(str("\xed\xbf\xbf", 3), "\"\\udfff\"");
  check_json(str("\xed\xa0\xbd\xed\xb8\x80", 6), "\"\\ud83d\\ude00\"");
}

static void test_invalid_utf8(void) {
  static const char *const wrong[] = {
      "\x80",
      "\xbf",
      "\xc0\x80",
      "\xc1\xbf",
      "\xc2",
      "\xc2\x41",
      "\xe0\x80\x80",
      "\xe0\x9f\xbf",
      "\xe1\x80",
      "\xe1\x80\x41",
      "\xf0\x80\x80\x80",
      "\xf0\x8f\xbf\xbf",
      "\xf1\x80\x80",
      "\xf4\x90\x80\x80",
      "\xf5\x80\x80\x80",
      "\xfe",
      "\xff",
      "\xf8\x88\x80\x80\x80",
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    for (size_t before = 0; before < 12; before++) {
      char text[32];
      memset(text, 'a', sizeof text);
      memcpy(text + before, wrong[i], strlen(wrong[i]));
      check_refused(str(text, before + strlen(wrong[i])), VF_INVALID);
      check_refused(str(text, before + strlen(wrong[i]) + 9), VF_INVALID);
    }
  }
}

static void test_integers(void) {
  char expected[32];
  uint64_t power = 1;
  for (int digits = 0; digits < 20; digits++, power *= 10) {
    for (uint64_t delta = 0; delta < 3; delta++) {
      uint64_t value = power - 1 + delta;
      snprintf(expected, sizeof expected, "%llu", (unsigned long long)value);
      check_json(tagged(0xcf, value, 8), expected);
      if (value > 0 && value <= (uint64_t)INT64_MAX) {
        snprintf(expected, sizeof expected, "-%llu", (unsigned long long)value);
        check_json(tagged(0xd3, ~value + 1, 8), expected);
      }
    }
  }
  check_json(tagged(0xcf, UINT64_MAX, 8), "18446744073709551615");
  check_json(tagged(0xd3, UINT64_C(1) << 63, 8), "-9223372036854775808");
  check_json(tagged(0xd0, 0x80, 1), "-128");
}

static void test_bigints(void) {
  check_json(bigint("18446744073709551616"), "18446744073709551616");
  check_json(bigint("-9223372036854775809"), "-9223372036854775809");
  check_json(bigint("0"), "0");
  char long_digits[5001];
  memset(long_digits, '7', 5000);
  long_digits[5000] = 0;
  check_json(bigint(long_digits), long_digits);
  static const char *const wrong[] = {"",   "-",   "-0",  "00", "01",  "-01", "+1",
                                      "1-", "1e5", "1.0", " 1", "0x1", "--1", "1\n"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    check_refused(bigint(wrong[i]), VF_INVALID);
  }
}

static void test_doubles(void) {
  check_json(number(0.0), "0.0");
  check_json(number(-0.0), "-0.0");
  check_json(number(1.0), "1.0");
  check_json(number(-12.5), "-12.5");
  check_json(number(20.01), "20.01");
  check_json(number(0.1 + 0.2), "0.30000000000000004");
  check_json(number(0.0001), "0.0001");
  check_json(number(0.00001), "1e-05");
  check_json(number(1e-7), "1e-07");
  check_json(number(1e15), "1000000000000000.0");
  check_json(number(9999999999999998.0), "9999999999999998.0");
  check_json(number(1e16), "1e+16");
  check_json(number(1e22), "1e+22");
  check_json(number(1e23), "1e+23");
  check_json(number(1.5e100), "1.5e+100");
  check_json(number(5e-324), "5e-324");
  check_json(number(2.2250738585072014e-308), "2.2250738585072014e-308");
  check_json(number(1.7976931348623157e308), "1.7976931348623157e+308");
  check_json(tagged(0xca, 0x3dcccccdu, 4), "0.10000000149011612");
  check_refused(number((double)NAN), VF_INVALID);
  check_refused(number((double)INFINITY), VF_INVALID);
  check_refused(number(-(double)INFINITY), VF_INVALID);
  check_refused(tagged(0xca, 0x7f800000u, 4), VF_INVALID);
}

/* Every printed double reads back as itself. */
static void test_doubles_round_trip(void) {
  uint64_t state = 7;
  for (int i = 0; i < 20000; i++) {
    uint64_t bits = test_random(&state);
    double value;
    memcpy(&value, &bits, sizeof value);
    if (!isfinite(value)) {
      continue;
    }
    struct bytes payload = number(value);
    struct bytes json = {0};
    CHECK_INT(transcode(&payload, &json), VF_OK);
    bytes_add(&json, "", 1);
    double back = strtod((const char *)json.data, NULL);
    CHECK(memcmp(&back, &value, sizeof value) == 0);
    bytes_free(&json);
    bytes_free(&payload);
  }
}

static struct bytes sample(void) {
  struct bytes bytes = {0};
  pack_byte(&bytes, 0x85);
  pack_text(&bytes, "a");
  pack_byte(&bytes, 0x93);
  pack_byte(&bytes, 0xc0);
  pack_byte(&bytes, 0xc2);
  pack_byte(&bytes, 0xc3);
  pack_text(&bytes, "b");
  pack_byte(&bytes, 0x80);
  pack_text(&bytes, "c");
  pack_byte(&bytes, 0x90);
  pack_text(&bytes, "d");
  pack_byte(&bytes, 0x81);
  pack_text(&bytes, "e");
  pack_byte(&bytes, 0x91);
  pack_text(&bytes, "a somewhat longer string \xe2\x82\xac of more than 32 bytes");
  pack_text(&bytes, "");
  pack_double(&bytes, 1.5);
  return bytes;
}

static void test_structure(void) {
  check_json(sample(),
             "{\"a\":[null,false,true],\"b\":{},\"c\":[],\"d\":{\"e\":[\"a somewhat longer "
             "string \\u20ac of more than 32 bytes\"]},\"\":1.5}");
}

/* A payload cut at any byte, or with a byte too many, is refused. */
static void test_truncated(void) {
  struct bytes whole = sample();
  for (size_t size = 0; size < whole.size; size++) {
    uint8_t *exact = malloc(size > 0 ? size : 1);
    CHECK(exact != NULL);
    memcpy(exact, whole.data, size);
    size_t json_size;
    CHECK_INT(vf_json_size(exact, size, &json_size), VF_INVALID);
    free(exact);
  }
  pack_byte(&whole, 0xc0);
  check_refused(whole, VF_INVALID);
}

static void test_refused_values(void) {
  check_refused((struct bytes){0}, VF_INVALID);
  check_refused(tagged(0xc1, 0, 0), VF_INVALID);
  check_refused(tagged(0xc4, 0x0141, 2), VF_INVALID);   /* bytes */
  check_refused(tagged(0xd4, 0x0241, 2), VF_INVALID);   /* another extension */
  check_refused(tagged(0xd6, 0xff, 5), VF_INVALID);     /* a timestamp */
  check_refused(tagged(0x81, 0x0101, 2), VF_INVALID);   /* a key that is a number */
  check_refused(tagged(0x81, 0xc001, 2), VF_INVALID);   /* a key that is nil */
  check_refused(tagged(0x81, 0x9001, 2), VF_INVALID);   /* a key that is an array */
  check_refused(tagged(0x81, 0xc40001, 3), VF_INVALID); /* a key that is bytes */
  check_refused(tagged(0x82, 0xa10101, 3), VF_INVALID); /* a pair too few */
  check_refused(tagged(0x92, 0x01, 1), VF_INVALID);     /* an element too few */
  check_refused(tagged(0x91, 0x0101, 2), VF_INVALID);   /* an element too many */
  check_refused(tagged(0xdd, 0xffffffffu, 4), VF_INVALID);
  check_refused(tagged(0xdf, 0xffffffffu, 4), VF_INVALID);
}

static struct bytes nested(unsigned tag, size_t depth) {
  struct bytes bytes = {0};
  for (size_t i = 0; i + 1 < depth; i++) {
    pack_byte(&bytes, tag | 1);
    if (tag == 0x80) {
      pack_text(&bytes, "k");
    }
  }
  pack_byte(&bytes, tag);
  return bytes;
}

/* 128 containers inside each other are written, 129 are not, and a million cost no stack. */
static void test_depth(void) {
  for (unsigned tag = 0x80; tag <= 0x90; tag += 0x10) {
    struct bytes payload = nested(tag, VF_DEPTH_MAX);
    struct bytes json = {0};
    CHECK_INT(transcode(&payload, &json), VF_OK);
    CHECK_INT(json.size,
              tag == 0x90 ? 2 * VF_DEPTH_MAX : 2 * VF_DEPTH_MAX + 4 * (VF_DEPTH_MAX - 1));
    bytes_free(&json);
    bytes_free(&payload);
    check_refused(nested(tag, VF_DEPTH_MAX + 1), VF_DEPTH);
    check_refused(nested(tag, 1000000), VF_DEPTH);
  }
}

/* Two quotes at all places of a long string, and how far apart: many bytes are looked at together.
 */
static void test_long_strings(void) {
  static const size_t distances[] = {1, 8, 15, 16, 17, 48, 63, 64, 65, 80, 128};
  char text[400];
  char expected[sizeof text + 8];
  for (size_t size = 300; size < 300 + 64; size += 9) {
    for (size_t first = 0; first < 200; first++) {
      size_t second = first + distances[first % (sizeof distances / sizeof *distances)];
      size_t at = 0;
      expected[at++] = '"';
      for (size_t i = 0; i < size; i++) {
        bool is_quote = i == first || (i == second && second < size);
        text[i] = is_quote ? '"' : (char)('a' + i % 26);
        if (is_quote) {
          expected[at++] = '\\';
        }
        expected[at++] = text[i];
      }
      expected[at++] = '"';
      expected[at] = '\0';
      check_json(str(text, size), expected);
    }
  }
}

/* Too little room is told, and nothing is written beyond it (AddressSanitizer looks). */
static void check_room(char filler, size_t filler_size) {
  struct bytes payload = {0};
  pack_byte(&payload, 0x92);
  char text[3000];
  memset(text, filler, sizeof text);
  pack_str(&payload, text, sizeof text);
  pack_double(&payload, 0.1);
  size_t size;
  CHECK_INT(vf_json_size(payload.data, payload.size, &size), VF_OK);
  CHECK_INT(size, 2 + 2 + filler_size * sizeof text + 1 + 3);
  for (size_t room = 0; room < size + VF_JSON_STEP; room += 37) {
    uint8_t *json = malloc(room > 0 ? room : 1);
    CHECK(json != NULL);
    size_t written;
    int rc = vf_json_write_to(json, room, payload.data, payload.size, &written);
    CHECK(rc == VF_FULL || (rc == VF_OK && written == size));
    free(json);
  }
  bytes_free(&payload);
}

static void test_room(void) {
  check_room('\x01', 6);
  check_room('a', 1);
}

int main(void) {
  test_ascii();
  test_long_strings();
  test_unicode();
  test_invalid_utf8();
  test_integers();
  test_bigints();
  test_doubles();
  test_doubles_round_trip();
  test_structure();
  test_truncated();
  test_refused_values();
  test_depth();
  test_room();
  return 0;
}
