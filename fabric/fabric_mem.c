/* fabric_mem.c - ranks are threads of one process; a frame is written once, into memory the receiver reads (slots.h).
 *
 * A rank may live several times: each opening of its handle is a life, numbered by the hub, and its address is that number. A
 * lane is the stream from one life of a rank to one life of another. Both ends hold it; the last one to let go frees it, so a
 * frame of a dead predecessor stays readable for as long as its reader has it, and what it had not taken is never seen. Lanes
 * are made and let go under the hub's lock, in prepare, attach, detach and close only.
 *
 * Waking: each rank has a doorbell (doorbell.h), rung by whoever commits a frame to it or gives back one of its frames. Its
 * owner remembers the count it last polled; fabric_poll tells whether it has moved since, so nothing that happens between a
 * look and the sleep is lost.
 *
 * The slots of a lane are address space; pages that no frame ever reached cost nothing.
 * Faults are decided by the receiver from (seed, source, destination, their lives, frame number) alone. */
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
#include "fabric/doorbell.h"
#include "fabric/slots.h"

enum { HOLD_MAX_US = 400 /* a frame that is held back turns up after 1..HOLD_MAX_US */ };
enum fault { FAULT_DELAY = 1, FAULT_DUPLICATE, FAULT_REORDER, FAULT_DROP };

struct lane { /* of one ordered pair of lives */
    struct slots_shared shared;
    _Alignas(SLOT_LINE) struct slots out; /* the producer's end */
    _Alignas(SLOT_LINE) struct slots in;  /* the consumer's end */
    int64_t sent_us[FABRIC_DEPTH];        /* when it was committed; only with delays */
    int64_t due_us[FABRIC_DEPTH];         /* of slots that are aside */
    unsigned aside;                       /* slots whose frame is taken and held back, to be overtaken */
    unsigned again;                       /* slots whose frame has been given back once and comes once more */
    unsigned repeated;                    /* slots whose frame has come twice */

    uint32_t from_life, to_life; /* below: under the hub's lock */
    int holders;                 /* ends that hold it */
    unsigned char *frames;
    struct lane *next; /* of the same pair of ranks */
    struct lane *left; /* the consumer's alone: lanes it has left while it still had frames of them */
};

struct door { /* of one rank: where others ring */
    _Alignas(SLOT_LINE) struct doorbell shared;
    atomic_bool dead, open;
    uint32_t life; /* under the hub's lock */
    struct bell bell;
};

struct fabric_hub {
    int ranks;
    pthread_mutex_t lock;
    size_t frame_bytes, slot_bytes, lane_bytes; /* as the first one to prepare asked */
    int prepared;
    struct fabric_faults faults;
    struct door *doors;  /* [ranks] */
    struct lane **lanes; /* [source * ranks + destination]: lists */
    atomic_bool *cut;    /* the same index */
};

struct mem_rank { /* one rank's handle: its thread's alone */
    struct fabric base;
    struct fabric_hub *hub;
    uint32_t life;
    struct lane *out[FABRIC_MAX_RANKS], *in[FABRIC_MAX_RANKS]; /* NULL: not attached */
    struct lane *left[FABRIC_MAX_RANKS];                       /* see struct lane */
    unsigned seen;                                             /* event count that the last poll returned with */
    int64_t due_us; /* the earliest moment a held-back frame turns up; INT64_MAX: none */
};

static struct mem_rank *mem_of(struct fabric *f) { return (struct mem_rank *)f; }
static struct door *own_door(struct mem_rank *m) { return &m->hub->doors[m->base.rank]; }
static bool is_dead(struct mem_rank *m) { return atomic_load_explicit(&own_door(m)->dead, memory_order_acquire); }
static int64_t hub_now_us(const struct fabric_hub *h) { return h->faults.now_us ? h->faults.now_us() : clk_now_us(); }

static void ring_door(struct door *d) {
    if (doorbell_raise(&d->shared)) bell_ring(&d->bell);
}

/* ---- faults ---- */

/* A number that follows from the seed and the frame; `what` keeps the kinds of fault independent. */
static uint64_t fault_draw(struct mem_rank *m, int from, uint64_t frame, enum fault what) {
    const struct lane *l = m->in[from];
    uint64_t lives = (uint64_t)(l->from_life - 1) << 32 | (l->to_life - 1);
    return hash_u64(hash_u64(m->hub->faults.seed + what + (lives ? hash_u64(lives) : 0)) ^
                    ((uint64_t)from << 56 | (uint64_t)m->base.rank << 48 | frame));
}

static bool fault_hits(struct mem_rank *m, int from, uint64_t frame, enum fault what, int percent) {
    return percent && (int)(fault_draw(m, from, frame, what) % 100) < percent;
}

/* When a frame that this kind of fault hits turns up; INT64_MIN: it is not hit. */
static int64_t due_us(struct mem_rank *m, int from, uint64_t frame, int64_t sent_us, enum fault what, int percent) {
    if (!fault_hits(m, from, frame, what, percent)) return INT64_MIN;
    return sent_us + 1 + (int64_t)(fault_draw(m, from, frame, what) >> 32) % HOLD_MAX_US;
}

static bool held_back(struct mem_rank *m, int64_t due) {
    if (due == INT64_MIN || hub_now_us(m->hub) >= due) return false;
    if (due < m->due_us) m->due_us = due;
    return true;
}

/* ---- frames ---- */

static void *mem_reserve(struct fabric *f, int peer, size_t bytes) {
    struct mem_rank *m = mem_of(f);
    fabric_check_peer(f, peer);
    if (bytes > f->frame_bytes) BUG("fabric mem: a frame of %zu bytes, the largest is %zu", bytes, f->frame_bytes);
    struct lane *l = m->out[peer];
    if (!l || is_dead(m)) return NULL;
    if (l->out.reserved) BUG("fabric mem: second reservation to peer %d", peer);
    return slots_reserve(&l->out, bytes);
}

static void mem_commit(struct fabric *f, int peer, size_t bytes) {
    struct mem_rank *m = mem_of(f);
    fabric_check_peer(f, peer);
    struct fabric_hub *h = m->hub;
    struct lane *l = m->out[peer];
    if (!l || !l->out.reserved || bytes > l->out.reserved - 1)
        BUG("fabric mem: commit of %zu bytes to peer %d without room reserved", bytes, peer);
    l->out.reserved = 0;
    if (is_dead(m) || atomic_load_explicit(&h->cut[f->rank * h->ranks + peer], memory_order_relaxed)) return; /* it vanishes */
    if (h->faults.delay_percent || h->faults.reorder_percent) l->sent_us[l->out.slot] = hub_now_us(h);
    slots_commit(&l->out, bytes);
    ring_door(&h->doors[peer]);
}

/* A frame that was taken before and is the caller's only now; -1: none. */
static int next_aside(struct mem_rank *m, struct lane *l) {
    for (int slot = 0; slot < FABRIC_DEPTH; slot++) {
        unsigned bit = slots_bit(slot);
        if (l->again & bit) {
            l->again &= ~bit;
            l->repeated |= bit;
            return slot;
        }
        if (!(l->aside & bit) || held_back(m, l->due_us[slot])) continue;
        l->aside &= ~bit;
        return slot;
    }
    return -1;
}

static const void *mem_take(struct fabric *f, int peer, size_t *bytes) {
    struct mem_rank *m = mem_of(f);
    fabric_check_peer(f, peer);
    struct lane *l = m->in[peer];
    if (!l || is_dead(m)) return NULL;
    const struct fabric_faults *faults = &m->hub->faults;
    int slot = next_aside(m, l);
    if (slot >= 0) {
        *bytes = (size_t)l->shared.bytes[slot];
        return slots_at(&l->in, slot);
    }
    while ((slot = slots_next(&l->in)) >= 0) {
        uint64_t n = l->in.count + 1;
        if (held_back(m, due_us(m, peer, n, l->sent_us[slot], FAULT_DELAY, faults->delay_percent))) return NULL;
        const void *frame = slots_take(&l->in, slot, bytes);
        if (fault_hits(m, peer, n, FAULT_DROP, faults->drop_percent)) {
            slots_give(&l->in, slot);
            ring_door(&m->hub->doors[peer]);
            continue;
        }
        l->due_us[slot] = due_us(m, peer, n, l->sent_us[slot], FAULT_REORDER, faults->reorder_percent);
        if (!held_back(m, l->due_us[slot])) return frame;
        l->aside |= slots_bit(slot);
    }
    return NULL;
}

static unsigned callers(const struct lane *l) { return l->in.taken & ~l->again & ~l->aside; } /* frames it has */

/* The slot of a frame that the caller has; -1: it has not. */
static int slot_of(const struct lane *l, const void *frame) {
    int slot = l ? slots_slot(&l->in, frame) : -1;
    return slot >= 0 && callers(l) & slots_bit(slot) ? slot : -1;
}

static void let_go(struct fabric_hub *h, int from, int to, struct lane *l);

static bool give_to_left(struct mem_rank *m, int peer, const void *frame) {
    for (struct lane **at = &m->left[peer], *l; (l = *at); at = &l->left) {
        int slot = slot_of(l, frame);
        if (slot < 0) continue;
        slots_give(&l->in, slot);
        if (callers(l)) return true;
        *at = l->left;
        let_go(m->hub, peer, m->base.rank, l);
        return true;
    }
    return false;
}

static void mem_give(struct fabric *f, int peer, const void *frame) {
    struct mem_rank *m = mem_of(f);
    fabric_check_peer(f, peer);
    struct lane *l = m->in[peer];
    int slot = slot_of(l, frame);
    if (slot < 0) {
        if (!give_to_left(m, peer, frame)) BUG("fabric mem: rank %d gives back a frame of %d that it has not", f->rank, peer);
        return;
    }
    if (is_dead(m)) return; /* nobody hears of it */
    unsigned bit = slots_bit(slot);
    if (!(l->repeated & bit) && fault_hits(m, peer, l->in.mine[slot], FAULT_DUPLICATE, m->hub->faults.duplicate_percent)) {
        l->again |= bit;
        return;
    }
    l->repeated &= ~bit;
    slots_give(&l->in, slot);
    ring_door(&m->hub->doors[peer]);
}

/* ---- waiting ---- */

static int mem_poll(struct fabric *f) {
    struct mem_rank *m = mem_of(f);
    struct door *d = own_door(m);
    if (is_dead(m)) return ERR_GONE;
    if (doorbell_disarm(&d->shared)) bell_clear(&d->bell);
    unsigned events = atomic_load_explicit(&d->shared.events, memory_order_acquire);
    bool due = m->due_us != INT64_MAX && hub_now_us(m->hub) >= m->due_us;
    if (events == m->seen && !due) return 0;
    m->seen = events;
    m->due_us = INT64_MAX; /* every look of the coming round puts its held-back frame in */
    return 1;
}

static int mem_arm(struct fabric *f) {
    struct mem_rank *m = mem_of(f);
    struct door *d = own_door(m);
    if (m->due_us != INT64_MAX) return 1; /* nobody rings for a held-back frame */
    return doorbell_arm(&d->shared, m->seen) || is_dead(m);
}

static int mem_flush(struct fabric *f, int64_t deadline_us) { /* a committed frame is where its reader looks */
    (void)f, (void)deadline_us;
    return 0;
}

/* ---- lanes ---- */

static struct lane *lane_new(const struct fabric_hub *h) {
    struct lane *l = aligned_alloc(SLOT_LINE, sizeof *l); /* whole lines */
    void *frames = mmap(NULL, h->lane_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!l || frames == MAP_FAILED) {
        free(l);
        if (frames != MAP_FAILED) munmap(frames, h->lane_bytes);
        return NULL;
    }
    memset(l, 0, sizeof *l);
    l->frames = frames;
    l->out = l->in = (struct slots){.shared = &l->shared, .frames = frames, .slot_bytes = h->slot_bytes};
    return l;
}

/* The lane between two lives, made by whoever asks first. NULL: no memory. */
static struct lane *hold(struct fabric_hub *h, int from, uint32_t from_life, int to, uint32_t to_life) {
    pthread_mutex_lock(&h->lock);
    struct lane **list = &h->lanes[from * h->ranks + to], *l = *list;
    while (l && (l->from_life != from_life || l->to_life != to_life)) l = l->next;
    if (!l && (l = lane_new(h))) {
        l->from_life = from_life;
        l->to_life = to_life;
        l->next = *list;
        *list = l;
    }
    if (l) l->holders++;
    pthread_mutex_unlock(&h->lock);
    return l;
}

static void let_go(struct fabric_hub *h, int from, int to, struct lane *l) {
    pthread_mutex_lock(&h->lock);
    bool last = --l->holders == 0;
    struct lane **at = &h->lanes[from * h->ranks + to];
    while (last && *at != l) at = &(*at)->next;
    if (last) *at = l->next;
    pthread_mutex_unlock(&h->lock);
    if (!last) return;
    munmap(l->frames, h->lane_bytes);
    free(l);
}

static void mem_detach(struct fabric *f, int peer) {
    struct mem_rank *m = mem_of(f);
    struct lane *out = m->out[peer], *in = m->in[peer];
    fabric_check_peer(f, peer);
    m->out[peer] = m->in[peer] = NULL;
    if (out) {
        out->out.reserved = 0;
        let_go(m->hub, f->rank, peer, out);
    }
    if (in && callers(in)) {
        in->left = m->left[peer];
        m->left[peer] = in;
    } else if (in) {
        let_go(m->hub, peer, f->rank, in);
    }
}

/* A lane that we left with frames in our hands, and are about to come back to: it is held once already. */
static struct lane *come_back(struct mem_rank *m, int peer, uint32_t life) {
    struct lane **at = &m->left[peer], *l = *at;
    while (l && l->from_life != life) l = *(at = &l->left);
    if (l) *at = l->left;
    return l;
}

static int join(struct mem_rank *m, int peer, uint32_t life, struct why *why) {
    struct fabric_hub *h = m->hub;
    int me = m->base.rank;
    m->out[peer] = hold(h, me, m->life, peer, life);
    m->in[peer] = come_back(m, peer, life);
    if (!m->in[peer]) m->in[peer] = hold(h, peer, life, me, m->life);
    if (m->out[peer] && m->in[peer]) return 0;
    mem_detach(&m->base, peer);
    return fail(why, ERR_NOMEM, "fabric mem: no address space for streams of %zu bytes; lower the largest step", h->lane_bytes);
}

static size_t mem_address(struct fabric *f, void *out) {
    memcpy(out, &mem_of(f)->life, sizeof mem_of(f)->life);
    return sizeof mem_of(f)->life;
}

static int mem_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    struct mem_rank *m = mem_of(f);
    uint32_t life;
    (void)incarnation;
    if (bytes != sizeof life)
        return fail(why, ERR_INVALID, "fabric mem: an address of %zu bytes, expected %zu", bytes, sizeof life);
    memcpy(&life, address, sizeof life);
    pthread_mutex_lock(&m->hub->lock);
    bool known = life && life <= m->hub->doors[peer].life;
    pthread_mutex_unlock(&m->hub->lock);
    if (!known) return fail(why, ERR_NOT_FOUND, "fabric mem: rank %d has not lived %u times", peer, life);
    if (m->in[peer] && m->in[peer]->from_life == life) return 0;
    mem_detach(f, peer);
    return join(m, peer, life, why);
}

/* ---- life ---- */

static int agree(struct fabric_hub *h, int rank, size_t frame_bytes, struct why *why) {
    size_t pairs = (size_t)h->ranks * (size_t)h->ranks, slot_bytes = slots_round(frame_bytes);
    if (slot_bytes > SIZE_MAX / 4 / FABRIC_DEPTH / pairs)
        return fail(why, ERR_TOO_LARGE, "fabric mem: %zu streams of %d frames of %zu bytes", pairs, FABRIC_DEPTH, frame_bytes);
    pthread_mutex_lock(&h->lock);
    if (!h->frame_bytes) {
        h->frame_bytes = frame_bytes;
        h->slot_bytes = slot_bytes;
        h->lane_bytes = slot_bytes * FABRIC_DEPTH;
    }
    size_t others = h->frame_bytes;
    if (others == frame_bytes) h->prepared++;
    pthread_mutex_unlock(&h->lock);
    if (others == frame_bytes) return 0;
    return fail(why, ERR_INVALID, "fabric mem: rank %d wants frames of %zu bytes, others of %zu", rank, frame_bytes, others);
}

static void disagree(struct fabric_hub *h) {
    pthread_mutex_lock(&h->lock);
    if (--h->prepared == 0) h->frame_bytes = 0;
    pthread_mutex_unlock(&h->lock);
}

static int mem_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    (void)incarnation;
    struct fabric_hub *h = mem_of(f)->hub;
    int rc = agree(h, f->rank, frame_bytes, why);
    if (rc < 0) return rc;
    for (int peer = 0; peer < f->size && rc >= 0; peer++)
        if (peer != f->rank) rc = join(mem_of(f), peer, 1, why);
    for (int peer = 0; peer < f->size && rc < 0; peer++)
        if (peer != f->rank) mem_detach(f, peer);
    if (rc < 0) disagree(h);
    return rc;
}

static void mem_close(struct fabric *f) {
    struct mem_rank *m = mem_of(f);
    for (int peer = 0; peer < f->size; peer++) {
        if (peer == f->rank) continue;
        mem_detach(f, peer);
        for (struct lane *l; (l = m->left[peer]);) {
            m->left[peer] = l->left;
            let_go(m->hub, peer, f->rank, l);
        }
    }
    atomic_store(&own_door(m)->dead, false); /* its successor is alive */
    atomic_store(&own_door(m)->open, false);
    free(m);
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
    struct door *d = &h->doors[rank];
    if (!m) return fail(why, ERR_NOMEM, "fabric mem: out of memory for a handle");
    if (atomic_exchange(&d->open, true)) {
        free(m);
        return fail(why, ERR_EXISTS, "fabric mem: rank %d is open already", rank);
    }
    m->base = (struct fabric){.ops = &mem_ops, .rank = rank, .size = h->ranks, .fd = d->bell.fd, .near = UINT64_MAX};
    m->hub = h;
    m->due_us = INT64_MAX;
    pthread_mutex_lock(&h->lock);
    m->life = ++d->life;
    pthread_mutex_unlock(&h->lock);
    *out = &m->base;
    return 0;
}

void fabric_hub_kill(struct fabric_hub *h, int rank) {
    if (rank < 0 || rank >= h->ranks) BUG("fabric mem: kill of rank %d of %d", rank, h->ranks);
    atomic_store_explicit(&h->doors[rank].dead, true, memory_order_release);
    ring_door(&h->doors[rank]);
}

void fabric_hub_cut(struct fabric_hub *h, int from, int to, bool cut) {
    if (from < 0 || from >= h->ranks || to < 0 || to >= h->ranks) BUG("fabric mem: cut of %d to %d of %d", from, to, h->ranks);
    atomic_store_explicit(&h->cut[from * h->ranks + to], cut, memory_order_relaxed);
}

int fabric_hub_new(int ranks, const struct fabric_faults *faults, struct fabric_hub **out, struct why *why) {
    if (ranks < 1 || ranks > FABRIC_MAX_RANKS)
        return fail(why, ERR_INVALID, "fabric mem: %d ranks, expected 1..%d", ranks, FABRIC_MAX_RANKS);
    struct fabric_hub *h = calloc(1, sizeof *h);
    if (!h) return fail(why, ERR_NOMEM, "fabric mem: out of memory for a hub");
    size_t pairs = (size_t)ranks * (size_t)ranks;
    h->ranks = ranks;
    pthread_mutex_init(&h->lock, NULL);
    if (faults) h->faults = *faults;
    h->doors = aligned_alloc(SLOT_LINE, (size_t)ranks * sizeof *h->doors); /* whole lines */
    h->lanes = calloc(pairs, sizeof *h->lanes);
    h->cut = calloc(pairs, sizeof *h->cut);
    int rc = h->doors && h->lanes && h->cut ? 0 : ERR_NOMEM;
    if (h->doors) memset(h->doors, 0, (size_t)ranks * sizeof *h->doors);
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
    pthread_mutex_destroy(&h->lock);
    free(h->cut);
    free(h->lanes);
    free(h->doors);
    free(h);
}
