/* prove.c - see prove.h. */
#include "coordinator/prove.h"

#include <limits.h>

#include "coordinator/core.h"

enum { TOKENS = 2 }; /* the one that the prompt yields, and one that was fed back */

static int submit(struct coordinator *c, int worker, struct why *why) {
    static const int32_t first_id[1];
    struct scheduler *s = &c->scheduler;
    struct seq *q;
    int room = scheduler_room(&s->limits, 1, why);
    if (room < 0) return room;
    struct seq_request ask = {.ids = first_id,
                              .prompt = 1,
                              .max_tokens = room < TOKENS ? room : TOKENS,
                              .priority = INT_MIN,
                              .allow_degraded = true,
                              .sampling = {.top_p = 1},
                              .at_home = true,
                              .home = worker};
    int rc = scheduler_submit(s, &ask, c->now_us, &q, why);
    if (rc < 0) return rc;
    c->proof.last = q->number;
    c->proof.left++;
    c->proof.sequences++;
    c->proof.prompts += ask.prompt;
    c->proof.tokens += ask.max_tokens;
    return 0;
}

int prove_start(struct coordinator *c, struct why *why) {
    core_set_state(c, CORE_PROVING);
    for (int w = 0; w < c->options.first; w++) { /* those that outlived a coordinator need not (held.h) */
        int rc = submit(c, w, why);
        if (rc < 0) return fail_in(why, rc, "a first token at worker %d", w);
    }
    return 0;
}

bool prove_token(struct coordinator *c, const struct commit_token *t) {
    if (t->seq->owner) return false;
    c->proof.left -= t->end != SEQ_NOT_ENDED;
    return true;
}

/* What was counted is taken back, so that figures are of requests alone. */
static void forget(struct coordinator *c) {
    struct scheduler *s = &c->scheduler;
    scheduler_settle(s); /* before a number means another sequence */
    /* Nobody came meanwhile, and no later life can take what workers hold under these numbers for a request's. */
    if (s->numbers == c->proof.last && !c->journal) s->numbers -= (uint64_t)c->proof.sequences;
    s->counts.submitted -= (uint64_t)c->proof.sequences;
    s->counts.ended -= (uint64_t)c->proof.sequences;
    s->counts.prompt_tokens -= (uint64_t)c->proof.prompts;
    s->counts.tokens -= (uint64_t)c->proof.tokens;
}

void prove_committed(struct coordinator *c) {
    if (c->state != CORE_PROVING || c->proof.left) return;
    forget(c);
    core_serve(c);
}
