/* plan.h - one step's plan and one step's outcome, as the scheduler hands them out. Arrays belong to the scheduler and are
 * overwritten by its next plan or commit; sequences pointed to stay alive until then. */
#pragma once
#include "coordinator/seq.h"

struct plan_run { /* rows for positions first .. first + count - 1 of one sequence */
    struct seq *seq;
    int first, count;
    bool sample;              /* the last row yields a token */
    const int32_t *new_pages; /* appended to its page list before the rows run */
    int n_new_pages;
};
struct plan_worker {
    struct seq **start;   /* become this worker's, with ids[0 .. given) */
    struct plan_run *run; /* in this order */
    uint64_t *drop;       /* forgotten before `start` is looked at: a sequence may be in both */
    int n_start, n_run, n_drop;
    int tokens; /* rows in all */
};
struct plan {
    uint64_t step; /* 1, 2, 3 ... */
    int workers;
    struct plan_worker worker[MSG_MAX_WORKERS];
};

enum seq_end { SEQ_NOT_ENDED, SEQ_END_STOP, SEQ_END_LENGTH };
struct commit_token {
    struct seq *seq;
    const struct step_out *out; /* NULL: nothing was sampled (max_tokens 0), only the end is told */
    enum seq_end end;           /* ended: the owner lets go of seq */
};
struct commit {
    uint64_t step;
    struct commit_token *token;
    int n;
};
