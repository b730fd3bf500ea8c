/* fuzz_frames.c - the server side of the client protocol under hostile clients.
 *
 * An input is a script for two clients on one server: records of one byte (bit 0: which client; bit 1: it leaves and comes
 * back; bits 2-7: time passes), two bytes of head length, one byte of body length (times 16), then head and body. Whatever is
 * sent: every call a handler has seen ends exactly once, answers are well-formed frames, and nobody's handler outlives the
 * server. */
#include <stdlib.h>
#include <string.h>

#include "proto/call.h"
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"

enum { CLIENTS = 2, CALLS = 6, PAYLOAD = 512 };

static struct call_server *server;
static int live; /* calls in handlers' hands */
static struct call *held[CALLS];

static int hold(struct call *c) {
    for (int i = 0; i < CALLS; i++)
        if (!held[i]) return held[i] = c, c->handler = &held[i], live++, i;
    FUZZ_CHECK(!"more calls than the limit");
    return -1;
}
static void drop(struct call *c) {
    FUZZ_CHECK(*(struct call **)c->handler == c);
    *(struct call **)c->handler = NULL;
    live--;
}
static void on_open(void *ctx, struct call *c, const uint8_t *payload, size_t len) {
    size_t n = 0;
    (void)ctx;
    FUZZ_CHECK(len <= PAYLOAD && payload);
    const uint8_t *value = call_metadata(server, "k", &n);
    for (size_t i = 0; value && i < n; i++) n += value[i] & 0; /* reads every byte */
    hold(c);
    if (c->method != 0) return; /* "Hold" */
    int rc = call_send(server, c, payload, len);
    if (rc == ERR_GONE) return;
    drop(c);
    call_end(server, c, CALL_OK, "");
}
static void on_credit(void *ctx, struct call *c) {
    (void)ctx;
    FUZZ_CHECK(*(struct call **)c->handler == c);
    if (call_can_send(c)) (void)call_send(server, c, "x", 1);
}
static void on_gone(void *ctx, struct call *c, int status) {
    (void)ctx;
    FUZZ_CHECK(status != CALL_OK);
    drop(c);
}
static const struct call_method methods[] = {{"Echo", on_open, on_credit, on_gone}, {"Hold", on_open, on_credit, on_gone}};

static void read_answers(struct bus *b) {
    struct bus_msg m;
    struct frame f;
    while (bus_recv(b, &m) >= 0) {
        FUZZ_CHECK(frame_decode(m.head, m.head_len, &f) == 0);
        FUZZ_CHECK(f.version == FRAME_VERSION && (f.kind == FRAME_DATA || f.kind == FRAME_END || f.kind == FRAME_PING));
        FUZZ_CHECK(f.call_id_len > 0 && f.call_id_len <= 64 && m.body);
        frame_clear(&f);
    }
}

static struct bus *join(struct bus_hub *hub) {
    struct bus *b;
    struct why why;
    if (bus_mem_connect(hub, "s", &b, &why) < 0) abort();
    return b;
}

static void play(const uint8_t *data, size_t size, struct bus_hub *hub, struct bus **clients) {
    int64_t now = 0;
    while (size >= 4) {
        size_t head = (size_t)data[1] << 8 | data[2], body = (size_t)data[3] * 16;
        int who = data[0] & 1;
        now += (data[0] >> 2) * 50000;
        if (data[0] & 2) {
            bus_close(clients[who]);
            clients[who] = join(hub);
        }
        data += 4;
        size -= 4;
        if (head > size) head = size;
        if (body > size - head) body = size - head;
        bus_send(clients[who], NULL, data, head, body ? data + head : NULL, body);
        data += head + body;
        size -= head + body;
        call_server_poll(server, now);
        FUZZ_CHECK(live <= CALLS);
        for (int i = 0; i < CLIENTS; i++) read_answers(clients[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bus_hub *hub = bus_hub_new();
    struct bus *bus, *clients[CLIENTS];
    struct why why;
    struct call_limits limits = {.payload_bytes = PAYLOAD, .calls = CALLS, .ping_us = 1000000};
    if (!hub || bus_mem_bind(hub, "s", &bus, &why) < 0 || call_server_new(bus, &limits, methods, 2, NULL, &server) < 0) abort();
    for (int i = 0; i < CLIENTS; i++) clients[i] = join(hub);
    live = 0;
    memset(held, 0, sizeof held);
    play(data, size, hub, clients);
    const struct call_stats *st = call_server_stats(server);
    FUZZ_CHECK(st->ended <= st->opened && st->cancelled + st->deadline <= st->opened);
    call_server_free(server);
    FUZZ_CHECK(live == 0);
    for (int i = 0; i < CLIENTS; i++) bus_close(clients[i]);
    bus_close(bus);
    bus_hub_free(hub);
    return 0;
}

/* One record: a frame of one client after a while. Returns the bytes written. */
static size_t record(uint8_t *out, int first, struct frame f, uint8_t call, const char *body) {
    uint8_t id[FRAME_CALL_ID_BYTES] = {call}, head[512];
    f.version = FRAME_VERSION;
    f.call_id = id;
    f.call_id_len = sizeof id;
    int n = frame_encode(&f, head, sizeof head);
    if (n < 0) abort();
    size_t len = strlen(body) / 16 * 16;
    out[0] = (uint8_t)first;
    out[1] = (uint8_t)(n >> 8);
    out[2] = (uint8_t)n;
    out[3] = (uint8_t)(len / 16);
    memcpy(out + 4, head, (size_t)n);
    memcpy(out + 4 + n, body, len);
    return 4 + (size_t)n + len;
}

void fuzz_seeds(fuzz_add add) {
    static const struct frame_metadata pair = {"k", "value", 5};
    const struct frame echo = {.kind = FRAME_OPEN, .method = "Echo", .credits = 3, .metadata = &pair, .n_metadata = 1};
    const struct frame held_for = {.kind = FRAME_OPEN, .method = "Hold", .credits = 1, .timeout_ms = 700};
    const struct frame wrong = {.kind = FRAME_OPEN, .method = "Nothing"};
    const struct frame credit = {.kind = FRAME_CREDIT, .credits = 5}, cancel = {.kind = FRAME_CANCEL};
    const struct frame end = {.kind = FRAME_END, .status = 3, .message = "I am no server"}, ping = {.kind = FRAME_PING};
    uint8_t b[4096];
    size_t n = record(b, 0, echo, 1, "sixteen bytes of it, and some more to echo");
    add(b, n);
    n += record(b + n, 0, held_for, 2, "");
    n += record(b + n, 0, credit, 2, "");
    n += record(b + n, 1, held_for, 2, ""); /* the other client takes it over */
    n += record(b + n, 1, credit, 2, "");
    n += record(b + n, 1, cancel, 2, "");
    add(b, n);
    n = record(b, 0, held_for, 3, "");
    n += record(b + n, 60 << 2, held_for, 4, ""); /* after the first one's deadline */
    n += record(b + n, 3, held_for, 5, "");
    n += record(b + n, (30 << 2) + 2, wrong, 6, "");
    n += record(b + n, 1, end, 5, "");
    n += record(b + n, 0, ping, 7, "");
    add(b, n);
    for (uint8_t i = 0; i < 9; i++) n += record(b + n, i & 1, held_for, (uint8_t)(20 + i), "payload payload ");
    add(b, n);
}
