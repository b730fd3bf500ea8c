/* config_window.c - how far back each layer looks: a window per layer, 0 for all of the past.
 *
 * Who decides is the family's: a length for all layers, a switch and then a list of layer types, or the list alone. A list that
 * contradicts the other keys is refused, because the reference implementations ignore one or the other of them silently. */
#include "model/config_parts.h"

#include <string.h>

struct layer_types {
    bool given, slides[MODEL_MAX_LAYERS];
    int sliding; /* how many do */
};

static int read_layer_types(const json_t *root, int layers, struct layer_types *out, struct why *why) {
    const json_t *types = NULL;
    int rc = json_get_array(root, "layer_types", &types, why);
    if (rc <= 0) return rc;
    out->given = true;
    if (json_array_size(types) != (size_t)layers)
        return fail(why, ERR_INVALID, "layer_types has %zu entries; wanted num_hidden_layers, %d", json_array_size(types),
                    layers);
    for (int i = 0; i < layers; i++) {
        const char *s = json_string_value(json_array_get(types, (size_t)i));
        out->slides[i] = s && !strcmp(s, "sliding_attention");
        out->sliding += out->slides[i];
        if (!out->slides[i] && (!s || strcmp(s, "full_attention"))) {
            struct json_shown shown;
            return fail(why, ERR_UNSUPPORTED, "layer_types[%d] is %s; accepted: \"full_attention\", \"sliding_attention\"", i,
                        json_show(json_array_get(types, (size_t)i), &shown));
        }
    }
    return 0;
}

static void every_second(struct layer_types *t, int layers) {
    for (int i = 0; i < layers; i += 2) t->slides[i] = true, t->sliding++;
}

static void all_of(struct layer_types *t, int layers) {
    for (int i = 0; i < layers; i++) t->slides[i] = true;
    t->sliding = layers;
}

/* use_sliding_window and layer_types must say the same. */
static int check_switch(const struct layer_types *t, bool on, struct why *why) {
    if (t->sliding && !on)
        return fail(why, ERR_UNSUPPORTED,
                    "layer_types asks for sliding attention, but use_sliding_window is not true; accepted: \"full_attention\"");
    if (on && !t->given)
        return fail(why, ERR_UNSUPPORTED, "use_sliding_window is true, but nothing says for which layers; accepted: false, or "
                    "layer_types");
    return 0;
}

static int check_one_kind(const struct layer_types *t, const struct family *f, int layers, struct why *why) {
    if (!t->sliding || t->sliding == layers) return 0;
    return fail(why, ERR_UNSUPPORTED,
                "layer_types mixes full and sliding attention, which model_type %s does not have; accepted: one kind for all "
                "layers", f->model_type);
}

int config_window(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    const bool by_length = f->window == WINDOW_LENGTH, by_layers = f->window == WINDOW_LAYERS;
    struct layer_types t = {0};
    int64_t length = 0;
    bool on = false;
    int rc = read_layer_types(root, out->layers, &t, why);
    if (!t.given && !json_object_get(root, "sliding_window")) length = f->window_default;
    if (rc >= 0) rc = json_get_int(root, "sliding_window", by_length ? 1 : 0, 1 << 30, &length, why);
    if (rc >= 0) rc = json_get_bool(root, "use_sliding_window", &on, why);
    if (rc >= 0 && !by_layers && (by_length || f->window == WINDOW_SWITCH_ALL)) rc = check_one_kind(&t, f, out->layers, why);
    if (rc < 0) return rc;
    if (by_length && t.given && (t.sliding > 0) != (length > 0))
        return fail(why, ERR_INVALID, "layer_types and sliding_window contradict each other; wanted both or neither to slide");
    if (by_length && length) all_of(&t, out->layers);
    if (by_layers && !t.given) every_second(&t, out->layers);
    if (!by_length && !by_layers && (rc = check_switch(&t, on, why)) < 0) return rc;
    if (t.sliding && length < 1)
        return fail(why, ERR_INVALID, "sliding_window is missing although layers slide; wanted its length in tokens");
    for (int i = 0; i < out->layers; i++) out->window[i] = t.slides[i] ? (int)length : 0;
    return 0;
}
