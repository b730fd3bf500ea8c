/* serve.c - `cadre serve`: a supervisor. Starts a coordinator here and its workers (cli/fleet.h), shows how they load, and sees
 * to it that they all end together.
 *
 *   STARTING --endpoints known--> LOADING --state "serving"--> SERVING --signal--> DRAINING --all ended--> exit 0
 *       \_________________________/____________________________/___ a child ended: stop the rest, exit 1
 *
 * Workers that are our own children (FLEET_LOCAL) may die while serving: the coordinator goes on with the others, and another
 * is started, unless they die again and again (cli/crew.h). Any other launcher ends all its ranks with one of them.
 *
 * It talks to the coordinator like any other client. Settings of the model go to the coordinator only, which hands them to the
 * workers; this machine's (threads) go to the workers. Everything waits in one place: a poll on the signals, on the workers'
 * processes (so that the first to die is known by name even where mpirun then kills the others), and a short timeout. */
#include "base/clk.h"
#include "base/log.h"
#include "cli/banner.h"
#include "cli/argv.h"
#include "cli/crew.h"
#include "cli/fleet.h"
#include "cli/joiner.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    TICK_MS = 50,
    STATUS_EVERY_US = 200000,
    STATUS_MS = 1000,    /* how long the coordinator may take to answer */
    LAUNCHER_US = 3000000, /* from a rank's death until mpirun has ended the others; 2.2 s when they resist */
    TELL_US = 2000000,   /* for the coordinator to notice a death */
    END_US = 2000000,    /* from asking a child to end to killing it */
    FOLLOW_US = 5000000, /* workers, after the coordinator drained */
};

struct options {
    char *listen, *control, *key, *fabric, *launcher, *hosts, *net_devices, *weights, *config, *placement, *isa, *mla;
    char *lease, *coordinator_node, *endpoint_file;
    char *journal, *journal_sync, *attach;
    bool journal_repair;
    char *payload, *combine_payload, *combine, *microbatches, *dispatch;
    char *log_level;
    int64_t workers, rank, size, threads, max_batch, max_context, step_tokens, kv_tokens, memory, startup, drain;
};
#define AT(member) offsetof(struct options, member)
static const struct conf_option table[] = {
    {"", CONF_FLAG, 0, .help = "Cluster"},
    {"workers", CONF_INT, AT(workers), .min = 1, .max = BANNER_WORKERS, .arg = "N",
     .help = "how many workers share the experts; default: 1, or the ranks that there are"},
    {"fabric", CONF_CHOICE, AT(fabric), .choices = "mem|shm|ucx|auto|mpi|mpi-alltoallv",
     .help = "how workers exchange tokens (see below); default: mem, or auto as ranks"},
    {"hosts", CONF_STRING, AT(hosts), .arg = "LIST", .help = "run the workers there: h1:4,h2:4; fabrics auto, ucx, mpi"},
    {"launcher", CONF_CHOICE, AT(launcher), .def = "auto", .choices = "auto|local|mpirun|srun",
     .help = "who starts the workers; auto: mpirun for --hosts and mpi, srun in Slurm jobs"},
    {"coordinator-node", CONF_STRING, AT(coordinator_node), .arg = "HOST",
     .help = "ranks: where the coordinator runs; default: with rank 0"},
    {"endpoint-file", CONF_STRING, AT(endpoint_file), .arg = "FILE",
     .help = "write there where clients and workers come; ranks find the coordinator by it"},
    {"rank", CONF_INT, AT(rank), .min = 0, .max = BANNER_WORKERS - 1, .arg = "N",
     .help = "which rank this is; default: what mpirun or srun says, if one of them started it"},
    {"size", CONF_INT, AT(size), .min = 1, .max = BANNER_WORKERS, .arg = "N", .help = "of how many; default: the same"},
    {"net-devices", CONF_STRING, AT(net_devices), .arg = "LIST",
     .help = "network devices of fabrics ucx and auto, as UCX names them; default: all"},
    {"control", CONF_STRING, AT(control), .arg = "ENDPOINT",
     .help = "where workers come; default: loopback, or all interfaces when they run elsewhere"},
    {"key", CONF_STRING, AT(key), .arg = "FILE",
     .help = "the key that `cadre keygen` made, at this path on all hosts; needed to listen beyond this one"},
    {"threads", CONF_INT, AT(threads), .min = 1, .max = 1024, .arg = "N",
     .help = "compute threads per worker; default: the CPUs divided by the workers"},
    {"listen", CONF_STRING, AT(listen), .def = CADRE_DEFAULT_ENDPOINT, .arg = "ENDPOINT",
     .help = "where clients come; port * takes any free one"},
    {"placement", CONF_STRING, AT(placement), .arg = "FILE", .help = "which expert lives where; default: evenly, in order"},
    {"", CONF_FLAG, 0, .help = "Numbers"},
    {"weights", CONF_CHOICE, AT(weights), .def = "bf16", .choices = "bf16|f32|stored",
     .help = "format of the weights in memory; stored: as on disk"},
    {"isa", CONF_CHOICE, AT(isa), .def = "auto", .choices = "auto|ref|avx2|avx512", .help = "kernels to use"},
    {"mla", CONF_CHOICE, AT(mla), .def = "absorbed", .choices = "absorbed|naive-prefill",
     .help = "latent attention of prompts; naive-prefill: fewer operations, other last bits"},
    {"payload", CONF_CHOICE, AT(payload), .def = "f32", .choices = "f32|bf16|int8|fp8",
     .help = "how rows travel to experts; all but f32 round them"},
    {"combine-payload", CONF_CHOICE, AT(combine_payload), .def = "f32", .choices = "f32|bf16",
     .help = "how experts' rows travel back"},
    {"combine", CONF_CHOICE, AT(combine), .def = "rows", .choices = "rows|fused",
     .help = "fused: a sum per token and worker comes back, in fixed point"},
    {"", CONF_FLAG, 0, .help = "Limits"},
    {"max-batch", CONF_INT, AT(max_batch), .min = 1, .max = 65536, .arg = "N",
     .help = "sequences that run at once; default: 32"},
    {"max-context", CONF_INT, AT(max_context), .min = 1, .max = 1 << 24, .arg = "TOKENS",
     .help = "longest prompt and answer together; default: the model's, at most 4096"},
    {"step-tokens", CONF_INT, AT(step_tokens), .min = 1, .max = 1 << 20, .arg = "N",
     .help = "most tokens one worker brings to a step; default: 128"},
    {"dispatch", CONF_CHOICE, AT(dispatch), .def = "auto", .choices = "auto|direct|two-hop",
     .help = "two-hop: tokens cross to a host once and go on from there; auto: the faster on these links"},
    {"microbatches", CONF_CHOICE, AT(microbatches), .def = "auto", .choices = "auto|1|2",
     .help = "2: halves of a step take turns to compute and to travel; auto: as measured"},
    {"kv-tokens", CONF_INT, AT(kv_tokens), .min = 1, .max = 1e11, .arg = "N",
     .help = "tokens whose attention state one worker can hold; default: one context, or 512 per sequence"},
    {"memory", CONF_SIZE, AT(memory), .min = 0, .max = 9e18, .arg = "SIZE",
     .help = "bytes one worker may use; refuse to start when the model needs more"},
    {"", CONF_FLAG, 0, .help = "Operation"},
    {"config", CONF_STRING, AT(config), .arg = "FILE", .help = "read options from lines 'name = value'; the command line wins"},
    {"lease", CONF_STRING, AT(lease), .arg = "SECONDS", .help = "a worker silent for so long is dead; default: 0.5"},
    {"journal", CONF_STRING, AT(journal), .arg = "DIR",
     .help = "write accepted requests there: started again with it, a cluster goes on with them"},
    {"journal-sync", CONF_CHOICE, AT(journal_sync), .choices = "always|interval|never",
     .help = "against power loss: always, before accepting; interval (default): every 100 ms"},
    {"journal-repair", CONF_FLAG, AT(journal_repair), .def = "no", .help = "go on without the damaged parts of a journal"},
    {"attach", CONF_STRING, AT(attach), .arg = "SECONDS",
     .help = "how long a request in the journal waits for its client to come back; default: 30"},
    {"startup", CONF_INT, AT(startup), .def = "600", .min = 1, .max = 86400, .arg = "SECONDS",
     .help = "give up when loading takes longer"},
    {"drain", CONF_INT, AT(drain), .def = "30", .min = 0, .max = 86400, .arg = "SECONDS",
     .help = "time for running requests after SIGINT or SIGTERM"},
    {"log-level", CONF_CHOICE, AT(log_level), .def = "info", .choices = "error|warn|info|debug",
     .help = "how much the daemons say"},
    {NULL}};
static const struct conf_command command = {
    .name = "cadre serve",
    .usage = "MODEL [options]",
    .about = "Starts a coordinator and workers for the model in folder MODEL on this machine, and serves until SIGINT or\n"
             "SIGTERM. The first signal (SIGUSR1 too) finishes what is running, a second one stops at once. Started by mpirun\n"
             "or srun, or with --rank and --size, each process is one worker, and one of them runs the coordinator as well.",
    .options = table,
    .footer = "Fabrics:\n"
              "  mem    all workers are threads of one process\n"
              "  shm    one process each, through shared memory; one host\n"
              "  ucx    one process each, through UCX: TCP, or RDMA where there is any\n"
              "  auto   shm inside a host, ucx between hosts\n"
              "  mpi    one process each, in an MPI world, point to point; mpi-alltoallv: by its collectives\n\n"
              "Examples:\n"
              "  cadre serve ~/models/olmoe --workers 4\n"
              "  cadre serve ~/models/olmoe --workers 4 --fabric shm --weights f32\n"
              "  cadre serve ~/models/olmoe --workers 8 --fabric auto --hosts n1:4,n2:4 --key cadre.key\n\n"
              "As ranks of a launcher; rank 0's host also runs the coordinator:\n"
              "  mpirun -np 4 --bind-to none cadre serve ~/models/olmoe\n"
              "  srun -N 2 -n 8 cadre serve ~/models/olmoe --key cadre.key\n\n"
              "The same by hand, also over several machines:\n"
              "  cadre-coordinator MODEL --workers 4 --listen tcp://*:5770 --control tcp://*:5771 --key cadre.key\n"
              "  mpirun -np 4 cadre-worker --fabric auto --connect tcp://HEAD:5771 --key cadre.key\n\n"
              "A worker of shm, ucx or auto that dies is started again; requests wait for it, and lose nothing.\n"
              "Exit status: 0 stopped in order, 1 could not start or something died, 2 wrong usage.",
    .min_args = 1,
    .max_args = 1};

enum state { STARTING, LOADING, SERVING, DRAINING };
enum { COORDINATOR, FLEET, CHILDREN = FLEET + FLEET_MOST };
struct supervisor {
    const struct options *o;
    const char *model;
    enum state state;
    enum fleet_kind kind;
    struct rank rank; /* FLEET_RANK: who we are */
    bool far; /* workers elsewhere must be able to reach the coordinator */
    struct child children[CHILDREN]; /* the coordinator, then what fleet_start started */
    int n_children;
    struct crew crew; /* FLEET_LOCAL: the same workers */
    struct banner banner;
    struct cadre_client *client;
    char listen[256], control[256], workers_go_to[600];
    char told[600]; /* what came through `endpoints` so far */
    int endpoints;  /* a pipe from the coordinator; -1 when it has told all */
    int signals;    /* signalfd */
    int stops;      /* SIGINT and SIGTERM so far */
    int64_t started_us, asked_us;
    struct worker_process {
        uint32_t rank;
        uint64_t pid;
        int fd; /* pidfd */
    } workers[BANNER_WORKERS];
    int n_workers;
    struct why why; /* of a failure, for the last line */
};

static void set_state(struct supervisor *s, enum state to) {
    if (to <= s->state) BUG("serve: state %d to %d", (int)s->state, (int)to);
    s->state = to;
}

/* ---- starting ---- */
static const char *where_workers_come(const struct supervisor *s) {
    if (s->o->control) return s->o->control;
    if (s->rank.address[0]) return s->rank.one_host ? RANK_CONTROL_HERE : RANK_CONTROL;
    return s->far ? "tcp://*:*" : "tcp://127.0.0.1:*";
}

static int start_coordinator(struct supervisor *s, int endpoint_fd) {
    const struct options *o = s->o;
    struct argv a = {.n = 0};
    char program[4096];
    child_find("cadre-coordinator", "coordinator", program, sizeof program);
    argv_add(&a, program);
    argv_add(&a, s->model);
    argv_add_number(&a, "--workers", o->workers);
    argv_add_text(&a, "--listen", o->listen);
    argv_add_text(&a, "--control", where_workers_come(s));
    if (s->kind == FLEET_RANK) argv_add(&a, "--supervised");
    s->children[COORDINATOR].deaf = s->kind == FLEET_RANK; /* beyond those that it looks at */
    argv_add_number(&a, "--endpoint-fd", endpoint_fd);
    argv_add_text(&a, "--key", o->key);
    argv_add_text(&a, "--fabric", o->fabric);
    argv_add_text(&a, "--on-death", s->kind == FLEET_LOCAL ? "recover" : "end");
    argv_add_text(&a, "--weights", o->weights);
    argv_add_text(&a, "--isa", o->isa);
    argv_add_text(&a, "--mla", o->mla);
    argv_add_text(&a, "--payload", o->payload);
    argv_add_text(&a, "--combine-payload", o->combine_payload);
    argv_add_text(&a, "--combine", o->combine);
    argv_add_text(&a, "--microbatches", o->microbatches);
    argv_add_text(&a, "--dispatch", o->dispatch);
    argv_add_text(&a, "--placement", o->placement);
    argv_add_number(&a, "--max-batch", o->max_batch);
    argv_add_number(&a, "--max-context", o->max_context);
    argv_add_number(&a, "--step-tokens", o->step_tokens);
    argv_add_number(&a, "--kv-tokens", o->kv_tokens);
    argv_add_number(&a, "--memory", o->memory);
    argv_add_number(&a, "--start-timeout", o->startup);
    argv_add_text(&a, "--lease", o->lease);
    argv_add_text(&a, "--journal", o->journal);
    argv_add_text(&a, "--journal-sync", o->journal_sync);
    argv_add_text(&a, "--attach", o->attach);
    if (o->journal_repair) argv_add(&a, "--journal-repair");
    argv_add_text(&a, "--log-level", o->log_level);
    s->n_children = 1;
    return child_start(&s->children[COORDINATOR], a.words, SIGKILL, endpoint_fd, &s->why);
}

static void stop_listening(struct supervisor *s) {
    if (s->endpoints >= 0) close(s->endpoints);
    s->endpoints = -1;
}

/* True when the coordinator has told both of its endpoints. One that ends before that is seen by its end. */
static bool read_endpoints(struct supervisor *s) {
    size_t have = strlen(s->told);
    ssize_t n = s->endpoints >= 0 ? read(s->endpoints, s->told + have, sizeof s->told - 1 - have) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) stop_listening(s);
    if (n <= 0) return false;
    have += (size_t)n;
    s->told[have] = 0;
    if (s->told[have - 1] != '\n' || sscanf(s->told, "listen %255s control %255s", s->listen, s->control) != 2) return false;
    stop_listening(s);
    return true;
}

/* A wildcard is where to listen, not where to go: that is `host`. */
static void endpoint_at(const char *host, const char *listen, char *out, size_t cap) {
    static const char *const any[] = {"tcp://0.0.0.0:", "tcp://*:", "tcp://[::]:"};
    snprintf(out, cap, "%s", listen);
    for (size_t i = 0; i < 3; i++)
        if (!strncmp(listen, any[i], strlen(any[i]))) snprintf(out, cap, "tcp://%s:%s", host, listen + strlen(any[i]));
}

static struct fleet_options describe_fleet(const struct supervisor *s) {
    const struct options *o = s->o;
    return (struct fleet_options){.fabric = o->fabric,
                                  .launcher = o->launcher,
                                  .hosts = o->hosts,
                                  .control = s->workers_go_to,
                                  .key = o->key,
                                  .net_devices = o->net_devices,
                                  .log_level = o->log_level,
                                  .workers = o->workers,
                                  .threads = o->threads,
                                  .rank = s->kind == FLEET_RANK ? &s->rank : NULL,
                                  .nodes = fleet_slurm_nodes()};
}

/* For other ranks, scripts and clients elsewhere. */
static int tell_endpoints(struct supervisor *s, const char *host) {
    char listen[600];
    endpoint_at(host, s->listen, listen, sizeof listen);
    return rank_tell(&s->rank, listen, s->workers_go_to, &s->why);
}

static int start_fleet(struct supervisor *s) {
    struct fleet_options f = describe_fleet(s);
    char host[256] = "127.0.0.1";
    int n;
    if (s->far) gethostname(host, sizeof host - 1);
    endpoint_at(host, s->control, s->workers_go_to, sizeof s->workers_go_to);
    int rc = tell_endpoints(s, host);
    if (rc < 0) return rc;
    rc = fleet_start(&f, s->kind, &s->children[FLEET], &n, &s->why);
    s->n_children = FLEET + n;
    s->crew = (struct crew){.workers = &s->children[FLEET]};
    return rc;
}

static int begin_loading(struct supervisor *s) {
    char endpoint[300];
    int rc = start_fleet(s);
    if (rc < 0) return rc;
    endpoint_at("127.0.0.1", s->listen, endpoint, sizeof endpoint);
    struct cadre_options options = {.key_file = s->o->key};
    if (cadre_open(endpoint, &options, &s->client)) return fail(&s->why, ERR_IO, "%s", cadre_error(s->client));
    set_state(s, LOADING);
    return 0;
}

/* ---- watching ---- */
static void watch_worker(struct supervisor *s, const struct cadre_worker *w) {
    char host[256] = "";
    if (s->kind != FLEET_MPIRUN && s->kind != FLEET_SRUN) return; /* children of ours: SIGCHLD */
    gethostname(host, sizeof host - 1);
    if (strcmp(w->host, host)) return; /* a pid of another host says nothing here */
    for (int i = 0; i < s->n_workers; i++)
        if (s->workers[i].rank == w->rank) return;
    if (!w->pid || s->n_workers == BANNER_WORKERS) return;
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)w->pid, 0);
    if (fd < 0) return;
    s->workers[s->n_workers++] = (struct worker_process){w->rank, w->pid, fd};
}

static int look_at(struct supervisor *s, const struct cadre_cluster *c) {
    for (size_t i = 0; i < c->n_workers; i++) watch_worker(s, &c->workers[i]);
    if (!strcmp(c->state, "failed")) return fail(&s->why, ERR_IO, "%s", c->reason);
    if (!strcmp(c->state, "loading")) return banner_progress(&s->banner, c), 0;
    if (strcmp(c->state, "serving")) return 0;
    banner_progress(&s->banner, c);
    banner_break(&s->banner);
    banner_serving(c, s->o->weights);
    set_state(s, SERVING);
    return 0;
}

static int ask_status(struct supervisor *s, int64_t now) {
    if (now - s->asked_us < STATUS_EVERY_US) return 0;
    struct cadre_cluster *c;
    int rc = 0;
    if (!cadre_status(s->client, STATUS_MS, &c)) {
        rc = look_at(s, c);
        cadre_cluster_free(c);
    }
    s->asked_us = clk_now_us();
    return rc;
}

static void take_signals(struct supervisor *s) {
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD) s->stops++;
}

/* Until a signal (SIGCHLD among them), the coordinator's endpoints, the end of a worker we look at, or the tick. */
static void pause_a_tick(struct supervisor *s, int n_workers) {
    struct pollfd p[2 + BANNER_WORKERS] = {{.fd = s->signals, .events = POLLIN}, {.fd = s->endpoints, .events = POLLIN}};
    for (int i = 0; i < n_workers; i++) p[2 + i] = (struct pollfd){.fd = s->workers[i].fd, .events = POLLIN};
    poll(p, 2 + (nfds_t)n_workers, TICK_MS);
    take_signals(s);
}

/* Waits until the child ended, `us` have passed, or a further stop signal came. */
static void wait_for(struct supervisor *s, int which, int64_t us) {
    int64_t until = clk_now_us() + us;
    int stops = s->stops;
    while (s->children[which].pid && !s->children[which].ended && clk_now_us() < until && s->stops == stops) {
        pause_a_tick(s, 0);
        child_collect(s->children, s->n_children);
    }
}

/* A worker that is not itself our child: one of a launcher's ranks. */
static const struct worker_process *dead_rank(const struct supervisor *s) {
    for (int i = 0; i < s->n_workers; i++) {
        struct pollfd p = {.fd = s->workers[i].fd, .events = POLLIN};
        if (poll(&p, 1, 0) > 0) return &s->workers[i];
    }
    return NULL;
}

static int tell_dead_child(struct supervisor *s, const struct child *c) {
    char fate[96];
    return fail(&s->why, ERR_GONE, "%s (pid %d) %s", c->name, (int)c->pid, child_fate(c, fate, sizeof fate));
}

/* mpirun ends the other ranks by itself and then tells by its own status how the first one died. Should it have been killed,
 * then that is what the ranks died of. */
static int tell_dead_rank(struct supervisor *s, const struct worker_process *w) {
    char fate[96];
    wait_for(s, FLEET, LAUNCHER_US);
    const struct child *fleet = &s->children[FLEET];
    if (fleet->ended && WIFSIGNALED(fleet->status)) return tell_dead_child(s, fleet);
    int status = fleet->ended && WIFEXITED(fleet->status) ? WEXITSTATUS(fleet->status) : 0;
    if (status > 128 + SIGRTMAX) return tell_dead_child(s, fleet); /* its own trouble: a host that it lost, say */
    if (status > 128) snprintf(fate, sizeof fate, "was killed by signal %d (%s)", status - 128, strsignal(status - 128));
    else if (status) snprintf(fate, sizeof fate, "ended with status %d", status);
    else snprintf(fate, sizeof fate, "died");
    return fail(&s->why, ERR_GONE, "worker rank %u (pid %llu) %s; the cluster cannot go on without it", w->rank,
                (unsigned long long)w->pid, fate);
}

/* Of several, one that was killed: the others may have ended because of it. */
static const struct child *dead_child(const struct supervisor *s) {
    const struct child *dead = NULL;
    for (int i = 0; i < s->n_children; i++) {
        const struct child *c = &s->children[i];
        if (!c->pid || !c->ended) continue;
        if (WIFSIGNALED(c->status)) return c;
        if (!dead) dead = c;
    }
    return dead;
}

static int check_children(struct supervisor *s, int64_t now) {
    child_collect(s->children, s->n_children);
    if (s->kind == FLEET_LOCAL && s->state == SERVING) {
        if (s->children[COORDINATOR].ended) return tell_dead_child(s, &s->children[COORDINATOR]);
        struct fleet_options f = describe_fleet(s);
        return crew_tend(&s->crew, &f, now, &s->why);
    }
    const struct worker_process *rank = dead_rank(s);
    if (rank) return tell_dead_rank(s, rank);
    const struct child *child = dead_child(s);
    return child ? tell_dead_child(s, child) : 0;
}

/* 0 when told to stop, negative with why when something went wrong. */
static int watch(struct supervisor *s) {
    while (!s->stops) {
        pause_a_tick(s, s->n_workers);
        int64_t now = clk_now_us();
        int rc = s->stops ? 0 : check_children(s, now);
        if (rc >= 0 && s->state == STARTING && read_endpoints(s)) rc = begin_loading(s);
        if (rc >= 0 && s->state == LOADING && !s->stops) rc = ask_status(s, now);
        if (rc < 0) return rc;
        if (s->state < SERVING && now - s->started_us > s->o->startup * 1000000)
            return fail(&s->why, ERR_DEADLINE, "not serving after %lld s; --startup gives it longer", (long long)s->o->startup);
    }
    return 0;
}

/* ---- ending ---- */
static bool all_ended(struct supervisor *s) {
    child_collect(s->children, s->n_children);
    for (int i = 0; i < s->n_children; i++)
        if (s->children[i].pid && !s->children[i].ended) return false;
    return true;
}

/* As wait_for, for all children. */
static void wait_for_all(struct supervisor *s, int64_t us) {
    int64_t until = clk_now_us() + us;
    int stops = s->stops;
    while (!all_ended(s) && clk_now_us() < until && s->stops == stops) pause_a_tick(s, 0);
}

/* A coordinator that lost a worker notices by itself and tells its clients which one it was; it should have the time. */
static void let_it_tell(struct supervisor *s) {
    int64_t until = clk_now_us() + TELL_US;
    bool told = s->state < LOADING;
    while (!told && !s->stops && !s->children[COORDINATOR].ended && clk_now_us() < until) {
        struct cadre_cluster *c;
        wait_for(s, COORDINATOR, TICK_MS * 1000);
        if (cadre_status(s->client, TICK_MS, &c)) continue;
        told = !strcmp(c->state, "failed") || !strcmp(c->state, "recovering");
        cadre_cluster_free(c);
    }
}

/* Asks, then kills: whatever happened before, nothing of ours is left. The coordinator is asked twice, by two signals that
 * cannot become one: it shall not try to finish requests. */
static void end_all(struct supervisor *s) {
    for (int i = s->n_children - 1; i >= 0; i--) child_signal(&s->children[i], SIGTERM);
    child_signal(&s->children[COORDINATOR], SIGINT);
    wait_for_all(s, END_US);
    for (int i = s->n_children - 1; i >= 0; i--) child_signal(&s->children[i], SIGKILL);
    wait_for_all(s, END_US);
    for (int64_t until = clk_now_us() + END_US; child_kill_strays(s->children, s->n_children) && clk_now_us() < until;)
        child_collect(s->children, s->n_children);
}

/* The coordinator finishes its requests and sends its workers home. True: all went as it should. */
static bool drain(struct supervisor *s) {
    crew_dismiss_newcomers(&s->crew, s->client);
    set_state(s, DRAINING);
    fprintf(stderr, "cadre serve: finishing (at most %lld s; another signal stops at once)\n", (long long)s->o->drain);
    child_signal(&s->children[COORDINATOR], SIGTERM);
    wait_for(s, COORDINATOR, s->o->drain * 1000000);
    if (s->children[COORDINATOR].ended) wait_for_all(s, FOLLOW_US);
    if (!all_ended(s)) {
        bool told = s->stops > 1;
        fprintf(stderr, "cadre serve: %s; stopping what is left\n",
                told ? "told to stop at once" : "not everything finished in time");
        return told;
    }
    char fate[96];
    for (int i = 0; i < s->n_children; i++) {
        const struct child *c = &s->children[i];
        if (!c->pid || child_good(c)) continue;
        fprintf(stderr, "cadre serve: while finishing %s (pid %d) %s\n", c->name, (int)c->pid,
                child_fate(c, fate, sizeof fate));
        return false;
    }
    return true;
}

static void close_all(struct supervisor *s) {
    if (s->state >= LOADING) rank_forget(&s->rank);
    cadre_close(s->client);
    stop_listening(s);
    for (int i = 0; i < s->n_workers; i++) close(s->workers[i].fd);
    if (s->signals >= 0) close(s->signals);
}

static int open_all(struct supervisor *s) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP); /* the terminal went away: no reason to drop what is running */
    sigaddset(&set, SIGUSR1); /* what mpirun passes on to its ranks, and Slurm sends before time is up */
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    s->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (s->signals < 0) return fail(&s->why, ERR_IO, "cannot watch signals: %s", strerror(errno));
    int endpoints[2];
    if (pipe2(endpoints, O_CLOEXEC) < 0) return fail(&s->why, ERR_IO, "cannot make a pipe: %s", strerror(errno));
    s->endpoints = endpoints[0];
    fcntl(s->endpoints, F_SETFL, O_NONBLOCK);
    child_adopt();
    int rc = start_coordinator(s, endpoints[1]);
    close(endpoints[1]);
    return rc;
}

/* One of several ranks, or the only one: what was not said follows from that. */
static int take_role(struct supervisor *s, struct options *o) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    struct rank_options r = {o->rank, o->size, o->launcher, o->endpoint_file, o->control, o->coordinator_node, host};
    bool several = rank_is(&r, boot_environment, NULL);
    if (!o->fabric && !(o->fabric = strdup(several ? "auto" : "mem"))) return fail(&s->why, ERR_NOMEM, "out of memory");
    if (!several && o->coordinator_node)
        return fail(&s->why, ERR_INVALID,
                    "--coordinator-node is for ranks, and neither --rank nor mpirun or srun says that this is one of several; "
                    "start serve where the coordinator shall run");
    if (!several) return rank_alone(&s->rank, o->endpoint_file), o->workers = o->workers < 0 ? 1 : o->workers, 0;
    int rc = rank_find(&r, boot_environment, NULL, &s->rank, &s->why);
    if (rc < 0) return rc;
    s->kind = FLEET_RANK;
    if (o->workers >= 0 && o->workers != s->rank.id.size)
        return fail(&s->why, ERR_INVALID,
                    "--workers %lld, but there are %d ranks (by %s), and each is one worker; leave it out",
                    (long long)o->workers, s->rank.id.size, s->rank.id.from);
    o->workers = s->rank.id.size;
    return 0;
}

static int run(struct options *o, const char *model) {
    struct supervisor s = {.o = o,
                           .model = model,
                           .endpoints = -1,
                           .signals = -1,
                           .started_us = clk_now_us(),
                           .banner.terminal = isatty(STDERR_FILENO),
                           .children = {{.name = "the coordinator"}}};
    int rc = take_role(&s, o);
    struct fleet_options f = describe_fleet(&s);
    if (rc >= 0) rc = fleet_kind(&f, &s.kind, &s.why);
    if (rc < 0) {
        fprintf(stderr, "cadre serve: %s\n", s.why.text);
        return EXIT_USAGE;
    }
    if (s.kind == FLEET_RANK && !s.rank.head) return joiner_run(&s.rank, &f);
    s.far = fleet_is_far(&f, s.kind);
    rank_forget(&s.rank);
    rc = open_all(&s);
    if (rc >= 0) rc = watch(&s);
    banner_break(&s.banner);
    if (rc < 0) fprintf(stderr, "cadre serve: %s\n", s.why.text);
    if (rc == ERR_GONE) let_it_tell(&s);
    bool good = rc >= 0 && drain(&s);
    if (!all_ended(&s)) end_all(&s);
    close_all(&s);
    return good ? EXIT_DONE : EXIT_FAILED;
}

int serve_main(int argc, char **argv) {
    struct options o = {.workers = -1, .rank = -1, .size = -1, .threads = -1, .max_batch = -1, .max_context = -1,
                        .step_tokens = -1, .kv_tokens = -1, .memory = -1};
    struct conf_args args;
    int status;
    if (cli_parse(&command, &o, argc, argv, &args, &status)) status = run(&o, args.items[0]);
    conf_clear(&command, &o, &args);
    return status;
}
