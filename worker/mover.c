/* mover.c - see mover.h. One thread, one poll: the door, a connection to another's, and a bell for what the engine wants. */
#include "worker/mover.h"

#include "base/bell.h"
#include "base/clk.h"
#include "base/log.h"
#include "proto/piece.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { TURN_MS = 100, MESSAGES = 64 /* from one end, between two looks at everything else */ };

struct order { /* what the engine wants */
    char door[MOVER_DOOR_BYTES];
    struct blob_header want;
    unsigned char *out; /* the engine's: nobody writes there once it has gone on */
    int rc;             /* 1: it waits */
    struct why why;
};
struct job { /* the order under way, as the thread has it */
    bool runs;
    char door[MOVER_DOOR_BYTES];
    struct blob_header want;
    uint64_t bytes, asked, got;
    uint32_t ticket; /* of the order */
    int64_t moved_us;
};

struct mover {
    struct mover_options options;
    char door[MOVER_DOOR_BYTES];
    pthread_t thread;
    struct bell bell;
    atomic_bool stop;
    atomic_ullong turns;
    pthread_mutex_t lock; /* of what others may read */
    const struct expert_store *shown;
    pthread_mutex_t order_lock; /* of the next three */
    pthread_cond_t done;
    struct order order;
    uint32_t ticket;     /* of the order; another one whenever the engine asks, or goes on without an answer */
    uint64_t still;      /* turns when the engine found the thread standing still; UINT64_MAX: it never has */
    /* the thread's own */
    struct job job;
    struct bus *peer; /* to the door asked last */
    char peer_door[MOVER_DOOR_BYTES];
    unsigned char *piece; /* [PIECE_MOST] on its way out */
};

/* ---- giving ---- */

/* The range that is asked for, if it is here. */
static bool copy_out(struct mover *m, const struct piece *p) {
    pthread_mutex_lock(&m->lock);
    const struct blob *b = m->shown ? expert_store_find(m->shown, (enum blob_kind)p->blob, p->layer, p->expert) : NULL;
    uint64_t bytes = b ? sizeof b->header + b->header.payload_bytes : 0;
    bool here = b && p->at < bytes && p->n <= bytes - p->at;
    if (here) m->shown->backend->ops->download(m->shown->backend, m->piece, b->data + p->at, p->n);
    pthread_mutex_unlock(&m->lock);
    return here;
}

/* One that does not take its answer is not waited for: it asks again, or elsewhere. True: there may be more questions. */
static bool give(struct mover *m) {
    struct bus_msg msg;
    if (!m->options.door) return false;
    for (int i = 0; i < MESSAGES; i++) {
        if (bus_recv(m->options.door, &msg) < 0) return false;
        struct piece p;
        uint8_t head[PIECE_HEAD];
        if (!piece_unpack(&p, msg.head, msg.head_len) || p.kind != PIECE_WANT) continue;
        bool here = copy_out(m, &p);
        p.kind = here ? PIECE_PIECE : PIECE_NONE;
        piece_pack(&p, head);
        bus_send(m->options.door, &msg.from, head, sizeof head, here ? m->piece : NULL, here ? p.n : 0);
    }
    return true;
}

/* ---- fetching ---- */

/* False: the engine has gone on. Else the order may be touched until order_unlock. */
static bool order_lock(struct mover *m, const struct job *j) {
    pthread_mutex_lock(&m->order_lock);
    if (m->order.rc > 0 && m->ticket == j->ticket) return true;
    pthread_mutex_unlock(&m->order_lock);
    return false;
}

static void order_unlock(struct mover *m) { pthread_mutex_unlock(&m->order_lock); }

static void end_job(struct mover *m, int rc, const struct why *why) {
    struct job *j = &m->job;
    j->runs = false;
    if (!order_lock(m, j)) return;
    m->order.rc = rc;
    if (rc < 0) m->order.why = *why;
    pthread_cond_signal(&m->done);
    order_unlock(m);
}

/* Who failed is connected to anew, if it is asked again. */
static void fail_job(struct mover *m, int rc, const struct why *why) {
    bus_close(m->peer);
    m->peer = NULL;
    end_job(m, rc, why);
}

static int reach(struct mover *m, const char *door, struct why *why) {
    if (m->peer && !strcmp(m->peer_door, door)) return 0;
    bus_close(m->peer);
    m->peer = NULL;
    snprintf(m->peer_door, sizeof m->peer_door, "%s", door);
    return m->options.reach(m->options.ctx, door, &m->peer, why);
}

/* Takes the order that there is now, which may be another one than the job's. */
static void begin(struct mover *m) {
    struct job *j = &m->job;
    struct why why;
    pthread_mutex_lock(&m->order_lock);
    bool fresh = m->order.rc > 0 && !(j->runs && j->ticket == m->ticket);
    if (j->runs && j->ticket != m->ticket) j->runs = false; /* the engine has gone on */
    if (fresh) {
        *j = (struct job){.runs = true, .want = m->order.want, .ticket = m->ticket, .moved_us = clk_now_us()};
        j->bytes = sizeof j->want + j->want.payload_bytes;
        snprintf(j->door, sizeof j->door, "%s", m->order.door);
    }
    pthread_mutex_unlock(&m->order_lock);
    if (!fresh) return;
    int rc = reach(m, j->door, &why);
    if (rc < 0) fail_job(m, rc, &why);
}

static uint32_t next_piece(const struct job *j, uint64_t at) {
    return j->bytes - at < PIECE_MOST ? (uint32_t)(j->bytes - at) : PIECE_MOST;
}

/* False: its queue is full, or it is not there yet; later. */
static bool ask_one(struct mover *m, struct job *j) {
    struct piece p = {.kind = PIECE_WANT,
                      .ticket = j->ticket,
                      .blob = j->want.kind,
                      .layer = j->want.layer,
                      .expert = j->want.expert,
                      .at = j->asked,
                      .n = next_piece(j, j->asked)};
    uint8_t head[PIECE_HEAD];
    piece_pack(&p, head);
    if (bus_send(m->peer, NULL, head, sizeof head, NULL, 0) < 0) return false;
    j->asked += p.n;
    return true;
}

/* Its own header is what it should be, and its payload what its header says. The order is locked. */
static int check_blob(const struct mover *m, const struct job *j, struct why *why) {
    const unsigned char *out = m->order.out;
    struct blob_header h;
    memcpy(&h, out, sizeof h);
    uint64_t sum = h.checksum;
    h.checksum = j->want.checksum;
    if (memcmp(&h, &j->want, sizeof h)) return fail(why, ERR_CORRUPT, "the worker at %s sent another blob", j->door);
    if (XXH3_64bits(out + sizeof h, h.payload_bytes) == sum) return 0;
    return fail(why, ERR_CORRUPT, "the blob that the worker at %s sent does not match its checksum", j->door);
}

/* 1: there is more to come. */
static int put(struct mover *m, struct job *j, const void *bytes, uint32_t n, struct why *why) {
    if (!order_lock(m, j)) return fail(why, ERR_CANCELLED, "nobody waits for it");
    memcpy(m->order.out + j->got, bytes, n);
    j->got += n;
    j->moved_us = clk_now_us();
    int rc = j->got < j->bytes ? 1 : check_blob(m, j, why);
    order_unlock(m);
    return rc;
}

/* Pieces come in the order in which they were asked for, and as large: who gave less could draw it out for ever. */
static void take(struct mover *m, struct job *j, const struct bus_msg *msg) {
    struct piece p;
    struct why why;
    if (!piece_unpack(&p, msg->head, msg->head_len) || p.ticket != j->ticket) return; /* of one that was given up */
    if (p.kind == PIECE_NONE)
        return end_job(m, fail(&why, ERR_NOT_FOUND, "the worker at %s does not have it", j->door), &why);
    if (p.kind != PIECE_PIECE || p.at != j->got || j->got == j->asked || p.n != next_piece(j, j->got) || p.n != msg->body_len)
        return fail_job(m, fail(&why, ERR_PROTOCOL, "the worker at %s sent what was not asked for", j->door), &why);
    int rc = put(m, j, msg->body, p.n, &why);
    if (rc <= 0) end_job(m, rc, &why);
}

/* True: there may be more answers. */
static bool fetch(struct mover *m) {
    struct job *j = &m->job;
    struct bus_msg msg;
    struct why why;
    int taken = 0;
    begin(m);
    for (bool sent = true; sent;) { /* a send may swallow the edge of the bus's fd, so what came is taken after it */
        for (; m->peer && taken < MESSAGES && bus_recv(m->peer, &msg) >= 0; taken++)
            if (j->runs) take(m, j, &msg); /* else nobody asked */
        uint64_t most = j->got + (uint64_t)MOVER_AHEAD * PIECE_MOST;
        for (sent = false; j->runs && j->asked < j->bytes && j->asked < most && ask_one(m, j);) sent = true;
    }
    if (j->runs && clk_now_us() - j->moved_us > MOVER_PATIENCE_US)
        fail_job(m, fail(&why, ERR_LATE, "the worker at %s gave nothing for %d ms", j->door, MOVER_PATIENCE_US / 1000), &why);
    return m->peer && taken == MESSAGES;
}

/* ---- the thread ---- */

static void *mover_main(void *arg) {
    struct mover *m = arg;
    char name[16];
    snprintf(name, sizeof name, "worker %d", m->options.rank);
    log_set_name(name);
    snprintf(name, sizeof name, "mover %d", m->options.rank);
    pthread_setname_np(pthread_self(), name);
    bool more = false;
    while (!atomic_load(&m->stop)) {
        struct pollfd fds[3] = {{.fd = m->bell.fd, .events = POLLIN}};
        int n = 1;
        if (m->options.door) fds[n++] = (struct pollfd){.fd = bus_fd(m->options.door), .events = POLLIN};
        if (m->peer) fds[n++] = (struct pollfd){.fd = bus_fd(m->peer), .events = POLLIN};
        poll(fds, (nfds_t)n, more ? 0 : TURN_MS);
        bell_clear(&m->bell);
        more = give(m);
        more |= fetch(m);
        atomic_fetch_add(&m->turns, 1);
    }
    struct why why;
    if (m->job.runs) fail_job(m, fail(&why, ERR_CANCELLED, "this worker ends"), &why);
    return NULL;
}

int mover_open(const struct mover_options *o, struct mover **out) {
    struct mover *m = calloc(1, sizeof *m);
    if (m) {
        m->options = *o;
        if (!o->still_us) m->options.still_us = MOVER_STILL_US;
        m->still = UINT64_MAX;
        m->bell.fd = -1;
        m->piece = malloc(PIECE_MOST);
        if (o->door) snprintf(m->door, sizeof m->door, "%s", bus_endpoint(o->door));
        pthread_mutex_init(&m->lock, NULL);
        pthread_mutex_init(&m->order_lock, NULL);
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&m->done, &monotonic);
        pthread_condattr_destroy(&monotonic);
        if (m->piece && bell_open(&m->bell) >= 0 && !pthread_create(&m->thread, NULL, mover_main, m)) {
            *out = m;
            return 0;
        }
        bell_close(&m->bell);
        free(m->piece);
    }
    free(m);
    bus_close(o->door);
    return ERR_NOMEM;
}

void mover_close(struct mover *m) {
    if (!m) return;
    atomic_store(&m->stop, true);
    bell_ring(&m->bell);
    pthread_join(m->thread, NULL);
    bus_close(m->peer);
    bus_close(m->options.door);
    bell_close(&m->bell);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->order_lock);
    pthread_cond_destroy(&m->done);
    free(m->piece);
    free(m);
}

const char *mover_door(const struct mover *m) { return m->door; }
uint64_t mover_progress(const struct mover *m) { return atomic_load_explicit(&m->turns, memory_order_relaxed); }

void mover_show(struct mover *m, struct expert_store *s) {
    if (!m) return;
    pthread_mutex_lock(&m->lock);
    if (s) s->lock = &m->lock;
    m->shown = s;
    pthread_mutex_unlock(&m->lock);
}

/* Not longer than its thread stands still: until it turns again nothing is asked of it. The order is locked. */
static void await(struct mover *m) {
    uint64_t turns = mover_progress(m);
    while (m->order.rc > 0) {
        int64_t until_us = clk_now_us() + m->options.still_us;
        struct timespec until = {.tv_sec = until_us / 1000000, .tv_nsec = until_us % 1000000 * 1000};
        if (turns != m->still && !pthread_cond_timedwait(&m->done, &m->order_lock, &until)) continue;
        uint64_t now = mover_progress(m);
        if (m->order.rc > 0 && now == turns) {
            m->still = now;
            m->ticket++;
            m->order.rc = fail(&m->order.why, ERR_LATE, "this worker's own mover has stood still for %d ms",
                               (int)(m->options.still_us / 1000));
        }
        turns = now;
    }
}

int mover_fetch(struct mover *m, const char *door, const struct blob_header *want, unsigned char *out, struct why *why) {
    if (!m->options.reach) return fail(why, ERR_NOT_FOUND, "no other worker can be asked");
    pthread_mutex_lock(&m->order_lock);
    m->ticket++;
    m->order = (struct order){.want = *want, .out = out, .rc = 1};
    snprintf(m->order.door, sizeof m->order.door, "%s", door);
    bell_ring(&m->bell);
    await(m);
    int rc = m->order.rc;
    if (rc < 0) *why = m->order.why;
    m->order.out = NULL;
    pthread_mutex_unlock(&m->order_lock);
    return rc;
}
