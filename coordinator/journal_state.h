/* journal_state.h - what a journal's records add up to: counters, and the requests that somebody may still ask for. Pure.
 *
 * The same code reads a journal at start and follows it while it is written: what a compaction writes is this, encoded.
 * Tokens are kept as far as they are contiguous. One that was never written costs nothing but its being computed again, with
 * the same bits (docs/ARCHITECTURE.md, Promises): so writing may drop tokens, and a request whose FINISH counts more tokens
 * than are there is not finished. */
#pragma once
#include "base/list.h"
#include "coordinator/journal_record.h"

struct journal_request {
    struct list node; /* by time of acceptance */
    struct journal_request *next;
    struct journal_accept accept; /* what it points to is owned */
    struct journal_token *token;  /* [n_tokens] the answer; their `top` is set by journal_state_tops only */
    struct top_token *top;        /* theirs, in order */
    size_t n_tokens, cap_tokens, n_tops, cap_tops;
    bool finished;
    struct journal_finish finish; /* message owned */
    size_t bytes;                 /* encoded */
    void *user;                   /* the reader's */
};

struct journal_state {
    struct journal_counters counters;
    char model[MSG_HOST_BYTES * 4], numeric_class[MSG_CLASS_BYTES];
    struct list requests;
    size_t n_requests, bytes; /* bytes: what a dump takes, about */
    struct journal_request **bucket;
    size_t mask;
    bool started;
};

int journal_state_init(struct journal_state *s); /* 0 or ERR_NOMEM */
void journal_state_clear(struct journal_state *s);
/* ERR_CORRUPT: it contradicts what came before; ERR_NOMEM. The state is as it was then. */
int journal_state_apply(struct journal_state *s, const struct journal_record *r, struct why *why);
struct journal_request *journal_state_find(const struct journal_state *s, uint64_t number);
/* Sets `top` of its tokens; valid until the next apply. */
void journal_state_tops(struct journal_request *q);
/* All of it as records, START first. ERR_NOMEM. */
int journal_state_dump(struct journal_state *s, int64_t at_us, struct journal_bytes *out);
