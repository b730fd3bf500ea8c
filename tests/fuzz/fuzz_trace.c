/* fuzz_trace.c - a trace file's bytes: whatever is counted came from rows that were there, and no figure is more than all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/routing.h"
#include "tests/fuzz/fuzz.h"

static void check_layer(const struct routing *r, int layer) {
    uint64_t *rows = calloc(2 * (size_t)r->shape.experts, sizeof *rows), sum = 0;
    struct routing_layer l = {.rows = rows};
    struct figures f;
    FUZZ_CHECK(rows);
    routing_sum(r, -1, layer, &l);
    for (int e = 0; e < r->shape.experts; e++) sum += rows[e];
    FUZZ_CHECK(l.tokens == r->tokens && sum + l.zero <= r->tokens * (uint64_t)r->shape.topk);
    FUZZ_CHECK(l.right <= l.judged && l.pairs_right <= l.pairs && l.judged <= l.tokens);
    routing_figures(r, &l, &f, rows + r->shape.experts);
    FUZZ_CHECK(f.utilisation <= 1 && f.hottest <= 1.000001 && f.balancedness <= 1.000001);
    free(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct routing r;
    struct why why = {""};
    FILE *f = size ? fmemopen((void *)data, size, "rb") : NULL;
    if (!f) return 0;
    int rc = routing_read(&r, f, "code * 0\nb 1 1\n", "labels", &why);
    fclose(f);
    if (rc < 0) {
        FUZZ_CHECK(strlen(why.text) > 5);
        return 0;
    }
    uint64_t tokens = 0;
    for (int d = 0; d < TRACE_DOMAINS; d++) tokens += r.domain_tokens[d];
    FUZZ_CHECK(tokens == r.tokens);
    for (int i = 0; i < r.shape.layers && i < 2; i++) check_layer(&r, i);
    routing_clear(&r);
    return 0;
}

static void add_trace(fuzz_add add, const struct trace_shape *s, int n, bool end) {
    uint8_t bytes[4096];
    size_t len = TRACE_MAGIC_BYTES, each = trace_row_bytes(s);
    memcpy(bytes, TRACE_MAGIC, len);
    len += trace_make_head(bytes + len, sizeof bytes - len, s);
    len += trace_make_name(bytes + len, sizeof bytes - len, 1, "code");
    trace_put_chunk(bytes + len, TRACE_ROWS, TRACE_ROWS_HEAD + (size_t)n * each);
    trace_put_rows(bytes + len + TRACE_CHUNK_HEAD, 0, (uint32_t)n, 5);
    len += TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD;
    for (int t = 0; t < n; t++, len += each) {
        trace_put_row(bytes + len, &(struct trace_row){.seq = 3, .token = t, .position = (uint32_t)t, .domain = t & 1});
        for (int l = 0; l < s->layers; l++)
            trace_put_cell(bytes + len, s->topk, l, 1, 0.5f, (float[]){0.6f, 0.4f, 0.1f}, (int32_t[]){l, t, -1});
    }
    len += trace_make_lost(bytes + len, sizeof bytes - len, 2);
    if (end) len += trace_make_end(bytes + len, sizeof bytes - len, (uint64_t)n, 2);
    add(bytes, len);
}

void fuzz_seeds(fuzz_add add) {
    static const struct trace_shape a = {.experts = 8, .topk = 2, .layers = 3, .model_layer = {0, 1, 2}, .model = "a"};
    static const struct trace_shape b = {.experts = 4, .zero = 1, .topk = 3, .layers = 1, .model_layer = {7}};
    add_trace(add, &a, 4, true);
    add_trace(add, &b, 5, false);
    add_trace(add, &a, 0, true);
}
