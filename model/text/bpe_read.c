/* bpe_read.c - the model part of tokenizer.json into hash tables.
 *
 * Both tables are flat with linear probing at half load. A merge is looked up by its two ids and gives rank and result. The
 * file is checked as it is read: ids in range and unique, both parts and the result of a merge in the vocabulary. A pair that
 * is listed twice keeps its last rank, as in the reference implementation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/text/bpe.h"
#include "model/json_field.h"
#include "model/text/utf8.h"

static const char *const where = "tokenizer.json: model";

static void add_pair(struct bpe *b, int32_t left, int32_t right, int32_t rank, int32_t id) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)hash_u64(key) & b->pair_mask;
    while (b->pairs[i].key != ~(uint64_t)0 && b->pairs[i].key != key) i = (i + 1) & b->pair_mask;
    b->pairs[i] = (struct bpe_pair){key, rank, id};
    if (b->merged) b->merged[rank] = id;
}

/* The two halves of "a b" or ["a","b"]. */
static int merge_parts(const json_t *m, size_t rank, struct text_span *a, struct text_span *b, struct why *why) {
    if (json_is_string(m)) {
        const char *s = json_string_value(m);
        size_t len = json_string_length(m);
        const char *gap = memchr(s, ' ', len);
        if (!gap || memchr(gap + 1, ' ', len - (size_t)(gap + 1 - s)))
            return fail(why, ERR_INVALID, "%s: merge %zu is '%.60s', wanted two tokens with one space between", where, rank, s);
        *a = (struct text_span){s, (size_t)(gap - s)};
        *b = (struct text_span){gap + 1, len - a->len - 1};
        return 0;
    }
    const json_t *x = json_array_get(m, 0), *y = json_array_get(m, 1);
    if (json_array_size(m) != 2 || !json_is_string(x) || !json_is_string(y))
        return fail(why, ERR_INVALID, "%s: merge %zu must be \"a b\" or [\"a\", \"b\"]", where, rank);
    *a = (struct text_span){json_string_value(x), json_string_length(x)};
    *b = (struct text_span){json_string_value(y), json_string_length(y)};
    return 0;
}

static int read_merge(const json_t *m, size_t rank, struct bpe *b, char *joined, struct why *why) {
    struct text_span x = {0}, y = {0};
    int rc = merge_parts(m, rank, &x, &y, why);
    if (rc < 0) return rc;
    int32_t left = vocab_id(b->vocab, x.s, x.len), right = vocab_id(b->vocab, y.s, y.len);
    if (!x.len || !y.len || left < 0 || right < 0)
        return fail(why, ERR_INVALID, "%s: merge %zu joins '%.*s', which is not in the vocabulary", where, rank,
                    left < 0 ? (int)x.len : (int)y.len, left < 0 ? x.s : y.s);
    size_t cut = y.len < b->prefix_len ? y.len : b->prefix_len; /* the mark of a continued word goes */
    y = (struct text_span){y.s + cut, y.len - cut};
    if (x.len + y.len > (size_t)b->vocab->longest)
        return fail(why, ERR_INVALID, "%s: merge %zu makes '%.60s%.60s', which is not in the vocabulary", where, rank, x.s,
                    y.s);
    memcpy(joined, x.s, x.len);
    memcpy(joined + x.len, y.s, y.len);
    int32_t id = vocab_id(b->vocab, joined, x.len + y.len);
    if (id < 0)
        return fail(why, ERR_INVALID, "%s: merge %zu makes '%.*s', which is not in the vocabulary", where, rank,
                    (int)(x.len + y.len), joined);
    add_pair(b, left, right, (int32_t)rank, id);
    return 0;
}

static int open_pairs(struct bpe *b, size_t n) {
    b->pair_mask = vocab_table_mask(n);
    b->pairs = malloc((b->pair_mask + 1u) * sizeof *b->pairs);
    if (!b->pairs) return ERR_NOMEM;
    memset(b->pairs, 0xff, (b->pair_mask + 1u) * sizeof *b->pairs);
    return 0;
}

static int read_merges(const json_t *merges, struct bpe *b, struct why *why) {
    size_t n = json_array_size(merges), rank = 0, i;
    const json_t *m;
    if (n > 4u * VOCAB_MAX_ID) return fail(why, ERR_TOO_LARGE, "%s: %zu merges", where, n);
    b->merged = malloc((n + 1) * sizeof *b->merged);
    char *joined = malloc((size_t)b->vocab->longest + 1);
    int rc = b->merged && joined && open_pairs(b, n) == 0 ? 0 : fail(why, ERR_NOMEM, "%s: out of memory", where);
    bool legacy = n && json_is_string(json_array_get(merges, 0));
    for (i = 0; i < n && rc == 0; i++) {
        m = json_array_get(merges, i);
        if (json_is_string(m) != legacy) rc = fail(why, ERR_INVALID, "%s: merges mix strings and pairs at %zu", where, i);
        else if (legacy && !strncmp(json_string_value(m), "#version", 8)) continue; /* the head of a merges.txt */
        else rc = read_merge(m, rank++, b, joined, why);
    }
    free(joined);
    return rc;
}

/* Direct tables for what words are made of. */
static void read_alphabet(struct bpe *b) {
    for (uint32_t c = 0; c < 0x180; c++) {
        char s[4];
        b->char_id[c] = vocab_id(b->vocab, s, (size_t)utf8_write(c, s));
    }
    vocab_byte_ids(b->vocab, b->byte_id);
}

/* A mark that is set: a copy of it. */
static int read_mark(const json_t *model, const char *key, char **out, size_t *len, struct why *why) {
    struct text_span t;
    int rc = json_field_text(model, where, key, &t, why);
    if (rc < 0 || !t.len) return rc;
    if (t.len > BPE_MAX_MARK) return fail(why, ERR_UNSUPPORTED, "%s: '%s' has more than %d bytes", where, key, BPE_MAX_MARK);
    *out = malloc(t.len + 1);
    if (!*out) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    memcpy(*out, t.s, t.len + 1);
    *len = t.len;
    return 0;
}

static int read_flags(const json_t *model, struct bpe *b, struct why *why) {
    struct text_span unk;
    int rc = json_field_text(model, where, "unk_token", &unk, why);
    if (rc == 0) rc = read_mark(model, "continuing_subword_prefix", &b->prefix, &b->prefix_len, why);
    if (rc == 0) rc = read_mark(model, "end_of_word_suffix", &b->suffix, &b->suffix_len, why);
    if (rc == 0) rc = json_field_bool(model, where, "fuse_unk", false, &b->fuse_unk, why);
    if (rc == 0) rc = json_field_bool(model, where, "byte_fallback", false, &b->byte_fallback, why);
    if (rc == 0) rc = json_field_bool(model, where, "ignore_merges", false, &b->ignore_merges, why);
    if (rc < 0) return rc;
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return fail(why, ERR_UNSUPPORTED, "%s: 'dropout' is set; encoding must be deterministic", where);
    b->unk = -1;
    if (unk.s) {
        b->unk = vocab_id(b->vocab, unk.s, unk.len);
        if (b->unk < 0) b->unk = -2;
    }
    return 0;
}

int bpe_read(const json_t *model, const struct vocab *vocab, struct bpe *b, struct why *why) {
    b->vocab = vocab;
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges)) return fail(why, ERR_INVALID, "%s: 'merges' must be a list", where);
    int rc = read_flags(model, b, why);
    if (rc == 0) rc = read_merges(merges, b, why);
    if (rc == 0) read_alphabet(b);
    return rc;
}

/* ---- ranks instead of merges ---- */

struct splits { /* what goes through all ways to put tokens together from two others */
    struct bpe *b;
    const int32_t *rank;
    enum { LONE, COUNT, ENTER } pass;
    size_t n; /* of them, or of characters found */
};

static int by_char(const void *x, const void *y) {
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

int32_t bpe_lone(const struct bpe *b, uint32_t cp) {
    const uint32_t *at = b->n_lone ? bsearch(&cp, b->lone, (size_t)b->n_lone, sizeof cp, by_char) : NULL;
    return at ? b->vocab->size + (int32_t)(at - b->lone) : -1;
}

/* The symbol that a part of a token is while merging, or -1: it cannot come about. */
static int32_t part_symbol(struct splits *s, const char *text, size_t len) {
    uint32_t cp;
    bool single = (size_t)utf8_next(text, &cp) == len;
    int32_t id = vocab_id(s->b->vocab, text, len);
    if (id >= 0) return s->rank[id] >= 0 || (single && s->rank[id] == BPE_NO_RESULT) ? id : -1;
    if (single && s->pass == LONE && s->b->lone) s->b->lone[s->n] = cp;
    if (single && s->pass == LONE) s->n++;
    return single ? bpe_lone(s->b, cp) : -1;
}

static void split_token(struct splits *s, int32_t id) {
    const struct vocab_token *t = &s->b->vocab->tokens[id];
    uint32_t cp;
    for (size_t at = t->len ? (size_t)utf8_next(t->s, &cp) : 0; at < t->len; at += (size_t)utf8_next(t->s + at, &cp)) {
        int32_t left = part_symbol(s, t->s, at), right = part_symbol(s, t->s + at, t->len - at);
        if (left < 0 || right < 0 || s->pass == LONE) continue;
        s->n++;
        if (s->pass == ENTER) add_pair(s->b, left, right, s->rank[id], id);
    }
}

static size_t split_all(struct splits *s) {
    s->n = 0;
    for (int32_t id = 0; id < s->b->vocab->size; id++)
        if (s->b->vocab->tokens[id].s && s->rank[id] >= 0) split_token(s, id);
    return s->n;
}

static int find_lone(struct splits *s) {
    size_t found = split_all(s), n = 0;
    if (!found) return 0;
    uint32_t *c = s->b->lone = malloc(found * sizeof *c);
    if (!c) return ERR_NOMEM;
    split_all(s);
    qsort(c, found, sizeof *c, by_char);
    for (size_t i = 0; i < found; i++)
        if (!i || c[i] != c[i - 1]) c[n++] = c[i];
    s->b->n_lone = (int32_t)n;
    return 0;
}

int bpe_from_ranks(const struct vocab *vocab, const int32_t *rank, struct bpe *b) {
    struct splits s = {.b = b, .rank = rank};
    b->vocab = vocab;
    if (find_lone(&s) < 0) return ERR_NOMEM;
    s.pass = COUNT;
    if (open_pairs(b, split_all(&s)) < 0) return ERR_NOMEM;
    s.pass = ENTER;
    split_all(&s);
    read_alphabet(b);
    return 0;
}

void bpe_clear(struct bpe *b) {
    free(b->pairs);
    free(b->merged);
    free(b->prefix);
    free(b->suffix);
    free(b->lone);
    free(b->unused);
    trie_close(&b->atoms);
    *b = (struct bpe){0};
}
