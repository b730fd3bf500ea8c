/* load.h - loading as it goes: how far it is, and whether it is still wanted. The engine's thread loads; others read how far it
 * is, and stop it: what they would wait for may be hundreds of gigabytes. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

struct load {
    atomic_ullong done, total; /* bytes */
    const atomic_bool *stop;   /* set: ERR_CANCELLED at the next tensor or blob; NULL: nobody does */
};

static inline void load_add(struct load *l, size_t bytes) { atomic_fetch_add(&l->done, bytes); }
static inline int load_go_on(const struct load *l, struct why *why) {
    return l->stop && atomic_load(l->stop) ? fail(why, ERR_CANCELLED, "it is not to load any more") : 0;
}
