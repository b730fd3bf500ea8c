/* bench_fabric.c - time of one layer's exchange without experts: dispatch, combine, both; every worker brings T tokens.
 *
 * Two forms: mem (ranks are threads) and mpi (processes under mpirun, which this program starts itself). Each row stands
 * beside a baseline measured in the same run for the bytes that one rank really sends: mem: the same threads copy them out
 * and in by memcpy, all at once, without waiting for each other; mpi: two MPI_Alltoallv of the mean frame sizes. Local rows
 * and the grouping by slot are in our time, not in the baseline's.
 *
 * usage: bench_fabric [--transport mem|mpi|all] [--ranks 2,4] [--tokens 1,8,64,512] [--hidden 576,2048] [--topk 8]
 * The last line is JSON. */
#include "base/clk.h"
#include "base/conf.h"
#include "base/hash.h"
#include "base/log.h"
#include "fabric/ep.h"
#include "tests/bench/bench_fabric.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXPERTS = 64, MOST_ROUNDS = 400, MOST_ROWS = 128, PATIENCE_US = 20000000 };

struct shape {
    int ranks, tokens, hidden, topk;
};
struct row { /* microseconds, seen by rank 0 */
    char transport[8];
    struct shape shape;
    double dispatch50, dispatch99, combine50, combine99, both50, both99, base50;
    double out_bytes; /* one rank sends per layer, both halves */
};

static int64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double percentile(double *v, int n, int percent) {
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[(n - 1) * percent / 100];
}

/* Fewer rounds for big exchanges: the same on every rank, so no rank has to be told when to stop. */
static int rounds_of(const struct shape *s) {
    double bytes = (double)s->ranks * s->tokens * (s->topk + 1) * s->hidden * 4;
    double rounds = 1e9 / (bytes + 1);
    return rounds < 20 ? 20 : rounds > MOST_ROUNDS ? MOST_ROUNDS : (int)rounds;
}

/* ---- one rank of one shape ---- */

struct bench {
    struct shape shape;
    struct fabric *f;
    float *x;
    int16_t *worker, *slot;
    const float **rows;
    double out_bytes;                                                      /* per round */
    double dispatch[MOST_ROUNDS], combine[MOST_ROUNDS], both[MOST_ROUNDS]; /* us */
};

/* k different experts for each token, spread evenly; experts are contiguous over the ranks. */
static void make_routes(struct bench *b) {
    const struct shape *s = &b->shape;
    for (int t = 0; t < s->tokens; t++) {
        uint64_t taken = 0;
        for (int j = 0; j < s->topk; j++) {
            int e = (int)(hash_u64((uint64_t)(b->f->rank * 4096 + t) * 64 + (uint64_t)j) % EXPERTS);
            while (taken >> e & 1) e = (e + 1) % EXPERTS;
            taken |= UINT64_C(1) << e;
            b->worker[t * s->topk + j] = (int16_t)(e * s->ranks / EXPERTS);
            b->slot[t * s->topk + j] = (int16_t)(e % ((EXPERTS + s->ranks - 1) / s->ranks));
        }
    }
}

static void one_round(struct bench *b, struct ep *ep, int round) {
    int32_t tokens[FABRIC_MAX_RANKS];
    uint64_t late;
    struct ep_work work;
    struct ep_send send = {.tokens = b->shape.tokens, .x = b->x, .worker = b->worker, .slot = b->slot};
    int slots = (EXPERTS + b->shape.ranks - 1) / b->shape.ranks;
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    for (int r = 0; r < b->shape.ranks; r++) tokens[r] = b->shape.tokens;
    ep_step_begin(ep, 1, (uint64_t)(round + MOST_ROUNDS), tokens, 1);
    int64_t start = now_ns();
    int rc = ep_dispatch_post(ep, 0, 0, &send, slots, deadline_us);
    if (rc >= 0) rc = ep_dispatch_wait(ep, 0, &work, deadline_us, &late);
    int64_t half = now_ns();
    if (rc >= 0) rc = ep_combine_post(ep, 0, deadline_us);
    if (rc >= 0) rc = ep_combine_wait(ep, 0, b->rows, deadline_us, &late);
    int64_t end = now_ns();
    if (rc < 0) die("rank %d: %s", b->f->rank, status_text(rc));
    if (round < 0) return;
    b->dispatch[round] = (double)(half - start) / 1e3;
    b->combine[round] = (double)(end - half) / 1e3;
    b->both[round] = (double)(end - start) / 1e3;
}

static struct ep_limits limits_of(const struct shape *s) {
    return (struct ep_limits){.max_tokens = s->tokens, .max_slots = EXPERTS, .hidden = s->hidden, .topk = s->topk};
}

static void run_rounds(struct bench *b) {
    struct ep_limits limits = limits_of(&b->shape);
    size_t pairs = (size_t)(b->shape.tokens * b->shape.topk);
    struct ep *ep;
    struct why why;
    if (ep_new(b->f, &limits, &ep, &why) < 0) die("%s", why.text);
    b->x = calloc((size_t)b->shape.tokens * (size_t)b->shape.hidden, sizeof *b->x);
    b->worker = calloc(pairs, sizeof *b->worker);
    b->slot = calloc(pairs, sizeof *b->slot);
    b->rows = calloc(pairs, sizeof *b->rows);
    if (!b->x || !b->worker || !b->slot || !b->rows) die("out of memory");
    make_routes(b);
    int rounds = rounds_of(&b->shape), warm = rounds / 10 + FABRIC_DEPTH;
    for (int i = -warm; i < rounds; i++) one_round(b, ep, i);
    const struct ep_counters *c = ep_counters(ep);
    b->out_bytes = (double)(c->dispatch_bytes + c->combine_bytes) / (rounds + warm);
    ep_free(ep);
    free(b->x);
    free(b->worker);
    free(b->slot);
    free(b->rows);
}

static void fill_row(struct row *row, struct bench *b, const char *transport, double base_us) {
    int n = rounds_of(&b->shape);
    *row = (struct row){.shape = b->shape, .out_bytes = b->out_bytes, .base50 = base_us};
    snprintf(row->transport, sizeof row->transport, "%s", transport);
    row->dispatch50 = percentile(b->dispatch, n, 50);
    row->dispatch99 = percentile(b->dispatch, n, 99);
    row->combine50 = percentile(b->combine, n, 50);
    row->combine99 = percentile(b->combine, n, 99);
    row->both50 = percentile(b->both, n, 50);
    row->both99 = percentile(b->both, n, 99);
}

/* ---- mem: threads ---- */

struct member {
    pthread_t thread;
    struct bench bench;
    size_t copy_bytes; /* of the baseline */
    double copies[MOST_ROUNDS];
};

static void *member_rounds(void *arg) {
    run_rounds(&((struct member *)arg)->bench);
    return NULL;
}

static void *member_copies(void *arg) {
    struct member *m = arg;
    size_t n = m->copy_bytes;
    char *from = malloc(n + 1), *via = malloc(n + 1), *to = malloc(n + 1);
    if (!from || !via || !to) die("out of memory");
    memset(from, 1, n + 1);
    memset(via, 1, n + 1);
    memset(to, 1, n + 1);
    int rounds = rounds_of(&m->bench.shape);
    for (int i = 0; i < rounds; i++) {
        int64_t start = now_ns();
        memcpy(via, from, n);
        __asm__ volatile("" ::: "memory"); /* both copies happen */
        memcpy(to, via, n);
        __asm__ volatile("" ::: "memory");
        m->copies[i] = (double)(now_ns() - start) / 1e3;
    }
    free(from);
    free(via);
    free(to);
    return NULL;
}

static void on_all(struct member *m, int n, void *(*run)(void *)) {
    for (int i = 0; i < n; i++)
        if (pthread_create(&m[i].thread, NULL, run, &m[i])) die("cannot start a thread");
    for (int i = 0; i < n; i++) pthread_join(m[i].thread, NULL);
}

static void bench_mem(const struct shape *s, struct row *row) {
    struct ep_limits limits = limits_of(s);
    struct fabric_hub *hub;
    struct why why;
    if (fabric_hub_new(s->ranks, NULL, &hub, &why) < 0) die("%s", why.text);
    struct member *m = calloc((size_t)s->ranks, sizeof *m);
    if (!m) die("out of memory");
    for (int r = 0; r < s->ranks; r++) {
        m[r].bench.shape = *s;
        if (fabric_mem_open(hub, r, &m[r].bench.f, &why) < 0 ||
            fabric_prepare(m[r].bench.f, ep_frame_bytes(&limits, s->ranks), (uint32_t)r + 1, &why) < 0)
            die("%s", why.text);
    }
    on_all(m, s->ranks, member_rounds);
    for (int r = 0; r < s->ranks; r++) {
        m[r].copy_bytes = (size_t)m[r].bench.out_bytes;
        fabric_close(m[r].bench.f);
    }
    on_all(m, s->ranks, member_copies);
    fill_row(row, &m[0].bench, "mem", percentile(m[0].copies, rounds_of(s), 50));
    fabric_hub_free(hub);
    free(m);
}

/* ---- lists of shapes ---- */

struct options {
    char *transport, *ranks, *tokens, *hidden;
    int64_t topk;
};

static int parse_list(const char *text, int *out, int most) {
    int n = 0;
    for (char *end; *text; text = *end ? end + 1 : end) {
        long v = strtol(text, &end, 10);
        if (end == text || (*end && *end != ',') || v < 1 || v > 65535 || n == most) die("not a list of numbers: %s", text);
        out[n++] = (int)v;
    }
    return n;
}

static int shapes_of(const struct options *o, int ranks, struct shape *out, int most) {
    int tokens[16], hidden[16], n = 0;
    int n_tokens = parse_list(o->tokens, tokens, 16), n_hidden = parse_list(o->hidden, hidden, 16);
    for (int h = 0; h < n_hidden; h++)
        for (int t = 0; t < n_tokens && n < most; t++) out[n++] = (struct shape){ranks, tokens[t], hidden[h], (int)o->topk};
    return n;
}

/* ---- mpi: this program again, under mpirun; rank 0 writes its rows to the parent as bytes ---- */

static int rank_main(const struct options *o) {
    struct shape shapes[MOST_ROWS];
    struct why why;
    int rank, size;
    if (fabric_mpi_init(&rank, &size, &why) < 0) die("%s", why.text);
    int n = shapes_of(o, size, shapes, MOST_ROWS);
    struct bench *b = calloc(1, sizeof *b);
    if (!b) die("out of memory");
    for (int i = 0; i < n; i++) {
        struct ep_limits limits = limits_of(&shapes[i]);
        struct row row;
        b->shape = shapes[i];
        if (fabric_mpi_open(&b->f, &why) < 0 ||
            fabric_prepare(b->f, ep_frame_bytes(&limits, size), (uint32_t)rank + 1, &why) < 0)
            die("%s", why.text);
        run_rounds(b);
        fabric_close(b->f);
        size_t dispatch = (size_t)shapes[i].tokens * (size_t)shapes[i].hidden * 4, all = (size_t)b->out_bytes;
        size_t peers = (size_t)(size - 1);
        if (dispatch * peers > all) dispatch = all / peers / 2; /* one token does not reach everyone */
        int64_t base_ns = bench_alltoallv_ns(dispatch, rounds_of(&shapes[i]));
        base_ns += bench_alltoallv_ns(all / peers - dispatch, rounds_of(&shapes[i]));
        fill_row(&row, b, "mpi", (double)base_ns / 1e3);
        if (rank == 0 && write(STDOUT_FILENO, &row, sizeof row) != (ssize_t)sizeof row) die("the parent went away");
    }
    free(b);
    fabric_mpi_finalize(true);
    return 0;
}

static void exec_mpirun(const struct options *o, int ranks) {
    char self[4096], np[16], topk[16];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len < 0) die("cannot find this program's file");
    self[len] = 0;
    snprintf(np, sizeof np, "%d", ranks);
    snprintf(topk, sizeof topk, "%d", (int)o->topk);
    execlp("mpirun", "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", np, "--timeout", "300",
           "--mca", "mpi_yield_when_idle", "1", "--mca", "pml", "ob1", "--mca", "btl", "vader,self", "--mca",
           "btl_vader_single_copy_mechanism", "none", "--mca", "pml_ob1_send_pipeline_depth", "64", self, "--tokens", o->tokens,
           "--hidden", o->hidden, "--topk", topk, "rank", (char *)NULL);
    die("cannot run mpirun");
}

static int bench_mpi(const struct options *o, int ranks, struct row *rows, int most) {
    int out[2], n = 0, status;
    fflush(stdout);
    if (pipe(out) < 0) die("no pipe");
    pid_t pid = fork();
    if (pid < 0) die("no process");
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        exec_mpirun(o, ranks);
    }
    close(out[1]);
    FILE *in = fdopen(out[0], "r");
    while (in && n < most && fread(&rows[n], sizeof rows[n], 1, in) == 1) n++;
    if (in) fclose(in);
    if (waitpid(pid, &status, 0) < 0 || status) die("the mpi form ended with %d", status);
    return n;
}

/* ---- report ---- */

static void print_row(const struct row *r) {
    const struct shape *s = &r->shape;
    printf("%-5s %2d %5d %5d | %8.1f %8.1f | %8.1f %8.1f | %8.1f %8.1f | %9.1f | %8.1f %5.2f\n", r->transport, s->ranks,
           s->tokens, s->hidden, r->dispatch50, r->dispatch99, r->combine50, r->combine99, r->both50, r->both99,
           r->out_bytes / 1024, r->base50, r->both50 / r->base50);
    fflush(stdout);
}

static void print_json(const struct row *rows, int n, int topk) {
    printf("{\"bench\":\"fabric\",\"topk\":%d,\"rows\":[", topk);
    for (int i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        printf("%s{\"transport\":\"%s\",\"ranks\":%d,\"tokens\":%d,\"hidden\":%d,\"dispatch_us\":[%.1f,%.1f],\"combine_us\":[%."
               "1f,%.1f],"
               "\"both_us\":[%.1f,%.1f],\"bytes\":%.0f,\"baseline_us\":%.1f,\"ratio\":%.2f}",
               i ? "," : "", r->transport, r->shape.ranks, r->shape.tokens, r->shape.hidden, r->dispatch50, r->dispatch99,
               r->combine50, r->combine99, r->both50, r->both99, r->out_bytes, r->base50, r->both50 / r->base50);
    }
    printf("]}\n");
}

#define AT(field) offsetof(struct options, field)
static const struct conf_option table[] = {
    {"transport", CONF_CHOICE, AT(transport), .def = "all", .choices = "mem|mpi|all", .help = "what carries the frames"},
    {"ranks", CONF_STRING, AT(ranks), .def = "2,4", .arg = "LIST", .help = "numbers of workers"},
    {"tokens", CONF_STRING, AT(tokens), .def = "1,8,64,512", .arg = "LIST", .help = "tokens that each worker brings"},
    {"hidden", CONF_STRING, AT(hidden), .def = "576,2048", .arg = "LIST", .help = "elements of a row"},
    {"topk", CONF_INT, AT(topk), .def = "8", .min = 1, .max = EXPERTS, .arg = "N", .help = "experts per token, of 64"},
    {NULL},
};
static const struct conf_command command = {.name = "bench_fabric",
                                            .usage = "[options]",
                                            .about = "Times one layer's exchange beside the bare movement of the same bytes.",
                                            .options = table,
                                            .max_args = 1};

int main(int argc, char **argv) {
    static struct row rows[MOST_ROWS];
    struct options o = {0};
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &o, argc, argv, &args, &why), ranks[16], n = 0;
    if (rc < 0) die("%s", why.text);
    if (rc > 0) return 0;
    if (args.n) return rank_main(&o);
    printf("%-5s %2s %5s %5s | %17s | %17s | %17s | %9s | %14s\n", "", "R", "T", "H", "dispatch us", "combine us", "both us",
           "KB out", "baseline");
    printf("%-5s %2s %5s %5s | %8s %8s | %8s %8s | %8s %8s | %9s | %8s %5s\n", "", "", "", "", "p50", "p99", "p50", "p99",
           "p50", "p99", "per rank", "p50 us", "ratio");
    int n_ranks = parse_list(o.ranks, ranks, 16);
    for (int i = 0; i < n_ranks; i++) {
        struct shape shapes[MOST_ROWS];
        int n_shapes = shapes_of(&o, ranks[i], shapes, MOST_ROWS - n), first = n;
        if (ranks[i] < 2 || ranks[i] > FABRIC_MAX_RANKS) die("2..%d ranks", FABRIC_MAX_RANKS);
        for (int s = 0; s < n_shapes && strcmp(o.transport, "mpi"); s++, n++) {
            bench_mem(&shapes[s], &rows[n]);
            print_row(&rows[n]);
        }
        if (!strcmp(o.transport, "mem")) continue;
        first = n;
        n += bench_mpi(&o, ranks[i], rows + n, MOST_ROWS - n);
        for (; first < n; first++) print_row(&rows[first]);
    }
    print_json(rows, n, (int)o.topk);
    conf_clear(&command, &o, &args);
    return 0;
}
