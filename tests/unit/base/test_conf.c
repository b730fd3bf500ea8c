/* test_conf.c - options from defaults, file and command line, in that order; every mistake is told with the option's name. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/conf.h"

#include "tests/unit/run.h"


struct settings {
    bool on, off;
    int64_t workers, memory;
    double top_p;
    char *config, *prompt, *fabric;
    struct conf_list stop;
};
#define AT(field) offsetof(struct settings, field)
static const struct conf_option options[] = {
    {"", CONF_FLAG, 0, NULL, 0, 0, NULL, NULL, "Model"},
    {"on", CONF_FLAG, AT(on), "yes", .help = "on by default"},
    {"off", CONF_FLAG, AT(off), .help = "off by default", .letter = 'f'},
    {"workers", CONF_INT, AT(workers), "4", 1, 512, .arg = "N", .help = "how many"},
    {"memory", CONF_SIZE, AT(memory), "1GiB", 0, 1e15, .arg = "BYTES", .help = "how much"},
    {"top-p", CONF_REAL, AT(top_p), "0.9", 0, 1, .arg = "P", .help = "nucleus", .letter = 'p'},
    {"", CONF_FLAG, 0, NULL, 0, 0, NULL, NULL, "Other"},
    {"config", CONF_STRING, AT(config), .arg = "FILE", .help = "read options from FILE"},
    {"prompt", CONF_STRING, AT(prompt), .arg = "TEXT", .help = "what to say"},
    {"fabric", CONF_CHOICE, AT(fabric), "mem", .choices = "mem|mpi", .help = "how bytes move"},
    {"stop", CONF_LIST, AT(stop), .arg = "TEXT", .help = "stop here"},
    {NULL}};
static const struct conf_command command = {.name = "cadre test", .usage = "MODEL [options]", .about = "Tests options.",
                                            .footer = "Exit status: 0.", .options = options, .min_args = 1, .max_args = 2};

static struct settings s;
static struct conf_args args;
static struct why why;
static char path[64];

static void setup(void) {
    s = (struct settings){0};
    snprintf(path, sizeof path, P_tmpdir "/cadre-conf-XXXXXX");
    close(mkstemp(path));
}
static void teardown(void) {
    conf_clear(&command, &s, &args);
    ck_assert(!s.prompt && !s.stop.n && !args.items);
    unlink(path);
}

/* Words separated by single spaces; "$" stands for the scratch file. */
static int parse(const char *line) {
    static char copy[512];
    char *argv[32] = {(char *)(size_t)"cadre"}, *save = NULL;
    int argc = 1;
    conf_clear(&command, &s, &args);
    s = (struct settings){0};
    why = (struct why){""};
    snprintf(copy, sizeof copy, "%s", line);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) argv[argc++] = strcmp(w, "$") ? w : path;
    return conf_parse(&command, &s, argc, argv, &args, &why);
}

static void write_file(const char *text) {
    FILE *f = fopen(path, "we");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void good(const char *line) {
    int rc = parse(line);
    ck_assert_msg(rc == 0, "%s: %s", line, why.text);
}

START_TEST(defaults) {
    good("m");
    ck_assert(s.on && !s.off && s.workers == 4 && s.memory == 1 << 30 && s.top_p == 0.9 && !s.prompt && !s.stop.n);
    ck_assert_str_eq(s.fabric, "mem");
    ck_assert(args.n == 1 && !strcmp(args.items[0], "m"));
}
END_TEST

START_TEST(command_line) {
    good("--no-on --off m --workers=8 --memory 512M --top-p 0 --prompt hi --fabric mpi --stop a --stop=b n");
    ck_assert(!s.on && s.off && s.workers == 8 && s.memory == 512 << 20 && s.top_p == 0);
    ck_assert_str_eq(s.prompt, "hi");
    ck_assert_str_eq(s.fabric, "mpi");
    ck_assert(s.stop.n == 2 && !strcmp(s.stop.items[0], "a") && !strcmp(s.stop.items[1], "b"));
    ck_assert(args.n == 2 && !strcmp(args.items[1], "n"));
    good("--prompt one --prompt two --on=no m");
    ck_assert_str_eq(s.prompt, "two");
    ck_assert(!s.on);
    good("-- --workers");
    ck_assert(args.n == 1 && !strcmp(args.items[0], "--workers") && s.workers == 4);
    good("- m");
    ck_assert_str_eq(args.items[0], "-");
    good("--prompt= m");
    ck_assert_str_eq(s.prompt, "");
}
END_TEST

START_TEST(sizes) {
    static const struct { const char *text; int64_t bytes;
    } cases[] = {
        {"0", 0},        {"512", 512},        {"512B", 512},         {"64K", 65536},    {"64KiB", 65536},
        {"2m", 2 << 20}, {"1.5G", 3LL << 29}, {"80GiB", 80LL << 30}, {"3T", 3LL << 40},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[64];
        snprintf(line, sizeof line, "m --memory %s", cases[i].text);
        good(line);
        ck_assert_msg(s.memory == cases[i].bytes, "%s: %lld", cases[i].text, (long long)s.memory);
    }
}
END_TEST

START_TEST(files) {
    write_file("# a comment\n\nworkers = 16   # sixteen\n  off=yes\nprompt = a b#c\nstop = x\n");
    good("m --config $");
    ck_assert(s.workers == 16 && s.off && s.stop.n == 1);
    ck_assert_str_eq(s.prompt, "a b#c");
    good("--workers 2 --no-off --config $ m"); /* the command line wins wherever --config stands */
    ck_assert(s.workers == 2 && !s.off);
    good("m --prompt --config"); /* a value, whatever it looks like */
    ck_assert_str_eq(s.prompt, "--config");
    good("m --prompt -f -p 0.25");
    ck_assert(!s.off && s.top_p == 0.25 && !strcmp(s.prompt, "-f"));
    good("m -f -- -p");
    ck_assert(s.off && args.n == 2 && !strcmp(args.items[1], "-p"));
    good("m -- --config");
    ck_assert_int_eq(s.workers, 4);
    static const struct { const char *text, *says; } bad[] = {
        {"workers\n", ":1: expected 'name = value', found 'workers'"},
        {"\n\nworkers = many\n", ":3: workers: 'many' is not a whole number"},
        {"wokers = 3\n", ":1: unknown option 'wokers'; did you mean 'workers'?"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(bad[i].text);
        ck_assert_int_eq(parse("m --config $"), ERR_INVALID);
        ck_assert_msg(strstr(why.text, bad[i].says) && strstr(why.text, path), "%s", why.text);
    }
    ck_assert_int_eq(parse("m --config /nonexistent/file"), ERR_IO);
    ck_assert_msg(strstr(why.text, "/nonexistent/file") != NULL, "%s", why.text);
}
END_TEST

static const struct { const char *line, *says; } mistakes[] = {
    {"", "missing arguments; usage: cadre test MODEL"},
    {"a b c", "too many arguments; usage: cadre test MODEL"},
    {"m --worker 3", "unknown option 'worker'; did you mean 'workers'?"},
    {"m --zzzzzzzzzz", "'cadre test --help' lists them"},
    {"m -w", "options begin with two dashes"},
    {"m --workers", "--workers needs a value"},
    {"m -p", "-p needs a value"},
    {"m -p x", "top-p: 'x' is not a number"},
    {"m -p0.5", "unknown option '-p0.5'"},
    {"m -f yes no", "too many arguments"},
    {"m --workers 0", "workers: 0 is out of range; wanted 1 to 512"},
    {"m --workers 513", "wanted 1 to 512"},
    {"m --workers 3.5", "'3.5' is not a whole number"},
    {"m --workers 99999999999999999999", "not a whole number"},
    {"m --workers=", "'' is not a whole number"},
    {"m --top-p 1.1", "top-p: 1.1 is out of range"},
    {"m --top-p nan", "out of range"},
    {"m --top-p x", "'x' is not a number"},
    {"m --memory 5X", "'5X' is not a size such as 512M"},
    {"m --memory -5K", "out of range"},
    {"m --memory 1e30", "out of range"},
    {"m --fabric ucx", "fabric: 'ucx' is none of mem|mpi"},
    {"m --fabric me", "'me' is none of mem|mpi"},
    {"m --on=maybe", "on: 'maybe' is not yes or no"},
    {"m --no-workers", "unknown option"},
};
START_TEST(refuses) {
    ck_assert_int_eq(parse(mistakes[_i].line), ERR_INVALID);
    ck_assert_msg(strstr(why.text, mistakes[_i].says) != NULL, "%s: says '%s', wanted '%s'", mistakes[_i].line, why.text,
                  mistakes[_i].says);
}
END_TEST

/* What the call prints to stdout. */
static const char *printed(const char *line) {
    static char text[4096];
    fflush(stdout);
    int keep = dup(STDOUT_FILENO), to = open(path, O_RDWR | O_TRUNC);
    ck_assert(keep >= 0 && to >= 0 && dup2(to, STDOUT_FILENO) >= 0);
    int rc = parse(line);
    fflush(stdout);
    dup2(keep, STDOUT_FILENO);
    ssize_t n = pread(to, text, sizeof text - 1, 0);
    close(keep);
    close(to);
    ck_assert_int_eq(rc, 1);
    text[n > 0 ? n : 0] = 0;
    return text;
}

START_TEST(help) {
    const char *text = printed("--help");
    for (const struct conf_option *o = options; o->name; o++) ck_assert_msg(strstr(text, o->help) != NULL, "no '%s'", o->help);
    ck_assert(strstr(text, "Usage: cadre test MODEL [options]") && strstr(text, "Tests options.") &&
              strstr(text, "Exit status: 0."));
    ck_assert(strstr(text, "--workers N") && strstr(text, "[4]") && strstr(text, "--fabric mem|mpi") &&
              strstr(text, "\nOther:\n"));
    ck_assert_str_eq(printed("--version"), "cadre test " CADRE_VERSION "\n");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("conf");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, defaults);
    tcase_add_test(t, command_line);
    tcase_add_test(t, sizes);
    tcase_add_test(t, files);
    tcase_add_loop_test(t, refuses, 0, sizeof mistakes / sizeof *mistakes);
    tcase_add_test(t, help);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
