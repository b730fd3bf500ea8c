/* test_trace.c - chunks come out as they went in; whatever is cut, changed or out of order is refused and never read beyond. */
#include "proto/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

static const struct trace_shape shape = {
    .experts = 6, .zero = 1, .topk = 3, .layers = 2, .model_layer = {1, 4}, .model = "tiny"};
static struct why why;

enum { ROWS = 3, CAP = 4096 };

static size_t make_rows(uint8_t *at) {
    size_t each = trace_row_bytes(&shape), payload = TRACE_ROWS_HEAD + ROWS * each;
    trace_put_chunk(at, TRACE_ROWS, payload);
    trace_put_rows(at + TRACE_CHUNK_HEAD, 2, ROWS, 77);
    uint8_t *row = at + TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD;
    for (int t = 0; t < ROWS; t++, row += each) {
        trace_put_row(row, &(struct trace_row){UINT64_C(1) << 40, -5 + t, (uint32_t)(100 + t), (uint16_t)t, 0});
        for (int l = 0; l < shape.layers; l++)
            trace_put_cell(row, shape.topk, l, 0.5f + (float)t, 0.25f * (float)l, (float[]){0.5f, 0.25f, 9},
                           (int32_t[]){t, 6, -1});
    }
    return TRACE_CHUNK_HEAD + payload;
}

/* A gate that broke down is recorded as 0, and the row says how often: a recording does not end for it. */
START_TEST(what_is_not_finite) {
    uint8_t chunk[CAP];
    struct trace_shape s = shape;
    struct trace_chunk c;
    struct trace_row row;
    struct trace_cell cell;
    size_t len = make_rows(chunk), each = trace_row_bytes(&s);
    uint8_t *second = chunk + TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD + each;
    trace_put_cell(second, s.topk, 0, NAN, -INFINITY, (float[]){NAN, 0.5f, NAN}, (int32_t[]){0, 1, -1});
    trace_put_cell(second, s.topk, 1, 1, 0.5f, (float[]){0.5f, INFINITY, 0}, (int32_t[]){0, 1, -1});
    ck_assert_msg(trace_parse(chunk, len, &s, &c, &why) == 0, "%s", why.text);
    trace_get_row(c.rows + each, &row);
    ck_assert_uint_eq(row.broken, 4);
    trace_get_cell(c.rows + each, s.topk, 0, &cell);
    ck_assert(cell.entropy == 0 && cell.confidence == 0 && cell.weight[0] == 0 && cell.weight[1] == 0.5f);
    trace_get_row(c.rows, &row);
    ck_assert_uint_eq(row.broken, 0);
}
END_TEST

START_TEST(what_goes_in_comes_out) {
    uint8_t chunk[CAP];
    struct trace_shape s = {0};
    struct trace_chunk c;
    size_t len = trace_make_head(chunk, sizeof chunk, &shape);
    ck_assert_int_eq(trace_parse(chunk, len, &s, &c, &why), 0);
    ck_assert_int_eq(c.kind, TRACE_HEAD);
    ck_assert_int_eq(memcmp(&s, &shape, sizeof s), 0);
    len = make_rows(chunk);
    ck_assert_msg(trace_parse(chunk, len, &s, &c, &why) == 0, "%s", why.text);
    ck_assert_uint_eq(c.worker, 2);
    ck_assert_uint_eq(c.n, ROWS);
    ck_assert_uint_eq(c.step, 77);
    struct trace_row row;
    struct trace_cell cell;
    trace_get_row(c.rows + 2 * trace_row_bytes(&s), &row);
    ck_assert_uint_eq(row.seq, UINT64_C(1) << 40);
    ck_assert_int_eq(row.token, -3);
    ck_assert_uint_eq(row.position, 102);
    ck_assert_uint_eq(row.domain, 2);
    trace_get_cell(c.rows + 2 * trace_row_bytes(&s), s.topk, 1, &cell);
    ck_assert(cell.entropy == 2.5f && cell.confidence == 0.25f);
    ck_assert(cell.weight[0] == 0.5f && cell.weight[1] == 0.25f && cell.weight[2] == 0); /* no expert, no weight */
    ck_assert_uint_eq(cell.expert[0], 2);
    ck_assert_uint_eq(cell.expert[1], 6); /* without weights */
    ck_assert_uint_eq(cell.expert[2], TRACE_NO_EXPERT);
}
END_TEST

START_TEST(small_chunks) {
    uint8_t chunk[CAP];
    struct trace_shape s = {0};
    struct trace_chunk c;
    ck_assert_int_eq(trace_parse(chunk, trace_make_name(chunk, sizeof chunk, 3, "code"), &s, &c, &why), 0);
    ck_assert_uint_eq(c.domain, 3);
    ck_assert_str_eq(c.name, "code");
    ck_assert_int_eq(trace_parse(chunk, trace_make_lost(chunk, sizeof chunk, 9), &s, &c, &why), 0);
    ck_assert_uint_eq(c.lost, 9);
    ck_assert_int_eq(trace_parse(chunk, trace_make_end(chunk, sizeof chunk, 11, 9), &s, &c, &why), 0);
    ck_assert_uint_eq(c.total, 11);
    ck_assert_uint_eq(trace_make_name(chunk, 10, 3, "code"), 0);
    ck_assert_uint_eq(trace_make_head(chunk, 20, &shape), 0);
}
END_TEST

static void refused(const uint8_t *chunk, size_t len, const char *text) {
    struct trace_shape s = shape;
    struct trace_chunk c;
    ck_assert_int_lt(trace_parse(chunk, len, &s, &c, &why), 0);
    ck_assert_msg(strstr(why.text, text) != NULL, "'%s' does not say '%s'", why.text, text);
}

START_TEST(refusals) {
    uint8_t chunk[CAP], copy[CAP];
    size_t len = make_rows(chunk), first = TRACE_CHUNK_HEAD + TRACE_ROWS_HEAD;
    for (size_t cut = 0; cut < len; cut++) refused(chunk, cut, "chunk of");
    memcpy(copy, chunk, len);
    copy[first + 16] = TRACE_DOMAINS;
    refused(copy, len, "domain");
    memcpy(copy, chunk, len);
    copy[first + 24 + 8 + 12] = 7; /* the first id */
    refused(copy, len, "expert 7 of 7");
    memcpy(copy, chunk, len);
    memset(copy + first + 24, 0xff, 4); /* entropy */
    refused(copy, len, "entropy");
    memcpy(copy, chunk, len);
    copy[TRACE_CHUNK_HEAD + 4] = ROWS + 1;
    refused(copy, len, "4 rows");
    struct trace_shape none = {0};
    struct trace_chunk c;
    ck_assert_int_lt(trace_parse(chunk, len, &none, &c, &why), 0);
    ck_assert_ptr_nonnull(strstr(why.text, "before the head"));
    copy[0] = 99;
    refused(copy, len, "kind 99");
    len = trace_make_head(copy, sizeof copy, &shape);
    copy[TRACE_CHUNK_HEAD] = 2;
    refused(copy, len, "format 2");
    copy[TRACE_CHUNK_HEAD] = 1;
    copy[TRACE_CHUNK_HEAD + 20] = 4; /* the first layer */
    refused(copy, len, "ascending");
    copy[TRACE_CHUNK_HEAD + 15] = 1; /* top-k */
    refused(copy, len, "per token");
}
END_TEST

static FILE *file_of(const uint8_t *bytes, size_t len) {
    FILE *f = fmemopen((void *)bytes, len, "rb");
    ck_assert_ptr_nonnull(f);
    return f;
}

static size_t make_file(uint8_t *at, bool end) {
    size_t n = TRACE_MAGIC_BYTES;
    memcpy(at, TRACE_MAGIC, n);
    n += trace_make_head(at + n, CAP - n, &shape);
    n += trace_make_name(at + n, CAP - n, 1, "code");
    n += make_rows(at + n);
    return end ? n + trace_make_end(at + n, CAP - n, ROWS, 0) : n;
}

static int kinds(const uint8_t *bytes, size_t len, bool *ended) {
    struct trace_reader r;
    struct trace_chunk c;
    FILE *f = file_of(bytes, len);
    int n = 0, rc = trace_reader_open(&r, f, &why);
    while (rc >= 0 && (rc = trace_reader_next(&r, &c, &why)) > 0) n++;
    *ended = rc >= 0 && r.ended;
    trace_reader_close(&r);
    fclose(f);
    return rc < 0 ? rc : n;
}

START_TEST(files) {
    uint8_t bytes[CAP];
    bool ended;
    size_t len = make_file(bytes, true);
    ck_assert_int_eq(kinds(bytes, len, &ended), 3);
    ck_assert(ended);
    len = make_file(bytes, false);
    ck_assert_int_eq(kinds(bytes, len, &ended), 2);
    ck_assert(!ended);
    ck_assert_int_eq(kinds(bytes, len - 5, &ended), 1); /* its writer was killed inside a chunk */
    bytes[0] = 'X';
    ck_assert_int_eq(kinds(bytes, len, &ended), ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(why.text, "not a trace"));
    len = make_file(bytes, false);
    len += trace_make_head(bytes + len, CAP - len, &shape);
    ck_assert_int_eq(kinds(bytes, len, &ended), ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(why.text, "second head"));
}
END_TEST

RUN("trace", NULL, NULL, what_goes_in_comes_out, what_is_not_finite, small_chunks, refusals, files)
