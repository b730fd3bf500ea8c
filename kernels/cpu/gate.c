/* gate.c - a flat gate's rule for one row at a time: scores by the vector routines, then k times the largest.
 *
 * The selection works on one array, the ranks. NaN there means "not to be had any more": taken, or of an excluded group. */
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

/* In double, so that the rounded result does not depend on which C library computed it. */
static void sqrt_softplus(float *score, const float *logits, int n) {
    for (int i = 0; i < n; i++) {
        double z = logits[i], softplus = (z > 0 ? z : 0) + log1p(exp(-fabs(z)));
        score[i] = (float)sqrt(softplus);
    }
}

static void scores_of(const struct gate_job *j, float *score, const float *logits) {
    int W = gate_width(j->rule);
    switch (j->rule->score) {
    case GATE_SOFTMAX: j->vec->softmax(score, logits, W); break;
    case GATE_SIGMOID: j->vec->sigmoid(score, logits, W); break;
    case GATE_SQRTSOFTPLUS: sqrt_softplus(score, logits, W); break;
    case GATE_RAW: j->vec->widen(score, logits, FMT_F32, W); break;
    }
}

static void ranks_of(const struct gate_job *j, float *rank, const float *score, const float *logits) {
    const struct gate_rule *r = j->rule;
    bool order_alone = r->group == GATE_GROUP_NONE || (r->group == GATE_GROUP_MAX && isinf(r->group_fill));
    const float *from = !j->sel_bias && order_alone ? logits : score;
    for (int e = 0; e < gate_width(r); e++) {
        float v = j->sel_bias ? from[e] + j->sel_bias[e] : from[e];
        rank[e] = v == v ? v : -INFINITY;
    }
}

static float group_score(const struct gate_job *j, float *member, int size) {
    int top = j->vec->argmax(member, size);
    float best = member[top];
    if (j->rule->group == GATE_GROUP_MAX) return best;
    member[top] = NAN;
    float sum = best + member[j->vec->argmax(member, size)];
    member[top] = best;
    return sum == sum ? sum : -INFINITY;
}

/* rank holds no NaN yet. */
static void exclude_groups(const struct gate_job *j, float *rank) {
    const struct gate_rule *r = j->rule;
    int size = r->experts / r->groups;
    float group[GATE_MAX_GROUPS];
    for (int g = 0; g < r->groups; g++) group[g] = group_score(j, rank + g * size, size);
    for (int n = 0; n < r->topk_group; n++) group[j->vec->argmax(group, r->groups)] = NAN;
    float fill = isinf(r->group_fill) ? NAN : r->group_fill;
    for (int g = 0; g < r->groups; g++) {
        for (int e = g * size; e < (g + 1) * size && !isnan(group[g]); e++) rank[e] = fill;
    }
}

/* rank [W] is used up. */
static void select_row(const struct gate_job *j, int32_t *ids, float *rank) {
    for (int i = 0; i < j->rule->k; i++) {
        ids[i] = j->vec->argmax(rank, gate_width(j->rule));
        rank[ids[i]] = NAN;
    }
}

/* What is -infinity was masked, and what is no number is broken: beside others neither has a part in a sum. */
static bool counts(float score) { return score > -INFINITY; }

static void weigh_by_sum(const struct gate_rule *rule, float *weights) {
    float sum = 0;
    for (int i = 0; i < rule->k; i++) sum += counts(weights[i]) ? weights[i] : 0;
    sum += rule->norm_eps;
    for (int i = 0; i < rule->k; i++) weights[i] = counts(weights[i]) && sum != 0 ? weights[i] / sum : 0;
}

static void weigh_by_softmax(const struct gate_job *j, const int32_t *ids, float *weights, const float *score) {
    int n = 0;
    for (int i = 0; i < j->rule->k; i++) {
        if (counts(weights[i])) n++;
        else weights[i] = -INFINITY;
    }
    if (n) j->vec->softmax(weights, weights, j->rule->k);
    for (int i = 0; i < j->rule->k; i++) weights[i] = counts(score[ids[i]]) ? weights[i] : 0;
}

static void weigh_row(const struct gate_job *j, const int32_t *ids, float *weights, const float *score) {
    const struct gate_rule *rule = j->rule;
    bool one = rule->weight == GATE_WEIGHT_ONE;
    for (int i = 0; i < rule->k; i++) weights[i] = one ? 1 : score[ids[i]];
    if (!one && rule->norm == GATE_NORM_SUM) weigh_by_sum(rule, weights);
    if (!one && rule->norm == GATE_NORM_SOFTMAX) weigh_by_softmax(j, ids, weights, score);
    for (int i = 0; i < rule->k; i++) weights[i] *= rule->scale;
}

static void gate_task(void *arg, int t, int thread) {
    const struct gate_job *j = arg;
    int64_t W = gate_width(j->rule), k = j->rule->k;
    float *score = (float *)(j->thread_scratch + (size_t)thread * CPU_THREAD_BYTES), *rank = score + W;
    const float *logits = j->logits + t * W;
    scores_of(j, score, logits);
    ranks_of(j, rank, score, logits);
    if (j->rule->group != GATE_GROUP_NONE) exclude_groups(j, rank);
    select_row(j, j->ids + t * k, rank);
    weigh_row(j, j->ids + t * k, j->weights + t * k, score);
}

void cpu_gate_select(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                     const struct gate_rule *rule, int T) {
    struct cpu *c = cpu_of(b);
    if ((size_t)gate_width(rule) * 2 * sizeof(float) > CPU_THREAD_BYTES)
        BUG("a gate over %d experts: too many", gate_width(rule));
    if (rule->group != GATE_GROUP_NONE && (rule->groups < 1 || rule->groups > GATE_MAX_GROUPS)) BUG("%d groups", rule->groups);
    struct gate_job j = {c->vec, ids, weights, logits, sel_bias, rule, c->thread_scratch};
    if (T >= 8) {
        team_run(c->team, gate_task, &j, T);
        return;
    }
    for (int t = 0; t < T; t++) gate_task(&j, t, 0); /* a few microseconds: not worth waking anybody */
}
