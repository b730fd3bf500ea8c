/* member.c - one table, one function that changes a state. */
#include "coordinator/member.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LAST_EPOCH (UINT32_MAX / 2) /* what a worker says it has heard of, and numbers still go on from */
#define LAST_STEP  (UINT64_MAX / 2)
enum {
    STALL_US = 250 * 1000, /* ticks further apart than this: the caller stood still */
    /* A lease is what a worker's peers and clients are promised, from its last sign of life to the verdict being out: so the
     * verdict falls a tenth of it early. At the default lease four beats in a row must be missing then. */
    VERDICT_TENTHS = 9,
    SEAT_US = 10 * 1000 * 1000, /* to open a fabric, and say Hello */
    GATHER_PART = 4 /* of the patience: for so long an accusation stands before it is judged, for others to join in */
};

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
        [WORKER_DEAD] = {[WORKER_EXPECTED] = true},
        [WORKER_LEFT] = {[WORKER_EXPECTED] = true},
    };
    struct member *m = &ms->m[rank];
    if (!legal[m->state][to])
        BUG("worker %d cannot go from %s to %s", rank, worker_state_name(m->state), worker_state_name(to));
    m->state = to;
}

void member_init(struct members *ms, const struct member_limits *l) {
    *ms = (struct members){.limits = *l, .patience_us = l->patience_us};
    ms->awaited = UINT64_MAX >> (64 - (l->first ? l->first : l->workers));
}

/* Its incarnation was given in an earlier life of this cluster, and nobody else has it. */
static bool is_ours(const struct members *ms, const struct worker_hello *h) {
    for (int i = 0; i < ms->limits.workers; i++)
        if (ms->m[i].incarnation == h->held_incarnation) return false;
    return h->held_incarnation <= ms->earlier;
}

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
    if (h->held_incarnation && !is_ours(ms, h))
        return fail(why, ERR_DENIED, "it is of a cluster of which nothing is known here (--journal); start it again");
    if (h->held_incarnation && (h->held_epoch >= LAST_EPOCH || h->held_step >= LAST_STEP))
        return fail(why, ERR_DENIED, "it has heard of epoch %" PRIu32 " and step %" PRIu64 ", which no cluster reaches",
                    h->held_epoch, h->held_step);
    set_state(ms, (int)h->rank, WORKER_CONNECTED);
    memcpy(m->host, h->host, sizeof m->host);
    memcpy(m->host_id, h->host_id, sizeof m->host_id);
    m->pid = h->pid;
    m->memory = h->memory;
    ms->seat[h->rank].until_us = 0;
    m->held = h->held_incarnation != 0;
    m->incarnation = m->held ? h->held_incarnation : ++ms->incarnations;
    m->address_bytes = h->address_bytes;
    if (h->address_bytes) memcpy(m->address, h->address, h->address_bytes);
    memcpy(m->door, h->door, sizeof m->door);
    m->moved = 0;
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
    if (ms->numeric_class[0] && strcmp(ms->numeric_class, r->numeric_class))
        return fail(why, ERR_DENIED,
                    "numeric class '%s'; this cluster runs '%s': results would differ, choose one path for all with --isa",
                    r->numeric_class, ms->numeric_class);
    memcpy(ms->numeric_class, r->numeric_class, sizeof ms->numeric_class);
    m->ready = *r;
    m->ready.held = NULL; /* the message's */
    m->ready.n_held = 0;
    set_state(ms, rank, WORKER_READY);
    m->seen_us = m->moved_us = now_us;
    m->done_bytes = m->total_bytes;
    return 0;
}

static void moved(struct member *m, int64_t now_us) {
    m->moved_us = now_us;
    m->accuses = 0;
}

void member_planned(struct members *ms, int rank, int64_t now_us) {
    if (!ms->m[rank].owes++ && !ms->m[rank].busy) ms->m[rank].moved_us = now_us;
}

void member_done(struct members *ms, int rank, int64_t now_us) {
    struct member *m = &ms->m[rank];
    member_seen(ms, rank, now_us);
    moved(m, now_us);
    if (m->owes) m->owes--;
}

void member_beat(struct members *ms, int rank, uint64_t progress, bool busy, int64_t now_us) {
    struct member *m = &ms->m[rank];
    member_seen(ms, rank, now_us);
    if (m->state != WORKER_LOADING && (busy != m->busy || progress != m->progress)) moved(m, now_us);
    m->busy = busy;
    m->progress = progress;
}

void member_accuse(struct members *ms, int rank, uint64_t late, uint64_t at, int64_t now_us) {
    struct member *m = &ms->m[rank];
    member_seen(ms, rank, now_us);
    if (late && !m->accuses) m->accuses_us = now_us;
    m->accuses |= late;
    m->at = at;
}

void member_anew(struct members *ms, int64_t now_us) {
    for (int i = 0; i < ms->limits.workers; i++) {
        ms->m[i].accuses = 0;
        ms->m[i].owes = 0;
        if (member_serves(ms, i)) ms->m[i].moved_us = now_us;
    }
    ms->patience_us = ms->limits.patience_us;
}

void member_patience(struct members *ms, int64_t patience_us) {
    ms->patience_us = patience_us > ms->limits.patience_us ? patience_us : ms->limits.patience_us;
}

bool member_serves(const struct members *ms, int rank) {
    return ms->m[rank].state == WORKER_READY || ms->m[rank].state == WORKER_SUSPECT;
}

bool member_alive(const struct members *ms, int rank) {
    return ms->m[rank].state >= WORKER_CONNECTED && ms->m[rank].state <= WORKER_SUSPECT;
}

void member_gone(struct members *ms, int rank, bool in_order) {
    if (member_alive(ms, rank)) set_state(ms, rank, in_order ? WORKER_LEFT : WORKER_DEAD);
}

void member_forget(struct members *ms, int rank) {
    set_state(ms, rank, WORKER_EXPECTED);
    ms->m[rank] = (struct member){.state = WORKER_EXPECTED};
}

/* ---- deadlines ---- */

/* The caller stood still: messages may wait unread, so nobody's silence during that time is known. */
static void forgive_stall(struct members *ms, int64_t now_us) {
    int64_t gap = ms->ticked_us ? now_us - ms->ticked_us : 0;
    ms->ticked_us = now_us;
    if (gap < STALL_US) return;
    for (int i = 0; i < ms->limits.workers; i++) {
        struct member *m = &ms->m[i];
        m->seen_us = m->seen_us + gap < now_us ? m->seen_us + gap : now_us;
        m->moved_us = m->moved_us + gap < now_us ? m->moved_us + gap : now_us;
        m->accuses_us = m->accuses_us + gap < now_us ? m->accuses_us + gap : now_us;
    }
}

static int64_t verdict_us(const struct members *ms) { return ms->limits.lease_us * VERDICT_TENTHS / 10; }
static int64_t suspect_us(const struct members *ms) { return ms->limits.lease_us / 2; }

/* What the others waited for is void with it, so no one else is judged by that. */
static int condemn(struct members *ms, int rank, int64_t now_us) {
    member_anew(ms, now_us);
    set_state(ms, rank, WORKER_DEAD);
    return rank;
}

static int check_lease(struct members *ms, int rank, int64_t now_us, struct why *why) {
    struct member *m = &ms->m[rank];
    bool loading = m->state == WORKER_LOADING;
    int64_t silent = now_us - m->seen_us, dead = loading ? ms->limits.loading_us : verdict_us(ms);
    if (m->state == WORKER_CONNECTED) return 0; /* nothing is lost with it yet: member_release */
    if (silent >= dead)
        return fail(why, ERR_GONE, "worker %d (%s pid %" PRIu64 ") is dead: silent for %.2f s%s", rank, m->host, m->pid,
                    (double)silent / 1e6, loading ? " while loading" : "");
    if (silent >= suspect_us(ms) && m->state == WORKER_READY) set_state(ms, rank, WORKER_SUSPECT);
    return 0;
}

/* Inside a step, and still for so long that it can be no plan's intent, though nobody waits for anybody. */
static int check_progress(const struct members *ms, int rank, int64_t now_us, struct why *why) {
    const struct member *m = &ms->m[rank];
    int64_t still = now_us - m->moved_us,
            longest = 2 * ms->patience_us, /* by then its peers would have said that they wait, if they did */
        limit = ms->limits.progress_us > longest ? ms->limits.progress_us : longest;
    if (!member_serves(ms, rank) || !(m->busy || m->owes) || still < limit) return 0;
    for (int i = 0; i < ms->limits.workers; i++)
        if (member_serves(ms, i) && ms->m[i].accuses) return 0;
    return fail(why, ERR_LATE, "worker %d (%s pid %" PRIu64 ") is dead: its engine has not moved for %.1f s inside a step",
                rank, m->host, m->pid, (double)still / 1e6);
}

/* It has answered every plan: who waits for it waits for what has left it and did not come. */
static bool has_done_all(const struct member *m) { return !m->busy && !m->owes; }

static uint64_t serving(const struct members *ms) {
    uint64_t ranks = 0;
    for (int i = 0; i < ms->limits.workers; i++) ranks |= (uint64_t)member_serves(ms, i) << i;
    return ranks;
}

/* reach[i] = everyone of `ranks` whom worker i waits for, directly or through others who wait themselves. */
static void make_reach(const struct members *ms, uint64_t ranks, uint64_t *reach) {
    int n = ms->limits.workers;
    for (int i = 0; i < n; i++) reach[i] = member_serves(ms, i) ? ms->m[i].accuses & ranks & ~(UINT64_C(1) << i) : 0;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < n; i++)
            if (reach[i] >> k & 1) reach[i] |= reach[k];
}

/* All whom i reaches reach i: its own waiting, if it does wait, leads to nobody who would be the better suspect. */
static bool is_terminal(const struct members *ms, const uint64_t *reach, int i) {
    for (int j = 0; j < ms->limits.workers; j++)
        if (reach[i] >> j & 1 && !(reach[j] >> i & 1)) return false;
    return true;
}

static int count_accusers(const struct members *ms, int rank, int *last) {
    int n = 0;
    for (int i = 0; i < ms->limits.workers; i++) {
        if (i == rank || !member_serves(ms, i) || !(ms->m[i].accuses >> rank & 1)) continue;
        n++;
        *last = i;
    }
    return n;
}

/* Since when anybody waits for one of the ring. */
static int64_t accused_since_us(const struct members *ms, uint64_t ring) {
    int64_t since_us = INT64_MAX;
    for (int i = 0; i < ms->limits.workers; i++)
        if (member_serves(ms, i) && ms->m[i].accuses & ring & ~(UINT64_C(1) << i) && ms->m[i].accuses_us < since_us)
            since_us = ms->m[i].accuses_us;
    return since_us;
}

static bool other_host(const struct members *ms, int a, int b) { return strcmp(ms->m[a].host_id, ms->m[b].host_id) != 0; }

/* A neighbour may be to pass on what comes from another host, and waits for that where its own neighbours wait for it. */
static bool may_relay(const struct members *ms, int from, int to) {
    const struct member *m = &ms->m[from];
    if (m->at != ms->m[to].at || other_host(ms, from, to)) return false;
    for (int i = 0; i < ms->limits.workers; i++)
        if (m->accuses >> i & 1 && member_serves(ms, i) && other_host(ms, from, i)) return true;
    return false;
}

/* One waits for the other who is no less far, and so must have sent what is missing: the link does not do its work. Who waits
 * for one that is behind waits rightly. */
static bool is_broken(const struct members *ms, int from, int to) {
    const struct member *m = &ms->m[from];
    if (!(ms->m[to].accuses >> from & 1)) return false;
    return has_done_all(m) || (m->at >= ms->m[to].at && !may_relay(ms, from, to));
}

static bool at_broken_link(const struct members *ms, int rank) {
    for (int i = 0; i < ms->limits.workers; i++)
        if (i != rank && member_serves(ms, i) && (is_broken(ms, i, rank) || is_broken(ms, rank, i))) return true;
    return false;
}

struct blame {
    uint64_t waits[MSG_MAX_WORKERS]; /* reach among those who have not done all */
    uint64_t ring[MSG_MAX_WORKERS];  /* who waits for each other with this one, or would but for having done all; itself */
};

static void make_blame(const struct members *ms, struct blame *b) {
    uint64_t reach[MSG_MAX_WORKERS], ranks = serving(ms), idle = 0;
    for (int i = 0; i < ms->limits.workers; i++) idle |= (uint64_t)has_done_all(&ms->m[i]) << i;
    make_reach(ms, ranks, reach);
    make_reach(ms, ranks & ~idle, b->waits);
    for (int i = 0; i < ms->limits.workers; i++) {
        b->ring[i] = UINT64_C(1) << i;
        for (int j = 0; j < ms->limits.workers; j++) {
            bool to = reach[i] >> j & 1, from = reach[j] >> i & 1;
            if ((to && (from || idle >> j & 1)) || (from && idle >> i & 1)) b->ring[i] |= UINT64_C(1) << j;
        }
    }
}

/* By how many it is waited for, if it may be to blame; else 0. */
static int count_against(const struct members *ms, const struct blame *b, int rank, int *last) {
    int accusers = member_serves(ms, rank) ? count_accusers(ms, rank, last) : 0;
    if (!accusers || !is_terminal(ms, b->waits, rank)) return 0;
    return ms->m[rank].accuses && !at_broken_link(ms, rank) ? 0 : accusers;
}

/* Who has work and accuses nobody may have been computing when it last moved, and waits since then, but not for as long as the
 * others: it gets the time that they were given to join in. */
static bool moved_lately(const struct members *ms, int rank, int64_t now_us) {
    const struct member *m = &ms->m[rank];
    int64_t grace_us = m->accuses || has_done_all(m) ? 0 : ms->patience_us / GATHER_PART;
    return now_us - m->moved_us < ms->patience_us + grace_us;
}

/* One of its ring is the better suspect, and will be when it has stood still for long enough. */
static bool is_too_early(const struct members *ms, const struct blame *b, int rank, int accusers, int64_t now_us) {
    int last;
    for (int i = 0; i < ms->limits.workers; i++) {
        if (i == rank || !(b->ring[rank] >> i & 1) || !moved_lately(ms, i, now_us)) continue;
        int against = count_against(ms, b, i, &last);
        if (against > accusers || (against == accusers && i > rank)) return true;
    }
    return moved_lately(ms, rank, now_us);
}

/* Who is to blame when workers wait for each other. One who is waited for and waits for nobody hangs, or what it sends does not
 * get through. Those who wait for it cannot answer either, and so are accused themselves; they go free. Where all accused wait
 * (a one-way partition: the deaf one waits, and so everybody waits for it, and the one it cannot hear among them), it is one at
 * an end of the broken link: the one with most accusers goes, ties by higher rank. So it is where one end has done all it was
 * to do: it waits for nobody, but neither does it keep the other one waiting. Nobody goes who has moved within the patience,
 * nor before the others have had time to join in. */
static int check_accused(struct members *ms, int64_t now_us, struct why *why) {
    struct blame b;
    int most = 0, guilty = -1, by = -1;
    make_blame(ms, &b);
    for (int i = 0; i < ms->limits.workers; i++) {
        int last = -1, accusers = count_against(ms, &b, i, &last);
        if (!accusers || accusers < most) continue;
        if (now_us - accused_since_us(ms, b.ring[i]) < ms->patience_us / GATHER_PART) continue;
        if (is_too_early(ms, &b, i, accusers, now_us)) continue;
        most = accusers;
        guilty = i;
        by = last;
    }
    if (guilty < 0) return -1;
    const struct member *m = &ms->m[guilty];
    char who[64];
    snprintf(who, sizeof who, most > 1 ? "%d workers wait" : "worker %d waits", most > 1 ? most : by);
    fail(why, ERR_LATE, "worker %d (%s pid %" PRIu64 ") is dead: %s for it, and its engine has not moved for %.1f s%s", guilty,
         m->host, m->pid, who, (double)(now_us - m->moved_us) / 1e6, m->accuses ? "; it waits as well" : "");
    return guilty;
}

int member_tick(struct members *ms, int64_t now_us, struct why *why) {
    forgive_stall(ms, now_us);
    for (int i = 0; i < ms->limits.workers; i++)
        if (member_alive(ms, i) && (check_lease(ms, i, now_us, why) < 0 || check_progress(ms, i, now_us, why) < 0))
            return condemn(ms, i, now_us);
    int guilty = check_accused(ms, now_us, why);
    return guilty < 0 ? -1 : condemn(ms, guilty, now_us);
}

int64_t member_next_us(const struct members *ms) {
    int64_t next = INT64_MAX;
    for (int i = 0; i < ms->limits.workers; i++) {
        const struct member *m = &ms->m[i];
        int64_t due = m->seen_us + (m->state == WORKER_READY ? suspect_us(ms) : verdict_us(ms));
        if (member_serves(ms, i) && due < next) next = due;
    }
    return next;
}

static bool may_have(const struct members *ms, int rank, enum worker_state state, const char *host, uint64_t pid,
                     int64_t now_us) {
    bool kept = ms->seat[rank].until_us > now_us;
    return ms->m[rank].state == state && (!kept || (ms->seat[rank].pid == pid && !strcmp(ms->seat[rank].host, host)));
}

int member_seat(struct members *ms, const char *host, uint64_t pid, int end, int64_t now_us) {
    static const enum worker_state order[] = {WORKER_EXPECTED, WORKER_LEFT};
    for (int i = 0; i < end; i++) /* said again */
        if (ms->seat[i].until_us > now_us && ms->seat[i].pid == pid && !strcmp(ms->seat[i].host, host)) return i;
    for (int s = 0; s < 2; s++)
        for (int i = 0; i < end; i++) {
            if (!may_have(ms, i, order[s], host, pid, now_us)) continue;
            snprintf(ms->seat[i].host, sizeof ms->seat[i].host, "%s", host);
            ms->seat[i].pid = pid;
            ms->seat[i].until_us = now_us + SEAT_US;
            return i;
        }
    return -1;
}

int member_release(struct members *ms, int64_t now_us, struct why *why) {
    for (int i = 0; i < ms->limits.workers; i++) {
        struct member *m = &ms->m[i];
        if (m->state != WORKER_CONNECTED || now_us - m->seen_us < 3 * ms->limits.lease_us) continue;
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
    for (int i = 0; i < ms->limits.workers; i++)
        if (ms->awaited >> i & 1 && !member_serves(ms, i)) return false;
    return true;
}

void member_list(const struct members *ms, enum worker_state s, char *buf, size_t cap) {
    size_t len = 0;
    buf[0] = 0;
    for (int i = 0; i < ms->limits.workers && len < cap; i++)
        if (ms->awaited >> i & 1 && ms->m[i].state == s)
            len += (size_t)snprintf(buf + len, cap - len, "%s%d", len ? ", " : "", i);
}
