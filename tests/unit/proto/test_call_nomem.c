/* test_call_nomem.c - memory runs out at the n-th allocation of a server's life, for every n until none is left to fail: calls
 * are refused or ended, nothing is leaked (a sanitizer build checks that), and the server answers the next one. */
#include "proto/call.h"
#include "proto/frame.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/failing.h"
#include "tests/unit/run.h"

static struct call_server *server;
static int held;

static void echo(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    (void)ctx;
    if (call_send(server, c, payload, len) == ERR_GONE) return;
    call_end(server, c, CALL_OK, "done");
}
static void hold(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    (void)ctx, (void)c, (void)payload, (void)len;
    held++;
}
static void gone(void *ctx, struct call *c, int status) {
    (void)ctx, (void)status;
    held -= c->method == 1;
}
static const struct call_method methods[] = {{"Echo", echo, NULL, gone}, {"Hold", hold, NULL, gone}};

static void put(struct bus *b, enum frame_kind kind, uint8_t call, const char *method) {
    uint8_t id[FRAME_CALL_ID_BYTES] = {call}, head[128];
    struct frame f = {.kind = kind, .version = 1, .call_id = id, .call_id_len = sizeof id, .method = method, .credits = 2};
    int n = frame_encode(&f, head, sizeof head);
    bus_send(b, NULL, head, (size_t)n, "x", 1);
}

static int drain(struct bus *b) {
    struct bus_msg m;
    int n = 0;
    while (bus_recv(b, &m) >= 0) n++;
    return n;
}

/* Everything a server may do, between two clients. */
static void live(struct bus *a, struct bus *b) {
    put(a, FRAME_OPEN, 1, "Echo");
    put(a, FRAME_OPEN, 2, "Hold");
    put(b, FRAME_OPEN, 3, "Hold");
    put(b, FRAME_OPEN, 4, "Nothing");
    call_server_poll(server, 0);
    put(b, FRAME_OPEN, 2, "Hold"); /* takes it over */
    put(b, FRAME_CREDIT, 2, NULL);
    put(b, FRAME_CANCEL, 3, NULL);
    call_server_poll(server, 2000000);
    drain(a);
    drain(b);
}

START_TEST(every_allocation) {
    struct call_limits limits = {.payload_bytes = 100, .calls = 10, .ping_us = 1000000};
    bool failed = true;
    long n = 0;
    for (; failed; n++) {
        struct why why = {""};
        struct bus *bus = NULL, *a = NULL, *b = NULL;
        left = n;
        struct bus_hub *hub = bus_hub_new();
        server = NULL;
        held = 0;
        bool up = hub && bus_mem_bind(hub, "s", &bus, &why) >= 0 && bus_mem_connect(hub, "s", &a, &why) >= 0 &&
                  bus_mem_connect(hub, "s", &b, &why) >= 0 && call_server_new(bus, &limits, methods, 2, NULL, &server) >= 0;
        if (up) live(a, b);
        failed = left < 0;
        left = -1;
        if (up) {
            put(a, FRAME_OPEN, 9, "Echo");
            call_server_poll(server, 2000000);
            ck_assert_int_eq(drain(a), 2);
        }
        call_server_free(server);
        ck_assert_int_eq(held, 0);
        bus_close(a);
        bus_close(b);
        bus_close(bus);
        bus_hub_free(hub);
    }
    ck_assert_int_gt(n, 25);
}
END_TEST

int main(void) {
    Suite *s = suite_create("call_nomem");
    TCase *c = tcase_create("call_nomem");
    tcase_add_test(c, every_allocation);
    suite_add_tcase(s, c);
    return run_suite(s);
}
