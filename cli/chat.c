/* chat.c - `cadre chat`: a conversation. The history is kept here and sent whole with every turn; the cluster turns it into a
 * prompt with the model's own chat template.
 *
 * Ctrl-C while an answer comes cancels that answer (what was shown stays in the history); at the prompt it asks once, then
 * leaves. Works without a terminal too: then every line of standard input is a turn and there is no prompt. */
#include "cli/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct options {
    struct request_options request;
    char *system;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Conversation"},
    {"system", CONF_STRING, AT(system), .arg = "TEXT", .help = "system message at the beginning"},
    REQUEST_OPTIONS(struct options, request),
    {NULL}};
static const struct conf_command command = {
    .name = "cadre chat",
    .usage = "[options]",
    .about = "Talks to the model of a running cluster. Each line is a turn; /reset forgets the conversation, /quit or\n"
             "Ctrl-D leaves. Ctrl-C cancels the answer that is being made.",
    .options = table,
    .footer = "Example:\n  cadre chat --system \"You are brief.\" --temperature 0.7\n\n"
              "Exit status: 0 left, 1 the last turn failed, 2 wrong usage, 130 left by Ctrl-C."};

struct history {
    struct cadre_message *messages; /* contents are ours */
    size_t n, cap;
};
struct talk {
    const struct options *o;
    struct cadre_client *client;
    struct history history;
    bool terminal;
};

static bool add(struct history *h, const char *role, char *content) {
    if (h->n == h->cap) {
        size_t cap = h->cap ? h->cap * 2 : 16;
        struct cadre_message *more = content ? realloc(h->messages, cap * sizeof *more) : NULL;
        if (!more) return free(content), false;
        h->messages = more;
        h->cap = cap;
    }
    if (!content) return false;
    h->messages[h->n++] = (struct cadre_message){role, content, strlen(content)};
    return true;
}

static void cut(struct history *h, size_t keep) {
    while (h->n > keep) free((char *)h->messages[--h->n].content);
}

static void start(struct talk *t) {
    cut(&t->history, 0);
    if (t->o->system) add(&t->history, "system", strdup(t->o->system));
}

/* Shows one answer; *text gets all of it. OK, CANCELLED or what the cluster says. */
static int follow(struct talk *t, struct cadre_stream *stream, FILE *text) {
    for (;;) {
        struct cadre_event e;
        int code = cadre_next(stream, 100, &e);
        if (code > 0) return cli_complain("chat", code, cadre_error(t->client)), code;
        if (cli_signals()) cadre_cancel(stream);
        if (cli_signals() > 1) return CADRE_CANCELLED;
        if (code == CADRE_TIMEOUT) continue;
        if (e.kind == CADRE_FINISHED && e.degraded) fprintf(stderr, "(degraded: experts were missing)\n");
        if (e.kind == CADRE_END) {
            if (e.status && e.status != CADRE_CANCELLED) cli_complain("chat", e.status, e.message);
            return e.status;
        }
        fwrite(e.text ? e.text : "", 1, e.text_len, text);
        fwrite(e.text ? e.text : "", 1, e.text_len, stdout);
        fflush(stdout);
    }
}

static int answer(struct talk *t) {
    struct cadre_request request;
    struct cadre_stream *stream;
    char *said = NULL;
    size_t len = 0;
    request_fill(&t->o->request, &request);
    request.messages = t->history.messages;
    request.n_messages = t->history.n;
    cli_forget_signals();
    int code = cadre_generate(t->client, &request, &stream);
    if (code) return cli_complain("chat", code, cadre_error(t->client)), code;
    FILE *text = open_memstream(&said, &len);
    if (text) {
        code = follow(t, stream, text);
        fclose(text);
    } else {
        code = CADRE_RESOURCE_EXHAUSTED;
    }
    cadre_stream_close(stream);
    putchar('\n');
    if (code == CADRE_CANCELLED) fprintf(stderr, "(cancelled)\n");
    if ((code == CADRE_OK || code == CADRE_CANCELLED) && len) add(&t->history, "assistant", said);
    else free(said);
    return code;
}

/* One line without its end, malloc'ed; NULL: the input ended or the user wants to leave (then *interrupted). */
static char *read_turn(struct talk *t, bool *interrupted) {
    char *line = NULL;
    size_t cap = 0;
    cli_forget_signals();
    for (int seen = 0;;) {
        if (t->terminal) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        errno = 0;
        ssize_t n = cli_wait_stdin(seen) ? getline(&line, &cap, stdin) : -1;
        if (n >= 0) {
            if (n && line[n - 1] == '\n') line[--n] = 0;
            if (strlen(line) == (size_t)n) return line;
            fprintf(stderr, "cadre chat: the line contains a NUL byte; skipped\n");
            continue;
        }
        seen = cli_signals(); /* before the words below: who reads them may interrupt at once */
        *interrupted = seen > (t->terminal ? 1 : 0);
        if (feof(stdin) || !seen || *interrupted) break;
        clearerr(stdin);
        fprintf(stderr, "\n(Ctrl-C again, Ctrl-D or /quit leaves)\n");
    }
    free(line);
    return NULL;
}

static bool is_blank(const char *s) { return !s[strspn(s, " \t\r")]; }

static int converse(struct talk *t) {
    int last = CADRE_OK;
    bool interrupted = false;
    start(t);
    for (;;) {
        char *line = read_turn(t, &interrupted);
        if (!line || !strcmp(line, "/quit") || !strcmp(line, "/exit")) {
            free(line);
            break;
        }
        size_t before = t->history.n;
        if (is_blank(line)) {
            free(line);
        } else if (!strcmp(line, "/reset")) {
            start(t);
            free(line);
            fprintf(stderr, "(forgotten)\n");
        } else if (line[0] == '/') {
            fprintf(stderr, "cadre chat: there is no command '%s'; there are /reset and /quit\n", line);
            free(line);
        } else if (!add(&t->history, "user", line)) {
            return cli_complain("chat", CADRE_RESOURCE_EXHAUSTED, "out of memory");
        } else {
            last = answer(t);
            if (t->history.n == before + 1) cut(&t->history, before); /* no answer: as if it had not been said */
        }
    }
    if (t->terminal) putchar('\n');
    return interrupted ? cli_exit_signal() : last && last != CADRE_CANCELLED ? EXIT_FAILED : EXIT_DONE;
}

static int run(const struct options *o) {
    struct talk t = {.o = o, .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    t.client = cli_connect("chat", o->request.connect, o->request.key, false);
    if (!t.client) return EXIT_FAILED;
    setvbuf(stdin, NULL, _IONBF, 0); /* for cli_wait_stdin: a line at a time is all that chat reads */
    cli_catch_signals();
    int status = converse(&t);
    cadre_close(t.client);
    cut(&t.history, 0);
    free(t.history.messages);
    return status;
}

int chat_main(int argc, char **argv) {
    struct options o = {.request = REQUEST_DEFAULTS};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o);
    conf_clear(&command, &o, &args);
    return status;
}
