/* jinja.h - the template engine's inside: syntax tree, values, one rendering. Only jinja_*.c and chat_template.c include it.
 *
 * A template is compiled once to a tree (immutable, in its own arena). A rendering walks the tree with values in an arena that
 * dies with it; values are immutable but for namespaces, loops and iterators. What Python objects do in Jinja's immutable
 * sandbox is the model; what is not known is an error, never a guess.
 * Functions return 0 or ERR_*: ERR_INVALID (the template or its data are at fault), ERR_UNSUPPORTED (correct Jinja, but not
 * done here), ERR_TOO_LARGE (a bound), ERR_NOMEM; why is filled then. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "model/text/tokenizer.h"

enum {
    JINJA_MAX_SOURCE = 512 << 10,
    JINJA_MAX_NESTING = 100,           /* of syntax */
    JINJA_MAX_DEPTH = 1500,            /* of evaluation: tree levels, through macro calls */
    JINJA_MAX_MACRO_DEPTH = 100,
    JINJA_MAX_STEPS = 10000000,
    JINJA_MAX_TEXT = 16 << 20,         /* of one string, and of the whole output */
    JINJA_MAX_MEMORY = 512 << 20,
    JINJA_MAX_RANGE = 100000,          /* as in the sandbox */
    JINJA_MAX_ARGS = 64
};

/* ---- values ---- */

enum jv_type { JV_UNDEFINED, JV_NONE, JV_BOOL, JV_INT, JV_FLOAT, JV_STR, JV_LIST, JV_TUPLE, JV_DICT, JV_VIEW, JV_ITER, JV_RANGE,
               JV_NAMESPACE, JV_MACRO, JV_LOOP, JV_FUNCTION, JV_METHOD };

struct jinja_run;
struct jinja_args;
struct jv_str {
    size_t len;
    size_t chars;      /* code points; SIZE_MAX: not counted yet */
    char s[];          /* NUL-terminated, may hold NULs */
};
struct jv_undefined {  /* why it is undefined, for messages; any may be NULL */
    const char *hint;  /* the whole message */
    const char *owner; /* "dict object", or NULL: a variable */
    const char *name;
};
struct jv {
    enum jv_type type;
    bool markup; /* STR: escaped already, as safe and escape make it; + escapes what is joined to it */
    union {
        bool b;
        int64_t i;
        double f;
        struct jv_str *s;
        struct jv_list *list;      /* LIST, TUPLE, VIEW */
        struct jv_iter *iter;
        struct jv_dict *dict;      /* DICT, NAMESPACE */
        struct jv_range *range;
        struct jinja_macro *macro;
        struct jinja_loop *loop;
        struct jv_method *method;
        const struct jinja_function *function;
        const struct jv_undefined *undefined; /* may be NULL */
    } u;
};
struct jv_list {
    size_t n;
    struct jv *v;
};
struct jv_iter {       /* a Python iterator: true, without length, consumed by use */
    struct jv_list list;
    size_t at;
};
struct jv_range {
    int64_t start, step, n;
};
struct jv_pair {
    struct jv k, v;
};
struct jv_dict {       /* in order of insertion */
    size_t n, cap;
    struct jv_pair *p;
    uint32_t *index;   /* open addressing over p once n > 8: position + 1, or 0 */
    uint32_t mask;
};
struct jv_method {
    struct jv self;
    const char *name;
};

static inline struct jv jv_none(void) { return (struct jv){.type = JV_NONE}; }
static inline struct jv jv_bool(bool b) { return (struct jv){.type = JV_BOOL, .u.b = b}; }
static inline struct jv jv_int(int64_t i) { return (struct jv){.type = JV_INT, .u.i = i}; }
static inline struct jv jv_float(double f) { return (struct jv){.type = JV_FLOAT, .u.f = f}; }
static inline struct jv jv_of_str(struct jv_str *s) { return (struct jv){.type = JV_STR, .u.s = s}; }
static inline bool jv_is_str(struct jv v, const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    if (v.type != JV_STR || v.u.s->len != n) return false;
    for (size_t i = 0; i < n; i++)
        if (v.u.s->s[i] != s[i]) return false;
    return true;
}
static inline bool jv_integral(struct jv v, int64_t *i) { /* int or bool */
    if (v.type == JV_INT) *i = v.u.i;
    else if (v.type == JV_BOOL) *i = v.u.b;
    return v.type == JV_INT || v.type == JV_BOOL;
}

/* jinja_value.c: making, asking, comparing */
int  jv_str(struct jinja_run *r, const char *s, size_t len, struct jv *out);
int  jv_list_new(struct jinja_run *r, enum jv_type type, size_t n, struct jv *out); /* elements to be filled in */
int  jv_iter_new(struct jinja_run *r, struct jv_list list, struct jv *out);
int  jv_dict_new(struct jinja_run *r, size_t room, struct jv *out);
int  jv_dict_put(struct jinja_run *r, struct jv_dict *d, struct jv k, struct jv v);
int  jv_dict_find(struct jinja_run *r, const struct jv_dict *d, struct jv k, const struct jv **out); /* *out NULL: not there */
const struct jv *jv_dict_text(const struct jv_dict *d, const char *name, size_t len);
int  jv_undefined_at(struct jinja_run *r, struct jv owner, struct jv key, struct jv *out);
const char *jv_type_name(struct jv v);        /* "str", "NoneType" */
bool jv_truth(struct jv v);
size_t jv_chars(struct jv_str *s);
int  jv_len(struct jinja_run *r, struct jv v, int64_t *n);                /* TypeError when it has none */
int  jv_equal(struct jinja_run *r, struct jv a, struct jv b, bool *out);
int  jv_less(struct jinja_run *r, struct jv a, struct jv b, const char *op, int *order); /* -1, 0, 1; 2: unordered (NaN) */
int  jv_contains(struct jinja_run *r, struct jv box, struct jv item, bool *out);
/* All elements of an iterable; an iterator is used up. The result may share memory with v. */
int  jv_elements(struct jinja_run *r, struct jv v, struct jv_list *out);
bool jv_iterable(struct jv v);
int  jv_need_defined(struct jinja_run *r, struct jv v);                   /* 0, or the error that using v is */

/* jinja_access.c: v.name, v[key], v[a:b:c] */
int  jv_getattr(struct jinja_run *r, struct jv v, struct jv_str *name, struct jv *out);
int  jv_getitem(struct jinja_run *r, struct jv v, struct jv key, struct jv *out);
int  jv_slice(struct jinja_run *r, struct jv v, const struct jv bounds[3], struct jv *out);

/* jinja_print.c: text of values */
int  jv_print(struct jinja_run *r, struct jv v, struct text_buf *out);    /* str(v) */
int  jv_repr(struct jinja_run *r, struct jv v, struct text_buf *out);
int  jv_to_str(struct jinja_run *r, struct jv v, struct jv *out);         /* str(v) as a value */
int  jv_take_text(struct jinja_run *r, struct text_buf *b, struct jv *out); /* b's text as a value; b is cleared */
struct jinja_json {
    bool ascii, sort;
    const char *indent;          /* NULL: one line */
    struct jv_str *comma, *colon;
};
int  jv_json(struct jinja_run *r, struct jv v, const struct jinja_json *how, struct text_buf *out);

/* jinja_math.c */
enum jinja_op {
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOORDIV, OP_MOD, OP_POW,
    OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_IN, OP_NOT_IN
};
int  jinja_binary(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b, struct jv *out);
int  jinja_compare(struct jinja_run *r, enum jinja_op op, struct jv a, struct jv b, bool *out);
int  jinja_round(struct jinja_run *r, struct jv v, int64_t digits, struct jv *out);
int  jinja_int_of(struct jinja_run *r, struct jv v, bool *ok, int64_t *out); /* int(v) for the int filter; ok: it is a number */

/* jinja_text.c: text operations with Python's meaning */
bool jinja_is_space(uint32_t cp);
int  jinja_upper(struct jinja_run *r, struct jv_str *s, struct jv *out);
int  jinja_lower(struct jinja_run *r, struct jv_str *s, struct jv *out);
int  jinja_capitalize(struct jinja_run *r, struct jv_str *s, struct jv *out);
int  jinja_title(struct jinja_run *r, struct jv_str *s, bool filter, struct jv *out);
int  jinja_strip(struct jinja_run *r, struct jv_str *s, const struct jv_str *chars, bool left, bool right, struct jv *out);
int  jinja_split(struct jinja_run *r, struct jv_str *s, const struct jv_str *sep, int64_t max, bool right, struct jv *out);
int  jinja_splitlines(struct jinja_run *r, struct jv_str *s, bool keep, struct jv *out);
int jinja_replace(struct jinja_run *r, struct jv_str *s, const struct jv_str *from, const struct jv_str *to, int64_t max,
                  struct jv *out);
int  jinja_escape(struct jinja_run *r, const struct jv_str *s, struct jv *out); /* for HTML; the result is markup */
int  jinja_indent(struct jinja_run *r, struct jv_str *s, const struct jv_str *by, bool first, bool blank, struct jv *out);
int  jinja_format(struct jinja_run *r, struct jv_str *s, struct jv values, struct jv *out); /* s % values; jinja_format.c */
int  jinja_brace(struct jinja_run *r, const struct jv_str *s, const struct jinja_args *a, struct jv *out); /* s.format(...) */
const char *jinja_find_text(const char *s, size_t len, const char *what, size_t what_len, bool last); /* or NULL */

/* ---- syntax ---- */

enum jinja_kind {
    /* expressions */
    JN_CONST, JN_NAME, JN_LIST, JN_TUPLE, JN_DICT, JN_ATTR, JN_ITEM, JN_SLICE, JN_CALL, JN_FILTER, JN_TEST, JN_NOT, JN_NEG,
    JN_POS, JN_AND, JN_OR, JN_COMPARE, JN_BINARY, JN_CONCAT, JN_COND, JN_KEYWORD, JN_STAR,
    /* statements */
    JN_TEXT, JN_PRINT, JN_IF, JN_FOR, JN_SET, JN_SET_BLOCK, JN_MACRO, JN_BREAK, JN_CONTINUE, JN_SCOPE, JN_FILTER_BLOCK,
    JN_WITH, JN_CALL_BLOCK
};
/* What a, b, c and list are:
 *   ATTR a.name           ITEM a[b]              SLICE a, b, c: bounds or NULL (only as b of ITEM)
 *   CALL a(list), keywords behind positions; STAR: *a, or **a when op
 *       FILTER a|name(list)    TEST a is name(list), negated by NOT
 *   COMPARE a, then list of BINARY nodes with op and a     CONCAT list            COND b if a else c (c may be NULL)
 *   IF a: list, else c (a list)        FOR a = targets, b = iterable, c = condition or NULL; list = body, other = else
 *   SET a = b         SET_BLOCK a = list, filters b       MACRO name(params: a, NAMEs with default a) list; op: it uses caller
 *   CALL_BLOCK b: a CALL, a and list as in MACRO: what caller() will be
 *   SCOPE list        FILTER_BLOCK b: filter chain over NULL; list     WITH a: list of SET; list */
struct jinja_node {
    enum jinja_kind kind;
    int line;
    int op;
    struct jinja_node *a, *b, *c, *list, *other, *next;
    struct jv_str *name;
    struct jv value;
    const struct jinja_filter *filter;
    const struct jinja_test *test;
};
struct jinja_template {
    struct arena arena;
    struct jinja_node *body;
};
int  jinja_compile(const char *source, size_t len, struct jinja_template *out, struct why *why); /* clear also after failure */
void jinja_clear(struct jinja_template *t);

/* jinja_lex.c */
enum jinja_token_type {
    JT_END, JT_TEXT, JT_PRINT_BEGIN, JT_PRINT_END, JT_BLOCK_BEGIN, JT_BLOCK_END, JT_NAME, JT_STR, JT_INT, JT_FLOAT, JT_OP
};
struct jinja_token {
    enum jinja_token_type type;
    int line;
    const char *s;           /* TEXT, NAME, OP: in the source */
    size_t len;
    struct jv value;         /* STR, INT, FLOAT */
};
/* ends with JT_END */
int  jinja_lex(struct arena *arena, const char *source, size_t len, struct jinja_token **tokens, struct why *why);

/* jinja_parse.c and jinja_expr.c */
struct jinja_parser {
    struct arena *arena;
    const struct jinja_token *t; /* the current token */
    int nesting, loops;
    bool in_macro, uses_caller; /* the macro being read names `caller` */
    bool unresolved;             /* a filter or test is not known */
    struct why *why;
};
int  jinja_refuse(struct jinja_parser *p, int line, int code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
int  jinja_node_new(struct jinja_parser *p, enum jinja_kind kind, struct jinja_node **out);
bool jinja_at(const struct jinja_parser *p, const char *op_or_name); /* the current token is this operator or name */
bool jinja_skip(struct jinja_parser *p, const char *op_or_name);
int  jinja_expect(struct jinja_parser *p, const char *op_or_name);
int  jinja_unexpected(struct jinja_parser *p, const char *wanted);   /* refuses the current token */
int  jinja_take_name(struct jinja_parser *p, struct jv_str **out);
int  jinja_enter(struct jinja_parser *p);                            /* one level deeper; p->nesting-- on the way back */
int  jinja_expression(struct jinja_parser *p, struct jinja_node **out);
int  jinja_tuple(struct jinja_parser *p, bool conditional, const char *stop, struct jinja_node **out);
int  jinja_filters(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out); /* zero or more |filter */
int  jinja_filter_one(struct jinja_parser *p, struct jinja_node *on, struct jinja_node **out);

/* jinja_check.c: refuses filters and tests that are not known, except where Jinja itself leaves that to the run. */
int  jinja_check(const struct jinja_node *body, struct why *why);

/* ---- running ---- */

struct jinja_binding {
    struct jv_str *name;
    struct jv value;
    struct jinja_binding *next;
};
struct jinja_scope {
    struct jinja_scope *up;
    struct jinja_binding *first;
};
struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope;   /* where it was defined */
};
struct jinja_loop {
    struct jv_list items;
    size_t at;                   /* next item to fetch */
    const struct jinja_node *node; /* its condition and targets */
    struct jinja_scope *scope;   /* around the loop */
    int64_t index0;
    int depth0;
    bool sized;                  /* the length is that of items: no condition, no iterator */
    bool peeked, ended;          /* `after` is fetched; there is no further item */
    struct jv before, current, after;
    bool has_changed;
    struct jv changed;           /* arguments of the last loop.changed() */
};
struct jinja_run {
    struct arena arena;
    struct why *why;
    struct text_buf *out;
    struct jinja_scope *scope;
    struct jv_str *loop_name, *caller_name; /* "loop", "caller" */
    const struct jinja_node *node; /* being evaluated, for the line in messages */
    int64_t now, steps;
    int depth, macro_depth;
    bool starved;                  /* an allocation failed, not a bound */
};
struct jinja_args {
    int n, n_keys;               /* positional; by keyword */
    struct jv *v, *kv;
    struct jv_str **key;
};

int  jinja_fail(struct jinja_run *r, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int  jinja_spend(struct jinja_run *r, size_t bytes); /* accounts for work on so many bytes or elements */
void *jinja_alloc(struct jinja_run *r, size_t bytes); /* NULL: out of memory or bounds; why is filled, jinja_oom is the code */
int  jinja_oom(struct jinja_run *r);
int  jinja_append(struct jinja_run *r, struct text_buf *b, const char *s, size_t len); /* bounded by JINJA_MAX_TEXT */

int  jinja_eval(struct jinja_run *r, const struct jinja_node *n, struct jv *out);
/* Evaluates a CALL node with one keyword argument more. */
int  jinja_call_with(struct jinja_run *r, const struct jinja_node *n, struct jv_str *key, struct jv v, struct jv *out);
int  jinja_call(struct jinja_run *r, struct jv callee, const struct jinja_args *args, struct jv *out);
int  jinja_exec(struct jinja_run *r, const struct jinja_node *list, int *flow); /* flow: 0, or JN_BREAK, JN_CONTINUE */
int  jinja_bind(struct jinja_run *r, struct jinja_scope *scope, struct jv_str *name, struct jv v);
int  jinja_loop_next(struct jinja_run *r, struct jinja_loop *loop, struct jv *item, bool *more);
int  jinja_loop_attr(struct jinja_run *r, struct jinja_loop *loop, const char *name, struct jv *out, bool *known);
int  jinja_assign(struct jinja_run *r, const struct jinja_node *target, struct jv v);

/* Arguments by position or name into slots; names ends with NULL; unset slots stay JV_UNDEFINED with given[i] false. */
int jinja_take_args(struct jinja_run *r, const char *what, const struct jinja_args *a, const char *const *names,
                    struct jv *slot, bool *given);

/* jinja_filters.c, jinja_filters_list.c, jinja_tests.c, jinja_methods.c, jinja_functions.c */
struct jinja_filter {
    const char *name;
    int (*run)(struct jinja_run *r, const struct jinja_filter *f, struct jv v, const struct jinja_args *a, struct jv *out);
};
struct jinja_test {
    const char *name;
    int args;                    /* besides the value */
    unsigned types;              /* a test of the type alone: bits of jv_type; run is NULL then */
    int (*run)(struct jinja_run *r, struct jv v, const struct jv *arg, bool *out);
};
struct jinja_function {
    const char *name;
    int (*run)(struct jinja_run *r, const struct jinja_args *a, struct jv *out);
};
const struct jinja_filter *jinja_filter_find(const char *name, size_t len);
const struct jinja_filter *jinja_list_filter_find(const char *name, size_t len);
const struct jinja_test *jinja_test_find(const char *name, size_t len);
int  jinja_test_run(struct jinja_run *r, const struct jinja_test *t, struct jv v, const struct jinja_args *a, bool *out);
const struct jinja_function *jinja_function_find(const char *name, size_t len);
bool jinja_name_refused(const char *name, size_t len); /* a global of Jinja that is not done here */
enum jinja_member { MEMBER_NONE, MEMBER_METHOD, MEMBER_UNSAFE, MEMBER_UNKNOWN }; /* UNKNOWN: Python has it, we do not */
enum jinja_member jinja_member_of(struct jv v, const char *name);
int  jinja_method_call(struct jinja_run *r, struct jv self, const char *name, const struct jinja_args *a, struct jv *out);
/* Looks name up in dotted steps, as map(attribute="a.b") does. */
int  jinja_attribute_path(struct jinja_run *r, struct jv v, struct jv path, struct jv *out);
