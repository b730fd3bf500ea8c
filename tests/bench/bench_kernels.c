/* bench_kernels.c - every operation that costs time, at the shapes of real models, as a fraction of this machine's roofline.
 *
 * For a case that moves B bytes and does F operations, no program can be faster than max(B / read bandwidth, F / peak): both
 * ceilings are measured in the same run, and `roof` is that time over the measured one (see ceilings.h for the clock).
 * Weights and KV pages come out of a pool far larger than the caches and move on from call to call, so that decode cases read
 * memory as a model does. Every time is the best of some rounds, because other tenants of the machine only ever make it
 * slower. `x ref` is the time of the reference implementation for the same case (taken at fewer rows where it would run for
 * minutes) over ours. More than 100 % means that the ceiling was measured in a worse moment, or that caches helped.
 *
 * `task` is the longest time for which the owner of the operation did nothing else, so that no frame moved (kernels.h): the
 * least of the rounds, for the same reason.
 *
 * usage: bench_kernels [--isa avx2|avx512bw|avx512|all] [--threads N] [--only NAME] [--fmt NAME] [--quick] [--check]
 *                      [--floors FILE] [--write-floors FILE]
 * The last line is JSON. --check exits 1 if a case stays below its floor (tests/bench/bench_kernels.floors) or is slower than
 * the reference implementation by a quarter; with several threads it wants a machine to itself. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "base/log.h"
#include "kernels/kernels.h"
#include "tests/bench/ceilings.h"
#include "worker/sampler.h"

enum { POOL_BYTES = 192 << 20, MAX_GROUPS = 512, PAGE = 16, MAX_T = 512, MAX_VOCAB = 128256 };
static const double REF_MACS = 2e7; /* about a tenth of a second of ref */

enum op {
    LINEAR, FFN, DECODE, LATENT, LATENT_QUERY, LATENT_VALUE, EXPANDED, BLOCKS, PREFILL, NORM, GATE, STATS, COMBINE, CLAMP, ADD,
    DOTS, FUSE, KV_STORE, ROPE, EMBED, GATHER, SAMPLE
};
struct test {
    const char *name;
    enum op op;
    int T;          /* rows; for FFN rows per group; for DECODE and LATENT sequences */
    int a, b, c, d; /* LINEAR N K; FFN groups H I; DECODE, PREFILL keys Q G D; LATENT keys Q rope rank; LATENT_QUERY Q nope rope
                       rank; LATENT_VALUE Q value rope rank; EXPANDED keys Q rope rank, nope and value 128; BLOCKS n K, four of
                       64 for each row; NORM N; GATE E k; STATS V; COMBINE k H; CLAMP, ADD, DOTS, GATHER, EMBED H; FUSE k;
                       KV_STORE G D; ROPE heads D; SAMPLE V, top-k, top-p in percent */
};
static const struct test tests[] = {
    {"smol qkv, 1 row", LINEAR, 1, 960, 576},
    {"smol gate, 1 row", LINEAR, 1, 32, 576},
    {"smol head, 1 row", LINEAR, 1, 49152, 576},
    {"smol head, 4 rows", LINEAR, 4, 49152, 576},
    {"smol head, 16 rows", LINEAR, 16, 49152, 576},
    {"smol qkv, 128 rows", LINEAR, 128, 960, 576},
    {"mid qkv, 1 row", LINEAR, 1, 1536, 1024},
    {"mid qkv, 8 rows", LINEAR, 8, 1536, 1024},
    {"mid qkv, 512 rows", LINEAR, 512, 1536, 1024},
    {"big out, 1 row", LINEAR, 1, 2048, 2048},
    {"big out, 32 rows", LINEAR, 32, 2048, 2048},
    {"big out, 512 rows", LINEAR, 512, 2048, 2048},
    {"smol 5 experts of 32, 1 row", FFN, 1, 5, 576, 32},
    {"smol 20 experts of 32, 1 row", FFN, 1, 20, 576, 32},
    {"smol 32 experts of 32, 10 rows", FFN, 10, 32, 576, 32},
    {"smol 16 experts of 72, 1 row", FFN, 1, 16, 576, 72},
    {"smol 16 experts of 72, 16 rows", FFN, 16, 16, 576, 72},
    {"smol shared of 512, 1 row", FFN, 1, 1, 576, 512},
    {"smol shared of 512, 4 rows", FFN, 4, 1, 576, 512},
    {"smol dense of 1536, 1 row", FFN, 1, 1, 576, 1536},
    {"smol dense of 1536, 128 rows", FFN, 128, 1, 576, 1536},
    {"mid 8 experts, 1 row", FFN, 1, 8, 1024, 256},
    {"mid 42 experts, 2 rows", FFN, 2, 42, 1024, 256},
    {"mid 64 experts, 4 rows", FFN, 4, 64, 1024, 256},
    {"mid 64 experts, 64 rows", FFN, 64, 64, 1024, 256},
    {"big 8 experts, 1 row", FFN, 1, 8, 2048, 1024},
    {"big 42 experts, 2 rows", FFN, 2, 42, 2048, 1024},
    {"big 64 experts, 4 rows", FFN, 4, 64, 2048, 1024},
    {"big 64 experts, 64 rows", FFN, 64, 64, 2048, 1024},
    {"V3 expert, 1 row", FFN, 1, 1, 7168, 2048},
    {"V3 expert, 16 rows", FFN, 16, 1, 7168, 2048},
    {"GPT-OSS expert, 1 row", FFN, 1, 1, 2880, 2880},
    {"GPT-OSS expert, 16 rows", FFN, 16, 1, 2880, 2880},
    {"V3 latent decode, 1 x 1000 keys", LATENT, 1, 1000, 128, 64, 512},
    {"V3 latent decode, 1 x 8000 keys", LATENT, 1, 8000, 128, 64, 512},
    {"V3 latent decode, 8 x 1000 keys", LATENT, 8, 1000, 128, 64, 512},
    {"V3 latent query, 1 row", LATENT_QUERY, 1, 128, 128, 64, 512},
    {"V3 latent value, 1 row", LATENT_VALUE, 1, 128, 128, 64, 512},
    {"V3 latent query, 16 rows", LATENT_QUERY, 16, 128, 128, 64, 512},
    {"V3 latent value, 16 rows", LATENT_VALUE, 16, 128, 128, 64, 512},
    {"smol decode, 1 x 500 keys", DECODE, 1, 500, 9, 3, 64},
    {"smol decode, 16 x 500 keys", DECODE, 16, 500, 9, 3, 64},
    {"mid decode, 8 x 4000 keys", DECODE, 8, 4000, 16, 4, 64},
    {"big decode, 8 x 2000 keys", DECODE, 8, 2000, 16, 4, 128},
    {"V2-Lite expanded, 64 rows of 256", EXPANDED, 64, 256, 16, 64, 512},
    {"tree of blocks of 16, 16 rows", BLOCKS, 16, 16, 2048},
    {"smol prefill, 128 rows of 500", PREFILL, 128, 500, 9, 3, 64},
    {"big prefill, 512 rows of 2048", PREFILL, 512, 2048, 16, 4, 128},
    {"norm of 576, 1 row", NORM, 1, 576},
    {"norm of 2048, 128 rows", NORM, 128, 2048},
    {"gate 8 of 64, 16 rows", GATE, 16, 64, 8},
    {"gate 8 of 256, 16 rows", GATE, 16, 256, 8},
    {"stats of 49152, 1 row", STATS, 1, 49152},
    {"combine 16 of 576, 16 rows", COMBINE, 16, 16, 576},
    {"clamp 2048, 128 rows", CLAMP, 128, 2048},
    {"add 2048, 128 rows", ADD, 128, 2048},
    {"dots of 2048, 128 rows", DOTS, 128, 2048},
    {"fuse 8, 16 rows", FUSE, 16, 8},
    {"kv store, 16 rows", KV_STORE, 16, 3, 64},
    {"rope 12 heads of 64, 16 rows", ROPE, 16, 12, 64},
    {"embed 576, 16 rows", EMBED, 16, 576},
    {"gather 2048, 16 rows", GATHER, 16, 2048},
    {"sample of 32000", SAMPLE, 1, 32000},
    {"sample top-k 40 of 32000", SAMPLE, 1, 32000, 40},
    {"sample top-p 0.9 of 32000", SAMPLE, 1, 32000, 0, 90},
    {"sample of 128256", SAMPLE, 1, 128256},
    {"sample top-k 40 of 128256", SAMPLE, 1, 128256, 40},
    {"sample top-p 0.9 of 128256", SAMPLE, 1, 128256, 0, 90},
};
enum { TESTS = sizeof tests / sizeof *tests };

struct settings {
    char *isa, *only, *fmt, *floors, *write;
    int64_t threads;
    bool quick, check;
};

/* A line of the floor file: "PERCENT ISA FMT CASE". '#' begins a comment. */
struct floor {
    char name[40], isa[16], fmt[8];
    int percent; /* of the roofline */
};
static struct floor floors[2048];
static int n_floors;

static void read_floors(const char *path) {
    FILE *f = fopen(path, "re");
    char line[128];
    if (!f) die("%s: %s; run from the top of the repository, or say --floors FILE", path, strerror(errno));
    for (int number = 1; fgets(line, sizeof line, f); number++) {
        struct floor *to = &floors[n_floors];
        if (line[0] == '#' || line[0] == '\n') continue;
        if (n_floors == sizeof floors / sizeof *floors) die("%s: more than %d lines", path, n_floors);
        if (sscanf(line, "%d %15s %7s %39[^\n]", &to->percent, to->isa, to->fmt, to->name) != 4)
            die("%s:%d: wanted PERCENT ISA FMT CASE", path, number);
        n_floors++;
    }
    fclose(f);
}

/* 0: there is none. */
static int floor_of(const char *name, const char *isa, const char *fmt) {
    for (int i = 0; i < n_floors; i++)
        if (!strcmp(floors[i].name, name) && !strcmp(floors[i].isa, isa) && !strcmp(floors[i].fmt, fmt))
            return floors[i].percent;
    return 0;
}

/* Everything any case reads or writes; filled once, shared by all. */
struct data {
    char *pool; /* weights, KV pages: bytes that are harmless numbers in every format */
    size_t at;  /* where the next call's weights start */
    float *x, *y, *table;
    size_t x_floats;
    int32_t *ints, *pages, *pos, *seq;
    const float *rows[MAX_T * 16];
    struct ffn ffns[MAX_GROUPS];
    struct ffn_group groups[MAX_GROUPS];
    struct sampler sampler;
};

static void *must(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) die("out of memory for %zu bytes of test data", bytes);
    return p;
}

static void fill(struct data *d) {
    uint32_t r = 1;
    d->x_floats = 64u * 64 * 2048; /* the largest case: 4096 rows of 2048 */
    d->pool = must(POOL_BYTES);
    d->x = must(d->x_floats * sizeof *d->x);
    d->y = must(d->x_floats * sizeof *d->y);
    d->table = must(sizeof(float) * 4096 * 128);
    d->ints = must(sizeof(int32_t) * 65536);
    d->pages = must(sizeof(int32_t) * 65536);
    d->pos = must(sizeof(int32_t) * MAX_T);
    d->seq = must(sizeof(int32_t) * MAX_T);
    if (sampler_init(&d->sampler, NULL, MAX_VOCAB) < 0) die("out of memory for the sampler");
    for (size_t i = 0; i < POOL_BYTES / 2; i++) {
        r = r * 1664525 + 1013904223;
        ((uint16_t *)d->pool)[i] = (uint16_t)(0x3c00 + (r >> 25) + (r >> 31 << 15)); /* +-0.008 to 0.03, as bf16 and as f32 */
    }
    for (size_t i = 0; i < d->x_floats; i++) {
        r = r * 1664525 + 1013904223;
        d->x[i] = (float)(int32_t)r * 0x1p-31f;
        d->y[i] = 0;
    }
    for (int i = 0; i < 4096 * 128; i++) d->table[i] = 0.7f;
    for (int i = 0; i < MAX_T * 16; i++) d->rows[i] = d->x + (int64_t)(i * 37 % 1024) * 2048;
}

static struct mat next_matrix(struct data *d, enum fmt f, int rows, int cols) {
    size_t bytes = (mat_bytes(f, rows, cols) + 63) / 64 * 64, scales = mat_scale_bytes(f, rows, cols, 128);
    if (d->at + bytes + scales > POOL_BYTES) d->at = 0;
    d->at = (d->at + 63) / 64 * 64;
    struct mat m = {d->pool + d->at, f, rows, cols, d->pool + d->at + bytes, 128};
    d->at += bytes + scales;
    return m;
}

static void call_ffn(struct backend *b, struct data *d, const struct test *t, enum fmt f, int T) {
    for (int g = 0; g < t->a; g++) {
        d->ffns[g] = (struct ffn){
            .gate = next_matrix(d, f, t->c, t->b), .up = next_matrix(d, f, t->c, t->b), .down = next_matrix(d, f, t->b, t->c)};
        d->groups[g] = (struct ffn_group){&d->ffns[g], g * T, T};
    }
    b->ops->ffn(b, d->y, d->x, d->groups, t->a, t->b);
}

/* DECODE, LATENT: T sequences of one row that sees all keys. PREFILL: the last T positions of one sequence. */
static void call_attention(struct backend *b, struct data *d, const struct test *t, enum fmt f, int T) {
    struct kv_layer kv = {d->pool, f, PAGE, t->c, t->d, 0};
    if (t->op == LATENT) kv.heads = 1, kv.head_dim = t->d + t->c, kv.latent = t->d;
    int sequences = t->op == PREFILL ? 1 : T, pages = (t->a + PAGE - 1) / PAGE;
    size_t most = POOL_BYTES / kv_page_bytes(&kv);
    for (int i = 0; i < sequences * pages; i++) d->pages[i] = (int32_t)(d->at++ % most);
    for (int i = 0; i < T; i++) {
        d->seq[i] = t->op == PREFILL ? 0 : i;
        d->pos[i] = t->op == PREFILL ? t->a - T + i : t->a - 1;
    }
    struct attention a = {d->x, d->y, T, t->b, 0.1f, 0, d->pos, d->seq, d->pages, pages};
    b->ops->attention(b, &kv, &a);
}

/* The last T positions of one sequence, by keys and values that are made of all its latents. */
static void call_expanded(struct backend *b, struct data *d, const struct test *t, enum fmt f, int T) {
    enum { NOPE = 128 };
    const struct kv_layer kv = {d->pool, f, PAGE, 1, t->d + t->c, t->d};
    const struct latent_heads h = {next_matrix(d, f == FMT_F32 ? f : FMT_BF16, t->b * 2 * NOPE, t->d), t->b, NOPE, t->c, NOPE};
    const int pages = (t->a + PAGE - 1) / PAGE;
    for (int i = 0; i < pages; i++) d->pages[i] = i;
    for (int i = 0; i < T; i++) d->seq[i] = 0, d->pos[i] = t->a - T + i;
    const struct attention a = {d->x, d->y, T, t->b, 0.1f, 0, d->pos, d->seq, d->pages, pages};
    b->ops->latent_expanded(b, &kv, &a, &h);
}

static void call_blocks(struct backend *b, struct data *d, const struct test *t, enum fmt f, int T) {
    enum { EACH = 4, BLOCKS_OF_ALL = 64 };
    for (int i = 0; i < T * EACH; i++) d->ints[i] = i / EACH, d->pages[i] = i * 7 % BLOCKS_OF_ALL;
    b->ops->linear_blocks(b, d->y, d->x, next_matrix(d, f, BLOCKS_OF_ALL * t->a, t->b), t->a, d->ints, d->pages, T * EACH);
}

/* What surrounds LATENT in the absorbed form: kv_b is read in halves, keys before and values after. */
static void call_latent(struct backend *b, struct data *d, const struct test *t, enum fmt f, int T) {
    struct latent_heads h = {next_matrix(d, f, t->a * 2 * t->b, t->d), t->a, t->b, t->c, t->b};
    if (t->op == LATENT_QUERY) b->ops->latent_query(b, d->y, d->x, &h, T);
    else b->ops->latent_value(b, d->y, d->x, &h, T);
}

/* What it does besides weighing is the same with every backend, ref too. At this temperature the rows are 8 nats wide, and a
 * third of a row survives top-p. They come from where ROPE does not write. */
static void call_sampler(struct backend *b, struct data *d, const struct test *t, int T) {
    static int position;
    const struct sampling how = {.temperature = 0.25f, .top_k = t->b, .top_p = (float)t->c / 100, .seed = 1};
    struct seq_out out;
    d->sampler.backend = b;
    d->sampler.vocab = t->a; /* what is held is enough for MAX_VOCAB */
    const float *logits = d->x + d->x_floats / 2;
    for (int i = 0; i < T; i++, logits += t->a)
        sampler_pick(&d->sampler, logits, &(struct logit_stats){.max = 1}, &how, position++, &out);
}

static void call(struct backend *b, struct data *d, const struct test *t, enum fmt f, int T) {
    const struct ops *ops = b->ops;
    struct gate_rule rule = {GATE_SOFTMAX, GATE_WEIGHT_SCORE, GATE_NORM_SUM, 0, 1, t->a, t->b};
    struct kv_layer kv = {d->y, f, PAGE, t->a, t->b};
    for (int i = 0; i < T && t->op >= KV_STORE; i++) d->ints[i] = i * 3;
    switch (t->op) {
    case LINEAR: ops->linear(b, d->y, d->x, next_matrix(d, f, t->a, t->b), NULL, false, T); break;
    case FFN: call_ffn(b, d, t, f, T); break;
    case LATENT_QUERY:
    case LATENT_VALUE: call_latent(b, d, t, f, T); break;
    case EXPANDED: call_expanded(b, d, t, f, T); break;
    case BLOCKS: call_blocks(b, d, t, f, T); break;
    case DECODE:
    case LATENT:
    case PREFILL: call_attention(b, d, t, f, T); break;
    case NORM: ops->rmsnorm(b, d->y, t->a, d->x, t->a, d->table, 1e-5f, T, t->a); break;
    case GATE: ops->gate_select(b, d->ints, d->y, d->x, NULL, &rule, T); break;
    case STATS: ops->logit_stats(b, (struct logit_stats *)d->y, d->x, T, t->a); break;
    case COMBINE: ops->combine(b, d->y, d->rows, d->table, T, t->a, t->b); break;
    case CLAMP: ops->clamp(b, d->y, 0.5f, (int64_t)T * t->a); break;
    case ADD: ops->add(b, d->y, d->x, NULL, T, t->a); break;
    case DOTS: ops->dots(b, d->y, 1, d->x, d->x + t->a, t->a, 0.1f, T, t->a); break;
    case FUSE: ops->fuse(b, d->table, d->x, &(struct fuse_rule){.extra = 2, .score = 0, .conf = 1, .beta = 1}, T, t->a); break;
    case KV_STORE: ops->kv_store(b, &kv, d->x, d->x, d->ints, T); break;
    case ROPE: ops->rope(b, d->x, d->ints, d->table, t->b, false, T, t->a, t->b); break;
    case EMBED: ops->embed(b, d->y, next_matrix(d, f, 3 * MAX_T, t->a), d->ints, T); break;
    case GATHER: ops->gather(b, d->y, d->x, d->ints, T, t->a); break;
    case SAMPLE: call_sampler(b, d, t, T); break;
    }
}

struct cost {
    double bytes, flops;
};

/* Bytes of a weight, or of a number of keys and values, scales included. */
static double size_of(const struct test *t, enum fmt f) {
    const bool latent = t->op == LATENT || t->op == EXPANDED;
    const struct kv_layer kv = {
        NULL, f, PAGE, latent ? 1 : t->c, latent ? t->c + t->d : t->d, latent ? t->d : 0};
    if (t->op == DECODE || t->op == PREFILL || t->op == LATENT || t->op == EXPANDED)
        return (double)kv_page_bytes(&kv) / (double)kv_page_elements(&kv);
    if (!fmt_wish(f) && fmt_kv(f)) return f == FMT_F16 ? 2 : 1; /* kv_store */
    return (double)(mat_bytes(f, 256, 256) + mat_scale_bytes(f, 256, 256, 128)) / (256 * 256);
}

static struct cost cost_of(const struct test *t, enum fmt f, int T) {
    double size = size_of(t, f);
    double n = T, a = t->a, b = t->b, c = t->c, d = t->d;
    double seen = t->op == PREFILL || t->op == EXPANDED ? n * a - n * (n - 1) / 2 : n * a; /* (row, key) pairs */
    switch (t->op) {
    case LINEAR: return (struct cost){a * b * size, 2 * n * a * b};
    case FFN: return (struct cost){3 * a * b * c * size, 6 * n * a * b * c};
    case DECODE: return (struct cost){2 * seen * c * d * size, 4 * seen * b * d};
    case LATENT: return (struct cost){seen * (c + d) * size, 2 * seen * b * (c + d + d)}; /* the value is part of the key */
    case LATENT_QUERY:
    case LATENT_VALUE: return (struct cost){a * b * d * size, 2 * n * a * b * d};
    case EXPANDED: return (struct cost){a * (c + d) * size, 2 * (a * b * 256 * d + seen * b * (c + 256))}; /* nope + value */
    case BLOCKS: return (struct cost){0, 2 * n * 4 * a * b};
    case PREFILL: return (struct cost){2 * a * c * d * size, 4 * seen * b * d};
    case NORM: return (struct cost){0, 4 * n * a};
    case GATE: return (struct cost){0, n * a * (20 + b)};
    case STATS:
    case SAMPLE: return (struct cost){0, 20 * n * a};
    case COMBINE: return (struct cost){0, 2 * n * a * b};
    case CLAMP:
    case ADD:
    case GATHER: return (struct cost){0, n * a};
    case DOTS: return (struct cost){0, 2 * n * a};
    case FUSE: return (struct cost){0, 60 * n * a};
    case KV_STORE: return (struct cost){0, 2 * n * a * b};
    case ROPE: return (struct cost){0, 3 * n * a * b};
    case EMBED: return (struct cost){n * a * size, n * a};
    }
    return (struct cost){0, 0};
}

/* Microseconds of one call: the best round's mean. A round is as many calls as take about round_us, found by doubling.
 * *task_us: the longest task of the round that had the shortest. */
static double time_of(struct backend *b, struct data *d, const struct test *t, enum fmt f, int T, int rounds, double round_us,
                      uint64_t *task_us) {
    double best = 1e18;
    int calls = 1;
    *task_us = UINT64_MAX;
    for (int i = 0; i < rounds;) {
        b->tasks = (struct backend_tasks){0};
        double from = ceiling_clock(b->threads);
        for (int j = 0; j < calls; j++) call(b, d, t, f, T);
        double us = (ceiling_clock(b->threads) - from) * 1e6;
        if (us / calls < best) best = us / calls;
        if (b->tasks.longest_us < *task_us) *task_us = b->tasks.longest_us;
        if (us < round_us && i == 0 && calls < 1 << 20) calls *= 2;
        else i++;
    }
    return best;
}

/* Ref's time for the same work, at fewer rows (and of latents at fewer keys) where all of it would take too long. */
static double ref_time(struct backend *ref, struct data *d, const struct test *t, enum fmt f) {
    double macs = cost_of(t, f, t->T).flops / 2;
    struct test less = *t;
    if (macs > REF_MACS) less.T = (int)(t->T * REF_MACS / macs);
    if (less.T < 1) less.T = 1;
    if ((t->op == LATENT || t->op == EXPANDED) && macs > less.T * REF_MACS) less.a = (int)(t->a * less.T * REF_MACS / macs) + 1;
    uint64_t task_us;
    return time_of(ref, d, &less, f, less.T, 1, 1000, &task_us) * cost_of(t, f, t->T).flops / cost_of(&less, f, less.T).flops;
}

struct machine {
    double gbs, gflops, gops; /* read; f32; int8 */
};

static double memory_time(const struct cost *c, const struct machine *m) { return c->bytes / m->gbs * 1e-3; }
static double arithmetic_time(const struct cost *c, enum fmt f, const struct machine *m) {
    return c->flops / (fmt_quant(f) ? m->gops : m->gflops) * 1e-3;
}
static double roof_of(const struct test *t, enum fmt f, const struct machine *m, double us) {
    const struct cost c = cost_of(t, f, t->T);
    return 100 * fmax(memory_time(&c, m), arithmetic_time(&c, f, m)) / us;
}

/* Three fifths of what was measured: a machine with other guests is at times no better. */
static void write_floor(FILE *out, const struct test *t, enum fmt f, const char *isa, double roof) {
    fprintf(out, "%3d %-8s %-5s %s\n", (int)(roof * 3 / 5), isa, fmt_name(f), t->name);
}

/* One line of the table and one entry of the JSON array; false if below the floor. */
static bool report(const struct test *t, enum fmt f, const char *isa, const struct machine *m, double us, double ref_us,
                   uint64_t task_us, char *json, size_t cap) {
    struct cost c = cost_of(t, f, t->T);
    double memory_us = memory_time(&c, m), arithmetic_us = arithmetic_time(&c, f, m), roof = roof_of(t, f, m, us);
    bool good = roof >= floor_of(t->name, isa, fmt_name(f)) && us <= 1.25 * ref_us; /* what only copies is no faster */
    printf("%-32s %-5s %-6s %10.1f %7.1f %8.1f  %5.0f %% of %-10s %7.1f %6llu%s\n", t->name, fmt_name(f), isa, us,
           c.bytes / us * 1e-3, c.flops / us * 1e-3, roof, memory_us > arithmetic_us ? "memory" : "arithmetic", ref_us / us,
           (unsigned long long)task_us, good ? "" : "  BELOW FLOOR");
    fflush(stdout);
    size_t used = strlen(json);
    snprintf(json + used, cap - used,
             "%s{\"case\":\"%s\",\"fmt\":\"%s\",\"isa\":\"%s\",\"us\":%.2f,\"roof\":%.3f,\"x_ref\":%.1f,\"task_us\":%llu}",
             used ? "," : "", t->name, fmt_name(f), isa, us, roof / 100, ref_us / us, (unsigned long long)task_us);
    return good;
}

static int bench_isa(const char *isa, const struct settings *s, struct data *d, double *gbs, FILE *out, char *json,
                     size_t cap) {
    struct backend *b, *ref;
    struct why why;
    struct backend_options o = {isa, (int)s->threads}, plain = {"ref", 1};
    if (backend_open(&o, &b, &why) < 0) {
        printf("%s: %s\n", isa, why.text);
        return 0;
    }
    if (backend_open(&plain, &ref, &why) < 0) die("%s", why.text);
    *gbs = fmax(*gbs, ceiling_read_gbs((int)s->threads));
    struct machine m = {*gbs, ceiling_gflops(isa, (int)s->threads), ceiling_gops(isa, (int)s->threads)};
    printf("\n%s, %d thread%s: %.0f GFLOP/s, %.0f GOP/s, %.1f GB/s\n", isa, (int)s->threads, s->threads > 1 ? "s" : "",
           m.gflops, m.gops, m.gbs);
    printf("%-32s %-5s %-6s %10s %7s %8s  %-21s %7s %6s\n", "case", "fmt", "isa", "us", "GB/s", "GFLOP/s", "roof", "x ref",
           "task");
    int below = 0;
    for (int i = 0; i < TESTS; i++) {
        if (s->only && !strstr(tests[i].name, s->only)) continue;
        bool weights = tests[i].op <= FFN, both = tests[i].op <= PREFILL || tests[i].op == EMBED || tests[i].op == KV_STORE;
        bool odd = tests[i].c % MXFP4_BLOCK && tests[i].op == FFN;
        const bool kv = tests[i].op == DECODE || tests[i].op == LATENT || tests[i].op == EXPANDED ||
                        tests[i].op == PREFILL || tests[i].op == KV_STORE;
        for (int f = 0; f < FMT_COUNT; f++) {
            const bool taken =
                f == FMT_F32 || (f == FMT_BF16 && both) || (kv ? fmt_kv((enum fmt)f) : weights && f < FMT_QUANT_END);
            if (!taken || (f == FMT_MXFP4 && odd) || (s->fmt && strcmp(s->fmt, fmt_name((enum fmt)f)))) continue;
            uint64_t task_us;
            double us = time_of(b, d, &tests[i], (enum fmt)f, tests[i].T, s->quick ? 3 : 9, s->quick ? 4000 : 12000, &task_us);
            const double ref_us = ref_time(ref, d, &tests[i], (enum fmt)f);
            below += !report(&tests[i], (enum fmt)f, isa, &m, us, ref_us, task_us, json, cap);
            if (out) write_floor(out, &tests[i], (enum fmt)f, isa, roof_of(&tests[i], (enum fmt)f, &m, us));
        }
    }
    backend_close(b);
    backend_close(ref);
    return below;
}

static const struct conf_option options[] = {
    {"isa", CONF_CHOICE, offsetof(struct settings, isa), "all", 0, 0, "avx2|avx512bw|avx512|all", "NAME", "kernels to time"},
    {"fmt", CONF_STRING, offsetof(struct settings, fmt), NULL, 0, 0, NULL, "NAME", "only cases in that format"},
    {"threads", CONF_INT, offsetof(struct settings, threads), "1", 1, 64, NULL, "N", "size of the thread team"},
    {"only", CONF_STRING, offsetof(struct settings, only), NULL, 0, 0, NULL, "TEXT", "only cases whose name contains TEXT"},
    {"quick", CONF_FLAG, offsetof(struct settings, quick), NULL, 0, 0, NULL, NULL, "shorter rounds"},
    {"check", CONF_FLAG, offsetof(struct settings, check), NULL, 0, 0, NULL, NULL, "exit 1 if a case is below its floor"},
    {"floors", CONF_STRING, offsetof(struct settings, floors), "tests/bench/bench_kernels.floors", 0, 0, NULL, "FILE",
     "the floors"},
    {"write-floors", CONF_STRING, offsetof(struct settings, write), NULL, 0, 0, NULL, "FILE",
     "write three fifths of what is measured instead"},
    {0},
};

int main(int argc, char **argv) {
    static const struct conf_command command = {
        "bench_kernels", "[options]", "Times the kernels against this machine's roofline.", NULL, options, 0, 0};
    static char json[1 << 18];
    struct settings s = {0};
    struct data d = {0};
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &s, argc, argv, &args, &why);
    if (rc < 0) die("%s", why.text);
    if (rc > 0) return 0;
    if (!s.write) read_floors(s.floors);
    FILE *out = s.write ? fopen(s.write, "we") : NULL;
    if (s.write && !out) die("%s: %s", s.write, strerror(errno));
    if (out)
        fprintf(out, "# bench_kernels --check: percent of the roofline, instruction set, format, case. See --write-floors.\n");
    fill(&d);
    double gbs = 0;
    int below = 0;
    const char *isas[] = {"avx2", "avx512bw", "avx512"};
    for (int i = 0; i < 3; i++) {
        if (!strcmp(s.isa, "all") || !strcmp(s.isa, isas[i])) below += bench_isa(isas[i], &s, &d, &gbs, out, json, sizeof json);
    }
    printf("{\"bench\":\"kernels\",\"threads\":%d,\"read_gbs\":%.2f,\"below_floor\":%d,\"cases\":[%s]}\n", (int)s.threads, gbs,
           below, json);
    if (out && fclose(out)) die("%s: %s", s.write, strerror(errno));
    conf_clear(&command, &s, &args);
    free(d.pool), free(d.x), free(d.y), free(d.table), free(d.ints), free(d.pages), free(d.pos), free(d.seq);
    sampler_clear(&d.sampler);
    return s.check && below ? 1 : 0;
}
