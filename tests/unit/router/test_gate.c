/* test_gate.c - gate rules: every field's refusal, and the words for the rules of real families. */
#include <math.h>
#include <string.h>

#include "router/gate.h"

#include <check.h> /* last: its macros collide with fail() */

static const struct gate_rule mixtral = {.score = GATE_SOFTMAX, .norm = GATE_NORM_SUM, .scale = 1, .experts = 8, .k = 2};

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
    } t[10];
    for (size_t i = 0; i < 10; i++) t[i].r = mixtral;
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
    for (size_t i = 0; i < 10; i++) {
        struct why why;
        ck_assert_int_eq(gate_rule_check(&t[i].r, &why), ERR_INVALID);
        ck_assert_msg(strstr(why.text, t[i].word) != NULL, "case %zu: %s", i, why.text);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("gate");
    TCase *t = tcase_create("all");
    tcase_add_test(t, text);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
