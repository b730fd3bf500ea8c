/* latent.c - multi-head latent attention's products per head, as the formulae have them. */
#include <math.h>

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

struct expanded { /* what one (row, head) reads */
    const struct kv_layer *kv;
    const struct latent_heads *m;
    const int32_t *pages;
    const float *q;
    int head;
    double scale;
};

static double latent(const struct expanded *e, int key, int i) {
    const struct kv_layer *kv = e->kv;
    return ref_kv(kv, e->pages[key / kv->page_tokens], key % kv->page_tokens, 0, 0, i);
}

/* Element `row` of the head's part of kv_b times the latent. */
static double expand(const struct expanded *e, int row, int key) {
    double sum = 0;
    for (int c = 0; c < e->m->kv_b.cols; c++) {
        sum += weight(e->m, e->head * (e->m->nope + e->m->value) + row, c) * latent(e, key, c);
    }
    return sum;
}

static double expanded_score(const struct expanded *e, int key) {
    double sum = 0;
    for (int n = 0; n < e->m->nope; n++) sum += (double)e->q[n] * expand(e, n, key);
    for (int r = 0; r < e->m->rope; r++) sum += (double)e->q[e->m->nope + r] * latent(e, key, e->m->kv_b.cols + r);
    return sum * e->scale;
}

static void expanded_head(const struct expanded *e, int last, float *out) {
    double max = -INFINITY, sum = 0;
    for (int key = 0; key <= last; key++) max = fmax(max, expanded_score(e, key));
    for (int key = 0; key <= last; key++) sum += exp(expanded_score(e, key) - max);
    for (int v = 0; v < e->m->value; v++) out[v] = 0;
    for (int key = 0; key <= last; key++) {
        double p = exp(expanded_score(e, key) - max) / sum;
        for (int v = 0; v < e->m->value; v++) out[v] += (float)(p * expand(e, e->m->nope + v, key));
    }
}

void ref_latent_expanded(struct backend *b, const struct kv_layer *kv, const struct attention *a,
                         const struct latent_heads *m) {
    (void)b;
    for (int t = 0; t < a->tokens; t++)
        for (int h = 0; h < m->heads; h++) {
            int64_t row = (int64_t)t * m->heads + h;
            struct expanded e = {kv, m, a->pages + (int64_t)a->seq[t] * a->max_pages, a->q + row * (m->nope + m->rope), h,
                                 (double)a->scale};
            expanded_head(&e, a->pos[t], a->out + row * m->value);
        }
}
