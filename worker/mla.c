/* mla.c - latents of all rows first, so that a row finds those of the rows before it; then queries, block by block. */
#include "worker/mla.h"

enum { BLOCK_FLOATS = 8 << 20 }; /* of queries in latent space: 32 MiB */

int mla_init(struct mla *m, int max_tokens, struct why *why) {
    const struct model_config *c = m->config;
    const struct mla_sizes *s = &c->mla;
    const struct ops *ops = m->backend->ops;
    int fit = BLOCK_FLOATS / (c->q_heads * (s->kv_rank + s->rope));
    m->block = fit < 16 ? 16 : fit;
    if (m->block > max_tokens) m->block = max_tokens;
    size_t B = (size_t)m->block * sizeof(float), Q = (size_t)c->q_heads;
    m->latent = ops->alloc(m->backend, (size_t)max_tokens * (size_t)(s->kv_rank + s->rope) * sizeof(float), MEM_DEVICE);
    if (s->q_rank) m->low = ops->alloc(m->backend, B * (size_t)s->q_rank, MEM_DEVICE);
    m->q = ops->alloc(m->backend, B * Q * (size_t)(s->nope + s->rope), MEM_DEVICE);
    m->wide = ops->alloc(m->backend, B * Q * (size_t)(s->kv_rank + s->rope), MEM_DEVICE);
    m->u = ops->alloc(m->backend, B * Q * (size_t)s->kv_rank, MEM_DEVICE);
    m->heads = ops->alloc(m->backend, B * Q * (size_t)s->value, MEM_DEVICE);
    if (m->latent && (m->low || !s->q_rank) && m->q && m->wide && m->u && m->heads) return 0;
    mla_clear(m);
    return fail(why, ERR_NOMEM, "out of memory for the latent attention of %d tokens", max_tokens);
}

void mla_clear(struct mla *m) {
    if (!m->backend) return;
    void *all[] = {m->latent, m->low, m->q, m->wide, m->u, m->heads};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) m->backend->ops->release(m->backend, all[i]);
    *m = (struct mla){0};
}

static void store_latents(struct mla *m, const struct layer_weights *w, const struct kv_layer *kv, const float *rope,
                          const float *norm, const struct step_rows *r) {
    const struct mla_sizes *s = &m->config->mla;
    const struct ops *ops = m->backend->ops;
    const int D = s->kv_rank + s->rope;
    ops->linear(m->backend, m->latent, norm, w->kv_a, w->kv_a_bias, false, r->T);
    ops->rmsnorm(m->backend, m->latent, D, m->latent, D, w->kv_a_norm, s->norm_eps, r->T, s->kv_rank);
    ops->rope(m->backend, m->latent + s->kv_rank, r->pos, rope, m->config->rope.dims, m->config->rope.interleaved, r->T, 1, D);
    ops->kv_store(m->backend, kv, m->latent, NULL, r->kv_at, r->T);
}

static void queries(struct mla *m, const struct layer_weights *w, const float *rope, const float *norm, const int32_t *pos,
                    int n) {
    const struct model_config *c = m->config;
    const struct mla_sizes *s = &c->mla;
    const struct ops *ops = m->backend->ops;
    if (s->q_rank) {
        ops->linear(m->backend, m->low, norm, w->q_a, w->q_a_bias, false, n);
        ops->rmsnorm(m->backend, m->low, s->q_rank, m->low, s->q_rank, w->q_a_norm, s->norm_eps, n, s->q_rank);
        ops->linear(m->backend, m->q, m->low, w->q_b, NULL, false, n);
    } else {
        ops->linear(m->backend, m->q, norm, w->q, NULL, false, n);
    }
    ops->rope(m->backend, m->q + s->nope, pos, rope, c->rope.dims, c->rope.interleaved, n, c->q_heads, s->nope + s->rope);
}

/* Rows [first, first + n) of the block, all in one form. */
static void attend(struct mla *m, const struct latent_heads *h, const struct kv_layer *kv, const struct attention *block,
                   int first, int n, bool naive) {
    const struct ops *ops = m->backend->ops;
    const size_t Q = (size_t)h->heads * (size_t)first;
    struct attention a = *block;
    a.tokens = n;
    a.pos += first;
    a.seq += first;
    a.q = m->q + Q * (size_t)(h->nope + h->rope);
    a.out = m->heads + Q * (size_t)h->value;
    if (naive) {
        ops->latent_expanded(m->backend, kv, &a, h);
        return;
    }
    ops->latent_query(m->backend, m->wide, a.q, h, n);
    float *heads = a.out;
    a.q = m->wide;
    a.out = m->u;
    ops->attention(m->backend, kv, &a);
    ops->latent_value(m->backend, heads, m->u, h, n);
}

void mla_layer(struct mla *m, const struct layer_weights *w, const struct kv_layer *kv, const float *rope, float *x,
               const float *norm, const struct step_rows *rows, int max_pages) {
    const struct model_config *c = m->config;
    const struct mla_sizes *s = &c->mla;
    const struct ops *ops = m->backend->ops;
    const struct latent_heads heads = {w->kv_b, c->q_heads, s->nope, s->rope, s->value};
    store_latents(m, w, kv, rope, norm, rows);
    for (int first = 0; first < rows->T; first += m->block) {
        int n = rows->T - first < m->block ? rows->T - first : m->block;
        struct attention a = {.q_heads = c->q_heads,
                              .scale = c->attention_scale,
                              .pos = rows->pos + first,
                              .seq = rows->seq + first,
                              .pages = rows->pages,
                              .max_pages = max_pages};
        queries(m, w, rope, norm + (size_t)first * (size_t)c->hidden, a.pos, n);
        for (int i = 0, run; i < n; i += run) {
            const bool *prompt = rows->prompt + first + i;
            for (run = 1; i + run < n && prompt[run] == prompt[0];) run++;
            if (!m->naive) run = n;
            attend(m, &heads, kv, &a, i, run, m->naive && prompt[0]);
        }
        ops->linear(m->backend, x + (size_t)first * (size_t)c->hidden, m->heads, w->o, w->o_bias, true, n);
    }
}
