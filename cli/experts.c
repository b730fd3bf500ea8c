/* experts.c - `cadre experts`: expert rows as the workers counted them where they were executed.
 *
 * imb is max/mean, balancedness mean/max, over workers or over experts of a layer; both are 1 when the load is even. */
#include "cli/cli.h"
#include "cli/figures.h"
#include "cli/report.h"

#include <stdlib.h>
#include <string.h>

enum { BAR = 24 };

struct options {
    char *connect, *key, *output, *report, *labels;
    int64_t layer;
    bool json;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"connect", CONF_STRING, AT(connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where the cluster listens"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the key of a cluster that has one"},
    {"layer", CONF_INT, AT(layer), .min = 0, .max = 1e6, .arg = "L",
     .help = "every expert of this layer (the model's own numbering); with --report: its figures alone"},
    {"report", CONF_STRING, AT(report), .arg = "FILE",
     .help = "figures of a trace (cadre trace) instead of a running cluster's"},
    {"labels", CONF_STRING, AT(labels), .arg = "FILE",
     .help = "with --report: lines 'domain layers experts' that say where tokens should go: routing accuracy"},
    {"json", CONF_FLAG, AT(json), .def = "no", .help = "print one JSON object (also: -o json)"},
    {"output", CONF_CHOICE, AT(output), .def = "table", .choices = "table|json", .help = "how to print", .letter = 'o'},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre experts",
    .usage = "[options]",
    .about =
        "Shows how many rows each expert and each worker has executed since the start, or what a trace says about routing.",
    .options = table,
    .footer =
        "imb = max/mean, balancedness = mean/max: both are 1 when the load is even. util.: share of the experts that ran;\n"
        "std, CV: standard deviation of the experts' rows, and over their mean; hottest: share of the rows that the hottest\n"
        "15 % of the experts took; active: experts per token, as a share of all. Over layers: means.\n"
        "accuracy: share of (token, layer) records of a labelled domain whose heaviest expert is among the expected ones;\n"
        "expert share: the same over all choices; chance: what blind choice would give.\n\n"
        "Exit status: 0 shown, 1 failed, 2 wrong usage."};

struct spread {
    uint64_t sum, max, min;
    size_t at_max, at_min;
    double imb; /* 0 when nothing was counted */
};

static struct spread spread_of(const uint64_t *x, size_t n) {
    struct spread s = {.min = n ? x[0] : 0};
    for (size_t i = 0; i < n; i++) {
        s.sum += x[i];
        if (x[i] > s.max) s.max = x[i], s.at_max = i;
        if (x[i] < s.min) s.min = x[i], s.at_min = i;
    }
    s.imb = s.sum ? (double)s.max * (double)n / (double)s.sum : 0;
    return s;
}

static double share(uint64_t part, uint64_t whole) { return whole ? 100. * (double)part / (double)whole : 0; }

static void print_bar(uint64_t x, uint64_t max) {
    int n = max ? (int)((double)x * BAR / (double)max + 0.5) : 0;
    for (int i = 0; i < n; i++) putchar('#');
    putchar('\n');
}

static void print_balance(const struct spread *s) {
    if (s->sum) printf("imb %.3f, balancedness %.3f", s->imb, 1 / s->imb);
    else printf("nothing executed yet");
}

static void print_workers(const struct cadre_load *l) {
    struct spread s = spread_of(l->worker_rows, l->n_workers);
    printf("%6s %14s %8s\n", "worker", "rows", "share");
    for (size_t w = 0; w < l->n_workers; w++) {
        printf("%6zu %14llu %7.2f%%  ", w, (unsigned long long)l->worker_rows[w], share(l->worker_rows[w], s.sum));
        print_bar(l->worker_rows[w], s.max);
    }
    printf("%6s %14llu           ", "all", (unsigned long long)s.sum);
    print_balance(&s);
    printf("\n");
}

/* The figures of one layer, or of all as means. NULL as rows: of everything. */
static struct figures figures_of(const struct cadre_load *l, const uint64_t *rows, uint32_t layer, uint64_t tokens) {
    struct figures f = {0};
    uint64_t *scratch = malloc(sizeof *scratch * l->experts);
    if (scratch) figures_layer(&f, rows + (size_t)layer * l->experts, l->experts, tokens, scratch);
    free(scratch);
    return f;
}

static struct figures mean_of(const struct cadre_load *l, const uint64_t *rows, uint64_t tokens) {
    struct figures sum = {0};
    for (uint32_t i = 0; i < l->layers; i++) {
        struct figures f = figures_of(l, rows, i, tokens);
        figures_add(&sum, &f, (int)i);
    }
    figures_mean(&sum);
    return sum;
}

static void print_mean(const char *name, const struct figures *f) {
    printf("%-16s %14llu %6.1f%% %7.3f %7.3f %11.1f %7.3f %6.1f%%", name, (unsigned long long)f->rows, 100 * f->utilisation,
           f->imb, f->balancedness, f->std, f->cv, 100 * f->hottest);
    if (f->activation > 0) printf(" %6.2f%%\n", 100 * f->activation);
    else printf(" %7s\n", "-");
}

static void print_domains(const struct cadre_load *l) {
    struct figures all = mean_of(l, l->rows, l->tokens);
    printf("\n%-16s %14s %7s %7s %7s %11s %7s %7s %7s\n", "mean of layers", "rows", "util.", "imb", "bal.", "std", "CV",
           "hottest", "active");
    print_mean("all", &all);
    for (size_t d = 0; d < l->n_domains; d++) {
        struct figures f = mean_of(l, l->domains[d].rows, l->domains[d].tokens);
        print_mean(l->domains[d].name, &f);
    }
}

static void print_layers(const struct cadre_load *l) {
    printf("\n%5s %14s  %-20s %-20s %7s %13s %7s %11s %7s\n", "layer", "rows", "busiest", "idlest", "imb", "balancedness",
           "util.", "std", "hottest");
    for (uint32_t i = 0; i < l->layers; i++) {
        struct spread s = spread_of(l->rows + (size_t)i * l->experts, l->experts);
        char busiest[32], idlest[32];
        snprintf(busiest, sizeof busiest, "%zu (%.2f%%)", s.at_max, share(s.max, s.sum));
        snprintf(idlest, sizeof idlest, "%zu (%.2f%%)", s.at_min, share(s.min, s.sum));
        struct figures f = figures_of(l, l->rows, i, l->tokens);
        printf("%5d %14llu  %-20s %-20s %7.3f %13.3f %6.1f%% %11.1f %6.1f%%\n", l->model_layer[i], (unsigned long long)s.sum,
               s.sum ? busiest : "-", s.sum ? idlest : "-", s.imb, s.sum ? 1 / s.imb : 0, 100 * f.utilisation, f.std,
               100 * f.hottest);
    }
}

static void print_experts(const struct cadre_load *l, uint32_t row) {
    const uint64_t *rows = l->rows + (size_t)row * l->experts;
    struct spread s = spread_of(rows, l->experts);
    printf("\nlayer %d: ", l->model_layer[row]);
    print_balance(&s);
    printf("\n%6s %6s %14s %8s\n", "expert", "worker", "rows", "share");
    for (uint32_t e = 0; e < l->experts; e++) {
        uint32_t host = l->hosts[(size_t)row * l->experts + e];
        if (host == UINT32_MAX) printf("%6u %6s", e, "none");
        else printf("%6u %6u", e, host);
        printf(" %14llu %7.2f%%  ", (unsigned long long)rows[e], share(rows[e], s.sum));
        print_bar(rows[e], s.max);
    }
}

static void print_array(const char *key, const uint64_t *x, size_t n) {
    printf("\"%s\":[", key);
    for (size_t i = 0; i < n; i++) printf("%s%llu", i ? "," : "", (unsigned long long)x[i]);
    putchar(']');
}

static void json_figures(const struct figures *f) {
    printf("\"utilisation\":%.9g,\"std\":%.9g,\"cv\":%.9g,\"hottest_15_percent\":%.9g,\"activation_ratio\":", f->utilisation,
           f->std, f->cv, f->hottest);
    if (f->activation > 0) printf("%.9g,", f->activation);
    else printf("null,"); /* of how many tokens, nobody counted */
}

static void json_domains(const struct cadre_load *l) {
    printf("\"domains\":[");
    for (size_t d = 0; d < l->n_domains; d++) {
        struct figures f = mean_of(l, l->domains[d].rows, l->domains[d].tokens);
        printf("%s{\"name\":", d ? "," : "");
        cli_json_string(stdout, l->domains[d].name, strlen(l->domains[d].name));
        printf(",\"tokens\":%llu,\"imb\":%.9g,\"balancedness\":%.9g,", (unsigned long long)l->domains[d].tokens, f.imb,
               f.balancedness);
        json_figures(&f);
        print_array("rows", l->domains[d].rows, (size_t)l->layers * l->experts);
        printf("}");
    }
    printf("],");
}

static void print_json(const struct cadre_load *l, int64_t only) {
    struct spread s = spread_of(l->worker_rows, l->n_workers);
    struct figures mean = mean_of(l, l->rows, l->tokens);
    printf("{\"experts\":%u,\"rows\":%llu,\"imb\":%.6g,\"balancedness\":%.6g,", l->experts, (unsigned long long)s.sum, s.imb,
           s.sum ? 1 / s.imb : 0);
    print_array("worker_rows", l->worker_rows, l->n_workers);
    printf(",\"tokens\":%llu,", (unsigned long long)l->tokens);
    json_figures(&mean);
    json_domains(l);
    printf("\"layers\":[");
    for (uint32_t i = 0, shown = 0; i < l->layers; i++) {
        if (only >= 0 && only != l->model_layer[i]) continue;
        struct spread of = spread_of(l->rows + (size_t)i * l->experts, l->experts);
        printf("%s{\"layer\":%d,\"imb\":%.6g,\"balancedness\":%.6g,", shown++ ? "," : "", l->model_layer[i], of.imb,
               of.sum ? 1 / of.imb : 0);
        struct figures f = figures_of(l, l->rows, i, l->tokens);
        json_figures(&f);
        print_array("rows", l->rows + (size_t)i * l->experts, l->experts);
        printf(",\"workers\":[");
        for (uint32_t e = 0; e < l->experts; e++) { /* -1: on no worker */
            uint32_t host = l->hosts[(size_t)i * l->experts + e];
            printf("%s%lld", e ? "," : "", host == UINT32_MAX ? -1LL : (long long)host);
        }
        printf("]}");
    }
    printf("]}\n");
}

static int show(const struct options *o, const struct cadre_load *l) {
    uint32_t row = 0;
    while (o->layer >= 0 && row < l->layers && l->model_layer[row] != o->layer) row++;
    if (o->layer >= 0 && row == l->layers) {
        fprintf(stderr, "cadre experts: layer %lld has no experts; ", (long long)o->layer);
        if (l->layers)
            fprintf(stderr, "the layers that have some are %d to %d\n", l->model_layer[0], l->model_layer[l->layers - 1]);
        else fprintf(stderr, "no layer of this model has\n");
        return EXIT_FAILED;
    }
    if (o->json || !strcmp(o->output, "json")) {
        print_json(l, o->layer);
    } else {
        print_workers(l);
        if (o->layer < 0) print_domains(l);
        if (o->layer >= 0) print_experts(l, row);
        else print_layers(l);
    }
    return EXIT_DONE;
}

static int run(const struct options *o) {
    bool json = o->json || !strcmp(o->output, "json");
    if (o->report) return report_print(o->report, o->labels, o->layer, json);
    if (o->labels) return fprintf(stderr, "cadre experts: --labels goes with --report FILE\n"), EXIT_USAGE;
    struct cadre_client *client = cli_connect("experts", o->connect, o->key, true);
    struct cadre_load *load;
    if (!client) return EXIT_FAILED;
    int code = cadre_experts(client, 0, &load), status;
    if (code) {
        status = cli_complain("experts", code, cadre_error(client));
    } else {
        status = show(o, load);
        cadre_load_free(load);
    }
    cadre_close(client);
    return status;
}

int experts_main(int argc, char **argv) {
    struct options o = {.layer = -1};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o);
    conf_clear(&command, &o, &args);
    return status;
}
