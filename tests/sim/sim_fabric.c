/* sim_fabric.c - the exchange, the memory fabric, and the coordinator's members and epochs in one thread and virtual time,
 * by seed. Workers are the real ep and roster; the coordinator is the real member and epoch; what lies between is drawn.
 *
 * A seed draws a cluster and its troubles: frames delayed, overtaken, doubled, dropped; workers killed, stopped and continued
 * within their lease and after it, hanging for good while they beat; links cut one way; layers that take 3 s. The dead are
 * restarted and join again.
 * Checked: every row and sum is right bit for bit, none comes twice (exchange.h); whoever is declared dead is to blame, healthy
 * workers never are; verdicts fall within the lease; an epoch begins only when all its members have prepared it; survivors
 * complete a step within 100 ms of a new epoch and 700 ms of the fault; when trouble ends all are members again and go on; no
 * frame is bad, no memory and no descriptor is left. A failing seed is printed and replays.
 *
 *   sim_fabric [--seeds N] [--seed S] */
#include <dirent.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "coordinator/epoch.h"
#include "coordinator/member.h"
#include "fabric/roster.h"
#include "tests/sim/exchange.h"

enum {
    MS = 1000,
    MAX_RANKS = 5,
    LEASE = 500 * MS,
    PATIENCE = 2000 * MS,
    BEAT = 100 * MS,
    LONG_LAYER = 3000 * MS,
    TROUBLES = 6,
    TROUBLE_UNTIL = 8000 * MS, /* when the last one begins at the latest */
    DROPPING = 20000 * MS,     /* for so long after that frames are dropped, by seeds that drop any */
    QUEUE = 512,
    TELLING = 50, /* seeds that together meet everything */
    AHEAD = 2,    /* plans out at a time */
    GOAL = 20     /* steps that all complete together at the end */
};

static uint64_t seed_now;
static int64_t now;
#define CHECK(cond, ...)                                                                                                       \
    do {                                                                                                                       \
        if (!(cond)) {                                                                                                         \
            fprintf(stderr, "seed %" PRIu64 ", %.3f s, line %d: ", seed_now, (double)now / 1e6, __LINE__);                     \
            fprintf(stderr, __VA_ARGS__);                                                                                      \
            say_all();                                                                                                         \
            abort();                                                                                                           \
        }                                                                                                                      \
    } while (0)

static void say_all(void);
static int64_t virtual_now(void) { return now; }
static uint64_t rng;
static uint64_t draw(void) { return hash_u64(rng += 0x9e3779b97f4a7c15u); }
static int64_t range(int64_t lo, int64_t hi) { return lo + (int64_t)(draw() % (uint64_t)(hi - lo + 1)); }

/* ---- messages between the coordinator and workers: in order, late by up to 2 ms ---- */
enum kind { HELLO, BEATS, TROUBLE, ACK, DONE, WELCOME, PREPARE, SWITCH, PLAN, OUT };
struct message {
    enum kind kind;
    int64_t at;
    int rank;
    uint64_t life, step, late, progress, cost_us;
    uint32_t incarnation, epoch, address[MAX_RANKS];
    bool busy;
    struct epoch members;
};
struct queue {
    struct message m[QUEUE];
    int head, n;
    int64_t last;
};
static void put(struct queue *q, struct message m) {
    CHECK(q->n < QUEUE, "a queue is full");
    m.at = now + range(20, 2 * MS);
    if (m.at < q->last) m.at = q->last;
    q->last = m.at;
    q->m[(q->head + q->n++) % QUEUE] = m;
}
static bool get(struct queue *q, struct message *m) {
    if (!q->n || q->m[q->head].at > now) return false;
    *m = q->m[q->head];
    q->head = (q->head + 1) % QUEUE;
    q->n--;
    return true;
}

/* ---- the world ---- */
struct process { /* one rank */
    bool alive;
    int64_t stopped_until; /* SIGSTOP */
    bool hangs;            /* its engine, for good; it beats */
    int64_t restart_us;    /* dead: when its successor starts */
    uint64_t life;         /* number of the process, unique */
    struct fabric *f;
    struct exchange *x;
    struct roster roster;
    struct queue in;
    uint32_t incarnation; /* 0: not welcome yet */
    int64_t hello_us, beat_us;
    uint64_t progress;
    struct message plan[AHEAD];
    int plans;
    bool in_step;
    int64_t busy_until, waits_us, accused_us; /* computing; since when it waits; when it said so last */
    uint64_t layer_cost;
};
struct lives { /* what the coordinator remembers of who said Hello */
    uint64_t life;
    uint32_t address;
};
struct trouble {
    int64_t at;
    int what, rank, other;
    int64_t us;
};
enum what { KILL, STOP, CUT, LONG, HANG };

static struct world {
    int ranks;
    struct exchange_shape shape;
    struct fabric_faults faults;
    struct fabric_hub *hub;
    struct process p[MAX_RANKS];
    struct trouble trouble[TROUBLES];
    int troubles, next;
    bool quiet; /* no more trouble */
    uint64_t lives;

    /* the coordinator */
    struct members ms;
    struct epochs es;
    struct lives known[MAX_RANKS];
    struct queue in;
    bool change, joins;     /* somebody is no member any more; somebody could be one */
    uint64_t step, planned; /* first one not complete; last one planned */
    uint64_t done[AHEAD];
    uint64_t cost_us[AHEAD];     /* predicted, of the plans that are out */
    bool first_done;             /* a step of this epoch is complete */
    int64_t switched_us;         /* 0: the first step of this epoch is complete, or it began in trouble */
    uint64_t complete, together; /* steps; of these, the last ones with all ranks */

    /* what is to blame */
    int64_t fault_us[MAX_RANKS]; /* killed or stopped since; 0: not */
    uint64_t blamed_links;       /* ends of links that lose frames */
    int64_t struck_us;           /* since when one is dead or stands still, and nothing else is wrong; 0: not so */
    int long_left;               /* layers of LONG_LAYER to come */
} w;

static struct { /* over all seeds */
    uint64_t steps, epochs, deaths, resumed, late_waits, stale, duplicate;
    int64_t slowest_verdict_us, slowest_switch_us, slowest_recovery_us;
} sum;

static void say_all(void) {
    fprintf(stderr, "\nreplay: sim_fabric --seed %" PRIu64 "\nframes of 100: %d delayed, %d overtaken, %d twice, %d dropped\n",
            seed_now, w.faults.delay_percent, w.faults.reorder_percent, w.faults.duplicate_percent, w.faults.drop_percent);
    for (int i = 0; i < w.next; i++) {
        const struct trouble *t = &w.trouble[i];
        static const char *const what[] = {"kill", "stop", "cut", "long", "hang"};
        fprintf(stderr, "%.3f s: %s %d, %d, %.3f s\n", (double)t->at / 1e6, what[t->what], t->rank, t->other,
                (double)t->us / 1e6);
    }
    for (int r = 0; r < w.ranks; r++) {
        const struct process *p = &w.p[r];
        fprintf(stderr,
                "rank %d: process %" PRIu64 "%s%s, epoch %u of %u, %d plans, step %" PRIu64
                "%s, waits since %.3f; to the coordinator "
                "process %" PRIu64 ", %s, waits for %" PRIx64 "\n",
                r, p->life, p->alive ? "" : " dead", p->stopped_until ? " stopped" : "", p->roster.current, p->roster.prepared,
                p->plans, p->plan[0].step, p->in_step ? " begun" : "", (double)p->waits_us / 1e6, w.known[r].life,
                worker_state_name(w.ms.m[r].state), w.ms.m[r].accuses);
    }
}

/* ---- a worker ---- */

static void start(int r) {
    struct process *p = &w.p[r];
    struct why why;
    *p = (struct process){.alive = true, .life = ++w.lives, .hello_us = now, .beat_us = now};
    CHECK(fabric_mem_open(w.hub, r, &p->f, &why) == 0, "%s", why.text);
    w.fault_us[r] = 0;
}

static void kill_process(int r) {
    struct process *p = &w.p[r];
    fabric_hub_kill(w.hub, r);
    if (p->x) {
        struct ep_link all = ep_links_sum(ep_counters(exchange_ep(p->x)));
        CHECK(all.frames_bad == 0, "rank %d got %d bad frames", r, (int)all.frames_bad);
        sum.stale += all.frames_stale;
        sum.duplicate += all.frames_duplicate;
    }
    exchange_free(p->x);
    fabric_close(p->f);
    *p = (struct process){.restart_us = now + range(20 * MS, 1500 * MS)};
}

static void say(int r, struct message m) {
    m.rank = r;
    m.life = w.p[r].life;
    m.incarnation = w.p[r].incarnation;
    put(&w.in, m);
}

static void welcome(int r, const struct message *m) {
    struct process *p = &w.p[r];
    struct why why;
    p->incarnation = m->incarnation;
    CHECK(fabric_prepare(p->f, exchange_frame_bytes(&w.shape), p->incarnation, &why) == 0, "%s", why.text);
    for (int i = 0; i < w.ranks; i++)
        if (i != r) fabric_detach(p->f, i); /* the hub joins all; here an epoch does */
    p->x = exchange_new(&w.shape, p->f, &why);
    CHECK(p->x, "%s", why.text);
}

static void prepare(int r, const struct message *m) {
    struct process *p = &w.p[r];
    struct roster_member list[MAX_RANKS] = {{0}};
    struct why why;
    uint32_t before = p->roster.prepared;
    for (int i = 0; i < w.ranks; i++)
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
    struct process *p = &w.p[r];
    switch (m->kind) {
    case WELCOME: welcome(r, m); return;
    case PREPARE: prepare(r, m); return;
    case SWITCH: roster_switch(&p->roster, m->epoch); return;
    case PLAN:
        if (m->epoch != p->roster.current) return;
        CHECK(p->plans < AHEAD, "more plans than may be out");
        p->plan[p->plans++] = *m;
        return;
    case OUT: kill_process(r); return; /* it was declared dead, and leaves */
    default: CHECK(false, "a worker was told %d", m->kind);
    }
}

static void finish_step(int r) {
    struct process *p = &w.p[r];
    say(r, (struct message){.kind = DONE, .epoch = p->roster.current, .step = p->plan[0].step});
    memmove(p->plan, p->plan + 1, sizeof p->plan[0] * (size_t)--p->plans);
    p->in_step = false;
}

static bool wait_on(int r, uint64_t late) {
    struct process *p = &w.p[r];
    uint64_t others = p->roster.members & ~(UINT64_C(1) << r);
    CHECK(late && !(late & ~others), "rank %d waits for %" PRIx64 ", its peers are %" PRIx64, r, late, others);
    if (!p->waits_us) p->waits_us = p->accused_us = now;
    int64_t patience = (int64_t)p->plan[0].cost_us * 10 > PATIENCE ? (int64_t)p->plan[0].cost_us * 10 : PATIENCE;
    if (now - p->accused_us < patience) return false;
    p->accused_us = now;
    sum.late_waits++;
    say(r, (struct message){.kind = TROUBLE, .late = late, .step = exchange_at(p->x)});
    return false;
}

/* Runs what it can without waiting. Whether anything moved. */
static bool engine(int r) {
    struct process *p = &w.p[r];
    struct why why;
    bool moved = false;
    while (p->plans && now >= p->busy_until) {
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
        bool slow = p->plans && p->plan[0].cost_us >= LONG_LAYER && r == (int)(p->plan[0].step % (uint64_t)w.ranks);
        if (slow && w.long_left > 0) w.long_left--, p->busy_until = now + LONG_LAYER;
        else p->busy_until = draw() % 4 ? now : now + range(1, 300);
    }
    return moved;
}

static bool run_process(int r) {
    struct process *p = &w.p[r];
    struct message m;
    if (!p->alive) {
        if (now >= p->restart_us) start(r);
        return false;
    }
    if (p->stopped_until) {
        if (now < p->stopped_until) return false;
        p->stopped_until = 0;
        if (w.fault_us[r] && member_serves(&w.ms, r)) sum.resumed++;
        w.fault_us[r] = 0;
    }
    uint64_t life = p->life;
    while (p->alive && p->life == life && get(&p->in, &m))
        if (!p->hangs || m.kind == OUT) hear(r, &m);
    if (!p->alive) return true;
    if (!p->incarnation && now >= p->hello_us) {
        struct message hello = {.kind = HELLO};
        fabric_address(p->f, &hello.address[0]);
        say(r, hello);
        p->hello_us = now + 300 * MS;
    }
    if (p->incarnation && now >= p->beat_us) {
        say(r, (struct message){.kind = BEATS, .progress = p->progress, .busy = p->in_step});
        p->beat_us = now + BEAT;
    }
    return p->x && !p->hangs && engine(r);
}

/* ---- the coordinator ---- */

static void tell(int r, struct message m) {
    if (w.known[r].life == w.p[r].life) put(&w.p[r].in, m);
}

static void on_hello(const struct message *m) {
    struct worker_hello h = {.protocol = MEMBER_PROTOCOL, .rank = (uint32_t)m->rank, .size = (uint32_t)w.ranks, .pid = m->life};
    struct worker_ready ready = {0};
    struct why why;
    if (w.ms.m[m->rank].state == WORKER_DEAD) member_forget(&w.ms, m->rank);
    if (member_hello(&w.ms, &h, now, &why) < 0) return; /* its predecessor is not known to be dead yet: it repeats its Hello */
    w.known[m->rank] = (struct lives){m->life, m->address[0]};
    tell(m->rank, (struct message){.kind = WELCOME, .incarnation = w.ms.m[m->rank].incarnation});
    member_welcomed(&w.ms, m->rank, now);
    CHECK(member_ready(&w.ms, m->rank, &ready, now, &why) == 0, "%s", why.text);
    w.joins = true;
}

static void plan_steps(void) {
    while (w.es.state == EPOCH_STEADY && w.es.now.members && w.planned < w.step + AHEAD - 1) {
        struct message m = {
            .kind = PLAN, .epoch = w.es.now.number, .step = ++w.planned, .cost_us = w.long_left ? LONG_LAYER : 1};
        w.done[w.planned % AHEAD] = 0;
        w.cost_us[w.planned % AHEAD] = m.cost_us;
        uint64_t dearest = 0;
        for (int i = 0; i < AHEAD; i++) dearest = w.cost_us[i] > dearest ? w.cost_us[i] : dearest;
        member_patience(&w.ms, (int64_t)dearest * 10);
        for (int r = 0; r < w.ranks; r++)
            if (w.es.now.members >> r & 1) tell(r, m), member_planned(&w.ms, r, now);
    }
}

static bool trouble_is_about(void) {
    for (int r = 0; r < w.ranks; r++)
        if (w.fault_us[r] || w.p[r].hangs) return true;
    return w.blamed_links || w.long_left;
}

static void on_step_complete(void) {
    uint64_t all = (UINT64_C(1) << w.ranks) - 1;
    w.step++;
    w.complete++;
    w.first_done = true;
    w.together = w.es.now.members == all ? w.together + 1 : 0;
    if (w.switched_us && !w.faults.drop_percent) {
        int64_t took = now - w.switched_us, since = w.struck_us ? now - w.struck_us : 0;
        CHECK(took <= 100 * MS, "the first step of epoch %u took %.0f ms", w.es.now.number, (double)took / MS);
        CHECK(since <= 700 * MS, "the first step after a death took %.0f ms", (double)since / MS);
        if (took > sum.slowest_switch_us) sum.slowest_switch_us = took;
        if (since > sum.slowest_recovery_us) sum.slowest_recovery_us = since;
        w.struck_us = 0;
    }
    w.switched_us = 0;
}

static void on_done(const struct message *m) {
    if (w.es.state != EPOCH_STEADY || m->epoch != w.es.now.number) return member_seen(&w.ms, m->rank, now);
    member_done(&w.ms, m->rank, now);
    CHECK(m->step >= w.step && m->step <= w.planned, "step %" PRIu64 " is done, %" PRIu64 " is due", m->step, w.step);
    CHECK(!(w.done[m->step % AHEAD] >> m->rank & 1), "rank %d did step %" PRIu64 " twice", m->rank, m->step);
    w.done[m->step % AHEAD] |= UINT64_C(1) << m->rank;
    while (w.planned >= w.step && w.done[w.step % AHEAD] == w.es.now.members) on_step_complete();
}

static void on_ack(const struct message *m) {
    if (!epoch_ack(&w.es, m->rank, m->incarnation, m->epoch)) return;
    sum.epochs++;
    for (int r = 0; r < w.ranks; r++) {
        if (!(w.es.now.members >> r & 1)) continue;
        const struct process *p = &w.p[r];
        if (p->alive && p->incarnation == w.es.now.incarnation[r])
            CHECK(p->roster.prepared >= m->epoch && p->roster.current < m->epoch, "rank %d is in %u, prepared %u, not %u", r,
                  p->roster.current, p->roster.prepared, m->epoch);
        tell(r, (struct message){.kind = SWITCH, .epoch = m->epoch});
    }
    w.first_done = false;
    w.planned = w.step - 1; /* plans of the last epoch are void */
    w.switched_us = trouble_is_about() ? 0 : now;
}

/* Was it right to declare it dead? */
static void bury(int r, const char *why) {
    bool to_blame = w.fault_us[r] || !w.p[r].alive || w.p[r].hangs || w.known[r].life != w.p[r].life ||
                    w.blamed_links >> r & 1 || w.faults.drop_percent;
    CHECK(to_blame, "a healthy worker was declared dead: %s", why);
    if (w.fault_us[r] && !w.blamed_links && !w.faults.drop_percent) {
        int64_t took = now - w.fault_us[r];
        CHECK(took <= LEASE, "declared dead after %.0f ms", (double)took / MS);
        if (took > sum.slowest_verdict_us) sum.slowest_verdict_us = took;
    }
    for (int other = 0; other < w.ranks; other++) { /* its cut links go with it */
        if (other == r) continue;
        fabric_hub_cut(w.hub, r, other, false);
        fabric_hub_cut(w.hub, other, r, false);
    }
    if (w.blamed_links >> r & 1) w.blamed_links = 0;
    w.fault_us[r] = 0;
    sum.deaths++;
    w.change = true;
    tell(r, (struct message){.kind = OUT});
}

static void open_epoch(void) {
    uint64_t members = 0;
    uint32_t incarnation[EPOCH_RANKS] = {0};
    for (int r = 0; r < w.ranks; r++) {
        if (!member_serves(&w.ms, r)) continue;
        members |= UINT64_C(1) << r;
        incarnation[r] = w.ms.m[r].incarnation;
    }
    w.change = w.joins = false;
    member_anew(&w.ms, now);
    epoch_open(&w.es, members, incarnation, now);
    struct message m = {.kind = PREPARE, .members = w.es.next};
    for (int r = 0; r < w.ranks; r++) m.address[r] = w.known[r].address;
    for (int r = 0; r < w.ranks; r++)
        if (members >> r & 1) tell(r, m);
}

static void hear_worker(const struct message *m) {
    bool stranger = m->life != w.known[m->rank].life || !member_alive(&w.ms, m->rank);
    if (m->kind == HELLO) {
        on_hello(m);
        return;
    }
    if (stranger) return; /* of a process that is dead by now */
    switch (m->kind) {
    case BEATS: member_beat(&w.ms, m->rank, m->progress, m->busy, now); return;
    case TROUBLE: member_accuse(&w.ms, m->rank, m->late, m->step, now); return;
    case DONE: on_done(m); return;
    case ACK:
        member_seen(&w.ms, m->rank, now);
        on_ack(m);
        return;
    default: CHECK(false, "the coordinator was told %d", m->kind);
    }
}

static void coordinate(void) {
    struct message m;
    struct why why;
    int dead;
    while (get(&w.in, &m)) hear_worker(&m);
    while ((dead = member_tick(&w.ms, now, &why)) >= 0) bury(dead, why.text);
    for (uint64_t late = epoch_late(&w.es, now); late; late &= late - 1) {
        int r = __builtin_ctzll(late);
        member_gone(&w.ms, r, false);
        bury(r, "it did not acknowledge");
    }
    bool calm = w.es.state == EPOCH_STEADY && (w.first_done || !w.es.now.members);
    if (w.change || (w.joins && calm)) open_epoch(); /* nobody's return holds up those who go on after a death */
    plan_steps();
}

/* ---- trouble ---- */

static void make_trouble(const struct trouble *t) {
    struct process *p = &w.p[t->rank];
    if (!p->alive || p->stopped_until || (t->what != LONG && w.blamed_links)) return;
    bool survivors = (w.es.now.members & ~(UINT64_C(1) << t->rank)) != 0;
    bool deadly = survivors && (t->what == KILL || (t->what == STOP && t->us > LEASE));
    w.struck_us = deadly && !trouble_is_about() && w.es.state == EPOCH_STEADY && !w.struck_us ? now : 0;
    w.switched_us = 0;
    switch ((enum what)t->what) {
    case KILL:
        w.fault_us[t->rank] = now;
        kill_process(t->rank);
        break;
    case STOP:
        w.fault_us[t->rank] = now;
        p->stopped_until = now + t->us;
        break;
    case CUT:
        if (!w.p[t->other].alive || t->other == t->rank) return;
        fabric_hub_cut(w.hub, t->rank, t->other, true);
        w.blamed_links = UINT64_C(1) << t->rank | UINT64_C(1) << t->other;
        break;
    case LONG: w.long_left += 2; break;
    case HANG: p->hangs = true; break;
    }
}

static void draw_troubles(void) {
    w.troubles = (int)range(1, TROUBLES);
    for (int i = 0; i < w.troubles; i++) {
        struct trouble *t = &w.trouble[i];
        *t = (struct trouble){.at = now + range(100 * MS, TROUBLE_UNTIL),
                              .what = (int)range(KILL, HANG),
                              .rank = (int)range(0, w.ranks - 1),
                              .other = (int)range(0, w.ranks - 1),
                              .us = draw() % 2 ? range(1 * MS, 300 * MS) : range(600 * MS, 3000 * MS)};
        for (int j = i; j && w.trouble[j].at < w.trouble[j - 1].at; j--) {
            struct trouble swap = w.trouble[j];
            w.trouble[j] = w.trouble[j - 1];
            w.trouble[j - 1] = swap;
        }
    }
}

/* ---- a seed ---- */

static void begin(void) {
    struct why why;
    memset(&w, 0, sizeof w);
    now = 1000000;
    rng = hash_u64(seed_now);
    w.ranks = (int)range(2, MAX_RANKS);
    exchange_shape_make(&w.shape, draw(), w.ranks);
    uint64_t kind = draw() % 4;
    w.faults = (struct fabric_faults){.seed = draw(),
                                      .delay_percent = kind ? (int)range(0, 10) : 0,
                                      .reorder_percent = kind > 1 ? (int)range(0, 30) : 0,
                                      .duplicate_percent = kind ? (int)range(0, 20) : 0,
                                      .drop_percent = draw() % 8 == 0,
                                      .now_us = virtual_now};
    CHECK(fabric_hub_new(w.ranks, &w.faults, &w.hub, &why) == 0, "%s", why.text);
    member_init(&w.ms, &(struct member_limits){.workers = w.ranks,
                                               .fabric = "",
                                               .lease_us = LEASE,
                                               .loading_us = 12 * LEASE,
                                               .progress_us = 5 * PATIENCE,
                                               .patience_us = PATIENCE});
    epoch_init(&w.es, PATIENCE);
    w.step = 1;
    draw_troubles();
    for (int r = 0; r < w.ranks; r++) start(r);
}

static bool over(void) {
    if (w.next < w.troubles || w.together < GOAL) return false;
    return !trouble_is_about();
}

static void run_seed(uint64_t seed) {
    seed_now = seed;
    begin();
    int64_t patience_us = 600000 * (int64_t)MS;
    for (int64_t until = now + patience_us; !over();) {
        CHECK(now < until, "work stands still: step %" PRIu64 ", epoch %u", w.step, w.es.now.number);
        if (w.next < w.troubles && now >= w.trouble[w.next].at) make_trouble(&w.trouble[w.next++]);
        bool moved = false;
        int first = (int)(draw() % (uint64_t)w.ranks);
        for (int i = 0; i < w.ranks; i++) moved |= run_process((first + i) % w.ranks);
        coordinate();
        if (w.faults.drop_percent && now > TROUBLE_UNTIL + DROPPING) break; /* whoever drops has no quiet end */
        now += moved ? range(10, 200) : range(100, 1000);
    }
    sum.steps += w.complete;
    for (int r = 0; r < w.ranks; r++)
        if (w.p[r].alive) kill_process(r);
    fabric_hub_free(w.hub);
}

/* Draws that no longer meet what the checks are about prove nothing. */
static bool vacuous(void) {
    const struct {
        const char *what;
        uint64_t n;
    } met[] = {{"death", sum.deaths},
               {"worker that stopped and went on", sum.resumed},
               {"wait that named somebody", sum.late_waits},
               {"stale frame", sum.stale},
               {"duplicate frame", sum.duplicate}};
    bool any = false;
    for (size_t i = 0; i < sizeof met / sizeof *met; i++)
        if (!met[i].n) any = true, fprintf(stderr, "sim_fabric: not one %s in all seeds: the draws miss it\n", met[i].what);
    return any;
}

static int open_descriptors(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

int main(int argc, char **argv) {
    uint64_t seeds = 50, only = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--seed")) only = strtoull(argv[i + 1], NULL, 10);
    }
    log_set_level(LOG_ERROR);
    int descriptors = 0;
    size_t bytes = 0;
    for (uint64_t s = only ? only : 1; s <= (only ? only : seeds); s++) {
        run_seed(s);
        size_t used = mallinfo2().uordblks;
        if (s == 1 || only) descriptors = open_descriptors(), bytes = used;
        CHECK(open_descriptors() == descriptors, "%d descriptors, %d before", open_descriptors(), descriptors);
        CHECK(used <= bytes + (256 << 10), /* what the allocator keeps at hand counts as used */
              "%zu bytes in use, %zu before", used, bytes);
    }
    printf("sim_fabric: %" PRIu64 " steps in %" PRIu64 " epochs after %" PRIu64 " deaths; %" PRIu64
           " stopped ones went on, %" PRIu64 " waits named somebody, %" PRIu64 " frames too late, %" PRIu64 " twice\n",
           sum.steps, sum.epochs, sum.deaths, sum.resumed, sum.late_waits, sum.stale, sum.duplicate);
    printf("slowest: verdict %.0f ms after a death, first step %.0f ms after its epoch's beginning, %.0f ms after a death\n",
           (double)sum.slowest_verdict_us / MS, (double)sum.slowest_switch_us / MS, (double)sum.slowest_recovery_us / MS);
    return !only && seeds >= TELLING && vacuous();
}
