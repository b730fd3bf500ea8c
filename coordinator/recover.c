/* recover.c - see recover.h. */
#include "coordinator/recover.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/log.h"
#include "coordinator/core.h"
#include "coordinator/fit.h"

static uint64_t bit(int rank) { return UINT64_C(1) << rank; }
static size_t pairs(const struct coordinator *c) { return (size_t)c->shape.layers * (size_t)c->shape.experts; }

static uint64_t serving(const struct coordinator *c) {
    uint64_t mask = 0;
    for (int w = 0; w < c->options.workers; w++)
        if (member_serves(&c->members, w) && !c->members.m[w].leaving) mask |= bit(w);
    return mask;
}

static uint64_t everybody(const struct coordinator *c) { return c->members.awaited; }

int recover_init(struct coordinator *c) {
    struct recovery *r = &c->recovery;
    size_t bytes = sizeof *r->first * pairs(c);
    r->first = malloc(bytes + 1);
    r->next_hosts = malloc(bytes + 1);
    r->held_by = malloc(bytes + 1);
    if (!r->first || !r->next_hosts || !r->held_by) return ERR_NOMEM;
    memcpy(r->first, c->hosts, bytes);
    return 0;
}

void recover_clear(struct coordinator *c) {
    free(c->recovery.first);
    free(c->recovery.next_hosts);
    free(c->recovery.held_by);
    placement_clear(&c->recovery.next);
}

/* What the next death would mean. */
static void tell_without_one(struct coordinator *c) {
    struct why why = {.text = ""};
    bool alone = __builtin_popcountll(c->recovery.epochs.now.members) < 2;
    if (c->options.world) fail(&why, ERR_EXHAUSTED, "all of them are started again");
    else if (alone) fail(&why, ERR_EXHAUSTED, "there is no other");
    bool fits = !c->options.world && !alone && recover_fits(c, &why) >= 0;
    if (!fits && !alone && strcmp(c->recovery.without_one, why.text))
        log_info("should a worker die, requests wait for another: %s", why.text);
    snprintf(c->recovery.without_one, sizeof c->recovery.without_one, "%s", fits ? "" : why.text);
}

void recover_start(struct coordinator *c) {
    struct epochs *es = &c->recovery.epochs;
    uint32_t incarnation[EPOCH_RANKS] = {0};
    for (int w = 0; w < c->options.workers; w++) incarnation[w] = c->members.m[w].incarnation;
    epoch_init(es, c->members.limits.progress_us);
    es->now.number = c->epoch - 1;
    epoch_open(es, serving(c), incarnation, c->now_us);
    for (int w = 0; w < c->options.workers; w++) epoch_ack(es, w, incarnation[w], c->epoch);
    c->scheduler.members = serving(c);
    if (!c->options.survive) return;
    tell_without_one(c);
}

/* ---- who could hold what ---- */

static int check_fit(const struct coordinator *c, const uint64_t *hosts, uint64_t members, struct why *why) {
    return room_check(c, &c->scheduler.limits, hosts, members, c->recovery.available, why);
}

static int count_slots(const struct coordinator *c, int rank) {
    int n = 0;
    for (size_t i = 0; i < pairs(c); i++) n += (int)(c->hosts[i] >> rank & 1);
    return n;
}

/* Could the members do without this one? Into hosts: what the others would hold. */
static int without(const struct coordinator *c, int rank, uint64_t *hosts, struct why *why) {
    uint64_t others = c->recovery.epochs.now.members & ~bit(rank);
    if (!others) return fail(why, ERR_EXHAUSTED, "there is no other");
    planner_members(&c->shape, c->recovery.first, c->hosts, others, hosts);
    return check_fit(c, hosts, others, why);
}

/* Without the one that holds most: what it has is more than any other would leave. */
int recover_fits(const struct coordinator *c, struct why *why) {
    uint64_t all = c->recovery.epochs.now.members, *hosts = malloc(sizeof *hosts * (pairs(c) + 1));
    int most = __builtin_ctzll(all);
    if (!hosts) return fail(why, ERR_NOMEM, "out of memory for a placement");
    for (uint64_t left = all; left; left &= left - 1)
        if (count_slots(c, __builtin_ctzll(left)) > count_slots(c, most)) most = __builtin_ctzll(left);
    int rc = without(c, most, hosts, why);
    free(hosts);
    return rc;
}

void recover_share(const struct coordinator *c, int rank, uint64_t *hosts) {
    planner_members(&c->shape, c->recovery.first, c->hosts, serving(c) | bit(rank), hosts);
}

/* ---- an epoch ---- */

static int tell_epoch(struct coordinator *c) {
    const struct epoch *e = &c->recovery.epochs.next;
    struct worker_peer peers[MSG_MAX_WORKERS];
    cluster_peers(c, e->members, peers);
    struct worker_epoch m = {.number = e->number,
                             .workers = (uint32_t)c->options.workers,
                             .peers = peers,
                             .held_by = cluster_holders(c),
                             .placement = {.version = c->recovery.next.version,
                                           .workers = (uint32_t)c->options.workers,
                                           .layers = (uint32_t)c->shape.layers,
                                           .experts = (uint32_t)c->shape.experts,
                                           .hosts = c->recovery.next_hosts}};
    c->moved = true;
    for (int w = 0; w < c->options.workers; w++) {
        if (!(e->members >> w & 1)) continue;
        int rc = worker_port_epoch(c->worker_port, &c->worker_id[w], &m);
        if (rc < 0) return cluster_unreachable(c, w, rc), rc;
    }
    return 0;
}

/* Also before every worker has shown that it can. */
static bool needs_all(const struct coordinator *c) { return c->options.world || c->proof.left; }

static int place(struct coordinator *c, uint64_t members, struct why *why) {
    struct recovery *r = &c->recovery;
    const struct planner_shape *s = &c->shape;
    uint32_t version = r->next.version > c->placement.version ? r->next.version : c->placement.version;
    if (!members) return fail(why, ERR_GONE, "nobody is left; the last one: %s", r->why.text);
    if (needs_all(c) && members != everybody(c)) return fail(why, ERR_GONE, "all workers must be there");
    int rc = room_find(c, why);
    if (rc < 0) return rc;
    planner_members(s, r->first, c->hosts, members, r->next_hosts);
    rc = check_fit(c, r->next_hosts, members, why);
    if (rc < 0) return rc;
    placement_clear(&r->next);
    rc = placement_partial(&r->next, s->workers, s->layers, s->experts, r->next_hosts, why);
    r->next.version = version + 1;
    return rc;
}

static bool keep_leaving(struct coordinator *c) {
    bool some = false;
    for (int w = 0; w < c->options.workers; w++) {
        some |= c->members.m[w].leaving;
        c->members.m[w].leaving = false;
    }
    return some;
}

static void open_epoch(struct coordinator *c) {
    struct recovery *r = &c->recovery;
    uint64_t members = serving(c);
    uint32_t incarnation[EPOCH_RANKS] = {0};
    struct why why;
    r->due = false;
    for (int w = 0; w < c->options.workers; w++) incarnation[w] = c->members.m[w].incarnation;
    scheduler_void(&c->scheduler, members);
    r->void_step = c->scheduler.committed;
    member_anew(&c->members, c->now_us);
    int rc = place(c, members, &why);
    if (rc < 0 && keep_leaving(c)) return open_epoch(c); /* they are needed after all */
    bool waited = r->waits;
    r->waits = rc < 0;
    if (rc < 0) {
        if (!waited) log_warn("requests wait for a worker to come back: %s", why.text);
        if (!waited) core_event(c, EVENT_WAITING, -1, "requests wait for a worker to come back: %s", why.text);
        if (!waited || members) r->why = why; /* who was the last one is said once */
        return;
    }
    epoch_open(&r->epochs, members, incarnation, c->now_us);
    r->opened_us = clk_now_us();
    memset(r->blobs, 0, sizeof r->blobs);
    struct event *e = core_event(c, EVENT_EPOCH_OPENED, -1, "epoch %u is prepared", r->epochs.next.number);
    event_figure(e, "workers", __builtin_popcountll(members));
    tell_epoch(c);
}

void recover_tell_blobs(struct event *e, const struct blob_count *blobs) {
    static const char *const names[BLOB_PLACES][3] = {[BLOBS_OF_PACK] = {"pack_blobs", "pack_bytes", "pack_us"},
                                                      [BLOBS_OF_PEERS] = {"peer_blobs", "peer_bytes", "peer_us"},
                                                      [BLOBS_OF_DISK] = {"disk_blobs", "disk_bytes", "disk_us"}};
    for (int k = 0; k < BLOB_PLACES; k++) {
        event_figure(e, names[k][0], (int64_t)blobs[k].blobs);
        event_figure(e, names[k][1], (int64_t)blobs[k].bytes);
        event_figure(e, names[k][2], (int64_t)blobs[k].us);
    }
    event_figure(e, "source_failures", (int64_t)(blobs[BLOBS_OF_PACK].failed + blobs[BLOBS_OF_PEERS].failed));
}

static void say_members(struct coordinator *c) {
    char ranks[256] = "";
    const struct recovery *r = &c->recovery;
    size_t n = 0;
    for (int w = 0; w < c->options.workers && n < sizeof ranks; w++)
        if (r->epochs.now.members >> w & 1) n += (size_t)snprintf(ranks + n, sizeof ranks - n, "%s%d", n ? ", " : "", w);
    log_info("epoch %u: workers %s of %d", r->epochs.now.number, ranks, c->options.workers);
    struct event *e =
        core_event(c, EVENT_EPOCH_BEGUN, -1, "epoch %u: workers %s of %d", r->epochs.now.number, ranks, c->options.workers);
    event_figure(e, "placement", c->placement.version);
    recover_tell_blobs(e, r->blobs);
}

/* All answers go on. */
static void tell_times(struct coordinator *c) {
    struct recovery *r = &c->recovery;
    struct recovery_report *p = &r->report;
    p->detect_us = (uint64_t)(r->lost_us - r->silent_us);
    p->decide_us = (uint64_t)(r->opened_us - r->lost_us);
    p->reload_us = (uint64_t)(r->begun_us - r->opened_us);
    p->first_step_us = (uint64_t)(r->stepped_us - r->begun_us);
    p->recompute_us = (uint64_t)(clk_now_us() - r->stepped_us);
    log_info("recovered: found dead after %.0f ms, decided in %.1f ms, loaded in %.0f ms, first step after %.0f ms, all "
             "answers went on %.0f ms later; nobody had a token for %.0f ms",
             (double)p->detect_us / 1e3, (double)p->decide_us / 1e3, (double)p->reload_us / 1e3, (double)p->first_step_us / 1e3,
             (double)p->recompute_us / 1e3, (double)(r->stepped_us - r->silent_us) / 1e3);
    struct event *e = core_event(c, EVENT_RECOVERED, -1, "epoch %u: all answers go on", c->epoch);
    event_figure(e, "detect_us", (int64_t)p->detect_us);
    event_figure(e, "decide_us", (int64_t)p->decide_us);
    event_figure(e, "reload_us", (int64_t)p->reload_us);
    event_figure(e, "first_step_us", (int64_t)p->first_step_us);
    event_figure(e, "recompute_us", (int64_t)p->recompute_us);
    event_figure(e, "silent_us", r->stepped_us - r->silent_us);
    r->lost_us = 0;
}

/* Those that were asked to, and that the epoch that begins does without. */
static void send_home(struct coordinator *c) {
    for (int w = 0; w < c->options.workers; w++) {
        struct member *m = &c->members.m[w];
        if (!m->leaving || c->recovery.epochs.now.members >> w & 1) continue;
        log_info("worker %d leaves", w);
        core_event(c, EVENT_WORKER_LEFT, w, "%s", m->host);
        worker_port_shutdown(c->worker_port, &c->worker_id[w], false, "it was asked to leave");
        member_gone(&c->members, w, true);
        m->leaving = false;
    }
}

static void begin_epoch(struct coordinator *c) {
    struct recovery *r = &c->recovery;
    struct placement was = c->placement;
    memcpy(c->hosts, r->next_hosts, sizeof *c->hosts * pairs(c));
    c->placement = r->next;
    r->next = (struct placement){0};
    placement_clear(&was);
    c->epoch = r->epochs.now.number;
    cluster_count_hosts(c, r->epochs.now.members);
    r->stepped = false;
    r->begun_us = clk_now_us();
    r->stepped_us = 0;
    for (int w = 0; w < c->options.workers; w++) c->watches.counted_at[w] = c->scheduler.committed; /* void */
    core_set_state(c, c->proof.left ? CORE_PROVING : CORE_SERVING);
    say_members(c);
    for (int w = 0; w < c->options.workers; w++) {
        if (!(r->epochs.now.members >> w & 1)) continue;
        int rc = worker_port_switch(c->worker_port, &c->worker_id[w], c->epoch);
        if (rc < 0) cluster_unreachable(c, w, rc);
    }
    send_home(c);
}

/* ---- events ---- */

static bool is_under_way(const struct coordinator *c) { return c->state >= CORE_PROVING && c->state <= CORE_DRAINING; }

/* Serve, and are not in the present epoch: its member of the same rank was another. */
static uint64_t newcomers(const struct coordinator *c) {
    const struct epoch *now = &c->recovery.epochs.now;
    uint64_t mask = 0;
    for (uint64_t left = serving(c); left; left &= left - 1) {
        int w = __builtin_ctzll(left);
        if (!(now->members >> w & 1) || now->incarnation[w] != c->members.m[w].incarnation) mask |= bit(w);
    }
    return mask;
}

static void ask_for_epoch(struct coordinator *c) {
    c->recovery.due = true;
    if (c->state != CORE_RECOVERING) core_set_state(c, CORE_RECOVERING); /* drains again after it */
}

void recover_replaced(struct coordinator *c) {
    if (c->recovery.replaced && is_under_way(c)) ask_for_epoch(c);
    c->recovery.replaced = 0;
}

/* Nobody has begun to work, so nothing is lost but what it has loaded. */
static void lost_at_start(struct coordinator *c, int rank, const struct why *why) {
    log_warn("%s; another may come", why->text);
    bool others = member_count(&c->members, WORKER_LOADING) + member_count(&c->members, WORKER_READY) > 0;
    c->recovery.replaced = others ? c->recovery.replaced | bit(rank) : 0; /* nobody: all are told anew */
    member_forget(&c->members, rank);
}

static void lose_world(struct coordinator *c, int rank) {
    char reason[64];
    snprintf(reason, sizeof reason, "worker %d is dead, and all stand and fall together", rank);
    for (int w = 0; w < c->options.workers; w++) {
        if (!member_alive(&c->members, w)) continue;
        worker_port_shutdown(c->worker_port, &c->worker_id[w], true, reason);
        core_event(c, EVENT_WORKER_DEAD, w, "%s", reason);
        member_gone(&c->members, w, false);
        if (c->state == CORE_LOADING) member_forget(&c->members, w);
    }
}

int recover_drain(struct coordinator *c, int rank, struct why *why) {
    uint64_t *hosts = malloc(sizeof *hosts * (pairs(c) + 1));
    int rc = hosts ? 0 : fail(why, ERR_NOMEM, "out of memory for a placement");
    if (!c->options.survive)
        rc = fail(why, ERR_UNSUPPORTED, "the workers of this cluster stand and fall together (--on-death)");
    else if (c->state != CORE_SERVING) rc = fail(why, ERR_AGAIN, "not now: the cluster is not serving");
    else if (rank < 0 || rank >= c->options.workers || !(c->recovery.epochs.now.members >> rank & 1) ||
             c->members.m[rank].leaving)
        rc = fail(why, ERR_NOT_FOUND, "there is no worker %d that could leave", rank);
    if (rc >= 0) rc = without(c, rank, hosts, why);
    free(hosts);
    if (rc < 0) return rc;
    log_info("worker %d is asked to leave", rank);
    core_event(c, EVENT_WORKER_LEAVES, rank, "%s", c->members.m[rank].host);
    c->members.m[rank].leaving = true;
    ask_for_epoch(c);
    return 0;
}

bool recover_lost(struct coordinator *c, int rank, const struct why *why) {
    struct recovery *r = &c->recovery;
    uint64_t taking_part = r->epochs.now.members | (r->epochs.state == EPOCH_PREPARING ? r->epochs.next.members : 0);
    if (!c->options.survive || (c->state != CORE_LOADING && !is_under_way(c))) return false;
    if (c->options.world) lose_world(c, rank);
    if (c->state == CORE_LOADING) return lost_at_start(c, rank, why), true;
    log_warn("%s", why->text);
    if (!(taking_part >> rank & 1)) return true; /* a newcomer */
    r->why = *why;
    r->report.deaths++;
    if (!r->lost_us) {
        r->lost_us = clk_now_us();
        bool owed = c->scheduler.planned != c->scheduler.committed && r->committed_us; /* it may have said that it lives */
        r->silent_us = owed && r->committed_us < c->members.m[rank].seen_us ? r->committed_us : c->members.m[rank].seen_us;
    }
    ask_for_epoch(c);
    return true;
}

static void add_blobs(struct blob_count *sum, const struct blob_count *one) {
    for (int k = 0; k < BLOB_PLACES; k++) {
        sum[k].blobs += one[k].blobs;
        sum[k].bytes += one[k].bytes;
        sum[k].failed += one[k].failed;
        if (one[k].us > sum[k].us) sum[k].us = one[k].us;
    }
}

void recover_prepared(struct coordinator *c, int rank, const struct worker_msg *said) {
    struct member *m = &c->members.m[rank];
    member_seen(&c->members, rank, c->now_us);
    m->ready.weight_bytes = said->prepared.weight_bytes;
    m->ready.mapped_bytes = said->prepared.mapped_bytes;
    add_blobs(m->ready.blobs, said->prepared.blobs);
    if (c->state != CORE_RECOVERING || c->recovery.due) return;
    if (said->prepared.number == c->recovery.epochs.next.number) add_blobs(c->recovery.blobs, said->prepared.blobs);
    if (epoch_ack(&c->recovery.epochs, rank, m->incarnation, said->prepared.number) == 1) begin_epoch(c);
}

void recover_committed(struct coordinator *c) {
    struct recovery *r = &c->recovery;
    r->stepped = true;
    r->committed_us = c->now_us;
    if (!r->lost_us) return;
    if (!r->stepped_us) r->stepped_us = clk_now_us();
    if (!scheduler_is_behind(&c->scheduler, r->void_step)) tell_times(c);
}

/* Loading counts as moving: members that do are not late. */
static int late_member(const struct coordinator *c) {
    const struct epochs *es = &c->recovery.epochs;
    for (uint64_t late = epoch_late(es, c->now_us); late; late &= late - 1) {
        int w = __builtin_ctzll(late);
        if (c->now_us - c->members.m[w].moved_us >= es->ack_us) return w;
    }
    return -1;
}

static void check_late(struct coordinator *c) {
    struct why why;
    for (int w; c->state == CORE_RECOVERING && !c->recovery.due && !c->recovery.waits && (w = late_member(c)) >= 0;) {
        const struct member *m = &c->members.m[w];
        fail(&why, ERR_LATE, "worker %d (%s pid %" PRIu64 ") is dead: it has not prepared epoch %u, and loads nothing", w,
             m->host, m->pid, c->recovery.epochs.next.number);
        cluster_lose(c, w, &why);
    }
}

void recover_tick(struct coordinator *c) {
    struct recovery *r = &c->recovery;
    if (!is_under_way(c)) return;
    check_late(c);
    if (c->state != CORE_RECOVERING && scheduler_idle(&c->scheduler)) r->lost_us = 0; /* nobody waits for a first step */
    bool idle = r->stepped || scheduler_idle(&c->scheduler);
    bool steady = c->state == CORE_RECOVERING ? r->waits : idle;
    if (steady && newcomers(c)) ask_for_epoch(c);
    while (r->due && is_under_way(c)) open_epoch(c);
}
