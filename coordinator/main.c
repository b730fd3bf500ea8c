/* main.c - cadre-coordinator: options, the two ZeroMQ doors, signals. */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/conf.h"
#include "base/log.h"
#include "coordinator/coordinator.h"

struct options {
    char *listen, *control, *key, *endpoint_file, *fabric, *on_death, *weights, *kv, *isa, *mla, *placement, *config,
        *log_level;
    int64_t endpoint_fd, workers, max_workers, max_batch, max_context, step_tokens, prefill_chunk, kv_tokens, memory, max_queue,
        start_timeout;
    char *payload, *combine, *combine_payload, *microbatches, *dispatch;
    double lease, patience, attach;
    char *journal, *journal_sync;
    bool ids_only, journal_repair, supervised;
};

#define AT(field) offsetof(struct options, field)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Cluster"},
    {"workers", CONF_INT, AT(workers), .def = "1", .min = 1, .max = 64, .arg = "N",
     .help = "how many workers it begins with; they join by themselves"},
    {"max-workers", CONF_INT, AT(max_workers), .min = 0, .max = 64, .arg = "N",
     .help = "how many there may be one day: more may join while it serves; default: no more"},
    {"listen", CONF_STRING, AT(listen), .def = "tcp://127.0.0.1:5770", .arg = "ENDPOINT",
     .help = "where clients come; port * takes any free one"},
    {"control", CONF_STRING, AT(control), .def = "tcp://127.0.0.1:5771", .arg = "ENDPOINT", .help = "where workers come"},
    {"endpoint-file", CONF_STRING, AT(endpoint_file), .arg = "FILE", .help = "write both addresses there once they are open"},
    {"key", CONF_STRING, AT(key), .arg = "FILE",
     .help = "who may come in and who may listen beyond this machine; `cadre keygen` makes it"},
    {"endpoint-fd", CONF_INT, AT(endpoint_fd), .min = 1, .max = 1 << 20, .arg = "N",
     .help = "the same to an open descriptor, which is then closed"},
    {"fabric", CONF_CHOICE, AT(fabric), .choices = "mem|shm|ucx|auto|mpi|mpi-alltoallv",
     .help = "refuse workers with another fabric"},
    {"on-death", CONF_CHOICE, AT(on_death), .choices = "recover|end",
     .help = "of a worker: go on with the others, or end; default: recover, if fabric is given"},
    {"placement", CONF_STRING, AT(placement), .arg = "FILE",
     .help = "which expert lives where; default: evenly, in order (see below)"},
    {"start-timeout", CONF_INT, AT(start_timeout), .def = "120", .min = 1, .max = 86400, .arg = "SECONDS",
     .help = "give up when the workers are not ready by then"},
    {"", CONF_FLAG, 0, .help = "Numbers (must suit all workers)"},
    {"weights", CONF_CHOICE, AT(weights), .def = "auto", .choices = "auto|bf16|f32|q8|q4|stored",
     .help = "format of the weights in memory; stored: as on disk; auto: bf16, or the pack's"},
    {"kv", CONF_CHOICE, AT(kv), .def = "auto", .choices = "auto|f32|bf16|f16|int8",
     .help = "format of keys and values; auto: as the weights, bf16 beside quantised ones"},
    {"isa", CONF_CHOICE, AT(isa), .def = "auto", .choices = "auto|ref|avx2|avx512bw|avx512", .help = "kernels to use"},
    {"mla", CONF_CHOICE, AT(mla), .def = "absorbed", .choices = "absorbed|naive-prefill",
     .help = "latent attention of prompts; naive-prefill: fewer operations, other last bits"},
    {"payload", CONF_CHOICE, AT(payload), .def = "f32", .choices = "f32|bf16|int8|fp8",
     .help = "how rows travel to experts; all but f32 round them"},
    {"combine-payload", CONF_CHOICE, AT(combine_payload), .def = "f32", .choices = "f32|bf16",
     .help = "how experts' rows travel back"},
    {"combine", CONF_CHOICE, AT(combine), .def = "rows", .choices = "rows|fused",
     .help = "fused: a sum per token and worker comes back, in fixed point"},
    {"", CONF_FLAG, 0, .help = "Limits"},
    {"max-batch", CONF_INT, AT(max_batch), .def = "32", .min = 1, .max = 65536, .arg = "N",
     .help = "sequences that run at once"},
    {"max-context", CONF_INT, AT(max_context), .min = 0, .max = 1 << 24, .arg = "TOKENS",
     .help = "prompt and answer together; 0: the model's, at most 4096"},
    {"dispatch", CONF_CHOICE, AT(dispatch), .def = "auto", .choices = "auto|direct|two-hop",
     .help = "two-hop: tokens cross to a host once and go on from there; auto: the faster on these links"},
    {"microbatches", CONF_CHOICE, AT(microbatches), .def = "auto", .choices = "auto|1|2",
     .help = "2: halves of a step take turns to compute and to travel; auto: as measured"},
    {"step-tokens", CONF_INT, AT(step_tokens), .min = 0, .max = 1 << 20, .arg = "N",
     .help = "rows one worker brings to a step; 0: 128, or more when max-batch asks for it"},
    {"prefill-chunk", CONF_INT, AT(prefill_chunk), .min = 0, .max = 1 << 20, .arg = "N",
     .help = "prompt rows of one sequence in a step; 0: what step-tokens leaves"},
    {"kv-tokens", CONF_INT, AT(kv_tokens), .min = 0, .max = 1e11, .arg = "N",
     .help = "tokens whose attention state one worker can hold; 0: one full context, or 512 per sequence"},
    {"memory", CONF_SIZE, AT(memory), .arg = "SIZE",
     .help = "bytes one worker may use; refuse to start when the model needs more"},
    {"max-queue", CONF_INT, AT(max_queue), .def = "1024", .min = 1, .max = 1 << 20, .arg = "N",
     .help = "requests that may wait; more are refused. As many again may wait for missing experts"},
    {"lease", CONF_REAL, AT(lease), .def = "0.5", .min = 0.3, .max = 3600, .arg = "SECONDS",
     .help = "a worker silent for so long is dead"},
    {"patience", CONF_REAL, AT(patience), .def = "2", .min = 0.1, .max = 60, .arg = "SECONDS",
     .help = "least time a worker waits for a peer in a step before it reports it"},
    {"", CONF_FLAG, 0, .help = "What outlives this process (docs/JOURNAL.md)"},
    {"journal", CONF_STRING, AT(journal), .arg = "DIR",
     .help = "write accepted requests there; after a restart they go on, and clients come back"},
    {"journal-sync", CONF_CHOICE, AT(journal_sync), .def = "interval", .choices = "always|interval|never",
     .help = "against power loss: always, before accepting; interval: every 100 ms"},
    {"journal-repair", CONF_FLAG, AT(journal_repair), .help = "go on without the damaged parts of a journal"},
    {"attach", CONF_REAL, AT(attach), .def = "30", .min = 0.1, .max = 86400, .arg = "SECONDS",
     .help = "how long a request waits for its client to come back"},
    {"", CONF_FLAG, 0, .help = "Operation"},
    {"supervised", CONF_FLAG, AT(supervised),
     .help = "obey signals of the parent process only: launchers send them to all that they started"},
    {"ids-only", CONF_FLAG, AT(ids_only), .help = "serve token ids without text: the checkpoint needs no tokenizer"},
    {"config", CONF_STRING, AT(config), .arg = "FILE", .help = "read options from lines 'name = value'; the command line wins"},
    {"log-level", CONF_CHOICE, AT(log_level), .def = "info", .choices = "error|warn|info|debug", .help = "how much to say"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre-coordinator",
    .usage = "MODEL [options]",
    .about =
        "Serves the model in folder MODEL (config.json, safetensors, tokenizer.json) with a cluster of workers: admits\n"
        "requests, plans steps, streams answers, watches the workers. Holds no weights and is never part of an MPI world.\n"
        "Workers get everything but their own threads from here.",
    .footer = "Examples:\n"
              "  cadre-coordinator ~/models/olmoe --workers 4 --listen tcp://*:5770 --control tcp://*:5771 --key cadre.key\n"
              "  mpirun -np 4 cadre-worker --fabric auto --connect tcp://head:5771 --key cadre.key\n\n"
              "Placement file: one rule per line, 'layers experts workers'; later lines override earlier ones; * means all.\n"
              "  *    0-3   0        experts 0 to 3 of every layer live on worker 0\n"
              "  *    4-7   1\n"
              "  5    2     0,1      two replicas of expert 2 in layer 5, each takes half of its tokens\n\n"
              "Signals: SIGINT or SIGTERM stops admitting, finishes what was admitted, sends the workers home; a second\n"
              "one ends at once.\n"
              "Exit status: 0 ended in order, 1 could not start or ended by a death, 2 wrong usage.",
    .options = table,
    .min_args = 1,
    .max_args = 1};

static struct coordinator *running; /* for the signal handler */
static volatile sig_atomic_t stops;

static pid_t obeyed; /* 0: anybody */

static void on_signal(int sig, siginfo_t *info, void *context) {
    (void)sig, (void)context;
    if (obeyed && info->si_pid != obeyed) return;
    coordinator_stop(running, stops++ == 0);
}

static void catch_signals(struct coordinator *c, bool supervised) {
    struct sigaction catch = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO}, ignore = {.sa_handler = SIG_IGN};
    running = c;
    obeyed = supervised ? getppid() : 0;
    sigaction(SIGINT, &catch, NULL);
    sigaction(SIGTERM, &catch, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

/* Before the coordinator goes away: what comes now is too late to matter. */
static void drop_signals(void) {
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &ignore, NULL);
    sigaction(SIGTERM, &ignore, NULL);
}

static bool print_endpoints(FILE *f, struct bus *clients, struct bus *workers) {
    bool good = fprintf(f, "listen %s\ncontrol %s\n", bus_endpoint(clients), bus_endpoint(workers)) > 0;
    return fclose(f) == 0 && good;
}

/* For a parent: nothing is left in any folder whoever dies when. */
static int tell_endpoints(int fd, struct bus *clients, struct bus *workers, struct why *why) {
    FILE *f = fdopen(fd, "w");
    if (!f || !print_endpoints(f, clients, workers))
        return fail(why, ERR_IO, "endpoint-fd %d: %m; wanted a descriptor that is open for writing", fd);
    return 0;
}

/* Appears whole or not at all: whoever waits for it may read it at once. */
static int write_endpoints(const char *path, struct bus *clients, struct bus *workers, struct why *why) {
    char tmp[4200];
    if (snprintf(tmp, sizeof tmp, "%s.new", path) >= (int)sizeof tmp) return fail(why, ERR_INVALID, "%s: name too long", path);
    FILE *f = fopen(tmp, "we");
    if (!f) return fail(why, ERR_IO, "%s: %m", tmp);
    if (!print_endpoints(f, clients, workers) || rename(tmp, path)) return fail(why, ERR_IO, "%s: %m", path);
    return 0;
}

static bool survives(const struct options *o) { return o->on_death ? !strcmp(o->on_death, "recover") : o->fabric != NULL; }

/* Threads of one process, ranks of an MPI world. */
static bool is_world(const struct options *o) {
    return o->fabric && (!strcmp(o->fabric, "mem") || !strncmp(o->fabric, "mpi", 3));
}

static struct coordinator_options describe(const struct options *o, const char *model) {
    return (struct coordinator_options){.model_dir = model,
                                        .workers = (int)(o->max_workers ? o->max_workers : o->workers),
                                        .first = (int)o->workers,
                                        .fabric = o->fabric,
                                        .weights = o->weights,
                                        .kv = o->kv,
                                        .isa = o->isa,
                                        .payload = o->payload,
                                        .combine_payload = o->combine_payload,
                                        .fused = !strcmp(o->combine, "fused"),
                                        .hops = !strcmp(o->dispatch, "auto") ? 0 : strcmp(o->dispatch, "direct") ? 2 : 1,
                                        .microbatches = strcmp(o->microbatches, "auto") ? o->microbatches[0] - '0' : 0,
                                        .naive_prefill = !strcmp(o->mla, "naive-prefill"),
                                        .placement_file = o->placement,
                                        .max_batch = (int)o->max_batch,
                                        .max_context = (int)o->max_context,
                                        .step_tokens = (int)o->step_tokens,
                                        .prefill_chunk = (int)o->prefill_chunk,
                                        .kv_tokens = o->kv_tokens,
                                        .max_queue = (int)o->max_queue,
                                        .memory = (uint64_t)o->memory,
                                        .ids_only = o->ids_only,
                                        .journal_dir = o->journal,
                                        .journal_sync = o->journal_sync,
                                        .journal_repair = o->journal_repair,
                                        .attach_us = (int64_t)(o->attach * 1e6),
                                        .survive = survives(o),
                                        .world = is_world(o),
                                        .prove = true,
                                        .end_on_death = o->fabric && strcmp(o->fabric, "mem"),
                                        .start_timeout_us = o->start_timeout * 1000000,
                                        .lease_us = (int64_t)(o->lease * 1e6),
                                        .patience_us = (int64_t)(o->patience * 1e6)};
}

static int check_options(const struct options *o) {
    if (o->max_workers && o->max_workers < o->workers) {
        fprintf(stderr, "cadre-coordinator: --max-workers %lld, but it begins with --workers %lld\n", (long long)o->max_workers,
                (long long)o->workers);
        return 2;
    }
    if (o->max_workers > o->workers && !survives(o)) {
        fprintf(stderr, "cadre-coordinator: --max-workers wants --on-death recover and --fabric shm, ucx or auto\n");
        return 2;
    }
    return 0;
}

static int serve(const struct options *o, const char *model) {
    struct bus_context *context = NULL;
    struct bus *clients = NULL, *workers = NULL;
    struct coordinator *c = NULL;
    struct why why;
    struct coordinator_options co = describe(o, model);
    int rc = bus_context_open(&context, o->key, &why);
    if (rc >= 0) rc = bus_zmq_bind(context, BUS_CLIENTS, o->listen, &clients, &why);
    if (rc >= 0) rc = bus_zmq_bind(context, BUS_WORKERS, o->control, &workers, &why);
    if (rc >= 0) rc = coordinator_new(&co, clients, workers, &c, &why);
    if (rc >= 0) {
        catch_signals(c, o->supervised);
        if (o->endpoint_fd) rc = tell_endpoints((int)o->endpoint_fd, clients, workers, &why);
        if (rc >= 0 && o->endpoint_file) rc = write_endpoints(o->endpoint_file, clients, workers, &why);
    }
    if (rc < 0) fprintf(stderr, "cadre-coordinator: %s\n", why.text);
    else rc = coordinator_run(c, &why); /* logs its own reasons */
    drop_signals();
    coordinator_free(c);
    bus_close(workers);
    bus_close(clients);
    bus_context_close(context);
    return rc < 0;
}

int main(int argc, char **argv) {
    struct options o = {0};
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &o, argc, argv, &args, &why);
    if (rc < 0) {
        fprintf(stderr, "cadre-coordinator: %s\n", why.text);
        rc = 2;
    } else if (rc == 0) {
        log_set_level((enum log_level)log_level_parse(o.log_level));
        log_set_name("coordinator");
        rc = check_options(&o);
        if (!rc) rc = serve(&o, args.items[0]);
    } else {
        rc = 0;
    }
    conf_clear(&command, &o, &args);
    return rc;
}
