/* unicode.h - character properties and normal forms, as the reference implementation sees them.
 *
 * The reference carries several editions of Unicode at once: the newest in its pattern engine and in its character predicates,
 * much older ones in its punctuation test and in its normaliser. Token ids must agree with it also on rare letters, so each
 * question has a function of its own, and unicode.c holds the differences from utf8proc as short tables. Pure functions. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/text/tokenizer.h"

bool unicode_is_space(uint32_t cp);    /* White_Space */
bool unicode_is_numeric(uint32_t cp);  /* Nd, Nl, No */
bool unicode_is_punct(uint32_t cp);    /* ASCII punctuation, or P of the old edition */
bool unicode_is_mark(uint32_t cp);     /* Mn, Mc, Me of the old edition */
bool unicode_is_nonspacing(uint32_t cp); /* Mn of the old edition */
size_t unicode_grapheme(const char *s, size_t len); /* bytes of the grapheme cluster at s; well-formed UTF-8, len > 0 */
bool unicode_is_alnum(uint32_t cp);    /* L or N of utf8proc's edition: for refusing case-folding corner cases only */
int  unicode_lower(uint32_t cp, uint32_t out[2]); /* full lower case without context: 1 or 2 code points */

/* Characters newer than PCRE2's tables (Unicode 15 and 16), by general category, ascending. script: 0, or the letter of Han,
 * hIragana, Latin, Arabic, Cyrillic, laO for those that joined an old script. U+1171E moved from Mn to Mc. */
struct unicode_range {
    uint32_t first, last;
    char category[3];
    char script;
};
extern const struct unicode_range unicode_newer[];
extern const int unicode_newer_count;

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };
int unicode_normalize(enum unicode_form form, const char *s, size_t len, struct text_buf *out); /* appends; 0 or ERR_NOMEM */
bool unicode_is_unnormalized(uint32_t cp); /* passes through every form untouched */
