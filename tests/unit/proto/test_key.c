/* test_key.c - key files, and who comes in by which door with which key. */
#include "base/clk.h"
#include "proto/bus.h"
#include "proto/key.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/run.h"

enum { WAIT_US = 10 * 1000 * 1000 };

static char dir[] = "/tmp/test_key.XXXXXX", full[64], client[64], other[64], other_client[64];
static struct why why;

static void make(const char *cluster, const char *clients) {
    struct key k;
    ck_assert_msg(key_make(&k, &why) == 0, "%s", why.text);
    ck_assert_msg(key_write(&k, false, cluster, &why) == 0 && key_write(&k, true, clients, &why) == 0, "%s", why.text);
}

static void setup(void) {
    memcpy(dir + sizeof dir - 7, "XXXXXX", 6);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(full, sizeof full, "%s/full", dir);
    snprintf(client, sizeof client, "%s/client", dir);
    snprintf(other, sizeof other, "%s/other", dir);
    snprintf(other_client, sizeof other_client, "%s/other_client", dir);
    make(full, client);
    make(other, other_client);
}

static void teardown(void) {
    const char *files[] = {full, client, other, other_client};
    for (int i = 0; i < 4; i++) unlink(files[i]);
    rmdir(dir);
}

START_TEST(a_file_says_what_was_made) {
    struct key k, all, some;
    char path[80];
    snprintf(path, sizeof path, "%s/k", dir);
    ck_assert_int_eq(key_make(&k, &why), 0);
    ck_assert_int_eq(key_write(&k, false, path, &why), 0);
    ck_assert_int_eq(key_write(&k, false, path, &why), ERR_EXISTS);
    ck_assert_int_eq(key_read(path, &all, &why), 0);
    ck_assert_mem_eq(&all, &k, sizeof k);
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0600);
    unlink(path);
    ck_assert_int_eq(key_write(&k, true, path, &why), 0);
    ck_assert_int_eq(key_read(path, &some, &why), 0);
    ck_assert_str_eq(some.client.secret, k.client.secret);
    ck_assert_str_eq(some.coordinator.open, k.coordinator.open);
    ck_assert(!some.coordinator.secret[0] && !some.worker.open[0] && !some.worker.secret[0]);
    ck_assert(!some.operators.open[0] && !some.operators.secret[0]);
    unlink(path);
}
END_TEST

static void refuse(const char *text, int code, const char *says) {
    struct key k;
    char path[80];
    snprintf(path, sizeof path, "%s/bad", dir);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fchmod(fileno(f), 0600);
    fclose(f);
    ck_assert_int_eq(key_read(path, &k, &why), code);
    ck_assert_msg(strstr(why.text, says) != NULL, "%s", why.text);
    unlink(path);
}

START_TEST(what_is_no_key_is_refused) {
    struct key k;
    char longest[400];
    refuse("", ERR_INVALID, "there is no coordinator-public");
    refuse("hello\n", ERR_INVALID, "first line");
    refuse("cadre-key 1\n# only\n\n", ERR_INVALID, "there is no coordinator-public");
    refuse("cadre-key 1\nclient-public short\n", ERR_INVALID, ":2: client-public wants 40 characters");
    refuse("cadre-key 1\nclient-public\n", ERR_INVALID, ":2: client-public wants");
    refuse("cadre-key 1\nsecret 1\n", ERR_INVALID, ":2: not a line");
    refuse("cadre-key 1", ERR_INVALID, ":1: not a key file");
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = 0;
    refuse(longest, ERR_INVALID, ":1: not a key file");
    ck_assert_int_eq(key_read("/nonexistent/key", &k, &why), ERR_NOT_FOUND);
    ck_assert_int_eq(key_read(dir, &k, &why), ERR_INVALID);
    chmod(full, 0640);
    ck_assert_int_eq(key_read(full, &k, &why), ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(why.text, "chmod 600"));
}
END_TEST

/* A server with the cluster's key, and a client that may be anybody. */
struct pair {
    struct bus_context *there, *here;
    struct bus *server, *b;
};

static void open_pair(struct pair *p, enum bus_door door, const char *key, enum bus_door as) {
    ck_assert_msg(bus_context_open(&p->there, full, &why) == 0, "%s", why.text);
    ck_assert_msg(bus_zmq_bind(p->there, door, "tcp://127.0.0.1:*", &p->server, &why) == 0, "%s", why.text);
    ck_assert_msg(bus_context_open(&p->here, key, &why) == 0, "%s", why.text);
    ck_assert_msg(bus_zmq_connect(p->here, as, bus_endpoint(p->server), &p->b, &why) == 0, "%s", why.text);
}

static void close_pair(struct pair *p) {
    bus_close(p->b);
    bus_close(p->server);
    bus_context_close(p->here);
    bus_context_close(p->there);
}

static bool operates; /* who came in last */

static bool comes_in(enum bus_door door, const char *key, enum bus_door as) {
    struct pair p;
    struct bus_msg m;
    struct bus_link link, mine;
    open_pair(&p, door, key, as);
    ck_assert_int_eq(bus_send(p.b, NULL, "let me in", 9, NULL, 0), 0);
    int64_t until = clk_now_us() + WAIT_US;
    int rc = ERR_AGAIN;
    do {
        struct pollfd fds = {.fd = bus_fd(p.server), .events = POLLIN};
        poll(&fds, 1, 10);
        rc = bus_recv(p.server, &m);
        bus_get_link(p.server, &link);
        bus_get_link(p.b, &mine);
        ck_assert_msg(clk_now_us() < until, "neither in nor refused: %d refusals, unwelcome %d", (int)link.refused,
                      mine.unwelcome);
    } while (rc < 0 && (!link.refused || !mine.unwelcome));
    ck_assert(rc < 0 || m.head_len == 9);
    operates = rc == 0 && m.from_operator;
    close_pair(&p);
    return rc == 0;
}

START_TEST(each_key_opens_its_door) {
    ck_assert(comes_in(BUS_CLIENTS, client, BUS_CLIENTS) && !operates);
    ck_assert(comes_in(BUS_CLIENTS, full, BUS_CLIENTS) && operates);
    ck_assert(comes_in(BUS_WORKERS, full, BUS_WORKERS) && !operates);
}
END_TEST

START_TEST(and_no_other) {
    ck_assert(!comes_in(BUS_WORKERS, client, BUS_CLIENTS));
    ck_assert(!comes_in(BUS_CLIENTS, full, BUS_WORKERS));
    ck_assert(!comes_in(BUS_WORKERS, full, BUS_CLIENTS));
    ck_assert(!comes_in(BUS_CLIENTS, NULL, BUS_CLIENTS));
    ck_assert(!comes_in(BUS_WORKERS, NULL, BUS_WORKERS));
    ck_assert(!comes_in(BUS_CLIENTS, other, BUS_CLIENTS));
    ck_assert(!comes_in(BUS_CLIENTS, other_client, BUS_CLIENTS));
}
END_TEST

START_TEST(who_may_listen) {
    struct bus_context *c;
    struct bus *b;
    ck_assert_int_eq(bus_context_open(&c, NULL, &why), 0);
    ck_assert_int_eq(bus_zmq_bind(c, BUS_CLIENTS, "tcp://*:*", &b, &why), ERR_DENIED);
    ck_assert_ptr_nonnull(strstr(why.text, "cadre keygen"));
    ck_assert_int_eq(bus_zmq_bind(c, BUS_CLIENTS, "tcp://0.0.0.0:*", &b, &why), ERR_DENIED);
    ck_assert_int_eq(bus_zmq_bind(c, BUS_CLIENTS, "tcp://127.0.0.1:*", &b, &why), 0);
    bus_close(b);
    bus_context_close(c);
    ck_assert_int_eq(bus_context_open(&c, client, &why), 0);
    ck_assert_int_eq(bus_zmq_bind(c, BUS_CLIENTS, "tcp://127.0.0.1:*", &b, &why), ERR_DENIED);
    ck_assert_int_eq(bus_zmq_connect(c, BUS_WORKERS, "tcp://127.0.0.1:1", &b, &why), ERR_DENIED);
    bus_context_close(c);
    ck_assert_int_eq(bus_context_open(&c, full, &why), 0);
    ck_assert_int_eq(bus_zmq_bind(c, BUS_WORKERS, "tcp://*:*", &b, &why), 0);
    bus_close(b);
    bus_context_close(c);
    ck_assert_int_eq(bus_context_open(&c, "/nonexistent/key", &why), ERR_NOT_FOUND);
}
END_TEST

static int dial(const char *endpoint) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)strtol(strrchr(endpoint, ':') + 1, NULL, 10))};
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

/* Strangers who speak no ZMTP, or a little of it: the server goes on, lets nothing through, and serves who has a key. */
START_TEST(garbage_at_the_door) {
    static const char greeting[] = "\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE";
    struct pair p;
    struct bus_msg m;
    struct bus_link link;
    unsigned state = 1;
    open_pair(&p, BUS_CLIENTS, client, BUS_CLIENTS);
    for (int i = 0; i < 200; i++) {
        unsigned char junk[512];
        int fd = dial(bus_endpoint(p.server));
        for (size_t k = 0; k < sizeof junk; k++) junk[k] = (unsigned char)(rand_r(&state) >> 7);
        if (i % 2) memcpy(junk, greeting, sizeof greeting - 1), memset(junk + sizeof greeting - 1, 0, 64 - sizeof greeting + 1);
        if (i % 4 == 3) junk[64] = 4, junk[65] = 200; /* a command of 200 bytes: no HELLO */
        ck_assert_int_ge((int)send(fd, junk, 1 + (size_t)i * 7 % sizeof junk, MSG_NOSIGNAL), 0);
        close(fd);
        ck_assert_int_eq(bus_recv(p.server, &m), ERR_AGAIN);
    }
    ck_assert_int_eq(bus_send(p.b, NULL, "I have a key", 12, NULL, 0), 0);
    int64_t until = clk_now_us() + WAIT_US;
    while (bus_recv(p.server, &m) < 0) {
        struct pollfd fds = {.fd = bus_fd(p.server), .events = POLLIN};
        poll(&fds, 1, 100);
        ck_assert(clk_now_us() < until);
    }
    ck_assert_uint_eq(m.head_len, 12);
    bus_get_link(p.server, &link);
    ck_assert_uint_gt(link.refused, 0);
    close_pair(&p);
}
END_TEST

RUN("key", setup, teardown, a_file_says_what_was_made, what_is_no_key_is_refused, each_key_opens_its_door, and_no_other,
    who_may_listen, garbage_at_the_door)
