/* gate.c - a flat gate's rule in the order of its steps: score, select, weigh, normalise, scale.
 *
 * Selection is k times "the best not yet taken", which is what "score descending, equal scores by lower id" says. A score
 * that is not a number counts as the worst, so that k different experts come out whatever goes in. */
#include <math.h>

#include "kernels/ref/ref.h"

struct row { /* one token's logits and what turns them into scores */
    const float *logits, *sel_bias;
    const struct gate_rule *rule;
    double max, sum; /* of the softmax over all E */
};

static double score(const struct row *r, int e) {
    switch (r->rule->score) {
    case GATE_SOFTMAX: return exp(r->logits[e] - r->max) / r->sum;
    case GATE_SIGMOID: return 1 / (1 + exp(-(double)r->logits[e]));
    case GATE_RAW: break;
    }
    return r->logits[e];
}

/* What selection compares: the biased score in f32 or, without bias, the logit itself: every score rises with its logit, and
 * so no rounding can make two different logits equal. */
static float rank(const struct row *r, int e) {
    float s = r->sel_bias ? (float)score(r, e) + r->sel_bias[e] : r->logits[e];
    return isnan(s) ? -INFINITY : s;
}

static bool taken(const int32_t *ids, int n, int e) {
    for (int j = 0; j < n; j++) {
        if (ids[j] == e) return true;
    }
    return false;
}

static void select_row(const struct row *r, int32_t *ids) {
    for (int j = 0; j < r->rule->k; j++) {
        int best = -1;
        for (int e = 0; e < r->rule->experts; e++) {
            if (!taken(ids, j, e) && (best < 0 || rank(r, e) > rank(r, best))) best = e;
        }
        ids[j] = best;
    }
}

static void weigh_row(const struct row *r, const int32_t *ids, float *weights) {
    const struct gate_rule *rule = r->rule;
    double sum = 0, exps = 0, max = -INFINITY;
    for (int j = 0; j < rule->k; j++) max = fmax(max, score(r, ids[j]));
    for (int j = 0; j < rule->k; j++) {
        sum += score(r, ids[j]);
        exps += exp(score(r, ids[j]) - max);
    }
    for (int j = 0; j < rule->k; j++) {
        double w = score(r, ids[j]);
        if (rule->weight == GATE_WEIGHT_ONE) w = 1;
        else if (rule->norm == GATE_NORM_SUM) w /= sum + rule->norm_eps;
        else if (rule->norm == GATE_NORM_SOFTMAX) w = exp(w - max) / exps;
        weights[j] = (float)(w * rule->scale);
    }
}

void ref_gate_select(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                     const struct gate_rule *rule, int T) {
    (void)b;
    for (int t = 0; t < T; t++, logits += rule->experts, ids += rule->k, weights += rule->k) {
        struct row r = {logits, sel_bias, rule, -INFINITY, 0};
        for (int e = 0; e < rule->experts; e++) r.max = fmax(r.max, logits[e]);
        for (int e = 0; e < rule->experts; e++) r.sum += exp(logits[e] - r.max);
        select_row(&r, ids);
        weigh_row(&r, ids, weights);
    }
}
