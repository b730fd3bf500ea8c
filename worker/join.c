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
    if (c->gate.experts > 1) l.max_slots = c->gate.experts; /* it may be alone with them one day */
    join_hosts(s, l.host);
    return l;
}

void join_hosts(const struct worker_setup *s, uint8_t *host) {
    for (int w = 0; w < s->n_peers; w++) host[w] = (uint8_t)s->peers[w].host;
}

void join_list(const struct worker_setup *s, struct roster_member *list) {
    for (int w = 0; w < s->n_peers; w++)
        list[w] = (struct roster_member){s->peers[w].incarnation, s->peers[w].address, s->peers[w].address_bytes};
}

int join_fabric(struct fabric *f, const struct worker_setup *s, const struct ep_limits *l, struct roster *roster,
                struct probe *links, struct why *why) {
    struct roster_member list[FABRIC_MAX_RANKS] = {0};
    join_list(s, list);
    int rc = fabric_prepare(f, ep_frame_bytes(l, f->size), s->incarnation, why);
    if (rc >= 0) rc = roster_prepare(roster, f, s->epoch, list, why);
    if (rc < 0) return rc;
    bool several = false;
    for (int w = 0; w < s->n_peers; w++) several |= s->peers[w].incarnation && s->peers[w].host != s->peers[f->rank].host;
    if (several) probe_run(f, l->host, clk_now_us() + PROBE_US, links);
    return 0;
}
