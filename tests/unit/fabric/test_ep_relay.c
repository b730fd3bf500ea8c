/* test_ep_relay.c - what a relay does while it is busy with other things, and who is named when nothing comes through it. Four
 * ranks in one thread, which makes their calls in the order that a test wants: home 0 and its neighbour 1 on one host, relay 2
 * and its neighbour 3 on the other. */
#include <string.h>

#include "base/clk.h"
#include "fabric/ep.h"
#include "fabric/ep_frame.h"

#include "tests/unit/run.h"

enum { R = 4, T = 3, K = 2, H = 4, LAYERS = 2, BYTES = 240, LONG_US = 20000000 };

static struct fabric_hub *hub;
static struct fabric *fabric[R];
static struct ep *ep[R];
static const float x[T * H] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
static const int16_t worker[T * K] = {2, 3, 3, 1, 2, 3}, slot[T * K] = {0, 1, 0, 0, 1, 0};
static const struct ep_send from_home = {.tokens = T, .x = x, .worker = worker, .slot = slot};

static void open_all(void) {
    const struct ep_limits l = {.max_tokens = T, .max_slots = 2, .hidden = H, .topk = K, .host = {0, 0, 1, 1}};
    struct why why;
    ck_assert_int_eq(fabric_hub_new(R, NULL, &hub, &why), 0);
    for (int r = 0; r < R; r++) {
        ck_assert_int_eq(fabric_mem_open(hub, r, &fabric[r], &why), 0);
        ck_assert_int_eq(fabric_prepare(fabric[r], ep_frame_bytes(&l, R), 1, &why), 0);
        ck_assert_int_eq(ep_new(fabric[r], &l, &ep[r], &why), 0);
        ep_set_two_hop(ep[r], true);
    }
}

static void close_all(void) {
    for (int r = 0; r < R; r++) {
        ep_free(ep[r]);
        fabric_close(fabric[r]);
    }
    fabric_hub_free(hub);
}

static void begin(uint64_t step) {
    static const int32_t tokens[R] = {T};
    for (int r = 0; r < R; r++) ep_step_begin(ep[r], 1, step, tokens, 1);
}

static void post(int rank, int layer) {
    ck_assert_int_eq(ep_dispatch_post(ep[rank], 0, layer, rank ? NULL : &from_home, 2, clk_now_us() + LONG_US), 0);
}

/* A look without waiting: what it says, and whom it names. */
static int look(int rank, struct ep_work *work, uint64_t *late) {
    return ep_dispatch_wait(ep[rank], 0, work, 0, late);
}

static void serve(int rank, int rows) {
    struct ep_work work;
    uint64_t late = 0;
    ck_assert_int_eq(look(rank, &work, &late), 0);
    ck_assert_int_eq(work.rows, rows);
    for (int i = 0; i < rows * H; i++) work.y[i] = 10 * work.x[i] + (float)rank;
    ck_assert_int_eq(ep_combine_post(ep[rank], 0, clk_now_us() + LONG_US), 0);
}

static void take_answers(void) {
    const float *rows[T * K];
    uint64_t late = 0;
    ck_assert_int_eq(ep_combine_wait(ep[0], 0, rows, clk_now_us() + LONG_US, &late), 0);
    for (int i = 0; i < T * K; i++)
        for (int h = 0; h < H; h++) ck_assert_float_eq(rows[i][h], 10 * x[i / K * H + h] + worker[i]);
    for (int r = 1; r < R; r++) { /* answered, and no further: their turn to be done with the layer */
        const float *none[T * K];
        ck_assert_int_eq(ep_combine_wait(ep[r], 0, none, clk_now_us() + LONG_US, &late), 0);
    }
}

/* The relay computes something that precedes the layer, and makes no call but the one between two pieces of work. */
START_TEST(passed_on_while_the_relay_computes) {
    for (uint64_t step = 1; step <= 3; step++) {
        begin(step);
        for (int layer = 0; layer < LAYERS; layer++) {
            post(0, layer);
            ep_progress(ep[2]);
            post(3, layer);
            serve(3, 3);
            post(1, layer);
            serve(1, 1);
            post(2, layer);
            serve(2, 2);
            serve(0, 0);
            take_answers();
        }
    }
    for (int r = 0; r < R; r++) {
        struct ep_link all = ep_links_sum(ep_counters(ep[r]));
        ck_assert_uint_eq(all.frames_bad + all.frames_stale + all.frames_duplicate, 0);
    }
    ck_assert_uint_eq(ep_counters(ep[0])->far.rows, 3 * LAYERS * T); /* once each, */
    ck_assert_uint_eq(ep_counters(ep[0])->far.direct, 3 * LAYERS * 5); /* not twice for those that both over there want */
}
END_TEST

/* The home sleeps: its relay names it. The relay sleeps: its neighbour names the relay, which has what the home sent. */
START_TEST(the_silent_one_is_named) {
    struct ep_work work;
    uint64_t late = 0;
    begin(1);
    post(2, 0);
    post(3, 0);
    ck_assert_int_eq(look(2, &work, &late), ERR_LATE);
    ck_assert_uint_eq(late, 1 << 0);
    post(0, 0);
    ck_assert_int_eq(look(3, &work, &late), ERR_LATE);
    ck_assert_uint_eq(late, 1 << 2);
    post(1, 0);
    serve(2, 2);
    serve(3, 3);
}
END_TEST

static uint64_t messages(int rank, int from) {
    uint64_t n = 0;
    for (int b = 0; b < EP_WAIT_BUCKETS; b++) n += ep_counters(ep[rank])->link[from].waits[b];
    return n;
}

/* Whoever waits behind a relay counts the time for it and for the home; the relay, which has what the home sent, counts none.
 * So only what all count points at the slow one. Messages count where they come from. */
START_TEST(a_slow_relay_is_counted) {
    struct ep_work work;
    uint64_t late = 0;
    begin(1);
    post(0, 0);
    post(3, 0);
    ck_assert_int_eq(ep_dispatch_wait(ep[3], 0, &work, clk_now_us() + 2000, &late), ERR_LATE);
    const uint64_t *wait_us = ep_counters(ep[3])->wait_us;
    ck_assert_uint_ge(wait_us[2], 1000);
    ck_assert_uint_eq(wait_us[2], wait_us[0]);
    ck_assert_uint_eq(wait_us[1], 0);
    ep_progress(ep[2]);
    serve(3, 3);
    post(2, 0);
    serve(2, 2);
    ck_assert_uint_eq(ep_counters(ep[2])->wait_us[0], 0);
    ck_assert_uint_eq(messages(3, 2), 1);
    ck_assert_uint_eq(ep_counters(ep[3])->link[2].waits[0], 0); /* it did not come at once */
    ck_assert_uint_eq(messages(3, 0), 0);
    ck_assert_uint_eq(messages(2, 0), 1);
}
END_TEST

/* In one hop again: nobody stands for anybody. */
START_TEST(without_relays_homes_are_named) {
    struct ep_work work;
    uint64_t late = 0;
    for (int r = 0; r < R; r++) ep_set_two_hop(ep[r], false);
    begin(1);
    post(3, 0);
    ck_assert_int_eq(look(3, &work, &late), ERR_LATE);
    ck_assert_uint_eq(late, 1 << 0);
}
END_TEST

/* A step in which the relay brings a token of its own, up to where its rows are in its hands. */
static void lend(const float **rows) {
    static const int32_t tokens[R] = {T, 0, 1, 0};
    static const int16_t to[K] = {3, 3}, at[K] = {0, 1};
    const struct ep_send own = {.tokens = 1, .x = x, .worker = to, .slot = at};
    uint64_t late = 0;
    for (int r = 0; r < R; r++) ep_step_begin(ep[r], 1, 1, tokens, 1);
    ck_assert_int_eq(ep_dispatch_post(ep[2], 0, 0, &own, 2, clk_now_us() + LONG_US), 0);
    for (int r = 0; r < R; r++)
        if (r != 2) post(r, 0);
    serve(2, 2);
    serve(3, 5);
    serve(0, 0);
    serve(1, 1);
    ck_assert_int_eq(ep_combine_wait(ep[2], 0, rows, clk_now_us() + LONG_US, &late), 0);
}

/* Rows in the caller's hands lie where they arrived, and stay there however much comes in behind them while it works. */
START_TEST(lent_rows_stay_where_they_are) {
    const float *rows[T * K];
    lend(rows);
    for (int i = 0; i < 4 * FABRIC_DEPTH; i++) { /* frames that are given back at once: of a measurement that is over */
        unsigned char *room = fabric_reserve(fabric[3], 2, BYTES);
        if (room) {
            memset(room, 0xff, BYTES);
            memcpy(room, "CdPr", 4);
            fabric_commit(fabric[3], 2, BYTES);
        }
        ep_progress(ep[2]);
        for (int j = 0; j < K * H; j++) ck_assert_float_eq(rows[j / H][j % H], 10 * x[j % H] + 3);
    }
}
END_TEST

/* An answer that comes once more while its rows are in the caller's hands is dropped, and is nobody's fault. */
START_TEST(a_repeated_answer_is_no_fault) {
    const struct ep_part again = {.key = {1, 1, 0}, .kind = EP_COMBINE, .source = 3, .home = 2, .pairs = K, .all_pairs = K};
    struct ep_wire w = {.max_tokens = T, .topk = K, .hidden = H};
    const float *rows[T * K];
    lend(rows);
    ck_assert_int_eq(ep_wire_init(&w, fabric[3]->frame_bytes), 0);
    size_t bytes = ep_combine_bytes(&w, K, EP_F32);
    void *room = fabric_reserve(fabric[3], 2, bytes);
    ck_assert_ptr_nonnull(room);
    memset(room, 0, bytes);
    ck_assert_uint_eq(ep_frame_begin(room, &w, &again), bytes);
    fabric_commit(fabric[3], 2, bytes);
    ep_progress(ep[2]);
    struct ep_link all = ep_links_sum(ep_counters(ep[2]));
    ck_assert_uint_eq(all.frames_bad, 0);
    ck_assert_uint_eq(all.frames_duplicate, 1);
    for (int j = 0; j < K * H; j++) ck_assert_float_eq(rows[j / H][j % H], 10 * x[j % H] + 3);
}
END_TEST

static void begin_as(int rank, uint32_t epoch, uint64_t members, bool two_hop) {
    static const int32_t tokens[R] = {T};
    ep_set_members(ep[rank], members);
    ep_set_two_hop(ep[rank], two_hop);
    ep_step_begin(ep[rank], epoch, 1, tokens, 1);
}

/* Who is in an epoch earlier than the relay speaks to it at once, also when it was no member before and the relay looks between
 * its steps. */
START_TEST(a_newcomer_is_heard_between_epochs) {
    static const int32_t before[R] = {0, 1, 0, 0};
    ep_set_members(ep[2], 0xe);
    ep_step_begin(ep[2], 1, 1, before, 1);
    begin_as(0, 2, 0xf, false);
    post(0, 0);
    ep_progress(ep[2]);
    begin_as(2, 2, 0xf, false);
    post(2, 0);
    serve(2, 2);
}
END_TEST

/* What a home sent before it gave up a step takes nothing from what it sent afterwards, though the relay finds both at once. */
START_TEST(what_was_given_up_is_not_kept) {
    begin_as(0, 1, 0xf, true);
    begin_as(2, 1, 0xf, true);
    post(0, 0);
    begin_as(0, 2, 0xf, false);
    post(0, 0);
    ep_progress(ep[2]);
    begin_as(2, 2, 0xf, false);
    post(2, 0);
    serve(2, 2);
}
END_TEST

RUN("ep_relay", open_all, close_all, lent_rows_stay_where_they_are, passed_on_while_the_relay_computes, the_silent_one_is_named,
    without_relays_homes_are_named, a_repeated_answer_is_no_fault, a_newcomer_is_heard_between_epochs,
    what_was_given_up_is_not_kept, a_slow_relay_is_counted)
