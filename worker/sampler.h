/* sampler.h - one row of logits -> one token, and log-probabilities.
 *
 * Order: temperature, top-k, top-p, min-p, draw. The random number is a counter-based function of (seed, position) (Philox
 * 4x32-10, Salmon et al. 2011), so a token depends on nothing that happened before in the process. Ties go to the lower id.
 * Log-probabilities are of the raw logits, before temperature. Owner: the engine thread. */
#pragma once
#include "worker/cmd.h"

struct sampler {
    struct backend *backend;
    int vocab;
    int n;            /* tokens that are weighed: the whole row, or the blocks of it that top-k can reach */
    float *near;      /* [V] scratch: the logits of these blocks */
    int32_t *block;   /* [V / block] scratch: which they are */
    float *weight;    /* [V] scratch, as all below of the n */
    int32_t *order;   /* [V] scratch: the ids of one bucket */
    int32_t *spare;   /* [V] scratch: the same while they are sorted */
    int ordered, n_ordered; /* which bucket that is, -1 none, and how many ids */
    uint16_t *bucket; /* [V] scratch */
};

int sampler_init(struct sampler *s, struct backend *b, int vocab); /* 0 or ERR_NOMEM */
void sampler_clear(struct sampler *s);
/* Fills token, logprob and top of *out. stats are of this row. */
void sampler_pick(struct sampler *s, const float *logits, const struct logit_stats *stats, const struct sampling *how,
                  int position, struct seq_out *out);
double sampler_uniform(uint64_t seed, uint64_t position); /* in [0, 1) */
