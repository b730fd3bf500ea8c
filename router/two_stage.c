/* two_stage.c - softmax over globals, softmax over each chosen one's domains, best locals of each chosen domain. */
#include "router/two_stage.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "router/softmax.h"

enum { MOST = 64 }; /* entries of any list here: config_router bounds the pairs of a token by it */

struct best { /* the largest values so far, largest first, equal ones by lower id */
    int32_t id[MOST];
    float key[MOST], weight[MOST];
    int n, most;
};

static void consider(struct best *b, int id, float key, float weight) {
    if (isnan(key)) key = -INFINITY;
    if (b->n == b->most && (!b->n || !(key > b->key[b->n - 1]))) return;
    int i = b->n < b->most ? b->n++ : b->most - 1;
    for (; i > 0 && key > b->key[i - 1]; i--) {
        b->id[i] = b->id[i - 1];
        b->key[i] = b->key[i - 1];
        b->weight[i] = b->weight[i - 1];
    }
    b->id[i] = id;
    b->key[i] = key;
    b->weight[i] = weight;
}

static void pick_globals(const struct two_stage_rule *r, struct best *out, const float *zg, const float *bias) {
    double lse = log_sum_exp(zg, r->globals);
    for (int g = 0; g < r->globals; g++) {
        float p = expf(log_probability(zg[g], lse, r->globals));
        consider(out, g, bias ? p + bias[g] : p, p);
    }
}

/* Masses are kept as multiples of the largest chosen p, so that a bias which chooses globals whose p is 0 in f32 leaves
 * something to divide by: the domains of the likeliest global always have mass 1 together. */
static float likeliest(const struct two_stage_rule *r, const struct best *globals, const float *zg, double lse) {
    float most = -INFINITY;
    for (int i = 0; i < globals->n; i++) most = fmaxf(most, log_probability(zg[globals->id[i]], lse, r->globals));
    return most;
}

/* Domains of a lower global come first whatever the order in which globals were chosen, so that ties go to the lower id. */
static void pick_domains(const struct two_stage_rule *r, struct best *out, const struct best *globals, const float *zg,
                         const float *zd) {
    const int each = r->domains / r->globals;
    const double lse_g = log_sum_exp(zg, r->globals);
    const float most = likeliest(r, globals, zg, lse_g);
    for (int g = 0; g < r->globals; g++)
        for (int i = 0; i < globals->n; i++) {
            if (globals->id[i] != g) continue;
            const float *z = zd + g * each, log_p = log_probability(zg[g], lse_g, r->globals);
            const float times = log_p == most ? 1 : expf(log_p - most);
            double lse = log_sum_exp(z, each);
            for (int d = 0; d < each; d++) {
                float q = z[d] == -INFINITY ? 0 : expf(log_probability(z[d], lse, each));
                consider(out, g * each + d, times * q, r->product ? globals->weight[i] * q : times * q);
            }
        }
}

static int add_locals(const struct two_stage_rule *r, int domain, float omega, const float *zl, int32_t *ids, float *weights) {
    const int each = r->locals / r->domains, first = domain * each;
    struct best locals = {.most = r->k_local};
    if (!r->k_local) return 0;
    for (int f = first; f < first + each; f++) consider(&locals, f, zl[f], isnan(zl[f]) ? 0 : 1 / (1 + expf(-zl[f])));
    for (int j = 0; j < locals.n; j++) {
        ids[j] = r->globals + r->domains + locals.id[j];
        weights[j] = omega * locals.weight[j];
    }
    return locals.n;
}

int two_stage_pick(const struct two_stage_rule *r, int global_topk, int k, const float *zg, const float *bias, const float *zd,
                   const float *zl, int32_t *ids, float *weights) {
    struct best globals = {.most = global_topk}, domains = {.most = k};
    int n = 0;
    pick_globals(r, &globals, zg, bias);
    pick_domains(r, &domains, &globals, zg, zd);
    float sum = 0;
    for (int j = 0; j < domains.n; j++) sum += domains.weight[j];
    for (int j = 0; j < globals.n; j++, n++) {
        ids[n] = globals.id[j];
        weights[n] = globals.weight[j];
    }
    for (int j = 0; j < domains.n; j++) {
        float omega = r->product || !(sum > 0) ? domains.weight[j] : domains.weight[j] / sum;
        ids[n] = r->globals + domains.id[j];
        weights[n++] = omega;
        n += add_locals(r, domains.id[j], omega, zl, ids + n, weights + n);
    }
    return n;
}
