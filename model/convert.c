/* convert.c - loops without branches over unaligned input, which compilers turn into vector code.
 *
 * bf16 is the upper half of an f32. f16 goes through a multiplication: its exponent and mantissa, shifted to where f32 has
 * them, are a number 2^112 times too small, subnormals included; infinities and NaN get the full exponent afterwards. */
#include "model/convert.h"

#include <string.h>

#include "base/log.h"

static inline uint32_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t load_u32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline uint32_t f32_bits_of_f16(uint32_t h) {
    uint32_t magnitude = bits_of(float_of((h & 0x7fff) << 13) * 0x1p112f);
    uint32_t special = (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
    return magnitude | special | (h & 0x8000) << 16;
}

static inline uint16_t bf16_of_bits(uint32_t u) {
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, quiet = u >> 16 | 0x40;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

static void f32_from_f16(float *restrict dst, const uint8_t *restrict src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = float_of(f32_bits_of_f16(load_u16(src + 2 * i)));
}

static void f32_from_bf16(float *restrict dst, const uint8_t *restrict src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = float_of(load_u16(src + 2 * i) << 16);
}

static void bf16_from_f16(uint16_t *restrict dst, const uint8_t *restrict src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = bf16_of_bits(f32_bits_of_f16(load_u16(src + 2 * i)));
}

static void bf16_from_bits(uint16_t *restrict dst, const uint8_t *restrict src, size_t n) {
    for (size_t i = 0; i < n; i++) dst[i] = bf16_of_bits(load_u32(src + 4 * i));
}

bool convert_knows(enum st_dtype from) { return from == ST_F32 || from == ST_F16 || from == ST_BF16; }
int convert_same(enum st_dtype from) { return from == ST_F32 ? (int)FMT_F32 : from == ST_BF16 ? (int)FMT_BF16 : -1; }

void convert(void *dst, enum fmt to, const void *src, enum st_dtype from, size_t n) {
    if (convert_same(from) == (int)to)
        memcpy(dst, src, n * (to == FMT_F32 ? 4 : 2));
    else if (from == ST_F16 && to == FMT_F32)
        f32_from_f16(dst, src, n);
    else if (from == ST_BF16 && to == FMT_F32)
        f32_from_bf16(dst, src, n);
    else if (from == ST_F16 && to == FMT_BF16)
        bf16_from_f16(dst, src, n);
    else if (from == ST_F32 && to == FMT_BF16)
        bf16_from_bits(dst, src, n);
    else
        BUG("convert: from %s to format %d", st_dtype_name(from), (int)to);
}
