/* guard.c - see guard.h. The filter is classic BPF (the kernel's Documentation/networking/filter): load the source address,
 * compare it with each that may come, drop the rest. */
#include "fabric/guard.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"

enum { IPV4_SOURCE = 12 /* offset in its header */, ALL = -1 };

void guard_sources(struct guard_sources *out) {
    struct ifaddrs *all = NULL;
    *out = (struct guard_sources){0};
    if (getifaddrs(&all) < 0) out->n = -1;
    for (struct ifaddrs *a = all; a && out->n >= 0; a = a->ifa_next) {
        if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET) continue;
        if (out->n == GUARD_SOURCES) out->n = -1;
        else out->from[out->n++] = ((struct sockaddr_in *)(void *)a->ifa_addr)->sin_addr.s_addr;
    }
    if (all) freeifaddrs(all);
}

static bool listens(int fd) {
    struct sockaddr_in a;
    int yes = 0;
    socklen_t size = sizeof yes, len = sizeof a;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &size) < 0 || !yes) return false;
    return getsockname(fd, (struct sockaddr *)&a, &len) == 0 && a.sin_family == AF_INET;
}

static bool among(const int *fds, int n, int fd) {
    for (int i = 0; i < n; i++)
        if (fds[i] == fd) return true;
    return false;
}

/* The sockets of this process that listen and are not among those to leave out. */
static int find(const int *but, int n_but, int *out) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    for (struct dirent *e; d && n < GUARD_DOORS && (e = readdir(d));) {
        int fd = (int)strtol(e->d_name, NULL, 10);
        if (e->d_name[0] != '.' && listens(fd) && !among(but, n_but, fd)) out[n++] = fd;
    }
    if (d) closedir(d);
    return n;
}

/* To let in who is admitted. */
static void hang_filter(struct guard *g) {
    struct sock_filter code[2 * GUARD_HOSTS + 2];
    unsigned short n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_NET_OFF + IPV4_SOURCE));
    for (int i = 0; i < g->n_from; i++) {
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(g->from[i]), 0, 1);
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, (uint32_t)ALL);
    }
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, g->open ? (uint32_t)ALL : 0);
    struct sock_fprog filter = {.len = n, .filter = code};
    for (int i = 0; i < g->n_doors; i++) {
        if (!setsockopt(g->doors[i], SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter)) continue;
        log_error("fabric ucx: cannot keep strangers' hosts away: %m; a firewall has to");
        (void)setsockopt(g->doors[i], SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, sizeof(int)); /* members come first */
    }
}

void guard_begin(struct guard *g) {
    *g = (struct guard){0};
    guard_sources(&g->own);
    g->n_before = find(NULL, 0, g->before);
}

void guard_shut(struct guard *g) {
    g->n_doors = find(g->before, g->n_before, g->doors);
    if (g->n_doors == GUARD_DOORS)
        log_error("fabric ucx: strangers' hosts are kept away from %d ports only; name fewer --net-devices", g->n_doors);
    hang_filter(g);
}

static bool known(const struct guard *g, uint32_t from) {
    for (int i = 0; i < g->n_from; i++)
        if (g->from[i] == from) return true;
    return false;
}

void guard_admit(struct guard *g, const struct guard_sources *peer) {
    bool here = !memcmp(peer, &g->own, sizeof g->own), news = false;
    if (!g->n_doors || g->open) return;
    if (peer->n < 0 || peer->n > GUARD_SOURCES) g->open = news = true;
    for (int i = 0; i < peer->n && !g->open; i++) {
        bool loopback = ntohl(peer->from[i]) >> 24 == IN_LOOPBACKNET;
        if ((loopback && !here) || known(g, peer->from[i])) continue;
        news = true;
        if (g->n_from < GUARD_HOSTS) g->from[g->n_from++] = peer->from[i];
        else g->open = true;
    }
    if (g->open)
        log_error("fabric ucx: strangers' hosts are not kept away: those of this cluster have too many addresses, more than %d "
                  "each or %d in all; a firewall has to",
                  GUARD_SOURCES, GUARD_HOSTS);
    if (news) hang_filter(g);
}
