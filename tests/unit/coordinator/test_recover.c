/* test_recover.c - deaths that the service survives: a whole coordinator between workers and clients played by the test. Which
 * token comes at a position is known, so one that is lost, repeated or of a plan that was void is seen.
 *
 * usage: test_recover MODEL_DIR (any checkpoint with experts) */
#include <stdio.h>
#include <string.h>

#include "tests/unit/coordinator/fake.h"
#include "tests/unit/run.h"

enum { CROWD = 12 };

static const char *model;
static struct fake *f;
static struct fake_call *crowd[CROWD];

static struct coordinator_options options(int workers) {
    return (struct coordinator_options){.model_dir = model,
                                        .workers = workers,
                                        .fabric = "mem",
                                        .survive = true,
                                        .max_batch = 8,
                                        .max_context = 128,
                                        .max_queue = 64,
                                        .lease_us = 500000,
                                        .patience_us = 200000};
}
static void begin(const struct coordinator_options *o) {
    f = fake_new(o);
    fake_join_all(f);
}
static void serve(int workers) {
    struct coordinator_options o = options(workers);
    begin(&o);
}
static void end(void) {
    if (f) fake_free(f);
    f = NULL;
}
static bool is(const char *state) { return !strcmp(fake_status(f).state, state); }

/* They run, and the steps that are out stay out. */
static void stop_in_the_middle(int workers) {
    for (int i = 0; i < CROWD; i++) crowd[i] = fake_generate(f, &(struct fake_ask){.prompt = 1 + i * 3, .max_tokens = 30});
    fake_run(f, crowd[0]->n_tokens > 3);
    for (int w = 0; w < workers; w++) fake_faults(f, w)->hold = true;
}
static void let_go(void) {
    for (int w = 0; w < FAKE_WORKERS; w++) fake_faults(f, w)->hold = fake_faults(f, w)->slow = false;
}
static void all_end_well(void) {
    for (int i = 0; i < CROWD; i++) {
        struct fake_call *c = crowd[i];
        fake_run(f, c->ended);
        ck_assert_msg(c->status == 0, "request %d: %s", i, c->message);
        ck_assert_int_eq(c->n_tokens, 30);
        for (int t = 0; t < c->n_tokens; t++) ck_assert_int_eq(c->tokens[t], 10 + (c->prompt_tokens + t) % 80);
    }
    fake_run(f, !fake_status(f).pages_used);
    ck_assert_uint_eq(fake_status(f).failed, 0);
}

START_TEST(each_worker_in_turn) {
    serve(3);
    stop_in_the_middle(3);
    fake_crash(f, _i);
    int survivor = !_i;
    uint32_t was = fake_epoch(f, survivor);
    fake_run(f, fake_epoch(f, survivor) > was);
    let_go();
    all_end_well();
    ck_assert(is("serving"));
}
END_TEST

START_TEST(another_dies_while_the_rest_prepare) {
    serve(3);
    stop_in_the_middle(3);
    fake_faults(f, 0)->slow = true;
    uint32_t was = fake_told_of(f, 0);
    fake_crash(f, 1);
    fake_run(f, fake_told_of(f, 0) > was && is("recovering"));
    was = fake_told_of(f, 0);
    fake_crash(f, 2);
    fake_run(f, fake_told_of(f, 0) > was);
    let_go();
    all_end_well();
    ck_assert_uint_eq(fake_epoch(f, 0), fake_told_of(f, 0));
}
END_TEST

START_TEST(who_prepares_nothing_goes_too) {
    struct coordinator_options o = options(3);
    o.progress_us = 300000;
    begin(&o);
    stop_in_the_middle(3);
    fake_faults(f, 0)->slow = fake_faults(f, 0)->stuck = true;
    fake_crash(f, 1);
    bool abort;
    fake_run(f, fake_told_to_leave(f, 0, &abort)); /* its next beat comes from nobody */
    ck_assert(abort);
    fake_crash(f, 0);
    let_go();
    all_end_well();
}
END_TEST

/* What it said before was right, and of the step in which it lies no token is lost. */
START_TEST(who_says_what_cannot_be_goes) {
    serve(3);
    stop_in_the_middle(3);
    struct fake_faults *liar = fake_faults(f, 1);
    if (_i == 0) liar->wrong_token = true;
    if (_i == 1) liar->no_token = true;
    if (_i == 2) liar->wrong_rows = true;
    let_go();
    bool abort;
    fake_run(f, fake_told_to_leave(f, 1, &abort));
    ck_assert(abort);
    fake_crash(f, 1);
    all_end_well();
    ck_assert(is("serving"));
}
END_TEST

/* The first steps were given much time, since nobody knew how long a step takes; those that are out now were not. */
START_TEST(time_given_to_earlier_steps_is_no_excuse) {
    serve(2);
    struct fake_call *first = fake_generate(f, &(struct fake_ask){.prompt = 100, .max_tokens = 2});
    fake_run(f, first->ended);
    for (int w = 0; w < 2; w++) fake_faults(f, w)->hold = fake_faults(f, w)->stuck = true;
    for (int i = 0; i < CROWD; i++) crowd[i] = fake_generate(f, &(struct fake_ask){.prompt = 1, .max_tokens = 30});
    int plans = fake_steps(f, 0), beats = fake_beats(f, 0);
    bool abort;
    fake_run(f, fake_steps(f, 0) > plans && fake_beats(f, 0) > beats + 3);
    fake_trouble(f, 0, "peers are late", 2, 1);
    fake_run(f, fake_told_to_leave(f, 1, &abort));
    ck_assert(abort);
    fake_crash(f, 1);
    fake_faults(f, 0)->stuck = false;
    let_go();
    all_end_well();
}
END_TEST

START_TEST(a_successor_that_does_not_load) {
    struct coordinator_options o = options(2);
    o.start_timeout_us = 1000000;
    begin(&o);
    fake_crash(f, 1);
    fake_run(f, fake_epoch(f, 0) > 1);
    fake_faults(f, 1)->loads = true;
    fake_join(f, 1);
    fake_run(f, fake_told_of(f, 1) > 0);
    bool abort;
    fake_run(f, fake_told_to_leave(f, 1, &abort));
    fake_crash(f, 1);
    stop_in_the_middle(0);
    all_end_well();
}
END_TEST

START_TEST(a_successor) {
    serve(2);
    stop_in_the_middle(2);
    fake_crash(f, 1);
    uint32_t was = fake_epoch(f, 0);
    fake_run(f, fake_epoch(f, 0) > was);
    was = fake_epoch(f, 0);
    fake_join(f, 1); /* while the first step of the new epoch is out */
    fake_run(f, fake_told_of(f, 1) > 0);
    let_go();
    all_end_well();
    fake_run(f, fake_epoch(f, 0) > was && fake_epoch(f, 1) == fake_epoch(f, 0));
    stop_in_the_middle(0);
    all_end_well();
    ck_assert_int_gt(fake_steps(f, 1), 0);
    fake_crash(f, 0); /* the successor holds all now */
    stop_in_the_middle(0);
    all_end_well();
}
END_TEST

START_TEST(a_successor_that_comes_before_the_death_is_known) { /* of the same pid, as on another host it may be */
    char reason[512];
    serve(2);
    uint32_t was = fake_epoch(f, 0);
    fake_crash(f, 1);
    fake_join(f, 1);
    fake_run(f, fake_epoch(f, 0) > was);
    ck_assert(!fake_refused(f, 1, reason, sizeof reason));
    fake_crash(f, 1);
    fake_join(f, 1); /* a worker says Hello again and again */
    fake_run(f, fake_epoch(f, 1) && fake_epoch(f, 1) == fake_epoch(f, 0));
}
END_TEST

START_TEST(a_successor_of_one_that_is_still_there) {
    struct coordinator_options o = options(2);
    o.lease_us = 300000;
    begin(&o);
    fake_faults(f, 1)->silent = true; /* stopped, say */
    fake_run(f, is("serving") && fake_told_of(f, 0) > fake_told_of(f, 1));
    fake_faults(f, 1)->silent = false;
    bool abort;
    fake_run(f, fake_told_to_leave(f, 1, &abort));
    ck_assert(abort);
    fake_crash(f, 1);
    fake_join(f, 1);
    fake_run(f, fake_epoch(f, 1) && fake_epoch(f, 1) == fake_epoch(f, 0));
    stop_in_the_middle(0);
    all_end_well();
}
END_TEST

/* Two hold the model and one cannot: requests wait for the other to come back. */
START_TEST(too_little_memory_alone) {
    struct coordinator_options o = options(2);
    struct coordinator *c;
    struct bus_hub *hub = bus_hub_new();
    struct bus *a, *b;
    struct why why;
    ck_assert_int_ge(bus_mem_bind(hub, "a", &a, &why), 0);
    ck_assert_int_ge(bus_mem_bind(hub, "b", &b, &why), 0);
    for (o.memory = 1 << 12; coordinator_new(&o, a, b, &c, &why) < 0;) o.memory += o.memory / 50; /* as little as can be */
    coordinator_free(c);
    bus_close(a);
    bus_close(b);
    bus_hub_free(hub);
    begin(&o);
    stop_in_the_middle(2);
    fake_crash(f, 1);
    fake_run(f, is("recovering") && strstr(fake_status(f).reason, "worker 0 needs"));
    let_go();
    struct fake_call *late = fake_generate(f, &(struct fake_ask){.prompt = 4, .max_tokens = 3});
    fake_join(f, 1);
    all_end_well();
    fake_run(f, late->ended);
    ck_assert_int_eq(late->n_tokens, 3);
}
END_TEST

START_TEST(drains_after_a_death) {
    serve(2);
    stop_in_the_middle(2);
    fake_stop(f, true);
    fake_run(f, is("draining"));
    fake_crash(f, 1);
    uint32_t was = fake_epoch(f, 0);
    fake_run(f, fake_epoch(f, 0) > was);
    let_go();
    for (int i = 0; i < CROWD; i++) {
        fake_run(f, crowd[i]->ended);
        ck_assert_int_eq(crowd[i]->n_tokens, 30);
    }
}
END_TEST

START_TEST(nobody_is_left) { /* for a while */
    serve(2);
    stop_in_the_middle(2);
    fake_crash(f, 1);
    fake_crash(f, 0);
    fake_run(f, is("recovering") && strstr(fake_status(f).reason, "nobody is left"));
    struct fake_call *late = fake_generate(f, &(struct fake_ask){.prompt = 4, .max_tokens = 3});
    fake_join(f, 0); /* it alone holds the model, so it need not wait for the other */
    all_end_well();
    fake_run(f, late->ended);
    ck_assert_int_eq(late->n_tokens, 3);
    fake_join(f, 1);
    fake_run(f, fake_epoch(f, 1) && fake_epoch(f, 1) == fake_epoch(f, 0));
}
END_TEST

START_TEST(those_that_stand_and_fall_together) {
    struct coordinator_options o = options(3);
    bool abort = false;
    o.world = true;
    begin(&o);
    stop_in_the_middle(3);
    fake_crash(f, 1);
    for (int w = 0; w < 3; w += 2) {
        fake_run(f, fake_told_to_leave(f, w, &abort));
        ck_assert(abort);
        fake_crash(f, w);
    }
    fake_run(f, is("recovering"));
    struct fake_call *late = fake_generate(f, &(struct fake_ask){.prompt = 4, .max_tokens = 3});
    for (int w = 2; w >= 0; w--) {
        ck_assert(is("recovering")); /* until all are there */
        fake_join(f, w);
    }
    all_end_well();
    fake_run(f, late->ended);
    ck_assert_int_eq(late->n_tokens, 3);
}
END_TEST

START_TEST(one_dies_while_all_load) {
    struct coordinator_options o = options(3);
    o.prove = _i;
    f = fake_new(&o);
    fake_faults(f, 1)->loads = true;
    for (int w = 0; w < 3; w++) fake_join(f, w);
    fake_run(f, fake_told_of(f, 0) && fake_told_of(f, 1) && fake_told_of(f, 2)); /* all know each other */
    fake_crash(f, 1);
    fake_join(f, 1);
    fake_run(f, is("serving") && fake_epoch(f, 1) == fake_epoch(f, 0) && fake_epoch(f, 2) == fake_epoch(f, 0));
    ck_assert_uint_gt(fake_epoch(f, 0), 1); /* the others have heard who it is */
    stop_in_the_middle(0);
    all_end_well();
}
END_TEST

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    model = argv[1];
    Suite *s = suite_create("recover");
    TCase *t = tcase_create("recover");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, NULL, end);
    tcase_add_loop_test(t, each_worker_in_turn, 0, 3);
    tcase_add_test(t, another_dies_while_the_rest_prepare);
    tcase_add_test(t, who_prepares_nothing_goes_too);
    tcase_add_loop_test(t, who_says_what_cannot_be_goes, 0, 3);
    tcase_add_test(t, time_given_to_earlier_steps_is_no_excuse);
    tcase_add_test(t, a_successor_that_does_not_load);
    tcase_add_test(t, a_successor);
    tcase_add_test(t, a_successor_that_comes_before_the_death_is_known);
    tcase_add_test(t, a_successor_of_one_that_is_still_there);
    tcase_add_test(t, too_little_memory_alone);
    tcase_add_test(t, drains_after_a_death);
    tcase_add_test(t, nobody_is_left);
    tcase_add_test(t, those_that_stand_and_fall_together);
    tcase_add_loop_test(t, one_dies_while_all_load, 0, 2);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
