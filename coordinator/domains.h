/* domains.h - tags of requests, numbered in order of their first request, and what each domain's tokens chose. Pure.
 *
 * Numbers go with sequences to their homes, which count; here are the names and the sums. The table is small: tags after the
 * last free number share it. */
#pragma once
#include <stdbool.h>

#include "coordinator/msg.h"
#include "proto/trace.h"

#define DOMAINS_REST "(other)"
struct domains {
    int n; /* numbers in use, 0 (untagged) included */
    char name[TRACE_DOMAINS][TRACE_NAME_BYTES + 1];
    size_t cells;                                   /* MoE layers * E */
    uint64_t *rows[MSG_MAX_WORKERS + 1][TRACE_DOMAINS]; /* [cells] as said last, NULL: nothing; last: the dead */
    uint64_t tokens[MSG_MAX_WORKERS + 1][TRACE_DOMAINS];
    bool dropped[TRACE_DOMAINS]; /* for want of memory: some homes' counts alone would be wrong */
};
void domains_init(struct domains *d, size_t cells);
void domains_clear(struct domains *d);
int domains_number(struct domains *d, struct text_slice tag); /* of at most TRACE_NAME_BYTES; "" is 0 */
/* A worker's counts since its start, rows [n]. ERR_PROTOCOL when they do not fit; ERR_NOMEM, once per domain: its counts are
 * dropped, and what comes for it later is ignored. */
int domains_tally(struct domains *d, int worker, uint32_t domain, uint64_t tokens, const uint64_t *rows, size_t n,
                  struct why *why);
/* Another takes the place of this worker, and counts from zero: what it has said stays. */
void domains_succeed(struct domains *d, int worker);
/* Over workers, out [cells]; false: no counts. */
bool domains_sum(const struct domains *d, int domain, uint64_t *out, uint64_t *tokens);
