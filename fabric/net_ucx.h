/* net_ucx.h - what a UCX handle has of UCX: a context, the workers frames leave and arrive by, and one fd for them.
 *
 * Over TCP one worker sends and another receives, so that a connection carries frames one way and nobody connects to a worker
 * that connects to others. Where two workers connect to each other, UCX makes one connection of the two; in 1.13 that stops the
 * process when the other one dies at the wrong moment. Where there is RDMA one worker does both.
 *
 * Owner: whoever owns the handle. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucp/api/ucp.h>

struct net {
    ucp_context_h context;
    ucp_worker_h in, out;
    ucp_address_t *own; /* of `in` */
    size_t own_bytes;
    int fd; /* readable when an armed worker has something to do */
};

/* Whether this host has RDMA devices, and `devices` (comma-separated, NULL or "": all) names one of them if it names any. */
bool net_has_rdma(const char *devices);
/* A UCS status; whatever it is, net_close is to follow. tcp: over TCP alone. */
ucs_status_t net_open(struct net *n, const char *devices, bool tcp);
/* There are no endpoints any more. Harmless when all is zero but the fd, which is -1. */
void net_close(struct net *n);
/* Hands the messages of this id to `call`. */
ucs_status_t net_on(struct net *n, unsigned id, ucp_am_recv_callback_t call, void *arg);
void net_progress(struct net *n);
/* Whether the fd will tell; otherwise there is something to do already. */
bool net_arm(struct net *n);
/* Sleeps until there is something to do, or for left_us. */
void net_doze(struct net *n, int64_t left_us);
