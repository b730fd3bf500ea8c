/* test_config_router.c - moe_router of the hierarchical kinds, and what may be added to any kind: read, named, refused. */
#include <stdio.h>
#include <string.h>

#include "model/config.h"

#include <check.h> /* last: its macros collide with fail() */

#define BASE                                                                                                                   \
    "{\"model_type\":\"cadre_moe\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"                      \
    "\"num_key_value_heads\":2,\"vocab_size\":300,\"max_position_embeddings\":128,\"moe_intermediate_size\":32,"
#define TWO(rest)  "\"kind\":\"two_stage\",\"n_global\":2,\"n_domain\":4,\"n_local\":8,\"k\":2,\"mass\":\"norm\"" rest
#define TREE(rest) "\"kind\":\"tree\",\"branch\":[4,3,2],\"search\":\"greedy\",\"leaf_k\":2" rest
#define FLAT(rest) "\"kind\":\"flat\",\"score\":\"softmax\",\"k\":3,\"norm\":\"none\",\"weight\":\"score\"" rest

static int parse(int experts, int k, const char *router, struct model_config *c, struct why *why) {
    char text[2048];
    int n = snprintf(text, sizeof text, BASE "\"num_experts\":%d,\"num_experts_per_tok\":%d,\"moe_router\":{%s}}", experts, k,
                     router);
    ck_assert_int_lt(n, (int)sizeof text);
    *why = (struct why){""};
    return model_config_parse(text, (size_t)n, NULL, 0, c, why);
}

static struct model_config good(int experts, int k, const char *router) {
    struct model_config c;
    struct why why;
    ck_assert_msg(parse(experts, k, router, &c, &why) == 0, "%s: %s", router, why.text);
    return c;
}

static void named(const struct model_config *c, enum tensor_role role, int expert, const char *name, int rows, int cols) {
    struct tensor_want w;
    ck_assert_msg(model_tensor(c, role, 1, expert, &w), "%s", name);
    ck_assert_str_eq(w.name, name);
    ck_assert(w.rows == rows && w.cols == cols);
}

START_TEST(two_stage) {
    struct model_config c = good(14, 5, TWO(",\"rank\":6,\"sel_bias\":true,\"shared_rows\":4"));
    struct tensor_want w;
    ck_assert(c.router.kind == ROUTER_TWO_STAGE && c.gate.k == 5 && c.gate.experts == 14 && c.router.two_stage.k_local == 1);
    named(&c, T_ROUTER, 0, "model.layers.1.mlp.gate.global.weight", 2, 64);
    named(&c, T_ROUTER_L1, 0, "model.layers.1.mlp.gate.domain.weight", 4, 64);
    named(&c, T_ROUTER_L2, 0, "model.layers.1.mlp.gate.local.weight", 8, 64);
    named(&c, T_ROUTER_SEL_BIAS, 0, "model.layers.1.mlp.gate.e_score_correction_bias", 2, 0);
    named(&c, T_EXPERT_UP, 1, "model.layers.1.mlp.experts.global.1.up_proj.weight", 28, 64);
    named(&c, T_EXPERT_DOWN, 5, "model.layers.1.mlp.experts.domain.3.down_proj.weight", 64, 28);
    named(&c, T_EXPERT_GATE, 13, "model.layers.1.mlp.experts.local.7.lora_A.weight", 6, 64);
    named(&c, T_EXPERT_DOWN, 6, "model.layers.1.mlp.experts.local.0.lora_B.weight", 64, 6);
    named(&c, T_COMMON_UP, 1, "model.layers.1.mlp.experts.domain.common.up_proj.weight", 4, 64);
    ck_assert(!model_tensor(&c, T_EXPERT_UP, 1, 6, &w) && !model_tensor(&c, T_COMMON_UP, 1, 2, &w));
    ck_assert(!model_tensor(&c, T_EXPERT_UP, 1, 14, &w) && model_levels(&c) == 3);
}
END_TEST

START_TEST(tree) {
    struct model_config c = good(24, 2, TREE(",\"history\":{\"mode\":\"layer\",\"dim\":5}"));
    struct tensor_want w;
    named(&c, T_ROUTER, 0, "model.layers.1.mlp.gate.l0", 4, 64);
    named(&c, T_ROUTER_L1, 0, "model.layers.1.mlp.gate.l1", 12, 64);
    named(&c, T_ROUTER_L2, 0, "model.layers.1.mlp.gate.l2", 24, 64);
    named(&c, T_ROUTER_HISTORY, 0, "model.layers.1.mlp.gate.hist.weight", 4, 5);
    named(&c, T_GRU_IN, 0, "router_gru.proj.weight", 5, 64);
    named(&c, T_GRU_HH, 0, "router_gru.weight_hh", 15, 5);
    named(&c, T_GRU_IH_BIAS, 0, "router_gru.bias_ih", 15, 0);
    named(&c, T_EXPERT_GATE, 23, "model.layers.1.mlp.experts.23.gate_proj.weight", 32, 64);
    ck_assert(model_tensor(&c, T_ROUTER_L2, 0, 0, &w) && w.blocks == 12);
    c = good(24, 2, TREE(",\"shared_level_gates\":true"));
    named(&c, T_ROUTER_L2, 0, "model.layers.1.mlp.gate.l2", 2, 64);
    ck_assert(!model_tensor(&c, T_ROUTER_HISTORY, 1, 0, &w) && !model_tensor(&c, T_GRU_IN, 0, 0, &w));
}
END_TEST

START_TEST(widths_and_state) {
    struct model_config c = good(14, 5, TWO(",\"confidence\":{\"type\":\"margin\",\"action\":\"escalate\",\"tau\":0.5}"));
    ck_assert_int_eq(c.gate.k, 6);
    c = good(8, 3, FLAT(",\"confidence\":{\"type\":\"entropy\",\"action\":\"widen\",\"tau\":0.5,\"k_max\":6}"));
    ck_assert(c.gate.k == 6 && c.router.k == 3);
    ck_assert_int_eq(router_state_floats(&c.router, 8), 0);
    c = good(8, 3, FLAT(",\"history\":{\"mode\":\"ema\",\"rho\":0.5},\"dropout\":{\"p\":0.1},\"top_p\":{\"P\":0.4}"));
    ck_assert_int_eq(router_state_floats(&c.router, 8), 8);
    ck_assert(c.router.top_p.k_min == 1 && c.router.top_p.k_max == 3);
    c = good(14, 5, TWO(",\"history\":{\"mode\":\"ema\",\"rho\":0.5},\"segment\":{\"len\":16,\"stage\":\"domain\"}"));
    ck_assert_int_eq(router_state_floats(&c.router, 8), 2 + 2 + 4);
}
END_TEST

static const struct {
    int experts, k;
    const char *router, *says;
} refused[] = {
    {14, 5, TWO(",\"score\":\"softmax\""), "\"score\" is \"softmax\", which Cadre does not implement"},
    {13, 5, TWO(""), "the router has 14 experts and num_experts is 13"},
    {14, 4, TWO(""), "sends a token to 5 experts and num_experts_per_tok is 4"},
    {14, 5, "\"kind\":\"two_stage\",\"n_global\":3,\"n_domain\":4,\"k\":1,\"mass\":\"norm\"",
     "n_domain is 4 and n_global is 3"},
    {14, 5, "\"kind\":\"two_stage\",\"n_global\":2,\"n_domain\":4,\"n_local\":6,\"k\":1,\"mass\":\"norm\"", "n_local is 6"},
    {14, 5, "\"kind\":\"two_stage\",\"n_global\":2,\"n_domain\":4,\"k\":3,\"mass\":\"norm\"",
     "k is 3; wanted at most the 2 domains"},
    {14, 5, "\"kind\":\"two_stage\",\"n_global\":2,\"n_domain\":4,\"k\":1,\"mass\":\"all\"",
     "mass is \"all\"; accepted: \"norm\""},
    {14, 5, TWO(",\"global_topk\":3"), "global_topk is 3; wanted at most n_global, 2"},
    {14, 5, TWO(",\"k_local\":3"), "k_local is 3; wanted 1 to 2"},
    {14, 5, TWO(",\"rank\":0"), "rank is 0"},
    {24, 2, "\"kind\":\"tree\",\"search\":\"greedy\"", "branch is missing"},
    {24, 2, "\"kind\":\"tree\",\"branch\":[4,6],\"search\":\"greedy\"", "branch is"},
    {24, 2, "\"kind\":\"tree\",\"branch\":[4,0,6],\"search\":\"greedy\"", "branch[1] is 0"},
    {24, 2, "\"kind\":\"tree\",\"branch\":[64,64,2],\"search\":\"greedy\"", "branch makes 8192 leaves"},
    {24, 2, "\"kind\":\"tree\",\"branch\":[4,3,2],\"search\":\"beam\",\"leaf_k\":2", "beam is missing"},
    {24, 2, "\"kind\":\"tree\",\"branch\":[4,3,2],\"search\":\"wide\",\"leaf_k\":2",
     "search is \"wide\"; accepted: \"greedy\""},
    {24, 2, TREE(",\"beam\":3"), "beam is 3, which search \"greedy\" does not have"},
    {24, 3, "\"kind\":\"tree\",\"branch\":[4,3,2],\"search\":\"greedy\",\"leaf_k\":3", "leaf_k is 3; wanted at most 2"},
    {24, 2, TREE(",\"history\":{\"mode\":\"ema\",\"rho\":2}"), "history: rho is 2"},
    {24, 2, TREE(",\"history\":{\"mode\":\"ema\",\"rho\":0.5,\"dim\":5}"), "width of the gate's first level, 4"},
    {24, 2, TREE(",\"history\":{\"mode\":\"layer\"}"), "history: dim is missing"},
    {24, 2, TREE(",\"history\":{\"mode\":\"layer\",\"dim\":5,\"decay\":1}"), "history: \"decay\" is 1, which Cadre"},
    {24, 2, TREE(",\"segment\":{\"len\":8,\"stage\":\"domain\"}"), "stage is \"domain\", which only kind \"two_stage\" has"},
    {24, 2, TREE(",\"segment\":{\"len\":8,\"stage\":\"global\",\"causal\":false}"), "causal is false"},
    {24, 2, TREE(",\"confidence\":{\"type\":\"margin\",\"action\":\"escalate\",\"tau\":0.5}"), "only kind \"two_stage\" has"},
    {24, 2, TREE(",\"confidence\":{\"type\":\"margin\",\"action\":\"widen\",\"tau\":0.5,\"k_max\":3}"),
     "k_max is 3; wanted from k, 2"},
    {24, 2, TREE(",\"confidence\":{\"type\":\"margin\",\"action\":\"widen\",\"k_max\":2}"), "tau is missing"},
    {8, 3, FLAT(",\"segment\":{\"len\":8,\"stage\":\"global\"}"), "a flat gate has no stage"},
    {8, 3, FLAT(",\"top_p\":{\"P\":0.4,\"k_max\":4}"), "top_p: k_max is 4"},
    {8, 3, FLAT(",\"top_p\":{}"), "top_p: P is missing"},
    {8, 3, FLAT(",\"sel_bias\":true,\"top_p\":{\"P\":0.4}"), "no sel_bias"},
    {8, 3, FLAT(",\"scale\":2,\"top_p\":{\"P\":0.4}"), "scale 1"},
    {8, 3,
     FLAT(",\"groups\":{\"rule\":\"max\",\"n\":2,\"topk\":1},\"confidence\":{\"type\":\"entropy\",\"action\":\"widen\",\"tau\":"
          "0.5,"
          "\"k_max\":5}"),
     "k_max is 5; wanted from k, 3, to what the gate can choose, 4"},
    {8, 1,
     "\"kind\":\"flat\",\"score\":\"sigmoid\",\"k\":1,\"norm\":\"none\",\"weight\":\"score\",\"apply\":\"input\","
     "\"confidence\":{\"type\":\"entropy\",\"action\":\"widen\",\"tau\":0.5,\"k_max\":2}",
     "only one expert can have"},
    {8, 3, FLAT(",\"serve_bias_update\":true"), "wanted bias_update {decay, speed, max} and sel_bias"},
    {8, 3, FLAT(",\"sel_bias\":true,\"bias_update\":{\"decay\":0,\"speed\":0.001}"), "bias_update: max is missing"},
};

START_TEST(refuses) {
    struct model_config c;
    struct why why;
    ck_assert_msg(parse(refused[_i].experts, refused[_i].k, refused[_i].router, &c, &why) < 0, "%s", refused[_i].router);
    ck_assert_msg(strstr(why.text, refused[_i].says) != NULL, "%s: says '%s'", refused[_i].router, why.text);
    ck_assert_msg(strstr(why.text, "moe_router") != NULL, "%s", why.text);
}
END_TEST

int main(void) {
    Suite *s = suite_create("config_router");
    TCase *t = tcase_create("all");
    tcase_add_test(t, two_stage);
    tcase_add_test(t, tree);
    tcase_add_test(t, widths_and_state);
    tcase_add_loop_test(t, refuses, 0, (int)(sizeof refused / sizeof *refused));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
