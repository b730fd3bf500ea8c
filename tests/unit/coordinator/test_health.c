/* test_health.c - verdicts on parts; and a coordinator whose parts are blocked one after the other: each must be named.
 *
 * usage: test_health MODEL_DIR (any checkpoint with experts) */
#include "coordinator/health.h"

#include <dirent.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/journal_segment.h"
#include "proto/call.h"
#include "tests/unit/coordinator/fake.h"
#include "tests/unit/run.h"

static const char *model;
static struct fake *f;
static char dir[64];

static struct coordinator_options options(void) {
    return (struct coordinator_options){.model_dir = model,
                                        .workers = 2,
                                        .fabric = "mem",
                                        .max_batch = 8,
                                        .max_context = 128,
                                        .lease_us = 60000000, /* nobody dies of silence, however busy the machine is */
                                        .patience_us = 200000,
                                        .progress_us = 60000000};
}
static void serve(const struct coordinator_options *o) {
    f = fake_new(o);
    fake_join_all(f);
}
static void end(void) {
    if (f) fake_free(f);
    f = NULL;
    DIR *d = dir[0] ? opendir(dir) : NULL;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
    if (dir[0]) rmdir(dir);
    dir[0] = 0;
}
static bool is(enum health_level level, const char *part) {
    struct fake_status s = fake_status(f);
    return s.health == (int)level && !strcmp(s.part, part);
}

START_TEST(verdicts) {
    struct health h = {0};
    struct health_watch w = {0};
    ck_assert_int_eq(health_watch(&w, false, 0, 100, 0), 0);
    ck_assert_int_eq(health_watch(&w, true, 0, 200, 0), 0); /* begins to owe */
    ck_assert_int_eq(health_watch(&w, true, 0, 250, 0), 50);
    ck_assert_int_eq(health_watch(&w, true, 1, 300, 0), 0); /* moved */
    ck_assert_int_eq(health_watch(&w, true, 1, 400, 0), 100);
    ck_assert_int_eq(health_watch(&w, true, 1, 900, 500), 100); /* nobody looked in between */
    ck_assert_int_eq(health_watch(&w, true, 1, 950, 5000), 0);
    ck_assert_int_eq(health_watch(&w, false, 1, 990, 0), 0);
    health_late(&h, "a", "late", 99, 100);
    ck_assert(h.level == HEALTH_GREEN && !h.part[0]);
    health_late(&h, "b", "late", 100, 100);
    ck_assert(h.level == HEALTH_AMBER && !strcmp(h.part, "b"));
    health_late(&h, "c", "late", 199, 100); /* not worse */
    ck_assert_str_eq(h.part, "b");
    health_late(&h, "d", "late", 200, 100);
    ck_assert(h.level == HEALTH_RED && !strcmp(h.part, "d"));
    health_is(&h, HEALTH_AMBER, "e", "");
    ck_assert_str_eq(h.part, "d");
    ck_assert_str_eq(health_level_name(h.level), "red");
}
END_TEST

START_TEST(well) {
    struct coordinator_options o = options();
    f = fake_new(&o);
    ck_assert(is(HEALTH_RED, "cluster")); /* nobody is there */
    fake_join_all(f);
    ck_assert(is(HEALTH_GREEN, ""));
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 20});
    fake_run(f, c->ended);
    ck_assert(is(HEALTH_GREEN, ""));
}
END_TEST

START_TEST(an_engine) {
    struct coordinator_options o = options();
    o.progress_us = 2000000;
    serve(&o);
    fake_faults(f, 1)->stuck = fake_faults(f, 1)->hold = true;
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 20});
    fake_run(f, is(HEALTH_AMBER, "worker 1"));
    fake_faults(f, 1)->stuck = fake_faults(f, 1)->hold = false;
    fake_run(f, c->ended && is(HEALTH_GREEN, ""));
}
END_TEST

/* It turns no more; the worker's engine is well. */
START_TEST(a_mover) {
    struct coordinator_options o = options();
    o.progress_us = 500000;
    serve(&o);
    fake_faults(f, 1)->unmoved = true;
    fake_run(f, is(HEALTH_AMBER, "mover of worker 1"));
    fake_faults(f, 1)->unmoved = false;
    fake_run(f, is(HEALTH_GREEN, ""));
}
END_TEST

START_TEST(a_silent_worker) {
    struct coordinator_options o = options();
    o.lease_us = 4000000;
    serve(&o);
    fake_faults(f, 0)->silent = true;
    fake_run(f, is(HEALTH_AMBER, "worker 0"));
    fake_faults(f, 0)->silent = false;
    fake_run(f, is(HEALTH_GREEN, ""));
}
END_TEST

START_TEST(a_link) {
    struct coordinator_options o = options();
    serve(&o);
    fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = fake_faults(f, 1)->stuck = true; /* worker 0 moves: nobody is dead */
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 20});
    fake_run(f, fake_steps(f, 0) > 0 && fake_steps(f, 1) > 0);
    int beats = fake_beats(f, 1);
    fake_run(f, fake_beats(f, 1) > beats + 1); /* it has said that it is in a step */
    fake_trouble(f, 1, "", 1, 0); /* waits for worker 0 */
    fake_run(f, is(HEALTH_RED, "link 0 -> 1"));
    fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = fake_faults(f, 1)->stuck = false;
    fake_run(f, c->ended && is(HEALTH_GREEN, ""));
}
END_TEST

/* Workers are well, by what they say, and no step is done. */
START_TEST(the_scheduler) {
    struct coordinator_options o = options();
    o.progress_us = 500000;
    serve(&o);
    for (int w = 0; w < 2; w++) fake_faults(f, w)->hold = true;
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 20});
    fake_run(f, is(HEALTH_AMBER, "scheduler"));
    fake_run(f, is(HEALTH_RED, "scheduler"));
    for (int w = 0; w < 2; w++) fake_faults(f, w)->hold = false;
    fake_run(f, c->ended && !is(HEALTH_RED, "scheduler"));
}
END_TEST

/* The workers played here never tell what passed between them. */
START_TEST(telemetry) {
    struct coordinator_options o = options();
    o.progress_us = 500000;
    serve(&o);
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 20});
    fake_run(f, c->ended && is(HEALTH_AMBER, "telemetry of worker 0"));
}
END_TEST

static atomic_bool slow;
static sem_t go_on;
static ssize_t d_write(void *ctx, int fd, const void *data, size_t n) {
    (void)ctx;
    if (slow) sem_wait(&go_on);
    return journal_disk.write(NULL, fd, data, n);
}

START_TEST(the_journal) {
    static struct journal_disk disk;
    struct coordinator_options o = options();
    snprintf(dir, sizeof dir, "/tmp/test_health.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    disk = journal_disk;
    disk.write = d_write;
    o.journal_dir = dir;
    o.journal_disk = &disk;
    ck_assert_int_eq(sem_init(&go_on, 0, 0), 0);
    slow = false;
    serve(&o);
    fake_run(f, is(HEALTH_GREEN, ""));
    slow = true;
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 20, .resumable = true});
    fake_run(f, is(HEALTH_AMBER, "journal"));
    slow = false;
    for (int i = 0; i < 100; i++) sem_post(&go_on);
    fake_run(f, c->ended && is(HEALTH_GREEN, ""));
    ck_assert_int_eq(c->status, CALL_OK);
}
END_TEST

int main(int argc, char **argv) {
    const TTest *const tests[] = {verdicts, well,          an_engine, a_mover,    a_silent_worker,
                                  a_link,   the_scheduler, telemetry, the_journal};
    if (argc < 2) return 2;
    model = argv[1];
    return run_tests("health", tests, (int)(sizeof tests / sizeof *tests), NULL, end);
}
