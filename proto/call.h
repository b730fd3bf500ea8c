/* call.h - the server side of the client protocol: calls over a bus (method, deadline, status, streaming, credits, cancel).
 *
 * The layer decodes and checks every frame. What is none, or breaks the rules, gets an End with a status where a call id can be
 * read; else it is dropped and counted. A payload above the limit gets RESOURCE_EXHAUSTED, a method not in the table
 * UNIMPLEMENTED. An Open of a live call id is ignored when it comes from the call's own peer; from another peer it takes the
 * call over.
 * Flow control: a Data frame costs one credit. call_send returns ERR_AGAIN without one, and on_credit tells when to try again:
 * the handler keeps (and may merge) what it could not send, so a slow client never holds memory or time of others.
 * A call ends once: by call_end, or from the other side by on_gone, after which the handler must not touch it. Its status is
 * CALL_CANCELLED, CALL_DEADLINE_EXCEEDED, CALL_ABORTED (the client vanished), CALL_INVALID_ARGUMENT (it broke the protocol) or
 * CALL_UNAVAILABLE (call_server_free). When a client vanishes, the call in hand is told inside call_send, its other calls at
 * the next poll, so a handler may walk its own list while it sends.
 * After sending outside a callback, poll once more before sleeping on the bus' fd: it is edge triggered.
 * Owner: one thread. */
#pragma once
#include <stdbool.h>

#include "proto/bus.h"
#include "proto/call_status.h"

struct call {                       /* public part; allocated by the layer */
    void *handler;                  /* the method's own state */
    int64_t opened_us, deadline_us; /* deadline 0 = none */
    int method;                     /* index in the table */
    const uint8_t *id;              /* [FRAME_CALL_ID_BYTES] chosen by the client */
    const char *waits_for;          /* said when its deadline ends it; the handler's, NULL: nothing to say */
};
struct call_method {
    const char *name;
    /* payload is valid during the callback only. Must end in call_end now or later. */
    void (*on_open)(void *ctx, struct call *c, const uint8_t *payload, size_t len);
    void (*on_credit)(void *ctx, struct call *c);           /* may be NULL */
    void (*on_gone)(void *ctx, struct call *c, int status); /* may be NULL for methods that end inside on_open */
    bool for_operators;                                     /* others get PERMISSION_DENIED (bus.h says who is one) */
};
struct call_limits {
    size_t payload_bytes; /* soft limit, answered with a status */
    int calls;            /* live calls in all; more get RESOURCE_EXHAUSTED */
    int64_t ping_us;      /* silence after which a client with open calls is probed */
};
struct call_stats {
    uint64_t opened, ended; /* ended: by call_end */
    uint64_t cancelled, deadline, client_gone;
    uint64_t refused;       /* Ends sent to frames that were not let in */
    uint64_t denied;        /* of them, those by somebody who is no operator */
    uint64_t noise;         /* messages dropped without an answer */
};

struct call_server;
int  call_server_new(struct bus *bus, const struct call_limits *limits, const struct call_method *methods, int n_methods,
                     void *ctx, struct call_server **out); /* bus borrowed */
void call_server_free(struct call_server *s);              /* live calls get UNAVAILABLE */
/* Receives everything there is, expires deadlines, pings. Returns when (clk time) it wants to run again at the latest;
 * INT64_MAX when only a message can give it work. */
int64_t call_server_poll(struct call_server *s, int64_t now_us);
/* 0; ERR_AGAIN: keep it and wait for on_credit; ERR_GONE: on_gone was called. */
int  call_send(struct call_server *s, struct call *c, const void *payload, size_t len);
bool call_can_send(const struct call *c);
void call_end(struct call_server *s, struct call *c, int status, const char *message); /* frees c */
/* A value of the Open's metadata, or NULL; only inside on_open, and valid only there. */
const void *call_metadata(const struct call_server *s, const char *key, size_t *len);
const struct call_stats *call_server_stats(const struct call_server *s);
