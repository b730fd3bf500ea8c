/* bench_solo.c - one model in one process: a prompt is read, 1, 8 and 32 sequences are answered, and how near that is to what
 * the machine can do.
 *
 * The worker's own forward pass (worker/solo.h), without coordinator, exchange or sampling, as compare_llamacpp.py wants it.
 * Tokens are random and differ between sequences and steps, so that experts are hit as traffic hits them. Every product tells
 * which weights it read: a step of decoding is held against the time that the machine needs to read them once, the reading of
 * a prompt against its multiply-adds at the peak of the arithmetic that the format takes; of steps that is the middle one. What
 * is printed are medians over rounds. Two cases are measured once more beside a process that never sleeps: it may cost no more
 * than its share of the cores, which of two cores and two threads is a third.
 *
 * usage: bench_solo MODEL [--weights F] [--kv F] [--threads N] [--isa I] [--rounds N] [--only TEXT] [--check]
 *        bench_solo MODEL [--weights F] --logits IDS      nothing is timed: the logits after these tokens, as JSON
 * Prints a table; the last line is JSON. --check: exit 1 below the floors of q8 and q4, which are for two threads and a model
 * that no cache holds. */
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"
#include "base/conf.h"
#include "base/hash.h"
#include "base/log.h"
#include "tests/bench/ceilings.h"
#include "worker/solo.h"

static const double BESIDE_MARGIN = 0.05; /* part of the fair share that measuring may miss */
enum { BUSY = 1, PROMPT = 512, SHORT = 16, STEPS = 24, CONTEXT = PROMPT + 16, MOST = 32, MOST_ROUNDS = 99 };

struct settings {
    char *weights, *kv, *isa, *only, *logits;
    int64_t threads, rounds;
    bool check;
};

/* ---- what the products read ---- */

struct counts {
    double bytes, macs; /* of weights; output's macs apart, which a prompt needs once */
    double output_macs;
};
static struct counts counts;
static const struct ops *real;
static int vocab;
static const int32_t *given; /* a prompt; NULL: random tokens */

static void count_mat(struct mat m, int rows) {
    if (!m.data || !rows) return;
    counts.bytes += (double)(mat_bytes(m.fmt, m.rows, m.cols) + mat_scale_bytes(m.fmt, m.rows, m.cols, m.block));
    *(m.rows == vocab ? &counts.output_macs : &counts.macs) += (double)m.rows * m.cols * rows;
}

static void counted_linear(struct backend *b, float *y, const float *x, struct mat w, const float *bias, bool add, int T) {
    real->linear(b, y, x, w, bias, add, T);
    count_mat(w, T);
}

static void counted_ffn(struct backend *b, float *y, const float *x, const struct ffn_group *groups, int n, int H) {
    real->ffn(b, y, x, groups, n, H);
    for (int i = 0; i < n; i++) {
        count_mat(groups[i].weights->gate, groups[i].count);
        count_mat(groups[i].weights->up, groups[i].count);
        count_mat(groups[i].weights->down, groups[i].count);
    }
}

static struct ops counted_ops(const struct ops *ops) {
    struct ops t = *ops;
    t.linear = counted_linear;
    t.ffn = counted_ffn;
    return t;
}

/* ---- steps ---- */

/* The next `count` positions of each of `n` sequences from `first` on; logits of the last of each. */
static int64_t step(struct solo *s, int n, int first, int count) {
    static uint64_t drawn;
    struct step_rows *r = &s->forward.rows;
    const int per = s->forward.limits.max_pages;
    r->T = r->n_sampled = 0;
    r->n_seqs = n;
    for (int q = 0; q < n; q++) {
        for (int i = 0; i < per; i++) r->pages[q * per + i] = i * n + q; /* side by side, as sequences that grow together */
        for (int pos = first; pos < first + count; pos++) {
            const int t = r->T++;
            r->ids[t] = given ? given[pos] : (int32_t)(hash_u64(++drawn) % (uint64_t)vocab);
            r->pos[t] = pos;
            r->seq[t] = q;
            r->seq_id[t] = (uint64_t)q + 1;
            r->prompt[t] = count > 1;
            r->kv_at[t] = r->pages[q * per + pos / SOLO_PAGE_TOKENS] * SOLO_PAGE_TOKENS + pos % SOLO_PAGE_TOKENS;
        }
        r->sampled[r->n_sampled++] = r->T - 1;
    }
    static uint64_t number;
    const int64_t from_us = clk_now_us();
    if (s->ep) ep_step_begin(s->ep, 1, ++number, &(int32_t){r->T}, 1);
    split_begin(&s->forward.split, PART_SCHEDULER);
    const int rc = forward_step(&s->forward);
    if (rc < 0) die("the forward pass: %s", status_text(rc));
    split_to(&s->forward.split, PART_SCHEDULER);
    return s->forward.split.since_us - from_us;
}

struct figure {
    const char *name;
    int sequences, tokens;                       /* tokens 0: decoding */
    int floor[2];                                /* percent of the ceiling, of q8 and q4; 0: none */
    double rate[MOST_ROUNDS], part[MOST_ROUNDS]; /* tokens per second; of the ceiling */
    bool disturbed;                              /* measured beside a busy process too: */
    double beside;                               /* the rate then; 0: not measured */
    uint64_t us[PARTS];                          /* of the last round */
};

struct machine {
    double gbs, gflops, gops;
};

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

enum ceiling { READING, FLOATS, INTEGERS };

/* By a process of its own, so that what it reads is not in this one's peak memory. */
static double ceiling_of(enum ceiling which, const char *isa, int threads) {
    int ends[2];
    double value = 0;
    if (pipe(ends) < 0) die("no pipe");
    fflush(stdout);
    const pid_t child = fork();
    if (child < 0) die("cannot fork");
    if (!child) {
        value = which == READING  ? ceiling_read_gbs(threads)
                : which == FLOATS ? ceiling_gflops(isa, threads)
                                  : ceiling_gops(isa, threads);
        _exit(write(ends[1], &value, sizeof value) != sizeof value);
    }
    close(ends[1]);
    if (read(ends[0], &value, sizeof value) != sizeof value) die("the ceiling was not measured");
    close(ends[0]);
    waitpid(child, NULL, 0);
    return value;
}

/* The ceiling of a case is looked for right before it: the machine's other guests change it from one second to the next. */
static void measure(struct solo *s, struct figure *f, int round, struct machine *best) {
    const int threads = s->options.threads, steps = f->tokens ? 1 : STEPS;
    const char *isa = strcmp(s->backend->ops->name, "avx2") ? "avx512" : "avx2";
    const bool integers = fmt_quant(s->options.weights);
    double us[STEPS], all = 0;
    if (!f->tokens) {
        step(s, f->sequences, 0, SHORT);
        step(s, f->sequences, SHORT, 1);
    }
    const double ceiling = ceiling_of(!f->tokens ? READING : integers ? INTEGERS : FLOATS, isa, threads);
    double *most = !f->tokens ? &best->gbs : integers ? &best->gops : &best->gflops;
    *most = fmax(*most, ceiling);
    counts = (struct counts){0};
    memset(s->forward.split.us, 0, sizeof s->forward.split.us);
    for (int i = 0; i < steps; i++) {
        us[i] = (double)(f->tokens ? step(s, 1, 0, f->tokens) : step(s, f->sequences, SHORT + 1 + i, 1));
        all += us[i];
    }
    memcpy(f->us, s->forward.split.us, sizeof f->us);
    f->rate[round] = (f->tokens ? f->tokens : f->sequences * STEPS) * 1e6 / all;
    f->part[round] = (f->tokens ? 2 * counts.macs : counts.bytes) / steps / median(us, steps) / (ceiling * 1e3);
}

static pid_t start_busy(void) {
    const pid_t child = fork();
    if (child < 0) die("cannot fork");
    if (child) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (volatile uint64_t i = 0;; i++) continue;
}

/* Keeps what was measured before but for `beside`. */
static void measure_beside(struct solo *s, struct figure *f, int rounds) {
    static struct figure again;
    struct machine ignored = {0};
    again = *f;
    for (int i = 0; i < rounds; i++) measure(s, &again, i, &ignored);
    f->beside = median(again.rate, rounds);
}

/* ---- what is printed ---- */

static const struct {
    enum part part;
    const char *name;
} alone[] = {/* where one worker's time goes */
             {PART_ATTENTION, "attention"}, {PART_DENSE, "dense"},     {PART_GATE, "gate"},    {PART_DISPATCH, "dispatch"},
             {PART_EXPERTS, "experts"},     {PART_COMBINE, "combine"}, {PART_OUTPUT, "output"}};
enum { ALONE = sizeof alone / sizeof *alone };

/* What of the rate alone is left beside busy processes where every thread that can run gets the same part of the cores. */
static double fair_share(int threads) {
    cpu_set_t set;
    const double cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return fmin(1, cores / (threads + BUSY)) / fmin(1, cores / threads);
}

/* true: nothing is below its floor. */
static bool print(struct figure *figures, int cases, int rounds, const struct machine *m, const struct solo *s) {
    const enum fmt fmt = s->options.weights;
    struct rusage use;
    const double beside = fair_share(s->options.threads) * (1 - BESIDE_MARGIN);
    bool good = true;
    getrusage(RUSAGE_SELF, &use);
    printf("at best reads %.1f GB/s, %.0f GFLOP/s in f32, %.0f GOP/s in int8\n\n", m->gbs, m->gflops, m->gops);
    printf("%-12s %10s %9s %18s", "", "tokens/s", "ms", "of the ceiling");
    for (int p = 0; p < ALONE; p++) printf(" %11s", alone[p].name);
    printf("\n");
    char json[4096] = "";
    for (int i = 0; i < cases; i++) {
        struct figure *f = &figures[i];
        const double rate = median(f->rate, rounds), part = median(f->part, rounds);
        const double ms = (f->tokens ? f->tokens : f->sequences) * 1e3 / rate;
        const int floor = fmt_quant(fmt) ? f->floor[fmt == FMT_Q4] : 0;
        uint64_t all = 0;
        for (int p = 0; p < PARTS; p++) all += f->us[p];
        good = good && 100 * part >= floor;
        printf("%-12s %10.1f %9.1f %6.1f %% of %-8s", f->name, rate, ms, 100 * part, f->tokens ? "products" : "reading");
        size_t used = strlen(json);
        snprintf(json + used, sizeof json - used, "%s\"%s\":{\"tokens_per_s\":%.2f,\"ms\":%.2f,\"of_ceiling\":%.4f,\"split\":{",
                 i ? "," : "", f->name, rate, ms, part);
        for (int p = 0; p < ALONE; p++) {
            const double share = (double)f->us[alone[p].part] / (double)all;
            printf(" %9.1f %%", 100 * share);
            used = strlen(json);
            snprintf(json + used, sizeof json - used, "%s\"%s\":%.4f", p ? "," : "", alone[p].name, share);
        }
        printf("%s\n", 100 * part < floor ? "  BELOW FLOOR" : "");
        used = strlen(json);
        snprintf(json + used, sizeof json - used, "}}");
    }
    for (int i = 0; i < cases; i++) {
        struct figure *f = &figures[i];
        const double kept = f->beside / median(f->rate, rounds);
        if (!f->beside) continue;
        good = good && kept >= beside;
        printf("%s%s beside a busy process: %.1f tokens/s, %.1f %% (floor %.1f %%)%s", i ? "\n" : "\n\n", f->name, f->beside,
               100 * kept, 100 * beside, kept < beside ? "  BELOW FLOOR" : "");
        const size_t used = strlen(json);
        snprintf(json + used, sizeof json - used, ",\"%s_beside\":%.4f", f->name, kept);
    }
    printf("\npeak memory %.0f MiB, of it weights %.0f MiB (mapped %.0f)\n", (double)use.ru_maxrss / 1024,
           (double)(s->weights.bytes + s->store.bytes) / (1 << 20),
           (double)(s->weights.mapped_bytes + s->store.mapped) / (1 << 20));
    printf("{\"weights\":\"%s\",\"kv\":\"%s\",\"kernels\":\"%s\",\"threads\":%d,\"beside_floor\":%.4f,"
           "\"peak_mib\":%.1f,\"read_gbs\":%.2f,\"gflops\":%.1f,\"gops\":%.1f,%s}\n",
           fmt_name(s->options.weights), fmt_name(s->kv.layer[0].fmt), s->backend->ops->name, s->options.threads,
           beside, (double)use.ru_maxrss / 1024, m->gbs, m->gflops, m->gops, json);
    return good;
}

static const struct conf_option options[] = {
    {"weights", CONF_STRING, offsetof(struct settings, weights), .def = "auto", .arg = "F", .help = "as of `cadre serve`"},
    {"kv", CONF_STRING, offsetof(struct settings, kv), .def = "auto", .arg = "F", .help = "as of `cadre serve`"},
    {"isa", CONF_CHOICE, offsetof(struct settings, isa), .def = "auto", .choices = "auto|avx2|avx512", .help = "kernels"},
    {"threads", CONF_INT, offsetof(struct settings, threads), .def = "2", .min = 1, .max = 64, .arg = "N",
     .help = "compute threads"},
    {"rounds", CONF_INT, offsetof(struct settings, rounds), .def = "3", .min = 1, .max = MOST_ROUNDS, .arg = "N",
     .help = "of all cases; medians are printed"},
    {"only", CONF_STRING, offsetof(struct settings, only), .arg = "TEXT", .help = "only cases whose name contains TEXT"},
    {"logits", CONF_STRING, offsetof(struct settings, logits), .arg = "IDS",
     .help = "time nothing; print the logits after these tokens, numbers with commas between them"},
    {"check", CONF_FLAG, offsetof(struct settings, check), .def = "no", .help = "exit 1 below the floors"},
    {NULL}};
static const struct conf_command command = {.name = "bench_solo",
                                            .usage = "MODEL [options]",
                                            .about = "Times a model in one process, against what the machine can do.",
                                            .options = options,
                                            .min_args = 1,
                                            .max_args = 1};

static void load(struct solo *s, const char *dir, const struct settings *set) {
    struct solo_options o = {
        .isa = set->isa, .threads = (int)set->threads, .max_rows = PROMPT, .context = CONTEXT, .sequences = MOST};
    struct why why;
    int rc = solo_open(s, dir, &o, &why), kv = fmt_parse_kv(set->kv);
    if (rc >= 0) rc = checkpoint_weights(&s->checkpoint, set->weights, &s->options.weights, &why);
    if (rc >= 0 && kv < 0) die("--kv %s: unknown", set->kv);
    if (rc >= 0) rc = solo_load(s, &why);
    if (rc >= 0) rc = solo_ready(s, model_kv_format(&s->checkpoint.config, (enum fmt)kv, s->options.weights), &why);
    if (rc < 0) die("%s", why.text);
}

static void print_logits(struct solo *s, const char *text) {
    int32_t ids[PROMPT];
    int n = 0;
    for (char *end; n < PROMPT; text = end + 1) {
        const long id = strtol(text, &end, 10);
        if (end == text || (*end && *end != ',') || id < 0 || id >= vocab)
            die("--logits: no token of this model at '%s'", text);
        ids[n++] = (int32_t)id;
        if (!*end) break;
    }
    if (n == PROMPT) die("--logits: fewer than %d tokens are wanted", PROMPT);
    given = ids;
    step(s, 1, 0, n);
    given = NULL;
    for (int i = 0; i < vocab; i++) printf("%s%.6g", i ? ", " : "[", (double)s->forward.logits[i]);
    printf("]\n");
}

int main(int argc, char **argv) {
    static struct solo s;
    static struct figure figures[] = {{"prefill_512", 1, PROMPT, {25, 25}, .disturbed = true},
                                      {"first_16", 1, SHORT, {0, 0}},
                                      {"decode_1", 1, 0, {75, 65}},
                                      {"decode_8", 8, 0, {70, 0}, .disturbed = true},
                                      {"decode_32", MOST, 0, {60, 55}}};
    struct settings set = {0};
    int n = 0;
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &set, argc, argv, &args, &why);
    if (rc < 0) die("%s", why.text);
    if (rc) return 0;
    log_set_level(LOG_WARN);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        if (!set.only || strstr(figures[i].name, set.only)) figures[n++] = figures[i];
    if (!n) die("no case has '%s' in its name", set.only);
    load(&s, args.items[0], &set);
    vocab = s.checkpoint.config.vocab;
    if (set.logits) {
        print_logits(&s, set.logits);
        solo_close(&s);
        conf_clear(&command, &set, &args);
        return 0;
    }
    struct machine best = {0};
    real = s.backend->ops;
    const struct ops counted = counted_ops(real);
    s.backend->ops = &counted;
    step(&s, 1, 0, PROMPT); /* pages of weights and buffers are touched once */
    for (int round = 0; round < set.rounds; round++) {
        for (int i = 0; i < n; i++) measure(&s, &figures[i], round, &best);
    }
    const pid_t busy = start_busy();
    for (int i = 0; i < n; i++)
        if (figures[i].disturbed) measure_beside(&s, &figures[i], (int)set.rounds);
    kill(busy, SIGKILL);
    waitpid(busy, NULL, 0);
    const bool good = print(figures, n, (int)set.rounds, &best, &s);
    s.backend->ops = real;
    solo_close(&s);
    const bool failed = set.check && !good;
    conf_clear(&command, &set, &args);
    return failed;
}
