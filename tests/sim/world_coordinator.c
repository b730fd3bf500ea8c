/* world_coordinator.c - the coordinator: the real member and epoch, and what they must not decide or do too late. */
#include "tests/sim/world.h"

static void tell(int r, struct message m) {
    if (world.known[r].life == world.p[r].life) world_put(&world.p[r].in, m);
}

static void on_hello(const struct message *m) {
    struct worker_hello h = {
        .protocol = MEMBER_PROTOCOL, .rank = (uint32_t)m->rank, .size = (uint32_t)world.ranks, .pid = m->life};
    snprintf(h.host_id, sizeof h.host_id, "%d", world.shape.lim.host[m->rank]);
    struct worker_ready ready = {0};
    struct why why;
    if (world.ms.m[m->rank].state == WORKER_DEAD) member_forget(&world.ms, m->rank);
    if (member_hello(&world.ms, &h, world.now, &why) < 0)
        return; /* its predecessor is not known to be dead yet: it repeats its Hello */
    world.known[m->rank] = (struct lives){m->life, m->address[0]};
    tell(m->rank, (struct message){.kind = WELCOME, .incarnation = world.ms.m[m->rank].incarnation});
    member_welcomed(&world.ms, m->rank, world.now);
    CHECK(member_ready(&world.ms, m->rank, &ready, world.now, &why) == 0, "%s", why.text);
    world.joins = true;
}

static void plan_steps(void) {
    while (world.es.state == EPOCH_STEADY && world.es.now.members && world.planned < world.step + AHEAD - 1) {
        struct message m = {
            .kind = PLAN, .epoch = world.es.now.number, .step = ++world.planned, .cost_us = world.long_left ? LONG_LAYER : 1};
        world.done[world.planned % AHEAD] = 0;
        world.cost_us[world.planned % AHEAD] = m.cost_us;
        uint64_t dearest = 0;
        for (int i = 0; i < AHEAD; i++) dearest = world.cost_us[i] > dearest ? world.cost_us[i] : dearest;
        member_patience(&world.ms, (int64_t)dearest * 10);
        for (int r = 0; r < world.ranks; r++)
            if (world.es.now.members >> r & 1) tell(r, m), member_planned(&world.ms, r, world.now);
    }
}

bool world_troubled(void) {
    for (int r = 0; r < world.ranks; r++)
        if (world.fault_us[r] || world.p[r].hangs) return true;
    return world.blamed_links || world.long_left;
}

static void on_step_complete(void) {
    uint64_t all = (UINT64_C(1) << world.ranks) - 1;
    world.step++;
    world.complete++;
    world.first_done = true;
    world.together = world.es.now.members == all ? world.together + 1 : 0;
    if (world.switched_us && !world.faults.drop_percent) {
        int64_t took = world.now - world.switched_us, since = world.struck_us ? world.now - world.struck_us : 0;
        CHECK(took <= 100 * MS, "the first step of epoch %u took %.0f ms", world.es.now.number, (double)took / MS);
        CHECK(since <= 700 * MS, "the first step after a death took %.0f ms", (double)since / MS);
        if (took > world_sum.slowest_switch_us) world_sum.slowest_switch_us = took;
        if (since > world_sum.slowest_recovery_us) world_sum.slowest_recovery_us = since;
        world.struck_us = 0;
    }
    world.switched_us = 0;
}

static void on_done(const struct message *m) {
    if (world.es.state != EPOCH_STEADY || m->epoch != world.es.now.number) return member_seen(&world.ms, m->rank, world.now);
    member_done(&world.ms, m->rank, world.now);
    CHECK(m->step >= world.step && m->step <= world.planned, "step %" PRIu64 " is done, %" PRIu64 " is due", m->step,
          world.step);
    CHECK(!(world.done[m->step % AHEAD] >> m->rank & 1), "rank %d did step %" PRIu64 " twice", m->rank, m->step);
    world.done[m->step % AHEAD] |= UINT64_C(1) << m->rank;
    while (world.planned >= world.step && world.done[world.step % AHEAD] == world.es.now.members) on_step_complete();
}

static void on_ack(const struct message *m) {
    if (!epoch_ack(&world.es, m->rank, m->incarnation, m->epoch)) return;
    world_sum.epochs++;
    for (int r = 0; r < world.ranks; r++) {
        if (!(world.es.now.members >> r & 1)) continue;
        const struct process *p = &world.p[r];
        if (p->alive && p->incarnation == world.es.now.incarnation[r])
            CHECK(p->roster.prepared >= m->epoch && p->roster.current < m->epoch, "rank %d is in %u, prepared %u, not %u", r,
                  p->roster.current, p->roster.prepared, m->epoch);
        tell(r, (struct message){.kind = SWITCH, .epoch = m->epoch});
    }
    world.first_done = false;
    world.planned = world.step - 1; /* plans of the last epoch are void */
    world.switched_us = world_troubled() ? 0 : world.now;
}

static int accusers(int rank) {
    int n = 0;
    for (int r = 0; r < world.ranks; r++) n += r != rank && world.accuses[r] >> rank & 1;
    return n;
}

/* Of the two ends of a link that works one way the one with most accusers goes, ties by higher rank. Where several links do,
 * nobody's accusers tell of one of them alone. */
static void check_blame(int r, const char *why) {
    uint64_t others = world.blamed_links & ~(UINT64_C(1) << r);
    bool else_well = !world.faults.drop_percent && !world.long_left;
    for (int i = 0; i < world.ranks; i++) else_well = else_well && world.p[i].alive && !world.fault_us[i] && !world.p[i].hangs;
    if (!(world.blamed_links >> r & 1) || __builtin_popcountll(others) != 1 || !else_well) return;
    int other = __builtin_ctzll(others), mine = accusers(r), theirs = accusers(other);
    CHECK(mine > theirs || (mine == theirs && r > other), "%d accuse rank %d, and %d rank %d: %s", mine, r, theirs, other, why);
    world_sum.partitions++;
}

/* Was it right to declare it dead? */
static void bury(int r, const char *why) {
    bool to_blame = world.fault_us[r] || !world.p[r].alive || world.p[r].hangs || world.known[r].life != world.p[r].life ||
                    world.blamed_links >> r & 1 || world.faults.drop_percent;
    CHECK(to_blame, "a healthy worker was declared dead: %s", why);
    if (world.fault_us[r] && !world.blamed_links && !world.faults.drop_percent) {
        int64_t took = world.now - world.fault_us[r];
        CHECK(took <= LEASE, "declared dead after %.0f ms", (double)took / MS);
        if (took > world_sum.slowest_verdict_us) world_sum.slowest_verdict_us = took;
    }
    check_blame(r, why);
    for (int other = 0; other < world.ranks; other++) { /* its cut links go with it */
        if (other == r) continue;
        fabric_hub_cut(world.hub, r, other, false);
        fabric_hub_cut(world.hub, other, r, false);
    }
    if (world.blamed_links >> r & 1) world.blamed_links = 0;
    world.fault_us[r] = 0;
    world_sum.deaths++;
    world.change = true;
    tell(r, (struct message){.kind = OUT});
}

static void open_epoch(void) {
    uint64_t members = 0;
    uint32_t incarnation[EPOCH_RANKS] = {0};
    for (int r = 0; r < world.ranks; r++) {
        if (!member_serves(&world.ms, r)) continue;
        members |= UINT64_C(1) << r;
        incarnation[r] = world.ms.m[r].incarnation;
    }
    world.change = world.joins = false;
    member_anew(&world.ms, world.now);
    epoch_open(&world.es, members, incarnation, world.now);
    struct message m = {.kind = PREPARE, .members = world.es.next};
    for (int r = 0; r < world.ranks; r++) m.address[r] = world.known[r].address;
    for (int r = 0; r < world.ranks; r++)
        if (members >> r & 1) tell(r, m);
}

static void hear_worker(const struct message *m) {
    bool stranger = m->life != world.known[m->rank].life || !member_alive(&world.ms, m->rank);
    if (m->kind == HELLO) {
        on_hello(m);
        return;
    }
    if (stranger) return; /* of a process that is dead by now */
    switch (m->kind) {
    case BEATS: member_beat(&world.ms, m->rank, m->progress, m->busy, world.now); return;
    case TROUBLE: member_accuse(&world.ms, m->rank, m->late, m->step, world.now); return;
    case DONE: on_done(m); return;
    case ACK:
        member_seen(&world.ms, m->rank, world.now);
        on_ack(m);
        return;
    default: CHECK(false, "the coordinator was told %d", m->kind);
    }
}

void world_coordinate(void) {
    struct message m;
    struct why why;
    int dead;
    while (world_get(&world.in, &m)) hear_worker(&m);
    for (int r = 0; r < world.ranks; r++) world.accuses[r] = world.ms.m[r].accuses;
    while ((dead = member_tick(&world.ms, world.now, &why)) >= 0) bury(dead, why.text);
    for (uint64_t late = epoch_late(&world.es, world.now); late; late &= late - 1) {
        int r = __builtin_ctzll(late);
        member_gone(&world.ms, r, false);
        bury(r, "it did not acknowledge");
    }
    bool calm = world.es.state == EPOCH_STEADY && (world.first_done || !world.es.now.members);
    if (world.change || (world.joins && calm)) open_epoch(); /* nobody's return holds up those who go on after a death */
    plan_steps();
}
