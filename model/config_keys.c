/* config_keys.c - the keys of config.json that Cadre does not read, sorted into three kinds.
 *
 * Harmless: training, caching and housekeeping. Refused unless they hold the value that changes nothing: each belongs to a
 * feature that some checkpoint uses and that the forward pass here does not have, so ignoring it would give wrong tokens
 * without a word. Everything else is unknown: ignored, but named in one debug line. */
#include "model/config_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

enum accept { ACCEPT_NULL = 0, ACCEPT_FALSE = 1, ACCEPT_ZERO = 2, ACCEPT_ONE = 4, ACCEPT_EMPTY = 8 }; /* null always is */
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
};

static const char *const harmless[] = {
    "architectures", "model_type", "_name_or_path", "name_or_path", "transformers_version", "auto_map", "torch_dtype",
    "dtype", "use_cache", "initializer_range", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop",
    "pad_token_id", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "router_z_loss_coef",
    "output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "is_decoder", "tokenizer_class",
    "problem_type", "pruned_heads", "tie_encoder_decoder", "id2label", "label2id", "num_labels",
    "chunk_size_feed_forward", "gradient_checkpointing", "unsloth_version", "unsloth_fixed", "use_flash_attention",
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "task_specific_params",
    "transformers.js_config", "max_window_layers", "is_llama_config", "initial_context_length", "num_nextn_predict_layers",
    "num_mtp_layers",
    "vision_config", "boi_token_index", "eoi_token_index", "image_token_index", "cache_implementation", "for_llm_compressor",
    "num_mtp_modules", "use_mtp", "mtp_transformer_layers", "mlp_intermediate_size", "shared_moe_mode",
    "layernorm_linear_attention_beta", "experts_per_token",
};

static const char *const read_elsewhere[] = {
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps",
    "rope_theta", "rope_parameters", "rope_scaling", "partial_rotary_factor", "rotary_dim", "rope_interleave", "yarn_always",
    "original_max_position_embeddings", "max_position_embeddings", "tie_word_embeddings", "hidden_act",
    "bos_token_id", "eos_token_id", "attention_bias", "qkv_bias", "clip_qkv", "use_sliding_window", "sliding_window",
    "layer_types", "quantization_config", "swiglu_limit", "swiglu_alpha",
    "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "num_experts",
    "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "moe_router",
    "scoring_func", "use_qk_norm", "attn_type_list", "qk_norm_type", "no_rope_layer_interval", "floor_scale", "attn_scale",
};

static bool accepted(const json_t *v, unsigned accept) {
    if (json_is_null(v) || ((accept & ACCEPT_FALSE) && json_is_false(v))) return true;
    if ((accept & ACCEPT_ZERO) && json_is_number(v) && json_number_value(v) == 0) return true;
    if ((accept & ACCEPT_ONE) && json_is_number(v) && json_number_value(v) == 1) return true;
    return (accept & ACCEPT_EMPTY) && json_is_array(v) && !json_array_size(v);
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
    const bool v2 = f->gate == FAMILY_GATE_DEEPSEEK_V2, deepseek = v2 || f->gate == FAMILY_GATE_DEEPSEEK_V3;
    const struct {
        const char *key;
        bool read;
    } keys[] = {
        {"n_routed_experts", f->moe},        {"n_shared_experts", f->shared_count}, {"first_k_dense_replace", f->first_dense},
        {"moe_layer_freq", f->first_dense},  {"n_group", deepseek},                 {"topk_group", deepseek},
        {"topk_method", deepseek},           {"routed_scaling_factor", deepseek},   {"group_fill", deepseek},
        {"no_rope_layers", f->llama4},       {"attention_chunk_size", f->llama4},   {"interleave_moe_layer_step", f->llama4},
        {"moe_layers", f->llama4},           {"attn_temperature_tuning", f->llama4}, {"intermediate_size_mlp", f->llama4},
        {"scale_always", v2},                {"use_routing_bias", f->gate == FAMILY_GATE_MINIMAX},
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
    const json_t *act = json_object_get(root, "hidden_act"), *score = json_object_get(root, "scoring_func");
    if (act && !json_is_null(act)) {
        const char *s = json_string_value(act);
        if (!s || (strcmp(s, "silu") && strcmp(s, "swish"))) return refuse("hidden_act", act, "\"silu\"", why);
    }
    if (score && !json_is_null(score) && f->gate == FAMILY_GATE_SOFTMAX) {
        const char *s = json_string_value(score);
        if (!s || strcmp(s, "softmax")) return refuse("scoring_func", score, "null, \"softmax\"", why);
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

static bool in_list(const char *const *list, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], key)) return true;
    return false;
}

static bool is_known(const char *key) {
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        if (!strcmp(refusals[i].key, key)) return true;
    return in_list(harmless, sizeof harmless / sizeof *harmless, key) ||
           in_list(read_elsewhere, sizeof read_elsewhere / sizeof *read_elsewhere, key);
}

void config_note_unknown(json_t *root) {
    char text[600];
    size_t n = 0;
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) {
        struct json_shown shown;
        if (is_known(key) || n >= sizeof text) continue;
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", n ? ", " : "", json_show_text(key, &shown));
    }
    if (n) log_debug("config.json: keys that Cadre does not know and ignores: %s", text);
}
