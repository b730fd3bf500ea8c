/* norm.c - root mean square norm, arXiv 1910.07467. */
#include <math.h>

#include "kernels/ref/ref.h"

void ref_rmsnorm(struct backend *b, float *out, int64_t out_stride, const float *x, int64_t x_stride, const float *weight,
                 float eps, int T, int N) {
    (void)b;
    for (int t = 0; t < T; t++, out += out_stride, x += x_stride) {
        double squares = 0;
        for (int i = 0; i < N; i++) squares += (double)x[i] * x[i];
        double inv = 1 / sqrt(squares / N + eps);
        for (int i = 0; i < N; i++) out[i] = (float)(x[i] * inv * weight[i]);
    }
}
