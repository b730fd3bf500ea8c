/* sim_promise.c - promise 1: a request's tokens and logprob bits depend only on model, prompt and sampling parameters.
 *
 * For every tiny checkpoint and both weight formats, answers of one worker, asked one at a time, are compared to the bit with
 * those of clusters of other sizes, thread counts, placements and chunkings, alone and among others, and after preemption.
 *
 * usage: sim_promise DATA_DIR [--all | --only CHECKPOINT]
 * Every variation runs for one checkpoint and a few for all the others; --all: every one for all. */
#include "tests/golden/names.h"
#include "tests/sim/cluster.h"

#include "base/hash.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUBJECTS = 6, ALL = 22, PROMPT_MAX = 60, VOCAB = 250 };

static int passed, failed;
static void report(bool ok, const char *what, const char *where) {
    printf("%s %d - %s%s%s\n", ok ? "ok" : "not ok", passed + failed + 1, what, ok ? "" : ": ", ok ? "" : where);
    fflush(stdout);
    *(ok ? &passed : &failed) += 1;
}

/* Prompts of different lengths, greedy and every kind of sampling. The last sixteen grow by several pages, so that few fit. */
static int32_t prompts[ALL][PROMPT_MAX];
static void make_requests(struct cadre_request *r) {
    for (int which = 0; which < ALL; which++) {
        int length = which < SUBJECTS ? 1 + (which * 13) % (PROMPT_MAX - 1) : 1 + which;
        for (int t = 0; t < length; t++) prompts[which][t] = (int32_t)(hash_u64((uint64_t)(which * 1000 + t)) % VOCAB);
        r[which] = (struct cadre_request){.ids = prompts[which],
                                          .n_ids = (size_t)length,
                                          .max_tokens = (uint32_t)(which < SUBJECTS ? 16 + which % 9 : 40 + which),
                                          .has_max_tokens = 1,
                                          .logprobs = 4,
                                          .ignore_eos = 1,
                                          .has_seed = 1,
                                          .seed = (uint64_t)which * 77};
        if (which % 3 == 1) r[which].temperature = 0.9f, r[which].top_p = 0.95f;
        if (which % 3 == 2) r[which].temperature = 1.3f, r[which].top_k = 20, r[which].min_p = 0.01f;
    }
}

struct variation {
    const char *name;
    int workers, threads, step_tokens, prefill_chunk, microbatches, hosts;
    int64_t kv_tokens;
    const char *isa;
    bool crowd;    /* all at once, the first six among sixteen others; else those six one by one */
    bool replicas; /* another placement, with replicas */
    bool preempts; /* must have happened, or the variation proves nothing */
    bool mixed;    /* the same of steps in one hop and steps in two: links are said to make them equal at some rows */
};
static const struct variation variations[] = {
    {.name = "2 workers, alone", .workers = 2},
    {.name = "2 workers, in a crowd", .workers = 2, .crowd = true},
    {.name = "3 workers, 2 threads, in a crowd", .workers = 3, .threads = 2, .crowd = true},
    {.name = "4 workers, in a crowd, another placement with replicas", .workers = 4, .crowd = true, .replicas = true},
    {.name = "8 workers, in a crowd, chunks of 3", .workers = 8, .prefill_chunk = 3, .crowd = true},
    {.name = "1 worker, 3 threads, in a crowd, 7 rows a step", .workers = 1, .threads = 3, .step_tokens = 7, .crowd = true},
    {.name = "1 worker, in a crowd, token by token", .workers = 1, .prefill_chunk = 1, .crowd = true},
    {.name = "2 workers, two microbatches, in a crowd, preempted", .workers = 2, .microbatches = 2, .kv_tokens = 128,
     .crowd = true, .preempts = true},
    {.name = "5 workers on 2 hosts, two hops, two microbatches, alone", .workers = 5, .hosts = 2, .microbatches = 2},
    {.name = "6 workers on 3 hosts, one hop or two by the step, in a crowd", .workers = 6, .hosts = 3, .crowd = true,
     .mixed = true},
    {.name = "2 workers, in a crowd, AVX2 kernels", .workers = 2, .isa = "avx2", .crowd = true},
};
enum { VARIATIONS = sizeof variations / sizeof *variations };
static bool is_basic(int v) { return v == 3 || v == 7; }

/* Expert e of every layer on worker (e * 5 + 1) % R, and on the next one too when e is odd. */
static void write_placement(const char *path, int workers, int experts) {
    FILE *f = fopen(path, "w");
    if (!f) die("cannot write %s", path);
    for (int e = 0; e < experts; e++) {
        int w = (e * 5 + 1) % workers;
        if (e % 2) fprintf(f, "* %d %d,%d\n", e, w, (w + 1) % workers);
        else fprintf(f, "* %d %d\n", e, w);
    }
    fclose(f);
}

/* How a cluster is started, whatever the variation. */
struct setting {
    const char *dir, *weights, *kv;
    bool naive; /* prompts of a model with latents in the expanded form: other bits, which depend on no more than those of the
                 * absorbed one while no page is shared */
    const char *payload, *combine_payload; /* and so do these, each its own numeric class */
    bool fused;
};

static bool find_experts(const struct cadre_cluster *s, void *ctx) { return *(int *)ctx = (int)s->experts, true; }

static struct cluster *start(const struct setting *s, const struct variation *v, int experts) {
    char path[] = "/tmp/sim_promise.XXXXXX";
    struct cluster_options o = {.threads = v->threads,
                                .hosts = v->hosts,
                                .coordinator = {.model_dir = s->dir,
                                                .workers = v->workers,
                                                .weights = s->weights,
                                                .kv = s->kv,
                                                .naive_prefill = s->naive,
                                                .payload = s->payload,
                                                .combine_payload = s->combine_payload,
                                                .fused = s->fused,
                                                .microbatches = v->microbatches,
                                                .hops = v->hosts > 1 && !v->mixed ? 2 : 0,
                                                .isa = v->isa,
                                                .max_batch = v->step_tokens ? v->step_tokens : 32,
                                                .max_context = 128,
                                                .step_tokens = v->step_tokens,
                                                .prefill_chunk = v->prefill_chunk,
                                                .kv_tokens = v->kv_tokens}};
    struct cluster *c;
    struct why why;
    if (v->mixed) {
        o.coordinator.inside = (struct hops_link){.latency_us = 5, .bytes_per_us = 1e6};
        o.coordinator.between = (struct hops_link){.bytes_per_us = 10};
    }
    if (v->replicas && experts) {
        int fd = mkstemp(path);
        if (fd < 0) die("no temporary file");
        close(fd);
        write_placement(path, v->workers, experts);
        o.coordinator.placement_file = path;
    }
    if (cluster_start(&o, &c, &why) < 0) die("%s, %s: %s", s->dir, v->name, why.text);
    if (o.coordinator.placement_file) remove(path);
    return c;
}

static bool took_both(struct cluster *c, char *where, size_t cap) {
    struct cadre_client *client;
    struct cadre_links *l = NULL;
    bool both = !cadre_open(cluster_endpoint(c), NULL, &client) && !cadre_links(client, 5000, &l) && l->hops.direct_steps &&
                l->hops.two_hop_steps;
    if (l && !both)
        snprintf(where, cap, "%llu steps in one hop, %llu in two", (unsigned long long)l->hops.direct_steps,
                 (unsigned long long)l->hops.two_hop_steps);
    cadre_links_free(l);
    cadre_close(client);
    return both;
}

static void compare(const char *label, const struct variation *v, struct cluster *c, const struct cadre_request *requests,
                    const struct answer *want) {
    static struct answer got[ALL];
    char where[300] = "", what[300];
    int n = v->crowd ? ALL : SUBJECTS;
    bool ok = true;
    uint32_t preemptions = 0;
    if (v->crowd) ok = cluster_ask(c, requests, n, got, 120);
    for (int i = 0; i < n && !v->crowd; i++) ok = cluster_ask(c, &requests[i], 1, &got[i], 60) && ok;
    if (!ok) snprintf(where, sizeof where, "not answered in time");
    for (int i = 0; ok && i < n; i++) {
        char at[200];
        ok = answer_equal(&got[i], &want[i], at, sizeof at);
        if (!ok) snprintf(where, sizeof where, "request %d: %s", i, at);
        preemptions += got[i].preemptions;
    }
    if (ok && v->preempts && !preemptions) ok = false, snprintf(where, sizeof where, "nothing was preempted");
    /* from how many tokens on two hops pay depends on a model's rows and its k: never where k is 1 */
    if (ok && v->mixed && !strncmp(label, "mixtral ", 8)) ok = took_both(c, where, sizeof where);
    snprintf(what, sizeof what, "%s: %s", label, v->name);
    report(ok, what, where);
}

/* Or the variations of the naive form say nothing about it. */
static void differs_from_absorbed(const char *dir, const struct cadre_request *requests, const struct answer *naive) {
    static const struct variation alone = {.name = "absorbed", .workers = 1};
    static struct answer got;
    char at[200];
    int different = 0;
    struct cluster *c = start(&(struct setting){.dir = dir, .weights = "f32"}, &alone, 0);
    for (int i = 0; i < SUBJECTS; i++)
        different += cluster_ask(c, &requests[i], 1, &got, 60) && !answer_equal(&got, &naive[i], at, sizeof at);
    report(!cluster_stop(c) && different, "naive prefill has other last bits than the absorbed form", dir);
}

static void test_setting(const char *data, const char *name, struct setting setting, bool every) {
    static const struct variation alone = {.name = "1 worker, alone", .workers = 1};
    static struct answer want[ALL];
    struct cadre_request requests[ALL];
    char dir[1024], label[96];
    int experts = 0;
    snprintf(dir, sizeof dir, "%s/%s", data, name);
    snprintf(label, sizeof label, "%s %s%s%s%s%s%s%s", name, setting.weights, setting.kv ? ", kv " : "",
             setting.kv ? setting.kv : "", setting.naive ? ", naive prefill" : "", setting.payload ? ", payload " : "",
             setting.payload ? setting.payload : "", setting.fused ? ", fused" : "");
    make_requests(requests);
    setting.dir = dir;
    struct cluster *c = start(&setting, &alone, 0);
    cluster_await(c, find_experts, &experts, 10);
    for (int i = 0; i < ALL; i++)
        if (!cluster_ask(c, &requests[i], 1, &want[i], 60) || want[i].status || want[i].n != (int)requests[i].max_tokens)
            die("%s: request %d of the baseline ended %d after %d tokens: %s", label, i, want[i].status, want[i].n,
                want[i].message);
    compare(label, &(struct variation){.name = "1 worker, in a crowd", .crowd = true}, c, requests, want);
    report(cluster_stop(c) == 0, "ends in order", label);
    if (setting.naive) differs_from_absorbed(dir, requests, want);
    for (int v = 0; v < VARIATIONS; v++) {
        if (!every && !is_basic(v)) continue;
        c = start(&setting, &variations[v], experts);
        compare(label, &variations[v], c, requests, want);
        if (cluster_stop(c)) report(false, variations[v].name, "did not end in order");
    }
}

static void test_checkpoint(const char *data, const char *name, const char *weights, bool naive, bool every) {
    test_setting(data, name, (struct setting){.weights = weights, .naive = naive}, every);
}

int main(int argc, char **argv) {
    bool all = argc == 3 && !strcmp(argv[2], "--all");
    const char *only = argc == 4 && !strcmp(argv[2], "--only") ? argv[3] : NULL;
    if (argc != 2 && !all && !only) die("usage: sim_promise DATA_DIR [--all | --only CHECKPOINT]");
    log_set_level(LOG_ERROR);
    static struct names names;
    names_read(argv[1], &names);
    for (int i = 0; i < names.count; i++) {
        const char *name = names.name[i];
        bool full = !strcmp(name, "mixtral"), full_bf16 = !strcmp(name, "qwen2_moe");
        if (strstr(name, "_sharded") || (only && strcmp(name, only))) continue; /* sharded: the same model in other files */
        test_checkpoint(argv[1], name, "f32", false, all || full);
        if (all || full || full_bf16) test_checkpoint(argv[1], name, "bf16", false, all || full_bf16);
        if (all || strstr(name, "fp8") || strstr(name, "mxfp4")) test_checkpoint(argv[1], name, "stored", false, all);
        if (all || full_bf16) {
            test_checkpoint(argv[1], name, "q8", false, all || full_bf16);
            test_checkpoint(argv[1], name, "q4", false, all);
        }
        if (full) {
            test_setting(argv[1], name, (struct setting){.weights = "f32", .payload = "bf16", .fused = true}, true);
            test_setting(argv[1], name, (struct setting){.weights = "f32", .payload = "int8", .combine_payload = "bf16"}, all);
            test_setting(argv[1], name, (struct setting){.weights = "f32", .payload = "fp8"}, all);
        }
        if (full || full_bf16) test_setting(argv[1], name, (struct setting){.weights = "q8", .kv = full ? "int8" : "f16"}, all);
        if (!strcmp(name, "deepseek_v3")) {
            test_checkpoint(argv[1], name, "f32", true, true);
            test_setting(argv[1], name, (struct setting){.weights = "bf16", .kv = "int8"}, all);
            test_setting(argv[1], name, (struct setting){.weights = "f32", .kv = "int8", .naive = true}, all);
        }
    }
    if (!passed) die("no checkpoint of that name in %s", argv[1]);
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
