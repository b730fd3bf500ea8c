/* jinja_args.c - arguments by position or name into slots, and the functions every template sees: range, namespace, dict,
 * raise_exception, strftime_now. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "model/chat/jinja.h"

int jinja_take_args(struct jinja_run *r, const char *what, const struct jinja_args *a, const char *const *names,
                    struct jv *slot, bool *given) {
    int n = 0;
    for (; names[n]; n++) {
        slot[n] = (struct jv){.type = JV_UNDEFINED};
        given[n] = n < a->n;
        if (n < a->n) slot[n] = a->v[n];
    }
    if (a->n > n) return jinja_fail(r, ERR_INVALID, "%.60s takes at most %d argument(s), got %d", what, n, a->n);
    for (int k = 0; k < a->n_keys; k++) {
        int i = 0;
        while (i < n && strcmp(names[i], a->key[k]->s)) i++;
        if (i == n) return jinja_fail(r, ERR_INVALID, "%.60s has no argument '%.60s'", what, a->key[k]->s);
        if (given[i]) return jinja_fail(r, ERR_INVALID, "%.60s got two values for '%.60s'", what, names[i]);
        slot[i] = a->kv[k];
        given[i] = true;
    }
    return 0;
}

static int run_range(struct jinja_run *r, const struct jinja_args *a, struct jv *out) {
    int64_t v[3] = {0, 0, 1};
    if (a->n_keys) return jinja_fail(r, ERR_INVALID, "range() takes no keyword arguments");
    if (a->n < 1 || a->n > 3) return jinja_fail(r, ERR_INVALID, "range expected 1 to 3 arguments, got %d", a->n);
    for (int i = 0; i < a->n; i++) {
        int rc = jv_need_defined(r, a->v[i]);
        if (rc < 0) return rc;
        if (!jv_integral(a->v[i], &v[a->n == 1 ? 1 : i]))
            return jinja_fail(r, ERR_INVALID, "'%s' object cannot be interpreted as an integer", jv_type_name(a->v[i]));
    }
    if (!v[2]) return jinja_fail(r, ERR_INVALID, "range() arg 3 must not be zero");
    if (v[0] < -(1LL << 60) || v[0] > 1LL << 60 || v[1] < -(1LL << 60) || v[1] > 1LL << 60 || v[2] < -(1LL << 60) ||
        v[2] > 1LL << 60)
        return jinja_fail(r, ERR_TOO_LARGE, "range() with bounds beyond 2^60");
    int64_t n = v[2] > 0 ? (v[1] > v[0] ? (v[1] - v[0] - 1) / v[2] + 1 : 0) : (v[0] > v[1] ? (v[0] - v[1] - 1) / -v[2] + 1 : 0);
    if (n > JINJA_MAX_RANGE) return jinja_fail(r, ERR_TOO_LARGE, "range too big: more than %d elements", JINJA_MAX_RANGE);
    struct jv_range *range = jinja_alloc(r, sizeof *range);
    if (!range) return jinja_oom(r);
    *range = (struct jv_range){v[0], v[2], n};
    *out = (struct jv){.type = JV_RANGE, .u.range = range};
    return 0;
}

static int dict_from(struct jinja_run *r, struct jv from, struct jv_dict *to) {
    struct jv_list pairs, pair;
    int rc = jv_need_defined(r, from);
    if (rc == 0 && from.type == JV_DICT) {
        for (size_t i = 0; i < from.u.dict->n && rc == 0; i++)
            rc = jv_dict_put(r, to, from.u.dict->p[i].k, from.u.dict->p[i].v);
        return rc;
    }
    if (rc == 0) rc = jv_elements(r, from, &pairs);
    for (size_t i = 0; rc == 0 && i < pairs.n; i++) {
        rc = jv_elements(r, pairs.v[i], &pair);
        if (rc == 0 && pair.n != 2)
            rc = jinja_fail(r, ERR_INVALID, "a dictionary is made of pairs, not of %zu elements", pair.n);
        if (rc == 0) rc = jv_dict_put(r, to, pair.v[0], pair.v[1]);
    }
    return rc;
}

static int run_dict(struct jinja_run *r, const struct jinja_args *a, struct jv *out) {
    int rc = jv_dict_new(r, 0, out);
    if (rc == 0 && a->n > 1) rc = jinja_fail(r, ERR_INVALID, "dict expected at most 1 argument, got %d", a->n);
    if (rc == 0 && a->n) rc = dict_from(r, a->v[0], out->u.dict);
    for (int i = 0; i < a->n_keys && rc == 0; i++) rc = jv_dict_put(r, out->u.dict, jv_of_str(a->key[i]), a->kv[i]);
    return rc;
}

static int run_namespace(struct jinja_run *r, const struct jinja_args *a, struct jv *out) {
    int rc = run_dict(r, a, out);
    for (size_t i = 0; rc == 0 && i < out->u.dict->n; i++) {
        struct jv k = out->u.dict->p[i].k;
        if (k.type == JV_STR && k.u.s->s[0] == '_')
            return jinja_fail(r, ERR_INVALID, "a namespace cannot hold '%.60s': it begins with an underscore", k.u.s->s);
    }
    out->type = JV_NAMESPACE;
    return rc;
}

/* The template's own refusal: its words go to the user as they are. */
static int run_raise(struct jinja_run *r, const struct jinja_args *a, struct jv *out) {
    (void)out;
    if (a->n != 1 || a->n_keys) return jinja_fail(r, ERR_INVALID, "raise_exception() takes one argument");
    struct jv text;
    int rc = jv_to_str(r, a->v[0], &text);
    if (rc < 0) return rc;
    return fail(r->why, ERR_INVALID, "%s", text.type == JV_STR ? text.u.s->s : "");
}

static int run_strftime(struct jinja_run *r, const struct jinja_args *a, struct jv *out) {
    if (a->n != 1 || a->n_keys || a->v[0].type != JV_STR) return jinja_fail(r, ERR_INVALID, "strftime_now() takes one text");
    const struct jv_str *f = a->v[0].u.s;
    char format[256], text[1024];
    struct tm tm;
    time_t now = (time_t)r->now;
    size_t n = 0;
    for (size_t i = 0; i < f->len; i++) {
        if (n + 2 >= sizeof format || !f->s[i])
            return jinja_fail(r, ERR_UNSUPPORTED, "strftime_now() with a long or odd format");
        char next = f->s[i] == '%' ? f->s[i + 1] : 0;
        if (f->s[i] == '%' && (!next || strchr("fsEO", next)))
            return jinja_fail(r, ERR_UNSUPPORTED, "strftime_now('%%%c') is not supported", next);
        if (next) i++;
        if (next == 'z' || next == 'Z') continue; /* a time without zone prints neither */
        format[n++] = next ? '%' : f->s[i];
        if (next) format[n++] = next;
    }
    format[n] = '\0';
    if (!gmtime_r(&now, &tm)) return jinja_fail(r, ERR_INVALID, "the time %lld has no date", (long long)r->now);
    n = n ? strftime(text, sizeof text, format, &tm) : 0;
    return jv_str(r, text, n, out);
}

const struct jinja_function *jinja_function_find(const char *name, size_t len) {
    static const struct jinja_function functions[] = {{"range", run_range},
                                                      {"namespace", run_namespace},
                                                      {"dict", run_dict},
                                                      {"raise_exception", run_raise},
                                                      {"strftime_now", run_strftime}};
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (strlen(functions[i].name) == len && !memcmp(functions[i].name, name, len)) return &functions[i];
    return NULL;
}

bool jinja_name_refused(const char *name, size_t len) {
    static const char *const names[] = {"lipsum", "cycler", "joiner", "self"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == len && !memcmp(names[i], name, len)) return true;
    return false;
}
