/* sim_scheduler.c - the scheduler against simulated workers and clients in virtual time, by seed.
 *
 * A seed draws a cluster (workers, budgets, pages, plans ahead) and a crowd of requests that arrive, are cancelled, run out of
 * time, stop at a stop id or are ended by their owner. Workers take plans in order, each at its own random pace. In every other
 * seed workers die and come back: all plans are void then, and workers forget their sequences, but not what is in their pages.
 * Tokens are a function of (request, position), so a recomputed sequence must continue exactly where it was.
 * Checked at every event: pages have one holder on the scheduler's and on the worker's side and add up; budgets hold; positions
 * are contiguous; each request ends once, with the tokens it must have; an ended request's pages are back after two further
 * steps; the best sequence of a worker moves; work never stands still. A failing seed is printed.
 *
 *   sim_scheduler [--seeds N] [--seed S] */
#include "base/hash.h"
#include "base/log.h"
#include "tests/sim/runner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REQUESTS = 96, MAX_EVENTS = 4096 };

uint64_t seed_now;

/* ---- random numbers ---- */
struct rng {
    uint64_t state;
};
static uint64_t draw(struct rng *r) { return hash_u64(r->state += 0x9e3779b97f4a7c15u); }
static int range(struct rng *r, int lo, int hi) { return lo + (int)(draw(r) % (uint64_t)(hi - lo + 1)); }

/* ---- clients ---- */
struct request {
    int prompt, max_tokens, priority;
    struct voice voice;
    int32_t *ids;
    struct seq *seq; /* while it lives */
    int got;         /* tokens delivered */
    int owner_stop;  /* the owner ends it after this many tokens; 0 = never */
    bool ended, submitted;
    uint64_t number, free_by; /* after this step has committed its pages must be back; 0 = no claim */
};
struct worker {
    struct runner runner;
    int64_t busy_until;
    int era; /* voids so far: steps begun before are none of this worker's any more */
    bool dead;
};

enum event_kind { EV_ARRIVE, EV_CANCEL, EV_STEP, EV_CHANGE };
struct event {
    int64_t at;
    uint64_t order;
    enum event_kind kind;
    int index;
};

struct sim {
    struct rng rng;
    struct scheduler s;
    struct worker worker[8];
    struct request request[MAX_REQUESTS];
    int n_requests, ended, refused;
    struct event heap[MAX_EVENTS];
    int n_events;
    uint64_t orders;
    int64_t now;
    int stall[8];
    int voids, recomputed;
    uint64_t most_waiting;
};

/* ---- event heap ---- */
static bool sooner(const struct event *a, const struct event *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}
static void post(struct sim *m, int64_t at, enum event_kind kind, int index) {
    CHECK(m->n_events < MAX_EVENTS, "event heap full");
    int i = m->n_events++;
    m->heap[i] = (struct event){at, m->orders++, kind, index};
    for (; i && sooner(&m->heap[i], &m->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        struct event t = m->heap[i];
        m->heap[i] = m->heap[(i - 1) / 2];
        m->heap[(i - 1) / 2] = t;
    }
}
static struct event next_event(struct sim *m) {
    struct event top = m->heap[0];
    m->heap[0] = m->heap[--m->n_events];
    for (int i = 0;;) {
        int c = 2 * i + 1;
        if (c >= m->n_events) break;
        if (c + 1 < m->n_events && sooner(&m->heap[c + 1], &m->heap[c])) c++;
        if (!sooner(&m->heap[c], &m->heap[i])) break;
        struct event t = m->heap[i];
        m->heap[i] = m->heap[c];
        m->heap[c] = t;
        i = c;
    }
    return top;
}

static void begin_step(struct sim *m, int index) {
    struct worker *w = &m->worker[index];
    int64_t start = w->busy_until > m->now ? w->busy_until : m->now;
    int slow = range(&m->rng, 0, 19) ? 1 : 20;
    w->busy_until = start + range(&m->rng, 1, 50) * slow;
    post(m, w->busy_until, EV_STEP, w->era * 8 + index);
}

static struct voice voice_of(const struct seq *q) { return ((const struct request *)q->owner)->voice; }

static void deliver(struct sim *m, const struct plan *p) {
    for (int i = 0; i < p->workers; i++) {
        struct worker *w = &m->worker[i];
        const struct plan_worker *from = &p->worker[i];
        CHECK(!w->dead || !(from->n_run + from->n_start + from->n_drop), "a plan for a dead worker");
        if (w->dead) continue;
        runner_push(&w->runner, p->step, from, voice_of);
        begin_step(m, i);
    }
}

/* ---- what must hold of every plan ---- */
static void check_plan(struct sim *m, const struct plan *p) {
    const struct scheduler_limits *l = &m->s.limits;
    CHECK(scheduler_in_flight(&m->s) <= l->ahead, "%d plans in flight", scheduler_in_flight(&m->s));
    CHECK(m->s.n_running <= l->max_batch, "%d sequences running", m->s.n_running);
    for (int i = 0; i < p->workers; i++) {
        const struct plan_worker *w = &p->worker[i];
        int rows = 0;
        CHECK(w->n_run <= l->max_seqs && w->n_start <= l->max_seqs, "%d runs, %d starts", w->n_run, w->n_start);
        for (int j = 0; j < w->n_run; j++) {
            const struct plan_run *r = &w->run[j];
            CHECK(r->count > 0, "an empty run");
            CHECK(!l->prefill_chunk || r->count <= l->prefill_chunk, "chunk of %d", r->count);
            rows += r->count;
        }
        CHECK(rows == w->tokens && rows <= l->step_tokens, "%d rows, told %d, budget %d", rows, w->tokens, l->step_tokens);
        /* The best sequence moves: pages it lacks are back after the plans in flight. */
        if (list_empty(&m->s.home[i].running)) continue;
        const struct seq *best = list_entry(m->s.home[i].running.next, struct seq, node);
        bool full = best->granted == best->rows;
        m->stall[i] = full || best->last_step == p->step ? 0 : m->stall[i] + 1;
        CHECK(m->stall[i] <= l->ahead + 1, "the best sequence of worker %d stood still for %d plans", i, m->stall[i]);
    }
}

static void check_pages(struct sim *m) {
    for (int w = 0; w < m->s.limits.workers; w++) {
        int used = 0;
        for (int i = 0; i < m->n_requests; i++) {
            const struct seq *q = m->request[i].seq;
            if (q && q->home == w && q->state != SEQ_WAITING) used += q->n_pages;
        }
        /* ended ones may still hold some, until they settle */
        CHECK(used <= pages_used(&m->s.pages, w), "pages do not add up on worker %d", w);
        CHECK(used + m->s.home[w].coming >= pages_used(&m->s.pages, w), "pages leak on worker %d", w);
    }
}

static void check_freed(struct sim *m) {
    for (int i = 0; i < m->n_requests; i++) {
        struct request *r = &m->request[i];
        if (!r->free_by || m->s.committed < r->free_by) continue;
        size_t n = (size_t)m->s.limits.workers * (size_t)m->s.limits.pages;
        for (size_t j = 0; j < n; j++) CHECK(m->s.pages.holder[j] != r->number, "request %d still holds a page", i);
        r->free_by = 0;
    }
}

/* ---- client side ---- */
static void request_over(struct sim *m, struct request *r) {
    CHECK(!r->ended, "request %d ends twice", (int)(r - m->request));
    r->ended = true;
    r->seq = NULL;
    r->free_by = m->s.planned; /* at most `ahead` steps from now */
    CHECK(r->free_by <= m->s.committed + 2, "more than two steps hold its pages");
    m->ended++;
}

static void take_commit(struct sim *m, const struct commit *c) {
    for (int i = 0; i < c->n; i++) {
        const struct commit_token *t = &c->token[i];
        struct request *r = t->seq->owner;
        CHECK(r->seq == t->seq && !r->ended, "a token for a request that is over");
        if (t->out) {
            int position = r->prompt + r->got;
            CHECK((int)t->out->position == position, "token at %u, wanted %d", t->out->position, position);
            CHECK(t->out->token == voice_token(&r->voice, position), "wrong token");
            r->got++;
        }
        CHECK(r->got <= r->max_tokens, "too many tokens");
        if (t->end != SEQ_NOT_ENDED) {
            bool stop = t->out && t->out->token == STOP_TOKEN;
            CHECK(stop ? t->end == SEQ_END_STOP : t->end == SEQ_END_LENGTH && r->got == r->max_tokens, "wrong reason");
            request_over(m, r);
        } else if (r->owner_stop && r->got >= r->owner_stop) {
            scheduler_end(&m->s, t->seq);
            request_over(m, r);
        }
    }
}

static void arrive(struct sim *m, int index) {
    struct request *r = &m->request[index];
    struct seq_request ask = {
        .ids = r->ids, .prompt = r->prompt, .max_tokens = r->max_tokens, .priority = r->priority, .owner = r};
    struct why why;
    r->submitted = true;
    int rc = scheduler_submit(&m->s, &ask, m->now, &r->seq, &why);
    if (rc < 0) {
        bool fits = scheduler_room(&m->s.limits, r->prompt, &why) >= r->max_tokens;
        CHECK(rc == (fits ? ERR_EXHAUSTED : ERR_TOO_LARGE), "refused with %s", status_name(rc));
        r->ended = true;
        r->seq = NULL;
        m->ended++;
        m->refused++;
        return;
    }
    r->number = r->seq->number;
    if (!range(&m->rng, 0, 4)) post(m, m->now + range(&m->rng, 0, 3000), EV_CANCEL, index);
}

static void cancel(struct sim *m, int index) {
    struct request *r = &m->request[index];
    if (!r->seq) return;
    scheduler_end(&m->s, r->seq);
    request_over(m, r);
}

static void step_done(struct sim *m, int index) {
    struct step_out out[RUNNER_SEQS];
    struct why why = {""};
    int n_out;
    uint64_t step = runner_step(&m->worker[index].runner, out, &n_out);
    struct worker_step_done d = {.step = step, .out = out, .n_out = n_out};
    CHECK(scheduler_done(&m->s, index, &d, &why) == 0, "report refused: %s", why.text);
    const struct commit *c;
    int rc;
    while ((rc = scheduler_commit(&m->s, m->now, &c, &why)) > 0) {
        take_commit(m, c);
        scheduler_settle(&m->s);
        check_freed(m);
    }
    CHECK(rc == 0, "commit refused: %s", why.text);
}

/* Some die, or some that were dead are back with nothing. */
static void change(struct sim *m) {
    uint64_t members = 0;
    int n = m->s.limits.workers, what = range(&m->rng, 0, 3);
    for (int i = 0; i < n; i++) {
        struct worker *w = &m->worker[i];
        bool was = w->dead;
        if (what == 0) w->dead = false;
        else if (!range(&m->rng, 0, n - 1)) w->dead = !w->dead;
        if (i == n - 1 && !members) w->dead = false;
        members |= (uint64_t)!w->dead << i;
        runner_forget(&w->runner, w->dead || was);
        w->era++;
        w->busy_until = m->now;
        m->stall[i] = 0;
    }
    for (int i = 0; i < m->n_requests; i++) {
        const struct seq *q = m->request[i].seq;
        m->recomputed += q && q->state == SEQ_RUNNING && !(members >> q->home & 1);
    }
    scheduler_void(&m->s, members);
    m->voids++;
    check_freed(m);
}

/* ---- one seed ---- */
struct totals {
    struct scheduler_counts counts;
    uint64_t voids, recomputed;
};

static void draw_cluster(struct sim *m) {
    struct rng *r = &m->rng;
    struct scheduler_limits l = {
        .workers = range(r, 1, 5), .max_seqs = range(r, 1, 12), .page_tokens = range(r, 1, 16), .vocab = VOCAB};
    l.step_tokens = l.max_seqs + range(r, 0, 40);
    l.prefill_chunk = range(r, 0, 2) ? range(r, 1, 20) : 0;
    l.max_batch = range(r, 1, l.workers * l.max_seqs);
    l.max_context = range(r, 8, 200);
    l.pages = pages_for(l.max_context, l.page_tokens) * range(r, 1, 3) + range(r, 0, 8);
    if (range(r, 0, 1)) l.pages = pages_for(l.max_context, l.page_tokens); /* tight: sequences are evicted */
    if (!range(r, 0, 5)) l.pages = l.pages / 2 + 1;                        /* now some requests can never fit */
    l.max_queue = range(r, 0, 3) ? MAX_REQUESTS : range(r, 1, 20);
    l.ahead = range(r, 1, 2);
    struct why why;
    CHECK(scheduler_init(&m->s, &l, &why) == 0, "%s", why.text);
    for (int w = 0; w < l.workers; w++) runner_init(&m->worker[w].runner, &l);
}

static void draw_requests(struct sim *m, uint64_t salt) {
    struct rng *r = &m->rng;
    int64_t at = 0;
    int gap = range(r, 0, 100), ctx = m->s.limits.max_context;
    int shape = range(r, 0, 2); /* of prompts and answers: any, middling, short prompts with long answers */
    m->n_requests = range(r, 1, MAX_REQUESTS);
    for (int i = 0; i < m->n_requests; i++) {
        struct request *q = &m->request[i];
        q->prompt = range(r, 1, shape == 0 ? ctx + 4 : shape == 1 ? ctx / 2 + 1 : ctx / 8 + 1);
        q->max_tokens = range(r, 0, 9) ? range(r, 0, shape == 2 ? ctx * 3 / 4 : ctx / 2 + 1) : 0;
        q->priority = range(r, 0, 3) ? 0 : range(r, -1, 1);
        q->voice = (struct voice){hash_u64(salt + (uint64_t)i), range(r, 0, 2) ? 0 : range(r, 1, 20)};
        q->owner_stop = range(r, 0, 5) ? 0 : range(r, 1, 20);
        q->ids = malloc(sizeof *q->ids * (size_t)q->prompt);
        for (int j = 0; j < q->prompt; j++) q->ids[j] = j % VOCAB;
        at += range(r, 0, gap);
        post(m, at, EV_ARRIVE, i);
    }
    for (int i = seed_now & 1 ? range(r, 1, 8) : 0; i > 0; i--) post(m, range(r, 1, (int)at + 2000), EV_CHANGE, 0);
}

static void run_seed(uint64_t seed, struct totals *sum) {
    struct scheduler_counts *total = &sum->counts;
    struct sim *m = calloc(1, sizeof *m);
    seed_now = seed;
    m->rng.state = hash_u64(seed + 1);
    uint64_t salt = draw(&m->rng);
    draw_cluster(m);
    draw_requests(m, salt);
    while (m->n_events) {
        struct event e = next_event(m);
        m->now = e.at;
        if (e.kind == EV_ARRIVE) arrive(m, e.index);
        else if (e.kind == EV_CANCEL) cancel(m, e.index);
        else if (e.kind == EV_CHANGE) change(m);
        else if (m->worker[e.index % 8].era == e.index / 8) step_done(m, e.index % 8);
        const struct plan *p;
        while ((p = scheduler_plan(&m->s, m->now))) {
            check_plan(m, p);
            deliver(m, p);
        }
        check_pages(m);
        CHECK(scheduler_in_flight(&m->s) || scheduler_idle(&m->s), "work stands still: %d running, %d waiting", m->s.n_running,
              m->s.n_waiting);
    }
    CHECK(m->ended == m->n_requests, "%d of %d requests ended", m->ended, m->n_requests);
    for (int w = 0; w < m->s.limits.workers; w++) {
        CHECK(!pages_used(&m->s.pages, w), "%d pages of worker %d never came back", pages_used(&m->s.pages, w), w);
        runner_clear(&m->worker[w].runner);
    }
    total->submitted += m->s.counts.submitted;
    total->preemptions += m->s.counts.preemptions;
    total->prompt_tokens += m->s.counts.prompt_tokens;
    total->tokens += m->s.counts.tokens;
    total->ended += (uint64_t)m->refused;
    sum->voids += (uint64_t)m->voids;
    sum->recomputed += (uint64_t)m->recomputed;
    for (int i = 0; i < m->n_requests; i++) free(m->request[i].ids);
    scheduler_clear(&m->s);
    free(m);
}

int main(int argc, char **argv) {
    uint64_t seeds = 200, first = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seed")) first = strtoull(argv[i + 1], NULL, 10), seeds = 1;
        else die("usage: sim_scheduler [--seeds N] [--seed S]");
    }
    struct totals sum = {0};
    const struct scheduler_counts *total = &sum.counts;
    for (uint64_t s = first; s < first + seeds; s++) run_seed(s, &sum);
    printf("%" PRIu64 " seeds: %" PRIu64 " sequences (%" PRIu64 " refused), %" PRIu64 " prompt rows, %" PRIu64
           " tokens, %" PRIu64 " preemptions, %" PRIu64 " voids with %" PRIu64 " homes lost\n",
           seeds, total->submitted, total->ended, total->prompt_tokens, total->tokens, total->preemptions, sum.voids,
           sum.recomputed);
    return 0;
}
