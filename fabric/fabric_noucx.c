/* fabric_noucx.c - stands in for fabric_ucx.c in a build without UCX, so that callers need no conditions: open says why not. */
#include "fabric/fabric.h"

int fabric_ucx_open(int rank, int size, const struct fabric_net *net, struct fabric **out, struct why *why) {
    (void)rank, (void)size, (void)net, (void)out;
    return fail(why, ERR_UNSUPPORTED,
                "this build has no UCX: install libucx-dev and build again with -Ducx=enabled, or use --fabric shm or mpi");
}
