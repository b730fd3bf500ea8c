/* labels.c - reads the lines, from their ends. */
#include "cli/labels.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NUMBER = 1000000 };

struct line {
    const char *file;
    int number;
};
struct field {
    const char *at;
    int len;
};

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* Takes the last field off a text. */
static struct field take_last(struct field *text) {
    while (text->len && is_blank(text->at[text->len - 1])) text->len--;
    int start = text->len;
    while (start && !is_blank(text->at[start - 1])) start--;
    struct field f = {text->at + start, text->len - start};
    text->len = start;
    while (text->len && is_blank(text->at[text->len - 1])) text->len--;
    return f;
}

static bool read_number(const char **p, const char *end, int *out) {
    const char *start = *p;
    int v = 0;
    for (; *p < end && isdigit((unsigned char)**p) && v < MAX_NUMBER; (*p)++) v = v * 10 + (**p - '0');
    *out = v;
    return *p > start;
}

/* Calls with every number of a list; * is all from 0 to max. */
static int each_number(const struct line *at, struct field f, int max, bool *set, struct why *why) {
    if (f.len == 1 && *f.at == '*') {
        memset(set, 1, sizeof *set * ((size_t)max + 1));
        return 0;
    }
    for (const char *p = f.at, *end = f.at + f.len; p < end;) {
        int from, to;
        bool ok = read_number(&p, end, &from);
        to = from;
        if (ok && p < end && *p == '-') p++, ok = read_number(&p, end, &to) && to >= from;
        if (ok && p < end) ok = *p++ == ',' && p < end;
        if (!ok)
            return fail(why, ERR_INVALID, "%s:%d: '%.*s' is not a list of numbers such as 3 or 0-3,7 or *", at->file,
                        at->number, f.len, f.at);
        if (to > max)
            return fail(why, ERR_INVALID, "%s:%d: %d in '%.*s': the largest is %d", at->file, at->number, to, f.len, f.at, max);
        for (int i = from; i <= to; i++) set[i] = true;
    }
    return 0;
}

static int name_number(struct labels *l, const struct line *at, struct field name, struct why *why) {
    if (name.len > TRACE_NAME_BYTES)
        return fail(why, ERR_INVALID, "%s:%d: a domain of %d bytes, at most %d", at->file, at->number, name.len,
                    TRACE_NAME_BYTES);
    for (int i = 0; i < l->n; i++)
        if (strlen(l->name[i]) == (size_t)name.len && !memcmp(l->name[i], name.at, (size_t)name.len)) return i;
    if (l->n == LABELS_MAX) return fail(why, ERR_INVALID, "%s:%d: more than %d domains", at->file, at->number, LABELS_MAX);
    l->expected[l->n] = calloc((size_t)l->layers * (1 + (size_t)l->experts), sizeof(bool));
    if (!l->expected[l->n]) return fail(why, ERR_NOMEM, "out of memory for the labels");
    memcpy(l->name[l->n], name.at, (size_t)name.len);
    return l->n++;
}

static int read_line(struct labels *l, const struct trace_shape *s, const struct line *at, struct field text, bool *layers,
                     bool *experts, struct why *why) {
    int last = s->model_layer[s->layers - 1];
    struct field e = take_last(&text), ls = take_last(&text);
    while (text.len && is_blank(*text.at)) text.at++, text.len--;
    if (!e.len || !ls.len || !text.len)
        return fail(why, ERR_INVALID, "%s:%d: wanted three fields: domain layers experts", at->file, at->number);
    memset(layers, 0, sizeof *layers * ((size_t)last + 1));
    memset(experts, 0, sizeof *experts * (size_t)l->experts);
    int rc = each_number(at, ls, last, layers, why);
    if (rc >= 0) rc = each_number(at, e, l->experts - 1, experts, why);
    int d = rc < 0 ? rc : name_number(l, at, text, why);
    for (int i = 0; i < l->layers && d >= 0; i++) {
        bool *layer = l->expected[d] + (size_t)i * (1 + (size_t)l->experts);
        if (!layers[s->model_layer[i]]) continue;
        layer[0] = true;
        for (int x = 0; x < l->experts; x++) layer[1 + x] |= experts[x];
    }
    return d < 0 ? d : 0;
}

int labels_parse(struct labels *l, const struct trace_shape *s, const char *text, const char *file, struct why *why) {
    *l = (struct labels){.layers = s->layers, .experts = s->experts};
    size_t top = (size_t)s->model_layer[s->layers - 1] + 1;
    bool *scratch = calloc(top + (size_t)s->experts, sizeof *scratch);
    int rc = scratch ? 0 : fail(why, ERR_NOMEM, "out of memory for the labels");
    struct line at = {.file = file};
    for (const char *p = text; rc >= 0 && *p;) {
        size_t len = strcspn(p, "\n"), used = strcspn(p, "#\n");
        struct field line = {p, (int)used};
        at.number++;
        while (line.len && is_blank(line.at[line.len - 1])) line.len--;
        if (line.len) rc = read_line(l, s, &at, line, scratch, scratch + top, why);
        p += len + (p[len] == '\n');
    }
    free(scratch);
    if (rc < 0) labels_clear(l);
    return rc;
}

void labels_clear(struct labels *l) {
    for (int i = 0; i < l->n; i++) free(l->expected[i]);
    *l = (struct labels){0};
}

int labels_find(const struct labels *l, const char *domain) {
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->name[i], domain)) return i;
    return -1;
}

const bool *labels_of(const struct labels *l, int domain, int layer) {
    const bool *at = l->expected[domain] + (size_t)layer * (1 + (size_t)l->experts);
    return at[0] ? at + 1 : NULL;
}
