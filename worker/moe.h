/* moe.h - one MoE layer of a step: gate, route, dispatch, experts, combine, shared expert.
 *
 * A worker with tokens calls moe_layer with its rows; a worker without calls it with T = 0 and only serves its experts. Every
 * worker walks the same MoE layers in the same order. Owner: the engine thread. */
#pragma once
#include <stdatomic.h>

#include "fabric/ep.h"
#include "worker/expert_run.h"
#include "worker/expert_store.h"
#include "worker/gating.h"
#include "worker/tally.h"
#include "worker/trace.h"
#include "worker/weights.h"

struct moe {
    struct backend *backend;
    const struct model_config *config;
    struct expert_store *store;
    const struct placement *placement;
    struct ep *ep;
    int rank, workers;
    const atomic_bool *stop;                        /* set by the control thread: leave every wait soon */
    void (*on_late)(void *ctx, uint64_t late_mask); /* a peer missed the patience; called again as long as it lasts */
    void *ctx;
    int64_t patience_us; /* of this step */
    struct trace *trace; /* records of routing; NULL: none are kept */
    struct tally *tally; /* counts per domain; NULL: none are kept */

    struct gating gating;
    struct expert_run run;
    int16_t *worker, *slot;         /* [T,k] */
    const float **rows;             /* [T,k] */
    float *routed, *shared, *scale; /* [T,H] [T,H] [T] */
    float *nothing;                 /* [H] zeros: the row of a pair that went nowhere */
    float *weighed, *ones;          /* [T,H] and [T] host-visible, where weights multiply inputs (GATE_INPUT); else NULL */
    float *said;                    /* [T,k,X] host-visible: what came beside the rows of the last layer; columns: run.extras */
    float *fused;                   /* [T,k] host-visible: weights after the fusion */
};

int moe_init(struct moe *m, int max_tokens, struct why *why); /* after the public fields above are set */
void moe_clear(struct moe *m);
/* out [T,H] += experts(x) + shared(x), T = rows->T. Returns 0, ERR_CANCELLED when stop was set, ERR_PROTOCOL or ERR_GONE. */
int moe_layer(struct moe *m, int layer, const struct layer_weights *w, float *out, const float *x,
              const struct step_rows *rows);
/* After the last layer: sees to it that nothing of this step still needs this worker's help to reach its peers, which would
 * otherwise wait for it while it computes logits or sleeps. Results as moe_layer. */
int moe_step_end(struct moe *m);
