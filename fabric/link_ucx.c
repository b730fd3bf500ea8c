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

static unsigned bit(int i) { return 1u << i; }
static unsigned char *out_buffer(const struct link *l, int i) { return l->map + (size_t)i * l->slot_bytes; }
static unsigned char *in_buffer(const struct link *l, int i) { return l->map + (size_t)(FABRIC_DEPTH + i) * l->slot_bytes; }
static struct link_in *in_at(struct link *l, uint64_t number) { return &l->in[number % FABRIC_DEPTH]; }

static int lowest_free(unsigned busy) {
    unsigned free_ones = ~busy & (bit(FABRIC_DEPTH) - 1);
    return free_ones ? __builtin_ctz(free_ones) : -1;
}

void link_break(struct link *l, const char *doing, int ucs_status) {
    if (!l->broken && !l->bye && ucs_status != UCS_ERR_CANCELED)
        log_error("fabric ucx: %s rank %d: %s; it counts as silent now", doing, l->peer,
                  ucs_status_string((ucs_status_t)ucs_status));
    l->broken = l->host->failing = true;
}

/* ---- life ---- */

int link_new(struct link_host *host, int peer, uint32_t incarnation, uint64_t nonce, size_t slot_bytes, struct link **out,
             struct why *why) {
    struct link *l = calloc(1, sizeof *l);
    if (!l) return fail(why, ERR_NOMEM, "fabric ucx: out of memory for a link");
    *l = (struct link){.host = host, .peer = peer, .incarnation = incarnation, .nonce = nonce, .slot_bytes = slot_bytes};
    l->reserved = -1;
    for (int i = 0; i < FABRIC_DEPTH; i++) l->in[i].link = l->out[i].link = l;
    l->map_bytes = BUFFERS * slot_bytes;
    void *map = mmap(NULL, l->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        free(l);
        return fail(why, ERR_NOMEM, "fabric ucx: no memory for %d buffers of %zu bytes", (int)BUFFERS, slot_bytes);
    }
    l->map = map;
    *out = l;
    return 0;
}

static void on_error(void *arg, ucp_ep_h ep, ucs_status_t status) {
    (void)ep;
    link_break(arg, "connection with", status);
}

int link_connect(struct link *l, const void *worker_address, struct why *why) {
    ucp_ep_params_t p = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                                       UCP_EP_PARAM_FIELD_ERR_HANDLER,
                         .address = worker_address,
                         .err_mode = UCP_ERR_HANDLING_MODE_PEER,
                         .err_handler = {.cb = on_error, .arg = l}};
    ucs_status_t status = ucp_ep_create(l->host->worker, &p, &l->ep);
    if (status == UCS_OK) return 0;
    l->ep = NULL;
    return fail(why, ERR_IO,
                "fabric ucx: rank %d cannot reach rank %d: %s; do both have a network device that the other can reach "
                "(--net-devices)?",
                l->host->rank, l->peer, ucs_status_string(status));
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
    free(l);
}

/* ---- sending ---- */

static void header_fill(struct link *l, struct link_header *h, uint64_t number, unsigned flags) {
    *h = (struct link_header){.to = l->nonce,
                              .incarnation = l->host->incarnation,
                              .rank = (uint16_t)l->host->rank,
                              .flags = (uint16_t)flags,
                              .number = number,
                              .freed = l->freed};
    l->told = l->freed;
    l->host->untold &= ~(UINT64_C(1) << l->peer);
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
    l->out_busy &= ~bit((int)(o - l->out));
    ended(l, request, status, "sending to");
    room(l);
}

static void on_told(void *request, ucs_status_t status, void *arg) {
    struct link *l = arg;
    l->notice_busy = false;
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
    if (l->broken || l->notice_busy) return;
    header_fill(l, &l->notice, 0, flags);
    ucp_request_param_t p = send_param(on_told, l);
    l->notice_busy = started(l, ucp_am_send_nbx(l->ep, LINK_NOTICE, &l->notice, sizeof l->notice, NULL, 0, &p), "sending to");
}

void *link_reserve(struct link *l, size_t bytes) {
    int i = lowest_free(l->out_busy);
    if (l->broken || !l->greeted || i < 0 || l->sent - l->sent_freed >= FABRIC_DEPTH) {
        l->starved = true;
        return NULL;
    }
    l->reserved = i;
    l->reserved_bytes = bytes;
    return out_buffer(l, i);
}

void link_commit(struct link *l, size_t bytes) {
    int i = l->reserved;
    struct link_out *o = &l->out[i];
    l->reserved = -1;
    if (l->broken) return; /* broke since the reservation */
    header_fill(l, &o->header, l->sent++, 0);
    ucp_request_param_t p = send_param(on_sent, o);
    ucs_status_ptr_t r = ucp_am_send_nbx(l->ep, LINK_FRAME, &o->header, sizeof o->header, out_buffer(l, i), bytes, &p);
    if (started(l, r, "sending to")) l->out_busy |= bit(i);
}

/* ---- receiving ---- */

void link_hear(struct link *l, const struct link_header *h) {
    if (h->flags & LINK_BYE) l->bye = true;
    if (!l->greeted) {
        l->greeted = true;
        room(l);
    }
    if (h->freed <= l->sent_freed || h->freed > l->sent) return; /* nothing new, or a lie */
    l->sent_freed = h->freed;
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
static void fetch_into(struct link *l, struct link_in *in, void *data) {
    ucp_request_param_t p = {.op_attr_mask =
                                 UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                             .cb.recv_am = on_fetched,
                             .user_data = in,
                             .memory_type = UCS_MEMORY_TYPE_HOST};
    in->state = LINK_COMING;
    ucs_status_ptr_t r = ucp_am_recv_data_nbx(l->host->worker, data, in_buffer(l, in->buffer), in->bytes, &p);
    if (!r) landed(in);
    else started(l, r, "receiving from");
}

bool link_arrive(struct link *l, const struct link_header *h, void *data, size_t bytes, bool fetch) {
    struct link_in *in = in_at(l, h->number);
    int buffer = lowest_free(l->in_busy);
    if (l->broken) return true;
    if (h->number - l->freed >= FABRIC_DEPTH || bytes > l->slot_bytes || in->state != LINK_EMPTY || buffer < 0) return false;
    l->in_busy |= bit(buffer);
    in->buffer = buffer;
    in->bytes = bytes;
    if (fetch) {
        fetch_into(l, in, data);
    } else {
        memcpy(in_buffer(l, buffer), data, bytes);
        landed(in);
    }
    return true;
}

const void *link_take(struct link *l, size_t *bytes) {
    struct link_in *in = in_at(l, l->next_take);
    if (in->state != LINK_WHOLE) return NULL;
    in->state = LINK_TAKEN;
    l->next_take++;
    l->taken++;
    *bytes = in->bytes;
    return in_buffer(l, in->buffer);
}

bool link_give(struct link *l, const void *frame) {
    struct link_in *in = NULL;
    for (int i = 0; i < FABRIC_DEPTH && !in; i++)
        if (l->in[i].state == LINK_TAKEN && in_buffer(l, l->in[i].buffer) == frame) in = &l->in[i];
    if (!in) return false;
    in->state = LINK_GIVEN;
    l->in_busy &= ~bit(in->buffer);
    l->taken--;
    uint64_t before = l->freed;
    for (; in_at(l, l->freed)->state == LINK_GIVEN; l->freed++) in_at(l, l->freed)->state = LINK_EMPTY;
    if (l->freed == before || l->broken) return true;
    l->host->untold |= UINT64_C(1) << l->peer;
    if (l->freed - l->told >= TELL_AT) link_tell(l, 0);
    return true;
}
