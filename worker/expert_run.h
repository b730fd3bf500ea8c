/* expert_run.h - what a worker does with the rows that arrived for its experts.
 *
 * An expert's row is what its level has in common, then the expert's own part added to it, in this order, f32: computed from
 * the row alone, so neither placement nor neighbours show in it. Owner: the engine thread. */
#pragma once
#include "fabric/ep.h"
#include "worker/expert_store.h"

struct expert_run {
    struct backend *backend;
    const struct model_config *config;
    struct ffn_group *groups; /* [max_slots] */
};

/* max_slots: of any layer here, at least 1. ERR_NOMEM */
int expert_run_init(struct expert_run *r, struct backend *b, const struct model_config *c, int max_slots, struct why *why);
void expert_run_clear(struct expert_run *r);
/* Fills work->y, and counts the rows where they run. slots: of the layer. */
void expert_run(struct expert_run *r, struct expert_slot *slots, const struct ep_work *work);
