/* procs.h - ranks as processes of a test: forking them, showing addresses to each other, and how they ended. */
#pragma once
#include <stdatomic.h>
#include <sys/types.h>

#include "fabric/fabric.h"

enum { PROCS_MARKS = 8 };

/* In memory shared by a test and all processes it forks. */
struct procs {
    struct procs_rank {
        atomic_uint incarnation; /* the latest that showed its address; 0 = none yet */
        size_t bytes;
        unsigned char address[FABRIC_ADDRESS_BYTES];
        atomic_int marks[PROCS_MARKS]; /* whatever a test counts */
    } ranks[FABRIC_MAX_RANKS];
    char text[512]; /* why a rank failed; the last one to write wins */
};

typedef int (*procs_main)(struct procs *p, int rank, uint32_t incarnation); /* 0 or ERR_*, why in p->text */

struct procs *procs_new(void);
void procs_free(struct procs *p);
pid_t procs_start(struct procs *p, procs_main run, int rank, uint32_t incarnation);
/* Waits for a process; 0 when it ended as it should. */
int procs_end(pid_t pid);
/* Starts ranks 0..n-1, incarnation rank + 1, and waits for all; 0 when all ended as they should. */
int procs_run(struct procs *p, procs_main run, int n);

/* Shows this rank's address to the others. */
void procs_show(struct procs *p, struct fabric *f, uint32_t incarnation);
/* Attaches a rank, once it shows an incarnation above `above`; the one attached, or ERR_*. */
int procs_attach(struct procs *p, struct fabric *f, int peer, uint32_t above, struct why *why);
/* Prepares, shows and attaches to all other ranks. */
int procs_meet(struct procs *p, struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why);
/* Until *mark reaches value; ERR_DEADLINE after a long time. With a fabric it is polled meanwhile. */
int procs_await(atomic_int *mark, int value, struct fabric *f);
/* Ends a rank: keeps the reason for the test. Returns rc. */
int procs_fail(struct procs *p, int rank, int rc, const struct why *why);
int procs_count_fds(void);
long procs_resident_kib(void);
