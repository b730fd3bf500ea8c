/* fabric.c - what all transports have in common: how to wait, and what may be asked of them when.
 *
 * Waiting spins for as long as an answer from another core takes, then yields so that a peer on the same core gets to answer,
 * then sleeps: with more ranks than cores a rank that only polls costs its peers whole time slices. A transport without a file
 * descriptor to sleep on is polled in naps that grow. */
#include "fabric/fabric.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

#include "base/clk.h"
#include "base/log.h"

enum {
    SPINS = 30,  /* polls before the first look at the clock: about 2 us of an idle transport */
    YIELDS = 20, /* polls with the core given away in between */
    BLIND_US = 200, /* without a descriptor: polls for so long before napping; most waits inside a step are shorter */
    PUSH_US = 5000, /* the same while arm says that something is under way */
    NAP_MIN_US = 10,
    NAP_MAX_US = 100
};

int fabric_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    if (f->frame_bytes) BUG("fabric %s: prepared twice", f->ops->name);
    if (frame_bytes < 1 || frame_bytes > SIZE_MAX / 4 / FABRIC_DEPTH / FABRIC_MAX_RANKS)
        return fail(why, ERR_INVALID, "fabric %s: frames of %zu bytes", f->ops->name, frame_bytes);
    int rc = f->ops->prepare(f, frame_bytes, incarnation, why);
    if (rc >= 0) f->frame_bytes = frame_bytes;
    return rc;
}

void fabric_check_peer(const struct fabric *f, int peer) {
    if (peer < 0 || peer >= f->size || peer == f->rank)
        BUG("fabric %s: rank %d names peer %d of %d", f->ops->name, f->rank, peer, f->size);
}

int fabric_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    if (!f->frame_bytes) BUG("fabric %s: attached before it was prepared", f->ops->name);
    if (peer < 0 || peer >= f->size || peer == f->rank)
        return fail(why, ERR_INVALID, "fabric %s: rank %d of %d cannot attach to rank %d", f->ops->name, f->rank, f->size,
                    peer);
    if (bytes > FABRIC_ADDRESS_BYTES)
        return fail(why, ERR_TOO_LARGE, "fabric %s: an address of %zu bytes, at most %d", f->ops->name, bytes,
                    FABRIC_ADDRESS_BYTES);
    return f->ops->attach(f, peer, incarnation, address, bytes, why);
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void nap(int64_t us) {
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    nanosleep(&ts, NULL);
}

/* Sleeps until the transport has news or `left_us` passed. */
static void doze(struct fabric *f, int64_t left_us) {
    if (fabric_arm(f)) {
        sched_yield();
        return;
    }
    struct pollfd fd = {.fd = f->fd, .events = POLLIN};
    struct timespec ts = {.tv_sec = left_us / 1000000, .tv_nsec = left_us % 1000000 * 1000};
    ppoll(&fd, 1, &ts, NULL);
}

int fabric_wait(struct fabric *f, int64_t deadline_us) {
    int64_t start_us = 0, nap_us = NAP_MIN_US;
    for (int turn = 0;; turn++) {
        int rc = fabric_poll(f);
        if (rc) return rc < 0 ? rc : 0;
        if (turn < SPINS) {
            relax();
            continue;
        }
        int64_t now = clk_now_us();
        if (now >= deadline_us) return ERR_DEADLINE;
        if (!start_us) start_us = now;
        if (turn < SPINS + YIELDS) {
            sched_yield();
        } else if (f->fd >= 0) {
            doze(f, deadline_us - now);
        } else if (now - start_us >= (fabric_arm(f) ? PUSH_US : BLIND_US)) {
            nap(deadline_us - now < nap_us ? deadline_us - now : nap_us);
            nap_us = nap_us * 2 < NAP_MAX_US ? nap_us * 2 : NAP_MAX_US;
        }
    }
}
