/* sizes.c - how big a model is, from its description alone: the same table of tensors that the loader checks, added up.
 *
 * Layers are summed one by one (they may differ in kind), the experts of a level are alike and multiplied. */
#include "model/checkpoint.h"

static uint64_t elements(const struct model_config *c, enum tensor_role role, int layer, int expert) {
    struct tensor_want w;
    if (!model_tensor(c, role, layer, expert, &w)) return 0;
    return (uint64_t)w.rows * (uint64_t)(w.cols ? w.cols : 1);
}

struct placed { /* of one layer */
    uint64_t experts, common; /* all experts; what they share */
    uint64_t active;          /* of the experts a token runs */
    uint64_t first;           /* the first expert */
};

/* How many experts of a level a token runs, at most. */
static uint64_t run_of_level(const struct model_config *c, int level) {
    const struct two_stage_rule *r = &c->router.two_stage;
    if (c->router.kind != ROUTER_TWO_STAGE) return (uint64_t)c->gate.k;
    const int run[] = {r->global_topk, r->k, r->locals ? r->k * r->k_local : 0};
    return level < 3 ? (uint64_t)run[level] : 0;
}

/* Experts of a level are alike: one is looked at and multiplied. */
static void add_level(const struct model_config *c, int layer, int level, struct placed *sum) {
    uint64_t count = 0, one = 0;
    for (int e = 0; e < c->gate.experts; e++) {
        if (model_expert_level(c, e) != level || count++) continue;
        for (int role = T_EXPERT_GATE; role <= T_EXPERT_CONF; role++) one += elements(c, (enum tensor_role)role, layer, e);
    }
    sum->experts += count * one;
    sum->active += run_of_level(c, level) * one;
    if (!level) sum->first = one;
    for (int role = T_COMMON_GATE; role <= T_COMMON_DOWN; role++)
        sum->common += elements(c, (enum tensor_role)role, layer, level);
}

void model_sizes(const struct model_config *c, struct model_sizes *out) {
    uint64_t resident = 0, unused = elements(c, T_EMBED, 0, 0);
    struct placed placed = {0};
    const uint64_t per_layer =
        c->mla.kv_rank ? (uint64_t)(c->mla.kv_rank + c->mla.rope) : 2 * (uint64_t)c->kv_heads * (uint64_t)c->head_dim;
    for (int role = T_EMBED; role < T_ATTN_NORM; role++) resident += elements(c, (enum tensor_role)role, 0, 0);
    for (int i = 0; i < c->layers; i++) {
        for (int role = T_ATTN_NORM; role < T_ROLE_COUNT; role++)
            if (!tensor_in_blob((enum tensor_role)role)) resident += elements(c, (enum tensor_role)role, i, 0);
        if (c->moe_index[i] < 0) continue;
        for (int level = 0; level < model_levels(c); level++) add_level(c, i, level, &placed);
    }
    *out = (struct model_sizes){
        .params_total = resident + placed.experts + placed.common,
        .params_active = resident - (c->tied_embeddings ? 0 : unused) + placed.active + placed.common,
        .expert_params = placed.first,
        .common_params = placed.common,
        .resident_params = resident,
        .kv_elements_per_token = (uint64_t)c->layers * per_layer,
    };
}
