/* test_links.c - who is named as slow and who is not, quantiles of waits, counts that do not fit. */
#include "coordinator/links.h"

#include <string.h>

#include "tests/unit/run.h"

enum { R = 3, MS = 1000 };
static struct links l;
static struct why why;
static int64_t now;

static void open_all(void) {
    ck_assert_int_eq(links_init(&l, R), 0);
    now = 5000000;
}
static void close_all(void) { links_clear(&l); }

/* Steps of 10 ms in which worker w waits wait[w][peer] us, for so long. */
static void run(const uint64_t wait[R][R], int64_t us) {
    for (int64_t until = now + us; now < until; now += 10 * MS)
        for (int w = 0; w < R; w++) {
            struct worker_step_done d = {.step_us = 10 * MS, .wait_us = wait[w], .n_wait = R};
            links_step(&l, w, &d, now);
        }
}

static const uint64_t even[R][R] = {{0, 900, 800}, {1000, 0, 900}, {700, 1100, 0}};
static const uint64_t slow1[R][R] = {{0, 9000, 300}, {0, 0, 0}, {200, 8000, 0}};
static const uint64_t stopped1[R][R] = {{0, 9000, 300}, {7000, 0, 7000}, {200, 8000, 0}}; /* also while it waits */
static const uint64_t two_slow[R][R] = {{0, 5000, 4000}, {0, 0, 4000}, {0, 5000, 0}};

START_TEST(nobody_stands_out) {
    double share;
    ck_assert_int_eq(links_slowest(&l, &share), -1); /* before the first step */
    run(even, 3000 * MS);
    ck_assert_int_eq(links_slowest(&l, &share), -1);
    run(two_slow, 60000 * MS); /* both are, and neither is twice the other */
    ck_assert_int_eq(links_slowest(&l, &share), -1);
}
END_TEST

START_TEST(one_is_slow) {
    double share;
    run(slow1, 1000 * MS);
    ck_assert_int_eq(links_slowest(&l, &share), 1);
    ck_assert(share > 0.79 && share < 0.81);
    ck_assert_uint_eq(l.wait_us[0 * R + 1], 100 * 9000);
}
END_TEST

START_TEST(one_is_stopped_again_and_again) {
    double share;
    run(stopped1, 1000 * MS);
    ck_assert_int_eq(links_slowest(&l, &share), 1);
}
END_TEST

START_TEST(only_the_last_steps_count) {
    double share;
    run(even, 600000 * MS); /* ten good minutes do not hide a bad half one */
    run(slow1, 30000 * MS);
    ck_assert_int_eq(links_slowest(&l, &share), 1);
    run(even, 30000 * MS);
    ck_assert_int_eq(links_slowest(&l, &share), -1);
}
END_TEST

START_TEST(quantiles) {
    struct link_count c = {.waits = {50, 0, 0, 49, 0, 0, 0, 0, 0, 0, 1}};
    ck_assert_uint_eq(links_waits(&c), 100);
    ck_assert_uint_eq(links_quantile_us(&c, 0.5), 0);
    ck_assert_uint_eq(links_quantile_us(&c, 0.51), 8);
    ck_assert_uint_eq(links_quantile_us(&c, 0.99), 8);
    ck_assert_uint_eq(links_quantile_us(&c, 1), 1024);
    c = (struct link_count){0};
    ck_assert_uint_eq(links_quantile_us(&c, 0.99), 0); /* nothing was waited for */
    c.waits[MSG_WAIT_BUCKETS - 1] = UINT64_MAX;
    ck_assert_uint_eq(links_quantile_us(&c, 0.5), UINT64_C(1) << (MSG_WAIT_BUCKETS - 1));
}
END_TEST

START_TEST(counts) {
    struct link_count c[R] = {{.bytes_out = 1}, {.bytes_out = 2, .frames_extra = 4, .frames_bad = 5}, {.bytes_out = 3}};
    ck_assert_int_eq(links_count(&l, 2, c, R, &(struct task_count){30, 2, 900}, &why), 0);
    ck_assert_uint_eq(l.count[2 * R + 1].bytes_out, 2);
    ck_assert_uint_eq(l.count[2 * R + 1].frames_extra, 4);
    ck_assert_uint_eq(l.count[2 * R + 1].frames_bad, 5);
    ck_assert_uint_eq(l.tasks[2].n + l.tasks[2].over + l.tasks[2].longest_us, 932);
    ck_assert_int_eq(links_count(&l, 2, c, 2, &(struct task_count){0}, &why), ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(why.text, "2 links; there are 3 workers"));
}
END_TEST

RUN("links", open_all, close_all, nobody_stands_out, one_is_slow, one_is_stopped_again_and_again, only_the_last_steps_count,
    quantiles, counts)
