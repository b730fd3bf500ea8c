/* sampler.c - greedy, or inverse transform sampling over the surviving tokens in descending order of weight.
 *
 * Sorting a whole vocabulary per token would cost milliseconds. Weights are counted into buckets of falling log-weight, and of
 * these only one is put in order wherever a cut or the draw falls: what is before it survives as a whole. Where top-k keeps
 * few, most of the row is passed over by the maxima of its blocks, without changing a bit. Sums are f64 in a fixed order. */
#include "worker/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = WEIGH_BUCKETS, LANES = 4, BLOCK = 16, MANY = 256 };
static const float COLDEST = 1e-5f; /* below this a temperature means greedy */

int sampler_init(struct sampler *s, struct backend *b, int vocab) {
    const size_t V = ((size_t)vocab + LANES - 1) / LANES * LANES; /* whole lanes are read */
    *s = (struct sampler){.backend = b,
                          .vocab = vocab,
                          .near = malloc(sizeof *s->near * V),
                          .block = malloc(sizeof *s->block * (V / BLOCK + 1)),
                          .weight = malloc(sizeof *s->weight * V),
                          .order = malloc(sizeof *s->order * V),
                          .spare = malloc(sizeof *s->spare * V),
                          .bucket = calloc(V, sizeof *s->bucket)};
    if (s->near && s->block && s->weight && s->order && s->spare && s->bucket) return 0;
    sampler_clear(s);
    return ERR_NOMEM;
}

void sampler_clear(struct sampler *s) {
    free(s->near);
    free(s->block);
    free(s->weight);
    free(s->order);
    free(s->spare);
    free(s->bucket);
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

struct census { /* of the weights of a row, by bucket */
    double mass[BUCKETS];
    int count[BUCKETS];
};

/* Where the survivors end: those of all buckets before `bucket`, and the `keep` heaviest of it. */
struct cut {
    int bucket, keep;
};

static void weigh(struct sampler *s, const float *logits, int n, float max, float inverse) {
    s->n = n;
    s->ordered = -1;
    s->backend->ops->weigh(s->backend, s->weight, s->bucket, logits, max, inverse, n);
}

/* -inf of a block without a number. */
static void largest_of_blocks(float *out, const float *logits, int blocks) {
    for (int i = 0; i < blocks; i++, logits += BLOCK) {
        float most[LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
        for (int j = 0; j < BLOCK; j += LANES)
            for (int l = 0; l < LANES; l++) most[l] = logits[j + l] > most[l] ? logits[j + l] : most[l];
        for (int l = 1; l < LANES; l++) most[0] = most[l] > most[0] ? most[l] : most[0];
        out[i] = most[0];
    }
}

/* Weighs the blocks that have a token no bucket further than the k heaviest. k blocks with a token in the buckets up to
 * `far` are k such tokens, so all that top-k leaves is there, with all that shares a bucket with it. Whole blocks keep their
 * tokens' places among the lanes, and so the order of every sum. False: that would be most of the row. */
static bool weigh_near(struct sampler *s, const float *logits, float max, float inverse, int k) {
    const int blocks = s->vocab / BLOCK, rest = s->vocab % BLOCK;
    int count[BUCKETS] = {0}, far = 0, reached = 0, n = 0;
    if (k > blocks / 2) return false;
    largest_of_blocks(s->near, logits, blocks);
    weigh(s, s->near, blocks, max, inverse);
    for (int i = 0; i < blocks; i++) count[s->bucket[i]]++;
    while ((reached += count[far]) < k) far++;
    if (far == BUCKETS - 1 || reached > blocks / 2) return false;
    for (int i = 0; i < blocks; i++) {
        if (s->bucket[i] > far) continue;
        memcpy(s->near + (int64_t)n * BLOCK, logits + (int64_t)i * BLOCK, sizeof *logits * BLOCK);
        s->block[n++] = i;
    }
    memcpy(s->near + (int64_t)n * BLOCK, logits + (int64_t)blocks * BLOCK, sizeof *logits * (size_t)rest);
    s->block[n] = blocks;
    weigh(s, s->near, n * BLOCK + rest, max, inverse);
    return true;
}

/* Neighbours are counted apart, because an addition to a sum that was just written waits for it. */
static void count_all(const struct sampler *s, struct census *all) {
    struct census part[LANES];
    memset(part, 0, sizeof part);
    for (int id = 0; id < s->n; id++) {
        struct census *to = &part[id % LANES];
        to->mass[s->bucket[id]] += (double)s->weight[id];
        to->count[s->bucket[id]]++;
    }
    *all = part[0];
    for (int i = 1; i < LANES; i++) {
        for (int b = 0; b < BUCKETS; b++) {
            all->mass[b] += part[i].mass[b];
            all->count[b] += part[i].count[b];
        }
    }
}

static uint32_t bits_of(float weight) { /* of numbers >= 0 these have the numbers' order */
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits;
}

/* The same of many ids that come in rising order: by digits of the weight, the last first, each pass keeping the order of the
 * one before. The weights of most buckets differ in two digits. */
static void sort_many(struct sampler *s, int n) {
    enum { BITS = 11, DIGITS = 1 << BITS };
    uint32_t most = 0, least = UINT32_MAX;
    int32_t *from = s->order, *to = s->spare;
    for (int i = 0; i < n; i++) {
        const uint32_t bits = bits_of(s->weight[s->order[i]]);
        if (bits > most) most = bits;
        if (bits < least) least = bits;
    }
    for (int shift = 0; shift < 32 && (most - least) >> shift; shift += BITS) {
        int at[DIGITS + 1] = {0};
        for (int i = 0; i < n; i++) at[((most - bits_of(s->weight[from[i]])) >> shift & (DIGITS - 1)) + 1]++;
        for (int d = 1; d < DIGITS; d++) at[d] += at[d - 1];
        for (int i = 0; i < n; i++) to[at[(most - bits_of(s->weight[from[i]])) >> shift & (DIGITS - 1)]++] = from[i];
        int32_t *sorted = to;
        to = from;
        from = sorted;
    }
    if (from != s->order) memcpy(s->order, from, sizeof *from * (size_t)n);
}

/* The ids of a bucket into s->order, by falling weight. Returns how many. */
static int order_bucket(struct sampler *s, int bucket) {
    const uint64_t ones = 0x0001000100010001, tops = 0x8000800080008000;
    int n = 0;
    if (s->ordered == bucket) return s->n_ordered;
    for (int32_t at = 0; at < s->n; at += LANES) {
        uint64_t four;
        memcpy(&four, s->bucket + at, sizeof four);
        four ^= ones * (uint64_t)bucket;
        if (!((four - ones) & ~four & tops)) continue; /* none of them is 0 */
        for (int32_t id = at; id < at + LANES && id < s->n; id++)
            if (s->bucket[id] == bucket) s->order[n++] = id;
    }
    if (n < MANY) sort_ids(s->order, n, s->weight);
    else sort_many(s, n);
    s->ordered = bucket;
    s->n_ordered = n;
    return n;
}

static double sum_first(const struct sampler *s, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)s->weight[s->order[i]];
    return sum;
}

static double mass_before(const struct census *all, int bucket) {
    double sum = 0;
    for (int b = 0; b < bucket; b++) sum += all->mass[b];
    return sum;
}

static double mass_of(struct sampler *s, const struct census *all, struct cut c) {
    if (c.keep == all->count[c.bucket]) return mass_before(all, c.bucket + 1);
    order_bucket(s, c.bucket);
    return mass_before(all, c.bucket) + sum_first(s, c.keep);
}

/* Ends at a token: the last survivor, or the heaviest of all where nothing would stay. */
static struct cut at_a_token(const struct census *all, struct cut c) {
    while (!c.keep && c.bucket > 0) c = (struct cut){c.bucket - 1, all->count[c.bucket - 1]};
    if (!c.keep) c.keep = all->count[0] > 0;
    while (!c.keep) c = (struct cut){c.bucket + 1, all->count[c.bucket + 1] > 0};
    return c;
}

static struct cut cut_top_k(const struct census *all, int k) {
    int b = 0;
    for (; b < BUCKETS - 1 && all->count[b] < k; b++) k -= all->count[b];
    return (struct cut){b, k < all->count[b] ? k : all->count[b]};
}

/* As many as it takes to reach the mass, of those before c. */
static struct cut cut_top_p(struct sampler *s, const struct census *all, struct cut c, double need) {
    double mass = 0;
    int b = 0, keep = 0;
    for (; b < c.bucket && mass + all->mass[b] < need; b++) mass += all->mass[b];
    int n = order_bucket(s, b);
    if (b == c.bucket) n = c.keep;
    while (keep < n && mass < need) mass += (double)s->weight[s->order[keep++]];
    return (struct cut){b, keep};
}

static struct cut cut_min_p(struct sampler *s, struct cut c, float floor) {
    const float bucket = floor < 1 ? -logf(floor) * WEIGH_PER_NAT : 0;
    int b = bucket < (float)c.bucket ? (int)bucket : c.bucket, n = order_bucket(s, b), keep = 0;
    if (b == c.bucket) n = c.keep;
    while (keep < n && s->weight[s->order[keep]] >= floor) keep++;
    return (struct cut){b, keep};
}

/* The one whose share of the survivors' mass `target` falls into. */
static int32_t at_mass(struct sampler *s, const struct census *all, struct cut c, double target) {
    double mass = 0;
    int b = 0;
    for (; b < c.bucket && !(mass + all->mass[b] > target); b++) mass += all->mass[b];
    int n = order_bucket(s, b);
    if (b == c.bucket) n = c.keep;
    for (int i = 0; i < n - 1; i++) {
        mass += (double)s->weight[s->order[i]];
        if (mass > target) return s->order[i];
    }
    return s->order[n - 1];
}

static int32_t draw(struct sampler *s, const float *logits, float max, const struct sampling *how, int position) {
    struct census all;
    const bool top_k = how->top_k > 0 && how->top_k < s->vocab;
    const float inverse = 1.0f / how->temperature;
    const bool near = top_k && weigh_near(s, logits, max, inverse, how->top_k);
    if (!near) weigh(s, logits, s->vocab, max, inverse);
    count_all(s, &all);
    struct cut c = {BUCKETS - 1, all.count[BUCKETS - 1]};
    if (top_k) c = cut_top_k(&all, how->top_k);
    /* the mass top-p speaks of is what top-k left */
    if (how->top_p > 0 && how->top_p < 1) c = cut_top_p(s, &all, c, (double)how->top_p * mass_of(s, &all, c));
    if (how->min_p > 0) c = cut_min_p(s, c, how->min_p);
    c = at_a_token(&all, c);
    const int32_t at = at_mass(s, &all, c, sampler_uniform(how->seed, (uint64_t)position) * mass_of(s, &all, c));
    return near ? s->block[at / BLOCK] * BLOCK + at % BLOCK : at;
}

void sampler_pick(struct sampler *s, const float *logits, const struct logit_stats *stats, const struct sampling *how,
                  int position, struct seq_out *out) {
    out->token = how->temperature > COLDEST ? draw(s, logits, stats->max, how, position) : stats->argmax;
    out->logprob = logits[out->token] - stats->lse;
    out->n_top = how->logprobs > 1 ? top_logits(logits, s->vocab, stats->lse, how->logprobs - 1, out->top) : 0;
}
