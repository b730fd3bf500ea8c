/* boot.c - a table of launchers, tried in order. */
#include "fabric/boot.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fabric/fabric.h"

static const struct launcher {
    const char *name, *rank, *size[2];
} launchers[] = {
    {"PMIx", "PMIX_RANK", {NULL}},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", {"OMPI_COMM_WORLD_SIZE"}},
    {"Slurm", "SLURM_PROCID", {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}}, /* the step's own, not the whole job's, where told */
    {"PMI", "PMI_RANK", {"PMI_SIZE"}},
};
enum { LAUNCHERS = sizeof launchers / sizeof launchers[0] };

const char *boot_environment(void *ctx, const char *name) {
    size_t n = strlen(name);
    (void)ctx;
    for (char **e = environ; e && *e; e++)
        if (!strncmp(*e, name, n) && (*e)[n] == '=') return *e + n + 1;
    return NULL;
}

/* 1 with *out, 0 when there is no such variable, ERR_INVALID when it is no count. */
static int number(boot_lookup *lookup, void *ctx, const char *name, int64_t *out, struct why *why) {
    const char *text = name ? lookup(ctx, name) : NULL;
    char *end;
    if (!text) return 0;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || *end || errno || n < 0 || n > INT32_MAX)
        return fail(why, ERR_INVALID, "%s is '%.40s', which is no count; give --rank and --size", name, text);
    *out = n;
    return 1;
}

static int find_rank(boot_lookup *lookup, void *ctx, int64_t *rank, const char **from, struct why *why) {
    for (int i = 0; i < LAUNCHERS; i++) {
        int rc = number(lookup, ctx, launchers[i].rank, rank, why);
        if (rc > 0) *from = launchers[i].name;
        if (rc) return rc;
    }
    return fail(why, ERR_NOT_FOUND,
                "which worker is this? Neither --rank nor PMIX_RANK, OMPI_COMM_WORLD_RANK, SLURM_PROCID or PMI_RANK says it: "
                "give --rank and --size, or start it with mpirun or srun");
}

static int find_size(boot_lookup *lookup, void *ctx, int64_t rank, int64_t *size, struct why *why) {
    for (int i = 0; i < LAUNCHERS; i++) {
        int64_t its_rank;
        int rc = number(lookup, ctx, launchers[i].rank, &its_rank, why);
        if (rc < 0) return rc;
        if (!rc || its_rank != rank) continue;
        for (int j = 0; j < 2; j++)
            if ((rc = number(lookup, ctx, launchers[i].size[j], size, why))) return rc;
    }
    return fail(why, ERR_INVALID,
                "of how many workers is this rank %lld? Neither --size nor OMPI_COMM_WORLD_SIZE, SLURM_STEP_NUM_TASKS, "
                "SLURM_NTASKS or PMI_SIZE says it: give --size",
                (long long)rank);
}

int boot_find(int64_t rank, int64_t size, boot_lookup *lookup, void *ctx, struct boot_id *out, struct why *why) {
    const char *from = "--rank";
    int rc = rank < 0 ? find_rank(lookup, ctx, &rank, &from, why) : 0;
    if (rc >= 0 && size < 0) rc = find_size(lookup, ctx, rank, &size, why);
    if (rc < 0) return rc;
    if (size < 1 || size > FABRIC_MAX_RANKS)
        return fail(why, ERR_INVALID, "a cluster of %lld workers; 1 to %d are possible", (long long)size, FABRIC_MAX_RANKS);
    if (rank >= size)
        return fail(why, ERR_INVALID, "rank %lld (by %s) of %lld workers: ranks count from 0", (long long)rank, from,
                    (long long)size);
    *out = (struct boot_id){.rank = (int)rank, .size = (int)size, .from = from};
    return 0;
}
