/* seq.c - a sequence's memory is taken once, when it is admitted, for the longest answer it may get: the token path only
 * writes into it. */
#include "coordinator/seq.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int32_t *copy_ids(const int32_t *ids, int n, int room) {
    int32_t *copy = malloc(sizeof *copy * (size_t)(room ? room : 1));
    if (copy && n) memcpy(copy, ids, sizeof *copy * (size_t)n);
    return copy;
}

struct seq *seq_new(const struct seq_request *r, uint64_t number, int max_pages, int64_t now_us) {
    struct seq *q = calloc(1, sizeof *q);
    if (!q) return NULL;
    *q = (struct seq){.number = number,
                      .state = SEQ_WAITING,
                      .priority = r->priority,
                      .allow_degraded = r->allow_degraded,
                      .owner = r->owner,
                      .sampling = r->sampling,
                      .n_stop_ids = r->n_stop_ids,
                      .domain = r->domain,
                      .prompt = r->prompt,
                      .count = r->prompt + r->n_answer,
                      .held = r->held,
                      .limit = r->prompt + r->max_tokens,
                      .rows = seq_rows(r->prompt, r->max_tokens),
                      .at_home = r->at_home,
                      .home = r->at_home ? r->home : -1,
                      .submitted_us = now_us};
    list_init(&q->node);
    q->ids = copy_ids(r->ids, r->prompt, q->limit);
    q->stop_ids = copy_ids(r->stop_ids, r->n_stop_ids, r->n_stop_ids);
    q->pages = malloc(sizeof *q->pages * (size_t)(max_pages ? max_pages : 1));
    if (!q->ids || !q->stop_ids || !q->pages) {
        seq_free(q);
        return NULL;
    }
    if (r->n_answer) memcpy(q->ids + r->prompt, r->answer, sizeof *q->ids * (size_t)r->n_answer);
    return q;
}

void seq_free(struct seq *q) {
    if (!q) return;
    free(q->ids);
    free(q->stop_ids);
    free(q->pages);
    free(q);
}

const char *seq_state_name(enum seq_state s) {
    static const char *const names[] = {"waiting", "running", "evicted", "ended"};
    return names[s];
}

void seq_set_state(struct seq *q, enum seq_state to) {
    static const bool legal[4][4] = {
        [SEQ_WAITING] = {[SEQ_RUNNING] = true, [SEQ_ENDED] = true},
        [SEQ_RUNNING] = {[SEQ_EVICTED] = true, [SEQ_ENDED] = true},
        [SEQ_EVICTED] = {[SEQ_WAITING] = true, [SEQ_ENDED] = true},
    };
    if (!legal[q->state][to])
        BUG("sequence %" PRIu64 " cannot go from %s to %s", q->number, seq_state_name(q->state), seq_state_name(to));
    q->state = to;
}

void seq_insert(struct list *sorted, struct seq *q) {
    struct list *at = sorted; /* from the back: the newest usually belongs there */
    while (at->prev != sorted && seq_before(q, list_entry(at->prev, struct seq, node))) at = at->prev;
    list_insert_before(at, &q->node);
}
