/* pattern_class.h - character classes of Oniguruma's dialect as PCRE2 text; shared by pattern_translate.c and
 * pattern_class.c. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "model/text/tokenizer.h"

enum { PATTERN_MAX_DEPTH = 64 };

struct pattern_input {
    const char *s; /* well-formed UTF-8 */
    size_t len, at;
    int depth;
    bool ignore_case;
    struct why *why;
};

/* Refuses the construct at `at`, naming pattern, offset and what. Returns ERR_UNSUPPORTED. */
int pattern_refuse(const struct pattern_input *in, size_t at, const char *what);
/* A bracketed set, in->at behind its '['. Appends one PCRE2 atom that matches one character. */
int pattern_class(struct pattern_input *in, struct text_buf *out);
/* The escape \w \W \s \S \d \D \h \H \p{..} \P{..} whose letter is at in->at. Appends one PCRE2 atom. Returns 1, or 0 and reads
 * nothing when the letter is none of these. */
int pattern_class_escape(struct pattern_input *in, struct text_buf *out);
/* The escape of a single character (\n, \x41, \., ...), in->at behind the backslash. 1 and *cp, or refused. */
int pattern_char_escape(struct pattern_input *in, unsigned *cp);
int pattern_append_char(struct text_buf *out, unsigned cp); /* as \x{..}, or plain for ASCII letters and digits */
