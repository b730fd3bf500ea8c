/* fabric_mem.c - ranks are threads of one process; a frame is written once, into memory the receiver reads (slots.h).
 *
 * Waking: each rank has a count of events, raised by whoever commits a frame to it or gives back one of its frames. Its owner
 * remembers the count it last polled; fabric_poll tells whether it has moved since, so nothing that happens between a look
 * and the sleep is lost. The raiser rings the bell only when the owner says that it sleeps.
 *
 * Slots are reserved as address space when the first rank is prepared, all ranks' at once; pages that no frame ever reached
 * cost nothing.
 * Faults are decided by the receiver from (seed, source, destination, frame number) alone. */
#include "fabric/fabric.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bell.h"
#include "base/clk.h"
#include "base/hash.h"
#include "base/log.h"
#include "fabric/slots.h"

enum { DELAY_MAX_US = 400 /* a delayed frame is held back for 1..DELAY_MAX_US */ };

struct stream { /* of one ordered pair */
    struct slots_shared shared;
    _Alignas(SLOT_LINE) struct slots out; /* the producer's end */
    _Alignas(SLOT_LINE) struct slots in;  /* the consumer's end */
    int64_t sent_us[FABRIC_DEPTH];        /* when it was committed; only with delays */
    unsigned again;                       /* slots whose frame has been given back once and comes once more */
    unsigned repeated;                    /* slots whose frame has come twice */
};

struct door { /* of one rank: where others ring */
    _Alignas(SLOT_LINE) atomic_uint events;
    atomic_bool asleep, dead;
    atomic_bool open;
    struct bell bell;
};

struct fabric_hub {
    int ranks;
    pthread_mutex_t lock; /* prepare only */
    size_t frame_bytes, slot_bytes, map_bytes;
    struct fabric_faults faults;
    struct door *doors;     /* [ranks] */
    struct stream *streams; /* [source * ranks + destination] */
    unsigned char *map;
};

struct mem_rank { /* one rank's handle: its thread's alone */
    struct fabric base;
    struct fabric_hub *hub;
    unsigned seen;  /* event count that the last poll returned with */
    int64_t due_us; /* the earliest moment a held-back frame turns up; INT64_MAX: none */
};

static struct mem_rank *mem_of(struct fabric *f) { return (struct mem_rank *)f; }
static struct stream *stream_of(struct fabric_hub *h, int from, int to) { return &h->streams[from * h->ranks + to]; }
static struct door *own_door(struct mem_rank *m) { return &m->hub->doors[m->base.rank]; }
static bool is_dead(struct mem_rank *m) { return atomic_load_explicit(&own_door(m)->dead, memory_order_acquire); }

static void check_peer(const struct fabric *f, int peer) {
    if (peer < 0 || peer >= f->size || peer == f->rank) BUG("fabric mem: rank %d names peer %d of %d", f->rank, peer, f->size);
}

/* The order matters: the count first, then the look at `asleep`; the sleeper sets `asleep` first, then looks at the count.
 * Both are sequentially consistent, so one of the two sees the other. */
static void ring_door(struct door *d) {
    atomic_fetch_add(&d->events, 1);
    if (atomic_load(&d->asleep)) bell_ring(&d->bell);
}

static void *mem_reserve(struct fabric *f, int peer, size_t bytes) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    struct slots *s = &stream_of(m->hub, f->rank, peer)->out;
    if (bytes > f->frame_bytes) BUG("fabric mem: a frame of %zu bytes, the largest is %zu", bytes, f->frame_bytes);
    if (s->reserved) BUG("fabric mem: second reservation to peer %d", peer);
    return is_dead(m) ? NULL : slots_reserve(s, bytes);
}

static void mem_commit(struct fabric *f, int peer, size_t bytes) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    struct stream *s = stream_of(m->hub, f->rank, peer);
    if (!s->out.reserved || bytes > s->out.reserved - 1)
        BUG("fabric mem: commit of %zu bytes to peer %d without room reserved", bytes, peer);
    s->out.reserved = 0;
    if (is_dead(m)) return; /* the frame vanishes */
    if (m->hub->faults.delay_percent) s->sent_us[s->out.slot] = clk_now_us();
    slots_commit(&s->out, bytes);
    ring_door(&m->hub->doors[peer]);
}

/* A number that follows from the seed and the frame; `what` keeps the kinds of fault independent. */
static uint64_t fault_draw(const struct fabric_hub *h, int from, int to, uint64_t frame, uint64_t what) {
    return hash_u64(hash_u64(h->faults.seed + what) ^ ((uint64_t)from << 56 | (uint64_t)to << 48 | frame));
}

static bool held_back(struct mem_rank *m, int from, uint64_t frame, int64_t sent_us) {
    uint64_t draw = fault_draw(m->hub, from, m->base.rank, frame, 1);
    if ((int)(draw % 100) >= m->hub->faults.delay_percent) return false;
    int64_t due = sent_us + 1 + (int64_t)(draw >> 32) % DELAY_MAX_US;
    if (clk_now_us() >= due) return false;
    if (due < m->due_us) m->due_us = due;
    return true;
}

static const void *mem_take(struct fabric *f, int peer, size_t *bytes) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    if (is_dead(m)) return NULL;
    struct stream *s = stream_of(m->hub, peer, f->rank);
    if (s->again) {
        int slot = __builtin_ctz(s->again);
        s->again &= ~slots_bit(slot);
        s->repeated |= slots_bit(slot);
        *bytes = (size_t)s->shared.bytes[slot];
        return slots_at(&s->in, slot);
    }
    int slot = slots_next(&s->in);
    if (slot < 0) return NULL;
    if (m->hub->faults.delay_percent && held_back(m, peer, s->in.count + 1, s->sent_us[slot])) return NULL;
    return slots_take(&s->in, slot, bytes);
}

static bool comes_again(struct mem_rank *m, int peer, const struct stream *s, int slot) {
    const struct fabric_faults *faults = &m->hub->faults;
    if (!faults->duplicate_percent || s->repeated & slots_bit(slot)) return false;
    return (int)(fault_draw(m->hub, peer, m->base.rank, s->in.mine[slot], 2) % 100) < faults->duplicate_percent;
}

static void mem_give(struct fabric *f, int peer, const void *frame) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    struct stream *s = stream_of(m->hub, peer, f->rank);
    int slot = slots_slot(&s->in, frame);
    if (slot < 0 || s->again & slots_bit(slot))
        BUG("fabric mem: rank %d gives back a frame of %d that it has not", f->rank, peer);
    if (comes_again(m, peer, s, slot)) {
        s->again |= slots_bit(slot);
        return;
    }
    s->repeated &= ~slots_bit(slot);
    slots_give(&s->in, slot);
    ring_door(&m->hub->doors[peer]);
}

static int mem_poll(struct fabric *f) {
    struct mem_rank *m = mem_of(f);
    struct door *d = own_door(m);
    if (is_dead(m)) return ERR_GONE;
    if (atomic_load_explicit(&d->asleep, memory_order_relaxed)) {
        atomic_store(&d->asleep, false);
        bell_clear(&d->bell);
    }
    unsigned events = atomic_load_explicit(&d->events, memory_order_acquire);
    bool due = m->due_us != INT64_MAX && clk_now_us() >= m->due_us;
    if (events == m->seen && !due) return 0;
    m->seen = events;
    m->due_us = INT64_MAX; /* every look of the coming round puts its held-back frame in */
    return 1;
}

static int mem_arm(struct fabric *f) {
    struct mem_rank *m = mem_of(f);
    struct door *d = own_door(m);
    if (m->due_us != INT64_MAX) return 1; /* nobody rings for a held-back frame */
    atomic_store(&d->asleep, true);
    return atomic_load(&d->events) != m->seen || is_dead(m);
}

static int mem_flush(struct fabric *f, int64_t deadline_us) { /* a committed frame is where its reader looks */
    (void)f, (void)deadline_us;
    return 0;
}

static size_t mem_address(struct fabric *f, void *out) {
    (void)f, (void)out;
    return 0;
}

static int mem_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    (void)f, (void)peer, (void)incarnation, (void)address, (void)bytes, (void)why; /* the hub joins all from the start */
    return 0;
}

static void mem_detach(struct fabric *f, int peer) { (void)f, (void)peer; }

static void mem_close(struct fabric *f) {
    struct mem_rank *m = mem_of(f);
    atomic_store(&own_door(m)->open, false);
    free(m);
}

/* ---- life ---- */

static int map_slots(struct fabric_hub *h, struct why *why) {
    size_t pairs = (size_t)h->ranks * (size_t)(h->ranks - 1);
    h->slot_bytes = slots_round(h->frame_bytes);
    size_t per_stream = h->slot_bytes * FABRIC_DEPTH;
    if (pairs && per_stream > SIZE_MAX / 4 / pairs)
        return fail(why, ERR_TOO_LARGE, "fabric mem: %zu streams of %d frames of %zu bytes", pairs, FABRIC_DEPTH,
                    h->frame_bytes);
    h->map_bytes = pairs * per_stream;
    if (!h->map_bytes) return 0; /* a lone rank sends nothing */
    void *map = mmap(NULL, h->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return fail(why, ERR_NOMEM, "fabric mem: no address space for %zu bytes of frames; lower the largest step",
                    h->map_bytes);
    h->map = map;
    unsigned char *next = map;
    for (int from = 0; from < h->ranks; from++) {
        for (int to = 0; to < h->ranks; to++) {
            if (from == to) continue;
            struct stream *s = stream_of(h, from, to);
            s->out = s->in = (struct slots){.shared = &s->shared, .frames = next, .slot_bytes = h->slot_bytes};
            next += per_stream;
        }
    }
    return 0;
}

static int mem_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    (void)incarnation;
    struct fabric_hub *h = mem_of(f)->hub;
    int rc = 0;
    pthread_mutex_lock(&h->lock);
    if (!h->frame_bytes) {
        h->frame_bytes = frame_bytes;
        rc = map_slots(h, why);
        if (rc < 0) h->frame_bytes = 0;
    } else if (h->frame_bytes != frame_bytes) {
        rc = fail(why, ERR_INVALID, "fabric mem: rank %d wants frames of %zu bytes, others of %zu", f->rank, frame_bytes,
                  h->frame_bytes);
    }
    pthread_mutex_unlock(&h->lock);
    return rc;
}

static const struct fabric_ops mem_ops = {.name = "mem",
                                          .address = mem_address,
                                          .prepare = mem_prepare,
                                          .attach = mem_attach,
                                          .detach = mem_detach,
                                          .reserve = mem_reserve,
                                          .commit = mem_commit,
                                          .take = mem_take,
                                          .give = mem_give,
                                          .poll = mem_poll,
                                          .arm = mem_arm,
                                          .flush = mem_flush,
                                          .close = mem_close};

int fabric_mem_open(struct fabric_hub *h, int rank, struct fabric **out, struct why *why) {
    if (rank < 0 || rank >= h->ranks) return fail(why, ERR_INVALID, "fabric mem: rank %d, expected 0..%d", rank, h->ranks - 1);
    struct mem_rank *m = calloc(1, sizeof *m);
    if (!m) return fail(why, ERR_NOMEM, "fabric mem: out of memory for a handle");
    if (atomic_exchange(&h->doors[rank].open, true)) {
        free(m);
        return fail(why, ERR_EXISTS, "fabric mem: rank %d is open already", rank);
    }
    m->base = (struct fabric){.ops = &mem_ops, .rank = rank, .size = h->ranks, .fd = h->doors[rank].bell.fd};
    m->hub = h;
    m->due_us = INT64_MAX;
    *out = &m->base;
    return 0;
}

void fabric_hub_kill(struct fabric_hub *h, int rank) {
    if (rank < 0 || rank >= h->ranks) BUG("fabric mem: kill of rank %d of %d", rank, h->ranks);
    atomic_store_explicit(&h->doors[rank].dead, true, memory_order_release);
    ring_door(&h->doors[rank]);
}

static void *alloc_lines(size_t n, size_t size) {
    void *p = aligned_alloc(SLOT_LINE, n * size); /* both structs are whole lines */
    return p ? memset(p, 0, n * size) : NULL;
}

int fabric_hub_new(int ranks, const struct fabric_faults *faults, struct fabric_hub **out, struct why *why) {
    if (ranks < 1 || ranks > FABRIC_MAX_RANKS)
        return fail(why, ERR_INVALID, "fabric mem: %d ranks, expected 1..%d", ranks, FABRIC_MAX_RANKS);
    struct fabric_hub *h = calloc(1, sizeof *h);
    if (!h) return fail(why, ERR_NOMEM, "fabric mem: out of memory for a hub");
    h->ranks = ranks;
    pthread_mutex_init(&h->lock, NULL);
    if (faults) h->faults = *faults;
    h->doors = alloc_lines((size_t)ranks, sizeof *h->doors);
    h->streams = alloc_lines((size_t)ranks * (size_t)ranks, sizeof *h->streams);
    int rc = h->doors && h->streams ? 0 : ERR_NOMEM;
    for (int r = 0; h->doors && r < ranks; r++) h->doors[r].bell.fd = -1;
    for (int r = 0; rc >= 0 && r < ranks; r++) rc = bell_open(&h->doors[r].bell);
    if (rc < 0) {
        fabric_hub_free(h);
        return fail(why, rc, "fabric mem: no memory or file descriptors for %d ranks", ranks);
    }
    *out = h;
    return 0;
}

void fabric_hub_free(struct fabric_hub *h) {
    if (!h) return;
    for (int r = 0; h->doors && r < h->ranks; r++) {
        if (atomic_load(&h->doors[r].open)) BUG("fabric mem: hub freed while rank %d is open", r);
        bell_close(&h->doors[r].bell);
    }
    if (h->map) munmap(h->map, h->map_bytes);
    pthread_mutex_destroy(&h->lock);
    free(h->streams);
    free(h->doors);
    free(h);
}
