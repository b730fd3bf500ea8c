/* placement.c - builds the two sides of the map (expert -> replicas, worker -> slots) and picks replicas.
 *
 * Both sides are flat arrays with an index of firsts, built once from the hosts of each (layer, expert) and never changed: a
 * new placement is a new struct with a higher version. Slots of a worker are numbered by ascending expert, so the map follows
 * from the hosts alone and every process that knows the hosts builds the same one.
 * A replica is picked by a hash of what identifies the token and the expert, never by arrival or load of the moment: every
 * worker, and every repetition of a step after a failure, gives the same answer. */
#include "router/placement.h"

#include <stdlib.h>

#include "base/hash.h"
#include "base/log.h"

enum { MAX_WORKERS = 64, MAX_LAYERS = 4096, MAX_EXPERTS = 16384 };

static int check_sizes(int workers, int layers, int experts, struct why *why) {
    if (workers < 1 || workers > MAX_WORKERS)
        return fail(why, ERR_INVALID, "placement: %d workers, expected 1..%d", workers, MAX_WORKERS);
    if (layers < 0 || layers > MAX_LAYERS)
        return fail(why, ERR_INVALID, "placement: %d MoE layers, expected 0..%d", layers, MAX_LAYERS);
    if (experts < (layers > 0) || experts > MAX_EXPERTS) /* a dense model has no layers of experts, and no experts */
        return fail(why, ERR_INVALID, "placement: %d experts, expected %d..%d", experts, layers > 0, MAX_EXPERTS);
    return 0;
}

static int count_replicas(const uint64_t *hosts, int workers, int layers, int experts, int *missing, struct why *why) {
    uint64_t known = workers == 64 ? UINT64_MAX : (UINT64_C(1) << workers) - 1;
    int64_t total = 0;
    for (int layer = 0; layer < layers; layer++) {
        for (int e = 0; e < experts; e++) {
            uint64_t h = hosts[(size_t)layer * (size_t)experts + (size_t)e];
            *missing += !h;
            if (h & ~known)
                return fail(why, ERR_INVALID,
                            "placement: expert %d of MoE layer %d is on worker %d, but there are workers 0..%d", e, layer,
                            63 - __builtin_clzll(h & ~known), workers - 1);
            total += __builtin_popcountll(h);
        }
    }
    if (total > INT32_MAX) return fail(why, ERR_TOO_LARGE, "placement: %lld replicas", (long long)total);
    return (int)total;
}

/* Fills every array of p, whose sizes are set and whose arrays are allocated. */
static void build(struct placement *p, const uint64_t *hosts) {
    int32_t replicas = 0;
    for (int i = 0; i < p->layers * p->experts; i++) {
        p->first[i] = replicas;
        float share = 1.0f / (float)__builtin_popcountll(hosts[i]);
        for (uint64_t h = hosts[i]; h; h &= h - 1)
            p->list[replicas++] = (struct replica){.worker = (int16_t)__builtin_ctzll(h), .share = share};
    }
    p->first[p->layers * p->experts] = replicas;

    int32_t slots = 0;
    for (int w = 0; w < p->workers; w++) {
        for (int layer = 0; layer < p->layers; layer++) {
            p->slot_first[w * p->layers + layer] = slots;
            int16_t slot = 0;
            for (int e = 0; e < p->experts; e++) {
                int i = layer * p->experts + e;
                if (!(hosts[i] >> w & 1)) continue;
                int nth = __builtin_popcountll(hosts[i] & ((UINT64_C(1) << w) - 1)); /* replicas ascend by worker */
                p->list[p->first[i] + nth].slot = slot++;
                p->slot_expert[slots++] = (int16_t)e;
            }
        }
    }
    p->slot_first[p->workers * p->layers] = slots;
}

int placement_from_hosts(struct placement *p, int workers, int layers, int experts, const uint64_t *hosts, struct why *why) {
    int rc = check_sizes(workers, layers, experts, why);
    for (int i = 0; rc >= 0 && i < layers * experts; i++)
        if (!hosts[i])
            return fail(why, ERR_INVALID, "placement: expert %d of MoE layer %d is on no worker; give it at least one",
                        i % experts, i / experts);
    return rc < 0 ? rc : placement_partial(p, workers, layers, experts, hosts, why);
}

int placement_partial(struct placement *p, int workers, int layers, int experts, const uint64_t *hosts, struct why *why) {
    int missing = 0, rc = check_sizes(workers, layers, experts, why);
    if (rc < 0) return rc;
    int replicas = count_replicas(hosts, workers, layers, experts, &missing, why);
    if (replicas < 0) return replicas;

    size_t n = (size_t)replicas + 1; /* never zero elements */
    struct placement made = {.version = 1,
                             .workers = workers,
                             .layers = layers,
                             .experts = experts,
                             .missing = missing,
                             .first = calloc((size_t)layers * (size_t)experts + 1, sizeof *made.first),
                             .list = calloc(n, sizeof *made.list),
                             .slot_first = calloc((size_t)workers * (size_t)layers + 1, sizeof *made.slot_first),
                             .slot_expert = calloc(n, sizeof *made.slot_expert)};
    if (!made.first || !made.list || !made.slot_first || !made.slot_expert) {
        placement_clear(&made);
        return fail(why, ERR_NOMEM, "placement: out of memory for %d replicas", replicas);
    }
    build(&made, hosts);
    *p = made;
    return 0;
}

int placement_contiguous(struct placement *p, int workers, int layers, int experts, struct why *why) {
    int rc = check_sizes(workers, layers, experts, why);
    if (rc < 0) return rc;
    uint64_t *hosts = calloc((size_t)layers * (size_t)experts + 1, sizeof *hosts);
    if (!hosts) return fail(why, ERR_NOMEM, "placement: out of memory for %d x %d experts", layers, experts);
    for (int layer = 0; layer < layers; layer++)
        for (int e = 0; e < experts; e++)
            hosts[(size_t)layer * (size_t)experts + (size_t)e] = UINT64_C(1) << ((int64_t)e * workers / experts);
    rc = placement_from_hosts(p, workers, layers, experts, hosts, why);
    free(hosts);
    return rc;
}

void placement_clear(struct placement *p) {
    free(p->first);
    free(p->list);
    free(p->slot_first);
    free(p->slot_expert);
    *p = (struct placement){0};
}

/* A point in [0,1) that follows from the token and the expert; walking the shares until it is covered gives each replica its
 * fraction of tokens. Different layers and experts hash apart, so a token does not favour one worker everywhere. */
static float pick_point(int layer, int expert, uint64_t seq_id, int32_t position) {
    uint64_t h = hash_u64(seq_id + 0x9e3779b97f4a7c15u);
    h = hash_u64(h ^ ((uint64_t)(uint32_t)position << 32 | (uint32_t)layer << 16 | (uint32_t)expert));
    return (float)(h >> 40) * 0x1p-24f;
}

const struct replica *placement_pick(const struct placement *p, int layer, int expert, uint64_t seq_id, int32_t position) {
    size_t i = (size_t)layer * (size_t)p->experts + (size_t)expert;
    if (placement_misses(p, layer, expert)) BUG("placement: expert %d of MoE layer %d has no replica", expert, layer);
    const struct replica *r = &p->list[p->first[i]], *last = &p->list[p->first[i + 1]] - 1;
    if (r == last) return r;
    float point = pick_point(layer, expert, seq_id, position);
    for (; r < last; r++) { /* rounding of the sum may leave a sliver at the end: it is the last one's */
        if (point < r->share) return r;
        point -= r->share;
    }
    return last;
}

int placement_slots(const struct placement *p, int worker, int layer) {
    const int32_t *f = &p->slot_first[worker * p->layers + layer];
    return f[1] - f[0];
}
