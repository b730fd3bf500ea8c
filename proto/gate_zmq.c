/* gate_zmq.c - see gate_zmq.h. A request has seven parts and the credentials, a reply six (RFC 27). Requests come from inside
 * this process only, but name what a stranger sent. */
#include "proto/gate_zmq.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

enum { VERSION, ID, DOMAIN, ADDRESS, IDENTITY, MECHANISM, CREDENTIALS, PARTS, PART_BYTES = 255 };

struct part {
    size_t len;
    uint8_t bytes[PART_BYTES];
};
struct gate {
    void *socket;
    pthread_t thread;
    uint8_t key[2][KEY_BYTES], operators[KEY_BYTES]; /* by door: the one that may come in; an operator's, for the clients' */
};

const char *gate_domain(enum bus_door door) { return door == BUS_WORKERS ? "workers" : "clients"; }

static bool part_is(const struct part *p, const char *text) {
    return p->len == strlen(text) && !memcmp(p->bytes, text, p->len);
}

/* How many parts came, PARTS + 1 for more; negative: the context ends. Longer parts become empty, and so equal nothing. */
static int take_question(struct gate *g, struct part *parts) {
    for (int n = 0;; n++) {
        struct part *p = &parts[n < PARTS ? n : PARTS];
        int len = zmq_recv(g->socket, p->bytes, sizeof p->bytes, 0);
        while (len < 0 && errno == EINTR) len = zmq_recv(g->socket, p->bytes, sizeof p->bytes, 0);
        if (len < 0) return -1;
        p->len = (size_t)len <= sizeof p->bytes ? (size_t)len : 0;
        int more = 0;
        size_t size = sizeof more;
        if (zmq_getsockopt(g->socket, ZMQ_RCVMORE, &more, &size) < 0) return -1;
        if (!more) return n < PARTS ? n + 1 : PARTS + 1;
    }
}

static bool shows(const struct part *parts, const uint8_t *key) {
    return !memcmp(parts[CREDENTIALS].bytes, key, KEY_BYTES); /* public keys: no secret to guess by time */
}

/* As whom, NULL: not at all. */
static const char *may_enter(const struct gate *g, const struct part *parts, int n) {
    if (n != PARTS || !part_is(&parts[VERSION], "1.0") || !part_is(&parts[MECHANISM], "CURVE")) return NULL;
    if (parts[CREDENTIALS].len != KEY_BYTES) return NULL;
    for (int door = 0; door < 2; door++) {
        const char *name = gate_domain((enum bus_door)door);
        if (!part_is(&parts[DOMAIN], name)) continue;
        if (shows(parts, g->key[door])) return name;
        return door == BUS_CLIENTS && shows(parts, g->operators) ? GATE_OPERATOR : NULL;
    }
    return NULL;
}

static int answer(struct gate *g, const struct part *parts, int n, const char *as) {
    const char *text[] = {"1.0", NULL, as ? "200" : "400", as ? "OK" : "this key may not come in here", as ? as : "", ""};
    for (int i = 0; i < 6; i++) {
        const void *bytes = text[i];
        size_t len = i == ID ? (n > ID ? parts[ID].len : 0) : strlen(text[i]);
        if (i == ID) bytes = parts[ID].bytes;
        int rc;
        do rc = zmq_send(g->socket, bytes, len, i < 5 ? ZMQ_SNDMORE : 0);
        while (rc < 0 && errno == EINTR);
        if (rc < 0) return -1;
    }
    return 0;
}

static void *gate_main(void *arg) {
    struct gate *g = arg;
    struct part parts[PARTS + 1];
    for (;;) {
        int n = take_question(g, parts);
        if (n < 0 || answer(g, parts, n, may_enter(g, parts, n)) < 0) break;
    }
    zmq_close(g->socket);
    return NULL;
}

int gate_open(void *zmq, const struct key *key, struct gate **out, struct why *why) {
    struct gate *g = calloc(1, sizeof *g);
    if (!g) return fail(why, ERR_NOMEM, "out of memory");
    zmq_z85_decode(g->key[BUS_CLIENTS], key->client.open);
    zmq_z85_decode(g->key[BUS_WORKERS], key->worker.open);
    zmq_z85_decode(g->operators, key->operators.open);
    g->socket = zmq_socket(zmq, ZMQ_REP);
    if (!g->socket || zmq_bind(g->socket, "inproc://zeromq.zap.01") < 0) {
        int e = errno;
        if (g->socket) zmq_close(g->socket);
        free(g);
        return fail(why, ERR_IO, "cannot ask newcomers for their keys: %s", zmq_strerror(e));
    }
    if (pthread_create(&g->thread, NULL, gate_main, g)) {
        zmq_close(g->socket);
        free(g);
        return fail(why, ERR_NOMEM, "cannot start the thread that asks newcomers for their keys");
    }
    *out = g;
    return 0;
}

void gate_close(struct gate *g) {
    if (!g) return;
    pthread_join(g->thread, NULL);
    free(g);
}
