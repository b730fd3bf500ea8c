/* pattern_class.c - sets of characters: [..] with nesting, && and ranges, and the escapes that stand for sets.
 *
 * A set is written as PCRE2 class items where that is possible. What PCRE2's classes cannot say becomes alternation and
 * lookahead, each form still matching exactly one character: a union with a negated set is (?:[items]|[^other]), the
 * intersection A&&B is (?:(?=B)A), the negation of either is (?:(?!set)(?s:.)).
 * Properties are widened by the characters that PCRE2's tables do not know yet (model/unicode.h). */
#include "model/pattern_class.h"

#include <stdio.h>
#include <string.h>

#include "model/unicode.h"
#include "model/utf8.h"

struct set {
    struct text_buf items; /* inside [..] */
    struct text_buf alts;  /* further atoms, joined by '|' */
};

static void set_clear(struct set *s) {
    text_buf_clear(&s->items);
    text_buf_clear(&s->alts);
}

static int put(struct text_buf *out, const char *text) { return text_buf_append(out, text, strlen(text)); }

int pattern_refuse(const struct pattern_input *in, size_t at, const char *what) {
    return fail(in->why, ERR_UNSUPPORTED, "pattern '%.*s': %s at offset %zu", in->len > 200 ? 200 : (int)in->len, in->s, what,
                at);
}

int pattern_append_char(struct text_buf *out, unsigned cp) {
    char b[16];
    if ((cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z')) snprintf(b, sizeof b, "%c", (char)cp);
    else snprintf(b, sizeof b, "\\x{%x}", cp);
    return put(out, b);
}

static int append_range(struct text_buf *out, unsigned first, unsigned last) {
    char b[40];
    if (first == last) snprintf(b, sizeof b, "\\x{%x}", first);
    else snprintf(b, sizeof b, "\\x{%x}-\\x{%x}", first, last);
    return put(out, b);
}

/* Newer characters whose category starts with one of `categories` ("L", "Nd,M"), or that belong to a script. */
static int append_newer(struct text_buf *out, const char *category, char script) {
    for (int i = 0; i < unicode_newer_count; i++) {
        const struct unicode_range *r = &unicode_newer[i];
        bool in = script ? r->script == script : !strncmp(r->category, category, strlen(category));
        if (in && append_range(out, r->first, r->last) < 0) return ERR_NOMEM;
    }
    return 0;
}

static int append_category(struct text_buf *items, const char *category) {
    char b[16];
    snprintf(b, sizeof b, "\\p{%s}", category);
    int rc = put(items, b);
    return rc < 0 ? rc : append_newer(items, category, 0);
}

static int append_space(struct text_buf *items) {
    return put(items,
               "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}");
}

/* Outside of [..] Oniguruma asks a table of its own for the first 256: there superscript digits and fractions belong to \w. */
static int append_word(struct text_buf *items, bool in_class) {
    static const char *const parts[] = {"M", "Nd", "Pc"}; /* M as a whole has not changed */
    int rc = put(items, in_class ? "\\p{Alphabetic}" : "\\p{Alphabetic}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
    if (rc == 0) rc = append_newer(items, "L", 0);
    for (int i = 0; i < 3 && rc == 0; i++) rc = append_category(items, parts[i]);
    return rc;
}

/* C takes in what is unassigned, and newer characters no longer are. */
static int append_other(struct text_buf *alts) {
    int rc = put(alts, alts->len ? "|(?![" : "(?![");
    for (int i = 0; i < unicode_newer_count && rc == 0; i++)
        if (unicode_newer[i].category[0] != 'C') rc = append_range(alts, unicode_newer[i].first, unicode_newer[i].last);
    return rc < 0 ? rc : put(alts, "])\\p{C}");
}

static const struct {
    const char *name, *category;
} categories[] = {
    {"l", "L"},
    {"letter", "L"},
    {"lu", "Lu"},
    {"uppercaseletter", "Lu"},
    {"ll", "Ll"},
    {"lowercaseletter", "Ll"},
    {"lt", "Lt"},
    {"titlecaseletter", "Lt"},
    {"lm", "Lm"},
    {"modifierletter", "Lm"},
    {"lo", "Lo"},
    {"otherletter", "Lo"},
    {"m", "M"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"mn", "Mn"},
    {"nonspacingmark", "Mn"},
    {"mc", "Mc"},
    {"spacingmark", "Mc"},
    {"me", "Me"},
    {"enclosingmark", "Me"},
    {"n", "N"},
    {"number", "N"},
    {"nd", "Nd"},
    {"decimalnumber", "Nd"},
    {"digit", "Nd"},
    {"nl", "Nl"},
    {"letternumber", "Nl"},
    {"no", "No"},
    {"othernumber", "No"},
    {"p", "P"},
    {"punctuation", "P"},
    {"pc", "Pc"},
    {"connectorpunctuation", "Pc"},
    {"pd", "Pd"},
    {"dashpunctuation", "Pd"},
    {"ps", "Ps"},
    {"openpunctuation", "Ps"},
    {"pe", "Pe"},
    {"closepunctuation", "Pe"},
    {"pi", "Pi"},
    {"initialpunctuation", "Pi"},
    {"pf", "Pf"},
    {"finalpunctuation", "Pf"},
    {"po", "Po"},
    {"otherpunctuation", "Po"},
    {"s", "S"},
    {"symbol", "S"},
    {"sm", "Sm"},
    {"mathsymbol", "Sm"},
    {"sc", "Sc"},
    {"currencysymbol", "Sc"},
    {"sk", "Sk"},
    {"modifiersymbol", "Sk"},
    {"so", "So"},
    {"othersymbol", "So"},
    {"z", "Z"},
    {"separator", "Z"},
    {"zs", "Zs"},
    {"spaceseparator", "Zs"},
    {"zl", "Zl"},
    {"lineseparator", "Zl"},
    {"zp", "Zp"},
    {"paragraphseparator", "Zp"},
    {"cc", "Cc"},
    {"control", "Cc"},
    {"cf", "Cf"},
    {"format", "Cf"},
    {"co", "Co"},
    {"privateuse", "Co"},
};
/* Scripts that were compared with the reference code point by code point. */
static const struct {
    const char *name, *script;
    char newer; /* in unicode_newer, or 0 */
} scripts[] = {
    {"han", "Han", 'H'},           {"hiragana", "Hiragana", 'I'}, {"latin", "Latin", 'L'},     {"arabic", "Arabic", 'A'},
    {"cyrillic", "Cyrillic", 'C'}, {"hangul", "Hangul", 0},       {"greek", "Greek", 0},       {"hebrew", "Hebrew", 0},
    {"thai", "Thai", 0},           {"armenian", "Armenian", 0},   {"georgian", "Georgian", 0}, {"tamil", "Tamil", 0},
    {"bengali", "Bengali", 0},     {"lao", "Lao", 'O'},           {"tibetan", "Tibetan", 0},   {"khmer", "Khmer", 0},
    {"bopomofo", "Bopomofo", 0},
};

/* The property called name (lower case, no separators) as class items, or as an alternative when it cannot be one. */
static int append_property(struct pattern_input *in, size_t at, const char *name, struct set *set) {
    for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++) {
        if (strcmp(name, categories[i].name)) continue;
        const char *c = categories[i].category;
        if (in->ignore_case && (!strcmp(c, "Lu") || !strcmp(c, "Ll") || !strcmp(c, "Lt")))
            return pattern_refuse(in, at, "a cased property where case is ignored");
        if (strcmp(c, "Mn")) return append_category(&set->items, c);
        if (put(&set->alts, set->alts.len ? "|(?!\\x{1171e})[" : "(?!\\x{1171e})[") < 0)
            return ERR_NOMEM; /* it has moved to Mc */
        return append_category(&set->alts, c) < 0 ? ERR_NOMEM : put(&set->alts, "]");
    }
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        if (strcmp(name, scripts[i].name)) continue;
        char b[40];
        snprintf(b, sizeof b, "\\p{sc:%s}", scripts[i].script);
        if (put(&set->items, b) < 0) return ERR_NOMEM;
        return scripts[i].newer ? append_newer(&set->items, "", scripts[i].newer) : 0;
    }
    if (!strcmp(name, "c") || !strcmp(name, "other")) return append_other(&set->alts);
    if (!strcmp(name, "space") || !strcmp(name, "whitespace")) return append_space(&set->items);
    if (!strcmp(name, "word")) return append_word(&set->items, true);
    if (!strcmp(name, "xdigit")) return put(&set->items, "0-9A-Fa-f");
    if (!strcmp(name, "punct")) return append_category(&set->items, "P") < 0 ? ERR_NOMEM : append_category(&set->items, "S");
    return pattern_refuse(in, at, "an unknown character property");
}

/* One operand: "[items]", "(?:[items]|alt)". neg: everything else. */
static int append_set(struct text_buf *out, struct set *s, bool neg) {
    bool simple = !s->alts.len;
    int rc = 0;
    if (simple) {
        rc = put(out, neg ? "[^" : "[");
    } else {
        rc = put(out, neg ? "(?:(?!" : "(?:");
        if (rc == 0 && s->items.len) rc = put(out, "[");
    }
    if (rc == 0 && s->items.len) rc = text_buf_append(out, s->items.data, s->items.len);
    if (rc == 0 && s->items.len) rc = put(out, "]");
    if (simple || rc < 0) return rc;
    if (s->items.len) rc = put(out, "|");
    if (rc == 0) rc = text_buf_append(out, s->alts.data, s->alts.len);
    return rc < 0 ? rc : put(out, neg ? ")(?s:.))" : ")");
}

/* The escape at in->at into a set, negation included. 1, or 0 when it is not a set escape. */
static int read_escape(struct pattern_input *in, bool in_class, struct set *out) {
    size_t at = in->at - 1;
    char c = in->s[in->at];
    bool neg = c >= 'A' && c <= 'Z';
    struct set plain = {0};
    int rc;
    switch (c | 0x20) {
    case 's': rc = append_space(&plain.items); break;
    case 'd': rc = append_category(&plain.items, "Nd"); break;
    case 'w': rc = append_word(&plain.items, in_class); break;
    case 'h': rc = put(&plain.items, "0-9A-Fa-f"); break;
    case 'p': {
        const char *open = in->s + in->at + 1;
        const char *close = in->at + 1 < in->len && *open == '{' ? memchr(open, '}', in->len - in->at - 1) : NULL;
        if (!close || close - open > 40) return pattern_refuse(in, at, "\\p without {..}");
        char name[48];
        size_t n = 0;
        for (const char *p = open + 1; p < close; p++) {
            if (*p == '^' && p == open + 1) neg = !neg;
            else if (*p >= 'A' && *p <= 'Z') name[n++] = (char)(*p | 0x20);
            else if (*p != '_' && *p != ' ' && *p != '-') name[n++] = *p;
        }
        name[n] = '\0';
        rc = append_property(in, at, name, &plain);
        in->at = (size_t)(close - in->s);
        break;
    }
    default: return 0;
    }
    in->at++;
    if (rc == 0 && neg) {
        if (out->alts.len) rc = put(&out->alts, "|");
        if (rc == 0) rc = append_set(&out->alts, &plain, true);
    } else if (rc == 0) {
        if (plain.items.len) rc = text_buf_append(&out->items, plain.items.data, plain.items.len);
        if (rc == 0 && plain.alts.len && out->alts.len) rc = put(&out->alts, "|");
        if (rc == 0 && plain.alts.len) rc = text_buf_append(&out->alts, plain.alts.data, plain.alts.len);
    }
    set_clear(&plain);
    return rc < 0 ? rc : 1;
}

int pattern_class_escape(struct pattern_input *in, struct text_buf *out) {
    struct set s = {0};
    int rc = read_escape(in, false, &s);
    /* A lone alternative is an atom already only when grouped: append_set groups it. */
    if (rc == 1 && append_set(out, &s, false) < 0) rc = ERR_NOMEM;
    set_clear(&s);
    return rc;
}

static int hex_digits(struct pattern_input *in, int max, unsigned *v) {
    int n = 0;
    for (*v = 0; n < max && in->at < in->len; n++, in->at++) {
        char c = in->s[in->at];
        int d = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
        if (d < 0) break;
        *v = *v << 4 | (unsigned)d;
    }
    return n;
}

int pattern_char_escape(struct pattern_input *in, unsigned *cp) {
    size_t at = in->at - 1;
    if (in->at >= in->len) return pattern_refuse(in, at, "a lone backslash");
    char c = in->s[in->at];
    static const char from[] = "tnrfvae", to[] = "\t\n\r\f\v\a\x1b";
    const char *hit = strchr(from, c);
    if (c == 'x' || c == 'u') {
        bool braces = c == 'x' && in->at + 1 < in->len && in->s[in->at + 1] == '{';
        in->at += braces ? 2 : 1;
        int n = hex_digits(in, c == 'u' ? 4 : braces ? 6 : 2, cp);
        if (braces && (in->at >= in->len || in->s[in->at++] != '}')) n = 0;
        if (!n || (c == 'u' && n < 4) || *cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000) ||
            (c == 'x' && !braces && *cp > 0x7f))
            return pattern_refuse(in, at, "a malformed hexadecimal escape");
        return 1;
    }
    if (hit && c) {
        *cp = (unsigned char)to[hit - from];
        in->at++;
        return 1;
    }
    if (c >= 0 && ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')))
        return pattern_refuse(in, at, "an unknown escape");
    in->at += (size_t)utf8_next(in->s + in->at, cp);
    return 1;
}

static int read_posix(struct pattern_input *in, struct set *set) { /* in->at behind "[:" */
    size_t at = in->at - 2;
    bool neg = in->at < in->len && in->s[in->at] == '^';
    size_t start = in->at + neg, end = start;
    while (end + 1 < in->len && end - start < 16 && !(in->s[end] == ':' && in->s[end + 1] == ']')) end++;
    if (end + 1 >= in->len || end - start >= 16) return pattern_refuse(in, at, "an unfinished [: :]");
    char name[20];
    snprintf(name, sizeof name, "%.*s", (int)(end - start), in->s + start);
    struct set plain = {0};
    int rc = append_property(in, at, name, &plain);
    if (rc == 0 && neg) rc = set->alts.len ? put(&set->alts, "|") : 0;
    if (rc == 0)
        rc = neg ? append_set(&set->alts, &plain, true) : text_buf_append(&set->items, plain.items.data, plain.items.len);
    set_clear(&plain);
    in->at = end + 2;
    return rc;
}

/* A single character, as itself or as an escape; refused when it stands for a set. */
static int read_one(struct pattern_input *in, unsigned *cp) {
    if (in->at >= in->len) return pattern_refuse(in, in->at, "an unfinished class");
    if (in->s[in->at] == '\\') {
        in->at++;
        if (in->at < in->len && in->s[in->at] == 'b') {
            in->at++;
            *cp = 8;
            return 1;
        }
        return pattern_char_escape(in, cp);
    }
    in->at += (size_t)utf8_next(in->s + in->at, cp);
    return 1;
}

static int read_item(struct pattern_input *in, struct set *set) {
    size_t at = in->at;
    char c = in->s[at];
    if (c == '[') {
        in->at++;
        if (in->at < in->len && in->s[in->at] == ':') {
            in->at++;
            return read_posix(in, set);
        }
        if (set->alts.len && put(&set->alts, "|") < 0) return ERR_NOMEM;
        return pattern_class(in, &set->alts);
    }
    if (c == '\\' && at + 1 < in->len) {
        in->at++;
        int rc = read_escape(in, true, set);
        if (rc != 0) return rc < 0 ? rc : 0;
        in->at--;
    }
    unsigned first, last;
    int rc = read_one(in, &first);
    if (rc < 0) return rc;
    bool range = in->at + 1 < in->len && in->s[in->at] == '-' && in->s[in->at + 1] != ']';
    if (!range) return append_range(&set->items, first, first);
    if (c == '-') return pattern_refuse(in, at, "a range that starts with '-'");
    in->at++;
    char next = in->s[in->at];
    if (next == '[' || (next == '\\' && in->at + 1 < in->len && strchr("wWsSdDhHpP", in->s[in->at + 1])))
        return pattern_refuse(in, at, "a range that ends in a set");
    rc = read_one(in, &last);
    if (rc < 0) return rc;
    if (last < first) return pattern_refuse(in, at, "an empty range");
    return append_range(&set->items, first, last);
}

int pattern_class(struct pattern_input *in, struct text_buf *out) {
    size_t at = in->at - 1;
    if (++in->depth > PATTERN_MAX_DEPTH) return pattern_refuse(in, at, "nesting too deep");
    bool neg = in->at < in->len && in->s[in->at] == '^';
    in->at += neg;
    struct set set = {0};
    struct text_buf both = {0}; /* lookaheads of the operands of && before the last */
    int rc = 0;
    for (bool open = true; open && rc == 0;) {
        bool empty = !set.items.len && !set.alts.len;
        if (in->at >= in->len) {
            rc = pattern_refuse(in, at, "an unfinished class");
        } else if (in->s[in->at] == ']') {
            if (empty) rc = pattern_refuse(in, in->at, "an empty class");
            in->at++;
            open = false;
        } else if (in->len - in->at >= 2 && !strncmp(in->s + in->at, "&&", 2)) {
            if (empty) rc = pattern_refuse(in, in->at, "an empty side of &&");
            if (rc == 0) rc = put(&both, "(?=");
            if (rc == 0) rc = append_set(&both, &set, false);
            if (rc == 0) rc = put(&both, ")");
            set_clear(&set);
            in->at += 2;
        } else {
            rc = read_item(in, &set);
        }
    }
    if (rc == 0 && !both.len) {
        rc = append_set(out, &set, neg);
    } else if (rc == 0) {
        rc = put(out, neg ? "(?:(?!" : "(?:");
        if (rc == 0) rc = text_buf_append(out, both.data, both.len);
        if (rc == 0) rc = append_set(out, &set, false);
        if (rc == 0) rc = put(out, neg ? ")(?s:.))" : ")");
    }
    set_clear(&set);
    text_buf_clear(&both);
    in->depth--;
    return rc;
}
