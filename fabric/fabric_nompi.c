/* fabric_nompi.c - stands in for both MPI forms in a build without MPI, so that callers need no conditions: init says why. */
#include "fabric/fabric.h"

static int no_mpi(struct why *why) {
    return fail(why, ERR_UNSUPPORTED,
                "this build has no MPI: install libopenmpi-dev and build again with -Dmpi=enabled, or use --fabric mem");
}

int fabric_mpi_init(int *rank, int *size, struct why *why) {
    (void)rank, (void)size;
    return no_mpi(why);
}

int fabric_mpi_open(struct fabric **out, struct why *why) {
    (void)out;
    return no_mpi(why);
}

int fabric_mpi_alltoallv_open(struct fabric **out, struct why *why) {
    (void)out;
    return no_mpi(why);
}

void fabric_mpi_finalize(bool clean) { (void)clean; }
