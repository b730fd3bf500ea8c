/* main.c - cadre-worker: one process per worker, or all workers as threads of one process (mem).
 *
 * Everything about the model comes from the coordinator; the command line says where that is and what this host lends. */
#include "base/conf.h"
#include "base/log.h"
#include "fabric/boot.h"
#include "fabric/host.h"
#include "fabric/proof.h"
#include "proto/key.h"
#include "worker/door.h"
#include "worker/seat.h"
#include "worker/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOPBACK "lo" /* the device of the machine itself */

struct options {
    char *connect, *key, *fabric, *net_devices, *model, *isa, *log_level;
    int64_t rank, size, workers, threads, join_timeout, hold, memory;
};

#define AT(field) offsetof(struct options, field)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Cluster"},
    {"connect", CONF_STRING, AT(connect), .def = "tcp://127.0.0.1:5771", .arg = "ENDPOINT",
     .help = "the coordinator's control endpoint"},
    {"key", CONF_STRING, AT(key), .arg = "FILE", .help = "the cluster's key, if it has one: the coordinator's file"},
    {"fabric", CONF_CHOICE, AT(fabric), .def = "mem", .choices = "mem|shm|ucx|auto|mpi|mpi-alltoallv",
     .help = "how workers exchange tokens (see below)"},
    {"net-devices", CONF_STRING, AT(net_devices), .arg = "LIST",
     .help = "ucx, auto: network devices, as UCX names them; default: all with a key, lo without"},
    {"workers", CONF_INT, AT(workers), .def = "1", .min = 1, .max = FABRIC_MAX_RANKS, .arg = "N",
     .help = "mem: run this many workers in this process"},
    {"rank", CONF_INT, AT(rank), .min = 0, .max = FABRIC_MAX_RANKS - 1, .arg = "N",
     .help = "shm, ucx, auto: which worker this is; default: as mpirun, srun or the coordinator says"},
    {"size", CONF_INT, AT(size), .min = 1, .max = FABRIC_MAX_RANKS, .arg = "N", .help = "of how many; default: the same"},
    {"join-timeout", CONF_INT, AT(join_timeout), .def = "30", .min = 1, .max = 86400, .arg = "SECONDS",
     .help = "give up when no coordinator answers"},
    {"hold", CONF_INT, AT(hold), .def = "60", .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "keep everything for so long when the coordinator is gone, for it to come back; 0: end"},
    {"", CONF_FLAG, 0, .help = "This host"},
    {"threads", CONF_INT, AT(threads), .def = "1", .min = 1, .max = 1024, .arg = "N", .help = "compute threads per worker"},
    {"memory", CONF_SIZE, AT(memory), .arg = "SIZE",
     .help = "bytes this worker may use: it holds experts in proportion; default: as the coordinator says"},
    {"model", CONF_STRING, AT(model), .arg = "DIR",
     .help = "where the model is on this host, if not where the coordinator has it"},
    {"isa", CONF_CHOICE, AT(isa), .choices = "auto|avx512|avx512bw|avx2|ref",
     .help = "force a kernel path (must be equal on all workers)"},
    {"log-level", CONF_CHOICE, AT(log_level), .def = "info", .choices = "error|warn|info|debug", .help = "how much to say"},
    {0}};
static const struct conf_command command = {
    .name = "cadre-worker",
    .usage = "--connect ENDPOINT [options]",
    .about =
        "Holds a shard of a model's experts and the attention state of its own sequences, and exchanges tokens with the other\n"
        "workers. Joins the cluster of the coordinator it connects to; model, formats and limits come from there.",
    .footer =
        "Fabrics: mem, threads of one process; shm, processes of one host; ucx, processes anywhere; auto, shm inside a host "
        "and\n"
        "ucx between hosts; mpi, processes of one MPI world, point to point; mpi-alltoallv, the same by collectives.\n\n"
        "Examples:\n"
        "  cadre-worker --connect tcp://127.0.0.1:5771 --fabric mem --workers 4\n"
        "  cadre-worker --connect tcp://head:5771 --key cadre.key --fabric auto --rank 2 --size 4\n"
        "  cadre-worker --connect tcp://head:5771 --key cadre.key --fabric auto       # with the next free rank\n"
        "  mpirun -np 4 --bind-to none cadre-worker --connect tcp://head:5771 --key cadre.key --fabric auto\n"
        "  srun -n 4 cadre-worker --connect tcp://head:5771 --key cadre.key --fabric auto\n"
        "  mpirun -np 4 --bind-to none --mca mpi_yield_when_idle 1 cadre-worker --connect tcp://head:5771 --key cadre.key "
        "--fabric mpi\n\n"
        "Rank and size, where they are not given, are those of PMIx, Open MPI, Slurm or PMI, in this order.\n"
        "Exit status: 0 after the coordinator ended the cluster in order, 3 refused or no coordinator, 1 otherwise.",
    .options = table};

static void name_log(int rank) {
    char name[32];
    snprintf(name, sizeof name, "worker %d", rank);
    log_set_name(name);
}

/* --- mem: all workers meet at one hub --- */

struct process {
    const struct options *o;
    int size;
    struct fabric_hub *hub;
    struct bell ended;
    struct member *members;
};
struct member {
    struct process *process;
    struct worker *worker;
    struct bus *bus;
    pthread_t thread;
    int rank, rc;
    atomic_bool done;
    struct why why;
};

static struct worker_options describe(const struct options *o, int rank, int size, struct fabric *f, const char *host_id) {
    return (struct worker_options){
        .engine = {.rank = rank, .workers = size, .threads = (int)o->threads, .fabric_name = o->fabric, .fabric = f},
        .host_id = host_id,
        .model_dir = o->model,
        .isa = o->isa,
        .memory = (uint64_t)o->memory,
        .join_timeout_us = o->join_timeout * 1000000,
        .hold_us = o->hold * 1000000};
}

static void *member_main(void *arg) {
    struct member *m = arg;
    name_log(m->rank);
    m->rc = worker_run(m->worker, &m->why);
    atomic_store(&m->done, true);
    bell_ring(&m->process->ended);
    return NULL;
}

/* Waits for all; the first that fails takes the others with it, as one process they stand and fall together. */
static int wait_members(struct process *p) {
    int first_bad = -1;
    for (int left = p->size; left > 0;) {
        left = 0;
        for (int i = 0; i < p->size; i++) {
            struct member *m = &p->members[i];
            if (!atomic_load(&m->done)) left++;
            else if (m->rc < 0 && first_bad < 0) first_bad = i;
        }
        if (first_bad >= 0)
            for (int i = 0; i < p->size; i++) worker_kill(p->members[i].worker);
        if (left) bell_wait(&p->ended);
    }
    for (int i = 0; i < p->size; i++) pthread_join(p->members[i].thread, NULL);
    if (first_bad < 0) return 0;
    log_error("worker %d: %s", first_bad, p->members[first_bad].why.text);
    return 1;
}

static int run_mem(const struct options *o) {
    struct process p = {.o = o, .size = (int)o->workers};
    struct bus_context *context;
    struct why why;
    char host_id[HOST_ID_BYTES];
    fabric_host_id(host_id);
    if (bell_open(&p.ended) < 0 || !(p.members = calloc((size_t)p.size, sizeof *p.members))) die("out of memory");
    if (fabric_hub_new(p.size, NULL, &p.hub, &why) < 0 || bus_context_open(&context, o->key, &why) < 0) die("%s", why.text);
    for (int i = 0; i < p.size; i++) {
        struct member *m = &p.members[i];
        m->process = &p;
        m->rank = i;
        struct fabric *f = NULL;
        if (p.size > 1 && fabric_mem_open(p.hub, i, &f, &why) < 0) die("%s", why.text);
        struct worker_options wo = describe(o, i, p.size, f, host_id);
        if (bus_zmq_connect(context, BUS_WORKERS, o->connect, &m->bus, &why) < 0) die("%s", why.text);
        if (worker_new(&wo, m->bus, &m->worker) < 0) die("out of memory for worker %d", i);
    }
    for (int i = 0; i < p.size; i++)
        if (pthread_create(&p.members[i].thread, NULL, member_main, &p.members[i]))
            die("cannot start a thread for worker %d", i);
    int status = wait_members(&p);
    for (int i = 0; i < p.size; i++) {
        worker_free(p.members[i].worker);
        bus_close(p.members[i].bus);
    }
    fabric_hub_free(p.hub);
    bus_context_close(context);
    bell_close(&p.ended);
    free(p.members);
    return status;
}

/* --- one worker per process --- */

static bool is_mpi(const struct options *o) { return !strncmp(o->fabric, "mpi", 3); } /* in either form */

/* What other hosts may reach takes nothing from who has not the key; without one no other host may reach us. */
static int read_net(const struct options *o, uint8_t *secret, struct fabric_net *net, struct why *why) {
    struct key key;
    _Static_assert((int)KEY_BYTES == (int)PROOF_SECRET_BYTES, "the secret of the fabric is the workers' own");
    *net = (struct fabric_net){.devices = o->net_devices};
    if (o->key) {
        int rc = key_read(o->key, &key, why);
        if (rc == 0) rc = key_worker_secret(&key, secret, why);
        net->secret = secret;
        return rc;
    }
    if (net->devices && strcmp(net->devices, LOOPBACK))
        return fail(why, ERR_DENIED,
                    "--net-devices %s: others could reach this worker, and there is no key; make one (`cadre keygen`) and give "
                    "it to all with --key",
                    net->devices);
    net->devices = LOOPBACK;
    return 0;
}

/* One worker alone needs no fabric. Of an MPI world only MPI knows who is who. */
static int open_fabric(const struct options *o, struct bus *bus, struct boot_id *id, struct fabric **out, struct why *why) {
    *out = NULL;
    if (is_mpi(o)) {
        int rc = fabric_mpi_init(&id->rank, &id->size, why);
        if (rc < 0 || id->size == 1) return rc;
        return strcmp(o->fabric, "mpi") ? fabric_mpi_alltoallv_open(out, why) : fabric_mpi_open(out, why);
    }
    int rc = boot_find(o->rank, o->size, boot_environment, NULL, id, why);
    if (rc == ERR_NOT_FOUND && o->size < 0) rc = seat_ask(bus, o->join_timeout * 1000000, &id->rank, &id->size, why);
    if (rc < 0) return rc;
    name_log(id->rank);
    if (id->size == 1) return 0;
    if (!strcmp(o->fabric, "shm")) return fabric_shm_open(id->rank, id->size, out, why);
    uint8_t secret[PROOF_SECRET_BYTES];
    struct fabric_net net;
    rc = read_net(o, secret, &net, why);
    if (rc < 0) return rc;
    if (!strcmp(o->fabric, "ucx")) return fabric_ucx_open(id->rank, id->size, &net, out, why);
    return fabric_auto_open(id->rank, id->size, &net, out, why);
}

/* Where others fetch experts from this worker, and it from them. It can do without. */
static int reach_door(void *ctx, const char *door, struct bus **out, struct why *why) {
    return bus_zmq_connect(ctx, BUS_WORKERS, door, out, why);
}

static void open_door(const struct options *o, struct bus_context *context, int size, struct worker_options *wo) {
    char address[64];
    struct why why;
    if (size == 1 || is_mpi(o)) return; /* nobody else; all begin at once */
    wo->reach = reach_door;
    wo->reach_ctx = context;
    int rc = door_address(o->connect, o->key != NULL, address, sizeof address, &why);
    if (rc >= 0) rc = bus_zmq_bind(context, BUS_WORKERS, address, &wo->door, &why);
    if (rc < 0) log_warn("no other worker can fetch experts from this one: %s", why.text);
}

/* Who keeps workers going (cli/tend.h) need not try again with one that is refused, or has nowhere to go. */
static int exit_status(int rc) { return rc == ERR_DENIED || rc == ERR_DEADLINE ? 3 : rc < 0; }

static int run_alone(const struct options *o) {
    struct bus_context *context;
    struct bus *bus;
    struct worker *w;
    struct fabric *f;
    struct boot_id id;
    struct why why;
    char host_id[HOST_ID_BYTES];
    if (bus_context_open(&context, o->key, &why) < 0 || bus_zmq_connect(context, BUS_WORKERS, o->connect, &bus, &why) < 0)
        die("%s", why.text);
    if (open_fabric(o, bus, &id, &f, &why) < 0) die("%s", why.text);
    name_log(id.rank);
    fabric_host_id(host_id);
    struct worker_options wo = describe(o, id.rank, id.size, f, host_id);
    open_door(o, context, id.size, &wo);
    if (worker_new(&wo, bus, &w) < 0) die("out of memory");
    int rc = worker_run(w, &why);
    if (rc < 0) log_error("%s", why.text);
    worker_free(w);
    bus_close(bus);
    bus_context_close(context);
    if (!is_mpi(o)) return exit_status(rc);
    fabric_mpi_finalize(rc >= 0);
    if (rc < 0) _exit(1); /* a peer may be dead, and MPI's exit handlers would wait for it */
    return 0;
}

static int check_options(const struct options *o, struct why *why) {
    bool mem = !strcmp(o->fabric, "mem"), mpi = is_mpi(o);
    if (!mem && o->workers != 1)
        return fail(why, ERR_INVALID, "--workers %lld: with --fabric %s each worker is a process of its own",
                    (long long)o->workers, o->fabric);
    if ((mem || mpi) && (o->rank >= 0 || o->size >= 0))
        return fail(why, ERR_INVALID, "--fabric %s takes no --rank and --size: %s", o->fabric,
                    mem ? "it runs --workers of them in this process" : "MPI decides");
    return 0;
}

int main(int argc, char **argv) {
    struct options o = {.rank = -1, .size = -1};
    struct conf_args args;
    struct why why;
    int rc = conf_parse(&command, &o, argc, argv, &args, &why);
    if (rc == 0) rc = check_options(&o, &why);
    if (rc < 0) {
        fprintf(stderr, "cadre-worker: %s\n", why.text);
        rc = 2;
    } else if (rc == 0) {
        log_set_level((enum log_level)log_level_parse(o.log_level));
        signal(SIGINT, SIG_IGN); /* Ctrl-C is for the coordinator, which drains and then tells us */
        rc = strcmp(o.fabric, "mem") ? run_alone(&o) : run_mem(&o);
    } else {
        rc = 0;
    }
    conf_clear(&command, &o, &args);
    return rc;
}
