/* config_experts.c - what the experts of a layer share and what they give back, from three members of moe_router:
 *
 *   shared_rows   a whole number C < I, or a fraction of I (rounded to the nearest whole number): the first C neurons of every
 *                 expert of a level are the same ones. Tensors mlp.experts.common.{gate,up,down}_proj.weight [C,H] [C,H] [H,C];
 *                 those of the experts then have the other I - C.
 *   fusion        {"d": D, "beta": B}: with s_i = (q x) . (k o_i) / sqrt(D) + ln w_i + B ln c_i over the selected experts,
 *                 y = (sum of w) * sum of softmax(s)_i o_i. Tensors mlp.fusion.q, mlp.fusion.k [D,H]. B needs confidence.
 *   confidence    {"type": "head", "action": "report"}: c_i = sigmoid(v_i . o_i). Tensors mlp.experts.{j}.conf [H]. */
#include "model/config_parts.h"

#include <math.h>
#include <string.h>

enum { MAX_FUSION = 4096 };

static int read_shared_rows(const json_t *router, struct model_config *out, struct why *why) {
    const json_t *v = json_object_get(router, "shared_rows");
    if (!v || json_is_null(v)) return 0;
    double rows = json_number_value(v);
    if (json_is_real(v) && rows > 0 && rows < 1) rows = floor(rows * out->expert_ffn + 0.5);
    struct json_shown shown;
    if (!json_is_number(v) || rows != floor(rows) || rows < 0 || rows >= out->expert_ffn)
        return fail(why, ERR_INVALID,
                    "shared_rows is %s; wanted a whole number below the width of an expert, %d, or a fraction between 0 and 1 "
                    "that leaves each expert a row of its own",
                    json_show(v, &shown), out->expert_ffn);
    out->experts.shared_rows = (int)rows;
    return 0;
}

static int read_confidence(const json_t *router, struct model_config *out, struct why *why) {
    const json_t *obj = NULL;
    const char *type = NULL, *action = NULL;
    int rc = json_get_object(router, "confidence", &obj, why);
    if (rc <= 0) return rc;
    rc = json_get_string(obj, "type", &type, why);
    if (rc >= 0 && type && strcmp(type, "head")) return 0; /* the gate's own (config_router.c) */
    if (rc >= 0) rc = json_get_string(obj, "action", &action, why);
    struct json_shown shown;
    if (rc >= 0 && (!type || strcmp(type, "head") != 0))
        rc = fail(why, ERR_UNSUPPORTED, "type is %s; accepted: \"head\"", type ? json_show_text(type, &shown) : "missing");
    if (rc >= 0 && action && strcmp(action, "report") != 0)
        rc = fail(why, ERR_UNSUPPORTED, "action is %s; accepted: \"report\"", json_show_text(action, &shown));
    if (rc < 0) return fail_in(why, rc, "confidence");
    out->experts.confidence = true;
    return 0;
}

/* The logarithm of a weight needs weights above zero. */
static bool positive_weights(const struct gate_rule *g) {
    return g->weight == GATE_WEIGHT_ONE || g->score != GATE_RAW || g->norm == GATE_NORM_SOFTMAX;
}

/* What experts say of their outputs is of experts that have some, weighed after they have spoken. */
static int check_plain(const struct model_config *c, const char *key, struct why *why) {
    if (c->gate.zero) return fail(why, ERR_UNSUPPORTED, "%s goes with zero_experts; accepted: one of the two", key);
    if (c->gate.apply == GATE_INPUT)
        return fail(why, ERR_UNSUPPORTED, "%s goes with apply \"input\"; accepted: one of the two", key);
    return 0;
}

static int read_fusion(const json_t *router, struct model_config *out, struct why *why) {
    static const char *const known[] = {"d", "beta", NULL};
    const json_t *obj = NULL;
    double beta = 0;
    int rc = json_get_object(router, "fusion", &obj, why);
    if (rc <= 0) return rc;
    rc = config_closed(obj, known, why);
    if (rc >= 0) rc = config_need_int(obj, "d", MAX_FUSION, &out->experts.fusion_dim, why);
    if (rc >= 0) rc = json_get_real(obj, "beta", 0, 100, &beta, why);
    if (rc >= 0 && beta > 0 && !out->experts.confidence)
        rc = fail(why, ERR_INVALID,
                  "beta is %g, but the experts have no confidence; wanted moe_router.confidence of type \"head\"", beta);
    if (rc >= 0 && !positive_weights(&out->gate))
        rc = fail(why, ERR_UNSUPPORTED,
                  "raw scores may be negative and have no logarithm; accepted: score \"softmax\" or "
                  "\"sigmoid\", or norm \"softmax\"");
    if (rc < 0) return fail_in(why, rc, "fusion");
    out->experts.fusion_beta = (float)beta;
    return 0;
}

int config_experts(const json_t *router, struct model_config *out, struct why *why) {
    int rc = read_shared_rows(router, out, why);
    if (rc >= 0) rc = read_confidence(router, out, why);
    if (rc >= 0) rc = read_fusion(router, out, why);
    if (rc >= 0 && out->experts.fusion_dim) rc = check_plain(out, "fusion", why);
    if (rc >= 0 && out->experts.confidence) rc = check_plain(out, "confidence", why);
    return rc < 0 ? fail_in(why, rc, "moe_router") : 0;
}
