/* test_client.c - the client library against a server in a thread: streams, credits, cancel, silence, bad requests. */
#include "base/clk.h"
#include "client/cadre.h"
#include "tests/unit/client/fake.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run.h"

static struct fake fake;
static pthread_t thread;
static char endpoint[256];
static struct cadre_client *client;

static void *serve(void *arg) {
    fake_run(arg);
    return NULL;
}
static void start_server(const char *where) {
    struct why why;
    memset(&fake, 0, sizeof fake);
    fake.workers = 2;
    ck_assert_msg(fake_open(&fake, where, &why) >= 0, "%s", why.text);
    snprintf(endpoint, sizeof endpoint, "%s", bus_endpoint(fake.bus));
    ck_assert_int_eq(pthread_create(&thread, NULL, serve, &fake), 0);
}
static void stop_server(void) {
    fake_stop(&fake);
    pthread_join(thread, NULL);
    fake_close(&fake);
}
static void setup(void) {
    start_server("tcp://127.0.0.1:*");
    struct cadre_options options = {.silence_timeout_ms = 1500, .window = 8};
    ck_assert_int_eq(cadre_open(endpoint, &options, &client), CADRE_OK);
}
static void teardown(void) {
    cadre_close(client);
    stop_server();
}

static struct cadre_stream *begin(const char *prompt) {
    struct cadre_request r = {.prompt = prompt};
    struct cadre_stream *s;
    ck_assert_msg(cadre_generate(client, &r, &s) == CADRE_OK, "%s", cadre_error(client));
    return s;
}
static struct cadre_event next(struct cadre_stream *s) {
    struct cadre_event e;
    int64_t until = clk_now_us() + 20000000;
    int code;
    while ((code = cadre_next(s, 1000, &e)) == CADRE_TIMEOUT) ck_assert(clk_now_us() < until);
    ck_assert_msg(code == CADRE_OK, "%s", cadre_error(client));
    return e;
}

START_TEST(one_answer) {
    struct cadre_request r = {.prompt = "count 30", .seed = 9, .has_seed = 1, .logprobs = 3};
    struct cadre_stream *s;
    ck_assert_int_eq(cadre_generate(client, &r, &s), CADRE_OK);
    struct cadre_event e = next(s);
    ck_assert_int_eq(e.kind, CADRE_STARTED);
    ck_assert_str_eq(e.model, "fake");
    ck_assert_uint_eq(e.seed, 9);
    ck_assert_uint_eq(e.prompt_tokens, 3);
    for (uint32_t i = 0; i < 30; i++) { /* more than the window: credits are granted as we go */
        char word[16];
        e = next(s);
        ck_assert_int_eq(e.kind, CADRE_TOKENS);
        ck_assert_uint_eq(e.first, i);
        ck_assert_uint_eq(e.n_tokens, 1);
        ck_assert_int_eq(e.tokens[0].id, (int)(100 + i));
        ck_assert(e.tokens[0].logprob == -0.1f * (float)i);
        ck_assert_uint_eq(e.tokens[0].n_top, 2);
        snprintf(word, sizeof word, "%u ", i);
        ck_assert_str_eq(e.text, word);
        ck_assert_uint_eq(e.text_len, strlen(word));
    }
    e = next(s);
    ck_assert_int_eq(e.kind, CADRE_FINISHED);
    ck_assert_str_eq(e.reason, "length");
    ck_assert_uint_eq(e.completion_tokens, 30);
    for (int i = 0; i < 2; i++) {
        e = next(s);
        ck_assert_int_eq(e.kind, CADRE_END);
        ck_assert_int_eq(e.status, CADRE_OK);
    }
    cadre_stream_close(s);
}
END_TEST

START_TEST(chat) {
    struct cadre_message m[] = {{"system", "be kind", 0}, {"user", "hello there", 5}};
    struct cadre_request r = {.messages = m, .n_messages = 2};
    struct cadre_stream *s;
    char text[200] = "";
    ck_assert_int_eq(cadre_generate(client, &r, &s), CADRE_OK);
    for (struct cadre_event e = next(s); e.kind != CADRE_END; e = next(s))
        if (e.text) strncat(text, e.text, sizeof text - strlen(text) - 1);
    ck_assert_str_eq(text, "system: be kind\nuser: hello\n");
    cadre_stream_close(s);
}
END_TEST

START_TEST(many_streams) {
    enum { N = 200 };
    static int counts[N];
    struct cadre_stream *streams[N];
    int open = N;
    for (int i = 0; i < N; i++) {
        char prompt[32];
        snprintf(prompt, sizeof prompt, "count %d", i % 40);
        streams[i] = begin(prompt);
        cadre_stream_set_user(streams[i], &counts[i]);
    }
    int64_t until = clk_now_us() + 30000000;
    while (open) {
        struct cadre_stream *s;
        struct cadre_event e;
        ck_assert(clk_now_us() < until);
        if (cadre_wait(client, 1000, &s)) continue;
        ck_assert_int_eq(cadre_next(s, 0, &e), CADRE_OK);
        int *count = cadre_stream_user(s);
        if (e.kind == CADRE_TOKENS) ck_assert_uint_eq(e.first, (uint32_t)(*count)++);
        if (e.kind != CADRE_END) continue;
        ck_assert_int_eq(e.status, CADRE_OK);
        open--;
    }
    struct cadre_stream *none;
    ck_assert_int_eq(cadre_wait(client, 0, &none), CADRE_TIMEOUT);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(counts[i], i % 40);
        cadre_stream_close(streams[i]);
    }
}
END_TEST

/* The pattern of an event loop: one's own poll on cadre_fd. */
START_TEST(poll_on_fd) {
    struct cadre_stream *s = begin("count 100"), *ready;
    struct cadre_event e = {.kind = CADRE_STARTED};
    int tokens = 0;
    while (e.kind != CADRE_END) {
        while (cadre_wait(client, 0, &ready) == CADRE_OK) {
            ck_assert_ptr_eq(ready, s);
            ck_assert_int_eq(cadre_next(ready, 0, &e), CADRE_OK);
            tokens += e.kind == CADRE_TOKENS;
        }
        struct pollfd p = {.fd = cadre_fd(client), .events = POLLIN};
        if (e.kind != CADRE_END) ck_assert_int_eq(poll(&p, 1, 10000), 1);
    }
    ck_assert_int_eq(tokens, 100);
    cadre_stream_close(s);
}
END_TEST

START_TEST(cancel) {
    struct cadre_stream *s = begin("hold");
    ck_assert_int_eq(next(s).kind, CADRE_STARTED);
    struct cadre_event e;
    ck_assert_int_eq(cadre_next(s, 0, &e), CADRE_TIMEOUT);
    ck_assert_int_eq(cadre_next(s, 300, &e), CADRE_TIMEOUT); /* pings are not events */
    cadre_cancel(s);
    cadre_cancel(s);
    e = next(s);
    ck_assert_int_eq(e.kind, CADRE_END);
    ck_assert_int_eq(e.status, CADRE_CANCELLED);
    ck_assert_int_eq(atomic_load(&fake.cancelled), 1);
    cadre_stream_close(s);
    cadre_stream_close(NULL);
}
END_TEST

/* Closing without a word cancels; so does closing the client. */
START_TEST(close_cancels) {
    struct cadre_stream *s = begin("hold"), *t = begin("hold");
    next(s);
    next(t);
    cadre_stream_close(s);
    int64_t until = clk_now_us() + 10000000;
    while (atomic_load(&fake.cancelled) < 1) ck_assert(clk_now_us() < until);
    cadre_close(client);
    client = NULL;
    while (atomic_load(&fake.cancelled) + atomic_load(&fake.vanished) < 2) ck_assert(clk_now_us() < until);
    ck_assert_int_eq(atomic_load(&fake.live), 0);
}
END_TEST

START_TEST(server_refuses) {
    struct cadre_stream *s = begin("refuse");
    struct cadre_event e = next(s);
    ck_assert_int_eq(e.kind, CADRE_END);
    ck_assert_int_eq(e.status, CADRE_INVALID_ARGUMENT);
    ck_assert_str_eq(e.message, "refused as asked");
    ck_assert_str_eq(cadre_error(client), "refused as asked");
    cadre_stream_close(s);
}
END_TEST

START_TEST(odd_status) { /* 2^32 - 1 must not become CADRE_TIMEOUT, "nothing came yet" */
    struct cadre_stream *s = begin("odd");
    struct cadre_event e = next(s);
    ck_assert_int_eq(e.kind, CADRE_END);
    ck_assert_int_eq(e.status, CADRE_UNKNOWN);
    cadre_stream_close(s);
}
END_TEST

START_TEST(unreadable_event) {
    struct cadre_stream *s = begin("garbage");
    struct cadre_event e;
    int code;
    while ((code = cadre_next(s, 1000, &e)) == CADRE_TIMEOUT) continue;
    ck_assert_int_eq(code, CADRE_INTERNAL);
    ck_assert_ptr_nonnull(strstr(cadre_error(client), "cannot be read"));
    cadre_stream_close(s);
}
END_TEST

START_TEST(deadline) {
    struct cadre_request r = {.prompt = "hold", .timeout_ms = 50};
    struct cadre_stream *s;
    ck_assert_int_eq(cadre_generate(client, &r, &s), CADRE_OK);
    struct cadre_event e = next(s);
    while (e.kind != CADRE_END) e = next(s);
    ck_assert_int_eq(e.status, CADRE_DEADLINE_EXCEEDED);
    cadre_stream_close(s);
}
END_TEST

START_TEST(silence) {
    struct cadre_stream *s = begin("mute");
    ck_assert_int_eq(next(s).kind, CADRE_STARTED);
    int64_t before = clk_now_us();
    struct cadre_event e = next(s);
    ck_assert_int_eq(e.kind, CADRE_END);
    ck_assert_int_eq(e.status, CADRE_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(e.message, "said nothing for 1.5 s"));
    ck_assert_int_gt(clk_now_us() - before, 1000000);
    cadre_stream_close(s);
    s = begin("count 1"); /* connected, so this is silence and not absence */
    ck_assert_ptr_nonnull(strstr(next(s).message, "said nothing for 1.5 s"));
    cadre_stream_close(s);
    fake_speak(&fake);
    s = begin("count 1"); /* the client lives on */
    ck_assert_int_eq(next(s).kind, CADRE_STARTED);
    cadre_stream_close(s);
}
END_TEST

START_TEST(nobody_there) {
    struct cadre_client *c;
    struct cadre_options o = {.connect_timeout_ms = 200};
    struct cadre_cluster *cluster;
    ck_assert_int_eq(cadre_open("tcp://127.0.0.1:1", &o, &c), CADRE_OK);
    ck_assert_int_eq(cadre_status(c, 0, &cluster), CADRE_UNAVAILABLE);
    ck_assert_str_eq(cadre_error(c), "no server answers at tcp://127.0.0.1:1 (is `cadre serve` running?)");
    cadre_close(c);
    o = (struct cadre_options){.connect_timeout_ms = 3600 * 1000, .once = 1}; /* nobody waits an hour for this */
    ck_assert_int_eq(cadre_open("tcp://127.0.0.1:1", &o, &c), CADRE_OK);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(cadre_status(c, 0, &cluster), CADRE_UNAVAILABLE);
    cadre_close(c);
    ck_assert_int_eq(cadre_open("nonsense", NULL, &c), CADRE_INVALID_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(cadre_error(c), "nonsense"));
    struct cadre_request r = {.prompt = "x"};
    struct cadre_stream *s;
    ck_assert_int_eq(cadre_generate(c, &r, &s), CADRE_INVALID_ARGUMENT);
    ck_assert_ptr_null(s);
    cadre_close(c);
    cadre_close(NULL);
}
END_TEST

/* A server that comes back serves the same client again; what was open then is told. */
START_TEST(server_restarts) {
    char where[256];
    snprintf(where, sizeof where, "%s", endpoint);
    struct cadre_stream *s = begin("hold");
    ck_assert_int_eq(next(s).kind, CADRE_STARTED);
    stop_server();
    ck_assert_int_eq(next(s).status, CADRE_UNAVAILABLE); /* the server's own last word */
    cadre_stream_close(s);
    start_server(where);
    s = begin("count 2");
    ck_assert_int_eq(next(s).kind, CADRE_STARTED);
    cadre_stream_close(s);
}
END_TEST

START_TEST(bad_requests) {
    static const char *const one[] = {"ok"}, *const empty[] = {""};
    static const int32_t ids[] = {1, 2};
    struct cadre_message nothing = {"user", NULL, 0}, broken = {"user", "a\xc3(", 0};
    const struct {
        struct cadre_request r;
        const char *says;
    } table[] = {
        {{.temperature = 0}, "exactly one of"},
        {{.prompt = "x", .ids = ids, .n_ids = 2}, "exactly one of"},
        {{.prompt = "x", .temperature = -0.5f}, "temperature is -0.5"},
        {{.prompt = "x", .temperature = NAN}, "temperature is nan"},
        {{.prompt = "x", .temperature = INFINITY}, "temperature is inf"},
        {{.prompt = "x", .top_p = 1.5f}, "top_p is 1.5"},
        {{.prompt = "x", .min_p = -1}, "min_p is -1"},
        {{.prompt = "x", .logprobs = 22}, "21 logprobs"},
        {{.prompt = "x", .stop = empty, .n_stop = 1}, "stop string must not be empty"},
        {{.prompt = "x", .stop = one, .n_stop = 17}, "at most 16"},
        {{.prompt = "caf\xe9"}, "the prompt is not valid UTF-8: byte 3 is 0xe9"},
        {{.prompt = "\xed\xa0\x80"}, "not valid UTF-8: byte 0"},
        {{.prompt = "\xf4\x90\x80\x80"}, "not valid UTF-8"},
        {{.prompt = "\xc0\xaf"}, "not valid UTF-8"},
        {{.prompt = "x", .tag = "\xff"}, "the tag is not valid"},
        {{.messages = &nothing, .n_messages = 1}, "message 0 lacks"},
        {{.messages = &broken, .n_messages = 1}, "a message is not valid UTF-8: byte 1"},
        {{.messages = &broken, .n_messages = 0}, "at least one message"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct cadre_stream *s;
        int code = cadre_generate(client, &table[i].r, &s);
        ck_assert_int_eq(code, CADRE_INVALID_ARGUMENT);
        ck_assert_ptr_null(s);
        ck_assert_msg(strstr(cadre_error(client), table[i].says), "'%s' lacks '%s'", cadre_error(client), table[i].says);
    }
    struct cadre_stream *s = begin("\xf0\x9f\x98\x80 \xe2\x82\xac \xc3\xa9 \xf4\x8f\xbf\xbf \xed\x9f\xbf");
    ck_assert_int_eq(next(s).kind, CADRE_STARTED);
    cadre_stream_close(s);
}
END_TEST

START_TEST(too_large) {
    size_t len = 2 << 20;
    char *text = malloc(len + 1);
    memset(text, 'a', len);
    text[len] = 0;
    struct cadre_stream *s = begin(text);
    struct cadre_event e = next(s);
    ck_assert_int_eq(e.kind, CADRE_END);
    ck_assert_int_eq(e.status, CADRE_RESOURCE_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(e.message, "at most 1048576"));
    cadre_stream_close(s);
    free(text);
    len = (size_t)64 << 20;
    text = malloc(len + 1);
    memset(text, 'a', len);
    text[len] = 0;
    struct cadre_request r = {.prompt = text};
    ck_assert_int_eq(cadre_generate(client, &r, &s), CADRE_RESOURCE_EXHAUSTED);
    free(text);
}
END_TEST

START_TEST(cluster) {
    struct cadre_cluster *c;
    struct cadre_load *l;
    struct cadre_links *k;
    int32_t *ids;
    size_t n;
    ck_assert_int_eq(cadre_status(client, 5000, &c), CADRE_OK);
    ck_assert_str_eq(c->state, "serving");
    ck_assert_uint_eq(c->n_workers, 2);
    ck_assert_uint_eq(c->workers[1].pid, 1001);
    ck_assert_str_eq(c->workers[1].placement, "0-3");
    ck_assert_str_eq(c->listen, endpoint);
    cadre_cluster_free(c);
    ck_assert_int_eq(cadre_experts(client, 5000, &l), CADRE_OK);
    ck_assert_uint_eq(l->layers, 2);
    ck_assert_uint_eq(l->rows[6], 100);
    ck_assert_int_eq(l->model_layer[1], 3);
    ck_assert_uint_eq(l->hosts[2], 1);
    ck_assert_uint_eq(l->n_workers, 2);
    cadre_load_free(l);
    ck_assert_int_eq(cadre_links(client, 5000, &k), CADRE_OK);
    ck_assert_uint_eq(k->n, 2);
    ck_assert_uint_eq(k->bytes[1], 2048);
    ck_assert_uint_eq(k->p99_us[2], 4);
    ck_assert_uint_eq(k->extra[1] * 1000 + k->stale[1] * 100 + k->duplicate[1] * 10 + k->bad[1], 3241);
    ck_assert_uint_eq(k->buckets, 20);
    ck_assert_uint_eq(k->histogram[1 * 20 + 16], 1);
    ck_assert_int_eq(k->slowest, 0);
    ck_assert_uint_eq(k->steps_whole * 100 + k->steps_halved, 9007);
    ck_assert_uint_eq(k->tasks[1] + k->tasks_long[1] + k->tasks_longest_us[1], 4000 + 10 + 3000);
    cadre_links_free(k);
    cadre_links_free(NULL);
    struct cadre_request r = {.prompt = "AB"};
    ck_assert_int_eq(cadre_tokenize(client, &r, 5000, &ids, &n), CADRE_OK);
    ck_assert_uint_eq(n, 2);
    ck_assert_int_eq(ids[0], 'A');
    cadre_ids_free(ids);
    cadre_cluster_free(NULL);
    cadre_load_free(NULL);
}
END_TEST

int main(void) {
    Suite *s = suite_create("client");
    TCase *c = tcase_create("client");
    tcase_set_timeout(c, 60);
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, one_answer);
    tcase_add_test(c, chat);
    tcase_add_test(c, many_streams);
    tcase_add_test(c, poll_on_fd);
    tcase_add_test(c, cancel);
    tcase_add_test(c, close_cancels);
    tcase_add_test(c, server_refuses);
    tcase_add_test(c, odd_status);
    tcase_add_test(c, unreadable_event);
    tcase_add_test(c, deadline);
    tcase_add_test(c, silence);
    tcase_add_test(c, nobody_there);
    tcase_add_test(c, server_restarts);
    tcase_add_test(c, bad_requests);
    tcase_add_test(c, too_large);
    tcase_add_test(c, cluster);
    suite_add_tcase(s, c);
    return run_suite(s);
}
