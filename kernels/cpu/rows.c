/* rows.c - the operations that treat rows one by one: copies, norms, rotations, sums of rows. */
#include <string.h>

#include "base/log.h"
#include "kernels/cpu/cpu.h"

struct embed_job {
    const struct vec *vec;
    float *out;
    struct mat table;
    const int32_t *ids;
};

static void embed_rows(void *arg, int first, int count) {
    const struct embed_job *j = arg;
    int64_t H = j->table.cols;
    for (int t = first; t < first + count; t++) {
        if (fmt_quant(j->table.fmt)) {
            for (int i = 0; i < H; i++) j->out[t * H + i] = quant_weight(j->table, j->ids[t], i);
            continue;
        }
        const char *row = (const char *)j->table.data + (size_t)(j->ids[t] * H) * fmt_bytes(j->table.fmt);
        j->vec->widen(j->out + t * H, row, j->table.fmt, H);
    }
}

void cpu_embed(struct backend *b, float *out, struct mat table, const int32_t *ids, int T) {
    struct embed_job j = {cpu_of(b)->vec, out, table, ids};
    cpu_rows(cpu_of(b), embed_rows, &j, T, table.cols);
}

struct norm_job {
    const struct vec *vec;
    float *out;
    const float *x, *weight;
    int64_t out_stride, x_stride;
    float eps;
    int N;
};

static void norm_rows(void *arg, int first, int count) {
    const struct norm_job *j = arg;
    for (int t = first; t < first + count; t++) {
        j->vec->rmsnorm(j->out + t * j->out_stride, j->x + t * j->x_stride, j->weight, j->eps, j->N);
    }
}

void cpu_rmsnorm(struct backend *b, float *out, int64_t out_stride, const float *x, int64_t x_stride, const float *weight,
                 float eps, int T, int N) {
    struct norm_job j = {cpu_of(b)->vec, out, x, weight, out_stride, x_stride, eps, N};
    cpu_rows(cpu_of(b), norm_rows, &j, T, N);
}

struct rope_job {
    const struct vec *vec;
    float *x;
    const int32_t *pos;
    const float *table;
    int half, heads, D;
    bool interleaved;
};

static void rope_rows(void *arg, int first, int count) {
    const struct rope_job *j = arg;
    void (*turn)(float *, const float *, int) = j->interleaved ? j->vec->rope_pairs : j->vec->rope;
    for (int t = first; t < first + count; t++) {
        const float *cos_sin = j->table + (int64_t)j->pos[t] * j->half * 2;
        for (int h = 0; h < j->heads; h++) turn(j->x + ((int64_t)t * j->heads + h) * j->D, cos_sin, j->half);
    }
}

void cpu_rope(struct backend *b, float *x, const int32_t *pos, const float *table, int rot, bool interleaved, int T, int heads,
              int D) {
    struct rope_job j = {cpu_of(b)->vec, x, pos, table, rot / 2, heads, D, interleaved};
    cpu_rows(cpu_of(b), rope_rows, &j, T, (int64_t)heads * D);
}

struct clamp_job {
    const struct vec *vec;
    float *x, limit;
    int64_t n;
};
enum { CLAMP_BLOCK = 4096 };

static void clamp_rows(void *arg, int first, int count) {
    const struct clamp_job *j = arg;
    int64_t from = (int64_t)first * CLAMP_BLOCK, n = (int64_t)count * CLAMP_BLOCK;
    j->vec->clamp(j->x + from, j->limit, n < j->n - from ? n : j->n - from);
}

void cpu_clamp(struct backend *b, float *x, float limit, int64_t n) {
    struct clamp_job j = {cpu_of(b)->vec, x, limit, n};
    cpu_rows(cpu_of(b), clamp_rows, &j, (int)((n + CLAMP_BLOCK - 1) / CLAMP_BLOCK), CLAMP_BLOCK);
}

struct store_job {
    const struct vec *vec;
    const struct kv_layer *kv;
    const float *k, *v;
    const int32_t *at;
};

/* One row into slot `slot` of the int8 page at base. */
static void store_scaled(const struct store_job *j, int64_t t, char *base, int64_t slot) {
    const struct kv_layer *kv = j->kv;
    const int G = kv->heads, D = kv->head_dim, P = kv->page_tokens, first = kv->latent ? kv->latent : D;
    int8_t *key = (int8_t *)base + slot * G * D;
    float *scales = (float *)(void *)(base + kv_scales_at(kv)) + slot, *others = scales + (int64_t)G * P;
    for (int g = 0; g < G; g++) {
        const float *k = j->k + (t * G + g) * D;
        scales[g * P] = j->vec->narrow_int8(key + g * D, k, first);
        if (kv->latent) others[g * P] = j->vec->narrow_int8(key + g * D + first, k + first, D - first);
        else others[g * P] = j->vec->narrow_int8(key + (P * G + g) * D, j->v + (t * G + g) * D, D);
    }
}

static void store_rows(void *arg, int first, int count) {
    const struct store_job *j = arg;
    const struct kv_layer *kv = j->kv;
    int64_t n = (int64_t)kv->heads * kv->head_dim, P = kv->page_tokens;
    const size_t token = (size_t)kv->heads * kv_row_bytes(kv);
    for (int t = first; t < first + count; t++) {
        int64_t page = j->at[t] / P, slot = j->at[t] % P;
        char *base = (char *)kv->base + (size_t)page * kv_page_bytes(kv), *key = base + (size_t)slot * token;
        if (kv->fmt == FMT_INT8) {
            store_scaled(j, t, base, slot);
            continue;
        }
        j->vec->narrow(key, kv->fmt, j->k + t * n, n);
        if (!kv->latent) j->vec->narrow(key + (size_t)P * token, kv->fmt, j->v + t * n, n);
    }
}

void cpu_kv_store(struct backend *b, const struct kv_layer *kv, const float *k, const float *v, const int32_t *at, int T) {
    struct store_job j = {cpu_of(b)->vec, kv, k, v, at};
    cpu_rows(cpu_of(b), store_rows, &j, T, (int64_t)kv->heads * kv->head_dim * 2);
}

struct gather_job {
    float *out;
    const float *x;
    const int32_t *rows;
    int H;
};

static void gather_rows(void *arg, int first, int count) {
    const struct gather_job *j = arg;
    for (int i = first; i < first + count; i++) {
        memcpy(j->out + (int64_t)i * j->H, j->x + (int64_t)j->rows[i] * j->H, (size_t)j->H * sizeof *j->x);
    }
}

void cpu_gather(struct backend *b, float *out, const float *x, const int32_t *rows, int n, int H) {
    struct gather_job j = {out, x, rows, H};
    cpu_rows(cpu_of(b), gather_rows, &j, n, H);
}

struct combine_job {
    const struct vec *vec;
    float *y;
    const float *const *rows, *weights;
    int k, H;
};

static void combine_rows(void *arg, int first, int count) {
    const struct combine_job *j = arg;
    for (int64_t t = first; t < first + count; t++) {
        j->vec->combine(j->y + t * j->H, j->rows + t * j->k, j->weights + t * j->k, j->k, j->H);
    }
}

void cpu_combine(struct backend *b, float *y, const float *const *rows, const float *weights, int T, int k, int H) {
    struct combine_job j = {cpu_of(b)->vec, y, rows, weights, k, H};
    cpu_rows(cpu_of(b), combine_rows, &j, T, (int64_t)(k + 1) * H);
}

struct add_job {
    const struct vec *vec;
    float *y;
    const float *x, *gate;
    int H;
};

static void add_rows(void *arg, int first, int count) {
    const struct add_job *j = arg;
    for (int64_t t = first; t < first + count; t++) {
        float factor = 1;
        if (j->gate) j->vec->sigmoid(&factor, j->gate + t, 1);
        j->vec->axpy(j->y + t * j->H, factor, j->x + t * j->H, j->H);
    }
}

void cpu_add(struct backend *b, float *y, const float *x, const float *gate, int T, int H) {
    struct add_job j = {cpu_of(b)->vec, y, x, gate, H};
    cpu_rows(cpu_of(b), add_rows, &j, T, H);
}
