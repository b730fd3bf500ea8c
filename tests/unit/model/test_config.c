/* test_config.c - every family's config.json becomes the right description; every refusal names key, value and remedy. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/model/tiny.h"

#include <check.h>

#define SIZES \
    "\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":300," \
    "\"max_position_embeddings\":128,"
#define LLAMA "\"model_type\":\"llama\"," SIZES "\"intermediate_size\":96,"
#define MISTRAL "\"model_type\":\"mistral\"," SIZES "\"intermediate_size\":96,"
#define MIXTRAL \
    "\"model_type\":\"mixtral\"," SIZES "\"intermediate_size\":96,\"num_local_experts\":8,\"num_experts_per_tok\":2,"
#define QWEN2 "\"model_type\":\"qwen2\"," SIZES "\"intermediate_size\":96,"
#define QWEN2_MOE \
    "\"model_type\":\"qwen2_moe\"," SIZES "\"intermediate_size\":96,\"moe_intermediate_size\":32,\"num_experts\":6," \
    "\"num_experts_per_tok\":4,\"shared_expert_intermediate_size\":48,"
#define QWEN3_MOE \
    "\"model_type\":\"qwen3_moe\"," SIZES "\"intermediate_size\":96,\"moe_intermediate_size\":32,\"num_experts\":8," \
    "\"num_experts_per_tok\":3,"
#define OLMOE "\"model_type\":\"olmoe\"," SIZES "\"intermediate_size\":32,\"num_experts\":8,\"num_experts_per_tok\":3,"
#define LATENT_SIZES                                                                                                           \
    "\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":300,\"intermediate_size\":96,"        \
    "\"moe_intermediate_size\":32,\"n_routed_experts\":8,\"num_experts_per_tok\":3,\"kv_lora_rank\":24,\"qk_nope_head_dim\":"  \
    "16,"                                                                                                                      \
    "\"qk_rope_head_dim\":8,\"v_head_dim\":20,\"n_shared_experts\":2,\"first_k_dense_replace\":1,"
#define V2 "\"model_type\":\"deepseek_v2\"," LATENT_SIZES
#define V3 "\"model_type\":\"deepseek_v3\"," LATENT_SIZES
#define YARN(rest) "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"original_max_position_embeddings\":4096" rest "},"
#define CADRE_SIZES \
    "\"model_type\":\"cadre_moe\"," SIZES "\"moe_intermediate_size\":32,\"num_experts\":8,\"num_experts_per_tok\":3,"
#define ROUTER(rest) \
    "\"moe_router\":{\"kind\":\"flat\",\"score\":\"raw\",\"k\":3,\"norm\":\"none\",\"weight\":\"one\"" rest "},"
#define CADRE CADRE_SIZES ROUTER("")

static int parse(const char *body, const char *generation, struct model_config *c, struct why *why) {
    char text[4096];
    int n = snprintf(text, sizeof text, "{%s\"use_cache\":true}", body);
    ck_assert_int_lt(n, (int)sizeof text);
    *why = (struct why){""};
    return model_config_parse(text, (size_t)n, generation, generation ? strlen(generation) : 0, c, why);
}

static struct model_config good(const char *body) {
    struct model_config c;
    struct why why;
    ck_assert_msg(parse(body, NULL, &c, &why) == 0, "%s: %s", body, why.text);
    return c;
}

static const char *name_of(const struct model_config *c, enum tensor_role role, int layer, int expert) {
    static struct tensor_want w;
    return model_tensor(c, role, layer, expert, &w) ? w.name : "";
}

static void check_shape(const struct model_config *c, enum tensor_role role, int layer, int rows, int cols) {
    struct tensor_want w;
    ck_assert_msg(model_tensor(c, role, layer, 0, &w), "role %d", role);
    ck_assert_msg(w.rows == rows && w.cols == cols, "%s: [%d, %d], wanted [%d, %d]", w.name, w.rows, w.cols, rows, cols);
}

START_TEST(llama) {
    struct model_config c =
        good(LLAMA "\"rms_norm_eps\":1e-5,\"rope_theta\":500000,\"attention_bias\":true,\"head_dim\":24,"
                   "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":2,"
                   "\"mlp_bias\":false,\"pretraining_tp\":1,\"rope_scaling\":null,\"architectures\":[\"LlamaForCausalLM\"],");
    ck_assert_str_eq(c.family, "llama");
    ck_assert_int_eq(c.head_dim, 24);
    ck_assert_int_eq(c.rope.dims, 24);
    ck_assert_float_eq_tol(c.attention_scale, 0.20412415f, 1e-7f);
    ck_assert_float_eq(c.norm_eps, 1e-5f);
    ck_assert_double_eq(c.rope.theta, 5e5);
    ck_assert(c.qkv_bias && c.o_bias && c.tied_embeddings && c.stored == FMT_BF16);
    ck_assert_int_eq(c.qk_norm, QK_NORM_NONE);
    ck_assert_int_eq(c.dense_ffn, 96);
    ck_assert_int_eq(c.moe_layers + c.gate.experts + c.expert_ffn + c.shared_ffn, 0);
    ck_assert_int_eq(c.moe_index[3], -1);
    ck_assert(c.bos == 1 && c.n_eos == 1 && c.eos[0] == 2);
    check_shape(&c, T_Q, 0, 96, 64);
    check_shape(&c, T_V, 0, 48, 64);
    check_shape(&c, T_O, 3, 64, 96);
    check_shape(&c, T_K_BIAS, 0, 48, 0);
    check_shape(&c, T_O_BIAS, 0, 64, 0);
    check_shape(&c, T_DENSE_DOWN, 0, 64, 96);
    ck_assert_str_eq(name_of(&c, T_LM_HEAD, 0, 0), "");
    ck_assert_str_eq(name_of(&c, T_ROUTER, 0, 0), "");
    ck_assert_str_eq(name_of(&c, T_EXPERT_UP, 0, 0), "");
    ck_assert_str_eq(name_of(&c, T_Q, 4, 0), "");
    ck_assert_str_eq(name_of(&c, T_FFN_NORM, 2, 0), "model.layers.2.post_attention_layernorm.weight");
}
END_TEST

START_TEST(deepseek) {
    struct model_config c =
        good(V3 "\"q_lora_rank\":48,\"max_position_embeddings\":163840,\"num_key_value_heads\":4,\"n_group\":4,"
                "\"topk_group\":2,\"topk_method\":\"noaux_tc\",\"norm_topk_prob\":true,\"head_dim\":8,"
                "\"num_nextn_predict_layers\":1," YARN(",\"mscale\":1.0,\"mscale_all_dim\":1.0"));
    ck_assert(c.mla.q_rank == 48 && c.mla.kv_rank == 24 && c.mla.nope == 16 && c.mla.rope == 8 && c.mla.value == 20);
    ck_assert(c.kv_heads == 1 && c.head_dim == 24 && c.rope.dims == 8 && c.rope.interleaved && c.rope.kind == ROPE_YARN);
    ck_assert_float_eq_tol(c.attention_scale, 1.3688879f * 1.3688879f / sqrtf(24), 1e-6f);
    ck_assert(c.mla.norm_eps == 1e-6f && c.rope.amplitude == 1 && c.moe_layers == 3 && c.shared_ffn == 64 && c.gate_sel_bias);
    check_shape(&c, T_Q_A, 0, 48, 64);
    check_shape(&c, T_Q_B, 0, 4 * 24, 48);
    check_shape(&c, T_KV_A, 3, 24 + 8, 64);
    check_shape(&c, T_KV_B, 0, 4 * (16 + 20), 24);
    check_shape(&c, T_O, 0, 64, 80);
    ck_assert_str_eq(name_of(&c, T_Q, 0, 0), "");
    ck_assert_str_eq(name_of(&c, T_K, 0, 0), "");
    ck_assert_str_eq(name_of(&c, T_KV_A_BIAS, 0, 0), "");
    ck_assert_str_eq(name_of(&c, T_KV_A, 2, 0), "model.layers.2.self_attn.kv_a_proj_with_mqa.weight");
    ck_assert_str_eq(name_of(&c, T_SHARED_UP, 1, 0), "model.layers.1.mlp.shared_experts.up_proj.weight");
    c = good(V2 "\"q_lora_rank\":null,\"max_position_embeddings\":2048,\"attention_bias\":true,");
    ck_assert(c.mla.q_rank == 0 && c.rope.kind == ROPE_PLAIN && !c.gate_sel_bias);
    check_shape(&c, T_Q, 0, 96, 64);
    check_shape(&c, T_KV_A_BIAS, 0, 32, 0);
    check_shape(&c, T_O_BIAS, 0, 64, 0);
    ck_assert_str_eq(name_of(&c, T_Q_A, 0, 0), "");
}
END_TEST

/* DeepSeek-V3's own code stretches only beyond the original length; transformers, and V2's own code, always do. */
START_TEST(yarn_within_the_original_length) {
    const char *within = "\"max_position_embeddings\":4096,";
    char text[2000];
    snprintf(text, sizeof text, V3 "\"n_group\":1,\"topk_group\":1,%s" YARN(",\"mscale\":1,\"mscale_all_dim\":1"), within);
    struct model_config c = good(text);
    ck_assert(c.rope.kind == ROPE_PLAIN && c.rope.interleaved && c.rope.dims == 8 && c.rope.amplitude == 1);
    ck_assert_float_eq_tol(c.attention_scale, 1 / sqrtf(24), 1e-7f);
    snprintf(text, sizeof text,
             V3 "\"n_group\":1,\"topk_group\":1,\"yarn_always\":true,%s" YARN(",\"mscale\":1,\"mscale_all_dim\":1"), within);
    c = good(text);
    ck_assert(c.rope.kind == ROPE_YARN && c.rope.factor == 40);
    ck_assert_float_eq_tol(c.attention_scale, 1.3688879f * 1.3688879f / sqrtf(24), 1e-6f);
    snprintf(text, sizeof text, V2 "%s" YARN(",\"mscale\":0.5"), within);
    c = good(text);
    ck_assert(c.rope.kind == ROPE_YARN); /* and mscale alone is the amplitude, as in the authors' code */
    ck_assert_double_eq_tol(c.rope.amplitude, rope_mscale(40, 0.5), 1e-12);
    ck_assert_float_eq_tol(c.attention_scale, 1 / sqrtf(24), 1e-7f);
}
END_TEST

START_TEST(defaults) {
    struct model_config c = good(LLAMA);
    ck_assert_float_eq(c.norm_eps, 1e-6f);
    ck_assert_double_eq(c.rope.theta, 1e4);
    ck_assert_int_eq(c.head_dim, 16);
    ck_assert(!c.tied_embeddings && !c.qkv_bias && c.bos == -1 && c.n_eos == 0 && c.stored == FMT_F32 && c.window[0] == 0);
    check_shape(&c, T_LM_HEAD, 0, 300, 64);
    c = good("\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":300,"
             "\"max_position_embeddings\":128,\"intermediate_size\":96,");
    ck_assert_int_eq(c.kv_heads, 4);
    ck_assert_double_eq(good(MIXTRAL).rope.theta, 1e6);
    ck_assert_float_eq(good(OLMOE).norm_eps, 1e-5f);
}
END_TEST

START_TEST(mixtral) {
    struct model_config c = good(MIXTRAL "\"sliding_window\":100,");
    ck_assert(c.gate.score == GATE_SOFTMAX && c.gate.norm == GATE_NORM_SUM && c.gate.weight == GATE_WEIGHT_SCORE);
    ck_assert(c.gate.experts == 8 && c.gate.k == 2 && c.gate.scale == 1 && c.gate.norm_eps == 0);
    ck_assert(c.expert_ffn == 96 && c.dense_ffn == 0 && c.moe_layers == 4 && c.moe_index[3] == 3 && c.window[0] == 100 &&
              c.window[3] == 100);
    ck_assert_str_eq(name_of(&c, T_ROUTER, 1, 0), "model.layers.1.block_sparse_moe.gate.weight");
    ck_assert_str_eq(name_of(&c, T_EXPERT_GATE, 1, 7), "model.layers.1.block_sparse_moe.experts.7.w1.weight");
    ck_assert_str_eq(name_of(&c, T_EXPERT_UP, 1, 7), "model.layers.1.block_sparse_moe.experts.7.w3.weight");
    ck_assert_str_eq(name_of(&c, T_EXPERT_DOWN, 1, 7), "model.layers.1.block_sparse_moe.experts.7.w2.weight");
    ck_assert_str_eq(name_of(&c, T_EXPERT_DOWN, 1, 8), "");
    check_shape(&c, T_ROUTER, 0, 8, 64);
    check_shape(&c, T_EXPERT_DOWN, 0, 64, 96);
    c = good(MIXTRAL "\"expert_neurons_kept\":40,");
    check_shape(&c, T_EXPERT_UP, 0, 40, 64);
    check_shape(&c, T_EXPERT_DOWN, 0, 64, 40);
    c = good(QWEN2_MOE "\"expert_neurons_kept\":24,");
    ck_assert(c.expert_ffn == 24 && c.shared_ffn == 48);
}
END_TEST

START_TEST(qwen2_moe) {
    struct model_config c =
        good(QWEN2_MOE "\"norm_topk_prob\":false,\"decoder_sparse_step\":2,\"mlp_only_layers\":[1],\"max_window_layers\":21,"
                       "\"use_sliding_window\":false,\"sliding_window\":4096,\"qkv_bias\":true,");
    ck_assert(c.qkv_bias && !c.o_bias && c.window[0] == 0);
    ck_assert(c.gate.norm == GATE_NORM_NONE && c.gate.experts == 6 && c.gate.k == 4);
    ck_assert(c.shared == SHARED_SIGMOID && c.shared_ffn == 48 && c.expert_ffn == 32 && c.dense_ffn == 96);
    ck_assert(c.moe_layers == 1 && c.moe_index[0] == -1 && c.moe_index[1] == -1 && c.moe_index[2] == -1 && c.moe_index[3] == 0);
    check_shape(&c, T_SHARED_SCALE, 3, 1, 64);
    check_shape(&c, T_SHARED_DOWN, 3, 64, 48);
    ck_assert_str_eq(name_of(&c, T_SHARED_SCALE, 3, 0), "model.layers.3.mlp.shared_expert_gate.weight");
    ck_assert_str_eq(name_of(&c, T_SHARED_UP, 3, 0), "model.layers.3.mlp.shared_expert.up_proj.weight");
    ck_assert_str_eq(name_of(&c, T_DENSE_UP, 0, 0), "model.layers.0.mlp.up_proj.weight");
    ck_assert_str_eq(name_of(&c, T_DENSE_UP, 3, 0), "");
    ck_assert_str_eq(name_of(&c, T_O_BIAS, 0, 0), "");
    c = good(QWEN2_MOE "\"mlp_only_layers\":[0,1,2,3],");
    ck_assert(c.moe_layers == 0 && c.gate.experts == 0 && c.expert_ffn == 0 && c.shared == SHARED_NONE && c.dense_ffn == 96);
    ck_assert(!good(QWEN2_MOE "\"qkv_bias\":false,").qkv_bias);
}
END_TEST

START_TEST(qwen3_moe) {
    struct model_config c =
        good(QWEN3_MOE "\"norm_topk_prob\":true,\"head_dim\":32,\"num_local_experts\":8,\"dtype\":\"bfloat16\","
                       "\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"default\"},\"use_qk_norm\":true,"
                       "\"shared_expert_intermediate_size\":0,\"qkv_bias\":false,");
    ck_assert(c.qk_norm == QK_NORM_HEAD && !c.qkv_bias && c.gate.norm == GATE_NORM_SUM && c.shared == SHARED_NONE);
    ck_assert(c.rope.theta == 1e6 && c.stored == FMT_BF16);
    check_shape(&c, T_Q_NORM, 0, 32, 0);
    check_shape(&c, T_K_NORM, 0, 32, 0);
    ck_assert_str_eq(name_of(&c, T_EXPERT_UP, 0, 5), "model.layers.0.mlp.experts.5.up_proj.weight");
    ck_assert_int_eq(good(QWEN3_MOE).gate.norm, GATE_NORM_NONE); /* the key's default */
}
END_TEST

START_TEST(olmoe) {
    struct model_config c = good(OLMOE "\"clip_qkv\":8.0,\"norm_topk_prob\":false,");
    ck_assert(c.qk_norm == QK_NORM_FULL && c.clip_qkv == 8 && c.expert_ffn == 32 && c.dense_ffn == 0);
    check_shape(&c, T_Q_NORM, 0, 64, 0);
    check_shape(&c, T_K_NORM, 0, 32, 0);
    ck_assert_float_eq(good(OLMOE "\"clip_qkv\":null,").clip_qkv, 0);
}
END_TEST

START_TEST(cadre_moe) {
    struct model_config c =
        good(CADRE_SIZES "\"shared_expert_intermediate_size\":16,\"moe_router\":{\"kind\":\"flat\",\"score\":\"sigmoid\","
                         "\"k\":3,\"norm\":\"sum\",\"scale\":1.5,\"weight\":\"score\",\"bias\":true,\"sel_bias\":true,"
                         "\"groups\":null},");
    ck_assert(c.gate.score == GATE_SIGMOID && c.gate.norm == GATE_NORM_SUM && c.gate.weight == GATE_WEIGHT_SCORE);
    ck_assert(c.gate.scale == 1.5f && c.gate_bias && c.gate_sel_bias && c.shared == SHARED_PLAIN && c.shared_ffn == 16);
    ck_assert_str_eq(name_of(&c, T_ROUTER_BIAS, 0, 0), "model.layers.0.mlp.gate.bias");
    ck_assert_str_eq(name_of(&c, T_ROUTER_SEL_BIAS, 0, 0), "model.layers.0.mlp.gate.e_score_correction_bias");
    ck_assert_str_eq(name_of(&c, T_SHARED_SCALE, 0, 0), "");
    check_shape(&c, T_ROUTER_BIAS, 0, 8, 0);
    c = good(CADRE);
    ck_assert(c.gate.score == GATE_RAW && c.gate.norm == GATE_NORM_NONE && c.gate.weight == GATE_WEIGHT_ONE &&
              c.gate.scale == 1);
    ck_assert(!c.gate_bias && !c.gate_sel_bias && c.shared == SHARED_NONE);
    ck_assert_str_eq(name_of(&c, T_SHARED_UP, 0, 0), "");
}
END_TEST

START_TEST(windows) {
    ck_assert_int_eq(good(MISTRAL "\"sliding_window\":4096,").window[0], 4096);
    ck_assert_int_eq(good(MISTRAL "\"sliding_window\":null,").window[0], 0);
    ck_assert_int_eq(good(MISTRAL).window[0], 4096); /* an absent key means what the family's class says */
    ck_assert_int_eq(good(QWEN2 "\"use_sliding_window\":false,\"sliding_window\":64,\"max_window_layers\":2,").window[0], 0);
    static const char full[] = "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"";
    static const char slide[] = "\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\"";
    char text[1024];
    snprintf(text, sizeof text, QWEN2 "\"use_sliding_window\":true,\"sliding_window\":64,\"layer_types\":[%s],", slide);
    ck_assert_int_eq(good(text).window[0], 64);
    snprintf(text, sizeof text, QWEN2 "\"use_sliding_window\":true,\"sliding_window\":64,\"layer_types\":[%s],", full);
    ck_assert_int_eq(good(text).window[0], 0);
    snprintf(text, sizeof text, LLAMA "\"layer_types\":[%s],", full);
    ck_assert_int_eq(good(text).window[0], 0);
    struct model_config c = good(QWEN2 "\"use_sliding_window\":true,\"sliding_window\":64,\"layer_types\":[\"full_attention\","
                                       "\"sliding_attention\",\"full_attention\",\"sliding_attention\"],");
    ck_assert(c.window[0] == 0 && c.window[1] == 64 && c.window[2] == 0 && c.window[3] == 64);
}
END_TEST

START_TEST(end_tokens) {
    struct model_config c;
    struct why why;
    ck_assert_int_eq(
        parse(LLAMA "\"eos_token_id\":[7,2],\"bos_token_id\":null,", "{\"eos_token_id\":[2,9],\"bos_token_id\":3}", &c, &why),
        0);
    ck_assert(c.n_eos == 3 && c.eos[0] == 7 && c.eos[1] == 2 && c.eos[2] == 9 && c.bos == 3);
    ck_assert_int_eq(parse(LLAMA "\"eos_token_id\":7,\"bos_token_id\":1,", "{\"bos_token_id\":3}", &c, &why), 0);
    ck_assert(c.n_eos == 1 && c.bos == 1);
    ck_assert_int_eq(parse(LLAMA, "{\"eos_token_id\":300}", &c, &why), ERR_INVALID);
    ck_assert_msg(strstr(why.text, "generation_config.json: eos_token_id is 300") != NULL, "%s", why.text);
    ck_assert_int_eq(parse(LLAMA, "[]", &c, &why), ERR_CORRUPT);
    ck_assert_msg(strstr(why.text, "generation_config.json") != NULL, "%s", why.text);
}
END_TEST

#define FP8(more) "\"quantization_config\":{\"quant_method\":\"fp8\"" more "},"
#define SQUARE ",\"weight_block_size\":[128,128]"
#define GPT_OSS_SIZES                                                                                                          \
    "\"model_type\":\"gpt_oss\"," SIZES "\"intermediate_size\":40,\"num_local_experts\":4,\"num_experts_per_tok\":2,"
#define GPT_OSS GPT_OSS_SIZES "\"rope_scaling\":{\"rope_type\":\"default\"},"

START_TEST(block_formats) {
    struct model_config c =
        good(LLAMA FP8(SQUARE ",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"modules_to_not_convert\":[\"x\"]"));
    ck_assert(c.quant == FMT_FP8 && c.quant_block == 128 && good(LLAMA).quant == FMT_COUNT);
    ck_assert_int_eq(model_format(&c, T_EXPERT_UP, FMT_STORED), FMT_FP8);
    ck_assert_int_eq(model_format(&c, T_EXPERT_UP, FMT_BF16), FMT_BF16);
}
END_TEST

/* As the smaller of the published ones has it. */
START_TEST(gpt_oss_published) {
    struct model_config c = good(
        "\"architectures\":[\"GptOssForCausalLM\"],\"attention_bias\":true,\"attention_dropout\":0.0,\"eos_token_id\":200002,"
        "\"experts_per_token\":4,\"head_dim\":64,\"hidden_act\":\"silu\",\"hidden_size\":2880,\"initial_context_length\":4096,"
        "\"initializer_range\":0.02,\"intermediate_size\":2880,\"layer_types\":[\"sliding_attention\",\"full_attention\"],"
        "\"max_position_embeddings\":131072,\"model_type\":\"gpt_oss\",\"num_attention_heads\":64,\"num_experts_per_tok\":4,"
        "\"num_hidden_layers\":2,\"num_key_value_heads\":8,\"num_local_experts\":32,\"output_router_logits\":false,"
        "\"pad_token_id\":199999,\"quantization_config\":{\"modules_to_not_convert\":[\"model.layers.*.self_attn\","
        "\"model.layers.*.mlp.router\",\"model.embed_tokens\",\"lm_head\"],\"quant_method\":\"mxfp4\"},\"rms_norm_eps\":1e-05,"
        "\"rope_scaling\":{\"beta_fast\":32.0,\"beta_slow\":1.0,\"factor\":32.0,\"original_max_position_embeddings\":4096,"
        "\"rope_type\":\"yarn\",\"truncate\":false},\"rope_theta\":150000,\"router_aux_loss_coef\":0.9,\"sliding_window\":128,"
        "\"swiglu_limit\":7.0,\"tie_word_embeddings\":false,\"transformers_version\":\"4.55.0\","
        "\"vocab_size\":201088,");
    ck_assert(c.quant == FMT_MXFP4 && c.gate.experts == 32 && c.gate.k == 4 && c.window[0] == 128 && c.window[1] == 0);
    ck_assert_double_eq_tol(c.rope.amplitude, 1.3465736, 1e-6);
    ck_assert(!c.rope.truncate && c.rope.kind == ROPE_YARN);
    struct tensor_want w;
    ck_assert(model_tensor(&c, T_EXPERT_UP, 1, 31, &w) && w.packed && w.dims == 4);
    ck_assert(w.shape[0] == 32 && w.shape[1] == 5760 && w.shape[2] == 90 && w.shape[3] == 16);
    ck_assert_str_eq(w.name, "model.layers.1.mlp.experts.gate_up_proj_blocks");
}
END_TEST

START_TEST(gpt_oss) {
    struct model_config c = good(GPT_OSS "\"sliding_window\":128,\"swiglu_limit\":7.0,\"hidden_act\":\"silu\",");
    ck_assert(c.window[0] == 128 && c.window[1] == 0 && c.window[2] == 128 && c.sinks && c.expert_bias);
    ck_assert(c.qkv_bias && c.o_bias && c.gate_bias && !c.gate_sel_bias);
    ck_assert(c.gate.score == GATE_RAW && c.gate.norm == GATE_NORM_SOFTMAX && c.act.limit == 7 && c.act.shift == 1);
    ck_assert_str_eq(name_of(&c, T_EXPERT_UP, 1, 3), "model.layers.1.mlp.experts.gate_up_proj");
    ck_assert_str_eq(name_of(&c, T_EXPERT_DOWN_BIAS, 1, 3), "model.layers.1.mlp.experts.down_proj_bias");
    ck_assert_str_eq(name_of(&c, T_ROUTER_BIAS, 0, 0), "model.layers.0.mlp.router.bias");
    struct tensor_want w;
    ck_assert(model_tensor(&c, T_EXPERT_UP, 1, 3, &w)); /* [4, 64, 80]: element (r, c) of expert 3 at [3][c][2 r + 1] */
    ck_assert(w.dims == 3 && w.shape[0] == 4 && w.shape[1] == 64 && w.shape[2] == 80);
    ck_assert(w.first == 3 * 64 * 80 + 1 && w.row_step == 2 && w.col_step == 80 && w.rows == 40 && w.cols == 64);
    ck_assert(model_tensor(&c, T_EXPERT_GATE_BIAS, 1, 3, &w));
    ck_assert(w.dims == 2 && w.first == 3 * 80 && w.row_step == 2 && w.rows == 40);
}
END_TEST

static const struct {
    const char *body;
    int code;
    const char *key, *says; /* both are in the message */
} refused[] = {
    {"", ERR_INVALID, "model_type", "known are cadre_moe, "},
    {"\"model_type\":3,", ERR_INVALID, "model_type", "3; wanted a string"},
    {"\"model_type\":\"gpt2\",", ERR_UNSUPPORTED, "model_type", "\"gpt2\"; known are"},
    {"\"model_type\":\"llama\",", ERR_INVALID, "hidden_size", "missing"},
    {LLAMA "\"hidden_size\":64,", ERR_CORRUPT, "hidden_size", "duplicate"},
    {"\"model_type\":\"llama\",\"hidden_size\":0,", ERR_INVALID, "hidden_size", "0; wanted a whole number from 1 to 65536"},
    {"\"model_type\":\"llama\",\"hidden_size\":65537,", ERR_INVALID, "hidden_size",
     "65537; wanted a whole number from 1 to 65536"},
    {"\"model_type\":\"llama\",\"hidden_size\":-64,", ERR_INVALID, "hidden_size", "-64"},
    {"\"model_type\":\"llama\",\"hidden_size\":64.0,", ERR_INVALID, "hidden_size", "wanted a whole number"},
    {"\"model_type\":\"llama\",\"hidden_size\":\"64\",", ERR_INVALID, "hidden_size", "\"64\"; wanted a whole number"},
    {"\"model_type\":\"llama\",\"hidden_size\":99999999999999999999,", ERR_CORRUPT, "config.json", "too big integer"},
    {"\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":513,", ERR_INVALID, "num_hidden_layers", "1 to 512"},
    {"\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":4,\"vocab_size\":1048577,", ERR_INVALID, "vocab_size",
     "1048576"},
    {LLAMA "\"head_dim\":15,", ERR_INVALID, "head_dim", "even"},
    {LLAMA "\"head_dim\":1026,", ERR_INVALID, "head_dim", "2 to 1024"},
    {"\"model_type\":\"llama\",\"hidden_size\":65,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":9,"
     "\"max_position_embeddings\":9,",
     ERR_INVALID, "hidden_size", "head_dim"},
    {"\"model_type\":\"llama\",\"hidden_size\":60,\"num_hidden_layers\":4,\"num_attention_heads\":6,\"num_key_value_heads\":4,"
     "\"vocab_size\":9,\"max_position_embeddings\":9,",
     ERR_INVALID, "num_key_value_heads", "wanted a multiple"},
    {"\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":1024,\"head_dim\":512,"
     "\"vocab_size\":9,"
     "\"max_position_embeddings\":9,",
     ERR_INVALID, "head_dim", "at most 131072"},
    {"\"model_type\":\"mixtral\",\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":9,"
     "\"max_position_embeddings\":9,",
     ERR_INVALID, "num_key_value_heads", "missing"},
    {"\"model_type\":\"llama\"," SIZES, ERR_INVALID, "intermediate_size", "missing"},
    {"\"model_type\":\"llama\"," SIZES "\"intermediate_size\":262145,", ERR_INVALID, "intermediate_size", "262144"},
    {LLAMA "\"rms_norm_eps\":0,", ERR_INVALID, "rms_norm_eps", "wanted a number"},
    {LLAMA "\"rms_norm_eps\":-1e-5,", ERR_INVALID, "rms_norm_eps", "wanted a number"},
    {LLAMA "\"rms_norm_eps\":true,", ERR_INVALID, "rms_norm_eps", "true; wanted a number"},
    {LLAMA "\"tie_word_embeddings\":1,", ERR_INVALID, "tie_word_embeddings", "1; wanted true or false"},
    {LLAMA "\"rope_theta\":0,", ERR_INVALID, "rope_theta", "0; wanted a number"},
    {LLAMA "\"rope_theta\":\"1e4\",", ERR_INVALID, "rope_theta", "wanted a number"},
    {LLAMA "\"rope_theta\":1e4,\"rope_parameters\":{\"rope_theta\":2e4},", ERR_INVALID, "rope_parameters", "wanted one value"},
    {LLAMA "\"rope_parameters\":{\"rope_theta\":0},", ERR_INVALID, "rope_parameters: rope_theta", "0; wanted"},
    {LLAMA "\"rope_parameters\":7,", ERR_INVALID, "rope_parameters", "7; wanted an object"},
    {LLAMA "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1}},", ERR_UNSUPPORTED, "rope_parameters",
     "\"full_attention\""},
    {LLAMA "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.0},", ERR_UNSUPPORTED, "rope_scaling: rope_type is \"dynamic\"",
     "accepted: \"default\", \"linear\", \"llama3\", \"yarn\""},
    {LLAMA "\"rope_scaling\":{\"type\":\"linear\"},", ERR_INVALID, "rope_scaling: factor", "missing"},
    {LLAMA "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5},", ERR_INVALID, "rope_scaling: factor", "0.5"},
    {LLAMA "\"rope_scaling\":{\"type\":\"linear\",\"rope_type\":\"yarn\"},", ERR_INVALID, "rope_scaling", "wanted one"},
    {LLAMA "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"beta_fast\":2},", ERR_UNSUPPORTED, "rope_scaling",
     "\"beta_fast\" = 2"},
    {LLAMA "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0},", ERR_INVALID, "rope_scaling: low_freq_factor",
     "missing"},
    {LLAMA "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":4,\"high_freq_factor\":4},",
     ERR_INVALID, "rope_scaling: high_freq_factor", "wanted more"},
    {LLAMA "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8.0,\"beta_fast\":1,\"beta_slow\":2},", ERR_INVALID,
     "rope_scaling: beta_fast", "wanted at least"},
    {LLAMA "\"rope_theta\":1,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8.0},", ERR_INVALID, "rope_theta",
     "more than 1"},
    {LLAMA "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2},\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":2},",
     ERR_INVALID, "rope_parameters and rope_scaling", "wanted one"},
    {V3 "\"max_position_embeddings\":64,\"num_key_value_heads\":2,", ERR_INVALID, "num_key_value_heads",
     "num_attention_heads, 4"},
    {"\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":300,"
     "\"max_position_embeddings\":64,\"kv_lora_rank\":24,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":7,\"v_head_dim\":20,",
     ERR_INVALID, "7 of 7 elements", "wanted an even number"},
    {"\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":300,"
     "\"max_position_embeddings\":64,\"kv_lora_rank\":2048,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8,\"v_head_dim\":20,",
     ERR_INVALID, "kv_lora_rank", "at most 2048"},
    {V2 "\"max_position_embeddings\":64,\"q_lora_rank\":0,", ERR_INVALID, "q_lora_rank", "0"},
    {"\"model_type\":\"kimi_k2\"," SIZES, ERR_INVALID, "kv_lora_rank", "missing"},
    {LLAMA "\"kv_lora_rank\":8,", ERR_UNSUPPORTED, "kv_lora_rank", "8"},
    {LLAMA "\"rotary_dim\":8,", ERR_UNSUPPORTED, "rotary_dim", "8"},
    {LLAMA "\"rope_interleave\":true,", ERR_UNSUPPORTED, "rope_interleave", "true"},
    {LLAMA "\"yarn_always\":false,", ERR_UNSUPPORTED, "yarn_always", "false"},
    {CADRE "\"partial_rotary_factor\":0.05,", ERR_INVALID, "0 of 16 elements", "wanted an even number"},
    {CADRE "\"partial_rotary_factor\":0.5,\"rope_parameters\":{\"partial_rotary_factor\":1},", ERR_INVALID,
     "partial_rotary_factor", "wanted one value"},
    {CADRE "\"partial_rotary_factor\":0.5,\"rotary_dim\":4,", ERR_INVALID, "rotary_dim", "wanted one value"},
    {LLAMA "\"rope_scaling\":{\"rope_type\":\"default\",\"factor\":8.0},", ERR_UNSUPPORTED, "rope_scaling", "\"factor\" = 8"},
    {LLAMA "\"partial_rotary_factor\":0.5,", ERR_UNSUPPORTED, "partial_rotary_factor", "0.5"},
    {LLAMA "\"hidden_act\":\"gelu\",", ERR_UNSUPPORTED, "hidden_act",
     "\"gelu\", which Cadre does not implement; accepted: \"silu\""},
    {LLAMA "\"hidden_act\":5,", ERR_UNSUPPORTED, "hidden_act", "5"},
    {LLAMA "\"mlp_bias\":true,", ERR_UNSUPPORTED, "mlp_bias", "true"},
    {LLAMA "\"pretraining_tp\":2,", ERR_UNSUPPORTED, "pretraining_tp", "2"},
    {LLAMA "\"quantization_config\":{\"quant_method\":\"gptq\"},", ERR_UNSUPPORTED, "quantization_config",
     "\"gptq\", which Cadre"},
    {LLAMA "\"quantization_config\":{\"quant_method\":\"mxfp4\"},", ERR_UNSUPPORTED, "quant_method", "accepted: \"fp8\""},
    {LLAMA "\"quantization_config\":{},", ERR_UNSUPPORTED, "quant_method is missing", "accepted: \"fp8\""},
    {LLAMA "\"quantization_config\":{\"quant_method\":\"fp8\"},", ERR_UNSUPPORTED, "weight_block_size", "as [128, 128]"},
    {LLAMA FP8(",\"weight_block_size\":[128,64]"), ERR_UNSUPPORTED, "weight_block_size", "two equal"},
    {LLAMA FP8(",\"weight_block_size\":[8,8]"), ERR_UNSUPPORTED, "weight_block_size", "multiples of 16"},
    {LLAMA FP8(SQUARE ",\"fmt\":\"e5m2\""), ERR_UNSUPPORTED, "fmt", "accepted: null, \"e4m3\""},
    {LLAMA FP8(SQUARE ",\"activation_scheme\":\"static\""), ERR_UNSUPPORTED, "activation_scheme", "\"dynamic\""},
    {LLAMA FP8(SQUARE ",\"kv_cache\":\"fp8\""), ERR_UNSUPPORTED, "kv_cache", "accepted: null"},
    {LLAMA "\"swiglu_limit\":7.0,", ERR_UNSUPPORTED, "swiglu_limit", "7"},
    {GPT_OSS "\"sliding_window\":8,\"quantization_config\":{\"quant_method\":\"fp8\"},", ERR_UNSUPPORTED, "quant_method",
     "accepted: \"mxfp4\""},
    {GPT_OSS "\"quantization_config\":{\"quant_method\":\"mxfp4\"},\"sliding_window\":8,", ERR_INVALID, "mxfp4", "no multiple"},
    {GPT_OSS, ERR_INVALID, "sliding_window", "missing although layers slide"},
    {GPT_OSS_SIZES "\"sliding_window\":8,", ERR_INVALID, "rope_scaling", "missing"},
    {LLAMA "\"architectures\":[\"LlamaForSequenceClassification\"],", ERR_UNSUPPORTED, "architectures", "LlamaForCausalLM"},
    {LLAMA "\"architectures\":[\"LlamaForCausalLM\",\"X\"],", ERR_UNSUPPORTED, "architectures", "accepted"},
    {LLAMA "\"sliding_window\":64,", ERR_UNSUPPORTED, "sliding_window", "64"},
    {LLAMA "\"use_sliding_window\":true,", ERR_UNSUPPORTED, "use_sliding_window", "true"},
    {LLAMA "\"qkv_bias\":true,", ERR_UNSUPPORTED, "qkv_bias", "true"},
    {LLAMA "\"use_qk_norm\":true,", ERR_UNSUPPORTED, "use_qk_norm", "true"},
    {LLAMA "\"clip_qkv\":8,", ERR_UNSUPPORTED, "clip_qkv", "8"},
    {LLAMA "\"num_experts\":8,", ERR_UNSUPPORTED, "num_experts", "model_type llama"},
    {LLAMA "\"num_local_experts\":8,", ERR_UNSUPPORTED, "num_local_experts", "8"},
    {LLAMA "\"final_logit_softcapping\":30.0,", ERR_UNSUPPORTED, "final_logit_softcapping", "30"},
    {LLAMA "\"attention_bias\":\"yes\",", ERR_INVALID, "attention_bias", "\"yes\"; wanted true or false"},
    {LLAMA "\"mlp_only_layers\":[0],", ERR_UNSUPPORTED, "mlp_only_layers", "model_type llama"},
    {LLAMA "\"decoder_sparse_step\":2,", ERR_UNSUPPORTED, "decoder_sparse_step", "model_type llama"},
    {LLAMA "\"bos_token_id\":300,", ERR_INVALID, "bos_token_id", "300; wanted a whole number from 0 to 299"},
    {LLAMA "\"eos_token_id\":-1,", ERR_INVALID, "eos_token_id", "-1"},
    {LLAMA "\"eos_token_id\":[1,\"2\"],", ERR_INVALID, "eos_token_id", "\"2\""},
    {LLAMA "\"eos_token_id\":[1,2,3,4,5,6,7,8,9],", ERR_TOO_LARGE, "eos_token_id", "at most 8"},
    {LLAMA "\"layer_types\":[\"full_attention\"],", ERR_INVALID, "layer_types", "1 entries; wanted num_hidden_layers, 4"},
    {LLAMA "\"layer_types\":[\"full_attention\",\"full_attention\",\"linear_attention\",3],", ERR_UNSUPPORTED, "layer_types[2]",
     "linear"},
    {MISTRAL "\"attention_bias\":true,", ERR_UNSUPPORTED, "attention_bias", "accepted: null, false"},
    {MISTRAL "\"sliding_window\":0,", ERR_INVALID, "sliding_window", "0; wanted"},
    {MIXTRAL "\"norm_topk_prob\":false,", ERR_UNSUPPORTED, "norm_topk_prob", "accepted: null, true"},
    {MIXTRAL "\"shared_expert_intermediate_size\":8,", ERR_UNSUPPORTED, "shared_expert_intermediate_size", "8"},
    {MIXTRAL "\"num_experts\":9,", ERR_INVALID, "num_local_experts", "wanted one value"},
    {MIXTRAL "\"n_shared_experts\":1,", ERR_UNSUPPORTED, "n_shared_experts", "1"},
    {MIXTRAL "\"scoring_func\":\"sigmoid\",", ERR_UNSUPPORTED, "scoring_func", "sigmoid"},
    {MIXTRAL "\"routed_scaling_factor\":2.5,", ERR_UNSUPPORTED, "routed_scaling_factor", "2.5"},
    {MIXTRAL "\"moe_router\":{\"kind\":\"flat\"},", ERR_UNSUPPORTED, "moe_router", "model_type mixtral"},
    {MIXTRAL "\"expert_neurons_kept\":97,", ERR_INVALID, "expert_neurons_kept", "wanted a whole number from 1 to 96"},
    {"\"model_type\":\"mixtral\"," SIZES "\"intermediate_size\":8,", ERR_INVALID, "num_local_experts", "missing"},
    {"\"model_type\":\"mixtral\"," SIZES "\"num_local_experts\":4097,", ERR_INVALID, "num_local_experts", "4096"},
    {"\"model_type\":\"mixtral\"," SIZES "\"num_local_experts\":4,", ERR_INVALID, "num_experts_per_tok", "missing"},
    {"\"model_type\":\"mixtral\"," SIZES "\"num_local_experts\":4,\"num_experts_per_tok\":5,", ERR_INVALID,
     "num_experts_per_tok", "5; wanted at most the number of experts, 4"},
    {QWEN2 "\"use_sliding_window\":true,\"sliding_window\":64,\"max_window_layers\":2,", ERR_UNSUPPORTED, "use_sliding_window",
     "layer_types"},
    {MISTRAL "\"sliding_window\":64,\"layer_types\":[\"full_attention\",\"sliding_attention\","
             "\"full_attention\",\"full_attention\"],",
     ERR_UNSUPPORTED, "layer_types", "mixes"},
    {QWEN2 "\"sliding_window\":64,\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\","
           "\"sliding_attention\"],",
     ERR_UNSUPPORTED, "layer_types", "use_sliding_window"},
    {QWEN2 "\"attention_bias\":true,", ERR_UNSUPPORTED, "attention_bias", "true"},
    {QWEN2_MOE "\"mlp_only_layers\":[4],", ERR_INVALID, "mlp_only_layers", "4; wanted layers from 0 to 3"},
    {QWEN2_MOE "\"mlp_only_layers\":[-1],", ERR_INVALID, "mlp_only_layers", "-1"},
    {QWEN2_MOE "\"mlp_only_layers\":3,", ERR_INVALID, "mlp_only_layers", "3; wanted a list"},
    {QWEN2_MOE "\"decoder_sparse_step\":0,", ERR_INVALID, "decoder_sparse_step", "0; wanted"},
    {QWEN2_MOE "\"norm_topk_prob\":0,", ERR_INVALID, "norm_topk_prob", "wanted true or false"},
    {"\"model_type\":\"qwen3_moe\"," SIZES "\"num_experts\":8,\"num_experts_per_tok\":3,", ERR_INVALID, "moe_intermediate_size",
     "missing"},
    {OLMOE "\"clip_qkv\":-1,", ERR_INVALID, "clip_qkv", "-1; wanted"},
    {CADRE_SIZES, ERR_INVALID, "moe_router", "missing"},
    {CADRE "\"norm_topk_prob\":false,", ERR_UNSUPPORTED, "norm_topk_prob", "false"},
    {CADRE_SIZES ROUTER(",\"top_p\":{\"P\":0.4}"), ERR_UNSUPPORTED, "moe_router: top_p", "accepted: null, or kind"},
    {CADRE_SIZES ROUTER(",\"shared_rows\":32"), ERR_INVALID, "moe_router: shared_rows", "32; wanted a whole number below"},
    {CADRE_SIZES ROUTER(",\"shared_rows\":-1"), ERR_INVALID, "moe_router: shared_rows", "-1; wanted"},
    {CADRE_SIZES ROUTER(",\"shared_rows\":1.5"), ERR_INVALID, "moe_router: shared_rows", "1.5; wanted"},
    {CADRE_SIZES ROUTER(",\"shared_rows\":0.99"), ERR_INVALID, "moe_router: shared_rows", "a row of its own"},
    {CADRE_SIZES ROUTER(",\"shared_rows\":\"all\""), ERR_INVALID, "moe_router: shared_rows", "\"all\"; wanted"},
    {CADRE_SIZES ROUTER(",\"fusion\":{}"), ERR_INVALID, "fusion: d", "missing"},
    {CADRE_SIZES ROUTER(",\"fusion\":{\"d\":0}"), ERR_INVALID, "fusion: d", "0; wanted"},
    {CADRE_SIZES ROUTER(",\"fusion\":{\"d\":8,\"dim\":8}"), ERR_UNSUPPORTED, "fusion: \"dim\"", "does not implement"},
    {CADRE_SIZES ROUTER(",\"fusion\":{\"d\":8,\"beta\":1}"), ERR_INVALID, "fusion: beta", "no confidence"},
    {CADRE_SIZES ROUTER(",\"confidence\":{}"), ERR_INVALID, "confidence: type", "missing; wanted one of"},
    {CADRE_SIZES ROUTER(",\"confidence\":{\"type\":\"vote\"}"), ERR_UNSUPPORTED, "confidence: type", "\"vote\"; accepted"},
    {CADRE_SIZES ROUTER(",\"confidence\":{\"type\":\"head\",\"action\":\"quit\"}"), ERR_UNSUPPORTED, "confidence: action",
     "\"quit\"; accepted"},
    {CADRE_SIZES "\"moe_router\":{\"kind\":\"flat\",\"score\":\"raw\",\"k\":3,\"norm\":\"none\",\"weight\":\"score\","
                 "\"fusion\":{\"d\":8}},",
     ERR_UNSUPPORTED, "fusion: raw scores", "no logarithm"},
    {CADRE_SIZES ROUTER(",\"bias\":1"), ERR_INVALID, "moe_router: bias", "1; wanted true or false"},
    {CADRE_SIZES ROUTER(",\"scale\":0"), ERR_INVALID, "moe_router: scale", "0; wanted"},
    {CADRE_SIZES "\"moe_router\":{\"kind\":\"hash\"},", ERR_UNSUPPORTED, "moe_router: kind",
     "\"hash\"; accepted: \"flat\", \"two_stage\", \"tree\""},
    {CADRE_SIZES "\"moe_router\":{\"kind\":\"flat\"},", ERR_INVALID, "moe_router: score",
     "\"softmax\", \"sigmoid\", \"sqrtsoftplus\", \"raw\""},
    {CADRE_SIZES "\"moe_router\":{\"kind\":\"flat\",\"score\":\"raw\",\"k\":4,\"norm\":\"none\",\"weight\":\"one\"},",
     ERR_INVALID, "moe_router: k", "4; wanted num_experts_per_tok, 3"},
};

START_TEST(refuses_by_name) {
    struct model_config c = {.layers = -7};
    struct why why;
    int rc = parse(refused[_i].body, NULL, &c, &why);
    ck_assert_msg(rc == refused[_i].code, "%s: %s %s", refused[_i].body, status_name(rc), why.text);
    ck_assert_msg(strstr(why.text, refused[_i].key) && strstr(why.text, refused[_i].says),
                  "%s: says '%s', wanted '%s' and '%s'", refused[_i].body, why.text, refused[_i].key, refused[_i].says);
    ck_assert_msg(strncmp(why.text, "config.json", 11) == 0, "%s", why.text);
    ck_assert_int_eq(c.layers, -7); /* untouched */
}
END_TEST

START_TEST(refuses_bad_json) {
    static const char *const texts[] = {
        "", "{", "[]", "null", "{\"model_type\":\"lla\xffma\"}", "{}{}", "{\"a\":NaN}", "{\"a\":01}", "{'a':1}",
        "{\"a\":\"\\u0000\"}", "\xef\xbb\xbf{}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct model_config c;
        struct why why = {""};
        ck_assert_msg(model_config_parse(texts[i], strlen(texts[i]), NULL, 0, &c, &why) == ERR_CORRUPT, "%s", texts[i]);
        ck_assert_msg(strncmp(why.text, "config.json", 11) == 0, "%s", why.text);
    }
}
END_TEST

START_TEST(refuses_deep_nesting) {
    const size_t n = 1 << 20;
    char *text = malloc(n);
    memset(text, '[', n);
    memcpy(text, "{\"a\":", 5);
    struct model_config c;
    struct why why = {""};
    ck_assert_int_eq(model_config_parse(text, n, NULL, 0, &c, &why), ERR_CORRUPT);
    ck_assert_msg(strstr(why.text, "depth") != NULL, "%s", why.text);
    free(text);
}
END_TEST

/* Keys that published files have and that change nothing. */
START_TEST(ignores_the_harmless) {
    good(LLAMA
         "\"attention_dropout\":0.1,\"initializer_range\":0.02,\"transformers_version\":\"4.40\",\"_name_or_path\":\"/"
         "x\",\"foo\":[1],"
         "\"torch_dtype\":\"float16\",\"pad_token_id\":-1,\"auto_map\":{},\"norm_topk_prob\":true,\"quantization_config\":null,"
         "\"rope_scaling\":{\"rope_type\":\"default\",\"factor\":1.0},\"logit_scale\":1.0,\"num_local_experts\":0,\"no_rope_"
         "layers\":[],");
}
END_TEST

START_TEST(reads_directories) {
    struct scratch dir;
    struct model_config c;
    struct why why;
    scratch_open(&dir);
    ck_assert_int_eq(model_config_read(dir.dir, &c, &why), ERR_NOT_FOUND);
    ck_assert_msg(strstr(why.text, "is no model directory") && strstr(why.text, dir.dir), "%s", why.text);
    scratch_text(&dir, "config.json", "{" LLAMA "\"eos_token_id\":5}");
    ck_assert_msg(model_config_read(dir.dir, &c, &why) == 0, "%s", why.text);
    ck_assert_int_eq(c.n_eos, 1);
    scratch_text(&dir, "generation_config.json", "{\"eos_token_id\":6}");
    ck_assert_int_eq(model_config_read(dir.dir, &c, &why), 0);
    ck_assert_int_eq(c.n_eos, 2);
    scratch_text(&dir, "config.json", "{\"model_type\":\"x\"}");
    ck_assert_int_eq(model_config_read(dir.dir, &c, &why), ERR_UNSUPPORTED);
    ck_assert_msg(strstr(why.text, dir.dir) != NULL, "%s", why.text);
    scratch_remove(&dir);
    ck_assert_int_eq(model_config_read("/dev/null", &c, &why), ERR_NOT_FOUND);
}
END_TEST

/* The largest model that the bounds allow: nothing overflows. */
START_TEST(bounds_are_safe) {
    struct model_config c =
        good("\"model_type\":\"qwen2_moe\",\"hidden_size\":65536,\"num_hidden_layers\":512,\"num_attention_heads\":1024,"
             "\"head_dim\":128,\"num_key_value_heads\":1024,\"vocab_size\":1048576,\"max_position_embeddings\":16777216,"
             "\"intermediate_size\":262144,"
             "\"moe_intermediate_size\":262144,\"num_experts\":4096,\"num_experts_per_tok\":256,\"shared_expert_intermediate_"
             "size\":262144,");
    struct model_sizes s;
    model_sizes(&c, &s);
    ck_assert_uint_eq(s.expert_params, (uint64_t)3 << 34);
    ck_assert_uint_gt(s.params_total, (uint64_t)1 << 56);
    ck_assert_uint_lt(s.params_total, (uint64_t)1 << 59);
    ck_assert_uint_eq(s.kv_elements_per_token, (uint64_t)2 * 512 * 1024 * 128);
    ck_assert_uint_lt(strlen(name_of(&c, T_EXPERT_DOWN, 511, 4095)), 100);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("config");
    TCase *t = tcase_create("all");
    tcase_add_test(t, deepseek);
    tcase_add_test(t, yarn_within_the_original_length);
    tcase_add_test(t, llama);
    tcase_add_test(t, defaults);
    tcase_add_test(t, mixtral);
    tcase_add_test(t, qwen2_moe);
    tcase_add_test(t, qwen3_moe);
    tcase_add_test(t, olmoe);
    tcase_add_test(t, cadre_moe);
    tcase_add_test(t, windows);
    tcase_add_test(t, block_formats);
    tcase_add_test(t, gpt_oss);
    tcase_add_test(t, gpt_oss_published);
    tcase_add_test(t, end_tokens);
    tcase_add_loop_test(t, refuses_by_name, 0, sizeof refused / sizeof *refused);
    tcase_add_test(t, refuses_bad_json);
    tcase_add_test(t, refuses_deep_nesting);
    tcase_add_test(t, ignores_the_harmless);
    tcase_add_test(t, reads_directories);
    tcase_add_test(t, bounds_are_safe);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
