/* test_pages.c - pages are taken all or nothing, come back in order, and never have two holders. */
#include "coordinator/pages.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/run.h"

static struct pages p;
static void open_pages(void) { ck_assert_int_eq(pages_init(&p, 2, 5), 0); }
static void close_pages(void) { pages_clear(&p); }

START_TEST(take_and_give) {
    int32_t a[3], b[2], c[5];
    ck_assert_int_eq(pages_take(&p, 0, 7, a, 3), 0);
    ck_assert_int_eq(a[0], 0);
    ck_assert_int_eq(a[2], 2);
    ck_assert_int_eq(pages_used(&p, 0), 3);
    ck_assert_int_eq(pages_used(&p, 1), 0);
    ck_assert_int_eq(pages_take(&p, 0, 8, c, 3), ERR_EXHAUSTED);
    ck_assert_int_eq(pages_free(&p, 0), 2);
    ck_assert_int_eq(pages_take(&p, 0, 8, b, 2), 0);
    ck_assert_int_eq(pages_take(&p, 0, 9, c, 0), 0);
    pages_give(&p, 0, 7, a, 3);
    ck_assert_int_eq(pages_take(&p, 0, 9, c, 3), 0);
    ck_assert_int_eq(c[0], a[0]);
    ck_assert_int_eq(c[2], a[2]);
}
END_TEST

START_TEST(claim) {
    uint32_t mine[] = {3, 1}, shared[] = {0, 1}, none[] = {5};
    int32_t a[3];
    ck_assert_int_eq(pages_claim(&p, 0, 7, mine, 2), 0);
    ck_assert_int_eq(pages_claim(&p, 0, 8, shared, 2), ERR_INVALID);
    ck_assert_int_eq(pages_claim(&p, 0, 8, none, 1), ERR_INVALID);
    ck_assert_int_eq(pages_used(&p, 0), 2);
    ck_assert_int_eq(pages_take(&p, 0, 9, a, 3), 0);
    ck_assert(a[0] == 0 && a[1] == 2 && a[2] == 4);
    pages_give(&p, 0, 7, (int32_t[]){3, 1}, 2);
    ck_assert_int_eq(pages_free(&p, 0), 2);
}
END_TEST

/* What must never happen stops the process: a wrong page would be silent corruption of somebody's answer. */
static void expect_bug(void (*f)(void)) {
    pid_t pid = fork();
    if (!pid) {
        close(STDERR_FILENO);
        f();
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}
static void give_of_another(void) {
    int32_t a[1];
    pages_take(&p, 0, 7, a, 1);
    pages_give(&p, 0, 8, a, 1);
}
static void give_twice(void) {
    int32_t a[1];
    pages_take(&p, 0, 7, a, 1);
    pages_give(&p, 0, 7, a, 1);
    pages_give(&p, 0, 7, a, 1);
}
static void give_unknown(void) {
    int32_t a[1] = {5};
    pages_give(&p, 0, 7, a, 1);
}
START_TEST(bugs) {
    expect_bug(give_of_another);
    expect_bug(give_twice);
    expect_bug(give_unknown);
}
END_TEST

RUN("pages", open_pages, close_pages, take_and_give, claim, bugs)
