/* ep_fixed.h - weighted rows as sums of integers, for the fused combine: adding integers is exact and has no order, so a
 * token's sum has the same bits wherever its experts are, and however many of them are together.
 *
 * A summand is w * x rounded to f32, then to a multiple of 2^-24. One that is not finite or beyond 2^27 makes its element a
 * marker, which stays in every sum that it enters and comes out as NaN. The error against the sum in k order is at most
 * k * 2^-25 and the rounding of the end. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EP_FIXED_BITS = 24 };

void ep_fixed_add_row(int64_t *sum, const float *row, float weight, int n); /* at most 256 rows of these make one sum */
void ep_fixed_add(int64_t *sum, const int64_t *part, int n);
void ep_fixed_add_narrow(int64_t *sum, const int32_t *part, int n);
/* Makes int32 of n sums in place when all of them fit; false, and nothing changed, when not. */
bool ep_fixed_narrow(void *sums, size_t n);
void ep_fixed_floats(float *out, const int64_t *sum, int n);
