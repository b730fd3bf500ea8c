/* main.c - `cadre`: finds the verb and runs it. Each verb is one file with one option table. */
#include "cli/child.h"
#include "cli/cli.h"
#include "cli/tend.h"

#include <stdlib.h>
#include <string.h>

static const struct cli_verb verbs[] = {
    {"serve", "start a cluster for a model on this machine", serve_main},
    {"generate", "send a prompt, print the answer as it is made", generate_main},
    {"chat", "talk to the model, line by line", chat_main},
    {"status", "workers, queue and memory of a running cluster", status_main},
    {"drain", "let a worker leave a running cluster", drain_main},
    {"events", "what happened to a running cluster, and when", events_main},
    {"experts", "how often each expert was used, and where", experts_main},
    {"trace", "record where a running cluster sends its tokens", trace_main},
    {"keygen", "make the key without which nobody may join or ask", keygen_main},
    {"journal", "what a coordinator has written down", journal_main},
    {"pack", "make a model into files that workers map instead of loading", pack_main},
    {"eval", "score how well a model predicts a text", eval_main},
    {"inspect", "what a checkpoint is and what it takes to serve it", inspect_main},
    {"tokenize", "show the token ids of a text", tokenize_main},
};
enum { VERBS = sizeof verbs / sizeof *verbs };

static void print_help(FILE *f) {
    fprintf(f,
            "Usage: cadre VERB [options]\n\nServes Mixture-of-Experts language models from a cluster of worker processes.\n\n");
    for (int i = 0; i < VERBS; i++) fprintf(f, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(f, "\n'cadre help VERB' tells about one of them.\n"
               "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not healthy (red), 4 hardly (amber).\n");
}

static const struct cli_verb *find_verb(const char *name) {
    for (int i = 0; i < VERBS; i++)
        if (!strcmp(verbs[i].name, name)) return &verbs[i];
    return NULL;
}

static int unknown_verb(const char *name) {
    const struct cli_verb *near = NULL;
    int best = 4;
    for (int i = 0; i < VERBS; i++) {
        bool begins = strlen(name) >= 2 && !strncmp(verbs[i].name, name, strlen(name));
        int d = begins ? 1 : conf_distance(name, strlen(name), verbs[i].name);
        if (d < best) best = d, near = &verbs[i];
    }
    if (near) fprintf(stderr, "cadre: there is no verb '%s'; did you mean '%s'?\n", name, near->name);
    else fprintf(stderr, "cadre: there is no verb '%s'; 'cadre help' lists them\n", name);
    return EXIT_USAGE;
}

int main(int argc, char **argv) {
    if (argc < 2) return print_help(stderr), EXIT_USAGE;
    const char *name = argv[1];
    bool help = !strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h");
    if (help && argc < 3) return print_help(stdout), EXIT_DONE;
    if (!strcmp(name, "--version") || !strcmp(name, "version")) return printf("cadre %s\n", CADRE_VERSION), EXIT_DONE;
    /* For serve alone, see child.h and tend.h; not in the list. */
    if (!strcmp(name, "with-parent") && argc > 2) {
        child_with_parent(argv + 2);
        return fprintf(stderr, "cadre: cannot run %s\n", argv[2]), EXIT_FAILED;
    }
    if (!strcmp(name, "tend") && argc > 3) return child_follow_parent(), tend_run("the worker", argv[2], argv + 3);
    const struct cli_verb *verb = find_verb(help ? argv[2] : name);
    if (!verb) return unknown_verb(help ? argv[2] : name);
    if (!help) return verb->run(argc - 1, argv + 1);
    char *ask[] = {(char *)verb->name, (char *)"--help", NULL};
    return verb->run(2, ask);
}
