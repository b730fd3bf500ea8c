/* gating.c - evaluates the model's gate over the rows of a step. */
#include "worker/gating.h"

int gating_init(struct gating *g, struct backend *b, const struct model_config *c, int max_tokens, struct why *why) {
    size_t T = (size_t)max_tokens, k = (size_t)c->gate.k;
    *g = (struct gating){.backend = b, .config = c};
    g->logits = b->ops->alloc(b, T * (size_t)gate_width(&c->gate) * sizeof(float), MEM_DEVICE);
    g->ids = b->ops->alloc(b, T * k * sizeof(int32_t), MEM_HOST_VISIBLE);
    g->weights = b->ops->alloc(b, T * k * sizeof(float), MEM_HOST_VISIBLE);
    if (g->logits && g->ids && g->weights) return 0;
    gating_clear(g);
    return fail(why, ERR_NOMEM, "out of memory for the gate of %d tokens", max_tokens);
}

void gating_clear(struct gating *g) {
    if (!g->backend) return;
    void *all[] = {g->logits, g->ids, g->weights};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) g->backend->ops->release(g->backend, all[i]);
    *g = (struct gating){0};
}

void gating_run(struct gating *g, const struct layer_weights *w, const float *x, const struct step_rows *rows) {
    struct backend *b = g->backend;
    b->ops->linear(b, g->logits, x, w->router, w->router_bias, false, rows->T);
    b->ops->gate_select(b, g->ids, g->weights, g->logits, w->router_sel_bias, &g->config->gate, rows->T);
    b->ops->sync(b);
}
