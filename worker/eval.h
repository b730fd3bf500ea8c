/* eval.h - how well models predict a text: perplexity, right guesses, and how far each is from the first of them.
 *
 * Several are walked through the same windows side by side, a chunk at a time, so that their distributions can be compared
 * without anybody keeping a text's worth of logits. What is measured is what a cluster would serve: the worker's own forward
 * pass in those formats. One thread owns all. */
#pragma once
#include <stdint.h>

#include "base/status.h"

struct eval_options {
    const char *isa;          /* as --isa */
    const char *weights, *kv; /* as --weights and --kv, auto included */
    int threads, window;      /* window: tokens that attend to each other, at least 2 */
};

struct eval_score {
    uint64_t tokens, right;  /* predicted; those whose likeliest was the text's */
    double nll, nll_squares; /* sums over tokens of -ln p(token), and of its square */
    /* against the first model; for that one as for any other */
    uint64_t agreed;             /* tokens for which both have the same likeliest */
    double apart, apart_squares; /* sums of the difference of -ln p(token) */
    double divergence;           /* sum of KL(first || this) over whole distributions, in nats */
    int64_t us;                  /* in the forward pass */
};

struct eval_size {
    uint64_t params, bytes;               /* all weights; embeddings that serve twice count once */
    uint64_t expert_params, expert_bytes; /* routed experts, without headers' share of blobs worth naming */
};

struct eval;
/* Loads a model. ERR_INVALID: a format that it cannot have or nobody knows, a window longer than its context. */
int eval_open(const char *dir, const struct eval_options *o, struct eval **out, struct why *why);
void eval_close(struct eval *e); /* NULL: nothing */
int eval_vocab(const struct eval *e);
const char *eval_weights(const struct eval *e); /* the format's name */
const char *eval_kv(const struct eval *e);      /* the same of keys and values */
const struct eval_score *eval_score(const struct eval *e);
void eval_size(const struct eval *e, struct eval_size *out);
/* Scores ids[1] .. ids[n - 1], each after those before it. All of e[0 .. models) have one vocabulary, which holds the ids;
 * n is at most the window. */
int eval_window(struct eval *const *e, int models, const int32_t *ids, int n, struct why *why);
