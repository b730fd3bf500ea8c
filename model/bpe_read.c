/* bpe_read.c - the model part of tokenizer.json into hash tables.
 *
 * Both tables are flat with linear probing at half load. A merge is looked up by its two ids and gives rank and result. The
 * file is checked as it is read: ids in range and unique, both parts and the result of a merge in the vocabulary. A pair that is
 * listed twice keeps its last rank, as in the reference implementation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/bpe.h"
#include "model/json_field.h"
#include "model/utf8.h"

static const char *const where = "tokenizer.json: model";

static uint32_t table_mask(size_t n) {
    uint32_t size = 16;
    while (size < 2 * n) size *= 2;
    return size - 1;
}

int32_t bpe_id(const struct bpe *b, const char *s, size_t len) {
    if (!b->by_text) return -1;
    for (uint32_t i = (uint32_t)hash_bytes(s, len) & b->text_mask;; i = (i + 1) & b->text_mask) {
        int32_t id = b->by_text[i];
        if (id < 0 || (b->tokens[id].len == len && !memcmp(b->tokens[id].s, s, len))) return id;
    }
}

static void index_token(struct bpe *b, int32_t id) {
    uint32_t i = (uint32_t)hash_bytes(b->tokens[id].s, b->tokens[id].len) & b->text_mask;
    while (b->by_text[i] >= 0) i = (i + 1) & b->text_mask;
    b->by_text[i] = id;
}

/* Copies a key, with NUL for its stand-in. Returns the length. */
static size_t copy_key(char *to, const char *key, unsigned nul) {
    size_t n = 0;
    for (const char *p = key; *p;) {
        uint32_t cp;
        size_t len = (size_t)utf8_next(p, &cp);
        if (nul && cp == nul) {
            to[n++] = '\0';
        } else {
            memcpy(to + n, p, len);
            n += len;
        }
        p += len;
    }
    to[n] = '\0';
    return n;
}

static int read_vocab(const json_t *vocab, unsigned nul, struct bpe *b, struct why *why) {
    const char *key;
    json_t *value;
    size_t bytes = 0;
    int64_t top = -1;
    json_object_foreach((json_t *)vocab, key, value) {
        int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= BPE_MAX_ID)
            return fail(why, ERR_INVALID, "%s: the id of token '%.60s' must be an integer from 0 to %d", where, key,
                        BPE_MAX_ID - 1);
        if (id > top) top = id;
        bytes += strlen(key) + 1;
    }
    if (top < 0) return fail(why, ERR_INVALID, "%s: 'vocab' is empty", where);
    b->size = (int)top + 1;
    b->longest = 1;
    b->count = (int)json_object_size(vocab);
    b->text_mask = table_mask((size_t)b->count);
    b->tokens = calloc((size_t)b->size, sizeof *b->tokens);
    b->text = malloc(bytes);
    b->by_text = malloc((b->text_mask + 1u) * sizeof *b->by_text);
    if (!b->tokens || !b->text || !b->by_text) return fail(why, ERR_NOMEM, "%s: out of memory", where);
    memset(b->by_text, 0xff, (b->text_mask + 1u) * sizeof *b->by_text);
    char *at = b->text;
    json_object_foreach((json_t *)vocab, key, value) {
        int32_t id = (int32_t)json_integer_value(value);
        if (b->tokens[id].s)
            return fail(why, ERR_INVALID, "%s: tokens '%.60s' and '%.60s' share id %d", where, b->tokens[id].s, key, id);
        size_t len = copy_key(at, key, nul);
        b->tokens[id] = (struct bpe_token){at, (uint32_t)len};
        at += len + 1;
        index_token(b, id);
        if ((int)len > b->longest) b->longest = (int)len;
    }
    return 0;
}

static void add_pair(struct bpe *b, int32_t left, int32_t right, int32_t rank, int32_t id) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)hash_u64(key) & b->pair_mask;
    while (b->pairs[i].key != ~(uint64_t)0 && b->pairs[i].key != key) i = (i + 1) & b->pair_mask;
    b->pairs[i] = (struct bpe_pair){key, rank, id};
    b->merged[rank] = id;
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
    int32_t left = bpe_id(b, x.s, x.len), right = bpe_id(b, y.s, y.len);
    if (!x.len || !y.len || left < 0 || right < 0)
        return fail(why, ERR_INVALID, "%s: merge %zu joins '%.*s', which is not in the vocabulary", where, rank,
                    left < 0 ? (int)x.len : (int)y.len, left < 0 ? x.s : y.s);
    if (x.len + y.len > (size_t)b->longest)
        return fail(why, ERR_INVALID, "%s: merge %zu makes '%.60s%.60s', which is not in the vocabulary", where, rank, x.s,
                    y.s);
    memcpy(joined, x.s, x.len);
    memcpy(joined + x.len, y.s, y.len);
    int32_t id = bpe_id(b, joined, x.len + y.len);
    if (id < 0)
        return fail(why, ERR_INVALID, "%s: merge %zu makes '%.*s', which is not in the vocabulary", where, rank,
                    (int)(x.len + y.len), joined);
    add_pair(b, left, right, (int32_t)rank, id);
    return 0;
}

static int read_merges(const json_t *merges, struct bpe *b, struct why *why) {
    size_t n = json_array_size(merges), rank = 0, i;
    const json_t *m;
    if (n > 4u * BPE_MAX_ID) return fail(why, ERR_TOO_LARGE, "%s: %zu merges", where, n);
    b->pair_mask = table_mask(n);
    b->pairs = malloc((b->pair_mask + 1u) * sizeof *b->pairs);
    b->merged = malloc((n + 1) * sizeof *b->merged);
    char *joined = malloc((size_t)b->longest + 1);
    int rc = b->pairs && b->merged && joined ? 0 : fail(why, ERR_NOMEM, "%s: out of memory", where);
    if (rc == 0) memset(b->pairs, 0xff, (b->pair_mask + 1u) * sizeof *b->pairs);
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
        b->char_id[c] = bpe_id(b, s, (size_t)utf8_write(c, s));
    }
    for (int i = 0; i < 256; i++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", (unsigned)i);
        b->byte_id[i] = bpe_id(b, s, 6);
    }
}

static int read_flags(const json_t *model, struct bpe *b, struct why *why) {
    struct text_span unk, prefix, suffix;
    int rc = json_field_text(model, where, "unk_token", &unk, why);
    if (rc == 0) rc = json_field_text(model, where, "continuing_subword_prefix", &prefix, why);
    if (rc == 0) rc = json_field_text(model, where, "end_of_word_suffix", &suffix, why);
    if (rc == 0) rc = json_field_bool(model, where, "fuse_unk", false, &b->fuse_unk, why);
    if (rc == 0) rc = json_field_bool(model, where, "byte_fallback", false, &b->byte_fallback, why);
    if (rc == 0) rc = json_field_bool(model, where, "ignore_merges", false, &b->ignore_merges, why);
    if (rc < 0) return rc;
    if (prefix.len || suffix.len)
        return fail(why, ERR_UNSUPPORTED, "%s: '%s' is set; only models without subword marks are known", where,
                    prefix.len ? "continuing_subword_prefix" : "end_of_word_suffix");
    const json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return fail(why, ERR_UNSUPPORTED, "%s: 'dropout' is set; encoding must be deterministic", where);
    b->unk = -1;
    if (unk.s) {
        b->unk = bpe_id(b, unk.s, unk.len);
        if (b->unk < 0) b->unk = -2;
    }
    return 0;
}

int bpe_read(const json_t *model, unsigned nul, struct bpe *b, struct why *why) {
    struct text_span type;
    if (!json_is_object(model)) return fail(why, ERR_INVALID, "tokenizer.json: 'model' is missing");
    int rc = json_field_text(model, where, "type", &type, why);
    if (rc < 0) return rc;
    if (!type.s || strcmp(type.s, "BPE"))
        return fail(why, ERR_UNSUPPORTED, "%s: type '%.60s' is not known; only BPE is", where, type.s ? type.s : "(none)");
    const json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges");
    if (!json_is_object(vocab)) return fail(why, ERR_INVALID, "%s: 'vocab' must be an object", where);
    if (!json_is_array(merges)) return fail(why, ERR_INVALID, "%s: 'merges' must be a list", where);
    rc = read_vocab(vocab, nul, b, why);
    if (rc == 0) rc = read_flags(model, b, why);
    if (rc == 0) rc = read_merges(merges, b, why);
    if (rc == 0) read_alphabet(b);
    return rc;
}

void bpe_clear(struct bpe *b) {
    free(b->tokens);
    free(b->text);
    free(b->by_text);
    free(b->pairs);
    free(b->merged);
    *b = (struct bpe){0};
}
