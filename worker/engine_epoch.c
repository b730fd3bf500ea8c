/* engine_epoch.c - from one epoch to the next (coordinator/epoch.h): the engine's half of it. */
#include "worker/engine_parts.h"
#include "worker/join.h"

#include <string.h>

static int check_epoch(const struct engine *e, const struct worker_setup *s, struct why *why) {
    const struct placement *was = &e->setup.placement, *is = &s->placement;
    if (is->layers == was->layers && is->experts == was->experts && is->workers == was->workers && is->missing == was->missing)
        return 0;
    return fail(why, ERR_PROTOCOL,
                "epoch %u places %d layers of %d experts, %d missing, on %d workers; here are %d of %d, %d missing, on %d",
                s->epoch, is->layers, is->experts, is->missing, is->workers, was->layers, was->experts, was->missing,
                was->workers);
}

static int change_experts(struct engine *e, struct worker_setup *s, struct why *why) {
    engine_find_sources(e, s);
    int rc = expert_store_change(&e->store, &e->checkpoint, &e->sources, e->setup.weights, &e->setup.placement, &s->placement,
                                 e->options.rank, &e->load, why);
    e->bytes.mapped_experts = e->store.mapped;
    e->bytes.experts = e->store.held + e->store.mapped;
    st_forget(e->checkpoint.tensors);
    if (rc < 0) return rc;
    struct placement was = e->setup.placement;
    e->setup.placement = s->placement;
    s->placement = was; /* to be cleared with it */
    for (int i = 0; e->store.first && i < e->store.first[e->store.layers]; i++) e->rows_before[i] = e->store.slots[i].rows;
    return 0;
}

/* What the table holds before it is emptied: its pages stay as they are until a plan writes to them. */
static int list_held(struct engine *e) {
    int n = 0;
    for (int i = 0; i < e->seqs.max_seqs; i++) {
        const struct seq *s = &e->seqs.seqs[i];
        if (s->id && s->rows) e->held[n++] = (struct held_seq){s->id, s->rows, s->n_pages, s->pages};
    }
    return n;
}

int engine_prepare_epoch(struct engine *e, struct worker_setup *s, struct why *why) {
    if (s->epoch < atomic_load(&e->told)) return 0; /* the next one is on its way */
    int rc = check_epoch(e, s, why);
    if (rc < 0) return rc;
    e->epoch = 0;
    int held = s->rejoins ? list_held(e) : 0;
    seq_table_empty(&e->seqs);
    if (e->ep && e->options.fabric) {
        struct roster_member list[FABRIC_MAX_RANKS] = {0};
        join_list(s, list);
        rc = roster_prepare(&e->roster, e->options.fabric, s->epoch, list, why);
        if (rc < 0) return rc;
        ep_set_members(e->ep, e->roster.members);
        join_hosts(s, e->limits.host);
        ep_set_hosts(e->ep, e->limits.host);
    }
    rc = change_experts(e, s, why);
    if (rc < 0) return fail_in(why, rc, "epoch %u", s->epoch);
    e->setup.epoch = s->epoch;
    if (s->rejoins) {
        e->epoch = s->epoch;
        tally_forget(&e->tally);
    }
    struct event ev = {.kind = EVENT_PREPARED};
    ev.prepared = (struct prepared_report){.epoch = s->epoch,
                                           .bytes = e->bytes,
                                           .slots = e->store.first ? e->store.first[e->store.layers] : 0,
                                           .held = e->held,
                                           .n_held = held};
    memcpy(ev.prepared.source, e->sources.count, sizeof ev.prepared.source);
    engine_emit(e, &ev);
    return 0;
}

int engine_switch_epoch(struct engine *e, uint32_t epoch, struct why *why) {
    if (epoch < atomic_load(&e->told)) return 0;
    if (epoch != e->setup.epoch) return fail(why, ERR_PROTOCOL, "epoch %u begins, but %u was prepared", epoch, e->setup.epoch);
    e->epoch = epoch;
    split_begin(&e->forward.split, PART_SCHEDULER);
    return 0;
}
