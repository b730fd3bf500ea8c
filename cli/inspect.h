/* inspect.h - what `cadre inspect` found out about a checkpoint, and the two ways of printing it. */
#pragma once
#include "model/checkpoint.h"
#include "worker/measure.h"

enum { INSPECT_MAX_WORKERS = 64 };

struct inspection {
    const char *dir;
    struct checkpoint checkpoint;
    struct model_sizes sizes;
    uint64_t stored_bytes[ST_DTYPE_COUNT]; /* of the files' tensors, by dtype */
    uint64_t weight_bytes[FMT_STORED + 1]; /* in memory, all of them once, by format */
    uint64_t kv_token_bytes;               /* of one token, all layers, in the chosen format */
    char router[320];

    struct measure plan; /* the cluster asked about */
    int max_batch;
    struct worker_bytes worker[INSPECT_MAX_WORKERS];
    uint64_t memory; /* of a worker; 0 = not asked */
    int needed;      /* fewest workers that have room; 0 = not even INSPECT_MAX_WORKERS have */
    int least_workers;           /* of how many the fullest takes the least */
    uint64_t least, least_whole; /* how much that is; the least that anything but experts takes of a fullest worker */
    bool fits, fits_less; /* on all workers of the plan; on one less: after a death */
};

void inspect_print_text(const struct inspection *i);
void inspect_print_json(const struct inspection *i);
