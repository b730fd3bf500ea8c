/* test_ref.c - the reference kernels against values worked out by hand: the fast kernels are tested against these, so these
 * are tested against arithmetic. */
#include <math.h>
#include <stdlib.h>

#include "kernels/kernels.h"

#include <check.h> /* last: it has a macro called fail */

static struct backend *b;

static void setup(void) {
    struct why why = {0};
    struct backend_options o = {.isa = "ref", .threads = 1};
    ck_assert_msg(backend_open(&o, &b, &why) == 0, "%s", why.text);
}

static void teardown(void) {
    backend_close(b);
}

START_TEST(formats) {
    ck_assert_uint_eq(fmt_bytes(FMT_F32), 4);
    ck_assert_uint_eq(fmt_bytes(FMT_BF16), 2);
    ck_assert_int_eq(fmt_parse("f32"), FMT_F32);
    ck_assert_int_eq(fmt_parse("bf16"), FMT_BF16);
    ck_assert_int_eq(fmt_parse("f16"), ERR_INVALID);
    ck_assert_str_eq(fmt_name(FMT_BF16), "bf16");
}
END_TEST

START_TEST(bf16_rounding) {
    ck_assert_uint_eq(bf16_from_f32(1.0f), 0x3f80);
    ck_assert_uint_eq(bf16_from_f32(1.0f + 0x1p-8f), 0x3f80);           /* half way, to even: down */
    ck_assert_uint_eq(bf16_from_f32(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81); /* just above half way */
    ck_assert_uint_eq(bf16_from_f32(1.0f + 0x1p-7f + 0x1p-8f), 0x3f82); /* half way, to even: up */
    ck_assert_uint_eq(bf16_from_f32(-2.0f), 0xc000);
    ck_assert_uint_eq(bf16_from_f32(INFINITY), 0x7f80);
    ck_assert_uint_eq(bf16_from_f32(3.4e38f), 0x7f80); /* rounds up to infinity */
    ck_assert(isnan(bf16_to_f32(bf16_from_f32(NAN))));
    for (uint32_t i = 0; i < 0x10000; i++) {
        float f = bf16_to_f32((uint16_t)i);
        if (!isnan(f)) ck_assert_uint_eq(bf16_from_f32(f), i);
    }
}
END_TEST

START_TEST(open_refuses) {
    struct why why = {0};
    struct backend *none = NULL;
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "sse9", .threads = 1}, &none, &why) < 0, 1);
    ck_assert_ptr_null(none);
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 0}, &none, &why), ERR_INVALID);
    backend_close(NULL);
}
END_TEST

START_TEST(linear_by_hand) {
    float w[] = {1, 2, 3, 4, 5, 6}, x[] = {1, 0, -1, 2, 2, 2}, bias[] = {10, 20}, y[4] = {1, 1, 1, 1};
    struct mat m = {w, FMT_F32, 2, 3};
    b->ops->linear(b, y, x, m, bias, true, 2);
    float want[] = {1 + 10 - 2, 1 + 20 - 2, 1 + 10 + 12, 1 + 20 + 30};
    for (int i = 0; i < 4; i++) ck_assert_float_eq(y[i], want[i]);
}
END_TEST

START_TEST(norm_by_hand) {
    float x[] = {3, 4}, w[] = {1, 2}, y[2];
    b->ops->rmsnorm(b, y, 2, x, 2, w, 0, 1, 2);
    ck_assert_float_eq_tol(y[0], 3 / sqrt(12.5), 1e-6);
    ck_assert_float_eq_tol(y[1], 8 / sqrt(12.5), 1e-6);
}
END_TEST

START_TEST(rope_by_hand) {
    float table[] = {1, 0, 1, 0, 0, 1, 0.6f, 0.8f}; /* position 1: a quarter turn, and (0.6, 0.8) */
    float x[] = {1, 2, 3, 4, 5};
    int32_t pos = 1;
    b->ops->rope(b, x, &pos, table, 4, false, 1, 1, 5);
    float want[] = {-3, 2 * 0.6f - 4 * 0.8f, 1, 4 * 0.6f + 2 * 0.8f, 5};
    for (int i = 0; i < 5; i++) ck_assert_float_eq_tol(x[i], want[i], 1e-6);
    float pairs[] = {1, 2, 3, 4, 5}, turned[] = {-2, 1, 3 * 0.6f - 4 * 0.8f, 4 * 0.6f + 3 * 0.8f, 5};
    b->ops->rope(b, pairs, &pos, table, 4, true, 1, 1, 5);
    for (int i = 0; i < 5; i++) ck_assert_float_eq_tol(pairs[i], turned[i], 1e-6);
}
END_TEST

START_TEST(attention_by_hand) {
    /* Two pages of two keys used in the order 1, 0; one head of one dimension; scores ln 1, ln 2, ln 3. */
    float kv[8] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN}, k[] = {0, logf(2), logf(3)}, v[] = {1, 10, 100};
    struct kv_layer layer = {kv, FMT_F32, 2, 1, 1};
    int32_t at[] = {2, 3, 0}, pages[] = {1, 0}, pos[] = {2, 2, 1}, seq[] = {0, 0, 0};
    b->ops->kv_store(b, &layer, k, v, at, 3);
    float q[] = {1, 0, 1}, out[3];
    struct attention a = {q, out, 3, 1, 1, 0, pos, seq, pages, 2};
    b->ops->attention(b, &layer, &a);
    ck_assert_float_eq_tol(out[0], (1 + 20 + 300) / 6.0, 1e-4);
    ck_assert_float_eq_tol(out[1], 37, 1e-4);
    ck_assert_float_eq_tol(out[2], 7, 1e-5);
    a.window = 1;
    b->ops->attention(b, &layer, &a);
    ck_assert_float_eq(out[0], 100);
    ck_assert_float_eq(out[2], 10);
    a.window = 0;
    a.chunk = 2; /* the third key begins the second chunk */
    b->ops->attention(b, &layer, &a);
    ck_assert_float_eq(out[0], 100);
    ck_assert_float_eq_tol(out[2], 7, 1e-5);
    a.chunk = 0;
    float sink = logf(6); /* takes as much as the three keys together */
    a.window = 0;
    a.sinks = &sink;
    b->ops->attention(b, &layer, &a);
    ck_assert_float_eq_tol(out[0], (1 + 20 + 300) / 12.0, 1e-4);
}
END_TEST

START_TEST(ffn_by_hand) {
    float gate[] = {1, 0, 0, 1}, up[] = {2, 0, 0, 3}, down[] = {1, 1, 1, -1}, x[] = {9, 9, 1, 2}, y[] = {7, 7, 0, 0};
    struct ffn f = {{gate, FMT_F32, 2, 2}, {up, FMT_F32, 2, 2}, {down, FMT_F32, 2, 2}};
    struct ffn_group g = {&f, 1, 1};
    b->ops->ffn(b, y, x, &g, 1, 2);
    double a0 = 1 / (1 + exp(-1)) * 2, a1 = 2 / (1 + exp(-2)) * 6;
    ck_assert_float_eq_tol(y[2], a0 + a1, 1e-5);
    float gate_bias[] = {0.5f, 0}, up_bias[] = {0, -9}, down_bias[] = {0.25f, 0};
    struct ffn biased = f; /* neuron 0: gate 1.5, up 2; neuron 1: gate 2 clamped to 1.75, up 6 - 9 clamped to -1.75 */
    biased.gate_bias = gate_bias, biased.up_bias = up_bias, biased.down_bias = down_bias;
    biased.act = (struct swiglu){1.75f, 1.702f, 1};
    struct ffn_group clamped = {&biased, 1, 1};
    float z[] = {7, 7, 0, 0};
    b->ops->ffn(b, z, x, &clamped, 1, 2);
    double b0 = 1.5 / (1 + exp(-1.702 * 1.5)) * 2.75, b1 = 1.75 / (1 + exp(-1.702 * 1.75)) * -0.75;
    ck_assert_float_eq_tol(z[2], b0 + b1 + 0.25, 1e-5);
    ck_assert_float_eq_tol(z[3], b0 - b1, 1e-5);
    ck_assert_float_eq_tol(y[3], a0 - a1, 1e-5);
    ck_assert_float_eq(y[0], 7); /* a row in no group */

    f.up = (struct mat){0}; /* low-rank: down(gate x), here added to what is there */
    g.add = true;
    y[2] = 10, y[3] = 20;
    b->ops->ffn(b, y, x, &g, 1, 2);
    ck_assert_float_eq(y[2], 13);
    ck_assert_float_eq(y[3], 19);
}
END_TEST

START_TEST(fuse_by_hand) {
    float a[] = {1, 2, 3, 4}, v[] = {10, 1}, out[] = {7, 7, 7, 7};
    b->ops->dots(b, out, 2, a, a, 2, 0.5f, 2, 2);
    ck_assert_float_eq(out[0], 2.5f);
    ck_assert_float_eq(out[2], 12.5f);
    b->ops->dots(b, out + 1, 2, a, v, 0, 1, 2, 2);
    ck_assert_float_eq(out[1], 12);
    ck_assert_float_eq(out[3], 34);

    struct fuse_rule rule = {.extra = 1, .score = 0, .conf = -1};
    float weights[] = {0.5f, 0.25f, 0, /* */ 1, 1, 1, /* */ 0, 0, 0}, said[] = {0, logf(2), NAN, 0, 0, logf(2), NAN, NAN, NAN};
    b->ops->fuse(b, weights, said, &rule, 3, 3);
    ck_assert_float_eq_tol(weights[0], 0.375, 1e-6); /* 0.5 and 0.25 * 2 are equal parts of 0.75 */
    ck_assert_float_eq_tol(weights[1], 0.375, 1e-6);
    ck_assert_float_eq(weights[2], 0);
    ck_assert_float_eq_tol(weights[3], 0.75, 1e-6);
    ck_assert_float_eq_tol(weights[5], 1.5, 1e-6);
    ck_assert_float_eq(weights[6] + weights[7] + weights[8], 0);

    rule = (struct fuse_rule){.extra = 2, .score = 1, .conf = 0, .beta = 2}; /* c = 1/2 and 1/4: squares 4 to 1 */
    float two[] = {0.5f, 0.5f}, both[] = {0, 1, -logf(3), 1}, far[] = {-500, 0, 500, 0};
    b->ops->fuse(b, two, both, &rule, 1, 2);
    ck_assert_float_eq_tol(two[0], 0.8, 1e-6);
    ck_assert_float_eq_tol(two[1], 0.2, 1e-6);
    b->ops->fuse(b, two, far, &rule, 1, 2);
    ck_assert_float_eq_tol(two[0], 0, 1e-6);
    ck_assert_float_eq_tol(two[1], 1, 1e-6);
}
END_TEST

START_TEST(gate_by_hand) {
    float logits[] = {0, logf(4), logf(4), logf(1)}, weights[3], bias[] = {0, 0, 1, 2};
    int32_t ids[3];
    struct gate_rule rule = {GATE_SOFTMAX, GATE_WEIGHT_SCORE, GATE_NORM_NONE, 0, 1, 4, 3};
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    ck_assert(ids[0] == 1 && ids[1] == 2 && ids[2] == 0); /* ties: the lower id */
    ck_assert_float_eq_tol(weights[0], 0.4, 1e-6);
    ck_assert_float_eq_tol(weights[2], 0.1, 1e-6);
    rule.norm = GATE_NORM_SUM;
    rule.scale = 9;
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    ck_assert_float_eq_tol(weights[0], 4, 1e-5);
    b->ops->gate_select(b, ids, weights, logits, bias, &rule, 1);
    ck_assert(ids[0] == 3 && ids[1] == 2 && ids[2] == 1); /* the bias chooses, */
    ck_assert_float_eq_tol(weights[0], 1, 1e-5);          /* the score weighs */
    rule = (struct gate_rule){GATE_RAW, GATE_WEIGHT_SCORE, GATE_NORM_SOFTMAX, 0, 1, 4, 2};
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    ck_assert_float_eq_tol(weights[0], 0.5, 1e-6);
    rule.weight = GATE_WEIGHT_ONE;
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    ck_assert_float_eq(weights[1], 1);
    float bad[] = {NAN, NAN, NAN, -INFINITY};
    rule.k = 4;
    int32_t four[4];
    float w4[4];
    b->ops->gate_select(b, four, w4, bad, NULL, &rule, 1);
    for (int i = 0; i < 4; i++) ck_assert_int_eq(four[i], i);
}
END_TEST

/* Six experts in three groups. Raw scores, so that the arithmetic is in the open. */
START_TEST(gate_groups_by_hand) {
    float logits[] = {5, -9, 4, 3, 4, 2}, bias[] = {-6, 0, -6, -6, -6, -9}, weights[3];
    int32_t ids[3];
    struct gate_rule rule = {.score = GATE_RAW, .scale = 1, .experts = 6, .k = 2, .groups = 3, .topk_group = 1};
    rule.group = GATE_GROUP_MAX; /* the group of the best */
    rule.group_fill = -INFINITY;
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    ck_assert(ids[0] == 0 && ids[1] == 1);
    ck_assert(weights[0] == 5 && weights[1] == -9);
    rule.group_fill = 0; /* the zeros outside beat -9 */
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    ck_assert(ids[0] == 0 && ids[1] == 2 && weights[1] == 4);
    rule.group = GATE_GROUP_TOP2SUM; /* -4, 7, 6 */
    rule.group_fill = -INFINITY;
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    ck_assert(ids[0] == 2 && ids[1] == 3);
    b->ops->gate_select(b, ids, weights, logits, bias, &rule, 1); /* biased -1 -9 -2 -3 -2 -7: sums -10 -5 -9 */
    ck_assert(ids[0] == 2 && ids[1] == 3 && weights[0] == 4);
    rule.group_fill = 0; /* nobody inside is above zero: the lowest ids outside */
    b->ops->gate_select(b, ids, weights, logits, bias, &rule, 1);
    ck_assert(ids[0] == 0 && ids[1] == 1);
    rule.topk_group = 2; /* equal groups: the lower number */
    rule.group = GATE_GROUP_MAX;
    rule.group_fill = -INFINITY;
    rule.k = 3;
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1); /* 5, 4, 4: the first two */
    ck_assert(ids[0] == 0 && ids[1] == 2 && ids[2] == 3);
    float bad[] = {NAN, NAN, -INFINITY, NAN, -INFINITY, NAN};
    b->ops->gate_select(b, ids, weights, bad, NULL, &rule, 1);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(ids[i], i);
}
END_TEST

START_TEST(gate_scores_by_hand) {
    float logits[] = {0, 1, 40, -40, -1}, weights[5];
    int32_t ids[5];
    struct gate_rule rule = {.score = GATE_SQRTSOFTPLUS, .scale = 1, .experts = 3, .zero = 2, .k = 5}; /* 5 wide */
    b->ops->gate_select(b, ids, weights, logits, NULL, &rule, 1);
    const double want[] = {sqrt(40), 1.14598, sqrt(log(2)), 0.559698, 2.06115e-9};
    const int order[] = {2, 1, 0, 4, 3};
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(ids[i], order[i]);
        ck_assert_float_eq_tol(weights[i], want[i], 1e-5 * want[i]);
    }
}
END_TEST

START_TEST(rows_by_hand) {
    float a[] = {1, 2}, c[] = {10, 20}, weights[] = {2, 0.5f}, y[2], picked[4], gate[] = {0};
    const float *rows[] = {a, c};
    b->ops->combine(b, y, rows, weights, 1, 2, 2);
    ck_assert(y[0] == 7 && y[1] == 14);
    b->ops->add(b, y, a, NULL, 1, 2);
    ck_assert(y[0] == 8 && y[1] == 16);
    b->ops->add(b, y, a, gate, 1, 2);
    ck_assert(y[0] == 8.5f && y[1] == 17);
    b->ops->clamp(b, y, 10, 2);
    ck_assert(y[0] == 8.5f && y[1] == 10);
    int32_t order[] = {1, 0};
    float two[] = {1, 2, 3, 4};
    b->ops->gather(b, picked, two, order, 2, 2);
    ck_assert(picked[0] == 3 && picked[3] == 2);
    uint16_t table[] = {0x3f80, 0x4000, 0xbf80, 0x0000};
    b->ops->embed(b, picked, (struct mat){table, FMT_BF16, 2, 2}, order, 1);
    ck_assert(picked[0] == -1 && picked[1] == 0);
}
END_TEST

START_TEST(stats_by_hand) {
    float logits[] = {0, logf(3), logf(3), logf(1)};
    struct logit_stats s;
    b->ops->logit_stats(b, &s, logits, 1, 4);
    ck_assert_int_eq(s.argmax, 1);
    ck_assert_float_eq(s.max, logf(3));
    ck_assert_float_eq_tol(s.lse, log(8), 1e-6);
}
END_TEST

START_TEST(weights_by_hand) {
    const float logits[] = {3, 2.99f, 2, -29, -83.99f, -84, -INFINITY, NAN};
    const int buckets[] = {0, 0, 8, 256, 511, 511, 511, 511};
    float w[8];
    uint16_t in[8];
    b->ops->weigh(b, w, in, logits, 3, 0.5f, 8);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(in[i], buckets[i]);
        if (i < 6) ck_assert_float_eq_tol(w[i], exp((double)(3 - logits[i]) * -0.5), 2e-7 * (double)w[i]);
        else ck_assert(w[i] == 0);
    }
    ck_assert(w[0] == 1);
    b->ops->weigh(b, w, in, logits, 3, 1, 8);
    ck_assert(w[4] > 1e-38f && w[5] == 0); /* 87 nats */
    ck_assert(in[3] == 511 && in[2] == 16);
}
END_TEST

int main(void) {
    Suite *s = suite_create("ref");
    TCase *plain = tcase_create("plain"), *ops = tcase_create("ops");
    tcase_add_test(plain, formats);
    tcase_add_test(plain, bf16_rounding);
    tcase_add_test(plain, open_refuses);
    tcase_add_checked_fixture(ops, setup, teardown);
    tcase_add_test(ops, linear_by_hand);
    tcase_add_test(ops, norm_by_hand);
    tcase_add_test(ops, rope_by_hand);
    tcase_add_test(ops, attention_by_hand);
    tcase_add_test(ops, ffn_by_hand);
    tcase_add_test(ops, fuse_by_hand);
    tcase_add_test(ops, gate_by_hand);
    tcase_add_test(ops, gate_groups_by_hand);
    tcase_add_test(ops, gate_scores_by_hand);
    tcase_add_test(ops, rows_by_hand);
    tcase_add_test(ops, stats_by_hand);
    tcase_add_test(ops, weights_by_hand);
    suite_add_tcase(s, plain);
    suite_add_tcase(s, ops);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
