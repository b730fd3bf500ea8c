/* pattern_translate.c - from Oniguruma's dialect to PCRE2's, by recursive descent: alternatives, terms, atoms, quantifiers.
 *
 * What differs: ^ and $ are line anchors; (?m) lets the dot match newlines; {n,m}+ repeats instead of being possessive; {,n}
 * means {0,n}; \h is a hex digit and \v one character; classes nest and intersect; properties have their own tables; \b and \w
 * use a wider set. Known forms are rewritten, everything else is refused: back references, calls, conditions, \G, \K, \X, an
 * option switched on in mid-branch, and, where case is ignored, letters that fold with their neighbour (ss with sharp s). */
#include <stdio.h>
#include <string.h>

#include "model/text/pattern_class.h"
#include "model/text/pattern.h"
#include "model/text/unicode.h"
#include "model/text/utf8.h"

enum { MAX_PATTERN = 16384, MAX_REPEAT = 65535 };

static int alternatives(struct pattern_input *in, struct text_buf *out);

static int put(struct text_buf *out, const char *text) { return text_buf_append(out, text, strlen(text)); }

static bool looking_at(const struct pattern_input *in, const char *what) {
    size_t n = strlen(what);
    return in->len - in->at >= n && !memcmp(in->s + in->at, what, n);
}

/* Characters that may fold together with a neighbour when case is ignored: then PCRE2 and Oniguruma part ways. */
static bool folds_together(unsigned prev, unsigned cp) {
    unsigned a = prev | 0x20, b = cp | 0x20;
    return (a == 'f' && (b == 'f' || b == 'i' || b == 'l')) || (a == 's' && (b == 's' || b == 't'));
}

static int literal(struct pattern_input *in, size_t at, unsigned cp, unsigned *prev, struct text_buf *out) {
    if (in->ignore_case) {
        if (cp >= 0x80 && unicode_is_alnum(cp)) return pattern_refuse(in, at, "a letter beyond ASCII where case is ignored");
        if (folds_together(*prev, cp)) return pattern_refuse(in, at, "letters that fold together where case is ignored");
    }
    *prev = cp;
    return pattern_append_char(out, cp);
}

static int escape(struct pattern_input *in, unsigned *prev, struct text_buf *out) { /* in->at behind the backslash */
    size_t at = in->at - 1;
    int rc = in->at < in->len ? pattern_class_escape(in, out) : 0;
    if (rc != 0) return rc < 0 ? rc : 0;
    char c = in->at < in->len ? in->s[in->at] : '\0';
    if (c == 'A' || c == 'z' || c == 'Z' || c == 'R') {
        char b[3] = {'\\', c, '\0'};
        in->at++;
        return put(out, b);
    }
    if (c == 'b' || c == 'B') { /* a word boundary by our own \w */
        struct text_buf word = {0};
        struct pattern_input w = *in;
        w.s = "w";
        w.len = 1;
        w.at = 0;
        rc = pattern_class_escape(&w, &word);
        const char *const yes[] = {"(?:(?<=", ")(?!", ")|(?<!", ")(?=", "))"}, *const no[] = {"(?:(?<=", ")(?=", ")|(?<!",
                                                                                              ")(?!", "))"};
        rc = rc < 0 ? rc : 0;
        for (int i = 0; i < 5 && rc == 0; i++) {
            rc = put(out, c == 'b' ? yes[i] : no[i]);
            if (rc == 0 && i < 4) rc = text_buf_append(out, word.data, word.len);
        }
        text_buf_clear(&word);
        in->at++;
        return rc;
    }
    unsigned cp;
    rc = pattern_char_escape(in, &cp);
    return rc < 0 ? rc : literal(in, at, cp, prev, out);
}

static int finish_group(struct pattern_input *in, size_t at, bool ignore_case, struct text_buf *out) {
    bool saved = in->ignore_case;
    in->ignore_case = ignore_case;
    int rc = alternatives(in, out);
    in->ignore_case = saved;
    if (rc < 0) return rc;
    if (in->at >= in->len || in->s[in->at] != ')') return pattern_refuse(in, at, "an unclosed group");
    in->at++;
    return put(out, ")");
}

/* Behind "(?", at option letters. `first`: nothing precedes in this group, so a bare (?i) covers all of it as in PCRE2. */
static int options(struct pattern_input *in, size_t at, bool first, struct text_buf *out) {
    bool on = true, ignore_case = in->ignore_case;
    int rc = put(out, "(?");
    for (; rc == 0 && in->at < in->len && in->s[in->at] != ')' && in->s[in->at] != ':'; in->at++) {
        char c = in->s[in->at];
        if (c == '-' && on) {
            on = false;
            rc = put(out, "-");
        } else if (c == 'i') {
            ignore_case = on;
            rc = put(out, "i");
        } else if (c == 'm') {
            rc = put(out, "s");
        } else {
            return pattern_refuse(in, at, "an unknown kind of group");
        }
    }
    if (rc < 0) return rc;
    if (in->at >= in->len) return pattern_refuse(in, at, "an unclosed group");
    if (in->s[in->at++] == ':') return put(out, ":") < 0 ? ERR_NOMEM : finish_group(in, at, ignore_case, out);
    if (!first) return pattern_refuse(in, at, "an option in mid-branch");
    in->ignore_case = ignore_case; /* until the enclosing group restores it */
    return put(out, ")");
}

/* Behind "(". Returns 1 when what was appended may be repeated, 0 when not (assertions, options, comments). */
static int group(struct pattern_input *in, bool first, struct text_buf *out) {
    static const struct {
        const char *open;
        bool atom;
    } kinds[] = {{"?:", true}, {"?>", true}, {"?=", false}, {"?!", false}, {"?<=", false}, {"?<!", false}};
    size_t at = in->at - 1;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (!looking_at(in, kinds[i].open)) continue;
        in->at += strlen(kinds[i].open);
        int rc = put(out, "(");
        if (rc == 0) rc = put(out, kinds[i].open);
        if (rc == 0) rc = finish_group(in, at, in->ignore_case, out);
        return rc < 0 ? rc : kinds[i].atom;
    }
    if (looking_at(in, "?#")) {
        while (in->at < in->len && in->s[in->at] != ')') in->at++;
        if (in->at++ >= in->len) return pattern_refuse(in, at, "an unclosed comment");
        return 0;
    }
    if (looking_at(in, "?<") || looking_at(in, "?'")) { /* a name nobody can refer to */
        char end = in->s[in->at + 1] == '<' ? '>' : '\'';
        in->at += 2;
        size_t start = in->at;
        while (in->at < in->len && in->s[in->at] != end && in->s[in->at] != ')') in->at++;
        if (in->at >= in->len || in->s[in->at] != end || in->at == start)
            return pattern_refuse(in, at, "an unknown kind of group");
        in->at++;
    } else if (looking_at(in, "?")) {
        in->at++;
        bool scoped = memchr(in->s + in->at, ':', in->len - in->at) != NULL;
        size_t mark = in->at;
        while (mark < in->len && in->s[mark] != ':' && in->s[mark] != ')') mark++;
        scoped = scoped && mark < in->len && in->s[mark] == ':';
        int rc = options(in, at, first, out);
        return rc < 0 ? rc : scoped;
    }
    int rc = put(out, "(?:");
    if (rc == 0) rc = finish_group(in, at, in->ignore_case, out);
    return rc < 0 ? rc : 1;
}

/* {n}, {n,}, {,m}, {n,m} at in->at. 1 with the bounds (hi -1: none) and in->at behind it; 0: not an interval, nothing read. */
static int interval(struct pattern_input *in, int *lo, int *hi) {
    size_t p = in->at + 1;
    long v[2] = {-1, -1};
    int part = 0;
    for (; p < in->len && in->s[p] != '}'; p++) {
        char c = in->s[p];
        if (c == ',' && part == 0) part = 1;
        else if (c >= '0' && c <= '9' && v[part] <= MAX_REPEAT) v[part] = (v[part] < 0 ? 0 : v[part] * 10) + (c - '0');
        else return 0;
    }
    if (p >= in->len || (v[0] < 0 && v[1] < 0)) return 0;
    if (v[0] > MAX_REPEAT || v[1] > MAX_REPEAT || (v[1] >= 0 && v[0] > v[1]))
        return pattern_refuse(in, in->at, "a repeat out of range");
    *lo = v[0] < 0 ? 0 : (int)v[0];
    *hi = part == 0 ? *lo : (int)v[1];
    in->at = p + 1;
    return 1;
}

/* Turns out[from..] into "(?:" out[from..]. */
static int open_before(struct text_buf *out, size_t from) {
    if (put(out, "(?:") < 0) return ERR_NOMEM;
    memmove(out->data + from + 3, out->data + from, out->len - from - 3);
    memcpy(out->data + from, "(?:", 3);
    return 0;
}

static int quantifier(struct pattern_input *in, size_t atom, bool repeatable, struct text_buf *out) {
    if (in->at >= in->len || !in->s[in->at] || !strchr("*+?{", in->s[in->at])) return 0;
    size_t at = in->at;
    char c = in->s[at];
    int rc, lo = 0, hi = 0;
    if (c == '{') {
        rc = interval(in, &lo, &hi);
        if (rc <= 0) return rc; /* a literal brace: the next term */
    } else {
        in->at++;
    }
    if (!repeatable) return pattern_refuse(in, at, "a repeat of nothing");
    char b[40] = {c, '\0'};
    if (c == '{' && hi < 0) snprintf(b, sizeof b, "{%d,}", lo);
    else if (c == '{') snprintf(b, sizeof b, "{%d,%d}", lo, hi);
    rc = put(out, b);
    char mode = in->at < in->len ? in->s[in->at] : '\0';
    if (rc == 0 && mode == '?') {
        if (c == '{' && lo == hi) return pattern_refuse(in, at, "a lazy fixed repeat");
        in->at++;
        rc = put(out, "?");
    } else if (rc == 0 && mode == '+' && c == '{') { /* Oniguruma repeats the interval */
        in->at++;
        rc = open_before(out, atom);
        if (rc == 0) rc = put(out, ")+");
    } else if (rc == 0 && mode == '+') {
        in->at++;
        rc = put(out, "+");
    }
    if (rc < 0) return rc;
    struct pattern_input ahead = *in;
    bool again = in->at < in->len && in->s[in->at] && strchr("*+?", in->s[in->at]);
    if (!again && in->at < in->len && in->s[in->at] == '{') again = interval(&ahead, &lo, &hi) != 0;
    return again ? pattern_refuse(in, in->at, "a repeat of a repeat") : 0;
}

static int term(struct pattern_input *in, bool first, unsigned *prev, struct text_buf *out) {
    size_t at = in->at, atom = out->len;
    unsigned cp, before = *prev;
    bool repeatable = true;
    int rc = 0;
    in->at += (size_t)utf8_next(in->s + at, &cp);
    *prev = 0;
    switch (cp) {
    case '(':
        rc = group(in, first, out);
        repeatable = rc == 1;
        break;
    case '[': rc = pattern_class(in, out); break;
    case '\\':
        *prev = before;
        rc = escape(in, prev, out);
        repeatable = !memchr("AzZbB", in->s[at + 1], 5);
        break;
    case '.': rc = put(out, "."); break;
    case '^':
    case '$':
        rc = put(out, cp == '^' ? "(?m:^)" : "(?m:$)");
        repeatable = false;
        break;
    case '*':
    case '+':
    case '?': return pattern_refuse(in, at, "a repeat of nothing");
    default: *prev = before; rc = literal(in, at, cp, prev, out);
    }
    return rc < 0 ? rc : quantifier(in, atom, repeatable, out);
}

static int alternatives(struct pattern_input *in, struct text_buf *out) {
    if (++in->depth > PATTERN_MAX_DEPTH) return pattern_refuse(in, in->at, "nesting too deep");
    bool first = true;
    unsigned prev = 0;
    int rc = 0;
    while (rc == 0 && in->at < in->len && in->s[in->at] != ')') {
        if (in->s[in->at] == '|') {
            in->at++;
            prev = 0;
            rc = put(out, "|");
        } else {
            rc = term(in, first, &prev, out);
        }
        first = false;
    }
    in->depth--;
    return rc;
}

int pattern_translate(const char *source, size_t len, struct text_buf *out, struct why *why) {
    struct pattern_input in = {.s = source, .len = len, .why = why};
    if (len > MAX_PATTERN) return pattern_refuse(&in, MAX_PATTERN, "more than 16384 bytes");
    if (utf8_valid_prefix(source, len) != len) return fail(why, ERR_INVALID, "a pattern is not UTF-8");
    int rc = alternatives(&in, out);
    if (rc == ERR_NOMEM) return fail(why, rc, "out of memory reading a pattern");
    if (rc == 0 && in.at < len) return pattern_refuse(&in, in.at, "an unmatched )");
    return rc;
}
