/* jinja_exec.c - statements, loops, macros, names.
 *
 * Names live in scopes: a loop's body gets a new one for every turn (so an assignment does not outlive it), as do macros, with,
 * and the blocks that Jinja compiles to functions; if does not. A macro sees the scope it was defined in, as it is when
 * called. */
#include <stdio.h>
#include <string.h>

#include "model/chat/jinja.h"

static struct jinja_scope *scope_new(struct jinja_run *r, struct jinja_scope *up) {
    struct jinja_scope *s = jinja_alloc(r, sizeof *s);
    if (s) s->up = up;
    return s;
}

int jinja_bind(struct jinja_run *r, struct jinja_scope *scope, struct jv_str *name, struct jv v) {
    for (struct jinja_binding *b = scope->first; b; b = b->next) {
        if (b->name->len != name->len || memcmp(b->name->s, name->s, name->len)) continue;
        b->value = v;
        return 0;
    }
    struct jinja_binding *b = jinja_alloc(r, sizeof *b);
    if (!b) return jinja_oom(r);
    *b = (struct jinja_binding){name, v, scope->first};
    scope->first = b;
    return 0;
}

static int assign_attr(struct jinja_run *r, const struct jinja_node *target, struct jv v) {
    struct jv ns;
    int rc = jinja_eval(r, target->a, &ns);
    r->node = target;
    if (rc < 0) return rc;
    if (ns.type != JV_NAMESPACE) return jinja_fail(r, ERR_INVALID, "cannot assign attribute on non-namespace object");
    if (target->name->s[0] == '_')
        return jinja_fail(r, ERR_INVALID, "a namespace cannot hold '%.60s': it begins with an underscore", target->name->s);
    return jv_dict_put(r, ns.u.dict, jv_of_str(target->name), v);
}

int jinja_assign(struct jinja_run *r, const struct jinja_node *target, struct jv v) {
    if (target->kind == JN_NAME) return jinja_bind(r, r->scope, target->name, v);
    if (target->kind == JN_ATTR) return assign_attr(r, target, v);
    struct jv_list l;
    size_t wanted = 0;
    for (const struct jinja_node *i = target->list; i; i = i->next) wanted++;
    if (!jv_iterable(v)) return jinja_fail(r, ERR_INVALID, "cannot unpack non-iterable %s object", jv_type_name(v));
    int rc = jv_elements(r, v, &l);
    if (rc == 0 && l.n > wanted) rc = jinja_fail(r, ERR_INVALID, "too many values to unpack (expected %zu)", wanted);
    if (rc == 0 && l.n < wanted)
        rc = jinja_fail(r, ERR_INVALID, "not enough values to unpack (expected %zu, got %zu)", wanted, l.n);
    size_t k = 0;
    for (const struct jinja_node *i = target->list; i && rc == 0; i = i->next) rc = jinja_assign(r, i, l.v[k++]);
    return rc;
}

/* ---- loops ---- */

/* The next item that passes the loop's condition. Conditions are asked as late as Jinja does: a body may change their
 * answer. */
static int fetch(struct jinja_run *r, struct jinja_loop *loop, struct jv *item, bool *more) {
    const struct jinja_node *node = loop->node;
    for (*more = false; loop->at < loop->items.n;) {
        struct jv yes = jv_bool(true);
        *item = loop->items.v[loop->at++];
        int rc = jinja_spend(r, 0);
        if (rc == 0 && node->c) {
            struct jinja_scope *saved = r->scope;
            r->scope = scope_new(r, loop->scope);
            if (!r->scope) rc = jinja_oom(r);
            if (rc == 0) rc = jinja_assign(r, node->a, *item);
            if (rc == 0) rc = jinja_eval(r, node->c, &yes);
            r->scope = saved;
        }
        if (rc < 0) return rc;
        if (!jv_truth(yes)) continue;
        *more = true;
        return 0;
    }
    return 0;
}

static int peek(struct jinja_run *r, struct jinja_loop *loop) {
    bool more;
    if (loop->peeked || loop->ended) return 0;
    int rc = fetch(r, loop, &loop->after, &more);
    if (rc < 0) return rc;
    loop->peeked = more;
    loop->ended = !more;
    return 0;
}

int jinja_loop_next(struct jinja_run *r, struct jinja_loop *loop, struct jv *item, bool *more) {
    int rc = peek(r, loop);
    if (rc < 0) return rc;
    *more = loop->peeked;
    if (!*more) return 0;
    loop->peeked = false;
    loop->index0++;
    loop->before = loop->current;
    loop->current = *item = loop->after;
    return 0;
}

static int loop_length(struct jinja_run *r, struct jinja_loop *loop, int64_t *n) {
    if (!loop->sized) { /* fetch all the rest now */
        struct jv list;
        bool more = true;
        size_t k = 0;
        int rc = jv_list_new(r, JV_LIST, loop->items.n - loop->at, &list);
        while (rc == 0 && (rc = fetch(r, loop, &list.u.list->v[k], &more)) == 0 && more) k++;
        if (rc < 0) return rc;
        struct jinja_node *plain = jinja_alloc(r, sizeof *plain);
        if (!plain) return jinja_oom(r);
        *plain = *loop->node;
        plain->c = NULL;
        loop->node = plain;
        /* items seen so far count too: leave their number in front of what is left */
        struct jv all;
        size_t seen = (size_t)loop->index0 + 1 + loop->peeked;
        rc = jv_list_new(r, JV_LIST, seen + k, &all);
        if (rc < 0) return rc;
        if (k) memcpy(all.u.list->v + seen, list.u.list->v, k * sizeof(struct jv));
        loop->items = *all.u.list;
        loop->at = seen;
        loop->sized = true;
    }
    *n = (int64_t)loop->items.n;
    return 0;
}

static int no_item(struct jinja_run *r, const char *hint, struct jv *out) {
    struct jv_undefined *u = jinja_alloc(r, sizeof *u);
    if (!u) return jinja_oom(r);
    u->hint = hint;
    *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
    return 0;
}

int jinja_loop_attr(struct jinja_run *r, struct jinja_loop *loop, const char *name, struct jv *out, bool *known) {
    int64_t n = 0;
    int rc = 0;
    *known = true;
    if (!strcmp(name, "index")) *out = jv_int(loop->index0 + 1);
    else if (!strcmp(name, "index0")) *out = jv_int(loop->index0);
    else if (!strcmp(name, "first")) *out = jv_bool(loop->index0 == 0);
    else if (!strcmp(name, "depth")) *out = jv_int(loop->depth0 + 1);
    else if (!strcmp(name, "depth0")) *out = jv_int(loop->depth0);
    else if (!strcmp(name, "last")) {
        rc = peek(r, loop);
        *out = jv_bool(!loop->peeked);
    } else if (!strcmp(name, "length") || !strcmp(name, "revindex") || !strcmp(name, "revindex0")) {
        rc = loop_length(r, loop, &n);
        *out = jv_int(name[0] == 'l' ? n : n - loop->index0 - (name[8] == '0'));
    } else if (!strcmp(name, "previtem")) {
        if (loop->index0 == 0) return no_item(r, "there is no previous item", out);
        *out = loop->before;
    } else if (!strcmp(name, "nextitem")) {
        rc = peek(r, loop);
        if (rc == 0 && !loop->peeked) return no_item(r, "there is no next item", out);
        *out = loop->after;
    } else if (!strcmp(name, "cycle") || !strcmp(name, "changed")) {
        struct jv_method *m = jinja_alloc(r, sizeof *m);
        if (!m) return jinja_oom(r);
        *m = (struct jv_method){{.type = JV_LOOP, .u.loop = loop}, name[1] == 'y' ? "cycle" : "changed"};
        *out = (struct jv){.type = JV_METHOD, .u.method = m};
    } else {
        *known = false;
    }
    return rc;
}

static int exec_for(struct jinja_run *r, const struct jinja_node *n, int *flow) {
    struct jv iterable, item;
    struct jinja_scope *outer = r->scope;
    int rc = jinja_eval(r, n->b, &iterable);
    if (rc < 0) return rc;
    struct jinja_loop *loop = jinja_alloc(r, sizeof *loop);
    if (!loop) return jinja_oom(r);
    *loop = (struct jinja_loop){.node = n, .scope = outer, .index0 = -1, .sized = !n->c && iterable.type != JV_ITER};
    rc = jv_elements(r, iterable, &loop->items);
    bool more = true, any = false; /* any: a turn of the body came to its end */
    while (rc == 0 && (rc = jinja_loop_next(r, loop, &item, &more)) == 0 && more) {
        r->scope = scope_new(r, outer);
        if (!r->scope) rc = jinja_oom(r);
        if (rc == 0) rc = jinja_assign(r, n->a, item);
        if (rc == 0) rc = jinja_bind(r, r->scope, r->loop_name, (struct jv){.type = JV_LOOP, .u.loop = loop});
        int inner = 0;
        if (rc == 0) rc = jinja_exec(r, n->list, &inner);
        if (!inner) any = true;
        if (inner == JN_BREAK) break;
    }
    if (rc == 0 && !any && n->other) { /* as Jinja has it: also when each turn was cut short */
        r->scope = scope_new(r, outer);
        rc = r->scope ? jinja_exec(r, n->other, flow) : jinja_oom(r);
    }
    r->scope = outer;
    return rc;
}

/* ---- blocks and macros ---- */

/* Statements in a scope of their own, their output as a value. */
static int captured(struct jinja_run *r, struct jinja_scope *scope, const struct jinja_node *list, struct jv *out) {
    struct text_buf text = {0}, *outer = r->out;
    struct jinja_scope *saved = r->scope;
    int flow = 0;
    r->out = &text;
    r->scope = scope;
    int rc = jinja_exec(r, list, &flow);
    r->out = outer;
    r->scope = saved;
    if (rc == 0) return jv_take_text(r, &text, out);
    text_buf_clear(&text);
    return rc;
}

static int apply_filters(struct jinja_run *r, const struct jinja_node *chain, struct jv *v) {
    if (!chain) return 0;
    int rc = apply_filters(r, chain->a, v);
    if (rc < 0) return rc;
    struct jinja_node *constant = jinja_alloc(r, sizeof *constant), *call = jinja_alloc(r, sizeof *call);
    if (!constant || !call) return jinja_oom(r);
    *constant = (struct jinja_node){.kind = JN_CONST, .line = chain->line, .value = *v};
    *call = *chain;
    call->a = constant;
    return jinja_eval(r, call, v);
}

static int exec_block(struct jinja_run *r, const struct jinja_node *n) { /* SET_BLOCK, FILTER_BLOCK, SCOPE */
    struct jinja_scope *scope = scope_new(r, r->scope);
    struct jv text;
    int rc = scope ? captured(r, scope, n->list, &text) : jinja_oom(r);
    if (rc == 0 && n->b) rc = apply_filters(r, n->b, &text);
    if (rc < 0) return rc;
    return n->kind == JN_SET_BLOCK ? jinja_assign(r, n->a, text) : jv_print(r, text, r->out);
}

static int exec_with(struct jinja_run *r, const struct jinja_node *n, int *flow) {
    struct jinja_scope *outer = r->scope, *inner = scope_new(r, outer);
    int rc = inner ? 0 : jinja_oom(r);
    for (const struct jinja_node *set = n->a; set && rc == 0; set = set->next) { /* values see the scope outside */
        struct jv v;
        rc = jinja_eval(r, set->b, &v);
        if (rc < 0) break;
        r->scope = inner;
        rc = jinja_assign(r, set->a, v);
        r->scope = outer;
    }
    r->scope = inner;
    if (rc == 0) rc = jinja_exec(r, n->list, flow);
    r->scope = outer;
    return rc;
}

static int bind_param(struct jinja_run *r, const struct jinja_node *p, const struct jinja_args *a, int at, int *used,
                      struct jv *out) {
    if (at < a->n) {
        *out = a->v[at];
        return 0;
    }
    for (int k = 0; k < a->n_keys; k++) {
        if (a->key[k]->len != p->name->len || memcmp(a->key[k]->s, p->name->s, p->name->len)) continue;
        ++*used;
        *out = a->kv[k];
        return 0;
    }
    if (p->a) return jinja_eval(r, p->a, out);
    struct jv_undefined *u = jinja_alloc(r, sizeof *u);
    if (!u) return jinja_oom(r);
    char *hint = jinja_alloc(r, 128);
    if (!hint) return jinja_oom(r);
    snprintf(hint, 128, "parameter '%.60s' was not provided", p->name->s);
    u->hint = hint;
    *out = (struct jv){.type = JV_UNDEFINED, .u.undefined = u};
    return 0;
}

/* What {% call %} hands to a macro that asks for it. */
static int bind_caller(struct jinja_run *r, struct jinja_scope *scope, const struct jinja_args *a, int *used) {
    struct jv v;
    for (int k = 0; k < a->n_keys; k++) {
        if (strcmp(a->key[k]->s, "caller")) continue;
        ++*used;
        return jinja_bind(r, scope, r->caller_name, a->kv[k]);
    }
    int rc = no_item(r, "No caller defined", &v);
    return rc < 0 ? rc : jinja_bind(r, scope, r->caller_name, v);
}

static int call_macro(struct jinja_run *r, const struct jinja_macro *m, const struct jinja_args *a, struct jv *out) {
    const struct jinja_node *n = m->node;
    struct jinja_scope *scope = scope_new(r, m->scope), *saved = r->scope;
    int rc = scope ? 0 : jinja_oom(r), at = 0, used = 0;
    if (rc == 0 && r->macro_depth >= JINJA_MAX_MACRO_DEPTH)
        return jinja_fail(r, ERR_TOO_LARGE, "recursion: macros call each other more than %d deep", JINJA_MAX_MACRO_DEPTH);
    r->macro_depth++;
    r->scope = scope; /* defaults may use the parameters before them */
    for (const struct jinja_node *p = n->a; p && rc == 0; p = p->next) {
        struct jv v;
        rc = bind_param(r, p, a, at++, &used, &v);
        if (rc == 0) rc = jinja_bind(r, scope, p->name, v);
    }
    r->scope = saved;
    if (rc == 0 && n->op) rc = bind_caller(r, scope, a, &used);
    if (rc == 0 && a->n > at)
        rc =
            jinja_fail(r, ERR_INVALID, "macro '%.60s' takes not more than %d argument(s)", n->name ? n->name->s : "caller", at);
    if (rc == 0 && used < a->n_keys)
        rc = jinja_fail(r, ERR_INVALID, "macro '%.60s' takes no such keyword argument", n->name ? n->name->s : "caller");
    if (rc == 0) rc = captured(r, scope, n->list, out);
    r->macro_depth--;
    return rc;
}

int jinja_call(struct jinja_run *r, struct jv callee, const struct jinja_args *args, struct jv *out) {
    int rc = jv_need_defined(r, callee);
    if (rc < 0) return rc;
    switch (callee.type) {
    case JV_MACRO: return call_macro(r, callee.u.macro, args, out);
    case JV_FUNCTION: return callee.u.function->run(r, args, out);
    case JV_METHOD: return jinja_method_call(r, callee.u.method->self, callee.u.method->name, args, out);
    default: return jinja_fail(r, ERR_INVALID, "'%s' object is not callable", jv_type_name(callee));
    }
}

static int define_macro(struct jinja_run *r, const struct jinja_node *n) {
    struct jinja_macro *m = jinja_alloc(r, sizeof *m);
    if (!m) return jinja_oom(r);
    *m = (struct jinja_macro){n, r->scope};
    return jinja_bind(r, r->scope, n->name, (struct jv){.type = JV_MACRO, .u.macro = m});
}

static int exec_call(struct jinja_run *r, const struct jinja_node *n) {
    struct jinja_macro *m = jinja_alloc(r, sizeof *m);
    struct jv v;
    if (!m) return jinja_oom(r);
    *m = (struct jinja_macro){n, r->scope};
    int rc = jinja_call_with(r, n->b, r->caller_name, (struct jv){.type = JV_MACRO, .u.macro = m}, &v);
    return rc < 0 ? rc : jv_print(r, v, r->out);
}

static int exec_one(struct jinja_run *r, const struct jinja_node *n, int *flow) {
    struct jv v;
    int rc;
    switch (n->kind) {
    case JN_TEXT: return jinja_append(r, r->out, n->name->s, n->name->len);
    case JN_PRINT: rc = jinja_eval(r, n->a, &v); return rc < 0 ? rc : jv_print(r, v, r->out);
    case JN_IF: rc = jinja_eval(r, n->a, &v); return rc < 0 ? rc : jinja_exec(r, jv_truth(v) ? n->list : n->c, flow);
    case JN_FOR: return exec_for(r, n, flow);
    case JN_SET: rc = jinja_eval(r, n->b, &v); return rc < 0 ? rc : jinja_assign(r, n->a, v);
    case JN_SET_BLOCK:
    case JN_FILTER_BLOCK:
    case JN_SCOPE: return exec_block(r, n);
    case JN_WITH: return exec_with(r, n, flow);
    case JN_MACRO: return define_macro(r, n);
    case JN_CALL_BLOCK: return exec_call(r, n);
    case JN_BREAK:
    case JN_CONTINUE: *flow = (int)n->kind; return 0;
    default: return jinja_fail(r, ERR_UNSUPPORTED, "a statement that is not one");
    }
}

int jinja_exec(struct jinja_run *r, const struct jinja_node *list, int *flow) {
    if (++r->depth > JINJA_MAX_DEPTH) return jinja_fail(r, ERR_TOO_LARGE, "nesting too deep");
    int rc = 0;
    for (const struct jinja_node *n = list; n && rc == 0 && !*flow; n = n->next) {
        r->node = n;
        rc = jinja_spend(r, 0);
        if (rc == 0) rc = exec_one(r, n, flow);
    }
    r->depth--;
    return rc;
}
