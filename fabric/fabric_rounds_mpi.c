/* fabric_rounds_mpi.c - "mpi-alltoallv": frames travel in numbered rounds, each one MPI_Ialltoall of what everyone has and one
 * MPI_Ialltoallv of the frames themselves.
 *
 *   IDLE ─wanted here, or invited─► COUNTING ─counts are in─► MOVING ─frames are in─► IDLE
 *     ▲                                 └─nobody has any─────────────────────────────┘
 *
 * Each rank keeps FABRIC_DEPTH buffers for what it sends to each other rank and as many for what it gets. In a round a pair
 * moves at most one frame each way, straight from buffer to buffer. The counts carry the frame's size and whether a buffer is
 * free for the other's: a frame moves when it was offered and its room was too, which both ends know alike, so nothing is sent
 * that cannot be taken and no third word is needed.
 *
 * All ranks take part in every round, in the order of their numbers. Who wants a round opens it and invites the others by a
 * message with its number; they join when they next call. A round is wanted by who has a frame for someone that had room when
 * last asked; by who has room again for someone it refused; and in a flush, see below. Who has more than one frame for someone
 * says so in the counts; then the next round follows at once, uninvited, on every rank alike. So where nobody has anything, no
 * round runs.
 *
 * A rank that does not call holds up all others. Therefore a flush ends only when all ranks flush: in a round in which every
 * rank says that it rests. The last one to come opens that round. A step of the service ends so on all workers.
 * A rank that dies holds up the round that is open, and with it every frame: the survivors miss everybody, not only the dead
 * one, and which it was is for leases to say. That, and the waiting for whoever is slowest, is why the default is fabric_mpi.c.
 *
 * Waiting is as in fabric_mpi.c, and so is what is said there about errors and about settings of Open MPI. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/fabric.h"
#include "fabric/round_queue.h"
#include "fabric/world_mpi.h"

enum {
    LINE = 64, /* bytes; what frames and places are counted in, so that an int can */
    CLOSE_US = 1000000 /* how long close waits for the others to close */
};
#define BYE UINT64_MAX /* in place of a round's number: the last that a rank sends another */

enum stage { IDLE, COUNTING, MOVING };
enum { OFFERS = 1, ACCEPTS = 2, MORE = 4, RESTS = 8 }; /* flags of a word; all but ACCEPTS are the same to everyone */

struct word { /* of one rank to another, in a round's counts */
    uint64_t frame; /* bytes + 1 of what it offers; 0: nothing */
    uint64_t flags;
};

struct lane { /* both streams between this rank and one peer */
    struct round_queue send, get;
    int next;        /* send buffer of the open reservation */
    size_t reserved; /* bytes of that + 1; 0 = none */
    bool refused;    /* it had no room for what we offered in the last round */
    bool owed;       /* we had none for what it offered */
    bool gone;       /* detached */
};

struct rounds_rank {
    struct fabric base;
    MPI_Comm comm;
    MPI_Datatype line;
    struct lane *lanes; /* [size] */
    enum stage stage;
    uint64_t round;           /* that is open, or was last */
    uint64_t invited;         /* the latest that somebody invited to */
    uint64_t to_invite;       /* mask: who is still to be invited to the open round */
    struct word *say, *hear;  /* [size] */
    int *lines_out, *at_out, *lines_in, *at_in; /* [size] of the frames that move */
    uint64_t *call_in, *call_out;               /* [size] numbers of rounds */
    MPI_Request *requests;    /* [1 + 2 * size]: the collective; invitations from each; to each */
    MPI_Status *statuses;     /* the same, scratch */
    int *indices;
    unsigned char *out, *in; /* buffers [size][DEPTH] of slot_lines each; not one start for both: MPI takes that as in place */
    size_t slot_lines, map_bytes;
    bool again;     /* the next round follows at once */
    bool resting;   /* in a flush */
    bool announced; /* the others were told so in the last round */
    bool rested;    /* and all of them said so too, since we sent anything */
    bool leaving;   /* in close */
    bool broken;    /* MPI reported an error: no more rounds */
    bool news, starved;
    int idle_takes;
};

static struct rounds_rank *rounds_of(struct fabric *f) { return (struct rounds_rank *)f; }

/* Of a buffer, within those of its direction. */
static size_t line_of(const struct rounds_rank *m, int peer, int i) {
    return (size_t)(peer * FABRIC_DEPTH + i) * m->slot_lines;
}
static void *send_buffer(const struct rounds_rank *m, int peer, int i) { return m->out + line_of(m, peer, i) * LINE; }
static void *get_buffer(const struct rounds_rank *m, int peer, int i) { return m->in + line_of(m, peer, i) * LINE; }
static int lines(size_t bytes) { return (int)((bytes + LINE - 1) / LINE); }
static uint64_t others(const struct rounds_rank *m) {
    uint64_t all = m->base.size == 64 ? UINT64_MAX : (UINT64_C(1) << m->base.size) - 1;
    return all & ~(UINT64_C(1) << m->base.rank);
}

static void set_stage(struct rounds_rank *m, enum stage to) {
    static const bool legal[3][3] = {[IDLE][COUNTING] = true, [COUNTING][MOVING] = true, [COUNTING][IDLE] = true,
                                     [MOVING][IDLE] = true};
    if (!legal[m->stage][to]) BUG("fabric mpi-alltoallv: round %llu from stage %d to %d", (unsigned long long)m->round,
                                  (int)m->stage, (int)to);
    m->stage = to;
}

static void breaks(struct rounds_rank *m, const char *doing, int code) {
    char text[MPI_MAX_ERROR_STRING];
    if (!m->broken)
        log_error("fabric mpi-alltoallv: %s in round %llu: %s; no frame moves any more", doing, (unsigned long long)m->round,
                  world_text(code, text));
    m->broken = true;
}

/* ---- what is wanted ---- */

/* A frame that nobody holds up is queued. */
static bool has_frames(const struct rounds_rank *m, bool refused) {
    for (int p = 0; p < m->base.size; p++) {
        const struct lane *l = &m->lanes[p];
        if (!l->gone && (refused || !l->refused) && round_queue_next(&l->send) >= 0) return true;
    }
    return false;
}

static bool has_debts(const struct rounds_rank *m) {
    for (int p = 0; p < m->base.size; p++)
        if (m->lanes[p].owed && !m->lanes[p].gone && round_queue_free(&m->lanes[p].get) >= 0) return true;
    return false;
}

/* ---- a round ---- */

static void invite(struct rounds_rank *m) {
    for (int p = 0; m->to_invite && p < m->base.size; p++) {
        MPI_Request *r = &m->requests[1 + m->base.size + p];
        if (!(m->to_invite >> p & 1) || *r != MPI_REQUEST_NULL) continue;
        m->call_out[p] = m->leaving ? BYE : m->round;
        int rc = MPI_Isend(&m->call_out[p], 1, MPI_UINT64_T, p, 0, m->comm, r);
        if (rc != MPI_SUCCESS) return breaks(m, "inviting", rc);
        m->to_invite &= ~(UINT64_C(1) << p);
    }
}

static void listen_to(struct rounds_rank *m, int peer) {
    int rc = MPI_Irecv(&m->call_in[peer], 1, MPI_UINT64_T, peer, 0, m->comm, &m->requests[1 + peer]);
    if (rc != MPI_SUCCESS) breaks(m, "listening", rc);
}

static void open_round(struct rounds_rank *m, bool uninvited) {
    uint64_t flags = 0;
    for (int p = 0; p < m->base.size; p++) {
        struct lane *l = &m->lanes[p];
        l->send.now = l->gone ? -1 : round_queue_next(&l->send);
        l->get.now = l->gone || p == m->base.rank ? -1 : round_queue_free(&l->get);
        if (l->send.now >= 0) flags |= OFFERS;
        if (l->send.now >= 0 && l->send.in > l->send.out + 1 && !l->refused) flags |= MORE;
    }
    if (m->resting && !has_frames(m, true)) flags |= RESTS;
    for (int p = 0; p < m->base.size; p++) {
        const struct lane *l = &m->lanes[p];
        m->say[p].frame = l->send.now >= 0 ? l->send.bytes[l->send.now] + 1 : 0;
        m->say[p].flags = flags | (l->get.now >= 0 ? ACCEPTS : 0);
    }
    set_stage(m, COUNTING);
    m->round++;
    m->again = false;
    m->announced = flags & RESTS;
    int rc = MPI_Ialltoall(m->say, 2, MPI_UINT64_T, m->hear, 2, MPI_UINT64_T, m->comm, m->requests);
    if (rc != MPI_SUCCESS) return breaks(m, "MPI_Ialltoall", rc);
    if (!uninvited) return;
    m->to_invite = others(m);
    invite(m);
}

/* What moves between us and one peer, now that both have spoken. */
static void settle(struct rounds_rank *m, int p) {
    struct lane *l = &m->lanes[p];
    const struct word *w = &m->hear[p];
    l->refused = l->send.now >= 0 && !(w->flags & ACCEPTS); /* who was offered nothing owes nothing, and will not ask */
    l->owed = w->frame && l->get.now < 0;
    if (l->refused) l->send.now = -1;
    if (!w->frame) l->get.now = -1;
    if (l->send.now >= 0) {
        l->send.room[l->send.now] = ROOM_AWAY;
        m->lines_out[p] = lines(l->send.bytes[l->send.now]);
        m->at_out[p] = (int)line_of(m, p, l->send.now);
    }
    if (l->get.now >= 0) {
        l->get.bytes[l->get.now] = (size_t)w->frame - 1;
        m->lines_in[p] = lines((size_t)w->frame - 1);
        m->at_in[p] = (int)line_of(m, p, l->get.now);
    }
}

static void close_round(struct rounds_rank *m) {
    set_stage(m, IDLE);
    for (int p = 0; p < m->base.size; p++) {
        struct lane *l = &m->lanes[p];
        if (l->send.now >= 0) {
            l->send.room[l->send.now] = ROOM_FREE;
            l->send.out++;
            m->news |= m->starved;
        }
        if (l->get.now >= 0) {
            round_queue_fill(&l->get, l->get.now, l->get.bytes[l->get.now]);
            m->news = true;
        }
    }
}

static void move_frames(struct rounds_rank *m) {
    uint64_t any = 0, all = ~UINT64_C(0);
    size_t n = (size_t)m->base.size * sizeof *m->lines_out;
    memset(m->lines_out, 0, n);
    memset(m->lines_in, 0, n);
    m->to_invite = 0; /* all have come */
    for (int p = 0; p < m->base.size; p++) {
        any |= m->hear[p].flags;
        all &= m->hear[p].flags;
        if (m->hear[p].frame > m->base.frame_bytes + 1) return breaks(m, "a frame that is too large", MPI_ERR_TRUNCATE);
    }
    m->again = any & MORE;
    m->rested = all & RESTS;
    m->news |= m->rested;
    for (int p = 0; p < m->base.size; p++)
        if (p != m->base.rank) settle(m, p);
    if (!(any & OFFERS)) return close_round(m);
    set_stage(m, MOVING);
    int rc = MPI_Ialltoallv(m->out, m->lines_out, m->at_out, m->line, m->in, m->lines_in, m->at_in, m->line, m->comm,
                            m->requests);
    if (rc != MPI_SUCCESS) breaks(m, "MPI_Ialltoallv", rc);
}

/* ---- progress ---- */

static bool wants_round(const struct rounds_rank *m) {
    return has_frames(m, false) || has_debts(m) || (m->resting && !m->announced && !has_frames(m, true));
}

/* One move of the diagram above, if it is time for one. */
static bool advance(struct rounds_rank *m) {
    if (m->broken || (m->stage != IDLE && m->requests[0] != MPI_REQUEST_NULL)) return false;
    bool called = m->again || m->invited > m->round;
    if (m->stage == IDLE && !called && !wants_round(m)) return false;
    if (m->stage == IDLE) open_round(m, !called);
    else if (m->stage == COUNTING) move_frames(m);
    else close_round(m);
    return true;
}

/* Lets MPI work and takes in what completed. */
static void test(struct rounds_rank *m) {
    int done = 0, n = 1 + 2 * m->base.size;
    int rc = MPI_Testsome(n, m->requests, &done, m->indices, m->statuses);
    if (rc != MPI_SUCCESS) return breaks(m, "MPI_Testsome", rc == MPI_ERR_IN_STATUS ? m->statuses[0].MPI_ERROR : rc);
    for (int i = 0; done != MPI_UNDEFINED && i < done; i++) {
        int peer = m->indices[i] - 1;
        if (peer < 0 || peer >= m->base.size) continue;
        if (m->call_in[peer] == BYE) continue;
        if (m->call_in[peer] > m->invited) m->invited = m->call_in[peer];
        listen_to(m, peer);
    }
}

static void progress(struct rounds_rank *m) {
    m->idle_takes = 0;
    for (bool moved = true; moved && !m->broken;) {
        test(m);
        invite(m);
        for (moved = false; advance(m);) moved = true;
    }
}

/* ---- frames ---- */

static void *rounds_reserve(struct fabric *f, int peer, size_t bytes) {
    struct rounds_rank *m = rounds_of(f);
    fabric_check_peer(f, peer);
    struct lane *l = &m->lanes[peer];
    if (bytes > f->frame_bytes)
        BUG("fabric mpi-alltoallv: a frame of %zu bytes, the largest is %zu", bytes, f->frame_bytes);
    if (l->reserved) BUG("fabric mpi-alltoallv: second reservation to peer %d", peer);
    l->next = round_queue_free(&l->send);
    if (l->next < 0) {
        progress(m);
        l->next = round_queue_free(&l->send);
    }
    if (l->next < 0 || l->gone || m->broken) {
        m->starved = true;
        return NULL;
    }
    l->reserved = bytes + 1;
    return send_buffer(m, peer, l->next);
}

/* Opens no round yet: frames for others may follow and share it. */
static void rounds_commit(struct fabric *f, int peer, size_t bytes) {
    struct rounds_rank *m = rounds_of(f);
    fabric_check_peer(f, peer);
    struct lane *l = &m->lanes[peer];
    if (!l->reserved || bytes > l->reserved - 1)
        BUG("fabric mpi-alltoallv: commit of %zu bytes to peer %d without room reserved", bytes, peer);
    l->reserved = 0;
    m->rested = false;
    round_queue_fill(&l->send, l->next, bytes);
}

static const void *next_arrived(struct rounds_rank *m, int peer, size_t *bytes) {
    struct round_queue *q = &m->lanes[peer].get;
    int i = m->lanes[peer].gone ? -1 : round_queue_next(q);
    if (i < 0) return NULL;
    q->room[i] = ROOM_AWAY;
    q->out++;
    *bytes = q->bytes[i];
    return get_buffer(m, peer, i);
}

static const void *rounds_take(struct fabric *f, int peer, size_t *bytes) {
    struct rounds_rank *m = rounds_of(f);
    fabric_check_peer(f, peer);
    const void *frame = next_arrived(m, peer, bytes);
    if (frame || ++m->idle_takes < f->size) return frame;
    progress(m);
    return next_arrived(m, peer, bytes);
}

static void rounds_give(struct fabric *f, int peer, const void *frame) {
    struct rounds_rank *m = rounds_of(f);
    fabric_check_peer(f, peer);
    size_t at = ((uintptr_t)frame - (uintptr_t)get_buffer(m, peer, 0)) / (m->slot_lines * LINE);
    if (at >= FABRIC_DEPTH || m->lanes[peer].get.room[at] != ROOM_AWAY)
        BUG("fabric mpi-alltoallv: rank %d gives back a frame of %d that it has not", f->rank, peer);
    m->lanes[peer].get.room[at] = ROOM_FREE;
}

static int rounds_poll(struct fabric *f) {
    struct rounds_rank *m = rounds_of(f);
    progress(m);
    bool news = m->news;
    if (news) m->news = m->starved = false;
    return news;
}

static int rounds_arm(struct fabric *f) {
    const struct rounds_rank *m = rounds_of(f);
    return !m->broken && (m->stage != IDLE || wants_round(m));
}

/* Until all ranks flush: see above. What arrives meanwhile is still news afterwards. */
static int rounds_flush(struct fabric *f, int64_t deadline_us) {
    struct rounds_rank *m = rounds_of(f);
    int rc = 0;
    bool news = false;
    m->resting = f->size > 1;
    while (rc == 0 && m->resting && !m->rested && !m->broken) {
        rc = fabric_wait(f, deadline_us);
        news |= rc == 0;
    }
    m->news |= news;
    if (m->rested) {
        m->announced = false;
        rc = 0;
    }
    m->resting = m->rested = false;
    return rc;
}

static size_t rounds_address(struct fabric *f, void *out) {
    (void)f, (void)out; /* the world knows its ranks */
    return 0;
}

static int rounds_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    (void)f, (void)peer, (void)incarnation, (void)address, (void)bytes, (void)why; /* joined by the world, once and for all */
    return 0;
}

static void rounds_detach(struct fabric *f, int peer) { rounds_of(f)->lanes[peer].gone = true; }

/* ---- life ---- */

/* All say good-bye to all, so that no invitation is under way when the communicator goes. false: something still is, and MPI
 * may still read and write our memory. */
static bool part(struct rounds_rank *m, int64_t deadline_us) {
    m->leaving = true;
    m->to_invite = others(m);
    while (!m->broken) {
        bool all = !m->to_invite;
        for (int i = 0; i < 1 + 2 * m->base.size; i++) all = all && m->requests[i] == MPI_REQUEST_NULL;
        if (all) return true;
        if (clk_now_us() >= deadline_us) return false;
        test(m);
        invite(m);
    }
    return false;
}

static void free_memory(struct rounds_rank *m) {
    if (m->out) munmap(m->out, m->map_bytes);
    free(m->lanes);
    free(m->say);
    free(m->lines_out);
    free(m->call_in);
    free(m->requests);
    free(m->statuses);
    free(m->indices);
    free(m);
}

static void rounds_close(struct fabric *f) {
    struct rounds_rank *m = rounds_of(f);
    int64_t deadline_us = clk_now_us() + CLOSE_US;
    if ((f->frame_bytes || m->broken) && (rounds_flush(f, deadline_us) < 0 || !part(m, deadline_us))) {
        log_warn("fabric mpi-alltoallv: rank %d closes before the others; its memory stays with MPI", f->rank);
        return;
    }
    if (m->line != MPI_DATATYPE_NULL) MPI_Type_free(&m->line);
    if (m->comm != MPI_COMM_NULL) MPI_Comm_free(&m->comm);
    free_memory(m);
}

static int allocate(struct rounds_rank *m, struct why *why) {
    size_t R = (size_t)m->base.size, n = 1 + 2 * R;
    m->map_bytes = R * 2 * FABRIC_DEPTH * m->slot_lines * LINE;
    m->lanes = calloc(R, sizeof *m->lanes);
    m->say = calloc(2 * R, sizeof *m->say);
    m->lines_out = calloc(4 * R, sizeof *m->lines_out);
    m->call_in = calloc(2 * R, sizeof *m->call_in);
    m->requests = calloc(n, sizeof(MPI_Request));
    m->statuses = calloc(n, sizeof *m->statuses);
    m->indices = calloc(n, sizeof *m->indices);
    void *map = mmap(NULL, m->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map != MAP_FAILED) {
        m->out = map;
        m->in = m->out + m->map_bytes / 2;
    }
    for (size_t i = 0; m->requests && i < n; i++) m->requests[i] = MPI_REQUEST_NULL;
    if (!m->out || !m->lanes || !m->say || !m->lines_out || !m->call_in || !m->requests || !m->statuses || !m->indices)
        return fail(why, ERR_NOMEM, "fabric mpi-alltoallv: no memory for buffers of %zu bytes", m->map_bytes);
    m->hear = m->say + R;
    m->at_out = m->lines_out + R, m->lines_in = m->lines_out + 2 * R, m->at_in = m->lines_out + 3 * R;
    m->call_out = m->call_in + R;
    return 0;
}

/* Collective: returns when every rank of the world has called it. */
static int rounds_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    struct rounds_rank *m = rounds_of(f);
    (void)incarnation;
    size_t most = (size_t)INT_MAX / ((size_t)f->size * FABRIC_DEPTH); /* MPI counts places with an int */
    m->slot_lines = (frame_bytes + LINE - 1) / LINE;
    if (m->slot_lines > most)
        return fail(why, ERR_TOO_LARGE, "fabric mpi-alltoallv: frames of %zu bytes, at most %zu between %d ranks; lower the "
                    "largest step", frame_bytes, most * LINE, f->size);
    int rc = allocate(m, why);
    if (rc >= 0) rc = world_dup(&m->comm, clk_now_us() + WORLD_PATIENCE_US, why);
    if (rc < 0) return rc;
    rc = MPI_Type_contiguous(LINE, MPI_BYTE, &m->line);
    if (rc == MPI_SUCCESS) rc = MPI_Type_commit(&m->line);
    if (rc != MPI_SUCCESS) return world_failed(why, "MPI_Type_contiguous", rc);
    for (int p = 0; p < f->size; p++) {
        m->lanes[p].send.now = m->lanes[p].get.now = -1;
        if (p != f->rank) listen_to(m, p);
    }
    return m->broken ? fail(why, ERR_IO, "fabric mpi-alltoallv: MPI takes no receives") : 0;
}

static const struct fabric_ops rounds_ops = {.name = "mpi-alltoallv",
                                             .address = rounds_address,
                                             .prepare = rounds_prepare,
                                             .attach = rounds_attach,
                                             .detach = rounds_detach,
                                             .reserve = rounds_reserve,
                                             .commit = rounds_commit,
                                             .take = rounds_take,
                                             .give = rounds_give,
                                             .poll = rounds_poll,
                                             .arm = rounds_arm,
                                             .flush = rounds_flush,
                                             .close = rounds_close};

int fabric_mpi_alltoallv_open(struct fabric **out, struct why *why) {
    struct rounds_rank *m = calloc(1, sizeof *m);
    if (!m) return fail(why, ERR_NOMEM, "fabric mpi-alltoallv: out of memory for a handle");
    m->base = (struct fabric){.ops = &rounds_ops, .fd = -1};
    m->comm = MPI_COMM_NULL;
    m->line = MPI_DATATYPE_NULL;
    MPI_Comm_rank(MPI_COMM_WORLD, &m->base.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &m->base.size);
    *out = &m->base;
    return 0;
}
