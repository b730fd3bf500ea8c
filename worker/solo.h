/* solo.h - a model in one worker that belongs to no cluster, and one sequence in it: what scores texts, and what the golden
 * tests and bench_solo drive. The worker's own parts, wired as its engine wires them.
 *
 * Opened in three pieces, so that a test can plant its mistakes between them. One thread owns it; it stays where it is. */
#pragma once
#include "worker/forward.h"

enum { SOLO_PAGE_TOKENS = 16 };

struct solo_options {
    const char *isa; /* as of backend_options */
    int threads;
    enum fmt weights;
    int max_rows;           /* of a chunk: memory for their logits is held */
    int sequences;          /* 0: one, and any row's logits; else memory for so many, and for as many rows' logits. Rows of more
                             * than one are the caller's to fill in (forward.rows); pages are numbered from 0 */
    int context;            /* positions */
    const int32_t *missing; /* [n_missing, 2] model layer and expert of those that are nowhere; borrowed */
    int n_missing;
};

struct solo {
    struct solo_options options;
    struct checkpoint checkpoint;
    struct backend *backend;
    struct placement placement;
    struct weights weights;
    struct expert_store store;
    struct kv kv;
    struct ep *ep;
    struct moe moe;
    struct forward forward;
    atomic_ullong progress;
    atomic_bool stop;
};

/* After an error of any of these solo_close cleans up. */
int solo_open(struct solo *s, const char *dir, const struct solo_options *o, struct why *why); /* the checkpoint, the device */
int solo_load(struct solo *s, struct why *why);                                                /* weights and experts */
int solo_ready(struct solo *s, enum fmt kv, struct why *why); /* memory for a chunk and for keys and values in format kv */
void solo_close(struct solo *s);
/* Runs positions first .. first + count - 1; ids[0] is position 0. Afterwards s->forward.logits [count,V] and stats [count] are
 * those of all of them. What forward_step says. */
int solo_chunk(struct solo *s, const int32_t *ids, int first, int count);
