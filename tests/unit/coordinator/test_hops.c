/* test_hops.c - the choice between one hop and two: counts against the table everybody quotes, times against links made up. */
#include "coordinator/hops.h"

#include <math.h>
#include <stdio.h>

#include "tests/unit/run.h"

/* Copies of a token that leave its host, by how many hosts, as counting predicts them. */
START_TEST(copies_are_counted_right) {
    static const struct {
        int topk, experts, hosts;
        double far;
    } table[] = {
        {8, 256, 2, 1.0}, {8, 256, 4, 2.7}, {8, 256, 8, 4.6}, {4, 128, 2, 0.94}, {4, 128, 4, 2.1}, {4, 128, 8, 2.9},
        {2, 8, 2, 0.79},  {2, 8, 4, 1.4},   {2, 8, 8, 1.75},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int N = table[i].hosts;
        double far = hops_groups(table[i].experts, N, table[i].topk) * (N - 1) / N;
        ck_assert_msg(fabs(far - table[i].far) < 0.05, "top-%d of %d on %d hosts: %.3f, wanted %.2f", table[i].topk,
                      table[i].experts, N, far, table[i].far);
    }
    ck_assert_double_eq(hops_groups(8, 8, 8), 8);
    ck_assert_double_eq(hops_groups(8, 1, 2), 1);
    ck_assert_double_eq(hops_groups(0, 4, 2), 0);
    ck_assert_double_eq_tol(hops_groups(10, 4, 1), 1, 1e-9); /* groups that do not divide */
}
END_TEST

static struct hops cluster(int workers, int hosts, int experts, int topk, double far_us, double far_rate) {
    return (struct hops){.workers = workers,
                         .hosts = hosts,
                         .experts = experts,
                         .topk = topk,
                         .row_bytes = 8192,
                         .inside = {.latency_us = 5, .bytes_per_us = 5000},
                         .between = {.latency_us = far_us, .bytes_per_us = far_rate}};
}

START_TEST(the_faster_way_is_taken) {
    static const struct {
        const char *what;
        int workers, hosts, experts, topk;
        double far_us, far_rate; /* us, bytes per us */
        int tokens, hops;
    } table[] = {
        {"a slow network, many rows", 8, 2, 64, 8, 30, 120, 256, 2},
        {"a slow network, one row: less to save than a hop takes", 8, 2, 64, 8, 30, 20000, 1, 1},
        {"a network as fast as memory", 8, 2, 64, 8, 5, 5000, 256, 1},
        {"one worker on each host: nothing to pass on", 4, 4, 64, 8, 30, 120, 256, 1},
        {"one host", 8, 1, 64, 8, 30, 120, 256, 1},
        {"dense layers only", 8, 2, 0, 0, 30, 120, 256, 1},
        {"top-2 of 8: one worker for each expert, hardly any copies to save", 8, 8, 8, 2, 30, 120, 256, 1},
        {"no tokens", 8, 2, 64, 8, 30, 120, 0, 1},
        {"links not known", 8, 2, 64, 8, 0, 0, 256, 1},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct hops h = cluster(table[i].workers, table[i].hosts, table[i].experts, table[i].topk, table[i].far_us,
                                table[i].far_rate);
        int got = hops_choose(&h, table[i].tokens);
        struct hops_cost c = hops_cost(&h, table[i].tokens);
        ck_assert_msg(got == table[i].hops, "%s: %d hops (direct %.1f us, two hops %.1f us)", table[i].what, got, c.direct_us,
                      c.two_us);
    }
}
END_TEST

/* From some size on two hops, and below it one: bytes count more and more, the second latency does not. */
START_TEST(one_threshold_in_tokens) {
    struct hops h = cluster(6, 3, 64, 8, 40, 1000);
    int changes = 0, before = 1, from = hops_two_from(&h, 4095);
    for (int t = 0; t < 4096; t++) {
        int now = hops_choose(&h, t);
        changes += now != before;
        ck_assert_int_eq(now == 2, t >= from);
        before = now;
    }
    ck_assert_int_eq(changes, 1);
    ck_assert_int_eq(before, 2);
    ck_assert_int_eq(hops_two_from(&h, from), from);
    ck_assert_int_eq(hops_two_from(&h, from - 1), 0);
    h.hosts = 1;
    ck_assert_int_eq(hops_two_from(&h, 4095), 0);
}
END_TEST

START_TEST(an_operator_decides_where_there_is_a_choice) {
    struct hops h = cluster(8, 2, 64, 8, 30, 120);
    h.forced = 1;
    ck_assert_int_eq(hops_choose(&h, 256), 1);
    h.forced = 2;
    h.between.bytes_per_us = 0;
    ck_assert_int_eq(hops_choose(&h, 1), 2);
    h.hosts = 1;
    ck_assert_int_eq(hops_choose(&h, 256), 1);
}
END_TEST

START_TEST(the_slowest_link_counts) {
    const struct hops_link unknown = {0}, a = {10, 100}, b = {20, 300};
    struct hops_link worst = hops_slower(hops_slower(unknown, a), hops_slower(b, unknown));
    ck_assert_double_eq(worst.latency_us, 20);
    ck_assert_double_eq(worst.bytes_per_us, 100);
    ck_assert_double_eq(hops_slower(unknown, unknown).bytes_per_us, 0);
}
END_TEST

int main(void) {
    Suite *s = suite_create("hops");
    TCase *t = tcase_create("all");
    tcase_add_test(t, copies_are_counted_right);
    tcase_add_test(t, the_faster_way_is_taken);
    tcase_add_test(t, one_threshold_in_tokens);
    tcase_add_test(t, an_operator_decides_where_there_is_a_choice);
    tcase_add_test(t, the_slowest_link_counts);
    suite_add_tcase(s, t);
    return run_suite(s);
}
