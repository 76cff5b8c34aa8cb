/*
 * vf_number.h - numbers as Python writes them, independent of any locale.
 */
#ifndef VF_NUMBER_H
#define VF_NUMBER_H

#include "vf_common.h"

/* More than any number here is long: "-2.2250738585072014e-308" has 24. */
#define VF_NUMBER_ROOM 32

/* Writes decimal digits at `at`, which has VF_NUMBER_ROOM bytes; returns the end.
 * @caller any */
uint8_t *vf_number_write_uint(uint8_t *at, uint64_t value);

/* The same for a finite double, byte for byte what Python's repr() gives: the
 * shortest decimal that reads back as the same double, and of those the closest.
 * @caller any */
uint8_t *vf_number_write_double(uint8_t *at, double value);

#endif /* VF_NUMBER_H */
