/* utf8.h - is this text UTF-8 (RFC 3629: no surrogates, nothing above U+10FFFF, no overlong forms)? Whoever takes text from
 * outside asks; protobuf-c does not. What else can be done with UTF-8 is in model/text/utf8.h. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Reads the sequence at s[0], len >= 1. Returns its length, or -(length of the maximal ill-formed prefix), or 0 when the bytes
 * end inside a sequence that could still become well-formed. *cp is set when the result is positive. */
int    utf8_read(const char *s, size_t len, uint32_t *cp);
size_t utf8_valid_prefix(const char *s, size_t len); /* bytes; len when all of it is well-formed */
/* The string s into buf (cap bytes, NUL included), each byte that is not UTF-8 as '?', cut only between characters. */
void   utf8_copy(char *buf, size_t cap, const char *s);
