/* jinja_print.c - str(), repr() and json.dumps() of values, character for character as Python writes them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/chat/jinja.h"
#include "model/text/utf8.h"

static int put(struct jinja_run *r, struct text_buf *b, const char *s) { return jinja_append(r, b, s, strlen(s)); }

int jv_take_text(struct jinja_run *r, struct text_buf *b, struct jv *out) {
    int rc = jv_str(r, b->data, b->len, out);
    text_buf_clear(b);
    return rc;
}

/* The shortest digits that read back as f, in Python's layout. */
static void float_text(double f, char *out, size_t cap) {
    char b[40];
    if (isnan(f) || isinf(f)) {
        snprintf(out, cap, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    int digits = 1;
    do snprintf(b, sizeof b, "%.*e", digits - 1, f);
    while (strtod(b, NULL) != f && ++digits <= 17);
    int exp = (int)strtol(strchr(b, 'e') + 1, NULL, 10);
    if (exp >= -4 && exp < 16) {
        snprintf(out, cap, "%.*f", digits - 1 > exp ? digits - 1 - exp : 0, f);
        if (!strchr(out, '.')) snprintf(out + strlen(out), cap - strlen(out), ".0");
        return;
    }
    char *e = strchr(b, 'e'); /* C writes at least two digits of exponent, as Python does */
    snprintf(out, cap, "%.*s%s", (int)(e - b), b, e);
}

static bool printable(uint32_t cp) {
    if (cp < 0x7f) return cp >= 0x20;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c != UTF8PROC_CATEGORY_CC && c != UTF8PROC_CATEGORY_CF && c != UTF8PROC_CATEGORY_CS && c != UTF8PROC_CATEGORY_CO &&
           c != UTF8PROC_CATEGORY_CN && c != UTF8PROC_CATEGORY_ZS && c != UTF8PROC_CATEGORY_ZL && c != UTF8PROC_CATEGORY_ZP;
}

static int repr_text(struct jinja_run *r, const struct jv_str *s, struct text_buf *b) {
    char quote = memchr(s->s, '\'', s->len) && !memchr(s->s, '"', s->len) ? '"' : '\'';
    int rc = jinja_append(r, b, &quote, 1);
    for (size_t i = 0; i < s->len && rc == 0;) {
        uint32_t cp;
        size_t n = (size_t)utf8_next(s->s + i, &cp);
        char e[16];
        const char *named = cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : cp == '\t' ? "\\t" : cp == '\\' ? "\\\\" : NULL;
        if (named) rc = put(r, b, named);
        else if (cp == (uint32_t)quote) rc = jinja_append(r, b, (char[]){'\\', quote}, 2);
        else if (printable(cp)) rc = jinja_append(r, b, s->s + i, n);
        else {
            snprintf(e, sizeof e, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
            rc = put(r, b, e);
        }
        i += n;
    }
    return rc < 0 ? rc : jinja_append(r, b, &quote, 1);
}

static int repr_list(struct jinja_run *r, struct jv v, struct text_buf *b) {
    const struct jv_list *l = v.u.list;
    bool tuple = v.type == JV_TUPLE;
    int rc = put(r, b, tuple ? "(" : "[");
    for (size_t i = 0; i < l->n && rc == 0; i++) {
        if (i) rc = put(r, b, ", ");
        if (rc == 0) rc = jv_repr(r, l->v[i], b);
    }
    return rc < 0 ? rc : put(r, b, tuple ? (l->n == 1 ? ",)" : ")") : "]");
}

static int repr_dict(struct jinja_run *r, const struct jv_dict *d, struct text_buf *b) {
    int rc = put(r, b, "{");
    for (size_t i = 0; i < d->n && rc == 0; i++) {
        if (i) rc = put(r, b, ", ");
        if (rc == 0) rc = jv_repr(r, d->p[i].k, b);
        if (rc == 0) rc = put(r, b, ": ");
        if (rc == 0) rc = jv_repr(r, d->p[i].v, b);
    }
    return rc < 0 ? rc : put(r, b, "}");
}

int jv_repr(struct jinja_run *r, struct jv v, struct text_buf *b) {
    char text[64];
    int rc = jinja_spend(r, 1);
    if (rc == 0 && ++r->depth > JINJA_MAX_DEPTH) rc = jinja_fail(r, ERR_TOO_LARGE, "values nest too deep");
    if (rc < 0) return rc;
    switch (v.type) {
    case JV_UNDEFINED: rc = put(r, b, "Undefined"); break;
    case JV_NONE: rc = put(r, b, "None"); break;
    case JV_BOOL: rc = put(r, b, v.u.b ? "True" : "False"); break;
    case JV_INT:
        snprintf(text, sizeof text, "%lld", (long long)v.u.i);
        rc = put(r, b, text);
        break;
    case JV_FLOAT:
        float_text(v.u.f, text, sizeof text);
        rc = put(r, b, text);
        break;
    case JV_STR:
        if (v.markup) rc = jinja_fail(r, ERR_UNSUPPORTED, "an escaped text inside of a printed value is not supported");
        else rc = repr_text(r, v.u.s, b);
        break;
    case JV_LIST:
    case JV_TUPLE: rc = repr_list(r, v, b); break;
    case JV_DICT: rc = repr_dict(r, v.u.dict, b); break;
    default: rc = jinja_fail(r, ERR_UNSUPPORTED, "a %s as text is not supported", jv_type_name(v));
    }
    r->depth--;
    return rc;
}

int jv_print(struct jinja_run *r, struct jv v, struct text_buf *b) {
    if (v.type == JV_UNDEFINED) return 0;
    if (v.type == JV_STR) return jinja_append(r, b, v.u.s->s, v.u.s->len);
    return jv_repr(r, v, b);
}

int jv_to_str(struct jinja_run *r, struct jv v, struct jv *out) {
    struct text_buf b = {0};
    *out = v;
    if (v.type == JV_STR) return 0;
    int rc = jv_print(r, v, &b);
    if (rc == 0) return jv_take_text(r, &b, out);
    text_buf_clear(&b);
    return rc;
}

/* ---- JSON ---- */

static int json_text(struct jinja_run *r, const struct jv_str *s, bool ascii, struct text_buf *b) {
    int rc = put(r, b, "\"");
    for (size_t i = 0; i < s->len && rc == 0;) {
        size_t plain = i;
        while (plain < s->len && (unsigned char)s->s[plain] >= 0x20 && s->s[plain] != '"' && s->s[plain] != '\\' &&
               !(ascii && (unsigned char)s->s[plain] >= 0x7f))
            plain++;
        rc = jinja_append(r, b, s->s + i, plain - i);
        i = plain;
        if (i == s->len || rc < 0) break;
        uint32_t cp;
        i += (size_t)utf8_next(s->s + i, &cp);
        char e[32];
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *hit = cp < 0x80 && cp ? strchr(from, (int)cp) : NULL;
        if (hit) snprintf(e, sizeof e, "\\%c", to[hit - from]);
        else if (cp < 0x10000) snprintf(e, sizeof e, "\\u%04x", cp);
        else snprintf(e, sizeof e, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + ((cp - 0x10000) & 0x3ff));
        rc = put(r, b, e);
    }
    return rc < 0 ? rc : put(r, b, "\"");
}

static int json_break(struct jinja_run *r, const struct jinja_json *how, int level, struct text_buf *b) {
    int rc = how->indent ? put(r, b, "\n") : 0;
    for (int i = 0; how->indent && i < level && rc == 0; i++) rc = put(r, b, how->indent);
    return rc;
}

static int json_any(struct jinja_run *r, struct jv v, const struct jinja_json *how, int level, struct text_buf *b);

static int json_list(struct jinja_run *r, const struct jv_list *l, const struct jinja_json *how, int level,
                     struct text_buf *b) {
    if (!l->n) return put(r, b, "[]");
    int rc = put(r, b, "[");
    for (size_t i = 0; i < l->n && rc == 0; i++) {
        if (i) rc = jinja_append(r, b, how->comma->s, how->comma->len);
        if (rc == 0) rc = json_break(r, how, level + 1, b);
        if (rc == 0) rc = json_any(r, l->v[i], how, level + 1, b);
    }
    if (rc == 0) rc = json_break(r, how, level, b);
    return rc < 0 ? rc : put(r, b, "]");
}

static int json_key(struct jinja_run *r, struct jv k, const struct jinja_json *how, struct text_buf *b) {
    if (k.type == JV_STR) return json_text(r, k.u.s, how->ascii, b);
    if (k.type != JV_INT && k.type != JV_FLOAT && k.type != JV_BOOL && k.type != JV_NONE)
        return jinja_fail(r, ERR_INVALID, "keys must be str, int, float, bool or None, not %s", jv_type_name(k));
    int rc = put(r, b, "\"");
    if (rc == 0) rc = json_any(r, k, how, 0, b);
    return rc < 0 ? rc : put(r, b, "\"");
}

/* The pairs' order by key: insertion sort into a list of positions is enough for what templates sort. */
static int sorted_pairs(struct jinja_run *r, const struct jv_dict *d, size_t *order) {
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (; at > 0; at--) {
            int c, rc = jv_less(r, d->p[i].k, d->p[order[at - 1]].k, "<", &c);
            if (rc < 0) return rc;
            if (c != -1) break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    return 0;
}

static int json_dict(struct jinja_run *r, const struct jv_dict *d, const struct jinja_json *how, int level,
                     struct text_buf *b) {
    if (!d->n) return put(r, b, "{}");
    size_t *order = jinja_alloc(r, d->n * sizeof *order);
    if (!order) return jinja_oom(r);
    for (size_t i = 0; i < d->n; i++) order[i] = i;
    int rc = how->sort ? sorted_pairs(r, d, order) : 0;
    if (rc == 0) rc = put(r, b, "{");
    for (size_t i = 0; i < d->n && rc == 0; i++) {
        if (i) rc = jinja_append(r, b, how->comma->s, how->comma->len);
        if (rc == 0) rc = json_break(r, how, level + 1, b);
        if (rc == 0) rc = json_key(r, d->p[order[i]].k, how, b);
        if (rc == 0) rc = jinja_append(r, b, how->colon->s, how->colon->len);
        if (rc == 0) rc = json_any(r, d->p[order[i]].v, how, level + 1, b);
    }
    if (rc == 0) rc = json_break(r, how, level, b);
    return rc < 0 ? rc : put(r, b, "}");
}

static int json_any(struct jinja_run *r, struct jv v, const struct jinja_json *how, int level, struct text_buf *b) {
    int rc = jinja_spend(r, 1);
    if (rc == 0 && ++r->depth > JINJA_MAX_DEPTH) rc = jinja_fail(r, ERR_TOO_LARGE, "values nest too deep");
    if (rc < 0) return rc;
    switch (v.type) {
    case JV_NONE: rc = put(r, b, "null"); break;
    case JV_BOOL: rc = put(r, b, v.u.b ? "true" : "false"); break;
    case JV_FLOAT:
        if (isnan(v.u.f) || isinf(v.u.f)) rc = put(r, b, isnan(v.u.f) ? "NaN" : v.u.f < 0 ? "-Infinity" : "Infinity");
        else rc = jv_repr(r, v, b);
        break;
    case JV_INT: rc = jv_repr(r, v, b); break;
    case JV_STR: rc = json_text(r, v.u.s, how->ascii, b); break;
    case JV_LIST:
    case JV_TUPLE: rc = json_list(r, v.u.list, how, level, b); break;
    case JV_DICT: rc = json_dict(r, v.u.dict, how, level, b); break;
    default: rc = jinja_fail(r, ERR_INVALID, "Object of type %s is not JSON serializable", jv_type_name(v));
    }
    r->depth--;
    return rc;
}

int jv_json(struct jinja_run *r, struct jv v, const struct jinja_json *how, struct text_buf *out) {
    return json_any(r, v, how, 0, out);
}
