/* stream.c - three queues: token records, their alternatives, and text of which a prefix is certain.
 *
 * Stop strings are searched only from where a match may begin: everything before `certain` has been ruled out, because the
 * longest suffix that could still grow into a stop string is never released. */
#include "coordinator/stream.h"

#include <stdlib.h>
#include <string.h>

struct stop {
    char *text;
    size_t len;
};
struct stream {
    struct detokenizer *detokenizer; /* NULL without a tokenizer */
    struct stop *stops;
    size_t n_stops;
    struct stream_token *token; /* not sent yet */
    int n_token, cap_token;
    struct top_token *top; /* theirs, in order */
    int n_top, cap_top;
    struct text_buf text;  /* not sent yet */
    size_t certain;        /* bytes of it that may go */
    uint32_t sent, pushed; /* tokens */
    bool stopped;          /* by a stop string: what follows it is nobody's */
};

static int copy_stops(struct stream *s, const struct text_slice *stops, size_t n) {
    s->stops = calloc(n ? n : 1, sizeof *s->stops);
    if (!s->stops) return ERR_NOMEM;
    for (; s->n_stops < n; s->n_stops++) {
        struct stop *to = &s->stops[s->n_stops];
        *to = (struct stop){malloc(stops[s->n_stops].len + 1), stops[s->n_stops].len};
        if (!to->text) return ERR_NOMEM;
        memcpy(to->text, stops[s->n_stops].data, to->len);
    }
    return 0;
}

int stream_new(const struct tokenizer *tokenizer, const struct text_slice *stops, size_t n_stops, struct stream **out) {
    struct stream *s = calloc(1, sizeof *s);
    if (!s) return ERR_NOMEM;
    int rc = copy_stops(s, stops, n_stops);
    if (rc >= 0 && tokenizer) rc = detokenizer_new(tokenizer, true, &s->detokenizer);
    if (rc < 0) {
        stream_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void stream_free(struct stream *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n_stops; i++) free(s->stops[i].text);
    free(s->stops);
    detokenizer_free(s->detokenizer);
    free(s->token);
    free(s->top);
    text_buf_clear(&s->text);
    free(s);
}

static int grow(void **array, size_t elem, int *cap, int need) {
    if (need <= *cap) return 0;
    int more = *cap ? *cap * 2 : 16;
    if (more < need) more = need;
    void *p = realloc(*array, elem * (size_t)more);
    if (!p) return ERR_NOMEM;
    *array = p;
    *cap = more;
    return 0;
}

/* Where the first stop string begins in the unreleased text, or -1. */
static int64_t find_stop(const struct stream *s) {
    int64_t best = -1;
    for (size_t i = 0; i < s->n_stops; i++) {
        if (!s->text.data || s->text.len - s->certain < s->stops[i].len) continue;
        const char *hit = memmem(s->text.data + s->certain, s->text.len - s->certain, s->stops[i].text, s->stops[i].len);
        if (hit && (best < 0 || hit - s->text.data < best)) best = hit - s->text.data;
    }
    return best;
}

/* Bytes at the end that may be the beginning of a stop string. */
static size_t held_bytes(const struct stream *s) {
    size_t held = 0, room = s->text.len - s->certain;
    for (size_t i = 0; i < s->n_stops; i++) {
        size_t n = s->stops[i].len - 1;
        for (n = n < room ? n : room; n > held; n--)
            if (!memcmp(s->text.data + s->text.len - n, s->stops[i].text, n)) held = n;
    }
    return held;
}

/* 1 when a stop string ends the text. */
static int release(struct stream *s, bool all) {
    int64_t stop = find_stop(s);
    if (stop >= 0) {
        s->text.len = (size_t)stop;
        s->stopped = true;
    }
    s->certain = s->text.len - (stop >= 0 || all ? 0 : held_bytes(s));
    return stop >= 0;
}

int stream_push(struct stream *s, const struct step_out *o) {
    if (grow((void **)&s->token, sizeof *s->token, &s->cap_token, s->n_token + 1) < 0) return ERR_NOMEM;
    if (o->n_top && grow((void **)&s->top, sizeof *s->top, &s->cap_top, s->n_top + o->n_top) < 0) return ERR_NOMEM;
    s->token[s->n_token++] = (struct stream_token){.id = o->token, .logprob = o->logprob, .n_top = o->n_top};
    if (o->n_top) memcpy(s->top + s->n_top, o->top, sizeof *o->top * (size_t)o->n_top);
    s->n_top += o->n_top;
    s->pushed++;
    if (!s->detokenizer) return 0;
    int rc = detokenizer_push(s->detokenizer, o->token, &s->text);
    return rc < 0 ? rc : release(s, false);
}

int stream_finish(struct stream *s) {
    if (!s->detokenizer || s->stopped) return s->stopped;
    int rc = detokenizer_flush(s->detokenizer, &s->text);
    return rc < 0 ? rc : release(s, true);
}

bool stream_peek(struct stream *s, struct stream_piece *out) {
    if (!s->n_token && !s->certain) return false;
    int n = s->n_token < STREAM_PIECE_TOKENS ? s->n_token : STREAM_PIECE_TOKENS;
    bool last = n == s->n_token; /* text goes with the last of the tokens: it may belong to any of them */
    const struct top_token *top = s->top;
    for (int i = 0; i < n; i++) {
        s->token[i].top = top;
        top += s->token[i].n_top;
    }
    *out = (struct stream_piece){
        .first = s->sent, .token = s->token, .n = n, .text = last ? s->text.data : NULL, .text_len = last ? s->certain : 0};
    return true;
}

void stream_sent(struct stream *s, const struct stream_piece *piece) {
    int tops = 0;
    for (int i = 0; i < piece->n; i++) tops += s->token[i].n_top;
    s->n_token -= piece->n;
    s->n_top -= tops;
    s->sent += (uint32_t)piece->n;
    if (s->n_token) memmove(s->token, s->token + piece->n, sizeof *s->token * (size_t)s->n_token);
    if (s->n_top) memmove(s->top, s->top + tops, sizeof *s->top * (size_t)s->n_top);
    if (!piece->text_len) return;
    s->text.len -= piece->text_len;
    s->certain -= piece->text_len;
    memmove(s->text.data, s->text.data + piece->text_len, s->text.len);
}

uint32_t stream_tokens(const struct stream *s) { return s->pushed; }
