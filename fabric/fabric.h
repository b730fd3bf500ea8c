/* fabric.h - moves frames between the ranks of one epoch. Moves bytes; knows no tokens.
 *
 * Each ordered pair of ranks has its own stream of frames: frames of one stream arrive in order, whole and once; between
 * streams there is no order. Nothing blocks except fabric_wait, and that has a deadline. Sending is in two halves so that
 * rows are packed straight into the transport's memory: reserve -> write -> commit; receiving: peek -> read -> release.
 * Backends: "mem" (ranks are threads of one process), "mpi" (ranks are processes of one MPI world).
 * Owner: one thread per rank makes every call of that rank's handle. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    FABRIC_MAX_RANKS = 64,
    FABRIC_DEPTH = 4 /* frames a stream holds before reserve says full. ep needs 2, and 2 more for a step that was given up */
};

struct fabric {
    const struct fabric_ops *ops;
    int rank, size;
    size_t frame_bytes; /* largest frame */
};

struct fabric_ops {
    const char *name;
    void *(*reserve)(struct fabric *f, int peer, size_t bytes);
    void (*commit)(struct fabric *f, int peer, size_t bytes);
    const void *(*peek)(struct fabric *f, int peer, size_t *bytes);
    void (*release)(struct fabric *f, int peer);
    int (*wait)(struct fabric *f, int64_t deadline_us);
    int (*flush)(struct fabric *f, int64_t deadline_us);
    void (*close)(struct fabric *f);
};

/* Room for a frame of up to `bytes` to peer (never self), 64-byte aligned; NULL when the stream is full now: receive, then
 * try again. At most one reservation per peer at a time; commit (bytes may be smaller) sends it. */
static inline void *fabric_reserve(struct fabric *f, int peer, size_t bytes) { return f->ops->reserve(f, peer, bytes); }
static inline void fabric_commit(struct fabric *f, int peer, size_t bytes) { f->ops->commit(f, peer, bytes); }
/* The oldest unreleased frame from peer, or NULL. Stays valid, and the same, until released. */
static inline const void *fabric_peek(struct fabric *f, int peer, size_t *bytes) { return f->ops->peek(f, peer, bytes); }
static inline void fabric_release(struct fabric *f, int peer) { f->ops->release(f, peer); }
/* Waits until something may have changed (a frame arrived, room was made, a wake) or the deadline (clk_now_us) passed: spins
 * briefly, yields, then sleeps. 0, ERR_DEADLINE, or ERR_GONE when this rank itself was killed. "Changed" counts from the last
 * return, so look at every peer between two waits. Spurious returns are allowed. */
static inline int fabric_wait(struct fabric *f, int64_t deadline_us) { return f->ops->wait(f, deadline_us); }
/* Works until every committed frame gets to its reader without further calls here; 0 or ERR_DEADLINE. Some transports move
 * frames only while their sender calls: flush before sleeping anywhere else than in fabric_wait. */
static inline int fabric_flush(struct fabric *f, int64_t deadline_us) { return f->ops->flush(f, deadline_us); }
static inline void fabric_close(struct fabric *f) {
    if (f) f->ops->close(f);
}

/* --- mem: a hub shared by R threads of one process --- */
struct fabric_hub;
struct fabric_faults { /* all zero: none. Times and choices follow from the seed alone */
    uint64_t seed;
    int delay_percent;     /* frames held back for a while */
    int duplicate_percent; /* frames delivered twice */
};
int fabric_hub_new(int ranks, size_t frame_bytes, const struct fabric_faults *faults, struct fabric_hub **out, struct why *why);
void fabric_hub_free(struct fabric_hub *h); /* after every rank closed */
int fabric_mem_open(struct fabric_hub *h, int rank, struct fabric **out, struct why *why);
/* From any thread: rank's frames vanish from now on and its own waits return ERR_GONE. Others notice nothing but silence. */
void fabric_hub_kill(struct fabric_hub *h, int rank);

/* --- mpi: the only file that calls MPI_Init; once per process. Calls may come from several threads, one at a time --- */
int fabric_mpi_init(int *rank, int *size, struct why *why); /* MPI_Init_thread; ERR_UNSUPPORTED in a build without MPI */
/* Collective, blocks: every rank of the world opens, with the same frame_bytes. Its thread owns the handle. */
int fabric_mpi_open(size_t frame_bytes, struct fabric **out, struct why *why);
/* clean: MPI_Finalize, which waits for every rank. Otherwise (a rank may be dead) it does nothing, and the caller leaves with
 * _exit, never by returning from main. */
void fabric_mpi_finalize(bool clean);
