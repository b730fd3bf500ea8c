/* tally.c - a table of counters; relaxed increments by one thread, published by `tokens`. */
#include "worker/tally.h"

#include <stdlib.h>

int tally_init(struct tally *t, const struct model_config *c, struct why *why) {
    *t = (struct tally){.layers = c->moe_layers, .experts = c->gate.experts};
    size_t n = (size_t)TRACE_DOMAINS * (size_t)t->layers * (size_t)t->experts;
    if (!n) return 0;
    t->rows = calloc(n, sizeof *t->rows);
    return t->rows ? 0 : fail(why, ERR_NOMEM, "out of memory for the counts of %d domains", TRACE_DOMAINS);
}

void tally_clear(struct tally *t) {
    free(t->rows);
    *t = (struct tally){0};
}

static atomic_ullong *of_domain(const struct tally *t, int domain, int layer) {
    return t->rows + ((size_t)domain * (size_t)t->layers + (size_t)layer) * (size_t)t->experts;
}

void tally_layer(struct tally *t, int moe_index, const struct gating *g, const struct step_rows *rows) {
    int k = g->config->gate.k;
    for (int i = 0; i < rows->T; i++) {
        if (!rows->domain[i]) continue;
        atomic_ullong *count = of_domain(t, rows->domain[i], moe_index);
        for (int j = 0; j < k; j++) {
            int e = g->ids[i * k + j];
            if (e >= 0 && e < t->experts) atomic_fetch_add_explicit(&count[e], 1, memory_order_relaxed);
        }
    }
}

void tally_step_end(struct tally *t, const struct step_rows *rows) {
    for (int i = 0; i < rows->T; i++)
        if (rows->domain[i]) atomic_fetch_add_explicit(&t->tokens[rows->domain[i]], 1, memory_order_release);
}

uint64_t tally_tokens(const struct tally *t, int domain) {
    return t->rows ? atomic_load_explicit(&t->tokens[domain], memory_order_acquire) : 0;
}

void tally_read(const struct tally *t, int domain, uint64_t *rows) {
    for (int i = 0; i < t->layers * t->experts; i++)
        rows[i] = atomic_load_explicit(&of_domain(t, domain, 0)[i], memory_order_relaxed);
}
