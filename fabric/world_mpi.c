/* world_mpi.c - begin and end of the MPI world; the only file that calls MPI_Init. */
#include "fabric/world_mpi.h"

#include <stdlib.h>
#include <time.h>

#include "base/clk.h"
#include "fabric/fabric.h"

enum { NAP_NS = 200000 }; /* between looks at who has come */

const char *world_text(int code, char *buf) {
    int len = 0;
    if (MPI_Error_string(code, buf, &len) != MPI_SUCCESS) return "unknown error";
    return buf;
}

int world_failed(struct why *why, const char *call, int code) {
    char text[MPI_MAX_ERROR_STRING];
    return fail(why, ERR_IO, "fabric mpi: %s: %s", call, world_text(code, text));
}

/* MPI writes to *made when the last rank has come, whether we still wait or not. */
static int dup_by(MPI_Comm *made, int64_t deadline_us, struct why *why) {
    MPI_Request pending;
    int done = 0, rc = MPI_Comm_idup(MPI_COMM_WORLD, made, &pending);
    while (rc == MPI_SUCCESS && (rc = MPI_Test(&pending, &done, MPI_STATUS_IGNORE)) == MPI_SUCCESS && !done) {
        if (clk_now_us() >= deadline_us)
            return fail(why, ERR_DEADLINE,
                        "fabric mpi: not every rank of the MPI world came to where they meet; one that ended or hangs says why "
                        "in its own log");
        nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    }
    return rc == MPI_SUCCESS ? 0 : world_failed(why, "MPI_Comm_idup", rc);
}

int world_dup(MPI_Comm *out, int64_t deadline_us, struct why *why) {
    MPI_Comm *made = malloc(sizeof *made);
    if (!made) return fail(why, ERR_NOMEM, "fabric mpi: out of memory");
    int rc = dup_by(made, deadline_us, why);
    if (rc == ERR_DEADLINE) return rc; /* *made stays with MPI */
    if (rc >= 0) *out = *made;
    free(made);
    if (rc >= 0) MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN);
    return rc;
}

int fabric_mpi_init(int *rank, int *size, struct why *why) {
    int provided = 0, rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided);
    if (rc != MPI_SUCCESS)
        return fail(why, ERR_IO, "fabric mpi: MPI_Init_thread failed with %d; start workers with mpirun", rc);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (provided < MPI_THREAD_SERIALIZED)
        return fail(why, ERR_UNSUPPORTED, "fabric mpi: this MPI gives thread level %d, needs MPI_THREAD_SERIALIZED (%d)",
                    provided, MPI_THREAD_SERIALIZED);
    if ((rc = MPI_Comm_rank(MPI_COMM_WORLD, rank)) != MPI_SUCCESS) return world_failed(why, "MPI_Comm_rank", rc);
    if ((rc = MPI_Comm_size(MPI_COMM_WORLD, size)) != MPI_SUCCESS) return world_failed(why, "MPI_Comm_size", rc);
    if (*size > FABRIC_MAX_RANKS)
        return fail(why, ERR_TOO_LARGE, "fabric mpi: a world of %d ranks, at most %d", *size, FABRIC_MAX_RANKS);
    return 0;
}

/* Unclean: a rank may be dead and MPI_Finalize would wait for it for ever. There is nothing to do instead: the process must end
 * with _exit, because MPI's own exit handlers are no safer; the launcher takes the world down. */
void fabric_mpi_finalize(bool clean) {
    int started = 0, ended = 0;
    if (MPI_Initialized(&started) != MPI_SUCCESS || !started) return;
    if (MPI_Finalized(&ended) != MPI_SUCCESS || ended || !clean) return;
    MPI_Finalize();
}
