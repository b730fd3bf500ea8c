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

/* The format of KV where weights are held as `weights`: the same, for FMT_STORED that of the
 * checkpoint's unquantised tensors, beside quantised weights bf16. */
enum fmt kv_format(const struct model_config *c, enum fmt weights);
/* fmt: of the weights. */
int kv_open(struct kv *kv, struct backend *b, const struct model_config *c, enum fmt fmt, int pages, int page_tokens,
            struct why *why);
void kv_close(struct kv *kv);
