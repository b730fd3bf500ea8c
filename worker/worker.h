/* worker.h - one worker: a control thread (this API's caller: bus, beats) and an engine thread it starts (tensors, fabric).
 *
 *   JOINING --Welcome--> LOADING --engine ready--> SERVING --Shutdown--> gone
 *                                                  |    ^
 *                            the coordinator is gone    prepared
 *                                                  v    |
 *                                    HOLDING --Welcome--> REJOINING
 *
 * HOLDING: everything stays as it is, and Hello is said until another coordinator answers, for hold_us at most.
 *
 * Several workers may run in one process, each with a bus and a rank of its own; they share nothing else. */
#pragma once
#include "proto/bus.h"
#include "worker/engine.h"

struct worker_options {
    struct engine_options engine;
    const char *host_id;     /* equal for workers that can share memory; NULL: the host's name */
    const char *model_dir;   /* NULL: where the coordinator says */
    const char *isa;         /* NULL: what the coordinator says */
    uint64_t memory;         /* bytes it may use; 0: as the coordinator says */
    /* Copies of experts (mover.h): where others fetch ours, taken; and how to reach where they give theirs; NULL: not at all */
    struct bus *door;
    int (*reach)(void *ctx, const char *door, struct bus **out, struct why *why);
    void *reach_ctx;
    int64_t join_timeout_us; /* how long to wait for a Welcome */
    int64_t hold_us;         /* how long to wait for another coordinator when this one is gone; 0: not at all */
};

struct worker;
/* The bus is borrowed, the engine's fabric taken unless this fails, the door in any case. */
int worker_new(const struct worker_options *o, struct bus *bus, struct worker **out);
void worker_free(struct worker *w);
/* Runs until told to leave. 0 after an orderly Shutdown; else a negative code with the reason. */
int worker_run(struct worker *w, struct why *why);
/* From any thread: die here and now, without a word to anybody, as kill -9 would. worker_run returns ERR_GONE. For tests. */
void worker_kill(struct worker *w);
