/* serve.c - `cadre serve`: a supervisor. Starts a coordinator here (cli/head.h) and its workers (cli/fleet.h), shows how they
 * load, keeps workers going, and sees to it that all end together.
 *
 *   STARTING --endpoints known--> LOADING --state "serving"--> SERVING --signal--> DRAINING --all ended--> exit 0
 *       \_________________________/____________________________/___ who cannot be replaced ended: stop the rest, exit 1
 *
 * Workers may die: the coordinator goes on with the others, or waits for all to come again where they stand and fall together
 * (an MPI world, threads of one process), and another is started, unless they die again and again (cli/crew.h). One that ends
 * by itself while it loads has said why, and would again. With a journal the coordinator may die as well: workers wait for the
 * next one, which comes to the same endpoints.
 *
 * It talks to the coordinator like any other client. Settings of the model go to the coordinator only, which hands them to the
 * workers; this machine's (threads) go to the workers. Everything waits in one place: a poll on the signals, the coordinator's
 * pipe, and a short timeout. */
#include "base/clk.h"
#include "base/log.h"
#include "cli/banner.h"
#include "cli/crew.h"
#include "cli/fleet.h"
#include "cli/head.h"
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
    TELL_US = 2000000,   /* for the coordinator to notice a death */
    ALONE_US = 5000000,  /* a launcher, when its last worker has gone */
    END_US = 2000000,    /* from asking a child to end to killing it */
    FOLLOW_US = 5000000, /* workers, after the coordinator drained */
};

enum state { STARTING, LOADING, SERVING, DRAINING };
enum { COORDINATOR, FLEET, CHILDREN = FLEET + FLEET_MOST };
struct supervisor {
    const struct serve_options *o;
    const char *model;
    enum state state;
    enum fleet_kind kind;
    struct rank rank; /* FLEET_RANK: who we are */
    bool far; /* workers elsewhere must be able to reach the coordinator */
    struct child children[CHILDREN]; /* the coordinator, then what fleet_start started */
    int n_children;
    struct crew crew; /* the same, but for the coordinator */
    struct banner banner;
    struct cadre_client *client;
    struct head head;
    char workers_go_to[600];
    bool recover;   /* of a worker's death; with a journal, of the coordinator's as well */
    struct revive revive; /* of the coordinator */
    int64_t head_due_us;  /* another is started then; 0: it runs */
    pid_t seen;       /* a launcher whose workers have come */
    int64_t alone_us; /* when somebody of it was there last */
    int signals;    /* signalfd */
    int stops;      /* SIGINT and SIGTERM so far */
    int64_t started_us, asked_us;
    struct why why; /* of a failure, for the last line */
};

static void set_state(struct supervisor *s, enum state to) {
    if (to <= s->state) BUG("serve: state %d to %d", (int)s->state, (int)to);
    s->state = to;
}

/* ---- starting ---- */
static const char *where_workers_come(const struct supervisor *s) {
    if (s->o->control) return s->o->control;
    if (s->rank.listen[0]) return s->rank.listen;
    return s->far ? "tcp://*:*" : "tcp://127.0.0.1:*";
}

/* A wildcard is where to listen, not where to go: that is `host`. */
static void endpoint_at(const char *host, const char *listen, char *out, size_t cap) {
    static const char *const any[] = {"tcp://0.0.0.0:", "tcp://*:", "tcp://[::]:"};
    snprintf(out, cap, "%s", listen);
    for (size_t i = 0; i < 3; i++)
        if (!strncmp(listen, any[i], strlen(any[i]))) snprintf(out, cap, "tcp://%s:%s", host, listen + strlen(any[i]));
}

/* The journal is what a coordinator comes back with; ranks of a launcher end with theirs. */
static bool head_returns(const struct supervisor *s) {
    return s->recover && s->o->journal && (s->kind == FLEET_LOCAL || s->kind == FLEET_THREADS);
}

static struct fleet_options describe_fleet(const struct supervisor *s) {
    const struct serve_options *o = s->o;
    return (struct fleet_options){.fabric = o->fabric,
                                  .launcher = o->launcher,
                                  .hosts = o->hosts,
                                  .control = s->workers_go_to,
                                  .key = o->key,
                                  .net_devices = o->net_devices,
                                  .log_level = o->log_level,
                                  .workers = o->workers,
                                  .hold = head_returns(s) ? o->hold : 0,
                                  .ranks = o->max_workers > 0 ? o->max_workers : o->workers,
                                  .threads = o->threads,
                                  .rank = s->kind == FLEET_RANK ? &s->rank : NULL,
                                  .nodes = fleet_slurm_nodes()};
}

/* For other ranks, scripts and clients elsewhere. */
static int tell_endpoints(struct supervisor *s, const char *host) {
    char listen[600];
    endpoint_at(host, s->head.listen, listen, sizeof listen);
    return rank_tell(&s->rank, listen, s->workers_go_to, &s->why);
}

static int start_fleet(struct supervisor *s) {
    struct fleet_options f = describe_fleet(s);
    char host[256] = "127.0.0.1";
    if (s->far) gethostname(host, sizeof host - 1);
    endpoint_at(host, s->head.control, s->workers_go_to, sizeof s->workers_go_to);
    int rc = tell_endpoints(s, host);
    if (rc < 0) return rc;
    s->crew = (struct crew){.workers = &s->children[FLEET], .n = fleet_count(&f, s->kind), .kind = s->kind};
    for (int i = 0; rc >= 0 && i < s->crew.n; i++) {
        rc = fleet_start_one(&f, s->kind, i, &s->children[FLEET + i], &s->why);
        s->n_children = FLEET + i + 1;
    }
    return rc;
}

static int begin_loading(struct supervisor *s) {
    char endpoint[300];
    int rc = start_fleet(s);
    if (rc < 0) return rc;
    endpoint_at("127.0.0.1", s->head.listen, endpoint, sizeof endpoint);
    struct cadre_options options = {.key_file = s->o->key};
    if (cadre_open(endpoint, &options, &s->client)) return fail(&s->why, ERR_IO, "%s", cadre_error(s->client));
    set_state(s, LOADING);
    return 0;
}

/* ---- watching ---- */
static int look_at(struct supervisor *s, const struct cadre_cluster *c) {
    if (!strcmp(c->state, "failed")) return fail(&s->why, ERR_IO, "%s", c->reason);
    if (!strcmp(c->state, "loading")) return banner_progress(&s->banner, c), 0;
    if (strcmp(c->state, "serving")) return 0;
    banner_progress(&s->banner, c);
    banner_break(&s->banner);
    banner_serving(c);
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

static bool is_launcher(const struct supervisor *s) { return s->kind == FLEET_MPIRUN || s->kind == FLEET_SRUN; }

static bool has_worker(const struct cadre_cluster *c) {
    static const char *const alive[] = {"connected", "loading", "ready", "suspect"};
    for (size_t i = 0; i < c->n_workers; i++)
        for (size_t j = 0; j < sizeof alive / sizeof *alive; j++)
            if (!strcmp(c->workers[i].state, alive[j])) return true;
    return false;
}

/* mpirun waits for ever for a host that it cannot reach any more, while none of its workers is left. */
static void watch_launcher(struct supervisor *s, int64_t now) {
    struct child *launcher = &s->children[FLEET];
    struct cadre_cluster *c;
    if (s->state != SERVING || !s->recover || !is_launcher(s) || !launcher->pid) return;
    if (now - s->asked_us < ALONE_US / 5 || cadre_status(s->client, STATUS_MS, &c)) return;
    bool has = has_worker(c);
    cadre_cluster_free(c);
    s->asked_us = now;
    if (has) s->seen = launcher->pid;
    if (has || s->seen != launcher->pid) s->alone_us = now;
    if (now - s->alone_us < ALONE_US) return;
    fprintf(stderr, "cadre serve: %s (pid %d) has no workers any more and does not end\n", launcher->name, (int)launcher->pid);
    child_signal(launcher, SIGKILL);
    s->alone_us = now;
}

static void take_signals(struct supervisor *s) {
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD) s->stops++;
}

/* Until a signal (SIGCHLD among them), the coordinator's endpoints, or the tick. */
static void pause_a_tick(struct supervisor *s) {
    struct pollfd p[] = {{.fd = s->signals, .events = POLLIN}, {.fd = s->head.fd, .events = POLLIN}};
    poll(p, 2, TICK_MS);
    take_signals(s);
}

/* Waits until the child ended, `us` have passed, or a further stop signal came. */
static void wait_for(struct supervisor *s, int which, int64_t us) {
    int64_t until = clk_now_us() + us;
    int stops = s->stops;
    while (s->children[which].pid && !s->children[which].ended && clk_now_us() < until && s->stops == stops) {
        pause_a_tick(s);
        child_collect(s->children, s->n_children);
    }
}

static int tell_dead_child(struct supervisor *s, const struct child *c) {
    char fate[96];
    return fail(&s->why, ERR_GONE, "%s (pid %d) %s", c->name, (int)c->pid, child_fate(c, fate, sizeof fate));
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

static int start_head(struct supervisor *s, const char *listen, const char *control) {
    struct head_options ho = {.o = s->o,
                              .model = s->model,
                              .listen = listen,
                              .control = control,
                              .rank = s->rank.id.size > 1,
                              .recover = s->recover};
    return head_open(&s->head, &s->children[COORDINATOR], &ho, &s->why);
}

static int tend_head(struct supervisor *s, int64_t now) {
    struct child *c = &s->children[COORDINATOR];
    char fate[96], then[128], listen[sizeof s->head.listen], control[sizeof s->head.control];
    if (c->pid && c->ended) {
        if (!head_returns(s) || s->state != SERVING) return tell_dead_child(s, c);
        int64_t wait = revive_after(&s->revive, now);
        if (wait < 0) return tell_dead_child(s, c);
        fprintf(stderr, "cadre serve: %s (pid %d) %s; %s\n", c->name, (int)c->pid, child_fate(c, fate, sizeof fate),
                revive_say(wait, then, sizeof then));
        c->pid = 0;
        s->head_due_us = now + wait;
    }
    head_told(&s->head);
    if (!s->head_due_us || now < s->head_due_us) return 0;
    s->head_due_us = 0;
    memcpy(listen, s->head.listen, sizeof listen);
    memcpy(control, s->head.control, sizeof control);
    head_close(&s->head);
    int rc = start_head(s, listen, control);
    if (rc >= 0) memcpy(s->head.listen, listen, sizeof listen), memcpy(s->head.control, control, sizeof control);
    return rc;
}

static int check_children(struct supervisor *s, int64_t now) {
    child_collect(s->children, s->n_children);
    if (s->recover && s->state > STARTING) {
        int rc = tend_head(s, now);
        if (rc < 0) return rc;
        struct fleet_options f = describe_fleet(s);
        return crew_tend(&s->crew, &f, s->state < SERVING, now, &s->why);
    }
    const struct child *child = dead_child(s);
    return child ? tell_dead_child(s, child) : 0;
}

/* 0 when told to stop, negative with why when something went wrong. */
static int watch(struct supervisor *s) {
    while (!s->stops) {
        pause_a_tick(s);
        int64_t now = clk_now_us();
        int rc = s->stops ? 0 : check_children(s, now);
        if (rc >= 0 && s->state == STARTING && head_told(&s->head)) rc = begin_loading(s);
        if (rc >= 0 && s->state == LOADING && !s->stops) rc = ask_status(s, now);
        if (rc >= 0 && !s->stops) watch_launcher(s, now);
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
    while (!all_ended(s) && clk_now_us() < until && s->stops == stops) pause_a_tick(s);
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
    bool newcomers = s->crew.revived; /* whom the coordinator never took in */
    if (s->recover && (is_launcher(s) || newcomers) && child_good(&s->children[COORDINATOR]) && !all_ended(s)) end_all(s);
    if (!all_ended(s)) {
        bool told = s->stops > 1;
        fprintf(stderr, "cadre serve: %s; stopping what is left\n",
                told ? "told to stop at once" : "not everything finished in time");
        return told;
    }
    bool good = true;
    for (int i = 0; i < s->n_children; i++) {
        const struct child *c = &s->children[i];
        char fate[96];
        if (!c->pid || child_good(c)) continue;
        good = good && s->recover && i != COORDINATOR; /* the others went on; whether they could, the coordinator says */
        fprintf(stderr, "cadre serve: while finishing %s (pid %d) %s\n", c->name, (int)c->pid,
                child_fate(c, fate, sizeof fate));
    }
    return good;
}

static void close_all(struct supervisor *s) {
    if (s->state >= LOADING) rank_forget(&s->rank);
    cadre_close(s->client);
    head_close(&s->head);
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
    child_adopt();
    s->n_children = 1;
    return start_head(s, s->o->listen, where_workers_come(s));
}

/* One of several ranks, or the only one: what was not said follows from that. */
static int take_role(struct supervisor *s, struct serve_options *o) {
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

static int run(struct serve_options *o, const char *model) {
    struct supervisor s = {.o = o,
                           .model = model,
                           .head.fd = -1,
                           .signals = -1,
                           .started_us = clk_now_us(),
                           .banner.terminal = isatty(STDERR_FILENO),
                           .children = {{.name = "the coordinator"}}};
    int rc = take_role(&s, o);
    struct fleet_options f = describe_fleet(&s);
    if (rc >= 0) rc = fleet_kind(&f, &s.kind, &s.why);
    if (rc >= 0 && o->max_workers > 0 && (o->max_workers < o->workers || s.kind != FLEET_LOCAL))
        rc = fail(&s.why, ERR_INVALID,
                  "--max-workers %lld: no fewer than --workers, and with a fabric that others can join (shm, ucx, auto) and no "
                  "launcher",
                  (long long)o->max_workers);
    if (rc < 0) {
        fprintf(stderr, "cadre serve: %s\n", s.why.text);
        return EXIT_USAGE;
    }
    if (!s.rank.head) return s.kind == FLEET_RANK ? joiner_run(&s.rank, &f) : joiner_wait(&s.rank);
    if (s.rank.id.size > 1 && s.kind != FLEET_RANK) fleet_leave_launch();
    s.far = fleet_is_far(&f, s.kind);
    s.recover = !strcmp(o->on_death, "recover") && !(s.kind == FLEET_RANK && fleet_is_world(&f));
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
    struct serve_options o = {.workers = -1, .rank = -1, .size = -1, .threads = -1, .max_batch = -1, .max_context = -1,
                        .step_tokens = -1, .kv_tokens = -1, .memory = -1, .max_workers = -1};
    struct conf_args args;
    int status;
    if (cli_parse(&serve_command, &o, argc, argv, &args, &status)) status = run(&o, args.items[0]);
    conf_clear(&serve_command, &o, &args);
    return status;
}
