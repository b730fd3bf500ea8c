/* tree.h - one token's search for the best leaves of a three-level tree. Pure: no I/O, no clock, no log.
 *
 * score(leaf) = sum over the levels of log softmax(gate of the level's parent . x): the log of the probability of walking
 * there. Scores fall with depth, so a best-first search (exact) may stop as soon as no open node could still beat the k-th best
 * leaf; a beam keeps the best few nodes of each level, and a greedy walk is a beam of one. Equal scores: the lower node first.
 * Paths are chosen by score plus the selection bias of their level-0 branch; leaves are weighed by the score alone.
 *
 * The search asks for the gates' outputs it needs and is given them, so that a batch of searches can share one product:
 *
 *   tree_begin -> while (n = tree_wants(&level, &nodes)) for i < n: tree_give(i, outputs of node i's children) -> tree_pick */
#pragma once
#include <stdint.h>

#include "kernels/router_rule.h"

struct tree_node {
    int32_t id;        /* within its level: parent * branch + child */
    int16_t level;
    float score, rank; /* log probability of the path; the same with the selection bias */
};

struct tree_search {
    const struct tree_rule *rule;
    int k;                     /* leaves wanted; <= the k it was sized for */
    struct tree_node *open;    /* beam: the nodes kept of one level; exact: a heap of nodes not yet expanded */
    struct tree_node *next;    /* beam: the best children so far */
    struct tree_node *leaves;  /* the best so far, best first */
    int n_open, n_next, n_leaves;
};

/* Nodes of memory that a search for at most k leaves needs. */
int tree_room(const struct tree_rule *rule, int k);
/* room[tree_room(rule, k)] is the caller's and must outlive the search. logits [branch[0]] of level 0; bias [branch[0]] or
 * NULL. */
void tree_begin(struct tree_search *s, const struct tree_rule *rule, int k, struct tree_node *room, const float *logits,
                const float *bias);
/* How many nodes are to be expanded now, all at *level (the gates wanted are those of *level: 1 or 2); 0: done. */
int tree_wants(struct tree_search *s, int *level, const struct tree_node **nodes);
/* logits [branch[level]] of the i-th wanted node; i in ascending order, every one of them. */
void tree_give(struct tree_search *s, int i, const float *logits);
/* ids[k], weights[k]: softmax over the chosen leaves' scores, best first. */
void tree_pick(const struct tree_search *s, int32_t *ids, float *weights);
