/* scheduler.h - which tokens run where, step by step. Pure: (state, event, now) in, plans and committed tokens out; no I/O, no
 * clock, no log. The same code runs in the simulator.
 *
 *   submit ──► waiting ──► plan S ──► (workers run it) ──► done × workers ──► commit S ──► tokens to their owners
 *
 * Continuous batching: sequences join and leave at every step. One budget of rows per worker and step: decode rows first, then
 * prompt chunks, best sequence first. Up to `ahead` plans are in flight: a plan grants positions, and the home worker feeds its
 * own tokens to itself, ends at stop ids and at the length, and skips rows granted beyond that.
 * A step commits when every worker has reported it, in order; only then are its tokens told.
 * Pages: a sequence gets pages as it grows. When a worker has none left, its worst sequences (lowest priority, latest) are
 * evicted: they wait again and later recompute prompt and answer so far. The best sequence of a worker is never evicted and
 * always fits alone, so there is always progress. Pages return when the last plan that names their sequence has committed.
 * Owner: one thread. */
#pragma once
#include "coordinator/pages.h"
#include "coordinator/plan.h"

enum { SCHEDULER_MAX_AHEAD = 4 };

struct scheduler_limits {
    int workers;
    int step_tokens;   /* rows one worker runs in a step; >= max_seqs, so that every decoding sequence moves in every step */
    int prefill_chunk; /* most prompt rows of one sequence in a step; 0 = whatever the budget leaves */
    int max_seqs;      /* sequences one worker is home to */
    int max_batch;     /* sequences running in all */
    int max_context;   /* tokens of prompt and answer */
    int page_tokens, pages; /* tokens per page; pages per worker */
    int max_queue; /* sequences waiting for their turn; more are refused. As many may wait for missing experts */
    int vocab;
    int ahead; /* plans in flight, 1 .. SCHEDULER_MAX_AHEAD */
};
struct scheduler_counts {
    uint64_t submitted, ended, preemptions, prompt_tokens,
        tokens; /* prompt rows granted (recomputation included), tokens committed */
};

struct step_run {         /* one sequence in a plan in flight */
    uint64_t seq;
    int rows;    /* it has been given with this plan */
    bool sample; /* it owes a token */
};
struct step_slot {        /* one plan in flight */
    uint64_t step;        /* 0 = unused */
    uint64_t reported;    /* mask of workers */
    struct step_out *out; /* [workers][max_seqs] */
    int n_out[MSG_MAX_WORKERS];
    struct step_run *run; /* [workers * max_seqs] */
    int n_run;
};
struct pending_drop {
    uint64_t seq, after; /* may be told in any plan later than `after` */
};
struct home {            /* one worker, as the scheduler sees it */
    struct list running; /* best first */
    int n_running;
    struct pending_drop *drop; /* [2 * max_seqs] */
    int n_drop;
    int coming; /* pages that return when their sequences settle */
};

struct scheduler {
    struct scheduler_limits limits;
    struct pages pages;
    struct list waiting, leaving; /* waiting: best first; leaving: EVICTED and ENDED until settled */
    struct home home[MSG_MAX_WORKERS];
    uint64_t members; /* mask of the workers that plans are for: homes, and who must report; at first all */
    int n_waiting, n_running, n_leaving;
    int n_whole; /* of n_waiting: those that do not allow degraded answers */
    bool missing; /* some expert is on no worker: only sequences that allow it may start, and nobody waits behind the others */
    uint64_t numbers, planned, committed;       /* last number given out, last step planned, last step committed */
    struct step_slot slot[SCHEDULER_MAX_AHEAD]; /* step S in slot S % ahead */
    struct seq **bucket;                        /* number -> sequence */
    size_t bucket_mask;
    struct plan plan;
    struct commit commit;
    struct scheduler_counts counts;
    int faulty; /* worker blamed by the last ERR_PROTOCOL */
};

int scheduler_init(struct scheduler *s, const struct scheduler_limits *l, struct why *why);
void scheduler_clear(struct scheduler *s); /* sequences still there are freed untold */

/* The longest answer a prompt of this length may get here, or ERR_TOO_LARGE with the reason: it can never fit. */
int scheduler_room(const struct scheduler_limits *l, int prompt, struct why *why);
/* Copies r. ERR_TOO_LARGE: can never fit; ERR_EXHAUSTED: the queue is full (not for one with a number: it was accepted before);
 * ERR_INVALID: its answer is complete, its number is not below those given out or is in use; ERR_NOMEM. */
int scheduler_submit(struct scheduler *s, const struct seq_request *r, int64_t now_us, struct seq **out, struct why *why);
/* One that was submitted held may start from now on. */
static inline void scheduler_release(struct seq *q) { q->held = false; }
/* The owner wants no more of it (cancelled, deadline, stop string found). The caller lets go of q; later tokens are dropped. */
void scheduler_end(struct scheduler *s, struct seq *q);

/* The next plan to send, or NULL: nothing to run, or enough in flight. Call again until NULL. */
const struct plan *scheduler_plan(struct scheduler *s, int64_t now_us);
/* A worker's report. 0, or ERR_PROTOCOL with why (s->faulty is set). Copies d->out. */
int scheduler_done(struct scheduler *s, int worker, const struct worker_step_done *d, struct why *why);
/* 1 and *out: the oldest step in flight is complete and has been committed. 0: not yet. ERR_PROTOCOL: a report was wrong
 * (s->faulty is set); nothing of the step was taken, and before scheduler_void nothing more will be. */
int scheduler_commit(struct scheduler *s, int64_t now_us, const struct commit **out, struct why *why);

/* From now on plans are for `members` alone, and those in flight are void: what they granted is granted again, in later steps.
 * Sequences whose home is no member wait again, by their rank among all that wait, and are recomputed elsewhere from prompt and
 * committed tokens; the others keep home, pages and the rows that committed, and their homes are told of them anew. Nobody may
 * run a void plan any more when the next one is sent, nor know a sequence: pages have other holders by then. */
void scheduler_void(struct scheduler *s, uint64_t members);

/* A sequence that waits goes on at a worker that still has its first rows, from an earlier life of this scheduler. How many are
 * of use; 0: it stays as it is, since it is not known, or there is no room, or a page is another's. */
int scheduler_adopt(struct scheduler *s, int worker, const struct held_seq *h);

/* Is there a sequence whose answer had begun by this step, and has not gone on after it? */
bool scheduler_is_behind(const struct scheduler *s, uint64_t step);

static inline int scheduler_in_flight(const struct scheduler *s) { return (int)(s->planned - s->committed); }
/* Its turn does not come before every expert has a worker. */
static inline bool scheduler_holds(const struct scheduler *s, const struct seq *q) {
    return s->missing && !q->allow_degraded && q->state == SEQ_WAITING;
}
static inline bool scheduler_idle(const struct scheduler *s) {
    return !s->n_running && !s->n_waiting && s->planned == s->committed;
}

/* Shared by scheduler.c (events) and batch.c (plans) only. */
void scheduler_settle(struct scheduler *s); /* pages back, evicted ones wait again, ended ones are freed */
void scheduler_unwait(struct scheduler *s, struct seq *q); /* out of the queue, whatever it will be then */
void scheduler_leave(struct scheduler *s, struct seq *q, enum seq_state to); /* RUNNING -> EVICTED or ENDED */
