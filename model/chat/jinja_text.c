/* jinja_text.c - Python's string methods on UTF-8. Case of letters beyond ASCII follows utf8proc's simple mappings; the few
 * letters whose full mapping differs (sharp s but for upper, ligatures, final sigma) are refused rather than got wrong. */
#include <string.h>
#include <utf8proc.h>

#include "model/chat/jinja.h"
#include "model/text/utf8.h"

bool jinja_is_space(uint32_t cp) { /* str.isspace */
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1c && cp <= 0x1f);
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

static int finish(struct jinja_run *r, int rc, struct text_buf *b, struct jv *out) {
    if (rc == 0) return jv_take_text(r, b, out);
    text_buf_clear(b);
    return rc;
}

static int put_char(struct jinja_run *r, struct text_buf *b, uint32_t cp) {
    char c[4];
    return jinja_append(r, b, c, (size_t)utf8_write(cp, c));
}

enum letter_case { UPPER, LOWER, TITLE };

static int put_cased(struct jinja_run *r, struct text_buf *b, uint32_t cp, enum letter_case to) {
    if (cp < 0x80) {
        char c = (char)cp;
        if (to == LOWER ? c >= 'A' && c <= 'Z' : c >= 'a' && c <= 'z') c ^= 0x20;
        return jinja_append(r, b, &c, 1);
    }
    if (cp == 0xdf && to == UPPER) return jinja_append(r, b, "SS", 2);
    static const struct {
        uint32_t first, last;
    } full[] = {{0xdf, 0xdf},     {0x130, 0x130},   {0x149, 0x149},   {0x1f0, 0x1f0},  {0x345, 0x345}, {0x390, 0x390},
                {0x3a3, 0x3a3},   {0x3b0, 0x3b0},   {0x587, 0x587},   {0x1c4, 0x1cc},  {0x1f1, 0x1f3}, {0x10d0, 0x10ff},
                {0x1e96, 0x1e9a}, {0x1f50, 0x1f57}, {0x1f80, 0x1fff}, {0xfb00, 0xfb17}};
    for (size_t i = 0; i < sizeof full / sizeof full[0]; i++)
        if (cp >= full[i].first && cp <= full[i].last && !(cp == 0x3a3 && to != LOWER))
            return jinja_fail(r, ERR_UNSUPPORTED, "changing the case of U+%04X is not supported", cp);
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    return put_char(r, b,
                    (uint32_t)(to == LOWER   ? utf8proc_tolower(c)
                               : to == UPPER ? utf8proc_toupper(c)
                                             : utf8proc_totitle(c)));
}

static int change_case(struct jinja_run *r, struct jv_str *s, enum letter_case first, enum letter_case rest, struct jv *out) {
    struct text_buf b = {0};
    int rc = 0;
    for (size_t i = 0; i < s->len && rc == 0;) {
        uint32_t cp;
        size_t n = (size_t)utf8_next(s->s + i, &cp);
        rc = put_cased(r, &b, cp, i ? rest : first);
        i += n;
    }
    return finish(r, rc, &b, out);
}

int jinja_upper(struct jinja_run *r, struct jv_str *s, struct jv *out) { return change_case(r, s, UPPER, UPPER, out); }
int jinja_lower(struct jinja_run *r, struct jv_str *s, struct jv *out) { return change_case(r, s, LOWER, LOWER, out); }
int jinja_capitalize(struct jinja_run *r, struct jv_str *s, struct jv *out) { return change_case(r, s, TITLE, LOWER, out); }

static bool cased(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

/* str.title: a letter behind a cased letter is lower. The filter: words part at - ( { [ < and whitespace, and begin in upper
 * case. */
int jinja_title(struct jinja_run *r, struct jv_str *s, bool filter, struct jv *out) {
    struct text_buf b = {0};
    bool inside = false;
    int rc = 0;
    for (size_t i = 0; i < s->len && rc == 0;) {
        uint32_t cp;
        size_t n = (size_t)utf8_next(s->s + i, &cp);
        rc = put_cased(r, &b, cp, inside ? LOWER : filter ? UPPER : TITLE);
        inside = filter ? !(jinja_is_space(cp) || (cp < 0x80 && strchr("-({[<", (int)cp))) : cased(cp);
        i += n;
    }
    return finish(r, rc, &b, out);
}

static bool stripped(uint32_t cp, const struct jv_str *chars) {
    if (!chars) return jinja_is_space(cp);
    for (size_t i = 0; i < chars->len;) {
        uint32_t c;
        i += (size_t)utf8_next(chars->s + i, &c);
        if (c == cp) return true;
    }
    return false;
}

int jinja_strip(struct jinja_run *r, struct jv_str *s, const struct jv_str *chars, bool left, bool right, struct jv *out) {
    size_t from = 0, to = s->len;
    uint32_t cp;
    int rc = jinja_spend(r, s->len * (chars ? chars->len + 1 : 1));
    if (rc < 0) return rc;
    for (int n; left && from < to && (n = utf8_next(s->s + from, &cp), stripped(cp, chars));) from += (size_t)n;
    while (right && to > from) {
        size_t back = utf8_back(s->s, to);
        utf8_next(s->s + back, &cp);
        if (!stripped(cp, chars)) break;
        to = back;
    }
    if (!from && to == s->len) {
        *out = jv_of_str(s);
        return 0;
    }
    return jv_str(r, s->s + from, to - from, out);
}

/* The last place of what in s, by a rolling sum over the windows from the end (Karp and Rabin, 1987): as good as linear, where
 * comparing at every place would take len * what_len. */
static const char *find_last(const char *s, size_t len, const char *what, size_t what_len) {
    static const uint64_t base = 0x9e3779b97f4a7c15;
    uint64_t want = 0, sum = 0, top = 1; /* top: base to the power of what_len */
    if (what_len > len) return NULL;
    for (size_t i = 0; i < what_len; i++) {
        want = want * base + (unsigned char)what[what_len - 1 - i];
        sum = sum * base + (unsigned char)s[len - 1 - i];
        top *= base;
    }
    for (size_t at = len - what_len;; at--) {
        if (sum == want && !memcmp(s + at, what, what_len)) return s + at;
        if (!at) return NULL;
        sum = sum * base + (unsigned char)s[at - 1] - top * (unsigned char)s[at + what_len - 1];
    }
}

const char *jinja_find_text(const char *s, size_t len, const char *what, size_t what_len, bool last) {
    if (!what_len) return last ? s + len : s;
    return last ? find_last(s, len, what, what_len) : memmem(s, len, what, what_len);
}

struct parts {
    struct jv *v;
    size_t n, cap;
};

static int add_part(struct jinja_run *r, struct parts *p, const char *s, size_t len) {
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 8;
        struct jv *v = jinja_alloc(r, cap * sizeof *v);
        if (!v) return jinja_oom(r);
        if (p->n) memcpy(v, p->v, p->n * sizeof *v);
        p->v = v;
        p->cap = cap;
    }
    return jv_str(r, s, len, &p->v[p->n++]);
}

static int parts_list(struct jinja_run *r, struct parts *p, bool reversed, struct jv *out) {
    int rc = jv_list_new(r, JV_LIST, p->n, out);
    for (size_t i = 0; i < p->n && rc == 0; i++) out->u.list->v[i] = p->v[reversed ? p->n - 1 - i : i];
    return rc;
}

static int split_space(struct jinja_run *r, struct jv_str *s, int64_t max, struct jv *out) {
    struct parts p = {0};
    uint32_t cp;
    int rc = jinja_spend(r, s->len);
    for (size_t i = 0; rc == 0;) {
        int n;
        for (; i < s->len && (n = utf8_next(s->s + i, &cp), jinja_is_space(cp)); i += (size_t)n) continue;
        if (i == s->len) break;
        size_t end = i;
        if (max >= 0 && (int64_t)p.n == max) end = s->len; /* what remains is one piece */
        else
            for (; end < s->len && (n = utf8_next(s->s + end, &cp), !jinja_is_space(cp)); end += (size_t)n) continue;
        rc = add_part(r, &p, s->s + i, end - i);
        i = end;
    }
    return rc < 0 ? rc : parts_list(r, &p, false, out);
}

int jinja_split(struct jinja_run *r, struct jv_str *s, const struct jv_str *sep, int64_t max, bool right, struct jv *out) {
    struct parts p = {0};
    if (!sep) {
        if (right && max >= 0) return jinja_fail(r, ERR_UNSUPPORTED, "rsplit() by whitespace with a limit is not supported");
        return split_space(r, s, max, out);
    }
    if (!sep->len) return jinja_fail(r, ERR_INVALID, "empty separator");
    size_t from = 0, to = s->len;
    int rc = jinja_spend(r, s->len);
    for (; rc == 0 && (max < 0 || (int64_t)p.n < max);) {
        const char *hit = jinja_find_text(s->s + from, to - from, sep->s, sep->len, right);
        if (!hit) break;
        size_t at = (size_t)(hit - s->s);
        rc = right ? add_part(r, &p, hit + sep->len, to - at - sep->len) : add_part(r, &p, s->s + from, at - from);
        if (right) to = at;
        else from = at + sep->len;
    }
    if (rc == 0) rc = add_part(r, &p, s->s + from, to - from);
    return rc < 0 ? rc : parts_list(r, &p, right, out);
}

static bool line_end(uint32_t cp) {
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

int jinja_splitlines(struct jinja_run *r, struct jv_str *s, bool keep, struct jv *out) {
    struct parts p = {0};
    int rc = jinja_spend(r, s->len);
    for (size_t i = 0, from = 0; i < s->len && rc == 0; from = i) {
        uint32_t cp = 0;
        size_t end = i;
        while (i < s->len) {
            end = i;
            i += (size_t)utf8_next(s->s + i, &cp);
            if (line_end(cp)) break;
            end = i;
        }
        if (cp == '\r' && i < s->len && s->s[i] == '\n') i++;
        rc = add_part(r, &p, s->s + from, (keep ? i : end) - from);
    }
    return rc < 0 ? rc : parts_list(r, &p, false, out);
}

int jinja_replace(struct jinja_run *r, struct jv_str *s, const struct jv_str *from, const struct jv_str *to, int64_t max,
                  struct jv *out) {
    struct text_buf b = {0};
    size_t at = 0;
    int rc = jinja_spend(r, s->len);
    for (int64_t n = 0; rc == 0 && (max < 0 || n < max); n++) {
        if (!from->len) { /* between all characters */
            uint32_t cp;
            rc = jinja_append(r, &b, to->s, to->len);
            if (rc < 0 || at >= s->len) break;
            size_t len = (size_t)utf8_next(s->s + at, &cp);
            rc = jinja_append(r, &b, s->s + at, len);
            at += len;
            continue;
        }
        const char *hit = memmem(s->s + at, s->len - at, from->s, from->len);
        if (!hit) break;
        size_t where = (size_t)(hit - s->s);
        rc = jinja_append(r, &b, s->s + at, where - at);
        if (rc == 0) rc = jinja_append(r, &b, to->s, to->len);
        at = where + from->len;
    }
    if (rc == 0) rc = jinja_append(r, &b, s->s + at, s->len - at);
    return finish(r, rc, &b, out);
}

int jinja_escape(struct jinja_run *r, const struct jv_str *s, struct jv *out) {
    static const char from[] = "&<>'\"", *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    struct text_buf b = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < s->len; i++) {
        const char *hit = s->s[i] ? strchr(from, s->s[i]) : NULL;
        rc = hit ? jinja_append(r, &b, to[hit - from], strlen(to[hit - from])) : jinja_append(r, &b, s->s + i, 1);
    }
    rc = finish(r, rc, &b, out);
    out->markup = true;
    return rc;
}

int jinja_indent(struct jinja_run *r, struct jv_str *s, const struct jv_str *by, bool first, bool blank, struct jv *out) {
    struct text_buf b = {0};
    struct jv lines, ended;
    int rc = jinja_append(r, &b, s->s, s->len); /* with a newline more, a last empty line counts */
    if (rc == 0) rc = jinja_append(r, &b, "\n", 1);
    if (rc < 0) return finish(r, rc, &b, out);
    rc = jv_take_text(r, &b, &ended);
    if (rc == 0) rc = jinja_splitlines(r, ended.u.s, false, &lines);
    if (rc == 0 && first) rc = jinja_append(r, &b, by->s, by->len);
    for (size_t i = 0; rc == 0 && i < lines.u.list->n; i++) {
        const struct jv_str *line = lines.u.list->v[i].u.s;
        if (i) rc = jinja_append(r, &b, "\n", 1);
        if (rc == 0 && i && (blank || line->len)) rc = jinja_append(r, &b, by->s, by->len);
        if (rc == 0) rc = jinja_append(r, &b, line->s, line->len);
    }
    return finish(r, rc, &b, out);
}
