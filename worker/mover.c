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

enum { TURN_MS = 100, ANSWERS = 64 /* between two looks at everything else */ };

struct job { /* the one fetch under way */
    const char *door;
    const struct blob_header *want;
    unsigned char *out;
    uint64_t bytes, asked, got;
    uint32_t ticket;
    int64_t moved_us;
    int rc; /* 1: under way */
    struct why why;
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
    pthread_mutex_t job_lock; /* of all below */
    pthread_cond_t done;
    struct job *next; /* the engine's, until the thread takes it */
    /* the thread's own */
    struct job *job;  /* under way */
    struct bus *peer; /* to the door asked last */
    char peer_door[MOVER_DOOR_BYTES];
    uint32_t tickets;
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
    for (int i = 0; i < ANSWERS; i++) {
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

/* From here on it is the engine's again. */
static void end_job(struct mover *m, int rc) {
    pthread_mutex_lock(&m->job_lock);
    m->job->rc = rc;
    m->job = NULL;
    pthread_cond_signal(&m->done);
    pthread_mutex_unlock(&m->job_lock);
}

/* Who failed is connected to anew, if it is asked again. */
static void fail_job(struct mover *m, int rc) {
    bus_close(m->peer);
    m->peer = NULL;
    end_job(m, rc);
}

static int reach(struct mover *m, struct job *j) {
    if (m->peer && !strcmp(m->peer_door, j->door)) return 0;
    bus_close(m->peer);
    m->peer = NULL;
    snprintf(m->peer_door, sizeof m->peer_door, "%s", j->door);
    return m->options.reach(m->options.ctx, j->door, &m->peer, &j->why);
}

static void begin(struct mover *m) {
    pthread_mutex_lock(&m->job_lock);
    m->job = m->next;
    m->next = NULL;
    pthread_mutex_unlock(&m->job_lock);
    if (!m->job) return;
    m->job->ticket = ++m->tickets;
    m->job->moved_us = clk_now_us();
    int rc = reach(m, m->job);
    if (rc < 0) fail_job(m, rc);
}

/* False: its queue is full, or it is not there yet; later. */
static bool ask_one(struct mover *m, struct job *j) {
    uint64_t left = j->bytes - j->asked;
    struct piece p = {.kind = PIECE_WANT,
                      .ticket = j->ticket,
                      .blob = j->want->kind,
                      .layer = j->want->layer,
                      .expert = j->want->expert,
                      .at = j->asked,
                      .n = left < PIECE_MOST ? (uint32_t)left : PIECE_MOST};
    uint8_t head[PIECE_HEAD];
    piece_pack(&p, head);
    if (bus_send(m->peer, NULL, head, sizeof head, NULL, 0) < 0) return false;
    j->asked += p.n;
    return true;
}

/* Its own header is what it should be, and its payload what its header says. */
static int check_blob(struct job *j) {
    struct blob_header h;
    memcpy(&h, j->out, sizeof h);
    uint64_t sum = h.checksum;
    h.checksum = j->want->checksum;
    if (memcmp(&h, j->want, sizeof h)) return fail(&j->why, ERR_CORRUPT, "the worker at %s sent another blob", j->door);
    if (XXH3_64bits(j->out + sizeof h, h.payload_bytes) == sum) return 0;
    return fail(&j->why, ERR_CORRUPT, "the blob that the worker at %s sent does not match its checksum", j->door);
}

/* Pieces come in the order in which they were asked for. */
static void take(struct mover *m, struct job *j, const struct bus_msg *msg) {
    struct piece p;
    if (!piece_unpack(&p, msg->head, msg->head_len) || p.ticket != j->ticket) return; /* of one that was given up */
    if (p.kind == PIECE_NONE) return end_job(m, fail(&j->why, ERR_NOT_FOUND, "the worker at %s does not have it", j->door));
    if (p.kind != PIECE_PIECE || p.at != j->got || p.n != msg->body_len || p.n > j->bytes - j->got)
        return fail_job(m, fail(&j->why, ERR_PROTOCOL, "the worker at %s sent what was not asked for", j->door));
    memcpy(j->out + j->got, msg->body, p.n);
    j->got += p.n;
    j->moved_us = clk_now_us();
    if (j->got == j->bytes) end_job(m, check_blob(j));
}

static void fetch(struct mover *m) {
    struct job *j;
    struct bus_msg msg;
    if (!m->job) begin(m);
    for (bool sent = true; sent;) { /* a send may swallow the edge of the bus's fd, so what came is taken after it */
        while ((j = m->job) && bus_recv(m->peer, &msg) >= 0) take(m, j, &msg);
        if (!j) return;
        uint64_t most = j->got + (uint64_t)MOVER_AHEAD * PIECE_MOST;
        for (sent = false; j->asked < j->bytes && j->asked < most && ask_one(m, j);) sent = true;
    }
    if (clk_now_us() - j->moved_us > MOVER_PATIENCE_US)
        fail_job(m, fail(&j->why, ERR_LATE, "the worker at %s gave nothing for %d ms", j->door, MOVER_PATIENCE_US / 1000));
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
        fetch(m);
        atomic_fetch_add(&m->turns, 1);
    }
    if (m->job) fail_job(m, ERR_CANCELLED);
    return NULL;
}

int mover_open(const struct mover_options *o, struct mover **out) {
    struct mover *m = calloc(1, sizeof *m);
    if (m) {
        m->options = *o;
        m->bell.fd = -1;
        m->piece = malloc(PIECE_MOST);
        if (o->door) snprintf(m->door, sizeof m->door, "%s", bus_endpoint(o->door));
        pthread_mutex_init(&m->lock, NULL);
        pthread_mutex_init(&m->job_lock, NULL);
        pthread_cond_init(&m->done, NULL);
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
    pthread_mutex_destroy(&m->job_lock);
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

int mover_fetch(struct mover *m, const char *door, const struct blob_header *want, unsigned char *out, struct why *why) {
    struct job j = {.door = door, .want = want, .out = out, .bytes = sizeof *want + want->payload_bytes, .rc = 1};
    if (!m->options.reach) return fail(why, ERR_NOT_FOUND, "no other worker can be asked");
    pthread_mutex_lock(&m->job_lock);
    m->next = &j;
    bell_ring(&m->bell);
    while (j.rc > 0) pthread_cond_wait(&m->done, &m->job_lock);
    pthread_mutex_unlock(&m->job_lock);
    if (j.rc < 0) *why = j.why;
    return j.rc;
}
