/* doorbell.h - how threads or processes that share memory tell one that sleeps that there is news; the bell itself (an eventfd,
 * a pipe) is the transport's.
 *
 * Whoever has news raises the count, and then rings if the owner says that it sleeps; the owner says so, and then looks at the
 * count once more. Both are sequentially consistent, so one of the two sees the other. Only the owner takes back that it
 * sleeps: a process that dies between its look and its ring leaves it to whoever comes next to ring. A bell may so be rung
 * several times for one sleep. All-zero memory is a doorbell. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>

struct doorbell {
    atomic_uint events; /* raised by whoever has news */
    atomic_bool asleep; /* the owner's: it wants to hear the bell */
};

/* There is news. true: ring. */
static inline bool doorbell_raise(struct doorbell *d) {
    atomic_fetch_add(&d->events, 1);
    return atomic_load(&d->asleep);
}

/* The owner is about to sleep; seen: the count as it last looked. true: there is news already. */
static inline bool doorbell_arm(struct doorbell *d, unsigned seen) {
    atomic_store(&d->asleep, true);
    return atomic_load(&d->events) != seen;
}

/* The owner is awake. true: it had armed, so the bell may have been rung. */
static inline bool doorbell_disarm(struct doorbell *d) {
    if (!atomic_load_explicit(&d->asleep, memory_order_relaxed)) return false;
    atomic_store(&d->asleep, false);
    return true;
}
