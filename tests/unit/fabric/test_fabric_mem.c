/* test_fabric_mem.c - the fabric's contract over threads, with and without faults; fullness, deadlines, wakes and kills. */
#include <pthread.h>
#include <string.h>

#include "base/clk.h"
#include "tests/unit/fabric/fabric_case.h"

#include "tests/unit/run.h"

enum { PATIENCE_US = 20000000 };

static struct fabric_hub *new_hub(int ranks, const struct fabric_faults *faults) {
    struct fabric_hub *h;
    struct why why;
    ck_assert_msg(fabric_hub_new(ranks, faults, &h, &why) == 0, "%s", why.text);
    return h;
}

enum { FRAME_BYTES = 300 };

static struct fabric *open_rank(struct fabric_hub *h, int rank) {
    struct fabric *f;
    struct why why;
    ck_assert_msg(fabric_mem_open(h, rank, &f, &why) == 0, "%s", why.text);
    ck_assert_msg(fabric_prepare(f, FRAME_BYTES, (uint32_t)rank + 1, &why) == 0, "%s", why.text);
    return f;
}

static void send_int(struct fabric *f, int to, int value) {
    int *room = fabric_reserve(f, to, sizeof *room);
    ck_assert_ptr_nonnull(room);
    *room = value;
    fabric_commit(f, to, sizeof *room);
}

struct runner {
    pthread_t thread;
    struct fabric *f;
    uint64_t seed;
    int frames, rc;
    bool repeats;
    struct why why;
};

static void *run_contract(void *arg) {
    struct runner *r = arg;
    r->rc = fabric_case_run(r->f, r->seed, r->frames, r->repeats, PATIENCE_US, &r->why);
    return NULL;
}

static void run_all(int ranks, uint64_t seed, int frames, const struct fabric_faults *faults) {
    struct fabric_hub *h = new_hub(ranks, faults);
    struct runner r[8];
    for (int i = 0; i < ranks; i++) {
        r[i] = (struct runner){
            .f = open_rank(h, i), .seed = seed, .frames = frames, .repeats = faults && faults->duplicate_percent};
        ck_assert_int_eq(pthread_create(&r[i].thread, NULL, run_contract, &r[i]), 0);
    }
    for (int i = 0; i < ranks; i++) pthread_join(r[i].thread, NULL);
    for (int i = 0; i < ranks; i++) {
        ck_assert_msg(r[i].rc == 0, "seed %d, rank %d: %s", (int)seed, i, r[i].why.text);
        fabric_close(r[i].f);
    }
    fabric_hub_free(h);
}

START_TEST(contract) {
    for (uint64_t seed = 1; seed <= 10; seed++) run_all(_i, seed, 200, NULL);
}
END_TEST

START_TEST(contract_with_faults) {
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct fabric_faults faults = {
            .seed = seed, .delay_percent = (int)(seed % 3) * 10, .duplicate_percent = (int)(seed % 4) * 30};
        run_all(_i, seed, 60, &faults);
    }
}
END_TEST

START_TEST(refusals) {
    struct fabric_hub *h = NULL;
    struct fabric *f = NULL, *again = NULL;
    struct why why;
    ck_assert_int_eq(fabric_hub_new(0, NULL, &h, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_hub_new(FABRIC_MAX_RANKS + 1, NULL, &h, &why), ERR_INVALID);
    h = new_hub(64, NULL);
    ck_assert_int_eq(fabric_mem_open(h, 0, &f, &why), 0);
    ck_assert_int_eq(fabric_prepare(f, 0, 1, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_prepare(f, SIZE_MAX, 1, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_prepare(f, SIZE_MAX / 64 / 64, 1, &why), ERR_TOO_LARGE);
    ck_assert_int_eq(fabric_prepare(f, (size_t)1 << 44, 1, &why), ERR_NOMEM);
    ck_assert_int_eq(fabric_prepare(f, 64, 1, &why), 0);
    ck_assert_int_eq(fabric_mem_open(h, 1, &again, &why), 0);
    ck_assert_int_eq(fabric_prepare(again, 65, 2, &why), ERR_INVALID); /* all alike */
    ck_assert_int_eq(fabric_attach(f, 0, 1, NULL, 0, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_attach(f, 64, 1, NULL, 0, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_attach(f, 1, 1, NULL, FABRIC_ADDRESS_BYTES + 1, &why), ERR_TOO_LARGE);
    fabric_close(f);
    fabric_close(again);
    fabric_hub_free(h);
    h = new_hub(2, NULL);
    ck_assert_int_eq(fabric_mem_open(h, 2, &f, &why), ERR_INVALID);
    f = open_rank(h, 1);
    ck_assert_int_eq(fabric_mem_open(h, 1, &again, &why), ERR_EXISTS);
    fabric_close(f);
    fabric_close(open_rank(h, 1)); /* may be opened again once closed */
    fabric_close(NULL);
    fabric_hub_free(h);
    fabric_hub_free(NULL);
}
END_TEST

/* A stream takes FABRIC_DEPTH frames and no more; each release makes room for one. */
START_TEST(full_and_room) {
    struct fabric_hub *h = new_hub(2, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    size_t bytes;
    ck_assert_ptr_null(fabric_take(b, 0, &bytes));
    for (int i = 0; i < FABRIC_DEPTH; i++) send_int(a, 1, i);
    ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    for (int i = 0; i < 20; i++) {
        const int *got = fabric_take(b, 0, &bytes);
        ck_assert_int_eq(*got, i);
        fabric_give(b, 0, got);
        send_int(a, 1, i + FABRIC_DEPTH);
        ck_assert_ptr_null(fabric_reserve(a, 1, 4));
    }
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

/* Frames may be given back in any order, and each makes room at once, whatever older ones are still out. */
START_TEST(given_back_in_any_order) {
    struct fabric_hub *h = new_hub(2, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    const int *got[FABRIC_DEPTH], *next;
    size_t bytes;
    for (int i = 0; i < FABRIC_DEPTH; i++) send_int(a, 1, i);
    for (int i = 0; i < FABRIC_DEPTH; i++) {
        got[i] = fabric_take(b, 0, &bytes);
        ck_assert_int_eq(*got[i], i);
    }
    ck_assert_ptr_null(fabric_take(b, 0, &bytes));
    for (int i = FABRIC_DEPTH - 1; i > 0; i--) {
        ck_assert_ptr_null(fabric_reserve(a, 1, 4));
        fabric_give(b, 0, got[i]);
        send_int(a, 1, 100 - i);
    }
    ck_assert_int_eq(*got[0], 0); /* the oldest is still out */
    for (int i = FABRIC_DEPTH - 1; i > 0; i--) {
        next = fabric_take(b, 0, &bytes);
        ck_assert_int_eq(*next, 100 - i); /* in the order sent */
        fabric_give(b, 0, next);
    }
    fabric_give(b, 0, got[0]);
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

START_TEST(wait_keeps_its_deadline) {
    struct fabric_hub *h = new_hub(2, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    int64_t start = clk_now_us();
    ck_assert_int_eq(fabric_wait(a, start + 20000), ERR_DEADLINE);
    ck_assert_int_ge(clk_now_us() - start, 20000);
    ck_assert_int_eq(fabric_wait(a, start), ERR_DEADLINE); /* already past */
    send_int(b, 0, 1);
    ck_assert_int_eq(fabric_wait(a, start), 0);            /* news count even then */
    ck_assert_int_eq(fabric_wait(a, start), ERR_DEADLINE); /* once */
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

static void *wait_until_told(void *arg) {
    struct runner *r = arg;
    r->rc = fabric_wait(r->f, clk_now_us() + PATIENCE_US);
    return NULL;
}

/* A sleeper is woken by a frame, by room, and by its own death. */
START_TEST(wakes) {
    struct fabric_hub *h = new_hub(2, NULL);
    struct runner r = {.f = open_rank(h, 0)};
    struct fabric *b = open_rank(h, 1);
    size_t bytes;
    for (int round = 0; round < 30; round++) {
        bool room = round % 2, asleep = round % 3;
        if (room) send_int(r.f, 1, 1);
        pthread_create(&r.thread, NULL, wait_until_told, &r);
        if (asleep) fabric_wait(b, clk_now_us() + 2000); /* for b: until its own frame, or time for r to fall asleep */
        if (room) {
            fabric_give(b, 0, fabric_take(b, 0, &bytes));
        } else {
            send_int(b, 0, 1);
        }
        pthread_join(r.thread, NULL);
        ck_assert_int_eq(r.rc, 0);
        if (!room) {
            fabric_give(r.f, 1, fabric_take(r.f, 1, &bytes));
        }
        fabric_wait(r.f, 0); /* forget what is left of this round */
        fabric_wait(b, 0);
    }
    pthread_create(&r.thread, NULL, wait_until_told, &r);
    fabric_wait(b, clk_now_us() + 2000);
    fabric_hub_kill(h, 0);
    pthread_join(r.thread, NULL);
    ck_assert_int_eq(r.rc, ERR_GONE);
    fabric_close(r.f);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

START_TEST(a_killed_rank_is_silence) {
    struct fabric_hub *h = new_hub(3, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1), *c = open_rank(h, 2);
    size_t bytes;
    send_int(b, 0, 1);
    int *half = fabric_reserve(a, 1, 4);
    ck_assert_ptr_nonnull(half);
    fabric_hub_kill(h, 0);
    fabric_commit(a, 1, 4); /* died while writing: nobody sees it */
    ck_assert_ptr_null(fabric_take(b, 0, &bytes));
    ck_assert_ptr_null(fabric_take(a, 1, &bytes));
    ck_assert_ptr_null(fabric_reserve(a, 2, 4));
    ck_assert_int_eq(fabric_wait(a, clk_now_us() + PATIENCE_US), ERR_GONE);
    ck_assert_int_eq(fabric_wait(b, clk_now_us() + 1000), ERR_DEADLINE);
    send_int(b, 0, 2); /* to the dead: goes nowhere, harms nobody */
    send_int(b, 2, 3);
    ck_assert_int_eq(*(const int *)fabric_take(c, 1, &bytes), 3);
    fabric_close(a);
    fabric_close(b);
    fabric_close(c);
    fabric_hub_free(h);
}
END_TEST

static uint64_t pattern(uint64_t seed) {
    struct fabric_faults faults = {.seed = seed, .duplicate_percent = 50};
    struct fabric_hub *h = new_hub(2, &faults);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    uint64_t twice = 0;
    for (int i = 0; i < 60; i++) {
        size_t bytes;
        send_int(a, 1, i);
        const int *got;
        for (int n = 0; (got = fabric_take(b, 0, &bytes)); n++) {
            ck_assert_int_eq(*got, i);
            fabric_give(b, 0, got);
            twice = twice << 1 | (unsigned)(n == 1);
        }
    }
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
    return twice;
}

START_TEST(faults_follow_from_the_seed) {
    ck_assert_uint_eq(pattern(1), pattern(1));
    ck_assert_uint_ne(pattern(1), pattern(2));
}
END_TEST

/* A held-back frame turns up without anybody ringing again. */
START_TEST(delayed_frames_wake) {
    struct fabric_faults faults = {.seed = 5, .delay_percent = 100};
    struct fabric_hub *h = new_hub(2, &faults);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    size_t bytes;
    for (int i = 0; i < 50; i++) {
        send_int(a, 1, i);
        const void *frame;
        while (!(frame = fabric_take(b, 0, &bytes))) ck_assert_int_eq(fabric_wait(b, clk_now_us() + PATIENCE_US), 0);
        fabric_give(b, 0, frame);
    }
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

int main(void) {
    Suite *s = suite_create("fabric_mem");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_loop_test(t, contract, 1, 9);
    tcase_add_loop_test(t, contract_with_faults, 2, 6);
    tcase_add_test(t, refusals);
    tcase_add_test(t, full_and_room);
    tcase_add_test(t, given_back_in_any_order);
    tcase_add_test(t, wait_keeps_its_deadline);
    tcase_add_test(t, wakes);
    tcase_add_test(t, a_killed_rank_is_silence);
    tcase_add_test(t, faults_follow_from_the_seed);
    tcase_add_test(t, delayed_frames_wake);
    suite_add_tcase(s, t);
    return run_suite(s);
}
