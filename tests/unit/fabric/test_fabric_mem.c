/* test_fabric_mem.c - the fabric's contract over threads, with and without faults; fullness, deadlines, wakes and kills. */
#include <pthread.h>
#include <string.h>

#include "base/clk.h"
#include "base/hash.h"
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

/* ---- successors ---- */

static void attach_to(struct fabric *f, struct fabric *peer) {
    unsigned char address[FABRIC_ADDRESS_BYTES];
    struct why why;
    size_t bytes = fabric_address(peer, address);
    ck_assert_msg(fabric_attach(f, peer->rank, 0, address, bytes, &why) == 0, "%s", why.text);
}

static int take_int(struct fabric *f, int from) { /* -1: nothing there */
    size_t bytes;
    const int *got = fabric_take(f, from, &bytes);
    if (!got) return -1;
    int value = *got;
    fabric_give(f, from, got);
    return value;
}

START_TEST(a_successor_begins_anew) {
    struct fabric_hub *h = new_hub(2, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    size_t bytes;
    for (int i = 0; i < FABRIC_DEPTH; i++) send_int(a, 1, i), send_int(b, 0, 100 + i);
    const int *kept = fabric_take(b, 0, &bytes), *other = fabric_take(b, 0, &bytes);
    fabric_hub_kill(h, 0);
    fabric_close(a);
    a = open_rank(h, 0);
    ck_assert_int_ne(fabric_wait(a, 0), ERR_GONE); /* it lives */
    ck_assert_int_eq(take_int(a, 1), -1);              /* its predecessor's frames are not its own */
    send_int(a, 1, 7);                                 /* b does not know it yet, and loses nothing by that */
    attach_to(b, a);
    ck_assert_int_eq(take_int(b, 0), 7);
    send_int(b, 0, 8);
    ck_assert_int_eq(take_int(a, 1), 8);
    ck_assert(*kept == 0 && *other == 1);
    fabric_give(b, 0, other);
    for (int i = 0; i < 3 * FABRIC_DEPTH; i++) {
        send_int(a, 1, i);
        ck_assert_int_eq(take_int(b, 0), i);
    }
    ck_assert_int_eq(*kept, 0);
    fabric_give(b, 0, kept);
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

START_TEST(detached_and_attached_again) {
    struct fabric_hub *h = new_hub(3, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1), *c = open_rank(h, 2);
    struct why why;
    size_t bytes;
    send_int(a, 1, 1);
    const int *kept = fabric_take(b, 0, &bytes);
    ck_assert_ptr_nonnull(fabric_reserve(b, 0, 4)); /* given up by the detach */
    fabric_detach(b, 0);
    fabric_detach(b, 0); /* harmless */
    send_int(a, 1, 2);
    ck_assert_int_eq(take_int(b, 0), -1);
    ck_assert_ptr_null(fabric_reserve(b, 0, 4));
    ck_assert_int_eq(*kept, 1);
    fabric_give(b, 0, kept);
    send_int(c, 1, 3);
    ck_assert_int_eq(take_int(b, 2), 3);
    attach_to(b, a);
    attach_to(b, a); /* is so already */
    send_int(b, 0, 4);
    ck_assert_int_eq(take_int(a, 1), 4);
    uint32_t unborn = 2;
    ck_assert_int_eq(fabric_attach(b, 0, 1, &unborn, sizeof unborn, &why), ERR_NOT_FOUND);
    ck_assert_int_eq(fabric_attach(b, 0, 1, &unborn, 1, &why), ERR_INVALID);
    fabric_close(a);
    fabric_close(b);
    fabric_close(c);
    fabric_hub_free(h);
}
END_TEST

/* Left and come back to again and again with frames in hand: they stay readable, are given back once, and nothing is left. */
START_TEST(attached_again_with_frames_out) {
    struct fabric_hub *h = new_hub(2, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    size_t bytes;
    const int *kept[3];
    for (int i = 0; i < 3; i++) {
        send_int(a, 1, i);
        kept[i] = fabric_take(b, 0, &bytes);
        ck_assert_ptr_nonnull(kept[i]);
        fabric_detach(b, 0);
        attach_to(b, a);
    }
    fabric_detach(b, 0);
    fabric_give(b, 0, kept[1]);
    attach_to(b, a);
    for (int i = 0; i < 3; i += 2) {
        ck_assert_int_eq(*kept[i], i);
        fabric_give(b, 0, kept[i]);
    }
    for (int i = 0; i < FABRIC_DEPTH; i++) send_int(a, 1, 10 + i); /* all rooms are free again */
    for (int i = 0; i < FABRIC_DEPTH; i++) ck_assert_int_eq(take_int(b, 0), 10 + i);
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

/* Both ends of a pair are successors; hundreds of lives leave no memory behind. */
START_TEST(many_lives) {
    struct fabric_hub *h = new_hub(3, NULL);
    struct fabric *f[3];
    for (int r = 0; r < 3; r++) f[r] = open_rank(h, r);
    for (int life = 0; life < 300; life++) {
        int r = life % 3;
        size_t bytes;
        for (int p = 0; p < 3; p++)
            if (p != r) send_int(f[p], r, 1), send_int(f[r], p, life);
        fabric_take(f[(r + 1) % 3], r, &bytes); /* never given back */
        fabric_hub_kill(h, r);
        fabric_close(f[r]);
        f[r] = open_rank(h, r);
        for (int p = 0; p < 3; p++) {
            if (p == r) continue;
            attach_to(f[p], f[r]);
            attach_to(f[r], f[p]);
            send_int(f[p], r, life + p);
            ck_assert_int_eq(take_int(f[r], p), life + p);
        }
    }
    for (int r = 0; r < 3; r++) fabric_close(f[r]);
    fabric_hub_free(h);
}
END_TEST

START_TEST(one_way_cut) {
    struct fabric_hub *h = new_hub(2, NULL);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    fabric_hub_cut(h, 0, 1, true);
    for (int i = 0; i < 3 * FABRIC_DEPTH; i++) send_int(a, 1, 1); /* never full: they are gone */
    send_int(b, 0, 2);
    ck_assert_int_eq(take_int(b, 0), -1);
    ck_assert_int_eq(take_int(a, 1), 2);
    fabric_hub_cut(h, 0, 1, false);
    send_int(a, 1, 3);
    ck_assert_int_eq(take_int(b, 0), 3);
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
}
END_TEST

static int64_t virtual_us;
static int64_t virtual_now(void) { return virtual_us; }

/* 2000 frames under all faults in virtual time: every one that is not dropped comes once or twice, whole. Returns what came in
 * which order, as a hash. */
static uint64_t storm(uint64_t seed, int *dropped, int *repeated, int *overtaken) {
    enum { FRAMES = 2000 };
    struct fabric_faults faults = {.seed = seed,
                                   .delay_percent = 5,
                                   .reorder_percent = 20,
                                   .duplicate_percent = 10,
                                   .drop_percent = 10,
                                   .now_us = virtual_now};
    struct fabric_hub *h = new_hub(2, &faults);
    struct fabric *a = open_rank(h, 0), *b = open_rank(h, 1);
    static int seen[FRAMES];
    uint64_t order = 0;
    int next = 0, latest = -1;
    memset(seen, 0, sizeof seen);
    *dropped = *repeated = *overtaken = 0;
    virtual_us = 1;
    for (int quiet = 0; quiet < 1000; virtual_us++, quiet++) {
        int *room = next < FRAMES ? fabric_reserve(a, 1, sizeof *room) : NULL;
        if (room) *room = next++, fabric_commit(a, 1, sizeof *room), quiet = 0;
        for (int got; (got = take_int(b, 0)) >= 0;) {
            order = hash_u64(order + (uint64_t)got);
            *repeated += seen[got]++;
            *overtaken += got < latest;
            if (got > latest) latest = got;
        }
    }
    ck_assert_int_eq(next, FRAMES);
    for (int i = 0; i < FRAMES; i++) {
        ck_assert_msg(seen[i] <= 2, "frame %d came %d times", i, seen[i]);
        *dropped += !seen[i];
    }
    fabric_close(a);
    fabric_close(b);
    fabric_hub_free(h);
    return order;
}

START_TEST(storms_follow_from_the_seed) {
    int dropped, repeated, overtaken;
    uint64_t first = storm(3, &dropped, &repeated, &overtaken);
    ck_assert(dropped > 100 && dropped < 320);
    ck_assert(repeated > 80 && repeated < 320);
    ck_assert_int_gt(overtaken, 50);
    ck_assert_uint_eq(storm(3, &dropped, &repeated, &overtaken), first);
    ck_assert_uint_ne(storm(4, &dropped, &repeated, &overtaken), first);
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
    tcase_add_test(t, a_successor_begins_anew);
    tcase_add_test(t, detached_and_attached_again);
    tcase_add_test(t, attached_again_with_frames_out);
    tcase_add_test(t, many_lives);
    tcase_add_test(t, one_way_cut);
    tcase_add_test(t, storms_follow_from_the_seed);
    suite_add_tcase(s, t);
    return run_suite(s);
}
