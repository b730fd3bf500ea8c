/* router_mutations.c - mistakes in two-stage and tree routers, history, segments, confidence and top-p. */
#include "tests/golden/mutation.h"

static bool two_stage(const struct model_config *c) { return c->moe_layers && c->router.kind == ROUTER_TWO_STAGE; }
static bool with_locals(const struct model_config *c) { return two_stage(c) && c->router.two_stage.locals; }
static bool tree(const struct model_config *c) { return c->moe_layers && c->router.kind == ROUTER_TREE; }
static bool some_leaves(const struct model_config *c) { return tree(c) && c->router.tree.k > 1; }
static bool own_gates(const struct model_config *c) { return tree(c) && !c->router.tree.shared; }
static bool narrow(const struct model_config *c) { return tree(c) && c->router.tree.search == TREE_BEAM; }
static bool wide(const struct model_config *c) { return tree(c) && c->router.tree.search == TREE_EXACT; }
static bool greedy(const struct model_config *c) { return tree(c) && c->router.tree.search == TREE_GREEDY; }
static bool ema(const struct model_config *c) { return c->moe_layers && c->router.history.mode == HISTORY_EMA; }
static bool gru(const struct model_config *c) { return c->moe_layers && c->router.history.mode == HISTORY_LAYER; }
static bool segment(const struct model_config *c) { return c->router.segment.len > 0; }
static bool segment_domain(const struct model_config *c) { return c->router.segment.domain; }
static bool acts(const struct model_config *c) { return c->router.confidence.action != CONFIDENCE_REPORT; }
static bool top_p(const struct model_config *c) { return c->router.top_p.p > 0; }

static void m_mass(struct model_config *c) { c->router.two_stage.product = !c->router.two_stage.product; }
static void m_fewer_domains(struct model_config *c) { c->router.two_stage.k--; }
static void m_fewer_leaves(struct model_config *c) { c->router.tree.k--; }
static void m_exact(struct model_config *c) { c->router.tree.search = TREE_EXACT; }
static void m_beam(struct model_config *c) { c->router.tree.search = TREE_BEAM, c->router.tree.beam = 1; }
static void m_narrower(struct model_config *c) { c->router.tree.beam--; }
static void m_rho(struct model_config *c) { c->router.history.rho *= 0.8f; }
static void m_segment(struct model_config *c) { c->router.segment.len++; }
static void m_segment_domain(struct model_config *c) { c->router.segment.domain = false; }
static void m_sure(struct model_config *c) { c->router.confidence.tau = 0; }
static void m_unsure(struct model_config *c) { c->router.confidence.tau = 2; }
static void m_kind(struct model_config *c) {
    c->router.confidence.kind = c->router.confidence.kind == CONFIDENCE_MARGIN ? CONFIDENCE_ENTROPY : CONFIDENCE_MARGIN;
}
static void m_report(struct model_config *c) { c->router.confidence.action = CONFIDENCE_REPORT; }
static void m_p_all(struct model_config *c) { c->router.top_p.p = 1; }
static void m_p_least(struct model_config *c) { c->router.top_p.k_min = c->router.top_p.k_max; }

static void m_history(struct weights *w, struct expert_store *s) {
    (void)s;
    w->layer[0].router_history = w->layer[1].router_history;
}
static void m_gru(struct weights *w, struct expert_store *s) {
    (void)s;
    struct mat ih = w->gru.ih; /* input and hidden weights need not be alike in shape: only their order is spoilt */
    const float *bias = w->gru.ih_bias;
    w->gru.ih_bias = w->gru.hh_bias;
    w->gru.hh_bias = bias;
    if (w->gru.hh.cols == ih.cols) w->gru.ih = w->gru.hh, w->gru.hh = ih;
}
static void m_gates_swapped(struct weights *w, struct expert_store *s) {
    (void)s;
    struct mat first = w->layer[0].router_inner[0];
    w->layer[0].router_inner[0] = w->layer[1].router_inner[0];
    w->layer[1].router_inner[0] = first;
}
static void m_last_level(struct weights *w, struct expert_store *s) {
    (void)s;
    struct mat first = w->layer[0].router_inner[1];
    w->layer[0].router_inner[1] = w->layer[1].router_inner[1];
    w->layer[1].router_inner[1] = first;
}
static void m_ids_apart(struct weights *w, struct expert_store *s) { /* levels numbered from the other end */
    (void)w;
    int n = s->first[1];
    for (int i = 0; i < n / 2; i++) {
        struct ffn one = s->slots[i].ffn;
        s->slots[i].ffn = s->slots[n - 1 - i].ffn;
        s->slots[n - 1 - i].ffn = one;
    }
}

static void first_node(struct backend *b, float *y, const float *x, struct mat w, int n, const int32_t *row,
                       const int32_t *block, int P) {
    (void)block; /* every node's gate is the first one's */
    for (int p = 0; p < P; p++) {
        struct mat one = {w.data, w.fmt, n, w.cols};
        b->ops->linear(b, y + (size_t)p * (size_t)n, x + (size_t)row[p] * (size_t)w.cols, one, NULL, false, 1);
    }
}
static void o_node_gates(struct ops *o) { o->linear_blocks = first_node; }

const struct mutation router_mutations[] = {
    {"mass_other", "domains weighed by norm instead of product or the other way round", two_stage, {.mutate_config = m_mass}},
    {"fewer_domains", "one domain less", two_stage, {.mutate_config = m_fewer_domains}},
    {"domain_gates", "domain gates of another layer", two_stage, {.mutate_weights = m_gates_swapped}},
    {"local_gates", "local gates of another layer", with_locals, {.mutate_weights = m_last_level}},
    {"ids_reversed", "experts numbered from the other end", two_stage, {.mutate_weights = m_ids_apart}},
    {"fewer_leaves", "one leaf less", some_leaves, {.mutate_config = m_fewer_leaves}},
    {"leaves_reversed", "leaves numbered from the other end", tree, {.mutate_weights = m_ids_apart}},
    {"search_exact", "exact instead of beam search", narrow, {.mutate_config = m_exact}},
    {"search_narrow", "a beam of one less", narrow, {.mutate_config = m_narrower}},
    {"search_greedy", "greedy instead of exact search", wide, {.mutate_config = m_beam}},
    {"search_wide", "exact instead of greedy search", greedy, {.mutate_config = m_exact}},
    {"node_gates", "every node's gate from the first node of its level", own_gates, {.mutate_ops = o_node_gates}},
    {"level_gates", "level 1 gates of another layer", tree, {.mutate_weights = m_gates_swapped}},
    {"leaf_gates", "level 2 gates of another layer", tree, {.mutate_weights = m_last_level}},
    {"rho", "rho a fifth smaller", ema, {.mutate_config = m_rho}},
    {"history_weight", "what history adds taken from another layer", ema, {.mutate_weights = m_history}},
    {"gru_swapped", "weights of the recurrence's input and state exchanged", gru, {.mutate_weights = m_gru}},
    {"segment", "segments of one token more", segment, {.mutate_config = m_segment}},
    {"segment_domain", "domains decided per token although the segment decides", segment_domain,
     {.mutate_config = m_segment_domain}},
    {"confidence_sure", "no token is unsure", acts, {.mutate_config = m_sure}},
    {"confidence_unsure", "every token is unsure", acts, {.mutate_config = m_unsure}},
    {"confidence_kind", "margin instead of entropy or the other way round", acts, {.mutate_config = m_kind}},
    {"confidence_report", "low confidence without consequence", acts, {.mutate_config = m_report}},
    {"top_p_all", "all k_max experts", top_p, {.mutate_config = m_p_all}},
    {"top_p_least", "never fewer than k_max experts", top_p, {.mutate_config = m_p_least}},
    {NULL, NULL, NULL, {0}},
};
