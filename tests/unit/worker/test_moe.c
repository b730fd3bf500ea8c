/* test_moe.c - how peers are waited for that send nothing, or take nothing. The layers themselves: tests/golden. */
#include "base/clk.h"
#include "worker/moe.h"

#include "tests/unit/run.h"

enum { LONG_US = 60000000 };

struct stage {
    struct fabric_hub *hub;
    struct fabric *fabric;
    struct fabric_ops ops; /* those of mem, with a flush of our own */
    struct ep *ep;
    struct moe moe;
    struct split split;
    atomic_bool stop;
    bool goes_on; /* after a report */
    int reports, layer, nonsense;
    uint32_t call;
    uint64_t late;
};

static const struct ep_limits limits = {.max_tokens = 4, .max_slots = 1, .hidden = 8, .topk = 1};

static int never_flushed(struct fabric *f, int64_t deadline_us) {
    (void)f;
    while (clk_now_us() < deadline_us) continue;
    return ERR_DEADLINE;
}

static int killed(struct fabric *f, int64_t deadline_us) {
    (void)f, (void)deadline_us;
    return ERR_GONE;
}

static void on_late(void *ctx, uint64_t late, int layer) {
    struct stage *s = ctx;
    s->reports++;
    s->late = late;
    s->layer = layer;
    s->call = s->moe.calls;
    if (!s->goes_on) atomic_store(&s->stop, true);
}

static void stage_open(struct stage *s) {
    struct why why;
    const int32_t tokens[] = {1, 1};
    *s = (struct stage){0};
    ck_assert_int_eq(fabric_hub_new(2, NULL, &s->hub, &why), 0);
    ck_assert_int_eq(fabric_mem_open(s->hub, 0, &s->fabric, &why), 0);
    ck_assert_int_eq(fabric_prepare(s->fabric, ep_frame_bytes(&limits, 2), 1, &why), 0);
    ck_assert_int_eq(ep_new(s->fabric, &limits, &s->ep, &why), 0);
    s->ops = *s->fabric->ops;
    s->ops.flush = never_flushed;
    s->fabric->ops = &s->ops;
    s->moe = (struct moe){
        .ep = s->ep, .stop = &s->stop, .on_late = on_late, .ctx = s, .patience_us = LONG_US, .split = &s->split};
    split_begin(&s->split, PART_OUTPUT);
    ep_step_begin(s->ep, 5, 1, tokens, 1);
}

static void stage_close(struct stage *s) {
    ep_free(s->ep);
    fabric_close(s->fabric);
    fabric_hub_free(s->hub);
}

/* It gives up after the patience, accuses nobody, and leaves the rest to idle moments. */
START_TEST(patience_ends) {
    struct stage s;
    stage_open(&s);
    s.moe.patience_us = 2000;
    ck_assert_int_eq(moe_step_end(&s.moe), 0);
    ck_assert_int_eq(s.reports, 0);
    ck_assert(moe_idle(&s.moe));
    split_to(&s.split, PART_OUTPUT);
    ck_assert_uint_ge(s.split.us[PART_WAIT], 2000);
    stage_close(&s);
}
END_TEST

START_TEST(an_epoch_that_ended) {
    struct stage s;
    stage_open(&s);
    ep_tell_epoch(s.ep, 6);
    ck_assert_int_eq(moe_step_end(&s.moe), ERR_EPOCH);
    ck_assert(!moe_idle(&s.moe)); /* nobody wants it any more */
    stage_close(&s);
}
END_TEST

START_TEST(a_stop) {
    struct stage s;
    stage_open(&s);
    atomic_store(&s.stop, true);
    ck_assert_int_eq(moe_step_end(&s.moe), ERR_CANCELLED);
    stage_close(&s);
}
END_TEST

START_TEST(an_own_death) {
    struct stage s;
    stage_open(&s);
    s.ops.flush = killed;
    ck_assert_int_eq(moe_step_end(&s.moe), ERR_GONE);
    stage_close(&s);
}
END_TEST

/* The peer sends what is no frame, one for each look. */
static const void *nonsense(struct fabric *f, int peer, size_t *bytes) {
    static const char words[64] = "nonsense";
    struct stage *s = (struct stage *)((char *)(uintptr_t)f->ops - offsetof(struct stage, ops));
    (void)peer;
    *bytes = sizeof words;
    if (++s->nonsense == 1000) atomic_store(&s->stop, true);
    return s->nonsense % 2 ? words : NULL;
}
static int always_news(struct fabric *f) {
    (void)f;
    return 1;
}
static void nothing_given(struct fabric *f, int peer, const void *frame) { (void)f, (void)peer, (void)frame; }

START_TEST(nonsense_without_end_is_told_once) {
    struct stage s;
    int first[] = {0, 1};
    struct expert_store store = {.layers = 1, .first = first};
    struct model_config config = {.hidden = 8, .moe_index = {-1, 0}};
    struct step_rows none = {0};
    stage_open(&s);
    s.moe.config = &config;
    s.moe.store = &store;
    ck_assert_int_eq(moe_post(&s.moe, 0, 1, NULL, NULL, &none, 0), 0);
    s.ops.take = nonsense;
    s.ops.give = nothing_given;
    s.ops.poll = always_news;
    s.goes_on = true;
    ck_assert_int_eq(moe_serve(&s.moe, 0, 1, NULL), ERR_CANCELLED);
    ck_assert_int_ge(s.nonsense, 1000);
    ck_assert_int_eq(s.reports, 1);
    ck_assert_uint_eq(s.late, 2);
    stage_close(&s);
}
END_TEST

/* Its own dispatch is the first call of a step; then nobody's comes, to the second one. */
START_TEST(the_place_of_a_wait) {
    struct stage s;
    int first[] = {0, 1};
    struct expert_store store = {.layers = 1, .first = first};
    struct model_config config = {.hidden = 8, .moe_index = {-1, 0}};
    struct step_rows none = {0};
    stage_open(&s);
    s.moe.config = &config;
    s.moe.store = &store;
    s.moe.patience_us = 2000;
    ck_assert_int_eq(moe_post(&s.moe, 0, 1, NULL, NULL, &none, 0), 0);
    ck_assert_int_eq(s.reports, 0);
    ck_assert_int_eq(moe_serve(&s.moe, 0, 1, NULL), ERR_CANCELLED);
    ck_assert_int_eq(s.reports, 1);
    ck_assert_int_eq(s.layer, 1);
    ck_assert_uint_eq(s.call, 2);
    ck_assert_uint_eq(s.late, 2);
    split_to(&s.split, PART_OUTPUT);
    ck_assert_uint_ge(s.split.us[PART_WAIT], 2000); /* it is no dispatch */
    ck_assert_uint_lt(s.split.us[PART_DISPATCH], s.split.us[PART_WAIT]);
    stage_close(&s);
}
END_TEST

int main(void) {
    Suite *s = suite_create("moe");
    TCase *t = tcase_create("waits");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, patience_ends);
    tcase_add_test(t, an_epoch_that_ended);
    tcase_add_test(t, a_stop);
    tcase_add_test(t, an_own_death);
    tcase_add_test(t, nonsense_without_end_is_told_once);
    tcase_add_test(t, the_place_of_a_wait);
    suite_add_tcase(s, t);
    return run_suite(s);
}
