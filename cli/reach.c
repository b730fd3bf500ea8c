/* reach.c - see reach.h. */
#include "cli/reach.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOOK_MS = 1000 };

static bool refused_at(const struct addrinfo *a) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), e = 0;
    socklen_t len = sizeof e;
    if (fd < 0) return false;
    if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) e = errno;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (e == EINPROGRESS && (poll(&p, 1, LOOK_MS) <= 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0)) e = 0;
    close(fd);
    return e == ECONNREFUSED;
}

bool reach_refused(const char *endpoint) {
    char host[256];
    const char *at = strstr(endpoint, "://"), *port = strrchr(endpoint, ':');
    struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM};
    if (!at || port <= at) return false;
    at += at[3] == '[' ? 4 : 3;
    snprintf(host, sizeof host, "%.*s", (int)(port - at) - (port[-1] == ']'), at);
    if (getaddrinfo(host, port + 1, &hints, &found)) return false;
    bool gone = refused_at(found);
    freeaddrinfo(found);
    return gone;
}
