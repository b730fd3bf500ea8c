/* latent.c - multi-head latent attention's products per head, as the formulae have them. */
#include "kernels/ref/ref.h"

static double weight(const struct latent_heads *m, int row, int col) {
    return ref_get(m->kv_b.data, m->kv_b.fmt, (int64_t)row * m->kv_b.cols + col);
}

void ref_latent_query(struct backend *b, float *out, const float *q, const struct latent_heads *m, int T) {
    (void)b;
    for (int i = 0; i < T * m->heads; i++, q += m->nope + m->rope) {
        int first = i % m->heads * (m->nope + m->value);
        for (int c = 0; c < m->kv_b.cols; c++) {
            double sum = 0;
            for (int n = 0; n < m->nope; n++) sum += (double)q[n] * weight(m, first + n, c);
            *out++ = (float)sum;
        }
        for (int r = 0; r < m->rope; r++) *out++ = q[m->nope + r];
    }
}

void ref_latent_value(struct backend *b, float *out, const float *x, const struct latent_heads *m, int T) {
    (void)b;
    for (int i = 0; i < T * m->heads; i++, x += m->kv_b.cols) {
        int first = i % m->heads * (m->nope + m->value) + m->nope;
        for (int v = 0; v < m->value; v++) {
            double sum = 0;
            for (int c = 0; c < m->kv_b.cols; c++) sum += (double)x[c] * weight(m, first + v, c);
            *out++ = (float)sum;
        }
    }
}
