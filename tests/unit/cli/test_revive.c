/* test_revive.c - how often, and how soon, a process that dies is started again. */
#include "cli/revive.h"

#include "tests/unit/run.h"

#define S(seconds) ((int64_t)((seconds) * 1e6))

START_TEST(again_and_again) {
    struct revive r = {.n = 0};
    static const double waits[] = {0, 0.5, 1, 2};
    for (int i = 0; i < 4; i++) ck_assert_int_eq(revive_after(&r, S(10 + i)), S(waits[i]));
    ck_assert_int_lt(revive_after(&r, S(14)), 0);
    ck_assert_int_lt(revive_after(&r, S(15)), 0);
}
END_TEST

START_TEST(old_deaths_do_not_count) {
    struct revive r = {.n = 0};
    for (int i = 0; i < 100; i++) ck_assert_int_eq(revive_after(&r, S(100 * i)), 0);
    ck_assert_int_eq(revive_after(&r, S(9901)), S(0.5));
    ck_assert_int_eq(revive_after(&r, S(9960.5)), S(0.5)); /* the first of the two is over a minute ago */
}
END_TEST

RUN("revive", NULL, NULL, again_and_again, old_deaths_do_not_count)
