/* run.h - the same end of every test program: run the suite, say how many failed. Include it last, as check.h itself. */
#pragma once
#include <check.h>

static inline int run_suite_as(Suite *s, enum fork_status how) {
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, how);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed > 0;
}
/* The program's exit status. Each test is a process of its own, unless CK_FORK=no. */
static inline int run_suite(Suite *s) { return run_suite_as(s, CK_FORK_GETENV); }
/* In this process, for tests that share what they set up. */
static inline int run_suite_here(Suite *s) { return run_suite_as(s, CK_NOFORK); }

/* One suite of one case, in this process. */
static inline int run_tests(const char *name, const TTest *const *tests, int n, SFun setup, SFun teardown) {
    Suite *s = suite_create(name);
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 60);
    if (setup || teardown) tcase_add_checked_fixture(t, setup, teardown);
    for (int i = 0; i < n; i++) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
#define RUN(name, setup, teardown, ...)                                                                                        \
    int main(void) {                                                                                                           \
        const TTest *const tests[] = {__VA_ARGS__};                                                                            \
        return run_tests(name, tests, (int)(sizeof tests / sizeof *tests), setup, teardown);                                   \
    }
