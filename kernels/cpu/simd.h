/* simd.h - one vector of 16 floats, as one AVX-512 register or as two AVX2 registers; the only file that knows which.
 *
 * The files vec_*.c are written against this header and compiled with -DKERNELS_AVX2 and with -DKERNELS_AVX512, what multiplies
 * int8 also with -DKERNELS_VNNI. All builds must give the same bits, so every function here does the same IEEE operation on
 * the same 16 lanes in each: products are always fused, nothing is left to the compiler's contraction, and a sum across lanes
 * is always the tree i + (i+8), then + (i+4), + (i+2), + (i+1). No approximate instruction (rcp, rsqrt, scalef, vcvtneps2bf16)
 * is used: the two sets differ there. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#define INLINE static inline __attribute__((always_inline))

/* What VNNI makes faster exists once more under a name of its own; all else of such a processor is AVX-512's. */
#ifdef KERNELS_VNNI
#define INT8(name) name##_avx512vnni
#else
#define INT8(name) ISA(name)
#endif

#ifdef KERNELS_AVX512
#define ISA(name) name##_avx512
struct v16 {
    __m512 v;
};
struct m16 { /* which of the 16 lanes */
    __mmask16 v;
};
INLINE struct v16 v16_zero(void) { return (struct v16){_mm512_setzero_ps()}; }
INLINE struct v16 v16_set(float f) { return (struct v16){_mm512_set1_ps(f)}; }
INLINE struct v16 v16_load(const float *p) { return (struct v16){_mm512_loadu_ps(p)}; }
INLINE void v16_store(float *p, struct v16 a) { _mm512_storeu_ps(p, a.v); }
INLINE struct v16 v16_add(struct v16 a, struct v16 b) { return (struct v16){_mm512_add_ps(a.v, b.v)}; }
INLINE struct v16 v16_sub(struct v16 a, struct v16 b) { return (struct v16){_mm512_sub_ps(a.v, b.v)}; }
INLINE struct v16 v16_mul(struct v16 a, struct v16 b) { return (struct v16){_mm512_mul_ps(a.v, b.v)}; }
INLINE struct v16 v16_div(struct v16 a, struct v16 b) { return (struct v16){_mm512_div_ps(a.v, b.v)}; }
/* max(a, b), min(a, b): b where either is NaN. */
INLINE struct v16 v16_max(struct v16 a, struct v16 b) { return (struct v16){_mm512_max_ps(a.v, b.v)}; }
INLINE struct v16 v16_min(struct v16 a, struct v16 b) { return (struct v16){_mm512_min_ps(a.v, b.v)}; }
INLINE struct v16 v16_fma(struct v16 a, struct v16 b, struct v16 c) { return (struct v16){_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/* c - a * b */
INLINE struct v16 v16_fnma(struct v16 a, struct v16 b, struct v16 c) { return (struct v16){_mm512_fnmadd_ps(a.v, b.v, c.v)}; }

INLINE struct m16 m16_first(int n) { return (struct m16){n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1)}; }
INLINE struct m16 m16_range(int lo, int hi) { return (struct m16){(__mmask16)(m16_first(hi).v & ~m16_first(lo).v)}; }
INLINE struct m16 v16_less(struct v16 a, struct v16 b) { return (struct m16){_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
INLINE uint32_t m16_bits(struct m16 m) { return m.v; }
INLINE uint32_t v16_equal_bits(struct v16 a, struct v16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
INLINE struct v16 v16_pick(struct m16 m, struct v16 yes, struct v16 no) {
    return (struct v16){_mm512_mask_blend_ps(m.v, no.v, yes.v)};
}
/* Lanes outside m: zero, their memory not touched. */
INLINE struct v16 v16_load_masked(const float *p, struct m16 m) { return (struct v16){_mm512_maskz_loadu_ps(m.v, p)}; }
INLINE void v16_store_masked(float *p, struct m16 m, struct v16 a) { _mm512_mask_storeu_ps(p, m.v, a.v); }

INLINE __m256 v16_fold8(struct v16 a) { /* lane i + lane i+8 */
    return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
}
INLINE float v16_largest(struct v16 a) { return _mm512_reduce_max_ps(a.v); }
INLINE float v16_lane0(struct v16 a) { return _mm512_cvtss_f32(a.v); }

INLINE struct v16 v16_round(struct v16 a) {
    return (struct v16){_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
INLINE struct v16 v16_pow2(struct v16 n) { /* 2^n of a whole n in -126..127 */
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return (struct v16){_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
}

INLINE struct v16 v16_from_bf16(__m256i h) {
    return (struct v16){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
INLINE __m256i u16_load_first(const uint16_t *p, int n) { return _mm256_maskz_loadu_epi16(m16_first(n).v, p); }
INLINE void u16_store_first(uint16_t *p, int n, __m256i h) { _mm256_mask_storeu_epi16(p, m16_first(n).v, h); }
INLINE __m256i v16_to_bf16(struct v16 a) { /* nearest even; NaN made quiet */
    __m512i u = _mm512_castps_si512(a.v), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, rounded, quiet));
}
INLINE __m256i v16_to_u16(struct v16 a) { return _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(a.v)); } /* of 0..32767 */
INLINE struct v16 v16_from_f16(__m256i h) { return (struct v16){_mm512_cvtph_ps(h)}; }
INLINE __m256i f16_bits(struct v16 a) { return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE struct v16 v16_from_i8(__m128i b) { return (struct v16){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b))}; }
INLINE __m128i u8_load_first(const uint8_t *p, int n) { return _mm_maskz_loadu_epi8(m16_first(n).v, p); }
INLINE struct v16 v16_from_e2m1(const uint8_t *p) {
    const __m512i shift = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    const __m512 twice = _mm512_setr_ps(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    int32_t half[2];
    memcpy(half, p, sizeof half);
    __m512i b = _mm512_mask_set1_epi32(_mm512_set1_epi32(half[0]), 0xff00, half[1]);
    return (struct v16){_mm512_permutexvar_ps(_mm512_srlv_epi32(b, shift), twice)}; /* of an index it reads four bits */
}
/* 16 pairs (e, o) in memory order -> all e, all o. */
INLINE void v16_load_pairs(const float *p, struct v16 *e, struct v16 *o) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
    e->v = _mm512_permutex2var_ps(a, even, b);
    o->v = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}
INLINE void v16_store_pairs(float *p, struct v16 e, struct v16 o) {
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(e.v, first, o.v));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(e.v, _mm512_add_epi32(first, _mm512_set1_epi32(8)), o.v));
}

#else
#define ISA(name) name##_avx2
struct v16 {
    __m256 lo, hi;
};
struct m16 {
    __m256i lo, hi; /* lanes of 0 or -1 */
};
INLINE struct v16 v16_zero(void) { return (struct v16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE struct v16 v16_set(float f) { return (struct v16){_mm256_set1_ps(f), _mm256_set1_ps(f)}; }
INLINE struct v16 v16_load(const float *p) { return (struct v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void v16_store(float *p, struct v16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
INLINE struct v16 v16_add(struct v16 a, struct v16 b) {
    return (struct v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
INLINE struct v16 v16_sub(struct v16 a, struct v16 b) {
    return (struct v16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
INLINE struct v16 v16_mul(struct v16 a, struct v16 b) {
    return (struct v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
INLINE struct v16 v16_div(struct v16 a, struct v16 b) {
    return (struct v16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
INLINE struct v16 v16_max(struct v16 a, struct v16 b) {
    return (struct v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
INLINE struct v16 v16_min(struct v16 a, struct v16 b) {
    return (struct v16){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
INLINE struct v16 v16_fma(struct v16 a, struct v16 b, struct v16 c) {
    return (struct v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
INLINE struct v16 v16_fnma(struct v16 a, struct v16 b, struct v16 c) {
    return (struct v16){_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}

INLINE struct m16 m16_range(int lo, int hi) {
    const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), j = _mm256_add_epi32(i, _mm256_set1_epi32(8));
    const __m256i first = _mm256_set1_epi32(lo), end = _mm256_set1_epi32(hi);
    return (struct m16){_mm256_andnot_si256(_mm256_cmpgt_epi32(first, i), _mm256_cmpgt_epi32(end, i)),
                        _mm256_andnot_si256(_mm256_cmpgt_epi32(first, j), _mm256_cmpgt_epi32(end, j))};
}
INLINE struct m16 m16_first(int n) { return m16_range(0, n); }
INLINE struct m16 v16_less(struct v16 a, struct v16 b) {
    return (struct m16){_mm256_castps_si256(_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                        _mm256_castps_si256(_mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
INLINE uint32_t m16_bits(struct m16 m) {
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(m.lo)) |
           (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(m.hi)) << 8;
}
INLINE uint32_t v16_equal_bits(struct v16 a, struct v16 b) {
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ)) |
           (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)) << 8;
}
INLINE struct v16 v16_pick(struct m16 m, struct v16 yes, struct v16 no) {
    return (struct v16){_mm256_blendv_ps(no.lo, yes.lo, _mm256_castsi256_ps(m.lo)),
                        _mm256_blendv_ps(no.hi, yes.hi, _mm256_castsi256_ps(m.hi))};
}
INLINE struct v16 v16_load_masked(const float *p, struct m16 m) {
    return (struct v16){_mm256_maskload_ps(p, m.lo), _mm256_maskload_ps(p + 8, m.hi)};
}
INLINE void v16_store_masked(float *p, struct m16 m, struct v16 a) {
    _mm256_maskstore_ps(p, m.lo, a.lo);
    _mm256_maskstore_ps(p + 8, m.hi, a.hi);
}

INLINE __m256 v16_fold8(struct v16 a) { return _mm256_add_ps(a.lo, a.hi); }
INLINE float v16_largest(struct v16 a) {
    __m256 m = _mm256_max_ps(a.lo, a.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

INLINE float v16_lane0(struct v16 a) { return _mm256_cvtss_f32(a.lo); }

INLINE struct v16 v16_round(struct v16 a) {
    return (struct v16){_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                        _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
INLINE __m256 pow2_half(__m256 n) {
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
INLINE struct v16 v16_pow2(struct v16 n) { return (struct v16){pow2_half(n.lo), pow2_half(n.hi)}; }

INLINE struct v16 v16_from_bf16(__m256i h) {
    __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(h)), hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1));
    return (struct v16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
INLINE __m256i u16_load_first(const uint16_t *p, int n) {
    uint16_t h[16] = {0};
    memcpy(h, p, (size_t)n * sizeof *p);
    return _mm256_loadu_si256((const __m256i *)h);
}
INLINE void u16_store_first(uint16_t *p, int n, __m256i v) {
    uint16_t h[16];
    _mm256_storeu_si256((__m256i *)h, v);
    memcpy(p, h, (size_t)n * sizeof *p);
}
INLINE __m256i to_bf16_half(__m256 a) { /* in the low 16 bits of each lane */
    __m256i u = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}
INLINE __m256i v16_to_bf16(struct v16 a) {
    __m256i mixed = _mm256_packus_epi32(to_bf16_half(a.lo), to_bf16_half(a.hi)); /* quarters 0 2 1 3 */
    return _mm256_permute4x64_epi64(mixed, 0xd8);
}
INLINE __m256i v16_to_u16(struct v16 a) { /* of 0..32767 */
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi)), 0xd8);
}
INLINE void pairs_half(const float *p, __m256 *e, __m256 *o) {
    __m256 a = _mm256_loadu_ps(p), b = _mm256_loadu_ps(p + 8);
    *e = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)), 0xd8));
    *o = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8));
}
INLINE void v16_load_pairs(const float *p, struct v16 *e, struct v16 *o) {
    pairs_half(p, &e->lo, &o->lo);
    pairs_half(p + 16, &e->hi, &o->hi);
}
INLINE void store_pairs_half(float *p, __m256 e, __m256 o) {
    __m256 a = _mm256_unpacklo_ps(e, o), b = _mm256_unpackhi_ps(e, o); /* pairs 0 1 4 5, 2 3 6 7 */
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(a, b, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(a, b, 0x31));
}
INLINE void v16_store_pairs(float *p, struct v16 e, struct v16 o) {
    store_pairs_half(p, e.lo, o.lo);
    store_pairs_half(p + 16, e.hi, o.hi);
}

INLINE struct v16 v16_from_f16(__m256i h) {
    return (struct v16){_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
INLINE __m256i f16_bits(struct v16 a) {
    return _mm256_set_m128i(_mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                            _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE struct v16 v16_from_i8(__m128i b) {
    __m256i lo = _mm256_cvtepi8_epi32(b), hi = _mm256_cvtepi8_epi32(_mm_srli_si128(b, 8));
    return (struct v16){_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
}
INLINE __m128i u8_load_first(const uint8_t *p, int n) {
    uint8_t b[16] = {0};
    memcpy(b, p, (size_t)n);
    return _mm_loadu_si128((const __m128i *)b);
}
INLINE struct v16 v16_from_e2m1(const uint8_t *p) {
    const __m128i twice = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    __m128i b = _mm_loadl_epi64((const __m128i *)p), low = _mm_set1_epi8(15);
    __m128i nibbles = _mm_unpacklo_epi8(_mm_and_si128(b, low), _mm_and_si128(_mm_srli_epi16(b, 4), low));
    return v16_from_i8(_mm_shuffle_epi8(twice, nibbles));
}
#endif

/* From here on all builds share the text. */

/* Block formats: 16 numbers before their scale, as E4M3_UNIT or E2M1_UNIT times what v16_from_* returns. v16_from_e2m1 above
 * reads 8 bytes and drops the sign of zero, which no sum that starts at zero can show. */
#define E4M3_UNIT 256.0f
#define E2M1_UNIT 0.5f
INLINE struct v16 v16_from_e4m3(__m128i b) {
    __m256i u = _mm256_cvtepu8_epi16(b), magnitude = _mm256_and_si256(u, _mm256_set1_epi16(0x7f));
    /* Sign to bit 15, exponent and mantissa to 13..7: an f16 of the same number over 2^8, subnormals included. */
    __m256i h = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(u, 8), 1), _mm256_set1_epi16((short)0xbf80));
    return v16_from_f16(_mm256_or_si256(h, _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f)))); /* all ones: NaN */
}
INLINE float e8m0_of(unsigned s) { /* 2^(s-127) * E2M1_UNIT */
    uint32_t bits = s > 1 ? (s - 1) << 23 : UINT32_C(0x200000) << s;
    float f;
    if (s == 255) bits = 0x7fc00000;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Plain formats and those of keys and values: the bytes of n elements; the 16 at p, or the first n of them (the rest zero, not
 * read). Of int8 the codes. */
INLINE int64_t bytes_of_kv(enum fmt f, int64_t n) { return f == FMT_F32 ? n * 4 : f == FMT_INT8 ? n : n * 2; }
INLINE struct v16 v16_load_fmt(enum fmt f, const void *p) {
    if (f == FMT_F32) return v16_load((const float *)p);
    if (f == FMT_INT8) return v16_from_i8(_mm_loadu_si128((const __m128i *)p));
    const __m256i h = _mm256_loadu_si256((const __m256i *)p);
    return f == FMT_F16 ? v16_from_f16(h) : v16_from_bf16(h);
}
INLINE struct v16 v16_load_fmt_first(enum fmt f, const void *p, int n) {
    if (f == FMT_F32) return v16_load_masked((const float *)p, m16_first(n));
    if (f == FMT_INT8) return v16_from_i8(u8_load_first((const uint8_t *)p, n));
    const __m256i h = u16_load_first((const uint16_t *)p, n);
    return f == FMT_F16 ? v16_from_f16(h) : v16_from_bf16(h);
}
INLINE __m256i v16_to_f16(struct v16 a) { /* nearest even, at most 65504; NaN made quiet */
    return f16_bits(v16_min(v16_set(65504), v16_max(v16_set(-65504), a)));
}
INLINE struct v16 v16_load_first(const float *p, int n) { return n >= 16 ? v16_load(p) : v16_load_masked(p, m16_first(n)); }
INLINE void v16_store_first(float *p, int n, struct v16 a) {
    if (n >= 16) v16_store(p, a);
    else v16_store_masked(p, m16_first(n), a);
}

INLINE float v16_sum(struct v16 a) {
    __m256 e = v16_fold8(a);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
/* The sums of four vectors, in order; each with the bits of v16_sum. */
INLINE __m128 v16_sum4(struct v16 a, struct v16 b, struct v16 c, struct v16 d) {
    __m256 ea = v16_fold8(a), eb = v16_fold8(b), ec = v16_fold8(c), ed = v16_fold8(d);
    __m256 ac = _mm256_add_ps(_mm256_permute2f128_ps(ea, ec, 0x20), _mm256_permute2f128_ps(ea, ec, 0x31)); /* + (i+4): a c */
    __m256 bd = _mm256_add_ps(_mm256_permute2f128_ps(eb, ed, 0x20), _mm256_permute2f128_ps(eb, ed, 0x31));
    /* + (i+2): a a b b | c c d d, then + (i+1): a b a b | c d c d */
    __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee));
    __m256 one = _mm256_add_ps(_mm256_shuffle_ps(two, two, 0x88), _mm256_shuffle_ps(two, two, 0xdd));
    return _mm_movelh_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1));
}

/* e^x within 2 units in the last place for x <= 88.37; larger x give e^88.37, smaller than -87.33 give 0; NaN stays NaN.
 * x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor series to r^7, whose remainder there is below 6e-9. */
INLINE struct v16 v16_exp(struct v16 x) {
    const float coefficient[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    struct m16 gone = v16_less(x, v16_set(-87.33f));
    x = v16_min(v16_set(88.37f), v16_max(v16_set(-87.33f), x));
    struct v16 n = v16_round(v16_mul(x, v16_set(1.44269504f)));
    struct v16 r = v16_fnma(n, v16_set(0.693359375f), x); /* ln 2 in two parts, the first exact times n */
    r = v16_fnma(n, v16_set(-2.12194440e-4f), r);
    struct v16 p = v16_set(coefficient[0]);
    for (int i = 1; i < 8; i++) p = v16_fma(p, r, v16_set(coefficient[i]));
    return v16_pick(gone, v16_zero(), v16_mul(p, v16_pow2(n)));
}
INLINE struct v16 v16_sigmoid(struct v16 x) {
    struct v16 one = v16_set(1);
    return v16_div(one, v16_add(one, v16_exp(v16_sub(v16_zero(), x))));
}
