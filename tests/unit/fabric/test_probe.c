/* test_probe.c - measuring links over fabric_mem: figures of the links there are, none of those to the silent, and frames of a
 * measurement that somebody missed do not confuse the exchange after it. */
#include "fabric/probe.h"

#include <pthread.h>
#include <string.h>

#include "base/clk.h"
#include "tests/unit/fabric/ep_case.h"

#include "tests/unit/run.h"

enum { PATIENCE_US = 20000000, FRAME_BYTES = 300 << 10, RANKS = 6 };

struct runner { /* one rank's thread */
    pthread_t thread;
    struct fabric_hub *hub;
    int rank, size, hosts, rc;
    bool silent; /* comes, and says nothing */
    int64_t deadline_us;
    struct probe got;
    const struct ep_case *c; /* to be run when all have ended it; NULL: nothing */
    pthread_barrier_t *ended;
    struct ep_counters count;
    uint64_t late;
    struct why why;
};

static void spread(const struct runner *r, uint8_t *host) {
    for (int w = 0; w < r->size; w++) host[w] = (uint8_t)(w * r->hosts / r->size);
}

static void *run_rank(void *arg) {
    struct runner *r = arg;
    struct fabric *f = NULL;
    struct ep *ep = NULL;
    uint8_t host[RANKS];
    spread(r, host);
    r->rc = fabric_mem_open(r->hub, r->rank, &f, &r->why);
    if (r->rc == 0) r->rc = fabric_prepare(f, FRAME_BYTES, 1, &r->why);
    if (r->rc == 0 && !r->silent) probe_run(f, host, r->deadline_us, &r->got);
    pthread_barrier_wait(r->ended);
    if (r->rc == 0 && r->c) r->rc = ep_new(f, &r->c->lim, &ep, &r->why);
    for (uint64_t s = 0; ep && s < 3 && r->rc == 0; s++)
        r->rc = ep_case_step(r->c, ep, r->rank, 1, s, -1, PATIENCE_US, &r->late, &r->why);
    if (ep) r->count = *ep_counters(ep);
    ep_free(ep);
    fabric_close(f);
    return NULL;
}

/* silent: the rank that says nothing; -1: none. */
static void run(struct runner *r, int size, int hosts, int silent, int64_t us, const struct ep_case *c) {
    struct fabric_hub *hub;
    pthread_barrier_t ended;
    struct why why;
    pthread_barrier_init(&ended, NULL, (unsigned)size);
    ck_assert_int_eq(fabric_hub_new(size, NULL, &hub, &why), 0);
    for (int i = 0; i < size; i++) {
        r[i] = (struct runner){.hub = hub, .rank = i, .size = size, .hosts = hosts, .silent = i == silent, .c = c,
                               .ended = &ended, .deadline_us = clk_now_us() + us};
        ck_assert_int_eq(pthread_create(&r[i].thread, NULL, run_rank, &r[i]), 0);
    }
    for (int i = 0; i < size; i++) {
        pthread_join(r[i].thread, NULL);
        ck_assert_msg(r[i].rc == 0, "rank %d: %s (late %llx)", i, r[i].why.text, (unsigned long long)r[i].late);
    }
    fabric_hub_free(hub);
    pthread_barrier_destroy(&ended);
}

static bool known(const struct probe_link *l) { return l->latency_us > 0 && l->bytes_per_us > 0; }

START_TEST(every_kind_of_link_there_is) {
    static const struct {
        int size, hosts;
        bool inside, between;
    } table[] = {{6, 3, true, true}, {6, 1, true, false}, {4, 4, false, true}, {2, 2, false, true}, {1, 1, false, false}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct runner r[RANKS];
        run(r, table[i].size, table[i].hosts, -1, PATIENCE_US, NULL);
        for (int w = 0; w < table[i].size; w++) {
            ck_assert_int_eq(known(&r[w].got.inside), table[i].inside);
            ck_assert_int_eq(known(&r[w].got.between), table[i].between);
        }
    }
}
END_TEST

/* Two on each host; rank 5 is asked by 4, and by 1 and 3. */
START_TEST(a_silent_rank_gives_no_figure) {
    struct runner r[RANKS];
    run(r, 6, 3, 5, 2000000, NULL);
    for (int w = 0; w < 5; w++) ck_assert_int_eq(known(&r[w].got.inside), w != 4);
    ck_assert(known(&r[0].got.between) && known(&r[2].got.between) && known(&r[4].got.between));
    ck_assert(!known(&r[5].got.inside) && !known(&r[5].got.between));
}
END_TEST

START_TEST(what_was_missed_is_dropped_by_the_exchange) {
    struct ep_case c;
    ep_case_make(&c, 5, 4);
    struct runner r[RANKS];
    run(r, 4, 2, 3, 20000, &c);
    for (int w = 0; w < 4; w++) {
        struct ep_link all = ep_links_sum(&r[w].count);
        ck_assert_uint_eq(all.frames_bad + all.frames_stale + all.frames_duplicate, 0);
        for (int p = 0; p < 4; p++) ck_assert_uint_eq(r[w].count.link[p].frames_out, r[p].count.link[w].frames_in);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("probe");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_kind_of_link_there_is);
    tcase_add_test(t, a_silent_rank_gives_no_figure);
    tcase_add_test(t, what_was_missed_is_dropped_by_the_exchange);
    suite_add_tcase(s, t);
    return run_suite(s);
}
