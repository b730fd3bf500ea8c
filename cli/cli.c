/* cli.c - see cli.h. */
#include "cli/cli.h"

#include "base/utf8.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_LIMIT = 64 << 20 }; /* what the protocol can carry at all */

static volatile sig_atomic_t signals, last_signal;

static void on_signal(int number) {
    signals++;
    last_signal = number;
}

void cli_catch_signals(void) {
    struct sigaction a = {.sa_handler = on_signal}; /* no SA_RESTART: reads and polls return early */
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}
int cli_signals(void) { return signals; }
void cli_forget_signals(void) { signals = 0; }
int cli_exit_signal(void) { return 128 + last_signal; }

bool cli_wait_stdin(int seen) {
    sigset_t caught, before;
    sigemptyset(&caught);
    sigaddset(&caught, SIGINT);
    sigaddset(&caught, SIGTERM);
    sigprocmask(SIG_BLOCK, &caught, &before);
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    while (signals <= seen && ppoll(&in, 1, NULL, &before) < 0 && errno == EINTR) {
    }
    bool quiet = signals <= seen;
    sigprocmask(SIG_SETMASK, &before, NULL);
    return quiet;
}

bool cli_parse(const struct conf_command *cmd, void *target, int argc, char **argv, struct conf_args *args, int *exit_status) {
    struct why why;
    int rc = conf_parse(cmd, target, argc, argv, args, &why);
    if (rc < 0) fprintf(stderr, "%s: %s\n", cmd->name, why.text);
    *exit_status = rc < 0 ? EXIT_USAGE : EXIT_DONE;
    return rc == 0;
}

struct cadre_client *cli_connect(const char *verb, const char *endpoint, const char *key_file, bool once) {
    struct cadre_options options = {.once = once, .key_file = key_file};
    struct cadre_client *c;
    int code = cadre_open(endpoint, &options, &c);
    if (!code) return c;
    cli_complain(verb, code, cadre_error(c));
    cadre_close(c);
    return NULL;
}

int cli_complain(const char *verb, int code, const char *message) {
    fprintf(stderr, "cadre %s: %s: %s\n", verb, cadre_code_name(code), message);
    return EXIT_FAILED;
}

static char *read_stream(FILE *f, size_t *len) {
    size_t cap = 64 << 10, n = 0;
    char *text = malloc(cap);
    while (text) {
        n += fread(text + n, 1, cap - n - 1, f);
        if (n + 1 < cap) break;
        if (n > FILE_LIMIT) {
            errno = EFBIG;
            free(text);
            return NULL;
        }
        char *more = realloc(text, cap *= 2);
        if (!more) free(text);
        text = more;
    }
    if (!text) return NULL;
    if (ferror(f)) return free(text), NULL;
    text[n] = 0;
    *len = n;
    return text;
}

char *cli_read_file(const char *verb, const char *path, size_t *len) {
    bool std = !strcmp(path, "-");
    FILE *f = std ? stdin : fopen(path, "re");
    char *text = f ? read_stream(f, len) : NULL;
    if (!text) fprintf(stderr, "cadre %s: cannot read %s: %s\n", verb, std ? "standard input" : path, strerror(errno));
    if (f && !std) fclose(f);
    return text;
}

void cli_json_string(FILE *f, const char *text, size_t len) {
    const unsigned char *s = (const unsigned char *)text;
    putc('"', f);
    for (size_t i = 0; i < len;) {
        uint32_t code_point;
        int n = utf8_read(text + i, len - i, &code_point);
        if (n <= 0) fputs("\\ufffd", f);
        else if (s[i] == '"' || s[i] == '\\') fprintf(f, "\\%c", s[i]);
        else if (s[i] == '\n') fputs("\\n", f);
        else if (s[i] < 0x20 || s[i] == 0x7f) fprintf(f, "\\u%04x", s[i]);
        else fwrite(s + i, 1, (size_t)n, f);
        i += n > 0 ? (size_t)n : 1;
    }
    putc('"', f);
}

const char *cli_bytes(double bytes) {
    static char buffers[4][32];
    static int turn;
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    char *b = buffers[turn++ & 3];
    int u = 0;
    while (bytes >= 1024 && u < 4) {
        bytes /= 1024;
        u++;
    }
    snprintf(b, sizeof buffers[0], u ? "%.2f %s" : "%.0f %s", bytes, units[u]);
    return b;
}
