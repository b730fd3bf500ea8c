/* base64.c - strict: the alphabet, padding where it belongs, nothing else. */
#include "model/text/base64.h"

static int digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int64_t base64_decode(const char *s, size_t len, char *out) {
    int64_t n = 0;
    if (len % 4) return -1;
    for (size_t i = 0; i < len; i += 4) {
        int pad = i + 4 < len ? 0 : (s[i + 3] == '=') + (s[i + 3] == '=' && s[i + 2] == '=');
        uint32_t v = 0;
        for (int k = 0; k < 4 - pad; k++) {
            int d = digit(s[i + (size_t)k]);
            if (d < 0) return -1;
            v |= (uint32_t)d << (18 - 6 * k);
        }
        for (int k = 0; k < 3 - pad; k++) out[n++] = (char)(v >> (16 - 8 * k) & 0xff);
    }
    return n;
}
