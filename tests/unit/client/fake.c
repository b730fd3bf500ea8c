/* fake.c - see fake.h. Built on call.c, so that what clients meet here is the real protocol. */
#include "tests/unit/client/fake.h"

#include "base/clk.h"
#include "proto/client.pb-c.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct answer {
    struct fake *fake;
    struct call *call;
    char *text; /* the words still to say are at text + at; NULL for "count" */
    size_t at;
    uint32_t next, total;
    uint32_t prompt_tokens;
    uint64_t seed;
    uint32_t logprobs;
    bool started, finished, mute; /* mute: says nothing more, whatever credits come */
};

static int send_message(struct answer *a, const ProtobufCMessage *m) {
    uint8_t buf[4096];
    size_t len = protobuf_c_message_get_packed_size(m);
    if (len > sizeof buf) return ERR_TOO_LARGE;
    protobuf_c_message_pack(m, buf);
    return call_send(a->fake->server, a->call, buf, len);
}

static void forget(struct answer *a) {
    atomic_fetch_sub(&a->fake->live, 1);
    free(a->text);
    free(a);
}

static int send_started(struct answer *a) {
    Cadre__V1__GenerateEvent e;
    Cadre__V1__Started m = CADRE__V1__STARTED__INIT;
    cadre__v1__generate_event__init(&e);
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_STARTED;
    e.started = &m;
    m.request = 17;
    m.prompt_tokens = a->prompt_tokens;
    m.seed = a->seed;
    m.model = (char *)"fake";
    int rc = send_message(a, &e.base);
    if (rc >= 0) a->started = true;
    return rc;
}

static int send_token(struct answer *a) {
    Cadre__V1__GenerateEvent e;
    Cadre__V1__Tokens m = CADRE__V1__TOKENS__INIT;
    Cadre__V1__TokenInfo t = CADRE__V1__TOKEN_INFO__INIT, *list = &t;
    Cadre__V1__TopLogprob top = CADRE__V1__TOP_LOGPROB__INIT, *tops[20];
    char word[300];
    size_t len;
    if (a->text) {
        len = strcspn(a->text + a->at, " ");
        len += a->text[a->at + len] == ' ';
        if (len > sizeof word) len = sizeof word;
        memcpy(word, a->text + a->at, len);
    } else {
        len = (size_t)snprintf(word, sizeof word, "%u ", a->next);
    }
    t.id = (int32_t)(100 + a->next);
    if (a->logprobs) t.logprob = -0.1f * (float)a->next;
    if (a->logprobs > 1) {
        top.id = t.id;
        top.logprob = t.logprob;
        top.text = (ProtobufCBinaryData){len, (uint8_t *)word};
        t.n_top = a->logprobs - 1;
        for (size_t i = 0; i < t.n_top; i++) tops[i] = &top;
        t.top = tops;
    }
    m.first = a->next;
    m.n_token = 1;
    m.token = &list;
    m.text = (ProtobufCBinaryData){len, (uint8_t *)word};
    cadre__v1__generate_event__init(&e);
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_TOKENS;
    e.tokens = &m;
    int rc = send_message(a, &e.base);
    if (rc < 0) return rc;
    a->next++;
    if (a->text) a->at += len;
    return 0;
}

static int send_finished(struct answer *a) {
    Cadre__V1__GenerateEvent e;
    Cadre__V1__Finished m = CADRE__V1__FINISHED__INIT;
    Cadre__V1__Usage usage = CADRE__V1__USAGE__INIT;
    Cadre__V1__Timing timing = CADRE__V1__TIMING__INIT;
    usage.prompt_tokens = a->prompt_tokens;
    usage.completion_tokens = a->next;
    timing.queue_us = 1000;
    timing.prefill_us = 2000;
    timing.decode_us = 3000;
    m.reason = (char *)(a->text ? "stop" : "length");
    m.usage = &usage;
    m.timing = &timing;
    cadre__v1__generate_event__init(&e);
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_FINISHED;
    e.finished = &m;
    int rc = send_message(a, &e.base);
    if (rc >= 0) a->finished = true;
    return rc;
}

/* As far as the credits reach. A negative result may have freed a (ERR_GONE). */
static void go_on(struct answer *a) {
    int rc = a->started ? 0 : send_started(a);
    while (rc >= 0 && (a->text ? a->text[a->at] != 0 : a->next < a->total)) rc = send_token(a);
    if (rc >= 0 && !a->finished) rc = send_finished(a);
    if (rc < 0) return;
    call_end(a->fake->server, a->call, CALL_OK, "");
    forget(a);
}

static char *flatten(const Cadre__V1__GenerateRequest *m) {
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    if (!f) return NULL;
    if (m->input_case == CADRE__V1__GENERATE_REQUEST__INPUT_PROMPT) {
        fwrite(m->prompt.data ? (char *)m->prompt.data : "", 1, m->prompt.len, f);
    } else if (m->input_case == CADRE__V1__GENERATE_REQUEST__INPUT_CHAT) {
        for (size_t i = 0; i < m->chat->n_messages; i++)
            fprintf(f, "%s: %.*s\n", m->chat->messages[i]->role, (int)m->chat->messages[i]->content.len,
                    m->chat->messages[i]->content.data);
    }
    fclose(f);
    return text;
}

/* What the prompt asks for; true: the usual way goes on. "refuse" ends the call but leaves a to the caller. */
static bool act(struct fake *f, struct call *c, struct answer *a) {
    const char *word = a->text; /* of a chat, its last message */
    for (const char *at = word; (at = strstr(at, "user: "));) word = at += 6;
    if (!strncmp(word, "refuse", 6)) {
        call_end(f->server, c, CALL_INVALID_ARGUMENT, "refused as asked");
        a->finished = true;
        return false;
    }
    if (!strncmp(word, "odd", 3)) {
        call_end(f->server, c, -1, "a status that is none");
        a->finished = true;
        return false;
    }
    if (!strncmp(word, "garbage", 7)) {
        call_send(f->server, c, "\xff\xff\xff", 3);
        return false;
    }
    if (!strncmp(word, "nothing", 7)) return false;
    if (!strncmp(word, "hold", 4) || !strncmp(word, "mute", 4)) {
        send_started(a);
        if (word[0] == 'm') atomic_store(&f->muted, true);
        return false;
    }
    if (!strncmp(word, "count ", 6)) {
        a->total = (uint32_t)strtoul(word + 6, NULL, 10);
        free(a->text);
        a->text = NULL;
    }
    return true;
}

static void on_generate(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    struct fake *f = ctx;
    Cadre__V1__GenerateRequest *m = cadre__v1__generate_request__unpack(NULL, len, payload);
    if (!m || (m->sampling && m->sampling->temperature < 0)) {
        call_end(f->server, c, CALL_INVALID_ARGUMENT, "this is no request");
        if (m) cadre__v1__generate_request__free_unpacked(m, NULL);
        return;
    }
    struct answer *a = calloc(1, sizeof *a);
    *a = (struct answer){.fake = f, .call = c, .text = flatten(m), .prompt_tokens = 3, .logprobs = m->logprobs};
    a->seed = m->sampling && m->sampling->has_seed ? m->sampling->seed : 4711;
    c->handler = a;
    cadre__v1__generate_request__free_unpacked(m, NULL);
    atomic_fetch_add(&f->live, 1);
    a->mute = !act(f, c, a);
    if (a->finished) forget(a);
    else if (!a->mute) go_on(a);
}

static void on_credit(void *ctx, struct call *c) {
    struct answer *a = c->handler;
    (void)ctx;
    if (!a->mute) go_on(a);
}

static void on_gone(void *ctx, struct call *c, int status) {
    struct fake *f = ctx;
    if (status == CALL_CANCELLED) atomic_fetch_add(&f->cancelled, 1);
    if (status == CALL_ABORTED) atomic_fetch_add(&f->vanished, 1);
    forget(c->handler);
}

static void reply(struct fake *f, struct call *c, const ProtobufCMessage *m) {
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *buf = malloc(len + 1);
    protobuf_c_message_pack(m, buf);
    call_send(f->server, c, buf, len);
    call_end(f->server, c, CALL_OK, "");
    free(buf);
}

static uint64_t read_pid(const char *folder, int rank) {
    char path[300], text[32] = "";
    snprintf(path, sizeof path, "%s/worker-%d.pid", folder, rank);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (!fgets(text, sizeof text, file)) text[0] = 0;
    fclose(file);
    return strtoull(text, NULL, 10);
}

static void on_status(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    struct fake *f = ctx;
    (void)payload;
    (void)len;
    enum { MOST = 16 };
    Cadre__V1__StatusReply m = CADRE__V1__STATUS_REPLY__INIT;
    Cadre__V1__WorkerStatus workers[MOST], *list[MOST];
    int here = 0;
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    for (int i = 0; i < f->workers && i < MOST; i++) {
        list[i] = &workers[i];
        cadre__v1__worker_status__init(&workers[i]);
        workers[i].rank = (uint32_t)i;
        workers[i].host = host;
        workers[i].pid = f->folder ? read_pid(f->folder, i) : 1000u + (uint64_t)i;
        here += workers[i].pid != 0;
        workers[i].state = (char *)(!workers[i].pid ? "expected" : f->loading_polls > 0 ? "loading" : "ready");
        workers[i].load_percent = f->loading_polls > 0 ? (uint32_t)(100 - f->loading_polls * 20) : 100;
        workers[i].weight_bytes = 3 << 20;
        workers[i].kv_pages = 64;
        workers[i].placement = (char *)"0-3";
    }
    bool loading = f->loading_polls > 0 || here < f->workers;
    if (f->loading_polls > 0) f->loading_polls--;
    m.version = (char *)"0.0";
    m.model = (char *)"fake";
    m.family = (char *)"fake_moe";
    m.state = (char *)(loading ? "loading" : f->state);
    m.reason = (char *)(strcmp(f->state, "failed") ? "" : "it was told to fail");
    m.numeric_class = (char *)"none";
    m.fabric = (char *)"mem";
    m.listen = (char *)bus_endpoint(f->bus);
    m.control = (char *)"tcp://127.0.0.1:1";
    m.running = (uint32_t)atomic_load(&f->live);
    m.layers = 2;
    m.experts = 4;
    m.topk = 2;
    m.workers = list;
    m.n_workers = (size_t)(f->workers < MOST ? f->workers : MOST);
    reply(f, c, &m.base);
}

static void on_experts(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    static uint64_t rows[8] = {10, 20, 30, 40, 0, 0, 100, 0}, worker_rows[2] = {130, 70};
    static uint32_t hosts[8] = {0, 0, 1, 1, 0, 0, 1, 1};
    static int32_t model_layer[2] = {1, 3};
    (void)payload;
    (void)len;
    Cadre__V1__ExpertsReply m = CADRE__V1__EXPERTS_REPLY__INIT;
    m.layers = 2;
    m.experts = 4;
    m.rows = rows;
    m.n_rows = m.n_hosts = 8;
    m.hosts = hosts;
    m.model_layer = model_layer;
    m.n_model_layer = 2;
    m.worker_rows = worker_rows;
    m.n_worker_rows = 2;
    reply(ctx, c, &m.base);
}

static void on_links(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    static uint64_t sent[4] = {0, 2048, 1024, 0}, waits[4] = {0, 5, 6, 0}, us[4] = {0, 1500000, 20000, 0};
    static uint64_t p50[4] = {0, 16, 0, 0}, p99[4] = {0, 65536, 4, 0};
    static uint64_t extra[4] = {0, 3, 0, 0}, stale[4] = {0, 2, 0, 0}, duplicate[4] = {0, 4, 0, 0}, bad[4] = {0, 1, 0, 0};
    static uint64_t histogram[4 * 20] = {[20 + 4] = 3, [20 + 16] = 1, [20 + 19] = 1};
    (void)payload;
    (void)len;
    Cadre__V1__LinksReply m = CADRE__V1__LINKS_REPLY__INIT;
    m.workers = 2;
    m.bytes = sent;
    m.frames = m.waits = waits;
    m.wait_us = us;
    m.p50_us = p50;
    m.p99_us = p99;
    m.n_bytes = m.n_frames = m.n_wait_us = m.n_waits = m.n_p50_us = m.n_p99_us = 4;
    m.extra = extra;
    m.stale = stale;
    m.duplicate = duplicate;
    m.bad = bad;
    m.n_extra = m.n_stale = m.n_duplicate = m.n_bad = 4;
    m.buckets = 20;
    m.histogram = histogram;
    m.n_histogram = 4 * 20;
    static uint64_t tasks[2] = {1000, 4000}, tasks_long[2] = {0, 10}, longest[2] = {180, 3000};
    m.tasks = tasks;
    m.tasks_long = tasks_long;
    m.tasks_longest_us = longest;
    m.n_tasks = m.n_tasks_long = m.n_tasks_longest_us = 2;
    m.steps_whole = 90;
    m.steps_halved = 7;
    m.slowest = 1;
    m.slowest_percent = 62;
    reply(ctx, c, &m.base);
}

static void on_tokenize(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    Cadre__V1__TokenizeRequest *t = cadre__v1__tokenize_request__unpack(NULL, len, payload);
    Cadre__V1__TokenizeReply m = CADRE__V1__TOKENIZE_REPLY__INIT;
    int32_t ids[1000];
    for (m.n_ids = 0; t && m.n_ids < t->text.len && m.n_ids < 1000; m.n_ids++) ids[m.n_ids] = t->text.data[m.n_ids];
    m.ids = ids;
    reply(ctx, c, &m.base);
    if (t) cadre__v1__tokenize_request__free_unpacked(t, NULL);
}

static const struct call_method methods[] = {{"Generate", on_generate, on_credit, on_gone},
                                             {"Status", on_status, NULL, NULL},
                                             {"Experts", on_experts, NULL, NULL},
                                             {"Links", on_links, NULL, NULL},
                                             {"Tokenize", on_tokenize, NULL, NULL}};

int fake_open(struct fake *f, const char *endpoint, struct why *why) {
    struct call_limits limits = {.payload_bytes = 1 << 20, .calls = 4096, .ping_us = 100000};
    if (!f->state) f->state = "serving";
    int rc = bus_context_open(&f->context, NULL, why);
    if (rc >= 0) rc = bus_zmq_bind(f->context, BUS_CLIENTS, endpoint, &f->bus, why);
    return rc < 0 ? rc : call_server_new(f->bus, &limits, methods, 5, f, &f->server);
}

void fake_run(struct fake *f) {
    while (!atomic_load(&f->stop)) {
        int64_t now = clk_now_us();
        struct pollfd p = {.fd = bus_fd(f->bus), .events = POLLIN};
        if (atomic_load(&f->muted)) {
            poll(NULL, 0, 5);
            continue;
        }
        int64_t wait = call_server_poll(f->server, now) - now;
        poll(&p, 1, wait < 10000 ? (int)(wait / 1000) : 10);
    }
}

void fake_close(struct fake *f) {
    call_server_free(f->server);
    bus_close(f->bus);
    bus_context_close(f->context);
}
