/* vec_quant.c - dot products of int8 rows with panels of quantised weights; one routine for decode and prefill.
 *
 * A lane is a weight row: a panel's 16 rows are 16 lanes from the first load to the store, and nothing is summed across lanes.
 * A register tile is R rows by C panels; per group it takes C * R integer sums, then one fused step each in f32. What a lane
 * does is prescribed (kernels/quant.h), so the tile's shape and how the integers are summed are free.
 *
 * Walk: weight panels C at a time; for each, all rows, R at a time, so that weights come from memory once and then from the
 * second-level cache. The first pass prefetches. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

/* 16 lanes of an int32, two int16 or four bytes each. */
#ifdef KERNELS_AVX512
enum { TILE_ROWS = 6, TILE_PANELS = 2 }; /* 12 + 12 sums, 2 weights of 32 registers; activations from memory */
struct i16 {
    __m512i v;
};
INLINE struct i16 i16_zero(void) { return (struct i16){_mm512_setzero_si512()}; }
INLINE struct i16 i16_set(int32_t n) { return (struct i16){_mm512_set1_epi32(n)}; }
INLINE struct i16 i16_load(const uint8_t *p) { return (struct i16){_mm512_loadu_si512(p)}; }
INLINE struct i16 i16_and(struct i16 a, char byte) { return (struct i16){_mm512_and_si512(a.v, _mm512_set1_epi8(byte))}; }
INLINE struct i16 i16_left4(struct i16 a) { return (struct i16){_mm512_slli_epi32(a.v, 4)}; }
INLINE struct i16 i16_right4(struct i16 a) { return (struct i16){_mm512_srli_epi32(a.v, 4)}; }
INLINE struct i16 i16_add(struct i16 a, struct i16 b) { return (struct i16){_mm512_add_epi32(a.v, b.v)}; }
INLINE struct i16 i16_widen_u8(const uint8_t *p) {
    return (struct i16){_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p))};
}
INLINE struct i16 i16_mul_pairs(struct i16 a, struct i16 b) { return (struct i16){_mm512_madd_epi16(a.v, b.v)}; }
/* Words: += unsigned bytes of w times signed ones of x, in pairs. */
INLINE struct i16 i16_add_words(struct i16 sum, struct i16 w, int32_t x) {
    return (struct i16){_mm512_add_epi16(sum.v, _mm512_maddubs_epi16(w.v, _mm512_set1_epi32(x)))};
}
INLINE struct v16 v16_from_i16(struct i16 a) { return (struct v16){_mm512_cvtepi32_ps(a.v)}; }

#ifdef KERNELS_VNNI
INLINE struct i16 q8_start(const struct quant_group *x) { return i16_set(x->minus128); }
INLINE struct i16 q8_weights(const uint8_t *p) { return i16_load(p); }
INLINE struct i16 q8_dot(struct i16 sum, struct i16 w, int32_t x) {
    return (struct i16){_mm512_dpbusd_epi32(sum.v, w.v, _mm512_set1_epi32(x))};
}
#else
INLINE struct i16 q8_signed(struct i16 w) { return (struct i16){_mm512_xor_si512(w.v, _mm512_set1_epi8((char)0x80))}; }
INLINE struct i16 q8_dot(struct i16 sum, struct i16 w, int32_t x) {
    __m512i all = _mm512_set1_epi32(x);
    __m512i turned = _mm512_mask_sub_epi8(w.v, _mm512_movepi8_mask(all), _mm512_setzero_si512(), w.v);
    __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(all), turned);
    return (struct i16){_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
#endif
#else
enum { TILE_ROWS = 2, TILE_PANELS = 1 }; /* 4 + 4 sums of 16 half-size registers */
struct i16 {
    __m256i lo, hi;
};
INLINE struct i16 i16_zero(void) { return (struct i16){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE struct i16 i16_set(int32_t n) { return (struct i16){_mm256_set1_epi32(n), _mm256_set1_epi32(n)}; }
INLINE struct i16 i16_load(const uint8_t *p) {
    return (struct i16){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32))};
}
INLINE struct i16 i16_and(struct i16 a, char byte) {
    return (struct i16){_mm256_and_si256(a.lo, _mm256_set1_epi8(byte)), _mm256_and_si256(a.hi, _mm256_set1_epi8(byte))};
}
INLINE struct i16 i16_right4(struct i16 a) { return (struct i16){_mm256_srli_epi32(a.lo, 4), _mm256_srli_epi32(a.hi, 4)}; }
INLINE struct i16 i16_add(struct i16 a, struct i16 b) {
    return (struct i16){_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
INLINE struct i16 i16_widen_u8(const uint8_t *p) {
    __m128i b = _mm_loadu_si128((const __m128i *)p);
    return (struct i16){_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_srli_si128(b, 8))};
}
INLINE struct i16 i16_mul_pairs(struct i16 a, struct i16 b) {
    return (struct i16){_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)};
}
INLINE struct i16 i16_add_words(struct i16 sum, struct i16 w, int32_t x) {
    __m256i all = _mm256_set1_epi32(x);
    return (struct i16){_mm256_add_epi16(sum.lo, _mm256_maddubs_epi16(w.lo, all)),
                        _mm256_add_epi16(sum.hi, _mm256_maddubs_epi16(w.hi, all))};
}
INLINE struct v16 v16_from_i16(struct i16 a) { return (struct v16){_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }

INLINE struct i16 q8_signed(struct i16 w) {
    const __m256i top = _mm256_set1_epi8((char)0x80);
    return (struct i16){_mm256_xor_si256(w.lo, top), _mm256_xor_si256(w.hi, top)};
}
INLINE __m256i dot_half(__m256i sum, __m256i w, __m256i x, __m256i magnitude) {
    __m256i pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(w, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE struct i16 q8_dot(struct i16 sum, struct i16 w, int32_t x) {
    __m256i all = _mm256_set1_epi32(x), magnitude = _mm256_abs_epi8(all);
    return (struct i16){dot_half(sum.lo, w.lo, all, magnitude), dot_half(sum.hi, w.hi, all, magnitude)};
}
#endif

#ifndef KERNELS_VNNI /* Weights as signed bytes; an activation's sign goes over to them, and pairs of 127 * 127 fit 16 bits. */
INLINE struct i16 q8_start(const struct quant_group *x) {
    (void)x;
    return i16_zero();
}
INLINE struct i16 q8_weights(const uint8_t *p) { return q8_signed(i16_load(p)); }
#endif

/* q4: z times the group's sum; both are less than 2^15 on either side, so the pairs' other halves are zero. With VNNI nibbles
 * are taken 16-fold, as the definition has them. Without, sums of words hold a group: 32 products of 15 and 127 in two. */
INLINE struct i16 q4_offset(const uint8_t *scales, const struct quant_group *x) {
    return i16_mul_pairs(i16_widen_u8(scales + 2 * QUANT_PANEL), i16_set(x->minus));
}
#ifdef KERNELS_VNNI
INLINE struct i16 q4_start(const uint8_t *scales, const struct quant_group *x) { return q4_offset(scales, x); }
INLINE struct i16 q4_low(struct i16 pair) { return i16_and(i16_left4(pair), (char)0xf0); }
INLINE struct i16 q4_high(struct i16 pair) { return i16_and(pair, (char)0xf0); }
INLINE struct i16 q4_dot(struct i16 sum, struct i16 w, int32_t x) { return q8_dot(sum, w, x); }
INLINE struct i16 q4_end(struct i16 sum, const uint8_t *scales, const struct quant_group *x) {
    (void)scales, (void)x;
    return sum;
}
#else
INLINE struct i16 q4_start(const uint8_t *scales, const struct quant_group *x) {
    (void)scales, (void)x;
    return i16_zero();
}
INLINE struct i16 q4_low(struct i16 pair) { return i16_and(pair, 15); }
INLINE struct i16 q4_high(struct i16 pair) { return i16_and(i16_right4(pair), 15); }
INLINE struct i16 q4_dot(struct i16 sum, struct i16 w, int32_t x) { return i16_add_words(sum, w, x); }
INLINE struct i16 q4_end(struct i16 sum, const uint8_t *scales, const struct quant_group *x) {
    return i16_add(q4_offset(scales, x), i16_mul_pairs(sum, i16_set(16 << 16 | 16)));
}
#endif

enum { AHEAD = 16 /* groups */, VECTORS = QUANT_GROUP / 4 };

INLINE int group_bytes(const enum fmt f) { return QUANT_PANEL * QUANT_GROUP / (f == FMT_Q4 ? 2 : 1); }

INLINE void finish(const struct quant_products *p, int row, int col, struct v16 sum) {
    const int n = p->cols - col;
    float *out = p->out + row * p->out_stride + col;
    if (p->bias) sum = v16_add(sum, v16_load_first(p->bias + col, n));
    if (p->add) sum = v16_add(sum, v16_load_first(out, n));
    v16_store_first(out, n, sum);
}

/* Where a tile stands in its panels and rows; the next panel and row are so many bytes, numbers or groups further. */
struct at {
    const uint8_t *w, *scales;
    const int8_t *x;
    const struct quant_group *group;
    int64_t panel, scales_panel, x_row, group_row;
    int64_t ahead, scales_ahead; /* bytes from weights to those to prefetch, and so of scales */
};

/* The integer sums of one group. f, R, C and first are constants at every call, here and below. */
INLINE void sum_group(const struct at *at, struct i16 sum[TILE_PANELS][TILE_ROWS], const enum fmt f, const int R, const int C,
                      const bool first) {
    struct i16 w[TILE_PANELS], pair[TILE_PANELS];
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
        const uint8_t *scales = at->scales + c * at->scales_panel;
        if (first) __builtin_prefetch(scales + at->scales_ahead, 0, 2);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const struct quant_group *group = at->group + r * at->group_row;
            sum[c][r] = f == FMT_Q4 ? q4_start(scales, group) : q8_start(group);
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            const uint8_t *from = at->w + c * at->panel + (f == FMT_Q4 ? v / 2 : v) * 64;
            if (first && (f == FMT_Q8 || v % 2 == 0)) __builtin_prefetch(from + at->ahead, 0, 2);
            if (f == FMT_Q8) w[c] = q8_weights(from);
            else w[c] = v % 2 == 0 ? q4_low(pair[c] = i16_load(from)) : q4_high(pair[c]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            int32_t four;
            memcpy(&four, at->x + r * at->x_row + 4 * v, sizeof four);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) sum[c][r] = f == FMT_Q4 ? q4_dot(sum[c][r], w[c], four) : q8_dot(sum[c][r], w[c], four);
        }
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            if (f == FMT_Q4) sum[c][r] = q4_end(sum[c][r], at->scales + c * at->scales_panel, at->group + r * at->group_row);
        }
    }
}

/* The first pass over weights prefetches, and when these end at `then`. */
INLINE void tile(const struct quant_products *p, int row, int col, const enum fmt f, const int R, const int C, const bool first,
                 struct quant_next then) {
    struct v16 acc[TILE_PANELS][TILE_ROWS];
    struct i16 sum[TILE_PANELS][TILE_ROWS];
    struct at at = {.panel = (int64_t)p->groups * group_bytes(f),
                    .scales_panel = (int64_t)p->groups * (int)quant_scale_bytes(f),
                    .x_row = (int64_t)p->groups * QUANT_GROUP,
                    .group_row = p->groups};
    at.w = p->w + col / QUANT_PANEL * at.panel;
    at.scales = p->scales + col / QUANT_PANEL * at.scales_panel;
    at.x = p->x + row * at.x_row;
    at.group = p->x_groups + row * at.group_row;
    /* From the end of a panel to where the next begins. */
    const int64_t jump = first ? (int64_t)((uintptr_t)then.w - (uintptr_t)(at.w + at.panel)) : 0;
    const int64_t scales_jump = first ? (int64_t)((uintptr_t)then.scales - (uintptr_t)(at.scales + at.scales_panel)) : 0;
    const int64_t ahead = AHEAD * group_bytes(f), scales_ahead = AHEAD * (int)quant_scale_bytes(f);
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) acc[c][r] = v16_zero();
    }
    for (int g = 0; g < p->groups; g++) {
        const bool inside = g + AHEAD < p->groups;
        at.ahead = ahead + (inside ? 0 : jump);
        at.scales_ahead = scales_ahead + (inside ? 0 : scales_jump);
        sum_group(&at, sum, f, R, C, first);
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            struct v16 scale = v16_from_bf16(_mm256_loadu_si256((const __m256i *)(at.scales + c * at.scales_panel)));
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                struct v16 both = v16_mul(scale, v16_set(at.group[r * at.group_row].scale));
                acc[c][r] = v16_fma(v16_from_i16(sum[c][r]), both, acc[c][r]);
            }
        }
        at.w += group_bytes(f);
        at.scales += quant_scale_bytes(f);
        at.x += QUANT_GROUP;
        at.group++;
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) finish(p, row + r, col + c * QUANT_PANEL, acc[c][r]);
    }
}

INLINE void rows_tile(const struct quant_products *p, int row, int col, const enum fmt f, const int R, const int C) {
    const int64_t groups = (int64_t)(col / QUANT_PANEL + C) * p->groups;
    struct quant_next then = {p->w + groups * group_bytes(f), p->scales + groups * (int)quant_scale_bytes(f)};
    if (p->then.w && col + C * QUANT_PANEL >= p->cols) then = p->then;
    if (row > 0) tile(p, row, col, f, R, C, false, then);
    else tile(p, row, col, f, R, C, true, then);
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
