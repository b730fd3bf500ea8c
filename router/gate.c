/* gate.c - names gate rules. The selection itself is an operation of the kernels (gate_select), because its rows may live on a
 * device; whether a rule makes sense is checked key by key where it is read (model/config_gate.c, model/config_moe.c). */
#include "router/gate.h"

#include <stdio.h>

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
