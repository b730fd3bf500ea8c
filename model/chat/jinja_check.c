/* jinja_check.c - unknown filters and tests.
 *
 * Jinja refuses them when it compiles, but not directly inside an if statement or a conditional expression, where a template
 * may ask for what only some environments have: there they fail when they are reached. A block with variables of its own (for,
 * macro, set, filter, call) inside the if counts as outside again. */
#include "model/chat/jinja.h"

enum { MAX_DEPTH = 4 * JINJA_MAX_NESTING };

static int check(const struct jinja_node *n, bool soft, int depth, struct why *why);

static int check_list(const struct jinja_node *n, bool soft, int depth, struct why *why) {
    int rc = 0;
    for (; n && rc == 0; n = n->next) rc = check(n, soft, depth, why);
    return rc;
}

/* Whether the parts of this node are soft: the first operand, and what stands in the body. */
static void softness(const struct jinja_node *n, bool soft, bool *operand, bool *body) {
    *operand = *body = soft;
    switch (n->kind) {
    case JN_IF:
    case JN_COND: *operand = *body = true; break;
    case JN_FOR:
    case JN_WITH:
    case JN_CALL_BLOCK: *body = false; break;
    case JN_SET_BLOCK:
    case JN_MACRO:
    case JN_SCOPE:
    case JN_FILTER_BLOCK: *operand = *body = false; break;
    default: break;
    }
}

/* FOR: b is looked at outside, c inside. IF: c is a list. WITH: a is a list. */
static int check(const struct jinja_node *n, bool soft, int depth, struct why *why) {
    bool operand, body;
    if (++depth > MAX_DEPTH) return fail(why, ERR_TOO_LARGE, "chat template, line %d: nested too deep", n->line);
    for (; n; n = n->a) { /* long chains grow along a */
        if ((n->kind == JN_FILTER && !n->filter) || (n->kind == JN_TEST && !n->test))
            if (!soft)
                return fail(why, ERR_UNSUPPORTED, "chat template, line %d: the %s '%.60s' is not known", n->line,
                            n->kind == JN_FILTER ? "filter" : "test", n->name->s);
        softness(n, soft, &operand, &body);
        int rc = check_list(n->list, body, depth, why);
        if (rc == 0) rc = check_list(n->other, body, depth, why);
        if (rc == 0 && n->b) rc = check(n->b, operand, depth, why);
        if (rc == 0) rc = check_list(n->c, n->kind == JN_FOR ? body : operand, depth, why);
        if (rc == 0 && n->a && n->a->next) rc = check_list(n->a->next, operand, depth, why);
        if (rc < 0) return rc;
        soft = operand;
    }
    return 0;
}

int jinja_check(const struct jinja_node *body, struct why *why) { return check_list(body, false, 0, why); }
