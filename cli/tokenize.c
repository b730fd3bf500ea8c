/* tokenize.c - `cadre tokenize`: what a text is to the model. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

struct options {
    char *connect, *key, *prompt, *prompt_file;
    bool chat, json;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"connect", CONF_STRING, AT(connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where the cluster listens"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the key of a cluster that has one"},
    {"prompt", CONF_STRING, AT(prompt), .arg = "TEXT", .help = "the text"},
    {"prompt-file", CONF_STRING, AT(prompt_file), .arg = "FILE",
     .help = "the text is the whole of a file; '-' is standard input"},
    {"chat", CONF_FLAG, AT(chat), .def = "no", .help = "as a user's message, through the model's chat template"},
    {"json", CONF_FLAG, AT(json), .def = "no", .help = "print one JSON object"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre tokenize",
    .usage = "(--prompt TEXT | --prompt-file FILE) [options]",
    .about = "Prints the token ids that the model of a running cluster sees for a text.",
    .options = table,
    .footer = "Examples:\n  cadre tokenize --prompt \"The sea is\"\n"
              "  cadre tokenize --chat --json --prompt-file question.txt\n\n"
              "Exit status: 0 shown, 1 failed, 2 wrong usage."};

static int run(const struct options *o) {
    size_t len = 0, n = 0;
    int32_t *ids;
    if (!!o->prompt + !!o->prompt_file != 1)
        return fprintf(stderr, "cadre tokenize: wanted exactly one of --prompt TEXT and --prompt-file FILE\n"), EXIT_USAGE;
    char *text = o->prompt ? strdup(o->prompt) : cli_read_file("tokenize", o->prompt_file, &len);
    if (!text) return EXIT_FAILED;
    if (o->prompt) len = strlen(text);
    struct cadre_message message = {"user", text, len};
    struct cadre_request request = {
        .prompt = o->chat ? NULL : text, .prompt_len = len, .messages = o->chat ? &message : NULL, .n_messages = o->chat};
    struct cadre_client *client = cli_connect("tokenize", o->connect, o->key, false);
    int code = client ? cadre_tokenize(client, &request, 0, &ids, &n) : CADRE_UNAVAILABLE;
    if (client && code) cli_complain("tokenize", code, cadre_error(client));
    if (!code) {
        fputs(o->json ? "{\"ids\":[" : "", stdout);
        for (size_t i = 0; i < n; i++) printf("%s%d", !i ? "" : o->json ? "," : " ", ids[i]);
        fputs(o->json ? "]}\n" : "\n", stdout);
        cadre_ids_free(ids);
    }
    cadre_close(client);
    free(text);
    return code ? EXIT_FAILED : EXIT_DONE;
}

int tokenize_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o);
    conf_clear(&command, &o, &args);
    return status;
}
