/* vec_products.c - dot products of rows with weight rows: the GEMV of decode and the GEMM of prefill are one routine.
 *
 * A register tile is R rows by C weight rows, each pair with its own 16-lane accumulator; a step loads 16 elements of each
 * row and does R*C fused multiply-adds. Because an accumulator sees the same steps in any tile, the tile's shape is free:
 * one row takes 8 weight rows at once (memory-bound: as many streams), more rows take tiles that fill the registers.
 *
 * Walk: strips of weight rows that stay in the second-level cache; in a strip, tiles of rows (x stays in the first level);
 * in a tile, the strip's weight rows. The first pass over a strip prefetches the weight rows that come next, into the second
 * level: prefetched into the first they would compete with its own misses for the few fill buffers (half the rate). */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

#ifdef KERNELS_AVX512
enum { TILE_ROWS = 6, TILE_COLS = 4, ONE_ROW_COLS = 8 }; /* 24 accumulators, 4 weights, 1 row of 32 registers */
#else
enum { TILE_ROWS = 3, TILE_COLS = 2, ONE_ROW_COLS = 4 }; /* 12 + 4 of 16 half-size registers, rows from memory */
#endif
enum { STRIP_BYTES = 128 * 1024, EXPANDED = 32 * 1024 /* floats, on the stack */ };

INLINE int64_t bytes_of(const enum fmt f, int64_t elements) {
    return f == FMT_FP8 ? elements : f == FMT_MXFP4 ? elements / 2 : bytes_of_kv(f, elements);
}

INLINE const char *weight_row(const struct products *p, int col, const enum fmt f) {
    return (const char *)p->w + bytes_of(f, (int64_t)col * p->w_stride);
}

/* Block formats: where the scales of a weight row begin, and the scale of its j-th run of `run_of` weights. */
INLINE int run_of(const struct products *p, const enum fmt f) {
    return f == FMT_FP8 ? p->block : f == FMT_MXFP4 ? MXFP4_BLOCK : p->K;
}
INLINE const char *scale_row(const struct products *p, int col, const enum fmt f) {
    if (f == FMT_MXFP4) return (const char *)p->scales + (int64_t)(p->first + col) * (p->K / MXFP4_BLOCK);
    return (const char *)p->scales + (int64_t)((p->first + col) / p->block) * ((p->K + p->block - 1) / p->block) * 4;
}
INLINE float scale_at(const char *row, int j, const enum fmt f) {
    return f == FMT_MXFP4 ? e8m0_of(((const uint8_t *)row)[j]) : ((const float *)row)[j] * E4M3_UNIT;
}

/* 16 weights, or the first n of them and zeros; those of block formats still without their scale. */
INLINE struct v16 weights_16(const enum fmt f, const char *at) {
    if (f == FMT_FP8) return v16_from_e4m3(_mm_loadu_si128((const __m128i *)at));
    return f == FMT_MXFP4 ? v16_from_e2m1((const uint8_t *)at) : v16_load_fmt(f, at);
}
INLINE struct v16 weights_first(const enum fmt f, const char *at, int n) {
    return f == FMT_FP8 ? v16_from_e4m3(u8_load_first((const uint8_t *)at, n)) : v16_load_fmt_first(f, at, n);
}

/* bias and add in the one order that every tile uses. */
INLINE void finish4(const struct products *p, int row, int col, __m128 sum) {
    float *out = p->out + row * p->out_stride + col;
    if (p->bias) sum = _mm_add_ps(sum, _mm_loadu_ps(p->bias + col));
    if (p->add) sum = _mm_add_ps(sum, _mm_loadu_ps(out));
    _mm_storeu_ps(out, sum);
}

INLINE void finish1(const struct products *p, int row, int col, float sum) {
    float *out = p->out + row * p->out_stride + col;
    if (p->bias) sum += p->bias[col];
    if (p->add) sum += *out;
    *out = sum;
}

/* R and C are constants at every call; so is f. ahead: bytes from a weight to the one to prefetch. */
INLINE void tile(const struct products *p, int row, int col, int64_t ahead, const enum fmt f, const int R, const int C) {
    const bool scaled = f == FMT_FP8 || f == FMT_MXFP4;
    struct v16 acc[TILE_ROWS][ONE_ROW_COLS], w[ONE_ROW_COLS], scale[ONE_ROW_COLS];
    const char *wp = weight_row(p, col, f), *scales[ONE_ROW_COLS];
    const int64_t step = bytes_of(f, p->w_stride);
    const float *xp = p->x + row * p->x_stride;
    const int K = p->K, run = run_of(p, f);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) acc[r][c] = v16_zero();
    }
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) scales[c] = scaled ? scale_row(p, col + c, f) : NULL;
    for (int k = 0, j = 0; k < K; j++) { /* a run of weights under one scale; plain formats: all of them */
        const int end = K - k > run ? k + run : K;
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) scale[c] = v16_set(scaled ? scale_at(scales[c], j, f) : 1);
        for (; k + 16 <= end; k += 16) {
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) {
                const char *at = wp + c * step + bytes_of(f, k);
                __builtin_prefetch(at + ahead, 0, 2);
                w[c] = weights_16(f, at);
                if (scaled) w[c] = v16_mul(w[c], scale[c]);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                struct v16 x = v16_load(xp + r * p->x_stride + k);
#pragma GCC unroll 8
                for (int c = 0; c < C; c++) acc[r][c] = v16_fma(x, w[c], acc[r][c]);
            }
        }
        if (k == end) continue; /* only the last run has a rest: runs are whole vectors */
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            w[c] = weights_first(f, wp + c * step + bytes_of(f, k), K - k);
            if (scaled) w[c] = v16_mul(w[c], scale[c]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            struct v16 x = v16_load_masked(xp + r * p->x_stride + k, m16_first(K - k));
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) acc[r][c] = v16_fma(x, w[c], acc[r][c]);
        }
        k = K;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        if (C % 4 == 0) {
#pragma GCC unroll 2
            for (int c = 0; c < C; c += 4) {
                finish4(p, row + r, col + c, v16_sum4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]));
            }
        } else {
#pragma GCC unroll 2
            for (int c = 0; c < C; c++) finish1(p, row + r, col + c, v16_sum(acc[r][c]));
        }
    }
}

/* Weight rows [col, end) against R rows. */
INLINE void row_tile(const struct products *p, int row, int col, int end, bool first, const enum fmt f, const int R) {
    const int C = R == 1 ? ONE_ROW_COLS : TILE_COLS;
    const int64_t ahead = !first ? 0 : p->ahead ? p->ahead : bytes_of(f, p->w_stride) * C;
    for (; col + C <= end; col += C) tile(p, row, col, ahead, f, R, C);
    if (R == 1) {
        for (; col + TILE_COLS <= end; col += TILE_COLS) tile(p, row, col, 0, f, R, TILE_COLS);
    }
    for (; col < end; col++) tile(p, row, col, 0, f, R, 1);
}

INLINE void strip(const struct products *p, int col, int end, const enum fmt f) {
    int row = 0;
    for (; row + TILE_ROWS <= p->rows; row += TILE_ROWS) row_tile(p, row, col, end, row == 0, f, TILE_ROWS);
    switch (p->rows - row) {
#ifdef KERNELS_AVX512
    case 5: row_tile(p, row, col, end, row == 0, f, 5); break;
    case 4: row_tile(p, row, col, end, row == 0, f, 4); break;
    case 3: row_tile(p, row, col, end, row == 0, f, 3); break;
#endif
    case 2: row_tile(p, row, col, end, row == 0, f, 2); break;
    case 1: row_tile(p, row, col, end, row == 0, f, 1); break;
    }
}

INLINE void strips(const struct products *p, const enum fmt f) {
    int64_t fit = STRIP_BYTES / (bytes_of(f, p->K) + 1) / 8 * 8;
    int width = fit < 8 ? 8 : fit > p->cols ? p->cols : (int)fit;
    for (int col = 0; col < p->cols; col += width) strip(p, col, p->cols - col < width ? p->cols : col + width, f);
}

/* For rows enough to be worth it: a few weight rows at a time are expanded where they stay in the second-level cache. */
INLINE void expanded(const struct products *p, const enum fmt f) {
    float wide[EXPANDED];
    const int run = run_of(p, f), width = EXPANDED / p->K / TILE_COLS * TILE_COLS;
    struct products part = *p;
    part.w = wide;
    part.w_stride = p->K;
    part.fmt = FMT_F32;
    for (int col = 0; col < p->cols; col += width) {
        part.cols = p->cols - col < width ? p->cols - col : width;
        for (int c = 0; c < part.cols; c++) {
            const char *from = weight_row(p, col + c, f), *scales = scale_row(p, col + c, f);
            float *to = wide + (int64_t)c * p->K;
            for (int k = 0; k < p->K; k += 16) {
                struct v16 scale = v16_set(scale_at(scales, k / run, f));
                const int n = p->K - k < 16 ? p->K - k : 16;
                struct v16 w = n < 16 ? weights_first(f, from + bytes_of(f, k), n) : weights_16(f, from + bytes_of(f, k));
                v16_store_first(to + k, n, v16_mul(w, scale));
            }
        }
        part.out = p->out + col;
        part.bias = p->bias ? p->bias + col : NULL;
        strips(&part, FMT_F32);
    }
}

INLINE void block_format(const struct products *p, const enum fmt f) {
    if (p->rows > TILE_ROWS && p->K > 0 && p->K <= EXPANDED / TILE_COLS) expanded(p, f);
    else strips(p, f);
}

void ISA(products)(const struct products *p) {
    switch (p->fmt) {
    case FMT_BF16: strips(p, FMT_BF16); break;
    case FMT_F16: strips(p, FMT_F16); break;
    case FMT_INT8: strips(p, FMT_INT8); break;
    case FMT_FP8: block_format(p, FMT_FP8); break;
    case FMT_MXFP4: block_format(p, FMT_MXFP4); break;
    default: strips(p, FMT_F32);
    }
}
