/* expert_run.c - two passes over the rows, which are grouped by slot: the common rows of neighbouring slots as one group, so
 * that their weights are read once for all; then every slot's own. */
#include "worker/expert_run.h"

#include <math.h>
#include <stdlib.h>

struct fuse_rule expert_extras(const struct model_config *c) {
    struct fuse_rule r = {.score = -1, .conf = -1, .beta = c->experts.fusion_beta};
    if (c->experts.fusion_dim) r.score = r.extra++;
    if (c->experts.confidence) r.conf = r.extra++;
    return r;
}

int expert_run_init(struct expert_run *r, struct backend *b, const struct model_config *c, int max_slots, struct why *why) {
    size_t keys = (size_t)EXPERT_RUN_ROWS * (size_t)c->experts.fusion_dim * sizeof(float);
    *r = (struct expert_run){.backend = b,
                             .config = c,
                             .extras = expert_extras(c),
                             .groups = malloc((size_t)max_slots * sizeof *r->groups),
                             .q = keys ? b->ops->alloc(b, keys, MEM_DEVICE) : NULL,
                             .k = keys ? b->ops->alloc(b, keys, MEM_DEVICE) : NULL};
    if (r->groups && (!keys || (r->q && r->k))) return 0;
    expert_run_clear(r);
    return fail(why, ERR_NOMEM, "out of memory for running %d experts", max_slots);
}

void expert_run_clear(struct expert_run *r) {
    if (!r->backend) return;
    r->backend->ops->release(r->backend, r->q);
    r->backend->ops->release(r->backend, r->k);
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

/* (W_q x) . (W_k o) / sqrt(d) */
static void say_agreement(struct expert_run *r, const struct layer_weights *w, const struct ep_work *work) {
    const struct ops *ops = r->backend->ops;
    int X = r->extras.extra, d = r->config->experts.fusion_dim;
    int64_t H = r->config->hidden;
    for (int row = 0, n; row < work->rows; row += n) {
        n = work->rows - row < EXPERT_RUN_ROWS ? work->rows - row : EXPERT_RUN_ROWS;
        ops->linear(r->backend, r->q, work->x + row * H, w->fusion_q, NULL, false, n);
        ops->linear(r->backend, r->k, work->y + row * H, w->fusion_k, NULL, false, n);
        ops->dots(r->backend, work->extra + row * X + r->extras.score, X, r->q, r->k, d, (float)(1 / sqrt(d)), n, d);
    }
}

/* v . o, the logit of the confidence */
static void say_confidence(struct expert_run *r, const struct expert_slot *slots, const struct ep_work *work) {
    int X = r->extras.extra, H = r->config->hidden;
    for (int s = 0; s < work->slots; s++) {
        int64_t row = work->first[s];
        int n = work->first[s + 1] - work->first[s];
        if (n)
            r->backend->ops->dots(r->backend, work->extra + row * X + r->extras.conf, X, work->y + row * H, slots[s].conf, 0, 1,
                                  n, H);
    }
}

void expert_run(struct expert_run *r, struct expert_slot *slots, const struct layer_weights *w, const struct ep_work *work) {
    run_common(r, slots, work);
    run_own(r, slots, work);
    if (r->extras.score >= 0) say_agreement(r, w, work);
    if (r->extras.conf >= 0) say_confidence(r, slots, work);
    r->backend->ops->sync(r->backend);
}
