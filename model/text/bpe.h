/* bpe.h - the byte-pair model of tokenizer.json: vocabulary, merges, and the merging of one word.
 *
 * Immutable after bpe_read; each encoding call brings a struct bpe_work. Merging takes O(n log n) in the word's length. */
#pragma once
#include <jansson.h>

#include "model/text/trie.h"
#include "model/text/vocab.h"

enum { BPE_MAX_MARK = 32 };

struct bpe {
    const struct vocab *vocab;
    struct bpe_pair *pairs;        /* open addressing, pair_mask + 1 slots */
    uint32_t pair_mask;
    int32_t unk;                   /* -1: none; -2: named but not in the vocabulary */
    bool fuse_unk, byte_fallback, ignore_merges;
    int32_t byte_id[256];          /* of "<0x00>" ..., or -1 */
    int32_t char_id[0x180];        /* of the tokens that are one low character: all of the byte-level alphabet */
    char *prefix, *suffix;         /* what marks characters that do not start, and the one that ends a word; NULL: nothing */
    size_t prefix_len, suffix_len;
    struct trie atoms;             /* tokens found in the word as they are, never merged; empty for most */
    int32_t *merged;               /* [merges] by rank: the id it makes; NULL when ranks are not unique */
    uint32_t *lone;                /* [n_lone] sorted: characters that are no tokens but merge into some; while merging number i
                                    * is vocab->size + i */
    int32_t n_lone;
    bool *unused;                  /* [vocab->size] tokens that merging passes through but that come out as what they were made
                                    * of; NULL: none */
};
struct bpe_pair {
    uint64_t key;                  /* left << 32 | right; ~0: empty */
    int32_t rank, id;
};

/* `model` is tokenizer.json's "model"; `vocab` has been read from it. Zero *b first; bpe_clear also after a failure. */
int  bpe_read(const json_t *model, const struct vocab *vocab, struct bpe *b, struct why *why);
/* No list of merges but a rank for each token, as in SentencePiece and tiktoken: any two neighbours merge whose text together
 * is a token, the lowest rank first and among equals the leftmost, whether or not the neighbours are tokens.
 * rank[vocab->size]; BPE_NO_RESULT: nothing merges into it; BPE_APART: nor does it merge. The flags of *b are the caller's to
 * set. 0 or ERR_NOMEM. */
enum { BPE_NO_RESULT = -1, BPE_APART = -2 };
int  bpe_from_ranks(const struct vocab *vocab, const int32_t *rank, struct bpe *b);
void bpe_clear(struct bpe *b);
int32_t bpe_lone(const struct bpe *b, uint32_t cp); /* the symbol of a lone character, or -1 */

struct bpe_work;                   /* scratch and a cache of frequent words; one per call */
struct bpe_work *bpe_work_new(const struct bpe *b, bool cache);
void bpe_work_free(struct bpe_work *w);
/* Appends the tokens of one word (well-formed UTF-8, not empty). 0; ERR_NOMEM; ERR_TOO_LARGE when the list would exceed max;
 * ERR_INVALID when a character is unknown and the unknown token does not exist. */
int  bpe_word(struct bpe_work *w, const char *s, size_t len, int max, struct token_list *out);
