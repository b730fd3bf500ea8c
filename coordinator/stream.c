/* stream.c - three queues: token records, their alternatives, and text of which a prefix is certain.
 *
 * Stop strings are searched only from where a match may begin: everything before `certain` has been ruled out, because the
 * longest suffix that could still grow into a stop string is never released. */
#include "coordinator/stream.h"

#include <stdlib.h>
#include <string.h>

struct stream {
    struct detokenizer *detokenizer; /* NULL without a tokenizer */
    struct text_slice *stops; /* owned */
    size_t n_stops;
    struct stream_token *token; /* not sent yet; with `keep` all */
    int n_token, cap_token;
    struct top_token *top; /* theirs, in order */
    int n_top, cap_top;
    struct text_buf text;  /* not sent yet; with `keep` all */
    size_t certain;        /* bytes of it that may go */
    uint32_t sent, pushed; /* tokens */
    /* with `keep`: what of the above was sent; text_done may be beyond what there is */
    int done, done_tops;
    uint32_t ahead; /* tokens that the reader has, and that have not come here yet */
    size_t text_done;
    bool keep;
    bool stopped; /* by a stop string: what follows it is nobody's */
    bool over;    /* no token follows */
};

static int copy_stops(struct stream *s, const struct text_slice *stops, size_t n) {
    s->stops = calloc(n ? n : 1, sizeof *s->stops);
    if (!s->stops) return ERR_NOMEM;
    for (; s->n_stops < n; s->n_stops++) {
        char *text = malloc(stops[s->n_stops].len + 1);
        if (!text) return ERR_NOMEM;
        memcpy(text, stops[s->n_stops].data, stops[s->n_stops].len);
        s->stops[s->n_stops] = (struct text_slice){text, stops[s->n_stops].len};
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
    for (size_t i = 0; i < s->n_stops; i++) free((char *)s->stops[i].data);
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
        const char *hit = memmem(s->text.data + s->certain, s->text.len - s->certain, s->stops[i].data, s->stops[i].len);
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
            if (!memcmp(s->text.data + s->text.len - n, s->stops[i].data, n)) held = n;
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

static void pass_over(struct stream *s, int n) {
    for (int i = 0; i < n; i++) s->done_tops += s->token[s->done + i].n_top;
    s->done += n;
}

int stream_push(struct stream *s, const struct step_out *o) {
    if (grow((void **)&s->token, sizeof *s->token, &s->cap_token, s->n_token + 1) < 0) return ERR_NOMEM;
    if (o->n_top && grow((void **)&s->top, sizeof *s->top, &s->cap_top, s->n_top + o->n_top) < 0) return ERR_NOMEM;
    s->token[s->n_token++] = (struct stream_token){.id = o->token, .logprob = o->logprob, .n_top = o->n_top};
    if (o->n_top) memcpy(s->top + s->n_top, o->top, sizeof *o->top * (size_t)o->n_top);
    s->n_top += o->n_top;
    s->pushed++;
    if (s->ahead) {
        s->ahead--;
        pass_over(s, 1);
    }
    if (!s->detokenizer) return 0;
    int rc = detokenizer_push(s->detokenizer, o->token, &s->text);
    return rc < 0 ? rc : release(s, false);
}

int stream_finish(struct stream *s) {
    s->over = true;
    if (!s->detokenizer || s->stopped) return s->stopped;
    int rc = detokenizer_flush(s->detokenizer, &s->text);
    return rc < 0 ? rc : release(s, true);
}

void stream_keep(struct stream *s) { s->keep = true; }

const struct text_slice *stream_stops(const struct stream *s, size_t *n) {
    *n = s->n_stops;
    return s->stops;
}

/* Text goes with the last of the tokens: it may belong to any of them. Without a token it goes at the end only. */
bool stream_peek(struct stream *s, struct stream_piece *out) {
    int left = s->n_token - s->done;
    size_t text = s->certain > s->text_done ? s->certain - s->text_done : 0;
    if (left <= 0 && (!text || !s->over)) return false;
    int n = left < 0 ? 0 : left < STREAM_PIECE_TOKENS ? left : STREAM_PIECE_TOKENS;
    if (n < left || !text) text = 0;
    const struct top_token *top = s->top + s->done_tops;
    struct stream_token *token = n ? s->token + s->done : NULL;
    for (int i = 0; i < n; i++) {
        token[i].top = top;
        top += token[i].n_top;
    }
    *out = (struct stream_piece){
        .first = s->sent, .token = token, .n = n, .text = text ? s->text.data + s->text_done : NULL, .text_len = text};
    return true;
}

void stream_sent(struct stream *s, const struct stream_piece *piece) {
    pass_over(s, piece->n);
    s->sent += (uint32_t)piece->n;
    s->text_done += piece->text_len;
    if (s->keep) return;
    s->n_token -= s->done;
    s->n_top -= s->done_tops;
    if (s->n_token) memmove(s->token, s->token + s->done, sizeof *s->token * (size_t)s->n_token);
    if (s->n_top) memmove(s->top, s->top + s->done_tops, sizeof *s->top * (size_t)s->n_top);
    s->text.len -= s->text_done;
    s->certain -= s->text_done;
    if (s->text_done) memmove(s->text.data, s->text.data + s->text_done, s->text.len);
    s->done = s->done_tops = 0;
    s->text_done = 0;
}

void stream_rewind(struct stream *s, uint32_t tokens, size_t text) {
    s->done = s->done_tops = 0;
    s->sent = tokens;
    s->text_done = text;
    int have = s->n_token < (int)tokens ? s->n_token : (int)tokens;
    pass_over(s, have);
    s->ahead = tokens - (uint32_t)have;
}

uint32_t stream_tokens(const struct stream *s) { return s->pushed; }
