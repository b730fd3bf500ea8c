/* unigram.h - the unigram model: of all ways to cut a word into tokens the one with the highest sum of scores (Kudo, 2018,
 * arXiv:1804.10959), found by Viterbi's algorithm as SentencePiece and its port to tokenizer.json do. Immutable after
 * reading. */
#pragma once
#include <jansson.h>

#include "model/text/trie.h"
#include "model/text/vocab.h"

struct unigram {
    const struct vocab *vocab;
    double *score;                 /* [vocab->size] */
    double unk_score;
    int32_t unk;                   /* -1: none */
    bool byte_fallback;
    bool single;                   /* sums are rounded to f32 at each step, as SentencePiece itself does */
    struct trie trie;
    int32_t byte_id[256];
};

/* tokenizer.json's "model": fills *vocab too. Zero both first; unigram_clear and vocab_clear also after a failure. */
int  unigram_read(const json_t *model, struct vocab *vocab, struct unigram *u, struct why *why);
/* From pieces that are already in the vocabulary; score NAN: found in no text. Takes over `score` (malloc), also on failure.
 * The other fields are the caller's to set; unk_score is set to 10 below the lowest score. 0 or ERR_NOMEM. */
int  unigram_from_scores(const struct vocab *vocab, double *score, struct unigram *u);
void unigram_clear(struct unigram *u);

struct unigram_work {              /* of one thread; init with {0} */
    struct unigram_node *node;
    size_t cap;
};
void unigram_work_clear(struct unigram_work *w);
/* Appends the tokens of one word (well-formed UTF-8, not empty). 0; ERR_NOMEM; ERR_TOO_LARGE when the list would exceed max;
 * ERR_INVALID when a character is unknown and there is no unknown token. */
int  unigram_word(const struct unigram *u, struct unigram_work *w, const char *s, size_t len, int max, struct token_list *out);
