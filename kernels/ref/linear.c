/* linear.c - y = W x, as nn.Linear: every output is one dot product over K. */
#include "kernels/ref/ref.h"

void ref_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    (void)b;
    int N = w.rows, K = w.cols;
    for (int t = 0; t < T; t++, y += N, x += K) {
        for (int n = 0; n < N; n++) {
            double sum = 0;
            for (int k = 0; k < K; k++) sum += (double)x[k] * ref_weight(w, n, k);
            if (bias) sum += bias[n];
            if (add) sum += y[n];
            y[n] = (float)sum;
        }
    }
}
