/* test_coordinator.c - a whole coordinator between workers and clients played by the test: the road of a request, back
 * pressure, and every way in which a worker, a client or a launch can go wrong.
 *
 * usage: test_coordinator MODEL_DIR (any checkpoint with experts and a byte-level tokenizer) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/call.h"
#include "proto/client.pb-c.h"
#include "tests/unit/coordinator/fake.h"
#include "tests/unit/run.h"

static const char *model;
static struct fake *f;

static struct coordinator_options options(void) {
    return (struct coordinator_options){.model_dir = model,
                                        .workers = 2,
                                        .fabric = "mem",
                                        .max_batch = 8,
                                        .max_context = 128,
                                        .max_queue = 64,
                                        .lease_us = 1000000,
                                        .patience_us = 200000};
}
static void begin(const struct coordinator_options *o) { f = fake_new(o); }
static void serve(void) {
    struct coordinator_options o = options();
    begin(&o);
    fake_join_all(f);
}
static void end(void) {
    if (f) fake_free(f);
    f = NULL;
}
static struct fake_call *ask(int prompt, int max_tokens) {
    return fake_generate(f, &(struct fake_ask){.prompt = prompt, .max_tokens = max_tokens});
}
static void says(const char *text, const char *part) {
    ck_assert_msg(strstr(text, part) != NULL, "wanted '%s' in '%s'", part, text);
}
static void let_go(void) { fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = false; }
static void right_tokens(const struct fake_call *c, int n) {
    ck_assert_int_eq(c->n_tokens, n);
    for (int i = 0; i < n; i++) ck_assert_int_eq(c->tokens[i], 10 + (c->prompt_tokens + i) % 80);
}

/* Before it serves, a token goes through every worker. */
START_TEST(proves_that_it_works) {
    struct coordinator_options o = options();
    o.prove = true;
    begin(&o);
    fake_faults(f, 1)->hold = true;
    for (int w = 0; w < 2; w++) fake_join(f, w);
    fake_run(f, fake_steps(f, 0) > 0 && fake_steps(f, 1) > 0);
    ck_assert_str_eq(fake_status(f).state, "loading");
    struct fake_call *c = ask(3, 4);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_UNAVAILABLE);
    says(c->message, "first token");
    fake_faults(f, 1)->hold = false;
    fake_run(f, !strcmp(fake_status(f).state, "serving"));
    c = ask(3, 4);
    fake_run(f, c->ended);
    right_tokens(c, 4);
    ck_assert_uint_eq(c->request, 1); /* the first */
    ck_assert_uint_eq(fake_status(f).finished, 1);
}
END_TEST

START_TEST(a_start_that_does_not_work) {
    struct coordinator_options o = options();
    struct why why;
    int result;
    o.prove = true;
    begin(&o);
    fake_faults(f, 1)->wrong_token = true;
    for (int w = 0; w < 2; w++) fake_join(f, w);
    fake_run(f, fake_over(f, &result, &why));
    ck_assert_int_lt(result, 0);
    says(why.text, "worker 1");
}
END_TEST

START_TEST(one_answer) {
    serve();
    struct fake_call *c = ask(5, 20);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_OK);
    ck_assert_int_eq(c->prompt_tokens, 5);
    ck_assert_str_eq(c->reason, "length");
    right_tokens(c, 20);
    ck_assert_uint_eq(c->request, 1);
    struct fake_status s = fake_status(f);
    ck_assert_uint_eq(s.finished, 1);
    ck_assert_int_eq(s.pages_used, 0);
    struct fake_call *d = ask(5, 20);
    fake_run(f, d->ended);
    ck_assert(c->seed != d->seed); /* drawn, and told */
}
END_TEST

START_TEST(a_crowd) {
    serve();
    struct fake_call *c[64];
    for (int i = 0; i < 64; i++) c[i] = ask(1 + i, i % 7 ? i % 40 : 0);
    for (int i = 0; i < 64; i++) {
        fake_run(f, c[i]->ended);
        ck_assert_int_eq(c[i]->status, CALL_OK);
        right_tokens(c[i], i % 7 ? i % 40 : 0);
    }
    fake_run(f, !fake_status(f).pages_used); /* a step that was already planned may hold them a little longer */
}
END_TEST

START_TEST(text_and_stops) {
    serve();
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.text = "hello", .max_tokens = 30});
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_OK);
    ck_assert_int_gt((int)strlen(c->text), 3);
    char stop[4] = {c->text[20], c->text[21], c->text[22], 0}, want[21];
    memcpy(want, c->text, 20);
    want[20] = 0;
    char *first = strstr(c->text, stop);
    ck_assert_ptr_eq(first, c->text + 20);
    struct fake_call *d = fake_generate(f, &(struct fake_ask){.text = "hello", .max_tokens = 100, .stop = stop});
    fake_run(f, d->ended);
    ck_assert_str_eq(d->reason, "stop");
    ck_assert_str_eq(d->text, want);
    ck_assert_int_lt(d->n_tokens, 30);
    struct fake_call *e =
        fake_generate(f, &(struct fake_ask){.prompt = 4, .max_tokens = 100, .stop_id = 19}); /* the token at position 9 */
    fake_run(f, e->ended);
    ck_assert_str_eq(e->reason, "stop");
    right_tokens(e, 6);
    fake_run(f, !fake_status(f).pages_used); /* a step that was already planned may hold them a little longer */
}
END_TEST

START_TEST(no_credit_no_harm) { /* a client that reads nothing holds up nobody, and later gets everything in few messages */
    serve();
    struct fake_call *slow = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 100, .credits = 1});
    fake_run(f, slow->started);
    struct fake_call *c = ask(5, 60);
    fake_run(f, c->ended);
    fake_run(f, !fake_status(f).running);    /* its sequence ran to its end and gave its pages back */
    fake_run(f, !fake_status(f).pages_used); /* a step that was already planned may hold them a little longer */
    ck_assert_int_eq(slow->data_frames, 1);
    fake_credit(f, slow, 1);
    fake_run(f, slow->data_frames == 2);
    right_tokens(slow, 100);
    ck_assert(!slow->finished);
    fake_credit(f, slow, 1);
    fake_run(f, slow->ended);
    ck_assert_int_eq(slow->status, CALL_OK);
    ck_assert_str_eq(slow->reason, "length");
}
END_TEST

START_TEST(unread_answers_go) {
    struct coordinator_options o = options();
    o.unread_us = 50000;
    begin(&o);
    fake_join_all(f);
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 10, .credits = 1});
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_DEADLINE_EXCEEDED);
    ck_assert_int_eq(c->data_frames, 1);
}
END_TEST

START_TEST(cancel) {
    serve();
    fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = true;
    struct fake_call *c = ask(40, 60);
    fake_run(f, c->started && fake_status(f).pages_used > 0);
    fake_cancel(f, c);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_CANCELLED);
    ck_assert_int_gt(fake_status(f).pages_used, 0); /* plans in flight still touch them */
    let_go();
    fake_run(f, !fake_status(f).pages_used);
    ck_assert_int_le(fake_steps(f, 0), 2);
    ck_assert_uint_eq(fake_status(f).cancelled, 1);
    struct fake_call *d = ask(3, 3); /* the next plan tells the home to forget it */
    fake_run(f, d->ended);
    ck_assert_int_eq(fake_dropped(f, 0) + fake_dropped(f, 1), 1);
}
END_TEST

START_TEST(deadline) {
    serve();
    fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = true;
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 5, .max_tokens = 50, .timeout_ms = 50});
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_DEADLINE_EXCEEDED);
    struct fake_status status = fake_status(f);
    ck_assert(status.expired == 1 && !status.cancelled && !status.failed);
    static const uint8_t broken[] = {0x0a, 1, 0xff}; /* TokenizeRequest.text */
    struct fake_call *t = fake_open(f, "Tokenize", broken, sizeof broken, 1, 0);
    fake_run(f, t->ended);
    ck_assert_int_eq(t->status, CALL_INVALID_ARGUMENT);
    status = fake_status(f); /* counts are of Generate calls */
    ck_assert(status.expired == 1 && !status.cancelled && !status.failed && !status.finished);
    let_go();
    fake_run(f, !fake_status(f).pages_used);
}
END_TEST

static void refused(const struct fake_ask *a, int status, const char *part) {
    struct fake_call *c = fake_generate(f, a);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, status);
    says(c->message, part);
}
START_TEST(bad_requests) {
    serve();
    refused(&(struct fake_ask){.max_tokens = 5}, CALL_INVALID_ARGUMENT, "empty");
    refused(&(struct fake_ask){.text = "", .max_tokens = 5}, CALL_INVALID_ARGUMENT, "empty");
    refused(&(struct fake_ask){.text = "\xff", .max_tokens = 5}, CALL_INVALID_ARGUMENT, "not UTF-8");
    refused(&(struct fake_ask){.prompt = 129, .max_tokens = 5}, CALL_INVALID_ARGUMENT,
            "the prompt has 129 tokens; this cluster's context is 128");
    refused(&(struct fake_ask){.prompt = 100, .max_tokens = 29}, CALL_INVALID_ARGUMENT, "at most 28 can be generated");
    refused(&(struct fake_ask){.prompt = 5, .max_tokens = 5, .temperature = -1}, CALL_INVALID_ARGUMENT, "temperature -1");
    refused(&(struct fake_ask){.prompt = 5, .max_tokens = 5, .stop_id = 70000}, CALL_INVALID_ARGUMENT, "stop id");
    char *long_text = malloc(20001);
    memset(long_text, 'x', 20000);
    long_text[20000] = 0;
    refused(&(struct fake_ask){.text = long_text, .max_tokens = 5}, CALL_INVALID_ARGUMENT, "this cluster's context is 128");
    free(long_text);
    struct fake_call *c = fake_open(f, "Generate", "\xff\xff\xff", 3, 0, 0);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_INVALID_ARGUMENT);
    c = fake_open(f, "Generate", "", 0, 0, 0);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_INVALID_ARGUMENT);
    c = fake_open(f, "Forge", "", 0, 0, 0);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_UNIMPLEMENTED);
    c = ask(128, -1); /* fills the context: nothing can follow */
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_OK);
    right_tokens(c, 0);
    c = ask(120, -1);
    fake_run(f, c->ended);
    right_tokens(c, 8);
}
END_TEST

START_TEST(queue_is_bounded) {
    struct coordinator_options o = options();
    o.max_batch = 1, o.max_queue = 3;
    begin(&o);
    fake_join_all(f);
    fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = true;
    struct fake_call *c[5] = {ask(4, 4)};
    fake_run(f, fake_status(f).running == 1);
    for (int i = 1; i < 5; i++) c[i] = ask(4, 4);
    fake_run(f, c[4]->ended);
    ck_assert_int_eq(c[4]->status, CALL_RESOURCE_EXHAUSTED);
    says(c[4]->message, "the queue is full");
    let_go();
    for (int i = 0; i < 4; i++) {
        fake_run(f, c[i]->ended);
        ck_assert_int_eq(c[i]->status, CALL_OK);
    }
}
END_TEST

/* ---- ends ---- */
static void expect_over(int code, const char *part) {
    int result;
    struct why why;
    fake_run(f, fake_over(f, &result, &why));
    ck_assert_int_eq(result, code);
    if (part) says(why.text, part);
}

START_TEST(drain) {
    serve();
    fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = true;
    struct fake_call *c = ask(5, 20);
    fake_run(f, c->started);
    fake_stop(f, true);
    fake_run(f, !strcmp(fake_status(f).state, "draining"));
    struct fake_call *late = ask(5, 5);
    fake_run(f, late->ended);
    ck_assert_int_eq(late->status, CALL_UNAVAILABLE);
    says(late->message, "draining");
    let_go();
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_OK);
    right_tokens(c, 20);
    bool abort = true;
    for (int i = 0; i < 2; i++) {
        fake_run(f, fake_told_to_leave(f, i, &abort));
        ck_assert(!abort);
        fake_crash(f, i);
    }
    expect_over(0, NULL);
}
END_TEST

START_TEST(stop_now) {
    serve();
    fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = true;
    struct fake_call *c = ask(5, 20);
    fake_run(f, c->started);
    fake_stop(f, true);
    fake_stop(f, false);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_UNAVAILABLE);
    bool abort;
    for (int i = 0; i < 2; i++) {
        fake_run(f, fake_told_to_leave(f, i, &abort));
        fake_crash(f, i);
    }
    expect_over(0, NULL);
}
END_TEST

/* A worker is lost while two requests run: both are told who, Status stays, and the end is not a success. */
static void lose_worker_of(int workers, void (*how)(void), const char *part) {
    struct coordinator_options o = options();
    o.workers = workers;
    o.max_batch = 1; /* the second one waits */
    begin(&o);
    fake_join_all(f);
    for (int i = 0; i < workers; i++) fake_faults(f, i)->hold = true;
    struct fake_call *running = ask(5, 20), *waiting = ask(5, 20);
    fake_run(f, running->started && waiting->started);
    how();
    fake_run(f, running->ended && waiting->ended);
    ck_assert_int_eq(running->status, CALL_UNAVAILABLE);
    ck_assert_int_eq(waiting->status, CALL_UNAVAILABLE);
    says(running->message, "worker 1 (");
    says(running->message, part);
    struct fake_status s = fake_status(f);
    ck_assert_str_eq(s.state, "failed");
    says(s.reason, part);
    struct fake_call *late = ask(5, 5);
    fake_run(f, late->ended);
    ck_assert_int_eq(late->status, CALL_UNAVAILABLE);
    says(late->message, "has failed");
    bool abort = false;
    fake_run(f, fake_told_to_leave(f, 0, &abort));
    ck_assert(abort);
    fake_stop(f, true);
    int result;
    struct why why;
    fake_run(f, fake_over(f, &result, &why));
    ck_assert_int_lt(result, 0);
}
static void lose_worker(void (*how)(void), const char *part) { lose_worker_of(2, how, part); }
static void go_silent(void) { fake_faults(f, 1)->silent = true; }
static void get_stuck(void) {
    int seen = fake_beats(f, 0);
    fake_faults(f, 1)->stuck = fake_faults(f, 0)->stuck = true;
    fake_run(f, fake_beats(f, 0) > seen + 1); /* a worker accuses after it has waited, not before */
    fake_trouble(f, 0, "peers are late", 2, 1);
}
/* Worker 0 does not hear worker 1, and so 2 waits for 0, and 1 for 2. All in one step: only the places within it tell that
 * the link from 1 is the one that does not work; 2, which would go by its rank, waits rightly. */
static void fall_silent_to_one(void) {
    int seen = fake_beats(f, 0);
    for (int i = 0; i < 3; i++) fake_faults(f, i)->stuck = true;
    fake_run(f, fake_beats(f, 0) > seen + 1);
    fake_trouble(f, 0, "peers are late", 2, 1);
    fake_trouble(f, 2, "peers are late", 1, 2);
    fake_trouble(f, 1, "peers are late", 4, 3);
}
static void leave_by_itself(void) { fake_trouble(f, 1, "out of chees\xe9", 0, 0); } /* no UTF-8 */
static void lie_about_position(void) {
    for (int i = 0; i < 2; i++) fake_faults(f, i)->wrong_token = i == 1;
    let_go();
}

START_TEST(silent_worker) { lose_worker(go_silent, "silent for"); }
END_TEST
START_TEST(stuck_engine) { lose_worker(get_stuck, "engine has not moved"); }
END_TEST
START_TEST(unheard_worker) { lose_worker_of(3, fall_silent_to_one, "it waits as well"); }
END_TEST
START_TEST(failing_worker) { lose_worker(leave_by_itself, "out of chees?"); }
END_TEST

/* Who is home to the sequence lies, so the liar's rank is not known beforehand. */
static void catch_liar(const char *part) {
    let_go();
    struct fake_call *c = ask(5, 20);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_UNAVAILABLE);
    says(c->message, part);
    ck_assert_str_eq(fake_status(f).state, "failed");
}
START_TEST(lying_worker) {
    serve();
    lie_about_position();
    fake_faults(f, 0)->wrong_token = true;
    catch_liar("at position");
}
END_TEST
START_TEST(owing_worker) {
    serve();
    fake_faults(f, 0)->no_token = fake_faults(f, 1)->no_token = true;
    catch_liar("owes the token");
}
END_TEST
START_TEST(miscounting_worker) {
    serve();
    fake_faults(f, 1)->wrong_rows = true;
    catch_liar("slots");
}
END_TEST

START_TEST(static_world_ends) {
    struct coordinator_options o = options();
    o.end_on_death = true;
    begin(&o);
    fake_join_all(f);
    fake_faults(f, 1)->silent = true;
    expect_over(ERR_GONE, "worker 1");
}
END_TEST

START_TEST(crashed_worker) {
    serve();
    fake_crash(f, 1);
    struct fake_call *c = ask(5, 5);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_UNAVAILABLE);
    says(c->message, "worker 1");
}
END_TEST

/* ---- launches that cannot work ---- */
START_TEST(wrong_class) {
    struct coordinator_options o = options();
    begin(&o);
    fake_faults(f, 1)->numeric_class = "other";
    for (int i = 0; i < 2; i++) fake_join(f, i);
    expect_over(ERR_DENIED, "numeric class");
}
END_TEST
START_TEST(wrong_model) {
    struct coordinator_options o = options();
    begin(&o);
    fake_faults(f, 0)->fingerprint_off = 1;
    for (int i = 0; i < 2; i++) fake_join(f, i);
    expect_over(ERR_DENIED, "worker 0: loaded a model with fingerprint");
}
END_TEST
START_TEST(wrong_size_then_right) { /* one that does not belong here is told so, and does no harm */
    struct coordinator_options o = options();
    char reason[512];
    begin(&o);
    fake_faults(f, 0)->size_off = 1;
    fake_join(f, 0);
    fake_run(f, fake_refused(f, 0, reason, sizeof reason));
    says(reason, "started as one of 3 workers; this coordinator was started for 2");
    struct fake_call *c = ask(5, 5);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_UNAVAILABLE);
    says(c->message, "loading: 0 of 2");
    fake_crash(f, 0);
    fake_join_all(f);
}
END_TEST
START_TEST(missing_worker) {
    struct coordinator_options o = options();
    o.start_timeout_us = 300000;
    begin(&o);
    fake_join(f, 1);
    expect_over(ERR_DEADLINE, "worker rank 0 did not come within 0.3 s");
}
END_TEST
START_TEST(failed_load) {
    struct coordinator_options o = options();
    begin(&o);
    fake_faults(f, 1)->silent = true;
    for (int i = 0; i < 2; i++) fake_join(f, i);
    bool trouble = false;
    int result;
    struct why why;
    int64_t until = fake_deadline();
    while (!fake_over(f, &result, &why) && fake_turn(f, until))
        if (!trouble) fake_trouble(f, 1, "cannot read the model", 0, 0), trouble = true;
    expect_over(ERR_GONE, "cannot read the model");
}
END_TEST

START_TEST(events) {
    struct coordinator_options o = options();
    f = fake_new(&o);
    struct fake_call *all = fake_open(f, "Events", NULL, 0, 100, 0);
    fake_run(f, all->ended);
    ck_assert_int_eq(all->status, CALL_OK);
    ck_assert_str_eq(all->text, "started ");
    static const uint8_t follow[] = {0x10, 1}, nonsense[] = {0xff};
    struct fake_call *bad = fake_open(f, "Events", nonsense, 1, 100, 0), *some = fake_open(f, "Events", follow, 2, 1, 0);
    struct fake_call *reader = fake_open(f, "Events", follow, 2, 100, 0);
    fake_join_all(f);
    fake_run(f, bad->ended && strstr(reader->text, "state "));
    ck_assert_int_eq(bad->status, CALL_INVALID_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(reader->text, "worker-ready "));
    ck_assert_int_eq(some->data_frames, 1); /* no more credit, and nobody waits for it */
    fake_credit(f, some, 100);
    fake_run(f, some->data_frames == reader->data_frames);
    fake_cancel(f, some);
    fake_run(f, some->ended);
    fake_stop(f, false);
    fake_run(f, reader->ended);
    ck_assert_int_eq(reader->status, CALL_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(reader->text, "state state ")); /* it serves, and leaves */
}
END_TEST

START_TEST(bad_options) {
    struct bus_hub *hub = bus_hub_new();
    struct bus *a, *b;
    struct why why;
    struct coordinator *c = NULL;
    ck_assert_int_ge(bus_mem_bind(hub, "a", &a, &why), 0);
    ck_assert_int_ge(bus_mem_bind(hub, "b", &b, &why), 0);
    struct coordinator_options cases[8];
    for (int i = 0; i < 8; i++) cases[i] = options();
    static const char *const part[] = {
        "0 workers", "no model directory",           "max-context 100000: the model was made for", "weights 'q9'",
        "placement", "does not fit: worker 0 needs", "--combine-payload bf16 is for rows",         "needs single rows back"};
    char fusion[1024];
    cases[0].workers = 0;
    cases[1].model_dir = "/nonexistent";
    cases[2].max_context = 100000;
    cases[3].weights = "q9";
    cases[4].placement_file = "/nonexistent/placement";
    cases[5].memory = 1000;
    cases[6].fused = cases[7].fused = true;
    cases[6].combine_payload = "bf16";
    snprintf(fusion, sizeof fusion, "%s/../cadre_moe_fusion", cases[7].model_dir);
    cases[7].model_dir = fusion;
    for (int i = 0; i < 8; i++) {
        ck_assert_int_lt(coordinator_new(&cases[i], a, b, &c, &why), 0);
        says(why.text, part[i]);
        ck_assert_ptr_null(c);
    }
    bus_close(a);
    bus_close(b);
    bus_hub_free(hub);
}
END_TEST

int main(int argc, char **argv) {
    const TTest *const tests[] = {one_answer,
                                  a_crowd,
                                  text_and_stops,
                                  no_credit_no_harm,
                                  unread_answers_go,
                                  cancel,
                                  deadline,
                                  bad_requests,
                                  queue_is_bounded,
                                  drain,
                                  stop_now,
                                  silent_worker,
                                  stuck_engine,
                                  failing_worker,
                                  lying_worker,
                                  owing_worker,
                                  miscounting_worker,
                                  static_world_ends,
                                  crashed_worker,
                                  wrong_class,
                                  wrong_model,
                                  wrong_size_then_right,
                                  missing_worker,
                                  failed_load,
                                  unheard_worker,
                                  events,
                                  bad_options,
                                  proves_that_it_works,
                                  a_start_that_does_not_work};
    if (argc < 2) return 2;
    model = argv[1];
    return run_tests("coordinator", tests, (int)(sizeof tests / sizeof *tests), NULL, end);
}
