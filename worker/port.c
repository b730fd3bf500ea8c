/* port.c - what the worker says and hears of control.proto (proto/control.h). */
#include "worker/port.h"

#include "base/log.h"
#include "proto/control.h"
#include "proto/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Cadre__Control__V1__Welcome pb_welcome;
typedef Cadre__Control__V1__Plan pb_plan;

enum {
    PROTOCOL = 1,
    MAX_WORKERS = FABRIC_MAX_RANKS,
    MESSAGE_BYTES = 512 << 20, /* what one message may unpack to */
};

struct port {
    struct control control;
};

int port_new(struct bus *bus, struct port **out) {
    struct port *p = calloc(1, sizeof *p);
    if (!p) return ERR_NOMEM;
    control_init(&p->control, bus, MESSAGE_BYTES);
    *out = p;
    return 0;
}

void port_free(struct port *p) {
    if (!p) return;
    control_clear(&p->control);
    free(p);
}

/* --- in --- */

static int read_placement(const Cadre__Control__V1__Placement *m, struct placement *out, struct why *why) {
    if (!m) return fail(why, ERR_PROTOCOL, "the coordinator named no placement");
    if (m->workers < 1 || m->workers > MAX_WORKERS || m->layers > 4096 || m->experts > 65536 ||
        m->n_hosts != (size_t)m->layers * m->experts)
        return fail(why, ERR_PROTOCOL, "the placement has %zu entries for %u layers of %u experts on %u workers", m->n_hosts,
                    m->layers, m->experts, m->workers);
    int rc = placement_partial(out, (int)m->workers, (int)m->layers, (int)m->experts, m->hosts, why);
    if (rc >= 0) out->version = m->version;
    return rc;
}

static int read_peers(Cadre__Control__V1__Peer *const *from, size_t n, struct worker_setup *s, struct why *why) {
    struct peer peers[MAX_WORKERS];
    if (n != (size_t)s->placement.workers)
        return fail(why, ERR_PROTOCOL, "the coordinator names %zu peers of a cluster of %d workers", n, s->placement.workers);
    for (size_t i = 0; i < n; i++) {
        const Cadre__Control__V1__Peer *p = from[i];
        if (p->rank != i || p->address.len > FABRIC_ADDRESS_BYTES || p->host >= MAX_WORKERS)
            return fail(why, ERR_PROTOCOL, "peer %zu is rank %u on host %u with an address of %zu bytes", i, p->rank, p->host,
                        p->address.len);
        peers[i] = (struct peer){
            .incarnation = p->incarnation, .host = (int)p->host, .address = p->address.data, .address_bytes = p->address.len,
            .door = p->door};
    }
    return worker_setup_peers(s, peers, (int)n) < 0 ? fail(why, ERR_NOMEM, "out of memory for peers") : 0;
}

/* After placement and peers. */
static int read_holders(const uint64_t *held_by, size_t n, struct worker_setup *s, struct why *why) {
    if (!n) return 0;
    size_t pairs = (size_t)s->placement.layers * (size_t)s->placement.experts;
    if (n != pairs) return fail(why, ERR_PROTOCOL, "the coordinator names who holds %zu experts of %zu", n, pairs);
    s->held_by = malloc(n * sizeof *held_by);
    if (!s->held_by) return fail(why, ERR_NOMEM, "out of memory for who holds what");
    memcpy(s->held_by, held_by, n * sizeof *held_by);
    return 0;
}

static int read_epoch(const Cadre__Control__V1__Epoch *m, struct worker_setup *s, struct why *why) {
    *s = (struct worker_setup){.epoch = m->number};
    int rc = read_placement(m->placement, &s->placement, why);
    if (rc >= 0) rc = read_peers(m->peers, m->n_peers, s, why);
    if (rc >= 0) rc = read_holders(m->held_by, m->n_held_by, s, why);
    if (rc < 0) worker_setup_clear(s);
    return rc;
}

static int read_welcome(const pb_welcome *m, struct worker_setup *s, struct why *why) {
    *s = (struct worker_setup){.epoch = m->epoch,
                               .incarnation = m->incarnation,
                               .step_tokens = (int)m->step_tokens,
                               .max_seqs = (int)m->max_seqs,
                               .max_context = (int)m->max_context,
                               .page_tokens = (int)m->page_tokens,
                               .kv_pages = (int)m->kv_pages,
                               .naive_prefill = m->naive_prefill,
                               .fused = m->fused};
    int payload = m->payload[0] ? ep_format_parse(m->payload) : EP_F32,
        combine = m->combine_payload[0] ? ep_format_parse(m->combine_payload) : EP_F32;
    if (payload < 0 || combine < 0)
        return fail(why, ERR_PROTOCOL, "the coordinator wants payload '%s' and back '%s', which this worker does not know",
                    m->payload, m->combine_payload);
    s->payload = (enum ep_format)payload;
    s->combine_payload = (enum ep_format)combine;
    int fmt = fmt_parse(m->weights);
    if (fmt < 0)
        return fail(why, ERR_PROTOCOL, "the coordinator wants weights '%s', which this worker does not know", m->weights);
    s->weights = (enum fmt)fmt;
    fmt = fmt_parse_kv(m->kv);
    if (fmt < 0 || fmt == FMT_STORED)
        return fail(why, ERR_PROTOCOL, "the coordinator wants keys and values in '%s', which this worker does not know", m->kv);
    s->kv = (enum fmt)fmt;
    snprintf(s->model_dir, sizeof s->model_dir, "%s", m->model_dir);
    snprintf(s->isa, sizeof s->isa, "%s", m->isa[0] ? m->isa : "auto");
    if (m->step_tokens < 1 || m->step_tokens > 1 << 20 || m->max_seqs < 1 || m->max_seqs > 1 << 16 || m->max_context < 1 ||
        m->max_context > 1 << 24 || m->page_tokens < 1 || m->page_tokens > 1024 || m->kv_pages < 1 ||
        m->kv_pages > INT32_MAX / m->page_tokens) /* so that a KV position fits 32 bits */
        return fail(why, ERR_PROTOCOL,
                    "the coordinator's limits make no sense: %u step tokens, %u sequences, context %u, %u pages of %u",
                    m->step_tokens, m->max_seqs, m->max_context, m->kv_pages, m->page_tokens);
    int rc = read_placement(m->placement, &s->placement, why);
    if (rc >= 0) rc = read_peers(m->peers, m->n_peers, s, why);
    if (rc >= 0) rc = read_holders(m->held_by, m->n_held_by, s, why);
    if (rc < 0) worker_setup_clear(s);
    return rc;
}

static int read_starts(const pb_plan *m, struct plan *p) {
    p->start = arena_array(&p->arena, struct plan_start, m->n_start);
    if (!p->start) return ERR_NOMEM;
    for (size_t i = 0; i < m->n_start; i++) {
        const Cadre__Control__V1__SeqStart *s = m->start[i];
        int32_t *ids = arena_array(&p->arena, int32_t, s->n_ids), *stops = arena_array(&p->arena, int32_t, s->n_stop_ids);
        if (!ids || !stops) return ERR_NOMEM;
        if (s->n_ids) memcpy(ids, s->ids, sizeof *ids * s->n_ids);
        if (s->n_stop_ids) memcpy(stops, s->stop_ids, sizeof *stops * s->n_stop_ids);
        p->start[p->n_start++] = (struct plan_start){
            .seq = s->seq,
            .ids = ids,
            .n_ids = (int)s->n_ids,
            .prompt_tokens = (int)s->prompt_tokens,
            .max_tokens = (int)s->max_tokens,
            .stop_ids = stops,
            .n_stop_ids = (int)s->n_stop_ids,
            .allow_degraded = s->allow_degraded,
            .sampling = {.temperature = s->temperature,
                         .top_p = s->top_p,
                         .min_p = s->min_p,
                         .top_k = (int)s->top_k,
                         .seed = s->seed,
                         .logprobs = s->logprobs > MAX_TOP_LOGPROBS + 1 ? MAX_TOP_LOGPROBS + 1 : (int)s->logprobs},
            .domain = s->domain < TRACE_DOMAINS ? (int)s->domain : 0};
    }
    return 0;
}

static int read_runs(const pb_plan *m, struct plan *p) {
    p->run = arena_array(&p->arena, struct plan_run, m->n_run);
    if (!p->run) return ERR_NOMEM;
    for (size_t i = 0; i < m->n_run; i++) {
        const Cadre__Control__V1__SeqRun *r = m->run[i];
        uint32_t *pages = arena_array(&p->arena, uint32_t, r->n_new_pages);
        if (!pages) return ERR_NOMEM;
        if (r->n_new_pages) memcpy(pages, r->new_pages, sizeof *pages * r->n_new_pages);
        p->run[p->n_run++] = (struct plan_run){.seq = r->seq,
                                               .first = (int)r->first,
                                               .count = (int)r->count,
                                               .sample = r->sample,
                                               .new_pages = pages,
                                               .n_new_pages = (int)r->n_new_pages};
    }
    return 0;
}

static int read_plan(const pb_plan *m, struct plan *p, struct why *why) {
    if (!p) return fail(why, ERR_PROTOCOL, "more plans in flight than the protocol allows");
    if (m->n_tokens < 1 || m->n_tokens > MAX_WORKERS)
        return fail(why, ERR_PROTOCOL, "plan %llu is for %zu workers", (unsigned long long)m->step, m->n_tokens);
    p->epoch = m->epoch;
    p->placement_version = m->placement_version;
    p->step = m->step;
    p->workers = (int)m->n_tokens;
    p->two_hop = m->two_hop;
    p->uncounted = m->uncounted;
    p->microbatches = m->microbatches ? (int)(m->microbatches & INT32_MAX) : 1;
    p->patience_us = m->patience_us < 60000000 ? (int64_t)m->patience_us : 60000000;
    for (size_t w = 0; w < m->n_tokens; w++) p->tokens[w] = (int32_t)m->tokens[w];
    if (m->trace.len > sizeof p->trace)
        return fail(why, ERR_PROTOCOL, "plan %llu records %zu layers", (unsigned long long)m->step, 8 * m->trace.len);
    if (m->trace.len) memcpy(p->trace, m->trace.data, m->trace.len);
    p->n_trace = (int)m->trace.len;
    uint64_t *drop = arena_array(&p->arena, uint64_t, m->n_drop);
    if (!drop || read_starts(m, p) < 0 || read_runs(m, p) < 0)
        return fail(why, ERR_NOMEM, "out of memory for plan %llu", (unsigned long long)m->step);
    if (m->n_drop) memcpy(drop, m->drop, sizeof *drop * m->n_drop);
    p->drop = drop;
    p->n_drop = (int)m->n_drop;
    return 0;
}

static int read_message(const pb_control *m, struct port_message *out, struct plan *(*take)(void *), void *ctx,
                        struct plan **plan, struct why *why) {
    switch (m->kind_case) {
    case CADRE__CONTROL__V1__CONTROL__KIND_WELCOME: out->kind = PORT_WELCOME; return read_welcome(m->welcome, &out->setup, why);
    case CADRE__CONTROL__V1__CONTROL__KIND_REFUSE:
        out->kind = PORT_REFUSE;
        snprintf(out->reason, sizeof out->reason, "%s", m->refuse->reason);
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_PLAN:
        if (!take) return fail(why, ERR_PROTOCOL, "a plan came for a worker without a rank");
        out->kind = PORT_PLAN;
        *plan = take(ctx);
        return read_plan(m->plan, *plan, why);
    case CADRE__CONTROL__V1__CONTROL__KIND_SHUTDOWN:
        out->kind = PORT_SHUTDOWN;
        out->abort = m->shutdown->abort;
        snprintf(out->reason, sizeof out->reason, "%s", m->shutdown->reason);
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_EPOCH: out->kind = PORT_EPOCH; return read_epoch(m->epoch, &out->setup, why);
    case CADRE__CONTROL__V1__CONTROL__KIND_BEAT: return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_SWITCH:
        out->kind = PORT_SWITCH;
        out->epoch = m->switch_->number;
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_SEATED:
        out->kind = PORT_SEATED;
        if (m->seated->size < 1 || m->seated->size > MAX_WORKERS || m->seated->rank >= m->seated->size)
            return fail(why, ERR_PROTOCOL, "the coordinator gives rank %u of %u", m->seated->rank, m->seated->size);
        out->rank = (int)m->seated->rank;
        out->size = (int)m->seated->size;
        return 0;
    default:
        return fail(why, ERR_PROTOCOL, "the coordinator sent a message of kind %d, which a worker does not take",
                    (int)m->kind_case);
    }
}

int port_recv(struct port *p, struct port_message *out, struct plan *(*take)(void *ctx), void *ctx, struct plan **plan,
              struct why *why) {
    const pb_control *m;
    struct bus_id from;
    size_t len;
    int rc = control_recv(&p->control, &m, &from, &len);
    if (rc == ERR_AGAIN) return rc;
    if (rc == ERR_PROTOCOL) return fail(why, rc, "the coordinator sent %zu bytes that are no control message", len);
    if (rc < 0) return fail(why, rc, "cannot receive from the coordinator: %s", status_text(rc));
    *out = (struct port_message){.kind = PORT_NONE};
    return read_message(m, out, take, ctx, plan, why);
}

/* --- out --- */

static int send(struct port *p, const pb_control *m) { return control_send(&p->control, NULL, m); }

int port_send_seat(struct port *p, const char *host, uint64_t pid) {
    Cadre__Control__V1__Seat seat = CADRE__CONTROL__V1__SEAT__INIT;
    seat.protocol = PROTOCOL;
    seat.host = (char *)host;
    seat.pid = pid;
    pb_control m = CONTROL_MESSAGE(SEAT, seat, &seat);
    return send(p, &m);
}

int port_send_hello(struct port *p, const struct port_hello *h) {
    Cadre__Control__V1__Hello hello = CADRE__CONTROL__V1__HELLO__INIT;
    hello.protocol = PROTOCOL;
    hello.rank = (uint32_t)h->rank;
    hello.size = (uint32_t)h->size;
    hello.host = (char *)h->host;
    hello.fabric = (char *)h->fabric;
    hello.pid = h->pid;
    hello.host_id = (char *)h->host_id;
    hello.memory = h->memory;
    hello.door = (char *)h->door;
    hello.address = (ProtobufCBinaryData){h->address_bytes, (uint8_t *)h->address};
    Cadre__Control__V1__Held held = CADRE__CONTROL__V1__HELD__INIT;
    held.incarnation = h->held.incarnation;
    held.epoch = h->held.epoch;
    held.step = h->held.step;
    held.members = h->held.members;
    held.row_ns = h->held.row_ns;
    if (h->held.incarnation) hello.held = &held;
    pb_control m = CONTROL_MESSAGE(HELLO, hello, &hello);
    return send(p, &m);
}

int port_send_progress(struct port *p, uint64_t done_bytes, uint64_t total_bytes) {
    Cadre__Control__V1__Progress progress = CADRE__CONTROL__V1__PROGRESS__INIT;
    progress.done_bytes = done_bytes;
    progress.total_bytes = total_bytes;
    pb_control m = CONTROL_MESSAGE(PROGRESS, progress, &progress);
    return send(p, &m);
}

static Cadre__Control__V1__LinkFigure *pack_figure(const struct probe_link *l, Cadre__Control__V1__LinkFigure *m) {
    if (l->bytes_per_us <= 0) return NULL;
    cadre__control__v1__link_figure__init(m);
    m->latency_ns = (uint64_t)(l->latency_us * 1e3);
    m->rate = l->bytes_per_us > 1e-6 ? (uint64_t)(l->bytes_per_us * 1e6) : 1;
    return m;
}

/* Their page numbers are the table's own, which are never negative. */
static bool pack_held(struct port *p, const struct held_seq *held, int n, Cadre__Control__V1__Ready *m) {
    m->held = arena_array(&p->control.pb.out, Cadre__Control__V1__HeldSeq *, n);
    Cadre__Control__V1__HeldSeq *list = arena_array(&p->control.pb.out, Cadre__Control__V1__HeldSeq, n);
    if (!m->held || !list) return false;
    for (int i = 0; i < n; i++) {
        cadre__control__v1__held_seq__init(&list[i]);
        list[i].seq = held[i].seq;
        list[i].rows = (uint32_t)held[i].rows;
        list[i].pages = (uint32_t *)held[i].pages;
        list[i].n_pages = (size_t)held[i].n_pages;
        m->held[m->n_held++] = &list[i];
    }
    return true;
}

static bool pack_sources(struct port *p, const struct source_count *from, size_t *n, Cadre__Control__V1__Source ***out) {
    *out = arena_array(&p->control.pb.out, Cadre__Control__V1__Source *, SOURCES);
    Cadre__Control__V1__Source *list = arena_array(&p->control.pb.out, Cadre__Control__V1__Source, SOURCES);
    if (!*out || !list) return false;
    for (int k = 0; k < SOURCES; k++) {
        cadre__control__v1__source__init(&list[k]);
        list[k].blobs = from[k].blobs;
        list[k].bytes = from[k].bytes;
        list[k].us = from[k].us;
        list[k].failed = from[k].failed;
        (*out)[(*n)++] = &list[k];
    }
    return true;
}

int port_send_ready(struct port *p, const struct ready_report *r, const struct held_seq *held, int n_held) {
    Cadre__Control__V1__Ready ready = CADRE__CONTROL__V1__READY__INIT;
    Cadre__Control__V1__LinkFigure inside, between;
    ready.inside = pack_figure(&r->links.inside, &inside);
    ready.between = pack_figure(&r->links.between, &between);
    ready.model_fingerprint = r->fingerprint;
    ready.numeric_class = (char *)r->numeric_class;
    ready.weight_bytes = r->bytes.experts;
    ready.resident_bytes = r->bytes.resident;
    ready.kv_bytes = r->bytes.kv;
    ready.mapped_bytes = worker_bytes_mapped(&r->bytes);
    ready.buffer_bytes = r->bytes.buffers;
    ready.exchange_bytes = r->bytes.exchange;
    ready.slots = (uint32_t)r->slots;
    if (!pack_held(p, held, n_held, &ready) || !pack_sources(p, r->source, &ready.n_source, &ready.source)) return ERR_NOMEM;
    pb_control m = CONTROL_MESSAGE(READY, ready, &ready);
    return send(p, &m);
}

int port_send_prepared(struct port *p, const struct prepared_report *r) {
    Cadre__Control__V1__Prepared prepared = CADRE__CONTROL__V1__PREPARED__INIT;
    prepared.number = r->epoch;
    prepared.weight_bytes = r->bytes.experts;
    prepared.mapped_bytes = worker_bytes_mapped(&r->bytes);
    prepared.slots = (uint32_t)r->slots;
    if (!pack_sources(p, r->source, &prepared.n_source, &prepared.source)) return ERR_NOMEM;
    pb_control m = CONTROL_MESSAGE(PREPARED, prepared, &prepared);
    return send(p, &m);
}

static bool pack_out(struct port *p, const struct seq_out *o, Cadre__Control__V1__SeqOut *m) {
    cadre__control__v1__seq_out__init(m);
    m->seq = o->seq;
    m->position = (uint32_t)o->position;
    m->token = o->token;
    m->logprob = o->logprob;
    m->finish = (uint32_t)o->finish;
    m->top = arena_array(&p->control.pb.out, Cadre__Control__V1__TopToken *, o->n_top);
    Cadre__Control__V1__TopToken *tops = arena_array(&p->control.pb.out, Cadre__Control__V1__TopToken, o->n_top);
    if (!m->top || !tops) return false;
    for (int i = 0; i < o->n_top; i++) {
        cadre__control__v1__top_token__init(&tops[i]);
        tops[i].id = o->top[i].id;
        tops[i].logprob = o->top[i].logprob;
        m->top[m->n_top++] = &tops[i];
    }
    return true;
}

int port_send_step(struct port *p, const struct step_report *r) {
    Cadre__Control__V1__StepDone done = CADRE__CONTROL__V1__STEP_DONE__INIT;
    done.epoch = r->epoch;
    done.step = r->step;
    done.step_us = (uint64_t)r->step_us;
    done.rows = r->rows;
    done.n_rows = (size_t)r->n_rows;
    done.wait_us = (uint64_t *)r->wait_us;
    done.n_wait_us = (size_t)r->workers;
    done.part_us = (uint64_t *)r->part_us;
    done.n_part_us = PARTS;
    done.tokens = r->tokens;
    done.trace_lost = r->trace_lost;
    done.out = arena_array(&p->control.pb.out, Cadre__Control__V1__SeqOut *, r->n_out);
    Cadre__Control__V1__SeqOut *outs = arena_array(&p->control.pb.out, Cadre__Control__V1__SeqOut, r->n_out);
    if (!done.out || !outs) return ERR_NOMEM;
    for (int i = 0; i < r->n_out; i++) {
        if (!pack_out(p, &r->out[i], &outs[i])) return ERR_NOMEM;
        done.out[done.n_out++] = &outs[i];
    }
    pb_control m = CONTROL_MESSAGE(STEP_DONE, step_done, &done);
    return send(p, &m);
}

int port_send_trace(struct port *p, const uint8_t *chunk, size_t len) {
    Cadre__Control__V1__Trace trace = CADRE__CONTROL__V1__TRACE__INIT;
    trace.chunk = (ProtobufCBinaryData){.data = (uint8_t *)chunk, .len = len};
    pb_control m = CONTROL_MESSAGE(TRACE, trace, &trace);
    return send(p, &m);
}

int port_send_tally(struct port *p, int domain, uint64_t tokens, const uint64_t *rows, size_t n) {
    Cadre__Control__V1__Tally tally = CADRE__CONTROL__V1__TALLY__INIT;
    tally.domain = (uint32_t)domain;
    tally.tokens = tokens;
    tally.rows = (uint64_t *)rows;
    tally.n_rows = n;
    pb_control m = CONTROL_MESSAGE(TALLY, tally, &tally);
    return send(p, &m);
}

static void pack_link(const struct ep_link *k, Cadre__Control__V1__Link *m) {
    cadre__control__v1__link__init(m);
    m->bytes_out = k->bytes_out;
    m->bytes_in = k->bytes_in;
    m->frames_out = k->frames_out;
    m->frames_in = k->frames_in;
    m->frames_extra = k->frames_extra;
    m->frames_stale = k->frames_stale;
    m->frames_duplicate = k->frames_duplicate;
    m->frames_bad = k->frames_bad;
    m->waits = (uint64_t *)k->waits;
    m->n_waits = EP_WAIT_BUCKETS;
    while (m->n_waits && !k->waits[m->n_waits - 1]) m->n_waits--;
}

int port_send_links(struct port *p, const struct ep_link *link, int n, const struct ep_far *far,
                    const struct backend_tasks *tasks) {
    Cadre__Control__V1__Links links = CADRE__CONTROL__V1__LINKS__INIT;
    Cadre__Control__V1__Link pack[MAX_WORKERS], *to[MAX_WORKERS];
    for (int i = 0; i < n; i++) {
        pack_link(&link[i], &pack[i]);
        to[i] = &pack[i];
    }
    links.link = to;
    links.n_link = (size_t)n;
    links.far_rows = far->rows;
    links.far_direct = far->direct;
    links.far_answers = far->answers;
    links.far_dispatch_bytes = far->dispatch_bytes;
    links.far_combine_bytes = far->combine_bytes;
    links.tasks = tasks->n;
    links.tasks_long = tasks->over;
    links.tasks_longest_us = tasks->longest_us;
    pb_control m = CONTROL_MESSAGE(LINKS, links, &links);
    return send(p, &m);
}

int port_send_beat(struct port *p, uint64_t progress, bool busy, uint64_t moved, uint64_t strangers) {
    Cadre__Control__V1__Beat beat = CADRE__CONTROL__V1__BEAT__INIT;
    beat.progress = progress;
    beat.busy = busy;
    beat.moved = moved;
    beat.strangers = strangers;
    pb_control m = CONTROL_MESSAGE(BEAT, beat, &beat);
    return send(p, &m);
}

int port_send_trouble(struct port *p, const char *reason, const struct trouble *t) {
    Cadre__Control__V1__Trouble trouble = CADRE__CONTROL__V1__TROUBLE__INIT;
    trouble.reason = (char *)reason;
    trouble.step = t->step;
    trouble.late_mask = t->late;
    trouble.layer = t->layer;
    trouble.call = t->call;
    pb_control m = CONTROL_MESSAGE(TROUBLE, trouble, &trouble);
    return send(p, &m);
}
