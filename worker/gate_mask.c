/* gate_mask.c - the biases of a layer are made when it first runs: the memory is there, only then are the gate's own known. */
#include "worker/gate_mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void set_widths(struct gate_mask *m) {
    const struct router_rule *r = &m->config->router;
    m->width[0] = router_first(r, gate_width(&m->config->gate));
    if (r->kind != ROUTER_TWO_STAGE) return;
    m->width[1] = r->two_stage.domains;
    m->width[2] = r->two_stage.locals;
}

static size_t longest_row(const struct gate_mask *m) {
    int n = 1;
    for (int i = 0; i < GATE_MASK_LEVELS; i++)
        if (m->width[i] > n) n = m->width[i];
    for (int i = 0; i < TREE_LEVELS; i++)
        if (m->config->router.kind == ROUTER_TREE && m->config->router.tree.branch[i] > n) n = m->config->router.tree.branch[i];
    return (size_t)n;
}

int gate_mask_init(struct gate_mask *m, struct backend *b, const struct model_config *c, const struct placement *p,
                   struct why *why) {
    *m = (struct gate_mask){.backend = b, .config = c};
    if (!p->missing) return 0;
    const size_t layers = (size_t)p->layers;
    bool ok = true;
    m->placement = p;
    set_widths(m);
    for (int i = 0; i < GATE_MASK_LEVELS; i++)
        if (m->width[i]) ok = (m->bias[i] = b->ops->alloc(b, layers * (size_t)m->width[i] * sizeof(float), MEM_DEVICE)) && ok;
    m->sel_bias = b->ops->alloc(b, layers * (size_t)m->width[0] * sizeof(float), MEM_DEVICE);
    m->filled = calloc(layers, sizeof *m->filled);
    m->host = malloc(longest_row(m) * sizeof *m->host);
    if (ok && m->sel_bias && m->filled && m->host) return 0;
    gate_mask_clear(m);
    return fail(why, ERR_NOMEM, "out of memory for the mask of missing experts");
}

void gate_mask_clear(struct gate_mask *m) {
    if (!m->backend) return;
    for (int i = 0; i < GATE_MASK_LEVELS; i++) m->backend->ops->release(m->backend, m->bias[i]);
    m->backend->ops->release(m->backend, m->sel_bias);
    free(m->filled);
    free(m->host);
    *m = (struct gate_mask){0};
}

/* Whether every expert from `first` on is missing, `n` of them. */
static bool all_missing(const struct gate_mask *m, int layer, int first, int n) {
    for (int e = first; e < first + n; e++)
        if (!placement_misses(m->placement, layer, e)) return false;
    return true;
}

/* Choice i of a level: an expert, or a branch of a tree with all that is under it. Identity experts are never missing. */
static bool missing(const struct gate_mask *m, int layer, int level, int i) {
    const struct router_rule *r = &m->config->router;
    if (r->kind == ROUTER_TREE) {
        int under = r->tree.branch[1] * r->tree.branch[2];
        return all_missing(m, layer, i * under, under);
    }
    for (int l = 0; l < level; l++) i += m->width[l];
    return i < m->placement->experts && placement_misses(m->placement, layer, i);
}

static void fill(struct gate_mask *m, int layer, int level, float *to, const float *own) {
    const size_t n = (size_t)m->width[level];
    memset(m->host, 0, n * sizeof *m->host);
    if (own) m->backend->ops->download(m->backend, m->host, own, n * sizeof *m->host);
    for (int i = 0; i < m->width[level]; i++)
        if (missing(m, layer, level, i)) m->host[i] = -INFINITY;
    m->backend->ops->upload(m->backend, to + (size_t)layer * n, m->host, n * sizeof *m->host);
}

struct gate_biases gate_mask_biases(struct gate_mask *m, int moe_layer, const struct layer_weights *w) {
    struct gate_biases b = {.level = {w->router_bias}, .sel = w->router_sel_bias};
    if (!m->placement) return b;
    for (int i = 0; i < GATE_MASK_LEVELS && !m->filled[moe_layer]; i++)
        if (m->width[i]) fill(m, moe_layer, i, m->bias[i], i ? NULL : w->router_bias);
    if (!m->filled[moe_layer] && w->router_sel_bias) fill(m, moe_layer, 0, m->sel_bias, w->router_sel_bias);
    m->filled[moe_layer] = true;
    for (int i = 0; i < GATE_MASK_LEVELS; i++)
        if (m->width[i]) b.level[i] = m->bias[i] + (size_t)moe_layer * (size_t)m->width[i];
    if (w->router_sel_bias) b.sel = m->sel_bias + (size_t)moe_layer * (size_t)m->width[0];
    return b;
}

const float *gate_mask_children(struct gate_mask *m, int moe_layer, int level, int parent, const float *logits) {
    if (!m->placement) return logits;
    const int *branch = m->config->router.tree.branch;
    const int n = branch[level], under = level == 1 ? branch[2] : 1;
    for (int i = 0; i < n; i++) m->host[i] = all_missing(m, moe_layer, (parent * n + i) * under, under) ? -INFINITY : logits[i];
    return m->host;
}

void gate_mask_row(const struct gate_mask *m, int moe_layer, int level, float *logits) {
    for (int i = 0; m->placement && i < m->width[level]; i++)
        if (missing(m, moe_layer, level, i)) logits[i] = -INFINITY;
}

const float *gate_mask_copy(struct gate_mask *m, int moe_layer, int level, const float *logits) {
    if (!m->placement) return logits;
    memcpy(m->host, logits, sizeof *logits * (size_t)m->width[level]);
    gate_mask_row(m, moe_layer, level, m->host);
    return m->host;
}

void gate_mask_drop(const struct gate_mask *m, int moe_layer, int32_t *ids, float *weights, int n) {
    for (int i = 0; m->placement && i < n; i++) {
        bool here = ids[i] >= 0 && (ids[i] >= m->placement->experts || !placement_misses(m->placement, moe_layer, ids[i]));
        if (here && isfinite(weights[i])) continue;
        ids[i] = -1;
        weights[i] = 0;
    }
}
