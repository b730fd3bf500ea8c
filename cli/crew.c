/* crew.c - see crew.h. */
#include "cli/crew.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

enum { STATUS_MS = 1000 };

static void lay_out(struct crew *c, int rank, int64_t now) {
    struct child *w = &c->workers[rank];
    char fate[96], then[128] = "another is started";
    int64_t wait = revive_after(&c->again[rank].revive, now);
    c->again[rank].awaited = wait >= 0;
    c->again[rank].due_us = now + wait;
    if (wait > 0) snprintf(then, sizeof then, "another is started in %.1f s", (double)wait / 1e6);
    if (wait < 0)
        snprintf(then, sizeof then, "that was %d times within %d s, so it is not started again", REVIVE_DEATHS,
                 REVIVE_WITHIN_S);
    fprintf(stderr, "cadre serve: %s (pid %d) %s; %s\n", w->name, (int)w->pid, child_fate(w, fate, sizeof fate), then);
    w->pid = 0;
}

int crew_tend(struct crew *c, const struct fleet_options *f, int64_t now_us, struct why *why) {
    int left = 0;
    for (int rank = 0; rank < (int)f->workers; rank++) {
        struct child *w = &c->workers[rank];
        if (w->pid && w->ended) lay_out(c, rank, now_us);
        if (c->again[rank].awaited && now_us >= c->again[rank].due_us) {
            int rc = fleet_start_rank(f, rank, w, why);
            if (rc < 0) return rc;
            c->again[rank].awaited = false;
            c->revived = true;
        }
        left += w->pid || c->again[rank].awaited;
    }
    return left ? 0 : fail(why, ERR_GONE, "all workers died, again and again");
}

static bool is_ready(const struct cadre_cluster *s, pid_t pid) {
    for (size_t i = 0; i < s->n_workers; i++)
        if (s->workers[i].pid == (uint64_t)pid && !strcmp(s->workers[i].state, "ready")) return true;
    return false;
}

void crew_dismiss_newcomers(struct crew *c, struct cadre_client *client) {
    struct cadre_cluster *s;
    for (int rank = 0; rank < FLEET_MOST; rank++) c->again[rank].awaited = false;
    if (!c->revived || cadre_status(client, STATUS_MS, &s)) return;
    for (int rank = 0; rank < (int)s->n_workers && rank < FLEET_MOST; rank++) {
        struct child *w = &c->workers[rank];
        if (!w->pid || is_ready(s, w->pid)) continue;
        child_signal(w, SIGKILL);
        if (!w->ended) waitpid(w->pid, &w->status, 0);
        w->pid = 0;
    }
    cadre_cluster_free(s);
}
