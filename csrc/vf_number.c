/*
 * vf_number.c - integers two digits at a time, doubles by Schubfach.
 *
 * A double stands for every real number that rounds to it, an interval.  The
 * task is the shortest decimal inside.  Giulietti's Schubfach ("The Schubfach
 * way to render doubles", 2020) scales the interval by a power of ten so that it
 * is between 2 and 20 wide (in quarters); then only four integers can be the
 * answer: the two multiples of ten around the value, else the two integers
 * around it.  The hard case is comparing with the ends of the interval exactly:
 * the product with a 128-bit power of ten is cut off, but any bit lost is kept
 * as a sticky last bit ("round to odd"), which is enough for these comparisons.
 *
 * Most real values (12.5, 20.01, 3.0) never get there: a decimal of at most 15
 * digits that reads back as the double is the only one of its length, so it can
 * be guessed with ordinary arithmetic and verified by one exact division.
 */
#include "vf_number.h"

#include "vf_pow10.h"

#include <float.h>
#include <math.h>
#include <string.h>

_Static_assert(DBL_MANT_DIG == 53 && FLT_RADIX == 2, "doubles must be IEEE 754 binary64");

/* repr() turns to an exponent outside these decimal exponents. */
#define EXPONENT_MIN (-4)
#define EXPONENT_MAX 16

/* Fraction digits that the guess tries; each costs a multiplication and a division. */
#define GUESS_DIGITS 6

static const char pairs[] = "00010203040506070809101112131415161718192021222324"
                            "25262728293031323334353637383940414243444546474849"
                            "50515253545556575859606162636465666768697071727374"
                            "75767778798081828384858687888990919293949596979899";

static void write_pair(uint8_t *at, uint64_t value) {
  memcpy(at, pairs + 2 * value, 2);
}

static unsigned count_digits(uint64_t value) {
  unsigned digits = 1;
  for (;;) {
    if (value < 10) {
      return digits;
    }
    if (value < 100) {
      return digits + 1;
    }
    if (value < 1000) {
      return digits + 2;
    }
    if (value < 10000) {
      return digits + 3;
    }
    value /= 10000;
    digits += 4;
  }
}

/* Exactly `digits` digits, zeros in front if need be. */
static void write_digits(uint8_t *at, uint64_t value, unsigned digits) {
  while (digits >= 2) {
    digits -= 2;
    write_pair(at + digits, value % 100);
    value /= 100;
  }
  if (digits == 1) {
    *at = (uint8_t)('0' + value);
  }
}

/* The eight digits of a value below 10^8, the first one in the lowest byte, each
 * as its number.  Both halves, then all quarters, are divided at once; 10486 / 2^20
 * and 103 / 2^10 are close enough to 1/100 and 1/10 for numbers of that size. */
static uint64_t spread_digits(uint32_t value) {
  uint64_t halves = value / 10000 | (uint64_t)(value % 10000) << 32;
  uint64_t hundreds = (halves * 10486) >> 20 & UINT64_C(0x0000007f0000007f);
  uint64_t quarters = hundreds | (halves - 100 * hundreds) << 16;
  uint64_t tens = (quarters * 103) >> 10 & UINT64_C(0x000f000f000f000f);
  return tens | (quarters - 10 * tens) << 8;
}

static void store_digits(uint8_t *at, uint64_t digits) {
  digits |= UINT64_C(0x3030303030303030);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  digits = __builtin_bswap64(digits);
#endif
  memcpy(at, &digits, sizeof digits);
}

/* Branches, not a table of lengths: numbers in one place of many events mostly have as many
 * digits, and what is written behind them need not wait. */
static uint8_t *write_below_10_8(uint8_t *at, uint32_t value) {
  if (value < 10) {
    *at = (uint8_t)('0' + value);
    return at + 1;
  }
  if (value < 100) {
    write_pair(at, value);
    return at + 2;
  }
  if (value < 1000) {
    *at = (uint8_t)('0' + value / 100);
    write_pair(at + 1, value % 100);
    return at + 3;
  }
  if (value < 10000) {
    write_pair(at, value / 100);
    write_pair(at + 2, value % 100);
    return at + 4;
  }
  unsigned digits = value < 100000 ? 5 : value < 1000000 ? 6 : value < 10000000 ? 7 : 8;
  store_digits(at, spread_digits(value) >> (64 - 8 * digits));
  return at + digits;
}

uint8_t *vf_number_write_uint(uint8_t *at, uint64_t value) {
  if (value < 100000000) {
    return write_below_10_8(at, (uint32_t)value);
  }
  uint64_t high = value / 100000000;
  if (high < 100000000) {
    at = write_below_10_8(at, (uint32_t)high);
  } else {
    at = write_below_10_8(at, (uint32_t)(high / 100000000));
    store_digits(at, spread_digits((uint32_t)(high % 100000000)));
    at += 8;
  }
  store_digits(at, spread_digits((uint32_t)(value % 100000000)));
  return at + 8;
}

/* value * 10^exponent, digits without trailing zeros */
struct decimal {
  uint64_t digits;
  int exponent;
};

/* floor(log2(10^n)) and floor(log10(2^n)) in fixed point, and the latter for
 * 3/4 * 2^n; exact over the exponents of a double.  Arithmetic shifts of
 * negative numbers are what every compiler we build with does. */
static int floor_log2_pow10(int n) {
  return (n * 1741647) >> 19;
}

static int floor_log10_pow2(int n) {
  return (n * 1262611) >> 22;
}

static int floor_log10_three_quarters_pow2(int n) {
  return (n * 1262611 - 524031) >> 22;
}

/* High half of the 128-bit product; the low half goes to *low. */
static uint64_t multiply(uint64_t a, uint64_t b, uint64_t *low) {
  __extension__ typedef unsigned __int128 wide;
  wide product = (wide)a * b;
  *low = (uint64_t)product;
  return (uint64_t)(product >> 64);
}

/* The top 64 bits of factor * power (192 bits), last bit set if any other is:
 * the power is rounded up, which can disturb the lowest bit of the rest only. */
static uint64_t scale(const uint64_t power[2], uint64_t factor) {
  uint64_t low;
  uint64_t middle;
  uint64_t carry = multiply(power[1], factor, &low);
  uint64_t high = multiply(power[0], factor, &middle);
  middle += carry;
  high += middle < carry;
  return high | (middle > 1);
}

static struct decimal strip_zeros(uint64_t digits, int exponent) {
  while (digits % 100 == 0) {
    digits /= 100;
    exponent += 2;
  }
  if (digits % 10 == 0) {
    digits /= 10;
    exponent++;
  }
  return (struct decimal){digits, exponent};
}

/* `bits` of a positive finite double. */
static struct decimal shortest(uint64_t bits) {
  uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1);
  int biased = (int)(bits >> 52);
  uint64_t significand = biased == 0 ? fraction : fraction | UINT64_C(1) << 52;
  int binary = (biased == 0 ? 1 : biased) - 1075;

  /* All in quarters of the last place.  Below a power of two the neighbour is
   * half as far; an end of the interval belongs to it if the significand is even. */
  bool near_below = fraction == 0 && biased > 1;
  uint64_t open = significand & 1;
  int decimal = near_below ? floor_log10_three_quarters_pow2(binary) : floor_log10_pow2(binary);
  int shift = binary + floor_log2_pow10(-decimal) + 1;
  const uint64_t *power = vf_pow10[-decimal - VF_POW10_MIN];
  uint64_t middle = scale(power, (4 * significand) << shift);
  uint64_t lower = scale(power, (4 * significand - 2 + near_below) << shift) + open;
  uint64_t upper = scale(power, (4 * significand + 2) << shift) - open;

  uint64_t floor = middle / 4;
  if (floor >= 10) {
    uint64_t tens = floor / 10;
    bool below = lower <= 40 * tens;
    bool above = 40 * tens + 40 <= upper;
    if (below != above) {
      return strip_zeros(tens + above, decimal + 1);
    }
  }
  bool below = lower <= 4 * floor;
  bool above = 4 * floor + 4 <= upper;
  if (below != above) {
    return strip_zeros(floor + above, decimal);
  }
  uint64_t half = 4 * floor + 2;
  bool up = middle > half || (middle == half && (floor & 1) != 0);
  return strip_zeros(floor + up, decimal);
}

/* Tries value = digits / 10^n for small n.  Both are exact doubles, so their
 * quotient is rounded once, as reading the decimal would be; below 10^15 the
 * product is off by less than 1/4, so its nearest integer is the only candidate. */
static bool guess(double value, struct decimal *found) {
  if (value < 1e-6) {
    return false;
  }
  static const double powers[GUESS_DIGITS + 1] = {1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6};
  for (int n = 0; n <= GUESS_DIGITS; n++) {
    double scaled = value * powers[n];
    if (!(scaled < 1e15)) {
      return false;
    }
    uint64_t digits = (uint64_t)(scaled + 0.5);
    /* If it is the one, two roundings have moved it by less; the division takes longer than all
     * the rest. */
    if (fabs(scaled - (double)digits) > scaled * 0x1p-51) {
      continue;
    }
    if ((double)digits / powers[n] == value) {
      *found = (struct decimal){digits, -n};
      return true;
    }
  }
  return false;
}

static uint8_t *write_zeros(uint8_t *at, int count) {
  memset(at, '0', (size_t)count);
  return at + count;
}

static uint8_t *write_exponent(uint8_t *at, int exponent) {
  *at++ = 'e';
  *at++ = exponent < 0 ? '-' : '+';
  uint64_t size = (uint64_t)(exponent < 0 ? -exponent : exponent);
  if (size < 100) {
    write_pair(at, size);
    return at + 2;
  }
  return vf_number_write_uint(at, size);
}

static uint8_t *write_decimal(uint8_t *at, struct decimal decimal) {
  int digits = (int)count_digits(decimal.digits);
  int point = digits + decimal.exponent; /* the value is 0.DIGITS * 10^point */
  if (point - 1 < EXPONENT_MIN || point - 1 >= EXPONENT_MAX) {
    write_digits(at + 1, decimal.digits, (unsigned)digits);
    at[0] = at[1];
    if (digits == 1) {
      return write_exponent(at + 1, point - 1);
    }
    at[1] = '.';
    return write_exponent(at + 1 + digits, point - 1);
  }
  if (point <= 0) {
    *at++ = '0';
    *at++ = '.';
    at = write_zeros(at, -point);
    write_digits(at, decimal.digits, (unsigned)digits);
    return at + digits;
  }
  if (point >= digits) {
    write_digits(at, decimal.digits, (unsigned)digits);
    at = write_zeros(at + digits, point - digits);
    memcpy(at, ".0", 2);
    return at + 2;
  }
  write_digits(at + 1, decimal.digits, (unsigned)digits);
  memmove(at, at + 1, (size_t)point);
  at[point] = '.';
  return at + digits + 1;
}

uint8_t *vf_number_write_double(uint8_t *at, double value) {
  if (signbit(value)) {
    *at++ = '-';
    value = -value;
  }
  if (value == 0.0) {
    memcpy(at, "0.0", 3);
    return at + 3;
  }
  struct decimal decimal;
  if (!guess(value, &decimal)) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    decimal = shortest(bits);
  }
  return write_decimal(at, decimal);
}
