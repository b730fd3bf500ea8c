/* utf8.h - reading, writing and mending UTF-8.
 *
 * "Lossy" means what a lossy decoder does: each maximal prefix of an ill-formed sequence becomes one U+FFFD (Unicode 3.9,
 * "substitution of maximal subparts"). Pure functions but for struct utf8_stream, which belongs to its caller. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/utf8.h"
#include "model/text/tokenizer.h"

#define UTF8_REPLACEMENT "\xef\xbf\xbd"

/* As utf8_read, for text known to be well-formed. Returns the length, 1 to 4. */
int  utf8_next(const char *s, uint32_t *cp);
/* Where the character that ends at s[at] starts; at > 0. Well-formed text. */
size_t utf8_back(const char *s, size_t at);
int  utf8_write(uint32_t cp, char *out); /* 1 to 4 bytes */
int  utf8_append_lossy(struct text_buf *out, const char *s, size_t len); /* 0 or ERR_NOMEM */

/* A lossy decoder fed in pieces: pushes whole characters as soon as they are certain. Init with {0}. */
struct utf8_stream {
    char held[4]; /* a prefix that may still become a character */
    int n;
};
int  utf8_stream_push(struct utf8_stream *u, const char *s, size_t len, struct text_buf *out); /* 0 or ERR_NOMEM */
int  utf8_stream_flush(struct utf8_stream *u, struct text_buf *out);
