/* test_fabric_ucx_deaths.c - ranks over UCX that are killed, stopped and followed by successors, while others go on. */
#include <signal.h>

#include "base/hash.h"
#include "tests/unit/fabric/procs.h"

#include "tests/unit/run.h"

#undef fail /* of check.h; ours is a function */

#ifdef __SANITIZE_ADDRESS__
enum { HOARDS = 1 }; /* memory that was freed is kept for a while */
#else
enum { HOARDS = 0 };
#endif
enum {
    FRAME_BYTES = 200000, /* some beyond what UCX sends at once, so that it is killed in the midst of fetching, too */
    PATIENCE_US = 60000000,
    PACE_US = 200, /* between frames of survivors to each other */
    SURVIVORS = 2,
    VICTIM = SURVIVORS, /* the rank that dies, again and again */
    SETTLED = 30,       /* deaths after which nothing may grow any more */
    ENOUGH = 5          /* frames a survivor wants of each life */
};
enum { SEEN, PEER_FRAMES, FDS, RSS_KIB }; /* values on the board: the life that was heard enough of, frames of survivors, ... */

static int deaths = 2 * SETTLED; /* --deaths */

/* Sends numbered frames of many sizes, and checks that those that come are numbered without a gap. */
struct flow {
    int peer;
    uint64_t sent, got;
};

static size_t size_of(uint64_t number) {
    return sizeof number + hash_u64(number) % (number % 8 ? 1000 : FRAME_BYTES - sizeof number);
}

static bool flow_send(struct fabric *f, struct flow *w) {
    size_t bytes = size_of(w->sent);
    unsigned char *room = fabric_reserve(f, w->peer, bytes);
    if (!room) return false;
    memset(room, (int)w->sent, bytes);
    memcpy(room, &w->sent, sizeof w->sent);
    fabric_commit(f, w->peer, bytes);
    w->sent++;
    return true;
}

static int flow_take(struct fabric *f, struct flow *w, struct why *why) {
    size_t bytes;
    uint64_t number;
    const unsigned char *frame = fabric_take(f, w->peer, &bytes);
    if (!frame) return 0;
    if (bytes != size_of(w->got) || (memcpy(&number, frame, sizeof number), number != w->got) ||
        (bytes > sizeof number && frame[bytes - 1] != (unsigned char)number))
        return fail(why, ERR_CORRUPT, "frame %d of rank %d is another one", (int)w->got, w->peer);
    fabric_give(f, w->peer, frame);
    w->got++;
    return 1;
}

/* Whether anything moved. */
static int flow_move(struct fabric *f, struct flow *w, struct why *why) {
    bool sent = flow_send(f, w);
    int rc = flow_take(f, w, why);
    return rc < 0 ? rc : sent || rc;
}

static int victim_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    struct flow flows[SURVIVORS] = {{.peer = 0}, {.peer = 1}};
    int rc = fabric_ucx_open(rank, SURVIVORS + 1, &(struct fabric_net){.devices = "lo"}, &f, why);
    if (rc == 0) rc = procs_meet(b, f, FRAME_BYTES, incarnation, why);
    while (rc >= 0) {
        int moved = 0;
        for (int i = 0; i < SURVIVORS && rc >= 0; i++) moved |= rc = flow_move(f, &flows[i], why);
        if (rc >= 0 && !moved) rc = fabric_wait(f, clk_now_us() + PATIENCE_US);
    }
    return rc; /* only when something is wrong: it is killed long before */
}

static int survivor_loop(struct board *b, struct fabric *f, struct why *why) {
    struct board_rank *me = &b->rank[f->rank];
    struct flow other = {.peer = !f->rank}, victim = {.peer = VICTIM};
    uint32_t life = 0, shown;
    int64_t deadline_us = clk_now_us() + PATIENCE_US, due_us = 0;
    while (!atomic_load(&b->stop)) {
        if ((shown = atomic_load(&b->rank[VICTIM].incarnation)) > life) {
            int rc = procs_attach(b, f, VICTIM, life, why);
            if (rc < 0) return rc;
            life = (uint32_t)rc;
            victim = (struct flow){.peer = VICTIM};
            atomic_store(&me->value[FDS], procs_fds());
            atomic_store(&me->value[RSS_KIB], procs_resident_kib());
            deadline_us = clk_now_us() + PATIENCE_US;
        }
        bool due = clk_now_us() >= due_us; /* survivors do not take the cores from new lives */
        if (due) due_us = clk_now_us() + PACE_US;
        int a = due ? flow_move(f, &other, why) : flow_take(f, &other, why);
        int v = a < 0 ? a : flow_move(f, &victim, why);
        if (v < 0) return v;
        atomic_store(&me->value[PEER_FRAMES], (long)other.got);
        if (victim.got >= ENOUGH) atomic_store(&me->value[SEEN], (long)life);
        if (a || v) continue;
        int rc = fabric_wait(f, clk_now_us() + 1000); /* a new life is shown without a frame */
        if (rc < 0 && rc != ERR_DEADLINE) return fail(why, rc, "waiting");
        if (clk_now_us() >= deadline_us) return fail(why, ERR_DEADLINE, "life %u sent %d frames", life, (int)victim.got);
    }
    return 0;
}

static int survivor_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    int rc = fabric_ucx_open(rank, SURVIVORS + 1, &(struct fabric_net){.devices = "lo"}, &f, why);
    if (rc == 0) rc = fabric_prepare(f, FRAME_BYTES, incarnation, why);
    if (rc == 0) board_publish(b, f, incarnation);
    if (rc == 0) rc = procs_attach(b, f, !rank, 0, why);
    if (rc >= 0) rc = survivor_loop(b, f, why);
    fabric_close(f);
    return rc;
}

/* Kills a life once both survivors heard enough of it, or as soon as it can be connected to; and a little later, each time
 * another while. */
static void kill_life(struct board *b, pid_t pid, uint32_t life) {
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    while (life % 3 == 0 && atomic_load(&b->rank[VICTIM].incarnation) < life) {
        if (clk_now_us() >= deadline_us) ck_abort_msg("life %u does not begin: %s", life, b->rank[VICTIM].text);
        sched_yield();
    }
    for (int i = 0; i < SURVIVORS && life % 3; i++)
        ck_assert_msg(procs_await(&b->rank[i].value[SEEN], (long)life, NULL) == 0, "life %u: %s %s %s", life, b->rank[0].text,
                      b->rank[1].text, b->rank[VICTIM].text);
    for (uint64_t n = hash_u64(life) % 200; n; n--) sched_yield();
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(procs_end(pid), ERR_GONE);
}

/* Frames of survivors to each other still arrive. */
static void others_go_on(struct board *b, uint32_t life) {
    long frames[SURVIVORS];
    for (int i = 0; i < SURVIVORS; i++) frames[i] = atomic_load(&b->rank[i].value[PEER_FRAMES]);
    for (int i = 0; i < SURVIVORS; i++)
        ck_assert_msg(procs_await(&b->rank[i].value[PEER_FRAMES], frames[i] + 1, NULL) == 0,
                      "rank %d hears no more of its peer after the death of life %u: %s %s", i, life, b->rank[0].text,
                      b->rank[1].text);
}

START_TEST(killed_many_times) {
    struct board *b = board_new();
    pid_t survivors[SURVIVORS];
    long fds[SURVIVORS], rss[SURVIVORS];
    ck_assert_ptr_nonnull(b);
    for (int i = 0; i < SURVIVORS; i++) survivors[i] = procs_start(b, survivor_main, i, (uint32_t)i + 1);
    for (uint32_t life = 3; life < 3 + (uint32_t)deaths; life++) {
        pid_t victim = procs_start(b, victim_main, VICTIM, life);
        kill_life(b, victim, life);
        others_go_on(b, life);
        for (int i = 0; i < SURVIVORS && life == SETTLED; i++) {
            fds[i] = atomic_load(&b->rank[i].value[FDS]);
            rss[i] = atomic_load(&b->rank[i].value[RSS_KIB]);
        }
    }
    for (int i = 0; i < SURVIVORS; i++) {
        printf("rank %d: %ld -> %ld fds, %ld -> %ld KiB\n", i, fds[i], (long)b->rank[i].value[FDS], rss[i],
               (long)b->rank[i].value[RSS_KIB]);
        ck_assert_int_le(atomic_load(&b->rank[i].value[FDS]), fds[i] + 6); /* some are just being closed */
        if (!HOARDS) ck_assert_int_le(atomic_load(&b->rank[i].value[RSS_KIB]), rss[i] + 6000);
    }
    atomic_store(&b->stop, 1);
    for (int i = 0; i < SURVIVORS; i++) ck_assert_msg(procs_end(survivors[i]) == 0, "rank %d: %s", i, b->rank[i].text);
    board_free(b);
}
END_TEST

/* ---- stopped ---- */

enum { READY, FULL, RESUMED };

/* Sends until there is no room, waits in vain until a deadline, and goes on when told. */
static int sender_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    struct flow w = {.peer = 1};
    int rc = fabric_ucx_open(rank, 2, &(struct fabric_net){.devices = "lo"}, &f, why);
    if (rc == 0) rc = procs_meet(b, f, FRAME_BYTES, incarnation, why);
    if (rc == 0) rc = procs_await(&b->rank[1].value[READY], 1, f);
    atomic_store(&b->rank[0].value[READY], 1);
    if (rc == 0) rc = procs_await(&b->rank[1].value[FULL], 1, f); /* it is stopped now */
    while (rc == 0) {
        while (flow_send(f, &w)) continue;
        rc = fabric_wait(f, clk_now_us() + 50000);
    }
    if (rc != ERR_DEADLINE) return fail(why, rc, "a stopped reader takes frames");
    if (w.sent > 2 * FABRIC_DEPTH) return fail(why, ERR_EXHAUSTED, "%d frames to a stopped reader", (int)w.sent);
    if (fabric_flush(f, clk_now_us() + 1000) > 0) return fail(why, ERR_INVALID, "flush");
    atomic_store(&b->rank[0].value[FULL], 1);
    rc = 0;
    for (int64_t deadline_us = clk_now_us() + PATIENCE_US; w.sent < 200 && rc == 0;)
        if (!flow_send(f, &w)) rc = fabric_wait(f, deadline_us);
    if (rc == 0) rc = fabric_flush(f, clk_now_us() + PATIENCE_US);
    fabric_close(f);
    return rc;
}

static int reader_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    struct flow w = {.peer = 0};
    int rc = fabric_ucx_open(rank, 2, &(struct fabric_net){.devices = "lo"}, &f, why);
    if (rc == 0) rc = procs_meet(b, f, FRAME_BYTES, incarnation, why);
    atomic_store(&b->rank[1].value[READY], 1);
    for (int64_t deadline_us = clk_now_us() + PATIENCE_US; w.got < 200 && rc >= 0;)
        if ((rc = flow_take(f, &w, why)) == 0) rc = fabric_wait(f, deadline_us);
    fabric_close(f);
    return rc;
}

START_TEST(stopped_reader) {
    struct board *b = board_new();
    ck_assert_ptr_nonnull(b);
    pid_t reader = procs_start(b, reader_main, 1, 2), sender = procs_start(b, sender_main, 0, 1);
    ck_assert_msg(procs_await(&b->rank[0].value[READY], 1, NULL) == 0, "%s %s", b->rank[0].text, b->rank[1].text);
    ck_assert_int_eq(kill(reader, SIGSTOP), 0);
    atomic_store(&b->rank[1].value[FULL], 1);
    int rc = procs_await(&b->rank[0].value[FULL], 1, NULL);
    ck_assert_int_eq(kill(reader, SIGCONT), 0);
    ck_assert_msg(rc == 0, "%s", b->rank[0].text);
    ck_assert_msg(procs_end(sender) == 0, "%s", b->rank[0].text);
    ck_assert_msg(procs_end(reader) == 0, "%s", b->rank[1].text);
    board_free(b);
}
END_TEST

int main(int argc, char **argv) {
    char *end = "";
    bool counted = argc == 3 && strcmp(argv[1], "--deaths") == 0;
    if (counted) deaths = (int)strtol(argv[2], &end, 10);
    if ((argc > 1 && !counted) || *end || deaths <= SETTLED) {
        fprintf(stderr, "usage: %s [--deaths N]; N > %d\n", argv[0], (int)SETTLED);
        return 2;
    }
    Suite *s = suite_create("fabric_ucx_deaths");
    TCase *t = tcase_create("fabric_ucx_deaths");
    tcase_set_timeout(t, 280);
    tcase_add_test(t, killed_many_times);
    tcase_add_test(t, stopped_reader);
    suite_add_tcase(s, t);
    return run_suite(s);
}
