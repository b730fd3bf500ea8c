/* bench_overlap.c - what two microbatches gain over one when links take their time, and whether `auto` finds out.
 *
 * Workers are threads with one compute thread each, joined by wires of a given latency and rate (fabric_wire.h). A step walks
 * layers in the order of worker/forward.c: the rows' own products, dispatch, the experts of what came, combine. Weights are
 * read from memory as a model's are, so a second microbatch pays what it pays: every expert's weights are read twice. Steps in
 * one and in two microbatches alternate, so that both meet the same moods of the machine; times are those of the best step,
 * since other tenants only ever make one slower. `auto` is the coordinator's own choice (coordinator/overlap.h) after it has
 * learnt from as many steps: how many of the next it runs in two, and the time of what it runs most. `waited` is the part of
 * the steps in one piece that workers stood waiting; `task` the longest time that a worker computed without letting frames
 * move, in the step where that is least, and the part of all such times above 0.2 ms. It wants a core for each worker.
 *
 * usage: bench_overlap [--workers R] [--tokens T] [--hidden H] [--inter I] [--experts E] [--topk K] [--layers L] [--steps N]
 * The last line is JSON. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/conf.h"
#include "base/hash.h"
#include "base/log.h"
#include "coordinator/overlap.h"
#include "fabric/ep.h"
#include "kernels/kernels.h"
#include "tests/bench/fabric_wire.h"

enum { OWN = 4 /* products of [H, H] for each row, as attention has */, PATIENCE_US = 60000000 };

struct settings {
    int64_t workers, tokens, hidden, inter, experts, topk, layers, steps;
};

struct wire { /* a case */
    const char *name;
    double latency_us, megabytes; /* per second; 0: none */
};
static const struct wire wires[] = {
    {"none", 0, 0}, {"100 Gbit/s", 5, 12500}, {"10 Gbit/s", 20, 1250}, {"2.5 Gbit/s", 30, 312}, {"1 Gbit/s", 50, 125}};
enum { WIRES = sizeof wires / sizeof *wires };

enum form { WHOLE = 1, HALVED = 2, AUTO = 3 };

struct bench { /* of one wire; the workers' common ground */
    const struct settings *s;
    struct wire_net *net;
    pthread_barrier_t gate;
    struct overlap overlap;
    enum form form;   /* WHOLE: one and two by turns */
    int microbatches; /* of the step under way: written by worker 0 between two gates */
    int64_t step_us[FABRIC_MAX_RANKS], wait_us[FABRIC_MAX_RANKS];
    double best_us[AUTO + 1][HALVED + 1]; /* by form; and of AUTO by what it chose */
    int chosen[HALVED + 1];               /* how often AUTO did */
    double waited;                        /* sum over steps in one piece and workers */
    int whole;                            /* such steps */
    uint64_t task_us, tasks, tasks_long;
};

struct half { /* one microbatch at one worker */
    int first, T;
    struct ep_send send;
    struct ep_work work;
    const float **rows;
};

struct worker {
    pthread_t thread;
    struct bench *bench;
    int rank;
    struct fabric *fabric;
    struct ep *ep;
    struct backend *backend;
    float *x, *y, *weights; /* [T,H] [T,H] [T,K] */
    int16_t *to, *slot;     /* [T,K] */
    char *pool;             /* weights: experts', then the rows' own */
    struct ffn *experts;
    struct ffn_group *groups;
    struct half half[EP_MICROBATCHES];
    struct backend_tasks tasks; /* of the step */
    struct why why;
};

static void *must(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) die("out of memory for %zu bytes", bytes);
    return p;
}

static int slots_of(const struct settings *s) { return (int)(s->experts / s->workers); }

/* ---- a worker's matter ---- */

static void make_weights(struct worker *w) {
    const struct settings *s = w->bench->s;
    int H = (int)s->hidden, I = (int)s->inter, n = slots_of(s);
    size_t each = (size_t)H * (size_t)I, own = (size_t)H * (size_t)H * OWN, all = 3 * each * (size_t)n + own;
    uint16_t *p = must(all * sizeof *p);
    w->pool = (char *)p;
    for (size_t i = 0; i < all; i++) p[i] = (uint16_t)(0x3c00 | (hash_u64(i) & 0x803f)); /* +-0.008 */
    w->experts = must((size_t)n * sizeof *w->experts);
    w->groups = must((size_t)n * sizeof *w->groups);
    for (int e = 0; e < n; e++) {
        uint16_t *at = p + 3 * each * (size_t)e;
        w->experts[e] = (struct ffn){.gate = {at, FMT_BF16, I, H}, .up = {at + each, FMT_BF16, I, H},
                                     .down = {at + 2 * each, FMT_BF16, H, I}};
    }
}

/* Every token goes to K experts, drawn evenly. */
static void make_tokens(struct worker *w) {
    const struct settings *s = w->bench->s;
    size_t T = (size_t)s->tokens, H = (size_t)s->hidden, K = (size_t)s->topk;
    w->x = must(T * H * sizeof *w->x);
    w->y = must(T * H * OWN * sizeof *w->y);
    w->weights = must(T * K * sizeof *w->weights);
    w->to = must(T * K * sizeof *w->to);
    w->slot = must(T * K * sizeof *w->slot);
    for (size_t i = 0; i < T * H; i++) w->x[i] = (float)(int)(hash_u64(i) % 200) / 100 - 1;
    for (size_t t = 0; t < T; t++) {
        uint64_t draw = (uint64_t)(w->rank + 1) << 48 | t << 16, used = 0;
        for (size_t k = 0; k < K;) {
            int e = (int)(hash_u64(draw++) % (uint64_t)s->experts);
            if (used >> e & 1) continue;
            used |= UINT64_C(1) << e;
            w->weights[t * K + k] = 1 / (float)K;
            w->to[t * K + k] = (int16_t)(e / slots_of(s));
            w->slot[t * K + k++] = (int16_t)(e % slots_of(s));
        }
    }
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) w->half[mb].rows = must(T * K * sizeof *w->half[mb].rows);
}

static void let_frames_move(void *ep) { ep_progress(ep); }

static int open_worker(struct worker *w) {
    const struct settings *s = w->bench->s;
    const struct backend_options o = {.isa = "auto", .threads = 1};
    struct ep_limits lim = {.max_tokens = (int)s->tokens, .max_slots = slots_of(s), .hidden = (int)s->hidden,
                            .topk = (int)s->topk, .dispatch = EP_F32, .combine = EP_F32};
    int rc = wire_open(w->bench->net, w->rank, &w->fabric, &w->why);
    if (rc >= 0) rc = ep_check_limits(&lim, (int)s->workers, &w->why);
    if (rc >= 0) rc = fabric_prepare(w->fabric, ep_frame_bytes(&lim, (int)s->workers), 1, &w->why);
    if (rc >= 0) rc = ep_new(w->fabric, &lim, &w->ep, &w->why);
    if (rc >= 0) rc = backend_open(&o, &w->backend, &w->why);
    if (rc < 0) return rc;
    w->backend->between = (struct backend_hook){let_frames_move, w->ep};
    make_weights(w);
    make_tokens(w);
    return 0;
}

static void close_worker(struct worker *w) {
    ep_free(w->ep);
    fabric_close(w->fabric);
    backend_close(w->backend);
    free(w->x), free(w->y), free(w->weights), free(w->to), free(w->slot), free(w->pool), free(w->experts), free(w->groups);
    for (int mb = 0; mb < EP_MICROBATCHES; mb++) free(w->half[mb].rows);
}

/* ---- a step, in the order of worker/forward.c ---- */

static void must_go(int rc, const char *what) {
    if (rc < 0) die("%s: %s", what, status_text(rc));
}

static void finish(struct worker *w, int mb) {
    struct half *h = &w->half[mb];
    int H = (int)w->bench->s->hidden, K = (int)w->bench->s->topk;
    uint64_t late;
    must_go(ep_combine_wait(w->ep, mb, h->rows, clk_now_us() + PATIENCE_US, &late), "combine");
    w->backend->ops->combine(w->backend, w->y + (size_t)h->first * (size_t)H, h->rows, w->weights + h->first * K, h->T, K, H);
}

static void post(struct worker *w, int mb, int layer) {
    const struct settings *s = w->bench->s;
    struct half *h = &w->half[mb];
    int H = (int)s->hidden, K = (int)s->topk;
    const float *x = w->x + (size_t)h->first * (size_t)H;
    struct mat own = {w->pool + 6 * (size_t)H * (size_t)s->inter * (size_t)slots_of(s), FMT_BF16, OWN * H, H};
    w->backend->ops->linear(w->backend, w->y + (size_t)h->first * (size_t)H * OWN, x, own, NULL, false, h->T);
    h->send = (struct ep_send){h->T, x, w->to + h->first * K, w->slot + h->first * K, w->weights + h->first * K};
    must_go(ep_dispatch_post(w->ep, mb, layer, &h->send, slots_of(s), clk_now_us() + PATIENCE_US), "dispatch");
}

static void serve(struct worker *w, int mb) {
    struct ep_work *k = &w->half[mb].work;
    uint64_t late;
    int n = 0;
    must_go(ep_dispatch_wait(w->ep, mb, k, clk_now_us() + PATIENCE_US, &late), "what was dispatched");
    for (int e = 0; e < k->slots; e++)
        if (k->first[e + 1] > k->first[e])
            w->groups[n++] = (struct ffn_group){&w->experts[e], k->first[e], k->first[e + 1] - k->first[e]};
    w->backend->ops->ffn(w->backend, k->y, k->x, w->groups, n, (int)w->bench->s->hidden);
    must_go(ep_combine_post(w->ep, mb, clk_now_us() + PATIENCE_US), "answers");
}

static void run_step(struct worker *w, uint64_t step, int n) {
    const struct settings *s = w->bench->s;
    int32_t tokens[FABRIC_MAX_RANKS];
    int T = (int)s->tokens, half = n > 1 ? T - T / 2 : T;
    for (int r = 0; r < s->workers; r++) tokens[r] = T;
    w->half[0].first = 0, w->half[0].T = half;
    w->half[1].first = half, w->half[1].T = T - half;
    ep_step_begin(w->ep, 1, step, tokens, n);
    for (int layer = 0; layer <= s->layers; layer++) {
        for (int mb = 0; mb < n; mb++) {
            if (layer) finish(w, mb);
            if (layer < s->layers) post(w, mb, layer);
        }
        for (int mb = 0; mb < n && layer < s->layers; mb++) serve(w, mb);
    }
}

/* ---- the steps of a form ---- */

static int microbatches_for(struct bench *b, int i) {
    if (b->form == AUTO) return overlap_choose(&b->overlap, (int)b->s->tokens, (int)b->s->workers);
    return i % 2 ? HALVED : WHOLE;
}

/* Worker 0, after everyone's step. learnt: AUTO has seen enough. */
static void note_step(struct bench *b, const struct worker *all, bool learnt) {
    int64_t taken_us = 0;
    uint64_t task_us = 0;
    for (int r = 0; r < b->s->workers; r++) {
        if (b->step_us[r] > taken_us) taken_us = b->step_us[r];
        if (b->form == AUTO) overlap_learn(&b->overlap, (int)b->s->tokens, b->microbatches, b->step_us[r], b->wait_us[r]);
        if (b->microbatches == WHOLE) b->waited += (double)b->wait_us[r] / (double)b->step_us[r];
        if (all[r].tasks.longest_us > task_us) task_us = all[r].tasks.longest_us;
        b->tasks += all[r].tasks.n;
        b->tasks_long += all[r].tasks.over;
    }
    b->whole += b->microbatches == WHOLE;
    if (!b->task_us || task_us < b->task_us) b->task_us = task_us;
    if (b->form == AUTO && !learnt) return;
    if (b->form == AUTO) b->chosen[b->microbatches]++;
    double *best_us = &b->best_us[b->form][b->microbatches];
    if (!*best_us || (double)taken_us < *best_us) *best_us = (double)taken_us;
}

static uint64_t longest_wait(const struct worker *w) {
    uint64_t us = 0;
    for (int r = 0; r < w->bench->s->workers; r++)
        if (ep_counters(w->ep)->wait_us[r] > us) us = ep_counters(w->ep)->wait_us[r];
    return us;
}

static void *run(void *arg) {
    struct worker *w = arg, *all = w - w->rank;
    struct bench *b = w->bench;
    if (open_worker(w) < 0) die("worker %d: %s", w->rank, w->why.text);
    uint64_t step = 0;
    for (int form = WHOLE; form <= AUTO; form += AUTO - WHOLE) { /* one and two by turns; then auto */
        if (w->rank == 0) b->form = (enum form)form;
        for (int i = 0; i < 2 * b->s->steps; i++) {
            if (w->rank == 0) b->microbatches = microbatches_for(b, i);
            pthread_barrier_wait(&b->gate);
            uint64_t waited_us = longest_wait(w);
            w->backend->tasks = (struct backend_tasks){0};
            int64_t start_us = clk_now_us();
            run_step(w, ++step, b->microbatches);
            b->step_us[w->rank] = clk_now_us() - start_us;
            b->wait_us[w->rank] = (int64_t)(longest_wait(w) - waited_us);
            w->tasks = w->backend->tasks;
            pthread_barrier_wait(&b->gate);
            if (w->rank == 0) note_step(b, all, i >= b->s->steps);
        }
    }
    close_worker(w);
    return NULL;
}

/* Runs all forms over one wire, prints a line, adds to the JSON. */
static void bench_wire(const struct settings *s, const struct wire *wire, char *json, size_t cap) {
    static struct bench b;
    struct worker *w = calloc((size_t)s->workers, sizeof *w);
    struct why why;
    b = (struct bench){.s = s};
    if (!w || wire_net_new((int)s->workers, wire->latency_us, wire->megabytes, &b.net, &why) < 0) die("no memory for wires");
    pthread_barrier_init(&b.gate, NULL, (unsigned)s->workers);
    for (int r = 0; r < s->workers; r++) {
        w[r].bench = &b;
        w[r].rank = r;
        if (pthread_create(&w[r].thread, NULL, run, &w[r])) die("cannot start a thread");
    }
    for (int r = 0; r < s->workers; r++) pthread_join(w[r].thread, NULL);
    pthread_barrier_destroy(&b.gate);
    wire_net_free(b.net);
    free(w);
    const enum form most = b.chosen[HALVED] > b.chosen[WHOLE] ? HALVED : WHOLE;
    double layers = (double)s->layers, one = b.best_us[WHOLE][WHOLE] / layers, two = b.best_us[WHOLE][HALVED] / layers,
           learnt = b.best_us[AUTO][most] / layers, halved = 100.0 * b.chosen[HALVED] / (double)s->steps,
           waited = 100 * b.waited / ((double)s->workers * b.whole),
           over = b.tasks ? 100 * (double)b.tasks_long / (double)b.tasks : 0;
    printf("%-12s %9.0f %9.0f %8.2f %9.0f %8.2f  %3.0f %% %7.0f %% %7llu %8.3f %%\n", wire->name, one, two, one / two, learnt,
           one / learnt, halved, waited, (unsigned long long)b.task_us, over);
    fflush(stdout);
    size_t used = strlen(json);
    snprintf(json + used, cap - used,
             "%s{\"wire\":\"%s\",\"one_us\":%.0f,\"two_us\":%.0f,\"gain\":%.3f,\"auto_us\":%.0f,\"auto_gain\":%.3f,"
             "\"auto_in_two_percent\":%.0f,\"task_us\":%llu,\"tasks_long_percent\":%.4f}",
             used ? "," : "", wire->name, one, two, one / two, learnt, one / learnt, halved, (unsigned long long)b.task_us,
             over);
}

static const struct conf_option options[] = {
    {"workers", CONF_INT, offsetof(struct settings, workers), "2", 2, 16, NULL, "R", "threads that are workers"},
    {"tokens", CONF_INT, offsetof(struct settings, tokens), "64", 2, 4096, NULL, "T", "rows of a step on each"},
    {"hidden", CONF_INT, offsetof(struct settings, hidden), "512", 64, 8192, NULL, "H", "elements of a row"},
    {"inter", CONF_INT, offsetof(struct settings, inter), "256", 16, 8192, NULL, "I", "neurons of an expert"},
    {"experts", CONF_INT, offsetof(struct settings, experts), "16", 2, 64, NULL, "E", "experts of a layer, a multiple of R"},
    {"topk", CONF_INT, offsetof(struct settings, topk), "4", 1, 64, NULL, "K", "experts of a token"},
    {"layers", CONF_INT, offsetof(struct settings, layers), "2", 1, 64, NULL, "L", "layers of a step"},
    {"steps", CONF_INT, offsetof(struct settings, steps), "40", 2, 100000, NULL, "N", "steps of each form"},
    {0},
};

int main(int argc, char **argv) {
    static const struct conf_command command = {
        "bench_overlap", "[options]", "Times steps in one and in two microbatches over slow links.", NULL, options, 0, 0};
    static char json[8192];
    struct settings s = {0};
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &s, argc, argv, &args, &why);
    if (rc < 0) die("%s", why.text);
    if (rc > 0) return 0;
    if (s.experts % s.workers || s.topk > s.experts) die("--experts must be a multiple of --workers, and at least --topk");
    printf("%d workers, %d rows each, H %d, %d experts of %d, top %d; microseconds per layer\n", (int)s.workers, (int)s.tokens,
           (int)s.hidden, (int)s.experts, (int)s.inter, (int)s.topk);
    printf("%-12s %9s %9s %8s %9s %8s %6s %9s %7s %10s\n", "wire", "one", "two", "gain", "auto", "gain", "in two", "waited",
           "task", ">200us");
    for (int i = 0; i < WIRES; i++) bench_wire(&s, &wires[i], json, sizeof json);
    printf("{\"bench\":\"overlap\",\"workers\":%d,\"tokens\":%d,\"wires\":[%s]}\n", (int)s.workers, (int)s.tokens, json);
    conf_clear(&command, &s, &args);
    return 0;
}
