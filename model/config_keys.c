/* config_keys.c - the keys of config.json that Cadre does not read but whose meaning it knows: each belongs to a feature that
 * some checkpoint uses and that the forward pass here does not have, so ignoring it would give wrong tokens without a word. It
 * is refused unless it holds a value that changes nothing. What is in no list at all: config_unknown.c. */
#include "model/config_parts.h"

#include <stdio.h>
#include <string.h>

enum accept { /* null always is */
    ACCEPT_NULL = 0, ACCEPT_FALSE = 1, ACCEPT_ZERO = 2, ACCEPT_ONE = 4, ACCEPT_EMPTY = 8,
    ACCEPT_OFF = ACCEPT_FALSE | ACCEPT_ZERO | ACCEPT_EMPTY
};
struct refusal {
    const char *key;
    unsigned accept; /* enum accept, or-ed */
};
static const struct refusal refusals[] = {
    {"compression_config", ACCEPT_NULL},
    {"mlp_bias", ACCEPT_FALSE},               {"use_bias", ACCEPT_FALSE},
    {"bias", ACCEPT_FALSE},                   {"pretraining_tp", ACCEPT_ONE | ACCEPT_ZERO},
    {"rotary_pct", ACCEPT_ONE},               {"rope_interleaved", ACCEPT_FALSE},
    {"no_rope_layers", ACCEPT_EMPTY},         {"is_encoder_decoder", ACCEPT_FALSE},
    {"add_cross_attention", ACCEPT_FALSE},    {"alibi", ACCEPT_FALSE},
    {"parallel_attn", ACCEPT_FALSE},          {"use_mrope", ACCEPT_FALSE},
    {"attention_multiplier", ACCEPT_NULL},    {"mrope_section", ACCEPT_NULL},
    {"query_pre_attn_scalar", ACCEPT_NULL},   {"attn_logit_softcapping", ACCEPT_ZERO},
    {"final_logit_softcapping", ACCEPT_ZERO}, {"attention_chunk_size", ACCEPT_NULL},
    {"sliding_window_pattern", ACCEPT_NULL},  {"logit_scale", ACCEPT_ONE},
    {"logits_scaling", ACCEPT_ONE},           {"residual_multiplier", ACCEPT_ONE},
    {"embedding_multiplier", ACCEPT_ONE},     {"scale_emb", ACCEPT_ONE},
    {"q_lora_rank", ACCEPT_NULL},             {"kv_lora_rank", ACCEPT_NULL},
    {"qk_rope_head_dim", ACCEPT_NULL},        {"v_head_dim", ACCEPT_NULL},
    {"qk_nope_head_dim", ACCEPT_NULL},
    {"n_shared_experts", ACCEPT_ZERO},        {"num_shared_experts", ACCEPT_ZERO},
    {"n_routed_experts", ACCEPT_ZERO},        {"first_k_dense_replace", ACCEPT_ZERO},
    {"moe_layer_freq", ACCEPT_ONE},           {"interleave_moe_layer_step", ACCEPT_ONE},
    {"n_group", ACCEPT_ZERO | ACCEPT_ONE},    {"topk_group", ACCEPT_ZERO | ACCEPT_ONE},
    {"topk_method", ACCEPT_NULL},             {"routed_scaling_factor", ACCEPT_ONE},
    {"zero_expert_num", ACCEPT_ZERO},         {"intermediate_size_mlp", ACCEPT_NULL},
    {"moe_layers", ACCEPT_EMPTY},             {"attn_temperature_tuning", ACCEPT_FALSE | ACCEPT_ZERO},
    {"group_fill", ACCEPT_NULL},              {"scale_always", ACCEPT_FALSE},
    {"use_routing_bias", ACCEPT_FALSE},       {"shared_intermediate_size", ACCEPT_ZERO},
    {"layernorm_full_attention_beta", ACCEPT_ONE}, {"layernorm_mlp_beta", ACCEPT_ONE},
    {"no_rope_layer_interval", ACCEPT_ZERO},  {"floor_scale", ACCEPT_NULL},
    {"attn_scale", ACCEPT_NULL},              {"attn_type_list", ACCEPT_EMPTY},
    {"qk_norm_type", ACCEPT_NULL},            {"rope_ratio", ACCEPT_ONE},
    /* RoPE and norms under other names, or other ones. */
    {"rotary_emb_base", ACCEPT_NULL},         {"rope_pct", ACCEPT_ONE},
    {"rotary_percent", ACCEPT_ONE},           {"rope_local_base_freq", ACCEPT_NULL},
    {"swa_rope_theta", ACCEPT_NULL},          {"rotary_emb_interleaved", ACCEPT_OFF},
    {"use_parallel_residual", ACCEPT_OFF},    {"norm_after", ACCEPT_OFF},
    {"postnorm", ACCEPT_OFF},
    /* Scales between the parts. */
    {"scale_depth", ACCEPT_NULL},             {"dim_model_base", ACCEPT_NULL},
    {"embedding_scale", ACCEPT_ONE},          {"scale_embedding", ACCEPT_OFF},
    {"output_multiplier_scale", ACCEPT_ONE},  {"logits_soft_cap", ACCEPT_OFF},
    {"attn_logit_cap", ACCEPT_OFF},           {"router_logit_softcapping", ACCEPT_OFF},
    {"attn_output_gate", ACCEPT_OFF},
    /* Attention that is not attention over every token before. */
    {"index_topk", ACCEPT_OFF},               {"index_n_heads", ACCEPT_OFF},
    {"index_head_dim", ACCEPT_OFF},           {"sparse_attention_config", ACCEPT_OFF},
    {"linear_attn_config", ACCEPT_OFF},       {"full_attention_interval", ACCEPT_ZERO | ACCEPT_ONE},
    {"linear_num_key_heads", ACCEPT_OFF},     {"linear_num_value_heads", ACCEPT_OFF},
    {"attention_sinks", ACCEPT_OFF},          {"use_attention_sinks", ACCEPT_OFF},
    {"add_swa_attention_sink_bias", ACCEPT_OFF}, {"add_full_attention_sink_bias", ACCEPT_OFF},
    {"hybrid_layer_pattern", ACCEPT_OFF},     {"swa_num_key_value_heads", ACCEPT_OFF},
    {"num_kv_shared_layers", ACCEPT_OFF},     {"use_cla", ACCEPT_OFF},
    {"cla_share_factor", ACCEPT_ZERO | ACCEPT_ONE},
    /* Gates and experts under other names, or other ones. */
    {"moe_num_experts", ACCEPT_OFF},          {"moe_num_shared_experts", ACCEPT_OFF},
    {"moe_topk", ACCEPT_OFF},                 {"moe_layer_interval", ACCEPT_ZERO | ACCEPT_ONE},
    {"moe_layer_start_index", ACCEPT_ZERO},   {"moe_router_score_function", ACCEPT_NULL},
    {"score_function", ACCEPT_NULL},          {"router_scaling_factor", ACCEPT_ONE},
    {"expert_bias", ACCEPT_OFF},              {"moe_router_enable_expert_bias", ACCEPT_OFF},
    {"use_router_bias", ACCEPT_OFF},          {"num_hash_layers", ACCEPT_OFF},
    {"hc_mult", ACCEPT_ZERO | ACCEPT_ONE},    {"n_dense_layers", ACCEPT_OFF},
    {"zero_expert_type", ACCEPT_NULL},        {"expert_ffn_hidden_size", ACCEPT_NULL},
    {"use_lora", ACCEPT_OFF},                 {"lora_rank", ACCEPT_OFF},
};

static bool accepted(const json_t *v, unsigned accept) {
    if (json_is_null(v) || ((accept & ACCEPT_FALSE) && json_is_false(v))) return true;
    if ((accept & ACCEPT_ZERO) && json_is_number(v) && json_number_value(v) == 0) return true;
    if ((accept & ACCEPT_ONE) && json_is_number(v) && json_number_value(v) == 1) return true;
    return (accept & ACCEPT_EMPTY) &&
           ((json_is_array(v) && !json_array_size(v)) || (json_is_object(v) && !json_object_size(v)));
}

static int refuse(const char *key, const json_t *v, const char *accepts, struct why *why) {
    struct json_shown shown;
    return fail(why, ERR_UNSUPPORTED, "%s is %s, which Cadre does not implement; accepted: %s", key, json_show(v, &shown),
                accepts);
}

/* Some keys of the table below are read after all, by some families. */
static bool is_read(const struct family *f, const char *key) {
    static const char *const latents[] = {"q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"};
    for (size_t i = 0; f->mla && i < sizeof latents / sizeof *latents; i++)
        if (!strcmp(key, latents[i])) return true;
    const bool v2 = f->gate == FAMILY_GATE_DEEPSEEK_V2, deepseek = v2 || f->gate == FAMILY_GATE_DEEPSEEK_V3,
               minimax = f->gate == FAMILY_GATE_MINIMAX;
    const struct {
        const char *key;
        bool read;
    } keys[] = {
        {"n_routed_experts", f->moe},        {"n_shared_experts", f->shared_count}, {"first_k_dense_replace", f->first_dense},
        {"moe_layer_freq", f->first_dense},  {"n_group", deepseek},                 {"topk_group", deepseek},
        {"topk_method", deepseek},           {"routed_scaling_factor", deepseek},   {"group_fill", deepseek},
        {"no_rope_layers", f->llama4},       {"attention_chunk_size", f->llama4},   {"interleave_moe_layer_step", f->llama4},
        {"moe_layers", f->llama4},           {"attn_temperature_tuning", f->llama4}, {"intermediate_size_mlp", f->llama4},
        {"scale_always", v2},                {"use_routing_bias", minimax},        {"no_rope_layer_interval", f->llama4},
        {"floor_scale", f->llama4},          {"attn_scale", f->llama4},            {"attn_type_list", minimax},
        {"qk_norm_type", minimax},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i].key)) return keys[i].read;
    return false;
}

static int check_refusals(const json_t *root, const struct family *f, struct why *why) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        const json_t *v = json_object_get(root, r->key);
        if (!v || accepted(v, r->accept) || is_read(f, r->key)) continue;
        char text[64];
        snprintf(text, sizeof text, "null%s%s%s%s", r->accept & ACCEPT_FALSE ? ", false" : "",
                 r->accept & ACCEPT_ZERO ? ", 0" : "", r->accept & ACCEPT_ONE ? ", 1" : "",
                 r->accept & ACCEPT_EMPTY ? ", []" : "");
        return refuse(r->key, v, text, why);
    }
    return 0;
}

/* Keys that some families read: in the others they may only say what is true there anyway. */
static int check_family(const json_t *root, const struct family *f, struct why *why) {
    const bool yes_bias = f->bias == BIAS_QKV, qk = f->qk_norm != QK_NORM_NONE;
    const struct {
        const char *key;
        bool read, only; /* read by this family; else the one value it may have */
    } flags[] = {
        {"attention_bias", f->bias == BIAS_KEY || f->bias == BIAS_KEY_TRUE || f->bias == BIAS_KEY_QKV, false},
        {"qkv_bias", yes_bias, false},
        {"use_sliding_window", f->window == WINDOW_SWITCH || f->window == WINDOW_SWITCH_ALL, false},
        {"use_qk_norm", f->qk_norm_key, qk},
        {"rope_interleave", f->rope_interleaved, false}, {"yarn_always", f->yarn_beyond, true},
        {"norm_topk_prob", f->norm == NORM_KEY || !f->moe, true},
    };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const json_t *v = json_object_get(root, flags[i].key);
        if (!v || flags[i].read || json_is_null(v) || (json_is_boolean(v) && json_is_true(v) == flags[i].only)) continue;
        return refuse(flags[i].key, v, flags[i].only ? "null, true" : "null, false", why);
    }
    const struct {
        const char *key;
        bool read;
    } numbers[] = {
        {"clip_qkv", f->clip_qkv},
        {"swiglu_limit", f->clamped_swiglu},
        {"swiglu_alpha", f->clamped_swiglu},
        {"sliding_window", f->window != WINDOW_NEVER},
        {"num_experts", f->moe},
        {"num_local_experts", f->moe},
        {"num_experts_per_tok", f->moe},
        {"moe_intermediate_size", f->moe && strcmp(f->expert_ffn_key, "moe_intermediate_size") == 0},
        {"shared_expert_intermediate_size", f->shared != SHARED_NONE && !f->shared_count && !f->llama4},
        {"moe_router", f->norm == NORM_RULE},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const json_t *v = json_object_get(root, numbers[i].key);
        if (!v || numbers[i].read || accepted(v, ACCEPT_ZERO)) continue;
        return fail_in(why, refuse(numbers[i].key, v, "null, 0", why), "model_type %s", f->model_type);
    }
    return 0;
}

static int check_words(const json_t *root, const struct family *f, struct why *why) {
    const struct {
        const char *key, *word, *alias; /* both say the one thing that is done; alias may be NULL */
        bool read;                      /* by this family */
    } words[] = {
        {"hidden_act", "silu", "swish", false},          {"hidden_activation", "silu", "swish", false},
        {"activation_function", "silu", "swish", false}, {"position_embedding_type", "rope", "rotary", false},
        {"pe_type", "rope", "rotary", false},            {"scoring_func", "softmax", NULL, f->gate != FAMILY_GATE_SOFTMAX},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const json_t *v = json_object_get(root, words[i].key);
        const char *s = json_string_value(v);
        char text[32];
        if (!v || json_is_null(v) || words[i].read) continue;
        if (s && (!strcmp(s, words[i].word) || (words[i].alias && !strcmp(s, words[i].alias)))) continue;
        snprintf(text, sizeof text, "\"%s\"", words[i].word);
        return refuse(words[i].key, v, text, why);
    }
    const json_t *names = json_object_get(root, "architectures"), *name = json_array_get(names, 0);
    if (name && (json_array_size(names) != 1 || !json_is_string(name) || strcmp(json_string_value(name), f->architecture))) {
        struct json_shown shown;
        return fail(why, ERR_UNSUPPORTED, "architectures is [%s%s], which does not go with model_type %s; accepted: [\"%s\"]",
                    json_show(name, &shown), json_array_size(names) > 1 ? ", ..." : "", f->model_type, f->architecture);
    }
    return 0;
}

int config_refuse(const json_t *root, const struct family *f, struct why *why) {
    int rc = check_words(root, f, why);
    if (rc >= 0) rc = check_refusals(root, f, why);
    if (rc >= 0) rc = check_family(root, f, why);
    return rc;
}

bool config_may_refuse(const char *key) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        if (!strcmp(refusals[i].key, key)) return true;
    return false;
}
