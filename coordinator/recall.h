/* recall.h - requests that outlive their connection and this process: what service.c tells the journal, and the road back.
 *
 *   submit ─► recall_accept: held, recorded ── the journal has it ──► released ─► steps ─► recall_committed, recall_finished
 *                                                                                  │
 *             connection lost, or the end was told: kept for `attach_us`  ◄────────┤   Resume ─► attached again
 *                                                                                  └── told that it failed: forgotten
 *
 * A request is kept when the coordinator has a journal and its client says that it knows Resume. At start everything that the
 * journal has unforgotten is taken up again: what was computed is there, the rest follows with the same bits.
 * Without a journal every function does nothing. Owner: the coordinator's loop. */
#pragma once
#include "coordinator/core.h"

/* Opens the journal, takes up what is in it, starts a segment of this life's own. */
int recall_open(struct coordinator *c, struct why *why);
void recall_poll(struct coordinator *c);    /* requests that the journal has by now may start; it fails: they are refused */
void recall_flush(struct coordinator *c);   /* at the end of a pass */
int recall_fd(const struct coordinator *c); /* -1: nothing to wait for */
/* For Status; NULL without a journal. What it says lives until the next call. */
const struct journal_report *recall_report(struct coordinator *c, struct journal_report *out);
void recall_tick(struct coordinator *c);    /* forgets those nobody came back for */
/* When all workers are ready: ERR_INVALID when they would compute other bits than the tokens that are there. */
int recall_class(struct coordinator *c, struct why *why);

void recall_joined(struct coordinator *c); /* a worker did: the next life is not to give its incarnation again */

/* May one more come in? 0 or why not. */
int recall_admits(struct coordinator *c, struct why *why);
/* r has a sequence that is held. ERR_NOMEM. */
int recall_accept(struct coordinator *c, struct request *r, const int32_t *ids, int n, struct why *why);
void recall_committed(struct coordinator *c, const struct commit *commit); /* before the streams take the tokens */
void recall_finished(struct coordinator *c, const struct request *r);
void recall_forget(struct coordinator *c, struct request *r);
void recall_detach(struct coordinator *c, struct request *r); /* its call is over, it stays for a while */
/* The call goes on with a request that is kept under its id. False: there is none. */
bool recall_again(struct coordinator *c, struct call *call);
void recall_resume(void *ctx, struct call *call, const uint8_t *payload, size_t len); /* method Resume */
