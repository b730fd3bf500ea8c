/* quant_ffn.c - down(act(gate x, up x)) with quantised weights, for many groups of rows in three dispatches.
 *
 * The rows of all groups are rounded to int8; then gate, up, the activation and its rounding in one task for some groups of
 * neurons (32 neurons are one group of what down meets, so no task waits for another); then down. A task is a block of outputs
 * for a block of rows of one group. Rounds: as many rows as the scratch holds. */
#include "base/log.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/quant_tasks.h"

struct rounded { /* rows of activations in scratch */
    int8_t *q;
    struct quant_group *group;
};

struct part { /* some rows of one group in this round */
    const struct ffn *f;
    struct rounded x, act;
    float *y; /* [rows, H] */
    int rows, row_block;
    bool add;
    int first_task[2], col_block[2]; /* of the last two dispatches */
};

enum { MAX_PARTS = 4096 };

struct quant_ffn {
    const struct vec *vec;
    struct part *parts;
    const float **source; /* [rows] of x */
    struct rounded x;
    int n, rows, H, phase, threads;
    int tasks[2];
};

static int blocks(int n, int each) { return (n + each - 1) / each; }

static struct rounded rounded_row(struct rounded all, int row, int groups) {
    return (struct rounded){all.q + (int64_t)row * groups * QUANT_GROUP, all.group + (int64_t)row * groups};
}

static void round_rows(void *arg, int first, int count) {
    const struct quant_ffn *j = arg;
    for (int t = first; t < first + count; t++) {
        struct rounded to = rounded_row(j->x, t, quant_groups(j->H));
        j->vec->quantise(to.q, to.group, j->source[t], j->H);
    }
}

static void times(const struct vec *vec, float *out, int64_t stride, struct rounded x, int row, int rows, struct mat w, int col,
                  int cols, const float *bias, bool add, struct quant_next then) {
    struct quant_products p = quant_products_of(w, col, cols);
    const struct rounded from = rounded_row(x, row, p.groups);
    p.x = from.q;
    p.x_groups = from.group;
    p.out = out;
    p.out_stride = stride;
    p.rows = rows;
    p.bias = bias ? bias + col : NULL;
    p.add = add;
    p.then = then;
    vec->quant_products(&p);
}

/* One group of neurons, or what is left of it, for some rows. then: the gate's weights that are wanted next. */
static void activate(const struct vec *vec, const struct part *p, int row, int rows, int neuron, struct quant_next then) {
    enum { ROWS = 48 };
    float gate[ROWS * QUANT_GROUP], up[ROWS * QUANT_GROUP];
    const int I = p->f->gate.rows, n = imin(QUANT_GROUP, I - neuron), groups = quant_groups(I);
    for (int end = row + rows; row < end; row += ROWS) {
        const int some = imin(ROWS, end - row);
        times(vec, gate, n, p->x, row, some, p->f->gate, neuron, n, p->f->gate_bias, false,
              p->f->up.data ? quant_next_of(p->f->up, neuron) : then);
        if (p->f->up.data) {
            times(vec, up, n, p->x, row, some, p->f->up, neuron, n, p->f->up_bias, false, then);
            if (p->f->act.limit > 0) vec->swiglu(gate, up, p->f->act, (int64_t)some * n);
            else vec->silu_mul(gate, up, (int64_t)some * n);
        }
        for (int r = 0; r < some; r++) {
            const struct rounded to = rounded_row(p->act, row + r, groups);
            vec->quantise(to.q + neuron, to.group + neuron / QUANT_GROUP, gate + r * n, n);
        }
    }
}

static const struct part *part_of_task(const struct quant_ffn *j, int task) {
    int lo = 0, hi = j->n; /* the last part whose first task is not after task */
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (j->parts[mid].first_task[j->phase] <= task) lo = mid;
        else hi = mid;
    }
    return &j->parts[lo];
}

/* Where the weights of a task begin; nowhere if there is none of that number. */
static struct quant_next weights_of_task(const struct quant_ffn *j, int task) {
    if (task >= j->tasks[j->phase]) return (struct quant_next){0};
    const struct part *p = part_of_task(j, task);
    const int col = (task - p->first_task[j->phase]) / blocks(p->rows, p->row_block) * p->col_block[j->phase];
    return quant_next_of(j->phase ? p->f->down : p->f->gate, col);
}

static void ffn_task(void *arg, int task, int thread) {
    const struct quant_ffn *j = arg;
    const struct part *p = part_of_task(j, task);
    (void)thread;
    const int at = task - p->first_task[j->phase], row_blocks = blocks(p->rows, p->row_block), width = p->col_block[j->phase];
    const int row = at % row_blocks * p->row_block, rows = imin(p->row_block, p->rows - row), col = at / row_blocks * width;
    const struct quant_next then = weights_of_task(j, task + j->threads); /* likely this thread's next */
    if (j->phase == 0) {
        const int end = imin(col + width, p->f->gate.rows);
        for (int i = col; i < end; i += QUANT_GROUP)
            activate(j->vec, p, row, rows, i, i + QUANT_GROUP < end ? quant_next_of(p->f->gate, i + QUANT_GROUP) : then);
        return;
    }
    times(j->vec, p->y + (int64_t)row * j->H + col, j->H, p->act, row, rows, p->f->down, col, imin(width, j->H - col),
          p->f->down_bias, p->add, then);
}

/* Adds a part's tasks to both dispatches. */
static void plan_part(const struct cpu *c, struct quant_ffn *j, struct part *p, int groups) {
    const int outputs[2] = {p->f->gate.rows, j->H}, cols[2] = {2 * j->H, p->f->gate.rows};
    p->row_block = quant_row_block(p->rows, quant_groups(imax(j->H, p->f->gate.rows)));
    const int row_blocks = blocks(p->rows, p->row_block);
    for (int phase = 0; phase < 2; phase++) {
        p->first_task[phase] = j->tasks[phase];
        p->col_block[phase] = quant_col_block(c, outputs[phase], cols[phase], p->row_block, groups * row_blocks);
        j->tasks[phase] += row_blocks * blocks(outputs[phase], p->col_block[phase]);
    }
}

/* What is left of the scratch. */
struct room {
    char *at;
};
static void *take(struct room *r, size_t bytes) {
    void *p = r->at;
    r->at += (bytes + 63) / 64 * 64;
    return p;
}

static void add_part(const struct cpu *c, struct quant_ffn *j, struct room *r, const struct ffn_group *g, int done, int rows,
                     const float *x, float *y, int groups) {
    const int wide = quant_groups(g->weights->gate.rows);
    struct part *p = &j->parts[j->n++];
    *p = (struct part){.f = g->weights, .rows = rows, .add = g->add, .y = y + (int64_t)(g->first + done) * j->H};
    p->x = rounded_row(j->x, j->rows, quant_groups(j->H));
    p->act.q = take(r, (size_t)rows * (size_t)wide * QUANT_GROUP);
    p->act.group = take(r, (size_t)rows * (size_t)wide * sizeof *p->act.group);
    for (int i = 0; i < rows; i++) j->source[j->rows++] = x + (int64_t)(g->first + done + i) * j->H;
    plan_part(c, j, p, groups);
}

/* In the scratch: the parts, then what a round's rows have in common; each part adds its activations. */
static struct room open_round(const struct cpu *c, struct quant_ffn *j, int rows) {
    struct room r = {c->scratch};
    const size_t groups = (size_t)quant_groups(j->H);
    j->parts = take(&r, sizeof *j->parts * MAX_PARTS);
    j->source = take(&r, sizeof *j->source * (size_t)rows);
    j->x.q = take(&r, (size_t)rows * groups * QUANT_GROUP);
    j->x.group = take(&r, (size_t)rows * groups * sizeof *j->x.group);
    return r;
}

/* Rows of a round: so many that the widest of the FFNs finds room for its activations too. */
static int round_rows_at_most(const struct ffn_group *groups, int n, int H) {
    size_t widest = 0, rows = 0;
    for (int g = 0; g < n; g++) {
        const size_t wide = quant_row_bytes(quant_groups(groups[g].weights->gate.rows));
        widest = wide > widest ? wide : widest;
        rows += (size_t)groups[g].count;
    }
    const size_t room = CPU_SCRATCH_BYTES - sizeof(struct part) * MAX_PARTS - 64 * (2 * MAX_PARTS + 8); /* take rounds up */
    const size_t fit = room / (sizeof(float *) + quant_row_bytes(quant_groups(H)) + widest);
    if (!fit) BUG("an FFN of %d inputs: more than the scratch holds", H);
    return (int)(rows < fit ? rows : fit);
}

void cpu_quant_ffn(struct cpu *c, float *y, const float *x, const struct ffn_group *groups, int n_groups, int H) {
    const int most = round_rows_at_most(groups, n_groups, H);
    if (!most) return; /* no group has rows, and a round takes at least one */
    for (int g = 0, done = 0; g < n_groups;) { /* done: rows of group g that earlier rounds took */
        struct quant_ffn j = {.vec = c->vec, .H = H, .threads = c->base.threads};
        struct room room = open_round(c, &j, most);
        while (g < n_groups && j.n < MAX_PARTS && j.rows < most) {
            const int left = groups[g].count - done, rows = imin(left, most - j.rows);
            if (rows > 0) add_part(c, &j, &room, &groups[g], done, rows, x, y, n_groups);
            done = rows < left ? done + rows : 0;
            g += rows == left;
        }
        cpu_rows(c, round_rows, &j, j.rows, H);
        for (j.phase = 0; j.phase < 2; j.phase++) team_run(c->team, ffn_task, &j, j.tasks[j.phase]);
    }
}
