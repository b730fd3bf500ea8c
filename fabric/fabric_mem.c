/* fabric_mem.c - ranks are threads of one process; a frame is written once, into memory the receiver reads.
 *
 * A hub holds one stream per ordered pair of ranks: a ring of FABRIC_DEPTH frame slots with one producer (the source's thread)
 * and one consumer (the destination's thread). `sent` is the producer's count of committed frames, `freed` the consumer's count
 * of released ones; a frame is visible whole or not at all because `sent` is stored with release after the frame is written,
 * and a slot is reused only after `freed` was stored with release after the frame was read.
 *
 * Waking: each rank has a count of events, raised by whoever commits a frame to it or releases one of its frames. Its owner
 * remembers the count it last returned with; fabric_wait returns at once when the count has moved since, so nothing that
 * happens between a peek and the wait is lost. A sleeper waits on the count itself (futex), the raiser makes the system call
 * only when the owner says that it sleeps.
 *
 * Slots are reserved as address space, all ranks' at once; pages that no frame ever reached cost nothing.
 * Faults are decided by the receiver from (seed, source, destination, frame number) alone. */
#include "fabric/fabric.h"

#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clk.h"
#include "base/hash.h"
#include "base/log.h"

enum {
    LINE = 64,
    SPINS = 30,        /* looks at the event count before yielding: about 2 us */
    YIELDS = 20,       /* yields before sleeping: a peer on the same core gets to answer */
    DELAY_MAX_US = 400 /* a delayed frame is held back for 1..DELAY_MAX_US */
};

struct stream {                                /* of one ordered pair */
    _Alignas(LINE) atomic_uint_fast64_t sent;  /* producer's */
    _Alignas(LINE) atomic_uint_fast64_t freed; /* consumer's */
    _Alignas(LINE) size_t bytes[FABRIC_DEPTH]; /* of the frame in each slot */
    int64_t sent_us[FABRIC_DEPTH];             /* when it was committed; only with delays */
    unsigned char *slots;                      /* FABRIC_DEPTH * slot_bytes */
};

struct door { /* of one rank: where others ring */
    _Alignas(LINE) atomic_uint events;
    atomic_bool asleep, dead;
    atomic_bool open;
};

struct fabric_hub {
    int ranks;
    size_t frame_bytes, slot_bytes, map_bytes;
    struct fabric_faults faults;
    struct door *doors;     /* [ranks] */
    struct stream *streams; /* [source * ranks + destination] */
    unsigned char *map;
};

struct mem_rank { /* one rank's handle: its thread's alone */
    struct fabric base;
    struct fabric_hub *hub;
    unsigned seen;                     /* event count that the last wait returned with */
    int64_t due_us;                    /* the earliest moment a held-back frame turns up; INT64_MAX: none */
    size_t reserved[FABRIC_MAX_RANKS]; /* bytes of the open reservation + 1, 0 = none */
    bool repeated[FABRIC_MAX_RANKS];   /* the head frame has been delivered once and stays for its duplicate */
};

static struct mem_rank *mem_of(struct fabric *f) { return (struct mem_rank *)f; }
static struct stream *stream_of(struct fabric_hub *h, int from, int to) { return &h->streams[from * h->ranks + to]; }
static struct door *own_door(struct mem_rank *m) { return &m->hub->doors[m->base.rank]; }
static bool is_dead(struct mem_rank *m) { return atomic_load_explicit(&own_door(m)->dead, memory_order_acquire); }

static void check_peer(const struct fabric *f, int peer) {
    if (peer < 0 || peer >= f->size || peer == f->rank) BUG("fabric mem: rank %d names peer %d of %d", f->rank, peer, f->size);
}

static void futex_wake(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0); }

/* The order matters: the count first, then the look at `asleep`; the sleeper sets `asleep` first, then looks at the count.
 * Both are sequentially consistent, so one of the two sees the other. */
static void ring_door(struct door *d) {
    atomic_fetch_add(&d->events, 1);
    if (atomic_load(&d->asleep)) futex_wake(&d->events);
}

static void *mem_reserve(struct fabric *f, int peer, size_t bytes) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    if (bytes > f->frame_bytes) BUG("fabric mem: a frame of %zu bytes, the largest is %zu", bytes, f->frame_bytes);
    if (m->reserved[peer]) BUG("fabric mem: second reservation to peer %d", peer);
    if (is_dead(m)) return NULL;
    struct stream *s = stream_of(m->hub, f->rank, peer);
    uint64_t sent = atomic_load_explicit(&s->sent, memory_order_relaxed);
    if (sent - atomic_load_explicit(&s->freed, memory_order_acquire) == FABRIC_DEPTH) return NULL;
    m->reserved[peer] = bytes + 1;
    return s->slots + sent % FABRIC_DEPTH * m->hub->slot_bytes;
}

static void mem_commit(struct fabric *f, int peer, size_t bytes) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    if (!m->reserved[peer] || bytes > m->reserved[peer] - 1)
        BUG("fabric mem: commit of %zu bytes to peer %d without room reserved", bytes, peer);
    m->reserved[peer] = 0;
    if (is_dead(m)) return; /* the frame vanishes */
    struct stream *s = stream_of(m->hub, f->rank, peer);
    uint64_t sent = atomic_load_explicit(&s->sent, memory_order_relaxed);
    s->bytes[sent % FABRIC_DEPTH] = bytes;
    if (m->hub->faults.delay_percent) s->sent_us[sent % FABRIC_DEPTH] = clk_now_us();
    atomic_store_explicit(&s->sent, sent + 1, memory_order_release);
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

static const void *mem_peek(struct fabric *f, int peer, size_t *bytes) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    if (is_dead(m)) return NULL;
    struct stream *s = stream_of(m->hub, peer, f->rank);
    uint64_t freed = atomic_load_explicit(&s->freed, memory_order_relaxed);
    if (atomic_load_explicit(&s->sent, memory_order_acquire) == freed) return NULL;
    size_t i = freed % FABRIC_DEPTH;
    if (m->hub->faults.delay_percent && held_back(m, peer, freed, s->sent_us[i])) return NULL;
    *bytes = s->bytes[i];
    return s->slots + i * m->hub->slot_bytes;
}

static void mem_release(struct fabric *f, int peer) {
    struct mem_rank *m = mem_of(f);
    check_peer(f, peer);
    struct stream *s = stream_of(m->hub, peer, f->rank);
    uint64_t freed = atomic_load_explicit(&s->freed, memory_order_relaxed);
    if (atomic_load_explicit(&s->sent, memory_order_acquire) == freed) BUG("fabric mem: release without a frame from %d", peer);
    const struct fabric_faults *faults = &m->hub->faults;
    if (faults->duplicate_percent && !m->repeated[peer] &&
        (int)(fault_draw(m->hub, peer, f->rank, freed, 2) % 100) < faults->duplicate_percent) {
        m->repeated[peer] = true;
        return;
    }
    m->repeated[peer] = false;
    atomic_store_explicit(&s->freed, freed + 1, memory_order_release);
    ring_door(&m->hub->doors[peer]);
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void doze(struct door *d, unsigned seen, int64_t us) {
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    atomic_store(&d->asleep, true);
    if (atomic_load(&d->events) == seen) syscall(SYS_futex, &d->events, FUTEX_WAIT_PRIVATE, seen, &ts, NULL, 0);
    atomic_store(&d->asleep, false);
}

static int mem_wait(struct fabric *f, int64_t deadline_us) {
    struct mem_rank *m = mem_of(f);
    struct door *d = own_door(m);
    int64_t due_us = m->due_us; /* every peek of this round has put its held-back frame in */
    m->due_us = INT64_MAX;
    for (int turn = 0;; turn++) {
        if (is_dead(m)) return ERR_GONE;
        unsigned events = atomic_load_explicit(&d->events, memory_order_acquire);
        if (events != m->seen) {
            m->seen = events;
            return 0;
        }
        if (turn < SPINS) {
            relax();
            continue;
        }
        int64_t now = clk_now_us();
        if (now >= due_us) return 0;
        if (now >= deadline_us) return ERR_DEADLINE;
        if (turn < SPINS + YIELDS) sched_yield();
        else doze(d, m->seen, (deadline_us < due_us ? deadline_us : due_us) - now);
    }
}

static int mem_flush(struct fabric *f, int64_t deadline_us) { /* a committed frame is where its reader looks */
    (void)f, (void)deadline_us;
    return 0;
}

static void mem_close(struct fabric *f) {
    struct mem_rank *m = mem_of(f);
    atomic_store(&own_door(m)->open, false);
    free(m);
}

static const struct fabric_ops mem_ops = {
    .name = "mem",
    .reserve = mem_reserve,
    .commit = mem_commit,
    .peek = mem_peek,
    .release = mem_release,
    .wait = mem_wait,
    .flush = mem_flush,
    .close = mem_close,
};

int fabric_mem_open(struct fabric_hub *h, int rank, struct fabric **out, struct why *why) {
    if (rank < 0 || rank >= h->ranks) return fail(why, ERR_INVALID, "fabric mem: rank %d, expected 0..%d", rank, h->ranks - 1);
    struct mem_rank *m = calloc(1, sizeof *m);
    if (!m) return fail(why, ERR_NOMEM, "fabric mem: out of memory for a handle");
    if (atomic_exchange(&h->doors[rank].open, true)) {
        free(m);
        return fail(why, ERR_EXISTS, "fabric mem: rank %d is open already", rank);
    }
    m->base = (struct fabric){.ops = &mem_ops, .rank = rank, .size = h->ranks, .frame_bytes = h->frame_bytes};
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

static int map_slots(struct fabric_hub *h, struct why *why) {
    size_t pairs = (size_t)h->ranks * (size_t)(h->ranks - 1);
    h->slot_bytes = (h->frame_bytes + LINE - 1) / LINE * LINE;
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
            stream_of(h, from, to)->slots = next;
            next += per_stream;
        }
    }
    return 0;
}

static void *alloc_lines(size_t n, size_t size) {
    void *p = aligned_alloc(LINE, n * size); /* both structs are whole lines */
    return p ? memset(p, 0, n * size) : NULL;
}

int fabric_hub_new(int ranks, size_t frame_bytes, const struct fabric_faults *faults, struct fabric_hub **out,
                   struct why *why) {
    if (ranks < 1 || ranks > FABRIC_MAX_RANKS)
        return fail(why, ERR_INVALID, "fabric mem: %d ranks, expected 1..%d", ranks, FABRIC_MAX_RANKS);
    if (frame_bytes < 1 || frame_bytes > SIZE_MAX / 4 / FABRIC_DEPTH)
        return fail(why, ERR_INVALID, "fabric mem: frames of %zu bytes", frame_bytes);
    struct fabric_hub *h = calloc(1, sizeof *h);
    if (!h) return fail(why, ERR_NOMEM, "fabric mem: out of memory for a hub");
    h->ranks = ranks;
    h->frame_bytes = frame_bytes;
    if (faults) h->faults = *faults;
    h->doors = alloc_lines((size_t)ranks, sizeof *h->doors);
    h->streams = alloc_lines((size_t)ranks * (size_t)ranks, sizeof *h->streams);
    int rc = h->doors && h->streams ? map_slots(h, why) : fail(why, ERR_NOMEM, "fabric mem: out of memory for %d ranks", ranks);
    if (rc < 0) {
        fabric_hub_free(h);
        return rc;
    }
    *out = h;
    return 0;
}

void fabric_hub_free(struct fabric_hub *h) {
    if (!h) return;
    for (int r = 0; h->doors && r < h->ranks; r++)
        if (atomic_load(&h->doors[r].open)) BUG("fabric mem: hub freed while rank %d is open", r);
    if (h->map) munmap(h->map, h->map_bytes);
    free(h->streams);
    free(h->doors);
    free(h);
}
