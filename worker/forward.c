/* forward.c - reads like the paper: norm, attention, residual, norm, FFN or experts, residual; final norm, logits.
 *
 * A step of two microbatches runs each layer's pieces for one half of the rows, then for the other: while the tokens of one
 * half are on their way to experts elsewhere, or back, this worker computes for the other. A row's numbers never depend on
 * which rows run with it, and the first half's keys are stored before the second half looks at them, so no bit changes. */
#include "worker/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *device(struct forward *f, size_t bytes) { return f->backend->ops->alloc(f->backend, bytes, MEM_DEVICE); }
static void *visible(struct forward *f, size_t bytes) { return f->backend->ops->alloc(f->backend, bytes, MEM_HOST_VISIBLE); }

int forward_init(struct forward *f, const struct forward_limits *limits, struct why *why) {
    const struct model_config *c = f->config;
    size_t T = (size_t)limits->max_tokens, S = (size_t)limits->max_seqs, H = (size_t)c->hidden;
    size_t Q = (size_t)(c->q_heads * c->head_dim), G = (size_t)(c->kv_heads * c->head_dim);
    f->limits = *limits;
    if (f->moe) f->moe->split = &f->split;
    split_begin(&f->split, PART_SCHEDULER);
    f->rows = (struct step_rows){.ids = visible(f, T * 4),
                                 .pos = visible(f, T * 4),
                                 .seq = visible(f, T * 4),
                                 .kv_at = visible(f, T * 4),
                                 .seq_id = visible(f, T * 8),
                                 .domain = visible(f, T * 2),
                                 .prompt = visible(f, T),
                                 .pages = visible(f, S * (size_t)limits->max_pages * 4),
                                 .sampled = visible(f, S * 4),
                                 .max_pages = limits->max_pages,
                                 .state = &f->kv->route};
    f->x = device(f, T * H * 4);
    f->norm = device(f, T * H * 4);
    const bool latent = c->mla.kv_rank > 0;
    int rc = 0;
    if (latent) {
        f->mla = (struct mla){.backend = f->backend, .config = c};
        rc = mla_init(&f->mla, limits->max_tokens, why);
    } else {
        f->q = device(f, T * Q * 4);
        f->k = device(f, T * G * 4);
        f->v = device(f, T * G * 4);
        f->attended = device(f, T * Q * 4);
    }
    f->mlp = device(f, T * H * 4);
    bool extras = true;
    if (c->qk_norm == QK_NORM_L2) extras = (f->ones = visible(f, (size_t)c->head_dim * 4)) != NULL;
    for (int d = 0; f->ones && d < c->head_dim; d++) f->ones[d] = 1;
    if (c->temper_tokens) {
        f->temper = visible(f, T * 4);
        f->query_rows = malloc(T * sizeof *f->query_rows);
        extras = extras && f->temper && f->query_rows;
    }
    f->last = device(f, S * H * 4);
    f->logits = visible(f, S * (size_t)c->vocab * 4);
    f->stats = visible(f, S * sizeof *f->stats);
    const struct step_rows *r = &f->rows;
    const bool heads = latent ? rc == 0 : f->q && f->k && f->v && f->attended && extras;
    if (r->ids && r->pos && r->seq && r->kv_at && r->seq_id && r->domain && r->prompt && r->pages && r->sampled && f->x &&
        f->norm && heads && f->mlp &&
        f->last && f->logits && f->stats)
        return 0;
    forward_clear(f);
    return rc < 0 ? rc
                  : fail(why, ERR_NOMEM, "out of memory for the activations of %d tokens and %d sequences", limits->max_tokens,
                         limits->max_seqs);
}

void forward_clear(struct forward *f) {
    if (!f->backend) return;
    const struct step_rows *r = &f->rows;
    void *all[] = {r->ids, r->pos, r->seq, r->kv_at,    r->seq_id, r->domain, r->prompt, r->pages, r->sampled, f->x, f->norm,
                   f->q,   f->k,   f->v,   f->attended, f->mlp,    f->last,  f->logits,  f->stats,
                   f->temper, f->ones};
    free(f->query_rows);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) f->backend->ops->release(f->backend, all[i]);
    mla_clear(&f->mla);
    *f = (struct forward){0};
}

struct half { /* one microbatch: of two, or all there is */
    struct step_rows rows;
    int number, first; /* first: its first row in the step */
    float *x, *norm;   /* [T,H] what lives from one layer to the next, and from the norm to the experts' answers */
};

/* out rows are [heads, D] each; normalised per head, or over the whole vector. */
static void norm_heads(struct forward *f, float *x, const float *weight, int heads, int T) {
    const struct ops *ops = f->backend->ops;
    int D = f->config->head_dim;
    if (f->config->qk_norm == QK_NORM_HEAD) ops->rmsnorm(f->backend, x, D, x, D, weight, f->config->norm_eps, T * heads, D);
    if (f->config->qk_norm == QK_NORM_FULL)
        ops->rmsnorm(f->backend, x, heads * D, x, heads * D, weight, f->config->norm_eps, T, heads * D);
}

static void rotate(struct forward *f, int layer, float *x, int heads, const struct step_rows *rows) {
    const struct model_config *c = f->config;
    const struct ops *ops = f->backend->ops;
    int T = rows->T, D = c->head_dim;
    if (c->no_rope[layer]) return;
    ops->rope(f->backend, x, rows->pos, f->weights->rope, c->rope.dims, c->rope.interleaved, T, heads, D);
    if (c->qk_norm == QK_NORM_L2) ops->rmsnorm(f->backend, x, D, x, D, f->ones, c->norm_eps, T * heads, D);
}

/* Layers without rotation multiply each query by a factor that grows with its position; f->attended is free until attention. */
static const float *temper(struct forward *f, int layer, const struct step_rows *rows) {
    const struct model_config *c = f->config;
    const int T = rows->T, width = c->q_heads * c->head_dim;
    if (!c->temper_tokens || !c->no_rope[layer]) return f->q;
    for (int t = 0; t < T; t++) {
        f->query_rows[t] = f->q + (size_t)t * (size_t)width;
        float past = floorf(((float)rows->pos[t] + 1) / (float)c->temper_tokens);
        f->temper[t] = log1pf(past) * c->temper_scale + 1;
    }
    f->backend->ops->combine(f->backend, f->attended, f->query_rows, f->temper, T, 1, width);
    return f->attended;
}

static void attention(struct forward *f, int layer, const struct half *p) {
    const struct model_config *c = f->config;
    const struct layer_weights *w = &f->weights->layer[layer];
    const struct step_rows *r = &p->rows;
    struct backend *b = f->backend;
    const struct ops *ops = b->ops;
    const struct kv_layer *kv = &f->kv->layer[layer];
    int T = r->T, D = c->head_dim;
    ops->rmsnorm(b, p->norm, c->hidden, p->x, c->hidden, w->attn_norm, c->norm_eps, T, c->hidden);
    if (c->mla.kv_rank) {
        mla_layer(&f->mla, w, kv, f->weights->rope, p->x, p->norm, r, f->limits.max_pages);
        return;
    }
    ops->linear(b, f->q, p->norm, w->q, w->q_bias, false, T);
    ops->linear(b, f->k, p->norm, w->k, w->k_bias, false, T);
    ops->linear(b, f->v, p->norm, w->v, w->v_bias, false, T);
    norm_heads(f, f->q, w->q_norm, c->q_heads, T);
    norm_heads(f, f->k, w->k_norm, c->kv_heads, T);
    if (c->clip_qkv > 0) { /* after the norms, as OLMoE has it */
        ops->clamp(b, f->q, c->clip_qkv, (int64_t)T * c->q_heads * D);
        ops->clamp(b, f->k, c->clip_qkv, (int64_t)T * c->kv_heads * D);
        ops->clamp(b, f->v, c->clip_qkv, (int64_t)T * c->kv_heads * D);
    }
    rotate(f, layer, f->q, c->q_heads, r);
    rotate(f, layer, f->k, c->kv_heads, r);
    const float *q = temper(f, layer, r);
    float *attended = q == f->q ? f->attended : f->q;
    ops->kv_store(b, kv, f->k, f->v, r->kv_at, T);
    struct attention a = {.q = q,
                          .out = attended,
                          .tokens = T,
                          .q_heads = c->q_heads,
                          .scale = c->attention_scale,
                          .window = c->window[layer],
                          .chunk = c->chunk[layer],
                          .pos = r->pos,
                          .seq = r->seq,
                          .pages = r->pages,
                          .sinks = w->sinks,
                          .max_pages = f->limits.max_pages};
    ops->attention(b, kv, &a);
    ops->linear(b, p->x, attended, w->o, w->o_bias, true, T);
}

static void dense_layer(struct forward *f, int layer, const struct half *p) {
    struct backend *b = f->backend;
    int T = p->rows.T, H = f->config->hidden;
    struct ffn_group all = {&f->weights->layer[layer].dense, 0, T};
    if (!T) return;
    split_to(&f->split, PART_DENSE);
    b->ops->ffn(b, f->mlp, p->norm, &all, 1, H);
    b->ops->add(b, p->x, f->mlp, NULL, T, H);
}

/* Attention and the norm behind it, then the rows go to their experts, or through the FFN. */
static int begin_layer(struct forward *f, int layer, const struct half *p) {
    const struct model_config *c = f->config;
    const struct layer_weights *w = &f->weights->layer[layer];
    int T = p->rows.T, H = c->hidden;
    split_to(&f->split, PART_ATTENTION);
    if (T) attention(f, layer, p);
    if (T) f->backend->ops->rmsnorm(f->backend, p->norm, H, p->x, H, w->ffn_norm, c->norm_eps, T, H);
    if (c->moe_index[layer] >= 0) return moe_post(f->moe, p->number, layer, w, p->norm, &p->rows, p->first);
    dense_layer(f, layer, p);
    return 0;
}

/* What is still under way of a layer: nothing of a dense one. */
static int finish_layer(struct forward *f, int layer, const struct half *p) {
    if (layer < 0 || f->config->moe_index[layer] < 0) return 0;
    return moe_finish(f->moe, p->number, layer, p->x, &p->rows, p->first);
}

static void sampled_logits(struct forward *f) {
    const struct model_config *c = f->config;
    struct backend *b = f->backend;
    int n = f->rows.n_sampled, H = c->hidden;
    if (!n) return;
    b->ops->gather(b, f->last, f->x, f->rows.sampled, n, H);
    b->ops->rmsnorm(b, f->last, H, f->last, H, f->weights->final_norm, c->norm_eps, n, H);
    b->ops->linear(b, f->logits, f->last, f->weights->lm_head, NULL, false, n);
    b->ops->logit_stats(b, f->stats, f->logits, n, c->vocab);
    b->ops->sync(b);
}

static struct half half_of(const struct forward *f, int number, int first, int T) {
    const struct step_rows *r = &f->rows;
    size_t at = (size_t)first * (size_t)f->config->hidden;
    struct half p = {.rows = *r, .number = number, .first = first, .x = f->x + at, .norm = f->norm + at};
    p.rows.T = T;
    p.rows.ids = r->ids + first;
    p.rows.pos = r->pos + first;
    p.rows.seq = r->seq + first;
    p.rows.kv_at = r->kv_at + first;
    p.rows.seq_id = r->seq_id + first;
    p.rows.domain = r->domain + first;
    p.rows.prompt = r->prompt + first;
    return p;
}

static int run_layer(struct forward *f, int layer, const struct half *halves, int n) {
    int rc = 0;
    for (int i = 0; i < n && rc >= 0; i++) {
        rc = finish_layer(f, layer - 1, &halves[i]);
        if (rc >= 0 && layer < f->config->layers) rc = begin_layer(f, layer, &halves[i]);
    }
    if (layer == f->config->layers || f->config->moe_index[layer] < 0) return rc;
    for (int i = 0; i < n && rc >= 0; i++) rc = moe_serve(f->moe, i, layer, &f->weights->layer[layer]);
    return rc;
}

int forward_step(struct forward *f) {
    struct backend *b = f->backend;
    const int n = f->microbatches > 1 ? 2 : 1, T = f->rows.T, first = moe_first_rows(T, n);
    const struct half halves[2] = {half_of(f, 0, 0, first), half_of(f, 1, first, T - first)};
    split_to(&f->split, PART_OUTPUT);
    if (T) b->ops->embed(b, f->x, f->weights->embed, f->rows.ids, T);
    for (int layer = 0; layer <= f->config->layers; layer++) { /* one more: what the last one left under way */
        int rc = run_layer(f, layer, halves, n);
        if (rc < 0) return rc;
        atomic_fetch_add_explicit(f->progress, 1, memory_order_relaxed);
    }
    int rc = f->config->moe_layers ? moe_step_end(f->moe) : 0;
    if (rc < 0) return rc;
    split_to(&f->split, PART_OUTPUT);
    sampled_logits(f);
    return 0;
}
