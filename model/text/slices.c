/* slices.c - one pass over the characters. */
#include "model/text/slices.h"

#include "model/text/unicode.h"
#include "model/text/utf8.h"

static bool is_blank(uint32_t cp) { return unicode_is_space(cp) || (cp >= 0x1c && cp <= 0x1f); } /* Python's isspace */

bool slices_next(struct slices *x, const char **s, size_t *len) {
    size_t at = x->at, run = 0;
    bool blank = false;
    if (at == x->len) return false;
    if (!x->left) x->left = x->limits.chars;
    for (uint32_t cp; at < x->len && x->left; x->left--) {
        size_t bytes = (size_t)utf8_next(x->s + at, &cp);
        run = run && is_blank(cp) == blank ? run + 1 : 1;
        blank = is_blank(cp);
        if (run > x->limits.run) break;
        at += bytes;
    }
    *s = x->s + x->at;
    *len = at - x->at;
    x->at = at;
    return true;
}
