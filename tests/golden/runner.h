/* runner.h - a solo worker with mistakes planted in it: what the golden tests drive. */
#pragma once
#include "worker/solo.h"

enum { RUNNER_MAX_TOKENS = 128 };

struct runner_options {
    const char *isa;
    int threads;
    enum fmt weights;
    enum fmt kv; /* of keys and values; FMT_F32: the weights' where that is plain */
    bool naive_prefill; /* latents: the prompt in the expanded form */
    const int32_t *missing; /* [n_missing, 2] model layer and expert of those that are on no worker */
    int n_missing;
    /* Called at the three moments when a mistake can be planted; each may be NULL. */
    void (*mutate_config)(struct model_config *c);
    void (*mutate_weights)(struct weights *w, struct expert_store *s);
    void (*mutate_ops)(struct ops *ops);
};

struct runner {
    struct solo solo;
    const struct ops *real_ops;
    struct ops ops; /* the table in use, perhaps mutated */
};

int runner_open(struct runner *r, const char *dir, const struct runner_options *o, struct why *why);
void runner_close(struct runner *r);
/* Runs ids[T] in chunks of `chunk` rows (0: all at once) and writes logits [T,V]. T <= RUNNER_MAX_TOKENS. */
int runner_logits(struct runner *r, const int32_t *ids, int T, int chunk, float *logits);
