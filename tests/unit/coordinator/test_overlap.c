/* test_overlap.c - the choice between one and two microbatches, against machines made of three numbers. */
#include <stdbool.h>

#include "coordinator/overlap.h"

#include "tests/unit/run.h"

struct machine { /* microseconds */
    double row, wait, twice; /* computing a row; waiting for others per row; reading the weights once more */
};

static int64_t step_us(const struct machine *m, int rows, int microbatches, int64_t *wait_us) {
    double compute = m->row * rows, wait = m->wait * rows;
    if (microbatches == 2) { /* each half's waiting behind the other's computing */
        wait = wait > compute / 2 ? wait - compute / 2 : 0;
        compute += m->twice;
    }
    *wait_us = (int64_t)wait;
    return (int64_t)(compute + wait);
}

/* Runs n steps; how many of the last hundred were in two microbatches. */
static int settle(struct overlap *o, const struct machine *m, int rows, int n) {
    int two = 0;
    for (int i = 0; i < n; i++) {
        int64_t wait_us, form = overlap_choose(o, rows, 4);
        ck_assert(form == 1 || form == 2);
        int64_t us = step_us(m, rows, (int)form, &wait_us);
        for (int w = 0; w < 4; w++) overlap_learn(o, rows, (int)form, us, wait_us);
        if (i >= n - 100) two += form == 2;
    }
    return two;
}

START_TEST(small_steps_and_lone_workers_stay_whole) {
    struct overlap o = {0};
    static const struct machine waits = {10, 100, 0};
    ck_assert_int_eq(settle(&o, &waits, OVERLAP_MIN_ROWS - 1, 500), 0);
    for (int i = 0; i < 100; i++) ck_assert_int_eq(overlap_choose(&o, 1000, 1), 1);
    ck_assert_uint_eq(o.steps[0], 600);
    ck_assert_uint_eq(o.steps[1], 0);
}
END_TEST

START_TEST(waits_are_hidden_where_that_pays) {
    static const struct machine slow_net = {20, 15, 300}, fast_net = {20, 0.5, 300}, heavy = {20, 5, 4000};
    struct overlap o = {0};
    ck_assert_int_ge(settle(&o, &slow_net, 256, 500), 99); /* 8960 against 6700 us */
    o = (struct overlap){0};
    ck_assert_int_eq(settle(&o, &fast_net, 256, 500), 0); /* too little to hide: not even tried */
    o = (struct overlap){0};
    ck_assert_int_le(settle(&o, &heavy, 256, 500), 1); /* tried, and slower: 6400 against 9120 us */
    ck_assert_uint_gt(o.size[8].seen[1], 0);
}
END_TEST

START_TEST(sizes_are_judged_apart) {
    struct overlap o = {0};
    static const struct machine m = {20, 15, 1500}; /* pays from 150 rows or so */
    settle(&o, &m, 64, 300);
    settle(&o, &m, 1024, 300);
    ck_assert_int_le(settle(&o, &m, 64, 300), 1);
    ck_assert_int_ge(settle(&o, &m, 1024, 300), 99);
}
END_TEST

START_TEST(changes_are_followed) {
    struct overlap o = {0};
    static const struct machine slow_net = {20, 15, 300}, grown = {20, 15, 6000};
    ck_assert_int_ge(settle(&o, &slow_net, 256, 500), 99);
    ck_assert_int_le(settle(&o, &grown, 256, 500), 1);
    ck_assert_int_ge(settle(&o, &slow_net, 256, 20 * OVERLAP_AGAIN), 99); /* seen by the looks now and then */
}
END_TEST

/* A step that takes twenty times as long as any, on every worker, says nothing of its form: not later, nor among the first. */
START_TEST(hiccups_are_nothing) {
    static const struct machine slow_net = {20, 15, 300};
    for (int early = 0; early < 2; early++) {
        struct overlap o = {0};
        bool hit = false;
        for (int i = 0, two = 0; i < 500; i++) {
            int64_t wait_us, form = overlap_choose(&o, 256, 4), us = step_us(&slow_net, 256, (int)form, &wait_us);
            two += form == 2;
            if (!hit && two == (early ? 1 : 100)) hit = true, us *= 20;
            for (int w = 0; w < 4; w++) overlap_learn(&o, 256, (int)form, us, wait_us);
        }
        ck_assert(hit);
        ck_assert_uint_ge(o.steps[1], 485); /* but for learning, and looks now and then */
    }
}
END_TEST

START_TEST(operators_decide) {
    struct overlap o = {.forced = 2};
    ck_assert_int_eq(overlap_choose(&o, 1, 1), 2);
    ck_assert_uint_eq(o.steps[1], 1);
    o.forced = 1;
    static const struct machine waits = {10, 100, 0};
    ck_assert_int_eq(settle(&o, &waits, 4096, 500), 0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("overlap");
    TCase *t = tcase_create("all");
    tcase_add_test(t, small_steps_and_lone_workers_stay_whole);
    tcase_add_test(t, waits_are_hidden_where_that_pays);
    tcase_add_test(t, sizes_are_judged_apart);
    tcase_add_test(t, changes_are_followed);
    tcase_add_test(t, hiccups_are_nothing);
    tcase_add_test(t, operators_decide);
    suite_add_tcase(s, t);
    return run_suite(s);
}
