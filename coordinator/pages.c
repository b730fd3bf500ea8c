/* pages.c - one stack of free pages per worker. The last page given back is the first one taken again: it is the likeliest to
 * be in that worker's caches, and the order is the same on every run. */
#include "coordinator/pages.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int32_t *stack_of(const struct pages *p, int worker) { return p->free_list + (size_t)worker * (size_t)p->per_worker; }
static uint64_t *holder_of(const struct pages *p, int worker, int32_t page) {
    if (page < 0 || page >= p->per_worker) BUG("page %d of worker %d does not exist", page, worker);
    return p->holder + (size_t)worker * (size_t)p->per_worker + page;
}

int pages_init(struct pages *p, int workers, int per_worker) {
    size_t n = (size_t)workers * (size_t)per_worker;
    *p = (struct pages){.workers = workers, .per_worker = per_worker};
    p->free_list = malloc(sizeof *p->free_list * (n ? n : 1));
    p->n_free = malloc(sizeof *p->n_free * (size_t)(workers ? workers : 1));
    p->holder = calloc(n ? n : 1, sizeof *p->holder);
    if (!p->free_list || !p->n_free || !p->holder) {
        pages_clear(p);
        return ERR_NOMEM;
    }
    for (int w = 0; w < workers; w++) {
        for (int i = 0; i < per_worker; i++) stack_of(p, w)[i] = per_worker - 1 - i;
        p->n_free[w] = per_worker;
    }
    return 0;
}

void pages_clear(struct pages *p) {
    free(p->free_list);
    free(p->n_free);
    free(p->holder);
    *p = (struct pages){0};
}

int pages_take(struct pages *p, int worker, uint64_t seq, int32_t *out, int n) {
    if (!seq) BUG("sequence 0 takes pages");
    if (n > p->n_free[worker]) return ERR_EXHAUSTED;
    for (int i = 0; i < n; i++) {
        int32_t page = stack_of(p, worker)[--p->n_free[worker]];
        uint64_t *h = holder_of(p, worker, page);
        if (*h) BUG("page %d of worker %d is free and held by %" PRIu64, page, worker, *h);
        *h = seq;
        out[i] = page;
    }
    return 0;
}

void pages_give(struct pages *p, int worker, uint64_t seq, const int32_t *list, int n) {
    for (int i = n - 1; i >= 0; i--) { /* backwards, so that taking again yields the same order */
        uint64_t *h = holder_of(p, worker, list[i]);
        if (*h != seq) BUG("sequence %" PRIu64 " gives page %d of worker %d, held by %" PRIu64, seq, list[i], worker, *h);
        *h = 0;
        stack_of(p, worker)[p->n_free[worker]++] = list[i];
    }
}

int pages_free(const struct pages *p, int worker) { return p->n_free[worker]; }
int pages_used(const struct pages *p, int worker) { return p->per_worker - p->n_free[worker]; }
