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
#include <malloc.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "tests/sim/world.h"

enum {
    TROUBLE_UNTIL = 8000 * MS, /* when the last one begins at the latest */
    DROPPING = 20000 * MS,     /* for so long after that frames are dropped, by seeds that drop any */
    TELLING = 50,              /* seeds that together meet everything */
    GOAL = 20                  /* steps that all complete together at the end */
};

static int64_t virtual_now(void) { return world.now; }

/* ---- trouble ---- */

static void make_trouble(const struct trouble *t) {
    struct process *p = &world.p[t->rank];
    if (!p->alive || p->stopped_until || (t->what != LONG && world.blamed_links)) return;
    uint64_t members = world.es.now.members, survivors = members & ~(UINT64_C(1) << t->rank);
    bool deadly = survivors && survivors != members && (t->what == KILL || (t->what == STOP && t->us > LEASE));
    world.struck_us = deadly && !world_troubled() && world.es.state == EPOCH_STEADY && !world.struck_us ? world.now : 0;
    world.switched_us = 0;
    switch ((enum what)t->what) {
    case KILL:
        world.fault_us[t->rank] = world.now;
        world_kill(t->rank);
        break;
    case STOP:
        world.fault_us[t->rank] = world.now;
        p->stopped_until = world.now + t->us;
        break;
    case CUT:
        if (!world.p[t->other].alive || t->other == t->rank) return;
        fabric_hub_cut(world.hub, t->rank, t->other, true);
        world.blamed_links = UINT64_C(1) << t->rank | UINT64_C(1) << t->other;
        break;
    case LONG: world.long_left += 2; break;
    case HANG: p->hangs = true; break;
    }
}

static void draw_troubles(void) {
    world.troubles = (int)world_range(1, TROUBLES);
    for (int i = 0; i < world.troubles; i++) {
        struct trouble *t = &world.trouble[i];
        *t = (struct trouble){.at = world.now + world_range(100 * MS, TROUBLE_UNTIL),
                              .what = (int)world_range(KILL, HANG),
                              .rank = (int)world_range(0, world.ranks - 1),
                              .other = (int)world_range(0, world.ranks - 1),
                              .us = world_draw() % 2 ? world_range(1 * MS, 300 * MS) : world_range(600 * MS, 3000 * MS)};
        for (int j = i; j && world.trouble[j].at < world.trouble[j - 1].at; j--) {
            struct trouble swap = world.trouble[j];
            world.trouble[j] = world.trouble[j - 1];
            world.trouble[j - 1] = swap;
        }
    }
}

/* ---- a seed ---- */

static void begin(uint64_t seed) {
    struct why why;
    memset(&world, 0, sizeof world);
    world.seed = seed;
    world.rng = hash_u64(seed);
    world.now = 1000000;
    world.ranks = (int)world_range(2, MAX_RANKS);
    exchange_shape_make(&world.shape, world_draw(), world.ranks);
    world.shape.two_hop = true;
    uint64_t kind = world_draw() % 4;
    world.faults = (struct fabric_faults){.seed = world_draw(),
                                          .delay_percent = kind ? (int)world_range(0, 10) : 0,
                                          .reorder_percent = kind > 1 ? (int)world_range(0, 30) : 0,
                                          .duplicate_percent = kind ? (int)world_range(0, 20) : 0,
                                          .drop_percent = world_draw() % 8 == 0,
                                          .now_us = virtual_now};
    CHECK(fabric_hub_new(world.ranks, &world.faults, &world.hub, &why) == 0, "%s", why.text);
    member_init(&world.ms, &(struct member_limits){.workers = world.ranks,
                                                   .fabric = "",
                                                   .lease_us = LEASE,
                                                   .loading_us = 12 * LEASE,
                                                   .progress_us = 5 * PATIENCE,
                                                   .patience_us = PATIENCE});
    epoch_init(&world.es, PATIENCE);
    world.step = 1;
    draw_troubles();
    for (int r = 0; r < world.ranks; r++) world_start(r);
}

static bool over(void) {
    if (world.next < world.troubles || world.together < GOAL) return false;
    return !world_troubled();
}

static void run_seed(uint64_t seed) {
    begin(seed);
    int64_t patience_us = 600000 * (int64_t)MS;
    for (int64_t until = world.now + patience_us; !over();) {
        CHECK(world.now < until, "work stands still: step %" PRIu64 ", epoch %u", world.step, world.es.now.number);
        if (world.next < world.troubles && world.now >= world.trouble[world.next].at)
            make_trouble(&world.trouble[world.next++]);
        bool moved = false;
        int first = (int)(world_draw() % (uint64_t)world.ranks);
        for (int i = 0; i < world.ranks; i++) moved |= world_work((first + i) % world.ranks);
        world_coordinate();
        if (world.faults.drop_percent && world.now > TROUBLE_UNTIL + DROPPING) break; /* whoever drops has no quiet end */
        world.now += moved ? world_range(10, 200) : world_range(100, 1000);
    }
    world_sum.steps += world.complete;
    for (int r = 0; r < world.ranks; r++)
        if (world.p[r].alive) world_kill(r);
    fabric_hub_free(world.hub);
}

/* Draws that no longer meet what the checks are about prove nothing. */
static bool vacuous(void) {
    const struct {
        const char *what;
        uint64_t n;
    } met[] = {{"death", world_sum.deaths},
               {"worker that stopped and went on", world_sum.resumed},
               {"one-way partition that was judged", world_sum.partitions},
               {"wait that named somebody", world_sum.late_waits},
               {"stale frame", world_sum.stale},
               {"duplicate frame", world_sum.duplicate}};
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
    printf("sim_fabric: %" PRIu64 " steps in %" PRIu64 " epochs after %" PRIu64 " deaths, %" PRIu64
           " of them by a link's fault; %" PRIu64 " stopped ones went on, %" PRIu64 " waits named somebody, %" PRIu64
           " frames too late, %" PRIu64 " twice\n",
           world_sum.steps, world_sum.epochs, world_sum.deaths, world_sum.partitions, world_sum.resumed, world_sum.late_waits,
           world_sum.stale, world_sum.duplicate);
    printf("slowest: verdict %.0f ms after a death, first step %.0f ms after its epoch's beginning, %.0f ms after a death\n",
           (double)world_sum.slowest_verdict_us / MS, (double)world_sum.slowest_switch_us / MS,
           (double)world_sum.slowest_recovery_us / MS);
    return !only && seeds >= TELLING && vacuous();
}
