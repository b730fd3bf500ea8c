/* link_ucx.c - see link_ucx.h. */
#include "fabric/link_ucx.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clk.h"
#include "base/log.h"

enum {
    TELL_AT = FABRIC_DEPTH / 2, /* frames given back that are worth a notice of their own */
    BUFFERS = 2 * FABRIC_DEPTH
};

static unsigned char *out_buffer(const struct link *l, int i) { return l->map + (size_t)i * l->slot_bytes; }
static unsigned char *in_buffer(const struct link *l, int i) { return l->map + (size_t)(FABRIC_DEPTH + i) * l->slot_bytes; }

void link_break(struct link *l, const char *doing, int ucs_status) {
    if (!l->broken && !l->bye && ucs_status != UCS_ERR_CANCELED)
        log_error("fabric ucx: %s rank %d: %s; it counts as silent now", doing, l->peer.rank,
                  ucs_status_string((ucs_status_t)ucs_status));
    l->broken = l->host->failing = true;
}

/* ---- life ---- */

int link_new(struct link_host *host, const struct link_peer *peer, uint32_t session, size_t slot_bytes, struct link **out,
             struct why *why) {
    size_t map_bytes = BUFFERS * slot_bytes;
    struct link *l = calloc(1, sizeof *l);
    void *address = malloc(peer->address_bytes);
    void *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!l || !address || map == MAP_FAILED) {
        free(l);
        free(address);
        if (map != MAP_FAILED) munmap(map, map_bytes);
        return fail(why, ERR_NOMEM, "fabric ucx: no memory for %d buffers of %zu bytes", (int)BUFFERS, slot_bytes);
    }
    *l = (struct link){.host = host, .peer = *peer, .session = session, .reserved = -1, .map = map};
    l->peer.address = memcpy(address, peer->address, peer->address_bytes);
    l->slot_bytes = slot_bytes;
    l->map_bytes = map_bytes;
    for (int i = 0; i < FABRIC_DEPTH; i++) l->in[i].link = l->out[i].link = l;
    *out = l;
    return 0;
}

static void on_error(void *arg, ucp_ep_h ep, ucs_status_t status) {
    (void)ep;
    link_break(arg, "connection with", status);
}

void link_connect(struct link *l) {
    l->knocked_us = clk_now_us();
    ucp_ep_params_t p = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                       UCP_EP_PARAM_FIELD_ERR_HANDLER,
                         .address = l->peer.address,
                         .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                         .err_handler = {.cb = on_error, .arg = l}};
    ucs_status_t status = ucp_ep_create(l->host->net.out, &p, &l->ep);
    if (status == UCS_OK) {
        link_tell(l, 0);
        return;
    }
    l->ep = NULL;
    l->broken = true;
    log_error("fabric ucx: rank %d cannot reach rank %d: %s; it is gone, or the two have no network devices that reach each "
              "other (--net-devices)",
              l->host->rank, l->peer.rank, ucs_status_string(status));
}

static void on_closed(void *request, ucs_status_t status, void *arg) {
    struct link *l = arg;
    (void)status;
    l->pending--;
    l->host->closing--;
    ucp_request_free(request);
}

void link_disconnect(struct link *l) {
    l->broken = true;
    if (!l->ep) return;
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                             .flags = UCP_EP_CLOSE_FLAG_FORCE,
                             .cb.send = on_closed,
                             .user_data = l};
    ucs_status_ptr_t r = ucp_ep_close_nbx(l->ep, &p);
    l->ep = NULL;
    if (!UCS_PTR_IS_PTR(r)) return;
    l->pending++;
    l->host->closing++;
}

bool link_idle(const struct link *l) { return !l->ep && !l->pending && !l->taken && l->reserved < 0; }

void link_free(struct link *l) {
    munmap(l->map, l->map_bytes);
    free(l->peer.address);
    free(l);
}

/* ---- sending ---- */

static void header_fill(struct link *l, struct link_header *h, uint64_t number, unsigned flags) {
    *h = (struct link_header){.nonce = l->host->nonce,
                              .incarnation = l->host->incarnation,
                              .rank = (uint16_t)l->host->rank,
                              .flags = (uint16_t)flags,
                              .session = l->session,
                              .you = l->theirs,
                              .number = number,
                              .given = l->given};
}

static void room(struct link *l) {
    l->host->news |= l->starved;
    l->starved = false;
}

/* A request of ours that UCX ended. */
static void ended(struct link *l, void *request, ucs_status_t status, const char *doing) {
    l->pending--;
    if (status != UCS_OK) link_break(l, doing, status);
    else l->spoke = true;
    ucp_request_free(request);
}

static void sent(struct link_out *o) {
    struct link *l = o->link;
    l->busy &= ~(1u << (o - l->out));
    room(l);
}

static void on_sent(void *request, ucs_status_t status, void *arg) {
    struct link_out *o = arg;
    ended(o->link, request, status, "sending to");
    sent(o);
}

static void on_told(void *request, ucs_status_t status, void *arg) {
    struct link *l = arg;
    l->noticing = false;
    ended(l, request, status, "sending to");
}

/* 1: UCX is done with it; 0: not yet, a callback will come; ERR_AGAIN: it was not taken. */
static int send_message(struct link *l, unsigned id, struct link_header *h, const void *data, size_t bytes,
                        ucp_send_nbx_callback_t done, void *arg) {
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_MEMORY_TYPE, .memory_type = UCS_MEMORY_TYPE_HOST};
    if (l->host->at_once) {
        p.op_attr_mask |= UCP_OP_ATTR_FLAG_FORCE_IMM_CMPL;
    } else {
        p.op_attr_mask |= UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
        p.cb.send = done;
        p.user_data = arg;
    }
    link_header_seal(h, &l->peer.key);
    ucs_status_ptr_t r = ucp_am_send_nbx(l->ep, id, h, sizeof *h, data, bytes, &p);
    l->spoke |= !r;
    if (!UCS_PTR_IS_ERR(r)) l->host->unflushed |= UINT64_C(1) << l->peer.rank;
    if (!r) return 1;
    if (UCS_PTR_IS_PTR(r)) {
        l->pending++;
        return 0;
    }
    if (UCS_PTR_STATUS(r) == UCS_ERR_NO_RESOURCE) return ERR_AGAIN;
    link_break(l, "sending to", UCS_PTR_STATUS(r));
    return 1;
}

void link_tell(struct link *l, unsigned flags) {
    uint64_t me = UINT64_C(1) << l->peer.rank;
    if (l->broken) return;
    l->host->untold |= me;
    if (l->noticing) return; /* by a later one */
    header_fill(l, &l->notice, 0, flags);
    int rc = send_message(l, LINK_NOTICE, &l->notice, NULL, 0, on_told, l);
    if (rc == ERR_AGAIN) return;
    l->noticing = rc == 0;
    l->told = l->notice.given;
    l->host->untold &= ~me;
}

void *link_reserve(struct link *l, size_t bytes) {
    unsigned idle = ~l->busy & ((1u << FABRIC_DEPTH) - 1);
    bool greeted = l->theirs && l->named;
    if (l->broken || !greeted || !idle || l->sent - l->sent_given >= FABRIC_DEPTH) {
        l->starved = true;
        return NULL;
    }
    l->reserved = __builtin_ctz(idle);
    l->reserved_bytes = bytes;
    return out_buffer(l, l->reserved);
}

/* Sends the next part of the oldest frame that is queued. Whether it was taken. */
static bool push_part(struct link *l) {
    struct link_out *o = &l->out[l->queue[0]];
    size_t at = o->taken, left = o->bytes - at, bytes = l->host->at_once && left > LINK_PART ? LINK_PART : left;
    o->header.offset = at;
    o->header.given = l->given;
    int rc = send_message(l, LINK_FRAME, &o->header, out_buffer(l, l->queue[0]) + at, bytes, on_sent, o);
    if (rc == ERR_AGAIN) return false;
    l->told = o->header.given;
    l->host->untold &= ~(UINT64_C(1) << l->peer.rank);
    o->taken += bytes;
    if (o->taken < o->bytes) return true;
    memmove(l->queue, l->queue + 1, (size_t)--l->queued * sizeof *l->queue);
    if (rc) sent(o);
    return true;
}

bool link_push(struct link *l) {
    while (l->queued && !l->broken)
        if (!push_part(l)) break;
    if (l->queued && !l->broken) l->host->stuck |= UINT64_C(1) << l->peer.rank;
    else l->host->stuck &= ~(UINT64_C(1) << l->peer.rank);
    return !l->queued;
}

void link_commit(struct link *l, size_t bytes) {
    int i = l->reserved;
    l->reserved = -1;
    if (l->broken) return; /* broke since the reservation */
    header_fill(l, &l->out[i].header, l->sent++, 0);
    l->out[i].header.total = l->out[i].bytes = bytes;
    l->out[i].taken = 0;
    l->busy |= 1u << i;
    l->queue[l->queued++] = i;
    l->host->unflushed |= UINT64_C(1) << l->peer.rank;
    link_push(l);
}

/* ---- receiving ---- */

bool link_hear(struct link *l, const struct link_header *h) {
    bool current = h->session == l->theirs && h->you == l->session;
    if (h->session > l->heard) {
        l->heard = h->session;
        l->named = false;
    }
    if (h->session == l->heard && h->you == l->session && !l->named) {
        l->named = true;
        room(l);
    }
    l->host->greetings |= link_outdated(l);
    if (!current) return false;
    if (h->flags & LINK_BYE_HEARD) l->bye_heard = true;
    if (h->flags & LINK_BYE) {
        l->bye = true;
        l->host->byes |= UINT64_C(1) << l->peer.rank;
    }
    if (h->given > l->sent_given && h->given <= l->sent) { /* news, and no lie */
        l->sent_given = h->given;
        room(l);
    }
    return true;
}

void link_take_up(struct link *l, uint32_t theirs, bool named) {
    l->theirs = theirs;
    if (theirs > l->heard) { /* else it was heard of since, or of a later one */
        l->heard = theirs;
        l->named = named;
    }
    l->host->greetings |= link_outdated(l);
    link_tell(l, 0);
    room(l);
}

static void landed(struct link_in *in) {
    in->state = LINK_WHOLE;
    in->link->host->news = true;
}

static void on_fetched(void *request, ucs_status_t status, size_t length, void *arg) {
    struct link_in *in = arg;
    struct link *l = in->link;
    if (status == UCS_OK && length == in->bytes) landed(in);
    ended(l, request, status, "receiving from");
}

/* A large frame may wait at its sender until we say where to put it. */
static void fetch_into(struct link *l, int i, void *data) {
    struct link_in *in = &l->in[i];
    ucp_request_param_t p = {.op_attr_mask =
                                 UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                             .cb.recv_am = on_fetched,
                             .user_data = in,
                             .memory_type = UCS_MEMORY_TYPE_HOST};
    in->filled = in->bytes;
    ucs_status_ptr_t r = ucp_am_recv_data_nbx(l->host->net.in, data, in_buffer(l, i), in->bytes, &p);
    if (!r) landed(in);
    else if (UCS_PTR_IS_PTR(r)) l->pending++;
    else link_break(l, "receiving from", UCS_PTR_STATUS(r));
}

/* The buffer of frame `number`, a free one if this is its first part; -1 when it cannot be true that it is under way. */
static int place(struct link *l, const struct link_header *h) {
    int empty = -1;
    if (h->number - l->next >= FABRIC_DEPTH || h->total > l->slot_bytes) return -1;
    for (int i = FABRIC_DEPTH - 1; i >= 0; i--) {
        if (l->in[i].state == LINK_EMPTY) empty = i;
        else if (l->in[i].number == h->number) return l->in[i].state == LINK_COMING ? i : -1;
    }
    if (empty < 0 || h->offset) return -1;
    struct link_in *in = &l->in[empty];
    *in = (struct link_in){.link = l, .state = LINK_COMING, .number = h->number, .bytes = h->total};
    return empty;
}

bool link_arrive(struct link *l, const struct link_header *h, void *data, size_t bytes, bool fetch) {
    if (l->broken) return true;
    if (h->offset > h->total || bytes > h->total - h->offset || (fetch && bytes != h->total)) return false;
    int i = place(l, h);
    if (i < 0) return false;
    struct link_in *in = &l->in[i];
    if (h->total != in->bytes || h->offset != in->filled) return false;
    if (fetch) {
        fetch_into(l, i, data);
        return true;
    }
    memcpy(in_buffer(l, i) + in->filled, data, bytes);
    in->filled += bytes;
    if (in->filled == in->bytes) landed(in);
    return true;
}

const void *link_take(struct link *l, size_t *bytes) {
    for (int i = 0; i < FABRIC_DEPTH; i++) {
        struct link_in *in = &l->in[i];
        if (in->state != LINK_WHOLE || in->number != l->next) continue;
        in->state = LINK_TAKEN;
        l->next++;
        l->taken++;
        *bytes = in->bytes;
        return in_buffer(l, i);
    }
    return NULL;
}

bool link_give(struct link *l, const void *frame) {
    size_t i = (size_t)((const unsigned char *)frame - in_buffer(l, 0)) / l->slot_bytes;
    if (i >= FABRIC_DEPTH || frame != in_buffer(l, (int)i) || l->in[i].state != LINK_TAKEN) return false;
    l->in[i].state = LINK_EMPTY;
    l->taken--;
    l->given++;
    if (l->broken) return true;
    l->host->untold |= UINT64_C(1) << l->peer.rank;
    if (l->given - l->told >= TELL_AT) link_tell(l, 0);
    return true;
}
