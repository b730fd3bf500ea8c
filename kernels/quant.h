/* quant.h - quantised weights, q8 and q4: what is in memory, what a product of them is, and how they are made.
 *
 * Groups are QUANT_GROUP columns (the last padded), panels QUANT_PANEL rows (the last padded); J = ceil(cols / 32) groups.
 *   data    [panels][J][32 columns, as below], 64-byte aligned, so that no load of a vector splits a cache line
 *     q8    8 vectors of 64 bytes per group: vector v holds of columns 4v .. 4v+3 all 16 rows, row r at bytes 4r .. 4r+3;
 *           a byte b is the number b - 128, in -127 .. 127
 *     q4    4 vectors: byte i of vector v has in its low nibble what byte i of vector 2v would hold, in its high nibble that
 *           of vector 2v+1; a nibble is 0 .. 15
 *   scales  [panels][J] of quant_scale_bytes: bf16 s[16], one per row; q4: then u8 z[16]
 * A weight is q8: (b - 128) * s, q4: (16 nibble - z) * s: 8.5 and 4.75 bits each. Padding rows have s = 0; a padding column
 * is 0 where the format can say so and meets activations of 0 where it cannot. Little endian.
 *
 * Activations are rounded too, group by group: with m the largest |x| of the group, scale = m / 127 and n = x * (127 / m) to
 * the nearest integer, halves to even; all 0 where m < QUANT_LEAST; scale NaN (and n 0) where an x is infinite or NaN.
 *
 * The product of a row of activations and a row of weights, whoever computes it, whatever is computed beside it:
 *   D(g) = sum over the group of n * (b - 128), or n * (16 nibble - z): integers, exact in 32 bits
 *   y = 0; for ascending g: y = fma((float)D(g), s(g) * scale(g), y); then + bias, then + the former y where it adds
 * with s * scale rounded to f32. So all instruction sets, ref among them, give the same bits. */
#pragma once
#include "kernels/kernels.h"

enum { QUANT_GROUP = 32, QUANT_PANEL = 16 };
#define QUANT_LEAST 1e-30f

static inline size_t quant_scale_bytes(enum fmt f) { return f == FMT_Q4 ? 48 : 32; } /* of a panel's group */
static inline int quant_groups(int cols) { return (cols + QUANT_GROUP - 1) / QUANT_GROUP; }

/* Activations: row t's numbers at q + t * K32, K32 = quant_groups(K) * 32, and its groups at group + t * quant_groups(K). */
struct quant_group {
    float scale;
    int32_t minus, minus128; /* the sum of the group's numbers, times -1 and -128 */
};

/* One weight, as f32. w.fmt is quantised. */
float quant_weight(struct mat w, int row, int col);
/* Quantises rows [first, first + n) of a matrix into their place in a piece (mat_held) of mat_held_bytes. x [n, cols];
 * first is a multiple of QUANT_PANEL, and so is n but at the matrix's end. Any thread; different panels at once. A weight that
 * is no finite number makes its group NaN. */
void quant_pack(void *piece, enum fmt f, int rows, int cols, int first, int n, const float *x);
/* The same of one panel, n at most QUANT_PANEL, for what its products shall be rather than for what its weights are (GPTQ,
 * arXiv 2210.17323): columns are rounded in ascending order, and the error of each is made good by those after it, as far as
 * inputs allow. u [cols, cols], upper triangular, positive diagonal: (u^T u) is the inverse of the second moments of the
 * inputs, sum of x x^T. x [cols][QUANT_PANEL], 64-byte aligned, rows beyond n zero; it is used up. */
void quant_pack_toward(void *piece, enum fmt f, int rows, int cols, int first, float (*x)[QUANT_PANEL], const float *u);
