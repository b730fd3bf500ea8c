/* config_moe.c - which layers have experts, how wide everything is, and the gate's rule.
 *
 * The published families need three facts: the number of experts, how many are chosen, and whether the chosen weights are
 * divided by their sum; their gates are a softmax over all experts. cadre_moe spells the whole rule in moe_router, whose
 * members are closed: an unknown one is refused, for it would change the choice of experts. */
#include "model/config_parts.h"

#include <stdio.h>
#include <string.h>

/* Three names for one number; some writers use two of them. */
static int read_expert_count(const json_t *root, struct model_config *out, struct why *why) {
    static const char *const keys[] = {"num_experts", "num_local_experts", "n_routed_experts"};
    int64_t experts = 0;
    int rc = 0;
    const char *name = "";
    for (int i = 0; i < 3; i++) {
        int64_t n = 0;
        if ((rc = json_get_int(root, keys[i], 1, MAX_EXPERTS, &n, why)) < 0) return rc;
        if (n && experts && n != experts)
            return fail(why, ERR_INVALID, "%s is %lld and %s is %lld; wanted one value", name, (long long)experts, keys[i],
                        (long long)n);
        if (n) experts = n, name = keys[i];
    }
    out->gate.experts = (int)experts;
    if (!out->gate.experts)
        return fail(why, ERR_INVALID,
                    "num_experts (or num_local_experts, n_routed_experts) is missing; wanted a whole number from 1 to %d",
                    MAX_EXPERTS);
    rc = config_need_int(root, "num_experts_per_tok", MAX_TOP_K, &out->gate.k, why);
    if (rc >= 0 && out->gate.k > out->gate.experts)
        rc = fail(why, ERR_INVALID, "num_experts_per_tok is %d; wanted at most the number of experts, %d", out->gate.k,
                  out->gate.experts);
    return rc;
}

int config_read_word(const json_t *obj, const char *key, const char *const *words, int *out, struct why *why) {
    const char *s = NULL;
    char list[96];
    size_t n = 0;
    int rc = json_get_string(obj, key, &s, why);
    if (rc < 0) return rc;
    for (int i = 0; words[i]; i++) {
        if (s && !strcmp(s, words[i])) return *out = i, 0;
        n += (size_t)snprintf(list + n, sizeof list - n, "%s\"%s\"", i ? ", " : "", words[i]);
    }
    if (!s) return fail(why, ERR_INVALID, "%s is missing; wanted one of %s", key, list);
    struct json_shown shown;
    return fail(why, ERR_UNSUPPORTED, "%s is %s; accepted: %s", key, json_show_text(s, &shown), list);
}

/* What is left of the choice: groups, identity experts, and where the weight is applied. */
static int read_choice(const json_t *router, struct gate_rule *g, struct why *why) {
    const char *apply = NULL;
    int64_t zero = 0;
    struct json_shown shown;
    int rc = json_get_int(router, "zero_experts", 0, MAX_EXPERTS, &zero, why);
    if (rc >= 0) rc = json_get_string(router, "apply", &apply, why);
    if (rc >= 0) rc = config_groups(router, g, why);
    if (rc < 0) return rc;
    g->zero = (int)zero;
    if (zero && g->group != GATE_GROUP_NONE)
        return fail(why, ERR_UNSUPPORTED, "zero_experts is %lld beside groups; accepted: 0", (long long)zero);
    if (!apply || !strcmp(apply, "output")) return 0;
    g->apply = GATE_INPUT;
    if (strcmp(apply, "input"))
        return fail(why, ERR_UNSUPPORTED, "apply is %s; accepted: \"output\", \"input\"", json_show_text(apply, &shown));
    if (g->k > 1)
        return fail(why, ERR_UNSUPPORTED,
                    "apply is \"input\" with k = %d; accepted: 1, for a token is sent to its experts once", g->k);
    return 0;
}

static int read_flat(const json_t *router, struct model_config *out, struct why *why) {
    static const char *const known[] = {"kind", "score", "k", "norm", "scale", "weight", "bias", "norm_eps", "groups",
                                        "zero_experts", "apply", "top_p", CONFIG_ROUTER_ADDED, NULL},
                             *const scores[] = {"softmax", "sigmoid", "sqrtsoftplus", "raw", NULL},
                             *const norms[] = {"none", "sum", "softmax", NULL}, *const weights[] = {"score", "one", NULL};
    int score = 0, norm = 0, weight = 0, k = 0;
    double scale = 1, eps = 0;
    struct gate_rule *g = &out->gate;
    int rc = config_closed(router, known, why);
    if (rc >= 0) rc = config_read_word(router, "score", scores, &score, why);
    if (rc >= 0) rc = config_read_word(router, "norm", norms, &norm, why);
    if (rc >= 0) rc = config_read_word(router, "weight", weights, &weight, why);
    if (rc >= 0) rc = json_get_real(router, "scale", 1e-6, 1e6, &scale, why);
    if (rc >= 0) rc = json_get_real(router, "norm_eps", 0, 1, &eps, why);
    if (rc >= 0) rc = json_get_bool(router, "bias", &out->gate_bias, why);
    if (rc >= 0) rc = json_get_bool(router, "sel_bias", &out->gate_sel_bias, why);
    if (rc >= 0) rc = config_need_int(router, "k", MAX_TOP_K, &k, why);
    if (rc < 0) return rc;
    if (k != out->gate.k) return fail(why, ERR_INVALID, "k is %d; wanted num_experts_per_tok, %d", k, out->gate.k);
    static const enum gate_score score_of[] = {GATE_SOFTMAX, GATE_SIGMOID, GATE_SQRTSOFTPLUS, GATE_RAW};
    g->score = score_of[score];
    g->norm = norm == 0 ? GATE_NORM_NONE : norm == 1 ? GATE_NORM_SUM : GATE_NORM_SOFTMAX;
    g->norm_eps = (float)eps;
    g->weight = weight == 0 ? GATE_WEIGHT_SCORE : GATE_WEIGHT_ONE;
    g->scale = (float)scale;
    return read_choice(router, g, why);
}

/* moe_router says it all; router.kind decides who reads it. */
static int read_router(const json_t *root, struct model_config *out, struct why *why) {
    static const char *const kinds[] = {"flat", "two_stage", "tree", NULL};
    const json_t *router = NULL;
    int kind = 0;
    int rc = json_get_object(root, "moe_router", &router, why);
    if (rc == 0) return fail(why, ERR_INVALID, "moe_router is missing; wanted an object with a kind");
    if (rc < 0) return rc;
    rc = config_read_word(router, "kind", kinds, &kind, why);
    out->router.kind = (enum router_kind)kind;
    if (rc >= 0 && !kind) rc = read_flat(router, out, why);
    if (rc >= 0) rc = config_router(router, out, why);
    return rc < 0 ? fail_in(why, rc, "moe_router") : 0;
}

static int read_gate(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    out->gate.score = GATE_SOFTMAX;
    out->gate.weight = GATE_WEIGHT_SCORE;
    out->gate.scale = 1;
    int rc = read_expert_count(root, out, why);
    if (rc < 0) return rc;
    out->router.k = out->gate.k;
    if (f->norm == NORM_RULE) return read_router(root, out, why);
    if (f->gate != FAMILY_GATE_SOFTMAX) return config_gate(root, f, out, why);
    bool divide = f->norm == NORM_ALWAYS;
    if (f->norm == NORM_KEY) rc = json_get_bool(root, "norm_topk_prob", &divide, why);
    out->gate.norm = divide ? GATE_NORM_SUM : GATE_NORM_NONE;
    return rc;
}

/* moe_index: a layer has experts iff (i + 1) % decoder_sparse_step == 0 and it is not in mlp_only_layers (Qwen); or it is none
 * of the first_k_dense_replace and i % moe_layer_freq == 0 (DeepSeek). */
static int read_layer_kinds(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    if (f->llama4) return config_llama4_layers(root, out, why);
    int64_t step = 1;
    const json_t *dense = NULL;
    bool is_dense[MODEL_MAX_LAYERS] = {false};
    int rc = json_get_int(root, "decoder_sparse_step", 1, 1 << 30, &step, why);
    if (rc >= 0) rc = json_get_array(root, "mlp_only_layers", &dense, why);
    if (rc < 0) return rc;
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *v = json_array_get(dense, i);
        int64_t layer = json_integer_value(v);
        struct json_shown shown;
        if (!json_is_integer(v) || layer < 0 || layer >= out->layers)
            return fail(why, ERR_INVALID, "mlp_only_layers has %s; wanted layers from 0 to %d", json_show(v, &shown),
                        out->layers - 1);
        is_dense[layer] = true;
    }
    int64_t first = f->dense_layers, freq = 1;
    if (f->first_dense) rc = json_get_int(root, "first_k_dense_replace", 0, MODEL_MAX_LAYERS, &first, why);
    if (rc >= 0 && f->first_dense) rc = json_get_int(root, "moe_layer_freq", 1, MODEL_MAX_LAYERS, &freq, why);
    if (rc < 0) return rc;
    if (!f->sparse_step && (step != 1 || json_array_size(dense)))
        return fail(why, ERR_UNSUPPORTED, "%s is set, which model_type %s does not have; accepted: %s",
                    step != 1 ? "decoder_sparse_step" : "mlp_only_layers", f->model_type, step != 1 ? "null, 1" : "null, []");
    out->moe_layers = 0;
    for (int i = 0; i < out->layers; i++) {
        bool moe = f->moe && !is_dense[i] && (i + 1) % step == 0 && i >= first && i % freq == 0;
        out->moe_index[i] = (int16_t)(moe ? out->moe_layers++ : -1);
    }
    return 0;
}

/* Of a pack whose experts have lost neurons; whatever else the model's own width says still holds. */
static int read_kept_neurons(const json_t *root, struct model_config *out, struct why *why) {
    int64_t kept = out->expert_ffn;
    int rc = json_get_int(root, CONFIG_KEPT_NEURONS, 1, out->expert_ffn, &kept, why);
    if (rc >= 0) out->expert_ffn = (int)kept;
    return rc;
}

static int read_widths(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    const char *dense_key = f->llama4 ? "intermediate_size_mlp" : "intermediate_size";
    int64_t shared = 0;
    int rc = 0;
    if (out->moe_layers < out->layers) rc = config_need_int(root, dense_key, MAX_FFN, &out->dense_ffn, why);
    if (rc < 0 || !out->moe_layers) return rc;
    rc = config_need_int(root, f->expert_ffn_key, MAX_FFN, &out->expert_ffn, why);
    if (rc >= 0 && f->llama4) {
        shared = out->expert_ffn;
    } else if (rc >= 0 && f->shared_count) {
        rc = json_get_int(root, "n_shared_experts", 0, 64, &shared, why);
        if (rc == 0 && !json_object_get(root, "n_shared_experts"))
            rc = fail(why, ERR_INVALID, "n_shared_experts is missing; wanted null or a whole number from 0 to 64");
        shared *= out->expert_ffn;
        if (rc >= 0 && shared > MAX_FFN)
            rc = fail(why, ERR_INVALID, "n_shared_experts of moe_intermediate_size make %lld; wanted at most %d",
                      (long long)shared, MAX_FFN);
    } else if (rc >= 0 && f->shared != SHARED_NONE) {
        rc = json_get_int(root, "shared_expert_intermediate_size", 0, MAX_FFN, &shared, why);
        if (rc == 0 && f->shared == SHARED_SIGMOID)
            rc = fail(why, ERR_INVALID, "shared_expert_intermediate_size is missing; wanted a whole number from 0 to %d",
                      MAX_FFN);
    }
    if (rc < 0) return rc;
    out->shared_ffn = (int)shared;
    out->shared = shared ? f->shared : SHARED_NONE;
    return read_kept_neurons(root, out, why);
}

/* The limit alone makes the rule: without it the reference implementation's other constants would mean nothing. */
int config_swiglu(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    double limit = 7, alpha = 1.702;
    if (!f->clamped_swiglu) return 0;
    int rc = json_get_real(root, "swiglu_limit", 1e-3, 1e6, &limit, why);
    if (rc >= 0) rc = json_get_real(root, "swiglu_alpha", 1e-3, 1e3, &alpha, why);
    out->act = (struct swiglu){(float)limit, (float)alpha, 1};
    out->expert_bias = f->fused_experts;
    return rc < 0 ? rc : 0;
}

int config_layers(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    int rc = read_layer_kinds(root, f, out, why);
    if (rc >= 0 && out->moe_layers) rc = read_gate(root, f, out, why);
    if (rc >= 0) rc = read_widths(root, f, out, why);
    if (rc >= 0 && out->moe_layers && f->norm == NORM_RULE) rc = config_experts(json_object_get(root, "moe_router"), out, why);
    return rc < 0 ? rc : 0;
}
