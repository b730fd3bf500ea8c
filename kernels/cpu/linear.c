/* linear.c - y = W x split into blocks of outputs by blocks of rows.
 *
 * Blocks of one column range follow one another, so that its weights are in a shared cache when the next rows want them. A
 * row block is small enough that its rows stay in the second-level cache while the weights of the task pass by. */
#include "kernels/cpu/cpu.h"

struct linear_job {
    const struct vec *vec;
    struct products whole;
    int row_block, col_block, row_blocks;
};

static void linear_task(void *arg, int task, int thread) {
    const struct linear_job *j = arg;
    (void)thread;
    int row = task % j->row_blocks * j->row_block, col = task / j->row_blocks * j->col_block;
    struct products p = j->whole;
    p.rows = imin(j->row_block, p.rows - row);
    p.cols = imin(j->col_block, p.cols - col);
    p.out += row * p.out_stride + col;
    p.x += row * p.x_stride;
    p.w = (const char *)p.w + (size_t)col * mat_row_bytes(p.fmt, p.K);
    p.first = col;
    if (p.bias) p.bias += col;
    j->vec->products(&p);
}

void cpu_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    struct cpu *c = cpu_of(b);
    if (T <= 0 || w.rows <= 0) return;
    int fit = imax(64 * 1024 / imax(w.cols, 1), 1) / 6 * 6; /* rows of x in 256 KB */
    struct linear_job j = {.vec = c->vec, .whole = products_of(w, 0, w.rows, x, T)};
    j.whole.out = y;
    j.whole.out_stride = w.rows;
    j.whole.bias = bias;
    j.whole.add = add;
    j.row_block = imin(T, imax(fit, 6));
    j.row_blocks = (T + j.row_block - 1) / j.row_block;
    j.col_block = cpu_col_block(c, w.rows, (int64_t)j.row_block * w.cols, j.row_blocks);
    int col_blocks = (w.rows + j.col_block - 1) / j.col_block;
    team_run(c->team, linear_task, &j, j.row_blocks * col_blocks);
}
