/* test_context.c - averages, the GRU cell, confidence, top-p and bias updates against figures worked out by hand. */
#include <math.h>

#include "router/context.h"

#include "tests/unit/run.h"


START_TEST(average) {
    float z[2] = {logf(3), 0}, a[2], b[2];
    context_ema(a, NULL, z, 0.6f, 2);
    ck_assert_float_eq_tol(a[0], .4f * .75f, 1e-6f);
    context_ema(b, a, z, 0.6f, 2);
    ck_assert_float_eq_tol(b[0], .6f * .3f + .3f, 1e-6f);
    ck_assert_float_eq_tol(b[1], .6f * .1f + .1f, 1e-6f);
}
END_TEST

START_TEST(gru) { /* reset .75, update .25; new tanh(1 + .75 * 2) */
    float h[1] = {0.5f}, in[3] = {logf(3), -logf(3), 1}, hidden[3] = {0, 0, 2};
    context_gru(h, in, hidden, 1);
    ck_assert_float_eq_tol(h[0], .75f * tanhf(2.5f) + .25f * .5f, 1e-6f);
}
END_TEST

START_TEST(sums) {
    float z[2] = {1, -2}, a[2], b[2];
    context_sum(a, NULL, z, 2);
    context_sum(b, a, z, 2);
    ck_assert(b[0] == 2 && b[1] == -4);
}
END_TEST

START_TEST(confidence) {
    float even[4] = {1, 1, 1, 1}, sure[4] = {50, 0, 0, 0}, half[2] = {logf(3), 0}, bad[3] = {NAN, NAN, NAN}, h;
    ck_assert_float_eq_tol(context_confidence(even, 4, CONFIDENCE_ENTROPY, &h), 0, 1e-6f);
    ck_assert_float_eq_tol(h, logf(4), 1e-6f);
    ck_assert_float_eq_tol(context_confidence(sure, 4, CONFIDENCE_ENTROPY, &h), 1, 1e-6f);
    ck_assert_float_eq_tol(context_confidence(half, 2, CONFIDENCE_MARGIN, &h), .5f, 1e-6f);
    ck_assert_float_eq_tol(h, -.75f * logf(.75f) - .25f * logf(.25f), 1e-6f);
    ck_assert_float_eq_tol(context_confidence(bad, 3, CONFIDENCE_MARGIN, &h), 0, 1e-6f);
    ck_assert_float_eq(context_confidence(half, 1, CONFIDENCE_ENTROPY, &h), 1);
}
END_TEST

START_TEST(top_p) {
    static const float w[4] = {.5f, .25f, .125f, .0625f};
    const struct {
        float p;
        int least, most, want;
    } t[] = {{.4f, 1, 4, 1}, {.5f, 1, 4, 2}, {.6f, 1, 4, 2}, {.76f, 1, 4, 3},
             {1, 1, 4, 4},   {.4f, 3, 4, 3}, {.9f, 1, 2, 2}, {.1f, 4, 4, 4}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct top_p_rule r = {t[i].p, t[i].least, t[i].most};
        ck_assert_int_eq(context_top_p(w, &r), t[i].want);
    }
}
END_TEST

START_TEST(bias) {
    struct bias_update_rule r = {.decay = .5f, .speed = .125f, .max = .3f};
    float b[4] = {.5f, -.25f, 0, -1};
    uint32_t counts[4] = {1, 2, 3, 2};
    context_bias(b, counts, 4, &r);
    ck_assert(b[0] == .3f && b[1] == -.125f && b[2] == -.125f && b[3] == -.3f);
}
END_TEST

START_TEST(bias_of_what_is_missing) { /* the mean is that of the two others */
    struct bias_update_rule r = {.decay = 1, .speed = .125f, .max = .3f};
    float b[3] = {.5f, -INFINITY, 0};
    uint32_t counts[3] = {1, 0, 3};
    context_bias(b, counts, 3, &r);
    ck_assert(b[0] == .125f && b[1] == -INFINITY && b[2] == -.125f);
}
END_TEST

START_TEST(bias_converges_to_even_loads) { /* four choices of fixed appeal: the bias ends where all are taken alike */
    struct bias_update_rule r = {.speed = .01f, .max = 10};
    float appeal[4] = {1, .5f, .2f, 0}, b[4] = {0};
    uint32_t total[4] = {0};
    for (int step = 0; step < 2000; step++) {
        uint32_t counts[4] = {0};
        for (int token = 0; token < 16; token++) {
            int best = 0;
            for (int i = 1; i < 4; i++) {
                float noise = (float)((step * 16 + token) * (i + 3) % 11) * .01f;
                if (appeal[i] + b[i] + noise > appeal[best] + b[best]) best = i;
            }
            counts[best]++;
            total[best] += step >= 1000;
        }
        context_bias(b, counts, 4, &r);
    }
    for (int i = 0; i < 4; i++) ck_assert(total[i] > 2000 && total[i] < 6000);
}
END_TEST

int main(void) {
    Suite *s = suite_create("context");
    TCase *t = tcase_create("all");
    tcase_add_test(t, average);
    tcase_add_test(t, gru);
    tcase_add_test(t, sums);
    tcase_add_test(t, confidence);
    tcase_add_test(t, top_p);
    tcase_add_test(t, bias);
    tcase_add_test(t, bias_of_what_is_missing);
    tcase_add_test(t, bias_converges_to_even_loads);
    suite_add_tcase(s, t);
    return run_suite(s);
}
