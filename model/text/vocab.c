/* vocab.c - the two directions of a vocabulary: an array by id, a flat hash table with linear probing at half load by text. */
#include "model/text/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/text/utf8.h"

static const char *const where = "tokenizer.json: model";

uint32_t vocab_table_mask(size_t n) {
    uint32_t size = 16;
    while (size < 2 * n) size *= 2;
    return size - 1;
}

int vocab_open(struct vocab *v, size_t count, size_t bytes, size_t size) {
    *v = (struct vocab){.size = (int)size, .longest = 1, .text_mask = vocab_table_mask(count), .room = bytes + count};
    v->tokens = calloc(size, sizeof *v->tokens);
    v->text = malloc(v->room + 1);
    v->by_text = malloc((v->text_mask + 1u) * sizeof *v->by_text);
    if (!v->tokens || !v->text || !v->by_text) return ERR_NOMEM;
    memset(v->by_text, 0xff, (v->text_mask + 1u) * sizeof *v->by_text);
    return 0;
}

void vocab_clear(struct vocab *v) {
    free(v->tokens);
    free(v->text);
    free(v->by_text);
    *v = (struct vocab){0};
}

/* The slot of this text, or the empty one where it belongs. */
static uint32_t text_slot(const struct vocab *v, const char *s, size_t len) {
    uint32_t i = (uint32_t)hash_bytes(s, len) & v->text_mask;
    for (;; i = (i + 1) & v->text_mask) {
        int32_t id = v->by_text[i];
        if (id < 0 || (v->tokens[id].len == len && !memcmp(v->tokens[id].s, s, len))) return i;
    }
}

int32_t vocab_id(const struct vocab *v, const char *s, size_t len) {
    return v->by_text ? v->by_text[text_slot(v, s, len)] : -1;
}

/* Copies a text, with NUL for its stand-in. Returns the length. */
static size_t copy_text(char *to, const char *s, size_t len, unsigned nul) {
    if (!nul) {
        memcpy(to, s, len);
        return len;
    }
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t bytes = (size_t)utf8_next(s + i, &cp);
        if (cp == nul) {
            to[n++] = '\0';
        } else {
            memcpy(to + n, s + i, bytes);
            n += bytes;
        }
        i += bytes;
    }
    return n;
}

int vocab_put(struct vocab *v, int32_t id, const char *s, size_t len, unsigned nul) {
    if (v->tokens[id].s) return ERR_EXISTS;
    if (len + 1 > v->room - v->used) return ERR_TOO_LARGE;
    char *at = v->text + v->used;
    len = copy_text(at, s, len, nul);
    at[len] = '\0';
    v->used += len + 1;
    v->tokens[id] = (struct vocab_token){at, (uint32_t)len};
    v->by_text[text_slot(v, at, len)] = id;
    v->count++;
    if ((int)len > v->longest) v->longest = (int)len;
    return 0;
}

int vocab_read(const json_t *object, unsigned nul, struct vocab *v, struct why *why) {
    const char *key;
    json_t *value;
    size_t bytes = 0;
    int64_t top = -1;
    json_object_foreach((json_t *)object, key, value) {
        int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= VOCAB_MAX_ID)
            return fail(why, ERR_INVALID, "%s: the id of token '%.60s' must be an integer from 0 to %d", where, key,
                        VOCAB_MAX_ID - 1);
        if (id > top) top = id;
        bytes += strlen(key);
    }
    if (top < 0) return fail(why, ERR_INVALID, "%s: 'vocab' is empty", where);
    if (vocab_open(v, json_object_size(object), bytes, (size_t)top + 1) < 0)
        return fail(why, ERR_NOMEM, "%s: out of memory", where);
    json_object_foreach((json_t *)object, key, value) {
        int32_t id = (int32_t)json_integer_value(value);
        if (vocab_put(v, id, key, strlen(key), nul) < 0)
            return fail(why, ERR_INVALID, "%s: tokens '%.60s' and '%.60s' share id %d", where, v->tokens[id].s, key, id);
    }
    return 0;
}

void vocab_byte_ids(const struct vocab *v, int32_t ids[256]) {
    for (int i = 0; i < 256; i++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", (unsigned)i);
        ids[i] = vocab_id(v, s, 6);
    }
}
