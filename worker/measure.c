/* measure.c - a setup as the coordinator would send it, and the engine told to count. */
#include "worker/measure.h"

#include <stdio.h>

#include "worker/engine.h"

uint64_t worker_bytes_total(const struct worker_bytes *b) {
    return b->experts + b->resident + b->kv + b->buffers + b->exchange;
}

int measure_worker(const struct measure *m, int rank, struct worker_bytes *out, struct why *why) {
    const struct model_config *c = &m->checkpoint->config;
    struct engine_options o = {.rank = rank, .workers = m->workers, .threads = 1};
    struct worker_setup s = {.epoch = 1,
                             .weights = m->weights,
                             .step_tokens = m->step_tokens,
                             .max_seqs = m->max_seqs,
                             .max_context = m->max_context,
                             .page_tokens = m->page_tokens,
                             .kv_pages = m->kv_pages};
    *out = (struct worker_bytes){0};
    int rc = m->hosts ? placement_from_hosts(&s.placement, m->workers, c->moe_layers, c->gate.experts, m->hosts, why)
                      : placement_contiguous(&s.placement, m->workers, c->moe_layers, c->gate.experts, why);
    return rc < 0 ? rc : engine_measure(&o, &s, m->checkpoint, out, why);
}
