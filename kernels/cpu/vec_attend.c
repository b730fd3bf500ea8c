/* vec_attend.c - softmax(q k) v over paged keys, for a block of query heads that share one key/value head.
 *
 * Keys are taken in tiles that start at absolute multiples of the page size (and, in a page longer than ATTEND_TILE, at
 * multiples of ATTEND_TILE inside it). A query keeps a running maximum, sum and weighted value sum ("online softmax",
 * arXiv 1805.02867): per tile, the scores of the keys it sees, one rescale, and one fused step per key and element in key
 * order. What a query does in a tile depends on its own position and window alone; the block only shares the loads. Keys
 * past a query's own position are never in its sums, and keys past the block's last position are never read. Codes of int8
 * pages are multiplied as they are, and the sums by their scales: a score's, or the weight of a value. The next page
 * is prefetched line by line while this one is worked on: pages lie anywhere, and a burst would fill the miss buffers. */
#include "kernels/cpu/simd.h"
#include "kernels/cpu/vec_list.h"

enum { GROUP = 4, CHUNK = 4 }; /* value sums: 4 queries by 4 vectors of the head in registers */

struct query { /* running state of one query head of one row */
    int first, last; /* keys it sees */
    int lo, hi;      /* the same in the current tile: [lo, hi) */
    float max, sum;
};

struct block {
    const struct attend *task;
    int n, D, stride;      /* queries, elements of a key, D in whole vectors */
    int V, wide;           /* elements of a value, V in whole vectors */
    float *q, *acc;        /* [n, stride], [n, wide] */
    float *scores, *rests; /* [n, ATTEND_TILE]; rests: of int8 latents, what elements after the first V add */
    struct query query[ATTEND_QUERIES];
};

struct tile_keys {                /* some keys of one page */
    const char *keys, *values;    /* of its first key, head g */
    const float *scales, *others; /* int8: of its first key, as struct kv_layer has them; else NULL */
    int64_t ahead;                /* bytes from here to the same place of the next page; 0: none */
    int start, count;             /* absolute position of the first key; keys to the end of the tile */
};

static void load_queries(struct block *b) {
    const struct attention *a = b->task->a;
    for (int i = 0; i < b->n; i++) {
        int row = b->task->first_row + i / b->task->heads, head = b->task->first_head + i % b->task->heads;
        const float *q = a->q + ((int64_t)row * a->q_heads + head) * b->D;
        for (int d = 0; d < b->D; d += 16) v16_store(b->q + i * b->stride + d, v16_load_first(q + d, b->D - d));
        for (int d = 0; d < b->V; d += 16) v16_store(b->acc + i * b->wide + d, v16_zero());
        int pos = a->pos[row];
        int first = a->window && pos >= a->window ? pos - a->window + 1 : 0;
        if (a->chunk && pos - pos % a->chunk > first) first = pos - pos % a->chunk;
        /* A sink is a key seen before all others whose value is zero: where it stands must not depend on pages. */
        b->query[i] = (struct query){
            .first = first, .last = pos, .max = a->sinks ? a->sinks[head] : -INFINITY, .sum = a->sinks ? 1 : 0};
    }
}

static void store_outputs(const struct block *b) {
    const struct attention *a = b->task->a;
    for (int i = 0; i < b->n; i++) {
        int row = b->task->first_row + i / b->task->heads, head = b->task->first_head + i % b->task->heads;
        float *out = a->out + ((int64_t)row * a->q_heads + head) * b->V;
        struct v16 sum = v16_set(b->query[i].sum);
        const float *acc = b->acc + i * b->wide;
        for (int d = 0; d < b->V; d += 16) v16_store_first(out + d, b->V - d, v16_div(v16_load(acc + d), sum));
    }
}

/* Scales one query's scores in the tile, makes those it does not see -inf, and returns the largest so far. */
INLINE float scale_scores(const struct block *b, const struct tile_keys *t, int i) {
    const struct query *q = &b->query[i];
    const bool rest = b->task->kv->latent && b->D > b->V;
    float *s = b->scores + i * ATTEND_TILE, *r = b->rests + i * ATTEND_TILE;
    struct v16 scale = v16_set(b->task->a->scale), top = v16_set(q->max);
    for (int k = 0; k < q->hi; k += 16) {
        struct v16 v = v16_load(s + k);
        if (t->scales) {
            v = v16_mul(v, v16_load_first(t->scales + k, t->count - k));
            if (rest) v = v16_fma(v16_load(r + k), v16_load_first(t->others + k, t->count - k), v);
        }
        v = v16_mul(v, scale);
        if (q->lo > k || q->hi < k + 16) {
            int lo = q->lo - k < 0 ? 0 : q->lo - k > 16 ? 16 : q->lo - k, hi = q->hi - k > 16 ? 16 : q->hi - k;
            v = v16_pick(m16_range(lo, hi), v, v16_set(-INFINITY));
        }
        v16_store(s + k, v);
        top = v16_max(top, v);
    }
    return v16_largest(top);
}

/* Scores -> weights relative to the new maximum, in place, summed; what was summed before is rescaled by factor. Of int8 pages
 * the weights are those of codes. */
INLINE void weigh_scores(struct block *b, const struct tile_keys *t, int i, float factor) {
    struct query *q = &b->query[i];
    float *s = b->scores + i * ATTEND_TILE, *acc = b->acc + i * b->wide;
    const float *value_scales = b->task->kv->latent ? t->scales : t->others;
    struct v16 max = v16_set(q->max), sum = v16_zero();
    for (int k = 0; k < q->hi; k += 16) {
        struct v16 p = v16_exp(v16_sub(v16_load(s + k), max));
        v16_store(s + k, value_scales ? v16_mul(p, v16_load_first(value_scales + k, t->count - k)) : p);
        sum = v16_add(sum, p);
    }
    q->sum = fmaf(q->sum, factor, v16_sum(sum));
    if (factor == 1) return; /* the usual case, and a product with 1 changes nothing */
    for (int d = 0; d < b->wide; d += 16) v16_store(acc + d, v16_mul(v16_load(acc + d), v16_set(factor)));
}

static void soften(struct block *b, const struct tile_keys *t) {
    float factor[(ATTEND_QUERIES + 15) / 16 * 16] = {0}; /* e^(old maximum - new maximum) */
    for (int i = 0; i < b->n; i++) {
        if (!b->query[i].hi) continue;
        float max = scale_scores(b, t, i);
        factor[i] = b->query[i].max - max;
        b->query[i].max = max;
    }
    for (int i = 0; i < b->n; i += 16) v16_store(factor + i, v16_exp(v16_load(factor + i)));
    for (int i = 0; i < b->n; i++) {
        if (b->query[i].hi) weigh_scores(b, t, i, factor[i]);
    }
}

/* acc[i] += weight * value, keys [from, to) in order, for R queries at once and C vectors of the head from element d. */
INLINE void add_values(const struct block *b, const struct tile_keys *t, int i, int from, int to, int d, const enum fmt f,
                       const int R, const int C) {
    const int64_t size = bytes_of_kv(f, 1), step = (int64_t)b->task->kv->heads * b->D * size;
    const char *value = t->values + from * step + d * size;
    const float *p = b->scores + i * ATTEND_TILE;
    float *at = b->acc + i * b->wide + d;
    const int64_t ahead = i == 0 ? t->ahead : 0;
    const int rest = b->V - d - 16 * (C - 1); /* elements in the last vector: 16 or more when it is whole */
    struct v16 acc[GROUP][CHUNK], v[CHUNK];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) acc[r][c] = v16_load(at + r * b->wide + 16 * c);
    }
    for (int k = from; k < to; k++, value += step) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) {
            const char *e = value + 16 * c * size;
            __builtin_prefetch(e + ahead, 0, 2);
            v[c] = c < C - 1 || rest >= 16 ? v16_load_fmt(f, e) : v16_load_fmt_first(f, e, rest);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            struct v16 weight = v16_set(p[r * ATTEND_TILE + k]);
#pragma GCC unroll 4
            for (int c = 0; c < C; c++) acc[r][c] = v16_fma(weight, v[c], acc[r][c]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 4
        for (int c = 0; c < C; c++) v16_store(at + r * b->wide + 16 * c, acc[r][c]);
    }
}

INLINE void add_values_chunks(const struct block *b, const struct tile_keys *t, int i, int from, int to, const enum fmt f,
                              const int R) {
    for (int d = 0; d < b->wide; d += 16 * CHUNK) {
        switch (b->wide - d >= 16 * CHUNK ? CHUNK : (b->wide - d) / 16) {
        case 4: add_values(b, t, i, from, to, d, f, R, 4); break;
        case 3: add_values(b, t, i, from, to, d, f, R, 3); break;
        case 2: add_values(b, t, i, from, to, d, f, R, 2); break;
        case 1: add_values(b, t, i, from, to, d, f, R, 1); break;
        }
    }
}

INLINE void add_values_fmt(const struct block *b, const struct tile_keys *t, int i, int from, int to, int n, const enum fmt f) {
    switch (n) {
    case 4: add_values_chunks(b, t, i, from, to, f, 4); break;
    case 3: add_values_chunks(b, t, i, from, to, f, 3); break;
    case 2: add_values_chunks(b, t, i, from, to, f, 2); break;
    case 1: add_values_chunks(b, t, i, from, to, f, 1); break;
    }
}

/* Queries [i, i + n), n <= GROUP. */
static void add_values_rows(const struct block *b, const struct tile_keys *t, int i, int from, int to, int n) {
    if (from >= to) return;
    switch (b->task->kv->fmt) {
    case FMT_BF16: add_values_fmt(b, t, i, from, to, n, FMT_BF16); break;
    case FMT_F16: add_values_fmt(b, t, i, from, to, n, FMT_F16); break;
    case FMT_INT8: add_values_fmt(b, t, i, from, to, n, FMT_INT8); break;
    default: add_values_fmt(b, t, i, from, to, n, FMT_F32);
    }
}

/* Queries of a group share the loads of the keys that all of them see; each takes its other keys alone, before and after. */
static void weigh_values(const struct block *b, const struct tile_keys *t) {
    for (int i = 0; i < b->n; i += GROUP) {
        int n = b->n - i < GROUP ? b->n - i : GROUP, lo = 0, hi = ATTEND_TILE;
        for (int r = 0; r < n; r++) {
            if (b->query[i + r].lo > lo) lo = b->query[i + r].lo;
            if (b->query[i + r].hi < hi) hi = b->query[i + r].hi;
        }
        if (lo > hi) lo = hi; /* nothing in common: all keys of a query come after hi, or before it, alone */
        for (int r = 0; r < n; r++) {
            const struct query *q = &b->query[i + r];
            add_values_rows(b, t, i + r, q->lo, q->hi < lo ? q->hi : lo, 1);
        }
        add_values_rows(b, t, i, lo, hi, n);
        for (int r = 0; r < n; r++) {
            const struct query *q = &b->query[i + r];
            add_values_rows(b, t, i + r, q->lo > hi ? q->lo : hi, q->hi, 1);
        }
    }
}

/* Products of all queries with keys [lo, hi) of the tile. */
static void score(const struct block *b, const struct tile_keys *t, int lo, int hi) {
    const struct kv_layer *kv = b->task->kv;
    const int64_t step = (int64_t)kv->heads * kv->head_dim;
    const bool parts = t->scales && kv->latent && b->D > b->V; /* of latents and of the rest, whose scales differ */
    struct products p = {.out = b->scores + lo,
                         .out_stride = ATTEND_TILE,
                         .x = b->q,
                         .x_stride = b->stride,
                         .w = t->keys + bytes_of_kv(kv->fmt, lo * step),
                         .fmt = kv->fmt,
                         .w_stride = step,
                         .rows = b->n,
                         .cols = hi - lo,
                         .K = parts ? b->V : b->D,
                         .ahead = t->ahead};
    ISA(products)(&p);
    if (!parts) return;
    p.out = b->rests + lo;
    p.x += b->V;
    p.w = (const char *)p.w + bytes_of_kv(kv->fmt, b->V);
    p.K = b->D - b->V;
    ISA(products)(&p);
}

static void visit_tile(struct block *b, const struct tile_keys *t) {
    int lo = t->count, hi = 0; /* keys of the tile that any query sees */
    for (int i = 0; i < b->n; i++) {
        struct query *q = &b->query[i];
        q->lo = q->first > t->start ? q->first - t->start : 0;
        q->hi = q->last - t->start + 1 < t->count ? q->last - t->start + 1 : t->count;
        if (q->lo >= q->hi) q->lo = q->hi = 0;
        else {
            if (q->lo < lo) lo = q->lo;
            if (q->hi > hi) hi = q->hi;
        }
    }
    if (lo >= hi) return;
    score(b, t, lo, hi);
    soften(b, t);
    weigh_values(b, t);
}

void ISA(attend)(const struct attend *task) {
    const struct kv_layer *kv = task->kv;
    const struct attention *a = task->a;
    struct block b = {.task = task,
                      .n = task->rows * task->heads,
                      .D = kv->head_dim,
                      .stride = (kv->head_dim + 15) / 16 * 16,
                      .V = kv_value_dim(kv),
                      .wide = (kv_value_dim(kv) + 15) / 16 * 16};
    b.q = task->scratch;
    b.acc = b.q + ATTEND_QUERIES * b.stride;
    b.scores = b.acc + ATTEND_QUERIES * b.wide;
    b.rests = b.scores + ATTEND_QUERIES * ATTEND_TILE;
    load_queries(&b);

    int first = b.query[0].first, last = b.query[0].last, P = kv->page_tokens;
    for (int i = 1; i < b.n; i++) {
        if (b.query[i].first < first) first = b.query[i].first;
        if (b.query[i].last > last) last = b.query[i].last;
    }
    const int32_t *pages = a->pages + (int64_t)a->seq[task->first_row] * a->max_pages;
    const size_t row = kv_row_bytes(kv), token = (size_t)kv->heads * row, page_bytes = kv_page_bytes(kv);
    const size_t scales_at = kv_scales_at(kv);
    int64_t macs = 0;
    for (int page = first / P; page <= last / P; page++) {
        int64_t ahead = page < last / P ? ((int64_t)pages[page + 1] - pages[page]) * (int64_t)page_bytes : 0;
        const char *base = (const char *)kv->base + (size_t)pages[page] * page_bytes, *keys = base + (size_t)task->g * row;
        const float *scales = (const float *)(const void *)(base + scales_at) + (size_t)task->g * (size_t)P;
        for (int at = 0; at < P; at += ATTEND_TILE) {
            struct tile_keys t = {.keys = keys + (size_t)at * token,
                                  .values = keys + (size_t)(kv->latent ? at : P + at) * token,
                                  .scales = kv->fmt == FMT_INT8 ? scales + at : NULL,
                                  .others = kv->fmt == FMT_INT8 ? scales + (size_t)kv->heads * (size_t)P + at : NULL,
                                  .ahead = ahead,
                                  .start = page * P + at,
                                  .count = P - at < ATTEND_TILE ? P - at : ATTEND_TILE};
            visit_tile(&b, &t);
            macs += (int64_t)t.count * b.n * (b.D + b.V);
            if (macs < ATTEND_MACS) continue;
            task->between(task->ctx);
            macs = 0;
        }
    }
    store_outputs(&b);
}
