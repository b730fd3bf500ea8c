/* port.c - the library's structs to and from protobuf; the only file here that sees generated code. */
#include "client/client.h"
#include "proto/client.pb-c.h"

#include <stdlib.h>
#include <string.h>

static ProtobufCBinaryData bytes_of(const char *text, size_t len) {
    return (ProtobufCBinaryData){.len = len ? len : strlen(text), .data = (uint8_t *)text};
}

/* ---- requests ---- */
struct chat_box { /* what a Chat message points to */
    Cadre__V1__Chat chat;
    Cadre__V1__ChatMessage *messages;
    Cadre__V1__ChatMessage **list;
};

static int fill_chat(struct chat_box *box, const struct cadre_request *r) {
    *box = (struct chat_box){.chat = CADRE__V1__CHAT__INIT};
    if (!r->messages) return 0;
    box->messages = calloc(r->n_messages, sizeof *box->messages);
    box->list = calloc(r->n_messages, sizeof *box->list);
    if (!box->messages || !box->list) return -1;
    for (size_t i = 0; i < r->n_messages; i++) {
        Cadre__V1__ChatMessage *m = box->list[i] = &box->messages[i];
        *m = (Cadre__V1__ChatMessage)CADRE__V1__CHAT_MESSAGE__INIT;
        m->role = (char *)r->messages[i].role;
        m->content = bytes_of(r->messages[i].content, r->messages[i].content_len);
    }
    box->chat.messages = box->list;
    box->chat.n_messages = r->n_messages;
    return 0;
}

static void clear_chat(struct chat_box *box) {
    free(box->messages);
    free(box->list);
}

static uint8_t *pack(const ProtobufCMessage *m, size_t *len) {
    *len = protobuf_c_message_get_packed_size(m);
    uint8_t *out = malloc(*len + 1);
    if (out) protobuf_c_message_pack(m, out);
    return out;
}

static uint8_t *pack_generate(const struct cadre_request *r, struct chat_box *chat, ProtobufCBinaryData *stops, size_t *len) {
    Cadre__V1__GenerateRequest m;
    Cadre__V1__TokenIds ids = CADRE__V1__TOKEN_IDS__INIT;
    Cadre__V1__Sampling sampling = CADRE__V1__SAMPLING__INIT;
    cadre__v1__generate_request__init(&m);
    if (r->prompt) {
        m.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_PROMPT;
        m.prompt = bytes_of(r->prompt, r->prompt_len);
    } else if (r->messages) {
        m.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_CHAT;
        m.chat = &chat->chat;
    } else {
        m.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_IDS;
        m.ids = &ids;
        ids.ids = (int32_t *)r->ids;
        ids.n_ids = r->n_ids;
    }
    sampling.temperature = r->temperature;
    sampling.top_p = r->top_p;
    sampling.top_k = r->top_k;
    sampling.min_p = r->min_p;
    sampling.seed = r->seed;
    sampling.has_seed = r->has_seed != 0;
    m.sampling = &sampling;
    m.max_tokens = r->max_tokens;
    m.has_max_tokens = r->has_max_tokens != 0;
    for (size_t i = 0; i < r->n_stop; i++) stops[i] = bytes_of(r->stop[i], 0);
    m.stop = stops;
    m.n_stop = r->n_stop;
    m.stop_ids = (int32_t *)r->stop_ids;
    m.n_stop_ids = r->n_stop_ids;
    m.ignore_eos = r->ignore_eos != 0;
    m.logprobs = r->logprobs;
    if (r->tag) m.tag = (char *)r->tag;
    if (r->tenant) m.tenant = (char *)r->tenant;
    m.priority = r->priority;
    m.allow_degraded = r->allow_degraded != 0;
    m.resumable = true;
    return pack(&m.base, len);
}

uint8_t *port_encode_generate(const struct cadre_request *r, size_t *len) {
    struct chat_box chat;
    ProtobufCBinaryData *stops = calloc(r->n_stop + 1, sizeof *stops);
    uint8_t *out = fill_chat(&chat, r) < 0 || !stops ? NULL : pack_generate(r, &chat, stops, len);
    clear_chat(&chat);
    free(stops);
    return out;
}

uint8_t *port_encode_resume(const uint8_t id[FRAME_CALL_ID_BYTES], const struct resume_progress *p, size_t *len) {
    Cadre__V1__ResumeRequest m = CADRE__V1__RESUME_REQUEST__INIT;
    m.call_id = (ProtobufCBinaryData){.len = FRAME_CALL_ID_BYTES, .data = (uint8_t *)id};
    m.started = p->started;
    m.tokens = p->tokens;
    m.text_bytes = p->text_bytes;
    return pack(&m.base, len);
}

uint8_t *port_encode_tokenize(const struct cadre_request *r, size_t *len) {
    struct chat_box chat;
    Cadre__V1__TokenizeRequest m = CADRE__V1__TOKENIZE_REQUEST__INIT;
    int rc = fill_chat(&chat, r);
    if (r->messages) m.chat = &chat.chat;
    else m.text = bytes_of(r->prompt, r->prompt_len);
    uint8_t *out = rc < 0 ? NULL : pack(&m.base, len);
    clear_chat(&chat);
    return out;
}

/* ---- events ---- */
static int copy_text(struct arena *arena, ProtobufCBinaryData text, struct cadre_event *e) {
    e->text = arena_strdup(arena, text.data ? (const char *)text.data : "", text.len);
    e->text_len = text.len;
    return e->text ? CADRE_OK : CADRE_RESOURCE_EXHAUSTED;
}

static int fill_tokens(const Cadre__V1__Tokens *m, struct arena *arena, struct cadre_event *e) {
    struct cadre_token *tokens = arena_array(arena, struct cadre_token, m->n_token + 1);
    if (!tokens) return CADRE_RESOURCE_EXHAUSTED;
    for (size_t i = 0; i < m->n_token; i++) {
        const Cadre__V1__TokenInfo *t = m->token[i];
        struct cadre_top *top = arena_array(arena, struct cadre_top, t->n_top + 1);
        if (!top) return CADRE_RESOURCE_EXHAUSTED;
        for (size_t j = 0; j < t->n_top; j++)
            top[j] = (struct cadre_top){.id = t->top[j]->id,
                                        .logprob = t->top[j]->logprob,
                                        .text = (const char *)t->top[j]->text.data,
                                        .text_len = t->top[j]->text.len};
        tokens[i] = (struct cadre_token){t->id, t->logprob, top, t->n_top};
    }
    e->first = m->first;
    e->tokens = tokens;
    e->n_tokens = m->n_token;
    return copy_text(arena, m->text, e);
}

static int fill_finished(const Cadre__V1__Finished *m, struct arena *arena, struct cadre_event *e) {
    e->reason = m->reason;
    e->degraded = m->degraded;
    if (m->usage) {
        e->prompt_tokens = m->usage->prompt_tokens;
        e->completion_tokens = m->usage->completion_tokens;
        e->cached_tokens = m->usage->cached_tokens;
    }
    if (m->timing) {
        e->queue_us = m->timing->queue_us;
        e->prefill_us = m->timing->prefill_us;
        e->decode_us = m->timing->decode_us;
        e->preemptions = m->timing->preemptions;
    }
    return copy_text(arena, m->text, e);
}

static int fill_event(const Cadre__V1__GenerateEvent *m, struct arena *arena, struct cadre_event *e) {
    *e = (struct cadre_event){.kind = CADRE_STARTED};
    switch (m->kind_case) {
    case CADRE__V1__GENERATE_EVENT__KIND_STARTED:
        e->request = m->started->request;
        e->seed = m->started->seed;
        e->model = m->started->model;
        e->resumable = m->started->resumable;
        e->prompt_tokens = m->started->prompt_tokens;
        return CADRE_OK;
    case CADRE__V1__GENERATE_EVENT__KIND_TOKENS: e->kind = CADRE_TOKENS; return fill_tokens(m->tokens, arena, e);
    case CADRE__V1__GENERATE_EVENT__KIND_FINISHED: e->kind = CADRE_FINISHED; return fill_finished(m->finished, arena, e);
    default: return CADRE_INTERNAL;
    }
}

int port_decode_event(const uint8_t *bytes, size_t len, struct arena *arena, struct cadre_event *e, void **hold) {
    Cadre__V1__GenerateEvent *m = cadre__v1__generate_event__unpack(NULL, len, bytes);
    if (!m) return CADRE_INTERNAL;
    *hold = m;
    return fill_event(m, arena, e);
}

uint8_t *port_encode_trace(const uint32_t *layers, size_t n, size_t *len) {
    Cadre__V1__TraceRequest m = CADRE__V1__TRACE_REQUEST__INIT;
    m.layers = (uint32_t *)layers;
    m.n_layers = n;
    return pack(&m.base, len);
}

int port_decode_trace(const uint8_t *bytes, size_t len, const void **chunk, size_t *n, void **hold) {
    static const uint8_t nothing[1];
    Cadre__V1__TraceEvent *m = cadre__v1__trace_event__unpack(NULL, len, bytes);
    if (!m) return CADRE_INTERNAL;
    *hold = m;
    *chunk = m->chunk.data ? m->chunk.data : nothing;
    *n = m->chunk.len;
    return CADRE_OK;
}

uint8_t *port_encode_events(uint64_t after, bool follow, size_t *len) {
    Cadre__V1__EventsRequest m = CADRE__V1__EVENTS_REQUEST__INIT;
    m.after = after;
    m.follow = follow;
    return pack(&m.base, len);
}

const struct cadre_cluster_event *port_decode_cluster_event(const uint8_t *bytes, size_t len, struct arena *arena,
                                                            void **hold) {
    Cadre__V1__ClusterEvent *m = cadre__v1__cluster_event__unpack(NULL, len, bytes);
    if (!m) return NULL;
    *hold = m;
    struct cadre_cluster_event *e = arena_array(arena, struct cadre_cluster_event, 1);
    struct cadre_figure *figures = arena_array(arena, struct cadre_figure, m->n_figures + 1);
    if (!e || !figures) return NULL;
    for (size_t i = 0; i < m->n_figures; i++) figures[i] = (struct cadre_figure){m->figures[i]->name, m->figures[i]->value};
    *e = (struct cadre_cluster_event){.number = m->number,
                                      .unix_us = m->unix_us,
                                      .kind = m->kind,
                                      .rank = (int)m->rank - 1,
                                      .text = m->text,
                                      .times = m->times,
                                      .figures = figures,
                                      .n_figures = m->n_figures};
    return e;
}

void port_release(void *hold) {
    if (hold) protobuf_c_message_free_unpacked(hold, NULL);
}

/* ---- replies: a box owns the public struct and the message its strings live in ---- */
struct cluster_box {
    struct cadre_cluster pub;
    Cadre__V1__StatusReply *m;
    struct cadre_journal journal;
    struct cadre_recovery recovery;
    struct cadre_worker workers[];
};
struct load_box {
    struct cadre_load pub;
    Cadre__V1__ExpertsReply *m;
    struct cadre_domain_load domains[];
};

struct links_box {
    struct cadre_links pub;
    Cadre__V1__LinksReply *m;
};

static void fill_worker(struct cadre_worker *out, const Cadre__V1__WorkerStatus *w) {
    out->rank = w->rank;
    out->host = w->host;
    out->pid = w->pid;
    out->state = w->state;
    out->load_percent = w->load_percent;
    out->weight_bytes = w->weight_bytes;
    out->resident_bytes = w->resident_bytes;
    out->kv_bytes = w->kv_bytes;
    out->mapped_bytes = w->mapped_bytes;
    out->buffer_bytes = w->buffer_bytes;
    out->exchange_bytes = w->exchange_bytes;
    out->pack_blobs = w->pack_blobs;
    out->peer_blobs = w->peer_blobs;
    out->disk_blobs = w->disk_blobs;
    out->source_failures = w->source_failures;
    out->kv_pages = w->kv_pages;
    out->kv_pages_used = w->kv_pages_used;
    out->sequences = w->sequences;
    out->experts = w->experts;
    out->rows = w->rows;
    out->beat_age_us = w->beat_age_us;
    out->wait_us = w->wait_us;
    out->busy_us = w->busy_us;
    out->placement = w->placement;
    if (!w->time) return;
    out->time = (struct cadre_time){.attention = w->time->attention,
                                    .dense = w->time->dense,
                                    .gate = w->time->gate,
                                    .dispatch = w->time->dispatch,
                                    .experts = w->time->experts,
                                    .combine = w->time->combine,
                                    .wait = w->time->wait,
                                    .output = w->time->output,
                                    .scheduler = w->time->scheduler};
}

static const struct cadre_journal *fill_journal(struct cadre_journal *out, const Cadre__V1__JournalStatus *m) {
    *out = (struct cadre_journal){.dir = m->dir,
                                  .fault = m->fault,
                                  .records = m->records,
                                  .bytes = m->bytes,
                                  .syncs = m->syncs,
                                  .segments = m->segments,
                                  .dropped = m->dropped,
                                  .segment_bytes = m->segment_bytes,
                                  .requests = m->requests,
                                  .lag_us = m->lag_us,
                                  .lag_bytes = m->lag_bytes};
    return out;
}

static void fill_cluster(struct cadre_cluster *out, const Cadre__V1__StatusReply *m, struct cadre_journal *journal) {
    out->version = m->version;
    out->model = m->model;
    out->family = m->family;
    out->state = m->state;
    out->reason = m->reason;
    out->numeric_class = m->numeric_class;
    out->fabric = m->fabric;
    out->listen = m->listen;
    out->control = m->control;
    out->uptime_us = m->uptime_us;
    out->steps = m->steps;
    out->finished = m->finished;
    out->cancelled = m->cancelled;
    out->expired = m->expired;
    out->failed = m->failed;
    out->preemptions = m->preemptions;
    out->prompt_tokens = m->prompt_tokens;
    out->generated_tokens = m->generated_tokens;
    out->epoch = m->epoch;
    out->placement_version = m->placement_version;
    out->waiting = m->waiting;
    out->running = m->running;
    out->max_context = m->max_context;
    out->max_batch = m->max_batch;
    out->layers = m->layers;
    out->experts = m->experts;
    out->topk = m->topk;
    out->strangers = m->strangers;
    out->missing_experts = m->missing_experts;
    out->missing = m->missing;
    out->health = m->health ? (struct cadre_health){(int)m->health->level, m->health->part, m->health->text}
                            : (struct cadre_health){strcmp(m->state, "serving") ? 2 : 0, "", ""};
    if (m->journal) out->journal = fill_journal(journal, m->journal);
}

static const struct cadre_recovery *fill_recovery(struct cadre_recovery *out, const Cadre__V1__RecoveryStatus *m) {
    *out = (struct cadre_recovery){.without_one = m->without_one,
                                   .deaths = m->deaths,
                                   .detect_us = m->detect_us,
                                   .decide_us = m->decide_us,
                                   .reload_us = m->reload_us,
                                   .first_step_us = m->first_step_us,
                                   .recompute_us = m->recompute_us};
    return out;
}

struct cadre_cluster *port_decode_status(const uint8_t *bytes, size_t len) {
    Cadre__V1__StatusReply *m = cadre__v1__status_reply__unpack(NULL, len, bytes);
    struct cluster_box *box = m ? calloc(1, sizeof *box + m->n_workers * sizeof *box->workers) : NULL;
    if (!box) {
        port_release(m);
        return NULL;
    }
    box->m = m;
    fill_cluster(&box->pub, m, &box->journal);
    if (m->recovery) box->pub.recovery = fill_recovery(&box->recovery, m->recovery);
    for (size_t i = 0; i < m->n_workers; i++) fill_worker(&box->workers[i], m->workers[i]);
    box->pub.workers = box->workers;
    box->pub.n_workers = m->n_workers;
    return &box->pub;
}

void cadre_cluster_free(struct cadre_cluster *c) {
    if (!c) return;
    struct cluster_box *box = (struct cluster_box *)((char *)c - offsetof(struct cluster_box, pub));
    port_release(box->m);
    free(box);
}

static void fill_hops(struct cadre_hops *out, const Cadre__V1__Hops *m) {
    if (!m) return;
    out->hosts = m->hosts;
    out->inside_latency_ns = m->inside_latency_ns;
    out->inside_rate = m->inside_rate;
    out->between_latency_ns = m->between_latency_ns;
    out->between_rate = m->between_rate;
    out->two_from = m->two_from;
    out->direct_steps = m->direct_steps;
    out->two_hop_steps = m->two_hop_steps;
    out->far_rows = m->far_rows;
    out->far_direct = m->far_direct;
    out->far_answers = m->far_answers;
    out->far_dispatch_bytes = m->far_dispatch_bytes;
    out->far_combine_bytes = m->far_combine_bytes;
}

uint8_t *port_encode_drain(uint32_t rank, size_t *len) {
    Cadre__V1__DrainRequest m = CADRE__V1__DRAIN_REQUEST__INIT;
    m.rank = rank;
    *len = cadre__v1__drain_request__get_packed_size(&m);
    uint8_t *bytes = malloc(*len + 1);
    if (bytes) cadre__v1__drain_request__pack(&m, bytes);
    return bytes;
}

struct cadre_links *port_decode_links(const uint8_t *bytes, size_t len) {
    Cadre__V1__LinksReply *m = cadre__v1__links_reply__unpack(NULL, len, bytes);
    size_t cells = m ? (size_t)m->workers * m->workers : 0;
    bool whole = m && m->n_bytes == cells && m->n_frames == cells && m->n_wait_us == cells && m->n_waits == cells &&
                 m->n_p50_us == cells && m->n_p99_us == cells && m->n_histogram == cells * m->buckets && m->n_extra == cells &&
                 m->n_stale == cells && m->n_duplicate == cells && m->n_bad == cells && m->slowest <= m->workers &&
                 m->n_tasks == m->workers && m->n_tasks_long == m->workers && m->n_tasks_longest_us == m->workers;
    struct links_box *box = whole ? calloc(1, sizeof *box) : NULL;
    if (!box) {
        port_release(m);
        return NULL;
    }
    box->m = m;
    box->pub = (struct cadre_links){.n = m->workers,
                                    .bytes = m->bytes,
                                    .frames = m->frames,
                                    .wait_us = m->wait_us,
                                    .waits = m->waits,
                                    .p50_us = m->p50_us,
                                    .p99_us = m->p99_us,
                                    .buckets = m->buckets,
                                    .histogram = m->histogram,
                                    .slowest = (int)m->slowest - 1,
                                    .slowest_percent = m->slowest_percent,
                                    .extra = m->extra,
                                    .stale = m->stale,
                                    .duplicate = m->duplicate,
                                    .bad = m->bad,
                                    .steps_whole = m->steps_whole,
                                    .steps_halved = m->steps_halved,
                                    .tasks = m->tasks,
                                    .tasks_long = m->tasks_long,
                                    .tasks_longest_us = m->tasks_longest_us};
    fill_hops(&box->pub.hops, m->hops);
    return &box->pub;
}

void cadre_links_free(struct cadre_links *l) {
    if (!l) return;
    struct links_box *box = (struct links_box *)((char *)l - offsetof(struct links_box, pub));
    port_release(box->m);
    free(box);
}

struct cadre_load *port_decode_experts(const uint8_t *bytes, size_t len) {
    Cadre__V1__ExpertsReply *m = cadre__v1__experts_reply__unpack(NULL, len, bytes);
    size_t cells = m ? (size_t)m->layers * m->experts : 0;
    struct load_box *box = NULL;
    if (m && m->n_rows == cells && m->n_hosts == cells && m->n_model_layer == m->layers)
        box = calloc(1, sizeof *box + m->n_domains * sizeof *box->domains);
    for (size_t i = 0; box && i < m->n_domains; i++) {
        box->domains[i] = (struct cadre_domain_load){m->domains[i]->name, m->domains[i]->rows, m->domains[i]->tokens};
        if (m->domains[i]->n_rows == cells) continue;
        free(box);
        box = NULL;
    }
    if (!box) {
        port_release(m);
        return NULL;
    }
    box->m = m;
    box->pub = (struct cadre_load){.layers = m->layers,
                                   .experts = m->experts,
                                   .rows = m->rows,
                                   .model_layer = m->model_layer,
                                   .hosts = m->hosts,
                                   .worker_rows = m->worker_rows,
                                   .n_workers = m->n_worker_rows,
                                   .tokens = m->tokens,
                                   .domains = box->domains,
                                   .n_domains = m->n_domains};
    return &box->pub;
}

void cadre_load_free(struct cadre_load *l) {
    if (!l) return;
    struct load_box *box = (struct load_box *)((char *)l - offsetof(struct load_box, pub));
    port_release(box->m);
    free(box);
}

int port_decode_ids(const uint8_t *bytes, size_t len, int32_t **ids, size_t *n) {
    Cadre__V1__TokenizeReply *m = cadre__v1__tokenize_reply__unpack(NULL, len, bytes);
    if (!m) return CADRE_INTERNAL;
    *ids = malloc(sizeof **ids * (m->n_ids + 1));
    *n = m->n_ids;
    if (*ids && m->n_ids) memcpy(*ids, m->ids, sizeof **ids * m->n_ids);
    port_release(m);
    return *ids ? CADRE_OK : CADRE_INTERNAL;
}
