/* test_scheduler.c - single decisions of the scheduler, and reports that must not be believed. The simulator does the
 * crowds. */
#include "coordinator/scheduler.h"

#include <string.h>

#include "tests/unit/run.h"

static struct scheduler s;
static struct why why;
static struct scheduler_limits limits;
static const int32_t ids[64] = {1, 2, 3};

static void begin(void) {
    limits = (struct scheduler_limits){.workers = 1,
                                       .step_tokens = 8,
                                       .max_seqs = 4,
                                       .max_batch = 4,
                                       .max_context = 40,
                                       .page_tokens = 4,
                                       .pages = 10,
                                       .max_queue = 3,
                                       .vocab = 100,
                                       .ahead = 2};
    s = (struct scheduler){0};
}
static void open_scheduler(void) { ck_assert_msg(scheduler_init(&s, &limits, &why) >= 0, "%s", why.text); }
static void end(void) { scheduler_clear(&s); }

static struct seq *submit(int prompt, int max_tokens, int priority) {
    struct seq_request r = {.ids = ids, .prompt = prompt, .max_tokens = max_tokens, .priority = priority};
    struct seq *q = NULL;
    ck_assert_msg(scheduler_submit(&s, &r, 1, &q, &why) >= 0, "%s", why.text);
    return q;
}
static int refuse(int prompt, int max_tokens, const char *says) {
    struct seq_request r = {.ids = ids, .prompt = prompt, .max_tokens = max_tokens};
    struct seq *q = NULL;
    int rc = scheduler_submit(&s, &r, 1, &q, &why);
    ck_assert_int_lt(rc, 0);
    ck_assert_msg(strstr(why.text, says) != NULL, "wanted '%s' in '%s'", says, why.text);
    return rc;
}
static int report(int worker, uint64_t step, const struct step_out *out, int n) {
    struct worker_step_done d = {.step = step, .out = out, .n_out = n};
    return scheduler_done(&s, worker, &d, &why);
}
static struct step_out token(const struct seq *q, int position) {
    return (struct step_out){.seq = q->number, .position = (uint32_t)position, .token = 5};
}
static const struct plan *plan(void) { return scheduler_plan(&s, 2); }
static int commit(const struct commit **c) { return scheduler_commit(&s, 3, c, &why); }

START_TEST(admission) {
    open_scheduler();
    ck_assert_int_eq(refuse(0, 1, "empty"), ERR_INVALID);
    ck_assert_int_eq(refuse(41, 0, "the prompt has 41 tokens; this cluster's context is 40"), ERR_TOO_LARGE);
    ck_assert_int_eq(refuse(30, 11, "at most 10 can be generated"), ERR_TOO_LARGE);
    ck_assert_int_eq(scheduler_room(&limits, 40, &why), 0);
    limits.pages = 5;
    ck_assert_int_eq(scheduler_room(&limits, 15, &why), 6); /* 20 rows; the last token takes none */
    ck_assert_int_eq(scheduler_room(&limits, 21, &why), ERR_TOO_LARGE);
    ck_assert_ptr_nonnull(strstr(why.text, "KV pages for 20"));
    for (int i = 0; i < 3; i++) submit(1, 1, 0);
    ck_assert_int_eq(refuse(1, 1, "the queue is full: 3 requests wait already"), ERR_EXHAUSTED);
}
END_TEST

START_TEST(chunks_then_decode_ahead) {
    limits.prefill_chunk = 3;
    open_scheduler();
    struct seq *q = submit(7, 3, 0);
    const struct plan *p = plan();
    ck_assert_int_eq(p->worker[0].n_start, 1);
    ck_assert_int_eq(p->worker[0].run[0].count, 3);
    ck_assert(!p->worker[0].run[0].sample);
    p = plan();
    ck_assert_int_eq(p->worker[0].n_start, 0);
    ck_assert_int_eq(p->worker[0].run[0].first, 3);
    ck_assert_ptr_null(plan()); /* two in flight */
    const struct commit *c;
    ck_assert_int_eq(report(0, 1, NULL, 0), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(c->n, 0);
    p = plan(); /* the last chunk samples */
    ck_assert_int_eq(p->worker[0].run[0].first, 6);
    ck_assert_int_eq(p->worker[0].run[0].count, 1);
    ck_assert(p->worker[0].run[0].sample);
    ck_assert_int_eq(report(0, 2, NULL, 0), 0);
    ck_assert_int_eq(commit(&c), 1);
    p = plan(); /* position 7 is granted though its token is not known here yet */
    ck_assert_int_eq(p->worker[0].run[0].first, 7);
    ck_assert_int_eq(p->worker[0].run[0].n_new_pages, 0);
    struct step_out o = token(q, 7);
    ck_assert_int_eq(report(0, 3, &o, 1), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(c->n, 1);
    ck_assert_ptr_eq(c->token[0].seq, q);
    p = plan();
    ck_assert_int_eq(p->worker[0].run[0].first, 8);
    ck_assert_int_eq(p->worker[0].run[0].n_new_pages, 1);
    o = token(q, 8);
    ck_assert_int_eq(report(0, 4, &o, 1), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_ptr_null(plan()); /* the third token is the last: no row is left to grant */
    o = token(q, 9);
    o.finish = STEP_LENGTH;
    ck_assert_int_eq(report(0, 5, &o, 1), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(c->token[0].end, SEQ_END_LENGTH);
    ck_assert_ptr_null(plan());
    ck_assert_int_eq(pages_used(&s.pages, 0), 0);
    ck_assert(scheduler_idle(&s));
}
END_TEST

START_TEST(no_tokens_wanted) {
    open_scheduler();
    submit(3, 0, 0);
    const struct plan *p = plan();
    ck_assert(!p->worker[0].run[0].sample);
    const struct commit *c;
    ck_assert_ptr_null(plan());
    ck_assert_int_eq(report(0, 1, NULL, 0), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(c->n, 1);
    ck_assert_ptr_null(c->token[0].out);
    ck_assert_int_eq(c->token[0].end, SEQ_END_LENGTH);
}
END_TEST

START_TEST(cancel_frees_by_the_second_step) {
    open_scheduler();
    struct seq *q = submit(8, 10, 0), *other = submit(4, 10, 0);
    plan();
    plan();
    int used = pages_used(&s.pages, 0);
    ck_assert_int_gt(used, 0);
    scheduler_end(&s, q);
    ck_assert_ptr_null(plan());
    ck_assert_int_eq(pages_used(&s.pages, 0), used); /* plans 1 and 2 still touch them */
    const struct commit *c;
    struct step_out o = token(q, 8);
    ck_assert_int_eq(report(0, 1, &o, 1), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(c->n, 0); /* its token is dropped */
    const struct plan *p = plan();
    ck_assert_int_eq(p->worker[0].n_drop, 1);
    ck_assert_uint_eq(p->worker[0].drop[0], 1);
    o = token(other, 4); /* its prompt ran in the second step */
    ck_assert_int_eq(report(0, 2, &o, 1), 0);
    ck_assert_int_eq(commit(&c), 1);
    scheduler_settle(&s);
    ck_assert_int_eq(pages_used(&s.pages, 0), other->n_pages);
}
END_TEST

START_TEST(order_and_priority) {
    limits.max_batch = 1;
    limits.max_queue = 8;
    open_scheduler();
    submit(2, 0, 5);
    submit(2, 0, 0);
    submit(2, 0, -1);
    submit(2, 0, 0);
    static const uint64_t want[] = {3, 2, 4, 1};
    const struct commit *c;
    for (int i = 0; i < 4; i++) {
        const struct plan *p = plan();
        ck_assert_uint_eq(p->worker[0].run[0].seq->number, want[i]);
        ck_assert_int_eq(report(0, (uint64_t)i + 1, NULL, 0), 0);
        ck_assert_int_eq(commit(&c), 1);
    }
}
END_TEST

/* Requests that wait for missing experts fill a queue of their own: others get in beside them. */
START_TEST(missing_experts_fill_no_queue) {
    limits.max_queue = 2;
    open_scheduler();
    s.missing = true;
    struct seq *q[5];
    struct seq_request whole = {.ids = ids, .prompt = 3, .max_tokens = 2}, part = whole;
    part.allow_degraded = true;
    ck_assert_int_eq(scheduler_submit(&s, &whole, 1, &q[0], &why), 0);
    ck_assert_int_eq(scheduler_submit(&s, &whole, 1, &q[1], &why), 0);
    ck_assert_int_eq(scheduler_submit(&s, &whole, 1, &q[2], &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "missing experts is full: 2"));
    ck_assert_int_eq(scheduler_submit(&s, &part, 1, &q[2], &why), 0);
    ck_assert_int_eq(scheduler_submit(&s, &part, 1, &q[3], &why), 0);
    ck_assert_int_eq(scheduler_submit(&s, &part, 1, &q[4], &why), ERR_EXHAUSTED);
    scheduler_end(&s, q[0]);
    ck_assert_int_eq(scheduler_submit(&s, &whole, 1, &q[0], &why), 0);
    ck_assert_ptr_nonnull(plan()); /* those that can run, run, and make room */
    ck_assert_int_eq(scheduler_submit(&s, &part, 1, &q[4], &why), 0);
    ck_assert_int_eq(s.n_whole, 2);
}
END_TEST

/* While experts are missing, those that want all of them wait in nobody's way, and run when they are back. */
START_TEST(missing_experts) {
    limits.max_queue = 8;
    open_scheduler();
    s.missing = true;
    struct seq *whole = submit(2, 1, -5), *part = NULL;
    ck_assert_ptr_null(plan());
    ck_assert(scheduler_holds(&s, whole) && !whole->degraded);
    struct seq_request r = {.ids = ids, .prompt = 3, .max_tokens = 2, .allow_degraded = true};
    ck_assert_int_eq(scheduler_submit(&s, &r, 1, &part, &why), 0);
    ck_assert(!scheduler_holds(&s, part));
    const struct plan *p = plan();
    ck_assert_int_eq(p->worker[0].n_run, 1);
    ck_assert_ptr_eq(p->worker[0].run[0].seq, part);
    ck_assert(part->degraded && whole->state == SEQ_WAITING);
    s.missing = false;
    ck_assert(!scheduler_holds(&s, whole));
    p = plan();
    ck_assert_int_eq(p->worker[0].n_start, 1);
    ck_assert_ptr_eq(p->worker[0].start[0], whole);
    ck_assert(!whole->degraded);
}
END_TEST

START_TEST(homes_are_spread) {
    limits.workers = 3;
    limits.max_batch = 12;
    limits.max_queue = 12;
    open_scheduler();
    for (int i = 0; i < 6; i++) submit(4, 4, 0);
    const struct plan *p = plan();
    for (int w = 0; w < 3; w++) ck_assert_int_eq(p->worker[w].n_start, 2);
    ck_assert_uint_eq(p->worker[0].start[0]->number, 1);
    ck_assert_uint_eq(p->worker[1].start[0]->number, 2);
}
END_TEST

START_TEST(eviction_and_return) { /* two that fit only one after the other */
    limits.pages = 5;
    limits.ahead = 1;
    open_scheduler();
    struct seq *a = submit(4, 17, 0), *b = submit(4, 17, 0);
    const struct commit *c;
    bool restarted = false;
    for (uint64_t step = 1; step < 60 && !scheduler_idle(&s); step++) {
        const struct plan *p = plan();
        ck_assert_ptr_nonnull(p);
        struct step_out out[4];
        int n = 0;
        for (int i = 0; i < p->worker[0].n_run; i++) {
            const struct plan_run *r = &p->worker[0].run[i];
            if (!r->sample) continue;
            out[n] = token(r->seq, r->first + r->count);
            if ((int)out[n].position + 1 == r->seq->limit) out[n].finish = STEP_LENGTH;
            n++;
        }
        for (int i = 0; i < p->worker[0].n_start; i++)
            if (p->worker[0].start[i] == b && step > 1) {
                restarted = true;
                ck_assert_int_gt(b->given, b->prompt); /* recomputes its own answer so far */
            }
        ck_assert_int_eq(report(0, step, out, n), 0);
        ck_assert_int_eq(commit(&c), 1);
        ck_assert(a == NULL || a->preemptions == 0);
        for (int i = 0; i < c->n; i++)
            if (c->token[i].end != SEQ_NOT_ENDED && c->token[i].seq == a) a = NULL;
    }
    ck_assert(scheduler_idle(&s));
    ck_assert(restarted);
    ck_assert_uint_gt(s.counts.preemptions, 0);
    ck_assert_uint_eq(s.counts.tokens, 34);
}
END_TEST

START_TEST(commits_wait_for_all) {
    limits.workers = 2;
    open_scheduler();
    struct seq *q = submit(2, 5, 0);
    const struct commit *c;
    plan();
    plan();
    struct step_out o = token(q, 2), o2 = token(q, 3);
    ck_assert_int_eq(report(q->home, 1, &o, 1), 0);
    ck_assert_int_eq(report(q->home, 2, &o2, 1), 0);
    ck_assert_int_eq(commit(&c), 0);
    ck_assert_int_eq(report(!q->home, 1, NULL, 0), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(commit(&c), 0);
    ck_assert_int_eq(report(!q->home, 2, NULL, 0), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq((int)c->token[0].out->position, 3);
}
END_TEST

static void bad_commit(const struct step_out *out, int n, const char *says) {
    const struct commit *c;
    ck_assert_int_eq(report(0, 1, out, n), 0);
    ck_assert_int_eq(commit(&c), ERR_PROTOCOL);
    ck_assert_msg(strstr(why.text, says) != NULL, "wanted '%s' in '%s'", says, why.text);
    ck_assert_int_eq(s.faulty, 0);
}
static struct seq *one_step(void) {
    open_scheduler();
    struct seq *q = submit(3, 2, 0);
    ck_assert_ptr_nonnull(plan());
    return q;
}
START_TEST(void_keeps_what_committed) {
    limits.workers = 2;
    limits.prefill_chunk = 4;
    open_scheduler();
    struct seq *a = submit(6, 8, 0), *b = submit(6, 8, 0);
    const struct commit *c;
    ck_assert_ptr_nonnull(plan());
    ck_assert_ptr_nonnull(plan()); /* rows 0-3, then 4-5: the first commits, the second and what it sampled is void */
    ck_assert_int_eq(a->home, 0);
    ck_assert_int_eq(b->home, 1);
    ck_assert_int_eq(report(0, 1, NULL, 0), 0);
    ck_assert_int_eq(report(1, 1, NULL, 0), 0);
    ck_assert_int_eq(commit(&c), 1);
    struct step_out o = token(a, 6);
    ck_assert_int_eq(report(0, 2, &o, 1), 0);
    ck_assert_int_eq(commit(&c), 0);
    scheduler_void(&s, 1);
    ck_assert_int_eq(b->state, SEQ_WAITING);
    ck_assert_int_eq(pages_used(&s.pages, 0), 1);
    ck_assert_int_eq(pages_used(&s.pages, 1), 0);
    const struct plan *p = plan();
    ck_assert_uint_eq(p->step, 3);
    ck_assert_int_eq(p->worker[1].n_start + p->worker[1].n_run + p->worker[1].n_drop, 0);
    ck_assert_int_eq(p->worker[0].n_drop, 0);
    ck_assert_int_eq(p->worker[0].n_start, 2);
    ck_assert_ptr_eq(p->worker[0].start[0], a);
    ck_assert_int_eq(p->worker[0].run[0].first, 4);
    ck_assert_int_eq(p->worker[0].run[0].n_new_pages, 2); /* the one it keeps and the next */
    ck_assert(p->worker[0].run[0].sample);
    ck_assert_ptr_eq(p->worker[0].start[1], b);
    ck_assert_int_eq(p->worker[0].run[1].first, 0);
    ck_assert_int_lt(report(0, 2, &o, 1), 0); /* of a void step */
    ck_assert_int_eq(report(0, 3, &o, 1), 0);
    ck_assert_int_eq(commit(&c), 1); /* the dead one's report is not wanted */
    ck_assert_int_eq(c->n, 1);
    ck_assert_ptr_eq(c->token[0].seq, a);
}
END_TEST

START_TEST(void_while_ahead_of_what_is_known) { /* granted rows whose tokens had not come; a joins, b is over */
    limits.workers = 2;
    open_scheduler();
    struct seq *a = submit(3, 4, 0), *b = submit(3, 4, 0);
    const struct commit *c;
    struct step_out o = token(a, 3);
    ck_assert_ptr_nonnull(plan());
    ck_assert_ptr_nonnull(plan());
    scheduler_end(&s, b);
    ck_assert_int_eq(report(0, 1, &o, 1), 0);
    ck_assert_int_eq(report(1, 1, NULL, 0), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(a->count, 4);
    ck_assert_int_eq(a->granted, 4);
    scheduler_void(&s, 3);
    ck_assert_int_eq(a->granted, 3);
    ck_assert_int_eq(a->home, 0);
    ck_assert_int_eq(pages_used(&s.pages, 1), 0);
    const struct plan *p = plan();
    ck_assert_int_eq(p->worker[0].start[0]->given, 4);
    ck_assert_int_eq(p->worker[0].run[0].first, 3);
    ck_assert_int_eq(p->worker[0].run[0].count, 1);
    ck_assert(p->worker[0].run[0].sample);
    ck_assert_int_eq(p->worker[1].n_drop, 0); /* what it had it has forgotten */
    scheduler_void(&s, 2);                    /* and once more, before anything came */
    ck_assert_int_eq(a->state, SEQ_WAITING);
    p = plan();
    ck_assert_int_eq(p->worker[1].run[0].count, 4);
    ck_assert_ptr_null(p->worker[0].n_run ? p : NULL);
}
END_TEST

START_TEST(owed_token) {
    one_step();
    bad_commit(NULL, 0, "owes the token of sequence 1 at position 3");
}
END_TEST
START_TEST(wrong_position) {
    struct step_out o = token(one_step(), 4);
    bad_commit(&o, 1, "at position 4; wanted its home (worker 0) at position 3");
}
END_TEST
START_TEST(wrong_id) {
    struct step_out o = token(one_step(), 3);
    o.token = 100;
    bad_commit(&o, 1, "sampled token 100 of a vocabulary of 100");
}
END_TEST
START_TEST(ends_early) {
    struct step_out o = token(one_step(), 3);
    o.finish = STEP_LENGTH;
    bad_commit(&o, 1, "ends sequence 1 at 4 of 5 tokens as \"length\"");
}
END_TEST
START_TEST(same_token_twice) {
    struct step_out o = token(one_step(), 3), two[2] = {o, o};
    bad_commit(two, 2, "for sequence 1 twice in step 1");
}
END_TEST
START_TEST(still_reads_its_prompt) {
    limits.prefill_chunk = 2;
    struct step_out o = token(one_step(), 3);
    bad_commit(&o, 1, "for sequence 1 at position 3, but was to sample nothing there in step 1");
}
END_TEST
START_TEST(wants_no_token) { /* and has no room for one */
    open_scheduler();
    struct step_out o = token(submit(3, 0, 0), 3);
    o.finish = STEP_LENGTH;
    ck_assert_ptr_nonnull(plan());
    bad_commit(&o, 1, "for sequence 1 at position 3, but was to sample nothing there in step 1");
}
END_TEST
START_TEST(unknown_sequence_is_overshoot) {
    struct step_out out[2] = {token(one_step(), 3), {.seq = 99, .position = 1}};
    const struct commit *c;
    ck_assert_int_eq(report(0, 1, out, 2), 0);
    ck_assert_int_eq(commit(&c), 1);
    ck_assert_int_eq(c->n, 1);
}
END_TEST
START_TEST(bad_reports) {
    one_step();
    struct step_out many[5] = {{0}};
    ck_assert_int_eq(report(0, 0, NULL, 0), ERR_PROTOCOL);
    ck_assert_int_eq(report(0, 9, NULL, 0), ERR_PROTOCOL);
    ck_assert_int_eq(report(0, 1, many, 5), ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(why.text, "worker 0: reports 5 tokens"));
    limits.workers = 2;
    scheduler_clear(&s);
    one_step();
    ck_assert_int_eq(report(0, 1, NULL, 0), 0);
    ck_assert_int_eq(report(0, 1, NULL, 0), ERR_PROTOCOL);
    ck_assert_ptr_nonnull(strstr(why.text, "twice"));
}
END_TEST

/* From another life: what a worker still has of a sequence is not computed again, and what it cannot have is not believed. */
START_TEST(takes_up_what_is_held) {
    uint32_t pages[] = {7, 2, 9, 0}, beyond[] = {10, 1, 3, 4};
    open_scheduler();
    struct seq *q = submit(10, 5, 0), *other = submit(10, 5, 0);
    ck_assert_int_eq(scheduler_adopt(&s, 0, &(struct held_seq){99, 8, 4, pages}), 0);
    ck_assert_int_eq(scheduler_adopt(&s, 0, &(struct held_seq){q->number, 8, 4, beyond}), 0);
    ck_assert_int_eq(scheduler_adopt(&s, 0, &(struct held_seq){q->number, 8, 1, pages}), 0);
    ck_assert_int_eq(scheduler_adopt(&s, 0, &(struct held_seq){q->number, 0, 4, pages}), 0);
    ck_assert_int_eq(q->state, SEQ_WAITING);
    ck_assert_int_eq(scheduler_adopt(&s, 0, &(struct held_seq){q->number, 30, 4, pages}), 9); /* the tenth row yields a token */
    ck_assert_int_eq(scheduler_adopt(&s, 0, &(struct held_seq){q->number, 30, 4, pages}), 0);
    ck_assert_int_eq(scheduler_adopt(&s, 0, &(struct held_seq){other->number, 8, 2, pages + 1}), 0); /* another's */
    const struct plan *p = plan();
    ck_assert_int_eq(p->worker[0].n_start, 2);
    const struct plan_run *run = &p->worker[0].run[0];
    ck_assert(run->seq == q && run->first == 9 && run->count == 1 && run->sample);
    ck_assert_int_eq(run->n_new_pages, 3);
    ck_assert(run->new_pages[0] == 7 && run->new_pages[1] == 2 && run->new_pages[2] == 9);
    ck_assert(p->worker[0].run[1].seq == other && p->worker[0].run[1].first == 0);
}
END_TEST

START_TEST(bad_limits) {
    limits.step_tokens = 3;
    ck_assert_int_eq(scheduler_init(&s, &limits, &why), ERR_INVALID);
    ck_assert_ptr_nonnull(strstr(why.text, "step-tokens 3 is less than the 4 sequences"));
    limits.step_tokens = 8;
    limits.workers = 65;
    ck_assert_int_eq(scheduler_init(&s, &limits, &why), ERR_INVALID);
    limits.workers = 1;
    limits.ahead = 5;
    ck_assert_int_eq(scheduler_init(&s, &limits, &why), ERR_INVALID);
}
END_TEST

RUN("scheduler", begin, end, admission, chunks_then_decode_ahead, no_tokens_wanted, cancel_frees_by_the_second_step,
    order_and_priority, missing_experts_fill_no_queue, missing_experts, homes_are_spread, eviction_and_return,
    commits_wait_for_all, void_keeps_what_committed, void_while_ahead_of_what_is_known, owed_token, wrong_position, wrong_id,
    ends_early, same_token_twice, still_reads_its_prompt, wants_no_token, unknown_sequence_is_overshoot, bad_reports,
    takes_up_what_is_held, bad_limits)
