/* test_gating.c - gating over hand-made layers: unused pairs, and a bias that follows the traffic only when it is told to. */
#include "worker/gating.h"

#include <math.h>
#include <string.h>

#include "worker/route_state.h"

#include <check.h> /* last: its macros collide with fail() */

enum { H = 4, T = 6, E = 4 };

static struct backend *b;
static float x[T * H], bias[E];
static const float identity[E * H] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
static struct layer_weights layer = {.router = {.data = identity, .fmt = FMT_F32, .rows = E, .cols = H}};
static const struct route_state no_state;
static const struct step_rows rows = {.T = T, .state = &no_state};

static void setup(void) {
    struct why why;
    ck_assert_int_eq(backend_open(&(struct backend_options){"ref", 1}, &b, &why), 0);
    memset(bias, 0, sizeof bias);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < H; i++) x[t * H + i] = i ? -(float)i : 1; /* every token prefers expert 0, then 1, 2, 3 */
}
static void teardown(void) { backend_close(b); }

static struct model_config flat(int k) {
    return (struct model_config){.hidden = H,
                                 .moe_layers = 1,
                                 .gate = {.score = GATE_SOFTMAX, .scale = 1, .experts = E, .k = k},
                                 .router = {.k = k}};
}

START_TEST(rows_end_in_unused_pairs) {
    struct model_config c = flat(3);
    struct gating g;
    struct why why;
    c.router.top_p = (struct top_p_rule){0.5f, 1, 3};
    ck_assert_int_eq(gating_init(&g, b, &c, T, &why), 0);
    for (int i = 0; i < H; i++) x[i] = 0; /* token 0: four alike, so three of them pass one half */
    gating_run(&g, 0, &layer, x, &rows);
    ck_assert(g.ids[0] == 0 && g.ids[1] == 1 && g.ids[2] == 2);
    for (int t = 1; t < T; t++) {
        ck_assert(g.ids[t * 3] == 0 && g.ids[t * 3 + 1] == -1 && g.ids[t * 3 + 2] == -1);
        ck_assert(g.weights[t * 3] > 0.5f && g.weights[t * 3 + 1] == 0 && g.weights[t * 3 + 2] == 0);
    }
    gating_clear(&g);
}
END_TEST

static int steps_until_another(bool serve) {
    struct model_config c = flat(1);
    struct gating g;
    struct why why;
    c.gate_sel_bias = true;
    c.router.bias_update = (struct bias_update_rule){serve, 0, 0.05f, 10};
    layer.router_sel_bias = bias;
    ck_assert_int_eq(gating_init(&g, b, &c, T, &why), 0);
    int step = 0;
    for (; step < 100; step++) {
        gating_run(&g, 0, &layer, x, &rows);
        if (g.ids[0] != 0) break;
    }
    gating_clear(&g);
    layer.router_sel_bias = NULL;
    return step;
}

START_TEST(the_bias_follows_only_when_told_to) {
    ck_assert_int_eq(steps_until_another(false), 100);
    int step = steps_until_another(true);
    ck_assert(step > 2 && step < 30);
    for (int i = 0; i < E; i++) ck_assert(bias[i] == 0); /* the checkpoint's own stays as it is */
}
END_TEST

START_TEST(unsure_rows_get_more) {
    struct model_config c = flat(3);
    struct gating g;
    struct why why;
    c.router.k = 1;
    c.router.confidence = (struct confidence_rule){CONFIDENCE_MARGIN, CONFIDENCE_WIDEN, 0.3f, 3};
    ck_assert_int_eq(gating_init(&g, b, &c, T, &why), 0);
    for (int i = 0; i < H; i++) x[2 * H + i] = 0;
    gating_run(&g, 0, &layer, x, &rows);
    for (int t = 0; t < T; t++) {
        ck_assert_int_eq(g.ids[t * 3 + 2], t == 2 ? 2 : -1);
        ck_assert(t == 2 ? g.confidence[t] == 0 && g.entropy[t] > 1.38f : g.confidence[t] > 0.5f);
    }
    gating_clear(&g);
}
END_TEST

static struct placement without_two; /* of E experts on one worker, number 2 is missing */
static void lose_expert(struct gating *g, const struct model_config *c) {
    struct why why;
    const uint64_t hosts[E] = {1, 1, 0, 1};
    ck_assert_int_ge(placement_partial(&without_two, 1, 1, E, hosts, &why), 0);
    ck_assert_int_eq(gate_mask_init(&g->mask, b, c, &without_two, &why), 0);
}

/* A bias that follows the traffic begins with what is missing, and no traffic brings that back. */
START_TEST(the_missing_stay_out_of_a_bias_that_changes) {
    struct model_config c = flat(1);
    struct gating g;
    struct why why;
    float even[E] = {0};
    c.gate_sel_bias = true;
    c.router.bias_update = (struct bias_update_rule){true, 0.5f, 0.05f, 10};
    layer.router_sel_bias = even;
    ck_assert_int_eq(gating_init(&g, b, &c, T, &why), 0);
    lose_expert(&g, &c);
    bool seen[E] = {false};
    for (int t = 0; t < T; t++) x[t * H + 2] = 0.9f; /* the missing one would be next */
    for (int step = 0; step < 200; step++) {
        gating_run(&g, 0, &layer, x, &rows);
        for (int t = 0; t < T; t++) {
            ck_assert(g.ids[t] >= 0 && g.ids[t] < E && g.weights[t] > 0);
            seen[g.ids[t]] = true;
        }
        for (int e = 0; e < E; e++) ck_assert(e == 2 ? g.bias[e] == -INFINITY : isfinite(g.bias[e]));
    }
    ck_assert(seen[0] && !seen[2]);
    gating_clear(&g);
    placement_clear(&without_two);
    layer.router_sel_bias = NULL;
}
END_TEST

/* Four experts, routed by segments of two: what is kept along the sequence is the same as with all experts, and what
 * is chosen leaves the missing one out. */
static void run_segments(bool lose, float *kept) {
    struct model_config c = flat(1);
    struct route_state state;
    struct gating g;
    struct why why;
    static int32_t pos[T] = {0, 1, 2, 3, 4, 5}, seq[T], at[T] = {0, 1, 2, 3, 4, 5}, pages[1];
    c.router.segment.len = 2;
    ck_assert_int_eq(route_state_open(&state, b, &c, 1, 8, &why), 0);
    struct step_rows walk = {.T = T, .n_seqs = 1, .pos = pos, .seq = seq, .kv_at = at, .pages = pages, .max_pages = 1};
    walk.state = &state;
    ck_assert_int_eq(gating_init(&g, b, &c, T, &why), 0);
    if (lose) lose_expert(&g, &c);
    for (int t = 0; t < T; t++) x[t * H + 2] = 2; /* liked best by all */
    gating_run(&g, 0, &layer, x, &walk);
    for (int t = 0; t < T; t++) ck_assert_int_eq(g.ids[t], lose ? 0 : 2);
    memcpy(kept, state.memory, sizeof *kept * T * E);
    gating_clear(&g);
    route_state_close(&state);
    if (lose) placement_clear(&without_two);
}
START_TEST(sums_over_segments_know_nothing_of_what_is_missing) {
    float all[T * E], some[T * E];
    run_segments(false, all);
    run_segments(true, some);
    ck_assert(!memcmp(all, some, sizeof all));
}
END_TEST

int main(void) {
    Suite *s = suite_create("gating");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, rows_end_in_unused_pairs);
    tcase_add_test(t, the_bias_follows_only_when_told_to);
    tcase_add_test(t, unsure_rows_get_more);
    tcase_add_test(t, the_missing_stay_out_of_a_bias_that_changes);
    tcase_add_test(t, sums_over_segments_know_nothing_of_what_is_missing);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
