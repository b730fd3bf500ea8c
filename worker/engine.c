/* engine.c - loads what the placement gives this worker, then runs one plan after another.
 *
 * A plan grants positions; the home decides the rest: it feeds itself the token it sampled, ends a sequence at a stop id or at
 * its length, and turns rows granted beyond that end into nothing. Plans are input: what contradicts what this worker knows is
 * refused with the numbers, and ends the engine rather than the process. */
#include "worker/engine.h"

#include "base/clk.h"
#include "base/log.h"
#include "worker/forward.h"
#include "worker/join.h"
#include "worker/sampler.h"
#include "worker/seq.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLANS = 4, REPORTS = 4, REST_MS = 5 /* between two looks at frames that a peer does not take */ };

struct engine {
    struct engine_options options;
    pthread_t thread;
    bool running;
    atomic_bool stop, busy;
    atomic_ullong progress, loaded_bytes, total_bytes;
    struct plan plans[PLANS];
    struct step_report reports[REPORTS];
    struct ring plan_free, plan_in, report_free, event_out; /* of pointers; of struct event */
    struct bell plan_bell, event_bell;

    /* the engine thread's own from here on */
    struct worker_setup setup;
    const struct checkpoint *counted; /* not NULL: nothing is loaded, only counted (engine_measure) */
    struct worker_bytes bytes;
    struct checkpoint checkpoint;
    struct backend *backend;
    struct weights weights;
    struct expert_store store;
    struct kv kv;
    struct ep_limits limits;
    struct probe links;
    struct ep *ep;
    struct moe moe;
    struct forward forward;
    struct seq_table seqs;
    struct sampler sampler;
    struct trace trace; /* these two outlive the engine thread: the control thread reads what they hold */
    struct tally tally;
    uint64_t step;         /* of the plan taken last; plans are numbered upwards from 1 */
    uint64_t *rows_before; /* [slots] */
    struct seq **sampled;  /* [max_seqs] of the step under way */
    int granted;           /* rows the plan gives this worker */
};

/* --- the two rings --- */

int engine_new(const struct engine_options *o, struct engine **out) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return ERR_NOMEM;
    e->options = *o;
    e->options.fabric = NULL;
    e->plan_bell.fd = e->event_bell.fd = -1;
    if (ring_init(&e->plan_free, sizeof(void *), PLANS) < 0 || ring_init(&e->plan_in, sizeof(void *), PLANS) < 0 ||
        ring_init(&e->report_free, sizeof(void *), REPORTS) < 0 || ring_init(&e->event_out, sizeof(struct event), 64) < 0 ||
        bell_open(&e->plan_bell) < 0 || bell_open(&e->event_bell) < 0) {
        engine_free(e);
        return ERR_NOMEM;
    }
    for (int i = 0; i < PLANS; i++) {
        struct plan *p = &e->plans[i];
        arena_init(&p->arena, 1 << 16);
        ring_push(&e->plan_free, &p);
    }
    for (int i = 0; i < REPORTS; i++) {
        struct step_report *r = &e->reports[i];
        ring_push(&e->report_free, &r);
    }
    e->options.fabric = o->fabric;
    *out = e;
    return 0;
}

void engine_free(struct engine *e) {
    if (!e) return;
    worker_setup_clear(&e->setup); /* of an engine whose thread did not start */
    fabric_close(e->options.fabric);
    for (int i = 0; i < PLANS; i++) arena_clear(&e->plans[i].arena);
    for (int i = 0; i < REPORTS; i++) {
        free(e->reports[i].out);
        free(e->reports[i].rows);
    }
    trace_clear(&e->trace);
    tally_clear(&e->tally);
    ring_clear(&e->plan_free);
    ring_clear(&e->plan_in);
    ring_clear(&e->report_free);
    ring_clear(&e->event_out);
    bell_close(&e->plan_bell);
    bell_close(&e->event_bell);
    free(e);
}

struct plan *engine_plan_take(struct engine *e) {
    struct plan *p;
    if (!ring_pop(&e->plan_free, &p)) return NULL;
    struct arena arena = p->arena;
    arena_reset(&arena);
    *p = (struct plan){.arena = arena};
    return p;
}

void engine_plan_push(struct engine *e, struct plan *p) {
    ring_push(&e->plan_in, &p);
    bell_ring(&e->plan_bell);
}

bool engine_event_pop(struct engine *e, struct event *out) { return ring_pop(&e->event_out, out); }
void engine_trace_done(struct engine *e, struct trace_block *b) { trace_give_back(&e->trace, b); }
const struct tally *engine_tally(const struct engine *e) { return &e->tally; }
void engine_report_done(struct engine *e, struct step_report *r) {
    ring_push(&e->report_free, &r);
    bell_ring(&e->plan_bell);
}
int engine_event_fd(struct engine *e) { return e->event_bell.fd; }
void engine_event_clear(struct engine *e) { bell_clear(&e->event_bell); }

uint64_t engine_progress(const struct engine *e, bool *busy) {
    *busy = atomic_load_explicit(&e->busy, memory_order_relaxed);
    return atomic_load_explicit(&e->progress, memory_order_relaxed);
}

void engine_load_state(const struct engine *e, uint64_t *done_bytes, uint64_t *total_bytes) {
    *done_bytes = atomic_load_explicit(&e->loaded_bytes, memory_order_relaxed);
    *total_bytes = atomic_load_explicit(&e->total_bytes, memory_order_relaxed);
}

static void emit(struct engine *e, const struct event *ev) {
    if (!ring_push(&e->event_out, ev))
        log_error("the control thread does not take events; one of kind %d is lost", (int)ev->kind);
    bell_ring(&e->event_bell);
}

static void on_late(void *ctx, uint64_t late, int layer) {
    struct engine *e = ctx;
    emit(e, &(struct event){.kind = EVENT_TROUBLE, .trouble = {e->step, late, (uint32_t)layer, e->moe.calls}});
}

/* --- loading --- */

/* There, and back where that is different. */
static void payload_name(const struct worker_setup *s, char *buf, size_t cap) {
    const char *back = s->fused ? "fused" : ep_format_name(s->combine_payload);
    bool plain = s->payload == EP_F32 && s->combine_payload == EP_F32 && !s->fused;
    snprintf(buf, cap, "%s%s%s", ep_format_name(s->payload), plain ? "" : "/", plain ? "" : back);
}

static void numeric_class(const struct engine *e, char *buf, size_t cap) {
    const enum fmt w = e->setup.weights, kv = w == FMT_STORED ? e->checkpoint.config.stored : w;
    char payload[32];
    payload_name(&e->setup, payload, sizeof payload);
    snprintf(buf, cap, "cpu/%s weights=%s activations=f32 payload=%s kv=%s kernels=1%s", e->backend->ops->name, fmt_name(w),
             payload, fmt_name(kv), e->setup.naive_prefill ? " mla=naive-prefill" : "");
}

static uint64_t bytes_to_load(const struct engine *e) {
    uint64_t total = weights_bytes(&e->checkpoint, e->setup.weights);
    return total + expert_store_bytes(&e->checkpoint.config, e->setup.weights, &e->setup.placement, e->options.rank);
}

static int check_setup(const struct engine *e, struct why *why) {
    const struct worker_setup *s = &e->setup;
    const struct model_config *c = &e->checkpoint.config;
    if (s->placement.layers != c->moe_layers || s->placement.experts != c->gate.experts ||
        s->placement.workers != e->options.workers)
        return fail(
            why, ERR_PROTOCOL,
            "the placement is for %d layers of %d experts on %d workers; this model has %d of %d, this cluster %d workers",
            s->placement.layers, s->placement.experts, s->placement.workers, c->moe_layers, c->gate.experts,
            e->options.workers);
    if (e->options.fabric && s->n_peers != e->options.workers)
        return fail(why, ERR_PROTOCOL, "the coordinator names %d peers of a cluster of %d workers", s->n_peers,
                    e->options.workers);
    if (s->max_context > c->max_positions)
        return fail(why, ERR_PROTOCOL, "context of %d tokens is longer than the model's %d", s->max_context, c->max_positions);
    return 0;
}

/* Before anything is loaded (join.h). */
static int join_exchange(struct engine *e, struct why *why) {
    if (!e->checkpoint.config.moe_layers) return 0;
    e->limits = join_limits(&e->setup, &e->checkpoint.config);
    int rc = ep_check_limits(&e->limits, e->options.workers, why);
    if (rc < 0) return rc;
    e->bytes.exchange = ep_bytes(&e->limits, e->options.workers);
    if (e->options.workers == 1 || e->counted) return 0;
    return join_fabric(e->options.fabric, &e->setup, &e->limits, &e->links, why);
}

static int load_exchange(struct engine *e, struct why *why) {
    const struct model_config *c = &e->checkpoint.config;
    struct worker_setup *s = &e->setup;
    if (!c->moe_layers) return 0;
    int rc = e->counted ? 0 : ep_new(e->options.fabric, &e->limits, &e->ep, why);
    if (rc < 0) return rc;
    e->moe = (struct moe){.backend = e->backend,
                          .config = c,
                          .store = &e->store,
                          .placement = &s->placement,
                          .ep = e->ep,
                          .rank = e->options.rank,
                          .workers = e->options.workers,
                          .stop = &e->stop,
                          .sums = s->fused,
                          .on_late = on_late,
                          .trace = &e->trace,
                          .tally = &e->tally,
                          .ctx = e};
    return moe_init(&e->moe, s->step_tokens, why);
}

static int alloc_reports(struct engine *e, struct why *why) {
    size_t slots = (size_t)(e->store.first ? e->store.first[e->store.layers] : 0) + 1;
    e->rows_before = calloc(slots, sizeof *e->rows_before);
    e->sampled = calloc((size_t)e->setup.max_seqs, sizeof *e->sampled);
    bool ok = e->rows_before && e->sampled;
    for (int i = 0; i < REPORTS; i++) {
        e->reports[i].out = calloc((size_t)e->setup.max_seqs, sizeof *e->reports[i].out);
        e->reports[i].rows = calloc(slots, sizeof *e->reports[i].rows);
        ok = ok && e->reports[i].out && e->reports[i].rows;
    }
    return ok ? 0 : fail(why, ERR_NOMEM, "out of memory for step reports");
}

static int open_model(struct engine *e, struct why *why) {
    const struct worker_setup *s = &e->setup;
    struct backend_options bo = {.isa = s->isa, .threads = e->options.threads};
    int rc = 0;
    if (e->counted) e->checkpoint = *e->counted, e->checkpoint.headers_only = true;
    else rc = checkpoint_open(s->model_dir, &e->checkpoint, why);
    if (rc >= 0 && (rc = check_setup(e, why)) < 0) rc = fail_in(why, rc, "%s", s->model_dir);
    if (rc < 0) return rc;
    return e->counted ? backend_open_count(&e->backend, why) : backend_open(&bo, &e->backend, why);
}

/* What was taken from the device since the last call. */
static uint64_t taken(const struct engine *e, uint64_t *before) {
    uint64_t now = e->backend->allocated, bytes = now - *before;
    *before = now;
    return bytes;
}

static int load(struct engine *e, struct why *why) {
    struct worker_setup *s = &e->setup;
    const struct model_config *c = &e->checkpoint.config;
    int rc = open_model(e, why);
    if (rc < 0) return rc;
    rc = join_exchange(e, why);
    if (rc < 0) return rc;
    uint64_t before = e->backend->allocated;
    if (!e->counted) atomic_store(&e->total_bytes, bytes_to_load(e));
    rc = weights_open(&e->weights, e->backend, &e->checkpoint, s->weights, s->max_context, &e->loaded_bytes, why);
    e->bytes.mapped = e->weights.mapped_bytes;
    e->bytes.resident = taken(e, &before) + e->bytes.mapped;
    if (rc >= 0)
        rc = expert_store_open(&e->store, e->backend, &e->checkpoint, s->weights, &s->placement, e->options.rank,
                               &e->loaded_bytes, why);
    e->bytes.experts = taken(e, &before);
    if (rc >= 0) rc = kv_open(&e->kv, e->backend, c, s->weights, s->kv_pages, s->page_tokens, why);
    e->bytes.kv = taken(e, &before);
    if (rc >= 0) rc = seq_table_init(&e->seqs, s, why);
    if (rc >= 0 && sampler_init(&e->sampler, c->vocab) < 0) rc = fail(why, ERR_NOMEM, "out of memory for the sampler");
    if (rc >= 0) rc = alloc_reports(e, why);
    if (rc >= 0 && !e->counted) rc = trace_init(&e->trace, c, s->step_tokens, why);
    if (rc >= 0 && !e->counted) rc = tally_init(&e->tally, c, why);
    if (rc >= 0) rc = load_exchange(e, why);
    if (rc < 0) return rc;
    e->forward = (struct forward){
        .backend = e->backend, .config = c, .weights = &e->weights, .kv = &e->kv, .moe = &e->moe, .progress = &e->progress};
    struct forward_limits limits = {s->step_tokens, s->max_seqs, e->seqs.max_pages};
    rc = forward_init(&e->forward, &limits, why);
    e->forward.mla.naive = s->naive_prefill;
    e->bytes.buffers = taken(e, &before);
    if (!e->counted) st_forget(e->checkpoint.tensors); /* what was copied from the files is not held twice */
    atomic_store(&e->loaded_bytes, atomic_load(&e->total_bytes));
    return rc;
}

static void unload(struct engine *e) {
    forward_clear(&e->forward);
    moe_clear(&e->moe);
    ep_free(e->ep);
    sampler_clear(&e->sampler);
    seq_table_clear(&e->seqs);
    kv_close(&e->kv);
    expert_store_close(&e->store);
    weights_close(&e->weights);
    backend_close(e->backend);
    if (!e->counted) checkpoint_close(&e->checkpoint);
    worker_setup_clear(&e->setup);
    free(e->rows_before);
    free(e->sampled);
}

static void take_setup(struct engine *e, struct worker_setup *setup) {
    e->setup = *setup;
    setup->placement = (struct placement){0};
    setup->peers = NULL;
    setup->n_peers = 0;
}

int engine_measure(const struct engine_options *o, struct worker_setup *setup, const struct checkpoint *c,
                   struct worker_bytes *out, struct why *why) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) {
        worker_setup_clear(setup);
        return fail(why, ERR_NOMEM, "out of memory");
    }
    e->options = *o;
    take_setup(e, setup);
    e->counted = c;
    int rc = load(e, why);
    *out = e->bytes;
    unload(e);
    for (int i = 0; i < REPORTS; i++) {
        free(e->reports[i].out);
        free(e->reports[i].rows);
    }
    free(e);
    return rc;
}

static void report_ready(struct engine *e) {
    struct event ev = {.kind = EVENT_READY};
    ev.ready = (struct ready_report){.fingerprint = e->checkpoint.fingerprint,
                                     .bytes = e->bytes,
                                     .links = e->links,
                                     .slots = e->store.first ? e->store.first[e->store.layers] : 0};
    numeric_class(e, ev.ready.numeric_class, sizeof ev.ready.numeric_class);
    emit(e, &ev);
}

/* --- a step --- */

static int add_row(struct engine *e, struct seq *s, int table_row, int pos, struct why *why) {
    struct step_rows *r = &e->forward.rows;
    unsigned long long id = s->id;
    if (r->T == e->granted) return fail(why, ERR_PROTOCOL, "the plan's runs have more than the %d rows it grants", e->granted);
    if (pos < 0 || pos >= s->n_ids)
        return fail(why, ERR_PROTOCOL, "sequence %llu is granted position %d; %d tokens are known", id, pos, s->n_ids);
    int page = pos / e->setup.page_tokens;
    if (page >= s->n_pages)
        return fail(why, ERR_PROTOCOL, "sequence %llu is granted position %d but has %d pages", id, pos, s->n_pages);
    r->ids[r->T] = s->ids[pos];
    r->pos[r->T] = pos;
    r->seq[r->T] = table_row;
    r->seq_id[r->T] = s->id;
    r->domain[r->T] = s->domain;
    r->prompt[r->T] = pos < s->prompt_tokens;
    r->kv_at[r->T] = s->pages[page] * e->setup.page_tokens + pos % e->setup.page_tokens;
    r->T++;
    return 0;
}

static int add_run(struct engine *e, const struct plan_run *run, struct why *why) {
    struct step_rows *r = &e->forward.rows;
    struct seq *s = seq_find(&e->seqs, run->seq);
    if (!s) return fail(why, ERR_PROTOCOL, "the plan runs sequence %llu, which is not here", (unsigned long long)run->seq);
    if (e->setup.placement.missing && !s->allow_degraded)
        return fail(why, ERR_PROTOCOL, "the plan runs sequence %llu, which wants all experts; %d are missing",
                    (unsigned long long)run->seq, e->setup.placement.missing);
    int rc = seq_add_pages(&e->seqs, s, run->new_pages, run->n_new_pages, why);
    if (rc < 0 || s->finish != SEQ_RUNNING) return rc; /* granted beyond its end: a no-op */
    if (s->last_step == e->step || run->count < 1)
        return fail(why, ERR_PROTOCOL, "the plan runs sequence %llu %s", (unsigned long long)run->seq,
                    run->count < 1 ? "for no rows" : "twice");
    s->last_step = e->step;
    memcpy(r->pages + (size_t)r->n_seqs * (size_t)e->seqs.max_pages, s->pages, sizeof *s->pages * (size_t)s->n_pages);
    for (int i = 0; i < run->count; i++)
        if ((rc = add_row(e, s, r->n_seqs, run->first + i, why)) < 0) return rc;
    r->n_seqs++;
    if (!run->sample) return 0;
    if (run->first + run->count != s->n_ids || s->n_ids >= e->setup.max_context)
        return fail(why, ERR_PROTOCOL, "sequence %llu is to sample position %d; %d tokens are known", (unsigned long long)s->id,
                    run->first + run->count, s->n_ids);
    if (s->max_tokens < 1)
        return fail(why, ERR_PROTOCOL, "sequence %llu is to sample, but may answer with at most %d tokens",
                    (unsigned long long)s->id, s->max_tokens);
    e->sampled[r->n_sampled] = s;
    r->sampled[r->n_sampled++] = r->T - 1;
    return 0;
}

static int prepare(struct engine *e, const struct plan *p, struct why *why) {
    if (p->epoch != e->setup.epoch || p->workers != e->options.workers)
        return fail(why, ERR_EPOCH, "the plan is for epoch %u of %d workers; this is epoch %u of %d", p->epoch, p->workers,
                    e->setup.epoch, e->options.workers);
    if (p->placement_version != e->setup.placement.version)
        return fail(why, ERR_PROTOCOL, "the plan names placement %u; this worker has %u", p->placement_version,
                    e->setup.placement.version);
    if (p->microbatches < 1 || p->microbatches > EP_MICROBATCHES)
        return fail(why, ERR_PROTOCOL, "the plan is for %d microbatches, expected 1 or %d", p->microbatches, EP_MICROBATCHES);
    for (int w = 0; w < p->workers; w++)
        if (p->tokens[w] < 0 || p->tokens[w] > e->setup.step_tokens)
            return fail(why, ERR_PROTOCOL, "the plan grants worker %d %d rows, at most %d", w, p->tokens[w],
                        e->setup.step_tokens);
    if (p->step <= e->step)
        return fail(why, ERR_PROTOCOL, "the plan is for step %llu; this worker was given step %llu already",
                    (unsigned long long)p->step, (unsigned long long)e->step);
    e->step = p->step;
    struct step_rows *r = &e->forward.rows;
    r->T = r->n_seqs = r->n_sampled = 0;
    e->granted = p->tokens[e->options.rank];
    for (int i = 0; i < p->n_drop; i++) seq_drop(&e->seqs, p->drop[i]);
    for (int i = 0; i < p->n_start; i++) {
        for (int j = 0; j < p->start[i].n_ids; j++)
            if (p->start[i].ids[j] < 0 || p->start[i].ids[j] >= e->checkpoint.config.vocab)
                return fail(why, ERR_PROTOCOL, "sequence %llu has token %d; the vocabulary has %d",
                            (unsigned long long)p->start[i].seq, p->start[i].ids[j], e->checkpoint.config.vocab);
        int rc = seq_start(&e->seqs, &p->start[i], why);
        if (rc < 0) return rc;
    }
    for (int i = 0; i < p->n_run; i++) {
        int rc = add_run(e, &p->run[i], why);
        if (rc < 0) return rc;
    }
    return 0;
}

static void sample(struct engine *e, struct step_report *out) {
    for (int i = 0; i < e->forward.rows.n_sampled; i++) {
        struct seq *s = e->sampled[i];
        struct seq_out *o = &out->out[out->n_out++];
        *o = (struct seq_out){.seq = s->id, .position = s->n_ids};
        sampler_pick(&e->sampler, e->forward.logits + (size_t)i * (size_t)e->checkpoint.config.vocab, &e->forward.stats[i],
                     &s->sampling, s->n_ids, o);
        seq_append(s, o->token);
        o->finish = s->finish;
    }
}

static void count_rows(struct engine *e, struct step_report *out) {
    out->n_rows = e->store.first ? e->store.first[e->store.layers] : 0;
    for (int i = 0; i < out->n_rows; i++) {
        out->rows[i] = (uint32_t)(e->store.slots[i].rows - e->rows_before[i]);
        e->rows_before[i] = e->store.slots[i].rows;
    }
}

static struct step_report *take_report(struct engine *e) {
    struct step_report *r;
    while (!ring_pop(&e->report_free, &r)) {
        if (atomic_load(&e->stop)) return NULL;
        struct pollfd fd = {.fd = e->plan_bell.fd, .events = POLLIN};
        poll(&fd, 1, 100);
        bell_clear(&e->plan_bell);
    }
    r->n_out = 0;
    return r;
}

static int run_plan(struct engine *e, const struct plan *p, struct why *why) {
    struct step_report *report = take_report(e);
    if (!report) return ERR_CANCELLED;
    int64_t start_us = clk_now_us();
    int rc = prepare(e, p, why);
    if (rc < 0) return rc;
    e->moe.patience_us = p->patience_us;
    e->moe.calls = 0;
    e->forward.microbatches = p->microbatches;
    uint64_t waited[FABRIC_MAX_RANKS] = {0};
    if (e->ep) {
        memcpy(waited, ep_counters(e->ep)->wait_us, sizeof waited);
        ep_set_two_hop(e->ep, p->two_hop);
        ep_step_begin(e->ep, p->epoch, p->step, p->tokens, p->microbatches);
    }
    trace_begin(&e->trace, p->trace, p->n_trace, e->options.rank, p->step, &e->forward.rows);
    rc = forward_step(&e->forward);
    struct trace_block *traced = trace_end(&e->trace);
    if (traced) emit(e, &(struct event){.kind = EVENT_TRACE, .trace = traced});
    if (rc < 0) return rc == ERR_CANCELLED ? rc : fail(why, rc, "step %llu: %s", (unsigned long long)p->step, status_text(rc));
    sample(e, report);
    count_rows(e, report);
    if (e->tally.rows) tally_step_end(&e->tally, &e->forward.rows);
    report->tokens = (uint32_t)e->forward.rows.T;
    report->trace_lost = e->trace.lost;
    report->epoch = p->epoch;
    report->step = p->step;
    report->workers = e->options.workers;
    for (int w = 0; w < report->workers && e->ep; w++) {
        report->wait_us[w] = ep_counters(e->ep)->wait_us[w] - waited[w];
        report->link[w] = ep_counters(e->ep)->link[w];
    }
    if (e->ep) report->far = ep_counters(e->ep)->far;
    report->tasks = e->backend->tasks;
    report->step_us = clk_now_us() - start_us;
    emit(e, &(struct event){.kind = EVENT_STEP, .step = report});
    return 0;
}

static int serve(struct engine *e, struct why *why) {
    while (!atomic_load(&e->stop)) {
        struct plan *p;
        if (!ring_pop(&e->plan_in, &p)) {
            struct pollfd fd = {.fd = e->plan_bell.fd, .events = POLLIN};
            poll(&fd, 1, moe_idle(&e->moe) ? REST_MS : 1000);
            bell_clear(&e->plan_bell);
            continue;
        }
        atomic_store(&e->busy, true);
        int rc = run_plan(e, p, why);
        atomic_fetch_add(&e->progress, 1);
        atomic_store(&e->busy, false);
        ring_push(&e->plan_free, &p);
        if (rc == ERR_CANCELLED) return 0;
        if (rc < 0) return rc;
    }
    return 0;
}

static void *engine_main(void *arg) {
    struct engine *e = arg;
    struct event failed = {.kind = EVENT_FAILED};
    char name[16];
    snprintf(name, sizeof name, "worker %d", e->options.rank);
    log_set_name(name); /* its lines are the worker's, whichever thread says them */
    snprintf(name, sizeof name, "engine %d", e->options.rank);
    pthread_setname_np(pthread_self(), name);
    int rc = load(e, &failed.failed);
    if (rc >= 0) {
        report_ready(e);
        rc = serve(e, &failed.failed);
    }
    unload(e);
    if (rc < 0) emit(e, &failed);
    return NULL;
}

int engine_start(struct engine *e, struct worker_setup *setup) {
    take_setup(e, setup);
    if (pthread_create(&e->thread, NULL, engine_main, e)) return ERR_NOMEM;
    e->running = true;
    return 0;
}

void engine_stop(struct engine *e) {
    atomic_store(&e->stop, true);
    bell_ring(&e->plan_bell);
}

void engine_join(struct engine *e) {
    if (e->running) pthread_join(e->thread, NULL);
    e->running = false;
}
