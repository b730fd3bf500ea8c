/* checkpoint.c - binds a config to a set of tensors, once, strictly.
 *
 * Every tensor that model_tensor() wants is looked up and compared; what is left over is refused, but for a few kinds.
 * The fingerprint covers what two processes must have in common to call it the same model without reading the weights:
 * both config files, every tensor's name, dtype and shape, and the files' sizes. */
#include "model/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "model/config_parts.h"
#include "model/convert.h"
#include "model/pack.h"

static bool same_shape(const int64_t *want, int dims, const struct st_tensor *t) {
    bool same = t->dims == dims;
    for (int i = 0; same && i < dims; i++) same = t->shape[i] == want[i];
    return same;
}

static bool in_blocks(const struct tensor_want *w, const struct st_tensor *t) {
    if (!w->blocks || t->dims != 3) return false;
    return t->shape[0] == w->blocks && t->shape[1] == w->rows / w->blocks && t->shape[2] == w->cols;
}

static int wrong_shape(const char *what, const int64_t *want, int dims, const struct st_tensor *t, struct why *why) {
    char wanted[128], found[128];
    struct st_tensor like = {.dims = dims};
    memcpy(like.shape, want, (size_t)dims * sizeof *want);
    return fail(why, ERR_INVALID, "tensor %s has the wrong shape: wanted %s (from %s), found %s in %s", t->name,
                st_shape_text(&like, wanted, sizeof wanted), what, st_shape_text(t, found, sizeof found), t->file);
}

static int wrong_dtype(const struct st_tensor *t, const char *wanted, struct why *why) {
    return fail(why, ERR_UNSUPPORTED, "tensor %s has the wrong dtype: wanted %s, found %s in %s", t->name, wanted,
                st_dtype_name(t->dtype), t->file);
}

/* What lies beside a tensor in a block format. */
static int check_scales(const struct checkpoint *c, const struct tensor_want *w, const struct st_tensor *t, bool *used,
                        struct why *why) {
    const struct st_tensor *s = checkpoint_scales(c->tensors, w);
    const int block = c->config.quant_block;
    if (!s)
        return fail(why, ERR_NOT_FOUND, "tensor %s is %s in %s, but has no scales beside it (%s)", t->name,
                    st_dtype_name(t->dtype), t->file, w->packed ? "_scales" : "_scale_inv");
    const int64_t squares[2] = {w->packed ? 0 : (w->rows + block - 1) / block, w->packed ? 0 : (w->cols + block - 1) / block};
    if (!same_shape(w->packed ? w->shape : squares, w->packed ? 3 : 2, s))
        return wrong_shape("config.json and the tensor beside it", w->packed ? w->shape : squares, w->packed ? 3 : 2, s, why);
    if (w->packed ? s->dtype != ST_U8 : !convert_knows(s->dtype))
        return wrong_dtype(s, w->packed ? "U8" : "F32, F16 or BF16", why);
    used[s - st_at(c->tensors, 0)] = true;
    return 0;
}

static int check_tensor(const struct checkpoint *c, enum tensor_role role, const struct tensor_want *w, bool *used,
                        struct why *why) {
    const struct st_tensor *t = st_find(c->tensors, w->name);
    if (!t) {
        char wanted[128];
        struct st_tensor like = {.dims = w->dims};
        memcpy(like.shape, w->shape, sizeof w->shape);
        return fail(why, ERR_NOT_FOUND, "tensor %s is missing; config.json asks for it with shape %s", w->name,
                    st_shape_text(&like, wanted, sizeof wanted));
    }
    if (!same_shape(w->shape, w->dims, t) && !in_blocks(w, t)) return wrong_shape("config.json", w->shape, w->dims, t, why);
    used[t - st_at(c->tensors, 0)] = true;
    const bool blocks = c->config.quant == FMT_FP8 && w->cols > 0 && model_may_be_fp8(role);
    if (w->packed) return t->dtype == ST_U8 ? check_scales(c, w, t, used, why) : wrong_dtype(t, "U8 (mxfp4)", why);
    if (blocks && t->dtype == ST_F8_E4M3) return check_scales(c, w, t, used, why);
    if (blocks && tensor_in_blob(role)) return wrong_dtype(t, "F8_E4M3 (quantization_config)", why); /* all experts alike */
    if (t->dtype == ST_F8_E4M3 && w->cols > 0 && c->config.quant != FMT_FP8)
        return fail(why, ERR_UNSUPPORTED,
                    "tensor %s is F8_E4M3 in %s, but config.json has no quantization_config with quant_method "
                    "\"fp8\", which says how it is scaled",
                    t->name, t->file);
    return convert_knows(t->dtype) ? 0 : wrong_dtype(t, blocks ? "F32, F16, BF16 or F8_E4M3" : "F32, F16 or BF16", why);
}

static int check_role(const struct checkpoint *c, enum tensor_role role, int layer, bool *used, struct why *why) {
    struct tensor_want w;
    for (int e = 0; e < model_tensor_count(&c->config, role); e++) {
        if (!model_tensor(&c->config, role, layer, e, &w)) continue;
        int rc = check_tensor(c, role, &w, used, why);
        if (rc < 0) return rc;
    }
    return 0;
}

static int check_all(const struct checkpoint *c, bool *used, struct why *why) {
    int rc = 0;
    for (int role = T_EMBED; rc >= 0 && role < T_ATTN_NORM; role++) rc = check_role(c, (enum tensor_role)role, 0, used, why);
    for (int layer = 0; layer < c->config.layers; layer++)
        for (int role = T_ATTN_NORM; rc >= 0 && role < T_ROLE_COUNT; role++)
            rc = check_role(c, (enum tensor_role)role, layer, used, why);
    return rc;
}

/* Layers after the last, and modules of that name, are for multi-token prediction, which serving does not need (DeepSeek-V3's
 * layer 61). name: without the prefix of a model that is part of a larger one. */
static bool predicts_more(const char *name, int layers) {
    static const char front[] = "model.layers.";
    char *end;
    if (!strncmp(name, "mtp.", 4) || !strncmp(name, "model.mtp", 9)) return true;
    if (strncmp(name, front, sizeof front - 1)) return false;
    long layer = strtol(name + sizeof front - 1, &end, 10);
    return *end == '.' && end > name + sizeof front - 1 && layer >= layers;
}

static bool ends(const char *name, const char *tail) {
    const size_t n = strlen(name), t = strlen(tail);
    return n >= t && !strcmp(name + n - t, tail);
}

/* Written by older versions of the reference implementation, and computed from config.json here; and a head that is the
 * embeddings' copy. */
static bool is_redundant(const struct model_config *c, const char *name) {
    return ends(name, "rotary_emb.inv_freq") || ends(name, "self_attn.masked_bias") ||
           (c->tied_embeddings && !strcmp(name, "lm_head.weight"));
}

/* Tensors that the model does not use mean that config.json does not say what the model is, and are refused. But for those of
 * which it is known that serving does without. */
static int check_extra(const struct checkpoint *c, const bool *used, const char *dir, struct why *why) {
    const struct st_set *s = c->tensors;
    const char *prefix = model_tensor_prefix(&c->config);
    const size_t front = strlen(prefix);
    int beyond = 0, apart = 0, redundant = 0;
    for (int i = 0; i < st_count(s); i++) {
        const struct st_tensor *t = st_at(s, i);
        if (used[i]) continue;
        if (strncmp(t->name, prefix, front)) apart++;
        else if (predicts_more(t->name + front, c->config.layers)) beyond++;
        else if (is_redundant(&c->config, t->name + front)) redundant++;
        else
            return fail(why, ERR_UNSUPPORTED,
                        "tensor %s in %s is in no part of model_type %s as config.json describes it, so the answers would be "
                        "wrong; wanted a config.json that goes with these weights",
                        t->name, t->file, c->config.family);
    }
    if (beyond)
        log_info("%s: layers from %d on are for multi-token prediction and not used: %d tensors skipped", dir, c->config.layers,
                 beyond);
    if (apart) log_info("%s: only the text model (%s*) is served: %d other tensors skipped", dir, prefix, apart);
    if (redundant) log_debug("%s: %d tensors skipped that other keys and tensors already say", dir, redundant);
    return 0;
}

static int check_tensors(const struct checkpoint *c, const char *dir, struct why *why) {
    bool *used = calloc((size_t)st_count(c->tensors) + 1, sizeof *used);
    if (!used) return fail(why, ERR_NOMEM, "out of memory for %d tensors", st_count(c->tensors));
    int rc = check_all(c, used, why);
    if (rc >= 0) rc = check_extra(c, used, dir, why);
    free(used);
    return rc;
}

struct texts {
    char *config, *generation; /* the latter may be NULL */
    size_t config_len, generation_len;
};

static void add_bytes(void *ctx, const void *bytes, size_t n) { XXH3_64bits_update(ctx, bytes, n); }

static int fingerprint(const struct texts *t, const struct checkpoint *c, uint64_t *out, struct why *why) {
    const struct st_set *s = c->tensors;
    const uint64_t lens[2] = {t->config_len, t->generation_len};
    XXH3_state_t *state = XXH3_createState();
    if (!state) return fail(why, ERR_NOMEM, "out of memory");
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, lens, sizeof lens);
    XXH3_64bits_update(state, t->config, t->config_len);
    if (t->generation) XXH3_64bits_update(state, t->generation, t->generation_len);
    for (int i = 0; i < st_count(s); i++) {
        const struct st_tensor *tensor = st_at(s, i);
        const int64_t meta[2] = {(int64_t)tensor->dtype, tensor->dims};
        XXH3_64bits_update(state, tensor->name, strlen(tensor->name) + 1);
        XXH3_64bits_update(state, meta, sizeof meta);
        XXH3_64bits_update(state, tensor->shape, sizeof *tensor->shape * (size_t)tensor->dims);
    }
    for (int i = 0; i < st_file_count(s); i++) {
        const uint64_t bytes = st_file_bytes(s, i);
        XXH3_64bits_update(state, &bytes, sizeof bytes);
    }
    if (c->pack) pack_identify(c->pack, add_bytes, state);
    *out = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return 0;
}

/* Whether there are tensors of that role, and all are bf16. */
static void look(const struct checkpoint *c, enum tensor_role role, int layer, bool *some, bool *narrow) {
    struct tensor_want w;
    for (int e = 0; e < model_tensor_count(&c->config, role); e++) {
        if (!model_tensor(&c->config, role, layer, e, &w)) continue;
        *some = true;
        *narrow &= st_find(c->tensors, w.name)->dtype == ST_BF16;
    }
}

/* What the files say about matrices that are not quantised, instead of torch_dtype: the experts', or the embeddings'. Blobs of
 * all experts are of one format, so one expert's f32 makes all f32: the widest rounds nothing. */
static void note_stored(struct checkpoint *c) {
    bool some = false, narrow = true;
    for (int l = 0; narrow && c->config.quant == FMT_COUNT && l < c->config.layers; l++)
        for (int role = T_ATTN_NORM; role < T_ROLE_COUNT; role++)
            if (tensor_in_blob((enum tensor_role)role)) look(c, (enum tensor_role)role, l, &some, &narrow);
    if (!some) look(c, T_EMBED, 0, &some, &narrow);
    c->config.stored = narrow ? FMT_BF16 : FMT_F32;
}

static int open_checked(const char *dir, const struct texts *t, struct checkpoint *c, struct why *why) {
    int rc = model_config_parse(t->config, t->config_len, t->generation, t->generation_len, &c->config, why);
    if (rc < 0) return fail_in(why, rc, "%s", dir);
    rc = pack_open(dir, &c->config, &c->pack, why);
    if (rc >= 0) return fingerprint(t, c, &c->fingerprint, why);
    if (rc != ERR_NOT_FOUND) return rc;
    rc = st_open(dir, &c->tensors, why);
    if (rc < 0) return rc;
    rc = check_tensors(c, dir, why);
    if (rc < 0) return fail_in(why, rc, "%s", dir);
    note_stored(c);
    return fingerprint(t, c, &c->fingerprint, why);
}

int checkpoint_open(const char *dir, struct checkpoint *out, struct why *why) {
    struct texts t = {0};
    struct checkpoint c = {0};
    int rc = model_config_texts(dir, &t.config, &t.config_len, &t.generation, &t.generation_len, why);
    if (rc >= 0) rc = open_checked(dir, &t, &c, why);
    if (rc < 0 && pack_unfinished(dir))
        rc = fail(why, ERR_CORRUPT, "%s is an unfinished pack: run cadre pack again to finish it", dir);
    if (rc >= 0) *out = c;
    else checkpoint_close(&c);
    free(t.config);
    free(t.generation);
    return rc < 0 ? rc : 0;
}

void checkpoint_close(struct checkpoint *c) {
    if (!c) return;
    st_close(c->tensors);
    pack_close(c->pack);
    c->tensors = NULL;
    c->pack = NULL;
}

int checkpoint_weights(const struct checkpoint *c, const char *said, enum fmt *out, struct why *why) {
    const enum fmt own = c->pack ? pack_weights(c->pack) : FMT_BF16;
    const int fmt = strcmp(said, "auto") ? fmt_parse(said) : (int)own;
    if (fmt < 0) return fail(why, ERR_INVALID, "weights '%s': wanted auto, bf16, f32, q8, q4 or stored", said);
    if (c->pack && fmt != (int)own)
        return fail(why, ERR_INVALID,
                    "weights %s: the model is a pack, which holds %s; leave --weights out, or serve what it was made of", said,
                    fmt_name(own));
    *out = (enum fmt)fmt;
    return 0;
}
