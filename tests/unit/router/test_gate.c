/* test_gate.c - gate rules: every field's refusal, and the words for the rules of real families. */
#include <math.h>
#include <string.h>

#include "router/gate.h"

#include "tests/unit/run.h"


static const struct gate_rule mixtral = {.score = GATE_SOFTMAX, .norm = GATE_NORM_SUM, .scale = 1, .experts = 8, .k = 2};

static const struct gate_rule v3 = {.score = GATE_SIGMOID,
                                    .norm = GATE_NORM_SUM,
                                    .norm_eps = 1e-20f,
                                    .scale = 2.5f,
                                    .experts = 256,
                                    .k = 8,
                                    .group = GATE_GROUP_TOP2SUM,
                                    .groups = 8,
                                    .topk_group = 4,
                                    .group_fill = -INFINITY};

START_TEST(text) {
    struct {
        struct gate_rule r;
        const char *text;
    } t[] = {
        {mixtral, "softmax top-2 of 8, normalised"},
        {{.score = GATE_SOFTMAX, .scale = 1, .experts = 64, .k = 8}, "softmax top-8 of 64"},
        {{.score = GATE_RAW, .norm = GATE_NORM_SOFTMAX, .scale = 1, .experts = 128, .k = 4},
         "raw top-4 of 128, softmax over selected"},
        {{.score = GATE_SIGMOID, .norm = GATE_NORM_SUM, .norm_eps = 1e-20f, .scale = 2.5f, .experts = 256, .k = 8},
         "sigmoid top-8 of 256, normalised, times 2.5"},
        {{.score = GATE_SOFTMAX, .weight = GATE_WEIGHT_ONE, .scale = 1, .experts = 8, .k = 8},
         "softmax top-8 of 8, each with weight 1"},
        {v3, "sigmoid top-8 of 256 in the best 4 of 8 groups, normalised, times 2.5"},
        {{.score = GATE_SOFTMAX, .scale = 16, .experts = 160, .k = 6, .group = GATE_GROUP_MAX, .groups = 8, .topk_group = 3},
         "softmax top-6 of 160 in the best 3 of 8 groups (others 0), times 16"},
        {{.score = GATE_SOFTMAX, .scale = 6, .experts = 512, .zero = 256, .k = 12},
         "softmax top-12 of 512 + 256 identity, times 6"},
        {{.score = GATE_SIGMOID, .scale = 1, .experts = 16, .k = 1, .apply = GATE_INPUT}, "sigmoid top-1 of 16, on the input"},
        {{.score = GATE_SQRTSOFTPLUS, .norm = GATE_NORM_SUM, .scale = 1.5f, .experts = 256, .k = 6},
         "sqrt-softplus top-6 of 256, normalised, times 1.5"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char buf[128];
        struct why why;
        ck_assert_int_eq(gate_rule_check(&t[i].r, &why), 0);
        gate_rule_text(&t[i].r, buf, sizeof buf);
        ck_assert_str_eq(buf, t[i].text);
        gate_rule_text(&t[i].r, buf, 8);
        ck_assert_uint_eq(strlen(buf), 7);
    }
}
END_TEST

START_TEST(refusals) {
    struct {
        const char *word;
        struct gate_rule r;
    } t[22];
    enum { FLAT = 13, CASES = sizeof t / sizeof *t };
    for (int i = 0; i < CASES; i++) t[i].r = i < FLAT ? mixtral : v3;
    t[0].r.experts = 0, t[0].word = "0 experts";
    t[1].r.experts = 1 << 20, t[1].word = "1048576";
    t[2].r.k = 0, t[2].word = "1..8";
    t[3].r.k = 9, t[3].word = "9";
    t[4].r.score = 7, t[4].word = "score";
    t[5].r.weight = 7, t[5].word = "weight";
    t[6].r.norm = 7, t[6].word = "normalisation";
    t[7].r.norm_eps = NAN, t[7].word = "epsilon";
    t[8].r.scale = 0, t[8].word = "scale";
    t[9].r.scale = INFINITY, t[9].word = "scale";
    t[10].r.zero = -1, t[10].word = "identity";
    t[11].r.apply = GATE_INPUT, t[11].word = "input of 2 experts";
    t[12].r.group = 7, t[12].word = "group rule 7";
    t[13].r.groups = 0, t[13].word = "0 groups";
    t[14].r.groups = 128, t[14].word = "128 groups";
    t[15].r.groups = 7, t[15].word = "7 groups of 256";
    t[16].r.topk_group = 0, t[16].word = "best 0 groups";
    t[17].r.topk_group = 9, t[17].word = "1..8";
    t[18].r.topk_group = 1, t[18].r.k = 33, t[18].word = "hold as many";
    t[19].r.experts = t[19].r.groups = 64, t[19].r.topk_group = 64, t[19].word = "groups of one expert";
    t[20].r.group_fill = -1, t[20].word = "expected 0 or -inf";
    t[21].r.zero = 1, t[21].word = "beside groups";
    for (int i = 0; i < CASES; i++) {
        struct why why;
        ck_assert_msg(gate_rule_check(&t[i].r, &why) == ERR_INVALID, "case %d", i);
        ck_assert_msg(strstr(why.text, t[i].word) != NULL, "case %d: %s", i, why.text);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("gate");
    TCase *t = tcase_create("all");
    tcase_add_test(t, text);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    return run_suite(s);
}
