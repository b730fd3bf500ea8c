/* expert_list.h - which blobs of experts a worker has by a placement, in the order of its slots. Pure; any thread. */
#pragma once
#include "model/blob.h"
#include "router/placement.h"

struct expert_ref { /* one blob of a worker */
    enum blob_kind kind;
    int moe_layer, layer;
    int expert, slot; /* the level and -1 for a common blob */
};
/* The experts of a worker in a MoE layer, by slot; [*n], borrowed from the placement. */
const int16_t *expert_list_of(const struct placement *p, int worker, int moe_layer, int *n);
/* Calls with every blob of a worker: per layer the levels that have a member here, then the experts, by slot. */
void expert_list_each(const struct model_config *c, const struct placement *p, int worker,
                      void (*fn)(void *ctx, const struct expert_ref *ref), void *ctx);

struct expert_sizes {
    size_t bytes, common_bytes; /* of all; of the common ones among them */
};
struct expert_sizes expert_list_sizes(const struct model_config *c, enum fmt fmt, const struct placement *p, int worker);
