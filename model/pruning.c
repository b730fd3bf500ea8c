/* pruning.c - see pruning.h. */
#include "model/pruning.h"

#include <math.h>

/* Routers of several stages or with a history, groups and experts without weights tie numbers to places. */
static int check_experts(const struct model_config *c, int stay, struct why *why) {
    if (c->router.kind != ROUTER_FLAT || c->router.history.mode != HISTORY_NONE || c->gate.group != GATE_GROUP_NONE ||
        c->gate.zero)
        return fail(why, ERR_UNSUPPORTED,
                    "experts can be left out of flat routers alone, without groups, history and identity experts");
    if (stay < c->gate.k || stay >= c->gate.experts)
        return fail(why, ERR_INVALID, "%d of %d experts would stay: wanted fewer, but the %d at least that a token takes", stay,
                    c->gate.experts, c->gate.k);
    return 0;
}

/* Neurons that experts share are no expert's own, those of several levels are not alike, and blocks with a scale are kept as
 * they are or not at all. */
static int check_neurons(const struct model_config *c, enum fmt weights, int stay, struct why *why) {
    if (c->router.kind == ROUTER_TWO_STAGE || c->experts.shared_rows)
        return fail(why, ERR_UNSUPPORTED, "neurons can be left out of experts of one shape that share none");
    if (weights == FMT_STORED && c->quant != FMT_COUNT)
        return fail(why, ERR_UNSUPPORTED, "neurons cannot be left out of %s blocks; take --weights bf16, q8 or q4",
                    fmt_name(c->quant));
    if (stay < 1 || stay >= c->expert_ffn)
        return fail(why, ERR_INVALID, "%d of an expert's %d neurons would stay: wanted fewer, but one at least", stay,
                    c->expert_ffn);
    return 0;
}

/* Groups of 32 are what q8 and q4 are packed in and mxfp4 checkpoints are cut in: less than one saves nothing there. */
static int neurons_without(const struct model_config *c, enum fmt weights, double part) {
    const int multiple = fmt_quant(weights) || c->quant == FMT_MXFP4 ? 32 : 1;
    return (int)lround((1 - part) * c->expert_ffn / multiple) * multiple;
}

int pruning_stay(const struct model_config *c, enum fmt weights, enum prune what, double part, struct why *why) {
    const int E = c->gate.experts;
    const int stay = what == PRUNE_NEURONS ? neurons_without(c, weights, part) : E - (int)lround(part * E);
    if (!c->moe_layers) return fail(why, ERR_UNSUPPORTED, "the model has no experts to leave out anything of");
    int rc = what == PRUNE_NEURONS ? check_neurons(c, weights, stay, why) : check_experts(c, stay, why);
    return rc < 0 ? rc : stay;
}

int pruning_apply(const struct model_config *c, enum fmt weights, const struct pruning *p, struct model_config *left,
                  struct why *why) {
    int rc = p->kept ? check_experts(c, p->experts, why) : 0;
    if (rc >= 0 && p->kept_neurons) rc = check_neurons(c, weights, p->neurons, why);
    if (rc < 0) return rc;
    *left = *c;
    if (p->kept) left->gate.experts = p->experts;
    if (p->kept_neurons) left->expert_ffn = p->neurons;
    return 0;
}
