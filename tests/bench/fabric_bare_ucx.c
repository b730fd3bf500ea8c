/* fabric_bare_ucx.c - the baseline of ucx: one active message to each peer, from one buffer into one buffer, over the devices
 * that the transport uses. Nothing is checked and nobody may die. */
#include <stdlib.h>
#include <string.h>
#include <ucp/api/ucp.h>

#include "base/log.h"
#include "tests/bench/bench_fabric.h"

const bool bare_has_ucx = true;

enum { MESSAGE = 7 };

struct messages {
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_ep_h ep[FABRIC_MAX_RANKS];
    unsigned long turn, came[FABRIC_MAX_RANKS]; /* halves begun; halves that have come from each peer */
};
struct whence { /* header of a message */
    uint32_t rank;
};

static void check(ucs_status_t status, const char *doing) {
    if (status != UCS_OK) die("UCX: %s: %s", doing, ucs_status_string(status));
}

static void on_fetched(void *request, ucs_status_t status, size_t length, void *arg) {
    (void)length;
    check(status, "receiving");
    ++*(unsigned long *)arg;
    ucp_request_free(request);
}

/* A faster peer cannot be two halves ahead: it waits for ours. It may be one ahead, so its rows might come before the last
 * ones were read; then the sum is another, which nobody looks at. */
static ucs_status_t on_message(void *arg, const void *header, size_t header_length, void *data, size_t length,
                               const ucp_am_recv_param_t *param) {
    struct bare *b = arg;
    struct messages *m = b->own;
    struct whence h;
    (void)header_length;
    memcpy(&h, header, sizeof h);
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        memcpy(b->in[h.rank], data, length);
        m->came[h.rank]++;
        return UCS_OK;
    }
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                             .cb.recv_am = on_fetched,
                             .user_data = &m->came[h.rank]};
    ucs_status_ptr_t r = ucp_am_recv_data_nbx(m->worker, data, b->in[h.rank], length, &p);
    if (UCS_PTR_IS_ERR(r)) check(UCS_PTR_STATUS(r), "fetching");
    if (!r) m->came[h.rank]++;
    return UCS_OK;
}

static void progress(struct messages *m, int *idle) {
    *idle = ucp_worker_progress(m->worker) ? 0 : *idle + 1;
    bare_relax(*idle);
}

static void by_messages(struct bare *b, enum half half) {
    const struct load *l = b->load;
    struct messages *m = b->own;
    struct whence h = {(uint32_t)l->rank};
    ucs_status_ptr_t sent[FABRIC_MAX_RANKS] = {0};
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_DATATYPE, .datatype = ucp_dt_make_contig(1)};
    int n = l->shape.ranks, idle = 0;
    m->turn++;
    for (int i = 1; i < n; i++) {
        int to = (l->rank + i) % n;
        sent[to] = ucp_am_send_nbx(m->ep[to], MESSAGE, &h, sizeof h, b->out[to], bare_bytes(l->out[half][to], l), &p);
        if (UCS_PTR_IS_ERR(sent[to])) check(UCS_PTR_STATUS(sent[to]), "sending");
    }
    for (int r = 0; r < n; r++) {
        while (r != l->rank && m->came[r] < m->turn) progress(m, &idle);
        while (sent[r] && ucp_request_check_status(sent[r]) == UCS_INPROGRESS) progress(m, &idle);
        if (sent[r]) ucp_request_free(sent[r]);
    }
}

size_t bare_ucx_open(struct bare *b, void *address) {
    struct messages *m = calloc(1, sizeof *m);
    ucp_config_t *config;
    ucp_params_t cp = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_AM};
    ucp_worker_params_t wp = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE, .thread_mode = UCS_THREAD_MODE_SINGLE};
    ucp_am_handler_param_t hp = {.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                                               UCP_AM_HANDLER_PARAM_FIELD_ARG,
                                 .id = MESSAGE,
                                 .cb = on_message,
                                 .arg = b};
    ucp_address_t *own;
    size_t bytes;
    if (!m) die("out of memory");
    b->own = m;
    check(ucp_config_read(NULL, NULL, &config), "reading its settings");
    check(ucp_config_modify(config, "TLS", "^sm,self"), "TLS");
    check(ucp_init(&cp, config, &m->context), "opening");
    ucp_config_release(config);
    check(ucp_worker_create(m->context, &wp, &m->worker), "opening a worker");
    check(ucp_worker_set_am_recv_handler(m->worker, &hp), "taking messages");
    check(ucp_worker_get_address(m->worker, &own, &bytes), "naming the address");
    if (bytes > BARE_UCX_ADDRESS) die("UCX: an address of %zu bytes", bytes);
    memcpy(address, own, bytes);
    ucp_worker_release_address(m->worker, own);
    return bytes;
}

void bare_by_messages(struct bare *b, unsigned char (*addresses)[BARE_UCX_ADDRESS]) {
    struct messages *m = b->own;
    for (int r = 0; r < b->load->shape.ranks; r++) {
        ucp_ep_params_t p = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
                             .address = (const ucp_address_t *)addresses[r],
                             .err_mode = UCP_ERR_HANDLING_MODE_PEER};
        if (r != b->load->rank) check(ucp_ep_create(m->worker, &p, &m->ep[r]), "connecting");
    }
    b->move = by_messages;
}

void bare_ucx_close(struct bare *b) { /* the process ends: what peers still send need not be answered */
    struct messages *m = b->own;
    ucp_worker_destroy(m->worker);
    ucp_cleanup(m->context);
    free(m);
    b->own = NULL;
}
