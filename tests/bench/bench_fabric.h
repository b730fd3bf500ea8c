/* bench_fabric.h - one measurement of bench_fabric: what is exchanged, the engine's rounds, and the bare movement of the same
 * bytes that they are compared with. All ranks of a measurement do the same calls at the same time. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fabric/fabric.h"

enum { EXPERTS = 64, MOST_ROUNDS = 400, BLOCKS = 5, MOST_FORMS = 2, PATIENCE_US = 60000000 };
enum half { DISPATCH, COMBINE, HALVES };

struct shape {
    int ranks, tokens, hidden, topk; /* tokens: of each rank */
};
struct row { /* microseconds, seen by rank 0 */
    char transport[16];
    struct shape shape;
    double dispatch50, dispatch99, combine50, combine99, both50, both99;
    double base50;     /* the same bytes: packed, moved, read */
    double of_ceiling; /* how near the baseline is to plain memory copies of the same bytes by the same processes */
    double out_bytes;  /* payload that one rank sends, both halves */
};

int64_t bench_now_ns(void);
double bench_median(double *v, int n); /* sorts */
/* Fewer for big exchanges, a multiple of BLOCKS: the same on every rank, so no rank has to be told when to stop. */
int bench_rounds(const struct shape *s);

/* ---- load: k different experts for each token, spread evenly; experts are contiguous over the ranks ---- */

struct load {
    struct shape shape;
    int rank;
    int16_t *worker, *slot;            /* [T,k] of our own tokens */
    float *x;                          /* [T,H] */
    int out[HALVES][FABRIC_MAX_RANKS]; /* rows to each rank: copies of our tokens; answers to its pairs */
    int in[HALVES][FABRIC_MAX_RANKS];  /* rows from each rank */
    int32_t *token;                    /* [R,T] our tokens that go to each rank */
};
void load_init(struct load *l, const struct shape *s, int rank);
void load_clear(struct load *l);

/* ---- rounds: the engine ---- */

struct rounds;
size_t rounds_frame_bytes(const struct shape *s);
struct rounds *rounds_new(struct fabric *f, const struct load *l);
void rounds_run(struct rounds *r, int rounds, int warm);
void rounds_fill(struct rounds *r, struct row *row);
void rounds_free(struct rounds *r);

/* ---- bare: the baseline. Each half: rows are gathered into one buffer per peer, moved, and read once ---- */

struct bare {
    const struct load *load;
    unsigned char *out[FABRIC_MAX_RANKS], *in[FABRIC_MAX_RANKS]; /* parts of all_out and all_in, for each peer */
    unsigned char *all_out, *all_in;
    float *y;                                     /* what answers are gathered from */
    int32_t *pick;                                /* a random order of its rows */
    void (*move)(struct bare *b, enum half half); /* all of out[] to the others' in[]; NULL: nothing is measured */
    void *own;                                    /* of move */
    int forms;                                    /* of move; the one that is faster in the median counts */
    int form;                                     /* to be moved by */
    double took[MOST_FORMS][MOST_ROUNDS], copied[MOST_ROUNDS];
    int done;
    uint64_t sum;
};
void bare_init(struct bare *b, const struct load *l);
void bare_clear(struct bare *b);
void bare_run(struct bare *b, int rounds);
void bare_fill(struct bare *b, struct row *row);
static inline size_t bare_bytes(int rows, const struct load *l) {
    return (size_t)rows * (size_t)l->shape.hidden * sizeof(float);
}

/* Who has nothing to do lets the others have the core now and then. turn: counts from 0. */
void bare_relax(int turn);

/* By memory that all ranks see: each copies out, through the caches or past them, says so, and copies in. commons:
 * bare_commons_bytes, zero at first. */
size_t bare_commons_bytes(const struct shape *s);
void bare_by_copies(struct bare *b, void *commons);
/* The same for all ranks of a measurement: where each must wait until all have come. */
void bare_meet(void *commons, int size);

extern const bool bare_has_mpi, bare_has_ucx; /* in this build */
void bare_by_alltoallv(struct bare *b);       /* MPI_Alltoallv and MPI_Ialltoallv with counts known beforehand */

/* UCX active messages; addresses are exchanged through room that all ranks see. */
enum { BARE_UCX_ADDRESS = 4096 };
size_t bare_ucx_open(struct bare *b, void *address);
void bare_by_messages(struct bare *b, unsigned char (*addresses)[BARE_UCX_ADDRESS]);
void bare_ucx_close(struct bare *b);

/* ---- crews: all ranks of one measurement ---- */

void crew_of_threads(const struct shape *s, struct row *row);
/* Processes of this host; transport: shm, ucx or auto. */
void crew_of_processes(const char *transport, const struct shape *s, struct row *row);
/* This program again under mpirun, with these arguments; it calls crew_member for each shape. Returns rows. */
int crew_of_mpirun(const char *const *args, int ranks, struct row *rows, int most);
/* Over both forms of mpi; writes a row of each to stdout, as bytes. */
void crew_member(const struct shape *s);
