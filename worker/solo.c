/* solo.c - wires the worker's parts for one worker and one sequence. */
#include "worker/solo.h"

#include <stdlib.h>
#include <string.h>

static void on_late(void *ctx, uint64_t late, int layer) { (void)ctx, (void)late, (void)layer; }

static int pages_of(const struct solo *s) { return (s->options.context + SOLO_PAGE_TOKENS - 1) / SOLO_PAGE_TOKENS; }

int solo_open(struct solo *s, const char *dir, const struct solo_options *o, struct why *why) {
    const struct backend_options device = {.isa = o->isa, .threads = o->threads};
    memset(s, 0, sizeof *s);
    s->options = *o;
    int rc = checkpoint_open(dir, &s->checkpoint, why);
    return rc < 0 ? rc : backend_open(&device, &s->backend, why);
}

/* All experts here but the missing ones. */
static int place(struct solo *s, struct why *why) {
    const struct model_config *c = &s->checkpoint.config;
    const size_t n = (size_t)c->moe_layers * (size_t)c->gate.experts;
    uint64_t *hosts = malloc((n + 1) * sizeof *hosts);
    if (!hosts) return fail(why, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) hosts[i] = 1;
    for (int i = 0; i < s->options.n_missing; i++) {
        const int32_t *m = s->options.missing + 2 * i;
        hosts[c->moe_index[m[0]] * c->gate.experts + m[1]] = 0;
    }
    int rc = placement_partial(&s->placement, 1, c->moe_layers, c->gate.experts, hosts, why);
    free(hosts);
    return rc;
}

int solo_load(struct solo *s, struct why *why) {
    const enum fmt fmt = s->options.weights;
    struct load load = {0};
    int rc = place(s, why);
    if (rc >= 0) rc = weights_open(&s->weights, s->backend, &s->checkpoint, fmt, s->options.context + 1, &load, why);
    if (rc < 0) return rc;
    return expert_store_open(&s->store, s->backend, &s->checkpoint, NULL, fmt, &s->placement, 0, &load, why);
}

static int open_exchange(struct solo *s, struct why *why) {
    const struct model_config *c = &s->checkpoint.config;
    if (!c->moe_layers) return 0;
    const struct ep_limits limits = {.max_tokens = s->options.max_rows,
                                     .max_slots = c->gate.experts,
                                     .hidden = c->hidden,
                                     .topk = c->gate.k,
                                     .extra = expert_extras(c).extra};
    int rc = ep_new(NULL, &limits, &s->ep, why);
    if (rc < 0) return rc;
    s->moe = (struct moe){.backend = s->backend,
                          .config = c,
                          .store = &s->store,
                          .placement = &s->placement,
                          .ep = s->ep,
                          .workers = 1,
                          .stop = &s->stop,
                          .on_late = on_late,
                          .patience_us = 1000000};
    return moe_init(&s->moe, s->options.max_rows, why);
}

int solo_ready(struct solo *s, enum fmt kv, struct why *why) {
    const struct model_config *c = &s->checkpoint.config;
    const int rows = s->options.max_rows;
    const int many = s->options.sequences, pages = many ? many * pages_of(s) : 2 * pages_of(s) + 1;
    int rc = kv_open(&s->kv, s->backend, c, kv, pages, SOLO_PAGE_TOKENS, why);
    if (rc >= 0) rc = open_exchange(s, why);
    if (rc < 0) return rc;
    s->forward = (struct forward){
        .backend = s->backend, .config = c, .weights = &s->weights, .kv = &s->kv, .moe = &s->moe, .progress = &s->progress};
    return forward_init(&s->forward, &(struct forward_limits){rows, many ? many : rows, pages_of(s)}, why);
}

void solo_close(struct solo *s) {
    forward_clear(&s->forward);
    moe_clear(&s->moe);
    ep_free(s->ep);
    kv_close(&s->kv);
    expert_store_close(&s->store);
    weights_close(&s->weights);
    placement_clear(&s->placement);
    backend_close(s->backend);
    checkpoint_close(&s->checkpoint);
}

int solo_chunk(struct solo *s, const int32_t *ids, int first, int count) {
    struct step_rows *rows = &s->forward.rows;
    const int pages = s->forward.limits.max_pages;
    rows->T = rows->n_sampled = 0;
    rows->n_seqs = 1;
    for (int i = 0; i < pages; i++) rows->pages[i] = 2 * (pages - i) - 1; /* neither in order nor dense: nothing may need it */
    for (int pos = first; pos < first + count; pos++) {
        const int t = rows->T++;
        rows->ids[t] = ids[pos];
        rows->pos[t] = pos;
        rows->seq[t] = 0;
        rows->seq_id[t] = 7;
        rows->prompt[t] = true;
        rows->kv_at[t] = rows->pages[pos / SOLO_PAGE_TOKENS] * SOLO_PAGE_TOKENS + pos % SOLO_PAGE_TOKENS;
        rows->sampled[rows->n_sampled++] = t;
    }
    if (s->ep) ep_step_begin(s->ep, 1, (uint64_t)first + 1, &(int32_t){count}, s->forward.microbatches > 1 ? 2 : 1);
    return forward_step(&s->forward);
}
