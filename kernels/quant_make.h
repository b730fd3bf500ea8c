/* quant_make.h - a group of a panel on its way from f32 to q8 or q4. Internal to kernels/quant.c. */
#pragma once
#include <stdalign.h>

#include "kernels/quant.h"

struct quant_making {
    alignas(64) float x[QUANT_GROUP][QUANT_PANEL]; /* column by row; columns from n on are padding, not read. Overwritten */
    alignas(64) float scale[QUANT_PANEL], zero[QUANT_PANEL];
    float weight[QUANT_GROUP]; /* how much a column's error counts, 1 on average; q4 */
    uint8_t code[QUANT_GROUP][QUANT_PANEL];
    int n; /* >= 1 */
};

/* One processor's build. make fills scale, zero (q4) and code. toward does so for the first g->n of the `left` columns at x,
 * which are those of the panel from there on, [left][16]: each column's error is taken out of those after it as u says
 * (quant_pack_toward), x is what remains. u points at the factor's row and column of the first, `stride` floats from row to
 * row. */
struct quant_maker {
    void (*make)(struct quant_making *g, enum fmt f);
    void (*toward)(struct quant_making *g, enum fmt f, float (*x)[QUANT_PANEL], int left, const float *u, int stride);
};
extern const struct quant_maker quant_maker_plain, quant_maker_avx2, quant_maker_avx512;
