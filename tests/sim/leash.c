/* leash.c - see leash.h. */
#include "tests/sim/leash.h"

#include <stdatomic.h>
#include <stdlib.h>

struct leash {
    struct bus bus, *inner;
    atomic_bool cut;
};

static struct leash *of(struct bus *b) { return (struct leash *)((char *)b - offsetof(struct leash, bus)); }

static int send_to(struct bus *b, const struct bus_id *to, const void *head, size_t head_len, const void *body,
                   size_t body_len) {
    struct leash *l = of(b);
    return atomic_load(&l->cut) ? ERR_GONE : bus_send(l->inner, to, head, head_len, body, body_len);
}

static int recv_from(struct bus *b, struct bus_msg *out) {
    return atomic_load(&of(b)->cut) ? ERR_AGAIN : bus_recv(of(b)->inner, out);
}

static int fd_of(struct bus *b) { return bus_fd(of(b)->inner); }
static const char *endpoint_of(struct bus *b) { return bus_endpoint(of(b)->inner); }
static void close_it(struct bus *b) { (void)b; }
static uint64_t noise_of(struct bus *b) { return bus_noise(of(b)->inner); }
static void link_of(struct bus *b, struct bus_link *out) { bus_get_link(of(b)->inner, out); }

static const struct bus_ops ops = {send_to, recv_from, fd_of, endpoint_of, close_it, noise_of, link_of};

int leash_new(struct bus *bus, struct leash **out) {
    struct leash *l = calloc(1, sizeof *l);
    if (!l) return ERR_NOMEM;
    l->bus.ops = &ops;
    l->inner = bus;
    *out = l;
    return 0;
}

struct bus *leash_bus(struct leash *l) {
    return &l->bus;
}
void leash_cut(struct leash *l) { atomic_store(&l->cut, true); }
void leash_free(struct leash *l) { free(l); }
