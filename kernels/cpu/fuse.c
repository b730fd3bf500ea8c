/* fuse.c - dot products of rows through the product routine, so that they have its order of sums; weights by its softmax. */
#include <math.h>

#include "kernels/cpu/cpu.h"

struct dots_job {
    const struct vec *vec;
    float *out;
    const float *x, *y;
    int64_t stride, y_stride;
    float scale;
    int N;
};

static void dots_rows(void *arg, int first, int count) {
    const struct dots_job *j = arg;
    for (int64_t t = first; t < first + count; t++) {
        float sum;
        j->vec->products(&(struct products){.out = &sum,
                                            .x = j->x + t * j->N,
                                            .w = j->y + t * j->y_stride,
                                            .out_stride = 1,
                                            .x_stride = j->N,
                                            .w_stride = j->N,
                                            .fmt = FMT_F32,
                                            .rows = 1,
                                            .cols = 1,
                                            .K = j->N});
        j->out[t * j->stride] = sum * j->scale;
    }
}

void cpu_dots(struct backend *b, float *out, int64_t stride, const float *x, const float *y, int64_t y_stride, float scale,
              int T, int N) {
    struct dots_job j = {cpu_of(b)->vec, out, x, y, stride, y_stride, scale, N};
    cpu_rows(cpu_of(b), dots_rows, &j, T, 2 * N);
}

struct fuse_job {
    const struct vec *vec;
    float *weights;
    const float *extra;
    const struct fuse_rule *rule;
    int k;
};

/* ln(w) + beta ln(sigmoid(z)): the sigmoid's reciprocal 1 + e^-z, or e^-z where that is all there is of it. */
static float log_factor(float w, float beta, float z) {
    double factor = log((double)w);
    if (beta > 0) factor -= beta * (z < -40 ? -(double)z : log(1 + exp(-(double)z)));
    return (float)factor;
}

static void fuse_rows(void *arg, int first, int count) {
    const struct fuse_job *j = arg;
    const struct fuse_rule *r = j->rule;
    float s[256];
    for (int t = first; t < first + count; t++) {
        float *w = j->weights + (int64_t)t * j->k, mass = 0;
        const float *e = j->extra + (int64_t)t * j->k * r->extra;
        int heard = 0;
        for (int i = 0; i < j->k; i++, e += r->extra) {
            mass += w[i];
            heard += w[i] > 0;
            s[i] = w[i] > 0 ? e[r->score] + log_factor(w[i], r->beta, r->beta > 0 ? e[r->conf] : 0) : -INFINITY;
        }
        if (!heard) continue;
        j->vec->softmax(s, s, j->k);
        for (int i = 0; i < j->k; i++) w[i] = mass * s[i];
    }
}

void cpu_fuse(struct backend *b, float *weights, const float *extra, const struct fuse_rule *rule, int T, int k) {
    struct fuse_job j = {cpu_of(b)->vec, weights, extra, rule, k};
    cpu_rows(cpu_of(b), fuse_rows, &j, T, (int64_t)k * 64);
}
