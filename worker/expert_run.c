/* expert_run.c - two passes over the rows, which are grouped by slot: the common rows of neighbouring slots as one group, so
 * that their weights are read once for all; then every slot's own. */
#include "worker/expert_run.h"

#include <stdlib.h>

int expert_run_init(struct expert_run *r, struct backend *b, const struct model_config *c, int max_slots, struct why *why) {
    *r = (struct expert_run){.backend = b, .config = c, .groups = malloc((size_t)max_slots * sizeof *r->groups)};
    return r->groups ? 0 : fail(why, ERR_NOMEM, "out of memory for the groups of %d experts", max_slots);
}

void expert_run_clear(struct expert_run *r) {
    free(r->groups);
    *r = (struct expert_run){0};
}

static void run_common(struct expert_run *r, const struct expert_slot *slots, const struct ep_work *work) {
    int n = 0;
    for (int s = 0; s < work->slots; s++) {
        int first = work->first[s], count = work->first[s + 1] - first;
        const struct ffn *f = slots[s].common;
        if (!count || !f) continue;
        struct ffn_group *last = n ? &r->groups[n - 1] : NULL;
        if (last && last->weights == f && last->first + last->count == first) last->count += count;
        else r->groups[n++] = (struct ffn_group){f, first, count};
    }
    if (n) r->backend->ops->ffn(r->backend, work->y, work->x, r->groups, n, r->config->hidden);
}

static void run_own(struct expert_run *r, struct expert_slot *slots, const struct ep_work *work) {
    int n = 0;
    for (int s = 0; s < work->slots; s++) {
        int count = work->first[s + 1] - work->first[s];
        if (!count) continue;
        r->groups[n++] = (struct ffn_group){&slots[s].ffn, work->first[s], count, .add = slots[s].common != NULL};
        slots[s].rows += (uint64_t)count;
    }
    if (n) r->backend->ops->ffn(r->backend, work->y, work->x, r->groups, n, r->config->hidden);
}

void expert_run(struct expert_run *r, struct expert_slot *slots, const struct ep_work *work) {
    run_common(r, slots, work);
    run_own(r, slots, work);
    r->backend->ops->sync(r->backend);
}
