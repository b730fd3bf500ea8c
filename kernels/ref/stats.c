/* stats.c - what sampling and log probabilities need from a row of logits. */
#include <math.h>

#include "kernels/ref/ref.h"

void ref_logit_stats(struct backend *b, struct logit_stats *out, const float *logits, int T, int V) {
    (void)b;
    for (int t = 0; t < T; t++, logits += V) {
        int best = 0;
        for (int i = 1; i < V; i++) {
            if (logits[i] > logits[best]) best = i;
        }
        double sum = 0;
        for (int i = 0; i < V; i++) sum += exp((double)logits[i] - logits[best]);
        out[t] = (struct logit_stats){.max = logits[best], .lse = (float)(logits[best] + log(sum)), .argmax = best};
    }
}

/* e^x for x in [-87, 0], to an ulp or two. n is rounded by adding a number whose last digits are ones. */
static float exp_of(float x) {
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts, the first exact times n */
    float p = ((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r +
               1.6666665459e-1f) * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    return ldexpf(p, (int)n);
}

void ref_weigh(struct backend *b, float *weights, uint16_t *buckets, const float *logits, float max, float inverse, int V) {
    (void)b;
    for (int i = 0; i < V; i++) {
        const float below = (max - logits[i]) * inverse, bucket = below * WEIGH_PER_NAT;
        weights[i] = below < 87 ? exp_of(-below) : 0;
        buckets[i] = bucket < WEIGH_BUCKETS - 1 ? (uint16_t)bucket : WEIGH_BUCKETS - 1;
    }
}
