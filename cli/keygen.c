/* keygen.c - `cadre keygen`: makes a cluster's key. */
#include "cli/cli.h"

#include <string.h>
#include <unistd.h>

#include "proto/key.h"

struct options {
    char *output, *client_output;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {{"", CONF_FLAG, 0, .help = "Options"},
                                           {"output", CONF_STRING, AT(output), .def = "cadre.key", .arg = "FILE", .letter = 'o',
                                            .help = "the cluster's key, for coordinator, workers and operators"},
                                           {"client-output", CONF_STRING, AT(client_output), .def = "cadre-client.key",
                                            .arg = "FILE",
                                            .help = "its part for clients, who may neither join nor drain with it"},
                                           {NULL}};
static const struct conf_command command = {
    .name = "cadre keygen",
    .usage = "[options]",
    .about =
        "Makes the key of a new cluster. With it every connection is encrypted, the coordinator, workers and clients prove\n"
        "who they are, and strangers are refused and counted. Without one a cluster listens to its own machine alone.",
    .options = table,
    .footer =
        "Examples:\n  cadre keygen\n"
        "  cadre serve MODEL --key cadre.key --listen 'tcp://*:5770'\n"
        "  cadre generate --connect tcp://HEAD:5770 --key cadre-client.key --prompt \"The sea is\"\n\n"
        "You alone may read both files; no file is overwritten. Exit status: 0 made, 1 failed, 2 wrong usage."};

int keygen_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    struct key key;
    struct why why;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) {
        int rc = key_make(&key, &why);
        if (rc >= 0) rc = key_write(&key, false, o.output, &why);
        if (rc >= 0 && (rc = key_write(&key, true, o.client_output, &why)) < 0) unlink(o.output);
        explicit_bzero(&key, sizeof key);
        if (rc < 0) fprintf(stderr, "cadre keygen: %s\n", why.text);
        else printf("%s: for the coordinator, its workers and operators\n%s: for clients\n", o.output, o.client_output);
        status = rc < 0 ? EXIT_FAILED : EXIT_DONE;
    }
    conf_clear(&command, &o, &args);
    return status;
}
