/* round_queue.h - FABRIC_DEPTH buffers of one direction of a pair, and the order of the frames in them (fabric_rounds_mpi.c).
 * To send: FREE ─committed─► FULL ─in the open round─► AWAY ─round over─► FREE.
 * To get:  FREE ─arrived─► FULL ─taken─► AWAY ─given back─► FREE. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "fabric/fabric.h"

enum room { ROOM_FREE, ROOM_FULL, ROOM_AWAY };

struct round_queue {
    enum room room[FABRIC_DEPTH];
    uint64_t number[FABRIC_DEPTH];
    size_t bytes[FABRIC_DEPTH];
    uint64_t in, out; /* numbers of the frame that came in last, that left last */
    int now;          /* buffer of the open round; -1: none */
};

/* -1: none is. */
static inline int round_queue_free(const struct round_queue *q) {
    for (int i = 0; i < FABRIC_DEPTH; i++)
        if (q->room[i] == ROOM_FREE) return i;
    return -1;
}

/* The buffer of the frame whose turn it is; -1: it is not there yet. */
static inline int round_queue_next(const struct round_queue *q) {
    for (int i = 0; i < FABRIC_DEPTH; i++)
        if (q->room[i] == ROOM_FULL && q->number[i] == q->out + 1) return i;
    return -1;
}

static inline void round_queue_fill(struct round_queue *q, int i, size_t bytes) {
    q->room[i] = ROOM_FULL;
    q->number[i] = ++q->in;
    q->bytes[i] = bytes;
}
