/* ep_case.h - exchanges made up from a seed, which every rank can compute whole: so each checks what it gets against what the
 * others must have sent, bit for bit, without asking them. Used over threads and over processes. */
#pragma once
#include <stdbool.h>

#include "fabric/ep.h"

struct ep_case {
    uint64_t seed;
    int ranks, layers, microbatches;
    bool two_hop;
    int even; /* not 0: so many experts, evenly over the ranks, of which each token has k different ones at random */
    bool full; /* everyone brings the most, in every step */
    struct ep_limits lim;
};

/* Shapes follow from the seed: k 1..8, H 1..40 (one in eight up to 400), tokens up to 1..24, 1..3 layers; plain rows in frames
 * of the usual size. */
void ep_case_make(struct ep_case *c, uint64_t seed, int ranks);
/* The rest too: two microbatches, formats, sums, frames so small that most messages go in parts. */
void ep_case_vary(struct ep_case *c);
/* Tokens of each worker in a step: none for all but one, none at all for some, full for all, or random. */
void ep_case_tokens(const struct ep_case *c, uint64_t step, int32_t *tokens);
/* Workers on 2 to 4 hosts, whose numbers follow from the seed, and two-hop dispatch between them. */
void ep_case_spread(struct ep_case *c);
/* What `rank` has to send in a step: copies of its tokens to others, and rows of answers; bytes of them, but for sums (0). */
struct ep_case_counts {
    uint64_t copies, answers, dispatch_bytes, combine_bytes;
};
void ep_case_count(const struct ep_case *c, int rank, uint64_t step, struct ep_case_counts *sum);
/* Runs one step as `rank`, up to but without `stop_at` (2 * layer + half; < 0: whole), and checks grouped rows and answers of
 * all microbatches.
 * 0, ERR_* of the exchange (*late as it said), or ERR_CORRUPT with why for a wrong result. */
int ep_case_step(const struct ep_case *c, struct ep *ep, int rank, uint32_t epoch, uint64_t step, int stop_at,
                 int64_t patience_us, uint64_t *late, struct why *why);
