/* link_ucx.c - see link_ucx.h. */
#include "fabric/link_ucx.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucp/api/ucp.h>

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

int link_connect(struct link *l, struct why *why) {
    ucp_ep_params_t p = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                       UCP_EP_PARAM_FIELD_ERR_HANDLER,
                         .address = l->peer.address,
                         .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                         .err_handler = {.cb = on_error, .arg = l}};
    ucs_status_t status = ucp_ep_create(l->host->worker, &p, &l->ep);
    if (status == UCS_OK) {
        link_tell(l, 0);
        return 0;
    }
    l->ep = NULL;
    return fail(why, ERR_IO,
                "fabric ucx: rank %d cannot reach rank %d: %s; do both have a network device that the other can reach "
                "(--net-devices)?",
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

bool link_idle(const struct link *l) { return !l->ep && !l->pending && !l->taken; }

void link_free(struct link *l) {
    munmap(l->map, l->map_bytes);
    free(l->peer.address);
    free(l);
}

/* ---- sending ---- */

static void header_fill(struct link *l, struct link_header *h, uint64_t number, unsigned flags) {
    *h = (struct link_header){.nonce = l->peer.nonce,
                              .incarnation = l->host->incarnation,
                              .rank = (uint16_t)l->host->rank,
                              .flags = (uint16_t)flags,
                              .session = l->session,
                              .you = l->theirs,
                              .number = number,
                              .given = l->given};
    l->told = l->given;
    l->host->untold &= ~(UINT64_C(1) << l->peer.rank);
    l->host->unflushed = true;
}

/* Whether the request is still under way; its callback comes later. */
static bool started(struct link *l, ucs_status_ptr_t r, const char *doing) {
    if (UCS_PTR_IS_PTR(r)) {
        l->pending++;
        return true;
    }
    if (UCS_PTR_IS_ERR(r)) link_break(l, doing, UCS_PTR_STATUS(r));
    return false;
}

static void room(struct link *l) {
    l->host->news |= l->starved;
    l->starved = false;
}

static void ended(struct link *l, void *request, ucs_status_t status, const char *doing) {
    l->pending--;
    if (status != UCS_OK) link_break(l, doing, status);
    ucp_request_free(request);
}

static void on_sent(void *request, ucs_status_t status, void *arg) {
    struct link_out *o = arg;
    struct link *l = o->link;
    l->busy &= ~(1u << (o - l->out));
    ended(l, request, status, "sending to");
    room(l);
}

static void on_told(void *request, ucs_status_t status, void *arg) {
    struct link *l = arg;
    l->noticing = false;
    ended(l, request, status, "sending to");
}

static ucp_request_param_t send_param(ucp_send_nbx_callback_t done, void *arg) {
    return (ucp_request_param_t){.op_attr_mask =
                                     UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                 .cb.send = done,
                                 .user_data = arg,
                                 .memory_type = UCS_MEMORY_TYPE_HOST};
}

void link_tell(struct link *l, unsigned flags) {
    if (l->broken) return;
    l->host->untold |= UINT64_C(1) << l->peer.rank;
    if (l->noticing) return; /* by a later one */
    header_fill(l, &l->notice, 0, flags);
    ucp_request_param_t p = send_param(on_told, l);
    ucs_status_ptr_t r = ucp_am_send_nbx(l->ep, LINK_NOTICE, &l->notice, sizeof l->notice, NULL, 0, &p);
    l->noticing = started(l, r, "sending to");
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

void link_commit(struct link *l, size_t bytes) {
    int i = l->reserved;
    struct link_out *o = &l->out[i];
    l->reserved = -1;
    if (l->broken) return; /* broke since the reservation */
    header_fill(l, &o->header, l->sent++, 0);
    ucp_request_param_t p = send_param(on_sent, o);
    ucs_status_ptr_t r = ucp_am_send_nbx(l->ep, LINK_FRAME, &o->header, sizeof o->header, out_buffer(l, i), bytes, &p);
    if (started(l, r, "sending to")) l->busy |= 1u << i;
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
    if (h->flags & LINK_BYE) l->bye = true;
    if (h->given > l->sent_given && h->given <= l->sent) { /* news, and no lie */
        l->sent_given = h->given;
        room(l);
    }
    return true;
}

void link_take_up(struct link *l, uint32_t theirs, bool named) {
    l->heard = l->theirs = theirs;
    l->named = named;
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

/* A large frame waits at its sender until we say where to put it. */
static void fetch_into(struct link *l, int i, void *data) {
    struct link_in *in = &l->in[i];
    ucp_request_param_t p = {.op_attr_mask =
                                 UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                             .cb.recv_am = on_fetched,
                             .user_data = in,
                             .memory_type = UCS_MEMORY_TYPE_HOST};
    in->state = LINK_COMING;
    ucs_status_ptr_t r = ucp_am_recv_data_nbx(l->host->worker, data, in_buffer(l, i), in->bytes, &p);
    if (!r) landed(in);
    else started(l, r, "receiving from");
}

/* Where frame `number` goes; -1 when it cannot be true that it is under way. */
static int place(const struct link *l, uint64_t number) {
    int found = -1;
    if (number - l->next >= FABRIC_DEPTH) return -1;
    for (int i = FABRIC_DEPTH - 1; i >= 0; i--) {
        if (l->in[i].state == LINK_EMPTY) found = i;
        else if (l->in[i].number == number) return -1;
    }
    return found;
}

bool link_arrive(struct link *l, const struct link_header *h, void *data, size_t bytes, bool fetch) {
    if (l->broken) return true;
    int i = place(l, h->number);
    if (i < 0 || bytes > l->slot_bytes) return false;
    l->in[i].number = h->number;
    l->in[i].bytes = bytes;
    if (fetch) {
        fetch_into(l, i, data);
    } else {
        memcpy(in_buffer(l, i), data, bytes);
        landed(&l->in[i]);
    }
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
