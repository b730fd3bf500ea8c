/* family.c - the table of families, and the names of their tensors.
 *
 * Defaults are those of the reference implementation's configuration classes: a key that is absent from config.json means
 * them there, so it must mean them here. Names come from one table indexed by role; a role says whether it counts per layer
 * or per expert, and model_tensor() says for every (role, layer, expert) whether this model has it and in which shape. */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

static const struct family families[] = {
    {.model_type = "cadre_moe", .architecture = "CadreMoeForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .rotary = 1, .moe = true, .expert_ffn_key = "moe_intermediate_size", .norm = NORM_RULE, .shared = SHARED_PLAIN},
    {.model_type = "deepseek_v2", .architecture = "DeepseekV2ForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .mla = true, .rope_interleaved = true, .moe = true, .expert_ffn_key = "moe_intermediate_size",
     .gate = FAMILY_GATE_DEEPSEEK_V2, .norm = NORM_KEY, .first_dense = true, .shared = SHARED_PLAIN, .shared_count = true},
    {.model_type = "deepseek_v3", .architecture = "DeepseekV3ForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .mla = true, .rope_interleaved = true, .yarn_beyond = true, .moe = true, .expert_ffn_key = "moe_intermediate_size",
     .gate = FAMILY_GATE_DEEPSEEK_V3, .norm = NORM_KEY, .groups = 8, .best_groups = 4, .gate_scale = 2.5, .first_dense = true,
     .dense_layers = 3, .shared = SHARED_PLAIN, .shared_count = true},
    {.model_type = "glm4_moe", .architecture = "Glm4MoeForCausalLM", .theta = 1e4, .eps = 1e-5, .bias = BIAS_KEY_QKV,
     .qk_norm = QK_NORM_HEAD, .qk_norm_key = true, .rotary = 0.5, .moe = true, .expert_ffn_key = "moe_intermediate_size",
     .gate = FAMILY_GATE_DEEPSEEK_V3, .norm = NORM_KEY, .first_dense = true, .dense_layers = 1,
     .shared = SHARED_PLAIN, .shared_count = true},
    {.model_type = "gpt_oss", .architecture = "GptOssForCausalLM", .theta = 1.5e5, .eps = 1e-5, .bias = BIAS_KEY_TRUE,
     .window = WINDOW_LAYERS, .moe = true, .expert_ffn_key = "intermediate_size", .gate = FAMILY_GATE_RAW, .norm = NORM_ALWAYS,
     .rope_object = true, .clamped_swiglu = true, .sinks = true, .fused_experts = true},
    {.model_type = "kimi_k2", .architecture = "DeepseekV3ForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .mla = true, .rope_interleaved = true, .moe = true, .expert_ffn_key = "moe_intermediate_size",
     .gate = FAMILY_GATE_DEEPSEEK_V3, .norm = NORM_KEY, .first_dense = true, .dense_layers = 3, .shared = SHARED_PLAIN,
     .shared_count = true},
    {.model_type = "llama", .architecture = "LlamaForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .kv_heads_optional = true},
    {.model_type = "llama4", .architecture = "Llama4ForConditionalGeneration", .theta = 5e5, .eps = 1e-5, .bias = BIAS_KEY,
     .qk_norm = QK_NORM_L2, .qk_norm_key = true, .rope_interleaved = true, .moe = true, .expert_ffn_key = "intermediate_size",
     .gate = FAMILY_GATE_LLAMA4, .shared = SHARED_PLAIN, .llama4 = true, .wrapped = true},
    {.model_type = "llama4_text", .architecture = "Llama4ForCausalLM", .theta = 5e5, .eps = 1e-5, .bias = BIAS_KEY,
     .qk_norm = QK_NORM_L2, .qk_norm_key = true, .rope_interleaved = true, .moe = true, .expert_ffn_key = "intermediate_size",
     .gate = FAMILY_GATE_LLAMA4, .shared = SHARED_PLAIN, .llama4 = true},
    {.model_type = "minimax_m2", .architecture = "MiniMaxM2ForCausalLM", .alias = "minimax", .theta = 5e6,
     .eps = 1e-6, .bias = BIAS_NONE, .qk_norm = QK_NORM_FULL, .rotary = 1, .moe = true,
     .expert_ffn_key = "intermediate_size", .gate = FAMILY_GATE_MINIMAX,
     .norm = NORM_ALWAYS, .block_names = true},
    {.model_type = "mistral", .architecture = "MistralForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_NONE,
     .window = WINDOW_LENGTH, .window_default = 4096},
    {.model_type = "mixtral", .architecture = "MixtralForCausalLM", .theta = 1e6, .eps = 1e-5, .bias = BIAS_NONE,
     .window = WINDOW_LENGTH, .moe = true, .expert_ffn_key = "intermediate_size", .norm = NORM_ALWAYS, .block_names = true},
    {.model_type = "olmoe", .architecture = "OlmoeForCausalLM", .theta = 1e4, .eps = 1e-5, .bias = BIAS_KEY,
     .qk_norm = QK_NORM_FULL, .kv_heads_optional = true, .clip_qkv = true, .moe = true, .expert_ffn_key = "intermediate_size",
     .norm = NORM_KEY},
    {.model_type = "qwen2", .architecture = "Qwen2ForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_QKV,
     .window = WINDOW_SWITCH},
    {.model_type = "qwen2_moe", .architecture = "Qwen2MoeForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_QKV,
     .window = WINDOW_SWITCH, .moe = true, .sparse_step = true, .expert_ffn_key = "moe_intermediate_size", .norm = NORM_KEY,
     .shared = SHARED_SIGMOID},
    {.model_type = "qwen3", .architecture = "Qwen3ForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .window = WINDOW_SWITCH, .qk_norm = QK_NORM_HEAD},
    {.model_type = "qwen3_moe", .architecture = "Qwen3MoeForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .window = WINDOW_SWITCH_ALL, .qk_norm = QK_NORM_HEAD, .moe = true, .sparse_step = true,
     .expert_ffn_key = "moe_intermediate_size", .norm = NORM_KEY},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const struct family *family_find(const char *model_type) {
    for (int i = 0; i < N_FAMILIES; i++)
        if (!strcmp(families[i].model_type, model_type)) return &families[i];
    return NULL;
}

const struct family *family_find_alias(const char *model_type, const char *architecture) {
    for (int i = 0; i < N_FAMILIES; i++)
        if (families[i].alias && !strcmp(families[i].alias, model_type) && !strcmp(families[i].architecture, architecture))
            return &families[i];
    return NULL;
}

const char *family_list(char *buf, size_t cap) {
    size_t n = 0;
    buf[0] = 0;
    for (int i = 0; i < N_FAMILIES && n < cap; i++)
        n += (size_t)snprintf(buf + n, cap - n, "%s%s", i ? ", " : "", families[i].model_type);
    return buf;
}

/* The part of the name that is the family's: after "model.layers.{i}." for layers, after "experts.{j}." for experts. */
static const char *const names[T_ROLE_COUNT] = {
    [T_EMBED] = "model.embed_tokens.weight",
    [T_FINAL_NORM] = "model.norm.weight",
    [T_LM_HEAD] = "lm_head.weight",
    [T_GRU_IN] = "router_gru.proj.weight",
    [T_GRU_IH] = "router_gru.weight_ih",
    [T_GRU_HH] = "router_gru.weight_hh",
    [T_GRU_IH_BIAS] = "router_gru.bias_ih",
    [T_GRU_HH_BIAS] = "router_gru.bias_hh",
    [T_ATTN_NORM] = "input_layernorm.weight",
    [T_FFN_NORM] = "post_attention_layernorm.weight",
    [T_Q] = "self_attn.q_proj.weight",
    [T_K] = "self_attn.k_proj.weight",
    [T_V] = "self_attn.v_proj.weight",
    [T_O] = "self_attn.o_proj.weight",
    [T_Q_BIAS] = "self_attn.q_proj.bias",
    [T_K_BIAS] = "self_attn.k_proj.bias",
    [T_V_BIAS] = "self_attn.v_proj.bias",
    [T_O_BIAS] = "self_attn.o_proj.bias",
    [T_Q_NORM] = "self_attn.q_norm.weight",
    [T_K_NORM] = "self_attn.k_norm.weight",
    [T_Q_A] = "self_attn.q_a_proj.weight",
    [T_Q_A_BIAS] = "self_attn.q_a_proj.bias",
    [T_Q_A_NORM] = "self_attn.q_a_layernorm.weight",
    [T_Q_B] = "self_attn.q_b_proj.weight",
    [T_KV_A] = "self_attn.kv_a_proj_with_mqa.weight",
    [T_KV_A_BIAS] = "self_attn.kv_a_proj_with_mqa.bias",
    [T_KV_A_NORM] = "self_attn.kv_a_layernorm.weight",
    [T_KV_B] = "self_attn.kv_b_proj.weight",
    [T_SINKS] = "self_attn.sinks",
    [T_DENSE_GATE] = "mlp.gate_proj.weight",
    [T_DENSE_UP] = "mlp.up_proj.weight",
    [T_DENSE_DOWN] = "mlp.down_proj.weight",
    [T_ROUTER] = "gate.weight",
    [T_ROUTER_BIAS] = "gate.bias",
    [T_ROUTER_SEL_BIAS] = "gate.e_score_correction_bias",
    [T_ROUTER_HISTORY] = "gate.hist.weight",
    [T_EXPERT_GATE] = "gate_proj.weight",
    [T_EXPERT_UP] = "up_proj.weight",
    [T_EXPERT_DOWN] = "down_proj.weight",
    [T_EXPERT_GATE_BIAS] = "gate_proj.bias",
    [T_EXPERT_UP_BIAS] = "up_proj.bias",
    [T_EXPERT_DOWN_BIAS] = "down_proj.bias",
    [T_EXPERT_CONF] = "conf",
    [T_COMMON_GATE] = "experts.common.gate_proj.weight",
    [T_COMMON_UP] = "experts.common.up_proj.weight",
    [T_COMMON_DOWN] = "experts.common.down_proj.weight",
    [T_FUSION_Q] = "fusion.q",
    [T_FUSION_K] = "fusion.k",
    [T_SHARED_GATE] = "mlp.shared_expert.gate_proj.weight",
    [T_SHARED_UP] = "mlp.shared_expert.up_proj.weight",
    [T_SHARED_DOWN] = "mlp.shared_expert.down_proj.weight",
    [T_SHARED_SCALE] = "mlp.shared_expert_gate.weight",
};

static bool is_router(enum tensor_role r) { return r >= T_ROUTER && r <= T_ROUTER_HISTORY; }
static bool is_expert(enum tensor_role r) { return r >= T_EXPERT_GATE && r <= T_EXPERT_CONF; }
static bool is_common(enum tensor_role r) { return r >= T_COMMON_GATE && r <= T_COMMON_DOWN; }
static bool is_block(enum tensor_role r) { /* of the MoE block, named below it */
    return is_router(r) || is_common(r) || r == T_FUSION_Q || r == T_FUSION_K;
}

static const char *expert_part(enum tensor_role role, bool block_names) {
    if (!block_names) return names[role];
    return role == T_EXPERT_GATE ? "w1.weight" : role == T_EXPERT_UP ? "w3.weight" : "w2.weight";
}

/* Routers of several levels name their gates after them. */
static const char *router_part(const struct model_config *c, enum tensor_role role) {
    static const char *const two_stage[] = {"gate.global.weight", "gate.domain.weight", "gate.local.weight"},
                             *const tree[] = {"gate.l0", "gate.l1", "gate.l2"};
    const int level = role == T_ROUTER ? 0 : role == T_ROUTER_L1 ? 1 : role == T_ROUTER_L2 ? 2 : -1;
    if (level < 0 || c->router.kind == ROUTER_FLAT) return names[role];
    return c->router.kind == ROUTER_TREE ? tree[level] : two_stage[level];
}

enum { LEVEL_GLOBAL, LEVEL_DOMAIN, LEVEL_LOCAL }; /* of two-stage experts; all others are of level 0 */
static const char *const levels[] = {"global", "domain", "local"};

/* An expert's own name within its layer, and what of it this is: the flat ids of two-stage experts are in router_rule.h. */
static void write_expert(const struct model_config *c, enum tensor_role role, int expert, bool block_names, char *out,
                         size_t cap) {
    const struct two_stage_rule *r = &c->router.two_stage;
    const char *part = expert_part(role, block_names);
    if (c->router.kind != ROUTER_TWO_STAGE) {
        snprintf(out, cap, "%d.%s", expert, part);
        return;
    }
    const int first[] = {0, r->globals, r->globals + r->domains}, level = model_expert_level(c, expert);
    if (level == LEVEL_LOCAL && r->rank && role != T_EXPERT_CONF)
        part = role == T_EXPERT_GATE ? "lora_A.weight" : "lora_B.weight";
    snprintf(out, cap, "%s.%d.%s", levels[level], expert - first[level], part);
}

/* All experts of a layer in one tensor, gate and up in one. */
static const char *fused_part(enum tensor_role role, bool packed) {
    const bool down = role == T_EXPERT_DOWN || role == T_EXPERT_DOWN_BIAS;
    if (role >= T_EXPERT_GATE_BIAS) return down ? "down_proj_bias" : "gate_up_proj_bias";
    if (packed) return down ? "down_proj_blocks" : "gate_up_proj_blocks";
    return down ? "down_proj" : "gate_up_proj";
}

/* Llama-4 says feed_forward where others say mlp, router for the gate, and has the experts of a layer in two tensors. */
static void write_llama4_name(enum tensor_role role, int layer, char *out, size_t cap) {
    const char *part = names[role];
    if (role == T_ROUTER) part = "router.weight";
    else if (is_expert(role)) part = role == T_EXPERT_DOWN ? "experts.down_proj" : "experts.gate_up_proj";
    else if (strncmp(part, "mlp.", 4)) {
        snprintf(out, cap, "model.layers.%d.%s", layer, part);
        return;
    } else part += 4;
    snprintf(out, cap, "model.layers.%d.feed_forward.%s", layer, part);
}

static void write_name(const struct model_config *c, const struct family *f, enum tensor_role role, int layer, int expert,
                       bool packed, char *out, size_t cap) {
    const char *moe = f->block_names ? "block_sparse_moe" : "mlp";
    char part[64];
    if (role < T_ATTN_NORM)
        snprintf(out, cap, "%s", names[role]);
    else if (f->llama4)
        write_llama4_name(role, layer, out, cap);
    else if (is_expert(role) && f->fused_experts)
        snprintf(out, cap, "model.layers.%d.%s.experts.%s", layer, moe, fused_part(role, packed));
    else if ((role == T_ROUTER || role == T_ROUTER_BIAS) && f->fused_experts)
        snprintf(out, cap, "model.layers.%d.%s.router.%s", layer, moe, role == T_ROUTER ? "weight" : "bias");
    else if (is_expert(role)) {
        write_expert(c, role, expert, f->block_names, part, sizeof part);
        snprintf(out, cap, "model.layers.%d.%s.experts.%s", layer, moe, part);
    } else if (is_common(role) && c->router.kind == ROUTER_TWO_STAGE)
        snprintf(out, cap, "model.layers.%d.%s.experts.%s.%s", layer, moe, levels[expert], names[role] + strlen("experts."));
    else if (role == T_ROUTER_SEL_BIAS && f->block_names) /* beside the gate */
        snprintf(out, cap, "model.layers.%d.%s.e_score_correction_bias", layer, moe);
    else if (f->shared_count && (role == T_SHARED_GATE || role == T_SHARED_UP || role == T_SHARED_DOWN))
        snprintf(out, cap, "model.layers.%d.mlp.shared_experts.%s", layer, names[role - T_SHARED_GATE + T_EXPERT_GATE]);
    else if (is_block(role))
        snprintf(out, cap, "model.layers.%d.%s.%s", layer, moe, router_part(c, role));
    else
        snprintf(out, cap, "model.layers.%d.%s", layer, names[role]);
}

struct shape {
    int rows, cols; /* cols 0: vector; rows 0: no such tensor */
};

static struct shape attention_shape(const struct model_config *c, enum tensor_role role) {
    const int H = c->hidden, QD = c->q_heads * c->head_dim, GD = c->kv_heads * c->head_dim;
    const bool full = c->qk_norm == QK_NORM_FULL, weighed = full || c->qk_norm == QK_NORM_HEAD;
    switch (role) {
    case T_Q: return (struct shape){QD, H};
    case T_K:
    case T_V: return (struct shape){GD, H};
    case T_O: return (struct shape){H, QD};
    case T_Q_BIAS: return (struct shape){c->qkv_bias ? QD : 0, 0};
    case T_K_BIAS:
    case T_V_BIAS: return (struct shape){c->qkv_bias ? GD : 0, 0};
    case T_O_BIAS: return (struct shape){c->o_bias ? H : 0, 0};
    case T_Q_NORM: return (struct shape){!weighed ? 0 : full ? QD : c->head_dim, 0};
    case T_SINKS: return (struct shape){c->sinks ? c->q_heads : 0, 0};
    case T_K_NORM: return (struct shape){!weighed ? 0 : full ? GD : c->head_dim, 0};
    default: return (struct shape){0, 0};
    }
}

static struct shape latent_shape(const struct model_config *c, enum tensor_role role) {
    const struct mla_sizes *m = &c->mla;
    const int H = c->hidden, Q = c->q_heads, QD = Q * (m->nope + m->rope), R = m->q_rank, C = m->kv_rank;
    switch (role) {
    case T_Q: return (struct shape){R ? 0 : QD, H};
    case T_Q_A: return (struct shape){R, H};
    case T_Q_A_BIAS: return (struct shape){c->qkv_bias ? R : 0, 0};
    case T_Q_A_NORM: return (struct shape){R, 0};
    case T_Q_B: return (struct shape){R ? QD : 0, R};
    case T_KV_A: return (struct shape){C + m->rope, H};
    case T_KV_A_BIAS: return (struct shape){c->qkv_bias ? C + m->rope : 0, 0};
    case T_KV_A_NORM: return (struct shape){C, 0};
    case T_KV_B: return (struct shape){Q * (m->nope + m->value), C};
    case T_O: return (struct shape){H, Q * m->value};
    case T_O_BIAS: return (struct shape){c->o_bias ? H : 0, 0};
    default: return (struct shape){0, 0};
    }
}

static struct shape dense_shape(const struct model_config *c, enum tensor_role role) {
    if (role == T_DENSE_GATE || role == T_DENSE_UP) return (struct shape){c->dense_ffn, c->hidden};
    if (role == T_DENSE_DOWN) return (struct shape){c->hidden, c->dense_ffn};
    return (struct shape){0, 0};
}

static struct shape router_shape(const struct model_config *c, enum tensor_role role) {
    const struct router_rule *r = &c->router;
    const int *branch = r->tree.branch, first = router_first(r, gate_width(&c->gate)), H = c->hidden;
    const bool tree = r->kind == ROUTER_TREE;
    switch (role) {
    case T_ROUTER: return (struct shape){first, H};
    case T_ROUTER_BIAS: return (struct shape){c->gate_bias ? first : 0, 0};
    case T_ROUTER_SEL_BIAS: return (struct shape){c->gate_sel_bias ? first : 0, 0};
    case T_ROUTER_L1: return (struct shape){tree ? branch[1] * (r->tree.shared ? 1 : branch[0]) : r->two_stage.domains, H};
    case T_ROUTER_L2:
        return (struct shape){tree ? branch[2] * (r->tree.shared ? 1 : branch[0] * branch[1]) : r->two_stage.locals, H};
    case T_ROUTER_HISTORY: return (struct shape){r->history.mode != HISTORY_NONE ? first : 0, r->history.dim};
    default: return (struct shape){0, 0};
    }
}

/* Inner nodes of a tree that have gates of their own; 0 for other tensors. */
static int gate_blocks(const struct model_config *c, enum tensor_role role) {
    const struct tree_rule *r = &c->router.tree;
    if (c->router.kind != ROUTER_TREE || r->shared) return 0;
    return role == T_ROUTER_L1 ? r->branch[0] : role == T_ROUTER_L2 ? r->branch[0] * r->branch[1] : 0;
}

static struct shape gru_shape(const struct model_config *c, enum tensor_role role) {
    const int d = c->router.history.mode == HISTORY_LAYER ? c->router.history.dim : 0;
    if (role == T_GRU_IN) return (struct shape){d, c->hidden};
    return (struct shape){3 * d, role == T_GRU_IH || role == T_GRU_HH ? d : 0};
}

static struct shape moe_shape(const struct model_config *c, enum tensor_role role, int expert) {
    const int H = c->hidden, S = c->shared_ffn, level = is_common(role) ? expert : model_expert_level(c, expert);
    const int rank = c->router.kind == ROUTER_TWO_STAGE && level == LEVEL_LOCAL ? c->router.two_stage.rank : 0;
    const int C = rank ? 0 : c->experts.shared_rows; /* neurons in common, and an expert's own */
    const int I = rank ? rank : c->expert_ffn - C;
    if (is_router(role)) return router_shape(c, role);
    switch (role) {
    case T_EXPERT_GATE: return (struct shape){I, H};
    case T_EXPERT_UP: return (struct shape){rank ? 0 : I, H};
    case T_EXPERT_DOWN: return (struct shape){H, I};
    case T_EXPERT_GATE_BIAS:
    case T_EXPERT_UP_BIAS: return (struct shape){c->expert_bias ? I : 0, 0};
    case T_EXPERT_DOWN_BIAS: return (struct shape){c->expert_bias ? H : 0, 0};
    case T_EXPERT_CONF: return (struct shape){c->experts.confidence ? H : 0, 0};
    case T_COMMON_GATE:
    case T_COMMON_UP: return (struct shape){C, H};
    case T_COMMON_DOWN: return (struct shape){C ? H : 0, C};
    case T_FUSION_Q:
    case T_FUSION_K: return (struct shape){c->experts.fusion_dim, H};
    case T_SHARED_GATE:
    case T_SHARED_UP: return (struct shape){S, H};
    case T_SHARED_DOWN: return (struct shape){S ? H : 0, S};
    case T_SHARED_SCALE: return (struct shape){S && c->shared == SHARED_SIGMOID ? 1 : 0, H};
    default: return (struct shape){0, 0};
    }
}

static struct shape want_shape(const struct model_config *c, enum tensor_role role, int layer, int expert) {
    switch (role) {
    case T_EMBED: return (struct shape){c->vocab, c->hidden};
    case T_FINAL_NORM: return (struct shape){c->hidden, 0};
    case T_LM_HEAD: return (struct shape){c->tied_embeddings ? 0 : c->vocab, c->hidden};
    default: break;
    }
    if (role < T_ATTN_NORM) return gru_shape(c, role);
    if (layer < 0 || layer >= c->layers) return (struct shape){0, 0};
    if (role == T_ATTN_NORM || role == T_FFN_NORM) return (struct shape){c->hidden, 0};
    if (role < T_DENSE_GATE) return c->mla.kv_rank ? latent_shape(c, role) : attention_shape(c, role);
    const bool moe = c->moe_index[layer] >= 0;
    if (role < T_ROUTER) return moe ? (struct shape){0, 0} : dense_shape(c, role);
    if (!moe || expert < 0 || expert >= model_tensor_count(c, role)) return (struct shape){0, 0};
    return moe_shape(c, role, expert);
}

bool model_may_be_fp8(enum tensor_role r) {
    return (r >= T_Q && r < T_ROUTER) || (r >= T_EXPERT_GATE && r <= T_COMMON_DOWN) ||
           (r >= T_SHARED_GATE && r <= T_SHARED_DOWN);
}

bool model_is_output(const struct model_config *c, enum tensor_role r) {
    return r == T_LM_HEAD || (r == T_EMBED && c->tied_embeddings);
}

/* Routing, norms and what weighs outputs decide too much for what they weigh; kv_b is read by head, from plain formats; the
 * embedding and the output's matrix are the most sensitive of the large ones. */
static enum fmt quantised_as(enum tensor_role r, enum fmt wish) {
    if (r == T_EMBED || r == T_LM_HEAD) return FMT_Q8;
    if (r == T_KV_B) return FMT_BF16;
    return model_may_be_fp8(r) && r != T_EXPERT_CONF ? wish : FMT_F32;
}

bool model_keeps_f32(enum tensor_role r) {
    return (r >= T_ROUTER && r <= T_ROUTER_HISTORY) || (r >= T_GRU_IN && r <= T_GRU_HH_BIAS) || r == T_FUSION_Q ||
           r == T_FUSION_K || r == T_SHARED_SCALE;
}

enum fmt model_format(const struct model_config *c, enum tensor_role role, enum fmt wish) {
    if (fmt_quant(wish)) return quantised_as(role, wish);
    if (wish != FMT_STORED) return wish;
    return c->quant != FMT_COUNT && tensor_in_blob(role) && role != T_EXPERT_CONF ? c->quant : c->stored;
}

enum fmt model_kv_format(const struct model_config *c, enum fmt wish, enum fmt weights) {
    if (wish != FMT_STORED) return wish;
    if (fmt_quant(weights)) return FMT_BF16;
    return weights == FMT_STORED ? c->stored : weights;
}

int model_levels(const struct model_config *c) {
    if (!c->moe_layers || c->router.kind != ROUTER_TWO_STAGE) return c->moe_layers > 0;
    return c->router.two_stage.locals ? LEVEL_LOCAL + 1 : LEVEL_DOMAIN + 1;
}

int model_expert_level(const struct model_config *c, int expert) {
    const struct two_stage_rule *r = &c->router.two_stage;
    if (c->router.kind != ROUTER_TWO_STAGE || expert < r->globals) return LEVEL_GLOBAL;
    return expert < r->globals + r->domains ? LEVEL_DOMAIN : LEVEL_LOCAL;
}

int model_tensor_count(const struct model_config *c, enum tensor_role role) {
    return is_expert(role) ? c->gate.experts : is_common(role) ? model_levels(c) : 1;
}

static void alone_on_disk(struct tensor_want *w) {
    w->dims = w->cols ? 2 : 1;
    w->shape[0] = w->rows;
    w->shape[1] = w->cols;
    w->row_step = w->cols ? w->cols : 1;
    w->col_step = 1;
}

/* The fused forms of struct family. n: columns gate and up together have, or rows in the block form. */
static void fused_on_disk(const struct model_config *c, enum tensor_role role, int expert, struct tensor_want *w) {
    const bool down = role == T_EXPERT_DOWN || role == T_EXPERT_DOWN_BIAS, vector = !w->cols;
    const int64_t side = role == T_EXPERT_UP || role == T_EXPERT_UP_BIAS, step = down ? 1 : 2, n = w->rows * step;
    w->packed = !vector && c->quant == FMT_MXFP4;
    w->dims = vector ? 2 : w->packed ? 4 : 3;
    w->shape[0] = c->gate.experts;
    w->shape[1] = vector || w->packed ? n : w->cols;
    w->shape[2] = w->packed ? w->cols / MXFP4_BLOCK : n;
    w->shape[3] = MXFP4_BLOCK / 2;
    if (vector || w->packed) { /* [E, n] and [E, n, cols] */
        const int64_t width = vector ? 1 : w->cols;
        w->first = (expert * n + side) * width;
        w->row_step = step * width;
        w->col_step = 1;
    } else { /* [E, cols, n] */
        w->first = expert * w->cols * n + side;
        w->row_step = step;
        w->col_step = n;
    }
}

/* Llama-4's experts: gate_up_proj [E, H, 2I], gate's columns before up's, and down_proj [E, I, H]; both are [E, cols, n]
 * here. */
static void halves_on_disk(const struct model_config *c, enum tensor_role role, int expert, struct tensor_want *w) {
    const int64_t n = role == T_EXPERT_DOWN ? w->rows : 2 * (int64_t)w->rows;
    w->dims = 3;
    w->shape[0] = c->gate.experts;
    w->shape[1] = w->cols;
    w->shape[2] = n;
    w->first = expert * w->cols * n + (role == T_EXPERT_UP ? w->rows : 0);
    w->row_step = 1;
    w->col_step = n;
}

static const struct family *family_of(const struct model_config *c) {
    const struct family *f = family_find(c->family);
    if (!f) BUG("model_tensor: a config of unknown family '%s'", c->family);
    return f;
}

const char *model_tensor_prefix(const struct model_config *c) { return family_of(c)->wrapped ? "language_model." : ""; }

bool model_tensor(const struct model_config *c, enum tensor_role role, int layer, int expert, struct tensor_want *out) {
    const struct family *f = family_of(c);
    struct shape s = want_shape(c, role, layer, expert);
    if (!s.rows) return false;
    *out = (struct tensor_want){.rows = s.rows, .cols = s.cols, .blocks = gate_blocks(c, role)};
    if (is_expert(role) && f->fused_experts) fused_on_disk(c, role, expert, out);
    else if (is_expert(role) && f->llama4) halves_on_disk(c, role, expert, out);
    else alone_on_disk(out);
    size_t prefix = (size_t)snprintf(out->name, sizeof out->name, "%s", model_tensor_prefix(c));
    write_name(c, f, role, layer, expert, out->packed, out->name + prefix, sizeof out->name - prefix);
    return true;
}
