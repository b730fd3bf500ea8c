/* service.c - the clients' side: a request's road from Open through tokeniser and scheduler to its stream.
 *
 *   on_open ─► admit ─► (tokeniser) ─► submit ─► tokens ─► Finished ─► call_end
 *
 * A client that does not grant credits keeps its own stream waiting and nothing else: tokens are merged in its struct stream,
 * bounded by its max_tokens, while its sequence runs on and frees its pages. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "coordinator/admit.h"
#include "coordinator/core.h"
#include "coordinator/recall.h"

enum { SWEEP_US = 1000 * 1000 };

/* Too large is the client's mistake, not the cluster's fullness: trying again does not help. */
static int status_of(int code) { return code == ERR_TOO_LARGE ? CALL_INVALID_ARGUMENT : call_status_from(code); }

/* ---- requests ---- */
struct request *service_new_request(struct coordinator *c, enum request_kind kind, struct call *call) {
    struct request *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->kind = kind;
    r->call = call;
    if (call) call->handler = r;
    list_append(&c->requests, &r->node);
    c->n_requests++;
    return r;
}

void service_free_request(struct coordinator *c, struct request *r) {
    if (r->job) BUG("a request is freed while the tokeniser has its prompt");
    list_remove(&r->node);
    c->n_requests--;
    stream_free(r->stream);
    free(r);
}

/* The client is told. The request lives on only while the tokeniser holds its job, or as one whose client may come back: it may
 * not have got its end. */
void service_end_request(struct coordinator *c, struct request *r, int status, const char *message) {
    struct call *call = r->call;
    if (r->number)
        log_debug("request %" PRIu64 ": %u + %u tokens, %s%s", r->number, r->end.prompt_tokens, r->end.completion_tokens,
                  status == CALL_OK ? r->end.reason : "failed: ", status == CALL_OK ? "" : message);
    r->call = NULL;
    if (r->seq) scheduler_end(&c->scheduler, r->seq);
    r->seq = NULL;
    if (r->kind == REQUEST_GENERATE && !r->ended) *(status == CALL_OK ? &c->counts.finished : &c->counts.failed) += 1;
    r->ended = true;
    if (r->kept && (status == CALL_OK || status == CALL_UNAVAILABLE)) { /* come back, now or to the next life */
        recall_detach(c, r);
    } else {
        recall_forget(c, r);
        if (!r->job) service_free_request(c, r);
    }
    if (call) call_end(c->calls, call, status, message);
    c->moved = true;
}

static void request_refuse(struct coordinator *c, struct request *r, int code, const struct why *why) {
    service_end_request(c, r, status_of(code), why->text);
}

/* ---- the stream ---- */
static const uint8_t *finished_event(struct coordinator *c, struct request *r, const struct stream_piece *piece, size_t *len) {
    r->end.text = piece->text;
    r->end.text_len = piece->text_len;
    return client_port_finished(c->client_port, &r->end, len);
}

/* The next event of r's answer, or NULL when there is none now (or no memory: *len tells, it is 0 then). */
static const uint8_t *next_event(struct coordinator *c, struct request *r, struct stream_piece *piece, bool *last,
                                 size_t *len) {
    *piece = (struct stream_piece){0};
    *last = false;
    *len = 1;
    if (!r->started)
        return client_port_started(c->client_port, r->number, (int)r->end.prompt_tokens, r->sampling.seed, c->model_name,
                                   r->kept, len);
    bool some = stream_peek(r->stream, piece);
    if (some && (piece->n || !r->finished))
        return client_port_tokens(c->client_port, piece, r->sampling.logprobs, c->tokenizer, len);
    if (!r->finished) return NULL;
    *last = true;
    return finished_event(c, r, piece, len);
}

/* Sends as much as the client's credits allow. May free r. */
void service_flush_request(struct coordinator *c, struct request *r) {
    if (r->accept_record) return; /* it does not count as accepted yet */
    while (r->call && call_can_send(r->call)) {
        struct stream_piece piece;
        bool last;
        size_t len;
        const uint8_t *event = next_event(c, r, &piece, &last, &len);
        if (!event) return;
        int rc = call_send(c->calls, r->call, event, len);
        if (rc < 0) return; /* no credit after all, or the client is gone and on_gone has freed r */
        c->moved = true;
        if (last) {
            service_end_request(c, r, CALL_OK, "");
            return;
        }
        if (!r->started) r->started = true;
        else stream_sent(r->stream, &piece);
    }
}

/* No token follows; the sequence may be freed by the scheduler from now on. */
static void request_finish(struct request *r, const struct seq *q, const char *reason, int64_t now_us) {
    int64_t end = q->last_token_us ? q->last_token_us : q->submitted_us;
    r->finished = true;
    r->finished_us = now_us;
    r->end.reason = stream_finish(r->stream) > 0 ? "stop" : reason;
    r->end.completion_tokens = stream_tokens(r->stream);
    r->end.queue_us = (uint64_t)(q->first_row_us - q->submitted_us);
    r->end.prefill_us = (uint64_t)(q->first_token_us - q->first_row_us);
    r->end.decode_us = (uint64_t)(end - q->first_token_us);
    r->end.preemptions = (uint32_t)q->preemptions;
    r->end.degraded = q->degraded;
    r->seq = NULL;
}

void service_committed(struct coordinator *c, const struct commit *commit) {
    recall_committed(c, commit);
    for (int i = 0; i < commit->n; i++) {
        const struct commit_token *t = &commit->token[i];
        if (prove_token(c, t)) continue;
        struct request *r = t->seq->owner;
        int rc = t->out ? stream_push(r->stream, t->out) : 0;
        if (rc < 0) {
            if (t->end != SEQ_NOT_ENDED) r->seq = NULL;
            service_end_request(c, r, status_of(rc), "out of memory for the answer");
            continue;
        }
        if (t->end != SEQ_NOT_ENDED) {
            request_finish(r, t->seq, t->end == SEQ_END_STOP ? "stop" : "length", c->now_us);
            recall_finished(c, r);
        } else if (rc > 0) {
            scheduler_end(&c->scheduler, t->seq);
            request_finish(r, t->seq, "stop", c->now_us);
            recall_finished(c, r);
        }
        service_flush_request(c, r);
    }
}

/* ---- admission ---- */
static void end_early(struct coordinator *c, enum request_kind kind, struct call *call, int status, const char *message) {
    if (kind == REQUEST_GENERATE) c->counts.failed++;
    call_end(c->calls, call, status, message);
}

/* It served before, and clients say again what its earlier life had not yet accepted: that waits with what it had. */
static bool is_coming_back(const struct coordinator *c) {
    return c->members.earlier && !atomic_load(&c->stop) && (c->state <= CORE_PROVING || c->state == CORE_RECOVERING);
}

static bool open_for_requests(struct coordinator *c, enum request_kind kind, struct call *call) {
    char text[640];
    if (is_coming_back(c)) return true;
    switch (c->state) {
    case CORE_SERVING: return true;
    case CORE_RECOVERING:
        if (!atomic_load(&c->stop) && !c->proof.left) return true;
        snprintf(text, sizeof text, "the cluster is %s", c->proof.left ? "loading" : "draining: no new requests");
        break;
    case CORE_LOADING:
        snprintf(text, sizeof text, "the cluster is loading: %d of %d workers are ready",
                 member_count(&c->members, WORKER_READY), __builtin_popcountll(c->members.awaited));
        break;
    case CORE_PROVING: snprintf(text, sizeof text, "the cluster is loading: it tries a first token"); break;
    case CORE_FAILED: snprintf(text, sizeof text, "the cluster has failed: %s", c->why.text); break;
    default: snprintf(text, sizeof text, "the cluster is draining: no new requests"); break;
    }
    end_early(c, kind, call, CALL_UNAVAILABLE, text);
    return false;
}

static void submit(struct coordinator *c, struct request *r, const int32_t *ids, int n) {
    struct why why;
    int room = scheduler_room(&c->scheduler.limits, n, &why);
    if (room < 0) return request_refuse(c, r, room, &why);
    struct seq_request ask = {.ids = ids,
                              .prompt = n,
                              .priority = r->priority,
                              .allow_degraded = r->allow_degraded,
                              .sampling = r->sampling,
                              .stop_ids = r->stop_ids,
                              .n_stop_ids = r->n_stop_ids,
                              .domain = r->domain,
                              .held = c->journal && r->resumable,
                              .owner = r};
    ask.max_tokens = !r->has_max_tokens ? room : r->max_tokens > INT32_MAX ? INT32_MAX : (int)r->max_tokens;
    int rc = scheduler_submit(&c->scheduler, &ask, c->now_us, &r->seq, &why);
    if (rc < 0) return request_refuse(c, r, rc, &why);
    r->number = r->seq->number;
    r->end.prompt_tokens = (uint32_t)n;
    if (ask.held && (rc = recall_accept(c, r, ids, n, &why)) < 0) return request_refuse(c, r, rc, &why);
    if (scheduler_holds(&c->scheduler, r->seq)) r->call->waits_for = c->missing;
    c->moved = true;
    service_flush_request(c, r);
}

static void copy_stop_ids(const struct coordinator *c, struct request *r, const struct generate_request *g) {
    const struct model_config *m = &c->checkpoint.config;
    for (int i = 0; i < m->n_eos && !g->ignore_eos; i++) r->stop_ids[r->n_stop_ids++] = m->eos[i];
    for (size_t i = 0; i < g->n_stop_ids; i++) r->stop_ids[r->n_stop_ids++] = g->stop_ids[i];
}

static int draw_seed(uint64_t *seed) { return getrandom(seed, sizeof *seed, 0) == sizeof *seed ? 0 : ERR_IO; }

static int fill_request(struct coordinator *c, struct request *r, const struct generate_request *g) {
    _Static_assert(MODEL_MAX_EOS + ADMIT_STOP_IDS <= sizeof r->stop_ids / sizeof *r->stop_ids, "stop ids fit");
    r->sampling = admit_sampling(&g->sampling);
    if (!g->has_seed && draw_seed(&r->sampling.seed) < 0) return ERR_IO;
    copy_stop_ids(c, r, g);
    r->priority = g->priority;
    r->allow_degraded = g->allow_degraded;
    r->resumable = g->resumable;
    _Static_assert(ADMIT_TAG_BYTES < sizeof r->tenant, "a tenant fits");
    if (g->tenant.len) memcpy(r->tenant, g->tenant.data, g->tenant.len);
    r->domain = domains_number(&c->domains, g->tag);
    r->max_tokens = g->max_tokens;
    r->has_max_tokens = g->has_max_tokens;
    return stream_new(c->tokenizer, g->stop, g->n_stop, &r->stream);
}

/* Hands the prompt to the tokeniser. Takes job; NULL means there was no memory for it. */
static void prepare_request(struct coordinator *c, struct request *r, struct prepare_job *job) {
    struct why why;
    if (!job) {
        fail(&why, ERR_NOMEM, "out of memory for the prompt");
        return request_refuse(c, r, ERR_NOMEM, &why);
    }
    if (!prepare_put(c->prepare, job)) {
        prepare_job_free(job);
        fail(&why, ERR_EXHAUSTED, "too many prompts wait for the tokenizer; try again later");
        return request_refuse(c, r, ERR_EXHAUSTED, &why);
    }
    c->watches.prompts++;
    r->job = job;
}

static void open_generate(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct coordinator *c = ctx;
    struct generate_request g;
    struct why why;
    c->moved = true;
    if (recall_again(c, call)) return; /* said again by a client that lost its connection before it heard of it */
    if (!open_for_requests(c, REQUEST_GENERATE, call)) return;
    struct admit_limits limits = {.vocab = c->checkpoint.config.vocab,
                                  .max_context = c->scheduler.limits.max_context,
                                  .has_tokenizer = c->tokenizer,
                                  .has_template = c->chat};
    int rc = client_port_read_generate(c->client_port, payload, len, &g, &why);
    if (rc >= 0) rc = admit_generate(&g, &limits, &why);
    if (rc >= 0) rc = recall_admits(c, &why);
    if (rc < 0) return end_early(c, REQUEST_GENERATE, call, status_of(rc), why.text);
    struct request *r = service_new_request(c, REQUEST_GENERATE, call);
    if (!r) return end_early(c, REQUEST_GENERATE, call, status_of(ERR_NOMEM), "out of memory for a request");
    rc = fill_request(c, r, &g);
    if (rc < 0) {
        fail(&why, rc, "cannot set up the request: %s", status_text(rc));
        return request_refuse(c, r, rc, &why);
    }
    if (g.input == INPUT_IDS) submit(c, r, g.ids, (int)g.n_ids);
    else if (g.input == INPUT_TEXT) prepare_request(c, r, prepare_job_text(g.prompt, c->scheduler.limits.max_context, r));
    else prepare_request(c, r, prepare_job_chat(g.turns, g.n_turns, c->scheduler.limits.max_context, r));
}

static void open_tokenize(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct coordinator *c = ctx;
    struct tokenize_request t;
    struct why why;
    c->moved = true;
    struct admit_limits limits = {.vocab = c->checkpoint.config.vocab,
                                  .max_context = c->scheduler.limits.max_context,
                                  .has_tokenizer = c->tokenizer,
                                  .has_template = c->chat};
    int rc = client_port_read_tokenize(c->client_port, payload, len, &t, &why);
    if (rc >= 0) rc = admit_tokenize(&t, &limits, &why);
    if (rc < 0) return end_early(c, REQUEST_TOKENIZE, call, status_of(rc), why.text);
    struct request *r = service_new_request(c, REQUEST_TOKENIZE, call);
    if (!r) return end_early(c, REQUEST_TOKENIZE, call, status_of(ERR_NOMEM), "out of memory for a request");
    if (t.input == INPUT_TEXT) prepare_request(c, r, prepare_job_text(t.text, INT32_MAX, r));
    else prepare_request(c, r, prepare_job_chat(t.turns, t.n_turns, INT32_MAX, r));
}

/* ---- back from the tokeniser ---- */
static void answer_ids(struct coordinator *c, struct request *r, const struct prepare_job *j) {
    size_t len;
    const uint8_t *reply = client_port_ids(c->client_port, j->ids.ids, (size_t)j->ids.len, &len);
    int rc = reply ? call_send(c->calls, r->call, reply, len) : ERR_NOMEM;
    if (rc == ERR_GONE) return; /* on_gone has freed r */
    service_end_request(c, r, rc < 0 ? status_of(rc) : CALL_OK, rc < 0 ? status_text(rc) : "");
}

static void prepared(struct coordinator *c, struct request *r, const struct prepare_job *j) {
    struct why why;
    if (j->rc < 0) return request_refuse(c, r, j->rc, &j->why);
    if (r->kind == REQUEST_TOKENIZE) return answer_ids(c, r, j);
    if (c->state == CORE_FAILED || c->state == CORE_LEAVING) {
        fail(&why, ERR_GONE, "the cluster is ending");
        return request_refuse(c, r, ERR_GONE, &why);
    }
    if (!j->ids.len) {
        fail(&why, ERR_INVALID, "the prompt is empty: it has no tokens");
        return request_refuse(c, r, ERR_INVALID, &why);
    }
    submit(c, r, j->ids.ids, j->ids.len);
}

void service_prepared(struct coordinator *c) {
    struct prepare_job *j;
    if (!c->prepare) return;
    prepare_clear(c->prepare);
    while ((j = prepare_take(c->prepare))) {
        struct request *r = j->owner;
        c->moved = true;
        c->watches.prompts_done++;
        r->job = NULL;
        if (r->call) prepared(c, r, j);
        else service_free_request(c, r);
        prepare_job_free(j);
    }
}

/* ---- what the call layer tells ---- */
static void on_credit(void *ctx, struct call *call) {
    struct coordinator *c = ctx;
    service_flush_request(c, call->handler);
}

static void on_gone(void *ctx, struct call *call, int status) {
    struct coordinator *c = ctx;
    struct request *r = call->handler;
    if (!r) return;
    c->moved = true;
    r->call = NULL;
    if (r->kept && status == CALL_ABORTED) return recall_detach(c, r);
    if (r->seq) scheduler_end(&c->scheduler, r->seq);
    r->seq = NULL;
    if (status != CALL_UNAVAILABLE) recall_forget(c, r); /* that is our own end */
    if (r->kind == REQUEST_GENERATE && !r->ended)
        *(status == CALL_CANCELLED || status == CALL_ABORTED  ? &c->counts.cancelled
          : status == CALL_DEADLINE_EXCEEDED                  ? &c->counts.expired
                                                              : &c->counts.failed) += 1;
    if (!r->job) service_free_request(c, r);
}

static void reply_once(struct coordinator *c, struct call *call, const uint8_t *reply, size_t len) {
    int rc = reply ? call_send(c->calls, call, reply, len) : ERR_NOMEM;
    c->moved = true;
    if (rc == ERR_GONE) return;
    call_end(c->calls, call, rc < 0 ? status_of(rc) : CALL_OK, rc < 0 ? status_text(rc) : "");
}

static void open_status(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    (void)payload, (void)len; /* an empty message today; fields that a newer client adds are hints */
    size_t n = 0;
    const uint8_t *reply = report_status(ctx, &n);
    reply_once(ctx, call, reply, n);
}

static void open_experts(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    (void)payload, (void)len;
    size_t n = 0;
    const uint8_t *reply = report_experts(ctx, &n);
    reply_once(ctx, call, reply, n);
}

static void open_links(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    (void)payload, (void)len;
    size_t n = 0;
    const uint8_t *reply = report_links(ctx, &n);
    reply_once(ctx, call, reply, n);
}

static void open_drain(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct coordinator *c = ctx;
    struct why why;
    int rank;
    int rc = client_port_read_drain(c->client_port, payload, len, &rank, &why);
    if (rc >= 0) rc = recover_drain(c, rank, &why);
    c->moved = true;
    if (rc < 0) return call_end(c->calls, call, call_status_from(rc), why.text);
    reply_once(c, call, (const uint8_t *)"", 0); /* DrainReply has nothing to say */
}

const struct call_method service_methods[] = {
    {"Generate", open_generate, on_credit, on_gone},
    {"Status", open_status, NULL, on_gone},
    {"Experts", open_experts, NULL, on_gone},
    {"Links", open_links, NULL, on_gone},
    {"Drain", open_drain, NULL, on_gone, .for_operators = true},
    {"Tokenize", open_tokenize, NULL, on_gone},
    {"Trace", trace_service_open, trace_service_credit, trace_service_gone},
    {"Resume", recall_resume, on_credit, on_gone},
    {"Events", events_service_open, events_service_credit, events_service_gone},
};

/* ---- ends ---- */
/* A complete answer costs memory and a place in the table of calls: a client that neither reads nor leaves cannot keep them. */
void service_tick(struct coordinator *c) {
    struct list *at, *next;
    if (c->now_us - c->swept_us < SWEEP_US && c->now_us - c->swept_us < c->options.unread_us) return;
    c->swept_us = c->now_us;
    recall_tick(c);
    list_for(at, next, &c->requests) {
        struct request *r = list_entry(at, struct request, node);
        if (r->call && r->finished && c->now_us - r->finished_us > c->options.unread_us)
            service_end_request(c, r, CALL_DEADLINE_EXCEEDED, "the answer was complete for a long time and was not read");
    }
}

void service_end_all(struct coordinator *c, int status, const char *reason) {
    struct list *at, *next;
    list_for(at, next, &c->requests) {
        struct request *r = list_entry(at, struct request, node);
        if (r->call) service_end_request(c, r, status, reason);
    }
    trace_service_end(c, status, reason);
}

void service_end_held(struct coordinator *c) {
    struct list *at, *next;
    list_for(at, next, &c->requests) {
        struct request *r = list_entry(at, struct request, node);
        if (r->call && r->seq && scheduler_holds(&c->scheduler, r->seq))
            service_end_request(c, r, CALL_UNAVAILABLE, c->missing);
    }
}

bool service_owed(const struct coordinator *c) {
    struct list *at, *next;
    list_for(at, next, &c->requests) if (list_entry(at, struct request, node)->call) return true;
    return false;
}

bool service_idle(const struct coordinator *c) {
    struct list *at, *next;
    list_for(at, next, &c->requests) {
        const struct request *r = list_entry(at, struct request, node);
        if (r->job || r->seq || !r->finished) return false;
    }
    return true;
}
