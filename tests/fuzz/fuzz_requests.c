/* fuzz_requests.c - what the coordinator's doors decode: requests of clients, messages of workers, placement files. The first
 * byte of an input chooses. What passes must be within the limits that everything behind the doors relies on. */
#include "base/log.h"
#include "coordinator/admit.h"
#include "coordinator/client_port.h"
#include "coordinator/planner.h"
#include "coordinator/worker_port.h"
#include "proto/client.pb-c.h"
#include "proto/control.pb-c.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <string.h>

enum { KIND_GENERATE, KIND_TOKENIZE, KIND_CONTROL, KIND_PLACEMENT, KINDS };

static const struct admit_limits limits = {.vocab = 1000, .max_context = 64, .has_tokenizer = true, .has_template = true};
static struct why why;

static void generate(const uint8_t *data, size_t size) {
    static struct client_port *port;
    struct generate_request r;
    if (!port && client_port_new(&port) < 0) die("out of memory");
    if (client_port_read_generate(port, data, size, &r, &why) < 0 || admit_generate(&r, &limits, &why) < 0) return;
    FUZZ_CHECK(r.sampling.temperature >= 0 && isfinite(r.sampling.temperature));
    FUZZ_CHECK(r.sampling.logprobs <= MSG_MAX_TOP + 1 && r.n_stop <= ADMIT_STOPS && r.n_stop_ids <= ADMIT_STOP_IDS);
    for (size_t i = 0; i < r.n_stop; i++) FUZZ_CHECK(r.stop[i].len >= 1 && r.stop[i].len <= ADMIT_STOP_BYTES);
    for (size_t i = 0; i < r.n_ids; i++) FUZZ_CHECK(r.input != INPUT_IDS || (r.ids[i] >= 0 && r.ids[i] < limits.vocab));
    FUZZ_CHECK(r.input == INPUT_TEXT ? r.prompt.len > 0 : r.input == INPUT_IDS ? r.n_ids > 0 : r.n_turns > 0);
}

static void tokenize(const uint8_t *data, size_t size) {
    static struct client_port *port;
    struct tokenize_request t;
    if (!port && client_port_new(&port) < 0) die("out of memory");
    if (client_port_read_tokenize(port, data, size, &t, &why) < 0 || admit_tokenize(&t, &limits, &why) < 0) return;
    FUZZ_CHECK(t.input == INPUT_TEXT ? t.text.len > 0 : t.n_turns > 0);
}

static void control(const uint8_t *data, size_t size) {
    static struct bus *server, *client;
    static struct worker_port *port;
    if (!port) {
        struct bus_hub *hub = bus_hub_new();
        if (!hub || bus_mem_bind(hub, "w", &server, &why) < 0 || bus_mem_connect(hub, "w", &client, &why) < 0 ||
            worker_port_new(server, &port) < 0)
            die("out of memory");
    }
    struct bus_id from;
    struct worker_msg m;
    if (bus_send(client, NULL, data, size, NULL, 0) < 0) return;
    if (worker_port_recv(port, &from, &m, &why) < 0) return;
    if (m.kind == WORKER_HELLO)
        FUZZ_CHECK(memchr(m.hello.host, 0, sizeof m.hello.host) && memchr(m.hello.fabric, 0, sizeof m.hello.fabric));
    if (m.kind == WORKER_IS_READY) FUZZ_CHECK(memchr(m.ready.numeric_class, 0, sizeof m.ready.numeric_class));
    if (m.kind != WORKER_STEP_DONE) return;
    FUZZ_CHECK(m.done.n_wait <= MSG_MAX_WORKERS && m.done.n_out >= 0 && m.done.n_rows >= 0);
    for (int i = 0; i < m.done.n_out; i++)
        FUZZ_CHECK(m.done.out[i].n_top >= 0 && m.done.out[i].n_top <= MSG_MAX_TOP && m.done.out[i].finish <= STEP_LENGTH);
}

static void placement(const uint8_t *data, size_t size) {
    static const int layers[3] = {0, 2, 3};
    static const struct planner_shape shape = {.workers = 4, .layers = 3, .experts = 5, .model_layer = layers};
    uint64_t hosts[15];
    if (planner_parse(&shape, (const char *)data, size, "fuzz", hosts, &why) < 0) return;
    for (int i = 0; i < 15; i++) FUZZ_CHECK(hosts[i] < 16); /* none: nowhere, as the file says */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static void (*const targets[KINDS])(const uint8_t *, size_t) = {generate, tokenize, control, placement};
    if (size) targets[data[0] % KINDS](data + 1, size - 1);
    return 0;
}

/* ---- seeds ---- */
static void add_message(fuzz_add add, uint8_t kind, const ProtobufCMessage *m) {
    uint8_t buf[1024];
    buf[0] = kind;
    if (protobuf_c_message_get_packed_size(m) < sizeof buf) add(buf, 1 + protobuf_c_message_pack(m, buf + 1));
}
static void add_text(fuzz_add add, uint8_t kind, const char *text) {
    uint8_t buf[512] = {kind};
    size_t n = strlen(text);
    memcpy(buf + 1, text, n);
    add(buf, n + 1);
}

static void seed_generate(fuzz_add add) {
    static int32_t ids[] = {1, 2, 3, 999};
    Cadre__V1__Sampling sampling;
    Cadre__V1__GenerateRequest r;
    cadre__v1__sampling__init(&sampling);
    cadre__v1__generate_request__init(&r);
    ProtobufCBinaryData stops[] = {{3, (uint8_t *)"END"}, {3, (uint8_t *)"\xe2\x82\xac"}};
    sampling.temperature = 0.8f, sampling.top_p = 0.9f, sampling.min_p = 0.1f, sampling.top_k = 40, sampling.has_seed = 1;
    r.sampling = &sampling, r.stop = stops, r.n_stop = 2, r.stop_ids = ids, r.n_stop_ids = 2, r.logprobs = 6,
    r.has_max_tokens = 1;
    r.max_tokens = 20, r.priority = -3, r.tag = "code", r.tenant = "a";
    r.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_PROMPT;
    r.prompt = (ProtobufCBinaryData){5, (uint8_t *)"hello"};
    add_message(add, KIND_GENERATE, &r.base);
    Cadre__V1__TokenIds list;
    cadre__v1__token_ids__init(&list);
    list.ids = ids, list.n_ids = 4;
    r.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_IDS;
    r.ids = &list;
    add_message(add, KIND_GENERATE, &r.base);
    Cadre__V1__ChatMessage turn, *turns[2] = {&turn, &turn};
    Cadre__V1__Chat chat;
    cadre__v1__chat_message__init(&turn);
    cadre__v1__chat__init(&chat);
    turn.role = "user", turn.content = (ProtobufCBinaryData){2, (uint8_t *)"hi"};
    chat.messages = turns, chat.n_messages = 2;
    r.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_CHAT;
    r.chat = &chat;
    add_message(add, KIND_GENERATE, &r.base);
    Cadre__V1__TokenizeRequest t;
    cadre__v1__tokenize_request__init(&t);
    t.text = (ProtobufCBinaryData){5, (uint8_t *)"hello"};
    add_message(add, KIND_TOKENIZE, &t.base);
    t.chat = &chat;
    add_message(add, KIND_TOKENIZE, &t.base);
}

static void seed_control(fuzz_add add) {
    Cadre__Control__V1__Control c;
    cadre__control__v1__control__init(&c);
    Cadre__Control__V1__Hello hello;
    cadre__control__v1__hello__init(&hello);
    hello.protocol = 1, hello.size = 4, hello.host = "node", hello.fabric = "mpi", hello.pid = 7;
    c.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_HELLO, c.hello = &hello;
    add_message(add, KIND_CONTROL, &c.base);
    Cadre__Control__V1__Ready ready;
    cadre__control__v1__ready__init(&ready);
    ready.numeric_class = "cpu/avx2", ready.slots = 8;
    c.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_READY, c.ready = &ready;
    add_message(add, KIND_CONTROL, &c.base);
    Cadre__Control__V1__TopToken top, *tops[2] = {&top, &top};
    Cadre__Control__V1__SeqOut out, *outs[2] = {&out, &out};
    Cadre__Control__V1__StepDone done;
    cadre__control__v1__top_token__init(&top);
    cadre__control__v1__seq_out__init(&out);
    cadre__control__v1__step_done__init(&done);
    uint32_t rows[] = {1, 2, 3};
    uint64_t waits[] = {10, 20};
    top.id = 5, top.logprob = -1, out.seq = 3, out.position = 9, out.token = 5, out.finish = 2, out.top = tops, out.n_top = 2;
    done.epoch = 1, done.step = 4, done.out = outs, done.n_out = 2, done.rows = rows, done.n_rows = 3, done.wait_us = waits,
    done.n_wait_us = 2;
    c.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_STEP_DONE, c.step_done = &done;
    add_message(add, KIND_CONTROL, &c.base);
    Cadre__Control__V1__Trouble trouble;
    cadre__control__v1__trouble__init(&trouble);
    trouble.reason = "peers are late", trouble.late_mask = 5;
    c.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_TROUBLE, c.trouble = &trouble;
    add_message(add, KIND_CONTROL, &c.base);
    Cadre__Control__V1__Prepared prepared;
    cadre__control__v1__prepared__init(&prepared);
    prepared.number = 2, prepared.weight_bytes = 1 << 20, prepared.slots = 8;
    c.kind_case = CADRE__CONTROL__V1__CONTROL__KIND_PREPARED, c.prepared = &prepared;
    add_message(add, KIND_CONTROL, &c.base);
}

void fuzz_seeds(fuzz_add add) {
    seed_generate(add);
    seed_control(add);
    add_text(add, KIND_PLACEMENT, "# all\n* 0-4 0\n2 1 1,2-3\n0-3 4 *\n");
}
