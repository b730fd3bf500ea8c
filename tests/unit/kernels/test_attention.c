/* test_attention.c - attention, keys and values in every format, and MLA's products against ref, as test_ops.c does it. */
#include "tests/unit/kernels/pair.h"

static void check_attention(enum fmt fmt, int Q, int G, int D, int P, int window, bool with_sinks, int latent) {
    enum { S = 3, MAX_PAGES = 40, T = 23 };
    int keep = kit_n_rooms, pages_used = S * MAX_PAGES;
    int64_t token = (int64_t)G * D;
    struct kv_layer kv = {.fmt = fmt, .page_tokens = P, .heads = G, .head_dim = D, .latent = latent};
    const int V = kv_value_dim(&kv);
    kv.base = kit_bytes((size_t)pages_used * kv_page_bytes(&kv));
    int32_t pages[S * MAX_PAGES];
    for (int i = 0; i < pages_used; i++) pages[i] = (i * 7 + 3) % pages_used; /* 7 does not divide 120: all distinct */
    /* Sequence 0 has rows up to 16 (a chunk of 11 rows), 1 a chunk of 10 from the start, 2 a lone row at its last slot. */
    int ends[S] = {17, 10, MAX_PAGES * P};
    if (ends[0] > MAX_PAGES * P) ends[0] = MAX_PAGES * P;
    if (ends[1] > MAX_PAGES * P) ends[1] = MAX_PAGES * P;
    for (int s = 0; s < S; s++) {
        int inner = kit_n_rooms; /* keys past a sequence's end stay NaN */
        float *k = kit_random_floats(ends[s] * token, 1), *v = kit_random_floats(ends[s] * token, 1);
        int32_t *at = kit_bytes((size_t)ends[s] * sizeof *at);
        for (int i = 0; i < ends[s]; i++) at[i] = pages[s * MAX_PAGES + i / P] * P + i % P;
        fast->ops->kv_store(fast, &kv, k, latent ? NULL : v, at, ends[s]);
        kit_clear(inner);
    }
    int32_t pos[T], seq[T];
    int n = 0;
    for (int i = ends[0] - 11; i < ends[0]; i++, n++) pos[n] = i, seq[n] = 0;
    pos[n] = ends[2] - 1, seq[n++] = 2;
    for (int i = 0; i < ends[1]; i++, n++) pos[n] = i, seq[n] = 1;
    float *q = kit_random_floats((int64_t)n * Q * D, 2), *got = kit_floats((int64_t)n * Q * V);
    float *want = kit_floats((int64_t)n * Q * V);
    struct attention a = {q, got, n, Q, 1 / sqrtf((float)D), window, pos, seq, pages, MAX_PAGES,
                          with_sinks ? kit_random_floats(Q, 6) : NULL, window == 1000 ? 7 : window == 16 ? 11 : 0};
    fast->ops->attention(fast, &kv, &a);
    a.out = want;
    ref->ops->attention(ref, &kv, &a);
    /* |q.k| <= 2 D; a score is off by the sum's error, a weight by twice that, an output (|v| <= 1) by the weights' error. */
    double score = kit_sum_error(D, 2.0 * D) * a.scale + 0x1p-22 * 2 * D * a.scale;
    double bound = 4 * score + (MAX_PAGES * P + 32) * 0x1p-23;
    for (int64_t i = 0; i < (int64_t)n * Q * V; i++) {
        NEAR(got[i], want[i], bound, "attention %s Q %d G %d D %d P %d window %d at %d", fmt_name(fmt), Q, G, D, P, window,
             (int)i);
    }
    kit_clear(keep);
}

START_TEST(attention) {
    open_isa(_i);
    static const int shapes[][4] = {/* Q G D P */ {1, 1, 1, 1},
                                    {3, 3, 5, 3},
                                    {9, 3, 64, 16},
                                    {4, 1, 16, 7},
                                    {6, 2, 33, 32},
                                    {8, 1, 80, 5},
                                    {16, 4, 128, 16},
                                    {30, 1, 24, 100},
                                    {2, 2, 200, 64},
                                    {5, 5, 48, 65}};
    for (unsigned i = 0; fast && i < sizeof shapes / sizeof *shapes; i++) {
        for (int f = 0; f < FMT_COUNT; f++) {
            if (!fmt_kv((enum fmt)f)) continue;
            static const int windows[] = {0, 1, 5, 16, 1000};
            for (int w = 0; w < 5; w++)
                check_attention((enum fmt)f, shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], windows[w], (i + w) % 2,
                                0);
        }
    }
    static const int latents[][4] = {
        /* Q D value P */ {1, 1, 1, 1}, {3, 7, 5, 3}, {30, 24, 16, 16}, {5, 40, 40, 7}, {4, 96, 65, 64}};
    for (unsigned i = 0; fast && i < sizeof latents / sizeof *latents; i++) {
        for (int f = 0; f < FMT_COUNT; f++)
            if (fmt_kv((enum fmt)f))
                check_attention((enum fmt)f, latents[i][0], 1, latents[i][1], latents[i][3], 0, i % 2, latents[i][2]);
    }
    close_isa();
}
END_TEST

/* T rows of one sequence from position 3 on, before them a row of another. */
static void check_expanded(const struct latent_heads *m, enum fmt fmt, int T) {
    enum { P = 16, PAGES = 12 };
    int keep = kit_n_rooms, D = m->kv_b.cols + m->rope, keys = T + 3, n = T + 1;
    struct kv_layer kv = {.fmt = fmt, .page_tokens = P, .heads = 1, .head_dim = D, .latent = m->kv_b.cols};
    kv.base = kit_bytes((size_t)PAGES * kv_page_bytes(&kv));
    int32_t pages[PAGES], *at = kit_bytes((size_t)keys * sizeof *at);
    int32_t *pos = kit_bytes((size_t)n * sizeof *pos), *seq = kit_bytes((size_t)n * sizeof *seq);
    for (int i = 0; i < PAGES; i++) pages[i] = (i * 5 + 7) % PAGES;
    for (int i = 0; i < keys; i++) at[i] = pages[PAGES / 2 + i / P] * P + i % P;
    fast->ops->kv_store(fast, &kv, kit_random_floats((int64_t)keys * D, 1), NULL, at, keys);
    fast->ops->kv_store(fast, &kv, kit_random_floats(D, 1), NULL, &(int32_t){pages[0] * P}, 1);
    for (int i = 1; i < n; i++) pos[i] = i + 2, seq[i] = 1;
    pos[0] = seq[0] = 0;
    int64_t out = (int64_t)n * m->heads * m->value;
    float *got = kit_floats(out), *want = kit_floats(out);
    struct attention a = {.q = kit_random_floats((int64_t)n * m->heads * (m->nope + m->rope), 1), .out = got, .tokens = n,
                          .q_heads = m->heads, .scale = 0.2f, .pos = pos, .seq = seq, .pages = pages, .max_pages = PAGES / 2};
    fast->ops->latent_expanded(fast, &kv, &a, m);
    a.out = want;
    ref->ops->latent_expanded(ref, &kv, &a, m);
    /* An expanded element is at most `rank`, so an output too; a score is off by the sums' errors. */
    double rank = m->kv_b.cols, score = 0.2 * (kit_sum_error(m->nope + m->rope, (m->nope + 1) * rank + m->rope) * 2);
    for (int64_t i = 0; i < out; i++)
        NEAR(got[i], want[i], rank * (4 * score + (keys + 32) * 0x1p-23), "latent expanded, rank %d, at %d", m->kv_b.cols,
             (int)i);
    kit_clear(keep);
}

START_TEST(latent) {
    open_isa(_i);
    static const int shapes[][6] = {/* heads nope rope value rank T */ {1, 1, 0, 1, 1, 1},
                                    {3, 5, 2, 7, 9, 4},
                                    {2, 16, 4, 16, 16, 13},
                                    {5, 24, 6, 20, 72, 7},
                                    {2, 33, 8, 17, 130, 26},
                                    {1, 8, 2, 8, 200, 70},
                                    {1, 1024, 1024, 1024, 512, 1}, /* heads that a wide tile has no room for */
                                    {1, 300, 1, 1024, 2047, 1}};
    for (unsigned s = 0; fast && s < sizeof shapes / sizeof *shapes; s++) {
        for (int f = 0; f <= FMT_BF16; f++) {
            const int *n = shapes[s], T = n[5], rank = n[4], keep = kit_n_rooms;
            struct latent_heads m = {kit_matrix((enum fmt)f, n[0] * (n[1] + n[3]), rank, 1), n[0], n[1], n[2], n[3]};
            int64_t in = (int64_t)T * m.heads * (m.nope + m.rope), out = (int64_t)T * m.heads * (rank + m.rope);
            float *q = kit_random_floats(in, 1), *got = kit_floats(out), *want = kit_floats(out);
            fast->ops->latent_query(fast, got, q, &m, T);
            ref->ops->latent_query(ref, want, q, &m, T);
            for (int64_t i = 0; i < out; i++) {
                bool roped = i % (rank + m.rope) >= rank;
                NEAR(got[i], want[i], roped ? 0 : kit_sum_error(16 * m.nope, m.nope), "latent query, shape %u at %d", s,
                     (int)i);
            }
            check_expanded(&m, f == FMT_F32 ? FMT_F16 : FMT_INT8, T);
            check_expanded(&m, (enum fmt)f, T);
            int64_t values = (int64_t)T * m.heads * m.value;
            float *x = kit_random_floats((int64_t)T * m.heads * rank, 1), *y = kit_floats(values), *y_want = kit_floats(values);
            fast->ops->latent_value(fast, y, x, &m, T);
            ref->ops->latent_value(ref, y_want, x, &m, T);
            for (int64_t i = 0; i < values; i++)
                NEAR(y[i], y_want[i], kit_sum_error(rank, rank), "latent value, shape %u at %d", s, (int)i);
            kit_clear(keep);
        }
    }
    close_isa();
}
END_TEST

/* Every bit of a page is what ref stores, and that what formats.c says; what nothing is stored to stays as it was. */
static void check_store(enum fmt fmt, int latent_dim, const float *k, const float *v) {
    enum { G = 3, D = 35, P = 4, PAGES = 3, T = 2 };
    struct kv_layer kv = {.fmt = fmt, .page_tokens = P, .heads = latent_dim ? 1 : G, .head_dim = D, .latent = latent_dim};
    const size_t bytes = PAGES * kv_page_bytes(&kv);
    const int32_t at[T] = {2 * P + 3, 1};
    kv.base = kit_bytes(bytes);
    struct kv_layer want = kv;
    want.base = kit_bytes(bytes);
    memset(kv.base, 0xa5, bytes);
    memset(want.base, 0xa5, bytes);
    fast->ops->kv_store(fast, &kv, k, latent_dim ? NULL : v, at, T);
    ref->ops->kv_store(ref, &want, k, latent_dim ? NULL : v, at, T);
    ck_assert_msg(!memcmp(kv.base, want.base, bytes), "kv_store %s, latent %d", fmt_name(fmt), latent_dim);
    for (int i = 0; fmt != FMT_INT8 && i < T * kv.heads * D; i++) {
        const int t = i / (kv.heads * D), e = i % (kv.heads * D);
        const int64_t cell = (at[t] / P * (latent_dim ? 1 : 2) * P + at[t] % P) * kv.heads * D + e;
        if (fmt == FMT_F32) ck_assert(!memcmp((float *)kv.base + cell, &k[i], sizeof *k));
        else ck_assert_uint_eq(((uint16_t *)kv.base)[cell], fmt == FMT_F16 ? f16_from_f32(k[i]) : bf16_from_f32(k[i]));
    }
}

START_TEST(kv_store) {
    open_isa(_i);
    enum { N = 2 * 3 * 35 };
    static const float odd[] = {0,
                                -0.0f,
                                1,
                                1 + 0x1p-8f,
                                1 + 0x1p-7f + 0x1p-8f,
                                3.4e38f,
                                1e-40f,
                                0x1p-126f,
                                0x1p-126f,
                                NAN,
                                INFINITY,
                                -INFINITY,
                                65504,
                                65519,
                                -65521,
                                0x1p-14f,
                                0x1p-24f,
                                3e-8f,
                                1e-31f,
                                -0x1p-25f,
                                1 + 0x1p-11f,
                                2047.5f,
                                2048.999f,
                                0x1.ffdp-15f};
    for (int f = 0; fast && f < FMT_COUNT; f++) {
        if (!fmt_kv((enum fmt)f)) continue;
        for (int kind = 0; kind < 5; kind++) { /* ordinary, huge, tiny, with odd ones, odd ones that are numbers */
            int keep = kit_n_rooms;
            float range = kind == 1 ? 3e38f : kind == 2 ? 1e-30f : 3;
            float *k = kit_random_floats(N, range), *v = kit_random_floats(N, range);
            if (kind >= 3) memcpy(k, odd, sizeof odd);
            if (kind == 4) k[9] = k[10] = k[11] = 0;
            for (int n = 0; n <= 35; n += 7) check_store((enum fmt)f, n, k, v);
            kit_clear(keep);
        }
    }
    close_isa();
}
END_TEST

int main(void) {
    Suite *s = suite_create("attention");
    TCase *c = tcase_create("attention");
    tcase_set_timeout(c, 100);
    tcase_add_loop_test(c, latent, 0, KIT_ISAS);
    tcase_add_loop_test(c, attention, 0, KIT_ISAS);
    tcase_add_loop_test(c, kv_store, 0, KIT_ISAS);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
