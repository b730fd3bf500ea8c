/* engine_parts.h - what engine.c, engine_load.c, engine_step.c and engine_epoch.c share. Internal to worker/. */
#pragma once
#include "worker/engine.h"

#include <pthread.h>

#include "fabric/roster.h"
#include "worker/forward.h"
#include "worker/load.h"
#include "worker/peers.h"
#include "worker/sampler.h"
#include "worker/seq.h"

enum { PLANS = 4, ORDERS = 32, REPORTS = 4 };

/* What the control thread sends: one of these. */
struct order {
    struct plan *plan;
    struct worker_setup *epoch; /* on the heap */
    uint32_t begins;            /* the epoch that was prepared */
};

struct engine {
    struct engine_options options;
    pthread_t thread;
    bool running;
    atomic_bool stop, busy;
    atomic_ullong progress;
    struct load load;
    struct plan plans[PLANS];
    struct step_report reports[REPORTS];
    struct ring plan_free, order_in, report_free, event_out; /* of pointers; order_in, event_out: of struct order, event */
    atomic_uint told; /* the latest epoch the control thread has heard of */
    struct bell plan_bell, event_bell;

    /* the engine thread's own from here on */
    struct worker_setup setup;
    const struct checkpoint *counted; /* not NULL: nothing is loaded, only counted (engine_measure) */
    struct worker_bytes bytes;
    struct checkpoint checkpoint;
    struct backend *backend;
    struct weights weights;
    struct expert_store store;
    struct peers peers;
    struct blob_sources sources;
    struct kv kv;
    struct ep_limits limits;
    struct probe links;
    struct roster roster;
    struct ep *ep;
    struct moe moe;
    struct forward forward;
    struct seq_table seqs;
    struct sampler sampler;
    struct trace trace; /* these two outlive the engine thread: the control thread reads what they hold */
    struct tally tally;
    uint32_t epoch;        /* whose plans are run; 0: none, it is being prepared */
    uint64_t step;         /* of the plan taken last; plans are numbered upwards from 1 */
    struct step_report *spare; /* of a step that was void */
    uint64_t *rows_before; /* [slots] */
    struct seq **sampled;  /* [max_seqs] of the step under way */
    int granted;           /* rows the plan gives this worker */
    struct held_seq *held; /* [max_seqs] */
};

void engine_emit(struct engine *e, const struct event *ev);

/* ---- engine_load.c ---- */

void engine_take_setup(struct engine *e, struct worker_setup *setup); /* takes what it owns */
int engine_load(struct engine *e, struct why *why);                   /* all that a step needs */
/* Where experts come from that the epoch of s brings: empties the counts. s must outlive the loading. */
void engine_find_sources(struct engine *e, const struct worker_setup *s);
void engine_unload(struct engine *e);                                 /* also after a failure to load */
void engine_report_ready(struct engine *e);

/* ---- engine_epoch.c ---- */

/* Stops what was, lets go and attaches, loads, says EVENT_PREPARED. An epoch that is not the latest any more is passed over. */
int engine_prepare_epoch(struct engine *e, struct worker_setup *s, struct why *why);
int engine_switch_epoch(struct engine *e, uint32_t epoch, struct why *why);

/* ---- engine_step.c ---- */

/* Runs a plan and reports; not when there is a later epoch than the plan's. ERR_CANCELLED when stop was set; any other error
 * ends the engine. */
int engine_run(struct engine *e, const struct plan *p, struct why *why);
