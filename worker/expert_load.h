/* expert_load.h - brings blobs into a store's tables, each from the first source that has it (source.h). First all are planned,
 * so that memory for those that are not mapped is one piece; then they are loaded in that order. Owner: the engine thread. */
#pragma once
#include "worker/expert_list.h"
#include "worker/expert_store.h"

struct expert_loader {
    struct expert_store *s;
    const struct checkpoint *c;
    struct blob_sources *from;
    enum fmt fmt;
    unsigned char *staging, *next; /* host, of the largest blob; device, where the next blob goes */
    struct load *load;
    const struct blob_header **mapped; /* of what is to be loaded, in order: the pack's blob, or NULL */
    int n_mapped, next_mapped;
    size_t bytes, own, largest; /* to load; of these not mapped; the largest of those */
    int rc; /* ERR_CORRUPT, ERR_CANCELLED: nothing more is planned or loaded */
    struct why why;
};
/* How many blobs a worker may have to load, at most: [that many] is `mapped`. */
size_t expert_load_most(const struct expert_store *s);
/* Before it is loaded: where it is, and what it takes. Of the pack the sum is checked here. */
void expert_load_plan(struct expert_loader *ld, const struct expert_ref *ref);
/* Into its slot, or its place among the common ones, whose layer comes before its experts. */
void expert_load_one(struct expert_loader *ld, const struct expert_ref *ref);
