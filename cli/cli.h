/* cli.h - what the verbs of `cadre` share: exit statuses, signals, and small ways of printing. */
#pragma once
#include <stdbool.h>
#include <stdio.h>

#include "base/conf.h"
#include "client/cadre.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_UNHEALTHY = 3, EXIT_AMBER = 4, EXIT_INTERRUPTED = 130 };

struct cli_verb {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the verb; returns the exit status */
};
int generate_main(int argc, char **argv);
int chat_main(int argc, char **argv);
int status_main(int argc, char **argv);
int experts_main(int argc, char **argv);
int tokenize_main(int argc, char **argv);
int inspect_main(int argc, char **argv);
int trace_main(int argc, char **argv);
int drain_main(int argc, char **argv);
int events_main(int argc, char **argv);
int keygen_main(int argc, char **argv);
int pack_main(int argc, char **argv);
int eval_main(int argc, char **argv);
int journal_main(int argc, char **argv);
int serve_main(int argc, char **argv);

/* conf_parse with the manners of a command: prints help or the complaint. True: go on; false: leave with *exit_status. */
bool cli_parse(const struct conf_command *cmd, void *target, int argc, char **argv, struct conf_args *args, int *exit_status);

/* Connects or complains; NULL: it complained. key_file may be NULL. once: as in cadre_options, for verbs that ask how things
 * are now. */
struct cadre_client *cli_connect(const char *verb, const char *endpoint, const char *key_file, bool once);
/* One line on stderr about a failed call; returns EXIT_FAILED. */
int cli_complain(const char *verb, int code, const char *message);

/* Counts SIGINT and SIGTERM instead of dying from them; waits end early. */
void cli_catch_signals(void);
int  cli_signals(void);        /* how many came since cli_forget_signals */
void cli_forget_signals(void);
int  cli_exit_signal(void);    /* 128 + the last one's number */
/* Sleeps until stdin, which must be unbuffered, has something to read or has ended. False: a signal beyond the `seen` ones
 * came, before or while it slept: none can fall between the look and the sleep. */
bool cli_wait_stdin(int seen);

/* The whole of a file, or of stdin for "-": malloc'ed, NUL-terminated, *len without the NUL. NULL: it complained. */
char *cli_read_file(const char *verb, const char *path, size_t *len);

/* A JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
void cli_json_string(FILE *f, const char *text, size_t len);
/* "1.25 GiB" in one of four rotating static buffers. */
const char *cli_bytes(double bytes);
