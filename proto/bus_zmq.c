/* bus_zmq.c - the bus over ZeroMQ: ROUTER where we listen, DEALER where we connect.
 *
 * A ROUTER by default drops silently what it cannot deliver. ROUTER_MANDATORY turns both cases into answers, given on the
 * first (identity) part: EAGAIN when that peer's queue is full, EHOSTUNREACH when it is not connected. Later parts of the same
 * message cannot fail, because ZeroMQ counts whole messages.
 * A killed peer closes its TCP connection and is unreachable within milliseconds; a stopped one is found by ZeroMQ's
 * heartbeats, a lost host by them too. A DEALER reconnects by itself and queues meanwhile; its new connection is a new peer
 * id to the server.
 * Closing lets queued messages go out for LINGER_MS, so that a last reply is not lost; bus_context_close waits for that. */
#include "base/clk.h"
#include "base/log.h"
#include "proto/gate_zmq.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum {
    LINGER_MS = 300,
    BEAT_MS = 500,
    BEAT_TIMEOUT_MS = 2500, /* a stopped peer is gone after about 3 s */
    QUEUE_MESSAGES = 1000,  /* per peer and direction */
    HANDSHAKE_MS = 5000,
    LOOK_US = 500000,
    LOOKS = 12,         /* they span more than HANDSHAKE_MS */
    UNHEARD_MS = 15000, /* what was sent and nobody confirmed for so long breaks the connection: the host is gone */
};

struct bus_context {
    void *zmq;
    bool keyed;
    struct key key;
    struct gate *gate;    /* NULL until somebody listens */
    atomic_uint monitors; /* ever made: each has a name of its own */
};
#define UNWELCOME (ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)

struct bus_zmq {
    struct bus bus;
    void *socket;
    bool server, keyed;
    int fd;
    void *monitor; /* tells about connections: a DEALER's own, and those to a ROUTER */
    struct bus_link link;
    struct { /* of a ROUTER: connections */
        uint64_t came, let_in, missing[LOOKS];
        unsigned looks;
        int64_t next_look_us;
    } door;
    uint64_t noise;
    char endpoint[256];
    bool holds; /* head and body hold the last message given out */
    zmq_msg_t head, body;
};

static struct bus_zmq *zmq_of(struct bus *b) { return (struct bus_zmq *)((char *)b - offsetof(struct bus_zmq, bus)); }

void bus_context_close(struct bus_context *c) {
    if (!c) return;
    while (zmq_ctx_term(c->zmq) < 0 && errno == EINTR) continue;
    gate_close(c->gate);
    explicit_bzero(&c->key, sizeof c->key);
    free(c);
}

int bus_context_open(struct bus_context **out, const char *key_file, struct why *why) {
    struct bus_context *c = calloc(1, sizeof *c);
    if (!c) return fail(why, ERR_NOMEM, "out of memory while opening the bus");
    c->zmq = zmq_ctx_new();
    if (!c->zmq) {
        free(c);
        return fail(why, ERR_IO, "cannot open ZeroMQ: %s", zmq_strerror(errno));
    }
    c->keyed = key_file != NULL;
    int rc = key_file ? key_read(key_file, &c->key, why) : 0;
    if (rc < 0) bus_context_close(c);
    else *out = c;
    return rc;
}

static int send_to(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                   size_t body_len) {
    struct bus_zmq *z = zmq_of(b);
    int more = body ? ZMQ_SNDMORE : 0, rc = 0;
    if (z->server) {
        do rc = zmq_send(z->socket, to->bytes, to->len, ZMQ_DONTWAIT | ZMQ_SNDMORE);
        while (rc < 0 && errno == EINTR);
    }
    if (rc >= 0) {
        do rc = zmq_send(z->socket, head, head_len, ZMQ_DONTWAIT | more);
        while (rc < 0 && errno == EINTR);
    }
    if (rc >= 0 && body) {
        do rc = zmq_send(z->socket, body, body_len, ZMQ_DONTWAIT);
        while (rc < 0 && errno == EINTR);
    }
    if (rc >= 0) return 0;
    if (errno == EAGAIN) return ERR_AGAIN;
    if (errno == EHOSTUNREACH) return ERR_GONE;
    log_error("bus %s: sending %zu + %zu bytes failed: %s", z->endpoint, head_len, body_len, zmq_strerror(errno));
    return ERR_IO;
}

static bool more_parts(zmq_msg_t *m) { return zmq_msg_more(m) != 0; }

static bool is_operator(const struct bus_zmq *z, const zmq_msg_t *head) {
    const char *who = z->keyed ? zmq_msg_gets(head, "User-Id") : GATE_OPERATOR;
    return who && !strcmp(who, GATE_OPERATOR);
}

static int recv_part(struct bus_zmq *z, zmq_msg_t *m) {
    int rc;
    do rc = zmq_msg_recv(m, z->socket, ZMQ_DONTWAIT);
    while (rc < 0 && errno == EINTR);
    return rc;
}

static void skip_parts(struct bus_zmq *z) {
    zmq_msg_t m;
    zmq_msg_init(&m);
    while (recv_part(z, &m) >= 0 && more_parts(&m)) continue;
    zmq_msg_close(&m);
    z->noise++;
}

static void drop_held(struct bus_zmq *z) {
    if (!z->holds) return;
    zmq_msg_close(&z->head);
    zmq_msg_close(&z->body);
    z->holds = false;
}

/* Reads one message, good or bad: 1 good, 0 noise, negative none. Parts of a message always arrive together. */
static int recv_one(struct bus_zmq *z, struct bus_msg *out) {
    zmq_msg_init(&z->head);
    zmq_msg_init(&z->body);
    z->holds = true;
    struct bus_id from = {0};
    if (z->server) {
        if (recv_part(z, &z->head) < 0) return -1;
        size_t len = zmq_msg_size(&z->head);
        if (!more_parts(&z->head)) return z->noise++, 0;
        if (len > BUS_ID_BYTES) return skip_parts(z), 0;
        from.len = (uint8_t)len;
        memcpy(from.bytes, zmq_msg_data(&z->head), len);
    }
    if (recv_part(z, &z->head) < 0) return -1;
    *out = (struct bus_msg){.from = from,
                            .from_operator = is_operator(z, &z->head),
                            .head = zmq_msg_data(&z->head),
                            .head_len = zmq_msg_size(&z->head)};
    if (!more_parts(&z->head)) return 1;
    if (recv_part(z, &z->body) < 0) return -1;
    out->body = zmq_msg_data(&z->body);
    out->body_len = zmq_msg_size(&z->body);
    if (!more_parts(&z->body)) return 1;
    skip_parts(z);
    return 0;
}

/* Not every stranger fails in a way that ZeroMQ tells of. But those who came are let in within the time there is for that, or
 * never: so many as were missing at every look during that time, at least, are strangers. */
static void count_strangers(struct bus_zmq *z) {
    int64_t now_us = clk_now_us();
    if (now_us < z->door.next_look_us) return;
    z->door.missing[z->door.looks++ % LOOKS] = z->door.came - z->door.let_in;
    z->door.next_look_us = now_us + LOOK_US;
    uint64_t least = z->door.missing[0];
    for (int i = 1; i < LOOKS; i++)
        if (z->door.missing[i] < least) least = z->door.missing[i];
    if (least > z->link.refused) z->link.refused = least;
}

/* A monitor event is two parts: 16 bits of number and 32 of value, then an address. */
static void read_monitor(struct bus_zmq *z) {
    zmq_msg_t m;
    zmq_msg_init(&m);
    while (z->monitor && zmq_msg_recv(&m, z->monitor, ZMQ_DONTWAIT) >= 0) {
        uint16_t event;
        if (!zmq_msg_more(&m) || zmq_msg_size(&m) < sizeof event) continue;
        memcpy(&event, zmq_msg_data(&m), sizeof event);
        bool stranger = event & UNWELCOME;
        z->door.came += event == ZMQ_EVENT_ACCEPTED;
        z->door.let_in += event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (event == ZMQ_EVENT_ACCEPTED) continue;
        if (stranger || event == ZMQ_EVENT_CONNECT_RETRIED) {
            z->link.refused++;
            z->link.unwelcome |= stranger;
            continue;
        }
        z->link.up = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (z->link.up) z->link.unwelcome = false;
        if (event == ZMQ_EVENT_DISCONNECTED) z->link.lost++;
    }
    zmq_msg_close(&m);
    if (z->server) count_strangers(z);
}

static int recv_from(struct bus *b, struct bus_msg *out) {
    struct bus_zmq *z = zmq_of(b);
    for (;;) {
        drop_held(z);
        struct bus_msg m;
        int rc = recv_one(z, &m);
        if (rc > 0) return *out = m, 0;
        if (rc < 0) return drop_held(z), read_monitor(z), ERR_AGAIN;
    }
}

static int fd_of(struct bus *b) { return zmq_of(b)->fd; }
static const char *endpoint_of(struct bus *b) { return zmq_of(b)->endpoint; }
static uint64_t noise_of(struct bus *b) { return zmq_of(b)->noise; }

static void get_link(struct bus *b, struct bus_link *out) {
    struct bus_zmq *z = zmq_of(b);
    read_monitor(z);
    *out = z->link;
}

static int open_monitor(struct bus_context *c, struct bus_zmq *z) {
    char address[64];
    snprintf(address, sizeof address, "inproc://monitor-%u", atomic_fetch_add(&c->monitors, 1)); /* closed ones go later */
    int events = UNWELCOME | ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                 (z->server ? ZMQ_EVENT_ACCEPTED : ZMQ_EVENT_CONNECT_RETRIED);
    if (zmq_socket_monitor(z->socket, address, events) < 0) return -1;
    z->monitor = zmq_socket(c->zmq, ZMQ_PAIR);
    int unbounded = 0; /* or ZeroMQ's own thread would wait for us, and strangers could stop it; recv_from reads it empty */
    if (!z->monitor || zmq_setsockopt(z->monitor, ZMQ_RCVHWM, &unbounded, sizeof unbounded) < 0) return -1;
    return zmq_connect(z->monitor, address);
}

static void close_bus(struct bus *b) {
    struct bus_zmq *z = zmq_of(b);
    drop_held(z);
    if (z->monitor) {
        zmq_socket_monitor(z->socket, NULL, 0);
        zmq_close(z->monitor);
    }
    zmq_close(z->socket);
    free(z);
}

static const struct bus_ops zmq_ops = {send_to, recv_from, fd_of, endpoint_of, close_bus, noise_of, get_link};

static void set_options(struct bus_zmq *z, const char *endpoint) {
    const struct {
        int name, value;
    } table[] = {
        {ZMQ_LINGER, LINGER_MS},           {ZMQ_SNDHWM, QUEUE_MESSAGES},  {ZMQ_RCVHWM, QUEUE_MESSAGES},
        {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS}, {ZMQ_TCP_KEEPALIVE, 1},        {ZMQ_TCP_KEEPALIVE_IDLE, 10},
        {ZMQ_TCP_KEEPALIVE_INTVL, 5},      {ZMQ_TCP_KEEPALIVE_CNT, 3},    {ZMQ_TCP_MAXRT, UNHEARD_MS},
        {ZMQ_RECONNECT_IVL, 50},           {ZMQ_RECONNECT_IVL_MAX, 1000}, {ZMQ_IPV6, strchr(endpoint, '[') != NULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (zmq_setsockopt(z->socket, table[i].name, &table[i].value, sizeof table[i].value) < 0)
            BUG("bus: ZeroMQ refuses option %d", table[i].name);
    int64_t limit = BUS_HARD_LIMIT;
    zmq_setsockopt(z->socket, ZMQ_MAXMSGSIZE, &limit, sizeof limit);
    if (!z->server) return;
    int one = 1, beat = BEAT_MS, timeout = BEAT_TIMEOUT_MS;
    if (zmq_setsockopt(z->socket, ZMQ_ROUTER_MANDATORY, &one, sizeof one) < 0) BUG("bus: no ROUTER_MANDATORY");
    zmq_setsockopt(z->socket, ZMQ_HEARTBEAT_IVL, &beat, sizeof beat);
    zmq_setsockopt(z->socket, ZMQ_HEARTBEAT_TIMEOUT, &timeout, sizeof timeout);
}

/* ---- keys ---- */

static bool is_loopback(const char *endpoint) {
    static const char *const here[] = {"tcp://127.", "tcp://localhost:", "tcp://[::1]:", "tcp://lo:", "ipc://", "inproc://"};
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        if (!strncmp(endpoint, here[i], strlen(here[i]))) return true;
    return false;
}

static int check_key(const struct bus_context *c, bool server, enum bus_door door, const char *endpoint, struct why *why) {
    bool somewhere = strstr(endpoint, "://") != NULL; /* else ZeroMQ says what is wrong with it */
    if (!c->keyed && server && somewhere && !is_loopback(endpoint))
        return fail(why, ERR_DENIED,
                    "not listening on %s without a key: whoever reaches it could use and stop this cluster; "
                    "make one with `cadre keygen` and give it by --key, or listen on tcp://127.0.0.1",
                    endpoint);
    if (!c->keyed) return 0;
    if (server && (!c->key.coordinator.secret[0] || !c->key.worker.open[0] || !c->key.operators.open[0]))
        return fail(why, ERR_DENIED,
                    "this key is a client's, or older than operators' keys: a coordinator needs the cluster's own, which "
                    "`cadre keygen` makes");
    if (!server && door == BUS_WORKERS && !c->key.worker.secret[0])
        return fail(why, ERR_DENIED, "this key is a client's: a worker needs the cluster's own");
    return 0;
}

static int set_key(struct bus_context *c, struct bus_zmq *z, enum bus_door door, struct why *why) {
    if (!c->keyed) return 0;
    const struct key_pair *asking = c->key.operators.secret[0] ? &c->key.operators : &c->key.client;
    const struct key_pair *own = door == BUS_WORKERS ? &c->key.worker : asking;
    int one = 1, rc;
    if (z->server) {
        rc = c->gate ? 0 : gate_open(c->zmq, &c->key, &c->gate, why);
        if (rc < 0) return rc;
        const char *domain = gate_domain(door);
        rc = zmq_setsockopt(z->socket, ZMQ_CURVE_SERVER, &one, sizeof one);
        if (rc >= 0) rc = zmq_setsockopt(z->socket, ZMQ_CURVE_SECRETKEY, c->key.coordinator.secret, KEY_TEXT);
        if (rc >= 0) rc = zmq_setsockopt(z->socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain));
    } else {
        rc = zmq_setsockopt(z->socket, ZMQ_CURVE_SERVERKEY, c->key.coordinator.open, KEY_TEXT);
        if (rc >= 0) rc = zmq_setsockopt(z->socket, ZMQ_CURVE_PUBLICKEY, own->open, KEY_TEXT);
        if (rc >= 0) rc = zmq_setsockopt(z->socket, ZMQ_CURVE_SECRETKEY, own->secret, KEY_TEXT);
    }
    return rc < 0 ? fail(why, ERR_UNSUPPORTED, "ZeroMQ does not take the key: %s", zmq_strerror(errno)) : 0;
}

static void discard(struct bus_zmq *z) {
    if (z->monitor) zmq_close(z->monitor);
    if (z->socket) zmq_close(z->socket);
    free(z);
}

static int open_failed(struct bus_zmq *z, const char *what, const char *endpoint, struct why *why) {
    int e = errno, code = ERR_IO;
    const char *hint = "";
    if (e == EADDRINUSE) {
        code = ERR_EXISTS;
        hint = "; another program has this port, stop it or choose another port";
    } else if (e == EINVAL || e == EPROTONOSUPPORT || e == ENODEV) {
        code = ERR_INVALID;
        hint = "; wanted something like tcp://127.0.0.1:5770";
    }
    discard(z);
    return fail(why, code, "cannot %s %s: %s%s", what, endpoint, zmq_strerror(e), hint);
}

static int open_bus(struct bus_context *c, bool server, enum bus_door door, const char *endpoint, struct bus **out,
                    struct why *why) {
    const char *what = server ? "listen on" : "connect to";
    int rc = check_key(c, server, door, endpoint, why);
    if (rc < 0) return rc;
    struct bus_zmq *z = calloc(1, sizeof *z);
    if (!z) return fail(why, ERR_NOMEM, "cannot %s %s: out of memory", what, endpoint);
    z->bus.ops = &zmq_ops;
    z->server = server;
    z->keyed = c->keyed;
    z->socket = zmq_socket(c->zmq, server ? ZMQ_ROUTER : ZMQ_DEALER);
    if (!z->socket) return open_failed(z, what, endpoint, why);
    set_options(z, endpoint);
    if ((rc = set_key(c, z, door, why)) < 0) return discard(z), rc;
    if (open_monitor(c, z) < 0) return open_failed(z, what, endpoint, why);
    rc = server ? zmq_bind(z->socket, endpoint) : zmq_connect(z->socket, endpoint);
    if (rc < 0) return open_failed(z, what, endpoint, why);
    size_t len = sizeof z->endpoint, fd_len = sizeof z->fd;
    if (zmq_getsockopt(z->socket, ZMQ_LAST_ENDPOINT, z->endpoint, &len) < 0 ||
        zmq_getsockopt(z->socket, ZMQ_FD, &z->fd, &fd_len) < 0)
        return open_failed(z, what, endpoint, why);
    *out = &z->bus;
    return 0;
}

/* A signal is for the program that uses the bus: it shall not make this fail, and the threads that a context starts with its
 * first socket inherit the mask. */
static int open_quietly(struct bus_context *c, bool server, enum bus_door door, const char *endpoint, struct bus **out,
                        struct why *why) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = open_bus(c, server, door, endpoint, out, why);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int bus_zmq_bind(struct bus_context *c, enum bus_door door, const char *endpoint, struct bus **out, struct why *why) {
    return open_quietly(c, true, door, endpoint, out, why);
}

int bus_zmq_connect(struct bus_context *c, enum bus_door door, const char *endpoint, struct bus **out, struct why *why) {
    return open_quietly(c, false, door, endpoint, out, why);
}
