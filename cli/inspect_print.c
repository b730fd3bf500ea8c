/* inspect_print.c - an inspection as text for people and as JSON for programs. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/inspect.h"

static const char *name_of(const char *dir, char *buf, size_t cap) {
    size_t end = strlen(dir), start;
    while (end > 1 && dir[end - 1] == '/') end--;
    for (start = end; start > 0 && dir[start - 1] != '/'; start--) continue;
    snprintf(buf, cap, "%.*s", (int)(end - start), dir + start);
    return buf;
}

/* "671.03 B" */
static const char *count_text(uint64_t n, char *buf, size_t cap) {
    static const char *const units[] = {"", " thousand", " M", " B", " T"};
    double v = (double)n;
    int u = 0;
    for (; v >= 1000 && u < 4; u++) v /= 1000;
    snprintf(buf, cap, u ? "%.2f%s" : "%.0f%s", v, units[u]);
    return buf;
}

static void print_size(const char *label, uint64_t bytes) {
    printf("%s%s (%llu bytes)", label, cli_bytes((double)bytes), (unsigned long long)bytes);
}

static void print_experts(const struct model_config *c) {
    printf("experts     %d in each, %d per token%s", c->gate.experts, c->gate.k,
           c->shared == SHARED_NONE ? "" : ", and a shared one");
    if (c->experts.shared_rows) printf("; %d of %d rows in common", c->experts.shared_rows, c->expert_ffn);
    if (c->experts.fusion_dim) printf("; fused by agreement");
    if (c->experts.confidence) printf("; with confidence heads");
    putchar('\n');
}

static void print_model(const struct inspection *i) {
    const struct model_config *c = &i->checkpoint.config;
    char name[256], total[32], active[32];
    int files = st_file_count(i->checkpoint.tensors);
    printf("model       %s (%s), ", name_of(i->dir, name, sizeof name), c->family);
    if (i->checkpoint.pack) printf("a pack\n");
    else printf("%d file%s\n", files, files == 1 ? "" : "s");
    printf("parameters  %s in all, %s active per token (%llu, %llu)\n", count_text(i->sizes.params_total, total, sizeof total),
           count_text(i->sizes.params_active, active, sizeof active), (unsigned long long)i->sizes.params_total,
           (unsigned long long)i->sizes.params_active);
    printf("layers      %d: %d dense, %d with experts; hidden %d, vocabulary %d, made for %d positions\n", c->layers,
           c->layers - c->moe_layers, c->moe_layers, c->hidden, c->vocab, c->max_positions);
    if (c->moe_layers) print_experts(c);
    printf("router      %s\n", i->router[0] ? i->router : "none: a dense model");
}

static void print_weights(const struct inspection *i) {
    const char *comma = "";
    printf("stored as   %s", i->checkpoint.pack ? "in memory" : "");
    for (int t = 0; t < ST_DTYPE_COUNT; t++) {
        if (!i->stored_bytes[t]) continue;
        printf("%s%s ", comma, st_dtype_name((enum st_dtype)t));
        print_size("", i->stored_bytes[t]);
        comma = ", ";
    }
    printf("\nin memory   ");
    comma = "";
    for (int f = 0; f <= FMT_STORED; f++) {
        if (!fmt_wish((enum fmt)f) || !i->weight_bytes[f]) continue;
        printf("%s%s ", comma, fmt_name((enum fmt)f));
        print_size("", i->weight_bytes[f]);
        comma = ", ";
    }
    printf("\nKV          %llu bytes per token as %s\n", (unsigned long long)i->kv_token_bytes, fmt_name(i->plan.kv));
}

static void print_workers(const struct inspection *i) {
    const struct measure *m = &i->plan;
    printf("\n%d worker%s, weights as %s, %d sequences of %d tokens, steps of %d rows, KV for %lld tokens per worker:\n\n",
           m->workers, m->workers == 1 ? "" : "s", fmt_name(m->weights), i->max_batch, m->max_context, m->step_tokens,
           (long long)m->kv_pages * m->page_tokens);
    printf("%6s %11s %11s %11s %11s %11s %11s %11s\n", "worker", "experts", "other", "(mapped)", "KV", "buffers", "exchange",
           "total");
    for (int w = 0, last; w < m->workers; w = last + 1) {
        const struct worker_bytes *b = &i->worker[w];
        char rank[16];
        last = w;
        while (last + 1 < m->workers && !memcmp(&i->worker[last + 1], b, sizeof *b)) last++;
        snprintf(rank, sizeof rank, last > w ? "%d-%d" : "%d", w, last);
        printf("%6s %11s %11s ", rank, cli_bytes((double)b->experts), cli_bytes((double)b->resident));
        printf("%11s %11s ", cli_bytes((double)worker_bytes_mapped(b)), cli_bytes((double)b->kv));
        printf("%11s %11s ", cli_bytes((double)b->buffers), cli_bytes((double)b->exchange));
        printf("%11s\n", cli_bytes((double)worker_bytes_total(b)));
    }
}

/* Of all workers on one host, once their KV is in use. Each expert has one holder here, so its pages are no one else's. */
static uint64_t expected_resident(const struct inspection *i) {
    uint64_t sum = 0, mapped = 0;
    for (int w = 0; w < i->plan.workers; w++) {
        const struct worker_bytes *b = &i->worker[w];
        sum += worker_bytes_total(b) - b->mapped + measure_scratch(1);
        if (b->mapped > mapped) mapped = b->mapped;
    }
    return sum + mapped;
}

/* More workers make only the experts' part smaller; the rows they exchange become more. */
static void print_too_large(const struct inspection *i) {
    if (i->least_whole > i->memory)
        printf("; needs more memory, not more workers: other weights, KV and buffers alone take %s of each or more\n",
               cli_bytes((double)i->least_whole));
    else
        printf("; not even %d, the most a cluster has, are enough: each of %d would take %s\n", INSPECT_MAX_WORKERS,
               i->least_workers, cli_bytes((double)i->least));
}

static void print_room(const struct inspection *i) {
    const char *memory = cli_bytes((double)i->memory);
    printf("fits        %d worker%s of %s: %s", i->plan.workers, i->plan.workers == 1 ? "" : "s", memory,
           i->fits ? "yes" : "no");
    if (i->plan.workers > 1) printf("; %d, should one die: %s", i->plan.workers - 1, i->fits_less ? "yes" : "no");
    if (i->needed) printf("; needs %d\n", i->needed);
    else print_too_large(i);
}

void inspect_print_text(const struct inspection *i) {
    print_model(i);
    print_weights(i);
    print_workers(i);
    printf("\ntogether    %s on one host: mapped pages once, and %s of scratch each\n", cli_bytes((double)expected_resident(i)),
           cli_bytes((double)measure_scratch(1)));
    if (i->memory) print_room(i);
}

static void json_bytes(const char *key, uint64_t v) { printf("\"%s\":%llu,", key, (unsigned long long)v); }

static void json_formats(const struct inspection *i) {
    const char *comma = "";
    printf("\"stored_bytes\":{");
    for (int t = 0; t < ST_DTYPE_COUNT; t++) {
        if (!i->stored_bytes[t]) continue;
        printf("%s\"%s\":%llu", comma, st_dtype_name((enum st_dtype)t), (unsigned long long)i->stored_bytes[t]);
        comma = ",";
    }
    printf("},\"weight_bytes\":{");
    for (int f = 0; f <= FMT_STORED; f++)
        if (fmt_wish((enum fmt)f))
            printf("%s\"%s\":%llu", f ? "," : "", fmt_name((enum fmt)f), (unsigned long long)i->weight_bytes[f]);
    printf("},");
}

static void json_workers(const struct inspection *i) {
    printf("\"workers\":[");
    for (int w = 0; w < i->plan.workers; w++) {
        const struct worker_bytes *b = &i->worker[w];
        printf("%s{\"rank\":%d,", w ? "," : "", w);
        json_bytes("weight_bytes", b->experts);
        json_bytes("resident_bytes", b->resident);
        json_bytes("mapped_bytes", worker_bytes_mapped(b));
        json_bytes("kv_bytes", b->kv);
        json_bytes("buffer_bytes", b->buffers);
        json_bytes("exchange_bytes", b->exchange);
        printf("\"total_bytes\":%llu}", (unsigned long long)worker_bytes_total(b));
    }
    printf("]");
}

void inspect_print_json(const struct inspection *i) {
    const struct model_config *c = &i->checkpoint.config;
    char name[256];
    printf("{\"model\":");
    cli_json_string(stdout, name_of(i->dir, name, sizeof name), strlen(name));
    printf(",\"family\":\"%s\",", c->family);
    json_bytes("parameters", i->sizes.params_total);
    json_bytes("active_parameters", i->sizes.params_active);
    printf("\"layers\":%d,\"moe_layers\":%d,\"dense_layers\":%d,\"experts\":%d,\"topk\":%d,\"hidden\":%d,\"vocabulary\":%d,",
           c->layers, c->moe_layers, c->layers - c->moe_layers, c->gate.experts, c->gate.k, c->hidden, c->vocab);
    printf("\"positions\":%d,\"router\":", c->max_positions);
    cli_json_string(stdout, i->router, strlen(i->router));
    printf(",\"files\":%d,", st_file_count(i->checkpoint.tensors));
    json_formats(i);
    json_bytes("kv_bytes_per_token", i->kv_token_bytes);
    printf("\"weights\":\"%s\",\"kv\":\"%s\",\"max_batch\":%d,\"max_context\":%d,\"step_tokens\":%d,\"kv_tokens\":%lld,",
           fmt_name(i->plan.weights), fmt_name(i->plan.kv), i->max_batch, i->plan.max_context, i->plan.step_tokens,
           (long long)i->plan.kv_pages * i->plan.page_tokens);
    if (i->memory) {
        json_bytes("memory_bytes", i->memory);
        printf("\"fits\":%s,\"fits_with_one_less\":%s,", i->fits ? "true" : "false", i->fits_less ? "true" : "false");
        if (i->needed) printf("\"workers_needed\":%d,", i->needed);
        else printf("\"workers_needed\":null,");
    }
    json_bytes("expected_resident_bytes", expected_resident(i));
    json_workers(i);
    printf("}\n");
}
