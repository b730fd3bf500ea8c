/* sampler.c - greedy, or inverse transform sampling over the surviving tokens in descending order of weight.
 *
 * Sorting a whole vocabulary per token would cost milliseconds. Weights are first counted into buckets of falling
 * log-weight; only the buckets that top-k and top-p can reach are sorted. Sums are f64 in a fixed order. */
#include "worker/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 512 };
static const float BUCKETS_PER_NAT = 16; /* so the last bucket begins 32 nats below the best */
static const float COLDEST = 1e-5f;      /* below this a temperature means greedy */

int sampler_init(struct sampler *s, int vocab) {
    *s = (struct sampler){
        .vocab = vocab, .weight = malloc(sizeof(float) * (size_t)vocab), .order = malloc(sizeof(int32_t) * (size_t)vocab)};
    if (s->weight && s->order) return 0;
    sampler_clear(s);
    return ERR_NOMEM;
}

void sampler_clear(struct sampler *s) {
    free(s->weight);
    free(s->order);
    *s = (struct sampler){0};
}

double sampler_uniform(uint64_t seed, uint64_t position) {
    uint32_t x[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ x[1] ^ key[0], (uint32_t)b, (uint32_t)(a >> 32) ^ x[3] ^ key[1], (uint32_t)a};
        memcpy(x, next, sizeof x);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    uint64_t bits = ((uint64_t)x[0] << 32 | x[1]) >> 11;
    return (double)bits * 0x1p-53;
}

/* The n largest logits, ties to the lower id: insertion into a small sorted list. */
static int top_logits(const float *logits, int vocab, float lse, int n, struct top_logprob *top) {
    int have = 0;
    for (int32_t id = 0; id < vocab; id++) {
        if (have == n && !(logits[id] > top[n - 1].logprob)) continue;
        int at = have < n ? have++ : n - 1;
        while (at > 0 && logits[id] > top[at - 1].logprob) {
            top[at] = top[at - 1];
            at--;
        }
        top[at] = (struct top_logprob){id, logits[id]};
    }
    for (int i = 0; i < have; i++) top[i].logprob -= lse;
    return have;
}

static int heavier(const float *weight, int32_t a, int32_t b) {
    if (weight[a] != weight[b]) return weight[a] > weight[b] ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* Heap sort of ids by (weight descending, id ascending): in place, no library state, worst case n log n. */
static void sort_ids(int32_t *ids, int n, const float *weight) {
    for (int end = n, start = n / 2; end > 1;) {
        int32_t moved;
        int hole;
        if (start > 0) {
            hole = --start;
            moved = ids[hole];
        } else {
            moved = ids[--end];
            ids[end] = ids[0];
            hole = 0;
        }
        for (int child; (child = 2 * hole + 1) < end; hole = child) {
            if (child + 1 < end && heavier(weight, ids[child], ids[child + 1]) < 0) child++;
            if (heavier(weight, moved, ids[child]) >= 0) break;
            ids[hole] = ids[child];
        }
        ids[hole] = moved;
    }
}

static int bucket_of(float nats_below) { /* NaN goes to the last */
    float b = nats_below * BUCKETS_PER_NAT;
    return b < BUCKETS - 1 ? (int)b : BUCKETS - 1;
}

static bool has_top_k(const struct sampler *s, const struct sampling *how) { return how->top_k > 0 && how->top_k < s->vocab; }
static bool has_top_p(const struct sampling *how) { return how->top_p > 0 && how->top_p < 1; }

/* Collects into s->order the ids that can survive top-k and top-p, by falling weight, and returns their number; without either
 * all ids survive and stay in id order. *total = weight of the whole vocabulary. */
static int candidates(struct sampler *s, const float *logits, float max, const struct sampling *how, double *total) {
    double mass[BUCKETS] = {0};
    int count[BUCKETS] = {0}, limit = BUCKETS - 1, n = 0, top_k = has_top_k(s, how) ? how->top_k : s->vocab;
    float inverse = 1.0f / how->temperature;
    *total = 0;
    for (int32_t id = 0; id < s->vocab; id++) {
        float below = (max - logits[id]) * inverse;
        int b = bucket_of(below);
        s->weight[id] = expf(-below);
        mass[b] += (double)s->weight[id];
        count[b]++;
    }
    for (int b = 0; b < BUCKETS; b++) *total += mass[b];
    bool sorted = has_top_k(s, how) || has_top_p(how);
    double need = has_top_p(how) ? (double)how->top_p * *total : INFINITY, reached = 0;
    for (int b = 0, ids = 0; sorted && b < BUCKETS; b++) {
        reached += mass[b];
        ids += count[b];
        if (ids >= top_k || reached > need) {
            limit = b;
            break;
        }
    }
    for (int32_t id = 0; id < s->vocab; id++)
        if (bucket_of((max - logits[id]) * inverse) <= limit) s->order[n++] = id;
    if (sorted) sort_ids(s->order, n, s->weight);
    return n < top_k ? n : top_k;
}

static int cut_top_p(const struct sampler *s, int n, double need) {
    double mass = 0;
    int keep = 0;
    while (keep < n && mass < need) mass += (double)s->weight[s->order[keep++]];
    return keep ? keep : 1;
}

/* The best token's weight is 1; it stays too when a broken model's logits leave nothing to compare. */
static int cut_min_p(struct sampler *s, int n, float floor) {
    int keep = 0;
    for (int i = 0; i < n; i++)
        if (s->weight[s->order[i]] >= floor) s->order[keep++] = s->order[i];
    return keep ? keep : 1;
}

static double sum_weights(const struct sampler *s, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)s->weight[s->order[i]];
    return sum;
}

static int32_t draw(struct sampler *s, const float *logits, float max, const struct sampling *how, int position) {
    double total, mass = 0;
    int n = candidates(s, logits, max, how, &total);
    if (has_top_k(s, how)) total = sum_weights(s, n); /* the mass top-p speaks of is what top-k left */
    if (has_top_p(how)) n = cut_top_p(s, n, (double)how->top_p * total);
    if (how->min_p > 0) n = cut_min_p(s, n, how->min_p);
    double target = sampler_uniform(how->seed, (uint64_t)position) * sum_weights(s, n);
    for (int i = 0; i < n; i++) {
        mass += (double)s->weight[s->order[i]];
        if (mass > target) return s->order[i];
    }
    return s->order[n - 1];
}

void sampler_pick(struct sampler *s, const float *logits, const struct logit_stats *stats, const struct sampling *how,
                  int position, struct seq_out *out) {
    out->token = how->temperature > COLDEST ? draw(s, logits, stats->max, how, position) : stats->argmax;
    out->logprob = logits[out->token] - stats->lse;
    out->n_top = how->logprobs > 1 ? top_logits(logits, s->vocab, stats->lse, how->logprobs - 1, out->top) : 0;
}
