/* decoder.c - the stages as transducers.
 *
 * A decoder of tokenizer.json maps a list of strings to a list of strings. Some work string by string, some join all into one
 * (ByteLevel, Fuse). Behind a joining stage there is one string, which arrives in chunks: such a stage is marked `joined` when the
 * pipeline is read, and whatever cannot be done in chunks there is refused. Held back is only what is undecided: a cut character,
 * a run of fallback bytes (one bad byte turns the whole run into U+FFFD), the beginning of a text to be replaced. */
#include "model/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "model/byte_level.h"
#include "model/json_field.h"
#include "model/normalize.h"
#include "model/utf8.h"

enum kind { BYTES, FUSE, FALLBACK, REPLACE, STRIP, METASPACE, SPACED };

struct decode_stage {
    enum kind kind;
    bool joined;             /* the input is one string in chunks */
    struct pattern *pattern; /* REPLACE of single strings */
    char *find, *put;        /* REPLACE: find NULL for a regular expression */
    size_t find_len, put_len;
    uint32_t *fail;     /* [find_len + 1] REPLACE when joined: longest border of each prefix of find */
    uint32_t ch;        /* STRIP, METASPACE */
    size_t start, stop; /* STRIP */
    bool drop_first;    /* METASPACE: marks of the first string vanish */
};
struct stage_state {
    struct utf8_stream utf8;
    struct text_buf text;
    struct pattern_scratch scratch;
    size_t count; /* strings seen; for a joined STRIP characters stripped; for a joined REPLACE bytes of find held */
    size_t held;  /* joined STRIP: trailing characters that may have to go */
    bool past;    /* joined STRIP: beyond the leading characters */
};
struct decode_run {
    const struct decoder *d;
    struct text_buf *out;
    struct stage_state *state; /* [d->n] */
};

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

static int read_one(const json_t *spec, const char *type, struct decode_stage *s, struct why *why) {
    static const struct {
        const char *type;
        enum kind kind;
    } kinds[] = {{"ByteLevel", BYTES}, {"Fuse", FUSE},   {"ByteFallback", FALLBACK},
                 {"Replace", REPLACE}, {"Strip", STRIP}, {"Metaspace", METASPACE}};
    size_t i = 0, n = sizeof kinds / sizeof kinds[0];
    while (i < n && strcmp(kinds[i].type, type)) i++;
    if (i == n) return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known", where, type);
    s->kind = kinds[i].kind;
    switch (s->kind) {
    case REPLACE: return read_replace(spec, s, why);
    case STRIP: return read_strip(spec, s, why);
    case METASPACE: return read_metaspace(spec, s, why);
    case BYTES:
    case FALLBACK: return s->joined ? fail(why, ERR_UNSUPPORTED, "%s: %s behind Fuse or ByteLevel", where, type) : 0;
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
    if (out->n > 1) s->joined = s[-1].joined || s[-1].kind == BYTES || s[-1].kind == FUSE;
    return read_one(spec, type.s, s, why);
}

int decoder_read(const json_t *spec, struct decoder *out, struct why *why) {
    *out = (struct decoder){0};
    out->stages = calloc(PIPELINE_MAX_STAGES, sizeof *out->stages);
    if (!out->stages) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    if (spec && !json_is_null(spec)) return read_stages(spec, 1, out, why);
    out->stages[out->n++].kind = SPACED; /* without a decoder the tokens are joined by spaces */
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

/* ---- running ---- */

static int feed(struct decode_run *r, int k, const char *s, size_t len);

static int feed_bytes(struct decode_run *r, int k, const char *s, size_t len) {
    struct stage_state *st = &r->state[k];
    char bytes[512];
    bool alphabet = true;
    for (size_t i = 0; i < len && alphabet;) {
        uint32_t cp;
        i += (size_t)utf8_next(s + i, &cp);
        alphabet = byte_level_byte(cp) >= 0;
    }
    st->text.len = 0;
    int rc = 0;
    if (!alphabet) { /* an added token in plain text */
        rc = utf8_stream_push(&st->utf8, s, len, &st->text);
    } else {
        for (size_t i = 0, n = 0; i < len && rc == 0;) {
            uint32_t cp;
            i += (size_t)utf8_next(s + i, &cp);
            bytes[n++] = (char)byte_level_byte(cp);
            if (n < sizeof bytes && i < len) continue;
            rc = utf8_stream_push(&st->utf8, bytes, n, &st->text);
            n = 0;
        }
    }
    return rc < 0 || !st->text.len ? rc : feed(r, k + 1, st->text.data, st->text.len);
}

/* The byte a token such as "<0x0A>" stands for, or -1; "<0x+1>" counts too, as in the reference. */
static int fallback_byte(const char *s, size_t len) {
    if (len != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0 && !(i == 3 && c == '+')) return -1;
        v = d < 0 ? 0 : v * 16 + d;
    }
    return v;
}

static int end_fallback(struct decode_run *r, int k) {
    struct stage_state *st = &r->state[k];
    size_t n = st->text.len;
    if (!n) return 0;
    st->text.len = 0;
    if (utf8_valid_prefix(st->text.data, n) == n) return feed(r, k + 1, st->text.data, n);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) rc = feed(r, k + 1, UTF8_REPLACEMENT, 3);
    return rc;
}

static int feed_fallback(struct decode_run *r, int k, const char *s, size_t len) {
    int byte = fallback_byte(s, len);
    if (byte >= 0) return text_buf_append(&r->state[k].text, &(char){(char)byte}, 1);
    int rc = end_fallback(r, k);
    return rc < 0 ? rc : feed(r, k + 1, s, len);
}

static int feed_replace(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct stage_state *st = &r->state[k];
    struct pattern_scan scan = {.pattern = d->pattern, .scratch = &st->scratch, .text = s, .len = len};
    size_t start, end, done = 0;
    int rc = len ? 0 : feed(r, k + 1, s, len);
    if (!len) return rc;
    st->text.len = 0;
    while ((rc = pattern_next(&scan, &start, &end)) == 1) {
        if (text_buf_append(&st->text, s + done, start - done) < 0) return ERR_NOMEM;
        if (text_buf_append(&st->text, d->put, d->put_len) < 0) return ERR_NOMEM;
        done = end;
    }
    if (rc == 0) rc = text_buf_append(&st->text, s + done, len - done);
    return rc < 0 ? rc : feed(r, k + 1, st->text.data, st->text.len);
}

/* Knuth-Morris-Pratt over the chunks: the bytes of find that matched so far are held by their number. */
static int feed_replace_joined(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct stage_state *st = &r->state[k];
    st->text.len = 0;
    for (size_t i = 0; i < len; i++) {
        while (st->count && d->find[st->count] != s[i]) {
            size_t shorter = d->fail[st->count];
            if (text_buf_append(&st->text, d->find, st->count - shorter) < 0) return ERR_NOMEM;
            st->count = shorter;
        }
        bool more = d->find[st->count] == s[i];
        if (more && ++st->count == d->find_len) {
            st->count = 0;
            if (text_buf_append(&st->text, d->put, d->put_len) < 0) return ERR_NOMEM;
        } else if (!more && text_buf_append(&st->text, s + i, 1) < 0) {
            return ERR_NOMEM;
        }
    }
    return st->text.len ? feed(r, k + 1, st->text.data, st->text.len) : 0;
}

static int feed_strip(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    size_t from = 0, to = len;
    uint32_t cp;
    for (size_t i = 0; i < d->start && from < len; i++) {
        int n = utf8_next(s + from, &cp);
        if (cp != d->ch) break;
        from += (size_t)n;
    }
    for (size_t i = 0; i < d->stop && to > from; i++) {
        size_t back = utf8_back(s, to);
        utf8_next(s + back, &cp);
        if (cp != d->ch) break;
        to = back;
    }
    return feed(r, k + 1, s + from, to - from);
}

static int feed_strip_joined(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct stage_state *st = &r->state[k];
    char mark[4];
    size_t mark_len = (size_t)utf8_write(d->ch, mark);
    st->text.len = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = (size_t)utf8_next(s + i, &cp);
        if (cp == d->ch && !st->past && st->count < d->start) {
            st->count++;
        } else if (cp == d->ch && st->held < d->stop) {
            st->past = true;
            st->held++;
        } else {
            st->past = true;
            for (; cp != d->ch && st->held; st->held--)
                if (text_buf_append(&st->text, mark, mark_len) < 0) return ERR_NOMEM;
            if (text_buf_append(&st->text, s + i, n) < 0) return ERR_NOMEM;
        }
        i += n;
    }
    return st->text.len ? feed(r, k + 1, st->text.data, st->text.len) : 0;
}

static int feed_metaspace(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct stage_state *st = &r->state[k];
    bool drop = d->drop_first && (d->joined || st->count == 0);
    st->count++;
    st->text.len = 0;
    if (text_buf_append(&st->text, "", 0) < 0) return ERR_NOMEM;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = (size_t)utf8_next(s + i, &cp);
        int rc = cp != d->ch ? text_buf_append(&st->text, s + i, n) : drop ? 0 : text_buf_append(&st->text, " ", 1);
        if (rc < 0) return rc;
        i += n;
    }
    return feed(r, k + 1, st->text.data, st->text.len);
}

static int feed(struct decode_run *r, int k, const char *s, size_t len) {
    if (k == r->d->n) return text_buf_append(r->out, s, len);
    const struct decode_stage *d = &r->d->stages[k];
    switch (d->kind) {
    case BYTES: return feed_bytes(r, k, s, len);
    case FUSE: return feed(r, k + 1, s, len);
    case FALLBACK: return feed_fallback(r, k, s, len);
    case REPLACE: return d->joined ? feed_replace_joined(r, k, s, len) : feed_replace(r, k, s, len);
    case STRIP: return d->joined ? feed_strip_joined(r, k, s, len) : feed_strip(r, k, s, len);
    case METASPACE: return feed_metaspace(r, k, s, len);
    case SPACED: {
        int rc = r->state[k].count++ ? feed(r, k + 1, " ", 1) : 0;
        return rc < 0 ? rc : feed(r, k + 1, s, len);
    }
    }
    return 0;
}

static int finish(struct decode_run *r, int k) {
    const struct decode_stage *d = &r->d->stages[k];
    struct stage_state *st = &r->state[k];
    int rc = 0;
    if (d->kind == BYTES) {
        st->text.len = 0;
        rc = utf8_stream_flush(&st->utf8, &st->text);
        if (rc == 0 && st->text.len) rc = feed(r, k + 1, st->text.data, st->text.len);
    } else if (d->kind == FALLBACK) {
        rc = end_fallback(r, k);
    } else if (d->kind == REPLACE && d->joined && st->count) {
        rc = feed(r, k + 1, d->find, st->count);
    }
    st->count = st->held = 0;
    st->past = false;
    return rc;
}

struct decode_run *decode_run_new(const struct decoder *d) {
    struct decode_run *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->d = d;
    r->state = calloc((size_t)d->n + 1, sizeof *r->state);
    if (r->state) return r;
    free(r);
    return NULL;
}

void decode_run_free(struct decode_run *r) {
    if (!r) return;
    for (int i = 0; i < r->d->n; i++) {
        text_buf_clear(&r->state[i].text);
        pattern_scratch_clear(&r->state[i].scratch);
    }
    free(r->state);
    free(r);
}

int decode_run_push(struct decode_run *r, const char *token, size_t len, struct text_buf *out) {
    r->out = out;
    return feed(r, 0, token, len);
}

int decode_run_flush(struct decode_run *r, struct text_buf *out) {
    r->out = out;
    int rc = 0;
    for (int k = 0; k < r->d->n && rc == 0; k++) rc = finish(r, k);
    return rc;
}
