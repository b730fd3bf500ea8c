/* test_member.c - who may join, and who is declared dead when: every deadline, from both sides. */
#include "coordinator/member.h"

#include <stdio.h>
#include <string.h>

#include "tests/unit/run.h"

enum {
    MS = 1000,
    LEASE = 500 * MS,
    LOADING = 5000 * MS,
    PATIENCE = 2000 * MS,
    PROGRESS = 10000 * MS,
    BEAT = 100 * MS,
    TICK = 10 * MS
};
static struct members ms;
static struct why why;
static int64_t now;

static struct worker_hello hello(int rank) {
    return (struct worker_hello){
        .protocol = 1, .rank = (uint32_t)rank, .size = 3, .host = "a", .fabric = "mpi", .pid = 100 + (uint64_t)rank};
}
static struct worker_ready ready(void) { return (struct worker_ready){.fingerprint = 42, .numeric_class = "cpu/avx2"}; }

static void begin(void) {
    struct member_limits l = {.workers = 3,
                              .fabric = "mpi",
                              .fingerprint = 42,
                              .lease_us = LEASE,
                              .loading_us = LOADING,
                              .progress_us = PROGRESS,
                              .patience_us = PATIENCE};
    member_init(&ms, &l);
    now = 1000000;
}
static void begin_with(int workers) {
    begin();
    ms.limits.workers = workers;
    ms.awaited = UINT64_MAX >> (64 - workers);
}
static void join_all(void) {
    for (int i = 0; i < ms.limits.workers; i++) {
        struct worker_hello h = hello(i);
        h.size = (uint32_t)ms.limits.workers;
        struct worker_ready r = ready();
        ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
        member_welcomed(&ms, i, now);
        ck_assert_int_eq(member_ready(&ms, i, &r, now, &why), 0);
    }
    ck_assert(member_all_ready(&ms));
}
/* Ticks until `until`; members in `beating` beat, those in `moving` also move while busy. The first death, or -1. */
static int pass(int64_t until, unsigned beating, unsigned moving) {
    static uint64_t counter[8];
    for (; now < until; now += TICK) {
        for (int i = 0; i < ms.limits.workers && now % BEAT == 0; i++)
            if (beating >> i & 1) member_beat(&ms, i, counter[i] += moving >> i & 1, true, now);
        int dead = member_tick(&ms, now, &why);
        if (dead >= 0) return dead;
    }
    return -1;
}

START_TEST(seats) {
    begin_with(4);
    ck_assert_int_eq(member_seat(&ms, "a", 100, 2, now), 0);
    ck_assert_int_eq(member_seat(&ms, "b", 100, 2, now), 1);
    ck_assert_int_eq(member_seat(&ms, "b", 100, 2, now), 1); /* said again */
    ck_assert_int_eq(member_seat(&ms, "c", 7, 2, now), -1);
    ck_assert_int_eq(member_seat(&ms, "c", 7, 4, now), 2);
    now += 60 * 1000 * MS;
    ck_assert_int_eq(member_seat(&ms, "d", 8, 2, now), 0); /* nobody came */
    join_all();
    ck_assert_int_eq(member_seat(&ms, "e", 9, 4, now), -1);
    member_gone(&ms, 2, false);
    ck_assert_int_eq(member_seat(&ms, "e", 9, 4, now), -1); /* its successor may be on its way */
    member_gone(&ms, 1, true);
    ck_assert_int_eq(member_seat(&ms, "e", 9, 4, now), 1);
}
END_TEST

START_TEST(refusals) {
    struct {
        struct worker_hello h;
        const char *says;
    } cases[] = {{hello(0), "protocol version 2; this coordinator speaks 1"},
                 {hello(0), "one of 4 workers"},
                 {hello(0), "rank 3 of 3"},
                 {hello(0), "fabric 'mem'; this cluster runs 'mpi'"}};
    cases[0].h.protocol = 2;
    cases[1].h.size = 4;
    cases[2].h.rank = 3;
    snprintf(cases[3].h.fabric, sizeof cases[3].h.fabric, "mem");
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(member_hello(&ms, &cases[i].h, now, &why), ERR_DENIED);
        ck_assert_msg(strstr(why.text, cases[i].says) != NULL, "%s", why.text);
    }
    struct worker_hello h = hello(1), twin = hello(1);
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
    twin.pid = 999;
    ck_assert_int_eq(member_hello(&ms, &twin, now, &why), ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(why.text, "rank 1 is taken: a pid 101 has it (connected), this is a pid 999"));
    ck_assert_int_eq(member_count(&ms, WORKER_CONNECTED), 1);
    char list[32];
    member_list(&ms, WORKER_EXPECTED, list, sizeof list);
    ck_assert_str_eq(list, "0, 2");
}
END_TEST

/* Whoever outlived a coordinator goes on where the next one knows of it, and says no number after which none is left. */
START_TEST(outlives) {
    const struct {
        uint32_t incarnation, epoch;
        uint64_t step;
        const char *says; /* NULL: it is taken */
    } cases[] = {{8, 3, 100, "of a cluster of which nothing is known here"},
                 {7, UINT32_MAX, 100, "has heard of epoch 4294967295"},
                 {7, 3, UINT64_MAX, "and step 18446744073709551615"},
                 {7, 3, 100, NULL}};
    ms.earlier = 7;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct worker_hello h = hello(0);
        h.held_incarnation = cases[i].incarnation, h.held_epoch = cases[i].epoch, h.held_step = cases[i].step;
        ck_assert_int_eq(member_hello(&ms, &h, now, &why), cases[i].says ? ERR_DENIED : 0);
        ck_assert_msg(!cases[i].says || strstr(why.text, cases[i].says), "%s", why.text);
        ck_assert_int_eq(member_count(&ms, WORKER_CONNECTED), !cases[i].says);
    }
    ck_assert_uint_eq(ms.m[0].incarnation, 7);
    struct worker_hello twin = hello(1);
    twin.held_incarnation = 7;
    ck_assert_int_eq(member_hello(&ms, &twin, now, &why), ERR_DENIED); /* two cannot be one */
}
END_TEST

/* What peers are told of each other: a number that no process before had, the host, the address. */
START_TEST(who_they_are) {
    static const uint8_t address[MSG_ADDRESS_BYTES + 1] = {7, 8, 9};
    const char *hosts[] = {"b#1", "a#1", "b#1"};
    struct worker_hello h;
    for (int i = 0; i < 3; i++) {
        h = hello(i);
        snprintf(h.host_id, sizeof h.host_id, "%s", hosts[i]);
        h.address = address, h.address_bytes = (size_t)i;
        ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
        ck_assert_uint_eq(ms.m[i].incarnation, (uint32_t)i + 1);
        ck_assert_uint_eq(ms.m[i].address_bytes, (size_t)i);
        ck_assert_mem_eq(ms.m[i].address, address, (size_t)i);
    }
    ck_assert_int_eq(member_host(&ms, 0), 0);
    ck_assert_int_eq(member_host(&ms, 1), 1);
    ck_assert_int_eq(member_host(&ms, 2), 0);
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
    ck_assert_uint_eq(ms.m[2].incarnation, 3); /* it only lost its connection */
    ck_assert_int_ge(member_release(&ms, now + 6 * LEASE, &why), 0);
    h.rank = 0, h.pid = 777;
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
    ck_assert_uint_eq(ms.m[0].incarnation, 4);
    h.rank = 1, h.address_bytes = sizeof address;
    member_init(&ms, &(struct member_limits){.workers = 3, .fabric = "mpi"});
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(why.text, "4097 bytes"));
}
END_TEST

START_TEST(both_values) {
    for (int i = 0; i < 2; i++) {
        struct worker_hello h = hello(i);
        ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
        member_welcomed(&ms, i, now);
    }
    struct worker_ready r = ready();
    r.fingerprint = 43;
    ck_assert_int_eq(member_ready(&ms, 0, &r, now, &why), ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(why.text, "000000000000002b"));
    ck_assert_ptr_nonnull(strstr(why.text, "000000000000002a"));
    r = ready();
    ck_assert_int_eq(member_ready(&ms, 0, &r, now, &why), 0);
    ck_assert_int_eq(member_ready(&ms, 0, &r, now, &why), ERR_DENIED); /* twice */
    snprintf(r.numeric_class, sizeof r.numeric_class, "cpu/avx512");
    ck_assert_int_eq(member_ready(&ms, 1, &r, now, &why), ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(why.text, "'cpu/avx512'; this cluster runs 'cpu/avx2'"));
    ck_assert(!member_all_ready(&ms));
}
END_TEST

START_TEST(lease) {
    join_all();
    int64_t start = now;
    ck_assert_int_eq(pass(start + 2000 * MS, 7, 7), -1);
    start = now;
    ck_assert_int_eq(pass(start + 300 * MS, 5, 5), -1);
    ck_assert_int_eq(ms.m[1].state, WORKER_SUSPECT);
    ck_assert(member_all_ready(&ms) && member_alive(&ms, 1));
    ck_assert_int_eq(pass(now + BEAT, 7, 7), -1); /* it is back */
    ck_assert_int_eq(ms.m[1].state, WORKER_READY);
    start = now;
    ck_assert_int_eq(pass(start + 5000 * MS, 5, 5), 1);
    ck_assert_ptr_nonnull(strstr(why.text, "worker 1 (a pid 101) is dead: silent"));
    ck_assert_int_eq(ms.m[1].state, WORKER_DEAD);
    ck_assert(!member_alive(&ms, 1));
    ck_assert_int_eq(pass(now + 2000 * MS, 5, 5), -1); /* told once */
}
END_TEST

/* From falling silent to the verdict, wherever between two beats that was: never more than the lease, though ticks
 * come as late as a tenth of it; and never a verdict over one that misses three beats. */
START_TEST(a_verdict_keeps_the_lease) {
    join_all();
    for (int64_t fell = 0; fell < BEAT; fell += MS) {
        begin();
        join_all();
        int64_t beat = now, silent = now + fell; /* the last beat is the one before */
        ck_assert_int_le(member_next_us(&ms), beat + LEASE / 2);
        for (; now < beat + 4 * BEAT; now += 50 * MS) {
            for (int i = 0; i < 2; i++) member_beat(&ms, i, 0, false, now);
            ck_assert_int_eq(member_tick(&ms, now, &why), -1);
        }
        for (int i = 0; i < 2; i++) member_beat(&ms, i, 0, false, now);
        now = member_next_us(&ms);
        ck_assert_int_eq(member_tick(&ms, now, &why), 2);
        ck_assert_int_le(now - silent + LEASE / 10, LEASE);
    }
}
END_TEST

START_TEST(own_stall_blames_nobody) {
    join_all();
    ck_assert_int_eq(pass(now + 1000 * MS, 7, 7), -1);
    now += 60 * 1000 * MS; /* the coordinator was stopped for a minute: beats wait unread */
    ck_assert_int_eq(member_tick(&ms, now, &why), -1);
    ck_assert_int_eq(pass(now + 300 * MS, 7, 7), -1);
    ck_assert_int_eq(member_count(&ms, WORKER_READY), 3);
}
END_TEST

START_TEST(loading_is_given_time) {
    for (int i = 0; i < 3; i++) {
        struct worker_hello h = hello(i);
        ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
    }
    ck_assert_int_eq(pass(now + 10000 * MS, 0, 0), -1); /* nobody dies of silence before Welcome */
    for (int i = 0; i < 3; i++) member_welcomed(&ms, i, now);
    int64_t start = now;
    ck_assert_int_eq(pass(start + 10000 * MS, 3, 3), 2);
    ck_assert_int_ge(now - start, LOADING);
    ck_assert_ptr_nonnull(strstr(why.text, "while loading"));
}
END_TEST

START_TEST(who_goes_before_the_welcome_frees_its_rank) {
    struct worker_hello h = hello(1), other = hello(1);
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
    ck_assert_int_eq(pass(now + 3 * LEASE - BEAT, 0, 0), -1);
    ck_assert_int_eq(member_release(&ms, now, &why), -1);
    member_seen(&ms, 1, now); /* its Hello again */
    ck_assert_int_eq(pass(now + 2 * LEASE, 0, 0), -1);
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0); /* over a new connection: the same process */
    int64_t start = now;
    while (member_tick(&ms, now, &why) < 0 && member_release(&ms, now, &why) < 0) now += TICK;
    ck_assert_int_eq(now - start, 3 * LEASE);
    ck_assert_ptr_nonnull(strstr(why.text, "worker 1 (a pid 101) went before all had come"));
    ck_assert_int_eq(ms.m[1].state, WORKER_EXPECTED);
    other.pid = 999;
    ck_assert_int_eq(member_hello(&ms, &other, now, &why), 0);
    now += 60 * 1000 * MS; /* the coordinator itself stood still: its Hellos wait unread */
    ck_assert_int_eq(member_tick(&ms, now, &why), -1);
    ck_assert_int_eq(member_release(&ms, now, &why), -1);
}
END_TEST

START_TEST(absurd_progress) { /* counts come from the network: more than all is all, and repeating it is not moving */
    struct worker_hello h = hello(0);
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
    member_welcomed(&ms, 0, now);
    ck_assert_uint_eq(member_load_percent(&ms.m[0]), 0);
    member_load(&ms, 0, 900, 100, now);
    ck_assert_uint_eq(member_load_percent(&ms.m[0]), 100);
    int64_t moved = now;
    member_load(&ms, 0, 900, 100, now += TICK);
    ck_assert_int_eq(ms.m[0].moved_us, moved);
    member_load(&ms, 0, UINT64_MAX / 2, UINT64_MAX, now);
    ck_assert_uint_eq(member_load_percent(&ms.m[0]), 50);
}
END_TEST

/* ---- who is to blame ---- */

static void accuse_at(int64_t at, unsigned beating, int rank, uint64_t late) {
    ck_assert_int_eq(pass(at, beating, 0), -1);
    member_accuse(&ms, rank, late, 0, now);
}

START_TEST(progress) { /* worker 0's engine hangs in a step; 2 waits for it, and 1 for 2 */
    join_all();
    ck_assert_int_eq(pass(now + 2000 * MS, 7, 7), -1);
    int64_t start = now;
    accuse_at(start + PATIENCE, 7, 1, 4);
    accuse_at(start + PATIENCE + 100 * MS, 7, 2, 1);
    ck_assert_int_eq(pass(start + 20000 * MS, 7, 0), 0);
    ck_assert_int_le(now - start, PATIENCE + PATIENCE / 4 + 200 * MS);
    ck_assert_ptr_nonnull(
        strstr(why.text, "worker 0 (a pid 100) is dead: worker 2 waits for it, and its engine has not moved"));
}
END_TEST

START_TEST(unaccused) { /* an engine hangs that nobody needs: the last resort */
    join_all();
    int64_t start = now;
    ck_assert_int_eq(pass(start + 60000 * MS, 7, 3), 2);
    ck_assert(now - start >= PROGRESS && now - start <= PROGRESS + 200 * MS);
    begin();
    join_all();
    member_patience(&ms, 2 * PROGRESS); /* a plan that may take so long */
    start = now;
    ck_assert_int_eq(pass(start + 60000 * MS, 7, 3), 2);
    ck_assert(now - start >= 4 * PROGRESS && now - start <= 4 * PROGRESS + 200 * MS);
}
END_TEST

/* It never began what it was told to do, and says that it is idle. */
START_TEST(a_plan_that_is_never_begun) {
    join_all();
    int64_t start = now;
    for (int i = 0; i < 3; i++) member_planned(&ms, i, now);
    for (int i = 0; i < 2; i++) member_done(&ms, i, now);
    for (; now < start + 60000 * MS; now += BEAT) {
        for (int i = 0; i < 3; i++) member_beat(&ms, i, 0, false, now);
        int dead = member_tick(&ms, now, &why);
        if (dead < 0) continue;
        ck_assert_int_eq(dead, 2);
        ck_assert_int_eq(now - start, PROGRESS);
        return;
    }
    ck_abort_msg("nobody was named");
}
END_TEST

/* Accused, but its engine works: nobody dies, and the accusation is forgotten when the accuser moves. */
START_TEST(late_but_moving) {
    join_all();
    member_accuse(&ms, 0, 2, 0, now);
    ck_assert_int_eq(pass(now + 10000 * MS, 7, 6), -1);
    ck_assert_int_eq(pass(now + 60000 * MS, 7, 7), -1);
    ck_assert_uint_eq(ms.m[0].accuses, 0);
}
END_TEST

/* One prefill step of 3 s, all of it between two signs of progress, at one worker; the others wait for it meanwhile. What the
 * plan predicts is what they are patient for; even those who were told nothing of it hold their verdict while it moves. */
START_TEST(a_long_prefill_evicts_nobody) {
    for (int told = 0; told < 2; told++) {
        begin();
        join_all();
        for (int step = 0; step < 5; step++) {
            int64_t start = now;
            if (told) member_patience(&ms, 10 * 3000 * MS);
            ck_assert_int_eq(pass(start + 1900 * MS, 7, 0), -1);
            if (!told) ck_assert_int_eq(pass(start + 2000 * MS, 7, 4), -1); /* a layer of it */
            if (!told) member_accuse(&ms, 0, 4, 0, now), member_accuse(&ms, 1, 4, 0, now);
            ck_assert_int_eq(pass(start + 3000 * MS, 7, 0), -1);
            ck_assert_int_eq(pass(now + 100 * MS, 7, 7), -1);
        }
        ck_assert_int_eq(member_count(&ms, WORKER_READY), 3);
    }
}
END_TEST

/* A long plan is over, and the next ones ask for less patience: whoever has just finished it is not judged by that, though its
 * beats do not say so yet. */
START_TEST(the_end_of_a_long_step) {
    join_all();
    member_patience(&ms, 30000 * MS);
    int64_t start = now;
    accuse_at(start + PATIENCE, 7, 1, 4); /* it is in the step after that already, whose patience is short */
    ck_assert_int_eq(pass(start + 3000 * MS, 7, 0), -1);
    for (int i = 0; i < 3; i++) member_done(&ms, i, now);
    member_patience(&ms, PATIENCE);
    ck_assert_int_eq(member_tick(&ms, now, &why), -1);
    ck_assert_int_eq(pass(now + 1000 * MS, 7, 7), -1);
}
END_TEST

START_TEST(idle_owes_nothing) {
    join_all();
    for (int i = 0; i < 1000; i++, now += BEAT) {
        for (int w = 0; w < 3; w++) member_beat(&ms, w, 5, false, now);
        ck_assert_int_eq(member_tick(&ms, now, &why), -1);
    }
}
END_TEST

/* Frames from `from` to `to` are lost: `to` waits for them and answers nobody, so all wait for it. */
START_TEST(one_way_partition) {
    enum { WORKERS = 5 };
    for (int from = 0; from < WORKERS; from++) {
        for (int to = 0; to < WORKERS; to++) {
            if (from == to) continue;
            begin_with(WORKERS);
            join_all();
            int64_t start = now;
            accuse_at(start + PATIENCE, 31, to, UINT64_C(1) << from); /* it notices first */
            ck_assert_int_eq(pass(start + PATIENCE + 300 * MS, 31, 0), -1);
            for (int i = 0; i < WORKERS; i++)
                if (i != to) member_accuse(&ms, i, UINT64_C(1) << to, 0, now);
            ck_assert_int_eq(pass(start + 20000 * MS, 31, 0), to);
            ck_assert_int_le(now - start, PATIENCE * 5 / 4 + 400 * MS);
            ck_assert_ptr_nonnull(strstr(why.text, "4 workers wait for it"));
            ck_assert_ptr_nonnull(strstr(why.text, "it waits as well"));
            unsigned left = 31u & ~(1u << to);
            ck_assert_int_eq(member_tick(&ms, now, &why), -1);      /* nobody else goes for it */
            ck_assert_int_eq(pass(now + 200 * MS, left, left), -1); /* the others go on */
            ck_assert_int_eq(pass(now + 5000 * MS, left, left), -1);
        }
    }
    begin_with(2); /* two alone cannot tell: the higher rank goes */
    join_all();
    ck_assert_int_eq(pass(now + PATIENCE, 3, 0), -1);
    member_accuse(&ms, 0, 2, 0, now);
    member_accuse(&ms, 1, 1, 0, now);
    ck_assert_int_eq(pass(now + 10000 * MS, 3, 0), 1);
}
END_TEST

/* 4 sends what 0 never gets, and is a step further; 2 is asked for by most, but waits rightly for 0, which is behind. */
START_TEST(a_bystander_with_most_accusers) {
    begin_with(5);
    join_all();
    ck_assert_int_eq(pass(now + PATIENCE, 31, 0), -1);
    member_accuse(&ms, 0, 16, 743, now);
    member_accuse(&ms, 2, 1, 744, now);
    member_accuse(&ms, 1, 4, 745, now);
    member_accuse(&ms, 3, 4, 745, now);
    member_accuse(&ms, 4, 4, 745, now);
    ck_assert_int_eq(pass(now + 10000 * MS, 31, 0), 4);
}
END_TEST

/* 3 sends what 1 never gets. 0 is to pass on to its host what 1 sends, and so is asked for by most, where it waits itself. */
START_TEST(a_relay_with_most_accusers) {
    begin_with(4);
    join_all();
    for (int i = 0; i < 4; i++) snprintf(ms.m[i].host_id, sizeof ms.m[i].host_id, "%s", i == 1 ? "b#1" : "a#1");
    ck_assert_int_eq(pass(now + PATIENCE, 15, 0), -1);
    member_accuse(&ms, 1, 8, 743, now);
    member_accuse(&ms, 0, 2, 744, now);
    member_accuse(&ms, 2, 1, 744, now);
    member_accuse(&ms, 3, 1, 744, now);
    ck_assert_int_eq(pass(now + 10000 * MS, 15, 0), 3);
}
END_TEST

/* 0 has answered all its plans, but a frame of it never came to 2, for which the others wait: a link that works one way. */
START_TEST(one_end_has_done_all) {
    for (int both = 0; both < 2; both++) {
        begin_with(4);
        join_all();
        for (int i = 0; i < 4; i++) member_planned(&ms, i, now);
        member_done(&ms, 0, now);
        int64_t start = now;
        int dead = -1;
        for (; dead < 0 && now < start + 2 * PATIENCE; now += BEAT) {
            for (int i = 0; i < 4; i++) member_beat(&ms, i, 1, i > 0, now);
            if (now == start + PATIENCE) member_accuse(&ms, 2, 1, 743, now);
            if (now == start + PATIENCE && both) member_accuse(&ms, 1, 4, 745, now), member_accuse(&ms, 3, 4, 745, now);
            dead = member_tick(&ms, now, &why);
        }
        ck_assert_int_eq(dead, both ? 2 : 0);
    }
}
END_TEST

/* It has done its part and sleeps, but what it sent never came: who cannot go on without it has nobody else to name. */
START_TEST(accused_while_idle) {
    join_all();
    int64_t start = now;
    for (; now < start + 10000 * MS; now += BEAT) {
        member_beat(&ms, 0, 1, true, now);
        member_beat(&ms, 1, 1, false, now);
        member_beat(&ms, 2, 1, false, now);
        if (now == start + PATIENCE) member_accuse(&ms, 0, 2, 0, now);
        int dead = member_tick(&ms, now, &why);
        if (dead < 0) continue;
        ck_assert_int_eq(dead, 1);
        ck_assert_int_le(now - start, PATIENCE * 5 / 4 + 200 * MS);
        return;
    }
    ck_abort_msg("nobody was named");
}
END_TEST

/* 0 hangs. 3 computed for longer than the others, so when their accusations are ripe it has waited for 0 for not quite as long
 * as it takes to say so, and is not taken for the one that hangs. */
START_TEST(who_began_to_wait_later_is_heard) {
    begin_with(5);
    join_all();
    ck_assert_int_eq(pass(now + 200 * MS, 31, 31), -1);
    int64_t start = now;
    ck_assert_int_eq(pass(start + PATIENCE / 5 + MS, 31, 1 << 3), -1);
    ck_assert_int_eq(pass(start + PATIENCE, 31, 0), -1);
    member_accuse(&ms, 1, 1 | 1 << 2, 1, now);
    member_accuse(&ms, 2, 1 << 1 | 1 << 3, 1, now);
    member_accuse(&ms, 4, 1 | 1 << 3, 1, now);
    ck_assert_int_eq(pass(start + 2 * PATIENCE, 31, 0), 0);
}
END_TEST

START_TEST(ring_of_accusations) {
    join_all();
    ck_assert_int_eq(pass(now + 200 * MS, 7, 7), -1);
    for (int w = 0; w < 3; w++) member_accuse(&ms, w, 1u << ((w + 1) % 3), 0, now);
    ck_assert_int_eq(pass(now + 30000 * MS, 7, 0), 2);
    ck_assert_ptr_nonnull(strstr(why.text, "it waits as well"));
}
END_TEST

/* Accusations of and against the dead count for nothing. */
START_TEST(the_dead_accuse_nobody) {
    join_all();
    member_accuse(&ms, 2, 1, 0, now);
    member_gone(&ms, 2, false);
    member_accuse(&ms, 1, 4, 0, now);
    ck_assert_int_eq(pass(now + 4 * PATIENCE, 3, 0), -1);
}
END_TEST

START_TEST(a_restarted_process_may_come) {
    join_all();
    member_gone(&ms, 1, false);
    uint32_t before = ms.m[1].incarnation;
    struct worker_hello h = hello(1);
    h.pid = 999;
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), ERR_DENIED);
    member_forget(&ms, 1);
    ck_assert_int_eq(member_hello(&ms, &h, now, &why), 0);
    ck_assert_uint_gt(ms.m[1].incarnation, before);
    ck_assert_uint_eq(ms.m[1].accuses, 0);
    struct worker_ready r = ready();
    member_welcomed(&ms, 1, now);
    ck_assert_int_eq(member_ready(&ms, 1, &r, now, &why), 0);
    ck_assert(member_all_ready(&ms));
}
END_TEST

START_TEST(leaving) {
    join_all();
    member_gone(&ms, 0, true);
    member_gone(&ms, 0, false); /* harmless */
    ck_assert_int_eq(ms.m[0].state, WORKER_LEFT);
    member_gone(&ms, 1, false);
    ck_assert_int_eq(ms.m[1].state, WORKER_DEAD);
    ck_assert_str_eq(worker_state_name(ms.m[1].state), "dead");
}
END_TEST

RUN("member", begin, NULL, seats, refusals, both_values, lease, a_verdict_keeps_the_lease, own_stall_blames_nobody,
    loading_is_given_time, who_goes_before_the_welcome_frees_its_rank, who_they_are, outlives, absurd_progress, progress,
    unaccused, late_but_moving, a_plan_that_is_never_begun, a_long_prefill_evicts_nobody, the_end_of_a_long_step,
    idle_owes_nothing, one_way_partition, a_bystander_with_most_accusers, a_relay_with_most_accusers, one_end_has_done_all,
    accused_while_idle, who_began_to_wait_later_is_heard, ring_of_accusations, the_dead_accuse_nobody,
    a_restarted_process_may_come, leaving)
