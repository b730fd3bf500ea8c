/* peers.h - other workers as a source of blobs: the coordinator says who has what and where its door is (setup.h), the mover
 * fetches. Those of this host are asked first, and who is asked differs from blob to blob, so that many that come at once do
 * not all ask the same one. Who failed once is asked no more. Owner: the engine thread. */
#pragma once
#include "worker/mover.h"
#include "worker/setup.h"

struct peers {
    struct mover *mover;
    const struct worker_setup *setup; /* doors, and who holds what */
    const struct model_config *config;
    int rank;
    uint64_t failed; /* mask */
};
/* A source that asks p, which must not move; none when there is nobody to ask. */
struct blob_source peers_source(struct peers *p);
