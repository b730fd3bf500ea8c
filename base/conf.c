/* conf.c - walks option tables: defaults, config file, command line, --help. Values are parsed once, into the caller's
 * struct. */
#include "base/conf.h"

#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *field(void *target, const struct conf_option *o) { return (char *)target + o->offset; }
static bool is_group(const struct conf_option *o) { return !o->name[0]; }

static const struct conf_option *lookup(const struct conf_command *cmd, const char *name, size_t len) {
    for (const struct conf_option *o = cmd->options; o->name; o++)
        if (!is_group(o) && strlen(o->name) == len && !strncmp(o->name, name, len)) return o;
    return NULL;
}

int conf_distance(const char *a, size_t n, const char *b) {
    int row[64];
    size_t m = strlen(b);
    if (m >= 64 || n >= 64) return 64;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

static int unknown(const struct conf_command *cmd, const char *name, size_t len, struct why *why) {
    const char *near = NULL;
    int best = 4;
    for (const struct conf_option *o = cmd->options; o->name; o++) {
        int d = is_group(o) ? 64 : conf_distance(name, len, o->name);
        if (d < best) best = d, near = o->name;
    }
    if (near) return fail(why, ERR_INVALID, "unknown option '%.*s'; did you mean '%s'?", (int)len, name, near);
    return fail(why, ERR_INVALID, "unknown option '%.*s'; '%s --help' lists them", (int)len, name, cmd->name);
}

static int parse_size(const char *text, double *out) {
    static const struct { const char *suffix; double factor; } units[] = {
        {"", 1}, {"B", 1}, {"K", 1024.}, {"KiB", 1024.}, {"M", 1048576.}, {"MiB", 1048576.},
        {"G", 1073741824.}, {"GiB", 1073741824.}, {"T", 1099511627776.}, {"TiB", 1099511627776.}};
    char *end;
    double v = strtod(text, &end);
    if (end == text) return ERR_INVALID;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (!strcasecmp(end, units[i].suffix)) return *out = v * units[i].factor, 0;
    return ERR_INVALID;
}

static int check_range(const struct conf_option *o, double v, const char *text, struct why *why) {
    if (!isfinite(v) || ((o->min != 0 || o->max != 0) && (v < o->min || v > o->max)))
        return fail(why, ERR_INVALID, "%s: %s is out of range; wanted %.15g to %.15g", o->name, text, o->min, o->max);
    return 0;
}

static int set_string(char **dst, const char *text, struct why *why) {
    char *copy = strdup(text);
    if (!copy) return fail(why, ERR_NOMEM, "out of memory while reading options");
    free(*dst);
    *dst = copy;
    return 0;
}

static bool in_choices(const char *choices, const char *text) {
    size_t len = strlen(text);
    for (const char *p = choices; *p;) {
        size_t n = strcspn(p, "|");
        if (n == len && !strncmp(p, text, n)) return true;
        p += n;
        if (*p) p++;
    }
    return false;
}

static int append_item(struct conf_list *l, const char *text, struct why *why) {
    char **items = realloc(l->items, sizeof *items * (size_t)(l->n + 1));
    if (!items) return fail(why, ERR_NOMEM, "out of memory while reading options");
    l->items = items;
    l->items[l->n] = NULL;
    int rc = set_string(&l->items[l->n], text, why);
    if (rc >= 0) l->n++;
    return rc;
}

static int set_value(const struct conf_option *o, void *target, const char *text, struct why *why) {
    void *dst = field(target, o);
    char *end;
    double v;
    switch (o->type) {
    case CONF_FLAG:
        if (in_choices("true|yes|on|1", text)) return *(bool *)dst = true, 0;
        if (in_choices("false|no|off|0", text)) return *(bool *)dst = false, 0;
        return fail(why, ERR_INVALID, "%s: '%s' is not yes or no", o->name, text);
    case CONF_INT: {
        errno = 0;
        long long n = strtoll(text, &end, 10);
        if (end == text || *end || errno) return fail(why, ERR_INVALID, "%s: '%s' is not a whole number", o->name, text);
        int rc = check_range(o, (double)n, text, why);
        return rc < 0 ? rc : (*(int64_t *)dst = n, 0);
    }
    case CONF_SIZE: {
        if (parse_size(text, &v) < 0)
            return fail(why, ERR_INVALID, "%s: '%s' is not a size such as 512M or 80GiB", o->name, text);
        int rc = check_range(o, v, text, why);
        if (rc >= 0 && (v < 0 || v > 9e18)) rc = fail(why, ERR_INVALID, "%s: %s is out of range", o->name, text);
        return rc < 0 ? rc : (*(int64_t *)dst = (int64_t)v, 0);
    }
    case CONF_REAL: {
        v = strtod(text, &end);
        if (end == text || *end) return fail(why, ERR_INVALID, "%s: '%s' is not a number", o->name, text);
        int rc = check_range(o, v, text, why);
        return rc < 0 ? rc : (*(double *)dst = v, 0);
    }
    case CONF_CHOICE:
        if (!in_choices(o->choices, text)) return fail(why, ERR_INVALID, "%s: '%s' is none of %s", o->name, text, o->choices);
        return set_string(dst, text, why);
    case CONF_STRING: return set_string(dst, text, why);
    case CONF_LIST: return append_item(dst, text, why);
    }
    BUG("conf: option %s has unknown type %d", o->name, (int)o->type);
}

static int set_defaults(const struct conf_command *cmd, void *target, struct why *why) {
    for (const struct conf_option *o = cmd->options; o->name; o++) {
        if (is_group(o) || !o->def) continue;
        int rc = set_value(o, target, o->def, why);
        if (rc < 0) BUG("%s: the default of %s is not valid: %s", cmd->name, o->name, why->text);
    }
    return 0;
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) s[--n] = 0;
    return s;
}

static int read_file(const struct conf_command *cmd, void *target, const char *path, struct why *why) {
    FILE *f = fopen(path, "re");
    if (!f) return fail(why, ERR_IO, "cannot read config file %s: %s", path, strerror(errno));
    char *line = NULL;
    size_t cap = 0;
    int number = 0, rc = 0;
    while (rc >= 0 && getline(&line, &cap, f) >= 0) {
        number++;
        char *hash = strchr(line, '#');
        if (hash && (hash == line || isspace((unsigned char)hash[-1]))) *hash = 0;
        char *name = trim(line), *eq = strchr(name, '=');
        if (!*name) continue;
        if (!eq) {
            rc = fail(why, ERR_INVALID, "expected 'name = value', found '%s'", name);
        } else {
            *eq = 0;
            name = trim(name);
            const struct conf_option *o = lookup(cmd, name, strlen(name));
            rc = o ? set_value(o, target, trim(eq + 1), why) : unknown(cmd, name, strlen(name), why);
        }
        if (rc < 0) rc = fail_in(why, rc, "%s:%d", path, number);
    }
    free(line);
    fclose(f);
    return rc;
}

static void print_help(const struct conf_command *cmd) {
    printf("Usage: %s %s\n\n%s\n", cmd->name, cmd->usage, cmd->about);
    for (const struct conf_option *o = cmd->options; o->name; o++) {
        if (is_group(o)) {
            printf("\n%s:\n", o->help);
            continue;
        }
        char left[64];
        const char *arg = o->type == CONF_FLAG ? NULL : o->arg ? o->arg : o->type == CONF_CHOICE ? o->choices : NULL;
        char letter[] = {'-', o->letter, ',', ' ', 0};
        snprintf(left, sizeof left, "%s--%s%s%s", o->letter ? letter : "", o->name, arg ? " " : "", arg ? arg : "");
        printf("  %-30s %s", left, o->help);
        if (o->type == CONF_CHOICE && o->arg) printf(" (%s)", o->choices);
        if (o->def && o->type != CONF_FLAG) printf(" [%s]", o->def);
        putchar('\n');
    }
    printf("\n  %-30s %s\n  %-30s %s\n", "--help", "show this text", "--version", "show the version");
    if (cmd->footer) printf("\n%s\n", cmd->footer);
}

static const struct conf_option *by_letter(const struct conf_command *cmd, const char *arg) {
    for (const struct conf_option *o = cmd->options; o->name; o++)
        if (arg[0] == '-' && o->letter && arg[1] == o->letter && !arg[2]) return o;
    return NULL;
}

/* The option that argv[*i] is, without "=": a flag, or what follows is its value. */
static int take_value(const struct conf_option *o, void *target, int argc, char **argv, int *i, struct why *why) {
    if (o->type == CONF_FLAG) return set_value(o, target, "yes", why);
    if (*i + 1 >= argc) return fail(why, ERR_INVALID, "%s needs a value", argv[*i]);
    return set_value(o, target, argv[++*i], why);
}

static int parse_arg(const struct conf_command *cmd, void *target, int argc, char **argv, int *i, struct why *why) {
    const char *name = argv[*i] + 2, *eq = strchr(name, '=');
    size_t len = eq ? (size_t)(eq - name) : strlen(name);
    const struct conf_option *o = lookup(cmd, name, len);
    if (!o && len > 3 && !strncmp(name, "no-", 3) && !eq) {
        o = lookup(cmd, name + 3, len - 3);
        if (o && o->type == CONF_FLAG) return set_value(o, target, "no", why);
        o = NULL;
    }
    if (!o) return unknown(cmd, name, len, why);
    return eq ? set_value(o, target, eq + 1, why) : take_value(o, target, argc, argv, i, why);
}

static bool takes_next(const struct conf_command *cmd, const char *arg) {
    const struct conf_option *o = !strncmp(arg, "--", 2) ? lookup(cmd, arg + 2, strlen(arg + 2)) : by_letter(cmd, arg);
    return o && o->type != CONF_FLAG;
}

/* The config file comes before the rest of the command line, wherever --config stands in it. */
static int read_named_file(const struct conf_command *cmd, void *target, int argc, char **argv, struct why *why) {
    if (!lookup(cmd, "config", 6)) return 0;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        const char *path = !strncmp(argv[i], "--config=", 9) ? argv[i] + 9
                           : !strcmp(argv[i], "--config") && i + 1 < argc ? argv[i + 1] : NULL;
        if (path) return read_file(cmd, target, path, why);
        if (takes_next(cmd, argv[i])) i++;
    }
    return 0;
}

static int parse_all(const struct conf_command *cmd, void *target, int argc, char **argv, struct conf_args *args,
                     struct why *why) {
    bool only_args = false;
    for (int i = 1; i < argc; i++) {
        if (!only_args && !strcmp(argv[i], "--")) {
            only_args = true;
        } else if (!only_args && !strcmp(argv[i], "--help")) {
            return print_help(cmd), 1;
        } else if (!only_args && !strcmp(argv[i], "--version")) {
            return printf("%s %s\n", cmd->name, CADRE_VERSION), 1;
        } else if (!only_args && !strncmp(argv[i], "--", 2)) {
            int rc = parse_arg(cmd, target, argc, argv, &i, why);
            if (rc < 0) return rc;
        } else if (!only_args && by_letter(cmd, argv[i])) {
            int rc = take_value(by_letter(cmd, argv[i]), target, argc, argv, &i, why);
            if (rc < 0) return rc;
        } else if (!only_args && argv[i][0] == '-' && argv[i][1]) {
            return fail(why, ERR_INVALID, "unknown option '%s'; options begin with two dashes, '%s --help' lists them", argv[i],
                        cmd->name);
        } else {
            args->items[args->n++] = argv[i];
        }
    }
    if (args->n < cmd->min_args || args->n > cmd->max_args)
        return fail(why, ERR_INVALID, "%s arguments; usage: %s %s", args->n < cmd->min_args ? "missing" : "too many", cmd->name,
                    cmd->usage);
    return 0;
}

int conf_parse(const struct conf_command *cmd, void *target, int argc, char **argv, struct conf_args *args, struct why *why) {
    args->n = 0;
    args->items = calloc((size_t)argc + 1, sizeof *args->items);
    if (!args->items) return fail(why, ERR_NOMEM, "out of memory while reading options");
    int rc = set_defaults(cmd, target, why);
    if (rc >= 0) rc = read_named_file(cmd, target, argc, argv, why);
    if (rc >= 0) rc = parse_all(cmd, target, argc, argv, args, why);
    return rc;
}

void conf_clear(const struct conf_command *cmd, void *target, struct conf_args *args) {
    for (const struct conf_option *o = cmd->options; o->name; o++) {
        if (is_group(o)) continue;
        if (o->type == CONF_STRING || o->type == CONF_CHOICE) {
            free(*(char **)field(target, o));
            *(char **)field(target, o) = NULL;
        } else if (o->type == CONF_LIST) {
            struct conf_list *l = field(target, o);
            for (int i = 0; i < l->n; i++) free(l->items[i]);
            free(l->items);
            *l = (struct conf_list){0};
        }
    }
    free(args->items);
    *args = (struct conf_args){0};
}
