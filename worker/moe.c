/* moe.c - the road of one token through one layer, docs/ARCHITECTURE.md. The shared expert runs while dispatched rows travel.
 *
 * y = sum over k of w_k * row_k in k order, f32; then the shared expert; then the residual: in this order whatever the
 * placement. The row of an identity expert is the token's own, and never leaves home. */
#include "worker/moe.h"

#include "base/clk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WAIT_SLICE_US = 50000 }; /* how long a stop may go unnoticed */

int moe_init(struct moe *m, int max_tokens, struct why *why) {
    const struct ops *ops = m->backend->ops;
    size_t T = (size_t)max_tokens, k = (size_t)m->config->gate.k, H = (size_t)m->config->hidden;
    int slots = 1;
    for (int l = 0; l < m->store->layers; l++)
        if (m->store->first[l + 1] - m->store->first[l] > slots) slots = m->store->first[l + 1] - m->store->first[l];
    int rc = gating_init(&m->gating, m->backend, m->config, max_tokens, why);
    if (rc >= 0 && m->placement) rc = gate_mask_init(&m->gating.mask, m->backend, m->config, m->placement, why);
    if (rc < 0) return rc;
    m->routed = ops->alloc(m->backend, T * H * sizeof(float), MEM_DEVICE);
    m->shared = ops->alloc(m->backend, T * H * sizeof(float), MEM_DEVICE);
    m->scale = ops->alloc(m->backend, T * sizeof(float), MEM_DEVICE);
    m->nothing = ops->alloc(m->backend, H * sizeof(float), MEM_DEVICE);
    bool input = m->config->gate.apply == GATE_INPUT;
    if (input) m->weighed = ops->alloc(m->backend, T * H * sizeof(float), MEM_DEVICE);
    if (input) m->ones = ops->alloc(m->backend, T * sizeof(float), MEM_HOST_VISIBLE);
    for (size_t t = 0; m->ones && t < T; t++) m->ones[t] = 1;
    m->worker = malloc(T * k * sizeof *m->worker);
    m->slot = malloc(T * k * sizeof *m->slot);
    m->rows = malloc(T * k * sizeof *m->rows);
    rc = expert_run_init(&m->run, m->backend, m->config, slots, why);
    size_t X = (size_t)m->run.extras.extra;
    m->said = ops->alloc(m->backend, (T * k * X + 1) * sizeof(float), MEM_HOST_VISIBLE);
    m->fused = ops->alloc(m->backend, T * k * sizeof(float), MEM_HOST_VISIBLE);
    if (rc >= 0 && m->routed && m->shared && m->scale && m->nothing && m->said && m->fused && m->worker && m->slot && m->rows &&
        (!input || (m->weighed && m->ones)))
        return 0;
    moe_clear(m);
    return rc < 0 ? rc : fail(why, ERR_NOMEM, "out of memory for the exchange buffers of %d tokens", max_tokens);
}

void moe_clear(struct moe *m) {
    if (!m->backend) return;
    gating_clear(&m->gating);
    void *device[] = {m->routed, m->shared, m->scale, m->nothing, m->weighed, m->ones, m->said, m->fused};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) m->backend->ops->release(m->backend, device[i]);
    free(m->worker);
    free(m->slot);
    free(m->rows);
    expert_run_clear(&m->run);
    *m = (struct moe){0};
}

static void route(struct moe *m, int moe_index, const struct step_rows *rows) {
    int k = m->config->gate.k;
    for (int t = 0; t < rows->T; t++)
        for (int j = t * k; j < (t + 1) * k; j++) {
            int expert = m->gating.ids[j];
            m->worker[j] = m->slot[j] = -1;
            if (expert < 0 || expert >= m->config->gate.experts) continue;
            const struct replica *r = placement_pick(m->placement, moe_index, expert, rows->seq_id[t], rows->pos[t]);
            m->worker[j] = r->worker;
            m->slot[j] = r->slot;
        }
}

/* What the experts are given: x, or each row times its only weight. */
static const float *weigh_input(struct moe *m, const float *x, int T) {
    int H = m->config->hidden;
    if (m->config->gate.apply != GATE_INPUT) return x;
    for (int t = 0; t < T; t++) m->rows[t] = x + (size_t)t * (size_t)H;
    m->backend->ops->combine(m->backend, m->weighed, m->rows, m->gating.weights, T, 1, H);
    m->backend->ops->sync(m->backend);
    return m->weighed;
}

/* The rows that did not come back from anywhere. sent [T,H]: what the experts were given. */
static void fill_rows(struct moe *m, const float *sent, int T) {
    int k = m->config->gate.k;
    for (int i = 0; i < T * k; i++) {
        if (m->worker[i] >= 0) continue;
        m->rows[i] = m->gating.ids[i] < 0 ? m->nothing : sent + (size_t)(i / k) * (size_t)m->config->hidden;
    }
}

static void shared_expert(struct moe *m, const struct layer_weights *w, const float *x, int T) {
    struct backend *b = m->backend;
    if (m->config->shared == SHARED_NONE || !T) return;
    struct ffn_group all = {&w->shared, 0, T};
    b->ops->ffn(b, m->shared, x, &all, 1, m->config->hidden);
    if (m->config->shared == SHARED_SIGMOID) b->ops->linear(b, m->scale, x, w->shared_scale, NULL, false, T);
}

/* Posts and waits: in slices, so that a stop is noticed; a peer that outlasts the patience is reported, and waited for still,
 * because only the coordinator may declare it dead. */
struct patience {
    struct moe *m;
    int64_t reported_us;
};

static int keep_waiting(struct patience *p, int rc, uint64_t late) {
    if (atomic_load_explicit(p->m->stop, memory_order_relaxed)) return ERR_CANCELLED;
    if (rc != ERR_LATE) return rc;
    int64_t now = clk_now_us();
    if (now - p->reported_us >= p->m->patience_us) {
        p->reported_us = now;
        p->m->on_late(p->m->ctx, late);
    }
    return 0;
}

static int post_dispatch(struct moe *m, int layer, const struct ep_send *send, int slots) {
    struct patience p = {m, clk_now_us()};
    for (int rc; (rc = ep_dispatch_post(m->ep, 0, layer, send, slots, clk_now_us() + WAIT_SLICE_US)) < 0;)
        if ((rc = keep_waiting(&p, rc, 0)) < 0) return rc;
    return 0;
}

static int post_combine(struct moe *m) {
    struct patience p = {m, clk_now_us()};
    for (int rc; (rc = ep_combine_post(m->ep, 0, clk_now_us() + WAIT_SLICE_US)) < 0;)
        if ((rc = keep_waiting(&p, rc, 0)) < 0) return rc;
    return 0;
}

static int await_dispatch(struct moe *m, struct ep_work *work) {
    struct patience p = {m, clk_now_us()};
    for (;;) {
        uint64_t late = 0;
        int rc = ep_dispatch_wait(m->ep, 0, work, clk_now_us() + WAIT_SLICE_US, &late);
        if (rc >= 0) return 0;
        if ((rc = keep_waiting(&p, rc, late)) < 0) return rc;
    }
}

static int await_combine(struct moe *m) {
    struct patience p = {m, clk_now_us()};
    for (;;) {
        uint64_t late = 0;
        int rc = ep_combine_wait(m->ep, 0, m->rows, clk_now_us() + WAIT_SLICE_US, &late);
        if (rc >= 0) return 0;
        if ((rc = keep_waiting(&p, rc, late)) < 0) return rc;
    }
}

/* What a token's experts say of their own outputs, by the gate's weights: sum of w c / sum of w. Told, never acted upon. */
static void hear_confidence(struct moe *m, int T) {
    const struct fuse_rule *extras = &m->run.extras;
    const int k = m->config->gate.k;
    for (int t = 0; t < T; t++) {
        float sum = 0, mass = 0;
        for (int i = t * k; i < (t + 1) * k; i++) {
            float w = m->gating.weights[i], z = m->said[i * extras->extra + extras->conf];
            sum += w / (1 + expf(-z));
            mass += w;
        }
        m->gating.confidence[t] = mass > 0 ? sum / mass : 0;
    }
}

/* The weights with which the rows are added: the gate's, changed by what the experts said. */
static const float *final_weights(struct moe *m, int T) {
    const struct fuse_rule *extras = &m->run.extras;
    if (extras->extra) ep_extras(m->ep, 0, m->said);
    if (extras->conf >= 0) hear_confidence(m, T);
    if (m->ones) return m->ones;
    if (extras->score < 0) return m->gating.weights;
    memcpy(m->fused, m->gating.weights, (size_t)(T * m->config->gate.k) * sizeof *m->fused);
    m->backend->ops->fuse(m->backend, m->fused, m->said, extras, T, m->config->gate.k);
    return m->fused;
}

int moe_layer(struct moe *m, int layer, const struct layer_weights *w, float *out, const float *x,
              const struct step_rows *rows) {
    struct backend *b = m->backend;
    int index = m->config->moe_index[layer], H = m->config->hidden, T = rows->T;
    if (T) {
        gating_run(&m->gating, index, w, x, rows);
        route(m, index, rows);
    }
    const float *sent = T ? weigh_input(m, x, T) : NULL;
    struct ep_send send = {T, sent, m->worker, m->slot};
    int rc = post_dispatch(m, layer, &send, m->store->first[index + 1] - m->store->first[index]);
    if (rc < 0) return rc;
    /* experts say how sure they are: there is more to record when they have answered */
    const bool told = m->run.extras.conf >= 0;
    if (T && m->trace && !told) trace_layer(m->trace, index, &m->gating); /* while the rows travel */
    if (T && m->tally) tally_layer(m->tally, index, &m->gating, rows);
    shared_expert(m, w, x, T);
    struct ep_work work;
    if ((rc = await_dispatch(m, &work)) < 0) return rc;
    expert_run(&m->run, expert_slots(m->store, index), w, &work);
    if ((rc = post_combine(m)) < 0) return rc;
    if ((rc = await_combine(m)) < 0) return rc;
    if (!T) return 0;
    fill_rows(m, sent, T);
    b->ops->combine(b, m->routed, m->rows, final_weights(m, T), T, m->config->gate.k, H);
    if (m->trace && told) trace_layer(m->trace, index, &m->gating);
    if (m->config->shared != SHARED_NONE)
        b->ops->add(b, m->routed, m->shared, m->config->shared == SHARED_SIGMOID ? m->scale : NULL, T, H);
    b->ops->add(b, out, m->routed, NULL, T, H);
    return 0;
}

int moe_step_end(struct moe *m) {
    struct patience p = {m, clk_now_us()};
    for (int rc; (rc = ep_flush(m->ep, clk_now_us() + WAIT_SLICE_US)) < 0;)
        if ((rc = keep_waiting(&p, rc == ERR_DEADLINE ? ERR_LATE : rc, 0)) < 0) return rc;
    return 0;
}
