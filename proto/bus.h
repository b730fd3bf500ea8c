/* bus.h - moves small messages between named processes. Opens no message, as the fabric opens no token.
 *
 * A server bus talks to many peers, each known by an opaque id; a client bus to its one server (ids are ignored).
 * A message is a head and a body (either may be empty). Sending never blocks: ERR_AGAIN when that peer's queue is full,
 * ERR_GONE when the peer is not there (any more). Backends: ZeroMQ (ROUTER/DEALER) and mem (one process; tests, simulator).
 * Owner: one thread per bus. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { BUS_ID_BYTES = 32, BUS_HARD_LIMIT = 64 << 20 /* a peer that sends more is disconnected by the transport */ };

struct bus_id {
    uint8_t len, bytes[BUS_ID_BYTES];
};
struct bus_msg {                  /* valid until the next bus_recv or bus_close on this bus */
    struct bus_id from;
    bool from_operator;           /* from who may change the cluster; without keys everybody who gets here is one */
    const uint8_t *head, *body;   /* body NULL when the message has one part */
    size_t head_len, body_len;
};

struct bus_link { /* a client's connection; of a server only `lost` and `refused` */
    bool up;
    bool unwelcome;   /* the last attempt ended before it was let in: the other side wants a key, another one, or none */
    uint64_t lost;    /* how often it broke; it comes back by itself, but to the server as a new peer. Server: connections that
                       * ended; whose, a send to each peer tells */
    uint64_t refused; /* attempts to connect that failed; it is tried again by itself. Server: strangers that were not let in */
};

struct bus {
    const struct bus_ops *ops;
};
struct bus_ops {
    int (*send)(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                size_t body_len);
    int (*recv)(struct bus *b, struct bus_msg *out);
    int (*fd)(struct bus *b);
    const char *(*endpoint)(struct bus *b);
    void (*close)(struct bus *b);
    uint64_t (*noise)(struct bus *b); /* messages dropped because they were none; may be NULL */
    void (*link)(struct bus *b, struct bus_link *out); /* may be NULL */
};
static inline int bus_send(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                           size_t body_len) {
    return b->ops->send(b, to, head, head_len, body, body_len);
}
/* 0 with *out set, or ERR_AGAIN. Messages with more than two parts or an id that does not fit are dropped, counted as noise. */
static inline int bus_recv(struct bus *b, struct bus_msg *out) { return b->ops->recv(b, out); }
/* Readable when there may be something to receive. EDGE triggered: after it fires, and after every send, receive until
 * ERR_AGAIN. */
static inline int bus_fd(struct bus *b) { return b->ops->fd(b); }
/* As bound, with the real port. */
static inline const char *bus_endpoint(struct bus *b) { return b->ops->endpoint(b); }
static inline uint64_t bus_noise(struct bus *b) { return b->ops->noise ? b->ops->noise(b) : 0; }
static inline void bus_get_link(struct bus *b, struct bus_link *out) {
    *out = (struct bus_link){.up = true};
    if (b->ops->link) b->ops->link(b, out);
}
static inline void bus_close(struct bus *b) {
    if (b) b->ops->close(b);
}

/* ZeroMQ. The context is shared by the buses of a process; close every bus before it. With a key file (key.h) all its
 * connections are encrypted, each side proves that it has its own, and others are refused before a byte of theirs is read as
 * a message; NULL: plain, which listens to this machine alone. */
struct bus_context;
int  bus_context_open(struct bus_context **out, const char *key_file, struct why *why);
void bus_context_close(struct bus_context *c);
/* Who comes in where: each door has a key of its own, so a client's opens no worker's. */
enum bus_door { BUS_CLIENTS, BUS_WORKERS };
/* "tcp://127.0.0.1:*" takes any free port. ERR_DENIED: beyond this machine without a key, or with one that may not listen. */
int  bus_zmq_bind(struct bus_context *c, enum bus_door door, const char *endpoint, struct bus **out, struct why *why);
/* Connects in the background, and again when the connection is lost; what is sent meanwhile waits. */
int  bus_zmq_connect(struct bus_context *c, enum bus_door door, const char *endpoint, struct bus **out, struct why *why);

/* mem: a named place inside one process. Threads may share the hub; each bus has one owner. */
struct bus_hub;
struct bus_hub *bus_hub_new(void);
void bus_hub_free(struct bus_hub *h);
int  bus_mem_bind(struct bus_hub *h, const char *name, struct bus **out, struct why *why);
int  bus_mem_connect(struct bus_hub *h, const char *name, struct bus **out, struct why *why);
