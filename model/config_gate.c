/* config_gate.c - the gates of published families beyond the plain softmax, and the group rule that cadre_moe spells out.
 *
 * Where the authors' code and transformers' port of it differ, the authors' is the default and a key of ours selects the other:
 *   group_fill    "-inf" (default): experts outside the chosen groups are out of the choice; "zero": they compete with score 0,
 *                 as in transformers' ports up to version 4 (and of DeepSeek-V2 still).
 *   scale_always  DeepSeek-V2 only. false (default): weights are normalised if norm_topk_prob says so, else scaled; true:
 *   always
 *                 scaled and never normalised, as in transformers.
 * norm_eps is 1e-20 in every family that divides by the sum of sigmoids, but for MiniMax-M2, which has none. */
#include "model/config_parts.h"

#include <math.h>
#include <string.h>

static int read_fill(const json_t *obj, const char *key, struct gate_rule *g, struct why *why) {
    const char *word = NULL;
    struct json_shown shown;
    int rc = json_get_string(obj, key, &word, why);
    if (rc < 0) return rc;
    g->group_fill = -INFINITY;
    if (word && !strcmp(word, "zero")) g->group_fill = 0;
    else if (word && strcmp(word, "-inf"))
        return fail(why, ERR_UNSUPPORTED, "%s is %s; accepted: \"-inf\", \"zero\"", key, json_show_text(word, &shown));
    return 0;
}

/* n and topk are the keys' names, groups and best what they are when absent; g->group says how groups are scored. */
static int read_sizes(const json_t *obj, const char *n, const char *topk, int64_t groups, int64_t best, struct gate_rule *g,
                      struct why *why) {
    int rc = json_get_int(obj, n, 1, GATE_MAX_GROUPS, &groups, why);
    if (rc >= 0) rc = json_get_int(obj, topk, 1, groups, &best, why);
    if (rc < 0) return rc;
    if (g->experts % groups)
        return fail(why, ERR_INVALID, "%s is %lld; wanted a divisor of the number of experts, %d", n, (long long)groups,
                    g->experts);
    int size = g->experts / (int)groups;
    if (best * size < g->k)
        return fail(why, ERR_INVALID, "%s is %lld, and so many groups of %d hold fewer than the %d experts of a token", topk,
                    (long long)best, size, g->k);
    if (best == groups) { /* no limit: nothing to choose */
        g->group = GATE_GROUP_NONE;
        return 0;
    }
    if (g->group == GATE_GROUP_TOP2SUM && size < 2)
        return fail(why, ERR_INVALID, "%s is %lld; wanted groups of two experts or more, whose two best are added", n,
                    (long long)groups);
    g->groups = (int)groups;
    g->topk_group = (int)best;
    return 0;
}

int config_groups(const json_t *router, struct gate_rule *g, struct why *why) {
    static const char *const known[] = {"rule", "n", "topk", "fill"};
    const json_t *groups = NULL, *v;
    const char *key, *rule = NULL;
    struct json_shown shown;
    int rc = json_get_object(router, "groups", &groups, why);
    if (rc <= 0) return rc;
    json_object_foreach((json_t *)groups, key, v) {
        bool found = json_is_null(v);
        for (size_t i = 0; !found && i < sizeof known / sizeof *known; i++) found = !strcmp(key, known[i]);
        if (!found)
            return fail(why, ERR_UNSUPPORTED, "groups has %s, which Cadre does not implement; accepted: rule, n, topk, fill",
                        json_show_text(key, &shown));
    }
    rc = json_get_string(groups, "rule", &rule, why);
    if (rc < 0) return fail_in(why, rc, "groups");
    if (!rule || (strcmp(rule, "max") && strcmp(rule, "top2sum")))
        return fail(why, ERR_UNSUPPORTED, "groups: rule is %s; accepted: \"max\", \"top2sum\"",
                    rule ? json_show_text(rule, &shown) : "missing");
    if (!json_is_integer(json_object_get(groups, "n")) || !json_is_integer(json_object_get(groups, "topk")))
        return fail(why, ERR_INVALID, "groups: n or topk is missing; wanted whole numbers");
    g->group = strcmp(rule, "max") ? GATE_GROUP_TOP2SUM : GATE_GROUP_MAX;
    rc = read_fill(groups, "fill", g, why);
    if (rc >= 0) rc = read_sizes(groups, "n", "topk", 1, 1, g, why);
    return rc < 0 ? fail_in(why, rc, "groups") : 0;
}

/* *v2: softmax scores without a selection bias; else sigmoid with one. topk_method says whether groups limit the choice. */
static int check_method(const json_t *root, bool v2, bool *limited, struct why *why) {
    const char *score = NULL, *method = NULL, *want = v2 ? "softmax" : "sigmoid";
    struct json_shown shown;
    int rc = json_get_string(root, "scoring_func", &score, why);
    if (rc >= 0) rc = json_get_string(root, "topk_method", &method, why);
    if (rc < 0) return rc;
    if (score && strcmp(score, want))
        return fail(why, ERR_UNSUPPORTED, "scoring_func is %s; accepted: null, \"%s\"", json_show_text(score, &shown), want);
    *limited = !v2 || (method && !strcmp(method, "group_limited_greedy"));
    if (!method || (v2 ? *limited || !strcmp(method, "greedy") : !strcmp(method, "noaux_tc"))) return 0;
    return fail(why, ERR_UNSUPPORTED, "topk_method is %s; accepted: %s", json_show_text(method, &shown),
                v2 ? "null, \"greedy\", \"group_limited_greedy\"" : "null, \"noaux_tc\"");
}

/* DeepSeek-V2, and V3 with all that took its gate (Kimi-K2, GLM-4.5). */
static int read_deepseek(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    const bool v2 = f->gate == FAMILY_GATE_DEEPSEEK_V2;
    struct gate_rule *g = &out->gate;
    bool limited = false, normalise = !v2, always = false;
    double scale = f->gate_scale ? f->gate_scale : 1;
    int rc = check_method(root, v2, &limited, why);
    if (rc >= 0) rc = json_get_bool(root, "norm_topk_prob", &normalise, why);
    if (rc >= 0) rc = json_get_real(root, "routed_scaling_factor", 1e-6, 1e6, &scale, why);
    if (rc >= 0 && v2) rc = json_get_bool(root, "scale_always", &always, why);
    if (rc >= 0) rc = read_fill(root, "group_fill", g, why);
    if (rc < 0) return rc;
    if (v2) normalise = normalise && g->k > 1 && !always;
    g->score = v2 ? GATE_SOFTMAX : GATE_SIGMOID;
    g->norm = normalise ? GATE_NORM_SUM : GATE_NORM_NONE;
    g->norm_eps = normalise ? 1e-20f : 0;
    g->scale = v2 && normalise ? 1 : (float)scale;
    g->group = !limited ? GATE_GROUP_NONE : v2 ? GATE_GROUP_MAX : GATE_GROUP_TOP2SUM;
    out->gate_sel_bias = !v2;
    return limited ? read_sizes(root, "n_group", "topk_group", f->groups ? f->groups : 1, f->best_groups ? f->best_groups : 1,
                                g, why)
                   : 0;
}

/* Keys of this family alone that say what its attention is: softmax over everything, q and k normed whole. */
static int check_minimax_attention(const json_t *root, struct why *why) {
    const json_t *types = json_object_get(root, "attn_type_list"), *norm = json_object_get(root, "qk_norm_type"), *v;
    struct json_shown shown;
    bool ones = !types || json_is_null(types) || json_is_array(types);
    size_t i;
    json_array_foreach(types, i, v) ones = ones && json_integer_value(v) == 1;
    if (!ones)
        return fail(why, ERR_UNSUPPORTED, "attn_type_list is %s; accepted: null, or a list of only ones (softmax attention)",
                    json_show(types, &shown));
    if (norm && !json_is_null(norm) && (!json_is_string(norm) || strcmp(json_string_value(norm), "per_layer")))
        return fail(why, ERR_UNSUPPORTED, "qk_norm_type is %s; accepted: null, \"per_layer\"", json_show(norm, &shown));
    return 0;
}

static int read_minimax(const json_t *root, struct model_config *out, struct why *why) {
    const char *score = NULL;
    struct json_shown shown;
    bool bias = true;
    int rc = check_minimax_attention(root, why);
    if (rc >= 0) rc = json_get_string(root, "scoring_func", &score, why);
    if (rc >= 0) rc = json_get_bool(root, "use_routing_bias", &bias, why);
    if (rc < 0) return rc;
    if (score && strcmp(score, "sigmoid"))
        return fail(why, ERR_UNSUPPORTED, "scoring_func is %s; accepted: null, \"sigmoid\"", json_show_text(score, &shown));
    out->gate.score = GATE_SIGMOID;
    out->gate.norm = GATE_NORM_SUM;
    out->gate_sel_bias = bias;
    return 0;
}

static int read_llama4(struct model_config *out, struct why *why) {
    if (out->gate.k != 1)
        return fail(why, ERR_UNSUPPORTED,
                    "num_experts_per_tok is %d, where the weight multiplies the expert's input; accepted: 1", out->gate.k);
    out->gate.score = GATE_SIGMOID;
    out->gate.norm = GATE_NORM_NONE;
    out->gate.apply = GATE_INPUT;
    return 0;
}

int config_gate(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    switch (f->gate) {
    case FAMILY_GATE_SOFTMAX: return 0;
    case FAMILY_GATE_DEEPSEEK_V2:
    case FAMILY_GATE_DEEPSEEK_V3: return read_deepseek(root, f, out, why);
    case FAMILY_GATE_LLAMA4: return read_llama4(out, why);
    case FAMILY_GATE_MINIMAX: return read_minimax(root, out, why);
    case FAMILY_GATE_RAW:
        out->gate.score = GATE_RAW;
        out->gate.norm = GATE_NORM_SOFTMAX;
        out->gate_bias = true;
        return 0;
    }
    return 0;
}
