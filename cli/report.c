/* report.c - one line per domain, one per layer, and the same as JSON. */
#include "cli/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/routing.h"

struct span { /* layers looked at: places first .. end - 1 of the trace's */
    int first, end;
};
struct group { /* all tokens, or those of a domain */
    const char *name;
    uint64_t tokens;
    struct figures mean;
    struct figures *layer; /* [layers] */
    uint64_t zero, judged, right, pairs, pairs_right;
    double chance;
};

static void fill_group(const struct routing *r, const struct span *s, int domain, struct group *g, uint64_t *rows,
                       uint64_t *scratch) {
    int E = r->shape.experts;
    for (int i = s->first; i < s->end; i++) {
        struct routing_layer l = {.rows = rows};
        memset(rows, 0, sizeof *rows * (size_t)E);
        routing_sum(r, domain, i, &l);
        routing_figures(r, &l, &g->layer[i], scratch);
        figures_add(&g->mean, &g->layer[i], i);
        g->zero += l.zero;
        g->judged += l.judged;
        g->right += l.right;
        g->pairs += l.pairs;
        g->pairs_right += l.pairs_right;
        g->chance += l.chance;
    }
    figures_mean(&g->mean);
}

static int fill_groups(const struct routing *r, const struct span *s, struct group *groups) {
    int n = 0, E = r->shape.experts, L = r->shape.layers;
    struct figures *figures = calloc((size_t)(TRACE_DOMAINS + 1) * (size_t)L, sizeof *figures);
    uint64_t *rows = calloc(2 * (size_t)E, sizeof *rows);
    if (!figures || !rows) {
        free(figures);
        free(rows);
        return ERR_NOMEM;
    }
    for (int d = -1; d < TRACE_DOMAINS; d++) {
        if (d >= 0 && !r->domain_tokens[d]) continue;
        struct group *g = &groups[n];
        *g = (struct group){.name = d < 0 ? "all"
                                    : d   ? r->name[d]
                                          : "(untagged)",
                            .tokens = d < 0 ? r->tokens : r->domain_tokens[d],
                            .layer = figures + n * L};
        fill_group(r, s, d, g, rows, rows + E);
        n++;
    }
    free(rows);
    return n;
}

/* ---- tables ---- */
static void print_heading(const char *first) {
    printf("%-16s %10s %7s %7s %7s %11s %7s %7s %7s %7s %10s\n", first, "tokens", "util.", "imb", "bal.", "std", "CV",
           "hottest", "active", "entropy", "confidence");
}

static void print_figures(const char *name, const struct figures *f) {
    printf("%-16s %10llu %6.1f%% %7.3f %7.3f %11.1f %7.3f %6.1f%% %6.2f%% %7.3f %10.3f\n", name, (unsigned long long)f->tokens,
           100 * f->utilisation, f->imb, f->balancedness, f->std, f->cv, 100 * f->hottest, 100 * f->activation, f->entropy,
           f->confidence);
}

static void print_accuracy(const struct group *g, int n) {
    bool some = false;
    for (int i = 0; i < n; i++) {
        if (!g[i].judged) continue;
        if (!some) printf("\n%-16s %12s %9s %13s %8s\n", "routing", "records", "accuracy", "expert share", "chance");
        some = true;
        printf("%-16s %12llu %8.2f%% %12.2f%% %7.2f%%\n", g[i].name, (unsigned long long)g[i].judged,
               100. * (double)g[i].right / (double)g[i].judged,
               g[i].pairs ? 100. * (double)g[i].pairs_right / (double)g[i].pairs : 0, 100 * g[i].chance / (double)g[i].judged);
    }
}

static void print_text(const struct routing *r, const struct span *span, const struct group *g, int n) {
    const struct trace_shape *s = &r->shape;
    printf("%s: %llu tokens, %d layers of %d experts, up to %d per token", s->model, (unsigned long long)r->tokens, s->layers,
           s->experts, s->topk);
    if (r->lost) printf("; %llu tokens are missing: they could not be kept up with", (unsigned long long)r->lost);
    printf("%s\n\n", r->whole ? "" : "; the file has no end: it is being written, or its writer was killed");
    char title[32] = "mean of layers";
    bool one = span->end - span->first < s->layers;
    if (one) snprintf(title, sizeof title, "layer %d", s->model_layer[span->first]);
    print_heading(title);
    for (int i = 0; i < n; i++) print_figures(g[i].name, &g[i].mean);
    if (!one && g->mean.worst_layer >= 0)
        printf("\nworst layer: %d, imb %.3f\n", s->model_layer[g->mean.worst_layer], g->mean.worst_imb);
    if (g->zero) printf("choices of experts without weights: %llu\n", (unsigned long long)g->zero);
    if (r->broken) printf("numbers that were not finite, counted as 0: %llu\n", (unsigned long long)r->broken);
    print_accuracy(g, n);
    if (one) return;
    printf("\n");
    print_heading("layer");
    for (int i = 0; i < s->layers; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", s->model_layer[i]);
        print_figures(name, &g->layer[i]);
    }
}

/* ---- JSON ---- */
static void json_figures(const struct figures *f) {
    printf("\"tokens\":%llu,\"rows\":%llu,\"utilisation\":%.9g,\"imb\":%.9g,\"balancedness\":%.9g,\"std\":%.9g,\"cv\":%.9g,",
           (unsigned long long)f->tokens, (unsigned long long)f->rows, f->utilisation, f->imb, f->balancedness, f->std, f->cv);
    printf("\"hottest_15_percent\":%.9g,\"activation_ratio\":%.9g,\"entropy\":%.9g,\"confidence\":%.9g", f->hottest,
           f->activation, f->entropy, f->confidence);
}

static void json_group(const struct routing *r, const struct span *s, const struct group *g) {
    printf("{\"name\":");
    cli_json_string(stdout, g->name, strlen(g->name));
    printf(",");
    json_figures(&g->mean);
    if (g->mean.worst_layer >= 0)
        printf(",\"worst_layer\":%d,\"worst_imb\":%.9g", r->shape.model_layer[g->mean.worst_layer], g->mean.worst_imb);
    printf(",\"zero_expert_choices\":%llu", (unsigned long long)g->zero);
    if (g->judged)
        printf(",\"routing_accuracy\":%.9g,\"expert_share\":%.9g,\"chance\":%.9g,\"labelled_records\":%llu",
               (double)g->right / (double)g->judged, g->pairs ? (double)g->pairs_right / (double)g->pairs : 0,
               g->chance / (double)g->judged, (unsigned long long)g->judged);
    printf(",\"layers\":[");
    for (int i = s->first; i < s->end; i++) {
        printf("%s{\"layer\":%d,", i > s->first ? "," : "", r->shape.model_layer[i]);
        json_figures(&g->layer[i]);
        printf("}");
    }
    printf("]}");
}

static void print_json(const struct routing *r, const struct span *s, const struct group *g, int n) {
    printf("{\"model\":");
    cli_json_string(stdout, r->shape.model, strlen(r->shape.model));
    printf(",\"tokens\":%llu,\"lost\":%llu,\"not_finite\":%llu,\"whole\":%s,\"experts\":%d,\"topk\":%d,\"all\":",
           (unsigned long long)r->tokens, (unsigned long long)r->lost, (unsigned long long)r->broken,
           r->whole ? "true" : "false", r->shape.experts, r->shape.topk);
    json_group(r, s, g);
    printf(",\"domains\":[");
    for (int i = 1; i < n; i++) {
        if (i > 1) printf(",");
        json_group(r, s, &g[i]);
    }
    printf("]}\n");
}

static int choose_span(const struct routing *r, int64_t layer, struct span *out) {
    const struct trace_shape *s = &r->shape;
    *out = (struct span){0, s->layers};
    if (layer < 0) return EXIT_DONE;
    int at = 0;
    while (at < s->layers && s->model_layer[at] != layer) at++;
    *out = (struct span){at, at + 1};
    if (at < s->layers) return EXIT_DONE;
    fprintf(stderr, "cadre experts: the trace has no layer %lld; it has %d of them, from %d to %d\n", (long long)layer,
            s->layers, s->model_layer[0], s->model_layer[s->layers - 1]);
    return EXIT_FAILED;
}

static int print(const struct routing *r, int64_t layer, bool json) {
    struct group groups[TRACE_DOMAINS + 1] = {{0}};
    struct span span;
    if (choose_span(r, layer, &span) != EXIT_DONE) return EXIT_FAILED;
    int n = fill_groups(r, &span, groups);
    if (n < 0) return fprintf(stderr, "cadre experts: out of memory\n"), EXIT_FAILED;
    (json ? print_json : print_text)(r, &span, groups, n);
    free(groups[0].layer);
    return EXIT_DONE;
}

int report_print(const char *trace_file, const char *labels_file, int64_t layer, bool json) {
    struct routing r;
    struct why why;
    size_t len;
    char *labels = labels_file ? cli_read_file("experts", labels_file, &len) : NULL;
    if (labels_file && !labels) return EXIT_FAILED;
    FILE *f = fopen(trace_file, "rbe");
    int status = EXIT_FAILED;
    if (!f) {
        fprintf(stderr, "cadre experts: cannot read %s: %s\n", trace_file, strerror(errno));
    } else if (routing_read(&r, f, labels, labels_file, &why) < 0) {
        bool of_trace = !labels_file || strncmp(why.text, labels_file, strlen(labels_file));
        fprintf(stderr, "cadre experts: %s%s%s\n", of_trace ? trace_file : "", of_trace ? ": " : "", why.text);
    } else {
        status = print(&r, layer, json);
        routing_clear(&r);
    }
    if (f) fclose(f);
    free(labels);
    return status;
}
