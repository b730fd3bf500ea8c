/* charsmap.h - SentencePiece's compiled normalisation rules: a double-array trie of source texts, each with what it becomes.
 * The bytes come from a file; every step is checked. Immutable after opening.
 *
 * Layout (little-endian): u32 size of the trie in bytes, the trie (u32 units of the darts-clone library), then the
 * replacements, each ended by NUL. */
#pragma once
#include "model/text/tokenizer.h"

struct charsmap {
    uint32_t *unit;
    size_t n_units;
    char *text;                    /* NUL-terminated */
    size_t text_len;
};
/* len 0: an empty map, that changes nothing */
int  charsmap_open(struct charsmap *m, const char *bytes, size_t len, struct why *why);
int  charsmap_open_base64(struct charsmap *m, const char *text, size_t len, struct why *why);
void charsmap_close(struct charsmap *m); /* also after a failure */
/* The replacement of the shortest (or longest) source that starts at s, NUL-terminated, and how many bytes it replaces; or
 * NULL. */
const char *charsmap_find(const struct charsmap *m, const char *s, size_t len, bool longest, size_t *taken);
