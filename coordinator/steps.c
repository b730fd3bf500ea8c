/* steps.c - plans go out, reports come in, and steps that all homes have reported are committed. */
#include "coordinator/core.h"

static struct step_given *given(struct coordinator *c, uint64_t step) { return &c->steps.given[step % SCHEDULER_MAX_AHEAD]; }

/* That of the plans that are out; what earlier ones gave was for themselves. */
static void follow_patience(struct coordinator *c) {
    int64_t us = 0;
    for (uint64_t step = c->scheduler.committed + 1; step <= c->scheduler.planned; step++) {
        int64_t given_us = given(c, step)->patience_us;
        if (given_us > us) us = given_us;
    }
    member_patience(&c->members, us);
}

static void commit_steps(struct coordinator *c) {
    const struct commit *commit;
    struct why why;
    int rc;
    while ((rc = scheduler_commit(&c->scheduler, c->now_us, &commit, &why)) > 0) {
        uint64_t tokens = 0;
        recover_committed(c);
        for (int i = 0; i < commit->n; i++) tokens += commit->token[i].out != NULL;
        telemetry_tokens(&c->telemetry, c->now_us, 0, tokens);
        service_committed(c, commit);
    }
    follow_patience(c);
    prove_committed(c);
    if (rc < 0) cluster_condemn(c, c->scheduler.faulty, rc, &why);
}

static void learn_overlap(struct coordinator *c, const struct worker_step_done *d) {
    const struct step_given *g = given(c, d->step);
    uint64_t longest = 0;
    for (int w = 0; w < d->n_wait; w++)
        if (d->wait_us[w] > longest) longest = d->wait_us[w];
    overlap_learn(&c->steps.overlap, g->step.rows, g->microbatches, (int64_t)d->step_us, (int64_t)longest);
}

void steps_done(struct coordinator *c, int rank, const struct worker_step_done *d) {
    struct why why;
    if (d->epoch != c->epoch || c->state == CORE_RECOVERING) return member_seen(&c->members, rank, c->now_us);
    member_done(&c->members, rank, c->now_us);
    if (c->state == CORE_FAILED || c->state == CORE_LEAVING) return;
    int rc = scheduler_done(&c->scheduler, rank, d, &why);
    const struct telemetry_of_step *step = &given(c, d->step)->step;
    if (rc >= 0 && c->state == CORE_PROVING) telemetry_pace(&c->telemetry, d->step_us, step->rows);
    else if (rc >= 0) rc = telemetry_step(&c->telemetry, rank, d, step, &why);
    if (rc < 0) return cluster_condemn(c, rank, rc, &why);
    links_step(&c->links, rank, d, c->now_us);
    learn_overlap(c, d);
    tracing_lost(&c->tracing, d->step, d->trace_lost);
    commit_steps(c);
}

static int fullest(const struct plan *p) {
    int rows = 0;
    for (int w = 0; w < p->workers; w++)
        if (p->worker[w].tokens > rows) rows = p->worker[w].tokens;
    return rows;
}

/* With sequences that were run before. */
static bool goes_on(const struct plan *p) {
    for (int w = 0; w < p->workers; w++)
        if (p->worker[w].n_run > p->worker[w].n_start) return true;
    return false;
}

/* How the workers shall run it; what is chosen is kept until the step has committed. */
static struct plan_around choose_around(struct coordinator *c, const struct plan *p) {
    int rows = fullest(p), microbatches = overlap_choose(&c->steps.overlap, rows, p->workers);
    int hops = hops_choose(&c->steps.hops, (rows + microbatches - 1) / microbatches);
    int64_t patience_us = telemetry_patience(&c->telemetry, rows, c->options.patience_us);
    bool uncounted = c->state == CORE_PROVING;
    c->steps.sent[hops - 1] += !uncounted;
    *given(c, p->step) = (struct step_given){
        .step = {rows, goes_on(p)}, .microbatches = microbatches, .patience_us = patience_us};
    return (struct plan_around){.epoch = c->epoch,
                                .placement_version = c->placement.version,
                                .patience_us = patience_us,
                                .uncounted = uncounted,
                                .microbatches = microbatches,
                                .two_hop = hops == 2,
                                .trace = c->tracing.layers,
                                .n_trace = c->tracing.n_layers};
}

/* False: somebody did not take it, and is dead. */
static bool send_plan(struct coordinator *c, const struct plan *p) {
    struct plan_around around = choose_around(c, p);
    follow_patience(c);
    c->moved = true;
    for (int w = 0; w < p->workers; w++) {
        if (!(c->scheduler.members >> w & 1)) continue;
        int rc = worker_port_plan(c->worker_port, &c->worker_id[w], w, p, &around);
        if (rc < 0) return cluster_unreachable(c, w, rc), false;
        member_planned(&c->members, w, c->now_us);
    }
    return true;
}

void steps_plan(struct coordinator *c) {
    const struct plan *p;
    if (c->state != CORE_PROVING && c->state != CORE_SERVING && c->state != CORE_DRAINING) return;
    uint64_t prompt = c->scheduler.counts.prompt_tokens;
    while ((p = scheduler_plan(&c->scheduler, c->now_us)))
        if (!send_plan(c, p)) break;
    if (c->scheduler.counts.prompt_tokens != prompt)
        telemetry_tokens(&c->telemetry, c->now_us, c->scheduler.counts.prompt_tokens - prompt, 0);
}
