/* normalize.c - each stage reads w->text and writes w->spare, then the two change places.
 *
 * Besides the text every stage keeps `origin` right. Where a stage reorders (the Unicode forms) it is taken for the first
 * character alone, which is all that the later question "does this word start the text" can see. */
#include "model/text/normalize.h"

#include <string.h>

#include "model/text/byte_level.h"
#include "model/text/normal_stage.h"
#include "model/text/unicode.h"
#include "model/text/utf8.h"

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

/* Character by character; see normal_character. */
static int run_characters(enum normal_kind kind, struct normal_work *w) {
    size_t origin = 0;
    for (size_t i = 0; i < w->text.len;) {
        uint32_t cp, form[NORMAL_MAX_FORM];
        char b[4 * NORMAL_MAX_FORM];
        size_t n = (size_t)utf8_next(w->text.data + i, &cp), len = 0;
        int m = normal_character(kind, cp, form);
        for (int k = 0; k < m; k++) len += (size_t)utf8_write(form[k], b + len);
        if (put(w, b, len) < 0) return ERR_NOMEM;
        if (i < w->origin) origin = w->spare.len;
        i += n;
    }
    w->origin = origin;
    return 0;
}

/* SentencePiece's map as tokenizer.json applies it: by grapheme where that is short, the shortest source at its start standing
 * for all of it; else by character. */
static int run_map(const struct charsmap *m, struct normal_work *w) {
    const char *s = w->text.data;
    size_t origin = 0, taken;
    for (size_t at = 0, end; at < w->text.len; at = end) {
        end = at + unicode_grapheme(s + at, w->text.len - at);
        const char *form = end - at < 6 ? charsmap_find(m, s + at, end - at, false, &taken) : NULL;
        if (form && put(w, form, strlen(form)) < 0) return ERR_NOMEM;
        for (size_t i = at, n; !form && i < end; i += n) {
            uint32_t cp;
            n = (size_t)utf8_next(s + i, &cp);
            const char *one = charsmap_find(m, s + i, n, false, &taken);
            if (put(w, one ? one : s + i, one ? strlen(one) : n) < 0) return ERR_NOMEM;
        }
        if (at < w->origin) origin = w->spare.len;
    }
    w->origin = origin;
    return 0;
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

static int run_stage(const struct normal_stage *s, struct normal_work *w, struct pattern_scratch *scratch) {
    int rc = 0;
    bool first = w->origin > 0;
    switch (s->kind) {
    case NORMAL_SENTENCEPIECE:
        rc = spm_normalize(s->spm, w->text.data, w->text.len, first, &w->spare);
        w->origin = first && w->spare.len ? 1 : 0; /* nothing behind this stage asks for more */
        return rc;
    case NORMAL_FORM: return run_form(w, s->form);
    case NORMAL_REPLACE:
        return pattern_replace(s->pattern, scratch, w->text.data, w->text.len, s->text, s->text_len, &w->origin, &w->spare);
    case NORMAL_STRIP: return run_strip(s, w);
    case NORMAL_LOWERCASE:
    case NORMAL_STRIP_ACCENTS:
    case NORMAL_STRIP_NONSPACING:
    case NORMAL_CLEAN:
    case NORMAL_SPACE_IDEOGRAPHS:
    case NORMAL_NMT: return run_characters(s->kind, w);
    case NORMAL_MAP: return run_map(s->map, w);
    case NORMAL_PREPEND:
        rc = put(w, s->text, s->text_len);
        if (w->origin) w->origin += s->text_len;
        return rc < 0 ? rc : put(w, w->text.data, w->text.len);
    case NORMAL_BYTES:
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
