/* test_guard.c - who is heard by a socket that listens, as members become known. All of it on loopback, where any address of
 * 127.0.0.0/8 is ours to come from. */
#include "fabric/guard.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "tests/unit/run.h"

static int door(struct sockaddr_in *at) {
    socklen_t len = sizeof *at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    ck_assert(fd >= 0 && bind(fd, (struct sockaddr *)at, sizeof *at) == 0 && listen(fd, 16) == 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)at, &len), 0);
    return fd;
}

/* Whether 127.0.0.`from` is let in. */
static bool hears(const struct sockaddr_in *at, unsigned from) {
    struct sockaddr_in me = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + from)};
    struct timeval patience = {.tv_usec = 20000}; /* over loopback it is let in at once or never */
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience), 0);
    ck_assert_int_eq(bind(s, (struct sockaddr *)&me, sizeof me), 0);
    bool in = connect(s, (const struct sockaddr *)at, sizeof *at) == 0;
    close(s);
    return in;
}

START_TEST(doors_open_to_members) {
    struct guard g;
    struct sockaddr_in before, at;
    struct guard_sources other = {.n = 2, .from = {htonl(INADDR_LOOPBACK), htonl(0xC0000201)}}, two = {.n = 1};
    struct guard_sources many = {.n = -1};
    int first = door(&before);
    guard_begin(&g);
    int fd = door(&at);
    ck_assert(g.own.n != 0 && hears(&at, 1));
    guard_shut(&g);
    ck_assert(!hears(&at, 1) && !hears(&at, 2));
    guard_admit(&g, &other); /* its loopback is not ours */
    ck_assert(!hears(&at, 1) && !hears(&at, 2));
    two.from[0] = htonl(0xC0000202);
    guard_admit(&g, &two);
    ck_assert(!hears(&at, 1));
    guard_admit(&g, &g.own);
    ck_assert(hears(&at, 1) && !hears(&at, 2));
    guard_admit(&g, &many);
    ck_assert(hears(&at, 1) && hears(&at, 2));
    ck_assert(hears(&before, 2)); /* none of UCX's */
    close(fd);
    close(first);
}
END_TEST

START_TEST(more_than_fit_are_all) {
    struct guard g;
    struct sockaddr_in at;
    guard_begin(&g);
    int fd = door(&at);
    guard_shut(&g);
    for (uint32_t i = 0; i < GUARD_HOSTS; i++)
        guard_admit(&g, &(struct guard_sources){.n = 1, .from = {htonl(0x0A000001 + i)}});
    ck_assert(!hears(&at, 2));
    guard_admit(&g, &(struct guard_sources){.n = 1, .from = {htonl(0xC0000201)}});
    ck_assert(hears(&at, 2));
    close(fd);
}
END_TEST

int main(void) {
    Suite *s = suite_create("guard");
    TCase *t = tcase_create("guard");
    tcase_add_test(t, doors_open_to_members);
    tcase_add_test(t, more_than_fit_are_all);
    suite_add_tcase(s, t);
    return run_suite(s);
}
