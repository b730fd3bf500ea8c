/* gating.h - from the rows of a layer to (expert, weight) pairs: which experts each token goes to, and how much they count.
 *
 * Every kind of router ends in the same two arrays; what follows (replicas, dispatch, combine) knows nothing of kinds. A row's
 * pairs depend on that row and, where the router has a history, on its sequence's earlier rows; never on its neighbours.
 * docs/ROUTERS.md has the formulae. Owner: the engine thread. */
#pragma once
#include "model/config.h"
#include "worker/gate_mask.h"
#include "worker/step_rows.h"
#include "worker/weights.h"

struct tree_search;
struct tree_node;

struct gating {
    struct backend *backend;
    const struct model_config *config;
    int32_t *ids;   /* [T,k] host-visible: in the order in which combine adds them. From 0 the experts, from gate.experts on
                     * identity, -1 nothing (weight 0) */
    float *weights; /* [T,k] host-visible */
    float *confidence,
        *entropy; /* [T] of the last layer run, host memory; NULL when the router has no confidence rule. Where the
                                  * experts judge themselves, confidence is theirs once they have answered (moe.c) */

    struct gate_mask mask; /* of missing experts; initialised by the owner, cleared here */
    /* the rest is the implementation's */
    float *first;          /* [T,W] logits of the first level, host-visible where anything is done to them */
    float *inner[2];       /* logits of the other levels: [T, ...], or of some nodes of a tree */
    int32_t *base_ids;     /* [T,router.k] the choice without widening */
    float *base_weights;
    float *context;        /* [T,dim] what history adds */
    float *gru_u, *gru_in, *gru_hidden; /* [T,dim] [T,3 dim] [T,3 dim] */
    struct tree_search *search; /* [chunk] */
    struct tree_node *room;     /* [chunk, tree_room] */
    int32_t *pair_row, *pair_block; /* [chunk * beam] */
    int chunk;                  /* tokens of a tree searched together */
    float *bias;                /* [MoE layers, W] selection bias that changes while serving */
    bool *bias_begun;           /* [MoE layers] */
    uint32_t *counts;           /* [W] */
};

int gating_init(struct gating *g, struct backend *b, const struct model_config *c, int max_tokens, struct why *why);
void gating_clear(struct gating *g);
/* Fills ids and weights for x [T,H], T = rows->T > 0, of MoE layer moe_index whose weights are w; done when it returns. Called
 * for the MoE layers of a step in ascending order: state that goes from layer to layer begins with layer 0. */
void gating_run(struct gating *g, int moe_index, const struct layer_weights *w, const float *x, const struct step_rows *rows);
