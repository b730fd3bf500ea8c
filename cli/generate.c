/* generate.c - `cadre generate`: one prompt, one answer.
 *
 * Text goes to stdout as it comes, everything else to stderr. With --json one object is printed at the end; all of it but
 * "timing" is reproducible, so its keys have a fixed order and floats are printed exactly (%.9g).
 * The first Ctrl-C cancels the request in the cluster and waits a moment for its End; the second leaves at once. */
#include "base/clk.h"
#include "cli/request.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CANCEL_PATIENCE_US = 2000000 };

struct options {
    struct request_options request;
    char *prompt, *prompt_file, *system;
    bool chat, json, stream, verbose;
    int64_t logprobs;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Prompt"},
    {"prompt", CONF_STRING, AT(prompt), .arg = "TEXT", .help = "the prompt; the model goes on with it"},
    {"prompt-file", CONF_STRING, AT(prompt_file), .arg = "FILE", .help = "the prompt is the whole of a file, byte for byte"},
    {"chat", CONF_FLAG, AT(chat), .def = "no", .help = "the prompt is a user's message: use the model's chat template"},
    {"system", CONF_STRING, AT(system), .arg = "TEXT", .help = "system message before it; implies --chat"},
    REQUEST_OPTIONS(struct options, request),
    {"", CONF_FLAG, 0, .help = "Output"},
    {"logprobs", CONF_INT, AT(logprobs), .min = 0, .max = 20, .arg = "N",
     .help = "each token's log probability and the N likeliest; with --json"},
    {"json", CONF_FLAG, AT(json), .def = "no", .help = "print one JSON object at the end"},
    {"stream", CONF_FLAG, AT(stream), .def = "yes", .help = "print as it comes; --no-stream: all at once"},
    {"verbose", CONF_FLAG, AT(verbose), .def = "no", .help = "rates on standard error, also when it is not a terminal"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre generate",
    .usage = "[--prompt TEXT | --prompt-file FILE | -] [options]",
    .about =
        "Sends a prompt to a running cluster and prints the answer as it is made. '-' reads the prompt from standard input.\n"
        "Ctrl-C cancels the request in the cluster.",
    .options = table,
    .footer = "Examples:\n  cadre generate --prompt \"The sea is\" --max-tokens 40\n"
              "  cadre generate --chat --prompt \"Name three rivers.\" --temperature 0.8 --seed 7\n"
              "  cadre generate --json --logprobs 2 --prompt-file question.txt | jq .usage\n\n"
              "Exit status: 0 answered, 1 failed, 2 wrong usage, 130 cancelled by Ctrl-C.",
    .max_args = 1};

struct buffer {
    char *data;
    size_t len, cap;
};
struct answer {                   /* what has come so far */
    struct buffer text, logprobs; /* logprobs: JSON array elements */
    struct buffer ids;            /* JSON array elements */
    uint64_t request, seed, queue_us, prefill_us, decode_us;
    int64_t sent_us, first_us, last_us;
    uint32_t prompt_tokens, completion_tokens, cached_tokens, preemptions;
    bool degraded;
    char reason[32], model[200];
    int status;
    char message[512];
    const char *gave_up; /* why no END was waited for */
};

static void append(struct buffer *b, const char *data, size_t len) {
    if (b->len + len + 1 > b->cap) {
        size_t cap = (b->len + len + 1) * 2;
        char *more = realloc(b->data, cap);
        if (!more) return; /* the next token may be luckier; the process is about to be killed anyway */
        b->data = more;
        b->cap = cap;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = 0;
}

static void keep_token(struct answer *a, const struct cadre_token *t, bool logprobs) {
    char *text = NULL;
    size_t len = 0;
    char id[32];
    int n = snprintf(id, sizeof id, "%s%d", a->ids.len ? "," : "", t->id);
    append(&a->ids, id, (size_t)n);
    FILE *f = logprobs ? open_memstream(&text, &len) : NULL;
    if (!f) return;
    fprintf(f, "%s{\"id\":%d,\"logprob\":%.9g,\"top\":[", a->logprobs.len ? "," : "", t->id, (double)t->logprob);
    for (size_t i = 0; i < t->n_top; i++) {
        fprintf(f, "%s{\"id\":%d,\"logprob\":%.9g,\"text\":", i ? "," : "", t->top[i].id, (double)t->top[i].logprob);
        cli_json_string(f, t->top[i].text, t->top[i].text_len);
        fputc('}', f);
    }
    fputs("]}", f);
    fclose(f);
    append(&a->logprobs, text, len);
    free(text);
}

static void keep(struct answer *a, const struct options *o, const struct cadre_event *e) {
    switch (e->kind) {
    case CADRE_STARTED:
        a->request = e->request;
        a->seed = e->seed;
        a->prompt_tokens = e->prompt_tokens;
        snprintf(a->model, sizeof a->model, "%s", e->model);
        return;
    case CADRE_TOKENS:
        a->last_us = clk_now_us();
        if (!a->first_us) a->first_us = a->last_us;
        a->completion_tokens += (uint32_t)e->n_tokens;
        for (size_t i = 0; o->json && i < e->n_tokens; i++) keep_token(a, &e->tokens[i], o->logprobs >= 0);
        append(&a->text, e->text, e->text_len);
        return;
    case CADRE_FINISHED:
        append(&a->text, e->text, e->text_len);
        a->completion_tokens = e->completion_tokens;
        a->cached_tokens = e->cached_tokens;
        a->preemptions = e->preemptions;
        a->degraded = e->degraded;
        a->queue_us = e->queue_us;
        a->prefill_us = e->prefill_us;
        a->decode_us = e->decode_us;
        snprintf(a->reason, sizeof a->reason, "%s", e->reason);
        return;
    case CADRE_END:
        a->status = e->status;
        snprintf(a->message, sizeof a->message, "%s", e->message);
        return;
    }
}

/* Events until END; what the user interrupts twice, or the cluster does not end in time, ends CANCELLED here. */
static void follow(struct cadre_client *client, struct cadre_stream *stream, const struct options *o, struct answer *a) {
    bool show = o->stream && !o->json;
    int64_t cancelled_us = 0;
    for (;;) {
        struct cadre_event e;
        int code = cadre_next(stream, 100, &e);
        if (code > 0) {
            a->status = code;
            snprintf(a->message, sizeof a->message, "%s", cadre_error(client));
            return;
        }
        if (code == CADRE_OK) {
            keep(a, o, &e);
            if (e.kind == CADRE_END) return;
            if (show && e.text_len) {
                fwrite(e.text, 1, e.text_len, stdout);
                fflush(stdout);
            }
        }
        if (cli_signals() && !cancelled_us) {
            cadre_cancel(stream);
            cancelled_us = clk_now_us();
            fprintf(stderr, "cadre generate: cancelling; interrupt again to leave at once\n");
        }
        bool at_once = cli_signals() > 1;
        if (at_once || (cancelled_us && clk_now_us() - cancelled_us > CANCEL_PATIENCE_US)) {
            a->status = CADRE_CANCELLED;
            a->gave_up = at_once ? "; left without the cluster's answer" : "; the cluster did not answer";
            return;
        }
    }
}

static void print_json(const struct options *o, const struct answer *a) {
    printf("{\"text\":");
    cli_json_string(stdout, a->text.data ? a->text.data : "", a->text.len);
    printf(",\"token_ids\":[%s]", a->ids.data ? a->ids.data : "");
    if (o->logprobs >= 0) printf(",\"logprobs\":[%s]", a->logprobs.data ? a->logprobs.data : "");
    printf(",\"finish_reason\":");
    cli_json_string(stdout, a->reason, strlen(a->reason));
    if (a->degraded) printf(",\"degraded\":true");
    printf(",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u}", a->prompt_tokens,
           a->completion_tokens, a->prompt_tokens + a->completion_tokens);
    printf(",\"model\":");
    cli_json_string(stdout, a->model, strlen(a->model));
    if (o->request.seed >= 0 || o->request.temperature > 0) printf(",\"seed\":%llu", (unsigned long long)a->seed);
    double first = a->first_us ? (double)(a->first_us - a->sent_us) / 1e3 : 0, span = (double)(a->last_us - a->first_us) / 1e6;
    printf(",\"timing\":{\"request\":%llu,\"ttft_ms\":%.3f,\"tokens_per_second\":%.2f,\"queue_ms\":%.3f,\"prefill_ms\":%.3f,"
           "\"decode_ms\":%.3f,\"preemptions\":%u,\"cached_tokens\":%u}}\n",
           (unsigned long long)a->request, first, a->completion_tokens > 1 && span > 0 ? (a->completion_tokens - 1) / span : 0.,
           (double)a->queue_us / 1e3, (double)a->prefill_us / 1e3, (double)a->decode_us / 1e3, a->preemptions,
           a->cached_tokens);
}

static void print_rates(const struct answer *a) {
    double first = a->first_us ? (double)(a->first_us - a->sent_us) / 1e3 : 0, span = (double)(a->last_us - a->first_us) / 1e6;
    fprintf(stderr, "%u prompt tokens, %u generated (%s%s)", a->prompt_tokens, a->completion_tokens, a->reason,
            a->degraded ? "; degraded: experts were missing" : "");
    if (a->first_us) fprintf(stderr, ", TTFT %.0f ms", first);
    if (a->completion_tokens > 1 && span > 0) fprintf(stderr, ", %.1f tokens/s", (a->completion_tokens - 1) / span);
    fputc('\n', stderr);
}

static int report(const struct options *o, struct answer *a) {
    if (a->status == CADRE_OK) {
        if (o->json) print_json(o, a);
        else if (!o->stream && a->text.len) fwrite(a->text.data, 1, a->text.len, stdout);
        if (!o->json) putchar('\n');
        fflush(stdout);
        if (!o->json && (o->verbose || isatty(STDERR_FILENO))) print_rates(a);
        if (ferror(stdout)) return fprintf(stderr, "cadre generate: cannot write the answer to standard output\n"), EXIT_FAILED;
        return EXIT_DONE;
    }
    if (o->stream && !o->json && a->text.len) putchar('\n');
    fflush(stdout);
    if (cli_signals() && a->status == CADRE_CANCELLED) {
        fprintf(stderr, "cadre generate: cancelled after %u tokens%s\n", a->completion_tokens, a->gave_up ? a->gave_up : "");
        return cli_exit_signal();
    }
    return cli_complain("generate", a->status, a->message);
}

static int ask(const struct options *o, const struct cadre_request *request) {
    struct answer a = {.sent_us = clk_now_us()};
    struct cadre_stream *stream = NULL;
    struct cadre_client *client = cli_connect("generate", o->request.connect, o->request.key, false);
    if (!client) return EXIT_FAILED;
    int code = cadre_generate(client, request, &stream);
    if (code) {
        a.status = code;
        snprintf(a.message, sizeof a.message, "%s", cadre_error(client));
    } else {
        follow(client, stream, o, &a);
    }
    int status = report(o, &a);
    cadre_close(client);
    free(a.text.data);
    free(a.ids.data);
    free(a.logprobs.data);
    return status;
}

/* The prompt, malloc'ed, from whichever of the three places it was given; NULL: it complained, *status says how to leave. */
static char *prompt_text(const struct options *o, const struct conf_args *args, size_t *len, int *status) {
    bool dash = args->n && !strcmp(args->items[0], "-");
    *status = EXIT_USAGE;
    if (args->n && !dash) {
        fprintf(stderr, "cadre generate: unexpected argument '%s'; the prompt comes with --prompt, --prompt-file or '-'\n",
                args->items[0]);
        return NULL;
    }
    if (!!o->prompt + !!o->prompt_file + dash != 1) {
        fprintf(stderr, "cadre generate: wanted exactly one of --prompt TEXT, --prompt-file FILE and '-' (standard input)\n");
        return NULL;
    }
    *status = EXIT_FAILED;
    if (!o->prompt) return cli_read_file("generate", dash ? "-" : o->prompt_file, len);
    *len = strlen(o->prompt);
    return strdup(o->prompt);
}

static int run(const struct options *o, const struct conf_args *args) {
    struct cadre_request request;
    struct cadre_message messages[2];
    size_t len = 0;
    int status;
    if (o->logprobs >= 0 && !o->json) return fprintf(stderr, "cadre generate: --logprobs needs --json\n"), EXIT_USAGE;
    char *prompt = prompt_text(o, args, &len, &status);
    if (!prompt) return status;
    request_fill(&o->request, &request);
    request.logprobs = o->logprobs >= 0 ? (uint32_t)o->logprobs + 1 : 0;
    if (o->chat || o->system) {
        if (o->system) messages[request.n_messages++] = (struct cadre_message){"system", o->system, strlen(o->system)};
        messages[request.n_messages++] = (struct cadre_message){"user", prompt, len};
        request.messages = messages;
    } else {
        request.prompt = prompt;
        request.prompt_len = len;
    }
    cli_catch_signals();
    status = ask(o, &request);
    free(prompt);
    return status;
}

int generate_main(int argc, char **argv) {
    struct options o = {.request = REQUEST_DEFAULTS, .logprobs = -1};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o, &args);
    conf_clear(&command, &o, &args);
    return status;
}
