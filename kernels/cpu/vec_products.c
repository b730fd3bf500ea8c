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
enum { STRIP_BYTES = 128 * 1024 };

INLINE const char *weight_row(const struct products *p, int col) {
    return (const char *)p->w + (size_t)((int64_t)col * p->w_stride) * (p->fmt == FMT_F32 ? 4 : 2);
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
    struct v16 acc[TILE_ROWS][ONE_ROW_COLS], w[ONE_ROW_COLS];
    const char *wp = weight_row(p, col);
    const int64_t step = p->w_stride * (f == FMT_F32 ? 4 : 2), size = f == FMT_F32 ? 4 : 2;
    const float *xp = p->x + row * p->x_stride;
    const int K = p->K;
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) acc[r][c] = v16_zero();
    }
    int k = 0;
    for (; k + 16 <= K; k += 16) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            const char *at = wp + c * step + k * size;
            __builtin_prefetch(at + ahead, 0, 2);
            w[c] = v16_load_fmt(f, at);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            struct v16 x = v16_load(xp + r * p->x_stride + k);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) acc[r][c] = v16_fma(x, w[c], acc[r][c]);
        }
    }
    if (k < K) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) w[c] = v16_load_fmt_first(f, wp + c * step + k * size, K - k);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            struct v16 x = v16_load_masked(xp + r * p->x_stride + k, m16_first(K - k));
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) acc[r][c] = v16_fma(x, w[c], acc[r][c]);
        }
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
    const int64_t ahead = !first ? 0 : p->ahead ? p->ahead : p->w_stride * C * (f == FMT_F32 ? 4 : 2);
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
    int64_t fit = STRIP_BYTES / ((int64_t)(p->K > 0 ? p->K : 1) * (f == FMT_F32 ? 4 : 2)) / 8 * 8;
    int width = fit < 8 ? 8 : fit > p->cols ? p->cols : (int)fit;
    for (int col = 0; col < p->cols; col += width) strip(p, col, p->cols - col < width ? p->cols : col + width, f);
}

void ISA(products)(const struct products *p) {
    if (p->fmt == FMT_F32) strips(p, FMT_F32);
    else strips(p, FMT_BF16);
}
