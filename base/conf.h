/* conf.h - one table per program or verb: names, types, defaults, ranges and help text. Parsing the command line, parsing a
 * config file and printing --help all come from it, so they cannot disagree.
 *
 * Command line: --name VALUE, --name=VALUE, --flag, --no-flag, a letter for some (-q, -o VALUE), and positionals. Config file:
 * `name = value` lines, '#' comments. Order: defaults, then the file named by --config, then the command line. Unknown names
 * are refused with the nearest known one. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum conf_type {
    CONF_FLAG,    /* bool */
    CONF_INT,     /* int64_t within [min, max] */
    CONF_SIZE,    /* int64_t bytes: 512, 64K, 80GiB; within [min, max] */
    CONF_REAL,    /* double within [min, max] */
    CONF_STRING,  /* char *, owned by the target */
    CONF_CHOICE,  /* char *, one of `choices` */
    CONF_LIST     /* struct conf_list: may be given several times */
};
struct conf_list {
    char **items;
    int n;
};
struct conf_option {
    const char *name;       /* "max-batch"; "" starts a new group in --help, whose title is `help` */
    enum conf_type type;
    size_t offset;          /* into the target struct */
    const char *def;        /* as text; NULL: zero, or NULL string */
    double min, max;        /* numbers; both 0 = any */
    const char *choices;    /* "mem|mpi" */
    const char *arg;        /* placeholder in --help: "N" */
    const char *help;
    char letter;            /* 'q': "-q" is the same; 0: there is none */
};
struct conf_command {
    const char *name;       /* "cadre serve" */
    const char *usage;      /* "MODEL [options]" */
    const char *about;      /* first paragraphs of --help */
    const char *footer;     /* examples, files, exit status; may be NULL */
    const struct conf_option *options; /* ends with name == NULL */
    int min_args, max_args; /* positionals */
};
struct conf_args {
    char **items;           /* positionals, borrowed from argv */
    int n;
};

/* 0; 1 when --help or --version was asked for and printed to stdout; or ERR_INVALID / ERR_IO with why. Strings in target are
 * owned by it: conf_clear frees them, whatever conf_parse returned. The caller has filled target with zeros, or with what a
 * number without a `def` shall be. An option called "config" names the file to read first. */
int  conf_parse(const struct conf_command *cmd, void *target, int argc, char **argv, struct conf_args *args, struct why *why);
void conf_clear(const struct conf_command *cmd, void *target, struct conf_args *args);
/* How many letters one has to insert, remove or change to get b from the first n bytes of a: to guess what was meant. 64 when
 * one of them is that long. */
int  conf_distance(const char *a, size_t n, const char *b);
#define CADRE_VERSION "0.1.0"
