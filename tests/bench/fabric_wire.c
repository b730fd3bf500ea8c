/* fabric_wire.c - the sender notes when it committed a frame; the receiver gives it out when the wire would have carried it. */
#include "tests/bench/fabric_wire.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/clk.h"

enum { STAMPS = 2 * FABRIC_DEPTH }; /* more than a stream holds */

struct wire_net {
    struct fabric_hub *hub;
    int ranks;
    double latency_us, bytes_per_us;
    _Atomic int64_t sent_us[FABRIC_MAX_RANKS][FABRIC_MAX_RANKS][STAMPS]; /* by source, destination, number of the frame */
};

struct wire_rank {
    struct fabric base;
    struct fabric *under;
    struct wire_net *net;
    uint64_t sent[FABRIC_MAX_RANKS], taken[FABRIC_MAX_RANKS];
    double free_us[FABRIC_MAX_RANKS]; /* when the wire from a peer has carried all so far */
    struct coming {
        const void *frame; /* NULL: none */
        size_t bytes;
        int64_t due_us;
    } coming[FABRIC_MAX_RANKS];
};

static struct wire_rank *wire_of(struct fabric *f) { return (struct wire_rank *)f; }

int wire_net_new(int ranks, double latency_us, double bytes_per_us, struct wire_net **out, struct why *why) {
    struct wire_net *n = calloc(1, sizeof *n);
    if (!n) return fail(why, ERR_NOMEM, "out of memory for wires");
    n->ranks = ranks;
    n->latency_us = latency_us;
    n->bytes_per_us = bytes_per_us;
    int rc = fabric_hub_new(ranks, NULL, &n->hub, why);
    if (rc < 0) free(n);
    else *out = n;
    return rc;
}

void wire_net_free(struct wire_net *n) {
    fabric_hub_free(n->hub);
    free(n);
}

static size_t wire_address(struct fabric *f, void *out) { return fabric_address(wire_of(f)->under, out); }
static int wire_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    return fabric_prepare(wire_of(f)->under, frame_bytes, incarnation, why);
}
static int wire_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    return fabric_attach(wire_of(f)->under, peer, incarnation, address, bytes, why);
}
static void wire_detach(struct fabric *f, int peer) { fabric_detach(wire_of(f)->under, peer); }
static void *wire_reserve(struct fabric *f, int peer, size_t bytes) { return fabric_reserve(wire_of(f)->under, peer, bytes); }

static void wire_commit(struct fabric *f, int peer, size_t bytes) {
    struct wire_rank *w = wire_of(f);
    w->net->sent_us[f->rank][peer][w->sent[peer]++ % STAMPS] = clk_now_us();
    fabric_commit(w->under, peer, bytes);
}

static const void *wire_take(struct fabric *f, int peer, size_t *bytes) {
    struct wire_rank *w = wire_of(f);
    struct coming *c = &w->coming[peer];
    const struct wire_net *n = w->net;
    if (!c->frame) {
        if (!(c->frame = fabric_take(w->under, peer, &c->bytes))) return NULL;
        double sent_us = (double)n->sent_us[peer][f->rank][w->taken[peer]++ % STAMPS];
        if (w->free_us[peer] < sent_us) w->free_us[peer] = sent_us;
        if (n->bytes_per_us > 0) w->free_us[peer] += (double)c->bytes / n->bytes_per_us;
        c->due_us = (int64_t)(w->free_us[peer] + n->latency_us);
    }
    if (n->bytes_per_us > 0 && clk_now_us() < c->due_us) return NULL;
    const void *frame = c->frame;
    *bytes = c->bytes;
    c->frame = NULL;
    return frame;
}

static void wire_give(struct fabric *f, int peer, const void *frame) { fabric_give(wire_of(f)->under, peer, frame); }

static bool on_the_way(const struct wire_rank *w) {
    for (int p = 0; p < w->net->ranks; p++)
        if (w->coming[p].frame) return true;
    return false;
}

static int wire_poll(struct fabric *f) {
    struct wire_rank *w = wire_of(f);
    int rc = fabric_poll(w->under);
    if (rc) return rc;
    int64_t now_us = clk_now_us();
    for (int p = 0; p < w->net->ranks; p++)
        if (w->coming[p].frame && now_us >= w->coming[p].due_us) return 1;
    return 0;
}

static int wire_arm(struct fabric *f) { return on_the_way(wire_of(f)) || fabric_arm(wire_of(f)->under); }
static int wire_flush(struct fabric *f, int64_t deadline_us) { return fabric_flush(wire_of(f)->under, deadline_us); }

static void wire_close(struct fabric *f) {
    fabric_close(wire_of(f)->under);
    free(f);
}

static const struct fabric_ops wire_ops = {.name = "wire",
                                           .address = wire_address,
                                           .prepare = wire_prepare,
                                           .attach = wire_attach,
                                           .detach = wire_detach,
                                           .reserve = wire_reserve,
                                           .commit = wire_commit,
                                           .take = wire_take,
                                           .give = wire_give,
                                           .poll = wire_poll,
                                           .arm = wire_arm,
                                           .flush = wire_flush,
                                           .close = wire_close};

int wire_open(struct wire_net *n, int rank, struct fabric **out, struct why *why) {
    struct wire_rank *w = calloc(1, sizeof *w);
    if (!w) return fail(why, ERR_NOMEM, "out of memory for a wire's end");
    int rc = fabric_mem_open(n->hub, rank, &w->under, why);
    if (rc < 0) {
        free(w);
        return rc;
    }
    w->net = n;
    w->base = (struct fabric){.ops = &wire_ops, .rank = rank, .size = n->ranks, .fd = w->under->fd};
    *out = &w->base;
    return 0;
}
