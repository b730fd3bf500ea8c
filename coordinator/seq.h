/* seq.h - one sequence: a request's tokens and where it stands in the cluster. Owned by the scheduler.
 *
 *              start                evict                settled
 *   WAITING ----------> RUNNING ------------> EVICTED ------------> WAITING      (its pages were needed by a better one)
 *      |                   |                     |
 *      +------- end -------+-------- end --------+----> ENDED -- settled --> freed
 *
 * settled: the last plan that names it has committed, so no worker can touch its pages any more.
 *
 * Positions: the prompt stands at 0 .. prompt - 1, the answer follows. The row at position p reads token p and may yield token
 * p + 1; the last token of an answer is never read. So a sequence needs `rows` rows, and pages for as many positions.
 * `count` tokens are known here; `granted` rows have been given out in plans and may be ahead of it: the home feeds itself. */
#pragma once
#include "base/list.h"
#include "coordinator/msg.h"

enum seq_state { SEQ_WAITING, SEQ_RUNNING, SEQ_EVICTED, SEQ_ENDED };

/* What a request asks of the scheduler. Everything is copied. */
struct seq_request {
    const int32_t *ids;
    int prompt;     /* tokens in ids, >= 1 */
    int max_tokens; /* 0: run the prompt, sample nothing */
    int priority;   /* lower runs earlier */
    bool allow_degraded; /* it may run while experts are missing */
    struct sampling sampling;
    const int32_t *stop_ids;
    int n_stop_ids;
    int domain;  /* number of its tag: for counts and traces, of no effect */
    bool held;   /* it waits for scheduler_release */
    /* One that was accepted in another life: its number then (0: a new one), and the answer so far, which is computed again
     * like a prompt. */
    uint64_t number;
    const int32_t *answer;
    int n_answer;
    bool at_home; /* it shall run at this worker and nowhere else: */
    int home;
    void *owner; /* comes back with every token; NULL: a proof's (prove.h) */
};

struct seq {
    uint64_t number; /* its name on the wire, and its age: lower came earlier. From 1 */
    enum seq_state state;
    int priority;
    void *owner;
    struct sampling sampling;
    int32_t *stop_ids;
    int n_stop_ids, domain;

    int32_t *ids;             /* [limit] prompt, then committed tokens */
    int prompt, count, limit; /* limit = prompt + max_tokens */
    int rows;                 /* rows the whole sequence takes */

    int home;       /* worker; meaningful from RUNNING to settled */
    int given;      /* tokens the home got with SeqStart: its rows up to there are prefill */
    int granted;    /* rows given out in plans */
    int kept;       /* of these, the rows of steps that committed: they need not run again while its home lives */
    int32_t *pages; /* [pages for `rows`] on its home, in order of position */
    int n_pages, n_told;      /* n_told: those its home has been told of */
    bool anew;                /* its plans were void: its home wants SeqStart again, with what it keeps */
    uint64_t last_step;     /* last plan that names it */
    uint64_t asked_step;    /* the last step, of those that came to be committed, in which it was to sample */
    uint64_t reported_step; /* last step whose token arrived */

    int64_t submitted_us, first_row_us, first_token_us, last_token_us; /* 0 = not yet */
    int preemptions;
    bool held; /* may not start yet */
    bool at_home; /* `home` was asked for */
    bool allow_degraded, degraded; /* may run, has run while experts were missing */

    struct list node; /* in the list of its state */
    struct seq *hash_next;
};

/* max_pages: how many pages it will ever need. NULL when out of memory. */
struct seq *seq_new(const struct seq_request *r, uint64_t number, int max_pages, int64_t now_us);
void seq_free(struct seq *q);
void seq_set_state(struct seq *q, enum seq_state to); /* the only place where a state changes; an illegal move is a BUG */
const char *seq_state_name(enum seq_state s);

static inline bool seq_before(const struct seq *a, const struct seq *b) { /* a matters more: it is served first, evicted last */
    return a->priority != b->priority ? a->priority < b->priority : a->number < b->number;
}
void seq_insert(struct list *sorted, struct seq *q); /* best first */

static inline int seq_rows(int prompt, int max_tokens) { return prompt + (max_tokens > 1 ? max_tokens - 1 : 0); }
static inline bool seq_prefilling(const struct seq *q) { return q->granted < q->given; }
static inline bool seq_decoding(const struct seq *q) { return q->granted >= q->given && q->granted < q->rows; }
static inline int pages_for(int rows, int page_tokens) { return (rows + page_tokens - 1) / page_tokens; }
