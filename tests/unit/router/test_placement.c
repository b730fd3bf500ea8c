/* test_placement.c - the map's invariants over many shapes, refusals, and how evenly replicas are picked. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "router/placement.h"

#include "tests/unit/run.h"


/* Everything placement.h promises about one placement, against the hosts it was made from. */
static void check_map(const struct placement *p, const uint64_t *hosts) {
    for (int l = 0; l < p->layers; l++) {
        for (int e = 0; e < p->experts; e++) {
            int i = l * p->experts + e;
            uint64_t seen = 0;
            float share = 0;
            for (int r = p->first[i]; r < p->first[i + 1]; r++) {
                const struct replica *rep = &p->list[r];
                ck_assert_int_lt(rep->worker, p->workers);
                ck_assert(!(seen >> rep->worker)); /* ascending, so no worker twice */
                seen |= UINT64_C(1) << rep->worker;
                share += rep->share;
                ck_assert_int_lt(rep->slot, placement_slots(p, rep->worker, l));
                ck_assert_int_eq(p->slot_expert[p->slot_first[rep->worker * p->layers + l] + rep->slot], e);
            }
            ck_assert_uint_eq(seen, hosts[i]);
            ck_assert_float_eq_tol(share, 1, 1e-5);
        }
        int slots = 0;
        for (int w = 0; w < p->workers; w++) {
            int n = placement_slots(p, w, l), at = p->slot_first[w * p->layers + l];
            for (int s = 1; s < n; s++) ck_assert_int_lt(p->slot_expert[at + s - 1], p->slot_expert[at + s]);
            slots += n;
        }
        ck_assert_int_eq(slots, p->first[(l + 1) * p->experts] - p->first[l * p->experts]);
    }
}

START_TEST(contiguous_shapes) {
    static const int shape[][3] = {{1, 1, 1},   {1, 3, 8},  {4, 30, 16}, {3, 2, 8},  {8, 2, 5},
                                   {64, 1, 64}, {64, 2, 7}, {2, 0, 4},   {7, 3, 160}};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        int R = shape[s][0], L = shape[s][1], E = shape[s][2];
        struct placement p;
        struct why why;
        ck_assert_int_eq(placement_contiguous(&p, R, L, E, &why), 0);
        uint64_t *hosts = calloc((size_t)(L * E + 1), sizeof *hosts);
        for (int i = 0; i < L * E; i++) hosts[i] = UINT64_C(1) << (i % E * R / E);
        check_map(&p, hosts);
        for (int l = 0; l < L; l++) {
            int low = E, high = 0;
            for (int w = 0; w < R; w++) {
                int n = placement_slots(&p, w, l);
                low = n < low ? n : low;
                high = n > high ? n : high;
            }
            ck_assert_int_le(high - low, 1);
        }
        free(hosts);
        placement_clear(&p);
        placement_clear(&p); /* harmless twice */
    }
}
END_TEST

START_TEST(random_hosts) {
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t h = hash_u64(seed);
        int R = 1 + (int)(h % 64), L = (int)(h >> 8 & 3), E = 1 + (int)(h >> 16 & 31);
        uint64_t known = R == 64 ? UINT64_MAX : (UINT64_C(1) << R) - 1;
        uint64_t hosts[3 * 32 + 1];
        for (int i = 0; i < L * E; i++) {
            hosts[i] = hash_u64(seed << 20 | (uint64_t)i) & known;
            if (i % 3 == 0) hosts[i] &= hash_u64(hosts[i] + 1);
            if (!hosts[i]) hosts[i] = UINT64_C(1) << (i % R);
        }
        struct placement p;
        struct why why;
        ck_assert_int_eq(placement_from_hosts(&p, R, L, E, hosts, &why), 0);
        check_map(&p, hosts);
        placement_clear(&p);
    }
}
END_TEST

static void check_partial(const struct placement *p, const uint64_t *hosts) {
    int missing = 0;
    for (int i = 0; i < p->layers * p->experts; i++) {
        missing += !hosts[i];
        ck_assert_int_eq(placement_misses(p, i / p->experts, i % p->experts), !hosts[i]);
    }
    ck_assert_int_eq(p->missing, missing);
}

START_TEST(partial) {
    for (uint64_t seed = 1; seed <= 100; seed++) {
        uint64_t hosts[24];
        for (int i = 0; i < 24; i++) hosts[i] = hash_u64(seed << 8 | (uint64_t)i) & 7 & hash_u64(seed << 8 | (uint64_t)i | 128);
        struct placement p;
        struct why why;
        ck_assert_int_eq(placement_partial(&p, 3, 3, 8, hosts, &why), 0);
        check_partial(&p, hosts);
        for (int l = 0; l < 3; l++) {
            int slots = 0;
            for (int w = 0; w < 3; w++) slots += placement_slots(&p, w, l);
            ck_assert_int_eq(slots, p.first[(l + 1) * 8] - p.first[l * 8]);
        }
        placement_clear(&p);
    }
}
END_TEST

START_TEST(refusals) {
    struct placement p;
    struct why why;
    uint64_t hosts[] = {1, 2, 0, 3};
    ck_assert_int_eq(placement_from_hosts(&p, 2, 2, 2, hosts, &why), ERR_INVALID);
    ck_assert_str_eq(why.text, "placement: expert 0 of MoE layer 1 is on no worker; give it at least one");
    ck_assert_int_eq(placement_partial(&p, 2, 2, 2, hosts, &why), 0); /* the same, wanted */
    check_partial(&p, hosts);
    placement_clear(&p);
    hosts[2] = 4;
    ck_assert_int_eq(placement_partial(&p, 2, 2, 2, hosts, &why), ERR_INVALID);
    ck_assert_int_eq(placement_from_hosts(&p, 2, 2, 2, hosts, &why), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(why.text, "worker 2"));
    ck_assert_int_eq(placement_contiguous(&p, 0, 1, 1, &why), ERR_INVALID);
    ck_assert_int_eq(placement_contiguous(&p, 65, 1, 1, &why), ERR_INVALID);
    ck_assert_int_eq(placement_contiguous(&p, 1, -1, 1, &why), ERR_INVALID);
    ck_assert_int_eq(placement_contiguous(&p, 1, 1, 0, &why), ERR_INVALID);
    ck_assert_int_eq(placement_contiguous(&p, 1, 1 << 20, 1 << 20, &why), ERR_INVALID);
}
END_TEST

START_TEST(pick_follows_shares) {
    enum { N = 40000 };
    uint64_t hosts[] = {0x1, 0x7, 0x2a};
    struct placement p;
    struct why why;
    ck_assert_int_eq(placement_from_hosts(&p, 6, 1, 3, hosts, &why), 0);
    p.list[p.first[1]].share = 0.5f; /* workers 0, 1, 2 of expert 1 */
    p.list[p.first[1] + 1].share = 0.5f;
    p.list[p.first[1] + 2].share = 0.0f;
    int took[3][6] = {{0}};
    for (int i = 0; i < N; i++) {
        for (int e = 0; e < 3; e++) {
            const struct replica *r = placement_pick(&p, 0, e, (uint64_t)i % 50, i / 50);
            ck_assert_ptr_eq(r, placement_pick(&p, 0, e, (uint64_t)i % 50, i / 50));
            ck_assert_int_ge(r - p.list, p.first[e]);
            ck_assert_int_lt(r - p.list, p.first[e + 1]);
            took[e][r->worker]++;
        }
    }
    ck_assert_int_eq(took[0][0], N);
    ck_assert_int_eq(took[1][2], 0);
    ck_assert_int_lt(abs(took[1][0] - N / 2), N / 50);
    for (int w = 1; w < 6; w += 2) ck_assert_int_lt(abs(took[2][w] - N / 3), N / 50);
    placement_clear(&p);
}
END_TEST

/* Layers must not agree on a token's side, or one worker would get whole tokens and waits would pile up there. */
START_TEST(pick_mixes_layers) {
    enum { L = 2000 };
    static uint64_t hosts[L];
    for (int i = 0; i < L; i++) hosts[i] = 3;
    struct placement p;
    struct why why;
    ck_assert_int_eq(placement_from_hosts(&p, 2, L, 1, hosts, &why), 0);
    int ones = 0;
    for (int l = 0; l < L; l++) ones += placement_pick(&p, l, 0, 7, 11)->worker;
    ck_assert_int_lt(abs(ones - L / 2), L / 10);
    placement_clear(&p);
}
END_TEST

int main(void) {
    Suite *s = suite_create("placement");
    TCase *t = tcase_create("all");
    tcase_add_test(t, contiguous_shapes);
    tcase_add_test(t, random_hosts);
    tcase_add_test(t, refusals);
    tcase_add_test(t, partial);
    tcase_add_test(t, pick_follows_shares);
    tcase_add_test(t, pick_mixes_layers);
    suite_add_tcase(s, t);
    return run_suite(s);
}
