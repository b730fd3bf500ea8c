/* test_figures.c - the figures of expert load against values worked out by hand; labels and routing accuracy likewise. */
#include "cli/routing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

static struct why why;

static void near(double got, double want) { ck_assert_msg(fabs(got - want) < 1e-9, "%.12g, wanted %.12g", got, want); }

START_TEST(one_layer) {
    /* 4 experts ran 6, 2, 0, 4 rows: mean 3, max 6; deviations 3, -1, -3, 1: variance 20/4 = 5. */
    uint64_t rows[4] = {6, 2, 0, 4}, scratch[4];
    struct figures f;
    figures_layer(&f, rows, 4, 6, scratch);
    ck_assert_uint_eq(f.rows, 12);
    near(f.imb, 2);
    near(f.balancedness, 0.5);
    near(f.std, sqrt(5));
    near(f.cv, sqrt(5) / 3);
    near(f.utilisation, 0.75);
    near(f.hottest, 0.5);           /* 15 % of 4 experts is one */
    near(f.activation, 12. / 6 / 4); /* 6 tokens chose 2 of 4 each */
}
END_TEST

START_TEST(hot_experts) {
    ck_assert_uint_eq(figures_hot(1), 1);
    ck_assert_uint_eq(figures_hot(8), 1);
    ck_assert_uint_eq(figures_hot(20), 3);
    ck_assert_uint_eq(figures_hot(64), 10);
    ck_assert_uint_eq(figures_hot(256), 38);
    uint64_t rows[20], scratch[20];
    for (uint64_t e = 0; e < 20; e++) rows[e] = e; /* sum 190, the three hottest 19 + 18 + 17 */
    struct figures f;
    figures_layer(&f, rows, 20, 0, scratch);
    near(f.hottest, 54. / 190);
    near(f.activation, 0);
}
END_TEST

START_TEST(means_over_layers) {
    uint64_t even[2] = {5, 5}, odd[2] = {9, 1}, none[2] = {0, 0}, scratch[2];
    struct figures sum = {0}, f;
    figures_layer(&f, none, 2, 10, scratch);
    figures_add(&sum, &f, 0);
    figures_layer(&f, even, 2, 10, scratch);
    figures_add(&sum, &f, 1);
    figures_layer(&f, odd, 2, 10, scratch);
    figures_add(&sum, &f, 2);
    figures_mean(&sum);
    ck_assert_int_eq(sum.layers, 2); /* the one that ran nothing is in no mean */
    near(sum.imb, (1 + 1.8) / 2);
    near(sum.balancedness, (1 + 1 / 1.8) / 2);
    ck_assert_int_eq(sum.worst_layer, 2);
    near(sum.worst_imb, 1.8);
    ck_assert_uint_eq(sum.rows, 20);
    struct figures empty = {0};
    figures_mean(&empty);
    ck_assert_int_eq(empty.worst_layer, -1);
}
END_TEST

/* ---- labels ---- */
static const struct trace_shape shape = {
    .experts = 4, .zero = 1, .topk = 2, .layers = 2, .model_layer = {1, 3}, .model = "tiny"};

START_TEST(label_files) {
    struct labels l;
    static const char text[] = "# where things go\n\ncode * 0,2-3\nfine art 3 1 # two words\ncode 1 1\n";
    ck_assert_msg(labels_parse(&l, &shape, text, "labels", &why) == 0, "%s", why.text);
    ck_assert_int_eq(l.n, 2);
    const bool *e = labels_of(&l, labels_find(&l, "code"), 0);
    ck_assert(e[0] && e[1] && e[2] && e[3]);
    e = labels_of(&l, labels_find(&l, "code"), 1);
    ck_assert(e[0] && !e[1] && e[2] && e[3]);
    ck_assert_ptr_null(labels_of(&l, labels_find(&l, "fine art"), 0));
    ck_assert(labels_of(&l, labels_find(&l, "fine art"), 1)[1]);
    ck_assert_int_eq(labels_find(&l, "prose"), -1);
    labels_clear(&l);
}
END_TEST

START_TEST(wrong_labels) {
    static const struct {
        const char *text, *says;
    } cases[] = {{"code *", "labels:1: wanted three fields"},
                 {"\ncode * 4", "labels:2: 4 in '4': the largest is 3"},
                 {"code 9 1", "the largest is 3"},
                 {"code * 1-", "is not a list"},
                 {"code * 2-1", "is not a list"},
                 {"code * 1,", "is not a list"},
                 {"code * x", "is not a list"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct labels l;
        ck_assert_int_eq(labels_parse(&l, &shape, cases[i].text, "labels", &why), ERR_INVALID);
        ck_assert_msg(strstr(why.text, cases[i].says) != NULL, "'%s' does not say '%s'", why.text, cases[i].says);
    }
}
END_TEST

/* ---- a trace ---- */
/* Four tokens, two of domain 1 ("code"), in two layers; the second choice of token 3 is the expert without weights, token 2 has
 * one choice only. */
static size_t make_trace(uint8_t *at, size_t cap) {
    static const int32_t experts[4][2][2] = {{{0, 1}, {1, 2}}, {{2, 0}, {1, 3}}, {{1, -1}, {1, -1}}, {{3, 4}, {0, 4}}};
    static const float weights[4][2] = {{.4f, .6f}, {.7f, .3f}, {1, 0}, {.5f, .5f}};
    size_t n = TRACE_MAGIC_BYTES, each = trace_row_bytes(&shape);
    memcpy(at, TRACE_MAGIC, n);
    n += trace_make_head(at + n, cap - n, &shape);
    n += trace_make_name(at + n, cap - n, 1, "code");
    n += trace_make_lost(at + n, cap - n, 5);
    trace_put_chunk(at + n, TRACE_ROWS, TRACE_ROWS_HEAD + 4 * each);
    trace_put_rows(at + n + TRACE_CHUNK_HEAD, 0, 4, 1);
    n += TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD;
    for (int t = 0; t < 4; t++, n += each) {
        trace_put_row(at + n, &(struct trace_row){.seq = 1, .token = t, .position = (uint32_t)t, .domain = t < 2});
        for (int l = 0; l < 2; l++) trace_put_cell(at + n, 2, l, (float)t, 0.25f * (float)l, weights[t], experts[t][l]);
    }
    return n + trace_make_end(at + n, cap - n, 4, 5);
}

static void read_trace(struct routing *r, const char *labels) {
    uint8_t bytes[4096];
    FILE *f = fmemopen(bytes, make_trace(bytes, sizeof bytes), "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_msg(routing_read(r, f, labels, "labels", &why) == 0, "%s", why.text);
    fclose(f);
}

START_TEST(traces) {
    struct routing r;
    uint64_t rows[4] = {0}, scratch[4];
    struct routing_layer l = {.rows = rows};
    struct figures f;
    read_trace(&r, NULL);
    ck_assert(r.whole);
    ck_assert_uint_eq(r.tokens, 4);
    ck_assert_uint_eq(r.lost, 5);
    ck_assert_uint_eq(r.domain_tokens[0], 2);
    ck_assert_uint_eq(r.domain_tokens[1], 2);
    ck_assert_str_eq(r.name[1], "code");
    routing_sum(&r, -1, 0, &l); /* layer 0: experts 0 1 | 2 0 | 1 | 3 */
    ck_assert_uint_eq(rows[0], 2);
    ck_assert_uint_eq(rows[1], 2);
    ck_assert_uint_eq(rows[2], 1);
    ck_assert_uint_eq(rows[3], 1);
    ck_assert_uint_eq(l.zero, 1);
    routing_figures(&r, &l, &f, scratch);
    near(f.imb, 2 / 1.5);
    near(f.activation, 6. / 4 / 4);
    near(f.entropy, (0 + 1 + 2 + 3) / 4.);
    near(f.confidence, 0);
    ck_assert_uint_eq(l.judged, 0);
    routing_clear(&r);
}
END_TEST

START_TEST(accuracy) {
    struct routing r;
    uint64_t rows[4] = {0};
    struct routing_layer l = {.rows = rows};
    read_trace(&r, "code 1 1,3\ncode 3 1\nprose * *\n");
    /* Layer 1: token 0 chose 0 (.4) and 1 (.6): the heaviest is expected; token 1 chose 2 (.7) and 0: nothing is. */
    routing_sum(&r, 1, 0, &l);
    ck_assert_uint_eq(l.judged, 2);
    ck_assert_uint_eq(l.right, 1);
    ck_assert_uint_eq(l.pairs, 4);
    ck_assert_uint_eq(l.pairs_right, 1);
    near(l.chance, 2 * 2. / 4);
    /* Layer 3: token 0 chose 1 (.4), 2 (.6): wrong; token 1 chose 1 (.7), 3: right. */
    routing_sum(&r, 1, 1, &l);
    ck_assert_uint_eq(l.judged, 4);
    ck_assert_uint_eq(l.right, 2);
    ck_assert_uint_eq(l.pairs_right, 3);
    near(l.chance, 2 * 2. / 4 + 2 * 1. / 4);
    struct routing_layer untagged = {.rows = rows};
    routing_sum(&r, 0, 0, &untagged);
    ck_assert_uint_eq(untagged.judged, 0);
    routing_clear(&r);
}
END_TEST

RUN("figures", NULL, NULL, one_layer, hot_experts, means_over_layers, label_files, wrong_labels, traces, accuracy)
