/* moe.h - one MoE layer of a step: gate, route, dispatch, experts, combine, shared expert.
 *
 * In three pieces, so that two microbatches can take turns: post sends the tokens off, serve computes what arrived for this
 * worker's experts, finish adds what came back. A worker with tokens calls them with its rows; a worker without calls them with
 * T = 0 and only serves its experts. Every worker walks the same MoE layers and microbatches in the same order. Owner: the
 * engine thread. */
#pragma once
#include <stdatomic.h>

#include "fabric/ep.h"
#include "worker/expert_run.h"
#include "worker/expert_store.h"
#include "worker/gating.h"
#include "worker/split.h"
#include "worker/tally.h"
#include "worker/trace.h"
#include "worker/weights.h"

struct moe_lane { /* one microbatch of one layer, from post to finish */
    struct gating gating;
    int16_t *worker, *slot;         /* [T,k] */
    const float **rows;             /* [T,k] */
    const float *sent;              /* [T,H] what the experts are given */
    float *routed, *shared, *scale; /* [T,H] [T,H] [T] */
    float *weighed;                 /* [T,H] host-visible, where weights multiply inputs (GATE_INPUT); else NULL */
    float *said;                    /* [T,k,X] host-visible: what came beside the rows; columns: run.extras */
    float *fused;                   /* [T,k] host-visible: weights after the fusion */
};

struct moe {
    struct backend *backend;
    const struct model_config *config;
    struct expert_store *store;
    const struct placement *placement;
    struct ep *ep;
    int rank, workers;
    const atomic_bool *stop;                        /* set by the control thread: leave every wait soon */
    /* peers missed the patience, in the call with number `calls`; again as long as it lasts */
    void (*on_late)(void *ctx, uint64_t late_mask, int layer);
    void *ctx;
    int64_t patience_us; /* of this step */
    uint32_t calls;      /* of the exchange, in this step so far: the caller starts it at 0. The same calls everywhere, in the
                          * same order, so of two workers the one with more is further and has sent what the other waits for */
    struct trace *trace; /* records of routing; NULL: none are kept */
    struct tally *tally; /* counts per domain; NULL: none are kept */
    struct split *split; /* the step's time */

    bool sums; /* ep brings back sums instead of rows */
    struct expert_run run;
    struct moe_lane lane[EP_MICROBATCHES]; /* the second for half of the rows */
    float *nothing;                        /* [H] zeros: the row of a pair that went nowhere */
    float *ones;                           /* [T] host-visible, where rows are added as they are; else NULL */
};

int moe_init(struct moe *m, int max_tokens, struct why *why); /* after the public fields above are set */
void moe_clear(struct moe *m);
/* Rows of the first of n microbatches of T; the rest is the second's. */
static inline int moe_first_rows(int T, int n) { return n > 1 ? T - T / 2 : T; }
/* x [T,H], T = rows->T, stays untouched until finish. first: number of the first row in the step. These three return 0,
 * ERR_CANCELLED when stop was set, ERR_EPOCH, ERR_PROTOCOL or ERR_GONE. */
int moe_post(struct moe *m, int mb, int layer, const struct layer_weights *w, const float *x, const struct step_rows *rows,
             int first);
int moe_serve(struct moe *m, int mb, int layer, const struct layer_weights *w);
/* out [T,H] += experts(x) + shared(x) */
int moe_finish(struct moe *m, int mb, int layer, float *out, const struct step_rows *rows, int first);
/* After the last layer: sees to it that nothing of this step still needs this worker's help to reach its peers, which would
 * otherwise wait for it while it computes logits or sleeps. Results as above; 0 also when a peer did not take what it was sent
 * within the patience: whoever waits for that says so, and it is left to moe_idle and to the next step. */
int moe_step_end(struct moe *m);
/* Between steps: moves what moe_step_end left, without waiting. true: there is more, call again soon. */
bool moe_idle(struct moe *m);
