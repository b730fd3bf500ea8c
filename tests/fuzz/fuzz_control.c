/* fuzz_control.c - a worker's door under a hostile coordinator: whatever bytes come, port_recv gives a plain struct within its
 * bounds or an error with a reason. */
#include "proto/control.pb-c.h"
#include "tests/fuzz/fuzz.h"
#include "worker/port.h"

#include <stdlib.h>
#include <string.h>

static struct plan plan;
static struct plan *take(void *ctx) {
    (void)ctx;
    struct arena arena = plan.arena;
    arena_reset(&arena);
    plan = (struct plan){.arena = arena};
    return &plan;
}

static void check_plan(const struct plan *p) {
    long sum = 0;
    FUZZ_CHECK(p->workers >= 1 && p->workers <= FABRIC_MAX_RANKS && p->patience_us >= 0);
    for (int i = 0; i < p->n_start; i++) {
        for (int j = 0; j < p->start[i].n_ids; j++) sum += p->start[i].ids[j];
        for (int j = 0; j < p->start[i].n_stop_ids; j++) sum += p->start[i].stop_ids[j];
        FUZZ_CHECK(p->start[i].sampling.logprobs >= 0 && p->start[i].sampling.logprobs <= MAX_TOP_LOGPROBS + 1);
    }
    for (int i = 0; i < p->n_run; i++)
        for (int j = 0; j < p->run[i].n_new_pages; j++) sum += (long)p->run[i].new_pages[j];
    for (int i = 0; i < p->n_drop; i++) sum += (long)p->drop[i];
    FUZZ_CHECK(sum != 0x123456789); /* so that every element was read */
}

static void check_peers(const struct worker_setup *s) {
    long sum = 0;
    FUZZ_CHECK(s->n_peers == s->placement.workers);
    for (int i = 0; i < s->n_peers; i++)
        for (size_t j = 0; j < s->peers[i].address_bytes; j++) sum += s->peers[i].address[j];
    FUZZ_CHECK(sum <= 255L * FABRIC_MAX_RANKS * FABRIC_ADDRESS_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bus_hub *hub = bus_hub_new();
    struct bus *server, *client;
    struct bus_msg hello;
    struct port *port;
    struct port_message m;
    struct plan *got = NULL;
    struct why why = {""};
    if (!plan.arena.block_bytes) arena_init(&plan.arena, 1 << 16);
    if (bus_mem_bind(hub, "control", &server, &why) < 0 || bus_mem_connect(hub, "control", &client, &why) < 0 ||
        port_new(client, &port) < 0)
        abort();
    port_send_beat(port, 1, true, 2, 3); /* so that the server knows whom to answer */
    if (bus_recv(server, &hello) < 0) abort();
    struct bus_id worker = hello.from;
    FUZZ_CHECK(bus_send(server, &worker, data, size, NULL, 0) == 0);
    int rc = port_recv(port, &m, take, NULL, &got, &why);
    if (rc < 0) FUZZ_CHECK(rc == ERR_AGAIN || why.text[0]);
    if (rc >= 0 && m.kind == PORT_PLAN) check_plan(got);
    if (rc >= 0 && m.kind == PORT_WELCOME) {
        FUZZ_CHECK(m.setup.placement.workers >= 1 && m.setup.step_tokens >= 1 && m.setup.kv_pages >= 1);
        check_peers(&m.setup);
        worker_setup_clear(&m.setup);
    }
    if (rc >= 0 && m.kind == PORT_EPOCH) {
        FUZZ_CHECK(m.setup.placement.workers >= 1 && !m.setup.kv_pages);
        check_peers(&m.setup);
        worker_setup_clear(&m.setup);
    }
    port_free(port);
    bus_close(client);
    bus_close(server);
    bus_hub_free(hub);
    return 0;
}

static void add_message(fuzz_add add, const Cadre__Control__V1__Control *m) {
    uint8_t buf[4096];
    if (cadre__control__v1__control__get_packed_size(m) > sizeof buf) abort();
    add(buf, cadre__control__v1__control__pack(m, buf));
}

void fuzz_seeds(fuzz_add add) {
    Cadre__Control__V1__Control m = CADRE__CONTROL__V1__CONTROL__INIT;
    Cadre__Control__V1__Placement placement = CADRE__CONTROL__V1__PLACEMENT__INIT;
    Cadre__Control__V1__Welcome welcome = CADRE__CONTROL__V1__WELCOME__INIT;
    uint64_t hosts[] = {1, 2, 3, 1, 2, 2}, drop[] = {4, 5};
    placement.version = 1, placement.workers = 2, placement.layers = 2, placement.experts = 3;
    placement.hosts = hosts, placement.n_hosts = 6;
    welcome.epoch = 1, welcome.step_tokens = 64, welcome.max_seqs = 8, welcome.max_context = 256, welcome.page_tokens = 16,
    welcome.kv_pages = 40;
    welcome.model_dir = "model", welcome.weights = "bf16", welcome.isa = "auto", welcome.placement = &placement;
    Cadre__Control__V1__Peer peer[] = {CADRE__CONTROL__V1__PEER__INIT, CADRE__CONTROL__V1__PEER__INIT};
    Cadre__Control__V1__Peer *peers[] = {&peer[0], &peer[1]};
    uint8_t address[] = {1, 2, 3, 4, 5};
    peer[0].incarnation = 1, peer[1].incarnation = 2, peer[1].rank = peer[1].host = 1;
    peer[1].address = (ProtobufCBinaryData){sizeof address, address};
    welcome.incarnation = 2, welcome.peers = peers, welcome.n_peers = 2;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_WELCOME;
    m.welcome = &welcome;
    add_message(add, &m);

    Cadre__Control__V1__Epoch epoch = CADRE__CONTROL__V1__EPOCH__INIT;
    epoch.number = 2, epoch.peers = peers, epoch.n_peers = 2, epoch.placement = &placement;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_EPOCH;
    m.epoch = &epoch;
    add_message(add, &m);
    Cadre__Control__V1__Switch begins = CADRE__CONTROL__V1__SWITCH__INIT;
    begins.number = 2;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_SWITCH;
    m.switch_ = &begins;
    add_message(add, &m);

    Cadre__Control__V1__SeqStart start = CADRE__CONTROL__V1__SEQ_START__INIT, *starts[] = {&start};
    Cadre__Control__V1__SeqRun run = CADRE__CONTROL__V1__SEQ_RUN__INIT, *runs[] = {&run, &run};
    Cadre__Control__V1__Plan p = CADRE__CONTROL__V1__PLAN__INIT;
    int32_t ids[] = {7, 8, 9}, stops[] = {2};
    uint32_t tokens[] = {3, 0}, pages[] = {11};
    start.seq = 6, start.ids = ids, start.n_ids = 3, start.prompt_tokens = 3, start.max_tokens = 4, start.stop_ids = stops,
    start.n_stop_ids = 1;
    start.temperature = 0.7f, start.top_k = 5, start.logprobs = 3;
    run.seq = 6, run.count = 3, run.sample = true, run.new_pages = pages, run.n_new_pages = 1;
    p.epoch = 1, p.placement_version = 1, p.step = 9, p.tokens = tokens, p.n_tokens = 2, p.patience_us = 2000000;
    p.start = starts, p.n_start = 1, p.run = runs, p.n_run = 2, p.drop = drop, p.n_drop = 2;
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_PLAN;
    m.plan = &p;
    add_message(add, &m);

    Cadre__Control__V1__Shutdown shutdown = CADRE__CONTROL__V1__SHUTDOWN__INIT;
    shutdown.abort = true, shutdown.reason = "a worker died";
    m.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_SHUTDOWN;
    m.shutdown = &shutdown;
    add_message(add, &m);
}
