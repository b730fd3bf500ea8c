/* ffn.c - down(act(gate x, up x)) for many groups of rows in two dispatches.
 *
 * First all groups' gate and up products, fused with the activation, into the scratch area [rows, I]; then all groups' down
 * products. A task is a block of outputs (neurons, then elements of y) for a block of rows of one group; small experts are
 * one task each, so a decode step over many of them is two passes of the team. Rounds: as many rows as the scratch holds. */
#include "base/log.h"
#include "kernels/cpu/cpu.h"

struct piece { /* some rows of one group, and where its tasks and activations are in this round */
    const struct ffn *f;
    float *act;       /* [rows, I] in scratch */
    const float *x;   /* [rows, H] */
    float *y;         /* [rows, H] */
    int rows;
    bool add;
    int first_task[2], col_block[2]; /* of the two dispatches */
};

enum { MAX_PIECES = 4096, ROW_BLOCK = 48 };

struct ffn_job {
    const struct vec *vec;
    const struct piece *pieces;
    int n, H, phase;
};

static int blocks(int n, int each) {
    return (n + each - 1) / each;
}

static const struct piece *piece_of_task(const struct ffn_job *j, int task) {
    int lo = 0, hi = j->n; /* the last piece whose first task is not after task */
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (j->pieces[mid].first_task[j->phase] <= task) lo = mid;
        else hi = mid;
    }
    return &j->pieces[lo];
}

/* act(gate x, up x) (or gate x) for a block of neurons, in strips whose gate and up values fit the two buffers. */
static void activate(const struct vec *vec, const struct piece *p, int row, int rows, int col, int cols) {
    enum { ROOM = 4096 };
    float up_values[ROOM], gate_values[ROOM];
    int I = p->f->gate.rows, width = imin(ROOM / rows / 16 * 16, cols);
    const float *x = p->x + (int64_t)row * p->f->gate.cols;
    for (int end = col + cols; col < end; col += width) {
        int n = imin(width, end - col);
        struct products gate = products_of(p->f->gate, col, n, x, rows);
        gate.out = gate_values;
        gate.out_stride = n;
        gate.bias = p->f->gate_bias ? p->f->gate_bias + col : NULL;
        vec->products(&gate);
        if (p->f->up.data) {
            struct products up = products_of(p->f->up, col, n, x, rows);
            up.out = up_values;
            up.out_stride = n;
            up.bias = p->f->up_bias ? p->f->up_bias + col : NULL;
            vec->products(&up);
            if (p->f->act.limit > 0) vec->swiglu(gate_values, up_values, p->f->act, (int64_t)rows * n);
            else vec->silu_mul(gate_values, up_values, (int64_t)rows * n);
        }
        for (int r = 0; r < rows; r++) vec->widen(p->act + (int64_t)(row + r) * I + col, gate_values + r * n, FMT_F32, n);
    }
}

static void ffn_task(void *arg, int task, int thread) {
    const struct ffn_job *j = arg;
    const struct piece *p = piece_of_task(j, task);
    (void)thread;
    int at = task - p->first_task[j->phase], row_blocks = blocks(p->rows, ROW_BLOCK);
    int row = at % row_blocks * ROW_BLOCK, rows = imin(ROW_BLOCK, p->rows - row);
    int width = p->col_block[j->phase], col = at / row_blocks * width;
    if (j->phase == 0) {
        activate(j->vec, p, row, rows, col, imin(width, p->f->gate.rows - col));
        return;
    }
    struct products down = products_of(p->f->down, col, imin(width, j->H - col), p->act + (int64_t)row * p->f->down.cols, rows);
    down.out = p->y + (int64_t)row * j->H + col;
    down.out_stride = j->H;
    down.add = p->add;
    down.bias = p->f->down_bias ? p->f->down_bias + col : NULL;
    j->vec->products(&down);
}

/* Adds a piece's tasks to both dispatches. */
static void plan_piece(const struct cpu *c, struct piece *p, int tasks[2], int H, int groups) {
    int outputs[2] = {p->f->gate.rows, H}, macs[2] = {2 * p->f->gate.cols, p->f->down.cols};
    int row_blocks = blocks(p->rows, ROW_BLOCK), rows = imin(p->rows, ROW_BLOCK);
    for (int phase = 0; phase < 2; phase++) {
        p->first_task[phase] = tasks[phase];
        p->col_block[phase] = cpu_col_block(c, outputs[phase], (int64_t)rows * macs[phase], groups * row_blocks);
        tasks[phase] += row_blocks * blocks(outputs[phase], p->col_block[phase]);
    }
}

static void plain_ffn(struct cpu *c, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H) {
    struct piece *pieces = (struct piece *)c->scratch;
    float *act = (float *)(c->scratch + (sizeof *pieces * MAX_PIECES + 63) / 64 * 64);
    float *end = (float *)(c->scratch + CPU_SCRATCH_BYTES);
    for (int g = 0, done = 0; g < n_groups;) { /* done: rows of group g that earlier rounds took */
        struct ffn_job j = {.vec = c->vec, .pieces = pieces, .H = H};
        int tasks[2] = {0, 0};
        for (float *free = act; g < n_groups && j.n < MAX_PIECES;) {
            const struct ffn *f = groups[g].weights;
            int64_t fit = (end - free) / imax(f->gate.rows, 1);
            if (f->gate.rows > end - act) BUG("an FFN of %d neurons: more than the scratch holds", f->gate.rows);
            int rows = (int)(fit < groups[g].count - done ? fit : groups[g].count - done);
            if (rows > 0) {
                int64_t at = (int64_t)(groups[g].first + done) * H;
                pieces[j.n] = (struct piece){
                    .f = f, .act = free, .x = x + at, .y = y + at, .rows = rows, .add = groups[g].add};
                plan_piece(c, &pieces[j.n++], tasks, H, n_groups);
                free += (int64_t)rows * f->gate.rows;
                done += rows;
            }
            if (done < groups[g].count) break;
            g++;
            done = 0;
        }
        for (j.phase = 0; j.phase < 2; j.phase++) team_run(c->team, ffn_task, &j, tasks[j.phase]);
    }
}

/* Groups of one kind at a time; a model's experts are of one. */
void cpu_ffn(struct backend *b, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H) {
    for (int from = 0, to; from < n_groups; from = to) {
        const bool quant = fmt_quant(groups[from].weights->gate.fmt);
        for (to = from + 1; to < n_groups && fmt_quant(groups[to].weights->gate.fmt) == quant;) to++;
        (quant ? cpu_quant_ffn : plain_ffn)(cpu_of(b), y, x, groups + from, to - from, H);
    }
}
