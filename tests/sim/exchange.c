/* exchange.c - see exchange.h. An expert is an affine map that differs by (rank, slot); sums are taken as a home takes them, in
 * k order, and compared bit for bit with those of the rows that ought to have come. */
#include "tests/sim/exchange.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"

enum { MAX_TOKENS = 6, MAX_TOPK = 3, MAX_HIDDEN = 24, SLOTS = 2, PAIRS = MAX_TOKENS * MAX_TOPK };
enum op { POST, GET, ANSWER, SUM };

struct part { /* of one microbatch */
    int tokens[FABRIC_MAX_RANKS];
    int16_t worker[FABRIC_MAX_RANKS][PAIRS], slot[FABRIC_MAX_RANKS][PAIRS];
    float x[MAX_TOKENS * MAX_HIDDEN];
    struct ep_send send;
};
struct exchange {
    struct exchange_shape shape;
    struct ep *ep;
    int rank, microbatches, layer, at; /* at: number of the next op of the layer */
    uint32_t epoch;
    uint64_t step, members;
    struct part part[EP_MICROBATCHES];
};

static const struct {
    enum op op;
    int mb;
} one[] = {{POST, 0}, {GET, 0}, {ANSWER, 0}, {SUM, 0}},
  two[] = {{POST, 0}, {POST, 1}, {GET, 0}, {ANSWER, 0}, {GET, 1}, {ANSWER, 1}, {SUM, 0}, {SUM, 1}};

void exchange_shape_make(struct exchange_shape *s, uint64_t seed, int ranks) {
    uint64_t d = hash_u64(seed + 0x51ed);
    *s = (struct exchange_shape){.seed = seed, .ranks = ranks, .layers = 1 + (int)(d % 3)};
    s->lim = (struct ep_limits){.max_tokens = 1 + (int)((d >> 8) % MAX_TOKENS),
                                .max_slots = SLOTS,
                                .hidden = 1 + (int)((d >> 16) % MAX_HIDDEN),
                                .topk = 1 + (int)((d >> 24) % MAX_TOPK),
                                .dispatch = EP_F32,
                                .combine = EP_F32};
    for (int r = 0; r < ranks; r++) s->lim.host[r] = (uint8_t)(hash_u64(d + (uint64_t)r) % (1 + (d >> 40) % 3));
    if (d >> 32 & 1) s->lim.frame_bytes = 384 + (size_t)s->lim.hidden * sizeof(float); /* few rows: messages go in parts */
}

size_t exchange_frame_bytes(const struct exchange_shape *s) { return ep_frame_bytes(&s->lim, s->ranks); }

struct exchange *exchange_new(const struct exchange_shape *s, struct fabric *f, struct why *why) {
    struct exchange *x = calloc(1, sizeof *x);
    if (x) *x = (struct exchange){.shape = *s, .rank = f->rank};
    if (x && ep_new(f, &s->lim, &x->ep, why) < 0) {
        free(x);
        return NULL;
    }
    return x;
}

void exchange_free(struct exchange *x) {
    if (!x) return;
    ep_free(x->ep);
    free(x);
}

struct ep *exchange_ep(struct exchange *x) {
    return x->ep;
}

/* ---- what everybody knows ---- */

static uint64_t draw(const struct exchange *x, uint64_t what, uint64_t a, uint64_t b) {
    uint64_t h = hash_u64(x->shape.seed * 31 + what);
    h = hash_u64(h ^ ((uint64_t)x->epoch << 40 | x->step << 8 | (uint64_t)x->layer));
    return hash_u64(hash_u64(h + a) ^ b);
}

static int planned_tokens(const struct exchange *x, int rank) { /* does not depend on the layer */
    uint64_t h = hash_u64(hash_u64(x->shape.seed + x->step * 77) ^ ((uint64_t)x->epoch << 8 | (uint64_t)rank));
    return !(x->members >> rank & 1) || h % 5 < 2 ? 0 : (int)((h >> 8) % (uint64_t)(x->shape.lim.max_tokens + 1));
}

static int nth_member(const struct exchange *x, uint64_t n) {
    uint64_t left = x->members;
    for (n %= (uint64_t)__builtin_popcountll(left); n; n--) left &= left - 1;
    return __builtin_ctzll(left);
}

static float value(const struct exchange *x, int mb, int rank, int token, int h) {
    uint64_t d = draw(x, 3, (uint64_t)mb << 32 | (uint64_t)rank, (uint64_t)token << 16 | (uint64_t)h);
    return (float)(int32_t)d * 0x1p-19f;
}

static float expert(int rank, int slot, float v) { return v * (float)(3 + rank) + (float)(7 * slot + 1); }
static float weight(int k) { return 1.0f / (float)(k + 3); }

static void make_part(struct exchange *x, int mb) {
    struct part *p = &x->part[mb];
    const struct ep_limits *l = &x->shape.lim;
    for (int r = 0; r < x->shape.ranks; r++) {
        int all = planned_tokens(x, r);
        p->tokens[r] = x->microbatches == 1 ? all : mb ? all - all / 2 : all / 2;
        bool one_expert = draw(x, 1, 0, (uint64_t)mb) % 4 == 0;
        for (int i = 0; i < p->tokens[r] * l->topk; i++) {
            uint64_t d = one_expert ? draw(x, 2, 0, 0) : draw(x, 2, (uint64_t)mb << 32 | (uint64_t)r, (uint64_t)i);
            p->worker[r][i] = d >> 50 & 7 ? (int16_t)nth_member(x, d) : -1;
            p->slot[r][i] = p->worker[r][i] < 0 ? -1 : (int16_t)((d >> 32) % SLOTS);
        }
    }
    for (int i = 0; i < p->tokens[x->rank] * l->hidden; i++) p->x[i] = value(x, mb, x->rank, i / l->hidden, i % l->hidden);
    p->send = (struct ep_send){.tokens = p->tokens[x->rank], .x = p->x, .worker = p->worker[x->rank], .slot = p->slot[x->rank]};
}

void exchange_begin(struct exchange *x, uint32_t epoch, uint64_t step, uint64_t members) {
    int32_t tokens[FABRIC_MAX_RANKS] = {0};
    x->epoch = epoch;
    x->step = step;
    x->members = members;
    x->layer = x->at = 0;
    x->microbatches = 1 + (int)(hash_u64(x->shape.seed ^ step << 4 ^ epoch) % 2);
    for (int r = 0; r < x->shape.ranks; r++) tokens[r] = planned_tokens(x, r);
    ep_set_members(x->ep, members);
    ep_set_two_hop(x->ep, x->shape.two_hop && hash_u64(x->shape.seed + 3 * step) % 2);
    ep_step_begin(x->ep, epoch, step, tokens, x->microbatches);
}

/* ---- what came ---- */

/* Every row that must be here, by slot, source, token and k; each once. Fills the answers. */
static int work(const struct exchange *x, int mb, const struct ep_work *w, struct why *why) {
    const struct part *p = &x->part[mb];
    int H = x->shape.lim.hidden, K = x->shape.lim.topk, row = 0;
    for (int s = 0; s < SLOTS; s++) {
        for (int r = 0; r < x->shape.ranks; r++) {
            for (int i = 0; i < p->tokens[r] * K; i++) {
                if (p->worker[r][i] != x->rank || p->slot[r][i] != s) continue;
                if (row >= w->rows || row < w->first[s] || row >= w->first[s + 1])
                    return fail(why, ERR_CORRUPT, "row %d of slot %d is missing: %d rows in all", row, s, w->rows);
                for (int h = 0; h < H; h++) {
                    if (w->x[row * H + h] != value(x, mb, r, i / K, h))
                        return fail(why, ERR_CORRUPT, "row %d of slot %d is not token %d of rank %d", row, s, i / K, r);
                    w->y[row * H + h] = expert(x->rank, s, w->x[row * H + h]);
                }
                row++;
            }
        }
    }
    return row == w->rows ? 0 : fail(why, ERR_CORRUPT, "%d rows, expected %d", w->rows, row);
}

static int check_sums(const struct exchange *x, int mb, const float *const *rows, struct why *why) {
    const struct part *p = &x->part[mb];
    int H = x->shape.lim.hidden, K = x->shape.lim.topk;
    for (int i = 0; i < p->send.tokens * H; i++) {
        int t = i / H, h = i % H;
        volatile float sum = 0, want = 0; /* the same operations in the same order, whatever the compiler */
        for (int k = 0; k < K; k++) {
            const float *row = rows[t * K + k];
            int w = p->send.worker[t * K + k];
            if (!row != (w < 0)) return fail(why, ERR_CORRUPT, "token %d, k %d: a row too many or none", t, k);
            if (w < 0) continue;
            sum = sum + weight(k) * row[h];
            want = want + weight(k) * expert(w, p->send.slot[t * K + k], p->x[i]);
        }
        float got = sum, should = want;
        if (memcmp(&got, &should, sizeof got)) return fail(why, ERR_CORRUPT, "the sum of token %d is wrong at %d", t, h);
    }
    return 0;
}

uint64_t exchange_at(const struct exchange *x) { return x->step << 16 | (uint64_t)x->layer << 8 | (uint64_t)x->at; }

int exchange_run(struct exchange *x, int64_t deadline_us, uint64_t *late, struct why *why) {
    const float *rows[PAIRS] = {NULL};
    struct ep_work w;
    int ops = x->microbatches == 1 ? 4 : 8, rc = 0;
    enum op op = x->microbatches == 1 ? one[x->at].op : two[x->at].op;
    int mb = x->microbatches == 1 ? 0 : two[x->at].mb;
    *late = 0;
    if (x->at == 0)
        for (int m = 0; m < x->microbatches; m++) make_part(x, m);
    switch (op) {
    case POST: rc = ep_dispatch_post(x->ep, mb, x->layer, &x->part[mb].send, SLOTS, deadline_us); break;
    case GET:
        rc = ep_dispatch_wait(x->ep, mb, &w, deadline_us, late);
        if (rc == 0) rc = work(x, mb, &w, why);
        break;
    case ANSWER: rc = ep_combine_post(x->ep, mb, deadline_us); break;
    case SUM:
        rc = ep_combine_wait(x->ep, mb, rows, deadline_us, late);
        if (rc == 0) rc = check_sums(x, mb, rows, why);
        break;
    }
    if (rc == ERR_LATE && (op == POST || op == ANSWER)) *late = ep_unposted(x->ep, mb);
    if (rc < 0) return rc;
    if (++x->at < ops) return 0;
    x->at = 0;
    return ++x->layer == x->shape.layers;
}
