/* fit.h - does the model fit? What each worker will allocate (worker/measure.h) against what there is. Pure. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "worker/measure.h"

struct fit_formats {
    enum fmt weights, kv;
};
/* b[workers]. memory[workers]: bytes each may use, 0 = not given. available: what this host has, 0 = unknown or the workers are
 * elsewhere; pages of the checkpoint's files are one copy for all workers of a host. is: for the advice alone.
 * ERR_EXHAUSTED with the numbers and what would help. */
int fit_check(const struct worker_bytes *b, int workers, struct fit_formats is, const uint64_t *memory, uint64_t available,
              struct why *why);
