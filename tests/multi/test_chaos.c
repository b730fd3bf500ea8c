/* test_chaos.c - processes that are killed, stopped, continued and stalled by seed, over the real fabrics: the others go on,
 * the restarted join again, and what is exchanged is right throughout (tests/sim/exchange.h). The test itself is the
 * coordinator, with its real member and epoch. Deaths are told by leases alone: that a socket closed is not looked at.
 *
 *   test_chaos [--fabric shm|ucx|auto] [--faults N] [--seed S] [--strict]
 * Without --strict leases are long, so that a machine with other things to do is not taken for a death. --strict has the
 * default lease and holds the recorded times to their bounds: p99 of a death to its verdict 500 ms, of that to the survivors'
 * next step 700 ms, of a new epoch to its first step 100 ms. */
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

enum {
    LEASE = 500000,
    PATIENT = 4, /* leases, where times do not count */

    GOAL = 8,
    MAX_FAULTS = 400,
    LONG_US = 60000000,
    SETTLED = 8 /* faults until a survivor's memory counts */
};
enum fault { KILL, STOP, PAUSE, STALL, FAULTS };
static const char *const fault_names[] = {"killed", "stopped", "paused", "stalled"};

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
    int lives;
    struct process p[CHAOS_RANKS];

    struct members ms;
    struct epochs es;
    bool change, joins; /* somebody is no member any more; somebody could be one */
    uint64_t step, planned, done[2];
    int together; /* steps in a row that all completed */

    enum fault fault;
    int victim; /* -1: all is well */
    int64_t fault_us, verdict_us, switched_us, continue_us;
    int resumed;
} t;
static struct times {
    const char *what;
    int n;
    int64_t us[MAX_FAULTS];
} verdicts = {"death to verdict", 0, {0}}, recoveries = {"death to the survivors' next step", 0, {0}},
  firsts = {"new epoch to its first step", 0, {0}};

static void kill_all(void) {
    for (int r = 0; r < CHAOS_RANKS; r++)
        if (t.p[r].pid > 0) kill(t.p[r].pid, SIGKILL), waitpid(t.p[r].pid, NULL, 0);
}
#define FAIL(...)                                                                                                              \
    do {                                                                                                                       \
        kill_all();                                                                                                            \
        fprintf(stderr, __VA_ARGS__);                                                                                          \
        fprintf(stderr, "\nwhile rank %d was %s; again: --fabric %s --seed %llu\n", t.victim, fault_names[t.fault], t.fabric,  \
                (unsigned long long)t.seed);                                                                                   \
        exit(1);                                                                                                               \
    } while (0)

static void note(struct times *l, int64_t us) {
    if (l->n < MAX_FAULTS) l->us[l->n++] = us;
}

/* ---- processes ---- */

static void start(int r) {
    struct process *p = &t.p[r];
    int ends[2];
    if (t.lives == CHAOS_LIVES - 1 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) FAIL("no more lives");
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
        if (t.switched_us) note(&firsts, now - t.switched_us);
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
    case CHAOS_TROUBLE: member_accuse(&t.ms, r, m->late, m->step, now); return;
    case CHAOS_ACK: on_ack(m, r, now); return;
    case CHAOS_DONE: on_done(m, r, now); return;
    default: FAIL("%s", m->why.text);
    }
}

/* A verdict: only over the one that something was done to. It is restarted at once. */
static void bury(int r, const char *why) {
    int64_t now = clk_now_us();
    if (r != t.victim || t.fault == PAUSE) FAIL("a healthy worker was declared dead: %s", why);
    if (t.fault != STALL) note(&verdicts, now - t.fault_us);
    else t.fault_us = 0;
    t.verdict_us = now;
    t.change = true;
    end(r);
    start(r);
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
        struct chaos_message m = {.kind = CHAOS_PLAN, .epoch = t.es.now.number, .step = ++t.planned};
        t.done[t.planned % 2] = 0;
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
        ssize_t n = 0;
        while (fds[r].fd >= 0 && (n = recv(t.p[r].socket, &m, sizeof m, MSG_DONTWAIT)) == (ssize_t)sizeof m) hear(r, &m);
        if (fds[r].fd < 0 || n != 0) continue;
        if (r != t.victim) FAIL("rank %d ended by itself", r);
        close(t.p[r].socket); /* nothing more from there; that it is dead its lease will say */
        t.p[r].socket = 0;
    }
}

static void coordinate(void) {
    struct why why;
    int dead;
    int64_t now = clk_now_us(), next = member_next_us(&t.ms), tick = now + 50000;
    listen_until(next < tick ? next : tick);
    now = clk_now_us();
    if (t.continue_us && now >= t.continue_us) kill(t.p[t.victim].pid, SIGCONT), t.continue_us = 0, t.resumed++;
    while ((dead = member_tick(&t.ms, now, &why)) >= 0) bury(dead, why.text);
    for (uint64_t late = epoch_late(&t.es, now); late; late &= late - 1) {
        member_gone(&t.ms, __builtin_ctzll(late), false);
        bury(__builtin_ctzll(late), "it did not acknowledge");
    }
    bool calm = t.es.state == EPOCH_STEADY && !t.switched_us; /* nobody's return holds up those who go on after a death */
    if (t.change || (t.joins && calm)) open_epoch();
    plan_steps();
}

/* ---- faults ---- */

static bool healed(void) {
    bool over = t.fault == PAUSE ? !t.continue_us : t.victim < 0 || t.verdict_us;
    return over && t.together >= GOAL && t.es.state == EPOCH_STEADY;
}

static void heal(void) {
    t.together = 0;
    for (int64_t until = clk_now_us() + LONG_US; !healed(); coordinate())
        if (clk_now_us() > until) FAIL("they do not go on: epoch %u, step %llu", t.es.now.number, (unsigned long long)t.step);
}

/* A few more steps, and then some: at a random moment of one. */
static void strike(int number) {
    uint64_t d = hash_u64(t.seed * 1000003 + (uint64_t)number);
    int64_t at = clk_now_us() + (int64_t)(d % 150000);
    while (clk_now_us() < at) coordinate();
    t.victim = 1 + (int)((d >> 20) % (CHAOS_RANKS - 1)); /* rank 0 lives through all of it */
    t.fault = (enum fault)((d >> 30) % 8);
    if (t.fault >= FAULTS) t.fault = (enum fault)((d >> 40) % STALL); /* stalls take seconds */
    t.verdict_us = 0;
    t.fault_us = clk_now_us();
    if (t.fault == KILL) kill(t.p[t.victim].pid, SIGKILL);
    if (t.fault == STOP || t.fault == PAUSE) kill(t.p[t.victim].pid, SIGSTOP);
    if (t.fault == PAUSE) t.continue_us = t.fault_us + 20000 + (int64_t)((d >> 45) % 200000);
    if (t.fault == STALL) tell(t.victim, (struct chaos_message){.kind = CHAOS_STALL, .us = LONG_US});
}

static void check_growth(const struct process *p, int number) {
    if (number == SETTLED) t.p[0].first_fds = p->fds, t.p[0].first_kib = p->resident_kib;
    if (number <= SETTLED) return;
    /* what it said last may be from before a peer came again, or since: that is some descriptors, not one for every fault */
    if (p->fds > p->first_fds + CHAOS_RANKS) FAIL("%ld descriptors after %d faults, %ld before", p->fds, number, p->first_fds);
    if (p->resident_kib > p->first_kib + 16384)
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
    if (strict) printf("  bound %.0f ms", (double)bound_us / 1e3);
    printf("\n");
    if (strict && p99 > bound_us) FAIL("%s: p99 is %.0f ms", l->what, (double)p99 / 1e3);
}

static void run(int faults, bool strict) {
    exchange_shape_make(&t.shape, t.seed, CHAOS_RANKS);
    member_init(&t.ms, &(struct member_limits){.workers = CHAOS_RANKS,
                                               .fabric = "",
                                               .lease_us = strict ? LEASE : PATIENT * LEASE,
                                               .loading_us = 12 * PATIENT * LEASE,
                                               .progress_us = 5 * CHAOS_PATIENCE_US,
                                               .patience_us = CHAOS_PATIENCE_US});
    epoch_init(&t.es, CHAOS_PATIENCE_US);
    t.step = 1;
    t.victim = -1;
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
    printf("%s: %d killed, %d stopped, %d paused, %d stalled; %llu steps, %u epochs\n", t.fabric, count[KILL], count[STOP],
           count[PAUSE], count[STALL], (unsigned long long)t.step, t.es.now.number);
    report(&verdicts, LEASE, strict);
    report(&recoveries, 700000, strict);
    report(&firsts, 100000, strict);
    kill_all();
}

static int open_ucx(int rank, int size, struct fabric **out, struct why *why) {
    return fabric_ucx_open(rank, size, "lo", out, why);
}
static int open_auto(int rank, int size, struct fabric **out, struct why *why) {
    return fabric_auto_open(rank, size, "lo", out, why);
}

int main(int argc, char **argv) {
    int faults = 8;
    bool strict = false;
    t.fabric = "shm";
    t.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--strict")) strict = true;
        else if (i + 1 == argc) die("%s wants a value", argv[i]);
        else if (!strcmp(argv[i], "--fabric")) t.fabric = argv[++i];
        else if (!strcmp(argv[i], "--faults")) faults = (int)strtol(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--seed")) t.seed = strtoull(argv[++i], NULL, 10);
        else die("unknown option %s", argv[i]);
    }
    log_set_level(LOG_ERROR);
    t.open = !strcmp(t.fabric, "ucx") ? open_ucx : !strcmp(t.fabric, "auto") ? open_auto : fabric_shm_open;
    t.board = mmap(NULL, sizeof *t.board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t.board == MAP_FAILED) die("no shared memory");
    run(faults < MAX_FAULTS ? faults : MAX_FAULTS, strict);
    return 0;
}
