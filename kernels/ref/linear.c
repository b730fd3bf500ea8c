/* linear.c - y = W x, as nn.Linear: every output is one dot product over K. */
#include "kernels/ref/ref.h"

void ref_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    (void)b;
    int N = w.rows, K = w.cols;
    if (fmt_quant(w.fmt)) {
        ref_quant_linear(y, x, w, bias, add, T);
        return;
    }
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

void ref_linear_blocks(struct backend *b, float *y, const float *x, struct mat w, int n, const int32_t *row,
                       const int32_t *block, int P) {
    (void)b;
    const int K = w.cols;
    for (int p = 0; p < P; p++) {
        for (int i = 0; i < n; i++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += (double)x[(int64_t)row[p] * K + k] * ref_get(w.data, w.fmt, ((int64_t)block[p] * n + i) * K + k);
            y[(int64_t)p * n + i] = (float)sum;
        }
    }
}
