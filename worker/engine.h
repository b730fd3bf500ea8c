/* engine.h - the step loop of one worker: takes plans from a ring, runs them, reports. The only thread that touches tensors.
 *
 *   LOADING --(setup done)--> SERVING --(stop)--> ended        any failure: EVENT_FAILED, ended
 *
 * The control thread owns the other end of both rings and sets `stop`. */
#pragma once
#include "base/bell.h"
#include "base/ring.h"
#include "worker/cmd.h"

struct engine_options {
    int rank, workers, threads;
    const char *fabric_name; /* part of nothing but messages */
    struct mover *mover;     /* borrowed; NULL: blobs go nowhere and come from the checkpoint */
    struct fabric *fabric;   /* this rank's, open and not prepared; engine_free closes it. NULL when workers == 1 */
};

struct engine;
struct mover;
struct tally;
struct trace_block;
/* No thread yet. Takes the fabric unless it fails. */
int engine_new(const struct engine_options *o, struct engine **out);
void engine_free(struct engine *e);                                  /* after engine_join */
int engine_start(struct engine *e, struct worker_setup *setup);      /* takes what setup owns; starts the thread */
void engine_stop(struct engine *e);                                  /* finish soon, mid-step if need be */
void engine_join(struct engine *e);
/* What this rank would allocate: loads as the engine does, on a device that only counts. Takes what setup owns. */
int engine_measure(const struct engine_options *o, struct worker_setup *setup, const struct checkpoint *c,
                   struct worker_bytes *out, struct why *why);

/* Control thread's side. */
struct plan *engine_plan_take(struct engine *e); /* an empty plan, or NULL: more plans in flight than allowed */
void engine_plan_push(struct engine *e, struct plan *p);
/* Another epoch: takes what s owns, ends the waits of the step under way. EVENT_PREPARED says when it is ready; then
 * engine_switch lets plans of that epoch run. ERR_EXHAUSTED: more of them than anyone takes in. */
int engine_prepare(struct engine *e, struct worker_setup *s);
int engine_switch(struct engine *e, uint32_t epoch);
bool engine_event_pop(struct engine *e, struct event *out);
void engine_trace_done(struct engine *e, struct trace_block *b);  /* gives a block of EVENT_TRACE back */
const struct tally *engine_tally(const struct engine *e);         /* to be read from EVENT_READY until engine_free */
void engine_report_done(struct engine *e, struct step_report *r); /* gives a report of EVENT_STEP back */
int engine_event_fd(struct engine *e); /* readable when events wait; then engine_event_clear, then pop all */
void engine_event_clear(struct engine *e);
uint64_t engine_progress(const struct engine *e, bool *busy); /* any thread */
uint64_t engine_strangers(const struct engine *e); /* messages the fabric refused; any thread */
void engine_load_state(const struct engine *e, uint64_t *done_bytes, uint64_t *total_bytes);
