/* load.c - many requests at once from one client, told in lines that can be compared.
 *
 * Request i is made from its number alone: a prompt of token ids, greedy or sampled with a seed, with logprobs; some with
 * priorities, stops, tags, or a deadline that is far away. Its line holds the status, the counts and a hash over every token
 * id, every bit of every logprob and the text, so two runs of the same numbers must print the same lines: at once or one after
 * the other, on any cluster. The order of events is checked on the way.
 *
 *     load --connect ENDPOINT --first 0 --count 16 [--at-once 1]
 *     load --connect ENDPOINT --ids 1,2,3 --tokens 20          one greedy request; prints the answer's ids
 *
 * Standard error gets what may differ between runs. Exit status: 0 when every request ended OK and all streams were in
 * order. */
#include "base/conf.h"
#include "base/hash.h"
#include "client/cadre.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_ID = 3, IDS = 240, MOST_PROMPT = 4096 };

struct options {
    char *connect, *key, *ids;
    int64_t first, count, prompt, tokens, at_once;
    bool whole;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"connect", CONF_STRING, AT(connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where the cluster listens"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the key of a cluster that has one"},
    {"first", CONF_INT, AT(first), .def = "0", .min = 0, .max = 1e9, .arg = "I", .help = "number of the first request"},
    {"count", CONF_INT, AT(count), .def = "16", .min = 1, .max = 1e6, .arg = "N", .help = "how many"},
    {"at-once", CONF_INT, AT(at_once), .def = "512", .min = 1, .max = 512, .arg = "N",
     .help = "how many of them at the same time"},
    {"prompt", CONF_INT, AT(prompt), .def = "60", .min = 1, .max = MOST_PROMPT, .arg = "N", .help = "longest prompt"},
    {"tokens", CONF_INT, AT(tokens), .def = "40", .min = 1, .max = 1e6, .arg = "N", .help = "longest answer"},
    {"ids", CONF_STRING, AT(ids), .arg = "LIST", .help = "one greedy request with this prompt instead of numbered ones"},
    {"whole", CONF_FLAG, AT(whole), .def = "no", .help = "every prompt and every answer as long as allowed"},
    {0}};
static const struct conf_command command = {
    .name = "load", .usage = "[options]", .about = "Sends numbered requests and prints what came.", .options = table};

struct answer {
    int64_t number;
    uint64_t hash, text_hash, preemptions;
    uint32_t tokens, prompt_tokens, said_tokens; /* said: by FINISHED */
    char reason[16], fault[80];
    bool started, finished, ended;
    int status;
};

static int failures; /* requests that ended otherwise than OK */

static uint64_t next(uint64_t *state) { return hash_u64(*state += 0x9e3779b97f4a7c15); }

static const uint64_t FNV_OFFSET = 0xcbf29ce484222325; /* FNV-1a */

static void mix(uint64_t *hash, const void *data, size_t len) {
    for (size_t i = 0; i < len; i++) *hash = (*hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3;
}

/* What changes when an answer comes, or where it ends. */
static void add_wishes(struct cadre_request *r, int64_t number) {
    static const char *const stop[] = {"ab", "qu", "\n\n"};
    static const int32_t stop_ids[] = {FIRST_ID + 17, FIRST_ID + 99};
    r->priority = (int32_t)(number % 4) - 1;
    if (number % 6 == 4) r->stop = stop, r->n_stop = sizeof stop / sizeof *stop;
    if (number % 10 == 7) r->stop_ids = stop_ids, r->n_stop_ids = sizeof stop_ids / sizeof *stop_ids;
    if (number % 8 == 6) r->timeout_ms = 3600 * 1000;
    if (number % 9 == 2) r->tag = "letters";
}

static int submit(struct cadre_client *client, const struct options *o, int64_t number, struct cadre_stream **out) {
    static int32_t ids[MOST_PROMPT];
    uint64_t state = (uint64_t)number;
    uint64_t n = 1 + next(&state) % (uint64_t)o->prompt, tokens = 1 + next(&state) % (uint64_t)o->tokens;
    if (o->whole) n = (uint64_t)o->prompt, tokens = (uint64_t)o->tokens;
    for (uint64_t i = 0; i < n; i++) ids[i] = (int32_t)(FIRST_ID + next(&state) % IDS);
    struct cadre_request r = {.ids = ids,
                              .n_ids = n,
                              .max_tokens = (uint32_t)tokens,
                              .has_max_tokens = 1,
                              .has_seed = 1,
                              .seed = (uint64_t)number,
                              .logprobs = 4,
                              .ignore_eos = o->whole || number % 2};
    if (number % 3) r.temperature = number % 3 == 1 ? 0.7f : 1.3f;
    if (number % 4 == 1) r.top_p = 0.9f;
    if (number % 5 == 2) r.top_k = 20;
    if (number % 7 == 3) r.min_p = 0.02f;
    if (!o->whole) add_wishes(&r, number);
    return cadre_generate(client, &r, out);
}

static void find_fault(struct answer *a, const char *what) {
    if (!a->fault[0]) snprintf(a->fault, sizeof a->fault, "%s", what);
}

static void take_tokens(struct answer *a, const struct cadre_event *e) {
    if (!a->started || a->finished) find_fault(a, "tokens outside of started and finished");
    if (e->first != a->tokens) find_fault(a, "a token is missing or came twice");
    for (size_t i = 0; i < e->n_tokens; i++) {
        const struct cadre_token *t = &e->tokens[i];
        mix(&a->hash, &t->id, sizeof t->id);
        mix(&a->hash, &t->logprob, sizeof t->logprob);
        if (t->n_top != 3) find_fault(a, "not three alternatives");
        for (size_t k = 0; k < t->n_top; k++) {
            mix(&a->hash, &t->top[k].id, sizeof t->top[k].id);
            mix(&a->hash, &t->top[k].logprob, sizeof t->top[k].logprob);
        }
    }
    mix(&a->text_hash, e->text, e->text_len);
    a->tokens += (uint32_t)e->n_tokens;
}

static void take(struct answer *a, const struct cadre_event *e) {
    switch (e->kind) {
    case CADRE_STARTED:
        if (a->started) find_fault(a, "started twice");
        a->started = true;
        a->prompt_tokens = e->prompt_tokens;
        return;
    case CADRE_TOKENS: take_tokens(a, e); return;
    case CADRE_FINISHED:
        if (!a->started || a->finished) find_fault(a, "finished out of turn");
        a->finished = true;
        a->said_tokens = e->completion_tokens;
        a->preemptions = e->preemptions;
        snprintf(a->reason, sizeof a->reason, "%s", e->reason);
        return;
    case CADRE_END:
        a->ended = true;
        a->status = e->status;
        failures += e->status != 0;
        if (!e->status && (!a->finished || a->said_tokens != a->tokens)) find_fault(a, "the end does not fit the tokens");
        if (e->status) find_fault(a, e->message);
        return;
    }
}

/* Takes one event of any stream: how many streams that ended, 0 or 1; -1 when the client itself failed. */
static int follow(struct cadre_client *client) {
    struct cadre_stream *stream;
    struct cadre_event e;
    int code = cadre_wait(client, -1, &stream);
    if (code == CADRE_OK) code = cadre_next(stream, 0, &e);
    if (code > 0) return fprintf(stderr, "load: %s\n", cadre_error(client)), -1;
    if (code == CADRE_TIMEOUT) return 0;
    struct answer *a = cadre_stream_user(stream);
    take(a, &e);
    if (a->ended) cadre_stream_close(stream);
    return a->ended;
}

/* After the first request that did not end well no more are sent; *told is how many were. */
static int ask(struct cadre_client *client, const struct options *o, struct answer *answers, int64_t *told) {
    int64_t sent = 0, ended = 0, most = o->count;
    while (ended < most) {
        while (sent < most && sent - ended < o->at_once) {
            struct cadre_stream *stream;
            struct answer *a = &answers[sent];
            *a = (struct answer){.number = o->first + sent, .hash = FNV_OFFSET, .text_hash = FNV_OFFSET};
            if (submit(client, o, a->number, &stream)) return fprintf(stderr, "load: %s\n", cadre_error(client)), 1;
            cadre_stream_set_user(stream, a);
            sent++;
        }
        int n = follow(client);
        if (n < 0) return 1;
        ended += n;
        if (failures) most = sent;
    }
    *told = sent;
    return 0;
}

static int tell(const struct answer *answers, int64_t n) {
    uint64_t preemptions = 0;
    int bad = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct answer *a = &answers[i];
        printf("%" PRId64 " %s %s prompt %u tokens %u %016" PRIx64 "\n", a->number, cadre_code_name(a->status), a->reason,
               a->prompt_tokens, a->tokens, a->hash ^ a->text_hash);
        if (a->fault[0]) fprintf(stderr, "load: request %" PRId64 ": %s\n", a->number, a->fault);
        bad += a->status || a->fault[0];
        preemptions += a->preemptions;
    }
    fprintf(stderr, "preemptions %" PRIu64 "\n", preemptions);
    return bad ? 1 : 0;
}

/* The request of --ids; prints the ids of the answer. */
static int ask_ids(struct cadre_client *client, const struct options *o) {
    int32_t ids[MOST_PROMPT];
    struct cadre_request r = {.ids = ids, .max_tokens = (uint32_t)o->tokens, .has_max_tokens = 1};
    struct cadre_stream *stream;
    struct cadre_event e = {.kind = CADRE_STARTED};
    for (char *p = o->ids; *p && r.n_ids < MOST_PROMPT; p += *p == ',') ids[r.n_ids++] = (int32_t)strtol(p, &p, 10);
    int code = cadre_generate(client, &r, &stream);
    while (code <= 0 && e.kind != CADRE_END) {
        code = cadre_next(stream, -1, &e);
        for (size_t i = 0; code == CADRE_OK && i < e.n_tokens; i++) printf("%d\n", e.tokens[i].id);
    }
    if (code > 0 || e.status) return fprintf(stderr, "load: %s\n", code > 0 ? cadre_error(client) : e.message), 1;
    cadre_stream_close(stream);
    return 0;
}

static int run(const struct options *o) {
    struct cadre_client *client;
    struct answer *answers = calloc((size_t)o->count, sizeof *answers);
    int64_t told = 0;
    int status = 1;
    if (answers && !cadre_open(o->connect, &(struct cadre_options){.key_file = o->key}, &client)) {
        status = o->ids ? ask_ids(client, o) : ask(client, o, answers, &told);
        if (!status && !o->ids) status = tell(answers, told);
        cadre_close(client);
    }
    free(answers);
    return status;
}

int main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &o, argc, argv, &args, &why);
    if (rc < 0) fprintf(stderr, "load: %s\n", why.text);
    int status = rc < 0 ? 2 : rc > 0 ? 0 : run(&o);
    conf_clear(&command, &o, &args);
    return status;
}
