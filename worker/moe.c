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

static void let_frames_move(void *ep) { ep_progress(ep); }

static int lane_init(struct moe *m, struct moe_lane *l, int max_tokens, struct why *why) {
    const struct ops *ops = m->backend->ops;
    size_t T = (size_t)max_tokens, k = (size_t)m->config->gate.k, H = (size_t)m->config->hidden,
           X = (size_t)m->run.extras.extra;
    int rc = gating_init(&l->gating, m->backend, m->config, max_tokens, why);
    if (rc >= 0 && m->placement) rc = gate_mask_init(&l->gating.mask, m->backend, m->config, m->placement, why);
    if (rc < 0) return rc;
    bool input = m->config->gate.apply == GATE_INPUT;
    l->routed = ops->alloc(m->backend, T * H * sizeof(float), MEM_DEVICE);
    l->shared = ops->alloc(m->backend, T * H * sizeof(float), MEM_DEVICE);
    l->scale = ops->alloc(m->backend, T * sizeof(float), MEM_DEVICE);
    if (input) l->weighed = ops->alloc(m->backend, T * H * sizeof(float), MEM_DEVICE);
    l->said = ops->alloc(m->backend, (T * k * X + 1) * sizeof(float), MEM_HOST_VISIBLE);
    l->fused = ops->alloc(m->backend, T * k * sizeof(float), MEM_HOST_VISIBLE);
    l->worker = malloc(T * k * sizeof *l->worker);
    l->slot = malloc(T * k * sizeof *l->slot);
    l->rows = malloc(T * k * sizeof *l->rows);
    bool ok = l->routed && l->shared && l->scale && (l->weighed || !input) && l->said && l->fused && l->worker && l->slot &&
              l->rows;
    return ok ? 0 : fail(why, ERR_NOMEM, "out of memory for the exchange buffers of %d tokens", max_tokens);
}

static void lane_clear(struct moe *m, struct moe_lane *l) {
    gating_clear(&l->gating);
    void *device[] = {l->routed, l->shared, l->scale, l->weighed, l->said, l->fused};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) m->backend->ops->release(m->backend, device[i]);
    free(l->worker);
    free(l->slot);
    free(l->rows);
}

int moe_init(struct moe *m, int max_tokens, struct why *why) {
    const struct ops *ops = m->backend->ops;
    /* all experts of a layer: whoever is left may get them */
    int rc = expert_run_init(&m->run, m->backend, m->config, m->config->gate.experts > 1 ? m->config->gate.experts : 1, why);
    for (int mb = 0; mb < EP_MICROBATCHES && rc >= 0; mb++)
        rc = lane_init(m, &m->lane[mb], mb ? max_tokens / 2 + 1 : max_tokens, why);
    m->nothing = ops->alloc(m->backend, (size_t)m->config->hidden * sizeof(float), MEM_DEVICE);
    bool ones = m->config->gate.apply == GATE_INPUT || m->sums;
    if (ones) m->ones = ops->alloc(m->backend, (size_t)max_tokens * sizeof(float), MEM_HOST_VISIBLE);
    for (int t = 0; m->ones && t < max_tokens; t++) m->ones[t] = 1;
    if (rc >= 0 && (!m->nothing || (ones && !m->ones)))
        rc = fail(why, ERR_NOMEM, "out of memory for the exchange buffers of %d tokens", max_tokens);
    if (rc < 0) moe_clear(m);
    else m->backend->between = (struct backend_hook){m->ep ? let_frames_move : NULL, m->ep};
    return rc;
}

void moe_clear(struct moe *m) {
    if (!m->backend) return;
    m->backend->between = (struct backend_hook){0};
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) lane_clear(m, &m->lane[mb]);
    m->backend->ops->release(m->backend, m->nothing);
    m->backend->ops->release(m->backend, m->ones);
    expert_run_clear(&m->run);
    *m = (struct moe){0};
}

static void route(struct moe *m, struct moe_lane *l, int moe_index, const struct step_rows *rows) {
    int k = m->config->gate.k;
    for (int t = 0; t < rows->T; t++)
        for (int j = t * k; j < (t + 1) * k; j++) {
            int expert = l->gating.ids[j];
            l->worker[j] = l->slot[j] = -1;
            if (expert < 0 || expert >= m->config->gate.experts) continue;
            const struct replica *r = placement_pick(m->placement, moe_index, expert, rows->seq_id[t], rows->pos[t]);
            l->worker[j] = r->worker;
            l->slot[j] = r->slot;
        }
}

/* What the experts are given: x, or each row times its only weight. */
static const float *weigh_input(struct moe *m, struct moe_lane *l, const float *x, int T) {
    int H = m->config->hidden;
    if (m->config->gate.apply != GATE_INPUT) return x;
    for (int t = 0; t < T; t++) l->rows[t] = x + (size_t)t * (size_t)H;
    m->backend->ops->combine(m->backend, l->weighed, l->rows, l->gating.weights, T, 1, H);
    m->backend->ops->sync(m->backend);
    return l->weighed;
}

/* The rows that did not come back from anywhere. */
static void fill_rows(struct moe *m, struct moe_lane *l, int T) {
    int k = m->config->gate.k;
    for (int i = 0; i < T * k; i++) {
        if (l->worker[i] >= 0) continue;
        l->rows[i] = l->gating.ids[i] < 0 ? m->nothing : l->sent + (size_t)(i / k) * (size_t)m->config->hidden;
    }
}

static void shared_expert(struct moe *m, struct moe_lane *l, const struct layer_weights *w, const float *x, int T) {
    struct backend *b = m->backend;
    if (m->config->shared == SHARED_NONE || !T) return;
    struct ffn_group all = {&w->shared, 0, T};
    b->ops->ffn(b, l->shared, x, &all, 1, m->config->hidden);
    if (m->config->shared == SHARED_SIGMOID) b->ops->linear(b, l->scale, x, w->shared_scale, NULL, false, T);
}

struct request { /* what a call of the exchange needs */
    struct moe *m;
    int mb, layer, slots;
    const struct ep_send *send;
    struct ep_work *work;
};

static int post_dispatch(const struct request *r, int64_t deadline_us, uint64_t *late) {
    int rc = ep_dispatch_post(r->m->ep, r->mb, r->layer, r->send, r->slots, deadline_us);
    *late = ep_unposted(r->m->ep, r->mb);
    return rc;
}

static int await_dispatch(const struct request *r, int64_t deadline_us, uint64_t *late) {
    return ep_dispatch_wait(r->m->ep, r->mb, r->work, deadline_us, late);
}

static int post_combine(const struct request *r, int64_t deadline_us, uint64_t *late) {
    int rc = ep_combine_post(r->m->ep, r->mb, deadline_us);
    *late = ep_unposted(r->m->ep, r->mb);
    return rc;
}

static int await_combine(const struct request *r, int64_t deadline_us, uint64_t *late) {
    return ep_combine_wait(r->m->ep, r->mb, r->m->lane[r->mb].rows, deadline_us, late);
}

/* Calls again and again: in slices, so that a stop is noticed. A peer that outlasts the patience is reported, and waited for
 * still, because only the coordinator may declare it dead. So is one whose frame is refused, which is as good as none: at once,
 * and from then on as often as one that is late, however many it sends. */
static int insist(const struct request *r, int (*call)(const struct request *r, int64_t deadline_us, uint64_t *late)) {
    struct moe *m = r->m;
    m->calls++;
    bool refused = false;
    for (int64_t reported_us = clk_now_us();;) {
        const uint64_t idle_us = ep_counters(m->ep)->idle_us;
        uint64_t late = 0;
        int rc = call(r, clk_now_us() + WAIT_SLICE_US, &late);
        split_move(m->split, ep_counters(m->ep)->idle_us - idle_us, PART_WAIT);
        if (rc >= 0) return 0;
        if (atomic_load_explicit(m->stop, memory_order_relaxed)) return ERR_CANCELLED;
        if (rc != ERR_LATE && rc != ERR_PROTOCOL) return rc;
        int64_t now_us = clk_now_us();
        const bool at_once = rc == ERR_PROTOCOL && !refused;
        refused |= at_once;
        if (!at_once && now_us - reported_us < m->patience_us) continue;
        reported_us = now_us;
        m->on_late(m->ctx, late, r->layer);
    }
}

/* What a token's experts say of their own outputs, by the gate's weights: sum of w c / sum of w. Told, never acted upon. */
static void hear_confidence(struct moe *m, struct moe_lane *l, int T) {
    const struct fuse_rule *extras = &m->run.extras;
    const int k = m->config->gate.k;
    for (int t = 0; t < T; t++) {
        float sum = 0, mass = 0;
        for (int i = t * k; i < (t + 1) * k; i++) {
            float w = l->gating.weights[i], z = l->said[i * extras->extra + extras->conf];
            sum += w / (1 + expf(-z));
            mass += w;
        }
        l->gating.confidence[t] = mass > 0 ? sum / mass : 0;
    }
}

/* The weights with which the rows are added: the gate's, changed by what the experts said. */
static const float *final_weights(struct moe *m, int mb, int T) {
    const struct fuse_rule *extras = &m->run.extras;
    struct moe_lane *l = &m->lane[mb];
    if (extras->extra) ep_extras(m->ep, mb, l->said);
    if (extras->conf >= 0) hear_confidence(m, l, T);
    if (m->ones) return m->ones;
    if (extras->score < 0) return l->gating.weights;
    memcpy(l->fused, l->gating.weights, (size_t)(T * m->config->gate.k) * sizeof *l->fused);
    m->backend->ops->fuse(m->backend, l->fused, l->said, extras, T, m->config->gate.k);
    return l->fused;
}

int moe_post(struct moe *m, int mb, int layer, const struct layer_weights *w, const float *x, const struct step_rows *rows,
             int first) {
    struct moe_lane *l = &m->lane[mb];
    int index = m->config->moe_index[layer], T = rows->T;
    split_to(m->split, PART_GATE);
    if (T) {
        gating_run(&l->gating, index, w, x, rows);
        route(m, l, index, rows);
    }
    l->sent = T ? weigh_input(m, l, x, T) : NULL;
    struct ep_send send = {T, l->sent, l->worker, l->slot, m->config->gate.apply == GATE_INPUT ? m->ones : l->gating.weights};
    int slots = m->store->first[index + 1] - m->store->first[index];
    split_to(m->split, PART_DISPATCH);
    int rc = insist(&(struct request){.m = m, .mb = mb, .layer = layer, .send = &send, .slots = slots}, post_dispatch);
    if (rc < 0) return rc;
    /* experts say how sure they are: there is more to record when they have answered */
    const bool told = m->run.extras.conf >= 0;
    if (T && m->trace && !told) trace_layer(m->trace, index, &l->gating, first, T); /* while the rows travel */
    if (T && m->tally) tally_layer(m->tally, index, &l->gating, rows);
    split_to(m->split, PART_DENSE);
    shared_expert(m, l, w, x, T);
    return 0;
}

int moe_serve(struct moe *m, int mb, int layer, const struct layer_weights *w) {
    struct ep_work work;
    struct request r = {.m = m, .mb = mb, .layer = layer, .work = &work};
    split_to(m->split, PART_DISPATCH);
    int rc = insist(&r, await_dispatch);
    if (rc < 0) return rc;
    split_to(m->split, PART_EXPERTS);
    expert_run(&m->run, expert_slots(m->store, m->config->moe_index[layer]), w, &work);
    split_to(m->split, PART_COMBINE);
    return insist(&r, post_combine);
}

int moe_finish(struct moe *m, int mb, int layer, float *out, const struct step_rows *rows, int first) {
    struct backend *b = m->backend;
    struct moe_lane *l = &m->lane[mb];
    int H = m->config->hidden, T = rows->T;
    split_to(m->split, PART_COMBINE);
    int rc = insist(&(struct request){.m = m, .mb = mb, .layer = layer}, await_combine);
    if (rc < 0 || !T) return rc;
    if (m->sums) {
        b->ops->combine(b, l->routed, l->rows, m->ones, T, 1, H);
    } else {
        fill_rows(m, l, T);
        b->ops->combine(b, l->routed, l->rows, final_weights(m, mb, T), T, m->config->gate.k, H);
    }
    if (m->trace && m->run.extras.conf >= 0) trace_layer(m->trace, m->config->moe_index[layer], &l->gating, first, T);
    if (m->config->shared != SHARED_NONE)
        b->ops->add(b, l->routed, l->shared, m->config->shared == SHARED_SIGMOID ? l->scale : NULL, T, H);
    b->ops->add(b, out, l->routed, NULL, T, H);
    return 0;
}

int moe_step_end(struct moe *m) {
    const int64_t until_us = clk_now_us() + m->patience_us;
    split_to(m->split, PART_WAIT);
    for (int64_t now_us; (now_us = clk_now_us()) < until_us;) {
        int rc = ep_flush(m->ep, now_us + WAIT_SLICE_US < until_us ? now_us + WAIT_SLICE_US : until_us);
        if (rc != ERR_LATE) return rc;
        if (atomic_load_explicit(m->stop, memory_order_relaxed)) return ERR_CANCELLED;
    }
    return 0;
}

bool moe_idle(struct moe *m) { return m->ep && ep_flush(m->ep, 0) == ERR_LATE; }
