/* utf8.h - is this text UTF-8? protobuf-c does not check; whoever takes text from outside does (RFC 3629: no surrogates,
 * nothing above U+10FFFF, no overlong forms). */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at s, or 0 when what stands there is none. left > 0. */
static inline size_t utf8_char_bytes(const uint8_t *s, size_t left) {
    uint8_t low = 0x80, high = 0xbf; /* bounds of the second byte */
    size_t n = 0;
    if (s[0] < 0x80) return 1;
    if (s[0] >= 0xc2 && s[0] <= 0xdf) n = 2;
    if (s[0] >= 0xe0 && s[0] <= 0xef) n = 3;
    if (s[0] >= 0xf0 && s[0] <= 0xf4) n = 4;
    if (s[0] == 0xe0) low = 0xa0;
    if (s[0] == 0xed) high = 0x9f;
    if (s[0] == 0xf0) low = 0x90;
    if (s[0] == 0xf4) high = 0x8f;
    if (!n || n > left || s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return n;
}

/* How many bytes from the start are good; len when all are. */
static inline size_t utf8_good_bytes(const void *text, size_t len) {
    const uint8_t *s = text;
    size_t i = 0;
    while (i < len) {
        size_t n = utf8_char_bytes(s + i, len - i);
        if (!n) break;
        i += n;
    }
    return i;
}
