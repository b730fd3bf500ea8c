/* board.h - a page that a test and the processes it forks all see: where ranks leave their addresses for each other, and how
 * they end. Forked processes leave with _exit, whatever happens. */
#pragma once
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"
#include "fabric/fabric.h"

struct board {
    struct board_rank {
        atomic_uint incarnation; /* of the address; 0: there is none yet */
        size_t bytes;
        unsigned char address[FABRIC_ADDRESS_BYTES];
        char text[512]; /* what went wrong */
        atomic_long value[4];
    } rank[8];
    atomic_int stop;
};

static inline struct board *board_new(void) {
    void *map = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return map == MAP_FAILED ? NULL : map;
}
static inline void board_free(struct board *b) { munmap(b, sizeof *b); }

/* Ends a forked process; why: NULL when all went well. */
static inline _Noreturn void board_exit(struct board *b, int rank, const char *why) {
    if (why) snprintf(b->rank[rank].text, sizeof b->rank[rank].text, "%s", why);
    _exit(why != NULL);
}

static inline void board_publish(struct board *b, struct fabric *f, unsigned incarnation) {
    struct board_rank *r = &b->rank[f->rank];
    atomic_store(&r->incarnation, 0); /* whoever copies a predecessor's address just now sees that it changed */
    r->bytes = fabric_address(f, r->address);
    atomic_store(&r->incarnation, incarnation);
}

/* Attaches to a rank as soon as its address is there. */
static inline int board_attach(struct board *b, struct fabric *f, int peer, int64_t patience_us, struct why *why) {
    struct board_rank *r = &b->rank[peer];
    int64_t deadline_us = clk_now_us() + patience_us;
    while (!atomic_load(&r->incarnation)) {
        if (clk_now_us() >= deadline_us) return fail(why, ERR_DEADLINE, "rank %d gave no address", peer);
        sched_yield();
    }
    return fabric_attach(f, peer, atomic_load(&r->incarnation), r->address, r->bytes, why);
}
