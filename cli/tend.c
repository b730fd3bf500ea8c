/* tend.c - see tend.h. */
#include "cli/tend.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"
#include "cli/cli.h"
#include "cli/reach.h"
#include "cli/revive.h"

enum { SETTLED_MS = 500 };

/* Still, after so long. */
static bool lives(pid_t pid, int ms) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool ended = fd >= 0 && poll(&p, 1, ms) > 0;
    if (fd >= 0) close(fd);
    return !ended;
}

static bool no_use(const struct child *c) { return WIFEXITED(c->status) && WEXITSTATUS(c->status) == TEND_NO_USE; }

/* How long to wait before another is started; negative: none is. */
static int64_t lay_out(const struct child *c, const char *control, struct revive *r) {
    char fate[96], then[128];
    bool gone = reach_refused(control), end = gone || no_use(c);
    int64_t wait = end ? -1 : revive_after(r, clk_now_us());
    if (end) snprintf(then, sizeof then, "%sit is not started again", gone ? "its coordinator is gone, so " : "");
    else revive_say(wait, then, sizeof then);
    fprintf(stderr, "cadre serve: %s (pid %d) %s; %s\n", c->name, (int)c->pid, child_fate(c, fate, sizeof fate), then);
    return wait;
}

int tend_run(const char *name, const char *control, char *const argv[]) {
    struct child c = {.deaf = true};
    struct revive revive = {.n = 0};
    struct why why;
    snprintf(c.name, sizeof c.name, "%s", name);
    child_deafen();
    for (int64_t wait = 0; wait >= 0; wait = lay_out(&c, control, &revive)) {
        poll(NULL, 0, (int)(wait / 1000));
        if (child_start(&c, argv, SIGKILL, -1, &why) < 0) {
            fprintf(stderr, "cadre serve: %s\n", why.text);
            return EXIT_FAILED;
        }
        /* It may have gone with the last one. */
        if (revive.n && lives(c.pid, SETTLED_MS) && reach_refused(control)) child_signal(&c, SIGKILL);
        while (waitpid(c.pid, &c.status, 0) < 0 && errno == EINTR) continue;
        c.ended = true;
        if (child_good(&c)) return EXIT_DONE;
    }
    return EXIT_FAILED;
}
