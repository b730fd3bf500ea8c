/* worker_port.h - the coordinator's door to its workers: control.proto in and out of the structs of msg.h and plan.h.
 * Borrows a server bus. Owner: one thread. */
#pragma once
#include "coordinator/plan.h"
#include "proto/bus.h"

struct worker_port;
int worker_port_new(struct bus *bus, struct worker_port **out);
void worker_port_free(struct worker_port *p);

/* 0: *from and *out are set. ERR_AGAIN: nothing there. ERR_PROTOCOL: *from sent something that is no message of a worker. */
int worker_port_recv(struct worker_port *p, struct bus_id *from, struct worker_msg *out, struct why *why);

/* 0, ERR_AGAIN (its queue is full), ERR_GONE or ERR_NOMEM. */
int worker_port_welcome(struct worker_port *p, const struct bus_id *to, const struct worker_welcome *w);
int worker_port_epoch(struct worker_port *p, const struct bus_id *to, const struct worker_epoch *e);
int worker_port_switch(struct worker_port *p, const struct bus_id *to, uint32_t number);
/* Means nothing to it; ERR_GONE says that its connection has ended. */
int worker_port_beat(struct worker_port *p, const struct bus_id *to);
int worker_port_seated(struct worker_port *p, const struct bus_id *to, int rank, int size);
int worker_port_refuse(struct worker_port *p, const struct bus_id *to, const char *reason);
struct plan_around { /* what a plan says beside the scheduler's decisions */
    uint32_t epoch, placement_version;
    int64_t patience_us;
    int microbatches;
    bool two_hop;
    bool uncounted; /* nobody asked for its rows (prove.h) */
    const uint8_t *trace; /* bit i: record MoE layer i */
    int n_trace;          /* bytes */
};
int worker_port_plan(struct worker_port *p, const struct bus_id *to, int worker, const struct plan *plan,
                     const struct plan_around *around);
int worker_port_shutdown(struct worker_port *p, const struct bus_id *to, bool abort, const char *reason);
