/* softmax.h - probabilities of a handful of logits, for decisions made on the host. A logit that is not a number counts as
 * minus infinity; if nothing else is left, all are equally likely. Pure. */
#pragma once
#include <math.h>

/* log of the sum of exp; sets *most to the largest. Never below the largest: its own term is exactly 1. */
static inline double log_sum_exp(const float *x, int n) {
    double most = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    if (!(most > -INFINITY)) return -INFINITY;
    for (int i = 0; i < n; i++) sum += isnan(x[i]) ? 0 : exp(x[i] - most);
    return most + log(sum);
}

static inline float log_probability(float x, double lse, int n) {
    if (!(lse > -INFINITY)) return -logf((float)n);
    return isnan(x) ? -INFINITY : (float)(x - lse);
}
