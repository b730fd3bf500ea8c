/* recall.c - the service's memory. */
#include "coordinator/recall.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/log.h"

/* Of workers, set aside at once: the journal has it long before the first of them is given. */
enum { INCARNATIONS = 1 << 10 };

static struct request *find(struct coordinator *c, const uint8_t *id) {
    struct list *at, *next;
    list_for(at, next, &c->requests) {
        struct request *r = list_entry(at, struct request, node);
        if (r->kept && !memcmp(r->id, id, sizeof r->id)) return r;
    }
    return NULL;
}

/* ---- taking up ---- */
static int push_answer(struct request *r, struct journal_request *q) {
    int rc = 0;
    journal_state_tops(q);
    for (size_t i = 0; rc == 0 && i < q->n_tokens; i++) {
        const struct journal_token *t = &q->token[i];
        struct step_out o = {.token = t->id, .logprob = t->logprob, .n_top = (int)t->n_top};
        if (t->n_top) memcpy(o.top, t->top, sizeof *t->top * t->n_top);
        rc = stream_push(r->stream, &o);
    }
    return rc;
}

static bool is_stop_id(const struct request *r, int32_t id) {
    for (int i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == id) return true;
    return false;
}

/* The last record of a life may be the token that ended an answer: then the end follows from it. */
static bool answer_ends(const struct request *r, const struct journal_request *q, bool stopped) {
    return stopped || q->n_tokens >= q->accept.max_tokens || (q->n_tokens && is_stop_id(r, q->token[q->n_tokens - 1].id));
}

static void finish_again(struct coordinator *c, struct request *r, const struct journal_request *q, bool stopped) {
    const struct journal_finish *f = &q->finish;
    bool stop = stopped || (q->finished ? f->stop : q->n_tokens && is_stop_id(r, q->token[q->n_tokens - 1].id));
    r->end.reason = stream_finish(r->stream) > 0 || stop ? "stop" : "length";
    r->end.completion_tokens = stream_tokens(r->stream);
    r->end.queue_us = f->queue_us;
    r->end.prefill_us = f->prefill_us;
    r->end.decode_us = f->decode_us;
    r->end.preemptions = f->preemptions;
    r->end.degraded = f->degraded;
    r->finished = true;
    r->finished_us = c->now_us;
    r->ended = q->finished; /* counted in the life that saw it */
}

static int submit_again(struct coordinator *c, struct request *r, const struct journal_request *q, struct why *why) {
    const struct journal_accept *a = &q->accept;
    int32_t *answer = malloc((q->n_tokens + 1) * sizeof *answer);
    if (!answer) return fail(why, ERR_NOMEM, "out of memory for its answer");
    for (size_t i = 0; i < q->n_tokens; i++) answer[i] = q->token[i].id;
    struct seq_request ask = {.ids = a->ids,
                              .prompt = (int)a->n_ids,
                              .max_tokens = (int)a->max_tokens,
                              .priority = a->priority,
                              .allow_degraded = a->allow_degraded,
                              .sampling = a->sampling,
                              .stop_ids = r->stop_ids,
                              .n_stop_ids = r->n_stop_ids,
                              .domain = r->domain,
                              .number = a->number,
                              .answer = answer,
                              .n_answer = (int)q->n_tokens,
                              .owner = r};
    int rc = scheduler_submit(&c->scheduler, &ask, c->now_us, &r->seq, why);
    free(answer);
    return rc;
}

static bool fits(const struct coordinator *c, const struct journal_request *q) {
    const struct journal_accept *a = &q->accept;
    if (!a->n_ids || a->n_ids > INT32_MAX / 2 || a->max_tokens > INT32_MAX / 2 || q->n_tokens > a->max_tokens ||
        a->n_stop_ids > sizeof((struct request *)0)->stop_ids / sizeof(int32_t))
        return false;
    for (size_t i = 0; i < a->n_ids; i++)
        if (a->ids[i] < 0 || a->ids[i] >= c->checkpoint.config.vocab) return false;
    for (size_t i = 0; i < q->n_tokens; i++)
        if (q->token[i].id < 0 || q->token[i].id >= c->checkpoint.config.vocab) return false;
    return true;
}

static int fill_again(struct coordinator *c, struct request *r, struct journal_request *q, struct why *why) {
    const struct journal_accept *a = &q->accept;
    if (!fits(c, q)) return fail(why, ERR_INVALID, "it does not fit this model");
    memcpy(r->id, a->id, sizeof r->id);
    r->kept = r->started = true; /* a Resume says what its client has */
    r->sampling = a->sampling;
    r->n_stop_ids = (int)a->n_stop_ids;
    memcpy(r->stop_ids, a->stop_ids, a->n_stop_ids * sizeof *a->stop_ids);
    r->priority = a->priority;
    r->allow_degraded = a->allow_degraded;
    r->domain = domains_number(&c->domains, a->tag);
    r->number = a->number;
    r->end.prompt_tokens = (uint32_t)a->n_ids;
    r->detached_us = c->now_us;
    if (a->deadline_us) r->deadline_us = c->now_us + (a->deadline_us - clk_unix_us());
    int rc = stream_new(c->tokenizer, a->stops, a->n_stops, &r->stream);
    if (rc >= 0) stream_keep(r->stream);
    if (rc >= 0) rc = push_answer(r, q);
    if (rc < 0) return fail(why, rc, "out of memory");
    if (!q->finished && !answer_ends(r, q, rc > 0)) return submit_again(c, r, q, why);
    finish_again(c, r, q, rc > 0);
    return 0;
}

static void take_up(struct coordinator *c, struct journal_state *s) {
    struct list *at, *next;
    struct why why;
    size_t n = 0;
    list_for(at, next, &s->requests) {
        struct journal_request *q = list_entry(at, struct journal_request, node);
        struct request *r = service_new_request(c, REQUEST_GENERATE, NULL);
        int rc = r ? fill_again(c, r, q, &why) : fail(&why, ERR_NOMEM, "out of memory");
        if (rc >= 0) {
            n++;
            continue;
        }
        log_warn("request %" PRIu64 " of the journal cannot go on: %s", q->accept.number, why.text);
        journal_state_apply(s, &(struct journal_record){.kind = JOURNAL_FORGET, .forget = q->accept.number}, &why);
        if (r) service_free_request(c, r);
    }
    if (!n) return;
    log_info("%zu requests go on where they were, for clients that come back", n);
    struct event *e = core_event(c, EVENT_RECALLED, -1, "requests of the journal go on where they were");
    event_figure(e, "requests", (int64_t)n);
}

static enum journal_sync sync_of(const char *name) {
    if (name && !strcmp(name, "always")) return JOURNAL_SYNC_ALWAYS;
    return name && !strcmp(name, "never") ? JOURNAL_SYNC_NEVER : JOURNAL_SYNC_INTERVAL;
}

int recall_open(struct coordinator *c, struct why *why) {
    struct journal_options o = {.dir = c->options.journal_dir,
                                .sync = sync_of(c->options.journal_sync),
                                .repair = c->options.journal_repair,
                                .disk = c->options.journal_disk,
                                .fingerprint = c->checkpoint.fingerprint,
                                .model = c->model_name};
    if (!o.dir) return 0;
    int rc = journal_open(&o, &c->journal, why);
    if (rc < 0) return rc;
    struct journal_state *s = journal_replayed(c->journal);
    struct journal_counters *n = &s->counters;
    c->scheduler.numbers = n->request;
    n->request += MSG_MAX_WORKERS; /* for proofs (prove.h), which nobody writes down: workers may outlive us that hold them */
    c->epoch = ++n->epoch;
    c->placement.version = ++n->placement_version;
    c->members.incarnations = c->members.earlier = n->incarnation;
    c->set_aside = n->incarnation += INCARNATIONS;
    memcpy(c->recalled_class, s->numeric_class, sizeof c->recalled_class);
    take_up(c, s);
    return journal_start(c->journal, why);
}

static bool has_tokens(struct coordinator *c) {
    struct list *at, *next;
    list_for(at, next, &c->requests) {
        const struct request *r = list_entry(at, struct request, node);
        if (r->kept && r->seq && stream_tokens(r->stream)) return true;
    }
    return false;
}

int recall_class(struct coordinator *c, struct why *why) {
    const char *now = c->members.numeric_class, *then = c->recalled_class;
    if (!c->journal) return 0;
    c->recalled_us = c->now_us;
    if (then[0] && strcmp(now, then) != 0 && has_tokens(c))
        return fail(
            why, ERR_INVALID,
            "the journal in %s has answers that were begun as %s; these workers compute as %s and would go on with other "
            "bits: start as before, or use another folder",
            c->options.journal_dir, then, now);
    struct text_slice text = {now, strlen(now)};
    journal_append(c->journal, &(struct journal_record){.kind = JOURNAL_CLASS, .numeric_class = text}, c->now_us);
    return 0;
}

/* ---- while serving ---- */
void recall_joined(struct coordinator *c) {
    if (!c->journal || c->members.incarnations + INCARNATIONS / 2 < c->set_aside) return;
    struct journal_start start = {.counters.incarnation = c->set_aside + INCARNATIONS,
                                  .at_us = clk_unix_us(),
                                  .model = {c->model_name, strlen(c->model_name)}};
    struct journal_record r = {.kind = JOURNAL_START, .start = start};
    if (journal_append(c->journal, &r, c->now_us)) c->set_aside = start.counters.incarnation;
}

int recall_admits(struct coordinator *c, struct why *why) {
    return c->journal ? journal_admits(c->journal, c->now_us, why) : 0;
}

int recall_accept(struct coordinator *c, struct request *r, const int32_t *ids, int n, struct why *why) {
    int64_t now = clk_unix_us();
    memcpy(r->id, r->call->id, sizeof r->id);
    r->deadline_us = r->call->deadline_us;
    struct journal_accept a = {.number = r->number,
                               .at_us = now,
                               .deadline_us = r->deadline_us ? now + (r->deadline_us - c->now_us) : 0,
                               .sampling = r->sampling,
                               .priority = r->priority,
                               .max_tokens = (uint32_t)(r->seq->limit - r->seq->prompt),
                               .allow_degraded = r->allow_degraded,
                               .ids = ids,
                               .n_ids = (size_t)n,
                               .stop_ids = r->stop_ids,
                               .n_stop_ids = (size_t)r->n_stop_ids,
                               .tag = {c->domains.name[r->domain], strlen(c->domains.name[r->domain])},
                               .tenant = {r->tenant, strlen(r->tenant)}};
    memcpy(a.id, r->id, sizeof a.id);
    a.stops = stream_stops(r->stream, &a.n_stops);
    r->accept_record = journal_append(c->journal, &(struct journal_record){.kind = JOURNAL_ACCEPT, .accept = a}, c->now_us);
    if (!r->accept_record) return fail(why, ERR_NOMEM, "out of memory for the journal");
    r->kept = true;
    stream_keep(r->stream);
    c->n_held++;
    return 0;
}

/* Those that wait are the newest. */
static void release_written(struct coordinator *c) {
    int left = c->n_held;
    struct why reason, why;
    bool failed = journal_failed(c->journal, &reason);
    uint64_t written = journal_written(c->journal);
    for (struct list *at = c->requests.prev, *before; left && at != &c->requests; at = before) {
        struct request *r = list_entry(at, struct request, node);
        before = at->prev;
        left -= r->accept_record != 0;
        if (!r->accept_record || (r->accept_record > written && !failed)) continue;
        bool safe = r->accept_record <= written;
        r->accept_record = 0;
        c->n_held--;
        c->moved = true;
        if (safe && r->seq) {
            scheduler_release(r->seq);
            service_flush_request(c, r);
        } else if (!safe) {
            recall_forget(c, r);
            fail(&why, ERR_GONE, "the request could not be written to the journal in %s: %s", c->options.journal_dir,
                 reason.text);
            service_end_request(c, r, CALL_UNAVAILABLE, why.text);
        }
    }
}

static void tell_journal(struct coordinator *c) {
    struct why why;
    bool failed = journal_failed(c->journal, &why);
    if (failed == c->journal_failed) return;
    c->journal_failed = failed;
    if (failed) core_event(c, EVENT_JOURNAL_FAILED, -1, "%s: %s", c->options.journal_dir, why.text);
    else core_event(c, EVENT_JOURNAL_WRITTEN, -1, "%s: written again", c->options.journal_dir);
}

void recall_poll(struct coordinator *c) {
    if (!c->journal) return;
    if (journal_poll(c->journal)) tell_journal(c);
    if (c->n_held) release_written(c);
}

void recall_flush(struct coordinator *c) {
    if (c->journal) journal_flush(c->journal, c->now_us);
}

int recall_fd(const struct coordinator *c) { return c->journal ? journal_fd(c->journal) : -1; }

const struct journal_report *recall_report(struct coordinator *c, struct journal_report *out) {
    struct journal_stats s;
    if (!c->journal) return NULL;
    journal_get_stats(c->journal, c->now_us, &s);
    bool good = journal_admits(c->journal, c->now_us, &c->journal_fault) >= 0;
    *out = (struct journal_report){.dir = c->options.journal_dir,
                                   .fault = good ? "" : c->journal_fault.text,
                                   .records = s.records,
                                   .bytes = s.bytes,
                                   .syncs = s.syncs,
                                   .segments = s.segments,
                                   .dropped = s.dropped,
                                   .segment_bytes = s.segment_bytes,
                                   .requests = s.live,
                                   .lag_us = (uint64_t)s.lag_us,
                                   .lag_bytes = s.lag_bytes};
    return out;
}

void recall_committed(struct coordinator *c, const struct commit *commit) {
    bool begun = false;
    for (int i = 0; c->journal && i < commit->n; i++) {
        const struct step_out *o = commit->token[i].out;
        const struct request *r = commit->token[i].seq->owner;
        if (!o || !r || !r->kept) continue; /* no request: prove.h */
        if (!begun) journal_step(c->journal, commit->step, c->now_us);
        begun = true;
        journal_step_token(c->journal, &(struct journal_token){.number = r->number,
                                                               .index = stream_tokens(r->stream),
                                                               .id = o->token,
                                                               .logprob = o->logprob,
                                                               .n_top = (uint32_t)o->n_top,
                                                               .top = o->top});
    }
    if (begun) journal_step_end(c->journal);
}

void recall_finished(struct coordinator *c, const struct request *r) {
    if (!r->kept) return;
    const struct generate_finished *e = &r->end;
    journal_append(c->journal,
                   &(struct journal_record){.kind = JOURNAL_FINISH,
                                            .finish = {.number = r->number,
                                                       .tokens = e->completion_tokens,
                                                       .preemptions = e->preemptions,
                                                       .stop = !strcmp(e->reason, "stop"),
                                                       .degraded = e->degraded,
                                                       .queue_us = e->queue_us,
                                                       .prefill_us = e->prefill_us,
                                                       .decode_us = e->decode_us}},
                   c->now_us);
}

void recall_forget(struct coordinator *c, struct request *r) {
    if (!r->kept) return;
    journal_append(c->journal, &(struct journal_record){.kind = JOURNAL_FORGET, .forget = r->number}, c->now_us);
    if (r->accept_record) c->n_held--;
    r->accept_record = 0;
    r->kept = false;
}

void recall_detach(struct coordinator *c, struct request *r) {
    r->call = NULL;
    r->detached_us = c->now_us;
}

static void give_up(struct coordinator *c, struct request *r, uint64_t *count) {
    if (!r->ended) *count += 1;
    recall_forget(c, r);
    if (r->seq) scheduler_end(&c->scheduler, r->seq);
    r->seq = NULL;
    service_free_request(c, r);
}

void recall_tick(struct coordinator *c) {
    struct list *at, *next;
    if (!c->journal || (c->state != CORE_SERVING && c->state != CORE_DRAINING)) return;
    list_for(at, next, &c->requests) {
        struct request *r = list_entry(at, struct request, node);
        if (!r->kept || r->call) continue;
        int64_t since = r->detached_us > c->recalled_us ? r->detached_us : c->recalled_us;
        if (r->deadline_us && c->now_us > r->deadline_us) give_up(c, r, &c->counts.expired);
        else if (c->now_us - since > c->options.attach_us) give_up(c, r, &c->counts.cancelled);
    }
}

/* ---- clients that come back ---- */
static void attach(struct coordinator *c, struct request *r, struct call *call, bool started, uint32_t tokens, uint64_t text) {
    struct call *old = r->call;
    if (old) {
        r->call = NULL;
        old->handler = NULL;
        call_end(c->calls, old, CALL_ABORTED, "the request goes on in another call");
    }
    log_debug("request %" PRIu64 " is taken up again at token %u", r->number, tokens);
    r->call = call;
    call->handler = r;
    call->deadline_us = r->deadline_us;
    if (r->seq && scheduler_holds(&c->scheduler, r->seq)) call->waits_for = c->missing;
    r->started = started;
    stream_rewind(r->stream, tokens, text);
    c->moved = true;
    service_flush_request(c, r);
}

static bool over(const struct coordinator *c) { return c->state == CORE_FAILED || c->state >= CORE_LEAVING; }

bool recall_again(struct coordinator *c, struct call *call) {
    struct request *r = c->journal && !over(c) ? find(c, call->id) : NULL;
    if (r) attach(c, r, call, false, 0, 0);
    return r != NULL;
}

void recall_resume(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct coordinator *c = ctx;
    struct resume_request m;
    struct why why;
    int rc = client_port_read_resume(c->client_port, payload, len, &m, &why);
    c->moved = true;
    if (rc < 0) return call_end(c->calls, call, CALL_INVALID_ARGUMENT, why.text);
    if (over(c)) return call_end(c->calls, call, CALL_UNAVAILABLE, c->why.text[0] ? c->why.text : "the cluster is ending");
    struct request *r = c->journal ? find(c, m.call_id) : NULL;
    if (!r)
        return call_end(c->calls, call, CALL_NOT_FOUND,
                        c->journal ? "this request is not known here: it has ended, or nobody came back for it in time"
                                   : "this cluster keeps no journal: requests end with their connection");
    attach(c, r, call, m.started, m.tokens, m.text_bytes);
}
