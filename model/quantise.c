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
    const float *u;  /* NULL: each weight for itself */
    atomic_int next; /* panel */
};

/* n rows of a matrix, as quant_pack_toward takes them. */
static void turn(const float *rows, int n, int cols, float (*x)[QUANT_PANEL]) {
    for (int k = 0; k < cols; k++)
        for (int r = 0; r < QUANT_PANEL; r++) x[k][r] = r < n ? rows[(size_t)r * (size_t)cols + (size_t)k] : 0;
}

static void *pack_panels(void *arg) {
    struct quantising *q = arg;
    const struct tensor_want *w = &q->source->want;
    const size_t bytes = sizeof(float[QUANT_PANEL]) * (size_t)w->cols;
    float *wide = malloc(bytes), (*turned)[QUANT_PANEL] = q->u ? aligned_alloc(64, bytes) : NULL;
    if (!wide || (q->u && !turned)) die("out of memory for %d rows of %s", QUANT_PANEL, w->name);
    for (int first; (first = atomic_fetch_add(&q->next, 1) * QUANT_PANEL) < w->rows;) {
        const int n = w->rows - first < QUANT_PANEL ? w->rows - first : QUANT_PANEL;
        tensor_read_rows(q->source, FMT_F32, wide, first, n);
        if (turned) {
            turn(wide, n, w->cols, turned);
            quant_pack_toward(q->piece, q->fmt, w->rows, w->cols, first, turned, q->u);
        } else {
            quant_pack(q->piece, q->fmt, w->rows, w->cols, first, n, wide);
        }
    }
    free(wide);
    free(turned);
    return NULL;
}

static int threads_for(const struct tensor_want *w) {
    cpu_set_t set;
    const int64_t worth = (int64_t)w->rows * w->cols / WORTH;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (cores > MOST_THREADS) cores = MOST_THREADS;
    return worth < cores ? (int)worth : cores;
}

void tensor_quantise(const struct tensor_source *s, enum fmt fmt, void *piece, const float *u) {
    struct quantising q = {.source = s, .fmt = fmt, .piece = piece, .u = u};
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
