/* test_config_keys.c - no key is passed over in silence that may mean something: config.json as the families' authors publish
 * it has none that is unknown, keys of features that are not there are refused by name, and all others are named. */
#include <stdio.h>
#include <string.h>

#include "model/config_parts.h"

#include "tests/unit/run.h"

#define SMALL \
    "\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":300,\"intermediate_size\":96," \
    "\"initializer_range\":0.02,\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-06,\"torch_dtype\":\"bfloat16\"," \
    "\"transformers_version\":\"4.46.1\",\"use_cache\":true,\"attention_dropout\":0.0,"
#define HEADS "\"num_key_value_heads\":2,\"max_position_embeddings\":4096,\"bos_token_id\":1,\"eos_token_id\":2,"
#define LATENTS \
    "\"attention_bias\":false,\"aux_loss_alpha\":0.001,\"auto_map\":{\"AutoConfig\":\"configuration.Config\"}," \
    "\"ep_size\":1,\"first_k_dense_replace\":1,\"kv_lora_rank\":24,\"q_lora_rank\":48,\"qk_nope_head_dim\":16," \
    "\"qk_rope_head_dim\":8,\"v_head_dim\":20,\"moe_intermediate_size\":32,\"moe_layer_freq\":1,\"n_routed_experts\":8," \
    "\"n_shared_experts\":1,\"num_experts_per_tok\":3,\"num_key_value_heads\":4,\"pretraining_tp\":1,\"rope_theta\":10000," \
    "\"seq_aux\":true,\"tie_word_embeddings\":false,\"max_position_embeddings\":163840,\"bos_token_id\":0,\"eos_token_id\":1," \
    "\"rope_scaling\":{\"beta_fast\":32,\"beta_slow\":1,\"factor\":40,\"mscale\":1.0,\"mscale_all_dim\":1.0," \
    "\"original_max_position_embeddings\":4096,\"type\":\"yarn\"},"

/* Keys as in the published files; sizes are small ones. */
static const char *const published[] = {
    "\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"mlp_bias\":false,\"model_type\":\"llama\"," SMALL HEADS
    "\"pretraining_tp\":1,\"rope_scaling\":{\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,"
    "\"tie_word_embeddings\":false",
    "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SMALL HEADS
    "\"_name_or_path\":\"/data/x\",\"is_llama_config\":true,\"rope_interleaved\":false,\"rope_scaling\":null,"
    "\"rope_theta\":100000,\"tie_word_embeddings\":true,\"pretraining_tp\":1,"
    "\"transformers.js_config\":{\"kv_cache_dtype\":{\"q4f16\":\"float16\"}}",
    "\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\"," SMALL HEADS
    "\"num_experts_per_tok\":2,\"num_local_experts\":8,\"output_router_logits\":false,\"rope_theta\":1000000.0,"
    "\"router_aux_loss_coef\":0.02,\"sliding_window\":null,\"tie_word_embeddings\":false",
    "\"architectures\":[\"Qwen2MoeForCausalLM\"],\"model_type\":\"qwen2_moe\"," SMALL HEADS
    "\"decoder_sparse_step\":1,\"max_window_layers\":21,\"moe_intermediate_size\":32,\"norm_topk_prob\":false,"
    "\"num_experts\":8,\"num_experts_per_tok\":4,\"output_router_logits\":false,\"rope_theta\":1000000.0,"
    "\"router_aux_loss_coef\":0.001,\"shared_expert_intermediate_size\":48,\"sliding_window\":32768,"
    "\"tie_word_embeddings\":false,\"use_sliding_window\":false,\"mlp_only_layers\":[],\"qkv_bias\":true",
    "\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\"," SMALL HEADS
    "\"attention_bias\":false,\"decoder_sparse_step\":1,\"head_dim\":32,\"max_window_layers\":48,\"mlp_only_layers\":[],"
    "\"moe_intermediate_size\":32,\"norm_topk_prob\":true,\"num_experts\":8,\"num_experts_per_tok\":3,"
    "\"output_router_logits\":false,\"rope_scaling\":null,\"rope_theta\":1000000.0,\"router_aux_loss_coef\":0.001,"
    "\"sliding_window\":null,\"tie_word_embeddings\":false,\"use_sliding_window\":false",
    "\"architectures\":[\"OlmoeForCausalLM\"],\"model_type\":\"olmoe\"," SMALL HEADS
    "\"attention_bias\":false,\"clip_qkv\":null,\"norm_topk_prob\":false,\"num_experts\":8,\"num_experts_per_tok\":3,"
    "\"output_router_logits\":false,\"pad_token_id\":1,\"rope_scaling\":null,\"rope_theta\":10000.0,"
    "\"router_aux_loss_coef\":0.01,\"tie_word_embeddings\":false",
    "\"architectures\":[\"DeepseekV2ForCausalLM\"],\"model_type\":\"deepseek_v2\"," SMALL LATENTS
    "\"n_group\":1,\"topk_group\":1,\"topk_method\":\"greedy\",\"norm_topk_prob\":false,\"routed_scaling_factor\":1.0,"
    "\"scoring_func\":\"softmax\",\"head_dim\":8,\"mlp_bias\":false,\"qk_head_dim\":24",
    "\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"deepseek_v3\"," SMALL LATENTS
    "\"n_group\":4,\"topk_group\":2,\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,"
    "\"scoring_func\":\"sigmoid\",\"num_nextn_predict_layers\":1,\"quantization_config\":{\"activation_scheme\":\"dynamic\","
    "\"fmt\":\"e4m3\",\"quant_method\":\"fp8\",\"scale_fmt\":\"ue8m0\",\"weight_block_size\":[128,128]}",
    "\"architectures\":[\"DeepseekV3ForCausalLM\"],\"model_type\":\"kimi_k2\"," SMALL LATENTS
    "\"n_group\":1,\"topk_group\":1,\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,\"routed_scaling_factor\":2.827,"
    "\"scoring_func\":\"sigmoid\",\"num_nextn_predict_layers\":0,\"quantization_config\":{\"activation_scheme\":\"dynamic\","
    "\"fmt\":\"e4m3\",\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}",
    "\"architectures\":[\"Glm4MoeForCausalLM\"],\"model_type\":\"glm4_moe\"," SMALL HEADS
    "\"attention_bias\":true,\"pad_token_id\":29,\"head_dim\":16,\"partial_rotary_factor\":0.5,\"moe_intermediate_size\":32,"
    "\"n_group\":1,\"topk_group\":1,\"n_shared_experts\":1,\"n_routed_experts\":8,\"routed_scaling_factor\":2.5,"
    "\"num_experts_per_tok\":3,\"first_k_dense_replace\":3,\"norm_topk_prob\":true,\"num_nextn_predict_layers\":1,"
    "\"rope_scaling\":null,\"rope_theta\":1000000,\"tie_word_embeddings\":false,\"use_qk_norm\":true",
    "\"architectures\":[\"MiniMaxM2ForCausalLM\"],\"model_type\":\"minimax\"," SMALL HEADS
    "\"attn_type_list\":[1,1,1,1],\"head_dim\":16,\"layernorm_full_attention_beta\":1.0,"
    "\"layernorm_linear_attention_beta\":1.0,\"layernorm_mlp_beta\":1.0,\"mlp_intermediate_size\":8192,"
    "\"mtp_transformer_layers\":1,\"num_experts_per_tok\":3,\"num_local_experts\":8,\"num_mtp_modules\":3,"
    "\"output_router_logits\":false,\"qk_norm_type\":\"per_layer\",\"rope_theta\":5000000,\"rotary_dim\":8,"
    "\"router_aux_loss_coef\":0.001,\"router_jitter_noise\":0.0,\"scoring_func\":\"sigmoid\",\"shared_intermediate_size\":0,"
    "\"shared_moe_mode\":\"sigmoid\",\"sliding_window\":null,\"tie_word_embeddings\":false,\"use_mtp\":true,"
    "\"use_qk_norm\":true,\"use_routing_bias\":true,\"auto_map\":{\"AutoConfig\":\"x\"},\"quantization_config\":{"
    "\"activation_scheme\":\"dynamic\",\"fmt\":\"float8_e4m3fn\",\"quant_method\":\"fp8\",\"weight_block_size\":[128,128],"
    "\"modules_to_not_convert\":[\"gate\",\"e_score_correction_bias\",\"lm_head\"]}",
    "\"architectures\":[\"Llama4ForConditionalGeneration\"],\"model_type\":\"llama4\",\"boi_token_index\":290,"
    "\"eoi_token_index\":291,\"image_token_index\":292,\"torch_dtype\":\"bfloat16\",\"transformers_version\":\"4.51.0\","
    "\"vision_config\":{\"model_type\":\"llama4_vision_model\",\"hidden_size\":1408},\"text_config\":{" SMALL HEADS
    "\"model_type\":\"llama4_text\",\"_attn_implementation_autoset\":true,\"attention_bias\":false,"
    "\"attention_chunk_size\":8192,\"attn_scale\":0.1,\"attn_temperature_tuning\":true,\"floor_scale\":8192,"
    "\"cache_implementation\":\"hybrid\",\"for_llm_compressor\":false,\"head_dim\":16,\"interleave_moe_layer_step\":1,"
    "\"intermediate_size_mlp\":96,\"layer_types\":[\"chunked_attention\",\"chunked_attention\",\"chunked_attention\","
    "\"full_attention\"],\"no_rope_layers\":[1,1,1,0],\"moe_layers\":[0,1,2,3],\"num_experts_per_tok\":1,"
    "\"num_local_experts\":4,\"output_router_logits\":false,\"pad_token_id\":18,\"rope_scaling\":{\"factor\":16.0,"
    "\"high_freq_factor\":1.0,\"low_freq_factor\":0.5,\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},"
    "\"rope_theta\":500000.0,\"router_aux_loss_coef\":0.001,\"router_jitter_noise\":0.0,\"use_qk_norm\":true}",
    "\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\"," SMALL HEADS
    "\"attention_bias\":true,\"experts_per_token\":2,\"head_dim\":16,\"initial_context_length\":4096,\"layer_types\":["
    "\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"],\"num_experts_per_tok\":2,"
    "\"num_local_experts\":4,\"output_router_logits\":false,\"pad_token_id\":9,\"rope_scaling\":{\"beta_fast\":32.0,"
    "\"beta_slow\":1.0,\"factor\":32.0,\"original_max_position_embeddings\":4096,\"rope_type\":\"yarn\",\"truncate\":false},"
    "\"rope_theta\":150000,\"router_aux_loss_coef\":0.9,\"sliding_window\":128,\"swiglu_limit\":7.0,"
    "\"tie_word_embeddings\":false,\"quantization_config\":{\"modules_to_not_convert\":[\"lm_head\"],"
    "\"quant_method\":\"mxfp4\"}",
};
enum { N_PUBLISHED = sizeof published / sizeof *published };

/* The object with one more member, if that is not NULL. */
static json_t *object(const char *body, const char *more) {
    char text[4096];
    struct why why;
    json_t *root = NULL;
    int n = snprintf(text, sizeof text, "{%s%s%s}", body, more ? "," : "", more ? more : "");
    ck_assert_int_lt(n, (int)sizeof text);
    ck_assert_msg(json_read_object("config.json", text, (size_t)n, &root, &why) >= 0, "%s", why.text);
    ck_assert_msg(config_llama4_unwrap(&root, &why) >= 0, "%s", why.text);
    return root;
}

static int parse(const char *body, const char *more, struct why *why) {
    char text[4096];
    struct model_config c;
    int n = snprintf(text, sizeof text, "{%s%s%s}", body, more ? "," : "", more ? more : "");
    ck_assert_int_lt(n, (int)sizeof text);
    return model_config_parse(text, (size_t)n, NULL, 0, &c, why);
}

START_TEST(published_files_have_no_unknown_keys) {
    char text[600];
    struct why why = {""};
    json_t *root = object(published[_i], NULL);
    ck_assert_msg(parse(published[_i], NULL, &why) >= 0, "%s", why.text);
    ck_assert_msg(config_unknown(root, text, sizeof text) == 0, "%s", text);
    json_decref(root);
}
END_TEST

START_TEST(unknown_keys_are_named) {
    char text[600];
    json_t *root = object(published[_i], "\"moe_twist\":2,\"embed_spin\":\"left\",\"bend\":[1],\"off\":false,\"none\":null,"
                                         "\"zero\":0,\"empty\":{},\"blank\":\"\",\"_private\":3,\"spiral_dropout\":0.1");
    ck_assert_int_eq(config_unknown(root, text, sizeof text), 3);
    ck_assert_str_eq(text, "\"moe_twist\", \"embed_spin\", \"bend\"");
    ck_assert_int_eq(config_unknown(root, text, 16), 3); /* cut, and counted all the same */
    ck_assert_uint_lt(strlen(text), 16);
    json_decref(root);
}
END_TEST

/* Features that no family here has. */
static const char *const features[] = {
    "\"index_topk\":2048", "\"linear_attn_config\":{\"layers\":[1]}", "\"full_attention_interval\":4", "\"hc_mult\":4",
    "\"num_hash_layers\":3", "\"rotary_emb_base\":10000", "\"use_parallel_residual\":true", "\"postnorm\":true",
    "\"scale_depth\":1.4", "\"router_logit_softcapping\":30.0", "\"position_embedding_type\":\"alibi\"",
    "\"hidden_activation\":\"gelu\"", "\"attn_output_gate\":true", "\"num_kv_shared_layers\":2", "\"expert_bias\":true",
    "\"moe_router_enable_expert_bias\":true", "\"alibi\":true", "\"logit_scale\":0.5", "\"add_swa_attention_sink_bias\":true",
    "\"rope_ratio\":500", "\"use_lora\":true", "\"lora_rank\":8",
};
START_TEST(features_are_refused) {
    for (int i = 0; i < N_PUBLISHED; i++) {
        char key[64];
        struct why why = {""};
        snprintf(key, sizeof key, "%.*s", (int)strcspn(features[_i] + 1, "\""), features[_i] + 1);
        int rc = parse(published[i], features[_i], &why);
        ck_assert_msg(rc == ERR_UNSUPPORTED && strstr(why.text, key), "%s: %s %s", features[_i], status_name(rc), why.text);
    }
}
END_TEST

/* Keys of one family in another. */
START_TEST(borrowed_keys_are_refused) {
    static const struct {
        int model;
        const char *more, *key;
    } cases[] = {
        {0, "\"no_rope_layer_interval\":4", "no_rope_layer_interval"}, {0, "\"attn_scale\":0.1", "attn_scale"},
        {4, "\"floor_scale\":8192", "floor_scale"},                    {2, "\"attn_type_list\":[1,0]", "attn_type_list"},
        {3, "\"qk_norm_type\":\"per_layer\"", "qk_norm_type"},         {4, "\"n_group\":4", "n_group"},
        {5, "\"kv_lora_rank\":8", "kv_lora_rank"},                     {6, "\"use_routing_bias\":true", "use_routing_bias"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct why why = {""};
        int rc = parse(published[cases[i].model], cases[i].more, &why);
        ck_assert_msg(rc == ERR_UNSUPPORTED && strstr(why.text, cases[i].key), "%s: %s %s", cases[i].more, status_name(rc),
                      why.text);
    }
}
END_TEST

/* Every family with every method: what is not read exactly is refused, and the refusal says what would be read. */
START_TEST(quantization_by_family) {
    static const struct {
        const char *method, *rest;
    } methods[] = {
        {"fp8", ",\"weight_block_size\":[128,128]"}, {"mxfp4", ""}, {"gptq", ",\"bits\":4"}, {"awq", ""}, {"bitsandbytes", ""},
        {"compressed-tensors", ",\"format\":\"float-quantized\""}, {"fbgemm_fp8", ""}, {"modelopt", ""},
    };
    for (int i = 0; i < N_PUBLISHED; i++) {
        struct why why = {""};
        json_t *root = object(published[i], NULL);
        char type[32]; /* what follows replaces it in the object */
        snprintf(type, sizeof type, "%s", json_string_value(json_object_get(root, "model_type")));
        const char *read = !strcmp(type, "gpt_oss") ? "mxfp4" : !strcmp(type, "llama4") ? "without" : "fp8";
        for (size_t m = 0; m < sizeof methods / sizeof *methods; m++) {
            char body[4096], quant[128];
            snprintf(quant, sizeof quant, "{\"quant_method\":\"%s\"%s}", methods[m].method, methods[m].rest);
            json_object_set_new(root, "quantization_config", json_loads(quant, 0, NULL));
            json_object_set_new(root, "hidden_size", json_integer(64));
            if (!strcmp(type, "llama4")) json_object_set_new(root, "model_type", json_string("llama4_text"));
            json_object_del(root, "architectures");
            if (!strcmp(type, "minimax")) json_object_set_new(root, "model_type", json_string("minimax_m2"));
            const size_t n = json_dumpb(root, body, sizeof body, 0);
            ck_assert_uint_le(n, sizeof body);
            struct model_config c;
            int rc = model_config_parse(body, n, NULL, 0, &c, &why);
            if (!strcmp(methods[m].method, read)) ck_assert_msg(rc == 0, "%s %s: %s", type, quant, why.text);
            else
                ck_assert_msg(rc == ERR_UNSUPPORTED && strstr(why.text, methods[m].method) && strstr(why.text, read) &&
                                  strstr(why.text, "quantization_config"),
                              "%s %s: %s", type, quant, why.text);
        }
        json_decref(root);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("config_keys");
    TCase *t = tcase_create("all");
    tcase_add_loop_test(t, published_files_have_no_unknown_keys, 0, N_PUBLISHED);
    tcase_add_loop_test(t, unknown_keys_are_named, 0, N_PUBLISHED);
    tcase_add_loop_test(t, features_are_refused, 0, sizeof features / sizeof *features);
    tcase_add_test(t, borrowed_keys_are_refused);
    tcase_add_test(t, quantization_by_family);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
