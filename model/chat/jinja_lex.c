/* jinja_lex.c - source to tokens, with the whitespace rules of trim_blocks and lstrip_blocks.
 *
 * Newlines are made "\n" first and one trailing newline is dropped. Text before a tag loses: all trailing whitespace when the
 * tag starts with '-'; the blanks since the line's start when the tag is a block or comment without '+' and nothing else stands
 * there. Behind a tag: all whitespace after '-', one newline after a block or comment. An end of tag counts only outside
 * brackets. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat/jinja.h"
#include "model/text/utf8.h"

struct lexer {
    struct arena *arena;
    const char *s; /* normalised source */
    size_t len, at;
    int line;
    bool line_starting;
    struct jinja_token *t;
    size_t n, cap;
    struct why *why;
};

static int refuse(struct lexer *x, const char *what) {
    return fail(x->why, ERR_INVALID, "chat template, line %d: %s", x->line, what);
}

static int add(struct lexer *x, enum jinja_token_type type, const char *s, size_t len, struct jinja_token **out) {
    if (x->n == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 128;
        struct jinja_token *t = arena_array(x->arena, struct jinja_token, cap);
        if (!t) return fail(x->why, ERR_NOMEM, "out of memory compiling the chat template");
        if (x->n) memcpy(t, x->t, x->n * sizeof *t);
        x->t = t;
        x->cap = cap;
    }
    x->t[x->n] = (struct jinja_token){.type = type, .line = x->line, .s = s, .len = len};
    if (out) *out = &x->t[x->n];
    x->n++;
    return 0;
}

static void advance(struct lexer *x, size_t to) {
    for (; x->at < to; x->at++) x->line += x->s[x->at] == '\n';
}

static size_t skip_space(const struct lexer *x, size_t at) {
    while (at < x->len) {
        uint32_t cp;
        int n = utf8_next(x->s + at, &cp);
        if (!jinja_is_space(cp)) break;
        at += (size_t)n;
    }
    return at;
}

static size_t trim_end(const struct lexer *x, size_t from, size_t to) {
    while (to > from) {
        size_t back = utf8_back(x->s, to);
        uint32_t cp;
        utf8_next(x->s + back, &cp);
        if (!jinja_is_space(cp)) break;
        to = back;
    }
    return to;
}

/* The text [x->at, tag), stripped as the tag asks; then x->at is at the tag. */
static int add_text(struct lexer *x, size_t tag, char sign, bool print) {
    size_t from = x->at, to = tag;
    if (sign == '-') {
        to = trim_end(x, from, tag);
    } else if (sign != '+' && !print) {
        size_t line = tag;
        while (line > from && x->s[line - 1] != '\n') line--;
        if ((line > from || x->line_starting) && skip_space(x, line) >= tag) to = line;
    }
    int rc = to > from ? add(x, JT_TEXT, x->s + from, to - from, NULL) : 0;
    advance(x, tag);
    return rc;
}

/* Steps over an end of tag of `width` characters at x->at, sign included, and what it swallows. */
static void end_tag(struct lexer *x, size_t width, bool all_space, bool newline) {
    size_t to = x->at + width;
    if (all_space) to = skip_space(x, to);
    else if (newline && to < x->len && x->s[to] == '\n') to++;
    advance(x, to);
    x->line_starting = x->s[to - 1] == '\n';
}

static bool looking_at(const struct lexer *x, size_t at, const char *what) {
    size_t n = strlen(what);
    return x->len - at >= n && !memcmp(x->s + at, what, n);
}

static int lex_comment(struct lexer *x) {
    const char *end = memmem(x->s + x->at, x->len - x->at, "#}", 2);
    if (!end) return refuse(x, "missing end of comment");
    size_t at = (size_t)(end - x->s);
    char sign = at > x->at && (x->s[at - 1] == '-' || x->s[at - 1] == '+') ? x->s[at - 1] : 0;
    advance(x, at);
    end_tag(x, 2, sign == '-', sign != '+');
    return 0;
}

/* At "{%": is this {% raw %}? Then *body is where its text starts. */
static bool is_raw(const struct lexer *x, size_t at, const char *word, size_t *body, char *sign) {
    at += 2;
    *sign = x->s[at] == '-' || x->s[at] == '+' ? x->s[at] : 0;
    at = skip_space(x, at + (*sign != 0));
    if (!looking_at(x, at, word)) return false;
    at = skip_space(x, at + strlen(word));
    *body = at;
    return looking_at(x, at, "%}") || looking_at(x, at, "-%}") || looking_at(x, at, "+%}");
}

static int lex_raw(struct lexer *x, size_t body) { /* body: at the end of the opening tag */
    char sign;
    size_t end;
    advance(x, body);
    if (x->s[x->at] == '+') return refuse(x, "'+' at the end of raw");
    end_tag(x, x->s[x->at] == '-' ? 3 : 2, x->s[x->at] == '-', false);
    for (size_t at = x->at; at + 1 < x->len; at++) {
        if (!looking_at(x, at, "{%") || !is_raw(x, at, "endraw", &end, &sign)) continue;
        int rc = add_text(x, at, sign, false);
        if (rc < 0) return rc;
        advance(x, end);
        char last = x->s[x->at];
        end_tag(x, last == '%' ? 2 : 3, last == '-', last == '%');
        return 0;
    }
    return refuse(x, "missing end of raw");
}

static int hex(const char *s, size_t n, size_t digits, uint32_t *v) {
    *v = 0;
    if (n < digits) return -1;
    for (size_t i = 0; i < digits; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
        if (d < 0) return -1;
        *v = *v << 4 | (uint32_t)d;
    }
    return 0;
}

/* The escapes of a string literal [at, end) into out; returns the length, or -1. */
static int64_t unescape(const char *s, size_t n, char *out) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    size_t o = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] != '\\') {
            out[o++] = s[i];
            continue;
        }
        char c = s[++i];
        const char *hit = memchr(from, c, sizeof from - 1);
        uint32_t v = 0;
        if (hit) {
            out[o++] = to[hit - from];
        } else if (c == '\n') {
            continue;
        } else if (c >= '0' && c <= '7') {
            size_t k = 0;
            for (; k < 3 && i + k < n && s[i + k] >= '0' && s[i + k] <= '7'; k++) v = v * 8 + (uint32_t)(s[i + k] - '0');
            i += k - 1;
            o += (size_t)utf8_write(v, out + o);
        } else if (c == 'x' || c == 'u' || c == 'U') {
            size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
            if (hex(s + i + 1, n - i - 1, digits, &v) < 0 || v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) return -1;
            i += digits;
            o += (size_t)utf8_write(v, out + o); /* never longer than the escape */
        } else if (c == 'N') {
            return -1;
        } else {
            out[o++] = '\\';
            out[o++] = c;
        }
    }
    return (int64_t)o;
}

static int lex_string(struct lexer *x) {
    char quote = x->s[x->at];
    size_t end = x->at + 1;
    while (end < x->len && x->s[end] != quote) end += x->s[end] == '\\' ? 2 : 1;
    if (end >= x->len) return refuse(x, "unfinished string");
    struct jv_str *s = arena_alloc(x->arena, sizeof *s + (end - x->at) + 1);
    if (!s) return fail(x->why, ERR_NOMEM, "out of memory compiling the chat template");
    int64_t len = unescape(x->s + x->at + 1, end - x->at - 1, s->s);
    if (len < 0) return refuse(x, "an escape in a string that is malformed or not known");
    s->len = (size_t)len;
    s->s[len] = '\0'; /* what unescape wrote beyond is nothing: escapes shrink */
    s->chars = SIZE_MAX;
    struct jinja_token *t;
    int rc = add(x, JT_STR, x->s + x->at, end + 1 - x->at, &t);
    if (rc < 0) return rc;
    t->value = jv_of_str(s);
    advance(x, end + 1);
    return 0;
}

static bool digit(char c) { return c >= '0' && c <= '9'; }

/* Digits with single underscores between them; returns where they end. */
static size_t skip_digits(const struct lexer *x, size_t at) {
    while (at < x->len &&
           (digit(x->s[at]) || (x->s[at] == '_' && at + 1 < x->len && digit(x->s[at + 1]) && digit(x->s[at - 1]))))
        at++;
    return at;
}

static int add_number(struct lexer *x, size_t end, bool real, int base) {
    char b[80];
    size_t n = 0;
    for (size_t i = x->at + (base != 10 ? 2 : 0); i < end; i++) {
        if (x->s[i] == '_') continue;
        if (n == sizeof b - 1) return refuse(x, "a number with too many digits");
        b[n++] = x->s[i];
    }
    b[n] = '\0';
    struct jinja_token *t;
    int rc = add(x, real ? JT_FLOAT : JT_INT, x->s + x->at, end - x->at, &t);
    if (rc < 0) return rc;
    errno = 0;
    t->value = real ? jv_float(strtod(b, NULL)) : jv_int(strtoll(b, NULL, base));
    if (errno && !real) return refuse(x, "an integer beyond 64 bits");
    advance(x, end);
    return 0;
}

static int lex_number(struct lexer *x) {
    size_t at = x->at, end = skip_digits(x, at);
    char kind = end == at + 1 && x->s[at] == '0' && end < x->len ? x->s[end] | 0x20 : 0;
    if (kind == 'x' || kind == 'o' || kind == 'b') {
        int base = kind == 'x' ? 16 : kind == 'o' ? 8 : 2;
        size_t from = end + 1;
        for (end = from; end < x->len; end++) {
            char c = x->s[end] | 0x20;
            int d = digit(x->s[end]) ? x->s[end] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
            if (d >= base) break;
        }
        return end > from ? add_number(x, end, false, base) : refuse(x, "a malformed number");
    }
    size_t whole = end;
    bool behind_dot = at > 0 && x->s[at - 1] == '.';
    if (!behind_dot && end + 1 < x->len && x->s[end] == '.' && digit(x->s[end + 1])) end = skip_digits(x, end + 1);
    if (!behind_dot && end < x->len && (x->s[end] | 0x20) == 'e') {
        size_t e = end + 1;
        if (e < x->len && (x->s[e] == '+' || x->s[e] == '-')) e++;
        if (e < x->len && digit(x->s[e])) end = skip_digits(x, e);
    }
    if (end == whole && x->s[at] == '0')
        for (size_t i = at; i < end; i++)
            if (x->s[i] != '0' && x->s[i] != '_') return refuse(x, "a number with leading zeros");
    return add_number(x, end, end != whole, 10);
}

static bool name_char(char c) { return digit(c) || c == '_' || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'); }

/* One token inside a tag. brackets: those still open. */
static int lex_inside(struct lexer *x, char *brackets, size_t *open) {
    char c = x->s[x->at];
    size_t end = x->at;
    if (c == '\'' || c == '"') return lex_string(x);
    if (digit(c)) return lex_number(x);
    while (end < x->len && name_char(x->s[end])) end++;
    if (end > x->at) {
        int rc = add(x, JT_NAME, x->s + x->at, end - x->at, NULL);
        advance(x, end);
        return rc;
    }
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    size_t n = 1;
    for (size_t i = 0; i < 6; i++)
        if (looking_at(x, x->at, two[i])) n = 2;
    if (!c || (n == 1 && !strchr("+-/*%~[](){}><=.:|,;", c))) {
        uint32_t cp;
        int width = utf8_next(x->s + x->at, &cp);
        return fail(x->why, ERR_INVALID, "chat template, line %d: unexpected character '%.*s'", x->line, width, x->s + x->at);
    }
    if (n == 1 && strchr("([{", c)) {
        if (*open == JINJA_MAX_NESTING)
            return fail(x->why, ERR_TOO_LARGE, "chat template, line %d: brackets nest too deep", x->line);
        brackets[(*open)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (n == 1 && strchr(")]}", c)) {
        if (!*open || brackets[--*open] != c) return refuse(x, "a bracket that closes nothing, or the wrong one");
    }
    int rc = add(x, JT_OP, x->s + x->at, n, NULL);
    advance(x, x->at + n);
    return rc;
}

static int lex_tag(struct lexer *x, bool print) {
    char brackets[JINJA_MAX_NESTING];
    size_t open = 0;
    const char *close = print ? "}}" : "%}";
    char sign;
    for (;;) {
        advance(x, skip_space(x, x->at));
        if (x->at >= x->len)
            return refuse(x, print ? "unexpected end of template in an expression" : "unexpected end of template in a tag");
        sign = x->s[x->at] == '-' || (!print && x->s[x->at] == '+') ? x->s[x->at] : 0;
        if (!open && looking_at(x, x->at + (sign != 0), close)) break;
        int rc = lex_inside(x, brackets, &open);
        if (rc < 0) return rc;
    }
    int rc = add(x, print ? JT_PRINT_END : JT_BLOCK_END, close, 2, NULL);
    end_tag(x, sign ? 3 : 2, sign == '-', !print && !sign);
    return rc;
}

static int lex_all(struct lexer *x) {
    x->line_starting = true;
    while (x->at < x->len) {
        const char *brace = x->s + x->at;
        while ((brace = memchr(brace, '{', x->len - (size_t)(brace - x->s))) && !strchr("{%#", brace[1])) brace++;
        if (brace && !brace[1]) brace = NULL; /* strchr finds the terminator too */
        if (!brace) return add(x, JT_TEXT, x->s + x->at, x->len - x->at, NULL);
        size_t tag = (size_t)(brace - x->s), body;
        char kind = brace[1], sign = brace[2] == '-' || brace[2] == '+' ? brace[2] : 0, raw_sign;
        int rc = add_text(x, tag, sign, kind == '{');
        if (rc < 0) return rc;
        x->line_starting = false;
        if (kind == '%' && is_raw(x, tag, "raw", &body, &raw_sign)) {
            rc = lex_raw(x, body);
        } else {
            advance(x, tag + 2 + (sign != 0));
            if (kind == '#') {
                rc = lex_comment(x);
            } else {
                rc = add(x, kind == '{' ? JT_PRINT_BEGIN : JT_BLOCK_BEGIN, brace, 2, NULL);
                if (rc == 0) rc = lex_tag(x, kind == '{');
            }
        }
        if (rc < 0) return rc;
    }
    return 0;
}

int jinja_lex(struct arena *arena, const char *source, size_t len, struct jinja_token **tokens, struct why *why) {
    if (len > JINJA_MAX_SOURCE) return fail(why, ERR_TOO_LARGE, "chat template: more than %d bytes", JINJA_MAX_SOURCE);
    if (utf8_valid_prefix(source, len) != len) return fail(why, ERR_INVALID, "chat template: not UTF-8");
    char *s = arena_alloc(arena, len + 4); /* looking ahead finds NULs */
    if (!s) return fail(why, ERR_NOMEM, "out of memory compiling the chat template");
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (!source[i]) return fail(why, ERR_INVALID, "chat template: a NUL byte at %zu", i);
        if (source[i] != '\r') s[n++] = source[i];
        else if (i + 1 >= len || source[i + 1] != '\n') s[n++] = '\n';
    }
    if (n && s[n - 1] == '\n') n--;
    s[n] = '\0';
    struct lexer x = {.arena = arena, .s = s, .len = n, .line = 1, .why = why};
    int rc = lex_all(&x);
    if (rc == 0) rc = add(&x, JT_END, "", 0, NULL);
    if (rc == 0) *tokens = x.t;
    return rc;
}
