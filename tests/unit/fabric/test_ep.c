/* test_ep.c - the exchange over fabric_mem: results against the whole case as every rank knows it. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
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

static void run_case(uint64_t seed, int ranks, int steps, const struct fabric_faults *faults, struct ep_counters *sum) {
    struct ep_case c;
    ep_case_make(&c, seed, ranks);
    struct why why;
    struct fabric_hub *hub;
    ck_assert_int_eq(fabric_hub_new(ranks, faults, &hub, &why), 0);
    struct runner r[FABRIC_MAX_RANKS];
    for (int i = 0; i < ranks; i++) {
        r[i] = (struct runner){.hub = hub, .c = &c, .rank = i, .steps = steps};
        ck_assert_int_eq(pthread_create(&r[i].thread, NULL, run_steps, &r[i]), 0);
    }
    for (int i = 0; i < ranks; i++) pthread_join(r[i].thread, NULL);
    for (int i = 0; i < ranks; i++) {
        ck_assert_msg(r[i].rc == 0, "seed %llu, rank %d of %d: %s (late %llx): %s", (unsigned long long)seed, i, ranks,
                      status_name(r[i].rc), (unsigned long long)r[i].late, r[i].why.text);
        ck_assert_uint_eq(r[i].count.frames_bad, 0);
        ck_assert_uint_eq(r[i].count.frames_stale, 0);
        if (!faults) ck_assert_uint_eq(r[i].count.frames_duplicate, 0);
        uint64_t copies = 0, answers = 0;
        for (int step = 0; step < steps; step++) {
            uint64_t more_copies, more_answers;
            ep_case_count(&c, i, (uint64_t)step, &more_copies, &more_answers);
            copies += more_copies;
            answers += more_answers;
        }
        ck_assert_uint_eq(r[i].count.dispatch_rows, copies);
        ck_assert_uint_eq(r[i].count.combine_rows, answers);
        ck_assert_uint_eq(r[i].count.dispatch_bytes, copies * (uint64_t)c.lim.hidden * 4);
        ck_assert_uint_eq(r[i].count.combine_bytes, answers * (uint64_t)(c.lim.hidden + c.lim.extra) * 4);
        if (sum) sum->frames_duplicate += r[i].count.frames_duplicate;
    }
    fabric_hub_free(hub);
}

START_TEST(exact_on_any_number_of_ranks) {
    for (uint64_t seed = 1; seed <= 40; seed++) run_case(seed, _i, 4, NULL, NULL);
}
END_TEST

START_TEST(delays_and_duplicates_change_nothing) {
    struct ep_counters sum = {0};
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct fabric_faults faults = {
            .seed = seed, .delay_percent = (int)(seed % 4) * 10, .duplicate_percent = (int)(seed % 5) * 20};
        run_case(hash_u64(seed), _i, 3, &faults, &sum);
    }
    ck_assert_uint_gt(sum.frames_duplicate, 0);
}
END_TEST

START_TEST(alone_without_fabric) {
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct ep_case c;
        struct ep *ep;
        struct why why;
        uint64_t late;
        ep_case_make(&c, seed, 1);
        ck_assert_int_eq(ep_new(NULL, &c.lim, &ep, &why), 0);
        for (uint64_t s = 0; s < 3; s++)
            ck_assert_msg(ep_case_step(&c, ep, 0, 1, s, -1, 0, &late, &why) == 0, "seed %llu: %s", (unsigned long long)seed,
                          why.text);
        ep_free(ep);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("ep");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_loop_test(t, exact_on_any_number_of_ranks, 1, 9);
    tcase_add_loop_test(t, delays_and_duplicates_change_nothing, 2, 9);
    tcase_add_test(t, alone_without_fabric);
    suite_add_tcase(s, t);
    return run_suite(s);
}
