/* test_quant.c - quantised weights: what packing makes of numbers, and that every backend gives the bits of ref. */
#include "tests/unit/kernels/kit.h"

#include "kernels/isa.h"
#include "kernels/quant_make.h"
#include "tests/unit/run.h"

static struct backend *ref;

static void open_all(void) {
    kit_seed = 77;
    ref = kit_open("ref", 1);
}

static void close_all(void) {
    backend_close(ref);
    kit_clear(0);
}

/* The number that a code stands for, read as kernels/quant.h describes the layout. */
static double decoded(struct mat m, int row, int col) {
    int J = (m.cols + 31) / 32, panel = row / 16, r = row % 16, g = col / 32, v = col % 32 / 4, byte = 4 * r + col % 4;
    const uint8_t *scales = (const uint8_t *)m.scales + (panel * J + g) * (m.fmt == FMT_Q8 ? 32 : 48), *data = m.data;
    double s = bf16_to_f32((uint16_t)(scales[2 * r] | scales[2 * r + 1] << 8));
    if (m.fmt == FMT_Q8) return s * (data[(panel * J + g) * 512 + v * 64 + byte] - 128);
    int b = data[(panel * J + g) * 256 + v / 2 * 64 + byte];
    return s * (16 * (v % 2 ? b >> 4 : b & 15) - scales[32 + r]);
}

static struct mat packed(enum fmt f, int rows, int cols, const float *x) {
    void *piece = kit_bytes(mat_held_bytes(f, rows, cols, 0));
    for (int i = 0; i < rows; i += 16)
        quant_pack(piece, f, rows, cols, i, rows - i < 16 ? rows - i : 16, x + (int64_t)i * cols);
    return mat_held(piece, f, rows, cols, 0);
}

static void check_packed(enum fmt f, int rows, int cols, float low, float high) {
    int keep = kit_n_rooms;
    float *x = kit_floats((int64_t)rows * cols);
    for (int64_t i = 0; i < (int64_t)rows * cols; i++) x[i] = kit_uniform(low, high);
    struct mat m = packed(f, rows, cols, x);
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < cols; c++) {
            double at = decoded(m, r, c), from = x[(int64_t)r * cols + c], most = 0, least = 0;
            for (int k = c / 32 * 32; k < cols && k < c / 32 * 32 + 32; k++) {
                most = fmax(most, x[(int64_t)r * cols + k]);
                least = fmin(least, x[(int64_t)r * cols + k]);
            }
            double step = f == FMT_Q8 ? fmax(most, -least) / 127 : (most - least) / 15;
            double bound = step * (f == FMT_Q8 ? 0.76 : 1.6) + 1e-30; /* q4 may cut off extremes */
            if (!(fabs(at - from) <= bound) || quant_weight(m, r, c) != (float)at)
                ck_abort_msg("%s %d x %d: at %d,%d %.9g is held as %.9g", fmt_name(f), rows, cols, r, c, from, at);
        }
    }
    kit_clear(keep);
}

START_TEST(packs) {
    static const int shapes[][2] = {{1, 1}, {16, 32}, {17, 33}, {40, 96}, {5, 31}};
    open_all();
    for (int f = FMT_QUANT; f < FMT_QUANT_END; f++) {
        for (unsigned s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            check_packed((enum fmt)f, shapes[s][0], shapes[s][1], -1, 1);
            check_packed((enum fmt)f, shapes[s][0], shapes[s][1], 0, 0);
            check_packed((enum fmt)f, shapes[s][0], shapes[s][1], -3e-9f, 1e-9f);
            check_packed((enum fmt)f, shapes[s][0], shapes[s][1], 1e30f, 2e30f);
            check_packed((enum fmt)f, shapes[s][0], shapes[s][1], -5, -4);
        }
    }
    ck_assert_uint_eq(mat_held_bytes(FMT_Q4, 2048, 1024, 0) * 8, (size_t)2048 * 1024 * 475 / 100);
    ck_assert_uint_eq(mat_held_bytes(FMT_Q8, 2048, 1024, 0) * 8, (size_t)2048 * 1024 * 85 / 10);
    close_all();
}
END_TEST

/* A group and some columns behind it, which take what it leaves. */
static void check_same_toward(const struct quant_maker *const *builds, const struct quant_making *in, enum fmt f) {
    enum { BEHIND = 5, COLS = QUANT_GROUP + BEHIND };
    static _Alignas(64) float want_x[COLS][QUANT_PANEL], got_x[COLS][QUANT_PANEL];
    static float u[COLS][COLS];
    const int left = in->n + BEHIND;
    struct quant_making want = *in, got;
    memcpy(want_x, in->x, sizeof in->x);
    for (int k = 0; k < left; k++)
        for (int j = 0; j < left; j++) u[k][j] = j < k ? 0 : j == k ? 1 + kit_uniform(0, 1) : kit_uniform(-1, 1) / 4;
    memcpy(got_x, want_x, sizeof want_x);
    quant_maker_plain.toward(&want, f, want_x, left, &u[0][0], COLS);
    for (int b = 0; b < 2; b++) {
        static _Alignas(64) float x[COLS][QUANT_PANEL];
        memcpy(x, got_x, sizeof x);
        got = *in;
        builds[b]->toward(&got, f, x, left, &u[0][0], COLS);
        ck_assert(!memcmp(got.code, want.code, sizeof got.code));
        ck_assert(!memcmp(x, want_x, (size_t)left * sizeof *x));
    }
}

/* The builds of quant_make.c for different processors. */
START_TEST(same_numbers) {
    const struct quant_maker *builds[] = {&quant_maker_plain, &quant_maker_plain};
#ifdef __x86_64__
    if (isa_avx2()) builds[0] = &quant_maker_avx2;
    if (isa_avx512()) builds[1] = &quant_maker_avx512;
#endif
    for (int i = 0; i < 4000; i++) {
        struct quant_making in = {.n = 1 + i % QUANT_GROUP}, want, got;
        const float low = kit_uniform(-2, 1), high = low + kit_uniform(0, 2), unit = ldexpf(1, i % 60 - 30);
        for (int k = 0; k < QUANT_GROUP * QUANT_PANEL; k++)
            in.x[k / QUANT_PANEL][k % QUANT_PANEL] = i % 7 || k % 3 ? kit_uniform(low, high) * unit : 0;
        if (i % 50 == 0) in.x[0][i % 16] = i % 100 ? NAN : INFINITY;
        for (int k = 0; k < QUANT_GROUP; k++) in.weight[k] = i % 5 ? 1 : kit_uniform(0, 2);
        want = in;
        quant_maker_plain.make(&want, i % 2 ? FMT_Q8 : FMT_Q4);
        for (int b = 0; b < 2; b++) {
            got = in;
            builds[b]->make(&got, i % 2 ? FMT_Q8 : FMT_Q4);
            for (int r = 0; r < QUANT_PANEL; r++) {
                if (bf16_from_f32(got.scale[r]) != bf16_from_f32(want.scale[r]) || (i % 2 == 0 && got.zero[r] != want.zero[r]))
                    ck_abort_msg("group %d: row %d has scale %.9g, %.9g in plain C", i, r, got.scale[r], want.scale[r]);
            }
            ck_assert(!memcmp(got.code, want.code, sizeof got.code));
        }
        if (i % 50) check_same_toward(builds, &in, i % 2 ? FMT_Q8 : FMT_Q4);
    }
}
END_TEST

/* Root mean square error over that of the numbers themselves, normally distributed as trained weights nearly are. */
static double relative_error(enum fmt f) {
    enum { ROWS = 64, COLS = 512 };
    int keep = kit_n_rooms;
    double error = 0, all = 0;
    float *x = kit_floats((int64_t)ROWS * COLS);
    for (int i = 0; i < ROWS * COLS; i++) {
        float sum = -6;
        for (int j = 0; j < 12; j++) sum += kit_uniform(0, 1);
        x[i] = sum;
    }
    struct mat m = packed(f, ROWS, COLS, x);
    for (int i = 0; i < ROWS * COLS; i++) {
        double d = decoded(m, i / COLS, i % COLS) - (double)x[i];
        error += d * d;
        all += (double)x[i] * x[i];
    }
    kit_clear(keep);
    return sqrt(error / all);
}

/* The bound of q4 is what sixteen levels from the least to the largest would give; the search stays well below. */
START_TEST(errors) {
    open_all();
    ck_assert_double_lt(relative_error(FMT_Q8), 0.0062);
    ck_assert_double_lt(relative_error(FMT_Q4), 0.072);
    close_all();
}
END_TEST

static void check_linear(struct backend *b, enum fmt f, int T, int N, int K, bool with_bias, bool add) {
    int keep = kit_n_rooms;
    struct mat w = kit_matrix(f, N, K, 1);
    float *x = kit_random_floats((int64_t)T * K, 1), *bias = with_bias ? kit_random_floats(N, 1) : NULL;
    float *got = kit_floats((int64_t)T * N), *want = kit_floats((int64_t)T * N);
    for (int64_t i = 0; add && i < (int64_t)T * N; i++) got[i] = want[i] = kit_uniform(-1, 1);
    for (int i = 0; T > 1 && i < K; i += 3) x[i] = 0;
    b->ops->linear(b, got, x, w, bias, add, T);
    ref->ops->linear(ref, want, x, w, bias, add, T);
    for (int64_t i = 0; i < (int64_t)T * N; i++) {
        if (!memcmp(got + i, want + i, sizeof *got)) continue;
        ck_abort_msg("%s: %s T %d N %d K %d: row %d element %d is %.9g, of ref %.9g", b->ops->name, fmt_name(f), T, N, K,
                     (int)(i / N), (int)(i % N), got[i], want[i]);
    }
    kit_clear(keep);
}

START_TEST(linear) {
    static const int Ts[] = {0, 1, 2, 3, 4, 5, 6, 7, 13}, Ns[] = {1, 16, 17, 33, 50, 64}, Ks[] = {1, 4, 31, 32, 33, 97, 160};
    open_all();
    for (int threads = 1; threads <= 3; threads += 2) {
        struct backend *b = kit_open(kit_isas[_i], threads);
        for (int f = FMT_QUANT; b && f < FMT_QUANT_END; f++) {
            for (unsigned t = 0; threads == 1 && t < sizeof Ts / sizeof *Ts; t++) {
                for (unsigned n = 0; n < sizeof Ns / sizeof *Ns; n++) {
                    for (unsigned k = 0; k < sizeof Ks / sizeof *Ks; k++)
                        check_linear(b, (enum fmt)f, Ts[t], Ns[n], Ks[k], (t + n + k) & 1, (t + n) & 2);
                }
            }
            check_linear(b, (enum fmt)f, 1, 1000, 576, false, false);
            check_linear(b, (enum fmt)f, 300, 70, 1000, true, true); /* several row blocks */
            check_linear(b, (enum fmt)f, 700, 3, 9000, true, false); /* more rows than the scratch holds */
            check_linear(b, (enum fmt)f, 2, 17, 30000, true, true);
        }
        backend_close(b);
    }
    close_all();
}
END_TEST

/* What is no number in a row stays in that row, and is not taken for one. */
START_TEST(not_finite) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    open_all();
    struct backend *b = kit_open(kit_isas[_i], 1);
    for (int f = FMT_QUANT; b && f < FMT_QUANT_END; f++) {
        for (int i = 0; i < 3; i++) {
            enum { T = 3, N = 20, K = 70 };
            int keep = kit_n_rooms;
            struct mat w = kit_matrix((enum fmt)f, N, K, 1);
            float *x = kit_random_floats(T * K, 1), *y = kit_floats(T * N), *z = kit_floats(T * N);
            x[K + 65] = bad[i];
            b->ops->linear(b, y, x, w, NULL, false, T);
            ref->ops->linear(ref, z, x, w, NULL, false, T);
            for (int j = 0; j < T * N; j++) ck_assert(j / N == 1 ? isnan(y[j]) && isnan(z[j]) : y[j] == z[j]);
            x[K + 65] = 1;
            float *weights = kit_random_floats(N * K, 1);
            weights[7 * K + 3] = bad[i];
            b->ops->linear(b, y, x, packed((enum fmt)f, N, K, weights), NULL, false, T);
            for (int j = 0; j < T * N; j++) ck_assert(!isnan(y[j]) == (j % N != 7));
            kit_clear(keep);
        }
    }
    backend_close(b);
    close_all();
}
END_TEST

/* The activation's last bit differs from ref's, so a rounded one may be off by a whole step; no more than a few are. */
static void check_near(const float *got, const float *want, int n, int rows) {
    for (int r = 0; r < rows; r++) {
        double error = 0, all = 0;
        for (int i = 0; i < n; i++) {
            double d = (double)got[r * n + i] - (double)want[r * n + i];
            error += d * d;
            all += (double)want[r * n + i] * want[r * n + i];
        }
        ck_assert_msg(error <= 4e-6 * all + 1e-12, "row %d: error %.3g of %.3g", r, sqrt(error), sqrt(all));
    }
}

START_TEST(ffn) {
    static const int shapes[][2] = {/* H I */ {1, 1}, {16, 16}, {33, 5}, {64, 32}, {40, 72}, {96, 130}};
    enum { GROUPS = 5, ROWS = 150 };
    open_all();
    struct backend *b = kit_open(kit_isas[_i], 2);
    for (unsigned s = 0; b && s < sizeof shapes / sizeof *shapes; s++) {
        for (int f = FMT_QUANT; f < FMT_QUANT_END; f++) {
            int keep = kit_n_rooms, H = shapes[s][0], I = shapes[s][1];
            struct ffn experts[GROUPS];
            struct ffn_group groups[GROUPS] = {{&experts[0], 110, 5},
                                               {&experts[1], 0, 100},
                                               {&experts[2], 105, 0},
                                               {&experts[3], 115, 33},
                                               {&experts[4], 100, 2}};
            for (int e = 0; e < GROUPS; e++) {
                experts[e] = (struct ffn){kit_matrix((enum fmt)f, I, H, 1), kit_matrix((enum fmt)f, I, H, 1),
                                          kit_matrix((enum fmt)f, H, I, 1)};
                if (e % 2) continue;
                experts[e].gate_bias = kit_random_floats(I, 1);
                experts[e].up_bias = kit_random_floats(I, 1);
                experts[e].down_bias = kit_random_floats(H, 1);
                experts[e].act = (struct swiglu){.limit = 1.5f, .alpha = 1.702f, .shift = 1};
            }
            experts[3].up = (struct mat){0}; /* low-rank */
            groups[1].add = groups[4].add = true;
            float *x = kit_random_floats((int64_t)ROWS * H, 1), *got = kit_floats((int64_t)ROWS * H);
            float *want = kit_floats((int64_t)ROWS * H);
            for (int64_t i = 0; i < (int64_t)102 * H; i++) got[i] = want[i] = x[i] / 2; /* rows that are added to */
            b->ops->ffn(b, got, x, groups, GROUPS, H);
            b->ops->ffn(b, got, x, &groups[2], 1, H); /* no rows at all */
            ref->ops->ffn(ref, want, x, groups, GROUPS, H);
            check_near(got, want, H, 102);
            check_near(got + (int64_t)110 * H, want + (int64_t)110 * H, H, 38);
            for (int r = 0; r < ROWS; r++) /* rows of no group are left alone */
                ck_assert(isnan(got[r * H]) == (r >= 148 || (r >= 102 && r < 110)));
            kit_clear(keep);
        }
    }
    backend_close(b);
    close_all();
}
END_TEST

START_TEST(embed) {
    enum { V = 37, H = 75, T = 5 };
    static const int32_t ids[T] = {36, 0, 16, 15, 16};
    open_all();
    struct backend *b = kit_open(kit_isas[_i], 2);
    for (int f = FMT_QUANT; b && f < FMT_QUANT_END; f++) {
        struct mat table = kit_matrix((enum fmt)f, V, H, 1);
        float *got = kit_floats(T * H), *want = kit_floats(T * H);
        b->ops->embed(b, got, table, ids, T);
        ref->ops->embed(ref, want, table, ids, T);
        for (int i = 0; i < T * H; i++) ck_assert(got[i] == want[i] && got[i] == (float)decoded(table, ids[i / H], i % H));
    }
    backend_close(b);
    close_all();
}
END_TEST

int main(void) {
    Suite *s = suite_create("quant");
    TCase *c = tcase_create("quant");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, packs);
    tcase_add_test(c, same_numbers);
    tcase_add_test(c, errors);
    tcase_add_loop_test(c, linear, 0, KIT_QUANT_ISAS);
    tcase_add_loop_test(c, not_finite, 0, KIT_QUANT_ISAS);
    tcase_add_loop_test(c, ffn, 0, KIT_QUANT_ISAS);
    tcase_add_loop_test(c, embed, 0, KIT_QUANT_ISAS);
    suite_add_tcase(s, c);
    return run_suite(s);
}
