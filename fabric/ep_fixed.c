/* ep_fixed.c - see ep_fixed.h. The marker is the smallest integer, which no sum of summands reaches. */
#include "fabric/ep_fixed.h"

#include <math.h>
#include <string.h>

#define MARKER INT64_MIN
#define LIMIT 0x1p51            /* of a summand in units: 2^27 */
#define ROUNDER 0x1.8p52        /* adding it leaves the nearest even integer in the low bits */

static inline int64_t bits_of(double x) {
    int64_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}

void ep_fixed_add_row(int64_t *restrict sum, const float *restrict row, float weight, int n) {
    for (int i = 0; i < n; i++) {
        double units = (double)(weight * row[i]) * (1 << EP_FIXED_BITS);
        bool good = units <= LIMIT && units >= -LIMIT && sum[i] != MARKER; /* not of NaN */
        int64_t unit = bits_of((good ? units : 0) + ROUNDER) - bits_of(ROUNDER);
        sum[i] = good ? sum[i] + unit : MARKER;
    }
}

void ep_fixed_add(int64_t *restrict sum, const int64_t *restrict part, int n) {
    for (int i = 0; i < n; i++)
        sum[i] = sum[i] == MARKER || part[i] == MARKER ? MARKER : (int64_t)((uint64_t)sum[i] + (uint64_t)part[i]);
}

void ep_fixed_add_narrow(int64_t *restrict sum, const int32_t *restrict part, int n) {
    for (int i = 0; i < n; i++) sum[i] = sum[i] == MARKER ? MARKER : (int64_t)((uint64_t)sum[i] + (uint64_t)part[i]);
}

bool ep_fixed_narrow(void *sums, size_t n) {
    unsigned char *p = sums;
    int64_t all = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t v;
        memcpy(&v, p + i * sizeof v, sizeof v);
        all |= v ^ v >> 63; /* a magnitude, about */
    }
    if (all > INT32_MAX) return false;
    for (size_t i = 0; i < n; i++) {
        int64_t v;
        memcpy(&v, p + i * sizeof v, sizeof v);
        int32_t narrow = (int32_t)v;
        memcpy(p + i * sizeof narrow, &narrow, sizeof narrow);
    }
    return true;
}

void ep_fixed_floats(float *restrict out, const int64_t *restrict sum, int n) {
    for (int i = 0; i < n; i++) out[i] = sum[i] == MARKER ? NAN : (float)((double)sum[i] * 0x1p-24);
}
