/* wordpiece.h - two models that look words up: WordPiece (the longest known start, then the longest known continuation, ...)
 * and WordLevel (whole words only). Immutable after reading. */
#pragma once
#include <jansson.h>

#include "model/text/vocab.h"

struct wordpiece {
    const struct vocab *vocab;
    char *prefix;                  /* before every piece but the first; NULL: WordLevel */
    size_t prefix_len;
    int64_t max_chars;             /* a longer word is unknown */
    int32_t unk;                   /* -2: not in the vocabulary */
};
int  wordpiece_read(const json_t *model, bool pieces, const struct vocab *vocab, struct wordpiece *p, struct why *why);
void wordpiece_clear(struct wordpiece *p); /* also after a failed read */
/* As unigram_word; scratch is the caller's buffer. */
int wordpiece_word(const struct wordpiece *p, struct text_buf *scratch, const char *s, size_t len, int max,
                   struct token_list *out);
