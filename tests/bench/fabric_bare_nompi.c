/* fabric_bare_nompi.c - stands in for fabric_bare_mpi.c in a build without MPI. */
#include "base/log.h"
#include "tests/bench/bench_fabric.h"

const bool bare_has_mpi = false;

void bare_by_alltoallv(struct bare *b) {
    (void)b;
    die("this build has no MPI");
}
