/* config_llama4.c - what Llama-4's layers differ in: some rotate and look back over their own chunk only, the others do not
 * rotate, see everything, and sharpen their queries with growing position (arXiv 2501.19399); some have experts, the others one
 * FFN.
 *
 * no_rope_layers is named for its zeros: 1 means the layer does rotate. layer_types alone decides who is chunked. */
#include "model/config_parts.h"

#include <string.h>

static int read_rotation(const json_t *root, struct model_config *out, struct why *why) {
    const json_t *list = NULL;
    int64_t interval = 4;
    int rc = json_get_array(root, "no_rope_layers", &list, why);
    if (rc >= 0) rc = json_get_int(root, "no_rope_layer_interval", 1, MODEL_MAX_LAYERS, &interval, why);
    if (rc < 0) return rc;
    if (json_array_size(list) && json_array_size(list) != (size_t)out->layers)
        return fail(why, ERR_INVALID, "no_rope_layers has %zu entries; wanted none or num_hidden_layers, %d",
                    json_array_size(list), out->layers);
    for (int i = 0; i < out->layers; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        struct json_shown shown;
        out->no_rope[i] = v ? json_integer_value(v) == 0 : (i + 1) % interval == 0;
        if (v && (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > 1))
            return fail(why, ERR_INVALID, "no_rope_layers[%d] is %s; wanted 0 or 1", i, json_show(v, &shown));
    }
    return 0;
}

static int read_chunks(const json_t *root, struct model_config *out, struct why *why) {
    const json_t *types = NULL;
    int64_t length = 8192;
    bool none = json_is_null(json_object_get(root, "attention_chunk_size"));
    int rc = json_get_int(root, "attention_chunk_size", 1, 1 << 30, &length, why);
    if (rc >= 0) rc = json_get_array(root, "layer_types", &types, why);
    if (rc < 0) return rc;
    if (types && json_array_size(types) != (size_t)out->layers)
        return fail(why, ERR_INVALID, "layer_types has %zu entries; wanted num_hidden_layers, %d", json_array_size(types),
                    out->layers);
    for (int i = 0; i < out->layers; i++) {
        const json_t *v = json_array_get(types, (size_t)i);
        const char *word = v ? json_string_value(v) : out->no_rope[i] ? "full_attention" : "chunked_attention";
        bool chunked = word && !strcmp(word, "chunked_attention");
        struct json_shown shown;
        if (!chunked && (!word || strcmp(word, "full_attention")))
            return fail(why, ERR_UNSUPPORTED, "layer_types[%d] is %s; accepted: \"full_attention\", \"chunked_attention\"", i,
                        json_show(v, &shown));
        if (chunked && none)
            return fail(why, ERR_INVALID,
                        "attention_chunk_size is null, but layer %d looks back over a chunk; wanted its length", i);
        out->chunk[i] = chunked ? (int)length : 0;
    }
    return 0;
}

/* attn_temperature_tuning is a flag that early checkpoints wrote as a number. */
static int read_temperature(const json_t *root, struct model_config *out, struct why *why) {
    const json_t *v = json_object_get(root, "attn_temperature_tuning");
    int64_t floor_scale = 8192;
    double scale = 0.1;
    bool on = true;
    int rc = 0;
    if (json_is_integer(v)) on = json_integer_value(v) != 0;
    else rc = json_get_bool(root, "attn_temperature_tuning", &on, why);
    if (rc >= 0) rc = json_get_int(root, "floor_scale", 1, 1 << 30, &floor_scale, why);
    if (rc >= 0) rc = json_get_real(root, "attn_scale", 0, 1e3, &scale, why);
    if (rc < 0) return rc;
    out->temper_tokens = on ? (int)floor_scale : 0;
    out->temper_scale = on ? (float)scale : 0;
    return 0;
}

int config_llama4_unwrap(json_t **root, struct why *why) {
    const json_t *text = NULL;
    const char *type = json_string_value(json_object_get(*root, "model_type")), *inner = NULL;
    if (!type || strcmp(type, "llama4")) return 0;
    int rc = json_get_object(*root, "text_config", &text, why);
    if (rc == 0) rc = fail(why, ERR_INVALID, "text_config is missing; wanted an object, as model_type \"llama4\" has");
    if (rc >= 0) rc = json_get_string(text, "model_type", &inner, why);
    struct json_shown shown;
    if (rc >= 0 && inner && strcmp(inner, "llama4_text"))
        rc = fail(why, ERR_UNSUPPORTED, "model_type is %s; accepted: null, \"llama4_text\"", json_show_text(inner, &shown));
    if (rc < 0) return text ? fail_in(why, rc, "text_config") : rc;
    json_t *flat = json_copy((json_t *)text);
    if (!flat || json_object_update_missing(flat, *root) < 0 ||
        json_object_set_new(flat, "model_type", json_string("llama4")) < 0 || json_object_del(flat, "text_config") < 0) {
        json_decref(flat);
        return fail(why, ERR_NOMEM, "out of memory for text_config");
    }
    json_decref(*root);
    *root = flat;
    return 0;
}

int config_llama4_attention(const json_t *root, struct model_config *out, struct why *why) {
    int rc = read_rotation(root, out, why);
    if (rc >= 0) rc = read_chunks(root, out, why);
    return rc >= 0 ? read_temperature(root, out, why) : rc;
}

int config_llama4_layers(const json_t *root, struct model_config *out, struct why *why) {
    const json_t *list = NULL;
    int64_t step = 1;
    bool moe[MODEL_MAX_LAYERS] = {false};
    int rc = json_get_array(root, "moe_layers", &list, why);
    if (rc >= 0) rc = json_get_int(root, "interleave_moe_layer_step", 1, MODEL_MAX_LAYERS, &step, why);
    if (rc < 0) return rc;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        int64_t layer = json_integer_value(v);
        struct json_shown shown;
        if (!json_is_integer(v) || layer < 0 || layer >= out->layers)
            return fail(why, ERR_INVALID, "moe_layers has %s; wanted layers from 0 to %d", json_show(v, &shown),
                        out->layers - 1);
        moe[layer] = true;
    }
    out->moe_layers = 0;
    for (int i = 0; i < out->layers; i++) {
        bool has = list ? moe[i] : (i + 1) % step == 0;
        out->moe_index[i] = (int16_t)(has ? out->moe_layers++ : -1);
    }
    return 0;
}
