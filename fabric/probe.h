/* probe.h - what links between workers do: latency and rate, measured before the first step.
 *
 * Every rank asks one neighbour on its own host, then one rank on each other host, one after the other: small frames, then
 * larger and larger ones, each sent when the last was answered by a small one. All ranks do so at once, as they will dispatch
 * at once, so what ranks of a host share is measured as their share of it. The fastest of a size counts: what disturbs a link
 * now may not do so later, and the caller keeps the worst of all ranks. A rank that has its answers says so to all others and
 * goes on answering until all have said it, or the deadline has passed: a peer that is silent gives no figure, takes no more
 * than its part of the time, and holds nobody up for longer.
 * Frames that come after that are nobody's any more; ep drops them by their magic. So nobody may post frames of its own
 * before all have ended: in a cluster plans come after everyone's Ready, and Ready after this. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fabric/fabric.h"

enum { PROBE_US = 500000 /* how long it may take when somebody is silent */ };

struct probe_link {
    double latency_us;   /* of a small frame, one way */
    double bytes_per_us; /* of large frames, beyond that; 0: not known */
};
struct probe {
    struct probe_link inside, between; /* hosts: the slowest of this rank's links of each kind */
};

/* All ranks together, attached to each other. host: [size] by rank, equal for ranks of one host. Owner: the handle's. */
void probe_run(struct fabric *f, const uint8_t *host, int64_t deadline_us, struct probe *out);
/* Whether a frame is one of these. */
bool probe_is_frame(const void *frame, size_t bytes);
