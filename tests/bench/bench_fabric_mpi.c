/* bench_fabric_mpi.c - the bare exchange of the same bytes by MPI_Alltoallv, counts known beforehand. */
#include "tests/bench/bench_fabric.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

int64_t bench_alltoallv_ns(size_t bytes, int rounds) {
    int rank, size, counts[64], at[64];
    uint64_t mine = bytes, most;
    MPI_Allreduce(&mine, &most, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD); /* routes differ a little; counts must agree */
    bytes = most;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int r = 0; r < size; r++) {
        counts[r] = r == rank ? 0 : (int)bytes;
        at[r] = r * (int)bytes;
    }
    char *out = malloc(bytes * (size_t)size + 1), *in = malloc(bytes * (size_t)size + 1);
    int64_t *took = calloc((size_t)rounds, sizeof *took), median = -1;
    if (out && in && took) {
        memset(out, 1, bytes * (size_t)size + 1);
        for (int i = -rounds / 10 - 1; i < rounds; i++) { /* the first ones warm up */
            int64_t start = now_ns();
            MPI_Alltoallv(out, counts, at, MPI_BYTE, in, counts, at, MPI_BYTE, MPI_COMM_WORLD);
            if (i >= 0) took[i] = now_ns() - start;
        }
        qsort(took, (size_t)rounds, sizeof *took, ascending);
        median = took[rounds / 2];
    }
    free(out);
    free(in);
    free(took);
    return median;
}
