/* fabric_crew.c - ranks as threads, as processes of this host, and as processes of an MPI world. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/bench/bench_fabric.h"

/* Blocks of rounds by the engine and of the baseline in turn: what else this machine does meets both alike. */
static void measure(struct fabric *f, const struct load *l, struct bare *b, struct row *row) {
    struct rounds *r = rounds_new(f, l);
    int n = bench_rounds(&l->shape);
    for (int block = 0; block < BLOCKS; block++) {
        rounds_run(r, n / BLOCKS, block ? 1 : n / 10 + FABRIC_DEPTH);
        bare_run(b, n / BLOCKS);
    }
    rounds_fill(r, row);
    bare_fill(b, row);
    rounds_free(r);
}

static void prepare(struct fabric *f, const struct shape *s) {
    struct why why;
    if (fabric_prepare(f, rounds_frame_bytes(s), (uint32_t)f->rank + 1, &why) < 0) die("%s", why.text);
}

/* What all ranks of a crew see. */
struct crew {
    struct row row; /* rank 0 writes it */
    size_t address_bytes[FABRIC_MAX_RANKS];
    unsigned char address[FABRIC_MAX_RANKS][FABRIC_ADDRESS_BYTES];
    unsigned char bare_address[FABRIC_MAX_RANKS][BARE_UCX_ADDRESS];
    _Alignas(64) unsigned char commons[];
};

static size_t crew_bytes(const struct shape *s) { return sizeof(struct crew) + bare_commons_bytes(s); }

static struct crew *crew_new(const struct shape *s) {
    void *map = mmap(NULL, crew_bytes(s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) die("out of memory");
    return map;
}

/* ---- threads ---- */

struct member {
    pthread_t thread;
    struct fabric *f;
    const struct shape *shape;
    struct crew *crew;
};

static void *as_thread(void *arg) {
    struct member *m = arg;
    struct load l;
    struct bare b;
    struct row row = {0};
    load_init(&l, m->shape, m->f->rank);
    bare_init(&b, &l);
    bare_by_copies(&b, m->crew->commons);
    measure(m->f, &l, &b, &row);
    if (m->f->rank == 0) m->crew->row = row;
    bare_clear(&b);
    load_clear(&l);
    return NULL;
}

void crew_of_threads(const struct shape *s, struct row *row) {
    struct crew *crew = crew_new(s);
    struct member m[FABRIC_MAX_RANKS];
    struct fabric_hub *hub;
    struct why why;
    if (fabric_hub_new(s->ranks, NULL, &hub, &why) < 0) die("%s", why.text);
    for (int r = 0; r < s->ranks; r++) {
        m[r] = (struct member){.shape = s, .crew = crew};
        if (fabric_mem_open(hub, r, &m[r].f, &why) < 0) die("%s", why.text);
        prepare(m[r].f, s);
        if (pthread_create(&m[r].thread, NULL, as_thread, &m[r])) die("cannot start a thread");
    }
    for (int r = 0; r < s->ranks; r++) pthread_join(m[r].thread, NULL);
    for (int r = 0; r < s->ranks; r++) fabric_close(m[r].f);
    fabric_hub_free(hub);
    *row = crew->row;
    snprintf(row->transport, sizeof row->transport, "mem");
    munmap(crew, crew_bytes(s));
}

/* ---- processes of this host ---- */

static struct fabric *open_transport(const char *transport, int rank, int size) {
    struct fabric *f;
    struct why why;
    int rc = !strcmp(transport, "shm")   ? fabric_shm_open(rank, size, &f, &why)
             : !strcmp(transport, "ucx") ? fabric_ucx_open(rank, size, NULL, &f, &why)
                                         : fabric_auto_open(rank, size, NULL, &f, &why);
    if (rc < 0) die("%s", why.text);
    return f;
}

static void as_process(const char *transport, const struct shape *s, struct crew *crew, int rank) {
    struct fabric *f = open_transport(transport, rank, s->ranks);
    struct load l;
    struct bare b;
    struct row row = {0};
    struct why why;
    bool messages = !strcmp(transport, "ucx");
    load_init(&l, s, rank);
    bare_init(&b, &l);
    crew->address_bytes[rank] = fabric_address(f, crew->address[rank]);
    if (messages) bare_ucx_open(&b, crew->bare_address[rank]);
    bare_meet(crew->commons, s->ranks);
    prepare(f, s);
    for (int r = 0; r < s->ranks; r++)
        if (r != rank && fabric_attach(f, r, (uint32_t)r + 1, crew->address[r], crew->address_bytes[r], &why) < 0)
            die("%s", why.text);
    if (messages) bare_by_messages(&b, crew->bare_address);
    else bare_by_copies(&b, crew->commons);
    measure(f, &l, &b, &row);
    if (rank == 0) crew->row = row;
    bare_meet(crew->commons, s->ranks); /* nobody goes while another may wait for it */
    fabric_close(f);
    if (messages) bare_ucx_close(&b);
}

void crew_of_processes(const char *transport, const struct shape *s, struct row *row) {
    struct crew *crew = crew_new(s);
    pid_t pid[FABRIC_MAX_RANKS];
    int status, bad = 0;
    fflush(stdout);
    for (int r = 0; r < s->ranks; r++) {
        if ((pid[r] = fork()) < 0) die("no process");
        if (pid[r]) continue;
        as_process(transport, s, crew, r);
        _exit(0);
    }
    for (int r = 0; r < s->ranks; r++)
        if (waitpid(pid[r], &status, 0) < 0 || status) bad = 1;
    if (bad) die("a rank of the %s form ended badly", transport);
    *row = crew->row;
    snprintf(row->transport, sizeof row->transport, "%s", transport);
    munmap(crew, crew_bytes(s));
}

/* ---- an MPI world ---- */

static void member(const char *form, const struct shape *s) {
    struct fabric *f;
    struct load l;
    struct bare b;
    struct row row = {0};
    struct why why;
    snprintf(row.transport, sizeof row.transport, "%s", form);
    if ((strcmp(form, "mpi") ? fabric_mpi_alltoallv_open : fabric_mpi_open)(&f, &why) < 0) die("%s", why.text);
    prepare(f, s);
    load_init(&l, s, f->rank);
    bare_init(&b, &l);
    bare_by_alltoallv(&b);
    measure(f, &l, &b, &row);
    if (f->rank == 0 && write(STDOUT_FILENO, &row, sizeof row) != (ssize_t)sizeof row) die("the parent went away");
    fabric_close(f);
    bare_clear(&b);
    load_clear(&l);
}

void crew_member(const struct shape *s) {
    member("mpi", s);
    member("mpi-alltoallv", s);
}

static void exec_mpirun(const char *const *args, int ranks) {
    static char self[4096], np[16];
    const char *argv[48] = {"mpirun",
                            "--allow-run-as-root",
                            "--oversubscribe",
                            "--bind-to",
                            "none",
                            "-np",
                            np,
                            "--timeout",
                            "600",
                            "--mca",
                            "mpi_yield_when_idle",
                            "1",
                            "--mca",
                            "pml",
                            "ob1",
                            "--mca",
                            "btl",
                            "vader,self",
                            "--mca",
                            "btl_vader_single_copy_mechanism",
                            "none",
                            "--mca",
                            "pml_ob1_send_pipeline_depth",
                            "32",
                            self};
    int n = 0;
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    if (len < 0) die("cannot find this program's file");
    self[len] = 0;
    snprintf(np, sizeof np, "%d", ranks);
    while (argv[n]) n++;
    for (int i = 0; args[i]; i++) argv[n++] = args[i];
    execvp("mpirun", (char *const *)argv);
    die("cannot run mpirun");
}

int crew_of_mpirun(const char *const *args, int ranks, struct row *rows, int most) {
    int out[2], n = 0, status;
    fflush(stdout);
    if (pipe(out) < 0) die("no pipe");
    pid_t pid = fork();
    if (pid < 0) die("no process");
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        exec_mpirun(args, ranks);
    }
    close(out[1]);
    FILE *in = fdopen(out[0], "r");
    while (in && n < most && fread(&rows[n], sizeof rows[n], 1, in) == 1) n++;
    if (in) fclose(in);
    if (waitpid(pid, &status, 0) < 0 || status) die("the mpi form ended with %d", status);
    return n;
}
