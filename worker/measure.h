/* measure.h - what a worker would allocate, without allocating it: the engine's own loading, on a device that only counts.
 *
 * So the figures equal those of a worker that runs, byte for byte, for every family and format, and no table of sizes can
 * disagree with the code. Reads config.json and headers; no weights. Any thread. The one header of worker/ that others use. */
#pragma once
#include "model/checkpoint.h"

struct worker_bytes {
    uint64_t experts;  /* blobs of routed experts */
    uint64_t resident; /* all other weights, rope tables */
    uint64_t mapped;   /* of `resident`: pages of the checkpoint's files, which workers of one host share */
    uint64_t kv;       /* attention state of all pages */
    uint64_t buffers;  /* activations and logits of the largest step */
    uint64_t exchange; /* rows for the experts of the largest step; address space until rows come */
};
uint64_t worker_bytes_total(const struct worker_bytes *b);

struct measure {
    const struct checkpoint *checkpoint; /* opened */
    enum fmt weights;
    int workers, step_tokens, max_seqs, max_context, page_tokens, kv_pages;
    const uint64_t *hosts; /* [MoE layers * experts] masks as in router/placement.h; NULL: even and in order */
};
/* ERR_INVALID: a placement or sizes that a worker would refuse too. */
int measure_worker(const struct measure *m, int rank, struct worker_bytes *out, struct why *why);
