/* test_ep_frame.c - every lie a frame can tell is refused, each with its own words; random damage does not get past them. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "fabric/ep.h"
#include "fabric/ep_frame.h"

#include "tests/unit/run.h"


enum { ROOM = 4096, SOURCE = 3, HIDDEN = 5, EXTRA = 2 };
static _Alignas(64) unsigned char room[ROOM];
static const struct ep_bounds bounds = {.tokens = 4, .topk = 2, .slots = 6};
static const struct ep_wire wire = {
    .max_tokens = 8, .topk = 2, .hidden = HIDDEN, .extra = EXTRA, .part_tokens = 4, .part_answers = 6};

/* Three rows, five pairs: 0 0 1 2 2. Returns its bytes. */
static size_t make_dispatch(void) {
    static const struct ep_pair pairs[] = {{0, 1}, {0, 5}, {1, 0}, {2, 3}, {2, 2}};
    struct ep_part p = {.key = {9, 1ull << 40, 2}, .source = SOURCE, .home = SOURCE, .tokens = 3, .pairs = 5, .all_tokens = 3,
                        .all_pairs = 5};
    memset(room, 0xee, sizeof room);
    size_t bytes = ep_frame_begin(room, &wire, &p);
    memcpy(ep_frame_pairs(room), pairs, sizeof pairs);
    for (int i = 0; i < 3 * HIDDEN; i++) ((float *)ep_frame_rows(&wire, room))[i] = (float)i;
    return bytes;
}

static int judge(const void *frame, size_t bytes, struct why *why) {
    const struct ep_header *h;
    int rc = ep_frame_open(frame, bytes, SOURCE, &h, why);
    if (rc >= 0) rc = ep_frame_check(h, &wire, why);
    if (rc < 0 || h->kind != EP_DISPATCH || h->parts > 1) return rc;
    return ep_check_pairs(ep_frame_pairs((void *)h), (int)h->pairs, (int)h->tokens, &bounds, why);
}

START_TEST(sound_frames) {
    struct why why;
    size_t bytes = make_dispatch();
    ck_assert_int_eq(judge(room, bytes, &why), 0);
    ck_assert_uint_eq((uintptr_t)ep_frame_rows(&wire, room) % 64, 0);
    ck_assert_uint_eq(bytes, 64 + 64 + 3 * HIDDEN * 4);
    struct ep_key key = ep_frame_key((const struct ep_header *)room);
    ck_assert_uint_eq(key.step, 1ull << 40);
    for (size_t i = 64 + 20; i < 128; i++) ck_assert_int_eq(room[i], 0); /* the pad */

    struct ep_part p = {.key = key, .kind = EP_COMBINE, .source = SOURCE, .pairs = 5, .all_pairs = 5};
    bytes = ep_frame_begin(room, &wire, &p);
    ck_assert_uint_eq(bytes, 64 + 5 * (HIDDEN + EXTRA) * 4);
    ck_assert_int_eq(judge(room, bytes, &why), 0);
    p = (struct ep_part){.key = key, .source = SOURCE, .home = SOURCE};
    bytes = ep_frame_begin(room, &wire, &p);
    ck_assert_uint_eq(bytes, 64); /* an empty one is its header */
    ck_assert_int_eq(judge(room, bytes, &why), 0);
}
END_TEST

/* A message of seven tokens goes in two frames, answers of thirteen rows in three; anything else about their counts is a
 * lie. */
START_TEST(parts) {
    struct why why;
    struct ep_part p = {.key = {9, 1, 2}, .source = SOURCE, .home = SOURCE, .part = 1, .tokens = 3, .pairs = 4, .all_tokens = 7,
                        .all_pairs = 12, .first_pair = 8};
    size_t bytes = ep_frame_begin(room, &wire, &p);
    struct ep_header *h = (struct ep_header *)room;
    ck_assert_int_eq(h->parts, 2);
    ck_assert_int_eq(judge(room, bytes, &why), 0);
    h->first_pair = 9;
    ck_assert_int_eq(judge(room, bytes, &why), ERR_PROTOCOL);
    h->first_pair = UINT32_MAX;
    ck_assert_int_eq(judge(room, bytes, &why), ERR_PROTOCOL);
    h->first_pair = 0;
    ck_assert_int_eq(judge(room, bytes, &why), 0); /* in bounds: whether the parts add up is seen when all are there */
    h->part = 0;
    ck_assert_int_eq(judge(room, bytes, &why), ERR_PROTOCOL);
    h->part = 2;
    ck_assert_int_eq(judge(room, bytes, &why), ERR_PROTOCOL);
    p = (struct ep_part){.key = {9, 1, 2}, .kind = EP_COMBINE, .source = SOURCE, .part = 2, .pairs = 1, .all_pairs = 13};
    bytes = ep_frame_begin(room, &wire, &p);
    ck_assert_int_eq(h->parts, 3);
    ck_assert_int_eq(judge(room, bytes, &why), 0);
    h->part = 1;
    ck_assert_int_eq(judge(room, bytes, &why), ERR_PROTOCOL);
}
END_TEST

/* Twice the even share where that is less than the worst case, and never less than a floor; rows then go in parts. */
START_TEST(sizes_of_frames) {
    struct ep_limits l = {.max_tokens = 512, .max_slots = 8, .hidden = 2048, .topk = 8};
    ck_assert_uint_eq(ep_frame_bytes(&l, 1), ep_frame_bytes(&l, 2));
    ck_assert_uint_ge(ep_frame_bytes(&l, 1), (size_t)512 * 8 * 2048 * 4);
    size_t share = (size_t)512 * 8 / 16 * 2048 * 4;
    ck_assert_uint_ge(ep_frame_bytes(&l, 16), 2 * share);
    ck_assert_uint_le(ep_frame_bytes(&l, 16), 2 * share + (64 << 10));
    l.max_tokens = 16;
    l.hidden = 64;
    ck_assert_uint_eq(ep_frame_bytes(&l, 64), ep_frame_bytes(&l, 1)); /* both below the floor: the worst case is enough */
    struct ep_wire w = {.max_tokens = 512, .topk = 8, .hidden = 2048};
    ck_assert_int_eq(ep_wire_init(&w, 100), ERR_TOO_LARGE);
    ck_assert_int_eq(ep_wire_init(&w, 1 << 20), 0);
    ck_assert_uint_le(ep_dispatch_bytes(&w, EP_RELAY, w.part_tokens, w.part_tokens * 8), 1 << 20);
    ck_assert_uint_le(ep_combine_bytes(&w, w.part_answers, EP_F32), 1 << 20);
    ck_assert_uint_gt(ep_combine_bytes(&w, w.part_answers + 1, EP_F32), 1 << 20);
}
END_TEST

START_TEST(order_of_keys) {
    static const struct ep_key up[] = {{1, 0, -1}, {1, 0, 0},          {1, 0, 1}, {1, 0, 300},
                                       {1, 1, 0},  {1, 1ull << 40, 0}, {2, 0, 0}, {0x80000001u, 0, 0}};
    for (size_t a = 0; a < sizeof up / sizeof *up; a++)
        for (size_t b = 0; b < sizeof up / sizeof *up; b++) {
            int order = ep_key_order(&up[a], &up[b]);
            ck_assert_int_eq((order > 0) - (order < 0), (a > b) - (a < b));
        }
}
END_TEST

/* Each case changes one thing of a sound frame and names words of the refusal. */
static size_t lie(int which, const char **words) {
    size_t bytes = make_dispatch();
    struct ep_header *h = (struct ep_header *)room;
    struct ep_pair *p = ep_frame_pairs(room);
    switch (which) {
    case 0: *words = "header has 64"; return 63;
    case 1: *words = "header has 64"; return 0;
    case 2: h->magic ^= 1, *words = "magic"; break;
    case 3: h->version = 1, *words = "version 1"; break;
    case 4: h->bytes++, *words = "says"; break;
    case 5: *words = "says"; return bytes - 4;
    case 6: h->source = 2, *words = "from worker 2"; break;
    case 7: h->kind = 3, *words = "kind 3"; break;
    case 8: h->format = EP_BF16, *words = "format 1"; break;
    case 9: h->kind = EP_RELAY, h->bytes += 64, *words = "says"; break;
    case 10: h->microbatch = 2, *words = "microbatch 2"; break;
    case 11: h->hidden = 6, *words = "rows of 6"; break;
    case 12: h->tokens = 2, *words = "2 rows in part 0"; break;
    case 13: h->tokens = UINT32_MAX, *words = "4294967295 rows in part 0"; break;
    case 14: h->pairs = h->all_pairs = 7, *words = "7 of 7 pairs"; break;
    case 15: h->pairs = h->all_pairs = UINT32_MAX, *words = "4294967295 of 4294967295 pairs"; break;
    case 16: h->tokens = h->all_tokens = 4, *words = "counts need"; break;
    case 17: p[4].slot = 6, *words = "slot 6"; break;
    case 18: p[4].slot = 65535, *words = "slot 65535"; break;
    case 19: p[0].token = 1, *words = "pair 0 names row 1"; break;
    case 20: p[3].token = 1, p[4].token = 1, *words = "pair 4 names row 1"; break; /* third pair of row 1 */
    case 21: p[4].token = 3, *words = "pairs for 4 of 3"; break;
    case 22: p[3].token = 0, *words = "pair 3 names row 0"; break;
    case 23: p[3].token = 1, p[4].token = 1, p[2].token = 0, *words = "pair 2 names row 0"; break;
    case 24: h->all_tokens = 9, *words = "9 rows, at most 8"; break;
    case 25: h->kind = EP_COMBINE, h->extra = EXTRA, *words = "counts of a dispatch"; break;
    case 26: h->kind = EP_COMBINE, h->all_tokens = h->tokens = 0, h->extra = EXTRA, *words = "counts need"; break;
    case 27: h->all_tokens = UINT32_MAX, *words = "4294967295 rows, at most 8"; break;
    case 28: h->pairs = h->all_pairs = 2, *words = "pairs for 1 of 3"; break; /* same bytes: the table is padded */
    case 29: h->extra = 1, *words = "1 floats beside the rows of a dispatch"; break;
    case 30: h->kind = EP_COMBINE, h->tokens = h->all_tokens = 0, *words = "0 floats beside each row"; break;
    case 31: h->pairs = 4, h->all_pairs = 3, *words = "pairs 0 to 4 of 3"; break;
    case 32: h->parts = 2, *words = "part 0 of 2"; break;
    case 33: h->part = 1, *words = "part 1 of 1"; break;
    case 34: h->kind = EP_COMBINE, h->format = EP_INT8, h->tokens = h->all_tokens = 0, *words = "format 2"; break;
    case 35: h->parts = 0, *words = "part 0 of 0"; break;
    }
    return bytes;
}

START_TEST(each_lie_is_refused) {
    const char *words = "";
    struct why why = {""};
    size_t bytes = lie(_i, &words);
    ck_assert_int_eq(judge(room, bytes, &why), ERR_PROTOCOL);
    ck_assert_msg(strstr(why.text, words) != NULL, "case %d: %s", _i, why.text);
}
END_TEST

/* Whatever passes must be safe to use: all indices in bounds, all rows inside. Checked against a copy of exactly `bytes`. */
START_TEST(random_damage) {
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        size_t bytes = make_dispatch();
        uint64_t h = hash_u64(seed);
        for (int n = 1 + (int)(h % 3); n; n--) {
            h = hash_u64(h + 1);
            size_t at = h & 1 ? (h >> 8) % 148 : (h >> 8) % bytes; /* mostly where it matters */
            room[at] = h >> 40 & 1 ? (unsigned char)(h >> 48) : (unsigned char)(room[at] ^ 1u << (h >> 48 & 7));
        }
        if (h >> 60 == 0) bytes = (h >> 20) % (bytes + 1);
        unsigned char *exact = aligned_alloc(64, (bytes + 127) / 64 * 64);
        memcpy(exact, room, bytes);
        const struct ep_header *head = (const struct ep_header *)exact;
        struct why why;
        if (judge(exact, bytes, &why) == 0 && head->kind == EP_DISPATCH && head->parts == 1) {
            const struct ep_pair *p = ep_frame_pairs(exact);
            for (uint32_t i = 0; i < head->pairs; i++) {
                ck_assert_int_lt(p[i].slot, bounds.slots);
                ck_assert_uint_lt(p[i].token, head->tokens);
            }
            const unsigned char *end = ep_frame_rows(&wire, exact) + head->tokens * HIDDEN * 4;
            ck_assert_int_le(end - exact, (ptrdiff_t)bytes);
        }
        free(exact);
    }
}
END_TEST

int main(void) {
    Suite *s = suite_create("ep_frame");
    TCase *t = tcase_create("all");
    tcase_add_test(t, sound_frames);
    tcase_add_test(t, parts);
    tcase_add_test(t, sizes_of_frames);
    tcase_add_test(t, order_of_keys);
    tcase_add_loop_test(t, each_lie_is_refused, 0, 36);
    tcase_add_test(t, random_damage);
    suite_add_tcase(s, t);
    return run_suite(s);
}
