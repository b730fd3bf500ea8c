/* welcome.c - workers come (Hello, or Seat when nobody gave them a rank), are told what to load (Welcome) and have (Ready).
 *
 * The first are welcomed together: what one must hold depends on who is there, and nobody loads for a cluster that cannot be.
 * Later ones come in the place of those that died. One that must not be trusted with this cluster is told why (Refuse). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/core.h"
#include "coordinator/recall.h"

enum { MISSING_EVERY_US = 5 * 1000 * 1000 };

static void refuse(struct coordinator *c, const struct bus_id *id, const char *reason) {
    worker_port_refuse(c->worker_port, id, reason);
    c->moved = true;
}

static void welcome_one(struct coordinator *c, int rank, const struct worker_peer *peers, const uint64_t *hosts) {
    const struct scheduler_limits *l = &c->scheduler.limits;
    struct worker_welcome w = {.epoch = c->epoch,
                               .incarnation = peers[rank].incarnation,
                               .model_dir = c->options.model_dir,
                               .weights = fmt_name(c->weights),
                               .kv = fmt_name(c->kv),
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
    int rc = room_find(c, why);
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

void welcome_all(struct coordinator *c) {
    struct why why;
    uint64_t awaited = c->members.awaited;
    bool first = c->state == CORE_LOADING;
    int held = held_count(c);
    if (first) c->recovery.available = held ? 0 : room_available(c); /* they have what they need already */
    int rc = first ? place_awaited(c, &why) : 0;
    if (rc >= 0 && first) rc = room_check(c, &c->scheduler.limits, c->hosts, awaited, c->recovery.available, &why);
    if (rc < 0) return core_fail(c, rc, &why);
    struct worker_peer peers[MSG_MAX_WORKERS];
    cluster_count_hosts(c, awaited);
    cluster_peers(c, awaited, peers);
    log_info("all %d workers are here%s, loading %s as %s", __builtin_popcountll(awaited), held ? " again" : "", c->model_name,
             fmt_name(c->weights));
    for (uint64_t left = awaited; left; left &= left - 1) {
        int w = __builtin_ctzll(left);
        if (c->members.m[w].state == WORKER_CONNECTED) welcome_one(c, w, peers, c->hosts);
    }
}

/* In the place of one that died; the others hear of it when it is ready. */
static void welcome_newcomer(struct coordinator *c, int rank) {
    struct worker_peer peers[MSG_MAX_WORKERS];
    uint64_t *hosts = malloc(sizeof *hosts * ((size_t)c->shape.layers * (size_t)c->shape.experts + 1));
    struct why why;
    if (!hosts || room_find(c, &why) < 0) {
        free(hosts);
        return cluster_unreachable(c, rank, ERR_NOMEM);
    }
    if (c->state == CORE_LOADING) memcpy(hosts, c->hosts, sizeof *hosts * (size_t)c->shape.layers * (size_t)c->shape.experts);
    else recover_share(c, rank, hosts);
    cluster_peers(c, UINT64_C(1) << rank, peers);
    welcome_one(c, rank, peers, hosts);
    free(hosts);
}

/* Whoever came while others began without it: it held on to a coordinator before, and had no part in the last epoch. */
static void welcome_waiting(struct coordinator *c) {
    if (c->options.world || c->state < CORE_PROVING || c->state > CORE_RECOVERING) return;
    for (int w = 0; w < c->options.workers; w++)
        if (c->members.m[w].state == WORKER_CONNECTED) welcome_newcomer(c, w);
}

static int admit(struct coordinator *c, const struct worker_hello *h, struct why *why) {
    bool known = h->rank < (uint32_t)c->options.workers;
    if (known && member_alive(&c->members, (int)h->rank))
        cluster_probe(c, (int)h->rank); /* it may come in the place of a dead one */
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

void welcome_hello(struct coordinator *c, const struct bus_id *id, const struct worker_hello *h) {
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
    recall_joined(c);
    log_info("worker %u is here (%s pid %" PRIu64 ")", h->rank, h->host, h->pid);
    event_figure(core_event(c, EVENT_WORKER_HERE, (int)h->rank, "%s", h->host), "pid", (int64_t)h->pid);
    bool begins = c->state == CORE_LOADING || c->options.world;
    if (begins && all_connected(c)) welcome_all(c);
    else if (!c->options.world && (c->state != CORE_LOADING || c->recovery.replaced >> h->rank & 1))
        welcome_newcomer(c, (int)h->rank);
}

/* One that nobody gave a rank. While the first are awaited it is one of them, or has to wait until they work. */
void welcome_seat(struct coordinator *c, const struct bus_id *id, const struct worker_hello *h) {
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

void welcome_ready(struct coordinator *c, int rank, const struct worker_ready *r) {
    struct why why;
    int rc = member_ready(&c->members, rank, r, c->now_us, &why);
    if (rc < 0) {
        refuse(c, &c->worker_id[rank], why.text);
        fail_in(&why, rc, "worker %d", rank);
        if (c->state != CORE_LOADING) return cluster_lose(c, rank, &why);
        return core_fail(c, rc, &why);
    }
    if (c->options.inside.bytes_per_us <= 0) c->steps.hops.inside = hops_slower(c->steps.hops.inside, r->inside);
    if (c->options.between.bytes_per_us <= 0) c->steps.hops.between = hops_slower(c->steps.hops.between, r->between);
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

void welcome_tick(struct coordinator *c) {
    welcome_waiting(c);
    say_missing(c);
    check_start(c);
}
