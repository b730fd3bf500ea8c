/* normalize.c - each stage reads w->text and writes w->spare, then the two change places.
 *
 * Besides the text every stage keeps `origin` right. Where a stage reorders (the Unicode forms) it is taken for the first
 * character alone, which is all that the later question "does this word start the text" can see. */
#include "model/normalize.h"

#include <stdlib.h>
#include <string.h>

#include "model/byte_level.h"
#include "model/json_field.h"
#include "model/unicode.h"
#include "model/utf8.h"

enum kind { FORM, LOWERCASE, REPLACE, PREPEND, STRIP, STRIP_ACCENTS, BYTES };

struct normal_stage {
    enum kind kind;
    enum unicode_form form;
    struct pattern *pattern; /* REPLACE */
    char *text;              /* REPLACE, PREPEND: what is put in */
    size_t text_len;
    bool left, right; /* STRIP */
};

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
        enum kind kind;
        enum unicode_form form;
    } kinds[] = {{"NFC", FORM, UNICODE_NFC},   {"NFD", FORM, UNICODE_NFD},  {"NFKC", FORM, UNICODE_NFKC},
                 {"NFKD", FORM, UNICODE_NFKD}, {"Lowercase", LOWERCASE, 0}, {"Replace", REPLACE, 0},
                 {"Prepend", PREPEND, 0},      {"Strip", STRIP, 0},         {"StripAccents", STRIP_ACCENTS, 0},
                 {"ByteLevel", BYTES, 0}};
    size_t i = 0, n = sizeof kinds / sizeof kinds[0];
    while (i < n && strcmp(kinds[i].type, type)) i++;
    if (i == n) return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known", where, type);
    s->kind = kinds[i].kind;
    s->form = kinds[i].form;
    struct text_span t;
    int rc = 0;
    if (s->kind == REPLACE) {
        rc = pattern_read(json_object_get(spec, "pattern"), where, &s->pattern, why);
        if (rc == 0) rc = json_field_need_text(spec, where, "content", &t, why);
        if (rc == 0) rc = keep_text(s, t, why);
    } else if (s->kind == PREPEND) {
        rc = json_field_need_text(spec, where, "prepend", &t, why);
        if (rc == 0 && !t.len) rc = fail(why, ERR_UNSUPPORTED, "%s: Prepend of nothing, which the reference gets wrong", where);
        if (rc == 0) rc = keep_text(s, t, why);
    } else if (s->kind == STRIP) {
        rc = json_field_bool(spec, where, "strip_left", false, &s->left, why);
        if (rc == 0) rc = json_field_bool(spec, where, "strip_right", false, &s->right, why);
    }
    return rc;
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
    if (out->n == PIPELINE_MAX_STAGES) return fail(why, ERR_INVALID, "%s: more than %d stages", where, PIPELINE_MAX_STAGES);
    return read_one(spec, type.s, &out->stages[out->n++], why);
}

int normalizer_read(const json_t *spec, struct normalizer *out, struct why *why) {
    *out = (struct normalizer){0};
    if (!spec || json_is_null(spec)) return 0;
    out->stages = calloc(PIPELINE_MAX_STAGES, sizeof *out->stages);
    if (!out->stages) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    return read_stages(spec, 1, out, why);
}

void normalizer_clear(struct normalizer *n) {
    for (int i = 0; i < n->n; i++) {
        pattern_close(n->stages[i].pattern);
        free(n->stages[i].text);
    }
    free(n->stages);
    *n = (struct normalizer){0};
}

void normal_work_clear(struct normal_work *w) {
    text_buf_clear(&w->text);
    text_buf_clear(&w->spare);
    for (int i = 0; i < PIPELINE_MAX_STAGES; i++) pattern_scratch_clear(&w->scratch[i]);
}

static int put(struct normal_work *w, const char *s, size_t len) { return text_buf_append(&w->spare, s, len); }

static int run_form(struct normal_work *w, enum unicode_form form) {
    size_t origin = w->origin;
    if (origin) { /* the first character alone is close enough: only whether it is there matters */
        struct text_buf first = {0};
        uint32_t cp;
        int rc = unicode_normalize(form, w->text.data, (size_t)utf8_next(w->text.data, &cp), &first);
        if (rc == 0) origin = first.len;
        text_buf_clear(&first);
        if (rc < 0) return rc;
    }
    int rc = unicode_normalize(form, w->text.data, w->text.len, &w->spare);
    while (origin < w->spare.len && origin && ((unsigned char)w->spare.data[origin] & 0xc0) == 0x80)
        origin++; /* it may have composed */
    w->origin = origin < w->spare.len ? origin : w->spare.len;
    return rc;
}

static int run_lowercase(struct normal_work *w) {
    size_t origin = 0;
    for (size_t i = 0; i < w->text.len;) {
        uint32_t cp, low[2];
        size_t n = (size_t)utf8_next(w->text.data + i, &cp);
        char b[8];
        int m = unicode_lower(cp, low), len = utf8_write(low[0], b);
        if (m == 2) len += utf8_write(low[1], b + len);
        if (put(w, b, (size_t)len) < 0) return ERR_NOMEM;
        if (i < w->origin) origin = w->spare.len;
        i += n;
    }
    w->origin = origin;
    return 0;
}

static int run_replace(const struct normal_stage *s, struct normal_work *w, struct pattern_scratch *scratch) {
    struct pattern_scan scan = {.pattern = s->pattern, .scratch = scratch, .text = w->text.data, .len = w->text.len};
    size_t start, end, done = 0, origin = 0;
    int rc;
    while ((rc = pattern_next(&scan, &start, &end)) == 1) {
        if (w->origin > done) origin = w->spare.len + (w->origin < start ? w->origin : start) - done;
        rc = put(w, w->text.data + done, start - done);
        if (rc == 0) rc = put(w, s->text, s->text_len);
        if (rc < 0) return rc;
        if (end <= w->origin) origin = w->spare.len;
        done = end;
    }
    if (rc < 0) return rc;
    if (w->origin > done) origin = w->spare.len + w->origin - done;
    w->origin = origin;
    return put(w, w->text.data + done, w->text.len - done);
}

static int run_strip(const struct normal_stage *s, struct normal_work *w) {
    size_t from = 0, to = w->text.len;
    uint32_t cp;
    for (int n; s->left && from < to && (n = utf8_next(w->text.data + from, &cp), unicode_is_space(cp));) from += (size_t)n;
    while (s->right && to > from) {
        size_t back = utf8_back(w->text.data, to);
        utf8_next(w->text.data + back, &cp);
        if (!unicode_is_space(cp)) break;
        to = back;
    }
    w->origin = w->origin <= from ? 0 : (w->origin < to ? w->origin : to) - from;
    return put(w, w->text.data + from, to - from);
}

static int run_strip_accents(struct normal_work *w) {
    size_t origin = 0;
    for (size_t i = 0; i < w->text.len;) {
        uint32_t cp;
        size_t n = (size_t)utf8_next(w->text.data + i, &cp);
        if (!unicode_is_mark(cp) && put(w, w->text.data + i, n) < 0) return ERR_NOMEM;
        if (i < w->origin) origin = w->spare.len;
        i += n;
    }
    w->origin = origin;
    return 0;
}

static int run_stage(const struct normal_stage *s, struct normal_work *w, struct pattern_scratch *scratch) {
    int rc = 0;
    switch (s->kind) {
    case FORM: return run_form(w, s->form);
    case LOWERCASE: return run_lowercase(w);
    case REPLACE: return run_replace(s, w, scratch);
    case STRIP: return run_strip(s, w);
    case STRIP_ACCENTS: return run_strip_accents(w);
    case PREPEND:
        rc = put(w, s->text, s->text_len);
        if (w->origin) w->origin += s->text_len;
        return rc < 0 ? rc : put(w, w->text.data, w->text.len);
    case BYTES:
        rc = byte_level_append(&w->spare, w->text.data, w->origin);
        if (rc < 0) return rc;
        size_t origin = w->spare.len;
        rc = byte_level_append(&w->spare, w->text.data + w->origin, w->text.len - w->origin);
        w->origin = origin;
        return rc;
    }
    return 0;
}

int normalizer_run(const struct normalizer *n, struct normal_work *w, const char *s, size_t len, size_t origin) {
    w->text.len = 0;
    w->origin = origin;
    int rc = text_buf_append(&w->text, s, len);
    for (int i = 0; i < n->n && rc == 0; i++) {
        if (!w->text.len) break; /* no stage makes text out of nothing */
        w->spare.len = 0;
        rc = run_stage(&n->stages[i], w, &w->scratch[i]);
        struct text_buf t = w->text;
        w->text = w->spare;
        w->spare = t;
    }
    return rc;
}
