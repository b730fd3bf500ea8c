/* slices.h - cutting long text before it is encoded, as the tokeniser that comes with Kimi's vocabulary does for tiktoken's
 * sake.
 *
 * A slice ends after .chars characters, and wherever more than .run characters in a row are all blanks or all none; runs count
 * anew in each stretch of .chars. Nothing is merged or matched across the ends, so they show in the tokens. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct slice_limits { /* both > 0 */
    size_t chars, run;
};
struct slices { /* init with .limits, .s and .len (well-formed UTF-8) */
    struct slice_limits limits;
    const char *s;
    size_t len;
    size_t at;   /* where the next slice starts */
    size_t left; /* characters until the stretch ends; 0: it has */
};
/* The next slice, never empty. False: no more. */
bool slices_next(struct slices *x, const char **s, size_t *len);
