/* test_tracing.c - records of routing on their way to the client: in order, bounded, with every loss counted; and the numbers
 * that tags get, with the counts that workers report under them. */
#include "coordinator/tracing.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/failing.h"
#include "tests/unit/run.h"

static const struct trace_shape shape = {.experts = 8, .topk = 2, .layers = 2, .model_layer = {3, 5}, .model = "tiny"};
static const int moe_layers[2] = {1, 9};
static struct tracing t;
static struct domains d;
static struct call call;
static struct why why;

static void set_up(void) {
    tracing_init(&t);
    domains_init(&d, 4);
}

static void tear_down(void) {
    tracing_clear(&t);
    domains_clear(&d);
}

static struct text_slice slice(const char *s) { return (struct text_slice){s, strlen(s)}; }

/* rows of zeros: expert 0 twice, no weight. */
static uint8_t *make_rows(uint32_t n, uint64_t step, size_t *len) {
    size_t payload = TRACE_ROWS_HEAD + n * trace_row_bytes(&shape);
    uint8_t *chunk = calloc(1, TRACE_CHUNK_HEAD + payload);
    ck_assert_ptr_nonnull(chunk);
    trace_put_chunk(chunk, TRACE_ROWS, payload);
    trace_put_rows(chunk + TRACE_CHUNK_HEAD, 0, n, step);
    *len = TRACE_CHUNK_HEAD + payload;
    return chunk;
}

static int send_rows(uint32_t n, uint64_t step) {
    size_t len;
    uint8_t *chunk = make_rows(n, step, &len);
    int rc = tracing_rows(&t, chunk, len, &d, &why);
    free(chunk);
    return rc;
}

static struct trace_chunk take(enum trace_kind kind) {
    struct trace_shape s = shape;
    struct trace_chunk c;
    size_t len;
    const uint8_t *chunk = tracing_peek(&t, &len);
    ck_assert_ptr_nonnull(chunk);
    ck_assert_msg(trace_parse(chunk, len, &s, &c, &why) == 0, "%s", why.text);
    ck_assert_int_eq(c.kind, kind);
    c.rows = NULL; /* gone with tracing_sent */
    tracing_sent(&t);
    return c;
}

static void start(uint64_t from_step) {
    ck_assert_int_eq(tracing_start(&t, &call, &shape, moe_layers, from_step), 0);
    take(TRACE_HEAD);
}

START_TEST(in_order) {
    size_t len;
    ck_assert_int_eq(send_rows(3, 1), 0); /* nobody records */
    ck_assert_ptr_null(tracing_peek(&t, &len));
    ck_assert_int_eq(t.n_layers, 0);
    start(5);
    ck_assert_int_eq(t.n_layers, 2); /* layers 1 and 9 */
    ck_assert_int_eq(t.layers[0], 1 << 1);
    ck_assert_int_eq(t.layers[1], 1 << 1);
    ck_assert_int_eq(domains_number(&d, slice("code")), 1);
    ck_assert_int_eq(send_rows(3, 4), 0); /* of a plan before */
    ck_assert_ptr_null(tracing_peek(&t, &len));
    ck_assert_int_eq(send_rows(3, 5), 0);
    tracing_lost(&t, 5, 7);
    tracing_lost(&t, 4, 7);
    ck_assert_int_eq(send_rows(1, 6), 0);
    ck_assert_str_eq(take(TRACE_NAME).name, "code");
    ck_assert_uint_eq(take(TRACE_ROWS).n, 3);
    ck_assert_uint_eq(take(TRACE_LOST).lost, 7);
    ck_assert_uint_eq(take(TRACE_ROWS).step, 6);
    ck_assert_ptr_null(tracing_peek(&t, &len));
    tracing_stop(&t);
    ck_assert_int_eq(t.n_layers, 0);
}
END_TEST

START_TEST(bounded) {
    uint64_t rows = 0, lost = 0, sent = 0;
    size_t len;
    start(1);
    for (int i = 0; i < 60; i++, sent += 16000) ck_assert_int_eq(send_rows(16000, 1), 0); /* some 1 MB each */
    ck_assert_uint_le(t.queued_bytes, TRACING_QUEUE_BYTES);
    while (tracing_peek(&t, &len) && len > 1000) rows += take(TRACE_ROWS).n;
    ck_assert_int_eq(send_rows(1, 2), 0); /* there is room again: what was lost is told before it */
    while (tracing_peek(&t, &len)) {
        struct trace_chunk c = take(lost ? TRACE_ROWS : TRACE_LOST);
        lost += c.lost;
        rows += c.n;
    }
    ck_assert_uint_gt(lost, 0);
    ck_assert_uint_eq(rows + lost, sent + 1);
}
END_TEST

START_TEST(refusals) {
    size_t len;
    start(1);
    uint8_t *chunk = make_rows(2, 3, &len);
    ck_assert_int_eq(tracing_rows(&t, chunk, len - 1, &d, &why), ERR_PROTOCOL);
    ck_assert_int_eq(tracing_rows(&t, chunk, 3, &d, &why), ERR_PROTOCOL);
    chunk[0] = TRACE_NAME;
    ck_assert_int_eq(tracing_rows(&t, chunk, len, &d, &why), ERR_PROTOCOL);
    free(chunk);
}
END_TEST

START_TEST(numbers_of_tags) {
    char name[16];
    ck_assert_int_eq(domains_number(&d, slice("")), 0);
    ck_assert_int_eq(domains_number(&d, slice("code")), 1);
    ck_assert_int_eq(domains_number(&d, slice("codes")), 2);
    ck_assert_int_eq(domains_number(&d, slice("code")), 1);
    for (int i = 3; i < 40; i++) {
        snprintf(name, sizeof name, "tag%d", i);
        ck_assert_int_eq(domains_number(&d, slice(name)), i < TRACE_DOMAINS - 1 ? i : TRACE_DOMAINS - 1);
    }
    ck_assert_str_eq(d.name[TRACE_DOMAINS - 1], DOMAINS_REST);
    ck_assert_int_eq(domains_number(&d, slice("tag5")), 5);
}
END_TEST

START_TEST(counts_of_domains) {
    uint64_t tokens, sum[4], first[4] = {1, 2, 3, 4}, later[4] = {2, 2, 4, 4}, other[4] = {10, 0, 0, 0};
    domains_number(&d, slice("code"));
    ck_assert(!domains_sum(&d, 1, sum, &tokens));
    ck_assert_int_eq(domains_tally(&d, 0, 1, 5, first, 4, &why), 0);
    ck_assert_int_eq(domains_tally(&d, 0, 1, 6, later, 4, &why), 0); /* since the start: it replaces */
    ck_assert_int_eq(domains_tally(&d, 1, 1, 10, other, 4, &why), 0);
    ck_assert(domains_sum(&d, 1, sum, &tokens));
    ck_assert_uint_eq(sum[0], 12);
    ck_assert_uint_eq(sum[3], 4);
    ck_assert_uint_eq(tokens, 16);
    ck_assert_int_eq(domains_tally(&d, 0, 2, 1, first, 4, &why), ERR_PROTOCOL);
    ck_assert_int_eq(domains_tally(&d, 0, 0, 1, first, 4, &why), ERR_PROTOCOL);
    ck_assert_int_eq(domains_tally(&d, 0, 1, 1, first, 3, &why), ERR_PROTOCOL);
    for (int life = 1; life < 3; life++) { /* its successor counts from zero, and has one too */
        domains_succeed(&d, 0);
        ck_assert(domains_sum(&d, 1, sum, &tokens));
        ck_assert_uint_eq(sum[1], (uint64_t)(life == 1 ? 2 : 4));
        ck_assert_int_eq(domains_tally(&d, 0, 1, 5, first, 4, &why), 0);
        ck_assert(domains_sum(&d, 1, sum, &tokens));
        ck_assert_uint_eq(sum[1], (uint64_t)(2 + 2 * life));
        ck_assert_uint_eq(tokens, (uint64_t)(16 + 5 * life));
    }
}
END_TEST

START_TEST(counts_without_memory) { /* said once; then the domain has no counts, rather than those of some homes */
    uint64_t tokens, sum[4], some[4] = {1, 2, 3, 4};
    domains_number(&d, slice("code"));
    domains_number(&d, slice("prose"));
    ck_assert_int_eq(domains_tally(&d, 0, 1, 5, some, 4, &why), 0);
    left = 0;
    ck_assert_int_eq(domains_tally(&d, 1, 1, 5, some, 4, &why), ERR_NOMEM);
    ck_assert_ptr_nonnull(strstr(why.text, "'code'"));
    for (int w = 0; w < 3; w++) ck_assert_int_eq(domains_tally(&d, w, 1, 6, some, 4, &why), 0);
    ck_assert(!domains_sum(&d, 1, sum, &tokens));
    ck_assert_int_eq(domains_tally(&d, 0, 2, 5, some, 4, &why), 0);
    ck_assert(domains_sum(&d, 2, sum, &tokens));
}
END_TEST

RUN("tracing", set_up, tear_down, in_order, bounded, refusals, numbers_of_tags, counts_of_domains,
    counts_without_memory)
