/* gating_context.c - what a router's decision takes from elsewhere than the token: its sequence's earlier tokens, or its own
 * earlier layers. */
#include <string.h>

#include "router/context.h"
#include "worker/route_state.h"
#include "worker/gating_parts.h"

int gating_context_init(struct gating *g, size_t T) {
    const struct router_rule *r = &g->config->router;
    const struct ops *ops = g->backend->ops;
    size_t d = (size_t)r->history.dim * sizeof(float);
    if (r->history.mode == HISTORY_NONE) return 0;
    g->context = ops->alloc(g->backend, T * d, MEM_HOST_VISIBLE);
    if (r->history.mode == HISTORY_EMA) return g->context ? 0 : ERR_NOMEM;
    g->gru_u = ops->alloc(g->backend, T * d, MEM_DEVICE);
    g->gru_in = ops->alloc(g->backend, T * 3 * d, MEM_HOST_VISIBLE);
    g->gru_hidden = ops->alloc(g->backend, T * 3 * d, MEM_HOST_VISIBLE);
    return g->context && g->gru_u && g->gru_in && g->gru_hidden ? 0 : ERR_NOMEM;
}

/* Where position pos of row t's sequence is in the pages. */
static int32_t place(const struct step_rows *rows, int t, int32_t pos) {
    const int per = rows->state->page_tokens;
    return rows->pages[rows->seq[t] * rows->max_pages + pos / per] * per + pos % per;
}

struct walk { /* over the rows of a step, in one MoE layer */
    struct gate_mask *mask;
    const struct router_rule *rule;
    const struct step_rows *rows;
    int layer, width, domains; /* domains: of the segment's sums; 0: none */
};

static const float *state_before(const struct walk *w, int t) {
    int32_t pos = w->rows->pos[t];
    return pos ? route_state_at(w->rows->state, w->layer, place(w->rows, t, pos - 1)) : NULL;
}

/* The average of what came before row t goes to context; with row t's own probabilities, those of the experts that are there,
 * it becomes the state behind t. */
static void average(const struct walk *w, int t, float *context, const float *logits) {
    const float *before = state_before(w, t);
    if (before) memcpy(context, before, sizeof *context * (size_t)w->width);
    else memset(context, 0, sizeof *context * (size_t)w->width);
    float *state = route_state_at(w->rows->state, w->layer, w->rows->kv_at[t]);
    context_ema(state, before, gate_mask_copy(w->mask, w->layer, 0, logits), w->rule->history.rho, w->width);
}

/* Adds row t's logits to its segment's sum, then replaces them by the mean over the segment before, if there is one. The gate
 * is linear: the mean of logits is the logit of the mean hidden state. Sums are of all experts,
 * the missing ones too; the choice is not. */
static void segment(const struct walk *w, int t, int level, float *logits, int at, int n) {
    const int len = w->rule->segment.len, pos = w->rows->pos[t];
    const float *before = pos % len ? state_before(w, t) : NULL;
    context_sum(route_state_at(w->rows->state, w->layer, w->rows->kv_at[t]) + at, before ? before + at : NULL, logits, n);
    if (pos >= len) {
        const float *sum = route_state_at(w->rows->state, w->layer, place(w->rows, t, pos / len * len - 1)) + at;
        for (int i = 0; i < n; i++) logits[i] = sum[i] / (float)len;
    }
    gate_mask_row(w->mask, w->layer, level, logits);
}

static void walk_rows(struct gating *g, const struct walk *w) {
    const int average_floats = w->rule->history.mode == HISTORY_EMA ? w->width : 0;
    for (int t = 0; t < w->rows->T; t++) {
        float *first = g->first + (size_t)t * (size_t)w->width;
        if (average_floats) average(w, t, g->context + (size_t)t * (size_t)w->width, first);
        if (!w->rule->segment.len) continue;
        segment(w, t, 0, first, average_floats, w->width);
        if (w->domains) segment(w, t, 1, g->inner[0] + (size_t)t * (size_t)w->domains, average_floats + w->width, w->domains);
    }
}

static void recur(struct gating *g, int moe_index, const struct layer_weights *w, const float *x, int T) {
    struct backend *b = g->backend;
    const int d = g->config->router.history.dim;
    if (!moe_index) memset(g->context, 0, sizeof *g->context * (size_t)T * (size_t)d);
    b->ops->linear(b, g->gru_u, x, w->gru->in, NULL, false, T);
    b->ops->linear(b, g->gru_in, g->gru_u, w->gru->ih, w->gru->ih_bias, false, T);
    b->ops->linear(b, g->gru_hidden, g->context, w->gru->hh, w->gru->hh_bias, false, T);
    b->ops->sync(b);
    for (int t = 0; t < T; t++)
        context_gru(g->context + (size_t)t * (size_t)d, g->gru_in + (size_t)t * 3 * (size_t)d,
                    g->gru_hidden + (size_t)t * 3 * (size_t)d, d);
}

void gating_context(struct gating *g, int moe_index, const struct layer_weights *w, const float *x,
                    const struct step_rows *rows) {
    const struct router_rule *r = &g->config->router;
    struct backend *b = g->backend;
    struct walk walk = {&g->mask, r, rows, moe_index, gating_width(g), r->segment.domain ? r->two_stage.domains : 0};
    if (r->history.mode == HISTORY_NONE && !r->segment.len) return;
    b->ops->sync(b);
    if (rows->state->floats) walk_rows(g, &walk);
    if (r->history.mode == HISTORY_LAYER) recur(g, moe_index, w, x, rows->T);
    if (r->history.mode != HISTORY_NONE) b->ops->linear(b, g->first, g->context, w->router_history, NULL, true, rows->T);
}
