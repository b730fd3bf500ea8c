/* fabric_ucx.c - ranks are processes anywhere; frames are UCP active messages over TCP, or RDMA where there is some.
 *
 * The coordinator hands the address of each handle's UCP worker to the others; no listener of our own, no name service. Never
 * UCX's shared memory: its receive queue belongs to all senders of a host together, and one of them killed in the middle of a
 * write stops it for all of them. Between processes of one host there is fabric_shm.
 *
 * Endpoints run in error-handling mode PEER: a peer that dies is reported, its requests end with an error, and here it becomes
 * silent. That is only the fast way to know; a peer that hangs is not reported at all. Membership follows leases, elsewhere.
 *
 * What comes in is input: a message that does not prove that it is of this cluster and for this process (link_header.h), not
 * from a life of a peer that is attached, or outside of its window is dropped. Those a worker of this cluster would not send
 * are counted. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clk.h"
#include "base/log.h"
#include "fabric/link_ucx.h"
#include "fabric/slots.h"

enum {
    TELL_AFTER = 32,    /* polls without news after which peers are told what was given back */
    FLUSH_SPINS = 100,
    FLUSH_YIELDS = 100,
    CLOSE_US = 1000000, /* how long close waits for peers to have received what was sent, and for its connections to end */
    KNOCK_US = 50000,   /* a connection to a door that is open comes about sooner */
    CLOSE_SLICE_US = 10000 /* how long it sleeps at once, should something come without waking it */
};

struct ucx_rank {
    struct fabric base;
    struct link_host host;
    const uint8_t *secret; /* NULL: none; otherwise secret_bytes */
    uint8_t secret_bytes[PROOF_SECRET_BYTES];
    struct proof_key key; /* of what is for us */
    struct guard guard;   /* shut only where there is a secret */
    struct link *links[FABRIC_MAX_RANKS];
    struct {
        uint32_t incarnation, session; /* of the latest attachment */
    } latest[FABRIC_MAX_RANKS];
    struct link *retired;
    void *flushing; /* a flush that a deadline left behind */
    int idle_polls;
    uint64_t parting; /* ranks that were told that this one closes */
};

static struct ucx_rank *ucx_of(struct fabric *f) { return (struct ucx_rank *)f; }

/* ---- arrivals ---- */

static void refuse(struct ucx_rank *u) {
    if (atomic_fetch_add_explicit(&u->base.refused, 1, memory_order_relaxed) == 0)
        log_error("fabric ucx: rank %d was sent a message by somebody who does not belong to this cluster; it is dropped, and "
                  "so are more of them (`cadre status` counts strangers)",
                  u->base.rank);
}

/* The link a message is for, to which it was made known; NULL: drop it. A peer that attached first is told so later. */
static struct link *accept_header(struct ucx_rank *u, const void *header, size_t bytes, struct link_header *h) {
    if (!link_header_open(header, bytes, &u->key, u->base.rank, u->base.size, h)) {
        refuse(u);
        return NULL;
    }
    struct link *l = u->links[h->rank];
    bool known = l && l->peer.incarnation == h->incarnation && l->peer.nonce == h->nonce;
    return known && link_hear(l, h) ? l : NULL;
}

static ucs_status_t on_notice(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
                              const ucp_am_recv_param_t *param) {
    struct link_header h;
    (void)data, (void)bytes, (void)param;
    accept_header(arg, header, header_bytes, &h);
    return UCS_OK;
}

static ucs_status_t on_frame(void *arg, const void *header, size_t header_bytes, void *data, size_t bytes,
                             const ucp_am_recv_param_t *param) {
    struct ucx_rank *u = arg;
    struct link_header h;
    struct link *l = accept_header(u, header, header_bytes, &h);
    bool fetch = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
    if (l && (h.total > u->base.frame_bytes || !link_arrive(l, &h, data, bytes, fetch))) refuse(u);
    return UCS_OK; /* a large frame that was not fetched is dropped by UCX, at both ends */
}

/* ---- progress ---- */

static void reap(struct ucx_rank *u) {
    for (struct link **at = &u->retired; *at;) {
        struct link *l = *at;
        if (link_idle(l)) {
            *at = l->after;
            link_free(l);
        } else {
            at = &l->after;
        }
    }
}

/* UCX forbids closing an endpoint in its own error callback. */
static void close_broken(struct ucx_rank *u) {
    u->host.failing = false;
    for (int p = 0; p < u->base.size; p++)
        if (u->links[p] && u->links[p]->broken) link_disconnect(u->links[p]);
}

static void retire(struct ucx_rank *u, int peer) {
    struct link *l = u->links[peer];
    uint64_t others = ~(UINT64_C(1) << peer);
    u->links[peer] = NULL;
    u->host.untold &= others;
    u->host.stuck &= others;
    u->host.unflushed &= others;
    u->host.byes &= others;
    link_disconnect(l);
    l->after = u->retired;
    u->retired = l;
}

static int join(struct ucx_rank *u, const struct link_peer *peer, uint32_t session, struct why *why) {
    struct link *l;
    int rc = link_new(&u->host, peer, session, slots_round(u->base.frame_bytes), &l, why);
    if (rc < 0) return rc;
    u->links[peer->rank] = l;
    link_connect(l);
    return 0;
}

/* Its door may have been shut when we knocked (guard.h), and TCP knocks again only after a second. Not at once: a connection
 * that is coming about is left alone. */
static bool knocked_in_vain(struct ucx_rank *u, const struct link *l) {
    if (!u->guard.n_doors || !l->heard || l->spoke) return false;
    u->host.greetings = true; /* look again */
    return clk_now_us() - l->knocked_us > KNOCK_US;
}

/* Takes up new sessions of peers. One that replaces another means that the peer attached again: so begin again with it. And so
 * where our connection to it broke, or does not come about: whoever greets can be reached by now. */
static void answer_greetings(struct ucx_rank *u) {
    struct why why;
    u->host.greetings = false;
    for (int p = 0; p < u->base.size; p++) {
        struct link *l = u->links[p];
        bool vain = l && !l->broken && knocked_in_vain(u, l);
        if (!l || (!link_outdated(l) && !vain)) continue;
        uint32_t theirs = l->heard;
        bool named = l->named;
        if ((l->theirs && link_outdated(l)) || l->broken || vain) {
            retire(u, p);
            if (join(u, &l->peer, l->session, &why) < 0) log_error("%s; it counts as silent", why.text);
        }
        if (u->links[p]) link_take_up(u->links[p], theirs, named);
    }
}

static void answer_bye(struct ucx_rank *u, int peer) {
    struct link *l = u->links[peer];
    if (l) link_tell(l, LINK_BYE_HEARD);
    if (!l || l->broken || !(u->host.untold >> peer & 1)) u->host.byes &= ~(UINT64_C(1) << peer);
}

static void progress(struct ucx_rank *u) {
    net_progress(&u->host.net);
    for (uint64_t left = u->host.stuck; left; left &= left - 1) link_push(u->links[__builtin_ctzll(left)]);
    if (u->host.greetings) answer_greetings(u);
    for (uint64_t left = u->host.byes; left; left &= left - 1) answer_bye(u, __builtin_ctzll(left));
    if (u->host.failing) close_broken(u);
    if (u->retired) reap(u);
}

static void tell_all(struct ucx_rank *u) {
    u->idle_polls = 0;
    for (uint64_t left = u->host.untold; left; left &= left - 1) {
        struct link *l = u->links[__builtin_ctzll(left)];
        if (l) link_tell(l, 0);
    }
}

static int ucx_poll(struct fabric *f) {
    struct ucx_rank *u = ucx_of(f);
    progress(u);
    bool news = u->host.news;
    u->host.news = false;
    if (news) u->idle_polls = 0;
    else if (u->host.untold && ++u->idle_polls >= TELL_AFTER) tell_all(u);
    return news;
}

static int ucx_arm(struct fabric *f) {
    struct ucx_rank *u = ucx_of(f);
    tell_all(u);
    if (u->host.news || u->host.closing) return 1;
    return !net_arm(&u->host.net);
}

/* Over TCP: a notice goes only when all before it has left UCX. */
static bool flushed_at_once(struct ucx_rank *u) {
    for (uint64_t left = u->host.unflushed; left; left &= left - 1) {
        int p = __builtin_ctzll(left);
        struct link *l = u->links[p];
        if (!link_push(l) && !l->broken) continue;
        link_tell(l, 0);
        if (l->broken || !(u->host.untold >> p & 1)) u->host.unflushed &= ~(UINT64_C(1) << p);
    }
    return !u->host.unflushed;
}

/* Otherwise: requests that ended may still lie in UCX's own buffers; a flush of the worker ends when those are gone, too. */
static bool flushed_requests(struct ucx_rank *u) {
    ucp_request_param_t p = {0};
    if (u->flushing) {
        if (ucp_request_check_status(u->flushing) == UCS_INPROGRESS) return false;
        ucp_request_free(u->flushing);
        u->flushing = NULL;
    }
    for (int i = 0; i < u->base.size; i++)
        if (u->links[i] && u->links[i]->busy && !u->links[i]->broken) return false;
    if (!u->host.unflushed) return true;
    u->host.unflushed = 0;
    ucs_status_ptr_t r = ucp_worker_flush_nbx(u->host.net.out, &p);
    if (!UCS_PTR_IS_PTR(r)) return true;
    u->flushing = r;
    return false;
}

static bool flushed(struct ucx_rank *u) { return u->host.at_once ? flushed_at_once(u) : flushed_requests(u); }

static int ucx_flush(struct fabric *f, int64_t deadline_us) {
    struct ucx_rank *u = ucx_of(f);
    tell_all(u);
    for (int turn = 0; progress(u), !flushed(u); turn++) {
        int64_t now = clk_now_us();
        if (now >= deadline_us) return ERR_DEADLINE;
        if (turn >= FLUSH_SPINS + FLUSH_YIELDS) net_doze(&u->host.net, deadline_us - now);
        else if (turn >= FLUSH_SPINS) sched_yield();
    }
    return 0;
}

/* ---- frames ---- */

/* The link with the open reservation to peer: a retired one if it broke or was let go meanwhile. */
static struct link *reserved(struct ucx_rank *u, int peer) {
    struct link *l = u->links[peer];
    if (l && l->reserved >= 0) return l;
    for (l = u->retired; l; l = l->after)
        if (l->peer.rank == peer && l->reserved >= 0) break;
    return l;
}

static void *ucx_reserve(struct fabric *f, int peer, size_t bytes) {
    fabric_check_peer(f, peer);
    struct link *l = ucx_of(f)->links[peer], *old = reserved(ucx_of(f), peer);
    if (bytes > f->frame_bytes) BUG("fabric ucx: a frame of %zu bytes, the largest is %zu", bytes, f->frame_bytes);
    if (!l) return NULL;
    if (old == l) BUG("fabric ucx: second reservation to peer %d", peer);
    if (old) old->reserved = -1; /* never committed, as its peer was let go */
    void *room = link_reserve(l, bytes);
    if (room) return room;
    progress(ucx_of(f));
    l = ucx_of(f)->links[peer]; /* a link that broke may have been replaced */
    return l ? link_reserve(l, bytes) : NULL;
}

static void ucx_commit(struct fabric *f, int peer, size_t bytes) {
    fabric_check_peer(f, peer);
    struct link *l = reserved(ucx_of(f), peer);
    if (!l || bytes > l->reserved_bytes) BUG("fabric ucx: commit of %zu bytes to peer %d without room reserved", bytes, peer);
    link_commit(l, bytes);
}

static const void *ucx_take(struct fabric *f, int peer, size_t *bytes) {
    fabric_check_peer(f, peer);
    struct link *l = ucx_of(f)->links[peer];
    return l ? link_take(l, bytes) : NULL;
}

static void ucx_give(struct fabric *f, int peer, const void *frame) {
    struct ucx_rank *u = ucx_of(f);
    fabric_check_peer(f, peer);
    if (u->links[peer] && link_give(u->links[peer], frame)) return;
    for (struct link *l = u->retired; l; l = l->after)
        if (l->peer.rank == peer && link_give(l, frame)) return;
    BUG("fabric ucx: rank %d gives back a frame of rank %d that it does not have", f->rank, peer);
}

/* ---- life ---- */

static size_t ucx_address(struct fabric *f, void *out) {
    struct ucx_rank *u = ucx_of(f);
    return link_address_write(out, f->rank, u->host.nonce, &u->guard.own, u->host.net.own, u->host.net.own_bytes);
}

static int ucx_prepare(struct fabric *f, size_t frame_bytes, uint32_t incarnation, struct why *why) {
    struct ucx_rank *u = ucx_of(f);
    (void)frame_bytes, (void)why; /* memory is taken per peer, when it is attached */
    u->host.incarnation = incarnation;
    return 0;
}

static void ucx_detach(struct fabric *f, int peer) {
    fabric_check_peer(f, peer);
    if (ucx_of(f)->links[peer]) retire(ucx_of(f), peer);
    reap(ucx_of(f));
}

static int ucx_attach(struct fabric *f, int peer, uint32_t incarnation, const void *address, size_t bytes, struct why *why) {
    struct ucx_rank *u = ucx_of(f);
    struct link_address a;
    struct link *l = u->links[peer];
    int rc = link_address_read(address, bytes, peer, &a, why);
    if (rc < 0) return rc;
    if (l && l->peer.incarnation == incarnation && !l->broken) return 0;
    guard_admit(&u->guard, &a.sources);
    ucx_detach(f, peer);
    if (u->latest[peer].incarnation != incarnation) u->latest[peer].session = 0;
    u->latest[peer].incarnation = incarnation;
    struct link_peer who = {.rank = peer,
                            .incarnation = incarnation,
                            .nonce = a.nonce,
                            .key = proof_key(u->secret, address, bytes),
                            .address = (unsigned char *)address + sizeof a,
                            .address_bytes = bytes - sizeof a};
    return join(u, &who, ++u->latest[peer].session, why);
}

static bool all_closed(struct ucx_rank *u) {
    progress(u);
    return !u->retired;
}

/* A socket that is closed while something is unread in it drops what it has not sent; so closing waits until each peer has
 * heard that this was all. */
static bool all_heard(struct ucx_rank *u) {
    bool all = true;
    progress(u);
    for (int p = 0; p < u->base.size; p++) {
        struct link *l = u->links[p];
        if (!l || l->broken || !l->theirs || l->bye_heard) continue;
        all = false;
        if (!(u->parting >> p & 1) && link_push(l)) {
            link_tell(l, LINK_BYE);
            if (!(u->host.untold >> p & 1)) u->parting |= UINT64_C(1) << p;
        }
    }
    return all;
}

/* Until `done` says so; a peer that is gone may never let it. */
static void work_until(struct ucx_rank *u, bool (*done)(struct ucx_rank *u), int64_t deadline_us) {
    for (int64_t now_us; !done(u) && (now_us = clk_now_us()) < deadline_us;)
        net_doze(&u->host.net, deadline_us - now_us < CLOSE_SLICE_US ? deadline_us - now_us : CLOSE_SLICE_US);
}

static void ucx_close(struct fabric *f) {
    struct ucx_rank *u = ucx_of(f);
    int64_t deadline_us = clk_now_us() + CLOSE_US;
    if (u->host.net.out) ucx_flush(f, deadline_us);
    if (u->host.net.out) work_until(u, all_heard, deadline_us);
    deadline_us = clk_now_us() + CLOSE_US;
    for (int p = 0; p < f->size; p++)
        if (p != f->rank) ucx_detach(f, p);
    for (struct link *l = u->retired; l; l = l->after) { /* frames end with their handle */
        l->taken = 0;
        l->reserved = -1;
    }
    if (u->host.net.out) work_until(u, all_closed, deadline_us);
    if (u->flushing) ucp_request_free(u->flushing);
    net_close(&u->host.net);
    while (u->retired) {
        struct link *l = u->retired;
        u->retired = l->after;
        link_free(l);
    }
    free(u);
}

static const struct fabric_ops ucx_ops = {.name = "ucx",
                                          .address = ucx_address,
                                          .prepare = ucx_prepare,
                                          .attach = ucx_attach,
                                          .detach = ucx_detach,
                                          .reserve = ucx_reserve,
                                          .commit = ucx_commit,
                                          .take = ucx_take,
                                          .give = ucx_give,
                                          .poll = ucx_poll,
                                          .arm = ucx_arm,
                                          .flush = ucx_flush,
                                          .close = ucx_close};

/* ---- opening ---- */

int fabric_ucx_open(int rank, int size, const struct fabric_net *net, struct fabric **out, struct why *why) {
    return fabric_ucx_open_as(rank, size, net, !net_has_rdma(net->devices), out, why);
}

static ucs_status_t open_net(struct ucx_rank *u, const char *devices) {
    ucs_status_t status = UCS_ERR_IO_ERROR;
    guard_begin(&u->guard);
    if (getrandom(&u->host.nonce, sizeof u->host.nonce, 0) == sizeof u->host.nonce)
        status = net_open(&u->host.net, devices, u->host.at_once);
    if (status == UCS_OK) status = net_on(&u->host.net, LINK_FRAME, on_frame, u);
    if (status == UCS_OK) status = net_on(&u->host.net, LINK_NOTICE, on_notice, u);
    return status;
}

static void take_secret(struct ucx_rank *u, const uint8_t *secret, const void *address, size_t bytes) {
    if (secret) {
        u->secret = memcpy(u->secret_bytes, secret, sizeof u->secret_bytes);
        guard_shut(&u->guard);
    }
    u->key = proof_key(u->secret, address, bytes);
}

int fabric_ucx_open_as(int rank, int size, const struct fabric_net *net, bool at_once, struct fabric **out, struct why *why) {
    unsigned char address[FABRIC_ADDRESS_BYTES];
    if (size < 1 || size > FABRIC_MAX_RANKS || rank < 0 || rank >= size)
        return fail(why, ERR_INVALID, "fabric ucx: rank %d of %d; there may be 1 to %d ranks", rank, size, FABRIC_MAX_RANKS);
    struct ucx_rank *u = calloc(1, sizeof *u);
    if (!u) return fail(why, ERR_NOMEM, "fabric ucx: out of memory for a handle");
    u->base = (struct fabric){.ops = &ucx_ops, .rank = rank, .size = size, .fd = -1};
    u->host = (struct link_host){.rank = rank, .at_once = at_once, .net.fd = -1};
    ucs_status_t status = open_net(u, net->devices);
    u->base.fd = u->host.net.fd;
    size_t bytes = status == UCS_OK ? ucx_address(&u->base, address) : 0;
    int rc = 0;
    if (status != UCS_OK)
        rc = fail(why, ERR_IO, "fabric ucx: cannot use network devices %s: %s (`ucx_info -d` lists them)",
                  net->devices && *net->devices ? net->devices : "of this host", ucs_status_string(status));
    else if (!bytes)
        rc = fail(why, ERR_TOO_LARGE, "fabric ucx: an address of %zu bytes; name fewer network devices", u->host.net.own_bytes);
    if (rc < 0) {
        ucx_close(&u->base);
        return rc;
    }
    take_secret(u, net->secret, address, bytes);
    *out = &u->base;
    return 0;
}
