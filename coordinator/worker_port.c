/* worker_port.c - what the coordinator says and hears of control.proto (proto/control.h). What a worker says is only decoded
 * here and its counts bounded; who may say what and when is judged by member and scheduler. */
#include "coordinator/worker_port.h"

#include "proto/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 256 << 20 /* what one message may unpack to */ };
struct worker_port {
    struct control control;
};

int worker_port_new(struct bus *bus, struct worker_port **out) {
    struct worker_port *p = calloc(1, sizeof *p);
    if (!p) return ERR_NOMEM;
    control_init(&p->control, bus, MESSAGE_BYTES);
    *out = p;
    return 0;
}

void worker_port_free(struct worker_port *p) {
    if (!p) return;
    control_clear(&p->control);
    free(p);
}

/* ---- in ---- */
static int read_outs(struct worker_port *p, const Cadre__Control__V1__StepDone *m, struct worker_step_done *d,
                     struct why *why) {
    struct step_out *out = arena_array(&p->control.pb.in, struct step_out, m->n_out);
    if (!out) return fail(why, ERR_NOMEM, "out of memory for a report of %zu tokens", m->n_out);
    for (size_t i = 0; i < m->n_out; i++) {
        const Cadre__Control__V1__SeqOut *o = m->out[i];
        if (o->n_top > MSG_MAX_TOP || o->finish > STEP_LENGTH)
            return fail(why, ERR_PROTOCOL, "a token with %zu alternatives and finish %u", o->n_top, o->finish);
        out[i] = (struct step_out){.seq = o->seq,
                                   .position = o->position,
                                   .token = o->token,
                                   .logprob = o->logprob,
                                   .finish = (enum step_finish)o->finish,
                                   .n_top = (int)o->n_top};
        for (size_t j = 0; j < o->n_top; j++) out[i].top[j] = (struct top_token){o->top[j]->id, o->top[j]->logprob};
    }
    d->out = out;
    d->n_out = (int)m->n_out;
    return 0;
}

static int read_done(struct worker_port *p, const Cadre__Control__V1__StepDone *m, struct worker_step_done *d,
                     struct why *why) {
    if (m->n_part_us != PARTS)
        return fail(why, ERR_PROTOCOL, "a report of time in %zu parts, expected %d", m->n_part_us, PARTS);
    if (m->n_out > 1 << 20 || m->n_rows > 1 << 24 || m->n_wait_us > MSG_MAX_WORKERS)
        return fail(why, ERR_PROTOCOL, "a report of %zu tokens, %zu slots and %zu waits", m->n_out, m->n_rows, m->n_wait_us);
    *d = (struct worker_step_done){.epoch = m->epoch,
                                   .step = m->step,
                                   .step_us = m->step_us,
                                   .rows = m->rows,
                                   .n_rows = (int)m->n_rows,
                                   .wait_us = m->wait_us,
                                   .n_wait = (int)m->n_wait_us,
                                   .tokens = m->tokens,
                                   .trace_lost = m->trace_lost};
    memcpy(d->part_us, m->part_us, sizeof d->part_us);
    return read_outs(p, m, d, why);
}

static int read_links(struct worker_port *p, const Cadre__Control__V1__Links *m, struct worker_msg *out, struct why *why) {
    if (m->n_link > MSG_MAX_WORKERS) return fail(why, ERR_PROTOCOL, "counts of %zu links", m->n_link);
    struct link_count *count = arena_array(&p->control.pb.in, struct link_count, m->n_link);
    if (!count) return fail(why, ERR_NOMEM, "out of memory for counts of %zu links", m->n_link);
    for (size_t i = 0; i < m->n_link; i++) {
        const Cadre__Control__V1__Link *k = m->link[i];
        if (k->n_waits > MSG_WAIT_BUCKETS) return fail(why, ERR_PROTOCOL, "waits in %zu buckets", k->n_waits);
        count[i] = (struct link_count){.bytes_out = k->bytes_out,
                                       .bytes_in = k->bytes_in,
                                       .frames_out = k->frames_out,
                                       .frames_in = k->frames_in,
                                       .frames_extra = k->frames_extra,
                                       .frames_stale = k->frames_stale,
                                       .frames_duplicate = k->frames_duplicate,
                                       .frames_bad = k->frames_bad};
        if (k->n_waits) memcpy(count[i].waits, k->waits, sizeof *k->waits * k->n_waits);
    }
    out->links.count = count;
    out->links.n = (int)m->n_link;
    out->links.far = (struct far_count){.rows = m->far_rows,
                                        .direct = m->far_direct,
                                        .answers = m->far_answers,
                                        .dispatch_bytes = m->far_dispatch_bytes,
                                        .combine_bytes = m->far_combine_bytes};
    out->links.tasks = (struct task_count){m->tasks, m->tasks_long, m->tasks_longest_us};
    return 0;
}

static struct hops_link read_figure(const Cadre__Control__V1__LinkFigure *m) {
    return m ? (struct hops_link){(double)m->latency_ns / 1e3, (double)m->rate / 1e6} : (struct hops_link){0};
}

static int read_held(struct worker_port *p, const Cadre__Control__V1__Ready *m, struct worker_ready *r, struct why *why) {
    struct held_seq *held = arena_array(&p->control.pb.in, struct held_seq, m->n_held);
    if (!held) return fail(why, ERR_NOMEM, "out of memory for %zu sequences", m->n_held);
    for (size_t i = 0; i < m->n_held; i++) {
        const Cadre__Control__V1__HeldSeq *h = m->held[i];
        if (h->rows > INT32_MAX || h->n_pages > INT32_MAX)
            return fail(why, ERR_PROTOCOL, "it holds %u rows of a sequence on %zu pages", h->rows, h->n_pages);
        held[i] = (struct held_seq){h->seq, (int)h->rows, (int)h->n_pages, h->pages};
    }
    r->held = held;
    r->n_held = (int)m->n_held;
    return 0;
}

static void read_blobs(Cadre__Control__V1__Source *const *from, size_t n, struct blob_count *out) {
    for (size_t i = 0; i < n && i < BLOB_PLACES; i++)
        out[i] = (struct blob_count){from[i]->blobs, from[i]->bytes, from[i]->us, from[i]->failed};
}

static int read_ready(struct worker_port *p, const Cadre__Control__V1__Ready *m, struct worker_ready *r, struct why *why) {
    *r = (struct worker_ready){.fingerprint = m->model_fingerprint,
                               .weight_bytes = m->weight_bytes,
                               .resident_bytes = m->resident_bytes,
                               .kv_bytes = m->kv_bytes,
                               .mapped_bytes = m->mapped_bytes,
                               .buffer_bytes = m->buffer_bytes,
                               .exchange_bytes = m->exchange_bytes,
                               .slots = m->slots,
                               .inside = read_figure(m->inside),
                               .between = read_figure(m->between)};
    snprintf(r->numeric_class, sizeof r->numeric_class, "%s", m->numeric_class);
    read_blobs(m->source, m->n_source, r->blobs);
    return read_held(p, m, r, why);
}

static void read_hello(const Cadre__Control__V1__Hello *m, struct worker_hello *h) {
    *h = (struct worker_hello){.protocol = m->protocol,
                               .rank = m->rank,
                               .size = m->size,
                               .pid = m->pid,
                               .address = m->address.data,
                               .address_bytes = m->address.len};
    snprintf(h->host, sizeof h->host, "%s", m->host);
    snprintf(h->host_id, sizeof h->host_id, "%s", m->host_id);
    snprintf(h->fabric, sizeof h->fabric, "%s", m->fabric);
    h->memory = m->memory;
    snprintf(h->door, sizeof h->door, "%s", m->door);
    if (!m->held) return;
    h->held_incarnation = m->held->incarnation;
    h->held_epoch = m->held->epoch;
    h->held_step = m->held->step;
    h->held_members = m->held->members;
    h->held_row_ns = m->held->row_ns;
}

static int read_message(struct worker_port *p, const pb_control *m, struct worker_msg *out, struct why *why) {
    switch (m->kind_case) {
    case CADRE__CONTROL__V1__CONTROL__KIND_SEAT:
        out->kind = WORKER_SEAT;
        out->hello = (struct worker_hello){.protocol = m->seat->protocol, .pid = m->seat->pid};
        snprintf(out->hello.host, sizeof out->hello.host, "%s", m->seat->host);
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_HELLO:
        out->kind = WORKER_HELLO;
        read_hello(m->hello, &out->hello);
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_PROGRESS:
        out->kind = WORKER_PROGRESS;
        out->progress.done_bytes = m->progress->done_bytes;
        out->progress.total_bytes = m->progress->total_bytes;
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_READY:
        out->kind = WORKER_IS_READY;
        return read_ready(p, m->ready, &out->ready, why);
    case CADRE__CONTROL__V1__CONTROL__KIND_STEP_DONE:
        out->kind = WORKER_STEP_DONE;
        return read_done(p, m->step_done, &out->done, why);
    case CADRE__CONTROL__V1__CONTROL__KIND_BEAT:
        out->kind = WORKER_BEAT;
        out->beat.progress = m->beat->progress;
        out->beat.busy = m->beat->busy;
        out->beat.strangers = m->beat->strangers;
        out->beat.moved = m->beat->moved;
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_TROUBLE:
        out->kind = WORKER_TROUBLE;
        out->trouble.step = m->trouble->step;
        out->trouble.late_mask = m->trouble->late_mask;
        out->trouble.layer = m->trouble->layer;
        out->trouble.call = m->trouble->call;
        snprintf(out->trouble.reason, sizeof out->trouble.reason, "%s", m->trouble->reason);
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_TRACE:
        out->kind = WORKER_TRACE;
        out->trace.chunk = m->trace->chunk.data;
        out->trace.len = m->trace->chunk.len;
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_TALLY:
        out->kind = WORKER_TALLY;
        out->tally.domain = m->tally->domain;
        out->tally.tokens = m->tally->tokens;
        out->tally.rows = m->tally->rows;
        out->tally.n = m->tally->n_rows;
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_LINKS: out->kind = WORKER_LINKS; return read_links(p, m->links, out, why);
    case CADRE__CONTROL__V1__CONTROL__KIND_REFUSE:
        out->kind = WORKER_REFUSES;
        snprintf(out->trouble.reason, sizeof out->trouble.reason, "%s", m->refuse->reason);
        return 0;
    case CADRE__CONTROL__V1__CONTROL__KIND_PREPARED:
        out->kind = WORKER_PREPARED;
        out->prepared.number = m->prepared->number;
        memset(out->prepared.blobs, 0, sizeof out->prepared.blobs);
        out->prepared.weight_bytes = m->prepared->weight_bytes;
        out->prepared.mapped_bytes = m->prepared->mapped_bytes;
        read_blobs(m->prepared->source, m->prepared->n_source, out->prepared.blobs);
        return 0;
    default:
        return fail(why, ERR_PROTOCOL, "a control message of kind %d, which a coordinator does not take", (int)m->kind_case);
    }
}

int worker_port_recv(struct worker_port *p, struct bus_id *from, struct worker_msg *out, struct why *why) {
    const pb_control *m;
    size_t len;
    int rc = control_recv(&p->control, &m, from, &len);
    if (rc == ERR_PROTOCOL) return fail(why, rc, "%zu bytes that are no control message", len);
    return rc < 0 ? rc : read_message(p, m, out, why);
}

/* ---- out ---- */
static int send(struct worker_port *p, const struct bus_id *to, const pb_control *m) {
    return control_send(&p->control, to, m);
}

/* [n] messages of peers, NULL when out of memory. */
static Cadre__Control__V1__Peer **pack_peers(struct worker_port *p, const struct worker_peer *from, uint32_t n) {
    Cadre__Control__V1__Peer **list = arena_array(&p->control.pb.out, Cadre__Control__V1__Peer *, n);
    Cadre__Control__V1__Peer *peers = arena_array(&p->control.pb.out, Cadre__Control__V1__Peer, n);
    if (!list || !peers) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        cadre__control__v1__peer__init(&peers[i]);
        peers[i].rank = i;
        peers[i].incarnation = from[i].incarnation;
        peers[i].host = from[i].host;
        peers[i].address = (ProtobufCBinaryData){from[i].address_bytes, (uint8_t *)from[i].address};
        peers[i].door = (char *)from[i].door;
        list[i] = &peers[i];
    }
    return list;
}

static void pack_placement(const struct worker_placement *from, Cadre__Control__V1__Placement *m) {
    cadre__control__v1__placement__init(m);
    m->version = from->version;
    m->workers = from->workers;
    m->layers = from->layers;
    m->experts = from->experts;
    m->hosts = (uint64_t *)from->hosts;
    m->n_hosts = (size_t)from->layers * from->experts;
}

int worker_port_welcome(struct worker_port *p, const struct bus_id *to, const struct worker_welcome *w) {
    Cadre__Control__V1__Placement placement;
    pack_placement(&w->placement, &placement);
    Cadre__Control__V1__Welcome welcome = CADRE__CONTROL__V1__WELCOME__INIT;
    welcome.epoch = w->epoch;
    welcome.model_dir = (char *)w->model_dir;
    welcome.weights = (char *)w->weights;
    welcome.kv = (char *)w->kv;
    welcome.isa = (char *)w->isa;
    welcome.naive_prefill = w->naive_prefill;
    welcome.payload = (char *)w->payload;
    welcome.combine_payload = (char *)w->combine_payload;
    welcome.fused = w->fused;
    welcome.step_tokens = w->step_tokens;
    welcome.max_seqs = w->max_seqs;
    welcome.max_context = w->max_context;
    welcome.page_tokens = w->page_tokens;
    welcome.kv_pages = w->kv_pages;
    welcome.placement = &placement;
    welcome.held_by = (uint64_t *)w->held_by;
    welcome.n_held_by = w->held_by ? placement.n_hosts : 0;
    welcome.incarnation = w->incarnation;
    welcome.peers = pack_peers(p, w->peers, w->workers);
    if (!welcome.peers) {
        pb_arena_reset_out(&p->control.pb);
        return ERR_NOMEM;
    }
    welcome.n_peers = w->workers;
    pb_control m = CONTROL_MESSAGE(WELCOME, welcome, &welcome);
    return send(p, to, &m);
}

int worker_port_epoch(struct worker_port *p, const struct bus_id *to, const struct worker_epoch *e) {
    Cadre__Control__V1__Placement placement;
    Cadre__Control__V1__Epoch epoch = CADRE__CONTROL__V1__EPOCH__INIT;
    pack_placement(&e->placement, &placement);
    epoch.number = e->number;
    epoch.placement = &placement;
    epoch.held_by = (uint64_t *)e->held_by;
    epoch.n_held_by = e->held_by ? placement.n_hosts : 0;
    epoch.peers = pack_peers(p, e->peers, e->workers);
    if (!epoch.peers) {
        pb_arena_reset_out(&p->control.pb);
        return ERR_NOMEM;
    }
    epoch.n_peers = e->workers;
    pb_control m = CONTROL_MESSAGE(EPOCH, epoch, &epoch);
    return send(p, to, &m);
}

int worker_port_switch(struct worker_port *p, const struct bus_id *to, uint32_t number) {
    Cadre__Control__V1__Switch begins = CADRE__CONTROL__V1__SWITCH__INIT;
    begins.number = number;
    pb_control m = CONTROL_MESSAGE(SWITCH, switch_, &begins);
    return send(p, to, &m);
}

int worker_port_beat(struct worker_port *p, const struct bus_id *to) {
    Cadre__Control__V1__Beat beat = CADRE__CONTROL__V1__BEAT__INIT;
    pb_control m = CONTROL_MESSAGE(BEAT, beat, &beat);
    return send(p, to, &m);
}

int worker_port_seated(struct worker_port *p, const struct bus_id *to, int rank, int size) {
    Cadre__Control__V1__Seated seated = CADRE__CONTROL__V1__SEATED__INIT;
    seated.rank = (uint32_t)rank;
    seated.size = (uint32_t)size;
    pb_control m = CONTROL_MESSAGE(SEATED, seated, &seated);
    return send(p, to, &m);
}

int worker_port_refuse(struct worker_port *p, const struct bus_id *to, const char *reason) {
    Cadre__Control__V1__Refuse refuse = CADRE__CONTROL__V1__REFUSE__INIT;
    refuse.reason = (char *)reason;
    pb_control m = CONTROL_MESSAGE(REFUSE, refuse, &refuse);
    return send(p, to, &m);
}

int worker_port_shutdown(struct worker_port *p, const struct bus_id *to, bool abort, const char *reason) {
    Cadre__Control__V1__Shutdown shutdown = CADRE__CONTROL__V1__SHUTDOWN__INIT;
    shutdown.abort = abort;
    shutdown.reason = (char *)reason;
    pb_control m = CONTROL_MESSAGE(SHUTDOWN, shutdown, &shutdown);
    return send(p, to, &m);
}

static void pack_start(const struct seq *q, Cadre__Control__V1__SeqStart *m) {
    cadre__control__v1__seq_start__init(m);
    m->seq = q->number;
    m->ids = q->ids;
    m->n_ids = (size_t)q->given;
    m->prompt_tokens = (uint32_t)q->prompt;
    m->max_tokens = (uint32_t)(q->limit - q->prompt);
    m->stop_ids = q->stop_ids;
    m->n_stop_ids = (size_t)q->n_stop_ids;
    m->temperature = q->sampling.temperature;
    m->top_p = q->sampling.top_p;
    m->top_k = q->sampling.top_k;
    m->min_p = q->sampling.min_p;
    m->seed = q->sampling.seed;
    m->logprobs = q->sampling.logprobs;
    m->allow_degraded = q->allow_degraded;
    m->domain = (uint32_t)q->domain;
}

static bool pack_work(struct worker_port *p, const struct plan_worker *w, Cadre__Control__V1__Plan *m) {
    m->start = arena_array(&p->control.pb.out, Cadre__Control__V1__SeqStart *, w->n_start);
    m->run = arena_array(&p->control.pb.out, Cadre__Control__V1__SeqRun *, w->n_run);
    Cadre__Control__V1__SeqStart *start = arena_array(&p->control.pb.out, Cadre__Control__V1__SeqStart, w->n_start);
    Cadre__Control__V1__SeqRun *run = arena_array(&p->control.pb.out, Cadre__Control__V1__SeqRun, w->n_run);
    if (!m->start || !m->run || !start || !run) return false;
    for (int i = 0; i < w->n_start; i++) {
        pack_start(w->start[i], &start[i]);
        m->start[m->n_start++] = &start[i];
    }
    for (int i = 0; i < w->n_run; i++) {
        const struct plan_run *r = &w->run[i];
        cadre__control__v1__seq_run__init(&run[i]);
        run[i].seq = r->seq->number;
        run[i].first = (uint32_t)r->first;
        run[i].count = (uint32_t)r->count;
        run[i].sample = r->sample;
        run[i].new_pages = (uint32_t *)r->new_pages; /* page numbers are never negative */
        run[i].n_new_pages = (size_t)r->n_new_pages;
        m->run[m->n_run++] = &run[i];
    }
    m->drop = w->drop;
    m->n_drop = (size_t)w->n_drop;
    return true;
}

int worker_port_plan(struct worker_port *p, const struct bus_id *to, int worker, const struct plan *plan,
                     const struct plan_around *around) {
    uint32_t tokens[MSG_MAX_WORKERS];
    Cadre__Control__V1__Plan m = CADRE__CONTROL__V1__PLAN__INIT;
    for (int w = 0; w < plan->workers; w++) tokens[w] = (uint32_t)plan->worker[w].tokens;
    m.epoch = around->epoch;
    m.placement_version = around->placement_version;
    m.step = plan->step;
    m.tokens = tokens;
    m.n_tokens = (size_t)plan->workers;
    m.patience_us = (uint64_t)around->patience_us;
    m.microbatches = (uint32_t)around->microbatches;
    m.two_hop = around->two_hop;
    m.uncounted = around->uncounted;
    m.trace = (ProtobufCBinaryData){.len = (size_t)around->n_trace, .data = (uint8_t *)around->trace};
    if (!pack_work(p, &plan->worker[worker], &m)) {
        pb_arena_reset_out(&p->control.pb);
        return ERR_NOMEM;
    }
    pb_control c = CONTROL_MESSAGE(PLAN, plan, &m);
    return send(p, to, &c);
}
