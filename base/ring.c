/* ring.c - head and tail count for ever; their difference is the fill, their low bits the slot. */
#include "base/ring.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

int ring_init(struct ring *r, size_t elem, size_t capacity) {
    size_t cap = 1;
    while (cap < capacity) cap <<= 1;
    r->data = calloc(cap, elem);
    if (!r->data) return ERR_NOMEM;
    r->elem = elem;
    r->mask = cap - 1;
    atomic_init(&r->head, 0);
    atomic_init(&r->tail, 0);
    return 0;
}

void ring_clear(struct ring *r) {
    free(r->data);
    r->data = NULL;
}

bool ring_push(struct ring *r, const void *elem) {
    size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    size_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
    if (head - tail > r->mask) return false;
    memcpy(r->data + (head & r->mask) * r->elem, elem, r->elem);
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return true;
}

bool ring_pop(struct ring *r, void *elem) {
    size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    size_t head = atomic_load_explicit(&r->head, memory_order_acquire);
    if (head == tail) return false;
    memcpy(elem, r->data + (tail & r->mask) * r->elem, r->elem);
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    return true;
}

size_t ring_len(const struct ring *r) {
    return atomic_load_explicit(&r->head, memory_order_acquire) - atomic_load_explicit(&r->tail, memory_order_acquire);
}
