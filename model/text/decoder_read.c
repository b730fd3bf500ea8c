/* decoder_read.c - tokenizer.json's "decoder" into stages. */
#include <stdlib.h>
#include <string.h>

#include "model/text/decode_stage.h"
#include "model/json_field.h"
#include "model/text/normalize.h"

static const char *const where = "tokenizer.json: decoder";

/* ---- reading ---- */

static int keep(struct text_span t, char **to, size_t *len, struct why *why) {
    *to = malloc(t.len + 1);
    if (!*to) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    memcpy(*to, t.s, t.len + 1);
    *len = t.len;
    return 0;
}

static int read_char(const json_t *spec, const char *key, uint32_t *ch, struct why *why) {
    struct text_span t;
    int rc = json_field_need_text(spec, where, key, &t, why);
    if (rc < 0) return rc;
    if (!t.len || (size_t)utf8_next(t.s, ch) != t.len)
        return fail(why, ERR_INVALID, "%s: '%s' must be one character", where, key);
    return 0;
}

static int read_replace(const json_t *spec, struct decode_stage *s, struct why *why) {
    const json_t *pattern = json_object_get(spec, "pattern");
    struct text_span find, content;
    int rc = pattern_read(pattern, where, &s->pattern, why);
    if (rc == 0) rc = json_field_text(pattern, where, "String", &find, why);
    if (rc == 0) rc = json_field_need_text(spec, where, "content", &content, why);
    if (rc == 0) rc = keep(content, &s->put, &s->put_len, why);
    if (rc == 0 && find.s) rc = keep(find, &s->find, &s->find_len, why);
    if (rc < 0 || !s->joined) return rc;
    if (!s->find || !s->find_len || s->find_len > 4096)
        return fail(why, ERR_UNSUPPORTED, "%s: a Replace behind Fuse or ByteLevel must replace a fixed text", where);
    s->fail = calloc(s->find_len + 1, sizeof *s->fail);
    if (!s->fail) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    for (size_t i = 1, k = 0; i < s->find_len; i++) {
        while (k && s->find[i] != s->find[k]) k = s->fail[k];
        if (s->find[i] == s->find[k]) k++;
        s->fail[i + 1] = (uint32_t)k;
    }
    return 0;
}

static int read_strip(const json_t *spec, struct decode_stage *s, struct why *why) {
    int64_t start, stop;
    int rc = read_char(spec, "content", &s->ch, why);
    if (rc == 0) rc = json_field_int(spec, where, "start", 0, 1 << 20, &start, why);
    if (rc == 0) rc = json_field_int(spec, where, "stop", 0, 1 << 20, &stop, why);
    if (rc < 0) return rc;
    s->start = (size_t)start;
    s->stop = (size_t)stop;
    return 0;
}

static int read_metaspace(const json_t *spec, struct decode_stage *s, struct why *why) {
    struct text_span scheme;
    bool prefix;
    int rc = read_char(spec, "replacement", &s->ch, why);
    if (rc == 0) rc = json_field_text(spec, where, "prepend_scheme", &scheme, why);
    if (rc == 0) rc = json_field_bool(spec, where, "add_prefix_space", true, &prefix, why);
    if (rc == 0) s->drop_first = scheme.s ? strcmp(scheme.s, "never") != 0 : prefix;
    return rc;
}

/* The text of a member, not empty; def: when it is absent. */
static int read_text(const json_t *spec, const char *key, const char *def, char **to, size_t *len, struct why *why) {
    struct text_span t;
    int rc = json_field_text(spec, where, key, &t, why);
    if (rc == 0 && !t.s) t = (struct text_span){def, strlen(def)};
    if (rc == 0 && !t.len) rc = fail(why, ERR_UNSUPPORTED, "%s: '%s' is empty", where, key);
    return rc < 0 ? rc : keep(t, to, len, why);
}

static int read_words(const json_t *spec, struct decode_stage *s, struct why *why) {
    if (s->kind == DECODE_SUFFIX) return read_text(spec, "suffix", "</w>", &s->find, &s->find_len, why);
    int rc = json_field_bool(spec, where, "cleanup", true, &s->cleanup, why);
    if (rc == 0 && s->kind == DECODE_WORDPIECE) return read_text(spec, "prefix", "##", &s->find, &s->find_len, why);
    if (rc == 0) rc = read_text(spec, "pad_token", "<pad>", &s->find, &s->find_len, why);
    return rc < 0 ? rc : read_text(spec, "word_delimiter_token", "|", &s->put, &s->put_len, why);
}

static int read_one(const json_t *spec, const char *type, struct decode_stage *s, struct why *why) {
    static const struct {
        const char *type;
        enum decode_kind kind;
    } kinds[] = {{"ByteLevel", DECODE_BYTES},     {"Fuse", DECODE_FUSE},         {"ByteFallback", DECODE_FALLBACK},
                 {"Replace", DECODE_REPLACE},     {"Strip", DECODE_STRIP},       {"Metaspace", DECODE_METASPACE},
                 {"WordPiece", DECODE_WORDPIECE}, {"BPEDecoder", DECODE_SUFFIX}, {"CTC", DECODE_CTC}};
    size_t i = 0, n = sizeof kinds / sizeof kinds[0];
    while (i < n && strcmp(kinds[i].type, type)) i++;
    if (i == n) return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known", where, type);
    s->kind = kinds[i].kind;
    int rc;
    switch (s->kind) {
    case DECODE_REPLACE: return read_replace(spec, s, why);
    case DECODE_STRIP: return read_strip(spec, s, why);
    case DECODE_METASPACE: return read_metaspace(spec, s, why);
    case DECODE_WORDPIECE:
        rc = read_words(spec, s, why);
        return rc == 0 && s->joined && s->cleanup
                   ? fail(why, ERR_UNSUPPORTED, "%s: %s with cleanup behind Fuse or ByteLevel", where, type)
                   : rc;
    case DECODE_SUFFIX:
    case DECODE_CTC:
        rc = read_words(spec, s, why);
        return rc == 0 && s->joined ? fail(why, ERR_UNSUPPORTED, "%s: %s behind Fuse or ByteLevel", where, type) : rc;
    case DECODE_BYTES:
    case DECODE_FALLBACK: return s->joined ? fail(why, ERR_UNSUPPORTED, "%s: %s behind Fuse or ByteLevel", where, type) : 0;
    default: return 0;
    }
}

static int read_stages(const json_t *spec, int depth, struct decoder *out, struct why *why) {
    struct text_span type;
    if (depth > PIPELINE_MAX_NESTING)
        return fail(why, ERR_INVALID, "%s: sequences nest deeper than %d", where, PIPELINE_MAX_NESTING);
    if (!json_is_object(spec)) return fail(why, ERR_INVALID, "%s: every stage must be an object", where);
    int rc = json_field_need_text(spec, where, "type", &type, why);
    if (rc < 0) return rc;
    if (!strcmp(type.s, "Sequence")) {
        const json_t *list = json_object_get(spec, "decoders"), *v;
        if (!json_is_array(list)) return fail(why, ERR_INVALID, "%s: a Sequence needs the list 'decoders'", where);
        size_t i;
        json_array_foreach(list, i, v) {
            rc = read_stages(v, depth + 1, out, why);
            if (rc < 0) return rc;
        }
        return 0;
    }
    if (out->n == PIPELINE_MAX_STAGES) return fail(why, ERR_INVALID, "%s: more than %d stages", where, PIPELINE_MAX_STAGES);
    struct decode_stage *s = &out->stages[out->n++];
    if (out->n > 1) s->joined = s[-1].joined || s[-1].kind == DECODE_BYTES || s[-1].kind == DECODE_FUSE;
    return read_one(spec, type.s, s, why);
}

int decoder_read(const json_t *spec, struct decoder *out, struct why *why) {
    *out = (struct decoder){0};
    out->stages = calloc(PIPELINE_MAX_STAGES, sizeof *out->stages);
    if (!out->stages) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    if (spec && !json_is_null(spec)) return read_stages(spec, 1, out, why);
    out->stages[out->n++].kind = DECODE_SPACED; /* without a decoder the tokens are joined by spaces */
    return 0;
}

void decoder_clear(struct decoder *d) {
    for (int i = 0; i < d->n; i++) {
        pattern_close(d->stages[i].pattern);
        free(d->stages[i].find);
        free(d->stages[i].put);
        free(d->stages[i].fail);
    }
    free(d->stages);
    *d = (struct decoder){0};
}
