/* test_gate.c - the words for the gate rules of real families. */
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
        gate_rule_text(&t[i].r, buf, sizeof buf);
        ck_assert_str_eq(buf, t[i].text);
        gate_rule_text(&t[i].r, buf, 8);
        ck_assert_uint_eq(strlen(buf), 7);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("gate");
    TCase *t = tcase_create("all");
    tcase_add_test(t, text);
    suite_add_tcase(s, t);
    return run_suite(s);
}
