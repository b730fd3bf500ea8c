/* byte_level.c - the alphabet by rule: no table to fill at run time, so nothing to initialise. */
#include "model/text/byte_level.h"

#include "model/text/utf8.h"

/* The bytes that are not visible are 0-32, 127-160 and 173: 33, 34 and 1 of them, in this order from U+0100. */
uint32_t byte_level_char(unsigned char b) {
    if (b <= 32) return 256u + b;
    if (b < 127) return b;
    if (b <= 160) return 256u + 33 + (b - 127u);
    return b == 173 ? 256u + 67 : b;
}

int byte_level_byte(uint32_t cp) {
    if (cp < 256) return (cp > 32 && cp < 127) || (cp > 160 && cp != 173) ? (int)cp : -1;
    cp -= 256;
    if (cp <= 32) return (int)cp;
    if (cp < 67) return (int)cp - 33 + 127;
    return cp == 67 ? 173 : -1;
}

int byte_level_append(struct text_buf *out, const char *s, size_t len) {
    char b[256];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        n += (size_t)utf8_write(byte_level_char((unsigned char)s[i]), b + n);
        if (n > sizeof b - 4 || i + 1 == len) {
            if (text_buf_append(out, b, n) < 0) return ERR_NOMEM;
            n = 0;
        }
    }
    return 0;
}
