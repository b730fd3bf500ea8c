/* procs.c - see procs.h. */
#include "tests/unit/fabric/procs.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"

enum { PATIENCE_US = 60000000 };

struct procs *procs_new(void) {
    void *p = mmap(NULL, sizeof(struct procs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void procs_free(struct procs *p) { munmap(p, sizeof *p); }

pid_t procs_start(struct procs *p, procs_main run, int rank, uint32_t incarnation) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that is killed takes its ranks along */
    int rc = run(p, rank, incarnation);
    exit(rc < 0 ? 1 : 0); /* with the checks of a sanitizer */
}

int procs_end(pid_t pid) {
    int status = 0;
    if (waitpid(pid, &status, 0) != pid) return ERR_IO;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : ERR_GONE;
}

int procs_run(struct procs *p, procs_main run, int n) {
    pid_t pids[FABRIC_MAX_RANKS];
    int rc = 0;
    for (int i = 0; i < n; i++) pids[i] = procs_start(p, run, i, (uint32_t)i + 1);
    for (int i = 0; i < n; i++)
        if (procs_end(pids[i]) < 0) rc = ERR_GONE;
    return rc;
}

void procs_show(struct procs *p, struct fabric *f, uint32_t incarnation) {
    struct procs_rank *r = &p->ranks[f->rank];
    r->bytes = fabric_address(f, r->address);
    atomic_store(&r->incarnation, incarnation);
}

int procs_attach(struct procs *p, struct fabric *f, int peer, uint32_t above, struct why *why) {
    struct procs_rank *r = &p->ranks[peer];
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    uint32_t incarnation;
    while ((incarnation = atomic_load(&r->incarnation)) <= above) {
        if (clk_now_us() >= deadline_us) return fail(why, ERR_DEADLINE, "rank %d does not show up", peer);
        sched_yield();
    }
    int rc = fabric_attach(f, peer, incarnation, r->address, r->bytes, why);
    return rc < 0 ? rc : (int)incarnation;
}

int procs_meet(struct procs *p, struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    int rc = fabric_prepare(f, frame_bytes, incarnation, why);
    if (rc < 0) return rc;
    procs_show(p, f, incarnation);
    for (int peer = 0; peer < f->size && rc >= 0; peer++)
        if (peer != f->rank) rc = procs_attach(p, f, peer, 0, why);
    return rc < 0 ? rc : 0;
}

int procs_await(atomic_int *mark, int value, struct fabric *f) {
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    while (atomic_load(mark) < value) {
        if (clk_now_us() >= deadline_us) return ERR_DEADLINE;
        if (f) fabric_poll(f);
        sched_yield();
    }
    return 0;
}

int procs_fail(struct procs *p, int rank, int rc, const struct why *why) {
    if (rc < 0) snprintf(p->text, sizeof p->text, "rank %d: %s: %s", rank, status_name(rc), why->text);
    return rc;
}

int procs_count_fds(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n - 3; /* ".", "..", and the listing itself */
}

long procs_resident_kib(void) {
    char text[128] = "";
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return -1;
    if (!fgets(text, sizeof text, file)) text[0] = '\0';
    fclose(file);
    char *space = strchr(text, ' ');
    return space ? strtol(space, NULL, 10) * (sysconf(_SC_PAGESIZE) / 1024) : -1;
}
