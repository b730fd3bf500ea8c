/* kv.h - this worker's KV cache: pages of page_tokens tokens, one region per layer. Which page belongs to which sequence is the
 * coordinator's decision (plans); here is only the memory. Owner: the engine thread. */
#pragma once
#include "kernels/kernels.h"
#include "model/config.h"
#include "worker/route_state.h"

struct kv {
    struct backend *backend;
    struct kv_layer *layer; /* [L] */
    int layers, pages;
    struct route_state route; /* beside the pages */
    size_t bytes;             /* of both */
};

/* fmt: what fmt_kv takes. */
int kv_open(struct kv *kv, struct backend *b, const struct model_config *c, enum fmt fmt, int pages, int page_tokens,
            struct why *why);
void kv_close(struct kv *kv);
