/* scheduler.c - the events: a request comes, its owner ends it, a worker reports, a step commits. Plans are built in batch.c.
 *
 * Reports are kept per step until all workers have sent theirs, then taken in worker order, so that the outcome does not depend
 * on who was faster. What a report may contain is checked here against what was granted: a worker that answers for a sequence
 * it does not have, skips a token it owes or ends early is faulty, and its cluster must not go on with it. */
#include "coordinator/scheduler.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct seq **bucket_of(const struct scheduler *s, uint64_t number) { return &s->bucket[number & s->bucket_mask]; }

static struct seq *find(const struct scheduler *s, uint64_t number) {
    struct seq *q = *bucket_of(s, number); /* numbers count up, so buckets fill evenly */
    while (q && q->number != number) q = q->hash_next;
    return q;
}

static void forget(struct scheduler *s, struct seq *q) {
    struct seq **at = bucket_of(s, q->number);
    while (*at != q) at = &(*at)->hash_next;
    *at = q->hash_next;
    list_remove(&q->node);
    seq_free(q);
}

static int check_limits(const struct scheduler_limits *l, struct why *why) {
    if (l->workers < 1 || l->workers > MSG_MAX_WORKERS)
        return fail(why, ERR_INVALID, "%d workers: 1 to %d are possible", l->workers, MSG_MAX_WORKERS);
    if (l->max_seqs < 1 || l->max_batch < 1 || l->max_context < 1 || l->page_tokens < 1 || l->pages < 1 || l->max_queue < 1 ||
        l->prefill_chunk < 0)
        return fail(why, ERR_INVALID, "scheduler limits must be positive");
    if (l->step_tokens < l->max_seqs)
        return fail(why, ERR_INVALID,
                    "step-tokens %d is less than the %d sequences of one worker: each needs a row in every step",
                    l->step_tokens, l->max_seqs);
    if (l->ahead < 1 || l->ahead > SCHEDULER_MAX_AHEAD)
        return fail(why, ERR_INVALID, "%d plans ahead: 1 to %d are possible", l->ahead, SCHEDULER_MAX_AHEAD);
    return 0;
}

static bool alloc_slots(struct scheduler *s) {
    size_t seqs = (size_t)s->limits.workers * (size_t)s->limits.max_seqs;
    for (int i = 0; i < s->limits.ahead; i++) {
        s->slot[i].out = malloc(seqs * sizeof *s->slot[i].out);
        s->slot[i].run = malloc(seqs * sizeof *s->slot[i].run);
        if (!s->slot[i].out || !s->slot[i].run) return false;
    }
    s->commit.token = malloc(2 * seqs * sizeof *s->commit.token); /* tokens, and ends without one */
    return s->commit.token != NULL;
}

static bool alloc_homes(struct scheduler *s) {
    size_t n = (size_t)s->limits.max_seqs;
    for (int w = 0; w < s->limits.workers; w++) {
        struct plan_worker *p = &s->plan.worker[w];
        p->start = malloc(n * sizeof *p->start);
        p->run = malloc(n * sizeof *p->run);
        p->drop = malloc(2 * n * sizeof *p->drop);
        s->home[w].drop = malloc(2 * n * sizeof *s->home[w].drop);
        if (!p->start || !p->run || !p->drop || !s->home[w].drop) return false;
    }
    return true;
}

int scheduler_init(struct scheduler *s, const struct scheduler_limits *l, struct why *why) {
    *s = (struct scheduler){.limits = *l};
    list_init(&s->waiting);
    list_init(&s->leaving);
    for (int w = 0; w < MSG_MAX_WORKERS; w++) list_init(&s->home[w].running);
    int rc = check_limits(l, why);
    if (rc < 0) return rc;
    s->members = UINT64_MAX >> (64 - l->workers);
    size_t buckets = 64;
    while (buckets < (size_t)l->max_queue + (size_t)l->max_batch) buckets *= 2;
    s->bucket_mask = buckets - 1;
    s->bucket = calloc(buckets, sizeof *s->bucket);
    if (!s->bucket || pages_init(&s->pages, l->workers, l->pages) < 0 || !alloc_slots(s) || !alloc_homes(s)) {
        scheduler_clear(s);
        return fail(why, ERR_NOMEM,
                    "out of memory for the tables of %d pages for each of %d workers; use a smaller --kv-tokens", l->pages,
                    l->workers);
    }
    return 0;
}

void scheduler_clear(struct scheduler *s) {
    for (size_t b = 0; s->bucket && b <= s->bucket_mask; b++)
        while (s->bucket[b]) forget(s, s->bucket[b]);
    for (int i = 0; i < SCHEDULER_MAX_AHEAD; i++) {
        free(s->slot[i].out);
        free(s->slot[i].run);
    }
    for (int w = 0; w < MSG_MAX_WORKERS; w++) {
        free(s->plan.worker[w].start);
        free(s->plan.worker[w].run);
        free(s->plan.worker[w].drop);
        free(s->home[w].drop);
    }
    free(s->commit.token);
    free(s->bucket);
    pages_clear(&s->pages);
    *s = (struct scheduler){0};
}

int scheduler_room(const struct scheduler_limits *l, int prompt, struct why *why) {
    int64_t kv = (int64_t)l->pages * l->page_tokens;
    if (prompt > l->max_context)
        return fail(why, ERR_TOO_LARGE, "the prompt has %d tokens; this cluster's context is %d", prompt, l->max_context);
    if (prompt > kv)
        return fail(why, ERR_TOO_LARGE, "the prompt has %d tokens; a worker has KV pages for %lld", prompt, (long long)kv);
    int64_t most = l->max_context < kv + 1 ? l->max_context : kv + 1; /* the last token of an answer takes no page */
    return (int)(most - prompt);
}

/* Those that wait for missing experts may wait for ever: they have a queue of their own, so that it is never them who keep out
 * requests that could run. */
static int check_queue(const struct scheduler *s, const struct seq_request *r, struct why *why) {
    int held = s->missing ? s->n_whole : 0;
    if (s->missing && !r->allow_degraded) {
        if (held < s->limits.max_queue) return 0;
        return fail(why, ERR_EXHAUSTED,
                    "the queue for missing experts is full: %d requests wait for them already; allow a degraded answer, or try "
                    "again when they are back",
                    held);
    }
    if (s->n_waiting - held < s->limits.max_queue) return 0;
    return fail(why, ERR_EXHAUSTED, "the queue is full: %d requests wait already; try again later", s->n_waiting - held);
}

static void wait_turn(struct scheduler *s, struct seq *q) {
    seq_insert(&s->waiting, q);
    s->n_waiting++;
    s->n_whole += !q->allow_degraded;
}

void scheduler_unwait(struct scheduler *s, struct seq *q) {
    list_remove(&q->node);
    s->n_waiting--;
    s->n_whole -= !q->allow_degraded;
}

int scheduler_submit(struct scheduler *s, const struct seq_request *r, int64_t now_us, struct seq **out, struct why *why) {
    if (r->prompt < 1) return fail(why, ERR_INVALID, "the prompt is empty");
    int room = scheduler_room(&s->limits, r->prompt, why);
    if (room < 0) return room;
    if (r->max_tokens > room)
        return fail(why, ERR_TOO_LARGE,
                    "prompt of %d tokens and max_tokens %d exceed %s of %d tokens; at most %d can be generated", r->prompt,
                    r->max_tokens, r->prompt + room == s->limits.max_context ? "the context" : "a worker's KV pages",
                    r->prompt + room, room);
    if (r->n_answer && r->n_answer >= r->max_tokens) return fail(why, ERR_INVALID, "the answer is complete");
    if (r->number && (r->number > s->numbers || find(s, r->number)))
        return fail(why, ERR_INVALID, "number %" PRIu64 " is not one that may be used again", r->number);
    int rc = r->number ? 0 : check_queue(s, r, why);
    if (rc < 0) return rc;
    int pages = pages_for(seq_rows(r->prompt, r->max_tokens), s->limits.page_tokens);
    struct seq *q = seq_new(r, r->number ? r->number : s->numbers + 1, pages, now_us);
    if (!q) return fail(why, ERR_NOMEM, "out of memory for a sequence of %d tokens", r->prompt + r->max_tokens);
    s->numbers += !r->number;
    q->hash_next = *bucket_of(s, q->number);
    *bucket_of(s, q->number) = q;
    wait_turn(s, q);
    s->counts.submitted++;
    *out = q;
    return 0;
}

void scheduler_leave(struct scheduler *s, struct seq *q, enum seq_state to) {
    struct home *h = &s->home[q->home];
    seq_set_state(q, to);
    list_remove(&q->node);
    list_append(&s->leaving, &q->node);
    h->n_running--;
    s->n_running--;
    s->n_leaving++;
    h->coming += q->n_pages;
    h->drop[h->n_drop++] = (struct pending_drop){q->number, q->last_step};
}

void scheduler_end(struct scheduler *s, struct seq *q) {
    s->counts.ended++;
    switch (q->state) {
    case SEQ_RUNNING: scheduler_leave(s, q, SEQ_ENDED); return;
    case SEQ_WAITING:
        scheduler_unwait(s, q);
        s->n_leaving++;
        list_append(&s->leaving, &q->node);
        break;
    default: break; /* evicted: already in the list */
    }
    seq_set_state(q, SEQ_ENDED);
}

void scheduler_settle(struct scheduler *s) {
    struct list *at, *next;
    list_for(at, next, &s->leaving) {
        struct seq *q = list_entry(at, struct seq, node);
        if (q->last_step > s->committed) continue;
        if (q->n_pages) {
            s->home[q->home].coming -= q->n_pages;
            pages_give(&s->pages, q->home, q->number, q->pages, q->n_pages);
            q->n_pages = 0;
        }
        s->n_leaving--;
        if (q->state == SEQ_ENDED) {
            forget(s, q);
            continue;
        }
        list_remove(&q->node);
        seq_set_state(q, SEQ_WAITING);
        wait_turn(s, q);
    }
}

static int accuse(struct scheduler *s, int worker, struct why *why) {
    s->faulty = worker;
    return fail_in(why, ERR_PROTOCOL, "worker %d", worker);
}

int scheduler_done(struct scheduler *s, int worker, const struct worker_step_done *d, struct why *why) {
    struct step_slot *slot = &s->slot[d->step % (uint64_t)s->limits.ahead];
    if (!d->step || slot->step != d->step || d->step <= s->committed) {
        fail(why, ERR_PROTOCOL, "reports step %" PRIu64 ", but steps %" PRIu64 " to %" PRIu64 " are in flight", d->step,
             s->committed + 1, s->planned);
        return accuse(s, worker, why);
    }
    if (slot->reported >> worker & 1) {
        fail(why, ERR_PROTOCOL, "reports step %" PRIu64 " twice", d->step);
        return accuse(s, worker, why);
    }
    if (d->n_out > s->limits.max_seqs) {
        fail(why, ERR_PROTOCOL, "reports %d tokens for step %" PRIu64 "; it has at most %d sequences", d->n_out, d->step,
             s->limits.max_seqs);
        return accuse(s, worker, why);
    }
    if (d->n_out) memcpy(slot->out + (size_t)worker * (size_t)s->limits.max_seqs, d->out, sizeof *d->out * (size_t)d->n_out);
    slot->n_out[worker] = d->n_out;
    slot->reported |= UINT64_C(1) << worker;
    return 0;
}

static void finish(struct scheduler *s, struct seq *q, const struct step_out *o, enum seq_end end) {
    s->commit.token[s->commit.n++] = (struct commit_token){q, o, end};
    if (end != SEQ_NOT_ENDED) scheduler_end(s, q);
}

/* Nobody else may answer in this step: a token that was not asked for would have no place to go. */
static void note_asked(struct scheduler *s, const struct step_slot *slot) {
    for (int i = 0; i < slot->n_run; i++) {
        struct seq *q = slot->run[i].sample ? find(s, slot->run[i].seq) : NULL;
        if (q) q->asked_step = slot->step;
    }
}

/* Changes nothing but what it notes: a step is taken whole or not at all, so that no token is counted and never told. */
static int check_token(struct scheduler *s, int worker, const struct step_out *o, struct why *why) {
    struct seq *q = find(s, o->seq);
    if (!q || q->state == SEQ_ENDED) return 0; /* overshoot: it was ended here while the step was in flight */
    if ((q->state != SEQ_RUNNING && q->state != SEQ_EVICTED) || q->home != worker || (int64_t)o->position != q->count)
        return fail(why, ERR_PROTOCOL,
                    "answers for sequence %" PRIu64 " at position %u; wanted its home (worker %d) at position %d", o->seq,
                    o->position, q->home, q->count);
    if (q->asked_step != s->commit.step)
        return fail(why, ERR_PROTOCOL,
                    "answers for sequence %" PRIu64 " at position %u, but was to sample nothing there in step %" PRIu64, o->seq,
                    o->position, s->commit.step);
    if (o->token < 0 || o->token >= s->limits.vocab)
        return fail(why, ERR_PROTOCOL, "sampled token %d of a vocabulary of %d", o->token, s->limits.vocab);
    bool full = q->count + 1 >= q->limit;
    if ((o->finish == STEP_LENGTH) != (full && o->finish != STEP_STOP_ID))
        return fail(why, ERR_PROTOCOL, "ends sequence %" PRIu64 " at %d of %d tokens as \"%s\"", o->seq, q->count + 1, q->limit,
                    o->finish == STEP_LENGTH ? "length" : "goes on");
    if (q->reported_step == s->commit.step)
        return fail(why, ERR_PROTOCOL, "answers for sequence %" PRIu64 " twice in step %" PRIu64, o->seq, s->commit.step);
    q->reported_step = s->commit.step;
    return 0;
}

static void take_token(struct scheduler *s, const struct step_out *o, int64_t now_us) {
    struct seq *q = find(s, o->seq);
    if (!q || q->state == SEQ_ENDED) return;
    q->ids[q->count++] = o->token;
    q->last_token_us = now_us;
    if (!q->first_token_us) q->first_token_us = now_us;
    s->counts.tokens++;
    finish(s, q, o, o->finish == STEP_STOP_ID ? SEQ_END_STOP : o->finish == STEP_LENGTH ? SEQ_END_LENGTH : SEQ_NOT_ENDED);
}

static const struct step_out *outs(const struct scheduler *s, const struct step_slot *slot, int worker) {
    return slot->out + (size_t)worker * (size_t)s->limits.max_seqs;
}

static int check_tokens(struct scheduler *s, const struct step_slot *slot, struct why *why) {
    for (int w = 0; w < s->limits.workers; w++)
        for (int i = 0; i < slot->n_out[w]; i++)
            if (check_token(s, w, &outs(s, slot, w)[i], why) < 0) return accuse(s, w, why);
    return 0;
}

/* Every sequence that was granted a sampling row and still lives must have answered, or it would hang for ever. */
static int check_answers(struct scheduler *s, const struct step_slot *slot, struct why *why) {
    for (int i = 0; i < slot->n_run; i++) {
        if (!slot->run[i].sample) continue;
        const struct seq *q = find(s, slot->run[i].seq);
        if (!q || q->state == SEQ_ENDED || q->reported_step == slot->step) continue;
        fail(why, ERR_PROTOCOL, "owes the token of sequence %" PRIu64 " at position %d in step %" PRIu64, q->number, q->count,
             slot->step);
        return accuse(s, q->home, why);
    }
    return 0;
}

static void keep_rows(struct scheduler *s, const struct step_slot *slot) {
    for (int i = 0; i < slot->n_run; i++) {
        struct seq *q = find(s, slot->run[i].seq);
        if (q) q->kept = slot->run[i].rows;
    }
}

/* Sequences that wanted no token end when their last prompt row has committed. */
static void finish_silent(struct scheduler *s, struct list *head, uint64_t step, int64_t now_us) {
    struct list *at, *next;
    list_for(at, next, head) {
        struct seq *q = list_entry(at, struct seq, node);
        if (q->state == SEQ_ENDED || q->limit != q->prompt || q->granted < q->rows || q->last_step > step) continue;
        q->first_token_us = q->last_token_us = now_us;
        finish(s, q, NULL, SEQ_END_LENGTH);
    }
}

int scheduler_commit(struct scheduler *s, int64_t now_us, const struct commit **out, struct why *why) {
    scheduler_settle(s);
    if (s->planned == s->committed) return 0;
    uint64_t step = s->committed + 1;
    const struct step_slot *slot = &s->slot[step % (uint64_t)s->limits.ahead];
    if (slot->reported != s->members) return 0;
    s->commit.step = step;
    s->commit.n = 0;
    note_asked(s, slot);
    int rc = check_tokens(s, slot, why);
    if (rc >= 0) rc = check_answers(s, slot, why);
    if (rc < 0) return rc;
    for (int w = 0; w < s->limits.workers; w++)
        for (int i = 0; i < slot->n_out[w]; i++) take_token(s, &outs(s, slot, w)[i], now_us);
    keep_rows(s, slot);
    for (int w = 0; w < s->limits.workers; w++) finish_silent(s, &s->home[w].running, step, now_us);
    finish_silent(s, &s->leaving, step, now_us);
    s->committed = step;
    *out = &s->commit;
    return 1;
}

/* ---- void ---- */

static void roll_back(struct scheduler *s, struct seq *q) {
    int keep = pages_for(q->kept, s->limits.page_tokens);
    pages_give(&s->pages, q->home, q->number, q->pages + keep, q->n_pages - keep);
    q->n_pages = keep;
    q->n_told = 0;
    q->granted = q->kept;
    q->given = q->count;
    q->anew = true;
}

void scheduler_void(struct scheduler *s, uint64_t members) {
    s->committed = s->planned; /* no report of these steps is wanted any more, and nothing waits for them */
    s->members = members;
    for (int w = 0; w < s->limits.workers; w++) {
        struct list *at, *next;
        list_for(at, next, &s->home[w].running) {
            struct seq *q = list_entry(at, struct seq, node);
            if (members >> w & 1) roll_back(s, q);
            else scheduler_leave(s, q, SEQ_EVICTED);
        }
    }
    scheduler_settle(s);
    for (int w = 0; w < s->limits.workers; w++) s->home[w].n_drop = 0; /* they forget all there is */
}

int scheduler_adopt(struct scheduler *s, int worker, const struct held_seq *h) {
    struct seq *q = find(s, h->seq);
    if (!q || q->state != SEQ_WAITING || q->held || scheduler_holds(s, q)) return 0;
    int rows = h->rows < q->count - 1 ? h->rows : q->count - 1; /* the last token known is read again, for its successor */
    int pages = pages_for(rows, s->limits.page_tokens);
    if (rows < 1 || h->n_pages < pages || s->n_running >= s->limits.max_batch ||
        s->home[worker].n_running >= s->limits.max_seqs || pages_claim(&s->pages, worker, q->number, h->pages, pages) < 0)
        return 0;
    scheduler_unwait(s, q);
    seq_set_state(q, SEQ_RUNNING);
    q->home = worker;
    q->kept = q->granted = rows;
    q->given = q->count;
    q->n_pages = pages;
    q->n_told = 0;
    for (int i = 0; i < pages; i++) q->pages[i] = (int32_t)h->pages[i];
    q->anew = true;
    q->degraded |= s->missing;
    q->last_step = s->planned;
    seq_insert(&s->home[worker].running, q);
    s->home[worker].n_running++;
    s->n_running++;
    return rows;
}

static bool any_behind(const struct list *head, uint64_t step) {
    for (const struct list *at = head->next; at != head; at = at->next) {
        const struct seq *q = list_entry(at, struct seq, node);
        if (q->state != SEQ_ENDED && q->reported_step && q->reported_step <= step) return true;
    }
    return false;
}

bool scheduler_is_behind(const struct scheduler *s, uint64_t step) {
    if (any_behind(&s->waiting, step) || any_behind(&s->leaving, step)) return true;
    for (int w = 0; w < s->limits.workers; w++)
        if (any_behind(&s->home[w].running, step)) return true;
    return false;
}
