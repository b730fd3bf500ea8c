/* route_state.h - what routers remember along a sequence, beside its KV pages: some floats per MoE layer and position.
 *
 * Written once at (sequence, position) and never changed, so that pages can be shared, and a position run again finds and
 * leaves the same bits. Nothing is here when the model's router has no history. Owner: the engine thread. */
#pragma once
#include "model/config.h"

struct route_state {
    struct backend *backend;
    float *memory;              /* [MoE layers, pages * page_tokens, floats] host-visible; NULL without */
    int floats, page_tokens;
    size_t positions, bytes;    /* pages * page_tokens */
};

int route_state_open(struct route_state *s, struct backend *b, const struct model_config *c, int pages, int page_tokens,
                     struct why *why);
void route_state_close(struct route_state *s);
/* at: page * page_tokens + offset, as in kv_store. */
static inline float *route_state_at(const struct route_state *s, int moe_layer, int32_t at) {
    return s->memory + ((size_t)moe_layer * s->positions + (size_t)at) * (size_t)s->floats;
}
