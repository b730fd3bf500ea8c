/* planner.c - a placement is a table of masks; files are read whole, each field is a list of numbers and ranges. */
#include "coordinator/planner.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_LIMIT = 4 << 20 };

static uint64_t room_of(const struct planner_shape *s, int worker) { return s->room ? s->room[worker] : 1; }

void planner_contiguous(const struct planner_shape *s, int first, uint64_t *hosts) {
    uint64_t all = 0, before = 0;
    for (int w = 0; w < first; w++) all += room_of(s, w);
    for (int e = 0, w = 0; e < s->experts; e++) { /* whose part of the room begins at or before this one's of the experts */
        while (w < first - 1 && (uint64_t)e * all >= (before + room_of(s, w)) * (uint64_t)s->experts) before += room_of(s, w++);
        for (int l = 0; l < s->layers; l++) hosts[l * s->experts + e] = UINT64_C(1) << w;
    }
}

struct load { /* [workers] slots in the layer at hand, and in those before it */
    int in_layer[64], before[64];
};

static bool is_full(const struct planner_shape *s, const struct load *t, int w) {
    return s->room && (uint64_t)(t->before[w] + t->in_layer[w]) >= s->room[w];
}

/* Below 0: a is less loaded than b. */
static int compare(const struct planner_shape *s, const struct load *t, int a, int b) {
    uint64_t one = (uint64_t)t->in_layer[a] * room_of(s, b), other = (uint64_t)t->in_layer[b] * room_of(s, a);
    if (one == other) {
        one = (uint64_t)t->before[a] * room_of(s, b);
        other = (uint64_t)t->before[b] * room_of(s, a);
    }
    return one < other ? -1 : one > other;
}

static int least_loaded(const struct planner_shape *s, uint64_t members, const struct load *t) {
    int best = -1;
    for (int w = 0; w < s->workers; w++) {
        if (!(members >> w & 1)) continue;
        if (best < 0 || is_full(s, t, w) < is_full(s, t, best) ||
            (is_full(s, t, w) == is_full(s, t, best) && compare(s, t, w, best) < 0))
            best = w;
    }
    return best;
}

static uint64_t bit(int worker) { return UINT64_C(1) << worker; }

/* Members without an expert in `first`. */
static uint64_t later(const struct planner_shape *s, const uint64_t *first, uint64_t members) {
    for (int i = 0; i < s->layers * s->experts; i++) members &= ~first[i];
    return members;
}

static int most_loaded(const struct planner_shape *s, uint64_t members, const struct load *t) {
    int most = -1;
    for (int w = 0; w < s->workers; w++)
        if (members >> w & 1 && (most < 0 || compare(s, t, w, most) > 0)) most = w;
    return most;
}

static void balance(const struct planner_shape *s, int layer, uint64_t members, struct load *t, uint64_t *to) {
    for (;;) {
        int from = most_loaded(s, members, t), dest = least_loaded(s, members, t);
        int i = (layer + 1) * s->experts - 1;
        if ((uint64_t)(t->in_layer[dest] + 1) * room_of(s, from) >= (uint64_t)t->in_layer[from] * room_of(s, dest)) return;
        while (i >= layer * s->experts && to[i] != bit(from)) i--;
        if (i < layer * s->experts) return; /* all it has are replicas */
        to[i] = bit(dest);
        t->in_layer[from]--;
        t->in_layer[dest]++;
    }
}

void planner_members(const struct planner_shape *s, const uint64_t *first, const uint64_t *now, uint64_t members,
                     uint64_t *to) {
    struct load t = {.before = {0}};
    uint64_t came = later(s, first, members);
    for (int l = 0; l < s->layers; l++) {
        memset(t.in_layer, 0, sizeof t.in_layer);
        for (int i = l * s->experts; i < (l + 1) * s->experts; i++) {
            to[i] = !first[i]            ? 0
                    : now[i] & came      ? now[i] & members
                    : first[i] & members ? first[i] & members
                                         : now[i] & members;
            for (int w = 0; w < s->workers; w++) t.in_layer[w] += (int)(to[i] >> w & 1);
        }
        for (int i = l * s->experts; i < (l + 1) * s->experts; i++) {
            if (to[i] || !first[i]) continue;
            int w = least_loaded(s, members, &t);
            to[i] = UINT64_C(1) << w;
            t.in_layer[w]++;
        }
        if (came) balance(s, l, members, &t, to);
        for (int w = 0; w < s->workers; w++) t.before[w] += t.in_layer[w];
    }
}

struct field {
    const char *text;
    int len;
};
struct line {
    const char *file;
    int number;
    struct field layers, experts, workers;
};

static int bad_field(const struct line *at, const char *noun, struct field f, struct why *why) {
    return fail(why, ERR_INVALID, "%s:%d: '%.*s' is not a list of %s such as 3 or 0-3,7 or *", at->file, at->number, f.len,
                f.text, noun);
}

static bool read_number(const char **p, const char *end, int *out) {
    int v = 0;
    const char *start = *p;
    for (; *p < end && isdigit((unsigned char)**p) && v < 1000000; (*p)++) v = v * 10 + (**p - '0');
    *out = v;
    return *p > start;
}

/* Sets set[i] for every number named; numbers lie in [0, n). */
static int read_list(const struct line *at, const char *noun, struct field f, int n, bool *set, struct why *why) {
    memset(set, 0, sizeof *set * (size_t)n);
    if (f.len == 1 && *f.text == '*') {
        memset(set, 1, sizeof *set * (size_t)n);
        return 0;
    }
    const char *p = f.text, *end = p + f.len;
    while (p < end) {
        int from, to;
        if (!read_number(&p, end, &from)) return bad_field(at, noun, f, why);
        to = from;
        if (p < end && *p == '-') {
            p++;
            if (!read_number(&p, end, &to) || to < from) return bad_field(at, noun, f, why);
        }
        if (to >= n)
            return fail(why, ERR_INVALID, "%s:%d: there is no %s %d: they are 0 to %d", at->file, at->number, noun, to, n - 1);
        for (int i = from; i <= to; i++) set[i] = true;
        if (p == end) return 0;
        if (*p++ != ',' || p == end) return bad_field(at, noun, f, why);
    }
    return bad_field(at, noun, f, why);
}

/* Splits on blanks; '#' starts a comment. The number of fields, 4 meaning too many. */
static int split(const char *text, const char *end, struct field out[3]) {
    int n = 0;
    while (text < end) {
        while (text < end && isspace((unsigned char)*text)) text++;
        const char *start = text;
        while (text < end && !isspace((unsigned char)*text) && *text != '#') text++;
        if (text == start) break;
        if (n == 3) return 4;
        out[n++] = (struct field){start, (int)(text - start)};
    }
    return n;
}

struct scratch {
    bool *layer, *expert, *worker; /* [last model layer + 1], [experts], [workers] */
    bool *named;                   /* [layers * experts] */
};

static int apply(const struct planner_shape *s, const struct line *at, const struct scratch *t, uint64_t *hosts,
                 struct why *why) {
    int top = s->model_layer[s->layers - 1] + 1;
    int rc = read_list(at, "layer", at->layers, top, t->layer, why);
    if (rc >= 0) rc = read_list(at, "expert", at->experts, s->experts, t->expert, why);
    bool nowhere = at->workers.len == 1 && *at->workers.text == '-';
    if (rc >= 0 && !nowhere) rc = read_list(at, "worker", at->workers, s->workers, t->worker, why);
    if (rc < 0) return rc;
    uint64_t mask = 0;
    for (int w = 0; w < s->workers && !nowhere; w++) mask |= (uint64_t)t->worker[w] << w;
    bool hit = false;
    for (int l = 0; l < s->layers; l++) {
        if (!t->layer[s->model_layer[l]]) continue;
        hit = true;
        for (int e = 0; e < s->experts; e++)
            if (t->expert[e]) hosts[l * s->experts + e] = mask, t->named[l * s->experts + e] = true;
    }
    if (!hit)
        return fail(why, ERR_INVALID, "%s:%d: layers '%.*s' have no experts", at->file, at->number, at->layers.len,
                    at->layers.text);
    return 0;
}

static int check_complete(const struct planner_shape *s, const char *name, const bool *named, struct why *why) {
    for (int l = 0; l < s->layers; l++)
        for (int e = 0; e < s->experts; e++)
            if (!named[l * s->experts + e])
                return fail(why, ERR_INVALID, "%s: no worker for expert %d of layer %d; add a line, e.g. '%d %d 0'", name, e,
                            s->model_layer[l], s->model_layer[l], e);
    return 0;
}

static int parse_lines(const struct planner_shape *s, const char *text, size_t len, const char *name, const struct scratch *t,
                       uint64_t *hosts, struct why *why) {
    struct line at = {.file = name};
    for (const char *p = text, *end = text + len; p < end;) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        struct field f[3];
        int n = split(p, eol ? eol : end, f);
        at.number++;
        if (n != 0 && n != 3)
            return fail(why, ERR_INVALID, "%s:%d: wanted three fields: layers experts workers", name, at.number);
        if (n == 3) {
            at.layers = f[0], at.experts = f[1], at.workers = f[2];
            int rc = apply(s, &at, t, hosts, why);
            if (rc < 0) return rc;
        }
        p = eol ? eol + 1 : end;
    }
    return check_complete(s, name, t->named, why);
}

int planner_parse(const struct planner_shape *s, const char *text, size_t len, const char *name, uint64_t *hosts,
                  struct why *why) {
    if (!s->layers || !s->experts) return fail(why, ERR_INVALID, "%s: this model has no experts to place", name);
    size_t top = (size_t)s->model_layer[s->layers - 1] + 1;
    size_t pairs = (size_t)s->layers * (size_t)s->experts;
    bool *all = calloc(top + (size_t)s->experts + (size_t)s->workers + pairs, sizeof *all);
    if (!all) return fail(why, ERR_NOMEM, "out of memory for a placement");
    memset(hosts, 0, sizeof *hosts * (size_t)s->layers * (size_t)s->experts);
    struct scratch t = {all, all + top, all + top + s->experts, all + top + s->experts + s->workers};
    int rc = parse_lines(s, text, len, name, &t, hosts, why);
    free(all);
    return rc;
}

int planner_read(const struct planner_shape *s, const char *path, uint64_t *hosts, struct why *why) {
    FILE *f = fopen(path, "rb");
    if (!f) return fail(why, ERR_IO, "%s: %m", path);
    char *text = malloc(FILE_LIMIT + 1);
    size_t len = text ? fread(text, 1, FILE_LIMIT + 1, f) : 0;
    int rc;
    if (!text) rc = fail(why, ERR_NOMEM, "out of memory for %s", path);
    else if (ferror(f)) rc = fail(why, ERR_IO, "%s: cannot be read", path);
    else if (len > FILE_LIMIT) rc = fail(why, ERR_TOO_LARGE, "%s: a placement file of more than %d bytes", path, FILE_LIMIT);
    else rc = planner_parse(s, text, len, path, hosts, why);
    free(text);
    fclose(f);
    return rc;
}

static bool same_in_all_layers(const struct planner_shape *s, const uint64_t *hosts, int worker) {
    for (int l = 1; l < s->layers; l++)
        for (int e = 0; e < s->experts; e++)
            if ((hosts[l * s->experts + e] ^ hosts[e]) >> worker & 1) return false;
    return true;
}

int planner_describe(const struct planner_shape *s, const uint64_t *hosts, int worker, char *buf, size_t cap) {
    int slots = 0;
    size_t len = 0;
    buf[0] = 0;
    for (int i = 0; i < s->layers * s->experts; i++) slots += (int)(hosts[i] >> worker & 1);
    if (!same_in_all_layers(s, hosts, worker)) {
        snprintf(buf, cap, "%d experts in %d layers", slots, s->layers);
        return slots;
    }
    for (int e = 0, to; s->layers && e < s->experts && len < cap; e = to + 1) {
        to = e;
        if (!(hosts[e] >> worker & 1)) continue;
        while (to + 1 < s->experts && hosts[to + 1] >> worker & 1) to++;
        len += (size_t)snprintf(buf + len, cap - len, to > e ? "%s%d-%d" : "%s%d", len ? "," : "", e, to);
    }
    return slots;
}
