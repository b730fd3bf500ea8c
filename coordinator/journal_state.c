/* journal_state.c - a table by number and a list by age. A request's strings and ids are one block, copied when it is
 * accepted. */
#include "coordinator/journal_state.h"

#include "base/utf8.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 1024, DUMP_TOKENS = 1024, OVERHEAD_BYTES = 128 };

int journal_state_init(struct journal_state *s) {
    *s = (struct journal_state){.mask = BUCKETS - 1, .bytes = OVERHEAD_BYTES};
    list_init(&s->requests);
    s->bucket = calloc(BUCKETS, sizeof(struct journal_request *));
    return s->bucket ? 0 : ERR_NOMEM;
}

static void request_free(struct journal_request *q) {
    if (!q) return;
    free((void *)q->accept.ids); /* the block */
    free((void *)q->accept.stops);
    free((void *)q->finish.message.data);
    free(q->token);
    free(q->top);
    free(q);
}

void journal_state_clear(struct journal_state *s) {
    struct list *at, *next;
    if (s->bucket) list_for(at, next, &s->requests) request_free(list_entry(at, struct journal_request, node));
    free(s->bucket);
    *s = (struct journal_state){0};
}

struct journal_request *journal_state_find(const struct journal_state *s, uint64_t number) {
    struct journal_request *q = s->bucket[number & s->mask]; /* numbers count up, so buckets fill evenly */
    while (q && q->accept.number != number) q = q->next;
    return q;
}

static void widen(struct journal_state *s) {
    size_t mask = s->mask * 2 + 1;
    struct journal_request **bucket = calloc(mask + 1, sizeof(struct journal_request *));
    struct list *at, *next;
    if (!bucket) return; /* slower, and right */
    list_for(at, next, &s->requests) {
        struct journal_request *q = list_entry(at, struct journal_request, node);
        q->next = bucket[q->accept.number & mask];
        bucket[q->accept.number & mask] = q;
    }
    free(s->bucket);
    s->bucket = bucket;
    s->mask = mask;
}

static struct text_slice copy_text(char **at, struct text_slice t) {
    struct text_slice out = {*at, t.len};
    if (t.len) memcpy(*at, t.data, t.len);
    *at += t.len;
    return out;
}

/* ids, stop ids and all texts in one block that begins at ids. */
static bool copy_accept(struct journal_request *q, const struct journal_accept *a) {
    size_t ids = (a->n_ids + a->n_stop_ids) * sizeof *a->ids, texts = a->tag.len + a->tenant.len;
    for (size_t i = 0; i < a->n_stops; i++) texts += a->stops[i].len;
    int32_t *block = malloc(ids + texts + 1);
    struct text_slice *stops = calloc(a->n_stops + 1, sizeof *stops);
    q->accept = *a;
    q->accept.ids = block;
    q->accept.stops = stops;
    if (!block || !stops) return false;
    if (a->n_ids) memcpy(block, a->ids, a->n_ids * sizeof *block);
    if (a->n_stop_ids) memcpy(block + a->n_ids, a->stop_ids, a->n_stop_ids * sizeof *block);
    q->accept.stop_ids = block + a->n_ids;
    char *at = (char *)block + ids;
    for (size_t i = 0; i < a->n_stops; i++) stops[i] = copy_text(&at, a->stops[i]);
    q->accept.tag = copy_text(&at, a->tag);
    q->accept.tenant = copy_text(&at, a->tenant);
    q->bytes = ids + texts + 4 * a->n_stops + OVERHEAD_BYTES;
    return true;
}

static int apply_accept(struct journal_state *s, const struct journal_accept *a, struct why *why) {
    if (!a->number || journal_state_find(s, a->number))
        return fail(why, ERR_CORRUPT, "request %" PRIu64 " is accepted %s", a->number,
                    a->number ? "twice" : "without a number");
    struct journal_request *q = calloc(1, sizeof *q);
    if (!q || !copy_accept(q, a)) {
        request_free(q);
        return fail(why, ERR_NOMEM, "out of memory for a request of %zu tokens", a->n_ids);
    }
    if (s->n_requests > s->mask) widen(s);
    struct journal_request **bucket = &s->bucket[a->number & s->mask];
    q->next = *bucket;
    *bucket = q;
    list_append(&s->requests, &q->node);
    s->n_requests++;
    s->bytes += q->bytes;
    if (a->number > s->counters.request) s->counters.request = a->number;
    return 0;
}

static bool reserve(void **array, size_t each, size_t *cap, size_t need) {
    if (need <= *cap) return true;
    size_t more = *cap ? *cap * 2 : 16;
    if (more < need) more = need;
    void *p = realloc(*array, each * more);
    if (!p) return false;
    *array = p;
    *cap = more;
    return true;
}

static int apply_token(struct journal_state *s, const struct journal_token *t, struct why *why) {
    struct journal_request *q = journal_state_find(s, t->number);
    if (!q || q->finished || t->index != q->n_tokens) return 0; /* over, known already, or after a gap */
    if (!reserve((void **)&q->token, sizeof *q->token, &q->cap_tokens, q->n_tokens + 1) ||
        !reserve((void **)&q->top, sizeof *q->top, &q->cap_tops, q->n_tops + t->n_top))
        return fail(why, ERR_NOMEM, "out of memory for the tokens of request %" PRIu64, t->number);
    struct journal_token *to = &q->token[q->n_tokens++];
    *to = *t;
    to->top = NULL;
    if (t->n_top) memcpy(q->top + q->n_tops, t->top, t->n_top * sizeof *t->top);
    q->n_tops += t->n_top;
    q->bytes += 24 + 8 * (size_t)t->n_top;
    s->bytes += 24 + 8 * (size_t)t->n_top;
    return 0;
}

void journal_state_tops(struct journal_request *q) {
    const struct top_token *top = q->top;
    for (size_t i = 0; i < q->n_tokens; i++) {
        q->token[i].top = top;
        top += q->token[i].n_top;
    }
}

static int apply_finish(struct journal_state *s, const struct journal_finish *f, struct why *why) {
    struct journal_request *q = journal_state_find(s, f->number);
    if (!q || q->finished || (!f->status && f->tokens != q->n_tokens)) return 0;
    char *text = malloc(f->message.len + 1);
    if (!text) return fail(why, ERR_NOMEM, "out of memory for the end of request %" PRIu64, f->number);
    q->finish = *f;
    q->finish.message = copy_text(&(char *){text}, f->message);
    q->finished = true;
    q->bytes += f->message.len + OVERHEAD_BYTES / 2;
    s->bytes += f->message.len + OVERHEAD_BYTES / 2;
    return 0;
}

static void apply_forget(struct journal_state *s, uint64_t number) {
    struct journal_request *q = journal_state_find(s, number), **at = &s->bucket[number & s->mask];
    if (!q) return;
    while (*at != q) at = &(*at)->next;
    *at = q->next;
    list_remove(&q->node);
    s->n_requests--;
    s->bytes -= q->bytes;
    request_free(q);
}

static uint32_t max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Counters only grow, in whatever order they come. */
static void apply_start(struct journal_state *s, const struct journal_start *start) {
    const struct journal_counters *c = &start->counters;
    char model[sizeof s->model];
    size_t n = start->model.len < sizeof model - 1 ? start->model.len : sizeof model - 1;
    memcpy(model, start->model.data, n);
    model[n] = 0;
    utf8_copy(s->model, sizeof s->model, model);
    s->counters.epoch = max_u32(s->counters.epoch, c->epoch);
    s->counters.placement_version = max_u32(s->counters.placement_version, c->placement_version);
    s->counters.incarnation = max_u32(s->counters.incarnation, c->incarnation);
    if (c->request > s->counters.request) s->counters.request = c->request;
    s->started = true;
}

int journal_state_apply(struct journal_state *s, const struct journal_record *r, struct why *why) {
    int rc = 0;
    if (!s->started && r->kind != JOURNAL_START)
        return fail(why, ERR_CORRUPT, "a %s record comes first; wanted start", journal_kind_name(r->kind));
    switch (r->kind) {
    case JOURNAL_START: apply_start(s, &r->start); break;
    case JOURNAL_CLASS:
        if (r->numeric_class.len >= sizeof s->numeric_class || memchr(r->numeric_class.data, 0, r->numeric_class.len))
            return fail(why, ERR_CORRUPT, "a numeric class of %zu bytes", r->numeric_class.len);
        memcpy(s->numeric_class, r->numeric_class.data, r->numeric_class.len);
        s->numeric_class[r->numeric_class.len] = 0;
        break;
    case JOURNAL_ACCEPT: return apply_accept(s, &r->accept, why);
    case JOURNAL_TOKENS:
        for (size_t i = 0; rc >= 0 && i < r->tokens.n; i++) rc = apply_token(s, &r->tokens.token[i], why);
        break;
    case JOURNAL_FINISH: return apply_finish(s, &r->finish, why);
    case JOURNAL_FORGET: apply_forget(s, r->forget); break;
    default: break; /* of the file alone */
    }
    return rc;
}

static int dump_request(struct journal_request *q, struct journal_bytes *out) {
    int rc = journal_put(out, &(struct journal_record){.kind = JOURNAL_ACCEPT, .accept = q->accept});
    journal_state_tops(q);
    for (size_t i = 0; rc >= 0 && i < q->n_tokens; i += DUMP_TOKENS) {
        size_t n = q->n_tokens - i < DUMP_TOKENS ? q->n_tokens - i : DUMP_TOKENS;
        rc = journal_put(out, &(struct journal_record){.kind = JOURNAL_TOKENS, .tokens = {.token = q->token + i, .n = n}});
    }
    if (rc >= 0 && q->finished) rc = journal_put(out, &(struct journal_record){.kind = JOURNAL_FINISH, .finish = q->finish});
    return rc;
}

int journal_state_dump(struct journal_state *s, int64_t at_us, struct journal_bytes *out) {
    struct list *at, *next;
    struct text_slice model = {s->model, strlen(s->model)}, numbers = {s->numeric_class, strlen(s->numeric_class)};
    int rc = journal_put(out, &(struct journal_record){.kind = JOURNAL_START,
                                                       .start = {.counters = s->counters, .at_us = at_us, .model = model}});
    if (rc >= 0 && numbers.len)
        rc = journal_put(out, &(struct journal_record){.kind = JOURNAL_CLASS, .numeric_class = numbers});
    list_for(at, next, &s->requests) {
        if (rc < 0) return rc;
        rc = dump_request(list_entry(at, struct journal_request, node), out);
    }
    return rc;
}
