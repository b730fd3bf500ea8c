/* test_fabric_auto.c - the fabric's contract between processes, some of which share a host and some do not. A host of its own
 * is made by another host name. */
#include <sched.h>
#include <string.h>

#include "tests/unit/fabric/fabric_case.h"
#include "tests/unit/fabric/procs.h"

#include "tests/unit/run.h"

#undef fail /* of check.h; ours is a function */

enum { PATIENCE_US = 60000000, FRAME_BYTES = 30000 };

static int ranks, hosts;

/* ERR_DENIED where this process may not take another host name. */
static int move_to_host(int host, struct why *why) {
    char name[16];
    snprintf(name, sizeof name, "host%d", host);
    if (hosts == 1 || (unshare(CLONE_NEWUTS) == 0 && sethostname(name, strlen(name)) == 0)) return 0;
    return fail(why, ERR_DENIED, "this process may not have a host name of its own");
}

static int open_on_host(int host, int rank, struct fabric **f, struct why *why) {
    int rc = move_to_host(host, why);
    return rc < 0 ? rc : fabric_auto_open(rank, ranks, &(struct fabric_net){.devices = "lo"}, f, why);
}

static void run(procs_main run_rank) {
    struct why why;
    ck_assert_msg(procs_run(run_rank, ranks, &why) == 0, "%s", why.text);
}

static int contract_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    int rc = open_on_host(rank % hosts, rank, &f, why);
    if (rc == 0) rc = procs_meet(b, f, FRAME_BYTES, incarnation, why);
    if (rc == 0) rc = fabric_case_run(f, 7, 400, false, PATIENCE_US, why);
    fabric_close(f);
    return rc;
}

START_TEST(contract) {
    ranks = 4;
    hosts = _i;
    run(contract_main);
}
END_TEST

static int wait_frame(struct fabric *f, int from, const int **frame, struct why *why) {
    size_t bytes;
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    while (!(*frame = fabric_take(f, from, &bytes))) {
        int rc = fabric_wait(f, deadline_us);
        if (rc < 0) return fail(why, rc, "no frame from rank %d", from);
    }
    return 0;
}

static int send_int(struct fabric *f, int to, int value, struct why *why) {
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    int *room;
    while (!(room = fabric_reserve(f, to, sizeof *room))) {
        int rc = fabric_wait(f, deadline_us);
        if (rc < 0) return fail(why, rc, "no room to rank %d", to);
    }
    *room = value;
    fabric_commit(f, to, sizeof *room);
    return fabric_flush(f, deadline_us);
}

/* Rank 1: sends its host, waits until it was read, and ends. Its second life is on the other host. */
static int mover_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    int host = incarnation == 2 ? 0 : 1;
    int rc = procs_await(&b->rank[0].value[0], 2 * host, NULL); /* its second life begins after its first */
    if (rc == 0) rc = open_on_host(host, rank, &f, why);
    if (rc == 0) rc = procs_meet(b, f, FRAME_BYTES, incarnation, why);
    if (rc == 0) rc = send_int(f, 0, host, why);
    if (rc == 0) rc = procs_await(&b->rank[0].value[0], 2 * host + 1, f);
    fabric_close(f);
    return rc;
}

static int stayer_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    const int *first = NULL, *second = NULL;
    pid_t movers[] = {procs_start(b, mover_main, 1, 2), procs_start(b, mover_main, 1, 3)}; /* no fork once UCX is open */
    int rc = open_on_host(0, rank, &f, why);
    if (rc == 0) rc = procs_meet(b, f, FRAME_BYTES, incarnation, why);
    if (rc == 0) rc = wait_frame(f, 1, &first, why);
    if (rc < 0) return rc;
    atomic_store(&b->rank[0].value[0], 1);
    rc = procs_end(movers[0]);
    atomic_store(&b->rank[0].value[0], 2);
    if (rc == 0) rc = procs_attach(b, f, 1, 2, why);
    if (rc >= 0) rc = wait_frame(f, 1, &second, why);
    if (rc < 0) return rc;
    if (*first != 0 || *second != 1) return fail(why, ERR_CORRUPT, "frames %d and %d", *first, *second);
    fabric_give(f, 1, second);
    fabric_give(f, 1, first);
    atomic_store(&b->rank[0].value[0], 3);
    fabric_close(f);
    return procs_end(movers[1]);
}

START_TEST(successor_on_another_host) {
    struct board *b = board_new();
    ck_assert_ptr_nonnull(b);
    ranks = hosts = 2;
    ck_assert_msg(procs_end(procs_start(b, stayer_main, 0, 1)) == 0, "%s %s", b->rank[0].text, b->rank[1].text);
    board_free(b);
}
END_TEST

static int attach_to(struct fabric *f, struct fabric *peer, uint32_t incarnation, struct why *why) {
    unsigned char address[FABRIC_ADDRESS_BYTES];
    size_t bytes = fabric_address(peer, address);
    return fabric_attach(f, peer->rank, incarnation, address, bytes, why);
}

/* The connections to a rank of another host end with it, also when no other such rank is left. */
static int alone_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL, *far = NULL;
    const int *frame = NULL;
    (void)b;
    int rc = fabric_auto_open(rank, ranks, &(struct fabric_net){.devices = "lo"}, &f, why);
    if (rc == 0) rc = fabric_prepare(f, FRAME_BYTES, incarnation, why);
    int before = procs_fds();
    if (rc == 0) rc = open_on_host(1, 1, &far, why);
    if (rc == 0) rc = fabric_prepare(far, FRAME_BYTES, 2, why);
    if (rc == 0) rc = attach_to(f, far, 2, why);
    if (rc == 0) rc = attach_to(far, f, incarnation, why);
    for (int *room = NULL; rc == 0 && !room; fabric_poll(f), fabric_poll(far)) {
        room = fabric_reserve(far, 0, sizeof *room);
        if (room) fabric_commit(far, 0, sizeof *room);
    }
    if (rc == 0) rc = wait_frame(f, 1, &frame, why);
    if (rc < 0) return rc;
    fabric_give(f, 1, frame);
    fabric_detach(f, 1);
    fabric_close(far);
    for (int64_t deadline_us = clk_now_us() + PATIENCE_US; procs_fds() > before + 1; fabric_poll(f)) /* UCX keeps a timer */
        if (clk_now_us() >= deadline_us) return fail(why, ERR_DEADLINE, "%d fds, there were %d", procs_fds(), before);
    fabric_close(f);
    return 0;
}

START_TEST(last_of_another_host) {
    struct why why;
    ranks = hosts = 2;
    ck_assert_msg(procs_run(alone_main, 1, &why) == 0, "%s", why.text);
}
END_TEST

START_TEST(refusals) {
    struct fabric *f = NULL;
    struct why why;
    unsigned char address[FABRIC_ADDRESS_BYTES];
    ck_assert_int_eq(fabric_auto_open(2, 2, &(struct fabric_net){0}, &f, &why), ERR_INVALID);
    ck_assert_int_eq(fabric_auto_open(0, 2, &(struct fabric_net){0}, &f, &why), 0);
    ck_assert_int_eq(fabric_prepare(f, 64, 1, &why), 0);
    size_t bytes = fabric_address(f, address);
    ck_assert_int_eq(fabric_attach(f, 1, 2, address, 3, &why), ERR_PROTOCOL);
    ck_assert_int_eq(fabric_attach(f, 1, 2, address, bytes - 1, &why), ERR_PROTOCOL);
    ck_assert_int_lt(fabric_attach(f, 1, 2, address, bytes, &why), 0); /* our own */
    ck_assert_ptr_null(fabric_reserve(f, 1, 64));
    address[0] ^= 1;
    ck_assert_int_eq(fabric_attach(f, 1, 2, address, bytes, &why), ERR_PROTOCOL);
    fabric_detach(f, 1);
    fabric_close(f);
}
END_TEST

static int probe_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    (void)b, (void)incarnation;
    int rc = fabric_ucx_open(rank, 1, &(struct fabric_net){.devices = "lo"}, &f, why);
    fabric_close(f);
    return rc < 0 ? rc : move_to_host(1, why);
}

int main(void) {
    struct why why;
    Suite *s = suite_create("fabric_auto");
    TCase *t = tcase_create("fabric_auto");
    tcase_set_timeout(t, 120);
    ranks = 1;
    hosts = 2;
    bool far = procs_run(probe_main, 1, &why) == 0;
    if (!far) fprintf(stderr, "only one host: %s\n", why.text);
    tcase_add_loop_test(t, contract, 1, far ? 5 : 2);
    if (far) tcase_add_test(t, successor_on_another_host);
    if (far) tcase_add_test(t, last_of_another_host);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    return run_suite(s);
}
