/* checkpoint.c - binds a config to a set of tensors, once, strictly.
 *
 * Every tensor that model_tensor() wants is looked up and compared; what is left over is counted and named in one line.
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

static bool same_shape(const struct tensor_want *w, const struct st_tensor *t) {
    if (!w->cols) return t->dims == 1 && t->shape[0] == w->rows;
    if (w->blocks && t->dims == 3)
        return t->shape[0] == w->blocks && t->shape[1] == w->rows / w->blocks && t->shape[2] == w->cols;
    return t->dims == 2 && t->shape[0] == w->rows && t->shape[1] == w->cols;
}

static const char *want_text(const struct tensor_want *w, char *buf, size_t cap) {
    if (w->cols) snprintf(buf, cap, "[%d, %d]", w->rows, w->cols);
    else snprintf(buf, cap, "[%d]", w->rows);
    return buf;
}

static int check_tensor(const struct st_set *s, const struct tensor_want *w, bool *used, struct why *why) {
    char wanted[48], found[128];
    const struct st_tensor *t = st_find(s, w->name);
    want_text(w, wanted, sizeof wanted);
    if (!t) return fail(why, ERR_NOT_FOUND, "tensor %s is missing; config.json asks for it with shape %s", w->name, wanted);
    if (!same_shape(w, t))
        return fail(why, ERR_INVALID, "tensor %s has the wrong shape: wanted %s (from config.json), found %s in %s", w->name,
                    wanted, st_shape_text(t, found, sizeof found), t->file);
    if (!convert_knows(t->dtype))
        return fail(why, ERR_UNSUPPORTED, "tensor %s has the wrong dtype: wanted F32, F16 or BF16, found %s in %s", w->name,
                    st_dtype_name(t->dtype), t->file);
    used[t - st_at(s, 0)] = true;
    return 0;
}

static int check_role(const struct checkpoint *c, enum tensor_role role, int layer, bool *used, struct why *why) {
    struct tensor_want w;
    for (int e = 0; e < model_tensor_count(&c->config, role); e++) {
        if (!model_tensor(&c->config, role, layer, e, &w)) continue;
        int rc = check_tensor(c->tensors, &w, used, why);
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

/* Layers after the last are for multi-token prediction, which serving does not need (DeepSeek-V3's layer 61). */
static bool beyond_layers(const char *name, int layers) {
    static const char front[] = "model.layers.";
    char *end;
    if (strncmp(name, front, sizeof front - 1)) return false;
    long layer = strtol(name + sizeof front - 1, &end, 10);
    return *end == '.' && layer >= layers;
}

static void note_extra(const struct st_set *s, const bool *used, int layers, const char *dir) {
    char text[400];
    size_t n = 0;
    int extra = 0, beyond = 0;
    for (int i = 0; i < st_count(s); i++) {
        if (used[i]) continue;
        if (beyond_layers(st_at(s, i)->name, layers)) {
            beyond++;
            continue;
        }
        if (extra++ < 3) n += (size_t)snprintf(text + n, sizeof text - n, "%s%.100s", n ? ", " : "", st_at(s, i)->name);
    }
    if (beyond)
        log_info("%s: layers from %d on are for multi-token prediction and not used: %d tensors skipped", dir, layers, beyond);
    if (extra) log_info("%s: tensors that this model does not use: %d (%s%s)", dir, extra, text, extra > 3 ? ", ..." : "");
}

static int check_tensors(const struct checkpoint *c, const char *dir, struct why *why) {
    bool *used = calloc((size_t)st_count(c->tensors) + 1, sizeof *used);
    if (!used) return fail(why, ERR_NOMEM, "out of memory for %d tensors", st_count(c->tensors));
    int rc = check_all(c, used, why);
    if (rc >= 0) note_extra(c->tensors, used, c->config.layers, dir);
    free(used);
    return rc;
}

struct texts {
    char *config, *generation; /* the latter may be NULL */
    size_t config_len, generation_len;
};

static int fingerprint(const struct texts *t, const struct st_set *s, uint64_t *out, struct why *why) {
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
    *out = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return 0;
}

static int open_checked(const char *dir, const struct texts *t, struct checkpoint *c, struct why *why) {
    int rc = model_config_parse(t->config, t->config_len, t->generation, t->generation_len, &c->config, why);
    if (rc < 0) return fail_in(why, rc, "%s", dir);
    rc = st_open(dir, &c->tensors, why);
    if (rc < 0) return rc;
    rc = check_tensors(c, dir, why);
    if (rc < 0) return fail_in(why, rc, "%s", dir);
    return fingerprint(t, c->tensors, &c->fingerprint, why);
}

int checkpoint_open(const char *dir, struct checkpoint *out, struct why *why) {
    struct texts t = {0};
    struct checkpoint c = {0};
    int rc = model_config_texts(dir, &t.config, &t.config_len, &t.generation, &t.generation_len, why);
    if (rc >= 0) rc = open_checked(dir, &t, &c, why);
    if (rc >= 0) *out = c;
    else checkpoint_close(&c);
    free(t.config);
    free(t.generation);
    return rc < 0 ? rc : 0;
}

void checkpoint_close(struct checkpoint *c) {
    if (!c) return;
    st_close(c->tensors);
    c->tensors = NULL;
}

static const struct st_tensor *find(const struct checkpoint *c, enum tensor_role role, int layer, int expert, size_t *n) {
    struct tensor_want w;
    if (!model_tensor(&c->config, role, layer, expert, &w))
        BUG("checkpoint: %s has no tensor of role %d, layer %d, expert %d", c->config.family, (int)role, layer, expert);
    const struct st_tensor *t = st_find(c->tensors, w.name);
    if (!t) BUG("checkpoint: tensor %s was there when it was opened", w.name);
    *n = (size_t)w.rows * (size_t)(w.cols ? w.cols : 1);
    return t;
}

void checkpoint_read(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt fmt, void *dst) {
    size_t n;
    if (c->headers_only) return;
    const struct st_tensor *t = find(c, role, layer, expert, &n);
    convert(dst, fmt, t->data, t->dtype, n);
}

const void *checkpoint_map(const struct checkpoint *c, enum tensor_role role, int layer, int expert, enum fmt fmt) {
    size_t n;
    const struct st_tensor *t = find(c, role, layer, expert, &n);
    bool aligned = (uintptr_t)t->data % (fmt == FMT_F32 ? 4 : 2) == 0;
    return convert_same(t->dtype) == (int)fmt && aligned ? t->data : NULL;
}
