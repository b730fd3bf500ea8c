/* batch.c - builds the plan of a step: decode rows, new starts, prompt chunks, in that order, best sequence first.
 *
 * Why nothing starves. A worker's list of running sequences is sorted; the first one is never evicted, and when it lacks a page
 * the last ones go until it has one, at worst all of them, and then it fits, because admission refused what does not fit alone.
 * A waiting sequence is never overtaken by a worse one; it starts when its pages are free beside what prompts in progress are
 * owed, with one page to spare for each sequence that is growing there (else it would be evicted at once). */
#include "base/log.h"
#include "coordinator/scheduler.h"

#include <inttypes.h>

static struct seq *seq_at(struct list *node) { return list_entry(node, struct seq, node); }
static int need_pages(const struct scheduler *s, int rows) { return pages_for(rows, s->limits.page_tokens); }

/* Evicts worse sequences of q's home until n pages are free. False: not now (pages are on their way, or q is the worst). */
static bool make_room(struct scheduler *s, struct seq *q, int n) {
    struct home *h = &s->home[q->home];
    while (pages_free(&s->pages, q->home) < n) {
        if (pages_free(&s->pages, q->home) + h->coming >= n) return false;
        struct seq *worst = seq_at(h->running.prev);
        if (worst == q) return false;
        worst->preemptions++;
        s->counts.preemptions++;
        scheduler_leave(s, worst, SEQ_EVICTED);
        scheduler_settle(s);
    }
    return true;
}

/* Gives q `count` more rows in the plan being built; fewer, or none, when pages are short. */
static void grant(struct scheduler *s, struct seq *q, int count, int64_t now_us) {
    struct plan_worker *w = &s->plan.worker[q->home];
    int more = need_pages(s, q->granted + count) - q->n_pages;
    int first_need = need_pages(s, q->granted + 1) - q->n_pages;
    if (first_need > 0 && !make_room(s, q, first_need)) return;
    int can = pages_free(&s->pages, q->home);
    if (more > can) {
        more = can;
        count = (q->n_pages + more) * s->limits.page_tokens - q->granted;
    }
    struct plan_run run = {
        .seq = q, .first = q->granted, .count = count, .new_pages = q->pages + q->n_told};
    if (more && pages_take(&s->pages, q->home, q->number, q->pages + q->n_pages, more) < 0) BUG("pages counted free are not");
    q->n_pages += more;
    run.n_new_pages = q->n_pages - q->n_told;
    q->n_told = q->n_pages;
    q->granted += count;
    run.sample = q->granted >= q->given && q->limit > q->prompt;
    if (!q->first_row_us) q->first_row_us = now_us;
    q->last_step = s->plan.step;
    if (seq_prefilling(q) || q->granted == q->given) s->counts.prompt_tokens += (uint64_t)count;
    struct step_slot *slot = &s->slot[s->plan.step % (uint64_t)s->limits.ahead];
    slot->run[slot->n_run++] = (struct step_run){q->number, q->granted, run.sample};
    w->run[w->n_run++] = run;
    w->tokens += count;
}

static void decode_pass(struct scheduler *s, int worker, int64_t now_us) {
    struct home *h = &s->home[worker];
    /* make_room removes nodes behind q, never q: advance from q itself, after granting. */
    for (struct list *at = h->running.next; at != &h->running; at = at->next)
        if (seq_decoding(seq_at(at)) && s->plan.worker[worker].tokens < s->limits.step_tokens) grant(s, seq_at(at), 1, now_us);
}

static void prefill_pass(struct scheduler *s, int worker, int64_t now_us) {
    struct home *h = &s->home[worker];
    for (struct list *at = h->running.next; at != &h->running; at = at->next) {
        struct seq *q = seq_at(at);
        int budget = s->limits.step_tokens - s->plan.worker[worker].tokens;
        if (budget <= 0) return;
        if (!seq_prefilling(q)) continue;
        int count = q->given - q->granted;
        if (s->limits.prefill_chunk && count > s->limits.prefill_chunk) count = s->limits.prefill_chunk;
        grant(s, q, count < budget ? count : budget, now_us);
    }
}

struct home_load {
    int owed;  /* pages that prompts in progress will still take */
    int load;  /* pages of everything known, one more per sequence */
    int seats; /* sequences the worker will hold when this step runs */
};
static struct home_load load_of(const struct scheduler *s, int worker) {
    const struct home *h = &s->home[worker];
    struct home_load l = {.seats = h->n_running};
    for (struct list *at = h->running.next; at != &h->running; at = at->next) {
        const struct seq *q = seq_at(at);
        int known = need_pages(s, q->count);
        l.load += known + 1;
        if (seq_prefilling(q)) l.owed += need_pages(s, q->given) - q->n_pages;
    }
    for (int i = 0; i < h->n_drop; i++) l.seats += h->drop[i].after >= s->plan.step;
    return l;
}

static int choose_home(const struct scheduler *s, const struct seq *q) {
    int best = -1, best_load = 0;
    int rows = q->count + 1 < q->rows ? q->count + 1 : q->rows;
    int need = need_pages(s, rows);
    for (int w = 0; w < s->limits.workers; w++) {
        if (!(s->members >> w & 1) || (q->at_home && q->home != w)) continue;
        struct home_load l = load_of(s, w);
        int spare = pages_free(&s->pages, w) - l.owed - need;
        if (l.seats >= s->limits.max_seqs || spare < s->home[w].n_running) continue;
        if (best < 0 || l.load < best_load) best = w, best_load = l.load;
    }
    return best;
}

static void start(struct scheduler *s, struct seq *q, int worker) {
    scheduler_unwait(s, q);
    seq_set_state(q, SEQ_RUNNING);
    q->home = worker;
    q->given = q->count;
    q->granted = 0;
    q->kept = q->n_pages = q->n_told = 0;
    q->anew = false;
    q->degraded |= s->missing;
    q->last_step = s->plan.step; /* named here even if no row is left for it */
    seq_insert(&s->home[worker].running, q);
    s->home[worker].n_running++;
    s->n_running++;
    struct plan_worker *w = &s->plan.worker[worker];
    w->start[w->n_start++] = q;
}

/* After a void: what the home keeps of each sequence it had. */
static void start_anew(struct scheduler *s, int worker) {
    struct plan_worker *w = &s->plan.worker[worker];
    for (struct list *at = s->home[worker].running.next; at != &s->home[worker].running; at = at->next) {
        struct seq *q = seq_at(at);
        if (!q->anew) continue;
        q->anew = false;
        q->last_step = s->plan.step;
        w->start[w->n_start++] = q;
    }
}

static void start_pass(struct scheduler *s) {
    struct list *at, *next;
    list_for(at, next, &s->waiting) {
        struct seq *q = seq_at(at);
        if (s->n_running >= s->limits.max_batch) return;
        if (q->held || scheduler_holds(s, q)) continue;
        int worker = choose_home(s, q);
        if (worker < 0) return; /* nobody overtakes the first in line */
        start(s, q, worker);
    }
}

/* What left its home before this step is told now; what still runs in it, in the next plan. */
static void tell_drops(struct scheduler *s, int worker) {
    struct home *h = &s->home[worker];
    struct plan_worker *w = &s->plan.worker[worker];
    int kept = 0;
    for (int i = 0; i < h->n_drop; i++) {
        if (h->drop[i].after < s->plan.step) w->drop[w->n_drop++] = h->drop[i].seq;
        else h->drop[kept++] = h->drop[i];
    }
    h->n_drop = kept;
}

static void clear_plan(struct scheduler *s) {
    s->plan.step = s->planned + 1;
    s->plan.workers = s->limits.workers;
    for (int w = 0; w < s->limits.workers; w++) {
        struct plan_worker *p = &s->plan.worker[w];
        p->n_start = p->n_run = p->n_drop = p->tokens = 0;
    }
    struct step_slot *slot = &s->slot[s->plan.step % (uint64_t)s->limits.ahead];
    slot->step = 0;
    slot->reported = 0;
    slot->n_run = 0;
    for (int w = 0; w < s->limits.workers; w++) slot->n_out[w] = 0;
}

const struct plan *scheduler_plan(struct scheduler *s, int64_t now_us) {
    scheduler_settle(s);
    if (scheduler_in_flight(s) >= s->limits.ahead) return NULL;
    if (!s->n_running && list_empty(&s->waiting)) return NULL;
    clear_plan(s);
    for (int w = 0; w < s->limits.workers; w++) start_anew(s, w);
    for (int w = 0; w < s->limits.workers; w++) decode_pass(s, w, now_us);
    start_pass(s);
    int rows = 0, starts = 0;
    for (int w = 0; w < s->limits.workers; w++) {
        prefill_pass(s, w, now_us);
        rows += s->plan.worker[w].tokens;
        starts += s->plan.worker[w].n_start;
    }
    if (!rows && !starts) return NULL; /* all wait for tokens or pages that are on their way */
    for (int w = 0; w < s->limits.workers; w++) tell_drops(s, w);
    s->planned = s->plan.step;
    s->slot[s->planned % (uint64_t)s->limits.ahead].step = s->planned;
    return &s->plan;
}
