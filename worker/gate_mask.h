/* gate_mask.h - experts that are on no worker, kept out of the gate's choice (placement_partial).
 *
 * A missing expert's logit and selection bias are -infinity, so the choice is what it would be without it: scores, weights and
 * sums are those of the experts that are left. In a tree a node is missing when all its leaves are, and a parent shares its
 * probability out among the children that are left. Pairs that remain for missing experts, because fewer than k are
 * left, become nothing. The result depends on which experts are missing, so only sequences that allow it run then (engine.c),
 * and their answers say so. Owner: the engine thread. */
#pragma once
#include "model/config.h"
#include "router/placement.h"
#include "worker/weights.h"

enum { GATE_MASK_LEVELS = 3 };
struct gate_mask {
    struct backend *backend;
    const struct model_config *config;
    const struct placement *placement; /* NULL: nothing is missing, and nothing below is used */
    int width[GATE_MASK_LEVELS];       /* logits of each level that has a mask of its own: flat 1, two stages 3, tree 1 */
    float *bias[GATE_MASK_LEVELS];     /* [layers, width] device: what is added to these logits */
    float *sel_bias;                   /* [layers, width[0]] device */
    bool *filled;                      /* [layers] */
    float *host;                       /* one row, on its way to the device or to the search */
};

/* The biases of one layer: the gate's own, or with what is missing. */
struct gate_biases {
    const float *level[GATE_MASK_LEVELS], *sel;
};

/* Borrows c and p. ERR_NOMEM */
int gate_mask_init(struct gate_mask *m, struct backend *b, const struct model_config *c, const struct placement *p,
                   struct why *why);
void gate_mask_clear(struct gate_mask *m);
struct gate_biases gate_mask_biases(struct gate_mask *m, int moe_layer, const struct layer_weights *w);
/* Logits of the children of a tree's node (level 1 or 2 are the children's): the same, or a copy in which missing children are
 * -infinity, valid until the next call. */
const float *gate_mask_children(struct gate_mask *m, int moe_layer, int level, int parent, const float *logits);
/* The same for the logits [width[level]] of one token, where the biases could not be used: what is kept of a token for later
 * ones must not hold -infinity, or experts that come back would stay out. */
void gate_mask_row(const struct gate_mask *m, int moe_layer, int level, float *logits);
const float *gate_mask_copy(struct gate_mask *m, int moe_layer, int level, const float *logits); /* valid until the next call */
/* Pairs of missing experts, and pairs whose weight is no number, become nothing: id -1, weight 0. ids, weights [n]: on the
 * host. */
void gate_mask_drop(const struct gate_mask *m, int moe_layer, int32_t *ids, float *weights, int n);
