/* held.c - see held.h. */
#include "coordinator/held.h"

#include "base/log.h"
#include "coordinator/core.h"

enum { WAIT_US = 3 * 1000 * 1000 }; /* they try several times a second */

int held_count(const struct coordinator *c) {
    int n = 0;
    for (int w = 0; w < c->options.workers; w++) n += c->members.m[w].held;
    return n;
}

int held_admit(struct coordinator *c, const struct worker_hello *h, struct why *why) {
    if (!h->held_incarnation && held_count(c) && !(c->recovery.replaced >> h->rank & 1))
        return fail(why, ERR_AGAIN, "workers that outlived another coordinator are taken up first");
    /* New ones that came before: they say Hello again, and are newcomers then. */
    for (int w = 0; h->held_incarnation && w < c->options.workers; w++)
        if (c->members.m[w].state == WORKER_CONNECTED && !c->members.m[w].held) member_forget(&c->members, w);
    return 0;
}

void held_came(struct coordinator *c, const struct worker_hello *h) {
    struct scheduler *s = &c->scheduler;
    uint64_t ranks = UINT64_MAX >> (64 - c->options.workers), members = h->held_members & ranks;
    if (!h->held_incarnation) return;
    if (!c->held.since_us) c->held.since_us = c->now_us;
    if (h->held_epoch >= c->held.epoch && members >> h->rank & 1) {
        c->held.epoch = h->held_epoch;
        c->members.awaited = members;
    }
    if (h->held_epoch >= c->epoch) c->epoch = h->held_epoch + 1;
    if (h->held_step > s->planned) s->planned = s->committed = h->held_step;
    if (h->held_row_ns) telemetry_pace(&c->telemetry, h->held_row_ns, 1000);
}

void held_tick(struct coordinator *c) {
    uint64_t here = 0;
    if (c->state != CORE_LOADING || !c->held.since_us || c->now_us - c->held.since_us < WAIT_US) return;
    for (int w = 0; w < c->options.workers; w++) here |= (uint64_t)(c->members.m[w].held && member_alive(&c->members, w)) << w;
    if (!here || here == c->members.awaited) return;
    log_warn("%d of the workers that this cluster had are here; it goes on without the others", __builtin_popcountll(here));
    c->members.awaited = here;
    welcome_all(c);
}

void held_adopt(struct coordinator *c, int rank, const struct worker_ready *r) {
    int sequences = 0, rows = 0;
    for (int i = 0; i < r->n_held; i++) {
        int kept = scheduler_adopt(&c->scheduler, rank, &r->held[i]);
        sequences += kept > 0;
        rows += kept;
    }
    struct event *e = core_event(c, EVENT_WORKER_KEPT, rank, "%s", c->members.m[rank].host);
    event_figure(e, "held", r->n_held);
    event_figure(e, "sequences", sequences);
    event_figure(e, "positions", rows);
    log_info("worker %d kept its weights, and %d positions of %d sequences", rank, rows, sequences);
}
