/* utf8.c - one table-free decoder, and everything else by it.
 *
 * utf8_read checks the second byte against the range its lead allows (so overlong forms, surrogates and values above U+10FFFF
 * are found at that byte, which is what makes the maximal ill-formed prefix right), then plain continuation bytes. */
#include "model/utf8.h"

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

int utf8_next(const char *s, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xe0) {
        *cp = (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
        return 2;
    }
    if (p[0] < 0xf0) {
        *cp = (p[0] & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
        return 3;
    }
    *cp = (p[0] & 7u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    return 4;
}

size_t utf8_back(const char *s, size_t at) {
    do at--;
    while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80);
    return at;
}

int utf8_write(uint32_t cp, char *out) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
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

int utf8_append_lossy(struct text_buf *out, const char *s, size_t len) {
    struct utf8_stream u = {.n = 0};
    int rc = utf8_stream_push(&u, s, len, out);
    return rc < 0 ? rc : utf8_stream_flush(&u, out);
}

/* Appends the well-formed start of s, then deals with what stopped it. Returns the bytes consumed, or ERR_NOMEM. */
static int64_t push_some(struct utf8_stream *u, const char *s, size_t len, struct text_buf *out) {
    size_t good = utf8_valid_prefix(s, len);
    int rc = good ? text_buf_append(out, s, good) : 0;
    if (rc < 0) return rc;
    if (good == len) return (int64_t)good;
    uint32_t cp;
    int n = utf8_read(s + good, len - good, &cp);
    if (n == 0) {
        u->n = (int)(len - good);
        memcpy(u->held, s + good, len - good);
        return (int64_t)len;
    }
    rc = text_buf_append(out, UTF8_REPLACEMENT, 3);
    return rc < 0 ? rc : (int64_t)good - n;
}

int utf8_stream_push(struct utf8_stream *u, const char *s, size_t len, struct text_buf *out) {
    while (u->n && len) { /* complete the held prefix byte by byte: it resolves within three */
        char joined[4];
        uint32_t cp;
        memcpy(joined, u->held, (size_t)u->n);
        joined[u->n] = *s;
        int n = utf8_read(joined, (size_t)u->n + 1, &cp);
        if (n < 0) { /* ill-formed: the held bytes are one bad prefix, and *s starts afresh */
            u->n = 0;
            if (text_buf_append(out, UTF8_REPLACEMENT, 3) < 0) return ERR_NOMEM;
            break;
        }
        u->held[u->n++] = *s++;
        len--;
        if (n > 0) {
            u->n = 0;
            if (text_buf_append(out, u->held, (size_t)n) < 0) return ERR_NOMEM;
        }
    }
    while (len) {
        int64_t used = push_some(u, s, len, out);
        if (used < 0) return (int)used;
        s += used;
        len -= (size_t)used;
    }
    return 0;
}

int utf8_stream_flush(struct utf8_stream *u, struct text_buf *out) {
    if (!u->n) return 0;
    u->n = 0;
    return text_buf_append(out, UTF8_REPLACEMENT, 3);
}
