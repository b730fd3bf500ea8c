/* test_ep_frame.c - every lie a frame can tell is refused, each with its own words; random damage does not get past them. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "fabric/ep_frame.h"

#include "tests/unit/run.h"


enum { ROOM = 4096, SOURCE = 3, HIDDEN = 5, EXTRA = 2 };
static _Alignas(64) unsigned char room[ROOM];
static const struct ep_bounds bounds = {.tokens = 4, .topk = 2, .slots = 6, .hidden = HIDDEN};

/* Three rows, five pairs: 0 0 1 2 2. Returns its bytes. */
static size_t make_dispatch(void) {
    static const struct ep_pair pairs[] = {{0, 1}, {0, 5}, {1, 0}, {2, 3}, {2, 2}};
    struct ep_key key = {.epoch = 9, .step = 1ull << 40, .layer = 2, .kind = EP_DISPATCH};
    memset(room, 0xee, sizeof room);
    ep_frame_begin(room, &key, SOURCE, &(struct ep_counts){3, 5, HIDDEN, 0});
    memcpy(ep_frame_pairs(room), pairs, sizeof pairs);
    for (int i = 0; i < 3 * HIDDEN; i++) ep_frame_rows(room)[i] = (float)i;
    return ep_dispatch_bytes(3, 5, HIDDEN);
}

static int judge(size_t bytes, struct why *why) {
    const struct ep_header *h;
    int rc = ep_frame_open(room, bytes, SOURCE, &h, why);
    if (rc < 0) return rc;
    return h->kind == EP_DISPATCH ? ep_frame_check_dispatch(h, &bounds, why) : ep_frame_check_combine(h, 5, HIDDEN, EXTRA, why);
}

START_TEST(sound_frames) {
    struct why why;
    size_t bytes = make_dispatch();
    ck_assert_int_eq(judge(bytes, &why), 0);
    ck_assert_uint_eq((uintptr_t)ep_frame_rows(room) % 64, 0);
    ck_assert_uint_eq(bytes, 64 + 64 + 3 * HIDDEN * 4);
    struct ep_key key = ep_frame_key((const struct ep_header *)room);
    ck_assert_uint_eq(key.step, 1ull << 40);
    for (size_t i = 64 + 20; i < 128; i++) ck_assert_int_eq(room[i], 0); /* the pad */

    key.kind = EP_COMBINE;
    ep_frame_begin(room, &key, SOURCE, &(struct ep_counts){0, 5, HIDDEN, EXTRA});
    ck_assert_int_eq(judge(ep_combine_bytes(5, HIDDEN, EXTRA), &why), 0);
    key.kind = EP_DISPATCH;
    ep_frame_begin(room, &key, SOURCE, &(struct ep_counts){0, 0, HIDDEN, 0});
    ck_assert_int_eq(judge(64, &why), 0); /* an empty one is its header */
}
END_TEST

START_TEST(order_of_keys) {
    static const struct ep_key up[] = {
        {1, 0, 0, EP_DISPATCH}, {1, 0, 0, EP_COMBINE},           {1, 0, 1, EP_DISPATCH}, {1, 0, 300, EP_DISPATCH},
        {1, 1, 0, EP_DISPATCH}, {1, 1ull << 40, 0, EP_DISPATCH}, {2, 0, 0, EP_DISPATCH}, {0x80000001u, 0, 0, EP_COMBINE}};
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
    case 8: h->format = 0, *words = "format 0"; break;
    case 9: h->flags = 1, *words = "reserved"; break;
    case 10: h->zero[11] = 1, *words = "reserved"; break;
    case 11: h->hidden = 6, *words = "rows of 6"; break;
    case 12: h->tokens = 5, *words = "5 tokens"; break;
    case 13: h->tokens = UINT32_MAX, *words = "4294967295 tokens"; break;
    case 14: h->pairs = 7, *words = "7 pairs"; break;
    case 15: h->pairs = UINT32_MAX, *words = "4294967295 pairs"; break;
    case 16: h->tokens = 4, *words = "counts need"; break;
    case 17: p[4].slot = 6, *words = "slot 6"; break;
    case 18: p[4].slot = 65535, *words = "slot 65535"; break;
    case 19: p[0].token = 1, *words = "pair 0 names row 1"; break;
    case 20: p[3].token = 1, p[4].token = 1, *words = "pair 4 names row 1"; break; /* third pair of row 1 */
    case 21: p[4].token = 3, *words = "pairs for 4 of 3"; break;
    case 22: p[3].token = 0, *words = "pair 3 names row 0"; break;
    case 23: p[3].token = 1, p[4].token = 1, p[2].token = 0, *words = "pair 2 names row 0"; break;
    case 24: h->pairs = 4, h->kind = EP_COMBINE, h->tokens = 0, *words = "5 were asked"; break;
    case 25: h->kind = EP_COMBINE, *words = "3 tokens in an answer"; break;
    case 26: h->kind = EP_COMBINE, h->tokens = 0, h->extra = EXTRA, *words = "rows need"; break;
    case 27: h->microbatch = 1, *words = "reserved"; break;
    case 28: h->pairs = 2, *words = "pairs for 1 of 3"; break; /* same bytes: the table is padded */
    case 29: h->extra = 1, *words = "1 floats beside the rows of a dispatch"; break;
    case 30: h->kind = EP_COMBINE, h->tokens = 0, *words = "0 floats beside each row"; break;
    case 31: h->kind = EP_COMBINE, h->tokens = 0, h->extra = UINT32_MAX, *words = "4294967295 floats beside"; break;
    }
    return bytes;
}

START_TEST(each_lie_is_refused) {
    const char *words = "";
    struct why why = {""};
    size_t bytes = lie(_i, &words);
    ck_assert_int_eq(judge(bytes, &why), ERR_PROTOCOL);
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
        const struct ep_header *head;
        struct why why;
        if (ep_frame_open(exact, bytes, SOURCE, &head, &why) == 0 && head->kind == EP_DISPATCH &&
            ep_frame_check_dispatch(head, &bounds, &why) == 0) {
            const struct ep_pair *p = ep_frame_pairs(exact);
            for (uint32_t i = 0; i < head->pairs; i++) {
                ck_assert_int_lt(p[i].slot, bounds.slots);
                ck_assert_uint_lt(p[i].token, head->tokens);
            }
            const unsigned char *end = (const unsigned char *)(ep_frame_rows(exact) + head->tokens * HIDDEN);
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
    tcase_add_test(t, order_of_keys);
    tcase_add_loop_test(t, each_lie_is_refused, 0, 32);
    tcase_add_test(t, random_damage);
    suite_add_tcase(s, t);
    return run_suite(s);
}
