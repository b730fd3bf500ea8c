/* measure.c - a setup as the coordinator would send it, and the engine told to count. */
#include "worker/measure.h"

#include <stdio.h>

#include "kernels/cpu/cpu.h"
#include "worker/engine.h"

uint64_t worker_bytes_total(const struct worker_bytes *b) {
    return b->experts + b->resident + b->kv + b->buffers + b->exchange;
}

uint64_t worker_bytes_mapped(const struct worker_bytes *b) { return b->mapped + b->mapped_experts; }

uint64_t measure_scratch(int threads) { return CPU_SCRATCH_BYTES + (uint64_t)threads * CPU_THREAD_BYTES; }

int measure_limits(struct measure *m, const struct measure_wish *wish, struct why *why) {
    enum { MIDDLING_TOKENS = 512, MAX_PAGES = 1 << 28 };
    int positions = m->checkpoint->config.max_positions, batch = wish->max_batch ? wish->max_batch : MEASURE_BATCH;
    if (wish->max_context > positions)
        return fail(why, ERR_INVALID, "max-context %d: the model was made for %d positions", wish->max_context, positions);
    int context = positions < MEASURE_CONTEXT ? positions : MEASURE_CONTEXT;
    if (wish->max_context) context = wish->max_context;
    int seqs = (batch + m->workers - 1) / m->workers, step = seqs > MEASURE_STEP_TOKENS ? seqs : MEASURE_STEP_TOKENS;
    int64_t kv = (int64_t)seqs * (context < MIDDLING_TOKENS ? context : MIDDLING_TOKENS);
    if (kv < context) kv = context;
    if (wish->kv_tokens) kv = wish->kv_tokens;
    int64_t pages = (kv + MEASURE_PAGE_TOKENS - 1) / MEASURE_PAGE_TOKENS;
    if (pages > MAX_PAGES)
        return fail(why, ERR_INVALID, "kv-tokens %lld: at most %lld are possible", (long long)kv,
                    (long long)MEASURE_PAGE_TOKENS * MAX_PAGES);
    m->max_seqs = seqs;
    m->step_tokens = wish->step_tokens ? wish->step_tokens : step;
    m->max_context = context;
    m->page_tokens = MEASURE_PAGE_TOKENS;
    m->kv_pages = (int)pages;
    return 0;
}

int measure_worker(const struct measure *m, int rank, struct worker_bytes *out, struct why *why) {
    const struct model_config *c = &m->checkpoint->config;
    struct engine_options o = {.rank = rank, .workers = m->workers, .threads = 1};
    struct worker_setup s = {.epoch = 1,
                             .weights = m->weights,
                             .kv = m->kv,
                             .step_tokens = m->step_tokens,
                             .max_seqs = m->max_seqs,
                             .max_context = m->max_context,
                             .page_tokens = m->page_tokens,
                             .kv_pages = m->kv_pages};
    *out = (struct worker_bytes){0};
    int rc = m->hosts ? placement_partial(&s.placement, m->workers, c->moe_layers, c->gate.experts, m->hosts, why)
                      : placement_contiguous(&s.placement, m->workers, c->moe_layers, c->gate.experts, why);
    return rc < 0 ? rc : engine_measure(&o, &s, m->checkpoint, out, why);
}
