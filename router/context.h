/* context.h - what a router remembers, and what it makes of its own certainty. Pure arithmetic on a few floats. */
#pragma once
#include <stdint.h>

#include "kernels/router_rule.h"

/* The moving average along a sequence: next = rho * prev + (1 - rho) * softmax(logits). prev NULL: zeros, before the first
 * token. All [n]; logits are the gate's own, before anything is added. */
void context_ema(float *next, const float *prev, const float *logits, float rho, int n);

/* One step of a GRU cell (Cho et al. 2014, arXiv 1406.1078, with the reset applied after the product, as cuDNN and torch do):
 * in, hidden [3d] are W_ih u + b_ih and W_hh h + b_hh in the order reset, update, new; h [d] is replaced. */
void context_gru(float *h, const float *in, const float *hidden, int d);

/* Running sum of logits within a segment: sum = before + z; before NULL at its start. [n] */
void context_sum(float *sum, const float *before, const float *z, int n);

/* How certain a distribution over n choices is: 1 - entropy / ln n, or the largest probability less the second. 0..1; 1 for n =
 * 1.
 * *entropy in nats. */
float context_confidence(const float *logits, int n, enum confidence_kind kind, float *entropy);

/* Of k weights in falling order, as many as it takes to exceed p, at least k_min, at most k_max; the one that crosses is
 * kept. */
int context_top_p(const float *weights, const struct top_p_rule *r);

/* Decayed selection bias (arXiv 2408.15664 for decay 0): b = (1 - decay) b + speed * sign(mean - count), kept within +-max. */
void context_bias(float *bias, const uint32_t *counts, int n, const struct bias_update_rule *r);
