/* pages.h - who holds which KV page of which worker. Pure bookkeeping; the memory itself is the workers'.
 *
 * Pages are numbered 0 .. per_worker - 1 on each worker. A page has one holder (a sequence number) or none; taking is all or
 * nothing. Giving back a page that the sequence does not hold is a BUG: two sequences would write into one page.
 * Owner: one thread. */
#pragma once
#include <stdint.h>

#include "base/status.h"

struct page_supply {
    int n_returned, fresh; /* pages on the stack; pages from `fresh` on were never taken */
};
struct pages {
    int workers, per_worker;
    int32_t *returned; /* [workers][per_worker] stacks of free pages */
    struct page_supply *supply; /* [workers] */
    uint64_t *holder;  /* [workers][per_worker] sequence number, 0 = free */
};

int pages_init(struct pages *p, int workers, int per_worker); /* 0 or ERR_NOMEM */
void pages_clear(struct pages *p);
int pages_take(struct pages *p, int worker, uint64_t seq, int32_t *out, int n); /* 0, or ERR_EXHAUSTED and nothing taken */
/* These, which were this sequence's in another life. ERR_INVALID and nothing taken: one is no page, or has a holder. */
int pages_claim(struct pages *p, int worker, uint64_t seq, const uint32_t *list, int n);
void pages_give(struct pages *p, int worker, uint64_t seq, const int32_t *list, int n);
int pages_free(const struct pages *p, int worker);
int pages_used(const struct pages *p, int worker);
