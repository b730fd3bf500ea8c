/* test_ep.c - the exchange over fabric_mem: results against the whole case as every rank knows it. */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "fabric/ep_frame.h"
#include "tests/unit/fabric/ep_case.h"

#include "tests/unit/run.h"


enum { PATIENCE_US = 20000000 };

struct runner { /* one rank's thread */
    pthread_t thread;
    struct fabric_hub *hub;
    const struct ep_case *c;
    int rank, steps, rc;
    uint64_t late;
    struct ep_counters count;
    struct why why;
};

static void *run_steps(void *arg) {
    struct runner *r = arg;
    struct fabric *f = NULL;
    struct ep *ep = NULL;
    r->rc = fabric_mem_open(r->hub, r->rank, &f, &r->why);
    if (r->rc == 0) r->rc = fabric_prepare(f, ep_frame_bytes(&r->c->lim, r->c->ranks), 1, &r->why);
    if (r->rc == 0) r->rc = ep_new(f, &r->c->lim, &ep, &r->why);
    for (int s = 0; s < r->steps && r->rc == 0; s++)
        r->rc = ep_case_step(r->c, ep, r->rank, 1, (uint64_t)s, -1, PATIENCE_US, &r->late, &r->why);
    if (ep) r->count = *ep_counters(ep);
    ep_free(ep);
    fabric_close(f);
    return NULL;
}

static void check_counters(const struct runner *r, bool faults) {
    struct ep_case_counts want = {0};
    const struct ep_counters *got = &r->count;
    struct ep_link links = ep_links_sum(got);
    ck_assert_uint_eq(links.frames_bad, 0);
    ck_assert_uint_eq(links.frames_stale, 0);
    if (!faults) ck_assert_uint_eq(links.frames_duplicate, 0);
    for (int step = 0; step < r->steps; step++) ep_case_count(r->c, r->rank, (uint64_t)step, &want);
    ck_assert_uint_eq(got->combine_rows, want.answers);
    if (!r->c->lim.fused) ck_assert_uint_eq(got->combine_bytes, want.combine_bytes);
    if (r->c->two_hop) return; /* what a relay passes on counts as its own */
    ck_assert_uint_eq(got->dispatch_rows, want.copies);
    ck_assert_uint_eq(got->dispatch_bytes, want.dispatch_bytes);
}

static void add_counters(struct ep_counters *sum, const struct ep_counters *c) {
    for (int peer = 0; peer < FABRIC_MAX_RANKS; peer++) {
        sum->link[peer].frames_duplicate += c->link[peer].frames_duplicate;
        sum->link[peer].frames_extra += c->link[peer].frames_extra;
    }
    sum->far.rows += c->far.rows;
    sum->far.direct += c->far.direct;
    sum->far.answers += c->far.answers;
    sum->far.dispatch_bytes += c->far.dispatch_bytes;
    sum->far.combine_bytes += c->far.combine_bytes;
}

static void run_ranks(const struct ep_case *c, int steps, const struct fabric_faults *faults, struct ep_counters *sum) {
    struct why why;
    struct fabric_hub *hub;
    ck_assert_int_eq(fabric_hub_new(c->ranks, faults, &hub, &why), 0);
    struct runner r[FABRIC_MAX_RANKS];
    for (int i = 0; i < c->ranks; i++) {
        r[i] = (struct runner){.hub = hub, .c = c, .rank = i, .steps = steps};
        ck_assert_int_eq(pthread_create(&r[i].thread, NULL, run_steps, &r[i]), 0);
    }
    for (int i = 0; i < c->ranks; i++) pthread_join(r[i].thread, NULL);
    for (int i = 0; i < c->ranks; i++) {
        ck_assert_msg(r[i].rc == 0, "seed %llu, rank %d of %d: %s (late %llx): %s", (unsigned long long)c->seed, i, c->ranks,
                      status_name(r[i].rc), (unsigned long long)r[i].late, r[i].why.text);
        check_counters(&r[i], faults != NULL);
        for (int p = 0; !faults && p < c->ranks; p++) { /* what one says it sent, the other says it got */
            ck_assert_uint_eq(r[i].count.link[p].bytes_out, r[p].count.link[i].bytes_in);
            ck_assert_uint_eq(r[i].count.link[p].frames_out, r[p].count.link[i].frames_in);
        }
        if (sum) add_counters(sum, &r[i].count);
    }
    fabric_hub_free(hub);
}

static void run_case(uint64_t seed, int ranks, int steps, const struct fabric_faults *faults, struct ep_counters *sum) {
    struct ep_case c;
    ep_case_make(&c, seed, ranks);
    run_ranks(&c, steps, faults, sum);
}

/* Cases are drawn from hashes: half of the seeds meet what all do, less often. */
static bool all_seeds;
static uint64_t seeds(uint64_t most) { return all_seeds ? most : most / 2; }

START_TEST(exact_on_any_number_of_ranks) {
    for (uint64_t seed = 1; seed <= seeds(40); seed++) run_case(seed, _i, 4, NULL, NULL);
}
END_TEST

/* Formats, sums, microbatches, frames of a few rows: whatever the combination, each worker gets what the others sent. */
START_TEST(exact_in_every_form) {
    struct ep_counters sum = {0};
    for (uint64_t seed = 1; seed <= seeds(60); seed++) {
        struct ep_case c;
        ep_case_make(&c, hash_u64(seed * 1000), _i);
        ep_case_vary(&c);
        run_ranks(&c, 3, NULL, &sum);
    }
    if (_i > 1) ck_assert_uint_gt(ep_links_sum(&sum).frames_extra, 100);
}
END_TEST

START_TEST(delays_and_duplicates_change_nothing) {
    struct ep_counters sum = {0};
    for (uint64_t seed = 1; seed <= seeds(40); seed++) {
        struct fabric_faults faults = {
            .seed = seed, .delay_percent = (int)(seed % 4) * 10, .duplicate_percent = (int)(seed % 5) * 20};
        struct ep_case c;
        ep_case_make(&c, hash_u64(seed), _i);
        if (seed % 2) ep_case_vary(&c);
        run_ranks(&c, 3, &faults, &sum);
    }
    ck_assert_uint_gt(ep_links_sum(&sum).frames_duplicate, 0);
}
END_TEST

/* Messages of many more frames than a stream is deep, all ways at once: every post waits for room, and nobody for ever. */
START_TEST(more_frames_than_streams_hold) {
    struct ep_counters sum = {0};
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct ep_case c;
        ep_case_make(&c, seed, _i);
        c.lim.max_tokens = 60;
        c.lim.topk = 3;
        c.lim.frame_bytes = 0;
        c.full = true;
        c.microbatches = 1 + (int)(seed % 2);
        struct ep_wire w = {.max_tokens = 60, .topk = 3, .hidden = c.lim.hidden, .extra = c.lim.extra};
        c.lim.frame_bytes = ep_frame_room(&w, 1, 1);
        run_ranks(&c, 2, NULL, &sum);
    }
    ck_assert_uint_gt(ep_links_sum(&sum).frames_extra, 12 * 60);
}
END_TEST

/* Frames for peers that read in place, and groups of 6 MiB and more, are written past the caches. */
START_TEST(large_rows_arrive_as_they_are) {
    struct ep_case c = {.seed = 5, .ranks = 2, .layers = 1, .microbatches = 1, .full = true, .even = 16,
                        .lim = {.max_tokens = 600, .max_slots = 8, .hidden = 512, .topk = 8}};
    run_ranks(&c, 2, NULL, NULL);
}
END_TEST

/* The same work and answers, bit for bit, whether tokens cross to another host once or once per worker: each rank checks its
 * own against what the others must have sent. Fewer rows cross. */
START_TEST(two_hops_change_nothing) {
    struct ep_counters sum = {0};
    for (uint64_t seed = 1; seed <= seeds(60); seed++) {
        struct fabric_faults faults = {.seed = seed, .reorder_percent = 20, .duplicate_percent = 20};
        struct ep_case c;
        ep_case_make(&c, hash_u64(seed + 5000), _i);
        if (seed % 3) ep_case_vary(&c);
        ep_case_spread(&c);
        run_ranks(&c, 3, seed % 4 == 0 ? &faults : NULL, &sum);
    }
    ck_assert_uint_le(sum.far.rows, sum.far.direct);
    if (_i > 3) ck_assert_uint_lt(sum.far.rows, sum.far.direct);
}
END_TEST

static double choose(int n, int k) { return k ? choose(n - 1, k - 1) * n / k : 1; }

/* Distinct experts drawn evenly: to each other host goes 1 - C(E - E/N, k) / C(E, k) of a home's tokens, and without relays
 * to each worker there what the same formula says of workers. */
START_TEST(rows_between_hosts_follow_the_formula) {
    enum { R = 8, E = 64, K = 8, T = 60, STEPS = 8 };
    static const int hosts_of[] = {2, 4, 8};
    int hosts = hosts_of[_i];
    struct ep_case c = {.seed = 77, .ranks = R, .layers = 1, .microbatches = 1, .full = true, .even = E, .two_hop = true,
                        .lim = {.max_tokens = T, .max_slots = E / R, .hidden = 4, .topk = K}};
    for (int w = 0; w < R; w++) c.lim.host[w] = (uint8_t)(w * hosts / R);
    struct ep_counters sum = {0};
    run_ranks(&c, STEPS, NULL, &sum);
    double tokens = (double)R * T * STEPS, far_ranks = R - R / hosts;
    double once = tokens * (hosts - 1) * (1 - choose(E - E / hosts, K) / choose(E, K));
    double each = tokens * far_ranks * (1 - choose(E - E / R, K) / choose(E, K));
    printf("%d hosts: %.3f rows per token between hosts, formula %.3f; without relays %.3f, formula %.3f; answers %.3f\n",
           hosts, (double)sum.far.rows / tokens, once / tokens, (double)sum.far.direct / tokens, each / tokens,
           (double)sum.far.answers / tokens);
    ck_assert_double_le(fabs((double)sum.far.rows / once - 1), 0.03);
    ck_assert_uint_eq(sum.far.dispatch_bytes, sum.far.rows * 4 * sizeof(float));
    ck_assert_uint_eq(sum.far.combine_bytes, sum.far.answers * 4 * sizeof(float));
    ck_assert_double_le(fabs((double)sum.far.direct / each - 1), 0.03);
}
END_TEST

/* A case of reordered and repeated frames of messages in parts: the keys and part numbers alone say what is what. */
START_TEST(reordered_frames_change_nothing) {
    for (uint64_t seed = 1; seed <= seeds(40); seed++) {
        struct fabric_faults faults = {.seed = seed, .reorder_percent = 30, .duplicate_percent = (int)(seed % 3) * 20};
        struct ep_case c;
        ep_case_make(&c, hash_u64(seed + 99), _i);
        ep_case_vary(&c);
        run_ranks(&c, 3, &faults, NULL);
    }
}
END_TEST

START_TEST(alone_without_fabric) {
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct ep_case c;
        struct ep *ep;
        struct why why;
        uint64_t late;
        ep_case_make(&c, seed, 1);
        if (seed % 2) ep_case_vary(&c);
        ck_assert_int_eq(ep_new(NULL, &c.lim, &ep, &why), 0);
        for (uint64_t s = 0; s < 3; s++)
            ck_assert_msg(ep_case_step(&c, ep, 0, 1, s, -1, 0, &late, &why) == 0, "seed %llu: %s", (unsigned long long)seed,
                          why.text);
        ep_free(ep);
    }
}
END_TEST

int main(int argc, char **argv) {
    all_seeds = argc > 1 && !strcmp(argv[1], "--all");
    Suite *s = suite_create("ep");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_loop_test(t, exact_on_any_number_of_ranks, 1, 9);
    tcase_add_loop_test(t, exact_in_every_form, 1, 7);
    tcase_add_loop_test(t, more_frames_than_streams_hold, 2, 5);
    tcase_add_loop_test(t, two_hops_change_nothing, 2, 8);
    tcase_add_loop_test(t, rows_between_hosts_follow_the_formula, 0, 3);
    tcase_add_loop_test(t, reordered_frames_change_nothing, 2, 6);
    tcase_add_loop_test(t, delays_and_duplicates_change_nothing, 2, 9);
    tcase_add_test(t, alone_without_fabric);
    tcase_add_test(t, large_rows_arrive_as_they_are);
    suite_add_tcase(s, t);
    return run_suite(s);
}
