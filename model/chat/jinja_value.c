/* jinja_value.c - values in a rendering's arena: making them, truth, length, equality, order, membership, iteration.
 *
 * Dicts keep insertion order; beyond eight pairs a hash index finds keys. Keys compare as in Python: 1, 1.0 and true are one
 * key. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "model/chat/jinja.h"
#include "model/text/utf8.h"

enum { INDEX_FROM = 8 };

int jv_str(struct jinja_run *r, const char *s, size_t len, struct jv *out) {
    if (len > JINJA_MAX_TEXT) return jinja_fail(r, ERR_TOO_LARGE, "a text of more than %d bytes", JINJA_MAX_TEXT);
    struct jv_str *t = jinja_alloc(r, sizeof *t + len + 1);
    if (!t) return jinja_oom(r);
    t->len = len;
    t->chars = SIZE_MAX;
    if (len) memcpy(t->s, s, len);
    *out = jv_of_str(t);
    return jinja_spend(r, len);
}

int jv_list_new(struct jinja_run *r, enum jv_type type, size_t n, struct jv *out) {
    struct jv_list *l = jinja_alloc(r, sizeof *l);
    struct jv *v = l && n <= JINJA_MAX_MEMORY / sizeof *v ? jinja_alloc(r, n * sizeof *v) : NULL;
    if (!v) return jinja_oom(r);
    *l = (struct jv_list){n, v};
    *out = (struct jv){.type = type, .u.list = l};
    return jinja_spend(r, n * 16);
}

int jv_iter_new(struct jinja_run *r, struct jv_list list, struct jv *out) {
    struct jv_iter *it = jinja_alloc(r, sizeof *it);
    if (!it) return jinja_oom(r);
    it->list = list;
    *out = (struct jv){.type = JV_ITER, .u.iter = it};
    return 0;
}

int jv_dict_new(struct jinja_run *r, size_t room, struct jv *out) {
    struct jv_dict *d = jinja_alloc(r, sizeof *d);
    if (!d) return jinja_oom(r);
    d->cap = room ? room : 4;
    if (d->cap > JINJA_MAX_MEMORY / sizeof *d->p) return jinja_oom(r);
    d->p = jinja_alloc(r, d->cap * sizeof *d->p);
    if (!d->p) return jinja_oom(r);
    *out = (struct jv){.type = JV_DICT, .u.dict = d};
    return 0;
}

static bool as_number(struct jv v, double *f) {
    int64_t i;
    if (v.type == JV_FLOAT) *f = v.u.f;
    else if (jv_integral(v, &i)) *f = (double)i;
    else return false;
    return true;
}

static int key_hash(struct jinja_run *r, struct jv k, uint64_t *h) {
    double f;
    if (k.type == JV_STR) {
        *h = hash_bytes(k.u.s->s, k.u.s->len);
        return jinja_spend(r, k.u.s->len);
    }
    if (as_number(k, &f)) {
        f += 0.0; /* -0.0 is 0 */
        memcpy(h, &f, sizeof f);
        *h = hash_u64(*h);
        return 0;
    }
    *h = k.type;
    if (k.type == JV_NONE || k.type == JV_UNDEFINED) return 0;
    if (k.type == JV_LIST || k.type == JV_DICT) return jinja_fail(r, ERR_INVALID, "unhashable type: '%s'", jv_type_name(k));
    return jinja_fail(r, ERR_UNSUPPORTED, "a %s as a key is not supported", jv_type_name(k));
}

static int find_pair(struct jinja_run *r, const struct jv_dict *d, struct jv k, uint64_t h, int64_t *at) {
    bool same;
    *at = -1;
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++) {
            int rc = jv_equal(r, d->p[i].k, k, &same);
            if (rc < 0) return rc;
            if (!same) continue;
            *at = (int64_t)i;
            break;
        }
        return 0;
    }
    for (uint32_t i = (uint32_t)h & d->mask; d->index[i]; i = (i + 1) & d->mask) {
        int rc = jv_equal(r, d->p[d->index[i] - 1].k, k, &same);
        if (rc < 0) return rc;
        if (same) {
            *at = d->index[i] - 1;
            return 0;
        }
    }
    return 0;
}

static int reindex(struct jinja_run *r, struct jv_dict *d) {
    uint32_t size = 32;
    while (size < 2 * d->cap) size *= 2;
    d->index = jinja_alloc(r, size * sizeof *d->index);
    if (!d->index) return jinja_oom(r);
    d->mask = size - 1;
    for (size_t k = 0; k < d->n; k++) {
        uint64_t h;
        int rc = key_hash(r, d->p[k].k, &h);
        if (rc < 0) return rc;
        uint32_t i = (uint32_t)h & d->mask;
        while (d->index[i]) i = (i + 1) & d->mask;
        d->index[i] = (uint32_t)k + 1;
    }
    return 0;
}

int jv_dict_put(struct jinja_run *r, struct jv_dict *d, struct jv k, struct jv v) {
    uint64_t h;
    int64_t at;
    int rc = key_hash(r, k, &h);
    if (rc == 0) rc = find_pair(r, d, k, h, &at);
    if (rc < 0) return rc;
    if (at >= 0) {
        d->p[at].v = v;
        return 0;
    }
    if (d->n == d->cap) {
        if (d->cap > JINJA_MAX_MEMORY / sizeof *d->p / 2) return jinja_oom(r);
        struct jv_pair *p = jinja_alloc(r, d->cap * 2 * sizeof *p);
        if (!p) return jinja_oom(r);
        memcpy(p, d->p, d->n * sizeof *p);
        d->p = p;
        d->cap *= 2;
        d->index = NULL;
    }
    d->p[d->n++] = (struct jv_pair){k, v};
    if (d->index) {
        uint32_t i = (uint32_t)h & d->mask;
        while (d->index[i]) i = (i + 1) & d->mask;
        d->index[i] = (uint32_t)d->n;
        return 0;
    }
    return d->n > INDEX_FROM ? reindex(r, d) : 0;
}

int jv_dict_find(struct jinja_run *r, const struct jv_dict *d, struct jv k, const struct jv **out) {
    uint64_t h;
    int64_t at;
    int rc = key_hash(r, k, &h);
    if (rc == 0) rc = find_pair(r, d, k, h, &at);
    *out = rc == 0 && at >= 0 ? &d->p[at].v : NULL;
    return rc;
}

const struct jv *jv_dict_text(const struct jv_dict *d, const char *name, size_t len) {
    uint32_t i = d->index ? (uint32_t)hash_bytes(name, len) & d->mask : 0;
    for (size_t at = 0; d->index ? d->index[i] != 0 : at < d->n; at++, i = (i + 1) & d->mask) {
        const struct jv_pair *p = &d->p[d->index ? d->index[i] - 1 : at];
        if (p->k.type == JV_STR && p->k.u.s->len == len && !memcmp(p->k.u.s->s, name, len)) return &p->v;
    }
    return NULL;
}

const char *jv_type_name(struct jv v) {
    static const char *const names[] = {"Undefined",
                                        "NoneType",
                                        "bool",
                                        "int",
                                        "float",
                                        "str",
                                        "list",
                                        "tuple",
                                        "dict",
                                        "dict view",
                                        "generator",
                                        "range",
                                        "Namespace",
                                        "Macro",
                                        "LoopContext",
                                        "function",
                                        "builtin_function_or_method"};
    return names[v.type];
}

int jv_undefined_at(struct jinja_run *r, struct jv owner, struct jv key, struct jv *out) {
    struct jv_undefined *u = jinja_alloc(r, sizeof *u);
    char name[80];
    if (!u) return jinja_oom(r);
    snprintf(name, sizeof name, owner.type == JV_NONE ? "None" : "%s object", jv_type_name(owner));
    char *kept = jinja_alloc(r, sizeof name);
    if (!kept) return jinja_oom(r);
    memcpy(kept, name, sizeof name);
    u->owner = kept;
    if (key.type == JV_STR) u->name = key.u.s->s;
    *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
    return 0;
}

int jv_need_defined(struct jinja_run *r, struct jv v) {
    if (v.type != JV_UNDEFINED) return 0;
    const struct jv_undefined *u = v.u.undefined;
    if (u && u->hint) return jinja_fail(r, ERR_INVALID, "%.200s", u->hint);
    if (u && u->owner && u->name) return jinja_fail(r, ERR_INVALID, "'%s' has no attribute '%.100s'", u->owner, u->name);
    if (u && u->owner) return jinja_fail(r, ERR_INVALID, "%s has no such element", u->owner);
    return jinja_fail(r, ERR_INVALID, "'%.100s' is undefined", u && u->name ? u->name : "?");
}

bool jv_truth(struct jv v) {
    switch (v.type) {
    case JV_UNDEFINED:
    case JV_NONE: return false;
    case JV_BOOL: return v.u.b;
    case JV_INT: return v.u.i != 0;
    case JV_FLOAT: return v.u.f != 0;
    case JV_STR: return v.u.s->len != 0;
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW: return v.u.list->n != 0;
    case JV_DICT: return v.u.dict->n != 0;
    case JV_RANGE: return v.u.range->n != 0;
    default: return true;
    }
}

size_t jv_chars(struct jv_str *s) {
    if (s->chars != SIZE_MAX) return s->chars;
    size_t n = 0;
    for (size_t i = 0; i < s->len; i++) n += ((unsigned char)s->s[i] & 0xc0) != 0x80;
    return s->chars = n;
}

int jv_len(struct jinja_run *r, struct jv v, int64_t *n) {
    switch (v.type) {
    case JV_UNDEFINED: *n = 0; return 0;
    case JV_STR: *n = (int64_t)jv_chars(v.u.s); return jinja_spend(r, v.u.s->len);
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW: *n = (int64_t)v.u.list->n; return 0;
    case JV_DICT: *n = (int64_t)v.u.dict->n; return 0;
    case JV_RANGE: *n = v.u.range->n; return 0;
    default: return jinja_fail(r, ERR_INVALID, "object of type '%s' has no len()", jv_type_name(v));
    }
}

static int lists_equal(struct jinja_run *r, const struct jv_list *a, const struct jv_list *b, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        int rc = jv_equal(r, a->v[i], b->v[i], out);
        if (rc < 0) return rc;
    }
    return 0;
}

static int dicts_equal(struct jinja_run *r, const struct jv_dict *a, const struct jv_dict *b, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        const struct jv *v;
        int rc = jv_dict_find(r, b, a->p[i].k, &v);
        if (rc < 0) return rc;
        *out = v != NULL;
        if (v && (rc = jv_equal(r, a->p[i].v, *v, out)) < 0) return rc;
    }
    return 0;
}

/* The same object, by address. */
static bool identical(struct jv a, struct jv b) { return a.type == b.type && a.u.list == b.u.list; }

int jv_equal(struct jinja_run *r, struct jv a, struct jv b, bool *out) {
    int64_t i = 0, j = 0;
    double f, g;
    int rc = jinja_spend(r, 1);
    if (rc < 0) return rc;
    if (jv_integral(a, &i) && jv_integral(b, &j)) {
        *out = i == j;
    } else if (as_number(a, &f) &&
               as_number(b, &g)) { /* beyond 2^53 an int and a float differ by more than their doubles may show */
        *out = f == g && (a.type == JV_FLOAT) == (b.type == JV_FLOAT);
        if (f == g && (a.type == JV_FLOAT) != (b.type == JV_FLOAT)) {
            int64_t n = a.type == JV_FLOAT ? (jv_integral(b, &j), j) : (jv_integral(a, &i), i);
            *out = fabs(f) < 9.2e18 && (int64_t)f == n;
        }
    } else if (a.type != b.type) {
        *out = false;
    } else if (a.type == JV_STR) {
        *out = a.u.s->len == b.u.s->len && !memcmp(a.u.s->s, b.u.s->s, a.u.s->len);
        return jinja_spend(r, a.u.s->len);
    } else if (a.type == JV_LIST || a.type == JV_TUPLE) {
        if (++r->depth > JINJA_MAX_DEPTH) return jinja_fail(r, ERR_TOO_LARGE, "values nest too deep");
        rc = lists_equal(r, a.u.list, b.u.list, out);
        r->depth--;
        return rc;
    } else if (a.type == JV_DICT) {
        if (++r->depth > JINJA_MAX_DEPTH) return jinja_fail(r, ERR_TOO_LARGE, "values nest too deep");
        rc = dicts_equal(r, a.u.dict, b.u.dict, out);
        r->depth--;
        return rc;
    } else if (a.type == JV_NONE || a.type == JV_UNDEFINED) {
        *out = true;
    } else if (a.type == JV_RANGE) {
        const struct jv_range *x = a.u.range, *y = b.u.range;
        *out = x->n == y->n && (!x->n || (x->start == y->start && (x->n == 1 || x->step == y->step)));
    } else if (a.type == JV_VIEW && !identical(a, b)) {
        return jinja_fail(r, ERR_UNSUPPORTED, "comparing dict views is not supported");
    } else {
        *out = identical(a, b);
    }
    return 0;
}

int jv_less(struct jinja_run *r, struct jv a, struct jv b, const char *op, int *order) {
    int64_t i = 0, j = 0;
    double f, g;
    int rc = jinja_spend(r, 1);
    if (rc == 0) rc = jv_need_defined(r, a);
    if (rc == 0) rc = jv_need_defined(r, b);
    if (rc < 0) return rc;
    if (jv_integral(a, &i) && jv_integral(b, &j)) {
        *order = i < j ? -1 : i > j;
    } else if (as_number(a, &f) && as_number(b, &g)) {
        *order = f < g ? -1 : f > g ? 1 : f == g ? 0 : 2;
    } else if (a.type == JV_STR && b.type == JV_STR) { /* bytes of UTF-8 sort as code points do */
        size_t n = a.u.s->len < b.u.s->len ? a.u.s->len : b.u.s->len;
        int c = memcmp(a.u.s->s, b.u.s->s, n);
        *order = c ? (c < 0 ? -1 : 1) : a.u.s->len < b.u.s->len ? -1 : a.u.s->len > b.u.s->len;
        return jinja_spend(r, n);
    } else if ((a.type == JV_LIST || a.type == JV_TUPLE) && a.type == b.type) {
        const struct jv_list *x = a.u.list, *y = b.u.list;
        if (++r->depth > JINJA_MAX_DEPTH) return jinja_fail(r, ERR_TOO_LARGE, "values nest too deep");
        bool same = true;
        size_t k = 0;
        for (; k < x->n && k < y->n && same && rc == 0; k++) rc = jv_equal(r, x->v[k], y->v[k], &same);
        *order = x->n < y->n ? -1 : x->n > y->n;
        if (rc == 0 && !same) rc = jv_less(r, x->v[k - 1], y->v[k - 1], op, order);
        r->depth--;
        return rc;
    } else {
        return jinja_fail(r, ERR_INVALID, "'%s' not supported between instances of '%s' and '%s'", op, jv_type_name(a),
                          jv_type_name(b));
    }
    return 0;
}

int jv_contains(struct jinja_run *r, struct jv box, struct jv item, bool *out) {
    const struct jv *v;
    struct jv_list l;
    *out = false;
    if (box.type == JV_STR) {
        int rc = jv_need_defined(r, item);
        if (rc < 0) return rc;
        if (item.type != JV_STR)
            return jinja_fail(r, ERR_INVALID, "'in <string>' requires string as left operand, not %s", jv_type_name(item));
        *out = jinja_find_text(box.u.s->s, box.u.s->len, item.u.s->s, item.u.s->len, false) != NULL;
        return jinja_spend(r, box.u.s->len);
    }
    if (box.type == JV_DICT) {
        int rc = jv_dict_find(r, box.u.dict, item, &v);
        *out = v != NULL;
        return rc;
    }
    if (!jv_iterable(box)) return jinja_fail(r, ERR_INVALID, "argument of type '%s' is not iterable", jv_type_name(box));
    size_t was = box.type == JV_ITER ? box.u.iter->at : 0;
    int rc = jv_elements(r, box, &l);
    for (size_t i = 0; i < l.n && !*out && rc == 0; i++) {
        rc = jv_equal(r, l.v[i], item, out);
        if (box.type == JV_ITER) box.u.iter->at = was + i + 1; /* Python stops at the first hit */
    }
    return rc;
}

bool jv_iterable(struct jv v) {
    switch (v.type) {
    case JV_UNDEFINED:
    case JV_STR:
    case JV_LIST:
    case JV_TUPLE:
    case JV_DICT:
    case JV_VIEW:
    case JV_ITER:
    case JV_RANGE: return true;
    default: return false;
    }
}

static int split_chars(struct jinja_run *r, struct jv_str *s, struct jv_list *out) {
    size_t n = jv_chars(s), at = 0;
    struct jv list = jv_none();
    int rc = jv_list_new(r, JV_LIST, n, &list);
    for (size_t i = 0; i < n && rc == 0; i++) {
        uint32_t cp;
        size_t len = (size_t)utf8_next(s->s + at, &cp);
        rc = jv_str(r, s->s + at, len, &list.u.list->v[i]);
        at += len;
    }
    if (rc == 0) *out = *list.u.list;
    return rc;
}

int jv_elements(struct jinja_run *r, struct jv v, struct jv_list *out) {
    struct jv list = jv_none();
    int rc;
    *out = (struct jv_list){0};
    switch (v.type) {
    case JV_UNDEFINED: return 0;
    case JV_STR: return split_chars(r, v.u.s, out);
    case JV_LIST:
    case JV_TUPLE:
    case JV_VIEW: *out = *v.u.list; return 0;
    case JV_ITER: {
        struct jv_iter *it = v.u.iter;
        *out = (struct jv_list){it->list.n - it->at, it->list.v + it->at};
        it->at = it->list.n;
        return 0;
    }
    case JV_DICT:
        rc = jv_list_new(r, JV_LIST, v.u.dict->n, &list);
        for (size_t i = 0; i < v.u.dict->n && rc == 0; i++) list.u.list->v[i] = v.u.dict->p[i].k;
        break;
    case JV_RANGE:
        rc = jv_list_new(r, JV_LIST, (size_t)v.u.range->n, &list);
        for (int64_t i = 0; i < v.u.range->n && rc == 0; i++)
            list.u.list->v[i] = jv_int(v.u.range->start + i * v.u.range->step);
        break;
    default: return jinja_fail(r, ERR_INVALID, "'%s' object is not iterable", jv_type_name(v));
    }
    if (rc == 0) *out = *list.u.list;
    return rc;
}
