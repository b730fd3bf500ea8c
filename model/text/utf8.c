/* utf8.c - everything by utf8_read of base/utf8.h, but for what needs no check: text known to be well-formed. */
#include "model/text/utf8.h"

#include <string.h>

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
