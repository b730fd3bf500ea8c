/* test_recall.c - requests that outlive their connection and their coordinator, whose death is played by taking a copy of its
 * journal at that moment: a killed process leaves its files, and nothing else.
 *
 * usage: test_recall MODEL_DIR (any checkpoint with experts and a byte-level tokenizer) */
#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "coordinator/journal_segment.h"
#include "coordinator/recall.h"
#include "proto/call.h"
#include "tests/unit/coordinator/fake.h"
#include "tests/unit/run.h"

enum { CROWD = 12, MOMENTS = 6 };

static const char *model;
static struct fake *f;
static char root[64], dirs[MOMENTS + 1][96];

static struct coordinator_options options(int dir) {
    return (struct coordinator_options){.model_dir = model,
                                        .workers = 2,
                                        .fabric = "mem",
                                        .max_batch = 8,
                                        .max_context = 128,
                                        .max_queue = 64,
                                        .lease_us = 20000000, /* nobody dies here, however busy the machine is */
                                        .patience_us = 200000,
                                        .journal_dir = dirs[dir]};
}
static void make_root(void) {
    snprintf(root, sizeof root, "/tmp/test_recall.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    for (int i = 0; i <= MOMENTS; i++) {
        snprintf(dirs[i], sizeof dirs[i], "%s/%d", root, i);
        ck_assert_int_eq(mkdir(dirs[i], 0700), 0);
    }
}

/* Copies a folder's journal, or with to NULL empties it. */
static void each_file(const char *from, const char *to) {
    DIR *d = opendir(from);
    for (struct dirent *e; (e = readdir(d));) {
        char a[400], b[400];
        if (e->d_name[0] == '.') continue;
        snprintf(a, sizeof a, "%s/%s", from, e->d_name);
        if (!to) {
            unlink(a);
            continue;
        }
        snprintf(b, sizeof b, "%s/%s", to, e->d_name);
        FILE *in = fopen(a, "rb"), *out = fopen(b, "wb");
        ck_assert(in && out);
        for (int c; (c = getc(in)) != EOF;) putc(c, out);
        fclose(in);
        fclose(out);
    }
    closedir(d);
}
static void end(void) {
    if (f) fake_free(f);
    f = NULL;
    for (int i = 0; i <= MOMENTS; i++) {
        each_file(dirs[i], NULL);
        rmdir(dirs[i]);
    }
    rmdir(root);
}
static void serve_with(const struct coordinator_options *o) {
    f = fake_new(o);
    fake_join_all(f);
}
static void serve(int dir) {
    struct coordinator_options o = options(dir);
    serve_with(&o);
}
static void stop(void) {
    fake_free(f);
    f = NULL;
}
static void hold(bool yes) { fake_faults(f, 0)->hold = fake_faults(f, 1)->hold = yes; }
static void right_tokens(const struct fake_call *c, int n) {
    ck_assert_int_eq(c->n_tokens, n);
    for (int i = 0; i < n; i++) ck_assert_int_eq(c->tokens[i], 10 + (c->prompt_tokens + i) % 80);
}
static struct fake_ask ask_of(int i) {
    return (struct fake_ask){.prompt = i % 4 == 3 ? 0 : 3 + i,
                             .text = i % 4 == 3 ? "hello" : NULL,
                             .max_tokens = 20 + 5 * i,
                             .resumable = true,
                             .logprobs = i % 3,
                             .stop_id = i % 4 == 2 ? 10 + 40 : 0};
}

/* Copies of the journal, and of what clients have, at several moments; each is a death, and goes on as if nothing had been. */
START_TEST(dies_at_any_moment) {
    static struct fake_call had[MOMENTS][CROWD], whole[CROWD];
    struct fake_call *c[CROWD];
    uint8_t ids[CROWD][16];
    serve(0);
    for (int i = 0; i < CROWD; i++) {
        struct fake_ask a = ask_of(i);
        c[i] = fake_generate(f, &a);
        memcpy(ids[i], c[i]->id, 16);
    }
    for (int m = 0; m < MOMENTS; m++) {
        fake_run(f, c[0]->ended || c[0]->n_tokens >= 3 * m);
        hold(true);
        each_file(dirs[0], dirs[m + 1]); /* what clients have may be ahead of it, and behind */
        for (int i = 0; i < CROWD; i++) had[m][i] = *c[i];
        hold(false);
    }
    for (int i = 0; i < CROWD; i++) {
        fake_run(f, c[i]->ended);
        ck_assert_int_eq(c[i]->status, CALL_OK);
        whole[i] = *c[i];
    }
    stop();
    for (int m = 0; m < MOMENTS; m++) {
        serve(m + 1);
        for (int i = 0; i < CROWD; i++) {
            struct fake_ask a = ask_of(i);
            a.id = ids[i];
            c[i] = had[m][i].started ? fake_resume(f, ids[i], &had[m][i]) : fake_generate(f, &a);
        }
        for (int i = 0; i < CROWD; i++) {
            fake_run(f, c[i]->ended);
            ck_assert_msg(c[i]->status == CALL_OK, "moment %d, request %d: %s", m, i, c[i]->message);
            ck_assert_str_eq(c[i]->reason, whole[i].reason);
            ck_assert_str_eq(c[i]->text, whole[i].text);
            right_tokens(c[i], whole[i].n_tokens);
            if (had[m][i].started) ck_assert(c[i]->seed == whole[i].seed && c[i]->request == whole[i].request);
        }
        struct fake_call *fresh = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 3});
        fake_run(f, fresh->ended);
        ck_assert_uint_gt(fresh->request, CROWD - 2); /* no number is used twice */
        stop();
    }
}
END_TEST

/* Said to a coordinator that was killed before it heard of them, and again to the next one, which has no workers yet. */
static void wait_for_workers(bool prove) {
    struct coordinator_options o = options(prove);
    o.prove = prove;
    serve_with(&o);
    stop();
    f = fake_new(&o);
    struct fake_call *c[CROWD];
    for (int i = 0; i < CROWD; i++) {
        struct fake_ask a = ask_of(i);
        c[i] = fake_generate(f, &a);
    }
    fake_run(f, fake_status(f).waiting == CROWD);
    fake_join_all(f);
    for (int i = 0; i < CROWD; i++) {
        fake_run(f, c[i]->ended);
        ck_assert_msg(c[i]->status == CALL_OK, "request %d: %s", i, c[i]->message);
        for (int t = 0; t < c[i]->n_tokens; t++) ck_assert_int_eq(c[i]->tokens[t], 10 + (c[i]->prompt_tokens + t) % 80);
    }
    ck_assert_str_eq(fake_status(f).state, "serving");
    fake_run(f, !fake_status(f).pages_used);
    ck_assert_uint_eq(fake_status(f).finished, CROWD);
    stop();
}
START_TEST(requests_wait_for_the_workers_of_a_new_life) {
    wait_for_workers(false);
    wait_for_workers(true);
}
END_TEST

/* The coordinator died when 0 had come in the place of a dead one, and the others had gone on without it. In whatever order
 * they come: those two begin, as they have what they need, and 0 joins them. */
START_TEST(a_successor_outlives_the_coordinator) {
    struct coordinator_options o = options(0);
    o.workers = 3, o.survive = true;
    serve_with(&o);
    for (int first = 0; first < 3; first++) {
        const uint32_t epoch = fake_epoch(f, 1);
        stop();
        f = fake_new(&o);
        for (int i = 0; i < 3; i++) {
            const int w = (first + i) % 3;
            fake_rejoin(f, w, epoch + 1, w ? 6 : 0);
            fake_status(f); /* answered, so what was said before has been heard */
        }
        fake_run(f, fake_epoch(f, 0) && fake_epoch(f, 0) == fake_epoch(f, 1) && fake_epoch(f, 1) == fake_epoch(f, 2));
        fake_run(f, !strcmp(fake_status(f).state, "serving"));
        ck_assert_uint_gt(fake_epoch(f, 1), epoch + 2); /* they had begun before it came to them */
        struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 9});
        fake_run(f, c->ended);
        right_tokens(c, 9);
    }
}
END_TEST

/* However many workers came in one life, the next one gives none of their incarnations again. */
START_TEST(incarnations) {
    enum { MANY = 5000 };
    for (int life = 1; life <= 2; life++) {
        struct coordinator *c = calloc(1, sizeof *c);
        struct why why = {""};
        c->options.journal_dir = dirs[0];
        c->model_name = "model";
        list_init(&c->requests);
        ck_assert_msg(recall_open(c, &why) >= 0, "%s", why.text);
        ck_assert_uint_ge(c->members.earlier, (life - 1) * MANY);
        for (int i = 0; i < MANY; i++) {
            c->members.incarnations++;
            recall_joined(c);
            recall_poll(c);
            recall_flush(c);
        }
        journal_close(c->journal);
        free(c);
    }
}
END_TEST

/* Workers that outlive a coordinator may still hold what proved them: no request of a later life has such a number. */
START_TEST(numbers_of_proofs_are_never_used_again) {
    struct coordinator_options o = options(0);
    o.prove = true;
    uint64_t last = 2; /* a proof for each worker */
    for (int life = 0; life < 3; life++) {
        serve_with(&o);
        if (life) {
            struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 3});
            fake_run(f, c->ended);
            ck_assert_uint_gt(c->request, last);
            last = c->request + 2;
        }
        stop();
    }
}
END_TEST

START_TEST(connection_breaks) {
    serve(0);
    struct fake_ask a = {.text = "hello", .max_tokens = 60, .resumable = true};
    struct fake_call *c = fake_generate(f, &a);
    fake_run(f, c->n_tokens > 5);
    ck_assert(c->resumable);
    struct fake_call had = *c;
    fake_reconnect(f);
    struct fake_call *d = fake_resume(f, had.id, &had);
    fake_run(f, d->ended);
    ck_assert_int_eq(d->status, CALL_OK);
    right_tokens(d, 60);
    struct fake_call *again = fake_resume(f, had.id, &had); /* as if the end had been lost too */
    fake_run(f, again->ended);
    ck_assert_int_eq(again->status, CALL_OK);
    ck_assert_str_eq(again->text, d->text);
    right_tokens(again, 60);
    a.id = had.id; /* it never heard of it at all */
    struct fake_call *anew = fake_generate(f, &a);
    fake_run(f, anew->ended);
    ck_assert_uint_eq(anew->request, had.request);
    right_tokens(anew, 60);
    ck_assert_uint_eq(fake_status(f).finished, 1);
}
END_TEST

START_TEST(another_call_goes_on) { /* the old one is told, when its connection was not broken at all */
    serve(0);
    hold(true);
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 60, .resumable = true});
    fake_run(f, c->started);
    struct fake_call had = *c, *d = fake_resume(f, had.id, &had);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, CALL_ABORTED);
    hold(false);
    fake_run(f, d->ended);
    right_tokens(d, 60);
}
END_TEST

static void resume_fails(const uint8_t id[16], const struct fake_call *had, int status, const char *part) {
    struct fake_call *c = fake_resume(f, id, had);
    fake_run(f, c->ended);
    ck_assert_int_eq(c->status, status);
    ck_assert_msg(strstr(c->message, part) != NULL, "%s", c->message);
}

/* Who comes back to a request that waits for an expert is told so at its end, as its first call would have been. */
START_TEST(waits_on_in_another_call) {
    struct coordinator_options o = options(0);
    char file[120];
    snprintf(file, sizeof file, "%s/placement", dirs[1]);
    FILE *out = fopen(file, "w");
    ck_assert_int_gt(fprintf(out, "* * 0\n* 0 -\n"), 0);
    ck_assert_int_eq(fclose(out), 0);
    o.placement_file = file;
    serve_with(&o);
    struct fake_call *c =
        fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 9, .resumable = true, .timeout_ms = 300});
    fake_run(f, c->started);
    struct fake_call had = *c, *d = fake_resume(f, had.id, &had);
    fake_run(f, d->ended);
    ck_assert_int_eq(d->status, CALL_DEADLINE_EXCEEDED);
    ck_assert_msg(strstr(d->message, "is on no worker"), "%s", d->message);
}
END_TEST

START_TEST(nobody_comes_back) {
    struct coordinator_options o = options(0);
    o.attach_us = 20000;
    serve_with(&o);
    hold(true);
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 60, .resumable = true});
    fake_run(f, c->started);
    struct fake_call had = *c;
    fake_reconnect(f);
    hold(false);
    fake_run(f, fake_status(f).cancelled == 1 || fake_status(f).finished == 1);
    fake_run(f, !fake_status(f).pages_used && !fake_status(f).running);
    static const uint8_t unknown[16] = "nobody's";
    resume_fails(unknown, &had, CALL_NOT_FOUND, "not known");
    stop();
    o.journal_dir = NULL;
    serve_with(&o);
    resume_fails(had.id, &had, CALL_NOT_FOUND, "no journal");
    struct fake_call *plain = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 3, .resumable = true});
    fake_run(f, plain->ended);
    ck_assert(plain->status == CALL_OK && !plain->resumable);
}
END_TEST

START_TEST(ends) { /* what was cancelled is over for good; of what a cluster left behind when it stopped, the next goes on */
    serve(0);
    hold(true);
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 60, .resumable = true});
    struct fake_call *d = fake_generate(f, &(struct fake_ask){.prompt = 4, .max_tokens = 60, .resumable = true});
    fake_run(f, c->started && d->started);
    fake_cancel(f, c);
    fake_run(f, c->ended);
    struct fake_call had = *c, other = *d;
    fake_stop(f, false);
    fake_run(f, d->ended);
    ck_assert_int_eq(d->status, CALL_UNAVAILABLE);
    stop();
    serve(0);
    resume_fails(had.id, &had, CALL_NOT_FOUND, "not known");
    d = fake_resume(f, other.id, &other);
    fake_run(f, d->ended);
    ck_assert_int_eq(d->status, CALL_OK);
    right_tokens(d, 60);
}
END_TEST

/* ---- the disk ---- */
static atomic_bool full;
static int d_open(void *ctx, int dir, const char *name) {
    (void)ctx;
    if (full) return errno = ENOSPC, -1;
    return journal_disk.open(NULL, dir, name);
}
static ssize_t d_write(void *ctx, int fd, const void *data, size_t n) {
    (void)ctx;
    if (full) return errno = ENOSPC, -1;
    return journal_disk.write(NULL, fd, data, n);
}

START_TEST(full_disk) {
    struct journal_disk disk = journal_disk;
    struct coordinator_options o = options(0);
    disk.open = d_open;
    disk.write = d_write;
    o.journal_disk = &disk;
    full = false;
    serve_with(&o);
    hold(true);
    struct fake_call *running = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 60, .resumable = true});
    fake_run(f, running->started);
    full = true;
    for (int i = 0; i < 3; i++) {
        struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 6, .resumable = i != 2});
        fake_run(f, c->ended);
        ck_assert_int_eq(c->status, CALL_UNAVAILABLE);
        ck_assert_msg(strstr(c->message, "No space left on device") != NULL, "%s", c->message);
    }
    ck_assert(strstr(fake_status(f).journal_fault, "No space left on device") != NULL);
    hold(false);
    fake_run(f, running->ended);
    ck_assert_int_eq(running->status, CALL_OK);
    right_tokens(running, 60);
    full = false;
    for (int tries = 0;; tries++) { /* it is tried once a second */
        struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 6, .resumable = true});
        fake_run(f, c->ended);
        if (c->status == CALL_OK) break;
        ck_assert_int_lt(tries, 60);
        int64_t until = fake_deadline();
        for (int i = 0; i < 20; i++) fake_turn(f, until);
    }
    ck_assert_str_eq(fake_status(f).journal_fault, "");
    stop(); /* with its disk */
}
END_TEST

static int count_tokens(void *ctx, uint64_t offset, const struct journal_record *r, struct why *why) {
    (void)offset, (void)why;
    if (r->kind == JOURNAL_TOKENS) *(size_t *)ctx += r->tokens.n;
    return 0;
}
static size_t tokens_in(int dir) {
    size_t n = 0;
    struct journal_visitor v = {count_tokens, &n};
    struct journal_scan scan;
    struct why why;
    ck_assert_msg(journal_read(dirs[dir], false, &v, &scan, &why) >= 0, "%s", why.text);
    return n;
}

START_TEST(other_numbers) {
    serve(0);
    hold(true);
    struct fake_call *c = fake_generate(f, &(struct fake_ask){.prompt = 3, .max_tokens = 60, .resumable = true});
    fake_run(f, c->started);
    each_file(dirs[0], dirs[1]);
    hold(false);
    fake_run(f, c->n_tokens > 3 || c->ended);
    hold(true);
    fake_run(f, tokens_in(0) > 0); /* nobody waits for them to be written */
    each_file(dirs[0], dirs[2]);
    struct fake_call had = *c;
    stop();
    for (int d = 1; d <= 2; d++) { /* before a token was made any class may go on */
        struct coordinator_options o = options(d);
        int result;
        struct why why;
        f = fake_new(&o);
        fake_faults(f, 0)->numeric_class = fake_faults(f, 1)->numeric_class = "another";
        for (int i = 0; i < 2; i++) fake_join(f, i);
        struct fake_call *again = fake_resume(f, had.id, &had);
        fake_run(f, again->ended || fake_over(f, &result, &why));
        if (d == 1) ck_assert_int_eq(again->status, CALL_OK);
        else if (fake_over(f, &result, &why)) ck_assert_msg(strstr(why.text, "begun as fake") != NULL, "%s", why.text);
        else ck_assert_msg(strstr(again->message, "begun as fake") != NULL, "%s", again->message);
        stop();
    }
}
END_TEST

int main(int argc, char **argv) {
    const TTest *const tests[] = {dies_at_any_moment,
                                  requests_wait_for_the_workers_of_a_new_life,
                                  a_successor_outlives_the_coordinator,
                                  incarnations,
                                  numbers_of_proofs_are_never_used_again,
                                  connection_breaks,
                                  another_call_goes_on,
                                  waits_on_in_another_call,
                                  nobody_comes_back,
                                  full_disk,
                                  ends,
                                  other_numbers};
    if (argc < 2) return 2;
    model = argv[1];
    return run_tests("recall", tests, (int)(sizeof tests / sizeof *tests), make_root, end);
}
