/* bell.c - an eventfd. */
#include "base/bell.h"
#include "base/status.h"

#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int bell_open(struct bell *b) {
    b->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return b->fd < 0 ? ERR_IO : 0;
}

void bell_close(struct bell *b) {
    if (b->fd >= 0) close(b->fd);
    b->fd = -1;
}

void bell_ring(struct bell *b) {
    uint64_t one = 1;
    ssize_t n = write(b->fd, &one, sizeof one); /* fails only when already rung 2^64 - 1 times */
    (void)n;
}

void bell_clear(struct bell *b) {
    uint64_t count;
    ssize_t n = read(b->fd, &count, sizeof count);
    (void)n;
}

void bell_wait(struct bell *b) {
    struct pollfd fd = {.fd = b->fd, .events = POLLIN};
    poll(&fd, 1, -1);
    bell_clear(b);
}
