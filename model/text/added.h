/* added.h - the tokens of tokenizer.json's "added_tokens": found in the text before the model sees it.
 *
 * Those with `normalized` are looked for in the normalised text by their own normal form, the others in the raw text. At each
 * place the longest wins, left to right, without overlap. Immutable after reading. */
#pragma once
#include <jansson.h>

#include "model/text/normalize.h"
#include "model/text/pattern.h"
#include "model/text/trie.h"
#include "model/text/vocab.h"

enum { ADDED_MAX_BYTES = 1024 };

struct added_token {
    char *content, *normal;        /* normal: its normal form where that differs, else NULL */
    size_t content_len, normal_len;
    int32_t id;
    bool special, normalized, single_word, lstrip, rstrip;
};
struct added_set {
    struct added_token *tokens;    /* ascending id */
    int n;
    struct trie raw, normal;
    struct pattern *word;          /* one word character; only when a token asks for single_word */
};
/* keep_ids: the ids of the list count, also where they leave holes or replace a token of the vocabulary. */
int added_read(const json_t *list, bool keep_ids, const struct vocab *v, const struct normalizer *n, struct added_set *out,
               struct why *why);
void added_clear(struct added_set *a); /* also after a failed read */
const struct added_token *added_by_id(const struct added_set *a, int32_t id);                   /* or NULL */
/* or NULL; a scan, for set-up only */
const struct added_token *added_by_text(const struct added_set *a, const char *s, size_t len);

/* Calls piece() for every stretch of text in order: with a token, or with NULL for what lies between. A negative result ends
 * it. */
struct added_cut {
    const struct added_set *set;
    bool normal;                   /* which trie */
    bool special;                  /* recognise special tokens too */
    struct pattern_scratch *scratch;
    int (*piece)(void *user, const char *s, size_t len, size_t at, const struct added_token *token);
    void *user;
};
int  added_cut_run(const struct added_cut *c, const char *s, size_t len);
