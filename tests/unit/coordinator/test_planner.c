/* test_planner.c - placement files: what they can express, what they are refused for, and how a placement is described. */
#include "coordinator/planner.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

static const int layers[3] = {1, 2, 5}; /* layers 0, 3 and 4 are dense */
static const struct planner_shape shape = {.workers = 3, .layers = 3, .experts = 4, .model_layer = layers};
static uint64_t hosts[12];
static struct why why;

static int parse(const char *text) { return planner_parse(&shape, text, strlen(text), "p", hosts, &why); }

START_TEST(contiguous) {
    planner_contiguous(&shape, shape.workers, hosts);
    static const uint64_t want[4] = {1, 1, 2, 4}; /* e * R / E */
    for (int i = 0; i < 12; i++) ck_assert_uint_eq(hosts[i], want[i % 4]);
}
END_TEST

START_TEST(expresses_any_map) {
    ck_assert_int_eq(parse("# comment\n\n* 0-1 0\n*\t2,3  1 # rest\n 2 0 0,2\n5 1-3 *\n"), 0);
    static const uint64_t want[12] = {1, 1, 2, 2, 5, 1, 2, 2, 1, 7, 7, 7};
    for (int i = 0; i < 12; i++) ck_assert_uint_eq(hosts[i], want[i]);
    ck_assert_int_eq(parse("0-5 * 2"), 0); /* a range may run over layers without experts */
    for (int i = 0; i < 12; i++) ck_assert_uint_eq(hosts[i], 4);
}
END_TEST

START_TEST(missing_on_purpose) {
    ck_assert_msg(parse("* * 0\n2 1,3 -\n5 * -\n5 2 1\n") == 0, "%s", why.text);
    static const uint64_t want[12] = {1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 2, 0};
    for (int i = 0; i < 12; i++) ck_assert_uint_eq(hosts[i], want[i]);
}
END_TEST

START_TEST(refusals) {
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "no worker for expert 0 of layer 1"},
        {"* 0-2 0", "no worker for expert 3 of layer 1"},
        {"* * 0\n2 1 3", "p:2: there is no worker 3"},
        {"* 4 0", "p:1: there is no expert 4"},
        {"9 0 0", "p:1: there is no layer 9"},
        {"3 0 0", "layers '3' have no experts"},
        {"* * ", "wanted three fields"},
        {"* * 0 0", "wanted three fields"},
        {"* 3-1 0", "'3-1' is not a list"},
        {"* 1, 0", "'1,' is not a list"},
        {"* 1,,2 0", "is not a list"},
        {"* 0-2 -", "no worker for expert 3 of layer 1"},
        {"* * 0\n* 1 -,0", "'-,0' is not a list"},
        {"* - 0", "'-' is not a list"},
        {"* -1 0", "'-1' is not a list"},
        {"* x 0", "'x' is not a list"},
        {"* 99999999999999999999 0", "there is no expert"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(parse(cases[i].text), ERR_INVALID);
        ck_assert_msg(strstr(why.text, cases[i].says) != NULL, "'%s': %s", cases[i].text, why.text);
    }
    struct planner_shape dense = {.workers = 1};
    ck_assert_int_eq(planner_parse(&dense, "* * 0", 5, "p", hosts, &why), ERR_INVALID);
    ck_assert_int_eq(planner_read(&shape, "/nonexistent/placement", hosts, &why), ERR_IO);
}
END_TEST

START_TEST(describes) {
    char text[64], tiny[4];
    ck_assert_int_eq(parse("* 0,2-3 0\n* 1 1\n5 1 1,2"), 0);
    ck_assert_int_eq(planner_describe(&shape, hosts, 0, text, sizeof text), 9);
    ck_assert_str_eq(text, "0,2-3");
    ck_assert_int_eq(planner_describe(&shape, hosts, 1, text, sizeof text), 3);
    ck_assert_str_eq(text, "1");
    ck_assert_int_eq(planner_describe(&shape, hosts, 2, text, sizeof text), 1);
    ck_assert_str_eq(text, "1 experts in 3 layers");
    planner_describe(&shape, hosts, 0, tiny, sizeof tiny);
    ck_assert_str_eq(tiny, "0,2");
    struct planner_shape dense = {.workers = 1};
    ck_assert_int_eq(planner_describe(&dense, hosts, 0, text, sizeof text), 0);
    ck_assert_str_eq(text, "");
}
END_TEST

START_TEST(over_members) {
    uint64_t now[12];
    ck_assert_int_eq(parse("* 0 0\n* 1 1\n* 2 2\n* 3 1,2\n5 3 -\n"), 0);
    planner_members(&shape, hosts, hosts, 7, now);
    ck_assert(!memcmp(now, hosts, sizeof now));
    planner_members(&shape, hosts, now, 5, now); /* 1 is lost; layer 0 has 0 on 0, 2 and 3 on 2 */
    static const uint64_t without_1[12] = {1, 1, 4, 4, 1, 1, 4, 4, 1, 1, 4, 0};
    for (int i = 0; i < 12; i++) ck_assert_uint_eq(now[i], without_1[i]);
    planner_members(&shape, hosts, now, 4, now); /* 0 as well */
    for (int i = 0; i < 12; i++) ck_assert_uint_eq(now[i], i == 11 ? 0 : 4);
    planner_members(&shape, hosts, now, 6, now); /* 1 is back: its own, and nothing that 2 has adopted */
    static const uint64_t without_0[12] = {4, 2, 4, 6, 4, 2, 4, 6, 4, 2, 4, 0};
    for (int i = 0; i < 12; i++) ck_assert_uint_eq(now[i], without_0[i]);
    planner_members(&shape, hosts, now, 7, now);
    ck_assert(!memcmp(now, hosts, sizeof now));
}
END_TEST

START_TEST(lost_experts_are_spread) {
    static const int one[1] = {0};
    const struct planner_shape wide = {.workers = 5, .layers = 1, .experts = 40, .model_layer = one};
    uint64_t first[40], now[40];
    int slots[5] = {0};
    planner_contiguous(&wide, wide.workers, first);
    planner_members(&wide, first, first, 0x1d, now);
    for (int e = 0; e < 40; e++) slots[__builtin_ctzll(now[e])]++;
    for (int w = 0; w < 5; w++) ck_assert_int_eq(slots[w], w == 1 ? 0 : 10);
}
END_TEST

/* Those that come later take their part from who has most, keep it, and give it back when they go. */
START_TEST(newcomers_take_a_part) {
    static const int two[2] = {0, 1};
    const struct planner_shape wide = {.workers = 6, .layers = 2, .experts = 16, .model_layer = two};
    static const uint64_t members[] = {3, 7, 63, 62, 22, 3, 1, 7};
    uint64_t first[32], now[32], before[32];
    planner_contiguous(&wide, 2, first);
    memcpy(now, first, sizeof now);
    for (size_t step = 0; step < sizeof members / sizeof *members; step++) {
        int n = __builtin_popcountll(members[step]), slots[6] = {0}, moved = 0, kept = 0;
        memcpy(before, now, sizeof now);
        planner_members(&wide, first, now, members[step], now);
        for (int i = 0; i < 32; i++) {
            ck_assert(__builtin_popcountll(now[i]) == 1 && !(now[i] & ~members[step]));
            if (i < 16) slots[__builtin_ctzll(now[i])]++;
            moved += now[i] != before[i] && (before[i] & members[step]);
            kept += now[i] == before[i];
        }
        bool newcomers = members[step] & ~UINT64_C(3);
        for (int w = 0; w < 6; w++) /* without them everything is as at the start */
            if (members[step] >> w & 1 && newcomers) ck_assert_int_le(abs(slots[w] - 16 / n), 1);
        if (members[step] == 3) ck_assert(!memcmp(now, first, sizeof now));
        if (step == 3) ck_assert_int_le(moved, 4); /* one left: the others take its experts, and hardly anything else moves */
        if (step == 3) ck_assert_int_gt(kept, 20);
    }
}
END_TEST

/* Who has more room holds more, and nobody more than fits while another has room. */
START_TEST(by_room) {
    static const int two[2] = {0, 1};
    static const uint64_t room[4] = {4, 16, 8, 32};
    const struct planner_shape s = {.workers = 4, .layers = 2, .experts = 16, .model_layer = two, .room = room};
    uint64_t first[32], now[32];
    static const uint64_t members[] = {7, 15, 5, 11, 1};
    planner_contiguous(&s, 3, first);
    memcpy(now, first, sizeof now);
    for (size_t step = 0; step < sizeof members / sizeof *members; step++) {
        uint64_t slots[4] = {0}, all = 0;
        planner_members(&s, first, now, members[step], now);
        for (int i = 0; i < 32; i++) slots[__builtin_ctzll(now[i])]++;
        for (int w = 0; w < 4; w++) all += members[step] >> w & 1 ? room[w] : 0;
        for (int w = 0; w < 4 && all >= 32; w++) ck_assert_uint_le(slots[w], room[w] + 1);
        if (members[step] == 15) ck_assert(slots[3] > slots[1] && slots[1] > slots[0]);
    }
    planner_members(&s, first, first, 7, now);
    ck_assert(!memcmp(now, first, sizeof now));
}
END_TEST

RUN("planner", NULL, NULL, contiguous, expresses_any_map, missing_on_purpose, refusals, describes, over_members,
    lost_experts_are_spread, newcomers_take_a_part, by_room)
