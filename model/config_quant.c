/* config_quant.c - quantization_config: in which block format a checkpoint's matrices are.
 *
 * Which matrices those are, a checkpoint says by their dtypes, so modules_to_not_convert is not read; checkpoint_open refuses
 * what contradicts this file. The members are closed: one that is unknown may change what the bytes mean. */
#include "model/config_parts.h"

#include <string.h>

static int check_members(const json_t *q, const char *const *known, struct why *why) {
    const char *key;
    const json_t *v;
    json_object_foreach((json_t *)q, key, v) {
        bool found = json_is_null(v);
        for (int i = 0; !found && known[i]; i++) found = !strcmp(key, known[i]);
        struct json_shown shown, shown_key;
        if (!found)
            return fail(why, ERR_UNSUPPORTED, "%s is %s, which Cadre does not implement; accepted: null",
                        json_show_text(key, &shown_key), json_show(v, &shown));
    }
    return 0;
}

/* alias: another spelling of it; may be NULL. */
static int check_word(const json_t *q, const char *key, const char *word, const char *alias, struct why *why) {
    const json_t *v = json_object_get(q, key);
    const char *s = json_string_value(v);
    struct json_shown shown;
    if (!v || json_is_null(v) || (s && (!strcmp(s, word) || (alias && !strcmp(s, alias))))) return 0;
    return fail(why, ERR_UNSUPPORTED, "%s is %s, which Cadre does not implement; accepted: null, \"%s\"", key,
                json_show(v, &shown), word);
}

static int check_no_flag(const json_t *q, const char *key, struct why *why) {
    bool flag = false;
    int rc = json_get_bool(q, key, &flag, why);
    if (rc < 0 || !flag) return rc;
    return fail(why, ERR_UNSUPPORTED, "%s is true, which Cadre does not implement; accepted: null, false", key);
}

static int read_fp8(const json_t *q, struct model_config *out, struct why *why) {
    static const char *const known[] = {"quant_method", "fmt", "weight_block_size", "activation_scheme",
                                        "modules_to_not_convert", "ignored_layers", "scale_fmt", "dequantize", NULL};
    const json_t *size = NULL;
    int rc = check_members(q, known, why);
    if (rc >= 0) rc = check_word(q, "fmt", "e4m3", "float8_e4m3fn", why);
    if (rc >= 0) rc = check_word(q, "activation_scheme", "dynamic", NULL, why); /* static: scales of activations are on disk */
    if (rc >= 0) rc = check_word(q, "scale_fmt", "ue8m0", NULL, why); /* of activations; the weights' scales are floats */
    if (rc >= 0) rc = check_no_flag(q, "dequantize", why);
    if (rc >= 0) rc = json_get_array(q, "weight_block_size", &size, why);
    if (rc < 0) return rc;
    if (!size) return fail(why, ERR_UNSUPPORTED, "weight_block_size is missing; accepted: two equal numbers, as [128, 128]");
    const json_t *a = json_array_get(size, 0), *b = json_array_get(size, 1);
    int64_t rows = json_integer_value(a), cols = json_integer_value(b);
    if (json_array_size(size) != 2 || !json_is_integer(a) || !json_is_integer(b) || rows != cols || rows < 16 || rows > 4096 ||
        rows % 16) {
        struct json_shown shown;
        return fail(why, ERR_UNSUPPORTED,
                    "weight_block_size is %s; accepted: two equal multiples of 16 up to 4096, as [128, 128]",
                    json_show(json_object_get(q, "weight_block_size"), &shown));
    }
    out->quant = FMT_FP8;
    out->quant_block = (int)rows;
    return 0;
}

static int read_mxfp4(const json_t *q, struct model_config *out, struct why *why) {
    static const char *const known[] = {"quant_method", "modules_to_not_convert", "dequantize", NULL};
    int rc = check_members(q, known, why);
    if (rc >= 0) rc = check_no_flag(q, "dequantize", why);
    if (rc >= 0 && (out->hidden % MXFP4_BLOCK || out->expert_ffn % MXFP4_BLOCK))
        rc =
            fail(why, ERR_INVALID, "quant_method is \"mxfp4\", but hidden_size %d or intermediate_size %d is no multiple of %d",
                 out->hidden, out->expert_ffn, (int)MXFP4_BLOCK);
    if (rc >= 0) out->quant = FMT_MXFP4;
    return rc;
}

/* The one block format that a family's checkpoints are read in; NULL: none. Llama-4 has the experts of a layer in one tensor
 * whose rows are columns here: blocks of it would lie across what is read. */
static const char *block_format(const struct family *f) { return f->fused_experts ? "mxfp4" : f->llama4 ? NULL : "fp8"; }

int config_quant(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    const char *method = NULL, *format = block_format(f);
    const json_t *q = NULL;
    struct json_shown shown;
    out->quant = FMT_COUNT;
    int rc = json_get_object(root, "quantization_config", &q, why);
    if (rc <= 0) return rc;
    rc = json_get_string(q, "quant_method", &method, why);
    if (rc < 0) return fail_in(why, rc, "quantization_config");
    const char *word = method ? json_show_text(method, &shown) : "missing";
    if (!format)
        rc = fail(why, ERR_UNSUPPORTED,
                  "quant_method is %s, which Cadre does not implement for model_type %s; accepted: no quantization_config, "
                  "without it weights in bfloat16",
                  word, f->model_type);
    else if (!method || strcmp(method, format))
        rc = fail(why, ERR_UNSUPPORTED,
                  "quant_method is %s, which Cadre does not implement for model_type %s; accepted: \"%s\"", word,
                  f->model_type, format);
    else
        rc = f->fused_experts ? read_mxfp4(q, out, why) : read_fp8(q, out, why);
    return rc < 0 ? fail_in(why, rc, "quantization_config") : 0;
}
