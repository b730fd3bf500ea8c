/* ep_case.c - see ep_case.h. Everything is a hash of (seed, step, layer, rank, token, ...); experts are an affine map that
 * differs by (worker, slot), so a row that went to the wrong expert or came back to the wrong pair shows. */
#include "tests/unit/fabric/ep_case.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/hash.h"
#include "fabric/ep_fixed.h"
#include "fabric/ep_frame.h"

static uint64_t draw(const struct ep_case *c, uint64_t a, uint64_t b, uint64_t d, uint64_t e) {
    uint64_t h = hash_u64(c->seed + 0x9e3779b97f4a7c15u);
    h = hash_u64(h ^ a);
    h = hash_u64(h + b);
    h = hash_u64(h ^ d << 1);
    return hash_u64(h + e * 0x9e3779b97f4a7c15u);
}

void ep_case_make(struct ep_case *c, uint64_t seed, int ranks) {
    *c = (struct ep_case){.seed = seed, .ranks = ranks};
    c->layers = 1 + (int)(draw(c, 1, 0, 0, 0) % 3);
    c->lim.topk = 1 + (int)(draw(c, 2, 0, 0, 0) % 8);
    c->lim.hidden = 1 + (int)(draw(c, 3, 0, 0, 0) % 40);
    c->lim.max_tokens = 1 + (int)(draw(c, 4, 0, 0, 0) % 24);
    c->lim.max_slots = 1 + (int)(draw(c, 5, 0, 0, 0) % 6);
    c->lim.extra = (int)(draw(c, 16, 0, 0, 0) % 3);
    c->microbatches = 1;
}

void ep_case_vary(struct ep_case *c) {
    struct ep_limits *l = &c->lim;
    uint64_t d = draw(c, 17, 0, 0, 0);
    c->microbatches = 1 + (int)(d % 2);
    if (d >> 4 & 1) l->hidden = 1 + (int)((d >> 8) % 400);
    l->dispatch = (enum ep_format)((d >> 20) % EP_PLAIN_FORMATS);
    l->combine = d >> 24 & 1 ? EP_BF16 : EP_F32;
    l->fused = (d >> 28) % 3 == 0;
    if (l->fused) l->extra = 0, l->combine = EP_F32;
    struct ep_wire w = {.max_tokens = l->max_tokens, .topk = l->topk, .hidden = l->hidden, .extra = l->extra,
                        .dispatch = l->dispatch, .combine = l->combine, .fused = l->fused};
    if (d >> 32 & 1) l->frame_bytes = ep_frame_room(&w, 1 + (int)((d >> 36) % 4), 1 + (int)((d >> 40) % 4));
}

void ep_case_tokens(const struct ep_case *c, uint64_t step, int32_t *tokens) {
    uint64_t pattern = draw(c, 6, step, 0, 0) % 4;
    for (int w = 0; w < c->ranks; w++) {
        int some = (int)(draw(c, 7, step, (uint64_t)w, 0) % (uint64_t)(c->lim.max_tokens + 1));
        bool only = w == (int)(draw(c, 8, step, 0, 0) % (uint64_t)c->ranks);
        tokens[w] = c->full        ? c->lim.max_tokens
                    : pattern == 0 ? (only ? some : 0)
                    : pattern == 1 ? c->lim.max_tokens
                    : pattern == 2 ? some * (some & 1)
                                   : some;
    }
}

static int slots_of(const struct ep_case *c, uint64_t layer, int worker) {
    if (c->even) return c->even / c->ranks;
    return 1 + (int)(draw(c, 9, layer, (uint64_t)worker, 0) % (uint64_t)c->lim.max_slots);
}

/* A home may bring fewer tokens than the plan grants it: sequences end. */
static int brought(const struct ep_case *c, uint64_t step, int rank, int planned) {
    return c->full || draw(c, 10, step, (uint64_t)rank, 0) % 4 ? planned : planned / 2;
}

/* The j-th of k different experts: steps through a random order of them, without writing it down. */
static int even_expert(const struct ep_case *c, uint64_t at, int rank, int token, int j) {
    uint64_t taken = 0;
    int e = 0;
    for (int i = 0; i <= j; i++) {
        int n = (int)(draw(c, 22, at, (uint64_t)rank << 32 | (uint64_t)token, (uint64_t)i) % (uint64_t)(c->even - i));
        for (e = 0; taken >> e & 1 || n > 0; e++) n -= !(taken >> e & 1);
        taken |= UINT64_C(1) << e;
    }
    return e;
}

static void route(const struct ep_case *c, uint64_t at, int rank, int token, int j, int16_t *worker, int16_t *slot) {
    if (c->even) {
        int e = even_expert(c, at, rank, token, j), each = c->even / c->ranks;
        *worker = (int16_t)(e / each);
        *slot = (int16_t)(e % each);
        return;
    }
    uint64_t pattern = draw(c, 11, at, 0, 0) % 3, d = draw(c, 12, at, (uint64_t)rank << 32 | (uint64_t)token, (uint64_t)j);
    if (pattern == 0) d = draw(c, 13, at, 0, 0); /* everything on one expert */
    *worker = (int16_t)(d % (uint64_t)c->ranks);
    if (pattern == 1 && c->ranks > 1) *worker = (int16_t)(d % (uint64_t)(c->ranks - 1)); /* the last worker gets nothing */
    if (d >> 40 & 1 && draw(c, 16, at, 0, 0) % 2) *worker = -1; /* in some layers, pairs that go nowhere */
    if (*worker < 0) *slot = -1;
    else *slot = (int16_t)((d >> 20) % (uint64_t)slots_of(c, at & 0xff, *worker));
}

void ep_case_spread(struct ep_case *c) {
    uint64_t d = draw(c, 20, 0, 0, 0);
    int hosts = 2 + (int)(d % 3);
    for (int w = 0; w < c->ranks; w++) /* neighbours, in turn, or anyhow */
        c->lim.host[w] = (uint8_t)(d >> 8 & 1   ? w * hosts / c->ranks
                                   : d >> 9 & 1 ? w % hosts
                                                : (int)(draw(c, 21, (uint64_t)w, 0, 0) % (uint64_t)hosts));
    c->two_hop = true;
}

/* Of one microbatch of one layer. */
static void count_batch(const struct ep_case *c, int rank, uint64_t step, uint64_t at, const int32_t *planned,
                        struct ep_case_counts *sum) {
    for (int r = 0; r < c->ranks; r++) {
        for (int t = 0; t < brought(c, step, r, planned[r]); t++) {
            uint64_t to = 0;
            for (int j = 0; j < c->lim.topk; j++) {
                int16_t worker, slot;
                route(c, at, r, t, j, &worker, &slot);
                if (worker < 0) continue;
                bool first = !(to >> worker & 1);
                to |= UINT64_C(1) << worker;
                sum->answers += r != rank && worker == rank && (first || !c->lim.fused);
            }
            if (r == rank) sum->copies += (uint64_t)__builtin_popcountll(to & ~(UINT64_C(1) << rank));
        }
    }
}

static uint64_t place(uint64_t step, int mb, int layer) { return step << 9 | (uint64_t)mb << 8 | (uint64_t)layer; }

void ep_case_count(const struct ep_case *c, int rank, uint64_t step, struct ep_case_counts *sum) {
    const struct ep_limits *l = &c->lim;
    int32_t planned[FABRIC_MAX_RANKS];
    ep_case_tokens(c, step, planned);
    for (int layer = 0; layer < c->layers; layer++)
        for (int mb = 0; mb < c->microbatches; mb++) count_batch(c, rank, step, place(step, mb, layer), planned, sum);
    sum->dispatch_bytes = sum->copies * ep_row_bytes(l->dispatch, l->hidden);
    sum->combine_bytes = l->fused ? 0 : sum->answers * (ep_row_bytes(l->combine, l->hidden) + (size_t)l->extra * sizeof(float));
}

static float value(const struct ep_case *c, uint64_t at, int rank, int token, int h) {
    float scale = draw(c, 18, at, 0, 0) % 2 ? 0x1p-20f : 0x1p-32f; /* sums of the small ones fit into 32 bits */
    return (float)(int32_t)draw(c, 14, at, (uint64_t)rank << 32 | (uint64_t)token, (uint64_t)h) * scale;
}

static float weight_of(const struct ep_case *c, uint64_t at, int rank, int i) {
    return (float)(draw(c, 19, at, (uint64_t)rank, (uint64_t)i) % 1000) * 0x1p-13f;
}

/* What is left of a row when it has travelled in a format. */
static void travel(enum ep_format f, float *row, int n) {
    static _Thread_local float packed[1024];
    ep_pack(f, packed, row, n);
    ep_unpack(f, row, packed, n);
}

/* A token's row as the experts see it. */
static void sent_row(const struct ep_case *c, uint64_t at, int rank, int token, float *row) {
    for (int h = 0; h < c->lim.hidden; h++) row[h] = value(c, at, rank, token, h);
    travel(c->lim.dispatch, row, c->lim.hidden);
}

static float expert(int worker, int slot, float x) { return x * (float)(3 + worker) + (float)(7 * slot + 1); }

struct table { /* one microbatch of one layer of one step as every rank sees it */
    uint64_t at;
    int tokens[FABRIC_MAX_RANKS];
    int16_t *worker, *slot; /* [R, T max, k] */
    float *x, *weights;     /* own [T,H] [T,k] */
    float *extra;           /* [T max, k, X] of the answers */
    const float **rows;     /* [T,k] */
};

static void make_table(const struct ep_case *c, struct table *t, uint64_t step, uint64_t at, int rank, const int32_t *planned) {
    int k = c->lim.topk;
    t->at = at;
    for (int r = 0; r < c->ranks; r++) {
        t->tokens[r] = brought(c, step, r, planned[r]);
        for (int i = 0; i < t->tokens[r] * k; i++) {
            size_t cell = (size_t)(r * c->lim.max_tokens * k + i);
            route(c, at, r, i / k, i % k, &t->worker[cell], &t->slot[cell]);
        }
    }
    for (int i = 0; i < t->tokens[rank] * c->lim.hidden; i++)
        t->x[i] = value(c, at, rank, i / c->lim.hidden, i % c->lim.hidden);
    for (int i = 0; i < t->tokens[rank] * k; i++) t->weights[i] = weight_of(c, at, rank, i);
}

/* The rows of `work` must be exactly the tokens routed here: by slot, then source, token, k. */
static int check_work(const struct ep_case *c, const struct table *t, int rank, const struct ep_work *work, struct why *why) {
    int row = 0, k = c->lim.topk, H = c->lim.hidden;
    float want[512];
    for (int s = 0; s < work->slots; s++) {
        if (work->first[s] != row)
            return fail(why, ERR_CORRUPT, "slot %d begins at row %d, expected %d", s, work->first[s], row);
        for (int r = 0; r < c->ranks; r++) {
            for (int i = 0; i < t->tokens[r] * k; i++) {
                size_t cell = (size_t)(r * c->lim.max_tokens * k + i);
                if (t->worker[cell] != rank || t->slot[cell] != s) continue;
                sent_row(c, t->at, r, i / k, want);
                if (row >= work->rows || memcmp(work->x + (size_t)row * (size_t)H, want, (size_t)H * sizeof *want) != 0)
                    return fail(why, ERR_CORRUPT, "row %d of slot %d is not token %d of worker %d", row, s, i / k, r);
                row++;
            }
        }
    }
    if (row != work->rows || work->first[work->slots] != row)
        return fail(why, ERR_CORRUPT, "%d rows, expected %d", work->rows, row);
    return 0;
}

static void compute(const struct ep_work *work, int rank, int H, int X) {
    for (int s = 0; s < work->slots; s++) {
        for (int i = work->first[s] * H; i < work->first[s + 1] * H; i++) work->y[i] = expert(rank, s, work->x[i]);
        for (int i = work->first[s]; i < work->first[s + 1]; i++)
            for (int e = 0; e < X; e++) work->extra[i * X + e] = expert(rank, s + 9 * e, work->x[i * H]);
    }
}

/* Sums must be those of all k rows in k order, whoever made which part of them. */
static int check_sums(const struct ep_case *c, const struct table *t, int rank, struct why *why) {
    int k = c->lim.topk, H = c->lim.hidden;
    float x[512], y[512], want[512];
    int64_t sum[512];
    for (int token = 0; token < t->tokens[rank]; token++) {
        memset(sum, 0, sizeof sum);
        sent_row(c, t->at, rank, token, x);
        for (int i = token * k; i < (token + 1) * k; i++) {
            size_t cell = (size_t)(rank * c->lim.max_tokens * k + i);
            if (t->worker[cell] < 0) continue;
            for (int h = 0; h < H; h++) y[h] = expert(t->worker[cell], t->slot[cell], x[h]);
            ep_fixed_add_row(sum, y, t->weights[i], H);
        }
        ep_fixed_floats(want, sum, H);
        if (memcmp(want, t->rows[token], (size_t)H * sizeof *want) != 0)
            return fail(why, ERR_CORRUPT, "the sum for token %d is wrong", token);
    }
    return 0;
}

static int check_rows(const struct ep_case *c, const struct table *t, const struct ep *ep, int mb, int rank, struct why *why) {
    int k = c->lim.topk, H = c->lim.hidden, X = c->lim.extra;
    float x[512], want[512];
    ep_extras(ep, mb, t->extra);
    for (int i = 0; i < t->tokens[rank] * k; i++) {
        size_t cell = (size_t)(rank * c->lim.max_tokens * k + i);
        int w = t->worker[cell];
        if (w < 0 && t->rows[i]) return fail(why, ERR_CORRUPT, "pair (%d, %d) went nowhere and got a row", i / k, i % k);
        sent_row(c, t->at, rank, i / k, x);
        for (int h = 0; h < H; h++) want[h] = expert(w, t->slot[cell], x[h]);
        travel(c->lim.combine, want, H);
        if (w >= 0 && memcmp(t->rows[i], want, (size_t)H * sizeof *want) != 0)
            return fail(why, ERR_CORRUPT, "answer for pair (%d, %d) is wrong", i / k, i % k);
        for (int e = 0; e < X; e++)
            if (t->extra[i * X + e] != (w < 0 ? 0 : expert(w, t->slot[cell] + 9 * e, x[0])))
                return fail(why, ERR_CORRUPT, "float %d beside the answer for pair (%d, %d) is wrong", e, i / k, i % k);
    }
    return 0;
}

static void dawdle(const struct ep_case *c, uint64_t at, int rank) {
    for (uint64_t n = draw(c, 15, at, (uint64_t)rank, 0) % 8; n; n--) sched_yield();
}

static int post_dispatch(const struct ep_case *c, struct ep *ep, int rank, int mb, int layer, const struct table *t,
                         int64_t patience_us) {
    int own = rank * c->lim.max_tokens * c->lim.topk;
    struct ep_send send = {.tokens = t->tokens[rank], .x = t->x, .worker = t->worker + own, .slot = t->slot + own,
                           .weights = t->weights};
    int rc = ep_dispatch_post(ep, mb, layer, t->tokens[rank] ? &send : NULL, slots_of(c, (uint64_t)layer, rank),
                              clk_now_us() + patience_us);
    if (rc == 0) dawdle(c, t->at, rank);
    return rc;
}

/* Other work, between whose pieces frames move: what is in the caller's hands stays as it is. */
static void work_on(struct ep *ep) {
    for (int i = 0; i < 4; i++) ep_progress(ep);
}

static int serve(const struct ep_case *c, struct ep *ep, int rank, int mb, const struct table *t, int64_t patience_us,
                 uint64_t *late, struct why *why) {
    struct ep_work work;
    int rc = ep_dispatch_wait(ep, mb, &work, clk_now_us() + patience_us, late);
    if (rc == 0) work_on(ep);
    if (rc == 0) rc = check_work(c, t, rank, &work, why);
    if (rc == 0) compute(&work, rank, c->lim.hidden, c->lim.extra);
    return rc;
}

static int post_combine(const struct ep_case *c, struct ep *ep, int rank, int mb, const struct table *t, int64_t patience_us) {
    int rc = ep_combine_post(ep, mb, clk_now_us() + patience_us);
    if (rc == 0) dawdle(c, ~t->at, rank);
    return rc;
}

static int finish(const struct ep_case *c, struct ep *ep, int rank, int mb, const struct table *t, int64_t patience_us,
                  uint64_t *late, struct why *why) {
    int rc = ep_combine_wait(ep, mb, t->rows, clk_now_us() + patience_us, late);
    if (rc < 0) return rc;
    work_on(ep);
    return c->lim.fused ? check_sums(c, t, rank, why) : check_rows(c, t, ep, mb, rank, why);
}

static int run_layer(const struct ep_case *c, struct ep *ep, int rank, int layer, const struct table *t, int stop_at,
                     int64_t patience_us, uint64_t *late, struct why *why) {
    int rc = 0, n = c->microbatches;
    if (stop_at == 2 * layer) return 1;
    for (int mb = 0; mb < n && rc == 0; mb++) rc = post_dispatch(c, ep, rank, mb, layer, &t[mb], patience_us);
    for (int mb = 0; mb < n && rc == 0; mb++) {
        rc = serve(c, ep, rank, mb, &t[mb], patience_us, late, why);
        if (rc == 0 && stop_at == 2 * layer + 1) return 1;
        if (rc == 0) rc = post_combine(c, ep, rank, mb, &t[mb], patience_us);
    }
    for (int mb = 0; mb < n && rc == 0; mb++) rc = finish(c, ep, rank, mb, &t[mb], patience_us, late, why);
    return rc;
}

int ep_case_step(const struct ep_case *c, struct ep *ep, int rank, uint32_t epoch, uint64_t step, int stop_at,
                 int64_t patience_us, uint64_t *late, struct why *why) {
    size_t k = (size_t)c->lim.topk, T = (size_t)c->lim.max_tokens, cells = (size_t)c->ranks * T * k;
    struct table t[EP_MICROBATCHES];
    for (int mb = 0; mb < EP_MICROBATCHES; mb++)
        t[mb] = (struct table){.worker = calloc(cells, sizeof *t->worker),
                               .slot = calloc(cells, sizeof *t->slot),
                               .x = calloc(T * (size_t)c->lim.hidden, sizeof *t->x),
                               .weights = calloc(T * k, sizeof *t->weights),
                               .extra = calloc(T * k * (size_t)c->lim.extra + 1, sizeof *t->extra),
                               .rows = calloc(T * k, sizeof *t->rows)};
    int32_t planned[FABRIC_MAX_RANKS];
    ep_case_tokens(c, step, planned);
    ep_set_two_hop(ep, c->two_hop && (c->even || hash_u64(c->seed + step) % 4)); /* steps of either kind */
    ep_step_begin(ep, epoch, step, planned, c->microbatches);
    int rc = 0;
    for (int layer = 0; layer < c->layers && rc == 0; layer++) {
        for (int mb = 0; mb < c->microbatches; mb++) make_table(c, &t[mb], step, place(step, mb, layer), rank, planned);
        rc = run_layer(c, ep, rank, layer, t, stop_at, patience_us, late, why);
    }
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) {
        free(t[mb].worker);
        free(t[mb].slot);
        free(t[mb].x);
        free(t[mb].weights);
        free(t[mb].extra);
        free(t[mb].rows);
    }
    return rc < 0 ? rc : 0;
}
