/* test_fabric_ucx.c - the fabric's contract between processes over UCX on loopback; deaths, stops, successors, lies. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/log.h"
#include "tests/unit/fabric/fabric_case.h"
#include "tests/unit/fabric/procs.h"

#include "tests/unit/run.h"

enum { PATIENCE_US = 60000000 };

static int open_ucx(int rank, int size, struct fabric **f, struct why *why) {
    return fabric_ucx_open(rank, size, "lo", f, why);
}

static void run(procs_main main_of_rank, int n) {
    struct why why;
    ck_assert_msg(procs_run(main_of_rank, n, &why) == 0, "%s", why.text);
}

/* ---- contract ---- */

static int ranks, frames;
static size_t frame_bytes;

static int contract_main(struct board *b, int rank, uint32_t incarnation, struct why *why) {
    struct fabric *f = NULL;
    int rc = open_ucx(rank, ranks, &f, why);
    if (rc == 0) rc = procs_meet(b, f, frame_bytes, incarnation, why);
    if (rc == 0) rc = fabric_case_run(f, 7, frames, false, PATIENCE_US, why);
    fabric_close(f);
    return rc;
}

START_TEST(contract) {
    ranks = _i;
    frame_bytes = 3000;
    frames = 1000;
    run(contract_main, ranks);
}
END_TEST

START_TEST(contract_of_large_frames) {
    ranks = _i;
    frame_bytes = 1 << 20;
    frames = 60;
    run(contract_main, ranks);
}
END_TEST

int main(void) {
    Suite *s = suite_create("fabric_ucx");
    TCase *t = tcase_create("fabric_ucx");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, contract, 2, 5);
    tcase_add_loop_test(t, contract_of_large_frames, 2, 5);
    suite_add_tcase(s, t);
    return run_suite(s);
}
