/* test_team.c - every task of every dispatch runs once, whoever sleeps, however many members there are. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/clk.h"
#include "kernels/cpu/team.h"
#include "kernels/kernels.h"

#include "tests/unit/run.h"


enum { MOST = 3000 };

struct count {
    atomic_int runs[MOST];
    atomic_int wrong_thread;
    int threads;
};

static void count_task(void *arg, int task, int thread) {
    struct count *c = arg;
    atomic_fetch_add(&c->runs[task], 1);
    if (thread < 0 || thread >= c->threads) atomic_store(&c->wrong_thread, 1);
}

static void run_many(int threads, int dispatches) {
    struct why why;
    struct team *t;
    static struct count c;
    ck_assert_int_eq(team_open(&t, threads, &why), 0);
    c.threads = threads;
    for (int i = 0; i < dispatches; i++) {
        int tasks = i % 100 == 99 ? MOST : i % 13; /* none, one, fewer than threads, many */
        for (int j = 0; j < MOST && j <= tasks; j++) atomic_store(&c.runs[j], 0);
        team_run(t, count_task, &c, tasks);
        for (int j = 0; j < MOST && j <= tasks; j++) ck_assert_int_eq(atomic_load(&c.runs[j]), j < tasks);
    }
    ck_assert_int_eq(atomic_load(&c.wrong_thread), 0);
    team_close(t);
}

START_TEST(once_each) {
    for (int threads = 1; threads <= 9; threads++) run_many(threads, 500);
}
END_TEST

START_TEST(open_and_close) { /* members may not have started when the team closes */
    for (int i = 0; i < 200; i++) {
        struct why why;
        struct team *t;
        ck_assert_int_eq(team_open(&t, 1 + i % 6, &why), 0);
        team_close(t);
    }
    team_close(NULL);
}
END_TEST

/* One dispatch feeds the next through plain memory: what a task wrote must be visible to every task of the next. */
struct chain {
    int from[64], to[64];
};

static void chain_task(void *arg, int task, int thread) {
    struct chain *c = arg;
    (void)thread;
    c->to[task] = c->from[(task + 1) % 64] + 1;
}

START_TEST(dispatches_in_order) {
    struct why why;
    struct team *t;
    struct chain c = {{0}, {0}};
    ck_assert_int_eq(team_open(&t, 3, &why), 0);
    for (int i = 1; i <= 3000; i++) {
        team_run(t, chain_task, &c, 64);
        for (int j = 0; j < 64; j++) {
            ck_assert_int_eq(c.to[j], i);
            c.from[j] = c.to[j];
        }
    }
    team_close(t);
}
END_TEST

/* ---- what the owner does between tasks ---- */

static void count_call(void *calls) { ++*(int *)calls; }
static void spin(int64_t us) {
    for (int64_t until = clk_now_us() + us; clk_now_us() < until;) continue;
}

static void long_task(void *team, int task, int thread) {
    (void)task;
    for (int i = 0; i < 3; i++) {
        spin(2 * BACKEND_TASK_US);
        team_between(team, thread);
    }
}

START_TEST(calls_and_times) {
    struct why why;
    struct team *t;
    int calls = 0;
    struct backend b = {.between = {count_call, &calls}};
    static struct count c = {.threads = 1};
    ck_assert_int_eq(team_open(&t, 1, &why), 0);
    team_set_backend(t, &b);
    team_run(t, count_task, &c, 50);
    ck_assert_int_eq(calls, 50);
    ck_assert_uint_eq(b.tasks.n, 50);
    b.tasks = (struct backend_tasks){0};
    team_run(t, long_task, t, 2);
    ck_assert_int_eq(calls, 50 + 2 * 4);
    ck_assert_uint_eq(b.tasks.n, 2 * 4);
    ck_assert_uint_ge(b.tasks.over, 2 * 3);
    ck_assert_uint_ge(b.tasks.longest_us, 2 * BACKEND_TASK_US);
    team_close(t);
}
END_TEST

struct hostage { /* the other member's task, which ends when the owner was called so often meanwhile */
    atomic_int calls, arrived;
};

static void count_rescue(void *h) { atomic_fetch_add(&((struct hostage *)h)->calls, 1); }

static void wait_for_calls(void *arg, int task, int thread) {
    struct hostage *h = arg;
    (void)task;
    atomic_fetch_add(&h->arrived, 1);
    while (atomic_load(&h->arrived) < 2) sched_yield(); /* one task each */
    while (thread && atomic_load(&h->calls) < 20) sched_yield();
}

START_TEST(calls_while_it_waits) {
    struct why why;
    struct team *t;
    struct hostage h = {0};
    struct backend b = {.between = {count_rescue, &h}};
    ck_assert_int_eq(team_open(&t, 2, &why), 0);
    team_set_backend(t, &b);
    team_run(t, wait_for_calls, &h, 2);
    ck_assert_int_ge(atomic_load(&h.calls), 20);
    team_close(t);
}
END_TEST

static void *own_team(void *arg) {
    (void)arg;
    struct why why;
    struct team *t;
    struct chain c = {{0}, {0}};
    if (team_open(&t, 2, &why) < 0) return arg;
    for (int i = 0; i < 500; i++) team_run(t, chain_task, &c, 64);
    team_close(t);
    return NULL;
}

START_TEST(teams_are_independent) {
    pthread_t owners[3];
    int here;
    for (int i = 0; i < 3; i++) ck_assert_int_eq(pthread_create(&owners[i], NULL, own_team, &here), 0);
    for (int i = 0; i < 3; i++) {
        void *result;
        pthread_join(owners[i], &result);
        ck_assert_ptr_null(result);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("team");
    TCase *c = tcase_create("team");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, once_each);
    tcase_add_test(c, calls_and_times);
    tcase_add_test(c, calls_while_it_waits);
    tcase_add_test(c, open_and_close);
    tcase_add_test(c, dispatches_in_order);
    tcase_add_test(c, teams_are_independent);
    suite_add_tcase(s, c);
    return run_suite(s);
}
