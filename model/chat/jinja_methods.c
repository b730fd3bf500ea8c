/* jinja_methods.c - methods of texts, lists and dicts. The tables list all that Python 3 has, so that a known name that is not
 * done here is an error, and an unknown one falls through to the items as in Python. */
#include <string.h>
#include <utf8proc.h>

#include "model/chat/jinja.h"
#include "model/text/utf8.h"

static bool listed(const char *const *names, const char *name) {
    for (; *names; names++)
        if (!strcmp(*names, name)) return true;
    return false;
}

enum jinja_member jinja_member_of(struct jv v, const char *name) {
    static const char *const text[] = {
        "capitalize",   "count",        "endswith",   "find",    "format", "index",      "isalnum", "isalpha",
        "isdigit",      "islower",      "isspace",    "isupper", "join",   "lower",      "lstrip",  "partition",
        "removeprefix", "removesuffix", "replace",    "rfind",   "rindex", "rpartition", "rsplit",  "rstrip",
        "split",        "splitlines",   "startswith", "strip",   "title",  "upper",      NULL};
    static const char *const text_unknown[] = {"casefold",  "center",       "encode",    "expandtabs",  "format_map", "isascii",
                                               "isdecimal", "isidentifier", "isnumeric", "isprintable", "istitle",    "ljust",
                                               "maketrans", "rjust",        "swapcase",  "translate",   "zfill",      NULL};
    static const char *const list[] = {"copy", "count", "index", NULL}, *const tuple[] = {"count", "index", NULL};
    static const char *const list_unsafe[] = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort", NULL};
    static const char *const dict[] = {"copy", "get", "items", "keys", "values", NULL}, *const dict_unknown[] = {"fromkeys",
                                                                                                                 NULL};
    static const char *const dict_unsafe[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    static const char *const number[] = {"as_integer_ratio", "bit_count", "bit_length", "conjugate", "denominator",
                                         "from_bytes",       "fromhex",   "hex",        "imag",      "is_integer",
                                         "numerator",        "real",      "to_bytes",   NULL};
    static const char *const iterator[] = {"send",    "throw",        "close",        "gi_frame", "gi_running",
                                           "gi_code", "gi_yieldfrom", "gi_suspended", NULL};
    static const char *const view[] = {"isdisjoint", "mapping", NULL}, *const range[] = {"start", "stop",  "step",
                                                                                         "count", "index", NULL};
    static const char *const macro[] = {"name", "arguments", "catch_kwargs", "catch_varargs", "caller", "explicit_caller",
                                        NULL};
    switch (v.type) {
    case JV_STR: return listed(text, name) ? MEMBER_METHOD : listed(text_unknown, name) ? MEMBER_UNKNOWN : MEMBER_NONE;
    case JV_LIST: return listed(list, name) ? MEMBER_METHOD : listed(list_unsafe, name) ? MEMBER_UNSAFE : MEMBER_NONE;
    case JV_TUPLE: return listed(tuple, name) ? MEMBER_METHOD : MEMBER_NONE;
    case JV_DICT:
        return listed(dict, name)           ? MEMBER_METHOD
               : listed(dict_unsafe, name)  ? MEMBER_UNSAFE
               : listed(dict_unknown, name) ? MEMBER_UNKNOWN
                                            : MEMBER_NONE;
    case JV_BOOL:
    case JV_INT:
    case JV_FLOAT: return listed(number, name) ? MEMBER_UNKNOWN : MEMBER_NONE;
    case JV_ITER: return listed(iterator, name) ? MEMBER_UNKNOWN : MEMBER_NONE;
    case JV_VIEW: return listed(view, name) ? MEMBER_UNKNOWN : MEMBER_NONE;
    case JV_RANGE: return listed(range, name) ? MEMBER_UNKNOWN : MEMBER_NONE;
    case JV_MACRO: return listed(macro, name) ? MEMBER_UNKNOWN : MEMBER_NONE;
    case JV_NONE: return MEMBER_NONE;
    default: return MEMBER_UNKNOWN;
    }
}

static int need_text(struct jinja_run *r, const char *method, struct jv v, struct jv_str **out) {
    int rc = jv_need_defined(r, v);
    if (rc < 0) return rc;
    if (v.type != JV_STR) return jinja_fail(r, ERR_INVALID, "%s() wants a text, not a %s", method, jv_type_name(v));
    *out = v.u.s;
    return 0;
}

static int64_t chars_before(const struct jv_str *s, const char *at) {
    int64_t n = 0;
    for (const char *p = s->s; p < at; p++) n += ((unsigned char)*p & 0xc0) != 0x80;
    return n;
}

static int text_find(struct jinja_run *r, struct jv_str *s, const char *name, struct jv_str *what, struct jv *out) {
    bool last = name[0] == 'r', must = !strcmp(name + last, "index");
    const char *hit = jinja_find_text(s->s, s->len, what->s, what->len, last);
    if (!hit && must) return jinja_fail(r, ERR_INVALID, "substring not found");
    *out = jv_int(hit ? chars_before(s, hit) : -1);
    return jinja_spend(r, s->len);
}

static int text_count(struct jinja_run *r, struct jv_str *s, struct jv_str *what, struct jv *out) {
    int64_t n = 0;
    const char *at = s->s, *end = s->s + s->len;
    if (!what->len) n = (int64_t)jv_chars(s) + 1;
    else
        for (; (at = jinja_find_text(at, (size_t)(end - at), what->s, what->len, false)); at += what->len) n++;
    *out = jv_int(n);
    return jinja_spend(r, s->len);
}

static bool has_end(const struct jv_str *s, const struct jv_str *part, bool suffix) {
    return part->len <= s->len && !memcmp(s->s + (suffix ? s->len - part->len : 0), part->s, part->len);
}

static int text_starts(struct jinja_run *r, struct jv_str *s, const char *name, struct jv what, struct jv *out) {
    bool suffix = name[0] == 'e', yes = false;
    struct jv_str *part = NULL;
    struct jv_list one = {1, &what}, *all = what.type == JV_TUPLE ? what.u.list : &one;
    for (size_t i = 0; i < all->n && !yes; i++) {
        int rc = need_text(r, name, all->v[i], &part);
        if (rc < 0) return rc;
        yes = has_end(s, part, suffix);
    }
    *out = jv_bool(yes);
    return 0;
}

static int text_is(struct jinja_run *r, struct jv_str *s, const char *name, struct jv *out) {
    bool all = s->len > 0;
    for (size_t i = 0; i < s->len && all;) {
        uint32_t cp;
        i += (size_t)utf8_next(s->s + i, &cp);
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
        bool letter = c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO, digit = cp >= '0' && cp <= '9';
        if (cp >= 0x80 && c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO && strcmp(name, "isspace"))
            return jinja_fail(r, ERR_UNSUPPORTED, "%s() of digits beyond ASCII is not supported", name);
        if (!strcmp(name, "isspace")) all = jinja_is_space(cp);
        else if (!strcmp(name, "isdigit")) all = digit;
        else all = letter || (digit && !strcmp(name, "isalnum"));
    }
    *out = jv_bool(all);
    return jinja_spend(r, s->len);
}

static int text_join(struct jinja_run *r, struct jv_str *s, struct jv v, struct jv *out) {
    struct jv_list l;
    struct text_buf b = {0};
    int rc = jv_elements(r, v, &l);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        if (l.v[i].type != JV_STR)
            rc = jinja_fail(r, ERR_INVALID, "sequence item %zu: expected str instance, %s found", i, jv_type_name(l.v[i]));
        if (rc == 0 && i) rc = jinja_append(r, &b, s->s, s->len);
        if (rc == 0) rc = jinja_append(r, &b, l.v[i].u.s->s, l.v[i].u.s->len);
    }
    if (rc == 0) return jv_take_text(r, &b, out);
    text_buf_clear(&b);
    return rc;
}

static int text_partition(struct jinja_run *r, struct jv_str *s, struct jv_str *sep, bool last, struct jv *out) {
    if (!sep->len) return jinja_fail(r, ERR_INVALID, "empty separator");
    const char *hit = jinja_find_text(s->s, s->len, sep->s, sep->len, last);
    size_t at = hit ? (size_t)(hit - s->s) : last ? 0 : s->len, end = hit ? at + sep->len : at;
    int rc = jv_list_new(r, JV_TUPLE, 3, out);
    if (rc == 0) rc = jv_str(r, s->s, at, &out->u.list->v[0]);
    if (rc == 0) rc = jv_str(r, s->s + at, end - at, &out->u.list->v[1]);
    return rc < 0 ? rc : jv_str(r, s->s + end, s->len - end, &out->u.list->v[2]);
}

static int text_split(struct jinja_run *r, struct jv_str *s, const char *name, const struct jinja_args *a, struct jv *out) {
    static const char *const names[] = {"sep", "maxsplit", NULL};
    struct jv v[2];
    bool given[2];
    int64_t max = -1;
    struct jv_str *sep = NULL;
    int rc = jinja_take_args(r, name, a, names, v, given);
    if (rc == 0 && given[1] && !jv_integral(v[1], &max))
        rc = jinja_fail(r, ERR_INVALID, "%s() wants an integer for maxsplit", name);
    if (rc == 0 && given[0] && v[0].type != JV_NONE) rc = need_text(r, name, v[0], &sep);
    return rc < 0 ? rc : jinja_split(r, s, sep, max, name[0] == 'r', out);
}

static int text_strip(struct jinja_run *r, struct jv_str *s, const char *name, const struct jinja_args *a, struct jv *out) {
    struct jv_str *chars = NULL;
    if (a->n > 1 || a->n_keys) return jinja_fail(r, ERR_INVALID, "%s() takes at most one argument", name);
    int rc = a->n && a->v[0].type != JV_NONE ? need_text(r, name, a->v[0], &chars) : 0;
    return rc < 0 ? rc : jinja_strip(r, s, chars, name[0] != 'r', name[0] != 'l', out);
}

static int text_replace(struct jinja_run *r, struct jv_str *s, const struct jinja_args *a, struct jv *out) {
    int64_t max = -1;
    struct jv_str *from = NULL, *to = NULL;
    if (a->n < 2 || a->n > 3 || a->n_keys) return jinja_fail(r, ERR_INVALID, "replace() takes two texts and a count");
    int rc = need_text(r, "replace", a->v[0], &from);
    if (rc == 0) rc = need_text(r, "replace", a->v[1], &to);
    if (rc == 0 && a->n == 3 && !jv_integral(a->v[2], &max))
        rc = jinja_fail(r, ERR_INVALID, "replace() wants an integer as count");
    return rc < 0 ? rc : jinja_replace(r, s, from, to, max, out);
}

static int text_one_argument(struct jinja_run *r, struct jv_str *s, const char *name, struct jv v, struct jv *out) {
    struct jv_str *t = NULL;
    if (!strcmp(name, "startswith") || !strcmp(name, "endswith")) return text_starts(r, s, name, v, out);
    if (!strcmp(name, "join")) return text_join(r, s, v, out);
    int rc = need_text(r, name, v, &t);
    if (rc < 0) return rc;
    if (!strcmp(name, "count")) return text_count(r, s, t, out);
    if (strstr(name, "partition")) return text_partition(r, s, t, name[0] == 'r', out);
    if (!strcmp(name, "removeprefix"))
        return jv_str(r, s->s + (has_end(s, t, false) ? t->len : 0), s->len - (has_end(s, t, false) ? t->len : 0), out);
    if (!strcmp(name, "removesuffix")) return jv_str(r, s->s, s->len - (has_end(s, t, true) ? t->len : 0), out);
    return text_find(r, s, name, t, out);
}

static int text_method(struct jinja_run *r, struct jv self, const char *name, const struct jinja_args *a, struct jv *out) {
    static const char *const no_argument[] = {"capitalize", "isalnum", "isalpha", "isdigit", "islower", "isspace",
                                              "isupper",    "lower",   "title",   "upper",   NULL};
    struct jv_str *s = self.u.s;
    bool yes;
    if (self.markup) return jinja_fail(r, ERR_UNSUPPORTED, "%s() of an escaped text is not supported", name);
    if (!strcmp(name, "split") || !strcmp(name, "rsplit")) return text_split(r, s, name, a, out);
    if (!strcmp(name, "strip") || !strcmp(name, "lstrip") || !strcmp(name, "rstrip")) return text_strip(r, s, name, a, out);
    if (!strcmp(name, "replace")) return text_replace(r, s, a, out);
    if (!strcmp(name, "format")) return jinja_brace(r, s, a, out);
    if (!strcmp(name, "splitlines")) {
        static const char *const names[] = {"keepends", NULL};
        struct jv keep;
        int rc = jinja_take_args(r, name, a, names, &keep, &yes);
        return rc < 0 ? rc : jinja_splitlines(r, s, yes && jv_truth(keep), out);
    }
    int wanted = !listed(no_argument, name);
    if (a->n > wanted && wanted) return jinja_fail(r, ERR_UNSUPPORTED, "%s() with bounds is not supported", name);
    if (a->n != wanted || a->n_keys)
        return jinja_fail(r, ERR_INVALID, "%s() takes %d argument(s), got %d", name, wanted, a->n + a->n_keys);
    if (wanted) return text_one_argument(r, s, name, a->v[0], out);
    if (!strcmp(name, "upper")) return jinja_upper(r, s, out);
    if (!strcmp(name, "lower")) return jinja_lower(r, s, out);
    if (!strcmp(name, "title")) return jinja_title(r, s, false, out);
    if (!strcmp(name, "capitalize")) return jinja_capitalize(r, s, out);
    if (!strcmp(name, "islower") || !strcmp(name, "isupper")) {
        int rc = jinja_test_run(r, jinja_test_find(name + 2, 5), self, a, &yes);
        *out = jv_bool(yes);
        return rc;
    }
    return text_is(r, s, name, out);
}

static int list_method(struct jinja_run *r, struct jv self, const char *name, const struct jinja_args *a, struct jv *out) {
    const struct jv_list *l = self.u.list;
    int64_t count = 0, first = -1;
    if (!strcmp(name, "copy")) {
        *out = self;
        return a->n || a->n_keys ? jinja_fail(r, ERR_INVALID, "copy() takes no arguments") : 0;
    }
    if (a->n != 1 || a->n_keys) return jinja_fail(r, ERR_UNSUPPORTED, "%s() with bounds is not supported", name);
    for (size_t i = 0; i < l->n; i++) {
        bool same;
        int rc = jv_equal(r, l->v[i], a->v[0], &same);
        if (rc < 0) return rc;
        count += same;
        if (same && first < 0) first = (int64_t)i;
    }
    if (!strcmp(name, "index") && first < 0) return jinja_fail(r, ERR_INVALID, "the value is not in the list");
    *out = jv_int(!strcmp(name, "index") ? first : count);
    return 0;
}

static int dict_method(struct jinja_run *r, struct jv self, const char *name, const struct jinja_args *a, struct jv *out) {
    const struct jv_dict *d = self.u.dict;
    const struct jv *found;
    if (!strcmp(name, "get")) {
        if (a->n < 1 || a->n > 2 || a->n_keys) return jinja_fail(r, ERR_INVALID, "get() takes a key and a default");
        int rc = jv_dict_find(r, d, a->v[0], &found);
        *out = rc == 0 && found ? *found : a->n == 2 ? a->v[1] : jv_none();
        return rc;
    }
    if (a->n || a->n_keys) return jinja_fail(r, ERR_INVALID, "%s() takes no arguments", name);
    if (!strcmp(name, "copy")) {
        *out = self;
        return 0;
    }
    int rc = jv_list_new(r, JV_VIEW, d->n, out);
    for (size_t i = 0; i < d->n && rc == 0; i++) {
        struct jv *v = &out->u.list->v[i];
        *v = name[0] == 'k' ? d->p[i].k : d->p[i].v;
        if (name[0] != 'i') continue;
        rc = jv_list_new(r, JV_TUPLE, 2, v);
        if (rc < 0) break;
        v->u.list->v[0] = d->p[i].k;
        v->u.list->v[1] = d->p[i].v;
    }
    return rc;
}

static int loop_method(struct jinja_run *r, struct jinja_loop *loop, const char *name, const struct jinja_args *a,
                       struct jv *out) {
    bool same = false;
    if (a->n_keys) return jinja_fail(r, ERR_INVALID, "loop.%s() takes no keyword arguments", name);
    if (name[1] == 'y') {
        if (!a->n) return jinja_fail(r, ERR_INVALID, "no items for cycling given");
        *out = a->v[loop->index0 % a->n];
        return 0;
    }
    struct jv now;
    int rc = jv_list_new(r, JV_TUPLE, (size_t)a->n, &now);
    if (rc == 0 && a->n) memcpy(now.u.list->v, a->v, (size_t)a->n * sizeof *a->v);
    if (rc == 0 && loop->has_changed) rc = jv_equal(r, loop->changed, now, &same);
    loop->changed = now;
    loop->has_changed = true;
    *out = jv_bool(!same);
    return rc;
}

int jinja_method_call(struct jinja_run *r, struct jv self, const char *name, const struct jinja_args *a, struct jv *out) {
    switch (self.type) {
    case JV_STR: return text_method(r, self, name, a, out);
    case JV_LIST:
    case JV_TUPLE: return list_method(r, self, name, a, out);
    case JV_DICT: return dict_method(r, self, name, a, out);
    case JV_LOOP: return loop_method(r, self.u.loop, name, a, out);
    default: return jinja_fail(r, ERR_UNSUPPORTED, "'%s' of a %s is not supported", name, jv_type_name(self));
    }
}
