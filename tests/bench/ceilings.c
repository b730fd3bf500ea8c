/* ceilings.c - the two ceilings of a roofline: arithmetic and memory. */
#include "tests/bench/ceilings.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "kernels/isa.h"

enum { MOST_THREADS = 64, ROUNDS = 7, FMA_LOOPS = 400000, FMAS_PER_LOOP = 16, DOTS_PER_LOOP = 12 };

struct part {
    const uint64_t *data; /* NULL: arithmetic */
    size_t words;
    void (*loop)(int64_t n); /* arithmetic */
    int threads;
    uint64_t sum; /* what was read must be used */
    double seconds;
    pthread_barrier_t *start;
};

double ceiling_clock(int threads) {
    struct timespec ts;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* 16 independent chains, more than any core's latency times its units. r: "ymm" or "zmm". */
#define FMA(r, i)           "vfmadd231ps %%" r i ",%%" r i ",%%" r i "\n\t"
#define FMA4(r, i, j, k, l) FMA(r, i) FMA(r, j) FMA(r, k) FMA(r, l)
#define FMA_LOOP(r, n)                                                                                                         \
    __asm__ volatile("1:\n\t" FMA4(r, "0", "1", "2", "3") FMA4(r, "4", "5", "6", "7") FMA4(r, "8", "9", "10", "11")            \
                         FMA4(r, "12", "13", "14", "15") "dec %0\n\tjnz 1b\n\tvzeroupper"                                      \
                     : "+r"(n)                                                                                                 \
                     :                                                                                                         \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                       "xmm12", "xmm13", "xmm14", "xmm15")

static void fma_avx2(int64_t n) { FMA_LOOP("ymm", n); }

static void fma_avx512(int64_t n) { FMA_LOOP("zmm", n); }

/* 12 chains of 64 products. */
#define DOT(i) "vpdpbusd %%zmm14,%%zmm15,%%zmm" i "\n\t"
static void dot_vnni(int64_t n) {
    __asm__ volatile("1:\n\t" DOT("0") DOT("1") DOT("2") DOT("3") DOT("4") DOT("5") DOT("6") DOT("7") DOT("8") DOT("9")
                         DOT("10") DOT("11") "dec %0\n\tjnz 1b\n\tvzeroupper"
                     : "+r"(n)
                     :
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm14", "xmm15");
}

/* 12 results of as many products as the register has bytes. t: a scratch register. */
#define STEP(r, t, i)                                                                                                          \
    "vpmaddubsw %%" r "15,%%" r "14,%%" r t "\n\tvpmaddwd %%" r "13,%%" r t ",%%" r t "\n\tvpaddd %%" r t ",%%" r i ",%%" r i  \
    "\n\t"
#define STEP_LOOP(r, n)                                                                                                        \
    __asm__ volatile("1:\n\t" STEP(r, "9", "0") STEP(r, "10", "1") STEP(r, "11", "2") STEP(r, "12", "3") STEP(r, "9", "4")     \
                         STEP(r, "10", "5") STEP(r, "11", "6") STEP(r, "12", "7") STEP(r, "9", "0") STEP(r, "10", "1")         \
                             STEP(r, "11", "2") STEP(r, "12", "3") "dec %0\n\tjnz 1b\n\tvzeroupper"                            \
                     : "+r"(n)                                                                                                 \
                     :                                                                                                         \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                       "xmm12", "xmm13", "xmm14", "xmm15")
static void dot_avx2(int64_t n) { STEP_LOOP("ymm", n); }
static void dot_avx512(int64_t n) { STEP_LOOP("zmm", n); }

static uint64_t read_words(const uint64_t *data, size_t words) {
    size_t quarter = words / 32 * 8, ahead = 160; /* whole lines; words */
    const uint64_t *s[4] = {data, data + quarter, data + 2 * quarter, data + 3 * quarter};
    uint64_t sum[4] = {0, 0, 0, 0};
    for (size_t i = 0; i < quarter; i += 8) {
        for (int j = 0; j < 4; j++) {
            const uint64_t *p = s[j] + i;
            __builtin_prefetch(p + ahead, 0, 2);
            sum[j] += (p[0] ^ p[1]) + (p[2] ^ p[3]) + (p[4] ^ p[5]) + (p[6] ^ p[7]);
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static void *run_part(void *arg) {
    struct part *p = arg;
    pthread_barrier_wait(p->start);
    double from = ceiling_clock(p->threads);
    if (p->data) p->sum = read_words(p->data, p->words);
    else p->loop(FMA_LOOPS);
    p->seconds = ceiling_clock(p->threads) - from;
    return NULL;
}

/* Seconds of the slowest part, best of the rounds. */
static double fastest(struct part *parts, int threads) {
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_t start;
        pthread_t ids[MOST_THREADS];
        double slowest = 0;
        pthread_barrier_init(&start, NULL, (unsigned)threads);
        for (int i = 0; i < threads; i++) {
            parts[i].start = &start;
            parts[i].threads = threads;
            if (pthread_create(&ids[i], NULL, run_part, &parts[i])) die("cannot start a thread");
        }
        for (int i = 0; i < threads; i++) {
            pthread_join(ids[i], NULL);
            if (parts[i].seconds > slowest) slowest = parts[i].seconds;
        }
        pthread_barrier_destroy(&start);
        if (slowest < best) best = slowest;
    }
    return best;
}

double ceiling_gflops(const char *isa, int threads) {
    struct part parts[MOST_THREADS] = {{0}};
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    const bool wide = strcmp(isa, "avx2");
    for (int i = 0; i < threads; i++) parts[i].loop = wide ? fma_avx512 : fma_avx2;
    return 2.0 * FMA_LOOPS * FMAS_PER_LOOP * (wide ? 16 : 8) * threads / fastest(parts, threads) * 1e-9;
}

double ceiling_gops(const char *isa, int threads) {
    struct part parts[MOST_THREADS] = {{0}};
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    const bool wide = strcmp(isa, "avx2"), vnni = !strcmp(isa, "avx512") && isa_vnni();
    for (int i = 0; i < threads; i++) parts[i].loop = vnni ? dot_vnni : wide ? dot_avx512 : dot_avx2;
    return 2.0 * FMA_LOOPS * DOTS_PER_LOOP * (wide ? 64 : 32) * threads / fastest(parts, threads) * 1e-9;
}

double ceiling_read_gbs(int threads) {
    size_t bytes = (size_t)256 << 20;
    struct part parts[MOST_THREADS] = {{0}};
    uint64_t *data = aligned_alloc(64, bytes);
    if (!data) die("out of memory for %zu bytes to read", bytes);
    memset(data, 1, bytes);
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    size_t words = bytes / 8 / (size_t)threads / 32 * 32;
    for (int i = 0; i < threads; i++) parts[i] = (struct part){.data = data + words * (size_t)i, .words = words};
    double gbs = (double)words * 8 * threads / fastest(parts, threads) * 1e-9;
    free(data);
    return gbs;
}
