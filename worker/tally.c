/* tally.c - a table of counters: added to by one thread, at the end of its steps, between two turns of a counter. */
#include "worker/tally.h"

#include <stdlib.h>

enum { NOTES = 1 << 18 }; /* choices noted before they are added; the rest of a larger step is added as it comes */

int tally_init(struct tally *t, const struct model_config *c, struct why *why) {
    *t = (struct tally){.layers = c->moe_layers, .experts = c->gate.experts};
    size_t n = (size_t)TRACE_DOMAINS * (size_t)t->layers * (size_t)t->experts;
    if (!n) return 0;
    t->rows = calloc(n, sizeof *t->rows);
    t->noted = malloc(NOTES * sizeof *t->noted);
    if (t->rows && t->noted) return 0;
    tally_clear(t);
    return fail(why, ERR_NOMEM, "out of memory for the counts of %d domains", TRACE_DOMAINS);
}

void tally_clear(struct tally *t) {
    free(t->rows);
    free(t->noted);
    *t = (struct tally){0};
}

static size_t place(const struct tally *t, int domain, int layer) {
    return ((size_t)domain * (size_t)t->layers + (size_t)layer) * (size_t)t->experts;
}

/* Release, so that who sees one of the counts sees the odd turn that came before them, too. */
static void add_noted(struct tally *t) {
    unsigned long long turn = atomic_load_explicit(&t->turn, memory_order_relaxed);
    if (!(turn & 1)) atomic_store_explicit(&t->turn, turn + 1, memory_order_relaxed);
    for (size_t i = 0; i < t->n_noted; i++) atomic_fetch_add_explicit(&t->rows[t->noted[i]], 1, memory_order_release);
    t->n_noted = 0;
}

static void note(struct tally *t, size_t at) {
    if (t->n_noted == NOTES) add_noted(t);
    t->noted[t->n_noted++] = (uint32_t)at;
}

void tally_layer(struct tally *t, int moe_index, const struct gating *g, const struct step_rows *rows) {
    int k = g->config->gate.k;
    for (int i = 0; i < rows->T; i++) {
        if (!rows->domain[i]) continue;
        size_t at = place(t, rows->domain[i], moe_index);
        for (int j = 0; j < k; j++) {
            int e = g->ids[i * k + j];
            if (e >= 0 && e < t->experts) note(t, at + (size_t)e);
        }
    }
}

void tally_step_end(struct tally *t, const struct step_rows *rows) {
    add_noted(t);
    for (int i = 0; i < rows->T; i++)
        if (rows->domain[i]) atomic_fetch_add_explicit(&t->tokens[rows->domain[i]], 1, memory_order_release);
    atomic_fetch_add_explicit(&t->turn, 1, memory_order_release);
}

/* Of a step so large that some of it was added already, that stays. */
void tally_step_void(struct tally *t) {
    t->n_noted = 0;
    if (atomic_load_explicit(&t->turn, memory_order_relaxed) & 1) atomic_fetch_add_explicit(&t->turn, 1, memory_order_release);
}

void tally_forget(struct tally *t) {
    for (size_t i = 0; t->rows && i < place(t, TRACE_DOMAINS, 0); i++)
        atomic_store_explicit(&t->rows[i], 0, memory_order_relaxed);
    for (int d = 0; d < TRACE_DOMAINS; d++) atomic_store_explicit(&t->tokens[d], 0, memory_order_release);
}

uint64_t tally_tokens(const struct tally *t, int domain) {
    return t->rows ? atomic_load_explicit(&t->tokens[domain], memory_order_relaxed) : 0;
}

bool tally_read(const struct tally *t, int domain, uint64_t *rows, uint64_t *tokens) {
    unsigned long long turn = atomic_load_explicit(&t->turn, memory_order_acquire);
    if (turn & 1) return false;
    const atomic_ullong *from = t->rows + place(t, domain, 0);
    for (int i = 0; i < t->layers * t->experts; i++) rows[i] = atomic_load_explicit(&from[i], memory_order_acquire);
    *tokens = atomic_load_explicit(&t->tokens[domain], memory_order_acquire);
    return atomic_load_explicit(&t->turn, memory_order_relaxed) == turn;
}
