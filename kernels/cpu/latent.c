/* latent.c - multi-head latent attention's products per head, split by heads and blocks of rows.
 *
 * Row blocks of one head follow one another, so that its part of kv_b is in a shared cache when the next block wants it. */
#include <string.h>

#include "base/log.h"
#include "kernels/cpu/cpu.h"

struct latent_job {
    const struct vec *vec;
    const struct latent_heads *m;
    float *out;
    const float *in;
    int T, block, blocks;
};

static const void *head_rows(const struct latent_heads *m, int row) {
    return (const char *)m->kv_b.data + (size_t)row * (size_t)m->kv_b.cols * fmt_bytes(m->kv_b.fmt);
}

static void query_task(void *arg, int task, int thread) {
    const struct latent_job *j = arg;
    const struct latent_heads *m = j->m;
    (void)thread;
    int head = task / j->blocks, first = task % j->blocks * j->block, rank = m->kv_b.cols;
    int64_t in = (int64_t)m->heads * (m->nope + m->rope), out = (int64_t)m->heads * (rank + m->rope);
    struct transposed p = {.out = j->out + first * out + (int64_t)head * (rank + m->rope),
                           .x = j->in + first * in + (int64_t)head * (m->nope + m->rope),
                           .w = head_rows(m, head * (m->nope + m->value)), .out_stride = out, .x_stride = in, .w_stride = rank,
                           .fmt = m->kv_b.fmt, .rows = imin(j->block, j->T - first), .cols = rank, .K = m->nope};
    j->vec->transposed(&p);
    for (int r = 0; r < p.rows; r++) memcpy(p.out + r * out + rank, p.x + r * in + m->nope, (size_t)m->rope * sizeof *p.out);
}

static void value_task(void *arg, int task, int thread) {
    const struct latent_job *j = arg;
    const struct latent_heads *m = j->m;
    (void)thread;
    int head = task / j->blocks, first = task % j->blocks * j->block, rank = m->kv_b.cols;
    int64_t in = (int64_t)m->heads * rank, out = (int64_t)m->heads * m->value;
    struct products p = {.out = j->out + first * out + (int64_t)head * m->value, .x = j->in + first * in + (int64_t)head * rank,
                         .w = head_rows(m, head * (m->nope + m->value) + m->nope), .out_stride = out, .x_stride = in,
                         .w_stride = rank, .fmt = m->kv_b.fmt, .rows = imin(j->block, j->T - first), .cols = m->value,
                         .K = rank};
    j->vec->products(&p);
}

static void run(struct backend *b, team_fn *task, float *out, const float *in, const struct latent_heads *m, int rows, int T) {
    struct cpu *c = cpu_of(b);
    if (m->kv_b.fmt != FMT_F32 && m->kv_b.fmt != FMT_BF16) BUG("latent heads of %s", fmt_name(m->kv_b.fmt));
    if (T <= 0) return;
    int fit = (int)(CPU_TASK_MACS / ((int64_t)rows * m->kv_b.cols + 1)) / 6 * 6;
    struct latent_job j = {c->vec, m, out, in, T, imin(T, imax(fit, 6)), 0};
    j.blocks = (T + j.block - 1) / j.block;
    team_run(c->team, task, &j, m->heads * j.blocks);
}

void cpu_latent_query(struct backend *b, float *out, const float *q, const struct latent_heads *m, int T) {
    run(b, query_task, out, q, m, m->nope, T);
}

void cpu_latent_value(struct backend *b, float *out, const float *x, const struct latent_heads *m, int T) {
    run(b, value_task, out, x, m, m->value, T);
}
