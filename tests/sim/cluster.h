/* cluster.h - a whole cluster in this process: a coordinator and R workers as threads, on a memory bus and the memory fabric.
 * Clients come over ZeroMQ, as they would. For tests: one thread starts, drives and stops it. */
#pragma once
#include "client/cadre.h"
#include "coordinator/coordinator.h"
#include "fabric/fabric.h"
#include "tests/sim/mortal.h"

struct cluster_options {
    struct coordinator_options coordinator; /* model_dir, workers, weights ...; fabric and end_on_death are set for you, and
                                             * a lease that lets nobody die of a busy machine unless you give one */
    int threads;                            /* per worker; 0 = 1 */
    int hosts;                              /* workers are said to be on so many, in turn; 0 = 1 */
    const struct fabric_faults *faults;     /* NULL: none */
};

struct cluster;
/* Returns when it is serving, or with why when it cannot. */
int cluster_start(const struct cluster_options *o, struct cluster **out, struct why *why);
const char *cluster_endpoint(const struct cluster *c);
/* --- what may befall a worker. From one thread, but kill and vanish also from the worker's own (mortal_trip) --- */

/* It is gone, as by kill -9: its threads, its frames, its beats; and its connection closes. */
void cluster_kill_worker(struct cluster *c, int rank);
/* The same, and nobody sees a connection close: its host is gone. */
void cluster_vanish_worker(struct cluster *c, int rank);
struct mortal *cluster_mortal(struct cluster *c, int rank); /* of this life: until it is buried */
/* While cut, frames from one to the other vanish. */
void cluster_cut(struct cluster *c, int from, int to, bool cut);
/* Waits for the end of one that was killed or is taken for dead; harmless when it was. False: it does not end. */
bool cluster_bury_worker(struct cluster *c, int rank, int seconds);
bool cluster_worker_ended(struct cluster *c, int rank); /* by itself or by force: its process is gone */
/* Another process in the place of one that is dead. */
void cluster_restart_worker(struct cluster *c, int rank);

/* --- and the coordinator, where coordinator.journal_dir was given as "" (a folder of its own) --- */

/* It is gone, as by kill -9: what its journal has is what it had written, less `torn` bytes of the last tokens. Then another at
 * the same place, with that journal; workers and clients come to it by themselves. Nobody may use the cluster otherwise in
 * between. */
void cluster_kill_coordinator(struct cluster *c, int torn);
void cluster_restart_coordinator(struct cluster *c);

void cluster_drain(struct cluster *c); /* finish what was admitted, then end; cluster_stop waits for it. Any thread */
/* Drains and ends. The number of parts that did not end in order; dead workers do not count. Frees c. */
int cluster_stop(struct cluster *c);

/* --- asking it things --- */

enum { ANSWER_TOKENS = 512, ANSWER_TOP = 3 };
struct answer {
    int status; /* CADRE_OK ... */
    char message[300], reason[16];
    int n;
    int32_t ids[ANSWER_TOKENS];
    float logprobs[ANSWER_TOKENS], top[ANSWER_TOKENS][ANSWER_TOP];
    int32_t top_ids[ANSWER_TOKENS][ANSWER_TOP];
    uint32_t preemptions;
    bool degraded;
};
/* Sends all n at once over one client and waits for every end (at most seconds). false: something is still open then. */
bool cluster_ask(struct cluster *c, const struct cadre_request *requests, int n, struct answer *answers, int seconds);
/* Same tokens, same bits of every logprob, same reason. Where they differ first goes to `where`. */
bool answer_equal(const struct answer *a, const struct answer *b, char *where, size_t cap);
/* Waits until `good` says yes of the status; false after `seconds`. */
bool cluster_await(struct cluster *c, bool (*good)(const struct cadre_cluster *status, void *ctx), void *ctx, int seconds);
