/* sim_missing.c - experts that are on no worker: requests that allow degraded answers get them and are told; all others wait,
 * in nobody's way, until their deadline, their client or the cluster's end.
 *
 * usage: sim_missing DATA_DIR */
#include "tests/sim/cluster.h"

#include "base/hash.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int passed, failed;
static void report(bool ok, const char *what, const char *where) {
    printf("%s %d - %s%s%s\n", ok ? "ok" : "not ok", passed + failed + 1, what, ok ? "" : ": ", ok ? "" : where);
    fflush(stdout);
    *(ok ? &passed : &failed) += 1;
}

enum { SUBJECTS = 8, PROMPT_MAX = 60 };
static int32_t prompts[SUBJECTS][PROMPT_MAX];
static struct cadre_request requests[SUBJECTS];
static const char *data;

static void make_requests(void) {
    for (int i = 0; i < SUBJECTS; i++) {
        int n = 1 + (i * 17) % PROMPT_MAX;
        for (int t = 0; t < n; t++) prompts[i][t] = (int32_t)(hash_u64((uint64_t)(i * 1000 + t)) % 250);
        requests[i] = (struct cadre_request){.ids = prompts[i],
                                             .n_ids = (size_t)n,
                                             .max_tokens = (uint32_t)(12 + i),
                                             .has_max_tokens = 1,
                                             .ignore_eos = 1,
                                             .logprobs = 4,
                                             .has_seed = 1,
                                             .seed = (uint64_t)i,
                                             .temperature = i % 2 ? 0.9f : 0,
                                             .allow_degraded = 1};
    }
}

/* rules: after "* * *" a line for what is missing. */
static struct cluster *start(const char *name, int workers, int prefill_chunk, const char *rules) {
    char path[] = "/tmp/sim_missing.XXXXXX", dir[1024];
    snprintf(dir, sizeof dir, "%s/%s", data, name);
    struct cluster_options o = {.threads = workers,
                                .coordinator = {.model_dir = dir,
                                                .workers = workers,
                                                .weights = "f32",
                                                .max_batch = 16,
                                                .max_context = 128,
                                                .prefill_chunk = prefill_chunk,
                                                .placement_file = path}};
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    struct cluster *c;
    struct why why;
    if (!f) die("no temporary file");
    fprintf(f, "* * *\n%s", rules);
    fclose(f);
    if (cluster_start(&o, &c, &why) < 0) die("%s: %s", name, why.text);
    remove(path);
    return c;
}

/* A request that runs while experts are missing has the same bits whatever the cluster; and others than with all experts. */
static void test_bits(const char *name, const char *rules) {
    static struct answer want[SUBJECTS], got[SUBJECTS];
    static const int workers[] = {2, 3, 5}, chunks[] = {0, 3, 1};
    char where[300] = "", at[200];
    struct cluster *c = start(name, 1, 0, rules);
    for (int i = 0; i < SUBJECTS; i++)
        if (!cluster_ask(c, &requests[i], 1, &want[i], 60) || want[i].status) die("%s: %s", name, want[i].message);
    bool told = true;
    for (int i = 0; i < SUBJECTS; i++) told = told && want[i].degraded && want[i].n == (int)requests[i].max_tokens;
    report(told, name, "an answer is not marked as degraded");
    cluster_stop(c);
    for (size_t v = 0; v < sizeof workers / sizeof *workers; v++) {
        c = start(name, workers[v], chunks[v], rules);
        bool ok = cluster_ask(c, requests, SUBJECTS, got, 60);
        for (int i = 0; ok && i < SUBJECTS; i++) {
            ok = answer_equal(&got[i], &want[i], at, sizeof at);
            if (!ok) snprintf(where, sizeof where, "request %d: %s", i, at);
        }
        snprintf(at, sizeof at, "%s without some experts: the same bits of %d workers, in a crowd", name, workers[v]);
        report(ok, at, where);
        cluster_stop(c);
    }
    c = start(name, 2, 0, "");
    bool ok = cluster_ask(c, requests, SUBJECTS, got, 60), differs = false;
    for (int i = 0; i < SUBJECTS; i++) {
        ok = ok && !got[i].status && !got[i].degraded;
        differs = differs || !answer_equal(&got[i], &want[i], at, sizeof at);
    }
    report(ok && differs, "with all experts there, allowing degraded answers changes nothing",
           ok ? "the same answers" : "marked");
    cluster_stop(c);
}

static bool shows_missing(const struct cadre_cluster *s, void *where) {
    snprintf(where, 300, "%u missing: '%s'", s->missing_experts, s->missing);
    return s->missing_experts == 3 && !strcmp(s->missing, "expert 1 of layer 0 is on no worker (and 2 more)");
}
static bool one_waits(const struct cadre_cluster *s, void *ctx) { return (void)ctx, s->waiting == 1 && s->running == 0; }

static void test_waiting(void) {
    char where[300] = "";
    struct cluster *c = start("mixtral", 2, 0, "0 1 -\n1 0,3 -\n");
    report(cluster_await(c, shows_missing, where, 10), "status names what is missing", where);

    struct cadre_client *client;
    struct cadre_stream *held;
    struct cadre_event e;
    struct cadre_request patient = requests[0];
    patient.allow_degraded = 0;
    if (cadre_open(cluster_endpoint(c), NULL, &client) || cadre_generate(client, &patient, &held)) die("no client");
    report(cluster_await(c, one_waits, NULL, 10), "a request that wants all experts waits", "it does not");

    struct answer a[SUBJECTS];
    bool ok = cluster_ask(c, requests, SUBJECTS, a, 60);
    for (int i = 0; i < SUBJECTS; i++) ok = ok && !a[i].status && a[i].degraded;
    report(ok, "those that allow degraded answers do not wait behind it", a[0].message);

    struct cadre_request hasty = requests[1];
    hasty.allow_degraded = 0;
    hasty.timeout_ms = 300;
    ok = cluster_ask(c, &hasty, 1, a, 30);
    report(ok && a[0].status == CADRE_DEADLINE_EXCEEDED && strstr(a[0].message, "expert 1 of layer 0 is on no worker"),
           "its deadline says what it waited for", a[0].message);

    report(cluster_await(c, one_waits, NULL, 10), "the patient one waits still", "it does not");
    report(cluster_stop(c) == 0, "the cluster drains", "it does not");
    int status = -1;
    while (cadre_next(held, 5000, &e) == CADRE_OK && e.kind != CADRE_END) {
    }
    if (e.kind == CADRE_END) status = e.status, snprintf(where, sizeof where, "%d %s", e.status, e.message);
    report(status == CADRE_UNAVAILABLE && strstr(where, "is on no worker"), "and tells who waits that nothing will come",
           where);
    cadre_stream_close(held);
    cadre_close(client);
}

int main(int argc, char **argv) {
    if (argc != 2) die("usage: sim_missing DATA_DIR");
    data = argv[1];
    log_set_level(LOG_ERROR);
    make_requests();
    test_bits("mixtral", "0 1,6 -\n1 0,2-3,7 -\n");
    test_bits("cadre_moe_score", "0 0-2 -\n1 6 -\n");
    test_bits("cadre_moe_fusion_rows", "1 0-2,4 -\n");
    test_bits("cadre_moe_fusion_rows", "1 * -\n"); /* not one expert is left in a layer */
    test_bits("router_two_stage", "0 0,3-5 -\n1 2,7 -\n");
    test_bits("router_tree_beam", "0 0-7 -\n1 3,9 -\n"); /* whole branches, and leaves */
    test_bits("router_tree_exact", "0 0-5,9 -\n");
    test_bits("router_tree_exact", "1 * -\n");
    test_bits("router_dynamic", "0 0-3 -\n1 5 -\n");
    test_waiting();
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
