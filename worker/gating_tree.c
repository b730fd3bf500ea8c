/* gating_tree.c - tree searches of many rows side by side: each round computes what all of them want next in one product. */
#include <stdlib.h>

#include "router/tree.h"
#include "worker/gating_parts.h"

enum { PAIRS = 256 }; /* nodes expanded in one product, about; more gain nothing */

static int most_leaves(const struct model_config *c) { return c->gate.k; }

int gating_tree_init(struct gating *g, size_t T) {
    const struct tree_rule *r = &g->config->router.tree;
    const struct ops *ops = g->backend->ops;
    int chunk = PAIRS / (r->search == TREE_EXACT ? 1 : r->beam);
    g->chunk = (size_t)chunk < T ? chunk : (int)T;
    size_t pairs = (size_t)g->chunk * (size_t)(r->search == TREE_EXACT ? 1 : r->beam),
           room = (size_t)tree_room(r, most_leaves(g->config));
    size_t rows = r->shared ? T : pairs;
    int most = r->branch[1] > r->branch[2] ? r->branch[1] : r->branch[2];
    g->inner[0] = ops->alloc(g->backend, rows * (size_t)(r->shared ? r->branch[1] : most) * sizeof(float), MEM_HOST_VISIBLE);
    if (r->shared) g->inner[1] = ops->alloc(g->backend, rows * (size_t)r->branch[2] * sizeof(float), MEM_HOST_VISIBLE);
    g->search = calloc((size_t)g->chunk, sizeof *g->search);
    g->room = calloc((size_t)g->chunk * room, sizeof *g->room);
    g->pair_row = ops->alloc(g->backend, pairs * sizeof(int32_t), MEM_HOST_VISIBLE);
    g->pair_block = ops->alloc(g->backend, pairs * sizeof(int32_t), MEM_HOST_VISIBLE);
    return g->inner[0] && (!r->shared || g->inner[1]) && g->search && g->room && g->pair_row && g->pair_block ? 0 : ERR_NOMEM;
}

void gating_tree_clear(struct gating *g) {
    g->backend->ops->release(g->backend, g->pair_row);
    g->backend->ops->release(g->backend, g->pair_block);
    free(g->search);
    free(g->room);
}

/* Every node of a level has the same gate, so a token's logits are there before the search begins. */
static void search_shared(struct gating *g, int moe_index, struct tree_search *s, int t) {
    const int *branch = s->rule->branch;
    const struct tree_node *nodes;
    for (int n, level; (n = tree_wants(s, &level, &nodes));)
        for (int i = 0; i < n; i++) {
            const float *logits = g->inner[level - 1] + (size_t)t * (size_t)branch[level];
            tree_give(s, i, gate_mask_children(&g->mask, moe_index, level, nodes[i].id, logits));
        }
}

/* One product for all that want nodes of this level. Returns how many nodes that were. x: of the chunk. */
static int expand(struct gating *g, int moe_index, const struct mat *gate, const float *x, int level, int count) {
    struct backend *b = g->backend;
    const int width = g->config->router.tree.branch[level];
    const struct tree_node *nodes;
    int pairs = 0, wanted;
    for (int t = 0; t < count; t++) {
        int n = tree_wants(&g->search[t], &wanted, &nodes);
        for (int i = 0; i < n && wanted == level; i++) {
            g->pair_row[pairs] = t;
            g->pair_block[pairs++] = nodes[i].id;
        }
    }
    if (!pairs) return 0;
    b->ops->linear_blocks(b, g->inner[0], x, *gate, width, g->pair_row, g->pair_block, pairs);
    b->ops->sync(b);
    for (int p = 0, i = 0; p < pairs; p++) { /* giving moves a search on, so who wanted what is read from the pairs */
        i = p && g->pair_row[p] == g->pair_row[p - 1] ? i + 1 : 0;
        const float *logits = g->inner[0] + (size_t)p * (size_t)width;
        tree_give(&g->search[g->pair_row[p]], i, gate_mask_children(&g->mask, moe_index, level, g->pair_block[p], logits));
    }
    return pairs;
}

static int leaves_of(const struct gating *g, int t) {
    const struct router_rule *r = &g->config->router;
    return r->confidence.action == CONFIDENCE_WIDEN && gating_unsure(g, t) ? r->confidence.k_max : r->tree.k;
}

void gating_tree(struct gating *g, int moe_index, const struct layer_weights *w, const float *x, const float *bias, int T) {
    const struct tree_rule *r = &g->config->router.tree;
    struct backend *b = g->backend;
    const size_t room = (size_t)tree_room(r, most_leaves(g->config)), H = (size_t)g->config->hidden,
                 k = (size_t)g->config->gate.k;
    if (r->shared) {
        b->ops->linear(b, g->inner[0], x, w->router_inner[0], NULL, false, T);
        b->ops->linear(b, g->inner[1], x, w->router_inner[1], NULL, false, T);
    }
    b->ops->sync(b);
    for (int first = 0; first < T; first += g->chunk) {
        int count = T - first < g->chunk ? T - first : g->chunk;
        for (int i = 0; i < count; i++)
            tree_begin(&g->search[i], r, leaves_of(g, first + i), g->room + (size_t)i * room,
                       g->first + (size_t)(first + i) * (size_t)r->branch[0], bias);
        if (r->shared)
            for (int i = 0; i < count; i++) search_shared(g, moe_index, &g->search[i], first + i);
        else
            for (int expanded = 1; expanded;) {
                expanded = expand(g, moe_index, &w->router_inner[0], x + (size_t)first * H, 1, count);
                expanded += expand(g, moe_index, &w->router_inner[1], x + (size_t)first * H, 2, count);
            }
        for (int i = 0; i < count; i++)
            tree_pick(&g->search[i], g->ids + (size_t)(first + i) * k, g->weights + (size_t)(first + i) * k);
    }
}
