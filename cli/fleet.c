/* fleet.c - command lines of workers and launchers. */
#include "cli/fleet.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/argv.h"
#include "cli/cli.h"
#include "cli/tend.h"
#include "fabric/boot.h"

int fleet_slurm_nodes(void) {
    const char *job = boot_environment(NULL, "SLURM_JOB_ID"), *nodes = boot_environment(NULL, "SLURM_JOB_NUM_NODES");
    return job && nodes ? (int)strtol(nodes, NULL, 10) : 0;
}

bool fleet_is_world(const struct fleet_options *o) { return !strncmp(o->fabric, "mpi", 3); } /* in either form */

static bool shm_apart(const struct fleet_options *o) {
    return !strcmp(o->fabric, "shm") && o->rank->here && !o->rank->one_host;
}

int fleet_kind(const struct fleet_options *o, enum fleet_kind *out, struct why *why) {
    bool mem = !strcmp(o->fabric, "mem"), shm = !strcmp(o->fabric, "shm"), mpi = fleet_is_world(o);
    bool local = !strcmp(o->launcher, "local"), mpirun = !strcmp(o->launcher, "mpirun"), srun = !strcmp(o->launcher, "srun");
    if ((mem || shm) && (o->hosts || srun))
        return fail(why, ERR_INVALID, "--fabric %s stays on one host; with --%s use --fabric auto, ucx or mpi", o->fabric,
                    o->hosts ? "hosts" : "launcher srun");
    if (o->hosts && (local || srun))
        return fail(why, ERR_INVALID, "--launcher %s takes no --hosts: %s", o->launcher,
                    local ? "it starts the workers here" : "Slurm has chosen them");
    if ((mpi && local) || (mem && mpirun))
        return fail(why, ERR_INVALID, "--fabric %s needs %s", o->fabric,
                    mem ? "no launcher: its workers are threads of one process" : "a launcher: --launcher mpirun or srun");
    if (o->rank && (mem || o->hosts))
        return fail(why, ERR_INVALID,
                    "%s: this is rank %d of %d (by %s), and each rank is one worker; use --fabric auto, shm, ucx or mpi",
                    mem ? "--fabric mem runs all workers in one process" : "--hosts starts workers", o->rank->id.rank,
                    o->rank->id.size, o->rank->id.from);
    if (o->rank && shm_apart(o))
        return fail(why, ERR_INVALID, "--fabric shm stays on one host, and not all of the %d ranks are on this one; use auto",
                    o->rank->id.size);
    if (o->rank) *out = mpi && o->rank->inner && o->rank->file[0] && o->nodes < 2 ? FLEET_MPIRUN : FLEET_RANK;
    else if (mem) *out = FLEET_THREADS;
    else if (srun) *out = FLEET_SRUN;
    else if (mpi || mpirun || o->hosts) *out = FLEET_MPIRUN;
    else if (!shm && !local && o->nodes > 1) *out = FLEET_SRUN;
    else *out = FLEET_LOCAL;
    return 0;
}

static bool is_said_by_mpirun(const char *name) {
    static const char *const begin[] = {"PMIX_",        "PMI_",          "OMPI_MCA_orte_",
                                        "OMPI_MCA_ess", "OMPI_MCA_pmix", "OMPI_MCA_initial_wdir="};
    for (size_t i = 0; i < sizeof begin / sizeof *begin; i++)
        if (!strncmp(name, begin[i], strlen(begin[i]))) return true;
    return !strncmp(name, "OMPI_", 5) && strncmp(name, "OMPI_MCA_", 9); /* the rest of those are the site's settings */
}

void fleet_leave_launch(void) {
    char **to = environ;
    for (char **e = environ; e && *e; e++)
        if (!is_said_by_mpirun(*e)) *to++ = *e;
    if (to) *to = NULL;
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    if (sched_setaffinity(0, sizeof all, &all) < 0) log_warn("cannot use more cores than mpirun gave to this rank: %m");
}

bool fleet_is_far(const struct fleet_options *o, enum fleet_kind kind) {
    if (kind == FLEET_RANK) return !o->rank->one_host && strcmp(o->fabric, "shm");
    bool here = !strcmp(o->fabric, "shm") || kind == FLEET_THREADS || kind == FLEET_LOCAL;
    return !here && (o->hosts || o->nodes > 1 || kind == FLEET_SRUN); /* mpirun too spreads over the nodes of a job */
}

/* Hosts in "a:2,b,c:2". */
static int64_t count_hosts(const char *hosts) {
    int64_t n = 1;
    for (; *hosts; hosts++) n += *hosts == ',';
    return n;
}

static int64_t threads_per_worker(const struct fleet_options *o, enum fleet_kind kind) {
    cpu_set_t set;
    if (o->threads > 0) return o->threads;
    int64_t cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (kind == FLEET_RANK && cpus < sysconf(_SC_NPROCESSORS_ONLN)) return cpus; /* the launcher gave us ours */
    int64_t hosts = o->hosts ? count_hosts(o->hosts) : fleet_is_far(o, kind) ? o->nodes : 1;
    int64_t here = hosts > 0 ? (o->workers + hosts - 1) / hosts : o->workers; /* all hosts are taken to be alike */
    if (kind == FLEET_RANK && o->rank->here) here = o->rank->here;
    return cpus > here ? cpus / here : 1;
}

static void add_setting(struct argv *a, const char *name, const char *value) {
    argv_add(a, "--mca");
    argv_add_text(a, name, value);
}

/* mpirun as needed here: root allowed if that is who we are, more ranks than cores, no binding (workers have threads), and
 * yielding while waiting, which it would otherwise do only when it notices that there are too few cores. How it reaches other
 * hosts, and over which network, is for the site to say in its own settings (OMPI_MCA_plm_rsh_agent, ...). */
static void add_mpirun(struct argv *a, const struct fleet_options *o, bool found) {
    bool mpi = fleet_is_world(o), far = fleet_is_far(o, FLEET_MPIRUN);
    argv_add(a, "mpirun");
    argv_add_number(a, "-np", o->workers);
    argv_add_text(a, "--host", o->hosts);
    if (geteuid() == 0) argv_add(a, "--allow-run-as-root");
    if (found) argv_add(a, "--quiet"); /* we say what happened; mpirun alone knows about a worker that cannot be found */
    if (!far) argv_add(a, "--oversubscribe");
    argv_add_text(a, "--bind-to", "none");
    if (!mpi) argv_add(a, "--enable-recovery"); /* a rank that is lost is not the others' end */
    if (!mpi) return;
    add_setting(a, "mpi_yield_when_idle", "1");
    add_setting(a, "pml", "ob1");
    add_setting(a, "btl", far ? "vader,tcp,self" : "vader,self");
    add_setting(a, "btl_vader_single_copy_mechanism", "none");
    add_setting(a, "pml_ob1_send_pipeline_depth", "32"); /* the default moves large frames in tiny sips: fabric_mpi.c */
}

/* Only of an MPI world one that dies takes the others with it; slurmstepd sees to those whose srun is gone. */
static void add_srun(struct argv *a, const struct fleet_options *o) {
    argv_add(a, "srun");
    argv_add_number(a, "--ntasks", o->workers);
    argv_add(a, fleet_is_world(o) ? "--kill-on-bad-exit=1" : "--kill-on-bad-exit=0");
    argv_add(a, "--wait=0");
    argv_add(a, "--cpu-bind=none");
    argv_add(a, "--overlap"); /* beside the step that we may be ourselves */
    argv_add(a, fleet_is_world(o) ? "--mpi=pmix" : "--mpi=none");
}

static void add_worker(struct argv *a, const struct fleet_options *o, enum fleet_kind kind, const char *program) {
    argv_add(a, program);
    argv_add_text(a, "--fabric", o->fabric);
    argv_add_text(a, "--connect", o->control);
    argv_add_text(a, "--key", o->key);
    argv_add_text(a, "--net-devices", o->net_devices);
    argv_add_number(a, "--hold", o->hold);
    if (kind == FLEET_THREADS) argv_add_number(a, "--workers", o->workers);
    argv_add_number(a, "--threads", threads_per_worker(o, kind));
    argv_add_text(a, "--log-level", o->log_level);
}

/* What add_mpirun says on its command line, where somebody else started mpirun or srun and has not said it. */
static void set_mpi(void) {
    static char yield[] = "OMPI_MCA_mpi_yield_when_idle=1", pml[] = "OMPI_MCA_pml=ob1",
                copies[] = "OMPI_MCA_btl_vader_single_copy_mechanism=none", depth[] = "OMPI_MCA_pml_ob1_send_pipeline_depth=32";
    char *const all[] = {yield, pml, copies, depth};
    char name[64];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(all[i], "="), all[i]);
        if (!boot_environment(NULL, name)) putenv(all[i]);
    }
}

/* Of an MPI world MPI knows who is who. */
static void describe_own(struct argv *a, const struct fleet_options *o, const char *program) {
    add_worker(a, o, FLEET_RANK, program);
    if (fleet_is_world(o)) set_mpi();
    else argv_add_number(a, "--rank", o->rank->id.rank), argv_add_number(a, "--size", o->rank->id.size);
}

static void find_worker(char *program, size_t cap) { child_find("cadre-worker", "worker", program, cap); }

int fleet_keep(const struct fleet_options *o) {
    struct argv a = {.n = 0};
    char program[4096], name[32];
    find_worker(program, sizeof program);
    describe_own(&a, o, program);
    snprintf(name, sizeof name, "worker rank %d", o->rank->id.rank);
    if (!fleet_is_world(o)) return tend_run(name, o->control, a.words);
    child_deafen();
    execvp(program, a.words);
    fprintf(stderr, "cadre serve: cannot start %s: %s: %s\n", name, program, strerror(errno));
    return EXIT_FAILED;
}

static int start_local(const struct fleet_options *o, int rank, struct child *child, struct why *why) {
    struct argv a = {.n = 0};
    char program[4096];
    find_worker(program, sizeof program);
    add_worker(&a, o, FLEET_LOCAL, program);
    argv_add_number(&a, "--rank", rank);
    argv_add_number(&a, "--size", o->ranks);
    snprintf(child->name, sizeof child->name, "worker rank %d", rank);
    return child_start(child, a.words, SIGKILL, -1, why);
}

static int start_own(const struct fleet_options *o, struct child *child, struct why *why) {
    struct argv a = {.n = 0};
    char program[4096];
    find_worker(program, sizeof program);
    describe_own(&a, o, program);
    snprintf(child->name, sizeof child->name, "worker rank %d", o->rank->id.rank);
    child->deaf = true;
    return child_start(child, a.words, SIGKILL, -1, why);
}

static int start_threads(const struct fleet_options *o, struct child *child, struct why *why) {
    struct argv a = {.n = 0};
    char program[4096];
    find_worker(program, sizeof program);
    add_worker(&a, o, FLEET_THREADS, program);
    snprintf(child->name, sizeof child->name, "the worker process");
    return child_start(child, a.words, SIGKILL, -1, why);
}

/* mpirun's ranks shall end with it; slurmstepd sees to srun's. */
static int start_launcher(const struct fleet_options *o, enum fleet_kind kind, struct child *child, struct why *why) {
    struct argv a = {.n = 0};
    char program[4096], self[4096];
    bool mpirun = kind == FLEET_MPIRUN;
    find_worker(program, sizeof program);
    child_self(self, sizeof self);
    if (mpirun) add_mpirun(&a, o, strchr(program, '/') != NULL);
    else add_srun(&a, o);
    bool world = fleet_is_world(o);
    if (mpirun || !world) argv_add(&a, self), argv_add(&a, world ? "with-parent" : "tend");
    if (!world) argv_add(&a, o->control);
    add_worker(&a, o, kind, program);
    snprintf(child->name, sizeof child->name, "%s", mpirun ? "mpirun" : "srun");
    return child_start(child, a.words, SIGTERM, -1, why);
}

int fleet_count(const struct fleet_options *o, enum fleet_kind kind) { return kind == FLEET_LOCAL ? (int)o->workers : 1; }

int fleet_start_one(const struct fleet_options *o, enum fleet_kind kind, int i, struct child *child, struct why *why) {
    switch (kind) {
    case FLEET_LOCAL: return start_local(o, i, child, why);
    case FLEET_RANK: return start_own(o, child, why);
    case FLEET_THREADS: return start_threads(o, child, why);
    case FLEET_MPIRUN:
    case FLEET_SRUN: return start_launcher(o, kind, child, why);
    }
    BUG("a fleet of kind %d", (int)kind);
}
