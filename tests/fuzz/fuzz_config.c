/* fuzz_config.c - config.json and generation_config.json, separated by a NUL byte: whatever is accepted must be within the
 * bounds that the rest of Cadre relies on, and its tensors must have names and shapes. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "model/checkpoint.h"
#include "tests/fuzz/fuzz.h"

static void check_tensors(const struct model_config *c) {
    const int experts = c->gate.experts ? c->gate.experts : 1;
    struct tensor_want w;
    for (int layer = 0; layer < c->layers; layer += c->layers > 8 ? 7 : 1)
        for (int role = 0; role < T_ROLE_COUNT; role++)
            if (model_tensor(c, (enum tensor_role)role, layer, experts - 1, &w))
                FUZZ_CHECK(w.rows > 0 && w.cols >= 0 && w.rows <= 1 << 20 && w.cols <= 1 << 18 &&
                           strlen(w.name) < sizeof w.name - 1);
    FUZZ_CHECK(!model_tensor(c, T_ATTN_NORM, c->layers, 0, &w) && !model_tensor(c, T_EXPERT_UP, 0, experts, &w));
}

static void check_config(const struct model_config *c) {
    struct model_sizes s;
    FUZZ_CHECK(c->hidden > 0 && c->hidden <= 1 << 16 && c->layers > 0 && c->layers <= MODEL_MAX_LAYERS && c->vocab <= 1 << 20);
    FUZZ_CHECK(c->q_heads % c->kv_heads == 0 && c->rope.dims <= c->head_dim);
    FUZZ_CHECK(c->mla.kv_rank ? c->kv_heads == 1 && c->rope.dims == c->mla.rope && c->mla.value > 0 : c->head_dim % 2 == 0);
    FUZZ_CHECK(c->norm_eps > 0 && isfinite(c->attention_scale) && c->rope.theta >= 1);
    for (int l = 0; l < c->layers; l++) FUZZ_CHECK(c->window[l] >= 0);
    float freq[ROPE_MAX_DIMS / 2];
    rope_frequencies(&c->rope, freq);
    for (int j = 0; j < c->rope.dims / 2; j++) FUZZ_CHECK(isfinite(freq[j]) && freq[j] >= 0);
    FUZZ_CHECK(c->rope.dims % 2 == 0 && c->rope.amplitude > 0 && isfinite(c->rope.amplitude) && c->rope.factor >= 1);
    FUZZ_CHECK(c->bos < c->vocab && c->n_eos <= MODEL_MAX_EOS && c->moe_layers <= c->layers);
    FUZZ_CHECK(c->moe_layers ? c->gate.k >= 1 && c->gate.k <= c->gate.experts && c->expert_ffn > 0
                             : !c->gate.experts && !c->expert_ffn);
    FUZZ_CHECK(c->experts.shared_rows >= 0 && (!c->moe_layers || c->experts.shared_rows < c->expert_ffn));
    FUZZ_CHECK(c->moe_layers == c->layers || c->dense_ffn > 0);
    model_sizes(c, &s);
    FUZZ_CHECK(s.params_active <= s.params_total && s.resident_params <= s.params_total && s.params_total < (uint64_t)1 << 62);
    check_tensors(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    log_set_level(LOG_ERROR); /* not a warning for every key that a mutation made up */
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    const char *text = (const char *)data;
    size_t len = nul ? (size_t)(nul - data) : size;
    struct model_config c = {.layers = -1};
    struct why why = {""};
    int rc = model_config_parse(text, len, nul ? text + len + 1 : NULL, nul ? size - len - 1 : 0, &c, &why);
    if (rc < 0) FUZZ_CHECK(c.layers == -1 && strlen(why.text) > 10);
    else check_config(&c);
    return 0;
}

#define SIZES \
    "\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":300," \
    "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\","

void fuzz_seeds(fuzz_add add) {
    static const char *const seeds[] = {
        "{\"model_type\":\"deepseek_v3\",\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":"
        "300,"
        "\"max_position_embeddings\":128,\"intermediate_size\":96,\"moe_intermediate_size\":32,\"n_routed_experts\":8,"
        "\"num_experts_per_tok\":3,\"q_lora_rank\":32,\"kv_lora_rank\":24,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8,"
        "\"v_head_dim\":20,\"n_shared_experts\":1,\"first_k_dense_replace\":1,\"n_group\":4,\"topk_group\":2,\"topk_method\":"
        "\"noaux_tc\",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"original_max_position_embeddings\":64}}",
        "{\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":"
        "300,"
        "\"max_position_embeddings\":128,\"intermediate_size\":96,\"moe_intermediate_size\":32,\"n_routed_experts\":8,"
        "\"num_experts_per_tok\":3,\"q_lora_rank\":null,\"kv_lora_rank\":24,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8,"
        "\"v_head_dim\":20,\"n_shared_experts\":2,\"topk_method\":\"group_limited_greedy\",\"n_group\":4,\"topk_group\":2}",
        "{\"model_type\":\"llama\"," SIZES "\"intermediate_size\":96,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
        "\"beta_fast\":32,\"beta_slow\":1,\"mscale\":1,\"mscale_all_dim\":0.7,\"truncate\":false,"
        "\"original_max_position_embeddings\":32}}",
        "{\"model_type\":\"llama\"," SIZES "\"intermediate_size\":96,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
        "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}",
        "{\"model_type\":\"llama\"," SIZES
        "\"intermediate_size\":96,\"rope_theta\":10000,\"attention_bias\":true,\"mlp_bias\":false,"
        "\"pretraining_tp\":1,\"rope_scaling\":null,\"tie_word_embeddings\":true,\"eos_token_id\":[1,2],\"bos_token_id\":0}",
        "{\"model_type\":\"mixtral\"," SIZES "\"intermediate_size\":96,\"num_local_experts\":8,\"num_experts_per_tok\":2,"
        "\"sliding_window\":64,\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"default\"},\"head_dim\":null}",
        "{\"model_type\":\"qwen2_moe\"," SIZES "\"intermediate_size\":96,\"moe_intermediate_size\":32,\"num_experts\":6,"
        "\"num_experts_per_tok\":4,\"shared_expert_intermediate_size\":48,\"norm_topk_prob\":false,\"decoder_sparse_step\":2,"
        "\"mlp_only_layers\":[1],\"use_sliding_window\":false,\"sliding_window\":4096,\"max_window_layers\":21,\"qkv_bias\":"
        "true,"
        "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\"]}",
        "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"]," SIZES
        "\"head_dim\":32,\"moe_intermediate_size\":32,"
        "\"num_experts\":8,\"num_experts_per_tok\":8,\"norm_topk_prob\":true,\"torch_dtype\":\"bfloat16\"}",
        "{\"model_type\":\"olmoe\"," SIZES
        "\"intermediate_size\":32,\"num_experts\":8,\"num_experts_per_tok\":3,\"clip_qkv\":8.0}",
        "{\"model_type\":\"cadre_moe\"," SIZES "\"moe_intermediate_size\":32,\"num_experts\":8,\"num_experts_per_tok\":3,"
        "\"shared_expert_intermediate_size\":16,\"moe_router\":{\"kind\":\"flat\",\"score\":\"sigmoid\",\"k\":3,\"norm\":"
        "\"sum\",\"scale\":1.5,"
        "\"weight\":\"score\",\"bias\":true,\"sel_bias\":true,\"shared_rows\":0.25,"
        "\"fusion\":{\"d\":8,\"beta\":0.5},\"confidence\":{\"type\":\"head\",\"action\":\"report\"}}}",
        "{\"model_type\":\"glm4_moe\"," SIZES "\"intermediate_size\":96,\"moe_intermediate_size\":32,\"n_routed_experts\":16,"
        "\"num_experts_per_tok\":4,\"n_shared_experts\":2,\"n_group\":4,\"topk_group\":2,\"group_fill\":\"zero\","
        "\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,\"first_k_dense_replace\":1,\"use_qk_norm\":true,"
        "\"partial_rotary_factor\":0.5,\"attention_bias\":true}",
        "{\"model_type\":\"llama4\",\"text_config\":{\"model_type\":\"llama4_text\"," SIZES "\"intermediate_size\":32,"
        "\"intermediate_size_mlp\":96,\"num_local_experts\":8,\"num_experts_per_tok\":1,\"interleave_moe_layer_step\":2,"
        "\"no_rope_layers\":[1,1,0,1],\"attention_chunk_size\":16,\"attn_temperature_tuning\":true,\"floor_scale\":8,"
        "\"moe_layers\":[1],\"use_qk_norm\":true},\"vision_config\":{}}",
        "{\"model_type\":\"minimax\",\"architectures\":[\"MiniMaxM2ForCausalLM\"]," SIZES "\"intermediate_size\":32,"
        "\"num_local_experts\":16,\"num_experts_per_tok\":4,\"rotary_dim\":8,\"use_routing_bias\":true,"
        "\"attn_type_list\":[1,1,1,1],\"qk_norm_type\":\"per_layer\",\"scoring_func\":\"sigmoid\"}",
        "{\"model_type\":\"cadre_moe\"," SIZES "\"moe_intermediate_size\":32,\"num_experts\":12,\"num_experts_per_tok\":4,"
        "\"moe_router\":{\"kind\":\"flat\",\"score\":\"sqrtsoftplus\",\"k\":4,\"norm\":\"sum\",\"norm_eps\":1e-20,"
        "\"weight\":\"score\",\"groups\":{\"rule\":\"top2sum\",\"n\":4,\"topk\":2,\"fill\":\"-inf\"}}}",
        "{\"model_type\":\"cadre_moe\"," SIZES "\"moe_intermediate_size\":32,\"num_experts\":12,\"num_experts_per_tok\":1,"
        "\"moe_router\":{\"kind\":\"flat\",\"score\":\"sigmoid\",\"k\":1,\"norm\":\"none\",\"weight\":\"score\","
        "\"zero_experts\":3,\"apply\":\"input\"}}",
        "{\"model_type\":\"qwen3_moe\"," SIZES "\"moe_intermediate_size\":32,\"num_experts\":8,\"num_experts_per_tok\":8,"
        "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\","
        "\"weight_block_size\":[128,128],\"modules_to_not_convert\":[\"lm_head\"],\"scale_fmt\":\"ue8m0\"}}",
        "{\"model_type\":\"gpt_oss\"," SIZES "\"intermediate_size\":32,\"num_local_experts\":4,\"num_experts_per_tok\":2,"
        "\"sliding_window\":16,\"swiglu_limit\":7.0,\"layer_types\":[\"sliding_attention\",\"full_attention\","
        "\"sliding_attention\",\"full_attention\"],\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32,\"truncate\":false,"
        "\"original_max_position_embeddings\":64},\"quantization_config\":{\"quant_method\":\"mxfp4\","
        "\"modules_to_not_convert\":[\"lm_head\"]}}",
        "{\"model_type\":\"mistral\"," SIZES "\"intermediate_size\":96,\"sliding_window\":null}",
        "{\"model_type\":\"qwen3\"," SIZES "\"intermediate_size\":96,\"use_sliding_window\":true,\"sliding_window\":8,"
        "\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\"]}",
    };
    static const char generation[] = "{\"eos_token_id\":[3,4],\"bos_token_id\":5,\"do_sample\":true}";
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) add(seeds[i], strlen(seeds[i]));
    char both[2048];
    size_t n = strlen(seeds[0]);
    memcpy(both, seeds[0], n + 1);
    memcpy(both + n + 1, generation, sizeof generation - 1);
    add(both, n + sizeof generation);
}
