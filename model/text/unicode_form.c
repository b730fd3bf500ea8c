/* unicode_form.c - NFC, NFD, NFKC, NFKD of a text, in time linear in its length.
 *
 * utf8proc decomposes single characters and composes a decomposed run; the reordering of marks in between is ours, because
 * utf8proc's exchange sort takes quadratic time on long runs of marks, which a client may send. The text is cut where nothing
 * can interact: before an ASCII character, and around characters that the reference's older normaliser passes through. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/text/unicode.h"
#include "model/text/utf8.h"

struct run { /* code points of one stretch */
    utf8proc_int32_t *cp;
    size_t len, cap;
    utf8proc_int32_t *spare; /* for sorting; spare_cap elements */
    size_t spare_cap;
};

static int run_push(struct run *r, uint32_t cp, int options) {
    if (r->cap - r->len < 32) { /* the longest decomposition has 18 */
        size_t cap = r->cap ? r->cap * 2 : 256;
        utf8proc_int32_t *p = realloc(r->cp, cap * sizeof *p);
        if (!p) return ERR_NOMEM;
        r->cp = p;
        r->cap = cap;
    }
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, r->cp + r->len, (utf8proc_ssize_t)(r->cap - r->len),
                                                 (utf8proc_option_t)options, &boundary);
    if (n < 0 || (size_t)n > r->cap - r->len) r->cp[r->len++] = (utf8proc_int32_t)cp;
    else r->len += (size_t)n;
    return 0;
}

static int mark_class(utf8proc_int32_t cp) { return cp < 0x300 ? 0 : utf8proc_get_property(cp)->combining_class; }

/* Stable counting sort by combining class of n marks. */
static int sort_marks(struct run *r, size_t at, size_t n) {
    if (n > r->spare_cap) {
        utf8proc_int32_t *p = realloc(r->spare, n * sizeof *p);
        if (!p) return ERR_NOMEM;
        r->spare = p;
        r->spare_cap = n;
    }
    size_t start[257] = {0};
    utf8proc_int32_t *m = r->cp + at;
    for (size_t i = 0; i < n; i++) start[mark_class(m[i]) + 1]++;
    for (int c = 0; c < 256; c++) start[c + 1] += start[c];
    for (size_t i = 0; i < n; i++) r->spare[start[mark_class(m[i])]++] = m[i];
    memcpy(m, r->spare, n * sizeof *m);
    return 0;
}

static int sort_run(struct run *r) {
    for (size_t i = 0; i < r->len;) {
        int class = mark_class(r->cp[i]), prev = class;
        bool sorted = true;
        size_t j = i + 1;
        if (class) {
            for (; j < r->len && (class = mark_class(r->cp[j])) != 0; j++) {
                if (class < prev) sorted = false;
                prev = class;
            }
            if (!sorted && sort_marks(r, i, j - i) < 0) return ERR_NOMEM;
        }
        i = j;
    }
    return 0;
}

static int run_flush(struct run *r, bool compose, struct text_buf *out) {
    if (!r->len) return 0;
    if (sort_run(r) < 0) return ERR_NOMEM;
    utf8proc_ssize_t n = (utf8proc_ssize_t)r->len;
    if (compose) n = utf8proc_normalize_utf32(r->cp, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    r->len = 0;
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char b[4];
        if (text_buf_append(out, b, (size_t)utf8_write((uint32_t)r->cp[i], b)) < 0) return ERR_NOMEM;
    }
    return 0;
}

int unicode_normalize(enum unicode_form form, const char *s, size_t len, struct text_buf *out) {
    bool compose = form == UNICODE_NFC || form == UNICODE_NFKC;
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (form == UNICODE_NFKC || form == UNICODE_NFKD) options |= UTF8PROC_COMPAT;
    struct run r = {0};
    int rc = 0;
    for (size_t i = 0; i < len && rc == 0;) {
        size_t ascii = i;
        while (ascii < len && (unsigned char)s[ascii] < 0x80) ascii++;
        if (ascii > i) { /* the last one of the stretch may still compose with what follows */
            if (ascii < len) ascii--;
            rc = run_flush(&r, compose, out);
            if (rc == 0) rc = text_buf_append(out, s + i, ascii - i);
            i = ascii;
            if (i == len || rc < 0) break;
        }
        uint32_t cp;
        int n = utf8_next(s + i, &cp);
        if (unicode_is_unnormalized(cp)) {
            rc = run_flush(&r, compose, out);
            if (rc == 0) rc = text_buf_append(out, s + i, (size_t)n);
        } else {
            rc = run_push(&r, cp, options);
        }
        i += (size_t)n;
    }
    if (rc == 0) rc = run_flush(&r, compose, out);
    free(r.cp);
    free(r.spare);
    return rc;
}
