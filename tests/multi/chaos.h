/* chaos.h - workers of test_chaos: processes with a real fabric, exchange and roster, and a socket to the test, which plays the
 * coordinator. What they say on it, and the board where addresses lie. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "coordinator/epoch.h"
#include "fabric/fabric.h"
#include "tests/sim/exchange.h"

enum { CHAOS_RANKS = 4, CHAOS_LIVES = 1024, CHAOS_BEAT_US = 100000, CHAOS_PATIENCE_US = 2000000 };

enum chaos_kind {
    CHAOS_HELLO,   /* -> address of board life */
    CHAOS_READY,   /* -> it could take part */
    CHAOS_BEAT,    /* -> progress, busy, fds, resident_kib */
    CHAOS_TROUBLE, /* -> late */
    CHAOS_ACK,     /* -> epoch */
    CHAOS_DONE,    /* -> epoch, step */
    CHAOS_BROKEN,  /* -> why: what came was wrong, or a call failed */
    CHAOS_WELCOME, /* <- incarnation */
    CHAOS_PREPARE, /* <- members, life */
    CHAOS_SWITCH,  /* <- epoch */
    CHAOS_PLAN,    /* <- epoch, step; us, rank: for so long that one's engine computes in it, as everybody is told */
    CHAOS_STALL,   /* <- us: do not look at the fabric for so long */
    CHAOS_OUT,     /* <- leave */
};
struct chaos_message {
    enum chaos_kind kind;
    uint32_t incarnation, epoch, life[CHAOS_RANKS];
    uint64_t step, late, progress;
    int64_t us;
    int rank;
    long fds, resident_kib;
    bool busy;
    struct epoch members;
    struct why why;
};
struct chaos_board { /* shared by all processes; each life writes its own entry, before it says Hello */
    struct chaos_address {
        size_t bytes;
        unsigned char text[FABRIC_ADDRESS_BYTES];
    } address[CHAOS_LIVES];
};

/* For how long a worker waits in a step that is to take `us`. */
static inline int64_t chaos_patience_us(int64_t us) { return 10 * us > CHAOS_PATIENCE_US ? 10 * us : CHAOS_PATIENCE_US; }

/* The next whole message of a socket: 1, 0 when there is none yet, ERR_GONE when none will come. */
int chaos_take(int socket, struct chaos_message *m);

typedef int (*chaos_open)(int rank, int size, struct fabric **out, struct why *why);
struct chaos_life {
    struct exchange_shape shape;
    struct chaos_board *board;
    chaos_open open;
    int rank, life, socket;
};
/* Runs until told to leave or the other end of the socket is gone. */
_Noreturn void chaos_worker(const struct chaos_life *life);
