/* test_two_stage.c - two-stage choices worked out by hand. */
#include <math.h>

#include "router/two_stage.h"

#include "tests/unit/run.h"


static const struct two_stage_rule rule = {.globals = 2, .domains = 4, .locals = 8, .global_topk = 1, .k = 1, .k_local = 1};
/* softmax(ln 3, ln 1) = .75, .25; domains of global 0: .8, .2; of global 1: .6, .4; locals: sigmoid(ln 3) = .75, sigmoid(0) =
 * .5 */
static float zg[2], zd[4], zl[8];

static void setup(void) {
    zg[0] = logf(3), zg[1] = 0;
    zd[0] = logf(4), zd[1] = 0, zd[2] = logf(1.5f), zd[3] = 0;
    for (int i = 0; i < 8; i++) zl[i] = i % 2 ? logf(3) : 0;
}

static void expect(const struct two_stage_rule *r, int globals, int k, const float *bias, int n, const int32_t *ids,
                   const double *w) {
    int32_t got[16];
    float weights[16];
    ck_assert_int_eq(two_stage_pick(r, globals, k, zg, bias, zd, zl, got, weights), n);
    for (int i = 0; i < n; i++) {
        ck_assert_int_eq(got[i], ids[i]);
        ck_assert_double_eq_tol((double)weights[i], w[i], 1e-6);
    }
}

START_TEST(one_global_one_domain) {
    expect(&rule, 1, 1, NULL, 3, (int32_t[]){0, 2, 7}, (double[]){.75, 1, .75}); /* global 0, domain 0, local 1 of domain 0 */
}
END_TEST

START_TEST(mass) {
    struct two_stage_rule r = rule;
    expect(&r, 1, 2, NULL, 5, (int32_t[]){0, 2, 7, 3, 9}, (double[]){.75, .8, .6, .2, .15});
    r.product = true;
    expect(&r, 1, 2, NULL, 5, (int32_t[]){0, 2, 7, 3, 9}, (double[]){.75, .6, .45, .15, .1125});
}
END_TEST

START_TEST(two_globals_compete_by_mass) { /* masses .6 .15 .15 .1: the tie goes to the lower domain */
    struct two_stage_rule r = rule;
    r.locals = r.k_local = 0;
    expect(&r, 2, 3, NULL, 5, (int32_t[]){0, 1, 2, 3, 4}, (double[]){.75, .25, .6 / .9, .15 / .9, .15 / .9});
}
END_TEST

START_TEST(bias_chooses_and_does_not_weigh) {
    struct two_stage_rule r = rule;
    r.product = true;
    expect(&r, 1, 1, (float[]){0, .6f}, 3, (int32_t[]){1, 4, 11}, (double[]){.25, .15, .1125});
}
END_TEST

START_TEST(several_locals) {
    struct two_stage_rule r = rule;
    r.k_local = 2;
    expect(&r, 1, 1, NULL, 4, (int32_t[]){0, 2, 7, 6}, (double[]){.75, 1, .75, .5});
}
END_TEST

START_TEST(the_bias_chooses_what_is_hardly_there) { /* p = 1, exp(-200): 0 in f32 */
    struct two_stage_rule r = rule;
    r.locals = r.k_local = 0;
    zg[0] = 200;
    expect(&r, 1, 2, (float[]){0, 2}, 3, (int32_t[]){1, 4, 5}, (double[]){0, .6, .4});
    r.product = true;
    expect(&r, 1, 2, (float[]){0, 2}, 3, (int32_t[]){1, 4, 5}, (double[]){0, 0, 0});
}
END_TEST

START_TEST(the_bias_chooses_several_that_are_hardly_there) { /* p = 1, e^-200, e^-200 / 3: masses .45 .3 .15 .1 of the second */
    static const struct two_stage_rule r = {.globals = 3, .domains = 6, .global_topk = 2, .k = 3};
    const float g[] = {200, logf(3), 0}, bias[] = {0, 2, 2}, d[] = {0, 0, logf(1.5f), 0, logf(1.5f), 0};
    int32_t ids[5];
    float w[5];
    ck_assert_int_eq(two_stage_pick(&r, 2, 3, g, bias, d, NULL, ids, w), 5);
    const int32_t want[] = {1, 2, 5, 6, 7};
    const double omega[] = {0, 0, .45 / .9, .3 / .9, .15 / .9};
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(ids[i], want[i]);
        ck_assert_double_eq_tol((double)w[i], omega[i], 1e-6);
    }
}
END_TEST

START_TEST(masked_domains_have_no_mass) { /* -infinity: missing. Global 1's are chosen last, and have no part in the sum */
    struct two_stage_rule r = rule;
    r.locals = r.k_local = 0;
    zd[2] = zd[3] = -INFINITY;
    expect(&r, 2, 3, NULL, 5, (int32_t[]){0, 1, 2, 3, 4}, (double[]){.75, .25, .8, .2, 0});
    zd[0] = zd[1] = -INFINITY; /* nothing is left */
    expect(&r, 2, 2, NULL, 4, (int32_t[]){0, 1, 2, 3}, (double[]){.75, .25, 0, 0});
}
END_TEST

START_TEST(bad_numbers_still_give_different_experts) {
    int32_t ids[16];
    float weights[16];
    zg[0] = zd[1] = zl[0] = NAN;
    zd[2] = -INFINITY;
    int n = two_stage_pick(&rule, 2, 2, zg, NULL, zd, zl, ids, weights);
    ck_assert_int_eq(n, 6);
    for (int i = 0; i < n; i++) {
        ck_assert(ids[i] >= 0 && ids[i] < 14 && isfinite(weights[i]));
        for (int j = 0; j < i; j++) ck_assert_int_ne(ids[i], ids[j]);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("two_stage");
    TCase *t = tcase_create("all");
    tcase_add_test(t, one_global_one_domain);
    tcase_add_test(t, mass);
    tcase_add_test(t, two_globals_compete_by_mass);
    tcase_add_test(t, bias_chooses_and_does_not_weigh);
    tcase_add_test(t, several_locals);
    tcase_add_test(t, the_bias_chooses_what_is_hardly_there);
    tcase_add_test(t, the_bias_chooses_several_that_are_hardly_there);
    tcase_add_test(t, masked_domains_have_no_mass);
    tcase_add_test(t, bad_numbers_still_give_different_experts);
    tcase_add_checked_fixture(t, setup, NULL);
    suite_add_tcase(s, t);
    return run_suite(s);
}
