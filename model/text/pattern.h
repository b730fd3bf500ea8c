/* pattern.h - the regular expressions of tokenizer.json, run by PCRE2.
 *
 * They are written in Oniguruma's dialect, which PCRE2 partly reads with another meaning and without an error, so every pattern
 * is parsed and rewritten (pattern_translate.c); a construct outside the known set is refused with the pattern and the offset.
 * A pattern is immutable and shared by threads; each caller scans with a scratch of its own. */
#pragma once
#include <jansson.h>

#include "model/text/tokenizer.h"

struct pattern;
int  pattern_open(const char *source, size_t len, struct pattern **out, struct why *why);        /* Oniguruma's dialect */
int  pattern_open_literal(const char *text, size_t len, struct pattern **out, struct why *why);  /* matches just this text */
void pattern_close(struct pattern *p);
/* {"String": text} or {"Regex": pattern}, as tokenizer.json writes them. place: for messages. */
int  pattern_read(const json_t *spec, const char *place, struct pattern **out, struct why *why);

/* Working memory of one thread for one pattern. Init with {0}; made at first use. */
struct pattern_scratch {
    void *match, *context, *stack; /* PCRE2's */
};
void pattern_scratch_clear(struct pattern_scratch *s);

/* Finds matches from left to right. Start with .text, .len (well-formed UTF-8) and .pattern, .scratch; the rest zero. */
struct pattern_scan {
    const struct pattern *pattern;
    struct pattern_scratch *scratch;
    const char *text;
    size_t len, at;
    bool matched; /* a match ended at `at`: an empty one there does not count again */
};
/* 1 with the match [*start, *end), which may be empty; 0 when there are no more; ERR_NOMEM, or ERR_TOO_LARGE when the pattern
 * exceeds PCRE2's limits on this text. */
int  pattern_next(struct pattern_scan *scan, size_t *start, size_t *end);

/* Appends s[len] with every match replaced. origin (may be NULL): a length of leading bytes of s, which becomes that of what
 * they turned into; a match that reaches beyond them ends them. 0, or as pattern_next; ERR_NOMEM. */
int  pattern_replace(const struct pattern *p, struct pattern_scratch *scratch, const char *s, size_t len, const char *with,
                     size_t with_len, size_t *origin, struct text_buf *out);

/* The rewriting alone: appends PCRE2's form of an Oniguruma pattern. */
int  pattern_translate(const char *source, size_t len, struct text_buf *out, struct why *why);
