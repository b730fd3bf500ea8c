/* tally.h - how often a home sent tokens of each domain to each expert. The sums over domains and homes, untagged tokens
 * included, are what the experts' own counters say; a test compares them.
 *
 * The engine thread counts; the control thread reads now and then, without stopping it, and only whole steps: what a step chose
 * is noted layer by layer and added when the step ends, and a reader that comes upon that comes again later. */
#pragma once
#include <stdatomic.h>

#include "proto/trace.h"
#include "worker/gating.h"

struct tally {
    int layers, experts;                 /* MoE layers, E */
    atomic_ullong *rows;                 /* [TRACE_DOMAINS, layers, E]; domain 0 is not counted: it is the rest */
    atomic_ullong tokens[TRACE_DOMAINS]; /* that went through every layer */
    atomic_ullong turn;                  /* odd while counts are added */
    uint32_t *noted;                     /* [n_noted] places in rows, one for each choice of this step */
    size_t n_noted;
};

int tally_init(struct tally *t, const struct model_config *c, struct why *why);
void tally_clear(struct tally *t);
void tally_layer(struct tally *t, int moe_index, const struct gating *g, const struct step_rows *rows);
void tally_step_void(struct tally *t); /* instead: the step will be run again */
void tally_step_end(struct tally *t, const struct step_rows *rows);
void tally_forget(struct tally *t); /* between steps: from zero, for another reader */
/* Tokens of a domain; grows with every step that had some. Any thread. */
uint64_t tally_tokens(const struct tally *t, int domain);
/* Copies the counts of a domain, [layers * E], and its tokens; false: a step is being added, so try later. Any thread. */
bool tally_read(const struct tally *t, int domain, uint64_t *rows, uint64_t *tokens);
