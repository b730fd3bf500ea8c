/* decoder_words.c - decoders that put words together: WordPiece's marks of continuation, an end-of-word suffix, and CTC's
 * repeated and padding tokens. All of them only ever shorten a token, which is done in place. */
#include <string.h>

#include "model/text/decode_stage.h"

/* Every `from` in b becomes `to`, which is not longer; from left to right. */
static void replace_all(struct text_buf *b, const char *from, size_t from_len, const char *to, size_t to_len) {
    size_t out = 0;
    for (size_t i = 0; i < b->len;) {
        bool hit = b->len - i >= from_len && !memcmp(b->data + i, from, from_len);
        if (hit) memcpy(b->data + out, to, to_len);
        else b->data[out] = b->data[i];
        out += hit ? to_len : 1;
        i += hit ? from_len : 1;
    }
    b->len = out;
}

static void clean_up(struct text_buf *b) {
    static const char *const rules[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        replace_all(b, rules[i][0], strlen(rules[i][0]), rules[i][1], strlen(rules[i][1]));
}

static int word_piece(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
    bool inner = st->count > 0, marked = len >= d->find_len && !memcmp(s, d->find, d->find_len);
    size_t skip = inner && marked ? d->find_len : 0;
    if (d->joined) return decode_feed(r, k + 1, s, len); /* one string: the first */
    st->count++;
    st->text.len = 0;
    if (text_buf_append(&st->text, " ", inner && !marked) < 0 || text_buf_append(&st->text, s + skip, len - skip) < 0)
        return ERR_NOMEM;
    if (d->cleanup) clean_up(&st->text);
    return decode_feed(r, k + 1, st->text.data, st->text.len);
}

/* The suffix is a blank, but for the last token, where it is nothing: so one token is held back. */
static int send_held(struct decode_run *r, int k, bool last) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
    if (!st->count) return 0;
    st->count = 0;
    replace_all(&st->text, d->find, d->find_len, " ", !last);
    return decode_feed(r, k + 1, st->text.data, st->text.len);
}

static int word_suffix(struct decode_run *r, int k, const char *s, size_t len) {
    struct decode_state *st = &r->state[k];
    int rc = send_held(r, k, false);
    st->text.len = 0;
    st->count = 1;
    return rc < 0 ? rc : text_buf_append(&st->text, s, len);
}

static int ctc(struct decode_run *r, int k, const char *s, size_t len) {
    const struct decode_stage *d = &r->d->stages[k];
    struct decode_state *st = &r->state[k];
    bool same = st->count && st->before.len == len && !memcmp(st->before.data, s, len);
    st->count = 1;
    if (same) return 0;
    st->before.len = st->text.len = 0;
    if (text_buf_append(&st->before, s, len) < 0 || text_buf_append(&st->text, s, len) < 0) return ERR_NOMEM;
    replace_all(&st->text, d->find, d->find_len, "", 0);
    if (d->cleanup) {
        clean_up(&st->text);
        replace_all(&st->text, d->put, d->put_len, " ", 1);
    }
    return st->text.len ? decode_feed(r, k + 1, st->text.data, st->text.len) : 0;
}

int decode_words(struct decode_run *r, int k, const char *s, size_t len) {
    switch (r->d->stages[k].kind) {
    case DECODE_WORDPIECE: return word_piece(r, k, s, len);
    case DECODE_SUFFIX: return word_suffix(r, k, s, len);
    default: return ctc(r, k, s, len);
    }
}

int decode_words_end(struct decode_run *r, int k) { return r->d->stages[k].kind == DECODE_SUFFIX ? send_held(r, k, true) : 0; }
