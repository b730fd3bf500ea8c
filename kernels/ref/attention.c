/* attention.c - keys and values into pages, and softmax(q k) v out of them, one query head at a time.
 *
 * Three passes over the keys: largest score, sum of exponentials, weighted sum of values. The score is computed again in
 * each pass, so that nothing has to be stored whatever the context is. */
#include <math.h>

#include "kernels/ref/ref.h"

/* Element offset of token `slot` of page `page` in the keys (which = 0) or values (which = 1). */
static int64_t at_page(const struct kv_layer *kv, int64_t page, int64_t slot, int which) {
    if (kv->latent) return (page * kv->page_tokens + slot) * kv->head_dim;
    return ((page * 2 + which) * kv->page_tokens + slot) * kv->heads * kv->head_dim;
}

static void put(const struct kv_layer *kv, int64_t i, float value) {
    if (kv->fmt == FMT_F32) ((float *)kv->base)[i] = value;
    else ((uint16_t *)kv->base)[i] = bf16_from_f32(value);
}

void ref_kv_store(struct backend *b, const struct kv_layer *kv, const float *k, const float *v, const int32_t *at, int T) {
    (void)b;
    int n = kv->heads * kv->head_dim;
    for (int t = 0; t < T; t++, k += n, v += kv->latent ? 0 : n) {
        int64_t page = at[t] / kv->page_tokens, slot = at[t] % kv->page_tokens;
        for (int i = 0; i < n; i++) {
            put(kv, at_page(kv, page, slot, 0) + i, k[i]);
            if (!kv->latent) put(kv, at_page(kv, page, slot, 1) + i, v[i]);
        }
    }
}

struct head { /* what one (row, query head) reads */
    const struct kv_layer *kv;
    const int32_t *pages; /* of its sequence */
    const float *q;       /* [D] */
    int g;                /* its key/value head */
    float scale;
    double sink;          /* a logit without a value; -inf: none */
};

static int64_t locate(const struct head *h, int key, int which) {
    const struct kv_layer *kv = h->kv;
    return at_page(kv, h->pages[key / kv->page_tokens], key % kv->page_tokens, which) + (int64_t)h->g * kv->head_dim;
}

static double score(const struct head *h, int key) {
    int64_t at = locate(h, key, 0);
    double sum = 0;
    for (int d = 0; d < h->kv->head_dim; d++) sum += (double)h->q[d] * ref_get(h->kv->base, h->kv->fmt, at + d);
    return sum * h->scale;
}

static void attend(const struct head *h, int first, int last, float *out) {
    const struct kv_layer *kv = h->kv;
    double max = h->sink, sum = 0;
    for (int key = first; key <= last; key++) max = fmax(max, score(h, key));
    sum = exp(h->sink - max);
    for (int key = first; key <= last; key++) sum += exp(score(h, key) - max);
    for (int d = 0; d < kv_value_dim(kv); d++) out[d] = 0;
    for (int key = first; key <= last; key++) {
        double p = exp(score(h, key) - max) / sum;
        int64_t at = locate(h, key, 1);
        for (int d = 0; d < kv_value_dim(kv); d++) out[d] += (float)(p * ref_get(kv->base, kv->fmt, at + d));
    }
}

void ref_attention(struct backend *b, const struct kv_layer *kv, const struct attention *a) {
    (void)b;
    int D = kv->head_dim, Q = a->q_heads, per_group = Q / kv->heads;
    for (int t = 0; t < a->tokens; t++) {
        int last = a->pos[t], first = a->window && last >= a->window ? last - a->window + 1 : 0;
        while (a->chunk && first / a->chunk < last / a->chunk) first++;
        for (int q = 0; q < Q; q++) {
            int64_t row = (int64_t)t * Q + q;
            struct head h = {kv, a->pages + (int64_t)a->seq[t] * a->max_pages, a->q + row * D, q / per_group, a->scale,
                             a->sinks ? (double)a->sinks[q] : -INFINITY};
            attend(&h, first, last, a->out + row * kv_value_dim(kv));
        }
    }
}
