/* bench_fabric.c - time of one layer's exchange without experts: dispatch, combine, both; every worker brings T tokens.
 *
 * Each row stands beside a baseline measured in the same run, in turns with it, for the rows that are really sent: each half's
 * rows are gathered into one buffer per peer, moved as the transport's own means move them at best, and read once. mem and
 * shm: copied out to and in from memory that both see, by the ranks themselves, through the caches or past them; ucx: one
 * active message per peer; mpi: MPI_Alltoallv or MPI_Ialltoallv. Of two ways the faster counts. The baseline's own distance
 * from plain copies of the same bytes is printed too. Local rows, and the grouping by slot with a row of its own for each
 * (token, k), are in our time alone.
 *
 * mem: ranks are threads; mpi: this program starts itself again under mpirun; the others: forked processes.
 * The last line is JSON. --check: exit 1 when a floor of docs/BENCHMARKS.md is missed, or its rows were not measured. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf.h"
#include "base/log.h"
#include "tests/bench/bench_fabric.h"

enum { MOST_ROWS = 256, MOST_LIST = 16, TRIES = 2 /* beyond the first, before a floor counts as missed */ };

struct options {
    char *transport, *ranks, *tokens, *hidden;
    int64_t topk;
    bool check;
};

static int parse_list(const char *text, int *out, int most) {
    int n = 0;
    for (char *end; *text; text = *end ? end + 1 : end) {
        long v = strtol(text, &end, 10);
        if (end == text || (*end && *end != ',') || v < 1 || v > 65535 || n == MOST_LIST)
            die("not a list of numbers: %s", text);
        if (v > most) die("%ld: at most %d", v, most);
        out[n++] = (int)v;
    }
    return n;
}

/* For the floors on more ranks than cores, two ranks' work is also done by more of them, each with its part. */
static int shapes_of(const struct options *o, int ranks, struct shape *out, int most) {
    int tokens[2 * MOST_LIST], hidden[MOST_LIST], n = 0;
    int n_tokens = parse_list(o->tokens, tokens, 4096), n_hidden = parse_list(o->hidden, hidden, 65535), given = n_tokens;
    for (int i = 0; o->check && ranks > 2 && i < given; i++) {
        int part = tokens[i] * 2 / ranks, seen = part < 1;
        for (int j = 0; j < n_tokens; j++) seen |= tokens[j] == part;
        if (!seen) tokens[n_tokens++] = part;
    }
    for (int h = 0; h < n_hidden; h++)
        for (int t = 0; t < n_tokens && n < most; t++) out[n++] = (struct shape){ranks, tokens[t], hidden[h], (int)o->topk};
    return n;
}

static bool is_asked(const char *asked, const char *transport) {
    if (!strcmp(asked, transport)) return true; /* also where the build lacks it: that is refused, in words */
    if (strcmp(asked, "all") != 0 || !strcmp(transport, "auto")) return false; /* on one host auto is shm */
    return (bare_has_mpi || strcmp(transport, "mpi") != 0) && (bare_has_ucx || strcmp(transport, "ucx") != 0);
}

/* ---- report ---- */

static void print_head(void) {
    printf("%-13s %2s %5s %5s | %17s | %17s | %17s | %9s | %20s\n", "", "R", "T", "H", "dispatch us", "combine us", "both us",
           "KiB out", "baseline");
    printf("%-13s %2s %5s %5s | %8s %8s | %8s %8s | %8s %8s | %9s | %8s %5s %5s\n", "", "", "", "", "p50", "p99", "p50", "p99",
           "p50", "p99", "per rank", "p50 us", "copy", "ratio");
}

static void print_row(const struct row *r) {
    const struct shape *s = &r->shape;
    printf("%-13s %2d %5d %5d | %8.1f %8.1f | %8.1f %8.1f | %8.1f %8.1f | %9.1f | %8.1f %4.0f%% %5.2f\n", r->transport,
           s->ranks, s->tokens, s->hidden, r->dispatch50, r->dispatch99, r->combine50, r->combine99, r->both50, r->both99,
           r->out_bytes / 1024, r->base50, 100 * r->of_ceiling, r->both50 / r->base50);
    fflush(stdout);
}

static void print_json(const struct row *rows, int n, int topk, int failed) {
    printf("{\"bench\":\"fabric\",\"topk\":%d,\"failed\":%d,\"rows\":[", topk, failed);
    for (int i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        printf("%s{\"transport\":\"%s\",\"ranks\":%d,\"tokens\":%d,\"hidden\":%d,", i ? "," : "", r->transport, r->shape.ranks,
               r->shape.tokens, r->shape.hidden);
        printf("\"dispatch_us\":[%.1f,%.1f],\"combine_us\":[%.1f,%.1f],\"both_us\":[%.1f,%.1f],\"bytes\":%.0f,", r->dispatch50,
               r->dispatch99, r->combine50, r->combine99, r->both50, r->both99, r->out_bytes);
        printf("\"baseline_us\":%.1f,\"baseline_of_copies\":%.2f,\"ratio\":%.2f}", r->base50, r->of_ceiling,
               r->both50 / r->base50);
    }
    printf("]}\n");
}

/* ---- measuring ---- */

static int measure_all(const struct options *o, int ranks, const char *transport, struct row *rows, int most) {
    struct shape shapes[MOST_ROWS];
    char topk[16];
    int n = 0;
    if (!is_asked(o->transport, transport)) return 0;
    if (!strcmp(transport, "mpi")) {
        snprintf(topk, sizeof topk, "%d", (int)o->topk);
        const char *args[] = {
            "--tokens", o->tokens, "--hidden", o->hidden, "--topk", topk, "member", o->check ? "--check" : NULL, NULL};
        n = crew_of_mpirun(args, ranks, rows, most);
        for (int i = 0; i < n; i++) print_row(&rows[i]);
        return n;
    }
    int n_shapes = shapes_of(o, ranks, shapes, most);
    for (; n < n_shapes; n++) {
        if (!strcmp(transport, "mem")) crew_of_threads(&shapes[n], &rows[n]);
        else crew_of_processes(transport, &shapes[n], &rows[n]);
        print_row(&rows[n]);
    }
    return n;
}

/* ---- floors ---- */

struct report {
    const struct options *options;
    const struct row *rows;
    int n, failed;
};

static const struct row *find(const struct report *p, const char *transport, int ranks, int tokens, int hidden) {
    for (int i = 0; i < p->n; i++) {
        const struct row *r = &p->rows[i];
        if (!strcmp(r->transport, transport) && r->shape.ranks == ranks && r->shape.tokens == tokens &&
            r->shape.hidden == hidden)
            return r;
    }
    return NULL;
}

/* A row that a floor is about: a floor holds only when its rows were measured. NULL: they were not, and that counts as failed
 * where the transport was asked for and exists. */
static const struct row *need(struct report *p, const char *transport, int ranks, int tokens, int hidden) {
    const struct row *r = find(p, transport, ranks, tokens, hidden);
    if (r || !is_asked(p->options->transport, transport)) return r;
    printf("not measured: %s, %d ranks, %d tokens, hidden %d: a floor needs it\n", transport, ranks, tokens, hidden);
    p->failed++;
    return NULL;
}

/* The same row, measured now. */
static struct row again(const struct report *p, const struct row *old) {
    char transport[sizeof old->transport], tokens[16], hidden[16];
    enum { MOST = 4 };
    struct row rows[MOST], found = *old;
    snprintf(transport, sizeof transport, "%s", strncmp(old->transport, "mpi", 3) ? old->transport : "mpi");
    snprintf(tokens, sizeof tokens, "%d", old->shape.tokens);
    snprintf(hidden, sizeof hidden, "%d", old->shape.hidden);
    const struct options one = {.transport = transport, .tokens = tokens, .hidden = hidden, .topk = p->options->topk};
    int n = measure_all(&one, old->shape.ranks, transport, rows, MOST);
    for (int i = 0; i < n && i < MOST; i++)
        if (!strcmp(rows[i].transport, old->transport)) found = rows[i];
    return found;
}

/* Its time over that of another row, or without one over its baseline's. What misses is measured again, with the other one
 * right before it: between rows that lie minutes apart the machine may have become another. */
static void want(struct report *p, const struct row *row, const struct row *other, const char *what, double most) {
    struct row r = *row, o = other ? *other : r;
    for (int left = TRIES;; left--) {
        double is = r.both50 / (other ? o.both50 : r.base50);
        if (is <= most) return;
        printf("%s: %s, %d ranks, %d tokens, hidden %d: %s is %.2f, at most %.2f\n",
               left ? "once more" : "below the floor", r.transport, r.shape.ranks, r.shape.tokens, r.shape.hidden, what, is,
               most);
        if (!left) break;
        if (other) o = again(p, other);
        r = again(p, row);
    }
    p->failed++;
}

/* Two ranks' work done by four, on two cores. */
static void check_four(struct report *p, const char *transport) {
    need(p, transport, 4, 1, 2048);
    need(p, transport, 4, 32, 2048);
    for (int i = 0; i < p->n; i++) {
        const struct row *r = &p->rows[i], *two;
        int work = r->shape.tokens * r->shape.ranks / 2;
        if (strcmp(r->transport, transport) != 0 || r->shape.ranks != 4) continue;
        if (work >= 64 && (two = find(p, transport, 2, work, r->shape.hidden)))
            want(p, r, two, "time over that of 2 ranks with the same work", 2.5);
        if (r->shape.tokens == 1 && (two = find(p, transport, 2, 1, r->shape.hidden)))
            want(p, r, two, "time over that of 2 ranks", 6);
    }
}

/* Both forms of mpi come together. */
static void check_faster(struct report *p, const struct row *shm) {
    static const char *const forms[] = {"mpi", "mpi-alltoallv"};
    const struct shape *s = &shm->shape;
    need(p, "mpi", s->ranks, s->tokens, s->hidden);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const struct row *r = find(p, forms[i], s->ranks, s->tokens, s->hidden);
        if (r) want(p, shm, r, "time over mpi's", shm->out_bytes >= 8e6 ? 1.1 : 1);
    }
}

static void check_rows(struct report *p) {
    static const struct {
        const char *transport;
        double ratio;
    } floors[] = {{"shm", 1.6}, {"ucx", 1.3}, {"mpi", 1.25}};
    for (size_t i = 0; i < sizeof floors / sizeof *floors; i++) {
        const struct row *r = need(p, floors[i].transport, 2, 64, 2048);
        if (r) want(p, r, NULL, "time over the baseline's", floors[i].ratio);
        check_four(p, floors[i].transport);
    }
    const struct row *one = need(p, "shm", 2, 1, 2048);
    if (one && one->both50 > 20) {
        printf("below the floor: shm, 2 ranks, 1 token: %.1f us, at most 20\n", one->both50);
        p->failed++;
    }
    for (int i = 0; i < p->n; i++)
        if (!strcmp(p->rows[i].transport, "shm")) check_faster(p, &p->rows[i]);
}

/* ---- program ---- */

#define AT(field) offsetof(struct options, field)
static const struct conf_option table[] = {
    {"transport", CONF_CHOICE, AT(transport), .def = "all", .choices = "mem|shm|ucx|mpi|auto|all",
     .help = "what carries the frames; mpi: both its forms; all: mem, shm, ucx, mpi as far as the build has them"},
    {"ranks", CONF_STRING, AT(ranks), .def = "2,4", .arg = "LIST", .help = "numbers of workers"},
    {"tokens", CONF_STRING, AT(tokens), .def = "1,8,64,512", .arg = "LIST", .help = "tokens that each worker brings"},
    {"hidden", CONF_STRING, AT(hidden), .def = "2048,7168", .arg = "LIST", .help = "elements of a row"},
    {"topk", CONF_INT, AT(topk), .def = "8", .min = 1, .max = EXPERTS, .arg = "N", .help = "experts per token, of 64"},
    {"check", CONF_FLAG, AT(check), .help = "exit 1 when a floor is missed or its rows are not measured"},
    {NULL},
};
static const struct conf_command command = {.name = "bench_fabric",
                                            .usage = "[options]",
                                            .about = "Times one layer's exchange beside the bare movement of the same bytes.",
                                            .options = table,
                                            .max_args = 1};

/* One of the processes that mpirun started. */
static int member_main(const struct options *o) {
    struct shape shapes[MOST_ROWS];
    struct why why;
    int rank, size;
    if (fabric_mpi_init(&rank, &size, &why) < 0) die("%s", why.text);
    int n = shapes_of(o, size, shapes, MOST_ROWS);
    for (int i = 0; i < n; i++) crew_member(&shapes[i]);
    fabric_mpi_finalize(true);
    return 0;
}

int main(int argc, char **argv) {
    static struct row rows[MOST_ROWS];
    static const char *const transports[] = {"mem", "shm", "ucx", "auto", "mpi"};
    struct options o = {0};
    struct conf_args args;
    struct why why;
    struct report report = {.options = &o, .rows = rows};
    int rc = conf_parse(&command, &o, argc, argv, &args, &why), ranks[MOST_LIST];
    if (rc < 0) die("%s", why.text);
    if (rc > 0) return 0;
    if (args.n) return member_main(&o);
    print_head();
    int n_ranks = parse_list(o.ranks, ranks, FABRIC_MAX_RANKS);
    for (int i = 0; i < n_ranks; i++) {
        if (ranks[i] < 2) die("an exchange takes 2 ranks");
        for (size_t t = 0; t < sizeof transports / sizeof *transports; t++)
            report.n += measure_all(&o, ranks[i], transports[t], rows + report.n, MOST_ROWS - report.n);
    }
    if (o.check) check_rows(&report);
    print_json(rows, report.n, (int)o.topk, report.failed);
    conf_clear(&command, &o, &args);
    return report.failed > 0;
}
