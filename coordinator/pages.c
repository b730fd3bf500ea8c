/* pages.c - one stack of returned pages per worker, and below it those never taken yet, in order. The last page given back is
 * the first one taken again: it is the likeliest to be in that worker's caches, and the order is the same on every run.
 * The tables are touched only where pages were taken, so tables for far more pages than there can be cost nothing. */
#include "coordinator/pages.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int32_t *stack_of(const struct pages *p, int worker) { return p->returned + (size_t)worker * (size_t)p->per_worker; }
static int32_t pop(struct pages *p, int worker) {
    struct page_supply *s = &p->supply[worker];
    return s->n_returned ? stack_of(p, worker)[--s->n_returned] : s->fresh++;
}
static uint64_t *holder_of(const struct pages *p, int worker, int32_t page) {
    if (page < 0 || page >= p->per_worker) BUG("page %d of worker %d does not exist", page, worker);
    return p->holder + (size_t)worker * (size_t)p->per_worker + page;
}

int pages_init(struct pages *p, int workers, int per_worker) {
    size_t n = (size_t)workers * (size_t)per_worker;
    *p = (struct pages){.workers = workers, .per_worker = per_worker};
    p->returned = calloc(n ? n : 1, sizeof *p->returned);
    p->supply = calloc((size_t)(workers ? workers : 1), sizeof *p->supply);
    p->holder = calloc(n ? n : 1, sizeof *p->holder);
    if (p->returned && p->supply && p->holder) return 0;
    pages_clear(p);
    return ERR_NOMEM;
}

void pages_clear(struct pages *p) {
    free(p->returned);
    free(p->supply);
    free(p->holder);
    *p = (struct pages){0};
}

int pages_take(struct pages *p, int worker, uint64_t seq, int32_t *out, int n) {
    if (!seq) BUG("sequence 0 takes pages");
    if (n > pages_free(p, worker)) return ERR_EXHAUSTED;
    for (int i = 0; i < n; i++) {
        int32_t page = pop(p, worker);
        uint64_t *h = holder_of(p, worker, page);
        if (*h) BUG("page %d of worker %d is free and held by %" PRIu64, page, worker, *h);
        *h = seq;
        out[i] = page;
    }
    return 0;
}

/* Every page below `fresh` without a holder, the lowest on top. */
static void stack_again(struct pages *p, int worker) {
    struct page_supply *s = &p->supply[worker];
    s->n_returned = 0;
    for (int page = s->fresh - 1; page >= 0; page--)
        if (!*holder_of(p, worker, page)) stack_of(p, worker)[s->n_returned++] = page;
}

int pages_claim(struct pages *p, int worker, uint64_t seq, const uint32_t *list, int n) {
    int taken = 0;
    for (; taken < n; taken++) {
        if (list[taken] >= (uint32_t)p->per_worker || *holder_of(p, worker, (int32_t)list[taken])) break;
        *holder_of(p, worker, (int32_t)list[taken]) = seq;
        if ((int)list[taken] >= p->supply[worker].fresh) p->supply[worker].fresh = (int)list[taken] + 1;
    }
    for (int i = 0; taken < n && i < taken; i++) *holder_of(p, worker, (int32_t)list[i]) = 0;
    stack_again(p, worker);
    return taken < n ? ERR_INVALID : 0;
}

void pages_give(struct pages *p, int worker, uint64_t seq, const int32_t *list, int n) {
    for (int i = n - 1; i >= 0; i--) { /* backwards, so that taking again yields the same order */
        uint64_t *h = holder_of(p, worker, list[i]);
        if (*h != seq) BUG("sequence %" PRIu64 " gives page %d of worker %d, held by %" PRIu64, seq, list[i], worker, *h);
        *h = 0;
        stack_of(p, worker)[p->supply[worker].n_returned++] = list[i];
    }
}

int pages_used(const struct pages *p, int worker) { return p->supply[worker].fresh - p->supply[worker].n_returned; }
int pages_free(const struct pages *p, int worker) { return p->per_worker - pages_used(p, worker); }
