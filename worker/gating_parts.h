/* gating_parts.h - the pieces of gating.c that have files of their own. Internal to worker/. */
#pragma once
#include "worker/gating.h"

static inline int gating_width(const struct gating *g) {
    return router_first(&g->config->router, gate_width(&g->config->gate));
}
/* Any of it NULL or 0: not needed by this model. */
int gating_context_init(struct gating *g, size_t T);
/* Turns the first level's logits [T,W] (and two-stage domains' [T,D], or NULL) into what is decided by: means over the previous
 * segment, then the context added. Writes the sequence's state. */
void gating_context(struct gating *g, int moe_index, const struct layer_weights *w, const float *x,
                    const struct step_rows *rows);

int gating_tree_init(struct gating *g, size_t T);
void gating_tree_clear(struct gating *g);
/* From first-level logits to pairs. bias [W] or NULL; k_of(g, t): leaves of row t. */
void gating_tree(struct gating *g, int moe_index, const struct layer_weights *w, const float *x, const float *bias, int T);
/* Whether this row's first level is less certain than tau. */
bool gating_unsure(const struct gating *g, int t);
