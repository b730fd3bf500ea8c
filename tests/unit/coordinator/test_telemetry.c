/* test_telemetry.c - counts land on the expert that lives in the slot; rates cover whole seconds; patience follows step
 * times. */
#include "coordinator/telemetry.h"

#include <string.h>

#include "tests/unit/run.h"

static struct placement p;
static struct telemetry t;
static struct why why;

static void open_all(void) {
    static const uint64_t hosts[6] = {1, 2, 3, 2, 1, 2}; /* 2 layers of 3 experts; expert 2 of layer 0 has two replicas */
    ck_assert_int_eq(placement_from_hosts(&p, 2, 2, 3, hosts, &why), 0);
    ck_assert_int_eq(telemetry_init(&t, &p), 0);
}
static void close_all(void) {
    telemetry_clear(&t);
    placement_clear(&p);
}

START_TEST(rows_by_expert) {
    uint32_t of0[3] = {10, 20, 30}, of1[4] = {1, 2, 3, 4}; /* worker 0: (0,0) (0,2) (1,1); worker 1: (0,1) (0,2) (1,0) (1,2) */
    uint64_t waits[2] = {5, 6};
    struct worker_step_done d = {.step = 1, .step_us = 100, .rows = of0, .n_rows = 3, .wait_us = waits, .n_wait = 2};
    struct telemetry_of_step step = {.rows = 4};
    ck_assert_int_eq(telemetry_step(&t, 0, &d, &step, &why), 0);
    d.rows = of1;
    d.n_rows = 4;
    ck_assert_int_eq(telemetry_step(&t, 1, &d, &step, &why), 0);
    static const uint64_t want[6] = {10, 1, 22, 3, 30, 4};
    for (int i = 0; i < 6; i++) ck_assert_uint_eq(t.rows[i], want[i]);
    ck_assert_uint_eq(t.worker_rows[0], 60);
    ck_assert_uint_eq(t.worker_rows[1], 10);
    ck_assert_uint_eq(t.wait_us[0], 11);
    ck_assert_uint_eq(t.busy_us[1], 100);
    d.n_rows = 3;
    ck_assert_int_eq(telemetry_step(&t, 1, &d, &step, &why), ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(why.text, "3 slots in step 1; it has 4"));
}
END_TEST

START_TEST(time_by_part) {
    uint32_t rows[3] = {0};
    struct worker_step_done d = {.step = 1, .rows = rows, .n_rows = 3};
    struct telemetry_of_step step = {.rows = 1};
    for (int i = 0; i < PARTS; i++) d.part_us[i] = (uint64_t)i + 1;
    ck_assert_int_eq(telemetry_step(&t, 0, &d, &step, &why), 0); /* what was before it was idleness */
    for (int i = 0; i < PARTS; i++) ck_assert_uint_eq(t.part_us[0][i], i == PART_SCHEDULER ? 0 : (uint64_t)i + 1);
    step.goes_on = true;
    ck_assert_int_eq(telemetry_step(&t, 0, &d, &step, &why), 0);
    ck_assert_uint_eq(t.part_us[0][PART_SCHEDULER], PARTS);
    ck_assert_uint_eq(t.part_us[0][PART_EXPERTS], 2 * (PART_EXPERTS + 1));
    ck_assert_uint_eq(t.part_us[1][PART_EXPERTS], 0);
}
END_TEST

START_TEST(rates) {
    double prompt, tokens;
    int64_t s = 1000000, base = 1000 * s;
    for (int i = 0; i < 10; i++) telemetry_tokens(&t, base + i * s, 100, 7);
    telemetry_tokens(&t, base + 10 * s, 1000, 1000); /* the running second does not count */
    telemetry_rate(&t, base + 10 * s + 5, &prompt, &tokens);
    ck_assert_double_eq_tol(prompt, 100, 1e-9);
    ck_assert_double_eq_tol(tokens, 7, 1e-9);
    telemetry_rate(&t, base + 100 * s, &prompt, &tokens); /* all of it is old */
    ck_assert_double_eq_tol(prompt + tokens, 0, 1e-9);
}
END_TEST

START_TEST(patience) {
    uint32_t rows[3] = {0};
    ck_assert_int_ge(telemetry_patience(&t, 100, 2000000), 2000000); /* unknown: generous */
    struct worker_step_done d = {.step = 1, .step_us = 50000, .rows = rows, .n_rows = 3};
    struct telemetry_of_step step = {.rows = 10};
    for (int i = 0; i < 100; i++) ck_assert_int_eq(telemetry_step(&t, 0, &d, &step, &why), 0); /* 5 ms a row */
    ck_assert_int_eq(telemetry_patience(&t, 10, 2000000), 2000000);
    ck_assert_int_eq(telemetry_patience(&t, 100, 2000000), 5000000);
    ck_assert_int_eq(telemetry_patience(&t, 1 << 20, 2000000), 60000000);
}
END_TEST

RUN("telemetry", open_all, close_all, rows_by_expert, time_by_part, rates, patience)
