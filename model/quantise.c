/* quantise.c - a matrix of a checkpoint as q8 or q4, some rows at a time, on every processor this process may use.
 *
 * Rows are expanded to f32 where they stay in a cache and packed from there, so a matrix never exists in f32 as a whole. Who
 * packs which rows changes nothing (kernels/quant.h). */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/log.h"
#include "kernels/quant.h"
#include "model/convert.h"

enum { MOST_THREADS = 64, WORTH = 1 << 18 /* weights for one more thread: some milliseconds */ };

struct quantising {
    const struct tensor_source *source;
    enum fmt fmt;
    void *piece;
    atomic_int next; /* panel */
};

static void *pack_panels(void *arg) {
    struct quantising *q = arg;
    const struct tensor_want *w = &q->source->want;
    float *wide = malloc(sizeof *wide * QUANT_PANEL * (size_t)w->cols);
    if (!wide) die("out of memory for %d rows of %s", QUANT_PANEL, w->name);
    for (int first; (first = atomic_fetch_add(&q->next, 1) * QUANT_PANEL) < w->rows;) {
        const int n = w->rows - first < QUANT_PANEL ? w->rows - first : QUANT_PANEL;
        tensor_read_rows(q->source, FMT_F32, wide, first, n);
        quant_pack(q->piece, q->fmt, w->rows, w->cols, first, n, wide);
    }
    free(wide);
    return NULL;
}

static int threads_for(const struct tensor_want *w) {
    cpu_set_t set;
    const int64_t worth = (int64_t)w->rows * w->cols / WORTH;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (cores > MOST_THREADS) cores = MOST_THREADS;
    return worth < cores ? (int)worth : cores;
}

void tensor_quantise(const struct tensor_source *s, enum fmt fmt, void *piece) {
    struct quantising q = {.source = s, .fmt = fmt, .piece = piece};
    const int threads = threads_for(&s->want);
    pthread_t ids[MOST_THREADS];
    sigset_t all, old;
    int n = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the process's own threads */
    while (n < threads - 1 && !pthread_create(&ids[n], NULL, pack_panels, &q)) n++; /* with fewer it takes longer */
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pack_panels(&q);
    for (int i = 0; i < n; i++) pthread_join(ids[i], NULL);
}
