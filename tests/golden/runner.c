/* runner.c - wires the worker's parts as the engine does, for one worker and one sequence, on scattered KV pages. */
#include "tests/golden/runner.h"

#include <stdlib.h>
#include <string.h>

static void on_late(void *ctx, uint64_t late, int layer) { (void)ctx, (void)late, (void)layer; }

static int open_exchange(struct runner *r, struct why *why) {
    const struct model_config *c = &r->checkpoint.config;
    if (!c->moe_layers) return 0;
    struct ep_limits limits = {.max_tokens = RUNNER_MAX_TOKENS,
                               .max_slots = c->gate.experts,
                               .hidden = c->hidden,
                               .topk = c->gate.k,
                               .extra = expert_extras(c).extra};
    int rc = ep_new(NULL, &limits, &r->ep, why);
    if (rc < 0) return rc;
    r->moe = (struct moe){.backend = r->backend,
                          .config = c,
                          .store = &r->store,
                          .placement = &r->placement,
                          .ep = r->ep,
                          .workers = 1,
                          .stop = &r->stop,
                          .on_late = on_late,
                          .patience_us = 1000000};
    return moe_init(&r->moe, RUNNER_MAX_TOKENS, why);
}

/* All experts here but the missing ones. */
static int place(struct runner *r, const struct runner_options *o, struct why *why) {
    const struct model_config *c = &r->checkpoint.config;
    size_t n = (size_t)c->moe_layers * (size_t)c->gate.experts;
    uint64_t *hosts = malloc((n + 1) * sizeof *hosts);
    if (!hosts) return fail(why, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) hosts[i] = 1;
    for (int i = 0; i < o->n_missing; i++)
        hosts[c->moe_index[o->missing[2 * i]] * c->gate.experts + o->missing[2 * i + 1]] = 0;
    int rc = placement_partial(&r->placement, 1, c->moe_layers, c->gate.experts, hosts, why);
    free(hosts);
    return rc;
}

int runner_open(struct runner *r, const char *dir, const struct runner_options *o, struct why *why) {
    memset(r, 0, sizeof *r);
    atomic_ullong loaded = 0;
    struct backend_options bo = {.isa = o->isa, .threads = o->threads};
    int rc = checkpoint_open(dir, &r->checkpoint, why);
    struct model_config *c = &r->checkpoint.config;
    if (rc >= 0 && o->mutate_config) o->mutate_config(c);
    if (rc >= 0) rc = backend_open(&bo, &r->backend, why);
    if (rc < 0) return rc;
    r->real_ops = r->backend->ops;
    r->ops = *r->real_ops;
    if (o->mutate_ops) o->mutate_ops(&r->ops);
    r->backend->ops = &r->ops;
    rc = place(r, o, why);
    if (rc >= 0) rc = weights_open(&r->weights, r->backend, &r->checkpoint, o->weights, RUNNER_MAX_TOKENS + 1, &loaded, why);
    if (rc >= 0)
        rc = expert_store_open(&r->store, r->backend, &r->checkpoint, NULL, o->weights, &r->placement, 0, &loaded, why);
    if (rc >= 0 && o->mutate_weights) o->mutate_weights(&r->weights, &r->store);
    int pages = (RUNNER_MAX_TOKENS + RUNNER_PAGE_TOKENS - 1) / RUNNER_PAGE_TOKENS;
    if (rc >= 0)
        rc = kv_open(&r->kv, r->backend, c, fmt_plain(o->weights) ? o->weights : FMT_F32, 2 * pages + 1, RUNNER_PAGE_TOKENS,
                     why);
    if (rc >= 0) rc = open_exchange(r, why);
    if (rc < 0) return rc;
    r->forward = (struct forward){
        .backend = r->backend, .config = c, .weights = &r->weights, .kv = &r->kv, .moe = &r->moe, .progress = &r->progress};
    rc = forward_init(&r->forward, &(struct forward_limits){RUNNER_MAX_TOKENS, RUNNER_MAX_TOKENS, pages}, why);
    r->forward.mla.naive = o->naive_prefill;
    return rc;
}

void runner_close(struct runner *r) {
    if (r->backend) r->backend->ops = r->real_ops;
    forward_clear(&r->forward);
    moe_clear(&r->moe);
    ep_free(r->ep);
    kv_close(&r->kv);
    expert_store_close(&r->store);
    weights_close(&r->weights);
    placement_clear(&r->placement);
    backend_close(r->backend);
    checkpoint_close(&r->checkpoint);
}

int runner_chunk(struct runner *r, const int32_t *ids, int first, int count) {
    struct step_rows *rows = &r->forward.rows;
    int pages = r->forward.limits.max_pages;
    rows->T = rows->n_sampled = 0;
    rows->n_seqs = 1;
    for (int i = 0; i < pages; i++) rows->pages[i] = 2 * (pages - i) - 1; /* neither in order nor dense */
    for (int pos = first; pos < first + count; pos++) {
        int t = rows->T++;
        rows->ids[t] = ids[pos];
        rows->pos[t] = pos;
        rows->seq[t] = 0;
        rows->seq_id[t] = 7;
        rows->prompt[t] = true;
        rows->kv_at[t] = rows->pages[pos / RUNNER_PAGE_TOKENS] * RUNNER_PAGE_TOKENS + pos % RUNNER_PAGE_TOKENS;
        rows->sampled[rows->n_sampled++] = t;
    }
    if (r->ep) ep_step_begin(r->ep, 1, (uint64_t)first + 1, &(int32_t){count}, r->forward.microbatches > 1 ? 2 : 1);
    return forward_step(&r->forward);
}

int runner_logits(struct runner *r, const int32_t *ids, int T, int chunk, float *logits) {
    size_t V = (size_t)r->checkpoint.config.vocab;
    for (int first = 0; first < T; first += chunk ? chunk : T) {
        int count = chunk && chunk < T - first ? chunk : T - first;
        int rc = runner_chunk(r, ids, first, count);
        if (rc < 0) return rc;
        memcpy(logits + (size_t)first * V, r->forward.logits, (size_t)count * V * sizeof *logits);
    }
    return 0;
}
