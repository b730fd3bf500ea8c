/* bench_router.c - what choosing experts costs: every kind of router at the shapes of real models, for one token and for 64.
 *
 * Three times per case, in microseconds per token and layer:
 *   gemm    our own product of the tokens with one flat gate of as many experts: what a flat router cannot do without
 *   router  the whole of worker/gating: products, history, search or selection
 *   choice  the router with products that do nothing: everything after the scores
 * The ratios gemm / router and choice / gemm are the figures; the second counts where the GEMM runs near the peak, so its
 * fraction of the FMA peak, measured in the same run, is printed. For one token gates come out of a pool far larger than the
 * caches and move on from call to call, as they do from layer to layer. 64 tokens meet the same gate again and again: that case
 * is about arithmetic, and what it finds in caches helps the GEMM most. Every time is the best of some rounds.
 *
 * usage: bench_router [--isa NAME] [--threads N] [--only NAME] [--quick] [--check]
 * The last line is JSON. --check exits 1 if a case misses its floor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "base/log.h"
#include "tests/bench/ceilings.h"
#include "worker/gating.h"

enum {
    BATCH = 64,
    TOKENS = 2 * BATCH /* as warm as what the norm before has just written */,
    MAX_H = 7168,
    MAX_E = 1024,
    COPIES = 6
};
static const double MOST_CHOICE = 0.15, LEAST_PEAK = 0.70; /* of the GEMM at batch 64; of the FMA peak */

struct kind {
    const char *name;
    int H;
    struct gate_rule gate;
    struct router_rule router;
    bool bias;
    double floor_1, floor_64; /* gemm / router that --check wants at batch 1 and 64; 0: none */
};

#define TREE(search_, beam_, k_)                                                                                               \
    .router = {.kind = ROUTER_TREE, .tree = {{16, 8, 8}, false, search_, beam_, k_}, .k = k_},                                 \
    .gate = {.score = GATE_SOFTMAX, .scale = 1, .experts = 1024, .k = k_}
static const struct kind kinds[] = {
    {.name = "mixtral, softmax 2 of 8", .H = 4096, .router.k = 2,
     .gate = {.score = GATE_SOFTMAX, .norm = GATE_NORM_SUM, .scale = 1, .experts = 8, .k = 2}},
    {.name = "qwen3, softmax 8 of 128", .H = 2048, .router.k = 8,
     .gate = {.score = GATE_SOFTMAX, .norm = GATE_NORM_SUM, .scale = 1, .experts = 128, .k = 8}},
    {.name = "v3, sigmoid 8 of 256 in 4 of 8 groups", .H = 7168, .router.k = 8, .bias = true,
     .gate = {.score = GATE_SIGMOID, .norm = GATE_NORM_SUM, .norm_eps = 1e-20f, .scale = 2.5f, .experts = 256, .k = 8,
              .group = GATE_GROUP_TOP2SUM, .groups = 8, .topk_group = 4, .group_fill = -1e30f}},
    {.name = "flat, softmax 8 of 1024", .H = 7168, .router.k = 8,
     .gate = {.score = GATE_SOFTMAX, .norm = GATE_NORM_SUM, .scale = 1, .experts = 1024, .k = 8}},
    {.name = "tree 16x8x8, greedy", .H = 7168, TREE(TREE_GREEDY, 1, 1), .floor_1 = 20, .floor_64 = 3},
    {.name = "tree 16x8x8, beam 4, 4 leaves", .H = 7168, TREE(TREE_BEAM, 4, 4)},
    {.name = "tree 16x8x8, exact, 4 leaves", .H = 7168, TREE(TREE_EXACT, 1, 4)},
    {.name = "two stages, 4 + 16 + 32", .H = 7168,
     .gate = {.score = GATE_SOFTMAX, .scale = 1, .experts = 52, .k = 5},
     .router = {.kind = ROUTER_TWO_STAGE, .two_stage = {4, 16, 32, 1, 2, 1, false, 0}, .k = 5}},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

struct settings {
    char *isa, *only;
    int64_t threads;
    bool quick, check;
};

struct data {
    float *pool, *x, *y, *bias; /* [COPIES, MAX_E, MAX_H], [TOKENS, MAX_H], [BATCH, MAX_E], [MAX_E] */
    size_t copy, token;         /* where the next call is */
};

struct bench {
    struct backend *b;
    struct ops idle; /* the backend's table with products that do nothing */
    const struct ops *ops;
    const struct kind *kind;
    struct data *data;
    struct model_config config;
    struct gating gating;
    struct step_rows rows;
    int T;
};

static void no_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    (void)b, (void)y, (void)x, (void)w, (void)bias, (void)add, (void)T;
}
static void no_blocks(struct backend *b, float *y, const float *x, struct mat w, int n, const int32_t *row,
                      const int32_t *block, int P) {
    (void)b, (void)y, (void)x, (void)w, (void)n, (void)row, (void)block, (void)P;
}

static float *must(size_t floats) {
    float *p = aligned_alloc(64, (floats * sizeof *p + 63) / 64 * 64);
    if (!p) die("out of memory for %zu MiB of test data", floats * sizeof *p >> 20);
    return p;
}

static void fill(struct data *d) {
    uint32_t r = 1;
    struct {
        float **p;
        size_t n;
        float size;
    } all[] = {{&d->pool, (size_t)COPIES * MAX_E * MAX_H, 0.02f}, {&d->x, (size_t)TOKENS * MAX_H, 1}, {&d->bias, MAX_E, 0.1f},
               {&d->y, (size_t)BATCH * MAX_E, 0}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        *all[i].p = must(all[i].n);
        for (size_t j = 0; j < all[i].n; j++) {
            r = r * 1664525 + 1013904223;
            (*all[i].p)[j] = ((float)(r >> 8) * 0x1p-23f - 1) * all[i].size;
        }
    }
}

static const float *tokens(struct bench *s) {
    struct data *d = s->data;
    if (d->token + (size_t)s->T > TOKENS) d->token = 0;
    const float *x = d->x + d->token * (size_t)s->kind->H;
    d->token += (size_t)s->T;
    return x;
}

static struct mat gate(struct bench *s, int rows, size_t at) {
    const float *base = s->data->pool + s->data->copy * (size_t)MAX_E * MAX_H;
    return (struct mat){base + at * (size_t)s->kind->H, FMT_F32, rows, s->kind->H};
}

/* As many different gates of this size as the pool holds would do; six of the largest are more than any cache. */
static void next_layer(struct bench *s) { s->data->copy = s->T > 1 ? 0 : (s->data->copy + 1) % COPIES; }

static void run_gemm(struct bench *s) {
    s->b->ops->linear(s->b, s->data->y, tokens(s), gate(s, s->kind->gate.experts, 0), NULL, false, s->T);
    next_layer(s);
}

static void run_router(struct bench *s) {
    const struct router_rule *r = &s->kind->router;
    struct layer_weights w = {.router_sel_bias = s->kind->bias ? s->data->bias : NULL};
    int first = router_first(r, s->kind->gate.experts), second = r->two_stage.domains, third = r->two_stage.locals;
    if (r->kind == ROUTER_TREE) {
        second = r->tree.branch[0] * r->tree.branch[1];
        third = second * r->tree.branch[2]; /* a whole copy: the other levels are rows of it, too */
    }
    w.router = gate(s, first, 0);
    if (r->kind != ROUTER_FLAT) {
        w.router_inner[0] = gate(s, second, (size_t)first);
        w.router_inner[1] = gate(s, third, r->kind == ROUTER_TREE ? 0 : (size_t)(first + second));
    }
    gating_run(&s->gating, 0, &w, tokens(s), &s->rows);
    next_layer(s);
}

/* Microseconds per token of one call: the best round's mean. */
static double time_of(struct bench *s, void (*run)(struct bench *s), int rounds, double round_us) {
    double best = 1e18;
    int calls = 1;
    for (int i = 0; i < rounds;) {
        double from = ceiling_clock(s->b->threads);
        for (int j = 0; j < calls; j++) run(s);
        double us = (ceiling_clock(s->b->threads) - from) * 1e6;
        if (us / calls < best) best = us / calls;
        if (us < round_us && i == 0 && calls < 1 << 20) calls *= 2;
        else i++;
    }
    return best / s->T;
}

struct times {
    double gemm, router, choice;
};

static struct times measure(struct bench *s, const struct settings *o) {
    int rounds = o->quick ? 3 : 9;
    double round_us = o->quick ? 5000 : 20000;
    struct times t = {time_of(s, run_gemm, rounds, round_us), time_of(s, run_router, rounds, round_us), 0};
    s->b->ops = &s->idle; /* the logits of the last real run stay where they are */
    t.choice = time_of(s, run_router, rounds, round_us);
    s->b->ops = s->ops;
    return t;
}

static bool report(const struct bench *s, const struct times *t, double gflops, char *json, size_t cap) {
    const struct kind *k = s->kind;
    double flops = 2.0 * k->gate.experts * k->H, peak = flops / t->gemm * 1e-3 / gflops, ratio = t->gemm / t->router;
    double share = t->choice / t->gemm, floor = s->T == 1 ? k->floor_1 : k->floor_64;
    bool counts = s->T == 1 || peak >= LEAST_PEAK, good = ratio >= floor && (s->T == 1 || share < MOST_CHOICE) && counts;
    printf("%-38s %5d %9.2f %5.0f %% %9.2f %8.2fx %9.3f %6.1f %%%s\n", k->name, s->T, t->gemm, 100 * peak, t->router, ratio,
           t->choice, 100 * share, good ? "" : counts ? "  MISSES ITS FLOOR" : "  GEMM BELOW 70 %");
    fflush(stdout);
    size_t used = strlen(json);
    snprintf(json + used, cap - used,
             "%s{\"case\":\"%s\",\"batch\":%d,\"gemm_us\":%.3f,\"gemm_of_peak\":%.3f,\"router_us\":%.3f,\"choice_us\":%.4f}",
             used ? "," : "", k->name, s->T, t->gemm, peak, t->router, t->choice);
    return good;
}

static int bench_kind(struct bench *s, const struct kind *k, const struct settings *o, double gflops, char *json, size_t cap) {
    struct why why;
    int missed = 0;
    s->kind = k;
    s->config =
        (struct model_config){.hidden = k->H, .moe_layers = 1, .gate = k->gate, .router = k->router, .gate_sel_bias = k->bias};
    if (gating_init(&s->gating, s->b, &s->config, BATCH, &why) < 0) die("%s", why.text);
    for (int i = 0; i < 2; i++) {
        s->rows.T = s->T = i ? BATCH : 1;
        struct times t = measure(s, o);
        missed += !report(s, &t, gflops, json, cap);
    }
    gating_clear(&s->gating);
    return missed;
}

static const struct conf_option options[] = {
    {"isa", CONF_CHOICE, offsetof(struct settings, isa), "auto", 0, 0, "auto|avx2|avx512", "NAME", "kernels to time"},
    {"threads", CONF_INT, offsetof(struct settings, threads), "1", 1, 64, NULL, "N", "size of the thread team"},
    {"only", CONF_STRING, offsetof(struct settings, only), NULL, 0, 0, NULL, "TEXT", "only kinds whose name contains TEXT"},
    {"quick", CONF_FLAG, offsetof(struct settings, quick), NULL, 0, 0, NULL, NULL, "shorter rounds"},
    {"check", CONF_FLAG, offsetof(struct settings, check), NULL, 0, 0, NULL, NULL, "exit 1 if a case misses its floor"},
    {0},
};

int main(int argc, char **argv) {
    static const struct conf_command command = {
        "bench_router", "[options]", "Times the choice of experts against the product of a flat gate.", NULL, options, 0, 0};
    static char json[16384];
    static struct bench bench;
    struct settings s = {0};
    struct data d = {0};
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &s, argc, argv, &args, &why), missed = 0;
    if (rc < 0) die("%s", why.text);
    if (rc > 0) return 0;
    fill(&d);
    bench.data = &d;
    if (backend_open(&(struct backend_options){s.isa, (int)s.threads}, &bench.b, &why) < 0) die("%s", why.text);
    bench.ops = bench.b->ops;
    bench.idle = *bench.ops;
    bench.idle.linear = no_linear;
    bench.idle.linear_blocks = no_blocks;
    double gflops = ceiling_gflops(bench.ops->name, (int)s.threads);
    printf("%s, %d thread%s, f32 gates: %.0f GFLOP/s\n%-38s %5s %9s %7s %9s %9s %9s %8s\n", bench.ops->name, (int)s.threads,
           s.threads > 1 ? "s" : "", gflops, "us per token and layer", "batch", "gemm", "peak", "router", "gemm/", "choice",
           "of gemm");
    for (int i = 0; i < KINDS; i++)
        if (!s.only || strstr(kinds[i].name, s.only)) missed += bench_kind(&bench, &kinds[i], &s, gflops, json, sizeof json);
    printf("{\"bench\":\"router\",\"isa\":\"%s\",\"threads\":%d,\"gflops\":%.1f,\"missed\":%d,\"cases\":[%s]}\n",
           bench.ops->name, (int)s.threads, gflops, missed, json);
    backend_close(bench.b);
    conf_clear(&command, &s, &args);
    free(d.pool), free(d.x), free(d.y), free(d.bias);
    return s.check && missed ? 1 : 0;
}
