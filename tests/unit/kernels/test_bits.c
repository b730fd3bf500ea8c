/* test_bits.c - promise 1 where it starts: a row's bits do not depend on what is computed with it.
 *
 * Each case computes some rows in a given order and in blocks of a given size. Its bits when every row is computed alone on
 * one thread must come back for every block size, in another order, on more threads, and from the other instruction set. */
#include "kernels/cpu/vec.h"
#include "kernels/isa.h"
#include "tests/unit/kernels/kit.h"

enum { ROWS = 17 };
static bool all_cuts;

struct cut { /* rows order[0..ROWS) are computed `block` at a time */
    int order[ROWS], block;
};

/* Copies rows of `width` floats in the order of the cut, and back. */
static float *permuted(const float *x, const int *order, int n, int64_t width) {
    float *p = kit_floats(n * width);
    for (int i = 0; i < n; i++) memcpy(p + i * width, x + order[i] * width, (size_t)width * sizeof *p);
    return p;
}

static void put_back(float *all, const float *some, const int *order, int n, int64_t width) {
    for (int i = 0; i < n; i++) memcpy(all + order[i] * width, some + i * width, (size_t)width * sizeof *all);
}

typedef void case_fn(struct backend *b, const int *order, int n, float *out); /* computes rows order[0..n) into out[row] */

/* The data of all cases, the same for every backend. */
enum { H = 96, N = 45, I = 37, EXPERTS = 5, V = 5000, E = 60, K = 7 };
static struct mat weights[FMT_QUANT_END];
static struct ffn experts[EXPERTS], quantised[EXPERTS];
static float *x, *bias, *norm, *logits, *gate_logits, *table;

static void make_data(void) {
    kit_seed = 99;
    for (int f = 0; f < FMT_QUANT_END; f++) weights[f] = kit_matrix((enum fmt)f, N, H, 1);
    for (int e = 0; e < EXPERTS; e++) {
        enum fmt f = e % 2 ? FMT_F32 : FMT_BF16;
        experts[e] = (struct ffn){kit_matrix(f, I, H, 1), kit_matrix(f, I, H, 1), kit_matrix(f, H, I, 1)};
    }
    for (int e = 0; e < EXPERTS; e++) {
        enum fmt f = e % 2 ? FMT_Q4 : FMT_Q8;
        quantised[e] = (struct ffn){kit_matrix(f, I, H, 1), kit_matrix(f, I, H, 1), kit_matrix(f, H, I, 1)};
    }
    experts[3].up = quantised[3].up = (struct mat){0}; /* low-rank */
    quantised[4].act = (struct swiglu){1.5f, 1.702f, 1};
    x = kit_random_floats(ROWS * H, 1);
    bias = kit_random_floats(N, 1);
    norm = kit_random_floats(H, 1);
    logits = kit_random_floats((int64_t)ROWS * V, 9);
    gate_logits = kit_random_floats((int64_t)ROWS * E, 3);
    table = kit_random_floats(64 * H, 1);
}

static void linear_of(struct backend *b, const int *order, int n, float *out, enum fmt f) {
    float *in = permuted(x, order, n, H), *y = kit_floats((int64_t)n * N);
    for (int i = 0; i < n * N; i++) y[i] = 0.5f;
    b->ops->linear(b, y, in, weights[f], bias, true, n);
    put_back(out, y, order, n, N);
}
static void linear_f32(struct backend *b, const int *order, int n, float *out) { linear_of(b, order, n, out, FMT_F32); }
static void linear_bf16(struct backend *b, const int *order, int n, float *out) { linear_of(b, order, n, out, FMT_BF16); }
static void linear_fp8(struct backend *b, const int *order, int n, float *out) { linear_of(b, order, n, out, FMT_FP8); }
static void linear_mxfp4(struct backend *b, const int *order, int n, float *out) { linear_of(b, order, n, out, FMT_MXFP4); }
static void linear_q8(struct backend *b, const int *order, int n, float *out) { linear_of(b, order, n, out, FMT_Q8); }
static void linear_q4(struct backend *b, const int *order, int n, float *out) { linear_of(b, order, n, out, FMT_Q4); }

static void rmsnorm(struct backend *b, const int *order, int n, float *out) {
    float *in = permuted(x, order, n, H);
    b->ops->rmsnorm(b, in, H, in, H, norm, 1e-6f, n, H);
    put_back(out, in, order, n, H);
}

static void rope_of(struct backend *b, const int *order, int n, float *out, bool pairs) {
    float *in = permuted(x, order, n, H);
    b->ops->rope(b, in, order, table, 18, pairs, n, 3, H / 3); /* the position is the row */
    put_back(out, in, order, n, H);
}
static void rope(struct backend *b, const int *order, int n, float *out) { rope_of(b, order, n, out, false); }
static void rope_pairs(struct backend *b, const int *order, int n, float *out) { rope_of(b, order, n, out, true); }

static void add_gated(struct backend *b, const int *order, int n, float *out) {
    float *y = permuted(x, order, n, H), *more = permuted(x, order, n, H), *gate = permuted(gate_logits, order, n, 1);
    b->ops->add(b, y, more, gate, n, H);
    b->ops->clamp(b, y, 0.9f, (int64_t)n * H);
    put_back(out, y, order, n, H);
}

/* Each row goes through one expert; rows of an expert that follow one another are a group. */
static void ffn_of(struct backend *b, const int *order, int n, float *out, const struct ffn *of) {
    float *in = permuted(x, order, n, H), *y = kit_floats((int64_t)n * H);
    struct ffn_group groups[ROWS];
    int count = 0;
    for (int i = 0; i < n; i++) {
        const struct ffn *f = &of[order[i] % 4 == 3 ? order[i] % EXPERTS : 0];
        if (count && groups[count - 1].weights == f) groups[count - 1].count++;
        else groups[count++] = (struct ffn_group){f, i, 1};
    }
    struct ffn_group shared = {&of[1], 0, n}; /* what all have in common, then each its own */
    b->ops->ffn(b, y, in, &shared, 1, H);
    for (int g = 0; g < count; g++) groups[g].add = true;
    b->ops->ffn(b, y, in, groups, count, H);
    put_back(out, y, order, n, H);
}
static void ffn(struct backend *b, const int *order, int n, float *out) { ffn_of(b, order, n, out, experts); }
static void ffn_quant(struct backend *b, const int *order, int n, float *out) { ffn_of(b, order, n, out, quantised); }

static void dots(struct backend *b, const int *order, int n, float *out) {
    float *in = permuted(x, order, n, H), *both = kit_floats(n * 2);
    b->ops->dots(b, both, 2, in, in, H, 0.5f, n, H);
    b->ops->dots(b, both + 1, 2, in, norm, 0, 3, n, H);
    put_back(out, both, order, n, 2);
}

static void fuse(struct backend *b, const int *order, int n, float *out) {
    struct fuse_rule rule = {2, 1, 0, 0.7f};
    float *said = permuted(gate_logits, order, n, 2 * K), *w = permuted(logits, order, n, K);
    for (int i = 0; i < n * K; i++) w[i] = fabsf(w[i]);
    b->ops->fuse(b, w, said, &rule, n, K);
    put_back(out, w, order, n, K);
}

static void gate_select(struct backend *b, const int *order, int n, float *out) {
    struct gate_rule rule = {GATE_SOFTMAX, GATE_WEIGHT_SCORE, GATE_NORM_SUM, 0, 1, E, K};
    float *in = permuted(gate_logits, order, n, E), *both = kit_floats(n * 2 * K), *w = kit_floats(n * K);
    int32_t *ids = kit_bytes((size_t)(n * K) * sizeof *ids);
    b->ops->gate_select(b, ids, w, in, NULL, &rule, n);
    for (int i = 0; i < n * K; i++) {
        both[i / K * 2 * K + i % K] = (float)ids[i];
        both[i / K * 2 * K + K + i % K] = w[i];
    }
    put_back(out, both, order, n, 2 * K);
}

static void combine(struct backend *b, const int *order, int n, float *out) {
    float *y = kit_floats(n * H);
    const float *rows[ROWS * 4];
    for (int i = 0; i < n * 4; i++) rows[i] = x + (order[i / 4] + i % 4) % ROWS * H;
    b->ops->combine(b, y, rows, permuted(gate_logits, order, n, 4), n, 4, H);
    put_back(out, y, order, n, H);
}

static void logit_stats(struct backend *b, const int *order, int n, float *out) {
    struct logit_stats s[ROWS];
    float flat[ROWS * 3];
    b->ops->logit_stats(b, s, permuted(logits, order, n, V), n, V);
    for (int i = 0; i < n; i++) flat[3 * i] = s[i].max, flat[3 * i + 1] = s[i].lse, flat[3 * i + 2] = (float)s[i].argmax;
    put_back(out, flat, order, n, 3);
}

/* Row r < 10 is position r + 30 of sequence 0 (a chunk), 10..13 positions 2.. of sequence 1, the rest far ones of others:
 * prefill and decode of the same rows differ only in the cut. */
enum { Q = 6, G = 2, D = 20, P = 8, SEQUENCES = 5, MAX_PAGES = 20, LATENT = 18, LATENT_WIDTH = 63 };

static void attention_of(struct backend *b, const int *order, int n, float *out, enum fmt f, int window, const float *sinks,
                         bool latent) {
    static const int seq_of[ROWS] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 4};
    static const int pos_of[ROWS] = {30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 2, 3, 4, 5, 0, 100, 159};
    struct kv_layer kv = {.fmt = f, .page_tokens = P, .heads = latent ? 1 : G, .head_dim = D, .latent = latent ? LATENT : 0};
    const int value = kv_value_dim(&kv);
    kv.base = kit_bytes((size_t)(SEQUENCES * MAX_PAGES) * kv_page_bytes(&kv));
    int32_t pages[SEQUENCES * MAX_PAGES], pos[ROWS], seq[ROWS];
    for (int i = 0; i < SEQUENCES * MAX_PAGES; i++) pages[i] = (i * 13 + 5) % (SEQUENCES * MAX_PAGES);
    kit_seed = 7;
    for (int s = 0; s < SEQUENCES; s++) {
        int keys = s == 0 ? 40 : s == 1 ? 6 : s == 2 ? 1 : 160, keep = kit_n_rooms;
        float *k = kit_random_floats((int64_t)keys * G * D, 1), *v = kit_random_floats((int64_t)keys * G * D, 1);
        int32_t at[160];
        for (int i = 0; i < keys; i++) at[i] = pages[s * MAX_PAGES + i / P] * P + i % P;
        b->ops->kv_store(b, &kv, k, v, at, keys);
        kit_clear(keep);
    }
    float *all = kit_random_floats((int64_t)ROWS * Q * D, 2), *q = permuted(all, order, n, Q * D);
    float *y = kit_floats((int64_t)n * Q * value);
    for (int i = 0; i < n; i++) pos[i] = pos_of[order[i]], seq[i] = seq_of[order[i]];
    struct attention a = {q, y, n, Q, 0.3f, window, pos, seq, pages, MAX_PAGES, sinks, window ? 3 * window : 0};
    b->ops->attention(b, &kv, &a);
    put_back(out, y, order, n, Q * value);
}
static void attention_f32(struct backend *b, const int *order, int n, float *out) {
    attention_of(b, order, n, out, FMT_F32, 0, NULL, false);
}
static void attention_bf16(struct backend *b, const int *order, int n, float *out) {
    attention_of(b, order, n, out, FMT_BF16, 0, NULL, false);
}
static void attention_f16(struct backend *b, const int *order, int n, float *out) {
    attention_of(b, order, n, out, FMT_F16, 11, NULL, false);
}
static void attention_int8(struct backend *b, const int *order, int n, float *out) {
    attention_of(b, order, n, out, FMT_INT8, 0, NULL, false);
}
static void attention_int8_latent(struct backend *b, const int *order, int n, float *out) {
    attention_of(b, order, n, out, FMT_INT8, 0, NULL, true);
}
static void attention_window(struct backend *b, const int *order, int n, float *out) {
    attention_of(b, order, n, out, FMT_BF16, 11, NULL, false);
}
static void attention_sinks(struct backend *b, const int *order, int n, float *out) {
    static const float sinks[Q] = {-3, 0, 0.5f, 2, 7, 40};
    attention_of(b, order, n, out, FMT_BF16, 40, sinks, false);
}
static void attention_latent(struct backend *b, const int *order, int n, float *out) {
    attention_of(b, order, n, out, FMT_BF16, 0, NULL, true);
}

/* Three heads of the row's 72 elements as keys with and without a position, and the way back. */
static void latent_heads(struct backend *b, const int *order, int n, float *out) {
    enum { HEADS = 3, ROPE = 6, RANK = 50, VALUE = 21 };
    const int nope = H / HEADS - ROPE;
    kit_seed = 11;
    struct latent_heads m = {kit_matrix(FMT_BF16, HEADS * (nope + VALUE), RANK, 1), HEADS, nope, ROPE, VALUE};
    float *q = kit_floats((int64_t)n * HEADS * (RANK + ROPE)), *in = permuted(x, order, n, H);
    float *u = kit_floats((int64_t)n * HEADS * RANK), *y = kit_floats((int64_t)n * HEADS * VALUE);
    b->ops->latent_query(b, q, in, &m, n);
    for (int i = 0; i < n * HEADS; i++) memcpy(u + (int64_t)i * RANK, q + (int64_t)i * (RANK + ROPE), RANK * sizeof *u);
    b->ops->latent_value(b, y, u, &m, n);
    put_back(out, y, order, n, LATENT_WIDTH);
}

static const struct {
    const char *name;
    case_fn *fn;
    int width; /* floats per row */
} cases[] = {
    {"linear f32", linear_f32, N},
    {"linear bf16", linear_bf16, N},
    {"linear fp8", linear_fp8, N},
    {"linear mxfp4", linear_mxfp4, N},
    {"linear quantised, q8", linear_q8, N},
    {"linear quantised, q4", linear_q4, N},
    {"rmsnorm", rmsnorm, H},
    {"rope", rope, H},
    {"rope_pairs", rope_pairs, H},
    {"add", add_gated, H},
    {"ffn", ffn, H},
    {"ffn quantised", ffn_quant, H},
    {"dots", dots, 2},
    {"fuse", fuse, K},
    {"gate_select", gate_select, 2 * K},
    {"combine", combine, H},
    {"logit_stats", logit_stats, 3},
    {"attention f32", attention_f32, Q * D},
    {"attention bf16", attention_bf16, Q * D},
    {"attention f16", attention_f16, Q * D},
    {"attention int8", attention_int8, Q * D},
    {"attention latent, int8", attention_int8_latent, Q * LATENT},
    {"attention window", attention_window, Q * D},
    {"attention sinks", attention_sinks, Q * D},
    {"attention latent", attention_latent, Q * LATENT},
    {"latent heads", latent_heads, LATENT_WIDTH},
};
enum { CASES = sizeof cases / sizeof *cases };

static float *compute(struct backend *b, int c, const struct cut *cut) {
    float *out = kit_floats((int64_t)ROWS * cases[c].width);
    for (int i = 0; i < ROWS; i += cut->block) {
        int keep = kit_n_rooms, n = ROWS - i < cut->block ? ROWS - i : cut->block;
        cases[c].fn(b, cut->order + i, n, out);
        kit_clear(keep);
    }
    return out;
}

static void check_bits(const float *got, const float *want, int c, const char *isa, int threads, const struct cut *cut) {
    for (int i = 0; i < ROWS * cases[c].width; i++) {
        ck_assert_msg(!memcmp(got + i, want + i, sizeof *got),
                      "%s: row %d element %d differs with %s, %d threads, blocks of %d%s: %.9g, alone %.9g", cases[c].name,
                      i / cases[c].width, i % cases[c].width, isa, threads, cut->block, cut->order[0] ? " permuted" : "",
                      got[i], want[i]);
    }
}

/* One thread cuts rows in every way; more of them share out what it does, by rows and by columns: a block that leaves each some
 * rows, one that leaves some none, and a few odd ones. All of them with --all. */
static bool is_worth_it(int threads, int block) {
    return all_cuts || threads == 1 || block == ROWS || block == 9 || block == 5 || block == 2;
}

START_TEST(same_bits) {
    struct cut alone = {.block = 1};
    float *want = NULL;
    for (int i = 0; i < ROWS; i++) alone.order[i] = i;
    make_data();
    const bool third = strstr(cases[_i].name, "quantised");
    for (int isa = 0; isa < (third ? (int)KIT_QUANT_ISAS : (int)KIT_ISAS); isa++) {
        for (int threads = 1; threads <= 4; threads++) {
            struct backend *b = kit_open(kit_isas[isa], threads);
            if (!b) continue;
            if (!want) want = compute(b, _i, &alone);
            for (int permute = 0; permute < 2; permute++) {
                for (int block = 1; block <= ROWS; block++) {
                    if (!is_worth_it(threads, block)) continue;
                    int keep = kit_n_rooms;
                    struct cut cut = {.block = block};
                    for (int i = 0; i < ROWS; i++) cut.order[i] = permute ? (i * 5 + 3) % ROWS : i;
                    check_bits(compute(b, _i, &cut), want, _i, kit_isas[isa], threads, &cut);
                    kit_clear(keep);
                }
            }
            backend_close(b);
        }
    }
    kit_clear(0);
}
END_TEST

/* Tasks of real size: several column blocks, row blocks and FFN rounds, so that threads do share the work. */
START_TEST(same_bits_large) {
    enum { T = 70, LH = 320, LN = 1100, LI = 700 };
    kit_seed = 4;
    struct mat w = kit_matrix(FMT_BF16, LN, LH, 1);
    struct ffn f = {kit_matrix(FMT_BF16, LI, LH, 0.1f), kit_matrix(FMT_BF16, LI, LH, 0.1f), kit_matrix(FMT_BF16, LH, LI, 0.1f)};
    float *in = kit_random_floats((int64_t)T * LH, 1), *y = kit_floats((int64_t)T * LN), *z = kit_floats((int64_t)T * LH);
    float *want_y = NULL, *want_z = NULL;
    for (int isa = 0; isa < KIT_ISAS; isa++) {
        for (int threads = 1; threads <= 4; threads++) {
            struct backend *b = kit_open(kit_isas[isa], threads);
            if (!b) continue;
            if (!want_y) {
                want_y = kit_floats((int64_t)T * LN);
                want_z = kit_floats((int64_t)T * LH);
                for (int t = 0; t < T; t++) {
                    b->ops->linear(b, want_y + (int64_t)t * LN, in + (int64_t)t * LH, w, NULL, false, 1);
                    b->ops->ffn(b, want_z + (int64_t)t * LH, in + (int64_t)t * LH, &(struct ffn_group){&f, 0, 1}, 1, LH);
                }
            }
            struct ffn_group groups[] = {{&f, 0, 3}, {&f, 3, 60}, {&f, 63, 7}};
            b->ops->linear(b, y, in, w, NULL, false, T);
            b->ops->ffn(b, z, in, groups, 3, LH);
            ck_assert(!memcmp(y, want_y, sizeof(float) * T * LN));
            ck_assert(!memcmp(z, want_z, sizeof(float) * T * LH));
            backend_close(b);
        }
    }
    kit_clear(0);
}
END_TEST

/* The exponential under softmax, silu and log probabilities: 2 units in the last place, and the same in all tables. */
START_TEST(exponential) {
#ifdef __x86_64__
    if (!isa_avx2()) return;
    const bool both = isa_avx512();
    for (double at = -110; at < 88.3; at += 0.00173) {
        float in = (float)at, got = vec_avx2.sum_exp(&in, 0, 1);
        double exact = exp(in), ulp = ldexp(1, ilogb(exact) - 23);
        if (in < -87.33f) ck_assert_float_eq(got, 0);
        else ck_assert_msg(fabs(got - exact) <= 2 * ulp, "exp(%.9g) = %.9g, exactly %.12g", in, got, exact);
        if (!both) continue;
        float other = vec_avx512.sum_exp(&in, 0, 1);
        ck_assert(!memcmp(&got, &other, sizeof got));
    }
    float odd[] = {0, -INFINITY, NAN};
    ck_assert_float_eq(vec_avx2.sum_exp(&odd[0], 0, 1), 1);
    ck_assert_float_eq(vec_avx2.sum_exp(&odd[1], 0, 1), 0);
    ck_assert(isnan(vec_avx2.sum_exp(&odd[2], 0, 1)));
#endif
}
END_TEST

int main(int argc, char **argv) {
    all_cuts = argc > 1 && !strcmp(argv[1], "--all");
    Suite *s = suite_create("bits");
    TCase *c = tcase_create("bits");
    tcase_set_timeout(c, 100);
    tcase_add_loop_test(c, same_bits, 0, CASES);
    tcase_add_test(c, same_bits_large);
    tcase_add_test(c, exponential);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
