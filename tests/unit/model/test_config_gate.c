/* test_config_gate.c - the gates that config.json describes: every family's rule, both readings where code and port differ, and
 * every refusal by name. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/config.h"

#include "tests/unit/run.h"


#define SIZES \
    "\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":300," \
    "\"max_position_embeddings\":128,"
#define GLM \
    "\"model_type\":\"glm4_moe\"," SIZES "\"intermediate_size\":96,\"moe_intermediate_size\":32,\"n_routed_experts\":16," \
    "\"num_experts_per_tok\":4,\"n_shared_experts\":2,"
#define MINIMAX \
    "\"model_type\":\"minimax_m2\"," SIZES "\"intermediate_size\":32,\"num_local_experts\":16,\"num_experts_per_tok\":4," \
    "\"head_dim\":16,\"rotary_dim\":8,"
#define CADRE(rest) \
    "\"model_type\":\"cadre_moe\"," SIZES "\"moe_intermediate_size\":32,\"num_experts\":12,\"num_experts_per_tok\":4," \
    "\"moe_router\":{\"kind\":\"flat\",\"score\":\"sigmoid\",\"k\":4,\"norm\":\"sum\",\"weight\":\"score\"" rest "},"
#define TOP1(rest) \
    "\"model_type\":\"cadre_moe\"," SIZES "\"moe_intermediate_size\":32,\"num_experts\":12,\"num_experts_per_tok\":1," \
    "\"moe_router\":{\"kind\":\"flat\",\"score\":\"sigmoid\",\"k\":1,\"norm\":\"none\",\"weight\":\"score\"" rest "},"

#define LLAMA4 \
    SIZES "\"intermediate_size\":32,\"intermediate_size_mlp\":96,\"num_local_experts\":8,\"num_experts_per_tok\":1,"
#define LLAMA4_TEXT "\"model_type\":\"llama4_text\"," LLAMA4
#define DEEPSEEK2 \
    "\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,\"vocab_size\":300," \
    "\"max_position_embeddings\":128,\"intermediate_size\":96,\"moe_intermediate_size\":32,\"n_routed_experts\":16," \
    "\"num_experts_per_tok\":4,\"n_shared_experts\":2,\"kv_lora_rank\":16,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8," \
    "\"v_head_dim\":16,\"first_k_dense_replace\":1,\"routed_scaling_factor\":16.0,"

static int parse(const char *body, struct model_config *c, struct why *why) {
    char text[2048];
    int n = snprintf(text, sizeof text, "{%s\"use_cache\":true}", body);
    ck_assert_int_lt(n, (int)sizeof text);
    *why = (struct why){""};
    return model_config_parse(text, (size_t)n, NULL, 0, c, why);
}

static struct model_config good(const char *body) {
    struct model_config c;
    struct why why;
    ck_assert_msg(parse(body, &c, &why) == 0, "%s: %s", body, why.text);
    return c;
}

static void check_tensor(const struct model_config *c, enum tensor_role role, int layer, const char *name, int rows, int cols) {
    struct tensor_want w;
    ck_assert_msg(model_tensor(c, role, layer, 0, &w), "%s", name);
    ck_assert_str_eq(w.name, name);
    ck_assert_msg(w.rows == rows && w.cols == cols, "%s: [%d, %d], wanted [%d, %d]", w.name, w.rows, w.cols, rows, cols);
}

static bool has(const struct model_config *c, enum tensor_role role, int layer) {
    struct tensor_want w;
    return model_tensor(c, role, layer, 0, &w);
}

START_TEST(glm) {
    struct model_config c =
        good(GLM "\"attention_bias\":true,\"use_qk_norm\":true,\"head_dim\":24,\"norm_topk_prob\":true,\"n_group\":1,"
                 "\"topk_group\":1,\"routed_scaling_factor\":2.5,\"first_k_dense_replace\":3,\"num_nextn_predict_layers\":1,"
                 "\"partial_rotary_factor\":0.5,");
    ck_assert(c.gate.score == GATE_SIGMOID && c.gate.norm == GATE_NORM_SUM && c.gate.norm_eps == 1e-20f &&
              c.gate.scale == 2.5f);
    ck_assert(c.gate.group == GATE_GROUP_NONE && c.gate.experts == 16 && c.gate.k == 4 && c.gate_sel_bias && !c.gate_bias);
    ck_assert(c.moe_layers == 1 && c.moe_index[2] == -1 && c.moe_index[3] == 0 && c.rope.dims == 12 && c.head_dim == 24);
    ck_assert(c.qk_norm == QK_NORM_HEAD && c.qkv_bias && !c.o_bias && c.shared == SHARED_PLAIN && c.shared_ffn == 64);
    check_tensor(&c, T_ROUTER_SEL_BIAS, 3, "model.layers.3.mlp.gate.e_score_correction_bias", 16, 0);
    check_tensor(&c, T_SHARED_DOWN, 3, "model.layers.3.mlp.shared_experts.down_proj.weight", 64, 64);
    check_tensor(&c, T_DENSE_UP, 2, "model.layers.2.mlp.up_proj.weight", 96, 64);
    check_tensor(&c, T_Q_NORM, 0, "model.layers.0.self_attn.q_norm.weight", 24, 0);
    ck_assert(!has(&c, T_O_BIAS, 0) && !has(&c, T_ROUTER, 0));
}
END_TEST

START_TEST(glm_plainly) {
    struct model_config c = good(GLM "\"norm_topk_prob\":false,\"topk_method\":\"noaux_tc\",\"scoring_func\":\"sigmoid\",");
    ck_assert(c.gate.norm == GATE_NORM_NONE && c.gate.scale == 1 && c.qk_norm == QK_NORM_NONE && !c.qkv_bias);
    ck_assert(c.moe_layers == 3 && c.rope.dims == 8); /* the class's defaults: one dense layer, half of a head */
    c = good(GLM "\"n_group\":4,\"topk_group\":2,");
    ck_assert(c.gate.group == GATE_GROUP_TOP2SUM && c.gate.groups == 4 && c.gate.topk_group == 2);
    ck_assert(c.gate.group_fill == -INFINITY);
    ck_assert(good(GLM "\"n_group\":4,\"topk_group\":2,\"group_fill\":\"zero\",").gate.group_fill == 0);
    ck_assert(good(GLM "\"n_group\":4,\"topk_group\":2,\"group_fill\":\"-inf\",").gate.group_fill == -INFINITY);
}
END_TEST

START_TEST(minimax) {
    struct model_config c =
        good(MINIMAX "\"scoring_func\":\"sigmoid\",\"use_routing_bias\":true,\"use_qk_norm\":true,\"sliding_window\":null,"
                     "\"qk_norm_type\":\"per_layer\",\"shared_intermediate_size\":0,\"attn_type_list\":[1,1,1,1],"
                     "\"num_mtp_modules\":3,\"layernorm_mlp_beta\":1.0,\"architectures\":[\"MiniMaxM2ForCausalLM\"],");
    ck_assert(c.gate.score == GATE_SIGMOID && c.gate.norm == GATE_NORM_SUM && c.gate.norm_eps == 0 && c.gate.scale == 1);
    ck_assert(c.gate_sel_bias && c.qk_norm == QK_NORM_FULL && c.rope.dims == 8 && c.rope.theta == 5e6 && c.moe_layers == 4);
    check_tensor(&c, T_ROUTER_SEL_BIAS, 1, "model.layers.1.block_sparse_moe.e_score_correction_bias", 16, 0);
    check_tensor(&c, T_ROUTER, 1, "model.layers.1.block_sparse_moe.gate.weight", 16, 64);
    check_tensor(&c, T_EXPERT_UP, 1, "model.layers.1.block_sparse_moe.experts.0.w3.weight", 32, 64);
    check_tensor(&c, T_K_NORM, 1, "model.layers.1.self_attn.k_norm.weight", 32, 0);
    ck_assert(!good(MINIMAX "\"use_routing_bias\":false,").gate_sel_bias);
}
END_TEST

/* The authors' code normalises or scales, transformers' port always scales and never normalises. */
START_TEST(deepseek_v2_scaling) {
    struct model_config c = good(DEEPSEEK2 "\"norm_topk_prob\":true,\"topk_method\":\"greedy\",");
    ck_assert(c.gate.score == GATE_SOFTMAX && c.gate.norm == GATE_NORM_SUM && c.gate.scale == 1 && !c.gate_sel_bias);
    ck_assert(c.gate.group == GATE_GROUP_NONE);
    c = good(DEEPSEEK2 "\"norm_topk_prob\":false,\"topk_method\":\"greedy\",\"n_group\":4,\"topk_group\":2,");
    ck_assert(c.gate.norm == GATE_NORM_NONE && c.gate.scale == 16 && c.gate.group == GATE_GROUP_NONE);
    c = good(DEEPSEEK2 "\"norm_topk_prob\":true,\"scale_always\":true,");
    ck_assert(c.gate.norm == GATE_NORM_NONE && c.gate.scale == 16);
    c = good(DEEPSEEK2 "\"topk_method\":\"group_limited_greedy\",\"n_group\":4,\"topk_group\":2,");
    ck_assert(c.gate.group == GATE_GROUP_MAX && c.gate.groups == 4 && c.gate.topk_group == 2 && c.gate.group_fill == -INFINITY);
    ck_assert(good(DEEPSEEK2 "\"topk_method\":\"group_limited_greedy\",\"n_group\":4,\"topk_group\":2,"
                             "\"group_fill\":\"zero\",").gate.group_fill == 0);
}
END_TEST

static void check_expert(const struct model_config *c, enum tensor_role role, int expert, const char *name, int64_t first) {
    struct tensor_want w;
    ck_assert(model_tensor(c, role, 1, expert, &w));
    ck_assert_str_eq(w.name, name);
    ck_assert(w.dims == 3 && w.shape[0] == 8 && w.first == first && w.row_step == 1 && w.col_step == w.shape[2]);
}

START_TEST(llama4) {
    struct model_config c =
        good(LLAMA4_TEXT "\"interleave_moe_layer_step\":2,\"attention_chunk_size\":100,\"no_rope_layers\":[],"
                         "\"attn_temperature_tuning\":4,\"floor_scale\":64,\"attn_scale\":0.25,");
    ck_assert(c.gate.score == GATE_SIGMOID && c.gate.apply == GATE_INPUT && c.gate.k == 1 && c.gate.norm == GATE_NORM_NONE);
    ck_assert(c.moe_layers == 2 && c.moe_index[0] == -1 && c.moe_index[1] == 0 && c.moe_index[3] == 1);
    ck_assert(c.dense_ffn == 96 && c.expert_ffn == 32 && c.shared_ffn == 32 && c.shared == SHARED_PLAIN);
    ck_assert(c.no_rope[3] && !c.no_rope[2] && c.chunk[2] == 100 && c.chunk[3] == 0 && c.window[0] == 0);
    ck_assert(c.temper_tokens == 64 && c.temper_scale == 0.25f && c.qk_norm == QK_NORM_L2 && c.rope.interleaved);
    ck_assert(!has(&c, T_Q_NORM, 0) && !c.tied_embeddings);
    check_tensor(&c, T_ROUTER, 1, "model.layers.1.feed_forward.router.weight", 8, 64);
    check_tensor(&c, T_DENSE_UP, 0, "model.layers.0.feed_forward.up_proj.weight", 96, 64);
    check_tensor(&c, T_SHARED_UP, 1, "model.layers.1.feed_forward.shared_expert.up_proj.weight", 32, 64);
    check_expert(&c, T_EXPERT_GATE, 2, "model.layers.1.feed_forward.experts.gate_up_proj", 2 * 64 * 64);
    check_expert(&c, T_EXPERT_UP, 2, "model.layers.1.feed_forward.experts.gate_up_proj", 2 * 64 * 64 + 32);
    check_expert(&c, T_EXPERT_DOWN, 3, "model.layers.1.feed_forward.experts.down_proj", 3 * 32 * 64);
    c = good(LLAMA4_TEXT
             "\"no_rope_layers\":[0,1,1,0],\"moe_layers\":[2],\"use_qk_norm\":false,\"attn_temperature_tuning\":false,"
             "\"layer_types\":[\"chunked_attention\",\"full_attention\",\"full_attention\",\"full_attention\"],");
    ck_assert(c.no_rope[0] && !c.no_rope[1] && c.chunk[0] == 8192 && c.chunk[1] == 0 && c.moe_layers == 1 &&
              c.moe_index[2] == 0);
    ck_assert(c.temper_tokens == 0 && c.qk_norm == QK_NORM_NONE);
}
END_TEST

START_TEST(llama4_wrapped) {
    static const char released[] =
        "\"model_type\":\"llama4\",\"architectures\":[\"Llama4ForConditionalGeneration\"],\"text_config\":{"
        "\"model_type\":\"llama4_text\"," LLAMA4
        "\"eos_token_id\":[7,8],\"bos_token_id\":6},\"vision_config\":{\"hidden_size\":8},"
        "\"image_token_index\":9,";
    struct model_config c = good(released);
    ck_assert_str_eq(c.family, "llama4");
    ck_assert(c.n_eos == 2 && c.eos[1] == 8 && c.bos == 6 && c.hidden == 64);
    check_tensor(&c, T_EMBED, 0, "language_model.model.embed_tokens.weight", 300, 64);
    check_tensor(&c, T_Q, 3, "language_model.model.layers.3.self_attn.q_proj.weight", 64, 64);
}
END_TEST

/* The first release calls itself by the name of another architecture. */
START_TEST(minimax_by_another_name) {
    static const char released[] = "\"model_type\":\"minimax\"," SIZES "\"intermediate_size\":32,\"num_local_experts\":16,"
                                   "\"num_experts_per_tok\":4,\"rotary_dim\":8,\"architectures\":[\"MiniMaxM2ForCausalLM\"],";
    ck_assert_str_eq(good(released).family, "minimax_m2");
}
END_TEST

START_TEST(flat) {
    struct model_config c =
        good(CADRE(",\"norm_eps\":1e-20,\"groups\":{\"rule\":\"max\",\"n\":4,\"topk\":2,\"fill\":\"zero\"}"));
    ck_assert(c.gate.group == GATE_GROUP_MAX && c.gate.groups == 4 && c.gate.topk_group == 2 && c.gate.group_fill == 0);
    ck_assert(c.gate.norm_eps == 1e-20f);
    c = good(CADRE(",\"groups\":{\"rule\":\"top2sum\",\"n\":3,\"topk\":1}"));
    ck_assert(c.gate.group == GATE_GROUP_TOP2SUM && c.gate.group_fill == -INFINITY);
    ck_assert(good(CADRE(",\"groups\":{\"rule\":\"max\",\"n\":3,\"topk\":3}")).gate.group == GATE_GROUP_NONE);
    c = good(CADRE(",\"zero_experts\":5,\"sel_bias\":true"));
    ck_assert(c.gate.zero == 5 && gate_width(&c.gate) == 17);
    check_tensor(&c, T_ROUTER, 0, "model.layers.0.mlp.gate.weight", 17, 64);
    check_tensor(&c, T_ROUTER_SEL_BIAS, 0, "model.layers.0.mlp.gate.e_score_correction_bias", 17, 0);
    ck_assert(good(TOP1(",\"apply\":\"input\"")).gate.apply == GATE_INPUT);
    ck_assert(good(CADRE(",\"apply\":\"output\"")).gate.apply == GATE_OUTPUT);
}
END_TEST

static const struct {
    const char *body;
    int code;
    const char *key, *says; /* both are in the message */
} refused[] = {
    {GLM "\"scoring_func\":\"softmax\",", ERR_UNSUPPORTED, "scoring_func", "accepted: null, \"sigmoid\""},
    {GLM "\"topk_method\":\"greedy\",", ERR_UNSUPPORTED, "topk_method", "\"noaux_tc\""},
    {GLM "\"n_group\":3,\"topk_group\":1,", ERR_INVALID, "n_group", "a divisor of the number of experts, 16"},
    {GLM "\"n_group\":4,\"topk_group\":5,", ERR_INVALID, "topk_group", "5; wanted a whole number from 1 to 4"},
    {GLM "\"n_group\":8,\"topk_group\":1,", ERR_INVALID, "topk_group", "fewer than the 4 experts"},
    {GLM "\"n_group\":16,\"topk_group\":8,", ERR_INVALID, "n_group", "two experts or more"},
    {GLM "\"n_group\":65,", ERR_INVALID, "n_group", "1 to 64"},
    {GLM "\"group_fill\":0,", ERR_INVALID, "group_fill", "wanted a string"},
    {GLM "\"group_fill\":\"nan\",", ERR_UNSUPPORTED, "group_fill", "\"-inf\", \"zero\""},
    {GLM "\"scale_always\":true,", ERR_UNSUPPORTED, "scale_always", "accepted: null, false"},
    {GLM "\"routed_scaling_factor\":0,", ERR_INVALID, "routed_scaling_factor", "0; wanted a number"},
    {GLM "\"first_k_dense_replace\":-1,", ERR_INVALID, "first_k_dense_replace", "-1"},
    {GLM "\"num_experts\":8,", ERR_INVALID, "n_routed_experts", "wanted one value"},
    {GLM "\"shared_expert_intermediate_size\":8,", ERR_UNSUPPORTED, "shared_expert_intermediate_size", "glm4_moe"},
    {GLM "\"use_routing_bias\":true,", ERR_UNSUPPORTED, "use_routing_bias", "true"},
    {"\"model_type\":\"glm4_moe\"," SIZES "\"intermediate_size\":96,\"moe_intermediate_size\":32,\"n_routed_experts\":16,"
     "\"num_experts_per_tok\":4,",
     ERR_INVALID, "n_shared_experts", "missing"},
    {MINIMAX "\"scoring_func\":\"softmax\",", ERR_UNSUPPORTED, "scoring_func", "\"sigmoid\""},
    {MINIMAX "\"use_qk_norm\":false,", ERR_UNSUPPORTED, "use_qk_norm", "null, true"},
    {MINIMAX "\"shared_intermediate_size\":64,", ERR_UNSUPPORTED, "shared_intermediate_size", "64"},
    {MINIMAX "\"layernorm_mlp_beta\":3.5,", ERR_UNSUPPORTED, "layernorm_mlp_beta", "3.5"},
    {MINIMAX "\"attn_type_list\":[1,0,1,1],", ERR_UNSUPPORTED, "attn_type_list", "only ones"},
    {MINIMAX "\"attn_type_list\":7,", ERR_UNSUPPORTED, "attn_type_list", "only ones"},
    {MINIMAX "\"qk_norm_type\":\"per_head\",", ERR_UNSUPPORTED, "qk_norm_type", "\"per_layer\""},
    {MINIMAX "\"routed_scaling_factor\":2.0,", ERR_UNSUPPORTED, "routed_scaling_factor", "2"},
    {"\"model_type\":\"minimax\"," SIZES "\"architectures\":[\"MiniMaxForCausalLM\"],", ERR_UNSUPPORTED, "model_type",
     "\"minimax\""},
    {"\"model_type\":\"minimax\"," SIZES, ERR_UNSUPPORTED, "model_type", "\"minimax\""},
    {DEEPSEEK2 "\"scoring_func\":\"sigmoid\",", ERR_UNSUPPORTED, "scoring_func", "\"softmax\""},
    {DEEPSEEK2 "\"topk_method\":\"noaux_tc\",", ERR_UNSUPPORTED, "topk_method", "\"group_limited_greedy\""},
    {DEEPSEEK2 "\"scale_always\":1,", ERR_INVALID, "scale_always", "1; wanted true or false"},
    {"\"model_type\":\"llama4_text\"," SIZES "\"intermediate_size\":32,\"num_local_experts\":8,\"num_experts_per_tok\":2,",
     ERR_UNSUPPORTED, "num_experts_per_tok", "2, where the weight multiplies the expert's input; accepted: 1"},
    {"\"model_type\":\"llama4_text\"," SIZES "\"intermediate_size\":32,\"num_local_experts\":8,\"num_experts_per_tok\":1,"
     "\"interleave_moe_layer_step\":2,",
     ERR_INVALID, "intermediate_size_mlp", "missing"},
    {LLAMA4_TEXT "\"no_rope_layers\":[1,0],", ERR_INVALID, "no_rope_layers", "2 entries; wanted none or num_hidden_layers, 4"},
    {LLAMA4_TEXT "\"no_rope_layers\":[1,0,2,1],", ERR_INVALID, "no_rope_layers[2]", "wanted 0 or 1"},
    {LLAMA4_TEXT "\"no_rope_layer_interval\":0,", ERR_INVALID, "no_rope_layer_interval", "0; wanted"},
    {LLAMA4_TEXT "\"attention_chunk_size\":0,", ERR_INVALID, "attention_chunk_size", "0; wanted"},
    {LLAMA4_TEXT "\"attention_chunk_size\":null,", ERR_INVALID, "attention_chunk_size", "null, but layer 0"},
    {LLAMA4_TEXT "\"layer_types\":[\"full_attention\"],", ERR_INVALID, "layer_types", "1 entries"},
    {LLAMA4_TEXT "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\",3],", ERR_UNSUPPORTED,
     "layer_types[1]", "\"chunked_attention\""},
    {LLAMA4_TEXT "\"moe_layers\":[4],", ERR_INVALID, "moe_layers", "layers from 0 to 3"},
    {LLAMA4_TEXT "\"attn_temperature_tuning\":\"on\",", ERR_INVALID, "attn_temperature_tuning", "wanted true or false"},
    {LLAMA4_TEXT "\"floor_scale\":0,", ERR_INVALID, "floor_scale", "0; wanted"},
    {LLAMA4_TEXT "\"sliding_window\":8,", ERR_UNSUPPORTED, "sliding_window", "8"},
    {"\"model_type\":\"llama4\",", ERR_INVALID, "text_config", "missing"},
    {"\"model_type\":\"llama4\",\"text_config\":{\"model_type\":\"llama\"},", ERR_UNSUPPORTED, "text_config: model_type",
     "\"llama4_text\""},
    {"\"model_type\":\"llama4\",\"text_config\":{},", ERR_INVALID, "hidden_size", "missing"},
    {GLM "\"attention_chunk_size\":8,", ERR_UNSUPPORTED, "attention_chunk_size", "8"},
    {GLM "\"attn_temperature_tuning\":true,", ERR_UNSUPPORTED, "attn_temperature_tuning", "true"},
    {CADRE(",\"groups\":4"), ERR_INVALID, "moe_router: groups", "wanted an object"},
    {CADRE(",\"groups\":{\"n\":4,\"topk\":2}"), ERR_UNSUPPORTED, "groups: rule", "missing; accepted: \"max\", \"top2sum\""},
    {CADRE(",\"groups\":{\"rule\":\"mean\",\"n\":4,\"topk\":2}"), ERR_UNSUPPORTED, "groups: rule", "\"mean\""},
    {CADRE(",\"groups\":{\"rule\":\"max\",\"topk\":2}"), ERR_INVALID, "groups: n", "missing"},
    {CADRE(",\"groups\":{\"rule\":\"max\",\"n\":5,\"topk\":2}"), ERR_INVALID, "groups: n", "divisor"},
    {CADRE(",\"groups\":{\"rule\":\"max\",\"n\":4,\"topk\":0}"), ERR_INVALID, "groups: topk", "0; wanted"},
    {CADRE(",\"groups\":{\"rule\":\"max\",\"n\":4,\"topk\":1}"), ERR_INVALID, "groups: topk", "fewer than the 4"},
    {CADRE(",\"groups\":{\"rule\":\"max\",\"n\":4,\"topk\":2,\"mask\":1}"), ERR_UNSUPPORTED, "groups has \"mask\"", "accepted"},
    {CADRE(",\"groups\":{\"rule\":\"max\",\"n\":4,\"topk\":2,\"fill\":\"-1\"}"), ERR_UNSUPPORTED, "fill", "\"-1\""},
    {CADRE(",\"groups\":{\"rule\":\"max\",\"n\":4,\"topk\":2},\"zero_experts\":1"), ERR_UNSUPPORTED, "zero_experts",
     "beside groups"},
    {CADRE(",\"zero_experts\":-1"), ERR_INVALID, "zero_experts", "-1"},
    {CADRE(",\"zero_experts\":5000"), ERR_INVALID, "zero_experts", "4096"},
    {CADRE(",\"apply\":\"both\""), ERR_UNSUPPORTED, "apply", "\"both\""},
    {CADRE(",\"apply\":\"input\""), ERR_UNSUPPORTED, "apply", "k = 4"},
    {CADRE(",\"norm_eps\":2"), ERR_INVALID, "norm_eps", "2; wanted a number"},
};

START_TEST(refuses_by_name) {
    struct model_config c = {.layers = -1};
    struct why why;
    int rc = parse(refused[_i].body, &c, &why);
    ck_assert_msg(rc == refused[_i].code, "%s: %s: %s", refused[_i].body, status_name(rc), why.text);
    ck_assert_msg(strstr(why.text, refused[_i].key) && strstr(why.text, refused[_i].says),
                  "%s: says '%s', wanted '%s' and '%s'", refused[_i].body, why.text, refused[_i].key, refused[_i].says);
    ck_assert_int_eq(c.layers, -1);
}
END_TEST

int main(void) {
    Suite *s = suite_create("config_gate");
    TCase *t = tcase_create("all");
    tcase_add_test(t, glm);
    tcase_add_test(t, glm_plainly);
    tcase_add_test(t, minimax);
    tcase_add_test(t, minimax_by_another_name);
    tcase_add_test(t, deepseek_v2_scaling);
    tcase_add_test(t, llama4);
    tcase_add_test(t, llama4_wrapped);
    tcase_add_test(t, flat);
    tcase_add_loop_test(t, refuses_by_name, 0, sizeof refused / sizeof *refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
