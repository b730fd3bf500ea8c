/* boot.h - which rank of how many this process is. Pure: asks its caller for variables, reads none itself.
 *
 * What was said on the command line wins; what it leaves open is asked of the launcher, in this order:
 *   PMIx      PMIX_RANK; it has no variable for the size, which the next ones tell
 *   Open MPI  OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE
 *   Slurm     SLURM_PROCID, SLURM_STEP_NUM_TASKS or SLURM_NTASKS
 *   PMI       PMI_RANK, PMI_SIZE
 * Launchers nest (mpirun inside a Slurm job): a size only counts beside a rank that is the one found. Any thread. */
#pragma once
#include <stdint.h>

#include "base/status.h"

struct boot_id {
    int rank, size;
    const char *from; /* who said the rank: "--rank", "PMIx", "Open MPI", "Slurm", "PMI" */
};
/* The value of a variable, or NULL. */
typedef const char *boot_lookup(void *ctx, const char *name);
/* rank, size: as given on the command line; -1: not. 0, or ERR_INVALID with what does not fit,
 * or ERR_NOT_FOUND: nobody says which rank this is. */
int boot_find(int64_t rank, int64_t size, boot_lookup *lookup, void *ctx, struct boot_id *out, struct why *why);
/* A lookup in this process's environment; ctx is not used. */
const char *boot_environment(void *ctx, const char *name);
