/* events.c - `cadre events`: what happened to a running cluster, a line each; with --follow what happens from now on too. */
#include <string.h>
#include <time.h>

#include "cli/cli.h"

enum { SLICE_MS = 200 };

struct options {
    char *connect, *key;
    bool follow, json;
    int64_t after;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"connect", CONF_STRING, AT(connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where the cluster listens"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the key of a cluster that has one"},
    {"follow", CONF_FLAG, AT(follow), .def = "no", .help = "go on with what happens, until Ctrl-C", .letter = 'f'},
    {"after", CONF_INT, AT(after), .def = "0", .min = 0, .max = 1e15, .arg = "N",
     .help = "only those with a higher number"},
    {"json", CONF_FLAG, AT(json), .def = "no", .help = "print one JSON object per line"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre events",
    .usage = "[options]",
    .about = "Shows what happened to a running cluster: workers that came, fell silent, died or were refused; epochs and how\n"
             "long each phase of a recovery took; faults of the journal. The coordinator keeps the last 1024 of its life.",
    .options = table,
    .footer = "Columns: number, local time, kind, worker, text, figures; xN = said N times in a row.\n"
              "Numbers have no gaps: one that is missing had been overwritten.\n\n"
              "Examples:\n  cadre events --follow\n  cadre events --json | jq 'select(.kind == \"recovered\")'\n\n"
              "Exit status: 0 done, 1 failed or the cluster ended, 2 wrong usage."};

static void print_figure(const struct cadre_figure *f) {
    size_t n = strlen(f->name);
    if (n > 3 && !strcmp(f->name + n - 3, "_us")) printf(", %.*s %.1f ms", (int)(n - 3), f->name, (double)f->value / 1e3);
    else if (n > 6 && !strcmp(f->name + n - 6, "_bytes"))
        printf(", %.*s %s", (int)(n - 6), f->name, cli_bytes((double)f->value));
    else printf(", %s %llu", f->name, (unsigned long long)f->value);
}

static void print_line(const struct cadre_cluster_event *e) {
    char at[32] = "?", rank[16] = "";
    time_t s = (time_t)(e->unix_us / 1000000);
    struct tm tm;
    if (localtime_r(&s, &tm)) strftime(at, sizeof at, "%Y-%m-%d %H:%M:%S", &tm);
    if (e->rank >= 0) snprintf(rank, sizeof rank, "%d", e->rank);
    printf("%5llu  %s.%03d  %-15s %3s  %s", (unsigned long long)e->number, at, (int)(e->unix_us / 1000 % 1000), e->kind, rank,
           e->text);
    for (size_t i = 0; i < e->n_figures; i++) print_figure(&e->figures[i]);
    if (e->times > 1) printf(" x%u", e->times);
    putchar('\n');
}

static void print_json(const struct cadre_cluster_event *e) {
    printf("{\"number\":%llu,\"unix_us\":%lld,\"kind\":", (unsigned long long)e->number, (long long)e->unix_us);
    cli_json_string(stdout, e->kind, strlen(e->kind));
    if (e->rank >= 0) printf(",\"rank\":%d", e->rank);
    printf(",\"text\":");
    cli_json_string(stdout, e->text, strlen(e->text));
    printf(",\"times\":%u,\"figures\":{", e->times);
    for (size_t i = 0; i < e->n_figures; i++) {
        if (i) putchar(',');
        cli_json_string(stdout, e->figures[i].name, strlen(e->figures[i].name));
        printf(":%llu", (unsigned long long)e->figures[i].value);
    }
    printf("}}\n");
}

static int show(const struct options *o, struct cadre_client *client, struct cadre_stream *stream) {
    while (!cli_signals()) {
        const struct cadre_cluster_event *e;
        int code = cadre_events_next(stream, SLICE_MS, &e);
        if (code == CADRE_TIMEOUT) continue;
        if (!e) return code ? cli_complain("events", code, cadre_error(client)) : EXIT_DONE;
        if (o->json) print_json(e);
        else print_line(e);
        if (fflush(stdout)) return EXIT_FAILED; /* whoever read it has gone */
    }
    return EXIT_DONE;
}

static int run(const struct options *o) {
    struct cadre_stream *stream = NULL;
    struct cadre_client *client = cli_connect("events", o->connect, o->key, true);
    if (!client) return EXIT_FAILED;
    cli_catch_signals();
    int code = cadre_events(client, (uint64_t)o->after, o->follow, &stream);
    int status = code ? cli_complain("events", code, cadre_error(client)) : show(o, client, stream);
    cadre_stream_close(stream);
    cadre_close(client);
    return status;
}

int events_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o);
    conf_clear(&command, &o, &args);
    return status;
}
