/* jinja_math.c - Python's operators on values: 64-bit integers with overflow as an error, floor division and modulo by sign of
 * the divisor, repetition and joining of sequences. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/chat/jinja.h"

static const char *const symbols[] = {
    "+", "-", "*", "/", "//", "%", "** or pow()", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};

static int overflow(struct jinja_run *r) { return jinja_fail(r, ERR_UNSUPPORTED, "integers beyond 64 bits are not supported"); }

static int type_error(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b) {
    int rc = jv_need_defined(r, a);
    if (rc == 0) rc = jv_need_defined(r, b);
    if (rc < 0) return rc;
    if (op == OP_ADD && (a.type == JV_STR || a.type == JV_LIST || a.type == JV_TUPLE))
        return jinja_fail(r, ERR_INVALID, "can only concatenate %s (not \"%s\") to %s", jv_type_name(a), jv_type_name(b),
                          jv_type_name(a));
    return jinja_fail(r, ERR_INVALID, "unsupported operand type(s) for %s: '%s' and '%s'", symbols[op], jv_type_name(a),
                      jv_type_name(b));
}

static int power(struct jinja_run *r, int64_t base, int64_t exp, struct jv *out) {
    int64_t v = 1;
    if (exp < 0) {
        if (!base) return jinja_fail(r, ERR_INVALID, "0.0 cannot be raised to a negative power");
        *out = jv_float(pow((double)base, (double)exp));
        return 0;
    }
    while (exp > 0) {
        if ((exp & 1) && __builtin_mul_overflow(v, base, &v)) return overflow(r);
        exp >>= 1;
        if (exp && __builtin_mul_overflow(base, base, &base)) return overflow(r);
    }
    *out = jv_int(v);
    return 0;
}

static int integers(struct jinja_run *r, enum jinja_op op, int64_t a, int64_t b, struct jv *out) {
    int64_t v = 0;
    bool over = false;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && !b)
        return jinja_fail(r, ERR_INVALID, op == OP_DIV ? "division by zero" : "integer division or modulo by zero");
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &v); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &v); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &v); break;
    case OP_DIV: /* Python divides the integers exactly; beyond 2^53 the doubles would round twice */
        if (llabs(a) >= 1LL << 53 || llabs(b) >= 1LL << 53) return overflow(r);
        *out = jv_float((double)a / (double)b);
        return 0;
    case OP_FLOORDIV:
        if (b == -1) over = __builtin_sub_overflow(0, a, &v);
        else v = a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case OP_MOD: v = b == -1 ? 0 : a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0); break;
    case OP_POW: return power(r, a, b, out);
    default: break;
    }
    if (over) return overflow(r);
    *out = jv_int(v);
    return 0;
}

static int reals(struct jinja_run *r, enum jinja_op op, double a, double b, struct jv *out) {
    double v = 0;
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0)
        return jinja_fail(r, ERR_INVALID,
                          op == OP_DIV   ? "float division by zero"
                          : op == OP_MOD ? "float modulo"
                                         : "float floor division by zero");
    switch (op) {
    case OP_ADD: v = a + b; break;
    case OP_SUB: v = a - b; break;
    case OP_MUL: v = a * b; break;
    case OP_DIV: v = a / b; break;
    case OP_FLOORDIV:
    case OP_MOD: {
        double m = fmod(a, b), d = (a - m) / b;
        if (m != 0 && (b < 0) != (m < 0)) {
            m += b;
            d -= 1;
        }
        if (m == 0) m = copysign(0.0, b);
        double fl = floor(d);
        if (d - fl > 0.5) fl += 1;
        v = op == OP_MOD ? m : d != 0 ? fl : copysign(0.0, a / b);
        break;
    }
    case OP_POW:
        if (a == 0 && b < 0) return jinja_fail(r, ERR_INVALID, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b)) return jinja_fail(r, ERR_UNSUPPORTED, "complex numbers are not supported");
        v = pow(a, b);
        if (isinf(v) && !isinf(a) && !isinf(b)) return jinja_fail(r, ERR_INVALID, "(34, 'Numerical result out of range')");
        break;
    default: break;
    }
    *out = jv_float(v);
    return 0;
}

static int repeat(struct jinja_run *r, struct jv v, int64_t times, struct jv *out) {
    size_t n = v.type == JV_STR ? v.u.s->len : v.u.list->n;
    if (times < 0 || !n) times = 0;
    if (times > JINJA_MAX_TEXT || n * (uint64_t)times > JINJA_MAX_TEXT)
        return jinja_fail(r, ERR_TOO_LARGE, "a repetition of more than %d elements", JINJA_MAX_TEXT);
    int rc;
    if (v.type != JV_STR) {
        rc = jv_list_new(r, v.type, n * (size_t)times, out);
        for (size_t i = 0; rc == 0 && i < out->u.list->n; i++) out->u.list->v[i] = v.u.list->v[i % n];
        return rc;
    }
    struct text_buf b = {0};
    for (rc = 0; times > 0 && rc == 0; times--) rc = jinja_append(r, &b, v.u.s->s, n);
    if (rc == 0) rc = jv_take_text(r, &b, out);
    text_buf_clear(&b);
    out->markup = v.markup;
    return rc;
}

static int join(struct jinja_run *r, struct jv a, struct jv b, struct jv *out) {
    if (a.type == JV_STR) {
        struct text_buf t = {0};
        bool markup = a.markup || b.markup;
        int rc = markup && !a.markup ? jinja_escape(r, a.u.s, &a) : markup && !b.markup ? jinja_escape(r, b.u.s, &b) : 0;
        if (rc == 0) rc = jinja_append(r, &t, a.u.s->s, a.u.s->len);
        if (rc == 0) rc = jinja_append(r, &t, b.u.s->s, b.u.s->len);
        if (rc == 0) rc = jv_take_text(r, &t, out);
        text_buf_clear(&t);
        out->markup = markup;
        return rc;
    }
    size_t n = a.u.list->n, m = b.u.list->n;
    int rc = jv_list_new(r, a.type, n + m, out);
    if (rc < 0) return rc;
    if (n) memcpy(out->u.list->v, a.u.list->v, n * sizeof(struct jv));
    if (m) memcpy(out->u.list->v + n, b.u.list->v, m * sizeof(struct jv));
    return 0;
}

static bool sequence(struct jv v) { return v.type == JV_STR || v.type == JV_LIST || v.type == JV_TUPLE; }

int jinja_binary(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b, struct jv *out) {
    int64_t i = 0, j = 0;
    bool ia = jv_integral(a, &i), ib = jv_integral(b, &j);
    if (ia && ib) return integers(r, op, i, j, out);
    if ((ia || a.type == JV_FLOAT) && (ib || b.type == JV_FLOAT))
        return reals(r, op, ia ? (double)i : a.u.f, ib ? (double)j : b.u.f, out);
    if (op == OP_ADD && a.type == b.type && sequence(a)) return join(r, a, b, out);
    if (op == OP_MUL && ib && sequence(a)) return repeat(r, a, j, out);
    if (op == OP_MUL && ia && sequence(b)) return repeat(r, b, i, out);
    if (op == OP_MOD && a.type == JV_STR && !a.markup && !b.markup) return jinja_format(r, a.u.s, b, out);
    return type_error(r, op, a, b);
}

int jinja_compare(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b, bool *out) {
    int order, rc;
    switch (op) {
    case OP_EQ:
    case OP_NE:
        rc = jv_equal(r, a, b, out);
        *out ^= op == OP_NE;
        return rc;
    case OP_IN:
    case OP_NOT_IN:
        rc = jv_contains(r, b, a, out);
        *out ^= op == OP_NOT_IN;
        return rc;
    default:
        rc = jv_less(r, a, b, symbols[op], &order);
        *out = op == OP_LT   ? order == -1
               : op == OP_LE ? order == -1 || order == 0
               : op == OP_GT ? order == 1
                             : order == 1 || order == 0;
        return rc;
    }
}

int jinja_round(struct jinja_run *r, struct jv v, int64_t digits, struct jv *out) {
    int64_t i;
    if (jv_integral(v, &i)) {
        if (digits < 0) return jinja_fail(r, ERR_UNSUPPORTED, "rounding integers to tens is not supported");
        *out = jv_int(i);
        return 0;
    }
    int rc = jv_need_defined(r, v);
    if (rc < 0) return rc;
    if (v.type != JV_FLOAT) return jinja_fail(r, ERR_INVALID, "type %s doesn't define __round__ method", jv_type_name(v));
    if (digits < 0 || digits > 300)
        return jinja_fail(r, ERR_UNSUPPORTED, "rounding to %lld digits is not supported", (long long)digits);
    char b[700]; /* C rounds the exact decimal value half to even, as Python does */
    snprintf(b, sizeof b, "%.*f", (int)digits, v.u.f);
    *out = jv_float(strtod(b, NULL));
    return 0;
}

int jinja_int_of(struct jinja_run *r, struct jv v, bool *ok, int64_t *out) {
    *ok = jv_integral(v, out);
    if (*ok) return 0;
    int rc = jv_need_defined(r, v);
    if (rc < 0) return rc;
    double f = v.u.f;
    if (v.type == JV_STR) {
        struct jv t;
        rc = jinja_strip(r, v.u.s, NULL, true, true, &t);
        if (rc < 0) return rc;
        const char *s = t.u.s->s;
        char *end;
        size_t digits = strspn(s + (*s == '-' || *s == '+'), "0123456789"), sign = *s == '-' || *s == '+';
        if (strchr(s, '_')) return jinja_fail(r, ERR_UNSUPPORTED, "numbers with underscores in texts are not supported");
        if (digits && sign + digits == t.u.s->len) {
            if (digits > 18) return overflow(r);
            *out = strtoll(s, NULL, 10);
            *ok = true;
            return 0;
        }
        for (const char *p = s; *p; p++)
            if (*p & 0x80) return jinja_fail(r, ERR_UNSUPPORTED, "numbers in texts beyond ASCII are not supported");
        f = strtod(s, &end);
        if (end == s || end != s + t.u.s->len || strpbrk(s, "xXpP(")) return 0;
    } else if (v.type != JV_FLOAT) {
        return 0;
    }
    if (isnan(f) || isinf(f)) return 0;
    if (fabs(f) >= 9.2e18) return overflow(r);
    *out = (int64_t)f;
    *ok = true;
    return 0;
}
