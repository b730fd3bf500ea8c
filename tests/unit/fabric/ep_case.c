/* ep_case.c - see ep_case.h. Everything is a hash of (seed, step, layer, rank, token, ...); experts are an affine map that
 * differs by (worker, slot), so a row that went to the wrong expert or came back to the wrong pair shows. */
#include "tests/unit/fabric/ep_case.h"

#include <sched.h>
#include <stdlib.h>

#include "base/clk.h"
#include "base/hash.h"

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
    return 1 + (int)(draw(c, 9, layer, (uint64_t)worker, 0) % (uint64_t)c->lim.max_slots);
}

/* A home may bring fewer tokens than the plan grants it: sequences end. */
static int brought(const struct ep_case *c, uint64_t step, int rank, int planned) {
    return c->full || draw(c, 10, step, (uint64_t)rank, 0) % 4 ? planned : planned / 2;
}

static void route(const struct ep_case *c, uint64_t at, int rank, int token, int j, int16_t *worker, int16_t *slot) {
    uint64_t pattern = draw(c, 11, at, 0, 0) % 3, d = draw(c, 12, at, (uint64_t)rank << 32 | (uint64_t)token, (uint64_t)j);
    if (pattern == 0) d = draw(c, 13, at, 0, 0); /* everything on one expert */
    *worker = (int16_t)(d % (uint64_t)c->ranks);
    if (pattern == 1 && c->ranks > 1) *worker = (int16_t)(d % (uint64_t)(c->ranks - 1)); /* the last worker gets nothing */
    if (d >> 40 & 1 && draw(c, 16, at, 0, 0) % 2) *worker = -1; /* in some layers, pairs that go nowhere */
    if (*worker < 0) *slot = -1;
    else *slot = (int16_t)((d >> 20) % (uint64_t)slots_of(c, at & 0xff, *worker));
}

void ep_case_count(const struct ep_case *c, int rank, uint64_t step, uint64_t *copies, uint64_t *answers) {
    int32_t planned[FABRIC_MAX_RANKS];
    ep_case_tokens(c, step, planned);
    *copies = *answers = 0;
    for (int layer = 0; layer < c->layers; layer++) {
        for (int r = 0; r < c->ranks; r++) {
            for (int t = 0; t < brought(c, step, r, planned[r]); t++) {
                uint64_t to = 0;
                for (int j = 0; j < c->lim.topk; j++) {
                    int16_t worker, slot;
                    route(c, step << 8 | (uint64_t)layer, r, t, j, &worker, &slot);
                    if (worker < 0) continue;
                    to |= UINT64_C(1) << worker;
                    *answers += r != rank && worker == rank;
                }
                if (r == rank) *copies += (uint64_t)__builtin_popcountll(to & ~(UINT64_C(1) << rank));
            }
        }
    }
}

static float value(const struct ep_case *c, uint64_t at, int rank, int token, int h) {
    return (float)(int32_t)draw(c, 14, at, (uint64_t)rank << 32 | (uint64_t)token, (uint64_t)h) * 0x1p-20f;
}

static float expert(int worker, int slot, float x) { return x * (float)(3 + worker) + (float)(7 * slot + 1); }

struct table { /* one layer of one step as every rank sees it */
    int tokens[FABRIC_MAX_RANKS];
    int16_t *worker, *slot; /* [R, T max, k] */
    float *x;               /* own [T,H] */
    float *extra;           /* [T max, k, X] of the answers */
};

static void make_table(const struct ep_case *c, struct table *t, uint64_t step, uint64_t at, int rank, const int32_t *planned) {
    int k = c->lim.topk;
    for (int r = 0; r < c->ranks; r++) {
        t->tokens[r] = brought(c, step, r, planned[r]);
        for (int i = 0; i < t->tokens[r] * k; i++) {
            size_t cell = (size_t)(r * c->lim.max_tokens * k + i);
            route(c, at, r, i / k, i % k, &t->worker[cell], &t->slot[cell]);
        }
    }
    for (int i = 0; i < t->tokens[rank] * c->lim.hidden; i++)
        t->x[i] = value(c, at, rank, i / c->lim.hidden, i % c->lim.hidden);
}

/* The rows of `work` must be exactly the tokens routed here: by slot, then source, token, k. */
static int check_work(const struct ep_case *c, const struct table *t, uint64_t at, int rank, const struct ep_work *work,
                      struct why *why) {
    int row = 0, k = c->lim.topk, H = c->lim.hidden;
    for (int s = 0; s < work->slots; s++) {
        if (work->first[s] != row)
            return fail(why, ERR_CORRUPT, "slot %d begins at row %d, expected %d", s, work->first[s], row);
        for (int r = 0; r < c->ranks; r++) {
            for (int i = 0; i < t->tokens[r] * k; i++) {
                size_t cell = (size_t)(r * c->lim.max_tokens * k + i);
                if (t->worker[cell] != rank || t->slot[cell] != s) continue;
                for (int h = 0; h < H; h++)
                    if (row >= work->rows || work->x[row * H + h] != value(c, at, r, i / k, h))
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

static int check_rows(const struct ep_case *c, const struct table *t, const struct ep *ep, int rank, const float *const *rows,
                      struct why *why) {
    int k = c->lim.topk, H = c->lim.hidden, X = c->lim.extra;
    ep_extras(ep, 0, t->extra);
    for (int i = 0; i < t->tokens[rank] * k; i++) {
        size_t cell = (size_t)(rank * c->lim.max_tokens * k + i);
        if (t->worker[cell] < 0 && rows[i])
            return fail(why, ERR_CORRUPT, "pair (%d, %d) went nowhere and got a row", i / k, i % k);
        for (int h = 0; h < H && t->worker[cell] >= 0; h++)
            if (rows[i][h] != expert(t->worker[cell], t->slot[cell], t->x[i / k * H + h]))
                return fail(why, ERR_CORRUPT, "answer for pair (%d, %d) is wrong at %d", i / k, i % k, h);
        for (int e = 0; e < X; e++)
            if (t->extra[i * X + e] !=
                (t->worker[cell] < 0 ? 0 : expert(t->worker[cell], t->slot[cell] + 9 * e, t->x[i / k * H])))
                return fail(why, ERR_CORRUPT, "float %d beside the answer for pair (%d, %d) is wrong", e, i / k, i % k);
    }
    return 0;
}

static void dawdle(const struct ep_case *c, uint64_t at, int rank) {
    for (uint64_t n = draw(c, 15, at, (uint64_t)rank, 0) % 8; n; n--) sched_yield();
}

static int run_layer(const struct ep_case *c, struct ep *ep, int rank, uint64_t at, const struct table *t, const float **rows,
                     int stop_at, int64_t patience_us, uint64_t *late, struct why *why) {
    int layer = (int)(at & 0xff);
    const int16_t *worker = t->worker + rank * c->lim.max_tokens * c->lim.topk;
    const int16_t *slot = t->slot + rank * c->lim.max_tokens * c->lim.topk;
    struct ep_send send = {.tokens = t->tokens[rank], .x = t->x, .worker = worker, .slot = slot};
    struct ep_work work;
    if (stop_at == 2 * layer) return 1;
    int rc = ep_dispatch_post(ep, 0, layer, t->tokens[rank] ? &send : NULL, slots_of(c, (uint64_t)layer, rank),
                              clk_now_us() + patience_us);
    if (rc == 0) dawdle(c, at, rank);
    if (rc == 0) rc = ep_dispatch_wait(ep, 0, &work, clk_now_us() + patience_us, late);
    if (rc == 0) rc = check_work(c, t, at, rank, &work, why);
    if (rc < 0) return rc;
    compute(&work, rank, c->lim.hidden, c->lim.extra);
    if (stop_at == 2 * layer + 1) return 1;
    rc = ep_combine_post(ep, 0, clk_now_us() + patience_us);
    if (rc == 0) dawdle(c, ~at, rank);
    if (rc == 0) rc = ep_combine_wait(ep, 0, rows, clk_now_us() + patience_us, late);
    return rc == 0 ? check_rows(c, t, ep, rank, rows, why) : rc;
}

int ep_case_step(const struct ep_case *c, struct ep *ep, int rank, uint32_t epoch, uint64_t step, int stop_at,
                 int64_t patience_us, uint64_t *late, struct why *why) {
    size_t cells = (size_t)(c->ranks * c->lim.max_tokens * c->lim.topk);
    struct table t = {.worker = calloc(cells, sizeof *t.worker),
                      .slot = calloc(cells, sizeof *t.slot),
                      .x = calloc((size_t)(c->lim.max_tokens * c->lim.hidden), sizeof *t.x),
                      .extra = calloc(cells * (size_t)c->lim.extra + 1, sizeof *t.extra)};
    const float **rows = calloc((size_t)(c->lim.max_tokens * c->lim.topk), sizeof *rows);
    int32_t planned[FABRIC_MAX_RANKS];
    ep_case_tokens(c, step, planned);
    ep_step_begin(ep, epoch, step, planned, 1);
    int rc = 0;
    for (int layer = 0; layer < c->layers && rc == 0; layer++) {
        uint64_t at = step << 8 | (uint64_t)layer;
        make_table(c, &t, step, at, rank, planned);
        rc = run_layer(c, ep, rank, at, &t, rows, stop_at, patience_us, late, why);
    }
    free(t.worker);
    free(t.slot);
    free(t.x);
    free(t.extra);
    free(rows);
    return rc < 0 ? rc : 0;
}
