/* ep_layout.c - two passes over small integers: split walks (token, k) once; group is a stable counting sort by slot. */
#include "fabric/ep_layout.h"

#include <stdlib.h>
#include <string.h>

int ep_split_init(struct ep_split *s, int workers, int max_tokens, int topk, bool weights) {
    size_t R = (size_t)workers, T = (size_t)max_tokens, k = (size_t)topk;
    *s = (struct ep_split){.workers = workers,
                           .max_tokens = max_tokens,
                           .topk = topk,
                           .token = calloc(R * T, sizeof *s->token),
                           .pair = calloc(R * T * k, sizeof *s->pair),
                           .pair_of = calloc(T * k, sizeof *s->pair_of)};
    if (weights) s->weight = calloc(R * T * k, sizeof *s->weight);
    if (s->token && s->pair && s->pair_of && (s->weight || !weights)) return 0;
    ep_split_clear(s);
    return ERR_NOMEM;
}

void ep_split_clear(struct ep_split *s) {
    free(s->token);
    free(s->pair);
    free(s->weight);
    free(s->pair_of);
    *s = (struct ep_split){0};
}

void ep_split_make(struct ep_split *s, int tokens, const int16_t *worker, const int16_t *slot, const float *weights) {
    memset(s->tokens, 0, sizeof s->tokens);
    memset(s->pairs, 0, sizeof s->pairs);
    for (int t = 0; t < tokens; t++) {
        for (int i = t * s->topk; i < (t + 1) * s->topk; i++) {
            int w = worker[i];
            if (w < 0) continue;
            int32_t *copies = s->token + (size_t)w * (size_t)s->max_tokens;
            if (!s->tokens[w] || copies[s->tokens[w] - 1] != t) copies[s->tokens[w]++] = t;
            s->pair_of[i] = s->pairs[w]++;
            size_t at = (size_t)w * (size_t)s->max_tokens * (size_t)s->topk + (size_t)s->pair_of[i];
            s->pair[at] = (struct ep_pair){.token = (uint16_t)(s->tokens[w] - 1), .slot = (uint16_t)slot[i]};
            if (s->weight) s->weight[at] = weights[i];
        }
    }
}

int ep_group_init(struct ep_group *g, int workers, int max_slots, int max_pairs) {
    *g = (struct ep_group){.workers = workers,
                           .max_slots = max_slots,
                           .max_pairs = max_pairs,
                           .first = calloc((size_t)max_slots + 1, sizeof *g->first),
                           .row = calloc((size_t)workers * (size_t)max_pairs, sizeof *g->row)};
    if (g->first && g->row) return 0;
    ep_group_clear(g);
    return ERR_NOMEM;
}

void ep_group_clear(struct ep_group *g) {
    free(g->first);
    free(g->row);
    *g = (struct ep_group){0};
}

void ep_group_make(struct ep_group *g, int slots, const struct ep_pair *const *pairs, const int *n) {
    int32_t *first = g->first;
    memset(first, 0, ((size_t)slots + 1) * sizeof *first);
    for (int w = 0; w < g->workers; w++) {
        g->pairs[w] = n[w];
        for (int i = 0; i < n[w]; i++) first[pairs[w][i].slot + 1]++;
    }
    for (int s = 0; s < slots; s++) first[s + 1] += first[s];
    g->slots = slots;
    g->rows = first[slots];

    /* Hand out rows with first[s] as cursor of slot s; afterwards each cursor stands where the next slot began. */
    for (int w = 0; w < g->workers; w++)
        for (int i = 0; i < n[w]; i++) g->row[(size_t)w * (size_t)g->max_pairs + (size_t)i] = first[pairs[w][i].slot]++;
    for (int s = slots; s > 0; s--) first[s] = first[s - 1];
    first[0] = 0;
}
