/* crew.c - see crew.h. */
#include "cli/crew.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

enum { STATUS_MS = 1000 };

/* By a signal: itself, or a rank of the launcher that it is, which passes on how that died. */
static bool was_killed(const struct child *w) { return WIFSIGNALED(w->status) || WEXITSTATUS(w->status) > 128; }

static void lay_out(struct crew *c, int i, int64_t now) {
    struct child *w = &c->workers[i];
    char fate[96], then[128];
    int64_t wait = revive_after(&c->again[i].revive, now);
    c->again[i].awaited = wait >= 0;
    c->again[i].due_us = now + wait;
    fprintf(stderr, "cadre serve: %s (pid %d) %s; %s\n", w->name, (int)w->pid, child_fate(w, fate, sizeof fate),
            revive_say(wait, then, sizeof then));
    w->pid = 0;
}

/* Sent home by the coordinator, which goes on: it was asked to leave. */
static void let_go(struct child *w) {
    fprintf(stderr, "cadre serve: %s (pid %d) has left\n", w->name, (int)w->pid);
    w->pid = 0;
}

static int give_up(const struct child *w, struct why *why) {
    char fate[96];
    return fail(why, ERR_GONE, "%s (pid %d) %s", w->name, (int)w->pid, child_fate(w, fate, sizeof fate));
}

int crew_tend(struct crew *c, const struct fleet_options *f, bool loading, int64_t now_us, struct why *why) {
    int left = 0;
    for (int i = 0; i < c->n; i++) {
        struct child *w = &c->workers[i];
        if (w->pid && w->ended && loading && !was_killed(w)) return give_up(w, why);
        if (w->pid && w->ended && child_good(w)) let_go(w);
        if (w->pid && w->ended) lay_out(c, i, now_us);
        if (c->again[i].awaited && now_us >= c->again[i].due_us) {
            int rc = fleet_start_one(f, c->kind, i, w, why);
            if (rc < 0) return rc;
            c->again[i].awaited = false;
            c->revived = true;
        }
        left += w->pid || c->again[i].awaited;
    }
    bool others = c->kind == FLEET_RANK && f->rank->id.size > 1; /* elsewhere */
    return left || others ? 0 : fail(why, ERR_GONE, "all workers died, again and again");
}

static bool is_ready(const struct cadre_cluster *s, pid_t pid) {
    for (size_t i = 0; i < s->n_workers; i++)
        if (s->workers[i].pid == (uint64_t)pid && !strcmp(s->workers[i].state, "ready")) return true;
    return false;
}

void crew_dismiss_newcomers(struct crew *c, struct cadre_client *client) {
    struct cadre_cluster *s;
    for (int i = 0; i < c->n; i++) c->again[i].awaited = false;
    bool launcher = c->kind == FLEET_MPIRUN || c->kind == FLEET_SRUN; /* whose ranks have pids of their own */
    if (launcher || !c->revived || cadre_status(client, STATUS_MS, &s)) return;
    for (int i = 0; i < c->n; i++) {
        struct child *w = &c->workers[i];
        if (!w->pid || is_ready(s, w->pid)) continue;
        child_signal(w, SIGKILL);
        if (!w->ended) waitpid(w->pid, &w->status, 0);
        w->pid = 0;
    }
    cadre_cluster_free(s);
}
