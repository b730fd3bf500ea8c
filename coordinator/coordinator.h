/* coordinator.h - one cluster's coordinator: admits requests, plans steps, decides where experts live, watches the workers.
 *
 *   LOADING --all ready--> PROVING --it works--> SERVING --stop--> DRAINING --nothing left--> LEAVING --gone--> ENDED
 *      |                      |                     |                  |
 *      +----------------------+---------------------+------------------+-- a worker died, or cannot start --> FAILED
 *
 * FAILED --stop--> ENDED.
 * It lives on two server buses, one for clients and one for workers, borrowed from the caller: ZeroMQ in the daemon, memory in
 * tests. new, run, free on one thread; stop from any thread. FAILED still answers Status. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "coordinator/hops.h"
#include "proto/bus.h"

struct journal_disk;
struct coordinator_options {
    const char *model_dir;      /* borrowed, like all strings here */
    int workers;                /* ranks there may be, 1 .. 64 */
    int first;                  /* it begins with ranks 0 .. first - 1, the others may come later; 0 = all */
    const char *fabric;         /* what workers must say at Hello; "" = anything */
    const char *weights, *kv, *isa; /* as --weights, --kv and --isa say them; NULL: auto */
    const char *payload, *combine_payload; /* how rows travel to experts and back, ep_payload.h; NULL = f32 */
    bool fused;                 /* sums come back instead of rows; ERR_INVALID for models that need the rows */
    int hops;                   /* 1: tokens go straight to every worker; 2: to another host once, and are passed on there;
                                 * 0 = as links were measured */
    struct hops_link inside, between; /* what links do (tests); bytes_per_us 0 = as measured */
    int microbatches;           /* 1 or 2 in every step; 0 = as measured steps say */
    bool naive_prefill;         /* prompts of a model with latents in the expanded form; ERR_INVALID for other models */
    const char *placement_file; /* NULL: contiguous */
    int max_batch;              /* sequences running in all; 0 = 32 */
    int max_context;            /* tokens; 0 = the model's, at most 4096 */
    int step_tokens;            /* rows per worker and step; 0 = 128, or as many as a worker has sequences */
    int prefill_chunk;          /* most prompt rows of one sequence in a step; 0 = the whole budget */
    int64_t kv_tokens;          /* KV positions of one worker; 0 = enough for max_batch middling sequences and one long one */
    int max_queue;              /* requests waiting; 0 = 1024 */
    uint64_t memory;            /* bytes one worker may use; 0 = do not check, but for this host's free memory */
    bool ids_only;              /* serve without a tokenizer */
    bool survive;               /* when a worker dies the others go on, and another may come in its place; false: it fails */
    bool world;                 /* workers stand and fall together: one that dies takes the others along, and all come again */
    bool prove;                 /* see prove.h; false (tests): it serves as soon as all are ready */
    bool end_on_death;          /* end when it fails, instead of answering Status as failed */
    int64_t start_timeout_us;   /* for all workers to come, and for one that loads to move; 0 = 120 s */
    int64_t patience_us;        /* least time a worker waits for a peer in a step; 0 = 2 s */
    int64_t unread_us;          /* how long a complete answer waits for its client to read it; 0 = 300 s */
    const char *journal_dir;    /* NULL: requests live no longer than this process */
    const char *journal_sync;   /* "always" | "interval" | "never"; NULL = interval */
    bool journal_repair;        /* see journal.h */
    const struct journal_disk *journal_disk; /* NULL: the real one (tests) */
    int64_t attach_us;          /* how long a kept request waits for its client to come back; 0 = 30 s */
    int64_t lease_us, progress_us; /* see member.h; 0 = 500 ms, 5 times the patience */
};

struct coordinator;
/* Opens model, tokenizer and template, and checks them; no worker is needed yet. */
int coordinator_new(const struct coordinator_options *o, struct bus *clients, struct bus *workers, struct coordinator **out,
                    struct why *why);
void coordinator_free(struct coordinator *c);
/* Serves until stopped. 0 after an orderly end; else a negative code with the reason (it has been logged). */
int coordinator_run(struct coordinator *c, struct why *why);
/* drain: finish what was admitted, then end; else end now. A second call may only hasten. Any thread, also a signal handler. */
void coordinator_stop(struct coordinator *c, bool drain);
