/* jinja_parse.c - statements to a tree. Every tag of Jinja that is not here is refused by name. */
#include <string.h>

#include "model/chat/jinja.h"

static int statements(struct jinja_parser *p, const char *const *ends, struct jinja_node **out);

static int target(struct jinja_parser *p, bool namespaces, struct jinja_node **out);

static int target_one(struct jinja_parser *p, bool namespaces, struct jinja_node **out) {
    const struct jinja_token *t = p->t;
    struct jinja_node *n, *attr;
    static const char *const constants[] = {"true", "True", "false", "False", "none", "None"};
    for (size_t i = 0; i < 6; i++)
        if (jinja_at(p, constants[i])) return jinja_refuse(p, t->line, ERR_INVALID, "cannot assign to '%s'", constants[i]);
    if (jinja_at(p, "(")) {
        p->t++;
        int rc = target(p, namespaces, out);
        return rc < 0 ? rc : jinja_expect(p, ")");
    }
    int rc = jinja_node_new(p, JN_NAME, &n);
    if (rc == 0) rc = t->type == JT_NAME ? jinja_take_name(p, &n->name) : jinja_unexpected(p, "a name to assign to");
    if (rc < 0) return rc;
    *out = n;
    if (!namespaces || !jinja_at(p, ".")) return 0;
    if ((rc = jinja_node_new(p, JN_ATTR, &attr)) < 0) return rc;
    p->t++;
    attr->a = n;
    *out = attr;
    return jinja_take_name(p, &attr->name);
}

static int target(struct jinja_parser *p, bool namespaces, struct jinja_node **out) {
    struct jinja_node *n, **tail, *item;
    int rc = jinja_enter(p);
    if (rc == 0) rc = target_one(p, namespaces, out);
    if (rc == 0 && jinja_at(p, ",")) {
        if ((rc = jinja_node_new(p, JN_TUPLE, &n)) < 0) return rc;
        tail = &n->list;
        *tail = *out;
        tail = &(*out)->next;
        while (rc == 0 && jinja_skip(p, ",")) {
            if (jinja_at(p, "in") || jinja_at(p, "=") || jinja_at(p, ")")) break;
            rc = target_one(p, namespaces, &item);
            if (rc < 0) break;
            *tail = item;
            tail = &item->next;
        }
        *out = n;
    }
    p->nesting--;
    return rc;
}

static int params(struct jinja_parser *p, struct jinja_node **out) { /* at '(' */
    struct jinja_node **tail = out;
    bool defaults = false;
    int n = 0, rc = jinja_expect(p, "(");
    while (rc == 0 && !jinja_at(p, ")")) {
        struct jinja_node *param;
        if (n && (rc = jinja_expect(p, ",")) < 0) break;
        if (++n > JINJA_MAX_ARGS) return jinja_refuse(p, p->t->line, ERR_TOO_LARGE, "more than %d parameters", JINJA_MAX_ARGS);
        rc = jinja_node_new(p, JN_NAME, &param);
        if (rc == 0) rc = jinja_take_name(p, &param->name);
        if (rc < 0) break;
        if (jinja_skip(p, "=")) {
            rc = jinja_expression(p, &param->a);
            defaults = true;
        } else if (defaults) {
            return jinja_refuse(p, param->line, ERR_INVALID, "a parameter without default behind one with a default");
        }
        *tail = param;
        tail = &param->next;
    }
    return rc < 0 ? rc : jinja_expect(p, ")");
}

static int end_of_tag(struct jinja_parser *p) {
    if (p->t->type != JT_BLOCK_END)
        return jinja_refuse(p, p->t->line, ERR_INVALID, "unexpected '%.*s', wanted the end of the tag",
                            p->t->len > 60 ? 60 : (int)p->t->len, p->t->s);
    p->t++;
    return 0;
}

/* The rest of the tag, then statements up to one of ends (a NULL-terminated list); p->t is then at its name. */
static int body(struct jinja_parser *p, const char *const *ends, struct jinja_node **out) {
    jinja_skip(p, ":"); /* Jinja allows Python's colon */
    int rc = end_of_tag(p);
    return rc < 0 ? rc : statements(p, ends, out);
}

/* Bodies that Jinja compiles to functions or buffers: a break cannot leave them. */
static int closed_body(struct jinja_parser *p, const char *end, struct jinja_node **out) {
    const char *const ends[] = {end, NULL};
    int loops = p->loops;
    p->loops = 0;
    int rc = body(p, ends, out);
    p->loops = loops;
    if (rc == 0) p->t++;
    return rc;
}

static int parse_if(struct jinja_parser *p, struct jinja_node *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    int rc = jinja_tuple(p, false, NULL, &n->a);
    if (rc == 0) rc = body(p, ends, &n->list);
    if (rc < 0) return rc;
    if (jinja_skip(p, "elif")) {
        struct jinja_node *branch;
        rc = jinja_node_new(p, JN_IF, &branch);
        n->c = branch;
        if (rc == 0 && ++p->nesting > 4 * JINJA_MAX_NESTING)
            return jinja_refuse(p, p->t->line, ERR_TOO_LARGE, "nesting too deep");
        rc = rc < 0 ? rc : parse_if(p, branch);
        p->nesting--;
        return rc;
    }
    if (jinja_skip(p, "else")) rc = body(p, last, &n->c);
    p->t++;
    return rc;
}

static int parse_for(struct jinja_parser *p, struct jinja_node *n) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    int rc = target(p, false, &n->a);
    if (rc == 0) rc = jinja_expect(p, "in");
    if (rc == 0) rc = jinja_tuple(p, false, "recursive", &n->b);
    if (rc == 0 && jinja_skip(p, "if")) rc = jinja_expression(p, &n->c);
    if (rc < 0) return rc;
    if (jinja_at(p, "recursive")) return jinja_refuse(p, n->line, ERR_UNSUPPORTED, "recursive loops are not supported");
    p->loops++;
    rc = body(p, ends, &n->list);
    p->loops--;
    if (rc < 0) return rc;
    if (jinja_skip(p, "else")) rc = body(p, last, &n->other);
    p->t++;
    return rc;
}

static int parse_set(struct jinja_parser *p, struct jinja_node *n) {
    int rc = target(p, true, &n->a);
    if (rc < 0) return rc;
    if (jinja_skip(p, "=")) return jinja_tuple(p, true, NULL, &n->b);
    n->kind = JN_SET_BLOCK;
    rc = jinja_filters(p, NULL, &n->b);
    return rc < 0 ? rc : closed_body(p, "endset", &n->list);
}

static int parse_macro(struct jinja_parser *p, struct jinja_node *n) {
    struct jinja_node *name;
    int rc = p->t->type == JT_NAME ? target(p, false, &name) : jinja_refuse(p, n->line, ERR_INVALID, "a macro needs a name");
    if (rc < 0) return rc;
    if (name->kind != JN_NAME) return jinja_refuse(p, n->line, ERR_INVALID, "a macro needs a name");
    n->name = name->name;
    bool outer = p->in_macro, outer_uses = p->uses_caller;
    p->in_macro = true;
    p->uses_caller = false;
    rc = params(p, &n->a);
    if (rc == 0) rc = closed_body(p, "endmacro", &n->list);
    n->op = p->uses_caller;
    p->in_macro = outer;
    p->uses_caller |= outer_uses; /* Jinja counts what nested macros name */
    return rc;
}

static int parse_call(struct jinja_parser *p, struct jinja_node *n) {
    int rc = jinja_at(p, "(") ? params(p, &n->a) : 0;
    if (rc == 0) rc = jinja_expression(p, &n->b);
    if (rc == 0 && n->b->kind != JN_CALL) rc = jinja_refuse(p, n->line, ERR_INVALID, "'call' wants the call of a macro");
    bool outer_uses = p->uses_caller;
    p->uses_caller = false;
    if (rc == 0) rc = closed_body(p, "endcall", &n->list);
    n->op = p->uses_caller;
    p->uses_caller |= outer_uses;
    return rc;
}

static int parse_with(struct jinja_parser *p, struct jinja_node *n) {
    static const char *const ends[] = {"endwith", NULL};
    struct jinja_node **tail = &n->a;
    int rc = 0;
    while (rc == 0 && p->t->type != JT_BLOCK_END) {
        struct jinja_node *set;
        if (n->a && (rc = jinja_expect(p, ",")) < 0) break;
        rc = jinja_node_new(p, JN_SET, &set);
        if (rc < 0) break;
        rc = p->t->type == JT_NAME ? target(p, false, &set->a) : jinja_refuse(p, n->line, ERR_INVALID, "with needs names");
        if (rc == 0) rc = jinja_expect(p, "=");
        if (rc == 0) rc = jinja_expression(p, &set->b);
        *tail = set;
        tail = &set->next;
    }
    if (rc == 0) rc = body(p, ends, &n->list);
    if (rc == 0) p->t++;
    return rc;
}

static int parse_tag(struct jinja_parser *p, struct jinja_node **out) { /* at the tag's name */
    static const struct {
        const char *name;
        enum jinja_kind kind;
        int (*parse)(struct jinja_parser *, struct jinja_node *);
    } tags[] = {{"if", JN_IF, parse_if},           {"for", JN_FOR, parse_for},
                {"set", JN_SET, parse_set},        {"macro", JN_MACRO, parse_macro},
                {"with", JN_WITH, parse_with},     {"break", JN_BREAK, NULL},
                {"continue", JN_CONTINUE, NULL},   {"generation", JN_SCOPE, NULL},
                {"filter", JN_FILTER_BLOCK, NULL}, {"call", JN_CALL_BLOCK, parse_call}};
    const struct jinja_token *t = p->t;
    if (t->type != JT_NAME) return jinja_refuse(p, t->line, ERR_INVALID, "a tag needs a name");
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (!jinja_at(p, tags[i].name)) continue;
        int rc = jinja_node_new(p, tags[i].kind, out);
        if (rc < 0) return rc;
        p->t++;
        if (tags[i].parse) return tags[i].parse(p, *out);
        if (tags[i].kind == JN_SCOPE) return closed_body(p, "endgeneration", &(*out)->list);
        if (tags[i].kind == JN_FILTER_BLOCK) {
            rc = jinja_filter_one(p, NULL, &(*out)->b);
            if (rc == 0) rc = jinja_filters(p, (*out)->b, &(*out)->b);
            return rc < 0 ? rc : closed_body(p, "endfilter", &(*out)->list);
        }
        return p->loops ? 0 : jinja_refuse(p, t->line, ERR_INVALID, "'%s' outside a loop", tags[i].name);
    }
    return jinja_refuse(p, t->line, ERR_UNSUPPORTED, "unknown tag '%.*s'", t->len > 60 ? 60 : (int)t->len, t->s);
}

static int print(struct jinja_parser *p, struct jinja_node **out) { /* behind {{ */
    int rc = jinja_node_new(p, JN_PRINT, out);
    if (rc == 0) rc = jinja_tuple(p, true, NULL, &(*out)->a);
    if (rc < 0) return rc;
    if (p->t->type != JT_PRINT_END)
        return jinja_refuse(p, p->t->line, ERR_INVALID, "unexpected '%.*s', wanted '}}'", p->t->len > 60 ? 60 : (int)p->t->len,
                            p->t->s);
    p->t++;
    return 0;
}

static bool at_one_of(const struct jinja_parser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (jinja_at(p, *ends)) return true;
    return false;
}

/* Up to "{% END": p->t is then at END. ends NULL: up to the end of the template. */
static int statements(struct jinja_parser *p, const char *const *ends, struct jinja_node **out) {
    struct jinja_node **tail = out, *n;
    int opened = p->t->line,
        rc = ++p->nesting > JINJA_MAX_NESTING ? jinja_refuse(p, opened, ERR_TOO_LARGE, "nesting too deep") : 0;
    while (rc == 0) {
        if (p->t->type == JT_END) {
            if (ends)
                rc = jinja_refuse(p, opened, ERR_INVALID, "unexpected end of template: a tag opened here wants '%s'", ends[0]);
            break;
        }
        if (p->t->type == JT_TEXT) {
            rc = jinja_node_new(p, JN_TEXT, &n);
            if (rc < 0) break;
            n->name = arena_alloc(p->arena, sizeof *n->name + p->t->len + 1);
            if (!n->name) return fail(p->why, ERR_NOMEM, "out of memory compiling the chat template");
            n->name->len = p->t->len;
            memcpy(n->name->s, p->t->s, p->t->len);
            p->t++;
        } else if (p->t->type == JT_PRINT_BEGIN) {
            p->t++;
            rc = print(p, &n);
        } else {
            p->t++;
            if (at_one_of(p, ends)) break;
            rc = parse_tag(p, &n);
            if (rc == 0) rc = end_of_tag(p);
        }
        if (rc < 0) break;
        *tail = n;
        tail = &n->next;
    }
    p->nesting--;
    return rc;
}

int jinja_compile(const char *source, size_t len, struct jinja_template *out, struct why *why) {
    struct jinja_token *tokens;
    *out = (struct jinja_template){0};
    arena_init(&out->arena, 64 << 10);
    int rc = jinja_lex(&out->arena, source, len, &tokens, why);
    if (rc < 0) return rc;
    struct jinja_parser p = {.arena = &out->arena, .t = tokens, .why = why};
    rc = statements(&p, NULL, &out->body);
    return rc == 0 && p.unresolved ? jinja_check(out->body, why) : rc;
}

void jinja_clear(struct jinja_template *t) {
    arena_clear(&t->arena);
    t->body = NULL;
}
