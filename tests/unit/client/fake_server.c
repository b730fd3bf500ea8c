/* fake_server.c - fake.h as a process that takes the options of cadre-coordinator, for tests of the command line.
 *
 * The name of the model decides how it behaves: ".../refuse" cannot start, ".../fail" says so in its status; anything else
 * works. Workers are the worker-RANK.pid files beside our own binary. */
#include "tests/unit/client/fake.h"

#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct fake fake;
static void on_signal(int number) {
    (void)number;
    fake_stop(&fake);
}

static const char *option(int argc, char **argv, const char *name, const char *def) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    return def;
}

static bool is(const char *model, const char *word) {
    const char *slash = strrchr(model, '/');
    return !strcmp(slash ? slash + 1 : model, word);
}

/* In two halves: whoever reads must wait for all of it. */
static int tell_endpoints(const char *fd, const char *control) {
    FILE *f = fdopen((int)strtol(fd, NULL, 10), "w");
    if (!f) return -1;
    bool everywhere = !strncmp(control, "tcp://*", 7);
    fprintf(f, "listen %s\ncontrol tcp://", bus_endpoint(fake.bus));
    fflush(f);
    fprintf(f, "%s:1\n", everywhere ? "0.0.0.0" : "127.0.0.1");
    return fclose(f);
}

int main(int argc, char **argv) {
    struct why why;
    char self[PATH_MAX] = "";
    const char *model = argc > 1 ? argv[1] : "", *fd = option(argc, argv, "--endpoint-fd", NULL);
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return 1;
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    if (is(model, "refuse")) return fprintf(stderr, "fatal: %s: no config.json\n", model), 1;
    fake.state = is(model, "fail") ? "failed" : "serving";
    fake.loading_polls = 2;
    fake.workers = (int)strtol(option(argc, argv, "--workers", "2"), NULL, 10);
    fake.folder = fd ? dirname(self) : NULL;
    if (fake_open(&fake, option(argc, argv, "--listen", "tcp://127.0.0.1:*"), &why) < 0)
        return fprintf(stderr, "fatal: %s\n", why.text), 1;
    if (fd && tell_endpoints(fd, option(argc, argv, "--control", "tcp://127.0.0.1:*")) < 0) return perror(fd), 1;
    if (!fd) printf("%s\n", bus_endpoint(fake.bus)), fflush(stdout);
    fake_run(&fake);
    fake_close(&fake);
    return 0;
}
