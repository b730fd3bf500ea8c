/* fit.h - does the model fit? Bytes per worker, from the config and the placement alone, against what there is. Pure. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "model/checkpoint.h"

struct fit_plan {
    const struct model_config *config;
    enum fmt weights;  /* in memory; KV has the same format */
    int64_t kv_tokens; /* of one worker */
    int workers;
    const int *slots; /* [workers] experts held, over all layers */
};
struct fit_bytes {
    uint64_t experts, resident, kv;
    bool mapped; /* resident weights are used as they are on disk: local workers share one copy */
};
void fit_worker(const struct fit_plan *p, int worker, struct fit_bytes *out);
uint64_t fit_total(const struct fit_bytes *b);

/* memory: bytes each worker may use, 0 = not given. available: what this host has, 0 = unknown or the workers are elsewhere.
 * ERR_EXHAUSTED with the numbers and what would help. */
int fit_check(const struct fit_plan *p, uint64_t memory, uint64_t available, struct why *why);
