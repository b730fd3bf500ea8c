/* attention.c - keys and values into pages, and softmax(q k) v out of them, one query head at a time.
 *
 * Three passes over the keys: largest score, sum of exponentials, weighted sum of values. The score is computed again in
 * each pass, so that nothing has to be stored whatever the context is. */
#include <math.h>

#include "kernels/quant.h"
#include "kernels/ref/ref.h"

/* One head's key (which = 0) or value (1), or a part of it that has one scale: element e of it is at i + e of the page. */
struct cell {
    char *page;
    int64_t i;
    float *scale; /* int8 */
};

static struct cell cell_of(const struct kv_layer *kv, int64_t page, int slot, int g, int which) {
    struct cell c = {.page = (char *)kv->base + (size_t)page * kv_page_bytes(kv)};
    const int64_t token = (int64_t)kv->heads * kv->head_dim, row = kv->latent ? slot : which * kv->page_tokens + slot;
    c.i = row * token + g * kv->head_dim;
    c.scale = (float *)(void *)(c.page + kv_scales_at(kv)) + (which * kv->heads + g) * kv->page_tokens + slot;
    return c;
}

/* The numbers of an int8 cell have one scale: that of the largest. */
static void put_scaled(const struct cell *c, int first, const float *x, int n) {
    float most = 0;
    for (int e = 0; e < n; e++) most = isnan(x[e]) || most < fabsf(x[e]) ? fabsf(x[e]) : most;
    *c->scale = !isfinite(most) ? NAN : most < QUANT_LEAST ? 0 : most / 127;
    for (int e = 0; e < n; e++) {
        const float code = *c->scale > 0 ? rintf(x[e] * (127 / most)) : 0;
        ((int8_t *)c->page)[c->i + first + e] = (int8_t)code;
    }
}

static void put(const struct kv_layer *kv, const struct cell *c, const float *x) {
    for (int e = 0; e < kv->head_dim; e++) {
        if (kv->fmt == FMT_F32) ((float *)(void *)c->page)[c->i + e] = x[e];
        else ((uint16_t *)(void *)c->page)[c->i + e] = kv->fmt == FMT_F16 ? f16_from_f32(x[e]) : bf16_from_f32(x[e]);
    }
}

void ref_kv_store(struct backend *b, const struct kv_layer *kv, const float *k, const float *v, const int32_t *at, int T) {
    (void)b;
    const int D = kv->head_dim, first = kv->latent ? kv->latent : D;
    for (int i = 0; i < T * kv->heads; i++) {
        const int t = i / kv->heads, g = i % kv->heads, page = at[t] / kv->page_tokens, slot = at[t] % kv->page_tokens;
        const struct cell key = cell_of(kv, page, slot, g, 0), other = cell_of(kv, page, slot, g, 1);
        if (kv->fmt != FMT_INT8) {
            put(kv, &key, k + (int64_t)i * D);
            if (!kv->latent) put(kv, &other, v + (int64_t)i * D);
            continue;
        }
        put_scaled(&key, 0, k + (int64_t)i * D, first);
        if (kv->latent) put_scaled(&other, first, k + (int64_t)i * D + first, D - first);
        else put_scaled(&other, 0, v + (int64_t)i * D, D);
    }
}

double ref_kv(const struct kv_layer *kv, int64_t page, int slot, int g, int which, int e) {
    const struct cell c = cell_of(kv, page, slot, g, which), rest = cell_of(kv, page, slot, g, 1);
    const int64_t i = c.i + e;
    switch (kv->fmt) {
    case FMT_F32: return (double)((const float *)(const void *)c.page)[i];
    case FMT_BF16: return (double)bf16_to_f32(((const uint16_t *)(const void *)c.page)[i]);
    case FMT_F16: return (double)f16_to_f32(((const uint16_t *)(const void *)c.page)[i]);
    default: return ((const int8_t *)c.page)[i] * (double)*(kv->latent && e >= kv->latent ? rest.scale : c.scale);
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

/* Element e of a key, or of its value. Latents are both. */
static double element(const struct head *h, int key, int which, int e) {
    const struct kv_layer *kv = h->kv;
    return ref_kv(kv, h->pages[key / kv->page_tokens], key % kv->page_tokens, h->g, kv->latent ? 0 : which, e);
}

static double score(const struct head *h, int key) {
    double sum = 0;
    for (int d = 0; d < h->kv->head_dim; d++) sum += (double)h->q[d] * element(h, key, 0, d);
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
        for (int d = 0; d < kv_value_dim(kv); d++) out[d] += (float)(p * element(h, key, 1, d));
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
