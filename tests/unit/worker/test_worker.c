/* test_worker.c - a worker's control loop on a bus that the test plays: each way to fail is told in words, and records that
 * cannot be sent are no failure.
 *
 * usage: test_worker MODEL_DIR (of 2 layers with 8 experts) */
#include "worker/seat.h"
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
    bool serves;   /* plays a cluster of one, and its connection holds */
    int traces;
    uint32_t trace_lost;
};

static void put_message(struct fake_bus *f, const Cadre__Control__V1__Control *m) {
    ck_assert_uint_le(cadre__control__v1__control__get_packed_size(m), sizeof f->message);
    f->len = cadre__control__v1__control__pack(m, f->message);
    bell_ring(&f->bell);
}

/* One step of four prompt rows and a token, both layers recorded. */
static void put_plan(struct fake_bus *f) {
    static int32_t ids[] = {1, 2, 3, 4};
    static uint32_t page[] = {0}, tokens[] = {4};
    Cadre__Control__V1__Control m = CADRE__CONTROL__V1__CONTROL__INIT;
    Cadre__Control__V1__Plan plan = CADRE__CONTROL__V1__PLAN__INIT;
    Cadre__Control__V1__SeqStart start = CADRE__CONTROL__V1__SEQ_START__INIT, *starts[] = {&start};
    Cadre__Control__V1__SeqRun run = CADRE__CONTROL__V1__SEQ_RUN__INIT, *runs[] = {&run};
    start.seq = run.seq = 1;
    start.ids = ids, start.n_ids = start.prompt_tokens = 4, start.max_tokens = 1;
    run.count = 4, run.sample = true, run.new_pages = page, run.n_new_pages = 1;
    plan.epoch = plan.placement_version = plan.step = 1, plan.patience_us = 60000000;
    plan.tokens = tokens, plan.n_tokens = 1, plan.start = starts, plan.n_start = 1, plan.run = runs, plan.n_run = 1;
    plan.trace = (ProtobufCBinaryData){1, (uint8_t[]){3}};
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_PLAN;
    m.plan = &plan;
    put_message(f, &m);
}

static void put_shutdown(struct fake_bus *f) {
    Cadre__Control__V1__Control m = CADRE__CONTROL__V1__CONTROL__INIT;
    Cadre__Control__V1__Shutdown shutdown = CADRE__CONTROL__V1__SHUTDOWN__INIT;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_SHUTDOWN;
    m.shutdown = &shutdown;
    put_message(f, &m);
}

/* What a coordinator of one worker does, but that no record of routing reaches it. */
static int serve(struct fake_bus *f, const Cadre__Control__V1__Control *m) {
    switch ((int)m->kind_case) {
    case CADRE__CONTROL__V1__CONTROL__KIND_READY: put_plan(f); return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_TRACE: f->traces++; return ERR_NOMEM;
    case CADRE__CONTROL__V1__CONTROL__KIND_STEP_DONE:
        f->trace_lost = m->step_done->trace_lost;
        put_shutdown(f);
        return 0;
    default: return 0;
    }
}

static int fake_send(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                     size_t body_len) {
    struct fake_bus *f = (struct fake_bus *)b;
    (void)to, (void)body, (void)body_len;
    Cadre__Control__V1__Control *m = cadre__control__v1__control__unpack(NULL, head_len, head);
    ck_assert_ptr_nonnull(m);
    if (m->kind_case == CADRE__CONTROL__V1__CONTROL__KIND_TROUBLE) {
        strncpy(f->trouble, m->trouble->reason, sizeof f->trouble - 1);
    }
    int rc = f->serves ? serve(f, m) : f->send_rc;
    cadre__control__v1__control__free_unpacked(m, NULL);
    return rc;
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
static void fake_link(struct bus *b, struct bus_link *out) {
    struct fake_bus *f = (struct fake_bus *)b;
    *out = (struct bus_link){.lost = f->serves ? 0 : ++f->lost};
}
static const struct bus_ops fake_ops = {.send = fake_send, .recv = fake_recv, .fd = fake_fd, .endpoint = fake_endpoint,
                                        .link = fake_link};

static struct fake_bus bus;
static const char *model_dir;
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

/* Whoever asks for a rank knows what to do with nothing else. */
START_TEST(no_rank_but_a_plan) {
    int rank, size;
    put_plan(&bus);
    ck_assert_int_eq(seat_ask(&bus.base, 50000, &rank, &size, &why), ERR_PROTOCOL);
    ck_assert_msg(strstr(why.text, "a plan came for a worker without a rank"), "%s", why.text);
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
    welcome.model_dir = "/nowhere", welcome.weights = "f32", welcome.kv = "f32", welcome.isa = "ref",
    welcome.placement = &placement;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_WELCOME;
    m.welcome = &welcome;
    ck_assert_uint_le(cadre__control__v1__control__get_packed_size(&m), sizeof bus.message);
    bus.len = cadre__control__v1__control__pack(&m, bus.message);
    ck_assert_int_eq(worker_run(worker, &why), ERR_PROTOCOL);
    says("268435456 pages of 1024");
}
END_TEST

START_TEST(records_that_cannot_be_sent) { /* are lost and counted; the worker serves on */
    enum { LAYERS = 2, EXPERTS = 8 };
    Cadre__Control__V1__Control m = CADRE__CONTROL__V1__CONTROL__INIT;
    Cadre__Control__V1__Welcome welcome = CADRE__CONTROL__V1__WELCOME__INIT;
    Cadre__Control__V1__Placement placement = CADRE__CONTROL__V1__PLACEMENT__INIT;
    Cadre__Control__V1__Peer peer = CADRE__CONTROL__V1__PEER__INIT, *peers[] = {&peer};
    uint64_t hosts[LAYERS * EXPERTS];
    for (int i = 0; i < LAYERS * EXPERTS; i++) hosts[i] = 1;
    placement.version = placement.workers = 1, placement.layers = LAYERS;
    placement.experts = EXPERTS, placement.hosts = hosts, placement.n_hosts = LAYERS * EXPERTS;
    welcome.epoch = 1, welcome.step_tokens = 8, welcome.max_seqs = 1, welcome.max_context = 32;
    welcome.page_tokens = 16, welcome.kv_pages = 2;
    welcome.model_dir = (char *)model_dir, welcome.weights = "f32", welcome.kv = "f32", welcome.isa = "ref",
    welcome.placement = &placement;
    peer.incarnation = 1;
    welcome.peers = peers, welcome.n_peers = 1;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_WELCOME;
    m.welcome = &welcome;
    bus.serves = true;
    put_message(&bus, &m);
    ck_assert_msg(worker_run(worker, &why) == 0, "%s", why.text);
    ck_assert_int_eq(bus.traces, 1);
    ck_assert_uint_eq(bus.trace_lost, 4);
}
END_TEST

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    model_dir = argv[1];
    Suite *s = suite_create("worker");
    TCase *t = tcase_create("worker");
    tcase_add_checked_fixture(t, open_worker, close_worker);
    tcase_add_test(t, nobody_answers);
    tcase_add_test(t, bus_breaks);
    tcase_add_test(t, no_rank_but_a_plan);
    tcase_add_test(t, noise);
    tcase_add_test(t, impossible_limits);
    tcase_add_test(t, records_that_cannot_be_sent);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
