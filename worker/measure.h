/* measure.h - what a worker would allocate, without allocating it: the engine's own loading, on a device that only counts.
 *
 * So the figures equal those of a worker that runs, byte for byte, for every family and format, and no table of sizes can
 * disagree with the code. Reads config.json and headers; no weights. Any thread. */
#pragma once
#include "model/checkpoint.h"

struct worker_bytes {
    uint64_t experts;  /* blobs of routed experts */
    uint64_t resident; /* all other weights, rope tables */
    uint64_t mapped;   /* of `resident`: pages of the checkpoint's files, which workers of one host share */
    uint64_t mapped_experts; /* of `experts`: a pack's pages; shared by those of a host that hold the same ones */
    uint64_t kv;       /* attention state of all pages */
    uint64_t buffers;  /* activations and logits of the largest step */
    uint64_t exchange; /* rows for the experts of the largest step; address space until rows come */
};
uint64_t worker_bytes_total(const struct worker_bytes *b);
uint64_t worker_bytes_mapped(const struct worker_bytes *b); /* of all */

/* What the kernels of one worker take for themselves, whatever the model: not in the counters above. */
uint64_t measure_scratch(int threads);

struct measure {
    const struct checkpoint *checkpoint; /* opened */
    enum fmt weights, kv;                /* kv: what fmt_kv takes */
    int workers, step_tokens, max_seqs, max_context, page_tokens, kv_pages;
    const uint64_t *hosts; /* [MoE layers * experts] masks as in router/placement.h; NULL: even and in order */
};
enum { MEASURE_PAGE_TOKENS = 16, MEASURE_BATCH = 32, MEASURE_CONTEXT = 4096, MEASURE_STEP_TOKENS = 128 };
struct measure_wish {  /* what an operator says; 0 = the default */
    int max_batch;     /* sequences at once, in the whole cluster: MEASURE_BATCH */
    int max_context;   /* tokens of a sequence: the model's, at most MEASURE_CONTEXT */
    int step_tokens;   /* rows of a worker in a step: MEASURE_STEP_TOKENS, at least one per sequence */
    int64_t kv_tokens; /* of one worker: the larger of max_context and 512 (or the context) for each of its sequences */
};
/* From wishes to sizes: what `serve` does with its options. m->checkpoint and m->workers are set; fills max_seqs, step_tokens,
 * max_context, page_tokens and kv_pages. ERR_INVALID: more than the model or the numbers allow. */
int measure_limits(struct measure *m, const struct measure_wish *wish, struct why *why);
/* ERR_INVALID: a placement or sizes that a worker would refuse too. */
int measure_worker(const struct measure *m, int rank, struct worker_bytes *out, struct why *why);
