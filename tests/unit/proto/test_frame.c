/* test_frame.c - frames survive the trip, limits hold, and the bytes shown in docs/PROTOCOL.md are the bytes we send. */
#include "base/status.h"
#include "proto/client.pb-c.h"
#include "proto/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

static const uint8_t id[FRAME_CALL_ID_BYTES] = {0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
                                                0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf};
static const struct frame_metadata pairs[] = {{"a", "1", 1}, {"b", "\0\xff", 2}};
static const struct frame frames[] = {
    {.kind = FRAME_OPEN, .method = "Generate", .timeout_ms = 30000, .credits = 64},
    {.kind = FRAME_DATA, .index = 0},
    {.kind = FRAME_DATA, .index = 1},
    {.kind = FRAME_CREDIT, .credits = 32},
    {.kind = FRAME_CANCEL},
    {.kind = FRAME_END},
    {.kind = FRAME_END, .status = 1, .message = "cancelled by the client"},
    {.kind = FRAME_PING},
    /* the rest is not in the document */
    {.kind = FRAME_OPEN, .method = "", .timeout_ms = UINT64_MAX, .credits = UINT32_MAX, .metadata = pairs, .n_metadata = 2},
    {.kind = FRAME_END, .status = 13, .message = "m", .metadata = pairs, .n_metadata = 2},
    {.kind = FRAME_DATA, .index = UINT64_MAX},
    {.kind = FRAME_UNKNOWN},
};
enum { FRAMES = sizeof frames / sizeof *frames, IN_DOCUMENT = 8 };

static int encode(const struct frame *from, uint8_t *buf, size_t cap) {
    struct frame f = *from;
    f.version = FRAME_VERSION;
    f.call_id = id;
    f.call_id_len = sizeof id;
    return frame_encode(&f, buf, cap);
}

START_TEST(round_trip) {
    const struct frame *f = &frames[_i];
    uint8_t buf[256];
    struct frame g;
    int n = encode(f, buf, sizeof buf);
    ck_assert_int_gt(n, 0);
    ck_assert_int_eq(encode(f, buf, (size_t)n - 1), ERR_TOO_LARGE);
    ck_assert_int_eq(encode(f, buf, (size_t)n), n);
    ck_assert_int_eq(frame_decode(buf, (size_t)n, &g), 0);
    ck_assert_int_eq(g.kind, f->kind);
    ck_assert_uint_eq(g.version, FRAME_VERSION);
    ck_assert_uint_eq(g.call_id_len, sizeof id);
    ck_assert_mem_eq(g.call_id, id, sizeof id);
    ck_assert_str_eq(g.method, f->method ? f->method : "");
    ck_assert_str_eq(g.message, f->message ? f->message : "");
    ck_assert_uint_eq(g.timeout_ms, f->timeout_ms);
    ck_assert_uint_eq(g.credits, f->credits);
    ck_assert_uint_eq(g.index, f->index);
    ck_assert_uint_eq(g.status, f->status);
    for (int i = 0; i < f->n_metadata; i++) {
        size_t len;
        const void *value = frame_metadata(&g, pairs[i].key, &len);
        ck_assert_ptr_nonnull(value);
        ck_assert_uint_eq(len, pairs[i].value_len);
        ck_assert_mem_eq(value, pairs[i].value, len);
    }
    size_t len;
    ck_assert_ptr_null(frame_metadata(&g, "c", &len));
    frame_clear(&g);
    frame_clear(&g);
}
END_TEST

START_TEST(limits) {
    static uint8_t big[FRAME_HEAD_LIMIT + 1];
    struct frame_metadata many[FRAME_METADATA_LIMIT + 1];
    struct frame f = {.kind = FRAME_OPEN, .method = "x", .metadata = many, .n_metadata = FRAME_METADATA_LIMIT + 1};
    for (int i = 0; i <= FRAME_METADATA_LIMIT; i++) many[i] = (struct frame_metadata){"k", "v", 1};
    ck_assert_int_eq(encode(&f, big, sizeof big), ERR_TOO_LARGE);
    f.n_metadata--;
    ck_assert_int_gt(encode(&f, big, sizeof big), 0);
    memset(big, 0, sizeof big);
    ck_assert_int_eq(frame_decode(big, sizeof big, &f), ERR_PROTOCOL);
    ck_assert_int_eq(frame_decode(big, 0, &f), ERR_PROTOCOL);
    ck_assert_int_eq(frame_decode("\xff", 1, &f), ERR_PROTOCOL);
}
END_TEST

/* All hexadecimal byte pairs of the document's example lines, as one string of words. */
static char *document_bytes(void) {
    static char all[8192], line[512];
    FILE *f = fopen(PROTOCOL_MD, "r");
    ck_assert_ptr_nonnull(f);
    size_t n = 0;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "      ", 6) || strspn(line, " 0123456789abcdef\n") != strlen(line)) {
            n += (size_t)snprintf(all + n, sizeof all - n, ".");
            continue;
        }
        for (char *p = line + strspn(line, " \n"); *p; p += strspn(p, " \n")) {
            int word = (int)strcspn(p, " \n");
            n += (size_t)snprintf(all + n, sizeof all - n, " %.*s", word, p);
            p += word;
        }
    }
    fclose(f);
    snprintf(all + n, sizeof all - n, ".");
    return all;
}

static void expect_bytes(const char *all, const uint8_t *bytes, size_t len) {
    char want[1024];
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += (size_t)snprintf(want + n, sizeof want - n, " %02x", bytes[i]);
    snprintf(want + n, sizeof want - n, ".");
    ck_assert_msg(strstr(all, want), "docs/PROTOCOL.md lacks%s", want);
}

START_TEST(document) {
    const char *all = document_bytes();
    uint8_t buf[256];
    for (int i = 0; i < IN_DOCUMENT; i++) expect_bytes(all, buf, (size_t)encode(&frames[i], buf, sizeof buf));
    Cadre__V1__GenerateRequest r;
    cadre__v1__generate_request__init(&r);
    r.input_case = CADRE__V1__GENERATE_REQUEST__INPUT_PROMPT;
    r.prompt = (ProtobufCBinaryData){10, (uint8_t *)"The sea is"};
    r.max_tokens = 2;
    r.has_max_tokens = 1;
    expect_bytes(all, buf, cadre__v1__generate_request__pack(&r, buf));
    Cadre__V1__GenerateEvent e;
    cadre__v1__generate_event__init(&e);
    Cadre__V1__Started started = CADRE__V1__STARTED__INIT;
    started.request = 1;
    started.prompt_tokens = 3;
    started.seed = 7;
    started.model = (char *)"m";
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_STARTED;
    e.started = &started;
    expect_bytes(all, buf, cadre__v1__generate_event__pack(&e, buf));
    Cadre__V1__TokenInfo token = CADRE__V1__TOKEN_INFO__INIT, *list = &token;
    Cadre__V1__Tokens tokens = CADRE__V1__TOKENS__INIT;
    token.id = 253;
    tokens.token = &list;
    tokens.n_token = 1;
    tokens.text = (ProtobufCBinaryData){2, (uint8_t *)" a"};
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_TOKENS;
    e.tokens = &tokens;
    expect_bytes(all, buf, cadre__v1__generate_event__pack(&e, buf));
}
END_TEST

int main(void) {
    Suite *s = suite_create("frame");
    TCase *c = tcase_create("frame");
    tcase_add_loop_test(c, round_trip, 0, FRAMES);
    tcase_add_test(c, limits);
    tcase_add_test(c, document);
    suite_add_tcase(s, c);
    return run_suite(s);
}
