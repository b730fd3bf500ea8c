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
