/* test_resume.c - streams that outlive their server: it is killed (a process of its own, so nothing is said and the connection
 * breaks), and another at the same address knows nothing, or what a journal would have told it. The server is this program
 * anew, not a fork of the test alone: the client's threads run when the second one starts.
 *
 * The answer to every Generate is TOKENS tokens, token i with id 100 + i and the text of one letter. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"
#include "client/cadre.h"
#include "proto/call.h"
#include "proto/client.pb-c.h"

#include "tests/unit/run.h"

enum { TOKENS = 20, ID = 16 };

/* What a server does; told before it is started. */
static struct {
    int say;       /* events of an answer before it stops: 0 nothing at all, 1 Started, n + 1 also n tokens, -1 all of it */
    bool keeps;    /* Started says that the answer can be resumed */
    int later;     /* calls that get UNAVAILABLE first */
    bool knows;    /* of a request to be resumed; else NOT_FOUND */
    char how[256]; /* what it was asked: "G" Generate, "Rn" Resume from token n; in a pipe's other end */
} script;

struct server {
    struct call_server *calls;
    int report;
    uint8_t first[ID]; /* call id of the first Generate */
    int asked;
};
static char endpoint[256];
static pid_t pid;
static int report_fd = -1;
static struct cadre_client *client;

static int send_event(struct server *s, struct call *call, Cadre__V1__GenerateEvent *e) {
    uint8_t buf[512];
    return call_send(s->calls, call, buf, protobuf_c_message_pack(&e->base, buf));
}

static void answer(struct server *s, struct call *call, bool started, uint32_t from) {
    int left = script.say < 0 ? TOKENS + 2 : script.say;
    Cadre__V1__GenerateEvent e = CADRE__V1__GENERATE_EVENT__INIT;
    Cadre__V1__Started begin = CADRE__V1__STARTED__INIT;
    begin.model = (char *)"fake";
    begin.resumable = script.keeps;
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_STARTED;
    e.started = &begin;
    if (!started && left-- > 0) send_event(s, call, &e);
    for (uint32_t i = from; i < TOKENS && left > 0; i++, left--) {
        Cadre__V1__Tokens m = CADRE__V1__TOKENS__INIT;
        Cadre__V1__TokenInfo t = CADRE__V1__TOKEN_INFO__INIT, *list = &t;
        uint8_t letter = (uint8_t)('a' + i);
        t.id = (int32_t)(100 + i);
        m.first = i;
        m.n_token = 1;
        m.token = &list;
        m.text = (ProtobufCBinaryData){1, &letter};
        e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_TOKENS;
        e.tokens = &m;
        send_event(s, call, &e);
    }
    if (script.say >= 0) return;
    Cadre__V1__Finished end = CADRE__V1__FINISHED__INIT;
    end.reason = (char *)"length";
    e.kind_case = CADRE__V1__GENERATE_EVENT__KIND_FINISHED;
    e.finished = &end;
    send_event(s, call, &e);
    call_end(s->calls, call, CALL_OK, "");
}

static void report(const struct server *s, const char *what) {
    if (write(s->report, what, strlen(what)) < 0) _exit(3);
}

static bool later(struct server *s, struct call *call) {
    if (s->asked++ >= script.later) return false;
    call_end(s->calls, call, CALL_UNAVAILABLE, "the cluster is loading");
    return true;
}

static void on_generate(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct server *s = ctx;
    Cadre__V1__GenerateRequest *m = cadre__v1__generate_request__unpack(NULL, len, payload);
    report(s, !m ? "?" : m->prompt.len == 5 && !memcmp(m->prompt.data, "hello", 5) ? "G" : "wrong prompt");
    cadre__v1__generate_request__free_unpacked(m, NULL);
    if (s->asked && memcmp(s->first, call->id, ID)) report(s, "another id");
    memcpy(s->first, call->id, ID);
    if (!later(s, call)) answer(s, call, false, 0);
}

static void on_resume(void *ctx, struct call *call, const uint8_t *payload, size_t len) {
    struct server *s = ctx;
    char what[32];
    Cadre__V1__ResumeRequest *m = cadre__v1__resume_request__unpack(NULL, len, payload);
    if (!m || m->call_id.len != ID || !memcmp(m->call_id.data, call->id, ID) || m->text_bytes != m->tokens)
        return report(s, "?");
    snprintf(what, sizeof what, "R%u", m->tokens);
    report(s, what);
    uint32_t from = m->tokens;
    bool started = m->started;
    cadre__v1__resume_request__free_unpacked(m, NULL);
    if (later(s, call)) return;
    if (script.knows) answer(s, call, started, from);
    else call_end(s->calls, call, CALL_NOT_FOUND, "not known here");
}

static void on_gone(void *ctx, struct call *call, int status) { (void)ctx, (void)call, (void)status; }

static const struct call_method methods[] = {{"Generate", on_generate, NULL, on_gone}, {"Resume", on_resume, NULL, on_gone}};

static void serve(int told, int report_to) {
    struct server s = {.report = report_to};
    struct bus_context *context;
    struct bus *bus;
    struct why why;
    struct call_limits limits = {.payload_bytes = 1 << 20, .calls = 16, .ping_us = 200000};
    if (bus_context_open(&context, NULL, &why) < 0 || bus_zmq_bind(context, BUS_CLIENTS, endpoint, &bus, &why) < 0 ||
        call_server_new(bus, &limits, methods, 2, &s, &s.calls) < 0)
        _exit(2);
    const char *where = bus_endpoint(bus);
    if (write(told, where, strlen(where) + 1) < 0) _exit(3);
    for (;;) {
        int64_t wait = call_server_poll(s.calls, clk_now_us()) - clk_now_us();
        struct pollfd p = {.fd = bus_fd(bus), .events = POLLIN};
        poll(&p, 1, wait < 10000 ? (int)(wait > 0 ? wait / 1000 : 0) : 10);
    }
}

/* The server's command line: where its endpoint and what it was asked go, the script, its endpoint. */
static int serve_as_told(char **arg) {
    int number[6];
    for (int i = 0; i < 6; i++) number[i] = (int)strtol(arg[1 + i], NULL, 10);
    script.say = number[2];
    script.keeps = number[3];
    script.later = number[4];
    script.knows = number[5];
    snprintf(endpoint, sizeof endpoint, "%s", arg[7]);
    serve(number[0], number[1]);
    return 1;
}

static void start(void) {
    int told[2], asked[2];
    char number[6][16];
    ck_assert(!pipe(told) && !pipe(asked));
    int numbers[] = {told[1], asked[1], script.say, script.keeps, script.later, script.knows};
    for (int i = 0; i < 6; i++) snprintf(number[i], sizeof number[i], "%d", numbers[i]);
    char *arg[] = {(char *)"test_resume", number[0], number[1], number[2], number[3], number[4], number[5], endpoint, NULL};
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execv("/proc/self/exe", arg);
        _exit(2);
    }
    close(told[1]);
    close(asked[1]);
    ck_assert_msg(read(told[0], endpoint, sizeof endpoint) > 0, "the server did not start");
    close(told[0]);
    if (report_fd >= 0) close(report_fd);
    report_fd = asked[0];
}

/* What it was asked. */
static const char *kill_it(void) {
    ssize_t n = 0, got;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    pid = 0;
    while ((got = read(report_fd, script.how + n, sizeof script.how - 1 - (size_t)n)) > 0) n += got;
    script.how[n] = 0;
    return script.how;
}

static void set_up(void) {
    memset(&script, 0, sizeof script);
    snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:*");
}
static void tear_down(void) {
    cadre_close(client);
    client = NULL;
    if (pid) kill_it();
}

static struct cadre_stream *ask(void) {
    struct cadre_options options = {.connect_timeout_ms = 20000, .resume_timeout_ms = 20000};
    struct cadre_request r = {.prompt = "hello"};
    struct cadre_stream *s;
    ck_assert_int_eq(cadre_open(endpoint, &options, &client), CADRE_OK);
    ck_assert_int_eq(cadre_generate(client, &r, &s), CADRE_OK);
    return s;
}
static struct cadre_event next(struct cadre_stream *s) {
    struct cadre_event e;
    int64_t until = clk_now_us() + 30000000;
    int code;
    while ((code = cadre_next(s, 1000, &e)) == CADRE_TIMEOUT) ck_assert(clk_now_us() < until);
    ck_assert_msg(code == CADRE_OK, "%s", cadre_error(client));
    return e;
}
/* The stream's events from token `from` on, each once; the status at its end. */
static int finish(struct cadre_stream *s, bool started, uint32_t from) {
    struct cadre_event e = next(s);
    if (!started && e.kind == CADRE_STARTED) e = next(s);
    for (; e.kind == CADRE_TOKENS; e = next(s), from++) {
        ck_assert_uint_eq(e.first, from);
        ck_assert(e.n_tokens == 1 && e.tokens[0].id == (int)(100 + from) && e.text[0] == (char)('a' + from));
    }
    if (e.kind == CADRE_FINISHED) {
        ck_assert_uint_eq(from, TOKENS);
        e = next(s);
    }
    ck_assert_int_eq(e.kind, CADRE_END);
    return e.status;
}
static void take(struct cadre_stream *s, int tokens) {
    ck_assert_int_eq(next(s).kind, CADRE_STARTED);
    for (int i = 0; i < tokens; i++) ck_assert_int_eq(next(s).kind, CADRE_TOKENS);
}
/* The server has the request: it pings. */
static void until_heard(struct cadre_stream *s) {
    struct cadre_event e;
    struct pollfd p = {.fd = report_fd, .events = POLLIN};
    while (!poll(&p, 1, 0)) ck_assert_int_eq(cadre_next(s, 50, &e), CADRE_TIMEOUT);
    for (int i = 0; i < 10; i++) ck_assert_int_eq(cadre_next(s, 50, &e), CADRE_TIMEOUT);
}

/* Sent, and not accepted when the server dies: it is said again, under the same id, also to one that is not ready yet. */
START_TEST(said_again) {
    start();
    struct cadre_stream *s = ask();
    until_heard(s);
    ck_assert_str_eq(kill_it(), "G");
    script.say = -1;
    script.later = _i;
    start();
    ck_assert_int_eq(finish(s, false, 0), CADRE_OK);
    ck_assert_str_eq(kill_it(), _i == 2 ? "GGG" : _i ? "GG" : "G");
}
END_TEST

/* It had come to the server that died, and the client had not heard so much as a Ping. */
START_TEST(said_again_unheard) {
    start();
    struct cadre_stream *s = ask();
    struct pollfd p = {.fd = report_fd, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 30000), 1);
    ck_assert_str_eq(kill_it(), "G");
    script.say = -1;
    start();
    ck_assert_int_eq(finish(s, false, 0), CADRE_OK);
    ck_assert_str_eq(kill_it(), "G");
}
END_TEST

/* Nothing can be sent at the moment the connection breaks: it is said again when something can. */
START_TEST(said_again_when_there_is_room) {
    struct cadre_request r = {.ids = (const int32_t[]){1}, .n_ids = 1};
    struct cadre_stream *s, *more;
    int full = 0;
    start();
    s = ask();
    until_heard(s);
    kill_it();
    for (int i = 0; i < 5000 && !full; i++)
        if (cadre_generate(client, &r, &more)) full++;
        else cadre_stream_close(more);
    ck_assert_msg(full, "the queue has no end");
    script.say = -1;
    start();
    ck_assert_int_eq(finish(s, false, 0), CADRE_OK);
}
END_TEST

/* Who has not lost it is told at once: whether to try again is for the caller to say. */
START_TEST(refused_at_first) {
    script.later = 1;
    start();
    struct cadre_stream *s = ask();
    ck_assert_int_eq(finish(s, false, 0), CADRE_UNAVAILABLE);
    ck_assert_str_eq(kill_it(), "G");
}
END_TEST

/* In the middle: what is in the library's queue counts as had, and two servers may say "later". */
START_TEST(taken_up) {
    script.say = 8;
    script.keeps = script.knows = true;
    start();
    struct cadre_stream *s = ask();
    take(s, 3 + 4 * (_i % 2));
    kill_it();
    script.say = _i < 2 ? -1 : 4; /* or the second one dies as well */
    script.later = 2;
    start();
    if (_i >= 2) {
        for (uint32_t had = 3 + 4 * ((uint32_t)_i % 2); had < 11; had++) ck_assert_uint_eq(next(s).first, had);
        ck_assert_str_eq(kill_it(), "R7R7R7");
        script.say = -1;
        script.later = 0;
        start();
        ck_assert_int_eq(finish(s, true, 11), CADRE_OK);
        ck_assert_str_eq(kill_it(), "R11");
        return;
    }
    ck_assert_int_eq(finish(s, true, 3 + 4 * ((uint32_t)_i % 2)), CADRE_OK);
    ck_assert_str_eq(kill_it(), "R7R7R7");
}
END_TEST

START_TEST(not_known_any_more) {
    script.say = 8;
    script.keeps = true;
    start();
    struct cadre_stream *s = ask();
    take(s, 2);
    kill_it();
    start();
    ck_assert_int_eq(finish(s, true, 2), CADRE_UNAVAILABLE);
    ck_assert_ptr_nonnull(strstr(cadre_error(client), "not known here"));
}
END_TEST

/* Without a journal the answer dies with its connection, and that is said; what had come is still given out. */
START_TEST(not_kept) {
    script.say = 8;
    start();
    struct cadre_stream *s = ask();
    take(s, 2);
    kill_it();
    ck_assert_int_eq(finish(s, true, 2), CADRE_UNAVAILABLE);
}
END_TEST

int main(int argc, char **argv) {
    if (argc == 8) return serve_as_told(argv);
    Suite *s = suite_create("resume");
    TCase *t = tcase_create("resume");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_loop_test(t, said_again, 0, 3);
    tcase_add_test(t, said_again_unheard);
    tcase_add_test(t, said_again_when_there_is_room);
    tcase_add_test(t, refused_at_first);
    tcase_add_loop_test(t, taken_up, 0, 4);
    tcase_add_test(t, not_known_any_more);
    tcase_add_test(t, not_kept);
    suite_add_tcase(s, t);
    return run_suite(s);
}
