/* source.h - where a blob that is not here comes from: the pack, mapped (expert_store.c does that itself), another worker's
 * copy (peers.h), or else the checkpoint, which always has it. One that should have it and gives none, or a bad one, is said
 * and counted, and the next is asked. Owner: the engine thread. */
#pragma once
#include "model/blob.h"

enum source_kind { SOURCE_PACK, SOURCE_PEER, SOURCE_DISK, SOURCES };

struct source_count { /* of one kind, since it was emptied */
    uint64_t blobs, bytes, us;
    uint64_t failed; /* blobs that it should have had */
};
struct blob_source {
    void *ctx;
    /* The whole blob into out: its header as *want but for the checksum, which is right for what follows. ERR_NOT_FOUND: it has
     * none such, which is no failure. NULL: this source is not to be had. */
    int (*fetch)(void *ctx, const struct blob_header *want, unsigned char *out, struct why *why);
};
struct blob_sources {
    struct blob_source before_disk[SOURCE_DISK]; /* by kind, which is also their order */
    struct source_count count[SOURCES];
};
void source_count_add(struct source_count *sum, const struct source_count *one);
/* False: none of those before the disk has it. */
bool blob_sources_fetch(struct blob_sources *s, const struct blob_header *want, unsigned char *out);
/* It was there since start_us, whole. */
void blob_sources_count(struct blob_sources *s, enum source_kind k, const struct blob_header *h, int64_t start_us);
