/* config.c - from the text of config.json to struct model_config, in stages.
 *
 * First the family (its row decides what the keys mean), then the keys that Cadre must refuse, then sizes, attention, RoPE
 * (config_rope.c), layers (config_moe.c) and token ids. Every value is checked against a bound where it is read; relations
 * between values (heads and groups, ids and vocabulary) right after. Nothing is guessed: a size that is absent is an error. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/config_parts.h"

enum { MAX_CONFIG_BYTES = 4 << 20 };

int config_need_int(const json_t *root, const char *key, int64_t max, int *out, struct why *why) {
    int64_t n = 0;
    int rc = json_get_int(root, key, 1, max, &n, why);
    if (rc == 0) return fail(why, ERR_INVALID, "%s is missing; wanted a whole number from 1 to %lld", key, (long long)max);
    if (rc > 0) *out = (int)n;
    return rc;
}

static int find_family(const json_t *root, const struct family **out, struct why *why) {
    const char *type = NULL;
    char list[256];
    int rc = json_get_string(root, "model_type", &type, why);
    if (rc < 0) return rc;
    if (!type) return fail(why, ERR_INVALID, "model_type is missing; known are %s", family_list(list, sizeof list));
    struct json_shown shown;
    *out = family_find(type);
    const char *architecture = json_string_value(json_array_get(json_object_get(root, "architectures"), 0));
    if (!*out && architecture) *out = family_find_alias(type, architecture);
    if (!*out)
        return fail(why, ERR_UNSUPPORTED, "model_type is %s; known are %s", json_show_text(type, &shown),
                    family_list(list, sizeof list));
    return 0;
}

static enum fmt stored_format(const json_t *root) {
    const char *type = json_string_value(json_object_get(root, "torch_dtype"));
    if (!type) type = json_string_value(json_object_get(root, "dtype"));
    return type && !strcmp(type, "bfloat16") ? FMT_BF16 : FMT_F32;
}

int config_sizes(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    double eps = f->eps;
    const struct {
        const char *key;
        int64_t max;
        int *out;
    } sizes[] = {
        {"hidden_size", MAX_HIDDEN, &out->hidden},
        {"num_hidden_layers", MODEL_MAX_LAYERS, &out->layers},
        {"vocab_size", MAX_VOCAB, &out->vocab},
        {"num_attention_heads", MAX_HEADS, &out->q_heads},
        {"max_position_embeddings", MAX_POSITIONS, &out->max_positions},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int rc = config_need_int(root, sizes[i].key, sizes[i].max, sizes[i].out, why);
        if (rc < 0) return rc;
    }
    int rc = json_get_real(root, "rms_norm_eps", 1e-30, 1.0, &eps, why);
    if (rc >= 0) rc = json_get_bool(root, "tie_word_embeddings", &out->tied_embeddings, why);
    out->norm_eps = (float)eps;
    out->stored = stored_format(root);
    return rc < 0 ? rc : 0;
}

static int read_heads(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    int64_t kv = 0, dim = 0;
    int rc = json_get_int(root, "num_key_value_heads", 1, MAX_HEADS, &kv, why);
    if (rc < 0) return rc;
    if (!kv && !f->kv_heads_optional) return config_need_int(root, "num_key_value_heads", MAX_HEADS, &out->kv_heads, why);
    out->kv_heads = kv ? (int)kv : out->q_heads;
    if (out->q_heads % out->kv_heads)
        return fail(why, ERR_INVALID, "num_attention_heads is %d and num_key_value_heads is %d; wanted a multiple of it",
                    out->q_heads, out->kv_heads);
    rc = json_get_int(root, "head_dim", 2, MAX_HEAD_DIM, &dim, why);
    if (rc < 0) return rc;
    if (!dim) {
        dim = out->hidden / out->q_heads;
        if (out->hidden % out->q_heads || dim < 2 || dim > MAX_HEAD_DIM)
            return fail(why, ERR_INVALID,
                        "hidden_size %d cannot be split over num_attention_heads %d; wanted 2 to %d each, or head_dim",
                        out->hidden, out->q_heads, MAX_HEAD_DIM);
    }
    if (dim % 2) return fail(why, ERR_INVALID, "head_dim is %lld; wanted an even number, RoPE turns pairs", (long long)dim);
    if (dim * out->q_heads > MAX_QUERY)
        return fail(why, ERR_INVALID, "num_attention_heads %d of head_dim %lld make %lld; wanted at most %d", out->q_heads,
                    (long long)dim, (long long)dim * out->q_heads, MAX_QUERY);
    out->head_dim = (int)dim;
    out->attention_scale = (float)(1.0 / sqrt((double)dim));
    return 0;
}

static int read_biases(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    bool flag = f->bias == BIAS_QKV || f->bias == BIAS_KEY_TRUE;
    bool key = f->bias == BIAS_KEY || f->bias == BIAS_KEY_TRUE || f->bias == BIAS_KEY_QKV;
    int rc = json_get_bool(root, key ? "attention_bias" : "qkv_bias", &flag, why);
    if (rc < 0) return rc;
    out->qkv_bias = flag && f->bias != BIAS_NONE;
    out->o_bias = flag && (f->bias == BIAS_KEY || f->bias == BIAS_KEY_TRUE);
    return 0;
}

int config_attention(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    double clip = 0;
    bool normed = !f->qk_norm_key || f->llama4;
    int rc = f->mla ? config_mla(root, out, why) : read_heads(root, f, out, why);
    if (rc >= 0 && f->qk_norm_key) rc = json_get_bool(root, "use_qk_norm", &normed, why);
    out->qk_norm = normed ? f->qk_norm : QK_NORM_NONE;
    if (rc >= 0) rc = read_biases(root, f, out, why);
    if (rc >= 0) rc = f->llama4 ? config_llama4_attention(root, out, why) : config_window(root, f, out, why);
    if (rc >= 0 && f->clip_qkv) rc = json_get_real(root, "clip_qkv", 1e-6, 1e6, &clip, why);
    out->clip_qkv = (float)clip;
    out->sinks = f->sinks;
    return rc < 0 ? rc : 0;
}

static int add_eos(const json_t *v, struct model_config *out, struct why *why) {
    struct json_shown shown;
    int64_t id = json_integer_value(v);
    if (!json_is_integer(v) || id < 0 || id >= out->vocab)
        return fail(why, ERR_INVALID, "eos_token_id is %s; wanted ids from 0 to vocab_size - 1, %d", json_show(v, &shown),
                    out->vocab - 1);
    for (int i = 0; i < out->n_eos; i++)
        if (out->eos[i] == id) return 0;
    if (out->n_eos == MODEL_MAX_EOS)
        return fail(why, ERR_TOO_LARGE, "eos_token_id has too many ids; wanted at most %d", MODEL_MAX_EOS);
    out->eos[out->n_eos++] = (int)id;
    return 0;
}

static int read_ids(const json_t *root, struct model_config *out, struct why *why) {
    int64_t bos = out->bos;
    int rc = 0;
    if (bos < 0) rc = json_get_int(root, "bos_token_id", 0, out->vocab - 1, &bos, why);
    out->bos = (int)bos;
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (rc < 0 || !eos || json_is_null(eos)) return rc < 0 ? rc : 0;
    if (!json_is_array(eos)) return add_eos(eos, out, why);
    for (size_t i = 0; rc >= 0 && i < json_array_size(eos); i++) rc = add_eos(json_array_get(eos, i), out, why);
    return rc;
}

int config_tokens(const json_t *root, const json_t *generation, struct model_config *out, struct why *why) {
    out->bos = -1;
    out->n_eos = 0;
    int rc = read_ids(root, out, why);
    if (rc < 0) return fail_in(why, rc, "config.json");
    rc = generation ? read_ids(generation, out, why) : 0;
    return rc < 0 ? fail_in(why, rc, "generation_config.json") : 0;
}

/* Without the object the reference implementation of such a family takes a YaRN of its own choice. */
static int need_rope_object(const json_t *root, const struct family *f, struct why *why) {
    if (!f->rope_object || json_is_object(json_object_get(root, "rope_scaling")) ||
        json_is_object(json_object_get(root, "rope_parameters")))
        return 0;
    return fail(why, ERR_INVALID, "rope_scaling is missing; model_type %s needs it, or rope_parameters", f->model_type);
}

static int read_root(json_t *root, struct model_config *out, struct why *why) {
    const struct family *f = NULL;
    int rc = find_family(root, &f, why);
    if (rc < 0) return rc;
    snprintf(out->family, sizeof out->family, "%s", f->model_type);
    rc = config_refuse(root, f, why);
    if (rc >= 0) rc = config_sizes(root, f, out, why);
    if (rc >= 0) rc = config_attention(root, f, out, why);
    if (rc >= 0) rc = need_rope_object(root, f, why);
    if (rc >= 0) rc = config_rope(root, f, out, why);
    if (rc >= 0) rc = config_layers(root, f, out, why);
    if (rc >= 0) rc = config_swiglu(root, f, out, why);
    if (rc >= 0) rc = config_quant(root, f, out, why);
    if (rc >= 0) config_note_unknown(root);
    return rc;
}

int model_config_parse(const char *json, size_t len, const char *generation_json, size_t generation_len,
                       struct model_config *out, struct why *why) {
    json_t *root = NULL, *generation = NULL;
    struct model_config c = {.bos = -1};
    int rc = json_read_object("config.json", json, len, &root, why);
    if (rc >= 0 && generation_json)
        rc = json_read_object("generation_config.json", generation_json, generation_len, &generation, why);
    if (rc >= 0 && (rc = config_llama4_unwrap(&root, why)) < 0) fail_in(why, rc, "config.json");
    if (rc >= 0) {
        rc = read_root(root, &c, why);
        if (rc < 0) fail_in(why, rc, "config.json");
    }
    if (rc >= 0) rc = config_tokens(root, generation, &c, why);
    if (rc >= 0) *out = c;
    json_decref(root);
    json_decref(generation);
    return rc < 0 ? rc : 0;
}

int model_config_texts(const char *dir, char **config, size_t *config_len, char **generation, size_t *generation_len,
                       struct why *why) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/generation_config.json", dir) >= (int)sizeof path)
        return fail(why, ERR_TOO_LARGE, "the model directory's path is too long; wanted fewer than %zu bytes",
                    sizeof path - 32);
    *config = *generation = NULL;
    *config_len = *generation_len = 0;
    int rc = json_read_bytes(path, MAX_CONFIG_BYTES, generation, generation_len, why);
    if (rc < 0 && rc != ERR_NOT_FOUND) return rc;
    snprintf(path, sizeof path, "%s/config.json", dir);
    rc = json_read_bytes(path, MAX_CONFIG_BYTES, config, config_len, why);
    if (rc >= 0) return 0;
    free(*generation);
    *generation = NULL;
    return rc == ERR_NOT_FOUND ? fail_in(why, rc, "%s is no model directory", dir) : rc;
}

int model_config_read(const char *dir, struct model_config *out, struct why *why) {
    char *text = NULL, *generation = NULL;
    size_t len = 0, generation_len = 0;
    int rc = model_config_texts(dir, &text, &len, &generation, &generation_len, why);
    if (rc < 0) return rc;
    rc = model_config_parse(text, len, generation, generation_len, out, why);
    free(text);
    free(generation);
    return rc < 0 ? fail_in(why, rc, "%s", dir) : 0;
}
