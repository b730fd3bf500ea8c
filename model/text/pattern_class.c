/* pattern_class.c - sets of characters: [..] with nesting, && and ranges, and the escapes that stand for sets.
 *
 * A set is written as PCRE2 class items where that is possible. What PCRE2's classes cannot say becomes alternation and
 * lookahead, each form still matching exactly one character: a union with a negated set is (?:[items]|[^other]), the
 * intersection A&&B is (?:(?=B)A), the negation of either is (?:(?!set)(?s:.)).
 * Properties are widened by the characters that PCRE2's tables do not know yet (model/text/unicode.h). */
#include "model/text/pattern_class.h"

#include <stdio.h>
#include <string.h>

#include "model/text/unicode.h"
#include "model/text/utf8.h"

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
#define NEWER_EMOJI                                                                                                            \
    "\\x{1f6dc}\\x{1fa75}-\\x{1fa77}\\x{1fa87}-\\x{1fa89}\\x{1fa8f}\\x{1faad}-\\x{1faaf}\\x{1fabb}-\\x{1fabf}\\x{1fac6}\\x{"   \
    "1face}-"                                                                                                                  \
    "\\x{1facf}\\x{1fada}-\\x{1fadc}\\x{1fadf}\\x{1fae8}-\\x{1fae9}\\x{1faf7}-\\x{1faf8}"
#define NEWER_UPPER "\\x{1c89}\\x{a7cb}-\\x{a7cc}\\x{a7da}\\x{a7dc}\\x{10d50}-\\x{10d65}"
#define NEWER_LOWER                                                                                                            \
    "\\x{10fc}\\x{1c8a}\\x{a7cd}\\x{a7db}\\x{a7f2}-\\x{a7f4}\\x{ab69}\\x{10d70}-\\x{10d85}\\x{1df25}-\\x{1df2a}\\x{1e030}-"    \
    "\\x{1e06d}"

/* Scripts and properties that were compared with the reference code point by code point: class items, and the script's letter
 * in unicode_newer where that has its newer characters (otherwise they are spelt out). */
static const struct {
    const char *name, *items;
    char newer;
} sets[] = {
    {"han", "\\p{sc:Han}", 'H'},
    {"hiragana", "\\p{sc:Hiragana}", 'I'},
    {"latin", "\\p{sc:Latin}", 'L'},
    {"arabic", "\\p{sc:Arabic}", 'A'},
    {"cyrillic", "\\p{sc:Cyrillic}", 'C'},
    {"lao", "\\p{sc:Lao}", 'O'},
    {"katakana", "\\p{sc:Katakana}\\x{1b155}", 0},
    {"devanagari", "\\p{sc:Devanagari}\\x{11b00}-\\x{11b09}", 0},
    {"kannada", "\\p{sc:Kannada}\\x{cf3}", 0},
    {"myanmar", "\\p{sc:Myanmar}\\x{116d0}-\\x{116e3}", 0},
    {"any", "\\x{0}-\\x{10ffff}", 0},
    {"ascii", "\\x{0}-\\x{7f}", 0},
    {"blank", "\\p{Zs}\\x{9}", 0},
    {"cntrl", "\\p{Cc}", 0},
    {"xdigit", "0-9A-Fa-f", 0},
    {"extendedpictographic", "\\p{Extended_Pictographic}", 0},
    {"emoji", "\\p{Emoji}" NEWER_EMOJI, 0},
    {"emojipresentation", "\\p{Emoji_Presentation}" NEWER_EMOJI, 0},
    {"ideographic", "\\p{Ideographic}\\x{18cff}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}", 0},
    {"uppercase", "\\p{Uppercase}" NEWER_UPPER, 0},
    {"upper", "\\p{Uppercase}" NEWER_UPPER, 0},
    {"lowercase", "\\p{Lowercase}" NEWER_LOWER, 0},
    {"lower", "\\p{Lowercase}" NEWER_LOWER, 0},
};
/* Scripts that have not grown. */
static const char *const old_scripts[] = {"Hangul",    "Greek",   "Hebrew",  "Thai",     "Armenian", "Georgian",  "Tamil",
                                          "Bengali",   "Tibetan", "Khmer",   "Bopomofo", "Gujarati", "Gurmukhi",  "Telugu",
                                          "Malayalam", "Oriya",   "Sinhala", "Ethiopic", "Cherokee", "Mongolian", "Yi",
                                          "Inherited", "Syriac",  "Thaana",  "Ogham",    "Runic",    "Coptic",    "Javanese",
                                          "Braille",   "Nko",     "Tifinagh"};

/* Alphabetic: the newer letters are in unicode_newer, marks that count as letters are not. */
static int append_alphabetic(struct text_buf *items) {
    static const char marks[] = "\\p{Alphabetic}\\x{363}-\\x{36f}\\x{897}\\x{c04}\\x{cf3}\\x{f82}-\\x{f83}\\x{1dd3}-\\x{1de6}"
                                "\\x{10d69}\\x{10efc}\\x{11080}-\\x{11081}"
                                "\\x{11241}\\x{113b8}-\\x{113c0}\\x{113c2}\\x{113c5}\\x{113c7}-\\x{113ca}\\x{113cc}-\\x{113cd}"
                                "\\x{11f00}-\\x{11f01}\\x{11f03}"
                                "\\x{11f34}-\\x{11f3a}\\x{11f3e}-\\x{11f40}\\x{1611e}-\\x{1612e}\\x{1e08f}";
    return put(items, marks) < 0 ? ERR_NOMEM : append_newer(items, "L", 0);
}

static bool same_name(const char *name, const char *script) { /* name in lower case */
    while (*name && *name == (*script | 0x20)) {
        name++;
        script++;
    }
    return !*name && !*script;
}

/* What has names in POSIX brackets that mean something else as a property. 1, or 0: none of these. */
static int append_posix(const char *name, bool posix, struct set *set) {
    int rc = 0;
    if (!strcmp(name, "space") || !strcmp(name, "whitespace")) {
        rc = append_space(&set->items);
    } else if (!strcmp(name, "word")) {
        rc = append_word(&set->items, posix);
    } else if (!strcmp(name, "punct")) {
        rc = append_category(&set->items, "P");
        if (rc == 0 && posix) rc = append_category(&set->items, "S");
    } else if (!strcmp(name, "alpha") || !strcmp(name, "alphabetic") || !strcmp(name, "alnum")) {
        rc = append_alphabetic(&set->items);
        if (rc == 0 && !strcmp(name, "alnum")) rc = append_category(&set->items, "Nd");
    } else {
        return 0;
    }
    return rc < 0 ? rc : 1;
}

/* The property called name (lower case, no separators) as class items, or as an alternative when it cannot be one. */
static int append_property(struct pattern_input *in, size_t at, const char *name, bool posix, struct set *set) {
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
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        if (strcmp(name, sets[i].name)) continue;
        if (in->ignore_case && (strstr(name, "upper") || strstr(name, "lower")))
            return pattern_refuse(in, at, "a cased property where case is ignored");
        if (put(&set->items, sets[i].items) < 0) return ERR_NOMEM;
        return sets[i].newer ? append_newer(&set->items, "", sets[i].newer) : 0;
    }
    for (size_t i = 0; i < sizeof old_scripts / sizeof old_scripts[0]; i++) {
        char b[40];
        if (!same_name(name, old_scripts[i])) continue;
        snprintf(b, sizeof b, "\\p{sc:%s}", old_scripts[i]);
        return put(&set->items, b);
    }
    int rc = append_posix(name, posix, set);
    if (rc != 0) return rc < 0 ? rc : 0;
    if (!strcmp(name, "c") || !strcmp(name, "other")) return append_other(&set->alts);
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
        rc = append_property(in, at, name, false, &plain);
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
    int rc = append_property(in, at, name, true, &plain);
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
