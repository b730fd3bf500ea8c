/* gate.c - a flat gate's rule for one row at a time: scores by the vector routines, then k times the largest. */
#include <math.h>

#include "base/log.h"
#include "kernels/cpu/cpu.h"

struct gate_job {
    const struct vec *vec;
    int32_t *ids;
    float *weights;
    const float *logits, *sel_bias;
    const struct gate_rule *rule;
    char *thread_scratch;
};

static void scores_of(const struct gate_job *j, float *score, const float *logits) {
    int E = j->rule->experts;
    switch (j->rule->score) {
    case GATE_SOFTMAX: j->vec->softmax(score, logits, E); break;
    case GATE_SIGMOID: j->vec->sigmoid(score, logits, E); break;
    case GATE_RAW: j->vec->widen(score, logits, FMT_F32, E); break;
    }
}

/* rank [E] is used up: a taken expert becomes NaN, which argmax never picks. */
static void select_row(const struct gate_job *j, int32_t *ids, float *rank) {
    for (int e = 0; e < j->rule->experts; e++) {
        if (isnan(rank[e])) rank[e] = -INFINITY;
    }
    for (int i = 0; i < j->rule->k; i++) {
        ids[i] = j->vec->argmax(rank, j->rule->experts);
        rank[ids[i]] = NAN;
    }
}

static void weigh_row(const struct gate_job *j, const int32_t *ids, float *weights, const float *score) {
    const struct gate_rule *rule = j->rule;
    float sum = 0;
    for (int i = 0; i < rule->k; i++) {
        weights[i] = rule->weight == GATE_WEIGHT_ONE ? 1 : score[ids[i]];
        sum += weights[i];
    }
    if (rule->weight == GATE_WEIGHT_SCORE && rule->norm == GATE_NORM_SUM) {
        for (int i = 0; i < rule->k; i++) weights[i] /= sum + rule->norm_eps;
    }
    if (rule->weight == GATE_WEIGHT_SCORE && rule->norm == GATE_NORM_SOFTMAX) j->vec->softmax(weights, weights, rule->k);
    for (int i = 0; i < rule->k; i++) weights[i] *= rule->scale;
}

static void gate_task(void *arg, int t, int thread) {
    const struct gate_job *j = arg;
    int64_t E = j->rule->experts, k = j->rule->k;
    float *score = (float *)(j->thread_scratch + (size_t)thread * CPU_THREAD_BYTES), *rank = score + E;
    const float *logits = j->logits + t * E;
    scores_of(j, score, logits);
    for (int e = 0; e < E; e++) rank[e] = j->sel_bias ? score[e] + j->sel_bias[e] : logits[e];
    select_row(j, j->ids + t * k, rank);
    weigh_row(j, j->ids + t * k, j->weights + t * k, score);
}

void cpu_gate_select(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                     const struct gate_rule *rule, int T) {
    struct cpu *c = cpu_of(b);
    if ((size_t)rule->experts * 2 * sizeof(float) > CPU_THREAD_BYTES) BUG("a gate over %d experts: too many", rule->experts);
    struct gate_job j = {c->vec, ids, weights, logits, sel_bias, rule, c->thread_scratch};
    if (T >= 8) {
        team_run(c->team, gate_task, &j, T);
        return;
    }
    for (int t = 0; t < T; t++) gate_task(&j, t, 0); /* a few microseconds: not worth waking anybody */
}
