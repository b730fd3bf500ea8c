/* world_mpi.c - begin and end of the MPI world; the only file that calls MPI_Init. */
#include "fabric/world_mpi.h"

#include "fabric/fabric.h"

const char *world_text(int code, char *buf) {
    int len = 0;
    if (MPI_Error_string(code, buf, &len) != MPI_SUCCESS) return "unknown error";
    return buf;
}

int world_failed(struct why *why, const char *call, int code) {
    char text[MPI_MAX_ERROR_STRING];
    return fail(why, ERR_IO, "fabric mpi: %s: %s", call, world_text(code, text));
}

int world_dup(MPI_Comm *out, struct why *why) {
    int rc = MPI_Comm_dup(MPI_COMM_WORLD, out);
    if (rc != MPI_SUCCESS) return world_failed(why, "MPI_Comm_dup", rc);
    MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN);
    return 0;
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
