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
    {.model_type = "glm4_moe", .architecture = "Glm4MoeForCausalLM", .theta = 1e4, .eps = 1e-5, .bias = BIAS_KEY_QKV,
     .qk_norm = QK_NORM_HEAD, .qk_norm_key = true, .rotary = 0.5, .moe = true, .expert_ffn_key = "moe_intermediate_size",
     .gate = FAMILY_GATE_DEEPSEEK_V3, .norm = NORM_KEY, .first_dense = true, .dense_layers = 1,
     .shared = SHARED_PLAIN, .shared_count = true},
    {.model_type = "llama", .architecture = "LlamaForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_KEY,
     .kv_heads_optional = true},
    {.model_type = "minimax_m2", .architecture = "MiniMaxM2ForCausalLM", .theta = 5e6, .eps = 1e-6, .bias = BIAS_NONE,
     .qk_norm = QK_NORM_FULL, .rotary = 1, .moe = true, .expert_ffn_key = "intermediate_size", .gate = FAMILY_GATE_MINIMAX,
     .norm = NORM_ALWAYS, .block_names = true},
    {.model_type = "mistral", .architecture = "MistralForCausalLM", .theta = 1e4, .eps = 1e-6, .bias = BIAS_NONE,
     .window = WINDOW_LENGTH},
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
    [T_DENSE_GATE] = "mlp.gate_proj.weight",
    [T_DENSE_UP] = "mlp.up_proj.weight",
    [T_DENSE_DOWN] = "mlp.down_proj.weight",
    [T_ROUTER] = "gate.weight",
    [T_ROUTER_BIAS] = "gate.bias",
    [T_ROUTER_SEL_BIAS] = "gate.e_score_correction_bias",
    [T_EXPERT_GATE] = "gate_proj.weight",
    [T_EXPERT_UP] = "up_proj.weight",
    [T_EXPERT_DOWN] = "down_proj.weight",
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

static bool is_block(enum tensor_role r) { /* of the MoE block, named below it */
    return r == T_ROUTER || r == T_ROUTER_BIAS || r == T_ROUTER_SEL_BIAS || (r >= T_COMMON_GATE && r <= T_FUSION_K);
}
static bool is_expert(enum tensor_role r) { return r >= T_EXPERT_GATE && r <= T_EXPERT_CONF; }
static bool is_common(enum tensor_role r) { return r >= T_COMMON_GATE && r <= T_COMMON_DOWN; }

static const char *expert_part(enum tensor_role role, bool block_names) {
    if (!block_names) return names[role];
    return role == T_EXPERT_GATE ? "w1.weight" : role == T_EXPERT_UP ? "w3.weight" : "w2.weight";
}

static void write_name(const struct family *f, enum tensor_role role, int layer, int expert, char *out, size_t cap) {
    const char *moe = f->block_names ? "block_sparse_moe" : "mlp";
    if (role < T_ATTN_NORM)
        snprintf(out, cap, "%s", names[role]);
    else if (is_expert(role))
        snprintf(out, cap, "model.layers.%d.%s.experts.%d.%s", layer, moe, expert, expert_part(role, f->block_names));
    else if (role == T_ROUTER_SEL_BIAS && f->block_names) /* beside the gate */
        snprintf(out, cap, "model.layers.%d.%s.e_score_correction_bias", layer, moe);
    else if (f->shared_count && (role == T_SHARED_GATE || role == T_SHARED_UP || role == T_SHARED_DOWN))
        snprintf(out, cap, "model.layers.%d.mlp.shared_experts.%s", layer, names[role - T_SHARED_GATE + T_EXPERT_GATE]);
    else if (is_block(role))
        snprintf(out, cap, "model.layers.%d.%s.%s", layer, moe, names[role]);
    else
        snprintf(out, cap, "model.layers.%d.%s", layer, names[role]);
}

struct shape {
    int rows, cols; /* cols 0: vector; rows 0: no such tensor */
};

static struct shape attention_shape(const struct model_config *c, enum tensor_role role) {
    const int H = c->hidden, QD = c->q_heads * c->head_dim, GD = c->kv_heads * c->head_dim;
    const bool full = c->qk_norm == QK_NORM_FULL;
    switch (role) {
    case T_Q: return (struct shape){QD, H};
    case T_K:
    case T_V: return (struct shape){GD, H};
    case T_O: return (struct shape){H, QD};
    case T_Q_BIAS: return (struct shape){c->qkv_bias ? QD : 0, 0};
    case T_K_BIAS:
    case T_V_BIAS: return (struct shape){c->qkv_bias ? GD : 0, 0};
    case T_O_BIAS: return (struct shape){c->o_bias ? H : 0, 0};
    case T_Q_NORM: return (struct shape){c->qk_norm == QK_NORM_NONE ? 0 : full ? QD : c->head_dim, 0};
    case T_K_NORM: return (struct shape){c->qk_norm == QK_NORM_NONE ? 0 : full ? GD : c->head_dim, 0};
    default: return (struct shape){0, 0};
    }
}

static struct shape dense_shape(const struct model_config *c, enum tensor_role role) {
    if (role == T_DENSE_GATE || role == T_DENSE_UP) return (struct shape){c->dense_ffn, c->hidden};
    if (role == T_DENSE_DOWN) return (struct shape){c->hidden, c->dense_ffn};
    return (struct shape){0, 0};
}

static struct shape moe_shape(const struct model_config *c, enum tensor_role role) {
    const int H = c->hidden, E = gate_width(&c->gate), S = c->shared_ffn;
    const int C = c->experts.shared_rows, I = c->expert_ffn - C; /* neurons in common, an expert's own */
    switch (role) {
    case T_ROUTER: return (struct shape){E, H};
    case T_ROUTER_BIAS: return (struct shape){c->gate_bias ? E : 0, 0};
    case T_ROUTER_SEL_BIAS: return (struct shape){c->gate_sel_bias ? E : 0, 0};
    case T_EXPERT_GATE:
    case T_EXPERT_UP: return (struct shape){I, H};
    case T_EXPERT_DOWN: return (struct shape){H, I};
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
    if (layer < 0 || layer >= c->layers) return (struct shape){0, 0};
    if (role == T_ATTN_NORM || role == T_FFN_NORM) return (struct shape){c->hidden, 0};
    if (role < T_DENSE_GATE) return attention_shape(c, role);
    const bool moe = c->moe_index[layer] >= 0;
    if (role < T_ROUTER) return moe ? (struct shape){0, 0} : dense_shape(c, role);
    if (!moe || expert < 0 || expert >= model_tensor_count(c, role)) return (struct shape){0, 0};
    return moe_shape(c, role);
}

int model_levels(const struct model_config *c) { return c->moe_layers > 0; }

int model_expert_level(const struct model_config *c, int expert) {
    (void)c, (void)expert;
    return 0;
}

int model_tensor_count(const struct model_config *c, enum tensor_role role) {
    return is_expert(role) ? c->gate.experts : is_common(role) ? model_levels(c) : 1;
}

bool model_tensor(const struct model_config *c, enum tensor_role role, int layer, int expert, struct tensor_want *out) {
    const struct family *f = family_find(c->family);
    if (!f) BUG("model_tensor: a config of unknown family '%s'", c->family);
    struct shape s = want_shape(c, role, layer, expert);
    if (!s.rows) return false;
    out->rows = s.rows;
    out->cols = s.cols;
    write_name(f, role, layer, expert, out->name, sizeof out->name);
    return true;
}
