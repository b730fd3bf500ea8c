/* runner.h - a worker as a scheduler knows it: it keeps copies of the plans it was given, and its own idea of every sequence
 * and of what is in its pages. It ends the program when a plan contradicts that. */
#pragma once
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "coordinator/scheduler.h"

enum { VOCAB = 1000, STOP_TOKEN = 7, RUNNER_SEQS = 64, RUNNER_PAGES = 512, RUNNER_DROPS = 128, RUNNER_PLANS = 8 };

extern uint64_t seed_now; /* the program's */
#define CHECK(cond, ...)                                                                                                       \
    do {                                                                                                                       \
        if (!(cond)) {                                                                                                         \
            fprintf(stderr, "seed %" PRIu64 ", %s:%d: ", seed_now, __FILE__, __LINE__);                                        \
            fprintf(stderr, __VA_ARGS__);                                                                                      \
            fprintf(stderr, "\n");                                                                                             \
            abort();                                                                                                           \
        }                                                                                                                      \
    } while (0)

struct voice { /* what a request says: a function of the position */
    uint64_t salt;
    int stop_percent; /* of its tokens are STOP_TOKEN */
};
int32_t voice_token(const struct voice *v, int position);

struct run_copy {
    uint64_t seq;
    int first, count;
    bool sample;
    int n_pages;
    int32_t pages[RUNNER_PAGES];
};
struct start_copy {
    uint64_t seq;
    struct voice voice;
    int given, prompt, max_tokens;
};
struct plan_copy {
    uint64_t step;
    int n_run, n_start, n_drop;
    struct run_copy run[RUNNER_SEQS];
    struct start_copy start[RUNNER_SEQS];
    uint64_t drop[RUNNER_DROPS];
};
struct held {        /* a sequence */
    uint64_t number; /* 0 = free entry */
    struct voice voice;
    int prompt, max_tokens, count, computed, n_pages;
    bool done;
    int32_t pages[RUNNER_PAGES];
};
struct written { /* rows in one page */
    uint64_t number;
    int page, rows; /* page: which of its sequence's */
};
struct runner {
    struct scheduler_limits limits;
    struct held held[RUNNER_SEQS];
    int n_held;
    uint64_t *page_holder;   /* [pages] numbers of sequences; 0 = free */
    struct written *written; /* [pages] */
    struct plan_copy queue[RUNNER_PLANS];
    int q_head, q_len;
};

void runner_init(struct runner *w, const struct scheduler_limits *l); /* w is all zero */
void runner_clear(struct runner *w);
/* Its part of a plan; voice: of the owner of a sequence. */
void runner_push(struct runner *w, uint64_t step, const struct plan_worker *p, struct voice (*voice)(const struct seq *q));
/* Runs the oldest plan: its step, and what was sampled in it, out[RUNNER_SEQS]. */
uint64_t runner_step(struct runner *w, struct step_out *out, int *n_out);
/* All plans and sequences; rows stay in their pages unless it died. */
void runner_forget(struct runner *w, bool died);
