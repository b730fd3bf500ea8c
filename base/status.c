/* status.c - the error table as text, and the one-line explanations that travel with it. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct entry {
    const char *name, *text;
    enum scope scope;
};

static const struct entry *find(int code) {
    static const struct entry table[] = {
#define X(code, scope, text) {#code, text, SCOPE_##scope},
        STATUS_TABLE(X)
#undef X
    };
    static const struct entry ok = {"OK", "ok", SCOPE_REQUEST}, unknown = {"UNKNOWN", "unknown error", SCOPE_PROCESS};
    if (code >= 0) return &ok;
    if (code <= STATUS_FIRST || code >= STATUS_END) return &unknown;
    return &table[code - STATUS_FIRST - 1];
}

const char *status_name(int code) { return find(code)->name; }
const char *status_text(int code) { return find(code)->text; }
enum scope status_scope(int code) { return find(code)->scope; }

int fail(struct why *why, int code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why->text, sizeof why->text, fmt, ap);
    va_end(ap);
    return code;
}

int fail_in(struct why *why, int code, const char *fmt, ...) {
    struct why inner = *why;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(why->text, sizeof why->text, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    if ((size_t)n < sizeof why->text) snprintf(why->text + n, sizeof why->text - (size_t)n, ": %s", inner.text);
    return code;
}
