/* team.c - claims, and how members wait.
 *
 * One 64-bit word `claim` holds the dispatch number (high half) and the tasks not yet claimed (low half). Members claim with
 * compare and swap of the whole word, and only while the low half is not zero; so a member that slept through several
 * dispatches can never take a task of one it did not see. It reads fn, arg and tasks between loading the word and swapping
 * it: if the swap succeeds, that dispatch had unclaimed tasks all the time, and the owner rewrites those fields only when
 * every task is done.
 *
 * A member with nothing to do spins for a few microseconds (the gap between two operations of a layer), yields a few times,
 * then sleeps on the dispatch number. With more threads than cores it does not spin: it would spin against the thread it
 * waits for. */
#include "kernels/cpu/team.h"

#include "base/clk.h"
#include "kernels/kernels.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE = 64,
    SPINS = 200, /* a pause is 20 to 40 ns: 200 are 4 to 8 us */
    YIELDS = 4,
    NAP_US = BACKEND_TASK_US / 2 /* of an owner that has something to do between tasks */
};

struct member {
    struct team *team;
    int index;
    pthread_t thread;
};

struct team {
    /* Written by the owner at a dispatch. */
    alignas(LINE) _Atomic uint64_t claim; /* dispatch << 32 | tasks not yet claimed */
    _Atomic uint32_t dispatch; /* the futex word of sleeping members; equal to the high half of claim, a moment later */
    _Atomic(team_fn *) fn;
    _Atomic(void *) arg;
    _Atomic uint32_t tasks;
    atomic_bool closing;
    /* Written by members. */
    alignas(LINE) _Atomic uint32_t done; /* tasks finished of this dispatch: the owner's futex word */
    alignas(LINE) _Atomic uint32_t sleepers;
    atomic_bool owner_sleeps;

    struct backend *backend; /* NULL: nothing to do between tasks */
    int64_t since_us;        /* when the owner last did it, or began */
    int threads, spins;
    struct member *members; /* [threads - 1]: 1 .. threads-1 */
};

/* us: at most, 0 for ever. Any wake-up, true or not: the caller looks again. */
static void futex_wait(_Atomic uint32_t *word, uint32_t seen, int us) {
    const struct timespec most = {.tv_nsec = us * 1000L};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, us ? &most : NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void cpu_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void between(struct team *t) {
    struct backend *b = t->backend;
    if (!b) return;
    int64_t now_us = clk_now_us();
    uint64_t us = (uint64_t)(now_us - t->since_us);
    t->since_us = now_us;
    b->tasks.n++;
    b->tasks.over += us > BACKEND_TASK_US;
    if (us > b->tasks.longest_us) b->tasks.longest_us = us;
    if (b->between.fn) b->between.fn(b->between.ctx);
}

void team_between(struct team *t, int thread) {
    if (thread == 0) between(t);
}

/* Runs tasks of the current dispatch until none is left to claim. */
static void work(struct team *t, int thread) {
    uint64_t word = atomic_load_explicit(&t->claim, memory_order_acquire);
    for (uint32_t left; (left = (uint32_t)word) != 0;) {
        team_fn *fn = atomic_load_explicit(&t->fn, memory_order_relaxed);
        void *arg = atomic_load_explicit(&t->arg, memory_order_relaxed);
        uint32_t tasks = atomic_load_explicit(&t->tasks, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&t->claim, &word, word - 1, memory_order_acq_rel, memory_order_acquire))
            continue;
        fn(arg, (int)(tasks - left), thread);
        uint32_t before = atomic_fetch_add(&t->done, 1);
        if (before + 1 == tasks && atomic_load(&t->owner_sleeps)) futex_wake(&t->done);
        if (thread == 0) between(t);
        word = atomic_load_explicit(&t->claim, memory_order_acquire);
    }
}

/* Returns when the dispatch number is no longer `seen`. */
static void await_dispatch(struct team *t, uint32_t seen) {
    for (int i = 0; i < t->spins; i++) {
        if (atomic_load_explicit(&t->dispatch, memory_order_acquire) != seen) return;
        cpu_pause();
    }
    for (int i = 0; i < YIELDS; i++) {
        if (atomic_load_explicit(&t->dispatch, memory_order_acquire) != seen) return;
        sched_yield();
    }
    atomic_fetch_add(&t->sleepers, 1); /* before the last look: the owner changes the number, then looks for sleepers */
    while (atomic_load(&t->dispatch) == seen) futex_wait(&t->dispatch, seen, 0);
    atomic_fetch_sub(&t->sleepers, 1);
}

static void await_done(struct team *t, uint32_t tasks) {
    for (int i = 0; i < t->spins; i++) {
        if (atomic_load_explicit(&t->done, memory_order_acquire) == tasks) return;
        cpu_pause();
    }
    for (int i = 0; i < YIELDS; i++) {
        if (atomic_load_explicit(&t->done, memory_order_acquire) == tasks) return;
        sched_yield();
        between(t);
    }
    const bool hooked = t->backend && t->backend->between.fn;
    atomic_store(&t->owner_sleeps, true);
    for (uint32_t seen; (seen = atomic_load(&t->done)) != tasks; between(t)) futex_wait(&t->done, seen, hooked ? NAP_US : 0);
    atomic_store(&t->owner_sleeps, false);
}

static void publish(struct team *t, uint32_t tasks) {
    uint32_t next = atomic_load_explicit(&t->dispatch, memory_order_relaxed) + 1;
    atomic_store_explicit(&t->claim, (uint64_t)next << 32 | tasks, memory_order_release);
    atomic_store(&t->dispatch, next);
    if (atomic_load(&t->sleepers)) futex_wake(&t->dispatch);
}

void team_set_backend(struct team *t, struct backend *b) { t->backend = b; }

void team_run(struct team *t, team_fn *fn, void *arg, int tasks) {
    if (t->backend) t->since_us = clk_now_us();
    if (t->threads == 1 || tasks <= 1) {
        for (int i = 0; i < tasks; i++) {
            fn(arg, i, 0);
            between(t);
        }
        return;
    }
    atomic_store_explicit(&t->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&t->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&t->tasks, (uint32_t)tasks, memory_order_relaxed);
    atomic_store_explicit(&t->done, 0, memory_order_relaxed);
    publish(t, (uint32_t)tasks);
    work(t, 0);
    await_done(t, (uint32_t)tasks);
}

static void *member_main(void *arg) {
    struct member *m = arg;
    struct team *t = m->team;
    uint32_t seen = 0; /* a new member may find a dispatch already there */
    for (;;) {
        await_dispatch(t, seen);
        seen = atomic_load(&t->dispatch);
        if (atomic_load(&t->closing)) return NULL;
        work(t, m->index);
    }
}

/* Members take no signals: those are for the process's own threads. */
static int start_member(struct member *m) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&m->thread, NULL, member_main, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) return rc;
    char name[16];
    snprintf(name, sizeof name, "team %d", m->index);
    pthread_setname_np(m->thread, name);
    return 0;
}

static int cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

int team_open(struct team **out, int threads, struct why *why) {
    struct team *t = aligned_alloc(LINE, sizeof *t);
    struct member *members = calloc((size_t)threads, sizeof *members);
    if (!t || !members) {
        free(t);
        free(members);
        return fail(why, ERR_NOMEM, "out of memory for a team of %d threads", threads);
    }
    memset(t, 0, sizeof *t);
    t->threads = 1;
    t->spins = threads <= cores() ? SPINS : 0;
    t->members = members;
    for (int i = 1; i < threads; i++, t->threads++) {
        members[i - 1] = (struct member){.team = t, .index = i};
        int rc = start_member(&members[i - 1]);
        if (rc) {
            team_close(t);
            return fail(why, ERR_EXHAUSTED, "cannot start compute thread %d of %d: %s", i + 1, threads, strerror(rc));
        }
    }
    *out = t;
    return 0;
}

void team_close(struct team *t) {
    if (!t) return;
    atomic_store(&t->closing, true);
    publish(t, 0);
    for (int i = 0; i < t->threads - 1; i++) pthread_join(t->members[i].thread, NULL);
    free(t->members);
    free(t);
}
