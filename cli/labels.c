/* labels.c - reads the lines, from their ends. */
#include "cli/labels.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = TRACE_DOMAINS * 4, MAX_NUMBER = 1000000 };

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
    if (l->n == MAX_NAMES) return fail(why, ERR_INVALID, "%s:%d: more than %d domains", at->file, at->number, MAX_NAMES);
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
        if (!layers[s->model_layer[i]]) continue;
        size_t cell = (size_t)d * (size_t)l->layers + (size_t)i;
        l->labelled[cell] = true;
        for (int x = 0; x < l->experts; x++) l->expected[cell * (size_t)l->experts + (size_t)x] |= experts[x];
    }
    return d < 0 ? d : 0;
}

int labels_parse(struct labels *l, const struct trace_shape *s, const char *text, const char *file, struct why *why) {
    *l = (struct labels){.layers = s->layers, .experts = s->experts};
    size_t cells = (size_t)MAX_NAMES * (size_t)s->layers, top = (size_t)s->model_layer[s->layers - 1] + 1;
    bool *scratch = calloc(top + (size_t)s->experts, sizeof *scratch);
    l->labelled = calloc(cells, sizeof *l->labelled);
    l->expected = calloc(cells * (size_t)s->experts, sizeof *l->expected);
    int rc = scratch && l->labelled && l->expected ? 0 : fail(why, ERR_NOMEM, "out of memory for the labels");
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
    free(l->expected);
    free(l->labelled);
    *l = (struct labels){0};
}

int labels_find(const struct labels *l, const char *domain) {
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->name[i], domain)) return i;
    return -1;
}

const bool *labels_of(const struct labels *l, int domain, int layer) {
    size_t cell = (size_t)domain * (size_t)l->layers + (size_t)layer;
    return l->labelled[cell] ? l->expected + cell * (size_t)l->experts : NULL;
}
