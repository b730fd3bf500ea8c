/* test_team.c - every task of every dispatch runs once, whoever sleeps, however many members there are. */
#include <pthread.h>
#include <stdatomic.h>

#include "kernels/cpu/team.h"

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
    tcase_add_test(c, open_and_close);
    tcase_add_test(c, dispatches_in_order);
    tcase_add_test(c, teams_are_independent);
    suite_add_tcase(s, c);
    return run_suite(s);
}
