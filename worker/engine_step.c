/* engine_step.c - one plan: what it grants becomes the rows of a step, and the step a report.
 *
 * A plan grants positions; the home decides the rest: it feeds itself the token it sampled, ends a sequence at a stop id or at
 * its length, and turns rows granted beyond that end into nothing. Plans are input: what contradicts what this worker knows is
 * refused with the numbers, and ends the engine rather than the process. */
#include "base/clk.h"
#include "worker/engine_parts.h"

#include <poll.h>
#include <string.h>

static int add_row(struct engine *e, struct seq *s, int table_row, int pos, struct why *why) {
    struct step_rows *r = &e->forward.rows;
    unsigned long long id = s->id;
    if (r->T == e->granted) return fail(why, ERR_PROTOCOL, "the plan's runs have more than the %d rows it grants", e->granted);
    if (pos < 0 || pos >= s->n_ids)
        return fail(why, ERR_PROTOCOL, "sequence %llu is granted position %d; %d tokens are known", id, pos, s->n_ids);
    int page = pos / e->setup.page_tokens;
    if (page >= s->n_pages)
        return fail(why, ERR_PROTOCOL, "sequence %llu is granted position %d but has %d pages", id, pos, s->n_pages);
    r->ids[r->T] = s->ids[pos];
    r->pos[r->T] = pos;
    r->seq[r->T] = table_row;
    r->seq_id[r->T] = s->id;
    r->domain[r->T] = s->domain;
    r->prompt[r->T] = pos < s->prompt_tokens;
    r->kv_at[r->T] = s->pages[page] * e->setup.page_tokens + pos % e->setup.page_tokens;
    r->T++;
    return 0;
}

static int add_run(struct engine *e, const struct plan_run *run, struct why *why) {
    struct step_rows *r = &e->forward.rows;
    struct seq *s = seq_find(&e->seqs, run->seq);
    if (!s) return fail(why, ERR_PROTOCOL, "the plan runs sequence %llu, which is not here", (unsigned long long)run->seq);
    if (e->setup.placement.missing && !s->allow_degraded)
        return fail(why, ERR_PROTOCOL, "the plan runs sequence %llu, which wants all experts; %d are missing",
                    (unsigned long long)run->seq, e->setup.placement.missing);
    int rc = seq_add_pages(&e->seqs, s, run->new_pages, run->n_new_pages, why);
    if (rc < 0 || s->finish != SEQ_RUNNING) return rc; /* granted beyond its end: a no-op */
    if (s->last_step == e->step || run->count < 1)
        return fail(why, ERR_PROTOCOL, "the plan runs sequence %llu %s", (unsigned long long)run->seq,
                    run->count < 1 ? "for no rows" : "twice");
    s->last_step = e->step;
    memcpy(r->pages + (size_t)r->n_seqs * (size_t)e->seqs.max_pages, s->pages, sizeof *s->pages * (size_t)s->n_pages);
    for (int i = 0; i < run->count; i++)
        if ((rc = add_row(e, s, r->n_seqs, run->first + i, why)) < 0) return rc;
    r->n_seqs++;
    if (!run->sample) return 0;
    if (run->first + run->count != s->n_ids || s->n_ids >= e->setup.max_context)
        return fail(why, ERR_PROTOCOL, "sequence %llu is to sample position %d; %d tokens are known", (unsigned long long)s->id,
                    run->first + run->count, s->n_ids);
    if (s->max_tokens < 1)
        return fail(why, ERR_PROTOCOL, "sequence %llu is to sample, but may answer with at most %d tokens",
                    (unsigned long long)s->id, s->max_tokens);
    e->sampled[r->n_sampled] = s;
    r->sampled[r->n_sampled++] = r->T - 1;
    return 0;
}

static int prepare(struct engine *e, const struct plan *p, struct why *why) {
    if (p->epoch != e->epoch || p->workers != e->options.workers)
        return fail(why, ERR_PROTOCOL, "the plan is for epoch %u of %d workers; this is epoch %u of %d", p->epoch, p->workers,
                    e->epoch, e->options.workers);
    if (p->placement_version != e->setup.placement.version)
        return fail(why, ERR_PROTOCOL, "the plan names placement %u; this worker has %u", p->placement_version,
                    e->setup.placement.version);
    if (p->microbatches < 1 || p->microbatches > EP_MICROBATCHES)
        return fail(why, ERR_PROTOCOL, "the plan is for %d microbatches, expected 1 or %d", p->microbatches, EP_MICROBATCHES);
    for (int w = 0; w < p->workers; w++)
        if (p->tokens[w] < 0 || p->tokens[w] > e->setup.step_tokens)
            return fail(why, ERR_PROTOCOL, "the plan grants worker %d %d rows, at most %d", w, p->tokens[w],
                        e->setup.step_tokens);
    if (p->step <= e->step)
        return fail(why, ERR_PROTOCOL, "the plan is for step %llu; this worker was given step %llu already",
                    (unsigned long long)p->step, (unsigned long long)e->step);
    e->step = p->step;
    struct step_rows *r = &e->forward.rows;
    r->T = r->n_seqs = r->n_sampled = 0;
    e->granted = p->tokens[e->options.rank];
    for (int i = 0; i < p->n_drop; i++) seq_drop(&e->seqs, p->drop[i]);
    for (int i = 0; i < p->n_start; i++) {
        for (int j = 0; j < p->start[i].n_ids; j++)
            if (p->start[i].ids[j] < 0 || p->start[i].ids[j] >= e->checkpoint.config.vocab)
                return fail(why, ERR_PROTOCOL, "sequence %llu has token %d; the vocabulary has %d",
                            (unsigned long long)p->start[i].seq, p->start[i].ids[j], e->checkpoint.config.vocab);
        int rc = seq_start(&e->seqs, &p->start[i], why);
        if (rc < 0) return rc;
    }
    for (int i = 0; i < p->n_run; i++) {
        int rc = add_run(e, &p->run[i], why);
        if (rc < 0) return rc;
    }
    return 0;
}

/* What the plan granted went through all layers. */
static void note_rows(struct engine *e, const struct plan *p) {
    for (int i = 0; i < p->n_run; i++) {
        struct seq *s = seq_find(&e->seqs, p->run[i].seq);
        if (s && s->last_step == p->step) s->rows = p->run[i].first + p->run[i].count;
    }
}

static void sample(struct engine *e, struct step_report *out) {
    for (int i = 0; i < e->forward.rows.n_sampled; i++) {
        struct seq *s = e->sampled[i];
        struct seq_out *o = &out->out[out->n_out++];
        *o = (struct seq_out){.seq = s->id, .position = s->n_ids};
        sampler_pick(&e->sampler, e->forward.logits + (size_t)i * (size_t)e->checkpoint.config.vocab, &e->forward.stats[i],
                     &s->sampling, s->n_ids, o);
        seq_append(s, o->token);
        o->finish = s->finish;
    }
}

static void count_rows(struct engine *e, struct step_report *out) {
    out->n_rows = e->store.first ? e->store.first[e->store.layers] : 0;
    for (int i = 0; i < out->n_rows; i++) {
        out->rows[i] = (uint32_t)(e->store.slots[i].rows - e->rows_before[i]);
        e->rows_before[i] = e->store.slots[i].rows;
    }
}

/* Sums since the start begin after this step; the rows of its experts are the coordinator's to leave out. */
static void forget_counts(struct engine *e, uint64_t waited[FABRIC_MAX_RANKS]) {
    memset(waited, 0, sizeof *waited * FABRIC_MAX_RANKS);
    if (e->ep) ep_counters_reset(e->ep);
    e->backend->tasks = (struct backend_tasks){0};
}

static struct step_report *take_report(struct engine *e) {
    struct step_report *r = e->spare;
    e->spare = NULL;
    while (!r && !ring_pop(&e->report_free, &r)) {
        if (atomic_load(&e->stop)) return NULL;
        struct pollfd fd = {.fd = e->plan_bell.fd, .events = POLLIN};
        poll(&fd, 1, 100);
        bell_clear(&e->plan_bell);
    }
    r->n_out = 0;
    return r;
}

/* There is a later epoch: nobody will ask what came of this step. */
static int give_up(struct engine *e, struct step_report *report) {
    e->spare = report;
    if (e->tally.rows) tally_step_void(&e->tally);
    return 0;
}

/* Of a step that went through all layers. waited: by peer, before it began. */
static void fill_report(struct engine *e, const struct plan *p, uint64_t waited[FABRIC_MAX_RANKS], struct step_report *r) {
    note_rows(e, p);
    sample(e, r);
    count_rows(e, r);
    if (e->tally.rows) tally_step_end(&e->tally, &e->forward.rows);
    r->tokens = (uint32_t)e->forward.rows.T;
    r->trace_lost = e->trace.lost;
    r->epoch = p->epoch;
    r->step = p->step;
    r->workers = e->options.workers;
    if (p->uncounted) forget_counts(e, waited);
    for (int w = 0; w < r->workers && e->ep; w++) {
        r->wait_us[w] = ep_counters(e->ep)->wait_us[w] - waited[w];
        r->link[w] = ep_counters(e->ep)->link[w];
    }
    if (e->ep) r->far = ep_counters(e->ep)->far;
    r->tasks = e->backend->tasks;
}

int engine_run(struct engine *e, const struct plan *p, struct why *why) {
    if (p->epoch < atomic_load(&e->told)) return 0;
    struct step_report *report = take_report(e);
    if (!report) return ERR_CANCELLED;
    memset(e->forward.split.us, 0, sizeof e->forward.split.us);
    split_to(&e->forward.split, PART_OUTPUT);
    const int64_t start_us = e->forward.split.since_us;
    int rc = prepare(e, p, why);
    if (rc < 0) return rc;
    e->moe.patience_us = p->patience_us;
    e->moe.calls = 0;
    e->forward.microbatches = p->microbatches;
    uint64_t waited[FABRIC_MAX_RANKS] = {0};
    if (e->ep) {
        memcpy(waited, ep_counters(e->ep)->wait_us, sizeof waited);
        ep_set_two_hop(e->ep, p->two_hop);
        ep_step_begin(e->ep, p->epoch, p->step, p->tokens, p->microbatches);
    }
    trace_begin(&e->trace, p->trace, p->n_trace, e->options.rank, p->step, &e->forward.rows);
    rc = forward_step(&e->forward);
    struct trace_block *traced = trace_end(&e->trace);
    if (traced && rc == ERR_EPOCH) traced->len = traced->rows = 0;
    if (traced) engine_emit(e, &(struct event){.kind = EVENT_TRACE, .trace = traced});
    if (rc == ERR_EPOCH) return give_up(e, report);
    if (rc < 0) return rc == ERR_CANCELLED ? rc : fail(why, rc, "step %llu: %s", (unsigned long long)p->step, status_text(rc));
    fill_report(e, p, waited, report);
    split_to(&e->forward.split, PART_SCHEDULER);
    memcpy(report->part_us, e->forward.split.us, sizeof report->part_us);
    report->step_us = e->forward.split.since_us - start_us;
    engine_emit(e, &(struct event){.kind = EVENT_STEP, .step = report});
    return 0;
}
