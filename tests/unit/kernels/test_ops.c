/* test_ops.c - every operation of every instruction set against ref, over odd shapes, with error bounds from the arithmetic.
 *
 * A bound is what rounding alone may cost (kit_sum_error, carried through the operation), so a wrong element cannot hide in a
 * tolerance chosen by hand. */
#include "tests/unit/kernels/pair.h"

static void check_linear(enum fmt fmt, int T, int N, int K, bool with_bias, bool add) {
    int keep = kit_n_rooms;
    struct mat w = kit_matrix(fmt, N, K, 1);
    float *x = kit_random_floats((int64_t)T * K, 1), *bias = with_bias ? kit_random_floats(N, 1) : NULL;
    float *got = kit_floats((int64_t)T * N), *want = kit_floats((int64_t)T * N);
    for (int64_t i = 0; add && i < (int64_t)T * N; i++) got[i] = want[i] = kit_uniform(-1, 1);
    ref->ops->linear(ref, want, x, w, bias, add, T);
    fast->ops->linear(fast, got, x, w, bias, add, T);
    for (int t = 0; t < T; t++) {
        for (int n = 0; n < N; n++) {
            double magnitude = 2;
            for (int k = 0; k < K; k++) magnitude += fabs(x[(int64_t)t * K + k] * kit_weight(w, n, k));
            int64_t i = (int64_t)t * N + n;
            NEAR(got[i], want[i], kit_sum_error(K, magnitude), "linear %s T %d N %d K %d at %d,%d", fmt_name(fmt), T, N, K, t,
                 n);
        }
    }
    kit_clear(keep);
}

START_TEST(linear) {
    open_isa(_i);
    static const int Ts[] = {0, 1, 2, 3, 4, 5, 6, 7, 13}, Ns[] = {1, 2, 3, 4, 5, 7, 8, 9, 12, 17, 33},
                     Ks[] = {1, 2, 8, 15, 16, 17, 31, 32, 72, 96, 97};
    for (int f = 0; fast && f < FMT_QUANT; f++) {
        for (unsigned t = 0; t < sizeof Ts / sizeof *Ts; t++) {
            for (unsigned n = 0; n < sizeof Ns / sizeof *Ns; n++) {
                for (unsigned k = 0; k < sizeof Ks / sizeof *Ks; k++) {
                    if (f == FMT_MXFP4 && Ks[k] % MXFP4_BLOCK) continue;
                    check_linear((enum fmt)f, Ts[t], Ns[n], Ks[k], (t + n + k) & 1, (t + n) & 2);
                }
            }
        }
        check_linear((enum fmt)f, 1, 1000, 576, false, false);
        check_linear((enum fmt)f, 150, 100, f == FMT_MXFP4 ? 576 : 577, true, true); /* several row blocks and strips */
        check_linear((enum fmt)f, 9, 7, 12000, true, true); /* too wide to expand */
        check_linear((enum fmt)f, 3, 5, 8192, false, false);
        check_linear((enum fmt)f, 1, 0, 16, false, false);
    }
    close_isa();
}
END_TEST

START_TEST(rmsnorm) {
    open_isa(_i);
    for (int N = 1; fast && N < 200; N += N < 40 ? 1 : 53) {
        int T = N % 4, keep = kit_n_rooms, stride = N + 3;
        float *x = kit_random_floats((int64_t)T * stride, 2), *w = kit_random_floats(N, 1);
        float *got = kit_floats((int64_t)T * N), *want = kit_floats((int64_t)T * N);
        ref->ops->rmsnorm(ref, want, N, x, stride, w, 1e-5f, T, N);
        fast->ops->rmsnorm(fast, got, N, x, stride, w, 1e-5f, T, N);
        for (int i = 0; i < T * N; i++) NEAR(got[i], want[i], (N / 16 + 12) * 0x1p-24 * fabs(want[i]), "rmsnorm N %d", N);
        fast->ops->rmsnorm(fast, x, stride, x, stride, w, 1e-5f, T, N); /* in place */
        for (int t = 0; t < T; t++) ck_assert(!memcmp(x + t * stride, got + t * N, (size_t)N * sizeof *x));
        kit_clear(keep);
    }
    close_isa();
}
END_TEST

START_TEST(rope) {
    open_isa(_i);
    for (int half = 0; fast && half < 70; half += half < 34 ? 1 : 11) {
        int keep = kit_n_rooms, T = 3, heads = 2, D = 2 * half + half % 3, positions = 9;
        if (D == 0) continue;
        float *got = kit_random_floats((int64_t)T * heads * D, 1), *want = kit_floats((int64_t)T * heads * D);
        float *table = kit_random_floats((int64_t)positions * half * 2, 1);
        int32_t pos[] = {8, 0, 5};
        memcpy(want, got, (size_t)(T * heads * D) * sizeof *got);
        for (int pairs = 0; pairs < 2; pairs++) {
            ref->ops->rope(ref, want, pos, table, 2 * half, pairs, T, heads, D);
            fast->ops->rope(fast, got, pos, table, 2 * half, pairs, T, heads, D);
            for (int i = 0; i < T * heads * D; i++) NEAR(got[i], want[i], 8 * 0x1p-24, "rope half %d at %d", half, i);
        }
        kit_clear(keep);
    }
    close_isa();
}
END_TEST

static double activated(struct swiglu a, double g, double u) {
    if (!(a.limit > 0)) return g / (1 + exp(-g)) * u;
    g = fmin(g, a.limit);
    return g / (1 + exp(-a.alpha * g)) * (fmax(-a.limit, fmin(u, a.limit)) + a.shift);
}

/* What the rounding of gate and up products does to a row's activations, and these: both without sign, [I]. */
static void activation_bounds(const struct ffn *f, const float *x, double *error, double *size) {
    int H = f->gate.cols, I = f->gate.rows;
    for (int i = 0; i < I; i++) {
        double g = f->gate_bias ? f->gate_bias[i] : 0, u = f->up_bias ? f->up_bias[i] : 0, ga = fabs(g), ua = fabs(u);
        for (int k = 0; k < H; k++) {
            g += x[k] * kit_weight(f->gate, i, k), ga += fabs(x[k] * kit_weight(f->gate, i, k));
            if (f->up.data) u += x[k] * kit_weight(f->up, i, k), ua += fabs(x[k] * kit_weight(f->up, i, k));
        }
        if (!f->up.data) u = 1;
        double out = f->up.data ? activated(f->act, g, u) : g;
        double per_up = f->up.data ? fabs(activated(f->act, g, 1) - activated(f->act, g, 0)) : 0;
        double steep = 1.2 * (f->act.alpha > 1 ? f->act.alpha : 1); /* of the gate's curve, at most */
        error[i] = steep * kit_sum_error(H, ga) * (fabs(u) + fabs(f->act.shift)) + per_up * kit_sum_error(H, ua) +
                   16 * 0x1p-24 * fabs(out);
        size[i] = fabs(out);
    }
}

/* That, and the down product's own rounding. */
static double ffn_bound(const struct ffn *f, const double *error, const double *size, int h) {
    double spread = 0, magnitude = 0;
    int I = f->gate.rows;
    for (int i = 0; i < I; i++) {
        double down = fabs(kit_weight(f->down, h, i));
        spread += down * error[i];
        magnitude += down * size[i];
    }
    if (f->down_bias) magnitude += fabs(f->down_bias[h]);
    return spread + kit_sum_error(I, magnitude) + 1e-30 + I * 0x1p-23 * magnitude; /* ref itself adds in f32 */
}

START_TEST(ffn) {
    open_isa(_i);
    static const int shapes[][2] = {/* H I */ {1, 1}, {16, 16}, {17, 5}, {40, 72}, {64, 33}, {96, 130}, {64, 96}};
    for (unsigned s = 0; fast && s < sizeof shapes / sizeof *shapes; s++) {
        for (int f = 0; f < FMT_QUANT; f++) {
            if (f == FMT_MXFP4 && (shapes[s][0] % MXFP4_BLOCK || shapes[s][1] % MXFP4_BLOCK)) continue;
            enum { GROUPS = 5, ROWS = 90, MAX_I = 130 };
            int keep = kit_n_rooms, H = shapes[s][0], I = shapes[s][1];
            struct ffn experts[GROUPS];
            struct ffn_group groups[GROUPS] = {
                {&experts[0], 60, 5}, {&experts[1], 0, 50}, {&experts[2], 55, 0}, {&experts[3], 65, 13}, {&experts[4], 50, 2}};
            for (int e = 0; e < GROUPS; e++) {
                experts[e] = (struct ffn){kit_matrix((enum fmt)f, I, H, 1), kit_matrix((enum fmt)f, I, H, 1),
                                          kit_matrix((enum fmt)f, H, I, 1)};
                if (e % 2) continue; /* the others clamp (a limit that some values meet) and have biases */
                experts[e].gate_bias = kit_random_floats(I, 1);
                experts[e].up_bias = kit_random_floats(I, 1);
                experts[e].down_bias = kit_random_floats(H, 1);
                experts[e].act = (struct swiglu){.limit = 1.5f, .alpha = 1.702f, .shift = 1};
            }
            experts[3].up = (struct mat){0}; /* low-rank */
            groups[1].add = groups[4].add = true;
            float *x = kit_random_floats((int64_t)ROWS * H, 1), *got = kit_floats((int64_t)ROWS * H);
            float *want = kit_floats((int64_t)ROWS * H);
            for (int g = 0; g < GROUPS; g++) { /* what is added to; the others' rows are set, not read */
                for (int64_t i = (int64_t)groups[g].first * H; groups[g].add && i < (groups[g].first + groups[g].count) * H;
                     i++) {
                    got[i] = want[i] = x[i] / 2;
                }
            }
            fast->ops->ffn(fast, got, x, groups, GROUPS, H);
            ref->ops->ffn(ref, want, x, groups, GROUPS, H);
            for (int g = 0; g < GROUPS; g++) {
                for (int r = groups[g].first; r < groups[g].first + groups[g].count; r++) {
                    double error[MAX_I], size[MAX_I];
                    activation_bounds(groups[g].weights, x + (int64_t)r * H, error, size);
                    for (int h = 0; h < H; h++) {
                        int64_t i = (int64_t)r * H + h;
                        double bound = ffn_bound(groups[g].weights, error, size, h);
                        if (groups[g].add) bound += I * 0x1p-23; /* ref rounds after every neuron, beside |y| <= 1/2 */
                        NEAR(got[i], want[i], bound, "ffn H %d I %d row %d", H, I, r);
                        got[i] = NAN;
                    }
                }
            }
            for (int64_t i = 0; i < (int64_t)ROWS * H; i++) ck_assert_msg(isnan(got[i]), "a row in no group was written");
            fast->ops->ffn(fast, got, x, groups, 0, H);
            kit_clear(keep);
        }
    }
    close_isa();
}
END_TEST

START_TEST(dots_and_fuse) {
    open_isa(_i);
    static const int sizes[] = {1, 15, 16, 17, 64, 129};
    for (unsigned s = 0; fast && s < sizeof sizes / sizeof *sizes; s++) {
        enum { T = 70, K = 5, X = 3 };
        int keep = kit_n_rooms, N = sizes[s];
        float *x = kit_random_floats((int64_t)T * N, 1), *y = kit_random_floats((int64_t)T * N, 1);
        float *got = kit_floats(T * X), *want = kit_floats(T * X);
        for (int one = 0; one < 2; one++) {
            fast->ops->dots(fast, got + one, X, x, y, one ? 0 : N, 0.3f, T, N);
            ref->ops->dots(ref, want + one, X, x, y, one ? 0 : N, 0.3f, T, N);
            for (int t = 0; t < T; t++) {
                double size = 0;
                for (int i = 0; i < N; i++) size += fabs(0.3 * x[t * N + i] * y[(one ? 0 : t * N) + i]);
                NEAR(got[t * X + one], want[t * X + one], kit_sum_error(N, size) + 1e-6 * size, "dots N %d row %d", N, t);
                ck_assert_msg(isnan(got[t * X + 2]), "dots wrote beside its column");
            }
        }
        float *said = kit_random_floats(T * K * X, 4), *w = kit_random_floats(T * K, 1), *v = kit_floats(T * K);
        for (int i = 0; i < T * K; i++) v[i] = w[i] = i % 7 ? fabsf(w[i]) : 0;
        struct fuse_rule rule = {X, 2, 0, s % 2 ? 1.3f : 0};
        fast->ops->fuse(fast, w, said, &rule, T, K);
        ref->ops->fuse(ref, v, said, &rule, T, K);
        for (int i = 0; i < T * K; i++) NEAR(w[i], v[i], 4e-6 * (1 + v[i]), "fuse row %d, %d", i / K, i % K);
        kit_clear(keep);
    }
    close_isa();
}
END_TEST

START_TEST(ffn_in_rounds) { /* more activations than the scratch holds: 3000 rows of 1000 neurons */
    open_isa(_i);
    if (fast) {
        enum { H = 4, I = 1000, ROWS = 3000 };
        struct ffn e = {kit_matrix(FMT_BF16, I, H, 1), kit_matrix(FMT_BF16, I, H, 1), kit_matrix(FMT_BF16, H, I, 1)};
        float *x = kit_random_floats((int64_t)ROWS * H, 1), *all = kit_floats((int64_t)ROWS * H), *one = kit_floats(H);
        struct ffn_group g[] = {{&e, 0, 1}, {&e, 1, ROWS - 1}};
        fast->ops->ffn(fast, all, x, g, 2, H);
        for (int r = 0; r < ROWS; r += 97) {
            struct ffn_group alone = {&e, 0, 1};
            fast->ops->ffn(fast, one, x + (int64_t)r * H, &alone, 1, H);
            ck_assert(!memcmp(one, all + (int64_t)r * H, sizeof(float) * H));
        }
    }
    close_isa();
}
END_TEST

static void check_gate(struct gate_rule rule, bool biased, int T) {
    int keep = kit_n_rooms, E = gate_width(&rule), k = rule.k;
    float *logits = kit_floats((int64_t)T * E), *bias = biased ? kit_floats(E) : NULL;
    /* Logits on a coarse grid: many exact ties, and different scores far apart compared with rounding. The bias keeps ties. */
    for (int i = 0; i < T * E; i++) logits[i] = (float)((int)(kit_random() % 17) - 8) / 4;
    for (int e = 0; biased && e < E; e++) bias[e] = (float)(kit_random() % 2) * 16;
    int32_t *got = kit_bytes((size_t)(T * k) * 4), *want = kit_bytes((size_t)(T * k) * 4);
    float *gw = kit_floats((int64_t)T * k), *ww = kit_floats((int64_t)T * k);
    fast->ops->gate_select(fast, got, gw, logits, bias, &rule, T);
    ref->ops->gate_select(ref, want, ww, logits, bias, &rule, T);
    for (int i = 0; i < T * k; i++) {
        if (!biased || rule.score == GATE_RAW) ck_assert_int_eq(got[i], want[i]);
        NEAR(gw[i], ww[i], (E / 16 + 40) * 0x1p-24 * fabs(ww[i]) + (rule.score == GATE_RAW ? 1e-5 : 1e-30),
             "gate weight %d of E %d k %d", i, E, k);
        for (int j = i / k * k; j < i; j++) ck_assert_int_ne(got[i], got[j]);
    }
    kit_clear(keep);
}

START_TEST(gate_select) {
    open_isa(_i);
    static const int sizes[][2] = {{1, 1}, {8, 2}, {15, 15}, {60, 4}, {64, 8}, {128, 8}, {257, 33}, {1024, 32}};
    for (unsigned i = 0; fast && i < sizeof sizes / sizeof *sizes; i++) {
        for (int score = GATE_SOFTMAX; score <= GATE_RAW; score++) {
            for (int norm = GATE_NORM_NONE; norm <= GATE_NORM_SOFTMAX; norm++) {
                if (score == GATE_RAW && norm == GATE_NORM_SUM) continue; /* a sum that may cancel: no such family */
                struct gate_rule rule = {
                    (enum gate_score)score, GATE_WEIGHT_SCORE, (enum gate_norm)norm, 1e-20f, 2.5f, sizes[i][0], sizes[i][1]};
                check_gate(rule, false, i % 2 ? 3 : 11);
                if (score == GATE_RAW) check_gate(rule, true, 2);
                rule.weight = GATE_WEIGHT_ONE;
                check_gate(rule, false, 1);
            }
        }
    }
    close_isa();
}
END_TEST

/* Every group rule, with and without a bias that empties groups, over sizes that leave tails; identity experts beside the
 * others. */
START_TEST(gate_groups) {
    open_isa(_i);
    static const int sizes[][4] = {{2, 1, 1, 1},   {6, 3, 2, 3},      {64, 8, 3, 6},  {160, 8, 3, 6},
                                   {256, 8, 4, 8}, {1024, 64, 1, 16}, {51, 17, 5, 15}};
    for (unsigned i = 0; fast && i < sizeof sizes / sizeof *sizes; i++) {
        for (int variant = 0; variant < 8; variant++) {
            const int *z = sizes[i];
            struct gate_rule rule = {.score = GATE_RAW, .norm = GATE_NORM_NONE, .scale = 1, .experts = z[0], .k = z[3]};
            rule.group = variant & 1 ? GATE_GROUP_MAX : GATE_GROUP_TOP2SUM;
            rule.group_fill = variant & 2 ? 0 : -INFINITY;
            rule.groups = z[1];
            rule.topk_group = z[2];
            check_gate(rule, variant & 4, 5);
            rule.score = GATE_SIGMOID;
            if (rule.group == GATE_GROUP_MAX) check_gate(rule, false, 9);
            rule.group = GATE_GROUP_NONE;
            rule.zero = (int)i;
            check_gate(rule, false, 3);
        }
    }
    close_isa();
}
END_TEST

START_TEST(gate_biased_and_broken) {
    open_isa(_i);
    if (fast) {
        float logits[40], bias[40], weights[40];
        int32_t ids[40];
        for (int e = 0; e < 40; e++) logits[e] = (float)e / 8, bias[e] = e % 2 ? -2 : 0;
        struct gate_rule rule = {GATE_SIGMOID, GATE_WEIGHT_SCORE, GATE_NORM_SUM, 0, 1, 40, 20};
        fast->ops->gate_select(fast, ids, weights, logits, bias, &rule, 1);
        for (int i = 0; i < 20; i++) ck_assert_int_eq(ids[i], 38 - 2 * i);
        for (int i = 1; i < 20; i++) ck_assert_float_lt(weights[i], weights[i - 1]);
        for (int e = 0; e < 40; e++) logits[e] = e % 3 ? NAN : -INFINITY;
        rule = (struct gate_rule){GATE_RAW, GATE_WEIGHT_ONE, GATE_NORM_NONE, 0, 1, 40, 40};
        fast->ops->gate_select(fast, ids, weights, logits, NULL, &rule, 1);
        for (int i = 0; i < 40; i++) ck_assert_int_eq(ids[i], i); /* each once, whatever came in */
        fast->ops->gate_select(fast, ids, weights, logits, NULL, &rule, 0);
        rule.group = GATE_GROUP_TOP2SUM, rule.groups = 5, rule.topk_group = 3, rule.k = 24, rule.group_fill = -INFINITY;
        fast->ops->gate_select(fast, ids, weights, logits, NULL, &rule, 1);
        for (int i = 0; i < 24; i++) ck_assert_int_eq(ids[i], i); /* all groups equal: the first three */
        bias[39] = INFINITY, bias[38] = -INFINITY, logits[39] = 1; /* infinite and its opposite */
        fast->ops->gate_select(fast, ids, weights, logits, bias, &rule, 1);
        for (int i = 0; i < 24; i++) ck_assert(ids[i] >= 0 && ids[i] < 40);
    }
    close_isa();
}
END_TEST

/* Raw scores, some of them masked or broken: weights are numbers, and those that are left share as if alone. */
START_TEST(gate_of_few) {
    open_isa(_i);
    static const float cases[][4] = {{3, -INFINITY, 1, -INFINITY}, {2, NAN, 2, -INFINITY}, {1, -1, -INFINITY, 0},
                                     {-INFINITY, -INFINITY, NAN, -INFINITY}};
    static const float by_sum[][4] = {{.75f, .25f}, {.5f, .5f}, {0}, {0}};
    struct backend *both[] = {fast, ref};
    for (unsigned i = 0; fast && i < 2 * sizeof cases / sizeof *cases; i++) {
        struct backend *b = both[i % 2];
        int32_t ids[4];
        float w[4];
        struct gate_rule rule = {GATE_RAW, GATE_WEIGHT_SCORE, GATE_NORM_SUM, 0, 1, 4, 4};
        b->ops->gate_select(b, ids, w, cases[i / 2], NULL, &rule, 1);
        for (int j = 0; j < 4; j++) NEAR(w[j], by_sum[i / 2][j], 1e-6, "case %u weight %d", i / 2, j);
        rule.norm = GATE_NORM_SOFTMAX;
        b->ops->gate_select(b, ids, w, cases[i / 2], NULL, &rule, 1);
        double sum = 0, left = 0;
        for (int j = 0; j < 4; j++) {
            float z = cases[i / 2][ids[j]];
            ck_assert(z > -INFINITY ? w[j] > 0 : w[j] == 0);
            sum += (double)w[j];
            left += z > -INFINITY;
        }
        NEAR(sum, left ? 1 : 0, 1e-6, "case %u", i / 2);
    }
    close_isa();
}
END_TEST

START_TEST(sums_and_copies) {
    open_isa(_i);
    for (int H = 1; fast && H < 140; H += H < 35 ? 1 : 37) {
        int keep = kit_n_rooms, T = 3, k = H % 5;
        float *pool = kit_random_floats((int64_t)T * 5 * H, 1), *weights = kit_random_floats(T * 5, 1);
        float *gate = kit_random_floats(T, 9);
        const float *rows[15];
        for (int i = 0; i < T * k; i++) rows[i] = pool + (int64_t)(T * k - 1 - i) * H;
        float *got = kit_floats((int64_t)T * H), *want = kit_floats((int64_t)T * H);
        fast->ops->combine(fast, got, rows, weights, T, k, H);
        ref->ops->combine(ref, want, rows, weights, T, k, H);
        for (int i = 0; i < T * H; i++) NEAR(got[i], want[i], (k + 1) * 0x1p-23 * 5, "combine k %d H %d", k, H);
        for (int with = 0; with < 2; with++) {
            memcpy(want, got, (size_t)(T * H) * sizeof *got);
            fast->ops->add(fast, got, pool, with ? gate : NULL, T, H);
            ref->ops->add(ref, want, pool, with ? gate : NULL, T, H);
            for (int i = 0; i < T * H; i++) NEAR(got[i], want[i], 0x1p-20, "add H %d", H);
        }
        float before[3 * 140];
        memcpy(before, got, (size_t)(T * H) * sizeof *got);
        fast->ops->clamp(fast, got, 0.25f, (int64_t)T * H);
        for (int i = 0; i < T * H; i++) want[i] = fminf(0.25f, fmaxf(-0.25f, before[i]));
        ck_assert(!memcmp(got, want, (size_t)(T * H) * sizeof *got));
        int32_t order[] = {2, 0, 1};
        fast->ops->gather(fast, got, pool, order, 3, H);
        for (int t = 0; t < 3; t++) ck_assert(!memcmp(got + t * H, pool + order[t] * H, (size_t)H * sizeof *got));
        for (int f = 0; f < FMT_PLAIN; f++) {
            struct mat table = kit_matrix((enum fmt)f, 3, H, 1);
            fast->ops->embed(fast, got, table, order, 3);
            for (int i = 0; i < 3 * H; i++) ck_assert_float_eq(got[i], kit_weight(table, order[i / H], i % H));
        }
        kit_clear(keep);
    }
    close_isa();
}
END_TEST

/* To the bit, unlike the others. */
START_TEST(weigh) {
    open_isa(_i);
    static const int sizes[] = {0, 1, 7, 15, 16, 17, 100, 4095, 4096, 4097, 49152, 200001};
    const float inverse[] = {1, 1 / 0.3f, 1e5f, 1e-4f};
    for (unsigned i = 0; fast && i < 4 * sizeof sizes / sizeof *sizes; i++) {
        const int keep = kit_n_rooms, V = sizes[i / 4];
        float *logits = kit_random_floats(V, 40), *got = kit_floats(V), *want = kit_floats(V), max = -INFINITY;
        uint16_t *in = kit_bytes((size_t)V * sizeof *in), *wanted = kit_bytes((size_t)V * sizeof *in);
        for (int j = 5; j < V; j += 13) logits[j] = j % 3 ? -INFINITY : NAN;
        for (int j = 0; j < V; j++) max = logits[j] > max ? logits[j] : max;
        if (V % 7 == 0) max = i % 2 ? INFINITY : NAN; /* a broken model's */
        fast->ops->weigh(fast, got, in, logits, max, inverse[i % 4], V);
        ref->ops->weigh(ref, want, wanted, logits, max, inverse[i % 4], V);
        for (int j = 0; j < V; j++) {
            ck_assert_msg(!memcmp(got + j, want + j, sizeof *got), "%d of %d: %a, wanted %a", j, V, got[j], want[j]);
            ck_assert_msg(in[j] == wanted[j], "%d of %d: bucket %d, wanted %d", j, V, in[j], wanted[j]);
        }
        kit_clear(keep);
    }
    close_isa();
}
END_TEST

START_TEST(logit_stats) {
    open_isa(_i);
    static const int sizes[] = {1, 2, 15, 16, 17, 100, 4095, 4096, 4097, 49152, 262144};
    for (unsigned i = 0; fast && i < sizeof sizes / sizeof *sizes; i++) {
        int keep = kit_n_rooms, V = sizes[i], T = V > 10000 ? 2 : 5;
        float *logits = kit_random_floats((int64_t)T * V, 12);
        if (V > 3) logits[V - 1] = logits[V / 2] = 12.5f; /* a tie: the lower index wins */
        struct logit_stats got[5], want[5];
        fast->ops->logit_stats(fast, got, logits, T, V);
        ref->ops->logit_stats(ref, want, logits, T, V);
        for (int t = 0; t < T; t++) {
            ck_assert_int_eq(got[t].argmax, want[t].argmax);
            ck_assert_float_eq(got[t].max, want[t].max);
            NEAR(got[t].lse, want[t].lse, 1e-5, "lse of %d", V); /* (V/16/4096 + 256 + 8) roundings of 6e-8, relative */
        }
        kit_clear(keep);
    }
    close_isa();
}
END_TEST

START_TEST(memory) {
    open_isa(_i);
    struct backend *all[] = {ref, fast};
    for (int i = 0; i < 2 && all[i]; i++) {
        const struct ops *ops = all[i]->ops;
        for (size_t bytes = 0; bytes < 300000; bytes = bytes * 3 + 1) {
            unsigned char *p = ops->alloc(all[i], bytes, MEM_HOST_VISIBLE), back[256];
            ck_assert_ptr_nonnull(p);
            ck_assert_uint_eq((uintptr_t)p % 64, 0);
            for (size_t j = 0; j < bytes; j++) ck_assert_uint_eq(p[j], 0);
            memset(p, 0xee, bytes);
            size_t n = bytes < sizeof back ? bytes : sizeof back;
            ops->upload(all[i], p, "some bytes to be copied there and back", n < 16 ? n : 16);
            ops->download(all[i], back, p, n);
            ck_assert(!memcmp(back, "some bytes to be", n < 16 ? n : 16));
            ops->sync(all[i]);
            ck_assert_ptr_eq(ops->adopt(all[i], back, sizeof back), back);
            ops->release(all[i], p);
        }
        ck_assert_ptr_null(ops->alloc(all[i], SIZE_MAX - 10, MEM_DEVICE));
        ops->release(all[i], NULL);
    }
    close_isa();
}
END_TEST

static void count_call(void *calls) { ++*(int *)calls; }

/* However much one operation computes, its owner gets to do something else now and then: inside one block of attention over
 * very many keys, between rows, between outputs. */
START_TEST(between) {
    enum { P = 16, PAGES = 1000, D = 64, Q = 4, H = 512, T = 256 };
    open_isa(_i);
    backend_close(fast);
    fast = kit_open(kit_isas[_i], 1); /* of a team, the others may have run it all before the owner looks */
    if (fast) {
        int calls = 0, pos = PAGES * P - 1, seq = 0;
        fast->between = (struct backend_hook){count_call, &calls};
        struct kv_layer kv = {.fmt = FMT_F32, .page_tokens = P, .heads = 1, .head_dim = D};
        kv.base = kit_random_floats(kv_page_elements(&kv), 1);
        int32_t *pages = kit_bytes(PAGES * sizeof *pages); /* the same page over and over */
        memset(pages, 0, PAGES * sizeof *pages);
        struct attention a = {.q = kit_random_floats(Q * D, 1), .out = kit_floats(Q * D), .tokens = 1, .q_heads = Q, .scale = 1,
                              .pos = &pos, .seq = &seq, .pages = pages, .max_pages = PAGES};
        fast->ops->attention(fast, &kv, &a);
        ck_assert_int_ge(calls, 10);
        float *x = kit_random_floats(T * H, 1), *y = kit_random_floats(T * H, 1);
        calls = 0;
        fast->ops->add(fast, y, x, NULL, T, H);
        ck_assert_int_ge(calls, T * H / (32 * 1024));
        fast->between = (struct backend_hook){0};
        kit_clear(0);
    }
    close_isa();
}
END_TEST

int main(void) {
    Suite *s = suite_create("ops");
    TCase *c = tcase_create("ops");
    tcase_set_timeout(c, 100);
    tcase_add_loop_test(c, linear, 0, KIT_ISAS);
    tcase_add_loop_test(c, rmsnorm, 0, KIT_ISAS);
    tcase_add_loop_test(c, rope, 0, KIT_ISAS);
    tcase_add_loop_test(c, between, 0, KIT_ISAS);
    tcase_add_loop_test(c, ffn, 0, KIT_ISAS);
    tcase_add_loop_test(c, dots_and_fuse, 0, KIT_ISAS);
    tcase_add_loop_test(c, ffn_in_rounds, 0, KIT_ISAS);
    tcase_add_loop_test(c, gate_select, 0, KIT_ISAS);
    tcase_add_loop_test(c, gate_of_few, 0, KIT_ISAS);
    tcase_add_loop_test(c, gate_groups, 0, KIT_ISAS);
    tcase_add_loop_test(c, gate_biased_and_broken, 0, KIT_ISAS);
    tcase_add_loop_test(c, sums_and_copies, 0, KIT_ISAS);
    tcase_add_loop_test(c, logit_stats, 0, KIT_ISAS);
    tcase_add_loop_test(c, weigh, 0, KIT_ISAS);
    tcase_add_loop_test(c, memory, 0, KIT_ISAS);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
