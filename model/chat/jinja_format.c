/* jinja_format.c - text % values and the filter format: Python's printf-style formatting.
 *
 * Conversions d i u x X o e E f F g G s r a(no) c %; flags # 0 - blank +; width and precision as digits or *; %(name)s with a
 * dict. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/jinja.h"
#include "model/text/utf8.h"

enum { MAX_WIDTH = 10000, MAX_PRECISION = 300 };

struct formatting {
    struct jinja_run *r;
    const char *s, *end;    /* what is left of the format */
    const struct jv *value; /* [n] */
    size_t n, used;
    const struct jv_dict *names; /* NULL: no dict was given */
    bool named;                  /* a %(name) was seen */
    struct text_buf out;
};
struct spec {
    bool minus, plus, blank, zero, alternate;
    int width, precision; /* -1: none */
    char conversion;
};

static int bad(struct formatting *f, const char *what) { return jinja_fail(f->r, ERR_INVALID, "%s", what); }

static int next_value(struct formatting *f, struct jv *out) {
    if (f->used >= f->n) return bad(f, "not enough arguments for format string");
    *out = f->value[f->used++];
    return 0;
}

/* Digits, or * for the next value. */
static int read_number(struct formatting *f, int max, int *out) {
    struct jv v;
    int64_t n = 0;
    if (f->s < f->end && *f->s == '*') {
        f->s++;
        int rc = next_value(f, &v);
        if (rc < 0) return rc;
        if (!jv_integral(v, &n)) return bad(f, "* wants int");
    } else {
        for (; f->s < f->end && *f->s >= '0' && *f->s <= '9' && n <= max; f->s++) n = n * 10 + (*f->s - '0');
    }
    if (n > max || n < -max) return jinja_fail(f->r, ERR_TOO_LARGE, "a format is wider than %d", max);
    *out = (int)n;
    return 0;
}

/* Behind '%', up to the conversion. A %(name) has been read. */
static int read_spec(struct formatting *f, struct spec *p) {
    *p = (struct spec){.width = 0, .precision = -1};
    for (; f->s < f->end && *f->s && strchr("-+ 0#", *f->s); f->s++) {
        if (*f->s == '-') p->minus = true;
        if (*f->s == '+') p->plus = true;
        if (*f->s == ' ') p->blank = true;
        if (*f->s == '0') p->zero = true;
        if (*f->s == '#') p->alternate = true;
    }
    int rc = read_number(f, MAX_WIDTH, &p->width);
    if (rc == 0 && p->width < 0) {
        p->minus = true;
        p->width = -p->width;
    }
    if (rc == 0 && f->s < f->end && *f->s == '.') {
        f->s++;
        rc = read_number(f, MAX_PRECISION, &p->precision);
        if (p->precision < 0) p->precision = 0;
    }
    while (f->s < f->end && *f->s && strchr("hlL", *f->s)) f->s++;
    if (rc < 0) return rc;
    if (f->s >= f->end) return bad(f, "incomplete format");
    p->conversion = *f->s++;
    return 0;
}

static int pad(struct formatting *f, size_t n, char c) {
    for (; n > 0; n--)
        if (jinja_append(f->r, &f->out, &c, 1) < 0) return ERR_TOO_LARGE;
    return 0;
}

/* sign and prefix stand before the zeros, blanks before all. */
static int put_padded(struct formatting *f, const struct spec *p, const char *head, const char *s, size_t len, size_t chars,
                      bool zeros) {
    size_t total = strlen(head) + chars, gap = (size_t)p->width > total ? (size_t)p->width - total : 0;
    zeros = zeros && p->zero && !p->minus;
    int rc = !p->minus && !zeros ? pad(f, gap, ' ') : 0;
    if (rc == 0) rc = jinja_append(f->r, &f->out, head, strlen(head));
    if (rc == 0 && zeros) rc = pad(f, gap, '0');
    if (rc == 0) rc = jinja_append(f->r, &f->out, s, len);
    return rc == 0 && p->minus ? pad(f, gap, ' ') : rc;
}

static int put_integer(struct formatting *f, const struct spec *p, struct jv v) {
    int64_t n;
    char digits[400], head[4] = "";
    if (!jv_integral(v, &n)) {
        bool whole = strchr("diu", p->conversion) && v.type == JV_FLOAT && fabs(v.u.f) < 9e18;
        if (!whole)
            return jinja_fail(f->r, ERR_INVALID, "%%%c format: a real number is required, not %s", p->conversion,
                              jv_type_name(v));
        n = (int64_t)v.u.f;
    }
    unsigned long long u = n < 0 ? 0 - (unsigned long long)n : (unsigned long long)n;
    char *sign = head;
    if (n < 0 || p->plus || p->blank) *sign++ = n < 0 ? '-' : p->plus ? '+' : ' ';
    if (p->alternate && strchr("xXo", p->conversion)) {
        *sign++ = '0';
        *sign++ = p->conversion;
    }
    *sign = '\0';
    int least = p->precision > 0 ? p->precision : 1;
    int len = p->conversion == 'x'   ? snprintf(digits, sizeof digits, "%.*llx", least, u)
              : p->conversion == 'X' ? snprintf(digits, sizeof digits, "%.*llX", least, u)
              : p->conversion == 'o' ? snprintf(digits, sizeof digits, "%.*llo", least, u)
                                     : snprintf(digits, sizeof digits, "%.*llu", least, u);
    return put_padded(f, p, head, digits, (size_t)len, (size_t)len, true);
}

static int put_real(struct formatting *f, const struct spec *p, struct jv v) {
    int64_t n;
    char digits[720], how[8], head[2] = "";
    double x = v.type == JV_FLOAT ? v.u.f : jv_integral(v, &n) ? (double)n : NAN;
    if (v.type != JV_FLOAT && !jv_integral(v, &n))
        return jinja_fail(f->r, ERR_INVALID, "must be real number, not %s", jv_type_name(v));
    if (signbit(x) && !isnan(x)) head[0] = '-';
    else if (p->plus || p->blank) head[0] = p->plus ? '+' : ' ';
    snprintf(how, sizeof how, p->alternate ? "%%#.*%c" : "%%.*%c", p->conversion);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int len = snprintf(digits, sizeof digits, how, p->precision < 0 ? 6 : p->precision, fabs(x));
#pragma GCC diagnostic pop
    if (isnan(x)) len = snprintf(digits, sizeof digits, strchr("EFG", p->conversion) ? "NAN" : "nan");
    return put_padded(f, p, head, digits, (size_t)len, (size_t)len, true);
}

static int put_text(struct formatting *f, const struct spec *p, struct jv v) {
    struct text_buf b = {0};
    size_t len = 0, chars = 0;
    int64_t code;
    uint32_t cp;
    int rc = 0;
    if (p->conversion == 'c' && jv_integral(v, &code)) {
        char c[4];
        if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return bad(f, "%c arg not in range(0x110000)");
        rc = text_buf_append(&b, c, (size_t)utf8_write((uint32_t)code, c));
    } else if (p->conversion == 'c' && (v.type != JV_STR || jv_chars(v.u.s) != 1)) {
        return bad(f, "%c requires int or char");
    } else {
        rc = p->conversion == 'r' ? jv_repr(f->r, v, &b) : jv_print(f->r, v, &b);
    }
    while (rc == 0 && len < b.len && (p->precision < 0 || p->conversion == 'c' || chars < (size_t)p->precision)) {
        len += (size_t)utf8_next(b.data + len, &cp);
        chars++;
    }
    if (rc == 0) rc = put_padded(f, p, "", b.data ? b.data : "", len, chars, false);
    text_buf_clear(&b);
    return rc;
}

/* Behind "%(": the value by its name. */
static int named_value(struct formatting *f, struct jv *out) {
    const char *close = memchr(f->s, ')', (size_t)(f->end - f->s));
    if (!f->names) return bad(f, "format requires a mapping");
    if (!close || memchr(f->s, '(', (size_t)(close - f->s))) return bad(f, "incomplete format key");
    const struct jv *v = jv_dict_text(f->names, f->s, (size_t)(close - f->s));
    if (!v) return jinja_fail(f->r, ERR_INVALID, "'%.*s'", (int)(close - f->s), f->s);
    f->named = true;
    f->s = close + 1;
    *out = *v;
    return 0;
}

static int one(struct formatting *f) { /* behind '%' */
    struct spec p;
    struct jv v = jv_none();
    bool by_name = f->s < f->end && *f->s == '(';
    int rc = 0;
    if (f->s < f->end && *f->s == '%') { /* only just so, without flags */
        f->s++;
        return jinja_append(f->r, &f->out, "%", 1);
    }
    if (by_name) {
        f->s++;
        rc = named_value(f, &v);
    }
    if (rc == 0) rc = read_spec(f, &p);
    if (rc < 0) return rc;
    if (!p.conversion || !strchr("diuxXoeEfFgGsrc", p.conversion))
        return jinja_fail(f->r, p.conversion == 'a' ? ERR_UNSUPPORTED : ERR_INVALID, "unsupported format character '%c'",
                          p.conversion);
    if (!by_name) rc = next_value(f, &v);
    if (rc == 0 && p.conversion != 's') rc = jv_need_defined(f->r, v); /* nothing as text is nothing */
    if (rc < 0) return rc;
    if (strchr("diuxXo", p.conversion)) return put_integer(f, &p, v);
    return strchr("eEfFgG", p.conversion) ? put_real(f, &p, v) : put_text(f, &p, v);
}

int jinja_format(struct jinja_run *r, struct jv_str *s, struct jv values, struct jv *out) {
    struct formatting f = {.r = r, .s = s->s, .end = s->s + s->len, .value = &values, .n = 1};
    if (values.type == JV_TUPLE) {
        f.value = values.u.list->v;
        f.n = values.u.list->n;
    } else if (values.type == JV_DICT) {
        f.names = values.u.dict;
    }
    int rc = jinja_spend(r, s->len);
    while (rc == 0 && f.s < f.end) {
        const char *mark = memchr(f.s, '%', (size_t)(f.end - f.s));
        size_t plain = (size_t)((mark ? mark : f.end) - f.s);
        rc = jinja_append(r, &f.out, f.s, plain);
        f.s += plain + (mark != NULL);
        if (rc == 0 && mark) rc = one(&f);
    }
    /* what can be asked for an item may be left over, but for texts */
    bool box = values.type == JV_DICT || values.type == JV_LIST || values.type == JV_RANGE || values.type == JV_UNDEFINED;
    bool left = f.used < f.n && !f.named && !box;
    if (rc == 0 && left) rc = bad(&f, "not all arguments converted during string formatting");
    if (rc == 0) return f.out.data ? jv_take_text(r, &f.out, out) : jv_str(r, "", 0, out);
    text_buf_clear(&f.out);
    return rc;
}
