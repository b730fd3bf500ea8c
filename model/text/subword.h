/* subword.h - the model of a tokenizer: what cuts one word into tokens. One of four kinds over one vocabulary. Immutable after
 * reading; each encoding call brings a struct subword_work. */
#pragma once
#include <jansson.h>

#include "model/text/bpe.h"
#include "model/text/unigram.h"
#include "model/text/vocab.h"
#include "model/text/wordpiece.h"

enum subword_kind { SUBWORD_BPE, SUBWORD_UNIGRAM, SUBWORD_WORDPIECE };
struct subword {
    enum subword_kind kind;
    struct vocab vocab;
    struct bpe bpe;                /* the one of the kind is filled */
    struct unigram unigram;
    struct wordpiece wordpiece;
};
/* tokenizer.json's "model"; nul: the code point that stands for NUL in keys, or 0. Zero *m first; clear also after a
 * failure. */
int  subword_read(const json_t *model, unsigned nul, struct subword *m, struct why *why);
void subword_clear(struct subword *m);

struct subword_work;               /* scratch and a cache of frequent words */
struct subword_work *subword_work_new(const struct subword *m, bool cache);
void subword_work_free(struct subword_work *w);
/* Appends the tokens of one word (well-formed UTF-8, not empty). 0; ERR_NOMEM; ERR_TOO_LARGE when the list would exceed max;
 * ERR_INVALID when something is unknown and the unknown token does not exist. */
int  subword_word(struct subword_work *w, const char *s, size_t len, int max, struct token_list *out);
