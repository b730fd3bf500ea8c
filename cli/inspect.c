/* inspect.c - `cadre inspect`: what a checkpoint is and what it would take to serve it, from config.json and headers alone. */
#include "cli/inspect.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "router/rule.h"

struct options {
    char *weights, *kv;
    int64_t workers, memory, context, batch, step_tokens, kv_tokens;
    bool json;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "The cluster to think of"},
    {"workers", CONF_INT, AT(workers), .def = "1", .min = 1, .max = INSPECT_MAX_WORKERS, .arg = "N",
     .help = "over how many workers the experts are spread"},
    {"memory", CONF_SIZE, AT(memory), .min = 1, .max = 1e15, .arg = "BYTES",
     .help = "memory of one worker (80GiB): does it fit, and how many workers does it need?"},
    {"context", CONF_SIZE, AT(context), .min = 1, .max = 1 << 24, .arg = "TOKENS",
     .help = "tokens of a sequence (32k); default: the model's, at most 4096"},
    {"batch", CONF_INT, AT(batch), .def = "32", .min = 1, .max = 65536, .arg = "N",
     .help = "sequences at once, in the whole cluster"},
    {"weights", CONF_CHOICE, AT(weights), .def = "auto", .choices = "auto|bf16|f32|q8|q4|stored",
     .help = "format of the weights in memory; stored: as on disk; auto: bf16, or the pack's"},
    {"kv", CONF_CHOICE, AT(kv), .def = "auto", .choices = "auto|f32|bf16|f16|int8",
     .help = "format of keys and values; auto: as the weights, bf16 beside quantised ones"},
    {"step-tokens", CONF_INT, AT(step_tokens), .min = 1, .max = 1 << 20, .arg = "N",
     .help = "rows one worker brings to a step; default as `cadre serve`"},
    {"kv-tokens", CONF_INT, AT(kv_tokens), .min = 1, .max = 1e11, .arg = "N",
     .help = "tokens whose KV one worker keeps; default: all its sequences at full length"},
    {"", CONF_FLAG, 0, .help = "Output"},
    {"json", CONF_FLAG, AT(json), .def = "no", .help = "print one JSON object"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre inspect",
    .usage = "DIR [options]",
    .about = "Tells what the model in a directory is and what it takes to serve it. Reads config.json and the headers of the\n"
             "safetensors files, no weights. A model that `cadre serve` would refuse is refused here with the same words.",
    .options = table,
    .footer =
        "Figures per worker are what a worker allocates, byte for byte: its own loading runs on a device that only counts.\n"
        "Mapped pages are one copy for all workers of a host.\n\n"
        "Examples:\n  cadre inspect ~/models/olmoe\n"
        "  cadre inspect ~/models/deepseek-v3 --memory 80GiB --workers 32 --context 32k --batch 64\n\n"
        "Exit status: 0 shown, 1 refused or unreadable, 2 wrong usage.",
    .min_args = 1,
    .max_args = 1};

static void add_stored(struct inspection *i) {
    const struct st_set *s = i->checkpoint.tensors;
    for (int t = 0; t < st_count(s); t++) i->stored_bytes[st_at(s, t)->dtype] += st_at(s, t)->bytes;
}

static void describe_router(struct inspection *i) {
    const struct model_config *c = &i->checkpoint.config;
    if (c->gate.experts) router_rule_text(&c->router, &c->gate, i->router, sizeof i->router);
}

/* One worker holding everything, twice, with a page of KV more: what does not grow is weights, what grows is KV. */
static int weigh(struct inspection *i, enum fmt fmt, uint64_t *weights, struct why *why) {
    struct worker_bytes one, two;
    struct measure m = {.checkpoint = &i->checkpoint,
                        .weights = fmt,
                        .kv = i->plan.kv,
                        .workers = 1,
                        .step_tokens = 1,
                        .max_seqs = 1,
                        .max_context = 1,
                        .page_tokens = MEASURE_PAGE_TOKENS,
                        .kv_pages = 1};
    int rc = measure_worker(&m, 0, &one, why);
    if (rc < 0) return rc;
    *weights = one.experts + one.resident;
    if (fmt != i->plan.weights) return 0;
    m.kv_pages = 2;
    rc = measure_worker(&m, 0, &two, why);
    i->kv_token_bytes = (two.kv - one.kv) / MEASURE_PAGE_TOKENS;
    return rc;
}

static int weigh_all(struct inspection *i, struct why *why) {
    for (int f = 0; f <= FMT_STORED; f++) {
        if (!fmt_wish((enum fmt)f) || (i->checkpoint.pack && f != (int)i->plan.weights)) continue;
        int rc = weigh(i, (enum fmt)f, &i->weight_bytes[f], why);
        if (rc < 0) return rc;
    }
    return 0;
}

/* Sizes of a cluster of that many workers; KV for every sequence at full length unless the operator said else. */
static int size_cluster(const struct options *o, struct measure *m, int workers, struct why *why) {
    struct measure_wish wish = {(int)o->batch, (int)o->context, (int)o->step_tokens, o->kv_tokens};
    m->workers = workers;
    int rc = measure_limits(m, &wish, why);
    if (rc < 0 || o->kv_tokens) return rc;
    wish.kv_tokens = (int64_t)m->max_seqs * m->max_context;
    return measure_limits(m, &wish, why);
}

static bool has_room(const struct worker_bytes *b, uint64_t memory) { return worker_bytes_total(b) <= memory; }

/* The fullest of so many workers. Placed evenly and in order, the one with the most experts is worker 0: none has more. Where
 * experts of several levels have several sizes, all are asked. */
static int fullest_worker(const struct options *o, const struct inspection *i, int workers, struct worker_bytes *out,
                          struct why *why) {
    const struct model_config *c = &i->checkpoint.config;
    struct measure m = i->plan;
    struct worker_bytes b;
    int rc = size_cluster(o, &m, workers, why);
    if (rc >= 0) rc = measure_worker(&m, 0, out, why);
    if (!c->moe_layers || model_levels(c) == 1) return rc;
    for (int w = 1; w < workers && rc >= 0; w++) {
        rc = measure_worker(&m, w, &b, why);
        if (rc >= 0 && worker_bytes_total(&b) > worker_bytes_total(out)) *out = b;
    }
    return rc;
}

static int look_for_room(const struct options *o, struct inspection *i, struct why *why) {
    struct worker_bytes most = {0};
    int rc = 0;
    i->memory = (uint64_t)o->memory;
    if (!o->memory) return 0;
    i->fits = true;
    for (int w = 0; w < i->plan.workers; w++) i->fits &= has_room(&i->worker[w], i->memory);
    for (int n = 1; n <= INSPECT_MAX_WORKERS && !i->needed && rc >= 0; n++) {
        rc = fullest_worker(o, i, n, &most, why);
        if (rc >= 0 && has_room(&most, i->memory)) i->needed = n;
        uint64_t total = worker_bytes_total(&most), whole = total - most.experts;
        if (n == 1 || total < i->least) i->least = total, i->least_workers = n;
        if (n == 1 || whole < i->least_whole) i->least_whole = whole;
    }
    if (rc >= 0 && i->plan.workers > 1) rc = fullest_worker(o, i, i->plan.workers - 1, &most, why);
    i->fits_less = has_room(&most, i->memory);
    return rc;
}

/* Experts of one level are of one size: as many of them make a worker like its neighbour. */
static bool alike(const struct model_config *c, int workers, int w) {
    int held[2] = {0};
    if (c->moe_layers && model_levels(c) != 1) return false;
    for (int e = 0; e < c->gate.experts; e++) {
        int host = e * workers / c->gate.experts;
        held[0] += host == w - 1;
        held[1] += host == w;
    }
    return held[0] == held[1];
}

static int measure_all(const struct options *o, struct inspection *i, struct why *why) {
    i->plan = (struct measure){.checkpoint = &i->checkpoint};
    int rc = checkpoint_weights(&i->checkpoint, o->weights, &i->plan.weights, why);
    i->plan.kv = model_kv_format(&i->checkpoint.config, (enum fmt)fmt_parse_kv(o->kv), i->plan.weights);
    if (rc < 0) return rc;
    i->max_batch = (int)o->batch;
    model_sizes(&i->checkpoint.config, &i->sizes);
    add_stored(i);
    describe_router(i);
    rc = weigh_all(i, why);
    if (rc >= 0) rc = size_cluster(o, &i->plan, (int)o->workers, why);
    for (int w = 0; w < o->workers && rc >= 0; w++) {
        bool again = w && alike(&i->checkpoint.config, (int)o->workers, w);
        if (again) i->worker[w] = i->worker[w - 1];
        else rc = measure_worker(&i->plan, w, &i->worker[w], why);
    }
    return rc < 0 ? rc : look_for_room(o, i, why);
}

static int run(const struct options *o, const char *dir) {
    struct inspection i = {.dir = dir};
    struct why why;
    int rc = checkpoint_open(dir, &i.checkpoint, &why);
    if (rc >= 0) {
        rc = measure_all(o, &i, &why);
        if (rc >= 0) (o->json ? inspect_print_json : inspect_print_text)(&i);
        checkpoint_close(&i.checkpoint);
    }
    if (rc < 0) fprintf(stderr, "cadre inspect: %s\n", why.text);
    return rc < 0 ? EXIT_FAILED : EXIT_DONE;
}

int inspect_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    log_set_name("inspect");
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o, args.items[0]);
    conf_clear(&command, &o, &args);
    return status;
}
