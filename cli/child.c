/* child.c - see child.h. Linux: PR_SET_PDEATHSIG so that nothing survives us, PR_SET_CHILD_SUBREAPER so that grandchildren
 * whose parent died (mpirun's ranks) become ours and can be found, by pid, in /proc. */
#include "cli/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

void child_self(char *path, size_t cap) {
    ssize_t n = readlink("/proc/self/exe", path, cap - 1);
    path[n < 0 ? 0 : n] = 0;
}

void child_find(const char *program, const char *folder, char *path, size_t cap) {
    char self[PATH_MAX];
    child_self(self, sizeof self);
    char *slash = strrchr(self, '/');
    if (slash) {
        *slash = 0;
        snprintf(path, cap, "%s/%s", self, program);
        if (!access(path, X_OK)) return;
        snprintf(path, cap, "%s/../%s/%s", self, folder, program);
        if (!access(path, X_OK)) return;
    }
    snprintf(path, cap, "%s", program);
}

void child_follow_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

void child_with_parent(char *const argv[]) {
    child_follow_parent();
    if (getppid() != 1) execvp(argv[0], argv);
}

void child_deafen(void) {
    static const int asking[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof asking / sizeof asking[0]; i++) signal(asking[i], SIG_IGN);
}

static void become(const struct child *c, char *const argv[], int death_signal, int keep, pid_t parent, int report) {
    sigset_t none;
    sigemptyset(&none);
    prctl(PR_SET_PDEATHSIG, death_signal);
    setpgid(0, 0);
    if (c->deaf) child_deafen();
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        close(null);
    }
    if (keep >= 0) fcntl(keep, F_SETFD, 0);
    if (getppid() == parent) execvp(argv[0], argv);
    int e = errno;
    ssize_t done = write(report, &e, sizeof e);
    (void)done;
    _exit(127);
}

int child_start(struct child *c, char *const argv[], int death_signal, int keep, struct why *why) {
    int report[2], e = 0;
    if (pipe2(report, O_CLOEXEC) < 0) return fail(why, ERR_IO, "cannot start %s: %s", c->name, strerror(errno));
    pid_t self = getpid(), pid = fork();
    if (!pid) become(c, argv, death_signal, keep, self, report[1]);
    if (pid < 0) e = errno;
    close(report[1]);
    /* The pipe closes by itself when exec succeeds; what comes out of it is exec's errno. */
    if (pid > 0 && read(report[0], &e, sizeof e) == sizeof e) waitpid(pid, NULL, 0);
    close(report[0]);
    if (e) return fail(why, ERR_NOT_FOUND, "cannot start %s: %s: %s", c->name, argv[0], strerror(e));
    c->pid = pid;
    c->ended = false;
    return 0;
}

void child_collect(struct child *children, int n) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int i = 0; i < n; i++)
            if (children[i].pid == pid) children[i].ended = true, children[i].status = status;
}

void child_signal(const struct child *c, int signal) {
    if (c->pid && !c->ended) kill(c->pid, signal);
}

const char *child_fate(const struct child *c, char *buf, size_t cap) {
    if (!c->ended) snprintf(buf, cap, "is running");
    else if (WIFSIGNALED(c->status))
        snprintf(buf, cap, "was killed by signal %d (%s)", WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
    else snprintf(buf, cap, "ended with status %d", WEXITSTATUS(c->status));
    return buf;
}

bool child_good(const struct child *c) { return c->ended && WIFEXITED(c->status) && !WEXITSTATUS(c->status); }

void child_adopt(void) { prctl(PR_SET_CHILD_SUBREAPER, 1); }

static pid_t parent_of(pid_t pid) {
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    size_t n = fread(line, 1, sizeof line - 1, f);
    fclose(f);
    line[n] = 0;
    int parent = 0;
    char state, *after = strrchr(line, ')'); /* the name may hold anything */
    return after && sscanf(after + 1, " %c %d", &state, &parent) == 2 ? (pid_t)parent : 0;
}

int child_kill_strays(const struct child *children, int n) {
    DIR *proc = opendir("/proc");
    int found = 0;
    if (!proc) return 0;
    for (struct dirent *d; (d = readdir(proc));) {
        pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
        bool ours = pid > 0 && parent_of(pid) == getpid();
        for (int i = 0; i < n; i++) ours = ours && pid != children[i].pid;
        if (!ours) continue;
        kill(pid, SIGKILL);
        found++;
    }
    closedir(proc);
    return found;
}
