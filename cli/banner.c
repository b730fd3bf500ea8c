/* banner.c - see banner.h. On a terminal progress is one line that is rewritten; elsewhere a line per worker and quarter. */
#include "cli/banner.h"

#include <string.h>

static bool loading(const struct cadre_worker *w) { return !strcmp(w->state, "loading") || !strcmp(w->state, "ready"); }

static uint32_t percent(const struct cadre_worker *w) {
    return !strcmp(w->state, "ready") ? 100 : w->load_percent < 100 ? w->load_percent : 99;
}

void banner_break(struct banner *b) {
    if (b->open_line) fputc('\n', stderr);
    b->open_line = false;
}

static void rewrite_line(struct banner *b, const struct cadre_cluster *c) {
    fputs("\rloading", stderr);
    for (size_t i = 0; i < c->n_workers && i < 16; i++) {
        const struct cadre_worker *w = &c->workers[i];
        if (loading(w)) fprintf(stderr, "  %u: %3u%%", w->rank, percent(w));
        else fprintf(stderr, "  %u: ...", w->rank);
    }
    if (c->n_workers > 16) fprintf(stderr, "  and %zu more", c->n_workers - 16);
    fputs("  ", stderr);
    fflush(stderr);
    b->open_line = true;
}

void banner_progress(struct banner *b, const struct cadre_cluster *c) {
    if (b->terminal) {
        rewrite_line(b, c);
        return;
    }
    for (size_t i = 0; i < c->n_workers; i++) {
        const struct cadre_worker *w = &c->workers[i];
        if (w->rank >= BANNER_WORKERS || !loading(w)) continue;
        uint32_t step = percent(w) / 25 * 25;
        if (step + 1 <= b->told[w->rank]) continue;
        b->told[w->rank] = step + 1;
        fprintf(stderr, "worker %u: %s %u%%\n", w->rank, step == 100 ? "loaded" : "loading", step);
    }
}

static void print_worker(const struct cadre_worker *w) {
    printf("  worker %-3u experts %-10s %10s routed + %s resident + %s KV, pid %llu on %s\n", w->rank, w->placement,
           cli_bytes((double)w->weight_bytes), cli_bytes((double)w->resident_bytes), cli_bytes((double)w->kv_bytes),
           (unsigned long long)w->pid, w->host);
}

void banner_serving(const struct cadre_cluster *c) {
    uint64_t pages = 0, kv = 0;
    for (size_t i = 0; i < c->n_workers; i++) {
        pages += c->workers[i].kv_pages;
        kv += c->workers[i].kv_bytes;
    }
    printf("\ncadre %s serves %s\n", c->version, c->model);
    printf("  model      %s, %u MoE layers of %u experts, %u per token; class %s\n", c->family, c->layers, c->experts,
           c->topk, c->numeric_class);
    printf("  cluster    %zu workers over %s, up to %u sequences at once of up to %u tokens\n", c->n_workers, c->fabric,
           c->max_batch, c->max_context);
    printf("  KV         %llu pages, %s\n", (unsigned long long)pages, cli_bytes((double)kv));
    for (size_t i = 0; i < c->n_workers; i++) print_worker(&c->workers[i]);
    if (c->recovery && c->n_workers > 1)
        printf("  deaths     %s%s\n",
               c->recovery->without_one[0] ? "when a worker dies requests wait for another: "
                                           : "any one worker may die: the others hold the model",
               c->recovery->without_one);
    printf("  clients    %s\n  control    %s\n", c->listen, c->control);
    if (strcmp(c->listen, CADRE_DEFAULT_ENDPOINT))
        printf("  try        cadre generate --connect %s --prompt \"The sea is\" --max-tokens 40\n\n", c->listen);
    else printf("  try        cadre generate --prompt \"The sea is\" --max-tokens 40\n\n");
    fflush(stdout);
}
