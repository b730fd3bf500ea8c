/* tend.c - see tend.h. */
#include "cli/tend.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/clk.h"
#include "cli/cli.h"
#include "cli/revive.h"

static bool no_use(const struct child *c) { return WIFEXITED(c->status) && WEXITSTATUS(c->status) == TEND_NO_USE; }

/* How long to wait before another is started; negative: none is. */
static int64_t lay_out(const struct child *c, struct revive *r) {
    char fate[96], then[128];
    int64_t wait = no_use(c) ? -1 : revive_after(r, clk_now_us());
    if (no_use(c)) snprintf(then, sizeof then, "it is not started again");
    else revive_say(wait, then, sizeof then);
    fprintf(stderr, "cadre serve: %s (pid %d) %s; %s\n", c->name, (int)c->pid, child_fate(c, fate, sizeof fate), then);
    return wait;
}

int tend_run(const char *name, char *const argv[]) {
    struct child c = {.deaf = true};
    struct revive revive = {.n = 0};
    struct why why;
    snprintf(c.name, sizeof c.name, "%s", name);
    child_deafen();
    for (int64_t wait = 0; wait >= 0; wait = lay_out(&c, &revive)) {
        poll(NULL, 0, (int)(wait / 1000));
        if (child_start(&c, argv, SIGKILL, -1, &why) < 0) {
            fprintf(stderr, "cadre serve: %s\n", why.text);
            return EXIT_FAILED;
        }
        while (waitpid(c.pid, &c.status, 0) < 0 && errno == EINTR) continue;
        c.ended = true;
        if (child_good(&c)) return EXIT_DONE;
    }
    return EXIT_FAILED;
}
