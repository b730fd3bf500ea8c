/* test_ep_mpi.c - the fabric's contract and the exchange over processes of an MPI world, in the form that is named (mpi or
 * mpi-alltoallv). It runs itself under mpirun, once per number of ranks; with a verb it is one rank. Exits with 77 where MPI is
 * missing. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/world_mpi.h"
#include "tests/unit/fabric/ep_case.h"
#include "tests/unit/fabric/fabric_case.h"
#include "tests/unit/fabric/procs.h"

enum { SKIP = 77, PATIENCE_US = 20000000 };
#define TOLD "all as expected" /* what a rank says at its end: mpirun's status does not tell how survivors of a death fared */

/* Counts what the collective form begins. */
static long collectives;
int MPI_Ialltoall(const void *out, int n_out, MPI_Datatype type_out, void *in, int n_in, MPI_Datatype type_in, MPI_Comm comm,
                  MPI_Request *request) {
    collectives++;
    return PMPI_Ialltoall(out, n_out, type_out, in, n_in, type_in, comm, request);
}

static bool collective; /* the form that is tested */
static int open_form(struct fabric **out, struct why *why) {
    return collective ? fabric_mpi_alltoallv_open(out, why) : fabric_mpi_open(out, why);
}

static const struct ep_limits death_limits = {.max_tokens = 4, .max_slots = 1, .hidden = 2048, .topk = 1};

/* One fabric for all cases: frames of the largest case fit. */
static size_t largest_frame(int ranks) {
    size_t most = 1 << 20; /* far beyond what MPI takes at once */
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct ep_case c;
        ep_case_make(&c, seed, ranks);
        if (ep_frame_bytes(&c.lim, ranks) > most) most = ep_frame_bytes(&c.lim, ranks);
    }
    return most;
}

/* Each in a fabric of its own, whose streams carry nothing of the one before. */
static int run_exchange(uint64_t seed, int rank, int size, struct why *why) {
    struct ep_case c;
    struct fabric *f = NULL;
    struct ep *ep = NULL;
    uint64_t late = 0;
    ep_case_make(&c, seed, size);
    int rc = open_form(&f, why);
    if (rc == 0) rc = fabric_prepare(f, ep_frame_bytes(&c.lim, size), (uint32_t)rank + 1, why);
    if (rc == 0) rc = ep_new(f, &c.lim, &ep, why);
    for (uint64_t step = 0; step < 4 && rc == 0; step++)
        rc = ep_case_step(&c, ep, rank, 1, step, -1, PATIENCE_US, &late, why);
    if (rc == 0 && ep_links_sum(ep_counters(ep)).frames_bad) rc = fail(why, ERR_CORRUPT, "bad frames");
    if (rc < 0) fail_in(why, rc, "seed %d: %s, late %llx", (int)seed, status_name(rc), (unsigned long long)late);
    ep_free(ep);
    if (rc == 0) fabric_close(f);
    return rc;
}

static int run_exchanges(int rank, int size, struct why *why) {
    int rc = 0;
    for (uint64_t seed = 1; seed <= 30 && rc == 0; seed++) rc = run_exchange(seed, rank, size, why);
    return rc;
}

/* When all have flushed and nobody has anything to send, polling exchanges nothing. */
static int run_silence(struct fabric *f, struct why *why) {
    enum { POLLS = 2000 };
    int rc = fabric_flush(f, clk_now_us() + PATIENCE_US);
    if (rc < 0) return fail(why, rc, "the flush of all did not end");
    long before = collectives;
    for (int i = 0; i < POLLS; i++) (void)fabric_poll(f);
    if (collectives != before) return fail(why, ERR_CORRUPT, "%ld rounds about nothing", collectives - before);
    return collective == (before > 0) || f->size == 1 ? 0 : fail(why, ERR_CORRUPT, "%ld rounds", before);
}

/* The last rank dies by SIGKILL in the middle of an exchange; every other one must be told so in time and get away. The
 * collective form cannot tell whose silence it is: everyone misses everyone else. */
static int run_death(struct fabric *f, struct why *why) {
    enum { SHORT_US = 400000 };
    int victim = f->size - 1;
    struct ep *ep;
    struct ep_work work;
    uint64_t late = 0;
    int rc = ep_new(f, &death_limits, &ep, why);
    if (rc < 0) return rc;
    static float x[4 * 2048];
    int16_t worker[4], slot[4] = {0};
    int32_t tokens[FABRIC_MAX_RANKS];
    for (int i = 0; i < 4; i++) worker[i] = (int16_t)(i % f->size);
    for (int i = 0; i < f->size; i++) tokens[i] = 4;
    struct ep_send send = {.tokens = 4, .x = x, .worker = worker, .slot = slot};
    ep_step_begin(ep, 1000, 1, tokens, 1);
    if (f->rank == victim) raise(SIGKILL);
    int64_t start_us = clk_now_us();
    rc = ep_dispatch_post(ep, 0, 0, &send, 1, start_us + SHORT_US);
    if (rc == 0) rc = ep_dispatch_wait(ep, 0, &work, start_us + SHORT_US, &late);
    int64_t took_us = clk_now_us() - start_us;
    uint64_t silent = collective ? (UINT64_C(1) << f->size) - 1 - (UINT64_C(1) << f->rank) : UINT64_C(1) << victim;
    if (rc != ERR_LATE || late != silent)
        return fail(why, ERR_CORRUPT, "after a death: %s, late %llx", status_name(rc), (unsigned long long)late);
    if (took_us < SHORT_US || took_us > SHORT_US + 1000000)
        return fail(why, ERR_CORRUPT, "told after %lld us", (long long)took_us);
    MPI_Comm unmade; /* nor do they meet again */
    struct why said;
    rc = world_dup(&unmade, clk_now_us() + SHORT_US, &said);
    return rc == ERR_DEADLINE ? 0 : fail(why, ERR_CORRUPT, "a new communicator with a dead rank: %s", status_name(rc));
}

/* Rank 0 sends a frame too large for MPI to take at once, flushes, and then calls the fabric no more until rank 1, which has
 * it, writes to a FIFO. Without the flush the frame would never get there: the worker that sleeps between steps. */
static int run_flush(struct fabric *f, const char *fifo, struct why *why) {
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    size_t bytes = f->frame_bytes, got = 0;
    if (f->rank == 0) {
        char byte;
        memset(fabric_reserve(f, 1, bytes), 7, bytes);
        fabric_commit(f, 1, bytes);
        if (fabric_flush(f, deadline_us) < 0) return fail(why, ERR_CORRUPT, "the frame did not get away");
        int fd = open(fifo, O_RDONLY); /* blocks until rank 1 opens it */
        ssize_t n = read(fd, &byte, 1);
        close(fd);
        return n == 1 ? 0 : fail(why, ERR_CORRUPT, "rank 1 gave up");
    }
    const unsigned char *frame = NULL;
    while (f->rank == 1 && !(frame = fabric_take(f, 0, &got)))
        if (fabric_wait(f, deadline_us) < 0) break;
    if (fabric_flush(f, deadline_us) < 0) return fail(why, ERR_CORRUPT, "the flush of all did not end");
    if (f->rank > 1) return 0;
    bool whole = frame && got == bytes && frame[0] == 7 && frame[bytes - 1] == 7;
    int fd = open(fifo, O_WRONLY);
    bool told = !whole || write(fd, "x", 1) == 1;
    close(fd);
    return whole && told ? 0 : fail(why, ERR_CORRUPT, "no frame after the flush");
}

/* Rank 1 stands still, without a call: a flush to it ends at its deadline, and has slept until then. */
static int run_still(struct fabric *f, const char *fifo, struct why *why) {
    enum { STILL_US = 300000 };
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    size_t bytes = 0;
    char byte = 0;
    if (f->rank == 0) {
        memset(fabric_reserve(f, 1, f->frame_bytes), 7, f->frame_bytes);
        fabric_commit(f, 1, f->frame_bytes);
        int64_t busy_us = procs_cpu_us();
        int rc = fabric_flush(f, clk_now_us() + STILL_US);
        busy_us = procs_cpu_us() - busy_us;
        int fd = open(fifo, O_WRONLY);
        bool told = write(fd, "x", 1) == 1;
        close(fd);
        if (rc != ERR_DEADLINE || !told) return fail(why, ERR_CORRUPT, "a flush to who stands still: %s", status_name(rc));
        if (busy_us > STILL_US / 2) return fail(why, ERR_CORRUPT, "a flush was busy for %lld us", (long long)busy_us);
        return fabric_flush(f, deadline_us);
    }
    int fd = open(fifo, O_RDONLY);
    if (read(fd, &byte, 1) != 1) return fail(why, ERR_CORRUPT, "rank 0 gave up");
    close(fd);
    const void *frame = NULL;
    while (!(frame = fabric_take(f, 0, &bytes)))
        if (fabric_wait(f, deadline_us) < 0) return fail(why, ERR_CORRUPT, "the frame did not come");
    fabric_give(f, 0, frame);
    return fabric_flush(f, deadline_us);
}

/* Rank 1 has as many frames as it has buffers, and nothing more is under way. When it gives them back, the next one comes. */
static int run_full(struct fabric *f, struct why *why) {
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    int rc = 0, got = 0;
    for (int i = 0; f->rank == 0 && i < FABRIC_DEPTH && rc == 0; i++) {
        while (!fabric_reserve(f, 1, 1) && rc == 0) rc = fabric_wait(f, deadline_us);
        if (rc == 0) fabric_commit(f, 1, 1);
    }
    if (rc == 0) rc = fabric_flush(f, deadline_us);
    if (rc == 0 && f->rank == 0) {
        while (!fabric_reserve(f, 1, 1) && rc == 0) rc = fabric_wait(f, deadline_us);
        if (rc == 0) fabric_commit(f, 1, 1);
    }
    while (f->rank == 1 && got <= FABRIC_DEPTH && rc == 0) {
        size_t bytes;
        const void *frame = fabric_take(f, 0, &bytes);
        if (frame) fabric_give(f, 0, frame), got++;
        else rc = fabric_wait(f, deadline_us);
    }
    if (rc == 0) rc = fabric_flush(f, deadline_us);
    return rc == 0 ? 0 : fail(why, rc, "%s; %d frames came after all buffers were full", status_name(rc), got);
}

static int run_rank(const char *verb, const char *fifo) {
    struct why why = {0};
    struct fabric *f = NULL;
    int rank, size, rc = fabric_mpi_init(&rank, &size, &why);
    if (rc < 0) {
        fprintf(stderr, "%s\n", why.text);
        return rc == ERR_UNSUPPORTED ? SKIP : 1;
    }
    rc = open_form(&f, &why);
    if (rc == 0) rc = fabric_prepare(f, largest_frame(size), (uint32_t)rank + 1, &why);
    bool death = strcmp(verb, "death") == 0;
    if (rc == 0 && death) rc = run_death(f, &why);
    if (rc == 0 && !strcmp(verb, "flush")) rc = run_full(f, &why);
    if (rc == 0 && !strcmp(verb, "flush")) rc = run_still(f, fifo, &why);
    if (rc == 0 && !strcmp(verb, "flush")) rc = run_flush(f, fifo, &why);
    if (rc == 0 && !strcmp(verb, "exact")) rc = fabric_case_run(f, 7, 100, false, PATIENCE_US, &why);
    if (rc == 0 && !strcmp(verb, "exact")) rc = run_silence(f, &why);
    if (rc == 0 && !strcmp(verb, "exact")) rc = run_exchanges(rank, size, &why);
    if (rc < 0) fprintf(stderr, "rank %d of %d: %s\n", rank, size, why.text);
    bool clean = rc == 0 && !death;
    if (clean) fabric_close(f);
    fabric_mpi_finalize(clean);
    if (rc == 0) printf(TOLD "\n");
    fflush(stdout);
    if (!clean) _exit(rc < 0);
    return 0;
}

static void exec_mpirun(const char *self, const char *ranks, const char *verb, const char *fifo) {
    char dir[64];
    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(fifo, '/') - fifo), fifo);
    execlp("mpirun", "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", ranks, "--timeout", "60",
           "--mca", "mpi_yield_when_idle", "1", "--mca", "pml", "ob1", "--mca", "btl", "vader,self", "--mca",
           "btl_vader_single_copy_mechanism", "none", "--mca", "btl_vader_backing_directory", dir, "--mca",
           "orte_tmpdir_base", dir,
           "--mca", "pml_ob1_send_pipeline_depth", "32", "--mca",
           "orte_enable_recovery", strcmp(verb, "death") == 0 ? "1" : "0", self,
           collective ? "mpi-alltoallv" : "mpi", verb, fifo, (char *)NULL);
    fprintf(stderr, "cannot run mpirun: %s\n", strerror(errno));
    _exit(errno == ENOENT ? SKIP : 1);
}

static int count_told(int fd) {
    FILE *in = fdopen(fd, "r");
    char line[512];
    int told = 0;
    while (in && fgets(line, sizeof line, in)) told += strstr(line, TOLD) != NULL;
    if (in) fclose(in);
    return told;
}

/* 0 when `expected` ranks said that all was as expected; SKIP without mpirun. mpirun ends a run that does not end by itself. */
static int launch(const char *self, const char *ranks, const char *verb, const char *fifo, int expected) {
    int out[2], status;
    fflush(stdout);
    if (pipe(out) < 0) return 1;
    pid_t pid = fork();
    if (pid < 0) return 1;
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        close(out[0]);
        close(out[1]);
        exec_mpirun(self, ranks, verb, fifo);
    }
    close(out[1]);
    int told = count_told(out[0]);
    if (waitpid(pid, &status, 0) < 0) return 1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIP) return SKIP;
    printf("%s on %s ranks: %d of %d as expected\n", verb, ranks, told, expected);
    bool ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return told == expected && ended_well ? 0 : 1;
}

/* What ranks that were killed had open stays, so all of it is in a folder of ours. */
static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at) {
    (void)st, (void)kind, (void)at;
    return remove(path);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: test_ep_mpi mpi|mpi-alltoallv\n");
        return 2;
    }
    collective = !strcmp(argv[1], "mpi-alltoallv");
    if (argc > 3) return run_rank(argv[2], argv[3]);
    char dir[] = "/dev/shm/cadre-test-XXXXXX", fifo[sizeof dir + 8];
    if (access("/dev/shm", W_OK) < 0) memcpy(dir, "/var/tmp", 8); /* as long */
    if (!mkdtemp(dir)) return 1;
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    int rc = mkfifo(fifo, 0600) < 0;
    if (rc == 0) rc = launch(argv[0], "1", "exact", fifo, 1);
    if (rc == 0) rc = launch(argv[0], "2", "exact", fifo, 2);
    if (rc == 0) rc = launch(argv[0], "4", "exact", fifo, 4);
    if (rc == 0) rc = launch(argv[0], "2", "flush", fifo, 2);
    if (rc == 0) rc = launch(argv[0], "4", "death", fifo, 3);
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return rc;
}
