/* decoder.c - the stages as transducers.
 *
 * A decoder of tokenizer.json maps a list of strings to a list of strings. Some work string by string, some join all into one
 * (ByteLevel, Fuse). Behind a joining stage there is one string, which arrives in chunks: such a stage is marked `joined` when
 * the pipeline is read, and whatever cannot be done in chunks there is refused. Held back is only what is undecided: a cut
 * character, a run of fallback bytes (one bad byte turns the whole run into U+FFFD), the beginning of a text to be replaced. */
#include "model/text/decode_stage.h"

#include <stdlib.h>
#include <string.h>

#include "model/text/byte_level.h"

static int feed_bytes(struct decode_run *r, int k, const char *s, size_t len) {
    struct decode_state *st = &r->state[k];
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
    return rc < 0 || !st->text.len ? rc : decode_feed(r, k + 1, st->text.data, st->text.len);
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
    struct decode_state *st = &r->state[k];
    size_t n = st->text.len;
    if (!n) return 0;
    st->text.len = 0;
    if (utf8_valid_prefix(st->text.data, n) == n) return decode_feed(r, k + 1, st->text.data, n);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) rc = decode_feed(r, k + 1, UTF8_REPLACEMENT, 3);
    return rc;
}

static int feed_fallback(struct decode_run *r, int k, const char *s, size_t len) {
    int byte = fallback_byte(s, len);
    if (byte >= 0) return text_buf_append(&r->state[k].text, &(char){(char)byte}, 1);
    int rc = end_fallback(r, k);
    return rc < 0 ? rc : decode_feed(r, k + 1, s, len);
}

static int feed_replace(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
    if (!len) return decode_feed(r, k + 1, s, len);
    st->text.len = 0;
    int rc = pattern_replace(d->pattern, &st->scratch, s, len, d->put, d->put_len, NULL, &st->text);
    return rc < 0 ? rc : decode_feed(r, k + 1, st->text.data, st->text.len);
}

/* Knuth-Morris-Pratt over the chunks: the bytes of find that matched so far are held by their number. */
static int feed_replace_joined(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
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
    return st->text.len ? decode_feed(r, k + 1, st->text.data, st->text.len) : 0;
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
    return decode_feed(r, k + 1, s + from, to - from);
}

static int feed_strip_joined(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
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
    return st->text.len ? decode_feed(r, k + 1, st->text.data, st->text.len) : 0;
}

static int feed_metaspace(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
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
    return decode_feed(r, k + 1, st->text.data, st->text.len);
}

int decode_feed(struct decode_run *r, int k, const char *s, size_t len) {
    if (k == r->d->n) return text_buf_append(r->out, s, len);
    const struct decode_stage *d = &r->d->stages[k];
    switch (d->kind) {
    case DECODE_BYTES: return feed_bytes(r, k, s, len);
    case DECODE_FUSE: return decode_feed(r, k + 1, s, len);
    case DECODE_FALLBACK: return feed_fallback(r, k, s, len);
    case DECODE_REPLACE: return d->joined ? feed_replace_joined(r, k, s, len) : feed_replace(r, k, s, len);
    case DECODE_STRIP: return d->joined ? feed_strip_joined(r, k, s, len) : feed_strip(r, k, s, len);
    case DECODE_METASPACE: return feed_metaspace(r, k, s, len);
    case DECODE_WORDPIECE:
    case DECODE_SUFFIX:
    case DECODE_CTC: return decode_words(r, k, s, len);
    case DECODE_SPACED: {
        int rc = r->state[k].count++ ? decode_feed(r, k + 1, " ", 1) : 0;
        return rc < 0 ? rc : decode_feed(r, k + 1, s, len);
    }
    }
    return 0;
}

static int finish(struct decode_run *r, int k) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
    int rc = 0;
    if (d->kind == DECODE_BYTES) {
        st->text.len = 0;
        rc = utf8_stream_flush(&st->utf8, &st->text);
        if (rc == 0 && st->text.len) rc = decode_feed(r, k + 1, st->text.data, st->text.len);
    } else if (d->kind == DECODE_FALLBACK) {
        rc = end_fallback(r, k);
    } else if (d->kind == DECODE_REPLACE && d->joined && st->count) {
        rc = decode_feed(r, k + 1, d->find, st->count);
    }
    if (rc == 0) rc = decode_words_end(r, k);
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
        text_buf_clear(&r->state[i].before);
        pattern_scratch_clear(&r->state[i].scratch);
    }
    free(r->state);
    free(r);
}

int decode_run_push(struct decode_run *r, const char *token, size_t len, struct text_buf *out) {
    r->out = out;
    return decode_feed(r, 0, token, len);
}

int decode_run_flush(struct decode_run *r, struct text_buf *out) {
    r->out = out;
    int rc = 0;
    for (int k = 0; k < r->d->n && rc == 0; k++) rc = finish(r, k);
    return rc;
}
