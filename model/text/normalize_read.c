/* normalize_read.c - tokenizer.json's "normalizer", or a SentencePiece model's rules, into stages. */
#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/text/normal_stage.h"
#include "model/text/normalize.h"

static const char *const where = "tokenizer.json: normalizer";

static int keep_text(struct normal_stage *s, struct text_span t, struct why *why) {
    s->text = malloc(t.len + 1);
    if (!s->text) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    memcpy(s->text, t.s, t.len + 1);
    s->text_len = t.len;
    return 0;
}

static int read_one(const json_t *spec, const char *type, struct normal_stage *s, struct why *why) {
    static const struct {
        const char *type;
        enum normal_kind kind;
        enum unicode_form form;
    } kinds[] = {
        {"NFC", NORMAL_FORM, UNICODE_NFC},   {"NFD", NORMAL_FORM, UNICODE_NFD},  {"NFKC", NORMAL_FORM, UNICODE_NFKC},
        {"NFKD", NORMAL_FORM, UNICODE_NFKD}, {"Lowercase", NORMAL_LOWERCASE, 0}, {"Replace", NORMAL_REPLACE, 0},
        {"Prepend", NORMAL_PREPEND, 0},      {"Strip", NORMAL_STRIP, 0},         {"StripAccents", NORMAL_STRIP_ACCENTS, 0},
        {"ByteLevel", NORMAL_BYTES, 0},
        {"Nmt", NORMAL_NMT, 0},
        {"Precompiled", NORMAL_MAP, 0}};
    size_t i = 0, n = sizeof kinds / sizeof kinds[0];
    while (i < n && strcmp(kinds[i].type, type)) i++;
    if (i == n) return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known", where, type);
    s->kind = kinds[i].kind;
    s->form = kinds[i].form;
    struct text_span t;
    int rc = 0;
    if (s->kind == NORMAL_REPLACE) {
        rc = pattern_read(json_object_get(spec, "pattern"), where, &s->pattern, why);
        if (rc == 0) rc = json_field_need_text(spec, where, "content", &t, why);
        if (rc == 0) rc = keep_text(s, t, why);
    } else if (s->kind == NORMAL_PREPEND) {
        rc = json_field_need_text(spec, where, "prepend", &t, why);
        if (rc == 0 && !t.len) rc = fail(why, ERR_UNSUPPORTED, "%s: Prepend of nothing, which the reference gets wrong", where);
        if (rc == 0) rc = keep_text(s, t, why);
    } else if (s->kind == NORMAL_MAP) {
        rc = json_field_text(spec, where, "precompiled_charsmap", &t, why);
        if (rc == 0) s->map = calloc(1, sizeof *s->map);
        if (rc == 0 && !s->map) rc = fail(why, ERR_NOMEM, "%s: out of memory", where);
        if (rc == 0 && t.len) rc = charsmap_open_base64(s->map, t.s, t.len, why);
        if (rc < 0) fail_in(why, rc, "%s", where);
    } else if (s->kind == NORMAL_STRIP) {
        rc = json_field_bool(spec, where, "strip_left", false, &s->left, why);
        if (rc == 0) rc = json_field_bool(spec, where, "strip_right", false, &s->right, why);
    }
    return rc;
}

static int add_stage(struct normalizer *out, struct normal_stage s, struct why *why) {
    if (out->n == PIPELINE_MAX_STAGES) return fail(why, ERR_INVALID, "%s: more than %d stages", where, PIPELINE_MAX_STAGES);
    out->stages[out->n++] = s;
    return 0;
}

/* BertNormalizer is up to five stages. */
static int read_bert(const json_t *spec, struct normalizer *out, struct why *why) {
    bool clean, ideographs, lower, strip;
    int rc = json_field_bool(spec, where, "clean_text", true, &clean, why);
    if (rc == 0) rc = json_field_bool(spec, where, "handle_chinese_chars", true, &ideographs, why);
    if (rc == 0) rc = json_field_bool(spec, where, "lowercase", true, &lower, why);
    if (rc == 0) rc = json_field_bool(spec, where, "strip_accents", lower, &strip, why);
    if (rc == 0 && clean) rc = add_stage(out, (struct normal_stage){.kind = NORMAL_CLEAN}, why);
    if (rc == 0 && ideographs) rc = add_stage(out, (struct normal_stage){.kind = NORMAL_SPACE_IDEOGRAPHS}, why);
    if (rc == 0 && strip) rc = add_stage(out, (struct normal_stage){.kind = NORMAL_FORM, .form = UNICODE_NFD}, why);
    if (rc == 0 && strip) rc = add_stage(out, (struct normal_stage){.kind = NORMAL_STRIP_NONSPACING}, why);
    return rc == 0 && lower ? add_stage(out, (struct normal_stage){.kind = NORMAL_LOWERCASE}, why) : rc;
}

static int read_stages(const json_t *spec, int depth, struct normalizer *out, struct why *why) {
    struct text_span type;
    if (depth > PIPELINE_MAX_NESTING)
        return fail(why, ERR_INVALID, "%s: sequences nest deeper than %d", where, PIPELINE_MAX_NESTING);
    if (!json_is_object(spec)) return fail(why, ERR_INVALID, "%s: every stage must be an object", where);
    int rc = json_field_need_text(spec, where, "type", &type, why);
    if (rc < 0) return rc;
    if (!strcmp(type.s, "Sequence")) {
        const json_t *list = json_object_get(spec, "normalizers"), *v;
        if (!json_is_array(list)) return fail(why, ERR_INVALID, "%s: a Sequence needs the list 'normalizers'", where);
        size_t i;
        json_array_foreach(list, i, v) {
            rc = read_stages(v, depth + 1, out, why);
            if (rc < 0) return rc;
        }
        return 0;
    }
    if (!strcmp(type.s, "BertNormalizer")) return read_bert(spec, out, why);
    rc = add_stage(out, (struct normal_stage){0}, why);
    return rc < 0 ? rc : read_one(spec, type.s, &out->stages[out->n - 1], why);
}

int normalizer_read(const json_t *spec, struct normalizer *out, struct why *why) {
    *out = (struct normalizer){0};
    if (!spec || json_is_null(spec)) return 0;
    out->stages = calloc(PIPELINE_MAX_STAGES, sizeof *out->stages);
    if (!out->stages) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    return read_stages(spec, 1, out, why);
}

int normalizer_sentencepiece(struct spm_normal *rules, struct normalizer *out, struct why *why) {
    *out = (struct normalizer){0};
    out->stages = calloc(1, sizeof *out->stages);
    struct spm_normal *own = malloc(sizeof *own);
    if (!out->stages || !own) {
        free(own);
        return fail(why, ERR_NOMEM, "%s: out of memory", where);
    }
    *own = *rules;
    *rules = (struct spm_normal){0};
    out->stages[out->n++] = (struct normal_stage){.kind = NORMAL_SENTENCEPIECE, .spm = own};
    return 0;
}

void normalizer_clear(struct normalizer *n) {
    for (int i = 0; i < n->n; i++) {
        pattern_close(n->stages[i].pattern);
        free(n->stages[i].text);
        if (n->stages[i].spm) spm_normal_clear(n->stages[i].spm);
        free(n->stages[i].spm);
        if (n->stages[i].map) charsmap_close(n->stages[i].map);
        free(n->stages[i].map);
    }
    free(n->stages);
    *n = (struct normalizer){0};
}
