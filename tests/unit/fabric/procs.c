/* procs.c - see procs.h. */
#include "tests/unit/fabric/procs.h"

#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

enum { PATIENCE_US = 60000000 };

pid_t procs_start(struct board *b, procs_main run, int rank, uint32_t incarnation) {
    struct why why = {.text = ""};
    fflush(NULL);
    pid_t pid = fork();
    if (pid) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int rc = run(b, rank, incarnation, &why);
    if (rc < 0) snprintf(b->rank[rank].text, sizeof b->rank[rank].text, "%s: %.400s", status_name(rc), why.text);
    exit(rc < 0); /* not _exit: a sanitizer looks for leaks then */
}

int procs_end(pid_t pid) {
    int status = 0;
    if (waitpid(pid, &status, 0) != pid) return ERR_IO;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : ERR_GONE;
}

int procs_run(procs_main run, int n, struct why *why) {
    struct board *b = board_new();
    pid_t pids[FABRIC_MAX_RANKS];
    int rc = 0;
    if (!b) return fail(why, ERR_NOMEM, "no board");
    for (int i = 0; i < n; i++) pids[i] = procs_start(b, run, i, (uint32_t)i + 1);
    for (int i = 0; i < n; i++)
        if (procs_end(pids[i]) < 0) rc = fail(why, ERR_GONE, "rank %d: %.400s", i, b->rank[i].text);
    board_free(b);
    return rc;
}

int procs_attach(struct board *b, struct fabric *f, int peer, uint32_t above, struct why *why) {
    struct board_rank *r = &b->rank[peer];
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    unsigned char address[FABRIC_ADDRESS_BYTES];
    uint32_t incarnation;
    size_t bytes = 0;
    for (;; sched_yield()) {
        incarnation = atomic_load(&r->incarnation);
        if (incarnation > above) {
            memcpy(address, r->address, sizeof address);
            bytes = r->bytes;
            if (atomic_load(&r->incarnation) == incarnation) break; /* else a successor was writing its own */
        }
        if (clk_now_us() >= deadline_us) return fail(why, ERR_DEADLINE, "rank %d does not show up", peer);
    }
    int rc = fabric_attach(f, peer, incarnation, address, bytes, why);
    return rc < 0 ? rc : (int)incarnation;
}

int procs_meet(struct board *b, struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    int rc = fabric_prepare(f, frame_bytes, incarnation, why);
    if (rc < 0) return rc;
    board_publish(b, f, incarnation);
    for (int peer = 0; peer < f->size && rc >= 0; peer++)
        if (peer != f->rank) rc = procs_attach(b, f, peer, 0, why);
    return rc < 0 ? rc : 0;
}

int procs_await(atomic_long *value, long least, struct fabric *f) {
    int64_t deadline_us = clk_now_us() + PATIENCE_US;
    while (atomic_load(value) < least) {
        if (clk_now_us() >= deadline_us) return ERR_DEADLINE;
        if (f) fabric_poll(f);
        sched_yield();
    }
    return 0;
}

int procs_fds(void) {
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

int64_t procs_cpu_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}
