/* test_pb_arena.c - messages over arenas: there and back, what a small message may cost, what is kept afterwards. */
#include "proto/client.pb-c.h"
#include "proto/pb_arena.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

enum { KEEP = 256 << 10, LIMIT = 1 << 20 };
static struct pb_arena pb;

static void setup(void) { pb_arena_init(&pb, KEEP, LIMIT); }
static void teardown(void) { pb_arena_clear(&pb); }

START_TEST(there_and_back) {
    Cadre__V1__TokenizeReply m = CADRE__V1__TOKENIZE_REPLY__INIT;
    int32_t ids[] = {3, -1, 1 << 30};
    size_t len;
    m.ids = ids;
    m.n_ids = 3;
    for (int i = 0; i < 3; i++) {
        pb_arena_reset_out(&pb);
        const uint8_t *bytes = pb_arena_pack(&pb, &m.base, &len);
        ck_assert_ptr_nonnull(bytes);
        const Cadre__V1__TokenizeReply *back = pb_arena_unpack(&pb, m.base.descriptor, bytes, len);
        ck_assert_ptr_nonnull(back);
        ck_assert_uint_eq(back->n_ids, 3);
        ck_assert(!memcmp(back->ids, ids, sizeof ids));
    }
    ck_assert_ptr_null(pb_arena_unpack(&pb, m.base.descriptor, (const uint8_t *)"\xff\xff", 2));
}
END_TEST

START_TEST(amplification_is_limited) { /* empty messages: two bytes each on the wire, some hundred in memory */
    enum { N = 100000 };
    uint8_t *bytes = malloc(2 * N);
    for (int i = 0; i < N; i++) bytes[2 * i] = 0x0a, bytes[2 * i + 1] = 0;
    ck_assert_ptr_null(pb_arena_unpack(&pb, &cadre__v1__chat__descriptor, bytes, 2 * N));
    ck_assert_uint_le(pb.in.held, 2 * LIMIT);
    const Cadre__V1__Chat *m = pb_arena_unpack(&pb, &cadre__v1__chat__descriptor, bytes, 2 * 1000);
    ck_assert_ptr_nonnull(m);
    ck_assert_uint_eq(m->n_messages, 1000);
    ck_assert_ptr_nonnull(pb_arena_unpack(&pb, &cadre__v1__chat__descriptor, bytes, 2));
    ck_assert_uint_le(pb.in.held, KEEP);
    free(bytes);
}
END_TEST

int main(void) {
    Suite *s = suite_create("pb_arena");
    TCase *c = tcase_create("pb_arena");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, there_and_back);
    tcase_add_test(c, amplification_is_limited);
    suite_add_tcase(s, c);
    return run_suite(s);
}
