/* source.c - see source.h. */
#include "worker/source.h"

#include "base/clk.h"
#include "base/log.h"

void blob_sources_count(struct blob_sources *s, enum source_kind k, const struct blob_header *h, int64_t start_us) {
    struct source_count *c = &s->count[k];
    c->us += (uint64_t)(clk_now_us() - start_us);
    c->blobs++;
    c->bytes += sizeof *h + h->payload_bytes;
}

void source_count_add(struct source_count *sum, const struct source_count *one) {
    sum->blobs += one->blobs;
    sum->bytes += one->bytes;
    sum->us += one->us;
    sum->failed += one->failed;
}

bool blob_sources_fetch(struct blob_sources *s, const struct blob_header *want, unsigned char *out) {
    for (int k = 0; k < SOURCE_DISK; k++) {
        const struct blob_source *from = &s->before_disk[k];
        struct why why;
        int64_t start_us = clk_now_us();
        int rc = from->fetch ? from->fetch(from->ctx, want, out, &why) : ERR_NOT_FOUND;
        if (rc >= 0) return blob_sources_count(s, (enum source_kind)k, want, start_us), true;
        if (rc == ERR_NOT_FOUND) continue;
        s->count[k].failed++;
        s->count[k].us += (uint64_t)(clk_now_us() - start_us);
        log_warn("layer %u %s %u: %s", want->layer, want->kind == BLOB_COMMON ? "common rows of level" : "expert", want->expert,
                 why.text);
    }
    return false;
}
