/* expert_run.h - what a worker does with the rows that arrived for its experts.
 *
 * An expert's row is what its level has in common, then the expert's own part added to it, in this order, f32: computed from
 * the row alone, so neither placement nor neighbours show in it. Beside it the expert says what only it can know, in the extras
 * of the exchange (expert_extras): how well its output agrees with the token, and how sure it is of it.
 * Owner: the engine thread. */
#pragma once
#include "fabric/ep.h"
#include "worker/expert_store.h"
#include "worker/weights.h"

struct expert_run {
    struct backend *backend;
    const struct model_config *config;
    struct fuse_rule extras;
    struct ffn_group *groups; /* [max_slots] */
    float *q, *k;             /* [EXPERT_RUN_ROWS, d]; NULL without fusion */
};
enum { EXPERT_RUN_ROWS = 256 }; /* rows whose agreement is computed at a time */

/* The columns that a model's experts return beside their rows; -1: not that one. extras.extra is X. */
struct fuse_rule expert_extras(const struct model_config *c);

/* max_slots: of any layer here, at least 1. ERR_NOMEM */
int expert_run_init(struct expert_run *r, struct backend *b, const struct model_config *c, int max_slots, struct why *why);
void expert_run_clear(struct expert_run *r);
/* Fills work->y and work->extra, and counts the rows where they run. slots, w: of the layer. */
void expert_run(struct expert_run *r, struct expert_slot *slots, const struct layer_weights *w, const struct ep_work *work);
