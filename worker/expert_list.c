/* expert_list.c - see expert_list.h. */
#include "worker/expert_list.h"

static int model_layer(const struct model_config *c, int moe_layer) {
    for (int l = 0; l < c->layers; l++)
        if (c->moe_index[l] == moe_layer) return l;
    return -1;
}

const int16_t *expert_list_of(const struct placement *p, int worker, int moe_layer, int *n) {
    *n = placement_slots(p, worker, moe_layer);
    return p->slot_expert + p->slot_first[worker * p->layers + moe_layer];
}

void expert_list_each(const struct model_config *c, const struct placement *p, int worker,
                      void (*fn)(void *ctx, const struct expert_ref *ref), void *ctx) {
    for (int l = 0, slot = 0; l < p->layers; l++) {
        int n, layer = model_layer(c, l);
        const int16_t *experts = expert_list_of(p, worker, l, &n);
        for (int level = 0; level < model_levels(c); level++) {
            bool member = false;
            for (int i = 0; i < n; i++) member |= model_expert_level(c, experts[i]) == level;
            if (member) fn(ctx, &(struct expert_ref){BLOB_COMMON, l, layer, level, -1});
        }
        for (int i = 0; i < n; i++) fn(ctx, &(struct expert_ref){BLOB_EXPERT, l, layer, experts[i], slot++});
    }
}

struct measuring {
    const struct model_config *c;
    enum fmt fmt;
    struct expert_sizes sizes;
};

static void measure(void *ctx, const struct expert_ref *ref) {
    struct measuring *m = ctx;
    size_t n = blob_bytes(m->c, m->fmt, ref->kind, ref->layer, ref->expert);
    m->sizes.bytes += n;
    if (ref->kind == BLOB_COMMON) m->sizes.common_bytes += n;
}

struct expert_sizes expert_list_sizes(const struct model_config *c, enum fmt fmt, const struct placement *p, int worker) {
    struct measuring m = {.c = c, .fmt = fmt};
    expert_list_each(c, p, worker, measure, &m);
    return m.sizes;
}
