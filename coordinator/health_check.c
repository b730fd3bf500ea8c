/* health_check.c - the coordinator's parts and their deadlines: each worker's engine and mover, each link, the scheduler, the
 * tokeniser, the journal, telemetry. Who misses one for long is dealt with elsewhere (member.h, journal.h); here it is said. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/core.h"

enum {
    STALL_US = 250 * 1000,      /* the loop itself stood still: longer than its ticks are apart */
    JOURNAL_US = 2500 * 1000,   /* half of what a write may take before requests are refused */
    TELEMETRY_US = 1000 * 1000, /* workers report that often; beyond what is allowed for progress */
};

static void judge_state(struct coordinator *c, struct health *h) {
    static const char *const states[] = {[CORE_LOADING] = "it is loading",       [CORE_PROVING] = "it tries a first token",
                                         [CORE_SERVING] = "",
                                         [CORE_RECOVERING] = "it is recovering", [CORE_DRAINING] = "it is draining",
                                         [CORE_LEAVING] = "it is ending",        [CORE_FAILED] = "it has failed",
                                         [CORE_ENDED] = "it has ended"};
    if (c->state != CORE_SERVING) health_is(h, HEALTH_RED, "cluster", states[c->state]);
}

static void judge_links(struct coordinator *c, int w, struct health *h) {
    const struct member *m = &c->members.m[w];
    for (uint64_t late = m->accuses; late; late &= late - 1) {
        char part[32];
        snprintf(part, sizeof part, "link %d -> %d", __builtin_ctzll(late), w);
        int64_t still = c->members.patience_us + (c->now_us - m->accuses_us); /* it says so after its patience */
        health_late(h, part, "a step has waited for it", still, c->members.patience_us);
    }
}

static void judge_worker(struct coordinator *c, int w, struct health *h) {
    const struct member *m = &c->members.m[w];
    char part[32];
    snprintf(part, sizeof part, "worker %d", w);
    if (m->state == WORKER_SUSPECT) health_is(h, HEALTH_AMBER, part, "it has fallen silent");
    if (!member_serves(&c->members, w)) return;
    judge_links(c, w, h);
    bool owes = (m->busy || m->owes) && !m->accuses;
    if (owes) health_late(h, part, "its engine has not moved", c->now_us - m->moved_us, c->members.limits.progress_us / 2);
}

/* Counts come each second from workers that steps go through. */
static void judge_telemetry(struct coordinator *c, int w, int64_t gap_us, struct health *h) {
    struct health_watch *watch = &c->watches.telemetry[w];
    bool steps = c->scheduler.committed > c->watches.counted_at[w];
    bool owes = steps && c->shape.layers && c->options.workers > 1 && member_serves(&c->members, w);
    int64_t still = health_watch(watch, owes, c->watches.counts[w], c->now_us, gap_us);
    char part[32];
    snprintf(part, sizeof part, "telemetry of worker %d", w);
    if (owes) health_late(h, part, "no counts came", still, TELEMETRY_US + c->members.limits.progress_us);
}

/* It turns even when nobody wants anything. */
static void judge_mover(struct coordinator *c, int w, int64_t gap_us, struct health *h) {
    const struct member *m = &c->members.m[w];
    bool owes = m->moved && member_serves(&c->members, w);
    int64_t still = health_watch(&c->watches.mover[w], owes, m->moved, c->now_us, gap_us);
    char part[32];
    snprintf(part, sizeof part, "mover of worker %d", w);
    if (owes) health_late(h, part, "it has not moved", still, c->members.limits.progress_us);
}

static void judge_scheduler(struct coordinator *c, int64_t gap_us, struct health *h) {
    const struct scheduler *s = &c->scheduler;
    int may_start = s->n_waiting - (s->missing ? s->n_whole : 0) - c->n_held;
    bool owes = c->state == CORE_SERVING && (s->planned != s->committed || s->n_running || may_start > 0);
    int64_t still = health_watch(&c->watches.scheduler, owes, s->planned + s->committed, c->now_us, gap_us);
    health_late(h, "scheduler", "there are requests to run and no step was planned or done", still,
                c->members.limits.progress_us);
}

static void judge_tokenizer(struct coordinator *c, int64_t gap_us, struct health *h) {
    int64_t still = health_watch(&c->watches.tokenizer, c->watches.prompts != c->watches.prompts_done, c->watches.prompts_done,
                                 c->now_us, gap_us);
    health_late(h, "tokenizer", "a prompt has waited", still, c->members.limits.progress_us);
}

static void judge_journal(struct coordinator *c, struct health *h) {
    struct journal_stats s;
    struct why why;
    if (!c->journal) return;
    if (journal_admits(c->journal, c->now_us, &why) < 0) return health_is(h, HEALTH_RED, "journal", why.text);
    journal_get_stats(c->journal, c->now_us, &s);
    health_late(h, "journal", "a write has taken", s.lag_us, JOURNAL_US);
}

/* What is the cluster's state anyway is told as such. */
static void tell(struct coordinator *c, const struct health *was) {
    const struct health *h = &c->health;
    bool whole = !strcmp(h->part, "cluster");
    if (was->level == h->level && !strcmp(was->part, h->part)) return;
    if (whole || (!h->level && (!was->level || !strcmp(was->part, "cluster")))) return;
    if (h->level) log_warn("health is %s: %s: %s", health_level_name(h->level), h->part, h->text);
    else log_info("health is green again");
    if (h->level) core_event(c, EVENT_HEALTH, -1, "%s: %s: %s", health_level_name(h->level), h->part, h->text);
    else core_event(c, EVENT_HEALTH, -1, "green");
}

void health_check(struct coordinator *c) {
    struct health was = c->health, h = {0};
    int64_t gap = c->watches.looked_us ? c->now_us - c->watches.looked_us : 0;
    c->watches.looked_us = c->now_us;
    if (gap < STALL_US) gap = 0;
    judge_state(c, &h);
    for (int w = 0; w < c->options.workers; w++) judge_worker(c, w, &h);
    judge_scheduler(c, gap, &h);
    judge_tokenizer(c, gap, &h);
    judge_journal(c, &h);
    for (int w = 0; w < c->options.workers; w++) judge_telemetry(c, w, gap, &h), judge_mover(c, w, gap, &h);
    c->health = h;
    tell(c, &was);
}
