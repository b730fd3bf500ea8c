/* call.c - calls over a bus: checks frames, keeps the credits, deadlines and pings of live calls (call_table.h).
 *
 *              Open               call_end, cancel, deadline: the End could be sent
 *   (nothing) ------> LIVE_OPEN --------------------------------------------------> (nothing)
 *                      |   ^   \    the same, but the peer's queue is full
 *    the peer vanished |   |    +----------------> LIVE_ENDING --> (nothing), when sent or given up
 *                      v   | Open from another peer takes the call over
 *                    LIVE_DOOMED --> (nothing), after on_gone at the next poll
 *
 * A vanished peer is learned from a failed send (Data, Ping or End). The call at hand is told at once, the peer's other calls
 * at the next poll: a handler may therefore walk its own lists while it sends.
 * A call wakes at its deadline or its ping, whichever is first. Sending does not change that: a ping that comes up too early is
 * put back.
 * The bus' fd is edge triggered, and any send may swallow an edge: a poll receives again until nothing was sent in between. */
#include "proto/call.h"

#include "base/log.h"
#include "base/utf8.h"
#include "proto/call_table.h"
#include "proto/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    POLL_MESSAGES = 4096, /* taken per poll before timers get their turn */
    CREDIT_LIMIT = 1 << 30,
    ID_ECHO_BYTES = 64,           /* a call id of the wrong length is echoed up to this */
    MESSAGE_BYTES = 2000,         /* of an End */
    RETRY_US = 10 * 1000,         /* when a peer's queue was full */
    ENDING_US = 30 * 1000 * 1000, /* a peer that takes no End for so long has lost it */
};
#define NO_PING_US       (INT64_MAX / 4)
#define TIMEOUT_LIMIT_MS ((uint64_t)1000 * 3600 * 24 * 365)

struct call_server {
    struct bus *bus;
    struct call_limits limits;
    const struct call_method *methods;
    int n_methods;
    void *ctx;
    struct call_table table;
    uint64_t bus_noise;
    struct list stuck, doomed; /* of struct live, by `waiting` */
    int64_t now_us, retry_us;
    bool sent;                   /* since the bus was last found empty */
    const struct frame *opening; /* during on_open */
    struct call_stats stats;
};

static void set_wake(struct call_server *s, struct live *l) {
    int64_t ping_us = l->sent_us + s->limits.ping_us;
    call_table_wake(&s->table, l, l->pub.deadline_us && l->pub.deadline_us < ping_us ? l->pub.deadline_us : ping_us);
}

/* ---- states ---- */
static void set_state(struct live *l, enum live_state to) {
    bool legal = (l->state == LIVE_OPEN && to != LIVE_OPEN) || (l->state == LIVE_DOOMED && to == LIVE_OPEN);
    if (!legal) BUG("call: state %d to %d", (int)l->state, (int)to);
    l->state = to;
}

static void wait_in(struct live *l, struct list *where) {
    list_remove(&l->waiting);
    list_append(where, &l->waiting);
}

/* Its open calls are told at the next poll; an End that still waits for it is lost. */
static void doom_peer(struct call_server *s, struct peer *p) {
    struct list *i, *tmp;
    list_for(i, tmp, &p->calls) {
        struct live *l = list_entry(i, struct live, of_peer);
        if (l->state == LIVE_OPEN) set_state(l, LIVE_DOOMED);
        wait_in(l, &s->doomed);
    }
}

static void tell_gone(struct call_server *s, struct live *l, int status) {
    const struct call_method *m = &s->methods[l->pub.method];
    if (status == CALL_CANCELLED) s->stats.cancelled++;
    else if (status == CALL_DEADLINE_EXCEEDED) s->stats.deadline++;
    else if (status == CALL_ABORTED) s->stats.client_gone++;
    if (m->on_gone) m->on_gone(s->ctx, &l->pub, status);
}

/* ---- sending ---- */
static int send_frame(struct call_server *s, const struct bus_id *to, struct frame *f, const void *payload, size_t len) {
    uint8_t head[MESSAGE_BYTES + 256];
    f->version = FRAME_VERSION;
    int n = frame_encode(f, head, sizeof head);
    if (n < 0) BUG("call: a frame of kind %d does not fit", (int)f->kind);
    s->sent = true;
    return bus_send(s->bus, to, head, (size_t)n, len ? payload : "", len);
}

static int send_end(struct call_server *s, const struct bus_id *to, const uint8_t *id, size_t id_len, int status,
                    const char *message) {
    char text[MESSAGE_BYTES];
    utf8_copy(text, sizeof text, message ? message : ""); /* it may quote names that are none, or be cut inside a character */
    struct frame f = {.kind = FRAME_END, .call_id = id, .call_id_len = id_len, .status = (uint32_t)status, .message = text};
    return send_frame(s, to, &f, NULL, 0);
}

/* Sends the call's End and forgets it; keeps both while it cannot be sent. The handler is out of it already. */
static void finish(struct call_server *s, struct live *l, int status, const char *message) {
    int rc = l->state == LIVE_DOOMED ? ERR_GONE : send_end(s, &l->peer->id, l->id, sizeof l->id, status, message);
    if (rc == ERR_GONE) doom_peer(s, l->peer);
    if (rc >= 0 || rc == ERR_GONE || !(l->end_message = strdup(message ? message : ""))) {
        call_table_remove(&s->table, l);
        return;
    }
    set_state(l, LIVE_ENDING);
    l->end_status = status;
    call_table_wake(&s->table, l, s->now_us + ENDING_US);
    wait_in(l, &s->stuck);
}

/* The call ends from our or the client's side, not the handler's. */
static void revoke(struct call_server *s, struct live *l, int status, const char *message) {
    tell_gone(s, l, status);
    finish(s, l, status, message);
}

static void refuse(struct call_server *s, const struct bus_msg *m, const struct frame *f, int status, const char *message) {
    s->stats.refused++;
    send_end(s, &m->from, f->call_id, f->call_id_len, status, message);
}

int call_send(struct call_server *s, struct call *c, const void *payload, size_t len) {
    struct live *l = (struct live *)c;
    int rc = ERR_GONE;
    if (l->state == LIVE_OPEN) {
        if (!l->credits) return ERR_AGAIN;
        struct frame f = {.kind = FRAME_DATA, .call_id = l->id, .call_id_len = sizeof l->id, .index = l->next_index};
        rc = send_frame(s, &l->peer->id, &f, payload, len);
    }
    if (rc >= 0) {
        l->credits--;
        l->next_index++;
        l->sent_us = s->now_us;
        return 0;
    }
    if (rc == ERR_GONE) {
        doom_peer(s, l->peer);
        tell_gone(s, l, CALL_ABORTED);
        call_table_remove(&s->table, l);
        return ERR_GONE;
    }
    wait_in(l, &s->stuck); /* its queue is full, or we have no memory: on_credit when it may go again */
    return ERR_AGAIN;
}

const void *call_metadata(const struct call_server *s, const char *key, size_t *len) {
    return s->opening ? frame_metadata(s->opening, key, len) : NULL;
}

bool call_can_send(const struct call *c) {
    const struct live *l = (const struct live *)c;
    return l->state == LIVE_OPEN && l->credits;
}

void call_end(struct call_server *s, struct call *c, int status, const char *message) {
    s->stats.ended++;
    finish(s, (struct live *)c, status, message);
}

/* ---- receiving ---- */
static void take_over(struct call_server *s, struct live *l, const struct bus_msg *m, const struct frame *f) {
    if (call_table_move(&s->table, l, &m->from) < 0) return;
    l->credits = f->credits ? f->credits : 1;
    if (l->credits > CREDIT_LIMIT) l->credits = CREDIT_LIMIT;
    if (l->state == LIVE_ENDING) return wait_in(l, &s->stuck);
    if (l->state == LIVE_DOOMED) set_state(l, LIVE_OPEN);
    list_remove(&l->waiting);
    const struct call_method *method = &s->methods[l->pub.method];
    if (method->on_credit) method->on_credit(s->ctx, &l->pub);
}

static int method_index(const struct call_server *s, const char *name) {
    for (int i = 0; i < s->n_methods; i++)
        if (!strcmp(s->methods[i].name, name)) return i;
    return ERR_NOT_FOUND;
}

static void refuse_method(struct call_server *s, const struct bus_msg *m, const struct frame *f) {
    char name[65], known[256] = "", text[512];
    size_t n = 0;
    for (; n < sizeof name - 1 && f->method[n]; n++) name[n] = f->method[n] > ' ' && f->method[n] < 127 ? f->method[n] : '?';
    name[n] = 0;
    for (int i = 0; i < s->n_methods; i++) {
        size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", s->methods[i].name);
    }
    snprintf(text, sizeof text, "there is no method '%s'; this server knows %s", name, known);
    refuse(s, m, f, CALL_UNIMPLEMENTED, text);
}

/* The method's index, or negative after refusing. */
static int admit_open(struct call_server *s, const struct bus_msg *m, const struct frame *f) {
    char text[160];
    if (m->body_len > s->limits.payload_bytes) {
        snprintf(text, sizeof text, "the request has %zu bytes; at most %zu are accepted", m->body_len,
                 s->limits.payload_bytes);
        return refuse(s, m, f, CALL_RESOURCE_EXHAUSTED, text), ERR_TOO_LARGE;
    }
    int method = method_index(s, f->method);
    if (method < 0) return refuse_method(s, m, f), ERR_UNSUPPORTED;
    if (s->methods[method].for_operators && !m->from_operator) {
        s->stats.denied++;
        snprintf(text, sizeof text, "%s is for operators: it wants the cluster's own key (cadre.key), this is a client's",
                 f->method);
        return refuse(s, m, f, CALL_PERMISSION_DENIED, text), ERR_DENIED;
    }
    if (s->table.n >= s->limits.calls) {
        snprintf(text, sizeof text, "the server is at its limit of %d open calls; try again later", s->limits.calls);
        return refuse(s, m, f, CALL_RESOURCE_EXHAUSTED, text), ERR_EXHAUSTED;
    }
    return method;
}

static void handle_open(struct call_server *s, const struct bus_msg *m, const struct frame *f) {
    int method = admit_open(s, m, f);
    if (method < 0) return;
    struct live *l = call_table_add(&s->table, f->call_id, &m->from);
    if (!l) {
        refuse(s, m, f, CALL_RESOURCE_EXHAUSTED, "the server is out of memory");
        return;
    }
    uint64_t timeout_ms = f->timeout_ms < TIMEOUT_LIMIT_MS ? f->timeout_ms : TIMEOUT_LIMIT_MS;
    l->pub = (struct call){.opened_us = s->now_us,
                           .deadline_us = timeout_ms ? s->now_us + (int64_t)timeout_ms * 1000 : 0,
                           .method = method,
                           .id = l->id};
    l->credits = !f->credits ? 1 : f->credits < CREDIT_LIMIT ? f->credits : CREDIT_LIMIT;
    l->sent_us = s->now_us;
    set_wake(s, l);
    s->stats.opened++;
    s->opening = f;
    s->methods[method].on_open(s->ctx, &l->pub, m->body_len ? m->body : (const uint8_t *)"", m->body_len);
    s->opening = NULL;
}

static void handle_credit(struct call_server *s, struct live *l, uint32_t more) {
    const struct call_method *m = &s->methods[l->pub.method];
    l->credits = more < CREDIT_LIMIT - l->credits ? l->credits + more : CREDIT_LIMIT;
    if (m->on_credit && l->credits) m->on_credit(s->ctx, &l->pub);
}

/* A well-formed frame of our version with a proper call id. */
static void handle_frame(struct call_server *s, const struct bus_msg *m, const struct frame *f) {
    struct live *l = call_table_find(&s->table, f->call_id);
    bool mine = l && call_table_is_from(l, &m->from);
    if (f->kind == FRAME_OPEN) {
        if (!l) handle_open(s, m, f);
        else if (!mine) take_over(s, l, m, f);
    } else if (f->kind == FRAME_CREDIT || f->kind == FRAME_CANCEL) {
        if (!mine || l->state != LIVE_OPEN) return; /* crossed our End on the way, or is none of its business */
        if (f->kind == FRAME_CREDIT) handle_credit(s, l, f->credits);
        else revoke(s, l, CALL_CANCELLED, "cancelled by the client");
    } else if (f->kind == FRAME_UNKNOWN) {
        if (mine) s->stats.noise++; /* a newer client's hint: the call goes on without it */
        else refuse(s, m, f, CALL_UNIMPLEMENTED, "this kind of frame is not known here");
    } else if (mine && l->state == LIVE_OPEN) {
        revoke(s, l, CALL_INVALID_ARGUMENT, "protocol violated: only servers send Data, End and Ping");
    } else if (!l) {
        refuse(s, m, f, CALL_INVALID_ARGUMENT, "protocol violated: only servers send Data, End and Ping");
    } else {
        s->stats.noise++;
    }
}

static void handle(struct call_server *s, const struct bus_msg *m) {
    struct frame f;
    char text[160];
    if (frame_decode(m->head, m->head_len, &f) < 0) {
        s->stats.noise++;
        return;
    }
    if (!f.call_id_len || f.call_id_len > ID_ECHO_BYTES) {
        s->stats.noise++;
    } else if (f.version != FRAME_VERSION) {
        snprintf(text, sizeof text, "protocol version %u is not spoken here; this server speaks version %d", f.version,
                 FRAME_VERSION);
        refuse(s, m, &f, CALL_UNIMPLEMENTED, text);
    } else if (f.call_id_len != FRAME_CALL_ID_BYTES) {
        snprintf(text, sizeof text, "a call id has %d bytes, this one %zu", FRAME_CALL_ID_BYTES, f.call_id_len);
        refuse(s, m, &f, CALL_INVALID_ARGUMENT, text);
    } else {
        handle_frame(s, m, &f);
    }
    frame_clear(&f);
}

/* ---- time ---- */
static void ping(struct call_server *s, struct live *l) {
    struct frame f = {.kind = FRAME_PING, .call_id = l->id, .call_id_len = sizeof l->id};
    int rc = send_frame(s, &l->peer->id, &f, NULL, 0);
    l->sent_us = s->now_us;
    set_wake(s, l);
    if (rc == ERR_GONE) doom_peer(s, l->peer);
}

static void expire_call(struct call_server *s, struct live *l) {
    char text[400];
    const char *reason = l->pub.waits_for;
    snprintf(text, sizeof text, "the call's deadline has passed%s%s", reason ? ": " : "", reason ? reason : "");
    revoke(s, l, CALL_DEADLINE_EXCEEDED, text);
}

static void expire(struct call_server *s) {
    for (struct live *l; (l = call_table_first(&s->table)) && l->wake_us <= s->now_us;) {
        if (l->state == LIVE_ENDING) {
            call_table_remove(&s->table, l);
        } else if (l->state == LIVE_OPEN && l->pub.deadline_us && l->pub.deadline_us <= s->now_us) {
            expire_call(s, l);
        } else if (l->state == LIVE_OPEN && l->sent_us + s->limits.ping_us <= s->now_us) {
            ping(s, l);
        } else {
            if (l->state == LIVE_DOOMED) l->sent_us = s->now_us; /* reaped in a moment */
            set_wake(s, l);
            if (l->wake_us <= s->now_us) break;
        }
    }
}

/* Calls whose peer's queue was full. Those that fail again put themselves back. */
static void retry_stuck(struct call_server *s) {
    if (list_empty(&s->stuck) || s->now_us < s->retry_us) return;
    s->retry_us = s->now_us + RETRY_US;
    struct list again;
    list_init(&again);
    while (!list_empty(&s->stuck)) {
        struct live *l = list_entry(s->stuck.next, struct live, waiting);
        wait_in(l, &again);
    }
    while (!list_empty(&again)) {
        struct live *l = list_entry(again.next, struct live, waiting);
        list_remove(&l->waiting);
        if (l->state == LIVE_ENDING) {
            int rc = send_end(s, &l->peer->id, l->id, sizeof l->id, l->end_status, l->end_message);
            if (rc >= 0 || rc == ERR_GONE) call_table_remove(&s->table, l);
            else wait_in(l, &s->stuck);
        } else if (s->methods[l->pub.method].on_credit && l->credits) {
            s->methods[l->pub.method].on_credit(s->ctx, &l->pub);
        }
    }
}

static void reap_doomed(struct call_server *s) {
    while (!list_empty(&s->doomed)) {
        struct live *l = list_entry(s->doomed.next, struct live, waiting);
        list_remove(&l->waiting);
        if (l->state == LIVE_DOOMED) tell_gone(s, l, CALL_ABORTED);
        call_table_remove(&s->table, l);
    }
}

/* True when everything was received. */
static bool receive(struct call_server *s) {
    struct bus_msg m;
    int budget = POLL_MESSAGES;
    do {
        s->sent = false;
        while (budget > 0 && bus_recv(s->bus, &m) >= 0) {
            handle(s, &m);
            budget--;
        }
    } while (s->sent && budget > 0);
    return budget > 0;
}

int64_t call_server_poll(struct call_server *s, int64_t now_us) {
    s->now_us = now_us;
    expire(s);
    retry_stuck(s);
    reap_doomed(s);
    bool all = receive(s);
    s->stats.noise += bus_noise(s->bus) - s->bus_noise;
    s->bus_noise = bus_noise(s->bus);
    if (!all || !list_empty(&s->doomed)) return now_us;
    const struct live *first = call_table_first(&s->table);
    int64_t next = first ? first->wake_us : INT64_MAX;
    if (!list_empty(&s->stuck) && s->retry_us < next) next = s->retry_us;
    return next;
}

/* ---- life ---- */
int call_server_new(struct bus *bus, const struct call_limits *limits, const struct call_method *methods, int n_methods,
                    void *ctx, struct call_server **out) {
    struct call_server *s = calloc(1, sizeof *s);
    if (!s) return ERR_NOMEM;
    *s = (struct call_server){.bus = bus, .limits = *limits, .methods = methods, .n_methods = n_methods, .ctx = ctx};
    if (s->limits.ping_us <= 0) s->limits.ping_us = NO_PING_US;
    if (call_table_init(&s->table, limits->calls) < 0) {
        free(s);
        return ERR_NOMEM;
    }
    list_init(&s->stuck);
    list_init(&s->doomed);
    *out = s;
    return 0;
}

void call_server_free(struct call_server *s) {
    if (!s) return;
    for (struct live *l; (l = call_table_first(&s->table));) {
        if (l->state != LIVE_ENDING) tell_gone(s, l, CALL_UNAVAILABLE);
        if (l->state == LIVE_OPEN)
            send_end(s, &l->peer->id, l->id, sizeof l->id, CALL_UNAVAILABLE, "the server is shutting down");
        call_table_remove(&s->table, l);
    }
    call_table_clear(&s->table);
    free(s);
}

const struct call_stats *call_server_stats(const struct call_server *s) { return &s->stats; }
