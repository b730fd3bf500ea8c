/* fabric_auto.c - shm to the ranks of this host, ucx to all others; which one a peer gets follows from the host identities in
 * the addresses (host.h), so both ends come to the same.
 *
 * UCX is all but left alone while no peer needs it, for a look at it is a system call: it gets one now and then, to end the
 * connections of peers that are gone. */
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/log.h"
#include "fabric/fabric.h"
#include "fabric/host.h"

enum { MAGIC = 0x4f545541, /* "AUTO" */ SHM = 0, UCX = 1, WAYS = 2, RARELY = 256 };

struct auto_address { /* followed by the addresses of both, shm's first */
    uint32_t magic;
    uint16_t bytes[WAYS]; /* 0: that one is missing */
    char host[HOST_ID_BYTES];
};

struct auto_peer {
    struct fabric *way; /* NULL: never attached */
    const void *taken[FABRIC_DEPTH];
};

struct auto_old { /* a frame that a predecessor sent by another way */
    struct auto_old *next;
    struct fabric *way;
    int peer;
    const void *frame;
};

struct auto_rank {
    struct fabric base;
    struct fabric *ways[WAYS]; /* [UCX] NULL in a build without it */
    struct auto_peer peers[FABRIC_MAX_RANKS];
    struct auto_old *old;
    uint64_t far; /* ranks attached by ucx */
    unsigned polls;
    int both; /* an fd that is readable when either's is */
    char host[HOST_ID_BYTES];
};

static struct auto_rank *auto_of(struct fabric *f) { return (struct auto_rank *)f; }

static struct auto_peer *peer_of(struct fabric *f, int peer) {
    fabric_check_peer(f, peer);
    return &auto_of(f)->peers[peer];
}

/* ---- life ---- */

static size_t auto_address(struct fabric *f, void *out) {
    struct auto_rank *a = auto_of(f);
    struct auto_address head = {.magic = MAGIC};
    unsigned char part[FABRIC_ADDRESS_BYTES], *p = (unsigned char *)out + sizeof head;
    memcpy(head.host, a->host, sizeof head.host);
    for (int w = 0; w < WAYS; w++) {
        size_t n = a->ways[w] ? fabric_address(a->ways[w], part) : 0;
        if (n > (size_t)((unsigned char *)out + FABRIC_ADDRESS_BYTES - p)) n = 0;
        memcpy(p, part, n);
        head.bytes[w] = (uint16_t)n;
        p += n;
    }
    memcpy(out, &head, sizeof head);
    return (size_t)(p - (unsigned char *)out);
}

static int auto_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    struct auto_rank *a = auto_of(f);
    int rc = 0;
    for (int w = 0; w < WAYS && rc >= 0; w++)
        if (a->ways[w]) rc = fabric_prepare(a->ways[w], frame_bytes, incarnation, why);
    return rc;
}

static void set_far(struct auto_rank *a, int peer, bool far) {
    uint64_t bit = UINT64_C(1) << peer;
    a->far = far ? a->far | bit : a->far & ~bit;
    a->base.fd = a->far ? a->both : a->ways[SHM]->fd;
    a->base.near = ~a->far;
}

static void auto_detach(struct fabric *f, int peer) {
    struct auto_peer *p = peer_of(f, peer);
    if (p->way) fabric_detach(p->way, peer); /* frames that were taken are given back the same way */
    set_far(auto_of(f), peer, false);
}

/* Which part of an address to use. */
static int choose(struct auto_rank *a, int peer, const void *address, size_t bytes, struct auto_address *head,
                  struct why *why) {
    if (bytes < sizeof *head) return fail(why, ERR_PROTOCOL, "fabric auto: rank %d has an address of %zu bytes", peer, bytes);
    memcpy(head, address, sizeof *head);
    if (head->magic != MAGIC || !memchr(head->host, '\0', sizeof head->host) ||
        bytes != sizeof *head + head->bytes[SHM] + head->bytes[UCX])
        return fail(why, ERR_PROTOCOL,
                    "fabric auto: rank %d has an address of another transport; give all workers the same --fabric", peer);
    int way = strcmp(head->host, a->host) == 0 ? SHM : UCX;
    if (!a->ways[way] || !head->bytes[way])
        return fail(why, ERR_UNSUPPORTED,
                    "fabric auto: rank %d runs on host %s, this one on %s, and %s offers no UCX address: it was built without "
                    "it (install libucx-dev, build again with -Ducx=enabled) or that is too long (name fewer --net-devices)",
                    peer, head->host, a->host, a->ways[way] ? "it" : "this one");
    return way;
}

/* The frames of a predecessor that are out go back by the way they came. */
static int remember(struct auto_rank *a, int peer, struct why *why) {
    struct auto_peer *p = &a->peers[peer];
    for (int i = 0; i < FABRIC_DEPTH; i++) {
        if (!p->taken[i]) continue;
        struct auto_old *o = malloc(sizeof *o);
        if (!o) return fail(why, ERR_NOMEM, "fabric auto: out of memory");
        *o = (struct auto_old){.next = a->old, .way = p->way, .peer = peer, .frame = p->taken[i]};
        a->old = o;
        p->taken[i] = NULL;
    }
    return 0;
}

static int auto_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    struct auto_rank *a = auto_of(f);
    struct auto_peer *p = peer_of(f, peer);
    struct auto_address head;
    int way = choose(a, peer, address, bytes, &head, why), rc = 0;
    if (way < 0) return way;
    if (p->way && p->way != a->ways[way]) auto_detach(f, peer);
    rc = remember(a, peer, why);
    if (rc < 0) return rc;
    const unsigned char *part = (const unsigned char *)address + sizeof head + (way == UCX ? head.bytes[SHM] : 0);
    p->way = a->ways[way];
    rc = fabric_attach(p->way, peer, incarnation, part, head.bytes[way], why);
    set_far(a, peer, rc >= 0 && way == UCX);
    return rc;
}

static void auto_close(struct fabric *f) {
    struct auto_rank *a = auto_of(f);
    for (int w = 0; w < WAYS; w++) fabric_close(a->ways[w]);
    for (struct auto_old *next; a->old; a->old = next) {
        next = a->old->next;
        free(a->old);
    }
    if (a->both >= 0) close(a->both);
    free(a);
}

/* ---- frames ---- */

static void *auto_reserve(struct fabric *f, int peer, size_t bytes) {
    struct auto_peer *p = peer_of(f, peer);
    return p->way ? fabric_reserve(p->way, peer, bytes) : NULL;
}

static void auto_commit(struct fabric *f, int peer, size_t bytes) { fabric_commit(peer_of(f, peer)->way, peer, bytes); }

/* Where p notes a taken frame; frame NULL: a free place. */
static const void **taken_at(struct auto_peer *p, const void *frame) {
    for (int i = 0; i < FABRIC_DEPTH; i++)
        if (p->taken[i] == frame) return &p->taken[i];
    return NULL;
}

static const void *auto_take(struct fabric *f, int peer, size_t *bytes) {
    struct auto_peer *p = peer_of(f, peer);
    const void **at = p->way ? taken_at(p, NULL) : NULL; /* with all out there can be no other */
    return at ? *at = fabric_take(p->way, peer, bytes) : NULL;
}

static void auto_give(struct fabric *f, int peer, const void *frame) {
    struct auto_rank *a = auto_of(f);
    struct auto_peer *p = peer_of(f, peer);
    for (struct auto_old **at = &a->old, *o; (o = *at); at = &o->next) {
        if (o->frame != frame || o->peer != peer) continue;
        fabric_give(o->way, peer, frame);
        *at = o->next;
        free(o);
        return;
    }
    const void **at = taken_at(p, frame);
    if (!at) BUG("fabric auto: rank %d gives back a frame of rank %d that it does not have", f->rank, peer);
    *at = NULL;
    fabric_give(p->way, peer, frame);
}

/* ---- waiting ---- */

static int auto_poll(struct fabric *f) {
    struct auto_rank *a = auto_of(f);
    bool look = a->far || (a->ways[UCX] && ++a->polls % RARELY == 0);
    int near = fabric_poll(a->ways[SHM]), far = look ? fabric_poll(a->ways[UCX]) : 0;
    if (look) atomic_store_explicit(&f->refused, a->ways[UCX]->refused, memory_order_relaxed);
    return near < 0 ? near : far < 0 ? far : near | far;
}

static int auto_arm(struct fabric *f) {
    struct auto_rank *a = auto_of(f);
    int near = fabric_arm(a->ways[SHM]), far = a->far ? fabric_arm(a->ways[UCX]) : 0;
    return near | far;
}

static int auto_flush(struct fabric *f, int64_t deadline_us) {
    struct auto_rank *a = auto_of(f);
    int rc = fabric_flush(a->ways[SHM], deadline_us);
    return rc < 0 || !a->far ? rc : fabric_flush(a->ways[UCX], deadline_us);
}

static const struct fabric_ops auto_ops = {.name = "auto",
                                           .address = auto_address,
                                           .prepare = auto_prepare,
                                           .attach = auto_attach,
                                           .detach = auto_detach,
                                           .reserve = auto_reserve,
                                           .commit = auto_commit,
                                           .take = auto_take,
                                           .give = auto_give,
                                           .poll = auto_poll,
                                           .arm = auto_arm,
                                           .flush = auto_flush,
                                           .close = auto_close};

/* ---- opening ---- */

static int watch(struct auto_rank *a, struct why *why) {
    a->both = epoll_create1(EPOLL_CLOEXEC);
    bool ok = a->both >= 0;
    for (int w = 0; w < WAYS && ok; w++) {
        struct epoll_event e = {.events = EPOLLIN};
        ok = !a->ways[w] || epoll_ctl(a->both, EPOLL_CTL_ADD, a->ways[w]->fd, &e) == 0;
    }
    return ok ? 0 : fail(why, ERR_IO, "fabric auto: cannot watch both transports: %m");
}

int fabric_auto_open(int rank, int size, const struct fabric_net *net, struct fabric **out, struct why *why) {
    struct auto_rank *a = calloc(1, sizeof *a);
    if (!a) return fail(why, ERR_NOMEM, "fabric auto: out of memory for a handle");
    a->base = (struct fabric){.ops = &auto_ops, .rank = rank, .size = size};
    a->both = -1;
    fabric_host_id(a->host);
    int rc = fabric_shm_open(rank, size, &a->ways[SHM], why);
    if (rc >= 0) rc = fabric_ucx_open(rank, size, net, &a->ways[UCX], why);
    if (rc == ERR_UNSUPPORTED) rc = 0; /* as good, inside one host */
    if (rc >= 0) rc = watch(a, why);
    if (rc < 0) {
        auto_close(&a->base);
        return rc;
    }
    a->base.fd = a->ways[SHM]->fd;
    *out = &a->base;
    return 0;
}
