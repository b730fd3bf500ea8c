/* sim_deaths.c - workers die, stand still, or are cut off under load: every request ends with the bits of an undisturbed run.
 *
 * A seed draws a cluster and what befalls it (fate.h); reaper.h lets it happen. Workers are the real ones, on the memory
 * fabric. A failing seed is printed and replays its draws; what else the threads do is theirs.
 *
 * usage: sim_deaths CHECKPOINT [--seeds N] [--seed S] [--jobs J]: so many processes share the seeds */
#include "tests/sim/cluster.h"
#include "tests/sim/fate.h"
#include "tests/sim/reaper.h"

#include "base/hash.h"
#include "base/log.h"
#include "worker/measure.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STREAMS = 32, FEW = 8, PROMPT_MAX = 48, VOCAB = 250, CONTEXT = 128, WAIT_S = 120 };

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
        requests[i].priority = i % 4 - 1;
        if (i % 5 == 3) requests[i].stop_ids = prompts[i], requests[i].n_stop_ids = length < 16 ? (size_t)length : 16;
        if (i % 3 == 1) requests[i].temperature = 0.9f, requests[i].top_p = 0.95f;
        if (i % 3 == 2) requests[i].temperature = 1.3f, requests[i].top_k = 20;
    }
}

static bool compare_some(const struct answer *got, const struct answer *want, int n, const char *what) {
    for (int i = 0; i < n; i++) {
        char where[300];
        if (answer_equal(&got[i], &want[i], where, sizeof where)) continue;
        printf("# %s, request %d: %s\n", what, i, where);
        return false;
    }
    return true;
}

static bool compare(const struct answer *got, const struct answer *want, const char *what) {
    return compare_some(got, want, STREAMS, what);
}

/* What the fullest of so many workers takes: with one fewer somebody takes more. */
static uint64_t tight_memory(const char *dir, int workers) {
    struct checkpoint model;
    struct measure m = {.checkpoint = &model, .weights = FMT_F32, .workers = workers};
    struct measure_wish wish = {.max_context = CONTEXT};
    uint64_t most = 0;
    struct why why;
    if (checkpoint_open(dir, &model, &why) < 0 || measure_limits(&m, &wish, &why) < 0) die("%s", why.text);
    for (int w = 0; w < workers; w++) {
        struct worker_bytes b;
        if (measure_worker(&m, w, &b, &why) < 0) die("%s", why.text);
        if (worker_bytes_total(&b) > most) most = worker_bytes_total(&b);
    }
    checkpoint_close(&model);
    return most;
}

static bool says_whether_it_fits(const struct cadre_cluster *s, void *ctx) {
    return s->recovery && (s->recovery->without_one[0] != 0) == *(bool *)ctx;
}

static bool disturb(const char *dir, const struct fate *f, const struct answer *want, int *strikes) {
    static struct answer got[STREAMS];
    struct fabric_faults faults = {.seed = (uint64_t)f->n,
                                   .delay_percent = f->fault_percent,
                                   .reorder_percent = f->fault_percent,
                                   .duplicate_percent = f->fault_percent};
    struct cluster_options o = {.hosts = f->hosts,
                                .faults = f->fault_percent ? &faults : NULL,
                                .coordinator = {.model_dir = dir,
                                                .workers = f->workers,
                                                .weights = "f32",
                                                .ids_only = true,
                                                .survive = true,
                                                .prove = true,
                                                .journal_dir = f->restart ? "" : NULL,
                                                .hops = f->hops,
                                                .microbatches = f->microbatches,
                                                .memory = f->tight ? tight_memory(dir, f->workers) : 0,
                                                .lease_us = 600000,
                                                .patience_us = 500000,
                                                .max_context = CONTEXT}};
    struct cluster *c;
    struct why why;
    bool tight = f->tight;
    if (cluster_start(&o, &c, &why) < 0) die("%s", why.text);
    bool ok = cluster_await(c, says_whether_it_fits, &tight, 1);
    if (!ok) printf("# the cluster does not say that it could%s go on without one worker\n", tight ? " not" : "");
    struct reaper *r = reaper_start(c, f, STREAMS);
    bool all = cluster_ask(c, requests, STREAMS, got, WAIT_S);
    if (!all) printf("# not answered in time\n");
    bool still = reaper_join(r, strikes);
    ok = ok && all && compare(got, want, "under deaths") && still;
    if (ok && !f->drains) ok = cluster_ask(c, requests, FEW, got, WAIT_S) && compare_some(got, want, FEW, "afterwards");
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

enum { FAILED = 1, IDLE = 2 /* nobody was struck */ };
/* Seeds first + job, first + job + jobs, ...: most of a seed is waiting, for leases above all. */
static int run_seeds(const char *dir, uint64_t first, uint64_t seeds, uint64_t job, uint64_t jobs) {
    static struct answer want[STREAMS];
    int failed = 0, strikes = 0;
    uint64_t tokens = 0;
    ask_undisturbed(dir, want);
    for (int i = 0; i < STREAMS; i++) tokens += (uint64_t)want[i].n;
    for (uint64_t s = first + job; s < first + seeds; s += jobs) {
        struct fate f;
        char text[600];
        fate_draw(&f, s, tokens);
        fate_say(&f, text, sizeof text);
        if (seeds == 1) printf("# seed %" PRIu64 ": %s\n", s, text);
        bool ok = disturb(dir, &f, want, &strikes);
        if (!ok && seeds > 1) printf("# seed %" PRIu64 ": %s\n", s, text);
        printf("%s %" PRIu64 " - seed %" PRIu64 "\n", ok ? "ok" : "not ok", s - first + 1, s);
        failed += !ok;
    }
    if (!strikes && seeds > 1) printf("# job %" PRIu64 " struck nobody\n", job);
    return failed ? FAILED : strikes ? 0 : IDLE;
}

static int run_jobs(const char *dir, uint64_t first, uint64_t seeds, uint64_t jobs) {
    int failed = 0, idle = 0, status;
    for (uint64_t j = 0; j < jobs; j++) {
        pid_t pid = fork();
        if (pid < 0) die("cannot start a process");
        if (!pid) exit(run_seeds(dir, first, seeds, j, jobs));
    }
    while (wait(&status) > 0) {
        bool struck_nobody = WIFEXITED(status) && WEXITSTATUS(status) == IDLE;
        idle += struck_nobody; /* on a busy machine requests may end before their time has come */
        failed += status && !struck_nobody;
    }
    return failed || idle > (int)jobs / 2;
}

int main(int argc, char **argv) {
    uint64_t seeds = 6, first = 1, jobs = 6;
    for (int i = 2; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seeds")) seeds = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seed")) first = strtoull(argv[i + 1], NULL, 10), seeds = 1;
        else if (!strcmp(argv[i], "--jobs")) jobs = strtoull(argv[i + 1], NULL, 10);
    }
    if (argc < 2) die("usage: sim_deaths CHECKPOINT [--seeds N] [--seed S] [--jobs J]");
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_set_level(seeds == 1 ? LOG_INFO : LOG_ERROR);
    make_requests();
    if (jobs > seeds) jobs = seeds;
    printf("1..%" PRIu64 "\n", seeds);
    fflush(stdout);
    return (jobs <= 1 ? run_seeds(argv[1], first, seeds, 0, 1) : run_jobs(argv[1], first, seeds, jobs)) != 0;
}
