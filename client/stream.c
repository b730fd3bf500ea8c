/* stream.c - calls as the client sees them: opened, fed by frames, ended exactly once.
 *
 * One bus serves all streams of a client. Whoever waits pumps it for all: frames are sorted by call id into their streams'
 * queues, as bytes; decoding waits until the event is taken. A queue cannot outgrow the stream's window, because the server
 * needs a credit per Data and credits are granted as events are taken.
 * A stream ends by the server's End, or here: when there is no connection (connect timeout), when it broke, when the server
 * stopped talking about the call (it pings every open call each second, so silence means that it hangs or is unreachable),
 * or when frames are missing. */
#include "base/clk.h"
#include "base/hash.h"
#include "client/client.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { SLICE_MS = 100 }; /* how often silence is looked for */

int client_fail(struct cadre_client *c, int code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->why.text, sizeof c->why.text, fmt, ap);
    va_end(ap);
    return code;
}

static struct list *bucket(struct cadre_client *c, const uint8_t *id) {
    return &c->table[hash_bytes(id, FRAME_CALL_ID_BYTES) % CLIENT_BUCKETS];
}

static struct cadre_stream *find(struct cadre_client *c, const uint8_t *id) {
    struct list *i, *tmp, *b = bucket(c, id);
    list_for(i, tmp, b) {
        struct cadre_stream *s = list_entry(i, struct cadre_stream, in_table);
        if (!memcmp(s->id, id, sizeof s->id)) return s;
    }
    return NULL;
}

static int send_frame(struct cadre_stream *s, struct frame f, const void *payload, size_t len) {
    uint8_t head[512];
    f.version = FRAME_VERSION;
    f.call_id = s->id;
    f.call_id_len = sizeof s->id;
    int n = frame_encode(&f, head, sizeof head);
    return n < 0 ? n : bus_send(s->client->bus, NULL, head, (size_t)n, len ? payload : "", len);
}

/* The only place where a stream ends. status may be what a server made up. */
static void end(struct cadre_stream *s, uint32_t status, const char *message) {
    if (s->ended) return;
    char text[600];
    if (s->resumed && status == CADRE_NOT_FOUND) { /* the request that it was is what the caller knows of */
        snprintf(text, sizeof text, "the connection to the server at %s was lost, and the answer with it: %s",
                 s->client->endpoint, message);
        message = text;
        status = CADRE_UNAVAILABLE;
    }
    s->ended = true;
    s->status = status <= CADRE_UNAUTHENTICATED ? (int)status : CADRE_UNKNOWN;
    free(s->message); /* of an earlier call */
    s->message = strdup(message);
    list_remove(&s->in_table);
    list_remove(&s->in_ready);
    list_append(&s->client->ready, &s->in_ready);
}

/* Ends it here, and tells the server, should it still be there, not to go on. */
static void abandon(struct cadre_stream *s, enum cadre_code status, const char *message) {
    send_frame(s, (struct frame){.kind = FRAME_CANCEL}, NULL, 0);
    end(s, (uint32_t)status, message);
}

static void take_data(struct cadre_stream *s, uint64_t index, const struct bus_msg *m) {
    char text[160];
    if (index < s->next_index) return; /* seen */
    if (index > s->next_index) {
        snprintf(text, sizeof text, "frames were lost on the way: expected frame %llu, got %llu",
                 (unsigned long long)s->next_index, (unsigned long long)index);
        return abandon(s, CADRE_DATA_LOSS, text);
    }
    struct item *item = malloc(sizeof *item + m->body_len);
    if (!item) return abandon(s, CADRE_RESOURCE_EXHAUSTED, "the client is out of memory");
    item->len = m->body_len;
    if (m->body_len) memcpy(item->bytes, m->body, m->body_len);
    s->next_index++;
    s->got_data = true;
    free(s->payload);
    s->payload = NULL;
    if (list_empty(&s->items)) {
        list_remove(&s->in_ready);
        list_append(&s->client->ready, &s->in_ready);
    }
    list_append(&s->items, &item->node);
}

static void handle(struct cadre_client *c, const struct bus_msg *m) {
    struct frame f;
    if (frame_decode(m->head, m->head_len, &f) < 0) return;
    struct cadre_stream *s = f.call_id_len == FRAME_CALL_ID_BYTES ? find(c, f.call_id) : NULL;
    if (s) { /* frames of calls we have given up are none of our business */
        s->heard_us = clk_now_us();
        if (f.kind != FRAME_END) s->lost = false;
        if (f.kind == FRAME_DATA) take_data(s, f.index, m);
        else if (f.kind == FRAME_END && !resume_later(s, f.status, f.message)) end(s, f.status, f.message);
    }
    frame_clear(&f);
}

/* Nobody there, or somebody who does not speak? */
static void give_up(struct cadre_stream *s, uint32_t ms) {
    const struct cadre_client *c = s->client;
    char text[700];
    if (!s->heard_us && c->link.unwelcome)
        snprintf(text, sizeof text, "the server at %s does not let us in: it wants a key, another one, or none (--key)",
                 c->endpoint);
    else if (s->lost)
        snprintf(text, sizeof text,
                 "the connection to the server at %s was lost, and could not be taken up again for %.3g s%s%s", c->endpoint,
                 ms / 1e3, s->message ? "; it said last: " : "", s->message ? s->message : "");
    else if (!s->heard_us && !c->link.up)
        snprintf(text, sizeof text, "no server answers at %s (is `cadre serve` running?)", c->endpoint);
    else
        snprintf(text, sizeof text, "the server at %s has said nothing for %.3g s; it hangs or is unreachable", c->endpoint,
                 ms / 1e3);
    abandon(s, CADRE_UNAVAILABLE, text);
}

static uint32_t patience_ms(const struct cadre_stream *s) {
    const struct cadre_options *o = &s->client->options;
    if (s->lost && (s->got_data || s->message)) return o->resume_timeout_ms; /* message: a server was there, and said later */
    return s->heard_us || (s->client->link.up && !s->lost) ? o->silence_timeout_ms : o->connect_timeout_ms;
}

static void look_for_silence(struct cadre_client *c) {
    int64_t now = clk_now_us();
    if (now - c->checked_us < SLICE_MS * 1000 / 2) return;
    c->checked_us = now;
    struct list *i, *tmp;
    list_for(i, tmp, &c->streams) {
        struct cadre_stream *s = list_entry(i, struct cadre_stream, node);
        uint32_t ms = patience_ms(s);
        int64_t since = s->lost ? s->lost_us : s->heard_us ? s->heard_us : s->opened_us;
        if (s->again_us && now >= s->again_us) resume_lost(s);
        bool refused = c->options.once && !s->heard_us && !s->lost && !c->link.up && c->link.refused != s->refused;
        if (!s->ended && (refused || now - since >= (int64_t)ms * 1000)) give_up(s, ms);
    }
}

/* To the server a new connection is a new client: it gives up what it did for the old one, but for answers that it keeps for
 * us. Of what nobody has answered yet nobody knows whether it still waits on our side, and travels over the new one, or went
 * down with the old: a Generate is said again, which is harmless where it came twice. */
static void connection_lost(struct cadre_client *c) {
    struct list *i, *tmp;
    char text[400];
    snprintf(text, sizeof text, "the connection to the server at %s was lost", c->endpoint);
    list_for(i, tmp, &c->streams) {
        struct cadre_stream *s = list_entry(i, struct cadre_stream, node);
        bool unheard = !s->heard_us && !s->lost;
        if (s->ended || (unheard && (!s->generate || s->cancelled))) continue;
        enum resume_verdict verdict = resume_lost(s);
        if (verdict == RESUME_COMPLETE) end(s, CADRE_OK, "");
        else if (verdict == RESUME_NOT) abandon(s, CADRE_UNAVAILABLE, text);
    }
}

void stream_pump(struct cadre_client *c) {
    struct bus_msg m;
    struct bus_link link;
    bus_get_link(c->bus, &link); /* first, so that what came before a break is taken before the break is told */
    while (bus_recv(c->bus, &m) >= 0) handle(c, &m);
    bool lost = link.lost != c->link.lost;
    c->link = link;
    if (lost) connection_lost(c);
    look_for_silence(c);
}

bool stream_wait(struct cadre_client *c, const struct cadre_stream *s, int64_t timeout_ms) {
    int64_t until = timeout_ms < 0 ? INT64_MAX : clk_now_us() + timeout_ms * 1000;
    for (;;) {
        if (s ? !list_empty(&s->items) || s->ended : !list_empty(&c->ready)) return true;
        stream_pump(c);
        if (s ? !list_empty(&s->items) || s->ended : !list_empty(&c->ready)) return true;
        int64_t left_us = until - clk_now_us();
        if (left_us <= 0) return false;
        struct pollfd p = {.fd = bus_fd(c->bus), .events = POLLIN};
        int ms = left_us > SLICE_MS * 1000 ? SLICE_MS : (int)((left_us + 999) / 1000);
        if (poll(&p, 1, ms) < 0 && errno == EINTR) return false;
    }
}

int stream_open(struct cadre_client *c, const char *method, const void *payload, size_t len, uint64_t timeout_ms,
                uint32_t window, struct cadre_stream **out) {
    *out = NULL;
    if (!c->bus) return CADRE_INVALID_ARGUMENT; /* cadre_open failed and said why */
    if (len >= BUS_HARD_LIMIT)
        return client_fail(c, CADRE_RESOURCE_EXHAUSTED, "the request has %zu bytes; the protocol carries less than %d", len,
                           BUS_HARD_LIMIT);
    struct cadre_stream *s = calloc(1, sizeof *s);
    if (!s) return client_fail(c, CADRE_RESOURCE_EXHAUSTED, "the client is out of memory");
    if (getrandom(s->id, sizeof s->id, 0) != sizeof s->id) {
        free(s);
        return client_fail(c, CADRE_INTERNAL, "the system gives no random numbers: %s", strerror(errno));
    }
    memcpy(s->request_id, s->id, sizeof s->id);
    s->client = c;
    s->window = window;
    s->opened_us = clk_now_us();
    s->refused = c->link.refused;
    list_init(&s->items);
    list_init(&s->in_ready);
    arena_init(&s->arena, 16 << 10);
    int rc = send_frame(s, (struct frame){.kind = FRAME_OPEN, .method = method, .timeout_ms = timeout_ms, .credits = window},
                        payload, len);
    if (rc < 0) {
        arena_clear(&s->arena);
        free(s);
        return client_fail(c, CADRE_UNAVAILABLE,
                           rc == ERR_AGAIN ? "too many requests wait for the server at %s" : "cannot send to the server at %s",
                           c->endpoint);
    }
    list_append(&c->streams, &s->node);
    list_append(bucket(c, s->id), &s->in_table);
    *out = s;
    return CADRE_OK;
}

int stream_reopen(struct cadre_stream *s, const char *method, const uint8_t *id, const void *payload, size_t len) {
    bool anew = memcmp(s->id, id, sizeof s->id) != 0;
    if (anew) memcpy(s->id, id, sizeof s->id);
    list_remove(&s->in_table);
    list_append(bucket(s->client, s->id), &s->in_table);
    s->resumed = anew;
    s->next_index = 0;
    s->consumed = 0;
    s->heard_us = 0;
    struct frame open = {.kind = FRAME_OPEN, .method = method, .timeout_ms = anew ? 0 : s->timeout_ms, .credits = s->window};
    return send_frame(s, open, payload, len) < 0 ? CADRE_UNAVAILABLE : CADRE_OK;
}

struct item *stream_take(struct cadre_stream *s) {
    if (list_empty(&s->items)) return NULL;
    struct item *item = list_entry(s->items.next, struct item, node);
    list_remove(&item->node);
    list_remove(&s->in_ready);
    if (!list_empty(&s->items) || s->ended) list_append(&s->client->ready, &s->in_ready); /* at the tail: turns are fair */
    s->consumed++;
    if (!s->ended && s->consumed * 2 >= s->window &&
        send_frame(s, (struct frame){.kind = FRAME_CREDIT, .credits = s->consumed}, NULL, 0) >= 0)
        s->consumed = 0;
    return item;
}

void cadre_cancel(struct cadre_stream *s) {
    if (s->ended || s->cancelled) return;
    if (send_frame(s, (struct frame){.kind = FRAME_CANCEL}, NULL, 0) >= 0) s->cancelled = true;
}

void cadre_stream_close(struct cadre_stream *s) {
    if (!s) return;
    cadre_cancel(s);
    struct list *i, *tmp;
    list_for(i, tmp, &s->items) free(list_entry(i, struct item, node));
    list_remove(&s->node);
    if (!s->ended) list_remove(&s->in_table);
    list_remove(&s->in_ready);
    port_release(s->hold);
    arena_clear(&s->arena);
    free(s->payload);
    free(s->message);
    free(s);
}

void cadre_stream_set_user(struct cadre_stream *s, void *user) { s->user = user; }
void *cadre_stream_user(const struct cadre_stream *s) { return s->user; }
