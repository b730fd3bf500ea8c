/* jinja_brace.c - text.format(values): Python's brace formatting.
 *
 * Fields by position, number or name, then .name and [key]; !r and !s; [[fill]align][sign][#][0][width][grouping][.precision]
 * with s d b o x X c e E f F g G %. A specification made of fields itself is not done. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/jinja.h"
#include "model/text/utf8.h"

enum { MAX_WIDTH = 10000, MAX_PRECISION = 300, MAX_DIGITS = 720, BY_NUMBER = -1 };

struct brace {
    struct jinja_run *r;
    const struct jinja_args *a;
    int next; /* the field without a name takes this value; BY_NUMBER: numbers were given */
    struct text_buf out;
};
struct brace_spec {
    const char *fill; /* one character */
    size_t fill_len;
    char align, sign, grouping, type; /* 0: not given */
    bool filled, alternate;           /* filled: the character was given */
    int width, precision;             /* precision -1: none */
};

/* ---- reading a specification ---- */

static int read_digits(struct brace *b, const char **s, const char *end, int max, int *out) {
    for (*out = 0; *s < end && **s >= '0' && **s <= '9'; ++*s) {
        *out = *out * 10 + (**s - '0');
        if (*out > max) return jinja_fail(b->r, ERR_TOO_LARGE, "a format is wider than %d", max);
    }
    return 0;
}

static bool is_align(const char *s, const char *end) { return s < end && *s && strchr("<>=^", *s); }

static int read_spec(struct brace *b, const char *s, const char *end, struct brace_spec *p) {
    uint32_t cp;
    *p = (struct brace_spec){.fill = " ", .fill_len = 1, .precision = -1};
    size_t first = s < end ? (size_t)utf8_next(s, &cp) : 0;
    if (first && is_align(s + first, end)) {
        p->fill = s;
        p->fill_len = first;
        p->filled = true;
        s += first;
    }
    if (is_align(s, end)) p->align = *s++;
    if (s < end && *s && strchr("+- ", *s)) p->sign = *s++;
    if (s < end && *s == '#') {
        p->alternate = true;
        s++;
    }
    if (s < end && *s == '0' && !p->filled) {
        p->fill = "0";
        if (!p->align) p->align = '0'; /* '=' for numbers, '<' for texts */
    }
    int rc = read_digits(b, &s, end, MAX_WIDTH, &p->width);
    if (rc == 0 && s < end && (*s == ',' || *s == '_')) p->grouping = *s++;
    if (rc == 0 && s < end && *s == '.') {
        const char *digits = ++s;
        rc = read_digits(b, &s, end, MAX_PRECISION, &p->precision);
        if (rc == 0 && s == digits) return jinja_fail(b->r, ERR_INVALID, "Format specifier missing precision");
    }
    if (rc == 0 && s < end) p->type = *s++;
    if (rc == 0 && s < end) return jinja_fail(b->r, ERR_INVALID, "Invalid format specifier");
    return rc;
}

/* ---- putting out ---- */

static int fill(struct brace *b, const struct brace_spec *p, size_t n) {
    int rc = 0;
    for (; n > 0 && rc == 0; n--) rc = jinja_append(b->r, &b->out, p->fill, p->fill_len);
    return rc;
}

/* head: sign and prefix, in front of what fills up to the width when the alignment is '='. */
static int put(struct brace *b, const struct brace_spec *p, char align, const char *head, const char *s, size_t len,
               size_t chars) {
    size_t total = strlen(head) + chars, gap = (size_t)p->width > total ? (size_t)p->width - total : 0;
    size_t before = align == '>' ? gap : align == '^' ? gap / 2 : 0, middle = align == '=' ? gap : 0;
    int rc = fill(b, p, before);
    if (rc == 0) rc = jinja_append(b->r, &b->out, head, strlen(head));
    if (rc == 0) rc = fill(b, p, middle);
    if (rc == 0) rc = jinja_append(b->r, &b->out, s, len);
    return rc == 0 ? fill(b, p, gap - before - middle) : rc;
}

static int put_text(struct brace *b, const struct brace_spec *p, const char *s, size_t whole) {
    size_t len = 0, chars = 0;
    uint32_t cp;
    if (p->type && p->type != 's')
        return jinja_fail(b->r, ERR_INVALID, "Unknown format code '%c' for object of type 'str'", p->type);
    if (p->sign || p->grouping || p->alternate || p->align == '=')
        return jinja_fail(b->r, ERR_INVALID, "Sign, grouping, '#' and '=' are not allowed in a string format specifier");
    for (; len < whole && (p->precision < 0 || chars < (size_t)p->precision); chars++) len += (size_t)utf8_next(s + len, &cp);
    return put(b, p, p->align && p->align != '0' ? p->align : '<', "", s, len, chars);
}

/* Digits in groups of `every`, from the right, up to a point; in place. */
static size_t group(char *digits, size_t len, char mark, size_t every) {
    char to[2 * MAX_DIGITS];
    size_t whole = strspn(digits, "0123456789abcdefABCDEF"), n = 0;
    for (size_t i = 0; i < len; i++) {
        if (i && i < whole && (whole - i) % every == 0) to[n++] = mark;
        to[n++] = digits[i];
    }
    memcpy(digits, to, n);
    digits[n] = '\0';
    return n;
}

static int put_number(struct brace *b, const struct brace_spec *p, const char *head, char *digits, size_t len, size_t every) {
    char align = !p->align ? '>' : p->align == '0' ? '=' : p->align;
    if (p->grouping && align == '=' && p->fill[0] == '0')
        return jinja_fail(b->r, ERR_UNSUPPORTED, "grouping of digits with zeros in front is not supported");
    if (p->grouping) len = group(digits, len, p->grouping, every);
    return put(b, p, align, head, digits, len, len);
}

static const char *sign_of(const struct brace_spec *p, bool minus) {
    return minus ? "-" : p->sign == '+' ? "+" : p->sign == ' ' ? " " : "";
}

static int put_real(struct brace *b, const struct brace_spec *p, double x) {
    char digits[2 * MAX_DIGITS], how[8];
    char type = p->type == '%' ? 'f' : p->type;
    if (!type || !strchr("eEfFgG", type))
        return jinja_fail(b->r, type ? ERR_INVALID : ERR_UNSUPPORTED, "format code '%c' for a real number", type ? type : ' ');
    if (p->grouping && strchr("eEgG", type)) return jinja_fail(b->r, ERR_UNSUPPORTED, "grouping of digits in scientific form");
    double v = fabs(x) * (p->type == '%' ? 100 : 1);
    snprintf(how, sizeof how, p->alternate ? "%%#.*%c" : "%%.*%c", type);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int len = snprintf(digits, MAX_DIGITS, how, p->precision < 0 ? 6 : p->precision, v);
#pragma GCC diagnostic pop
    if (len < 0 || len >= MAX_DIGITS - 1) return jinja_fail(b->r, ERR_TOO_LARGE, "a number with too many digits");
    if (p->type == '%') digits[len++] = '%';
    digits[len] = '\0';
    return put_number(b, p, sign_of(p, signbit(x) && !isnan(x)), digits, (size_t)len, 3);
}

/* Without a type: as repr() writes it. */
static int put_plain_real(struct brace *b, const struct brace_spec *p, double x) {
    char digits[2 * MAX_DIGITS];
    struct text_buf text = {0};
    if (p->precision >= 0 || p->alternate || p->grouping)
        return jinja_fail(b->r, ERR_UNSUPPORTED, "a real number's precision, '#' or grouping without a type is not supported");
    int rc = jv_repr(b->r, jv_float(fabs(x)), &text);
    size_t len = text.len < MAX_DIGITS ? text.len : MAX_DIGITS;
    if (rc == 0) memcpy(digits, text.data, len);
    text_buf_clear(&text);
    return rc < 0 ? rc : put_number(b, p, sign_of(p, signbit(x) && !isnan(x)), digits, len, 3);
}

static int put_integer(struct brace *b, const struct brace_spec *p, int64_t n) {
    char digits[2 * MAX_DIGITS], head[4];
    unsigned long long u = n < 0 ? 0 - (unsigned long long)n : (unsigned long long)n;
    size_t len = 0;
    if (p->type && strchr("eEfFgG%", p->type)) return put_real(b, p, (double)n);
    if (p->precision >= 0) return jinja_fail(b->r, ERR_INVALID, "Precision not allowed in integer format specifier");
    if (p->type == 'c') {
        char c[4];
        if (n < 0 || n > 0x10ffff || (n >= 0xd800 && n < 0xe000))
            return jinja_fail(b->r, ERR_INVALID, "%%c arg not in range(0x110000)");
        return put(b, p, p->align && p->align != '0' ? p->align : '<', "", c, (size_t)utf8_write((uint32_t)n, c), 1);
    }
    if (p->type == 'x') len = (size_t)snprintf(digits, sizeof digits, "%llx", u);
    else if (p->type == 'X') len = (size_t)snprintf(digits, sizeof digits, "%llX", u);
    else if (p->type == 'o') len = (size_t)snprintf(digits, sizeof digits, "%llo", u);
    else if (!p->type || p->type == 'd') len = (size_t)snprintf(digits, sizeof digits, "%llu", u);
    else if (p->type == 'b')
        for (int bit = 63; bit >= 0; bit--) {
            if (len || (u >> bit & 1) || !bit) digits[len++] = (char)('0' + (u >> bit & 1));
        }
    else return jinja_fail(b->r, ERR_INVALID, "Unknown format code '%c' for object of type 'int'", p->type);
    digits[len] = '\0';
    bool prefix = p->alternate && p->type && strchr("xXob", p->type);
    snprintf(head, sizeof head, "%s%s%.1s", sign_of(p, n < 0), prefix ? "0" : "", prefix ? &p->type : "");
    return put_number(b, p, head, digits, len, p->type && strchr("xXob", p->type) ? 4 : 3);
}

static int put_value(struct brace *b, struct jv v, char conversion, const char *spec, const char *end) {
    struct text_buf text = {0};
    struct brace_spec p;
    int64_t n = 0;
    bool plain = conversion || spec == end || v.type == JV_STR;
    int rc = read_spec(b, spec, end, &p);
    if (rc < 0) return rc;
    if (!plain && jv_integral(v, &n)) return put_integer(b, &p, n);
    if (!plain && v.type == JV_FLOAT) return p.type ? put_real(b, &p, v.u.f) : put_plain_real(b, &p, v.u.f);
    if (!plain) return jinja_fail(b->r, ERR_INVALID, "unsupported format string passed to %s.__format__", jv_type_name(v));
    rc = conversion == 'r' ? jv_repr(b->r, v, &text) : jv_print(b->r, v, &text);
    if (rc == 0) rc = put_text(b, &p, text.data ? text.data : "", text.len);
    text_buf_clear(&text);
    return rc;
}

/* ---- fields ---- */

static bool whole_number(const char *s, size_t len, int64_t *out) {
    *out = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9' || *out > INT_MAX) return false;
        *out = *out * 10 + (s[i] - '0');
    }
    return len > 0;
}

static int first_value(struct brace *b, const char *s, size_t len, struct jv *out) {
    int64_t i = b->next;
    if (!len || whole_number(s, len, &i)) {
        if (len ? b->next > 0 : b->next == BY_NUMBER)
            return jinja_fail(b->r, ERR_INVALID, "cannot switch between numbered and unnumbered fields of a format");
        b->next = len ? BY_NUMBER : b->next + 1;
        if (i >= b->a->n)
            return jinja_fail(b->r, ERR_INVALID, "Replacement index %lld out of range for positional args tuple", (long long)i);
        *out = b->a->v[i];
        return 0;
    }
    for (int k = 0; k < b->a->n_keys; k++) {
        if (b->a->key[k]->len != len || memcmp(b->a->key[k]->s, s, len) != 0) continue;
        *out = b->a->kv[k];
        return 0;
    }
    return jinja_fail(b->r, ERR_INVALID, "a format wants '%.*s', which is not given", len > 60 ? 60 : (int)len, s);
}

/* .name and [key], behind the first part of a field's name. */
static int follow(struct brace *b, const char *s, const char *end, struct jv *v) {
    while (s < end) {
        bool attribute = *s++ == '.';
        const char *stop = attribute ? s : memchr(s, ']', (size_t)(end - s));
        while (attribute && stop < end && *stop != '.' && *stop != '[') stop++;
        if (!stop || stop == s) return jinja_fail(b->r, ERR_INVALID, "Empty attribute or missing ']' in format string");
        if (*s == '_') return jinja_fail(b->r, ERR_UNSUPPORTED, "a format that reads names beginning with an underscore");
        struct jv key;
        int64_t i;
        int rc = jv_str(b->r, s, (size_t)(stop - s), &key);
        if (rc == 0 && !attribute && whole_number(s, (size_t)(stop - s), &i)) key = jv_int(i);
        if (rc == 0) rc = attribute ? jv_getattr(b->r, *v, key.u.s, v) : jv_getitem(b->r, *v, key, v);
        if (rc < 0) return rc;
        s = stop + !attribute;
        if (!attribute && s < end && *s != '.' && *s != '[')
            return jinja_fail(b->r, ERR_INVALID, "Only '.' or '[' may follow ']' in format field specifier");
    }
    return 0;
}

/* s..end stand between the braces. */
static int field(struct brace *b, const char *s, const char *end) {
    const char *name_end = s, *spec;
    bool in_key = false;
    char conversion = 0;
    struct jv v;
    for (; name_end < end && (in_key || (*name_end != '!' && *name_end != ':')); name_end++)
        in_key = *name_end == '[' || (in_key && *name_end != ']');
    spec = name_end;
    if (spec < end && *spec == '!') {
        conversion = end - spec > 1 ? spec[1] : 0;
        if (conversion == 'a') return jinja_fail(b->r, ERR_UNSUPPORTED, "the conversion !a is not supported");
        if (conversion != 'r' && conversion != 's')
            return jinja_fail(b->r, ERR_INVALID, "a format's conversion is neither !r nor !s");
        spec += 2;
        if (spec < end && *spec != ':') return jinja_fail(b->r, ERR_INVALID, "expected ':' after conversion specifier");
    }
    if (spec < end) spec++;
    size_t first = 0;
    while (s + first < name_end && s[first] != '.' && s[first] != '[') first++;
    int rc = first_value(b, s, first, &v);
    if (rc == 0) rc = follow(b, s + first, name_end, &v);
    return rc == 0 ? put_value(b, v, conversion, spec, end) : rc;
}

int jinja_brace(struct jinja_run *r, const struct jv_str *s, const struct jinja_args *a, struct jv *out) {
    struct brace b = {.r = r, .a = a};
    const char *at = s->s, *end = s->s + s->len;
    int rc = jinja_spend(r, s->len);
    while (rc == 0 && at < end) {
        const char *plain = at;
        while (at < end && *at != '{' && *at != '}') at++;
        rc = jinja_append(r, &b.out, plain, (size_t)(at - plain));
        if (rc < 0 || at == end) break;
        if (at + 1 < end && at[1] == *at) {
            rc = jinja_append(r, &b.out, at, 1);
            at += 2;
            continue;
        }
        const char *close = *at == '{' ? memchr(at, '}', (size_t)(end - at)) : NULL;
        if (!close) rc = jinja_fail(r, ERR_INVALID, "Single '%c' encountered in format string", *at);
        else if (memchr(at + 1, '{', (size_t)(close - at - 1)))
            rc = jinja_fail(r, ERR_UNSUPPORTED, "a format with fields inside a field is not supported");
        else rc = field(&b, at + 1, close);
        at = close ? close + 1 : end;
    }
    if (rc == 0) return b.out.data ? jv_take_text(r, &b.out, out) : jv_str(r, "", 0, out);
    text_buf_clear(&b.out);
    return rc;
}
