/* test_engine.c - an engine alone, driven through its rings with a tiny checkpoint: plans that contradict what it knows end in
 * EVENT_FAILED with the numbers, rows granted beyond an end are no-ops, and chunks give the bits of one go.
 *
 * usage: test_engine DATA_DIR */
#include "worker/engine.h"

#include "base/clk.h"
#include "model/checkpoint.h"
#include "worker/tally.h"
#include "worker/trace.h"

#include <limits.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/run.h"

enum { STEP_TOKENS = 16, MAX_SEQS = 2, MAX_CONTEXT = 48, PAGE = 16, PAGES = 6, PATIENCE_US = 60000000 };

static const char *data_dir;
static struct engine *engine;
static int vocab, topk, experts, moe_layers;

static struct event next_event(void) {
    struct event ev;
    int64_t until_us = clk_now_us() + PATIENCE_US;
    while (!engine_event_pop(engine, &ev)) {
        struct pollfd fd = {.fd = engine_event_fd(engine), .events = POLLIN};
        ck_assert_msg(clk_now_us() < until_us, "the engine reports nothing");
        poll(&fd, 1, 1000);
        engine_event_clear(engine);
    }
    return ev;
}

/* Up to the engine's thread. */
static void new_engine(struct worker_setup *s) {
    struct engine_options o = {.workers = 1, .threads = 1, .fabric_name = "mem"};
    *s = (struct worker_setup){.epoch = 1,
                               .weights = FMT_F32,
                               .isa = "ref",
                               .step_tokens = STEP_TOKENS,
                               .max_seqs = MAX_SEQS,
                               .max_context = MAX_CONTEXT,
                               .page_tokens = PAGE,
                               .kv_pages = PAGES};
    struct checkpoint c;
    struct why why = {""};
    snprintf(s->model_dir, sizeof s->model_dir, "%s/qwen3_moe", data_dir);
    ck_assert_msg(checkpoint_open(s->model_dir, &c, &why) >= 0, "%s", why.text);
    vocab = c.config.vocab;
    topk = c.config.gate.k;
    moe_layers = c.config.moe_layers;
    experts = c.config.gate.experts;
    ck_assert_int_eq(placement_contiguous(&s->placement, 1, moe_layers, c.config.gate.experts, &why), 0);
    checkpoint_close(&c);
    ck_assert_int_eq(engine_new(&o, &engine), 0);
}

static void open_engine(void) {
    struct worker_setup s;
    new_engine(&s);
    ck_assert_int_eq(engine_start(engine, &s), 0);
    struct event ev = next_event();
    ck_assert_msg(ev.kind == EVENT_READY, "%s", ev.kind == EVENT_FAILED ? ev.failed.text : "not ready");
}

static void close_engine(void) {
    engine_stop(engine);
    engine_join(engine);
    engine_free(engine);
}

/* One sequence's start and run, and the plan around them. The engine borrows all three until it has reported. */
static int32_t ids[MAX_CONTEXT];
static uint32_t pages[PAGES];
static struct plan_start start[MAX_SEQS];
static struct plan_run run[MAX_SEQS + 1];

static void good_plan(struct plan *p) { /* the five tokens of sequence 7 in one go, and a sample */
    for (int i = 0; i < MAX_CONTEXT; i++) ids[i] = (i * 13 + 5) % vocab;
    for (uint32_t i = 0; i < PAGES; i++) pages[i] = PAGES - 1 - i;
    start[0] = (struct plan_start){.seq = 7, .ids = ids, .n_ids = 5, .prompt_tokens = 5, .max_tokens = 20};
    run[0] = (struct plan_run){.seq = 7, .count = 5, .sample = true, .new_pages = pages, .n_new_pages = 1};
    p->epoch = p->placement_version = 1;
    p->step = 1;
    p->workers = p->microbatches = 1;
    p->tokens[0] = 5;
    p->start = start;
    p->run = run;
    p->n_start = p->n_run = 1;
    p->patience_us = PATIENCE_US;
}

static void wrong_epoch(struct plan *p) { p->epoch = 2; }
static void wrong_workers(struct plan *p) { p->workers = 2; }
static void wrong_placement(struct plan *p) { p->placement_version = 9; }
static void old_step(struct plan *p) { p->step = 0; }
static void grant_too_large(struct plan *p) { p->tokens[0] = STEP_TOKENS + 1; }
static void grant_negative(struct plan *p) { p->tokens[0] = -1; }
static void rows_not_granted(struct plan *p) { p->tokens[0] = 4; }
static void unknown_sequence(struct plan *p) { (void)p, run[0].seq = 9; }
static void beyond_the_known(struct plan *p) { p->tokens[0] = run[0].count = 6; }
static void negative_position(struct plan *p) { (void)p, run[0].first = -1; }
static void huge_position(struct plan *p) { (void)p, run[0].first = INT_MAX; }
static void empty_run(struct plan *p) { (void)p, run[0].count = 0; }
static void negative_run(struct plan *p) { (void)p, run[0].count = INT_MIN; }
static void sample_too_early(struct plan *p) { (void)p, run[0].count = 3; }
static void page_out_of_range(struct plan *p) { (void)p, pages[0] = PAGES; }
static void page_missing(struct plan *p) { (void)p, run[0].n_new_pages = 0; }
static void too_many_pages(struct plan *p) { (void)p, run[0].n_new_pages = 4; }
static void token_beyond(struct plan *p) { (void)p, ids[3] = vocab; }
static void token_negative(struct plan *p) { (void)p, ids[3] = -1; }
static void starts_twice(struct plan *p) { p->n_start = 2, start[1] = start[0]; }
static void no_answer(struct plan *p) { (void)p, start[0].max_tokens = 0; }
static void negative_answer(struct plan *p) { (void)p, start[0].max_tokens = -3; }
static void runs_twice(struct plan *p) { /* two samples of a sequence with room for one token would write beyond its room */
    start[0].n_ids = start[0].prompt_tokens = MAX_CONTEXT - 1;
    run[0] =
        (struct plan_run){.seq = 7, .first = MAX_CONTEXT - 2, .count = 1, .sample = true, .new_pages = pages, .n_new_pages = 3};
    run[1] = run[0];
    run[1].n_new_pages = 0;
    p->tokens[0] = p->n_run = 2;
}

static const struct {
    void (*spoil)(struct plan *p);
    const char *says;
} contradictions[] = {
    {wrong_epoch, "epoch 2 of 1"},
    {wrong_workers, "of 2 workers"},
    {wrong_placement, "placement 9; this worker has 1"},
    {old_step, "step 0"},
    {grant_too_large, "17 rows, at most 16"},
    {grant_negative, "-1 rows"},
    {rows_not_granted, "more than the 4 rows"},
    {unknown_sequence, "sequence 9"},
    {beyond_the_known, "position 5; 5 tokens"},
    {negative_position, "position -1"},
    {huge_position, "position 2147483647"},
    {empty_run, "sequence 7"},
    {negative_run, "sequence 7"},
    {sample_too_early, "position 3; 5 tokens"},
    {page_out_of_range, "page 6 of 6"},
    {page_missing, "has 0 pages"},
    {too_many_pages, "page 4 of at most 3"},
    {token_beyond, "the vocabulary has"},
    {token_negative, "token -1"},
    {starts_twice, "starts twice"},
    {no_answer, "at most 0 tokens"},
    {negative_answer, "at most -3 tokens"},
    {runs_twice, "sequence 7 twice"},
};

START_TEST(contradictory_plan) {
    struct plan *p = engine_plan_take(engine);
    good_plan(p);
    contradictions[_i].spoil(p);
    engine_plan_push(engine, p);
    struct event ev = next_event();
    ck_assert_msg(ev.kind == EVENT_FAILED, "plan %d (%s) was run", _i, contradictions[_i].says);
    ck_assert_msg(strstr(ev.failed.text, contradictions[_i].says), "plan %d: '%s' does not say '%s'", _i, ev.failed.text,
                  contradictions[_i].says);
}
END_TEST

/* Runs the plan; the outputs are copied, the report is given back. Returns their number. */
static int run_plan(struct plan *p, struct seq_out *out) {
    int tokens = 0, rows = 0;
    for (int i = 0; i < p->n_run; i++) tokens += p->run[i].count;
    engine_plan_push(engine, p);
    struct event ev = next_event();
    ck_assert_msg(ev.kind == EVENT_STEP, "%s", ev.kind == EVENT_FAILED ? ev.failed.text : "no step");
    for (int i = 0; i < ev.step->n_rows; i++) rows += (int)ev.step->rows[i];
    ck_assert(rows == tokens * topk * moe_layers || rows == 0);
    int n = ev.step->n_out;
    memcpy(out, ev.step->out, sizeof *out * (size_t)n);
    engine_report_done(engine, ev.step);
    return n;
}

START_TEST(the_same_step_again) {
    struct seq_out out[MAX_SEQS];
    struct plan *p = engine_plan_take(engine);
    good_plan(p);
    ck_assert_int_eq(run_plan(p, out), 1);
    p = engine_plan_take(engine);
    good_plan(p);
    p->n_start = p->n_run = 0;
    engine_plan_push(engine, p);
    struct event ev = next_event();
    ck_assert_int_eq(ev.kind, EVENT_FAILED);
    ck_assert_ptr_nonnull(strstr(ev.failed.text, "step 1"));
}
END_TEST

START_TEST(granted_beyond_the_end) {
    struct seq_out out[MAX_SEQS];
    struct plan *p = engine_plan_take(engine);
    good_plan(p);
    start[0].max_tokens = 1;
    ck_assert_int_eq(run_plan(p, out), 1);
    ck_assert_int_eq(out[0].finish, SEQ_LENGTH);
    ck_assert_int_eq(out[0].position, 5);
    p = engine_plan_take(engine); /* the coordinator could not know yet */
    good_plan(p);
    p->step = 2;
    p->n_start = 0;
    p->tokens[0] = 1;
    run[0] = (struct plan_run){.seq = 7, .first = 5, .count = 1, .sample = true};
    ck_assert_int_eq(run_plan(p, out), 0);
    p = engine_plan_take(engine); /* and drops it once it does: the id is free again */
    good_plan(p);
    p->step = 3;
    p->drop = &(uint64_t){7};
    p->n_drop = 1;
    ck_assert_int_eq(run_plan(p, out), 1);
}
END_TEST

/* Tells the engine of an epoch like the first one, with so many workers. */
static void tell_epoch(uint32_t number, int workers) {
    struct worker_setup s = {.epoch = number};
    struct why why = {""};
    ck_assert_int_eq(placement_contiguous(&s.placement, workers, moe_layers, experts, &why), 0);
    s.placement.version = number;
    ck_assert_int_eq(engine_prepare(engine, &s), 0);
}
static void plan_of_epoch(uint32_t epoch, uint64_t step) {
    struct plan *p = engine_plan_take(engine);
    good_plan(p);
    p->epoch = p->placement_version = epoch;
    p->step = step;
    engine_plan_push(engine, p);
}

/* Sequences are forgotten, so they may start again; plans of what was are passed over without a word. */
START_TEST(another_epoch) {
    struct seq_out before[MAX_SEQS];
    struct plan *p = engine_plan_take(engine);
    good_plan(p);
    ck_assert_int_eq(run_plan(p, before), 1);
    tell_epoch(2, 1);
    tell_epoch(3, 1);
    struct event ev = next_event();
    if (ev.kind == EVENT_PREPARED && ev.prepared.epoch == 2) ev = next_event(); /* it may have been passed over */
    ck_assert_msg(ev.kind == EVENT_PREPARED, "%s", ev.kind == EVENT_FAILED ? ev.failed.text : "not prepared");
    ck_assert_uint_eq(ev.prepared.epoch, 3);
    ck_assert_int_eq(ev.prepared.slots, moe_layers * experts);
    ck_assert_uint_gt(ev.prepared.bytes.experts, 0);
    plan_of_epoch(1, 2);
    ck_assert_int_eq(engine_switch(engine, 2), 0); /* of the one before */
    ck_assert_int_eq(engine_switch(engine, 3), 0);
    plan_of_epoch(3, 3);
    ev = next_event();
    ck_assert_msg(ev.kind == EVENT_STEP, "%s", ev.kind == EVENT_FAILED ? ev.failed.text : "no step");
    ck_assert_uint_eq(ev.step->step, 3);
    ck_assert_uint_eq(ev.step->epoch, 3);
    ck_assert_int_eq(ev.step->n_out, 1);
    ck_assert_int_eq(ev.step->out[0].token, before[0].token);
    ck_assert_mem_eq(&ev.step->out[0].logprob, &before[0].logprob, sizeof before[0].logprob);
    engine_report_done(engine, ev.step);
}
END_TEST

static void begin_unknown(void) { engine_switch(engine, 2); }
static void place_on_others(void) { tell_epoch(2, 2); }
static void plan_too_early(void) {
    tell_epoch(2, 1);
    plan_of_epoch(2, 1);
}
static const struct {
    void (*spoil)(void);
    const char *says;
} bad_epochs[] = {{begin_unknown, "epoch 2 begins, but 1 was prepared"},
                  {place_on_others, "on 2 workers"},
                  {plan_too_early, "this is epoch 0"}};
START_TEST(contradictory_epoch) {
    bad_epochs[_i].spoil();
    struct event ev;
    while ((ev = next_event()).kind == EVENT_PREPARED) continue;
    ck_assert_int_eq(ev.kind, EVENT_FAILED);
    ck_assert_msg(strstr(ev.failed.text, bad_epochs[_i].says), "'%s'", ev.failed.text);
}
END_TEST

enum { PROMPT = 11, ANSWER = 9 };

/* The whole answer of sequence `seq`: its prompt in chunks, then token by token, in plans of its own. Pages from first_page. */
static void answer(uint64_t seq, int chunk, uint32_t first_page, uint64_t *step, struct seq_out *all) {
    int have = 0;
    for (int at = 0; have < ANSWER;) {
        struct plan *p = engine_plan_take(engine);
        good_plan(p);
        p->step = ++*step;
        int count = at >= PROMPT ? 1 : chunk < PROMPT - at ? chunk : PROMPT - at;
        start[0].seq = run[0].seq = seq;
        start[0].n_ids = start[0].prompt_tokens = PROMPT;
        start[0].max_tokens = ANSWER;
        start[0].sampling = (struct sampling){.temperature = 0.8f, .top_p = 0.9f, .seed = 11, .logprobs = 4};
        p->n_start = at == 0;
        for (uint32_t i = 0; i < 3; i++) pages[i] = first_page + i;
        run[0].first = at;
        run[0].count = p->tokens[0] = count;
        run[0].n_new_pages = at == 0 ? 3 : 0;
        run[0].sample = at + count >= PROMPT;
        at += count;
        ck_assert_int_eq(run_plan(p, &all[have]), run[0].sample);
        have += run[0].sample;
    }
    ck_assert_int_eq(all[ANSWER - 1].finish, SEQ_LENGTH);
}

START_TEST(chunks_equal_one_go) {
    struct seq_out whole[ANSWER + MAX_SEQS], parts[ANSWER + MAX_SEQS];
    uint64_t step = 0;
    answer(3, PROMPT, 0, &step, whole);
    static const int chunks[] = {1, 3, 7};
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        struct plan *p = engine_plan_take(engine);
        good_plan(p);
        p->step = ++step;
        p->n_start = p->n_run = 0;
        p->drop = &(uint64_t){4};
        p->n_drop = 1;
        run_plan(p, parts);
        answer(4, chunks[c], 3, &step, parts);
        for (int i = 0; i < ANSWER; i++) {
            ck_assert_int_eq(parts[i].position, whole[i].position);
            ck_assert_int_eq(parts[i].token, whole[i].token);
            ck_assert_mem_eq(&parts[i].logprob, &whole[i].logprob, sizeof whole[i].logprob);
            ck_assert_int_eq(parts[i].n_top, 3);
            ck_assert_mem_eq(parts[i].top, whole[i].top, sizeof *whole[i].top * 3);
        }
    }
}
END_TEST

/* A home has few blocks: while nobody gives them back, steps go on without records and say how many rows have none. */
START_TEST(records_never_make_a_step_wait) {
    struct trace_block *held[TRACE_BLOCKS];
    struct trace_shape shape = {.experts = experts, .topk = topk, .layers = 1};
    struct trace_chunk c;
    struct why why;
    for (int step = 1; step <= TRACE_BLOCKS + 2; step++) {
        struct plan *p = engine_plan_take(engine);
        good_plan(p);
        p->step = (uint64_t)step;
        p->drop = &(uint64_t){7};
        p->n_drop = step > 1;
        start[0].domain = 3;
        p->trace[0] = 1u << (moe_layers - 1);
        p->n_trace = 1;
        bool recorded = step <= TRACE_BLOCKS;
        engine_plan_push(engine, p);
        struct event ev = next_event();
        if (recorded) {
            ck_assert_int_eq(ev.kind, EVENT_TRACE);
            held[step - 1] = ev.trace;
            ck_assert_msg(trace_parse(ev.trace->bytes, ev.trace->len, &shape, &c, &why) == 0, "%s", why.text);
            ck_assert_uint_eq(c.n, 5);
            ck_assert_uint_eq(c.step, (uint64_t)step);
            ev = next_event();
        }
        ck_assert_int_eq(ev.kind, EVENT_STEP);
        ck_assert_uint_eq(ev.step->trace_lost, recorded ? 0 : 5);
        ck_assert_uint_eq(ev.step->tokens, 5);
        engine_report_done(engine, ev.step);
    }
    struct trace_row row;
    struct trace_cell cell;
    trace_parse(held[0]->bytes, held[0]->len, &shape, &c, &why);
    trace_get_row(c.rows + 4 * trace_row_bytes(&shape), &row);
    trace_get_cell(c.rows + 4 * trace_row_bytes(&shape), topk, 0, &cell);
    ck_assert_uint_eq(row.seq, 7);
    ck_assert_int_eq(row.token, ids[4]);
    ck_assert_uint_eq(row.position, 4);
    ck_assert_uint_eq(row.domain, 3);
    for (int j = 1; j < topk; j++) {
        ck_assert_uint_ne(cell.expert[j], cell.expert[j - 1]);
        ck_assert(cell.weight[j] <= cell.weight[j - 1]);
    }
    uint64_t sum = 0, counts[4096];
    uint64_t tokens;
    ck_assert_uint_eq(tally_tokens(engine_tally(engine), 3), (TRACE_BLOCKS + 2) * 5);
    ck_assert(tally_read(engine_tally(engine), 3, counts, &tokens));
    ck_assert_uint_eq(tokens, (TRACE_BLOCKS + 2) * 5);
    for (int i = 0; i < moe_layers * experts; i++) sum += counts[i];
    ck_assert_uint_eq(sum, (uint64_t)(TRACE_BLOCKS + 2) * 5 * (uint64_t)topk * (uint64_t)moe_layers);
    ck_assert_uint_eq(tally_tokens(engine_tally(engine), 2), 0);
    engine_trace_done(engine, held[0]);
}
END_TEST

/* p = 1/2, 1/4, 1/4: entropy 1.5 ln 2 nats, of ln 3 at most. */
START_TEST(certainty) {
    float p[3], entropy, confidence, even[3] = {7, 7, 7}, z[3] = {logf(2), 0, 0};
    trace_judge(z, 3, GATE_SOFTMAX, p, &entropy, &confidence);
    ck_assert(fabsf(entropy - 1.5f * logf(2)) < 1e-6f);
    ck_assert(fabsf(confidence - (1 - 1.5f * logf(2) / logf(3))) < 1e-6f);
    trace_judge(even, 3, GATE_SIGMOID, p, &entropy, &confidence);
    ck_assert(fabsf(entropy - logf(3)) < 1e-6f && fabsf(confidence) < 1e-6f);
    trace_judge(even, 1, GATE_RAW, p, &entropy, &confidence);
    ck_assert(entropy == 0 && confidence == 1);
    float unsound[3] = {NAN, 0, 0};
    trace_judge(unsound, 3, GATE_SOFTMAX, p, &entropy, &confidence);
    ck_assert(entropy == 0 && confidence == 0);
}
END_TEST

/* A model may take minutes to load, and whoever is told to end does not wait for that. */
START_TEST(stopped_while_it_loads) {
    struct worker_setup s;
    struct event ev;
    uint64_t done, total;
    new_engine(&s);
    engine_stop(engine);
    ck_assert_int_eq(engine_start(engine, &s), 0);
    engine_join(engine);
    engine_load_state(engine, &done, &total);
    ck_assert_uint_gt(total, 0);
    ck_assert_uint_eq(done, 0);
    ck_assert(!engine_event_pop(engine, &ev));
    engine_free(engine);
}
END_TEST

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    data_dir = argv[1];
    Suite *s = suite_create("engine");
    TCase *t = tcase_create("engine");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, open_engine, close_engine);
    tcase_add_loop_test(t, contradictory_plan, 0, sizeof contradictions / sizeof *contradictions);
    tcase_add_test(t, the_same_step_again);
    tcase_add_test(t, granted_beyond_the_end);
    tcase_add_test(t, another_epoch);
    tcase_add_loop_test(t, contradictory_epoch, 0, sizeof bad_epochs / sizeof *bad_epochs);
    tcase_add_test(t, chunks_equal_one_go);
    tcase_add_test(t, records_never_make_a_step_wait);
    tcase_add_test(t, certainty);
    suite_add_tcase(s, t);
    t = tcase_create("loading");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, stopped_while_it_loads);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
