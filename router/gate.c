/* gate.c - checks and names gate rules. The selection itself is an operation of the kernels (gate_select), because its rows
 * may live on a device; the rule is plain data, so everything else about it can be pure. */
#include "router/gate.h"

#include <math.h>
#include <stdio.h>

enum { MAX_EXPERTS = 16384, MAX_K = 64 };

int gate_rule_check(const struct gate_rule *r, struct why *why) {
    if (r->experts < 1 || r->experts > MAX_EXPERTS)
        return fail(why, ERR_INVALID, "gate rule: %d experts, expected 1..%d", r->experts, MAX_EXPERTS);
    int most = r->experts < MAX_K ? r->experts : MAX_K;
    if (r->k < 1 || r->k > most)
        return fail(why, ERR_INVALID, "gate rule: %d experts per token, expected 1..%d (of %d experts)", r->k, most,
                    r->experts);
    if ((unsigned)r->score > GATE_RAW)
        return fail(why, ERR_INVALID, "gate rule: unknown score function %d, expected softmax, sigmoid or raw", (int)r->score);
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

void gate_rule_text(const struct gate_rule *r, char *buf, size_t cap) {
    static const char *const score[] = {"softmax", "sigmoid", "raw"};
    static const char *const norm[] = {"", ", normalised", ", softmax over selected"};
    char scale[32] = "";
    if (r->scale != 1) snprintf(scale, sizeof scale, ", times %g", (double)r->scale);
    snprintf(buf, cap, "%s top-%d of %d%s%s%s", score[r->score], r->k, r->experts,
             r->weight == GATE_WEIGHT_ONE ? ", each with weight 1" : "", norm[r->norm], scale);
}
