/* combine.c - rows put together: the weighted sum of a token's expert rows, residual and gated adds, clamp. */
#include <math.h>

#include "kernels/ref/ref.h"

void ref_combine(struct backend *b, float *y, const float *const *rows, const float *weights, int T, int k, int H) {
    (void)b;
    for (int t = 0; t < T; t++, y += H, rows += k, weights += k) {
        for (int i = 0; i < H; i++) {
            float sum = 0;
            for (int j = 0; j < k; j++) sum += weights[j] * rows[j][i];
            y[i] = sum;
        }
    }
}

void ref_add(struct backend *b, float *y, const float *x, const float *gate, int T, int H) {
    (void)b;
    for (int t = 0; t < T; t++, y += H, x += H) {
        double factor = gate ? 1 / (1 + exp(-(double)gate[t])) : 1;
        for (int i = 0; i < H; i++) y[i] = (float)(y[i] + factor * x[i]);
    }
}

void ref_clamp(struct backend *b, float *x, float limit, int64_t n) {
    (void)b;
    for (int64_t i = 0; i < n; i++) {
        if (x[i] > limit) x[i] = limit;
        if (x[i] < -limit) x[i] = -limit;
    }
}
