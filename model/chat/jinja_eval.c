/* jinja_eval.c - expressions of the tree to values, and the bounds of a rendering: steps, depth, memory, text. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/jinja.h"

int jinja_fail(struct jinja_run *r, int code, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return fail(r->why, code, "chat template, line %d: %s", r->node ? r->node->line : 0, text);
}

int jinja_spend(struct jinja_run *r, size_t bytes) {
    r->steps += 1 + (int64_t)(bytes / 64);
    return r->steps <= JINJA_MAX_STEPS ? 0 : jinja_fail(r, ERR_TOO_LARGE, "more than %d steps of work", JINJA_MAX_STEPS);
}

void *jinja_alloc(struct jinja_run *r, size_t bytes) {
    if (bytes > JINJA_MAX_MEMORY || r->arena.used + bytes > JINJA_MAX_MEMORY) return NULL;
    void *p = arena_alloc(&r->arena, bytes);
    r->starved |= !p;
    return p;
}

int jinja_oom(struct jinja_run *r) {
    return r->starved ? jinja_fail(r, ERR_NOMEM, "out of memory")
                      : jinja_fail(r, ERR_TOO_LARGE, "more than %d MiB of values", JINJA_MAX_MEMORY >> 20);
}

int jinja_append(struct jinja_run *r, struct text_buf *b, const char *s, size_t len) {
    if (len > JINJA_MAX_TEXT - (b->len < JINJA_MAX_TEXT ? b->len : JINJA_MAX_TEXT))
        return jinja_fail(r, ERR_TOO_LARGE, "a text of more than %d bytes", JINJA_MAX_TEXT);
    if (text_buf_append(b, s, len) < 0) return jinja_fail(r, ERR_NOMEM, "out of memory");
    return jinja_spend(r, len);
}

static int name(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    for (const struct jinja_scope *s = r->scope; s; s = s->up) {
        for (const struct jinja_binding *b = s->first; b; b = b->next) {
            if (b->name->len != n->name->len || memcmp(b->name->s, n->name->s, n->name->len)) continue;
            *out = b->value;
            return 0;
        }
    }
    const struct jinja_function *f = jinja_function_find(n->name->s, n->name->len);
    if (f) {
        *out = (struct jv){.type = JV_FUNCTION, .u.function = f};
        return 0;
    }
    struct jv_undefined *u = jinja_alloc(r, sizeof *u);
    if (!u) return jinja_oom(r);
    u->name = n->name->s;
    *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
    return 0;
}

static int list(struct jinja_run *r, const struct jinja_node *n, enum jv_type type, struct jv *out) {
    size_t count = 0;
    for (const struct jinja_node *i = n->list; i; i = i->next) count++;
    int rc = jv_list_new(r, type, count, out);
    struct jv *v = rc == 0 ? out->u.list->v : NULL;
    for (const struct jinja_node *i = n->list; i && rc == 0; i = i->next) rc = jinja_eval(r, i, v++);
    return rc;
}

static int dict(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv k, v;
    int rc = jv_dict_new(r, 0, out);
    for (const struct jinja_node *i = n->list; i && rc == 0; i = i->next->next) {
        rc = jinja_eval(r, i, &k);
        if (rc == 0) rc = jinja_eval(r, i->next, &v);
        if (rc == 0) rc = jv_dict_put(r, out->u.dict, k, v);
    }
    return rc;
}

static int item(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv v, key;
    int rc = jinja_eval(r, n->a, &v);
    if (rc < 0) return rc;
    if (n->b->kind != JN_SLICE) {
        rc = jinja_eval(r, n->b, &key);
        r->node = n;
        return rc < 0 ? rc : jv_getitem(r, v, key, out);
    }
    struct jv bounds[3];
    const struct jinja_node *b[3] = {n->b->a, n->b->b, n->b->c};
    for (int i = 0; i < 3 && rc == 0; i++) {
        bounds[i] = jv_none();
        if (b[i]) rc = jinja_eval(r, b[i], &bounds[i]);
    }
    return rc < 0 ? rc : jv_slice(r, v, bounds, out);
}

static int add_keyword(struct jinja_run *r, struct jinja_args *a, struct jv_str *key, struct jv v) {
    for (int k = 0; k < a->n_keys; k++)
        if (a->key[k]->len == key->len && !memcmp(a->key[k]->s, key->s, key->len))
            return jinja_fail(r, ERR_INVALID, "keyword argument repeated: %.60s", key->s);
    if (a->n_keys == JINJA_MAX_ARGS) return jinja_fail(r, ERR_TOO_LARGE, "more than %d arguments", JINJA_MAX_ARGS);
    a->key[a->n_keys] = key;
    a->kv[a->n_keys++] = v;
    return 0;
}

static int add_star(struct jinja_run *r, struct jinja_args *a, struct jv v, bool dict) {
    struct jv_list l;
    int rc = jv_need_defined(r, v);
    if (rc < 0) return rc;
    if (dict && v.type != JV_DICT)
        return jinja_fail(r, ERR_INVALID, "argument after ** must be a mapping, not %s", jv_type_name(v));
    for (size_t i = 0; dict && i < v.u.dict->n && rc == 0; i++) {
        struct jv k = v.u.dict->p[i].k;
        rc = k.type == JV_STR ? add_keyword(r, a, k.u.s, v.u.dict->p[i].v)
                              : jinja_fail(r, ERR_INVALID, "keywords must be strings");
    }
    if (dict) return rc;
    if ((rc = jv_elements(r, v, &l)) < 0) return rc;
    if (l.n > (size_t)(JINJA_MAX_ARGS - a->n)) return jinja_fail(r, ERR_TOO_LARGE, "more than %d arguments", JINJA_MAX_ARGS);
    for (size_t i = 0; i < l.n; i++) a->v[a->n++] = l.v[i];
    return 0;
}

static int args(struct jinja_run *r, const struct jinja_node *list, struct jinja_args *out) {
    size_t n = 0, keys = 0;
    int rc = 0;
    *out = (struct jinja_args){0};
    for (const struct jinja_node *i = list; i; i = i->next) {
        if (i->kind == JN_STAR) *(i->op ? &keys : &n) += JINJA_MAX_ARGS; /* room for as many as there may be */
        else ++*(i->kind == JN_KEYWORD ? &keys : &n);
    }
    if (!n && !keys) return 0;
    out->v = jinja_alloc(r, (n + keys) * sizeof *out->v + keys * sizeof *out->key);
    if (!out->v) return jinja_oom(r);
    out->kv = out->v + n;
    out->key = (struct jv_str **)(out->kv + keys);
    for (const struct jinja_node *i = list; i && rc == 0; i = i->next) {
        struct jv v;
        rc = jinja_eval(r, i->kind == JN_KEYWORD || i->kind == JN_STAR ? i->a : i, &v);
        if (rc < 0) break;
        if (i->kind == JN_STAR) rc = add_star(r, out, v, i->op);
        else if (i->kind == JN_KEYWORD) rc = add_keyword(r, out, i->name, v);
        else out->v[out->n++] = v;
    }
    return rc;
}

int jinja_call_with(struct jinja_run *r, const struct jinja_node *n, struct jv_str *key, struct jv v, struct jv *out) {
    struct jv callee;
    struct jinja_args a, more;
    int rc = jinja_eval(r, n->a, &callee);
    if (rc == 0) rc = args(r, n->list, &a);
    if (rc < 0) return rc;
    size_t keys = (size_t)a.n_keys + 1;
    more = a;
    more.kv = jinja_alloc(r, keys * (sizeof *a.kv + sizeof *a.key));
    if (!more.kv) return jinja_oom(r);
    more.key = (struct jv_str **)(more.kv + keys);
    for (int i = 0; i < a.n_keys; i++) {
        more.kv[i] = a.kv[i];
        more.key[i] = a.key[i];
    }
    rc = add_keyword(r, &more, key, v);
    r->node = n;
    return rc < 0 ? rc : jinja_call(r, callee, &more, out);
}

/* A filter or test that nothing knows, where Jinja only asks for it when it gets there (jinja_check.c). */
static int unknown(struct jinja_run *r, const struct jinja_node *n) {
    r->node = n;
    return jinja_fail(r, ERR_UNSUPPORTED, "the %s '%s' is not known", n->kind == JN_FILTER ? "filter" : "test", n->name->s);
}

static int call(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv callee;
    struct jinja_args a;
    int rc = jinja_eval(r, n->a, &callee);
    if (rc == 0) rc = args(r, n->list, &a);
    r->node = n;
    return rc < 0 ? rc : jinja_call(r, callee, &a, out);
}

static int filter(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv v;
    if (!n->filter) return unknown(r, n);
    struct jinja_args a;
    int rc = jinja_eval(r, n->a, &v);
    if (rc == 0) rc = args(r, n->list, &a);
    r->node = n;
    return rc < 0 ? rc : n->filter->run(r, n->filter, v, &a, out);
}

static int test(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv v;
    if (!n->test) return unknown(r, n);
    struct jinja_args a;
    bool yes = false;
    int rc = jinja_eval(r, n->a, &v);
    if (rc == 0) rc = args(r, n->list, &a);
    r->node = n;
    if (rc == 0) rc = jinja_test_run(r, n->test, v, &a, &yes);
    *out = jv_bool(yes);
    return rc;
}

static int compare(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv left, right;
    bool yes = true;
    int rc = jinja_eval(r, n->a, &left);
    for (const struct jinja_node *i = n->list; i && rc == 0 && yes; i = i->next) {
        rc = jinja_eval(r, i->a, &right);
        r->node = i;
        if (rc == 0) rc = jinja_compare(r, (enum jinja_op)i->op, left, right, &yes);
        left = right;
    }
    *out = jv_bool(yes);
    return rc;
}

/* a + b + c + ... of texts in one buffer: prompts are built so, and joining in pairs would copy a long message for every +. */
static int sum(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    int links = 0;
    for (const struct jinja_node *i = n; i->kind == JN_BINARY && i->op == OP_ADD; i = i->a) links++;
    const struct jinja_node **chain = jinja_alloc(r, (size_t)links * sizeof *chain);
    if (!chain) return jinja_oom(r);
    for (int i = 0; i < links; i++, n = n->a) chain[i] = n;
    struct text_buf b = {0};
    bool text = false;
    struct jv v, acc;
    int rc = jinja_eval(r, chain[links - 1]->a, &acc);
    for (int i = links - 1; i >= 0 && rc == 0; i--) {
        rc = jinja_eval(r, chain[i]->b, &v);
        r->node = chain[i];
        if (rc < 0) break;
        if (acc.type == JV_STR && v.type == JV_STR && !acc.markup && !v.markup) { /* acc's text is in b once text is set */
            if (!text) rc = jinja_append(r, &b, acc.u.s->s, acc.u.s->len);
            text = true;
            if (rc == 0) rc = jinja_append(r, &b, v.u.s->s, v.u.s->len);
        } else {
            if (text) rc = jv_take_text(r, &b, &acc);
            text = false;
            if (rc == 0) rc = jinja_binary(r, OP_ADD, acc, v, &acc);
        }
    }
    if (rc == 0 && text) rc = jv_take_text(r, &b, &acc);
    text_buf_clear(&b);
    *out = acc;
    return rc;
}

static int binary(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv a, b;
    if (n->op == OP_ADD) return sum(r, n, out);
    int rc = jinja_eval(r, n->a, &a);
    if (rc == 0) rc = jinja_eval(r, n->b, &b);
    r->node = n;
    return rc < 0 ? rc : jinja_binary(r, (enum jinja_op)n->op, a, b, out);
}

static int concat(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct text_buf b = {0};
    struct jv v;
    int rc = 0;
    for (const struct jinja_node *i = n->list; i && rc == 0; i = i->next) {
        rc = jinja_eval(r, i, &v);
        if (rc == 0) rc = jv_print(r, v, &b);
    }
    if (rc == 0) return jv_take_text(r, &b, out);
    text_buf_clear(&b);
    return rc;
}

static int sign(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    int64_t i;
    int rc = jinja_eval(r, n->a, out);
    if (rc == 0) rc = jv_need_defined(r, *out);
    if (rc < 0) return rc;
    if (out->type == JV_FLOAT) {
        if (n->kind == JN_NEG) out->u.f = -out->u.f;
        return 0;
    }
    if (!jv_integral(*out, &i))
        return jinja_fail(r, ERR_INVALID, "bad operand type for unary %c: '%s'", n->kind == JN_NEG ? '-' : '+',
                          jv_type_name(*out));
    if (n->kind == JN_NEG && __builtin_sub_overflow(0, i, &i))
        return jinja_fail(r, ERR_UNSUPPORTED, "integers beyond 64 bits are not supported");
    *out = jv_int(i);
    return 0;
}

static int condition(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    struct jv v;
    int rc = jinja_eval(r, n->a, &v);
    if (rc < 0) return rc;
    if (jv_truth(v)) return jinja_eval(r, n->b, out);
    if (n->c) return jinja_eval(r, n->c, out);
    struct jv_undefined *u = jinja_alloc(r, sizeof *u);
    if (!u) return jinja_oom(r);
    u->hint = "the inline if-expression evaluated to false and no else section was defined";
    *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
    return 0;
}

static int eval(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    int rc;
    switch (n->kind) {
    case JN_CONST: *out = n->value; return 0;
    case JN_NAME: return name(r, n, out);
    case JN_LIST: return list(r, n, JV_LIST, out);
    case JN_TUPLE: return list(r, n, JV_TUPLE, out);
    case JN_DICT: return dict(r, n, out);
    case JN_ITEM: return item(r, n, out);
    case JN_CALL: return call(r, n, out);
    case JN_FILTER: return filter(r, n, out);
    case JN_TEST: return test(r, n, out);
    case JN_COMPARE: return compare(r, n, out);
    case JN_BINARY: return binary(r, n, out);
    case JN_CONCAT: return concat(r, n, out);
    case JN_COND: return condition(r, n, out);
    case JN_NEG:
    case JN_POS: return sign(r, n, out);
    case JN_ATTR:
        rc = jinja_eval(r, n->a, out);
        r->node = n;
        return rc < 0 ? rc : jv_getattr(r, *out, n->name, out);
    case JN_NOT:
        rc = jinja_eval(r, n->a, out);
        if (rc == 0) *out = jv_bool(!jv_truth(*out));
        return rc;
    case JN_AND:
    case JN_OR:
        rc = jinja_eval(r, n->a, out);
        return rc < 0 || jv_truth(*out) == (n->kind == JN_OR) ? rc : jinja_eval(r, n->b, out);
    default: return jinja_fail(r, ERR_UNSUPPORTED, "an expression that is not one");
    }
}

int jinja_eval(struct jinja_run *r, const struct jinja_node *n, struct jv *out) {
    r->node = n;
    int rc = jinja_spend(r, 0);
    if (rc == 0 && ++r->depth > JINJA_MAX_DEPTH) rc = jinja_fail(r, ERR_TOO_LARGE, "nesting too deep");
    if (rc < 0) return rc;
    struct jv v = jv_none();
    rc = eval(r, n, &v);
    *out = v;
    r->depth--;
    r->node = n;
    return rc;
}
