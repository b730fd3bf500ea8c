/* world_worker.c - one worker: the real exchange and roster, and the little a worker does around them. */
#include <string.h>

#include "tests/sim/world.h"

void world_start(int r) {
    struct process *p = &world.p[r];
    struct why why;
    *p = (struct process){.alive = true, .life = ++world.lives, .hello_us = world.now, .beat_us = world.now};
    CHECK(fabric_mem_open(world.hub, r, &p->f, &why) == 0, "%s", why.text);
    world.fault_us[r] = 0;
}

void world_kill(int r) {
    struct process *p = &world.p[r];
    fabric_hub_kill(world.hub, r);
    if (p->x) {
        struct ep_link all = ep_links_sum(ep_counters(exchange_ep(p->x)));
        CHECK(all.frames_bad == 0, "rank %d got %d bad frames", r, (int)all.frames_bad);
        world_sum.stale += all.frames_stale;
        world_sum.duplicate += all.frames_duplicate;
    }
    exchange_free(p->x);
    fabric_close(p->f);
    *p = (struct process){.restart_us = world.now + world_range(20 * MS, 1500 * MS)};
}

static void say(int r, struct message m) {
    m.rank = r;
    m.life = world.p[r].life;
    m.incarnation = world.p[r].incarnation;
    world_put(&world.in, m);
}

static void welcome(int r, const struct message *m) {
    struct process *p = &world.p[r];
    struct why why;
    p->incarnation = m->incarnation;
    CHECK(fabric_prepare(p->f, exchange_frame_bytes(&world.shape), p->incarnation, &why) == 0, "%s", why.text);
    for (int i = 0; i < world.ranks; i++)
        if (i != r) fabric_detach(p->f, i); /* the hub joins all; here an epoch does */
    p->x = exchange_new(&world.shape, p->f, &why);
    CHECK(p->x, "%s", why.text);
}

static void prepare(int r, const struct message *m) {
    struct process *p = &world.p[r];
    struct roster_member list[MAX_RANKS] = {{0}};
    struct why why;
    uint32_t before = p->roster.prepared;
    for (int i = 0; i < world.ranks; i++)
        list[i] = (struct roster_member){m->members.incarnation[i], &m->address[i], sizeof m->address[i]};
    bool waits = p->in_step && !p->busy_until;
    int rc = roster_prepare(&p->roster, p->f, m->members.number, list, &why);
    CHECK(rc == (m->members.number > before), "%s", rc < 0 ? why.text : "an epoch of the past");
    if (rc != 1) return;
    ep_tell_epoch(exchange_ep(p->x), m->members.number);
    uint64_t late;
    if (waits) {
        rc = exchange_run(p->x, 0, &late, &why);
        CHECK(rc == ERR_EPOCH || rc >= 0, "rank %d goes on waiting in a new epoch: %s", r, status_name(rc));
    }
    p->in_step = false;
    p->plans = 0;
    p->busy_until = 0;
    say(r, (struct message){.kind = ACK, .epoch = m->members.number});
}

static void hear(int r, const struct message *m) {
    struct process *p = &world.p[r];
    switch (m->kind) {
    case WELCOME: welcome(r, m); return;
    case PREPARE: prepare(r, m); return;
    case SWITCH: roster_switch(&p->roster, m->epoch); return;
    case PLAN:
        if (m->epoch != p->roster.current) return;
        CHECK(p->plans < AHEAD, "more plans than may be out");
        p->plan[p->plans++] = *m;
        return;
    case OUT: world_kill(r); return; /* it was declared dead, and leaves */
    default: CHECK(false, "a worker was told %d", m->kind);
    }
}

static void finish_step(int r) {
    struct process *p = &world.p[r];
    say(r, (struct message){.kind = DONE, .epoch = p->roster.current, .step = p->plan[0].step});
    memmove(p->plan, p->plan + 1, sizeof p->plan[0] * (size_t)--p->plans);
    p->in_step = false;
}

static bool wait_on(int r, uint64_t late) {
    struct process *p = &world.p[r];
    uint64_t others = p->roster.members & ~(UINT64_C(1) << r);
    CHECK(late && !(late & ~others), "rank %d waits for %" PRIx64 ", its peers are %" PRIx64, r, late, others);
    if (!p->waits_us) {
        p->waits_us = p->accused_us = world.now;
        p->progress++; /* it has computed */
        p->busy_until = 0;
    }
    int64_t patience = (int64_t)p->plan[0].cost_us * 10 > PATIENCE ? (int64_t)p->plan[0].cost_us * 10 : PATIENCE;
    if (world.now - p->accused_us < patience) return false;
    p->accused_us = world.now;
    world_sum.late_waits++;
    say(r, (struct message){.kind = TROUBLE, .late = late, .step = exchange_at(p->x)});
    return false;
}

/* Runs what it can without waiting. Whether anything moved. */
static bool engine(int r) {
    struct process *p = &world.p[r];
    struct why why;
    bool moved = false;
    while (p->plans && world.now >= p->busy_until) {
        uint64_t late;
        if (!p->in_step) exchange_begin(p->x, p->roster.current, p->plan[0].step, p->roster.members);
        p->in_step = true;
        int rc = exchange_run(p->x, 0, &late, &why);
        if (rc == ERR_LATE) return wait_on(r, late) || moved;
        CHECK(rc >= 0, "rank %d, epoch %u, step %" PRIu64 ": %s: %s", r, p->roster.current, p->plan[0].step, status_name(rc),
              rc == ERR_CORRUPT ? why.text : "");
        moved = true;
        p->progress++;
        p->waits_us = 0;
        if (rc == 1) finish_step(r);
        bool slow = p->plans && p->plan[0].cost_us >= LONG_LAYER && r == (int)(p->plan[0].step % (uint64_t)world.ranks);
        if (slow && world.long_left > 0) world.long_left--, p->busy_until = world.now + LONG_LAYER;
        else p->busy_until = world_draw() % 4 ? world.now : world.now + world_range(1, 300);
    }
    return moved;
}

bool world_work(int r) {
    struct process *p = &world.p[r];
    struct message m;
    if (!p->alive) {
        if (world.now >= p->restart_us) world_start(r);
        return false;
    }
    if (p->stopped_until) {
        if (world.now < p->stopped_until) return false;
        p->stopped_until = 0;
        if (world.fault_us[r] && member_serves(&world.ms, r)) world_sum.resumed++;
        world.fault_us[r] = 0;
    }
    uint64_t life = p->life;
    while (p->alive && p->life == life && world_get(&p->in, &m))
        if (!p->hangs || m.kind == OUT) hear(r, &m);
    if (!p->alive) return true;
    if (!p->incarnation && world.now >= p->hello_us) {
        struct message hello = {.kind = HELLO};
        fabric_address(p->f, &hello.address[0]);
        say(r, hello);
        p->hello_us = world.now + 300 * MS;
    }
    if (p->incarnation && world.now >= p->beat_us) {
        say(r, (struct message){.kind = BEATS, .progress = p->progress, .busy = p->in_step});
        p->beat_us = world.now + BEAT;
    }
    if (!p->x || p->hangs) return false;
    bool moved = engine(r);
    if (p->alive && world_draw() % 2) ep_progress(exchange_ep(p->x)); /* between pieces of work, or with none to do */
    return moved;
}
