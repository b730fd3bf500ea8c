/* config_router.c - the members of moe_router beyond a flat gate's: the hierarchical kinds, and what may be added to any kind.
 *
 * All objects are closed: an unknown member is refused, for it would change the choice of experts. Members that only training
 * reads (dropout, freeze_experts, adaptive_routing) are known and change nothing. docs/ROUTERS.md describes every member. */
#include "model/config_parts.h"

#include <string.h>

enum { MAX_SEGMENT = 1 << 20, MAX_CONTEXT_DIM = 1024, MAX_PAIRS = 64, MAX_RANK = 4096 };

int config_closed(const json_t *obj, const char *const *known, struct why *why) {
    const char *key;
    const json_t *v;
    json_object_foreach((json_t *)obj, key, v) {
        struct json_shown shown, shown_key;
        bool found = json_is_null(v);
        for (int i = 0; !found && known[i]; i++) found = !strcmp(key, known[i]);
        if (!found)
            return fail(why, ERR_UNSUPPORTED, "%s is %s, which Cadre does not implement; accepted: null",
                        json_show_text(key, &shown_key), json_show(v, &shown));
    }
    return 0;
}

static int optional_int(const json_t *obj, const char *key, int64_t min, int64_t max, int *out, struct why *why) {
    int64_t n = *out;
    int rc = json_get_int(obj, key, min, max, &n, why);
    *out = (int)n;
    return rc;
}

static int need_real(const json_t *obj, const char *key, double min, double max, float *out, struct why *why) {
    double d = 0;
    int rc = json_get_real(obj, key, min, max, &d, why);
    if (rc == 0) return fail(why, ERR_INVALID, "%s is missing; wanted a number from %g to %g", key, min, max);
    *out = (float)d;
    return rc;
}

/* --- the kinds --- */

static int read_two_stage(const json_t *obj, struct two_stage_rule *r, struct why *why) {
    static const char *const masses[] = {"norm", "product", NULL};
    int mass = 0;
    int rc = config_need_int(obj, "n_global", MAX_EXPERTS, &r->globals, why);
    if (rc >= 0) rc = config_need_int(obj, "n_domain", MAX_EXPERTS, &r->domains, why);
    if (rc >= 0) rc = optional_int(obj, "n_local", 0, MAX_EXPERTS, &r->locals, why);
    r->global_topk = 1;
    if (rc >= 0) rc = optional_int(obj, "global_topk", 1, MAX_PAIRS, &r->global_topk, why);
    if (rc >= 0) rc = config_need_int(obj, "k", MAX_PAIRS, &r->k, why);
    r->k_local = r->locals > 0;
    if (rc >= 0) rc = optional_int(obj, "k_local", 0, MAX_PAIRS, &r->k_local, why);
    if (rc >= 0) rc = optional_int(obj, "rank", 1, MAX_RANK, &r->rank, why);
    if (rc >= 0) rc = config_read_word(obj, "mass", masses, &mass, why);
    if (rc < 0) return rc;
    r->product = mass == 1;
    if (r->domains % r->globals)
        return fail(why, ERR_INVALID, "n_domain is %d and n_global is %d; wanted the same number of domains for each global",
                    r->domains, r->globals);
    if (r->locals % r->domains)
        return fail(why, ERR_INVALID, "n_local is %d and n_domain is %d; wanted the same number of locals for each domain",
                    r->locals, r->domains);
    if (r->global_topk > r->globals)
        return fail(why, ERR_INVALID, "global_topk is %d; wanted at most n_global, %d", r->global_topk, r->globals);
    int candidates = r->domains / r->globals * r->global_topk, attached = r->locals / r->domains;
    if (r->k > candidates)
        return fail(why, ERR_INVALID, "k is %d; wanted at most the %d domains of %d global(s)", r->k, candidates,
                    r->global_topk);
    if (r->k_local > attached || (attached && !r->k_local))
        return fail(why, ERR_INVALID, "k_local is %d; wanted %d to %d, the locals of a domain", r->k_local, attached > 0,
                    attached);
    return 0;
}

static int read_branches(const json_t *obj, int *branch, struct why *why) {
    const json_t *list = NULL;
    int64_t leaves = 1;
    int rc = json_get_array(obj, "branch", &list, why);
    if (rc < 0) return rc;
    struct json_shown shown;
    if (!list || json_array_size(list) != TREE_LEVELS)
        return fail(why, ERR_INVALID, "branch is %s; wanted three whole numbers such as [16, 8, 8]",
                    list ? json_show(list, &shown) : "missing");
    for (int i = 0; i < TREE_LEVELS; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        int64_t n = json_integer_value(v);
        if (!json_is_integer(v) || n < 1 || n > MAX_EXPERTS)
            return fail(why, ERR_INVALID, "branch[%d] is %s; wanted a whole number from 1 to %d", i, json_show(v, &shown),
                        MAX_EXPERTS);
        branch[i] = (int)n;
        leaves *= n;
    }
    if (leaves > MAX_EXPERTS)
        return fail(why, ERR_INVALID, "branch makes %lld leaves; wanted at most %d", (long long)leaves, MAX_EXPERTS);
    return 0;
}

static int read_tree(const json_t *obj, struct tree_rule *r, struct why *why) {
    static const char *const searches[] = {"greedy", "beam", "exact", NULL};
    int search = 0;
    r->beam = r->k = 1;
    int rc = read_branches(obj, r->branch, why);
    if (rc >= 0) rc = json_get_bool(obj, "shared_level_gates", &r->shared, why);
    if (rc >= 0) rc = config_read_word(obj, "search", searches, &search, why);
    if (rc >= 0 && search == 1) rc = config_need_int(obj, "beam", TREE_MAX_BEAM, &r->beam, why);
    if (rc >= 0 && search != 1 && !json_is_null(json_object_get(obj, "beam")) && json_object_get(obj, "beam")) {
        rc = optional_int(obj, "beam", 1, TREE_MAX_BEAM, &r->beam, why);
        if (rc >= 0 && r->beam != 1)
            rc = fail(why, ERR_INVALID, "beam is %d, which search \"%s\" does not have; wanted null, 1", r->beam,
                      searches[search]);
    }
    if (rc >= 0) rc = optional_int(obj, "leaf_k", 1, MAX_PAIRS, &r->k, why);
    r->search = (enum tree_search_kind)search;
    return rc < 0 ? rc : 0;
}

/* Leaves that a search can come to see at the last level. */
static int tree_reach(const struct tree_rule *r) {
    int paths = r->branch[0] * r->branch[1];
    if (r->search == TREE_EXACT) return paths * r->branch[2];
    int first = r->beam < r->branch[0] ? r->beam : r->branch[0], second = first * r->branch[1];
    return (r->beam < second ? r->beam : second) * r->branch[2];
}

/* --- what may be added --- */

static int read_history(const json_t *router, int first, struct history_rule *h, struct why *why) {
    static const char *const known[] = {"mode", "dim", "rho", NULL}, *const modes[] = {"ema", "layer", NULL};
    const json_t *obj = NULL;
    int mode = 0;
    int rc = json_get_object(router, "history", &obj, why);
    if (rc <= 0) return rc;
    rc = config_closed(obj, known, why);
    if (rc >= 0) rc = config_read_word(obj, "mode", modes, &mode, why);
    h->dim = first;
    if (rc >= 0 && mode == 1) rc = config_need_int(obj, "dim", MAX_CONTEXT_DIM, &h->dim, why);
    if (rc >= 0 && mode == 0) rc = optional_int(obj, "dim", 1, MAX_CONTEXT_DIM, &h->dim, why);
    if (rc >= 0 && mode == 0) rc = need_real(obj, "rho", 0, 1, &h->rho, why);
    if (rc >= 0 && mode == 1 && json_object_get(obj, "rho") && !json_is_null(json_object_get(obj, "rho")))
        rc = fail(why, ERR_INVALID, "rho is set, which mode \"layer\" does not have; wanted null");
    if (rc >= 0 && mode == 0 && (h->dim != first || first > MAX_CONTEXT_DIM))
        rc = fail(why, ERR_INVALID, "dim is %d; a moving average has the width of the gate's first level, %d (at most %d)",
                  h->dim, first, MAX_CONTEXT_DIM);
    if (rc < 0) return fail_in(why, rc, "history");
    h->mode = mode ? HISTORY_LAYER : HISTORY_EMA;
    return 0;
}

static int read_segment(const json_t *router, struct router_rule *r, struct why *why) {
    static const char *const known[] = {"len", "stage", "causal", NULL}, *const stages[] = {"global", "domain", NULL};
    const json_t *obj = NULL;
    int stage = 0;
    bool causal = true;
    int rc = json_get_object(router, "segment", &obj, why);
    if (rc <= 0) return rc;
    if (r->kind == ROUTER_FLAT)
        return fail(why, ERR_UNSUPPORTED,
                    "segment is set, but a flat gate has no stage that a segment could share; accepted: null");
    rc = config_closed(obj, known, why);
    if (rc >= 0) rc = config_need_int(obj, "len", MAX_SEGMENT, &r->segment.len, why);
    if (rc >= 0) rc = config_read_word(obj, "stage", stages, &stage, why);
    if (rc >= 0) rc = json_get_bool(obj, "causal", &causal, why);
    if (rc >= 0 && !causal)
        rc = fail(why, ERR_UNSUPPORTED, "causal is false, but a token must not depend on later ones; accepted: true");
    if (rc >= 0 && stage == 1 && r->kind != ROUTER_TWO_STAGE)
        rc = fail(why, ERR_UNSUPPORTED, "stage is \"domain\", which only kind \"two_stage\" has; accepted: \"global\"");
    r->segment.domain = stage == 1;
    return rc < 0 ? fail_in(why, rc, "segment") : 0;
}

static int read_confidence(const json_t *router, struct router_rule *r, struct why *why) {
    static const char *const known[] = {"type", "tau", "action", "k_max", NULL},
                             *const types[] = {"entropy", "margin", "head", NULL},
                             *const actions[] = {"report", "widen", "escalate", NULL};
    const json_t *obj = NULL;
    int type = 0, action = 0;
    int rc = json_get_object(router, "confidence", &obj, why);
    if (rc <= 0) return rc;
    rc = config_closed(obj, known, why);
    if (rc >= 0) rc = config_read_word(obj, "type", types, &type, why);
    const json_t *given = json_object_get(obj, "action"); /* none: report */
    if (rc >= 0 && given && !json_is_null(given)) rc = config_read_word(obj, "action", actions, &action, why);
    if (rc >= 0 && type == 2) return 0; /* the experts' own (config_experts.c) */
    if (rc >= 0 && action != 0) rc = need_real(obj, "tau", 0, 1, &r->confidence.tau, why);
    if (rc >= 0 && action == 1) rc = config_need_int(obj, "k_max", MAX_PAIRS, &r->confidence.k_max, why);
    if (rc >= 0 && action == 2 && r->kind != ROUTER_TWO_STAGE)
        rc = fail(why, ERR_UNSUPPORTED,
                  "action is \"escalate\", which only kind \"two_stage\" has; accepted: \"report\", \"widen\"");
    if (rc < 0) return fail_in(why, rc, "confidence");
    r->confidence.kind = type ? CONFIDENCE_MARGIN : CONFIDENCE_ENTROPY;
    r->confidence.action = (enum confidence_action)action;
    return 0;
}

static int read_top_p(const json_t *router, const struct model_config *c, struct router_rule *r, struct why *why) {
    static const char *const known[] = {"P", "k_min", "k_max", NULL};
    const json_t *obj = NULL;
    int rc = json_get_object(router, "top_p", &obj, why);
    if (rc <= 0) return rc;
    const struct gate_rule *g = &c->gate;
    if (r->kind != ROUTER_FLAT || g->score != GATE_SOFTMAX || g->norm != GATE_NORM_NONE || g->weight != GATE_WEIGHT_SCORE ||
        g->scale != 1 || c->gate_sel_bias || r->confidence.action == CONFIDENCE_WIDEN)
        return fail(why, ERR_UNSUPPORTED,
                    "top_p is set; accepted: null, or kind \"flat\" with score \"softmax\", norm \"none\", weight \"score\", "
                    "scale 1, no sel_bias and no widening");
    rc = config_closed(obj, known, why);
    if (rc >= 0) rc = need_real(obj, "P", 1e-6, 1, &r->top_p.p, why);
    r->top_p.k_min = 1;
    r->top_p.k_max = g->k;
    if (rc >= 0) rc = optional_int(obj, "k_min", 1, g->k, &r->top_p.k_min, why);
    if (rc >= 0) rc = optional_int(obj, "k_max", g->k, g->k, &r->top_p.k_max, why);
    return rc < 0 ? fail_in(why, rc, "top_p") : 0;
}

static int read_bias_update(const json_t *router, const struct model_config *c, struct router_rule *r, struct why *why) {
    static const char *const known[] = {"decay", "speed", "max", NULL};
    const json_t *obj = NULL;
    bool serve = false;
    int rc = json_get_bool(router, "serve_bias_update", &serve, why);
    if (rc >= 0) rc = json_get_object(router, "bias_update", &obj, why);
    if (rc < 0) return rc;
    if (serve && (!obj || !c->gate_sel_bias))
        return fail(why, ERR_INVALID, "serve_bias_update is true; wanted bias_update {decay, speed, max} and sel_bias with it");
    if (!obj) return 0;
    rc = config_closed(obj, known, why);
    if (rc >= 0) rc = need_real(obj, "decay", 0, 1, &r->bias_update.decay, why);
    if (rc >= 0) rc = need_real(obj, "speed", 0, 1, &r->bias_update.speed, why);
    if (rc >= 0) rc = need_real(obj, "max", 0, 1e3, &r->bias_update.max, why);
    r->bias_update.serve = serve;
    return rc < 0 ? fail_in(why, rc, "bias_update") : 0;
}

/* --- together --- */

static int experts_of(const struct router_rule *r) {
    const struct two_stage_rule *s = &r->two_stage;
    if (r->kind == ROUTER_TREE) return r->tree.branch[0] * r->tree.branch[1] * r->tree.branch[2];
    return s->globals + s->domains + s->locals;
}

/* Pairs of a token: as the router chooses them, or at most, where low confidence widens the choice. */
static int pairs_of(const struct router_rule *r, bool most) {
    const struct confidence_rule *c = &r->confidence;
    int k = r->kind == ROUTER_TREE ? r->tree.k : r->kind == ROUTER_TWO_STAGE ? r->two_stage.k : r->k;
    if (most && c->action == CONFIDENCE_WIDEN) k = c->k_max;
    int globals = r->two_stage.global_topk + (most && c->action == CONFIDENCE_ESCALATE);
    return r->kind == ROUTER_TWO_STAGE ? globals + k * (1 + r->two_stage.k_local) : k;
}

/* Experts among which a flat gate chooses: with groups, those of the best groups. */
static int flat_reach(const struct gate_rule *g) {
    return g->group == GATE_GROUP_NONE ? gate_width(g) : g->experts / g->groups * g->topk_group;
}

/* A wider choice must be wider, and possible. */
static int check_widening(const struct model_config *c, struct why *why) {
    const struct router_rule *r = &c->router;
    const struct two_stage_rule *s = &r->two_stage;
    const bool widen = r->confidence.action == CONFIDENCE_WIDEN;
    int k = r->kind == ROUTER_TREE ? r->tree.k : r->kind == ROUTER_TWO_STAGE ? s->k : r->k;
    int k_max = widen ? r->confidence.k_max : k;
    int reach = r->kind == ROUTER_TREE        ? tree_reach(&r->tree)
                : r->kind == ROUTER_TWO_STAGE ? s->domains / s->globals * s->global_topk
                                              : flat_reach(&c->gate);
    if (widen && c->gate.apply == GATE_INPUT)
        return fail(why, ERR_UNSUPPORTED,
                    "confidence: action is \"widen\", but the weight multiplies the expert's input, which "
                    "only one expert can have; accepted: \"report\", or apply \"output\"");
    if (widen && (k_max < k || k_max > reach))
        return fail(why, ERR_INVALID, "confidence: k_max is %d; wanted from k, %d, to what the gate can choose, %d", k_max, k,
                    reach);
    if (k > reach)
        return fail(why, ERR_INVALID, "leaf_k is %d; wanted at most %d, the leaves that this search comes to see", k, reach);
    if (r->confidence.action == CONFIDENCE_ESCALATE && s->global_topk == s->globals)
        return fail(why, ERR_INVALID, "confidence: action is \"escalate\", but all %d globals are chosen anyway", s->globals);
    if (pairs_of(r, true) > MAX_PAIRS)
        return fail(why, ERR_INVALID, "a token goes to up to %d experts; wanted at most %d", pairs_of(r, true), MAX_PAIRS);
    return 0;
}

static int read_kind(const json_t *router, struct model_config *out, struct why *why) {
    static const char *const two_stage[] = {"kind",    "n_global", "n_domain", "n_local",           "global_topk", "k",
                                            "k_local", "mass",     "rank",     CONFIG_ROUTER_ADDED, NULL},
                             *const tree[] = {"kind", "branch", "shared_level_gates", "search",
                                              "beam", "leaf_k", CONFIG_ROUTER_ADDED,  NULL};
    struct router_rule *r = &out->router;
    bool is_tree = r->kind == ROUTER_TREE;
    int rc = config_closed(router, is_tree ? tree : two_stage, why);
    if (rc >= 0) rc = is_tree ? read_tree(router, &r->tree, why) : read_two_stage(router, &r->two_stage, why);
    if (rc >= 0) rc = json_get_bool(router, "sel_bias", &out->gate_sel_bias, why);
    if (rc < 0) return rc;
    if (out->gate.experts != experts_of(r))
        return fail(why, ERR_INVALID, "the router has %d experts and num_experts is %d; wanted the same", experts_of(r),
                    out->gate.experts);
    return 0;
}

int config_router(const json_t *router, struct model_config *out, struct why *why) {
    struct router_rule *r = &out->router;
    int rc = 0, asked = out->gate.k;
    r->k = out->gate.k;
    if (r->kind != ROUTER_FLAT) rc = read_kind(router, out, why);
    if (rc >= 0) rc = read_history(router, router_first(r, gate_width(&out->gate)), &r->history, why);
    if (rc >= 0) rc = read_segment(router, r, why);
    if (rc >= 0) rc = read_confidence(router, r, why);
    if (rc >= 0) rc = read_top_p(router, out, r, why);
    if (rc >= 0) rc = read_bias_update(router, out, r, why);
    if (rc >= 0) rc = check_widening(out, why);
    if (rc < 0) return rc;
    if (asked != pairs_of(r, false))
        return fail(why, ERR_INVALID, "the router sends a token to %d experts and num_experts_per_tok is %d; wanted the same",
                    pairs_of(r, false), asked);
    out->gate.k = pairs_of(r, true);
    return 0;
}
