/* rank.h - `cadre serve` started once per worker, by mpirun, srun or hand: which of them runs the coordinator, and how the
 * others learn where it is. Each is one worker; the *head* is the one that runs the coordinator too: rank 0, or with
 * --coordinator-node the first rank of that host. The others come to know its control endpoint by one of these, the first that
 * is possible:
 *
 *   a file     --endpoint-file, on storage that all hosts share; or, all ranks being on one host, in the folder that the
 *              launcher made there for this launch (PMIX_SERVER_TMPDIR); of mpirun's ranks also when --control says where
 *   an address said by --control with a host and a port; or made of the port of --control and a host: the one of
 *              --coordinator-node, or the first of the Slurm step, where its task 0 is; without a port it is 5771, or
 *              one that follows from the numbers of Slurm's job and step: several may share a host
 *
 * The file carries a name of the launch, where its launcher gives it one, so that one left by an earlier launch is not taken
 * for this one's. Owner: the only thread of `cadre serve`. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "fabric/boot.h"

enum { RANK_TEXT = 600, RANK_PATH = 4096, RANK_PORT = 5771, RANK_JOB_PORTS = 10000 /* and 20000 from there */ };
struct rank_options {
    int64_t rank, size;                            /* of the command line; -1: not given */
    const char *launcher, *endpoint_file;          /* as given */
    const char *control, *coordinator_node, *host; /* host: this one's name */
};
struct rank {
    struct boot_id id;
    bool head, one_host;     /* one_host: all ranks are here, as far as the launcher tells */
    bool inner;              /* all are here and one mpirun's, so another mpirun can have its workers in their place */
    int here;                /* ranks on this host; 0: not known */
    char launch[RANK_TEXT];  /* name of the launch; one word */
    char file[RANK_PATH];    /* where the endpoints are told; "": `address` is known to all */
    char address[RANK_TEXT]; /* control endpoint; "": it is in the file */
    char listen[32];         /* where the head's coordinator listens; "": as --control says, or anywhere */
    bool tells;              /* the head writes the file: it was asked to, or the others need it */
    int64_t head_pid;        /* as the file says it; 0: not yet */
};
/* True when this process is one of several that a launcher started, or is told so: neither one alone nor a batch script. */
bool rank_is(const struct rank_options *o, boot_lookup *lookup, void *ctx);
/* Pure, but for the lookup. ERR_INVALID with why, when it cannot be told who is who or where the others go. */
int rank_find(const struct rank_options *o, boot_lookup *lookup, void *ctx, struct rank *out, struct why *why);
/* Not one of several: tells its endpoints if a file is given. */
void rank_alone(struct rank *out, const char *endpoint_file);
/* Head: what an earlier launch left in the file goes away; then, once the coordinator listens, both endpoints as others reach
 * them. The file appears whole or not at all. ERR_IO with why. */
void rank_forget(const struct rank *r);
int rank_tell(const struct rank *r, const char *listen, const char *control, struct why *why);
/* Others: 1 and fills r->address when it is known; 0: not yet; ERR_INVALID: the file is something else. */
int rank_look(struct rank *r, struct why *why);
