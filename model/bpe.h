/* bpe.h - the byte-pair model of tokenizer.json: vocabulary, merges, and the merging of one word.
 *
 * Immutable after bpe_read; each encoding call brings a struct bpe_work. Merging takes O(n log n) in the word's length. */
#pragma once
#include <jansson.h>

#include "model/tokenizer.h"

enum { BPE_MAX_ID = 1 << 21 }; /* ids are below */

struct bpe_token {
    const char *s; /* NUL-terminated, may hold NULs; NULL: no token has this id */
    uint32_t len;
};
struct bpe {
    struct bpe_token *tokens;      /* [size] by id */
    int size;                      /* largest id + 1 */
    int count;                     /* tokens, without holes */
    int longest;                   /* bytes of the longest token */
    int32_t *by_text;              /* open addressing, text_mask + 1 slots: id or -1 */
    uint32_t text_mask;
    struct bpe_pair *pairs;        /* open addressing, pair_mask + 1 slots */
    uint32_t pair_mask;
    int32_t *merged;               /* [merges] by rank: the id it makes */
    int32_t unk;                   /* -1: none; -2: named but not in the vocabulary */
    bool fuse_unk, byte_fallback, ignore_merges;
    int32_t byte_id[256];          /* of "<0x00>" ..., or -1 */
    int32_t char_id[0x180];        /* of the tokens that are one low character: all of the byte-level alphabet */
    char *text;                    /* the tokens' bytes */
};
struct bpe_pair {
    uint64_t key;                  /* left << 32 | right; ~0: empty */
    int32_t rank, id;
};

/* `model` is tokenizer.json's "model"; nul: the code point that stands for NUL in the vocabulary's keys, 0 when none does. Zero *b
 * first; bpe_clear also after a failure. */
int  bpe_read(const json_t *model, unsigned nul, struct bpe *b, struct why *why);
void bpe_clear(struct bpe *b);
int32_t bpe_id(const struct bpe *b, const char *s, size_t len); /* or -1 */

struct bpe_work;                   /* scratch and a cache of frequent words; one per call */
struct bpe_work *bpe_work_new(const struct bpe *b, bool cache);
void bpe_work_free(struct bpe_work *w);
/* Appends the tokens of one word (well-formed UTF-8, not empty). 0; ERR_NOMEM; ERR_TOO_LARGE when the list would exceed max;
 * ERR_INVALID when a character is unknown and the unknown token does not exist. */
int  bpe_word(struct bpe_work *w, const char *s, size_t len, int max, struct token_list *out);
int  token_list_add(struct token_list *l, int32_t id); /* 0 or ERR_NOMEM */
