/* fuse.c - what experts say beside their rows: dot products of rows, and the weights that come of them. */
#include <math.h>

#include "kernels/ref/ref.h"

void ref_dots(struct backend *b, float *out, int64_t stride, const float *x, const float *y, int64_t y_stride, float scale,
              int T, int N) {
    (void)b;
    for (int t = 0; t < T; t++, x += N, y += y_stride) {
        double sum = 0;
        for (int i = 0; i < N; i++) sum += (double)x[i] * y[i];
        out[t * stride] = (float)(sum * scale);
    }
}

/* ln sigmoid(z) = -ln(1 + e^-z), without overflow on either side. */
static double log_sigmoid(double z) { return fmin(z, 0) - log1p(exp(-fabs(z))); }

static void fuse_row(const struct fuse_rule *r, float *weights, const float *extra, int k) {
    double mass = 0, max = -INFINITY, sum = 0, s[256];
    for (int j = 0; j < k; j++) {
        const float *e = extra + j * r->extra;
        s[j] = weights[j] > 0 ? e[r->score] + log(weights[j]) : -INFINITY;
        if (r->beta > 0 && weights[j] > 0) s[j] += r->beta * log_sigmoid(e[r->conf]);
        mass += weights[j];
        max = fmax(max, s[j]);
    }
    if (max == -INFINITY) return;
    for (int j = 0; j < k; j++) sum += exp(s[j] - max);
    for (int j = 0; j < k; j++) weights[j] = (float)(mass * exp(s[j] - max) / sum);
}

void ref_fuse(struct backend *b, float *weights, const float *extra, const struct fuse_rule *rule, int T, int k) {
    (void)b;
    for (int t = 0; t < T; t++, weights += k, extra += k * rule->extra) fuse_row(rule, weights, extra, k);
}
