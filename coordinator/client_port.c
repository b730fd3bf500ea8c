/* client_port.c - protobuf over arenas. Decoding copies nothing it need not: slices point into what was unpacked. */
#include "coordinator/client_port.h"

#include "base/conf.h"
#include "base/utf8.h"
#include "proto/client.pb-c.h"
#include "proto/pb_arena.h"

#include <stdlib.h>
#include <string.h>

typedef Cadre__V1__GenerateEvent pb_event; /* the generator's names are too long for a line */

enum {
    KEEP_BYTES = 4 << 20,
    CALL_ID_BYTES = 16,
    REQUEST_BYTES = 64 << 20, /* what a request may unpack to: the largest prompt of ids takes a quarter */
};
struct client_port {
    struct pb_arena pb;
    struct arena scratch;
    struct text_buf text; /* of one token */
};

int client_port_new(struct client_port **out) {
    struct client_port *p = calloc(1, sizeof *p);
    if (!p) return ERR_NOMEM;
    pb_arena_init(&p->pb, KEEP_BYTES, REQUEST_BYTES);
    arena_init(&p->scratch, 1 << 12);
    *out = p;
    return 0;
}

void client_port_free(struct client_port *p) {
    if (!p) return;
    pb_arena_clear(&p->pb);
    arena_clear(&p->scratch);
    text_buf_clear(&p->text);
    free(p);
}

/* ---- in ---- */
static struct text_slice slice(ProtobufCBinaryData b) { return (struct text_slice){b.data ? (const char *)b.data : "", b.len}; }
static struct text_slice string(const char *s) {
    struct text_slice out = {s, 0};
    while (s[out.len]) out.len++;
    return out;
}

static int read_chat(struct client_port *p, const Cadre__V1__Chat *m, const struct chat_turn **out, size_t *n,
                     struct why *why) {
    struct chat_turn *turns = arena_array(&p->pb.in, struct chat_turn, m->n_messages);
    if (!turns) return fail(why, ERR_NOMEM, "out of memory for a chat of %zu messages", m->n_messages);
    for (size_t i = 0; i < m->n_messages; i++)
        turns[i] = (struct chat_turn){string(m->messages[i]->role), slice(m->messages[i]->content)};
    *out = turns;
    *n = m->n_messages;
    return 0;
}

static int read_stops(struct client_port *p, const Cadre__V1__GenerateRequest *m, struct generate_request *out,
                      struct why *why) {
    struct text_slice *stops = arena_array(&p->pb.in, struct text_slice, m->n_stop);
    if (!stops) return fail(why, ERR_NOMEM, "out of memory for %zu stop strings", m->n_stop);
    for (size_t i = 0; i < m->n_stop; i++) stops[i] = slice(m->stop[i]);
    out->stop = stops;
    out->n_stop = m->n_stop;
    return 0;
}

static int unreadable(const char *wanted, size_t len, struct why *why) {
    return fail(why, ERR_INVALID, "the payload of %zu bytes is no %s, or takes more than %d MiB in memory", len, wanted,
                REQUEST_BYTES >> 20);
}

int client_port_read_generate(struct client_port *p, const uint8_t *payload, size_t len, struct generate_request *out,
                              struct why *why) {
    const Cadre__V1__GenerateRequest *m = pb_arena_unpack(&p->pb, &cadre__v1__generate_request__descriptor, payload, len);
    if (!m) return unreadable("GenerateRequest", len, why);
    *out = (struct generate_request){.max_tokens = m->max_tokens,
                                     .has_max_tokens = m->has_max_tokens,
                                     .stop_ids = m->stop_ids,
                                     .n_stop_ids = m->n_stop_ids,
                                     .ignore_eos = m->ignore_eos,
                                     .tag = string(m->tag),
                                     .tenant = string(m->tenant),
                                     .priority = m->priority,
                                     .allow_degraded = m->allow_degraded,
                                     .resumable = m->resumable};
    const Cadre__V1__Sampling *s = m->sampling;
    if (s) {
        out->sampling = (struct sampling){
            .temperature = s->temperature, .top_p = s->top_p, .min_p = s->min_p, .top_k = s->top_k, .seed = s->seed};
        out->has_seed = s->has_seed;
    }
    out->sampling.logprobs = m->logprobs;
    int rc = 0;
    switch (m->input_case) {
    case CADRE__V1__GENERATE_REQUEST__INPUT_PROMPT:
        out->input = INPUT_TEXT;
        out->prompt = slice(m->prompt);
        break;
    case CADRE__V1__GENERATE_REQUEST__INPUT_IDS:
        out->input = INPUT_IDS;
        out->ids = m->ids->ids;
        out->n_ids = m->ids->n_ids;
        break;
    case CADRE__V1__GENERATE_REQUEST__INPUT_CHAT:
        out->input = INPUT_CHAT;
        rc = read_chat(p, m->chat, &out->turns, &out->n_turns, why);
        break;
    default: break;
    }
    return rc < 0 ? rc : read_stops(p, m, out, why);
}

int client_port_read_resume(struct client_port *p, const uint8_t *payload, size_t len, struct resume_request *out,
                            struct why *why) {
    const Cadre__V1__ResumeRequest *m = pb_arena_unpack(&p->pb, &cadre__v1__resume_request__descriptor, payload, len);
    if (!m) return unreadable("ResumeRequest", len, why);
    if (m->call_id.len != CALL_ID_BYTES)
        return fail(why, ERR_INVALID, "a call id has %d bytes, this one %zu", CALL_ID_BYTES, m->call_id.len);
    if (m->tokens > INT32_MAX || m->text_bytes > SIZE_MAX / 2 || (!m->started && (m->tokens || m->text_bytes)))
        return fail(why, ERR_INVALID, "%u tokens and %llu bytes of text are no part of an answer", m->tokens,
                    (unsigned long long)m->text_bytes);
    *out = (struct resume_request){
        .call_id = m->call_id.data, .started = m->started, .tokens = m->tokens, .text_bytes = m->text_bytes};
    return 0;
}

int client_port_read_drain(struct client_port *p, const uint8_t *payload, size_t len, int *rank, struct why *why) {
    const Cadre__V1__DrainRequest *m = pb_arena_unpack(&p->pb, &cadre__v1__drain_request__descriptor, payload, len);
    if (!m) return unreadable("DrainRequest", len, why);
    *rank = m->rank < MSG_MAX_WORKERS ? (int)m->rank : MSG_MAX_WORKERS; /* which is none */
    return 0;
}

int client_port_read_tokenize(struct client_port *p, const uint8_t *payload, size_t len, struct tokenize_request *out,
                              struct why *why) {
    const Cadre__V1__TokenizeRequest *m = pb_arena_unpack(&p->pb, &cadre__v1__tokenize_request__descriptor, payload, len);
    if (!m) return unreadable("TokenizeRequest", len, why);
    *out = (struct tokenize_request){.input = m->chat ? INPUT_CHAT : INPUT_TEXT, .text = slice(m->text)};
    return m->chat ? read_chat(p, m->chat, &out->turns, &out->n_turns, why) : 0;
}

int client_port_read_trace(struct client_port *p, const uint8_t *payload, size_t len, const uint32_t **layers, size_t *n,
                           struct why *why) {
    const Cadre__V1__TraceRequest *m = pb_arena_unpack(&p->pb, &cadre__v1__trace_request__descriptor, payload, len);
    if (!m) return unreadable("TraceRequest", len, why);
    *layers = m->layers;
    *n = m->n_layers;
    return 0;
}

int client_port_read_events(struct client_port *p, const uint8_t *payload, size_t len, uint64_t *after, bool *follow,
                            struct why *why) {
    const Cadre__V1__EventsRequest *m = pb_arena_unpack(&p->pb, &cadre__v1__events_request__descriptor, payload, len);
    if (!m) return unreadable("EventsRequest", len, why);
    *after = m->after;
    *follow = m->follow;
    return 0;
}

/* ---- out ---- */
/* A string of the protocol is UTF-8, and readers in other languages refuse a message with one that is not. Folders, host names
 * and reasons that quote them come from outside. Lives until the next message; NULL without memory. */
static char *clean(struct client_port *p, const char *s) {
    size_t len = strlen(s);
    if (utf8_valid_prefix(s, len) == len) return (char *)s;
    char *copy = arena_strdup(&p->pb.out, s, len);
    if (copy) utf8_copy(copy, len + 1, s);
    return copy;
}

const uint8_t *client_port_started(struct client_port *p, uint64_t request, int prompt_tokens, uint64_t seed, const char *model,
                                   bool resumable, size_t *len) {
    pb_arena_reset_out(&p->pb);
    Cadre__V1__Started started = CADRE__V1__STARTED__INIT;
    started.request = request;
    started.prompt_tokens = (uint32_t)prompt_tokens;
    started.seed = seed;
    started.resumable = resumable;
    started.model = clean(p, model);
    if (!started.model) return NULL;
    pb_event e = CADRE__V1__GENERATE_EVENT__INIT;
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_STARTED;
    e.started = &started;
    return pb_arena_pack(&p->pb, &e.base, len);
}

static bool spell(struct client_port *p, const struct tokenizer *tokenizer, int32_t id, ProtobufCBinaryData *out) {
    p->text.len = 0;
    if (tokenizer_decode(tokenizer, &id, 1, false, &p->text) < 0) return false;
    *out = (ProtobufCBinaryData){p->text.len, (uint8_t *)arena_strdup(&p->pb.out, p->text.data, p->text.len)};
    return out->data != NULL;
}

static bool pack_tops(struct client_port *p, const struct stream_token *t, const struct tokenizer *tokenizer,
                      Cadre__V1__TokenInfo *m) {
    m->top = arena_array(&p->pb.out, Cadre__V1__TopLogprob *, t->n_top);
    Cadre__V1__TopLogprob *tops = arena_array(&p->pb.out, Cadre__V1__TopLogprob, t->n_top);
    if (!m->top || !tops) return false;
    for (int i = 0; i < t->n_top; i++) {
        cadre__v1__top_logprob__init(&tops[i]);
        tops[i].id = t->top[i].id;
        tops[i].logprob = t->top[i].logprob;
        if (tokenizer && !spell(p, tokenizer, t->top[i].id, &tops[i].text)) return false;
        m->top[m->n_top++] = &tops[i];
    }
    return true;
}

const uint8_t *client_port_tokens(struct client_port *p, const struct stream_piece *piece, uint32_t logprobs,
                                  const struct tokenizer *tokenizer, size_t *len) {
    pb_arena_reset_out(&p->pb);
    Cadre__V1__Tokens tokens = CADRE__V1__TOKENS__INIT;
    tokens.token = arena_array(&p->pb.out, Cadre__V1__TokenInfo *, piece->n);
    Cadre__V1__TokenInfo *info = arena_array(&p->pb.out, Cadre__V1__TokenInfo, piece->n);
    if (!tokens.token || !info) return NULL;
    tokens.first = piece->first;
    for (int i = 0; i < piece->n; i++) {
        cadre__v1__token_info__init(&info[i]);
        info[i].id = piece->token[i].id;
        if (logprobs) {
            info[i].logprob = piece->token[i].logprob;
            if (!pack_tops(p, &piece->token[i], tokenizer, &info[i])) return NULL;
        }
        tokens.token[tokens.n_token++] = &info[i];
    }
    tokens.text = (ProtobufCBinaryData){piece->text_len, (uint8_t *)piece->text};
    pb_event e = CADRE__V1__GENERATE_EVENT__INIT;
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_TOKENS;
    e.tokens = &tokens;
    return pb_arena_pack(&p->pb, &e.base, len);
}

const uint8_t *client_port_finished(struct client_port *p, const struct generate_finished *f, size_t *len) {
    pb_arena_reset_out(&p->pb);
    Cadre__V1__Usage usage = CADRE__V1__USAGE__INIT;
    usage.prompt_tokens = f->prompt_tokens;
    usage.completion_tokens = f->completion_tokens;
    Cadre__V1__Timing timing = CADRE__V1__TIMING__INIT;
    timing.queue_us = f->queue_us;
    timing.prefill_us = f->prefill_us;
    timing.decode_us = f->decode_us;
    timing.preemptions = f->preemptions;
    Cadre__V1__Finished finished = CADRE__V1__FINISHED__INIT;
    finished.reason = (char *)f->reason;
    finished.degraded = f->degraded;
    finished.usage = &usage;
    finished.timing = &timing;
    finished.text = (ProtobufCBinaryData){f->text_len, (uint8_t *)f->text};
    pb_event e = CADRE__V1__GENERATE_EVENT__INIT;
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_FINISHED;
    e.finished = &finished;
    return pb_arena_pack(&p->pb, &e.base, len);
}

static bool pack_time(struct client_port *p, const uint64_t us[PARTS], Cadre__V1__Time **out) {
    Cadre__V1__Time *m = *out = arena_array(&p->pb.out, Cadre__V1__Time, 1);
    if (!m) return false;
    cadre__v1__time__init(m);
    m->attention = us[PART_ATTENTION];
    m->dense = us[PART_DENSE];
    m->gate = us[PART_GATE];
    m->dispatch = us[PART_DISPATCH];
    m->experts = us[PART_EXPERTS];
    m->combine = us[PART_COMBINE];
    m->wait = us[PART_WAIT];
    m->output = us[PART_OUTPUT];
    m->scheduler = us[PART_SCHEDULER];
    return true;
}

static bool pack_worker(struct client_port *p, const struct worker_report *r, Cadre__V1__WorkerStatus *m) {
    cadre__v1__worker_status__init(m);
    m->rank = r->rank;
    m->host = clean(p, r->host);
    m->pid = r->pid;
    m->state = (char *)r->state;
    m->load_percent = r->load_percent;
    m->weight_bytes = r->weight_bytes;
    m->resident_bytes = r->resident_bytes;
    m->kv_bytes = r->kv_bytes;
    m->mapped_bytes = r->mapped_bytes;
    m->buffer_bytes = r->buffer_bytes;
    m->exchange_bytes = r->exchange_bytes;
    m->pack_blobs = r->blobs[BLOBS_OF_PACK].blobs;
    m->peer_blobs = r->blobs[BLOBS_OF_PEERS].blobs;
    m->disk_blobs = r->blobs[BLOBS_OF_DISK].blobs;
    m->source_failures = r->blobs[BLOBS_OF_PACK].failed + r->blobs[BLOBS_OF_PEERS].failed;
    m->kv_pages = r->kv_pages;
    m->kv_pages_used = r->kv_pages_used;
    m->sequences = r->sequences;
    m->experts = r->experts;
    m->rows = r->rows;
    m->beat_age_us = r->beat_age_us;
    m->wait_us = r->wait_us;
    m->busy_us = r->busy_us;
    m->placement = (char *)r->placement;
    return pack_time(p, r->part_us, &m->time) && m->host;
}

static bool pack_journal(struct client_port *p, const struct journal_report *r, Cadre__V1__JournalStatus *m) {
    cadre__v1__journal_status__init(m);
    m->dir = clean(p, r->dir);
    m->fault = clean(p, r->fault);
    m->records = r->records;
    m->bytes = r->bytes;
    m->syncs = r->syncs;
    m->segments = r->segments;
    m->dropped = r->dropped;
    m->segment_bytes = r->segment_bytes;
    m->requests = r->requests;
    m->lag_us = r->lag_us;
    m->lag_bytes = r->lag_bytes;
    return m->dir && m->fault;
}

static bool pack_recovery(struct client_port *p, const struct recovery_report *r, Cadre__V1__RecoveryStatus *m) {
    cadre__v1__recovery_status__init(m);
    m->without_one = clean(p, r->without_one);
    m->deaths = r->deaths;
    m->detect_us = r->detect_us;
    m->decide_us = r->decide_us;
    m->reload_us = r->reload_us;
    m->first_step_us = r->first_step_us;
    m->recompute_us = r->recompute_us;
    return m->without_one;
}

const uint8_t *client_port_status(struct client_port *p, const struct status_report *r, size_t *len) {
    pb_arena_reset_out(&p->pb);
    Cadre__V1__StatusReply m = CADRE__V1__STATUS_REPLY__INIT;
    m.version = (char *)CADRE_VERSION;
    m.model = clean(p, r->model);
    m.family = (char *)r->family;
    m.state = (char *)r->state;
    m.reason = clean(p, r->reason);
    m.uptime_us = r->uptime_us;
    m.epoch = r->epoch;
    m.placement_version = r->placement_version;
    m.steps = r->steps;
    m.waiting = r->waiting;
    m.strangers = r->strangers;
    m.missing_experts = r->missing_experts;
    m.missing = (char *)r->missing;
    m.running = r->running;
    m.finished = r->finished;
    m.cancelled = r->cancelled;
    m.expired = r->expired;
    m.failed = r->failed;
    m.preemptions = r->preemptions;
    m.prompt_tokens = r->prompt_tokens;
    m.generated_tokens = r->generated_tokens;
    m.numeric_class = clean(p, r->numeric_class);
    m.max_context = r->max_context;
    m.max_batch = r->max_batch;
    m.layers = r->layers;
    m.experts = r->experts;
    m.topk = r->topk;
    m.listen = (char *)r->listen;
    m.control = (char *)r->control;
    m.fabric = clean(p, r->fabric);
    Cadre__V1__HealthStatus health = CADRE__V1__HEALTH_STATUS__INIT;
    health.level = r->health->level;
    health.part = (char *)r->health->part;
    health.text = clean(p, r->health->text);
    m.health = &health;
    m.workers = arena_array(&p->pb.out, Cadre__V1__WorkerStatus *, r->n_workers);
    Cadre__V1__WorkerStatus *workers = arena_array(&p->pb.out, Cadre__V1__WorkerStatus, r->n_workers);
    Cadre__V1__JournalStatus journal;
    if (r->journal) {
        if (!pack_journal(p, r->journal, &journal)) return NULL;
        m.journal = &journal;
    }
    Cadre__V1__RecoveryStatus recovery;
    if (r->recovery) {
        if (!pack_recovery(p, r->recovery, &recovery)) return NULL;
        m.recovery = &recovery;
    }
    if (!m.model || !health.text || !m.reason || !m.numeric_class || !m.fabric || !m.workers || !workers) return NULL;
    for (int i = 0; i < r->n_workers; i++) {
        if (!pack_worker(p, &r->workers[i], &workers[i])) return NULL;
        m.workers[m.n_workers++] = &workers[i];
    }
    return pb_arena_pack(&p->pb, &m.base, len);
}

static void pack_hops(const struct hops_report *r, Cadre__V1__Hops *m) {
    cadre__v1__hops__init(m);
    m->hosts = r->hosts;
    m->inside_latency_ns = (uint64_t)(r->inside.latency_us * 1e3);
    m->inside_rate = (uint64_t)(r->inside.bytes_per_us * 1e6);
    m->between_latency_ns = (uint64_t)(r->between.latency_us * 1e3);
    m->between_rate = (uint64_t)(r->between.bytes_per_us * 1e6);
    m->two_from = r->two_from;
    m->direct_steps = r->steps[0];
    m->two_hop_steps = r->steps[1];
    m->far_rows = r->far.rows;
    m->far_direct = r->far.direct;
    m->far_answers = r->far.answers;
    m->far_dispatch_bytes = r->far.dispatch_bytes;
    m->far_combine_bytes = r->far.combine_bytes;
}

const uint8_t *client_port_links(struct client_port *p, const struct links_report *r, size_t *len) {
    size_t cells = (size_t)r->workers * r->workers;
    pb_arena_reset_out(&p->pb);
    Cadre__V1__LinksReply m = CADRE__V1__LINKS_REPLY__INIT;
    m.workers = r->workers;
    m.n_bytes = m.n_frames = m.n_wait_us = m.n_waits = m.n_p50_us = m.n_p99_us = cells;
    m.bytes = (uint64_t *)r->bytes;
    m.frames = (uint64_t *)r->frames;
    m.wait_us = (uint64_t *)r->wait_us;
    m.waits = (uint64_t *)r->waits;
    m.p50_us = (uint64_t *)r->p50_us;
    m.p99_us = (uint64_t *)r->p99_us;
    m.n_extra = m.n_stale = m.n_duplicate = m.n_bad = cells;
    m.extra = (uint64_t *)r->extra;
    m.stale = (uint64_t *)r->stale;
    m.duplicate = (uint64_t *)r->duplicate;
    m.bad = (uint64_t *)r->bad;
    m.buckets = MSG_WAIT_BUCKETS;
    m.histogram = (uint64_t *)r->histogram;
    m.n_histogram = cells * MSG_WAIT_BUCKETS;
    m.tasks = (uint64_t *)r->tasks;
    m.tasks_long = (uint64_t *)r->tasks_long;
    m.tasks_longest_us = (uint64_t *)r->tasks_longest_us;
    m.n_tasks = m.n_tasks_long = m.n_tasks_longest_us = r->workers;
    m.steps_whole = r->steps_whole;
    m.steps_halved = r->steps_halved;
    m.slowest = (uint32_t)(r->slowest + 1);
    m.slowest_percent = r->slowest_percent;
    Cadre__V1__Hops hops;
    pack_hops(&r->hops, &hops);
    m.hops = &hops;
    return pb_arena_pack(&p->pb, &m.base, len);
}

const uint8_t *client_port_experts(struct client_port *p, const struct experts_report *r, size_t *len) {
    pb_arena_reset_out(&p->pb);
    size_t n = (size_t)r->layers * r->experts;
    Cadre__V1__ExpertsReply m = CADRE__V1__EXPERTS_REPLY__INIT;
    m.layers = r->layers;
    m.experts = r->experts;
    m.rows = (uint64_t *)r->rows;
    m.n_rows = n;
    m.model_layer = (int32_t *)r->model_layer;
    m.n_model_layer = r->layers;
    m.worker_rows = (uint64_t *)r->worker_rows;
    m.n_worker_rows = (size_t)r->n_workers;
    m.hosts = (uint32_t *)r->first_host;
    m.n_hosts = n;
    m.tokens = r->tokens;
    m.domains = arena_array(&p->pb.out, Cadre__V1__DomainRows *, r->n_domains);
    Cadre__V1__DomainRows *domains = arena_array(&p->pb.out, Cadre__V1__DomainRows, r->n_domains);
    if (!m.domains || !domains) return NULL;
    for (int i = 0; i < r->n_domains; i++) {
        cadre__v1__domain_rows__init(&domains[i]);
        domains[i].name = (char *)r->domains[i].name;
        domains[i].rows = (uint64_t *)r->domains[i].rows;
        domains[i].n_rows = n;
        domains[i].tokens = r->domains[i].tokens;
        m.domains[m.n_domains++] = &domains[i];
    }
    return pb_arena_pack(&p->pb, &m.base, len);
}

const uint8_t *client_port_trace(struct client_port *p, const uint8_t *chunk, size_t chunk_len, size_t *len) {
    pb_arena_reset_out(&p->pb);
    Cadre__V1__TraceEvent m = CADRE__V1__TRACE_EVENT__INIT;
    m.chunk = (ProtobufCBinaryData){.data = (uint8_t *)chunk, .len = chunk_len};
    return pb_arena_pack(&p->pb, &m.base, len);
}

const uint8_t *client_port_event(struct client_port *p, const struct event *e, size_t *len) {
    pb_arena_reset_out(&p->pb);
    Cadre__V1__ClusterEvent m = CADRE__V1__CLUSTER_EVENT__INIT;
    Cadre__V1__EventFigure figures[EVENT_FIGURES], *list[EVENT_FIGURES];
    for (int i = 0; i < e->n_figures; i++) {
        cadre__v1__event_figure__init(&figures[i]);
        figures[i].name = (char *)e->figure[i].name;
        figures[i].value = e->figure[i].value;
        list[i] = &figures[i];
    }
    m.number = e->number;
    m.unix_us = e->unix_us;
    m.kind = (char *)event_kind_name(e->kind);
    m.rank = (uint32_t)(e->rank + 1);
    m.text = clean(p, e->text);
    m.times = e->times;
    m.figures = list;
    m.n_figures = (size_t)e->n_figures;
    return m.text ? pb_arena_pack(&p->pb, &m.base, len) : NULL;
}

const uint8_t *client_port_ids(struct client_port *p, const int32_t *ids, size_t n, size_t *len) {
    pb_arena_reset_out(&p->pb);
    Cadre__V1__TokenizeReply m = CADRE__V1__TOKENIZE_REPLY__INIT;
    m.ids = (int32_t *)ids;
    m.n_ids = n;
    return pb_arena_pack(&p->pb, &m.base, len);
}

void *client_port_scratch(struct client_port *p, size_t bytes) {
    arena_reset(&p->scratch);
    return arena_alloc(&p->scratch, bytes);
}
