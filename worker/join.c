/* join.c - see join.h. */
#include "worker/join.h"

#include "base/clk.h"
#include "worker/expert_run.h"

struct ep_limits join_limits(const struct worker_setup *s, const struct model_config *c) {
    struct ep_limits l = {.max_tokens = s->step_tokens,
                          .max_slots = 1,
                          .hidden = c->hidden,
                          .topk = c->gate.k,
                          .extra = expert_extras(c).extra,
                          .dispatch = s->payload,
                          .combine = s->combine_payload,
                          .fused = s->fused};
    for (int w = 0; w < s->placement.workers; w++)
        for (int layer = 0; layer < s->placement.layers; layer++) {
            int slots = placement_slots(&s->placement, w, layer);
            if (slots > l.max_slots) l.max_slots = slots;
        }
    for (int w = 0; w < s->n_peers; w++) l.host[w] = (uint8_t)s->peers[w].host;
    return l;
}

int join_fabric(struct fabric *f, const struct worker_setup *s, const struct ep_limits *l, struct probe *links,
                struct why *why) {
    int rc = fabric_prepare(f, ep_frame_bytes(l, f->size), s->incarnation, why);
    bool several = false;
    for (int w = 0; rc >= 0 && w < s->n_peers; w++) {
        several |= s->peers[w].host != s->peers[0].host;
        if (w == f->rank) continue;
        rc = fabric_attach(f, w, s->peers[w].incarnation, s->peers[w].address, s->peers[w].address_bytes, why);
        if (rc < 0) fail_in(why, rc, "worker %d", w);
    }
    if (rc >= 0 && several) probe_run(f, l->host, clk_now_us() + PROBE_US, links);
    return rc;
}
