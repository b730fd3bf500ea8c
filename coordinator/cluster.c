/* cluster.c - the workers as a whole: what they say goes to who minds it, and they are watched (Beat, Trouble, silence).
 * How they come: welcome.c; what they compute: steps.c; what follows from a death: recover.h. */
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "coordinator/core.h"

enum {
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

void cluster_condemn(struct coordinator *c, int rank, int rc, const struct why *why) {
    core_event(c, EVENT_WORKER_DEAD, rank, "%s", why->text);
    member_gone(&c->members, rank, false);
    bool hopeless = c->state == CORE_LOADING && rc != ERR_GONE; /* another would do the same */
    if (c->state != CORE_LEAVING && (hopeless || !recover_lost(c, rank, why))) core_fail(c, rc, why);
}

void cluster_lose(struct coordinator *c, int rank, const struct why *why) {
    if (c->state != CORE_LEAVING) return cluster_condemn(c, rank, ERR_GONE, why);
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

/* ---- what they are told of each other ---- */

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
    c->steps.hops.hosts = __builtin_popcountll(hosts);
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
    cluster_condemn(c, rank, rc, &why);
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
    case WORKER_IS_READY: welcome_ready(c, rank, &m->ready); return;
    case WORKER_STEP_DONE: steps_done(c, rank, &m->done); return;
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
            cluster_condemn(c, rank, rc, &why);
        } else if (rank >= 0) {
            on_message(c, rank, &m);
        } else if (m.kind == WORKER_HELLO) {
            welcome_hello(c, &from, &m.hello);
        } else if (m.kind == WORKER_SEAT) {
            welcome_seat(c, &from, &m.hello);
        } else {
            c->noise++;
            if (c->options.survive && c->state != CORE_LOADING) /* it was declared dead, and may not know */
                worker_port_shutdown(c->worker_port, &from, true, "this worker was taken for dead; start it again");
        }
    }
}

/* ---- time ---- */
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

void cluster_probe(struct coordinator *c, int rank) {
    int rc = worker_port_beat(c->worker_port, &c->worker_id[rank]);
    c->moved = true;
    if (rc == ERR_GONE) cluster_unreachable(c, rank, rc);
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
        if (member_alive(&c->members, w)) cluster_probe(c, w);
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
    welcome_tick(c);
    recover_tick(c);
}
