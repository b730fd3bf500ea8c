/* slots.h - one stream in memory that its writer and its reader share: FABRIC_DEPTH slots of slot_bytes each.
 *
 * One producer, one consumer, in two threads or two processes. Frames are numbered from 1. `sent[i]` is the number of the
 * frame that the producer put into slot i last, `freed[i]` the number of the one that the consumer gave back last; a slot is
 * free when they agree. A frame is visible whole or not at all, because `sent` is stored after the frame was written; a slot is
 * reused only after `freed` was stored, after the frame was read. So a writer that dies at any moment leaves nothing behind but
 * an unseen half-written slot. All-zero memory is an empty stream.
 *
 * Frames are given back in any order and each makes room at once. The producer takes the lowest free slot, so that a stream in
 * which little is under way stays within few slots, and those in the caches of both ends.
 * The other end may be broken and write anything: each end decides by its own copy of what it wrote itself, and no number that
 * the other end writes is used as a size or an index unchecked. */
#pragma once
#include <stdatomic.h>

#include "fabric/fabric.h"

enum { SLOT_LINE = 64 };

struct slots_shared {                                             /* in the shared memory */
    _Alignas(SLOT_LINE) atomic_uint_fast64_t sent[FABRIC_DEPTH];  /* the producer's */
    _Alignas(SLOT_LINE) uint64_t bytes[FABRIC_DEPTH];             /* the producer's */
    _Alignas(SLOT_LINE) atomic_uint_fast64_t freed[FABRIC_DEPTH]; /* the consumer's */
    _Alignas(SLOT_LINE) atomic_bool begged; /* set by a producer that found no room, cleared by the consumer that made some */
};

struct slots { /* one end of it: each end has its own */
    struct slots_shared *shared;
    unsigned char *frames; /* FABRIC_DEPTH * slot_bytes; NULL: not attached */
    size_t slot_bytes;
    size_t reserved;             /* producer: bytes of the open reservation + 1; 0 = none */
    int slot;                    /* producer: of the open reservation */
    unsigned taken;              /* consumer: mask of slots whose frame is its caller's */
    uint64_t count;              /* producer: frames sent; consumer: the number of the frame taken last */
    uint64_t mine[FABRIC_DEPTH]; /* producer: of the frame in each slot; consumer: of the frame taken from it last */
};

static inline size_t slots_round(size_t frame_bytes) { return (frame_bytes + SLOT_LINE - 1) / SLOT_LINE * SLOT_LINE; }
static inline unsigned char *slots_at(const struct slots *s, int slot) { return s->frames + (size_t)slot * s->slot_bytes; }
static inline unsigned slots_bit(int slot) { return 1u << slot; }

/* NULL when full. */
static inline void *slots_reserve(struct slots *s, size_t bytes) {
    for (int i = 0; i < FABRIC_DEPTH; i++) {
        if (atomic_load(&s->shared->freed[i]) != s->mine[i]) continue;
        s->reserved = bytes + 1;
        s->slot = i;
        return slots_at(s, i);
    }
    return NULL;
}

/* After a reserve that found no room: the next give is to tell. Looks once more: begging and looking here, and giving and
 * asking there, are in one order for all (sequentially consistent), so one of the two ends sees the other. */
static inline void *slots_beg(struct slots *s, size_t bytes) {
    atomic_store(&s->shared->begged, true);
    return slots_reserve(s, bytes);
}

static inline void slots_commit(struct slots *s, size_t bytes) {
    s->shared->bytes[s->slot] = bytes;
    s->reserved = 0;
    s->mine[s->slot] = ++s->count;
    atomic_store_explicit(&s->shared->sent[s->slot], s->count, memory_order_release);
}

/* The slot of the next frame in order; -1: it is not there yet. */
static inline int slots_next(const struct slots *s) {
    for (int i = 0; i < FABRIC_DEPTH; i++)
        if (atomic_load_explicit(&s->shared->sent[i], memory_order_acquire) == s->count + 1 && !(s->taken & slots_bit(i)))
            return i;
    return -1;
}

/* Makes the frame in a slot that slots_next named the caller's. */
static inline const void *slots_take(struct slots *s, int slot, size_t *bytes) {
    uint64_t n = s->shared->bytes[slot];
    *bytes = n > s->slot_bytes ? s->slot_bytes : (size_t)n;
    s->mine[slot] = ++s->count;
    s->taken |= slots_bit(slot);
    return slots_at(s, slot);
}

/* The slot of a taken frame; -1: it is none of this stream. */
static inline int slots_slot(const struct slots *s, const void *frame) {
    uintptr_t at = (uintptr_t)frame - (uintptr_t)s->frames;
    if (!s->frames || at % s->slot_bytes || at / s->slot_bytes >= FABRIC_DEPTH) return -1;
    int slot = (int)(at / s->slot_bytes);
    return s->taken & slots_bit(slot) ? slot : -1;
}

/* Gives a taken frame back: its slot may be written again. */
static inline void slots_give(struct slots *s, int slot) {
    s->taken &= ~slots_bit(slot);
    atomic_store(&s->shared->freed[slot], s->mine[slot]);
}

/* After a give: whether the producer waits for it. */
static inline bool slots_begged(struct slots *s) {
    return atomic_load(&s->shared->begged) && atomic_exchange(&s->shared->begged, false);
}
