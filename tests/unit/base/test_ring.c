/* test_ring.c - two threads and many elements through a small ring; the bell that lets the consumer sleep. */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/bell.h"
#include "base/hash.h"
#include "base/ring.h"

#include "tests/unit/run.h"


START_TEST(fills_and_wraps) {
    struct ring r;
    int v;
    ck_assert_int_eq(ring_init(&r, sizeof v, 5), 0); /* becomes 8 */
    ck_assert(!ring_pop(&r, &v));
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < 8; i++) ck_assert(ring_push(&r, &(int){round * 8 + i}));
        ck_assert(!ring_push(&r, &v));
        ck_assert_uint_eq(ring_len(&r), 8);
        for (int i = 0; i < (round % 2 ? 8 : 3); i++) ck_assert(ring_pop(&r, &v) && v == round * 8 + i);
        while (ring_pop(&r, &v)) continue;
        ck_assert_uint_eq(ring_len(&r), 0);
    }
    ring_clear(&r);
    ring_clear(&r);
}
END_TEST

enum { N = 1 << 16 };
struct item {
    uint64_t n, check[4]; /* larger than a word: a torn element would show */
};
struct pipe2 {
    struct ring ring;
    struct bell bell; /* rung by the producer */
};

static struct item make_item(uint64_t n) {
    struct item it = {.n = n};
    for (int i = 0; i < 4; i++) it.check[i] = hash_u64(n * 4 + (uint64_t)i);
    return it;
}

static void *produce(void *arg) {
    struct pipe2 *p = arg;
    for (uint64_t n = 0; n < N; n++) {
        struct item it = make_item(n);
        while (!ring_push(&p->ring, &it)) sched_yield();
        bell_ring(&p->bell);
    }
    return NULL;
}

START_TEST(two_threads) {
    struct pipe2 p;
    pthread_t producer;
    struct item it;
    ck_assert_int_eq(ring_init(&p.ring, sizeof it, 64), 0);
    ck_assert_int_eq(bell_open(&p.bell), 0);
    ck_assert_int_eq(pthread_create(&producer, NULL, produce, &p), 0);
    for (uint64_t n = 0; n < N;) {
        struct pollfd fd = {.fd = p.bell.fd, .events = POLLIN};
        ck_assert_msg(poll(&fd, 1, 20000) == 1, "slept although %zu elements wait", ring_len(&p.ring));
        bell_clear(&p.bell);
        while (ring_pop(&p.ring, &it)) {
            struct item want = make_item(n++);
            ck_assert_mem_eq(&it, &want, sizeof it);
        }
    }
    pthread_join(producer, NULL);
    ck_assert(!ring_pop(&p.ring, &it));
    bell_close(&p.bell);
    ring_clear(&p.ring);
}
END_TEST

START_TEST(bell) {
    struct bell b;
    ck_assert_int_eq(bell_open(&b), 0);
    struct pollfd fd = {.fd = b.fd, .events = POLLIN};
    ck_assert_int_eq(poll(&fd, 1, 0), 0);
    for (int i = 0; i < 3; i++) bell_ring(&b);
    ck_assert_int_eq(poll(&fd, 1, 0), 1);
    bell_clear(&b); /* all three at once */
    ck_assert_int_eq(poll(&fd, 1, 0), 0);
    bell_clear(&b); /* does not block */
    bell_close(&b);
    bell_close(&b);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ring");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, fills_and_wraps);
    tcase_add_test(t, two_threads);
    tcase_add_test(t, bell);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
