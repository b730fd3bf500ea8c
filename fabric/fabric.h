/* fabric.h - moves frames between the ranks of one cluster. Moves bytes; knows no tokens.
 *
 * Each ordered pair of ranks has a stream with room for FABRIC_DEPTH frames. A frame arrives whole or not at all. Transports
 * deliver the frames of a stream in order and once, but a reader must not build on it (a fault injector may reorder, repeat
 * and drop): what a frame is, it says itself. Nothing blocks except fabric_wait and fabric_flush, and those have deadlines.
 * Sending is in two halves so that rows are packed straight into the transport's memory: reserve -> write -> commit;
 * receiving: take -> read -> give, where frames may be given back in any order.
 *
 *   open -> address -> prepare -> attach to each peer -> exchange ... detach, attach to its successor ... -> close
 *
 * Backends: "mem" (ranks are threads of one process), "shm" (processes of one host), "ucx" (processes anywhere), "auto" (shm
 * inside a host, ucx between hosts), "mpi" and "mpi-alltoallv" (processes of one MPI world, point to point and
 * by collectives; static: they cannot attach to a successor).
 * A peer that is dead or cut off is only silence: membership is decided elsewhere, by leases, never by a transport.
 * Owner: one thread at a time makes every call of a rank's handle. */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    FABRIC_MAX_RANKS = 64,
    FABRIC_DEPTH = 8, /* frames a stream holds before reserve says full; what ep needs, and why, is said in ep.c */
    FABRIC_ADDRESS_BYTES = 4096
};

struct fabric {
    const struct fabric_ops *ops;
    int rank, size;
    size_t frame_bytes; /* largest frame; 0 before fabric_prepare */
    int fd;             /* readable when there is news for an armed handle; -1: this transport cannot say */
    uint64_t near;      /* peers, as a mask, that read a room where we write it */
    atomic_ullong refused; /* messages of strangers; read by any thread */
};

struct fabric_ops {
    const char *name;
    size_t (*address)(struct fabric *f, void *out);
    int (*prepare)(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why);
    int (*attach)(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why);
    void (*detach)(struct fabric *f, int peer);
    void *(*reserve)(struct fabric *f, int peer, size_t bytes);
    void (*commit)(struct fabric *f, int peer, size_t bytes);
    const void *(*take)(struct fabric *f, int peer, size_t *bytes);
    void (*give)(struct fabric *f, int peer, const void *frame);
    int (*poll)(struct fabric *f);
    int (*arm)(struct fabric *f);
    int (*flush)(struct fabric *f, int64_t deadline_us);
    void (*close)(struct fabric *f);
};

/* ---- life ---- */

/* Writes what others need to attach to this rank, at most FABRIC_ADDRESS_BYTES; returns its size, 0 when they need nothing. */
static inline size_t fabric_address(struct fabric *f, void *out) { return f->ops->address(f, out); }
/* Takes memory for frames of up to frame_bytes, the same on all ranks; once. incarnation: this process's number, unique in the
 * life of the cluster and given by its coordinator. For both MPI forms collective: waits until every rank is there;
 * ERR_DEADLINE when one does not come. */
int fabric_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why);
/* From now on `peer` is the process that gave this address. Frames of a predecessor that were not taken vanish; frames that
 * were stay readable until given back. Does not wait for the peer. */
int fabric_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why);
/* Nothing comes from peer any more and reserve says full; harmless when not attached. */
static inline void fabric_detach(struct fabric *f, int peer) { f->ops->detach(f, peer); }
static inline void fabric_close(struct fabric *f) {
    if (f) f->ops->close(f);
}

/* ---- frames ---- */

/* Room for a frame of up to `bytes` to peer (never self), 64-byte aligned; NULL when the stream is full now: receive, then
 * try again. At most one reservation per peer at a time; commit (bytes may be smaller) sends it. */
static inline void *fabric_reserve(struct fabric *f, int peer, size_t bytes) { return f->ops->reserve(f, peer, bytes); }
static inline void fabric_commit(struct fabric *f, int peer, size_t bytes) { f->ops->commit(f, peer, bytes); }
/* The next frame from peer, 64-byte aligned, or NULL. The caller's, with its room in the stream, until given back. */
static inline const void *fabric_take(struct fabric *f, int peer, size_t *bytes) { return f->ops->take(f, peer, bytes); }
static inline void fabric_give(struct fabric *f, int peer, const void *frame) { f->ops->give(f, peer, frame); }

/* ---- waiting ---- */

/* Lets the transport work. 1 when something may have changed since the last call (a frame arrived, room was made), 0 when
 * not, ERR_GONE when this rank itself was killed. Cheap: call it between pieces of other work. */
static inline int fabric_poll(struct fabric *f) { return f->ops->poll(f); }
/* Before sleeping on fd: 0 = the fd will tell, 1 = there is news already. Every poll disarms. Without an fd: 1 = something is
 * under way that only more polls will move. */
static inline int fabric_arm(struct fabric *f) { return f->ops->arm(f); }
/* Until something may have changed or the deadline (clk_now_us) passed: spins briefly, yields, then sleeps. 0, ERR_DEADLINE
 * or ERR_GONE. "Changed" counts from the last return, so look at every peer between two waits. May return spuriously. */
int fabric_wait(struct fabric *f, int64_t deadline_us);
/* Works until every committed frame gets to its reader without further calls here; 0 or ERR_DEADLINE. Some transports move
 * frames only while their sender calls: flush before sleeping anywhere else than in fabric_wait. For mpi-alltoallv collective:
 * ends when every rank flushes (or closes), since all must call for any frame to move. */
static inline int fabric_flush(struct fabric *f, int64_t deadline_us) { return f->ops->flush(f, deadline_us); }

/* For transports: a BUG unless this rank can have such a peer. */
void fabric_check_peer(const struct fabric *f, int peer);

/* ---- mem: a hub shared by R threads of one process ---- */

struct fabric_hub;
struct fabric_faults { /* all zero: none. Times and choices follow from the seed alone. Frames only: nobody dies of these and
                        * no link is cut; callers draw fabric_hub_kill and fabric_hub_cut from the same seed */
    uint64_t seed;
    int delay_percent;       /* frames held back for a while, and all that follow them with them */
    int reorder_percent;     /* frames held back for a while that later ones overtake */
    int duplicate_percent;   /* frames delivered twice */
    int drop_percent;        /* frames that never arrive */
    int64_t (*now_us)(void); /* the clock of all this; NULL: clk_now_us */
};
int fabric_hub_new(int ranks, const struct fabric_faults *faults, struct fabric_hub **out, struct why *why);
void fabric_hub_free(struct fabric_hub *h); /* after every rank closed */
/* A rank that was closed may be opened again: that is its successor, a process of its own. All first lives are joined from the
 * start; attaching matters where one end or both are successors, and after a detach. */
int fabric_mem_open(struct fabric_hub *h, int rank, struct fabric **out, struct why *why);
/* From any thread: rank's frames vanish from now on and its own waits return ERR_GONE. Others notice nothing but silence.
 * A rank that is not open dies as soon as it opens. */
void fabric_hub_kill(struct fabric_hub *h, int rank);
/* From any thread: while cut, frames from one rank to another vanish as they are committed. The other direction is its own. */
void fabric_hub_cut(struct fabric_hub *h, int from, int to, bool cut);

/* ---- processes of one host, of several, and either as it comes; size: ranks the cluster may have ---- */

struct fabric_net { /* of ucx; all zero: open to whoever knows an address */
    const char *devices;   /* names of network devices as UCX knows them ("eth0", "mlx5_0:1,mlx5_1:1"); NULL or "": all */
    const uint8_t *secret; /* PROOF_SECRET_BYTES (proof.h), the same on all ranks, or NULL; nobody hears who has another */
};

/* Another user's process cannot attach to one of shm: rings are memory without a name, reached as this process's own files. */
int fabric_shm_open(int rank, int size, struct fabric **out, struct why *why);
/* Copies the secret; borrows nothing. ERR_UNSUPPORTED in a build without UCX. */
int fabric_ucx_open(int rank, int size, const struct fabric_net *net, struct fabric **out, struct why *why);
/* Shm inside a host, ucx between hosts; shm alone in a build without UCX. */
int fabric_auto_open(int rank, int size, const struct fabric_net *net, struct fabric **out, struct why *why);

/* ---- mpi: the world of this process, entered once. Calls may come from several threads, one at a time ---- */

int fabric_mpi_init(int *rank, int *size, struct why *why); /* MPI_Init_thread; ERR_UNSUPPORTED in a build without MPI */
int fabric_mpi_open(struct fabric **out, struct why *why);
int fabric_mpi_alltoallv_open(struct fabric **out, struct why *why); /* all must poll for anyone's frames to move */
/* clean: MPI_Finalize, which waits for every rank. Otherwise (a rank may be dead) it does nothing, and the caller leaves with
 * _exit, never by returning from main. */
void fabric_mpi_finalize(bool clean);
