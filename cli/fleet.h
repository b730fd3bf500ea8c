/* fleet.h - the workers of `cadre serve`, and how they are started:
 *
 *   FLEET_THREADS  one process that runs them all (mem)
 *   FLEET_LOCAL    one process each, our children (shm, ucx, auto)
 *   FLEET_MPIRUN   one process each, by mpirun: here (mpi) or on the hosts of a list
 *   FLEET_SRUN     one process each, by srun, in the Slurm allocation that we run in
 *   FLEET_RANK     the one of this rank: all ranks of a launcher are `cadre serve` (cli/rank.h)
 *
 * Ranks of one mpirun on one host that shall be an MPI world are FLEET_MPIRUN as well: their head starts another mpirun, which
 * it can do again, and the others wait for its end. Elsewhere they are the world themselves, and end with any of them.
 *
 * A worker finds out its rank from the launcher, or is told. What mpirun and srun start is a supervisor of each worker
 * (cli/tend.h), unless the workers are an MPI world, which ends with any of them. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "cli/child.h"
#include "cli/rank.h"

enum { FLEET_MOST = 64 };
enum fleet_kind { FLEET_THREADS, FLEET_LOCAL, FLEET_MPIRUN, FLEET_SRUN, FLEET_RANK };
struct fleet_options {
    const char *fabric, *launcher, *hosts; /* launcher: "auto", "local", "mpirun", "srun"; hosts: as mpirun's --host, or NULL */
    const char *control, *key, *net_devices, *log_level; /* control: where they find the coordinator */
    int64_t workers, threads;
    int64_t hold;  /* seconds that workers wait for a coordinator that died to come back; 0: they end with it */
    int64_t ranks; /* as many workers as there may be one day */
    int nodes; /* of the Slurm allocation that we run in: fleet_slurm_nodes */
    const struct rank *rank; /* which one we are; NULL: none of several */
};
int fleet_slurm_nodes(void); /* 0: not in one */
/* ERR_INVALID when fabric, launcher and hosts do not go together. */
int fleet_kind(const struct fleet_options *o, enum fleet_kind *out, struct why *why);
/* What a launcher said to this process is nothing to those that we start, nor are the cores it was given: ours are all. */
void fleet_leave_launch(void);
/* Some workers may be on other hosts. */
bool fleet_is_far(const struct fleet_options *o, enum fleet_kind kind);
/* Workers of an MPI world: none can come again alone. */
bool fleet_is_world(const struct fleet_options *o);
/* Processes of ours that this takes: one each (FLEET_LOCAL), or one in all. */
int fleet_count(const struct fleet_options *o, enum fleet_kind kind);
/* Process i of fleet_count, also in the place of one that died. */
int fleet_start_one(const struct fleet_options *o, enum fleet_kind kind, int i, struct child *child, struct why *why);
/* FLEET_RANK without the coordinator: runs its worker, again when it dies (cli/tend.h); of a world this process becomes it. The
 * exit status. */
int fleet_keep(const struct fleet_options *o);
