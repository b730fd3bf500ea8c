/* roster.h - the workers' side of an epoch (coordinator/epoch.h): whom this rank is attached to, and in which it may work.
 *
 *   prepare(n): let go of those who are not in n or are successors now, attach to those who are new; then acknowledge n
 *   switch(n):  all have acknowledged; from now on steps of epoch n, and of no other, are run
 *
 * Between the two no step is run. What comes late for an older epoch is told apart and ignored. Owner: the fabric's thread. */
#pragma once
#include "fabric/fabric.h"

struct roster_member {
    uint32_t incarnation; /* 0: this rank is not in the epoch */
    const void *address;  /* of its fabric; looked at only for those who are new */
    size_t bytes;
};
struct roster {
    uint32_t prepared;                      /* the last epoch that was prepared; 0: none */
    uint32_t current;                       /* the one to work in; 0: none now */
    uint64_t members;                       /* of prepared: mask of ranks, this one's among them */
    uint32_t incarnation[FABRIC_MAX_RANKS]; /* whom each rank is attached to; 0: to nobody */
};

/* All zero is a roster before its first epoch. members[size]; this rank's own entry says only whether it is in.
 * 1: acknowledge; 0: an epoch of the past, say nothing; ERR_DENIED: this rank is not in it and has let go of all; or what
 * fabric_attach said: then this rank cannot take part, and has prepared nothing. */
int roster_prepare(struct roster *r, struct fabric *f, uint32_t epoch, const struct roster_member *members, struct why *why);
/* Whether the epoch begins here; false: it is not the one that was prepared. */
bool roster_switch(struct roster *r, uint32_t epoch);
