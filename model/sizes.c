/* sizes.c - how big a model is, from its description alone: the same table of tensors that the loader checks, added up.
 *
 * Layers are summed one by one (they may differ in kind), experts of a layer are alike and multiplied. */
#include "model/checkpoint.h"

static uint64_t elements(const struct model_config *c, enum tensor_role role, int layer) {
    struct tensor_want w;
    if (!model_tensor(c, role, layer, 0, &w)) return 0;
    return (uint64_t)w.rows * (uint64_t)(w.cols ? w.cols : 1);
}

void model_sizes(const struct model_config *c, struct model_sizes *out) {
    const uint64_t E = (uint64_t)c->gate.experts, k = (uint64_t)c->gate.k, moe_layers = (uint64_t)c->moe_layers;
    uint64_t resident = 0, unused = elements(c, T_EMBED, 0);
    for (int role = T_EMBED; role < T_ATTN_NORM; role++) resident += elements(c, (enum tensor_role)role, 0);
    for (int i = 0; i < c->layers; i++)
        for (int role = T_ATTN_NORM; role < T_ROLE_COUNT; role++)
            if (role < T_EXPERT_GATE || role > T_EXPERT_DOWN) resident += elements(c, (enum tensor_role)role, i);
    const uint64_t expert = 3 * (uint64_t)c->hidden * (uint64_t)c->expert_ffn;
    *out = (struct model_sizes){
        .params_total = resident + moe_layers * E * expert,
        .params_active = resident - (c->tied_embeddings ? 0 : unused) + moe_layers * k * expert,
        .expert_params = expert,
        .resident_params = resident,
        .kv_elements_per_token = 2 * (uint64_t)c->layers * (uint64_t)c->kv_heads * (uint64_t)c->head_dim,
    };
}
