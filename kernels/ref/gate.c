/* gate.c - a flat gate's rule in the order of its steps: score, choose groups, select, weigh, normalise, scale.
 *
 * Every choice is "the best not yet taken, so many times", which is what "score descending, equal scores by lower id" says. A
 * score that is not a number counts as the worst, so that k different experts come out whatever goes in. */
#include <math.h>

#include "kernels/ref/ref.h"

struct row { /* one token's logits and what turns them into scores */
    const float *logits, *sel_bias;
    const struct gate_rule *rule;
    double max, sum;  /* of the softmax over all W */
    uint64_t allowed; /* groups that stay in the choice, one bit each */
};

static double score(const struct row *r, int e) {
    double z = r->logits[e];
    switch (r->rule->score) {
    case GATE_SOFTMAX: return exp(z - r->max) / r->sum;
    case GATE_SIGMOID: return 1 / (1 + exp(-z));
    case GATE_SQRTSOFTPLUS: return sqrt(z > 30 ? z : log1p(exp(z)));
    case GATE_RAW: break;
    }
    return z;
}

/* What selection compares: the biased score in f32 or, where their order is all that counts, the logit itself: every score
 * rises with its logit, and so no rounding can make two different logits equal. */
static float rank(const struct row *r, int e) {
    const struct gate_rule *rule = r->rule;
    bool order_alone = rule->group == GATE_GROUP_NONE || (rule->group == GATE_GROUP_MAX && rule->group_fill == -INFINITY);
    float s = r->sel_bias ? (float)score(r, e) + r->sel_bias[e] : order_alone ? r->logits[e] : (float)score(r, e);
    return isnan(s) ? -INFINITY : s;
}

static float group_score(const struct row *r, int g) {
    int size = r->rule->experts / r->rule->groups;
    float first = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; e++) {
        float s = rank(r, e);
        if (s > first) second = first, first = s;
        else if (s > second) second = s;
    }
    float sum = r->rule->group == GATE_GROUP_MAX ? first : first + second;
    return isnan(sum) ? -INFINITY : sum;
}

static void choose_groups(struct row *r) {
    float s[GATE_MAX_GROUPS];
    for (int g = 0; g < r->rule->groups; g++) s[g] = group_score(r, g);
    for (int n = 0; n < r->rule->topk_group; n++) {
        int best = -1;
        for (int g = 0; g < r->rule->groups; g++) {
            if (!(r->allowed >> g & 1) && (best < 0 || s[g] > s[best])) best = g;
        }
        r->allowed |= (uint64_t)1 << best;
    }
}

/* false: the expert may not be chosen at all. */
static bool candidate(const struct row *r, int e, float *value) {
    const struct gate_rule *rule = r->rule;
    bool excluded = rule->group != GATE_GROUP_NONE && !(r->allowed >> (e / (rule->experts / rule->groups)) & 1);
    *value = excluded ? rule->group_fill : rank(r, e);
    return !excluded || rule->group_fill != -INFINITY;
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
        float most = 0, value;
        for (int e = 0; e < gate_width(r->rule); e++) {
            if (taken(ids, j, e) || !candidate(r, e, &value) || (best >= 0 && value <= most)) continue;
            best = e;
            most = value;
        }
        ids[j] = best;
    }
}

/* What is -infinity was masked, and what is no number is broken: beside others neither has a part in a sum. */
static bool counts(double score) { return score > -INFINITY; }

static void weigh_row(const struct row *r, const int32_t *ids, float *weights) {
    const struct gate_rule *rule = r->rule;
    double sum = 0, exps = 0, max = -INFINITY;
    for (int j = 0; j < rule->k; j++) max = fmax(max, score(r, ids[j]));
    for (int j = 0; j < rule->k; j++) {
        if (!counts(score(r, ids[j]))) continue;
        sum += score(r, ids[j]);
        exps += exp(score(r, ids[j]) - max);
    }
    sum += rule->norm_eps;
    for (int j = 0; j < rule->k; j++) {
        double w = score(r, ids[j]);
        if (rule->weight == GATE_WEIGHT_ONE) w = 1;
        else if (rule->norm == GATE_NORM_SUM) w = counts(w) && sum != 0 ? w / sum : 0;
        else if (rule->norm == GATE_NORM_SOFTMAX) w = counts(w) ? exp(w - max) / exps : 0;
        weights[j] = (float)(w * rule->scale);
    }
}

void ref_gate_select(struct backend *b, int32_t *ids, float *weights, const float *logits, const float *sel_bias,
                     const struct gate_rule *rule, int T) {
    (void)b;
    int W = gate_width(rule);
    for (int t = 0; t < T; t++, logits += W, ids += rule->k, weights += rule->k) {
        struct row r = {logits, sel_bias, rule, -INFINITY, 0, 0};
        for (int e = 0; e < W; e++) r.max = fmax(r.max, logits[e]);
        for (int e = 0; e < W; e++) r.sum += exp(logits[e] - r.max);
        if (rule->group != GATE_GROUP_NONE) choose_groups(&r);
        select_row(&r, ids);
        weigh_row(&r, ids, weights);
    }
}
