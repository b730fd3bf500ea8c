/* jinja_expr.c - expressions to a tree, by Jinja's own precedence: condition, or, and, not, comparison, + -, ~, * / // %, **,
 * sign, then postfix (.name, [..], calls) and, last, filters and tests. Names of filters and tests are resolved here, so that
 * an unknown one is an error at load. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/chat/jinja.h"

int jinja_refuse(struct jinja_parser *p, int line, int code, const char *fmt, ...) {
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return fail(p->why, code, "chat template, line %d: %s", line, text);
}

int jinja_node_new(struct jinja_parser *p, enum jinja_kind kind, struct jinja_node **out) {
    struct jinja_node *n = *out = arena_alloc(p->arena, sizeof *n);
    if (!n) return fail(p->why, ERR_NOMEM, "out of memory compiling the chat template");
    n->kind = kind;
    n->line = p->t->line;
    return 0;
}

static bool is_token(const struct jinja_token *t, const char *what) {
    return (t->type == JT_OP || t->type == JT_NAME) && strlen(what) == t->len && !memcmp(t->s, what, t->len);
}

bool jinja_at(const struct jinja_parser *p, const char *what) { return is_token(p->t, what); }

bool jinja_skip(struct jinja_parser *p, const char *what) {
    if (!jinja_at(p, what)) return false;
    p->t++;
    return true;
}

int jinja_unexpected(struct jinja_parser *p, const char *wanted) {
    const struct jinja_token *t = p->t;
    if (t->type == JT_END) return jinja_refuse(p, t->line, ERR_INVALID, "unexpected end of template, wanted %s", wanted);
    if (t->type == JT_PRINT_END || t->type == JT_BLOCK_END)
        return jinja_refuse(p, t->line, ERR_INVALID, "unexpected end of tag, wanted %s", wanted);
    return jinja_refuse(p, t->line, ERR_INVALID, "unexpected '%.*s', wanted %s", t->len > 60 ? 60 : (int)t->len, t->s, wanted);
}

int jinja_expect(struct jinja_parser *p, const char *what) {
    char quoted[40];
    snprintf(quoted, sizeof quoted, "'%s'", what);
    return jinja_skip(p, what) ? 0 : jinja_unexpected(p, quoted);
}

int jinja_take_name(struct jinja_parser *p, struct jv_str **out) {
    if (p->t->type != JT_NAME) return jinja_unexpected(p, "a name");
    struct jv_str *s = arena_alloc(p->arena, sizeof *s + p->t->len + 1);
    if (!s) return fail(p->why, ERR_NOMEM, "out of memory compiling the chat template");
    s->len = s->chars = p->t->len;
    memcpy(s->s, p->t->s, s->len);
    *out = s;
    p->t++;
    return 0;
}

int jinja_enter(struct jinja_parser *p) {
    if (++p->nesting > JINJA_MAX_NESTING) return jinja_refuse(p, p->t->line, ERR_TOO_LARGE, "nesting too deep");
    return 0;
}

/* Appends to a list through *tail. */
static void append(struct jinja_node ***tail, struct jinja_node *n) {
    **tail = n;
    *tail = &n->next;
}

static int or_expression(struct jinja_parser *p, struct jinja_node **out);
static int postfix(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out);

int jinja_expression(struct jinja_parser *p, struct jinja_node **out) {
    int rc = jinja_enter(p);
    if (rc == 0) rc = or_expression(p, out);
    while (rc == 0 && jinja_at(p, "if")) {
        struct jinja_node *n;
        if ((rc = jinja_node_new(p, JN_COND, &n)) < 0) break;
        p->t++;
        n->b = *out;
        rc = or_expression(p, &n->a);
        if (rc == 0 && jinja_skip(p, "else")) rc = jinja_expression(p, &n->c);
        *out = n;
    }
    p->nesting--;
    return rc;
}

/* Behind '(' of a call: positions, then keywords. */
static int call_args(struct jinja_parser *p, struct jinja_node **list) {
    struct jinja_node **tail = list;
    bool keywords = false;
    int line = p->t->line, n = 0, stars = 0; /* stars: 1 behind *list, 2 behind **dict */
    while (!jinja_at(p, ")")) {
        int rc = n ? jinja_expect(p, ",") : 0;
        if (rc < 0) return rc;
        if (n && jinja_at(p, ")")) break;
        if (++n > JINJA_MAX_ARGS) return jinja_refuse(p, line, ERR_TOO_LARGE, "more than %d arguments", JINJA_MAX_ARGS);
        struct jinja_node *a;
        if (jinja_at(p, "*") || jinja_at(p, "**")) {
            rc = jinja_node_new(p, JN_STAR, &a);
            if (rc < 0) return rc;
            a->op = p->t->len == 2;
            if (stars >= 1 + a->op) return jinja_refuse(p, line, ERR_INVALID, "arguments in a wrong order");
            stars = 1 + a->op;
            p->t++;
            rc = jinja_expression(p, &a->a);
        } else if (p->t->type == JT_NAME && is_token(p->t + 1, "=")) {
            if (stars == 2) return jinja_refuse(p, line, ERR_INVALID, "arguments in a wrong order");
            rc = jinja_node_new(p, JN_KEYWORD, &a);
            if (rc == 0) rc = jinja_take_name(p, &a->name);
            p->t++;
            if (rc == 0) rc = jinja_expression(p, &a->a);
            keywords = true;
        } else {
            if (keywords || stars) return jinja_refuse(p, line, ERR_INVALID, "a positional argument behind a keyword");
            rc = jinja_expression(p, &a);
        }
        if (rc < 0) return rc;
        append(&tail, a);
    }
    p->t++;
    return 0;
}

static int list_or_dict(struct jinja_parser *p, bool dict, struct jinja_node **out) {
    struct jinja_node *n, **tail;
    const char *close = dict ? "}" : "]";
    int rc = jinja_node_new(p, dict ? JN_DICT : JN_LIST, &n), count = 0;
    if (rc < 0) return rc;
    p->t++;
    tail = &n->list;
    while (!jinja_at(p, close)) {
        if (count++ && (rc = jinja_expect(p, ",")) < 0) return rc;
        if (jinja_at(p, close)) break;
        struct jinja_node *item;
        if ((rc = jinja_expression(p, &item)) < 0) return rc;
        append(&tail, item);
        if (!dict) continue;
        if ((rc = jinja_expect(p, ":")) < 0 || (rc = jinja_expression(p, &item)) < 0) return rc;
        append(&tail, item);
    }
    p->t++;
    *out = n;
    return 0;
}

static int string(struct jinja_parser *p, struct jinja_node *n) { /* adjacent literals are one */
    size_t len = 0;
    const struct jinja_token *first = p->t;
    for (; p->t->type == JT_STR; p->t++) len += p->t->value.u.s->len;
    struct jv_str *s = arena_alloc(p->arena, sizeof *s + len + 1);
    if (!s) return fail(p->why, ERR_NOMEM, "out of memory compiling the chat template");
    s->chars = SIZE_MAX;
    for (const struct jinja_token *t = first; t < p->t; t++) {
        memcpy(s->s + s->len, t->value.u.s->s, t->value.u.s->len);
        s->len += t->value.u.s->len;
    }
    n->value = jv_of_str(s);
    jv_chars(s); /* counted now: the tree is shared by threads and must not change later */
    return 0;
}

static int primary(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_node *n;
    const struct jinja_token *t = p->t;
    if (jinja_skip(p, "(")) {
        int rc = jinja_tuple(p, true, ")", out);
        return rc < 0 ? rc : jinja_expect(p, ")");
    }
    if (jinja_at(p, "[") || jinja_at(p, "{")) return list_or_dict(p, jinja_at(p, "{"), out);
    int rc = jinja_node_new(p, JN_CONST, &n);
    if (rc < 0) return rc;
    *out = n;
    if (t->type == JT_STR) return string(p, n);
    if (t->type == JT_INT || t->type == JT_FLOAT) {
        n->value = t->value;
        p->t++;
        return 0;
    }
    if (t->type != JT_NAME) return jinja_unexpected(p, "an expression");
    if (is_token(t, "true") || is_token(t, "True") || is_token(t, "false") || is_token(t, "False")) {
        n->value = jv_bool((t->s[0] | 0x20) == 't');
        p->t++;
        return 0;
    }
    if (is_token(t, "none") || is_token(t, "None")) {
        n->value = jv_none();
        p->t++;
        return 0;
    }
    if (jinja_name_refused(t->s, t->len) || (p->in_macro && (is_token(t, "varargs") || is_token(t, "kwargs"))))
        return jinja_refuse(p, t->line, ERR_UNSUPPORTED, "'%.*s' is not supported", (int)t->len, t->s);
    p->uses_caller |= is_token(t, "caller");
    n->kind = JN_NAME;
    return jinja_take_name(p, &n->name);
}

static int subscript_part(struct jinja_parser *p, struct jinja_node **out) {
    *out = NULL;
    return jinja_at(p, ":") || jinja_at(p, "]") || jinja_at(p, ",") ? 0 : jinja_expression(p, out);
}

static int subscript(struct jinja_parser *p, struct jinja_node **out) { /* behind '[' */
    struct jinja_node *first;
    int rc = subscript_part(p, &first);
    if (rc < 0) return rc;
    *out = first;
    if (jinja_at(p, ":")) {
        struct jinja_node *n;
        if ((rc = jinja_node_new(p, JN_SLICE, &n)) < 0) return rc;
        n->a = first;
        p->t++;
        rc = subscript_part(p, &n->b);
        if (rc == 0 && jinja_skip(p, ":")) rc = subscript_part(p, &n->c);
        *out = n;
    }
    if (rc == 0 && !*out) return jinja_unexpected(p, "an index");
    if (rc == 0 && jinja_at(p, ",")) return jinja_refuse(p, p->t->line, ERR_UNSUPPORTED, "several indices are not supported");
    return rc < 0 ? rc : jinja_expect(p, "]");
}

static int call(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out) {
    struct jinja_node *n;
    int rc = jinja_node_new(p, JN_CALL, &n);
    if (rc < 0) return rc;
    p->t++;
    n->a = on;
    *out = n;
    return call_args(p, &n->list);
}

static int postfix(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out) {
    int rc = 0;
    for (int links = 0; rc == 0; links++) {
        if (links > JINJA_MAX_NESTING) return jinja_refuse(p, p->t->line, ERR_TOO_LARGE, "nesting too deep");
        struct jinja_node *n;
        if (jinja_at(p, "(")) {
            rc = call(p, on, &on);
        } else if (jinja_at(p, "[")) {
            rc = jinja_node_new(p, JN_ITEM, &n);
            if (rc < 0) return rc;
            p->t++;
            n->a = on;
            rc = subscript(p, &n->b);
            on = n;
        } else if (jinja_at(p, ".")) {
            rc = jinja_node_new(p, JN_ATTR, &n);
            if (rc < 0) return rc;
            p->t++;
            n->a = on;
            if (p->t->type == JT_INT) { /* x.0 is x[0] */
                n->kind = JN_ITEM;
                rc = primary(p, &n->b);
            } else {
                rc = jinja_take_name(p, &n->name);
            }
            on = n;
        } else {
            break;
        }
    }
    *out = on;
    return rc;
}

int jinja_filter_one(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out) { /* at the filter's name */
    struct jinja_node *n;
    const struct jinja_token *t = p->t;
    int rc = jinja_node_new(p, JN_FILTER, &n);
    if (rc == 0) rc = jinja_take_name(p, &n->name);
    if (rc < 0) return rc;
    n->a = on;
    n->filter = jinja_filter_find(t->s, t->len);
    if (!n->filter) p->unresolved = true;
    *out = n;
    return jinja_skip(p, "(") ? call_args(p, &n->list) : 0;
}

static int test(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out) { /* behind "is" */
    struct jinja_node *n, *not ;
    bool negated = jinja_skip(p, "not");
    const struct jinja_token *t = p->t;
    int rc = jinja_node_new(p, JN_TEST, &n);
    if (rc == 0) rc = jinja_take_name(p, &n->name);
    if (rc < 0) return rc;
    n->a = on;
    n->test = jinja_test_find(t->s, t->len);
    if (!n->test) p->unresolved = true;
    *out = n;
    if (jinja_skip(p, "(")) {
        rc = call_args(p, &n->list);
    } else if (p->t->type == JT_STR || p->t->type == JT_INT || p->t->type == JT_FLOAT || jinja_at(p, "[") || jinja_at(p, "{") ||
               (p->t->type == JT_NAME && !jinja_at(p, "else") && !jinja_at(p, "or") && !jinja_at(p, "and"))) {
        if (jinja_at(p, "is")) return jinja_refuse(p, t->line, ERR_INVALID, "tests cannot be chained with is");
        rc = primary(p, &n->list);
        if (rc == 0) rc = postfix(p, n->list, &n->list);
    }
    if (rc < 0 || !negated) return rc;
    if ((rc = jinja_node_new(p, JN_NOT, &not )) < 0) return rc;
    not ->a = n;
    *out = not ;
    return 0;
}

int jinja_filters(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out) {
    int rc = 0;
    while (rc == 0 && jinja_skip(p, "|")) rc = jinja_filter_one(p, on, &on);
    *out = on;
    return rc;
}

static int unary(struct jinja_parser *p, bool filters, struct jinja_node **out) {
    struct jinja_node *n;
    int rc = jinja_enter(p);
    if (rc < 0) return rc;
    if (jinja_at(p, "-") || jinja_at(p, "+")) {
        rc = jinja_node_new(p, jinja_at(p, "-") ? JN_NEG : JN_POS, &n);
        p->t++;
        if (rc == 0) rc = unary(p, false, &n->a);
        *out = n;
    } else {
        rc = primary(p, out);
    }
    if (rc == 0) rc = postfix(p, *out, out);
    for (int links = 0; rc == 0 && filters; links++) {
        if (links > JINJA_MAX_NESTING) rc = jinja_refuse(p, p->t->line, ERR_TOO_LARGE, "nesting too deep");
        else if (jinja_skip(p, "|")) rc = jinja_filter_one(p, *out, out);
        else if (jinja_skip(p, "is")) rc = test(p, *out, out);
        else if (jinja_at(p, "(")) rc = call(p, *out, out);
        else break;
    }
    p->nesting--;
    return rc;
}

static const struct {
    const char *text;
    enum jinja_op op;
    int level;
} operators[] = {{"+", OP_ADD, 0},       {"-", OP_SUB, 0}, {"*", OP_MUL, 1}, {"/", OP_DIV, 1},
                 {"//", OP_FLOORDIV, 1}, {"%", OP_MOD, 1}, {"**", OP_POW, 2}};

static int concat(struct jinja_parser *p, struct jinja_node **out);

/* Left-associative: level 0 over concat, 1 over 2, 2 over signs. The tree grows to the left: links count as nesting. */
static int binary(struct jinja_parser *p, int level, struct jinja_node **out) {
    int links = 0, rc = level == 0 ? concat(p, out) : level == 1 ? binary(p, 2, out) : unary(p, true, out);
    while (rc == 0) {
        int op = -1;
        for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
            if (operators[i].level == level && jinja_at(p, operators[i].text)) op = operators[i].op;
        if (op < 0) break;
        struct jinja_node *n;
        if (++links > 4 * JINJA_MAX_NESTING) return jinja_refuse(p, p->t->line, ERR_TOO_LARGE, "nesting too deep");
        if ((rc = jinja_node_new(p, JN_BINARY, &n)) < 0) break;
        p->t++;
        n->op = op;
        n->a = *out;
        rc = level == 0 ? concat(p, &n->b) : level == 1 ? binary(p, 2, &n->b) : unary(p, true, &n->b);
        *out = n;
    }
    return rc;
}

static int concat(struct jinja_parser *p, struct jinja_node **out) {
    int rc = binary(p, 1, out);
    if (rc < 0 || !jinja_at(p, "~")) return rc;
    struct jinja_node *n, **tail;
    if ((rc = jinja_node_new(p, JN_CONCAT, &n)) < 0) return rc;
    tail = &n->list;
    append(&tail, *out);
    while (rc == 0 && jinja_skip(p, "~")) {
        struct jinja_node *part;
        rc = binary(p, 1, &part);
        if (rc == 0) append(&tail, part);
    }
    *out = n;
    return rc;
}

static int comparison_op(struct jinja_parser *p) {
    static const struct {
        const char *text;
        enum jinja_op op;
    } ops[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT}, {"<=", OP_LE}, {">", OP_GT}, {">=", OP_GE}, {"in", OP_IN}};
    for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++)
        if (jinja_skip(p, ops[i].text)) return (int)ops[i].op;
    if (jinja_at(p, "not") && is_token(p->t + 1, "in")) {
        p->t += 2;
        return OP_NOT_IN;
    }
    return -1;
}

static int comparison(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_node *all = NULL, **tail = NULL;
    int rc = binary(p, 0, out), line = p->t->line;
    for (int op; rc == 0 && (op = comparison_op(p)) >= 0;) {
        if (!all) {
            if ((rc = jinja_node_new(p, JN_COMPARE, &all)) < 0) break;
            all->line = line;
            all->a = *out;
            tail = &all->list;
            *out = all;
        }
        struct jinja_node *part;
        if ((rc = jinja_node_new(p, JN_BINARY, &part)) < 0) break;
        part->op = op;
        rc = binary(p, 0, &part->a);
        append(&tail, part);
    }
    return rc;
}

static int not_expression(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_node *n;
    if (!jinja_at(p, "not")) return comparison(p, out);
    int rc = jinja_enter(p);
    if (rc == 0) rc = jinja_node_new(p, JN_NOT, &n);
    if (rc < 0) return rc;
    p->t++;
    *out = n;
    rc = not_expression(p, &n->a);
    p->nesting--;
    return rc;
}

static int logic(struct jinja_parser *p, bool or, struct jinja_node **out) {
    int links = 0, rc = or ? logic(p, false, out) : not_expression(p, out);
    while (rc == 0 && jinja_at(p, or ? "or" : "and")) {
        struct jinja_node *n;
        if (++links > 4 * JINJA_MAX_NESTING) return jinja_refuse(p, p->t->line, ERR_TOO_LARGE, "nesting too deep");
        if ((rc = jinja_node_new(p, or ? JN_OR : JN_AND, &n)) < 0) break;
        p->t++;
        n->a = *out;
        rc = or ? logic(p, false, &n->b) : not_expression(p, &n->b);
        *out = n;
    }
    return rc;
}

static int or_expression(struct jinja_parser *p, struct jinja_node **out) { return logic(p, true, out); }

static bool tuple_ends(const struct jinja_parser *p, const char *stop) {
    return p->t->type == JT_PRINT_END || p->t->type == JT_BLOCK_END || jinja_at(p, ")") || (stop && jinja_at(p, stop));
}

int jinja_tuple(struct jinja_parser *p, bool conditional, const char *stop, struct jinja_node **out) {
    struct jinja_node *n, **tail, *item;
    bool comma = false;
    int count = 0, rc = jinja_node_new(p, JN_TUPLE, &n);
    if (rc < 0) return rc;
    tail = &n->list;
    while (!tuple_ends(p, stop)) {
        if ((rc = conditional ? jinja_expression(p, &item) : or_expression(p, &item)) < 0) return rc;
        append(&tail, item);
        count++;
        if (!jinja_skip(p, ",")) break;
        comma = true;
    }
    if (!count && !(stop && !strcmp(stop, ")"))) return jinja_unexpected(p, "an expression");
    *out = count && !comma ? n->list : n;
    return 0;
}
