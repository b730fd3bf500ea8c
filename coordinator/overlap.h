/* overlap.h - does a step run in one piece, or in two microbatches that take turns? What measured steps of that size say.
 *
 * Two microbatches hide the wait for other workers' rows behind this worker's computing, and pay by reading every expert's
 * weights twice. How much of either there is depends on the machine, the model and the size of the step, and is known only by
 * measuring: for each size class (rows of the fullest worker, by powers of two) the time of a step per row is kept for both
 * forms, and of the first form how much of it was waiting.
 *   - below OVERLAP_MIN_ROWS rows, that is 32 in each half, never two;
 *   - two are tried when the waits are worth it: at best they hide all of it, at most half the step;
 *   - each form is known once OVERLAP_LEARN reports of it are in, and a step that is far off what is known counts for little;
 *   - then the faster form runs, and the other is looked at again every OVERLAP_AGAIN steps, since times change.
 * Results never depend on it, only times. Pure; owner: the coordinator's loop. */
#pragma once
#include <stdint.h>

enum { OVERLAP_MIN_ROWS = 64, OVERLAP_LEARN = 16, OVERLAP_AGAIN = 200, OVERLAP_CLASSES = 24 };

struct overlap_class {
    double row_us[2];   /* time of a step per row in one and in two microbatches, smoothed; 0: unknown */
    double waited;      /* of a step in one: the part of it that was waiting for others, smoothed */
    unsigned seen[2];   /* reports of either */
    unsigned turn;      /* steps planned of this size */
};
struct overlap {
    int forced; /* 1 or 2: the operator's choice; 0: measure */
    uint64_t steps[2]; /* so many were in one piece, in two */
    struct overlap_class size[OVERLAP_CLASSES];
};

/* Microbatches, 1 or 2, for the next step whose fullest worker has so many rows. workers: alone there is nothing to hide. */
int overlap_choose(struct overlap *o, int rows, int workers);
/* A worker's report of such a step: how long it took there, and how long of that it waited for the peer it waited for most. */
void overlap_learn(struct overlap *o, int rows, int microbatches, int64_t step_us, int64_t wait_us);
