/* vec_quantise.c - numbers rounded to int8: activations in groups, as kernels/quant.h has it, and keys and values. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

/* The largest bit pattern of |x|: that of the largest number, or of what is none. */
INLINE uint32_t most_bits(const float *x, int n) {
    uint32_t most = 0;
    for (int k = 0; k < n; k++) {
        uint32_t bits;
        memcpy(&bits, x + k, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most;
}

INLINE int32_t round_to(int8_t *q, const float *x, float inverse, int n) {
    int32_t sum = 0;
    for (int k = 0; k < n; k++) {
        /* Adding 1.5 * 2^23 rounds to the nearest integer, halves to even, and leaves it in the low bits. */
        float shifted = x[k] * inverse + 12582912.0f;
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        bits -= 0x4b400000;
        q[k] = (int8_t)bits;
        sum += bits;
    }
    return sum;
}

INLINE void one_group(int8_t *q, struct quant_group *group, const float *x, int n) {
    const uint32_t bits = most_bits(x, n);
    float most;
    memcpy(&most, &bits, sizeof most);
    const bool finite = bits < 0x7f800000;
    *group = (struct quant_group){.scale = finite ? 0 : NAN};
    if (!finite || most < QUANT_LEAST) {
        memset(q, 0, QUANT_GROUP);
        return;
    }
    const int32_t sum = round_to(q, x, 127 / most, n);
    *group = (struct quant_group){most / 127, -sum, -128 * sum};
}

float ISA(narrow_int8)(int8_t *out, const float *in, int n) {
    const uint32_t bits = most_bits(in, n);
    float most;
    memcpy(&most, &bits, sizeof most);
    const bool finite = bits < 0x7f800000;
    if (!finite || most < QUANT_LEAST) {
        memset(out, 0, (size_t)n);
        return finite ? 0 : NAN;
    }
    round_to(out, in, 127 / most, n);
    return most / 127;
}

void ISA(quantise)(int8_t *q, struct quant_group *groups, const float *x, int n) {
    for (; n >= QUANT_GROUP; n -= QUANT_GROUP, x += QUANT_GROUP, q += QUANT_GROUP) one_group(q, groups++, x, QUANT_GROUP);
    if (n <= 0) return;
    memset(q, 0, QUANT_GROUP);
    one_group(q, groups, x, n);
}
