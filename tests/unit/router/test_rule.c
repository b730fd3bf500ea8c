/* test_rule.c - routers in words. */
#include <string.h>

#include "router/rule.h"

#include <check.h> /* last: its macros collide with fail() */

static const struct gate_rule flat = {.score = GATE_SOFTMAX, .scale = 1, .experts = 8, .k = 4};

START_TEST(text) {
    const struct {
        struct router_rule r;
        const char *text;
    } t[] = {
        {{.k = 4, .top_p = {.5f, 1, 4}}, "softmax top-4 of 8; top-p 0.5, 1 to 4"},
        {{.kind = ROUTER_TREE, .tree = {{16, 8, 8}, false, TREE_BEAM, 4, 2}, .history = {HISTORY_EMA, 16, .9f}},
         "tree 16 x 8 x 8, beam 4, 2 leaves; moving average of its choices"},
        {{.kind = ROUTER_TREE, .tree = {{3, 2, 2}, true, TREE_GREEDY, 1, 1}, .history = {HISTORY_LAYER, 4, 0}},
         "tree 3 x 2 x 2, greedy, 1 leaf, gates shared per level; recurrent over the layers"},
        {{.kind = ROUTER_TWO_STAGE, .two_stage = {4, 16, 32, 1, 2, 1, false, 8}, .segment = {64, true}},
         "two stages: 1 of 4 globals, 2 domains of 16, 1 of 2 locals each of rank 8; domains per segment of 64"},
        {{.kind = ROUTER_TWO_STAGE, .two_stage = {2, 4, 0, 1, 1, 0, true, 0}, .confidence = {.action = CONFIDENCE_ESCALATE}},
         "two stages: 1 of 2 globals, 1 domains of 4, weighed by the product; one global more when unsure"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char buf[200], small[12];
        router_rule_text(&t[i].r, &flat, buf, sizeof buf);
        ck_assert_str_eq(buf, t[i].text);
        router_rule_text(&t[i].r, &flat, small, sizeof small);
        ck_assert_int_eq(strncmp(small, t[i].text, 11), 0);
        ck_assert_uint_eq(strlen(small), 11);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("rule");
    TCase *t = tcase_create("all");
    tcase_add_test(t, text);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
