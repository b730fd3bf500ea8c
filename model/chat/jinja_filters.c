/* jinja_filters.c - "v|NAME(...)": filters of texts and numbers, and the table of all. Those of lists are in
 * jinja_filters_list.c.
 *
 * Markup, which safe and escape make, stays markup through trim, string and slices; other filters of texts refuse it. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "model/chat/jinja.h"

#define FILTER_ARGS struct jinja_run *r, const struct jinja_filter *f, struct jv v, const struct jinja_args *a, struct jv *out

static int no_args(struct jinja_run *r, const struct jinja_filter *f, const struct jinja_args *a) {
    return a->n || a->n_keys ? jinja_fail(r, ERR_INVALID, "the filter '%s' takes no arguments", f->name) : 0;
}

/* str(v): what filters of texts work on. */
static int soft(struct jinja_run *r, struct jv v, struct jv_str **out) {
    struct jv t = jv_none();
    int rc = v.type == JV_UNDEFINED ? jv_str(r, "", 0, &t) : jv_to_str(r, v, &t);
    *out = t.u.s;
    return rc;
}

static int run_case(FILTER_ARGS) {
    struct jv_str *s = NULL;
    int rc = no_args(r, f, a);
    if (rc == 0) rc = soft(r, v, &s);
    if (rc < 0) return rc;
    if (v.markup && f->name[0] != 's')
        return jinja_fail(r, ERR_UNSUPPORTED, "'%s' of an escaped text is not supported", f->name);
    switch (f->name[0]) {
    case 'u': return jinja_upper(r, s, out);
    case 'l': return jinja_lower(r, s, out);
    case 'c': return jinja_capitalize(r, s, out);
    case 't': return jinja_title(r, s, true, out);
    default:
        *out = jv_of_str(s); /* string */
        out->markup = v.markup;
        return 0;
    }
}

static int run_trim(FILTER_ARGS) {
    static const char *const names[] = {"chars", NULL};
    struct jv chars;
    struct jv_str *s = NULL;
    bool given;
    int rc = jinja_take_args(r, f->name, a, names, &chars, &given);
    if (rc == 0) rc = soft(r, v, &s);
    if (rc == 0 && given && chars.type != JV_NONE && chars.type != JV_STR) rc = jinja_fail(r, ERR_INVALID, "trim wants a text");
    if (rc == 0) rc = jinja_strip(r, s, given && chars.type == JV_STR ? chars.u.s : NULL, true, true, out);
    out->markup = v.markup;
    return rc;
}

static int run_replace(FILTER_ARGS) {
    static const char *const names[] = {"old", "new", "count", NULL};
    struct jv arg[3];
    bool given[3];
    struct jv_str *s = NULL, *from = NULL, *to = NULL;
    int64_t max = -1;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0 && !(given[0] && given[1])) rc = jinja_fail(r, ERR_INVALID, "replace wants what and by what");
    if (rc == 0) rc = soft(r, v, &s);
    if (rc == 0) rc = soft(r, arg[0], &from);
    if (rc == 0) rc = soft(r, arg[1], &to);
    if (rc == 0 && given[2] && arg[2].type != JV_NONE && !jv_integral(arg[2], &max))
        rc = jinja_fail(r, ERR_INVALID, "replace wants an integer as count");
    return rc < 0 ? rc : jinja_replace(r, s, from, to, max, out);
}

/* A number of spaces, or a text. */
static int spaces(struct jinja_run *r, struct jv v, int64_t most, struct jv_str **out) {
    int64_t n = 0;
    struct jv space;
    if (v.type == JV_STR) {
        *out = v.u.s;
        return 0;
    }
    if (!jv_integral(v, &n)) return jinja_fail(r, ERR_INVALID, "an indentation wants an integer or a text");
    if (n > most) return jinja_fail(r, ERR_TOO_LARGE, "an indentation of more than %lld", (long long)most);
    int rc = jv_str(r, " ", 1, &space);
    if (rc == 0) rc = jinja_binary(r, OP_MUL, space, jv_int(n), &space);
    *out = space.u.s;
    return rc;
}

static int run_indent(FILTER_ARGS) {
    static const char *const names[] = {"width", "first", "blank", NULL};
    struct jv arg[3];
    bool given[3];
    struct jv_str *by;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = jv_need_defined(r, v);
    if (rc == 0 && v.markup) rc = jinja_fail(r, ERR_UNSUPPORTED, "'indent' of an escaped text is not supported");
    if (rc == 0 && v.type != JV_STR) rc = jinja_fail(r, ERR_INVALID, "indent wants a text, not a %s", jv_type_name(v));
    if (rc == 0) rc = spaces(r, given[0] ? arg[0] : jv_int(4), 1000000, &by);
    return rc < 0 ? rc : jinja_indent(r, v.u.s, by, given[1] && jv_truth(arg[1]), given[2] && jv_truth(arg[2]), out);
}

static int run_default(FILTER_ARGS) {
    static const char *const names[] = {"default_value", "boolean", NULL};
    struct jv arg[2];
    bool given[2];
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc < 0) return rc;
    bool use = v.type == JV_UNDEFINED || (given[1] && jv_truth(arg[1]) && !jv_truth(v));
    *out = v;
    if (use && given[0]) *out = arg[0];
    return use && !given[0] ? jv_str(r, "", 0, out) : 0;
}

static int run_length(FILTER_ARGS) {
    int64_t n = 0;
    int rc = no_args(r, f, a);
    if (rc == 0) rc = jv_len(r, v, &n);
    *out = jv_int(n);
    return rc;
}

static int run_int(FILTER_ARGS) {
    static const char *const names[] = {"default", "base", NULL};
    struct jv arg[2];
    bool given[2], ok = false;
    int64_t i = 0;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0 && given[1] && !(arg[1].type == JV_INT && arg[1].u.i == 10))
        rc = jinja_fail(r, ERR_UNSUPPORTED, "int with a base is not supported");
    if (rc == 0) rc = jinja_int_of(r, v, &ok, &i);
    *out = ok ? jv_int(i) : given[0] ? arg[0] : jv_int(0);
    return rc;
}

static int run_float(FILTER_ARGS) {
    static const char *const names[] = {"default", NULL};
    struct jv arg, t;
    bool given;
    int64_t i;
    int rc = jinja_take_args(r, f->name, a, names, &arg, &given);
    if (rc == 0) rc = jv_need_defined(r, v);
    if (rc < 0) return rc;
    *out = given ? arg : jv_float(0);
    if (v.type == JV_FLOAT) {
        *out = v;
    } else if (jv_integral(v, &i)) {
        *out = jv_float((double)i);
    } else if (v.type == JV_STR) {
        if ((rc = jinja_strip(r, v.u.s, NULL, true, true, &t)) < 0) return rc;
        const char *s = t.u.s->s, *word = s + (*s == '-' || *s == '+');
        bool named = !strcasecmp(word, "inf") || !strcasecmp(word, "infinity") || !strcasecmp(word, "nan");
        for (const char *p = s; *p; p++)
            if (*p & 0x80 || *p == '_') return jinja_fail(r, ERR_UNSUPPORTED, "float of such a text is not supported");
        if (!named && strspn(s, "0123456789+-.eE") != t.u.s->len) return 0;
        char *end;
        double d = strtod(s, &end);
        if (end != s && end == s + t.u.s->len) *out = jv_float(d);
    }
    return 0;
}

static int run_abs(FILTER_ARGS) {
    int64_t i;
    int rc = no_args(r, f, a);
    if (rc == 0) rc = jv_need_defined(r, v);
    if (rc < 0) return rc;
    if (jv_integral(v, &i)) {
        if (i == INT64_MIN) return jinja_fail(r, ERR_UNSUPPORTED, "integers beyond 64 bits are not supported");
        *out = jv_int(i < 0 ? -i : i);
    } else if (v.type == JV_FLOAT) {
        *out = jv_float(v.u.f < 0 || (v.u.f == 0 && 1 / v.u.f < 0) ? -v.u.f : v.u.f);
    } else {
        return jinja_fail(r, ERR_INVALID, "bad operand type for abs(): '%s'", jv_type_name(v));
    }
    return 0;
}

static int run_round(FILTER_ARGS) {
    static const char *const names[] = {"precision", "method", NULL};
    struct jv arg[2];
    bool given[2];
    int64_t digits = 0, scaled;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = jv_need_defined(r, v);
    if (rc == 0 && given[0] && !jv_integral(arg[0], &digits))
        rc = jinja_fail(r, ERR_INVALID, "round wants an integer as precision");
    if (rc < 0) return rc;
    if (!given[1] || jv_is_str(arg[1], "common")) return jinja_round(r, v, digits, out);
    bool up = jv_is_str(arg[1], "ceil");
    if (!up && !jv_is_str(arg[1], "floor")) return jinja_fail(r, ERR_INVALID, "method must be common, ceil or floor");
    if (digits < 0 || digits > 15)
        return jinja_fail(r, ERR_UNSUPPORTED, "rounding to %lld digits is not supported", (long long)digits);
    double power = 1, x = v.type == JV_FLOAT ? v.u.f : 0;
    if (v.type != JV_FLOAT && jv_integral(v, &scaled)) x = (double)scaled;
    else if (v.type != JV_FLOAT) return jinja_fail(r, ERR_INVALID, "round wants a number, not a %s", jv_type_name(v));
    for (int64_t i = 0; i < digits; i++) power *= 10;
    x *= power;
    if (!(x > -9e15 && x < 9e15)) return jinja_fail(r, ERR_UNSUPPORTED, "rounding of large numbers is not supported");
    scaled = (int64_t)x;
    if (up ? (double)scaled < x : (double)scaled > x) scaled += up ? 1 : -1;
    *out = jv_float((double)scaled / power);
    return 0;
}

static int json_separators(struct jinja_run *r, struct jv v, struct jinja_json *how) {
    struct jv_list l;
    if (v.type != JV_TUPLE && v.type != JV_LIST) return jinja_fail(r, ERR_INVALID, "separators must be two texts");
    l = *v.u.list;
    if (l.n != 2 || l.v[0].type != JV_STR || l.v[1].type != JV_STR)
        return jinja_fail(r, ERR_INVALID, "separators must be two texts");
    how->comma = l.v[0].u.s;
    how->colon = l.v[1].u.s;
    return 0;
}

static int run_tojson(FILTER_ARGS) {
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys", NULL};
    struct jv arg[4], comma, colon;
    bool given[4];
    struct jinja_json how = {0};
    struct text_buf b = {0};
    int64_t n = 0;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc < 0) return rc;
    how.ascii = given[0] && jv_truth(arg[0]);
    how.sort = given[3] && jv_truth(arg[3]);
    if (given[1] && arg[1].type != JV_NONE) {
        struct jv_str *by;
        rc = spaces(r, arg[1], 1000, &by);
        if (rc < 0) return rc;
        how.indent = jv_integral(arg[1], &n) && n < 0 ? "" : by->s;
    }
    rc = jv_str(r, how.indent ? "," : ", ", how.indent ? 1 : 2, &comma);
    if (rc == 0) rc = jv_str(r, ": ", 2, &colon);
    if (rc < 0) return rc;
    how.comma = comma.u.s;
    how.colon = colon.u.s;
    if (given[2] && arg[2].type != JV_NONE) rc = json_separators(r, arg[2], &how);
    if (rc == 0) rc = jv_json(r, v, &how, &b);
    if (rc == 0) return jv_take_text(r, &b, out);
    text_buf_clear(&b);
    return rc;
}

static int run_safe(FILTER_ARGS) {
    int rc = no_args(r, f, a);
    if (rc == 0) rc = v.type == JV_UNDEFINED ? jv_str(r, "", 0, out) : jv_to_str(r, v, out);
    out->markup = true;
    return rc;
}

static int run_escape(FILTER_ARGS) {
    struct jv_str *s = NULL;
    int rc = no_args(r, f, a);
    *out = v;
    if (v.markup && f->name[0] != 'f') return rc;
    if (rc == 0) rc = soft(r, v, &s);
    return rc < 0 ? rc : jinja_escape(r, s, out);
}

static int run_format(FILTER_ARGS) {
    struct jv_str *s = NULL;
    struct jv values;
    if (v.markup) return jinja_fail(r, ERR_UNSUPPORTED, "'%s' of an escaped text is not supported", f->name);
    if (a->n && a->n_keys) return jinja_fail(r, ERR_INVALID, "can't handle positional and keyword arguments at the same time");
    int rc = soft(r, v, &s);
    if (rc == 0) rc = a->n_keys ? jv_dict_new(r, (size_t)a->n_keys, &values) : jv_list_new(r, JV_TUPLE, (size_t)a->n, &values);
    for (int i = 0; i < a->n && rc == 0; i++) values.u.list->v[i] = a->v[i];
    for (int i = 0; i < a->n_keys && rc == 0; i++) rc = jv_dict_put(r, values.u.dict, jv_of_str(a->key[i]), a->kv[i]);
    return rc < 0 ? rc : jinja_format(r, s, values, out);
}

const struct jinja_filter *jinja_filter_find(const char *name, size_t len) {
    static const struct jinja_filter filters[] = {
        {"upper", run_case},      {"lower", run_case},    {"capitalize", run_case},
        {"title", run_case},      {"string", run_case},   {"trim", run_trim},
        {"replace", run_replace}, {"indent", run_indent}, {"default", run_default},
        {"d", run_default},       {"length", run_length}, {"count", run_length},
        {"int", run_int},         {"float", run_float},   {"abs", run_abs},
        {"round", run_round},     {"tojson", run_tojson}, {"safe", run_safe},
        {"e", run_escape},        {"escape", run_escape}, {"forceescape", run_escape},
        {"format", run_format},
    };
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (strlen(filters[i].name) == len && !memcmp(filters[i].name, name, len)) return &filters[i];
    return jinja_list_filter_find(name, len);
}
