/* gating.c - evaluates the model's gate over the rows of a step: first-level logits, what is added to them, the choice. */
#include "worker/gating.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "router/context.h"
#include "router/two_stage.h"
#include "worker/gating_parts.h"

static int alloc_confidence(struct gating *g, size_t T) {
    const struct router_rule *r = &g->config->router;
    if (r->confidence.kind == CONFIDENCE_NONE && !g->config->experts.confidence) return 0;
    g->confidence = calloc(T, sizeof *g->confidence);
    g->entropy = calloc(T, sizeof *g->entropy);
    if (r->kind == ROUTER_FLAT && r->confidence.action == CONFIDENCE_WIDEN) {
        g->base_ids = g->backend->ops->alloc(g->backend, T * (size_t)r->k * sizeof(int32_t), MEM_HOST_VISIBLE);
        g->base_weights = g->backend->ops->alloc(g->backend, T * (size_t)r->k * sizeof(float), MEM_HOST_VISIBLE);
        if (!g->base_ids || !g->base_weights) return ERR_NOMEM;
    }
    return g->confidence && g->entropy ? 0 : ERR_NOMEM;
}

static int alloc_kind(struct gating *g, size_t T) {
    const struct router_rule *r = &g->config->router;
    const struct ops *ops = g->backend->ops;
    if (r->kind == ROUTER_TREE) return gating_tree_init(g, T);
    if (r->kind == ROUTER_FLAT) return 0;
    g->inner[0] = ops->alloc(g->backend, T * (size_t)r->two_stage.domains * sizeof(float), MEM_HOST_VISIBLE);
    g->inner[1] = ops->alloc(g->backend, (T * (size_t)r->two_stage.locals + 1) * sizeof(float), MEM_HOST_VISIBLE);
    return g->inner[0] && g->inner[1] ? 0 : ERR_NOMEM;
}

static int alloc_bias(struct gating *g) {
    if (!g->config->router.bias_update.serve) return 0;
    size_t n = (size_t)gating_width(g) * sizeof(float);
    log_warn("the router's selection bias follows the traffic (serve_bias_update): answers depend on what was served before");
    g->bias = g->backend->ops->alloc(g->backend, (size_t)g->config->moe_layers * n, MEM_HOST_VISIBLE);
    g->counts = calloc((size_t)gating_width(g), sizeof *g->counts);
    g->bias_begun = calloc((size_t)g->config->moe_layers, sizeof *g->bias_begun);
    return g->bias && g->counts && g->bias_begun ? 0 : ERR_NOMEM;
}

int gating_init(struct gating *g, struct backend *b, const struct model_config *c, int max_tokens, struct why *why) {
    size_t T = (size_t)max_tokens, k = (size_t)c->gate.k;
    *g = (struct gating){.backend = b, .config = c};
    g->first = b->ops->alloc(b, T * (size_t)gating_width(g) * sizeof(float), MEM_HOST_VISIBLE);
    g->ids = b->ops->alloc(b, T * k * sizeof(int32_t), MEM_HOST_VISIBLE);
    g->weights = b->ops->alloc(b, T * k * sizeof(float), MEM_HOST_VISIBLE);
    if (g->first && g->ids && g->weights && alloc_kind(g, T) >= 0 && gating_context_init(g, T) >= 0 &&
        alloc_confidence(g, T) >= 0 && alloc_bias(g) >= 0)
        return 0;
    gating_clear(g);
    return fail(why, ERR_NOMEM, "out of memory for the gate of %d tokens", max_tokens);
}

void gating_clear(struct gating *g) {
    if (!g->backend) return;
    void *all[] = {g->ids,     g->weights, g->first,  g->inner[0],   g->inner[1], g->base_ids, g->base_weights,
                   g->context, g->gru_u,   g->gru_in, g->gru_hidden, g->bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) g->backend->ops->release(g->backend, all[i]);
    gating_tree_clear(g);
    gate_mask_clear(&g->mask);
    free(g->confidence);
    free(g->entropy);
    free(g->counts);
    free(g->bias_begun);
    *g = (struct gating){0};
}

bool gating_unsure(const struct gating *g, int t) { return g->confidence[t] < g->config->router.confidence.tau; }

static void judge(struct gating *g, int T) {
    const int W = gating_width(g);
    if (!g->confidence) return;
    g->backend->ops->sync(g->backend);
    for (int t = 0; t < T; t++)
        g->confidence[t] =
            context_confidence(g->first + (size_t)t * (size_t)W, W, g->config->router.confidence.kind, &g->entropy[t]);
}

/* The rest of a row's pairs, from the n-th on, is nothing. */
static void end_row(struct gating *g, int t, int n) {
    for (int j = n, k = g->config->gate.k; j < k; j++) {
        g->ids[t * k + j] = -1;
        g->weights[t * k + j] = 0;
    }
}

/* Rows that are sure of themselves get the choice of the plain rule, the others that of k_max. */
static void widen_flat(struct gating *g, const float *bias, int T) {
    struct gate_rule rule = g->config->gate;
    const int k = g->config->router.k, most = rule.k;
    rule.k = k;
    g->backend->ops->gate_select(g->backend, g->base_ids, g->base_weights, g->first, bias, &rule, T);
    g->backend->ops->sync(g->backend);
    for (int t = 0; t < T; t++) {
        if (gating_unsure(g, t)) continue;
        memcpy(g->ids + t * most, g->base_ids + t * k, sizeof *g->ids * (size_t)k);
        memcpy(g->weights + t * most, g->base_weights + t * k, sizeof *g->weights * (size_t)k);
        end_row(g, t, k);
    }
}

static void choose_flat(struct gating *g, const float *bias, int T) {
    const struct router_rule *r = &g->config->router;
    struct backend *b = g->backend;
    b->ops->gate_select(b, g->ids, g->weights, g->first, bias, &g->config->gate, T);
    b->ops->sync(b);
    if (g->base_ids) widen_flat(g, bias, T);
    for (int t = 0; t < T && r->top_p.p > 0; t++) end_row(g, t, context_top_p(g->weights + t * g->config->gate.k, &r->top_p));
}

static void choose_two_stage(struct gating *g, const struct layer_weights *w, const float *x, const struct gate_biases *biases,
                             int T) {
    const struct two_stage_rule *r = &g->config->router.two_stage;
    const struct confidence_rule *c = &g->config->router.confidence;
    struct backend *b = g->backend;
    const int pairs = g->config->gate.k;
    if (r->locals) b->ops->linear(b, g->inner[1], x, w->router_inner[1], biases->level[2], false, T);
    b->ops->sync(b);
    for (int t = 0; t < T; t++) {
        bool unsure = c->action != CONFIDENCE_REPORT && gating_unsure(g, t);
        int n = two_stage_pick(r, r->global_topk + (unsure && c->action == CONFIDENCE_ESCALATE),
                               unsure && c->action == CONFIDENCE_WIDEN ? c->k_max : r->k, g->first + t * r->globals,
                               biases->sel, g->inner[0] + t * r->domains, g->inner[1] + t * r->locals, g->ids + t * pairs,
                               g->weights + t * pairs);
        end_row(g, t, n);
    }
}

/* The selection bias in force: own, the checkpoint's with what is missing at -infinity, or the copy of it that follows the
 * traffic. Whatever is added to -infinity, the missing stay out. */
static const float *bias_of(struct gating *g, int moe_index, const float *own) {
    if (!g->bias) return own;
    const size_t W = (size_t)gating_width(g);
    float *bias = g->bias + (size_t)moe_index * W;
    if (!g->bias_begun[moe_index]) g->backend->ops->download(g->backend, bias, own, W * sizeof *bias);
    g->bias_begun[moe_index] = true;
    return bias;
}

/* Experts under one choice of the first level; locals and domains of a two-stage router count for nobody. */
static int first_of(const struct router_rule *r, int expert) {
    if (r->kind == ROUTER_TREE) return expert / (r->tree.branch[1] * r->tree.branch[2]);
    return r->kind == ROUTER_TWO_STAGE && expert >= r->two_stage.globals ? -1 : expert;
}

static void follow_traffic(struct gating *g, int moe_index, int T) {
    const int W = gating_width(g);
    if (!g->bias) return;
    memset(g->counts, 0, sizeof *g->counts * (size_t)W);
    for (int i = 0; i < T * g->config->gate.k; i++) {
        int first = g->ids[i] < 0 ? -1 : first_of(&g->config->router, g->ids[i]);
        if (first >= 0) g->counts[first]++;
    }
    context_bias(g->bias + (size_t)moe_index * (size_t)W, g->counts, W, &g->config->router.bias_update);
}

void gating_run(struct gating *g, int moe_index, const struct layer_weights *w, const float *x, const struct step_rows *rows) {
    struct backend *b = g->backend;
    const struct router_rule *r = &g->config->router;
    struct gate_biases biases = gate_mask_biases(&g->mask, moe_index, w);
    const int T = rows->T;
    biases.sel = bias_of(g, moe_index, biases.sel);
    if (r->segment.len) { /* logits are summed over segments first and masked then (gating_context) */
        biases.level[0] = w->router_bias;
        if (r->segment.domain) biases.level[1] = NULL;
    }
    b->ops->linear(b, g->first, x, w->router, biases.level[0], false, T);
    if (r->kind == ROUTER_TWO_STAGE) b->ops->linear(b, g->inner[0], x, w->router_inner[0], biases.level[1], false, T);
    gating_context(g, moe_index, w, x, rows);
    judge(g, T);
    if (r->kind == ROUTER_FLAT) choose_flat(g, biases.sel, T);
    else if (r->kind == ROUTER_TREE) gating_tree(g, moe_index, w, x, biases.sel, T);
    else choose_two_stage(g, w, x, &biases, T);
    if (r->kind == ROUTER_TREE)
        for (int t = 0; t < T && r->confidence.action == CONFIDENCE_WIDEN; t++)
            if (!gating_unsure(g, t)) end_row(g, t, r->tree.k);
    gate_mask_drop(&g->mask, moe_index, g->ids, g->weights, T * g->config->gate.k);
    follow_traffic(g, moe_index, T);
}
