/* fabric_bare.c - the baseline: what somebody would write who only had to move these bytes. The numbers of rows are known
 * beforehand and nothing is checked; but the rows have to be gathered, and whoever gets them reads them. */
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "fabric/past.h"
#include "tests/bench/bench_fabric.h"

static void *touched(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) die("out of memory");
    return memset(p, 1, bytes);
}

/* One buffer, cut into parts that hold either half's rows for each peer. */
static unsigned char *cut(const struct load *l, const int rows[HALVES][FABRIC_MAX_RANKS], unsigned char **part) {
    size_t at[FABRIC_MAX_RANKS], bytes = 64;
    for (int r = 0; r < l->shape.ranks; r++) {
        int most = rows[DISPATCH][r] > rows[COMBINE][r] ? rows[DISPATCH][r] : rows[COMBINE][r];
        at[r] = bytes;
        if (r != l->rank) bytes += (bare_bytes(most, l) + 63) / 64 * 64;
    }
    unsigned char *all = touched(bytes);
    for (int r = 0; r < l->shape.ranks; r++) part[r] = all + at[r];
    return all;
}

void bare_init(struct bare *b, const struct load *l) {
    int answers = 0;
    memset(b, 0, sizeof *b);
    b->load = l;
    b->forms = 1;
    b->all_out = cut(l, l->out, b->out);
    b->all_in = cut(l, l->in, b->in);
    for (int r = 0; r < l->shape.ranks; r++) answers += l->out[COMBINE][r];
    b->y = touched(bare_bytes(answers, l) + 64);
    b->pick = calloc((size_t)answers + 1, sizeof *b->pick);
    if (!b->pick) die("out of memory");
    for (int i = 0; i < answers; i++) {
        int j = (int)(hash_u64((uint64_t)i) % (uint64_t)(i + 1));
        b->pick[i] = b->pick[j];
        b->pick[j] = i;
    }
}

void bare_clear(struct bare *b) {
    free(b->all_out);
    free(b->all_in);
    free(b->y);
    free(b->pick);
}

void bare_relax(int turn) {
    if (turn >= 100) sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    else __builtin_ia32_pause();
#endif
}

static void pack(struct bare *b, enum half half) {
    const struct load *l = b->load;
    size_t row = bare_bytes(1, l);
    const int32_t *answer = b->pick;
    for (int r = 0; r < l->shape.ranks; r++) {
        const int32_t *from = half == DISPATCH ? l->token + r * l->shape.tokens : answer;
        const float *rows = half == DISPATCH ? l->x : b->y;
        for (int i = 0; i < l->out[half][r]; i++)
            memcpy(b->out[r] + (size_t)i * row, rows + (size_t)from[i] * (size_t)l->shape.hidden, row);
        answer += half == COMBINE ? l->out[COMBINE][r] : 0;
    }
}

static void read_once(struct bare *b, enum half half) {
    uint64_t sum[4] = {0};
    for (int r = 0; r < b->load->shape.ranks; r++) {
        const uint64_t *p = (const uint64_t *)b->in[r];
        size_t words = bare_bytes(b->load->in[half][r], b->load) / 32 * 4;
        for (size_t i = 0; i < words; i += 4)
            for (int j = 0; j < 4; j++) sum[j] += p[i + (size_t)j];
    }
    b->sum += sum[0] + sum[1] + sum[2] + sum[3];
}

/* The same bytes in the same memory as fast as this machine copies: packed, out, in, read; nobody waits for anybody. */
static void copy_only(struct bare *b) {
    const struct load *l = b->load;
    for (int half = 0; half < HALVES; half++) {
        for (int pass = 0; pass < 3; pass++) {
            for (int r = 0; r < l->shape.ranks; r++) {
                int rows = l->out[half][r] < l->in[half][r] ? l->out[half][r] : l->in[half][r];
                if (r != l->rank) memcpy(pass % 2 ? b->out[r] : b->in[r], pass % 2 ? b->in[r] : b->out[r], bare_bytes(rows, l));
                __asm__ volatile("" ::: "memory"); /* every copy happens */
            }
        }
        read_once(b, half);
    }
}

static void run_form(struct bare *b, int rounds) {
    for (int i = -2; i < rounds; i++) { /* the first two warm up */
        int64_t start = bench_now_ns();
        for (int half = 0; half < HALVES; half++) {
            pack(b, half);
            b->move(b, half);
            read_once(b, half);
        }
        if (i >= 0) b->took[b->form][b->done + i] = (double)(bench_now_ns() - start) / 1e3;
    }
}

void bare_run(struct bare *b, int rounds) {
    for (b->form = 0; b->form < b->forms; b->form++) run_form(b, rounds);
    for (int i = -2; i < rounds; i++) {
        int64_t start = bench_now_ns();
        copy_only(b);
        if (i >= 0) b->copied[b->done + i] = (double)(bench_now_ns() - start) / 1e3;
    }
    b->done += rounds;
}

void bare_fill(struct bare *b, struct row *row) {
    row->base50 = bench_median(b->took[0], b->done);
    for (int form = 1; form < b->forms; form++) {
        double other = bench_median(b->took[form], b->done);
        if (other < row->base50) row->base50 = other;
    }
    row->of_ceiling = bench_median(b->copied, b->done) / row->base50;
}

/* ---- by copies ---- */

struct commons {
    _Alignas(64) atomic_uint arrived;
    struct flag {
        _Alignas(64) atomic_ulong sent; /* halves that lie in the area, ever */
    } flag[FABRIC_MAX_RANKS][FABRIC_MAX_RANKS];
};

static size_t area_bytes(const struct shape *s) { /* the most that one rank sends another in one half */
    return (size_t)s->tokens * (size_t)s->topk * (size_t)s->hidden * sizeof(float);
}

size_t bare_commons_bytes(const struct shape *s) {
    return sizeof(struct commons) + HALVES * (size_t)s->ranks * (size_t)s->ranks * area_bytes(s);
}

void bare_meet(void *commons, int size) {
    struct commons *c = commons;
    unsigned n = (unsigned)size, all = (atomic_fetch_add(&c->arrived, 1) / n + 1) * n;
    for (int turn = 0; (int)(atomic_load(&c->arrived) - all) < 0; turn++) bare_relax(turn);
}

struct copies {
    struct commons *commons;
    unsigned long turn;
};

static unsigned char *area(const struct copies *c, const struct shape *s, enum half half, int from, int to) {
    size_t at = (size_t)((half * s->ranks + from) * s->ranks + to);
    return (unsigned char *)(c->commons + 1) + at * area_bytes(s);
}

/* An area is written again a round later: by then its reader has sent what it did after reading. */
static void by_copies(struct bare *b, enum half half) {
    const struct load *l = b->load;
    struct copies *c = b->own;
    int n = l->shape.ranks, me = l->rank;
    c->turn++;
    for (int i = 1; i < n; i++) {
        int to = (me + i) % n;
        void *room = area(c, &l->shape, half, me, to);
        size_t bytes = bare_bytes(l->out[half][to], l);
        if (b->form && (uintptr_t)room % PAST_LINE == 0 && bytes % PAST_LINE == 0) {
            past_copy(room, b->out[to], bytes);
            past_done();
        } else {
            memcpy(room, b->out[to], bytes);
        }
        atomic_store_explicit(&c->commons->flag[me][to].sent, c->turn, memory_order_release);
    }
    for (int i = 1; i < n; i++) {
        int from = (me + i) % n;
        for (int turn = 0; atomic_load_explicit(&c->commons->flag[from][me].sent, memory_order_acquire) < c->turn; turn++)
            bare_relax(turn);
        memcpy(b->in[from], area(c, &l->shape, half, from, me), bare_bytes(l->in[half][from], l));
    }
}

void bare_by_copies(struct bare *b, void *commons) {
    static _Thread_local struct copies copies;
    copies = (struct copies){.commons = commons};
    b->own = &copies;
    b->move = by_copies;
    b->forms = 2;
}
