/* rank.c - see rank.h. */
#include "cli/rank.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- who ---- */
static int64_t count(boot_lookup *lookup, void *ctx, const char *name) {
    const char *text = lookup(ctx, name);
    char *end;
    long long n = text ? strtoll(text, &end, 10) : -1;
    return text && end > text && !*end && n >= 0 && n <= INT32_MAX ? n : -1;
}

static bool by_pmix_or_mpi(const struct boot_id *id) { return !strcmp(id->from, "PMIx") || !strcmp(id->from, "Open MPI"); }

bool rank_is(const struct rank_options *o, boot_lookup *lookup, void *ctx) {
    struct boot_id id;
    struct why ignored;
    if (strcmp(o->launcher, "auto")) return false; /* it shall start the workers itself */
    if (o->rank >= 0 || o->size >= 0) return true;
    if (boot_find(-1, -1, lookup, ctx, &id, &ignored) < 0 || id.size < 2) return false;
    /* A batch script has a SLURM_PROCID as well, and the number of tasks of its job; only steps are told of their own. */
    return strcmp(id.from, "Slurm") || count(lookup, ctx, "SLURM_STEP_NUM_TASKS") == id.size;
}

/* A task of a Slurm step; not a rank of an mpirun in a Slurm job, whose daemons are tasks of a step too. */
static bool is_task(const struct boot_id *id, boot_lookup *lookup, void *ctx) {
    return count(lookup, ctx, "SLURM_PROCID") == id->rank && count(lookup, ctx, "SLURM_STEP_NUM_TASKS") == id->size &&
           !lookup(ctx, "OMPI_COMM_WORLD_SIZE");
}

/* Ranks on this host and which of them this is; -1: not known. */
static void find_locals(const struct rank *r, boot_lookup *lookup, void *ctx, int64_t *mine, int64_t *here) {
    *mine = *here = -1;
    if (!strcmp(r->id.from, "--rank")) return;
    if (count(lookup, ctx, "OMPI_COMM_WORLD_RANK") == r->id.rank && count(lookup, ctx, "OMPI_COMM_WORLD_SIZE") == r->id.size) {
        *mine = count(lookup, ctx, "OMPI_COMM_WORLD_LOCAL_RANK");
        *here = count(lookup, ctx, "OMPI_COMM_WORLD_LOCAL_SIZE");
    } else if (is_task(&r->id, lookup, ctx)) {
        int64_t nodes = count(lookup, ctx, "SLURM_STEP_NUM_NODES");
        *mine = count(lookup, ctx, "SLURM_LOCALID");
        *here = nodes > 0 ? (r->id.size + nodes - 1) / nodes : -1; /* as evenly as Slurm does it */
    } else {
        *mine = count(lookup, ctx, "MPI_LOCALRANKID");
        *here = count(lookup, ctx, "MPI_LOCALNRANKS");
    }
}

static bool same_host(const char *a, const char *b) {
    size_t n = strcspn(a, "."), m = strcspn(b, ".");
    return !strcmp(a, b) || ((!a[n] || !b[m]) && n == m && !strncmp(a, b, n)); /* one of them without its domain */
}

static int find_head(const struct rank_options *o, struct rank *r, int64_t local_rank, struct why *why) {
    r->head = r->id.rank == 0;
    if (!o->coordinator_node) return 0;
    if (local_rank < 0)
        return fail(why, ERR_INVALID,
                    "--coordinator-node: rank %d (by %s) does not know which rank of its host it is; without the option rank 0 "
                    "runs the coordinator",
                    r->id.rank, r->id.from);
    r->head = local_rank == 0 && same_host(o->coordinator_node, o->host);
    return 0;
}

static const char *or_none(const char *text) { return text && *text ? text : "-"; }

/* A namespace is one of a launch; of a job that is queued again, it may be the same. */
static void name_launch(struct rank *r, boot_lookup *lookup, void *ctx) {
    const char *space = lookup(ctx, "PMIX_NAMESPACE"), *step = lookup(ctx, "SLURM_STEP_ID");
    snprintf(r->launch, sizeof r->launch, "%.200s/%.40s.%.40s", or_none(space ? space : step),
             or_none(lookup(ctx, "SLURM_JOB_ID")), or_none(lookup(ctx, "SLURM_RESTART_COUNT")));
    for (char *c = r->launch; *c; c++)
        if (*c <= ' ') *c = '_';
}

/* ---- where ---- */
/* "h[03-05,9],k1" -> "h03", "k1,k2" -> "k1". */
static void first_host(const char *list, char *out, size_t cap) {
    size_t n = strcspn(list, ",["), in = list[n] == '[' ? strcspn(list + n + 1, "-,]") : 0;
    const char *close = in ? strchr(list + n, ']') : NULL;
    size_t after = close ? strcspn(close + 1, ",[") : 0;
    snprintf(out, cap, "%.*s%.*s%.*s", (int)n, list, (int)in, list + n + 1, (int)after, close ? close + 1 : "");
}

static bool is_loopback(const char *control) {
    static const char *const here[] = {"tcp://127.", "tcp://localhost:", "tcp://[::1]:"};
    bool is = false;
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) is |= !strncmp(control, here[i], strlen(here[i]));
    return is;
}

/* tcp://HOST:PORT with a host that others can go to and a port that is known before anybody listens. */
static bool is_fixed(const char *control) {
    const char *port = control ? strrchr(control, ':') : NULL;
    return port && port[1] >= '0' && port[1] <= '9' && strcmp(port, ":0") && strncmp(control, "tcp://*:", 8) &&
           strncmp(control, "tcp://0.0.0.0:", 14) && strncmp(control, "tcp://[::]:", 11);
}

static int port_of(const char *control, const struct rank *r, boot_lookup *lookup, void *ctx) {
    const char *port = control ? strrchr(control, ':') : NULL;
    int64_t given = port ? strtoll(port + 1, NULL, 10) : 0;
    int64_t job = count(lookup, ctx, "SLURM_JOB_ID"), step = count(lookup, ctx, "SLURM_STEP_ID");
    if (given > 0 && given < 65536) return (int)given;
    return job < 0 || !is_task(&r->id, lookup, ctx) ? RANK_PORT : RANK_JOB_PORTS + (int)((job * 8 + step + 1) % 20000);
}

static void address_on(const char *host, int port, struct rank *r) {
    snprintf(r->address, sizeof r->address, "tcp://%.255s:%d", host, port);
    snprintf(r->listen, sizeof r->listen, "tcp://%s:%d", r->one_host ? "127.0.0.1" : "*", port);
}

static int find_place(const struct rank_options *o, struct rank *r, boot_lookup *lookup, void *ctx, struct why *why) {
    const char *folder = lookup(ctx, "PMIX_SERVER_TMPDIR"), *nodes = lookup(ctx, "SLURM_STEP_NODELIST");
    char host[256];
    if (o->control && is_loopback(o->control) && r->here && !r->one_host)
        return fail(why, ERR_INVALID,
                    "--control %.100s: only ranks of its own host can go there, and the %d ranks are on several; give a host's "
                    "name or address, or tcp://*:PORT",
                    o->control, r->id.size);
    if (o->endpoint_file) {
        snprintf(r->file, sizeof r->file, "%s", o->endpoint_file);
    } else if (is_fixed(o->control) && !(r->inner && folder)) {
        snprintf(r->address, sizeof r->address, "%s", o->control);
    } else if (r->one_host && folder && by_pmix_or_mpi(&r->id)) {
        snprintf(r->file, sizeof r->file, "%s/cadre-endpoints", folder);
    } else if (o->coordinator_node) {
        address_on(o->coordinator_node, port_of(o->control, r, lookup, ctx), r);
    } else if (nodes && *nodes && is_task(&r->id, lookup, ctx)) {
        first_host(nodes, host, sizeof host);
        address_on(r->one_host ? "127.0.0.1" : host, port_of(o->control, r, lookup, ctx), r);
    } else {
        return fail(why, ERR_INVALID,
                    "rank %d of %d (by %s) cannot know where rank 0 runs the coordinator: give all ranks --endpoint-file FILE "
                    "on storage that their hosts share, or --control tcp://HOST:PORT, or --coordinator-node HOST",
                    r->id.rank, r->id.size, r->id.from);
    }
    r->tells = r->head && r->file[0];
    return 0;
}

int rank_find(const struct rank_options *o, boot_lookup *lookup, void *ctx, struct rank *out, struct why *why) {
    int64_t local_rank, here;
    *out = (struct rank){.head = false};
    int rc = boot_find(o->rank, o->size, lookup, ctx, &out->id, why);
    if (rc < 0) return rc;
    find_locals(out, lookup, ctx, &local_rank, &here);
    out->here = here > 0 ? (int)here : 0;
    out->one_host = here == out->id.size;
    out->inner = out->one_host && count(lookup, ctx, "OMPI_COMM_WORLD_SIZE") == out->id.size;
    name_launch(out, lookup, ctx);
    rc = find_head(o, out, local_rank, why);
    return rc < 0 ? rc : find_place(o, out, lookup, ctx, why);
}

void rank_alone(struct rank *out, const char *endpoint_file) {
    *out = (struct rank){.id = {0, 1, "--rank"}, .head = true, .launch = "-", .tells = endpoint_file != NULL};
    snprintf(out->file, sizeof out->file, "%s", endpoint_file ? endpoint_file : "");
}

/* ---- telling ---- */
void rank_forget(const struct rank *r) {
    if (r->tells) unlink(r->file);
}

int rank_tell(const struct rank *r, const char *listen, const char *control, struct why *why) {
    char tmp[RANK_PATH + 8];
    if (!r->tells) return 0;
    snprintf(tmp, sizeof tmp, "%s.new", r->file);
    FILE *f = fopen(tmp, "we");
    if (!f) return fail(why, ERR_IO, "cannot write the endpoints to %s: %s", tmp, strerror(errno));
    bool good = fprintf(f, "listen %s\ncontrol %s\nlaunch %s\nhead %d\n", listen, control, r->launch, (int)getpid()) > 0;
    if (fclose(f) || !good || rename(tmp, r->file))
        return fail(why, ERR_IO, "cannot write the endpoints to %s: %s", r->file, strerror(errno));
    return 0;
}

int rank_look(struct rank *r, struct why *why) {
    char control[RANK_TEXT] = "", launch[RANK_TEXT] = "";
    if (r->address[0]) return 1;
    FILE *f = fopen(r->file, "re");
    if (!f) return 0; /* also when a folder is not there yet, or a server of files stands still: the caller has a deadline */
    int pid = 0, n = fscanf(f, "listen %*599s control %599s launch %599s head %d", control, launch, &pid);
    fclose(f);
    if (n < 2)
        return fail(why, ERR_INVALID,
                    "%s is no file of endpoints; wanted lines listen, control, launch as cadre serve writes them", r->file);
    if (strcmp(launch, r->launch)) return 0;
    snprintf(r->address, sizeof r->address, "%s", control);
    r->head_pid = pid;
    return 1;
}
