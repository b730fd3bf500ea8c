/* forward.h - the model: one step's rows through all layers, top to bottom. Llama-type attention or latents (mla.h), any gated
 * FFN.
 *
 * Owner: the engine thread. Buffers are sized once for the largest step. */
#pragma once
#include "worker/kv.h"
#include "worker/mla.h"
#include "worker/moe.h"
#include "worker/split.h"
#include "worker/step_rows.h"

struct forward_limits {
    int max_tokens, max_seqs, max_pages; /* rows of a step; sequences; pages of a sequence */
};

struct forward {
    struct backend *backend;
    const struct model_config *config;
    const struct weights *weights;
    struct kv *kv;
    struct moe *moe; /* NULL for a dense model */
    struct forward_limits limits;
    atomic_ullong *progress; /* bumped per layer: health means progress */

    struct step_rows rows;
    struct split split; /* moe's too */
    int microbatches; /* of the step: its rows in one piece, or in two that take turns. 0 is 1 */
    struct mla mla;                               /* instead of q, k, v and attended where the model has latents */
    float *x, *norm, *q, *k, *v, *attended, *mlp; /* [T, ...] */
    const float **query_rows;                     /* [T] and, where queries are tempered, [T] host-visible: by what */
    float *temper, *ones;                         /* ones [D]: the weight of norms that have none */
    float *last;                                  /* [n_sampled, H] */
    float *logits;                                /* [n_sampled, V] host-visible */
    struct logit_stats *stats;                    /* [n_sampled] host-visible */
};

int forward_init(struct forward *f, const struct forward_limits *limits,
                 struct why *why); /* after the first six fields are set */
void forward_clear(struct forward *f);
/* Runs f->rows. With T = 0 it only serves the experts. Afterwards logits and stats hold the sampled rows. Returns 0 or what
 * moe_post, moe_serve and moe_finish say. */
int forward_step(struct forward *f);
