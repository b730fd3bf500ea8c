/* pattern.c - PCRE2 behind pattern.h: compile with JIT, and the iteration rules of the reference implementation.
 *
 * Those rules: the next search starts where the last match ended; an empty match directly behind a match is skipped by one
 * character. Work is bounded by a match limit that grows with the text, so that no pattern can hang a server. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/text/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "model/json_field.h"
#include "model/text/utf8.h"

enum { MATCH_LIMIT = 10000000, MATCH_LIMIT_PER_BYTE = 20, HEAP_LIMIT_KIB = 256 * 1024, JIT_STACK_BYTES = 64 << 20 };

struct pattern {
    pcre2_code *code;
    bool jit;
};

static int compile(const char *source, size_t len, const char *shown, struct pattern **out, struct why *why) {
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    struct pattern *p = calloc(1, sizeof *p);
    if (!cc || !p) {
        pcre2_compile_context_free(cc);
        free(p);
        return fail(why, ERR_NOMEM, "out of memory compiling a pattern");
    }
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_bsr(cc, PCRE2_BSR_UNICODE);
    pcre2_set_parens_nest_limit(cc, 400);
    int code;
    PCRE2_SIZE offset;
    p->code = pcre2_compile((PCRE2_SPTR)source, len, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, cc);
    pcre2_compile_context_free(cc);
    if (!p->code) {
        char text[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        free(p);
        return fail(why, ERR_UNSUPPORTED, "pattern '%.200s': %s", shown, text);
    }
    p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
    *out = p;
    return 0;
}

int pattern_open(const char *source, size_t len, struct pattern **out, struct why *why) {
    struct text_buf native = {0};
    int rc = pattern_translate(source, len, &native, why);
    if (rc == 0) rc = compile(native.data ? native.data : "", native.len, source, out, why);
    text_buf_clear(&native);
    return rc;
}

int pattern_open_literal(const char *text, size_t len, struct pattern **out, struct why *why) {
    struct text_buf native = {0};
    int rc = 0;
    for (size_t i = 0; i < len && rc == 0; i++) {
        bool plain = (text[i] & 0x80) || (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'A' && text[i] <= 'Z') ||
                     (text[i] >= 'a' && text[i] <= 'z');
        char hex[8] = "\\x{00}";
        hex[3] = "0123456789abcdef"[text[i] >> 4 & 15];
        hex[4] = "0123456789abcdef"[text[i] & 15];
        rc = plain ? text_buf_append(&native, text + i, 1) : text_buf_append(&native, hex, 6);
    }
    if (rc < 0) fail(why, rc, "out of memory compiling a pattern");
    else rc = compile(native.data ? native.data : "", native.len, text, out, why);
    text_buf_clear(&native);
    return rc;
}

int pattern_read(const json_t *spec, const char *place, struct pattern **out, struct why *why) {
    struct text_span literal, regex;
    int rc = json_field_text(spec, place, "String", &literal, why);
    if (rc == 0) rc = json_field_text(spec, place, "Regex", &regex, why);
    if (rc < 0) return rc;
    if (!literal.s == !regex.s) return fail(why, ERR_INVALID, "%s: a pattern needs either String or Regex", place);
    rc = regex.s ? pattern_open(regex.s, regex.len, out, why) : pattern_open_literal(literal.s, literal.len, out, why);
    return rc < 0 ? fail_in(why, rc, "%s", place) : 0;
}

void pattern_close(struct pattern *p) {
    if (!p) return;
    pcre2_code_free(p->code);
    free(p);
}

static int scratch_make(struct pattern_scratch *s, const struct pattern *p) {
    if (!s->match) s->match = pcre2_match_data_create_from_pattern(p->code, NULL);
    if (!s->context) s->context = pcre2_match_context_create(NULL);
    if (!s->match || !s->context) return ERR_NOMEM;
    pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    if (p->jit && !s->stack) { /* reserved address space, touched only by patterns that recurse */
        s->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_BYTES, NULL);
        if (!s->stack) return ERR_NOMEM;
        pcre2_jit_stack_assign(s->context, NULL, s->stack);
    }
    return 0;
}

void pattern_scratch_clear(struct pattern_scratch *s) {
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    *s = (struct pattern_scratch){0};
}

static int search(struct pattern_scan *scan, size_t *start, size_t *end) {
    struct pattern_scratch *s = scan->scratch;
    int rc =
        pcre2_match(scan->pattern->code, (PCRE2_SPTR)scan->text, scan->len, scan->at, PCRE2_NO_UTF_CHECK, s->match, s->context);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc == PCRE2_ERROR_NOMEMORY) return ERR_NOMEM;
    if (rc < 0) return ERR_TOO_LARGE;
    PCRE2_SIZE *o = pcre2_get_ovector_pointer(s->match);
    *start = o[0];
    *end = o[1];
    return *end < *start ? ERR_TOO_LARGE : 1;
}

int pattern_next(struct pattern_scan *scan, size_t *start, size_t *end) {
    if (!scan->scratch->match) {
        if (scratch_make(scan->scratch, scan->pattern) < 0) return ERR_NOMEM;
    }
    if (!scan->at) {
        size_t limit = MATCH_LIMIT + MATCH_LIMIT_PER_BYTE * scan->len;
        pcre2_set_match_limit(scan->scratch->context, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit);
    }
    while (scan->at <= scan->len) {
        int rc = search(scan, start, end);
        if (rc <= 0) {
            scan->at = scan->len + 1;
            return rc;
        }
        if (*start == *end && scan->matched && *end == scan->at) {
            uint32_t cp;
            scan->at += scan->at < scan->len ? (size_t)utf8_next(scan->text + scan->at, &cp) : 1;
            scan->matched = false;
            continue;
        }
        scan->at = *end;
        scan->matched = true;
        return 1;
    }
    return 0;
}

int pattern_replace(const struct pattern *p, struct pattern_scratch *scratch, const char *s, size_t len, const char *with,
                    size_t with_len, size_t *origin, struct text_buf *out) {
    struct pattern_scan scan = {.pattern = p, .scratch = scratch, .text = s, .len = len};
    size_t start, end, done = 0, base = out->len, from = origin ? *origin : 0, to = 0;
    int rc;
    while ((rc = pattern_next(&scan, &start, &end)) == 1) {
        if (from > done) to = out->len - base + (from < start ? from : start) - done;
        if (text_buf_append(out, s + done, start - done) < 0 || text_buf_append(out, with, with_len) < 0) return ERR_NOMEM;
        if (end <= from) to = out->len - base;
        done = end;
    }
    if (rc < 0) return rc;
    if (from > done) to = out->len - base + from - done;
    if (origin) *origin = to;
    return text_buf_append(out, s + done, len - done);
}
