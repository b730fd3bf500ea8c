/* slots.h - one stream in memory that its writer and its reader share: FABRIC_DEPTH slots of slot_bytes each.
 *
 * One producer, one consumer, in two threads or two processes. `sent` is the producer's count of committed frames, `freed` the
 * consumer's count of slots that may be written again. A frame is visible whole or not at all, because `sent` is stored with
 * release after the frame was written; a slot is reused only after `freed` was stored with release after the frame was read.
 * So a writer that dies at any moment leaves nothing behind but an unseen half-written slot. All-zero memory is an empty
 * stream. Frames are given back in any order: the reader's own mask remembers which, and `freed` moves over the oldest ones. */
#pragma once
#include <stdatomic.h>

#include "fabric/fabric.h"

enum { SLOT_LINE = 64 };

struct slots_shared {                               /* in the shared memory */
    _Alignas(SLOT_LINE) atomic_uint_fast64_t sent;  /* the producer's */
    _Alignas(SLOT_LINE) atomic_uint_fast64_t freed; /* the consumer's */
    _Alignas(SLOT_LINE) uint64_t bytes[FABRIC_DEPTH];
};

struct slots { /* one end of it: each end has its own */
    struct slots_shared *shared;
    unsigned char *frames; /* FABRIC_DEPTH * slot_bytes; NULL: not attached */
    size_t slot_bytes;
    size_t reserved;       /* producer: bytes of the open reservation + 1; 0 = none */
    unsigned taken, given; /* consumer: masks over slots: taken and not freed; of these, given back */
};

static inline size_t slots_round(size_t frame_bytes) { return (frame_bytes + SLOT_LINE - 1) / SLOT_LINE * SLOT_LINE; }
static inline unsigned char *slots_at(const struct slots *s, uint64_t number) {
    return s->frames + number % FABRIC_DEPTH * s->slot_bytes;
}
static inline unsigned slots_bit(uint64_t number) { return 1u << number % FABRIC_DEPTH; }

/* NULL when full. */
static inline void *slots_reserve(struct slots *s, size_t bytes) {
    uint64_t sent = atomic_load_explicit(&s->shared->sent, memory_order_relaxed);
    if (sent - atomic_load_explicit(&s->shared->freed, memory_order_acquire) >= FABRIC_DEPTH) return NULL;
    s->reserved = bytes + 1;
    return slots_at(s, sent);
}

static inline void slots_commit(struct slots *s, size_t bytes) {
    uint64_t sent = atomic_load_explicit(&s->shared->sent, memory_order_relaxed);
    s->shared->bytes[sent % FABRIC_DEPTH] = bytes;
    s->reserved = 0;
    atomic_store_explicit(&s->shared->sent, sent + 1, memory_order_release);
}

/* How far the stream goes: frames freed .. sent - 1 are in it. A writer that lies about its count is taken to be full. */
static inline uint64_t slots_sent(const struct slots *s, uint64_t freed) {
    uint64_t sent = atomic_load_explicit(&s->shared->sent, memory_order_acquire);
    return sent - freed > FABRIC_DEPTH ? freed + FABRIC_DEPTH : sent;
}
static inline uint64_t slots_freed(const struct slots *s) {
    return atomic_load_explicit(&s->shared->freed, memory_order_relaxed);
}

/* Marks frame `number` as the caller's. */
static inline const void *slots_take(struct slots *s, uint64_t number, size_t *bytes) {
    uint64_t n = s->shared->bytes[number % FABRIC_DEPTH];
    *bytes = n > s->slot_bytes ? s->slot_bytes : (size_t)n;
    s->taken |= slots_bit(number);
    return slots_at(s, number);
}

/* Gives a taken frame back. Whether the writer got room by it. */
static inline bool slots_give(struct slots *s, const void *frame) {
    uint64_t freed = slots_freed(s), before = freed;
    s->given |= 1u << (size_t)((const unsigned char *)frame - s->frames) / s->slot_bytes;
    for (; s->given & slots_bit(freed); freed++) {
        s->given &= ~slots_bit(freed);
        s->taken &= ~slots_bit(freed);
    }
    if (freed == before) return false;
    atomic_store_explicit(&s->shared->freed, freed, memory_order_release);
    return true;
}
