/* vec_latent.c - products with a weight matrix that is stored the other way round, [K, cols].
 *
 * Outputs lie side by side in a vector, so there is no sum across lanes: an output is one chain of fused steps in ascending k,
 * whatever tile it is computed in. A tile is R rows by C vectors of outputs; the weights of a step serve all its rows. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

#ifdef KERNELS_AVX512
enum { TILE_ROWS = 6, TILE_VECTORS = 4, ONE_ROW_VECTORS = 8 }; /* 24 accumulators of 32 registers */
#else
enum { TILE_ROWS = 3, TILE_VECTORS = 2, ONE_ROW_VECTORS = 4 }; /* 12 of 16 half-size registers */
#endif

/* `last`: elements in the last vector. R, C and f are constants at every call. */
INLINE void tile(const struct transposed *p, int row, int col, int last, const enum fmt f, const int R, const int C) {
    const int64_t size = bytes_of_kv(f, 1), step = p->w_stride * size;
    const char *w = (const char *)p->w + col * size;
    const float *x = p->x + row * p->x_stride;
    float *out = p->out + row * p->out_stride + col;
    struct v16 acc[TILE_ROWS][ONE_ROW_VECTORS], wide[ONE_ROW_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) acc[r][c] = v16_zero();
    }
    for (int k = 0; k < p->K; k++, w += step) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            const char *at = w + 16 * c * size;
            wide[c] = c < C - 1 || last == 16 ? v16_load_fmt(f, at) : v16_load_fmt_first(f, at, last);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            struct v16 factor = v16_set(x[r * p->x_stride + k]);
#pragma GCC unroll 8
            for (int c = 0; c < C; c++) acc[r][c] = v16_fma(factor, wide[c], acc[r][c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < C; c++) {
            v16_store_first(out + r * p->out_stride + 16 * c, c < C - 1 ? 16 : last, acc[r][c]);
        }
    }
}

INLINE void row_tile(const struct transposed *p, int row, const enum fmt f, const int R) {
    const int C = R == 1 ? ONE_ROW_VECTORS : TILE_VECTORS;
    int col = 0;
    for (; col + 16 * C <= p->cols; col += 16 * C) tile(p, row, col, 16, f, R, C);
    for (; col < p->cols; col += 16) tile(p, row, col, p->cols - col < 16 ? p->cols - col : 16, f, R, 1);
}

INLINE void rows(const struct transposed *p, const enum fmt f) {
    int row = 0;
    for (; row + TILE_ROWS <= p->rows; row += TILE_ROWS) row_tile(p, row, f, TILE_ROWS);
    for (; row < p->rows; row++) row_tile(p, row, f, 1);
}

void ISA(transposed)(const struct transposed *p) {
    if (p->fmt == FMT_F32) rows(p, FMT_F32);
    else rows(p, FMT_BF16);
}
