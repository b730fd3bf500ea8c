/* cluster.c - threads and their ends: the coordinator's, one per worker (which start their own engine threads). */
#include "tests/sim/cluster.h"

#include "base/clk.h"
#include "base/log.h"
#include "tests/sim/leash.h"
#include "worker/worker.h"

#include <dirent.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

struct member {
    struct cluster *cluster;
    struct worker *worker;
    struct mortal *mortal;
    pthread_t thread;
    int rank, rc;
    atomic_bool killed, silent, ended;
    bool dead, buried;
    struct why why;
    char host[16]; /* its worker's host_id */
};

enum { LONG_LEASE_US = 20000000, END_S = 60, BIND_US = 5000000 };

struct cluster {
    struct cluster_options options;
    struct bus_context *context;
    struct bus_hub *bus_hub;
    atomic_uint doors; /* made: each has a name of its own */
    struct bus *clients, *workers;
    struct leash *leash[2];       /* of these: what the coordinator gets */
    char folder[64], journal[80]; /* of its journals; of the one in use; "": there is none */
    int lives;                    /* coordinators so far */
    struct coordinator *coordinator;
    pthread_t thread;
    int rc;
    struct why why;
    struct fabric_hub *hub;
    struct member member[FABRIC_MAX_RANKS];
    struct cadre_client *client;
    char endpoint[256];
};

static void *coordinator_main(void *arg) {
    struct cluster *c = arg;
    log_set_name("coordinator");
    c->rc = coordinator_run(c->coordinator, &c->why);
    return NULL;
}

static void *member_main(void *arg) {
    struct member *m = arg;
    char name[32];
    snprintf(name, sizeof name, "worker %d", m->rank);
    log_set_name(name);
    m->rc = worker_run(m->worker, &m->why);
    if (!atomic_load(&m->silent)) mortal_hang_up(m->mortal);
    atomic_store(&m->ended, true);
    return NULL;
}

static int reach_door(void *ctx, const char *door, struct bus **out, struct why *why) {
    return bus_mem_connect(ctx, door, out, why);
}

static void start_member(struct cluster *c, int rank) {
    struct member *m = &c->member[rank];
    struct bus *bus;
    struct fabric *fabric = NULL;
    *m = (struct member){.cluster = c, .rank = rank};
    snprintf(m->host, sizeof m->host, "host %d", c->options.hosts ? rank % c->options.hosts : 0);
    struct worker_options o = {.host_id = m->host,
                               .engine = {.rank = rank,
                                          .workers = c->options.coordinator.workers,
                                          .threads = c->options.threads ? c->options.threads : 1,
                                          .fabric_name = "mem"},
                               .reach = reach_door,
                               .reach_ctx = c->bus_hub,
                               .join_timeout_us = 30000000,
                               .hold_us = c->folder[0] ? 60000000 : 0};
    struct why why;
    char door[32];
    if (c->hub && fabric_mem_open(c->hub, rank, &fabric, &why) < 0) die("%s", why.text);
    if (bus_mem_connect(c->bus_hub, "control", &bus, &why) < 0) die("%s", why.text);
    snprintf(door, sizeof door, "door %u", atomic_fetch_add(&c->doors, 1));
    if (bus_mem_bind(c->bus_hub, door, &o.door, &why) < 0) die("%s", why.text);
    if (mortal_new(bus, fabric, &m->mortal) < 0) die("out of memory for a worker");
    o.engine.fabric = mortal_fabric(m->mortal);
    if (worker_new(&o, mortal_bus(m->mortal), &m->worker) < 0) die("out of memory for a worker");
    if (pthread_create(&m->thread, NULL, member_main, m)) die("cannot start a worker's thread");
}

static bool is_settled(const struct cadre_cluster *s, void *ctx) {
    char *reason = ctx;
    if (!strcmp(s->state, "failed")) snprintf(reason, 300, "%s", s->reason);
    return !strcmp(s->state, "failed") || !strcmp(s->state, "serving");
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f) {
    (void)st, (void)flag, (void)f;
    return remove(path);
}

static void remove_folder(const char *folder) {
    if (folder[0]) nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void make_folder(struct cluster *c) {
    snprintf(c->folder, sizeof c->folder, "/tmp/sim_cluster.XXXXXX");
    if (!mkdtemp(c->folder)) die("no folder for journals");
    snprintf(c->journal, sizeof c->journal, "%s/0", c->folder);
    c->options.coordinator.journal_dir = c->journal;
}

/* A killed one's port may be free a moment later only. */
static int bind_clients(struct cluster *c, const char *endpoint, struct why *why) {
    int rc;
    for (int64_t until = clk_now_us() + BIND_US;
         (rc = bus_zmq_bind(c->context, BUS_CLIENTS, endpoint, &c->clients, why)) < 0;) {
        if (clk_now_us() > until) return rc;
        poll(NULL, 0, 5);
    }
    return 0;
}

static void close_buses(struct cluster *c) {
    for (int i = 0; i < 2; i++) leash_free(c->leash[i]);
    bus_close(c->clients);
    bus_close(c->workers);
}

static int start_coordinator(struct cluster *c, const char *endpoint, struct why *why) {
    if (bind_clients(c, endpoint, why) < 0 || bus_mem_bind(c->bus_hub, "control", &c->workers, why) < 0) die("%s", why->text);
    if (leash_new(c->clients, &c->leash[0]) < 0 || leash_new(c->workers, &c->leash[1]) < 0) die("out of memory");
    int rc = coordinator_new(&c->options.coordinator, leash_bus(c->leash[0]), leash_bus(c->leash[1]), &c->coordinator, why);
    if (rc < 0) return close_buses(c), rc;
    if (pthread_create(&c->thread, NULL, coordinator_main, c)) die("cannot start the coordinator's thread");
    return 0;
}

int cluster_start(const struct cluster_options *o, struct cluster **out, struct why *why) {
    struct cluster *c = calloc(1, sizeof *c);
    char reason[300] = "";
    if (!c) return fail(why, ERR_NOMEM, "out of memory");
    c->options = *o;
    c->options.coordinator.fabric = "mem";
    if (!o->coordinator.lease_us) c->options.coordinator.lease_us = LONG_LEASE_US;
    c->bus_hub = bus_hub_new();
    if (o->coordinator.journal_dir) make_folder(c);
    if (bus_context_open(&c->context, NULL, why) < 0) die("%s", why->text);
    int rc = start_coordinator(c, "tcp://127.0.0.1:*", why);
    if (rc < 0) {
        bus_hub_free(c->bus_hub);
        bus_context_close(c->context);
        remove_folder(c->folder);
        free(c);
        return rc;
    }
    if (o->coordinator.workers > 1 && fabric_hub_new(o->coordinator.workers, o->faults, &c->hub, why) < 0) die("%s", why->text);
    snprintf(c->endpoint, sizeof c->endpoint, "%s", bus_endpoint(c->clients));
    for (int i = 0; i < o->coordinator.workers; i++) start_member(c, i);
    if (cadre_open(c->endpoint, NULL, &c->client)) die("%s", cadre_error(c->client));
    bool settled = cluster_await(c, is_settled, reason, 120);
    if (settled && !reason[0]) {
        *out = c;
        return 0;
    }
    fail(why, ERR_IO, "%s", settled ? reason : "not serving after 120 s");
    cluster_stop(c);
    return ERR_IO;
}

const char *cluster_endpoint(const struct cluster *c) { return c->endpoint; }

struct mortal *cluster_mortal(struct cluster *c, int rank) {
    return c->member[rank].mortal;
}

/* Muted last: a worker that stands still ends now. */
static void end_worker(struct cluster *c, int rank, bool silent) {
    struct member *m = &c->member[rank];
    atomic_store(&m->silent, silent);
    atomic_store(&m->killed, true);
    worker_kill(m->worker);
    if (c->hub) fabric_hub_kill(c->hub, rank);
    mortal_mute(m->mortal);
}

void cluster_kill_worker(struct cluster *c, int rank) { end_worker(c, rank, false); }
void cluster_vanish_worker(struct cluster *c, int rank) { end_worker(c, rank, true); }

void cluster_cut(struct cluster *c, int from, int to, bool cut) { fabric_hub_cut(c->hub, from, to, cut); }

static bool bury(struct member *m, int seconds) {
    struct timespec until;
    if (m->buried) return true;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    if (pthread_timedjoin_np(m->thread, NULL, &until)) return false;
    worker_free(m->worker);
    mortal_free(m->mortal); /* if it was silent, the coordinator sees only now that it left */
    return m->buried = true;
}

bool cluster_bury_worker(struct cluster *c, int rank, int seconds) {
    c->member[rank].dead = true;
    return bury(&c->member[rank], seconds);
}

bool cluster_worker_ended(struct cluster *c, int rank) { return atomic_load(&c->member[rank].ended); }

void cluster_restart_worker(struct cluster *c, int rank) {
    if (!cluster_bury_worker(c, rank, END_S)) die("worker %d is dead and does not end", rank);
    start_member(c, rank);
}

static size_t read_segment(const char *path, char **data) {
    size_t n = 0, cap = 1 << 20;
    FILE *f = fopen(path, "rb");
    if (!f || !(*data = malloc(cap))) die("cannot read %s", path);
    for (size_t got; (got = fread(*data + n, 1, cap - n, f)) > 0;) {
        n += got;
        if (n == cap && !(*data = realloc(*data, cap *= 2))) die("out of memory");
    }
    fclose(f);
    return n;
}

/* What of a segment a dead process leaves for certain: all but tokens, which nobody waits for, has been answered for (in the
 * promise of docs/JOURNAL.md the kernel has it). Tokens behind that may be half written. */
static size_t promised(const char *data, size_t bytes) {
    enum { HEADER = 64, RECORD = 16, TOKENS = 4 }; /* docs/JOURNAL.md */
    size_t end = HEADER;
    for (size_t at = HEADER; at + RECORD <= bytes;) {
        uint32_t head[2]; /* length of what follows, kind */
        memcpy(head, data + at, sizeof head);
        at += RECORD + head[0];
        if (at <= bytes && head[1] != TOKENS) end = at;
    }
    return end < bytes ? end : bytes;
}

/* The journal as a killed process leaves it: a copy. */
static void keep_journal(struct cluster *c, int torn) {
    struct dirent **entries;
    char from[80], path[400], *data;
    snprintf(from, sizeof from, "%s", c->journal);
    snprintf(c->journal, sizeof c->journal, "%s/%d", c->folder, c->lives);
    int n = scandir(from, &entries, NULL, alphasort), last = -1;
    if (n < 0 || mkdir(c->journal, 0700)) die("cannot copy %s", from);
    for (int i = 0; i < n; i++)
        if (strstr(entries[i]->d_name, ".journal")) last = i;
    for (int i = 0; i < n; i++) {
        if (i == last) { /* the highest number is the journal */
            snprintf(path, sizeof path, "%s/%s", from, entries[i]->d_name);
            size_t bytes = read_segment(path, &data), kept = promised(data, bytes);
            if (bytes > kept + (size_t)torn) kept = bytes - (size_t)torn;
            snprintf(path, sizeof path, "%s/%s", c->journal, entries[i]->d_name);
            FILE *f = fopen(path, "wb");
            if (!f || fwrite(data, 1, kept, f) != kept || fclose(f)) die("cannot write %s", path);
            free(data);
        }
        free(entries[i]);
    }
    free(entries);
}

void cluster_kill_coordinator(struct cluster *c, int torn) {
    for (int i = 0; i < 2; i++) leash_cut(c->leash[i]);
    c->lives++;
    keep_journal(c, torn);
    coordinator_stop(c->coordinator, false);
    pthread_join(c->thread, NULL);
    coordinator_free(c->coordinator);
    close_buses(c);
}

void cluster_restart_coordinator(struct cluster *c) {
    struct why why;
    if (start_coordinator(c, c->endpoint, &why) < 0) die("%s", why.text);
}

void cluster_drain(struct cluster *c) { coordinator_stop(c->coordinator, true); }

int cluster_stop(struct cluster *c) {
    int bad = 0;
    cadre_close(c->client);
    coordinator_stop(c->coordinator, true);
    for (int i = 0; i < c->options.coordinator.workers; i++) {
        struct member *m = &c->member[i];
        if (!bury(m, END_S)) die("worker %d does not end", i);
        if (m->rc < 0 && !m->dead && !atomic_load(&m->killed)) {
            printf("# worker %d: %s\n", i, m->why.text);
            bad++;
        }
    }
    pthread_join(c->thread, NULL);
    if (c->rc < 0) printf("# coordinator: %s\n", c->why.text);
    bad += c->rc < 0;
    coordinator_free(c->coordinator);
    fabric_hub_free(c->hub);
    close_buses(c);
    bus_hub_free(c->bus_hub);
    bus_context_close(c->context);
    remove_folder(c->folder);
    free(c);
    return bad;
}

bool cluster_await(struct cluster *c, bool (*good)(const struct cadre_cluster *status, void *ctx), void *ctx, int seconds) {
    for (int64_t until = clk_now_us() + seconds * (int64_t)1000000; clk_now_us() < until;) {
        struct cadre_cluster *status;
        if (cadre_status(c->client, 1000, &status) != CADRE_OK) continue;
        bool yes = good(status, ctx);
        cadre_cluster_free(status);
        if (yes) return true;
    }
    return false;
}

/* --- asking --- */

static void take_tokens(struct answer *a, const struct cadre_event *e) {
    for (size_t i = 0; i < e->n_tokens && a->n < ANSWER_TOKENS; i++, a->n++) {
        const struct cadre_token *t = &e->tokens[i];
        a->ids[a->n] = t->id;
        a->logprobs[a->n] = t->logprob;
        for (size_t j = 0; j < t->n_top && j < ANSWER_TOP; j++) {
            a->top[a->n][j] = t->top[j].logprob;
            a->top_ids[a->n][j] = t->top[j].id;
        }
    }
}

static bool take_event(struct answer *a, const struct cadre_event *e) {
    switch (e->kind) {
    case CADRE_STARTED: return false;
    case CADRE_TOKENS: return take_tokens(a, e), false;
    case CADRE_FINISHED:
        snprintf(a->reason, sizeof a->reason, "%s", e->reason);
        a->preemptions = e->preemptions;
        a->degraded = e->degraded;
        return false;
    case CADRE_END:
        a->status = e->status;
        snprintf(a->message, sizeof a->message, "%s", e->message ? e->message : "");
        return true;
    }
    return false;
}

bool cluster_ask(struct cluster *c, const struct cadre_request *requests, int n, struct answer *answers, int seconds) {
    struct cadre_stream **streams = calloc((size_t)n, sizeof(struct cadre_stream *));
    int open = 0;
    int64_t until = clk_now_us() + seconds * (int64_t)1000000;
    if (!streams) die("out of memory");
    for (int i = 0; i < n; i++) {
        memset(&answers[i], 0, sizeof answers[i]);
        if (cadre_generate(c->client, &requests[i], &streams[i])) {
            answers[i].status = CADRE_INVALID_ARGUMENT;
            snprintf(answers[i].message, sizeof answers[i].message, "%s", cadre_error(c->client));
            continue;
        }
        cadre_stream_set_user(streams[i], &answers[i]);
        open++;
    }
    while (open && clk_now_us() < until) {
        struct cadre_stream *ready;
        struct cadre_event e;
        if (cadre_wait(c->client, 500, &ready) || cadre_next(ready, 0, &e)) continue;
        open -= take_event(cadre_stream_user(ready), &e);
    }
    for (int i = 0; i < n; i++) cadre_stream_close(streams[i]);
    free(streams);
    return open == 0;
}

bool answer_equal(const struct answer *a, const struct answer *b, char *where, size_t cap) {
    if (a->status != b->status || strcmp(a->reason, b->reason)) {
        snprintf(where, cap, "one ended %d '%s' %s, the other %d '%s' %s", a->status, a->reason, a->message, b->status,
                 b->reason, b->message);
        return false;
    }
    for (int i = 0; i < a->n && i < b->n; i++)
        if (a->ids[i] != b->ids[i] || memcmp(&a->logprobs[i], &b->logprobs[i], sizeof a->logprobs[i]) ||
            memcmp(a->top[i], b->top[i], sizeof a->top[i]) || memcmp(a->top_ids[i], b->top_ids[i], sizeof a->top_ids[i])) {
            snprintf(where, cap, "token %d: id %d logprob %.9g, and id %d logprob %.9g", i, a->ids[i], (double)a->logprobs[i],
                     b->ids[i], (double)b->logprobs[i]);
            return false;
        }
    if (a->n != b->n) snprintf(where, cap, "%d tokens and %d", a->n, b->n);
    return a->n == b->n;
}
