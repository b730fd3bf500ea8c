/* route_state.c - one allocation for all MoE layers. */
#include "worker/route_state.h"

int route_state_open(struct route_state *s, struct backend *b, const struct model_config *c, int pages, int page_tokens,
                     struct why *why) {
    *s = (struct route_state){.backend = b,
                              .floats = c->moe_layers ? router_state_floats(&c->router, gate_width(&c->gate)) : 0,
                              .page_tokens = page_tokens,
                              .positions = (size_t)pages * (size_t)page_tokens};
    s->bytes = (size_t)c->moe_layers * s->positions * (size_t)s->floats * sizeof(float);
    if (!s->bytes) return 0;
    s->memory = b->ops->alloc(b, s->bytes, MEM_HOST_VISIBLE);
    if (s->memory) return 0;
    size_t mib = s->bytes >> 20;
    *s = (struct route_state){0};
    return fail(why, ERR_NOMEM, "out of memory: the routers' history of %d pages of %d tokens needs %zu MiB", pages,
                page_tokens, mib);
}

void route_state_close(struct route_state *s) {
    if (s->memory) s->backend->ops->release(s->backend, s->memory);
    *s = (struct route_state){0};
}
