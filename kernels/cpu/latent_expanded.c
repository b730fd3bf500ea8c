/* latent_expanded.c - multi-head latent attention in its naive form: tile by tile, keys and values of one head are written out,
 * then a block of rows attends to them.
 *
 * Tiles start at absolute multiples of the page size (and of the tile, in longer pages), so which keys share a softmax step
 * depends on positions alone. Per tile and row: the visible keys' softmax by themselves, their weighted values, and one merge
 * into the running sums. The block shares the expansion and nothing else. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "kernels/cpu/cpu.h"

enum { WIDE_TILE = 64, NARROW_TILE = 16, NARROW_RANK = 512, MOST_ROWS = 128 };

struct expanded_job {
    const struct vec *vec;
    const struct kv_layer *kv;
    const struct attention *a;
    const struct latent_heads *m;
    const int32_t *first_row; /* [blocks + 1] */
    int tile;                 /* keys at a time */
    char *thread_scratch;
    struct team *team;
};

struct expanded { /* one head and one block of rows */
    const struct expanded_job *j;
    int head, first, rows, thread;
    float *latents;      /* [tile, rank] */
    float *keys, *values; /* [tile, nope + rope], [tile, value] */
    float *scores;       /* [rows, tile] */
    float *part, *acc;   /* [rows, value]: of this tile, of all so far */
    float *max, *sum;    /* [rows] */
};

static size_t fixed_floats(const struct latent_heads *m, int tile) {
    return (size_t)tile * (size_t)(m->kv_b.cols + m->nope + m->rope + m->value);
}
static size_t row_floats(const struct latent_heads *m, int tile) { return (size_t)(tile + 2 * m->value + 2); }

/* By the model's sizes alone, so that it is the same for every step. Wide heads take a narrow tile: half a thread's room is for
 * the tile, the other for rows. With the widest heads that config.json may ask for (2048 of rank and rope, 1024 of nope and of
 * value) a narrow one takes just that half. */
static int tile_of(const struct latent_heads *m) {
    const size_t half = CPU_THREAD_BYTES / 2 / sizeof(float);
    return m->kv_b.cols <= NARROW_RANK && fixed_floats(m, WIDE_TILE) <= half ? WIDE_TILE : NARROW_TILE;
}

static void scale(float *x, int n, float by) {
    for (int i = 0; i < n; i++) x[i] *= by;
}

/* Keys and values of `n` latents, the first at `at`; int8: their scales, those of the rest a page's tokens further. */
static void expand_tile(const struct expanded *e, const char *at, const float *scales, int n) {
    const struct latent_heads *m = e->j->m;
    const struct kv_layer *kv = e->j->kv;
    const int rank = m->kv_b.cols, D = m->nope + m->rope;
    const size_t step = kv_row_bytes(kv), size = step / (size_t)kv->head_dim;
    const size_t row = (size_t)rank * fmt_bytes(m->kv_b.fmt);
    const char *w = (const char *)m->kv_b.data + (size_t)e->head * (size_t)(m->nope + m->value) * row;
    for (int i = 0; i < n; i++, at += step) {
        float *latent = e->latents + (size_t)i * (size_t)rank, *key = e->keys + (size_t)i * (size_t)D + m->nope;
        e->j->vec->widen(latent, at, kv->fmt, rank);
        e->j->vec->widen(key, at + (size_t)rank * size, kv->fmt, m->rope);
        if (kv->fmt != FMT_INT8) continue;
        scale(latent, rank, scales[i]);
        scale(key, m->rope, scales[i + kv->page_tokens]);
    }
    struct products p = {.out = e->keys, .x = e->latents, .w = w, .out_stride = D, .x_stride = rank, .w_stride = rank,
                         .fmt = m->kv_b.fmt, .rows = n, .cols = m->nope, .K = rank};
    e->j->vec->products(&p);
    team_between(e->j->team, e->thread);
    p.out = e->values;
    p.out_stride = p.cols = m->value;
    p.w = w + (size_t)m->nope * row;
    e->j->vec->products(&p);
}

/* The visible scores of a row become weights; what was summed before and what this tile adds are scaled to the larger
 * maximum. */
static void soften_row(const struct expanded *e, int r, int visible) {
    const struct vec *v = e->j->vec;
    float *s = e->scores + (size_t)r * (size_t)e->j->tile, scale = e->j->a->scale;
    for (int k = 0; k < visible; k++) s[k] *= scale;
    for (int k = visible; k < e->j->tile; k++) s[k] = 0;
    if (!visible) return;
    int best = v->argmax(s, visible); /* -1: no score is a number, and nothing of this row will be */
    float top = s[best < 0 ? 0 : best], max = fmaxf(e->max[r], top);
    float before = v->sum_exp(&e->max[r], max, 1), now = v->sum_exp(&top, max, 1), weight = v->sum_exp(s, top, visible) * now;
    v->softmax(s, s, visible);
    for (int k = 0; k < visible; k++) s[k] *= weight;
    e->sum[r] = fmaf(e->sum[r], before, weight);
    e->max[r] = max;
    float *acc = e->acc + (size_t)r * (size_t)e->j->m->value;
    if (before != 1)
        for (int i = 0; i < e->j->m->value; i++) acc[i] *= before;
}

static void visit_tile(const struct expanded *e, const char *at, const float *scales, int start, int n) {
    const struct latent_heads *m = e->j->m;
    const struct attention *a = e->j->a;
    const int D = m->nope + m->rope, tile = e->j->tile;
    expand_tile(e, at, scales, n);
    team_between(e->j->team, e->thread);
    struct products p = {.out = e->scores, .x = a->q + ((int64_t)e->first * m->heads + e->head) * D, .w = e->keys,
                         .out_stride = tile, .x_stride = (int64_t)m->heads * D, .w_stride = D, .fmt = FMT_F32, .rows = e->rows,
                         .cols = n, .K = D};
    e->j->vec->products(&p);
    for (int r = 0; r < e->rows; r++) {
        int visible = a->pos[e->first + r] - start + 1;
        soften_row(e, r, visible < 0 ? 0 : imin(visible, n));
    }
    team_between(e->j->team, e->thread);
    struct transposed t = {.out = e->part, .x = e->scores, .w = e->values, .out_stride = m->value, .x_stride = tile,
                           .w_stride = m->value, .fmt = FMT_F32, .rows = e->rows, .cols = m->value, .K = n};
    e->j->vec->transposed(&t);
    for (int r = 0; r < e->rows; r++) {
        if (a->pos[e->first + r] < start) continue; /* sees nothing of it: not even a sum with zero */
        e->j->vec->axpy(e->acc + (size_t)r * (size_t)m->value, 1, e->part + (size_t)r * (size_t)m->value, m->value);
    }
}

static void expanded_task(void *arg, int task, int thread) {
    const struct expanded_job *j = arg;
    const struct latent_heads *m = j->m;
    const struct kv_layer *kv = j->kv;
    const int block = task / m->heads, V = m->value, P = kv->page_tokens;
    struct expanded e = {.j = j, .thread = thread, .head = task % m->heads, .first = j->first_row[block],
                         .rows = j->first_row[block + 1] - j->first_row[block]};
    e.latents = (float *)(j->thread_scratch + (size_t)thread * CPU_THREAD_BYTES);
    e.keys = e.latents + (size_t)j->tile * (size_t)m->kv_b.cols;
    e.values = e.keys + (size_t)j->tile * (size_t)(m->nope + m->rope);
    e.scores = e.values + (size_t)j->tile * (size_t)V;
    e.part = e.scores + (size_t)e.rows * (size_t)j->tile;
    e.acc = e.part + (size_t)e.rows * (size_t)V;
    e.max = e.acc + (size_t)e.rows * (size_t)V;
    e.sum = e.max + e.rows;
    int last = 0;
    for (int r = 0; r < e.rows; r++) {
        e.max[r] = -INFINITY;
        e.sum[r] = 0;
        if (j->a->pos[e.first + r] > last) last = j->a->pos[e.first + r];
    }
    memset(e.acc, 0, (size_t)e.rows * (size_t)V * sizeof *e.acc);
    const int32_t *pages = j->a->pages + (int64_t)j->a->seq[e.first] * j->a->max_pages;
    for (int start = 0; start <= last;) {
        int slot = start % P, n = imin(j->tile, P - slot);
        const char *page = (const char *)kv->base + (size_t)pages[start / P] * kv_page_bytes(kv);
        const float *scales = (const float *)(const void *)(page + kv_scales_at(kv)) + slot;
        visit_tile(&e, page + (size_t)slot * kv_row_bytes(kv), scales, start, imin(n, last + 1 - start));
        start += n;
    }
    for (int r = 0; r < e.rows; r++) {
        float *out = j->a->out + ((int64_t)(e.first + r) * m->heads + e.head) * V;
        for (int i = 0; i < V; i++) out[i] = e.acc[(size_t)r * (size_t)V + (size_t)i] / e.sum[r];
    }
}

void cpu_latent_expanded(struct backend *b, const struct kv_layer *kv, const struct attention *a,
                         const struct latent_heads *m) {
    struct cpu *c = cpu_of(b);
    struct expanded_job j = {c->vec, kv, a, m, (int32_t *)c->scratch, tile_of(m), c->thread_scratch, c->team};
    size_t room = CPU_THREAD_BYTES / sizeof(float), fixed = fixed_floats(m, j.tile);
    if (fixed + row_floats(m, j.tile) > room) BUG("latent heads of %d and %d: too wide", m->nope + m->rope, m->value);
    size_t fit = (room - fixed) / row_floats(m, j.tile);
    int most = fit > MOST_ROWS ? MOST_ROWS : (int)fit, blocks = 0, t = 0;
    if (a->tokens > CPU_SCRATCH_BYTES / (int)sizeof(int32_t) - 1) BUG("%d rows in a step", a->tokens);
    int32_t *first_row = (int32_t *)c->scratch;
    while (t < a->tokens) { /* neighbours of one sequence */
        int start = t++;
        while (t < a->tokens && t - start < most && a->seq[t] == a->seq[start]) t++;
        first_row[blocks++] = start;
    }
    first_row[blocks] = t;
    if (blocks) team_run(c->team, expanded_task, &j, blocks * m->heads);
}
