/* fabric_mpi.c - ranks are the processes of one MPI world; frames travel point to point on a communicator of our own.
 *
 * Each ordered pair has FABRIC_DEPTH buffers at either end. The receiver keeps one of its buffers posted; MPI matches the
 * messages of one sender in the order sent with receives in the order posted, so a receive's number is its frame's number. A
 * frame given back frees its buffer, and the lowest free one is posted next: memory is touched as much as is under way. The
 * sender uses synchronous sends (Issend): one completes only when its receive was matched, so a sender is never far ahead of a
 * receiver that stands still, and nothing piles up inside MPI. Nothing here blocks in MPI: every completion is learned by
 * MPI_Testsome over one array that holds all requests.
 *
 * MPI has no file descriptor to sleep on, and a call that blocks would also block on a dead rank; so waiting is polling, then
 * short naps (fabric.c). Run with mpi_yield_when_idle=1: then a poll that finds nothing to do yields the core,
 * while one that moves pieces of a large frame does not; we cannot tell the two apart, so we do not yield ourselves. And with
 * pml_ob1_send_pipeline_depth=32: the default of 3 moves only 96 KB of a large frame per exchange of looks (bench_fabric:
 * x2.5), and with 64 what is under way wanders through more memory than caches hold.
 *
 * A world is static and a dead rank is only silence: receives from it stay posted, sends to it never complete, MPI_Finalize
 * would hang. Errors are returned by MPI (MPI_ERRORS_RETURN), logged once per peer, and turn that peer silent as well.
 * Processes share no state with us, and MPI itself is the only global. */
#include <limits.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/fabric.h"
#include "fabric/world_mpi.h"

enum {
    LINE = 64,
    POSTED = 1, /* receives per peer that wait for a frame; with more, frames wander through more memory than caches hold */
    PUSH_BYTES = 65536, /* the least frame that takes several looks of both ends */
    PUSH_US = 200,      /* how long a rank with news goes on sending such frames before it says so */
    CLOSE_US = 1000000 /* how long close waits for frames that were sent but not taken */
};

enum room { ROOM_FREE, ROOM_POSTED, ROOM_ARRIVED, ROOM_TAKEN }; /* of a receive buffer */

struct lane { /* both streams between this rank and one peer */
    enum room room[FABRIC_DEPTH];
    uint64_t number[FABRIC_DEPTH]; /* of the frame in, or to come into, each receive buffer */
    size_t bytes[FABRIC_DEPTH];    /* of arrived frames */
    int waiting;                   /* receives posted and not arrived */
    uint64_t posted, taken;        /* numbers of the receive posted last, of the frame taken last */
    size_t sent[FABRIC_DEPTH];     /* bytes in each send buffer */
    int next;                      /* send buffer of the open reservation */
    size_t reserved;               /* bytes of that + 1; 0 = none */
    bool broken;                   /* MPI reported an error, or detached: treated as silent from then on */
};

struct mpi_rank {
    struct fabric base;
    MPI_Comm comm;
    struct lane *lanes;    /* [size] */
    int n;                 /* requests: size * 2 * DEPTH */
    MPI_Request *requests; /* [peer][in, out][DEPTH]; our own entries stay null */
    MPI_Status *statuses;  /* [n] scratch */
    int *indices;          /* [n] scratch */
    unsigned char *map;    /* buffers, same order as requests, of slot_bytes each */
    size_t slot_bytes, map_bytes;
    bool news;      /* progress outside of a poll brought some */
    bool starved;   /* a reserve failed since there was news: a completed send is some */
    int idle_takes; /* takes that found nothing since MPI was polled */
};

static struct mpi_rank *mpi_of(struct fabric *f) { return (struct mpi_rank *)f; }
static int in_index(int peer, int i) { return peer * 2 * FABRIC_DEPTH + i; }
static int out_index(int peer, int i) { return (peer * 2 + 1) * FABRIC_DEPTH + i; }
static void *buffer(struct mpi_rank *m, int index) { return m->map + (size_t)index * m->slot_bytes; }

static void broken(struct mpi_rank *m, int peer, const char *doing, int code) {
    char text[MPI_MAX_ERROR_STRING];
    if (!m->lanes[peer].broken)
        log_error("fabric mpi: %s rank %d: %s; it counts as silent now", doing, peer, world_text(code, text));
    m->lanes[peer].broken = true;
}

/* Keeps receives posted, as far as there are free buffers. */
static void post_receives(struct mpi_rank *m, int peer) {
    struct lane *l = &m->lanes[peer];
    for (int i = 0; i < FABRIC_DEPTH && l->waiting < POSTED && !l->broken; i++) {
        if (l->room[i] != ROOM_FREE) continue;
        int rc = MPI_Irecv(buffer(m, in_index(peer, i)), (int)m->slot_bytes, MPI_BYTE, peer, 0, m->comm,
                           &m->requests[in_index(peer, i)]);
        if (rc != MPI_SUCCESS) return broken(m, peer, "receiving from", rc);
        l->room[i] = ROOM_POSTED;
        l->number[i] = ++l->posted;
        l->waiting++;
    }
}

/* Notes one completed request. Returns whether the owner may care: a frame, or room for one who asked for room. */
static bool complete(struct mpi_rank *m, int index, MPI_Status *status, bool has_error) {
    int peer = index / (2 * FABRIC_DEPTH), i = index % FABRIC_DEPTH;
    bool in = index / FABRIC_DEPTH % 2 == 0;
    if (has_error && status->MPI_ERROR != MPI_SUCCESS && status->MPI_ERROR != MPI_ERR_PENDING) {
        broken(m, peer, in ? "receiving from" : "sending to", status->MPI_ERROR);
        return false;
    }
    if (!in) return m->starved;
    int count = 0;
    MPI_Get_count(status, MPI_BYTE, &count);
    struct lane *l = &m->lanes[peer];
    l->bytes[i] = count > 0 ? (size_t)count : 0;
    l->room[i] = ROOM_ARRIVED;
    l->waiting--;
    post_receives(m, peer);
    return true;
}

/* Lets MPI work and takes in what completed. */
static bool progress(struct mpi_rank *m) {
    int done = 0;
    int rc = MPI_Testsome(m->n, m->requests, &done, m->indices, m->statuses);
    m->idle_takes = 0;
    if (done == MPI_UNDEFINED) return false; /* nothing is pending */
    if (rc != MPI_SUCCESS && rc != MPI_ERR_IN_STATUS) {
        char text[MPI_MAX_ERROR_STRING];
        log_error("fabric mpi: MPI_Testsome: %s", world_text(rc, text));
        return false;
    }
    bool news = false;
    for (int i = 0; i < done; i++) news |= complete(m, m->indices[i], &m->statuses[i], rc == MPI_ERR_IN_STATUS);
    return news;
}

/* Frames of at least `bytes` that are under way. silent: to peers that count as silent, too; their sends may never end. */
static bool sends_pending(const struct mpi_rank *m, bool silent, size_t bytes) {
    if (!m->requests) return false; /* never prepared */
    for (int peer = 0; peer < m->base.size; peer++)
        for (int i = 0; (silent || !m->lanes[peer].broken) && i < FABRIC_DEPTH; i++)
            if (m->requests[out_index(peer, i)] != MPI_REQUEST_NULL && m->lanes[peer].sent[i] >= bytes) return true;
    return false;
}

/* Who has got something will be busy with it, and whoever still waits for our half of the exchange would wait for that too. But
 * a peer whose frame has just come is calling MPI now: so what is under way to it goes first, as far as that takes no longer
 * than a large frame does (64 tokens: a sixth less). */
static bool progress_and_push(struct mpi_rank *m) {
    bool news = progress(m);
    for (int64_t until_us = 0; news && sends_pending(m, false, PUSH_BYTES); (void)progress(m)) {
        if (!until_us) until_us = clk_now_us() + PUSH_US;
        if (clk_now_us() >= until_us) break;
    }
    return news;
}

static int free_send(const struct mpi_rank *m, int peer) {
    for (int i = 0; i < FABRIC_DEPTH; i++)
        if (m->requests[out_index(peer, i)] == MPI_REQUEST_NULL) return i;
    return -1;
}

static void *mpi_reserve(struct fabric *f, int peer, size_t bytes) {
    struct mpi_rank *m = mpi_of(f);
    fabric_check_peer(f, peer);
    struct lane *l = &m->lanes[peer];
    if (bytes > f->frame_bytes) BUG("fabric mpi: a frame of %zu bytes, the largest is %zu", bytes, f->frame_bytes);
    if (l->reserved) BUG("fabric mpi: second reservation to peer %d", peer);
    l->next = free_send(m, peer);
    if (l->next < 0) {
        m->news |= progress(m);
        l->next = free_send(m, peer);
    }
    if (l->next < 0 || l->broken) {
        m->starved = true;
        return NULL;
    }
    l->reserved = bytes + 1;
    return buffer(m, out_index(peer, l->next));
}

static void mpi_commit(struct fabric *f, int peer, size_t bytes) {
    struct mpi_rank *m = mpi_of(f);
    fabric_check_peer(f, peer);
    struct lane *l = &m->lanes[peer];
    if (!l->reserved || bytes > l->reserved - 1)
        BUG("fabric mpi: commit of %zu bytes to peer %d without room reserved", bytes, peer);
    l->reserved = 0;
    l->sent[l->next] = bytes;
    int index = out_index(peer, l->next);
    int rc = MPI_Issend(buffer(m, index), (int)bytes, MPI_BYTE, peer, 0, m->comm, &m->requests[index]);
    if (rc != MPI_SUCCESS) {
        m->requests[index] = MPI_REQUEST_NULL;
        broken(m, peer, "sending to", rc);
    }
}

static const void *next_arrived(struct mpi_rank *m, int peer, size_t *bytes) {
    struct lane *l = &m->lanes[peer];
    for (int i = 0; i < FABRIC_DEPTH; i++) {
        if (l->room[i] != ROOM_ARRIVED || l->number[i] != l->taken + 1 || l->broken) continue;
        l->room[i] = ROOM_TAKEN;
        l->taken++;
        *bytes = l->bytes[i];
        return buffer(m, in_index(peer, i));
    }
    return NULL;
}

/* MPI is polled once per round of fruitless looks at everyone, not once per look: polling costs, and may yield the core. */
static const void *mpi_take(struct fabric *f, int peer, size_t *bytes) {
    struct mpi_rank *m = mpi_of(f);
    fabric_check_peer(f, peer);
    const void *frame = next_arrived(m, peer, bytes);
    if (frame || ++m->idle_takes < f->size) return frame;
    m->news |= progress_and_push(m);
    return next_arrived(m, peer, bytes);
}

static void mpi_give(struct fabric *f, int peer, const void *frame) {
    struct mpi_rank *m = mpi_of(f);
    fabric_check_peer(f, peer);
    size_t at = ((uintptr_t)frame - (uintptr_t)buffer(m, in_index(peer, 0))) / m->slot_bytes;
    if (at >= FABRIC_DEPTH || m->lanes[peer].room[at] != ROOM_TAKEN)
        BUG("fabric mpi: rank %d gives back a frame of %d that it has not", f->rank, peer);
    m->lanes[peer].room[at] = ROOM_FREE;
    post_receives(m, peer);
}

static int mpi_poll(struct fabric *f) {
    struct mpi_rank *m = mpi_of(f);
    bool news = progress_and_push(m) || m->news;
    if (news) m->news = m->starved = false; /* who was refused room stays so until told */
    return news;
}

/* A large one moves a few pieces per look. */
static int mpi_arm(struct fabric *f) { return sends_pending(mpi_of(f), false, 0); }

/* A frame beyond MPI's eager limit leaves in pieces, and only while we call MPI. What ended meanwhile is still news
 * afterwards. */
static int mpi_flush(struct fabric *f, int64_t deadline_us) {
    struct mpi_rank *m = mpi_of(f);
    bool news = false;
    int rc = 0;
    while (rc == 0 && sends_pending(m, false, 0)) {
        m->starved = true; /* so that a wait ends with a send */
        rc = fabric_wait(f, deadline_us);
        news |= rc == 0;
    }
    m->news |= news;
    return rc;
}

static size_t mpi_address(struct fabric *f, void *out) {
    (void)f, (void)out; /* the world knows its ranks */
    return 0;
}

static int mpi_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    (void)f, (void)peer, (void)incarnation, (void)address, (void)bytes, (void)why; /* joined by the world, once and for all */
    return 0;
}

static void mpi_detach(struct fabric *f, int peer) { mpi_of(f)->lanes[peer].broken = true; }

/* ---- life ---- */

/* Takes back the posted receives. Cancelling one is local, unless a message is just coming in; then a little patience. */
static bool cancel_receives(struct mpi_rank *m, int64_t deadline_us) {
    bool all = true;
    for (int peer = 0; peer < m->base.size; peer++) {
        for (int i = 0; i < FABRIC_DEPTH; i++) {
            MPI_Request *r = &m->requests[in_index(peer, i)];
            int done = *r == MPI_REQUEST_NULL;
            if (!done) MPI_Cancel(r);
            while (!done)
                if (MPI_Test(r, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || (!done && clk_now_us() >= deadline_us)) break;
            all = all && done;
        }
    }
    return all;
}

static void free_memory(struct mpi_rank *m) {
    if (m->map) munmap(m->map, m->map_bytes);
    free(m->lanes);
    free(m->requests);
    free(m->statuses);
    free(m->indices);
    free(m);
}

static void mpi_close(struct fabric *f) {
    struct mpi_rank *m = mpi_of(f);
    int64_t deadline_us = clk_now_us() + CLOSE_US;
    mpi_flush(f, deadline_us);
    if (m->requests && (!cancel_receives(m, deadline_us) || sends_pending(m, true, 0))) {
        log_warn("fabric mpi: rank %d closes with unfinished frames; their memory stays with MPI", f->rank);
        return; /* MPI may still write or read the buffers */
    }
    if (m->comm != MPI_COMM_NULL) MPI_Comm_free(&m->comm);
    free_memory(m);
}

static int allocate(struct mpi_rank *m, size_t frame_bytes, struct why *why) {
    size_t n = (size_t)m->n;
    m->slot_bytes = (frame_bytes + LINE - 1) / LINE * LINE;
    m->map_bytes = n * m->slot_bytes;
    m->lanes = calloc((size_t)m->base.size, sizeof *m->lanes);
    m->requests = calloc(n, sizeof *m->requests);
    m->statuses = calloc(n, sizeof *m->statuses);
    m->indices = calloc(n, sizeof *m->indices);
    void *map = mmap(NULL, m->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map != MAP_FAILED) m->map = map;
    for (int i = 0; m->requests && i < m->n; i++) m->requests[i] = MPI_REQUEST_NULL;
    if (!m->map || !m->lanes || !m->requests || !m->statuses || !m->indices)
        return fail(why, ERR_NOMEM, "fabric mpi: no memory for %d buffers of %zu bytes", m->n, m->slot_bytes);
    return 0;
}

/* Collective: returns when every rank of the world has called it, or one has kept the others waiting for too long. */
static int mpi_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    struct mpi_rank *m = mpi_of(f);
    (void)incarnation;
    if (frame_bytes > INT_MAX - LINE)
        return fail(why, ERR_TOO_LARGE, "fabric mpi: frames of %zu bytes, MPI counts to %d; lower the largest step",
                    frame_bytes, INT_MAX);
    int rc = world_dup(&m->comm, clk_now_us() + WORLD_PATIENCE_US, why);
    if (rc >= 0) rc = allocate(m, frame_bytes, why);
    for (int peer = 0; rc >= 0 && peer < f->size; peer++) {
        if (peer != f->rank) post_receives(m, peer);
        if (m->lanes[peer].broken) rc = fail(why, ERR_IO, "fabric mpi: MPI takes no receives from rank %d", peer);
    }
    return rc;
}

static const struct fabric_ops mpi_ops = {.name = "mpi",
                                          .address = mpi_address,
                                          .prepare = mpi_prepare,
                                          .attach = mpi_attach,
                                          .detach = mpi_detach,
                                          .reserve = mpi_reserve,
                                          .commit = mpi_commit,
                                          .take = mpi_take,
                                          .give = mpi_give,
                                          .poll = mpi_poll,
                                          .arm = mpi_arm,
                                          .flush = mpi_flush,
                                          .close = mpi_close};

int fabric_mpi_open(struct fabric **out, struct why *why) {
    struct mpi_rank *m = calloc(1, sizeof *m);
    if (!m) return fail(why, ERR_NOMEM, "fabric mpi: out of memory for a handle");
    m->base = (struct fabric){.ops = &mpi_ops, .fd = -1};
    m->comm = MPI_COMM_NULL;
    MPI_Comm_rank(MPI_COMM_WORLD, &m->base.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &m->base.size);
    m->n = m->base.size * 2 * FABRIC_DEPTH;
    *out = &m->base;
    return 0;
}
