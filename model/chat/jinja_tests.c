/* jinja_tests.c - "v is NAME". */
#include <string.h>

#include "model/chat/jinja.h"

#define BIT(type) (1u << (type))

static int is_true(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    (void)r, (void)a;
    *out = v.type == JV_BOOL && v.u.b;
    return 0;
}
static int is_false(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    (void)r, (void)a;
    *out = v.type == JV_BOOL && !v.u.b;
    return 0;
}
static int is_same(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    if (v.type == JV_INT || v.type == JV_FLOAT || v.type == JV_STR || v.type == JV_UNDEFINED)
        return jinja_fail(r, ERR_UNSUPPORTED, "'is sameas' of a %s is not supported", jv_type_name(v));
    *out = v.type == a->type && (v.type == JV_NONE || (v.type == JV_BOOL ? v.u.b == a->u.b : v.u.list == a->u.list));
    return 0;
}

/* Case of ASCII texts; beyond it the Unicode definition of "cased" would be needed. */
static int case_is(struct jinja_run *r, struct jv v, bool upper, bool *out) {
    struct jv t;
    bool cased = false, good = true;
    int rc = jv_to_str(r, v, &t);
    if (rc < 0) return rc;
    for (size_t i = 0; i < t.u.s->len && t.type == JV_STR; i++) {
        char c = t.u.s->s[i];
        if (c & 0x80) return jinja_fail(r, ERR_UNSUPPORTED, "the case of texts beyond ASCII is not supported");
        bool up = c >= 'A' && c <= 'Z', low = c >= 'a' && c <= 'z';
        cased |= up || low;
        good &= upper ? !low : !up;
    }
    *out = cased && good;
    return 0;
}
static int is_lower(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    (void)a;
    return case_is(r, v, false, out);
}
static int is_upper(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    (void)a;
    return case_is(r, v, true, out);
}

static int remainder_is(struct jinja_run *r, struct jv v, struct jv by, int64_t want, bool *out) {
    struct jv m;
    int rc = jinja_binary(r, OP_MOD, v, by, &m);
    return rc < 0 ? rc : jv_equal(r, m, jv_int(want), out);
}
static int is_odd(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    (void)a;
    return remainder_is(r, v, jv_int(2), 1, out);
}
static int is_even(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    (void)a;
    return remainder_is(r, v, jv_int(2), 0, out);
}
static int is_divisible(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return remainder_is(r, v, *a, 0, out);
}

static int is_in(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return jinja_compare(r, OP_IN, v, *a, out);
}
static int is_eq(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return jinja_compare(r, OP_EQ, v, *a, out);
}
static int is_ne(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return jinja_compare(r, OP_NE, v, *a, out);
}
static int is_lt(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return jinja_compare(r, OP_LT, v, *a, out);
}
static int is_le(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return jinja_compare(r, OP_LE, v, *a, out);
}
static int is_gt(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return jinja_compare(r, OP_GT, v, *a, out);
}
static int is_ge(struct jinja_run *r, struct jv v, const struct jv *a, bool *out) {
    return jinja_compare(r, OP_GE, v, *a, out);
}

const struct jinja_test *jinja_test_find(const char *name, size_t len) {
    static const unsigned numbers = BIT(JV_INT) | BIT(JV_FLOAT) | BIT(JV_BOOL);
    static const unsigned sequences =
        BIT(JV_STR) | BIT(JV_LIST) | BIT(JV_TUPLE) | BIT(JV_DICT) | BIT(JV_RANGE) | BIT(JV_UNDEFINED);
    static const unsigned iterables = sequences | BIT(JV_VIEW) | BIT(JV_ITER) | BIT(JV_LOOP);
    static const unsigned callables = BIT(JV_MACRO) | BIT(JV_FUNCTION) | BIT(JV_METHOD) | BIT(JV_LOOP) | BIT(JV_UNDEFINED);
    static const struct jinja_test tests[] = {
        {"defined", 0, ~BIT(JV_UNDEFINED), NULL},
        {"undefined", 0, BIT(JV_UNDEFINED), NULL},
        {"none", 0, BIT(JV_NONE), NULL},
        {"boolean", 0, BIT(JV_BOOL), NULL},
        {"integer", 0, BIT(JV_INT), NULL},
        {"float", 0, BIT(JV_FLOAT), NULL},
        {"number", 0, numbers, NULL},
        {"string", 0, BIT(JV_STR), NULL},
        {"mapping", 0, BIT(JV_DICT), NULL},
        {"sequence", 0, sequences, NULL},
        {"iterable", 0, iterables, NULL},
        {"callable", 0, callables, NULL},
        {"escaped", 0, 0, NULL},
        {"true", 0, 0, is_true},
        {"false", 0, 0, is_false},
        {"sameas", 1, 0, is_same},
        {"lower", 0, 0, is_lower},
        {"upper", 0, 0, is_upper},
        {"odd", 0, 0, is_odd},
        {"even", 0, 0, is_even},
        {"divisibleby", 1, 0, is_divisible},
        {"in", 1, 0, is_in},
        {"eq", 1, 0, is_eq},
        {"equalto", 1, 0, is_eq},
        {"==", 1, 0, is_eq},
        {"ne", 1, 0, is_ne},
        {"!=", 1, 0, is_ne},
        {"lt", 1, 0, is_lt},
        {"lessthan", 1, 0, is_lt},
        {"<", 1, 0, is_lt},
        {"le", 1, 0, is_le},
        {"<=", 1, 0, is_le},
        {"gt", 1, 0, is_gt},
        {"greaterthan", 1, 0, is_gt},
        {">", 1, 0, is_gt},
        {"ge", 1, 0, is_ge},
        {">=", 1, 0, is_ge},
    };
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        if (strlen(tests[i].name) == len && !memcmp(tests[i].name, name, len)) return &tests[i];
    return NULL;
}

int jinja_test_run(struct jinja_run *r, const struct jinja_test *t, struct jv v, const struct jinja_args *a, bool *out) {
    if (a->n_keys) return jinja_fail(r, ERR_UNSUPPORTED, "keyword arguments of the test '%s' are not supported", t->name);
    if (a->n != t->args)
        return jinja_fail(r, ERR_INVALID, "the test '%s' takes %d argument(s), got %d", t->name, t->args, a->n);
    *out = t->types >> v.type & 1;
    if (!strcmp(t->name, "escaped")) *out = v.markup;
    return t->run ? t->run(r, v, a->v, out) : 0;
}
