/* jinja_access.c - v.name, v[key], v[a:b:c], as the sandboxed environment does them. Slices are Python's own, errors and all.
 *
 * v.name prefers what Python objects of that type have (methods), then v["name"]; v[key] the other way round. What is neither
 * is undefined. Methods that would change a value are undefined too, with the sandbox's message. A member that Python has and
 * we lack is an error: guessing could put a wrong text into a prompt. */
#include <string.h>

#include "model/chat/jinja.h"
#include "model/text/utf8.h"

static int unsafe(struct jinja_run *r, struct jv v, const char *name, struct jv *out) {
    struct jv_undefined *u = jinja_alloc(r, sizeof *u);
    struct jv text;
    struct text_buf b = {0};
    if (!u) return jinja_oom(r);
    int rc = jinja_append(r, &b, "access to attribute '", 21);
    if (rc == 0) rc = jinja_append(r, &b, name, strlen(name));
    if (rc == 0) rc = jinja_append(r, &b, "' of '", 6);
    if (rc == 0) rc = jinja_append(r, &b, jv_type_name(v), strlen(jv_type_name(v)));
    if (rc == 0) rc = jinja_append(r, &b, "' object is unsafe.", 19);
    if (rc == 0) rc = jv_str(r, b.data, b.len, &text);
    text_buf_clear(&b);
    if (rc < 0) return rc;
    u->hint = text.u.s->s;
    *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
    return 0;
}

/* Python's getattr. 1 with *out, 0: no such attribute, or an error. */
static int member(struct jinja_run *r, struct jv v, struct jv_str *name, struct jv *out) {
    bool known = false;
    int rc;
    if (name->len >= 4 && !memcmp(name->s, "__", 2) && !memcmp(name->s + name->len - 2, "__", 2)) {
        rc = unsafe(r, v, name->s, out);
        return rc < 0 ? rc : 1;
    }
    if (v.type == JV_LOOP) {
        rc = jinja_loop_attr(r, v.u.loop, name->s, out, &known);
        return rc < 0 ? rc : known;
    }
    if (v.type == JV_NAMESPACE) {
        const struct jv *found = jv_dict_text(v.u.dict, name->s, name->len);
        if (found) *out = *found;
        return found != NULL;
    }
    switch (jinja_member_of(v, name->s)) {
    case MEMBER_NONE: return 0;
    case MEMBER_UNSAFE: rc = unsafe(r, v, name->s, out); return rc < 0 ? rc : 1;
    case MEMBER_UNKNOWN: return jinja_fail(r, ERR_UNSUPPORTED, "'%.60s' of a %s is not supported", name->s, jv_type_name(v));
    case MEMBER_METHOD: break;
    }
    struct jv_method *m = jinja_alloc(r, sizeof *m);
    if (!m) return jinja_oom(r);
    *m = (struct jv_method){v, name->s};
    *out = (struct jv){.type = JV_METHOD, .u.method = m};
    return 1;
}

/* Python's v[key] without slices. 1, 0: TypeError or LookupError, which Jinja turns into undefined; or an error. */
static int item(struct jinja_run *r, struct jv v, struct jv key, struct jv *out) {
    int64_t i, n = 0;
    const struct jv *found;
    if (v.type == JV_DICT) {
        if (key.type == JV_LIST || key.type == JV_DICT) return 0; /* unhashable: a TypeError */
        int rc = jv_dict_find(r, v.u.dict, key, &found);
        if (rc == 0 && found) *out = *found;
        return rc < 0 ? rc : found != NULL;
    }
    if (v.type != JV_LIST && v.type != JV_TUPLE && v.type != JV_STR && v.type != JV_RANGE) return 0;
    if (!jv_integral(key, &i)) return 0;
    int rc = jv_len(r, v, &n);
    if (rc < 0) return rc;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return 0;
    if (v.type == JV_RANGE) {
        *out = jv_int(v.u.range->start + i * v.u.range->step);
    } else if (v.type != JV_STR) {
        *out = v.u.list->v[i];
    } else {
        struct jv_str *s = v.u.s;
        size_t at = 0;
        uint32_t cp;
        if (s->chars == s->len) at = (size_t)i;
        else
            for (; i > 0; i--) at += (size_t)utf8_next(s->s + at, &cp);
        rc = jv_str(r, s->s + at, (size_t)utf8_next(s->s + at, &cp), out);
        out->markup = v.markup;
        if (rc < 0) return rc;
    }
    return 1;
}

int jv_getattr(struct jinja_run *r, struct jv v, struct jv_str *name, struct jv *out) {
    int rc = jv_need_defined(r, v);
    if (rc == 0) rc = member(r, v, name, out);
    if (rc == 0) rc = item(r, v, jv_of_str(name), out);
    return rc != 0 ? (rc < 0 ? rc : 0) : jv_undefined_at(r, v, jv_of_str(name), out);
}

int jv_getitem(struct jinja_run *r, struct jv v, struct jv key, struct jv *out) {
    int rc = jv_need_defined(r, v);
    if (rc == 0) rc = item(r, v, key, out);
    if (rc == 0 && key.type == JV_STR) rc = member(r, v, key.u.s, out);
    return rc != 0 ? (rc < 0 ? rc : 0) : jv_undefined_at(r, v, key, out);
}

/* Python's slice.indices. */
static int bounds_of(struct jinja_run *r, const struct jv b[3], int64_t n, int64_t *start, int64_t *stop, int64_t *step) {
    int64_t v;
    *step = 1;
    for (int i = 0; i < 3; i++)
        if (b[i].type != JV_NONE && !jv_integral(b[i], &v))
            return jinja_fail(r, ERR_INVALID, "slice indices must be integers or None, not %s", jv_type_name(b[i]));
    jv_integral(b[2], step);
    if (!*step) return jinja_fail(r, ERR_INVALID, "slice step cannot be zero");
    if (*step < -INT64_MAX) *step = -INT64_MAX;
    int64_t low = *step < 0 ? -1 : 0, high = *step < 0 ? n - 1 : n;
    *start = *step < 0 ? high : low;
    *stop = *step < 0 ? low : high;
    for (int i = 0; i < 2; i++) {
        if (!jv_integral(b[i], &v)) continue;
        if (v < 0) v = v < -n ? low : v + n < low ? low : v + n;
        else if (v > high) v = high;
        *(i ? stop : start) = v;
    }
    return 0;
}

/* count characters of s from index start in steps. */
static int slice_text(struct jinja_run *r, struct jv_str *s, int64_t start, int64_t step, int64_t count, struct jv *out) {
    size_t n = jv_chars(s), at = 0;
    uint32_t cp, *offset = jinja_alloc(r, (n + 1) * sizeof *offset); /* of each character */
    struct text_buf b = {0};
    if (!offset) return jinja_oom(r);
    for (size_t i = 0; i < n; i++) {
        offset[i] = (uint32_t)at;
        at += (size_t)utf8_next(s->s + at, &cp);
    }
    offset[n] = (uint32_t)at;
    if (step == 1) return jv_str(r, s->s + offset[start], count ? offset[start + count] - offset[start] : 0, out);
    int rc = jinja_spend(r, s->len);
    for (int64_t i = 0; i < count && rc == 0; i++) {
        const uint32_t *o = &offset[start + i * step];
        rc = jinja_append(r, &b, s->s + o[0], o[1] - o[0]);
    }
    if (rc == 0) return jv_take_text(r, &b, out);
    text_buf_clear(&b);
    return rc;
}

static int slice(struct jinja_run *r, struct jv v, const struct jv bounds[3], struct jv *out) {
    int64_t start = 0, stop = 0, step = 1, n = 0;
    int rc = jv_need_defined(r, v);
    if (rc < 0) return rc;
    if (v.type == JV_RANGE) return jinja_fail(r, ERR_UNSUPPORTED, "slices of range() are not supported");
    if (v.type == JV_DICT) return jinja_fail(r, ERR_INVALID, "unhashable type: 'slice'");
    if (v.type != JV_STR && v.type != JV_LIST && v.type != JV_TUPLE)
        return jinja_fail(r, ERR_INVALID, "'%s' object is not subscriptable", jv_type_name(v));
    rc = jv_len(r, v, &n);
    if (rc == 0) rc = bounds_of(r, bounds, n, &start, &stop, &step);
    if (rc < 0) return rc;
    int64_t count =
        step > 0 ? (stop > start ? (stop - start - 1) / step + 1 : 0) : (start > stop ? (start - stop - 1) / -step + 1 : 0);
    if (v.type == JV_STR && step == 1 && v.u.s->chars == v.u.s->len)
        return jv_str(r, v.u.s->s + (count ? start : 0), (size_t)count, out);
    if (v.type == JV_STR) return slice_text(r, v.u.s, count ? start : 0, step, count, out);
    rc = jv_list_new(r, v.type, (size_t)count, out);
    for (int64_t i = 0; i < count && rc == 0; i++) out->u.list->v[i] = v.u.list->v[start + i * step];
    return rc;
}

int jv_slice(struct jinja_run *r, struct jv v, const struct jv bounds[3], struct jv *out) {
    int rc = slice(r, v, bounds, out);
    if (rc == 0) out->markup = v.markup;
    return rc;
}
