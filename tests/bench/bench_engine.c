/* bench_engine.c - tokens per second of a whole cluster through its front door: coordinator, workers, ZeroMQ client.
 *
 * For each form of the cluster it starts `cadre serve`, decodes with one request and with several at once (random prompts that
 * differ, so that different experts fire), and prints what that is of the machine's ceiling: the rate at which as many threads
 * read this machine's memory, measured in the same run, over the bytes that a token must read. The baseline is one worker with
 * the threads of all the cluster's workers, or with the cores where those are fewer, since more would slow it down; the ratio
 * tells what spreading the experts costs on this machine.
 *
 * With --prefill both also read prompts of 512 tokens, as many at once as the cluster has workers, in steps of as many rows;
 * then the model's context must be longer than that.
 *
 * usage: bench_engine CADRE_BINARY MODEL_DIR [--check] [--prefill] [--fabric NAME] [--workers N] [--threads N]
 *                     [--concurrent N] [--tokens N]
 * --threads is per worker, as of `cadre serve`, and by default what that takes: the cores divided by the workers.
 * The last line is JSON. --check exits 1 below 25 tok/s for one request and 140 for sixteen. */
#include "base/clk.h"
#include "base/log.h"
#include "client/cadre.h"
#include "model/checkpoint.h"
#include "tests/bench/ceilings.h"
#include "worker/weights.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const double FLOOR_ONE = 25, FLOOR_MANY = 140;
enum { PROMPT_TOKENS = 32, LONG_PROMPT = 512, MOST_CONCURRENT = 256, START_SECONDS = 120 };

struct settings {
    const char *cadre, *model, *fabric;
    int workers, threads, concurrent, tokens, cpus, vocab; /* threads: of one worker */
    bool check, prefill;
};
static const char *const share_names[] = {"attention", "dense",  "gate",      "dispatch", "experts",
                                          "combine",   "wait",   "output", "scheduler"};
enum { SHARES = sizeof share_names / sizeof *share_names };

struct form { /* of a cluster, and what was measured with it */
    const char *name, *fabric;
    int workers, threads;
    double one, many, first_token_ms, prefill;
    double part[SHARES]; /* of the time of the many, as share_names say; mean over workers */
};

/* --- the ceiling --- */

/* Bytes of each weight of an expert, its scales among them: the matrices of all experts are held alike. */
static double expert_weight_bytes(const struct checkpoint *c, enum fmt wish) {
    struct tensor_want w;
    int layer = 0;
    while (layer < c->config.layers && c->config.moe_index[layer] < 0) layer++;
    if (layer == c->config.layers || !model_tensor(&c->config, T_EXPERT_DOWN, layer, 0, &w)) return 0; /* a dense model */
    const enum fmt fmt = checkpoint_format(c, T_EXPERT_DOWN, layer, 0, wish);
    return (double)mat_held_bytes(fmt, w.rows, w.cols, c->config.quant_block) / ((double)w.rows * w.cols);
}

/* Bytes that one token alone must read: every active weight once, as it is held. Of an embedding that does not make the logits
 * too it reads a row. */
static double bytes_per_token(const char *model, int *vocab) {
    struct checkpoint c;
    struct model_sizes sizes;
    struct tensor_want embed;
    enum fmt fmt;
    struct why why;
    if (checkpoint_open(model, &c, &why) < 0 || checkpoint_weights(&c, "auto", &fmt, &why) < 0) die("%s", why.text);
    model_sizes(&c.config, &sizes);
    double resident = (double)sizes.resident_params, bytes = (double)weights_bytes(&c, fmt);
    if (!c.config.tied_embeddings && model_tensor(&c.config, T_EMBED, 0, 0, &embed)) {
        resident -= (double)embed.rows * embed.cols;
        bytes -= (double)mat_held_bytes(checkpoint_held(&c, T_EMBED, 0, fmt), embed.rows, embed.cols, c.config.quant_block);
    }
    bytes += ((double)sizes.params_active - resident) * expert_weight_bytes(&c, fmt);
    *vocab = c.config.vocab;
    checkpoint_close(&c);
    return bytes;
}

/* --- a cluster --- */

static pid_t start(const struct settings *s, const struct form *f, const char *listen) {
    char workers[16], threads[16];
    snprintf(workers, sizeof workers, "%d", f->workers);
    snprintf(threads, sizeof threads, "%d", f->threads);
    fflush(stdout); /* or the child would print it again */
    pid_t pid = fork();
    if (pid < 0) die("cannot fork: %s", strerror(errno));
    if (pid) return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* no cluster outlives a benchmark that dies */
    if (!freopen("/dev/null", "w", stdout)) _exit(127);
    execl(s->cadre, s->cadre, "serve", s->model, "--workers", workers, "--threads", threads, "--fabric", f->fabric, "--listen",
          listen, "--log-level", "warn", s->prefill ? "--step-tokens" : NULL, "512", (char *)NULL);
    fprintf(stderr, "cannot run %s: %s\n", s->cadre, strerror(errno));
    _exit(127);
}

static void wait_until_serving(struct cadre_client *client, pid_t pid) {
    for (int64_t until = clk_now_us() + START_SECONDS * (int64_t)1000000; clk_now_us() < until;) {
        struct cadre_cluster *c;
        bool serving = false;
        if (waitpid(pid, NULL, WNOHANG) == pid) die("cadre serve ended before it was serving");
        if (cadre_status(client, 500, &c) == CADRE_OK) {
            serving = !strcmp(c->state, "serving");
            cadre_cluster_free(c);
        }
        if (serving) return;
    }
    die("not serving after %d s", START_SECONDS);
}

struct asked { /* requests of one kind */
    int prompt, tokens, vocab;
};

static struct cadre_stream *begin(struct cadre_client *client, const struct asked *l, uint32_t seed) {
    int32_t ids[LONG_PROMPT];
    const uint32_t from = 1000, ordinary = (uint32_t)l->vocab - from; /* the first ones may be special */
    for (int i = 0; i < l->prompt; i++) ids[i] = (int32_t)(from + ((seed = seed * 1664525u + 1013904223u) >> 8) % ordinary);
    struct cadre_request r = {
        .ids = ids, .n_ids = (size_t)l->prompt, .max_tokens = (uint32_t)l->tokens, .has_max_tokens = 1, .ignore_eos = 1};
    struct cadre_stream *stream;
    if (cadre_generate(client, &r, &stream)) die("%s", cadre_error(client));
    return stream;
}

/* n requests at once; decode speed counts from the moment the last stream has its first token, which is *first_ms after they
 * were sent; *ttft_ms: the mean. */
static double measure(struct cadre_client *client, int n, const struct asked *l, uint32_t seed, double *ttft_ms,
                      double *first_ms) {
    struct cadre_stream *streams[MOST_CONCURRENT], *ready;
    int64_t sent_us = clk_now_us(), all_started_us = 0, end_us = 0;
    int started = 0, ended = 0, counted = 0;
    *ttft_ms = 0;
    for (int i = 0; i < n; i++) streams[i] = begin(client, l, seed + (uint32_t)i * 7919u);
    while (ended < n) {
        struct cadre_event e;
        if (cadre_wait(client, 60000, &ready) || cadre_next(ready, 0, &e)) die("nothing came for a minute");
        if (e.kind == CADRE_END && e.status != CADRE_OK) die("%s", e.message);
        ended += e.kind == CADRE_END;
        if (e.kind != CADRE_TOKENS) continue;
        end_us = clk_now_us();
        if (all_started_us) counted += (int)e.n_tokens;
        if (e.first == 0) {
            *ttft_ms += (double)(end_us - sent_us) / 1e3 / n;
            if (++started == n) all_started_us = end_us;
        }
    }
    for (int i = 0; i < n; i++) cadre_stream_close(streams[i]);
    *first_ms = (double)(all_started_us - sent_us) / 1e3;
    return counted / ((double)(end_us - all_started_us) / 1e6);
}

/* Sums over workers. */
static void work_so_far(struct cadre_client *client, double us[SHARES]) {
    struct cadre_cluster *c;
    if (cadre_status(client, 5000, &c)) die("%s", cadre_error(client));
    memset(us, 0, sizeof *us * SHARES);
    for (size_t w = 0; w < c->n_workers; w++) {
        const struct cadre_time *t = &c->workers[w].time;
        const uint64_t of[SHARES] = {t->attention, t->dense, t->gate,   t->dispatch, t->experts,
                                     t->combine,   t->wait,  t->output, t->scheduler};
        for (int p = 0; p < SHARES; p++) us[p] += (double)of[p];
    }
    cadre_cluster_free(c);
}

static void measure_many(const struct settings *s, struct cadre_client *client, struct form *f, const struct asked *l) {
    double before[SHARES], after[SHARES], all = 0, ignored;
    work_so_far(client, before);
    f->many = measure(client, s->concurrent, l, 3, &ignored, &ignored);
    work_so_far(client, after);
    for (int p = 0; p < SHARES; p++) all += after[p] - before[p];
    for (int p = 0; p < SHARES; p++) f->part[p] = (after[p] - before[p]) / all;
}

static void run_form(const struct settings *s, struct form *f) {
    const struct asked brief = {PROMPT_TOKENS, 8, s->vocab}, usual = {PROMPT_TOKENS, s->tokens, s->vocab},
                      prompts = {LONG_PROMPT, 1, s->vocab};
    char listen[64];
    snprintf(listen, sizeof listen, "tcp://127.0.0.1:%d", 20000 + (int)(getpid() % 20000));
    pid_t pid = start(s, f, listen);
    struct cadre_client *client;
    double ignored, first_ms;
    if (cadre_open(listen, NULL, &client)) die("%s", cadre_error(client));
    wait_until_serving(client, pid);
    measure(client, 2, &brief, 1, &ignored, &ignored); /* first touch of pages and caches */
    f->one = measure(client, 1, &usual, 2, &f->first_token_ms, &ignored);
    measure_many(s, client, f, &usual);
    for (int i = 0; s->prefill && i < 2; i++) { /* the first of that size touches what it needs */
        measure(client, s->workers, &prompts, 4 + (uint32_t)i, &ignored, &first_ms);
        f->prefill = s->workers * LONG_PROMPT * 1e3 / first_ms;
    }
    cadre_close(client);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
}

static int parse(int argc, char **argv, struct settings *s) {
    if (argc < 3) return -1;
    const char *threads = NULL;
    *s = (struct settings){.cadre = argv[1], .model = argv[2], .fabric = "mpi", .workers = 4, .concurrent = 16, .tokens = 64};
    for (int i = 3; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--check")) s->check = true;
        else if (!strcmp(argv[i], "--prefill")) s->prefill = true;
        else if (!value) return -1;
        else if (!strcmp(argv[i], "--fabric")) s->fabric = argv[++i];
        else if (!strcmp(argv[i], "--workers")) s->workers = (int)strtol(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--threads")) threads = argv[++i];
        else if (!strcmp(argv[i], "--concurrent")) s->concurrent = (int)strtol(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--tokens")) s->tokens = (int)strtol(argv[++i], NULL, 10);
        else return -1;
    }
    cpu_set_t set; /* what `cadre serve` counts */
    s->cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    s->threads = threads ? (int)strtol(threads, NULL, 10) : s->workers > 0 && s->cpus > s->workers ? s->cpus / s->workers : 1;
    return s->workers < 1 || s->threads < 1 || s->concurrent < 1 || s->concurrent > MOST_CONCURRENT || s->tokens < 2 ? -1 : 0;
}

int main(int argc, char **argv) {
    struct settings s;
    if (parse(argc, argv, &s) < 0) {
        fprintf(stderr, "usage: bench_engine CADRE_BINARY MODEL_DIR [--check] [--prefill] [--fabric NAME] [--workers N] "
                        "[--threads N] [--concurrent N] [--tokens N]\n");
        return 2;
    }
    const int all = s.workers * s.threads < s.cpus ? s.workers * s.threads : s.cpus;
    struct form forms[] = {
        {.name = "baseline", .fabric = "mem", .workers = 1, .threads = all},
        {.name = "cluster", .fabric = s.fabric, .workers = s.workers, .threads = s.threads}};
    double gbs = ceiling_read_gbs(all), bytes = bytes_per_token(s.model, &s.vocab), limit = gbs * 1e9 / bytes;
    printf(
        "%s: %.0f MB read per token alone; this machine reads %.1f GB/s on %d threads: at most %.0f tok/s for one request\n\n",
        s.model, bytes / 1e6, gbs, all, limit);
    printf("%-10s %-7s %7s %7s | %10s %9s %9s | %10s\n", "form", "fabric", "workers", "threads", "1: tok/s", "of limit",
           "TTFT ms", "many tok/s");
    for (int i = 0; i < 2; i++) {
        run_form(&s, &forms[i]);
        printf("%-10s %-7s %7d %7d | %10.1f %8.0f%% %9.1f | %10.1f\n", forms[i].name, forms[i].fabric, forms[i].workers,
               forms[i].threads, forms[i].one, 100 * forms[i].one / limit, forms[i].first_token_ms, forms[i].many);
        fflush(stdout);
    }
    printf("\n%-10s", "time");
    for (int p = 0; p < SHARES; p++) printf(" %9s", share_names[p]);
    for (int i = 0; i < 2; i++) {
        printf("\n%-10s", forms[i].name);
        for (int p = 0; p < SHARES; p++) printf(" %7.1f %%", 100 * forms[i].part[p]);
    }
    printf("\n");
    bool ok = forms[1].one >= FLOOR_ONE && forms[1].many >= FLOOR_MANY;
    printf("\n%d at once. cluster / baseline: one %.2f, many %.2f. Floors: one %.0f, many %.0f: %s\n", s.concurrent,
           forms[1].one / forms[0].one, forms[1].many / forms[0].many, FLOOR_ONE, FLOOR_MANY, ok ? "met" : "missed");
    printf("{\"bench\": \"engine\", \"workers\": %d, \"threads\": %d, \"baseline_threads\": %d, \"fabric\": \"%s\", "
           "\"concurrent\": %d, \"read_gbs\": %.2f, "
           "\"limit_one\": %.1f, \"one\": %.2f, "
           "\"many\": %.2f, \"prefill\": %.1f, \"ratio_prefill\": %.3f, \"ttft_ms\": %.2f, "
           "\"baseline_one\": %.2f, \"baseline_many\": %.2f, \"ratio_one\": %.3f, "
           "\"ratio_many\": %.3f, "
           "\"fraction_of_limit\": %.3f, \"baseline_fraction_of_limit\": %.3f",
           s.workers, s.threads, all, s.fabric, s.concurrent, gbs, limit, forms[1].one, forms[1].many,
           forms[1].prefill, s.prefill ? forms[1].prefill / forms[0].prefill : 0, forms[1].first_token_ms, forms[0].one,
           forms[0].many, forms[1].one / forms[0].one, forms[1].many / forms[0].many, forms[1].one / limit,
           forms[0].one / limit);
    for (int i = 0; i < 2; i++) {
        printf(", \"%stime\": {", i ? "" : "baseline_");
        for (int p = 0; p < SHARES; p++) printf("%s\"%s\": %.4f", p ? ", " : "", share_names[p], forms[i].part[p]);
        printf("}");
    }
    printf("}\n");
    return s.check && !ok;
}
