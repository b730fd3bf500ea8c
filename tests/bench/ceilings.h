/* ceilings.h - what this machine can do at best, measured: the denominators of bench_kernels. */
#pragma once

/* Fused multiply-adds on registers alone, all threads at once; isa "avx2", or one of the others. The loop is written in machine
 * instructions, so the compiler cannot make it slower. */
double ceiling_gflops(const char *isa, int threads);
/* The same for products of int8, two operations each: VNNI where "avx512" has it, else multiply, widen and add. */
double ceiling_gops(const char *isa, int threads);
/* Memory read by all threads at once, four streams each with prefetch, over 256 MiB. Best of some rounds. */
double ceiling_read_gbs(int threads);

/* Seconds. With one thread the calling thread's own processor time, which leaves out what other programs took of the core;
 * with more the clock on the wall, because threads that wait for one another are part of the cost. */
double ceiling_clock(int threads);
