/* mortal.c - see mortal.h. One lock and one condition for each worker: every call passes them, and waits there while it stands.
 *
 * Nothing of it is held when the wrapped call is made. */
#include "tests/sim/mortal.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct mortal {
    struct bus bus, *inner_bus;
    struct fabric fabric, *inner;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    bool stopped, mute;
    int late_us;
    struct timespec late_until; /* of the fabric */
    enum mortal_message at;     /* 0: no trip */
    bool switched;              /* since the trip was laid */
    void (*act)(void *ctx, int rank);
    void *ctx;
    int rank;
};

static struct mortal *of_bus(struct bus *b) { return (struct mortal *)((char *)b - offsetof(struct mortal, bus)); }
static struct mortal *of_fabric(struct fabric *f) { return (struct mortal *)((char *)f - offsetof(struct mortal, fabric)); }

/* ---- standing still ---- */

static bool is_past(const struct timespec *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec != t->tv_sec ? now.tv_sec > t->tv_sec : now.tv_nsec >= t->tv_nsec;
}

/* True: what it says gets out. */
static bool pass(struct mortal *m, bool fabric) {
    pthread_mutex_lock(&m->lock);
    while (m->stopped) pthread_cond_wait(&m->moved, &m->lock);
    while (fabric && m->late_until.tv_sec && !m->mute) {
        if (is_past(&m->late_until)) m->late_until.tv_sec = 0;
        else pthread_cond_timedwait(&m->moved, &m->lock, &m->late_until);
    }
    bool heard = !m->mute;
    pthread_mutex_unlock(&m->lock);
    return heard;
}

static void set(struct mortal *m, bool *flag, bool value, bool stopped) {
    pthread_mutex_lock(&m->lock);
    *flag = value;
    m->stopped = stopped;
    pthread_cond_broadcast(&m->moved);
    pthread_mutex_unlock(&m->lock);
}

void mortal_stop(struct mortal *m) { set(m, &m->stopped, true, true); }
void mortal_continue(struct mortal *m) { set(m, &m->stopped, false, false); }
void mortal_mute(struct mortal *m) { set(m, &m->mute, true, false); }

void mortal_be_late(struct mortal *m, int us) {
    pthread_mutex_lock(&m->lock);
    m->late_us = us;
    pthread_mutex_unlock(&m->lock);
}

void mortal_trip(struct mortal *m, enum mortal_message at, void (*act)(void *ctx, int rank), void *ctx, int rank) {
    pthread_mutex_lock(&m->lock);
    m->at = at;
    m->switched = false;
    m->act = act;
    m->ctx = ctx;
    m->rank = rank;
    pthread_mutex_unlock(&m->lock);
}

/* A Control is one field; its number is in the first byte, or two. */
static int kind_of(const void *head, size_t len) {
    const uint8_t *b = head;
    if (len < 2) return 0;
    return b[0] & 0x80 ? (b[0] & 0x7f) >> 3 | (b[1] & 0x7f) << 4 : b[0] >> 3;
}

static void begin_late(struct mortal *m) {
    clock_gettime(CLOCK_REALTIME, &m->late_until);
    int64_t ns = m->late_until.tv_nsec + m->late_us * INT64_C(1000);
    m->late_until.tv_sec += ns / 1000000000;
    m->late_until.tv_nsec = ns % 1000000000;
}

static void look(struct mortal *m, int kind) {
    pthread_mutex_lock(&m->lock);
    void (*act)(void *ctx, int rank) = NULL;
    if (kind == MORTAL_EPOCH && m->late_us) begin_late(m);
    if (kind == MORTAL_SWITCH) m->switched = true;
    if (m->at && kind == (int)m->at && (kind != MORTAL_PLAN || m->switched)) {
        act = m->act;
        m->at = 0;
    }
    pthread_mutex_unlock(&m->lock);
    if (act) act(m->ctx, m->rank);
}

/* ---- the bus ---- */

static int bus_send_to(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                       size_t body_len) {
    struct mortal *m = of_bus(b);
    int rc = pass(m, false) ? bus_send(m->inner_bus, to, head, head_len, body, body_len) : 0;
    look(m, kind_of(head, head_len));
    return rc;
}

static int bus_recv_from(struct bus *b, struct bus_msg *out) {
    struct mortal *m = of_bus(b);
    pass(m, false);
    int rc = bus_recv(m->inner_bus, out);
    if (rc >= 0) look(m, kind_of(out->head, out->head_len));
    pass(m, false);
    return rc;
}

static int bus_fd_of(struct bus *b) { return bus_fd(of_bus(b)->inner_bus); }
static const char *bus_endpoint_of(struct bus *b) { return bus_endpoint(of_bus(b)->inner_bus); }
static void bus_close_it(struct bus *b) { (void)b; } /* mortal_free does */

static void bus_link_of(struct bus *b, struct bus_link *out) { bus_get_link(of_bus(b)->inner_bus, out); }

static const struct bus_ops bus_ops = {bus_send_to, bus_recv_from, bus_fd_of, bus_endpoint_of, bus_close_it, NULL, bus_link_of};

/* ---- the fabric ---- */

static struct fabric *inner(struct fabric *f) {
    struct mortal *m = of_fabric(f);
    pass(m, true);
    return m->inner;
}

static size_t address(struct fabric *f, void *out) { return fabric_address(of_fabric(f)->inner, out); }
static int prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    return fabric_prepare(inner(f), frame_bytes, incarnation, why);
}
static int attach(struct fabric *f, int peer, uint32_t incarnation, const void *at, size_t bytes, struct why *why) {
    return fabric_attach(inner(f), peer, incarnation, at, bytes, why);
}
static void detach(struct fabric *f, int peer) { fabric_detach(inner(f), peer); }
static void *reserve(struct fabric *f, int peer, size_t bytes) { return fabric_reserve(inner(f), peer, bytes); }
static void commit(struct fabric *f, int peer, size_t bytes) { fabric_commit(inner(f), peer, bytes); }
static const void *take(struct fabric *f, int peer, size_t *bytes) { return fabric_take(inner(f), peer, bytes); }
static void give(struct fabric *f, int peer, const void *frame) { fabric_give(inner(f), peer, frame); }
static int poll_it(struct fabric *f) { return fabric_poll(inner(f)); }
static int arm(struct fabric *f) { return fabric_arm(inner(f)); }
static int flush(struct fabric *f, int64_t deadline_us) { return fabric_flush(inner(f), deadline_us); }
static void close_it(struct fabric *f) {
    fabric_close(of_fabric(f)->inner);
    of_fabric(f)->inner = NULL;
}

static const struct fabric_ops fabric_ops = {.name = "mortal",
                                             .address = address,
                                             .prepare = prepare,
                                             .attach = attach,
                                             .detach = detach,
                                             .reserve = reserve,
                                             .commit = commit,
                                             .take = take,
                                             .give = give,
                                             .poll = poll_it,
                                             .arm = arm,
                                             .flush = flush,
                                             .close = close_it};

/* ---- life ---- */

int mortal_new(struct bus *bus, struct fabric *fabric, struct mortal **out) {
    struct mortal *m = calloc(1, sizeof *m);
    if (!m) return ERR_NOMEM;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->moved, NULL);
    m->inner_bus = bus;
    m->bus.ops = &bus_ops;
    m->inner = fabric;
    if (fabric) m->fabric = *fabric;
    m->fabric.ops = &fabric_ops;
    *out = m;
    return 0;
}

struct bus *mortal_bus(struct mortal *m) { return &m->bus; }
struct fabric *mortal_fabric(struct mortal *m) { return m->inner ? &m->fabric : NULL; }

void mortal_hang_up(struct mortal *m) {
    bus_close(m->inner_bus);
    m->inner_bus = NULL;
}

void mortal_free(struct mortal *m) {
    if (!m) return;
    bus_close(m->inner_bus);
    pthread_cond_destroy(&m->moved);
    pthread_mutex_destroy(&m->lock);
    free(m);
}
