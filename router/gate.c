/* gate.c - checks and names gate rules. The selection itself is an operation of the kernels (gate_select), because its rows
 * may live on a device; the rule is plain data, so everything else about it can be pure. */
#include "router/gate.h"

#include <math.h>
#include <stdio.h>

enum { MAX_EXPERTS = 16384, MAX_K = 64 };

static int check_choice(const struct gate_rule *r, struct why *why) {
    if (r->experts < 1 || r->experts > MAX_EXPERTS)
        return fail(why, ERR_INVALID, "gate rule: %d experts, expected 1..%d", r->experts, MAX_EXPERTS);
    if (r->zero < 0 || r->zero > MAX_EXPERTS)
        return fail(why, ERR_INVALID, "gate rule: %d identity experts, expected 0..%d", r->zero, MAX_EXPERTS);
    int most = gate_width(r) < MAX_K ? gate_width(r) : MAX_K;
    if (r->k < 1 || r->k > most)
        return fail(why, ERR_INVALID, "gate rule: %d experts per token, expected 1..%d (of %d experts)", r->k, most,
                    gate_width(r));
    if ((unsigned)r->apply > GATE_INPUT)
        return fail(why, ERR_INVALID, "gate rule: weights applied to %d, expected output or input", (int)r->apply);
    if (r->apply == GATE_INPUT && r->k > 1)
        return fail(why, ERR_INVALID, "gate rule: weights applied to the input of %d experts, expected 1: a token is sent once",
                    r->k);
    return 0;
}

static int check_groups(const struct gate_rule *r, struct why *why) {
    if ((unsigned)r->group > GATE_GROUP_TOP2SUM)
        return fail(why, ERR_INVALID, "gate rule: unknown group rule %d, expected none, max or top2sum", (int)r->group);
    if (r->group == GATE_GROUP_NONE) return 0;
    if (r->zero) return fail(why, ERR_INVALID, "gate rule: %d identity experts beside groups, expected 0", r->zero);
    if (r->groups < 1 || r->groups > GATE_MAX_GROUPS || r->experts % r->groups)
        return fail(why, ERR_INVALID, "gate rule: %d groups of %d experts, expected 1..%d equal ones", r->groups, r->experts,
                    GATE_MAX_GROUPS);
    int size = r->experts / r->groups;
    if (r->group == GATE_GROUP_TOP2SUM && size < 2)
        return fail(why, ERR_INVALID, "gate rule: groups of one expert, expected two or more for the sum of the two best");
    if (r->topk_group < 1 || r->topk_group > r->groups)
        return fail(why, ERR_INVALID, "gate rule: the best %d groups, expected 1..%d", r->topk_group, r->groups);
    if (r->topk_group * size < r->k)
        return fail(why, ERR_INVALID, "gate rule: %d experts from %d groups of %d, expected groups that hold as many", r->k,
                    r->topk_group, size);
    if (r->group_fill != 0 && r->group_fill != -INFINITY)
        return fail(why, ERR_INVALID, "gate rule: %g for experts outside the chosen groups, expected 0 or -inf",
                    (double)r->group_fill);
    return 0;
}

static int check_weights(const struct gate_rule *r, struct why *why) {
    if ((unsigned)r->score > GATE_RAW)
        return fail(why, ERR_INVALID, "gate rule: unknown score function %d, expected softmax, sigmoid, sqrtsoftplus or raw",
                    (int)r->score);
    if ((unsigned)r->weight > GATE_WEIGHT_ONE)
        return fail(why, ERR_INVALID, "gate rule: unknown weight source %d, expected score or one", (int)r->weight);
    if ((unsigned)r->norm > GATE_NORM_SOFTMAX)
        return fail(why, ERR_INVALID, "gate rule: unknown normalisation %d, expected none, sum or softmax", (int)r->norm);
    if (!(r->norm_eps >= 0) || r->norm_eps > 1)
        return fail(why, ERR_INVALID, "gate rule: normalisation epsilon %g, expected 0..1", (double)r->norm_eps);
    if (!isfinite(r->scale) || !(r->scale > 0))
        return fail(why, ERR_INVALID, "gate rule: scale %g of the weights, expected a number above 0", (double)r->scale);
    return 0;
}

int gate_rule_check(const struct gate_rule *r, struct why *why) {
    int rc = check_choice(r, why);
    if (rc >= 0) rc = check_groups(r, why);
    return rc >= 0 ? check_weights(r, why) : rc;
}

void gate_rule_text(const struct gate_rule *r, char *buf, size_t cap) {
    static const char *const score[] = {"softmax", "sigmoid", "sqrt-softplus", "raw"};
    static const char *const norm[] = {"", ", normalised", ", softmax over selected"};
    char zero[32] = "", groups[64] = "", scale[32] = "";
    if (r->zero) snprintf(zero, sizeof zero, " + %d identity", r->zero);
    if (r->group != GATE_GROUP_NONE)
        snprintf(groups, sizeof groups, " in the best %d of %d groups%s", r->topk_group, r->groups,
                 r->group_fill == 0 ? " (others 0)" : "");
    if (r->scale != 1) snprintf(scale, sizeof scale, ", times %g", (double)r->scale);
    snprintf(buf, cap, "%s top-%d of %d%s%s%s%s%s%s", score[r->score], r->k, r->experts, zero, groups,
             r->weight == GATE_WEIGHT_ONE ? ", each with weight 1" : "", norm[r->norm], scale,
             r->apply == GATE_INPUT ? ", on the input" : "");
}
