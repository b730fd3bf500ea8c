/* utf8.c - one table-free decoder: the second byte is checked against the range its lead allows (so overlong forms, surrogates
 * and values above U+10FFFF are found at that byte, which is what makes the maximal ill-formed prefix right), then plain
 * continuation bytes. */
#include "base/utf8.h"

#include <string.h>

/* Length the lead byte promises and the range of the second byte; 0: not a lead. */
static int lead(unsigned char c, unsigned char *lo, unsigned char *hi) {
    *lo = 0x80;
    *hi = 0xbf;
    if (c >= 0xc2 && c <= 0xdf) return 2;
    if (c >= 0xe0 && c <= 0xef) {
        if (c == 0xe0) *lo = 0xa0;
        if (c == 0xed) *hi = 0x9f;
        return 3;
    }
    if (c >= 0xf0 && c <= 0xf4) {
        if (c == 0xf0) *lo = 0x90;
        if (c == 0xf4) *hi = 0x8f;
        return 4;
    }
    return 0;
}

int utf8_read(const char *s, size_t len, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    unsigned char lo, hi;
    int n = lead(p[0], &lo, &hi);
    if (!n) return -1;
    uint32_t v = p[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= len) return 0;
        if (p[i] < lo || p[i] > hi) return -i;
        lo = 0x80;
        hi = 0xbf;
        v = v << 6 | (p[i] & 0x3f);
    }
    *cp = v;
    return n;
}

size_t utf8_valid_prefix(const char *s, size_t len) {
    size_t i = 0;
    while (i < len) {
        uint64_t eight;
        if (len - i >= 8 && (memcpy(&eight, s + i, 8), !(eight & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        uint32_t cp;
        int n = utf8_read(s + i, len - i, &cp);
        if (n <= 0) return i;
        i += (size_t)n;
    }
    return i;
}

void utf8_copy(char *buf, size_t cap, const char *s) {
    size_t len = strlen(s), n = 0;
    for (size_t i = 0, bytes; i < len; i += bytes) {
        uint32_t code_point;
        int good = utf8_read(s + i, len - i, &code_point);
        bytes = good > 0 ? (size_t)good : 1;
        if (n + bytes >= cap) break;
        memcpy(buf + n, good > 0 ? s + i : "?", bytes);
        n += bytes;
    }
    buf[n] = 0;
}
