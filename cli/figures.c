/* figures.c - sums in double: counts beyond 2^53 are not of this world. */
#include "cli/figures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t figures_hot(size_t experts) {
    size_t n = (experts * 15 + 50) / 100;
    return n ? n : 1;
}

static int descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

void figures_layer(struct figures *f, const uint64_t *rows, size_t experts, uint64_t tokens, uint64_t *sorted) {
    *f = (struct figures){.tokens = tokens, .worst_layer = -1};
    size_t used = 0;
    for (size_t e = 0; e < experts; e++) f->rows += rows[e], used += rows[e] > 0;
    if (!f->rows) return;
    double mean = (double)f->rows / (double)experts, squares = 0, hot = 0;
    for (size_t e = 0; e < experts; e++) squares += ((double)rows[e] - mean) * ((double)rows[e] - mean);
    memcpy(sorted, rows, sizeof *sorted * experts);
    qsort(sorted, experts, sizeof *sorted, descending);
    for (size_t e = 0; e < figures_hot(experts); e++) hot += (double)sorted[e];
    f->layers = 1;
    f->imb = f->worst_imb = (double)sorted[0] / mean;
    f->balancedness = mean / (double)sorted[0];
    f->std = sqrt(squares / (double)experts);
    f->cv = f->std / mean;
    f->utilisation = (double)used / (double)experts;
    f->hottest = hot / (double)f->rows;
    f->activation = tokens ? (double)f->rows / (double)tokens / (double)experts : 0;
}

void figures_add(struct figures *sum, const struct figures *l, int index) {
    if (!sum->layers) sum->worst_layer = -1;
    if (!l->layers) return;
    if (sum->worst_layer < 0 || l->imb > sum->worst_imb) sum->worst_imb = l->imb, sum->worst_layer = index;
    sum->layers++;
    sum->rows += l->rows;
    if (l->tokens > sum->tokens) sum->tokens = l->tokens;
    sum->imb += l->imb;
    sum->balancedness += l->balancedness;
    sum->std += l->std;
    sum->cv += l->cv;
    sum->utilisation += l->utilisation;
    sum->hottest += l->hottest;
    sum->activation += l->activation;
    sum->entropy += l->entropy;
    sum->confidence += l->confidence;
}

void figures_mean(struct figures *s) {
    if (!s->layers) {
        s->worst_layer = -1;
        return;
    }
    double *all[] = {&s->imb,     &s->balancedness, &s->std,     &s->cv,        &s->utilisation,
                     &s->hottest, &s->activation,   &s->entropy, &s->confidence};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) *all[i] /= s->layers;
}
