/* ep_layout.h - who gets which row where. Pure index arithmetic over preallocated arrays; no floats, no frames, no peers.
 *
 * split: at home, turns the routes of a step's tokens into one list of token copies and one list of pairs per worker.
 * group: at the experts, turns the pairs of all sources into rows grouped by slot.
 * Both keep the order (source, token, k) wherever they have a choice, so a slot's rows come in the same order whatever the
 * arrival order of frames. Any thread; the caller owns everything. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "fabric/ep_frame.h"
#include "fabric/fabric.h"

struct ep_split {
    int workers, max_tokens, topk; /* R, T max, k */
    int tokens[FABRIC_MAX_RANKS];  /* copies for each worker */
    int pairs[FABRIC_MAX_RANKS];
    int32_t *token;       /* [R, T max]: copy i for worker w is token[w * T max + i] of the batch, ascending */
    struct ep_pair *pair; /* [R, T max * k], pair.token counts w's copies */
    float *weight;        /* [R, T max * k] of the pairs; NULL: not wanted */
    int32_t *pair_of;     /* [T * k]: pair (t, j) is number pair_of[t*k + j] of its worker's list */
};
int ep_split_init(struct ep_split *s, int workers, int max_tokens, int topk, bool weights); /* 0 or ERR_NOMEM */
void ep_split_clear(struct ep_split *s);
/* worker, slot, weights [T,k]; 0 <= worker < R, or -1 for a pair that goes nowhere and has no pair_of; T <= T max. weights is
 * read where they are wanted. */
void ep_split_make(struct ep_split *s, int tokens, const int16_t *worker, const int16_t *slot, const float *weights);

struct ep_group {
    int workers, max_slots, max_pairs; /* R; slots and pairs of one source at most */
    int slots, rows;
    int pairs[FABRIC_MAX_RANKS]; /* from each source */
    int32_t *first;              /* [max_slots + 1]: rows of slot s are first[s] .. first[s + 1] */
    int32_t *row;                /* [R, max_pairs]: row of pair i from source w is row[w * max_pairs + i] */
};
int ep_group_init(struct ep_group *g, int workers, int max_slots, int max_pairs);
void ep_group_clear(struct ep_group *g);
/* pairs[w][0..n[w]) from each source w; every pair.slot < slots <= max_slots. */
void ep_group_make(struct ep_group *g, int slots, const struct ep_pair *const *pairs, const int *n);
