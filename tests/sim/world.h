/* world.h - what sim_fabric runs: the processes of a cluster, the messages between them and their coordinator, what was done to
 * whom, and the virtual time. One of everything, for one seed at a time.
 * world_worker.c is the workers, world_coordinator.c the coordinator and the judgement of what it decides. */
#pragma once
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"
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
    QUEUE = 512,
    AHEAD = 2 /* plans out at a time */
};

/* Ends the program, with the seed and how everything stands, when cond does not hold. */
#define CHECK(cond, ...)                                                                                                       \
    do {                                                                                                                       \
        if (!(cond)) {                                                                                                         \
            fprintf(stderr, "seed %" PRIu64 ", %.3f s, %s:%d: ", world.seed, (double)world.now / 1e6, __FILE__, __LINE__);     \
            fprintf(stderr, __VA_ARGS__);                                                                                      \
            world_say();                                                                                                       \
            abort();                                                                                                           \
        }                                                                                                                      \
    } while (0)

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

extern struct world {
    uint64_t seed, rng;
    int64_t now;
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
    uint64_t accuses[MAX_RANKS]; /* by rank, just before a verdict */
    int64_t struck_us;           /* since when one is dead or stands still, and nothing else is wrong; 0: not so */
    int long_left;               /* layers of LONG_LAYER to come */
} world;

extern struct world_sum { /* over all seeds */
    uint64_t steps, epochs, deaths, resumed, partitions, late_waits, stale, duplicate;
    int64_t slowest_verdict_us, slowest_switch_us, slowest_recovery_us;
} world_sum;

uint64_t world_draw(void);
int64_t world_range(int64_t lo, int64_t hi);
void world_put(struct queue *q, struct message m);
bool world_get(struct queue *q, struct message *m); /* the next one that is due */
void world_say(void);                               /* to stderr */

void world_start(int rank); /* the next life of it */
void world_kill(int rank);
bool world_work(int rank); /* whatever it can do now; whether its engine moved */

void world_coordinate(void);
bool world_troubled(void); /* something is wrong, or takes long, right now */
