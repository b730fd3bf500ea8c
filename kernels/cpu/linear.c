/* linear.c - y = W x split into blocks of outputs by blocks of rows, and chosen blocks for chosen rows.
 *
 * Blocks of one column range follow one another, so that its weights are in a shared cache when the next rows want them. A
 * row block is small enough that its rows stay in the second-level cache while the weights of the task pass by. */
#include <string.h>

#include "base/log.h"
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

/* Rows whose distance is a multiple of half a page fall on the same few lines of the first-level cache, and a tile's rows push
 * each other out: a sixth of the speed. So they are copied a line further apart, where enough outputs pay for it. */
enum { SPREAD_EVERY = 512, SPREAD_BY = 16, SPREAD_ROWS = 6, SPREAD_OUTPUTS = 32 };

struct spread {
    const float *x;
    float *out;
    int K;
};

static void spread_rows(void *arg, int first, int count) {
    const struct spread *s = arg;
    for (int t = first; t < first + count; t++)
        memcpy(s->out + (int64_t)t * (s->K + SPREAD_BY), s->x + (int64_t)t * s->K, sizeof(float) * (size_t)s->K);
}

static void spread(struct cpu *c, struct products *p) {
    size_t bytes = (size_t)p->rows * (size_t)(p->K + SPREAD_BY) * sizeof(float);
    if (p->K % SPREAD_EVERY || p->rows < SPREAD_ROWS || p->cols < SPREAD_OUTPUTS || bytes > CPU_SCRATCH_BYTES) return;
    struct spread s = {p->x, (float *)c->scratch, p->K};
    cpu_rows(c, spread_rows, &s, p->rows, p->K);
    p->x = s.out;
    p->x_stride = p->K + SPREAD_BY;
}

void cpu_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    struct cpu *c = cpu_of(b);
    if (T <= 0 || w.rows <= 0) return;
    if (fmt_quant(w.fmt)) {
        cpu_quant_linear(c, y, x, w, bias, add, T);
        return;
    }
    int fit = imax(64 * 1024 / imax(w.cols, 1), 1) / 6 * 6; /* rows of x in 256 KB */
    struct linear_job j = {.vec = c->vec, .whole = products_of(w, 0, w.rows, x, T)};
    j.whole.out = y;
    j.whole.out_stride = w.rows;
    j.whole.bias = bias;
    j.whole.add = add;
    spread(c, &j.whole);
    j.row_block = imin(T, imax(fit, 6));
    j.row_blocks = (T + j.row_block - 1) / j.row_block;
    j.col_block = cpu_col_block(c, w.rows, (int64_t)j.row_block * w.cols, j.row_blocks);
    int col_blocks = (w.rows + j.col_block - 1) / j.col_block;
    team_run(c->team, linear_task, &j, j.row_blocks * col_blocks);
}

struct blocks_job {
    const struct vec *vec;
    const float *x;
    struct mat w;
    float *y;
    /* order: pairs by ascending block, so that a block's weights are met while still cached */
    const int32_t *row, *block, *order;
    int n, col_block, col_blocks;
};

static void blocks_task(void *arg, int task, int thread) {
    const struct blocks_job *j = arg;
    (void)thread;
    int p = j->order[task / j->col_blocks], col = task % j->col_blocks * j->col_block;
    int64_t K = j->w.cols, first = (int64_t)j->block[p] * j->n + col;
    struct products one = {.out = j->y + (int64_t)p * j->n + col, .out_stride = j->n, .x = j->x + j->row[p] * K, .x_stride = K,
                           .w = (const char *)j->w.data + (size_t)(first * K) * fmt_bytes(j->w.fmt), .w_stride = K,
                           .fmt = j->w.fmt, .rows = 1, .cols = imin(j->col_block, j->n - col), .K = j->w.cols};
    j->vec->products(&one);
}

/* A counting sort: order[P] of pairs, stable, by block; start has one entry more than there are blocks. */
static void order_pairs(int32_t *order, int32_t *start, const int32_t *block, int P, int blocks) {
    memset(start, 0, sizeof *start * ((size_t)blocks + 1));
    for (int p = 0; p < P; p++) start[block[p] + 1]++;
    for (int i = 0; i < blocks; i++) start[i + 1] += start[i];
    for (int p = 0; p < P; p++) order[start[block[p]]++] = p;
}

void cpu_linear_blocks(struct backend *b, float *y, const float *x, struct mat w, int n, const int32_t *row,
                       const int32_t *block, int P) {
    struct cpu *c = cpu_of(b);
    if (P <= 0) return;
    const int blocks = w.rows / n, most = (int)(CPU_SCRATCH_BYTES / sizeof(int32_t)) - blocks - 1;
    if (most < 1) BUG("a matrix of %d blocks: too many", blocks);
    struct blocks_job j = {.vec = c->vec, .x = x, .w = w, .y = y, .row = row, .block = block, .n = n};
    while (P > 0) {
        int count = imin(P, most);
        int32_t *start = (int32_t *)c->scratch, *order = start + blocks + 1;
        order_pairs(order, start, j.block, count, blocks);
        j.order = order;
        j.col_block = cpu_col_block(c, n, w.cols, count);
        j.col_blocks = (n + j.col_block - 1) / j.col_block;
        team_run(c->team, blocks_task, &j, count * j.col_blocks);
        j.y += (int64_t)count * n;
        j.row += count;
        j.block += count;
        P -= count;
    }
}
