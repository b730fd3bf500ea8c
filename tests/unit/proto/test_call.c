/* test_call.c - the server side of the protocol against clients that behave and clients that do not, on virtual time. */
#include "base/utf8.h"
#include "proto/call.h"
#include "proto/client.pb-c.h"
#include "proto/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

enum { SECOND = 1000000, MOST_CALLS = 2000 };

/* A server with three methods. Echo answers and ends inside on_open; Count sends its payload's first byte as many numbers as it
 * says, as credits allow; Hold never answers. */
struct count {
    struct call *call;
    int next, total;
};
struct world {
    struct bus_hub *hub;
    struct bus *bus;
    struct call_server *server;
    struct count counts[MOST_CALLS];
    struct call *held;
    int gone, gone_status, opened;
    char token[32];
};
static struct world w;

static void echo_open(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    (void)ctx;
    ck_assert_int_eq(call_send(w.server, c, payload, len), 0);
    call_end(w.server, c, CALL_OK, "");
}

static void count_go(struct count *k) {
    while (k->next < k->total) {
        uint8_t n = (uint8_t)k->next;
        int rc = call_send(w.server, k->call, &n, 1);
        if (rc < 0) return;
        k->next++;
    }
    struct call *c = k->call;
    k->call = NULL;
    call_end(w.server, c, CALL_OK, "counted");
}

static void count_open(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    (void)ctx;
    ck_assert_uint_ge(len, 1);
    w.opened++;
    size_t n = 0;
    const char *token = call_metadata(w.server, "token", &n);
    snprintf(w.token, sizeof w.token, "%.*s", (int)n, token ? token : "");
    for (int i = 0; i < MOST_CALLS; i++) {
        struct count *k = &w.counts[i];
        if (k->call) continue;
        *k = (struct count){.call = c, .total = payload[0]};
        c->handler = k;
        count_go(k);
        return;
    }
    ck_abort_msg("too many calls");
}
static void count_credit(void *ctx, struct call *c) {
    (void)ctx;
    count_go(c->handler);
}
static void count_gone(void *ctx, struct call *c, int status) {
    (void)ctx;
    ((struct count *)c->handler)->call = NULL;
    w.gone++;
    w.gone_status = status;
}
static void hold_open(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    (void)ctx;
    (void)payload;
    (void)len;
    w.held = c;
    w.opened++;
}
static void hold_gone(void *ctx, struct call *c, int status) {
    (void)ctx;
    if (w.held == c) w.held = NULL;
    w.gone++;
    w.gone_status = status;
}

static const struct call_method methods[] = {
    {"Echo", echo_open, NULL, NULL}, {"Count", count_open, count_credit, count_gone}, {"Hold", hold_open, NULL, hold_gone}};

static void setup(void) {
    struct why why;
    struct call_limits limits = {.payload_bytes = 1000, .calls = MOST_CALLS, .ping_us = SECOND};
    memset(&w, 0, sizeof w);
    w.hub = bus_hub_new();
    ck_assert_int_eq(bus_mem_bind(w.hub, "s", &w.bus, &why), 0);
    ck_assert_int_eq(call_server_new(w.bus, &limits, methods, 3, &w, &w.server), 0);
}
static void teardown(void) {
    call_server_free(w.server);
    bus_close(w.bus);
    bus_hub_free(w.hub);
}

static struct bus *join(void) {
    struct bus *b;
    struct why why;
    ck_assert_int_eq(bus_mem_connect(w.hub, "s", &b, &why), 0);
    return b;
}

static uint8_t *id_of(uint32_t n) {
    static uint8_t id[FRAME_CALL_ID_BYTES];
    memset(id, 7, sizeof id);
    memcpy(id, &n, sizeof n);
    return id;
}

static void put_frame(struct bus *b, struct frame f, const void *payload, size_t len) {
    uint8_t head[FRAME_HEAD_LIMIT];
    if (!f.version) f.version = FRAME_VERSION;
    int n = frame_encode(&f, head, sizeof head);
    ck_assert_int_ge(n, 0);
    ck_assert_int_eq(bus_send(b, NULL, head, (size_t)n, payload, len), 0);
}
static void put_open(struct bus *b, uint32_t call, const char *method, uint32_t credits, uint64_t timeout_ms, int count) {
    uint8_t n = (uint8_t)count;
    put_frame(b,
              (struct frame){.kind = FRAME_OPEN,
                             .call_id = id_of(call),
                             .call_id_len = 16,
                             .method = method,
                             .credits = credits,
                             .timeout_ms = timeout_ms},
              &n, 1);
}
static void put_kind(struct bus *b, uint32_t call, enum frame_kind kind, uint32_t credits) {
    put_frame(b, (struct frame){.kind = kind, .call_id = id_of(call), .call_id_len = 16, .credits = credits}, NULL, 0);
}

/* What a client received: kind and the parts the tests ask for. */
struct got {
    enum frame_kind kind;
    uint32_t call;
    uint64_t index;
    int status;
    size_t id_len, body_len;
    uint8_t first;
    char message[300];
};
static bool get(struct bus *b, struct got *g) {
    struct bus_msg m;
    struct frame f;
    if (bus_recv(b, &m) < 0) return false;
    ck_assert_int_eq(frame_decode(m.head, m.head_len, &f), 0);
    ck_assert_ptr_nonnull(m.body);
    *g = (struct got){.kind = f.kind,
                      .index = f.index,
                      .status = (int)f.status,
                      .id_len = f.call_id_len,
                      .body_len = m.body_len,
                      .first = m.body_len ? m.body[0] : 0};
    if (f.call_id_len >= 4) memcpy(&g->call, f.call_id, 4);
    snprintf(g->message, sizeof g->message, "%s", f.message);
    frame_clear(&f);
    return true;
}
static void expect_end(struct bus *b, int status, const char *part) {
    struct got g;
    ck_assert_msg(get(b, &g), "no End came");
    ck_assert_int_eq(g.kind, FRAME_END);
    ck_assert_int_eq(g.status, status);
    ck_assert_msg(strstr(g.message, part), "'%s' lacks '%s'", g.message, part);
}
static void expect_data(struct bus *b, uint64_t index, int first) {
    struct got g;
    ck_assert_msg(get(b, &g), "no Data came");
    ck_assert_int_eq(g.kind, FRAME_DATA);
    ck_assert_uint_eq(g.index, index);
    ck_assert_int_eq(g.first, first);
}
static void expect_nothing(struct bus *b) {
    struct got g;
    ck_assert(!get(b, &g));
}

START_TEST(echo) {
    struct bus *b = join();
    put_open(b, 1, "Echo", 1, 0, 42);
    ck_assert_int_eq(call_server_poll(w.server, 0), INT64_MAX);
    expect_data(b, 0, 42);
    expect_end(b, CALL_OK, "");
    expect_nothing(b);
    ck_assert_uint_eq(call_server_stats(w.server)->ended, 1);
    bus_close(b);
}
END_TEST

START_TEST(credits) {
    struct bus *b = join();
    put_open(b, 1, "Count", 3, 0, 10);
    call_server_poll(w.server, 0);
    for (int i = 0; i < 3; i++) expect_data(b, (uint64_t)i, i);
    expect_nothing(b);
    ck_assert(!call_can_send(w.counts[0].call));
    put_kind(b, 1, FRAME_CREDIT, 0);
    put_kind(b, 1, FRAME_CREDIT, 2);
    call_server_poll(w.server, 1);
    expect_data(b, 3, 3);
    expect_data(b, 4, 4);
    expect_nothing(b);
    put_kind(b, 1, FRAME_CREDIT, UINT32_MAX);
    put_kind(b, 1, FRAME_CREDIT, UINT32_MAX);
    call_server_poll(w.server, 2);
    for (int i = 5; i < 10; i++) expect_data(b, (uint64_t)i, i);
    expect_end(b, CALL_OK, "counted");
    expect_nothing(b);
    put_open(b, 2, "Count", 0, 0, 5); /* no grant means one */
    call_server_poll(w.server, 3);
    expect_data(b, 0, 0);
    expect_nothing(b);
    bus_close(b);
}
END_TEST

START_TEST(cancel) {
    struct bus *b = join(), *other = join();
    put_open(b, 1, "Count", 2, 0, 10);
    call_server_poll(w.server, 0);
    put_kind(other, 1, FRAME_CANCEL, 0); /* not the owner */
    put_kind(other, 1, FRAME_CREDIT, 5);
    call_server_poll(w.server, 1);
    ck_assert_int_eq(w.gone, 0);
    put_kind(b, 1, FRAME_CANCEL, 0);
    put_kind(b, 1, FRAME_CANCEL, 0);
    call_server_poll(w.server, 2);
    expect_data(b, 0, 0);
    expect_data(b, 1, 1);
    expect_end(b, CALL_CANCELLED, "by the client");
    expect_nothing(b);
    expect_nothing(other);
    ck_assert_int_eq(w.gone, 1);
    ck_assert_int_eq(w.gone_status, CALL_CANCELLED);
    bus_close(b);
    bus_close(other);
}
END_TEST

START_TEST(deadline_and_ping) {
    struct bus *b = join();
    struct got g;
    put_open(b, 1, "Hold", 1, 2500, 1);
    put_open(b, 2, "Hold", 1, 300, 1);
    int64_t next = call_server_poll(w.server, 10 * SECOND);
    ck_assert_int_eq(next, 10 * SECOND + 300 * 1000);
    next = call_server_poll(w.server, next);
    expect_end(b, CALL_DEADLINE_EXCEEDED, "deadline");
    ck_assert_int_eq(next, 11 * SECOND);
    for (int i = 0; i < 2; i++) {
        next = call_server_poll(w.server, next);
        ck_assert(get(b, &g));
        ck_assert_int_eq(g.kind, FRAME_PING);
        ck_assert_uint_eq(g.call, 1);
    }
    ck_assert_int_eq(next, 12 * SECOND + 500 * 1000);
    call_server_poll(w.server, next);
    expect_end(b, CALL_DEADLINE_EXCEEDED, "deadline");
    ck_assert_int_eq(w.gone, 2);
    ck_assert_uint_eq(call_server_stats(w.server)->deadline, 2);
    put_open(b, 3, "Hold", 1, UINT64_MAX, 1); /* absurd, but no overflow */
    call_server_poll(w.server, next);
    expect_nothing(b);
    bus_close(b);
}
END_TEST

START_TEST(vanished_peer) {
    struct bus *b = join(), *stays = join();
    for (uint32_t i = 0; i < 10; i++) put_open(b, i, "Count", 1, 0, 5);
    put_open(stays, 99, "Count", 1, 0, 5);
    call_server_poll(w.server, 0);
    bus_close(b);
    ck_assert_int_eq(w.gone, 0);
    int64_t next = call_server_poll(w.server, 500 * 1000);
    ck_assert_int_eq(next, SECOND);
    call_server_poll(w.server, next); /* one ping fails, all ten calls go */
    ck_assert_int_eq(w.gone, 10);
    ck_assert_int_eq(w.gone_status, CALL_ABORTED);
    expect_data(stays, 0, 0);
    put_kind(stays, 99, FRAME_CREDIT, 9);
    call_server_poll(w.server, next + 1);
    struct got g;
    ck_assert(get(stays, &g));
    ck_assert_int_eq(g.kind, FRAME_PING);
    for (int i = 1; i < 5; i++) expect_data(stays, (uint64_t)i, i);
    expect_end(stays, CALL_OK, "");
    bus_close(stays);
}
END_TEST

START_TEST(vanished_while_sending) {
    struct bus *b = join();
    put_open(b, 1, "Hold", 5, 0, 1);
    call_server_poll(w.server, 0);
    struct call *c = w.held;
    put_open(b, 2, "Hold", 5, 0, 1);
    call_server_poll(w.server, 0);
    bus_close(b);
    ck_assert_int_eq(call_send(w.server, c, "x", 1), ERR_GONE);
    ck_assert_int_eq(w.gone, 1); /* the other one later, so that handlers may walk their lists */
    ck_assert(!call_can_send(w.held));
    call_server_poll(w.server, 1);
    ck_assert_int_eq(w.gone, 2);
    ck_assert_ptr_null(w.held);
    b = join();
    put_open(b, 3, "Hold", 5, 0, 1);
    put_open(b, 4, "Hold", 5, 0, 1);
    call_server_poll(w.server, 2);
    bus_close(b);
    call_end(w.server, w.held, CALL_OK, "");
    call_server_poll(w.server, 3);
    ck_assert_int_eq(w.gone, 3);
}
END_TEST

START_TEST(repeated_and_taken_over) {
    struct bus *a = join(), *b = join();
    put_open(a, 1, "Count", 2, 0, 6);
    put_open(a, 1, "Count", 2, 0, 6);
    call_server_poll(w.server, 0);
    ck_assert_int_eq(w.opened, 1);
    expect_data(a, 0, 0);
    expect_data(a, 1, 1);
    expect_nothing(a);
    put_open(b, 1, "Count", 3, 0, 6); /* the same call, from where its client is now */
    call_server_poll(w.server, 1);
    ck_assert_int_eq(w.opened, 1);
    for (int i = 2; i < 5; i++) expect_data(b, (uint64_t)i, i);
    put_kind(a, 1, FRAME_CANCEL, 0);
    put_kind(b, 1, FRAME_CREDIT, 3);
    call_server_poll(w.server, 2);
    expect_nothing(a);
    expect_data(b, 5, 5);
    expect_end(b, CALL_OK, "counted");
    bus_close(a);
    bus_close(b);
}
END_TEST

START_TEST(taken_over_after_vanishing) {
    struct bus *a = join(), *b = join();
    put_open(a, 1, "Count", 1, 0, 3);
    put_open(a, 2, "Count", 1, 0, 3);
    call_server_poll(w.server, 0);
    bus_close(a);
    put_open(b, 1, "Count", 9, 0, 3);
    put_open(b, 2, "Count", 1, 0, 3);
    call_server_poll(w.server, 1);
    for (int i = 1; i < 3; i++) expect_data(b, (uint64_t)i, i);
    expect_end(b, CALL_OK, "");
    expect_data(b, 1, 1);
    ck_assert_int_eq(w.gone, 0);
    bus_close(b);
}
END_TEST

START_TEST(malformed) {
    struct bus *b = join();
    static uint8_t big[2000];
    const struct call_stats *st = call_server_stats(w.server);
    uint8_t short_id[5] = {1, 2, 3, 4, 5}, long_id[65] = {0};
    struct got g;
    bus_send(b, NULL, "garbage", 7, NULL, 0);
    bus_send(b, NULL, "", 0, NULL, 0);
    bus_send(b, NULL, "\x08\x01", 2, NULL, 0); /* a frame without id and kind */
    put_frame(b, (struct frame){.kind = FRAME_OPEN, .call_id = long_id, .call_id_len = 65, .method = "Echo"}, NULL, 0);
    static uint8_t flood[FRAME_HEAD_LIMIT + 1];
    bus_send(b, NULL, flood, sizeof flood, NULL, 0);
    call_server_poll(w.server, 0);
    expect_nothing(b);
    ck_assert_uint_eq(st->noise, 5);

    put_frame(b, (struct frame){.kind = FRAME_OPEN, .call_id = short_id, .call_id_len = 5, .method = "Echo"}, NULL, 0);
    call_server_poll(w.server, 0);
    ck_assert(get(b, &g));
    ck_assert_int_eq(g.status, CALL_INVALID_ARGUMENT);
    ck_assert_uint_eq(g.id_len, 5);
    put_frame(b, (struct frame){.kind = FRAME_OPEN, .version = 2, .call_id = id_of(1), .call_id_len = 16, .method = "Echo"},
              NULL, 0);
    put_open(b, 1, "No\xff\nSuch", 1, 0, 1);
    put_frame(b, (struct frame){.kind = FRAME_OPEN, .call_id = id_of(1), .call_id_len = 16, .method = "Echo"}, big, sizeof big);
    put_kind(b, 1, FRAME_UNKNOWN, 0);
    put_kind(b, 1, FRAME_DATA, 0);
    put_kind(b, 1, FRAME_END, 0);
    put_kind(b, 1, FRAME_PING, 0);
    put_kind(b, 1, FRAME_CREDIT, 1); /* of a call that ended long ago: legal */
    put_kind(b, 1, FRAME_CANCEL, 0);
    call_server_poll(w.server, 0);
    expect_end(b, CALL_UNIMPLEMENTED, "version 2");
    expect_end(b, CALL_UNIMPLEMENTED, "'No??Such'; this server knows Echo, Count, Hold");
    expect_end(b, CALL_RESOURCE_EXHAUSTED, "2000 bytes; at most 1000");
    expect_end(b, CALL_UNIMPLEMENTED, "kind of frame");
    for (int i = 0; i < 3; i++) expect_end(b, CALL_INVALID_ARGUMENT, "only servers");
    expect_nothing(b);
    ck_assert_uint_eq(st->refused, 8);

    put_open(b, 5, "Hold", 1, 0, 1);
    put_kind(b, 5, FRAME_UNKNOWN, 0); /* tolerated on a live call */
    call_server_poll(w.server, 0);
    ck_assert_int_eq(w.gone, 0);
    put_kind(b, 5, FRAME_DATA, 0); /* not tolerated */
    call_server_poll(w.server, 0);
    expect_end(b, CALL_INVALID_ARGUMENT, "only servers");
    ck_assert_int_eq(w.gone, 1);
    ck_assert_int_eq(w.gone_status, CALL_INVALID_ARGUMENT);
    put_open(b, 6, "Echo", 1, 0, 7);
    call_server_poll(w.server, 0);
    expect_data(b, 0, 7);
    bus_close(b);
}
END_TEST

/* Every prefix of a good frame, and every single-byte corruption of it. */
START_TEST(truncated_and_flipped) {
    struct bus *b = join();
    uint8_t head[256];
    struct frame f = {.kind = FRAME_OPEN,
                      .version = 1,
                      .call_id = id_of(9),
                      .call_id_len = 16,
                      .method = "Hold",
                      .credits = 4,
                      .timeout_ms = 77};
    int n = frame_encode(&f, head, sizeof head);
    struct got g;
    for (int cut = 0; cut < n; cut++) {
        bus_send(b, NULL, head, (size_t)cut, "x", 1);
        call_server_poll(w.server, cut);
        while (get(b, &g)) continue;
    }
    for (int at = 0; at < n; at++)
        for (int bit = 0; bit < 8; bit++) {
            head[at] ^= (uint8_t)(1 << bit);
            bus_send(b, NULL, head, (size_t)n, "x", 1);
            call_server_poll(w.server, 1000 + at * 8 + bit);
            head[at] ^= (uint8_t)(1 << bit);
            while (get(b, &g)) continue;
        }
    put_open(b, 1000, "Echo", 1, 0, 3);
    call_server_poll(w.server, 5000);
    bool echoed = false;
    while (get(b, &g)) echoed |= g.call == 1000 && g.kind == FRAME_DATA && g.first == 3;
    ck_assert(echoed);
    bus_close(b);
}
END_TEST

START_TEST(metadata) {
    struct bus *b = join();
    struct frame_metadata pair = {"token", "s3cret", 6};
    put_frame(b,
              (struct frame){.kind = FRAME_OPEN,
                             .call_id = id_of(1),
                             .call_id_len = 16,
                             .method = "Count",
                             .credits = 1,
                             .metadata = &pair,
                             .n_metadata = 1},
              "\x03", 1);
    call_server_poll(w.server, 0);
    ck_assert_str_eq(w.token, "s3cret");
    size_t n;
    ck_assert_ptr_null(call_metadata(w.server, "token", &n));
    bus_close(b);
}
END_TEST

START_TEST(thousand_calls) {
    struct bus *peers[4];
    for (int i = 0; i < 4; i++) peers[i] = join();
    for (uint32_t i = 0; i < 1000; i++) put_open(peers[i % 4], i, "Count", i % 3, i % 7 ? 0 : 1 + i, (int)(i % 20));
    call_server_poll(w.server, 0);
    static int seen[1000], ended[1000];
    int64_t now = 0;
    for (int round = 0; round < 40; round++) {
        for (int p = 0; p < 4; p++) {
            struct got g;
            while (get(peers[p], &g)) {
                ck_assert_uint_lt(g.call, 1000);
                ck_assert_int_eq(g.call % 4, p);
                ck_assert_int_eq(ended[g.call], 0);
                if (g.kind == FRAME_DATA) {
                    ck_assert_uint_eq(g.index, (uint64_t)seen[g.call]);
                    ck_assert_int_eq(g.first, seen[g.call]++);
                    put_kind(peers[p], g.call, FRAME_CREDIT, 1);
                } else if (g.kind == FRAME_END) {
                    ended[g.call]++;
                    if (g.status == CALL_OK) ck_assert_int_eq(seen[g.call], (int)(g.call % 20));
                    else ck_assert_int_eq(g.status, CALL_DEADLINE_EXCEEDED);
                }
            }
        }
        now += 50 * 1000;
        call_server_poll(w.server, now);
    }
    const struct call_stats *st = call_server_stats(w.server);
    ck_assert_uint_eq(st->opened, 1000);
    ck_assert_uint_eq(st->ended + st->deadline, 1000);
    for (int i = 0; i < 1000; i++) ck_assert_int_eq(ended[i], 1);
    ck_assert_int_eq(call_server_poll(w.server, now), INT64_MAX);
    for (int i = 0; i < 4; i++) bus_close(peers[i]);
}
END_TEST

START_TEST(limit_of_calls) {
    struct bus *b[4];
    for (int i = 0; i < 4; i++) b[i] = join();
    for (uint32_t i = 0; i < MOST_CALLS; i++) put_open(b[i / 900], i, "Hold", 1, 0, 1);
    call_server_poll(w.server, 0);
    put_open(b[3], 900000, "Hold", 1, 0, 1);
    call_server_poll(w.server, 0);
    expect_end(b[3], CALL_RESOURCE_EXHAUSTED, "limit of 2000 open calls");
    put_kind(b[0], 0, FRAME_CANCEL, 0);
    put_open(b[3], 900001, "Echo", 1, 0, 1);
    call_server_poll(w.server, 0);
    expect_end(b[0], CALL_CANCELLED, "");
    call_server_free(w.server); /* the others learn that the server goes */
    w.server = NULL;
    expect_end(b[1], CALL_UNAVAILABLE, "shutting down");
    ck_assert_int_eq(w.gone, MOST_CALLS);
    for (int i = 0; i < 4; i++) bus_close(b[i]);
}
END_TEST

/* A client that grants credits but does not read: its queue fills, nobody else notices, and it gets everything in the end. */
START_TEST(queue_full) {
    struct bus *slow = join(), *quick = join();
    for (uint32_t i = 0; i < 10; i++) put_open(slow, i, "Count", 1000, 0, 250);
    int64_t now = 0;
    call_server_poll(w.server, now);
    put_open(quick, 100, "Echo", 1, 0, 5);
    int64_t next = call_server_poll(w.server, now);
    ck_assert_int_le(next, now + 10 * 1000);
    expect_data(quick, 0, 5);
    int data = 0, ends = 0, rounds = 0;
    while (ends < 10) {
        struct got g;
        ck_assert_int_lt(++rounds, 100);
        while (get(slow, &g)) {
            data += g.kind == FRAME_DATA;
            ends += g.kind == FRAME_END;
        }
        now += 10 * 1000;
        call_server_poll(w.server, now);
    }
    ck_assert_int_eq(data, 2500);
    ck_assert_int_eq(call_server_poll(w.server, now), INT64_MAX);
    bus_close(slow);
    bus_close(quick);
}
END_TEST

START_TEST(messages_are_utf8) { /* whatever a reason quotes: other languages' protobuf refuses a string that is not */
    char longest[2400];
    struct bus *b = join();
    struct bus_msg m;
    struct frame f;
    memset(longest, 'x', sizeof longest);
    memcpy(longest, "a\xff b\xc3\xa9 \xe2\x82", 9);
    for (int i = 9; i + 3 < (int)sizeof longest; i += 3) memcpy(longest + i, "\xe2\x82\xac", 3);
    longest[sizeof longest - 1] = 0;
    put_open(b, 1, "Hold", 1, 0, 0);
    call_server_poll(w.server, 0);
    call_end(w.server, w.held, CALL_INTERNAL, longest);
    ck_assert_int_eq(bus_recv(b, &m), 0);
    ck_assert_int_eq(frame_decode(m.head, m.head_len, &f), 0);
    ck_assert_uint_eq(utf8_valid_prefix(f.message, strlen(f.message)), strlen(f.message));
    ck_assert(!strncmp(f.message, "a? b\xc3\xa9 ", 7));
    ck_assert_uint_gt(strlen(f.message), 1900);
    frame_clear(&f);
    bus_close(b);
}
END_TEST

START_TEST(names) {
    ck_assert_str_eq(call_status_name(CALL_UNAUTHENTICATED), "UNAUTHENTICATED");
    ck_assert_str_eq(call_status_name(99), "UNKNOWN");
    ck_assert_str_eq(call_status_name(-1), "UNKNOWN");
    ck_assert_int_eq(call_status_from(ERR_INVALID), CALL_INVALID_ARGUMENT);
    ck_assert_int_eq(call_status_from(ERR_EXHAUSTED), CALL_RESOURCE_EXHAUSTED);
    ck_assert_int_eq(call_status_from(ERR_IO), CALL_INTERNAL);
    ck_assert_int_eq(call_status_from(0), CALL_OK);
}
END_TEST

int main(void) {
    Suite *s = suite_create("call");
    TCase *c = tcase_create("call");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, echo);
    tcase_add_test(c, credits);
    tcase_add_test(c, cancel);
    tcase_add_test(c, deadline_and_ping);
    tcase_add_test(c, vanished_peer);
    tcase_add_test(c, vanished_while_sending);
    tcase_add_test(c, repeated_and_taken_over);
    tcase_add_test(c, taken_over_after_vanishing);
    tcase_add_test(c, malformed);
    tcase_add_test(c, truncated_and_flipped);
    tcase_add_test(c, metadata);
    tcase_add_test(c, thousand_calls);
    tcase_add_test(c, limit_of_calls);
    tcase_add_test(c, queue_full);
    tcase_add_test(c, messages_are_utf8);
    tcase_add_test(c, names);
    suite_add_tcase(s, c);
    return run_suite(s);
}
