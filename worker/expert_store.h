/* expert_store.h - the routed experts a worker holds: one blob per slot.
 *
 * A blob is contiguous and self-describing: header (layer, id, format, layout, shapes, content version, checksum), then gate,
 * up, down in the layout the kernel reads. It is the unit of loading, verifying and, later, moving and quantising.
 * Slots of all layers are one allocation of equal strides. Owner: the engine thread. */
#pragma once
#include <stdatomic.h>

#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "router/placement.h"

enum { BLOB_MAGIC = 0x42584443 /* "CDXB" */, BLOB_VERSION = 1, BLOB_LAYOUT_ROWS = 1 /* row-major [out, in] */ };

struct blob_header { /* 128 bytes; little endian */
    uint32_t magic, version;
    uint32_t layer, expert;  /* layer in the model */
    uint32_t format, layout; /* enum fmt, BLOB_LAYOUT_* */
    uint32_t hidden, inner;  /* H, I */
    uint64_t content_version;
    uint64_t payload_bytes;           /* what follows the header */
    uint64_t gate_at, up_at, down_at; /* offsets from the header's start */
    uint64_t checksum;                /* XXH3-64 of the payload */
    uint8_t reserved[48];
};

struct expert_slot {
    struct blob_header header; /* host copy */
    struct ffn ffn;            /* into the blob */
    uint64_t rows;             /* token rows executed, ever: counted where they run */
};

struct expert_store {
    struct backend *backend;
    int layers;                /* MoE layers */
    int *first;                /* [layers + 1] first slot of each layer */
    struct expert_slot *slots; /* [first[layers]] */
    void *memory;              /* device: all blobs */
    size_t stride, bytes;
};

/* Loads this worker's experts as the placement says. progress counts bytes as they arrive (atomic: others read it). */
int expert_store_open(struct expert_store *s, struct backend *b, const struct checkpoint *c, enum fmt fmt,
                      const struct placement *p, int worker, atomic_ullong *progress, struct why *why);
void expert_store_close(struct expert_store *s);
size_t blob_bytes(const struct model_config *c, enum fmt fmt); /* header and payload of one expert, rounded to 64 */
/* Recomputes a slot's checksum from device memory. 0 or ERR_CORRUPT naming layer and expert. */
int expert_store_verify(const struct expert_store *s, int slot, struct why *why);
static inline struct expert_slot *expert_slots(struct expert_store *s, int layer) { return s->slots + s->first[layer]; }
