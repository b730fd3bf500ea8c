/* gating.h - from the rows of a layer to (expert, weight) pairs: which experts each token goes to, and how much they count.
 *
 * Every kind of router ends in the same two arrays; what follows (replicas, dispatch, combine) knows nothing of kinds. A row's
 * pairs depend on that row and, where the router has a history, on its sequence's earlier rows; never on its neighbours.
 * Owner: the engine thread. */
#pragma once
#include "model/config.h"
#include "worker/step_rows.h"
#include "worker/weights.h"

struct gating {
    struct backend *backend;
    const struct model_config *config;
    float *logits;  /* [T,W] */
    int32_t *ids;   /* [T,k] host-visible: in the order in which combine adds them. From 0 the experts, from gate.experts on
                     * identity, -1 nothing (weight 0) */
    float *weights; /* [T,k] host-visible */
};

int gating_init(struct gating *g, struct backend *b, const struct model_config *c, int max_tokens, struct why *why);
void gating_clear(struct gating *g);
/* Fills ids and weights for x [T,H], T = rows->T > 0, of the layer whose weights are w; done when it returns. */
void gating_run(struct gating *g, const struct layer_weights *w, const float *x, const struct step_rows *rows);
