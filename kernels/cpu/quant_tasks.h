/* quant_tasks.h - how products of quantised weights are cut into tasks. */
#pragma once
#include "kernels/cpu/cpu.h"

/* Scratch for one row of rounded activations. */
static inline size_t quant_row_bytes(int groups) { return (size_t)groups * (QUANT_GROUP + sizeof(struct quant_group)); }

/* Rows of a task: as many as stay in the second-level cache beside two panels, in whole register tiles. */
static inline int quant_row_block(int rows, int groups) {
    enum { ROWS_BYTES = 256 * 1024, TILE = 6 };
    return imin(rows, imax(ROWS_BYTES / (int)quant_row_bytes(groups) / TILE, 1) * TILE);
}

/* Outputs of a task, in pairs of panels. A weight costs its load from memory, or eight rows or so of arithmetic. */
static inline int quant_col_block(const struct cpu *c, int outputs, int cols, int rows, int jobs) {
    const int pair = 2 * QUANT_PANEL, block = cpu_col_block(c, outputs, (int64_t)cols * (rows + 7) / 8, jobs);
    return (block + pair - 1) / pair * pair;
}
