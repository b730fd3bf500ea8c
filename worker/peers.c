/* peers.c - see peers.h. */
#include "worker/peers.h"

#include <string.h>

/* Common rows are wherever one of their level is. */
static uint64_t holders(const struct peers *p, const struct blob_header *want) {
    const struct model_config *c = p->config;
    const uint64_t *layer = p->setup->held_by + (size_t)c->moe_index[want->layer] * (size_t)c->gate.experts;
    if (want->kind == BLOB_EXPERT) return layer[want->expert];
    uint64_t mask = 0;
    for (int e = 0; e < c->gate.experts; e++)
        if (model_expert_level(c, e) == (int)want->expert) mask |= layer[e];
    return mask;
}

static bool is_near(const struct peers *p, int rank) { return p->setup->peers[rank].host == p->setup->peers[p->rank].host; }

/* Of those in mask, from `start` on, a near one if there is one. */
static int choose(const struct peers *p, uint64_t mask, int start) {
    int far = -1;
    for (int i = 0; i < p->setup->n_peers; i++) {
        int w = (start + i) % p->setup->n_peers;
        if (!(mask >> w & 1) || w == p->rank || !p->setup->peers[w].door[0]) continue;
        if (is_near(p, w)) return w;
        if (far < 0) far = w;
    }
    return far;
}

static int fetch(void *ctx, const struct blob_header *want, unsigned char *out, struct why *why) {
    struct peers *p = ctx;
    uint64_t mask = holders(p, want) & ~p->failed;
    int w, start = p->rank + (int)want->expert;
    while ((w = choose(p, mask, start)) >= 0) {
        int rc = mover_fetch(p->mover, p->setup->peers[w].door, want, out, why);
        if (rc >= 0) return rc;
        mask &= ~(UINT64_C(1) << w);
        if (rc == ERR_NOT_FOUND) continue; /* not any more */
        p->failed |= UINT64_C(1) << w;
        return fail_in(why, rc, "worker %d", w);
    }
    return ERR_NOT_FOUND;
}

struct blob_source peers_source(struct peers *p) {
    if (!p->mover || !p->setup->held_by || !p->setup->n_peers) return (struct blob_source){0};
    return (struct blob_source){.ctx = p, .fetch = fetch};
}
