/* quant_make.h - a group of a panel on its way from f32 to q8 or q4. Internal to kernels/quant.c. */
#pragma once
#include <stdalign.h>

#include "kernels/quant.h"

struct quant_making {
    alignas(64) float x[QUANT_GROUP][QUANT_PANEL]; /* column by row; columns from n on are padding, not read. Overwritten */
    alignas(64) float scale[QUANT_PANEL], zero[QUANT_PANEL];
    uint8_t code[QUANT_GROUP][QUANT_PANEL];
    int n; /* >= 1 */
};

/* Fills scale, zero (q4) and code. */
typedef void quant_make_fn(struct quant_making *g, enum fmt f);
quant_make_fn quant_make_plain, quant_make_avx2, quant_make_avx512;
