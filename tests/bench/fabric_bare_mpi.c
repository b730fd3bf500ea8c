/* fabric_bare_mpi.c - the baseline of mpi: its own all-to-all, blocking and not, with counts known beforehand. */
#include <mpi.h>

#include "base/log.h"
#include "tests/bench/bench_fabric.h"

const bool bare_has_mpi = true;

static void alltoallv(struct bare *b, enum half half) {
    const struct load *l = b->load;
    int out[FABRIC_MAX_RANKS], out_at[FABRIC_MAX_RANKS], in[FABRIC_MAX_RANKS], in_at[FABRIC_MAX_RANKS];
    for (int r = 0; r < l->shape.ranks; r++) {
        out[r] = l->out[half][r] * l->shape.hidden;
        in[r] = l->in[half][r] * l->shape.hidden;
        out_at[r] = (int)((b->out[r] - b->all_out) / (ptrdiff_t)sizeof(float));
        in_at[r] = (int)((b->in[r] - b->all_in) / (ptrdiff_t)sizeof(float));
    }
    MPI_Request request = MPI_REQUEST_NULL;
    int rc = b->form
                 ? MPI_Ialltoallv(b->all_out, out, out_at, MPI_FLOAT, b->all_in, in, in_at, MPI_FLOAT, MPI_COMM_WORLD, &request)
                 : MPI_Alltoallv(b->all_out, out, out_at, MPI_FLOAT, b->all_in, in, in_at, MPI_FLOAT, MPI_COMM_WORLD);
    if (rc == MPI_SUCCESS) rc = MPI_Wait(&request, MPI_STATUS_IGNORE);
    if (rc != MPI_SUCCESS) die("MPI_Alltoallv failed");
}

void bare_by_alltoallv(struct bare *b) {
    b->move = alltoallv;
    b->forms = 2;
}
