/* jinja_filters_list.c - filters of sequences and mappings. Those that are generators in Jinja give iterators here too (true,
 * no length, used up once), though their elements are made at once. */
#include <string.h>

#include "model/chat/jinja.h"

#define FILTER_ARGS struct jinja_run *r, const struct jinja_filter *f, struct jv v, const struct jinja_args *a, struct jv *out

static int no_args(struct jinja_run *r, const struct jinja_filter *f, const struct jinja_args *a) {
    return a->n || a->n_keys ? jinja_fail(r, ERR_INVALID, "the filter '%s' takes no arguments", f->name) : 0;
}

int jinja_attribute_path(struct jinja_run *r, struct jv v, struct jv path, struct jv *out) {
    *out = v;
    if (path.type != JV_STR) return path.type == JV_NONE ? 0 : jv_getitem(r, v, path, out);
    for (size_t from = 0;; from++) {
        const char *s = path.u.s->s + from, *dot = memchr(s, '.', path.u.s->len - from);
        size_t len = dot ? (size_t)(dot - s) : path.u.s->len - from;
        struct jv part;
        int64_t index = 0;
        bool number = len > 0 && len < 10;
        for (size_t i = 0; i < len && number; i++) {
            number = s[i] >= '0' && s[i] <= '9';
            index = index * 10 + (s[i] - '0');
        }
        int rc = jv_str(r, s, len, &part);
        if (rc == 0) rc = jv_getitem(r, *out, number ? jv_int(index) : part, out);
        if (rc < 0 || !dot) return rc;
        from += len;
    }
}

/* The path of each element, lower-cased unless case matters: what sort, unique, min and max compare by. */
static int key_of(struct jinja_run *r, struct jv v, struct jv path, bool fold, struct jv *out) {
    int rc = jinja_attribute_path(r, v, path, out);
    return rc < 0 || !fold || out->type != JV_STR ? rc : jinja_lower(r, out->u.s, out);
}

static int run_list(FILTER_ARGS) {
    struct jv_list l;
    int rc = no_args(r, f, a);
    if (rc == 0) rc = jv_elements(r, v, &l);
    if (rc == 0) rc = jv_list_new(r, JV_LIST, l.n, out);
    if (rc == 0 && l.n) memcpy(out->u.list->v, l.v, l.n * sizeof *l.v);
    return rc;
}

static int ends_of(FILTER_ARGS) {
    bool last = f->name[0] == 'l';
    struct jv_list l;
    int rc = no_args(r, f, a);
    if (rc < 0) return rc;
    if (v.type == JV_ITER) {
        if (last) return jinja_fail(r, ERR_INVALID, "'generator' object is not reversible");
        struct jv_iter *it = v.u.iter;
        l = (struct jv_list){it->at < it->list.n, it->list.v + it->at};
        it->at += l.n;
    } else {
        rc = jv_elements(r, v, &l);
        if (rc < 0) return rc;
    }
    if (l.n) {
        *out = l.v[last ? l.n - 1 : 0];
        out->markup |= last && v.markup; /* reversed() takes characters by index, and those of markup are markup */
        return 0;
    }
    struct jv_undefined *u = jinja_alloc(r, sizeof *u);
    if (!u) return jinja_oom(r);
    u->hint = last ? "No last item, sequence was empty." : "No first item, sequence was empty.";
    *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
    return 0;
}

static int run_join(FILTER_ARGS) {
    static const char *const names[] = {"d", "attribute", NULL};
    struct jv arg[2], by, x;
    bool given[2];
    struct jv_list l;
    struct text_buf b = {0};
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = given[0] && arg[0].type != JV_UNDEFINED ? jv_to_str(r, arg[0], &by) : jv_str(r, "", 0, &by);
    if (rc == 0) rc = jv_elements(r, v, &l);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        rc = jinja_attribute_path(r, l.v[i], given[1] ? arg[1] : jv_none(), &x);
        if (rc == 0 && i) rc = jinja_append(r, &b, by.u.s->s, by.u.s->len);
        if (rc == 0) rc = jv_print(r, x, &b);
    }
    if (rc == 0) return jv_take_text(r, &b, out);
    text_buf_clear(&b);
    return rc;
}

static int run_reverse(FILTER_ARGS) {
    struct jv bounds[3] = {jv_none(), jv_none(), jv_int(-1)};
    struct jv_list l;
    int rc = no_args(r, f, a);
    if (rc < 0) return rc;
    if (v.type == JV_STR) return jv_slice(r, v, bounds, out);
    rc = jv_elements(r, v, &l);
    if (rc == 0) rc = jv_list_new(r, JV_LIST, l.n, out);
    for (size_t i = 0; rc == 0 && i < l.n; i++) out->u.list->v[i] = l.v[l.n - 1 - i];
    return rc < 0 || v.type == JV_ITER ? rc : jv_iter_new(r, *out->u.list, out);
}

static int pair_list(struct jinja_run *r, const struct jv_dict *d, struct jv *out) {
    int rc = jv_list_new(r, JV_LIST, d->n, out);
    for (size_t i = 0; i < d->n && rc == 0; i++) {
        struct jv *pair = &out->u.list->v[i];
        rc = jv_list_new(r, JV_TUPLE, 2, pair);
        if (rc < 0) break;
        pair->u.list->v[0] = d->p[i].k;
        pair->u.list->v[1] = d->p[i].v;
    }
    return rc;
}

static int run_items(FILTER_ARGS) {
    int rc = no_args(r, f, a);
    if (rc < 0) return rc;
    if (v.type == JV_UNDEFINED) return jv_iter_new(r, (struct jv_list){0}, out);
    if (v.type != JV_DICT) return jinja_fail(r, ERR_INVALID, "Can only get item pairs from a mapping.");
    rc = pair_list(r, v.u.dict, out);
    return rc < 0 ? rc : jv_iter_new(r, *out->u.list, out);
}

/* Stable merge sort of v[n] by key[n]; with spare room for both. */
static int sort_range(struct jinja_run *r, struct jv_pair *v, struct jv_pair *spare, size_t n, bool reverse) {
    if (n < 2) return 0;
    size_t half = n / 2, i = 0, j = half, k = 0;
    int rc = sort_range(r, v, spare, half, reverse);
    if (rc == 0) rc = sort_range(r, v + half, spare, n - half, reverse);
    while (rc == 0 && i < half && j < n) {
        int order;
        rc = reverse ? jv_less(r, v[i].k, v[j].k, "<", &order) : jv_less(r, v[j].k, v[i].k, "<", &order);
        spare[k++] = rc == 0 && order == -1 ? v[j++] : v[i++];
    }
    if (rc < 0) return rc;
    memcpy(spare + k, v + i, (half - i) * sizeof *v); /* what is left of one of them; the right rest is in place */
    memcpy(v, spare, (k + half - i) * sizeof *v);
    return 0;
}

/* Sorts l by the keys in p[i].k; p[i].v is filled here, and there is room for 2 * l.n pairs. */
static int sort_by(struct jinja_run *r, struct jv_list l, struct jv_pair *p, bool reverse, struct jv *out) {
    for (size_t i = 0; i < l.n; i++) p[i].v = l.v[i];
    int rc = sort_range(r, p, p + l.n, l.n, reverse);
    if (rc == 0) rc = jv_list_new(r, JV_LIST, l.n, out);
    for (size_t i = 0; i < l.n && rc == 0; i++) out->u.list->v[i] = p[i].v;
    return rc;
}

/* "a.b,c": one key per attribute, as a list. Jinja compares lists even for one key, so that equal ones need no order. */
static int keys_of(struct jinja_run *r, struct jv v, struct jv paths, bool fold, struct jv *out) {
    struct jv comma, parts;
    int rc = 0;
    if (paths.type == JV_STR) {
        rc = jv_str(r, ",", 1, &comma);
        if (rc == 0) rc = jinja_split(r, paths.u.s, comma.u.s, -1, false, &parts);
    } else {
        rc = jv_list_new(r, JV_LIST, 1, &parts);
        if (rc == 0) parts.u.list->v[0] = paths;
    }
    if (rc == 0) rc = jv_list_new(r, JV_LIST, parts.u.list->n, out);
    for (size_t i = 0; rc == 0 && i < parts.u.list->n; i++) rc = key_of(r, v, parts.u.list->v[i], fold, &out->u.list->v[i]);
    return rc;
}

static int run_sort(FILTER_ARGS) {
    static const char *const names[] = {"reverse", "case_sensitive", "attribute", NULL};
    struct jv arg[3];
    bool given[3];
    struct jv_list l = {0};
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = jv_elements(r, v, &l);
    struct jv_pair *p = jinja_alloc(r, 2 * (l.n + 1) * sizeof *p);
    if (rc == 0 && !p) rc = jinja_oom(r);
    for (size_t i = 0; i < l.n && rc == 0; i++)
        rc = keys_of(r, l.v[i], given[2] ? arg[2] : jv_none(), !(given[1] && jv_truth(arg[1])), &p[i].k);
    return rc < 0 ? rc : sort_by(r, l, p, given[0] && jv_truth(arg[0]), out);
}

static int run_dictsort(FILTER_ARGS) {
    static const char *const names[] = {"case_sensitive", "by", "reverse", NULL};
    struct jv arg[3], pairs;
    bool given[3];
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = jv_need_defined(r, v);
    if (rc == 0 && v.type != JV_DICT) rc = jinja_fail(r, ERR_INVALID, "dictsort wants a mapping, not a %s", jv_type_name(v));
    bool value = given[1] && jv_is_str(arg[1], "value");
    if (rc == 0 && given[1] && !value && !jv_is_str(arg[1], "key"))
        rc = jinja_fail(r, ERR_INVALID, "You can only sort by either \"key\" or \"value\"");
    if (rc == 0) rc = pair_list(r, v.u.dict, &pairs);
    if (rc < 0) return rc;
    struct jv_pair *p = jinja_alloc(r, 2 * (v.u.dict->n + 1) * sizeof *p);
    if (!p) return jinja_oom(r);
    for (size_t i = 0; i < v.u.dict->n && rc == 0; i++)
        rc = key_of(r, pairs.u.list->v[i], jv_int(value), !(given[0] && jv_truth(arg[0])), &p[i].k);
    return rc < 0 ? rc : sort_by(r, *pairs.u.list, p, given[2] && jv_truth(arg[2]), out);
}

static int run_unique(FILTER_ARGS) {
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    struct jv arg[2], seen, key, list;
    bool given[2];
    struct jv_list l;
    size_t n = 0;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = jv_elements(r, v, &l);
    if (rc == 0) rc = jv_dict_new(r, 0, &seen);
    if (rc == 0) rc = jv_list_new(r, JV_LIST, l.n, &list);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        const struct jv *there;
        rc = key_of(r, l.v[i], given[1] ? arg[1] : jv_none(), !(given[0] && jv_truth(arg[0])), &key);
        if (rc == 0) rc = jv_dict_find(r, seen.u.dict, key, &there);
        if (rc < 0 || there) continue;
        list.u.list->v[n++] = l.v[i];
        rc = jv_dict_put(r, seen.u.dict, key, jv_none());
    }
    return rc < 0 ? rc : jv_iter_new(r, (struct jv_list){n, list.u.list->v}, out);
}

static int run_extreme(FILTER_ARGS) { /* min, max: the first among equals */
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    struct jv arg[2], key, best = jv_none();
    bool given[2], max = f->name[1] == 'a';
    struct jv_list l;
    int order, rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = jv_elements(r, v, &l);
    if (rc < 0) return rc;
    if (!l.n) {
        struct jv_undefined *u = jinja_alloc(r, sizeof *u);
        if (!u) return jinja_oom(r);
        u->hint = "No aggregated item, sequence was empty.";
        *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
        return 0;
    }
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        rc = key_of(r, l.v[i], given[1] ? arg[1] : jv_none(), !(given[0] && jv_truth(arg[0])), &key);
        order = -1;
        if (rc == 0 && i) rc = max ? jv_less(r, best, key, ">", &order) : jv_less(r, key, best, "<", &order);
        if (rc < 0 || order != -1) continue;
        best = key;
        *out = l.v[i];
    }
    return rc;
}

static int run_sum(FILTER_ARGS) {
    static const char *const names[] = {"attribute", "start", NULL};
    struct jv arg[2], x;
    bool given[2];
    struct jv_list l;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0) rc = jv_elements(r, v, &l);
    *out = given[1] ? arg[1] : jv_int(0);
    if (rc == 0 && out->type == JV_STR) rc = jinja_fail(r, ERR_INVALID, "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        rc = jinja_attribute_path(r, l.v[i], given[0] ? arg[0] : jv_none(), &x);
        if (rc == 0) rc = jinja_binary(r, OP_ADD, *out, x, out);
    }
    return rc;
}

static int run_map(FILTER_ARGS) {
    struct jv path = jv_none(), fallback = jv_none(), list;
    const struct jinja_filter *each = NULL;
    struct jinja_args rest = *a;
    struct jv_list l = {0};
    int rc = 0;
    if (a->n) {
        if (a->v[0].type == JV_STR) each = jinja_filter_find(a->v[0].u.s->s, a->v[0].u.s->len);
        if (!each) return jinja_fail(r, ERR_UNSUPPORTED, "map by an unknown filter");
        rest.n--;
        rest.v++;
    } else {
        static const char *const names[] = {"attribute", "default", NULL};
        struct jv arg[2];
        bool given[2];
        rc = jinja_take_args(r, f->name, a, names, arg, given);
        if (rc == 0 && !given[0]) rc = jinja_fail(r, ERR_INVALID, "map requires a filter argument");
        path = arg[0];
        if (given[1]) fallback = arg[1];
    }
    if (rc == 0 && jv_truth(v)) rc = jv_elements(r, v, &l);
    if (rc == 0) rc = jv_list_new(r, JV_LIST, l.n, &list);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        struct jv *x = &list.u.list->v[i];
        rc = each ? each->run(r, each, l.v[i], &rest, x) : jinja_attribute_path(r, l.v[i], path, x);
        if (rc == 0 && !each && x->type == JV_UNDEFINED && fallback.type != JV_NONE) *x = fallback;
    }
    return rc < 0 ? rc : jv_iter_new(r, *list.u.list, out);
}

/* select, reject, selectattr, rejectattr */
static int run_select(FILTER_ARGS) {
    bool reject = f->name[0] == 'r', attr = strlen(f->name) > 6;
    struct jv path = jv_none(), list;
    const struct jinja_test *test = NULL;
    struct jinja_args rest = *a;
    struct jv_list l = {0};
    size_t n = 0;
    int rc = 0;
    if (attr) {
        if (!a->n) return jinja_fail(r, ERR_INVALID, "Missing parameter for attribute name");
        path = *rest.v++;
        rest.n--;
    }
    if (rest.n) {
        struct jv name = *rest.v++;
        rest.n--;
        if (name.type == JV_STR) test = jinja_test_find(name.u.s->s, name.u.s->len);
        if (!test) return jinja_fail(r, ERR_UNSUPPORTED, "%s by an unknown test", f->name);
    }
    if (jv_truth(v)) rc = jv_elements(r, v, &l);
    if (rc == 0) rc = jv_list_new(r, JV_LIST, l.n, &list);
    for (size_t i = 0; rc == 0 && i < l.n; i++) {
        struct jv x;
        bool yes = false;
        rc = jinja_attribute_path(r, l.v[i], path, &x);
        if (rc == 0 && test) rc = jinja_test_run(r, test, x, &rest, &yes);
        if (rc == 0 && !test) yes = jv_truth(x);
        if (rc == 0 && yes != reject) list.u.list->v[n++] = l.v[i];
    }
    return rc < 0 ? rc : jv_iter_new(r, (struct jv_list){n, list.u.list->v}, out);
}

static int run_batch(FILTER_ARGS) {
    static const char *const names[] = {"linecount", "fill_with", NULL};
    struct jv arg[2], list;
    bool given[2];
    struct jv_list l;
    int64_t size = 0;
    int rc = jinja_take_args(r, f->name, a, names, arg, given);
    if (rc == 0 && (!given[0] || !jv_integral(arg[0], &size) || size < 1))
        rc = jinja_fail(r, ERR_INVALID, "batch wants a positive size");
    if (rc == 0) rc = jv_elements(r, v, &l);
    if (rc == 0 && size > JINJA_MAX_RANGE) rc = jinja_fail(r, ERR_TOO_LARGE, "batches of more than %d", JINJA_MAX_RANGE);
    bool fill = given[1] && arg[1].type != JV_NONE;
    size_t count = rc == 0 ? (l.n + (size_t)size - 1) / (size_t)size : 0;
    if (rc == 0) rc = jv_list_new(r, JV_LIST, count, &list);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        size_t n = l.n - i * (size_t)size < (size_t)size ? l.n - i * (size_t)size : (size_t)size, all = fill ? (size_t)size : n;
        struct jv *row = &list.u.list->v[i];
        rc = jv_list_new(r, JV_LIST, all, row);
        for (size_t k = 0; rc == 0 && k < all; k++) row->u.list->v[k] = k < n ? l.v[i * (size_t)size + k] : arg[1];
    }
    return rc < 0 ? rc : jv_iter_new(r, *list.u.list, out);
}

const struct jinja_filter *jinja_list_filter_find(const char *name, size_t len) {
    static const struct jinja_filter filters[] = {
        {"list", run_list},         {"first", ends_of},     {"last", ends_of},      {"join", run_join},
        {"reverse", run_reverse},   {"items", run_items},   {"sort", run_sort},     {"dictsort", run_dictsort},
        {"unique", run_unique},     {"min", run_extreme},   {"max", run_extreme},   {"sum", run_sum},
        {"map", run_map},           {"select", run_select}, {"reject", run_select}, {"selectattr", run_select},
        {"rejectattr", run_select}, {"batch", run_batch},
    };
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
        if (strlen(filters[i].name) == len && !memcmp(filters[i].name, name, len)) return &filters[i];
    return NULL;
}
