/* sim_serving.c - a cluster of threads under everything clients do: come in crowds, cancel, run late, fall silent, vanish, ask
 * for the impossible; and one worker that dies alone.
 *
 * usage: sim_serving DATA_DIR */
#include "tests/sim/cluster.h"

#include "base/clk.h"
#include "base/hash.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;
static void report(bool ok, const char *what, const char *where) {
    printf("%s %d - %s%s%s\n", ok ? "ok" : "not ok", passed + failed + 1, what, ok ? "" : ": ", ok ? "" : where);
    fflush(stdout);
    *(ok ? &passed : &failed) += 1;
}

enum { CROWD = 64, PROMPT_MAX = 100 };
static int32_t prompts[CROWD][PROMPT_MAX];
static struct answer answers[CROWD];
static char model[1024];

static struct cadre_request request(int which, int prompt, int tokens) {
    for (int t = 0; t < prompt; t++) prompts[which][t] = (int32_t)(hash_u64((uint64_t)(which * 1000 + t)) % 250);
    return (struct cadre_request){
        .ids = prompts[which], .n_ids = (size_t)prompt, .max_tokens = (uint32_t)tokens, .has_max_tokens = 1, .ignore_eos = 1};
}

static struct cluster *start(int workers, int max_batch, int64_t kv_tokens, int64_t lease_us) {
    struct cluster_options o = {.coordinator = {.model_dir = model,
                                                .workers = workers,
                                                .weights = "f32",
                                                .max_batch = max_batch,
                                                .max_context = 256,
                                                .kv_tokens = kv_tokens,
                                                .lease_us = lease_us}};
    struct cluster *c;
    struct why why;
    if (cluster_start(&o, &c, &why) < 0) die("%s", why.text);
    return c;
}

static uint32_t pages_used(const struct cadre_cluster *s) {
    uint32_t used = 0;
    for (size_t i = 0; i < s->n_workers; i++) used += s->workers[i].kv_pages_used;
    return used;
}
static bool is_idle(const struct cadre_cluster *s, void *ctx) {
    (void)ctx;
    return s->running == 0 && s->waiting == 0 && pages_used(s) == 0;
}
static bool is_failed(const struct cadre_cluster *s, void *reason) {
    snprintf(reason, 300, "%s", s->reason);
    return !strcmp(s->state, "failed");
}

/* Rows are counted where they are executed: every token but the last of each answer passes every layer once, to k experts. */
static void test_counts(void) {
    struct cluster *c = start(3, 8, 0, 0);
    struct cadre_request r[12];
    struct cadre_client *client;
    struct cadre_load *load;
    struct cadre_cluster *status;
    uint64_t want = 0, rows = 0, by_worker = 0;
    for (int i = 0; i < 12; i++) {
        r[i] = request(i, 5 + i * 7, 1 + i * 3);
        want += (uint64_t)(5 + i * 7 + 1 + i * 3 - 1);
    }
    bool ok = cluster_ask(c, r, 12, answers, 60);
    if (cadre_open(cluster_endpoint(c), NULL, &client) || cadre_experts(client, 5000, &load) ||
        cadre_status(client, 5000, &status))
        die("no status");
    want *= (uint64_t)status->topk * load->layers;
    for (uint32_t i = 0; i < load->layers * load->experts; i++) rows += load->rows[i];
    for (size_t i = 0; i < load->n_workers; i++) by_worker += load->worker_rows[i];
    char where[200];
    snprintf(where, sizeof where, "%llu rows by expert, %llu by worker, wanted %llu", (unsigned long long)rows,
             (unsigned long long)by_worker, (unsigned long long)want);
    report(ok && rows == want && by_worker == want, "rows executed = tokens x k x layers", where);
    cadre_load_free(load);
    cadre_cluster_free(status);
    cadre_close(client);
    report(cluster_stop(c) == 0, "ends in order", "see above");
}

/* Sixty-four clients, each with a connection of its own, more than run or fit at once. */
static void test_crowd(void) {
    struct cluster *c = start(4, 16, 1024, 0);
    struct cadre_client *clients[CROWD];
    struct cadre_stream *streams[CROWD];
    int open = CROWD, wrong = 0, got[CROWD] = {0};
    for (int i = 0; i < CROWD; i++) {
        struct cadre_request r = request(i, 1 + (i * 29) % PROMPT_MAX, 1 + (i * 17) % 60);
        if (cadre_open(cluster_endpoint(c), NULL, &clients[i]) || cadre_generate(clients[i], &r, &streams[i]))
            die("%s", cadre_error(clients[i]));
    }
    for (int64_t until = clk_now_us() + 200000000; open && clk_now_us() < until;)
        for (int i = 0; i < CROWD; i++) {
            struct cadre_event e;
            if (!streams[i] || cadre_next(streams[i], 1, &e)) continue;
            if (e.kind == CADRE_TOKENS) got[i] += (int)e.n_tokens;
            if (e.kind != CADRE_END) continue;
            wrong += e.status != CADRE_OK || got[i] != 1 + (i * 17) % 60;
            cadre_stream_close(streams[i]);
            streams[i] = NULL;
            open--;
        }
    char where[100];
    snprintf(where, sizeof where, "%d open, %d wrong", open, wrong);
    report(!open && !wrong, "64 clients with mixed lengths run to completion", where);
    for (int i = 0; i < CROWD; i++) cadre_close(clients[i]);
    report(cluster_await(c, is_idle, NULL, 10), "afterwards no page is in use", "pages leaked");
    report(cluster_stop(c) == 0, "ends in order", "see above");
}

static bool wait_tokens(struct cadre_stream *s, int n) {
    struct cadre_event e;
    for (int have = 0; have < n;) {
        if (cadre_next(s, 20000, &e) || e.kind == CADRE_END) return false;
        if (e.kind == CADRE_TOKENS) have += (int)e.n_tokens;
    }
    return true;
}
static int wait_end(struct cadre_stream *s) {
    struct cadre_event e;
    while (!cadre_next(s, 20000, &e))
        if (e.kind == CADRE_END) return e.status;
    return CADRE_TIMEOUT;
}

static void test_leaving(void) {
    struct cluster *c = start(2, 8, 0, 0);
    struct cadre_client *client, *mute;
    struct cadre_stream *s, *silent;
    struct cadre_request longest = request(0, 10, 240), other = request(1, 10, 40), late = request(2, 10, 240);
    if (cadre_open(cluster_endpoint(c), NULL, &client)) die("no client");

    if (cadre_generate(client, &longest, &s)) die("%s", cadre_error(client));
    bool ok = wait_tokens(s, 3);
    cadre_cancel(s);
    int status = wait_end(s);
    report(ok && status == CADRE_CANCELLED, "a cancelled stream ends CANCELLED", "it did not");
    report(cluster_await(c, is_idle, NULL, 5), "and its pages come back", "pages leaked");
    cadre_stream_close(s);

    late.timeout_ms = 1;
    if (cadre_generate(client, &late, &s)) die("%s", cadre_error(client));
    report(wait_end(s) == CADRE_DEADLINE_EXCEEDED, "a deadline that passes ends DEADLINE_EXCEEDED", "it did not");
    report(cluster_await(c, is_idle, NULL, 5), "and its pages come back", "pages leaked");
    cadre_stream_close(s);

    struct cadre_options narrow = {.window = 1};
    if (cadre_open(cluster_endpoint(c), &narrow, &mute) || cadre_generate(mute, &longest, &silent)) die("no mute client");
    report(cluster_ask(c, &other, 1, answers, 30) && answers[0].n == 40, "a client that takes nothing slows nobody",
           "no answer");
    int tokens = 0;
    struct cadre_event e;
    while (!cadre_next(silent, 20000, &e) && e.kind != CADRE_END) tokens += e.kind == CADRE_TOKENS ? (int)e.n_tokens : 0;
    report(tokens == 240, "and gets everything when it wakes up", "tokens are missing");
    cadre_stream_close(silent);

    if (cadre_generate(mute, &longest, &silent)) die("no mute client");
    ok = wait_tokens(silent, 2);
    cadre_close(mute); /* its streams with it */
    report(ok && cluster_await(c, is_idle, NULL, 10), "a client that goes takes its request along", "still running");
    cadre_close(client);
    report(cluster_stop(c) == 0, "ends in order", "see above");
}

static void refuse(struct cluster *c, struct cadre_request r, int status, const char *word, const char *what) {
    bool ok = cluster_ask(c, &r, 1, answers, 20) && answers[0].status == status && strstr(answers[0].message, word);
    char where[400];
    snprintf(where, sizeof where, "%s: %s", cadre_code_name(answers[0].status), answers[0].message);
    report(ok, what, where);
}

static void test_refusals(void) {
    struct cluster *c = start(2, 8, 128, 0);
    static int32_t ids[300];
    static char big[10 << 20];
    memset(big, 'a', sizeof big);
    struct cadre_request r = request(0, 10, 5), too_long = {.ids = ids, .n_ids = 300, .has_max_tokens = 1, .max_tokens = 1};
    struct cadre_request never = request(0, 60, 100), outside = request(1, 3, 5), zero = request(2, 7, 0);
    prompts[1][1] = 100000;
    refuse(c, (struct cadre_request){.prompt = "", .max_tokens = 3, .has_max_tokens = 1}, CADRE_INVALID_ARGUMENT, "empty",
           "an empty prompt is refused");
    refuse(c, too_long, CADRE_INVALID_ARGUMENT, "300", "a prompt longer than the context is refused, with the numbers");
    refuse(c, never, CADRE_INVALID_ARGUMENT, "", "a request that can never fit is refused at once");
    refuse(c, outside, CADRE_INVALID_ARGUMENT, "100000", "a token id outside the vocabulary is refused");
    refuse(c, (struct cadre_request){.prompt = "\xff\xfe ok", .max_tokens = 3, .has_max_tokens = 1}, CADRE_INVALID_ARGUMENT,
           "UTF-8", "invalid UTF-8 is refused");
    refuse(c, (struct cadre_request){.prompt = big, .prompt_len = sizeof big}, CADRE_RESOURCE_EXHAUSTED, "",
           "a prompt of 10 MB is refused");
    r.temperature = -1;
    refuse(c, r, CADRE_INVALID_ARGUMENT, "temperature", "a negative temperature is refused");
    bool ok = cluster_ask(c, &zero, 1, answers, 20) && answers[0].status == CADRE_OK && answers[0].n == 0 &&
              !strcmp(answers[0].reason, "length");
    report(ok, "max_tokens 0 runs the prompt and ends with 'length'", answers[0].message);
    struct cadre_request good = request(3, 20, 20);
    report(cluster_ask(c, &good, 1, answers, 20) && answers[0].n == 20, "and the cluster still answers", answers[0].message);
    report(cluster_stop(c) == 0, "ends in order", "see above");
}

static void test_death(void) {
    struct cluster *c = start(3, 8, 0, 500000);
    struct cadre_client *client;
    struct cadre_stream *s;
    struct cadre_event e;
    struct cadre_request r = request(0, 10, 240);
    char reason[300] = "";
    if (cadre_open(cluster_endpoint(c), NULL, &client) || cadre_generate(client, &r, &s)) die("no client");
    bool ok = wait_tokens(s, 2);
    cluster_kill_worker(c, 1);
    int64_t start_us = clk_now_us();
    while (!cadre_next(s, 20000, &e) && e.kind != CADRE_END) continue;
    report(ok && e.kind == CADRE_END && e.status == CADRE_UNAVAILABLE && strstr(e.message, "worker 1"),
           "when a worker dies its requests end UNAVAILABLE and name it", e.message ? e.message : "no message");
    char took[64];
    snprintf(took, sizeof took, "%.1f s", (double)(clk_now_us() - start_us) / 1e6);
    report(clk_now_us() - start_us < 5000000, "within five seconds", took);
    report(cluster_await(c, is_failed, reason, 5) && strstr(reason, "worker 1"), "status says what happened", reason);
    cadre_stream_close(s);
    report(cluster_ask(c, &r, 1, answers, 10) && answers[0].status == CADRE_UNAVAILABLE, "new requests are refused UNAVAILABLE",
           answers[0].message);
    cadre_close(client);
    cluster_stop(c); /* the survivors leave; that they do is the test */
    report(true, "the others end", "");
}

int main(int argc, char **argv) {
    if (argc != 2) die("usage: sim_serving DATA_DIR");
    snprintf(model, sizeof model, "%s/qwen2_moe", argv[1]);
    log_set_level(LOG_ERROR);
    test_counts();
    test_crowd();
    test_leaving();
    test_refusals();
    test_death();
    printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
    return failed > 0;
}
