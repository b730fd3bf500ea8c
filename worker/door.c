/* door.c - see door.h. A UDP socket that is connected sends nothing, but knows its own address. */
#include "worker/door.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static bool own_address(const struct addrinfo *to, char *buf, size_t cap) {
    struct sockaddr_in own;
    socklen_t len = sizeof own;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    bool ok = !connect(fd, to->ai_addr, to->ai_addrlen) && !getsockname(fd, (struct sockaddr *)&own, &len) &&
              inet_ntop(AF_INET, &own.sin_addr, buf, (socklen_t)cap);
    close(fd);
    return ok;
}

int door_address(const char *coordinator, bool beyond, char *buf, size_t cap, struct why *why) {
    char host[256], own[INET_ADDRSTRLEN];
    int port;
    if (!beyond) return snprintf(buf, cap, "tcp://127.0.0.1:*"), 0;
    if (sscanf(coordinator, "tcp://%255[^:]:%d", host, &port) != 2)
        return fail(why, ERR_NOT_FOUND, "'%s' is no tcp://HOST:PORT", coordinator);
    struct addrinfo *to, hints = {.ai_family = AF_INET, .ai_socktype = SOCK_DGRAM};
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &hints, &to);
    if (rc) return fail(why, ERR_NOT_FOUND, "no address of '%s': %s", host, gai_strerror(rc));
    bool ok = own_address(to, own, sizeof own);
    freeaddrinfo(to);
    if (!ok) return fail(why, ERR_NOT_FOUND, "there is no way from here to '%s'", host);
    snprintf(buf, cap, "tcp://%s:*", own);
    return 0;
}
