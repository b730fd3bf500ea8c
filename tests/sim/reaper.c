/* reaper.c - see reaper.h. */
#include "tests/sim/reaper.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clk.h"
#include "base/log.h"

enum { LOOK_MS = 2, PAUSE_MS = 150, TRIP_S = 4, HEAL_S = 8, END_S = 30, SETTLE_S = 60 };

struct reaper {
    struct cluster *cluster;
    struct cadre_client *client;
    const struct fate *fate;
    pthread_t thread;
    atomic_bool over; /* nobody asks any more */
    atomic_int tripped;
    int requests, strikes, newcomers;
    uint64_t mortal; /* strikes that somebody should die of */
    bool drained, ok;
    uint64_t stopped, deaths; /* of the last look; of a drained cluster there is none any more */
    uint64_t dead, alive, steady, ever_dead;
    uint64_t fresh; /* started again, and the coordinator may still mean the one before */
    uint64_t tokens, known;
    uint64_t before; /* tokens of coordinators that are gone */
    uint64_t ghosts; /* struck while there was none: whoever comes next never sees them */
    bool restarted;
    bool serving;
    struct blow *laid; /* the blow that waits for its message */
};

static uint64_t bit(int rank) { return UINT64_C(1) << rank; }

static bool failed(struct reaper *r, const char *what, int rank) {
    printf("# %s (worker %d)\n", what, rank);
    return r->ok = false;
}

/* ---- looking ---- */

static bool look(struct reaper *r) {
    struct cadre_cluster *s;
    poll(NULL, 0, LOOK_MS);
    if (cadre_status(r->client, 2000, &s) != CADRE_OK) return false;
    r->dead = r->alive = r->steady = 0;
    for (size_t i = 0; i < s->n_workers; i++) {
        const char *state = s->workers[i].state;
        bool dead = !strcmp(state, "dead") || !strcmp(state, "left") ||
                    (r->ghosts >> i & 1 && !strcmp(state, "expected") && cluster_worker_ended(r->cluster, (int)i));
        if (dead) r->dead |= bit((int)i);
        else if (strcmp(state, "expected") != 0) r->alive |= bit((int)i);
        if (dead || !strcmp(state, "ready")) r->steady |= bit((int)i);
        if (!dead || cluster_worker_ended(r->cluster, (int)i)) r->fresh &= ~bit((int)i);
    }
    r->dead &= ~r->fresh;
    r->ever_dead |= r->dead;
    r->tokens = r->before + s->generated_tokens;
    r->known = s->running + s->waiting + s->finished;
    r->deaths = s->recovery ? s->recovery->deaths : 0;
    r->serving = !strcmp(s->state, "serving");
    cadre_cluster_free(s);
    if (r->fate->drains && !r->drained && r->tokens >= r->fate->drain_tokens && r->known >= (uint64_t)r->requests) {
        r->drained = true;
        cluster_drain(r->cluster);
    }
    return true;
}

/* ---- the coordinator ---- */

static void strike(struct reaper *r, const struct blow *b);

static void restart(struct reaper *r, const struct blow *meanwhile) {
    const struct fate *f = r->fate;
    if (r->restarted) return;
    r->restarted = true;
    cluster_kill_coordinator(r->cluster, f->torn);
    if (meanwhile) strike(r, meanwhile);
    poll(NULL, 0, f->away_ms);
    cluster_restart_coordinator(r->cluster);
    r->before = r->tokens;
    for (int i = 0; i < f->n; i++) r->ghosts |= bit(f->blow[i].rank);
}

/* ---- striking ---- */

static void cut(struct reaper *r, int rank, bool in, bool out, bool how) {
    for (int p = 0; p < r->fate->workers; p++) {
        if (p == rank) continue;
        if (in) cluster_cut(r->cluster, p, rank, how);
        if (out) cluster_cut(r->cluster, rank, p, how);
    }
}

static void strike(struct reaper *r, const struct blow *b) {
    struct mortal *m = cluster_mortal(r->cluster, b->rank);
    r->strikes++;
    r->mortal += b->how != BLOW_PAUSE;
    switch (b->how) {
    case BLOW_KILL: cluster_kill_worker(r->cluster, b->rank); return;
    case BLOW_VANISH: cluster_vanish_worker(r->cluster, b->rank); return;
    case BLOW_STOP:
        mortal_stop(m);
        r->stopped |= bit(b->rank);
        return;
    case BLOW_PAUSE:
        mortal_stop(m);
        poll(NULL, 0, PAUSE_MS);
        mortal_continue(m);
        return;
    case BLOW_CUT: cut(r, b->rank, true, true, true); return;
    case BLOW_DEAF: cut(r, b->rank, true, false, true); return;
    case BLOW_MUTE: cut(r, b->rank, false, true, true); return;
    case BLOW_HOWS: return;
    }
}

/* ---- starting again ---- */

static void die_young(void *ctx, int rank) { cluster_kill_worker(ctx, rank); }

static bool start_again(struct reaper *r, int rank) {
    mortal_continue(cluster_mortal(r->cluster, rank));
    cut(r, rank, true, true, false);
    r->stopped &= ~bit(rank);
    if (!cluster_bury_worker(r->cluster, rank, END_S)) return failed(r, "it is taken for dead and does not end", rank);
    cluster_restart_worker(r->cluster, rank);
    r->fresh |= bit(rank);
    r->dead &= ~bit(rank);
    if (r->newcomers++ || r->fate->newcomer == NEWCOMER_LIVES) return true;
    bool loading = r->fate->newcomer == NEWCOMER_DIES_LOADING;
    mortal_trip(cluster_mortal(r->cluster, rank), loading ? MORTAL_WELCOME : MORTAL_READY, die_young, r->cluster, rank);
    return true;
}

/* Where nobody is left somebody must come, whatever the fate. */
static bool revive(struct reaper *r) {
    bool all = r->fate->comes_back || r->fate->tight;
    for (int w = 0; w < r->fate->workers; w++)
        if (r->dead >> w & 1 && (all || !r->alive) && !start_again(r, w)) return false;
    return true;
}

/* On the worker's own thread. */
static void trip(void *ctx, int rank) {
    struct reaper *r = ctx;
    if (r->laid->how == BLOW_KILL) cluster_kill_worker(r->cluster, rank);
    else cluster_vanish_worker(r->cluster, rank);
    atomic_fetch_add(&r->tripped, 1);
}

static void lay(struct reaper *r, const struct blow *b) {
    static const enum mortal_message at[BLOW_WHENS] = {[BLOW_AT_EPOCH] = MORTAL_EPOCH,
                                                       [BLOW_AT_PREPARED] = MORTAL_PREPARED,
                                                       [BLOW_AT_SWITCH] = MORTAL_SWITCH,
                                                       [BLOW_AT_PLAN] = MORTAL_PLAN};
    if (!at[b->when]) return;
    r->laid = (struct blow *)b;
    mortal_trip(cluster_mortal(r->cluster, b->rank), at[b->when], trip, r, b->rank);
}

/* It may have died of something else, or all answers may be there. */
static void await_trip(struct reaper *r, const struct blow *b, int tripped) {
    int64_t until = clk_now_us() + TRIP_S * INT64_C(1000000);
    while (atomic_load(&r->tripped) == tripped && !atomic_load(&r->over) && clk_now_us() < until) look(r);
    mortal_trip(cluster_mortal(r->cluster, b->rank), 0, NULL, NULL, b->rank);
    r->strikes += atomic_load(&r->tripped) != tripped;
    r->mortal += atomic_load(&r->tripped) != tripped;
}

/* Where the others cannot hold the model there are no more of them before the dead are back. */
static void await_tokens(struct reaper *r, uint64_t tokens) {
    while (!atomic_load(&r->over) && r->ok && r->tokens < tokens) {
        if (r->fate->restart == RESTART_APART && r->tokens >= r->fate->restart_tokens) restart(r, NULL);
        if (look(r) && !r->drained && (r->fate->tight || !r->alive)) revive(r);
    }
}

static void strike_all(struct reaper *r) {
    const struct fate *f = r->fate;
    int tripped = 0;
    for (int i = 0; i < f->n; i++) {
        const struct blow *b = &f->blow[i];
        if (b->when >= BLOW_AT_EPOCH) {
            await_trip(r, b, tripped);
        } else {
            if (b->when == BLOW_AFTER_TOKENS) await_tokens(r, b->tokens);
            if (atomic_load(&r->over) || !r->ok) return;
        }
        tripped = atomic_load(&r->tripped);
        if (i + 1 < f->n) lay(r, &f->blow[i + 1]);
        if (!i && f->restart == RESTART_WITH) restart(r, b);
        else if (b->when < BLOW_AT_EPOCH) strike(r, b);
        if (!i && f->restart == RESTART_AFTER) restart(r, NULL);
    }
}

/* Who was stopped goes on when it is taken for dead, links come back when somebody is. */
static void heal(struct reaper *r) {
    uint64_t cuts = 0;
    for (int i = 0; i < r->fate->n; i++)
        if (r->fate->blow[i].how >= BLOW_CUT) cuts |= bit(r->fate->blow[i].rank);
    int64_t until = clk_now_us() + HEAL_S * INT64_C(1000000);
    while (clk_now_us() < until && (r->stopped & ~r->dead || (cuts && r->deaths < r->mortal && !atomic_load(&r->over))))
        if (!look(r) && atomic_load(&r->over)) break; /* drained */
    for (int w = 0; w < r->fate->workers; w++) {
        if (r->stopped >> w & 1) mortal_continue(cluster_mortal(r->cluster, w));
        if (cuts >> w & 1) cut(r, w, true, true, false);
    }
    r->stopped = 0;
}

static void *reap(void *arg) {
    struct reaper *r = arg;
    strike_all(r);
    heal(r);
    while (!atomic_load(&r->over) && r->ok)
        if (look(r) && !r->drained) revive(r);
    return NULL;
}

struct reaper *reaper_start(struct cluster *c, const struct fate *f, int requests) {
    struct reaper *r = calloc(1, sizeof *r);
    if (!r) die("out of memory");
    r->cluster = c;
    r->fate = f;
    r->requests = requests;
    r->ok = true;
    if (f->late_us) mortal_be_late(cluster_mortal(c, (f->blow[0].rank + 1) % f->workers), f->late_us);
    if (cadre_open(cluster_endpoint(c), NULL, &r->client)) die("%s", cadre_error(r->client));
    if (pthread_create(&r->thread, NULL, reap, r)) die("cannot start a thread");
    return r;
}

static bool settle(struct reaper *r) {
    int64_t until = clk_now_us() + SETTLE_S * INT64_C(1000000);
    uint64_t all = bit(r->fate->workers) - 1;
    while (r->ok) {
        if (!look(r)) return failed(r, "no status", -1);
        if (!revive(r)) return false;
        for (int w = 0; w < r->fate->workers; w++)
            if (r->dead >> w & 1 && !cluster_bury_worker(r->cluster, w, END_S))
                return failed(r, "it is taken for dead and does not end", w);
        bool whole = r->steady == all && !r->fresh && (!r->dead || !(r->fate->comes_back || r->fate->tight));
        if (whole && r->serving) return true;
        if (clk_now_us() > until) return failed(r, "the cluster does not come to rest", -1);
    }
    return false;
}

/* A drained cluster has nobody to ask; whoever was taken for dead before is told to go as well. */
static bool end_struck(struct reaper *r) {
    bool ok = r->drained || failed(r, "it was not drained in time", -1);
    for (int i = 0; i < r->fate->n; i++) r->ever_dead |= bit(r->fate->blow[i].rank);
    for (int w = 0; w < r->fate->workers && ok; w++)
        if (r->ever_dead >> w & 1 && !cluster_bury_worker(r->cluster, w, END_S))
            ok = failed(r, "it does not end when the cluster does", w);
    return ok;
}

bool reaper_join(struct reaper *r, int *strikes) {
    atomic_store(&r->over, true);
    pthread_join(r->thread, NULL);
    *strikes += r->strikes;
    bool ok = r->ok && (r->fate->drains ? (cluster_drain(r->cluster), r->drained = true, end_struck(r)) : settle(r));
    cadre_close(r->client);
    free(r);
    return ok;
}
