/* status.c - `cadre status`: is the cluster serving, and what is it doing. The table is for people, --json for programs (keys
 * are only ever added), the exit status for scripts. */
#include "base/clk.h"
#include "cli/cli.h"

#include <string.h>

struct options {
    char *connect, *key, *output;
    bool json, quiet, links, time;
    int64_t wait;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"connect", CONF_STRING, AT(connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where the cluster listens"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the key of a cluster that has one"},
    {"links", CONF_FLAG, AT(links), .def = "no", .help = "what passes between workers, and which one holds the others up"},
    {"time", CONF_FLAG, AT(time), .def = "no", .help = "where each worker's time went"},
    {"json", CONF_FLAG, AT(json), .def = "no", .help = "print one JSON object (also: -o json)"},
    {"output", CONF_CHOICE, AT(output), .def = "table", .choices = "table|json", .help = "how to print", .letter = 'o'},
    {"quiet", CONF_FLAG, AT(quiet), .def = "no", .help = "print nothing, only exit", .letter = 'q'},
    {"wait", CONF_INT, AT(wait), .def = "0", .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "wait so long for the cluster to be serving, and green"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre status",
    .usage = "[options]",
    .about = "Shows the workers, the queue and the memory of a running cluster.",
    .options = table,
    .footer = "Columns: pack/peers/disk = blobs of experts that it has mapped from a pack, fetched from other workers, read\n"
              "from the checkpoint, since it began; weights = routed experts, resident = attention, embeddings and shared\n"
              "experts; pages = KV pages used of all; rows = expert rows executed; busy = time inside steps, wait = for\n"
              "peers, summed over them; beat = age of the last sign of life.\n"
              "With --time, of each worker: shares of attention, shared experts and dense layers, gate, dispatch (packing,\n"
              "sending, sorting by expert), experts, combine (the same on the way back, and the sum), waiting for peers,\n"
              "output (embedding, logits, sampling), and scheduler: between a step and one that goes on with its sequences.\n"
              "With --links, for each worker and each that it sends to: bytes and frames sent; how long the receiver stood\n"
              "waiting for it; of the messages that it needed, half came within p50 and 99 in 100 within p99, and\n"
              "so many within 1 us, 32 us, 1 ms, 32 ms, or later (--json: waits, a count for each power of two);\n"
              "extra = frames beyond the first of a message; stale, duplicate, bad = frames that the receiver dropped, as too\n"
              "late, had before, not readable (pairs with none are not shown);\n"
              "hosts, two hops, between = with several hosts: the slowest links as measured at the start; when tokens go to\n"
              "another host once, and on from there; what dispatch and combine sent between hosts;\n"
              "steps = run in one piece, or in two microbatches that take turns; tasks = stretches of computing during which\n"
              "no frame moved, those longer than 200 us of them, the longest;\n"
              "slow = the worker that the others waited for during most of their last steps, if one stands out.\n\n"
              "Exit status: 0 serving, 1 failed, 2 wrong usage, 3 red: not serving, refusing or nobody answers,\n"
              "4 amber: it serves, but a part has not moved for longer than it should."};

static const char *duration(uint64_t us, char *buf, size_t cap) {
    uint64_t s = us / 1000000;
    if (s < 60) snprintf(buf, cap, "%.1fs", (double)us / 1e6);
    else if (s < 3600) snprintf(buf, cap, "%llum%02llus", (unsigned long long)s / 60, (unsigned long long)s % 60);
    else snprintf(buf, cap, "%lluh%02llum", (unsigned long long)s / 3600, (unsigned long long)s / 60 % 60);
    return buf;
}

static void print_workers(const struct cadre_cluster *c) {
    printf("\n%4s  %-14s %8s  %-9s %-12s %-15s %11s %11s %11s  %-13s %4s %12s %8s %8s %7s\n", "rank", "host", "pid", "state",
           "experts", "pack/peers/disk", "weights", "resident", "KV", "pages", "seqs", "rows", "busy", "wait", "beat");
    for (size_t i = 0; i < c->n_workers; i++) {
        const struct cadre_worker *w = &c->workers[i];
        char state[32], from[80], pages[32], busy[32], wait[32], beat[32];
        bool loading = !strcmp(w->state, "loading");
        if (loading) snprintf(state, sizeof state, "load %u%%", w->load_percent);
        else snprintf(state, sizeof state, "%s", w->state);
        snprintf(from, sizeof from, "%llu/%llu/%llu", (unsigned long long)w->pack_blobs, (unsigned long long)w->peer_blobs,
                 (unsigned long long)w->disk_blobs);
        snprintf(pages, sizeof pages, "%u/%u", w->kv_pages_used, w->kv_pages);
        printf("%4u  %-14.14s %8llu  %-9.9s %-12.12s %-15s %11s %11s %11s  %-13s %4u %12llu %8s %8s %7s\n", w->rank, w->host,
               (unsigned long long)w->pid, state, w->placement, from, cli_bytes((double)w->weight_bytes),
               cli_bytes((double)w->resident_bytes), cli_bytes((double)w->kv_bytes), pages, w->sequences,
               (unsigned long long)w->rows, duration(w->busy_us, busy, sizeof busy), duration(w->wait_us, wait, sizeof wait),
               duration(w->beat_age_us, beat, sizeof beat));
    }
}

static void print_time(const struct cadre_cluster *c) {
    printf("\n%4s %9s %9s %9s %9s %9s %9s %9s %9s %9s %9s   of its time\n", "rank", "attention", "dense", "gate", "dispatch",
           "experts", "combine", "wait", "output", "scheduler", "in all");
    for (size_t i = 0; i < c->n_workers; i++) {
        const struct cadre_time *t = &c->workers[i].time;
        const uint64_t us[] = {t->attention, t->dense,   t->gate, t->dispatch, t->experts,
                               t->combine,   t->wait, t->output, t->scheduler};
        uint64_t all = 0;
        char buf[32];
        for (size_t p = 0; p < sizeof us / sizeof *us; p++) all += us[p];
        printf("%4u", c->workers[i].rank);
        for (size_t p = 0; p < sizeof us / sizeof *us; p++) printf(" %8.1f%%", all ? 100.0 * (double)us[p] / (double)all : 0.0);
        printf(" %9s\n", duration(all, buf, sizeof buf));
    }
}

static void print_journal(const struct cadre_journal *j) {
    printf("  journal   %s: %llu requests in %s", j->dir, (unsigned long long)j->requests, cli_bytes((double)j->segment_bytes));
    if (j->lag_bytes) printf(", %s behind by %.1f ms", cli_bytes((double)j->lag_bytes), (double)j->lag_us / 1e3);
    if (j->dropped) printf(", %llu tokens not written down", (unsigned long long)j->dropped);
    printf("%s%s\n", j->fault[0] ? "\n            " : "", j->fault);
}

static void print_recovery(const struct cadre_recovery *r) {
    if (r->deaths)
        printf("  deaths    %llu; the last: found after %.0f ms, decided in %.1f ms, loaded in %.0f ms, a step after %.0f ms, "
               "all answers went on %.0f ms later\n",
               (unsigned long long)r->deaths, (double)r->detect_us / 1e3, (double)r->decide_us / 1e3,
               (double)r->reload_us / 1e3, (double)r->first_step_us / 1e3, (double)r->recompute_us / 1e3);
    if (r->without_one[0]) printf("  memory    should a worker die, requests wait for another: %s\n", r->without_one);
}

static const char *health_name(int level) { return level == 0 ? "green" : level == 1 ? "amber" : "red"; }

static void print_table(const struct cadre_cluster *c) {
    char up[32];
    printf("%s (%s) is %s%s%s, up %s\n", c->model, c->family, c->state, c->reason[0] ? ": " : "", c->reason,
           duration(c->uptime_us, up, sizeof up));
    printf("  health    %s%s%s%s%s\n", health_name(c->health.level), c->health.part[0] ? ": " : "", c->health.part,
           c->health.text[0] ? ": " : "", c->health.text);
    printf("  experts   %u in each of %u layers, %u per token\n", c->experts, c->layers, c->topk);
    if (c->missing_experts)
        printf("  missing   %s; requests wait unless they allow degraded answers\n", c->missing);
    printf("  class     %s, fabric %s, epoch %u, placement %u\n", c->numeric_class, c->fabric, c->epoch, c->placement_version);
    printf("  limits    %u sequences at once, %u tokens of context\n", c->max_batch, c->max_context);
    printf("  requests  %u waiting, %u running, %llu finished, %llu cancelled, %llu expired, %llu failed, %llu preemptions\n",
           c->waiting, c->running, (unsigned long long)c->finished, (unsigned long long)c->cancelled,
           (unsigned long long)c->expired, (unsigned long long)c->failed, (unsigned long long)c->preemptions);
    printf("  tokens    %llu read, %llu generated in %llu steps\n", (unsigned long long)c->prompt_tokens,
           (unsigned long long)c->generated_tokens, (unsigned long long)c->steps);
    if (c->journal) print_journal(c->journal);
    if (c->recovery) print_recovery(c->recovery);
    if (c->strangers)
        printf("  strangers %llu times somebody was not let in: no key, or another\n", (unsigned long long)c->strangers);
    printf("  listen    %s, control %s, version %s\n", c->listen, c->control, c->version);
    print_workers(c);
}

static const char *bound(uint64_t us, char *buf, size_t cap) {
    if (!us) snprintf(buf, cap, "<1us");
    else if (us < 10000) snprintf(buf, cap, "%lluus", (unsigned long long)us);
    else snprintf(buf, cap, "%.1fms", (double)us / 1e3);
    return buf;
}

/* How many of the messages came at once, and within how long the others. */
static void print_waits(const uint64_t *buckets, uint32_t n, uint64_t all) {
    static const uint32_t first[] = {0, 1, 6, 11, 16}; /* 2^5 us, 2^10 us = 1 ms, ... */
    for (int c = 0; c < 5; c++) {
        uint64_t part = 0;
        for (uint32_t b = first[c]; b < n && (c == 4 || b < first[c + 1]); b++) part += buckets[b];
        printf(" %5.1f%%", all ? 100.0 * (double)part / (double)all : 0.0);
    }
    putchar('\n');
}

/* The pairs with frames out of the ordinary: on a quiet, healthy cluster there are none. */
static void print_odd_frames(const struct cadre_links *l) {
    bool headed = false;
    for (size_t i = 0; i < (size_t)l->n * l->n; i++) {
        if (!(l->extra[i] | l->stale[i] | l->duplicate[i] | l->bad[i])) continue;
        if (!headed) printf("\n%4s %4s %12s %12s %12s %12s   of frames\n", "from", "to", "extra", "stale", "duplicate", "bad");
        headed = true;
        printf("%4zu %4zu %12llu %12llu %12llu %12llu\n", i / l->n, i % l->n, (unsigned long long)l->extra[i],
               (unsigned long long)l->stale[i], (unsigned long long)l->duplicate[i], (unsigned long long)l->bad[i]);
    }
}

static const char *figure(uint64_t latency_ns, uint64_t rate, char *buf, size_t cap) {
    if (rate) snprintf(buf, cap, "%.1f us, %.1f MB/s", (double)latency_ns / 1e3, (double)rate / 1e6);
    else snprintf(buf, cap, "not known");
    return buf;
}

/* Between hosts there is a choice, and something to count. */
static void print_hops(const struct cadre_hops *h) {
    char inside[64], between[64], from[64];
    if (h->hosts < 2) return;
    printf("  hosts     %u; links inside: %s; between: %s\n", h->hosts,
           figure(h->inside_latency_ns, h->inside_rate, inside, sizeof inside),
           figure(h->between_latency_ns, h->between_rate, between, sizeof between));
    if (h->two_from) snprintf(from, sizeof from, "in steps of %u tokens or more on a worker", h->two_from);
    printf("  two hops  %s; %llu of %llu steps\n", h->two_from ? from : "never", (unsigned long long)h->two_hop_steps,
           (unsigned long long)(h->direct_steps + h->two_hop_steps));
    printf("  between   dispatch %s, %llu rows, %llu in one hop; combine %s, %llu rows\n",
           cli_bytes((double)h->far_dispatch_bytes), (unsigned long long)h->far_rows, (unsigned long long)h->far_direct,
           cli_bytes((double)h->far_combine_bytes), (unsigned long long)h->far_answers);
}

static void print_tasks(const struct cadre_links *l) {
    printf("\n%4s %12s %9s %9s   computing while no frame moves\n", "rank", "tasks", ">200us", "longest");
    for (uint32_t w = 0; w < l->n; w++) {
        char longest[32];
        printf("%4u %12llu %8.3f%% %9s\n", w, (unsigned long long)l->tasks[w],
               l->tasks[w] ? 100.0 * (double)l->tasks_long[w] / (double)l->tasks[w] : 0.0,
               bound(l->tasks_longest_us[w], longest, sizeof longest));
    }
}

static void print_links(const struct cadre_links *l) {
    if (l->slowest < 0) printf("\n  slow      none of %u workers stands out\n", l->n);
    else printf("\n  slow      worker %d: the others wait for it during %u%% of their steps\n", l->slowest, l->slowest_percent);
    print_hops(&l->hops);
    printf("  steps     %llu in one piece, %llu in two microbatches\n", (unsigned long long)l->steps_whole,
           (unsigned long long)l->steps_halved);
    printf("\n%4s %4s %11s %12s %9s %12s %8s %8s   %6s %6s %6s %6s %6s\n", "from", "to", "bytes", "frames", "wait", "messages",
           "p50", "p99", "1us", "32us", "1ms", "32ms", "more");
    for (uint32_t from = 0; from < l->n; from++)
        for (uint32_t to = 0; to < l->n; to++) {
            size_t i = (size_t)from * l->n + to;
            char wait[32], p50[32], p99[32];
            if (from == to) continue;
            printf("%4u %4u %11s %12llu %9s %12llu %8s %8s  ", from, to, cli_bytes((double)l->bytes[i]),
                   (unsigned long long)l->frames[i], duration(l->wait_us[i], wait, sizeof wait),
                   (unsigned long long)l->waits[i], bound(l->p50_us[i], p50, sizeof p50), bound(l->p99_us[i], p99, sizeof p99));
            print_waits(l->histogram + i * l->buckets, l->buckets, l->waits[i]);
        }
    print_odd_frames(l);
    print_tasks(l);
}

static void json_pair(const char *comma, const char *key, const char *value) {
    printf("%s\"%s\":", comma, key);
    cli_json_string(stdout, value, strlen(value));
}
static void json_number(const char *key, uint64_t value) { printf(",\"%s\":%llu", key, (unsigned long long)value); }

static void json_time(const struct cadre_time *t) {
    printf(",\"time\":{\"attention_us\":%llu", (unsigned long long)t->attention);
    json_number("dense_us", t->dense);
    json_number("gate_us", t->gate);
    json_number("dispatch_us", t->dispatch);
    json_number("experts_us", t->experts);
    json_number("combine_us", t->combine);
    json_number("wait_us", t->wait);
    json_number("output_us", t->output);
    json_number("scheduler_us", t->scheduler);
    putchar('}');
}

static void json_recovery(const struct cadre_recovery *r) {
    printf(",\"recovery\":{");
    json_pair("", "without_one", r->without_one);
    json_number("deaths", r->deaths);
    json_number("detect_us", r->detect_us);
    json_number("decide_us", r->decide_us);
    json_number("reload_us", r->reload_us);
    json_number("first_step_us", r->first_step_us);
    json_number("recompute_us", r->recompute_us);
    putchar('}');
}

static void json_journal(const struct cadre_journal *j) {
    printf(",\"journal\":{\"dir\":");
    cli_json_string(stdout, j->dir, strlen(j->dir));
    printf(",\"fault\":");
    cli_json_string(stdout, j->fault, strlen(j->fault));
    json_number("records", j->records);
    json_number("bytes", j->bytes);
    json_number("syncs", j->syncs);
    json_number("segments", j->segments);
    json_number("dropped", j->dropped);
    json_number("segment_bytes", j->segment_bytes);
    json_number("requests", j->requests);
    json_number("lag_us", j->lag_us);
    json_number("lag_bytes", j->lag_bytes);
    printf("}");
}

static void json_hops(const struct cadre_hops *h) {
    printf(",\"hops\":{\"hosts\":%u", h->hosts);
    json_number("inside_latency_ns", h->inside_latency_ns);
    json_number("inside_rate", h->inside_rate);
    json_number("between_latency_ns", h->between_latency_ns);
    json_number("between_rate", h->between_rate);
    json_number("two_from", h->two_from);
    json_number("direct_steps", h->direct_steps);
    json_number("two_hop_steps", h->two_hop_steps);
    json_number("far_rows", h->far_rows);
    json_number("far_direct", h->far_direct);
    json_number("far_answers", h->far_answers);
    json_number("far_dispatch_bytes", h->far_dispatch_bytes);
    json_number("far_combine_bytes", h->far_combine_bytes);
    putchar('}');
}

static void json_tasks(const struct cadre_links *l) {
    printf(",\"steps_whole\":%llu", (unsigned long long)l->steps_whole);
    json_number("steps_halved", l->steps_halved);
    printf(",\"tasks\":[");
    for (uint32_t w = 0; w < l->n; w++) {
        printf("%s{\"rank\":%u", w ? "," : "", w);
        json_number("tasks", l->tasks[w]);
        json_number("long", l->tasks_long[w]);
        json_number("longest_us", l->tasks_longest_us[w]);
        putchar('}');
    }
    putchar(']');
}

static void json_links(const struct cadre_links *l) {
    printf(",\"slowest\":");
    if (l->slowest < 0) printf("null");
    else printf("{\"rank\":%d,\"percent\":%u}", l->slowest, l->slowest_percent);
    printf(",\"links\":[");
    const char *comma = "";
    for (uint32_t from = 0; from < l->n; from++)
        for (uint32_t to = 0; to < l->n; to++) {
            size_t i = (size_t)from * l->n + to;
            if (from == to) continue;
            printf("%s{\"from\":%u,\"to\":%u", comma, from, to);
            json_number("bytes", l->bytes[i]);
            json_number("frames", l->frames[i]);
            json_number("wait_us", l->wait_us[i]);
            json_number("messages", l->waits[i]);
            json_number("p50_us", l->p50_us[i]);
            json_number("p99_us", l->p99_us[i]);
            json_number("extra", l->extra[i]);
            json_number("stale", l->stale[i]);
            json_number("duplicate", l->duplicate[i]);
            json_number("bad", l->bad[i]);
            printf(",\"waits\":[");
            for (uint32_t b = 0; b < l->buckets; b++)
                printf("%s%llu", b ? "," : "", (unsigned long long)l->histogram[i * l->buckets + b]);
            putchar(']');
            putchar('}');
            comma = ",";
        }
    putchar(']');
    json_hops(&l->hops);
    json_tasks(l);
}

static void print_json(const struct cadre_cluster *c, const struct cadre_links *l) {
    json_pair("{", "state", c->state);
    json_pair(",", "reason", c->reason);
    json_pair(",\"health\":{", "level", health_name(c->health.level));
    json_pair(",", "part", c->health.part);
    json_pair(",", "text", c->health.text);
    putchar('}');
    json_pair(",", "model", c->model);
    json_pair(",", "family", c->family);
    json_pair(",", "version", c->version);
    json_pair(",", "numeric_class", c->numeric_class);
    json_pair(",", "fabric", c->fabric);
    json_pair(",", "listen", c->listen);
    json_pair(",", "control", c->control);
    json_number("uptime_us", c->uptime_us);
    json_number("epoch", c->epoch);
    json_number("placement_version", c->placement_version);
    json_number("steps", c->steps);
    json_number("waiting", c->waiting);
    json_number("running", c->running);
    json_number("finished", c->finished);
    json_number("cancelled", c->cancelled);
    json_number("expired", c->expired);
    json_number("failed", c->failed);
    json_number("preemptions", c->preemptions);
    json_number("strangers", c->strangers);
    json_number("missing_experts", c->missing_experts);
    json_number("prompt_tokens", c->prompt_tokens);
    json_number("generated_tokens", c->generated_tokens);
    json_number("max_context", c->max_context);
    json_number("max_batch", c->max_batch);
    json_number("layers", c->layers);
    json_number("experts", c->experts);
    json_number("topk", c->topk);
    if (c->journal) json_journal(c->journal);
    if (c->recovery) json_recovery(c->recovery);
    printf(",\"workers\":[");
    for (size_t i = 0; i < c->n_workers; i++) {
        const struct cadre_worker *w = &c->workers[i];
        printf("%s{\"rank\":%u", i ? "," : "", w->rank);
        json_pair(",", "host", w->host);
        json_number("pid", w->pid);
        json_pair(",", "state", w->state);
        json_number("load_percent", w->load_percent);
        json_pair(",", "placement", w->placement);
        json_number("experts", w->experts);
        json_number("weight_bytes", w->weight_bytes);
        json_number("resident_bytes", w->resident_bytes);
        json_number("kv_bytes", w->kv_bytes);
        json_number("mapped_bytes", w->mapped_bytes);
        json_number("buffer_bytes", w->buffer_bytes);
        json_number("exchange_bytes", w->exchange_bytes);
        json_number("pack_blobs", w->pack_blobs);
        json_number("peer_blobs", w->peer_blobs);
        json_number("disk_blobs", w->disk_blobs);
        json_number("source_failures", w->source_failures);
        json_number("kv_pages", w->kv_pages);
        json_number("kv_pages_used", w->kv_pages_used);
        json_number("sequences", w->sequences);
        json_number("rows", w->rows);
        json_number("busy_us", w->busy_us);
        json_number("wait_us", w->wait_us);
        json_number("beat_age_us", w->beat_age_us);
        json_time(&w->time);
        putchar('}');
    }
    putchar(']');
    if (l) json_links(l);
    printf("}\n");
}

/* Asks until the cluster serves and is well, or fails, or the time is over. A cadre_code; *out is set when that is CADRE_OK. */
static int ask(struct cadre_client *client, int64_t wait_s, struct cadre_cluster **out) {
    int64_t until = clk_now_us() + wait_s * 1000000;
    for (;;) {
        int code = cadre_status(client, 0, out);
        bool again = code ? code == CADRE_UNAVAILABLE : !strcmp((*out)->state, "loading") || (*out)->health.level == 1;
        if (!again || clk_now_us() >= until) return code;
        if (!code) cadre_cluster_free(*out);
        struct cadre_stream *none;
        cadre_wait(client, 200, &none); /* there is no stream: a pause that a signal ends */
    }
}

static int run(const struct options *o) {
    struct cadre_client *client = cli_connect("status", o->connect, o->key, true);
    struct cadre_cluster *cluster = NULL;
    struct cadre_links *links = NULL;
    if (!client) return EXIT_FAILED;
    int code = ask(client, o->wait, &cluster), status = EXIT_UNHEALTHY;
    if (!code && o->links && (code = cadre_links(client, 0, &links))) cadre_cluster_free(cluster);
    if (code) {
        if (!o->quiet) cli_complain("status", code, cadre_error(client));
        if (code != CADRE_UNAVAILABLE && code != CADRE_DEADLINE_EXCEEDED) status = EXIT_FAILED;
    } else {
        bool refuses = cluster->journal && cluster->journal->fault[0];
        if (!strcmp(cluster->state, "serving") && !refuses && cluster->health.level < 2)
            status = cluster->health.level ? EXIT_AMBER : EXIT_DONE;
        if (!o->quiet && (o->json || !strcmp(o->output, "json"))) print_json(cluster, links);
        else if (!o->quiet) print_table(cluster);
        const bool tables = !o->quiet && !o->json && strcmp(o->output, "json");
        if (tables && o->time) print_time(cluster);
        if (tables && links) print_links(links);
        cadre_links_free(links);
        cadre_cluster_free(cluster);
    }
    cadre_close(client);
    return status;
}

int status_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o);
    conf_clear(&command, &o, &args);
    return status;
}
