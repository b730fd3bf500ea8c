/* test_worker.c - a worker's control loop on a bus that the test plays: each way to fail is told in words. */
#include "worker/worker.h"

#include "proto/control.pb-c.h"

#include <string.h>

#include "tests/unit/run.h"

/* Takes everything, keeps the last Trouble, hands out one message and then what `recv_rc` says. */
struct fake_bus {
    struct bus base;
    struct bell bell;
    uint8_t message[512];
    size_t len;
    int send_rc, recv_rc;
    uint64_t lost; /* its connection breaks at every look */
    char trouble[512];
};

static int fake_send(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                     size_t body_len) {
    struct fake_bus *f = (struct fake_bus *)b;
    (void)to, (void)body, (void)body_len;
    Cadre__Control__V1__Control *m = cadre__control__v1__control__unpack(NULL, head_len, head);
    ck_assert_ptr_nonnull(m);
    if (m->kind_case == CADRE__CONTROL__V1__CONTROL__KIND_TROUBLE) {
        strncpy(f->trouble, m->trouble->reason, sizeof f->trouble - 1);
    }
    cadre__control__v1__control__free_unpacked(m, NULL);
    return f->send_rc;
}
static int fake_recv(struct bus *b, struct bus_msg *out) {
    struct fake_bus *f = (struct fake_bus *)b;
    if (!f->len) return f->recv_rc;
    *out = (struct bus_msg){.head = f->message, .head_len = f->len};
    f->len = 0;
    return 0;
}
static int fake_fd(struct bus *b) { return ((struct fake_bus *)b)->bell.fd; }
static const char *fake_endpoint(struct bus *b) { return (void)b, "fake://there"; }
static void fake_link(struct bus *b, struct bus_link *out) { *out = (struct bus_link){.lost = ++((struct fake_bus *)b)->lost}; }
static const struct bus_ops fake_ops = {.send = fake_send, .recv = fake_recv, .fd = fake_fd, .endpoint = fake_endpoint,
                                        .link = fake_link};

static struct fake_bus bus;
static struct worker *worker;
static struct why why;

static void open_worker(void) {
    struct worker_options o = {.engine = {.workers = 1, .threads = 1, .fabric_name = "mem"}, .join_timeout_us = 50000};
    bus = (struct fake_bus){.base.ops = &fake_ops, .recv_rc = ERR_AGAIN};
    memset(&why, 0x5a, sizeof why - 1); /* as a caller's stack may be */
    why.text[sizeof why.text - 1] = '\0';
    ck_assert_int_eq(bell_open(&bus.bell), 0);
    ck_assert_int_eq(worker_new(&o, &bus.base, &worker), 0);
}
static void close_worker(void) {
    worker_free(worker);
    bell_close(&bus.bell);
}

static void says(const char *words) {
    ck_assert_msg(strstr(why.text, words), "'%s' does not say '%s'", why.text, words);
    ck_assert_str_eq(bus.trouble, why.text);
}

START_TEST(nobody_answers) { /* and a connection that breaks matters to members only */
    ck_assert_int_eq(worker_run(worker, &why), ERR_DEADLINE);
    says("fake://there");
    ck_assert_uint_gt(bus.lost, 0);
}
END_TEST

START_TEST(bus_breaks) {
    bus.recv_rc = ERR_IO;
    ck_assert_int_eq(worker_run(worker, &why), ERR_IO);
    says("from the coordinator");
}
END_TEST

START_TEST(noise) {
    memset(bus.message, 0xff, bus.len = 20);
    ck_assert_int_eq(worker_run(worker, &why), ERR_PROTOCOL);
    says("20 bytes");
}
END_TEST

START_TEST(impossible_limits) { /* a KV position must fit the plans' 32 bits */
    Cadre__Control__V1__Control m = CADRE__CONTROL__V1__CONTROL__INIT;
    Cadre__Control__V1__Welcome welcome = CADRE__CONTROL__V1__WELCOME__INIT;
    Cadre__Control__V1__Placement placement = CADRE__CONTROL__V1__PLACEMENT__INIT;
    uint64_t hosts[] = {1, 1};
    placement.version = placement.workers = placement.layers = 1;
    placement.experts = 2, placement.hosts = hosts, placement.n_hosts = 2;
    welcome.epoch = 1, welcome.step_tokens = 64, welcome.max_seqs = 8, welcome.max_context = 256;
    welcome.page_tokens = 1024, welcome.kv_pages = 1 << 28;
    welcome.model_dir = "/nowhere", welcome.weights = "f32", welcome.isa = "ref", welcome.placement = &placement;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_WELCOME;
    m.welcome = &welcome;
    ck_assert_uint_le(cadre__control__v1__control__get_packed_size(&m), sizeof bus.message);
    bus.len = cadre__control__v1__control__pack(&m, bus.message);
    ck_assert_int_eq(worker_run(worker, &why), ERR_PROTOCOL);
    says("268435456 pages of 1024");
}
END_TEST

int main(void) {
    Suite *s = suite_create("worker");
    TCase *t = tcase_create("worker");
    tcase_add_checked_fixture(t, open_worker, close_worker);
    tcase_add_test(t, nobody_answers);
    tcase_add_test(t, bus_breaks);
    tcase_add_test(t, noise);
    tcase_add_test(t, impossible_limits);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
