/* cmd.h - plain structs that cross between a worker's control thread (port, bus) and its engine thread. Nothing else does.
 *
 * Plans and reports live in small fixed pools: the producer takes one, fills it (its arrays from its own arena), pushes the
 * pointer through a ring; the consumer is done with it when it puts it back. So nobody frees what another thread reads, and in
 * steady state nobody allocates. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "fabric/ep.h"
#include "fabric/probe.h"
#include "kernels/kernels.h"
#include "proto/parts.h"
#include "worker/measure.h"
#include "worker/setup.h"
#include "worker/source.h"

struct sampling {
    float temperature, top_p, min_p; /* off at 0; top_p also at 1 */
    int top_k;                       /* off at 0 */
    uint64_t seed;
    int logprobs; /* 0 none; n + 1: chosen and n top */
};

enum { MAX_STOP_IDS = 32, MAX_TOP_LOGPROBS = 20 };

struct plan_start {
    uint64_t seq;
    const int32_t *ids;
    int n_ids, prompt_tokens, max_tokens;
    const int32_t *stop_ids;
    int n_stop_ids;
    bool allow_degraded; /* missing experts are left out of its choices */
    struct sampling sampling;
    int domain; /* of the request's tag; 0 = untagged */
};
struct plan_run {
    uint64_t seq;
    int first, count; /* positions */
    bool sample;
    const uint32_t *new_pages;
    int n_new_pages;
};
struct plan {
    struct arena arena; /* holds the arrays below */
    uint32_t epoch, placement_version;
    uint64_t step;
    int32_t tokens[FABRIC_MAX_RANKS];
    int workers;
    struct plan_start *start;
    struct plan_run *run;
    const uint64_t *drop;
    int n_start, n_run, n_drop;
    int64_t patience_us;
    int microbatches; /* 1 or 2 */
    bool two_hop;     /* see ep.h */
    bool uncounted;   /* what it does is left out of all counts */
    uint8_t trace[MODEL_MAX_LAYERS / 8]; /* bit i: record MoE layer i */
    int n_trace;                         /* bytes of it; 0: record nothing */
};

struct top_logprob {
    int32_t id;
    float logprob;
};
enum seq_finish { SEQ_RUNNING, SEQ_STOP, SEQ_LENGTH };
struct seq_out {
    uint64_t seq;
    int position;
    int32_t token;
    float logprob;
    int n_top;
    struct top_logprob top[MAX_TOP_LOGPROBS];
    enum seq_finish finish;
};
struct step_report {
    uint32_t epoch;
    uint64_t step;
    struct seq_out *out; /* [max_seqs] allocated once */
    int n_out;
    uint32_t *rows; /* [slots of this worker, all layers] allocated once */
    int n_rows;
    int64_t step_us;
    uint64_t part_us[PARTS];               /* of it, and of the time before it */
    uint64_t wait_us[FABRIC_MAX_RANKS];    /* for each peer, in this step */
    struct ep_link link[FABRIC_MAX_RANKS]; /* with each peer, since the start */
    struct ep_far far;                     /* the same */
    struct backend_tasks tasks;            /* since the start */
    int workers;
    uint32_t tokens;     /* rows of this home's own sequences */
    uint32_t trace_lost; /* rows that no record was made of */
};

struct ready_report {
    uint64_t fingerprint;
    char numeric_class[96];
    struct worker_bytes bytes;
    struct source_count source[SOURCES]; /* of the experts, since the process began */
    struct probe links; /* all zero where nothing was measured */
    int slots;
};

struct held_seq { /* its keys and values are here, whether or not it is known any more */
    uint64_t seq;
    int rows, n_pages;
    const int32_t *pages;
};
struct prepared_report { /* for an epoch */
    uint32_t epoch;
    struct worker_bytes bytes;   /* with the experts of now */
    struct source_count source[SOURCES]; /* of what was loaded for it */
    int slots;
    const struct held_seq *held; /* when it was asked for; the engine's, until the next plan */
    int n_held;
};

/* Where a worker waits, and for whom: a mask of ranks. Without any: the fault is its own, it leaves. */
struct trouble {
    uint64_t step, late;
    uint32_t layer, call; /* call: of the step's calls of the exchange the how manieth; all workers make the same */
};

/* engine -> control */
struct trace_block;
enum event_kind { EVENT_READY, EVENT_TRACE, EVENT_STEP, EVENT_TROUBLE, EVENT_PREPARED, EVENT_FAILED };
struct event {
    enum event_kind kind;
    union {
        struct ready_report ready;
        struct step_report *step;
        struct trace_block *trace; /* comes before the report of its step */
        struct trouble trouble;
        struct prepared_report prepared;
        struct why failed; /* the engine has ended */
    };
};
