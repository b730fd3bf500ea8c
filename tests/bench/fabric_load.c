/* fabric_load.c - who sends how much to whom: every rank can compute it for all. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/log.h"
#include "tests/bench/bench_fabric.h"

int64_t bench_now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

double bench_median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[n / 2];
}

int bench_rounds(const struct shape *s) {
    double bytes = (double)s->ranks * s->tokens * (s->topk + 1) * s->hidden * 4;
    double rounds = 4e8 / (bytes + 1);
    return rounds < BLOCKS ? BLOCKS : rounds > MOST_ROUNDS ? MOST_ROUNDS : (int)rounds / BLOCKS * BLOCKS;
}

static void route(const struct shape *s, int rank, int token, int16_t *worker, int16_t *slot) {
    uint64_t taken = 0;
    for (int j = 0; j < s->topk; j++) {
        int e = (int)(hash_u64((uint64_t)(rank * 4096 + token) * 64 + (uint64_t)j) % EXPERTS);
        while (taken >> e & 1) e = (e + 1) % EXPERTS;
        taken |= UINT64_C(1) << e;
        worker[j] = (int16_t)(e * s->ranks / EXPERTS);
        slot[j] = (int16_t)(e % ((EXPERTS + s->ranks - 1) / s->ranks));
    }
}

/* Adds what one token of `from` makes rank `to` get and answer. */
static void count(const int16_t *worker, int topk, int to, int *copies, int *answers) {
    int pairs = 0;
    for (int j = 0; j < topk; j++) pairs += worker[j] == to;
    *copies += pairs > 0;
    *answers += pairs;
}

void load_init(struct load *l, const struct shape *s, int rank) {
    size_t T = (size_t)s->tokens, k = (size_t)s->topk;
    int16_t worker[EXPERTS], slot[EXPERTS];
    *l = (struct load){.shape = *s,
                       .rank = rank,
                       .worker = calloc(T * k, sizeof *l->worker),
                       .slot = calloc(T * k, sizeof *l->slot),
                       .x = calloc(T * (size_t)s->hidden, sizeof *l->x),
                       .token = calloc((size_t)s->ranks * T, sizeof *l->token)};
    if (!l->worker || !l->slot || !l->x || !l->token) die("out of memory");
    for (size_t i = 0; i < T * (size_t)s->hidden; i++) l->x[i] = (float)(i % 1000);
    for (int t = 0; t < s->tokens; t++) {
        route(s, rank, t, l->worker + (size_t)t * k, l->slot + (size_t)t * k);
        for (int r = 0; r < s->ranks; r++) {
            if (r == rank) continue;
            int before = l->out[DISPATCH][r];
            count(l->worker + (size_t)t * k, s->topk, r, &l->out[DISPATCH][r], &l->in[COMBINE][r]);
            if (l->out[DISPATCH][r] > before) l->token[r * s->tokens + before] = t;
            route(s, r, t, worker, slot);
            count(worker, s->topk, rank, &l->in[DISPATCH][r], &l->out[COMBINE][r]);
        }
    }
}

void load_clear(struct load *l) {
    free(l->worker);
    free(l->slot);
    free(l->x);
    free(l->token);
    memset(l, 0, sizeof *l);
}
