/* chaos_lab.c - see chaos_lab.h. A socket stays in the network it was made in, wherever its owner goes. */
#include "tests/multi/chaos_lab.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clk.h"

enum {
    FIRST_ADDRESS = (10 << 24) + (77 << 16) + 10, /* of h0, as netlab has it */
    REACH_US = 20000000
};
static const char *const spaces[] = {"net", "uts", "ipc", "mnt"}; /* files last: /proc is still ours until then */

/* netlab WORDS; its output goes into out. */
static int netlab(const struct chaos_lab *l, char *const words[], char *out, size_t cap, struct why *why) {
    extern char **environ;
    posix_spawn_file_actions_t to_pipe;
    int ends[2], status = 0;
    pid_t pid;
    if (pipe2(ends, O_CLOEXEC) < 0) return fail(why, ERR_IO, "no pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&to_pipe);
    posix_spawn_file_actions_adddup2(&to_pipe, ends[1], 1);
    int error = posix_spawn(&pid, l->program, &to_pipe, NULL, words, environ);
    posix_spawn_file_actions_destroy(&to_pipe);
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n = 1; !error && n > 0 && len + 1 < cap; len += n > 0 ? (size_t)n : 0)
        n = read(ends[0], out + len, cap - 1 - len);
    out[len] = 0;
    close(ends[0]);
    if (error) return fail(why, ERR_IO, "cannot start %s: %s", l->program, strerror(error));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    return status ? fail(why, ERR_IO, "netlab %s %s ended with status %d", words[3], words[4], WEXITSTATUS(status)) : 0;
}

int chaos_lab_open(struct chaos_lab *l, const char *program, const char *name, int hosts, struct why *why) {
    *l = (struct chaos_lab){.program = program, .name = name, .own_net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)};
    if (l->own_net < 0) return fail(why, ERR_IO, "cannot open this process's network: %s", strerror(errno));
    for (int h = 0; h < hosts; h++) {
        char host[16], pid[32], path[64];
        snprintf(host, sizeof host, "h%d", h);
        char *const words[] = {(char *)program, (char *)"-n", (char *)name, (char *)"holder", host, NULL};
        int rc = netlab(l, words, pid, sizeof pid, why);
        if (rc < 0) return rc;
        for (int s = 0; s < 4; s++) {
            snprintf(path, sizeof path, "/proc/%ld/ns/%s", strtol(pid, NULL, 10), spaces[s]);
            l->space[h][s] = open(path, O_RDONLY | O_CLOEXEC);
            if (l->space[h][s] < 0) return fail(why, ERR_IO, "cannot open %s: %s", path, strerror(errno));
        }
    }
    return 0;
}

static int socket_on(const struct chaos_lab *l, int host, struct why *why) {
    int yes = 1;
    if (setns(l->space[host][0], CLONE_NEWNET) < 0) return fail(why, ERR_IO, "cannot enter h%d: %s", host, strerror(errno));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (setns(l->own_net, CLONE_NEWNET) < 0) return fail(why, ERR_IO, "cannot come back from h%d: %s", host, strerror(errno));
    if (fd < 0) return fail(why, ERR_IO, "no socket on h%d: %s", host, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

/* A link that has just come up may not find anybody at first. */
static int reach(int fd, const struct sockaddr_in *at) {
    const int64_t until_us = clk_now_us() + REACH_US;
    int rc;
    while ((rc = connect(fd, (const struct sockaddr *)at, sizeof *at)) < 0 &&
           (errno == EHOSTUNREACH || errno == ENETUNREACH || errno == EINTR) && clk_now_us() < until_us)
        poll(NULL, 0, 10);
    return rc;
}

int chaos_lab_connect(const struct chaos_lab *l, int a, int b, int ends[2], struct why *why) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(FIRST_ADDRESS + (unsigned)a)};
    socklen_t len = sizeof at;
    int yes = 1, listener = socket_on(l, a, why);
    if (listener < 0) return listener;
    ends[0] = -1;
    ends[1] = socket_on(l, b, why);
    if (ends[1] >= 0 && bind(listener, (struct sockaddr *)&at, len) == 0 && listen(listener, 1) == 0 &&
        getsockname(listener, (struct sockaddr *)&at, &len) == 0 && reach(ends[1], &at) == 0)
        ends[0] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    close(listener);
    if (ends[0] < 0) return fail(why, ERR_IO, "h%d does not reach h%d: %s", b, a, strerror(errno));
    setsockopt(ends[0], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return 0;
}

int chaos_lab_enter(const struct chaos_lab *l, int host, struct why *why) {
    for (int s = 0; s < 4; s++)
        if (setns(l->space[host][s], 0) < 0)
            return fail(why, ERR_IO, "cannot enter h%d's %s: %s", host, spaces[s], strerror(errno));
    return 0;
}

int chaos_lab_fault(const struct chaos_lab *l, int host, const char *word, int other, struct why *why) {
    char from[16], to[16], out[256];
    snprintf(from, sizeof from, "h%d", host);
    snprintf(to, sizeof to, "h%d", other);
    char *const words[] = {(char *)l->program,    (char *)"-n", (char *)l->name, (char *)"fault", from, (char *)word,
                           other < 0 ? NULL : to, NULL};
    return netlab(l, words, out, sizeof out, why);
}
