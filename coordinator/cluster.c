/* cluster.c - the workers' side: they come (Hello), are told what to load (Welcome), load (Progress, Ready), get plans and
 * report steps, and are watched (Beat, Trouble, silence).
 *
 * All workers are welcomed together: what one must hold depends on who is there, and nobody loads for a cluster that cannot be.
 * A worker that must not be trusted with this cluster is told why (Refuse). What follows from a death: recover.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "coordinator/core.h"
#include "coordinator/recall.h"
#include "coordinator/fit.h"

enum {
    MISSING_EVERY_US = 5 * 1000 * 1000,
    SHUTDOWN_EVERY_US = 50 * 1000,
    PROBE_FOR_US = 200 * 1000,
    PROBE_EVERY_US = 10 * 1000,
    LEAVE_US = 5 * 1000 * 1000, /* for workers to go after Shutdown */
};

static bool same_id(const struct bus_id *a, const struct bus_id *b) {
    return a->len == b->len && !memcmp(a->bytes, b->bytes, a->len);
}

static int rank_of(const struct coordinator *c, const struct bus_id *id) {
    for (int w = 0; w < c->options.workers; w++)
        if (member_alive(&c->members, w) && same_id(&c->worker_id[w], id)) return w;
    return -1;
}

/* ---- a worker is lost ---- */

/* Or says what cannot be: none of it is believed any more, and it is told when it is heard of again (cluster_receive). */
static void condemn(struct coordinator *c, int rank, int rc, const struct why *why) {
    core_event(c, EVENT_WORKER_DEAD, rank, "%s", why->text);
    member_gone(&c->members, rank, false);
    bool hopeless = c->state == CORE_LOADING && rc != ERR_GONE; /* another would do the same */
    if (c->state != CORE_LEAVING && (hopeless || !recover_lost(c, rank, why))) core_fail(c, rc, why);
}

void cluster_lose(struct coordinator *c, int rank, const struct why *why) {
    if (c->state != CORE_LEAVING) return condemn(c, rank, ERR_GONE, why);
    core_event(c, EVENT_WORKER_LEFT, rank, "%s", c->members.m[rank].host);
    member_gone(&c->members, rank, true);
}

void cluster_unreachable(struct coordinator *c, int rank, int rc) {
    struct why why;
    const struct member *m = &c->members.m[rank];
    fail(&why, ERR_GONE, "worker %d (%s pid %" PRIu64 ") is dead: %s", rank, m->host, m->pid,
         rc == ERR_GONE    ? "its connection closed"
         : rc == ERR_AGAIN ? "it takes no messages"
                           : status_text(rc));
    cluster_lose(c, rank, &why);
}

/* ---- joining ---- */
static bool all_local(const struct coordinator *c) {
    char host[MSG_HOST_BYTES] = "";
    gethostname(host, sizeof host - 1);
    for (int w = 0; w < c->options.workers; w++)
        if (c->members.awaited >> w & 1 && strcmp(c->members.m[w].host, host)) return false;
    return true;
}

static uint64_t memory_available(void) {
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break;
    fclose(f);
    return kib * 1024;
}

struct measure cluster_measure(const struct coordinator *c, const struct scheduler_limits *l) {
    return (struct measure){.checkpoint = &c->checkpoint,
                            .weights = c->weights,
                            .workers = c->options.workers,
                            .step_tokens = l->step_tokens,
                            .max_seqs = l->max_seqs,
                            .max_context = l->max_context,
                            .page_tokens = l->page_tokens,
                            .kv_pages = l->pages,
                            .hosts = c->hosts};
}

static uint64_t memory_of(const struct coordinator *c, int rank) {
    return c->members.m[rank].memory ? c->members.m[rank].memory : c->options.memory;
}

int cluster_check_fit(const struct coordinator *c, const struct scheduler_limits *l, const uint64_t *hosts, uint64_t members,
                      uint64_t available, struct why *why) {
    struct worker_bytes bytes[MSG_MAX_WORKERS] = {0};
    struct measure m = cluster_measure(c, l);
    m.hosts = hosts;
    for (int w = 0; w < c->options.workers; w++) {
        int rc = members >> w & 1 ? measure_worker(&m, w, &bytes[w], why) : 0;
        if (rc < 0) return rc;
    }
    uint64_t memory[MSG_MAX_WORKERS];
    for (int w = 0; w < c->options.workers; w++) memory[w] = memory_of(c, w);
    return fit_check(bytes, c->options.workers, c->weights, memory, available, why);
}

int cluster_find_room(struct coordinator *c, struct why *why) {
    uint64_t *everything = NULL, n = (uint64_t)c->shape.layers * (uint64_t)c->shape.experts, limits = 0;
    struct worker_bytes b = {0};
    struct measure m = cluster_measure(c, &c->scheduler.limits);
    for (int w = 0; w < c->options.workers; w++) limits |= c->members.m[w].memory;
    c->shape.room = NULL;
    if (!limits || !n) return 0;
    m.hosts = everything = malloc(sizeof *everything * n);
    if (!everything) return fail(why, ERR_NOMEM, "out of memory for a placement");
    for (uint64_t i = 0; i < n; i++) everything[i] = 1;
    int rc = measure_worker(&m, 0, &b, why);
    free(everything);
    if (rc < 0) return rc;
    uint64_t each = (b.experts + n - 1) / n, others = worker_bytes_total(&b) - b.experts;
    for (int w = 0; w < c->options.workers; w++) {
        uint64_t memory = memory_of(c, w);
        c->recovery.room[w] = !memory || memory > others + b.experts ? n : memory > others ? (memory - others) / each : 0;
        if (!c->recovery.room[w]) c->recovery.room[w] = 1; /* what does not fit is said by who checks that */
    }
    c->shape.room = c->recovery.room;
    return 0;
}

static void refuse(struct coordinator *c, const struct bus_id *id, const char *reason) {
    worker_port_refuse(c->worker_port, id, reason);
    c->moved = true;
}

void cluster_peers(const struct coordinator *c, uint64_t mask, struct worker_peer *peers) {
    for (int w = 0; w < c->options.workers; w++) {
        const struct member *m = &c->members.m[w];
        peers[w] = (struct worker_peer){.host = (uint32_t)member_host(&c->members, w),
                                        .door = member_serves(&c->members, w) ? m->door : ""};
        if (!(mask >> w & 1)) continue;
        peers[w].incarnation = m->incarnation;
        peers[w].address = m->address;
        peers[w].address_bytes = m->address_bytes;
    }
}

void cluster_count_hosts(struct coordinator *c, uint64_t mask) {
    uint64_t hosts = 0;
    for (uint64_t left = mask; left; left &= left - 1) hosts |= UINT64_C(1) << member_host(&c->members, __builtin_ctzll(left));
    c->hops.hosts = __builtin_popcountll(hosts);
}

const uint64_t *cluster_holders(struct coordinator *c) {
    size_t n = (size_t)c->shape.layers * (size_t)c->shape.experts;
    uint64_t doors = 0;
    for (int w = 0; w < c->options.workers; w++)
        if (member_serves(&c->members, w) && c->members.m[w].door[0]) doors |= UINT64_C(1) << w;
    if (c->state == CORE_LOADING || !doors) return NULL;
    for (size_t i = 0; i < n; i++) c->recovery.held_by[i] = c->hosts[i] & doors;
    return c->recovery.held_by;
}

static void welcome(struct coordinator *c, int rank, const struct worker_peer *peers, const uint64_t *hosts) {
    const struct scheduler_limits *l = &c->scheduler.limits;
    struct worker_welcome w = {.epoch = c->epoch,
                               .incarnation = peers[rank].incarnation,
                               .model_dir = c->options.model_dir,
                               .weights = fmt_name(c->weights),
                               .isa = c->options.isa,
                               .naive_prefill = c->options.naive_prefill,
                               .payload = c->options.payload,
                               .combine_payload = c->options.combine_payload,
                               .fused = c->options.fused,
                               .step_tokens = (uint32_t)l->step_tokens,
                               .max_seqs = (uint32_t)l->max_seqs,
                               .max_context = (uint32_t)l->max_context,
                               .page_tokens = (uint32_t)l->page_tokens,
                               .kv_pages = (uint32_t)l->pages,
                               .placement = {.version = c->placement.version,
                                             .workers = (uint32_t)c->options.workers,
                                             .layers = (uint32_t)c->shape.layers,
                                             .experts = (uint32_t)c->shape.experts,
                                             .hosts = hosts},
                               .workers = (uint32_t)c->options.workers,
                               .peers = peers,
                               .held_by = cluster_holders(c)};
    int rc = worker_port_welcome(c->worker_port, &c->worker_id[rank], &w);
    if (rc < 0) cluster_unreachable(c, rank, rc);
    else member_welcomed(&c->members, rank, c->now_us);
    c->moved = true;
}

/* Workers have said how much memory they have: whoever has more holds more; a placement file says all itself. And it may be
 * others that begin than the first ones of another life. */
static int place_awaited(struct coordinator *c, struct why *why) {
    int rc = cluster_find_room(c, why);
    bool by_room = c->shape.room && !c->options.placement_file, others = c->members.awaited != core_first(c);
    if (rc < 0 || (!by_room && !others)) return rc;
    uint32_t version = c->placement.version;
    if (by_room) planner_contiguous(&c->shape, c->options.first, c->hosts);
    memcpy(c->recovery.first, c->hosts, sizeof *c->hosts * (size_t)c->shape.layers * (size_t)c->shape.experts);
    if (others) planner_members(&c->shape, c->recovery.first, c->hosts, c->members.awaited, c->hosts);
    placement_clear(&c->placement);
    rc = placement_partial(&c->placement, c->shape.workers, c->shape.layers, c->shape.experts, c->hosts, why);
    c->placement.version = version;
    return rc;
}

static bool all_connected(const struct coordinator *c) {
    for (uint64_t left = c->members.awaited; left; left &= left - 1)
        if (c->members.m[__builtin_ctzll(left)].state != WORKER_CONNECTED) return false;
    return true;
}

void cluster_begin(struct coordinator *c) {
    struct why why;
    uint64_t awaited = c->members.awaited;
    bool first = c->state == CORE_LOADING;
    int held = held_count(c);
    if (first) c->recovery.available = all_local(c) && !held ? memory_available() : 0; /* they have what they need already */
    int rc = first ? place_awaited(c, &why) : 0;
    if (rc >= 0 && first) rc = cluster_check_fit(c, &c->scheduler.limits, c->hosts, awaited, c->recovery.available, &why);
    if (rc < 0) return core_fail(c, rc, &why);
    struct worker_peer peers[MSG_MAX_WORKERS];
    cluster_count_hosts(c, awaited);
    cluster_peers(c, awaited, peers);
    log_info("all %d workers are here%s, loading %s as %s", __builtin_popcountll(awaited), held ? " again" : "", c->model_name,
             fmt_name(c->weights));
    for (uint64_t left = awaited; left; left &= left - 1) {
        int w = __builtin_ctzll(left);
        if (c->members.m[w].state == WORKER_CONNECTED) welcome(c, w, peers, c->hosts);
    }
}

/* In the place of one that died; the others hear of it when it is ready. */
static void welcome_newcomer(struct coordinator *c, int rank) {
    struct worker_peer peers[MSG_MAX_WORKERS];
    uint64_t *hosts = malloc(sizeof *hosts * ((size_t)c->shape.layers * (size_t)c->shape.experts + 1));
    struct why why;
    if (!hosts || cluster_find_room(c, &why) < 0) {
        free(hosts);
        return cluster_unreachable(c, rank, ERR_NOMEM);
    }
    if (c->state == CORE_LOADING) memcpy(hosts, c->hosts, sizeof *hosts * (size_t)c->shape.layers * (size_t)c->shape.experts);
    else recover_share(c, rank, hosts);
    cluster_peers(c, UINT64_C(1) << rank, peers);
    welcome(c, rank, peers, hosts);
    free(hosts);
}

static void probe(struct coordinator *c, int rank) {
    int rc = worker_port_beat(c->worker_port, &c->worker_id[rank]);
    c->moved = true;
    if (rc == ERR_GONE) cluster_unreachable(c, rank, rc);
}

static int admit(struct coordinator *c, const struct worker_hello *h, struct why *why) {
    bool known = h->rank < (uint32_t)c->options.workers;
    if (known && member_alive(&c->members, (int)h->rank)) probe(c, (int)h->rank); /* it may come in the place of a dead one */
    bool later = known && !h->held_incarnation && !(c->members.awaited >> h->rank & 1);
    int rc = c->state == CORE_LOADING && known ? held_admit(c, h, why) : 0;
    if (rc < 0) return rc;
    if (c->state <= CORE_PROVING && later)
        return fail(why, ERR_AGAIN, "rank %u is one of those that come when the first %d work", h->rank, c->options.first);
    if (c->state == CORE_LOADING) return member_hello(&c->members, h, c->now_us, why);
    if (h->held_members) return fail(why, ERR_DENIED, "this worker was taken for dead; start it again");
    if (!c->options.survive || c->state < CORE_PROVING || c->state > CORE_RECOVERING)
        return fail(why, ERR_DENIED, "this cluster is complete and takes no more workers");
    if (!known) return member_hello(&c->members, h, c->now_us, why);
    const struct member *m = &c->members.m[h->rank];
    enum worker_state was = m->state;
    bool repeats = was == WORKER_CONNECTED && m->pid == h->pid && !strcmp(m->host, h->host);
    if (member_alive(&c->members, (int)h->rank) && !repeats) /* perhaps dead, and nobody knows: it says Hello again */
        return fail(why, ERR_AGAIN, "rank %u is still taken, by %s pid %" PRIu64, h->rank, m->host, m->pid);
    if (was == WORKER_DEAD || was == WORKER_LEFT) {
        member_forget(&c->members, (int)h->rank);
        domains_succeed(&c->domains, (int)h->rank);
    }
    return member_hello(&c->members, h, c->now_us, why);
}

static void on_hello(struct coordinator *c, const struct bus_id *id, const struct worker_hello *h) {
    struct why why;
    int rc = admit(c, h, &why);
    if (rc == ERR_AGAIN) return log_debug("worker %s pid %" PRIu64 " waits: %s", h->host, h->pid, why.text);
    if (rc < 0) {
        log_warn("refused worker rank %u (%s pid %" PRIu64 "): %s", h->rank, h->host, h->pid, why.text);
        core_event(c, EVENT_WORKER_REFUSED, h->rank < MSG_MAX_WORKERS ? (int)h->rank : -1, "%s", why.text);
        return refuse(c, id, why.text);
    }
    c->worker_id[h->rank] = *id;
    held_came(c, h);
    log_info("worker %u is here (%s pid %" PRIu64 ")", h->rank, h->host, h->pid);
    event_figure(core_event(c, EVENT_WORKER_HERE, (int)h->rank, "%s", h->host), "pid", (int64_t)h->pid);
    bool begins = c->state == CORE_LOADING || c->options.world;
    if (begins && all_connected(c)) cluster_begin(c);
    else if (!c->options.world && (c->state != CORE_LOADING || c->recovery.replaced >> h->rank & 1))
        welcome_newcomer(c, (int)h->rank);
}

/* One that nobody gave a rank. While the first are awaited it is one of them, or has to wait until they work. */
static void on_seat(struct coordinator *c, const struct bus_id *id, const struct worker_hello *h) {
    char reason[160];
    bool begins = c->state <= CORE_PROVING;
    c->moved = true;
    if (h->protocol != MEMBER_PROTOCOL) return refuse(c, id, "it is of another release; install the same everywhere");
    if (!begins && (!c->options.survive || c->state > CORE_RECOVERING))
        return refuse(c, id, "this cluster takes no more workers");
    int rank = member_seat(&c->members, h->host, h->pid, begins ? c->options.first : c->options.workers, c->now_us);
    if (rank >= 0) worker_port_seated(c->worker_port, id, rank, c->options.workers);
    if (rank >= 0 || (begins && c->options.first < c->options.workers)) return; /* it asks again */
    snprintf(reason, sizeof reason, "all %d ranks are taken (--max-workers)", c->options.workers);
    refuse(c, id, reason);
}

static void on_ready(struct coordinator *c, int rank, const struct worker_ready *r) {
    struct why why;
    int rc = member_ready(&c->members, rank, r, c->now_us, &why);
    if (rc < 0) {
        refuse(c, &c->worker_id[rank], why.text);
        fail_in(&why, rc, "worker %d", rank);
        if (c->state != CORE_LOADING) return cluster_lose(c, rank, &why);
        return core_fail(c, rc, &why);
    }
    if (c->options.inside.bytes_per_us <= 0) c->hops.inside = hops_slower(c->hops.inside, r->inside);
    if (c->options.between.bytes_per_us <= 0) c->hops.between = hops_slower(c->hops.between, r->between);
    log_debug("worker %d is ready", rank);
    struct event *e = core_event(c, EVENT_WORKER_READY, rank, "%s", c->members.m[rank].host);
    event_figure(e, "weight_bytes", (int64_t)r->weight_bytes);
    recover_tell_blobs(e, r->blobs);
    if (c->state == CORE_LOADING && c->members.m[rank].held) held_adopt(c, rank, r);
    if (c->state != CORE_LOADING || !member_all_ready(&c->members)) return;
    rc = recall_class(c, &why);
    if (rc < 0) return core_fail(c, rc, &why);
    recover_start(c);
    bool proven = !c->options.prove || held_count(c); /* those that were kept work already */
    rc = proven ? 0 : prove_start(c, &why);
    if (rc < 0) return core_fail(c, rc, &why);
    if (proven) core_serve(c);
    recover_replaced(c);
}

/* ---- steps ---- */
/* That of the plans that are out; what earlier ones gave was for themselves. */
static void follow_patience(struct coordinator *c) {
    int64_t us = 0;
    for (uint64_t step = c->scheduler.committed + 1; step <= c->scheduler.planned; step++) {
        int64_t given_us = c->step_patience_us[step % SCHEDULER_MAX_AHEAD];
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
    if (rc < 0) condemn(c, c->scheduler.faulty, rc, &why);
}

static void learn_overlap(struct coordinator *c, const struct worker_step_done *d) {
    int at = (int)(d->step % SCHEDULER_MAX_AHEAD);
    uint64_t longest = 0;
    for (int w = 0; w < d->n_wait; w++)
        if (d->wait_us[w] > longest) longest = d->wait_us[w];
    overlap_learn(&c->overlap, c->step_rows[at], c->step_microbatches[at], (int64_t)d->step_us, (int64_t)longest);
}

static void on_step_done(struct coordinator *c, int rank, const struct worker_step_done *d) {
    struct why why;
    if (d->epoch != c->epoch || c->state == CORE_RECOVERING) return member_seen(&c->members, rank, c->now_us);
    member_done(&c->members, rank, c->now_us);
    if (c->state == CORE_FAILED || c->state == CORE_LEAVING) return;
    int rc = scheduler_done(&c->scheduler, rank, d, &why);
    int rows = c->step_rows[d->step % SCHEDULER_MAX_AHEAD];
    if (rc >= 0 && c->state == CORE_PROVING) telemetry_pace(&c->telemetry, d->step_us, rows);
    else if (rc >= 0) rc = telemetry_step(&c->telemetry, rank, d, rows, &why);
    if (rc < 0) return condemn(c, rank, rc, &why);
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

void cluster_plan(struct coordinator *c) {
    const struct plan *p;
    if (c->state != CORE_PROVING && c->state != CORE_SERVING && c->state != CORE_DRAINING) return;
    uint64_t prompt = c->scheduler.counts.prompt_tokens;
    while ((p = scheduler_plan(&c->scheduler, c->now_us))) {
        int rows = fullest(p);
        int at = (int)(p->step % SCHEDULER_MAX_AHEAD);
        struct plan_around around = {.epoch = c->epoch,
                                     .placement_version = c->placement.version,
                                     .patience_us = telemetry_patience(&c->telemetry, rows, c->options.patience_us),
                                     .uncounted = c->state == CORE_PROVING,
                                     .microbatches = overlap_choose(&c->overlap, rows, p->workers),
                                     .trace = c->tracing.layers,
                                     .n_trace = c->tracing.n_layers};
        int hops = hops_choose(&c->hops, (rows + around.microbatches - 1) / around.microbatches);
        around.two_hop = hops == 2;
        c->steps_of[hops - 1] += !around.uncounted;
        c->step_rows[at] = rows;
        c->step_patience_us[at] = around.patience_us;
        c->step_microbatches[at] = around.microbatches;
        follow_patience(c);
        c->moved = true;
        for (int w = 0; w < p->workers; w++) {
            if (!(c->scheduler.members >> w & 1)) continue;
            int rc = worker_port_plan(c->worker_port, &c->worker_id[w], w, p, &around);
            if (rc < 0) return cluster_unreachable(c, w, rc);
            member_planned(&c->members, w, c->now_us);
        }
    }
    if (c->scheduler.counts.prompt_tokens != prompt)
        telemetry_tokens(&c->telemetry, c->now_us, c->scheduler.counts.prompt_tokens - prompt, 0);
}

/* ---- messages ---- */
static void on_trouble(struct coordinator *c, int rank, const struct worker_msg *m) {
    if (m->kind == WORKER_TROUBLE && m->trouble.late_mask) {
        log_warn("worker %d waits for peers %#" PRIx64 " in step %" PRIu64 ", layer %u", rank, m->trouble.late_mask,
                 m->trouble.step, m->trouble.layer);
        member_accuse(&c->members, rank, m->trouble.late_mask, member_at(m->trouble.step, m->trouble.call), c->now_us);
        return;
    }
    struct why why;
    const struct member *w = &c->members.m[rank];
    fail(&why, ERR_GONE, "worker %d (%s pid %" PRIu64 ") left: %s", rank, w->host, w->pid, m->trouble.reason);
    if (c->state == CORE_LOADING) return core_fail(c, ERR_GONE, &why); /* it would again */
    cluster_lose(c, rank, &why);
}

static void on_record(struct coordinator *c, int rank, const struct worker_msg *m) {
    struct why why;
    int rc = m->kind == WORKER_TRACE ? tracing_rows(&c->tracing, m->trace.chunk, m->trace.len, &c->domains, &why)
             : m->kind == WORKER_TALLY
                 ? domains_tally(&c->domains, rank, m->tally.domain, m->tally.tokens, m->tally.rows, m->tally.n, &why)
                 : links_count(&c->links, rank, m->links.count, m->links.n, &m->links.tasks, &why);
    if (m->kind == WORKER_LINKS) {
        c->links.far[rank] = m->links.far;
        c->watches.counts[rank]++;
        c->watches.counted_at[rank] = c->scheduler.committed;
    }
    if (rc >= 0) return trace_service_flush(c);
    if (rc == ERR_NOMEM) return log_warn("%s", why.text); /* figures, not answers: serving goes on without */
    fail_in(&why, rc, "worker %d", rank);
    condemn(c, rank, rc, &why);
}

/* A worker counts from zero when another process takes its place. */
static void on_beat(struct coordinator *c, int rank, const struct worker_msg *m) {
    uint64_t now = m->beat.strangers, *before = &c->strangers_of[rank];
    c->strangers += now < *before ? now : now - *before;
    *before = now;
    c->members.m[rank].moved = m->beat.moved;
    member_beat(&c->members, rank, m->beat.progress, m->beat.busy, c->now_us);
}

static void on_message(struct coordinator *c, int rank, const struct worker_msg *m) {
    switch (m->kind) {
    case WORKER_PROGRESS: member_load(&c->members, rank, m->progress.done_bytes, m->progress.total_bytes, c->now_us); return;
    case WORKER_IS_READY: on_ready(c, rank, &m->ready); return;
    case WORKER_STEP_DONE: on_step_done(c, rank, &m->done); return;
    case WORKER_BEAT: on_beat(c, rank, m); return;
    case WORKER_TROUBLE:
    case WORKER_REFUSES: on_trouble(c, rank, m); return;
    case WORKER_TRACE:
    case WORKER_TALLY:
    case WORKER_LINKS: on_record(c, rank, m); return;
    case WORKER_PREPARED: recover_prepared(c, rank, m); return;
    case WORKER_SEAT:
    case WORKER_HELLO: member_seen(&c->members, rank, c->now_us); return; /* repeated: it still waits */
    }
}

void cluster_receive(struct coordinator *c) {
    struct bus_id from;
    struct worker_msg m;
    struct why why;
    int rc;
    while ((rc = worker_port_recv(c->worker_port, &from, &m, &why)) != ERR_AGAIN) {
        c->moved = true;
        int rank = rank_of(c, &from);
        if (rc < 0) {
            if (rank < 0) {
                c->noise++;
                continue;
            }
            fail_in(&why, rc, "worker %d sent", rank);
            condemn(c, rank, rc, &why);
        } else if (rank >= 0) {
            on_message(c, rank, &m);
        } else if (m.kind == WORKER_HELLO) {
            on_hello(c, &from, &m.hello);
        } else if (m.kind == WORKER_SEAT) {
            on_seat(c, &from, &m.hello);
        } else {
            c->noise++;
            if (c->options.survive && c->state != CORE_LOADING) /* it was declared dead, and may not know */
                worker_port_shutdown(c->worker_port, &from, true, "this worker was taken for dead; start it again");
        }
    }
}

/* ---- time ---- */
static void say_missing(struct coordinator *c) {
    if (!c->missing_said_us) c->missing_said_us = c->now_us;
    if (c->state != CORE_LOADING || c->now_us - c->missing_said_us < MISSING_EVERY_US) return;
    char ranks[256];
    c->missing_said_us = c->now_us;
    member_list(&c->members, WORKER_EXPECTED, ranks, sizeof ranks);
    if (ranks[0]) {
        log_info("waiting for workers: rank %s of %d missing; they join at %s", ranks, __builtin_popcountll(c->members.awaited),
                 bus_endpoint(c->worker_bus));
    } else {
        member_list(&c->members, WORKER_LOADING, ranks, sizeof ranks);
        log_info("workers still loading: rank %s", ranks);
    }
}

/* All must come in time; how long they load is their disks' business, as long as it goes on. */
static int late_rank(const struct coordinator *c, enum worker_state state) {
    for (int w = 0; w < c->options.workers; w++) {
        const struct member *m = &c->members.m[w];
        if (state == WORKER_EXPECTED && !(c->members.awaited >> w & 1)) continue;
        int64_t since = state == WORKER_LOADING ? m->moved_us : c->started_us;
        if (m->state == state && c->now_us - since >= c->options.start_timeout_us) return w;
    }
    return -1;
}

static void check_start(struct coordinator *c) {
    struct why why;
    char ranks[256];
    double seconds = (double)c->options.start_timeout_us / 1e6;
    int rank = late_rank(c, WORKER_LOADING);
    if (rank >= 0) {
        fail(&why, ERR_DEADLINE, "worker %d has loaded nothing for %.1f s (--start-timeout)", rank, seconds);
        if (c->state != CORE_LOADING) return cluster_lose(c, rank, &why); /* a newcomer */
    } else if (c->state == CORE_LOADING && late_rank(c, WORKER_EXPECTED) >= 0) {
        member_list(&c->members, WORKER_EXPECTED, ranks, sizeof ranks);
        fail(&why, ERR_DEADLINE, "worker rank %s did not come within %.1f s (--start-timeout)", ranks, seconds);
    } else {
        return;
    }
    core_fail(c, ERR_DEADLINE, &why);
}

void cluster_shutdown(struct coordinator *c, bool abort, const char *reason) {
    for (int w = 0; w < c->options.workers; w++) {
        enum worker_state state = c->members.m[w].state; /* a dead one may still hear it */
        if (state == WORKER_EXPECTED || state == WORKER_LEFT) continue;
        int rc = worker_port_shutdown(c->worker_port, &c->worker_id[w], abort, reason);
        if (rc == ERR_GONE) member_gone(&c->members, w, c->state == CORE_LEAVING);
    }
    c->shutdown_said_us = c->now_us;
    c->moved = true;
}

static int alive(const struct coordinator *c) {
    int n = 0;
    for (int w = 0; w < c->options.workers; w++) n += member_alive(&c->members, w);
    return n;
}

/* Says Shutdown until sending fails: that is how a worker that has left is noticed. */
static void tick_leaving(struct coordinator *c) {
    if (!c->leave_by_us) c->leave_by_us = c->now_us + LEAVE_US;
    if (c->now_us - c->shutdown_said_us >= SHUTDOWN_EVERY_US) cluster_shutdown(c, false, "the cluster ends");
    int left = alive(c);
    if (left && c->now_us < c->leave_by_us) return;
    if (left) log_warn("%d workers did not leave within %d s", left, LEAVE_US / 1000000);
    core_set_state(c, CORE_ENDED);
}

static void say_suspects(struct coordinator *c) {
    for (int w = 0; w < c->options.workers; w++) {
        const struct member *m = &c->members.m[w];
        bool was = c->suspects >> w & 1, is = m->state == WORKER_SUSPECT;
        if (is == was) continue;
        c->suspects ^= UINT64_C(1) << w;
        if (is) {
            log_warn("worker %d (%s pid %" PRIu64 ") is suspect: silent for %.1f s", w, m->host, m->pid,
                     (double)(c->now_us - m->seen_us) / 1e6);
            event_figure(core_event(c, EVENT_WORKER_SUSPECT, w, "%s", m->host), "silent_us", c->now_us - m->seen_us);
        } else if (m->state == WORKER_READY) {
            log_info("worker %d is back", w);
            core_event(c, EVENT_WORKER_BACK, w, "%s", m->host);
        }
    }
}

/* A process that dies closes its connection, which is known long before its lease is over. ZeroMQ says that one has ended, and
 * then, perhaps a little later, refuses to send over it. */
static void probe_all(struct coordinator *c) {
    struct bus_link link;
    bus_get_link(c->worker_bus, &link);
    if (link.lost != c->broken) c->probe_until_us = c->now_us + PROBE_FOR_US;
    c->broken = link.lost;
    if (c->now_us >= c->probe_until_us || c->now_us < c->probe_us) return;
    c->probe_us = c->now_us + PROBE_EVERY_US;
    for (int w = 0; w < c->options.workers && c->state < CORE_LEAVING; w++)
        if (member_alive(&c->members, w)) probe(c, w);
}

/* Whoever came while others began without it: it held on to a coordinator before, and had no part in the last epoch. */
static void welcome_left_over(struct coordinator *c) {
    if (c->options.world || c->state < CORE_PROVING || c->state > CORE_RECOVERING) return;
    for (int w = 0; w < c->options.workers; w++)
        if (c->members.m[w].state == WORKER_CONNECTED) welcome_newcomer(c, w);
}

void cluster_tick(struct coordinator *c) {
    struct why why;
    int rank;
    if (c->state == CORE_LEAVING) return tick_leaving(c);
    if (c->state == CORE_FAILED || c->state == CORE_ENDED) return;
    while ((rank = member_tick(&c->members, c->now_us, &why)) >= 0 && c->state != CORE_FAILED) cluster_lose(c, rank, &why);
    while (member_release(&c->members, c->now_us, &why) >= 0) log_warn("%s", why.text);
    probe_all(c);
    say_suspects(c);
    held_tick(c);
    welcome_left_over(c);
    say_missing(c);
    check_start(c);
    recover_tick(c);
}
