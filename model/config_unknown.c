/* config_unknown.c - the keys of config.json that are in no list: ignored, but named in one warning, for nobody here can say
 * whether the model's author meant something by them.
 *
 * Not warned of: what other parts read or refuse, what serving does not need (training, caching, housekeeping, defaults of
 * generation, the vision tower of a model whose text is served), and keys that say null, false, 0 or nothing at all. */
#include "model/config_parts.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

static const char *const harmless[] = {
    /* housekeeping */
    "architectures", "model_type", "name_or_path", "transformers_version", "auto_map", "torch_dtype", "dtype", "use_cache",
    "is_decoder", "tokenizer_class", "problem_type", "id2label", "label2id", "num_labels", "task_specific_params",
    "transformers.js_config", "attn_implementation", "experts_implementation", "use_flash_attention", "cache_implementation",
    "unsloth_version", "unsloth_fixed", "for_llm_compressor", "finetuning_task", "is_llama_config", "model_name",
    /* training */
    "initializer_range", "resid_pdrop", "embd_pdrop", "attn_pdrop", "router_aux_loss_coef", "router_jitter_noise",
    "router_z_loss_coef", "aux_loss_alpha", "aux_loss_coef", "seq_aux", "ep_size", "gradient_checkpointing",
    "neftune_noise_alpha", "pruned_heads", "tie_encoder_decoder", "initializer_factor", "rescale_prenorm_residual",
    /* older files: every default of generation, written out */
    "bad_words_ids", "begin_suppress_tokens", "suppress_tokens", "cross_attention_hidden_size", "diversity_penalty",
    "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "length_penalty",
    "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "prefix", "remove_invalid_values", "repetition_penalty", "temperature", "tf_legacy_loss", "top_k",
    "top_p", "torchscript", "typical_p", "use_bfloat16", "chunk_size_feed_forward", "use_return_dict",
    /* said again, or of parts that are not used: multi-token prediction, the vision tower, linear attention */
    "max_window_layers", "initial_context_length", "experts_per_token", "mlp_intermediate_size", "shared_moe_mode",
    "layernorm_linear_attention_beta", "num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules", "use_mtp",
    "mtp_transformer_layers", "vision_config", "qk_head_dim", "model_max_length", "max_sequence_length", "seq_length",
};

static const char *const read_elsewhere[] = {
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps",
    "rope_theta", "rope_parameters", "rope_scaling", "partial_rotary_factor", "rotary_dim", "rope_interleave", "yarn_always",
    "original_max_position_embeddings", "max_position_embeddings", "tie_word_embeddings", "hidden_act", "attention_bias",
    "qkv_bias", "clip_qkv", "use_sliding_window", "sliding_window", "layer_types", "quantization_config", "swiglu_limit",
    "swiglu_alpha", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "num_experts",
    "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "moe_router",
    CONFIG_KEPT_NEURONS,
    "scoring_func", "use_qk_norm", "position_embedding_type", "pe_type", "hidden_activation", "activation_function",
};

static bool in_list(const char *const *list, size_t n, const char *key) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i], key)) return true;
    return false;
}

static bool ends(const char *key, const char *tail) {
    const size_t n = strlen(key), t = strlen(tail);
    return n > t && !strcmp(key + n - t, tail);
}

/* Whole classes of keys: private ones of a library, what a call returns, dropout, ids of tokens. */
static bool is_class(const char *key) {
    static const char *const tails[] = {"_dropout", "_dropout_prob", "_dropout_rate", "_token_id", "_token_index"};
    if (*key == '_' || !strncmp(key, "output_", 7) || !strncmp(key, "return_dict", 11)) return true;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++)
        if (ends(key, tails[i])) return true;
    return false;
}

static bool says_nothing(const json_t *v) {
    if (json_is_null(v) || json_is_false(v)) return true;
    if (json_is_number(v)) return json_number_value(v) == 0;
    if (json_is_string(v)) return !json_string_length(v);
    return json_is_array(v) ? !json_array_size(v) : json_is_object(v) && !json_object_size(v);
}

static bool is_known(const char *key) {
    return config_may_refuse(key) || is_class(key) || in_list(harmless, sizeof harmless / sizeof *harmless, key) ||
           in_list(read_elsewhere, sizeof read_elsewhere / sizeof *read_elsewhere, key);
}

int config_unknown(const json_t *root, char *text, size_t cap) {
    size_t n = 0;
    int count = 0;
    const char *key;
    json_t *value;
    *text = 0;
    json_object_foreach((json_t *)root, key, value) {
        struct json_shown shown;
        if (is_known(key) || says_nothing(value)) continue;
        count++;
        if (n < cap) n += (size_t)snprintf(text + n, cap - n, "%s%s", n ? ", " : "", json_show_text(key, &shown));
    }
    return count;
}

void config_note_unknown(const json_t *root) {
    char text[600];
    const int n = config_unknown(root, text, sizeof text);
    if (n)
        log_warn("config.json: %d key%s that Cadre does not know and ignores: %s; if one changes what the model computes, the "
                 "answers are wrong", n, n > 1 ? "s" : "", text);
}
