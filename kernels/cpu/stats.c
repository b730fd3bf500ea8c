/* stats.c - maximum, its index and log-sum-exp of rows of logits, by blocks of the vocabulary at fixed places; and weights.
 *
 * A block keeps its own maximum and its sum relative to that; the blocks of a row are then put together in order. So one
 * dispatch reads the logits once from memory, and the result depends on no split. */
#include <math.h>

#include "kernels/cpu/cpu.h"

enum { BLOCK = 4096 };

struct part {
    float max, sum; /* of exp(x - max) over the block */
    int32_t argmax; /* in the row; -1 if the block holds no number */
};

struct stats_job {
    const struct vec *vec;
    struct part *parts; /* [T, blocks] */
    const float *logits;
    int V, blocks;
};

static void stats_rows(void *arg, int first, int count) {
    const struct stats_job *j = arg;
    for (int i = first; i < first + count; i++) {
        int at = i % j->blocks * BLOCK, n = imin(BLOCK, j->V - at);
        const float *x = j->logits + (int64_t)(i / j->blocks) * j->V + at;
        int best = j->vec->argmax(x, n);
        float max = best < 0 ? -INFINITY : x[best];
        j->parts[i] = (struct part){max, j->vec->sum_exp(x, max, n), best < 0 ? -1 : at + best};
    }
}

static struct logit_stats put_together(const struct part *p, int blocks, float first) {
    struct logit_stats s = {.max = first, .argmax = 0};
    int found = -1;
    for (int i = 0; i < blocks; i++) {
        if (p[i].argmax >= 0 && (found < 0 || p[i].max > s.max)) {
            found = p[i].argmax;
            s.max = p[i].max;
            s.argmax = found;
        }
    }
    double sum = 0;
    for (int i = 0; i < blocks; i++) sum += p[i].sum * exp((double)p[i].max - s.max);
    s.lse = (float)(s.max + log(sum));
    return s;
}

void cpu_logit_stats(struct backend *b, struct logit_stats *out, const float *logits, int T, int V) {
    struct cpu *c = cpu_of(b);
    struct stats_job j = {c->vec, (struct part *)c->scratch, logits, V, (V + BLOCK - 1) / BLOCK};
    int most = imax(CPU_SCRATCH_BYTES / (int)sizeof(struct part) / imax(j.blocks, 1), 1); /* rows in a round */
    for (int t = 0; t < T; t += most, j.logits += (int64_t)most * V) {
        int rows = imin(most, T - t);
        cpu_rows(c, stats_rows, &j, rows * j.blocks, BLOCK);
        for (int i = 0; i < rows; i++) out[t + i] = put_together(j.parts + i * j.blocks, j.blocks, j.logits[(int64_t)i * V]);
    }
}

struct weigh_job {
    const struct vec *vec;
    float *weights;
    uint16_t *buckets;
    const float *logits;
    float max, inverse;
    int V;
};

static void weigh_blocks(void *arg, int first, int count) {
    const struct weigh_job *j = arg;
    const int at = first * BLOCK, n = imin(count * BLOCK, j->V - at);
    j->vec->weigh(j->weights + at, j->buckets + at, j->logits + at, j->max, j->inverse, n);
}

void cpu_weigh(struct backend *b, float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int V) {
    struct weigh_job j = {cpu_of(b)->vec, weights, buckets, logits, max, inverse, V};
    cpu_rows(cpu_of(b), weigh_blocks, &j, (V + BLOCK - 1) / BLOCK, BLOCK);
}
