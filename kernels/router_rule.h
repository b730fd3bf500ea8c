/* router_rule.h - what a model says about routing beyond a flat gate. Plain data: model/ fills it from config.json, router/
 * holds the arithmetic, worker/ runs it over the rows of a step. docs/ROUTERS.md has every formula, config key and tensor.
 *
 * Every kind ends in at most gate_rule.k pairs (expert, weight) per token; unused ones are (-1, 0) and stand at the end.
 * "First level" is what a token meets first: all experts of a flat gate, the globals of a two-stage one, the branches of level
 * 0 of a tree. History, segments, confidence and selection bias act there. */
#pragma once
#include <stdbool.h>

enum router_kind { ROUTER_FLAT, ROUTER_TWO_STAGE, ROUTER_TREE };

/* Global experts, the domain experts of each global, the local experts attached to each domain: in equal shares of neighbours.
 * Flat expert ids: globals 0 .. G-1, domains G .. G+D-1, locals G+D .. G+D+L-1. */
struct two_stage_rule {
    int globals, domains, locals;     /* G, D, L; G divides D, D divides L; L may be 0 */
    int global_topk, k, k_local;      /* chosen globals; domains, among those of the chosen globals; locals per chosen domain */
    bool product;                     /* a domain counts p_global * q_domain; else that, divided by its sum over the chosen */
    int rank;                         /* of the local experts; 0: FFNs like the others */
};

/* branch[0] * branch[1] * branch[2] leaves, which are the experts: id = (i * branch[1] + j) * branch[2] + l. */
enum { TREE_LEVELS = 3, TREE_MAX_BEAM = 64 };
enum tree_search_kind { TREE_GREEDY, TREE_BEAM, TREE_EXACT };
struct tree_rule {
    int branch[TREE_LEVELS];
    bool shared;                      /* the gates of levels 1 and 2 are the same under every parent */
    enum tree_search_kind search;
    int beam;                         /* partial paths kept per level; 1 when greedy, unused when exact */
    int k;                            /* leaves */
};

enum history_mode { HISTORY_NONE, HISTORY_EMA, HISTORY_LAYER };
struct history_rule {
    enum history_mode mode;
    int dim;                          /* of the context; EMA: the width of the first level */
    float rho;                        /* EMA */
};

struct segment_rule {
    int len;                          /* tokens; 0: none */
    bool domain;                      /* domains too are decided per segment (two_stage) */
};

enum confidence_kind { CONFIDENCE_NONE, CONFIDENCE_ENTROPY, CONFIDENCE_MARGIN };
enum confidence_action { CONFIDENCE_REPORT, CONFIDENCE_WIDEN, CONFIDENCE_ESCALATE };
struct confidence_rule { /* judged from the first level's probabilities */
    enum confidence_kind kind;
    enum confidence_action action;    /* below tau: nothing, k_max instead of k, one global more */
    float tau;
    int k_max;
};

struct top_p_rule { /* flat */
    float p;                          /* 0: none */
    int k_min, k_max;
};

struct bias_update_rule {
    bool serve;                       /* while serving, which gives up the same bits for every history of traffic */
    float decay, speed, max;
};

struct router_rule {
    enum router_kind kind;
    struct two_stage_rule two_stage;
    struct tree_rule tree;
    struct history_rule history;
    struct segment_rule segment;
    struct confidence_rule confidence;
    struct top_p_rule top_p;
    struct bias_update_rule bias_update;
    int k; /* flat: experts chosen where nothing widens the choice; gate_rule.k is the most */
};

/* Width of the first level; flat_width: of a flat gate. */
static inline int router_first(const struct router_rule *r, int flat_width) {
    return r->kind == ROUTER_TREE ? r->tree.branch[0] : r->kind == ROUTER_TWO_STAGE ? r->two_stage.globals : flat_width;
}
/* Floats of router state per token and MoE layer, which live with the KV pages: the moving average, then the segment's sums of
 * first-level logits, then those of the domains. */
static inline int router_state_floats(const struct router_rule *r, int flat_width) {
    int n = router_first(r, flat_width);
    return (r->history.mode == HISTORY_EMA ? n : 0) +
           (r->segment.len ? n + (r->segment.domain ? r->two_stage.domains : 0) : 0);
}
