/* guard.h - lets the kernel keep strangers' hosts from the sockets that UCX listens on, before UCX sees a byte: what it reads
 * first is its own protocol, which believes whoever speaks it.
 *
 * A socket filter drops every packet of a connection from an IPv4 address that is none of a peer's. A peer that knocks
 * before it is admitted is not heard; it knocks again a moment after it was greeted from here (knocked_in_vain), or when TCP
 * tries again, a second later. Addresses stay admitted. Processes of an admitted host are not told apart. Owner: whoever owns
 * the handle. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { GUARD_SOURCES = 16, GUARD_DOORS = 64, GUARD_HOSTS = 512 };

struct guard_sources { /* the IPv4 addresses of a host, in network order */
    int32_t n;         /* -1: they are too many, or not known */
    uint32_t from[GUARD_SOURCES];
};
struct guard {
    struct guard_sources own;
    int before[GUARD_DOORS], doors[GUARD_DOORS]; /* sockets that listen */
    int n_before, n_doors;
    uint32_t from[GUARD_HOSTS];
    int n_from;
    bool open; /* to all: the addresses of a peer are not known */
};

void guard_sources(struct guard_sources *out);
/* Notes which sockets listen already. Then open UCX, with no other thread opening any. */
void guard_begin(struct guard *g);
/* Those that listen since guard_begin are shut to everybody. */
void guard_shut(struct guard *g);
/* From now on connections from there are let in. Loopback only where the addresses are this host's own. */
void guard_admit(struct guard *g, const struct guard_sources *peer);
