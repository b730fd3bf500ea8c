/* mover.h - moves blobs between workers: a thread of its own, which gives this worker's to those that ask at its door, and
 * fetches theirs for the engine. It never touches the engine's time: what others read is copied out piece by piece, and the
 * engine waits for that only when it changes what it holds.
 *
 *   mover (this)   <-- WANT, PIECE (proto/piece.h) -->   mover of another worker
 *
 * A question names a blob and a range; a bad one is dropped. Memory is bounded: one piece at a time goes out, MOVER_AHEAD are
 * asked for at once. A peer that gives nothing for MOVER_PATIENCE_US has failed, and one that gives less than it was asked
 * for. The engine does not wait for a thread that stands still, wherever that may be. */
#pragma once
#include "proto/bus.h"
#include "worker/expert_store.h"

enum { MOVER_AHEAD = 4, MOVER_PATIENCE_US = 1000000, MOVER_STILL_US = 10000000, MOVER_DOOR_BYTES = 256 };

struct mover_options {
    struct bus *door; /* where others ask; taken; NULL: they cannot */
    /* A client bus to another's door. Called on the mover's thread; NULL: nobody can be asked. */
    int (*reach)(void *ctx, const char *door, struct bus **out, struct why *why);
    void *ctx;
    int rank;         /* for what the thread says */
    int64_t still_us; /* so long the engine waits for a thread that does not turn; 0: MOVER_STILL_US */
};
struct mover;
int mover_open(const struct mover_options *o, struct mover **out); /* ERR_NOMEM; the door is taken all the same */
void mover_close(struct mover *m);                                 /* NULL is fine */
const char *mover_door(const struct mover *m);                     /* as it is told to others; "": there is none */
uint64_t mover_progress(const struct mover *m);                    /* grows as long as its thread turns; any thread */

/* ---- the engine thread ---- */

/* What others may read from now on: its tables change under a lock of ours alone. NULL: nothing; then nobody reads any more.
 * NULL for m is fine. */
void mover_show(struct mover *m, struct expert_store *s);
/* The blob that `want` describes, from the worker behind that door, into out: complete and with the right checksum.
 * ERR_NOT_FOUND: that worker does not have it. ERR_LATE, ERR_GONE, ERR_CORRUPT, ERR_PROTOCOL: it failed, or (ERR_LATE) our own
 * thread stands still, which until it turns again is said at once. On failure out holds anything, and nobody writes there. */
int mover_fetch(struct mover *m, const char *door, const struct blob_header *want, unsigned char *out, struct why *why);
