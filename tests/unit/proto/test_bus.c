/* test_bus.c - both buses keep the same promises: two parts, answers for a vanished peer and a full queue, a bell. */
#include "base/clk.h"
#include "proto/bus.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>
#include <zmq.h>

#include "tests/unit/run.h"

enum { MEM, ZMQ, WAIT_US = 10 * 1000 * 1000 };

static struct bus_hub *hub;
static struct bus_context *context;
static struct bus *server;
static struct why why;

static void open_server(int kind) {
    if (kind == MEM) ck_assert_int_eq(bus_mem_bind(hub, "place", &server, &why), 0);
    else ck_assert_msg(bus_zmq_bind(context, BUS_CLIENTS, "tcp://127.0.0.1:*", &server, &why) == 0, "%s", why.text);
}

static struct bus *open_client(int kind) {
    struct bus *b = NULL;
    if (kind == MEM) ck_assert_int_eq(bus_mem_connect(hub, bus_endpoint(server), &b, &why), 0);
    else ck_assert_msg(bus_zmq_connect(context, BUS_CLIENTS, bus_endpoint(server), &b, &why) == 0, "%s", why.text);
    return b;
}

static void setup(void) {
    hub = bus_hub_new();
    ck_assert_int_eq(bus_context_open(&context, NULL, &why), 0);
}

static void teardown(void) {
    bus_hub_free(hub);
    bus_context_close(context);
}

/* Waits on the bus' fd as its users do: receive until there is nothing, then sleep. */
static void recv_wait(struct bus *b, struct bus_msg *out) {
    int64_t until = clk_now_us() + WAIT_US;
    while (bus_recv(b, out) < 0) {
        struct pollfd p = {.fd = bus_fd(b), .events = POLLIN};
        ck_assert_msg(clk_now_us() < until, "nothing came");
        poll(&p, 1, 1000);
    }
}

START_TEST(round_trip) {
    open_server(_i);
    struct bus *a = open_client(_i), *b = open_client(_i);
    struct bus_msg m;
    ck_assert_int_eq(bus_send(a, NULL, "head", 4, "body", 4), 0);
    recv_wait(server, &m);
    ck_assert_uint_eq(m.head_len, 4);
    ck_assert_mem_eq(m.head, "head", 4);
    ck_assert_uint_eq(m.body_len, 4);
    ck_assert_mem_eq(m.body, "body", 4);
    struct bus_id id_a = m.from;
    ck_assert_int_eq(bus_send(b, NULL, "one", 3, NULL, 0), 0);
    recv_wait(server, &m);
    ck_assert_ptr_null(m.body);
    ck_assert(id_a.len != m.from.len || memcmp(id_a.bytes, m.from.bytes, id_a.len));
    ck_assert_int_eq(bus_send(server, &id_a, "to a", 4, "", 0), 0);
    recv_wait(a, &m);
    ck_assert_mem_eq(m.head, "to a", 4);
    ck_assert_ptr_nonnull(m.body);
    ck_assert_uint_eq(m.body_len, 0);
    ck_assert_int_eq(bus_recv(b, &m), ERR_AGAIN);
    bus_close(a);
    bus_close(b);
    bus_close(server);
}
END_TEST

START_TEST(vanished) {
    open_server(_i);
    struct bus *a = open_client(_i);
    struct bus_msg m;
    bus_send(a, NULL, "x", 1, NULL, 0);
    recv_wait(server, &m);
    struct bus_id id = m.from, nobody = {.len = 5, .bytes = "abcde"};
    ck_assert_int_eq(bus_send(server, &nobody, "x", 1, NULL, 0), ERR_GONE);
    bus_close(a);
    int64_t until = clk_now_us() + WAIT_US;
    int rc = 0;
    while (rc != ERR_GONE && clk_now_us() < until) {
        rc = bus_send(server, &id, "x", 1, NULL, 0);
        bus_recv(server, &m);
    }
    ck_assert_int_eq(rc, ERR_GONE);
    bus_close(server);
}
END_TEST

START_TEST(full_queue_answers_again) {
    open_server(_i);
    struct bus *slow = open_client(_i), *quick = open_client(_i);
    struct bus_msg m;
    static char big[16 << 10];
    bus_send(slow, NULL, "s", 1, NULL, 0);
    recv_wait(server, &m);
    struct bus_id slow_id = m.from;
    bus_send(quick, NULL, "q", 1, NULL, 0);
    recv_wait(server, &m);
    struct bus_id quick_id = m.from;
    int n = 0, rc; /* ZeroMQ's own thread may make room again at any time: only that it is full at some time is sure */
    while ((rc = bus_send(server, &slow_id, big, sizeof big, NULL, 0)) == 0) ck_assert_int_lt(++n, 100000);
    ck_assert_int_eq(rc, ERR_AGAIN);
    ck_assert_int_eq(bus_send(server, &quick_id, "y", 1, NULL, 0), 0);
    recv_wait(quick, &m);
    ck_assert_mem_eq(m.head, "y", 1);
    bus_close(slow);
    bus_close(quick);
    bus_close(server);
}
END_TEST

START_TEST(connect_before_bind) {
    struct bus *early;
    struct bus_msg m;
    ck_assert_int_eq(bus_mem_connect(hub, "later", &early, &why), 0);
    ck_assert_int_eq(bus_send(early, NULL, "x", 1, NULL, 0), 0);
    ck_assert_int_eq(bus_mem_bind(hub, "later", &server, &why), 0);
    recv_wait(server, &m);
    ck_assert_mem_eq(m.head, "x", 1);
    struct bus *second;
    ck_assert_int_eq(bus_mem_bind(hub, "later", &second, &why), ERR_EXISTS);
    bus_close(early);
    bus_close(server);
}
END_TEST

START_TEST(port_taken) {
    struct bus *second;
    open_server(ZMQ);
    ck_assert_int_eq(bus_zmq_bind(context, BUS_CLIENTS, bus_endpoint(server), &second, &why), ERR_EXISTS);
    ck_assert_ptr_nonnull(strstr(why.text, "another program has this port"));
    ck_assert_int_eq(bus_zmq_bind(context, BUS_CLIENTS, "nonsense", &second, &why), ERR_INVALID);
    ck_assert_int_eq(bus_zmq_connect(context, BUS_CLIENTS, "tcp://", &second, &why), ERR_INVALID);
    bus_close(server);
}
END_TEST

static uint64_t lost(struct bus *b) {
    struct bus_link link;
    bus_get_link(b, &link);
    return link.lost;
}

/* A client learns that its connection broke, and has a new one without doing anything. */
START_TEST(connection_lost) {
    open_server(ZMQ);
    char where[256];
    snprintf(where, sizeof where, "%s", bus_endpoint(server));
    struct bus *b = open_client(ZMQ);
    struct bus_msg m;
    bus_send(b, NULL, "a", 1, NULL, 0);
    recv_wait(server, &m);
    ck_assert_uint_eq(lost(b), 0);
    struct bus_link link;
    bus_get_link(b, &link);
    ck_assert(link.up);
    bus_close(server);
    int64_t until = clk_now_us() + WAIT_US;
    while (!lost(b)) ck_assert(clk_now_us() < until);
    while (bus_zmq_bind(context, BUS_CLIENTS, where, &server, &why) < 0) /* the old one closes slowly */
        ck_assert(clk_now_us() < until);
    bus_send(b, NULL, "b", 1, NULL, 0);
    recv_wait(server, &m);
    ck_assert_mem_eq(m.head, "b", 1);
    ck_assert_uint_eq(lost(b), 1);
    bus_close(b);
    bus_close(server);
}
END_TEST

/* Parts beyond two and identities of our peers' own making are noise, not a crash. */
START_TEST(noise) {
    open_server(ZMQ);
    void *ctx = zmq_ctx_new(), *raw = zmq_socket(ctx, ZMQ_DEALER);
    static char long_id[200];
    int linger = 0;
    memset(long_id, 'i', sizeof long_id);
    zmq_setsockopt(raw, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(raw, ZMQ_IDENTITY, long_id, sizeof long_id);
    zmq_connect(raw, bus_endpoint(server));
    zmq_send(raw, "x", 1, 0);
    struct bus *good = open_client(ZMQ);
    void *three = zmq_socket(ctx, ZMQ_DEALER);
    zmq_setsockopt(three, ZMQ_LINGER, &linger, sizeof linger);
    zmq_connect(three, bus_endpoint(server));
    zmq_send(three, "a", 1, ZMQ_SNDMORE);
    zmq_send(three, "b", 1, ZMQ_SNDMORE);
    zmq_send(three, "c", 1, 0);
    struct bus_msg m;
    int64_t until = clk_now_us() + WAIT_US;
    while (bus_noise(server) < 2 && clk_now_us() < until) ck_assert_int_eq(bus_recv(server, &m), ERR_AGAIN);
    ck_assert_uint_eq(bus_noise(server), 2);
    bus_send(good, NULL, "ok", 2, NULL, 0);
    recv_wait(server, &m);
    ck_assert_mem_eq(m.head, "ok", 2);
    zmq_close(raw);
    zmq_close(three);
    zmq_ctx_term(ctx);
    bus_close(good);
    bus_close(server);
}
END_TEST

/* Clients in threads of their own, as workers of one process are: every message arrives once and in order. */
enum { THREADS = 4, ROUNDS = 2000 };
static void *chatter(void *arg) {
    struct bus *b = arg;
    for (uint32_t i = 0, back = 0; back < ROUNDS;) {
        struct bus_msg m;
        if (i < ROUNDS && bus_send(b, NULL, &i, sizeof i, NULL, 0) == 0) i++;
        while (bus_recv(b, &m) == 0) {
            uint32_t got;
            memcpy(&got, m.head, sizeof got);
            if (got != back++) return NULL;
        }
        struct pollfd p = {.fd = bus_fd(b), .events = POLLIN};
        if (i == ROUNDS && back < ROUNDS) poll(&p, 1, 1000);
    }
    return arg;
}

static atomic_int strays;
static void on_alarm(int number) {
    (void)number;
    if (gettid() != getpid()) atomic_fetch_add(&strays, 1);
}

/* While a thread is made its maker takes no signals, so one that comes then goes to a new thread if that would take it. */
START_TEST(signals_are_the_programs) {
    const struct sigaction a = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    const struct itimerval often = {{0, 20}, {0, 20}}, never = {0};
    open_server(ZMQ);
    ck_assert_int_eq(sigaction(SIGALRM, &a, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    for (int i = 0; i < 200; i++) {
        struct bus_context *c;
        struct bus *b;
        ck_assert_int_eq(bus_context_open(&c, NULL, &why), 0);
        ck_assert_int_eq(bus_zmq_connect(c, BUS_CLIENTS, bus_endpoint(server), &b, &why), 0);
        bus_close(b);
        bus_context_close(c);
    }
    setitimer(ITIMER_REAL, &never, NULL);
    ck_assert_int_eq(atomic_load(&strays), 0);
    bus_close(server);
}
END_TEST

START_TEST(threads) {
    struct bus *clients[THREADS];
    pthread_t thread[THREADS];
    open_server(_i);
    for (int t = 0; t < THREADS; t++) clients[t] = open_client(_i);
    for (int t = 0; t < THREADS; t++) ck_assert_int_eq(pthread_create(&thread[t], NULL, chatter, clients[t]), 0);
    for (int n = 0; n < THREADS * ROUNDS; n++) {
        struct bus_msg m;
        recv_wait(server, &m);
        while (bus_send(server, &m.from, m.head, m.head_len, NULL, 0) == ERR_AGAIN) sched_yield();
    }
    for (int t = 0; t < THREADS; t++) {
        void *good;
        pthread_join(thread[t], &good);
        ck_assert_ptr_eq(good, clients[t]);
        bus_close(clients[t]);
    }
    bus_close(server);
}
END_TEST

int main(void) {
    Suite *s = suite_create("bus");
    TCase *c = tcase_create("bus");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_loop_test(c, round_trip, MEM, ZMQ + 1);
    tcase_add_loop_test(c, vanished, MEM, ZMQ + 1);
    tcase_add_loop_test(c, full_queue_answers_again, MEM, ZMQ + 1);
    tcase_add_loop_test(c, threads, MEM, ZMQ + 1);
    tcase_add_test(c, connect_before_bind);
    tcase_add_test(c, signals_are_the_programs);
    tcase_add_test(c, port_taken);
    tcase_add_test(c, connection_lost);
    tcase_add_test(c, noise);
    suite_add_tcase(s, c);
    return run_suite(s);
}
