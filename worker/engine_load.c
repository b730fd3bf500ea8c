/* engine_load.c - what the placement gives this worker, from joining the fabric to the buffers of the largest step. */
#include "model/pack.h"
#include "worker/engine_parts.h"
#include "worker/join.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void on_late(void *ctx, uint64_t late, int layer) {
    struct engine *e = ctx;
    engine_emit(e, &(struct event){.kind = EVENT_TROUBLE, .trouble = {e->step, late, (uint32_t)layer, e->moe.calls}});
}

/* There, and back where that is different. */
static void payload_name(const struct worker_setup *s, char *buf, size_t cap) {
    const char *back = s->fused ? "fused" : ep_format_name(s->combine_payload);
    bool plain = s->payload == EP_F32 && s->combine_payload == EP_F32 && !s->fused;
    snprintf(buf, cap, "%s%s%s", ep_format_name(s->payload), plain ? "" : "/", plain ? "" : back);
}

static void numeric_class(const struct engine *e, char *buf, size_t cap) {
    const enum fmt w = e->setup.weights, kv = e->setup.kv;
    char payload[32];
    payload_name(&e->setup, payload, sizeof payload);
    snprintf(buf, cap, "cpu/%s weights=%s activations=f32 payload=%s kv=%s kernels=1%s", e->backend->ops->name, fmt_name(w),
             payload, fmt_name(kv), e->setup.naive_prefill ? " mla=naive-prefill" : "");
}

static uint64_t bytes_to_load(const struct engine *e) {
    uint64_t total = weights_bytes(&e->checkpoint, e->setup.weights);
    return total + expert_store_bytes(&e->checkpoint.config, e->setup.weights, &e->setup.placement, e->options.rank);
}

static int check_setup(const struct engine *e, struct why *why) {
    const struct worker_setup *s = &e->setup;
    const struct model_config *c = &e->checkpoint.config;
    if (s->placement.layers != c->moe_layers || s->placement.experts != c->gate.experts ||
        s->placement.workers != e->options.workers)
        return fail(
            why, ERR_PROTOCOL,
            "the placement is for %d layers of %d experts on %d workers; this model has %d of %d, this cluster %d workers",
            s->placement.layers, s->placement.experts, s->placement.workers, c->moe_layers, c->gate.experts,
            e->options.workers);
    if (e->checkpoint.pack && pack_weights(e->checkpoint.pack) != s->weights)
        return fail(why, ERR_INVALID, "the cluster holds %s weights; the pack here holds %s", fmt_name(s->weights),
                    fmt_name(pack_weights(e->checkpoint.pack)));
    if (e->options.fabric && s->n_peers != e->options.workers)
        return fail(why, ERR_PROTOCOL, "the coordinator names %d peers of a cluster of %d workers", s->n_peers,
                    e->options.workers);
    if (s->max_context > c->max_positions)
        return fail(why, ERR_PROTOCOL, "context of %d tokens is longer than the model's %d", s->max_context, c->max_positions);
    return 0;
}

/* Before anything is loaded (join.h). */
static int join_exchange(struct engine *e, struct why *why) {
    if (!e->checkpoint.config.moe_layers) return 0;
    e->limits = join_limits(&e->setup, &e->checkpoint.config);
    int rc = ep_check_limits(&e->limits, e->options.workers, why);
    if (rc < 0) return rc;
    e->bytes.exchange = ep_bytes(&e->limits, e->options.workers);
    if (e->options.workers == 1 || e->counted) return 0;
    return join_fabric(e->options.fabric, &e->setup, &e->limits, &e->roster, &e->links, why);
}

static int load_exchange(struct engine *e, struct why *why) {
    const struct model_config *c = &e->checkpoint.config;
    struct worker_setup *s = &e->setup;
    if (!c->moe_layers) return 0;
    int rc = e->counted ? 0 : ep_new(e->options.fabric, &e->limits, &e->ep, why);
    if (rc < 0) return rc;
    if (e->ep && e->options.fabric) ep_set_members(e->ep, e->roster.members);
    e->moe = (struct moe){.backend = e->backend,
                          .config = c,
                          .store = &e->store,
                          .placement = &s->placement,
                          .ep = e->ep,
                          .rank = e->options.rank,
                          .workers = e->options.workers,
                          .stop = &e->stop,
                          .sums = s->fused,
                          .on_late = on_late,
                          .trace = &e->trace,
                          .tally = &e->tally,
                          .ctx = e};
    return moe_init(&e->moe, s->step_tokens, why);
}

static int alloc_reports(struct engine *e, struct why *why) {
    size_t slots = (size_t)e->setup.placement.layers * (size_t)e->setup.placement.experts + 1; /* all, one day */
    e->rows_before = calloc(slots, sizeof *e->rows_before);
    e->sampled = calloc((size_t)e->setup.max_seqs, sizeof *e->sampled);
    e->held = calloc((size_t)e->setup.max_seqs, sizeof *e->held);
    bool ok = e->rows_before && e->sampled && e->held;
    for (int i = 0; i < REPORTS; i++) {
        e->reports[i].out = calloc((size_t)e->setup.max_seqs, sizeof *e->reports[i].out);
        e->reports[i].rows = calloc(slots, sizeof *e->reports[i].rows);
        ok = ok && e->reports[i].out && e->reports[i].rows;
    }
    return ok ? 0 : fail(why, ERR_NOMEM, "out of memory for step reports");
}

static int open_model(struct engine *e, struct why *why) {
    const struct worker_setup *s = &e->setup;
    struct backend_options bo = {.isa = s->isa, .threads = e->options.threads};
    int rc = 0;
    if (e->counted) e->checkpoint = *e->counted, e->checkpoint.headers_only = true;
    else rc = checkpoint_open(s->model_dir, &e->checkpoint, why);
    if (rc >= 0 && (rc = check_setup(e, why)) < 0) rc = fail_in(why, rc, "%s", s->model_dir);
    if (rc < 0) return rc;
    return e->counted ? backend_open_count(&e->backend, why) : backend_open(&bo, &e->backend, why);
}

void engine_find_sources(struct engine *e, const struct worker_setup *s) {
    e->peers = (struct peers){
        .mover = e->options.mover, .setup = s, .config = &e->checkpoint.config, .rank = e->options.rank};
    e->sources = (struct blob_sources){0};
    e->sources.before_disk[SOURCE_PEER] = peers_source(&e->peers);
}

/* What was taken from the device since the last call. */
static uint64_t taken(const struct engine *e, uint64_t *before) {
    uint64_t now = e->backend->allocated, bytes = now - *before;
    *before = now;
    return bytes;
}

int engine_load(struct engine *e, struct why *why) {
    struct worker_setup *s = &e->setup;
    const struct model_config *c = &e->checkpoint.config;
    int rc = open_model(e, why);
    if (rc < 0) return rc;
    rc = join_exchange(e, why);
    if (rc < 0) return rc;
    uint64_t before = e->backend->allocated;
    engine_find_sources(e, s);
    if (!e->counted) atomic_store(&e->load.total, bytes_to_load(e));
    rc = weights_open(&e->weights, e->backend, &e->checkpoint, s->weights, s->max_context, &e->load, why);
    e->bytes.mapped = e->weights.mapped_bytes;
    e->bytes.resident = taken(e, &before) + e->bytes.mapped;
    if (rc >= 0)
        rc = expert_store_open(&e->store, e->backend, &e->checkpoint, &e->sources, s->weights, &s->placement, e->options.rank,
                               &e->load, why);
    if (rc >= 0 && !e->counted) mover_show(e->options.mover, &e->store);
    e->bytes.mapped_experts = e->store.mapped;
    e->bytes.experts = taken(e, &before) + e->store.mapped;
    if (rc >= 0) rc = kv_open(&e->kv, e->backend, c, s->kv, s->kv_pages, s->page_tokens, why);
    e->bytes.kv = taken(e, &before);
    if (rc >= 0) rc = seq_table_init(&e->seqs, s, why);
    if (rc >= 0 && sampler_init(&e->sampler, e->backend, c->vocab) < 0)
        rc = fail(why, ERR_NOMEM, "out of memory for the sampler");
    if (rc >= 0) rc = alloc_reports(e, why);
    if (rc >= 0 && !e->counted) rc = trace_init(&e->trace, c, s->step_tokens, why);
    if (rc >= 0 && !e->counted) rc = tally_init(&e->tally, c, why);
    if (rc >= 0) rc = load_exchange(e, why);
    if (rc < 0) return rc;
    e->forward = (struct forward){
        .backend = e->backend, .config = c, .weights = &e->weights, .kv = &e->kv, .moe = &e->moe, .progress = &e->progress};
    struct forward_limits limits = {s->step_tokens, s->max_seqs, e->seqs.max_pages};
    rc = forward_init(&e->forward, &limits, why);
    e->forward.mla.naive = s->naive_prefill;
    e->bytes.buffers = taken(e, &before);
    if (!e->counted) st_forget(e->checkpoint.tensors); /* what was copied from the files is not held twice */
    atomic_store(&e->load.done, atomic_load(&e->load.total));
    return rc;
}

void engine_unload(struct engine *e) {
    if (!e->counted) mover_show(e->options.mover, NULL);
    forward_clear(&e->forward);
    moe_clear(&e->moe);
    sampler_clear(&e->sampler);
    seq_table_clear(&e->seqs);
    kv_close(&e->kv);
    expert_store_close(&e->store);
    weights_close(&e->weights);
    backend_close(e->backend);
    if (!e->counted) checkpoint_close(&e->checkpoint);
    worker_setup_clear(&e->setup);
    free(e->rows_before);
    free(e->sampled);
    free(e->held);
}

void engine_take_setup(struct engine *e, struct worker_setup *setup) {
    e->setup = *setup;
    setup->placement = (struct placement){0};
    setup->peers = NULL;
    setup->held_by = NULL;
    setup->n_peers = 0;
}

int engine_measure(const struct engine_options *o, struct worker_setup *setup, const struct checkpoint *c,
                   struct worker_bytes *out, struct why *why) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) {
        worker_setup_clear(setup);
        return fail(why, ERR_NOMEM, "out of memory");
    }
    e->options = *o;
    engine_take_setup(e, setup);
    e->counted = c;
    int rc = engine_load(e, why);
    *out = e->bytes;
    engine_unload(e);
    for (int i = 0; i < REPORTS; i++) {
        free(e->reports[i].out);
        free(e->reports[i].rows);
    }
    free(e);
    return rc;
}

void engine_report_ready(struct engine *e) {
    struct event ev = {.kind = EVENT_READY};
    ev.ready = (struct ready_report){.fingerprint = e->checkpoint.fingerprint,
                                     .bytes = e->bytes,
                                     .links = e->links,
                                     .slots = e->store.first ? e->store.first[e->store.layers] : 0};
    memcpy(ev.ready.source, e->sources.count, sizeof ev.ready.source);
    numeric_class(e, ev.ready.numeric_class, sizeof ev.ready.numeric_class);
    engine_emit(e, &ev);
}
