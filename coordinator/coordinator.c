/* coordinator.c - opens the model, builds the parts in order, runs the loop.
 *
 * The loop is one thread with four things to wake it: two buses, the tokeniser's bell and its own. A pass takes everything that
 * is there and sends everything that can be sent; as a send may swallow the edge of a bus's fd, passes repeat until one moved
 * nothing, and only then does the thread sleep. */
#include "coordinator/coordinator.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/conf.h"
#include "base/log.h"
#include "coordinator/core.h"
#include "coordinator/recall.h"
#include "fabric/ep_payload.h"
#include "worker/measure.h"

enum {
    DEFAULT_QUEUE = 1024,
    PAYLOAD_BYTES = 4 << 20, /* largest request */
    PROMPT_BYTES = 256 << 20, /* of all prompts that wait for the tokeniser */
    OTHER_CALLS = 256,       /* Status and the like, beside the queue */
    PING_US = 1000 * 1000,   /* clients give up a call after some seconds of silence */
    TICK_US = 50 * 1000,
    BUSY_LINE_US = 10 * 1000 * 1000,
    LAST_READ_US = 5 * 1000 * 1000, /* drained: how long slow clients may still read their answers */
};

/* ---- states ---- */
void core_set_state(struct coordinator *c, enum core_state to) {
    static const char *const names[] = {"loading",  "proving", "serving", "recovering",
                                        "draining", "leaving", "failed",  "ended"};
    static const bool legal[CORE_STATES][CORE_STATES] = {
        [CORE_LOADING] = {[CORE_PROVING] = true, [CORE_SERVING] = true, [CORE_LEAVING] = true, [CORE_FAILED] = true},
        [CORE_PROVING] = {[CORE_SERVING] = true, [CORE_RECOVERING] = true, [CORE_LEAVING] = true, [CORE_FAILED] = true},
        [CORE_SERVING] = {[CORE_RECOVERING] = true, [CORE_DRAINING] = true, [CORE_LEAVING] = true, [CORE_FAILED] = true},
        [CORE_RECOVERING] = {[CORE_PROVING] = true, [CORE_SERVING] = true, [CORE_LEAVING] = true, [CORE_FAILED] = true},
        [CORE_DRAINING] = {[CORE_RECOVERING] = true, [CORE_LEAVING] = true, [CORE_FAILED] = true},
        [CORE_LEAVING] = {[CORE_ENDED] = true},
        [CORE_FAILED] = {[CORE_ENDED] = true},
    };
    if (!legal[c->state][to]) BUG("the coordinator cannot go from %s to %s", names[c->state], names[to]);
    c->state = to;
    core_event(c, EVENT_STATE, -1, "%s%s%s", names[to], to == CORE_FAILED ? ": " : "", to == CORE_FAILED ? c->why.text : "");
}

void core_serve(struct coordinator *c) {
    core_set_state(c, CORE_SERVING);
    report_serving(c);
}

/* A cluster that never served has nothing to answer for: it ends at once. One that did stays to say what happened, unless
 * whoever started it waits for its end. */
void core_fail(struct coordinator *c, int code, const struct why *why) {
    if (c->state == CORE_FAILED || c->state == CORE_LEAVING || c->state == CORE_ENDED) return;
    bool end = c->state <= CORE_PROVING || c->options.end_on_death;
    log_error("%s", why->text);
    c->why = *why;
    c->result = code;
    core_set_state(c, CORE_FAILED);
    service_end_all(c, CALL_UNAVAILABLE, why->text);
    cluster_shutdown(c, true, why->text);
    if (end) core_set_state(c, CORE_ENDED);
}

/* ---- opening ---- */
static int open_tokenizer(struct coordinator *c, struct why *why) {
    const struct model_config *m = &c->checkpoint.config;
    const char *dir = c->options.model_dir;
    for (int i = 0; i < m->n_eos; i++)
        if (m->eos[i] < 0 || m->eos[i] >= m->vocab)
            return fail(why, ERR_INVALID, "%s: eos id %d is not in the model's vocabulary of %d", dir, m->eos[i], m->vocab);
    if (c->options.ids_only) return 0;
    int rc = tokenizer_open(dir, &c->tokenizer, why);
    if (rc < 0) return fail_in(why, rc, "cannot use the tokenizer (--ids-only serves without one)");
    if (tokenizer_vocab(c->tokenizer) > m->vocab)
        return fail(why, ERR_INVALID, "%s: wrong tokenizer: it has ids up to %d, the model's vocabulary is %d", dir,
                    tokenizer_vocab(c->tokenizer) - 1, m->vocab);
    rc = chat_template_open(dir, &c->chat, why);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

/* Sums are made where the experts are, so whatever must be known about single rows cannot be. */
static int check_exchange(struct coordinator *c, struct why *why) {
    const struct model_config *m = &c->checkpoint.config;
    const struct coordinator_options *o = &c->options;
    const char *needs = m->experts.fusion_dim  ? "its experts' agreement changes their weights"
                        : m->experts.confidence ? "its experts say how sure they are of each row"
                        : m->gate.zero          ? "some of its experts are the token itself, and stay at home"
                                                : NULL;
    if (o->fused && needs)
        return fail(why, ERR_INVALID, "--combine fused: model_type %s needs single rows back, since %s; use rows", m->family,
                    needs);
    if (o->fused && o->combine_payload && strcmp(o->combine_payload, "f32") != 0)
        return fail(why, ERR_INVALID, "--combine-payload %s is for rows; --combine fused brings sums, which are exact",
                    o->combine_payload);
    if (m->router.bias_update.serve && o->microbatches == 2)
        return fail(why, ERR_INVALID, "--microbatches 2: this model's router follows the traffic step by step; use 1");
    if (o->first < o->workers && o->hops == 2)
        return fail(why, ERR_INVALID, "two hops want all hosts to be known from the start: no --max-workers beyond --workers");
    c->steps.overlap.forced = m->router.bias_update.serve ? 1 : o->microbatches;
    int payload = o->payload ? ep_format_parse(o->payload) : EP_F32;
    if (payload < 0) return fail(why, ERR_INVALID, "--payload %s: wanted f32, bf16, int8 or fp8", o->payload);
    c->steps.hops = (struct hops){.forced = o->first < o->workers ? 1 : o->hops,
                                  .workers = o->workers,
                                  .experts = m->moe_layers ? m->gate.experts : 0,
                                  .topk = m->gate.k,
                                  .row_bytes = ep_row_bytes((enum ep_format)payload, m->hidden),
                                  .inside = o->inside,
                                  .between = o->between};
    return 0;
}

static int open_model(struct coordinator *c, struct why *why) {
    const char *dir = c->options.model_dir;
    int rc = checkpoint_open(dir, &c->checkpoint, why);
    if (rc < 0) return rc;
    if (c->options.naive_prefill && !c->checkpoint.config.mla.kv_rank)
        return fail(why, ERR_INVALID, "--mla naive-prefill: model_type %s has no latent attention; leave the option out",
                    c->checkpoint.config.family);
    rc = check_exchange(c, why);
    if (rc < 0) return rc;
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/') end--;
    const char *name = memrchr(dir, '/', end);
    name = name && name + 1 < dir + end ? name + 1 : dir;
    c->model_name = strndup(name, (size_t)(dir + end - name));
    if (!c->model_name) return fail(why, ERR_NOMEM, "out of memory");
    rc = checkpoint_weights(&c->checkpoint, c->options.weights, &c->weights, why);
    int kv = fmt_parse_kv(c->options.kv);
    if (rc >= 0 && kv < 0) rc = fail(why, ERR_INVALID, "--kv %s: wanted auto, f32, bf16, f16 or int8", c->options.kv);
    if (rc >= 0) c->kv = model_kv_format(&c->checkpoint.config, (enum fmt)kv, c->weights);
    return rc < 0 ? rc : open_tokenizer(c, why);
}

static void name_missing(struct coordinator *c) {
    const struct placement *p = &c->placement;
    int layer = 0, expert = 0;
    if (!p->missing) return;
    while (!placement_misses(p, layer, expert))
        if (++expert == p->experts) layer++, expert = 0;
    size_t n = (size_t)snprintf(c->missing, sizeof c->missing, "expert %d of layer %d is on no worker", expert,
                                c->model_layer[layer]);
    if (p->missing > 1) snprintf(c->missing + n, sizeof c->missing - n, " (and %d more)", p->missing - 1);
    log_warn("%s: requests wait unless they allow degraded answers", c->missing);
}

static int open_placement(struct coordinator *c, struct why *why) {
    const struct model_config *m = &c->checkpoint.config;
    int n = 0;
    for (int l = 0; l < m->layers; l++)
        if (m->moe_index[l] >= 0) c->model_layer[n++] = l;
    c->shape = (struct planner_shape){
        .workers = c->options.workers, .layers = n, .experts = n ? m->gate.experts : 0, .model_layer = c->model_layer};
    c->hosts = calloc((size_t)n * (size_t)c->shape.experts + 1, sizeof *c->hosts);
    if (!c->hosts) return fail(why, ERR_NOMEM, "out of memory for the placement");
    int rc = 0;
    if (c->options.placement_file) rc = planner_read(&c->shape, c->options.placement_file, c->hosts, why);
    else planner_contiguous(&c->shape, c->options.first, c->hosts);
    if (rc >= 0) rc = placement_partial(&c->placement, c->shape.workers, c->shape.layers, c->shape.experts, c->hosts, why);
    if (rc < 0) return rc;
    if (recover_init(c) < 0) return fail(why, ERR_NOMEM, "out of memory for the placement");
    name_missing(c);
    c->placement.version = 1;
    domains_init(&c->domains, (size_t)n * (size_t)c->shape.experts);
    if (telemetry_init(&c->telemetry, &c->placement) < 0 || links_init(&c->links, c->options.workers) < 0)
        return fail(why, ERR_NOMEM, "out of memory for telemetry");
    return 0;
}

static int open_scheduler(struct coordinator *c, struct why *why) {
    const struct coordinator_options *o = &c->options;
    struct measure m = {.checkpoint = &c->checkpoint, .workers = o->workers};
    struct measure_wish wish = {o->max_batch, o->max_context, o->step_tokens, o->kv_tokens};
    int rc = measure_limits(&m, &wish, why);
    if (rc < 0) return rc;
    struct scheduler_limits l = {.workers = o->workers,
                                 .max_batch = o->max_batch ? o->max_batch : MEASURE_BATCH,
                                 .max_seqs = m.max_seqs,
                                 .max_context = m.max_context,
                                 .step_tokens = m.step_tokens,
                                 .page_tokens = m.page_tokens,
                                 .pages = m.kv_pages,
                                 .prefill_chunk = o->prefill_chunk,
                                 .max_queue = o->max_queue ? o->max_queue : DEFAULT_QUEUE,
                                 .vocab = c->checkpoint.config.vocab,
                                 .ahead = 2};
    if (o->memory) rc = room_check(c, &l, c->hosts, core_first(c), 0, why); /* rather than when all have come */
    return rc < 0 ? rc : scheduler_init(&c->scheduler, &l, why);
}

static int open_doors(struct coordinator *c, struct why *why) {
    const struct coordinator_options *o = &c->options;
    int queues = c->placement.missing ? 2 : 1; /* one of requests that wait for experts */
    int requests = queues * c->scheduler.limits.max_queue + c->scheduler.limits.max_batch;
    struct call_limits calls = {.payload_bytes = PAYLOAD_BYTES, .calls = requests + OTHER_CALLS, .ping_us = PING_US};
    struct member_limits members = {.workers = o->workers,
                                    .first = o->first,
                                    .fabric = o->fabric,
                                    .fingerprint = c->checkpoint.fingerprint,
                                    .lease_us = o->lease_us,
                                    .loading_us = 12 * o->lease_us,
                                    .progress_us = o->progress_us,
                                    .patience_us = o->patience_us};
    member_init(&c->members, &members);
    if (bell_open(&c->bell) < 0) return fail(why, ERR_IO, "cannot open an eventfd");
    if (client_port_new(&c->client_port) < 0 || worker_port_new(c->worker_bus, &c->worker_port) < 0 ||
        call_server_new(c->client_bus, &calls, service_methods, SERVICE_METHODS, c, &c->calls) < 0)
        return fail(why, ERR_NOMEM, "out of memory for the ports");
    return c->tokenizer ? prepare_open(c->tokenizer, c->chat, requests, PROMPT_BYTES, &c->prepare, why) : 0;
}

static void default_options(struct coordinator_options *o) {
    if (!o->fabric) o->fabric = "";
    if (!o->first) o->first = o->workers;
    if (!o->weights) o->weights = "auto";
    if (!o->kv) o->kv = "auto";
    if (!o->isa) o->isa = "auto";
    if (!o->start_timeout_us) o->start_timeout_us = 120 * 1000000;
    if (!o->patience_us) o->patience_us = 2 * 1000000;
    if (!o->unread_us) o->unread_us = 300 * INT64_C(1000000);
    if (!o->lease_us) o->lease_us = 500 * 1000;
    if (!o->attach_us) o->attach_us = 30 * 1000 * 1000;
    if (!o->progress_us) o->progress_us = 5 * o->patience_us;
}

int coordinator_new(const struct coordinator_options *o, struct bus *clients, struct bus *workers, struct coordinator **out,
                    struct why *why) {
    if (o->workers < 1 || o->workers > MSG_MAX_WORKERS)
        return fail(why, ERR_INVALID, "%d workers: 1 to %d are possible", o->workers, MSG_MAX_WORKERS);
    if (o->first < 0 || o->first > o->workers)
        return fail(why, ERR_INVALID, "%d workers to begin with, of at most %d", o->first, o->workers);
    struct coordinator *c = calloc(1, sizeof *c);
    if (!c) return fail(why, ERR_NOMEM, "out of memory");
    c->options = *o;
    c->client_bus = clients;
    c->worker_bus = workers;
    c->epoch = 1;
    c->bell.fd = -1;
    list_init(&c->requests);
    list_init(&c->readers);
    tracing_init(&c->tracing);
    default_options(&c->options);
    int rc = open_model(c, why);
    if (rc >= 0) rc = open_placement(c, why);
    if (rc >= 0) rc = open_scheduler(c, why);
    c->scheduler.missing = c->placement.missing > 0;
    if (rc >= 0) rc = open_doors(c, why);
    c->now_us = clk_now_us();
    struct event *e = core_event(c, EVENT_STARTED, -1, "cadre %s, %s", CADRE_VERSION, c->model_name ? c->model_name : "");
    event_figure(e, "workers", o->workers);
    if (rc >= 0) rc = recall_open(c, why);
    if (rc < 0) {
        coordinator_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

/* Whoever could still touch a request goes first: the tokeniser, then the calls, then what neither has. */
void coordinator_free(struct coordinator *c) {
    if (!c) return;
    prepare_close(c->prepare);
    struct list *at, *next;
    list_for(at, next, &c->requests) list_entry(at, struct request, node)->job = NULL;
    call_server_free(c->calls);
    list_for(at, next, &c->requests) {
        struct request *r = list_entry(at, struct request, node);
        stream_free(r->stream);
        free(r);
    }
    journal_close(c->journal);
    worker_port_free(c->worker_port);
    client_port_free(c->client_port);
    scheduler_clear(&c->scheduler);
    telemetry_clear(&c->telemetry);
    links_clear(&c->links);
    tracing_clear(&c->tracing);
    domains_clear(&c->domains);
    placement_clear(&c->placement);
    recover_clear(c);
    free(c->hosts);
    chat_template_close(c->chat);
    tokenizer_close(c->tokenizer);
    checkpoint_close(&c->checkpoint);
    free(c->model_name);
    bell_close(&c->bell);
    free(c);
}

/* ---- running ---- */
void coordinator_stop(struct coordinator *c, bool drain) {
    int want = drain ? 1 : 2, have = atomic_load(&c->stop);
    while (have < want && !atomic_compare_exchange_weak(&c->stop, &have, want)) continue;
    bell_ring(&c->bell);
}

/* Nothing is owed any more, or only reading, by clients that had their time. */
static bool drained(struct coordinator *c) {
    if (!service_idle(c)) return false;
    if (!service_owed(c)) return true;
    if (!c->drained_us) c->drained_us = c->now_us;
    return c->now_us - c->drained_us > LAST_READ_US;
}

/* Told to finish, and nobody is left who could. */
static void give_up(struct coordinator *c) {
    if (atomic_load(&c->stop) != 1 || !c->n_requests) return;
    c->result = fail(&c->why, ERR_GONE, "%d requests are cut: %s", c->n_requests, c->recovery.why.text);
    log_error("%s", c->why.text);
}

static void leave(struct coordinator *c) {
    core_set_state(c, CORE_LEAVING);
    service_end_all(c, CALL_UNAVAILABLE, "the cluster is ending");
    events_service_end(c, CALL_UNAVAILABLE, "the cluster is ending");
    cluster_shutdown(c, false, "the cluster ends");
}

static void follow_stop(struct coordinator *c) {
    int stop = atomic_load(&c->stop);
    if (!stop) return;
    if (c->state == CORE_FAILED) return core_set_state(c, CORE_ENDED);
    if (c->state == CORE_SERVING && stop == 1) {
        log_info("draining: %d requests to finish", c->n_requests);
        core_set_state(c, CORE_DRAINING);
        service_end_held(c);
    }
    bool cut = c->state == CORE_RECOVERING && c->recovery.waits, now = stop == 2 || c->state <= CORE_PROVING || cut;
    if (cut) give_up(c);
    if ((c->state == CORE_DRAINING && drained(c)) || (now && c->state < CORE_LEAVING)) leave(c);
}

static void say_busy(struct coordinator *c) {
    bool busy = !scheduler_idle(&c->scheduler);
    if (!busy) c->busy_said_us = c->now_us;
    if (c->now_us - c->busy_said_us < BUSY_LINE_US) return;
    c->busy_said_us = c->now_us;
    report_busy(c);
}

/* When the loop wants to run again at the latest. */
static int64_t pass(struct coordinator *c) {
    c->now_us = clk_now_us();
    c->moved = false;
    follow_stop(c);
    cluster_receive(c);
    service_prepared(c);
    recall_poll(c);
    int64_t next = call_server_poll(c->calls, c->now_us);
    service_tick(c);
    cluster_tick(c);
    steps_plan(c);
    recall_flush(c);
    health_check(c);
    events_service_flush(c);
    say_busy(c);
    int64_t tick = c->now_us + TICK_US, verdict = member_next_us(&c->members);
    if (verdict < tick) tick = verdict;
    if (c->now_us < c->probe_until_us && c->probe_us < tick) tick = c->probe_us;
    return c->moved ? c->now_us : next < tick ? next : tick;
}

static void sleep_until(struct coordinator *c, int64_t when_us) {
    struct pollfd fds[] = {{.fd = bus_fd(c->worker_bus), .events = POLLIN},
                           {.fd = bus_fd(c->client_bus), .events = POLLIN},
                           {.fd = c->bell.fd, .events = POLLIN},
                           {.fd = c->prepare ? prepare_fd(c->prepare) : -1, .events = POLLIN},
                           {.fd = recall_fd(c), .events = POLLIN}};
    int64_t ms = (when_us - clk_now_us() + 999) / 1000;
    if (ms > 0) poll(fds, 5, (int)ms);
    bell_clear(&c->bell);
}

int coordinator_run(struct coordinator *c, struct why *why) {
    c->started_us = c->busy_said_us = clk_now_us();
    while (c->state != CORE_ENDED) {
        int64_t next = pass(c);
        if (!c->moved && c->state != CORE_ENDED) sleep_until(c, next);
    }
    const struct core_counts *n = &c->counts;
    log_info("ended: %" PRIu64 " requests finished, %" PRIu64 " cancelled, %" PRIu64 " expired, %" PRIu64 " failed",
             n->finished, n->cancelled, n->expired, n->failed);
    if (c->result < 0) *why = c->why;
    return c->result;
}
