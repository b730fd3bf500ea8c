/* vec_quant.c - dot products of int8 rows with panels of quantised weights; one routine for decode and prefill.
 *
 * A lane is a weight row: a panel's 16 rows are 16 lanes from the first load to the store, and nothing is summed across lanes.
 * A register tile is R rows by C panels; per group it takes C * R integer sums, then one fused step each in f32. What a lane
 * does is prescribed (kernels/quant.h), so the tile's shape and how the integers are summed are free: VNNI takes four products
 * at once; without it even and odd bytes are widened to 16 bits, whose products of 255 and 127 cannot overflow in pairs.
 *
 * Walk: weight panels C at a time; for each, all rows, R at a time, so that weights come from memory once and then from the
 * second-level cache. The first pass prefetches. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

/* 16 lanes of four bytes or one int32 each. */
#ifdef KERNELS_AVX512
enum { TILE_ROWS = 6, TILE_PANELS = 2 }; /* 12 + 12 sums, 2 weights of 32 registers; activations from memory */
struct i16 {
    __m512i v;
};
INLINE struct i16 i16_set(int32_t n) { return (struct i16){_mm512_set1_epi32(n)}; }
INLINE struct i16 i16_load(const uint8_t *p) { return (struct i16){_mm512_loadu_si512(p)}; }
INLINE struct i16 i16_low_nibbles(struct i16 a) { /* times 16 */
    return (struct i16){_mm512_and_si512(_mm512_slli_epi32(a.v, 4), _mm512_set1_epi8((char)0xf0))};
}
INLINE struct i16 i16_high_nibbles(struct i16 a) { return (struct i16){_mm512_and_si512(a.v, _mm512_set1_epi8((char)0xf0))}; }
INLINE struct i16 i16_widen_u8(const uint8_t *p) {
    return (struct i16){_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))};
}
/* Products of numbers below 2^15, whose high halves are zero on one side. */
INLINE struct i16 i16_mul_small(struct i16 a, struct i16 b) { return (struct i16){_mm512_madd_epi16(a.v, b.v)}; }
INLINE struct v16 v16_from_i16(struct i16 a) { return (struct v16){_mm512_cvtepi32_ps(a.v)}; }
#ifdef KERNELS_VNNI
INLINE struct i16 i16_dot(struct i16 sum, struct i16 w, int32_t x) {
    return (struct i16){_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(x))};
}
#else
INLINE struct i16 i16_dot(struct i16 sum, struct i16 w, int32_t x) {
    __m512i all = _mm512_set1_epi32(x), odd_x = _mm512_srai_epi16(all, 8),
            even_x = _mm512_srai_epi16(_mm512_slli_epi16(all, 8), 8);
    __m512i even = _mm512_and_si512(w.v, _mm512_set1_epi16(0xff)), odd = _mm512_srli_epi16(w.v, 8);
    return (struct i16){
        _mm512_add_epi32(sum.v, _mm512_add_epi32(_mm512_madd_epi16(even, even_x), _mm512_madd_epi16(odd, odd_x)))};
}
#endif
#else
enum { TILE_ROWS = 2, TILE_PANELS = 1 }; /* 4 + 4 sums of 16 half-size registers */
struct i16 {
    __m256i lo, hi;
};
INLINE struct i16 i16_set(int32_t n) { return (struct i16){_mm256_set1_epi32(n), _mm256_set1_epi32(n)}; }
INLINE struct i16 i16_load(const uint8_t *p) {
    return (struct i16){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE struct i16 i16_low_nibbles(struct i16 a) {
    const __m256i high = _mm256_set1_epi8((char)0xf0);
    return (struct i16){_mm256_and_si256(_mm256_slli_epi32(a.lo, 4), high), _mm256_and_si256(_mm256_slli_epi32(a.hi, 4), high)};
}
INLINE struct i16 i16_high_nibbles(struct i16 a) {
    const __m256i high = _mm256_set1_epi8((char)0xf0);
    return (struct i16){_mm256_and_si256(a.lo, high), _mm256_and_si256(a.hi, high)};
}
INLINE struct i16 i16_widen_u8(const uint8_t *p) {
    __m128i b = _mm_loadu_si128((const __m128i *)p);
    return (struct i16){_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_srli_si128(b, 8))};
}
INLINE struct i16 i16_mul_small(struct i16 a, struct i16 b) {
    return (struct i16){_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)};
}
INLINE struct v16 v16_from_i16(struct i16 a) { return (struct v16){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
INLINE __m256i dot_half(__m256i sum, __m256i w, __m256i even_x, __m256i odd_x) {
    __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(0xff)), odd = _mm256_srli_epi16(w, 8);
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(even, even_x), _mm256_madd_epi16(odd, odd_x)));
}
INLINE struct i16 i16_dot(struct i16 sum, struct i16 w, int32_t x) {
    __m256i all = _mm256_set1_epi32(x), odd = _mm256_srai_epi16(all, 8), even = _mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8);
    return (struct i16){dot_half(sum.lo, w.lo, even, odd), dot_half(sum.hi, w.hi, even, odd)};
}
#endif

enum { AHEAD = 4096, SCALES_AHEAD = 512, VECTORS = QUANT_GROUP / 4 };

INLINE int group_bytes(const enum fmt f) { return QUANT_PANEL * QUANT_GROUP / (f == FMT_Q4 ? 2 : 1); }

INLINE void finish(const struct quant_products *p, int row, int col, struct v16 sum) {
    const int n = p->cols - col;
    float *out = p->out + row * p->out_stride + col;
    if (p->bias) sum = v16_add(sum, v16_load_first(p->bias + col, n));
    if (p->add) sum = v16_add(sum, v16_load_first(out, n));
    v16_store_first(out, n, sum);
}

/* f, R, C and first are constants at every call. The first pass over weights prefetches, and when they end goes on at `then`. */
INLINE void tile(const struct quant_products *p, int row, int col, const enum fmt f, const int R, const int C, const bool first,
                 const uint8_t *then) {
    struct v16 acc[TILE_PANELS][TILE_ROWS], scale[TILE_PANELS];
    struct i16 sum[TILE_PANELS][TILE_ROWS], w[TILE_PANELS], pair[TILE_PANELS];
    const int64_t K = (int64_t)p->groups * QUANT_GROUP, panel = (int64_t)p->groups * group_bytes(f),
                  scales_panel = (int64_t)p->groups * (int64_t)quant_scale_bytes(f);
    const uint8_t *wp = p->w + col / QUANT_PANEL * panel, *sp = p->scales + col / QUANT_PANEL * scales_panel;
    const int8_t *x = p->x + row * K;
    const struct quant_group *xg = p->x_groups + (int64_t)row * p->groups;
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[c][r] = v16_zero();
    }
    const int64_t jump = first ? (int64_t)((uintptr_t)then - (uintptr_t)(wp + panel)) : 0; /* from a panel to its successor */
    for (int g = 0; g < p->groups; g++) {
        const int64_t ahead = AHEAD + (g + AHEAD / group_bytes(f) < p->groups ? 0 : jump);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            const uint8_t *s = sp + c * scales_panel;
            struct i16 zero = f == FMT_Q4 ? i16_widen_u8(s + 2 * QUANT_PANEL) : i16_set(0);
            if (first) __builtin_prefetch(s + SCALES_AHEAD, 0, 2);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const struct quant_group *of = xg + (int64_t)r * p->groups;
                sum[c][r] = f == FMT_Q4 ? i16_mul_small(zero, i16_set(of->minus)) : i16_set(of->minus128);
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                const uint8_t *at = wp + c * panel + (f == FMT_Q4 ? v / 2 : v) * 64;
                if (first && (f == FMT_Q8 || v % 2 == 0)) __builtin_prefetch(at + ahead, 0, 2);
                if (f == FMT_Q8) w[c] = i16_load(at);
                else if (v % 2 == 0) w[c] = i16_low_nibbles(pair[c] = i16_load(at));
                else w[c] = i16_high_nibbles(pair[c]);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                int32_t four;
                memcpy(&four, x + r * K + 4 * v, sizeof four);
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) sum[c][r] = i16_dot(sum[c][r], w[c], four);
            }
        }
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            scale[c] = v16_from_bf16(_mm256_loadu_si256((const __m256i *)(sp + c * scales_panel)));
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                struct v16 s = v16_mul(scale[c], v16_set(xg[(int64_t)r * p->groups].scale));
                acc[c][r] = v16_fma(v16_from_i16(sum[c][r]), s, acc[c][r]);
            }
        }
        wp += group_bytes(f);
        sp += quant_scale_bytes(f);
        x += QUANT_GROUP;
        xg++;
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) finish(p, row + r, col + c * QUANT_PANEL, acc[c][r]);
    }
}

INLINE void rows_tile(const struct quant_products *p, int row, int col, const enum fmt f, const int R, const int C) {
    const int64_t next = (int64_t)(col / QUANT_PANEL + C) * p->groups * group_bytes(f);
    if (row > 0) tile(p, row, col, f, R, C, false, NULL);
    else tile(p, row, col, f, R, C, true, p->then && col + C * QUANT_PANEL >= p->cols ? p->then : p->w + next);
}

INLINE void panels(const struct quant_products *p, int col, const enum fmt f, const int C) {
    int row = 0;
    for (; row + TILE_ROWS <= p->rows; row += TILE_ROWS) rows_tile(p, row, col, f, TILE_ROWS, C);
    switch (p->rows - row) {
#ifdef KERNELS_AVX512
    case 5: rows_tile(p, row, col, f, 5, C); break;
    case 4: rows_tile(p, row, col, f, 4, C); break;
    case 3: rows_tile(p, row, col, f, 3, C); break;
    case 2: rows_tile(p, row, col, f, 2, C); break;
#endif
    case 1: rows_tile(p, row, col, f, 1, C); break;
    }
}

INLINE void all_panels(const struct quant_products *p, const enum fmt f) {
    int col = 0;
    for (; col + (TILE_PANELS - 1) * QUANT_PANEL < p->cols; col += TILE_PANELS * QUANT_PANEL) panels(p, col, f, TILE_PANELS);
    if (TILE_PANELS > 1 && col < p->cols) panels(p, col, f, 1);
}

void INT8(quant_products)(const struct quant_products *p) {
    if (p->fmt == FMT_Q8) all_panels(p, FMT_Q8);
    else all_panels(p, FMT_Q4);
}
