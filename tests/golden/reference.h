/* reference.h - what an independent implementation says of a checkpoint: the logits of some prompts. */
#pragma once
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/safetensors.h"

enum { PROMPTS = 3 };

struct reference { /* of one checkpoint */
    struct st_set *set;
    int T[PROMPTS], V;
    const int32_t *ids[PROMPTS]; /* aligned copies */
    float *logits[PROMPTS];
    double std[PROMPTS];
};

static inline void *aligned_copy(const struct st_tensor *t) {
    void *p = malloc(t->bytes);
    return p ? memcpy(p, t->data, t->bytes) : NULL;
}

static inline double standard_deviation(const float *x, size_t n) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    for (size_t i = 0; i < n; i++) squares += ((double)x[i] - sum / (double)n) * ((double)x[i] - sum / (double)n);
    return sqrt(squares / (double)n);
}

/* The logits file has the safetensors format under another name, so it is read whole and parsed from memory. */
static inline void read_reference(const char *dir, struct reference *r, void **file) {
    char path[1100];
    snprintf(path, sizeof path, "%s/logits.safetensors", dir);
    FILE *f = fopen(path, "rb");
    if (!f) die("%s is missing", path);
    fseek(f, 0, SEEK_END);
    size_t bytes = (size_t)ftell(f);
    rewind(f);
    *file = malloc(bytes);
    struct why why;
    if (!*file || fread(*file, 1, bytes, f) != bytes || st_open_memory(*file, bytes, &r->set, &why) < 0)
        die("%s cannot be read", path);
    fclose(f);
    for (int p = 0; p < PROMPTS; p++) {
        char name[32];
        snprintf(name, sizeof name, "ids.%d", p);
        const struct st_tensor *ids = st_find(r->set, name);
        snprintf(name, sizeof name, "logits.%d", p);
        const struct st_tensor *logits = st_find(r->set, name);
        if (!ids || !logits) die("%s lacks prompt %d", path, p);
        r->T[p] = (int)ids->shape[0];
        r->V = (int)logits->shape[1];
        r->ids[p] = aligned_copy(ids);
        r->logits[p] = aligned_copy(logits);
        r->std[p] = standard_deviation(r->logits[p], (size_t)r->T[p] * (size_t)r->V);
    }
}

static inline void free_reference(struct reference *r, void *file) {
    for (int p = 0; p < PROMPTS; p++) {
        free((void *)r->ids[p]);
        free(r->logits[p]);
    }
    st_close(r->set);
    free(file);
}
