/* test_chaos.c - processes that are killed, stopped, continued, stalled, cut off and cut apart by seed, and such that compute
 * for 3 s, over the real fabrics: the others go on, the restarted join again, and what is exchanged is right throughout
 * (tests/sim/exchange.h). The test itself is the coordinator, with its real member and epoch. Deaths are told by leases and
 * accusations alone: that a socket closed is not looked at.
 *
 *   test_chaos [--fabric shm|ucx|auto] [--lab NAME --netlab PROGRAM] [--faults N] [--seed S] [--strict]
 * The first faults are one of each kind, later ones as drawn; by odd seeds half of the steps are dispatched in two hops. With
 * a lab of three hosts (deploy/netlab) the coordinator and ranks 0 and 1 are on h0, rank 2 on h1, rank 3 on h2; all that is
 * said goes over its network, and links fail.
 * Without --strict leases are long, so that a machine with other things to do is not taken for a death. --strict has the
 * default lease and holds the recorded times to their bounds: p99 of a death to its verdict 500 ms, of that to the survivors'
 * next step 700 ms, of the survivors' epoch to its first step 100 ms; of a partition that only the exchange notices to its
 * verdict the patience of 2 s, a quarter of it to judge, and 500 ms. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"
#include "base/hash.h"
#include "base/log.h"
#include "coordinator/member.h"
#include "tests/multi/chaos.h"
#include "tests/multi/chaos_lab.h"

#ifdef __SANITIZE_ADDRESS__
enum { HOARD_KIB = 256 << 10 }; /* memory that was freed is kept for a while */
#else
enum { HOARD_KIB = 0 };
#endif
enum {
    LEASE = 500000,
    PATIENT = 4, /* leases, where times do not count */

    GOAL = 8,
    MAX_FAULTS = 400,
    FOREVER_US = 60000000,
    LONG_STEP_US = 3100000,
    SETTLED = 8 /* faults until a survivor's memory counts */
};
enum fault { KILL, STOP, PAUSE, STALL, LONG, DOWN, CUT, HUSH, FAULTS };
static const char *const fault_names[] = {"killed",        "stopped", "paused",    "stalled",
                                          "busy for long", "cut off", "cut apart", "unheard for a moment"};
static const enum fault here[] = {KILL, STOP, PAUSE, STALL, LONG}, in_lab[] = {DOWN, CUT, HUSH, KILL, STOP};
static const int host_of[CHAOS_RANKS] = {0, 0, 1, 2};

struct process { /* the present life of a rank */
    pid_t pid;
    int socket, life;
    long fds, resident_kib, faults; /* as it said last; and how many faults of others it has lived through */
    long first_fds, first_kib;
};
static struct {
    const char *fabric;
    struct exchange_shape shape;
    struct chaos_board *board;
    chaos_open open;
    uint64_t seed;
    bool strict;
    const char *lab_name, *netlab;
    struct chaos_lab lab;
    int lives;
    struct process p[CHAOS_RANKS];

    struct members ms;
    struct epochs es;
    bool change, joins; /* somebody is no member any more; somebody could be one */
    uint64_t step, planned, done[2];
    int64_t cost_us[2]; /* of the plans that are out */
    int together;       /* steps in a row that all completed */

    enum fault fault;
    int victim;                    /* -1: all is well */
    uint64_t blamed;               /* of whom one may be declared dead */
    int from, to;                  /* CUT: hosts; what the one sends to the other is lost */
    int absent;                    /* who is to be started when the others go on; -1: nobody */
    uint64_t long_at;              /* LONG: the step; 0: not planned yet */
    uint64_t accuses[CHAOS_RANKS]; /* as it was before the last verdict */
    int64_t fault_us, verdict_us, switched_us, undo_us;
} t;
static struct times {
    const char *what;
    int n;
    int64_t us[MAX_FAULTS];
} verdicts = {"death to verdict", 0, {0}}, recoveries = {"death to the survivors' next step", 0, {0}},
  firsts = {"survivors' epoch to its first step", 0, {0}}, returns = {"epoch of all to its first step", 0, {0}},
  partitions = {"partition to verdict", 0, {0}};

static void kill_all(void) {
    for (int r = 0; r < CHAOS_RANKS; r++)
        if (t.p[r].pid > 0) kill(t.p[r].pid, SIGKILL), waitpid(t.p[r].pid, NULL, 0);
}
#define FAIL(...)                                                                                                              \
    do {                                                                                                                       \
        kill_all();                                                                                                            \
        fprintf(stderr, __VA_ARGS__);                                                                                          \
        fprintf(stderr, "\nwhile rank %d was %s (%d to %d); again: --fabric %s --seed %llu, with as many --faults\n",          \
                t.victim, fault_names[t.fault], t.from, t.to, t.fabric, (unsigned long long)t.seed);                           \
        exit(1);                                                                                                               \
    } while (0)

static void note(struct times *l, int64_t us) {
    if (l->n < MAX_FAULTS) l->us[l->n++] = us;
}

/* ---- processes ---- */

static void start(int r) {
    struct process *p = &t.p[r];
    struct why why;
    int ends[2];
    if (t.lives == CHAOS_LIVES - 1) FAIL("no more lives");
    if (t.lab_name && chaos_lab_connect(&t.lab, 0, host_of[r], ends, &why) < 0) FAIL("%s", why.text);
    if (!t.lab_name && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) FAIL("no socket: %s", strerror(errno));
    *p = (struct process){.socket = ends[0], .life = ++t.lives};
    struct chaos_life life = {t.shape, t.board, t.open, r, p->life, ends[1]};
    pid_t parent = getpid();
    p->pid = fork();
    if (p->pid < 0) FAIL("cannot fork: %s", strerror(errno));
    if (p->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        for (int other = 0; other < CHAOS_RANKS; other++)
            if (t.p[other].socket > 0) close(t.p[other].socket);
        if (t.lab_name && chaos_lab_enter(&t.lab, host_of[r], &why) < 0) die("%s", why.text);
        chaos_worker(&life);
    }
    close(ends[1]);
}

static void end(int r) {
    struct process *p = &t.p[r];
    kill(p->pid, SIGKILL);
    waitpid(p->pid, NULL, 0);
    if (p->socket > 0) close(p->socket);
    *p = (struct process){0};
}

static void tell(int r, struct chaos_message m) {
    if (t.p[r].socket > 0) send(t.p[r].socket, &m, sizeof m, MSG_DONTWAIT | MSG_NOSIGNAL); /* the dead hear nothing */
}

/* ---- the coordinator ---- */

static void on_hello(int r, int64_t now) {
    struct worker_hello h = {
        .protocol = MEMBER_PROTOCOL, .rank = (uint32_t)r, .size = CHAOS_RANKS, .pid = (uint64_t)t.p[r].pid};
    struct why why;
    snprintf(h.host_id, sizeof h.host_id, "%d", t.shape.lim.host[r]);
    if (t.ms.m[r].state == WORKER_DEAD) member_forget(&t.ms, r);
    if (member_hello(&t.ms, &h, now, &why) < 0) FAIL("rank %d may not join: %s", r, why.text);
    tell(r, (struct chaos_message){.kind = CHAOS_WELCOME, .incarnation = t.ms.m[r].incarnation});
    member_welcomed(&t.ms, r, now);
}

static void on_ready(int r, int64_t now) {
    struct worker_ready ready = {0};
    struct why why;
    if (member_ready(&t.ms, r, &ready, now, &why) < 0) FAIL("rank %d is not ready: %s", r, why.text);
    t.joins = true;
}

static void on_done(const struct chaos_message *m, int r, int64_t now) {
    if (t.es.state != EPOCH_STEADY || m->epoch != t.es.now.number) return member_seen(&t.ms, r, now);
    member_done(&t.ms, r, now);
    if (m->step < t.step || m->step > t.planned || t.done[m->step % 2] >> r & 1) FAIL("rank %d did a step twice", r);
    t.done[m->step % 2] |= UINT64_C(1) << r;
    for (; t.planned >= t.step && t.done[t.step % 2] == t.es.now.members; t.step++) {
        t.together = t.es.now.members == (1u << CHAOS_RANKS) - 1 ? t.together + 1 : 0;
        if (t.switched_us) note(t.together ? &returns : &firsts, now - t.switched_us);
        if (t.switched_us && t.fault_us && t.verdict_us) note(&recoveries, now - t.fault_us), t.fault_us = 0;
        t.switched_us = 0;
    }
}

static void on_ack(const struct chaos_message *m, int r, int64_t now) {
    member_seen(&t.ms, r, now);
    if (!epoch_ack(&t.es, r, t.ms.m[r].incarnation, m->epoch)) return;
    for (int i = 0; i < CHAOS_RANKS; i++)
        if (t.es.now.members >> i & 1) tell(i, (struct chaos_message){.kind = CHAOS_SWITCH, .epoch = m->epoch});
    t.planned = t.step - 1;
    t.switched_us = clk_now_us();
}

static void on_trouble(const struct chaos_message *m, int r, int64_t now) {
    if (!m->late || m->late & ~(t.es.now.members & ~(UINT64_C(1) << r)))
        FAIL("rank %d waits for %#llx", r, (unsigned long long)m->late);
    member_accuse(&t.ms, r, m->late, m->step, now);
}

static void hear(int r, const struct chaos_message *m) {
    int64_t now = clk_now_us();
    struct process *p = &t.p[r];
    if (m->kind == CHAOS_HELLO) return on_hello(r, now);
    if (!member_alive(&t.ms, r)) return;
    switch (m->kind) {
    case CHAOS_READY: on_ready(r, now); return;
    case CHAOS_BEAT:
        p->fds = m->fds;
        p->resident_kib = m->resident_kib;
        member_beat(&t.ms, r, m->progress, m->busy, now);
        return;
    case CHAOS_TROUBLE: on_trouble(m, r, now); return;
    case CHAOS_ACK: on_ack(m, r, now); return;
    case CHAOS_DONE: on_done(m, r, now); return;
    default: FAIL("%s", m->why.text);
    }
}

static int accusers(int rank) {
    int n = 0;
    for (int r = 0; r < CHAOS_RANKS; r++) n += r != rank && t.accuses[r] >> rank & 1;
    return n;
}

/* Of the two ends of a link that works one way the one with most accusers goes, ties by higher rank. */
static void check_blame(int r, const char *why) {
    int other = r == 2 ? 3 : 2, mine = accusers(r), theirs = accusers(other);
    if (mine < theirs || (mine == theirs && r < other))
        FAIL("rank %d, accused by %d, was declared dead, rank %d is accused by %d: %s", r, mine, other, theirs, why);
}

/* A verdict: only over one that something was done to. It is restarted at once, or, where its link must be repaired before,
 * when the others go on. */
static void bury(int r, const char *why) {
    int64_t now = clk_now_us();
    bool heard = t.fault == CUT && t.from && t.to, /* its beats are */
        acked = t.fault == CUT && !t.from;         /* for how long it can still say that it lives is TCP's business */
    if (!(t.blamed >> r & 1)) FAIL("a healthy worker was declared dead: %s", why);
    if (heard && !t.verdict_us) check_blame(r, why), note(&partitions, now - t.fault_us);
    if (t.fault == STALL || t.fault == HUSH || heard || acked) t.fault_us = 0;
    else note(&verdicts, now - t.fault_us);
    t.blamed = UINT64_C(1) << r;
    t.verdict_us = now;
    t.change = true;
    end(r);
    if (t.fault == DOWN || t.fault == CUT || t.fault == HUSH) t.absent = r;
    else start(r);
}

static void link_fault(int host, const char *word, int other) {
    struct why why;
    if (chaos_lab_fault(&t.lab, host, word, other, &why) < 0) FAIL("%s", why.text);
}

static void bring_back(void) {
    if (t.fault == DOWN) link_fault(host_of[t.victim], "up", -1);
    else link_fault(t.from, "pass", t.to);
    t.undo_us = 0;
    start(t.absent);
    t.absent = -1;
}

static void open_epoch(void) {
    struct chaos_message m = {.kind = CHAOS_PREPARE};
    uint64_t members = 0;
    uint32_t incarnation[EPOCH_RANKS] = {0};
    for (int r = 0; r < CHAOS_RANKS; r++) {
        m.life[r] = (uint32_t)t.p[r].life;
        if (!member_serves(&t.ms, r)) continue;
        members |= UINT64_C(1) << r;
        incarnation[r] = t.ms.m[r].incarnation;
    }
    t.change = t.joins = false;
    member_anew(&t.ms, clk_now_us());
    epoch_open(&t.es, members, incarnation, clk_now_us());
    m.members = t.es.next;
    for (int r = 0; r < CHAOS_RANKS; r++)
        if (members >> r & 1) tell(r, m);
}

static void plan_steps(void) {
    while (t.es.state == EPOCH_STEADY && t.es.now.members && t.planned < t.step + 1) {
        struct chaos_message m = {.kind = CHAOS_PLAN, .epoch = t.es.now.number, .step = ++t.planned, .rank = -1};
        if (t.fault == LONG && t.victim >= 0 && !t.long_at) t.long_at = m.step, m.rank = t.victim, m.us = LONG_STEP_US;
        t.done[t.planned % 2] = 0;
        t.cost_us[t.planned % 2] = m.us;
        member_patience(&t.ms, chaos_patience_us(t.cost_us[0] > t.cost_us[1] ? t.cost_us[0] : t.cost_us[1]));
        for (int r = 0; r < CHAOS_RANKS; r++)
            if (t.es.now.members >> r & 1) tell(r, m), member_planned(&t.ms, r, clk_now_us());
    }
}

static void listen_until(int64_t until_us) {
    struct pollfd fds[CHAOS_RANKS];
    int64_t left_us = until_us - clk_now_us();
    struct timespec ts = {.tv_sec = left_us > 0 ? left_us / 1000000 : 0, .tv_nsec = left_us > 0 ? left_us % 1000000 * 1000 : 0};
    for (int r = 0; r < CHAOS_RANKS; r++)
        fds[r] = (struct pollfd){.fd = t.p[r].socket > 0 ? t.p[r].socket : -1, .events = POLLIN};
    ppoll(fds, CHAOS_RANKS, &ts, NULL);
    for (int r = 0; r < CHAOS_RANKS; r++) {
        struct chaos_message m;
        int rc = 0;
        while (fds[r].fd >= 0 && (rc = chaos_take(t.p[r].socket, &m)) > 0) hear(r, &m);
        if (rc >= 0) continue;
        if (r != t.victim) FAIL("rank %d ended by itself", r);
        close(t.p[r].socket); /* nothing more from there; that it is dead its lease will say */
        t.p[r].socket = 0;
    }
}

static void undo(void) {
    if (t.fault == PAUSE) kill(t.p[t.victim].pid, SIGCONT);
    else link_fault(t.from, "pass", t.to);
    t.undo_us = 0;
}

static void coordinate(void) {
    struct why why;
    int dead;
    int64_t now = clk_now_us(), next = member_next_us(&t.ms), tick = now + 50000;
    listen_until(next < tick ? next : tick);
    now = clk_now_us();
    if (t.undo_us && now >= t.undo_us) undo();
    for (int r = 0; r < CHAOS_RANKS; r++) t.accuses[r] = t.ms.m[r].accuses;
    while ((dead = member_tick(&t.ms, now, &why)) >= 0) bury(dead, why.text);
    for (uint64_t late = epoch_late(&t.es, now); late; late &= late - 1) {
        member_gone(&t.ms, __builtin_ctzll(late), false);
        bury(__builtin_ctzll(late), "it did not acknowledge");
    }
    bool calm = t.es.state == EPOCH_STEADY && !t.switched_us; /* nobody's return holds up those who go on after a death */
    if (t.change || (t.joins && calm)) open_epoch();
    else if (t.absent >= 0 && calm) bring_back();
    plan_steps();
}

/* ---- faults ---- */

static bool healed(void) {
    bool over = t.victim < 0 || t.verdict_us;
    if (t.fault == PAUSE || t.fault == HUSH) over = !t.undo_us && t.absent < 0;
    if (t.fault == LONG) over = t.long_at && t.step > t.long_at;
    return over && t.together >= GOAL && t.es.state == EPOCH_STEADY;
}

static void heal(void) {
    t.together = 0;
    for (int64_t until = clk_now_us() + FOREVER_US; !healed(); coordinate())
        if (clk_now_us() > until) FAIL("they do not go on: epoch %u, step %llu", t.es.now.number, (unsigned long long)t.step);
}

static enum fault choose(int number, uint64_t d) {
    const enum fault *kinds = t.lab_name ? in_lab : here;
    int n = t.lab_name ? (int)(sizeof in_lab / sizeof *in_lab) : (int)(sizeof here / sizeof *here);
    if (number <= n) return kinds[number - 1];
    enum fault drawn = kinds[(d >> 30) % (uint64_t)n];
    bool takes_seconds = drawn == STALL || drawn == LONG;
    return takes_seconds && (d >> 40) % 4 ? KILL : drawn;
}

/* A link that works one way: between two workers, each alone on its host, so that only the exchange notices, or between one of
 * them and the host of all others, the coordinator among them. */
static void cut_apart(uint64_t d) {
    static const int links[][2] = {{1, 2}, {2, 1}, {1, 0}, {2, 0}, {0, 1}, {0, 2}};
    int which = d % 2 ? (int)((d >> 1) % 2) : 2 + (int)((d >> 1) % 4);
    if (!partitions.n) which %= 2;
    t.from = links[which][0];
    t.to = links[which][1];
    t.blamed = (UINT64_C(1) << (t.from + 1) | UINT64_C(1) << (t.to + 1)) & 0xc; /* of h1 and h2 */
    t.victim = t.from ? t.from + 1 : t.to + 1;
    link_fault(t.from, "drop", t.to);
}

/* A few more steps, and then some: at a random moment of one. */
static void strike(int number) {
    uint64_t d = hash_u64(t.seed * 1000003 + (uint64_t)number);
    int64_t at = clk_now_us() + (int64_t)(d % 150000);
    while (clk_now_us() < at) coordinate();
    t.fault = choose(number, d);
    t.victim = 1 + (int)((d >> 20) % (CHAOS_RANKS - 1)); /* rank 0 lives through all of it */
    if (t.fault == DOWN || t.fault == HUSH) t.victim = 2 + (int)((d >> 20) % 2);
    bool harmless =
        t.fault == PAUSE || t.fault == LONG || (t.fault == HUSH && !t.strict); /* to say it again may take TCP a lease */
    t.blamed = harmless ? 0 : UINT64_C(1) << t.victim;
    t.verdict_us = 0;
    t.long_at = 0;
    t.fault_us = clk_now_us();
    if (t.fault == KILL) kill(t.p[t.victim].pid, SIGKILL);
    if (t.fault == STOP || t.fault == PAUSE) kill(t.p[t.victim].pid, SIGSTOP);
    if (t.fault == PAUSE) t.undo_us = t.fault_us + 20000 + (int64_t)((d >> 45) % 200000);
    if (t.fault == STALL) tell(t.victim, (struct chaos_message){.kind = CHAOS_STALL, .us = FOREVER_US});
    if (t.fault == DOWN) link_fault(host_of[t.victim], "down", -1);
    if (t.fault == HUSH) {
        t.from = host_of[t.victim], t.to = 0;
        link_fault(t.from, "drop", t.to);
        t.undo_us = t.fault_us + 20000 + (int64_t)((d >> 45) % 80000);
    }
    if (t.fault == CUT) cut_apart(d >> 50);
}

static void check_growth(const struct process *p, int number) {
    if (number == SETTLED) t.p[0].first_fds = p->fds, t.p[0].first_kib = p->resident_kib;
    if (number <= SETTLED) return;
    /* what it said last may be from before a peer came again, or since: that is some descriptors, not one for every fault */
    if (p->fds > p->first_fds + CHAOS_RANKS) FAIL("%ld descriptors after %d faults, %ld before", p->fds, number, p->first_fds);
    if (p->resident_kib > p->first_kib + 16384 + HOARD_KIB)
        FAIL("%ld KiB after %d faults, %ld before", p->resident_kib, number, p->first_kib);
}

static int by_time(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void report(struct times *l, int64_t bound_us, bool strict) {
    if (!l->n) return;
    qsort(l->us, (size_t)l->n, sizeof *l->us, by_time);
    int64_t p99 = l->us[(l->n * 99 + 99) / 100 - 1];
    printf("  %-36s n %3d  p50 %4.0f ms  p99 %4.0f ms", l->what, l->n, (double)l->us[l->n / 2] / 1e3, (double)p99 / 1e3);
    if (strict && bound_us) printf("  bound %.0f ms", (double)bound_us / 1e3);
    printf("\n");
    if (strict && bound_us && p99 > bound_us) FAIL("%s: p99 is %.0f ms", l->what, (double)p99 / 1e3);
}

/* Odd seeds: half of the steps in two hops, between hosts of which two have a neighbour or, in a lab, as they are. */
static void make_shape(void) {
    exchange_shape_make(&t.shape, t.seed, CHAOS_RANKS);
    t.shape.two_hop = t.seed % 2;
    for (int r = 0; t.shape.two_hop && r < CHAOS_RANKS; r++)
        t.shape.lim.host[r] = (uint8_t)(t.lab_name ? host_of[r] : r / 2);
}

static void run(int faults, bool strict) {
    make_shape();
    t.strict = strict;
    member_init(&t.ms, &(struct member_limits){.workers = CHAOS_RANKS,
                                               .fabric = "",
                                               .lease_us = strict ? LEASE : PATIENT * LEASE,
                                               .loading_us = 12 * PATIENT * LEASE,
                                               .progress_us = 5 * CHAOS_PATIENCE_US,
                                               .patience_us = CHAOS_PATIENCE_US});
    epoch_init(&t.es, CHAOS_PATIENCE_US);
    t.step = 1;
    t.victim = t.absent = -1;
    for (int r = 0; r < CHAOS_RANKS; r++) start(r);
    int count[FAULTS] = {0};
    for (int i = 1; i <= faults; i++) {
        heal();
        t.victim = -1;
        check_growth(&t.p[0], i);
        strike(i);
        count[t.fault]++;
    }
    heal();
    check_growth(&t.p[0], faults + 1);
    printf("%s%s: %llu steps, %u epochs", t.fabric, t.lab_name ? " between hosts" : "", (unsigned long long)t.step,
           t.es.now.number);
    for (int f = 0; f < FAULTS; f++)
        if (count[f]) printf("; %d %s", count[f], fault_names[f]);
    printf("\n");
    report(&verdicts, LEASE, strict);
    report(&recoveries, 700000, strict);
    report(&firsts, 100000, strict);
    report(&returns, 0, strict);
    report(&partitions, CHAOS_PATIENCE_US * 5 / 4 + 500000, strict);
    kill_all();
}

static int open_ucx(int rank, int size, struct fabric **out, struct why *why) {
    return fabric_ucx_open(rank, size, &(struct fabric_net){.devices = t.lab_name ? "eth0" : "lo"}, out, why);
}
static int open_auto(int rank, int size, struct fabric **out, struct why *why) {
    return fabric_auto_open(rank, size, &(struct fabric_net){.devices = t.lab_name ? "eth0" : "lo"}, out, why);
}

int main(int argc, char **argv) {
    int faults = 5;
    bool strict = false;
    t.fabric = "shm";
    t.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--strict")) strict = true;
        else if (i + 1 == argc) die("%s wants a value", argv[i]);
        else if (!strcmp(argv[i], "--fabric")) t.fabric = argv[++i];
        else if (!strcmp(argv[i], "--faults")) faults = (int)strtol(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--lab")) t.lab_name = argv[++i];
        else if (!strcmp(argv[i], "--netlab")) t.netlab = argv[++i];
        else if (!strcmp(argv[i], "--seed")) t.seed = strtoull(argv[++i], NULL, 10);
        else die("unknown option %s", argv[i]);
    }
    struct why why;
    if (!t.lab_name != !t.netlab) die("--lab and --netlab go together");
    if (t.lab_name && chaos_lab_open(&t.lab, t.netlab, t.lab_name, 3, &why) < 0) die("%s", why.text);
    log_set_level(LOG_ERROR);
    t.open = !strcmp(t.fabric, "ucx") ? open_ucx : !strcmp(t.fabric, "auto") ? open_auto : fabric_shm_open;
    t.board = mmap(NULL, sizeof *t.board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t.board == MAP_FAILED) die("no shared memory");
    run(faults < MAX_FAULTS ? faults : MAX_FAULTS, strict);
    return 0;
}
