/* run.h - the same end of every test program here: one suite, one case, in this process. */
#pragma once
#include <check.h>

static inline int run_tests(const char *name, const TTest *const *tests, int n, SFun setup, SFun teardown) {
    Suite *s = suite_create(name);
    TCase *t = tcase_create(name);
    tcase_set_timeout(t, 60);
    if (setup || teardown) tcase_add_checked_fixture(t, setup, teardown);
    for (int i = 0; i < n; i++) tcase_add_test(t, tests[i]);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed > 0;
}
#define RUN(name, setup, teardown, ...)                                                                                        \
    int main(void) {                                                                                                           \
        const TTest *const tests[] = {__VA_ARGS__};                                                                            \
        return run_tests(name, tests, (int)(sizeof tests / sizeof *tests), setup, teardown);                                   \
    }
