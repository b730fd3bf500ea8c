/* drain.c - `cadre drain`: a worker leaves a running cluster, and nobody notices but those who ask. */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "cli/cli.h"

enum { ASK_MS = 5000, LOOK_MS = 100 };

struct options {
    char *connect, *key;
    int64_t wait;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Options"},
    {"connect", CONF_STRING, AT(connect), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where the cluster listens"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the key of a cluster that has one: its own, not its clients'"},
    {"wait", CONF_INT, AT(wait), .def = "60", .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "for it to have left; 0: do not wait"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre drain",
    .usage = "WORKER [options]",
    .about =
        "A worker (its rank, as in 'cadre status') leaves a running cluster: its requests go on at the others, which take "
        "over\n"
        "its experts, and then it ends with status 0. No request fails, no answer changes. Another may join in its place:\n"
        "cadre-worker --connect ENDPOINT --fabric FABRIC",
    .options = table,
    .footer = "Refused when the others cannot hold the model, and with a client's key.\n"
              "To end the whole cluster send SIGTERM to cadre serve.\n\n"
              "Exit status: 0 it has left (or began to, with --wait 0), 1 refused or not in time, 2 wrong usage.",
    .min_args = 1,
    .max_args = 1};

/* 1: it has left; 0: not yet; else a code. */
static int look(struct cadre_client *client, uint32_t rank) {
    struct cadre_cluster *s;
    int code = cadre_status(client, ASK_MS, &s), left = 1;
    if (code) return code == CADRE_UNAVAILABLE || code == CADRE_DEADLINE_EXCEEDED ? 0 : -code;
    for (size_t i = 0; i < s->n_workers; i++)
        if (s->workers[i].rank == rank) left = strcmp(s->workers[i].state, "ready") && strcmp(s->workers[i].state, "suspect");
    cadre_cluster_free(s);
    return left;
}

static int wait_for(struct cadre_client *client, uint32_t rank, int64_t seconds) {
    int64_t until = clk_now_us() + seconds * 1000000;
    int rc = 0;
    while (seconds && !(rc = look(client, rank))) {
        if (clk_now_us() > until) {
            fprintf(stderr, "cadre drain: worker %u is still there after %lld s; it leaves when it can\n", rank,
                    (long long)seconds);
            return EXIT_FAILED;
        }
        poll(NULL, 0, LOOK_MS);
    }
    return rc < 0 ? cli_complain("drain", -rc, cadre_error(client)) : EXIT_DONE;
}

static int run(const struct options *o, const char *word) {
    char *end;
    unsigned long rank = strtoul(word, &end, 10);
    if (*end || end == word || rank > UINT16_MAX) {
        fprintf(stderr, "cadre drain: '%s' is no worker; wanted its rank, as 'cadre status' shows it\n", word);
        return EXIT_USAGE;
    }
    struct cadre_client *client = cli_connect("drain", o->connect, o->key, true);
    if (!client) return EXIT_FAILED;
    int code = cadre_drain(client, (uint32_t)rank, ASK_MS);
    int status = code ? cli_complain("drain", code, cadre_error(client)) : wait_for(client, (uint32_t)rank, o->wait);
    cadre_close(client);
    return status;
}

int drain_main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o, args.items[0]);
    conf_clear(&command, &o, &args);
    return status;
}
