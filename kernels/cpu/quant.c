/* quant.c - y = W x with quantised weights: all rows are rounded first, then tasks of whole panels by blocks of rows. */
#include "base/log.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/quant_tasks.h"

struct quant_job {
    const struct vec *vec;
    struct mat w;
    struct quant_products whole;
    const float *rows; /* [T, K] */
    int row_block, col_block, row_blocks;
};

static void round_rows(void *arg, int first, int count) {
    const struct quant_job *j = arg;
    const int64_t groups = j->whole.groups;
    for (int t = first; t < first + count; t++)
        j->vec->quantise((int8_t *)j->whole.x + t * groups * QUANT_GROUP, (struct quant_group *)j->whole.x_groups + t * groups,
                         j->rows + (int64_t)t * j->w.cols, j->w.cols);
}

static void quant_task(void *arg, int task, int thread) {
    const struct quant_job *j = arg;
    (void)thread;
    const int row = task % j->row_blocks * j->row_block, col = task / j->row_blocks * j->col_block;
    struct quant_products p = quant_products_of(j->w, col, imin(j->col_block, j->w.rows - col));
    p.rows = imin(j->row_block, j->whole.rows - row);
    p.out = j->whole.out + row * j->whole.out_stride + col;
    p.out_stride = j->whole.out_stride;
    p.x = j->whole.x + (int64_t)row * p.groups * QUANT_GROUP;
    p.x_groups = j->whole.x_groups + (int64_t)row * p.groups;
    p.bias = j->whole.bias ? j->whole.bias + col : NULL;
    p.add = j->whole.add;
    j->vec->quant_products(&p);
}

void cpu_quant_linear(struct cpu *c, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    const int groups = quant_groups(w.cols);
    const size_t row_bytes = quant_row_bytes(groups), room = CPU_SCRATCH_BYTES / row_bytes;
    if (!room) BUG("a matrix of %d columns: more than the scratch holds", w.cols);
    for (int from = 0; from < T;) {
        const int rows = T - from < (int64_t)room ? T - from : (int)room;
        struct quant_job j = {.vec = c->vec, .w = w, .rows = x + (int64_t)from * w.cols};
        j.whole = (struct quant_products){.out = y + (int64_t)from * w.rows,
                                          .out_stride = w.rows,
                                          .bias = bias,
                                          .add = add,
                                          .rows = rows,
                                          .groups = groups,
                                          .x = (int8_t *)c->scratch,
                                          .x_groups =
                                              (struct quant_group *)(c->scratch + (size_t)rows * (size_t)groups * QUANT_GROUP)};
        cpu_rows(c, round_rows, &j, rows, w.cols);
        j.row_block = quant_row_block(rows, groups);
        j.row_blocks = (rows + j.row_block - 1) / j.row_block;
        j.col_block = quant_col_block(c, w.rows, w.cols, j.row_block, j.row_blocks);
        team_run(c->team, quant_task, &j, j.row_blocks * ((w.rows + j.col_block - 1) / j.col_block));
        from += rows;
    }
}
