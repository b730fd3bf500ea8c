/* unigram.c - the best path is kept per byte position; its tokens are read off backwards and then turned around.
 *
 * Unknown characters beside each other become one unknown token, or bytes where the model falls back to bytes. Candidates are
 * compared in the order of the reference (by start, then by length) with a strict "greater", so equal sums go to the first. */
#include "model/text/unigram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/text/utf8.h"

static const char *const where = "tokenizer.json: model";
static const double unk_penalty = 10;

struct unigram_node { /* the best path that ends here */
    double score;
    int32_t id;
    int32_t length; /* bytes of its last token; 0: none yet */
};

int unigram_from_scores(const struct vocab *vocab, double *score, struct unigram *u) {
    size_t bytes = 0;
    double lowest = INFINITY;
    u->vocab = vocab;
    u->score = score;
    for (int i = 0; i < vocab->size; i++) {
        bytes += vocab->tokens[i].len;
        if (vocab->tokens[i].s && !isnan(score[i]) && score[i] < lowest) lowest = score[i];
    }
    u->unk_score = lowest - unk_penalty;
    if (trie_open(&u->trie, bytes) < 0) return ERR_NOMEM;
    for (int i = 0; i < vocab->size; i++) {
        const struct vocab_token *t = &vocab->tokens[i];
        if (t->len && !isnan(score[i])) trie_add(&u->trie, t->s, t->len, i, true);
    }
    vocab_byte_ids(vocab, u->byte_id);
    return 0;
}

static int read_pieces(const json_t *list, struct vocab *vocab, double *score, struct why *why) {
    size_t i;
    const json_t *v;
    json_array_foreach(list, i, v) {
        const json_t *text = json_array_get(v, 0), *value = json_array_get(v, 1);
        if (json_array_size(v) != 2 || !json_is_string(text) || !json_is_number(value))
            return fail(why, ERR_INVALID, "%s: entry %zu of 'vocab' must be [text, score]", where, i);
        score[i] = json_number_value(value);
        vocab_put(vocab, (int32_t)i, json_string_value(text), json_string_length(text), 0);
    }
    return 0;
}

int unigram_read(const json_t *model, struct vocab *vocab, struct unigram *u, struct why *why) {
    const json_t *list = json_object_get(model, "vocab"), *v, *unk = json_object_get(model, "unk_id");
    size_t n = json_array_size(list), bytes = 0, i;
    if (!n) return fail(why, ERR_INVALID, "%s: 'vocab' must be a list of [text, score]", where);
    if (n > VOCAB_MAX_ID)
        return fail(why, ERR_TOO_LARGE, "%s: 'vocab' has %zu entries; at most %d are read", where, n, VOCAB_MAX_ID);
    json_array_foreach(list, i, v) bytes += json_string_length(json_array_get(v, 0));
    double *score = malloc(n * sizeof *score);
    if (!score || vocab_open(vocab, n, bytes, n) < 0) {
        free(score);
        return fail(why, ERR_NOMEM, "%s: out of memory", where);
    }
    int rc = read_pieces(list, vocab, score, why);
    if (rc < 0) free(score);
    else if (unigram_from_scores(vocab, score, u) < 0) rc = fail(why, ERR_NOMEM, "%s: out of memory", where);
    if (rc == 0) rc = json_field_bool(model, where, "byte_fallback", false, &u->byte_fallback, why);
    if (rc < 0) return rc;
    u->unk = -1;
    if (!unk || json_is_null(unk)) return 0;
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 || json_integer_value(unk) >= (json_int_t)n)
        return fail(why, ERR_INVALID, "%s: 'unk_id' must be a number below the %zu entries of 'vocab'", where, n);
    u->unk = (int32_t)json_integer_value(unk);
    return 0;
}

void unigram_clear(struct unigram *u) {
    free(u->score);
    trie_close(&u->trie);
    *u = (struct unigram){0};
}

void unigram_work_clear(struct unigram_work *w) {
    free(w->node);
    *w = (struct unigram_work){0};
}

static void offer(const struct unigram *u, struct unigram_node *to, double score, double before, int32_t id, size_t length) {
    double sum = u->single ? (float)(score + before) : score + before;
    if (to->length && !(sum > to->score)) return;
    *to = (struct unigram_node){sum, id, (int32_t)length};
}

/* Fills node[1..len]. False: an unknown character and no unknown token. */
static bool best_paths(const struct unigram *u, struct unigram_node *node, const char *s, size_t len) {
    uint32_t cp;
    for (size_t at = 0, bytes; at < len; at += bytes) {
        bytes = (size_t)utf8_next(s + at, &cp);
        bool known = false;
        uint32_t step = 0;
        for (size_t i = at; i < len && trie_step(&u->trie, &step, (unsigned char)s[i]); i++) {
            int32_t id = u->trie.value[step];
            if (id < 0) continue;
            offer(u, &node[i + 1], u->score[id], node[at].score, id, i + 1 - at);
            if (i + 1 - at == bytes) known = true;
        }
        if (known) continue;
        if (u->unk < 0) return false;
        offer(u, &node[at + bytes], u->unk_score, node[at].score, u->unk, bytes);
    }
    return true;
}

static int emit(struct token_list *out, int max, int32_t id) {
    return out->len >= max ? ERR_TOO_LARGE : token_list_add(out, id);
}

/* A stretch without tokens, backwards. */
static int emit_unknown(const struct unigram *u, const char *s, size_t len, int max, struct token_list *out) {
    int32_t whole = u->single ? -1 : vocab_id(u->vocab, s, len);
    bool bytes = whole < 0 && u->byte_fallback;
    for (size_t i = 0; i < len && bytes; i++) bytes = u->byte_id[(unsigned char)s[i]] >= 0;
    if (!bytes) return emit(out, max, whole < 0 ? u->unk : whole);
    int rc = 0;
    for (size_t i = len; i-- > 0 && rc == 0;) rc = emit(out, max, u->byte_id[(unsigned char)s[i]]);
    return rc;
}

int unigram_word(const struct unigram *u, struct unigram_work *w, const char *s, size_t len, int max, struct token_list *out) {
    if (len >= INT32_MAX) return ERR_TOO_LARGE;
    if (w->cap < len + 1) {
        struct unigram_node *node = realloc(w->node, (len + 1) * sizeof *node);
        if (!node) return ERR_NOMEM;
        w->node = node;
        w->cap = len + 1;
    }
    for (size_t i = 0; i <= len; i++) w->node[i] = (struct unigram_node){0, 0, 0};
    if (!best_paths(u, w->node, s, len)) return ERR_INVALID;
    int start = out->len, rc = 0;
    for (size_t at = len; at > 0 && rc == 0;) {
        size_t from = at - (size_t)w->node[at].length;
        if (w->node[at].id != u->unk) {
            rc = emit(out, max, w->node[at].id);
        } else {
            while (from > 0 && w->node[from].id == u->unk) from -= (size_t)w->node[from].length;
            rc = emit_unknown(u, s + from, at - from, max, out);
        }
        at = from;
    }
    for (int i = start, k = out->len - 1; i < k; i++, k--) {
        int32_t id = out->ids[i];
        out->ids[i] = out->ids[k];
        out->ids[k] = id;
    }
    return rc;
}
