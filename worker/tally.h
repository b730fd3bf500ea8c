/* tally.h - how often a home sent tokens of each domain to each expert. The sums over domains and homes, untagged tokens
 * included, are what the experts' own counters say; a test compares them.
 *
 * The engine thread counts; the control thread reads now and then, without stopping it: counters only grow. */
#pragma once
#include <stdatomic.h>

#include "proto/trace.h"
#include "worker/gating.h"

struct tally {
    int layers, experts;   /* MoE layers, E */
    atomic_ullong *rows;   /* [TRACE_DOMAINS, layers, E]; domain 0 is not counted: it is the rest */
    atomic_ullong tokens[TRACE_DOMAINS]; /* that went through every layer; grows at the end of a step, after its counts */
};

int tally_init(struct tally *t, const struct model_config *c, struct why *why);
void tally_clear(struct tally *t);
void tally_layer(struct tally *t, int moe_index, const struct gating *g, const struct step_rows *rows);
void tally_step_end(struct tally *t, const struct step_rows *rows);
uint64_t tally_tokens(const struct tally *t, int domain); /* any thread */
/* Copies the counts of a domain, [layers * E], of at least the tokens that tally_tokens said before. Any thread. */
void tally_read(const struct tally *t, int domain, uint64_t *rows);
