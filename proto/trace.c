/* trace.c - puts and gets of every field, byte by byte; checks of everything a reader is told. */
#include "proto/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_HEAD = 24, ROW_BROKEN = 18, HEAD_FIXED = 20 };

static void put16(uint8_t *p, uint16_t v) { p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8); }
static void put32(uint8_t *p, uint32_t v) { put16(p, (uint16_t)v), put16(p + 2, (uint16_t)(v >> 16)); }
static void put64(uint8_t *p, uint64_t v) { put32(p, (uint32_t)v), put32(p + 4, (uint32_t)(v >> 32)); }
static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16; }
static uint64_t get64(const uint8_t *p) { return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32; }
static void put_float(uint8_t *p, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put32(p, bits);
}
static float get_float(const uint8_t *p) {
    uint32_t bits = get32(p);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* ---- sizes ---- */
size_t trace_cell_bytes(int topk) { return 8 + ((size_t)topk * 6 + 3) / 4 * 4; }
size_t trace_row_bytes(const struct trace_shape *s) { return ROW_HEAD + (size_t)s->layers * trace_cell_bytes(s->topk); }

int trace_shape_check(const struct trace_shape *s, struct why *why) {
    bool experts = s->experts >= 1 && s->zero >= 0 && s->zero < TRACE_MAX_EXPERTS && s->experts <= TRACE_MAX_EXPERTS - s->zero;
    bool sizes = s->topk >= 1 && s->topk <= TRACE_MAX_TOPK && s->layers >= 1 && s->layers <= TRACE_MAX_LAYERS;
    bool cells = sizes && experts && s->layers <= TRACE_MAX_CELLS / s->experts;
    if (!cells)
        return fail(why, ERR_CORRUPT, "a trace of %d layers, %d experts, %d per token: expected 1 to %d, %d and %d", s->layers,
                    s->experts, s->topk, TRACE_MAX_LAYERS, TRACE_MAX_EXPERTS, TRACE_MAX_TOPK);
    return 0;
}

/* ---- writing ---- */
void trace_put_chunk(uint8_t *at, enum trace_kind kind, size_t payload_bytes) {
    put32(at, (uint32_t)kind);
    put32(at + 4, (uint32_t)payload_bytes);
}

void trace_put_rows(uint8_t *at, uint32_t worker, uint32_t rows, uint64_t step) {
    put32(at, worker);
    put32(at + 4, rows);
    put64(at + 8, step);
}

void trace_put_row(uint8_t *at, const struct trace_row *r) {
    put64(at, r->seq);
    put32(at + 8, (uint32_t)r->token);
    put32(at + 12, r->position);
    put16(at + 16, r->domain);
    put16(at + ROW_BROKEN, r->broken);
    memset(at + ROW_BROKEN + 2, 0, ROW_HEAD - ROW_BROKEN - 2);
}

/* A gate may break down while it is recorded; the record must not. */
static void put_sound(uint8_t *row, uint8_t *p, float v) {
    uint16_t broken = get16(row + ROW_BROKEN);
    if (!isfinite(v) && broken < UINT16_MAX) put16(row + ROW_BROKEN, (uint16_t)(broken + 1));
    put_float(p, isfinite(v) ? v : 0);
}

void trace_put_cell(uint8_t *row, int topk, int column, float entropy, float confidence, const float *weight,
                    const int32_t *expert) {
    uint8_t *at = row + ROW_HEAD + (size_t)column * trace_cell_bytes(topk), *ids = at + 8 + 4 * (size_t)topk;
    put_sound(row, at, entropy);
    put_sound(row, at + 4, confidence);
    for (int j = 0; j < topk; j++) {
        bool some = expert[j] >= 0 && expert[j] < TRACE_NO_EXPERT;
        put_sound(row, at + 8 + 4 * (size_t)j, some ? weight[j] : 0);
        put16(ids + 2 * (size_t)j, some ? (uint16_t)expert[j] : TRACE_NO_EXPERT);
    }
    if (topk & 1) put16(ids + 2 * (size_t)topk, 0);
}

size_t trace_make_head(uint8_t *at, size_t cap, const struct trace_shape *s) {
    size_t name = strlen(s->model), layers = (size_t)s->layers, payload = HEAD_FIXED + 4 * layers + name;
    if (cap < TRACE_CHUNK_HEAD + payload) return 0;
    trace_put_chunk(at, TRACE_HEAD, payload);
    uint8_t *p = at + TRACE_CHUNK_HEAD;
    put32(p, TRACE_VERSION);
    put32(p + 4, (uint32_t)s->experts);
    put32(p + 8, (uint32_t)s->zero);
    put32(p + 12, (uint32_t)s->topk);
    put32(p + 16, (uint32_t)s->layers);
    for (size_t i = 0; i < layers; i++) put32(p + HEAD_FIXED + 4 * i, (uint32_t)s->model_layer[i]);
    memcpy(p + HEAD_FIXED + 4 * layers, s->model, name);
    return TRACE_CHUNK_HEAD + payload;
}

size_t trace_make_name(uint8_t *at, size_t cap, uint32_t domain, const char *name) {
    size_t len = strlen(name), payload = 4 + len;
    if (len > TRACE_NAME_BYTES || cap < TRACE_CHUNK_HEAD + payload) return 0;
    trace_put_chunk(at, TRACE_NAME, payload);
    put32(at + TRACE_CHUNK_HEAD, domain);
    memcpy(at + TRACE_CHUNK_HEAD + 4, name, len);
    return TRACE_CHUNK_HEAD + payload;
}

static size_t make_numbers(uint8_t *at, size_t cap, enum trace_kind kind, const uint64_t *numbers, size_t n) {
    if (cap < TRACE_CHUNK_HEAD + 8 * n) return 0;
    trace_put_chunk(at, kind, 8 * n);
    for (size_t i = 0; i < n; i++) put64(at + TRACE_CHUNK_HEAD + 8 * i, numbers[i]);
    return TRACE_CHUNK_HEAD + 8 * n;
}
size_t trace_make_lost(uint8_t *at, size_t cap, uint64_t rows) { return make_numbers(at, cap, TRACE_LOST, &rows, 1); }
size_t trace_make_end(uint8_t *at, size_t cap, uint64_t rows, uint64_t lost) {
    return make_numbers(at, cap, TRACE_END, (uint64_t[]){rows, lost}, 2);
}

/* ---- reading ---- */
void trace_get_row(const uint8_t *at, struct trace_row *out) {
    *out = (struct trace_row){get64(at), (int32_t)get32(at + 8), get32(at + 12), get16(at + 16), get16(at + ROW_BROKEN)};
}

void trace_get_cell(const uint8_t *row, int topk, int column, struct trace_cell *out) {
    const uint8_t *at = row + ROW_HEAD + (size_t)column * trace_cell_bytes(topk), *ids = at + 8 + 4 * (size_t)topk;
    out->entropy = get_float(at);
    out->confidence = get_float(at + 4);
    for (int j = 0; j < topk; j++) {
        out->weight[j] = get_float(at + 8 + 4 * (size_t)j);
        out->expert[j] = get16(ids + 2 * (size_t)j);
    }
}

static int parse_head(const uint8_t *p, size_t n, struct trace_shape *s, struct why *why) {
    if (n < HEAD_FIXED) return fail(why, ERR_CORRUPT, "a head of %zu bytes, expected at least %d", n, HEAD_FIXED);
    if (get32(p) != TRACE_VERSION)
        return fail(why, ERR_UNSUPPORTED, "trace format %u, this reader knows %d", get32(p), TRACE_VERSION);
    uint32_t experts = get32(p + 4), zero = get32(p + 8), topk = get32(p + 12), layers = get32(p + 16);
    struct trace_shape shape = {.experts = experts > INT32_MAX ? -1 : (int)experts,
                                .zero = zero > INT32_MAX ? -1 : (int)zero,
                                .topk = topk > INT32_MAX ? -1 : (int)topk,
                                .layers = layers > INT32_MAX ? -1 : (int)layers};
    int rc = trace_shape_check(&shape, why);
    if (rc < 0) return rc;
    size_t fixed = HEAD_FIXED + 4 * (size_t)layers;
    if (n < fixed || n - fixed >= sizeof shape.model)
        return fail(why, ERR_CORRUPT, "a head of %zu bytes for %u layers, expected %zu and a name of less than %zu", n, layers,
                    fixed, sizeof shape.model);
    for (uint32_t i = 0; i < layers; i++) {
        shape.model_layer[i] = (int32_t)get32(p + HEAD_FIXED + 4 * (size_t)i);
        if (shape.model_layer[i] < (i ? shape.model_layer[i - 1] + 1 : 0) || shape.model_layer[i] > TRACE_MAX_LAYER)
            return fail(why, ERR_CORRUPT, "layer %d at place %u: expected ascending numbers up to %d", shape.model_layer[i], i,
                        TRACE_MAX_LAYER);
    }
    memcpy(shape.model, p + fixed, n - fixed);
    *s = shape;
    return 0;
}

static int check_cells(const uint8_t *row, const struct trace_shape *s, uint32_t t, struct why *why) {
    for (int layer = 0; layer < s->layers; layer++) {
        const uint8_t *at = row + ROW_HEAD + (size_t)layer * trace_cell_bytes(s->topk);
        const uint8_t *ids = at + 8 + 4 * (size_t)s->topk;
        if (!isfinite(get_float(at)) || !isfinite(get_float(at + 4)))
            return fail(why, ERR_CORRUPT, "row %u, layer %d: entropy or confidence is no number", t, s->model_layer[layer]);
        for (int j = 0; j < s->topk; j++) {
            uint16_t e = get16(ids + 2 * (size_t)j);
            if (e != TRACE_NO_EXPERT && e >= s->experts + s->zero)
                return fail(why, ERR_CORRUPT, "row %u, layer %d: expert %u of %d", t, s->model_layer[layer], e,
                            s->experts + s->zero);
            if (!isfinite(get_float(at + 8 + 4 * (size_t)j)))
                return fail(why, ERR_CORRUPT, "row %u, layer %d: a weight is no number", t, s->model_layer[layer]);
        }
    }
    return 0;
}

static int frame_rows(const uint8_t *p, size_t n, const struct trace_shape *s, struct trace_chunk *out, struct why *why) {
    if (!s->layers) return fail(why, ERR_CORRUPT, "rows before the head");
    if (n < TRACE_ROWS_HEAD) return fail(why, ERR_CORRUPT, "rows of %zu bytes, expected at least %d", n, TRACE_ROWS_HEAD);
    out->worker = get32(p);
    out->n = get32(p + 4);
    out->step = get64(p + 8);
    out->rows = p + TRACE_ROWS_HEAD;
    if (n - TRACE_ROWS_HEAD == (uint64_t)out->n * trace_row_bytes(s)) return 0;
    return fail(why, ERR_CORRUPT, "%u rows of %zu bytes in %zu bytes", out->n, trace_row_bytes(s), n - TRACE_ROWS_HEAD);
}

int trace_parse_rows(const uint8_t *chunk, size_t len, const struct trace_shape *shape, struct trace_chunk *out,
                     struct why *why) {
    *out = (struct trace_chunk){.kind = TRACE_ROWS};
    if (len < TRACE_CHUNK_HEAD || get32(chunk) != TRACE_ROWS || len - TRACE_CHUNK_HEAD != get32(chunk + 4))
        return fail(why, ERR_CORRUPT, "%zu bytes that are no chunk of rows", len);
    return frame_rows(chunk + TRACE_CHUNK_HEAD, len - TRACE_CHUNK_HEAD, shape, out, why);
}

static int parse_rows(const uint8_t *p, size_t n, const struct trace_shape *s, struct trace_chunk *out, struct why *why) {
    int framed = frame_rows(p, n, s, out, why);
    if (framed < 0) return framed;
    size_t each = trace_row_bytes(s);
    for (uint32_t t = 0; t < out->n; t++) {
        int rc = check_cells(out->rows + t * each, s, t, why);
        if (rc < 0) return rc;
        if (get16(out->rows + t * each + 16) >= TRACE_DOMAINS)
            return fail(why, ERR_CORRUPT, "row %u: domain %u of %d", t, get16(out->rows + t * each + 16), TRACE_DOMAINS);
    }
    return 0;
}

static int parse_name(const uint8_t *p, size_t n, struct trace_chunk *out, struct why *why) {
    if (n < 4 || n - 4 > TRACE_NAME_BYTES || get32(p) >= TRACE_DOMAINS)
        return fail(why, ERR_CORRUPT, "a name of %zu bytes for domain %u of %d", n, n < 4 ? 0 : get32(p), TRACE_DOMAINS);
    if (memchr(p + 4, 0, n - 4)) return fail(why, ERR_CORRUPT, "a name with a zero byte");
    out->domain = get32(p);
    memcpy(out->name, p + 4, n - 4);
    out->name[n - 4] = 0;
    return 0;
}

int trace_parse(const uint8_t *chunk, size_t len, struct trace_shape *shape, struct trace_chunk *out, struct why *why) {
    *out = (struct trace_chunk){0};
    if (len < TRACE_CHUNK_HEAD || len - TRACE_CHUNK_HEAD != get32(chunk + 4))
        return fail(why, ERR_CORRUPT, "a chunk of %zu bytes says that it has %u", len,
                    len < TRACE_CHUNK_HEAD ? 0 : get32(chunk + 4));
    const uint8_t *p = chunk + TRACE_CHUNK_HEAD;
    size_t n = len - TRACE_CHUNK_HEAD;
    out->kind = (enum trace_kind)get32(chunk);
    switch (out->kind) {
    case TRACE_HEAD: return parse_head(p, n, shape, why);
    case TRACE_NAME: return parse_name(p, n, out, why);
    case TRACE_ROWS: return parse_rows(p, n, shape, out, why);
    case TRACE_LOST:
        if (n != 8) return fail(why, ERR_CORRUPT, "a LOST chunk of %zu bytes, expected 8", n);
        out->lost = get64(p);
        return 0;
    case TRACE_END:
        if (n != 16) return fail(why, ERR_CORRUPT, "an END chunk of %zu bytes, expected 16", n);
        out->total = get64(p);
        out->lost = get64(p + 8);
        return 0;
    }
    return fail(why, ERR_CORRUPT, "a chunk of kind %u, which no trace has", get32(chunk));
}

/* The next chunk's bytes. 1; 0 at a clean end of the file, or where a writer was cut off inside a chunk. */
static int read_chunk(struct trace_reader *r, size_t *len, struct why *why) {
    uint8_t head[TRACE_CHUNK_HEAD];
    size_t n = fread(head, 1, sizeof head, r->file);
    if (n < sizeof head) return ferror(r->file) ? fail(why, ERR_IO, "cannot be read") : 0;
    size_t payload = get32(head + 4);
    if (payload > TRACE_CHUNK_LIMIT)
        return fail(why, ERR_CORRUPT, "a chunk of %zu bytes, expected at most %d", payload, TRACE_CHUNK_LIMIT);
    if (sizeof head + payload > r->cap) {
        uint8_t *more = realloc(r->buf, sizeof head + payload);
        if (!more) return fail(why, ERR_NOMEM, "out of memory for a chunk of %zu bytes", payload);
        r->buf = more;
        r->cap = sizeof head + payload;
    }
    memcpy(r->buf, head, sizeof head);
    if (fread(r->buf + sizeof head, 1, payload, r->file) < payload)
        return ferror(r->file) ? fail(why, ERR_IO, "cannot be read") : 0;
    *len = sizeof head + payload;
    return 1;
}

int trace_reader_open(struct trace_reader *r, FILE *f, struct why *why) {
    *r = (struct trace_reader){.file = f};
    char magic[TRACE_MAGIC_BYTES];
    struct trace_chunk c;
    if (fread(magic, 1, sizeof magic, f) < sizeof magic || memcmp(magic, TRACE_MAGIC, sizeof magic))
        return fail(why, ERR_CORRUPT, "not a trace: it does not begin with CDTRACE");
    int rc = trace_reader_next(r, &c, why);
    if (rc == 0 || (rc > 0 && c.kind != TRACE_HEAD)) rc = fail(why, ERR_CORRUPT, "the trace has no head");
    if (rc < 0) trace_reader_close(r);
    return rc < 0 ? rc : 0;
}

int trace_reader_next(struct trace_reader *r, struct trace_chunk *out, struct why *why) {
    size_t len = 0;
    if (r->ended) return 0;
    int rc = read_chunk(r, &len, why);
    if (rc <= 0) return rc;
    bool again = r->shape.layers && get32(r->buf) == TRACE_HEAD;
    rc = again ? fail(why, ERR_CORRUPT, "a second head") : trace_parse(r->buf, len, &r->shape, out, why);
    if (rc < 0) return rc;
    r->ended = out->kind == TRACE_END;
    return 1;
}

void trace_reader_close(struct trace_reader *r) {
    free(r->buf);
    r->buf = NULL;
    r->cap = 0;
}
