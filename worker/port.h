/* port.h - a worker's door: control messages <-> the plain structs of cmd.h. The only file here that sees generated protobuf.
 *
 * What arrives is input: an unreadable or impossible message is ERR_PROTOCOL with a reason. Owner: the control thread. */
#pragma once
#include "proto/bus.h"
#include "worker/cmd.h"

enum port_kind { PORT_NONE, PORT_WELCOME, PORT_REFUSE, PORT_PLAN, PORT_SHUTDOWN, PORT_EPOCH, PORT_SWITCH, PORT_SEATED };
struct port_message {
    enum port_kind kind;
    struct worker_setup setup; /* WELCOME; EPOCH, only epoch, placement and peers: the caller's, to be cleared */
    uint32_t epoch;            /* SWITCH */
    char reason[512];          /* REFUSE, SHUTDOWN */
    bool abort;                /* SHUTDOWN */
    int rank, size;            /* SEATED */
};

struct port;
int port_new(struct bus *bus, struct port **out); /* bus borrowed */
void port_free(struct port *p);

/* The next message, 0, or ERR_AGAIN when there is none. A plan is unpacked into the plan that `take` gives (its ctx first);
 * NULL from it is ERR_PROTOCOL, and so is a plan where nobody takes any: `take` NULL. */
int port_recv(struct port *p, struct port_message *out, struct plan *(*take)(void *ctx), void *ctx, struct plan **plan,
              struct why *why);

int port_send_seat(struct port *p, const char *host, uint64_t pid);
struct port_hello {
    int rank, size;
    const char *host, *host_id, *fabric;
    uint64_t pid;
    const uint8_t *address; /* fabric_address */
    size_t address_bytes;
    const char *door; /* of its mover; "": none */
    uint64_t memory; /* bytes it may use; 0: not said */
    struct { /* of a coordinator that is gone; incarnation 0: there was none */
        uint32_t incarnation, epoch;
        uint64_t step, members;
        uint64_t row_ns; /* of its steps; 0: it had none */
    } held;
};
int port_send_hello(struct port *p, const struct port_hello *h);
int port_send_progress(struct port *p, uint64_t done_bytes, uint64_t total_bytes);
int port_send_ready(struct port *p, const struct ready_report *r, const struct held_seq *held, int n_held);
int port_send_prepared(struct port *p, const struct prepared_report *r);
int port_send_step(struct port *p, const struct step_report *r);
int port_send_trace(struct port *p, const uint8_t *chunk, size_t len);                  /* ROWS, whole */
/* Sums since the start: tokens of a domain, and what they chose, [layers * E]. */
int port_send_tally(struct port *p, int domain, uint64_t tokens, const uint64_t *rows, size_t n);
/* link [n] by rank; all since the start */
int port_send_links(struct port *p, const struct ep_link *link, int n, const struct ep_far *far,
                    const struct backend_tasks *tasks);
/* moved: the mover's progress; 0: there is none */
int port_send_beat(struct port *p, uint64_t progress, bool busy, uint64_t moved, uint64_t strangers);
int port_send_trouble(struct port *p, const char *reason, const struct trouble *t);
