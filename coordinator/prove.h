/* prove.h - before it serves, a cluster shows that it can: one sequence at every worker, a token of prompt and two of answer,
 * go through attention, gate, exchange, experts and sampling of all of them. Whatever is wrong there ends the start by name,
 * instead of the first request. They are no requests: nobody counts them, and where there is no journal their numbers are
 * given out again.
 * Owner: the coordinator's loop. */
#pragma once
#include <stdbool.h>

#include "base/status.h"
#include "coordinator/plan.h"

struct coordinator;
struct proof { /* zeroed: none under way */
    int left;  /* workers whose sequence has not ended */
    int sequences, tokens, prompts;
    uint64_t last; /* number of its last sequence */
};

/* LOADING -> PROVING. ERR_NOMEM */
int prove_start(struct coordinator *c, struct why *why);
/* Was it a token of the proof? */
bool prove_token(struct coordinator *c, const struct commit_token *t);
/* After a commit: PROVING -> SERVING, when nothing of it is left. */
void prove_committed(struct coordinator *c);
