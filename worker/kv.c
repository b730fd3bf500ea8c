/* kv.c - one device allocation per layer; the layout is kernels.h's struct kv_layer. */
#include "worker/kv.h"

#include <stdlib.h>

int kv_open(struct kv *kv, struct backend *b, const struct model_config *c, enum fmt fmt, int pages, int page_tokens,
            struct why *why) {
    *kv = (struct kv){.backend = b, .layers = c->layers, .pages = pages};
    kv->layer = calloc((size_t)c->layers, sizeof *kv->layer);
    const struct kv_layer shape = {.fmt = fmt,
                                   .page_tokens = page_tokens,
                                   .heads = c->kv_heads,
                                   .head_dim = c->mla.kv_rank ? c->mla.kv_rank + c->mla.rope : c->head_dim,
                                   .latent = c->mla.kv_rank};
    size_t per_layer = (size_t)pages * kv_page_bytes(&shape);
    for (int l = 0; kv->layer && l < c->layers; l++) {
        kv->layer[l] = shape;
        kv->layer[l].base = b->ops->alloc(b, per_layer, MEM_DEVICE);
        if (!kv->layer[l].base) break;
        kv->bytes += per_layer;
    }
    if (kv->bytes == per_layer * (size_t)c->layers) {
        int rc = route_state_open(&kv->route, b, c, pages, page_tokens, why);
        kv->bytes += kv->route.bytes;
        if (rc < 0) kv_close(kv);
        return rc;
    }
    kv_close(kv);
    return fail(why, ERR_NOMEM,
                "out of memory: %d KV pages of %d tokens need %zu MiB; use a smaller --kv-tokens or --max-batch%s", pages,
                page_tokens, per_layer * (size_t)c->layers >> 20, fmt == FMT_INT8 ? "" : ", or --kv int8");
}

void kv_close(struct kv *kv) {
    for (int l = 0; kv->layer && l < kv->layers; l++) kv->backend->ops->release(kv->backend, kv->layer[l].base);
    route_state_close(&kv->route);
    free(kv->layer);
    *kv = (struct kv){0};
}
