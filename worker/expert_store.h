/* expert_store.h - the routed experts a worker holds: one blob per slot, and the common blobs of what they share.
 *
 * Blobs are pages of the pack, or else in one allocation: a common blob for each level of each layer that has a member here,
 * then the experts' own.
 * An expert is computed as common rows, then its own added to them (moe.c). Owner: the engine thread. */
#pragma once
#include <pthread.h>

#include "model/checkpoint.h"
#include "router/placement.h"
#include "worker/load.h"
#include "worker/source.h"

struct blob {                  /* resident */
    struct blob_header header; /* host copy */
    unsigned char *data;       /* device: header and payload; NULL: not here */
    bool mapped;               /* it is the pack's, used where it is */
};
struct expert_common {
    struct blob blob;
    struct ffn ffn; /* into it */
};
struct expert_slot {
    struct blob blob;
    struct ffn ffn;           /* the expert's own rows, as in its blob */
    const struct ffn *common; /* rows that it shares with its level; NULL: none */
    const float *conf;        /* [H] of its confidence head, device; NULL: none */
    uint64_t rows;            /* token rows executed, ever: counted where they run */
};

struct expert_chunk {
    struct expert_chunk *next;
    unsigned char *memory; /* device */
    size_t bytes;
};

struct expert_store {
    struct backend *backend;
    int layers, levels;           /* MoE layers; levels of experts in each */
    int *first;                   /* [layers + 1] first slot of each layer */
    struct expert_slot *slots;    /* [first[layers]] */
    struct expert_common *common; /* [layers, levels] */
    void *memory;                 /* device: the blobs that were loaded first */
    struct expert_chunk *chunks;  /* those that came later, one for each change that brought some */
    size_t bytes, common_bytes;   /* all blobs in use; the common ones among them */
    pthread_mutex_t *lock;        /* held while tables change, for who looks from another thread (mover.h); NULL: nobody does */
    size_t mapped;                /* of bytes: in the pack's file, whose pages the workers of a host share */
    size_t held;                  /* memory and chunks, with room in them that no blob uses any more */
};

/* Loads this worker's experts as the placement says: mapped where there is a pack (its sums are checked), else from the other
 * sources (NULL: there are none), else from the checkpoint. ERR_CORRUPT: a pack's blob is, and nobody else has it.
 * ERR_CANCELLED: it was stopped. */
int expert_store_open(struct expert_store *s, struct backend *b, const struct checkpoint *c, struct blob_sources *from,
                      enum fmt fmt, const struct placement *p, int worker, struct load *load, struct why *why);
void expert_store_close(struct expert_store *s);
/* What expert_store_open will take: every blob of a worker, before anything is loaded. */
size_t expert_store_bytes(const struct model_config *c, enum fmt fmt, const struct placement *p, int worker);
/* Recomputes checksums from device memory: of a slot and of what it shares. 0 or ERR_CORRUPT naming layer and expert. */
int expert_store_verify(const struct expert_store *s, int slot, struct why *why);
/* The blob of a layer of the model and an expert, or a level; NULL: not here. From another thread with the lock held. */
const struct blob *expert_store_find(const struct expert_store *s, enum blob_kind kind, uint32_t layer, uint32_t expert);
static inline struct expert_slot *expert_slots(struct expert_store *s, int layer) { return s->slots + s->first[layer]; }

/* ---- expert_change.c ---- */

/* From placement `was`, which it has, to `now`: blobs that are in both stay where they are, the others are loaded, and memory
 * in which no blob is used any more is given back (that of the start never is). Slots are numbered anew; counts stay with
 * their experts. load: begins anew, with what is loaded now. On failure it is as before. ERR_NOMEM, and as above */
int expert_store_change(struct expert_store *s, const struct checkpoint *c, struct blob_sources *from, enum fmt fmt,
                        const struct placement *was, const struct placement *now, int worker, struct load *load,
                        struct why *why);
/* What both sides of it need: gives a chunk of the list back; frees slots, common and first. */
void expert_store_drop_chunk(struct expert_store *s, struct expert_chunk **at);
void expert_store_free_tables(struct expert_store *s);
