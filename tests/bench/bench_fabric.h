/* bench_fabric.h - the one part of bench_fabric that must call MPI itself: its baseline. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Median time of one MPI_Alltoallv that sends `bytes` (the most any rank says) to every other rank, over `rounds`;
 * collective. */
int64_t bench_alltoallv_ns(size_t bytes, int rounds);
