/* sim_deaths.c - workers die under load, and every request ends with the bits of an undisturbed run.
 *
 * A seed draws a cluster, whom of it to kill, and after how many tokens; some of the dead come back and serve again, some die
 * while the others recover. Workers are the real ones, on the memory fabric. A failing seed is printed and replays its draws.
 *
 * usage: sim_deaths CHECKPOINT [--seeds N] [--seed S] */
#include "tests/sim/cluster.h"

#include "base/hash.h"
#include "base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STREAMS = 32, PROMPT_MAX = 48, VOCAB = 250, KILLS = 3, WAIT_S = 120 };

static uint64_t rng;
static uint64_t draw(void) { return hash_u64(rng += 0x9e3779b97f4a7c15u); }
static int range(int lo, int hi) { return lo + (int)(draw() % (uint64_t)(hi - lo + 1)); }

static int32_t prompts[STREAMS][PROMPT_MAX];
static struct cadre_request requests[STREAMS];
static void make_requests(void) {
    for (int i = 0; i < STREAMS; i++) {
        int length = 1 + i * 11 % (PROMPT_MAX - 1);
        for (int t = 0; t < length; t++) prompts[i][t] = (int32_t)(hash_u64((uint64_t)(i * 1000 + t)) % VOCAB);
        requests[i] = (struct cadre_request){.ids = prompts[i],
                                             .n_ids = (size_t)length,
                                             .max_tokens = (uint32_t)(24 + i * 7 % 40),
                                             .has_max_tokens = 1,
                                             .logprobs = 4,
                                             .ignore_eos = 1,
                                             .has_seed = 1,
                                             .seed = (uint64_t)i * 77};
        if (i % 3 == 1) requests[i].temperature = 0.9f, requests[i].top_p = 0.95f;
        if (i % 3 == 2) requests[i].temperature = 1.3f, requests[i].top_k = 20;
    }
}

struct kill {
    uint64_t tokens; /* when so many have been generated */
    int rank;
    bool at_once; /* with the next one, before anybody has recovered */
};
struct plan {
    int workers, n;
    bool comes_back; /* all the dead, when the cluster has gone on without them */
    struct kill kill[KILLS];
};
struct killer {
    const struct plan *plan;
    struct cluster *cluster;
    atomic_bool over; /* nobody asks any more */
    int killed;
};

static bool await_tokens(struct killer *k, struct cadre_client *client, uint64_t tokens) {
    while (!atomic_load(&k->over)) {
        struct cadre_cluster *s;
        if (cadre_status(client, 2000, &s) != CADRE_OK) continue;
        bool enough = s->generated_tokens >= tokens;
        cadre_cluster_free(s);
        if (enough) return true;
    }
    return false;
}

static void *kill_them(void *arg) {
    struct killer *k = arg;
    struct cadre_client *client;
    if (cadre_open(cluster_endpoint(k->cluster), NULL, &client)) die("%s", cadre_error(client));
    for (int i = 0; i < k->plan->n; i++) {
        if (!(i && k->plan->kill[i - 1].at_once) && !await_tokens(k, client, k->plan->kill[i].tokens)) break;
        cluster_kill_worker(k->cluster, k->plan->kill[i].rank);
        k->killed++;
    }
    cadre_close(client);
    return NULL;
}

static bool is_serving_with(const struct cadre_cluster *s, void *ctx) {
    int ready = 0;
    for (size_t i = 0; i < s->n_workers; i++) ready += !strcmp(s->workers[i].state, "ready");
    return !strcmp(s->state, "serving") && ready == *(int *)ctx;
}

static bool compare(const struct answer *got, const struct answer *want, const char *what) {
    for (int i = 0; i < STREAMS; i++) {
        char where[300];
        if (answer_equal(&got[i], &want[i], where, sizeof where)) continue;
        printf("# %s, request %d: %s\n", what, i, where);
        return false;
    }
    return true;
}

static bool disturb(const char *dir, const struct plan *p, const struct answer *want, int *killed) {
    static struct answer got[STREAMS];
    struct cluster_options o = {.coordinator = {.model_dir = dir,
                                                .workers = p->workers,
                                                .weights = "f32",
                                                .ids_only = true,
                                                .survive = true,
                                                .lease_us = 1000000,
                                                .max_context = 128}};
    struct cluster *c;
    struct why why;
    if (cluster_start(&o, &c, &why) < 0) die("%s", why.text);
    struct killer k = {.plan = p, .cluster = c};
    pthread_t thread;
    if (pthread_create(&thread, NULL, kill_them, &k)) die("cannot start a thread");
    bool ok = cluster_ask(c, requests, STREAMS, got, WAIT_S);
    if (!ok) printf("# not answered in time\n");
    atomic_store(&k.over, true);
    pthread_join(thread, NULL);
    *killed += k.killed;
    ok = ok && compare(got, want, "under deaths");
    int left = p->workers - k.killed;
    if (ok && p->comes_back) {
        for (int i = 0; i < k.killed; i++) cluster_restart_worker(c, p->kill[i].rank);
        left = p->workers;
    }
    ok = ok && (cluster_await(c, is_serving_with, &left, 30) || (printf("# not serving with %d workers\n", left), false));
    ok = ok && cluster_ask(c, requests, STREAMS, got, WAIT_S) && compare(got, want, "afterwards");
    return !cluster_stop(c) && ok;
}

static void ask_undisturbed(const char *dir, struct answer *want) {
    struct cluster_options o = {
        .coordinator = {.model_dir = dir, .workers = 1, .weights = "f32", .ids_only = true, .max_context = 128}};
    struct cluster *c;
    struct why why;
    if (cluster_start(&o, &c, &why) < 0) die("%s", why.text);
    if (!cluster_ask(c, requests, STREAMS, want, WAIT_S)) die("the undisturbed cluster does not answer in time");
    for (int i = 0; i < STREAMS; i++)
        if (want[i].status) die("request %d of the undisturbed cluster: %s", i, want[i].message);
    if (cluster_stop(c)) die("the undisturbed cluster did not end in order");
}

static struct plan draw_plan(void) {
    struct plan p = {.workers = range(2, 4), .comes_back = range(0, 1)};
    int order[4] = {0, 1, 2, 3};
    p.n = range(1, p.workers - 1);
    for (int i = 0; i < p.n; i++) {
        int j = range(i, p.workers - 1), rank = order[j];
        order[j] = order[i];
        order[i] = rank;
        p.kill[i] = (struct kill){(uint64_t)range(1, 900), rank, range(0, 2) == 0};
        if (i && p.kill[i].tokens < p.kill[i - 1].tokens) p.kill[i].tokens = p.kill[i - 1].tokens;
    }
    return p;
}

static void say_plan(uint64_t seed, const struct plan *p) {
    printf("# seed %" PRIu64 ": %d workers", seed, p->workers);
    for (int i = 0; i < p->n; i++)
        printf(", %d dies %s %" PRIu64 " tokens", p->kill[i].rank, i && p->kill[i - 1].at_once ? "at once, not" : "after",
               p->kill[i].tokens);
    printf("%s\n", p->comes_back ? ", and they come back" : "");
}

int main(int argc, char **argv) {
    static struct answer want[STREAMS];
    uint64_t seeds = 4, first = 1;
    int failed = 0, killed = 0;
    for (int i = 2; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seed")) first = strtoull(argv[i + 1], NULL, 10), seeds = 1;
    }
    if (argc < 2) die("usage: sim_deaths CHECKPOINT [--seeds N] [--seed S]");
    log_set_level(seeds == 1 ? LOG_INFO : LOG_ERROR);
    make_requests();
    ask_undisturbed(argv[1], want);
    for (uint64_t s = first; s < first + seeds; s++) {
        rng = hash_u64(s + 1);
        struct plan p = draw_plan();
        bool ok = disturb(argv[1], &p, want, &killed);
        if (!ok || seeds == 1) say_plan(s, &p);
        printf("%s %" PRIu64 " - seed %" PRIu64 "\n", ok ? "ok" : "not ok", s - first + 1, s);
        fflush(stdout);
        failed += !ok;
    }
    printf("1..%" PRIu64 "\n# %d workers killed, %d seeds failed\n", seeds, killed, failed);
    return failed > 0 || !killed;
}
