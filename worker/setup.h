/* setup.h - what the coordinator says before anything can be loaded: model, limits, placement, and who the others are. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fabric/ep_payload.h"
#include "kernels/kernels.h"
#include "router/placement.h"

struct peer { /* one worker, as the fabric must know it */
    uint32_t incarnation;
    int host; /* equal for workers of one host */
    const uint8_t *address;
    size_t address_bytes;
    const char *door; /* where it gives blobs (mover.h), in this epoch or not; NULL or "": nowhere */
};

struct worker_setup {
    uint32_t epoch, incarnation;
    char model_dir[1024];
    enum fmt weights, kv; /* kv: what fmt_kv takes */
    char isa[16];
    bool naive_prefill; /* see mla.h */
    enum ep_format payload, combine_payload;
    bool fused; /* see ep.h */
    int step_tokens, max_seqs, max_context, page_tokens, kv_pages;
    struct placement placement; /* owned */
    struct peer *peers;         /* [n_peers] by rank, this worker among them; owned, addresses and doors in the same block */
    int n_peers;
    uint64_t *held_by; /* [layers * experts] masks of those that hold it already and have a door; owned; NULL: nobody */
    bool rejoins;               /* not the first one: what is loaded stays, and the epoch begins when it is prepared */
};
/* peers[n] with copies of their addresses and doors become setup's. ERR_NOMEM */
int worker_setup_peers(struct worker_setup *s, const struct peer *peers, int n);
void worker_setup_clear(struct worker_setup *s); /* harmless twice */
