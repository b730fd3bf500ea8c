/* fabric_shm.c - ranks are processes of one host; a frame is written once, into memory the receiver reads (slots.h).
 *
 * A stream lies in its receiver's memory file (shm_file.h), in the area of its sender's incarnation. There is one writer and
 * one reader to each, and no memory that several write: whatever moment a process dies at, it harms only its own stream.
 * The receiver makes room for an area when it attaches to the sender; a sender that comes first finds the stream full until
 * then, and is told.
 *
 * Waking: by a doorbell (doorbell.h) in the head of the file, and a pipe for the bell. Room is news only for a sender that was
 * refused some, and says so in the stream. */
#include "fabric/fabric.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "fabric/shm_file.h"
#include "fabric/slots.h"

struct area { /* of our file, where one incarnation of one peer writes */
    struct area *next;
    uint32_t incarnation;
    void *map;
    struct slots in;
};

struct link { /* both streams between this rank and one peer */
    bool attached;
    uint32_t incarnation; /* the peer's */
    struct shm_peer peer; /* not open: the peer was gone when we attached */
    void *out_map;        /* our area of its file; NULL: not mapped yet */
    struct slots out;
    struct area *area; /* where it writes; kept after detach: it may be alive, in the middle of a frame, and come back */
    struct area *old;  /* predecessors' with frames that were not given back */
};

struct shm_rank {
    struct fabric base;
    struct shm_file file;
    uint32_t incarnation;
    size_t slot_bytes, stream_bytes; /* stream_bytes: of an area, whole pages */
    struct link links[FABRIC_MAX_RANKS];
    unsigned seen; /* event count that the last poll returned with */
    bool news; /* attached to somebody: frames may be there already */
};

static struct shm_rank *shm_of(struct fabric *f) { return (struct shm_rank *)f; }
static uint64_t area_at(const struct shm_rank *m, uint32_t incarnation) {
    return shm_page() + (uint64_t)incarnation * m->stream_bytes;
}
static struct slots slots_in(const struct shm_rank *m, void *map) {
    return (struct slots){.shared = map, .frames = (unsigned char *)map + shm_page(), .slot_bytes = m->slot_bytes};
}

static struct link *link_of(struct shm_rank *m, int peer) {
    fabric_check_peer(&m->base, peer);
    return &m->links[peer];
}

/* ---- areas of our own file ---- */

static void retire(struct shm_rank *m, struct area *a) {
    munmap(a->map, m->stream_bytes);
    shm_file_punch(&m->file, area_at(m, a->incarnation), m->stream_bytes);
    free(a);
}

static int new_area(struct shm_rank *m, struct link *l, uint32_t incarnation, struct why *why) {
    uint64_t end;
    if (__builtin_mul_overflow((uint64_t)incarnation + 1, (uint64_t)m->stream_bytes, &end) || end > INT64_MAX / 2)
        return fail(why, ERR_TOO_LARGE, "fabric shm: incarnation %u with streams of %zu bytes", incarnation, m->stream_bytes);
    int rc = shm_file_grow(&m->file, end + shm_page(), why);
    if (rc < 0) return rc;
    struct area *a = calloc(1, sizeof *a);
    void *map = a ? shm_map(m->file.fd, area_at(m, incarnation), m->stream_bytes) : NULL;
    if (!map) {
        free(a);
        return fail(why, ERR_NOMEM, "fabric shm: no address space for a stream of %zu bytes; lower the largest step",
                    m->stream_bytes);
    }
    *a = (struct area){.incarnation = incarnation, .map = map, .in = slots_in(m, map)};
    l->area = a;
    return 0;
}

/* ---- attach and detach ---- */

static void shm_detach(struct fabric *f, int peer) {
    struct shm_rank *m = shm_of(f);
    struct link *l = link_of(m, peer);
    if (!l->attached) return;
    l->attached = false;
    if (l->out_map) munmap(l->out_map, m->stream_bytes);
    l->out_map = NULL;
    l->out = (struct slots){0};
    shm_peer_close(&l->peer);
}

/* The area of the process to come: a new one, or, when the same process is attached again, the one it had, without the
 * frames that were in it. */
static int turn_to(struct shm_rank *m, struct link *l, uint32_t incarnation, struct why *why) {
    struct area *a = l->area;
    if (a && a->incarnation == incarnation) {
        size_t bytes;
        for (int slot; (slot = slots_next(&a->in)) >= 0; slots_give(&a->in, slot)) slots_take(&a->in, slot, &bytes);
        return 0;
    }
    l->area = NULL;
    if (a && a->in.taken) {
        a->next = l->old;
        l->old = a;
    } else if (a) {
        retire(m, a);
    }
    return new_area(m, l, incarnation, why);
}

static int shm_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    struct shm_rank *m = shm_of(f);
    struct link *l = link_of(m, peer);
    if (l->attached && l->incarnation == incarnation) return 0;
    shm_detach(f, peer);
    int rc = shm_peer_open(&l->peer, peer, address, bytes, why), found = rc;
    if (rc >= 0) rc = turn_to(m, l, incarnation, why);
    if (rc < 0) {
        shm_peer_close(&l->peer);
        return rc;
    }
    l->incarnation = incarnation;
    l->attached = true;
    m->news = true;
    if (found) shm_peer_ring(&l->peer); /* it may have waited for room */
    return 0;
}

/* ---- frames ---- */

/* Maps our area of the peer's file once it is there. What both ends know of the stream is in it: a process that is attached
 * again goes on counting where it was. */
static bool map_out(struct shm_rank *m, struct link *l, int peer) {
    if (!l->peer.head) return false;
    uint64_t theirs = atomic_load_explicit(&l->peer.head->frame_bytes, memory_order_acquire);
    if (theirs && theirs != m->base.frame_bytes) {
        log_error("fabric shm: rank %d takes frames of %llu bytes, this one of %zu; it counts as silent", peer,
                  (unsigned long long)theirs, m->base.frame_bytes);
        shm_peer_close(&l->peer);
        return false;
    }
    if (!theirs || !shm_has(l->peer.fd, area_at(m, m->incarnation) + m->stream_bytes)) return false;
    l->out_map = shm_map(l->peer.fd, area_at(m, m->incarnation), m->stream_bytes);
    if (!l->out_map) {
        log_error("fabric shm: no address space for the stream to rank %d; it counts as silent", peer);
        shm_peer_close(&l->peer);
        return false;
    }
    close(l->peer.fd);
    l->peer.fd = -1; /* mapped for good */
    l->out = slots_in(m, l->out_map);
    for (int i = 0; i < FABRIC_DEPTH; i++) {
        l->out.mine[i] = atomic_load(&l->out.shared->sent[i]);
        if (l->out.mine[i] > l->out.count) l->out.count = l->out.mine[i];
    }
    return true;
}

static void *shm_reserve(struct fabric *f, int peer, size_t bytes) {
    struct shm_rank *m = shm_of(f);
    struct link *l = link_of(m, peer);
    if (bytes > f->frame_bytes) BUG("fabric shm: a frame of %zu bytes, the largest is %zu", bytes, f->frame_bytes);
    if (l->out.reserved) BUG("fabric shm: second reservation to peer %d", peer);
    if (!l->out_map && !map_out(m, l, peer)) return NULL;
    void *room = slots_reserve(&l->out, bytes);
    return room ? room : slots_beg(&l->out, bytes);
}

static void shm_commit(struct fabric *f, int peer, size_t bytes) {
    struct link *l = link_of(shm_of(f), peer);
    if (!l->out.reserved || bytes > l->out.reserved - 1)
        BUG("fabric shm: commit of %zu bytes to peer %d without room reserved", bytes, peer);
    slots_commit(&l->out, bytes);
    shm_peer_ring(&l->peer);
}

static const void *shm_take(struct fabric *f, int peer, size_t *bytes) {
    struct link *l = link_of(shm_of(f), peer);
    if (!l->attached) return NULL;
    int slot = slots_next(&l->area->in);
    return slot < 0 ? NULL : slots_take(&l->area->in, slot, bytes);
}

static void give_old(struct shm_rank *m, struct link *l, int peer, const void *frame) {
    for (struct area **at = &l->old; *at; at = &(*at)->next) {
        struct area *a = *at;
        int slot = slots_slot(&a->in, frame);
        if (slot < 0) continue;
        slots_give(&a->in, slot);
        if (a->in.taken) return;
        *at = a->next;
        retire(m, a);
        return;
    }
    BUG("fabric shm: rank %d gives back a frame of %d that it has not", m->base.rank, peer);
}

static void shm_give(struct fabric *f, int peer, const void *frame) {
    struct shm_rank *m = shm_of(f);
    struct link *l = link_of(m, peer);
    int slot = l->area ? slots_slot(&l->area->in, frame) : -1;
    if (slot < 0) {
        give_old(m, l, peer, frame);
        return;
    }
    slots_give(&l->area->in, slot);
    if (l->attached && l->peer.head && slots_begged(&l->area->in)) shm_peer_ring(&l->peer);
}

/* ---- waiting ---- */

static int shm_poll(struct fabric *f) {
    struct shm_rank *m = shm_of(f);
    struct doorbell *d = &m->file.head->door;
    if (doorbell_disarm(d)) {
        char rings[64]; /* if there are more, the next sleep ends early */
        ssize_t n = read(m->file.bell[0], rings, sizeof rings);
        (void)n;
    }
    unsigned events = atomic_load_explicit(&d->events, memory_order_acquire);
    if (events == m->seen && !m->news) return 0;
    m->seen = events;
    m->news = false;
    return 1;
}

static int shm_arm(struct fabric *f) {
    struct shm_rank *m = shm_of(f);
    return doorbell_arm(&m->file.head->door, m->seen) || m->news;
}

static int shm_flush(struct fabric *f, int64_t deadline_us) { /* a committed frame is where its reader looks */
    (void)f, (void)deadline_us;
    return 0;
}

/* ---- life ---- */

static size_t shm_address(struct fabric *f, void *out) { return shm_file_address(&shm_of(f)->file, out); }

static int shm_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    struct shm_rank *m = shm_of(f);
    (void)why;
    m->incarnation = incarnation;
    m->slot_bytes = slots_round(frame_bytes);
    m->stream_bytes = shm_page() + shm_pages(m->slot_bytes * FABRIC_DEPTH);
    atomic_store_explicit(&m->file.head->frame_bytes, frame_bytes, memory_order_release);
    return 0;
}

static void shm_close(struct fabric *f) {
    struct shm_rank *m = shm_of(f);
    for (int peer = 0; peer < f->size; peer++) {
        if (peer == f->rank) continue;
        struct link *l = &m->links[peer];
        shm_detach(f, peer);
        if (l->area) {
            l->area->next = l->old;
            l->old = l->area;
        }
        for (struct area *a = l->old, *next; a; a = next) {
            next = a->next;
            munmap(a->map, m->stream_bytes);
            free(a);
        }
    }
    shm_file_close(&m->file);
    free(m);
}

static const struct fabric_ops shm_ops = {.name = "shm",
                                          .address = shm_address,
                                          .prepare = shm_prepare,
                                          .attach = shm_attach,
                                          .detach = shm_detach,
                                          .reserve = shm_reserve,
                                          .commit = shm_commit,
                                          .take = shm_take,
                                          .give = shm_give,
                                          .poll = shm_poll,
                                          .arm = shm_arm,
                                          .flush = shm_flush,
                                          .close = shm_close};

int fabric_shm_open(int rank, int size, struct fabric **out, struct why *why) {
    if (size < 1 || size > FABRIC_MAX_RANKS || rank < 0 || rank >= size)
        return fail(why, ERR_INVALID, "fabric shm: rank %d of %d, expected up to %d ranks", rank, size, FABRIC_MAX_RANKS);
    struct shm_rank *m = aligned_alloc(SLOT_LINE, (sizeof *m + SLOT_LINE - 1) / SLOT_LINE * SLOT_LINE);
    if (!m) return fail(why, ERR_NOMEM, "fabric shm: out of memory for a handle");
    *m = (struct shm_rank){.base = {.ops = &shm_ops, .rank = rank, .size = size, .near = UINT64_MAX}};
    for (int i = 0; i < FABRIC_MAX_RANKS; i++) m->links[i].peer = (struct shm_peer){.fd = -1, .bell = -1};
    int rc = shm_file_open(&m->file, rank, why);
    if (rc < 0) {
        free(m);
        return rc;
    }
    m->base.fd = m->file.bell[0];
    *out = &m->base;
    return 0;
}
