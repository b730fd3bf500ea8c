/* member.c - one table, one function that changes a state. */
#include "coordinator/member.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { STALL_US = 250 * 1000 }; /* ticks further apart than this: the caller stood still */

const char *worker_state_name(enum worker_state s) {
    static const char *const names[] = {"expected", "connected", "loading", "ready", "suspect", "dead", "left"};
    return names[s];
}

static void set_state(struct members *ms, int rank, enum worker_state to) {
    static const bool legal[WORKER_STATES][WORKER_STATES] = {
        [WORKER_EXPECTED] = {[WORKER_CONNECTED] = true},
        [WORKER_CONNECTED] = {[WORKER_EXPECTED] = true, [WORKER_LOADING] = true, [WORKER_DEAD] = true, [WORKER_LEFT] = true},
        [WORKER_LOADING] = {[WORKER_READY] = true, [WORKER_DEAD] = true, [WORKER_LEFT] = true},
        [WORKER_READY] = {[WORKER_SUSPECT] = true, [WORKER_DEAD] = true, [WORKER_LEFT] = true},
        [WORKER_SUSPECT] = {[WORKER_READY] = true, [WORKER_DEAD] = true, [WORKER_LEFT] = true},
    };
    struct member *m = &ms->m[rank];
    if (!legal[m->state][to])
        BUG("worker %d cannot go from %s to %s", rank, worker_state_name(m->state), worker_state_name(to));
    m->state = to;
}

void member_init(struct members *ms, const struct member_limits *l) { *ms = (struct members){.limits = *l}; }

int member_hello(struct members *ms, const struct worker_hello *h, int64_t now_us, struct why *why) {
    if (h->protocol != MEMBER_PROTOCOL)
        return fail(why, ERR_DENIED, "protocol version %u; this coordinator speaks %d: install the same release everywhere",
                    h->protocol, MEMBER_PROTOCOL);
    if (h->size != (uint32_t)ms->limits.workers)
        return fail(why, ERR_DENIED, "started as one of %u workers; this coordinator was started for %d (--workers)", h->size,
                    ms->limits.workers);
    if (h->rank >= h->size) return fail(why, ERR_DENIED, "rank %u of %u workers: ranks count from 0", h->rank, h->size);
    if (ms->limits.fabric[0] && strcmp(h->fabric, ms->limits.fabric))
        return fail(why, ERR_DENIED, "fabric '%s'; this cluster runs '%s' (--fabric)", h->fabric, ms->limits.fabric);
    if (h->address_bytes > MSG_ADDRESS_BYTES)
        return fail(why, ERR_DENIED, "a fabric address of %zu bytes, at most %d", h->address_bytes, MSG_ADDRESS_BYTES);
    struct member *m = &ms->m[h->rank];
    if (m->state == WORKER_CONNECTED && m->pid == h->pid && !strcmp(m->host, h->host)) { /* it lost its connection */
        m->seen_us = now_us;
        return 0;
    }
    if (m->state != WORKER_EXPECTED)
        return fail(why, ERR_DENIED, "rank %u is taken: %s pid %" PRIu64 " has it (%s), this is %s pid %" PRIu64, h->rank,
                    m->host, m->pid, worker_state_name(m->state), h->host, h->pid);
    set_state(ms, (int)h->rank, WORKER_CONNECTED);
    memcpy(m->host, h->host, sizeof m->host);
    memcpy(m->host_id, h->host_id, sizeof m->host_id);
    m->pid = h->pid;
    m->incarnation = ++ms->incarnations;
    m->address_bytes = h->address_bytes;
    if (h->address_bytes) memcpy(m->address, h->address, h->address_bytes);
    m->seen_us = m->moved_us = now_us;
    return 0;
}

static int first_of_host(const struct members *ms, int rank) {
    int first = 0;
    while (strcmp(ms->m[first].host_id, ms->m[rank].host_id)) first++;
    return first;
}

int member_host(const struct members *ms, int rank) {
    int first = first_of_host(ms, rank), hosts = 0;
    for (int i = 0; i < first; i++) hosts += first_of_host(ms, i) == i;
    return hosts;
}

void member_welcomed(struct members *ms, int rank, int64_t now_us) {
    set_state(ms, rank, WORKER_LOADING);
    ms->m[rank].seen_us = ms->m[rank].moved_us = now_us;
}

void member_seen(struct members *ms, int rank, int64_t now_us) {
    ms->m[rank].seen_us = now_us;
    if (ms->m[rank].state == WORKER_SUSPECT) set_state(ms, rank, WORKER_READY);
}

void member_load(struct members *ms, int rank, uint64_t done_bytes, uint64_t total_bytes, int64_t now_us) {
    member_seen(ms, rank, now_us);
    if (done_bytes > total_bytes) done_bytes = total_bytes;
    if (done_bytes != ms->m[rank].done_bytes) ms->m[rank].moved_us = now_us;
    ms->m[rank].done_bytes = done_bytes;
    ms->m[rank].total_bytes = total_bytes;
}

uint32_t member_load_percent(const struct member *m) {
    if (m->state == WORKER_READY || m->state == WORKER_SUSPECT) return 100;
    return m->total_bytes ? (uint32_t)(100.0 * (double)m->done_bytes / (double)m->total_bytes) : 0;
}

int member_ready(struct members *ms, int rank, const struct worker_ready *r, int64_t now_us, struct why *why) {
    struct member *m = &ms->m[rank];
    if (m->state != WORKER_LOADING) return fail(why, ERR_DENIED, "says Ready while it is %s", worker_state_name(m->state));
    if (r->fingerprint != ms->limits.fingerprint)
        return fail(why, ERR_DENIED,
                    "loaded a model with fingerprint %016" PRIx64 "; the coordinator's has %016" PRIx64
                    ": every host needs the same checkpoint",
                    r->fingerprint, ms->limits.fingerprint);
    for (int i = 0; i < ms->limits.workers; i++)
        if ((ms->m[i].state == WORKER_READY || ms->m[i].state == WORKER_SUSPECT) &&
            strcmp(ms->m[i].ready.numeric_class, r->numeric_class))
            return fail(why, ERR_DENIED,
                        "numeric class '%s'; worker %d runs '%s': results would differ, choose one path for all with --isa",
                        r->numeric_class, i, ms->m[i].ready.numeric_class);
    m->ready = *r;
    set_state(ms, rank, WORKER_READY);
    m->seen_us = m->moved_us = now_us;
    m->done_bytes = m->total_bytes;
    return 0;
}

void member_beat(struct members *ms, int rank, uint64_t progress, bool busy, int64_t now_us) {
    struct member *m = &ms->m[rank];
    member_seen(ms, rank, now_us);
    if (m->state != WORKER_LOADING && (!busy || progress != m->progress)) {
        m->moved_us = now_us;
        m->accuses = 0;
    }
    m->progress = progress;
}

void member_accuse(struct members *ms, int rank, uint64_t late, int64_t now_us) {
    member_seen(ms, rank, now_us);
    ms->m[rank].accuses |= late;
}

bool member_alive(const struct members *ms, int rank) {
    return ms->m[rank].state >= WORKER_CONNECTED && ms->m[rank].state <= WORKER_SUSPECT;
}

void member_gone(struct members *ms, int rank, bool in_order) {
    if (member_alive(ms, rank)) set_state(ms, rank, in_order ? WORKER_LEFT : WORKER_DEAD);
}

/* The caller stood still: messages may wait unread, so nobody's silence during that time is known. */
static void forgive_stall(struct members *ms, int64_t now_us) {
    int64_t gap = ms->ticked_us ? now_us - ms->ticked_us : 0;
    ms->ticked_us = now_us;
    if (gap < STALL_US) return;
    for (int i = 0; i < ms->limits.workers; i++) {
        struct member *m = &ms->m[i];
        m->seen_us = m->seen_us + gap < now_us ? m->seen_us + gap : now_us;
        m->moved_us = m->moved_us + gap < now_us ? m->moved_us + gap : now_us;
    }
}

static int condemn(struct members *ms, int rank) {
    set_state(ms, rank, WORKER_DEAD);
    return rank;
}

static int check_lease(struct members *ms, int rank, int64_t now_us, struct why *why) {
    struct member *m = &ms->m[rank];
    bool loading = m->state == WORKER_LOADING;
    int64_t silent = now_us - m->seen_us, dead = loading ? ms->limits.loading_us : ms->limits.dead_us;
    if (m->state == WORKER_CONNECTED) return 0; /* nothing is lost with it yet: member_release */
    if (silent >= dead)
        return fail(why, ERR_GONE, "worker %d (%s pid %" PRIu64 ") is dead: silent for %.1f s%s", rank, m->host, m->pid,
                    (double)silent / 1e6, loading ? " while loading" : "");
    if (silent >= ms->limits.lease_us && m->state == WORKER_READY) set_state(ms, rank, WORKER_SUSPECT);
    return 0;
}

/* Accused while accusing nobody alive, itself standing still: everybody waits for this one. */
static int check_progress(struct members *ms, int rank, int64_t now_us, struct why *why) {
    struct member *m = &ms->m[rank];
    if (m->state != WORKER_READY && m->state != WORKER_SUSPECT) return 0;
    int64_t still = now_us - m->moved_us;
    if (still < ms->limits.progress_us) return 0;
    int accusers = 0, accused_by = -1;
    bool anybody = false;
    for (int i = 0; i < ms->limits.workers; i++) {
        if (ms->m[i].accuses) anybody = true;
        if (ms->m[i].accuses >> rank & 1) accusers++, accused_by = i;
    }
    if (m->accuses || (anybody && !accusers)) return 0;
    char by[64] = "";
    if (accusers == 1) snprintf(by, sizeof by, "; worker %d waits for it", accused_by);
    if (accusers > 1) snprintf(by, sizeof by, "; %d workers wait for it", accusers);
    return fail(why, ERR_LATE, "worker %d (%s pid %" PRIu64 ") is dead: its engine has not moved for %.1f s inside a step%s",
                rank, m->host, m->pid, (double)still / 1e6, by);
}

int member_tick(struct members *ms, int64_t now_us, struct why *why) {
    forgive_stall(ms, now_us);
    for (int i = 0; i < ms->limits.workers; i++)
        if (member_alive(ms, i) && (check_lease(ms, i, now_us, why) < 0 || check_progress(ms, i, now_us, why) < 0))
            return condemn(ms, i);
    /* They all accuse each other in a ring: nobody can be singled out, the first one that stands still long enough goes. */
    for (int i = 0; i < ms->limits.workers; i++) {
        struct member *m = &ms->m[i];
        if (!member_alive(ms, i) || !m->accuses || now_us - m->moved_us < 2 * ms->limits.progress_us) continue;
        fail(why, ERR_LATE, "worker %d (%s pid %" PRIu64 ") is dead: the engines of all workers wait for each other", i,
             m->host, m->pid);
        return condemn(ms, i);
    }
    return -1;
}

int member_release(struct members *ms, int64_t now_us, struct why *why) {
    for (int i = 0; i < ms->limits.workers; i++) {
        struct member *m = &ms->m[i];
        if (m->state != WORKER_CONNECTED || now_us - m->seen_us < ms->limits.dead_us) continue;
        set_state(ms, i, WORKER_EXPECTED);
        fail(why, ERR_GONE,
             "worker %d (%s pid %" PRIu64 ") went before all had come: silent for %.1f s; its rank is free again", i, m->host,
             m->pid, (double)(now_us - m->seen_us) / 1e6);
        return i;
    }
    return -1;
}

int member_count(const struct members *ms, enum worker_state s) {
    int n = 0;
    for (int i = 0; i < ms->limits.workers; i++) n += ms->m[i].state == s;
    return n;
}

bool member_all_ready(const struct members *ms) {
    return member_count(ms, WORKER_READY) + member_count(ms, WORKER_SUSPECT) == ms->limits.workers;
}

void member_list(const struct members *ms, enum worker_state s, char *buf, size_t cap) {
    size_t len = 0;
    buf[0] = 0;
    for (int i = 0; i < ms->limits.workers && len < cap; i++)
        if (ms->m[i].state == s) len += (size_t)snprintf(buf + len, cap - len, "%s%d", len ? ", " : "", i);
}
