/* placement.h - the map logical expert -> slots, and which replica a token takes. Pure: no I/O, no clock, no log.
 *
 * A slot is room for one expert of one layer on one worker, numbered 0.. per (worker, layer). Every logical expert has at
 * least one replica, unless it is missing (placement_partial); a worker holds at most one replica of it. Plans name the
 * placement by its version.
 * Results never depend on the placement (design promise 1): it decides only where rows are computed. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct replica {
    int16_t worker;
    int16_t slot; /* slot on that worker, in this layer */
    float share;  /* fraction of the expert's tokens it takes; shares of an expert sum to 1 */
};

struct placement {
    uint32_t version;
    int workers, layers, experts; /* R, number of MoE layers, E. Layers count MoE layers only, in model order */
    int missing;                  /* (layer, expert) pairs without a replica */
    /* replicas of (layer, e) = list[first[layer*E + e] .. first[layer*E + e + 1]) by ascending worker */
    int32_t *first; /* [layers*E + 1] */
    struct replica *list;
    /* slots of (worker, layer) = slot_expert[slot_first[w*layers + layer] ..): the expert in each, ascending */
    int32_t *slot_first; /* [R*layers + 1] */
    int16_t *slot_expert;
};

/* Contiguous: expert e of each layer lives on worker e * R / E (all workers differ by at most one expert). */
int placement_contiguous(struct placement *p, int workers, int layers, int experts, struct why *why);
/* From explicit lists: hosts[layer*E + e] is a bit mask of the workers that hold a replica (R <= 64), shares even. Refuses
 * an expert without a host, naming it. */
int placement_from_hosts(struct placement *p, int workers, int layers, int experts, const uint64_t *hosts, struct why *why);
/* The same, but an expert may have no host: it is missing, and only requests that allow it may run without it. */
int placement_partial(struct placement *p, int workers, int layers, int experts, const uint64_t *hosts, struct why *why);
void placement_clear(struct placement *p);

static inline bool placement_misses(const struct placement *p, int layer, int expert) {
    const int32_t *f = &p->first[(size_t)layer * (size_t)p->experts + (size_t)expert];
    return f[0] == f[1];
}
/* The replica that serves (layer, expert), which is not missing, for the token at `position` of sequence `seq_id`: the same
 * answer on every worker. */
const struct replica *placement_pick(const struct placement *p, int layer, int expert, uint64_t seq_id, int32_t position);
int placement_slots(const struct placement *p, int worker, int layer); /* number of slots */
