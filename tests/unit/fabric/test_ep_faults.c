/* test_ep_faults.c - the exchange when things go wrong: dead and late workers, given-up steps, lying frames. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clk.h"
#include "base/hash.h"
#include "fabric/ep_frame.h"
#include "tests/unit/fabric/ep_case.h"

#include "tests/unit/run.h"


/* SHORT_US must be longer than a busy machine may keep a healthy thread waiting. */
enum { LONG_US = 20000000, SHORT_US = 500000, MAX_RUNNERS = 6, MAX_RUNS = 6 };

/* ---- threads that run steps until something stops them ---- */

struct runner {
    pthread_t thread;
    struct fabric_hub *hub;
    const struct ep_case *c;
    int rank, steps, stop_at; /* stop_at: where the victim dies in step 1; < 0: it is killed from outside, or is none */
    bool victim;
    int rc;
    uint64_t late;
    int64_t worst_us; /* longest step */
    uint64_t done;    /* steps that went well */
    struct ep_counters count;
    struct why why;
};

static void *run_until_stopped(void *arg) {
    struct runner *r = arg;
    struct fabric *f = NULL;
    struct ep *ep = NULL;
    r->rc = fabric_mem_open(r->hub, r->rank, &f, &r->why);
    if (r->rc == 0) r->rc = fabric_prepare(f, ep_frame_bytes(&r->c->lim, r->c->ranks), 1, &r->why);
    if (r->rc == 0) r->rc = ep_new(f, &r->c->lim, &ep, &r->why);
    for (int s = 0; s < r->steps && r->rc == 0; s++) {
        bool dies_here = r->victim && r->stop_at >= 0 && s == 1;
        int64_t start_us = clk_now_us();
        r->rc = ep_case_step(r->c, ep, r->rank, 1, (uint64_t)s, dies_here ? r->stop_at : -1, SHORT_US, &r->late, &r->why);
        if (clk_now_us() - start_us > r->worst_us) r->worst_us = clk_now_us() - start_us;
        if (dies_here) {
            fabric_hub_kill(r->hub, r->rank);
            break;
        }
        r->done += r->rc == 0;
    }
    ep_free(ep);
    fabric_close(f);
    return NULL;
}

static void start(struct runner *r, int ranks, struct fabric_hub *hub, const struct ep_case *c, int victim, int stop_at,
                  int steps) {
    for (int i = 0; i < ranks; i++) {
        r[i] = (struct runner){.hub = hub, .c = c, .rank = i, .steps = steps, .stop_at = stop_at, .victim = i == victim};
        ck_assert_int_eq(pthread_create(&r[i].thread, NULL, run_until_stopped, &r[i]), 0);
    }
}

static struct fabric_hub *hub_for(const struct ep_case *c, const struct fabric_faults *faults) {
    struct fabric_hub *hub;
    struct why why;
    ck_assert_msg(fabric_hub_new(c->ranks, faults, &hub, &why) == 0, "%s", why.text);
    return hub;
}

/* Runs of death tests go on at the same time, for all that they do for long is wait. */
struct death {
    struct ep_case c;
    int victim;
    struct fabric_hub *hub;
    struct runner r[MAX_RUNNERS];
};

static void begin_death(struct death *d, uint64_t seed, int ranks, int victim, int stop_at, int steps) {
    ep_case_make(&d->c, seed, ranks);
    d->c.full = true;
    d->victim = victim;
    d->hub = hub_for(&d->c, NULL);
    start(d->r, ranks, d->hub, &d->c, victim, stop_at, steps);
}

static void end_death(struct death *d) {
    for (int i = 0; i < d->c.ranks; i++) pthread_join(d->r[i].thread, NULL);
    fabric_hub_free(d->hub);
}

/* A worker that dies between two halves, while all have tokens: everyone is late on it, and on nobody else. */
START_TEST(death_between_halves) {
    static struct death d[MAX_RUNS];
    struct ep_case c;
    ep_case_make(&c, (uint64_t)_i, _i);
    const int runs = 2 * c.layers;
    ck_assert_int_le(runs, MAX_RUNS);
    for (int stop_at = 0; stop_at < runs; stop_at++) begin_death(&d[stop_at], (uint64_t)_i, _i, stop_at % _i, stop_at, 3);
    for (int stop_at = 0; stop_at < runs; stop_at++) {
        const struct death *run = &d[stop_at];
        end_death(&d[stop_at]);
        for (int i = 0; i < _i; i++) {
            const struct runner *r = &run->r[i];
            if (i == run->victim) continue;
            ck_assert_msg(r->rc == ERR_LATE && r->late == UINT64_C(1) << run->victim && r->done == 1,
                          "%d ranks, death at %d: worker %d got %s, late %llx, after %d steps", _i, stop_at, i,
                          status_name(r->rc), (unsigned long long)r->late, (int)r->done);
            ck_assert_int_ge(r->worst_us, SHORT_US);
        }
    }
}
END_TEST

/* Killed at any moment, even half way through posting. A survivor that got the victim's last frame may be a phase further and
 * then also waits for one that did not; the furthest behind names the victim alone, and everyone names it. */
START_TEST(death_at_any_moment) {
    enum { RUNS = 4 };
    static struct death d[RUNS];
    for (uint64_t seed = 1; seed <= RUNS; seed++) {
        struct death *run = &d[seed - 1];
        begin_death(run, hash_u64(seed), _i, (int)(seed % (uint64_t)_i), -1, 1000000);
        for (int64_t until = clk_now_us() + (int64_t)(hash_u64(seed + 77) % 3000); clk_now_us() < until;) continue;
        fabric_hub_kill(run->hub, run->victim);
    }
    for (struct death *run = d; run < d + RUNS; run++) {
        bool exact = false;
        end_death(run);
        for (int i = 0; i < _i; i++) {
            const struct runner *r = &run->r[i];
            if (i == run->victim) {
                ck_assert_int_eq(r->rc, ERR_GONE);
                continue;
            }
            ck_assert_msg(r->rc == ERR_LATE && r->late >> run->victim & 1 && !(r->late >> i & 1),
                          "seed %d: worker %d got %s, late %llx", (int)(run - d) + 1, i, status_name(r->rc),
                          (unsigned long long)r->late);
            exact |= r->late == UINT64_C(1) << run->victim;
        }
        ck_assert(exact);
    }
}
END_TEST

/* ---- given-up steps ---- */

struct giver {
    pthread_t thread;
    struct fabric_hub *hub;
    const struct ep_case *c;
    int rank, rc;
    struct ep_counters count;
    struct why why;
};

/* Epochs 1..4 are given up somewhere in the middle, by a stop or by impatience, at each worker for itself; the last one must
 * come out exact although frames of all the others still lie about. */
static void *give_up_then_finish(void *arg) {
    struct giver *g = arg;
    struct fabric *f = NULL;
    struct ep *ep = NULL;
    uint64_t late;
    g->rc = fabric_mem_open(g->hub, g->rank, &f, &g->why);
    if (g->rc == 0) g->rc = fabric_prepare(f, ep_frame_bytes(&g->c->lim, g->c->ranks), 1, &g->why);
    if (g->rc == 0) g->rc = ep_new(f, &g->c->lim, &ep, &g->why);
    for (uint32_t epoch = 1; epoch <= 4 && g->rc == 0; epoch++) {
        int stop_at = (int)(hash_u64(g->c->seed * 64 + (uint64_t)g->rank * 8 + epoch) % 8) - 1;
        int rc = ep_case_step(g->c, ep, g->rank, epoch, epoch % 2, stop_at, 2000, &late, &g->why);
        if (rc < 0 && rc != ERR_LATE) g->rc = rc;
    }
    for (uint64_t step = 0; step < 3 && g->rc == 0; step++)
        g->rc = ep_case_step(g->c, ep, g->rank, 5, step, -1, LONG_US, &late, &g->why);
    if (ep) g->count = *ep_counters(ep);
    ep_free(ep);
    fabric_close(f);
    return NULL;
}

START_TEST(given_up_steps_leave_no_trace) {
    uint64_t stale = 0;
    for (uint64_t seed = 1; seed <= 25; seed++) {
        struct ep_case c;
        ep_case_make(&c, seed * 31, _i);
        struct fabric_faults faults = {
            .seed = seed, .duplicate_percent = (int)(seed % 3) * 30, .delay_percent = (int)(seed % 2) * 10};
        struct fabric_hub *hub = hub_for(&c, &faults);
        struct giver g[MAX_RUNNERS];
        for (int i = 0; i < c.ranks; i++) {
            g[i] = (struct giver){.hub = hub, .c = &c, .rank = i};
            ck_assert_int_eq(pthread_create(&g[i].thread, NULL, give_up_then_finish, &g[i]), 0);
        }
        for (int i = 0; i < c.ranks; i++) pthread_join(g[i].thread, NULL);
        for (int i = 0; i < c.ranks; i++) {
            ck_assert_msg(g[i].rc == 0, "seed %d, worker %d of %d: %s: %s", (int)seed, i, c.ranks, status_name(g[i].rc),
                          g[i].why.text);
            ck_assert_uint_eq(ep_links_sum(&g[i].count).frames_bad, 0);
            stale += ep_links_sum(&g[i].count).frames_stale;
        }
        fabric_hub_free(hub);
    }
    ck_assert_uint_gt(stale, 0);
}
END_TEST

/* ---- one worker with an exchange, one that the test plays itself; both in one thread, so every step is chosen ---- */

enum { H = 3, K = 2, T = 4, SLOTS = 5 };
static const struct ep_limits small = {.max_tokens = T, .max_slots = SLOTS, .hidden = H, .topk = K};

struct stage {
    struct fabric_hub *hub;
    struct fabric *mine, *theirs; /* ranks 0 and 1 */
    struct ep *ep;
    float x[T * H];
    int16_t worker[T * K], slot[T * K];
};

static void stage_open(struct stage *s) {
    struct why why;
    *s = (struct stage){0};
    ck_assert_int_eq(fabric_hub_new(2, NULL, &s->hub, &why), 0);
    ck_assert_int_eq(fabric_mem_open(s->hub, 0, &s->mine, &why), 0);
    ck_assert_int_eq(fabric_mem_open(s->hub, 1, &s->theirs, &why), 0);
    ck_assert_int_eq(fabric_prepare(s->mine, ep_frame_bytes(&small, 2), 1, &why), 0);
    ck_assert_int_eq(fabric_prepare(s->theirs, ep_frame_bytes(&small, 2), 2, &why), 0);
    ck_assert_int_eq(ep_new(s->mine, &small, &s->ep, &why), 0);
    for (int i = 0; i < T * K; i++) s->worker[i] = 1;
}

static void stage_close(struct stage *s) {
    ep_free(s->ep);
    fabric_close(s->mine);
    fabric_close(s->theirs);
    fabric_hub_free(s->hub);
}

static struct ep_send stage_send(struct stage *s, int tokens) {
    return (struct ep_send){.tokens = tokens, .x = s->x, .worker = s->worker, .slot = s->slot};
}

static const struct ep_wire wire = {
    .max_tokens = T, .topk = K, .hidden = H, .part_tokens = T, .part_answers = T * K}; /* all of `small` fits a frame */

/* A sound dispatch of two tokens and three pairs, written by hand. Returns its bytes. */
static size_t write_dispatch(void *room, uint32_t epoch, int layer) {
    static const struct ep_pair pairs[] = {{0, 4}, {1, 0}, {1, 2}};
    struct ep_part p = {.key = {epoch, 1, layer}, .source = 1, .home = 1, .tokens = 2, .pairs = 3,
                        .all_tokens = 2, .all_pairs = 3};
    size_t bytes = ep_frame_begin(room, &wire, &p);
    memcpy(ep_frame_pairs(room), pairs, sizeof pairs);
    for (int i = 0; i < 2 * H; i++) ((float *)ep_frame_rows(&wire, room))[i] = (float)i;
    return bytes;
}

static void send_answer(struct stage *s, int pairs) {
    void *room = fabric_reserve(s->theirs, 0, ep_frame_bytes(&small, 2));
    struct ep_part p = {.key = {1, 1, 0}, .kind = EP_COMBINE, .source = 1, .pairs = pairs, .all_pairs = pairs};
    ck_assert_ptr_nonnull(room);
    fabric_commit(s->theirs, 0, ep_frame_begin(room, &wire, &p));
}

static void send_dispatch(struct stage *s, uint32_t epoch, int layer) {
    void *room = fabric_reserve(s->theirs, 0, ep_frame_bytes(&small, 2));
    ck_assert_ptr_nonnull(room);
    fabric_commit(s->theirs, 0, write_dispatch(room, epoch, layer));
}

static const int32_t only_theirs[] = {0, T}, both[] = {T, T};

START_TEST(a_wait_may_be_resumed) {
    struct stage s;
    struct ep_work work;
    uint64_t late = 0;
    stage_open(&s);
    ep_step_begin(s.ep, 1, 1, only_theirs, 1);
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, NULL, SLOTS, 0), 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, clk_now_us() + 1000, &late), ERR_LATE);
    ck_assert_uint_eq(late, 2);
    ck_assert_uint_ge(ep_counters(s.ep)->wait_us[1], 1000);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, clk_now_us() + 1000, &late), ERR_LATE);
    ck_assert_uint_ge(ep_counters(s.ep)->wait_us[1], 2000);
    send_dispatch(&s, 1, 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), 0);
    uint64_t long_waits = 0, waits = 0; /* one wait of 2 ms and more, though it took three calls */
    for (int b = 0; b < EP_WAIT_BUCKETS; b++) waits += ep_counters(s.ep)->link[1].waits[b];
    for (int b = 11; b < EP_WAIT_BUCKETS; b++) long_waits += ep_counters(s.ep)->link[1].waits[b];
    ck_assert_uint_eq(waits, 1);
    ck_assert_uint_eq(long_waits, 1);
    ck_assert_int_eq(work.rows, 3);
    ck_assert_int_eq(work.first[4], 2);
    ck_assert_float_eq(work.x[0 * H], 1 * H); /* slot 0: row 1 */
    ck_assert_float_eq(work.x[2 * H], 0);     /* slot 4: row 0 */
    ck_assert_int_eq(ep_combine_post(s.ep, 0, 0), 0);
    const float *rows[1];
    ck_assert_int_eq(ep_combine_wait(s.ep, 0, rows, 0, &late), 0);
    stage_close(&s);
}
END_TEST

/* The other end takes nothing: given-up dispatches fill the stream, the next post is late, and goes on once there is room. */
START_TEST(a_post_may_be_resumed) {
    struct stage s;
    uint64_t late;
    size_t bytes;
    struct ep_work work;
    stage_open(&s);
    struct ep_send send = stage_send(&s, T);
    for (uint32_t epoch = 1; epoch <= FABRIC_DEPTH; epoch++) {
        ep_step_begin(s.ep, epoch, 1, both, 1);
        ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, &send, SLOTS, 0), 0);
        ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), ERR_LATE);
    }
    ep_step_begin(s.ep, 99, 1, both, 1);
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 7, &send, SLOTS, clk_now_us() + 1000), ERR_LATE);
    ck_assert_uint_eq(ep_unposted(s.ep, 0), 2); /* and says who takes nothing */
    ck_assert_uint_ge(ep_counters(s.ep)->wait_us[1], 1000);
    fabric_give(s.theirs, 0, fabric_take(s.theirs, 0, &bytes));
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 7, &send, SLOTS, 0), 0);
    ck_assert_uint_eq(ep_unposted(s.ep, 0), 0);
    for (int i = 1; i < FABRIC_DEPTH; i++) fabric_give(s.theirs, 0, fabric_take(s.theirs, 0, &bytes));
    const struct ep_header *h = fabric_take(s.theirs, 0, &bytes);
    ck_assert_uint_eq(h->epoch, 99);
    ck_assert_uint_eq(h->layer, 7);
    ck_assert_uint_eq(h->tokens, T); /* one copy each, though both experts are there */
    ck_assert_uint_eq(h->pairs, T * K);
    stage_close(&s);
}
END_TEST

static void *tell(void *arg) {
    ep_tell_epoch(arg, 8);
    return NULL;
}

/* Whoever is told of a later epoch ends every wait long before its deadline, and goes on in that epoch. */
START_TEST(a_later_epoch_ends_waits) {
    struct stage s;
    struct ep_work work;
    uint64_t late = 0;
    pthread_t teller;
    stage_open(&s);
    ep_step_begin(s.ep, 7, 1, only_theirs, 1);
    ep_tell_epoch(s.ep, 7); /* not later */
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, NULL, SLOTS, 0), 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, clk_now_us() + 1000, &late), ERR_LATE);
    ck_assert_int_eq(pthread_create(&teller, NULL, tell, s.ep), 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, clk_now_us() + LONG_US, &late), ERR_EPOCH);
    pthread_join(teller, NULL);
    ep_tell_epoch(s.ep, 7); /* old news */
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, clk_now_us() + LONG_US, &late), ERR_EPOCH);
    send_dispatch(&s, 7, 0); /* too late now */
    send_dispatch(&s, 8, 0);
    ep_step_begin(s.ep, 8, 1, only_theirs, 1);
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, NULL, SLOTS, 0), 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), 0);
    ck_assert_uint_eq(ep_links_sum(ep_counters(s.ep)).frames_stale, 1);
    stage_close(&s);
}
END_TEST

static int never_flushed(struct fabric *f, int64_t deadline_us) {
    (void)f;
    while (clk_now_us() < deadline_us) continue;
    return ERR_DEADLINE;
}

/* A peer that takes nothing keeps a flush waiting: until its deadline, or until there is a later epoch. */
START_TEST(a_flush_ends) {
    struct stage s;
    pthread_t teller;
    stage_open(&s);
    struct fabric_ops stuck = *s.mine->ops;
    const struct fabric_ops *ops = s.mine->ops;
    stuck.flush = never_flushed;
    ep_step_begin(s.ep, 7, 1, only_theirs, 1);
    ck_assert_int_eq(ep_flush(s.ep, clk_now_us() + LONG_US), 0);
    s.mine->ops = &stuck;
    ck_assert_int_eq(ep_flush(s.ep, clk_now_us() + 1000), ERR_LATE);
    ck_assert_int_eq(pthread_create(&teller, NULL, tell, s.ep), 0);
    ck_assert_int_eq(ep_flush(s.ep, clk_now_us() + LONG_US), ERR_EPOCH);
    pthread_join(teller, NULL);
    ep_step_begin(s.ep, 8, 1, only_theirs, 1);
    ck_assert_int_eq(ep_flush(s.ep, 0), ERR_LATE);
    s.mine->ops = ops;
    ck_assert_int_eq(ep_flush(s.ep, 0), 0);
    stage_close(&s);
}
END_TEST

/* Who is no member any more is neither sent to nor waited for, and what it still sends is dropped. */
START_TEST(only_members_take_part) {
    struct stage s;
    struct ep_work work;
    uint64_t late = 0;
    size_t bytes;
    const float *rows[T * K];
    stage_open(&s);
    struct ep_send send = stage_send(&s, T);
    for (int i = 0; i < T * K; i++) s.worker[i] = 0;
    ep_set_members(s.ep, 1);
    ep_step_begin(s.ep, 5, 1, both, 1);
    send_dispatch(&s, 5, 0);
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, &send, SLOTS, 0), 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), 0);
    ck_assert_int_eq(work.rows, T * K);
    ck_assert_int_eq(ep_combine_post(s.ep, 0, 0), 0);
    ck_assert_int_eq(ep_combine_wait(s.ep, 0, rows, 0, &late), 0);
    ck_assert_ptr_null(fabric_take(s.theirs, 0, &bytes));
    ep_set_members(s.ep, 3);
    ep_step_begin(s.ep, 6, 1, both, 1);
    send_dispatch(&s, 6, 0);
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, &send, SLOTS, 0), 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), 0);
    ck_assert_int_eq(work.rows, T * K + 3);
    ck_assert_ptr_nonnull(fabric_take(s.theirs, 0, &bytes));
    stage_close(&s);
}
END_TEST

/* Older frames are dropped, later ones stay for their turn, and neither disturbs the one between them. */
START_TEST(frames_of_other_phases) {
    struct stage s;
    struct ep_work work;
    uint64_t late;
    const float *rows[1];
    stage_open(&s);
    send_dispatch(&s, 4, 1);
    send_dispatch(&s, 5, 0);
    send_dispatch(&s, 5, 1);
    ep_step_begin(s.ep, 5, 1, only_theirs, 1);
    for (int layer = 0; layer < 2; layer++) {
        ck_assert_int_eq(ep_dispatch_post(s.ep, 0, layer, NULL, SLOTS, 0), 0);
        ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), 0);
        ck_assert_int_eq(ep_combine_post(s.ep, 0, 0), 0);
        ck_assert_int_eq(ep_combine_wait(s.ep, 0, rows, 0, &late), 0);
        ck_assert_uint_eq(ep_links_sum(ep_counters(s.ep)).frames_stale, 1);
    }
    stage_close(&s);
}
END_TEST

static int silence_stderr(void) {
    int kept = dup(2), null = open("/dev/null", O_WRONLY);
    dup2(null, 2);
    close(null);
    return kept;
}

static void restore_stderr(int kept) {
    dup2(kept, 2);
    close(kept);
}

/* Frames that cannot be in this plan: a dispatch by one without tokens, an answer to nobody, an answer of the wrong length. */
START_TEST(frames_against_the_plan) {
    static const int32_t only_mine[] = {T, 0};
    struct stage s;
    struct ep_work work;
    uint64_t late = 0;
    const float *rows[T * K];
    stage_open(&s);
    struct ep_send send = stage_send(&s, T);
    int kept = silence_stderr();
    send_dispatch(&s, 1, 0);
    ep_step_begin(s.ep, 1, 1, only_mine, 1); /* nothing expected, so nothing looked at until the answers */
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, &send, SLOTS, 0), 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), 0);
    ck_assert_int_eq(ep_combine_post(s.ep, 0, 0), 0);
    ck_assert_int_eq(ep_combine_wait(s.ep, 0, rows, 0, &late), ERR_LATE);

    send_answer(&s, T * K - 1);
    ck_assert_int_eq(ep_combine_wait(s.ep, 0, rows, 0, &late), ERR_PROTOCOL);
    ck_assert_uint_eq(late, 2);
    send_answer(&s, T * K);
    ck_assert_int_eq(ep_combine_wait(s.ep, 0, rows, 0, &late), 0); /* the right one still counts */

    ep_step_begin(s.ep, 2, 1, only_theirs, 1);
    ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, NULL, SLOTS - 1, 0), 0); /* slot 4 does not exist in this layer */
    send_dispatch(&s, 2, 0);
    ck_assert_int_eq(ep_dispatch_wait(s.ep, 0, &work, 0, &late), ERR_PROTOCOL);
    ck_assert_uint_eq(ep_links_sum(ep_counters(s.ep)).frames_bad, 2);
    restore_stderr(kept);
    stage_close(&s);
}
END_TEST

/* Damaged frames in an endless row: each wait ends at once with a verdict, and a sound frame still gets through after them. */
START_TEST(garbage) {
    struct stage s;
    int verdicts[3] = {0};
    int kept = silence_stderr();
    stage_open(&s);
    for (uint32_t n = 1; n <= 20000; n++) {
        uint64_t h = hash_u64(n), late = 0;
        struct ep_work work;
        ep_step_begin(s.ep, n, 1, only_theirs, 1);
        ck_assert_int_eq(ep_dispatch_post(s.ep, 0, 0, NULL, SLOTS, 0), 0);
        unsigned char *room = fabric_reserve(s.theirs, 0, ep_frame_bytes(&small, 2));
        if (!room) { /* frames from "the future" have filled the stream for good: a new pair of workers */
            stage_close(&s);
            stage_open(&s);
            continue;
        }
        size_t bytes = write_dispatch(room, n, 0);
        for (int flips = 1 + (int)(h % 3); flips; flips--) {
            h = hash_u64(h + 1);
            room[h % bytes] = (unsigned char)(h >> 40);
        }
        if (h >> 61 == 0) bytes = (h >> 20) % (bytes + 1);
        fabric_commit(s.theirs, 0, bytes);
        int rc = ep_dispatch_wait(s.ep, 0, &work, 0, &late);
        ck_assert(rc == 0 || rc == ERR_LATE || rc == ERR_PROTOCOL);
        verdicts[rc == 0 ? 0 : rc == ERR_LATE ? 1 : 2]++;
        for (int i = 0; rc == 0 && i < work.rows * H; i++) work.y[i] = work.x[i] + 1;
        if (rc == 0) ck_assert_int_eq(ep_combine_post(s.ep, 0, 0), 0);
        size_t length;
        for (const void *answer; (answer = fabric_take(s.theirs, 0, &length));) fabric_give(s.theirs, 0, answer);
    }
    restore_stderr(kept);
    for (int i = 0; i < 3; i++) ck_assert_int_gt(verdicts[i], 20);
    stage_close(&s);
}
END_TEST

START_TEST(limits) {
    struct ep *ep = NULL;
    struct why why;
    struct ep_limits l[] = {{0, 1, 1, 1}, {70000, 1, 1, 1}, {1, 0, 1, 1},   {1, 40000, 1, 1},
                            {1, 1, 0, 1}, {1, 1, 1, 0},     {1, 1, 1, 1000},
                            {1, 1, 1, 1, 17}, {1, 1, 1, 1, -1},
                            {1, 1, 1, 1, 0, EP_SUM32}, {1, 1, 1, 1, 0, EP_F32, EP_INT8},
                            {1, 1, 1, 1, 1, EP_F32, EP_F32, true}, {1, 1, 1, 1, 0, EP_F32, EP_BF16, true}};
    for (size_t i = 0; i < sizeof l / sizeof *l; i++) ck_assert_int_eq(ep_new(NULL, &l[i], &ep, &why), ERR_INVALID);
    struct ep_limits wide = {65535, 1, 1, 256}; /* their product is an int with workers enough only in 64 bits */
    ck_assert_int_eq(ep_check_limits(&wide, 64, &why), 0);
    ck_assert_int_eq(ep_check_limits(&wide, FABRIC_MAX_RANKS + 1, &why), ERR_INVALID);
    wide.max_tokens = INT32_MAX;
    ck_assert_int_eq(ep_check_limits(&wide, 2, &why), ERR_INVALID);
    struct stage s;
    stage_open(&s);
    struct ep_limits more = small;
    more.max_tokens++;
    ck_assert_int_eq(ep_new(s.mine, &more, &ep, &why), ERR_TOO_LARGE);
    more = small;
    more.frame_bytes = 64; /* not even one row */
    ck_assert_int_eq(ep_new(s.mine, &more, &ep, &why), ERR_TOO_LARGE);
    ck_assert_ptr_null(ep);
    ep_free(NULL);
    stage_close(&s);
}
END_TEST

int main(void) {
    Suite *s = suite_create("ep_faults");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 100);
    tcase_add_loop_test(t, death_between_halves, 2, 6);
    tcase_add_loop_test(t, death_at_any_moment, 2, 6);
    tcase_add_loop_test(t, given_up_steps_leave_no_trace, 2, 6);
    tcase_add_test(t, a_wait_may_be_resumed);
    tcase_add_test(t, a_post_may_be_resumed);
    tcase_add_test(t, a_later_epoch_ends_waits);
    tcase_add_test(t, a_flush_ends);
    tcase_add_test(t, only_members_take_part);
    tcase_add_test(t, frames_of_other_phases);
    tcase_add_test(t, frames_against_the_plan);
    tcase_add_test(t, garbage);
    tcase_add_test(t, limits);
    suite_add_tcase(s, t);
    return run_suite(s);
}
