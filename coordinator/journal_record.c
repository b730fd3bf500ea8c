/* journal_record.c - fixed fields first, then what their counts announce. */
#include "coordinator/journal_record.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_BYTES = 24, TOP_BYTES = 8 };

/* ---- writing ---- */
static uint8_t *grow(struct journal_bytes *b, size_t n) {
    if (b->cap - b->len < n) {
        size_t cap = b->cap ? b->cap : 4096;
        while (cap - b->len < n) cap *= 2;
        uint8_t *data = realloc(b->data, cap);
        if (!data) return NULL;
        b->data = data;
        b->cap = cap;
    }
    b->len += n;
    return b->data + b->len - n;
}

void journal_bytes_clear(struct journal_bytes *b) {
    free(b->data);
    *b = (struct journal_bytes){0};
}

struct pen { /* writes into a stretch that was made large enough */
    uint8_t *at;
};
static void put_u32(struct pen *p, uint32_t v) {
    v = htole32(v);
    memcpy(p->at, &v, sizeof v);
    p->at += sizeof v;
}
static void put_u64(struct pen *p, uint64_t v) {
    v = htole64(v);
    memcpy(p->at, &v, sizeof v);
    p->at += sizeof v;
}
static void put_f32(struct pen *p, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u32(p, bits);
}
static void put_text(struct pen *p, struct text_slice t) {
    put_u32(p, (uint32_t)t.len);
    if (t.len) memcpy(p->at, t.data, t.len);
    p->at += t.len;
}
static void put_ids(struct pen *p, const int32_t *ids, size_t n) {
    put_u32(p, (uint32_t)n);
    for (size_t i = 0; i < n; i++) put_u32(p, (uint32_t)ids[i]);
}
static size_t text_bytes(struct text_slice t) { return 4 + t.len; }

/* Makes room for a record with so much payload. NULL: no memory. */
static uint8_t *open_record(struct journal_bytes *b, enum journal_kind kind, size_t bytes) {
    size_t from = b->len;
    uint8_t *at = grow(b, JOURNAL_HEAD_BYTES + bytes);
    if (!at) return NULL;
    b->record = from;
    put_u32(&(struct pen){at}, (uint32_t)bytes);
    put_u32(&(struct pen){at + 4}, (uint32_t)kind);
    put_u64(&(struct pen){at + 8}, 0);
    return at + JOURNAL_HEAD_BYTES;
}

static size_t start_bytes(const struct journal_start *s) { return 12 + 8 + 8 + text_bytes(s->model); }
static void put_start(struct pen *p, const struct journal_start *s) {
    put_u32(p, s->counters.epoch);
    put_u32(p, s->counters.placement_version);
    put_u32(p, s->counters.incarnation);
    put_u64(p, s->counters.request);
    put_u64(p, (uint64_t)s->at_us);
    put_text(p, s->model);
}

static size_t accept_bytes(const struct journal_accept *a) {
    size_t n = JOURNAL_ID_BYTES + 3 * 8 + 3 * 4 + 4 + 8 + 4 + 3 * 4;
    n += 4 + 4 * a->n_ids + 4 + 4 * a->n_stop_ids + 4;
    for (size_t i = 0; i < a->n_stops; i++) n += text_bytes(a->stops[i]);
    return n + text_bytes(a->tag) + text_bytes(a->tenant);
}
static void put_accept(struct pen *p, const struct journal_accept *a) {
    memcpy(p->at, a->id, JOURNAL_ID_BYTES);
    p->at += JOURNAL_ID_BYTES;
    put_u64(p, a->number);
    put_u64(p, (uint64_t)a->at_us);
    put_u64(p, (uint64_t)a->deadline_us);
    put_f32(p, a->sampling.temperature);
    put_f32(p, a->sampling.top_p);
    put_f32(p, a->sampling.min_p);
    put_u32(p, a->sampling.top_k);
    put_u64(p, a->sampling.seed);
    put_u32(p, a->sampling.logprobs);
    put_u32(p, (uint32_t)a->priority);
    put_u32(p, a->max_tokens);
    put_u32(p, a->allow_degraded);
    put_ids(p, a->ids, a->n_ids);
    put_ids(p, a->stop_ids, a->n_stop_ids);
    put_u32(p, (uint32_t)a->n_stops);
    for (size_t i = 0; i < a->n_stops; i++) put_text(p, a->stops[i]);
    put_text(p, a->tag);
    put_text(p, a->tenant);
}

static size_t finish_bytes(const struct journal_finish *f) { return 8 + 4 * 4 + 3 * 8 + text_bytes(f->message); }
static void put_finish(struct pen *p, const struct journal_finish *f) {
    put_u64(p, f->number);
    put_u32(p, f->status);
    put_u32(p, f->tokens);
    put_u32(p, f->preemptions);
    put_u32(p, (uint32_t)f->stop | (uint32_t)f->degraded << 1);
    put_u64(p, f->queue_us);
    put_u64(p, f->prefill_us);
    put_u64(p, f->decode_us);
    put_text(p, f->message);
}

int journal_put_tokens(struct journal_bytes *b, uint64_t step) {
    uint8_t *at = open_record(b, JOURNAL_TOKENS, 12);
    if (!at) return ERR_NOMEM;
    put_u64(&(struct pen){at}, step);
    return 0;
}

int journal_put_token(struct journal_bytes *b, const struct journal_token *t) {
    struct pen p = {grow(b, TOKEN_BYTES + TOP_BYTES * (size_t)t->n_top)};
    if (!p.at) {
        b->len = b->record;
        return ERR_NOMEM;
    }
    put_u64(&p, t->number);
    put_u32(&p, t->index);
    put_u32(&p, (uint32_t)t->id);
    put_f32(&p, t->logprob);
    put_u32(&p, t->n_top);
    for (uint32_t i = 0; i < t->n_top; i++) {
        put_u32(&p, (uint32_t)t->top[i].id);
        put_f32(&p, t->top[i].logprob);
    }
    return 0;
}

/* The count is not needed to read the record, but has to agree with its length. */
int journal_put_end(struct journal_bytes *b) {
    size_t len = b->len - b->record - JOURNAL_HEAD_BYTES;
    uint8_t *payload = b->data + b->record + JOURNAL_HEAD_BYTES;
    uint32_t n = 0;
    if (len > JOURNAL_RECORD_BYTES) {
        b->len = b->record;
        return ERR_TOO_LARGE;
    }
    for (size_t at = 12; at < len; n++) {
        uint32_t tops;
        memcpy(&tops, payload + at + TOKEN_BYTES - 4, sizeof tops);
        at += TOKEN_BYTES + TOP_BYTES * (size_t)le32toh(tops);
    }
    put_u32(&(struct pen){payload + 8}, n);
    put_u32(&(struct pen){b->data + b->record}, (uint32_t)len);
    return 0;
}

static int put_all_tokens(struct journal_bytes *b, const struct journal_tokens *t) {
    int rc = journal_put_tokens(b, t->step);
    for (size_t i = 0; rc >= 0 && i < t->n; i++) rc = journal_put_token(b, &t->token[i]);
    return rc < 0 ? rc : journal_put_end(b);
}

static size_t payload_bytes(const struct journal_record *r) {
    switch (r->kind) {
    case JOURNAL_START: return start_bytes(&r->start);
    case JOURNAL_CLASS: return text_bytes(r->numeric_class);
    case JOURNAL_ACCEPT: return accept_bytes(&r->accept);
    case JOURNAL_FINISH: return finish_bytes(&r->finish);
    default: return 8;
    }
}

int journal_put(struct journal_bytes *b, const struct journal_record *r) {
    if (r->kind == JOURNAL_TOKENS) return put_all_tokens(b, &r->tokens);
    size_t bytes = payload_bytes(r);
    if (bytes > JOURNAL_RECORD_BYTES) return ERR_TOO_LARGE;
    struct pen p = {open_record(b, r->kind, bytes)};
    if (!p.at) return ERR_NOMEM;
    switch (r->kind) {
    case JOURNAL_START: put_start(&p, &r->start); break;
    case JOURNAL_CLASS: put_text(&p, r->numeric_class); break;
    case JOURNAL_ACCEPT: put_accept(&p, &r->accept); break;
    case JOURNAL_FINISH: put_finish(&p, &r->finish); break;
    case JOURNAL_FORGET: put_u64(&p, r->forget); break;
    default: put_u64(&p, r->synced); break;
    }
    return 0;
}

/* ---- reading ---- */
struct eye { /* once it has read beyond the end it yields zeros */
    const uint8_t *at;
    size_t left;
    bool bad, nomem;
};
static const uint8_t *take(struct eye *e, size_t n) {
    if (e->left < n) e->bad = true;
    if (e->bad) return NULL;
    e->at += n;
    e->left -= n;
    return e->at - n;
}
static uint32_t get_u32(struct eye *e) {
    uint32_t v = 0;
    const uint8_t *p = take(e, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return le32toh(v);
}
static uint64_t get_u64(struct eye *e) {
    uint64_t v = 0;
    const uint8_t *p = take(e, sizeof v);
    if (p) memcpy(&v, p, sizeof v);
    return le64toh(v);
}
static float get_f32(struct eye *e) {
    uint32_t bits = get_u32(e);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static bool get_flag(struct eye *e) {
    uint32_t v = get_u32(e);
    if (v > 1) e->bad = true;
    return v;
}
static struct text_slice get_text(struct eye *e) {
    uint32_t len = get_u32(e);
    if (len > JOURNAL_TEXT_BYTES) e->bad = true;
    const uint8_t *p = take(e, len);
    return p ? (struct text_slice){(const char *)p, len} : (struct text_slice){"", 0};
}
static size_t get_count(struct eye *e, size_t each) {
    uint32_t n = get_u32(e);
    if (n > e->left / each) e->bad = true;
    return e->bad ? 0 : n;
}
static const int32_t *get_ids(struct eye *e, struct arena *arena, size_t *n) {
    *n = get_count(e, 4);
    int32_t *ids = arena_array(arena, int32_t, *n);
    if (!ids) e->nomem = e->bad = true;
    for (size_t i = 0; ids && i < *n; i++) ids[i] = (int32_t)get_u32(e);
    return ids;
}

static void get_start(struct eye *e, struct journal_start *s) {
    s->counters.epoch = get_u32(e);
    s->counters.placement_version = get_u32(e);
    s->counters.incarnation = get_u32(e);
    s->counters.request = get_u64(e);
    s->at_us = (int64_t)get_u64(e);
    s->model = get_text(e);
}

static void get_stops(struct eye *e, struct arena *arena, struct journal_accept *a) {
    a->n_stops = get_count(e, 4);
    if (a->n_stops > JOURNAL_TEXTS) e->bad = true;
    struct text_slice *stops = e->bad ? NULL : arena_array(arena, struct text_slice, a->n_stops);
    if (!stops && !e->bad) e->nomem = e->bad = true;
    for (size_t i = 0; stops && i < a->n_stops; i++) stops[i] = get_text(e);
    a->stops = stops;
}

static void get_accept(struct eye *e, struct arena *arena, struct journal_accept *a) {
    const uint8_t *id = take(e, JOURNAL_ID_BYTES);
    if (id) memcpy(a->id, id, JOURNAL_ID_BYTES);
    a->number = get_u64(e);
    a->at_us = (int64_t)get_u64(e);
    a->deadline_us = (int64_t)get_u64(e);
    a->sampling.temperature = get_f32(e);
    a->sampling.top_p = get_f32(e);
    a->sampling.min_p = get_f32(e);
    a->sampling.top_k = get_u32(e);
    a->sampling.seed = get_u64(e);
    a->sampling.logprobs = get_u32(e);
    a->priority = (int32_t)get_u32(e);
    a->max_tokens = get_u32(e);
    a->allow_degraded = get_flag(e);
    a->ids = get_ids(e, arena, &a->n_ids);
    a->stop_ids = get_ids(e, arena, &a->n_stop_ids);
    get_stops(e, arena, a);
    a->tag = get_text(e);
    a->tenant = get_text(e);
}

static void get_token(struct eye *e, struct arena *arena, struct journal_token *t) {
    t->number = get_u64(e);
    t->index = get_u32(e);
    t->id = (int32_t)get_u32(e);
    t->logprob = get_f32(e);
    t->n_top = (uint32_t)get_count(e, TOP_BYTES);
    if (t->n_top > MSG_MAX_TOP) e->bad = true;
    if (e->bad || !t->n_top) return;
    struct top_token *top = arena_array(arena, struct top_token, t->n_top);
    if (!top) {
        e->nomem = e->bad = true;
        return;
    }
    for (uint32_t i = 0; i < t->n_top; i++) {
        top[i].id = (int32_t)get_u32(e);
        top[i].logprob = get_f32(e);
    }
    t->top = top;
}

static void get_tokens(struct eye *e, struct arena *arena, struct journal_tokens *t) {
    t->step = get_u64(e);
    t->n = get_count(e, TOKEN_BYTES);
    struct journal_token *token = arena_array(arena, struct journal_token, t->n);
    if (!token) e->nomem = e->bad = true;
    for (size_t i = 0; token && i < t->n && !e->bad; i++) get_token(e, arena, &token[i]);
    t->token = token;
}

static void get_finish(struct eye *e, struct journal_finish *f) {
    f->number = get_u64(e);
    f->status = get_u32(e);
    f->tokens = get_u32(e);
    f->preemptions = get_u32(e);
    uint32_t flags = get_u32(e);
    if (flags > 3) e->bad = true;
    f->stop = flags & 1;
    f->degraded = flags >> 1 & 1;
    f->queue_us = get_u64(e);
    f->prefill_us = get_u64(e);
    f->decode_us = get_u64(e);
    f->message = get_text(e);
}

int journal_decode(uint32_t kind, const uint8_t *payload, size_t len, struct arena *arena, struct journal_record *out,
                   struct why *why) {
    struct eye e = {.at = payload, .left = len};
    memset(out, 0, sizeof *out);
    out->kind = (enum journal_kind)kind;
    switch (kind) {
    case JOURNAL_START: get_start(&e, &out->start); break;
    case JOURNAL_CLASS: out->numeric_class = get_text(&e); break;
    case JOURNAL_ACCEPT: get_accept(&e, arena, &out->accept); break;
    case JOURNAL_TOKENS: get_tokens(&e, arena, &out->tokens); break;
    case JOURNAL_FINISH: get_finish(&e, &out->finish); break;
    case JOURNAL_FORGET: out->forget = get_u64(&e); break;
    case JOURNAL_SYNCED: out->synced = get_u64(&e); break;
    default: return fail(why, ERR_CORRUPT, "a record of kind %u; this version knows 1 to %d", kind, JOURNAL_KINDS - 1);
    }
    if (e.nomem) return fail(why, ERR_NOMEM, "out of memory for a record of %zu bytes", len);
    if (e.bad || e.left)
        return fail(why, ERR_CORRUPT, "its %s record of %zu bytes has fields that do not fit it", journal_kind_name(kind), len);
    return 0;
}

const char *journal_kind_name(uint32_t kind) {
    static const char *const names[] = {"?", "start", "class", "accept", "tokens", "finish", "forget", "synced"};
    return kind < JOURNAL_KINDS ? names[kind] : "?";
}

struct journal_head journal_get_head(const uint8_t *at) {
    struct eye e = {.at = at, .left = JOURNAL_HEAD_BYTES};
    struct journal_head h = {.len = get_u32(&e)};
    h.kind = get_u32(&e);
    h.sum = get_u64(&e);
    return h;
}

void journal_put_sum(uint8_t *at, uint64_t sum) { put_u64(&(struct pen){at + 8}, sum); }
