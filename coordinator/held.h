/* held.h - workers that outlived the coordinator before this one, and what they still have (worker/worker.h, HOLDING).
 *
 * They are taken up together, as the members of the last epoch that one of them heard of: those of them that come within some
 * seconds of the first. Until then nobody else begins; who is new joins when they serve. Owner: the coordinator's loop. */
#pragma once
#include "coordinator/msg.h"

struct coordinator;
struct why;
struct held {         /* zeroed: none has come */
    int64_t since_us; /* the first one came */
    uint32_t epoch;   /* whose members are awaited */
};
/* While it loads, before member_hello. ERR_AGAIN: a new one, that has to wait for those that are held. */
int held_admit(struct coordinator *c, const struct worker_hello *h, struct why *why);
/* After it: this one is accepted. */
void held_came(struct coordinator *c, const struct worker_hello *h);
void held_tick(struct coordinator *c); /* those that do not come are waited for no longer */
int held_count(const struct coordinator *c);
/* It is ready: sequences of the journal whose keys and values are still there go on there. */
void held_adopt(struct coordinator *c, int rank, const struct worker_ready *r);
