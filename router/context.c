/* context.c - moving averages, the GRU cell, sums over segments, confidence, top-p, bias updates. */
#include "router/context.h"

#include <math.h>
#include <stddef.h>

#include "router/softmax.h"

void context_ema(float *next, const float *prev, const float *logits, float rho, int n) {
    double lse = log_sum_exp(logits, n);
    for (int i = 0; i < n; i++)
        next[i] = rho * (prev ? prev[i] : 0) + (1 - rho) * expf(log_probability(logits[i], lse, n));
}

static float sigmoid(float x) { return 1 / (1 + expf(-x)); }

void context_gru(float *h, const float *in, const float *hidden, int d) {
    for (int i = 0; i < d; i++) {
        float reset = sigmoid(in[i] + hidden[i]), update = sigmoid(in[d + i] + hidden[d + i]);
        float fresh = tanhf(in[2 * d + i] + reset * hidden[2 * d + i]);
        h[i] = (1 - update) * fresh + update * h[i];
    }
}

void context_sum(float *sum, const float *before, const float *z, int n) {
    for (int i = 0; i < n; i++) sum[i] = (before ? before[i] : 0) + z[i];
}

float context_confidence(const float *logits, int n, enum confidence_kind kind, float *entropy) {
    double lse = log_sum_exp(logits, n), h = 0;
    float first = 0, second = 0;
    for (int i = 0; i < n; i++) {
        float log_p = log_probability(logits[i], lse, n), p = expf(log_p);
        if (p > 0) h -= (double)p * log_p;
        if (p > first) second = first, first = p;
        else if (p > second) second = p;
    }
    *entropy = (float)h;
    if (n < 2) return 1;
    double certain = kind == CONFIDENCE_MARGIN ? first - second : 1 - h / log((double)n);
    return (float)(certain < 0 ? 0 : certain);
}

int context_top_p(const float *weights, const struct top_p_rule *r) {
    float sum = 0;
    int t = 0;
    while (t < r->k_max) {
        sum += weights[t++];
        if (sum > r->p) break;
    }
    return t < r->k_min ? r->k_min : t;
}

void context_bias(float *bias, const uint32_t *counts, int n, const struct bias_update_rule *r) {
    uint64_t total = 0;
    int here = 0; /* -infinity: missing, and so it stays */
    for (int i = 0; i < n; i++) {
        here += bias[i] > -INFINITY;
        total += counts[i];
    }
    for (int i = 0; i < n; i++) {
        if (!(bias[i] > -INFINITY)) continue;
        uint64_t scaled = (uint64_t)counts[i] * (uint64_t)here; /* against the mean, without division */
        float step = scaled < total ? r->speed : scaled > total ? -r->speed : 0;
        float b = (1 - r->decay) * bias[i] + step;
        bias[i] = b > r->max ? r->max : b < -r->max ? -r->max : b;
    }
}
